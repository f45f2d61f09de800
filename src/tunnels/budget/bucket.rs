//! A rate limit with a single holder, such as a tunnel's messages.

use std::fmt;

use governor::RateLimiter;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};

use crate::policy::limit::Rate;

/// One token budget, full at first.
pub struct Bucket<C: Clock = MonotonicClock>(
    RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
);

impl Bucket {
    /// Creates a full bucket on the monotonic clock.
    pub fn new(rate: Rate) -> Self {
        Bucket::by(rate, MonotonicClock)
    }
}

impl<C: Clock> Bucket<C> {
    /// Creates a full bucket on the given clock.
    pub fn by(rate: Rate, clock: C) -> Self {
        Bucket(RateLimiter::new(rate.quota(), InMemoryState::default(), clock))
    }

    /// Takes one token. `false` means that none is left; a failed try costs nothing.
    pub fn take(&self) -> bool {
        self.0.check().is_ok()
    }
}

impl<C: Clock> fmt::Debug for Bucket<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::num::NonZeroU32;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_one_for_each_token() {
        let rate = Rate {
            tokens: NonZeroU32::new(5).unwrap(),
            per: Duration::from_secs(1),
            burst: NonZeroU32::new(3).unwrap(),
        };
        let clock = FakeRelativeClock::default();
        let bucket = Bucket::by(rate, clock.clone());
        assert_eq!([(); 5].map(|()| bucket.take()), [true, true, true, false, false]);
        clock.advance(Duration::from_millis(200));
        assert_eq!([(); 2].map(|()| bucket.take()), [true, false]);
    }
}
