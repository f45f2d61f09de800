//! Counters of a tunnel's traffic, which its own task writes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::close::Traffic;

/// Bytes and messages in both directions. One task writes and scrapes read, so plain loads and
/// stores suffice.
#[derive(Default)]
pub struct TrafficCell {
    from_client: [AtomicU64; 2],
    from_backend: [AtomicU64; 2],
}

impl TrafficCell {
    /// Adds bytes and messages from the client.
    pub fn add_from_client(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_client, bytes, messages);
    }

    /// Adds bytes and messages from the backend.
    pub fn add_from_backend(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_backend, bytes, messages);
    }

    /// Returns the totals from the client, and from the backend.
    pub fn totals(&self) -> (Traffic, Traffic) {
        let read = |cell: &[AtomicU64; 2]| Traffic {
            bytes: cell[0].load(Ordering::Relaxed),
            messages: cell[1].load(Ordering::Relaxed),
        };
        (read(&self.from_client), read(&self.from_backend))
    }

    fn add(cell: &[AtomicU64; 2], bytes: u64, messages: u64) {
        for (total, more) in cell.iter().zip([bytes, messages]) {
            total.store(total.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }
}
