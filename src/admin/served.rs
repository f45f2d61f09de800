//! A listener of those who ask or command, and whichever is in its place by now: a reload may put another there.
//!
//! It binds nothing and answers nobody.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::sync::lock;

/// A listener, bound.
pub trait Serve: Send + Sized + 'static {
    /// Where it is.
    type At: Clone + Send;

    /// Where it is, as far as that can be told.
    fn at(&self) -> Option<Self::At>;

    /// Answers until `stop`; who waits by then is answered too.
    fn serve(self, admin: Arc<Admin>, stop: CancellationToken) -> impl Future<Output = ()> + Send;
}

/// The one that serves.
pub struct Served<L: Serve> {
    admin: Arc<Admin>,
    now: Mutex<Now<L>>,
}

struct Now<L: Serve> {
    at: Option<L::At>,
    /// Bound, and not yet served.
    waits: Option<L>,
    /// Who serves it, and until when, from [`Served::begin`] on.
    plane: Option<(TaskTracker, CancellationToken)>,
    stop: CancellationToken,
}

impl<L: Serve> Served<L> {
    /// With this one to begin with; `None`: it is off.
    pub fn new(admin: Arc<Admin>, first: Option<L>) -> Arc<Self> {
        let at = first.as_ref().and_then(L::at);
        let now = Now { at, waits: first, plane: None, stop: CancellationToken::new() };
        Arc::new(Served { admin, now: Mutex::new(now) })
    }

    /// Where it is now.
    pub fn at(&self) -> Option<L::At> {
        self.lock().at.clone()
    }

    /// Serves, on `tracker` and until `stop`.
    pub fn begin(&self, tracker: &TaskTracker, stop: &CancellationToken) {
        let mut now = self.lock();
        now.plane = Some((tracker.clone(), stop.clone()));
        let first = now.waits.take();
        self.serve(&mut now, first);
    }

    /// Serves on `next` alone from now on. Who is being answered by the one before has its answer.
    pub fn replace(&self, next: Option<L>) {
        let mut now = self.lock();
        now.at = next.as_ref().and_then(L::at);
        now.stop.cancel();
        self.serve(&mut now, next);
    }

    fn serve(&self, now: &mut Now<L>, listener: Option<L>) {
        let (Some(listener), Some((tracker, stop))) = (listener, &now.plane) else { return };
        now.stop = stop.child_token();
        tracker.spawn(listener.serve(Arc::clone(&self.admin), now.stop.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Now<L>> {
        lock(&self.now)
    }
}
