//! The effective configuration: the running values, with every default filled in, under the names
//! that the files use.
//!
//! Values look as they may be written ("10s", "64KiB", "5/s"). Files are named and never shown: a
//! key appears as its path, a list as its length.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::ServerName;
use serde_json::{Map, Value, json};

use super::client_auth::ExpiredCrl;
use super::crowdsec_settings::{CrowdsecSettings, KeySource};
pub use super::document::unit::format_duration as duration;
use super::keys::any_file::{NAME, SCHEMA};
use super::keys::policy as of_policy;
use super::keys::policy::certificate as of_client;
use super::keys::policy::{client, limits, message};
use super::keys::sidegate as keys;
use super::keys::sidegate::{
    admin, backend_tls, certificate, client_certificates, crowdsec, forwarded, listener, metrics,
    policies, process, proxy_protocol, reload, route, shutdown, timeouts, tracing,
};
use super::{
    AdminSettings, BackendTlsSettings, MetricsSettings, ReloadSettings, RouteDefaults,
    RouteSettings, Settings, ShutdownSettings, TraceSettings,
};
use crate::policy::certificate::{CertificateRule, IdentityPattern};
use crate::policy::limit::{ClientLimits, ExceptionScope, LimitUnit, Limits, Rate, TunnelLimits};
use crate::policy::list::List;
use crate::policy::{AllowRule, Policy};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{
    ClientCertificates, ListenAddress, Listener, ListenerTimeouts, Protocol,
};
use crate::snapshot::route::RouteTimeouts;

/// Most networks of a policy's own rules that are written out.
const MAX_INLINE_NETWORKS: usize = 100;

/// The effective `sidegate.toml`, with every default filled in.
pub fn settings(settings: &Settings) -> Value {
    let all = |tables: Vec<Value>| Value::from(tables);
    let crowdsec = settings.crowdsec.as_deref();
    let crowdsec = crowdsec.map(|settings| keys::CROWDSEC.shown_as(crowdsec_table(settings)));
    let tables = [
        SCHEMA.shown_as(1),
        keys::METRICS.shown_as(metrics(&settings.metrics)),
        keys::ADMIN.shown_as(admin(&settings.admin)),
        keys::RELOAD.shown_as(reload(&settings.reload)),
        keys::SHUTDOWN.shown_as(shutdown(&settings.shutdown)),
        keys::POLICIES.shown_as(object([policies::LISTS_FROM.shown(&settings.lists_from)])),
        keys::TIMEOUTS.shown_as(timeouts(settings)),
        keys::PROCESS.shown_as(object([
            process::THREADS.shown(&settings.process.threads.map(|threads| threads.get())),
            process::STATE.shown(&settings.process.state),
        ])),
        keys::TRACING.shown_as(traces(&settings.traces)),
        keys::LISTENER.shown_as(all(settings.listeners.iter().map(|one| listener(one)).collect())),
        keys::CERTIFICATE.shown_as(all(settings
            .certificates
            .iter()
            .map(|one| certificate(one))
            .collect())),
        keys::DEFAULTS.shown_as(object(defaults(&settings.defaults))),
        keys::ROUTE.shown_as(all(settings.routes.iter().map(route).collect())),
    ];
    object(tables.into_iter().chain(crowdsec))
}

fn object(keys: impl IntoIterator<Item = (String, Value)>) -> Value {
    keys.into_iter().collect::<Map<_, _>>().into()
}

/// The effective `policies/NAME.toml`. `now` decides which entries lapse within 30 days.
pub fn policy(policy: &Policy, now: Timestamp) -> Value {
    let named = policy.lists().into_iter().filter(|list| !is_inline(list));
    let lists: Map<_, _> = named.map(|one| (one.name.to_string(), list(one, now))).collect();
    let allow = match &policy.allow {
        AllowRule::Any => vec!["any".to_owned()],
        AllowRule::Lists(lists) => rule(lists),
    };
    object([
        SCHEMA.shown_as(1),
        ("file".into(), json!(&*policy.file)),
        of_policy::OWNER.shown_as(policy.owner.as_deref()),
        of_policy::LISTS.shown_as(lists),
        of_policy::CLIENT.shown_as(client(policy, allow, rule(&policy.deny))),
        of_policy::LIMITS.shown_as(limits(&policy.limits)),
    ])
}

fn metrics(metrics: &MetricsSettings) -> Value {
    let allow: Vec<_> = metrics.allow.iter().map(|(network, ())| network).collect();
    object([
        metrics::LISTEN.shown(&metrics.listen),
        metrics::ALLOW.shown(&allow),
        metrics::HOSTS.shown(&metrics.hosts),
    ])
}

fn traces(settings: &TraceSettings) -> Value {
    let ca = settings.collector_ca.as_deref().map(|ca| tracing::OTLP_CA.shown_as(ca));
    let others = [
        tracing::TRACEPARENT.shown(&settings.rules.mode),
        tracing::SAMPLED.shown(&settings.rules.sampled_percent),
        tracing::OTLP.shown(&settings.collector),
    ];
    object(others.into_iter().chain(ca))
}

fn crowdsec_table(settings: &CrowdsecSettings) -> Value {
    // The name of the key's place, never the key.
    let key = match &settings.key_source {
        KeySource::Credential(name) => crowdsec::CREDENTIAL.shown_as(&**name),
        KeySource::File(name) => crowdsec::FILE.shown_as(&**name),
    };
    let ca = settings.ca.as_deref().map(|ca| crowdsec::CA.shown_as(ca));
    let others = [
        crowdsec::URL.shown_as(&*settings.url),
        crowdsec::KEY.shown_as(object([key])),
        crowdsec::INTERVAL.shown(&settings.interval),
        crowdsec::MAX_AGE.shown(&settings.max_age),
        crowdsec::WIDEST_V4.shown(&settings.widest_v4),
        crowdsec::WIDEST_V6.shown(&settings.widest_v6),
        crowdsec::TOTAL_V4.shown(&settings.total_v4),
        crowdsec::TOTAL_V6.shown(&settings.total_v6),
        crowdsec::MAX_REVOKED.shown(&settings.max_revoked),
    ];
    object(others.into_iter().chain(ca))
}

fn admin(admin: &AdminSettings) -> Value {
    object([
        admin::SOCKET.shown(&admin.socket),
        admin::MODE.shown(&admin.mode),
        admin::GROUP.shown(&admin.group),
        admin::RECENT_DECISIONS.shown(&u32::try_from(admin.recent.count).unwrap_or(u32::MAX)),
        admin::RECENT_BYTES.shown(&(admin.recent.bytes as u64)),
        admin::PAGE_LISTEN.shown(&admin.page.listen),
        admin::PAGE_MODE.shown(&admin.page.mode),
        admin::PAGE_GROUP.shown(&admin.page.group),
        admin::PAGE.shown(&admin.page.addresses),
    ])
}

fn reload(reload: &ReloadSettings) -> Value {
    object([
        reload::WATCH.shown(&reload.watch),
        reload::POLL_INTERVAL.shown(&reload.poll),
        reload::REVOKE_SPREAD.shown(&reload.revoke_spread),
        reload::MAX_REVOKED.shown(&reload.max_revoked),
        reload::MAX_WIDENED.shown(&reload.max_widened),
    ])
}

fn shutdown(shutdown: &ShutdownSettings) -> Value {
    object([
        shutdown::DELAY.shown(&shutdown.delay),
        shutdown::SPREAD.shown(&shutdown.spread),
        shutdown::DEADLINE.shown(&shutdown.deadline),
        shutdown::DEADLINE_UPGRADE.shown(&shutdown.deadline_upgrade),
        shutdown::CODE.shown(&shutdown.code),
    ])
}

fn timeouts(settings: &Settings) -> Value {
    let ListenerTimeouts { proxy_header, tls, head, keep_alive } = settings.listener_timeouts;
    let listener = [
        timeouts::PROXY_HEADER.shown(&proxy_header),
        timeouts::TLS.shown(&tls),
        timeouts::HEAD.shown(&head),
        timeouts::KEEP_ALIVE.shown(&keep_alive),
    ];
    object(listener.into_iter().chain(route_timeouts(settings.route_timeouts)))
}

fn route_timeouts(timeouts: RouteTimeouts) -> [(String, Value); 6] {
    let RouteTimeouts { body_stall, body_pace, dial, response, write_stall, grace } = timeouts;
    [
        timeouts::BODY_STALL.shown(&body_stall),
        timeouts::BODY_PACE_FORM.shown(&body_pace),
        timeouts::DIAL.shown(&dial),
        timeouts::RESPONSE.shown(&response),
        timeouts::WRITE_STALL.shown(&write_stall),
        timeouts::GRACE.shown(&grace),
    ]
}

fn listener(listener: &Listener) -> Value {
    let keys = [
        NAME.shown_as(&*listener.name),
        listener::LISTEN.shown_as(listener.address.to_string()),
        listener::TLS.shown(&matches!(listener.protocol, Protocol::Tls(_))),
        listener::HTTP2.shown(&false),
        listener::MAX_HEAD.shown(&(listener.max_head as u64)),
        listener::MAX_FIELDS.shown(&(listener.max_fields as u32)),
        listener::MAX_CONNECTIONS.shown(&listener.max_connections),
        listener::PENDING_PER_CLIENT.shown(&(listener.pending_per_client as u32)),
    ];
    let more = match listener.protocol {
        Protocol::Tls(rules) => vec![
            listener::TLS_MIN.shown(&rules.only_13),
            listener::STRICT_SNI.shown(&rules.strict_sni),
            listener::HANDSHAKES_PER_CLIENT.shown(&listener.handshakes_per_client),
        ],
        Protocol::Plain => Vec::new(),
        Protocol::Redirect(_) => vec![listener::REDIRECT.shown(&())],
    };
    let public_port = listener.public_port.map(|port| listener::PUBLIC_PORT.shown(&port));
    let proxy_protocol = listener.proxy_protocol.as_ref().map(|peers| {
        listener::PROXY_PROTOCOL
            .shown_as(object([proxy_protocol::FROM.shown(&peers.iter().collect())]))
    });
    let forwarded = listener.forwarded.as_ref().map(|rules| {
        listener::FORWARDED.shown_as(object([
            forwarded::HEADER.shown(&rules.header),
            forwarded::FROM.shown(&rules.from.iter().collect()),
        ]))
    });
    let keys = keys.into_iter().chain(access(&listener.address)).chain(more);
    let certificates = listener.client_certificates.as_deref().map(|certificates| {
        listener::CLIENT_CERTIFICATES.shown_as(client_certificates(certificates))
    });
    let facts = [public_port, proxy_protocol, forwarded, certificates];
    object(keys.chain(facts.into_iter().flatten()))
}

/// Who may connect to the file of a Unix socket.
fn access(address: &ListenAddress) -> Vec<(String, Value)> {
    let ListenAddress::Unix(unix) = address else { return Vec::new() };
    let group = unix.group.as_ref().map(|group| group.name.to_string());
    vec![listener::MODE.shown(&unix.mode), listener::GROUP.shown(&group)]
}

fn client_certificates(certificates: &ClientCertificates) -> Value {
    let ClientCertificates { options, ca, crl, revoked_serials, .. } = certificates;
    let on_expired =
        if options.enforces_crl_expiry { ExpiredCrl::Reject } else { ExpiredCrl::Warn };
    object([
        client_certificates::CA.shown_as(&**ca),
        client_certificates::MODE.shown(&options.mode),
        client_certificates::CRL.shown_as(crl.iter().map(|file| &**file).collect::<Vec<_>>()),
        client_certificates::ON_EXPIRED.shown(&on_expired),
        client_certificates::REVOKED_SERIALS.shown_as(revoked_serials.as_deref()),
    ])
}

fn certificate(certificate: &Certificate) -> Value {
    object([
        certificate::CHAIN.shown_as(&*certificate.label),
        certificate::KEY.shown_as(&*certificate.key_file),
    ])
}

/// The values that routes have in common.
fn defaults(defaults: &RouteDefaults) -> Vec<(String, Value)> {
    let RouteDefaults { policy, http, refuse, max_body, timeouts, resolve } = defaults;
    let mut keys = vec![
        route::HTTP.shown(http),
        route::FORWARD_AS.shown(&route::FORWARD_AS.default_value()),
        route::REFUSE.shown(refuse),
        route::MAX_BODY.shown(max_body),
        route::TIMEOUTS.shown_as(object(route_timeouts(*timeouts))),
        route::RESOLVE.shown(resolve),
    ];
    keys.extend(policy.as_deref().map(|policy| route::POLICY.shown_as(policy)));
    keys
}

fn route(route: &RouteSettings) -> Value {
    let (policy, timeouts) = (Some(Arc::clone(&route.policy)), route.timeouts);
    let RouteSettings { http, refuse, max_body, resolve, .. } = *route;
    let mut keys = defaults(&RouteDefaults { policy, http, refuse, max_body, timeouts, resolve });
    let backends: Vec<_> = route.backends.iter().map(ToString::to_string).collect();
    keys.extend([
        NAME.shown_as(&*route.name),
        route::HOST.shown_as(route.host.to_string()),
        route::PATH.shown_as(route.path.to_string()),
        route::BACKEND.shown_as(backends),
        route::PROXY_PROTOCOL.shown(&route.proxy_protocol),
        route::CLIENT_CERTIFICATE.shown(&route.client_certificate),
        route::STRIP_PREFIX.shown(&route.strip_prefix),
        route::PATHS.shown(&route.paths),
        route::MAX_FIELDS.shown(&(route.max_fields as u32)),
    ]);
    keys.extend(
        route.backend_tls.as_ref().map(|tls| route::BACKEND_TLS.shown_as(backend_tls(tls))),
    );
    object(keys)
}

fn backend_tls(tls: &BackendTlsSettings) -> Value {
    let BackendTlsSettings { ca, name, identity, roots: _ } = tls;
    let mut keys = vec![
        backend_tls::CA.shown_as(ca.as_deref()),
        backend_tls::NAME.shown_as(name.as_ref().map(ServerName::to_str).as_deref()),
    ];
    if let Some(identity) = identity {
        keys.push(backend_tls::CHAIN.shown_as(&*identity.label));
        keys.push(backend_tls::KEY.shown_as(&*identity.key_file));
    }
    object(keys)
}

/// The rules of a policy without networks: lists appear by name.
pub fn rules(policy: &Policy) -> Value {
    rules_with(policy, |lists| {
        lists.iter().filter(|list| !is_inline(list)).map(|list| list.name.to_string()).collect()
    })
}

/// Like [`rules`], with the entries that a policy names without a list: for a comparison with
/// `any`, which such entries replace.
pub fn rules_with_entries(policy: &Policy) -> Value {
    rules_with(policy, rule)
}

fn rules_with(policy: &Policy, names: impl Fn(&[Arc<List>]) -> Vec<String>) -> Value {
    let allow = match &policy.allow {
        AllowRule::Any => vec!["any".to_owned()],
        AllowRule::Lists(lists) => names(lists),
    };
    let mut limits = limits(&policy.limits);
    for (keys, exception) in
        limits[limits::FOR.name].as_array_mut().into_iter().flatten().zip(&policy.limits.exceptions)
    {
        if let ExceptionScope::Clients(lists) = &exception.scope {
            keys[limits::CLIENT.name] = json!(names(lists));
        }
    }
    object([
        of_policy::OWNER.shown_as(policy.owner.as_deref()),
        of_policy::CLIENT.shown_as(client(policy, allow, names(&policy.deny))),
        of_policy::LIMITS.shown_as(limits),
    ])
}

fn client(policy: &Policy, allow: Vec<String>, deny: Vec<String>) -> Value {
    object([
        client::ALLOW.shown_as(allow),
        client::DENY.shown_as(deny),
        client::ORIGINS.shown_as(origins(policy)),
        client::SUBPROTOCOLS.shown_as(subprotocols(policy)),
        client::CERTIFICATE.shown_as(policy.certificate.as_ref().map(certificate_rule)),
    ])
}

fn origins(policy: &Policy) -> Option<Vec<String>> {
    policy.origins.as_ref().map(|origins| origins.iter().map(ToString::to_string).collect())
}

fn certificate_rule(rule: &CertificateRule) -> Value {
    object([
        of_client::REQUIRED.shown(&rule.required),
        of_client::ALLOW.shown_as(rule.allow.as_deref().map(patterns)),
        of_client::DENY.shown_as(patterns(&rule.deny)),
    ])
}

fn patterns(patterns: &[IdentityPattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
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
        let written = list.entries().take(MAX_INLINE_NETWORKS).map(|(entry, _)| {
            let sign = if entry.admits { "" } else { "!" };
            let expires =
                entry.expires().map(|expires| format!(" expires={expires}")).unwrap_or_default();
            format!("{sign}{}{expires}", entry.pattern)
        });
        items.extend(written);
        if list.len() > MAX_INLINE_NETWORKS {
            items.push(format!("… and {} more", list.len() - MAX_INLINE_NETWORKS));
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
    let totals = [total, streams_total].map(|total| limits::TOTAL.shown_or_null(total.as_ref()));
    let exceptions = exceptions.iter().map(|exception| {
        let scope = match &exception.scope {
            ExceptionScope::Clients(lists) => limits::CLIENT.shown_as(rule(lists)),
            ExceptionScope::Identities(names) => limits::IDENTITY.shown_as(patterns(names)),
        };
        object(share(&exception.share, [None, None]).into_iter().chain([scope]))
    });
    let exceptions: Vec<_> = exceptions.collect();
    let keys = share(common, totals.map(Some));
    object(keys.into_iter().chain([limits::FOR.shown_as(exceptions)]))
}

/// The keys of a share. `totals` belong to its connections and its streams.
fn share(share: &ClientLimits, totals: [Option<(String, Value)>; 2]) -> Vec<(String, Value)> {
    let ClientLimits { upgrades, requests, per_client, streams, tunnel, units } = share;
    let TunnelLimits { message_max, message_rate, frames, idle, lifetime, ping, pong } = tunnel;
    let message_rate = message_rate.map(|rate| (rate.tokens, rate.per));
    let counts = |max: &Option<u32>, unit: &LimitUnit, total: Option<(String, Value)>| {
        let per_client = limits::PER_CLIENT.shown_or_null(max.as_ref());
        object([per_client, limits::PER.shown(unit)].into_iter().chain(total))
    };
    let [of_tunnels, of_streams] = totals;
    let connections = counts(per_client, &units.connections, of_tunnels);
    let streams = counts(streams, &units.streams, of_streams);
    let rate = |rate: &Option<Rate>, unit| rate.map(|rate| limits::ClientRate { rate, unit });
    let upgrades = rate(upgrades, units.upgrades);
    let requests = rate(requests, units.requests);
    vec![
        limits::UPGRADES.shown_or_null(upgrades.as_ref()),
        limits::REQUESTS.shown_or_null(requests.as_ref()),
        limits::CONNECTIONS.shown_as(connections),
        limits::STREAMS.shown_as(streams),
        limits::MESSAGE.shown_as(object([
            message::MAX.shown_or_null(message_max.as_ref()),
            message::RATE.shown_or_null(message_rate.as_ref()),
        ])),
        limits::FRAMES.shown(frames),
        limits::IDLE.shown_or_null(idle.as_ref()),
        limits::LIFETIME.shown_or_null(lifetime.as_ref()),
        limits::PING.shown(ping),
        limits::PONG.shown(pong),
    ]
}
