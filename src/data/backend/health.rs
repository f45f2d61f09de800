//! The state of backends: how many tunnels each has, and whether it is down.
//!
//! A backend that is down is tried last for a while, and longer each time that it is found down
//! again. Each address of a backend with a name has a state of its own, and the backend is down
//! when all of them are. This module dials nothing.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::metrics::{BackendMetrics, Metrics};
use crate::snapshot::Snapshot;
use crate::snapshot::route::{Backend, BackendAddress, Endpoint, Route};
use crate::sync::lock;

/// How long a backend that refused a dial is tried last: at first, and at most. The time doubles
/// each time that the backend is found down again.
const MIN_OUTAGE: Duration = Duration::from_secs(1);
const MAX_OUTAGE: Duration = Duration::from_secs(10);

/// What the process knows of its backends.
pub struct BackendTable {
    metrics: Arc<Metrics>,
    known: Mutex<HealthTable>,
}

#[derive(Default)]
struct HealthTable {
    endpoints: HashMap<Endpoint, Arc<BackendHealth>>,
    /// The state at the last look. `None` means that some endpoints are kept only for their
    /// tunnels.
    tidied: Option<TidyState>,
}

/// What a look at the known endpoints depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TidyState {
    generation: u64,
    /// Number of changes of the names' addresses.
    name_changes: u64,
    /// Number of endpoints that are known.
    known: usize,
}

/// The state of one address of a backend, shared by all threads.
pub struct BackendHealth {
    /// The metrics of the backend. The addresses of a name share them.
    metrics: Arc<BackendMetrics>,
    /// The addresses of `localhost` share it: they lead to one server, and the first that takes a
    /// connection shall get the next too.
    tunnels: Arc<AtomicUsize>,
    down: Mutex<Option<Outage>>,
}

/// Why a dial failed.
pub struct DialFault<'d> {
    /// Whether the time for the dial was used up.
    pub hangs: bool,
    /// What went wrong, for the log.
    pub error: &'d dyn fmt::Display,
}

/// An address of a backend that is down, as every process of the agent names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownBackend {
    /// The backend as `sidegate.toml` has it.
    pub backend: String,
    /// The address of its name. `None` means that the backend has no name.
    pub resolved: Option<SocketAddr>,
    /// Whether it let the latest dial time out.
    pub hangs: bool,
}

/// A backend that is down. It is tried behind all others, but for one dial each time that its pause
/// is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outage {
    pause: Duration,
    until: Instant,
    /// Whether it let the latest dial time out, and so is the last to be tried.
    hangs: bool,
}

impl Outage {
    fn since(now: Instant) -> Self {
        Outage { pause: MIN_OUTAGE, until: now + MIN_OUTAGE, hangs: false }
    }

    /// Notes a dial. If the pause was over, another begins, twice as long, so that other dials try
    /// the backend last meanwhile.
    fn tried(&mut self, now: Instant) {
        if self.until <= now {
            self.pause = (self.pause * 2).min(MAX_OUTAGE);
            self.until = now + self.pause;
        }
    }
}

/// In which order backends are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DialRank {
    Up,
    Refusing,
    /// Last, since its dial takes time that the others may need.
    Hanging,
}

/// A tunnel's weight on its backend; taken off on drop.
pub struct LoadGuard(Arc<AtomicUsize>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        // Relaxed: the number only ranks backends, and a late value costs no more than a worse
        // choice.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackendTable {
    /// Starts without any known backend.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        BackendTable { metrics, known: Mutex::default() }
    }

    /// The addresses of `backends` in the order in which to try them: the ones that are up come
    /// first, and among equals the ones with the fewest tunnels.
    pub fn ranked(&self, backends: &[Backend]) -> Vec<(Endpoint, Arc<BackendHealth>)> {
        let mut known = lock(&self.known);
        let mut ranked = Vec::with_capacity(backends.len());
        for backend in backends {
            backend.each_endpoint(|endpoint| {
                let health = known.health(&endpoint, &self.metrics);
                ranked.push((endpoint, health));
            });
        }
        drop(known);
        let now = Instant::now();
        // The keys are read once: other threads change them, and a sort may panic when two
        // comparisons contradict each other.
        ranked.sort_by_cached_key(|(_, health)| {
            (health.rank(now), health.tunnels.load(Ordering::Relaxed))
        });
        ranked
    }

    /// The addresses whose last dial failed, for another process of the agent.
    pub fn down(&self) -> Vec<DownBackend> {
        let known = lock(&self.known);
        let down = known.endpoints.iter().filter_map(|(endpoint, health)| {
            let outage = (*lock(&health.down))?;
            let (backend, resolved) = (endpoint.backend.to_string(), endpoint.resolved);
            Some(DownBackend { backend, resolved, hangs: outage.hangs })
        });
        down.collect()
    }

    /// Notes what another process of the agent has found down. Addresses that `live` does not have
    /// are left out.
    pub fn note_down(&self, live: &Snapshot, down: &[DownBackend]) {
        for backend in live.route_list.iter().flat_map(|route| &route.backends) {
            let name = backend.address.to_string();
            backend.each_endpoint(|endpoint| {
                let is_it =
                    |one: &&DownBackend| one.backend == name && one.resolved == endpoint.resolved;
                let Some(found) = down.iter().find(is_it) else { return };
                // The lock is not held over `fail`, which takes that of the address.
                let health = lock(&self.known).health(&endpoint, &self.metrics);
                // Its first pause begins, after which one dial tries it.
                health.fail(found.hangs);
            });
            if lock(&self.known).all_down(backend) {
                self.metrics.backend(&backend.address).dialled(false);
            }
        }
    }

    /// Forgets the addresses that `live` does not have, once no tunnel runs on them. An
    /// address that returns later begins anew. Notes which names have no address that is up.
    pub fn tidy(&self, live: &Snapshot) {
        let mut known = lock(&self.known);
        let (generation, name_changes) = (live.generation, live.names.changes());
        // An address that an older generation's request has dialled since makes the number larger.
        let state = TidyState { generation, name_changes, known: known.endpoints.len() };
        if known.tidied == Some(state) {
            return;
        }
        let (mut named, mut wanted) = (HashSet::new(), HashSet::new());
        for backend in live.route_list.iter().flat_map(|route| &route.backends) {
            named.insert(&backend.address);
            backend.each_endpoint(|endpoint| {
                wanted.insert(endpoint);
            });
        }
        known.endpoints.retain(|endpoint, health| {
            wanted.contains(endpoint) || health.tunnels.load(Ordering::Relaxed) > 0
        });
        let kept: HashSet<_> =
            known.endpoints.keys().map(|endpoint| endpoint.backend.clone()).collect();
        self.metrics.forget_backends(|address| !named.contains(address) && !kept.contains(address));
        for route in &live.route_list {
            for backend in route.backends.iter().filter(|backend| backend.name.is_some()) {
                self.note_name(route, backend, &known);
            }
        }
        // As long as a tunnel keeps an unnamed address, each call has to look again.
        let waits = known.endpoints.keys().any(|endpoint| !wanted.contains(endpoint));
        let known_now = known.endpoints.len();
        known.tidied = (!waits).then_some(TidyState { known: known_now, ..state });
    }

    /// Notes whether a backend with a name is up, by the addresses that it has now.
    fn note_name(&self, route: &Route, backend: &Backend, known: &HealthTable) {
        let metrics = self.metrics.backend(&backend.address);
        if !known.all_down(backend) {
            if metrics.dialled(true) {
                tracing::info!(backend = %backend.address, "the backend is up again");
            }
        } else if metrics.dialled(false) {
            let (route, error) = (&*route.name, no_address(backend));
            tracing::warn!(route, backend = %backend.address, error, "the backend is down");
        }
    }

    /// Notes a dial that failed. Warns once for each time that a backend goes down, however many
    /// dials fail then.
    pub fn note_failure(
        &self,
        route: &Route,
        endpoint: &Endpoint,
        health: &BackendHealth,
        fault: &DialFault<'_>,
    ) {
        // Marked before the other addresses are looked at: of two dials that fail at once, at least
        // one sees that all are down.
        let is_new = health.fail(fault.hangs);
        let named = || route.backends.iter().find(|one| one.address == endpoint.backend);
        let backend = endpoint.resolved.and_then(|_| named());
        let is_down = backend.is_none_or(|backend| lock(&self.known).all_down(backend));
        if let Some(name) = backend.and_then(|backend| backend.name.as_ref())
            && is_down
        {
            // Its addresses may be old.
            name.want();
        }
        let (route, backend, error) = (&*route.name, &endpoint.backend, fault.error);
        let address = endpoint.resolved.map(tracing::field::display);
        if is_down && health.metrics.dialled(false) {
            tracing::warn!(route, %backend, address, %error, "the backend is down");
        } else if is_new && !is_down {
            tracing::info!(route, %backend, address, %error, "an address of the backend is down");
        } else {
            tracing::debug!(route, %backend, address, %error, "the backend is still down");
        }
    }

    /// Notes that no backend of `route` has an address, and says why.
    pub fn note_unknown(&self, route: &Route) -> String {
        let mut told = Vec::new();
        for backend in &route.backends {
            if let Some(name) = &backend.name {
                name.want();
            }
            let error = no_address(backend);
            if self.metrics.backend(&backend.address).dialled(false) {
                let route = &*route.name;
                tracing::warn!(route, backend = %backend.address, error, "the backend is down");
            }
            told.extend(error);
        }
        told.join("; ")
    }
}

/// Why a backend has no address. `None` means that it has one.
fn no_address(backend: &Backend) -> Option<String> {
    let name = backend.name.as_ref()?;
    let answer = name.answer();
    let fault = answer.fault.as_deref().filter(|_| answer.addresses.is_empty())?;
    Some(format!("{}: no address known: {fault}", name.host()))
}

impl HealthTable {
    /// The state of an address, which is up if it is not known yet.
    fn health(&mut self, endpoint: &Endpoint, metrics: &Metrics) -> Arc<BackendHealth> {
        if let Some(known) = self.endpoints.get(endpoint) {
            return Arc::clone(known);
        }
        let tunnels = self.shared_count(endpoint).unwrap_or_default();
        let health = BackendHealth::new(metrics.backend(&endpoint.backend), tunnels);
        let health = Arc::new(health);
        self.endpoints.insert(endpoint.clone(), Arc::clone(&health));
        health
    }

    /// The count of tunnels that the other address of `localhost` has. `None` means that the
    /// address has a count of its own.
    fn shared_count(&self, endpoint: &Endpoint) -> Option<Arc<AtomicUsize>> {
        let BackendAddress::Named(name) = &endpoint.backend else { return None };
        let others = name
            .fixed_addresses()
            .into_iter()
            .map(|address| Endpoint { backend: endpoint.backend.clone(), resolved: Some(address) });
        let known = others.into_iter().find_map(|other| self.endpoints.get(&other))?;
        Some(Arc::clone(&known.tunnels))
    }

    /// Whether the last dial of each address of `backend` failed, or it has no address.
    fn all_down(&self, backend: &Backend) -> bool {
        let mut is_down = true;
        backend.each_endpoint(|endpoint| {
            // An address that was never dialled counts as up: no dial of it has failed.
            is_down &= self.endpoints.get(&endpoint).is_some_and(|health| health.is_down());
        });
        is_down
    }
}

impl BackendHealth {
    fn new(metrics: Arc<BackendMetrics>, tunnels: Arc<AtomicUsize>) -> Self {
        BackendHealth { metrics, tunnels, down: Mutex::new(None) }
    }

    fn is_down(&self) -> bool {
        lock(&self.down).is_some()
    }

    fn rank(&self, now: Instant) -> DialRank {
        match *lock(&self.down) {
            Some(Outage { until, hangs, .. }) if until > now => {
                if hangs {
                    DialRank::Hanging
                } else {
                    DialRank::Refusing
                }
            }
            _ => DialRank::Up,
        }
    }

    /// Notes a dial at `now`, before its outcome is known.
    pub fn note_dial(&self, now: Instant) {
        if let Some(down) = &mut *lock(&self.down) {
            down.tried(now);
        }
    }

    /// Notes a dial that succeeded: the address is up at once, whatever its pause.
    pub fn note_success(&self, endpoint: &Endpoint) {
        let was_down = lock(&self.down).take().is_some();
        let (backend, address) =
            (&endpoint.backend, endpoint.resolved.map(tracing::field::display));
        if self.metrics.dialled(true) {
            tracing::info!(%backend, address, "the backend is up again");
        } else if was_down && address.is_some() {
            tracing::info!(%backend, address, "an address of the backend is up again");
        }
    }

    /// Marks the address as down. Returns whether it was up.
    fn fail(&self, hangs: bool) -> bool {
        let mut down = lock(&self.down);
        let is_new = down.is_none();
        // A pause that runs stays as it is: only `note_dial` makes it longer.
        down.get_or_insert_with(|| Outage::since(Instant::now())).hangs = hangs;
        is_new
    }

    /// Adds the weight of one more tunnel, until the `LoadGuard` is dropped.
    pub fn add_tunnel(self: &Arc<Self>) -> LoadGuard {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(&self.tunnels))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    use crate::policy::limit::Limits;
    use crate::snapshot::backend_name::{BackendName, NameAnswer};
    use crate::snapshot::names::Names;
    use crate::snapshot::tests::{generation, policy, route};

    #[test]
    fn down_backend_is_dialled_with_a_doubling_bounded_pause() {
        let began = Instant::now();
        let mut down = Outage::since(began);
        let pauses = (0..6).map(|_| {
            let pause = down.pause;
            down.tried(down.until);
            pause.as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn dials_within_the_pause_do_not_extend_it() {
        let began = Instant::now();
        let mut down = Outage::since(began);
        let before = down;
        for _ in 0..9 {
            down.tried(began + MIN_OUTAGE / 2);
        }
        assert_eq!(down, before);
    }

    #[test]
    fn recovered_backend_starts_with_the_first_pause() {
        let endpoint = Endpoint { backend: fixed(1).address, resolved: None };
        let health = BackendHealth::new(Arc::default(), Arc::default());
        assert!(health.fail(false) && !health.fail(false));
        health.note_dial(Instant::now() + MIN_OUTAGE);
        assert_eq!(health.rank(Instant::now() + MIN_OUTAGE), DialRank::Refusing);
        health.note_success(&endpoint);
        assert_eq!(health.rank(Instant::now()), DialRank::Up);
        health.fail(false);
        assert_eq!(health.rank(Instant::now() + MIN_OUTAGE), DialRank::Up);
    }

    #[test]
    fn backend_that_another_process_found_down_is_tried_last() {
        let mut live = generation(1, policy(&[], &Limits::default()), None);
        let mut own = route("chat", "/", &live.route_list[0].policy);
        let backends: Box<[_]> = [fixed(1), fixed(2)].into();
        Arc::get_mut(&mut own).unwrap().backends = backends.clone();
        live.route_list = [own].into();
        let (old, new) = (BackendTable::new(Metrics::new()), BackendTable::new(Metrics::new()));
        old.ranked(&backends)[0].1.fail(true);
        assert!(old.down().len() == 1 && old.down()[0].hangs);
        let gone =
            DownBackend { backend: "http://127.0.0.1:9".into(), resolved: None, hangs: false };
        new.note_down(&live, &[old.down(), vec![gone]].concat());
        assert_eq!(new.down(), old.down());
        let first = |table: &BackendTable| table.ranked(&backends)[0].0.backend.to_string();
        assert_eq!(first(&new), "http://127.0.0.1:2");
    }

    #[test]
    fn backends_are_ranked_while_other_threads_change_them() {
        let addresses: Vec<_> = (1..=200).map(fixed).collect();
        let backends = BackendTable::new(Metrics::new());
        let all = backends.ranked(&addresses);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = 1_usize;
                while !is_over.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    all[random % all.len()].1.tunnels.store(random >> 32, Ordering::Relaxed);
                }
            });
            // Caught, so that a panic does not leave the other thread behind.
            let ranked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..300 {
                    assert_eq!(backends.ranked(&addresses).len(), addresses.len());
                }
            }));
            is_over.store(true, Ordering::Relaxed);
            assert!(ranked.is_ok());
        });
    }

    /// `http://127.0.0.1:PORT`
    fn fixed(port: u16) -> Backend {
        let address = BackendAddress::Tcp(([127, 0, 0, 1], port).into());
        Backend { address, name: None }
    }

    /// `http://HOST:80` among `names`.
    fn named(names: &mut Names, host: &str) -> Backend {
        let name = BackendName { host: host.into(), port: 80, server_name: None };
        names.backend(&BackendAddress::Named(Arc::new(name)), Duration::from_secs(10), None)
    }

    /// Gives a named backend these addresses.
    fn resolve(backend: &Backend, addresses: &[&str]) {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        let fault = None;
        backend.name.as_ref().unwrap().store(NameAnswer { addresses, fault });
    }

    /// A generation whose one route has these backends.
    fn live(number: u64, backends: &[Backend], names: Names) -> Snapshot {
        let policy = || policy(&[], &Limits::default());
        let mut route = route("chat", "/", &Arc::new(policy()));
        Arc::get_mut(&mut route).unwrap().backends = backends.into();
        Snapshot { route_list: vec![route], names, ..generation(number, policy(), None) }
    }

    /// Fails a dial of the address.
    fn fail(
        table: &BackendTable,
        live: &Snapshot,
        (endpoint, health): &(Endpoint, Arc<BackendHealth>),
    ) {
        let fault = DialFault { hangs: false, error: &"refused" };
        table.note_failure(&live.route_list[0], endpoint, health, &fault);
    }

    /// Number of addresses that are known after a look at those of a generation.
    #[track_caller]
    fn check_known(table: &BackendTable, number: u64, backends: &[Backend], known: usize) {
        table.tidy(&live(number, backends, Names::default()));
        assert_eq!(lock(&table.known).endpoints.len(), known);
    }

    #[test]
    fn unnamed_backend_is_forgotten_without_tunnels() {
        let addresses = [1, 2, 3].map(fixed);
        let table = BackendTable::new(Metrics::new());
        let ranked = table.ranked(&addresses);
        let load = ranked[1].1.add_tunnel();
        check_known(&table, 1, &addresses, 3);
        check_known(&table, 2, &addresses[..1], 2);
        let again = table.ranked(&addresses[1..2]);
        assert!(Arc::ptr_eq(&again[0].1, &ranked[1].1), "its tunnels still weigh");
        drop(load);
        check_known(&table, 2, &addresses[..1], 1);
        // A request of the first generation comes late.
        table.ranked(&addresses);
        check_known(&table, 2, &addresses[..1], 1);
    }

    #[test]
    fn backend_removed_while_down_returns_as_up() {
        let (backend, metrics) = (fixed(1), Metrics::new());
        let live = live(1, std::slice::from_ref(&backend), Names::default());
        let table = BackendTable::new(Arc::clone(&metrics));
        fail(&table, &live, &table.ranked(std::slice::from_ref(&backend))[0]);
        assert!(!metrics.is_up(&backend));
        check_known(&table, 2, &[], 0);
        assert!(metrics.is_up(&backend));
        assert_eq!(table.ranked(&[backend])[0].1.rank(Instant::now()), DialRank::Up);
    }

    #[test]
    fn name_is_down_while_all_its_addresses_are() {
        let (mut names, metrics) = (Names::default(), Metrics::new());
        let backend = named(&mut names, "app");
        let state = Arc::clone(backend.name.as_ref().unwrap());
        let live = live(1, std::slice::from_ref(&backend), names);
        let table = BackendTable::new(Arc::clone(&metrics));
        assert!(table.ranked(&live.route_list[0].backends).is_empty() && !metrics.is_up(&backend));
        resolve(&backend, &["192.0.2.1:80", "192.0.2.2:80"]);
        let ranked = table.ranked(&live.route_list[0].backends);
        fail(&table, &live, &ranked[0]);
        assert!(metrics.is_up(&backend) && !state.has_wish());
        fail(&table, &live, &ranked[1]);
        assert!(!metrics.is_up(&backend) && state.take_wish(), "its addresses may be old");
        resolve(&backend, &["192.0.2.2:80", "192.0.2.3:80"]);
        table.tidy(&live);
        assert!(metrics.is_up(&backend), "the new address was not dialled yet");
        let again = table.ranked(&live.route_list[0].backends);
        assert_eq!(again[0].0.resolved, "192.0.2.3:80".parse().ok());
        assert!(Arc::ptr_eq(&again[1].1, &ranked[1].1), "the address that stays is still down");
    }

    #[test]
    fn name_without_an_address_is_down_and_says_why() {
        let (mut names, metrics) = (Names::default(), Metrics::new());
        let backend = named(&mut names, "app");
        let live = live(1, std::slice::from_ref(&backend), names);
        let table = BackendTable::new(Arc::clone(&metrics));
        let told = table.note_unknown(&live.route_list[0]);
        assert_eq!(told, "app: no address known: not resolved yet");
        assert!(backend.name.as_ref().unwrap().take_wish());
        resolve(&backend, &["192.0.2.1:80"]);
        table.tidy(&live);
        assert!(metrics.is_up(&backend));
    }

    #[test]
    fn first_address_of_localhost_is_preferred_whatever_its_load() {
        let mut names = Names::default();
        let (local, other) = (named(&mut names, "localhost"), named(&mut names, "app"));
        resolve(&other, &["192.0.2.1:80", "192.0.2.2:80"]);
        let table = BackendTable::new(Metrics::new());
        for (backend, next) in [(local, "127.0.0.1:80"), (other, "192.0.2.2:80")] {
            let backends = [backend];
            let _load = table.ranked(&backends)[0].1.add_tunnel();
            assert_eq!(table.ranked(&backends)[0].0.resolved, next.parse().ok());
        }
    }
}
