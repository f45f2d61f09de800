//! The tables of all live tunnels and of all exchanges in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jiff::Timestamp;

use crate::lifecycle::Lifecycle;
use crate::policy::request::Request;
use crate::snapshot::{Live, Permit};
use crate::tunnels::entry::{End, Entry, Origination};
use crate::tunnels::table::Table;

/// All tunnels and all exchanges in flight of the process.
pub struct Tunnels {
    live: Arc<Live>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) table: Table,
    pub(super) exchanges: Table,
    next: AtomicU64,
    /// Slots that are charged, entered or not: what a drain waits for.
    pub(super) slots: AtomicUsize,
    /// The most of them since that was last asked.
    pub(super) most: AtomicUsize,
}

impl Tunnels {
    /// An empty table, judging under `live` for as long as `lifecycle` lets tunnels open.
    pub fn new(live: Arc<Live>, lifecycle: Arc<Lifecycle>) -> Arc<Self> {
        Arc::new(Tunnels {
            live,
            lifecycle,
            table: Table::default(),
            exchanges: Table::default(),
            next: AtomicU64::new(1),
            slots: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Every tunnel in the table now.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.entries()
    }

    /// Every exchange in flight.
    pub fn exchanges(&self) -> Vec<Arc<Entry>> {
        self.exchanges.entries()
    }

    /// How many tunnels are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// How many exchanges are in flight.
    pub fn exchanges_len(&self) -> usize {
        self.exchanges.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots are held: open tunnels and attempts on their way to one.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::SeqCst)
    }

    /// The most slots that were held at once since this was last asked.
    pub fn take_most(&self) -> usize {
        self.most.swap(self.slots(), Ordering::Relaxed)
    }

    /// Makes the entry of a permitted request, enters it, and judges it again where the verdict
    /// may be out of date: a generation was published since, or an entry lapsed. Whoever publishes
    /// or notices the lapse walks the tables afterwards, so the order is: enter first, then look.
    pub(super) fn enter(
        &self,
        table: &Table,
        permit: &Permit,
        request: Request,
        from: Origination,
        clock: impl Fn() -> Timestamp,
    ) -> Arc<Entry> {
        let opened = clock();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::new(id, permit, request, from, opened));
        table.insert(&entry);

        let (live, now) = (self.live.load(), clock());
        let is_outdated = live.generation != permit.generation() || live.has_lapse(permit, now);
        if is_outdated && let (Err(refusal), _) = entry.rejudge(&live, now) {
            entry.end(End::Revoke(refusal));
        }
        if let Some(code) = self.lifecycle.closes_with() {
            entry.drain(code);
        }
        entry
    }
}
