//! The least pace of a body: what its sender, or its taker, must do while it is waited for.
//!
//! Only time spent waiting for that side counts. A backend that is silent, or a client that has
//! taken everything, is not slow. It reads no clock and no socket.

use std::time::Duration;

use tokio::time::Instant;

/// The time over which a pace is averaged, and so the time that each body has before it counts: the
/// default of `body_stall`, so that one pause of that length does not count as slow. A longer
/// `body_stall` does not lengthen it: else a drip that looks like pauses would have no bound.
const WINDOW: Duration = Duration::from_secs(60);

/// The pace of one side of one body.
#[derive(Debug)]
pub struct Pace {
    /// The least bytes of a window; `None` means unlimited.
    least: Option<u64>,
    /// Time spent waiting in this window, up to `since`.
    waited: Duration,
    /// Since when it is waited for; `None` means that it is not.
    since: Option<Instant>,
    /// Bytes of this window.
    bytes: u64,
}

impl Pace {
    /// At least `per_second` bytes; `None` means unlimited.
    pub fn new(per_second: Option<u64>) -> Pace {
        let least = per_second.map(|bytes| bytes.saturating_mul(WINDOW.as_secs()));
        Pace { least, waited: Duration::ZERO, since: None, bytes: 0 }
    }

    /// It is waited for from `now` on, unless it was already.
    pub fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// `bytes` came or were taken.
    pub fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// It is no longer waited for.
    pub fn rests(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now - since;
        }
    }

    /// When the window ends if the wait goes on; `None`: nothing is waited for, or unlimited.
    pub fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| self.least.is_some())?;
        Some(since + WINDOW.saturating_sub(self.waited))
    }

    /// Whether it is too slow at `now`. A window that is over makes place for the next.
    pub fn is_too_slow(&mut self, now: Instant) -> bool {
        let Some(least) = self.least else { return false };
        let waited = self.waited + self.since.map_or(Duration::ZERO, |since| now - since);
        if waited < WINDOW {
            return false;
        }
        let too_slow = self.bytes < least;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        self.since = self.since.map(|_| now);
        too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves `bytes` every second of waiting, and rests for `rest` between; says after how many
    /// seconds of waiting it was too slow, of 200.
    fn too_slow_after(bytes: u64, rest: u64) -> Option<u64> {
        let (mut pace, mut now) = (Pace::new(Some(500)), Instant::now());
        for second in 1..=200 {
            pace.waits(now);
            now += Duration::from_secs(1);
            pace.moved(bytes);
            if pace.is_too_slow(now) {
                return Some(second);
            }
            pace.rests(now);
            now += Duration::from_secs(rest);
        }
        None
    }

    #[test]
    fn slow_body_is_given_up_after_its_first_window() {
        assert_eq!(too_slow_after(1, 0), Some(60));
        assert_eq!(too_slow_after(499, 0), Some(60));
        assert_eq!(too_slow_after(500, 0), None);
    }

    #[test]
    fn time_without_a_wait_does_not_count() {
        assert_eq!(too_slow_after(1, 9), Some(60), "of waiting, ten times as long by the clock");
        assert_eq!(too_slow_after(500, 9), None);
    }

    #[test]
    fn body_may_pause_for_as_long_as_body_stall_allows() {
        let (mut pace, began) = (Pace::new(Some(500)), Instant::now());
        pace.moved(5);
        pace.waits(began);
        let before = began + WINDOW - Duration::from_secs(1);
        assert!(!pace.is_too_slow(before));
        pace.rests(before);
        pace.moved(5);
        pace.waits(before);
        assert!(pace.is_too_slow(before + Duration::from_secs(1)), "one pause, and not two");
    }

    #[test]
    fn fast_beginning_is_no_credit() {
        let (mut pace, began) = (Pace::new(Some(500)), Instant::now());
        pace.waits(began);
        pace.moved(1 << 30);
        let mut end = began;
        for slow in [false, true] {
            assert_eq!(pace.due(), Some(end + WINDOW));
            end += WINDOW;
            assert_eq!(pace.is_too_slow(end), slow);
        }
    }

    #[test]
    fn unlimited_pace_is_never_too_slow_or_due() {
        let (mut pace, began) = (Pace::new(None), Instant::now());
        pace.waits(began);
        assert!(!pace.is_too_slow(began + 9 * WINDOW) && pace.due().is_none());
    }
}
