//! Limits the connections of a listener. If all places are taken, a stuck connection makes room for
//! the next one.
//!
//! A connection is stuck while no request of it is being answered: the request has not arrived, or
//! the caller doesn't read the answer. This module answers nothing itself.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use std::future::poll_fn;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::policy::network::ClientKey;
use crate::sync::lock;

/// Pause after a failed accept (mostly because no descriptors are left).
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Least time that a connection keeps its place.
const MIN_HOLD: Duration = Duration::from_millis(100);

/// The places of one listener.
pub struct EvictingCap {
    max: usize,
    table: Mutex<EvictionTable>,
    freed: Notify,
}

#[derive(Default)]
struct EvictionTable {
    next: u64,
    taken: BTreeMap<u64, HeldConnection>,
}

/// State of a taken place.
struct HeldConnection {
    /// The peer that holds it. `None` means that its listener cannot tell.
    peer: Option<ClientKey>,
    /// Since when it is stuck. `None` means that it is being answered.
    stuck: Option<Instant>,
    leave: CancellationToken,
}

/// A connection's place; given back on drop.
pub struct ConnectionGuard {
    cap: Arc<EvictingCap>,
    id: u64,
    leave: CancellationToken,
}

/// Marks that a request is being answered, until dropped.
pub struct BusyGuard<'p>(&'p ConnectionGuard);

impl EvictingCap {
    /// Creates places for `max` connections.
    pub fn new(max: usize) -> Arc<EvictingCap> {
        Arc::new(EvictingCap { max, table: Mutex::default(), freed: Notify::new() })
    }

    /// Waits for a place for a connection of `peer`.
    async fn acquire(self: &Arc<Self>, peer: Option<ClientKey>) -> ConnectionGuard {
        loop {
            // `notify_one` keeps a permit, so a place that is freed before the await below isn't
            // missed.
            let freed = self.freed.notified();
            let until = match self.try_acquire(peer) {
                Ok(place) => return place,
                Err(until) => until,
            };
            tokio::select! {
                () = freed => {}
                // `select!` builds the future of a disabled branch too, so it needs some instant.
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Takes a place for a connection of `peer`: a free one, or that of a stuck connection.
    ///
    /// # Errors
    /// All places are taken. The error is the time at which one may have been stuck for long
    /// enough; `None` means that all are being answered.
    fn try_acquire(
        self: &Arc<Self>,
        peer: Option<ClientKey>,
    ) -> Result<ConnectionGuard, Option<Instant>> {
        let mut table = self.lock();
        if table.taken.len() >= self.max {
            let stuck = table.eviction_candidate(Instant::now())?;
            if let Some(taken) = table.taken.remove(&stuck) {
                // The evicted task ends later. Its guard then finds its id gone, and so cannot free
                // the place of its successor.
                taken.leave.cancel();
            }
        }
        // A connection is stuck from its start: an accept without a request earns no lasting place.
        let (id, leave) = (table.next, CancellationToken::new());
        table.next += 1;
        table
            .taken
            .insert(id, HeldConnection { peer, stuck: Some(Instant::now()), leave: leave.clone() });
        Ok(ConnectionGuard { cap: Arc::clone(self), id, leave })
    }

    fn lock(&self) -> MutexGuard<'_, EvictionTable> {
        lock(&self.table)
    }
}

impl EvictionTable {
    /// The stuck connection that loses its place: the oldest one of the peer that holds most
    /// places.
    fn eviction_candidate(&self, now: Instant) -> Result<u64, Option<Instant>> {
        let mut held: HashMap<Option<ClientKey>, usize> = HashMap::new();
        for taken in self.taken.values() {
            *held.entry(taken.peer).or_default() += 1;
        }
        let stuck = self
            .taken
            .iter()
            .filter_map(|(id, taken)| Some((id, taken.peer, taken.stuck? + MIN_HOLD)));
        let over = stuck.clone().filter(|(_, _, until)| *until <= now);
        // `max_by_key` returns the last of equal elements: reversed, that is the oldest.
        let chosen = over.rev().max_by_key(|(_, peer, _)| held.get(peer).copied());
        chosen.map(|(id, ..)| *id).ok_or_else(|| stuck.map(|(_, _, until)| until).min())
    }
}

impl ConnectionGuard {
    /// Marks that a request is being answered. Until the mark is dropped, the connection keeps its
    /// place.
    pub fn mark_busy(&self) -> BusyGuard<'_> {
        self.set_stuck(None);
        BusyGuard(self)
    }

    /// Waits until another connection takes the place.
    pub async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    fn set_stuck(&self, stuck: Option<Instant>) {
        // An evicted connection has no entry any more.
        if let Some(taken) = self.cap.lock().taken.get_mut(&self.id) {
            taken.stuck = stuck;
        }
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.set_stuck(Some(Instant::now()));
        // No place is free yet. While all connections are being answered, `acquire` has no time to
        // wait for: the wake-up lets it compute one.
        self.0.cap.freed.notify_one();
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.cap.lock().taken.remove(&self.id);
        self.cap.freed.notify_one();
    }
}

/// Accepts connections and spawns `answer` for each, until `stop` and the socket's queue is empty.
pub async fn accept_loop<S, F>(
    cap: Arc<EvictingCap>,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, Option<ClientKey>)>>,
    answer: impl Fn(S, ConnectionGuard) -> F,
    stop: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let asked = TaskTracker::new();
    let stopped = loop {
        match stop.run_until_cancelled(poll_fn(&mut accept)).await {
            Some(Ok((stream, peer))) => match stop.run_until_cancelled(cap.acquire(peer)).await {
                Some(place) => drop(asked.spawn(answer(stream, place))),
                None => break Some((stream, peer)),
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection to the admin API cannot be accepted");
                // After EMFILE the connection is still in the queue and the socket still readable:
                // without a pause the loop would spin.
                sleep(ACCEPT_RETRY_INTERVAL).await;
            }
            None => break None,
        }
        // Lets the spawned task run first: a request that has already arrived is answered before
        // its connection can lose its place.
        yield_now().await;
    };
    // After `stop`: serves the connections that already wait, as far as places are free at once.
    let mut next = stopped;
    loop {
        let (stream, peer) = match next.take() {
            Some(waits) => waits,
            // Polls once and never waits: `Pending` means that the queue is empty.
            None => match poll_fn(|context| Poll::Ready(accept(context))).await {
                Poll::Ready(Ok(waits)) => waits,
                Poll::Ready(Err(_)) | Poll::Pending => return,
            },
        };
        // Returning drops `stream`, which closes it: after `stop` nothing waits for a place.
        let Ok(place) = cap.try_acquire(peer) else { return };
        asked.spawn(answer(stream, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u32) -> Option<ClientKey> {
        Some(ClientKey::V4(last))
    }

    /// Whether another connection has taken the place.
    fn is_wanted(place: &ConnectionGuard) -> bool {
        place.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stuck_connection_makes_room() {
        let cap = EvictingCap::new(2);
        let first = cap.acquire(None).await;
        let second = cap.acquire(None).await;
        let began = Instant::now();
        let third = cap.acquire(None).await;
        assert_eq!(began.elapsed(), MIN_HOLD, "none goes at once");
        assert_eq!([&first, &second, &third].map(is_wanted), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_answered_keeps_its_place() {
        let cap = EvictingCap::new(1);
        let place = cap.acquire(None).await;
        let answering = place.mark_busy();
        sleep(100 * MIN_HOLD).await;
        assert!(cap.try_acquire(None).is_err_and(|until| until.is_none()));
        drop(answering);
        let _next = cap.acquire(None).await;
        assert!(is_wanted(&place));
    }

    #[tokio::test(start_paused = true)]
    async fn released_place_goes_to_the_next_connection() {
        let cap = EvictingCap::new(1);
        let place = cap.acquire(None).await;
        let answering = place.mark_busy();
        let waits = cap.acquire(None);
        tokio::pin!(waits);
        tokio::select! { _ = &mut waits => panic!("it is taken"), () = sleep(10 * MIN_HOLD) => {} }
        drop(answering);
        drop(place);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_many_connections_makes_room_for_others() {
        let cap = EvictingCap::new(4);
        let quiet = cap.acquire(peer(1)).await;
        let crowd =
            [cap.acquire(peer(2)).await, cap.acquire(peer(2)).await, cap.acquire(peer(2)).await];
        sleep(MIN_HOLD).await;
        let _others = [cap.acquire(peer(3)).await, cap.acquire(peer(4)).await];
        assert!(!is_wanted(&quiet));
        assert_eq!(crowd.each_ref().map(is_wanted), [true, true, false]);
    }
}
