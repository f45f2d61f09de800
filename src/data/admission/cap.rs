//! A bound on how many connections there are at once, which may change while they are there.
//!
//! A cap ends no connection: after it has shrunk, it withdraws places as connections give them
//! back. Connections that only discard make room for new ones, and are a tenth of all at most:
//! `start_discarding` says which.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::data::admission::discarding::{DiscardGuard, DiscardingConnections};
use crate::policy::network::ClientKey;
use crate::sync::lock;

/// The part of a cap that may discard at once, as a divisor.
const DISCARD_DIVISOR: usize = 10;

/// A bound on connections at once. Clones share it.
#[derive(Clone)]
pub struct ConnectionCap(Arc<CapState>);

struct CapState {
    free: Arc<Semaphore>,
    size: Mutex<CapSize>,
    discards: Arc<DiscardingConnections>,
}

struct CapSize {
    max: usize,
    /// Places to withdraw as soon as they are given back.
    excess: usize,
}

/// One connection's place, given back on drop.
pub struct CapGuard {
    permit: Option<OwnedSemaphorePermit>,
    cap: ConnectionCap,
}

/// One connection's places under both caps that bound it.
pub struct CapGuards {
    /// Its place under the cap of its listener.
    pub listener: CapGuard,
    /// Its place under the cap of the process.
    pub process: CapGuard,
}

impl CapGuards {
    /// As [`CapGuard::start_discarding`], under both caps.
    pub fn discards(&self, client: ClientKey, displaced: &Arc<Notify>) -> [DiscardGuard; 2] {
        [&self.listener, &self.process].map(|place| place.start_discarding(client, displaced))
    }
}

impl ConnectionCap {
    /// At most `connections` at once.
    pub fn new(connections: usize) -> Self {
        let max = connections.min(Semaphore::MAX_PERMITS);
        let (free, size) = (Arc::new(Semaphore::new(max)), Mutex::new(CapSize { max, excess: 0 }));
        ConnectionCap(Arc::new(CapState { free, size, discards: Arc::default() }))
    }

    /// Allows at most `connections` from now on. Connections over the bound stay, and no new one is
    /// let in until they are few enough.
    pub fn resize(&self, connections: usize) {
        let connections = connections.min(Semaphore::MAX_PERMITS);
        let mut size = self.lock();
        let before = std::mem::replace(&mut size.max, connections);
        let more = connections.saturating_sub(before);
        // A place that was to be withdrawn, and is still taken, is not added a second time.
        let kept = size.excess.min(more);
        size.excess -= kept;
        self.0.free.add_permits(more - kept);
        let fewer = before.saturating_sub(connections);
        // Only free places go at once; the others do when their connections end.
        size.excess += fewer - self.0.free.forget_permits(fewer);
    }

    /// Number of places that are taken.
    pub fn taken(&self) -> usize {
        let size = self.lock();
        (size.max + size.excess).saturating_sub(self.0.free.available_permits())
    }

    /// Whether all places are taken now.
    pub fn is_full(&self) -> bool {
        // A hint alone: another thread may take or give back a place at once.
        self.0.free.available_permits() == 0
    }

    /// A place, if there is one now.
    pub fn try_acquire(&self) -> Option<CapGuard> {
        let permit = Arc::clone(&self.0.free).try_acquire_owned().ok()?;
        Some(CapGuard { permit: Some(permit), cap: self.clone() })
    }

    /// Waits for a place. Where there is none, a connection that only discards makes room.
    pub async fn acquire(&self) -> CapGuard {
        if let Some(place) = self.try_acquire() {
            return place;
        }
        // Kept until the place is there: as many discarding connections go as new ones wait.
        let _waiting = self.0.discards.wait();
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => CapGuard { permit: Some(permit), cap: self.clone() },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, CapSize> {
        lock(&self.0.size)
    }
}

impl CapGuard {
    /// Registers the connection, of `client`, as discarding only. `displaced` is notified when the
    /// connection must go.
    pub fn start_discarding(&self, client: ClientKey, displaced: &Arc<Notify>) -> DiscardGuard {
        // At least one, or under a small cap no client could be sure to get its answer.
        let max = (self.cap.lock().max / DISCARD_DIVISOR).max(1);
        self.cap.0.discards.enter(client, max, Arc::clone(displaced))
    }
}

impl Drop for CapGuard {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.cap.lock();
        // `resize` could not withdraw this place while the connection had it.
        if size.excess > 0 {
            size.excess -= 1;
            permit.forget();
            drop(size);
            // The connection that waits for this place gets none of it: another has to go.
            self.cap.0.discards.displace_another();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt;

    const CLIENT: ClientKey = ClientKey::V4(1);

    /// The number of connections that `cap` still admits.
    fn free(cap: &ConnectionCap) -> usize {
        std::iter::from_fn(|| cap.try_acquire()).collect::<Vec<_>>().len()
    }

    #[test]
    fn grown_cap_has_room_at_once() {
        let cap = ConnectionCap::new(1);
        let _taken = cap.try_acquire();
        assert_eq!(free(&cap), 0);
        cap.resize(3);
        assert_eq!(free(&cap), 2);
    }

    #[test]
    fn shrunken_cap_admits_none_until_enough_have_left() {
        let cap = ConnectionCap::new(4);
        let mut taken: Vec<_> = (0..3).map(|_| cap.try_acquire()).collect();
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
    fn regrown_cap_first_cancels_its_withdrawals() {
        let cap = ConnectionCap::new(3);
        let taken: Vec<_> = (0..3).map(|_| cap.try_acquire()).collect();
        cap.resize(1);
        cap.resize(4);
        assert_eq!(free(&cap), 1);
        drop(taken);
        assert_eq!(free(&cap), 4);
    }

    #[test]
    fn tenth_of_the_cap_may_discard_and_one_at_least() {
        for (connections, max) in [(5, 1), (10, 1), (39, 3), (1000, 100)] {
            let cap = ConnectionCap::new(connections);
            let places: Vec<_> = (0..connections).map(|_| cap.try_acquire().unwrap()).collect();
            let told = Arc::new(Notify::new());
            let notified = || told.notified().now_or_never().is_some();
            let mut discarding: Vec<_> =
                (0..max).map(|at| places[at].start_discarding(CLIENT, &told)).collect();
            assert!(!notified(), "{connections}");
            discarding.extend(places.get(max).map(|place| place.start_discarding(CLIENT, &told)));
            assert_eq!(notified(), max < connections, "{connections}");
        }
    }

    #[tokio::test]
    async fn connection_that_discards_makes_room_for_a_new_one() {
        let cap = ConnectionCap::new(1);
        let (place, told) = (cap.try_acquire().unwrap(), Arc::new(Notify::new()));
        let discarding = place.start_discarding(CLIENT, &told);
        let goes = async {
            told.notified().await;
            drop((discarding, place));
        };
        tokio::join!(cap.acquire(), goes);
    }

    #[tokio::test]
    async fn waiting_connection_gets_the_next_place() {
        let cap = ConnectionCap::new(1);
        let taken = cap.try_acquire();
        let waits = cap.acquire();
        drop(taken);
        let _place = waits.await;
        cap.resize(2);
        assert_eq!(free(&cap), 1);
    }
}
