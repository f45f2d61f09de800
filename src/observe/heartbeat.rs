//! Detects stalled loops: each data-plane runtime, and the task that reloads.
//!
//! Time is measured in ticks of the control plane. While the process is stopped (SIGSTOP, a
//! debugger, a suspended machine) no tick passes, so no loop counts as stalled. This module
//! restarts nothing; systemd's watchdog does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::sync::lock;

/// The heartbeats of all loops that must keep turning.
pub struct Heartbeats {
    period: Duration,
    ticks: AtomicU64,
    loops: Mutex<Vec<Arc<MonitoredLoop>>>,
}

struct MonitoredLoop {
    name: Arc<str>,
    /// Tick of the last beat.
    beat: AtomicU64,
}

/// The heartbeat of one loop. If it is dropped without [`Heartbeat::deregister`], the loop counts
/// as stalled: it panicked.
pub struct Heartbeat {
    pulses: Arc<Heartbeats>,
    own: Arc<MonitoredLoop>,
}

impl Heartbeats {
    /// Creates an empty set. Each loop beats once a `period`, and the caller calls
    /// [`Heartbeats::tick`] as often.
    pub fn new(period: Duration) -> Arc<Self> {
        Arc::new(Heartbeats { period, ticks: AtomicU64::new(0), loops: Mutex::default() })
    }

    /// Time between two beats.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Adds a loop, which must beat from now on.
    pub fn register(self: &Arc<Self>, name: impl Into<Arc<str>>) -> Heartbeat {
        let own = Arc::new(MonitoredLoop { name: name.into(), beat: AtomicU64::new(self.now()) });
        self.lock().push(Arc::clone(&own));
        Heartbeat { pulses: Arc::clone(self), own }
    }

    /// Advances the clock by one period.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Names of the loops whose last beat is longer ago than `than`.
    pub fn stalled(&self, than: Duration) -> Vec<Arc<str>> {
        let most = than.as_millis().div_ceil(self.period.as_millis().max(1));
        let now = self.now();
        let late = |one: &&Arc<MonitoredLoop>| {
            u128::from(now.saturating_sub(one.beat.load(Ordering::Relaxed))) > most
        };
        self.lock().iter().filter(late).map(|one| Arc::clone(&one.name)).collect()
    }

    fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<MonitoredLoop>>> {
        lock(&self.loops)
    }
}

impl Heartbeat {
    /// Records that the loop turns.
    pub fn beat(&self) {
        self.own.beat.store(self.pulses.now(), Ordering::Relaxed);
    }

    /// Beats once a period for as long as the loop itself polls this future.
    pub async fn run(&self) {
        loop {
            self.beat();
            tokio::time::sleep(self.pulses.period).await;
        }
    }

    /// Removes the loop, which has ended in order.
    pub fn deregister(self) {
        self.pulses.lock().retain(|one| !Arc::ptr_eq(one, &self.own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn check(pulses: &Heartbeats, seconds: u64, expected: &[&str]) {
        let stalled = pulses.stalled(Duration::from_secs(seconds));
        assert_eq!(stalled.iter().map(|name| &**name).collect::<Vec<_>>(), expected);
    }

    fn pass(pulses: &Heartbeats, ticks: u32) {
        (0..ticks).for_each(|_| pulses.tick());
    }

    #[test]
    fn silent_loop_is_named_until_it_beats_again() {
        let pulses = Heartbeats::new(PERIOD);
        let (one, other) = (pulses.register("data-0"), pulses.register("data-1"));
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
    fn ended_loop_is_not_stalled_and_a_dropped_one_is() {
        let pulses = Heartbeats::new(PERIOD);
        pulses.register("drained").deregister();
        drop(pulses.register("panicked"));
        pass(&pulses, 5);
        check(&pulses, 3, &["panicked"]);
    }

    #[test]
    fn time_while_the_process_is_stopped_does_not_count() {
        let pulses = Heartbeats::new(PERIOD);
        let _silent = pulses.register("data-0");
        // However long the process was stopped, the ticking task was stopped too and makes up for
        // no tick.
        pulses.tick();
        check(&pulses, 1, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn running_heartbeat_beats_once_a_period() {
        let pulses = Heartbeats::new(PERIOD);
        let pulse = pulses.register("reload");
        let turning = async {
            for _ in 0..20 {
                tokio::time::sleep(PERIOD).await;
                pulses.tick();
                check(&pulses, 2, &[]);
            }
        };
        tokio::select! {
            () = pulse.run() => {}
            () = turning => {}
        }
        pass(&pulses, 3);
        check(&pulses, 2, &["reload"]);
    }
}
