//! Detects stalled loops: each data-plane runtime, and the task that reloads.
//!
//! Time is measured in ticks of the control plane. While the process is stopped (SIGSTOP, a
//! debugger, a suspended machine) no tick passes, so no loop counts as stalled. This module
//! restarts nothing; systemd's watchdog does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::sync::lock;

/// The pulses of all loops that must keep turning.
pub struct Pulses {
    period: Duration,
    ticks: AtomicU64,
    loops: Mutex<Vec<Arc<Loop>>>,
}

struct Loop {
    name: Arc<str>,
    /// Tick of the last beat.
    beat: AtomicU64,
}

/// The pulse of one loop. If it is dropped without [`Pulse::end`], the loop counts as stalled: it
/// panicked.
pub struct Pulse {
    pulses: Arc<Pulses>,
    own: Arc<Loop>,
}

impl Pulses {
    /// Creates an empty set. Each loop beats once a `period`, and the caller calls [`Pulses::tick`]
    /// as often.
    pub fn new(period: Duration) -> Arc<Self> {
        Arc::new(Pulses { period, ticks: AtomicU64::new(0), loops: Mutex::default() })
    }

    /// Time between two beats.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Adds a loop, which must beat from now on.
    pub fn begin(self: &Arc<Self>, name: impl Into<Arc<str>>) -> Pulse {
        let own = Arc::new(Loop { name: name.into(), beat: AtomicU64::new(self.now()) });
        self.lock().push(Arc::clone(&own));
        Pulse { pulses: Arc::clone(self), own }
    }

    /// Advances the clock by one period.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Names of the loops whose last beat is longer ago than `than`.
    pub fn stalled(&self, than: Duration) -> Vec<Arc<str>> {
        let most = than.as_millis().div_ceil(self.period.as_millis().max(1));
        let now = self.now();
        let late = |one: &&Arc<Loop>| {
            u128::from(now.saturating_sub(one.beat.load(Ordering::Relaxed))) > most
        };
        self.lock().iter().filter(late).map(|one| Arc::clone(&one.name)).collect()
    }

    fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Loop>>> {
        lock(&self.loops)
    }
}

impl Pulse {
    /// Records that the loop turns.
    pub fn beat(&self) {
        self.own.beat.store(self.pulses.now(), Ordering::Relaxed);
    }

    /// Beats once a period for as long as the loop itself polls this future.
    pub async fn keep(&self) {
        loop {
            self.beat();
            tokio::time::sleep(self.pulses.period).await;
        }
    }

    /// Removes the loop, which has ended in order.
    pub fn end(self) {
        self.pulses.lock().retain(|one| !Arc::ptr_eq(one, &self.own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn check(pulses: &Pulses, seconds: u64, expected: &[&str]) {
        let stalled = pulses.stalled(Duration::from_secs(seconds));
        assert_eq!(stalled.iter().map(|name| &**name).collect::<Vec<_>>(), expected);
    }

    fn pass(pulses: &Pulses, ticks: u32) {
        (0..ticks).for_each(|_| pulses.tick());
    }

    #[test]
    fn a_loop_without_a_beat_for_so_long_is_named_until_it_beats_again() {
        let pulses = Pulses::new(PERIOD);
        let (one, other) = (pulses.begin("data-0"), pulses.begin("data-1"));
        pass(&pulses, 10);
        other.beat();
        check(&pulses, 10, &[]);
        pass(&pulses, 1);
        check(&pulses, 10, &["data-0"]);
        one.beat();
        check(&pulses, 10, &[]);
        pass(&pulses, 11);
        check(&pulses, 10, &["data-0", "data-1"]);
    }

    #[test]
    fn a_loop_that_ended_in_order_is_not_missed_and_one_that_vanished_is() {
        let pulses = Pulses::new(PERIOD);
        pulses.begin("drained").end();
        drop(pulses.begin("panicked"));
        pass(&pulses, 5);
        check(&pulses, 3, &["panicked"]);
    }

    #[test]
    fn time_in_which_nothing_ran_counts_for_nobody() {
        let pulses = Pulses::new(PERIOD);
        let _silent = pulses.begin("data-0");
        // However long the process was stopped, the ticking task was stopped too and makes up for
        // no tick.
        pulses.tick();
        check(&pulses, 1, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_pulse_beats_once_a_period() {
        let pulses = Pulses::new(PERIOD);
        let pulse = pulses.begin("reload");
        let turning = async {
            for _ in 0..20 {
                tokio::time::sleep(PERIOD).await;
                pulses.tick();
                check(&pulses, 2, &[]);
            }
        };
        tokio::select! {
            () = pulse.keep() => {}
            () = turning => {}
        }
        pass(&pulses, 3);
        check(&pulses, 2, &["reload"]);
    }
}
