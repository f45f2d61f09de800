//! `[defaults]`, and the same keys of a `[[route]]`. Both are declared here only.
//!
//! A route's own value wins; in `timeouts`, each key by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::value::{not_yet, route_timeouts};
use crate::control::config::document::{Table, Value, did_you_mean};
use crate::control::config::keys::sidegate::route as keys;
use crate::control::config::name::name;
use crate::control::config::page::error;
use crate::control::config::settings::RouteDefaults;
use crate::snapshot::route::{PlainHttp, RouteTimeouts};

/// Values that routes share.
#[derive(Debug, Clone)]
pub struct Common {
    /// Name of the policy, if a valid one is given.
    pub policy: PolicyName,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// Largest body of plain HTTP, in bytes. `None` means unlimited.
    pub max_body: Option<u64>,
    /// Timeouts after a route is found.
    pub timeouts: RouteTimeouts,
}

/// The policy that a table refers to.
#[derive(Debug, Clone)]
pub enum PolicyName {
    /// The table has no `policy`.
    Absent,
    /// The table's `policy` is invalid, which was reported.
    Broken,
    /// The table refers to this policy.
    Is(Arc<str>),
}

/// Reads `[defaults]`. `is_misspelt` says that a misspelt table takes its place, so that routes
/// lack no policy.
pub fn defaults(
    mut table: Table<'_>,
    timeouts: RouteTimeouts,
    policies: &BTreeSet<Arc<str>>,
    is_misspelt: bool,
) -> Common {
    let policy = if is_misspelt { PolicyName::Broken } else { PolicyName::Absent };
    let (http, max_body) = (keys::HTTP.default_value(), keys::MAX_BODY.default_value());
    let none = Common { policy, http, max_body, timeouts };
    table.wants("policy");
    let mut common = read(&mut table, &none, policies);
    for key in
        ["name", "host", "path", "paths", "backend", "backend_tls", "strip_prefix", "max_fields"]
    {
        table.refuse(key, error("each route has its own").remedy("write it in the [[route]]"));
    }
    if table.misspells("policy") {
        common.policy = PolicyName::Broken;
    }
    table.finish();
    common
}

/// Reads the values of `table`; omitted ones are those of `base`.
pub fn read(table: &mut Table<'_>, base: &Common, policies: &BTreeSet<Arc<str>>) -> Common {
    let policy = match table.get(&keys::POLICY) {
        Some(value) => policy(value, policies).map_or(PolicyName::Broken, PolicyName::Is),
        None => base.policy.clone(),
    };
    let http = table.read(&keys::HTTP);
    let max_body = table.read(&keys::MAX_BODY);
    let timeouts = timeouts(table, base.timeouts);
    for (key, later) in [(&keys::FORWARD_AS, "forwarded"), (&keys::REFUSE, "close")] {
        let Some(value) = table.get(key) else { continue };
        let now = key.default_value();
        if value.choice(&[(now, false), (later, true)]) == Some(true) {
            value.report(not_yet(later));
        }
    }
    Common {
        policy,
        http: http.unwrap_or(base.http),
        max_body: max_body.unwrap_or(base.max_body),
        timeouts,
    }
}

impl From<Common> for RouteDefaults {
    fn from(common: Common) -> Self {
        let policy = match common.policy {
            PolicyName::Is(name) => Some(name),
            PolicyName::Absent | PolicyName::Broken => None,
        };
        RouteDefaults {
            policy,
            http: common.http,
            max_body: common.max_body,
            timeouts: common.timeouts,
        }
    }
}

fn policy(value: Value<'_>, policies: &BTreeSet<Arc<str>>) -> Option<Arc<str>> {
    let name = value.parse("a policy's name", name)?;
    if !policies.contains(&name) {
        let finding = error(format!("there is no policies/{name}.toml")).of(value.key());
        let meant = did_you_mean(&name, policies.iter().map(|name| &**name));
        let remedy = meant.unwrap_or_else(|| {
            "write it; all that it must say is `schema` and `[client] allow`".into()
        });
        // The file's name may be the wrong one. That is one error, however many routes refer to it.
        value.document().report_alike(
            format!("policy {name}"),
            value.span(),
            finding.remedy(remedy),
        );
        return None;
    }
    Some(name)
}

fn timeouts(table: &mut Table<'_>, default: RouteTimeouts) -> RouteTimeouts {
    let mut table = table.table(&keys::TIMEOUTS);
    let timeouts = route_timeouts(&mut table, default);
    for key in ["tls", "head", "keep_alive"] {
        table.refuse(
            key,
            error("not per route")
                .remedy("set it in [timeouts]: it is over before a route is found"),
        );
    }
    table.finish();
    timeouts
}
