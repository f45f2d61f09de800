//! The tables of what is live, tunnels and exchanges in flight: who holds one, who may have
//! another, and the orders that reach them from outside.
//!
//! `charge` takes what a permit costs and gives a [`Slot`]; the slot enters the
//! table when the tunnel opens and leaves it on drop. It moves no byte and
//! knows no socket: a tunnel reads its orders here and carries them out itself.

mod exchange;
mod table;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use jiff::Timestamp;

use crate::close::Traffic;
use crate::lifecycle::Lifecycle;
use crate::policy::Policy;
use crate::policy::limit::{Count, Full, Limiters, Rate, TunnelLimits};
use crate::policy::network::{Client, Key, Peer};
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::snapshot::{Judgement, Live, Permit, Snapshot};

pub use self::exchange::{Exchange, STREAM_AGE};
use self::table::Table;

/// All tunnels and all exchanges in flight of the process.
pub struct Tunnels {
    live: Arc<Live>,
    lifecycle: Arc<Lifecycle>,
    table: Table,
    exchanges: Table,
    next: AtomicU64,
    /// Slots that are charged, entered or not: what a drain waits for.
    slots: AtomicUsize,
    /// The most of them since that was last asked.
    most: AtomicUsize,
}

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

/// What came of judging all that is live again.
#[derive(Default)]
pub struct Reconciled {
    /// The tunnels that are refused, and were not before.
    pub refused: Vec<Arc<Entry>>,
    /// The exchanges in flight that are refused, and were not before.
    pub exchanges: Vec<Arc<Entry>>,
    /// How many of the others each policy's candidate would refuse.
    pub would_revoke: HashMap<Arc<str>, usize>,
}

/// What a generation would do to what is live.
#[derive(Default)]
pub struct Weight {
    /// Tunnels that are open.
    pub open: usize,
    /// Exchanges in flight that count: streams of events, and what has lasted 5 s.
    pub streams: usize,
    /// The tunnels that would be revoked, with the refusal.
    pub revoked: Vec<(Arc<Entry>, Refusal)>,
    /// The streams that would be revoked, with the refusal.
    pub revoked_streams: Vec<(Arc<Entry>, Refusal)>,
}

impl Weight {
    /// Tunnels and streams.
    pub fn all(&self) -> usize {
        self.open + self.streams
    }

    /// Tunnels and streams that would be revoked.
    pub fn all_revoked(&self) -> usize {
        self.revoked.len() + self.revoked_streams.len()
    }
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

/// The right to hold a tunnel: a token of the rate was taken, and a place under
/// the caps is held.
pub struct Slot {
    permit: Permit,
    place: Place,
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

/// What a tunnel holds while it lives: its place under the caps and its entry in
/// the table, given back on drop. The permit is not part of it: it would keep the
/// lists of the generation that judged in memory for as long.
pub struct Place {
    tunnels: Arc<Tunnels>,
    entry: Option<Arc<Entry>>,
    _count: Count,
}

/// Bytes and messages both ways. One task writes, scrapes read; so plain loads and stores do.
#[derive(Default)]
pub struct TrafficCell {
    from_client: [AtomicU64; 2],
    from_backend: [AtomicU64; 2],
}

impl Tunnels {
    /// An empty table, judging under `live` for as long as `lifecycle` lets tunnels open.
    pub fn new(live: Arc<Live>, lifecycle: Arc<Lifecycle>) -> Arc<Self> {
        Arc::new(Tunnels {
            live,
            lifecycle,
            table: Table::default(),
            exchanges: Table::default(),
            next: AtomicU64::new(1),
            slots: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Takes what an upgrade costs: a token of the client's rate, then a place
    /// under the policy's caps. The token isn't given back when a later step fails.
    pub fn charge(self: &Arc<Self>, permit: Permit) -> Result<Slot, Refusal> {
        let policy = &permit.route().policy;
        let key = permit.client().key();
        let share = policy.limits.of(permit.client(), permit.at());
        take(&policy.budgets.upgrades, share.upgrades, key)?;
        let counted = policy.budgets.counts.enter(key, share.per_client, policy.limits.total);
        let count = counted.map_err(|full| match full {
            Full::Client => Refusal::Connections,
            Full::Total => Refusal::Capacity,
        })?;
        // Counted before the flag is read, so that a drain either sees this slot or refuses it.
        let slots = self.slots.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(slots, Ordering::Relaxed);
        let place = Place { tunnels: Arc::clone(self), entry: None, _count: count };
        match self.lifecycle.closes_with() {
            Some(_) => Err(Refusal::Draining),
            None => Ok(Slot { permit, place }),
        }
    }

    /// Takes what a plain request costs: a token of the client's rate.
    pub fn charge_plain(&self, permit: &Permit) -> Result<(), Refusal> {
        let policy = &permit.route().policy;
        take(&policy.budgets.requests, policy.limits.of(permit.client(), permit.at()).requests, permit.client().key())
    }

    /// What `policy`'s candidate says of a request of which its rules said `judged`: charged to budgets of the
    /// candidate's own, and held against the tunnels that are open. `None`: there is no candidate.
    pub fn charge_candidate(
        policy: &Policy,
        client: Client,
        is_plain: bool,
        judged: Result<(), Refusal>,
        now: Timestamp,
    ) -> Option<Result<(), Refusal>> {
        let candidate = policy.candidate.as_ref()?;
        let charged = || {
            let (share, key) = (candidate.limits.of(client, now), client.key());
            if is_plain {
                return take(&candidate.budgets.requests, share.requests, key);
            }
            take(&candidate.budgets.upgrades, share.upgrades, key)?;
            // The tunnels are the policy's: it is those that the candidate would find.
            let counts = &policy.budgets.counts;
            if share.per_client.is_some_and(|most| counts.of(key) >= most) {
                return Err(Refusal::Connections);
            }
            if candidate.limits.total.is_some_and(|most| counts.total() >= most) {
                return Err(Refusal::Capacity);
            }
            Ok(())
        };
        Some(judged.and_then(|()| charged()))
    }

    /// Judges all that is live under `snapshot` and returns what it refuses, less what is about to
    /// end already. The others get their route's new rules at once; nobody is charged.
    pub fn reconcile(&self, snapshot: &Snapshot, now: Timestamp) -> Reconciled {
        let candidates = snapshot.policies.values().filter(|policy| policy.candidate.is_some());
        let would_revoke = candidates.map(|policy| (Arc::clone(&policy.name), 0)).collect();
        let mut reconciled = Reconciled { would_revoke, ..Reconciled::default() };
        for entry in self.entries() {
            let stood = !entry.is_refused();
            let (verdict, would_revoke) = entry.rejudge(snapshot, now);
            if verdict.is_err() {
                reconciled.refused.extend(stood.then_some(entry));
            } else if let Some(count) = would_revoke.and_then(|policy| reconciled.would_revoke.get_mut(&policy)) {
                *count += 1;
            }
        }
        for entry in self.exchanges() {
            let stood = !entry.is_refused();
            if entry.rejudge(snapshot, now).0.is_err() {
                reconciled.exchanges.extend(stood.then_some(entry));
            }
        }
        reconciled
    }

    /// What `snapshot` would refuse of what is live, and is not refused now. Nothing changes.
    pub fn weigh(&self, snapshot: &Snapshot, now: Timestamp) -> Weight {
        let (tunnels, mut exchanges) = (self.entries(), self.exchanges());
        exchanges.retain(|entry| entry.is_stream(now));
        let refused = |entries: &[Arc<Entry>]| -> Vec<(Arc<Entry>, Refusal)> {
            let standing = entries.iter().filter(|entry| !entry.is_refused());
            let refusal = |entry: &Arc<Entry>| {
                let verdict = snapshot.judge(entry.client, &entry.request, None, now).verdict;
                Some((Arc::clone(entry), verdict.err()?))
            };
            standing.filter_map(refusal).collect()
        };
        Weight { revoked: refused(&tunnels), revoked_streams: refused(&exchanges), open: tunnels.len(), streams: exchanges.len() }
    }

    /// Every tunnel in the table now.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.entries()
    }

    /// Every exchange in flight.
    pub fn exchanges(&self) -> Vec<Arc<Entry>> {
        self.exchanges.entries()
    }

    /// How many tunnels are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// How many exchanges are in flight.
    pub fn exchanges_len(&self) -> usize {
        self.exchanges.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots are held: open tunnels and attempts on their way to one.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::SeqCst)
    }

    /// The most slots that were held at once since this was last asked.
    pub fn take_most(&self) -> usize {
        self.most.swap(self.slots(), Ordering::Relaxed)
    }

    /// Makes the entry of a permitted request, enters it, and judges it again where the verdict
    /// may be out of date: a generation was published since, or an entry lapsed. Whoever publishes
    /// or notices the lapse walks the tables afterwards, so the order is: enter first, then look.
    fn enter(
        &self,
        table: &Table,
        permit: &Permit,
        request: Request,
        from: Origination,
        clock: impl Fn() -> Timestamp,
    ) -> Arc<Entry> {
        let opened = clock();
        let entry = Arc::new(Entry {
            id: self.next.fetch_add(1, Ordering::Relaxed),
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
            // So that the first poll asks, and leaves its waker.
            ordered: AtomicBool::new(true),
            has_events: AtomicBool::new(false),
        });
        table.insert(&entry);

        let (live, now) = (self.live.load(), clock());
        let is_outdated = live.generation != permit.generation() || live.has_lapse(permit, now);
        if is_outdated && let (Err(refusal), _) = entry.rejudge(&live, now) {
            entry.end(End::Revoke(refusal));
        }
        if let Some(code) = self.lifecycle.closes_with() {
            entry.end(End::Drain(code));
        }
        entry
    }
}

/// Takes one token of `key`'s, if its rate is limited.
fn take(limiters: &Limiters, rate: Option<Rate>, key: Key) -> Result<(), Refusal> {
    let limiter = rate.and_then(|rate| limiters.of(rate));
    limiter.map_or(Ok(()), |limiter| limiter.take(key)).map_err(|retry_after| Refusal::Rate { retry_after })
}

impl Slot {
    /// The permit that was charged.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Enters the table: the tunnel is open. `clock` tells the time, and is asked twice: before
    /// the tunnel is in the table, and after.
    pub fn enter(self, request: Request, from: Origination, clock: impl Fn() -> Timestamp) -> (Place, Arc<Entry>) {
        let Slot { permit, mut place } = self;
        let tunnels = &place.tunnels;
        let entry = tunnels.enter(&tunnels.table, &permit, request, from, clock);
        place.entry = Some(Arc::clone(&entry));
        (place, entry)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.tunnels.table.remove(entry.id);
        }
        self.tunnels.slots.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Entry {
    /// Judges the tunnel again. Permitted, it gets its route's present rules. The verdict of a
    /// generation older than the one that judged last changes nothing.
    /// Also says which policy's candidate would refuse it, where the policy itself permits.
    fn rejudge(&self, snapshot: &Snapshot, now: Timestamp) -> (Result<(), Refusal>, Option<Arc<str>>) {
        let Judgement { verdict, policy, candidate, .. } = snapshot.judge(self.client, &self.request, None, now);
        let mut orders = lock(&self.orders);
        if snapshot.generation < orders.generation {
            return (Ok(()), None);
        }
        let would_revoke = policy.as_ref().filter(|_| verdict.is_ok() && candidate.is_some_and(|says| says.is_err()));
        let would_revoke = would_revoke.map(|policy| Arc::clone(&policy.name));
        orders.generation = snapshot.generation;
        orders.refused = verdict.as_ref().err().map(|refusal| Arc::new(Refused { refusal: *refusal, policy, at: now }));
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
    fn is_refused(&self) -> bool {
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

impl TrafficCell {
    /// Adds what the client sent.
    pub fn add_from_client(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_client, bytes, messages);
    }

    /// Adds what the backend sent.
    pub fn add_from_backend(&self, bytes: u64, messages: u64) {
        Self::add(&self.from_backend, bytes, messages);
    }

    /// What came from the client, and what from the backend.
    pub fn totals(&self) -> (Traffic, Traffic) {
        let read =
            |cell: &[AtomicU64; 2]| Traffic { bytes: cell[0].load(Ordering::Relaxed), messages: cell[1].load(Ordering::Relaxed) };
        (read(&self.from_client), read(&self.from_backend))
    }

    fn add(cell: &[AtomicU64; 2], bytes: u64, messages: u64) {
        for (total, more) in cell.iter().zip([bytes, messages]) {
            total.store(total.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }
}

/// A poisoned lock guards values that are whole at every step: go on with them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use crate::lifecycle::DrainTerms;
    use crate::policy::limit::{Limits, Share};
    use crate::snapshot::tests::{client, generation, policy, request};
    use std::num::NonZeroU32;
    use std::task::Wake;

    /// A generation with one route, whose policy denies `denied` and has these limits.
    fn snapshot(number: u64, denied: &str, limits: &Limits, before: Option<&Snapshot>) -> Snapshot {
        let used = before.map(|before| &before.route_list[0].policy.budgets);
        let denied = Some(denied).filter(|denied| !denied.is_empty());
        generation(number, policy(denied.as_slice(), limits, used), None)
    }

    /// A table under generation 1, which denies nobody.
    pub fn table(limits: &Limits) -> (Arc<Tunnels>, Arc<Live>) {
        let live = Arc::new(Live::new(snapshot(1, "", limits, None)));
        (Tunnels::new(Arc::clone(&live), Lifecycle::new()), live)
    }

    /// Makes the next generation the running one, with the limits of the one before.
    pub fn publish(live: &Live, generation: u64, denied: &str) -> Arc<Snapshot> {
        let before = live.load_full();
        let next = Arc::new(snapshot(generation, denied, &before.route_list[0].policy.limits, Some(&before)));
        live.publish(Arc::clone(&next));
        next
    }

    /// Charges 192.0.2.`host`, judged by what runs.
    pub fn charge(tunnels: &Arc<Tunnels>, live: &Live, host: u8) -> Result<Slot, Refusal> {
        let permit = live.load().judge(client(host), &request("localhost"), None, Timestamp::now()).verdict?;
        tunnels.charge(permit)
    }

    /// Opens the tunnel of a slot.
    pub fn enter(slot: Slot) -> (Place, Arc<Entry>) {
        let from = Origination { peer: Peer::new([192, 0, 2, 254].into()), request_id: "abc".into(), subprotocol: None };
        slot.enter(request("localhost"), from, Timestamp::now)
    }

    fn end_of(entry: &Entry) -> Option<End> {
        entry.changed(Waker::noop()).and_then(|(_, end)| end)
    }

    const REVOKED: Option<End> = Some(End::Revoke(Refusal::Network));

    #[test]
    fn one_that_enters_after_a_reconcile_walked_the_table_is_revoked_all_the_same() {
        let (tunnels, live) = table(&Limits::default());
        let (slot, other) = (charge(&tunnels, &live, 1).unwrap(), charge(&tunnels, &live, 2).unwrap());
        let next = publish(&live, 2, "192.0.2.1");
        assert!(tunnels.reconcile(&next, Timestamp::now()).refused.is_empty(), "nobody is in the table yet");
        let ((_places, entry), (_other, stays)) = (enter(slot), enter(other));
        assert_eq!((end_of(&entry), end_of(&stays)), (REVOKED, None));
        assert!(Arc::ptr_eq(&stays.route(), &next.route_list[0]), "who stays has the present rules");
    }

    #[test]
    fn a_reconcile_finds_exactly_those_that_are_refused_now() {
        let (tunnels, live) = table(&Limits::default());
        let open: Vec<_> = (1..=9).map(|host| enter(charge(&tunnels, &live, host).unwrap())).collect();
        let next = publish(&live, 2, "192.0.2.4/31");
        let mut refused: Vec<_> = tunnels.reconcile(&next, Timestamp::now()).refused.iter().map(|entry| entry.id).collect();
        refused.sort_unstable();
        assert_eq!(refused, [open[3].1.id, open[4].1.id]);
        assert!(open[3].1.revoke_if_refused() && !open[3].1.revoke_if_refused() && !open[2].1.revoke_if_refused());
        assert_eq!((end_of(&open[3].1), end_of(&open[4].1)), (REVOKED, None), "the second one's turn has not come");
    }

    #[test]
    fn one_that_is_about_to_end_is_not_found_again() {
        let (tunnels, live) = table(&Limits::default());
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        let found = |next: &Snapshot| tunnels.reconcile(next, Timestamp::now()).refused.len();
        let denying = publish(&live, 2, "192.0.2.1");
        assert_eq!((found(&denying), found(&denying), found(&publish(&live, 3, "192.0.2.0/24"))), (1, 0, 0));
        assert_eq!((found(&publish(&live, 4, "")), found(&publish(&live, 5, "192.0.2.1"))), (0, 1));
        assert!(entry.revoke_if_refused());
        assert_eq!((found(&publish(&live, 6, "")), found(&publish(&live, 7, "192.0.2.1"))), (0, 0));
    }

    #[test]
    fn weighing_finds_whom_a_generation_would_refuse_and_changes_nothing() {
        let (tunnels, live) = table(&Limits::default());
        let open: Vec<_> = (1..=4).map(|host| enter(charge(&tunnels, &live, host).unwrap())).collect();
        tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now());
        let next = snapshot(3, "192.0.2.0/30", &Limits::default(), None);
        let Weight { open: all, revoked, .. } = tunnels.weigh(&next, Timestamp::now());
        let mut refused: Vec<_> = revoked.iter().map(|(entry, refusal)| (entry.id, refusal.word())).collect();
        refused.sort_unstable();
        assert_eq!(
            (all, refused),
            (4, vec![(open[1].1.id, "network"), (open[2].1.id, "network")]),
            "less the one that is refused anyway"
        );
        assert!(open[1..].iter().all(|(_, entry)| entry.generation() == 2 && !entry.revoke_if_refused()));
    }

    /// A table under generation 1, whose policy denies nobody, and whose candidate denies 192.0.2.1 and has these limits.
    fn beside(limits: &Limits) -> (Arc<Tunnels>, Arc<Live>) {
        let candidate = Some(Arc::new(policy(&["192.0.2.1"], limits, None)));
        let policy = Policy { candidate, ..policy(&[], &Limits::default(), None) };
        let live = Arc::new(Live::new(generation(1, policy, None)));
        (Tunnels::new(Arc::clone(&live), Lifecycle::new()), live)
    }

    /// What the candidate says of attempts, or plain requests, of these clients in turn.
    fn says(live: &Live, is_plain: bool, hosts: &[u8]) -> Vec<&'static str> {
        let live = live.load();
        let one = |host: &u8| {
            let judged = live.judge(client(*host), &request("localhost"), None, Timestamp::UNIX_EPOCH);
            let (policy, judged) = (judged.policy.unwrap(), judged.candidate.unwrap());
            let says = Tunnels::charge_candidate(&policy, client(*host), is_plain, judged, Timestamp::UNIX_EPOCH);
            says.unwrap().map_or_else(Refusal::word, |()| "")
        };
        hosts.iter().map(one).collect()
    }

    #[test]
    fn a_candidate_is_charged_to_budgets_of_its_own_and_not_for_whom_its_rules_refuse() {
        let rate = Rate { tokens: NonZeroU32::MIN, per: Duration::from_secs(3600), burst: NonZeroU32::new(2).unwrap() };
        let share = Share { upgrades: Some(rate), requests: Some(rate), ..Share::default() };
        let (_, live) = beside(&Limits { share, ..Limits::default() });
        assert_eq!(says(&live, false, &[1, 1, 1, 2, 2, 2, 3]), ["network", "network", "network", "", "", "rate", ""]);
        assert_eq!(says(&live, true, &[2, 2, 2]), ["", "", "rate"], "plain requests have a rate of their own");
        let policy = &live.load().route_list[0].policy;
        let keys = |policy: &Policy| policy.budgets.upgrades.iter().map(|limiter| limiter.keys()).sum::<usize>();
        assert_eq!((keys(policy), keys(policy.candidate.as_ref().unwrap())), (0, 2));
    }

    #[test]
    fn a_candidate_counts_the_tunnels_that_are_open_under_its_policy() {
        let (tunnels, live) = beside(&limits(None, Some(1), Some(2)));
        assert_eq!(says(&live, false, &[2, 2, 3]), ["", "", ""], "none is open");
        let _two = enter(charge(&tunnels, &live, 2).unwrap());
        assert_eq!(says(&live, false, &[2, 3]), ["connections", ""]);
        let _three = enter(charge(&tunnels, &live, 3).unwrap());
        assert_eq!((says(&live, false, &[3, 4]), says(&live, true, &[2])), (vec!["connections", "capacity"], vec![""]));
        assert_eq!(live.load().route_list[0].policy.budgets.counts.total(), 2, "nothing was taken");
    }

    #[test]
    fn a_reconcile_counts_whom_a_candidate_would_revoke_and_revokes_none_of_them() {
        let (tunnels, live) = beside(&Limits::default());
        let open = [1, 1, 2].map(|host| enter(charge(&tunnels, &live, host).unwrap()));
        let Reconciled { refused, would_revoke, .. } = tunnels.reconcile(&live.load(), Timestamp::now());
        assert_eq!((refused.len(), would_revoke), (0, HashMap::from([("chat".into(), 2)])));
        assert!(open.iter().all(|(_, entry)| !entry.revoke_if_refused()));
        assert!(tunnels.reconcile(&publish(&live, 2, ""), Timestamp::now()).would_revoke.is_empty(), "without a candidate");
    }

    #[test]
    fn the_limits_of_a_tunnel_are_its_clients_own_and_may_change_with_the_time() {
        let line = "192.0.2.1 expires=2026-12-31T00:00:00Z";
        let clients = vec![Arc::clone(&policy(&[line], &Limits::default(), None).deny[0])];
        let idle = |seconds| TunnelLimits { idle: Some(Duration::from_secs(seconds)), ..TunnelLimits::default() };
        let share = |seconds| Share { tunnel: idle(seconds), ..Share::default() };
        let exceptions = [crate::policy::limit::Exception { clients, share: share(9), line: 1 }].into();
        let (tunnels, live) = table(&Limits { share: share(1), exceptions, ..Limits::default() });
        let at = |time: &str| time.parse::<Timestamp>().unwrap();
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        for (time, seconds) in [("2026-12-30T23:59:59Z", 9), ("2026-12-31T00:00:00Z", 1)] {
            tunnels.reconcile(&live.load(), at(time));
            assert_eq!(*entry.terms().limits(), idle(seconds), "{time}");
            assert!(entry.changed(Waker::noop()).is_some(), "the tunnel is told");
        }
    }

    #[test]
    fn one_that_a_later_generation_permits_again_before_its_turn_is_left_alone() {
        let (tunnels, live) = table(&Limits::default());
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        assert_eq!(tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now()).refused.len(), 1);
        assert!(tunnels.reconcile(&publish(&live, 3, ""), Timestamp::now()).refused.is_empty());
        assert!(!entry.revoke_if_refused());
    }

    #[test]
    fn the_verdict_of_an_older_generation_changes_nothing() {
        let (tunnels, live) = table(&Limits::default());
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        let (older, newer) = (publish(&live, 2, "192.0.2.1"), publish(&live, 3, ""));
        tunnels.reconcile(&newer, Timestamp::now());
        assert!(tunnels.reconcile(&older, Timestamp::now()).refused.is_empty());
        assert!(!entry.revoke_if_refused() && Arc::ptr_eq(&entry.route(), &newer.route_list[0]));
    }

    #[test]
    fn every_order_wakes_the_tunnel_and_not_only_the_first() {
        #[derive(Default)]
        struct Woken(AtomicUsize);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (tunnels, live) = table(&Limits::default());
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(entry.changed(&waker).is_some(), "the first call tells all");
        for generation in 2..5 {
            assert!(entry.changed(&waker).is_none());
            tunnels.reconcile(&publish(&live, generation, ""), Timestamp::now());
            assert_eq!(woken.0.load(Ordering::SeqCst) as u64, generation - 1);
            assert!(entry.changed(&waker).is_some());
        }
        entry.end(End::Cut);
        assert_eq!((woken.0.load(Ordering::SeqCst), end_of(&entry)), (4, Some(End::Cut)));
    }

    #[test]
    fn a_tunnel_keeps_nothing_of_a_generation_that_is_gone() {
        let (tunnels, live) = table(&Limits::default());
        let first = Arc::downgrade(&live.load().route_list[0]);
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        tunnels.reconcile(&publish(&live, 2, ""), Timestamp::now());
        assert!(entry.changed(Waker::noop()).is_some());
        assert!(first.upgrade().is_none(), "lists of an old generation would stay in memory with it");
    }

    /// With `limits`, what charging says to these clients in turn while all that were charged hold their slots.
    fn limits(upgrades: Option<Rate>, per_client: Option<u32>, total: Option<u32>) -> Limits {
        Limits { share: Share { upgrades, per_client, ..Share::default() }, total, ..Limits::default() }
    }

    fn check(limits: &Limits, clients: &[(u8, Result<(), &str>)]) {
        let (tunnels, live) = table(limits);
        let mut slots = Vec::new();
        for (host, says) in clients {
            let charged = charge(&tunnels, &live, *host);
            assert_eq!(charged.as_ref().map(|_| ()).map_err(|refusal| refusal.word()), *says);
            slots.extend(charged);
            assert_eq!(tunnels.slots(), slots.len(), "who is refused holds nothing");
        }
        drop(slots);
        assert_eq!((tunnels.slots(), live.load().route_list[0].policy.budgets.counts.total()), (0, 0));
    }

    #[test]
    fn the_rate_is_asked_before_the_client_s_places_and_those_before_the_total() {
        let rate = Rate { tokens: NonZeroU32::MIN, per: Duration::from_secs(3600), burst: NonZeroU32::new(2).unwrap() };
        check(&limits(None, Some(1), None), &[(1, Ok(())), (1, Err("connections")), (2, Ok(()))]);
        check(&limits(None, None, Some(1)), &[(1, Ok(())), (2, Err("capacity"))]);
        let all = limits(Some(rate), Some(1), Some(1));
        check(&all, &[(1, Ok(())), (1, Err("connections")), (1, Err("rate")), (2, Err("capacity"))]);
    }

    #[test]
    fn a_place_is_given_back_and_the_table_left_on_drop() {
        let (tunnels, live) = table(&limits(None, None, Some(1)));
        let (place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        assert_eq!((tunnels.len(), tunnels.slots()), (1, 1));
        assert!(Arc::ptr_eq(&tunnels.entries()[0], &entry));
        drop(place);
        assert!(tunnels.is_empty() && tunnels.slots() == 0);
        assert_eq!([tunnels.take_most(), tunnels.take_most()], [1, 0], "what was there between two looks is seen");
        assert!(charge(&tunnels, &live, 1).is_ok());
    }

    #[test]
    fn a_drain_refuses_who_comes_and_ends_who_was_on_the_way() {
        let (tunnels, live) = table(&Limits::default());
        let (slot, (_place, entry)) = (charge(&tunnels, &live, 1).unwrap(), enter(charge(&tunnels, &live, 1).unwrap()));
        let delay = Duration::ZERO;
        tunnels.lifecycle.drain(DrainTerms { delay, deadline: delay, code: 1012 });
        tunnels.lifecycle.close();
        assert_eq!(charge(&tunnels, &live, 1).err(), Some(Refusal::Draining));
        assert_eq!((end_of(&enter(slot).1), end_of(&entry)), (Some(End::Drain(1012)), None));
    }

    #[test]
    fn the_first_order_holds_and_only_a_cut_overrides() {
        let (tunnels, live) = table(&Limits::default());
        let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
        assert!(entry.end(End::Revoke(Refusal::Network)) && !entry.end(End::Drain(1001)));
        assert_eq!(end_of(&entry), REVOKED);
        assert!(entry.end(End::Cut));
        assert_eq!(end_of(&entry), Some(End::Cut));
    }
}
