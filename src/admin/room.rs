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

use crate::policy::network::Key;
use crate::sync::lock;

/// Pause after a failed accept (mostly because no descriptors are left).
const BREATH: Duration = Duration::from_millis(100);

/// Least time that a connection keeps its place.
const GRACE: Duration = Duration::from_millis(100);

/// The places of one listener.
pub struct Room {
    most: usize,
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Default)]
struct Table {
    next: u64,
    taken: BTreeMap<u64, Taken>,
}

/// State of a taken place.
struct Taken {
    /// The peer that holds it. `None` means that its listener cannot tell.
    peer: Option<Key>,
    /// Since when it is stuck. `None` means that it is being answered.
    stuck: Option<Instant>,
    leave: CancellationToken,
}

/// A connection's place; given back on drop.
pub struct Place {
    room: Arc<Room>,
    id: u64,
    leave: CancellationToken,
}

/// Marks that a request is being answered, until dropped.
pub struct Answering<'p>(&'p Place);

impl Room {
    /// Creates places for `most` connections.
    pub fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { most, table: Mutex::default(), freed: Notify::new() })
    }

    /// Waits for a place for a connection of `peer`.
    async fn place(self: &Arc<Self>, peer: Option<Key>) -> Place {
        loop {
            // `notify_one` keeps a permit, so a place that is freed before the await below isn't
            // missed.
            let freed = self.freed.notified();
            let until = match self.try_place(peer) {
                Ok(place) => return place,
                Err(until) => until,
            };
            tokio::select! {
                () = freed => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
        }
    }

    /// Takes a place for a connection of `peer`: a free one, or that of a stuck connection.
    ///
    /// # Errors
    /// All places are taken. The error is the time at which one may have been stuck for long
    /// enough; `None` means that all are being answered.
    fn try_place(self: &Arc<Self>, peer: Option<Key>) -> Result<Place, Option<Instant>> {
        let mut table = self.lock();
        if table.taken.len() >= self.most {
            let stuck = table.longest_stuck(Instant::now())?;
            if let Some(taken) = table.taken.remove(&stuck) {
                taken.leave.cancel();
            }
        }
        let (id, leave) = (table.next, CancellationToken::new());
        table.next += 1;
        table.taken.insert(id, Taken { peer, stuck: Some(Instant::now()), leave: leave.clone() });
        Ok(Place { room: Arc::clone(self), id, leave })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    /// The stuck connection that loses its place: the oldest one of the peer that holds most
    /// places.
    fn longest_stuck(&self, now: Instant) -> Result<u64, Option<Instant>> {
        let mut held: HashMap<Option<Key>, usize> = HashMap::new();
        for taken in self.taken.values() {
            *held.entry(taken.peer).or_default() += 1;
        }
        let stuck = self
            .taken
            .iter()
            .filter_map(|(id, taken)| Some((id, taken.peer, taken.stuck? + GRACE)));
        let over = stuck.clone().filter(|(_, _, until)| *until <= now);
        // `max_by_key` returns the last of equal elements: reversed, that is the oldest.
        let chosen = over.rev().max_by_key(|(_, peer, _)| held.get(peer).copied());
        chosen.map(|(id, ..)| *id).ok_or_else(|| stuck.map(|(_, _, until)| until).min())
    }
}

impl Place {
    /// Marks that a request is being answered. Until the mark is dropped, the connection keeps its
    /// place.
    pub fn answering(&self) -> Answering<'_> {
        self.mark(None);
        Answering(self)
    }

    /// Waits until another connection takes the place.
    pub async fn wanted(&self) {
        self.leave.cancelled().await;
    }

    fn mark(&self, stuck: Option<Instant>) {
        if let Some(taken) = self.room.lock().taken.get_mut(&self.id) {
            taken.stuck = stuck;
        }
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.mark(Some(Instant::now()));
        self.0.room.freed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().taken.remove(&self.id);
        self.room.freed.notify_one();
    }
}

/// Accepts connections and spawns `answer` for each, until `stop` and the socket's queue is empty.
pub async fn attend<S, F>(
    room: Arc<Room>,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(S, Option<Key>)>>,
    answer: impl Fn(S, Place) -> F,
    stop: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let asked = TaskTracker::new();
    let stopped = loop {
        match stop.run_until_cancelled(poll_fn(&mut accept)).await {
            Some(Ok((stream, peer))) => match stop.run_until_cancelled(room.place(peer)).await {
                Some(place) => drop(asked.spawn(answer(stream, place))),
                None => break Some((stream, peer)),
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection to the admin API cannot be accepted");
                sleep(BREATH).await;
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
            None => match poll_fn(|context| Poll::Ready(accept(context))).await {
                Poll::Ready(Ok(waits)) => waits,
                Poll::Ready(Err(_)) | Poll::Pending => return,
            },
        };
        let Ok(place) = room.try_place(peer) else { return };
        asked.spawn(answer(stream, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u32) -> Option<Key> {
        Some(Key::V4(last))
    }

    /// Whether another connection has taken the place.
    fn is_wanted(place: &Place) -> bool {
        place.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stuck_connection_makes_room() {
        let room = Room::new(2);
        let first = room.place(None).await;
        let second = room.place(None).await;
        let began = Instant::now();
        let third = room.place(None).await;
        assert_eq!(began.elapsed(), GRACE, "none goes at once");
        assert_eq!([&first, &second, &third].map(is_wanted), [true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_answered_keeps_its_place() {
        let room = Room::new(1);
        let place = room.place(None).await;
        let answering = place.answering();
        sleep(100 * GRACE).await;
        assert!(room.try_place(None).is_err_and(|until| until.is_none()));
        drop(answering);
        let _next = room.place(None).await;
        assert!(is_wanted(&place));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_back_goes_to_the_next() {
        let room = Room::new(1);
        let place = room.place(None).await;
        let answering = place.answering();
        let waits = room.place(None);
        tokio::pin!(waits);
        tokio::select! { _ = &mut waits => panic!("it is taken"), () = sleep(10 * GRACE) => {} }
        drop(answering);
        drop(place);
        waits.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_many_connections_makes_room_for_others() {
        let room = Room::new(4);
        let quiet = room.place(peer(1)).await;
        let crowd =
            [room.place(peer(2)).await, room.place(peer(2)).await, room.place(peer(2)).await];
        sleep(GRACE).await;
        let _others = [room.place(peer(3)).await, room.place(peer(4)).await];
        assert!(!is_wanted(&quiet));
        assert_eq!(crowd.each_ref().map(is_wanted), [true, true, false]);
    }
}
