//! A connection that counts as open, and the count of its end. A connection that is closed before
//! its first request has a line too.

use std::sync::Arc;

use crate::data::admission::cap::CapGuards;
use crate::data::context::ThreadContext;
use crate::observe::log::decision::{ConnectionRefusal, LogContext};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics};
use crate::refusal::Refusal;

/// A connection that counts as open until this is dropped.
pub struct OpenGuard {
    /// The state of the thread that serves the connection.
    pub thread: Arc<ThreadContext>,
    /// The counters of its listener.
    pub listener: Arc<ListenerMetrics>,
    /// The way in which it has ended, if it is dropped now.
    pub end: ConnectionEnd,
    /// Its places under the listener's cap and the process'.
    pub places: CapGuards,
}

impl OpenGuard {
    /// A connection of this listener that has just been accepted.
    pub fn new(
        thread: &Arc<ThreadContext>,
        listener: Arc<ListenerMetrics>,
        places: CapGuards,
    ) -> Self {
        // Holds where no later step sets another end, as for a client that just leaves.
        let end = ConnectionEnd::Client;
        OpenGuard { thread: Arc::clone(thread), listener, end, places }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end = ConnectionEnd::Panic;
            self.thread.plane.metrics.panicked();
        }
        self.listener.closed(self.end);
    }
}

/// Books a connection that is closed before it has made a request.
pub fn log_refused_connection(
    thread: &ThreadContext,
    log_context: LogContext<'_>,
    refusal: Refusal,
    error: Option<&str>,
) {
    thread.refuse_connection(
        log_context,
        ConnectionRefusal { error, ..ConnectionRefusal::new(refusal) },
    );
}
