//! One live tunnel or exchange, as the rest of the process sees it, and the orders that reach it.
//!
//! It moves no byte: a tunnel reads its orders here and carries them out itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::TunnelLimits;
use crate::policy::network::{Client, Peer};
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::snapshot::{Judgement, Permit, Snapshot};
use crate::sync::lock;
use crate::tunnels::traffic::TrafficCell;

/// An exchange of this age is a stream: it counts towards `streams` and `max_revoked`.
pub const STREAM_AGE: Duration = Duration::from_secs(5);

/// One tunnel, or one exchange in flight, as the rest of the process sees it.
pub struct Entry {
    /// Unique in this process.
    pub id: u64,
    /// Who holds it.
    pub client: Client,
    /// The other end of its socket.
    pub peer: Peer,
    /// What was asked, for judging it again.
    pub request: Request,
    /// Under which id the attempt stands in the logs of both sides.
    pub request_id: Box<str>,
    /// The subprotocol that both sides speak.
    pub subprotocol: Option<Box<str>>,
    /// When it opened.
    pub opened: Timestamp,
    /// What has passed so far.
    pub traffic: TrafficCell,
    orders: Mutex<Orders>,
    /// Whether `orders` holds something new; looked at by every poll of the tunnel.
    ordered: AtomicBool,
    /// Whether it is an exchange whose answer is a stream of events.
    has_events: AtomicBool,
}

struct Orders {
    terms: Terms,
    /// The generation that judged last.
    generation: u64,
    /// What it said, where it refused; a later one that permits takes it back.
    refused: Option<Arc<Refused>>,
    end: Option<End>,
    /// Whom to wake; kept when it is used, since the tunnel hands it over once.
    waker: Option<Waker>,
}

/// Where an attempt came from, and what it is called.
pub struct Origination {
    /// The other end of its socket.
    pub peer: Peer,
    /// Its request id.
    pub request_id: Box<str>,
    /// The subprotocol that the backend chose.
    pub subprotocol: Option<Box<str>>,
}

/// The rules of an open tunnel: those of its route, with the limits that hold for its client.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The route under which it runs.
    pub route: Arc<Route>,
    exception: Option<usize>,
}

impl Terms {
    fn new(route: &Arc<Route>, client: Client, now: Timestamp) -> Terms {
        Terms { route: Arc::clone(route), exception: route.policy.limits.exception(client, now) }
    }

    /// What the tunnel may do.
    pub fn limits(&self) -> &TunnelLimits {
        &self.route.policy.limits.share(self.exception).tunnel
    }

    fn agree(&self, other: &Terms) -> bool {
        Arc::ptr_eq(&self.route, &other.route) && self.exception == other.exception
    }
}

/// A tunnel that the generation which judged last refuses. It keeps that generation's policy in memory, for
/// as long as the tunnel takes to end.
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// By which policy; `None`: no route was found.
    pub policy: Option<Arc<Policy>>,
    /// At which time it was judged.
    pub at: Timestamp,
}

/// The last verdict on a tunnel.
pub struct Judged {
    /// The generation that judged.
    pub generation: u64,
    /// `None`: it permitted.
    pub refused: Option<Arc<Refused>>,
}

/// An order to end, from outside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No longer permitted: 1008 with the word.
    Revoke(Refusal),
    /// Shutting down: this close code.
    Drain(u16),
    /// At once, without ceremony.
    Cut,
}

impl Entry {
    /// The entry of a permitted request, which opened at this time.
    pub(super) fn new(
        id: u64,
        permit: &Permit,
        request: Request,
        from: Origination,
        opened: Timestamp,
    ) -> Entry {
        Entry {
            id,
            client: permit.client(),
            peer: from.peer,
            request,
            request_id: from.request_id,
            subprotocol: from.subprotocol,
            opened,
            traffic: TrafficCell::default(),
            orders: Mutex::new(Orders {
                terms: Terms::new(permit.route(), permit.client(), opened),
                generation: permit.generation(),
                refused: None,
                end: None,
                waker: None,
            }),
            // So that the first poll takes the terms and leaves its waker.
            ordered: AtomicBool::new(true),
            has_events: AtomicBool::new(false),
        }
    }

    /// What `snapshot` says of the request that is on its way, as it would of a new one. A plain
    /// request needs a route that forwards, too. What only a request's head or body is held to
    /// (`max_fields`, `max_body`, the rates) was settled when it came.
    pub(super) fn judge(&self, snapshot: &Snapshot, now: Timestamp) -> Judgement {
        let mut judgement = snapshot.judge(self.client, &self.request, None, now);
        let refused =
            judgement.verdict.as_ref().ok().and_then(|permit| permit.forwards(&self.request).err());
        if let Some(refusal) = refused {
            judgement.verdict = Err(refusal);
        }
        judgement
    }

    /// Judges the tunnel again. Permitted, it gets its route's present rules. The verdict of a
    /// generation older than the one that judged last changes nothing.
    /// Also says which policy's candidate would refuse it, where the policy itself permits.
    pub(super) fn rejudge(
        &self,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> (Result<(), Refusal>, Option<Arc<str>>) {
        let Judgement { verdict, policy, candidate, .. } = self.judge(snapshot, now);
        let mut orders = lock(&self.orders);
        if snapshot.generation < orders.generation {
            return (Ok(()), None);
        }
        let would_revoke = policy
            .as_ref()
            .filter(|_| verdict.is_ok() && candidate.is_some_and(|says| says.is_err()));
        let would_revoke = would_revoke.map(|policy| Arc::clone(&policy.name));
        orders.generation = snapshot.generation;
        orders.refused = verdict
            .as_ref()
            .err()
            .map(|refusal| Arc::new(Refused { refusal: *refusal, policy, at: now }));
        let permit = match verdict {
            Ok(permit) => permit,
            Err(refusal) => return (Err(refusal), None),
        };
        let terms = Terms::new(permit.route(), self.client, now);
        if !orders.terms.agree(&terms) {
            orders.terms = terms;
            self.tell(orders);
        }
        (Ok(()), would_revoke)
    }

    /// Whether the last verdict refused it, or it was ordered to end.
    pub(super) fn is_refused(&self) -> bool {
        let orders = lock(&self.orders);
        orders.refused.is_some() || orders.end.is_some()
    }

    /// Revokes it if the last reconcile still refuses it; says whether it did. The verdict is read
    /// and the order given under one lock, so that a verdict taken back meanwhile revokes nothing.
    pub fn revoke_if_refused(&self) -> bool {
        let orders = lock(&self.orders);
        let refused = orders.refused.as_ref().map(|refused| refused.refusal);
        refused.is_some_and(|refusal| self.order(orders, End::Revoke(refusal)))
    }

    /// Ends it with `code` for a drain; false if it was ordered to end before. Where the generation that
    /// judged last refuses it, it is revoked: its client has to learn that it must not come back.
    pub fn drain(&self, code: u16) -> bool {
        let orders = lock(&self.orders);
        let refused = orders.refused.as_ref().map(|refused| End::Revoke(refused.refusal));
        self.order(orders, refused.unwrap_or(End::Drain(code)))
    }

    /// Orders the tunnel to end; false if it was ordered before (only a cut overrides).
    pub fn end(&self, end: End) -> bool {
        self.order(lock(&self.orders), end)
    }

    fn order(&self, mut orders: MutexGuard<'_, Orders>, end: End) -> bool {
        if orders.end.is_some() && end != End::Cut {
            return false;
        }
        orders.end = Some(end);
        self.tell(orders);
        true
    }

    /// The order to end, if one was given.
    pub fn ordered_end(&self) -> Option<End> {
        lock(&self.orders).end
    }

    /// The answer of the exchange is a stream of events.
    pub fn has_events(&self) {
        self.has_events.store(true, Ordering::Relaxed);
    }

    /// Whether the exchange counts as a stream at the time `now`: by what it is, or by its age.
    pub fn is_stream(&self, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(self.opened)).unwrap_or_default();
        self.has_events.load(Ordering::Relaxed) || age >= STREAM_AGE
    }

    /// The rules under which it runs now.
    pub fn terms(&self) -> Terms {
        lock(&self.orders).terms.clone()
    }

    /// The route under which it runs now.
    pub fn route(&self) -> Arc<Route> {
        Arc::clone(&lock(&self.orders).terms.route)
    }

    /// The generation that judged it last.
    pub fn generation(&self) -> u64 {
        lock(&self.orders).generation
    }

    /// What the generation that judged last said.
    pub fn judged(&self) -> Judged {
        let orders = lock(&self.orders);
        Judged { generation: orders.generation, refused: orders.refused.clone() }
    }

    /// What changed since the last call: the rules, and the order to end if one was given; the
    /// first call tells all. `None`, without a lock, when nothing did. `waker` is woken at every
    /// change from then on: that of the first call, since a spawned task's never changes.
    pub fn changed(&self, waker: &Waker) -> Option<(Terms, Option<End>)> {
        if !self.ordered.load(Ordering::Acquire) {
            return None;
        }
        let mut orders = lock(&self.orders);
        self.ordered.store(false, Ordering::Relaxed);
        orders.waker.get_or_insert_with(|| waker.clone());
        Some((orders.terms.clone(), orders.end))
    }

    /// Lets the tunnel know; under the lock, so that nothing is told twice or never.
    fn tell(&self, orders: MutexGuard<'_, Orders>) {
        self.ordered.store(true, Ordering::Release);
        let waker = orders.waker.clone();
        drop(orders);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
