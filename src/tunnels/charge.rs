//! The cost of a permitted request: a token of the client's rate, and a place under the caps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::{LimitKey, LimiterId, RateLimit};
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::Permit;
use crate::tunnels::budget::{Count, Full, PlaceKeys};
use crate::tunnels::entry::{LiveEntry, RequestSource};
use crate::tunnels::registry::Tunnels;

/// The right to open a tunnel: a token of the rate is taken, and a place under the caps is held.
pub struct Slot {
    permit: Permit,
    place: Registration,
}

/// The resources of a live tunnel: its place under the caps and its entry in the table, released on
/// drop. The permit is not included: it would keep the lists of the generation that judged in
/// memory for as long.
pub struct Registration {
    tunnels: Arc<Tunnels>,
    entry: Option<Arc<LiveEntry>>,
    _count: Count,
}

impl Tunnels {
    /// Charges an upgrade: a token of the client's rate, then a place under the policy's caps. The
    /// token isn't returned if a later step fails.
    pub fn charge(self: &Arc<Self>, permit: Permit) -> Result<Slot, Refusal> {
        let policy = &permit.route().policy;
        let subject = permit.subject();
        let share = policy.limits.client_limits(subject, permit.at());
        let id =
            LimiterId { policy: &policy.name, is_candidate: false, limit: RateLimit::Upgrades };
        // The rate first: a client at its cap of tunnels would otherwise try again without paying.
        let key = LimitKey::of(subject, share.units.upgrades);
        self.budgets.take(id, share.upgrades, key).map_err(over_rate)?;
        let keys = PlaceKeys::of(subject, share.units.connections);
        let counted = self.budgets.enter_tunnel(policy, keys, share.per_client);
        let count = counted.map_err(|full| match full {
            Full::Client => Refusal::Connections,
            Full::Total => Refusal::Capacity,
        })?;
        // Counted before the stage is read, so that a drain either sees this slot or refuses it.
        let slots = self.slots.fetch_add(1, Ordering::SeqCst) + 1;
        self.max.fetch_max(slots, Ordering::Relaxed);
        let place = Registration { tunnels: Arc::clone(self), entry: None, _count: count };
        // A refusal drops `place`, which gives the slot and the count back.
        match self.lifecycle.new_tunnel_end() {
            Some(_) => Err(Refusal::Draining),
            None => Ok(Slot { permit, place }),
        }
    }

    /// Charges a plain request: a token of the client's rate.
    pub fn charge_plain(&self, permit: &Permit) -> Result<(), Refusal> {
        let policy = &permit.route().policy;
        let share = policy.limits.client_limits(permit.subject(), permit.at());
        let id =
            LimiterId { policy: &policy.name, is_candidate: false, limit: RateLimit::Requests };
        let key = LimitKey::of(permit.subject(), share.units.requests);
        self.budgets.take(id, share.requests, key).map_err(over_rate)
    }

    /// Returns the verdict of `policy`'s candidate on a request that its rules `judged`. It charges
    /// budgets of the candidate's own, and compares its caps with the open tunnels. `None` means
    /// that there is no candidate.
    pub fn charge_candidate(
        &self,
        policy: &Policy,
        subject: &Subject,
        is_plain: bool,
        judged: Result<(), Refusal>,
        now: Timestamp,
    ) -> Option<Result<(), Refusal>> {
        let candidate = policy.candidate.as_ref()?;
        let charged = || {
            let share = candidate.limits.client_limits(subject, now);
            let limit = if is_plain { RateLimit::Requests } else { RateLimit::Upgrades };
            let id = LimiterId { policy: &policy.name, is_candidate: true, limit };
            let key = LimitKey::of(subject, limit.unit(share));
            self.budgets.take(id, limit.of(share), key).map_err(over_rate)?;
            if is_plain {
                return Ok(());
            }
            // Open tunnels are counted once, for the policy: the candidate would find the same
            // ones, though perhaps by another key.
            let open = || {
                let unit = policy.limits.client_limits(subject, now).units.connections;
                let by = share.units.connections;
                match unit == by {
                    true => self.budgets.tunnels_of(&policy.name, LimitKey::of(subject, by)),
                    false => self.budgets.tunnels_by_unit(&policy.name, subject, by),
                }
            };
            // Compared and not reserved: two upgrades at once may both pass. A candidate's verdict
            // decides no request.
            if share.per_client.is_some_and(|max| open() >= max) {
                return Err(Refusal::Connections);
            }
            if candidate.limits.total.is_some_and(|max| self.budgets.tunnels(&policy.name) >= max) {
                return Err(Refusal::Capacity);
            }
            Ok(())
        };
        // As for the policy itself, a request that the rules refuse costs no token.
        Some(judged.and_then(|()| charged()))
    }
}

/// The refusal of a client that has no token left.
fn over_rate(retry_after: Duration) -> Refusal {
    Refusal::Rate { retry_after }
}

impl Registration {
    /// The place of a tunnel that another process keeps, and that is in the table.
    pub(super) fn remote(tunnels: &Arc<Tunnels>, entry: &Arc<LiveEntry>, count: Count) -> Self {
        let slots = tunnels.slots.fetch_add(1, Ordering::SeqCst) + 1;
        tunnels.max.fetch_max(slots, Ordering::Relaxed);
        Registration { tunnels: Arc::clone(tunnels), entry: Some(Arc::clone(entry)), _count: count }
    }
}

impl Slot {
    /// The permit that was charged.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Enters the table: the tunnel is open. `clock` returns the time and is called twice: before
    /// the tunnel is in the table, and after.
    pub fn enter(
        self,
        request: Request,
        from: RequestSource,
        clock: impl Fn() -> Timestamp,
    ) -> (Registration, Arc<LiveEntry>) {
        let Slot { permit, mut place } = self;
        let tunnels = &place.tunnels;
        let entry = tunnels.enter(&tunnels.table, &permit, request, from, clock);
        // Only now does the drop of `place` remove the entry: before, there was none in the table.
        place.entry = Some(Arc::clone(&entry));
        (place, entry)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Out of the table before the slot is free: a drain that sees no slots must find no
        // entries.
        if let Some(entry) = self.entry.take() {
            self.tunnels.table.remove(entry.id);
            self.tunnels.watchers.left(&entry);
        }
        // The place under the caps goes back after this, with the field `_count`. So a cap may stay
        // full for a moment longer, and is never exceeded.
        self.tunnels.slots.fetch_sub(1, Ordering::SeqCst);
    }
}
