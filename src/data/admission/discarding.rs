//! The connections under a bound that only discard, and which of them go first.
//!
//! Such a connection has had its answer and waits for its client to end (RFC 9112 §9.6), so it
//! keeps no other client out. Where they are too many, and where a new connection waits for a
//! place, the client that has most of them loses its oldest: no client displaces another's while
//! it has more itself. This list closes nothing: a connection that is displaced resets itself, on
//! its own thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::policy::network::ClientKey;
use crate::sync::lock;

/// How long a client may send nothing while its bytes are discarded.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client's bytes are discarded in all.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a client that are discarded behind a request that is answered without them.
pub const MAX_DISCARDED_BYTES: u64 = 64 * 1024 * 1024;

/// The connections that discard under one bound.
#[derive(Default)]
pub struct DiscardingConnections(Mutex<DiscardState>);

#[derive(Default)]
struct DiscardState {
    /// The number of the next connection.
    next: u64,
    /// The connections that have not been displaced, the oldest first. No entry is empty.
    clients: HashMap<ClientKey, ClientDiscards>,
    /// The clients in the order in which they are displaced, the first at the end.
    ranks: BTreeMap<DiscardRank, ClientKey>,
    /// How many connections stay, of all clients.
    staying: usize,
    /// Connections that were displaced, and are not gone yet.
    going: usize,
    /// New connections that wait for a place.
    waiting: usize,
}

/// The connections of a client by their numbers.
type ClientDiscards = BTreeMap<u64, Arc<Notify>>;

/// How many connections a client has, and the number of its oldest, which no other client has.
type DiscardRank = (usize, Reverse<u64>);

/// A connection that discards, until this is dropped.
pub struct DiscardGuard {
    of: Arc<DiscardingConnections>,
    client: ClientKey,
    at: u64,
}

/// A new connection that waits for a place, until this is dropped.
pub struct WaiterGuard<'d>(&'d DiscardingConnections);

impl DiscardingConnections {
    /// Enters a connection of `client`; `displaced` is notified when it must go. At most `max`
    /// stay.
    pub fn enter(
        self: &Arc<Self>,
        client: ClientKey,
        max: usize,
        displaced: Arc<Notify>,
    ) -> DiscardGuard {
        let mut state = self.lock();
        let at = state.next;
        state.next += 1;
        state.update_client(client, |own| own.insert(at, displaced));
        state.staying += 1;
        // Under the same lock, so that no other thread sees more than `max` of them.
        state.make_room(max, Some(client));
        drop(state);
        DiscardGuard { of: Arc::clone(self), client, at }
    }

    /// Registers a new connection that waits for a place, and displaces a discarding one for it.
    pub fn wait(&self) -> WaiterGuard<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        state.make_room(usize::MAX, None);
        WaiterGuard(self)
    }

    /// Displaces another connection: a smaller cap has withdrawn the place that the last one gave
    /// back.
    pub fn displace_another(&self) {
        self.lock().make_room(usize::MAX, None);
    }

    fn lock(&self) -> MutexGuard<'_, DiscardState> {
        lock(&self.0)
    }
}

impl DiscardState {
    /// Displaces connections until at most `max` stay, and as many go as new ones wait.
    fn make_room(&mut self, max: usize, newcomer: Option<ClientKey>) {
        while self.staying > max || self.going < self.waiting {
            // All have been displaced already: a new connection then waits for the first place that
            // is given back.
            let Some(client) = self.client_to_displace(newcomer) else { return };
            let oldest = self.update_client(client, ClientDiscards::pop_first);
            let Some((_, displaced)) = oldest else { return };
            self.staying -= 1;
            self.going += 1;
            // Kept where the connection does not wait for it yet.
            displaced.notify_one();
        }
    }

    /// The client that has most connections. Among equals it is the newcomer's client, which would
    /// displace the others' otherwise; else the client with the oldest connection. A newcomer that
    /// is its client's only connection has had no time to be read, so it is not preferred.
    fn client_to_displace(&self, newcomer: Option<ClientKey>) -> Option<ClientKey> {
        let (&(max, _), &first) = self.ranks.last_key_value()?;
        let of = |client: &ClientKey| self.clients.get(client).map_or(0, ClientDiscards::len);
        let newcomer = newcomer.filter(|client| max > 1 && of(client) == max);
        Some(newcomer.unwrap_or(first))
    }

    /// Changes the connections of `client`, and ranks the client anew.
    fn update_client<R>(
        &mut self,
        client: ClientKey,
        change: impl FnOnce(&mut ClientDiscards) -> R,
    ) -> R {
        let own = self.clients.entry(client).or_default();
        // The old rank is only known before the change.
        if let Some(rank) = rank(own) {
            self.ranks.remove(&rank);
        }
        let changed = change(own);
        match rank(own) {
            Some(rank) => drop(self.ranks.insert(rank, client)),
            None => drop(self.clients.remove(&client)),
        }
        changed
    }
}

/// The rank of a client. `None` means that the client has no connection.
fn rank(own: &ClientDiscards) -> Option<DiscardRank> {
    own.first_key_value().map(|(&oldest, _)| (own.len(), Reverse(oldest)))
}

impl Drop for DiscardGuard {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        match state.update_client(self.client, |own| own.remove(&self.at)) {
            Some(_) => state.staying -= 1,
            // Displaced before, when it left the list.
            None => state.going -= 1,
        }
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        // A connection that was displaced for this one goes all the same.
        self.0.lock().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};

    const ONE: ClientKey = ClientKey::V4(1);
    const OTHER: ClientKey = ClientKey::V6(1);

    /// A connection, and how it hears that it is displaced.
    type Entered = (DiscardGuard, Arc<Notify>);

    fn enter(discards: &Arc<DiscardingConnections>, client: ClientKey, max: usize) -> Entered {
        let displaced = Arc::new(Notify::new());
        (discards.enter(client, max, Arc::clone(&displaced)), displaced)
    }

    /// Which of them have been displaced since the last look.
    fn displaced<const N: usize>(of: [&Entered; N]) -> [bool; N] {
        of.map(|(_, displaced)| displaced.notified().now_or_never().is_some())
    }

    #[test]
    fn oldest_is_displaced_when_there_are_too_many() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let [one, two, three] = [ONE; 3].map(|client| enter(&discards, client, 2));
        assert_eq!(displaced([&one, &two, &three]), [true, false, false]);
        drop(one);
        let four = enter(&discards, ONE, 2);
        assert_eq!(displaced([&two, &three, &four]), [true, false, false]);
    }

    #[test]
    fn client_with_most_is_displaced_first() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let quiet = enter(&discards, ONE, 3);
        let [crowd @ .., older, newer] = [OTHER; 9].map(|client| enter(&discards, client, 3));
        assert_eq!(displaced(crowd.each_ref()), [true; 7]);
        assert_eq!(displaced([&quiet, &older, &newer]), [false; 3]);
        let _third = enter(&discards, ClientKey::V4(3), 3);
        assert_eq!(displaced([&quiet, &older, &newer]), [false, true, false]);
        drop((crowd, older));
        let _waits = discards.wait();
        assert_eq!(displaced([&quiet, &newer]), [true, false], "of equals the oldest");
    }

    #[test]
    fn client_that_has_most_displaces_its_own() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let others = [ONE; 2].map(|client| enter(&discards, client, 3));
        let own = [OTHER; 2].map(|client| enter(&discards, client, 3));
        assert_eq!(displaced(others.each_ref()), [false, false]);
        assert_eq!(displaced(own.each_ref()), [true, false]);
    }

    #[test]
    fn new_client_is_not_displaced() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let [one, two, three] = [1, 2, 3].map(|of| enter(&discards, ClientKey::V4(of), 2));
        assert_eq!(displaced([&one, &two, &three]), [true, false, false]);
    }

    #[test]
    fn each_waiting_connection_displaces_one() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let [one, two, three] = [ONE; 3].map(|client| enter(&discards, client, 9));
        let first = discards.wait();
        assert_eq!(displaced([&one, &two, &three]), [true, false, false]);
        let second = discards.wait();
        assert_eq!(displaced([&two, &three]), [true, false]);
        drop((one, first, second));
        let _third = discards.wait();
        assert_eq!(displaced([&three]), [false], "the second has yet to go");
    }

    #[test]
    fn new_discarder_is_displaced_while_a_connection_waits() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let waits = discards.wait();
        assert_eq!(displaced([&enter(&discards, ONE, 9)]), [true]);
        drop(waits);
        assert_eq!(displaced([&enter(&discards, ONE, 9)]), [false]);
    }

    #[test]
    fn another_is_displaced_when_the_place_was_lost() {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let [one, two] = [ONE; 2].map(|client| enter(&discards, client, 9));
        let _waits = discards.wait();
        drop(one);
        assert_eq!(displaced([&two]), [false]);
        discards.displace_another();
        assert_eq!(displaced([&two]), [true]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u32),
        Leave(usize),
        Wait,
        WaitNoLonger,
        LosePlace,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..5_u32).prop_map(Step::Enter),
            3 => (0..64_usize).prop_map(Step::Leave),
            1 => Just(Step::Wait),
            1 => Just(Step::WaitNoLonger),
            1 => Just(Step::LosePlace),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// Follows `steps`, and checks after each that the displaced ones went one after another, each
    /// as the oldest of a client that had as many as any other.
    fn check_fair(steps: &[Step], max: usize) {
        let discards: Arc<DiscardingConnections> = Arc::default();
        let (mut staying, mut going, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Enter(client) => {
                    staying.push((*client, enter(&discards, ClientKey::V4(*client), max)));
                }
                Step::Leave(at) if !staying.is_empty() && at % 2 == 0 => {
                    drop(staying.remove(at % staying.len()));
                }
                Step::Leave(_) => drop(going.pop()),
                Step::Wait => waiting.push(discards.wait()),
                Step::WaitNoLonger => drop(waiting.pop()),
                Step::LosePlace => discards.displace_another(),
            }
            let mut gone: BTreeSet<u64> = staying
                .iter()
                .filter(|(_, entered)| displaced([entered]) == [true])
                .map(|(_, (discarding, _))| discarding.at)
                .collect();
            while !gone.is_empty() {
                let next = staying.iter().position(|(client, (discarding, _))| {
                    let held = |of| staying.iter().filter(|(client, _)| *client == of).count();
                    let oldest = staying.iter().find(|(of, _)| of == client);
                    gone.contains(&discarding.at)
                        && oldest.is_some_and(|(_, (oldest, _))| oldest.at == discarding.at)
                        && staying.iter().all(|(of, _)| held(*of) <= held(*client))
                });
                let next = staying.remove(next.expect("others have more, or older ones"));
                gone.remove(&next.1.0.at);
                going.push(next);
            }
            assert!(staying.len() <= max);
        }
        drop((staying, going));
        let state = discards.lock();
        assert!(state.clients.is_empty() && state.ranks.is_empty());
        assert_eq!((state.staying, state.going), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_client_is_displaced_while_another_has_more(steps in steps(), max in 1..8_usize) {
            check_fair(&steps, max);
        }
    }
}
