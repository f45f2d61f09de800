//! Rates of each route over the last minute, from samples of its counters.
//!
//! This module counts nothing itself. It keeps a minute of samples; their size is bounded by the
//! number of routes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::close::Traffic;
use crate::observe::metrics::RouteTotals;
use crate::sync::lock;

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of samples kept: a minute of them.
const MAX_SAMPLES: usize = 12;

/// The counters of all routes at one time.
type RouteSample = Vec<(Arc<str>, RouteTotals)>;

/// The samples of the last minute, newest first.
#[derive(Default)]
pub struct RateHistory(Mutex<VecDeque<(Instant, RouteSample)>>);

/// A route's averages per second over some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteRate {
    /// The time of the average: a minute, or less if the route was added since.
    pub over: Duration,
    /// Tunnels opened per second.
    pub opened: f64,
    /// Requests refused, or failed at the backend, per second.
    pub refused: f64,
    /// Messages and bytes from clients, per second.
    pub from_client: [f64; 2],
    /// Messages and bytes from backends, per second.
    pub from_backend: [f64; 2],
}

impl RateHistory {
    /// Samples the counters that `look` returns every few seconds, for ever.
    pub async fn sample(&self, look: impl Fn() -> RouteSample) {
        loop {
            self.record(Instant::now(), look());
            sleep(SAMPLE_INTERVAL).await;
        }
    }

    fn record(&self, at: Instant, totals: RouteSample) {
        let mut samples = lock(&self.0);
        samples.truncate(MAX_SAMPLES - 1);
        samples.push_front((at, totals));
    }

    /// The rate of `route`, whose counters are `now` at `at`. `None` means not yet known: no sample
    /// is a second old.
    pub fn rate(&self, route: &str, at: Instant, now: &RouteTotals) -> Option<RouteRate> {
        let samples = lock(&self.0);
        // The oldest sample that has the route: a route that was added later has less than a minute
        // of samples.
        let known = samples.iter().rev().find_map(|(then, totals)| {
            let (_, totals) = totals.iter().find(|(name, _)| **name == *route)?;
            Some((*then, *totals))
        });
        let (then, before) = known?;
        let over = at.saturating_duration_since(then);
        // Over a shorter time a single event would look like a high rate.
        if over < Duration::from_secs(1) {
            return None;
        }
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / over.as_secs_f64();
        let both = |before: Traffic, now: Traffic| {
            [rate(before.messages, now.messages), rate(before.bytes, now.bytes)]
        };
        Some(RouteRate {
            over,
            opened: rate(before.opened, now.opened),
            refused: rate(before.refused, now.refused),
            from_client: both(before.from_client, now.from_client),
            from_backend: both(before.from_backend, now.from_backend),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(opened: u64) -> RouteTotals {
        let traffic = Traffic { bytes: opened * 100, messages: opened * 2 };
        RouteTotals { opened, from_client: traffic, ..RouteTotals::default() }
    }

    fn sample(rates: &RateHistory, at: Instant, all: &[(&str, u64)]) {
        rates.record(
            at,
            all.iter().map(|(name, opened)| (Arc::from(*name), totals(*opened))).collect(),
        );
    }

    /// The seconds of the average, and the tunnels opened per second.
    fn check(
        rates: &RateHistory,
        route: &str,
        at: Instant,
        opened: u64,
        expected: Option<(u64, f64)>,
    ) {
        let rate = rates.rate(route, at, &totals(opened));
        let rounded = |rate: f64| (rate * 1000.0).round() / 1000.0;
        assert_eq!(rate.map(|rate| (rate.over.as_secs(), rounded(rate.opened))), expected);
        let times = |factor: f64| rate.map(|rate| rounded(rate.opened * factor));
        assert_eq!(
            rate.map(|rate| rate.from_client.map(rounded)),
            times(2.0).zip(times(100.0)).map(Into::into)
        );
    }

    #[test]
    fn a_rate_is_over_the_last_minute_or_since_the_start() {
        let (rates, start) = (RateHistory::default(), Instant::now());
        check(&rates, "chat", start, 0, None);
        for turn in 0..100 {
            sample(&rates, start + SAMPLE_INTERVAL * turn, &[("chat", 10 * u64::from(turn))]);
            let young = u64::from(turn.min(MAX_SAMPLES as u32 - 1)) * SAMPLE_INTERVAL.as_secs();
            check(
                &rates,
                "chat",
                start + SAMPLE_INTERVAL * turn,
                10 * u64::from(turn),
                (young > 0).then_some((young, 2.0)),
            );
        }
        check(&rates, "chat", start + SAMPLE_INTERVAL * 100, 990, Some((60, 1.833)));
        assert_eq!(rates.0.lock().unwrap().len(), MAX_SAMPLES);
    }

    #[test]
    fn route_added_later_is_sampled_from_then_on() {
        let (rates, start) = (RateHistory::default(), Instant::now());
        sample(&rates, start, &[("chat", 0)]);
        sample(&rates, start + SAMPLE_INTERVAL, &[("chat", 0), ("ticks", 50)]);
        check(&rates, "ticks", start + SAMPLE_INTERVAL * 3, 70, Some((10, 2.0)));
        check(&rates, "other", start + SAMPLE_INTERVAL * 3, 70, None);
        check(&rates, "chat", start + Duration::from_millis(900), 70, None);
    }

    #[test]
    fn counters_that_went_back_make_no_rate_below_zero() {
        let (rates, start) = (RateHistory::default(), Instant::now());
        sample(&rates, start, &[("chat", 50)]);
        check(&rates, "chat", start + SAMPLE_INTERVAL, 10, Some((5, 0.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn samples_come_every_few_seconds() {
        let (rates, looked) = (RateHistory::default(), std::cell::Cell::new(0));
        let look = || {
            looked.set(looked.get() + 1);
            vec![("chat".into(), totals(looked.get()))]
        };
        let _ = tokio::time::timeout(Duration::from_secs(17), rates.sample(look)).await;
        assert_eq!(looked.get(), 4);
        check(&rates, "chat", Instant::now(), 18, Some((17, 1.0)));
    }
}
