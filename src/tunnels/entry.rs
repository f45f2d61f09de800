//! One live tunnel or exchange, as the rest of the process sees it, and the orders to it.
//!
//! An entry moves no byte: the tunnel reads its orders here and carries them out itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;
use std::time::Duration;

use jiff::Timestamp;

use crate::close::Closed;
use crate::policy::Policy;
use crate::policy::limit::TunnelLimits;
use crate::policy::network::Peer;
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::snapshot::{Judgement, Permit, Snapshot};
use crate::sync::lock;
use crate::trace_context::TraceContext;
use crate::tunnels::traffic::TrafficCell;

/// Age at which an exchange is a stream: it counts towards `streams` and `max_revoked`.
pub const MIN_STREAM_AGE: Duration = Duration::from_secs(5);

/// One tunnel, or one exchange in flight, as the rest of the process sees it.
pub struct LiveEntry {
    /// Number of the entry, unique in this process.
    pub id: u64,
    /// The client that holds it, and its credentials.
    pub subject: Subject,
    /// The address at the other end of its socket.
    pub peer: Peer,
    /// The request, kept for judging it again.
    pub request: Request,
    /// Request id of the attempt, as in the logs of both sides.
    pub request_id: Box<str>,
    /// The trace of the attempt. `None` means that it has none.
    pub trace: Option<TraceContext>,
    /// The subprotocol of the tunnel. `None` means no subprotocol.
    pub subprotocol: Option<Box<str>>,
    /// Time at which it opened.
    pub opened: Timestamp,
    /// Bytes and messages relayed so far.
    pub traffic: TrafficCell,
    /// The process that keeps it. `None` means this one.
    pub process: Option<u32>,
    /// How it has ended, for the newest process. `None` means that it has not, or that it is an
    /// exchange.
    pub ending: OnceLock<Box<TunnelEnding>>,
    orders: Mutex<EntryOrders>,
    /// Whether `orders` has changed; every poll of the tunnel reads it.
    ordered: AtomicBool,
    /// Whether this is an exchange whose answer is a stream of events.
    has_events: AtomicBool,
}

/// How a tunnel has ended.
#[derive(Debug, Clone, Copy)]
pub struct TunnelEnding {
    /// Who ended it and why, how much passed, and how long it lasted.
    pub closed: Closed,
    /// The refusal of the policy that revoked it. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

/// The state that other threads write and the tunnel's task reads.
struct EntryOrders {
    rules: TunnelRules,
    /// The generation that judged last.
    generation: u64,
    /// Version of the bans that it took into account.
    bans: u64,
    /// Its refusal, if any. A later generation that permits clears it.
    refused: Option<Arc<TunnelRefusal>>,
    end: Option<EndOrder>,
    /// Waker of the tunnel's task. Cloned for each wake-up, not taken: the tunnel registers it only
    /// once.
    waker: Option<Waker>,
}

/// Where an attempt came from, and its names in the log.
pub struct RequestSource {
    /// The address at the other end of its socket.
    pub peer: Peer,
    /// Request id, as in the log.
    pub request_id: Box<str>,
    /// The trace of the request. `None` means that it has none.
    pub trace: Option<TraceContext>,
    /// The subprotocol that the backend chose. `None` means no subprotocol.
    pub subprotocol: Option<Box<str>>,
}

/// The rules of an open tunnel: those of its route, with the limits for its client.
#[derive(Debug, Clone)]
pub struct TunnelRules {
    /// The route under which it runs.
    pub route: Arc<Route>,
    exception: Option<usize>,
}

impl TunnelRules {
    fn new(route: &Arc<Route>, subject: &Subject, now: Timestamp) -> TunnelRules {
        TunnelRules {
            route: Arc::clone(route),
            exception: route.policy.limits.exception(subject, now),
        }
    }

    /// The limits on the tunnel.
    pub fn limits(&self) -> &TunnelLimits {
        &self.route.policy.limits.share(self.exception).tunnel
    }

    fn is_same(&self, other: &TunnelRules) -> bool {
        // By identity: each generation compiles its routes anew, and a reconcile without a publish
        // finds the same route. The exception can lapse within one generation, so it is compared
        // too.
        Arc::ptr_eq(&self.route, &other.route) && self.exception == other.exception
    }
}

/// The refusal of an open tunnel by the generation that judged last. It keeps that generation's
/// policy in memory for as long as the tunnel takes to end.
pub struct TunnelRefusal {
    /// Why the tunnel is refused.
    pub refusal: Refusal,
    /// The policy that refused. `None` means that no policy did, as where no route was found.
    pub policy: Option<Arc<Policy>>,
    /// The time of the verdict.
    pub at: Timestamp,
}

/// The last verdict on a tunnel.
pub struct LatestVerdict {
    /// The generation that judged last.
    pub generation: u64,
    /// The refusal. `None` means that the tunnel is permitted.
    pub refused: Option<Arc<TunnelRefusal>>,
}

/// What becomes of a live entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It stays as it is.
    Permitted,
    /// Its revocation waits for its turn. A later verdict may withdraw it.
    Refused(Refusal),
    /// It was ordered to end.
    Ending,
}

/// How an operator closes tunnels: one order for all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseOrder {
    /// The close code that clients get.
    pub code: u16,
    /// The reason behind it, at most 123 bytes.
    pub reason: Box<str>,
}

/// An order to end, given from outside the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndOrder {
    /// No longer permitted: close code 1008 with the refusal's word.
    Revoke(Refusal),
    /// An operator closes it.
    Close(Arc<CloseOrder>),
    /// Sidegate is shutting down: this close code.
    Drain(u16),
    /// End at once, without a Close frame.
    Cut,
}

impl LiveEntry {
    /// Creates the entry of a permitted request that opened at this time.
    pub(super) fn new(
        id: u64,
        permit: &Permit,
        request: Request,
        from: RequestSource,
        opened: Timestamp,
    ) -> LiveEntry {
        LiveEntry {
            id,
            subject: permit.subject().clone(),
            peer: from.peer,
            request,
            request_id: from.request_id,
            trace: from.trace,
            subprotocol: from.subprotocol,
            opened,
            traffic: TrafficCell::default(),
            process: None,
            ending: OnceLock::new(),
            orders: Mutex::new(EntryOrders {
                rules: TunnelRules::new(permit.route(), permit.subject(), opened),
                generation: permit.generation(),
                bans: permit.bans(),
                refused: None,
                end: None,
                waker: None,
            }),
            // Set at first, so that the first poll takes the rules and registers its waker.
            ordered: AtomicBool::new(true),
            has_events: AtomicBool::new(false),
        }
    }

    /// The same entry, kept by the process `pid`.
    pub(super) fn of_process(self, pid: u32) -> LiveEntry {
        LiveEntry { process: Some(pid), ..self }
    }

    /// Judges the request of the entry under `snapshot`, like a new one. A plain request also needs
    /// a route that forwards. Checks that concern only a request's head or body (`max_fields`,
    /// `max_body`, the rates) were made when it arrived.
    pub(super) fn judge(&self, snapshot: &Snapshot, now: Timestamp) -> Judgement {
        // Without a certificate: the 421 of RFC 9110 §15.5.20 concerns the request's connection,
        // and was decided when the request came.
        snapshot.judge(&self.subject, &self.request, None, now).of_forwarded(&self.request)
    }

    /// Judges the tunnel again. If permitted, it gets its route's current rules. The verdict of a
    /// generation older than that of the last verdict changes nothing. Also returns the policy
    /// whose candidate would refuse the tunnel, if the policy itself permits it.
    pub(super) fn rejudge(
        &self,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> (Result<(), Refusal>, Option<Arc<str>>) {
        // Judged before the lock is taken: the tunnel's own polls take the same lock.
        let Judgement { verdict, policy, candidate, bans, .. } = self.judge(snapshot, now);
        let mut orders = lock(&self.orders);
        // An entering tunnel and a publish, or a ban, may judge at once: an older verdict must not
        // replace a newer.
        if snapshot.generation < orders.generation || bans < orders.bans {
            // The caller counts nothing of this tunnel: the newer pass has reported its own
            // verdict.
            return (Ok(()), None);
        }
        let would_revoke = policy
            .as_ref()
            .filter(|_| verdict.is_ok() && candidate.is_some_and(|says| says.is_err()));
        let would_revoke = would_revoke.map(|policy| Arc::clone(&policy.name));
        // Set for a refusal too: the verdict of an older pass must not clear it.
        orders.generation = snapshot.generation;
        orders.bans = bans;
        orders.refused = verdict
            .as_ref()
            .err()
            .map(|refusal| Arc::new(TunnelRefusal { refusal: *refusal, policy, at: now }));
        // A refused tunnel keeps its old rules. Its revocation may be spread over time, and a later
        // generation may still permit it.
        let permit = match verdict {
            Ok(permit) => permit,
            Err(refusal) => return (Err(refusal), None),
        };
        let rules = TunnelRules::new(permit.route(), permit.subject(), now);
        // Unchanged where a generation judges again because a list entry lapsed: such a pass wakes
        // only the tunnels whose limits change.
        if !orders.rules.is_same(&rules) {
            orders.rules = rules;
            self.notify(orders);
        }
        (Ok(()), would_revoke)
    }

    /// What the last verdict and the orders say of the entry.
    pub(super) fn standing(&self) -> Standing {
        let orders = lock(&self.orders);
        match (&orders.end, &orders.refused) {
            (Some(_), _) => Standing::Ending,
            (None, Some(refused)) => Standing::Refused(refused.refusal),
            (None, None) => Standing::Permitted,
        }
    }

    /// Whether the last verdict refused the entry, or it was ordered to end.
    pub fn is_refused(&self) -> bool {
        self.standing() != Standing::Permitted
    }

    /// Revokes the entry if the last reconcile still refuses it, and returns whether it did. The
    /// verdict is read and the order given under one lock, so that a verdict withdrawn meanwhile
    /// revokes nothing.
    pub fn revoke_if_refused(&self) -> bool {
        let orders = lock(&self.orders);
        let refused = orders.refused.as_ref().map(|refused| refused.refusal);
        refused.is_some_and(|refusal| self.order(orders, EndOrder::Revoke(refusal)))
    }

    /// Ends the entry with `code` for a drain. `false` means that it was ordered to end before. If
    /// the generation that judged last refuses it, it is revoked instead: its client has to learn
    /// that it must not reconnect.
    pub fn drain(&self, code: u16) -> bool {
        let orders = lock(&self.orders);
        let refused = orders.refused.as_ref().map(|refused| EndOrder::Revoke(refused.refusal));
        self.order(orders, refused.unwrap_or(EndOrder::Drain(code)))
    }

    /// Orders the tunnel to end. `false` means that it was ordered before (only a cut overrides).
    pub fn end(&self, end: EndOrder) -> bool {
        self.order(lock(&self.orders), end)
    }

    fn order(&self, mut orders: MutexGuard<'_, EntryOrders>, end: EndOrder) -> bool {
        // The first order holds: a tunnel sends one Close frame (RFC 6455 §5.5.1), and its code
        // cannot be taken back.
        if orders.end.is_some() && end != EndOrder::Cut {
            return false;
        }
        orders.end = Some(end);
        self.notify(orders);
        true
    }

    /// The order to end. `None` means that none was given.
    pub fn ordered_end(&self) -> Option<EndOrder> {
        lock(&self.orders).end.clone()
    }

    /// Marks the answer of the exchange as a stream of events.
    pub fn mark_event_stream(&self) {
        // Relaxed, here and at the read: the flag orders no other memory.
        self.has_events.store(true, Ordering::Relaxed);
    }

    /// Whether the answer of the exchange is a stream of events.
    pub fn has_events(&self) -> bool {
        self.has_events.load(Ordering::Relaxed)
    }

    /// Whether the exchange counts as a stream at the time `now`: by its kind or by its age.
    pub fn is_stream(&self, now: Timestamp) -> bool {
        // A negative duration means that the clock was set back: such an exchange counts as new.
        let age = Duration::try_from(now.duration_since(self.opened)).unwrap_or_default();
        self.has_events.load(Ordering::Relaxed) || age >= MIN_STREAM_AGE
    }

    /// The rules under which the entry runs now.
    pub fn rules(&self) -> TunnelRules {
        lock(&self.orders).rules.clone()
    }

    /// The route under which the entry runs now.
    pub fn route(&self) -> Arc<Route> {
        Arc::clone(&lock(&self.orders).rules.route)
    }

    /// The generation that judged last.
    pub fn generation(&self) -> u64 {
        lock(&self.orders).generation
    }

    /// The last verdict and its generation.
    pub fn latest_verdict(&self) -> LatestVerdict {
        let orders = lock(&self.orders);
        LatestVerdict { generation: orders.generation, refused: orders.refused.clone() }
    }

    /// Returns the changes since the last call: the rules, and the order to end if one was given.
    /// The first call returns everything. `None`, without taking the lock, means that nothing
    /// changed. `waker` is woken at every later change; the one of the first call is kept, since a
    /// spawned task's never changes.
    pub fn take_changes(&self, waker: &Waker) -> Option<(TunnelRules, Option<EndOrder>)> {
        if !self.ordered.load(Ordering::Acquire) {
            return None;
        }
        // The lock comes before the flag is cleared: `notify` sets it under the same lock, so a
        // change after this point sets it again.
        let mut orders = lock(&self.orders);
        // Relaxed suffices, since the lock orders this store with those of `notify`.
        self.ordered.store(false, Ordering::Relaxed);
        orders.waker.get_or_insert_with(|| waker.clone());
        Some((orders.rules.clone(), orders.end.clone()))
    }

    /// Notifies the tunnel. The flag is set under the lock, so that no change is reported twice or
    /// missed.
    fn notify(&self, orders: MutexGuard<'_, EntryOrders>) {
        self.ordered.store(true, Ordering::Release);
        // The lock is released before the wake-up: the woken task takes it at once.
        let waker = orders.waker.clone();
        drop(orders);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
