//! A rate per client, in a table that never outgrows its bound.
//!
//! governor does the arithmetic (the generic cell rate algorithm). The state is kept in a table of
//! our own, because governor's keyed store grows with every address that an attacker uses
//! (governor#171).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use crate::policy::limit::{IdentityKey, LimitKey, Rate};
use crate::policy::network::{ClientKey, CrowdedAddress};
use crate::sync::lock;

/// Keys of one family that can have a budget of their own.
const KEYS: usize = 65_536;
const SHARDS: usize = 16;
/// Budgets that the remaining keys of a family share.
const SHARED: usize = 4_096;
/// Budgets that a new key may inspect in search of a full budget.
const LOOKS: usize = 8;
/// One rate, and a budget for each client. All threads share it.
pub struct Limiter<C: Clock = MonotonicClock> {
    rate: Rate,
    governor: RateLimiter<LimitKey, Store, C, NoOpMiddleware<C::Instant>>,
    table: Arc<Table>,
    start: C::Instant,
}

impl Limiter {
    /// Creates full budgets on the monotonic clock: a step of the wall clock neither opens nor
    /// blocks the limiter.
    pub fn new(rate: Rate) -> Self {
        Limiter::by(rate, MonotonicClock)
    }
}

impl<C: Clock> Limiter<C> {
    /// Creates full budgets on the given clock.
    pub fn by(rate: Rate, clock: C) -> Self {
        let table = Arc::new(Table::new(rate.token()));
        let start = clock.now();
        let governor = RateLimiter::new(rate.quota(), Store(Arc::clone(&table)), clock);
        Limiter { rate, governor, table, start }
    }

    /// The rate given to [`Limiter::new`].
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one token of `key`. `Err` holds the time until the next token; a failed try costs
    /// nothing.
    pub fn take(&self, key: impl Into<LimitKey>) -> Result<(), Duration> {
        self.governor
            .check_key(&key.into())
            .map_err(|until| until.wait_time_from(self.governor.clock().now()))
    }

    /// Returns the tokens that `key` has left and takes none. A key on a shared budget reports the
    /// full burst.
    pub fn left(&self, key: impl Into<LimitKey>) -> u32 {
        // GCRA keeps one number for a key: when its budget is full. Each token that lacks moves it
        // by the time of one token.
        let Table { v4, v6, crowded, .. } = &*self.table;
        let full_at = match key.into() {
            LimitKey::Client(ClientKey::V4(address)) => v4.shard(address).full_at(address),
            LimitKey::Client(ClientKey::V6(network)) => v6.shard(network).full_at(network),
            LimitKey::Client(ClientKey::V6Host(host)) => {
                crowded.get().and_then(|all| all.shard(host).full_at(host))
            }
            LimitKey::Client(ClientKey::Unix(uid)) => {
                v6.shard(user_key(uid)).full_at(user_key(uid))
            }
            LimitKey::Identity(identity) => {
                let identities = self.table.identities.get();
                identities.and_then(|all| all.shard(identity).full_at(identity))
            }
        };
        let now = self.governor.clock().now().duration_since(self.start);
        let lacking = full_at.map_or(Nanos::default(), |full_at| full_at.saturating_sub(now));
        // Rounded up: a token that has come back in part cannot be taken yet.
        let tokens = lacking.as_u64().div_ceil(self.table.token.as_u64());
        self.rate.burst.get().saturating_sub(u32::try_from(tokens).unwrap_or(u32::MAX))
    }

    /// What each client has used and not got back, for another process of the agent. Budgets that
    /// clients share, where there is no room for their own, are left out.
    pub fn used(&self) -> Vec<UsedBudget> {
        let now = self.governor.clock().now().duration_since(self.start);
        let Table { v4, v6, crowded, identities, .. } = &*self.table;
        let mut used = Vec::new();
        v4.collect(now, &mut used, |key| LimitKey::Client(ClientKey::V4(key)));
        v6.collect(now, &mut used, |key| {
            LimitKey::Client(user_of(key).map_or(ClientKey::V6(key), ClientKey::Unix))
        });
        if let Some(crowded) = crowded.get() {
            crowded.collect(now, &mut used, |key| LimitKey::Client(ClientKey::V6Host(key)));
        }
        if let Some(identities) = identities.get() {
            identities.collect(now, &mut used, LimitKey::Identity);
        }
        used
    }

    /// Counts what a client has used in another process. Where it has used more here, that holds.
    pub fn count_used(&self, used: UsedBudget) {
        let now = self.governor.clock().now().duration_since(self.start);
        // Times of the two processes cannot be compared, since each counts from its own start. What
        // is left until the budget is full can.
        let lacking = Nanos::from(used.lacking).as_u64();
        let full_at = Nanos::new(now.as_u64().saturating_add(lacking));
        let Table { v4, v6, crowded, identities, .. } = &*self.table;
        match used.key {
            LimitKey::Client(ClientKey::V4(key)) => v4.shard(key).raise(key, full_at, now),
            LimitKey::Client(ClientKey::V6(key)) => v6.shard(key).raise(key, full_at, now),
            LimitKey::Client(ClientKey::V6Host(key)) => {
                crowded.get_or_init(KeyFamily::new).shard(key).raise(key, full_at, now);
            }
            LimitKey::Client(ClientKey::Unix(uid)) => {
                v6.shard(user_key(uid)).raise(user_key(uid), full_at, now);
            }
            LimitKey::Identity(key) => {
                identities.get_or_init(KeyFamily::new).shard(key).raise(key, full_at, now);
            }
        }
    }

    /// The number of keys that have a budget of their own.
    pub fn keys(&self) -> usize {
        let identities = self.table.identities.get().map_or(0, KeyFamily::len);
        let crowded = self.table.crowded.get().map_or(0, KeyFamily::len);
        self.table.v4.len() + self.table.v6.len() + crowded + identities
    }

    /// The number of tokens requested from shared budgets, by keys for which the table had no room.
    pub fn overflowed(&self) -> u64 {
        self.table.overflowed.load(Ordering::Relaxed)
    }
}

impl<C: Clock> fmt::Debug for Limiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("rate", &self.rate)
            .field("overflowed", &self.overflowed())
            .finish_non_exhaustive()
    }
}

/// The key of a user of this host among those of IPv6: in ff00::/8, the multicast addresses, which
/// no client has (RFC 4291 §2.7).
const fn user_key(uid: u32) -> u64 {
    0xff00_0000_0000_0000 | uid as u64
}

/// The user of this host whose key it is. `None` means the key of an IPv6 network.
const fn user_of(key: u64) -> Option<u32> {
    if key >> 32 == 0xff00_0000 { Some(key as u32) } else { None }
}

/// The used part of one client's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedBudget {
    /// The client or identity that has used it.
    pub key: LimitKey,
    /// Time until the budget is full again.
    pub lacking: Duration,
}

/// The table as a governor store. governor gives no access to its store, so the table is shared.
struct Store(Arc<Table>);

impl StateStore for Store {
    type Key = LimitKey;

    /// `spend` computes what a budget has left after one token is taken, or fails if it has none.
    fn measure_and_replace<T, F, E>(&self, key: &LimitKey, spend: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Table { v4, v6, crowded, identities, token, overflowed } = &*self.0;
        let identities = || identities.get_or_init(KeyFamily::new);
        let crowded = || crowded.get_or_init(KeyFamily::new);
        // The shard's lock is held while `spend` runs, so that two takes of one key cannot both see
        // the last token.
        let own = match *key {
            LimitKey::Client(ClientKey::V4(address)) => {
                v4.shard(address).spend(address, *token, &spend)
            }
            LimitKey::Client(ClientKey::V6(network)) => {
                v6.shard(network).spend(network, *token, &spend)
            }
            LimitKey::Client(ClientKey::V6Host(host)) => {
                crowded().shard(host).spend(host, *token, &spend)
            }
            LimitKey::Client(ClientKey::Unix(uid)) => {
                v6.shard(user_key(uid)).spend(user_key(uid), *token, &spend)
            }
            LimitKey::Identity(identity) => {
                identities().shard(identity).spend(identity, *token, &spend)
            }
        };
        if let Some(outcome) = own {
            return outcome;
        }
        overflowed.fetch_add(1, Ordering::Relaxed);
        let shared = match *key {
            // By the block, so that a network of many addresses drains one shared budget and not
            // all of them.
            LimitKey::Client(client) => match client.block() {
                ClientKey::V4(block) => v4.shared(block),
                ClientKey::V6(block) => v6.shared(block),
                ClientKey::V6Host(block) => crowded().shared(block),
                ClientKey::Unix(uid) => v6.shared(user_key(uid)),
            },
            LimitKey::Identity(identity) => identities().shared(identity),
        };
        shared.measure_and_replace(&NotKeyed::NonKey, spend)
    }
}

/// The budgets of all keys. The families are apart: IPv6 addresses are free, and a flood of them
/// must not push out IPv4. An authority that signs many names must push out neither.
struct Table {
    v4: KeyFamily<u32>,
    v6: KeyFamily<u64>,
    /// IPv6 addresses whose /64 has many hosts. Most listeners have no such client.
    crowded: OnceLock<KeyFamily<CrowdedAddress>>,
    /// Most limits count no identity, and then take no memory for them.
    identities: OnceLock<KeyFamily<IdentityKey>>,
    token: Nanos,
    overflowed: AtomicU64,
}

impl Table {
    fn new(token: Duration) -> Self {
        Table {
            v4: KeyFamily::new(),
            v6: KeyFamily::new(),
            crowded: OnceLock::new(),
            identities: OnceLock::new(),
            token: token.into(),
            overflowed: AtomicU64::new(0),
        }
    }
}

/// The budgets of one kind of keys, as of all IPv4 addresses.
struct KeyFamily<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    shared: Box<[InMemoryState]>,
    hasher: RandomState,
}

impl<K: Copy + Eq + Hash> KeyFamily<K> {
    fn new() -> Self {
        KeyFamily {
            shards: std::array::from_fn(|_| {
                Mutex::new(Shard { by_key: HashMap::new(), budgets: Vec::new(), hand: 0 })
            }),
            shared: (0..SHARED).map(|_| InMemoryState::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Locks the shard of `key`. It is consistent before anything can panic, so a poisoned lock is
    /// usable.
    fn shard(&self, key: K) -> MutexGuard<'_, Shard<K>> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        lock(&self.shards[shard])
    }

    /// The budget that the keys of `block` share, possibly with other blocks.
    fn shared(&self, block: K) -> &InMemoryState {
        &self.shared[self.hasher.hash_one(block) as usize % SHARED]
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).budgets.len()).sum()
    }

    /// Adds the budgets that are not full at `now` to `used`.
    fn collect(&self, now: Nanos, used: &mut Vec<UsedBudget>, key: impl Fn(K) -> LimitKey) {
        for shard in &self.shards {
            let budgets = &lock(shard).budgets;
            let open = budgets.iter().filter(|budget| budget.full_at > now);
            used.extend(open.map(|budget| UsedBudget {
                key: key(budget.key),
                lacking: budget.full_at.saturating_sub(now).into(),
            }));
        }
    }
}

/// Part of a family's budgets, under one lock. The budgets form a ring (a CLOCK), whose hand moves
/// with each new key. Finding room costs a few looks, however full the ring is.
struct Shard<K> {
    by_key: HashMap<K, usize>,
    budgets: Vec<Budget<K>>,
    hand: usize,
}

/// The budget of one key.
struct Budget<K> {
    key: K,
    /// When the budget will be full again, as time since the limiter's start.
    full_at: Nanos,
}

impl<K: Copy + Eq + Hash> Shard<K> {
    /// Spends from the budget of `key`. `None` means that `key` has none and there is no room for
    /// one.
    fn spend<T, E>(
        &mut self,
        key: K,
        token: Nanos,
        spend: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Option<Result<T, E>> {
        if let Some(&at) = self.by_key.get(&key) {
            let budget = &mut self.budgets[at];
            return Some(spend(Some(budget.full_at)).map(|(spent, full_at)| {
                budget.full_at = full_at;
                spent
            }));
        }
        let (spent, full_at) = match spend(None) {
            Ok(outcome) => outcome,
            Err(refused) => return Some(Err(refused)),
        };
        // A fresh budget lacks exactly one token, so `full_at` minus one token is the limiter's
        // current time.
        let now = full_at.saturating_sub(token);
        // Without a place, the token that was computed here is dropped: the shared budget pays
        // instead.
        self.seat(Budget { key, full_at }, now).then_some(Ok(spent))
    }

    /// Makes the budget of `key` full again at `full_at`, or later if it is later already. Nothing
    /// changes where there is no room for it: the shared budget then counts its next token.
    fn raise(&mut self, key: K, full_at: Nanos, now: Nanos) {
        if let Some(&at) = self.by_key.get(&key) {
            let budget = &mut self.budgets[at];
            budget.full_at = budget.full_at.max(full_at);
        } else {
            self.seat(Budget { key, full_at }, now);
        }
    }

    /// When the budget of `key` will be full again. `None` means that `key` has no budget of its
    /// own.
    fn full_at(&self, key: K) -> Option<Nanos> {
        self.by_key.get(&key).map(|at| self.budgets[*at].full_at)
    }

    /// Replaces a budget that is full again (forgetting that one changes nothing for its key), or
    /// else appends; `false` means no room. So the table holds little more than the budgets that
    /// matter.
    fn seat(&mut self, budget: Budget<K>, now: Nanos) -> bool {
        if let Some(at) = self.refilled(now) {
            self.by_key.remove(&self.budgets[at].key);
            self.by_key.insert(budget.key, at);
            self.budgets[at] = budget;
            return true;
        }
        // The bound is per shard. Keys are spread by a random hash, so that no address chooses its
        // shard.
        if self.budgets.len() == KEYS / SHARDS {
            return false;
        }
        self.by_key.insert(budget.key, self.budgets.len());
        self.budgets.push(budget);
        true
    }

    /// Advances the hand by at most `LOOKS` places, to a budget that is full again by `now`.
    fn refilled(&mut self, now: Nanos) -> Option<usize> {
        for _ in 0..LOOKS.min(self.budgets.len()) {
            self.hand = (self.hand + 1) % self.budgets.len();
            if self.budgets[self.hand].full_at <= now {
                return Some(self.hand);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::certificate::{Identity, KeyPin};
    use crate::policy::limit::MAX_REFILL_TIME;
    use crate::policy::network::Client;
    use governor::clock::FakeRelativeClock;
    use std::net::IpAddr;
    use std::num::NonZeroU32;
    use std::thread;

    const CLIENT: ClientKey = ClientKey::V6(0x2001_0db8_ffff_ffff);

    fn rate(tokens: u32, per: Duration, burst: u32) -> Rate {
        Rate {
            tokens: NonZeroU32::new(tokens).unwrap(),
            per,
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    fn limiter(rate: Rate) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::by(rate, clock.clone()), clock)
    }

    /// The `n`th /64 of 2001:db8::/32 and its neighbours; every one in a /48 of its own up to 2^24.
    fn stranger(n: u64) -> ClientKey {
        ClientKey::V6((0x2001_0db8_0000_0000 + ((n % (1 << 24)) << 16)) | (n >> 24))
    }

    /// Takes a token at each of `times` (milliseconds) and returns the wait of each in the same
    /// unit; 0 means that it got one.
    fn check(rate: Rate, times: &[u64], waits: &[u64]) {
        let (limiter, clock) = limiter(rate);
        let mut now = 0;
        let told = times.iter().map(|time| {
            clock.advance(Duration::from_millis(time - now));
            now = *time;
            limiter.take(CLIENT).err().map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap())
        });
        assert_eq!(told.collect::<Vec<_>>(), waits);
    }

    #[test]
    fn burst_passes_and_the_next_gets_a_wait() {
        check(rate(5, Duration::from_secs(1), 3), &[0, 0, 0, 0, 50], &[0, 0, 0, 200, 150]);
        check(rate(300, Duration::from_secs(60), 1), &[0, 0], &[0, 200]);
    }

    #[test]
    fn budget_refills_at_the_rate_and_refusals_cost_nothing() {
        check(
            rate(5, Duration::from_secs(1), 1),
            &[0, 50, 100, 199, 200, 201, 400],
            &[0, 150, 100, 1, 0, 199, 0],
        );
    }

    #[test]
    fn pause_refills_at_most_the_burst() {
        check(
            rate(5, Duration::from_secs(1), 2),
            &[0, 0, 60_000, 60_000, 60_000],
            &[0, 0, 0, 0, 200],
        );
    }

    #[test]
    fn each_key_has_its_own_budget() {
        let (limiter, _) = limiter(rate(1, Duration::from_secs(1), 1));
        for key in [ClientKey::V4(1), ClientKey::V4(2), ClientKey::V6(1), ClientKey::V6(2)] {
            assert!(limiter.take(key).is_ok());
            assert_eq!(limiter.take(key), Err(Duration::from_secs(1)));
        }
        assert_eq!((limiter.keys(), limiter.overflowed()), (4, 0));
    }

    /// The identity with this number.
    fn identity(n: u32) -> LimitKey {
        let mut pin = KeyPin([0; 32]);
        pin.0[..4].copy_from_slice(&n.to_be_bytes());
        LimitKey::Identity(IdentityKey::of(Identity::Key(pin)))
    }

    #[test]
    fn flood_of_identities_leaves_addresses_their_budgets() {
        let (limiter, clock) = limiter(rate(1, Duration::from_secs(1), 1));
        assert!(limiter.table.identities.get().is_none(), "no memory before the first");
        assert_eq!((limiter.left(identity(0)), limiter.take(identity(0))), (1, Ok(())));
        assert_eq!(limiter.take(identity(0)), Err(Duration::from_secs(1)));
        (0..100_000).for_each(|n| _ = limiter.take(identity(n)));
        assert_eq!((limiter.keys(), limiter.left(identity(0))), (KEYS, 0));
        let before = limiter.overflowed();
        assert!(before > 0 && limiter.take(CLIENT).is_ok());
        assert!((0..1000).all(|n| limiter.take(ClientKey::V4(n)).is_ok()));
        assert_eq!(limiter.overflowed(), before);
        clock.advance(Duration::from_secs(1));
        assert!(limiter.take(identity(0)).is_ok());
    }

    #[test]
    fn a_hundred_thousand_addresses_in_one_64_are_one_key() {
        let (limiter, _) = limiter(rate(5, Duration::from_secs(1), 20));
        let prefix: u128 = 0x2001_0db8_0001_0002 << 64;
        let got = (0..100_000_u128).filter(|host| {
            limiter.take(Client::new(IpAddr::V6((prefix | host).into())).key()).is_ok()
        });
        assert_eq!((got.count(), limiter.keys()), (20, 1));
    }

    #[test]
    fn known_client_keeps_its_budget_under_a_million_others() {
        let (limiter, _) = limiter(rate(5, Duration::from_secs(1), 20));
        let mut got = 0;
        for n in 0..1_000_000 {
            if n % 25_000 == 0 {
                got += u32::from(limiter.take(CLIENT).is_ok());
            }
            let _ = limiter.take(stranger(n));
        }
        assert_eq!(got, 20, "of its forty tries exactly its burst");
        assert_eq!(limiter.keys(), KEYS);
        assert_eq!(
            limiter.overflowed(),
            1_000_000 - (KEYS as u64 - 1),
            "one place of them all is the client's"
        );
    }

    #[test]
    fn remaining_takes_no_token() {
        let clock = FakeRelativeClock::default();
        let limiter = Limiter::by(rate(1, Duration::from_secs(1), 3), clock.clone());
        assert_eq!(limiter.left(CLIENT), 3);
        for left in [2, 1, 0] {
            limiter.take(CLIENT).unwrap();
            assert_eq!([limiter.left(CLIENT), limiter.left(CLIENT)], [left; 2]);
        }
        clock.advance(Duration::from_millis(1500));
        assert_eq!(limiter.left(CLIENT), 1);
        clock.advance(Duration::from_secs(9));
        assert_eq!(limiter.left(CLIENT), 3);
    }

    #[test]
    fn a_flood_of_ipv6_leaves_ipv4_its_budgets() {
        let (limiter, _) = limiter(rate(1, Duration::from_secs(1), 1));
        (0..200_000).for_each(|n| _ = limiter.take(stranger(n)));
        let before = limiter.overflowed();
        assert!((0..10_000).all(|n| limiter.take(ClientKey::V4(n)).is_ok()));
        assert_eq!(limiter.overflowed(), before);
    }

    #[test]
    fn refilled_budgets_are_evicted() {
        let (limiter, clock) = limiter(rate(5, Duration::from_secs(1), 20));
        (0..200_000).for_each(|n| _ = limiter.take(stranger(n)));
        let before = limiter.overflowed();
        clock.advance(Duration::from_millis(200));
        (200_000..260_000).for_each(|n| assert!(limiter.take(stranger(n)).is_ok()));
        assert!(limiter.keys() <= KEYS);
        assert_eq!(limiter.overflowed(), before);
    }

    #[test]
    fn a_budget_that_is_not_full_again_is_never_forgotten() {
        let (limiter, clock) = limiter(rate(5, Duration::from_secs(1), 20));
        (0..10).for_each(|_| limiter.take(CLIENT).unwrap());
        (0..100_000).for_each(|n| _ = limiter.take(stranger(n)));
        clock.advance(Duration::from_millis(1000));
        (100_000..300_000).for_each(|n| _ = limiter.take(stranger(n)));
        let got = (0..40).filter(|_| limiter.take(CLIENT).is_ok()).count();
        assert_eq!(got, 10 + 5, "what was left, and what came in a second");
    }

    #[test]
    fn sequential_clients_reuse_one_place() {
        let (limiter, clock) = limiter(rate(5, Duration::from_secs(1), 20));
        for n in 0..100_000 {
            clock.advance(Duration::from_millis(200));
            assert!(limiter.take(stranger(n)).is_ok());
        }
        assert_eq!((limiter.keys(), limiter.overflowed()), (SHARDS, 0), "one for each shard");
    }

    #[test]
    fn overflowing_key_shares_the_budget_of_its_48() {
        let (limiter, clock) = limiter(rate(1, Duration::from_secs(1), 3));
        // Budgets that take 3 s to fill again fill the table.
        (0..200_000).for_each(|n| (0..3).for_each(|_| _ = limiter.take(stranger(n))));
        clock.advance(Duration::from_secs(2));
        let neighbour = |n: u64| ClientKey::V6(0x2001_0dbf_0001_0000 | n);
        let got = (0..1000).filter(|n| limiter.take(neighbour(*n)).is_ok()).count();
        assert!(got <= 3, "{got} tokens for one /48");
        clock.advance(Duration::from_secs(1));
        assert!((0..1000).all(|n| limiter.take(neighbour(n)).is_ok()), "there is room again");
    }

    #[test]
    fn concurrent_takes_pass_exactly_the_burst() {
        let (limiter, _) = limiter(rate(1, Duration::from_secs(1), 1000));
        let got: usize = thread::scope(|scope| {
            let take = || (0..1000).filter(|_| limiter.take(CLIENT).is_ok()).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((got, limiter.keys()), (1000, 1));
    }

    #[test]
    fn no_rate_is_too_fast_or_too_slow() {
        for tokens in [1, u32::MAX] {
            for per in [
                Duration::ZERO,
                Duration::from_nanos(1),
                Duration::from_secs(1),
                MAX_REFILL_TIME,
                Duration::MAX,
            ] {
                for burst in [1, u32::MAX] {
                    let (limiter, clock) = limiter(rate(tokens, per, burst));
                    for _ in 0..3 {
                        let first = limiter.take(CLIENT);
                        let wait = first.err().unwrap_or_default();
                        clock.advance(wait);
                        assert!(limiter.take(CLIENT).is_ok() || first.is_ok());
                        assert!(limiter.take(ClientKey::V4(1)).is_ok() || wait.is_zero());
                    }
                }
            }
        }
    }

    #[test]
    fn the_real_clock_lets_the_burst_through() {
        let limiter = Limiter::new(rate(1, Duration::from_secs(3600), 2));
        assert_eq!((limiter.take(CLIENT), limiter.take(CLIENT)), (Ok(()), Ok(())));
        let wait = limiter.take(CLIENT).unwrap_err();
        assert!(wait > Duration::from_secs(3590) && wait <= Duration::from_secs(3600), "{wait:?}");
        assert_eq!(limiter.rate(), rate(1, Duration::from_secs(3600), 2));
    }
}
