//! The addresses that the process listens on: written by `agent`, read by code that reports them.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// An address that a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundAddress {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Address with the port that the kernel chose, where the configuration says port 0.
    pub address: SocketAddr,
}

/// The addresses of all listeners that accept now; stored at start and by each reload.
#[derive(Default)]
pub struct BoundAddresses(ArcSwap<Vec<BoundAddress>>);

impl BoundAddresses {
    /// Returns the addresses, in the order of the listeners.
    pub fn load(&self) -> Arc<Vec<BoundAddress>> {
        self.0.load_full()
    }

    /// Replaces all addresses, in one swap.
    pub fn store(&self, addresses: Vec<BoundAddress>) {
        self.0.store(Arc::new(addresses));
    }
}
