//! The effective configuration: the running values, with every default filled in, under the names
//! that the files use.
//!
//! Values look as they may be written ("10s", "64KiB", "5/s"). Files are named and never shown: a
//! key appears as its path, a list as its length.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::ServerName;
use serde_json::{Map, Value, json};

pub use super::document::unit::written_duration as duration;
use super::document::unit::{
    written_duration_or_off as duration_or_off, written_pace, written_rate, written_size as size,
    written_size_or_off as size_or_off,
};
use super::{
    AdminSettings, AdminSocket, BackendTlsPage, ReloadSettings, RouteDefaults, RoutePage, Settings,
    ShutdownSettings, Watch,
};
use crate::policy::limit::{Limits, Rate, Share, TunnelLimits};
use crate::policy::list::List;
use crate::policy::{Allow, Policy};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, ListenerTimeouts, Speaks};
use crate::snapshot::route::{Paths, PlainHttp, RouteTimeouts};

/// Most networks of a policy's own rules that are written out.
const MOST_INLINE: usize = 100;

/// The effective `sidegate.toml`, with every default filled in.
pub fn settings(settings: &Settings) -> Value {
    let allow: Vec<_> =
        settings.metrics.allow.iter().map(|(network, ())| network.to_string()).collect();
    let listen = settings.metrics.listen.as_ref().map_or("off".into(), ToString::to_string);
    let mut timeouts = listener_timeouts(settings.listener_timeouts);
    timeouts.extend(route_timeouts(settings.route_timeouts));
    json!({
        "schema": 1,
        "metrics": { "listen": listen, "allow": allow, "hosts": settings.metrics.hosts },
        "admin": admin(&settings.admin),
        "reload": reload(&settings.reload),
        "shutdown": shutdown(&settings.shutdown),
        "policies": { "lists_from": settings.lists_from },
        "timeouts": timeouts,
        "process": { "threads": auto(settings.threads.map(|threads| threads.get())) },
        "listener": settings.listeners.iter().map(|one| listener(one)).collect::<Vec<_>>(),
        "certificate": settings.certificates.iter().map(|one| certificate(one)).collect::<Vec<_>>(),
        "defaults": defaults(&settings.defaults),
        "route": settings.routes.iter().map(route).collect::<Vec<_>>(),
    })
}

/// The effective `policies/NAME.toml`. `now` decides which entries lapse within 30 days.
pub fn policy(policy: &Policy, now: Timestamp) -> Value {
    let named = policy.lists().into_iter().filter(|list| !is_inline(list));
    let lists: Map<_, _> = named.map(|one| (one.name.to_string(), list(one, now))).collect();
    let allow = match &policy.allow {
        Allow::Any => vec!["any".to_owned()],
        Allow::Lists(lists) => rule(lists),
    };
    json!({
        "schema": 1,
        "file": &*policy.file,
        "owner": policy.owner,
        "lists": lists,
        "client": { "allow": allow, "deny": rule(&policy.deny), "origins": origins(policy), "subprotocols": subprotocols(policy) },
        "limits": limits(&policy.limits),
    })
}

fn admin(admin: &AdminSettings) -> Value {
    let socket = match &admin.socket {
        AdminSocket::Auto => "auto".into(),
        AdminSocket::Path(path) => path.display().to_string(),
        AdminSocket::Systemd(name) => format!("systemd:{name}"),
        AdminSocket::Off => "off".into(),
    };
    json!({ "socket": socket, "mode": format!("{:04o}", admin.mode), "group": admin.group.as_deref().unwrap_or_default() })
}

fn reload(reload: &ReloadSettings) -> Value {
    let watch = match reload.watch {
        Watch::Auto => "auto",
        Watch::Poll => "poll",
        Watch::Off => "off",
    };
    let (poll, spread) = (duration(reload.poll), duration(reload.revoke_spread));
    json!({ "watch": watch, "poll": poll, "revoke_spread": spread, "max_revoked": reload.max_revoked.to_string() })
}

fn shutdown(shutdown: &ShutdownSettings) -> Value {
    json!({
        "delay": duration(shutdown.delay),
        "spread": duration(shutdown.spread),
        "deadline": duration(shutdown.deadline),
        "code": shutdown.code,
    })
}

fn listener_timeouts(timeouts: ListenerTimeouts) -> Map<String, Value> {
    let ListenerTimeouts { tls, head, keep_alive } = timeouts;
    [("tls", tls), ("head", head), ("keep_alive", keep_alive)]
        .map(|(name, time)| (name.into(), duration(time).into()))
        .into_iter()
        .collect()
}

fn route_timeouts(timeouts: RouteTimeouts) -> Map<String, Value> {
    let RouteTimeouts { body_stall, body_pace, dial, response, write_stall, grace } = timeouts;
    let all = [
        ("body_stall", duration_or_off(body_stall)),
        ("body_pace", written_pace(body_pace)),
        ("dial", duration(dial)),
        ("response", duration_or_off(response)),
        ("write_stall", duration(write_stall)),
        ("grace", duration(grace)),
    ];
    all.map(|(name, written)| (name.into(), written.into())).into_iter().collect()
}

fn listener(listener: &Listener) -> Value {
    let mut keys = json!({
        "name": &*listener.name,
        "listen": listener.address.to_string(),
        "tls": false,
        "http2": false,
        "max_head": size(listener.max_head as u64),
        "max_fields": listener.max_fields,
        "max_connections": auto(listener.max_connections),
        "pending_per_client": listener.pending_per_client,
    });
    match listener.speaks {
        Speaks::Tls(rules) => {
            keys["tls"] = true.into();
            keys["tls_min"] = if rules.only_13 { "1.3" } else { "1.2" }.into();
            keys["strict_sni"] = rules.strict_sni.into();
            keys["handshakes_per_client"] =
                listener.handshakes_per_client.map_or_else(|| "off".into(), |rate| counted(&rate));
        }
        Speaks::Plain => {}
        Speaks::Redirect { .. } => keys["redirect"] = "https".into(),
    }
    keys
}

fn certificate(certificate: &Certificate) -> Value {
    json!({ "chain": &*certificate.label, "key": &*certificate.key_file })
}

/// The values that routes have in common.
fn defaults(defaults: &RouteDefaults) -> Value {
    let RouteDefaults { policy, http, max_body, timeouts } = defaults;
    let http = match http {
        PlainHttp::Refuse => "refuse",
        PlainHttp::Forward => "forward",
    };
    let mut keys = json!({
        "http": http,
        "forward_as": "x-forwarded",
        "refuse": "answer",
        "max_body": size_or_off(*max_body),
        "timeouts": route_timeouts(*timeouts),
    });
    if let Some(policy) = policy {
        keys["policy"] = json!(&**policy);
    }
    keys
}

fn route(route: &RoutePage) -> Value {
    let paths = match route.paths {
        Paths::Canonical => "canonical",
        Paths::AsIs => "as-is",
    };
    let (policy, timeouts) = (Some(Arc::clone(&route.policy)), route.timeouts);
    let mut keys =
        defaults(&RouteDefaults { policy, http: route.http, max_body: route.max_body, timeouts });
    keys["name"] = json!(&*route.name);
    keys["host"] = route.host.to_string().into();
    keys["path"] = route.path.to_string().into();
    keys["backend"] = route.backends.iter().map(ToString::to_string).collect();
    keys["strip_prefix"] = route.strip_prefix.into();
    keys["paths"] = paths.into();
    keys["max_fields"] = route.max_fields.into();
    if let Some(BackendTlsPage { ca, name, identity, roots: _ }) = &route.backend_tls {
        let mut tls = identity.as_ref().map_or(json!({}), |identity| certificate(identity));
        tls["ca"] = json!(ca.as_deref());
        tls["name"] = json!(name.as_ref().map(ServerName::to_str));
        keys["backend_tls"] = tls;
    }
    keys
}

/// The rules of a policy without networks: lists appear by name.
pub fn rules(policy: &Policy) -> Value {
    let names = |lists: &[Arc<List>]| -> Vec<_> {
        lists.iter().filter(|list| !is_inline(list)).map(|list| list.name.to_string()).collect()
    };
    let allow = match &policy.allow {
        Allow::Any => vec!["any".to_owned()],
        Allow::Lists(lists) => names(lists),
    };
    let mut limits = limits(&policy.limits);
    for (keys, exception) in
        limits["for"].as_array_mut().into_iter().flatten().zip(&policy.limits.exceptions)
    {
        keys["client"] = json!(names(&exception.clients));
    }
    json!({
        "owner": policy.owner,
        "client": {
            "allow": allow,
            "deny": names(&policy.deny),
            "origins": origins(policy),
            "subprotocols": subprotocols(policy),
        },
        "limits": limits,
    })
}

fn origins(policy: &Policy) -> Option<Vec<String>> {
    policy.origins.as_ref().map(|origins| origins.iter().map(ToString::to_string).collect())
}

fn subprotocols(policy: &Policy) -> Option<Vec<&str>> {
    policy.subprotocols.as_ref().map(|rule| rule.iter().collect())
}

/// The names of the lists in a rule, and the networks written in the rule itself.
fn rule(lists: &[Arc<List>]) -> Vec<String> {
    let mut items = Vec::new();
    for list in lists {
        if !is_inline(list) {
            items.push(list.name.to_string());
            continue;
        }
        let written = list.entries().take(MOST_INLINE).map(|(entry, _)| {
            let sign = if entry.admits { "" } else { "!" };
            let expires =
                entry.expires().map(|expires| format!(" expires={expires}")).unwrap_or_default();
            format!("{sign}{}{expires}", entry.network)
        });
        items.extend(written);
        if list.len() > MOST_INLINE {
            items.push(format!("… and {} more", list.len() - MOST_INLINE));
        }
    }
    items
}

fn list(list: &List, now: Timestamp) -> Value {
    json!({
        "file": &*list.file,
        "entries": list.len(),
        "lapsing_30d": list.lapsing(now, now + jiff::SignedDuration::from_hours(30 * 24)),
    })
}

/// Whether the list holds networks written in the rule itself: no list of a file can have such a
/// name.
fn is_inline(list: &List) -> bool {
    list.name.starts_with('(')
}

fn limits(limits: &Limits) -> Value {
    let Limits { share: common, total, streams_total, exceptions } = limits;
    let mut keys = share(common);
    keys["connections"]["total"] = json!(total);
    keys["streams"]["total"] = json!(streams_total);
    let exceptions: Vec<_> = exceptions
        .iter()
        .map(|exception| {
            let mut keys = share(&exception.share);
            keys["client"] = json!(rule(&exception.clients));
            keys
        })
        .collect();
    keys["for"] = exceptions.into();
    keys
}

fn share(share: &Share) -> Value {
    let Share { upgrades, requests, per_client, streams, tunnel } = share;
    let TunnelLimits { message_max, message_rate, frames, idle, lifetime, ping, pong } = tunnel;
    json!({
        "upgrades": upgrades.as_ref().map(counted),
        "requests": requests.as_ref().map(counted),
        "connections": { "per_client": per_client },
        "streams": { "per_client": streams },
        "message": { "max": message_max.map(size), "rate": message_rate.map(|rate| written_rate(rate.tokens, rate.per)) },
        "frames": frames.as_ref().map_or("off".into(), counted),
        "idle": idle.map(duration),
        "lifetime": lifetime.map(duration),
        "ping": ping.map_or("off".into(), duration),
        "pong": duration(*pong),
    })
}

fn counted(rate: &Rate) -> Value {
    json!({ "rate": written_rate(rate.tokens, rate.per), "burst": rate.burst })
}

/// A number, or `"auto"`.
fn auto(number: Option<usize>) -> Value {
    number.map_or_else(|| "auto".into(), Value::from)
}
