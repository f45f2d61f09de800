//! `GET /v1/status`: the state of the agent, which `sidegate status` prints.
//!
//! docs/admin.md explains each name. This module reads the state of others and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::addresses::BoundAddress;
use crate::admin::hold;
use crate::admin::rates::RouteRate;
use crate::admin::state::AdminContext;
use crate::admin::wire::{
    BackendStatus, CandidateStatus, CertificateStatus, DiagnosticReport, EXPIRY_WARNING_DAYS,
    LastOutcome, LastReload, ListStatus, ListenerProtocol, ListenerStatus, PolicyStatus,
    ReloadCause, RouteCounts, RouteRates, RouteStatus, Severity, StatusAnswer, Time, TrafficCount,
    TrafficRate, Warning, WarningKind,
};
use crate::close::Traffic;
use crate::control::config::diagnostic::{Diagnostic, DiagnosticLevel};
use crate::control::reload::{ConfigStatus, Trigger};
use crate::observe::metrics::{CandidateDifference, ReloadResult, RouteTotals};
use crate::policy::Policy;
use crate::policy::network::ClientKey;
use crate::snapshot::Snapshot;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::Protocol;
use crate::snapshot::route::{Backend, Route};

/// Days within which an entry counts as lapsing.
const LAPSING_DAYS: i64 = 30;

/// Number of tunnels from which it is suspicious that all have one client.
const MIN_CROWD_TUNNELS: usize = 20;

/// Collects the complete status at the time of the call.
pub fn status(admin: &AdminContext) -> StatusAnswer {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let config_status = &admin.config_status;
    StatusAnswer {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        now: Time(now),
        config: admin.config.display().to_string(),
        generation: live.generation,
        digest: live.digest.to_string(),
        since: Time(**config_status.since.load()),
        draining: is_draining(admin),
        tunnels: admin.tunnels.len() as u64,
        exchanges: admin.tunnels.exchanges_len() as u64,
        bans: admin.bans.bans().iter().filter(|ban| !ban.lapsed(now)).count() as u64,
        pending: config_status.hold.pending.load_full().map(|pending| {
            let findings: Vec<_> = pending.findings().cloned().collect();
            hold::pending(&pending, reports(&findings))
        }),
        overrides: hold::overrides(&config_status.hold.overrides.load()),
        last_reload: last_reload(config_status),
        listeners: listeners(admin, &live),
        routes: routes(admin, &live),
        policies: sorted(&live).iter().map(|policy| self::policy(admin, policy)).collect(),
        certificates: live.certificates.iter().map(|one| certificate(one, now)).collect(),
        lists: lists(admin, &live, now),
        diagnostics: reports(&config_status.warnings.load()),
        warnings: warnings(admin, &live, now),
    }
}

/// How the last reload went. `None` means that there was none since the start.
pub fn last_reload(config_status: &ConfigStatus) -> Option<LastReload> {
    let last = config_status.last.load_full()?;
    let rejected = config_status.rejected.load_full();
    let outcome = match last.result {
        ReloadResult::Published => LastOutcome::Published,
        ReloadResult::Unchanged => LastOutcome::Unchanged,
        ReloadResult::Rejected => LastOutcome::Rejected,
    };
    let cause = cause(last.trigger);
    let diagnostics = reports(rejected.as_deref().map_or(&[], Vec::as_slice));
    Some(LastReload { outcome, cause, at: Time(last.at), diagnostics })
}

/// Converts the trigger of a reload to its word.
pub fn cause(trigger: Trigger) -> ReloadCause {
    match trigger {
        Trigger::Saved => ReloadCause::Saved,
        Trigger::Poll => ReloadCause::Poll,
        Trigger::Signal => ReloadCause::Signal,
        Trigger::Requested => ReloadCause::Asked,
    }
}

/// Converts diagnostics to their wire form, each with its rendered text.
pub fn reports(diagnostics: &[Diagnostic]) -> Vec<DiagnosticReport> {
    let one = |diagnostic: &Diagnostic| DiagnosticReport {
        level: match diagnostic.level {
            DiagnosticLevel::Error => Severity::Error,
            // An agent makes no notes: it has the files of its own host.
            DiagnosticLevel::Warning | DiagnosticLevel::Note => Severity::Warning,
        },
        file: diagnostic.file.to_string(),
        line: diagnostic.line as u64,
        column: diagnostic.column as u64,
        message: diagnostic.message.clone(),
        remedy: diagnostic.remedy.clone(),
        text: diagnostic.render(false),
    };
    diagnostics.iter().map(one).collect()
}

fn is_draining(admin: &AdminContext) -> bool {
    admin.lifecycle.is_draining()
}

fn listeners(admin: &AdminContext, live: &Snapshot) -> Vec<ListenerStatus> {
    let connections = admin.metrics.connections();
    let one = |bound: &BoundAddress| {
        let BoundAddress { listener: name, address } = bound;
        // Addresses and generation are loaded one after the other. A reload between the two may
        // leave a listener without rules.
        let speaks = live.listeners.get(name).map(|rules| match rules.listener.protocol {
            Protocol::Tls(_) => ListenerProtocol::Tls,
            Protocol::Plain => ListenerProtocol::Plain,
            Protocol::Redirect(_) => ListenerProtocol::Redirect,
        });
        let counted = connections.iter().find(|(own, ..)| own == name);
        let (open, limit) = counted.map(|(_, open, limit)| (*open, *limit)).unzip();
        ListenerStatus {
            name: name.to_string(),
            address: address.to_string(),
            speaks,
            connections: open,
            limit: limit.map(|limit| limit as u64),
        }
    };
    admin.addresses.load().iter().map(one).collect()
}

fn routes(admin: &AdminContext, live: &Snapshot) -> Vec<RouteStatus> {
    let (totals, at) = (admin.metrics.totals(live, &admin.tunnels.entries()), Instant::now());
    let pages = &admin.config_status.settings.load().routes;
    let one = |route: &Arc<Route>| {
        let totals = totals.iter().find(|(name, _)| *name == route.name);
        let totals = totals.map(|(_, totals)| *totals).unwrap_or_default();
        let page = pages.iter().find(|page| page.name == route.name);
        RouteStatus {
            name: route.name.to_string(),
            host: page.map(|page| page.host.to_string()),
            path: route.path.to_string(),
            policy: route.policy.name.to_string(),
            backends: route.backends.iter().map(|one| backend(admin, one)).collect(),
            tunnels: totals.open,
            totals: counts(&totals),
            per_second: admin.rates.rate(&route.name, at, &totals).map(rates),
        }
    };
    live.route_list.iter().map(one).collect()
}

/// Converts a backend to its wire form.
pub fn backend(admin: &AdminContext, backend: &Backend) -> BackendStatus {
    let answer = backend.name.as_ref().map(|name| name.answer());
    let addresses = answer.as_ref().map(|answer| &answer.addresses);
    BackendStatus {
        address: backend.address.to_string(),
        up: admin.metrics.is_up(backend),
        addresses: addresses.map(|all| all.iter().map(ToString::to_string).collect()),
        unresolved: answer
            .as_ref()
            .and_then(|answer| answer.fault.as_ref())
            .map(|one| one.to_string()),
    }
}

/// Converts totals since the start to their wire form.
fn counts(totals: &RouteTotals) -> RouteCounts {
    let count = |Traffic { messages, bytes }: Traffic| TrafficCount { messages, bytes };
    RouteCounts {
        opened: totals.opened,
        refused: totals.refused,
        from_client: count(totals.from_client),
        from_backend: count(totals.from_backend),
    }
}

/// Converts the rates of a route to their wire form.
pub fn rates(rate: RouteRate) -> RouteRates {
    // Three decimals show one event a minute; more would be noise.
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    let both = |[messages, bytes]: [f64; 2]| {
        let (messages, bytes) = (round(messages), round(bytes));
        TrafficRate { messages, bytes }
    };
    RouteRates {
        over_seconds: rate.over.as_secs(),
        opened: round(rate.opened),
        refused: round(rate.refused),
        from_client: both(rate.from_client),
        from_backend: both(rate.from_backend),
    }
}

/// All policies of a snapshot by name.
pub fn sorted(live: &Snapshot) -> Vec<&Arc<Policy>> {
    live.all_policies()
        .map(|policy| (&policy.name, policy))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect()
}

/// Converts a policy to its wire form.
pub fn policy(admin: &AdminContext, policy: &Policy) -> PolicyStatus {
    let differences = admin.metrics.candidate_differences();
    let count = |difference| {
        let key = (Arc::clone(&policy.name), difference);
        differences.get(&key).copied().unwrap_or_default()
    };
    let candidate = policy.candidate.as_ref().map(|candidate| CandidateStatus {
        file: candidate.file.to_string(),
        would_refuse: count(CandidateDifference::WouldRefuse),
        would_admit: count(CandidateDifference::WouldAdmit),
        would_revoke: admin
            .metrics
            .candidate_would_revoke(&policy.name)
            .map(|revoked| revoked.tunnels as u64),
    });
    PolicyStatus {
        name: policy.name.to_string(),
        file: policy.file.to_string(),
        tunnels: admin.tunnels.budgets().tunnels(&policy.name).into(),
        limit: policy.limits.total.map(u64::from),
        candidate,
    }
}

/// Converts a served certificate to its wire form.
pub fn certificate(certificate: &Certificate, now: Timestamp) -> CertificateStatus {
    CertificateStatus {
        chain: certificate.label.to_string(),
        names: certificate.names.iter().map(ToString::to_string).collect(),
        not_after: Time(certificate.not_after),
        days_left: days_left(certificate, now),
    }
}

/// Whole days until the certificate expires; negative once it has.
fn days_left(certificate: &Certificate, now: Timestamp) -> i64 {
    // Rounds down: the last day is 0, and an expired certificate is negative at once.
    certificate.not_after.duration_since(now).as_secs().div_euclid(24 * 3600)
}

fn lists(admin: &AdminContext, live: &Snapshot, now: Timestamp) -> Vec<ListStatus> {
    let files = admin.config_status.lists.load();
    let soon = now + SignedDuration::from_hours(LAPSING_DAYS * 24);
    let age = |modified: Timestamp| now.duration_since(modified).as_secs();
    let mut lists = Vec::new();
    for policy in sorted(live) {
        for list in policy.lists() {
            // The age of a file from the future (a copied time, a clock set back) is shown as 0.
            let file =
                files.iter().find(|file| file.policy == policy.name && file.list == list.name);
            lists.push(ListStatus {
                name: list.name.to_string(),
                policy: policy.name.to_string(),
                file: list.file.to_string(),
                entries: list.len() as u64,
                lapsing_30d: list.lapsing(now, soon) as u64,
                modified: file.map(|file| Time(file.modified)),
                age_seconds: file.map(|file| u64::try_from(age(file.modified)).unwrap_or_default()),
            });
        }
    }
    lists
}

/// Collects what needs attention, each with a word for programs and a sentence for people.
pub fn warnings(admin: &AdminContext, live: &Snapshot, now: Timestamp) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |word, sentence: String| warnings.push(Warning { word, sentence });
    if is_draining(admin) {
        let (tunnels, exchanges) = (admin.tunnels.len(), admin.tunnels.exchanges_len());
        let left = format!("{tunnels} tunnels and {exchanges} exchanges are left");
        warn(WarningKind::Draining, format!("draining: {left}, and nothing new is accepted"));
    }
    for Warning { word, sentence } in file_warnings(&admin.config_status) {
        warn(word, sentence);
    }
    for sentence in admin.metrics.collapsed_identities() {
        warn(WarningKind::IdentityCollapsed, sentence);
    }
    for backend in admin.metrics.backends_down(live) {
        warn(WarningKind::BackendDown, down_sentence(backend));
    }
    for sentence in live.names.iter().filter_map(|one| one.state.fault_sentence()) {
        warn(WarningKind::Unresolved, sentence);
    }
    for sentence in live.certificates.iter().filter_map(|one| expiry_sentence(one, now)) {
        warn(WarningKind::Certificate, sentence);
    }
    for sentence in live.expired_crls(now) {
        warn(WarningKind::CrlExpired, sentence);
    }
    for sentence in admin.bans.faults().into_iter().chain(admin.config_status.hold.faults()) {
        warn(WarningKind::State, sentence);
    }
    for sentence in admin.bouncer.report().warnings(now) {
        warn(WarningKind::Crowdsec, sentence);
    }
    for sentence in admin.config_status.lists.load().iter().filter_map(|list| list.stale(now)) {
        warn(WarningKind::Stale, sentence);
    }
    for Warning { word, sentence } in crowding_warnings(admin, live) {
        warn(word, sentence);
    }
    let (drops, panics) = (admin.log.drops.count(), admin.metrics.panics());
    if drops > 0 {
        let cause = "because standard error was read too slowly";
        warn(WarningKind::LogDrops, format!("{drops} log lines were dropped, {cause}"));
    }
    if panics > 0 {
        let sentence = format!(
            "{panics} connections were ended by a bug in sidegate: please report it, with the log"
        );
        warn(WarningKind::Panics, sentence);
    }
    warnings
}

/// Collects the warnings about the files, and about what runs instead of them.
fn file_warnings(config_status: &ConfigStatus) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |word, sentence: String| warnings.push(Warning { word, sentence });
    if config_status.rejected.load().is_some() {
        let what = "the running configuration differs from the files";
        warn(WarningKind::Rejected, format!("{what}: the last reload was rejected"));
    }
    if let Some(pending) = config_status.hold.pending.load_full() {
        warn(WarningKind::Pending, pending.sentence());
    }
    for one in config_status.hold.overrides.load().iter() {
        let sentence =
            format!("the test \"{}\" of {} fails, and is overridden", one.test, one.file);
        warn(WarningKind::Overridden, sentence);
    }
    if let Some(sentence) = config_status.unwatched_sentence() {
        warn(WarningKind::WatchDegraded, sentence);
    }
    warnings
}

/// Collects the warnings about shares of tunnels: a policy that is nearly full, and a sole client.
fn crowding_warnings(admin: &AdminContext, live: &Snapshot) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for policy in sorted(live) {
        let open = admin.tunnels.budgets().tunnels(&policy.name);
        if let Some(limit) = policy.limits.total
            // Nine tenths without fractions, and in 64 bits, since ten times a `u32` may overflow.
            && u64::from(open) * 10 >= u64::from(limit) * 9
        {
            let sentence = format!("policy {} has {open} of at most {limit} tunnels", policy.name);
            warnings.push(Warning { word: WarningKind::Capacity, sentence });
        }
    }
    if let Some((client, tunnels)) = sole_client(admin) {
        let sentence = format!(
            "all {tunnels} tunnels come from the client {client}: if that is a proxy, its clients \
             share one budget"
        );
        warnings.push(Warning { word: WarningKind::OneClient, sentence });
    }
    warnings
}

fn down_sentence(backend: &Backend) -> String {
    let address = &backend.address;
    match backend.has_address() {
        true => format!("the last connection attempt to {address} failed"),
        false => format!("{address} is down: its name has no address"),
    }
}

/// Says that `certificate` has expired or soon will. `None` means that neither is so.
fn expiry_sentence(certificate: &Certificate, now: Timestamp) -> Option<String> {
    let (left, label) = (days_left(certificate, now), &certificate.label);
    if left < 0 {
        return Some(format!("{label} has expired: clients refuse it"));
    }
    let day = if left == 1 { "day" } else { "days" };
    (left < EXPIRY_WARNING_DAYS).then(|| format!("{label} expires in {left} {day}"))
}

/// The one client of all tunnels and their number; `None` means few tunnels, or several clients.
fn sole_client(admin: &AdminContext) -> Option<(ClientKey, usize)> {
    let entries = admin.tunnels.entries();
    let key = entries.first()?.subject.client.key();
    (entries.len() >= MIN_CROWD_TUNNELS
        && entries.iter().all(|entry| entry.subject.client.key() == key))
    .then_some((key, entries.len()))
}
