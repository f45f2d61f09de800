//! `[defaults]`, and the same keys of a `[[route]]`. Both are declared here only.
//!
//! A route's own value wins; in `timeouts`, each key by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::value::{route_timeouts, unsupported};
use crate::control::config::document::{TomlTable, TomlValue, did_you_mean};
use crate::control::config::keys::sidegate::route as keys;
use crate::control::config::name::name;
use crate::control::config::settings::RouteDefaults;
use crate::control::config::source_text::error;
use crate::snapshot::route::{PlainHttp, RefusalForm, RouteTimeouts};

/// Values that routes share.
#[derive(Debug, Clone)]
pub struct SharedValues {
    /// Name of the policy, if a valid one is given.
    pub policy: PolicyRef,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// The form in which clients learn of refusals.
    pub refuse: RefusalForm,
    /// Largest body of plain HTTP, in bytes. `None` means unlimited.
    pub max_body: Option<u64>,
    /// Timeouts after a route is found.
    pub timeouts: RouteTimeouts,
    /// Interval at which names of backends are resolved again.
    pub resolve: Duration,
}

/// The policy that a table refers to.
#[derive(Debug, Clone)]
pub enum PolicyRef {
    /// The table has no `policy`.
    Absent,
    /// The table's `policy` is invalid, which was reported.
    Invalid,
    /// The table refers to this policy.
    Named(Arc<str>),
}

/// Reads `[defaults]`. `is_misspelt` says that a misspelt table takes its place, so that routes
/// lack no policy.
pub fn defaults(
    mut table: TomlTable<'_>,
    timeouts: RouteTimeouts,
    policies: &BTreeSet<Arc<str>>,
    is_misspelt: bool,
) -> SharedValues {
    let policy = if is_misspelt { PolicyRef::Invalid } else { PolicyRef::Absent };
    let (http, max_body) = (keys::HTTP.default_value(), keys::MAX_BODY.default_value());
    let (refuse, resolve) = (keys::REFUSE.default_value(), keys::RESOLVE.default_value());
    let none = SharedValues { policy, http, refuse, max_body, timeouts, resolve };
    table.declare_expected("policy");
    let mut common = read(&mut table, &none, policies);
    for key in [
        "name",
        "host",
        "path",
        "paths",
        "backend",
        "backend_tls",
        "proxy_protocol",
        "strip_prefix",
        "max_fields",
    ] {
        table.refuse(key, error("each route has its own").with_remedy("write it in the [[route]]"));
    }
    if table.misspells("policy") {
        common.policy = PolicyRef::Invalid;
    }
    table.finish();
    common
}

/// Reads the values of `table`; omitted ones are those of `base`.
pub fn read(
    table: &mut TomlTable<'_>,
    base: &SharedValues,
    policies: &BTreeSet<Arc<str>>,
) -> SharedValues {
    let policy = match table.get(&keys::POLICY) {
        Some(value) => policy(value, policies).map_or(PolicyRef::Invalid, PolicyRef::Named),
        None => base.policy.clone(),
    };
    let http = table.read(&keys::HTTP);
    let max_body = table.read(&keys::MAX_BODY);
    let resolve = table.read(&keys::RESOLVE);
    let timeouts = timeouts(table, base.timeouts);
    let refuse = table.read(&keys::REFUSE);
    if let Some(value) = table.get(&keys::FORWARD_AS) {
        let (now, later) = (keys::FORWARD_AS.default_value(), "forwarded");
        if value.choice(&[(now, false), (later, true)]) == Some(true) {
            value.report(unsupported(later));
        }
    }
    SharedValues {
        policy,
        http: http.unwrap_or(base.http),
        refuse: refuse.unwrap_or(base.refuse),
        max_body: max_body.unwrap_or(base.max_body),
        timeouts,
        resolve: resolve.unwrap_or(base.resolve),
    }
}

impl From<SharedValues> for RouteDefaults {
    fn from(common: SharedValues) -> Self {
        let policy = match common.policy {
            PolicyRef::Named(name) => Some(name),
            PolicyRef::Absent | PolicyRef::Invalid => None,
        };
        RouteDefaults {
            policy,
            http: common.http,
            refuse: common.refuse,
            max_body: common.max_body,
            timeouts: common.timeouts,
            resolve: common.resolve,
        }
    }
}

fn policy(value: TomlValue<'_>, policies: &BTreeSet<Arc<str>>) -> Option<Arc<str>> {
    let name = value.parse("a policy's name", name)?;
    if !policies.contains(&name) {
        let finding = error(format!("there is no policies/{name}.toml")).with_key(value.key());
        let meant = did_you_mean(&name, policies.iter().map(|name| &**name));
        let remedy = meant.unwrap_or_else(|| {
            "write it; all that it must say is `schema` and `[client] allow`".into()
        });
        // The file's name may be the wrong one. That is one error, however many routes refer to it.
        value.document().defer_repeated(
            format!("policy {name}"),
            value.span(),
            finding.with_remedy(remedy),
        );
        return None;
    }
    Some(name)
}

fn timeouts(table: &mut TomlTable<'_>, default: RouteTimeouts) -> RouteTimeouts {
    let mut table = table.table(&keys::TIMEOUTS);
    let timeouts = route_timeouts(&mut table, default);
    for key in ["proxy_header", "tls", "head", "keep_alive"] {
        table.refuse(
            key,
            error("not per route")
                .with_remedy("set it in [timeouts]: it is over before a route is found"),
        );
    }
    table.finish();
    timeouts
}
