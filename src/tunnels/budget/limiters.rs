//! The limiters of one limit: one for each distinct rate among the shares of a policy.

use std::slice;
use std::sync::Arc;

use crate::policy::limit::Rate;
use crate::tunnels::budget::limiter::Limiter;

/// The limiters of one limit.
///
/// Shares with the same rate use one limiter, which keeps a budget for each client anyway.
#[derive(Debug, Clone, Default)]
pub struct Limiters(Vec<Arc<Limiter>>);

impl Limiters {
    /// Returns the limiter for `rate`. `None` means that no token of it was ever taken.
    pub fn of(&self, rate: Rate) -> Option<&Arc<Limiter>> {
        self.0.iter().find(|limiter| limiter.rate() == rate)
    }

    /// Returns the limiter for `rate`, and creates it if it is missing.
    pub fn add(&mut self, rate: Rate) -> Arc<Limiter> {
        if let Some(known) = self.of(rate) {
            return Arc::clone(known);
        }
        let new = Arc::new(Limiter::new(rate));
        self.0.push(Arc::clone(&new));
        new
    }

    /// Adds the rates of the `next` generation. A rate that the generation `before` has too keeps
    /// its budgets, every other one begins with full ones.
    pub fn prepare(&mut self, before: &[Rate], next: &[Rate]) {
        let is_new = |rate: Rate| next.contains(&rate) && !before.contains(&rate);
        // A late permit may have left a limiter of this rate behind, with tokens taken from it.
        self.0.retain(|limiter| !is_new(limiter.rate()));
        for rate in next {
            self.add(*rate);
        }
    }

    /// Removes the limiters of all other rates.
    pub fn retain(&mut self, rates: &[Rate]) {
        self.0.retain(|limiter| rates.contains(&limiter.rate()));
    }

    /// Iterates over the limiters.
    pub fn iter(&self) -> slice::Iter<'_, Arc<Limiter>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::num::NonZeroU32;
    use std::time::Duration;

    use crate::policy::network::ClientKey;

    const CLIENT: ClientKey = ClientKey::V4(1);

    /// One token per `seconds`.
    fn slow(seconds: u64) -> Rate {
        let per = Duration::from_secs(seconds);
        Rate { tokens: NonZeroU32::MIN, per, burst: NonZeroU32::MIN }
    }

    /// Checks whether a client that has used up its tokens under `before` has some under `next`.
    #[track_caller]
    fn check(before: &[Rate], next: &[Rate], again: bool) {
        let mut limiters = Limiters::default();
        limiters.prepare(&[], before);
        limiters.iter().for_each(|limiter| limiter.take(CLIENT).unwrap());
        limiters.prepare(before, next);
        let both = before.iter().chain(next);
        assert!(both.into_iter().all(|rate| limiters.of(*rate).is_some()), "permits of both pass");
        limiters.retain(next);
        assert_eq!(limiters.iter().count(), next.len());
        assert_eq!(limiters.iter().all(|limiter| limiter.take(CLIENT).is_ok()), again);
    }

    #[test]
    fn unchanged_rate_keeps_its_budgets() {
        check(&[slow(3600)], &[slow(3600)], false);
        check(&[slow(3600), slow(7200)], &[slow(7200)], false);
    }

    #[test]
    fn changed_new_or_dropped_rate_starts_afresh() {
        check(&[slow(3600)], &[slow(7200)], true);
        check(&[], &[slow(3600)], true);
        check(&[slow(3600)], &[], true);
    }

    #[test]
    fn rate_that_a_late_permit_brought_back_starts_afresh() {
        let mut limiters = Limiters::default();
        limiters.prepare(&[slow(1)], &[slow(7200)]);
        limiters.add(slow(3600)).take(CLIENT).unwrap();
        limiters.prepare(&[slow(7200)], &[slow(3600)]);
        assert!(limiters.add(slow(3600)).take(CLIENT).is_ok());
    }

    #[test]
    fn equal_rates_share_one_limiter() {
        let mut limiters = Limiters::default();
        limiters.prepare(&[], &[slow(1), slow(2), slow(1)]);
        assert_eq!(limiters.iter().count(), 2);
    }
}
