//! A rate: how many tokens arrive in which time, and how many may be saved up.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;

/// governor counts nanoseconds in 64 bits and panics, or wraps, past 584 years.
pub const MAX_REFILL_TIME: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A token rate: `tokens` per `per`, and at most `burst` saved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that arrive within `per`.
    pub tokens: NonZeroU32,
    /// Period in which `tokens` arrive.
    pub per: Duration,
    /// Most tokens that a client can hold; a new client starts with this many.
    pub burst: NonZeroU32,
}

impl Rate {
    /// Converts to a governor quota. A burst that would take more than a century to fill is cut to
    /// that.
    pub fn quota(self) -> Quota {
        let token = self.token();
        let max = u32::try_from(MAX_REFILL_TIME.as_nanos() / token.as_nanos()).unwrap_or(u32::MAX);
        // `with_period` returns `None` only for a period of zero, which `token` excludes.
        let quota = Quota::with_period(token).unwrap_or(Quota::per_second(self.tokens));
        // `max` is at least 1, since `token` takes no longer than MAX_REFILL_TIME.
        quota.allow_burst(self.burst.min(NonZeroU32::new(max).unwrap_or(NonZeroU32::MIN)))
    }

    /// The time in which one token arrives.
    pub fn token(self) -> Duration {
        // Not below 1 ns: `quota` divides by it, and governor counts in nanoseconds.
        (self.per / self.tokens.get()).clamp(Duration::from_nanos(1), MAX_REFILL_TIME)
    }
}

impl fmt::Display for Rate {
    /// As in `5/s, burst 20`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.per == Duration::from_secs(60) { "m" } else { "s" };
        write!(f, "{}/{unit}, burst {}", self.tokens, self.burst)
    }
}
