//! Counts of open tunnels, per client and in total: exact, and given back on drop.
//!
//! A client without a tunnel has no entry, so the table is never larger than the number of open
//! tunnels. This module knows nothing about tunnels themselves.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::policy::network::ClientKey;
use crate::sync::lock;

const SHARDS: usize = 16;

/// The open tunnels of a policy, or its open streams.
#[derive(Default)]
pub struct Counts {
    clients: [Mutex<HashMap<ClientKey, u32>>; SHARDS],
    shards: RandomState,
    total: AtomicU32,
}

/// One place under the counts, given back on drop.
#[derive(Debug)]
pub struct Count {
    counts: Arc<Counts>,
    key: ClientKey,
}

/// Which count is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The limit of this client.
    Client,
    /// The limit on all clients of the policy.
    Total,
}

impl Counts {
    /// Takes one place of `key` and one of the total, or neither. A limit of `None` means
    /// unlimited, but the place is still counted, so that a limit set by a later generation is
    /// right from the start.
    pub fn enter(
        self: &Arc<Self>,
        key: ClientKey,
        per_client: Option<u32>,
        total: Option<u32>,
    ) -> Result<Count, Full> {
        let mut clients = self.clients(key);
        let tunnels = clients.get(&key).copied().unwrap_or(0);
        // Unlimited still ends at the largest number, so that no count wraps.
        if tunnels >= per_client.unwrap_or(u32::MAX) {
            return Err(Full::Client);
        }
        // Under the client's lock: a concurrent `enter` of that client sees both places taken, or
        // none.
        let within = |open| (open < total.unwrap_or(u32::MAX)).then(|| open + 1);
        self.total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .map_err(|_| Full::Total)?;
        clients.insert(key, tunnels + 1);
        Ok(Count { counts: Arc::clone(self), key })
    }

    /// The number of places that `key` holds.
    pub fn of(&self, key: ClientKey) -> u32 {
        self.clients(key).get(&key).copied().unwrap_or(0)
    }

    /// The number of places that all clients hold.
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    fn leave(&self, key: ClientKey) {
        let mut clients = self.clients(key);
        if let Entry::Occupied(mut tunnels) = clients.entry(key) {
            *tunnels.get_mut() -= 1;
            // Removed at zero, so that the table never outgrows the open tunnels.
            if *tunnels.get() == 0 {
                tunnels.remove();
            }
        }
        // Still under the client's lock, like the addition in `enter`.
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Locks the shard of `key`. Counts are updated before anything can panic, so a poisoned lock
    /// is usable.
    fn clients(&self, key: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, u32>> {
        // A hash with a random key: clients choose their addresses, and must not choose a shard.
        let shard = self.shards.hash_one(key) as usize % SHARDS;
        lock(&self.clients[shard])
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.counts.leave(self.key);
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
            assert!(open.iter().filter(|count| count.key == ClientKey::V4(key)).count() <= 100);
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
