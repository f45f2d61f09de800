//! The measure of the benchmarks: CPU time, memory stalls included, so that a busy machine shows
//! only in cache losses.

use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use sidegate::policy::network::Client;

/// Each question is about another client, and depends on the last answer, so that no two overlap.
pub fn asking(
    group: &mut BenchmarkGroup<'_, CpuTime>,
    name: &str,
    clients: &[Client],
    ask: impl Fn(Client, Timestamp) -> bool,
) {
    let (now, mut at) = (Timestamp::now(), 0);
    group.bench_function(name, |bencher| {
        bencher.iter(|| at = (at + 1 + usize::from(ask(clients[at], now))) % clients.len());
    });
}

/// The CPU time of this thread, displayed like other durations.
pub struct CpuTime;

static WALL: WallTime = WallTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        clock_gettime(ClockId::ThreadCPUTime).try_into().expect("it counts from zero")
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WALL.formatter()
    }
}
