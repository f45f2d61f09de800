//! The budgets of the process, by the name of their policy or listener.
//!
//! A generation names limits, and this table has their used part. So a reload refills no
//! budget, and a rejected reload touches none. Readers take no lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::policy::Policy;
use crate::policy::limit::{LimitKey, LimitUnit, LimiterId, Rate, RateLimit};
use crate::policy::network::ClientKey;
use crate::policy::subject::Subject;
use crate::snapshot::Snapshot;
use crate::snapshot::explanation::Remaining;
use crate::snapshot::listener::Listener;
use crate::sync::lock;
use crate::tunnels::budget::count::{Count, Counts, Full, PlaceKeys};
use crate::tunnels::budget::limiter::{Limiter, UsedBudget};
use crate::tunnels::budget::limiters::Limiters;

/// All budgets of the process.
pub struct Budgets {
    table: ArcSwap<BudgetTable>,
    /// Serializes changes of the table. A charge takes it only if its budget is missing.
    writer: Mutex<()>,
}

/// The budgets at one time. A change replaces the whole table, and keeps the budgets themselves.
#[derive(Clone, Default)]
struct BudgetTable {
    policies: HashMap<Arc<str>, PolicyBudgets>,
    /// The limiters of `handshakes_per_client`, by listener.
    listeners: HashMap<Arc<str>, Limiters>,
}

/// The budgets of one policy, shared by all routes and generations that name it.
#[derive(Clone, Default)]
struct PolicyBudgets {
    upgrades: Limiters,
    requests: Limiters,
    /// The candidate has rates of its own.
    candidate_upgrades: Limiters,
    candidate_requests: Limiters,
    /// Open tunnels. The candidate compares its caps with the same ones.
    tunnels: Arc<Counts>,
    /// Open streams, for the cap `streams`.
    streams: Arc<Counts>,
}

/// The name of a limiter, as every process of the agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimiterName {
    /// A rate of a policy.
    Policy {
        /// Name of the policy.
        policy: Box<str>,
        /// Whether it is that of its candidate.
        is_candidate: bool,
        /// The limit whose tokens it holds.
        limit: RateLimit,
    },
    /// `handshakes_per_client` of a listener.
    Handshakes {
        /// Name of the listener.
        listener: Box<str>,
    },
}

/// How far the limiters of a limit are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterUse {
    /// Clients that have a budget of their own.
    pub keys: usize,
    /// Tokens requested from shared budgets.
    pub overflowed: u64,
}

impl Budgets {
    /// Creates full budgets for the limits of the `first` generation.
    pub fn new(first: &Snapshot) -> Self {
        let mut table = BudgetTable::default();
        table.prepare(None, first);
        Budgets { table: ArcSwap::from_pointee(table), writer: Mutex::new(()) }
    }

    /// Takes a token of `key` from a limiter of a policy. `rate` is its rate; `None` means
    /// unlimited.
    ///
    /// # Errors
    /// The time until the next token.
    pub fn take(
        &self,
        id: LimiterId<'_>,
        rate: Option<Rate>,
        key: impl Into<LimitKey>,
    ) -> Result<(), Duration> {
        let Some(rate) = rate else { return Ok(()) };
        let key = key.into();
        if let Some(limiter) = self.table.load().limiter(id, rate) {
            return limiter.take(key);
        }
        // A permit that outlived its generation: its limiter was removed at the publish. It gets a
        // new one, since a limit is never taken for absent.
        let add = |table: &mut BudgetTable| table.policy(id.policy).limiters_mut(id).add(rate);
        self.change(add).take(key)
    }

    /// Takes a token of `key` for a TLS handshake at `listener`.
    ///
    /// # Errors
    /// The time until the next token.
    pub fn take_handshake(&self, listener: &Listener, key: ClientKey) -> Result<(), Duration> {
        let Some(rate) = listener.handshakes_per_client else { return Ok(()) };
        let table = self.table.load();
        let limiters = table.listeners.get(&listener.name);
        if let Some(limiter) = limiters.and_then(|limiters| limiters.of(rate)) {
            return limiter.take(key);
        }
        // As in `take`: a missing limiter is created, since it never means unlimited.
        let add = |table: &mut BudgetTable| {
            table.listeners.entry(Arc::clone(&listener.name)).or_default().add(rate)
        };
        self.change(add).take(key)
    }

    /// Counts a tunnel of the client with these keys under the caps of a policy.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn enter_tunnel(
        &self,
        policy: &Policy,
        keys: impl Into<PlaceKeys>,
        max: Option<u32>,
    ) -> Result<Count, Full> {
        self.counts(policy, |budgets| &budgets.tunnels).enter(keys, max, policy.limits.total)
    }

    /// The used parts of all limiters, for another process of the agent.
    pub fn all_used(&self) -> Vec<(LimiterName, Rate, Vec<UsedBudget>)> {
        let table = self.table.load();
        let mut all = Vec::new();
        for (policy, budgets) in &table.policies {
            for id in LimiterId::all(policy) {
                for limiter in budgets.limiters(id).iter() {
                    let name = LimiterName::Policy {
                        policy: (**policy).into(),
                        is_candidate: id.is_candidate,
                        limit: id.limit,
                    };
                    all.push((name, limiter.rate(), limiter.used()));
                }
            }
        }
        for (listener, limiters) in &table.listeners {
            for limiter in limiters.iter() {
                let name = LimiterName::Handshakes { listener: (**listener).into() };
                all.push((name, limiter.rate(), limiter.used()));
            }
        }
        all
    }

    /// Counts what clients have used in another process. A limiter that has another rate here, or
    /// none, begins with full budgets, as after a reload.
    pub fn count_used(&self, name: &LimiterName, rate: Rate, used: Vec<UsedBudget>) {
        let table = self.table.load();
        let limiter = match name {
            LimiterName::Policy { policy, is_candidate, limit } => {
                let (is_candidate, limit) = (*is_candidate, *limit);
                table.limiter(LimiterId { policy, is_candidate, limit }, rate)
            }
            LimiterName::Handshakes { listener } => {
                table.listeners.get(&**listener).and_then(|limiters| limiters.of(rate))
            }
        };
        if let Some(limiter) = limiter {
            used.into_iter().for_each(|one| limiter.count_used(one));
        }
    }

    /// Counts a tunnel that is open already, whatever the caps.
    pub fn readmit_tunnel(&self, policy: &Policy, keys: impl Into<PlaceKeys>) -> Count {
        self.counts(policy, |budgets| &budgets.tunnels).readmit(keys)
    }

    /// Counts a stream that runs already, whatever the caps.
    pub fn readmit_stream(&self, policy: &Policy, keys: impl Into<PlaceKeys>) -> Count {
        self.counts(policy, |budgets| &budgets.streams).readmit(keys)
    }

    /// Counts a stream of the client with these keys under the caps of a policy.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn enter_stream(
        &self,
        policy: &Policy,
        keys: impl Into<PlaceKeys>,
        max: Option<u32>,
    ) -> Result<Count, Full> {
        let counts = self.counts(policy, |budgets| &budgets.streams);
        counts.enter(keys, max, policy.limits.streams_total)
    }

    /// The number of open tunnels under the policy of this name.
    pub fn tunnels(&self, policy: &str) -> u32 {
        let table = self.table.load();
        table.policies.get(policy).map_or(0, |budgets| budgets.tunnels.total())
    }

    /// The number of open streams under the policy of this name.
    pub fn streams(&self, policy: &str) -> u32 {
        let table = self.table.load();
        table.policies.get(policy).map_or(0, |budgets| budgets.streams.total())
    }

    /// The number of open tunnels under the policy of this name that are counted by `key`.
    pub fn tunnels_of(&self, policy: &str, key: impl Into<LimitKey>) -> u32 {
        let table = self.table.load();
        table.policies.get(policy).map_or(0, |budgets| budgets.tunnels.of(key))
    }

    /// The number of open tunnels under the policy of this name that `unit` would count together
    /// with those of `subject`.
    pub fn tunnels_by_unit(&self, policy: &str, subject: &Subject, unit: LimitUnit) -> u32 {
        let table = self.table.load();
        table.policies.get(policy).map_or(0, |budgets| budgets.tunnels.of_unit(subject, unit))
    }

    /// How far the limiters of `id` are used. All zero if there are none.
    pub fn used(&self, id: LimiterId<'_>) -> LimiterUse {
        let table = self.table.load();
        let limiters = table.policies.get(id.policy).map(|budgets| budgets.limiters(id));
        let all = || limiters.into_iter().flat_map(Limiters::iter);
        LimiterUse {
            keys: all().map(|limiter| limiter.keys()).sum(),
            overflowed: all().map(|limiter| limiter.overflowed()).sum(),
        }
    }

    /// Adds the budgets of the generation `next`, which is about to replace `before`. Permits of
    /// both find theirs until [`Budgets::retain`].
    pub(in crate::tunnels) fn prepare(&self, before: &Snapshot, next: &Snapshot) {
        self.change(|table| table.prepare(Some(before), next));
    }

    /// Removes the budgets that the generation `live` has no use for.
    pub(in crate::tunnels) fn retain(&self, live: &Snapshot) {
        self.change(|table| table.retain(live));
    }

    /// The counts of a policy, created if they are missing: its generation is gone.
    fn counts(
        &self,
        policy: &Policy,
        which: impl Fn(&PolicyBudgets) -> &Arc<Counts>,
    ) -> Arc<Counts> {
        if let Some(budgets) = self.table.load().policies.get(&policy.name) {
            return Arc::clone(which(budgets));
        }
        self.change(|table| Arc::clone(which(table.policy(&policy.name))))
    }

    fn change<T>(&self, change: impl FnOnce(&mut BudgetTable) -> T) -> T {
        let _writer = lock(&self.writer);
        // Loaded under the lock, so that no other change is lost. The clone shares the budgets, so
        // that takes on the former table count here too.
        let mut table = BudgetTable::clone(&self.table.load());
        let result = change(&mut table);
        self.table.store(Arc::new(table));
        result
    }
}

impl Remaining for Budgets {
    fn tokens(&self, id: LimiterId<'_>, rate: Rate, key: LimitKey) -> u32 {
        let table = self.table.load();
        let limiter = table.limiter(id, rate);
        // No limiter means that no token was taken. A question must not create one.
        limiter.map_or(rate.burst.get(), |limiter| limiter.left(key))
    }

    fn tunnels_of(&self, policy: &str, key: LimitKey) -> u32 {
        Budgets::tunnels_of(self, policy, key)
    }

    fn tunnels_by_unit(&self, policy: &str, subject: &Subject, unit: LimitUnit) -> u32 {
        Budgets::tunnels_by_unit(self, policy, subject, unit)
    }

    fn tunnels(&self, policy: &str) -> u32 {
        Budgets::tunnels(self, policy)
    }
}

impl BudgetTable {
    fn limiter(&self, id: LimiterId<'_>, rate: Rate) -> Option<&Arc<Limiter>> {
        self.policies.get(id.policy)?.limiters(id).of(rate)
    }

    fn policy(&mut self, name: &str) -> &mut PolicyBudgets {
        self.policies.entry(name.into()).or_default()
    }

    fn prepare(&mut self, before: Option<&Snapshot>, next: &Snapshot) {
        for (name, policy) in &next.policies {
            let former = before.and_then(|before| before.policies.get(name));
            if former.is_none() {
                // A policy of this name may have been removed, and a late permit have left
                // budgets behind: a new one begins with none of them.
                self.policies.remove(name);
            }
            for id in LimiterId::all(name) {
                let former = former.map(|former| rates(former, id)).unwrap_or_default();
                self.policy(name).limiters_mut(id).prepare(&former, &rates(policy, id));
            }
        }
        for (name, rules) in &next.listeners {
            let former = before.and_then(|before| before.listeners.get(name));
            // A listener that keeps its name and its rate keeps the tokens that its clients have
            // used.
            let former = former.and_then(|former| former.listener.handshakes_per_client);
            let rate = rules.listener.handshakes_per_client;
            let limiters = self.listeners.entry(Arc::clone(name)).or_default();
            limiters.prepare(former.as_slice(), rate.as_slice());
        }
    }

    fn retain(&mut self, live: &Snapshot) {
        self.policies.retain(|name, budgets| {
            // An open tunnel of a removed policy holds its `Count`, and with it the counts, until
            // it ends.
            let Some(policy) = live.policies.get(name) else { return false };
            for id in LimiterId::all(name) {
                budgets.limiters_mut(id).retain(&rates(policy, id));
            }
            true
        });
        self.listeners.retain(|name, limiters| {
            let Some(rules) = live.listeners.get(name) else { return false };
            limiters.retain(rules.listener.handshakes_per_client.as_slice());
            true
        });
    }
}

/// The rates for which `policy`, or its candidate, needs the limiters of `id`.
fn rates(policy: &Policy, id: LimiterId<'_>) -> Vec<Rate> {
    let policy = if id.is_candidate { policy.candidate.as_deref() } else { Some(policy) };
    policy.map(|policy| policy.limits.rates(id.limit)).unwrap_or_default()
}

impl PolicyBudgets {
    fn limiters(&self, id: LimiterId<'_>) -> &Limiters {
        match (id.is_candidate, id.limit) {
            (false, RateLimit::Upgrades) => &self.upgrades,
            (false, RateLimit::Requests) => &self.requests,
            (true, RateLimit::Upgrades) => &self.candidate_upgrades,
            (true, RateLimit::Requests) => &self.candidate_requests,
        }
    }

    fn limiters_mut(&mut self, id: LimiterId<'_>) -> &mut Limiters {
        match (id.is_candidate, id.limit) {
            (false, RateLimit::Upgrades) => &mut self.upgrades,
            (false, RateLimit::Requests) => &mut self.requests,
            (true, RateLimit::Upgrades) => &mut self.candidate_upgrades,
            (true, RateLimit::Requests) => &mut self.candidate_requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::num::NonZeroU32;

    use crate::policy::limit::{ClientLimits, Limits};
    use crate::snapshot::tests::{generation, policy};

    const CLIENT: ClientKey = ClientKey::V4(1);
    const OWN: LimiterId<'_> =
        LimiterId { policy: "chat", is_candidate: false, limit: RateLimit::Upgrades };
    const CANDIDATE: LimiterId<'_> = LimiterId { is_candidate: true, ..OWN };

    /// One token per `seconds`.
    fn slow(seconds: u64) -> Option<Rate> {
        let per = Duration::from_secs(seconds);
        Some(Rate { tokens: NonZeroU32::MIN, per, burst: NonZeroU32::MIN })
    }

    fn limits(upgrades: Option<Rate>) -> Limits {
        Limits { share: ClientLimits { upgrades, ..ClientLimits::default() }, ..Limits::default() }
    }

    /// A generation whose policy `chat` has this rate, as has its candidate.
    fn with_rate(upgrades: Option<Rate>) -> Snapshot {
        let candidate = Some(Arc::new(policy(&[], &limits(upgrades))));
        generation(1, Policy { candidate, ..policy(&[], &limits(upgrades)) }, None)
    }

    /// A generation with another policy only.
    fn without() -> Snapshot {
        let other = Policy { name: "other".into(), ..policy(&[], &Limits::default()) };
        generation(1, other, None)
    }

    fn publish(budgets: &Budgets, before: &Snapshot, next: &Snapshot) {
        budgets.prepare(before, next);
        budgets.retain(next);
    }

    #[test]
    fn tokens_are_kept_when_the_rate_is_unchanged() {
        let (first, next) = (with_rate(slow(3600)), with_rate(slow(3600)));
        let budgets = Budgets::new(&first);
        budgets.take(OWN, slow(3600), CLIENT).unwrap();
        publish(&budgets, &first, &next);
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_err());
        assert!(budgets.take(CANDIDATE, slow(3600), CLIENT).is_ok(), "the candidate is apart");
        publish(&budgets, &next, &with_rate(slow(7200)));
        assert!(budgets.take(OWN, slow(7200), CLIENT).is_ok());
        assert!(budgets.take(CANDIDATE, slow(7200), CLIENT).is_ok());
    }

    #[test]
    fn candidate_begins_with_full_budgets_when_it_is_promoted() {
        let first = with_rate(slow(3600));
        let budgets = Budgets::new(&first);
        budgets.take(CANDIDATE, slow(3600), CLIENT).unwrap();
        let promoted = generation(2, policy(&[], &limits(slow(3600))), None);
        publish(&budgets, &first, &promoted);
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_ok());
        publish(&budgets, &promoted, &first);
        assert!(budgets.take(CANDIDATE, slow(3600), CLIENT).is_ok(), "a new one begins anew");
    }

    #[test]
    fn counts_are_kept_under_any_change() {
        let first = with_rate(None);
        let chat = &first.policies["chat"];
        let budgets = Budgets::new(&first);
        let tunnel = budgets.enter_tunnel(chat, CLIENT, None).unwrap();
        let _stream = budgets.enter_stream(chat, CLIENT, None).unwrap();
        let next = with_rate(slow(1));
        publish(&budgets, &first, &next);
        let chat = &next.policies["chat"];
        assert_eq!(budgets.enter_tunnel(chat, CLIENT, Some(1)).unwrap_err(), Full::Client);
        assert_eq!((budgets.tunnels("chat"), budgets.streams("chat")), (1, 1));
        drop(tunnel);
        assert_eq!(budgets.tunnels("chat"), 0);
    }

    #[test]
    fn policy_begins_anew_when_it_was_removed_and_comes_back() {
        let (first, none) = (with_rate(slow(3600)), without());
        let chat = &first.policies["chat"];
        let budgets = Budgets::new(&first);
        budgets.take(OWN, slow(3600), CLIENT).unwrap();
        let _tunnel = budgets.enter_tunnel(chat, CLIENT, None).unwrap();
        publish(&budgets, &first, &none);
        assert_eq!(budgets.tunnels("chat"), 0);
        // A permit of the first generation, charged late.
        budgets.take(OWN, slow(3600), CLIENT).unwrap();
        publish(&budgets, &none, &first);
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_ok());
    }

    #[test]
    fn permit_is_limited_when_it_outlives_its_generation() {
        let (first, none) = (with_rate(slow(3600)), without());
        let chat = &first.policies["chat"];
        let budgets = Budgets::new(&first);
        publish(&budgets, &first, &none);
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_ok());
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_err());
        let _tunnel = budgets.enter_tunnel(chat, CLIENT, Some(1)).unwrap();
        assert_eq!(budgets.enter_tunnel(chat, CLIENT, Some(1)).unwrap_err(), Full::Client);
        publish(&budgets, &none, &without());
        assert!(!budgets.table.load().policies.contains_key("chat"), "nothing stays behind");
    }

    #[test]
    fn permits_of_both_generations_are_limited_during_a_publish() {
        let (first, next) = (with_rate(slow(3600)), with_rate(slow(7200)));
        let budgets = Budgets::new(&first);
        budgets.take(OWN, slow(3600), CLIENT).unwrap();
        budgets.prepare(&first, &next);
        assert!(budgets.take(OWN, slow(3600), CLIENT).is_err());
        budgets.take(OWN, slow(7200), CLIENT).unwrap();
        budgets.retain(&next);
        assert!(budgets.take(OWN, slow(7200), CLIENT).is_err());
    }

    #[test]
    fn what_is_left_is_told_without_creating_a_budget() {
        let budgets = Budgets::new(&without());
        let rate = slow(3600).unwrap();
        assert_eq!(Remaining::tokens(&budgets, OWN, rate, CLIENT.into()), 1);
        assert_eq!(budgets.used(OWN), LimiterUse { keys: 0, overflowed: 0 });
        budgets.take(OWN, Some(rate), CLIENT).unwrap();
        assert_eq!(Remaining::tokens(&budgets, OWN, rate, CLIENT.into()), 0);
    }
}
