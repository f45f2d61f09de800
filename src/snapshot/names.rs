//! The names that the backends of a generation have, and when each is resolved.
//!
//! A name keeps its addresses from one generation to the next. Nothing here resolves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::snapshot::backend_name::NameState;
use crate::snapshot::route::{Backend, BackendAddress};

/// The names of a generation that have to be resolved.
#[derive(Debug, Default)]
pub struct Names {
    scheduled: Vec<ScheduledName>,
    wake: Arc<Notify>,
}

/// A name, and how often it is resolved.
#[derive(Debug, Clone)]
pub struct ScheduledName {
    /// The name and its addresses.
    pub state: Arc<NameState>,
    /// The shortest `resolve` of the routes that have the name.
    pub interval: Duration,
}

impl Names {
    /// The names of the generation after `before`, still without any.
    pub fn after(before: Option<&Names>) -> Self {
        let wake = before.map_or_else(Arc::default, |before| Arc::clone(&before.wake));
        Names { scheduled: Vec::new(), wake }
    }

    /// The backend of `address`, for a route that resolves it at this interval. A name that
    /// `before` or an earlier route has keeps its addresses.
    pub fn backend(
        &mut self,
        address: &BackendAddress,
        interval: Duration,
        before: Option<&Names>,
    ) -> Backend {
        let BackendAddress::Named(name) = address else {
            return Backend { address: address.clone(), name: None };
        };
        let known = self.scheduled.iter_mut().find(|one| one.state.is_of(name));
        let state = match known {
            Some(known) => {
                known.interval = known.interval.min(interval);
                Arc::clone(&known.state)
            }
            None => {
                let kept = before.into_iter().flat_map(|before| &before.scheduled);
                let kept = kept.map(|one| &one.state).find(|state| state.is_of(name));
                let new = || Arc::new(NameState::new(name, Arc::clone(&self.wake)));
                let state = kept.map_or_else(new, Arc::clone);
                if !name.is_localhost() {
                    let state = Arc::clone(&state);
                    self.scheduled.push(ScheduledName { state, interval });
                }
                state
            }
        };
        Backend { address: address.clone(), name: Some(state) }
    }

    /// The names, each once. `localhost` is not among them.
    pub fn iter(&self) -> impl Iterator<Item = &ScheduledName> {
        self.scheduled.iter()
    }

    /// The number of changes of all addresses so far, which differs after each.
    pub fn changes(&self) -> u64 {
        self.iter().map(|one| one.state.changes()).sum()
    }

    /// The names that were never resolved.
    pub fn pending(&self) -> Vec<Arc<NameState>> {
        let states = self.iter().map(|one| &one.state);
        states.filter(|state| state.is_pending()).cloned().collect()
    }

    /// Notified when a name wants an early resolution, when a look-up has ended, and by
    /// [`Names::wake`].
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Wakes the task that resolves: other names run now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::snapshot::backend_name::{BackendName, NameAnswer};

    fn named(host: &str, port: u16) -> BackendAddress {
        BackendAddress::Named(Arc::new(BackendName { host: host.into(), port, server_name: None }))
    }

    fn answer(addresses: &[&str]) -> NameAnswer {
        let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
        NameAnswer { addresses, fault: None }
    }

    #[test]
    fn name_keeps_its_addresses_over_generations_and_routes() {
        let mut first = Names::after(None);
        let backend = first.backend(&named("app", 80), Duration::from_secs(10), None);
        backend.name.unwrap().store(answer(&["192.0.2.1:80"]));
        let mut second = Names::after(Some(&first));
        for (port, addresses) in [(80, 1), (81, 0)] {
            let interval = Duration::from_secs(u64::from(port));
            let backend = second.backend(&named("app", port), interval, Some(&first));
            assert_eq!(backend.name.unwrap().answer().addresses.len(), addresses, "{port}");
        }
        second.backend(&named("app", 81), Duration::from_secs(5), Some(&first));
        let intervals: Vec<_> = second.iter().map(|one| one.interval.as_secs()).collect();
        assert_eq!(intervals, [80, 5]);
        assert_eq!((first.changes(), second.changes()), (1, 1));
    }

    #[test]
    fn localhost_is_both_families_and_never_resolved() {
        for host in ["localhost", "localhost.", "app.localhost"] {
            let mut names = Names::after(None);
            let backend = names.backend(&named(host, 80), Duration::from_secs(1), None);
            let answer = backend.name.unwrap().answer();
            let expected = ["127.0.0.1:80", "[::1]:80"].map(|one| one.parse().unwrap());
            assert_eq!((&*answer.addresses, names.iter().count()), (&expected[..], 0), "{host}");
        }
        let mut names = Names::after(None);
        names.backend(&named("notlocalhost", 80), Duration::from_secs(1), None);
        assert_eq!(names.iter().count(), 1);
    }

    #[tokio::test]
    async fn wish_wakes_once_until_it_is_taken() {
        let mut names = Names::after(None);
        let backend = names.backend(&named("app", 80), Duration::from_secs(1), None);
        let state = backend.name.unwrap();
        state.want();
        state.want();
        names.waker().notified().await;
        assert!(state.take_wish() && !state.take_wish());
    }
}
