//! Listeners: binding, and accepting without ever waiting on a peer.
//!
//! Each thread has its own socket on the same address (`SO_REUSEPORT`), or a duplicate of a socket
//! at which all threads wait, as of Unix sockets and of those from systemd. The latter are closed
//! in the end and never shut down: their queue belongs to the next process. When a cap is reached,
//! or descriptors run out, accepting pauses and resumes; the accept loop never spins and never
//! ends.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::addresses::SocketPlace;
use crate::data::admission::cap::{CapGuards, ConnectionCap};
use crate::data::connection::{self, AcceptedConnection, Admission};
use crate::data::context::ThreadContext;
use crate::data::stream::keepalive;
use crate::data::stream::listen_socket::{Arrival, ListenSocket};
use crate::inherited_sockets::{SharedSocket, SocketPurpose};
use crate::observe::log::decision::{ConnectionRefusal, LogContext};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics};
use crate::policy::network::{Client, Peer};
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::{ListenerRules, Snapshot};
use crate::socket_file::{self, SocketAccess, SocketFile};

/// Connections that the kernel queues for each socket (listen(2)).
const BACKLOG: i32 = 4096;

/// Shortest and longest pause after an accept that failed for want of descriptors or memory.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// How long a socket that is given up waits for connections that are under way.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long connections to such a socket may wait for a place, from when it is given up.
const QUEUE_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The listening socket of one thread.
pub struct BoundSocket {
    /// Shared with [`BoundSocket::handle`] alone, which never keeps it open.
    socket: Arc<ListenSocket>,
    address: SocketPlace,
    sharing: Sharing,
}

/// Who else accepts on a socket.
#[derive(Clone)]
enum Sharing {
    /// No other thread does.
    Thread,
    /// All threads. The file is removed once none of them accepts any more.
    Process(Arc<SocketFile>),
    /// All threads, and the next process: systemd passed the socket.
    Systemd,
}

impl BoundSocket {
    /// The bound address, with the real port where 0 was configured.
    pub fn address(&self) -> &SocketPlace {
        &self.address
    }

    /// A handle to the socket for as long as its thread has it.
    pub fn handle(&self) -> SocketHandle {
        // systemd's sockets have another owner, which passes them on itself.
        let is_own = !matches!(self.sharing, Sharing::Systemd);
        let socket = if is_own { Arc::downgrade(&self.socket) } else { Weak::new() };
        SocketHandle { socket, place: self.address.clone() }
    }

    /// Renames the file of a Unix socket that was bound aside over the one in its place. The rename
    /// is atomic, so that clients always find a socket.
    ///
    /// # Errors
    /// The folder may not be written any more.
    pub fn settle(&self) -> io::Result<()> {
        match (&self.sharing, &self.address) {
            (Sharing::Process(file), SocketPlace::Unix(path)) => file.move_to(path),
            _ => Ok(()),
        }
    }
}

/// A handle that keeps no socket open: a socket that is given up has to close at once.
pub struct SocketHandle {
    socket: Weak<ListenSocket>,
    place: SocketPlace,
}

impl SocketHandle {
    /// A duplicate of the socket for the next process. `None` means that it is closed, or is not
    /// this process' own.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn share(&self, purpose: SocketPurpose) -> io::Result<Option<SharedSocket>> {
        let Some(socket) = self.socket.upgrade() else { return Ok(None) };
        let socket = socket.as_fd().try_clone_to_owned()?;
        Ok(Some(SharedSocket { purpose, place: self.place.clone(), socket }))
    }
}

/// The listener that the connections of a socket belong to. It may change while the socket accepts:
/// an address that goes from one listener to another is never given up, and no connection to it is
/// lost.
#[derive(Clone)]
pub struct SocketOwner {
    /// The listener's rules, in force where the running generation has none with the same
    /// `protocol`.
    pub rules: ListenerRules,
    /// The cap on the listener's connections.
    pub cap: ConnectionCap,
    /// Ends its connections between requests. Cancelled when the listener is gone, or its
    /// `protocol` changes.
    pub closing: CancellationToken,
}

/// A socket, and the listener that it accepts for.
pub struct ListeningSocket {
    /// The socket, bound and listening.
    pub bound: BoundSocket,
    /// The current owner, which a reload may change.
    pub owner: watch::Receiver<SocketOwner>,
    /// Cancelled when the socket is to accept no more.
    pub stop: CancellationToken,
}

/// Binds `address` once for each of `threads`. `ours` means that this process already listens there
/// with some sockets.
///
/// # Errors
/// As for one [`socket`].
pub fn bind(address: SocketAddr, threads: usize, ours: bool) -> io::Result<Vec<Vec<BoundSocket>>> {
    let first = socket(address, ours)?;
    // With port 0 the kernel has chosen a port: the other sockets bind the same one.
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(socket(address, true)?);
    }
    Ok(sockets.into_iter().map(|socket| vec![own_socket(socket, address)]).collect())
}

fn own_socket(socket: StdListener, address: SocketAddr) -> BoundSocket {
    let socket = Arc::new(ListenSocket::Tcp(socket));
    BoundSocket { socket, address: SocketPlace::Tcp(address), sharing: Sharing::Thread }
}

/// Spreads the `sockets` of the former process, all at one address, over `threads`. Every one of
/// them is accepted from, since closing it would reset the connections in its queue. Further
/// threads bind sockets of their own.
///
/// # Errors
/// As for one [`socket`].
pub fn adopt(sockets: Vec<StdListener>, threads: usize) -> io::Result<Vec<Vec<BoundSocket>>> {
    let mut shares: Vec<Vec<_>> = (0..threads).map(|_| Vec::new()).collect();
    let first = sockets.first().map(StdListener::local_addr).transpose()?;
    for (index, socket) in sockets.into_iter().enumerate() {
        let address = socket.local_addr()?;
        // Round robin: the kernel spreads clients evenly over the sockets of a port.
        shares[index % threads].push(own_socket(socket, address));
    }
    if let Some(address) = first {
        for share in shares.iter_mut().filter(|share| share.is_empty()) {
            share.push(own_socket(socket(address, true)?, address));
        }
    }
    Ok(shares)
}

/// Binds a Unix socket at `path` for `access`, and gives each of `threads` a duplicate. `ours`
/// means that this process already listens there: the new socket gets a temporary name until
/// [`settle`](BoundSocket::settle).
///
/// # Errors
/// As for [`socket_file::bind`].
pub fn bind_unix(
    path: &Arc<Path>,
    access: SocketAccess,
    threads: usize,
    ours: bool,
) -> io::Result<Vec<Vec<BoundSocket>>> {
    // Not bound over the live socket: its file would have to go first, and clients would find none
    // until the new one is bound.
    let bind = if ours { socket_file::bind_aside } else { socket_file::bind };
    let (socket, file) = bind(path, access, BACKLOG)?;
    share_unix(&socket, file, path, threads)
}

/// Gives each of `threads` a duplicate of the Unix socket at `path`, which `file` belongs to.
///
/// # Errors
/// No descriptor is left.
pub fn share_unix(
    socket: &UnixListener,
    file: SocketFile,
    path: &Arc<Path>,
    threads: usize,
) -> io::Result<Vec<Vec<BoundSocket>>> {
    let file = Arc::new(file);
    let bound = |_| {
        let socket = Arc::new(ListenSocket::Unix(socket.try_clone()?));
        let sharing = Sharing::Process(Arc::clone(&file));
        Ok(vec![BoundSocket { socket, address: SocketPlace::Unix(Arc::clone(path)), sharing }])
    };
    (0..threads).map(bound).collect()
}

/// Gives each of `threads` a duplicate of each of the sockets, which systemd passed bound and
/// listening. All threads wait at the same queue, and the first free one takes a connection.
///
/// # Errors
/// No descriptor is left.
pub fn duplicate_for_threads(
    tcp: &[StdListener],
    unix: &[UnixListener],
    threads: usize,
) -> io::Result<Vec<Vec<BoundSocket>>> {
    let share = |_| {
        let tcp = tcp.iter().map(duplicate_tcp);
        tcp.chain(unix.iter().map(duplicate_unix)).collect()
    };
    (0..threads).map(share).collect()
}

fn duplicate_tcp(socket: &StdListener) -> io::Result<BoundSocket> {
    let (socket, address) = (socket.try_clone()?, SocketPlace::Tcp(socket.local_addr()?));
    // systemd passes blocking sockets, unless the service has `NonBlocking=`.
    socket.set_nonblocking(true)?;
    // For the connections that come from now on. `set_inherited_options` serves the earlier ones.
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    keepalive::enable(&socket)?;
    let socket = Arc::new(ListenSocket::Tcp(socket));
    Ok(BoundSocket { socket, address, sharing: Sharing::Systemd })
}

fn duplicate_unix(socket: &UnixListener) -> io::Result<BoundSocket> {
    let (socket, address) = (socket.try_clone()?, socket.local_addr()?);
    socket.set_nonblocking(true)?;
    // Always there: the configuration refuses a socket that has no file.
    let path = address.as_pathname().unwrap_or(Path::new("")).into();
    let (socket, address) = (Arc::new(ListenSocket::Unix(socket)), SocketPlace::Unix(path));
    Ok(BoundSocket { socket, address, sharing: Sharing::Systemd })
}

/// Opens a listening socket at `address` that shares it with others of this process. `ours` means
/// that there are some already.
///
/// # Errors
/// `AddrInUse` also when another process listens there with `SO_REUSEPORT`: the first socket is
/// without it, so that a second instance never silently takes a share.
pub fn socket(address: SocketAddr, ours: bool) -> io::Result<StdListener> {
    // Port 0 always finds a free port.
    let is_shared = ours || address.port() == 0;
    let socket = bound(address, is_shared)?;
    // Of two processes that have bound the port at the same moment, one fails here: SO_REUSEADDR
    // covers no socket that listens.
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart may bind while connections of the last process are in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit TCP_NODELAY and the keep-alive settings.
    socket.set_tcp_nodelay(true)?;
    keepalive::enable(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether a socket at one address conflicts with a socket at the other.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, of) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (ip == of || ip.is_unspecified() || of.is_unspecified())
}

/// Returns the accept loop of one socket, which ends when accepting is to stop.
///
/// # Errors
/// The socket cannot be registered with the runtime.
pub fn accept_all(
    thread: Arc<ThreadContext>,
    ListeningSocket { bound, owner, stop }: ListeningSocket,
) -> io::Result<impl Future<Output = ()>> {
    #[expect(
        deprecated,
        reason = "its replacement is unsafe, for types that change their descriptor; a std listener owns the one it has"
    )]
    let socket = AsyncFd::new(bound.socket)?;
    let state = ListenerState::new(&thread, &owner.borrow());
    // Port 0 belongs to no client: a Unix socket has none.
    let port = bound.address.tcp().map_or(0, |address| address.port());
    let mut acceptor = Acceptor { thread, owner, state, port };
    let sharing = bound.sharing;
    let is_shared = !matches!(sharing, Sharing::Thread);
    Ok(async move {
        let mut pause = AcceptBackoff::default();
        loop {
            // Takes places only once a connection waits: otherwise each idle thread would hold one.
            // At a cap the queue is polled again before the wait for places, which makes
            // connections that discard leave: another thread may have accepted the connection that
            // made this socket readable.
            let ready = stop.run_until_cancelled(socket.readable()).await;
            let Some(Ok(mut ready)) = ready else { break };
            if acceptor.is_full() && ready.try_io(|socket| has_pending(socket.get_ref())).is_err() {
                continue;
            }
            let Some(places) = stop.run_until_cancelled(acceptor.acquire()).await else { break };
            match ready.try_io(|socket| socket.get_ref().accept()) {
                // Another thread has taken the connection, or its client has gone. The places go
                // back.
                Err(_would_block) => {}
                Ok(Ok(arrival)) => {
                    // Half of the shortest pause, since `AcceptBackoff::note` doubles it before its
                    // first use.
                    pause.length = MIN_BACKOFF / 2;
                    if matches!(sharing, Sharing::Systemd) {
                        arrival.set_inherited_options();
                    }
                    acceptor.admit(arrival, places);
                    if is_shared {
                        // Leaves the rest of the queue to all threads: this one has a connection to
                        // serve now.
                        yield_now().await;
                    }
                }
                Ok(Err(error)) if is_peer_error(&error) => {}
                // Mostly EMFILE. The connection stays in the queue and keeps the socket readable,
                // so that a loop without a pause would spin.
                Ok(Err(error)) => {
                    drop(places);
                    pause.note(&acceptor.state.name, &error);
                    if stop.run_until_cancelled(tokio::time::sleep(pause.length)).await.is_none() {
                        break;
                    }
                }
            }
        }
        acceptor.give_up(&socket, sharing).await;
    })
}

/// Makes the kernel drop every SYN for a listening `socket`; handshakes that are under way
/// complete. A client that begins meanwhile gets no answer, and tries again a second later.
pub fn drop_new_syns(socket: &impl AsFd) -> io::Result<()> {
    const TCP_SYN: u32 = 0x02;
    const TCP_ACK: u32 = 0x10;
    /// Offset of the flags in the TCP header (RFC 9293 §3.1), with which the bytes that the filter
    /// sees begin.
    const TCP_FLAGS_OFFSET: u32 = 13;
    let step = |code: u32, value, otherwise| SockFilter::new(code as u16, 0, otherwise, value);
    // A segment of which the filter keeps no byte is dropped. The ACK that completes a handshake
    // passes.
    SockRef::from(socket).attach_filter(&[
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, TCP_FLAGS_OFFSET, 0),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, TCP_SYN | TCP_ACK, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, TCP_SYN, 1),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
    ])
}

/// Admits the connections of one socket.
struct Acceptor {
    thread: Arc<ThreadContext>,
    owner: watch::Receiver<SocketOwner>,
    state: ListenerState,
    /// The local port of the socket; 0 means that it has none.
    port: u16,
}

/// What admits the connections of one listener; made anew when the owner changes.
struct ListenerState {
    name: Arc<str>,
    owner: SocketOwner,
    metrics: Arc<ListenerMetrics>,
}

impl ListenerState {
    fn new(thread: &ThreadContext, owner: &SocketOwner) -> Self {
        let name = Arc::clone(&owner.rules.listener.name);
        ListenerState { metrics: thread.metrics.listener(&name), name, owner: owner.clone() }
    }
}

impl Acceptor {
    /// Whether one of the two caps is reached at the moment.
    fn is_full(&self) -> bool {
        self.state.owner.cap.is_full() || self.thread.plane.total.is_full()
    }

    /// Waits for the places of one connection, under the caps of whichever listener owns the socket
    /// by then.
    async fn acquire(&mut self) -> CapGuards {
        loop {
            if !matches!(self.owner.has_changed(), Ok(false)) {
                self.state = ListenerState::new(&self.thread, &self.owner.borrow_and_update());
            }
            let (cap, total) = (&self.state.owner.cap, &self.thread.plane.total);
            let both = async {
                // The listener's place first: while a listener is full, its waiting threads hold no
                // place that other listeners could use.
                CapGuards { listener: cap.acquire().await, process: total.acquire().await }
            };
            tokio::select! {
                places = both => return places,
                // `changed` marks the new owner as seen. Unmarked, the next round makes the
                // listener state anew.
                Ok(()) = self.owner.changed() => self.owner.mark_changed(),
            }
        }
    }

    /// The places of one connection, if both caps have one now.
    fn try_places(&self) -> Option<CapGuards> {
        // A place under the listener's cap goes back by its drop where the process has none left.
        let listener = self.state.owner.cap.try_acquire()?;
        Some(CapGuards { listener, process: self.thread.plane.total.try_acquire()? })
    }

    /// Serves the connections that a socket has when accepting on it ends.
    async fn give_up(&mut self, socket: &AsyncFd<Arc<ListenSocket>>, sharing: Sharing) {
        // The next process has the same queue, and accepts from it.
        if self.thread.plane.lifecycle.released().is_cancelled() {
            return;
        }
        let is_unix = match sharing {
            // Not shut down, and its queue not emptied: both belong to the next process.
            Sharing::Systemd => return,
            Sharing::Thread => false,
            // The last thread that comes here removes the file, so that no client finds it.
            Sharing::Process(file) => {
                drop(file);
                true
            }
        };
        let ends = self.thread.plane.lifecycle.closing().clone();
        // A drain waits for no further connections. A reload that gives the socket up does.
        if !ends.is_cancelled() && (is_unix || drop_new_syns(socket.get_ref()).is_ok()) {
            ends.run_until_cancelled(self.drain_queue(socket)).await;
        }
        // Connections that the kernel has already accepted are served: closing the socket would
        // reset them.
        while let Some(places) = self.try_places()
            && let Ok(arrival) = socket.get_ref().accept()
        {
            self.admit(arrival, places);
        }
    }

    /// Serves connections that are still under way to a socket that is given up.
    async fn drain_queue(&mut self, socket: &AsyncFd<Arc<ListenSocket>>) {
        let began = Instant::now();
        while let Ok(Ok(mut ready)) = timeout_at(began + HANDOVER_TIMEOUT, socket.readable()).await
        {
            let Ok(places) = timeout_at(began + QUEUE_DRAIN_TIMEOUT, self.acquire()).await else {
                return;
            };
            match ready.try_io(|socket| socket.get_ref().accept()) {
                Ok(Ok(arrival)) => self.admit(arrival, places),
                Ok(Err(error)) if !is_peer_error(&error) => return,
                _ => {}
            }
        }
    }

    /// Hands a connection to a task of its own, unless it is turned away.
    fn admit(&self, arrival: Arrival, places: CapGuards) {
        let (thread, ListenerState { name, owner, metrics }) = (&self.thread, &self.state);
        let (peer, client) = (arrival.peer, Client::of_peer(arrival.peer));
        let subject = Subject { client, credentials: arrival.credentials.clone(), ingress: None };
        metrics.accepted();
        let live = thread.plane.live.load();
        // Between a publish and the takeover of the socket the old rules hold where `protocol`
        // differs: `closing` is that of their connections.
        let present = live
            .listeners
            .get(name)
            .filter(|rules| rules.listener.protocol == owner.rules.listener.protocol);
        let rules = present.unwrap_or(&owner.rules).clone();
        let Some(admission) = self.admission(&live, &rules, peer, &subject) else { return };
        // The runtime could not register the socket. The claim and the places go back by their
        // drop.
        let Ok(stream) = arrival.into_socket() else {
            metrics.closed(ConnectionEnd::Client);
            return;
        };
        let (port, metrics) = (self.port, Arc::clone(metrics));
        // Asks the kernel only where a backend is to know it.
        let endpoints = if live.names_clients { stream.endpoints().map(Box::new) } else { None };
        let closing = owner.closing.clone();
        let accepted = AcceptedConnection {
            stream,
            peer,
            credentials: subject.credentials,
            endpoints,
            port,
            rules,
            metrics,
            places,
            admission,
            closing,
        };
        // Boxed: the future takes four kilobytes, and a task is moved several times before it runs
        // and once it is over.
        thread.tracker.spawn(Box::pin(connection::serve(Arc::clone(thread), accepted)));
    }

    /// How a connection of `peer` is admitted. `None` means that it is turned away, which is
    /// booked: a ban holds or the baseline denies its client, or that client has too many connections that wait
    /// and none that is idle.
    fn admission(
        &self,
        live: &Snapshot,
        rules: &ListenerRules,
        peer: Peer,
        subject: &Subject,
    ) -> Option<Admission> {
        // The connection's own task reads the header: a peer that sends none delays no accept.
        if rules.listener.proxy_protocol.as_ref().is_some_and(|peers| peers.contains(peer)) {
            return Some(Admission::ByHeader);
        }
        // Each of its requests has a client of its own, which the baseline judges then.
        if rules.listener.forwards_others(peer) {
            return Some(Admission::Shared);
        }
        let (thread, ListenerState { name, metrics, .. }) = (&self.thread, &self.state);
        let (client, now) = (subject.client, Timestamp::now());
        let turn_away = |refused: ConnectionRefusal<'_>, end| {
            let log_context = LogContext { listener: name, client, peer, proxied: None };
            thread.refuse_connection(log_context, refused);
            metrics.closed(end);
            None
        };
        // A client that a ban holds or the baseline denies gets no TLS handshake.
        if let Some(ban) = live.bans.find(subject, now) {
            let refused = ConnectionRefusal::new(Refusal::Banned);
            let refused = ConnectionRefusal { ban: Some(&ban), ..refused };
            return turn_away(refused, ConnectionEnd::Banned);
        }
        if let Some(baseline) = live.denying_baseline(subject, now) {
            let refusal = Refusal::Network;
            let rule = baseline.deciding_rule(subject, false, Err(refusal), now);
            let refused = ConnectionRefusal { rule, ..ConnectionRefusal::new(refusal) };
            return turn_away(refused, ConnectionEnd::Network);
        }
        let max = rules.listener.pending_per_client;
        // Claimed before the task exists, so that one thread's burst cannot outrun the count.
        match thread.plane.pending.claim(client, max) {
            Some(claim) => Some(Admission::Claimed(claim)),
            None => turn_away(ConnectionRefusal::new(Refusal::Pending), ConnectionEnd::Pending),
        }
    }
}

/// Whether a connection waits in the queue; `WouldBlock` means that none does.
fn has_pending(socket: &impl AsFd) -> io::Result<()> {
    let mut socket = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if ready == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

/// Whether `error` is about the connection that was to be accepted, and not about this process
/// (accept(2)).
fn is_peer_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    // `PermissionDenied` means that a firewall forbids this connection (EPERM).
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// The back-off after failed accepts, with a log line at most once a second.
struct AcceptBackoff {
    length: Duration,
    logged: Option<Instant>,
}

impl Default for AcceptBackoff {
    fn default() -> Self {
        AcceptBackoff { length: MIN_BACKOFF / 2, logged: None }
    }
}

impl AcceptBackoff {
    fn note(&mut self, listener: &str, error: &io::Error) {
        self.length = (self.length * 2).min(MAX_BACKOFF);
        if self.logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.logged = Some(Instant::now());
            tracing::error!(listener, %error, "accepting is paused: descriptors or memory are exhausted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, TcpStream};
    use std::sync::Barrier;

    #[test]
    fn one_of_two_instances_that_start_at_once_gets_the_port() {
        for _ in 0..50 {
            let free = socket((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let together = Barrier::new(2);
            let start = || {
                together.wait();
                bind(address, 2, false)
            };
            let both = std::thread::scope(|scope| {
                [scope.spawn(start), scope.spawn(start)].map(|thread| thread.join().unwrap())
            });
            let won = both.iter().filter(|bound| bound.is_ok()).count();
            assert!(won <= 1, "both listen on {address}");
        }
    }

    #[test]
    fn connections_are_shared_by_the_sockets_of_all_threads() {
        let bound = bind((Ipv4Addr::LOCALHOST, 0).into(), 1, false).unwrap();
        let SocketPlace::Tcp(address) = *bound[0][0].address() else { panic!("no port") };
        drop(bound);
        let first = socket(address, false).unwrap();
        let second = socket(address, true).unwrap();
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let taken = [first, second].map(|one| std::iter::from_fn(|| one.accept().ok()).count());
        assert_eq!(taken.iter().sum::<usize>(), clients.len());
        assert!(taken.iter().all(|taken| *taken > 0), "{taken:?}");
    }
}
