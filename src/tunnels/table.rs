//! One table of entries, in shards so that threads seldom wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync::lock;
use crate::tunnels::entry::LiveEntry;

/// Number of shards. A walk clones the entries of one under its lock, for which a tunnel that opens
/// or ends waits: of 100,000 entries that is some 1,600 at a time, for 25 µs.
const SHARDS: usize = 64;

type EntryShard = Mutex<HashMap<u64, Arc<LiveEntry>>>;

/// Entries by their id, in shards.
pub struct EntryTable {
    shards: [EntryShard; SHARDS],
}

impl Default for EntryTable {
    fn default() -> Self {
        EntryTable { shards: std::array::from_fn(|_| EntryShard::default()) }
    }
}

impl EntryTable {
    /// Adds an entry under its id.
    pub fn insert(&self, entry: &Arc<LiveEntry>) {
        self.shard(entry.id).insert(entry.id, Arc::clone(entry));
    }

    /// Removes the entry with this id.
    pub fn remove(&self, id: u64) {
        self.shard(id).remove(&id);
    }

    /// Returns the entries in the table now. Shards are locked one after another, so this is no
    /// single instant.
    pub fn entries(&self) -> Vec<Arc<LiveEntry>> {
        // An entry that is inserted behind the walk is missed here. `Tunnels::enter` looks for a
        // newer generation after the insertion, and so closes the gap.
        let of = |shard: &EntryShard| lock(shard).values().cloned().collect::<Vec<_>>();
        self.shards.iter().flat_map(of).collect()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<LiveEntry>>> {
        // Ids are consecutive and not chosen by clients, so the remainder spreads them evenly.
        lock(&self.shards[(id % SHARDS as u64) as usize])
    }
}
