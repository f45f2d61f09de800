//! The cells of counters: plain numbers, and histograms of durations.
//!
//! Each cell has a single writing thread. Counting is a load and a store, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bucket bounds in seconds, 100 µs to 120 s: dials, upgrades, TLS handshakes.
pub const LATENCY_BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 120.0,
];

/// Bucket bounds in seconds, one second to a week: lifetimes of tunnels.
pub const LIFETIME_BOUNDS: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0,
];

/// A number that one thread adds to and scrapes read. A reader that sees a count also sees
/// everything counted before it (release and acquire).
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more` to the count.
    #[inline]
    pub fn add(&self, more: u64) {
        // No `fetch_add`: with a single writer, a load and a store lose nothing and cost less.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
    }

    /// The count so far.
    pub fn sum(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A histogram of durations: the count between each bound and the one before, and the sum.
pub struct Histogram<const BOUNDS: usize> {
    within: [Counter; BOUNDS],
    beyond: Counter,
    microseconds: Counter,
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        Histogram {
            within: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            microseconds: Counter::default(),
        }
    }
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// Counts a duration. Every call for one histogram passes the same `bounds`.
    pub fn observe(&self, bounds: &[f64; BOUNDS], took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = bounds
            .iter()
            .position(|bound| seconds <= *bound)
            .map_or(&self.beyond, |at| &self.within[at]);
        bucket.add(1);
        self.microseconds.add(u64::try_from((took.as_nanos() + 500) / 1000).unwrap_or(u64::MAX));
    }

    /// The cumulative count at each bound, and the count of all durations.
    pub fn cumulative(&self) -> ([u64; BOUNDS], u64) {
        // Summed from the buckets: a separate count could disagree with them during an `observe`.
        let mut total = 0;
        let within = std::array::from_fn(|at| {
            total += self.within[at].sum();
            total
        });
        (within, total + self.beyond.sum())
    }

    /// The sum of all durations, in seconds.
    pub fn seconds(&self) -> f64 {
        self.microseconds.sum() as f64 / 1e6
    }

    /// Every cell of the histogram, in a fixed order.
    pub fn counts(&self) -> impl Iterator<Item = &Counter> {
        self.within.iter().chain([&self.beyond, &self.microseconds])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where something that took so many microseconds is counted, of the bounds 1 ms and 1 s.
    fn check(microseconds: u64, within: [u64; 2]) {
        let histogram = Histogram::default();
        histogram.observe(&[0.001, 1.0], Duration::from_micros(microseconds));
        assert_eq!(histogram.cumulative(), (within, 1), "{microseconds} µs");
        assert_eq!(histogram.seconds(), microseconds as f64 / 1e6);
    }

    #[test]
    fn duration_counts_in_every_bucket_at_or_above_it() {
        check(0, [1, 1]);
        check(1000, [1, 1]);
        check(1001, [0, 1]);
        check(1_000_000, [0, 1]);
        check(1_000_001, [0, 0]);
    }

    #[test]
    fn durations_are_rounded_and_not_cut() {
        let histogram = Histogram::default();
        histogram.observe(&LATENCY_BOUNDS, Duration::from_nanos(1500));
        assert_eq!(histogram.seconds(), 2e-6);
    }

    #[test]
    fn histogram_bounds_grow_over_their_range() {
        for (bounds, least, max) in
            [(&LATENCY_BOUNDS[..], 0.0001, 120.0), (&LIFETIME_BOUNDS[..], 1.0, 7.0 * 86_400.0)]
        {
            assert!(bounds.is_sorted() && (bounds[0], bounds[bounds.len() - 1]) == (least, max));
        }
    }
}
