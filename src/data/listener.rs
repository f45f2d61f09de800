//! Listeners: binding, and accepting without ever waiting on a peer.
//!
//! Each thread has a socket of its own on the same address (`SO_REUSEPORT`), or a share in those that
//! systemd passed, which are closed in the end and never shut down: their queue is the next process'.
//! When a cap is reached, or descriptors run out, accepting pauses and resumes;
//! it never spins and never ends.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::data::Core;
use crate::data::connection::{self, Accepted};
use crate::observe::log::decision::{self, Party};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics};
use crate::policy::network::{Client, Peer};
use crate::refusal::Refusal;
use crate::snapshot::listener::Listener;

/// How many connections the kernel queues for us.
const BACKLOG: i32 = 4096;

/// The pauses after an accept that failed for want of descriptors or memory.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A bound: at most so many connections at once.
#[derive(Clone)]
pub struct Cap(Arc<Semaphore>);

impl Cap {
    /// At most `connections` at once.
    pub fn new(connections: usize) -> Self {
        Cap(Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))))
    }

    /// Waits for a place.
    async fn place(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.0).acquire_owned().await {
            Ok(place) => place,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

/// One thread's socket of a listener.
pub struct Bound {
    socket: StdListener,
    listener: Arc<Listener>,
    address: SocketAddr,
    /// Whether other threads accept on the same socket.
    shared: bool,
    cap: Cap,
}

impl Bound {
    /// The address that was bound; its port is the real one where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds `listener` to `address`: a share for each of `threads`. `most` is the cap where it has none of its own.
///
/// # Errors
/// `AddrInUse` also when another process listens there with `SO_REUSEPORT`: the first
/// bind is without it, so that a second instance never silently takes a share.
pub fn bind(listener: &Arc<Listener>, address: SocketAddr, threads: usize, most: usize) -> io::Result<Vec<Vec<Bound>>> {
    if address.port() != 0 {
        drop(socket(address, false)?);
    }
    let cap = Cap::new(listener.max_connections.unwrap_or(most));
    let first = socket(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(socket(address, true)?);
    }
    let bound = |socket| vec![Bound { socket, listener: Arc::clone(listener), address, shared: false, cap: cap.clone() }];
    Ok(sockets.into_iter().map(bound).collect())
}

/// Gives each of `threads` a duplicate of each of `sockets`, which came to `listener` bound and listening. All
/// threads wait at the same queue, and whoever is free first takes a connection.
///
/// # Errors
/// No descriptor is left.
pub fn share(listener: &Arc<Listener>, sockets: &[StdListener], threads: usize, most: usize) -> io::Result<Vec<Vec<Bound>>> {
    let cap = Cap::new(listener.max_connections.unwrap_or(most));
    let bound = |socket: &StdListener| {
        let (socket, address) = (socket.try_clone()?, socket.local_addr()?);
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        Ok(Bound { socket, listener: Arc::clone(listener), address, shared: true, cap: cap.clone() })
    };
    (0..threads).map(|_| sockets.iter().map(bound).collect()).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Those that it accepts inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// The accept loop of one socket; ends when accepting is to stop.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub fn accept_all(core: Arc<Core>, bound: Bound) -> io::Result<impl Future<Output = ()>> {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that change their descriptor; a std listener owns the one it has"
    )]
    let socket = AsyncFd::new(bound.socket)?;
    let metrics = core.metrics.listener(&bound.listener.name);
    let (listener, shared, cap) = (bound.listener, bound.shared, bound.cap);
    Ok(async move {
        let stop = core.shared.stop_accepting.clone();
        let mut pause = Pause::default();
        loop {
            // Places only once somebody waits: else each thread would hold one for nobody.
            let ready = stop.run_until_cancelled(socket.readable()).await;
            let Some(Ok(mut ready)) = ready else { return };
            let places = stop.run_until_cancelled(async { (cap.place().await, core.shared.total.place().await) }).await;
            let Some(places) = places else { return };
            match ready.try_io(|socket| accept(socket.get_ref())) {
                Err(_would_block) => {}
                Ok(Ok((stream, address))) => {
                    pause.length = FIRST_PAUSE / 2;
                    admit(&core, &listener, &metrics, stream, address, places);
                    if shared {
                        // The rest of the queue is for every thread, and this one has a connection to serve now.
                        yield_now().await;
                    }
                }
                Ok(Err(error)) if is_the_peers(&error) => {}
                Ok(Err(error)) => {
                    drop(places);
                    pause.note(&listener, &error);
                    if stop.run_until_cancelled(tokio::time::sleep(pause.length)).await.is_none() {
                        return;
                    }
                }
            }
        }
    })
}

/// Hands a connection to a task of its own, unless its client has too many that wait.
fn admit(
    core: &Arc<Core>,
    listener: &Arc<Listener>,
    metrics: &Arc<ListenerMetrics>,
    stream: StdStream,
    address: SocketAddr,
    places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
) {
    let peer = Peer::new(address.ip());
    metrics.accepted();
    let (live, now) = (core.shared.live.load(), Timestamp::now());
    let rules = live.listeners.get(&listener.name);
    let turn_away = |refusal, decisive, end| {
        core.metrics.no_route().refused(refusal);
        let party = Party { listener: &listener.name, client: Client::at(peer), peer };
        decision::turned_away(party, refusal, decisive, None, &core.cap);
        metrics.closed(end);
    };
    // Whom the baseline denies gets no TLS handshake.
    if let Some(baseline) = live.denied(Client::at(peer), now) {
        let refusal = Refusal::Network;
        let decisive = baseline.decisive(Client::at(peer), false, Err(refusal), now);
        return turn_away(refusal, decisive, ConnectionEnd::Network);
    }
    let most = rules.map_or(listener.pending_per_client, |rules| rules.listener.pending_per_client);
    let Some(waiting) = core.shared.pending.enter(Client::at(peer), most) else {
        return turn_away(Refusal::Pending, None, ConnectionEnd::Pending);
    };
    let Ok((stream, local)) = adopt(stream) else {
        metrics.closed(ConnectionEnd::Client);
        return;
    };
    let accepted = Accepted {
        stream,
        peer,
        port: local.port(),
        listener: Arc::clone(&listener.name),
        metrics: Arc::clone(metrics),
        places,
        waiting,
    };
    core.tracker.spawn(connection::serve(Arc::clone(core), accepted));
}

/// Takes one connection from the queue, in one system call: it is non-blocking already.
fn accept(socket: &StdListener) -> io::Result<(StdStream, SocketAddr)> {
    let (stream, address) = rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), address))
}

fn adopt(stream: StdStream) -> io::Result<(TcpStream, SocketAddr)> {
    let local = stream.local_addr()?;
    Ok((TcpStream::from_std(stream)?, local))
}

/// Errors that are about the connection that was to be accepted, not about us (accept(2)).
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// A back-off, and a log line at most once a second.
struct Pause {
    length: Duration,
    logged: Option<Instant>,
}

impl Default for Pause {
    fn default() -> Self {
        Pause { length: FIRST_PAUSE / 2, logged: None }
    }
}

impl Pause {
    fn note(&mut self, listener: &Listener, error: &io::Error) {
        self.length = (self.length * 2).min(LONGEST_PAUSE);
        if self.logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.logged = Some(Instant::now());
            tracing::error!(listener = %listener.name, %error, "accepting pauses: descriptors or memory are exhausted");
        }
    }
}
