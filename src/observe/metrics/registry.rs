//! All counters of the process, and the facts that the control plane reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::observe::metrics::core::CoreMetrics;
use crate::observe::metrics::process;
use crate::observe::metrics::words::{Difference, ReloadResult};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::route::BackendAddress;
use crate::sync::lock;

/// Everything that is counted.
pub struct Metrics {
    /// The counters of each thread of the data plane.
    pub(super) cores: Mutex<Vec<Arc<CoreMetrics>>>,
    pub(super) connections_limits: Mutex<BTreeMap<Arc<str>, usize>>,
    pub(super) backends: Mutex<HashMap<BackendAddress, Arc<BackendMetrics>>>,
    pub(super) reloads: [AtomicU64; ReloadResult::ALL.len()],
    pub(super) reload_rejected: AtomicBool,
    /// In milliseconds of Unix time.
    pub(super) reload_succeeded: AtomicI64,
    pub(super) lists_modified: Mutex<Vec<ListModified>>,
    pub(super) differences: Mutex<BTreeMap<(Arc<str>, Difference, &'static str), u64>>,
    pub(super) would_revoke: Mutex<HashMap<Arc<str>, usize>>,
    pub(super) watch_degraded: AtomicBool,
    pub(super) panics: AtomicU64,
    pub(super) scrapes_refused: AtomicU64,
    /// In seconds of Unix time.
    pub(super) process_started: Option<f64>,
}

/// A list's file: list, policy, and when it was last written.
type ListModified = (Box<str>, Box<str>, Timestamp);

impl Metrics {
    /// Nothing counted yet.
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
            would_revoke: Mutex::default(),
            watch_degraded: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            scrapes_refused: AtomicU64::new(0),
            process_started: process::start_time(),
        })
    }

    /// The counters of one more thread of the data plane, which alone may count there.
    pub fn core(&self) -> Arc<CoreMetrics> {
        let core = Arc::new(CoreMetrics::default());
        lock(&self.cores).push(Arc::clone(&core));
        core
    }

    /// The most connections of a listener at once; `None`: it accepts none any more.
    pub fn connections_limit(&self, listener: &Arc<str>, connections: Option<usize>) {
        let mut limits = lock(&self.connections_limits);
        match connections {
            Some(connections) => drop(limits.insert(Arc::clone(listener), connections)),
            None => drop(limits.remove(listener)),
        }
    }

    /// What is known of a backend, whichever thread or route dials it.
    pub fn backend(&self, address: &BackendAddress) -> Arc<BackendMetrics> {
        Arc::clone(lock(&self.backends).entry(address.clone()).or_default())
    }

    /// Forgets what was known of the backends that are `gone`.
    pub fn forget_backends(&self, gone: impl Fn(&BackendAddress) -> bool) {
        lock(&self.backends).retain(|address, _| !gone(address));
    }

    /// A reload came to its outcome at `now`.
    pub fn reloaded(&self, result: ReloadResult, now: Timestamp) {
        self.reloads[result as usize].fetch_add(1, Ordering::Relaxed);
        match result {
            ReloadResult::Published | ReloadResult::Unchanged => self.succeeded(now),
            ReloadResult::Rejected => self.reload_rejected.store(true, Ordering::Relaxed),
        }
    }

    /// The files are what runs; a start is no reload, but says so too.
    pub fn succeeded(&self, now: Timestamp) {
        self.reload_rejected.store(false, Ordering::Relaxed);
        self.reload_succeeded.store(now.as_millisecond(), Ordering::Relaxed);
    }

    /// The list files of what runs: policy, list, and when it was last written.
    pub fn lists_modified<'a>(&self, lists: impl Iterator<Item = (&'a str, &'a str, Timestamp)>) {
        *lock(&self.lists_modified) =
            lists.map(|(policy, list, modified)| (list.into(), policy.into(), modified)).collect();
    }

    /// The candidate of `policy` would have decided otherwise; `reason` is the refusal of the two.
    pub fn candidate_differs(&self, policy: &Arc<str>, difference: Difference, reason: Refusal) {
        *lock(&self.differences)
            .entry((Arc::clone(policy), difference, reason.word()))
            .or_default() += 1;
    }

    /// How many open tunnels the candidate of each policy that has one would revoke.
    pub fn candidates_would_revoke(&self, tunnels: HashMap<Arc<str>, usize>) {
        *lock(&self.would_revoke) = tunnels;
    }

    /// How often each candidate would have decided otherwise since the start: by policy and difference.
    pub fn candidate_differences(&self) -> BTreeMap<(Arc<str>, Difference), u64> {
        let mut sums = BTreeMap::new();
        for ((policy, difference, _), count) in lock(&self.differences).iter() {
            *sums.entry((Arc::clone(policy), *difference)).or_default() += count;
        }
        sums
    }

    /// How many open tunnels the candidate of `policy` would revoke, as of the last look.
    pub fn candidate_would_revoke(&self, policy: &str) -> Option<usize> {
        lock(&self.would_revoke).get(policy).copied()
    }

    /// Whether watching is degraded to polling.
    pub fn watch_degraded(&self, degraded: bool) {
        self.watch_degraded.store(degraded, Ordering::Relaxed);
    }

    /// Whether files are polled because they cannot be watched.
    pub fn is_watch_degraded(&self) -> bool {
        self.watch_degraded.load(Ordering::Relaxed)
    }

    /// A bug of ours ended a connection.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// How many bugs of ours ended a connection.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Somebody outside `[metrics] allow` asked.
    pub fn scrape_refused(&self) {
        self.scrapes_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The backends of `snapshot` whose last dial failed, each once, in the order written.
    pub fn backends_down<'s>(&self, snapshot: &'s Snapshot) -> Vec<&'s BackendAddress> {
        let backends = lock(&self.backends);
        let mut down = Vec::new();
        for address in snapshot.route_list.iter().flat_map(|route| &route.backends) {
            if backends.get(address).is_some_and(|backend| !backend.is_up())
                && !down.contains(&address)
            {
                down.push(address);
            }
        }
        down
    }
}

/// What is known of one backend; all threads write it, at a change alone.
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
    /// A dial found it up, or not; says whether that is a change.
    pub fn dialled(&self, up: bool) -> bool {
        let changed =
            self.up.load(Ordering::Relaxed) != up && self.up.swap(up, Ordering::Relaxed) != up;
        if changed {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }

    /// Whether the last dial found it up; also before the first.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_up_until_a_dial_fails_and_only_changes_are_told() {
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
