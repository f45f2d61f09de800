//! A scrape: the sums of all threads' counters, and the figures of the running generation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};

use crate::close::{CloseReason, ExchangeReason, Initiator, Traffic, TunnelPhase};
use crate::observe::metrics::activity::ActivityTotals;
use crate::observe::metrics::counter::{Counter, LATENCY_BOUNDS, LIFETIME_BOUNDS};
use crate::observe::metrics::crowdsec::CrowdsecFigures;
use crate::observe::metrics::exposition::Exposition;
use crate::observe::metrics::family::Family;
use crate::observe::metrics::labels::{
    ConnectionEnd, Direction, DiscardEnd, NO_ROUTE, RefusalDelivery, ReloadResult, RequestKind,
    RequestResult, TlsResult,
};
use crate::observe::metrics::registry::Metrics;
use crate::observe::metrics::thread::{ListenerMetrics, MetricTotals, RouteMetrics};
use crate::observe::metrics::{family, process};
use crate::policy::ban::BanOrigin;
use crate::policy::limit::{LimiterId, RateLimit};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::Protocol;
use crate::sync::lock;
use crate::tunnels::LiveEntry;
use crate::tunnels::budget::Budgets;

/// An entry counts as lapsing if it expires within this time.
const LAPSING_PERIOD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Totals of a route since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTotals {
    /// Tunnels that are open under this route now.
    pub open: u64,
    /// Tunnels that opened since the start.
    pub opened: u64,
    /// Requests that were refused, or failed at the backend.
    pub refused: u64,
    /// Tunnel traffic from clients to backends.
    pub from_client: Traffic,
    /// Tunnel traffic from backends to clients.
    pub from_backend: Traffic,
}

impl Metrics {
    /// All metrics at `now` in Prometheus' text format 0.0.4. Counters of removed routes go on.
    /// Figures of a generation (backends, lists, certificates, limits) are those of the running one
    /// only.
    pub fn scrape(&self, facts: &ScrapeFacts<'_>, now: Timestamp) -> String {
        text(self, facts, now)
    }

    /// Each listener's name, the number of its open connections, and its limit.
    pub fn connections(&self) -> Vec<(Arc<str>, u64, usize)> {
        connections(self)
    }

    /// The totals of each route of `snapshot`, in the order written. `entries` are all open
    /// tunnels.
    pub fn totals(
        &self,
        snapshot: &Snapshot,
        entries: &[Arc<LiveEntry>],
    ) -> Vec<(Arc<str>, RouteTotals)> {
        totals(self, snapshot, entries)
    }

    /// The sums of all threads. Those of removed routes and listeners are included, so that no sum
    /// goes back.
    pub fn activity(&self) -> ActivityTotals {
        let mut totals = ActivityTotals::default();
        for core in lock(&self.cores).iter() {
            core.add_activity(&mut totals);
        }
        totals
    }
}

fn totals(
    metrics: &Metrics,
    snapshot: &Snapshot,
    entries: &[Arc<LiveEntry>],
) -> Vec<(Arc<str>, RouteTotals)> {
    let totals = metric_totals(metrics);
    let mut open: HashMap<Arc<str>, u64> = HashMap::new();
    // Counted in the table of tunnels: a reload may move a tunnel to another route, while its
    // counters stay with the route that opened it.
    for entry in entries {
        *open.entry(Arc::clone(&entry.route().name)).or_default() += 1;
    }
    let of = |route: &Arc<str>| {
        let open = open.get(route).copied().unwrap_or_default();
        let Some(totals) = totals.routes.get(route) else {
            return RouteTotals { open, ..RouteTotals::default() };
        };
        RouteTotals {
            open,
            opened: totals.opened.sum(),
            refused: totals.refusals.iter().map(|count| count.sum()).sum(),
            from_client: totals.traffic(Direction::FromClient),
            from_backend: totals.traffic(Direction::FromBackend),
        }
    };
    snapshot.route_list.iter().map(|route| (Arc::clone(&route.name), of(&route.name))).collect()
}

fn connections(metrics: &Metrics) -> Vec<(Arc<str>, u64, usize)> {
    let totals = metric_totals(metrics);
    let open = |name: &Arc<str>| totals.listeners.get(name).map_or(0, ListenerMetrics::open);
    lock(&metrics.connections_limits)
        .iter()
        .map(|(name, limit)| (Arc::clone(name), open(name), *limit))
        .collect()
}

/// Facts for a scrape that [`Metrics`] doesn't hold.
pub struct ScrapeFacts<'s> {
    /// Snapshot of the running generation.
    pub snapshot: &'s Snapshot,
    /// The used part of every limit.
    pub budgets: &'s Budgets,
    /// Whether the process is draining.
    pub is_draining: bool,
    /// Log lines dropped since the start.
    pub log_drops: u64,
}

fn text(metrics: &Metrics, facts: &ScrapeFacts<'_>, now: Timestamp) -> String {
    let snapshot = facts.snapshot;
    let mut exposition = Exposition::default();
    let mut totals = metric_totals(metrics);
    for (name, limit) in lock(&metrics.connections_limits).iter() {
        exposition.sample(&family::CONNECTIONS_LIMIT, &[name], *limit as f64);
        // A series exists before its first count, so that `increase()` sees it; likewise for
        // routes.
        totals.listeners.entry(Arc::clone(name)).or_default();
    }
    for (name, listener) in &totals.listeners {
        let collapsed = f64::from(u8::from(metrics.is_identity_collapsed(name)));
        exposition.sample(&family::IDENTITY_COLLAPSED, &[name], collapsed);
        let rules = snapshot.listeners.get(name);
        let has_tls =
            rules.is_some_and(|rules| matches!(rules.listener.protocol, Protocol::Tls(_)));
        put_listener(&mut exposition, name, listener, has_tls);
        let certificates = rules.and_then(|rules| rules.listener.client_certificates.as_ref());
        let due = certificates.and_then(|all| all.crls_due.iter().map(|due| due.at).min());
        if let Some(due) = due {
            exposition.sample(&family::CRL_NEXT_UPDATE, &[name], due.as_second() as f64);
        }
    }
    for route in &snapshot.route_list {
        totals.routes.entry(Arc::clone(&route.name)).or_default();
    }
    for (name, route) in &totals.routes {
        put_requests(&mut exposition, name, route);
        put_tunnels(&mut exposition, name, route);
        put_exchanges(&mut exposition, name, route);
    }
    put_refused(&mut exposition, NO_ROUTE, &totals.no_route);
    put_backends(&mut exposition, metrics, snapshot);
    put_policies(&mut exposition, facts, now);
    put_candidates(&mut exposition, metrics);
    put_control(&mut exposition, metrics, facts);
    exposition.count(&family::LOG_DROPS, &[], facts.log_drops);
    exposition.sample(&family::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    process::put(&mut exposition, metrics.process_started);
    exposition.text()
}

fn metric_totals(metrics: &Metrics) -> MetricTotals {
    let mut totals = MetricTotals::default();
    for core in lock(&metrics.cores).iter() {
        core.add_to(&mut totals);
    }
    totals
}

fn put_listener(
    exposition: &mut Exposition,
    name: &str,
    listener: &ListenerMetrics,
    has_tls: bool,
) {
    exposition.count(&family::CONNECTIONS_ACCEPTED, &[name], listener.accepted.sum());
    exposition.count(&family::CONNECTIONS_OPEN, &[name], listener.open());
    exposition.count(&family::CONNECTIONS_DISCARDING, &[name], listener.discarding());
    for end in DiscardEnd::ALL {
        exposition.count(
            &family::DISCARDS,
            &[name, end.word()],
            listener.discarded[end as usize].sum(),
        );
    }
    exposition.count(&family::PROBES, &[name], listener.probes.sum());
    for end in ConnectionEnd::ALL {
        exposition.count(
            &family::CONNECTIONS_CLOSED,
            &[name, end.word()],
            listener.closed[end as usize].sum(),
        );
    }
    if has_tls {
        for result in TlsResult::ALL {
            exposition.count(
                &family::TLS_HANDSHAKES,
                &[name, result.word()],
                listener.tls_handshakes[result as usize].sum(),
            );
        }
        exposition.count(&family::TLS_DELAYED, &[name], listener.tls_delayed.sum());
        exposition.histogram(
            &family::TLS_HANDSHAKE_SECONDS,
            &[name],
            &LATENCY_BOUNDS,
            &listener.tls_handshake_seconds,
        );
    }
}

fn put_requests(exposition: &mut Exposition, name: &str, route: &RouteMetrics) {
    for kind in RequestKind::ALL {
        for result in RequestResult::ALL {
            let count = route.requests[kind as usize][result as usize].sum();
            exposition.count(&family::REQUESTS, &[name, kind.word(), result.word()], count);
        }
    }
    for refusal in Refusal::ALL {
        put_counted(
            exposition,
            &family::REFUSALS,
            name,
            refusal,
            &route.refusals,
            is_of_a_route(refusal),
        );
    }
    for delivery in RefusalDelivery::ALL {
        let count = route.deliveries[delivery as usize].sum();
        exposition.count(&family::REFUSAL_FORMS, &[name, delivery.word()], count);
    }
    exposition.histogram(&family::DIAL_SECONDS, &[name], &LATENCY_BOUNDS, &route.dial_seconds);
    exposition.histogram(
        &family::UPGRADE_SECONDS,
        &[name],
        &LATENCY_BOUNDS,
        &route.upgrade_seconds,
    );
}

/// Adds the requests without a route, which can only be refused.
fn put_refused(exposition: &mut Exposition, name: &str, route: &RouteMetrics) {
    let refused = RequestResult::Refused;
    for kind in RequestKind::ALL {
        let count = route.requests[kind as usize][refused as usize].sum();
        exposition.count(&family::REQUESTS, &[name, kind.word(), refused.word()], count);
    }
    for refusal in Refusal::ALL {
        put_counted(
            exposition,
            &family::REFUSALS,
            name,
            refusal,
            &route.refusals,
            !is_of_a_route(refusal),
        );
    }
}

/// Adds a series if it has counts or is `expected`. An expected series exists from the start, so
/// that `increase()` sees its first count.
fn put_counted(
    exposition: &mut Exposition,
    family: &Family,
    name: &str,
    refusal: Refusal,
    counts: &[Counter],
    expected: bool,
) {
    let count = counts[refusal.number()].sum();
    if expected || count > 0 {
        exposition.count(family, &[name, refusal.word()], count);
    }
}

fn put_exchanges(exposition: &mut Exposition, name: &str, route: &RouteMetrics) {
    exposition.count(&family::EXCHANGES_OPEN, &[name], route.exchanges_open());
    for by in Initiator::ALL {
        for reason in ExchangeReason::ALL {
            let count = route.exchanges_closed[by as usize][reason as usize].sum();
            exposition.count_any(
                &family::EXCHANGES_CLOSED,
                &[name, by.word(), reason.word()],
                count,
            );
        }
    }
}

fn put_tunnels(exposition: &mut Exposition, name: &str, route: &RouteMetrics) {
    exposition.count(&family::TUNNELS_OPENED, &[name], route.opened.sum());
    exposition.count(&family::TUNNELS_OPEN, &[name], route.open());
    for by in Initiator::ALL {
        for phase in TunnelPhase::ALL {
            for reason in CloseReason::ALL {
                let count = route.closed[by as usize][phase as usize][reason as usize].sum();
                exposition.count_any(
                    &family::TUNNELS_CLOSED,
                    &[name, by.word(), phase.word(), reason.word()],
                    count,
                );
            }
        }
    }
    exposition.histogram(
        &family::TUNNEL_LIFETIME_SECONDS,
        &[name],
        &LIFETIME_BOUNDS,
        &route.lifetime_seconds,
    );
    for direction in Direction::ALL {
        let Traffic { bytes, messages } = route.traffic(direction);
        exposition.count(&family::BYTES, &[name, direction.word()], bytes);
        exposition.count(&family::MESSAGES, &[name, direction.word()], messages);
    }
    for refusal in Refusal::ALL {
        put_counted(exposition, &family::REVOKED, name, refusal, &route.revoked, revokes(refusal));
    }
}

/// Whether the refusal happens after a route is found. A fault that is found late in a
/// body, whose reason is also `head`, may happen then too, but isn't expected.
const fn is_of_a_route(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Pending
        | Refusal::Tls
        | Refusal::Head(_)
        | Refusal::Path
        | Refusal::Forwarded
        | Refusal::Misdirected
        | Refusal::Route => false,
        Refusal::Network
        | Refusal::Proxy
        | Refusal::Origin
        | Refusal::Identity
        | Refusal::Subprotocol
        | Refusal::Handshake
        | Refusal::Version
        | Refusal::Plain
        | Refusal::Body
        | Refusal::Rate { .. }
        | Refusal::Connections
        | Refusal::Capacity
        | Refusal::Draining
        | Refusal::Banned
        | Refusal::Backend(_) => true,
    }
}

/// Whether `judge` may give this refusal for an open tunnel, which is then revoked.
const fn revokes(refusal: Refusal) -> bool {
    match refusal {
        Refusal::Path
        | Refusal::Network
        | Refusal::Proxy
        | Refusal::Banned
        | Refusal::Origin
        | Refusal::Identity
        | Refusal::Subprotocol
        | Refusal::Route => true,
        Refusal::Pending
        | Refusal::Tls
        | Refusal::Head(_)
        | Refusal::Forwarded
        | Refusal::Misdirected
        | Refusal::Handshake
        | Refusal::Version
        | Refusal::Plain
        | Refusal::Body
        | Refusal::Rate { .. }
        | Refusal::Connections
        | Refusal::Capacity
        | Refusal::Draining
        | Refusal::Backend(_) => false,
    }
}

/// Adds the backends of the running routes only: an alert on a removed backend that is down would
/// never end.
fn put_backends(exposition: &mut Exposition, metrics: &Metrics, snapshot: &Snapshot) {
    for route in &snapshot.route_list {
        let mut told: Vec<&_> = Vec::new();
        for backend in &route.backends {
            let address = &backend.address;
            if told.contains(&address) {
                continue; // A route may list a backend twice; a sample may appear once.
            }
            told.push(address);
            let (name, flag) = (address.to_string(), |is_true| f64::from(u8::from(is_true)));
            let labels: &[&str] = &[&route.name, &name];
            exposition.sample(&family::BACKEND_UP, labels, flag(metrics.is_up(backend)));
            let changes = metrics.backend(address).changes.load(Ordering::Relaxed);
            exposition.count(&family::BACKEND_CHANGES, labels, changes);
            if let Some(name) = &backend.name {
                let answer = name.answer();
                let addresses = answer.addresses.len() as f64;
                exposition.sample(&family::BACKEND_ADDRESSES, labels, addresses);
                let resolves = flag(answer.fault.is_none());
                exposition.sample(&family::BACKEND_RESOLVED, labels, resolves);
            }
        }
    }
}

fn put_policies(exposition: &mut Exposition, facts: &ScrapeFacts<'_>, now: Timestamp) {
    let until = now.saturating_add(LAPSING_PERIOD).unwrap_or(Timestamp::MAX);
    for policy in facts.snapshot.all_policies() {
        if let Some(total) = policy.limits.total {
            exposition.sample(&family::TUNNELS_LIMIT, &[&policy.name], f64::from(total));
        }
        if let Some(total) = policy.limits.streams_total {
            exposition.sample(&family::STREAMS_LIMIT, &[&policy.name], f64::from(total));
        }
        for list in policy.lists() {
            exposition.sample(
                &family::LIST_ENTRIES,
                &[&list.name, &policy.name],
                list.len() as f64,
            );
            exposition.sample(
                &family::ENTRIES_LAPSING,
                &[&list.name, &policy.name],
                list.lapsing(now, until) as f64,
            );
        }
        for limit in RateLimit::ALL {
            if policy.limits.rates(limit).is_empty() {
                continue;
            }
            let id = LimiterId { policy: &policy.name, is_candidate: false, limit };
            let used = facts.budgets.used(id);
            let labels: &[&str] = &[&policy.name, limit.word()];
            exposition.sample(&family::LIMITER_KEYS, labels, used.keys as f64);
            // A limiter whose rate no policy uses any more is gone, and so is its count.
            exposition.count(&family::LIMITER_OVERFLOW, labels, used.overflowed);
        }
    }
}

fn put_candidates(exposition: &mut Exposition, metrics: &Metrics) {
    for ((policy, difference, reason), count) in lock(&metrics.differences).iter() {
        exposition.count(
            &family::CANDIDATE_DIFFERENCES,
            &[policy, difference.word(), reason],
            *count,
        );
    }
    for (policy, hit) in lock(&metrics.would_revoke).iter() {
        exposition.sample(&family::CANDIDATE_WOULD_REVOKE, &[policy], hit.tunnels as f64);
    }
}

fn put_control(exposition: &mut Exposition, metrics: &Metrics, facts: &ScrapeFacts<'_>) {
    let snapshot = facts.snapshot;
    let flag = |flag: bool| f64::from(u8::from(flag));
    for result in ReloadResult::ALL {
        exposition.count(
            &family::RELOADS,
            &[result.word()],
            metrics.reloads[result as usize].load(Ordering::Relaxed),
        );
    }
    exposition.count(&family::GENERATION, &[], snapshot.generation);
    exposition.sample(
        &family::RELOAD_SUCCESSFUL,
        &[],
        flag(!metrics.reload_rejected.load(Ordering::Relaxed)),
    );
    exposition.sample(
        &family::RELOAD_SUCCESS_TIMESTAMP,
        &[],
        metrics.reload_succeeded.load(Ordering::Relaxed) as f64 / 1000.0,
    );
    exposition.sample(&family::CONFIG_INFO, &[&snapshot.digest], 1.0);
    for certificate in snapshot.certificates.iter() {
        exposition.sample(
            &family::CERTIFICATE_NOT_AFTER,
            &[&certificate.label],
            certificate.not_after.as_second() as f64,
        );
    }
    for (list, policy, modified) in lock(&metrics.lists_modified).iter() {
        exposition.sample(&family::LIST_MODIFIED, &[list, policy], modified.as_second() as f64);
    }
    let bans = snapshot.bans.load();
    for origin in BanOrigin::ALL {
        exposition.sample(&family::BANS, &[origin.word()], bans.of(origin).len() as f64);
    }
    let draining = metrics.tunnels_draining.load(Ordering::Relaxed);
    exposition.sample(&family::TUNNELS_DRAINING, &[], draining as f64);
    put_crowdsec(exposition, metrics);
    exposition.sample(&family::WATCH_DEGRADED, &[], flag(metrics.is_watch_degraded()));
    put_orders(exposition, metrics);
    exposition.sample(&family::DRAINING, &[], flag(facts.is_draining));
    exposition.count(&family::PANICS, &[], metrics.panics());
    exposition.count(
        &family::SCRAPES_REFUSED,
        &[],
        metrics.scrapes_refused.load(Ordering::Relaxed),
    );
}

/// Files that wait for an order, and tests that an order has overridden.
fn put_orders(exposition: &mut Exposition, metrics: &Metrics) {
    let pending = metrics.pending_generation.load(Ordering::Relaxed);
    exposition.sample(&family::PENDING_GENERATION, &[], pending as f64);
    let is_rejected = metrics.pending_rejected.load(Ordering::Relaxed);
    exposition.sample(&family::PENDING_REJECTED, &[], f64::from(u8::from(is_rejected)));
    let overridden = metrics.test_overrides.load(Ordering::Relaxed);
    exposition.sample(&family::TEST_OVERRIDES, &[], overridden as f64);
}

fn put_crowdsec(exposition: &mut Exposition, metrics: &Metrics) {
    // Absent without `[crowdsec]`, so that an alert about age needs no exception.
    let figures = lock(&metrics.crowdsec).clone();
    let Some(CrowdsecFigures { answered, held, refused }) = figures else { return };
    for (result, polls) in ["failed", "answered"].into_iter().zip(&metrics.crowdsec_polls) {
        exposition.count(&family::CROWDSEC_POLLS, &[result], polls.load(Ordering::Relaxed));
    }
    let answered = answered.map_or(0.0, |at| at.as_millisecond() as f64 / 1000.0);
    exposition.sample(&family::CROWDSEC_ANSWERED, &[], answered);
    for (reason, count) in refused {
        exposition.sample(&family::CROWDSEC_REFUSED, &[reason], count as f64);
    }
    exposition.sample(&family::CROWDSEC_HELD, &[], held as f64);
}
