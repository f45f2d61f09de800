//! The few sums of all counters that a history of the whole process needs.

use crate::close::Traffic;
use crate::refusal::Refusal;

/// Counts of the whole process since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActivityTotals {
    /// Connections accepted by all listeners.
    pub connections: u64,
    /// Tunnels opened on all routes.
    pub opened: u64,
    /// Plain requests that were permitted, or failed at the backend.
    pub plain: u64,
    /// Refusals of connections and requests, by [`Refusal::number`].
    pub refusals: [u64; Refusal::ALL.len()],
    /// Tunnel traffic from clients to backends.
    pub from_client: Traffic,
    /// Tunnel traffic from backends to clients.
    pub from_backend: Traffic,
}

impl ActivityTotals {
    /// Refusals of all reasons.
    pub fn refused(&self) -> u64 {
        self.refusals.iter().sum()
    }
}
