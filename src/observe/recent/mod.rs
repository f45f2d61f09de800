//! The recent decisions: bounded rings in memory that answer why a request was refused.
//!
//! Each thread of the data plane has rings of its own, so that no thread waits for another. Nothing
//! here decides, and nothing is written to a disk.

mod decision;
mod ring;
mod text;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

pub use self::decision::{DecidedEntry, DecidedRule, RecentDecision};
use self::ring::Ring;
pub use self::ring::RingBounds;
use crate::observe::metrics::RequestResult;
use crate::sync::lock;

/// The rings of all threads, and their bounds.
pub struct RecentDecisions {
    state: Mutex<SharedState>,
}

struct SharedState {
    bounds: RingBounds,
    /// Time from which decisions are kept.
    since: Timestamp,
    threads: Vec<Arc<ThreadDecisions>>,
}

/// The rings of one thread.
pub struct ThreadDecisions {
    /// Whether decisions are kept. Read without the lock, so that `off` costs one load.
    is_on: AtomicBool,
    rings: Mutex<Rings>,
}

/// One ring for each half of the room: permitted requests never push refusals out.
#[derive(Default)]
struct Rings {
    denied: Ring<Arc<RecentDecision>>,
    permitted: Ring<Arc<RecentDecision>>,
}

/// The decisions that are kept, and how far back they are complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Recollection {
    /// Refused requests and connections, and requests that failed, the newest first.
    pub denied: Vec<Arc<RecentDecision>>,
    /// Time since which `denied` has all of them.
    pub denied_since: Timestamp,
    /// Permitted requests, the newest first.
    pub permitted: Vec<Arc<RecentDecision>>,
    /// Time since which `permitted` has all of them.
    pub permitted_since: Timestamp,
}

impl Recollection {
    /// The same as of `now`, for a clock that was set back: no time of it is in the future, and the
    /// decisions since then count.
    pub fn as_of(mut self, now: Timestamp) -> Recollection {
        self.denied_since = since_before(self.denied_since, &self.denied, now);
        self.permitted_since = since_before(self.permitted_since, &self.permitted, now);
        self
    }
}

/// `since`, or the time before the first of `kept` if `since` is later than `now`.
fn since_before(since: Timestamp, kept: &[Arc<RecentDecision>], now: Timestamp) -> Timestamp {
    if since <= now {
        return since;
    }
    // Decisions of the same times before the clock was set may be missing, which no time can say.
    let first = kept.iter().map(|one| one.at).filter(|at| *at <= now).min();
    first.map_or(now, |first| first.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(first))
}

impl RecentDecisions {
    /// Creates rings with `bounds` in all.
    pub fn new(bounds: RingBounds, now: Timestamp) -> Arc<Self> {
        let state = SharedState { bounds, since: now, threads: Vec::new() };
        Arc::new(RecentDecisions { state: Mutex::new(state) })
    }

    /// Adds the rings of a thread.
    pub fn thread(&self) -> Arc<ThreadDecisions> {
        let thread = Arc::new(ThreadDecisions {
            // Off until `share` has set the bounds: a ring without room would count what it gets as
            // dropped, and would claim to be incomplete.
            is_on: AtomicBool::new(false),
            rings: Mutex::new(Rings::default()),
        });
        let mut state = lock(&self.state);
        state.threads.push(Arc::clone(&thread));
        // Shrinks the rings of all other threads too: the bounds are those of the process.
        state.share();
        thread
    }

    /// Changes the bounds. Smaller ones drop the oldest decisions; `off` drops all.
    pub fn set_bounds(&self, bounds: RingBounds, now: Timestamp) {
        let mut state = lock(&self.state);
        if state.bounds == bounds {
            return;
        }
        // Nothing was kept while it was off, so that the rings are complete only from now on.
        if state.bounds.is_off() {
            state.since = now;
        }
        state.bounds = bounds;
        state.share();
    }

    /// The bounds of all rings together.
    pub fn bounds(&self) -> RingBounds {
        lock(&self.state).bounds
    }

    /// The decisions that `wanted` selects. `None` means that none are kept.
    pub fn recall(&self, wanted: impl Fn(&RecentDecision) -> bool) -> Option<Recollection> {
        let state = lock(&self.state);
        if state.bounds.is_off() {
            return None;
        }
        let mut found = Recollection {
            denied: Vec::new(),
            denied_since: state.since,
            permitted: Vec::new(),
            permitted_since: state.since,
        };
        for thread in &state.threads {
            // One lock at a time: a thread waits only while its own rings are read.
            let rings = lock(&thread.rings);
            found.denied_since = found.denied_since.max(rings.denied.complete_after());
            found.permitted_since = found.permitted_since.max(rings.permitted.complete_after());
            // Only pointers are copied under the lock. The caller converts them after its release.
            found.denied.extend(rings.denied.iter().filter(|one| wanted(one)).cloned());
            found.permitted.extend(rings.permitted.iter().filter(|one| wanted(one)).cloned());
        }
        // Stable, and from the newest ring position on: decisions of one instant keep their order.
        found.denied.sort_by_key(|one| std::cmp::Reverse(one.at));
        found.permitted.sort_by_key(|one| std::cmp::Reverse(one.at));
        Some(found)
    }
}

impl SharedState {
    /// Gives each ring its share of the bounds.
    fn share(&self) {
        // Two rings for each thread.
        let share = self.bounds.divided(self.threads.len() * 2);
        // Locks are always taken in this order: the state, then the rings of one thread. `keep`
        // takes the rings alone.
        for thread in &self.threads {
            let mut rings = lock(&thread.rings);
            rings.denied.set_bounds(share);
            rings.permitted.set_bounds(share);
            // Relaxed: a decision of this instant may be kept or not.
            thread.is_on.store(!self.bounds.is_off(), Ordering::Relaxed);
        }
    }
}

impl ThreadDecisions {
    /// Keeps the decision that `make` makes. Where decisions are not kept, nothing is made.
    pub fn keep(&self, make: impl FnOnce() -> RecentDecision) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        // Made before the lock is taken, so that a reader waits for no formatting.
        let decision = Arc::new(make());
        let mut rings = lock(&self.rings);
        match decision.result {
            RequestResult::Permitted => rings.permitted.push(decision),
            RequestResult::Refused | RequestResult::Failed => rings.denied.push(decision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::recent::decision::tests::decision;

    const BOUNDS: RingBounds = RingBounds { count: 40, bytes: 1 << 20 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ids(all: &[Arc<RecentDecision>]) -> Vec<&str> {
        all.iter().filter_map(|one| one.request_id()).collect()
    }

    #[test]
    fn permitted_requests_never_push_refusals_out() {
        let recent = RecentDecisions::new(BOUNDS, at(0));
        let thread = recent.thread();
        thread.keep(|| decision(at(1), RequestResult::Refused, "refused"));
        for second in 2..1000 {
            thread.keep(|| decision(at(second), RequestResult::Permitted, "permitted"));
        }
        let found = recent.recall(|_| true).unwrap();
        assert_eq!((ids(&found.denied), found.permitted.len()), (vec!["refused"], 20));
        assert_eq!((found.denied_since, found.permitted_since), (at(0), at(979)));
    }

    #[test]
    fn threads_share_the_bounds_and_the_newest_is_first() {
        let recent = RecentDecisions::new(BOUNDS, at(0));
        let threads = [recent.thread(), recent.thread()];
        for second in 1..=30 {
            let id = second.to_string();
            let thread = &threads[usize::from(second % 3 == 0)];
            thread.keep(|| decision(at(second), RequestResult::Failed, &id));
        }
        let found = recent.recall(|_| true).unwrap();
        assert!(found.denied.is_sorted_by(|newer, older| newer.at > older.at));
        // Of 20 and 10 decisions each thread keeps 10. The one at 14 s was the last to go.
        assert_eq!((found.denied.len(), found.denied_since), (20, at(14)));
        let complete = found.denied.iter().filter(|one| one.at > found.denied_since).count();
        assert_eq!(complete, 16, "all from 15 s to 30 s");
    }

    #[test]
    fn decisions_after_a_clock_was_set_back_count() {
        let recent = RecentDecisions::new(BOUNDS, at(0));
        let thread = recent.thread();
        for second in 1000..1100 {
            thread.keep(|| decision(at(second), RequestResult::Refused, "before"));
        }
        for second in 500..503 {
            thread.keep(|| decision(at(second), RequestResult::Refused, "after"));
        }
        let found = recent.recall(|_| true).unwrap().as_of(at(502));
        let counted = found.denied.iter().filter(|one| one.at > found.denied_since);
        assert_eq!(counted.filter(|one| one.at <= at(502)).count(), 3);
        assert!(found.denied_since < at(500));
        let later = recent.recall(|_| true).unwrap().as_of(at(2000));
        assert!(later.denied_since > at(1000), "the clock has caught up");
    }

    #[test]
    fn decisions_are_not_made_while_they_are_off() {
        let recent = RecentDecisions::new(RingBounds { count: 0, ..BOUNDS }, at(0));
        let thread = recent.thread();
        thread.keep(|| unreachable!());
        assert_eq!(recent.recall(|_| true), None);
        recent.set_bounds(BOUNDS, at(5));
        thread.keep(|| decision(at(6), RequestResult::Refused, "a"));
        let found = recent.recall(|_| true).unwrap();
        assert_eq!((ids(&found.denied), found.denied_since), (vec!["a"], at(5)));
        recent.set_bounds(RingBounds { bytes: 0, ..BOUNDS }, at(7));
        thread.keep(|| unreachable!());
        assert_eq!(recent.recall(|_| true), None);
    }
}
