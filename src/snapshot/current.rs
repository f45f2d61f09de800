//! The pointer to the running generation.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::snapshot::generation::Snapshot;

/// The running generation: the single pointer that a publish swaps.
pub struct CurrentSnapshot(ArcSwap<Snapshot>);

impl CurrentSnapshot {
    /// Creates the pointer with the first generation.
    pub fn new(first: Snapshot) -> Self {
        CurrentSnapshot(ArcSwap::from_pointee(first))
    }

    /// Loads the running generation, for one decision. The guard must not be held across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Loads the running generation, for work that outlasts a decision (a reload).
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes `next` the running generation; the only swap.
    pub fn publish(&self, next: Arc<Snapshot>) {
        // Guards loaded before keep the previous generation alive until they are dropped.
        self.0.store(next);
    }
}
