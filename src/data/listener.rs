//! Listeners: binding, and accepting without ever waiting on a peer.
//!
//! Each thread has a socket of its own on the same address (`SO_REUSEPORT`), or a share in those that
//! systemd passed, which are closed in the end and never shut down: their queue is the next process'.
//! When a cap is reached, or descriptors run out, accepting pauses and resumes;
//! it never spins and never ends.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::data::Core;
use crate::data::cap::{Cap, Place};
use crate::data::connection::{self, Accepted};
use crate::data::keepalive;
use crate::observe::log::decision::{self, Party};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics};
use crate::policy::network::{Client, Peer};
use crate::refusal::Refusal;
use crate::snapshot::ListenerRules;

/// How many connections the kernel queues for us.
const BACKLOG: i32 = 4096;

/// The pauses after an accept that failed for want of descriptors or memory.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long the connections that are under way to a socket that is given up have to come.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// How long those that have come to it may wait for a place.
const LAST_CALL: Duration = Duration::from_secs(10);

/// One thread's socket.
pub struct Bound {
    socket: StdListener,
    address: SocketAddr,
    /// Whether other threads, or the next process, accept on the same socket.
    shared: bool,
}

impl Bound {
    /// The address that was bound; its port is the real one where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whose the connections of a socket are. It may change while the socket accepts: an address that goes from one
/// listener to another is never given up, and no connection to it lost.
#[derive(Clone)]
pub struct Owner {
    /// The listener's rules, where the running generation has none that speak so.
    pub rules: ListenerRules,
    /// Its bound.
    pub cap: Cap,
    /// Ends its connections between requests: cancelled when it is gone or speaks otherwise.
    pub closing: CancellationToken,
}

/// A socket that is to accept.
pub struct Accepting {
    /// The socket.
    pub bound: Bound,
    /// Whose it is.
    pub owner: watch::Receiver<Owner>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Binds `address`: a socket for each of `threads`. `ours`: we have it already, or some of it.
///
/// # Errors
/// As for one [`socket`].
pub fn bind(address: SocketAddr, threads: usize, ours: bool) -> io::Result<Vec<Vec<Bound>>> {
    let first = socket(address, ours)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(socket(address, true)?);
    }
    Ok(sockets.into_iter().map(|socket| vec![Bound { socket, address, shared: false }]).collect())
}

/// Gives each of `threads` a duplicate of each of `sockets`, which came bound and listening. All
/// threads wait at the same queue, and whoever is free first takes a connection.
///
/// # Errors
/// No descriptor is left.
pub fn share(sockets: &[StdListener], threads: usize) -> io::Result<Vec<Vec<Bound>>> {
    let bound = |socket: &StdListener| {
        let (socket, address) = (socket.try_clone()?, socket.local_addr()?);
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        keepalive::watch(&socket)?;
        Ok(Bound { socket, address, shared: true })
    };
    (0..threads).map(|_| sockets.iter().map(bound).collect()).collect()
}

/// A listening socket at `address`, where others of ours may listen too; `ours`: some do.
///
/// # Errors
/// `AddrInUse` also when another process listens there with `SO_REUSEPORT`: the first
/// bind is without it, so that a second instance never silently takes a share.
pub fn socket(address: SocketAddr, ours: bool) -> io::Result<StdListener> {
    if address.port() != 0 && !ours {
        drop(bound(address, false)?);
    }
    let socket = bound(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Those that it accepts inherit both.
    socket.set_tcp_nodelay(true)?;
    keepalive::watch(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether a socket at one address is in the way of one at the other.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, of) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (ip == of || ip.is_unspecified() || of.is_unspecified())
}

/// The accept loop of one socket; ends when accepting is to stop.
///
/// # Errors
/// If the socket cannot be registered with the runtime.
pub fn accept_all(
    core: Arc<Core>,
    Accepting { bound, owner, stop }: Accepting,
) -> io::Result<impl Future<Output = ()>> {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that change their descriptor; a std listener owns the one it has"
    )]
    let socket = AsyncFd::new(bound.socket)?;
    let desk = Desk::new(&core, &owner.borrow());
    let mut door = Door { core, owner, desk, port: bound.address.port() };
    let shared = bound.shared;
    Ok(async move {
        let mut pause = Pause::default();
        loop {
            // Places only once a connection waits: else each thread would hold one for none. At a cap the queue is
            // asked, since others make room for what waits: what made it readable may have been accepted already.
            let ready = stop.run_until_cancelled(socket.readable()).await;
            let Some(Ok(mut ready)) = ready else { break };
            if door.is_full() && ready.try_io(|socket| waits(socket.get_ref())).is_err() {
                continue;
            }
            let Some(places) = stop.run_until_cancelled(door.places()).await else { break };
            match ready.try_io(|socket| accept(socket.get_ref())) {
                Err(_would_block) => {}
                Ok(Ok((stream, address))) => {
                    pause.length = FIRST_PAUSE / 2;
                    if shared {
                        inherit(&stream);
                    }
                    door.admit((stream, address), places);
                    if shared {
                        // The rest of the queue is for every thread, and this one has a connection to serve now.
                        yield_now().await;
                    }
                }
                Ok(Err(error)) if is_the_peers(&error) => {}
                Ok(Err(error)) => {
                    drop(places);
                    pause.note(&door.desk.name, &error);
                    if stop.run_until_cancelled(tokio::time::sleep(pause.length)).await.is_none() {
                        break;
                    }
                }
            }
        }
        if shared {
            // Its queue is the next process'.
            return;
        }
        let ends = door.core.shared.lifecycle.closing().clone();
        if !ends.is_cancelled() && hush(socket.get_ref()).is_ok() {
            ends.run_until_cancelled(door.clear(&socket)).await;
        }
        // What the kernel has taken for us is served; closing the socket would reset it.
        while let Some(places) =
            door.desk.owner.cap.try_place().zip(door.core.shared.total.try_place())
            && let Ok((stream, address)) = accept(socket.get_ref())
        {
            door.admit((stream, address), places);
        }
    })
}

/// From now on the kernel takes no further connection for a listening `socket`; those that are under way come. Who
/// begins meanwhile is not answered, and begins again a second later.
pub fn hush(socket: &impl AsFd) -> io::Result<()> {
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    /// Where the flags are in a TCP header (RFC 9293 §3.1), which is all that the filter sees.
    const FLAGS: u32 = 13;
    let step = |code: u32, value, otherwise| SockFilter::new(code as u16, 0, otherwise, value);
    SockRef::from(socket).attach_filter(&[
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS, 0),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, 1),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
    ])
}

/// A place under the listener's cap, and one under the process'.
type BothPlaces = (Place, Place);

/// Where connections come in: those of one socket.
struct Door {
    core: Arc<Core>,
    owner: watch::Receiver<Owner>,
    desk: Desk,
    /// The socket's.
    port: u16,
}

/// What a listener's connections are admitted with.
struct Desk {
    name: Arc<str>,
    owner: Owner,
    metrics: Arc<ListenerMetrics>,
}

impl Desk {
    fn new(core: &Core, owner: &Owner) -> Self {
        let name = Arc::clone(&owner.rules.listener.name);
        Desk { metrics: core.metrics.listener(&name), name, owner: owner.clone() }
    }
}

impl Door {
    /// Whether there is no place now.
    fn is_full(&self) -> bool {
        self.desk.owner.cap.is_full() || self.core.shared.total.is_full()
    }

    /// Waits for places for one connection, whosever it is by then.
    async fn places(&mut self) -> BothPlaces {
        loop {
            if !matches!(self.owner.has_changed(), Ok(false)) {
                self.desk = Desk::new(&self.core, &self.owner.borrow_and_update());
            }
            let (cap, total) = (&self.desk.owner.cap, &self.core.shared.total);
            let both = async { (cap.place().await, total.place().await) };
            tokio::select! {
                places = both => return places,
                Ok(()) = self.owner.changed() => self.owner.mark_changed(),
            }
        }
    }

    /// Serves those that are still under way to a socket that is given up.
    async fn clear(&mut self, socket: &AsyncFd<StdListener>) {
        let began = Instant::now();
        while let Ok(Ok(mut ready)) = timeout_at(began + UNDER_WAY, socket.readable()).await {
            let Ok(places) = timeout_at(began + LAST_CALL, self.places()).await else { return };
            match ready.try_io(|socket| accept(socket.get_ref())) {
                Ok(Ok(came)) => self.admit(came, places),
                Ok(Err(error)) if !is_the_peers(&error) => return,
                _ => {}
            }
        }
    }

    /// Hands a connection to a task of its own, unless its client has too many that wait, and none that is idle.
    fn admit(&self, (stream, address): (StdStream, SocketAddr), places: BothPlaces) {
        let (core, Desk { name, owner, metrics }) = (&self.core, &self.desk);
        let peer = Peer::new(address.ip());
        let client = Client::at(peer);
        metrics.accepted();
        let (live, now) = (core.shared.live.load(), Timestamp::now());
        let turn_away = |refusal, decisive, end| {
            core.metrics.no_route().refused(refusal);
            let party = Party { listener: name, client, peer };
            decision::turned_away(party, refusal, decisive, None, &core.cap);
            metrics.closed(end);
        };
        // Whom the baseline denies gets no TLS handshake.
        if let Some(baseline) = live.denied(client, now) {
            let refusal = Refusal::Network;
            let decisive = baseline.decisive(client, false, Err(refusal), now);
            return turn_away(refusal, decisive, ConnectionEnd::Network);
        }
        // Between the publish and the takeover the old rules hold: `closing` is that of their connections.
        let present = live
            .listeners
            .get(name)
            .filter(|rules| rules.listener.speaks == owner.rules.listener.speaks);
        let rules = present.unwrap_or(&owner.rules).clone();
        let most = rules.listener.pending_per_client;
        let Some(claim) = core.shared.pending.claim(client, most) else {
            return turn_away(Refusal::Pending, None, ConnectionEnd::Pending);
        };
        let Ok(stream) = TcpStream::from_std(stream) else {
            metrics.closed(ConnectionEnd::Client);
            return;
        };
        let (port, metrics) = (self.port, Arc::clone(metrics));
        let closing = owner.closing.clone();
        let accepted =
            Accepted { stream, peer, port, rules, metrics, places, client, claim, closing };
        // Boxed: it takes four kilobytes, and a task is moved several times before it runs and once it is over.
        core.tracker.spawn(Box::pin(connection::serve(Arc::clone(core), accepted)));
    }
}

/// Gives a connection what it would have inherited. One that came before the listening socket was
/// ours, while this process was not running, has nothing of it.
fn inherit(stream: &StdStream) {
    // Of a socket that fails this, the peer is gone already.
    let _ = stream.set_nodelay(true).and_then(|()| keepalive::watch(stream));
}

/// Whether a connection waits in the queue; `WouldBlock` means that none does.
fn waits(socket: &StdListener) -> io::Result<()> {
    let mut socket = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if ready == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Takes one connection from the queue, in one system call: it is non-blocking already.
fn accept(socket: &StdListener) -> io::Result<(StdStream, SocketAddr)> {
    let (stream, address) =
        rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let address = address
        .and_then(|address| SocketAddr::try_from(address).ok())
        .ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), address))
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
    fn note(&mut self, listener: &str, error: &io::Error) {
        self.length = (self.length * 2).min(LONGEST_PAUSE);
        if self.logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.logged = Some(Instant::now());
            tracing::error!(listener, %error, "accepting pauses: descriptors or memory are exhausted");
        }
    }
}
