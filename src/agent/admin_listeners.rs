//! The three listeners of `admin`: metrics, the admin socket, and the page.
//!
//! This module binds no socket itself. A reload replaces each of them on its own.

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{AdminContext, AdminListener, MetricsListener, PageListener, SwappableListener};
use crate::inherited_sockets::SharedSocket;

/// The listeners that serve now.
#[derive(Clone)]
pub struct AdminListeners {
    /// The metrics listener, replaced on a change.
    pub scrapes: Arc<SwappableListener<MetricsListener>>,
    /// The admin socket, replaced on a change.
    pub asks: Arc<SwappableListener<AdminListener>>,
    /// The listener of the page, replaced on a change.
    pub pages: Arc<SwappableListener<PageListener>>,
}

/// The sockets of the first generation, bound but not yet served. `None` means off.
pub struct FirstAdminSockets {
    pub scrapes: Option<MetricsListener>,
    pub asks: Option<AdminListener>,
    pub pages: Option<PageListener>,
}

impl AdminListeners {
    /// Begins with the sockets `first`, which [`start`](AdminListeners::start) serves.
    pub fn new(admin: &Arc<AdminContext>, first: FirstAdminSockets) -> Self {
        AdminListeners {
            scrapes: SwappableListener::new(Arc::clone(admin), first.scrapes),
            asks: SwappableListener::new(Arc::clone(admin), first.asks),
            pages: SwappableListener::new(Arc::clone(admin), first.pages),
        }
    }

    /// Starts to serve, on `tracker` and until `stop`.
    pub fn start(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        self.scrapes.start(tracker, stop);
        self.asks.start(tracker, stop);
        self.pages.start(tracker, stop);
    }

    /// Duplicates of their own sockets, for the next process of an upgrade.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn share(&self) -> io::Result<Vec<SharedSocket>> {
        let all = [self.scrapes.share()?, self.asks.share()?, self.pages.share()?];
        Ok(all.into_iter().flatten().collect())
    }

    /// Ends serving, and leaves sockets, queues and files to the next process.
    pub fn release(&self) {
        self.scrapes.release();
        self.asks.release();
        self.pages.release();
    }
}
