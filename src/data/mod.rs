//! The data plane: from an accepted connection to the end of its tunnel.
//!
//! One current-thread runtime per core, each accepting for itself; a connection never leaves its
//! core. The data plane knows nothing of files: it obeys the running snapshot and the orders in the
//! table of tunnels.

pub mod admission;
pub mod backend;
mod connection;
pub mod context;
pub mod http;
pub mod listener;
pub mod proxy_protocol;
pub mod stream;
pub mod tls;
mod tunnel;
pub mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::data::context::{DataPlane, ThreadContext};
use crate::data::listener::ListeningSocket;
use crate::observe::heartbeat::Heartbeat;

/// Runs one thread of the data plane over the `sockets` that it is sent, until a drain has nothing
/// left to wait for, or `end` is true; connections that are still open then are dropped.
/// `heartbeat` beats for as long as the runtime turns: an accept loop that pauses does not stop it.
///
/// # Errors
/// The runtime cannot be made.
pub fn run_thread(
    plane: &Arc<DataPlane>,
    sockets: UnboundedReceiver<ListeningSocket>,
    heartbeat: Heartbeat,
    mut end: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let tracker = TaskTracker::new();
        let thread = ThreadContext::new(plane, tracker.clone());
        tracker.spawn(accept_on_all(Arc::clone(&thread), sockets));
        tracker.spawn(run_housekeeping(Arc::clone(&thread)));
        let drained = async {
            plane.lifecycle.closing().cancelled().await;
            // Still takes new tasks; `wait` alone depends on it.
            tracker.close();
            tracker.wait().await;
        };
        tokio::select! {
            () = drained => {}
            // An error means that the sender is gone: the thread ends then too.
            _ = end.wait_for(|end| *end) => {}
            () = heartbeat.run() => {}
        }
        heartbeat.deregister();
        Ok(())
    })
}

/// Accepts on every socket that comes, until all accepting stops.
async fn accept_on_all(
    thread: Arc<ThreadContext>,
    mut sockets: UnboundedReceiver<ListeningSocket>,
) {
    while let Some(Some(socket)) =
        thread.plane.lifecycle.closing().run_until_cancelled(sockets.recv()).await
    {
        let address = socket.bound.address().clone();
        match listener::accept_all(Arc::clone(&thread), socket) {
            Ok(accepting) => drop(thread.tracker.spawn(accepting)),
            Err(error) => {
                tracing::error!(%address, %error, "a thread cannot accept connections on this address");
            }
        }
    }
}

/// Once a second: closes idle connections to backends whose time is up, forgets backends that are
/// gone, and reports what the log left out. With the drain, closes all idle connections.
async fn run_housekeeping(thread: Arc<ThreadContext>) {
    while thread
        .plane
        .lifecycle
        .closing()
        .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
        .await
        .is_some()
    {
        thread.backend_client.evict_expired(&thread.plane.live.load());
        thread.throttle.flush_ended(std::time::Instant::now());
        thread.differences.flush_ended(std::time::Instant::now());
        thread.delays.flush_ended(std::time::Instant::now());
    }
    thread.backend_client.close_idle();
}
