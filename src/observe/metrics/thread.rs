//! The counters of one data-plane thread, which no other thread writes.
//!
//! Callers hold the set of a listener or route, and find a cell by the numbers of enums: no string,
//! no lock, no allocation. A scrape sums the sets of all threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::close::{CloseReason, Closed, ExchangeReason, Initiator, Traffic, TunnelPhase};
use crate::observe::metrics::activity::ActivityTotals;
use crate::observe::metrics::counter::{Counter, Histogram, LATENCY_BOUNDS, LIFETIME_BOUNDS};
use crate::observe::metrics::identity::{IdentityCounts, IdentityWindow};
use crate::observe::metrics::labels::{
    ConnectionEnd, Direction, DiscardEnd, RefusalDelivery, RequestKind, RequestResult, TlsResult,
};
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::sync::lock;

/// All counters of one thread. Other threads only read them.
#[derive(Default)]
pub struct ThreadMetrics {
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerMetrics>>>,
    routes: Mutex<BTreeMap<Arc<str>, Arc<RouteMetrics>>>,
    /// The entries of `routes` that were looked up so far, indexed by the route's number.
    numbered: ArcSwap<Vec<Option<Arc<RouteMetrics>>>>,
    /// Counters of connections and requests that are refused before a route is found.
    no_route: Arc<RouteMetrics>,
}

impl ThreadMetrics {
    /// The counters of a listener. The lookup takes a lock, so callers keep the result.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        Arc::clone(lock(&self.listeners).entry(Arc::clone(name)).or_default())
    }

    /// The counters of a route.
    pub fn route(&self, route: &Route) -> Arc<RouteMetrics> {
        match self.numbered.load().get(route.number) {
            Some(Some(known)) => Arc::clone(known),
            // This thread has not yet served the route of this number.
            _ => self.first_time(route),
        }
    }

    /// The counters of a route, or those of requests for which none was found.
    pub fn route_or_none(&self, route: Option<&Arc<Route>>) -> Arc<RouteMetrics> {
        route.map_or_else(|| Arc::clone(&self.no_route), |route| self.route(route))
    }

    /// The counters of connections without a request, and of requests without a route.
    pub fn no_route(&self) -> &RouteMetrics {
        &self.no_route
    }

    /// Enters a route's number. A route that comes back with the same name keeps its counters.
    fn first_time(&self, route: &Route) -> Arc<RouteMetrics> {
        let mut routes = lock(&self.routes);
        let own = Arc::clone(routes.entry(Arc::clone(&route.name)).or_default());
        // `routes` stays locked until the store: of two concurrent copies one would lose its entry.
        let mut numbered = Vec::clone(&self.numbered.load());
        numbered.resize(numbered.len().max(route.number + 1), None);
        numbered[route.number] = Some(Arc::clone(&own));
        self.numbered.store(Arc::new(numbered));
        own
    }

    /// Moves this thread's counts of identities into the windows of the listeners.
    pub(super) fn take_identities(&self, windows: &mut BTreeMap<Arc<str>, IdentityWindow>) {
        for (name, listener) in lock(&self.listeners).iter() {
            listener.identity.take(windows.entry(Arc::clone(name)).or_default());
        }
    }

    /// Adds this thread's part of the activity to the sums of all threads.
    pub(super) fn add_activity(&self, totals: &mut ActivityTotals) {
        for listener in lock(&self.listeners).values() {
            totals.connections += listener.accepted.sum();
        }
        // A sum of everything, as for a scrape, would read some hundred cells of each route.
        lock(&self.routes).values().for_each(|route| route.add_activity(totals));
        self.no_route.add_activity(totals);
    }

    /// Adds this thread's counts to the sums of all threads.
    pub(super) fn add_to(&self, totals: &mut MetricTotals) {
        // The thread itself locks these maps only for a name that is new to it, so that a scrape
        // doesn't hold up traffic.
        for (name, listener) in lock(&self.listeners).iter() {
            add(listener.counts(), totals.listeners.entry(Arc::clone(name)).or_default().counts());
        }
        for (name, route) in lock(&self.routes).iter() {
            add(route.counts(), totals.routes.entry(Arc::clone(name)).or_default().counts());
        }
        add(self.no_route.counts(), totals.no_route.counts());
    }
}

/// The sums of all threads, by the names of listeners and routes.
#[derive(Default)]
pub struct MetricTotals {
    pub listeners: BTreeMap<Arc<str>, ListenerMetrics>,
    pub routes: BTreeMap<Arc<str>, RouteMetrics>,
    pub no_route: RouteMetrics,
}

/// One thread's counters of a listener. Aligned to two cache lines, which processors prefetch in
/// pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct ListenerMetrics {
    pub(super) closed: [Counter; ConnectionEnd::ALL.len()],
    pub(super) accepted: Counter,
    pub(super) discarded: [Counter; DiscardEnd::ALL.len()],
    pub(super) discards: Counter,
    pub(super) probes: Counter,
    pub(super) tls_delayed: Counter,
    pub(super) tls_handshakes: [Counter; TlsResult::ALL.len()],
    pub(super) tls_handshake_seconds: Histogram<{ LATENCY_BOUNDS.len() }>,
    /// Whether its clients can be told apart. It is no counter of a scrape.
    pub identity: IdentityCounts,
}

impl ListenerMetrics {
    /// Counts an accepted connection.
    pub fn accepted(&self) {
        self.accepted.add(1);
    }

    /// Counts a connection that ended without a byte: a health check.
    pub fn probed(&self) {
        self.probes.add(1);
    }

    /// Counts a TLS handshake that waits for its client's rate.
    pub fn tls_delayed(&self) {
        self.tls_delayed.add(1);
    }

    /// Counts the end of a TLS handshake, `took` after the accept. Only completed handshakes enter
    /// the histogram.
    pub fn tls_handshake(&self, result: TlsResult, took: Duration) {
        self.tls_handshakes[result as usize].add(1);
        if matches!(result, TlsResult::Full | TlsResult::Resumed) {
            self.tls_handshake_seconds.observe(&LATENCY_BOUNDS, took);
        }
    }

    /// Counts a closed connection by its reason.
    pub fn closed(&self, end: ConnectionEnd) {
        self.closed[end as usize].add(1);
    }

    /// Counts a connection that only discards input from now on.
    pub fn discards(&self) {
        self.discards.add(1);
    }

    /// Counts the end of a connection's discarding.
    pub fn discarded(&self, end: DiscardEnd) {
        self.discarded[end as usize].add(1);
    }

    /// Number of connections that discard now.
    pub(super) fn discarding(&self) -> u64 {
        self.discards.sum().saturating_sub(sum(&self.discarded))
    }

    /// Number of connections that are accepted and not yet closed.
    pub(super) fn open(&self) -> u64 {
        self.accepted.sum().saturating_sub(sum(&self.closed))
    }

    /// Every cell; ends before beginnings, so that a scrape that sees an end also sees its
    /// beginning.
    fn counts(&self) -> impl Iterator<Item = &Counter> {
        let ends = self.closed.iter().chain(&self.discarded);
        let rest = [&self.accepted, &self.discards, &self.probes, &self.tls_delayed]
            .into_iter()
            .chain(&self.tls_handshakes);
        ends.chain(rest).chain(self.tls_handshake_seconds.counts())
    }
}

/// One thread's counters of a route, or of requests without one.
#[derive(Default)]
#[repr(align(128))]
pub struct RouteMetrics {
    pub(super) bytes: [Counter; Direction::ALL.len()],
    pub(super) messages: [Counter; Direction::ALL.len()],
    pub(super) requests: [[Counter; RequestResult::ALL.len()]; RequestKind::ALL.len()],
    pub(super) refusals: [Counter; Refusal::ALL.len()],
    pub(super) deliveries: [Counter; RefusalDelivery::ALL.len()],
    pub(super) dial_seconds: Histogram<{ LATENCY_BOUNDS.len() }>,
    pub(super) upgrade_seconds: Histogram<{ LATENCY_BOUNDS.len() }>,
    pub(super) closed:
        [[[Counter; CloseReason::ALL.len()]; TunnelPhase::ALL.len()]; Initiator::ALL.len()],
    pub(super) opened: Counter,
    /// Tunnels that another process has opened and keeps: they count as open, and not as opened.
    pub(super) taken_over: Counter,
    pub(super) lifetime_seconds: Histogram<{ LIFETIME_BOUNDS.len() }>,
    pub(super) revoked: [Counter; Refusal::ALL.len()],
    pub(super) exchanges_opened: Counter,
    pub(super) exchanges_closed: [[Counter; ExchangeReason::ALL.len()]; Initiator::ALL.len()],
}

impl RouteMetrics {
    /// Counts a request and its result.
    pub fn request(&self, kind: RequestKind, result: RequestResult) {
        self.requests[kind as usize][result as usize].add(1);
    }

    /// Counts a refused connection or request, or a failed backend.
    pub fn refused(&self, refusal: Refusal) {
        self.refusals[refusal.number()].add(1);
    }

    /// Counts a refusal that its route does not answer over HTTP, and how it was delivered.
    pub fn delivered(&self, delivery: RefusalDelivery) {
        self.deliveries[delivery as usize].add(1);
    }

    /// Records the time to connect to a backend.
    pub fn dialled(&self, took: Duration) {
        self.dial_seconds.observe(&LATENCY_BOUNDS, took);
    }

    /// Counts a tunnel that opened, `took` after its head.
    pub fn tunnel_opened(&self, took: Duration) {
        self.opened.add(1);
        self.upgrade_seconds.observe(&LATENCY_BOUNDS, took);
    }

    /// Counts a tunnel that another process keeps as open here.
    pub fn tunnel_taken_over(&self) {
        self.taken_over.add(1);
    }

    /// Counts a tunnel of another process that is gone with it, or without a word.
    pub fn tunnel_lost(&self) {
        let (by, phase) = (Initiator::Sidegate, TunnelPhase::Open);
        self.closed[by as usize][phase as usize][CloseReason::Cut as usize].add(1);
    }

    /// Adds relayed bytes and messages of a tunnel.
    #[inline]
    pub fn relayed(&self, direction: Direction, bytes: u64, messages: u64) {
        self.bytes[direction as usize].add(bytes);
        self.messages[direction as usize].add(messages);
    }

    /// Counts the end of a tunnel that opened under this route; `refusal` if it was revoked.
    pub fn tunnel_closed(&self, closed: &Closed, refusal: Option<Refusal>) {
        self.closed[closed.by as usize][closed.phase as usize][closed.reason as usize].add(1);
        self.lifetime_seconds.observe(&LIFETIME_BOUNDS, closed.lasted);
        if let Some(refusal) = refusal {
            self.revoked[refusal.number()].add(1);
        }
    }

    /// Counts a plain request that is admitted and forwarded.
    pub fn exchange_opened(&self) {
        self.exchanges_opened.add(1);
    }

    /// Counts the end of an exchange that began under this route.
    pub fn exchange_closed(&self, by: Initiator, reason: ExchangeReason) {
        self.exchanges_closed[by as usize][reason as usize].add(1);
    }

    /// Number of exchanges that have begun and not yet ended.
    pub(super) fn exchanges_open(&self) -> u64 {
        self.exchanges_opened.sum().saturating_sub(sum(self.exchanges_closed.as_flattened()))
    }

    /// Number of tunnels that have opened and not yet closed.
    pub(super) fn open(&self) -> u64 {
        let begun = self.opened.sum() + self.taken_over.sum();
        begun.saturating_sub(sum(self.ends()))
    }

    /// Traffic relayed in one direction.
    pub(super) fn traffic(&self, direction: Direction) -> Traffic {
        Traffic {
            bytes: self.bytes[direction as usize].sum(),
            messages: self.messages[direction as usize].sum(),
        }
    }

    fn add_activity(&self, totals: &mut ActivityTotals) {
        totals.opened += self.opened.sum();
        let plain = &self.requests[RequestKind::Plain as usize];
        for result in [RequestResult::Permitted, RequestResult::Failed] {
            totals.plain += plain[result as usize].sum();
        }
        for (sum, count) in totals.refusals.iter_mut().zip(&self.refusals) {
            *sum += count.sum();
        }
        for (sum, direction) in [
            (&mut totals.from_client, Direction::FromClient),
            (&mut totals.from_backend, Direction::FromBackend),
        ] {
            let Traffic { bytes, messages } = self.traffic(direction);
            sum.bytes += bytes;
            sum.messages += messages;
        }
    }

    fn ends(&self) -> &[Counter] {
        self.closed.as_flattened().as_flattened()
    }

    /// Every cell; `closed` before `opened`, so that a scrape that sees an end also sees its
    /// beginning.
    fn counts(&self) -> impl Iterator<Item = &Counter> {
        let tunnels = self
            .ends()
            .iter()
            .chain([&self.opened, &self.taken_over])
            .chain(self.lifetime_seconds.counts())
            .chain(&self.revoked);
        let passed = self.bytes.iter().chain(&self.messages);
        let refusals = self.refusals.iter().chain(&self.deliveries);
        let requests = self.requests.as_flattened().iter().chain(refusals);
        let waits = self.dial_seconds.counts().chain(self.upgrade_seconds.counts());
        let exchanges = self.exchanges_closed.as_flattened().iter().chain([&self.exchanges_opened]);
        tunnels.chain(exchanges).chain(passed).chain(requests).chain(waits)
    }
}

fn add<'c>(counts: impl Iterator<Item = &'c Counter>, totals: impl Iterator<Item = &'c Counter>) {
    // Both sides come from the same `counts`, so equal positions are equal cells.
    for (count, sum) in counts.zip(totals) {
        sum.add(count.sum());
    }
}

fn sum(counts: &[Counter]) -> u64 {
    counts.iter().map(Counter::sum).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(by: Initiator, reason: CloseReason) -> Closed {
        let nothing = Traffic::default();
        let (phase, lasted) = (TunnelPhase::Closing, Duration::from_secs(2));
        Closed {
            by,
            phase,
            reason,
            code: None,
            from_client: nothing,
            from_backend: nothing,
            lasted,
        }
    }

    #[test]
    fn counts_of_all_threads_are_summed_by_name() {
        let (cores, name) =
            ([ThreadMetrics::default(), ThreadMetrics::default()], Arc::from("public"));
        for core in &cores {
            let listener = core.listener(&name);
            listener.accepted();
            listener.accepted();
            core.listener(&name).closed(ConnectionEnd::Tls);
            core.no_route().refused(Refusal::Tls);
        }
        let mut totals = MetricTotals::default();
        cores.iter().for_each(|core| core.add_to(&mut totals));
        let listener = &totals.listeners[&name];
        let facts = [
            listener.accepted.sum(),
            listener.open(),
            listener.closed[ConnectionEnd::Tls as usize].sum(),
        ];
        assert_eq!((facts, totals.no_route.refusals[Refusal::Tls.number()].sum()), ([4, 2, 2], 2));
    }

    #[test]
    fn activity_sums_threads_routes_and_requests_without_a_route() {
        let mut totals = ActivityTotals::default();
        for core in [ThreadMetrics::default(), ThreadMetrics::default()] {
            core.listener(&Arc::from("public")).accepted();
            core.no_route().refused(Refusal::Tls);
            let route = Arc::new(RouteMetrics::default());
            route.refused(Refusal::Route);
            route.request(RequestKind::Plain, RequestResult::Permitted);
            route.request(RequestKind::Plain, RequestResult::Failed);
            route.request(RequestKind::Plain, RequestResult::Refused);
            route.request(RequestKind::Upgrade, RequestResult::Permitted);
            route.tunnel_opened(Duration::ZERO);
            route.relayed(Direction::FromClient, 7, 1);
            route.relayed(Direction::FromBackend, 5, 2);
            lock(&core.routes).insert("chat".into(), route);
            core.add_activity(&mut totals);
        }
        assert_eq!((totals.connections, totals.opened, totals.plain), (2, 2, 4));
        assert_eq!((totals.refused(), totals.refusals[Refusal::Tls.number()]), (4, 2));
        assert_eq!(totals.from_client, Traffic { bytes: 14, messages: 2 });
        assert_eq!(totals.from_backend, Traffic { bytes: 10, messages: 4 });
    }

    #[test]
    fn every_count_of_a_route_reaches_the_sums() {
        let route = RouteMetrics::default();
        route.tunnel_opened(Duration::from_millis(3));
        route.dialled(Duration::from_micros(300));
        route.relayed(Direction::FromBackend, 7, 1);
        route.request(RequestKind::Plain, RequestResult::Failed);
        route.tunnel_closed(
            &closed(Initiator::Sidegate, CloseReason::Revoked),
            Some(Refusal::Network),
        );
        route.exchange_opened();
        route.exchange_opened();
        route.exchange_closed(Initiator::Client, ExchangeReason::ClientLeft);
        let totals = RouteMetrics::default();
        (0..3).for_each(|_| add(route.counts(), totals.counts()));
        assert_eq!(
            (totals.opened.sum(), totals.open(), totals.revoked[Refusal::Network.number()].sum()),
            (3, 0, 3)
        );
        let left = &totals.exchanges_closed[Initiator::Client as usize]
            [ExchangeReason::ClientLeft as usize];
        assert_eq!((totals.exchanges_open(), left.sum()), (3, 3));
        assert_eq!(totals.traffic(Direction::FromBackend), Traffic { bytes: 21, messages: 3 });
        assert_eq!(
            totals.requests[RequestKind::Plain as usize][RequestResult::Failed as usize].sum(),
            3
        );
        assert_eq!(
            [
                totals.dial_seconds.cumulative().1,
                totals.upgrade_seconds.cumulative().1,
                totals.lifetime_seconds.cumulative().1
            ],
            [3; 3]
        );
        assert_eq!(
            totals.closed[Initiator::Sidegate as usize][TunnelPhase::Closing as usize]
                [CloseReason::Revoked as usize]
                .sum(),
            3
        );
    }
}
