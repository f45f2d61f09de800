//! One connection to an admin endpoint: its deadlines, and its requests in turn.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::admin::answer::text;
use crate::admin::linger::{BodyAbandoned, DiscardingStream, linger};

/// Time of a caller from the accept to the end of the answer. The admin socket has a longer one.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a request's head, and for a connection to be idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// Time for a request's head, and for a connection to be idle between two requests.
    pub head: Duration,
    /// Time from the accept to the end of the last answer.
    pub connection: Duration,
}

impl ConnectionTimeouts {
    /// The usual time for a head, and `connection` for all requests together.
    pub const fn new(connection: Duration) -> ConnectionTimeouts {
        ConnectionTimeouts { head: HEAD_TIMEOUT, connection }
    }
}

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The answer to a request that has both a body and `Upgrade`.
const NO_UPGRADE: &str = "only HTTP/1.1 is supported here: send the request without Upgrade\n";

/// Answers the requests of one connection; a caller that takes longer than `timeouts` is cut off.
/// Input behind the last answer is discarded. Returns whether the connection ended in order.
pub async fn serve_connection<I, F, B>(
    io: &mut I,
    timeouts: ConnectionTimeouts,
    answer: impl Fn(Request<Incoming>) -> F,
) -> bool
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + From<Full<Bytes>> + 'static,
{
    let given_up = BodyAbandoned::default();
    let service = service_fn(|request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        // With the body unread, hyper would truncate the answer to a request with `Upgrade`.
        let upgrades = has_body && request.headers().contains_key(UPGRADE);
        let answer = (!upgrades).then(|| answer(request));
        let given_up = &given_up;
        async move {
            let mut answer = match answer {
                Some(answer) => answer.await,
                None => text(StatusCode::BAD_REQUEST, NO_UPGRADE).map(B::from),
            };
            // No request here has a use for its body, so it stays unread. A server that leaves a
            // body unread must close behind its answer (RFC 9112 §9.3).
            if has_body {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                given_up.set();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    // hyper panics for a header timeout without a timer, and for a buffer of less than 8 KiB.
    http.timer(TokioTimer::new()).header_read_timeout(timeouts.head).max_buf_size(MAX_HEAD_BYTES);
    let connection = http
        .serve_connection(TokioIo::new(DiscardingStream::new(&mut *io, given_up.clone())), service);
    let awaits = match timeout(timeouts.connection, connection).await {
        // Only a body that was given up can still be on its way.
        Ok(Ok(())) => given_up.is_set(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection to the admin API broke");
            // hyper has answered a parse error with 400, and the caller may still be sending.
            error.is_parse()
        }
        Err(_) => {
            tracing::debug!("a connection to the admin API timed out");
            return false;
        }
    };
    linger(io, awaits).await;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::admission::discarding::SILENCE_TIMEOUT;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Checks after how many seconds a connection ends whose caller sends `bytes` at once and then
    /// nothing, and how the answer begins.
    async fn check(bytes: &str, seconds: u64, answered: &str) {
        let (mut asks, mut io) = duplex(1024);
        asks.write_all(bytes.as_bytes()).await.unwrap();
        let began = Instant::now();
        serve_connection(&mut io, ConnectionTimeouts::new(MINUTE), |_| async {
            text(StatusCode::OK, "yes")
        })
        .await;
        drop(io);
        let mut answer = String::new();
        asks.read_to_string(&mut answer).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), seconds, "{bytes:?}");
        assert!(
            answer.starts_with(answered) && (answer.is_empty() == answered.is_empty()),
            "{bytes:?}: {answer}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_caller_is_dropped_soon() {
        check("", HEAD_TIMEOUT.as_secs(), "").await;
        check("GET / HTTP/1.1\r\nHost:", HEAD_TIMEOUT.as_secs(), "").await;
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", HEAD_TIMEOUT.as_secs(), "HTTP/1.1 200 OK").await;
        let silence = SILENCE_TIMEOUT.as_secs();
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            silence,
            "HTTP/1.1 200 OK",
        )
        .await;
        check("GET\r\n\r\n", silence, "HTTP/1.1 400 Bad Request").await;
        check("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0, "HTTP/1.1 200 OK").await;
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_reads_no_answer_is_cut() {
        let (mut asks, mut io) = duplex(64);
        asks.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let large = |_| async { text(StatusCode::OK, vec![b'a'; 1 << 20]) };
        assert!(!serve_connection(&mut io, ConnectionTimeouts::new(MINUTE), large).await);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    /// Checks that a caller that sends this head and a large body before it reads gets an answer.
    async fn check_sends_all(head: &str, status: &str, size: usize) {
        let (mut asks, mut io) = duplex(1024);
        let asking = async {
            asks.write_all(head.as_bytes()).await.unwrap();
            asks.write_all(&vec![b'a'; 1 << 20]).await.unwrap();
            let mut answer = String::new();
            asks.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let large = |_| async { text(StatusCode::OK, vec![b'a'; 1 << 20]) };
        let answering = async {
            serve_connection(&mut io, ConnectionTimeouts::new(MINUTE), large).await;
            drop(io);
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert!(answer.starts_with(status), "{head:?}: {:?}", &answer[..answer.len().min(200)]);
        assert!(answer.len() > size, "{head:?}: {} bytes", answer.len());
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_sends_all_before_reading_gets_the_whole_answer() {
        let (post, length) = ("POST / HTTP/1.1\r\nHost: a\r\n", "Content-Length: 1048576\r\n");
        let upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
        let ok = "HTTP/1.1 200 OK";
        check_sends_all(&format!("{post}{length}\r\n"), ok, 1 << 20).await;
        check_sends_all(&format!("{post}{length}Expect: 100-continue\r\n\r\n"), ok, 1 << 20).await;
        check_sends_all(&format!("{post}{length}{upgrade}\r\n"), "HTTP/1.1 400", 0).await;
        check_sends_all("GET\r\n\r\n", "HTTP/1.1 400", 0).await;
    }
}
