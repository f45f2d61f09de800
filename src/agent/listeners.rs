//! The listeners that accept, and how they change while the agent runs: what is wanted and not there is bound before the
//! publish; what is there and no longer wanted stops accepting after it; an address that is both is not touched, even
//! where another listener gets it.
//!
//! It hands sockets to the threads of the data plane, which accept; it never accepts itself.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::addresses::{BoundAddress, BoundAddresses};
use crate::control::systemd::sockets::Sockets;
use crate::data::cap::Cap;
use crate::data::listener::{self, Accepting, Bound, Owner};
use crate::observe::metrics::Metrics;
use crate::snapshot::Live;
use crate::snapshot::listener::{Address, Listener};
use crate::sync::lock;

/// All listeners of the process.
pub struct Listeners {
    /// To each thread of the data plane.
    threads: Vec<UnboundedSender<Accepting>>,
    /// Ends all accepting.
    stop: CancellationToken,
    passed: Arc<Sockets>,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    /// Where the addresses are published.
    addresses: Arc<BoundAddresses>,
    /// `max_connections` of a listener that does not set its own.
    most: usize,
    now: Mutex<Now>,
}

/// The parts of the process that listeners read and change.
pub struct Facts {
    /// Ends all accepting.
    pub stop: CancellationToken,
    /// Sockets that systemd passed.
    pub passed: Arc<Sockets>,
    /// The running generation.
    pub live: Arc<Live>,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// Where the addresses are published.
    pub addresses: Arc<BoundAddresses>,
    /// `max_connections` of a listener that does not set its own.
    pub most: usize,
}

#[derive(Default)]
struct Now {
    open: Vec<Open>,
    /// Those that accept no longer, as long as a thread has their sockets.
    leaving: Vec<Open>,
    /// Whether the first were taken over; whoever started us tells of those.
    begun: bool,
}

/// One that accepts.
struct Open {
    listener: Arc<Listener>,
    /// One, or those of all the sockets that systemd passes under one name.
    addresses: Box<[SocketAddr]>,
    owner: watch::Sender<Owner>,
    stop: CancellationToken,
}

/// What was bound, and accepts only once it is [taken over](Listeners::take_over). Dropped, it was as if it had never been.
pub struct Prepared {
    /// All that are to accept, each with its sockets.
    next: Vec<(Arc<Listener>, Source)>,
}

/// Where the sockets of a listener come from.
enum Source {
    /// From the one with this name, itself mostly: they are not touched.
    Open(Arc<str>),
    /// They are new; a share for each thread.
    Bound(Vec<Vec<Bound>>),
}

/// A listener that cannot be had.
pub struct Unavailable {
    /// Which.
    pub listener: Arc<Listener>,
    /// Why not.
    pub error: io::Error,
}

impl Listeners {
    /// No listeners yet, for a data plane of so many `threads`. Returns the channel by which each
    /// thread receives its sockets.
    pub fn new(threads: usize, facts: Facts) -> (Arc<Self>, Vec<UnboundedReceiver<Accepting>>) {
        let Facts { stop, passed, live, metrics, addresses, most } = facts;
        let (threads, sockets) = (0..threads).map(|_| unbounded_channel()).unzip();
        let now = Mutex::default();
        let listeners = Listeners { threads, stop, passed, live, metrics, addresses, most, now };
        (Arc::new(listeners), sockets)
    }

    /// Binds what `next` has and is not there.
    ///
    /// # Errors
    /// The first that cannot be had; nothing is left behind.
    pub fn prepare(&self, next: &[Arc<Listener>]) -> Result<Prepared, Unavailable> {
        let mut now = self.lock();
        now.leaving.retain(|one| !one.owner.is_closed());
        let prepare = |listener: &Arc<Listener>| {
            let from = match source(listener, &now.open, next) {
                Some(open) => Source::Open(Arc::clone(&open.listener.name)),
                None => Source::Bound(
                    self.bind(listener, &now)
                        .map_err(|error| Unavailable { listener: Arc::clone(listener), error })?,
                ),
            };
            Ok((Arc::clone(listener), from))
        };
        Ok(Prepared { next: next.iter().map(prepare).collect::<Result<_, _>>()? })
    }

    fn bind(&self, listener: &Listener, now: &Now) -> io::Result<Vec<Vec<Bound>>> {
        match &listener.address {
            // Another process that has it is looked for; we ourselves may have it already.
            Address::Tcp(address) => {
                let mut ours = now.open.iter().chain(&now.leaving).flat_map(|one| &one.addresses);
                listener::bind(
                    *address,
                    self.threads.len(),
                    ours.any(|one| listener::overlap(*one, *address)),
                )
            }
            Address::Systemd(name) => listener::share(&self.passed.tcp(name)?, self.threads.len()),
        }
    }

    /// Has what was bound accept, and ends the accepting of what is not among it; called once the generation runs that
    /// wants it so.
    pub fn take_over(&self, Prepared { next }: Prepared) {
        let (mut now, live) = (self.lock(), self.live.load());
        let (mut open, begun) =
            (std::mem::take(&mut now.open), std::mem::replace(&mut now.begun, true));
        let caps: Vec<_> = open
            .iter()
            .map(|one| (Arc::clone(&one.listener.name), one.owner.borrow().cap.clone()))
            .collect();
        for (listener, from) in next {
            let Some(rules) = live.listeners.get(&listener.name).cloned() else { continue };
            let most = listener.max_connections.unwrap_or(self.most);
            self.metrics.connections_limit(&listener.name, Some(most));
            let known =
                caps.iter().find(|(name, _)| *name == listener.name).map(|(_, cap)| cap.clone());
            let cap = known.unwrap_or_else(|| Cap::new(most));
            cap.resize(most);
            let owner = Owner { rules, cap, closing: self.stop.child_token() };
            match from {
                Source::Open(name) => {
                    let Some(at) = open.iter().position(|one| one.listener.name == name) else {
                        continue;
                    };
                    let one = open.swap_remove(at);
                    one.hand_over(&listener, owner);
                    now.open.push(Open { listener, ..one });
                }
                Source::Bound(shares) => {
                    let one = self.begin(listener, shares, owner);
                    if begun {
                        one.tell("listening");
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
                // It holds nobody back who has come.
                gone.owner.borrow().cap.resize(usize::MAX);
            }
            gone.owner.borrow().closing.cancel();
            gone.tell("no longer listening");
            now.leaving.push(gone);
        }
        let addresses = |one: &Open| {
            let name = Arc::clone(&one.listener.name);
            let bound =
                |at: &SocketAddr| BoundAddress { listener: Arc::clone(&name), address: *at };
            one.addresses.iter().map(bound).collect::<Vec<_>>()
        };
        self.addresses.store(now.open.iter().flat_map(addresses).collect());
    }

    /// Sends each thread its share.
    fn begin(&self, listener: Arc<Listener>, shares: Vec<Vec<Bound>>, owner: Owner) -> Open {
        let (owner, stop) = (watch::Sender::new(owner), self.stop.child_token());
        let addresses: Box<[_]> = shares.iter().take(1).flatten().map(Bound::address).collect();
        for (thread, share) in self.threads.iter().zip(shares) {
            for bound in share {
                // A thread that is gone ends the process.
                let _ =
                    thread.send(Accepting { bound, owner: owner.subscribe(), stop: stop.clone() });
            }
        }
        Open { listener, addresses, owner, stop }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        lock(&self.now)
    }
}

impl Open {
    /// Gives its sockets to `listener`, of which it may be the former form. Connections that came in
    /// by another name, or to be spoken to otherwise, end between two requests.
    fn hand_over(&self, listener: &Listener, owner: Owner) {
        let former = self.owner.borrow().closing.clone();
        if (&self.listener.name, self.listener.speaks) == (&listener.name, listener.speaks) {
            self.owner.send_replace(Owner { closing: former, ..owner });
        } else {
            self.owner.send_replace(owner);
            former.cancel();
        }
    }

    fn tell(&self, what: &str) {
        for address in &self.addresses {
            tracing::info!(listener = %self.listener.name, %address, "{what}");
        }
    }
}

/// The one of `open` whose sockets `listener` gets: its own, or those of one that has its address and is not to keep it.
fn source<'o>(listener: &Listener, open: &'o [Open], next: &[Arc<Listener>]) -> Option<&'o Open> {
    let keeps = |one: &Open, next: &Listener| {
        next.name == one.listener.name && next.address == one.listener.address
    };
    let own = open.iter().find(|one| keeps(one, listener));
    // Port 0 is a port of its own each time.
    let fixed = !matches!(&listener.address, Address::Tcp(address) if address.port() == 0);
    let left = |one: &&Open| {
        one.listener.address == listener.address && !next.iter().any(|next| keeps(one, next))
    };
    own.or_else(|| open.iter().find(left).filter(|_| fixed))
}
