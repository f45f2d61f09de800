//! A bound on how many connections there are at once, which may change while they are there.
//!
//! A cap ends no connection: after it has shrunk, it withdraws places as connections give them
//! back. Connections that only discard make room for new ones, and are a tenth of all at most:
//! `discards` says which.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::data::admission::discards::{Discarding, Discards};
use crate::policy::network::Key;
use crate::sync::lock;

/// The part of a cap that may discard at once, as a divisor.
const DISCARDING_PART: usize = 10;

/// A bound on connections at once. Clones share it.
#[derive(Clone)]
pub struct Cap(Arc<Places>);

struct Places {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
    discards: Arc<Discards>,
}

struct Size {
    most: usize,
    /// Places to withdraw as soon as they are given back.
    over: usize,
}

/// One connection's place, given back on drop.
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    of: Cap,
}

/// One connection's places under both caps that bound it.
pub struct BothPlaces {
    /// Its place under the cap of its listener.
    pub listener: Place,
    /// Its place under the cap of the process.
    pub process: Place,
}

impl BothPlaces {
    /// As [`Place::discards`], under both caps.
    pub fn discards(&self, client: Key, displaced: &Arc<Notify>) -> [Discarding; 2] {
        [&self.listener, &self.process].map(|place| place.discards(client, displaced))
    }
}

impl Cap {
    /// At most `connections` at once.
    pub fn new(connections: usize) -> Self {
        let most = connections.min(Semaphore::MAX_PERMITS);
        let (free, size) = (Arc::new(Semaphore::new(most)), Mutex::new(Size { most, over: 0 }));
        Cap(Arc::new(Places { free, size, discards: Arc::default() }))
    }

    /// Allows at most `connections` from now on. Connections over the bound stay, and no new one is
    /// let in until they are few enough.
    pub fn resize(&self, connections: usize) {
        let connections = connections.min(Semaphore::MAX_PERMITS);
        let mut size = self.lock();
        let before = std::mem::replace(&mut size.most, connections);
        let more = connections.saturating_sub(before);
        // A place that was to be withdrawn, and is still taken, is not added a second time.
        let kept = size.over.min(more);
        size.over -= kept;
        self.0.free.add_permits(more - kept);
        let fewer = before.saturating_sub(connections);
        // Only free places go at once; the others do when their connections end.
        size.over += fewer - self.0.free.forget_permits(fewer);
    }

    /// Whether all places are taken now.
    pub fn is_full(&self) -> bool {
        self.0.free.available_permits() == 0
    }

    /// A place, if there is one now.
    pub fn try_place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0.free).try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), of: self.clone() })
    }

    /// Waits for a place. Where there is none, a connection that only discards makes room.
    pub async fn place(&self) -> Place {
        if let Some(place) = self.try_place() {
            return place;
        }
        let _waiting = self.0.discards.wait();
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => Place { permit: Some(permit), of: self.clone() },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Size> {
        lock(&self.0.size)
    }
}

impl Place {
    /// Registers the connection, of `client`, as discarding only. `displaced` is notified when the
    /// connection must go.
    pub fn discards(&self, client: Key, displaced: &Arc<Notify>) -> Discarding {
        let most = (self.of.lock().most / DISCARDING_PART).max(1);
        self.of.0.discards.enter(client, most, Arc::clone(displaced))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.of.lock();
        if size.over > 0 {
            size.over -= 1;
            permit.forget();
            drop(size);
            // The connection that waits for this place gets none of it: another has to go.
            self.of.0.discards.place_was_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt;

    const CLIENT: Key = Key::V4(1);

    /// How many places there are now beside those that are taken.
    fn free(cap: &Cap) -> usize {
        std::iter::from_fn(|| cap.try_place()).collect::<Vec<_>>().len()
    }

    #[test]
    fn one_that_grows_has_room_at_once() {
        let cap = Cap::new(1);
        let _taken = cap.try_place();
        assert_eq!(free(&cap), 0);
        cap.resize(3);
        assert_eq!(free(&cap), 2);
    }

    #[test]
    fn one_that_shrinks_below_what_is_taken_lets_nobody_in_until_they_are_few_enough() {
        let cap = Cap::new(4);
        let mut taken: Vec<_> = (0..3).map(|_| cap.try_place()).collect();
        cap.resize(2);
        assert_eq!(free(&cap), 0);
        taken.pop();
        assert_eq!(free(&cap), 0);
        taken.pop();
        assert_eq!(free(&cap), 1);
        taken.clear();
        assert_eq!(free(&cap), 2);
    }

    #[test]
    fn one_that_grows_again_first_leaves_the_places_that_it_wanted_back() {
        let cap = Cap::new(3);
        let taken: Vec<_> = (0..3).map(|_| cap.try_place()).collect();
        cap.resize(1);
        cap.resize(4);
        assert_eq!(free(&cap), 1);
        drop(taken);
        assert_eq!(free(&cap), 4);
    }

    #[test]
    fn tenth_of_the_places_may_discard_and_one_at_least() {
        for (connections, most) in [(5, 1), (10, 1), (39, 3), (1000, 100)] {
            let cap = Cap::new(connections);
            let places: Vec<_> = (0..connections).map(|_| cap.try_place().unwrap()).collect();
            let told = Arc::new(Notify::new());
            let notified = || told.notified().now_or_never().is_some();
            let mut discarding: Vec<_> =
                (0..most).map(|at| places[at].discards(CLIENT, &told)).collect();
            assert!(!notified(), "{connections}");
            discarding.extend(places.get(most).map(|place| place.discards(CLIENT, &told)));
            assert_eq!(notified(), most < connections, "{connections}");
        }
    }

    #[tokio::test]
    async fn connection_that_discards_makes_room_for_a_new_one() {
        let cap = Cap::new(1);
        let (place, told) = (cap.try_place().unwrap(), Arc::new(Notify::new()));
        let discarding = place.discards(CLIENT, &told);
        let goes = async {
            told.notified().await;
            drop((discarding, place));
        };
        tokio::join!(cap.place(), goes);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_comes() {
        let cap = Cap::new(1);
        let taken = cap.try_place();
        let waits = cap.place();
        drop(taken);
        let _place = waits.await;
        cap.resize(2);
        assert_eq!(free(&cap), 1);
    }
}
