//! How many connections each client has that hold no tunnel and serve no permitted request.
//!
//! Shared by all threads of the data plane. At its bound a client's longest idle connection makes
//! room for the next one. The connection itself decides, on its own thread, since bytes that have
//! arrived on it win: so this table asks, and never closes anything. A client without such
//! connections has no entry.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::policy::network::{Client, ClientKey};
use crate::sync::lock;

const SHARDS: usize = 16;

/// The counts of all clients, in shards.
#[derive(Clone, Default)]
pub struct PendingConnections(Arc<PendingTable>);

#[derive(Default)]
struct PendingTable {
    shards: [Mutex<PendingShard>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct PendingShard {
    clients: HashMap<ClientKey, ClientConnections>,
    /// The number of the next connection that becomes idle.
    next: u64,
}

/// The connections of one client.
#[derive(Default)]
struct ClientConnections {
    /// How many count, idle ones included.
    counted: usize,
    /// Idle connections that have not been asked to leave, the longest idle first.
    idle: BTreeMap<u64, Arc<DisplaceSignal>>,
}

/// What a connection gets at its accept.
pub enum AdmissionClaim {
    /// Counted at once: the client was below its maximum.
    Granted(PendingGuard),
    /// Counted once another connection has left, or else refused.
    Displacing(DisplacementClaim),
}

/// A connection that is not counted yet, for which an idle one was asked to leave.
pub struct DisplacementClaim {
    pending: PendingConnections,
    key: ClientKey,
    max: usize,
    /// Closed once the other connection has left, or has stayed.
    decided: oneshot::Receiver<()>,
}

/// Counts a connection among those of its client, until dropped.
pub struct PendingGuard {
    pending: PendingConnections,
    key: ClientKey,
    max: usize,
    state: PendingState,
    /// Tells the connection that it is to leave. `None` means that it was never idle.
    signal: Option<Arc<DisplaceSignal>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PendingState {
    /// Counts against `max`, and is never asked to leave.
    Counted,
    /// Counts, and may be asked to leave; its number among the idle.
    Idle(u64),
    /// Does not count: the connection holds a tunnel, or serves a permitted request.
    Exempt,
    /// Never counts, whatever the connection does.
    Unbounded,
}

/// How an idle connection hears that it is to leave.
#[derive(Default)]
struct DisplaceSignal(Mutex<DisplaceState>);

#[derive(Default)]
struct DisplaceState {
    /// Whether the connection has a request to leave that it has not decided.
    asked: bool,
    /// Dropped with the decision. `None` means that no connection waits for it.
    claimant: Option<oneshot::Sender<()>>,
    /// Waker of the connection's task.
    waker: Option<Waker>,
}

impl PendingConnections {
    /// Claims a count for a connection of `client`, which may have `max`. `None` means that the
    /// client has that many, none of them idle.
    pub fn claim(&self, client: Client, max: usize) -> Option<AdmissionClaim> {
        self.claim_for(client.key(), max)
    }

    /// A guard that never counts, for a peer that connects for others. `key` is not entered.
    pub fn unbounded(&self, key: ClientKey) -> PendingGuard {
        let (pending, state) = (self.clone(), PendingState::Unbounded);
        PendingGuard { pending, key, max: usize::MAX, state, signal: None }
    }

    fn claim_for(&self, key: ClientKey, max: usize) -> Option<AdmissionClaim> {
        let mut shard = self.shard(key);
        let connections = shard.clients.entry(key).or_default();
        if connections.counted < max {
            connections.counted += 1;
            let pending = self.clone();
            return Some(AdmissionClaim::Granted(PendingGuard {
                pending,
                key,
                max,
                state: PendingState::Counted,
                signal: None,
            }));
        }
        // Off the list at once, so that no second newcomer asks the same connection.
        let (_, longest) = connections.idle.pop_first()?;
        let (claimant, decided) = oneshot::channel();
        // Signals under the shard's lock. Otherwise the connection could find itself off the list
        // and decide before the signal, and the claimant would wait until its deadline.
        let waker = longest.signal(Some(claimant));
        drop(shard);
        waker.into_iter().for_each(Waker::wake);
        Some(AdmissionClaim::Displacing(DisplacementClaim {
            pending: self.clone(),
            key,
            max,
            decided,
        }))
    }

    /// Locks the shard of `key`. No panic leaves a shard half changed, so a poisoned lock is as
    /// good as any.
    fn shard(&self, key: ClientKey) -> MutexGuard<'_, PendingShard> {
        let shard = self.0.hasher.hash_one(key) as usize % SHARDS;
        lock(&self.0.shards[shard])
    }
}

impl ClientConnections {
    /// Counts one more. Over `max`, asks the longest idle connection to leave, and returns the
    /// waker that tells it.
    fn count_one(&mut self, max: usize) -> Option<Waker> {
        self.counted += 1;
        if self.counted <= max {
            return None;
        }
        self.idle.pop_first().and_then(|(_, longest)| longest.signal(None))
    }
}

impl AdmissionClaim {
    /// Waits until `deadline` for an idle connection to leave. `None` means that none did.
    pub async fn wait(mut self, deadline: Instant) -> Option<PendingGuard> {
        loop {
            let asked = match self {
                AdmissionClaim::Granted(guard) => return Some(guard),
                AdmissionClaim::Displacing(asked) => asked,
            };
            // The channel only ever closes. Whether the other connection has left is in the table.
            drop(timeout_at(deadline, asked.decided).await.ok()?);
            // Another newcomer may have been faster. The claim then asks the next idle connection.
            self = asked.pending.claim_for(asked.key, asked.max)?;
        }
    }
}

impl PendingGuard {
    /// Counts no longer: the connection holds a tunnel, or serves a permitted request.
    pub fn exempt(&mut self) {
        if self.state == PendingState::Unbounded {
            return;
        }
        self.unlist();
        if mem::replace(&mut self.state, PendingState::Exempt) == PendingState::Counted {
            self.leave();
        }
    }

    /// Counts, and is idle until [`PendingGuard::set_counted`]. Wakes `cx` when the connection gets
    /// a request to leave. At the bound the longest idle connection of the client gets one, which
    /// may be this one: the caller looks at [`PendingGuard::is_displacement_pending`].
    pub fn set_idle(&mut self, cx: &mut Context<'_>) {
        if self.state == PendingState::Unbounded {
            return;
        }
        let signal = Arc::clone(self.signal.get_or_insert_default());
        // Before the connection is listed: another thread may signal as soon as it is.
        signal.register(cx.waker());
        if let PendingState::Idle(_) = self.state {
            return;
        }
        let mut shard = self.pending.shard(self.key);
        let at = shard.next;
        shard.next += 1;
        let connections = shard.clients.entry(self.key).or_default();
        // Listed before it is counted: at the bound this connection may be the one to leave.
        connections.idle.insert(at, signal);
        let waker =
            if self.state == PendingState::Exempt { connections.count_one(self.max) } else { None };
        drop(shard);
        waker.into_iter().for_each(Waker::wake);
        self.state = PendingState::Idle(at);
    }

    /// Counts, and is not idle. A request to leave that the connection has not followed is void. At
    /// the bound the longest idle connection of the client gets one. Where none is idle this one
    /// still counts, since its bytes have arrived.
    pub fn set_counted(&mut self) {
        if self.state == PendingState::Unbounded {
            return;
        }
        self.unlist();
        if mem::replace(&mut self.state, PendingState::Counted) == PendingState::Exempt {
            let mut shard = self.pending.shard(self.key);
            let waker = shard.clients.entry(self.key).or_default().count_one(self.max);
            drop(shard);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the connection has an open request to leave.
    pub fn is_displacement_pending(&self) -> bool {
        self.signal.as_ref().is_some_and(|signal| signal.lock().asked)
    }

    /// Takes the connection off the list of the idle; it still counts.
    fn unlist(&mut self) {
        let PendingState::Idle(at) = self.state else { return };
        self.state = PendingState::Counted;
        let mut shard = self.pending.shard(self.key);
        let listed = shard
            .clients
            .get_mut(&self.key)
            .is_some_and(|connections| connections.idle.remove(&at).is_some());
        drop(shard);
        // Off the list already, so it was signalled: this answers the claimant, which looks at the
        // table again.
        if let Some(signal) = self.signal.as_ref().filter(|_| !listed) {
            signal.clear();
        }
    }

    fn leave(&self) {
        let mut shard = self.pending.shard(self.key);
        let Some(connections) = shard.clients.get_mut(&self.key) else { return };
        connections.counted -= 1;
        // Off the list under the same lock: no request to leave goes to a connection that has left.
        if let PendingState::Idle(at) = self.state {
            connections.idle.remove(&at);
        }
        if connections.counted == 0 {
            shard.clients.remove(&self.key);
        }
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        if !matches!(self.state, PendingState::Exempt | PendingState::Unbounded) {
            self.leave();
        }
        // Only after `leave`: the claimant claims again as soon as this decides.
        if let Some(signal) = &self.signal {
            signal.clear();
        }
    }
}

impl DisplaceSignal {
    fn register(&self, waker: &Waker) {
        let mut rung = self.lock();
        if !rung.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            rung.waker = Some(waker.clone());
        }
    }

    /// Asks the connection to leave. Returns the waker that tells it, to be woken outside the
    /// locks.
    fn signal(&self, claimant: Option<oneshot::Sender<()>>) -> Option<Waker> {
        let mut rung = self.lock();
        rung.asked = true;
        rung.claimant = claimant;
        // A waker serves once: `set_idle` registers it again with the next poll of an idle
        // connection.
        rung.waker.take()
    }

    fn clear(&self) {
        let mut rung = self.lock();
        rung.asked = false;
        drop(rung.claimant.take());
    }

    fn lock(&self) -> MutexGuard<'_, DisplaceState> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use std::thread;
    use std::time::Duration;

    const ONE: ClientKey = ClientKey::V4(1);
    const OTHER: ClientKey = ClientKey::V6(1);

    fn guard(pending: &PendingConnections, key: ClientKey, max: usize) -> Option<PendingGuard> {
        match pending.claim_for(key, max) {
            Some(AdmissionClaim::Granted(guard)) => Some(guard),
            _ => None,
        }
    }

    /// The guard of a connection that is idle.
    fn idle(pending: &PendingConnections, key: ClientKey, max: usize) -> PendingGuard {
        let mut guard = guard(pending, key, max).unwrap();
        guard.set_idle(&mut Context::from_waker(Waker::noop()));
        guard
    }

    fn clients(pending: &PendingConnections) -> usize {
        pending.0.shards.iter().map(|shard| shard.lock().unwrap().clients.len()).sum()
    }

    async fn granted(claim: Option<AdmissionClaim>) -> Option<PendingGuard> {
        claim?.wait(Instant::now() + Duration::from_secs(10)).await
    }

    #[test]
    fn client_has_a_bound_and_no_entry_afterwards() {
        let pending = PendingConnections::default();
        let mut first = guard(&pending, ONE, 2).unwrap();
        let second = guard(&pending, ONE, 2).unwrap();
        assert!(pending.claim_for(ONE, 2).is_none());
        assert!(guard(&pending, OTHER, 2).is_some());
        first.exempt();
        first.exempt();
        let third = guard(&pending, ONE, 2).unwrap();
        assert!(pending.claim_for(ONE, 2).is_none());
        drop((first, second, third));
        assert_eq!(clients(&pending), 0);
    }

    #[test]
    fn addresses_of_one_64_share_their_bound() {
        let pending = PendingConnections::default();
        let client = |text: &str| Client::new(text.parse().unwrap());
        let _first = pending.claim(client("2001:db8::1"), 1);
        assert!(pending.claim(client("2001:db8::ffff:2"), 1).is_none());
        assert!(pending.claim(client("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn unbounded_connections_never_count() {
        let pending = PendingConnections::default();
        let mut all: Vec<_> = (0..3).map(|_| pending.unbounded(ONE)).collect();
        for guard in &mut all {
            guard.set_idle(&mut Context::from_waker(Waker::noop()));
            guard.set_counted();
            guard.exempt();
            guard.set_counted();
            assert!(!guard.is_displacement_pending());
        }
        assert_eq!(clients(&pending), 0);
        let _counted = guard(&pending, ONE, 1).unwrap();
        drop(all);
        assert!(pending.claim_for(ONE, 1).is_none());
    }

    #[tokio::test]
    async fn longest_idle_is_displaced_and_its_successor_waits() {
        let pending = PendingConnections::default();
        let (oldest, newer) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        let claim = pending.claim_for(ONE, 2);
        assert!(oldest.is_displacement_pending() && !newer.is_displacement_pending());
        let leaves = async {
            tokio::task::yield_now().await;
            drop(oldest);
        };
        let (next, ()) = tokio::join!(granted(claim), leaves);
        assert!(next.is_some() && !newer.is_displacement_pending());
    }

    #[tokio::test]
    async fn busy_connection_stays_and_the_next_idle_one_is_displaced() {
        let pending = PendingConnections::default();
        let (mut busy, free) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        let claim = pending.claim_for(ONE, 2);
        let decide = async {
            busy.set_counted();
            assert!(!busy.is_displacement_pending());
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            assert!(free.is_displacement_pending());
            drop(free);
        };
        let (next, ()) = tokio::join!(granted(claim), decide);
        assert!(next.is_some());
        assert!(pending.claim_for(ONE, 2).is_none(), "neither is idle");
    }

    #[tokio::test]
    async fn claim_is_refused_when_no_connection_leaves() {
        let pending = PendingConnections::default();
        let mut only = idle(&pending, ONE, 1);
        let claim = pending.claim_for(ONE, 1);
        only.set_counted();
        assert!(granted(claim).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn claim_is_refused_at_its_deadline() {
        let pending = PendingConnections::default();
        let silent = idle(&pending, ONE, 1);
        assert!(granted(pending.claim_for(ONE, 1)).await.is_none());
        drop(silent);
        assert_eq!(clients(&pending), 0);
    }

    #[test]
    fn connection_idle_over_the_bound_displaces_the_longest_idle() {
        let pending = PendingConnections::default();
        let mut serving = guard(&pending, ONE, 2).unwrap();
        serving.exempt();
        let (oldest, newer) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        serving.set_idle(&mut Context::from_waker(Waker::noop()));
        assert_eq!(
            [&oldest, &newer, &serving].map(PendingGuard::is_displacement_pending),
            [true, false, false]
        );
    }

    #[test]
    fn only_idle_connection_over_the_bound_is_displaced() {
        let pending = PendingConnections::default();
        let mut serving = guard(&pending, ONE, 1).unwrap();
        serving.exempt();
        let _waiting = guard(&pending, ONE, 1).unwrap();
        serving.set_idle(&mut Context::from_waker(Waker::noop()));
        assert!(serving.is_displacement_pending());
    }

    #[test]
    fn connection_with_arrived_bytes_counts_over_the_bound() {
        let pending = PendingConnections::default();
        let mut serving = guard(&pending, ONE, 1).unwrap();
        serving.exempt();
        let waiting = guard(&pending, ONE, 1).unwrap();
        serving.set_counted();
        drop(waiting);
        assert!(pending.claim_for(ONE, 1).is_none(), "it has the one seat");
    }

    #[test]
    fn counts_add_up_under_many_threads() {
        let pending = PendingConnections::default();
        thread::scope(|scope| {
            for at in 0..8_u32 {
                let pending = &pending;
                scope.spawn(move || {
                    let mut cx = Context::from_waker(Waker::noop());
                    for n in 0..5_000 {
                        let Some(mut guard) = guard(pending, ClientKey::V4((at + n) % 3), 4) else {
                            continue;
                        };
                        guard.set_idle(&mut cx);
                        match n % 4 {
                            0 => guard.set_counted(),
                            1 => guard.exempt(),
                            2 => {
                                guard.exempt();
                                guard.set_idle(&mut cx);
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
        assert_eq!(clients(&pending), 0);
    }
}
