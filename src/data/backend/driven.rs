//! hyper's connection to a backend, driven by the task that waits for its answer: a task of its own
//! would cost each attempt an allocation and several turns of the scheduler.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// hyper's half of a connection to a backend, which moves its bytes when it is polled.
pub trait Connection: Future<Output = hyper::Result<()>> + Unpin + Send + 'static {}

impl<C: Future<Output = hyper::Result<()>> + Unpin + Send + 'static> Connection for C {}

/// A connection that moves only while a caller waits for something of it. `None` means over.
pub struct DrivenConnection<C>(Option<C>);

impl<C: Connection> DrivenConnection<C> {
    /// Wraps a connection that has not been polled yet.
    pub fn new(connection: C) -> Self {
        DrivenConnection(Some(connection))
    }

    /// Waits for `something` that comes of the connection. If the connection ends, `something`
    /// becomes ready with the reason.
    pub async fn run_until<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        poll_fn(|cx| {
            // The connection first: its poll is what makes `something` ready.
            self.poll(cx);
            something.as_mut().poll(cx)
        })
        .await
    }

    /// Drives the connection to its end: the answer's body comes through it.
    pub async fn finish(mut self) {
        poll_fn(|cx| {
            self.poll(cx);
            if self.0.is_some() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.0
            && let Poll::Ready(end) = Pin::new(connection).poll(cx)
        {
            if let Err(error) = end {
                tracing::debug!(%error, "a connection to a backend failed");
            }
            self.0 = None;
        }
    }
}
