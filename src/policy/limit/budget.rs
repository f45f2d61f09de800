//! The remainder of a policy's limits, carried from one generation to the next.
//!
//! A rate that a reload doesn't change keeps its budgets, so that a reload refills no client's
//! budget.

use std::slice;
use std::sync::Arc;

use crate::policy::limit::count::Counts;
use crate::policy::limit::limits::{Limits, Share};
use crate::policy::limit::rate::{Limiter, Rate};

/// The remainder of a policy's limits, shared by all routes and generations that name the policy.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Limiters for `upgrades`: one for each distinct rate.
    pub upgrades: Limiters,
    /// Limiters for `requests`: one for each distinct rate.
    pub requests: Limiters,
    /// Open tunnels, per client and in total.
    pub counts: Arc<Counts>,
    /// Open streams, per client and in total.
    pub streams: Arc<Counts>,
}

/// The limiters of one limit: one for each distinct rate among the policy's shares.
#[derive(Debug, Clone, Default)]
pub struct Limiters(Box<[Arc<Limiter>]>);

impl Budgets {
    /// Returns the budgets for `limits`. Keeps those of the `previous` generation whose rate some
    /// client still has. Counts are always kept, because the tunnels live on.
    pub fn carry(previous: Option<&Budgets>, limits: &Limits) -> Budgets {
        let rates = |rate: fn(&Share) -> Option<Rate>| limits.shares().filter_map(rate);
        Budgets {
            upgrades: Limiters::carry(
                previous.map(|previous| &previous.upgrades),
                rates(|share| share.upgrades),
            ),
            requests: Limiters::carry(
                previous.map(|previous| &previous.requests),
                rates(|share| share.requests),
            ),
            counts: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.counts)),
            streams: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.streams)),
        }
    }
}

impl Limiters {
    /// Returns one limiter for each of `rates`, reusing the `previous` generation's where it has
    /// that rate.
    fn carry(previous: Option<&Limiters>, rates: impl Iterator<Item = Rate>) -> Limiters {
        let mut limiters: Vec<Arc<Limiter>> = Vec::new();
        for rate in rates {
            // Shares with the same rate use one limiter: it keeps a budget for each client anyway.
            if limiters.iter().all(|known| known.rate() != rate) {
                let kept = previous.and_then(|previous| previous.of(rate)).map(Arc::clone);
                limiters.push(kept.unwrap_or_else(|| Arc::new(Limiter::new(rate))));
            }
        }
        Limiters(limiters.into())
    }

    /// Returns the limiter for `rate`. There is one for every rate of the limits passed to
    /// [`Budgets::carry`].
    pub fn of(&self, rate: Rate) -> Option<&Arc<Limiter>> {
        self.0.iter().find(|limiter| limiter.rate() == rate)
    }

    /// Iterates over all limiters, one per rate.
    pub fn iter(&self) -> slice::Iter<'_, Arc<Limiter>> {
        self.0.iter()
    }

    /// Whether no client is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::policy::limit::Full;
    use crate::policy::network::Key;
    use std::num::NonZeroU32;

    const CLIENT: Key = Key::V4(1);

    /// One token per `seconds`.
    fn slow(seconds: u64) -> Option<Rate> {
        Some(Rate {
            tokens: NonZeroU32::MIN,
            per: Duration::from_secs(seconds),
            burst: NonZeroU32::MIN,
        })
    }

    fn limits(upgrades: Option<Rate>) -> Limits {
        Limits {
            share: Share { upgrades, requests: slow(7200), ..Share::default() },
            ..Limits::default()
        }
    }

    /// After a client has used up its upgrades under `before`, whether it may try again under
    /// `after`.
    fn check(before: Option<Rate>, after: Option<Rate>, again: bool) {
        let first = Budgets::carry(None, &limits(before));
        for limiter in first.upgrades.iter() {
            limiter.take(CLIENT).unwrap();
        }
        let next = Budgets::carry(Some(&first), &limits(after));
        assert_eq!(next.upgrades.iter().all(|limiter| limiter.take(CLIENT).is_ok()), again);
        assert!(
            Arc::ptr_eq(&first.requests.0[0], &next.requests.0[0]),
            "the other limit is untouched"
        );
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
        let next = Budgets::carry(Some(&first), &Limits { total: Some(1), ..limits(slow(1)) });
        assert_eq!(next.counts.enter(CLIENT, Some(1), None).unwrap_err(), Full::Client);
    }
}
