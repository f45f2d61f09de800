//! How it stands: `GET /v1/status`, from which `sidegate status` makes its screen.
//!
//! docs/admin.md says what each name means. It looks at what others keep, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::addresses::BoundAddress;
use crate::admin::Admin;
use crate::admin::rates::Rate;
use crate::control::config::diagnostic::Diagnostic;
use crate::observe::metrics::{Difference, RouteTotals};
use crate::policy::Policy;
use crate::policy::network::Key;
use crate::snapshot::Snapshot;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::Speaks;
use crate::snapshot::route::{BackendAddress, Route};

/// A certificate that lasts for less is a warning.
const SOON: i64 = 14;

/// Entries that lapse within so many days are counted.
const LAPSING: i64 = 30;

/// From so many tunnels on it is odd that all have one client.
const CROWD: usize = 20;

/// All of it.
pub fn status(admin: &Admin) -> Value {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let standing = &admin.standing;
    let rejected = standing.rejected.load_full();
    let last = standing.last.load_full().map(|last| {
        json!({
            "outcome": last.result.word(),
            "cause": last.cause.word(),
            "at": last.at.to_string(),
            "diagnostics": told(rejected.as_deref().map_or(&[], Vec::as_slice)),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "now": now.to_string(),
        "config": admin.config.display().to_string(),
        "generation": live.generation,
        "digest": &*live.digest,
        "since": standing.since.load().to_string(),
        "draining": is_draining(admin),
        "tunnels": admin.tunnels.len(),
        "exchanges": admin.tunnels.exchanges_len(),
        "last_reload": last,
        "listeners": listeners(admin, &live),
        "routes": routes(admin, &live),
        "policies": sorted(&live).iter().map(|policy| self::policy(admin, policy)).collect::<Vec<_>>(),
        "certificates": live.certificates.iter().map(|one| certificate(one, now)).collect::<Vec<_>>(),
        "lists": lists(admin, &live, now),
        "diagnostics": told(&standing.warnings.load()),
        "warnings": warnings(admin, &live, now),
    })
}

/// Diagnostics for programs, each with its text for people.
pub fn told(diagnostics: &[Diagnostic]) -> Vec<Value> {
    let one = |diagnostic: &Diagnostic| {
        json!({
            "level": if diagnostic.is_error() { "error" } else { "warning" },
            "file": &*diagnostic.file,
            "line": diagnostic.line,
            "column": diagnostic.column,
            "message": &diagnostic.message,
            "remedy": &diagnostic.remedy,
            "text": diagnostic.render(false),
        })
    };
    diagnostics.iter().map(one).collect()
}

fn is_draining(admin: &Admin) -> bool {
    admin.lifecycle.is_draining()
}

fn listeners(admin: &Admin, live: &Snapshot) -> Vec<Value> {
    let connections = admin.metrics.connections();
    let one = |bound: &BoundAddress| {
        let BoundAddress { listener: name, address } = bound;
        let speaks = live.listeners.get(name).map(|rules| match rules.listener.speaks {
            Speaks::Tls(_) => "tls",
            Speaks::Plain => "plain",
            Speaks::Redirect { .. } => "redirect",
        });
        let counted = connections.iter().find(|(own, ..)| own == name);
        let (open, limit) = counted.map(|(_, open, limit)| (*open, *limit)).unzip();
        json!({ "name": &**name, "address": address.to_string(), "speaks": speaks, "connections": open, "limit": limit })
    };
    admin.addresses.load().iter().map(one).collect()
}

fn routes(admin: &Admin, live: &Snapshot) -> Vec<Value> {
    let (totals, at) = (admin.metrics.totals(live, &admin.tunnels), Instant::now());
    let pages = &admin.standing.settings.load().routes;
    let one = |route: &Arc<Route>| {
        let totals = totals.iter().find(|(name, _)| *name == route.name).map(|(_, totals)| *totals).unwrap_or_default();
        let up = |one: &BackendAddress| json!({ "address": one.to_string(), "up": admin.metrics.backend(one).is_up() });
        let backends: Vec<_> = route.backends.iter().map(up).collect();
        json!({
            "name": &*route.name,
            "host": pages.iter().find(|page| page.name == route.name).map(|page| page.host.to_string()),
            "path": route.path,
            "policy": &*route.policy.name,
            "backends": backends,
            "tunnels": totals.open,
            "totals": sums(&totals),
            "per_second": admin.rates.of(&route.name, at, &totals).map(per_second),
        })
    };
    live.route_list.iter().map(one).collect()
}

/// Since the start.
fn sums(totals: &RouteTotals) -> Value {
    let RouteTotals { opened, refused, from_client, from_backend, .. } = totals;
    json!({
        "opened": opened,
        "refused": refused,
        "from_client": { "messages": from_client.messages, "bytes": from_client.bytes },
        "from_backend": { "messages": from_backend.messages, "bytes": from_backend.bytes },
    })
}

fn per_second(rate: Rate) -> Value {
    // Enough for one event a minute, and no digit that means nothing.
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    let both = |[messages, bytes]: [f64; 2]| json!({ "messages": round(messages), "bytes": round(bytes) });
    json!({
        "over_seconds": rate.over.as_secs(),
        "opened": round(rate.opened),
        "refused": round(rate.refused),
        "from_client": both(rate.from_client),
        "from_backend": both(rate.from_backend),
    })
}

fn sorted(live: &Snapshot) -> Vec<&Arc<Policy>> {
    live.all_policies().map(|policy| (&policy.name, policy)).collect::<BTreeMap<_, _>>().into_values().collect()
}

fn policy(admin: &Admin, policy: &Policy) -> Value {
    let tunnels = policy.budgets.counts.total();
    let differences = admin.metrics.candidate_differences();
    let so_often = |difference| differences.get(&(Arc::clone(&policy.name), difference)).copied().unwrap_or_default();
    let candidate = policy.candidate.as_ref().map(|candidate| {
        json!({
            "file": &*candidate.file,
            "would_refuse": so_often(Difference::WouldRefuse),
            "would_admit": so_often(Difference::WouldAdmit),
            "would_revoke": admin.metrics.candidate_would_revoke(&policy.name),
        })
    });
    let (name, file, limit) = (&*policy.name, &*policy.file, policy.limits.total);
    json!({ "name": name, "file": file, "tunnels": tunnels, "limit": limit, "candidate": candidate })
}

fn certificate(certificate: &Certificate, now: Timestamp) -> Value {
    json!({
        "chain": &*certificate.label,
        "names": certificate.names,
        "not_after": certificate.not_after.to_string(),
        "days_left": days_left(certificate, now),
    })
}

/// Whole days; below zero: it has expired.
fn days_left(certificate: &Certificate, now: Timestamp) -> i64 {
    certificate.not_after.duration_since(now).as_secs().div_euclid(24 * 3600)
}

fn lists(admin: &Admin, live: &Snapshot, now: Timestamp) -> Vec<Value> {
    let files = admin.standing.lists.load();
    let soon = now + SignedDuration::from_hours(LAPSING * 24);
    let mut lists = Vec::new();
    for policy in sorted(live) {
        for list in policy.lists() {
            let file = files.iter().find(|file| file.policy == policy.name && file.list == list.name);
            lists.push(json!({
                "name": &*list.name,
                "policy": &*policy.name,
                "file": &*list.file,
                "entries": list.len(),
                "lapsing_30d": list.lapsing(now, soon),
                "modified": file.map(|file| file.modified.to_string()),
                "age_seconds": file.map(|file| now.duration_since(file.modified).as_secs().max(0)),
            }));
        }
    }
    lists
}

/// What somebody should look at: a word for programs, a sentence for people.
fn warnings(admin: &Admin, live: &Snapshot, now: Timestamp) -> Vec<Value> {
    let mut warnings = Vec::new();
    let mut warn = |word: &str, sentence: String| warnings.push(json!({ "word": word, "sentence": sentence }));
    if is_draining(admin) {
        let (tunnels, exchanges) = (admin.tunnels.len(), admin.tunnels.exchanges_len());
        let left = format!("{tunnels} tunnels and {exchanges} exchanges are left");
        warn("draining", format!("draining: {left}, and nothing new is accepted"));
    }
    if admin.standing.rejected.load().is_some() {
        warn("rejected", "the files on disk are not what runs: the last reload was rejected".into());
    }
    if let Some(why) = admin.standing.unwatched.load().as_deref() {
        warn("watch_degraded", format!("files are polled every 2 s instead of being watched: {why}"));
    }
    for backend in admin.metrics.backends_down(live) {
        warn("backend_down", format!("{backend} took no connection when it was last dialled"));
    }
    for certificate in live.certificates.iter() {
        let (left, label) = (days_left(certificate, now), &certificate.label);
        if left < 0 {
            warn("certificate", format!("{label} has expired: clients refuse it"));
        } else if left < SOON {
            let day = if left == 1 { "day" } else { "days" };
            warn("certificate", format!("{label} expires in {left} {day}"));
        }
    }
    for sentence in admin.standing.lists.load().iter().filter_map(|list| list.stale(now)) {
        warn("stale", sentence);
    }
    for policy in sorted(live) {
        let open = policy.budgets.counts.total();
        if let Some(limit) = policy.limits.total
            && u64::from(open) * 10 >= u64::from(limit) * 9
        {
            warn("capacity", format!("policy {} holds {open} of the {limit} tunnels that it admits", policy.name));
        }
    }
    if let Some((client, tunnels)) = one_client(admin) {
        let sentence =
            format!("all {tunnels} tunnels have the client {client}: if that is a proxy, its clients share one budget");
        warn("one_client", sentence);
    }
    let (drops, panics) = (admin.drops.count(), admin.metrics.panics());
    if drops > 0 {
        warn("log_drops", format!("{drops} log lines were dropped, because standard error took them too slowly"));
    }
    if panics > 0 {
        warn("panics", format!("{panics} connections ended by a bug of sidegate's: please report it, with the log"));
    }
    warnings
}

/// The client of all tunnels, where there are many of them and only one of it.
fn one_client(admin: &Admin) -> Option<(Key, usize)> {
    let entries = admin.tunnels.entries();
    let key = entries.first()?.client.key();
    (entries.len() >= CROWD && entries.iter().all(|entry| entry.client.key() == key)).then_some((key, entries.len()))
}
