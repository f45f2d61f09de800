//! The table of live tunnels: who holds one, who may have another, and the
//! orders that reach them from outside.
//!
//! `charge` takes what a permit costs and gives a [`Slot`]; the slot enters the
//! table when the tunnel opens and leaves it on drop. It moves no byte and
//! knows no socket: a tunnel reads its orders here and carries them out itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atomic_waker::AtomicWaker;
use jiff::Timestamp;

use crate::close::Traffic;
use crate::policy::limit::{Count, Full};
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::snapshot::{Live, Permit, Snapshot};

const SHARDS: usize = 16;

/// All tunnels of the process.
pub struct Tunnels {
    live: Arc<Live>,
    shards: [Mutex<HashMap<u64, Arc<Entry>>>; SHARDS],
    next: AtomicU64,
    /// Slots that are charged, entered or not: what a drain waits for.
    slots: AtomicUsize,
    /// The close code of the drain that began; 0: none did.
    draining: AtomicUsize,
}

/// One tunnel as the rest of the process sees it.
pub struct Entry {
    /// Unique in this process.
    pub id: u64,
    /// Who holds it.
    pub client: Client,
    /// What was asked, for judging it again.
    pub request: Request,
    /// What has passed so far.
    pub traffic: TrafficCell,
    /// The last refusal given by a reconcile; a later one that permits takes it back.
    refused: Mutex<Option<Refusal>>,
    orders: Mutex<Orders>,
    /// Whether `orders` holds something new; looked at by every poll of the tunnel.
    ordered: AtomicBool,
    waker: AtomicWaker,
}

struct Orders {
    route: Arc<Route>,
    end: Option<End>,
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

/// The right to hold a tunnel: a token of the rate was taken, a place under the
/// caps is held, and both it and the table's entry are given back on drop.
pub struct Slot {
    tunnels: Arc<Tunnels>,
    permit: Permit,
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
    /// An empty table, judging under `live`.
    pub fn new(live: Arc<Live>) -> Arc<Self> {
        Arc::new(Tunnels {
            live,
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            slots: AtomicUsize::new(0),
            draining: AtomicUsize::new(0),
        })
    }

    /// Takes what an upgrade costs: a token of the client's rate, then a place
    /// under the policy's caps. The token isn't given back when a later step fails.
    pub fn charge(self: &Arc<Self>, permit: Permit) -> Result<Slot, Refusal> {
        let policy = &permit.route().policy;
        let key = permit.client().key();
        if let Some(rate) = &policy.budgets.upgrades {
            rate.take(key).map_err(|retry_after| Refusal::Rate { retry_after })?;
        }
        let counted = policy.budgets.counts.enter(key, policy.limits.per_client, policy.limits.total);
        let count = counted.map_err(|full| match full {
            Full::Client => Refusal::Connections,
            Full::Total => Refusal::Capacity,
        })?;
        // Counted before the flag is read, so that a drain either sees this slot or refuses it.
        self.slots.fetch_add(1, Ordering::SeqCst);
        let slot = Slot { tunnels: Arc::clone(self), permit, entry: None, _count: count };
        if self.is_draining() { Err(Refusal::Draining) } else { Ok(slot) }
    }

    /// Takes what a plain request costs: a token of the client's rate.
    pub fn charge_plain(&self, permit: &Permit) -> Result<(), Refusal> {
        if let Some(rate) = &permit.route().policy.budgets.requests {
            rate.take(permit.client().key()).map_err(|retry_after| Refusal::Rate { retry_after })?;
        }
        Ok(())
    }

    /// Judges every live tunnel under `snapshot` and returns those it refuses.
    /// The others get their route's new rules at once; nobody is charged.
    pub fn reconcile(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<Arc<Entry>> {
        let mut refused = Vec::new();
        for entry in self.entries() {
            if entry.rejudge(snapshot, now).is_err() {
                refused.push(entry);
            }
        }
        refused
    }

    /// From now on every charge is refused, and every tunnel that enters is
    /// ordered to end with `code`.
    pub fn drain(&self, code: u16) {
        self.draining.store(usize::from(code), Ordering::SeqCst);
    }

    /// Whether a drain began.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst) != 0
    }

    /// Every tunnel in the table now.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many tunnels are open.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots are held: open tunnels and attempts on their way to one.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::SeqCst)
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        lock(&self.shards[(id % SHARDS as u64) as usize])
    }
}

impl Slot {
    /// The permit that was charged.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Enters the table: the tunnel is open. A generation published since the
    /// permit was judged has walked the table without it, so the order is: enter
    /// first, then compare generations, and judge again if the live one moved.
    pub fn enter(&mut self, request: Request, now: Timestamp) -> Arc<Entry> {
        let tunnels = &self.tunnels;
        let entry = Arc::new(Entry {
            id: tunnels.next.fetch_add(1, Ordering::Relaxed),
            client: self.permit.client(),
            request,
            traffic: TrafficCell::default(),
            refused: Mutex::new(None),
            orders: Mutex::new(Orders { route: Arc::clone(self.permit.route()), end: None }),
            ordered: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        tunnels.shard(entry.id).insert(entry.id, Arc::clone(&entry));
        self.entry = Some(Arc::clone(&entry));

        let live = tunnels.live.load();
        if live.generation != self.permit.generation()
            && let Err(refusal) = entry.rejudge(&live, now)
        {
            entry.end(End::Revoke(refusal));
        }
        let code = tunnels.draining.load(Ordering::SeqCst);
        if code != 0 {
            entry.end(End::Drain(code as u16));
        }
        entry
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.tunnels.shard(entry.id).remove(&entry.id);
        }
        self.tunnels.slots.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Entry {
    /// Judges the tunnel again. Permitted, it gets its route's present rules.
    fn rejudge(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), Refusal> {
        let verdict = snapshot.judge(self.client, &self.request, None, now).verdict;
        *lock(&self.refused) = verdict.as_ref().err().copied();
        let permit = verdict?;
        let mut orders = lock(&self.orders);
        if !Arc::ptr_eq(&orders.route, permit.route()) {
            orders.route = Arc::clone(permit.route());
            drop(orders);
            self.wake();
        }
        Ok(())
    }

    /// Revokes it if the last reconcile still refuses it; says whether it did.
    pub fn revoke_if_refused(&self) -> bool {
        let refused = *lock(&self.refused);
        refused.is_some_and(|refusal| self.end(End::Revoke(refusal)))
    }

    /// Orders the tunnel to end; false if it was ordered before (only a cut overrides).
    pub fn end(&self, end: End) -> bool {
        let mut orders = lock(&self.orders);
        if orders.end.is_some() && end != End::Cut {
            return false;
        }
        orders.end = Some(end);
        drop(orders);
        self.wake();
        true
    }

    /// The route under which it runs now.
    pub fn route(&self) -> Arc<Route> {
        Arc::clone(&lock(&self.orders).route)
    }

    /// What changed since the last call: the rules, and the order to end if one was given.
    /// `None`, without a lock, when nothing did.
    pub fn changed(&self) -> Option<(Arc<Route>, Option<End>)> {
        if !self.ordered.load(Ordering::Acquire) {
            return None;
        }
        self.ordered.store(false, Ordering::Release);
        let orders = lock(&self.orders);
        Some((Arc::clone(&orders.route), orders.end))
    }

    /// Whom to wake when an order comes. A spawned task's waker never changes, so once is enough.
    pub fn listen(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    fn wake(&self) {
        self.ordered.store(true, Ordering::Release);
        self.waker.wake();
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

    /// Starts at nothing again: the totals stand elsewhere now.
    pub fn clear(&self) {
        for total in self.from_client.iter().chain(&self.from_backend) {
            total.store(0, Ordering::Relaxed);
        }
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
