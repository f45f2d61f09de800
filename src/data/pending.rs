//! How many connections of each client hold neither a tunnel nor an answer yet.
//!
//! Bounded by the caps on connections: a client's count leaves when it is nought.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::network::{Client, Key};

/// The counts, by client.
#[derive(Clone, Default)]
pub struct Pending(Arc<Mutex<HashMap<Key, usize>>>);

/// One connection that waits; counted until it is dropped.
pub struct Waiting {
    pending: Pending,
    key: Key,
}

impl Pending {
    /// Counts one more of `client`; `None` if it has `most` already.
    pub fn enter(&self, client: Client, most: usize) -> Option<Waiting> {
        let key = client.key();
        let mut counts = self.lock();
        let count = counts.entry(key).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Waiting { pending: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.pending.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_only_so_many_waiting_and_no_trace_after() {
        let pending = Pending::default();
        let client = Client::new([192, 0, 2, 1].into());
        let other = Client::new([192, 0, 2, 2].into());
        let first = pending.enter(client, 2).unwrap();
        let second = pending.enter(client, 2).unwrap();
        assert!(pending.enter(client, 2).is_none());
        assert!(pending.enter(other, 2).is_some());
        drop(first);
        assert!(pending.enter(client, 2).is_some());
        drop(second);
        assert!(pending.lock().is_empty());
    }
}
