//! `Expect: 100-continue`: a client that holds its body back until a 100 asks for it.
//!
//! The backend decides, since it may refuse the request by its head alone (RFC 9110 §10.1.1). Its
//! 100 lets the body go on, and so does time: servers that know no `Expect` wait for the body.
//! This module reads and writes nothing: hyper sends the client its 100 once the body is read.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{EXPECT, HeaderMap};
use http::{Version, request};
use tokio::time::Sleep;

use crate::sync::lock;

/// How long a backend may say nothing before the body is read all the same. Clients wait for their
/// 100 for about as long.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the client of a request with a body waits for a 100. Other expectations are dropped, and
/// a client of HTTP/1.0 expects none.
pub fn is_expected(head: &request::Parts) -> bool {
    head.version == Version::HTTP_11 && is_continue(&head.headers)
}

/// Reads the fields as hyper does, which sends the 100: the last one counts.
fn is_continue(headers: &HeaderMap) -> bool {
    let last = headers.get_all(EXPECT).iter().next_back();
    last.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The signal that the backend wants the body. Clones share it.
#[derive(Clone, Default)]
pub struct ContinueSignal(Arc<Mutex<ContinueState>>);

#[derive(Default)]
struct ContinueState {
    is_wanted: bool,
    waits: Option<Waker>,
}

impl ContinueSignal {
    /// Lets the body go: the backend's 100 has come.
    pub fn set(&self) {
        let mut state = lock(&self.0);
        state.is_wanted = true;
        if let Some(waits) = state.waits.take() {
            waits.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.is_wanted {
            return Poll::Ready(());
        }
        state.waits = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The wait of a body that its client holds back.
#[derive(Default)]
pub struct ContinueWait {
    wanted: ContinueSignal,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ContinueWait {
    /// The signal that lets the body go.
    pub fn signal(&self) -> ContinueSignal {
        self.wanted.clone()
    }

    /// Ready once the body may be read: a 100 came, or `CONTINUE_TIMEOUT` has passed since the
    /// first call, when the head is on its way.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Before the timer, so that a 100 at the last moment counts as one.
        if self.wanted.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let timer = || Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT));
        self.timer.get_or_insert_with(timer).as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;

    use http::Request;
    use tokio::time::Instant;

    #[test]
    fn expectation_is_read_as_hyper_reads_it() {
        let check = |version, lines: &[&str], expected: bool| {
            let mut head = Request::new(()).into_parts().0;
            head.version = version;
            for line in lines {
                head.headers.append(EXPECT, line.parse().unwrap());
            }
            assert_eq!(is_expected(&head), expected, "{version:?} {lines:?}");
        };
        check(Version::HTTP_11, &["100-continue"], true);
        check(Version::HTTP_11, &["100-Continue"], true);
        check(Version::HTTP_11, &["other", "100-continue"], true);
        check(Version::HTTP_11, &["100-continue", "other"], false);
        check(Version::HTTP_11, &["100-continue, other"], false);
        check(Version::HTTP_11, &[""], false);
        check(Version::HTTP_11, &[], false);
        check(Version::HTTP_10, &["100-continue"], false);
    }

    #[tokio::test(start_paused = true)]
    async fn body_is_held_until_it_is_wanted_or_time_is_up() {
        let began = Instant::now();
        let mut held = ContinueWait::default();
        poll_fn(|cx| held.poll(cx)).await;
        assert_eq!(began.elapsed(), CONTINUE_TIMEOUT);
        let mut held = ContinueWait::default();
        let wanted = held.signal();
        tokio::join!(poll_fn(|cx| held.poll(cx)), async { wanted.set() });
        assert_eq!(began.elapsed(), CONTINUE_TIMEOUT);
    }
}
