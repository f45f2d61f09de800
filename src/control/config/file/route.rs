//! `[[route]]`: from a host and a path to a backend and a policy.

use std::sync::Arc;

use super::backend;
use super::common::{self, PolicyRef, SharedValues};
use super::paths::{self, PathClaim};
use super::route_context::RouteContext;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::route as keys;
use crate::control::config::name::UniqueKeys;
use crate::control::config::settings::RouteSettings;
use crate::control::config::source_text::{error, warning};
use crate::policy::request::decoded;
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::certificate::Certificates;
use crate::snapshot::route::PathForwarding;

/// Key that no two routes may share: the host, and the path as a backend decodes it.
type RouteKey = (HostPattern, Box<[u8]>);

/// Reads all routes, and checks them against each other.
pub fn all(tables: Vec<TomlTable<'_>>, context: &mut RouteContext<'_, '_>) -> Vec<RouteSettings> {
    let (mut names, mut places) = (UniqueKeys::new(), UniqueKeys::new());
    let (mut routes, mut claims) = (Vec::new(), Vec::new());
    for mut table in tables {
        let before = names.len();
        let name = names.name(&mut table, "chat");
        // In a copy with the same name, equal values are not worth an error of their own.
        let mut copies = UniqueKeys::new();
        let is_copy = name.is_some() && names.len() == before;
        let places = if is_copy { &mut copies } else { &mut places };
        let (host, path) = read_match(&mut table, name.as_ref(), context, places);
        let claim = PathClaim::read(&mut table, name.as_ref(), host.as_ref(), path.as_ref());
        let mut page = read(table, context, name, host, path);
        if let (Some(claim), Some(page)) = (&claim, &mut page) {
            claim.store(page);
        }
        claims.extend(claim);
        routes.extend(page);
    }
    paths::check(&claims);
    routes
}

fn read(
    mut table: TomlTable<'_>,
    context: &mut RouteContext<'_, '_>,
    name: Option<Arc<str>>,
    host: Option<HostPattern>,
    path: Option<PathPattern>,
) -> Option<RouteSettings> {
    let backends = table
        .require(&keys::BACKEND, "backend = \"http://127.0.0.1:8080\"")
        .and_then(|value| backend::all(value, context.load));
    let backend_tls = backend::tls(&mut table, backends.as_deref(), context);
    let proxy_protocol = table.read_or_default(&keys::PROXY_PROTOCOL);
    let client_certificate = table.read_or_default(&keys::CLIENT_CERTIFICATE);
    let strip_prefix = table.read_or_default(&keys::STRIP_PREFIX);
    let max_fields = table.read_or_default(&keys::MAX_FIELDS) as usize;
    let SharedValues { policy, http, refuse, max_body, timeouts, resolve } =
        common::read(&mut table, context.defaults, context.policies);
    let policy = policy_name(&mut table, policy);
    let (line, path_line) = (table.line("name"), table.line("path"));
    table.finish();
    Some(RouteSettings {
        name: name?,
        host: host?,
        path: path?,
        backends: backends?,
        backend_tls: backend_tls?,
        policy: policy?,
        http,
        refuse,
        proxy_protocol,
        client_certificate,
        strip_prefix,
        paths: PathForwarding::Canonical,
        max_body,
        max_fields,
        timeouts,
        resolve,
        line,
        path_line,
    })
}

/// The name of the policy that judges a route. `None` means that an error was reported.
fn policy_name(table: &mut TomlTable<'_>, policy: PolicyRef) -> Option<Arc<str>> {
    match policy {
        PolicyRef::Named(name) => Some(name),
        PolicyRef::Invalid => None,
        PolicyRef::Absent => {
            table.require_in_any(
                &keys::POLICY,
                "policy = \"NAME\", of policies/NAME.toml, here or in [defaults]",
            );
            None
        }
    }
}

/// Reads host and path, and reports a pair that an earlier route has.
fn read_match(
    table: &mut TomlTable<'_>,
    name: Option<&Arc<str>>,
    context: &RouteContext<'_, '_>,
    places: &mut UniqueKeys<RouteKey>,
) -> (Option<HostPattern>, Option<PathPattern>) {
    let host = table.require(&keys::HOST, "host = \"ws.example.com\", or \"*\" for any");
    let path = match paths::in_place_of_path(table) {
        Some(path) => Some(path),
        None => {
            let remedy = "path = \"/\", or \"/chat/\" for all below it, or \"/chat\" alone";
            table.require(&keys::PATH, remedy)
        }
    };
    let host_pattern = host
        .and_then(|value| value.parse("a host", |text| HostPattern::parse(text).map_err(error)));
    let path_pattern = path.and_then(|value| paths::pattern(table, value));
    if let (Some(value), Some(pattern)) = (host, &host_pattern) {
        check_coverage(value, pattern, context.certificates);
    }
    if let (Some(value), Some(host), Some(path)) = (path, &host_pattern, &path_pattern) {
        let nameless = Arc::from("another");
        let wanted = (host.clone(), decoded(path.as_str()).into());
        if let Err((first, place)) = places.insert(wanted, name.unwrap_or(&nameless), &value) {
            let finding = error(format!("route `{first}` has the same host and path"))
                .with_remedy("make one of them more specific");
            value.report(finding.with_related(place, "first here"));
        }
    }
    (host_pattern, path_pattern)
}

/// Warns of a host for which clients would see a certificate of another name.
fn check_coverage(value: TomlValue<'_>, host: &HostPattern, certificates: Option<&Certificates>) {
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
