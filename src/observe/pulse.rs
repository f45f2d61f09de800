//! Whether the loops that must not stop still turn: each data-plane runtime, and the task that reloads.
//!
//! Time is counted in ticks of the control plane, in which this process ran: while it was stopped (SIGSTOP, a
//! debugger, a suspended machine) nobody's silence counts. It restarts nothing; systemd's watchdog does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::sync::lock;

/// All loops that should turn.
pub struct Pulses {
    period: Duration,
    ticks: AtomicU64,
    loops: Mutex<Vec<Arc<Loop>>>,
}

struct Loop {
    name: Arc<str>,
    /// The tick of its last beat.
    beat: AtomicU64,
}

/// The pulse of one loop. One that is dropped without [`Pulse::end`] is missed from then on.
pub struct Pulse {
    pulses: Arc<Pulses>,
    own: Arc<Loop>,
}

impl Pulses {
    /// Nobody yet; each beats once a `period`, and [`Pulses::tick`] is to be called as often.
    pub fn new(period: Duration) -> Arc<Self> {
        Arc::new(Pulses { period, ticks: AtomicU64::new(0), loops: Mutex::default() })
    }

    /// The time between two beats.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// A loop that turns from now on.
    pub fn begin(self: &Arc<Self>, name: impl Into<Arc<str>>) -> Pulse {
        let own = Arc::new(Loop { name: name.into(), beat: AtomicU64::new(self.now()) });
        self.lock().push(Arc::clone(&own));
        Pulse { pulses: Arc::clone(self), own }
    }

    /// One more period went by.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// The loops whose last beat is longer ago `than` that.
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
    /// The loop turns.
    pub fn beat(&self) {
        self.own.beat.store(self.pulses.now(), Ordering::Relaxed);
    }

    /// Beats for as long as it is polled, by the loop that it is the pulse of.
    pub async fn keep(&self) {
        loop {
            self.beat();
            tokio::time::sleep(self.pulses.period).await;
        }
    }

    /// The loop has ended as it should.
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
        // Stopped for as long as you like: the one that ticks was stopped too, and makes up for nothing.
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
