//! The least pace of a body: how fast its sender must send, or its receiver must take, while that
//! side is waited for.
//!
//! Only time spent waiting for that side counts. A backend that is silent, or a client that has
//! taken everything, is not slow. Neither a clock nor a socket is read here.

use std::time::Duration;

use tokio::time::Instant;

/// The time over which a pace is averaged, and so the time that each body has before its pace
/// counts. A second less than the 30 s after which common servers give up on a body by themselves:
/// the ending is then booked as the client's, and not as the backend's.
const PACE_WINDOW: Duration = Duration::from_secs(29);

/// The most that one pause counts. `body_stall` and `write_stall` bound the pause itself; two such
/// pauses in a window are a drip.
const MAX_COUNTED_PAUSE: Duration = Duration::from_secs(15);

/// The pace of one side of one body.
#[derive(Debug)]
pub struct Pace {
    /// The least bytes of a window. `None` means unlimited.
    least: Option<u64>,
    /// Time spent waiting in this window, up to `since`; of each pause at most
    /// [`MAX_COUNTED_PAUSE`].
    waited: Duration,
    /// Start of the current wait. `None` means that the side is not waited for.
    since: Option<Instant>,
    /// Bytes that moved in this window.
    bytes: u64,
}

impl Pace {
    /// Requires at least `per_second` bytes on average. `None` means unlimited.
    pub fn new(per_second: Option<u64>) -> Pace {
        let least = per_second.map(|bytes| bytes.saturating_mul(PACE_WINDOW.as_secs()));
        Pace { least, waited: Duration::ZERO, since: None, bytes: 0 }
    }

    /// Notes that the side is waited for from `now` on, unless it was already.
    pub fn start_wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Notes that `bytes` came or were taken.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Notes that the side is no longer waited for.
    pub fn stop_wait(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += (now - since).min(MAX_COUNTED_PAUSE);
        }
    }

    /// When the window ends if the wait goes on. `None` means that nothing is waited for, that one
    /// pause alone does not end the window, or unlimited.
    pub fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| self.least.is_some())?;
        let left = PACE_WINDOW.saturating_sub(self.waited);
        // A pause counts at most `MAX_COUNTED_PAUSE`, so this one cannot fill a window that lacks
        // more.
        (left <= MAX_COUNTED_PAUSE).then(|| since + left)
    }

    /// Whether the side was too slow in a window that is over at `now`. The next window begins
    /// then.
    pub fn is_too_slow(&mut self, now: Instant) -> bool {
        let Some(least) = self.least else { return false };
        let waited = self.waited
            + self.since.map_or(Duration::ZERO, |since| (now - since).min(MAX_COUNTED_PAUSE));
        if waited < PACE_WINDOW {
            return false;
        }
        let too_slow = self.bytes < least;
        // Bytes beyond the least are no credit: a fast start must not pay for a drip later.
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        // A wait that goes on counts in the next window from here.
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
            pace.start_wait(now);
            now += Duration::from_secs(1);
            pace.add_bytes(bytes);
            if pace.is_too_slow(now) {
                return Some(second);
            }
            pace.stop_wait(now);
            now += Duration::from_secs(rest);
        }
        None
    }

    #[test]
    fn slow_body_is_given_up_after_its_first_window() {
        assert_eq!(too_slow_after(1, 0), Some(29));
        assert_eq!(too_slow_after(499, 0), Some(29));
        assert_eq!(too_slow_after(500, 0), None);
    }

    #[test]
    fn time_without_a_wait_does_not_count() {
        assert_eq!(too_slow_after(1, 9), Some(29), "of waiting, ten times as long by the clock");
        assert_eq!(too_slow_after(500, 9), None);
    }

    /// Moves a byte after each of these pauses, in seconds; says whether it was too slow by the
    /// end of each, and when it would have been looked at within it.
    fn pauses(lengths: &[u64]) -> Vec<(bool, Option<u64>)> {
        let (mut pace, mut now) = (Pace::new(Some(500)), Instant::now());
        let pause = |length: &u64| {
            pace.start_wait(now);
            let due = pace.due().map(|due| (due - now).as_secs());
            now += Duration::from_secs(*length);
            let too_slow = pace.is_too_slow(now);
            pace.stop_wait(now);
            pace.add_bytes(1);
            (too_slow, due)
        };
        lengths.iter().map(pause).collect()
    }

    #[test]
    fn one_pause_is_not_slow_and_a_second_is() {
        assert_eq!(pauses(&[45, 1, 1]), [(false, None), (false, Some(14)), (false, Some(13))]);
        assert_eq!(pauses(&[59, 13, 1]), [(false, None), (false, Some(14)), (true, Some(1))]);
        assert_eq!(pauses(&[10, 10, 10]), [(false, None), (false, None), (true, Some(9))]);
        assert_eq!(pauses(&[3600, 3600]), [(false, None), (true, Some(14))]);
    }

    #[test]
    fn fast_start_is_no_credit_for_later() {
        let (mut pace, mut now) = (Pace::new(Some(500)), Instant::now());
        pace.add_bytes(1 << 30);
        let mut slow_at = Vec::new();
        for second in 1..=100 {
            pace.start_wait(now);
            now += Duration::from_secs(1);
            if pace.is_too_slow(now) {
                slow_at.push(second);
            }
            pace.stop_wait(now);
        }
        assert_eq!(slow_at, [58, 87]);
    }

    #[test]
    fn unlimited_pace_is_never_too_slow_or_due() {
        let (mut pace, began) = (Pace::new(None), Instant::now());
        pace.start_wait(began);
        assert!(!pace.is_too_slow(began + 9 * PACE_WINDOW) && pace.due().is_none());
    }
}
