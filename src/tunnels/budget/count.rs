//! Counts of open tunnels, per client and in total: exact, and given back on drop.
//!
//! A place keeps the keys that it was counted by, so that a reload that changes `per` cannot free
//! another client's place. A client without a tunnel has no entry, so the table is never larger
//! than twice the number of open tunnels. This module knows nothing about tunnels themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::policy::limit::{LimitKey, LimitUnit};
use crate::policy::network::ClientKey;
use crate::policy::subject::Subject;
use crate::sync::lock;

const SHARDS: usize = 16;

/// The open tunnels of a policy, or its open streams.
#[derive(Default)]
pub struct Counts {
    clients: [Mutex<HashMap<LimitKey, Tally>>; SHARDS],
    shards: RandomState,
    total: AtomicU32,
}

/// The places of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    /// Places that are counted by this key, of clients without a certificate.
    bare: u32,
    /// Places that are counted by this key, of clients with a certificate.
    certified: u32,
    /// Places of clients with a certificate that the other unit would count by this key.
    other: u32,
}

/// The keys of one place. They take no more room than an address: each tunnel keeps them.
#[derive(Debug, PartialEq, Eq)]
pub enum PlaceKeys {
    /// Of a client without a certificate: both units count it by its address.
    Bare(ClientKey),
    /// Of a client with a certificate.
    Certified(Box<CertifiedKeys>),
}

/// The keys of a place of a client with a certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct CertifiedKeys {
    /// The key that the place is counted by.
    key: LimitKey,
    /// The key by the other unit.
    other: LimitKey,
}

/// One place under the counts, given back on drop.
#[derive(Debug)]
pub struct Count {
    counts: Arc<Counts>,
    keys: PlaceKeys,
}

/// Which count is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The limit of this client.
    Client,
    /// The limit on all clients of the policy.
    Total,
}

impl PlaceKeys {
    /// The keys of a place of `subject` that is counted by `unit`.
    pub fn of(subject: &Subject, unit: LimitUnit) -> PlaceKeys {
        if subject.certificate().is_none() {
            return PlaceKeys::Bare(subject.client.key());
        }
        let [key, other] = [unit, unit.other()].map(|unit| LimitKey::of(subject, unit));
        PlaceKeys::Certified(Box::new(CertifiedKeys { key, other }))
    }

    /// The key that the place is counted by.
    fn key(&self) -> LimitKey {
        match self {
            PlaceKeys::Bare(client) => LimitKey::Client(*client),
            PlaceKeys::Certified(keys) => keys.key,
        }
    }

    /// The key by the other unit. `None` means that both units have the same key.
    fn other(&self) -> Option<LimitKey> {
        match self {
            PlaceKeys::Bare(_) => None,
            PlaceKeys::Certified(keys) => Some(keys.other),
        }
    }
}

/// The keys of a client without a certificate.
impl From<ClientKey> for PlaceKeys {
    fn from(client: ClientKey) -> Self {
        PlaceKeys::Bare(client)
    }
}

impl Tally {
    /// The places that are counted by the key.
    fn counted(self) -> u32 {
        self.bare + self.certified
    }
}

impl Counts {
    /// Takes one place of a client and one of the total, or neither. A limit of `None` means
    /// unlimited, but the place is still counted, so that a limit set by a later generation is
    /// right from the start.
    pub fn enter(
        self: &Arc<Self>,
        keys: impl Into<PlaceKeys>,
        per_client: Option<u32>,
        total: Option<u32>,
    ) -> Result<Count, Full> {
        let keys = keys.into();
        let key = keys.key();
        let clients = self.clients(key);
        let tunnels = clients.get(&key).copied().unwrap_or_default();
        // Unlimited still ends at the largest number, so that no count wraps.
        if tunnels.counted() >= per_client.unwrap_or(u32::MAX) {
            return Err(Full::Client);
        }
        // Under the client's lock: a concurrent `enter` of that client sees both places taken, or
        // none.
        let within = |open| (open < total.unwrap_or(u32::MAX)).then(|| open + 1);
        // Relaxed is enough: the number guards no other memory, and each update is atomic.
        self.total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .map_err(|_| Full::Total)?;
        self.note(clients, &keys);
        Ok(Count { counts: Arc::clone(self), keys })
    }

    /// Takes a place whatever the bounds: another process has taken it before.
    pub fn readmit(self: &Arc<Self>, keys: impl Into<PlaceKeys>) -> Count {
        let keys = keys.into();
        let clients = self.clients(keys.key());
        self.total.fetch_add(1, Ordering::Relaxed);
        self.note(clients, &keys);
        Count { counts: Arc::clone(self), keys }
    }

    /// Notes a place of `keys`, whose own shard is `clients`.
    fn note(&self, mut clients: MutexGuard<'_, HashMap<LimitKey, Tally>>, keys: &PlaceKeys) {
        let (key, other) = (keys.key(), keys.other());
        *place(clients.entry(key).or_default(), other) += 1;
        // Released first: the other key may be of the same shard.
        // Two shards are never locked at once, so there is no order of locks to get wrong.
        drop(clients);
        if let Some(other) = other {
            self.clients(other).entry(other).or_default().other += 1;
        }
    }

    /// The number of places that are counted by `key`.
    pub fn of(&self, key: impl Into<LimitKey>) -> u32 {
        self.tally(key.into()).counted()
    }

    /// The number of places that `unit` would count together with those of `subject`, whatever they
    /// are counted by.
    pub fn of_unit(&self, subject: &Subject, unit: LimitUnit) -> u32 {
        let key = LimitKey::of(subject, unit);
        let Tally { bare, certified, other } = self.tally(key);
        match (key, unit) {
            (LimitKey::Client(_), LimitUnit::Address) => bare + certified + other,
            // Only clients without a certificate are counted by their address.
            (LimitKey::Client(_), LimitUnit::Identity) => bare,
            // Clients without a certificate have no identity: `bare` is 0 in this tally.
            (LimitKey::Identity(_), _) => certified + other,
        }
    }

    /// The number of places that all clients hold.
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    fn tally(&self, key: LimitKey) -> Tally {
        self.clients(key).get(&key).copied().unwrap_or_default()
    }

    fn leave(&self, keys: &PlaceKeys) {
        let (key, other) = (keys.key(), keys.other());
        // The reverse of `enter`: at every moment, a place in the tally of its other key is also in
        // the tally of its own key.
        if let Some(other) = other {
            give_back(&mut self.clients(other), other, |tally| &mut tally.other);
        }
        let mut clients = self.clients(key);
        give_back(&mut clients, key, |tally| place(tally, other));
        // Still under the client's lock, like the addition in `enter`.
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Locks the shard of `key`. Counts are updated before anything can panic, so a poisoned lock
    /// is usable.
    fn clients(&self, key: LimitKey) -> MutexGuard<'_, HashMap<LimitKey, Tally>> {
        // A hash with a random key: clients choose their addresses, and must not choose a shard.
        let shard = self.shards.hash_one(key) as usize % SHARDS;
        lock(&self.clients[shard])
    }
}

/// The number of places that a place of a client with this `other` key adds to.
fn place(tally: &mut Tally, other: Option<LimitKey>) -> &mut u32 {
    if other.is_some() { &mut tally.certified } else { &mut tally.bare }
}

/// Takes one from a number of the tally of `key`.
fn give_back(
    clients: &mut HashMap<LimitKey, Tally>,
    key: LimitKey,
    number: impl FnOnce(&mut Tally) -> &mut u32,
) {
    if let Entry::Occupied(mut tally) = clients.entry(key) {
        *number(tally.get_mut()) -= 1;
        // Removed at zero, so that the table never outgrows the open tunnels.
        if *tally.get() == Tally::default() {
            tally.remove();
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.counts.leave(&self.keys);
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("total", &self.total()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    use proptest::prelude::*;

    use crate::policy::certificate::ClientCertificate;
    use crate::policy::network::Client;

    const ONE: ClientKey = ClientKey::V4(1);
    const OTHER: ClientKey = ClientKey::V6(1);

    fn clients(counts: &Counts) -> usize {
        counts.clients.iter().map(|clients| clients.lock().unwrap().len()).sum()
    }

    /// What entering says to each of `keys` in turn, while all that entered stay.
    fn check(per_client: Option<u32>, total: Option<u32>, keys: &[(ClientKey, Result<(), Full>)]) {
        let counts = Arc::new(Counts::default());
        let mut open = Vec::new();
        for (key, says) in keys {
            let entered = counts.enter(*key, per_client, total);
            assert_eq!(entered.as_ref().map(|_| ()).map_err(|full| *full), *says);
            open.extend(entered);
            assert_eq!(counts.total() as usize, open.len());
        }
        drop(open);
        assert_eq!(
            (counts.total(), clients(&counts)),
            (0, 0),
            "what was empty leaves nothing behind"
        );
    }

    #[test]
    fn each_client_has_its_own_count() {
        check(
            Some(2),
            None,
            &[(ONE, Ok(())), (ONE, Ok(())), (ONE, Err(Full::Client)), (OTHER, Ok(()))],
        );
    }

    #[test]
    fn the_total_binds_all_clients() {
        check(
            None,
            Some(2),
            &[
                (ONE, Ok(())),
                (OTHER, Ok(())),
                (ONE, Err(Full::Total)),
                (ClientKey::V4(2), Err(Full::Total)),
            ],
        );
    }

    #[test]
    fn client_bound_is_reported_before_the_total() {
        check(
            Some(1),
            Some(1),
            &[(ONE, Ok(())), (ONE, Err(Full::Client)), (OTHER, Err(Full::Total))],
        );
        check(Some(0), None, &[(ONE, Err(Full::Client))]);
    }

    #[test]
    fn full_total_charges_the_client_nothing() {
        let counts = Arc::new(Counts::default());
        let first = counts.enter(ONE, Some(1), Some(1)).unwrap();
        assert_eq!(counts.enter(OTHER, Some(1), Some(1)).unwrap_err(), Full::Total);
        drop(first);
        assert!(counts.enter(OTHER, Some(1), Some(1)).is_ok());
    }

    #[test]
    fn places_taken_without_a_bound_count_under_a_later_one() {
        let counts = Arc::new(Counts::default());
        let _first = counts.enter(ONE, None, None).unwrap();
        assert_eq!(counts.enter(ONE, Some(1), None).unwrap_err(), Full::Client);
        assert_eq!(counts.enter(OTHER, None, Some(1)).unwrap_err(), Full::Total);
    }

    /// A client at one of few addresses, with one of few identities or without one.
    fn subject(host: u8, name: Option<u8>) -> Subject {
        let subject = Subject::new(Client::new([192, 0, 2, host].into()));
        let Some(name) = name else { return subject };
        let certificate = ClientCertificate::named(&format!("spiffe://a/{name}")).unwrap();
        subject.with_certificate(certificate.into())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        // Each tunnel opens under whichever unit was set by then, and ends under another.
        #[test]
        fn places_are_counted_and_freed_by_the_same_keys(
            steps in prop::collection::vec(
                (0u8..3, prop::option::of(0u8..3), any::<bool>(), any::<prop::sample::Index>()),
                0..60,
            )
        ) {
            let unit = |is_identity| match is_identity {
                true => LimitUnit::Identity,
                false => LimitUnit::Address,
            };
            let counts = Arc::new(Counts::default());
            let mut open: Vec<(Subject, LimitUnit, Count)> = Vec::new();
            for (host, name, is_identity, at) in steps {
                let (subject, unit) = (subject(host, name), unit(is_identity));
                let keys = || PlaceKeys::of(&subject, unit);
                let key = LimitKey::of(&subject, unit);
                let counted = open.iter().filter(|(of, by, _)| LimitKey::of(of, *by) == key);
                let counted = u32::try_from(counted.count()).unwrap();
                prop_assert_eq!(counts.of(key), counted);
                let full = counts.enter(keys(), Some(counted), None).unwrap_err();
                prop_assert_eq!(full, Full::Client);
                let count = counts.enter(keys(), Some(counted + 1), None).unwrap();
                open.push((subject, unit, count));
                if at.index(3) == 0 {
                    open.swap_remove(at.index(open.len()));
                }
                prop_assert_eq!(counts.total() as usize, open.len());
            }
            let names = [None, Some(0), Some(1)];
            for (host, name) in (0..3).flat_map(|host| names.map(|name| (host, name))) {
                let asked = subject(host, name);
                for by in [LimitUnit::Address, LimitUnit::Identity] {
                    let key = LimitKey::of(&asked, by);
                    let alike = open.iter().filter(|(of, _, _)| LimitKey::of(of, by) == key);
                    prop_assert_eq!(counts.of_unit(&asked, by) as usize, alike.count());
                }
            }
            open.clear();
            prop_assert_eq!((counts.total(), clients(&counts)), (0, 0));
        }
    }

    #[test]
    fn concurrent_entries_fill_the_bound_exactly() {
        let counts = Arc::new(Counts::default());
        let enter = |thread: u32| {
            let counts = &counts;
            move || -> Vec<Count> {
                (0..1000)
                    .filter_map(|at| {
                        counts.enter(ClientKey::V4((thread + at) % 7), Some(100), Some(650)).ok()
                    })
                    .collect()
            }
        };
        let open: Vec<Count> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|thread| scope.spawn(enter(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((counts.total(), open.len()), (650, 650));
        for key in 0..7 {
            assert!(
                open.iter().filter(|count| count.keys == ClientKey::V4(key).into()).count() <= 100
            );
        }
        drop(open);
        assert_eq!((counts.total(), clients(&counts)), (0, 0));
    }

    #[test]
    fn no_bound_is_exceeded_under_churn() {
        let counts = Arc::new(Counts::default());
        let open = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Ok(count) = counts.enter(ONE, Some(3), None) else { continue };
                        assert!(open.fetch_add(1, Ordering::SeqCst) < 3);
                        open.fetch_sub(1, Ordering::SeqCst);
                        drop(count);
                    }
                });
            }
        });
        assert_eq!((counts.total(), clients(&counts)), (0, 0));
    }

    #[test]
    fn a_count_is_small_and_moves_between_threads() {
        fn moves<T: Send + Sync>() -> usize {
            size_of::<T>()
        }
        assert_eq!(moves::<Count>(), 24);
    }
}
