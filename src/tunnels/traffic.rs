//! Counters of a tunnel's traffic, which its own task writes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::close::Traffic;

/// Bytes and messages both ways. One task writes, scrapes read; so plain loads and stores do.
#[derive(Default)]
pub struct TrafficCell {
    from_client: [AtomicU64; 2],
    from_backend: [AtomicU64; 2],
}

impl TrafficCell {
    /// Adds what the client sent.
    pub fn add_from_client(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_client, bytes, messages);
    }

    /// Adds what the backend sent.
    pub fn add_from_backend(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_backend, bytes, messages);
    }

    /// What came from the client, and what from the backend.
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
