//! The listeners that accept, and their changes while the agent runs. A listener that a reload adds
//! is bound before the publish. A listener that it removes stops accepting after it. A socket whose
//! address stays is not touched, even if another listener gets it.
//!
//! Sockets are handed to the threads of the data plane, which accept; this module never accepts.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::addresses::{BoundAddress, BoundAddresses, SocketPlace};
use crate::control::systemd::sockets::PassedSockets;
use crate::data::admission::cap::ConnectionCap;
use crate::data::listener::{self, BoundSocket, ListeningSocket, SocketHandle, SocketOwner};
use crate::inherited_sockets::{SharedSocket, SocketPurpose};
use crate::observe::metrics::Metrics;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::listener::{ListenAddress, Listener};
use crate::socket_file::{self, SocketAccess};
use crate::sync::lock;

/// All listeners of the process, and the channels that give sockets to the threads.
pub struct Listeners {
    /// Channels to the data plane's threads, one for each.
    threads: Vec<UnboundedSender<ListeningSocket>>,
    /// Cancelled when all accepting ends.
    stop: CancellationToken,
    passed: Arc<PassedSockets>,
    live: Arc<CurrentSnapshot>,
    metrics: Arc<Metrics>,
    /// Published addresses of the open listeners.
    addresses: Arc<BoundAddresses>,
    /// `max_connections` of a listener that does not set its own.
    max: usize,
    now: Mutex<ListenerSet>,
}

/// The parts of the process that listeners read and change.
pub struct ListenerDeps {
    /// Cancelled when all accepting ends.
    pub stop: CancellationToken,
    /// Sockets passed by systemd.
    pub passed: Arc<PassedSockets>,
    /// Pointer to the running generation.
    pub live: Arc<CurrentSnapshot>,
    /// Metrics, for counting connections.
    pub metrics: Arc<Metrics>,
    /// Published addresses of the open listeners.
    pub addresses: Arc<BoundAddresses>,
    /// `max_connections` of a listener that does not set its own.
    pub max: usize,
}

/// The listeners that exist now, under one lock.
#[derive(Default)]
struct ListenerSet {
    open: Vec<OpenListener>,
    /// Listeners that accept no longer, as long as a thread has their sockets.
    leaving: Vec<OpenListener>,
    /// Whether the first listeners were taken over. The log has lines of later ones only: the
    /// command that started the agent reports the first.
    begun: bool,
}

/// A listener that accepts.
struct OpenListener {
    listener: Arc<Listener>,
    /// One address, or those of all sockets that systemd passes under one name.
    addresses: Box<[SocketPlace]>,
    owner: watch::Sender<SocketOwner>,
    stop: CancellationToken,
    /// The sockets, for the next process of an upgrade.
    handles: Vec<SocketHandle>,
}

/// Sockets that are bound but not yet accepting. [`take_over`](Listeners::take_over) commits them;
/// dropping closes them.
pub struct PreparedListeners {
    /// All listeners of the next generation, each with its sockets.
    next: Vec<(Arc<Listener>, SocketSource)>,
}

/// The origin of a listener's sockets.
enum SocketSource {
    /// The open listener with this name, usually the same one; its sockets are not touched.
    Open(Arc<str>),
    /// New sockets, a share for each thread.
    Bound(Vec<Vec<BoundSocket>>),
}

/// A listener that could not be bound.
pub struct BindError {
    /// The listener that failed.
    pub listener: Arc<Listener>,
    /// The error of the bind.
    pub error: io::Error,
}

impl Listeners {
    /// Creates a value without listeners, for a data plane of so many `threads`. Returns the
    /// channel on which each thread receives its sockets.
    pub fn new(
        threads: usize,
        facts: ListenerDeps,
    ) -> (Arc<Self>, Vec<UnboundedReceiver<ListeningSocket>>) {
        let ListenerDeps { stop, passed, live, metrics, addresses, max } = facts;
        let (threads, sockets) = (0..threads).map(|_| unbounded_channel()).unzip();
        let now = Mutex::default();
        let listeners = Listeners { threads, stop, passed, live, metrics, addresses, max, now };
        (Arc::new(listeners), sockets)
    }

    /// Binds the listeners of `next` that are not open yet.
    ///
    /// # Errors
    /// The first listener that could not be bound; no socket is left behind.
    pub fn prepare(&self, next: &[Arc<Listener>]) -> Result<PreparedListeners, BindError> {
        let mut now = self.lock();
        // A closed channel means that no thread has a socket of it any more.
        now.leaving.retain(|one| !one.owner.is_closed());
        let prepare = |listener: &Arc<Listener>| {
            let from = match find_source(listener, &now.open, next) {
                Some(open) => SocketSource::Open(Arc::clone(&open.listener.name)),
                None => SocketSource::Bound(
                    self.bind(listener, &now)
                        .map_err(|error| BindError { listener: Arc::clone(listener), error })?,
                ),
            };
            Ok((Arc::clone(listener), from))
        };
        Ok(PreparedListeners { next: next.iter().map(prepare).collect::<Result<_, _>>()? })
    }

    fn bind(&self, listener: &Listener, now: &ListenerSet) -> io::Result<Vec<Vec<BoundSocket>>> {
        let threads = self.threads.len();
        match &listener.address {
            // `bind` refuses an address that another process has. It cannot check where our own
            // sockets overlap the address.
            ListenAddress::Tcp(address) => {
                let purpose = SocketPurpose::Listener((*listener.name).into());
                let inherited = self.passed.inherited().take_tcp(&purpose, *address);
                if !inherited.is_empty() {
                    return listener::adopt(inherited, threads);
                }
                let overlaps = |place: &SocketPlace| {
                    place.tcp().is_some_and(|one| listener::overlap(one, *address))
                };
                listener::bind(*address, threads, now.has(overlaps))
            }
            ListenAddress::Unix(unix) => {
                if let Some((socket, file)) = self.passed.inherited().take_unix(&unix.path)? {
                    return listener::share_unix(&socket, file, &unix.path, threads);
                }
                let group = unix.group.as_ref().map(|group| group.id);
                let access = SocketAccess { mode: unix.mode, group };
                let ours = now.has(|place| place.path() == Some(&*unix.path));
                listener::bind_unix(&unix.path, access, threads, ours)
            }
            ListenAddress::Systemd(name) => {
                let (tcp, unix) = (self.passed.tcp(name)?, self.passed.unix(name)?);
                listener::duplicate_for_threads(&tcp, &unix, threads)
            }
        }
    }

    /// Makes the prepared sockets accept, and ends accepting on all other ones. Called once the
    /// generation that wants them runs.
    pub fn take_over(&self, PreparedListeners { next }: PreparedListeners) {
        let (mut now, live) = (self.lock(), self.live.load());
        let (mut open, begun) =
            (std::mem::take(&mut now.open), std::mem::replace(&mut now.begun, true));
        // A listener that keeps its name keeps its cap, and so the count of its open connections.
        let caps: Vec<_> = open
            .iter()
            .map(|one| (Arc::clone(&one.listener.name), one.owner.borrow().cap.clone()))
            .collect();
        for (listener, from) in next {
            // Always there: the running generation was compiled from the same settings.
            let Some(rules) = live.listeners.get(&listener.name).cloned() else { continue };
            let max = listener.max_connections.unwrap_or(self.max);
            self.metrics.connections_limit(&listener.name, Some(max));
            let known =
                caps.iter().find(|(name, _)| *name == listener.name).map(|(_, cap)| cap.clone());
            let cap = known.unwrap_or_else(|| ConnectionCap::new(max));
            cap.resize(max);
            let owner = SocketOwner { rules, cap, closing: self.stop.child_token() };
            match from {
                SocketSource::Open(name) => {
                    // Always there: one reload runs at a time, so nothing has changed since
                    // `prepare`.
                    let Some(at) = open.iter().position(|one| one.listener.name == name) else {
                        continue;
                    };
                    let one = open.swap_remove(at);
                    one.hand_over(&listener, owner);
                    now.open.push(OpenListener { listener, ..one });
                }
                SocketSource::Bound(shares) => {
                    let one = self.distribute(listener, shares, owner);
                    if begun {
                        one.log("listening");
                    }
                    now.open.push(one);
                }
            }
        }
        for gone in open {
            let name = &gone.listener.name;
            gone.stop.cancel();
            if !now.open.iter().any(|one| one.listener.name == *name) {
                self.metrics.connections_limit(name, None);
                // The limit no longer holds back connections that have already arrived.
                gone.owner.borrow().cap.resize(usize::MAX);
            }
            gone.owner.borrow().closing.cancel();
            gone.log("no longer listening");
            now.leaving.push(gone);
        }
        let addresses = |one: &OpenListener| {
            let name = Arc::clone(&one.listener.name);
            let bound = |at: &SocketPlace| BoundAddress {
                listener: Arc::clone(&name),
                address: at.clone(),
            };
            one.addresses.iter().map(bound).collect::<Vec<_>>()
        };
        self.addresses.store(now.open.iter().flat_map(addresses).collect());
    }

    /// Sends each thread its share of the sockets.
    fn distribute(
        &self,
        listener: Arc<Listener>,
        shares: Vec<Vec<BoundSocket>>,
        owner: SocketOwner,
    ) -> OpenListener {
        let (owner, stop) = (watch::Sender::new(owner), self.stop.child_token());
        // The duplicates of a Unix socket share its file: the first one moves it.
        // Only now, with the new generation published: a reload that failed before has left the old
        // socket in its place.
        for bound in shares.iter().take(1).flatten() {
            if let Err(error) = bound.settle() {
                // The socket accepts all the same, but under its temporary name.
                tracing::error!(
                    listener = %listener.name,
                    address = %bound.address(),
                    %error,
                    "the socket cannot be moved to its path"
                );
            }
        }
        // All threads have duplicates of one Unix socket: that of the first suffices.
        let is_first =
            |index: usize, bound: &BoundSocket| index == 0 || bound.address().tcp().is_some();
        let numbered = shares
            .iter()
            .enumerate()
            .flat_map(|(index, share)| share.iter().map(move |one| (index, one)));
        let handles = numbered
            .filter(|(index, bound)| is_first(*index, bound))
            .map(|(_, bound)| bound.handle())
            .collect();
        let addresses: Box<[_]> =
            shares.iter().take(1).flatten().map(|one| one.address().clone()).collect();
        for (thread, share) in self.threads.iter().zip(shares) {
            for bound in share {
                // A send fails only if the thread is gone, which ends the process.
                let _ = thread.send(ListeningSocket {
                    bound,
                    owner: owner.subscribe(),
                    stop: stop.clone(),
                });
            }
        }
        OpenListener { listener, addresses, owner, stop, handles }
    }

    /// Ends accepting without a look at the queues, which the next process has as well. Called once
    /// the lifecycle says that it is released. The files of Unix sockets are not removed.
    pub fn release(&self) {
        for one in &self.lock().open {
            one.addresses.iter().filter_map(SocketPlace::path).for_each(socket_file::disown);
            one.stop.cancel();
        }
    }

    /// Duplicates of all sockets that accept now, for the next process of an upgrade.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn share(&self) -> io::Result<Vec<SharedSocket>> {
        let mut shared = Vec::new();
        for one in &self.lock().open {
            let purpose = || SocketPurpose::Listener((*one.listener.name).into());
            for handle in &one.handles {
                shared.extend(handle.share(purpose())?);
            }
        }
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, ListenerSet> {
        lock(&self.now)
    }
}

impl ListenerSet {
    /// Whether this process has a socket at such a place.
    fn has(&self, place: impl Fn(&SocketPlace) -> bool) -> bool {
        self.open.iter().chain(&self.leaving).flat_map(|one| &one.addresses).any(place)
    }
}

impl OpenListener {
    /// Gives the sockets to `listener`, which may be the same one with new settings. Connections
    /// that arrived under another name, or with another protocol, end between two requests.
    fn hand_over(&self, listener: &Listener, owner: SocketOwner) {
        let former = self.owner.borrow().closing.clone();
        let speaks = |one: &Listener| (one.protocol, one.client_certificates.is_some());
        if self.listener.name == listener.name && speaks(&self.listener) == speaks(listener) {
            self.owner.send_replace(SocketOwner { closing: former, ..owner });
        } else {
            self.owner.send_replace(owner);
            former.cancel();
        }
    }

    fn log(&self, what: &str) {
        for address in &self.addresses {
            tracing::info!(listener = %self.listener.name, %address, "{what}");
        }
    }
}

/// Finds the member of `open` whose sockets `listener` gets: its own, or those of a listener with
/// the same address that is not to keep it.
fn find_source<'o>(
    listener: &Listener,
    open: &'o [OpenListener],
    next: &[Arc<Listener>],
) -> Option<&'o OpenListener> {
    let keeps = |one: &OpenListener, next: &Listener| {
        next.name == one.listener.name && next.address == one.listener.address
    };
    let own = open.iter().find(|one| keeps(one, listener));
    // Port 0 asks for a new port each time.
    let fixed = !matches!(&listener.address, ListenAddress::Tcp(address) if address.port() == 0);
    let left = |one: &&OpenListener| {
        one.listener.address == listener.address && !next.iter().any(|next| keeps(one, next))
    };
    own.or_else(|| open.iter().find(left).filter(|_| fixed))
}
