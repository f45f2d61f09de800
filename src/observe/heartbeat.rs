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
    heartbeats: Arc<Heartbeats>,
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
        Heartbeat { heartbeats: Arc::clone(self), own }
    }

    /// Advances the clock by one period.
    pub fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Names of the loops whose last beat is longer ago than `than`.
    pub fn stalled(&self, than: Duration) -> Vec<Arc<str>> {
        // Rounded up, and compared with `>`: n ticks may pass in little more than n - 1 periods,
        // and no loop is reported early.
        let max = than.as_millis().div_ceil(self.period.as_millis().max(1));
        let now = self.now();
        let late = |one: &&Arc<MonitoredLoop>| {
            // A loop may beat at a later tick than `now`, which was read before.
            u128::from(now.saturating_sub(one.beat.load(Ordering::Relaxed))) > max
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
        self.own.beat.store(self.heartbeats.now(), Ordering::Relaxed);
    }

    /// Beats once a period for as long as the loop itself polls this future.
    pub async fn run(&self) {
        loop {
            self.beat();
            tokio::time::sleep(self.heartbeats.period).await;
        }
    }

    /// Removes the loop, which has ended in order.
    pub fn deregister(self) {
        self.heartbeats.lock().retain(|one| !Arc::ptr_eq(one, &self.own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    fn check(heartbeats: &Heartbeats, seconds: u64, expected: &[&str]) {
        let stalled = heartbeats.stalled(Duration::from_secs(seconds));
        assert_eq!(stalled.iter().map(|name| &**name).collect::<Vec<_>>(), expected);
    }

    fn pass(heartbeats: &Heartbeats, ticks: u32) {
        (0..ticks).for_each(|_| heartbeats.tick());
    }

    #[test]
    fn silent_loop_is_named_until_it_beats_again() {
        let heartbeats = Heartbeats::new(PERIOD);
        let (one, other) = (heartbeats.register("data-0"), heartbeats.register("data-1"));
        pass(&heartbeats, 10);
        other.beat();
        check(&heartbeats, 10, &[]);
        pass(&heartbeats, 1);
        check(&heartbeats, 10, &["data-0"]);
        one.beat();
        check(&heartbeats, 10, &[]);
        pass(&heartbeats, 11);
        check(&heartbeats, 10, &["data-0", "data-1"]);
    }

    #[test]
    fn ended_loop_is_not_stalled_and_a_dropped_one_is() {
        let heartbeats = Heartbeats::new(PERIOD);
        heartbeats.register("drained").deregister();
        drop(heartbeats.register("panicked"));
        pass(&heartbeats, 5);
        check(&heartbeats, 3, &["panicked"]);
    }

    #[test]
    fn time_while_the_process_is_stopped_does_not_count() {
        let heartbeats = Heartbeats::new(PERIOD);
        let _silent = heartbeats.register("data-0");
        // However long the process was stopped, the ticking task was stopped too and makes up for
        // no tick.
        heartbeats.tick();
        check(&heartbeats, 1, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn running_heartbeat_beats_once_a_period() {
        let heartbeats = Heartbeats::new(PERIOD);
        let heartbeat = heartbeats.register("reload");
        let turning = async {
            for _ in 0..20 {
                tokio::time::sleep(PERIOD).await;
                heartbeats.tick();
                check(&heartbeats, 2, &[]);
            }
        };
        tokio::select! {
            () = heartbeat.run() => {}
            () = turning => {}
        }
        pass(&heartbeats, 3);
        check(&heartbeats, 2, &["reload"]);
    }
}
