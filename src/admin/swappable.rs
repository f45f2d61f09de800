//! The running listener of an admin endpoint, which a reload may replace by another.
//!
//! This module binds no socket and answers no request.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::state::AdminContext;
use crate::sync::lock;

/// A bound listener that can serve the admin endpoints.
pub trait AdminService: Send + Sized + 'static {
    /// The address or path of the listener.
    type At: Clone + Send;

    /// The listener's address or path; `None` means it has none to report.
    fn at(&self) -> Option<Self::At>;

    /// Answers until `stop`, and then the connections that already wait.
    fn serve(
        self,
        admin: Arc<AdminContext>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// Holds the current listener, and replaces it on a reload.
pub struct SwappableListener<L: AdminService> {
    admin: Arc<AdminContext>,
    now: Mutex<SwapState<L>>,
}

struct SwapState<L: AdminService> {
    at: Option<L::At>,
    /// The listener that [`SwappableListener::start`] will serve; `None` means served or off.
    waits: Option<L>,
    /// The tracker of the serving task and the end of all serving; `None` means not yet begun.
    plane: Option<(TaskTracker, CancellationToken)>,
    stop: CancellationToken,
}

impl<L: AdminService> SwappableListener<L> {
    /// Starts with the listener `first`, not yet served; `None` means off.
    pub fn new(admin: Arc<AdminContext>, first: Option<L>) -> Arc<Self> {
        let at = first.as_ref().and_then(L::at);
        let now = SwapState { at, waits: first, plane: None, stop: CancellationToken::new() };
        Arc::new(SwappableListener { admin, now: Mutex::new(now) })
    }

    /// Address or path of the current listener; `None` means off, or no address.
    pub fn address(&self) -> Option<L::At> {
        self.lock().at.clone()
    }

    /// Starts to serve, on `tracker` and until `stop`.
    pub fn start(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        let mut now = self.lock();
        now.plane = Some((tracker.clone(), stop.clone()));
        let first = now.waits.take();
        self.serve(&mut now, first);
    }

    /// Stops the current listener and serves `next` instead. Requests that the old one is answering
    /// still get their answers.
    pub fn replace(&self, next: Option<L>) {
        let mut now = self.lock();
        now.at = next.as_ref().and_then(L::at);
        now.stop.cancel();
        self.serve(&mut now, next);
    }

    fn serve(&self, now: &mut SwapState<L>, listener: Option<L>) {
        let (Some(listener), Some((tracker, stop))) = (listener, &now.plane) else { return };
        // `replace` cancels the child alone; the end of all serving cancels the parent, and so
        // both.
        now.stop = stop.child_token();
        tracker.spawn(listener.serve(Arc::clone(&self.admin), now.stop.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, SwapState<L>> {
        lock(&self.now)
    }
}
