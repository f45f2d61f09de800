//! `[[route]]`: host and path → backend and policy.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::{not_yet, route_timeouts, socket_path};
use crate::control::config::document::{Table, Value, did_you_mean, unit};
use crate::control::config::name::{Taken, name};
use crate::control::config::page::{Finding, error, warning};
use crate::control::config::{Reading, RoutePage};
use crate::policy::request::decoded;
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::certificate::Certificates;
use crate::snapshot::route::{BackendAddress, PlainHttp, RouteTimeouts};

/// What a route stands on: the rest of the configuration.
pub struct Ground<'g, 'f> {
    /// Where its paths begin.
    pub reading: &'g Reading<'f>,
    /// The policies that there are.
    pub policies: &'g BTreeSet<Arc<str>>,
    /// The certificates that have to cover its host; `None`: there is no TLS listener, or they could not be read.
    pub certificates: Option<&'g Certificates>,
    /// What it doesn't set for itself.
    pub timeouts: RouteTimeouts,
}

/// What no two routes may have both of: the host, and the path as a backend sees it once decoded.
type Where = (HostPattern, Box<[u8]>);

/// All routes.
pub fn all(tables: Vec<Table<'_>>, ground: &Ground<'_, '_>) -> Vec<RoutePage> {
    let (mut names, mut places) = (Taken::new(), Taken::new());
    let mut routes = Vec::new();
    for mut table in tables {
        let name = names.name(&mut table, "chat");
        let (host, path) = place(&mut table, name.as_ref(), ground, &mut places);
        routes.extend(read(table, ground, name, host, path));
    }
    routes
}

fn read(
    mut table: Table<'_>,
    ground: &Ground<'_, '_>,
    name: Option<Arc<str>>,
    host: Option<HostPattern>,
    path: Option<PathPattern>,
) -> Option<RoutePage> {
    let backends = table.need("backend", "backend = \"http://127.0.0.1:8080\"").and_then(|value| backends(value, ground.reading));
    let policy =
        table.need("policy", "policy = \"NAME\", of policies/NAME.toml").and_then(|value| policy(value, ground.policies));
    let http = table.choice("http", &[("refuse", PlainHttp::Refuse), ("forward", PlainHttp::Forward)]);
    let strip_prefix = table.boolean("strip_prefix");
    let max_body = table.get("max_body").and_then(|value| value.parse("a size like \"1MiB\"", unit::size));
    let timeouts = timeouts(&mut table, ground.timeouts);
    for (key, now, later) in [("forward_as", "x-forwarded", "forwarded"), ("refuse", "answer", "close")] {
        let Some(value) = table.get(key) else { continue };
        if value.choice(&[(now, false), (later, true)]) == Some(true) {
            value.report(not_yet(later));
        }
    }
    table.later("backend_tls");
    let line = table.line("name");
    table.finish();
    Some(RoutePage {
        name: name?,
        host: host?,
        path: path?,
        backends: backends?,
        policy: policy?,
        http: http.unwrap_or(PlainHttp::Refuse),
        strip_prefix: strip_prefix.unwrap_or(false),
        max_body: max_body.unwrap_or(1 << 20),
        timeouts,
        line,
    })
}

/// Host and path, which no other route has both of.
fn place(
    table: &mut Table<'_>,
    name: Option<&Arc<str>>,
    ground: &Ground<'_, '_>,
    places: &mut Taken<Where>,
) -> (Option<HostPattern>, Option<PathPattern>) {
    let host = table.need("host", "host = \"ws.example.com\", or \"*\" for any");
    let path = table.need("path", "path = \"/\", or \"/chat/\" for all below it, or \"/chat\" alone");
    let host_pattern = host.and_then(|value| value.parse("a host", |text| HostPattern::parse(text).map_err(error)));
    let path_pattern = path.and_then(|value| value.parse("a path", |text| PathPattern::parse(text).map_err(error)));
    if let (Some(value), Some(pattern)) = (host, &host_pattern) {
        cover(value, pattern, ground.certificates);
    }
    if let (Some(value), Some(host), Some(path)) = (path, &host_pattern, &path_pattern) {
        let nameless = Arc::from("another");
        let wanted = (host.clone(), decoded(path.as_str()).into());
        if let Err((first, place)) = places.take(wanted, name.unwrap_or(&nameless), &value) {
            let finding = error(format!("route `{first}` has the same host and path")).remedy("make one of them more specific");
            value.report(finding.and(place, "first here"));
        }
    }
    (host_pattern, path_pattern)
}

/// Warns of a host for which clients are shown a certificate of another name.
fn cover(value: Value<'_>, host: &HostPattern, certificates: Option<&Certificates>) {
    let Some(certificates) = certificates else { return };
    let covered = match host {
        HostPattern::Exact(name) => certificates.covering(name.trim_matches(['[', ']'])).is_some(),
        HostPattern::Wildcard(parent) => certificates.covering(&format!("*.{parent}")).is_some(),
        HostPattern::Any => true,
    };
    if !covered {
        value.report(warning("no certificate covers it: browsers will refuse the default one"));
    }
}

fn policy(value: Value<'_>, policies: &BTreeSet<Arc<str>>) -> Option<Arc<str>> {
    let name = value.parse("a policy's name", name)?;
    if !policies.contains(&name) {
        let finding = error(format!("there is no policies/{name}.toml"));
        let meant = did_you_mean(&name, policies.iter().map(|name| &**name));
        value.report(
            finding.remedy(meant.unwrap_or_else(|| "write it; all that it must say is `schema` and `[client] allow`".into())),
        );
        return None;
    }
    Some(name)
}

fn timeouts(table: &mut Table<'_>, default: RouteTimeouts) -> RouteTimeouts {
    let mut table = table.table("timeouts");
    let timeouts = route_timeouts(&mut table, default);
    for key in ["tls", "head", "keep_alive"] {
        table.refuse(key, error("not per route").remedy("set it in [timeouts]: it is over before a route is found"));
    }
    table.finish();
    timeouts
}

fn backends(value: Value<'_>, reading: &Reading<'_>) -> Option<Box<[BackendAddress]>> {
    let values = if value.is_array() { value.items()? } else { vec![value] };
    if values.is_empty() {
        value.report(error("an empty list").remedy("backend = \"http://127.0.0.1:8080\""));
        return None;
    }
    let mut taken = Taken::new();
    let mut backends = Vec::new();
    for value in values {
        let Some(backend) = value.parse("\"http://HOST:PORT\" or \"unix:/PATH\"", |text| backend(text, reading)) else {
            continue;
        };
        if !backend.is_local() {
            value.report(warning("not on this host: what is sent there is not encrypted"));
        }
        let name = Arc::from(backend.to_string());
        match taken.take(backend.clone(), &name, &value) {
            Ok(()) => backends.push(backend),
            Err((_, first)) => value.report(error(format!("{name} is there twice")).and(first, "first here")),
        }
    }
    (!backends.is_empty()).then(|| backends.into())
}

/// `"http://HOST[:PORT]"`, where HOST is an address or `localhost`, or `"unix:PATH"`.
pub fn backend(text: &str, reading: &Reading<'_>) -> Result<BackendAddress, Finding> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(reading, path).map(BackendAddress::Unix);
    }
    if let Some(at) = text.rfind('@') {
        // Said without the text, which may hold a password.
        let finding = error("a backend has no user name and no password").remedy("leave out what stands before the @");
        return Err(finding.within(0..at + 1));
    }
    if text.starts_with("https://") {
        return Err(error("https:// backends: not in this version"));
    }
    let Some(authority) = text.strip_prefix("http://") else {
        let rest = text.rsplit("//").next().unwrap_or(text);
        return Err(error(format!("\"{text}\" is not a backend")).remedy(format!("write \"http://{rest}\"")));
    };
    if let Some(path) = authority.find('/') {
        let finding = error("a backend has no path").remedy("leave it out; strip_prefix = true takes a route's prefix off");
        return Err(finding.within("http://".len() + path..text.len()));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = port.map_or(Ok(80), self::port)?;
    let ip = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).ok(),
        None if host == "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    let unresolved =
        || error(format!("\"{host}\" is not an address")).remedy("an address or `localhost`: names are not resolved");
    Ok(BackendAddress::Tcp(SocketAddr::new(ip.ok_or_else(unresolved)?, port)))
}

/// Digits alone: what parses integers would take a `+` too.
fn port(text: &str) -> Result<u16, Finding> {
    let port = text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|digit| digit.is_ascii_digit()));
    port.ok_or_else(|| error(format!("\"{text}\" is not a port")).remedy("1 to 65535"))
}
