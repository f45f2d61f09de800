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
const FIRST_DOWN: Duration = Duration::from_secs(1);
const LONGEST_DOWN: Duration = Duration::from_secs(10);

/// What the process knows of its backends.
pub struct Backends {
    metrics: Arc<Metrics>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    standings: HashMap<BackendAddress, Arc<Standing>>,
    /// The generation, and the number of backends, at the last look. `None` means that some are
    /// kept only for their tunnels.
    tidied: Option<(u64, usize)>,
}

/// The state of one backend, shared by all threads.
pub struct Standing {
    metrics: Arc<BackendMetrics>,
    tunnels: AtomicUsize,
    down: Mutex<Option<Down>>,
}

/// A backend that is down. It is tried behind all others, but for one dial each time that its pause
/// is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Down {
    pause: Duration,
    until: Instant,
    /// Whether it let the latest dial time out, and so is the last to be tried.
    hangs: bool,
}

impl Down {
    fn since(now: Instant) -> Self {
        Down { pause: FIRST_DOWN, until: now + FIRST_DOWN, hangs: false }
    }

    /// Notes a dial. If the pause was over, another begins, twice as long, so that other dials try
    /// the backend last meanwhile.
    fn tried(&mut self, now: Instant) {
        if self.until <= now {
            self.pause = (self.pause * 2).min(LONGEST_DOWN);
            self.until = now + self.pause;
        }
    }
}

/// In which order backends are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Up,
    Refuses,
    /// Last, since its dial takes time that the others may need.
    Hangs,
}

/// A tunnel's weight on its backend; taken off on drop.
pub struct Load(Arc<Standing>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backends {
    /// Starts without any known backend.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Backends { metrics, known: Mutex::default() }
    }

    /// The addresses in the order in which to try them: the ones that are up come first, and among
    /// equals the ones with the fewest tunnels.
    pub fn ranked(&self, addresses: &[BackendAddress]) -> Vec<(BackendAddress, Arc<Standing>)> {
        let mut known = lock(&self.known);
        let mut standing = |address: &BackendAddress| {
            let new = || Arc::new(Standing::new(self.metrics.backend(address)));
            (
                address.clone(),
                Arc::clone(known.standings.entry(address.clone()).or_insert_with(new)),
            )
        };
        let mut ranked: Vec<_> = addresses.iter().map(&mut standing).collect();
        let now = Instant::now();
        ranked.sort_by_key(|(_, standing)| {
            (standing.rank(now), standing.tunnels.load(Ordering::Relaxed))
        });
        ranked
    }

    /// Forgets backends that are not among `named`, those of `generation`, once no tunnel runs on
    /// them. A backend that is named again later begins anew.
    pub fn tidy<'n>(&self, generation: u64, named: impl Iterator<Item = &'n BackendAddress>) {
        let mut known = lock(&self.known);
        // A backend that an older generation's request has dialled since makes the number larger.
        if known.tidied == Some((generation, known.standings.len())) {
            return;
        }
        let named: HashSet<_> = named.collect();
        known.standings.retain(|address, standing| {
            named.contains(address) || standing.tunnels.load(Ordering::Relaxed) > 0
        });
        self.metrics.forget_backends(|address| {
            !named.contains(address) && !known.standings.contains_key(address)
        });
        let waits = known.standings.keys().any(|address| !named.contains(address));
        known.tidied = (!waits).then_some((generation, known.standings.len()));
    }
}

impl Standing {
    fn new(metrics: Arc<BackendMetrics>) -> Self {
        Standing { metrics, tunnels: AtomicUsize::new(0), down: Mutex::new(None) }
    }

    fn rank(&self, now: Instant) -> Rank {
        match *lock(&self.down) {
            Some(Down { until, hangs, .. }) if until > now => {
                if hangs {
                    Rank::Hangs
                } else {
                    Rank::Refuses
                }
            }
            _ => Rank::Up,
        }
    }

    /// Notes a dial at `now`, before its outcome is known.
    pub fn tried(&self, now: Instant) {
        if let Some(down) = &mut *lock(&self.down) {
            down.tried(now);
        }
    }

    /// Notes a dial that succeeded: the backend is up at once, whatever its pause.
    pub fn up(&self, address: &BackendAddress) {
        *lock(&self.down) = None;
        if self.metrics.dialled(true) {
            tracing::info!(backend = %address, "the backend is up again");
        }
    }

    /// Notes a dial that failed. Warns once for each time that the backend goes down, however many
    /// dials fail then.
    pub fn down(
        &self,
        address: &BackendAddress,
        route: &str,
        hangs: bool,
        error: &dyn fmt::Display,
    ) {
        // A pause that runs stays as it is: only `tried` makes it longer.
        lock(&self.down).get_or_insert_with(|| Down::since(Instant::now())).hangs = hangs;
        if self.metrics.dialled(false) {
            tracing::warn!(route, backend = %address, %error, "the backend is down");
        } else {
            tracing::debug!(route, backend = %address, %error, "the backend is still down");
        }
    }

    /// Adds the weight of one more tunnel, until the `Load` is dropped.
    pub fn load(self: &Arc<Self>) -> Load {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_down_is_tried_less_and_less_often_and_never_too_seldom() {
        let began = Instant::now();
        let mut down = Down::since(began);
        let pauses = (0..6).map(|_| {
            let pause = down.pause;
            down.tried(down.until);
            pause.as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn dials_within_the_pause_make_it_no_longer() {
        let began = Instant::now();
        let mut down = Down::since(began);
        let before = down;
        for _ in 0..9 {
            down.tried(began + FIRST_DOWN / 2);
        }
        assert_eq!(down, before);
    }

    #[test]
    fn one_that_is_back_begins_anew() {
        let address = BackendAddress::Tcp(([127, 0, 0, 1], 1).into());
        let standing = Standing::new(Arc::default());
        standing.down(&address, "chat", false, &"refused");
        standing.tried(Instant::now() + FIRST_DOWN);
        assert_eq!(standing.rank(Instant::now() + FIRST_DOWN), Rank::Refuses);
        standing.up(&address);
        assert_eq!(standing.rank(Instant::now()), Rank::Up);
        standing.down(&address, "chat", false, &"refused");
        assert_eq!(standing.rank(Instant::now() + FIRST_DOWN), Rank::Up);
    }

    /// How many are known after a look at those of a generation.
    #[track_caller]
    fn check_known(backends: &Backends, generation: u64, named: &[BackendAddress], known: usize) {
        backends.tidy(generation, named.iter());
        assert_eq!(lock(&backends.known).standings.len(), known);
    }

    #[test]
    fn what_no_generation_names_is_forgotten_once_no_tunnel_runs_on_it() {
        let addresses = [1, 2, 3].map(|port| BackendAddress::Tcp(([127, 0, 0, 1], port).into()));
        let backends = Backends::new(Metrics::new());
        let ranked = backends.ranked(&addresses);
        let load = ranked[1].1.load();
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
    fn one_that_was_down_and_gone_is_up_when_it_is_named_again() {
        let address = BackendAddress::Tcp(([127, 0, 0, 1], 1).into());
        let metrics = Metrics::new();
        let backends = Backends::new(Arc::clone(&metrics));
        backends.ranked(std::slice::from_ref(&address))[0]
            .1
            .down(&address, "chat", false, &"refused");
        assert!(!metrics.backend(&address).is_up());
        backends.tidy(2, std::iter::empty());
        assert!(metrics.backend(&address).is_up());
        assert_eq!(backends.ranked(&[address])[0].1.rank(Instant::now()), Rank::Up);
    }
}
