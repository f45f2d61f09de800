//! The connections under a bound that only discard, and which of them go first.
//!
//! Such a connection has had its answer and waits for its client to end (RFC 9112 §9.6), so it
//! keeps no other client out: the oldest goes where they are too many, and where a new connection
//! waits for a place. This list closes nothing: a connection that is told to go resets itself, on
//! its own thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connections that discard under one bound.
#[derive(Default)]
pub struct Discards(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of the next one.
    next: u64,
    /// Those that have not been told to go, the oldest first.
    staying: BTreeMap<u64, Arc<Notify>>,
    /// Those that have been told, and are not gone yet.
    going: usize,
    /// New connections that wait for a place.
    waiting: usize,
}

/// A connection that discards, until this is dropped.
pub struct Discarding {
    of: Arc<Discards>,
    at: u64,
}

/// A new connection that waits for a place, until this is dropped.
pub struct Waiting<'d>(&'d Discards);

impl Discards {
    /// Enters a connection, which `told` tells to go. At most `most` stay.
    pub fn enter(self: &Arc<Self>, most: usize, told: Arc<Notify>) -> Discarding {
        let mut state = self.lock();
        let at = state.next;
        state.next += 1;
        state.staying.insert(at, told);
        state.make_room(most);
        drop(state);
        Discarding { of: Arc::clone(self), at }
    }

    /// A new connection waits for a place: the oldest makes room for it.
    pub fn wait(&self) -> Waiting<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        state.make_room(usize::MAX);
        Waiting(self)
    }

    /// The place that a connection gave back is nobody's: the next one makes room.
    pub fn place_was_lost(&self) {
        self.lock().make_room(usize::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the oldest to go, until at most `most` stay, and one goes for each that waits.
    fn make_room(&mut self, most: usize) {
        while self.staying.len() > most || self.going < self.waiting {
            let Some((_, told)) = self.staying.pop_first() else { return };
            self.going += 1;
            told.notify_one();
        }
    }
}

impl Drop for Discarding {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        if state.staying.remove(&self.at).is_none() {
            state.going -= 1;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt;

    /// Enters one; returns how it is told.
    fn enter(discards: &Arc<Discards>, most: usize) -> (Discarding, Arc<Notify>) {
        let told = Arc::new(Notify::new());
        (discards.enter(most, Arc::clone(&told)), told)
    }

    /// Which of them have been told since the last look.
    fn told<const N: usize>(of: [&(Discarding, Arc<Notify>); N]) -> [bool; N] {
        of.map(|(_, told)| told.notified().now_or_never().is_some())
    }

    #[test]
    fn oldest_goes_when_there_are_too_many() {
        let discards: Arc<Discards> = Arc::default();
        let (one, two, three) = (enter(&discards, 2), enter(&discards, 2), enter(&discards, 2));
        assert_eq!(told([&one, &two, &three]), [true, false, false]);
        drop(one);
        let four = enter(&discards, 2);
        assert_eq!(told([&two, &three, &four]), [true, false, false]);
    }

    #[test]
    fn one_goes_for_each_new_connection_that_waits() {
        let discards: Arc<Discards> = Arc::default();
        let (one, two, three) = (enter(&discards, 9), enter(&discards, 9), enter(&discards, 9));
        let first = discards.wait();
        assert_eq!(told([&one, &two, &three]), [true, false, false]);
        let second = discards.wait();
        assert_eq!(told([&two, &three]), [true, false]);
        drop((one, first, second));
        let _third = discards.wait();
        assert_eq!(told([&three]), [false], "the second has yet to go");
    }

    #[test]
    fn newcomer_goes_at_once_while_a_connection_waits() {
        let discards: Arc<Discards> = Arc::default();
        let waits = discards.wait();
        assert_eq!(told([&enter(&discards, 9)]), [true]);
        drop(waits);
        assert_eq!(told([&enter(&discards, 9)]), [false]);
    }

    #[test]
    fn another_goes_where_the_place_was_lost() {
        let discards: Arc<Discards> = Arc::default();
        let (one, two) = (enter(&discards, 9), enter(&discards, 9));
        let _waits = discards.wait();
        drop(one);
        assert_eq!(told([&two]), [false]);
        discards.place_was_lost();
        assert_eq!(told([&two]), [true]);
    }
}
