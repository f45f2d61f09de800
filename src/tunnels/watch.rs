//! Events of the tables, for a process that keeps its tunnels after an upgrade.
//!
//! Without a watcher an entry costs one load when it opens and one when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::sync::lock;
use crate::tunnels::entry::LiveEntry;

/// A change of one of the tables.
pub enum TableEvent {
    /// An entry has come into its table.
    Entered {
        /// The entry, which may have ended since.
        entry: Arc<LiveEntry>,
        /// Whether it is a tunnel, and not an exchange.
        is_tunnel: bool,
    },
    /// An entry has gone from its table.
    Left(Arc<LiveEntry>),
}

/// The watchers of the tables.
#[derive(Default)]
pub struct TableWatchers {
    is_watched: AtomicBool,
    watchers: Mutex<Vec<UnboundedSender<TableEvent>>>,
}

impl TableWatchers {
    /// Adds a watcher, which gets every later event. A walk over the tables afterwards finds each
    /// entry that has caused none: an entry comes first and is reported then, and the lock of its
    /// shard orders the two.
    pub fn add(&self) -> UnboundedReceiver<TableEvent> {
        let (tx, events) = unbounded_channel();
        let mut watchers = lock(&self.watchers);
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(tx);
        self.is_watched.store(true, Ordering::Release);
        events
    }

    /// Reports an entry that is in its table.
    pub fn entered(&self, entry: &Arc<LiveEntry>, is_tunnel: bool) {
        self.report(|| TableEvent::Entered { entry: Arc::clone(entry), is_tunnel });
    }

    /// Reports an entry that is in its table no more.
    pub fn left(&self, entry: &Arc<LiveEntry>) {
        self.report(|| TableEvent::Left(Arc::clone(entry)));
    }

    fn report(&self, event: impl Fn() -> TableEvent) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        // A watcher that is gone is removed when the next one is added.
        lock(&self.watchers).iter().for_each(|watcher| drop(watcher.send(event())));
    }
}
