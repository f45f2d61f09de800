//! Entries of tunnels that another process of the agent keeps.
//!
//! They are in the ordinary tables and hold ordinary places, so that caps, verdicts, orders and
//! drains find them like those of this process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::Permit;
use crate::tunnels::budget::{Count, Full, PlaceKeys};
use crate::tunnels::charge::Registration;
use crate::tunnels::entry::{EndOrder, LiveEntry, RequestSource};
use crate::tunnels::exchange::ExchangeRegistration;
use crate::tunnels::registry::Tunnels;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A tunnel that is open.
    Tunnel,
    /// An exchange in flight. It counts as a stream if it `is_stream`.
    Exchange {
        /// Whether it holds a place among the streams.
        is_stream: bool,
    },
}

/// An entry that another process has asked to enter.
pub struct RemoteEntry {
    /// The process that keeps it.
    pub process: u32,
    /// Whether it is a tunnel or an exchange.
    pub kind: RemoteKind,
    /// The request, as a verdict reads it.
    pub request: Request,
    /// Where the request came from.
    pub from: RequestSource,
    /// Time at which it opened.
    pub opened: Timestamp,
    /// Whether it has opened after the upgrade, and not only stays: it must fit under the caps.
    pub is_new: bool,
}

/// The place of a remote entry in its table and under the caps, released on drop.
pub enum RemotePlace {
    /// That of a tunnel.
    Tunnel(Registration),
    /// That of an exchange.
    Exchange(ExchangeRegistration),
}

impl Tunnels {
    /// Enters a tunnel or an exchange that another process keeps and `permit` allows. It enters
    /// also where a cap is full, since it is open already. A new one is then ordered to end.
    pub fn enter_remote(
        self: &Arc<Self>,
        permit: &Permit,
        remote: RemoteEntry,
        now: Timestamp,
    ) -> (RemotePlace, Arc<LiveEntry>) {
        let RemoteEntry { process, kind, request, from, opened, is_new } = remote;
        // Relaxed: ids only have to differ.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(LiveEntry::new(id, permit, request, from, opened).of_process(process));
        let (place, full) = match kind {
            RemoteKind::Tunnel => {
                let (count, full) = self.remote_count(permit, now);
                // From here on, a walk over the table finds the entry.
                self.table.insert(&entry);
                let place = Registration::remote(self, &entry, count);
                (RemotePlace::Tunnel(place), full)
            }
            RemoteKind::Exchange { is_stream } => {
                self.exchanges.insert(&entry);
                let stream = is_stream.then(|| {
                    let policy = &permit.route().policy;
                    let share = policy.limits.client_limits(permit.subject(), now);
                    let keys = PlaceKeys::of(permit.subject(), share.units.streams);
                    self.budgets.readmit_stream(policy, keys)
                });
                let place = ExchangeRegistration::remote(self, &entry, stream);
                (RemotePlace::Exchange(place), None)
            }
        };
        // A publish or a ban may have come between the verdict and the insertion.
        self.look_again(&entry, permit, now);
        if let Some(full) = full.filter(|_| is_new) {
            entry.end(EndOrder::Revoke(match full {
                Full::Client => Refusal::Connections,
                Full::Total => Refusal::Capacity,
            }));
        }
        (place, entry)
    }

    /// A place under the caps, taken in any case, and the cap that was full before.
    fn remote_count(&self, permit: &Permit, now: Timestamp) -> (Count, Option<Full>) {
        let (policy, subject) = (&permit.route().policy, permit.subject());
        let share = policy.limits.client_limits(subject, now);
        let keys = || PlaceKeys::of(subject, share.units.connections);
        match self.budgets.enter_tunnel(policy, keys(), share.per_client) {
            Ok(count) => (count, None),
            Err(full) => (self.budgets.readmit_tunnel(policy, keys()), Some(full)),
        }
    }
}
