//! All counters of the process, and the facts that the control plane reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::observe::metrics::crowdsec::CrowdsecFigures;
use crate::observe::metrics::identity::{Collapse, IdentityWindow};
use crate::observe::metrics::labels::{CandidateDifference, ReloadResult};
use crate::observe::metrics::process;
use crate::observe::metrics::thread::ThreadMetrics;
use crate::policy::forwarded::ForwardedRules;
use crate::policy::network::ClientKey;
use crate::policy::peers::PeerList;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::listener::Listener;
use crate::snapshot::route::{Backend, BackendAddress};
use crate::sync::lock;
use crate::tunnels::WouldRevoke;

/// All counters of the process, and the state that scrapes report.
pub struct Metrics {
    /// The counters of each data-plane thread.
    pub(super) cores: Mutex<Vec<Arc<ThreadMetrics>>>,
    pub(super) connections_limits: Mutex<BTreeMap<Arc<str>, usize>>,
    pub(super) backends: Mutex<HashMap<BackendAddress, Arc<BackendMetrics>>>,
    pub(super) reloads: [AtomicU64; ReloadResult::ALL.len()],
    pub(super) reload_rejected: AtomicBool,
    /// Time of the last successful reload or start, in milliseconds of Unix time.
    pub(super) reload_succeeded: AtomicI64,
    pub(super) lists_modified: Mutex<Vec<ListModified>>,
    pub(super) differences: Mutex<BTreeMap<(Arc<str>, CandidateDifference, &'static str), u64>>,
    /// Requests by client that the candidate of a policy alone would refuse.
    would_refuse: Mutex<HashMap<Arc<str>, ClientCounts>>,
    pub(super) would_revoke: Mutex<HashMap<Arc<str>, WouldRevoke>>,
    pub(super) crowdsec: Mutex<Option<CrowdsecFigures>>,
    /// Polls that failed, and that succeeded.
    pub(super) crowdsec_polls: [AtomicU64; 2],
    pub(super) watch_degraded: AtomicBool,
    pub(super) pending_generation: AtomicU64,
    pub(super) pending_rejected: AtomicBool,
    pub(super) test_overrides: AtomicU64,
    pub(super) tunnels_draining: AtomicU64,
    identities: Mutex<IdentityState>,
    pub(super) panics: AtomicU64,
    pub(super) scrapes_refused: AtomicU64,
    /// In seconds of Unix time; `None` means unknown (`/proc` is hidden).
    pub(super) process_started: Option<f64>,
}

/// Logs that the clients of `listener` can be told apart again.
fn log_restored(listener: &str) {
    tracing::info!(listener, "its clients can be told apart again, or there are too few requests");
}

/// Most clients whose refusals by a candidate are counted apart. The metric counts all.
const MAX_HIT_CLIENTS: usize = 1000;

/// A number for each client.
pub type ClientCounts = HashMap<ClientKey, u64>;

/// A list's file: list, policy, and the time of its last write.
type ListModified = (Box<str>, Box<str>, Timestamp);

/// How well the clients of each listener can be told apart.
#[derive(Default)]
struct IdentityState {
    windows: BTreeMap<Arc<str>, IdentityWindow>,
    /// The listeners whose clients cannot be told apart.
    collapsed: BTreeMap<Arc<str>, Collapse>,
    /// What each listener believes now.
    believed: BTreeMap<Arc<str>, Believed>,
}

/// The keys of a listener that name clients.
#[derive(Clone, PartialEq, Eq)]
struct Believed(Option<ForwardedRules>, Option<PeerList>);

impl Believed {
    fn of(listener: &Listener) -> Self {
        Believed(listener.forwarded.clone(), listener.proxy_protocol.clone())
    }
}

impl IdentityState {
    /// Forgets everything about listeners that are gone, or whose keys have changed since the last
    /// call: their counts are about other rules.
    fn update(&mut self, live: &Snapshot) {
        let rules = live.listeners.iter();
        let now = rules.map(|(name, rules)| (Arc::clone(name), Believed::of(&rules.listener)));
        let before = std::mem::replace(&mut self.believed, now.collect());
        self.windows.retain(|name, _| self.believed.contains_key(name));
        let changed = |name: &Arc<str>, old: &Believed| self.believed.get(name) != Some(old);
        for name in before.iter().filter(|(name, old)| changed(name, old)).map(|(name, _)| name) {
            self.windows.remove(name);
            if self.collapsed.remove(name).is_some() {
                log_restored(name);
            }
        }
    }

    fn sentence(&self, listener: &Arc<str>, collapse: Collapse) -> String {
        let believed = self.believed.get(listener);
        collapse.sentence(listener, believed.and_then(|Believed(forwarded, _)| forwarded.as_ref()))
    }
}

impl Metrics {
    /// Looks at the requests since the last look. Logs a listener whose clients cannot be told
    /// apart once, and again when that is over.
    pub fn look_at_identities(&self, live: &Snapshot) {
        let mut state = lock(&self.identities);
        self.take_identities(&mut state);
        state.update(live);
        let mut windows = std::mem::take(&mut state.windows);
        for (name, window) in &mut windows {
            let Some(verdict) = window.look() else { continue };
            let before = match verdict {
                Some(collapse) => state.collapsed.insert(Arc::clone(name), collapse),
                None => state.collapsed.remove(name),
            };
            match (before, verdict) {
                (None, Some(collapse)) => {
                    let listener = &**name;
                    tracing::warn!(listener, "{}", state.sentence(name, collapse));
                }
                (Some(_), None) => log_restored(name),
                _ => {}
            }
        }
        state.windows = windows;
    }

    /// Ends the episodes of listeners whose keys a publish has changed, and drops the counts from
    /// before it.
    pub fn forget_identities(&self, live: &Snapshot) {
        let mut state = lock(&self.identities);
        self.take_identities(&mut state);
        state.update(live);
    }

    fn take_identities(&self, state: &mut IdentityState) {
        for core in lock(&self.cores).iter() {
            core.take_identities(&mut state.windows);
        }
    }

    /// Sentences about the listeners whose clients cannot be told apart.
    pub fn collapsed_identities(&self) -> Vec<String> {
        let state = lock(&self.identities);
        let sentence = |(name, collapse): (&Arc<str>, &Collapse)| state.sentence(name, *collapse);
        state.collapsed.iter().map(sentence).collect()
    }

    /// Whether the clients of a listener cannot be told apart.
    pub(super) fn is_identity_collapsed(&self, listener: &Arc<str>) -> bool {
        lock(&self.identities).collapsed.contains_key(listener)
    }

    /// Creates metrics in which everything is 0.
    pub fn new() -> Arc<Self> {
        Arc::new(Metrics {
            cores: Mutex::default(),
            connections_limits: Mutex::default(),
            backends: Mutex::default(),
            reloads: Default::default(),
            reload_rejected: AtomicBool::new(false),
            reload_succeeded: AtomicI64::new(0),
            lists_modified: Mutex::default(),
            differences: Mutex::default(),
            would_refuse: Mutex::default(),
            would_revoke: Mutex::default(),
            crowdsec: Mutex::default(),
            crowdsec_polls: Default::default(),
            watch_degraded: AtomicBool::new(false),
            pending_generation: AtomicU64::new(0),
            pending_rejected: AtomicBool::new(false),
            test_overrides: AtomicU64::new(0),
            tunnels_draining: AtomicU64::new(0),
            identities: Mutex::default(),
            panics: AtomicU64::new(0),
            scrapes_refused: AtomicU64::new(0),
            process_started: process::start_time(),
        })
    }

    /// Adds the counters of a data-plane thread. Only that thread may write them.
    pub fn core(&self) -> Arc<ThreadMetrics> {
        let core = Arc::new(ThreadMetrics::default());
        lock(&self.cores).push(Arc::clone(&core));
        core
    }

    /// Counts a tunnel that a process from before an upgrade keeps.
    pub fn draining_tunnel_came(&self) {
        self.tunnels_draining.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts such a tunnel out again.
    pub fn draining_tunnel_went(&self) {
        self.tunnels_draining.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the most connections of a listener at once; `None` means it no longer accepts and its
    /// limit isn't reported.
    pub fn connections_limit(&self, listener: &Arc<str>, connections: Option<usize>) {
        let mut limits = lock(&self.connections_limits);
        match connections {
            Some(connections) => drop(limits.insert(Arc::clone(listener), connections)),
            None => drop(limits.remove(listener)),
        }
    }

    /// The state of a backend, shared by all threads and routes that dial it.
    pub fn backend(&self, address: &BackendAddress) -> Arc<BackendMetrics> {
        Arc::clone(lock(&self.backends).entry(address.clone()).or_default())
    }

    /// Whether the last dial of a backend succeeded, or there was none yet. A name without an
    /// address is down.
    pub fn is_up(&self, backend: &Backend) -> bool {
        backend.has_address() && self.backend(&backend.address).is_up()
    }

    /// Drops the state of the backends that are `gone`.
    pub fn forget_backends(&self, gone: impl Fn(&BackendAddress) -> bool) {
        // A dial in flight may still write to a dropped state, which no scrape reads any more.
        lock(&self.backends).retain(|address, _| !gone(address));
    }

    /// Counts a reload by its outcome at `now`.
    pub fn reloaded(&self, result: ReloadResult, now: Timestamp) {
        self.reloads[result as usize].fetch_add(1, Ordering::Relaxed);
        match result {
            ReloadResult::Published | ReloadResult::Unchanged => self.succeeded(now),
            ReloadResult::Rejected => self.reload_rejected.store(true, Ordering::Relaxed),
        }
    }

    /// Records that the files on disk run since `now`. A start records it too, without counting a
    /// reload.
    pub fn succeeded(&self, now: Timestamp) {
        // A scrape between the two stores shows the new result with the old time, once.
        self.reload_rejected.store(false, Ordering::Relaxed);
        self.reload_succeeded.store(now.as_millisecond(), Ordering::Relaxed);
    }

    /// Replaces the list files of the running generation: policy, list, and the time of its last
    /// write.
    pub fn lists_modified<'a>(&self, lists: impl Iterator<Item = (&'a str, &'a str, Timestamp)>) {
        *lock(&self.lists_modified) =
            lists.map(|(policy, list, modified)| (list.into(), policy.into(), modified)).collect();
    }

    /// Counts a decision that the candidate of `policy` would have made differently. `reason` is
    /// the refusal of the one of the two that refuses.
    pub fn candidate_differs(
        &self,
        policy: &Arc<str>,
        difference: CandidateDifference,
        reason: Refusal,
        client: ClientKey,
    ) {
        if difference == CandidateDifference::WouldRefuse {
            let mut all = lock(&self.would_refuse);
            let hits = all.entry(Arc::clone(policy)).or_default();
            // Clients that come later are not kept: the first ones of a scan are as telling.
            if hits.len() < MAX_HIT_CLIENTS || hits.contains_key(&client) {
                *hits.entry(client).or_default() += 1;
            }
        }
        *lock(&self.differences)
            .entry((Arc::clone(policy), difference, reason.word()))
            .or_default() += 1;
    }

    /// Replaces the open tunnels that each policy's candidate would revoke.
    pub fn candidates_would_revoke(&self, tunnels: HashMap<Arc<str>, WouldRevoke>) {
        // A candidate that is gone takes its counts along: the next one has other rules.
        lock(&self.would_refuse).retain(|policy, _| tunnels.contains_key(policy));
        *lock(&self.would_revoke) = tunnels;
    }

    /// Requests by client that the candidate of `policy` alone would refuse, of at most
    /// `MAX_HIT_CLIENTS` clients.
    pub fn candidate_would_refuse(&self, policy: &str) -> ClientCounts {
        lock(&self.would_refuse).get(policy).cloned().unwrap_or_default()
    }

    /// Decisions since the start that each candidate would have made differently, by policy and
    /// difference.
    pub fn candidate_differences(&self) -> BTreeMap<(Arc<str>, CandidateDifference), u64> {
        let mut totals = BTreeMap::new();
        for ((policy, difference, _), count) in lock(&self.differences).iter() {
            *totals.entry((Arc::clone(policy), *difference)).or_default() += count;
        }
        totals
    }

    /// Open tunnels that the candidate of `policy` would revoke, as last previewed. `None` means
    /// not yet known, or no candidate.
    pub fn candidate_would_revoke(&self, policy: &str) -> Option<WouldRevoke> {
        lock(&self.would_revoke).get(policy).cloned()
    }

    /// Sets the number that pending files would get as a generation, or 0; and whether they would
    /// be rejected.
    pub fn pending(&self, generation: u64, is_rejected: bool) {
        self.pending_generation.store(generation, Ordering::Relaxed);
        self.pending_rejected.store(is_rejected, Ordering::Relaxed);
    }

    /// Sets the number of failed tests that are overridden.
    pub fn test_overrides(&self, number: usize) {
        self.test_overrides.store(number as u64, Ordering::Relaxed);
    }

    /// Replaces the figures of CrowdSec. `None` means that it is not configured.
    pub fn crowdsec(&self, figures: Option<CrowdsecFigures>) {
        *lock(&self.crowdsec) = figures;
    }

    /// Counts a poll of CrowdSec's Local API.
    pub fn crowdsec_polled(&self, is_answered: bool) {
        self.crowdsec_polls[usize::from(is_answered)].fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether files are polled because they cannot be watched.
    pub fn watch_degraded(&self, degraded: bool) {
        self.watch_degraded.store(degraded, Ordering::Relaxed);
    }

    /// Whether files are polled because they cannot be watched.
    pub fn is_watch_degraded(&self) -> bool {
        self.watch_degraded.load(Ordering::Relaxed)
    }

    /// Counts a connection that a panic ended.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of connections that a panic ended.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Counts a scrape from an address outside `[metrics] allow`.
    pub fn scrape_refused(&self) {
        self.scrapes_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The backends of `snapshot` whose last dial failed, or whose name has no address; each once,
    /// in the order written.
    pub fn backends_down<'s>(&self, snapshot: &'s Snapshot) -> Vec<&'s Backend> {
        let backends = lock(&self.backends);
        let mut down: Vec<&Backend> = Vec::new();
        for backend in snapshot.route_list.iter().flat_map(|route| &route.backends) {
            let address = &backend.address;
            let was_refused = backends.get(address).is_some_and(|backend| !backend.is_up());
            let is_new = down.iter().all(|other| other.address != *address);
            if (was_refused || !backend.has_address()) && is_new {
                down.push(backend);
            }
        }
        down
    }
}

/// State of one backend. All threads write it, but only when it changes.
pub struct BackendMetrics {
    pub(super) up: AtomicBool,
    pub(super) changes: AtomicU64,
}

impl Default for BackendMetrics {
    fn default() -> Self {
        BackendMetrics { up: AtomicBool::new(true), changes: AtomicU64::new(0) }
    }
}

impl BackendMetrics {
    /// Records the result of a dial; returns whether the backend's state changed.
    pub fn dialled(&self, up: bool) -> bool {
        // The load spares most dials a write to the shared cache line. Of racing threads, the swap
        // lets only one report the change.
        let changed =
            self.up.load(Ordering::Relaxed) != up && self.up.swap(up, Ordering::Relaxed) != up;
        if changed {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }

    /// Whether the last dial succeeded; true before the first.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_up_until_a_dial_fails() {
        let backend = BackendMetrics::default();
        let dials = [(true, false), (false, true), (false, false), (true, true), (true, false)];
        assert!(
            dials
                .iter()
                .all(|(up, changes)| backend.dialled(*up) == *changes && backend.is_up() == *up)
        );
        assert_eq!(backend.changes.load(Ordering::Relaxed), 2);
    }
}
