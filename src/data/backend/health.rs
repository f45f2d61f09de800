//! The state of backends: how many tunnels each has, and whether it is down.
//!
//! A backend that is down is tried last for a while, and longer each time that it is found down
//! again. This module dials nothing.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::metrics::{BackendMetrics, Metrics};
use crate::snapshot::route::BackendAddress;
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
    backends: HashMap<BackendAddress, Arc<BackendHealth>>,
    /// The generation, and the number of backends, at the last look. `None` means that some are
    /// kept only for their tunnels.
    tidied: Option<(u64, usize)>,
}

/// The state of one backend, shared by all threads.
pub struct BackendHealth {
    metrics: Arc<BackendMetrics>,
    tunnels: AtomicUsize,
    down: Mutex<Option<Outage>>,
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
pub struct LoadGuard(Arc<BackendHealth>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        // Relaxed: the number only ranks backends, and a late value costs no more than a worse
        // choice.
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackendTable {
    /// Starts without any known backend.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        BackendTable { metrics, known: Mutex::default() }
    }

    /// The addresses in the order in which to try them: the ones that are up come first, and among
    /// equals the ones with the fewest tunnels.
    pub fn ranked(
        &self,
        addresses: &[BackendAddress],
    ) -> Vec<(BackendAddress, Arc<BackendHealth>)> {
        let mut known = lock(&self.known);
        let mut health = |address: &BackendAddress| {
            let new = || Arc::new(BackendHealth::new(self.metrics.backend(address)));
            (address.clone(), Arc::clone(known.backends.entry(address.clone()).or_insert_with(new)))
        };
        let mut ranked: Vec<_> = addresses.iter().map(&mut health).collect();
        let now = Instant::now();
        // The keys are read once: other threads change them, and a sort may panic when two
        // comparisons contradict each other.
        ranked.sort_by_cached_key(|(_, health)| {
            (health.rank(now), health.tunnels.load(Ordering::Relaxed))
        });
        ranked
    }

    /// Forgets backends that are not among `named`, those of `generation`, once no tunnel runs on
    /// them. A backend that is named again later begins anew.
    pub fn forget_unused<'n>(
        &self,
        generation: u64,
        named: impl Iterator<Item = &'n BackendAddress>,
    ) {
        let mut known = lock(&self.known);
        // A backend that an older generation's request has dialled since makes the number larger.
        if known.tidied == Some((generation, known.backends.len())) {
            return;
        }
        let named: HashSet<_> = named.collect();
        known.backends.retain(|address, health| {
            named.contains(address) || health.tunnels.load(Ordering::Relaxed) > 0
        });
        self.metrics.forget_backends(|address| {
            !named.contains(address) && !known.backends.contains_key(address)
        });
        // As long as a tunnel keeps an unnamed backend, each call has to look again.
        let waits = known.backends.keys().any(|address| !named.contains(address));
        known.tidied = (!waits).then_some((generation, known.backends.len()));
    }
}

impl BackendHealth {
    fn new(metrics: Arc<BackendMetrics>) -> Self {
        BackendHealth { metrics, tunnels: AtomicUsize::new(0), down: Mutex::new(None) }
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

    /// Notes a dial that succeeded: the backend is up at once, whatever its pause.
    pub fn note_success(&self, address: &BackendAddress) {
        *lock(&self.down) = None;
        if self.metrics.dialled(true) {
            tracing::info!(backend = %address, "the backend is up again");
        }
    }

    /// Notes a dial that failed. Warns once for each time that the backend goes down, however many
    /// dials fail then.
    pub fn note_failure(
        &self,
        address: &BackendAddress,
        route: &str,
        hangs: bool,
        error: &dyn fmt::Display,
    ) {
        // A pause that runs stays as it is: only `note_dial` makes it longer.
        lock(&self.down).get_or_insert_with(|| Outage::since(Instant::now())).hangs = hangs;
        if self.metrics.dialled(false) {
            tracing::warn!(route, backend = %address, %error, "the backend is down");
        } else {
            tracing::debug!(route, backend = %address, %error, "the backend is still down");
        }
    }

    /// Adds the weight of one more tunnel, until the `LoadGuard` is dropped.
    pub fn add_tunnel(self: &Arc<Self>) -> LoadGuard {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

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
        let address = BackendAddress::Tcp(([127, 0, 0, 1], 1).into());
        let health = BackendHealth::new(Arc::default());
        health.note_failure(&address, "chat", false, &"refused");
        health.note_dial(Instant::now() + MIN_OUTAGE);
        assert_eq!(health.rank(Instant::now() + MIN_OUTAGE), DialRank::Refusing);
        health.note_success(&address);
        assert_eq!(health.rank(Instant::now()), DialRank::Up);
        health.note_failure(&address, "chat", false, &"refused");
        assert_eq!(health.rank(Instant::now() + MIN_OUTAGE), DialRank::Up);
    }

    #[test]
    fn backends_are_ranked_while_other_threads_change_them() {
        let addresses: Vec<_> =
            (1..=200).map(|port| BackendAddress::Tcp(([127, 0, 0, 1], port).into())).collect();
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

    /// How many are known after a look at those of a generation.
    #[track_caller]
    fn check_known(
        backends: &BackendTable,
        generation: u64,
        named: &[BackendAddress],
        known: usize,
    ) {
        backends.forget_unused(generation, named.iter());
        assert_eq!(lock(&backends.known).backends.len(), known);
    }

    #[test]
    fn unnamed_backend_is_forgotten_without_tunnels() {
        let addresses = [1, 2, 3].map(|port| BackendAddress::Tcp(([127, 0, 0, 1], port).into()));
        let backends = BackendTable::new(Metrics::new());
        let ranked = backends.ranked(&addresses);
        let load = ranked[1].1.add_tunnel();
        check_known(&backends, 1, &addresses, 3);
        check_known(&backends, 2, &addresses[..1], 2);
        let again = backends.ranked(&addresses[1..2]);
        assert!(Arc::ptr_eq(&again[0].1, &ranked[1].1), "its tunnels still weigh");
        drop(load);
        check_known(&backends, 2, &addresses[..1], 1);
        // A request of the first generation comes late.
        backends.ranked(&addresses);
        check_known(&backends, 2, &addresses[..1], 1);
    }

    #[test]
    fn backend_removed_while_down_returns_as_up() {
        let address = BackendAddress::Tcp(([127, 0, 0, 1], 1).into());
        let metrics = Metrics::new();
        let backends = BackendTable::new(Arc::clone(&metrics));
        backends.ranked(std::slice::from_ref(&address))[0]
            .1
            .note_failure(&address, "chat", false, &"refused");
        assert!(!metrics.backend(&address).is_up());
        backends.forget_unused(2, std::iter::empty());
        assert!(metrics.backend(&address).is_up());
        assert_eq!(backends.ranked(&[address])[0].1.rank(Instant::now()), DialRank::Up);
    }
}
