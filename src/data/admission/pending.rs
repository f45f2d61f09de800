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

use crate::policy::network::{Client, Key};
use crate::sync::lock;

const SHARDS: usize = 16;

/// The counts of all clients, in shards.
#[derive(Clone, Default)]
pub struct Pending(Arc<Table>);

#[derive(Default)]
struct Table {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    clients: HashMap<Key, Seats>,
    /// The number of the next connection that becomes idle.
    next: u64,
}

/// The connections of one client.
#[derive(Default)]
struct Seats {
    /// How many count, idle ones included.
    counted: usize,
    /// Idle connections that have not been asked to leave, the longest idle first.
    idle: BTreeMap<u64, Arc<Bell>>,
}

/// What a connection gets at its accept.
pub enum Claim {
    /// The seat, which was free.
    Granted(Seat),
    /// A seat once another connection has left, or a refusal.
    Asked(Asked),
}

/// A connection without a seat, for which an idle one was asked to leave.
pub struct Asked {
    pending: Pending,
    key: Key,
    most: usize,
    /// Closed once the other connection has left, or has stayed.
    decided: oneshot::Receiver<()>,
}

/// A connection's seat among those of its client; given back on drop.
pub struct Seat {
    pending: Pending,
    key: Key,
    most: usize,
    standing: Standing,
    /// Tells the connection that it is to leave. `None` means that it was never idle.
    bell: Option<Arc<Bell>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Counts against `most`, and is never asked to leave.
    Counted,
    /// Counts, and may be asked to leave; its number among the idle.
    Idle(u64),
    /// Does not count: the connection holds a tunnel, or serves a permitted request.
    Free,
}

/// How an idle connection hears that it is to leave.
#[derive(Default)]
struct Bell(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    /// Whether the connection has a request to leave that it has not decided.
    asked: bool,
    /// Dropped with the decision. `None` means that no connection waits for it.
    claimant: Option<oneshot::Sender<()>>,
    /// Waker of the connection's task.
    waker: Option<Waker>,
}

impl Pending {
    /// Claims a seat for a connection of `client`, which may have `most`. `None` means that the
    /// client has that many, none of them idle.
    pub fn claim(&self, client: Client, most: usize) -> Option<Claim> {
        self.claim_by(client.key(), most)
    }

    fn claim_by(&self, key: Key, most: usize) -> Option<Claim> {
        let mut shard = self.shard(key);
        let seats = shard.clients.entry(key).or_default();
        if seats.counted < most {
            seats.counted += 1;
            let pending = self.clone();
            return Some(Claim::Granted(Seat {
                pending,
                key,
                most,
                standing: Standing::Counted,
                bell: None,
            }));
        }
        let (_, longest) = seats.idle.pop_first()?;
        let (claimant, decided) = oneshot::channel();
        // Rings under the shard's lock. Otherwise the connection could find itself off the list and
        // decide before it is rung, and the claimant would wait until its deadline.
        let waker = longest.ring(Some(claimant));
        drop(shard);
        waker.into_iter().for_each(Waker::wake);
        Some(Claim::Asked(Asked { pending: self.clone(), key, most, decided }))
    }

    /// Locks the shard of `key`. No panic leaves a shard half changed, so a poisoned lock is as
    /// good as any.
    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let shard = self.0.hasher.hash_one(key) as usize % SHARDS;
        lock(&self.0.shards[shard])
    }
}

impl Seats {
    /// Counts one more. Over `most`, asks the longest idle connection to leave, and returns the
    /// waker that tells it.
    fn count_one(&mut self, most: usize) -> Option<Waker> {
        self.counted += 1;
        if self.counted <= most {
            return None;
        }
        self.idle.pop_first().and_then(|(_, longest)| longest.ring(None))
    }
}

impl Claim {
    /// Waits until `deadline` for an idle connection to leave. `None` means that none did.
    pub async fn granted(mut self, deadline: Instant) -> Option<Seat> {
        loop {
            let asked = match self {
                Claim::Granted(seat) => return Some(seat),
                Claim::Asked(asked) => asked,
            };
            // The channel only ever closes. Whether the other connection has left is in the table.
            drop(timeout_at(deadline, asked.decided).await.ok()?);
            self = asked.pending.claim_by(asked.key, asked.most)?;
        }
    }
}

impl Seat {
    /// Counts no longer: the connection holds a tunnel, or serves a permitted request.
    pub fn release(&mut self) {
        self.unlist();
        if mem::replace(&mut self.standing, Standing::Free) == Standing::Counted {
            self.leave();
        }
    }

    /// Counts, and is idle until [`Seat::count`]. Wakes `cx` when the connection gets a request to
    /// leave. At the bound the longest idle connection of the client gets one, which may be this
    /// one: the caller looks at [`Seat::is_asked`].
    pub fn idle(&mut self, cx: &mut Context<'_>) {
        let bell = Arc::clone(self.bell.get_or_insert_default());
        // Before the seat is listed: another thread may ring as soon as it is.
        bell.attend(cx.waker());
        if let Standing::Idle(_) = self.standing {
            return;
        }
        let mut shard = self.pending.shard(self.key);
        let at = shard.next;
        shard.next += 1;
        let seats = shard.clients.entry(self.key).or_default();
        seats.idle.insert(at, bell);
        let waker = if self.standing == Standing::Free { seats.count_one(self.most) } else { None };
        drop(shard);
        waker.into_iter().for_each(Waker::wake);
        self.standing = Standing::Idle(at);
    }

    /// Counts, and is not idle. A request to leave that the connection has not followed is void. At
    /// the bound the longest idle connection of the client gets one. Where none is idle this one
    /// still counts, since its bytes have arrived.
    pub fn count(&mut self) {
        self.unlist();
        if mem::replace(&mut self.standing, Standing::Counted) == Standing::Free {
            let mut shard = self.pending.shard(self.key);
            let waker = shard.clients.entry(self.key).or_default().count_one(self.most);
            drop(shard);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether the connection has an open request to leave.
    pub fn is_asked(&self) -> bool {
        self.bell.as_ref().is_some_and(|bell| bell.lock().asked)
    }

    /// Takes the seat off the list of the idle, where it still counts.
    fn unlist(&mut self) {
        let Standing::Idle(at) = self.standing else { return };
        self.standing = Standing::Counted;
        let mut shard = self.pending.shard(self.key);
        let listed =
            shard.clients.get_mut(&self.key).is_some_and(|seats| seats.idle.remove(&at).is_some());
        drop(shard);
        // Off the list already, so it was rung: this answers the claimant, which looks at the table
        // again.
        if let Some(bell) = self.bell.as_ref().filter(|_| !listed) {
            bell.decide();
        }
    }

    fn leave(&self) {
        let mut shard = self.pending.shard(self.key);
        let Some(seats) = shard.clients.get_mut(&self.key) else { return };
        seats.counted -= 1;
        if let Standing::Idle(at) = self.standing {
            seats.idle.remove(&at);
        }
        if seats.counted == 0 {
            shard.clients.remove(&self.key);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.standing != Standing::Free {
            self.leave();
        }
        // Only after `leave`: the claimant claims again as soon as this decides.
        if let Some(bell) = &self.bell {
            bell.decide();
        }
    }
}

impl Bell {
    fn attend(&self, waker: &Waker) {
        let mut rung = self.lock();
        if !rung.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            rung.waker = Some(waker.clone());
        }
    }

    /// Asks the connection to leave. Returns the waker that tells it, to be woken outside the
    /// locks.
    fn ring(&self, claimant: Option<oneshot::Sender<()>>) -> Option<Waker> {
        let mut rung = self.lock();
        rung.asked = true;
        rung.claimant = claimant;
        rung.waker.take()
    }

    fn decide(&self) {
        let mut rung = self.lock();
        rung.asked = false;
        drop(rung.claimant.take());
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use std::thread;
    use std::time::Duration;

    const ONE: Key = Key::V4(1);
    const OTHER: Key = Key::V6(1);

    fn seat(pending: &Pending, key: Key, most: usize) -> Option<Seat> {
        match pending.claim_by(key, most) {
            Some(Claim::Granted(seat)) => Some(seat),
            _ => None,
        }
    }

    /// A seat whose connection is idle.
    fn idle(pending: &Pending, key: Key, most: usize) -> Seat {
        let mut seat = seat(pending, key, most).unwrap();
        seat.idle(&mut Context::from_waker(Waker::noop()));
        seat
    }

    fn clients(pending: &Pending) -> usize {
        pending.0.shards.iter().map(|shard| shard.lock().unwrap().clients.len()).sum()
    }

    async fn granted(claim: Option<Claim>) -> Option<Seat> {
        claim?.granted(Instant::now() + Duration::from_secs(10)).await
    }

    #[test]
    fn client_has_only_so_many_that_wait_and_no_trace_after() {
        let pending = Pending::default();
        let mut first = seat(&pending, ONE, 2).unwrap();
        let second = seat(&pending, ONE, 2).unwrap();
        assert!(pending.claim_by(ONE, 2).is_none());
        assert!(seat(&pending, OTHER, 2).is_some());
        first.release();
        first.release();
        let third = seat(&pending, ONE, 2).unwrap();
        assert!(pending.claim_by(ONE, 2).is_none());
        drop((first, second, third));
        assert_eq!(clients(&pending), 0);
    }

    #[test]
    fn addresses_of_one_64_share_their_seats() {
        let pending = Pending::default();
        let client = |text: &str| Client::new(text.parse().unwrap());
        let _first = pending.claim(client("2001:db8::1"), 1);
        assert!(pending.claim(client("2001:db8::ffff:2"), 1).is_none());
        assert!(pending.claim(client("2001:db8:0:1::1"), 1).is_some());
    }

    #[tokio::test]
    async fn longest_idle_makes_room_and_its_successor_waits_for_it() {
        let pending = Pending::default();
        let (oldest, newer) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        let claim = pending.claim_by(ONE, 2);
        assert!(oldest.is_asked() && !newer.is_asked());
        let leaves = async {
            tokio::task::yield_now().await;
            drop(oldest);
        };
        let (next, ()) = tokio::join!(granted(claim), leaves);
        assert!(next.is_some() && !newer.is_asked());
    }

    #[tokio::test]
    async fn connection_that_turns_out_busy_stays_and_the_next_is_asked() {
        let pending = Pending::default();
        let (mut busy, free) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        let claim = pending.claim_by(ONE, 2);
        let decide = async {
            busy.count();
            assert!(!busy.is_asked());
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            assert!(free.is_asked());
            drop(free);
        };
        let (next, ()) = tokio::join!(granted(claim), decide);
        assert!(next.is_some());
        assert!(pending.claim_by(ONE, 2).is_none(), "neither is idle");
    }

    #[tokio::test]
    async fn claim_is_refused_when_no_connection_leaves() {
        let pending = Pending::default();
        let mut only = idle(&pending, ONE, 1);
        let claim = pending.claim_by(ONE, 1);
        only.count();
        assert!(granted(claim).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn claim_is_refused_at_its_deadline() {
        let pending = Pending::default();
        let silent = idle(&pending, ONE, 1);
        assert!(granted(pending.claim_by(ONE, 1)).await.is_none());
        drop(silent);
        assert_eq!(clients(&pending), 0);
    }

    #[test]
    fn connection_that_becomes_idle_over_the_bound_has_the_longest_leave() {
        let pending = Pending::default();
        let mut serving = seat(&pending, ONE, 2).unwrap();
        serving.release();
        let (oldest, newer) = (idle(&pending, ONE, 2), idle(&pending, ONE, 2));
        serving.idle(&mut Context::from_waker(Waker::noop()));
        assert_eq!([&oldest, &newer, &serving].map(Seat::is_asked), [true, false, false]);
    }

    #[test]
    fn connection_that_alone_is_idle_over_the_bound_leaves_itself() {
        let pending = Pending::default();
        let mut serving = seat(&pending, ONE, 1).unwrap();
        serving.release();
        let _waiting = seat(&pending, ONE, 1).unwrap();
        serving.idle(&mut Context::from_waker(Waker::noop()));
        assert!(serving.is_asked());
    }

    #[test]
    fn connection_counts_over_the_bound_when_its_bytes_have_arrived() {
        let pending = Pending::default();
        let mut serving = seat(&pending, ONE, 1).unwrap();
        serving.release();
        let waiting = seat(&pending, ONE, 1).unwrap();
        serving.count();
        drop(waiting);
        assert!(pending.claim_by(ONE, 1).is_none(), "it has the one seat");
    }

    #[test]
    fn counts_add_up_when_many_threads_come_and_go() {
        let pending = Pending::default();
        thread::scope(|scope| {
            for at in 0..8_u32 {
                let pending = &pending;
                scope.spawn(move || {
                    let mut cx = Context::from_waker(Waker::noop());
                    for n in 0..5_000 {
                        let Some(mut seat) = seat(pending, Key::V4((at + n) % 3), 4) else {
                            continue;
                        };
                        seat.idle(&mut cx);
                        match n % 4 {
                            0 => seat.count(),
                            1 => seat.release(),
                            2 => {
                                seat.release();
                                seat.idle(&mut cx);
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
