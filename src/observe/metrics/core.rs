//! What one thread of the data plane counts: cells of its own, which nobody else writes.
//!
//! Who counts holds the set of its listener or route and finds a cell by the numbers of
//! enums: no string, no lock, no allocation. A scrape sums the sets of all threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::close::{By, Closed, ExchangeReason, Phase, Reason, Traffic};
use crate::observe::metrics::count::{Count, Histogram, LATENCY, LIFETIME};
use crate::observe::metrics::words::{
    ConnectionEnd, Direction, DiscardEnd, RequestKind, RequestResult, TlsResult,
};
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::sync::lock;

/// All that one thread counts. Each thread has its own; others only read it.
#[derive(Default)]
pub struct CoreMetrics {
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerMetrics>>>,
    routes: Mutex<BTreeMap<Arc<str>, Arc<RouteMetrics>>>,
    /// Those of `routes` that were asked for, at the places of the routes' numbers.
    numbered: ArcSwap<Vec<Option<Arc<RouteMetrics>>>>,
    /// What is refused before a route is found.
    no_route: Arc<RouteMetrics>,
}

impl CoreMetrics {
    /// The counters of a listener, to be kept.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        Arc::clone(lock(&self.listeners).entry(Arc::clone(name)).or_default())
    }

    /// The counters of a route.
    pub fn route(&self, route: &Route) -> Arc<RouteMetrics> {
        match self.numbered.load().get(route.number) {
            Some(Some(known)) => Arc::clone(known),
            _ => self.first_time(route),
        }
    }

    /// The counters of a route, or those of requests for which none was found.
    pub fn found(&self, route: Option<&Arc<Route>>) -> Arc<RouteMetrics> {
        route.map_or_else(|| Arc::clone(&self.no_route), |route| self.route(route))
    }

    /// The counters of what is refused before there is a request, or without a route.
    pub fn no_route(&self) -> &RouteMetrics {
        &self.no_route
    }

    /// A route keeps its counters when it comes back by its name under another number.
    fn first_time(&self, route: &Route) -> Arc<RouteMetrics> {
        let mut routes = lock(&self.routes);
        let own = Arc::clone(routes.entry(Arc::clone(&route.name)).or_default());
        let mut numbered = Vec::clone(&self.numbered.load());
        numbered.resize(numbered.len().max(route.number + 1), None);
        numbered[route.number] = Some(Arc::clone(&own));
        self.numbered.store(Arc::new(numbered));
        own
    }

    /// Adds what was counted here to the sums of all threads.
    pub(super) fn add_to(&self, sums: &mut Sums) {
        for (name, listener) in lock(&self.listeners).iter() {
            add(listener.counts(), sums.listeners.entry(Arc::clone(name)).or_default().counts());
        }
        for (name, route) in lock(&self.routes).iter() {
            add(route.counts(), sums.routes.entry(Arc::clone(name)).or_default().counts());
        }
        add(self.no_route.counts(), sums.no_route.counts());
    }
}

/// What all threads have counted, by the names of listeners and routes.
#[derive(Default)]
pub struct Sums {
    pub listeners: BTreeMap<Arc<str>, ListenerMetrics>,
    pub routes: BTreeMap<Arc<str>, RouteMetrics>,
    pub no_route: RouteMetrics,
}

/// What one thread has counted of a listener. Apart by two cache lines, which processors fetch in pairs.
#[derive(Default)]
#[repr(align(128))]
pub struct ListenerMetrics {
    pub(super) closed: [Count; ConnectionEnd::ALL.len()],
    pub(super) accepted: Count,
    pub(super) discarded: [Count; DiscardEnd::ALL.len()],
    pub(super) discards: Count,
    pub(super) probes: Count,
    pub(super) tls_delayed: Count,
    pub(super) tls_handshakes: [Count; TlsResult::ALL.len()],
    pub(super) tls_handshake_seconds: Histogram<{ LATENCY.len() }>,
}

impl ListenerMetrics {
    /// A connection was accepted.
    pub fn accepted(&self) {
        self.accepted.add(1);
    }

    /// A connection ended without a byte: a health check.
    pub fn probed(&self) {
        self.probes.add(1);
    }

    /// A TLS handshake has to wait for its client's rate.
    pub fn tls_delayed(&self) {
        self.tls_delayed.add(1);
    }

    /// A TLS handshake came to its end, `took` after the accept.
    pub fn tls_handshake(&self, result: TlsResult, took: Duration) {
        self.tls_handshakes[result as usize].add(1);
        if matches!(result, TlsResult::Full | TlsResult::Resumed) {
            self.tls_handshake_seconds.observe(&LATENCY, took);
        }
    }

    /// A connection ended.
    pub fn closed(&self, end: ConnectionEnd) {
        self.closed[end as usize].add(1);
    }

    /// A connection only discards from now on.
    pub fn discards(&self) {
        self.discards.add(1);
    }

    /// The discarding came to its end.
    pub fn discarded(&self, end: DiscardEnd) {
        self.discarded[end as usize].add(1);
    }

    /// Those that discard.
    pub(super) fn discarding(&self) -> u64 {
        self.discards.sum().saturating_sub(sum(&self.discarded))
    }

    /// Those that were accepted and are not closed yet.
    pub(super) fn open(&self) -> u64 {
        self.accepted.sum().saturating_sub(sum(&self.closed))
    }

    /// Ends before their beginnings: whose end is seen, its beginning is too.
    fn counts(&self) -> impl Iterator<Item = &Count> {
        let ends = self.closed.iter().chain(&self.discarded);
        let rest = [&self.accepted, &self.discards, &self.probes, &self.tls_delayed]
            .into_iter()
            .chain(&self.tls_handshakes);
        ends.chain(rest).chain(self.tls_handshake_seconds.counts())
    }
}

/// What one thread has counted of a route, or of what found none.
#[derive(Default)]
#[repr(align(128))]
pub struct RouteMetrics {
    pub(super) bytes: [Count; Direction::ALL.len()],
    pub(super) messages: [Count; Direction::ALL.len()],
    pub(super) requests: [[Count; RequestResult::ALL.len()]; RequestKind::ALL.len()],
    pub(super) refusals: [Count; Refusal::ALL.len()],
    pub(super) dial_seconds: Histogram<{ LATENCY.len() }>,
    pub(super) upgrade_seconds: Histogram<{ LATENCY.len() }>,
    pub(super) closed: [[[Count; Reason::ALL.len()]; Phase::ALL.len()]; By::ALL.len()],
    pub(super) opened: Count,
    pub(super) lifetime_seconds: Histogram<{ LIFETIME.len() }>,
    pub(super) revoked: [Count; Refusal::ALL.len()],
    pub(super) exchanges_opened: Count,
    pub(super) exchanges_closed: [[Count; ExchangeReason::ALL.len()]; By::ALL.len()],
}

impl RouteMetrics {
    /// A request was answered.
    pub fn request(&self, kind: RequestKind, result: RequestResult) {
        self.requests[kind as usize][result as usize].add(1);
    }

    /// A request, or a connection before it, was refused; or its backend failed.
    pub fn refused(&self, refusal: Refusal) {
        self.refusals[refusal.number()].add(1);
    }

    /// A backend took the connection.
    pub fn dialled(&self, took: Duration) {
        self.dial_seconds.observe(&LATENCY, took);
    }

    /// A tunnel opened, `took` after its head.
    pub fn tunnel_opened(&self, took: Duration) {
        self.opened.add(1);
        self.upgrade_seconds.observe(&LATENCY, took);
    }

    /// A tunnel relayed something.
    #[inline]
    pub fn relayed(&self, direction: Direction, bytes: u64, messages: u64) {
        self.bytes[direction as usize].add(bytes);
        self.messages[direction as usize].add(messages);
    }

    /// A tunnel that opened here ended; `refusal` where it was revoked.
    pub fn tunnel_closed(&self, closed: &Closed, refusal: Option<Refusal>) {
        self.closed[closed.by as usize][closed.phase as usize][closed.reason as usize].add(1);
        self.lifetime_seconds.observe(&LIFETIME, closed.lasted);
        if let Some(refusal) = refusal {
            self.revoked[refusal.number()].add(1);
        }
    }

    /// A request was let in to be forwarded.
    pub fn exchange_opened(&self) {
        self.exchanges_opened.add(1);
    }

    /// The exchange of a request that was let in here ended.
    pub fn exchange_closed(&self, by: By, reason: ExchangeReason) {
        self.exchanges_closed[by as usize][reason as usize].add(1);
    }

    /// Exchanges that began and have not ended yet.
    pub(super) fn exchanges_open(&self) -> u64 {
        self.exchanges_opened.sum().saturating_sub(sum(self.exchanges_closed.as_flattened()))
    }

    /// Tunnels that opened and have not closed yet.
    pub(super) fn open(&self) -> u64 {
        self.opened.sum().saturating_sub(sum(self.ends()))
    }

    /// What was relayed one way.
    pub(super) fn traffic(&self, direction: Direction) -> Traffic {
        Traffic {
            bytes: self.bytes[direction as usize].sum(),
            messages: self.messages[direction as usize].sum(),
        }
    }

    fn ends(&self) -> &[Count] {
        self.closed.as_flattened().as_flattened()
    }

    /// `closed` before `opened`: whose end is seen, its beginning is too.
    fn counts(&self) -> impl Iterator<Item = &Count> {
        let tunnels = self
            .ends()
            .iter()
            .chain([&self.opened])
            .chain(self.lifetime_seconds.counts())
            .chain(&self.revoked);
        let passed = self.bytes.iter().chain(&self.messages);
        let requests = self.requests.as_flattened().iter().chain(&self.refusals);
        let waits = self.dial_seconds.counts().chain(self.upgrade_seconds.counts());
        let exchanges = self.exchanges_closed.as_flattened().iter().chain([&self.exchanges_opened]);
        tunnels.chain(exchanges).chain(passed).chain(requests).chain(waits)
    }
}

fn add<'c>(counts: impl Iterator<Item = &'c Count>, sums: impl Iterator<Item = &'c Count>) {
    for (count, sum) in counts.zip(sums) {
        sum.add(count.sum());
    }
}

fn sum(counts: &[Count]) -> u64 {
    counts.iter().map(Count::sum).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(by: By, reason: Reason) -> Closed {
        let nothing = Traffic::default();
        let (phase, lasted) = (Phase::Closing, Duration::from_secs(2));
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
    fn what_each_thread_counted_of_one_name_is_summed() {
        let (cores, name) = ([CoreMetrics::default(), CoreMetrics::default()], Arc::from("public"));
        for core in &cores {
            let listener = core.listener(&name);
            listener.accepted();
            listener.accepted();
            core.listener(&name).closed(ConnectionEnd::Tls);
            core.no_route().refused(Refusal::Tls);
        }
        let mut sums = Sums::default();
        cores.iter().for_each(|core| core.add_to(&mut sums));
        let listener = &sums.listeners[&name];
        let facts = [
            listener.accepted.sum(),
            listener.open(),
            listener.closed[ConnectionEnd::Tls as usize].sum(),
        ];
        assert_eq!((facts, sums.no_route.refusals[Refusal::Tls.number()].sum()), ([4, 2, 2], 2));
    }

    #[test]
    fn every_count_of_a_route_reaches_the_sums() {
        let route = RouteMetrics::default();
        route.tunnel_opened(Duration::from_millis(3));
        route.dialled(Duration::from_micros(300));
        route.relayed(Direction::FromBackend, 7, 1);
        route.request(RequestKind::Plain, RequestResult::Failed);
        route.tunnel_closed(&closed(By::Sidegate, Reason::Revoked), Some(Refusal::Network));
        route.exchange_opened();
        route.exchange_opened();
        route.exchange_closed(By::Client, ExchangeReason::ClientLeft);
        let sums = RouteMetrics::default();
        (0..3).for_each(|_| add(route.counts(), sums.counts()));
        assert_eq!(
            (sums.opened.sum(), sums.open(), sums.revoked[Refusal::Network.number()].sum()),
            (3, 0, 3)
        );
        let left = &sums.exchanges_closed[By::Client as usize][ExchangeReason::ClientLeft as usize];
        assert_eq!((sums.exchanges_open(), left.sum()), (3, 3));
        assert_eq!(sums.traffic(Direction::FromBackend), Traffic { bytes: 21, messages: 3 });
        assert_eq!(
            sums.requests[RequestKind::Plain as usize][RequestResult::Failed as usize].sum(),
            3
        );
        assert_eq!(
            [
                sums.dial_seconds.cumulative().1,
                sums.upgrade_seconds.cumulative().1,
                sums.lifetime_seconds.cumulative().1
            ],
            [3; 3]
        );
        assert_eq!(
            sums.closed[By::Sidegate as usize][Phase::Closing as usize][Reason::Revoked as usize]
                .sum(),
            3
        );
    }
}
