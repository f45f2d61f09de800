//! The sockets of the metrics listener.
//!
//! `metrics` answers the requests.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::addresses::SocketPlace;
use crate::admin::connection::CONNECTION_TIMEOUT;
use crate::admin::connection_cap::{ConnectionGuard, EvictingCap, accept_loop};
use crate::admin::linger::{reset_on_close, wait_for_ack};
use crate::admin::metrics::{Caller, DeniedCallers, answer_one};
use crate::admin::state::AdminContext;
use crate::admin::swappable::{AdminService, ServedSockets, ServingEnd};
use crate::control::config::MetricsAddress;
use crate::control::systemd::sockets::PassedSockets;
use crate::data::listener::{drop_new_syns, overlap, socket};
use crate::inherited_sockets::{SharedSocket, SocketPurpose};
use crate::policy::network::{Client, ClientKey, Peer};
use crate::socket_file::{self, SocketAccess, SocketFile};

/// Most connections at one time.
const MAX_CONNECTIONS: usize = 64;

/// Length of the queue of a Unix socket (listen(2)).
const BACKLOG: i32 = 128;

/// Time that a stopped listener waits for connections that were under way.
const STOP_TIMEOUT: Duration = Duration::from_millis(100);

/// The bound metrics listener: one socket, or all sockets that systemd passed under one name.
pub struct MetricsListener {
    tcp: Vec<StdTcpListener>,
    unix: Vec<StdUnixListener>,
    file: Option<SocketFile>,
    /// Whether systemd passed the sockets: their queue belongs to the next process too.
    passed: bool,
}

impl MetricsListener {
    /// Binds `address`, or takes it from the sockets `passed`. A Unix socket is open to this
    /// process's user and group. `now` is the address of the current listener.
    ///
    /// # Errors
    /// The address is in use or not local, or no descriptor is left.
    pub fn bind(
        address: &MetricsAddress,
        passed: &PassedSockets,
        now: Option<SocketAddr>,
    ) -> io::Result<Self> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("on {address}: {error}"));
        let (mut tcp, mut unix, mut file) = (Vec::new(), Vec::new(), None);
        match address {
            MetricsAddress::Tcp(address) => {
                tcp = passed.inherited().take_tcp(&SocketPurpose::Metrics, *address);
                if tcp.is_empty() {
                    let ours = now.is_some_and(|now| overlap(now, *address));
                    tcp.push(socket(*address, ours).map_err(at)?);
                }
            }
            MetricsAddress::Unix(path)
                if let Some((socket, own)) = passed.inherited().take_unix(path).map_err(at)? =>
            {
                unix.push(socket);
                file = Some(own);
            }
            MetricsAddress::Unix(path) => {
                let access = SocketAccess { mode: 0o660, group: None };
                let (socket, own) = socket_file::bind(path, access, BACKLOG).map_err(at)?;
                unix.push(socket);
                file = Some(own);
            }
            MetricsAddress::Systemd(name) => {
                (tcp, unix) = (passed.tcp(name).map_err(at)?, passed.unix(name).map_err(at)?);
            }
        }
        tcp.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        unix.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        Ok(MetricsListener {
            tcp,
            unix,
            file,
            passed: matches!(address, MetricsAddress::Systemd(_)),
        })
    }
}

impl AdminService for MetricsListener {
    type At = SocketAddr;

    /// The first bound address; `None` means only Unix sockets.
    fn at(&self) -> Option<SocketAddr> {
        self.tcp.first().and_then(|socket| socket.local_addr().ok())
    }

    fn share(&self) -> io::Result<ServedSockets> {
        if self.passed {
            return Ok(ServedSockets::default());
        }
        let mut served = ServedSockets::default();
        let share = |place, socket| SharedSocket { purpose: SocketPurpose::Metrics, place, socket };
        for socket in &self.tcp {
            let place = SocketPlace::Tcp(socket.local_addr()?);
            served.sockets.push(share(place, socket.try_clone()?.into()));
        }
        for (socket, file) in self.unix.iter().zip(&self.file) {
            let path = file.path();
            let place = SocketPlace::Unix((*path).into());
            served.sockets.push(share(place, socket.try_clone()?.into()));
            served.files.push(path);
        }
        Ok(served)
    }

    async fn serve(self, admin: Arc<AdminContext>, end: ServingEnd) {
        // `_file` lives until serving ends; its drop removes the socket's file.
        let MetricsListener { tcp, unix, file: _file, passed } = self;
        let tcp: io::Result<Vec<_>> = tcp.into_iter().map(TcpListener::from_std).collect();
        let unix: io::Result<Vec<_>> = unix.into_iter().map(UnixListener::from_std).collect();
        let (tcp, unix) = match (tcp, unix) {
            (Ok(tcp), Ok(unix)) => (tcp, unix),
            (Err(error), _) | (_, Err(error)) => {
                return tracing::error!(%error, "the metrics listener cannot be served");
            }
        };
        let accept = |context: &mut Context<'_>| poll_accept(&tcp, &unix, context);
        let strangers = Arc::new(DeniedCallers::default());
        let answer = |stream: Scraper, place| {
            let (admin, strangers) = (Arc::clone(&admin), Arc::clone(&strangers));
            async move {
                match stream {
                    Scraper::Tcp(mut stream, peer) => {
                        // An unknown local address counts as loopback, where the checks are
                        // stricter.
                        let at_loopback = stream
                            .local_addr()
                            .map_or(true, |at| at.ip().to_canonical().is_loopback());
                        let caller = Caller { peer, at_loopback };
                        // One bound for the request, its answer and the acknowledgement.
                        let last = Instant::now() + CONNECTION_TIMEOUT;
                        let in_order =
                            answer_one(&admin, &strangers, &mut stream, &place, Some(caller)).await;
                        finish(&stream, &place, if in_order { last } else { Instant::now() }).await;
                    }
                    Scraper::Unix(mut stream) => {
                        // Needs no `finish`: what was written to a Unix socket is already in the
                        // caller's queue.
                        answer_one(&admin, &strangers, &mut stream, &place, None).await;
                    }
                }
            }
        };
        let over = CancellationToken::new();
        let ends = async {
            end.stop.cancelled().await;
            // The next process has the same queues, and answers from here on.
            if end.is_released() {
                return over.cancel();
            }
            // Connections in the queue are answered. `drop_new_syns` drops new SYNs, so that the
            // close resets no connection that came later. systemd keeps the sockets that it passes:
            // closing them here resets nothing, and a filter would outlive this process.
            for socket in tcp.iter().filter(|_| !passed) {
                let _ = drop_new_syns(socket);
            }
            sleep(STOP_TIMEOUT).await;
            over.cancel();
        };
        tokio::join!(
            accept_loop(EvictingCap::new(MAX_CONNECTIONS), accept, answer, over.clone()),
            ends
        );
    }
}

/// Waits until `last` for a caller to acknowledge its answer. Otherwise the connection is reset:
/// the kernel would keep the unsent scrape for two minutes.
async fn finish(stream: &TcpStream, place: &ConnectionGuard, last: Instant) {
    let is_delivered = tokio::select! {
        is_delivered = wait_for_ack(stream, last) => is_delivered,
        () = place.evicted() => false,
    };
    if !is_delivered {
        reset_on_close(stream);
    }
}

/// An accepted connection of a scraper.
enum Scraper {
    Tcp(TcpStream, Peer),
    /// A caller that the mode of the socket's file admitted.
    Unix(UnixStream),
}

fn poll_accept(
    tcp: &[TcpListener],
    unix: &[UnixListener],
    context: &mut Context<'_>,
) -> Poll<io::Result<(Scraper, Option<ClientKey>)>> {
    // Sockets behind a ready one are not polled and register no waker. They need none: the caller
    // polls again before it waits.
    for socket in tcp {
        if let Poll::Ready(accepted) = socket.poll_accept(context) {
            let asker = |(stream, address): (TcpStream, SocketAddr)| {
                let peer = Peer::new(address.ip());
                (Scraper::Tcp(stream, peer), Some(Client::of_peer(peer).key()))
            };
            return Poll::Ready(accepted.map(asker));
        }
    }
    for socket in unix {
        if let Poll::Ready(accepted) = socket.poll_accept(context) {
            return Poll::Ready(accepted.map(|(stream, _)| (Scraper::Unix(stream), None)));
        }
    }
    Poll::Pending
}
