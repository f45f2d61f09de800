//! The running listener of an admin endpoint, which a reload may replace by another.
//!
//! This module binds no socket and answers no request.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::state::AdminContext;
use crate::inherited_sockets::SharedSocket;
use crate::socket_file;
use crate::sync::lock;

/// A bound listener that can serve the admin endpoints.
pub trait AdminService: Send + Sized + 'static {
    /// The address or path of the listener.
    type At: Clone + Send;

    /// The listener's address or path; `None` means it has none to report.
    fn at(&self) -> Option<Self::At>;

    /// Duplicates of the listener's own sockets, and the paths of its files.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    fn share(&self) -> io::Result<ServedSockets>;

    /// Answers until `end`, and then the connections that already wait.
    fn serve(self, admin: Arc<AdminContext>, end: ServingEnd) -> impl Future<Output = ()> + Send;
}

/// The end of a listener's serving.
#[derive(Clone, Default)]
pub struct ServingEnd {
    /// Cancelled when the listener is to end.
    pub stop: CancellationToken,
    /// Whether the next process of an upgrade answers at the same sockets, whose queues are then
    /// left to it.
    is_released: Arc<AtomicBool>,
}

impl ServingEnd {
    /// Whether the queues belong to another process. Read it once `stop` is cancelled.
    pub fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }
}

/// What a listener has beside its queue, for the next process of an upgrade.
#[derive(Default)]
pub struct ServedSockets {
    /// Duplicates of its sockets. Empty where systemd passed them.
    pub sockets: Vec<SharedSocket>,
    /// The files of Unix sockets, and links to them.
    pub files: Vec<PathBuf>,
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
    end: ServingEnd,
    /// What the listener that is served has. `None` means off.
    served: Option<io::Result<ServedSockets>>,
}

impl<L: AdminService> SwappableListener<L> {
    /// Starts with the listener `first`, not yet served; `None` means off.
    pub fn new(admin: Arc<AdminContext>, first: Option<L>) -> Arc<Self> {
        let at = first.as_ref().and_then(L::at);
        let (end, served) = (ServingEnd::default(), None);
        let now = SwapState { at, waits: first, plane: None, end, served };
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
        // The duplicates would keep the port open.
        now.served = None;
        now.end.stop.cancel();
        self.serve(&mut now, next);
    }

    /// Duplicates of the sockets that are served now, for the next process of an upgrade.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn share(&self) -> io::Result<Vec<SharedSocket>> {
        let now = self.lock();
        let failed = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        match &now.served {
            None => Ok(Vec::new()),
            Some(Err(error)) => Err(failed(error)),
            Some(Ok(served)) => served.sockets.iter().map(SharedSocket::duplicate).collect(),
        }
    }

    /// Ends serving, and leaves sockets, queues and files to the next process.
    pub fn release(&self) {
        let mut now = self.lock();
        // Disowned before the end of the serving task, whose drop would remove the files.
        if let Some(Ok(served)) = now.served.take() {
            served.files.iter().for_each(|file| socket_file::disown(file));
        }
        now.end.is_released.store(true, Ordering::Release);
        now.end.stop.cancel();
    }

    fn serve(&self, now: &mut SwapState<L>, listener: Option<L>) {
        let (Some(listener), Some((tracker, stop))) = (listener, &now.plane) else { return };
        // `replace` cancels the child alone; the end of all serving cancels the parent, and so
        // both.
        now.end = ServingEnd { stop: stop.child_token(), is_released: Arc::default() };
        now.served = Some(listener.share());
        tracker.spawn(listener.serve(Arc::clone(&self.admin), now.end.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, SwapState<L>> {
        lock(&self.now)
    }
}
