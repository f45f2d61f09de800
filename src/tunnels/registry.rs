//! The tables of all live tunnels and of all exchanges in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::lifecycle::{Lifecycle, NewTunnelEnd};
use crate::policy::request::Request;
use crate::snapshot::{CurrentSnapshot, Permit, Snapshot};
use crate::tunnels::budget::Budgets;
use crate::tunnels::entry::{EndOrder, LiveEntry, RequestSource};
use crate::tunnels::table::EntryTable;
use crate::tunnels::watch::{TableEvent, TableWatchers};

/// All tunnels and all exchanges in flight of the process, and the slots charged.
pub struct Tunnels {
    live: Arc<CurrentSnapshot>,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) budgets: Budgets,
    pub(super) table: EntryTable,
    pub(super) exchanges: EntryTable,
    pub(super) watchers: TableWatchers,
    pub(super) next: AtomicU64,
    /// Slots held: charged, and not yet dropped. A tunnel counts from its charge on, before it is
    /// in the table, so that a drain waits for attempts in progress too.
    pub(super) slots: AtomicUsize,
    /// Most slots held at once since [`Tunnels::take_peak`].
    pub(super) max: AtomicUsize,
}

impl Tunnels {
    /// Creates empty tables. Tunnels are judged under `live`, and open for as long as `lifecycle`
    /// permits.
    pub fn new(live: Arc<CurrentSnapshot>, lifecycle: Arc<Lifecycle>) -> Arc<Self> {
        let budgets = Budgets::new(&live.load());
        Arc::new(Tunnels {
            live,
            budgets,
            lifecycle,
            table: EntryTable::default(),
            exchanges: EntryTable::default(),
            watchers: TableWatchers::default(),
            next: AtomicU64::new(1),
            slots: AtomicUsize::new(0),
            max: AtomicUsize::new(0),
        })
    }

    /// The used part of every limit.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Makes `next` the running generation. Budgets are there before its first permit, and those of
    /// the generation before go after its last but stragglers'.
    pub fn publish(&self, next: &Arc<Snapshot>) {
        self.budgets.prepare(&self.live.load(), next);
        self.live.publish(Arc::clone(next));
        self.budgets.retain(next);
    }

    /// Returns the tunnels in the table now.
    pub fn entries(&self) -> Vec<Arc<LiveEntry>> {
        self.table.entries()
    }

    /// Returns the exchanges in flight.
    pub fn exchanges(&self) -> Vec<Arc<LiveEntry>> {
        self.exchanges.entries()
    }

    /// The number of open tunnels.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// The number of exchanges in flight.
    pub fn exchanges_len(&self) -> usize {
        self.exchanges.len()
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of slots held: open tunnels and attempts in progress.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::SeqCst)
    }

    /// Returns the most slots held at once since the last call.
    pub fn take_peak(&self) -> usize {
        // Starts again from the present number: tunnels that stay open count in the next period
        // too. A charge between the load and the swap may be missed, which costs `malloc_trim` a
        // later trim.
        self.max.swap(self.slots(), Ordering::Relaxed)
    }

    /// Creates the entry of a permitted request, enters it, and judges it again if the verdict may
    /// be out of date: a generation was published since, or an entry lapsed. The publisher, and the
    /// watch on lapses, walk the tables afterwards. So the order is: enter first, then look.
    pub(super) fn enter(
        &self,
        table: &EntryTable,
        permit: &Permit,
        request: Request,
        from: RequestSource,
        clock: impl Fn() -> Timestamp,
    ) -> Arc<LiveEntry> {
        let opened = clock();
        // Relaxed: ids only have to differ, and no order among them matters.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(LiveEntry::new(id, permit, request, from, opened));
        // From here on, a walk over the table finds the entry.
        table.insert(&entry);
        self.watchers.entered(&entry, std::ptr::eq(table, &self.table));
        self.look_again(&entry, permit, clock());
        entry
    }

    /// Judges an entry that is in its table again if `permit` may be out of date, and drains it in
    /// a drain.
    pub(super) fn look_again(&self, entry: &LiveEntry, permit: &Permit, now: Timestamp) {
        let live = self.live.load();
        let is_outdated = live.generation != permit.generation() || live.has_lapse(permit, now);
        if is_outdated && let (Err(refusal), _) = entry.rejudge(&live, now) {
            entry.end(EndOrder::Revoke(refusal));
        }
        // A drain advances the stage and then walks the table: it finds this entry, or its stage is
        // seen here.
        match self.lifecycle.new_tunnel_end() {
            None => {}
            Some(NewTunnelEnd::Close(code)) => {
                entry.drain(code);
            }
            // A Close would be the only one to go out after the cut.
            Some(NewTunnelEnd::Cut) => {
                entry.end(EndOrder::Cut);
            }
        }
    }

    /// Reports every entry that comes or goes from now on.
    pub fn watch(&self) -> UnboundedReceiver<TableEvent> {
        self.watchers.add()
    }
}
