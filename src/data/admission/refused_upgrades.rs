//! A bound on refused attempts that are accepted only to be closed (`refuse = "close"`).
//!
//! Each such connection keeps its TLS session until its client has closed, which an HTTP answer
//! would not. Beyond the bounds refusals are answered over HTTP, so a flood costs nothing more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use crate::policy::network::ClientKey;
use crate::sync::lock;

/// The most connections of the process.
pub const MAX_REFUSED_UPGRADES: usize = 1024;

/// The most connections of one client. An office behind one address has a few pages that are
/// refused at a time.
pub const MAX_REFUSED_UPGRADES_PER_CLIENT: usize = 32;

/// The refused attempts that are being closed, of all threads.
#[derive(Clone, Default)]
pub struct RefusedUpgrades(Arc<Mutex<RefusedState>>);

#[derive(Default)]
struct RefusedState {
    all: usize,
    /// No entry is 0.
    clients: HashMap<ClientKey, usize>,
}

/// A refused attempt that is being closed, until this is dropped.
pub struct RefusedUpgradeGuard {
    of: RefusedUpgrades,
    client: ClientKey,
}

impl RefusedUpgrades {
    /// Counts an attempt of `client`. `None` means that a bound is reached.
    pub fn enter(&self, client: ClientKey) -> Option<RefusedUpgradeGuard> {
        let mut state = lock(&self.0);
        if state.all >= MAX_REFUSED_UPGRADES {
            return None;
        }
        let own = state.clients.entry(client).or_default();
        // An entry of a client without any is never full, so none stays behind here.
        if *own >= MAX_REFUSED_UPGRADES_PER_CLIENT {
            return None;
        }
        *own += 1;
        state.all += 1;
        Some(RefusedUpgradeGuard { of: self.clone(), client })
    }
}

impl Drop for RefusedUpgradeGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.of.0);
        state.all -= 1;
        if let Entry::Occupied(mut own) = state.clients.entry(self.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_has_its_own_bound_and_leaves_no_entry() {
        let refused = RefusedUpgrades::default();
        let [one, other] = [ClientKey::V4(1), ClientKey::V6(1)];
        let held: Vec<_> =
            (0..MAX_REFUSED_UPGRADES_PER_CLIENT).map(|_| refused.enter(one).unwrap()).collect();
        assert!(refused.enter(one).is_none());
        drop(refused.enter(other).unwrap());
        drop(held);
        assert!(refused.enter(one).is_some());
        let state = lock(&refused.0);
        assert_eq!((state.all, state.clients.len()), (0, 0));
    }

    #[test]
    fn process_has_a_bound_over_all_clients() {
        let refused = RefusedUpgrades::default();
        let mut held: Vec<_> = (0..MAX_REFUSED_UPGRADES)
            .map(|of| refused.enter(ClientKey::V4(of as u32)).unwrap())
            .collect();
        let next = ClientKey::V4(u32::MAX);
        assert!(refused.enter(next).is_none());
        assert_eq!(lock(&refused.0).clients.len(), MAX_REFUSED_UPGRADES);
        held.pop();
        assert!(refused.enter(next).is_some());
    }
}
