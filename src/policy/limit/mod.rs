//! How much of it: rates, counts, and what one tunnel may do.
//!
//! A limit is what the policy says; a budget is what is left of it, and outlives
//! the generation. Every table here is bounded, whatever clients send. Nothing
//! waits: a refusal says when to come back.

mod bucket;
mod count;
mod rate;

use std::sync::Arc;
use std::time::Duration;

pub use self::bucket::Bucket;
pub use self::count::{Count, Counts, Full};
pub use self::rate::{Limiter, Rate};

/// A policy's `[limits]`; what is `None` doesn't hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Attempts of one client.
    pub upgrades: Option<Rate>,
    /// Plain HTTP requests of one client.
    pub requests: Option<Rate>,
    /// Tunnels of one client at once.
    pub per_client: Option<u32>,
    /// Tunnels of all clients at once.
    pub total: Option<u32>,
    /// What one tunnel may do.
    pub tunnel: TunnelLimits,
}

/// What one tunnel may do, and how its client's pulse is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelLimits {
    /// The largest message, in bytes as on the wire.
    pub message_max: Option<u64>,
    /// Messages from the client.
    pub message_rate: Option<Rate>,
    /// No frame either way for so long.
    pub idle: Option<Duration>,
    /// From the 101 to the end.
    pub lifetime: Option<Duration>,
    /// Silence of the client after which we send a Ping; `None`: off.
    pub ping: Option<Duration>,
    /// No byte of the client for so long after a Ping: dead.
    pub pong: Duration,
}

impl Default for TunnelLimits {
    /// Nothing is limited, but a dead client is noticed: load balancers cut after 60 s of silence.
    fn default() -> Self {
        TunnelLimits {
            message_max: None,
            message_rate: None,
            idle: None,
            lifetime: None,
            ping: Some(Duration::from_secs(25)),
            pong: Duration::from_secs(20),
        }
    }
}

/// What is left of a policy's limits, shared by all routes and generations that name the policy.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// For `upgrades`; `None`: no such limit.
    pub upgrades: Option<Arc<Limiter>>,
    /// For `requests`; `None`: no such limit.
    pub requests: Option<Arc<Limiter>>,
    /// The tunnels of each client and of all.
    pub counts: Arc<Counts>,
}

impl Budgets {
    /// The budgets for `limits`. Of the `previous` generation's those are kept whose rate is unchanged,
    /// so that a reload refills nobody's; counts are kept always, for the tunnels live on.
    pub fn carry(previous: Option<&Budgets>, limits: &Limits) -> Budgets {
        Budgets {
            upgrades: carry(previous.and_then(|previous| previous.upgrades.as_ref()), limits.upgrades),
            requests: carry(previous.and_then(|previous| previous.requests.as_ref()), limits.requests),
            counts: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.counts)),
        }
    }
}

fn carry(previous: Option<&Arc<Limiter>>, rate: Option<Rate>) -> Option<Arc<Limiter>> {
    let rate = rate?;
    let unchanged = previous.filter(|previous| previous.rate() == rate);
    Some(unchanged.map_or_else(|| Arc::new(Limiter::new(rate)), Arc::clone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Key;
    use std::num::NonZeroU32;

    const CLIENT: Key = Key::V4(1);

    /// One token per `seconds`.
    fn slow(seconds: u64) -> Option<Rate> {
        Some(Rate { tokens: NonZeroU32::MIN, per: Duration::from_secs(seconds), burst: NonZeroU32::MIN })
    }

    /// After a client has used up its upgrades under `before`, whether it may try again under `after`.
    fn check(before: Option<Rate>, after: Option<Rate>, again: bool) {
        let first = Budgets::carry(None, &Limits { upgrades: before, requests: slow(7200), ..Limits::default() });
        if let Some(limiter) = &first.upgrades {
            limiter.take(CLIENT).unwrap();
        }
        let next = Budgets::carry(Some(&first), &Limits { upgrades: after, requests: slow(7200), ..Limits::default() });
        assert_eq!(next.upgrades.is_none_or(|limiter| limiter.take(CLIENT).is_ok()), again);
        assert!(Arc::ptr_eq(&first.requests.unwrap(), &next.requests.unwrap()), "the other limit is untouched");
    }

    #[test]
    fn an_unchanged_rate_keeps_its_budgets() {
        check(slow(3600), slow(3600), false);
    }

    #[test]
    fn a_changed_a_new_or_a_dropped_rate_starts_afresh() {
        check(slow(3600), slow(7200), true);
        check(None, slow(3600), true);
        check(slow(3600), None, true);
    }

    #[test]
    fn counts_are_kept_whatever_changes() {
        let first = Budgets::carry(None, &Limits::default());
        let _tunnel = first.counts.enter(CLIENT, None, None).unwrap();
        let next = Budgets::carry(Some(&first), &Limits { per_client: Some(1), upgrades: slow(1), ..Limits::default() });
        assert_eq!(next.counts.enter(CLIENT, Some(1), None).unwrap_err(), Full::Client);
    }

    #[test]
    fn by_default_only_the_pulse_is_taken() {
        let limits = Limits::default();
        assert_eq!((limits.upgrades, limits.requests, limits.per_client, limits.total), (None, None, None, None));
        let pulse = TunnelLimits { ping: Some(Duration::from_secs(25)), pong: Duration::from_secs(20), ..limits.tunnel };
        assert_eq!(limits.tunnel, pulse);
        assert_eq!((pulse.message_max, pulse.message_rate, pulse.idle, pulse.lifetime), (None, None, None, None));
    }
}
