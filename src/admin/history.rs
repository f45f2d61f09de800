//! The rates of the whole process over the last fifteen minutes, from samples of its counters.
//!
//! This module counts nothing itself. It keeps a fixed number of samples: about 50 KiB.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::admin::wire::{ActivityPoint, ActivityRates, Time};
use crate::observe::metrics::ActivityTotals;
use crate::sync::lock;

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// The time that a history covers.
const HISTORY_PERIOD: Duration = Duration::from_secs(15 * 60);

/// Most samples kept. A history of 180 intervals has one more end.
const MAX_SAMPLES: usize = 181;

/// Least time of an average. Over a shorter one, a single event would look like a high rate.
const MIN_PERIOD: Duration = Duration::from_secs(1);

/// The counters of the process at one time.
#[derive(Debug, Clone, Copy)]
struct ActivitySample {
    at: Instant,
    /// Number of open tunnels.
    tunnels: u64,
    totals: ActivityTotals,
}

/// The samples of the last fifteen minutes, the oldest first.
pub struct ActivityHistory {
    started: Instant,
    samples: Mutex<VecDeque<ActivitySample>>,
}

impl Default for ActivityHistory {
    fn default() -> Self {
        ActivityHistory { started: Instant::now(), samples: Mutex::default() }
    }
}

impl ActivityHistory {
    /// Samples the open tunnels and the counters that `look` returns, for ever.
    pub async fn sample(&self, look: impl Fn() -> (u64, ActivityTotals)) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        // After a stall one longer interval follows. A burst of samples would make intervals of
        // some milliseconds, whose rates mean nothing.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (tunnels, totals) = look();
            self.record(ActivitySample { at: Instant::now(), tunnels, totals });
        }
    }

    fn record(&self, sample: ActivitySample) {
        let mut samples = lock(&self.samples);
        samples.push_back(sample);
        // The oldest sample may be older than the period: the first interval begins there.
        let covers = |start: &ActivitySample| sample.at - start.at >= HISTORY_PERIOD;
        while samples.len() > MAX_SAMPLES || samples.get(1).is_some_and(covers) {
            samples.pop_front();
        }
    }

    /// Time since the history was made, which is that since the start of the process.
    pub fn uptime(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }

    /// The rates of each interval, the oldest first. `at` and `now` are the same time by two
    /// clocks.
    pub fn points(&self, at: Instant, now: Timestamp) -> Vec<ActivityPoint> {
        let samples = lock(&self.samples);
        let intervals = samples.iter().zip(samples.iter().skip(1));
        let point = |(before, after): (&ActivitySample, &ActivitySample)| {
            let over = after.at.saturating_duration_since(before.at);
            // Counted back from now: a clock that was set meanwhile moves the whole history.
            let ago = SignedDuration::try_from(at.saturating_duration_since(after.at));
            let end = ago.ok().and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now);
            let rates = rates(over, &before.totals, &after.totals);
            ActivityPoint { at: Time(end), tunnels: after.tunnels, rates }
        };
        intervals.map(point).collect()
    }

    /// The rates of the last seconds, if the counters are `now` at `at`. `None` means not yet
    /// known: no sample is a second old.
    pub fn rates(&self, at: Instant, now: &ActivityTotals) -> Option<ActivityRates> {
        let samples = lock(&self.samples);
        let age = |sample: &ActivitySample| at.saturating_duration_since(sample.at);
        // The newest that is a whole interval old, or the oldest of an agent that just started.
        let whole = samples.iter().rev().find(|sample| age(sample) >= SAMPLE_INTERVAL);
        let before = whole.or(samples.front()).filter(|sample| age(sample) >= MIN_PERIOD)?;
        Some(rates(age(before), &before.totals, now))
    }

    /// The counters fifteen minutes ago: those of the oldest sample, or none at the start.
    pub fn oldest(&self) -> ActivityTotals {
        let samples = lock(&self.samples);
        // Before the ring is full, it covers everything since the start, whose counters are 0.
        // A full ring is whole by its length: timers may fire a fraction of a millisecond early.
        let is_whole = |sample: &&ActivitySample| {
            let covers = |last: &ActivitySample| last.at - sample.at >= HISTORY_PERIOD;
            samples.len() == MAX_SAMPLES || samples.back().is_some_and(covers)
        };
        samples.front().filter(is_whole).map(|sample| sample.totals).unwrap_or_default()
    }
}

fn rates(over: Duration, before: &ActivityTotals, now: &ActivityTotals) -> ActivityRates {
    let seconds = over.as_secs_f64();
    // Three decimals show one event in a quarter of an hour; more would be noise.
    let round = |number: f64| (number * 1000.0).round() / 1000.0;
    let rate = |before: u64, now: u64| match seconds > 0.0 {
        true => round(now.saturating_sub(before) as f64 / seconds),
        false => 0.0,
    };
    ActivityRates {
        over_seconds: round(seconds),
        connections: rate(before.connections, now.connections),
        opened: rate(before.opened, now.opened),
        refused: rate(before.refused(), now.refused()),
        plain: rate(before.plain, now.plain),
        bytes_from_client: rate(before.from_client.bytes, now.from_client.bytes),
        bytes_from_backend: rate(before.from_backend.bytes, now.from_backend.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(opened: u64) -> ActivityTotals {
        let mut totals = ActivityTotals { opened, ..ActivityTotals::default() };
        totals.refusals[1] = opened * 2;
        totals.from_client.bytes = opened * 100;
        totals
    }

    fn record(history: &ActivityHistory, at: Instant, opened: u64) {
        history.record(ActivitySample { at, tunnels: opened, totals: totals(opened) });
    }

    #[test]
    fn young_history_has_fewer_points_and_no_rates_at_first() {
        let (history, start) = (ActivityHistory::default(), Instant::now());
        assert_eq!(history.rates(start, &totals(0)), None);
        record(&history, start, 0);
        assert_eq!(history.points(start, Timestamp::UNIX_EPOCH), []);
        assert_eq!(history.rates(start + Duration::from_millis(900), &totals(9)), None);
        let rates = history.rates(start + Duration::from_secs(2), &totals(10)).unwrap();
        assert_eq!((rates.over_seconds, rates.opened, rates.refused), (2.0, 5.0, 10.0));
        assert_eq!(history.oldest(), ActivityTotals::default());
    }

    #[test]
    fn history_covers_fifteen_minutes_and_keeps_no_more() {
        let (history, start) = (ActivityHistory::default(), Instant::now());
        for turn in 0..1000 {
            record(&history, start + SAMPLE_INTERVAL * turn, 10 * u64::from(turn));
        }
        let at = start + SAMPLE_INTERVAL * 999;
        let now = Timestamp::from_second(10_000).unwrap();
        let points = history.points(at, now);
        assert_eq!((points.len(), lock(&history.samples).len()), (180, MAX_SAMPLES));
        assert!(points.iter().all(|point| point.rates.opened == 2.0));
        assert_eq!(points[179].at, Time(now));
        assert_eq!(points[0].at, Time(Timestamp::from_second(10_000 - 895).unwrap()));
        assert_eq!(history.oldest().opened, 10 * 819);
    }

    #[test]
    fn stall_makes_one_long_interval() {
        let (history, start) = (ActivityHistory::default(), Instant::now());
        record(&history, start, 0);
        record(&history, start + SAMPLE_INTERVAL, 10);
        record(&history, start + SAMPLE_INTERVAL + Duration::from_secs(50), 110);
        let points = history.points(start + Duration::from_secs(60), Timestamp::UNIX_EPOCH);
        let over: Vec<_> = points.iter().map(|one| one.rates.over_seconds).collect();
        assert_eq!((over, points[1].rates.opened), (vec![5.0, 50.0], 2.0));
        // After an hour's stop the samples before it are too old, but the last begins an interval.
        record(&history, start + Duration::from_secs(3655), 3710);
        let points = history.points(start + Duration::from_secs(3655), Timestamp::UNIX_EPOCH);
        assert_eq!((points.len(), points[0].rates.opened), (1, 1.0));
    }

    #[test]
    fn counters_that_went_back_make_no_rate_below_zero() {
        let (history, start) = (ActivityHistory::default(), Instant::now());
        record(&history, start, 50);
        let rates = history.rates(start + SAMPLE_INTERVAL, &totals(10)).unwrap();
        assert_eq!((rates.opened, rates.refused, rates.bytes_from_client), (0.0, 0.0, 0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn samples_come_every_few_seconds() {
        let history = ActivityHistory::default();
        let look = || (3, totals(0));
        let _ = tokio::time::timeout(Duration::from_secs(17), history.sample(look)).await;
        let points = history.points(Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!((points.len(), points[2].tunnels), (3, 3));
    }
}
