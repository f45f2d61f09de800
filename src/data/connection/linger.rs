//! The lingering close (RFC 9112 §9.6) of a connection that was answered before all of it was read.
//!
//! If it were closed at once, the kernel would reset it, and a client that is still sending would
//! never see its answer. Our direction has ended already; what the client still sends is discarded
//! below TLS, unread, until the client ends or a bound is reached. Meanwhile the connection counts
//! as pending for its client, and any new connection that needs its place gets it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use crate::data::admission::discarding::{
    DiscardGuard, MAX_DISCARDED_BYTES, SILENCE_TIMEOUT, TOTAL_TIMEOUT,
};
use crate::data::connection::open_guard::OpenGuard;
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::stream::keepalive;
use crate::data::stream::socket::{self, Socket};
use crate::data::stream::turn::TurnBudget;
use crate::observe::metrics::{DiscardEnd, ListenerMetrics};
use crate::policy::network::ClientKey;

/// How long a client may still take once a drain has begun.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection whose answer is with the kernel, and FIN behind it.
pub struct Lingering {
    /// The client's socket, without its TLS session.
    pub socket: Socket,
    /// Bytes that have been discarded already.
    pub discarded: u64,
    /// The connection's deadlines, which count it among those of its client.
    pub deadlines: HttpDeadlines,
}

/// How much is discarded, and for how long.
struct LingerLimits {
    silence: Duration,
    total: Duration,
    bytes: u64,
}

/// The end of the discarding of a connection. Until this is dropped, which must be before the
/// connection gives its places back, it counts as discarding: a connection that waits for a place
/// must not displace a connection that has none any more.
pub struct Discarded {
    /// The reason for the end.
    pub end: DiscardEnd,
    _counted: LingerGuard,
    _places: [DiscardGuard; 2],
}

/// A connection that counts as discarding until this is dropped.
struct LingerGuard {
    listener: Arc<ListenerMetrics>,
    end: DiscardEnd,
}

impl Drop for LingerGuard {
    fn drop(&mut self) {
        self.listener.discarded(self.end);
    }
}

/// Discards what comes of a connection of `client` until it ends.
pub async fn linger(lingering: Lingering, open_guard: OpenGuard, client: ClientKey) {
    let Lingering { socket, discarded, deadlines } = lingering;
    let limits = LingerLimits {
        silence: SILENCE_TIMEOUT,
        total: TOTAL_TIMEOUT,
        bytes: MAX_DISCARDED_BYTES.saturating_sub(discarded),
    };
    let discarded = discard_until(discard(&socket, &limits), &deadlines, &open_guard, client).await;
    if discarded.end == DiscardEnd::Displaced {
        // Nothing of it stays behind in the kernel.
        socket.reset_on_close();
    } else {
        keepalive::bound_close(&socket, deadlines.write_stall());
    }
}

/// Lets `discarding`, which discards what comes of a connection of `client`, run to its end. An
/// order to make room ends it, and so does a drain. Meanwhile the connection counts as pending.
pub async fn discard_until(
    discarding: impl Future<Output = DiscardEnd>,
    deadlines: &HttpDeadlines,
    open_guard: &OpenGuard,
    client: ClientKey,
) -> Discarded {
    open_guard.listener.discards();
    // If the runtime ends first, and drops this, a drain is over.
    let mut counted =
        LingerGuard { listener: Arc::clone(&open_guard.listener), end: DiscardEnd::Drain };
    let told = Arc::new(Notify::new());
    let places = open_guard.places.discards(client, &told);
    let finish = open_guard.thread.plane.lifecycle.closing();
    let drained = async {
        finish.cancelled().await;
        sleep(DRAIN_TIMEOUT).await;
    };
    let ordered = async {
        tokio::select! {
            () = told.notified() => DiscardEnd::Displaced,
            () = poll_fn(|cx| deadlines.poll_displaced(cx)) => DiscardEnd::Displaced,
            () = drained => DiscardEnd::Drain,
        }
    };
    counted.end = tokio::select! {
        biased;
        // First: a client that keeps sending must not outrun an order.
        end = ordered => end,
        end = discarding => end,
    };
    Discarded { end: counted.end, _counted: counted, _places: places }
}

/// Discards what comes, until the client ends or a bound is reached.
async fn discard(socket: &Socket, limits: &LingerLimits) -> DiscardEnd {
    let last = Instant::now() + limits.total;
    let (mut left, mut turn) = (limits.bytes, TurnBudget::new());
    loop {
        let silent = Instant::now() + limits.silence;
        let came = pin!(poll_fn(|cx| socket::poll_discard(socket, cx)));
        let came = match timeout_at(silent.min(last), came).await {
            Err(_) if silent < last => return DiscardEnd::Silence,
            Err(_) => return DiscardEnd::Time,
            Ok(Ok(0) | Err(_)) => return DiscardEnd::Client,
            Ok(Ok(came)) => came,
        };
        let Some(rest) = left.checked_sub(came as u64) else { return DiscardEnd::Size };
        left = rest;
        // `timeout_at` polls the read first, so it never fires while bytes keep coming.
        if Instant::now() >= last {
            return DiscardEnd::Time;
        }
        turn.spend_call(came);
        if turn.is_over() {
            yield_now().await;
            turn = TurnBudget::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use socket2::SockRef;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    const BOUNDS: LingerLimits = LingerLimits {
        silence: Duration::from_secs(5),
        total: Duration::from_secs(30),
        bytes: 1 << 20,
    };

    /// Both ends of a connection, the client's first.
    async fn ends() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Socket::Tcp(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn discarding_ends_with_the_client() {
        let (mut client, tcp) = ends().await;
        let sends = async {
            client.write_all(&[0; 1 << 20]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        assert_eq!(tokio::join!(discard(&tcp, &BOUNDS), sends).0, DiscardEnd::Client);
        let (client, tcp) = ends().await;
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(discard(&tcp, &BOUNDS).await, DiscardEnd::Client);
    }

    #[tokio::test]
    async fn discarding_ends_with_the_client_of_a_unix_socket() {
        let (mut client, socket) = UnixStream::pair().unwrap();
        let socket = Socket::Unix(socket);
        let sends = async {
            client.write_all(&[0; 1 << 20]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        assert_eq!(tokio::join!(discard(&socket, &BOUNDS), sends).0, DiscardEnd::Client);
    }

    #[tokio::test]
    async fn discarding_ends_after_so_many_bytes() {
        let (mut client, tcp) = ends().await;
        let sends = async {
            let _ = client.write_all(&vec![0; 2 << 20]).await;
        };
        tokio::select! {
            end = discard(&tcp, &BOUNDS) => assert_eq!(end, DiscardEnd::Size),
            () = async { sends.await; std::future::pending().await } => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn discarding_ends_when_nothing_comes() {
        let (_client, tcp) = ends().await;
        let began = Instant::now();
        assert_eq!(discard(&tcp, &BOUNDS).await, DiscardEnd::Silence);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn discarding_of_a_drip_ends_in_time() {
        let (mut client, tcp) = ends().await;
        let limits = LingerLimits {
            silence: Duration::from_millis(200),
            total: Duration::from_millis(300),
            ..BOUNDS
        };
        let began = Instant::now();
        let drips = async {
            loop {
                let _ = client.write_all(b"x").await;
                sleep(Duration::from_millis(5)).await;
            }
        };
        let end = tokio::select! {
            end = discard(&tcp, &limits) => end,
            () = drips => unreachable!(),
        };
        assert_eq!(end, DiscardEnd::Time);
        assert!(began.elapsed() >= limits.total);
    }
}
