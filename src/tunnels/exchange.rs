//! Exchanges in flight: a forwarded request and its answer, from the charge to the last byte.
//!
//! Exchanges are in a table like tunnels, so that a reload, an expiry or a drain finds them. This
//! module moves no byte: the exchange reads its orders here and carries them out itself.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::request::Request;
use crate::snapshot::Permit;
use crate::tunnels::budget::{Count, Full, PlaceKeys};
use crate::tunnels::entry::{LiveEntry, RequestSource};
use crate::tunnels::registry::Tunnels;

/// The place of an exchange in the table, released on drop.
pub struct ExchangeRegistration {
    tunnels: Arc<Tunnels>,
    /// The exchange as the rest of the process sees it.
    pub entry: Arc<LiveEntry>,
    stream: Option<Count>,
}

impl Tunnels {
    /// Enters a permitted request that is about to be forwarded.
    pub fn begin_exchange(
        self: &Arc<Self>,
        permit: &Permit,
        request: Request,
        from: RequestSource,
        clock: impl Fn() -> Timestamp,
    ) -> ExchangeRegistration {
        let entry = self.enter(&self.exchanges, permit, request, from, clock);
        ExchangeRegistration { tunnels: Arc::clone(self), entry, stream: None }
    }
}

impl ExchangeRegistration {
    /// The place of an exchange that another process keeps, and that is in the table.
    pub(super) fn remote(
        tunnels: &Arc<Tunnels>,
        entry: &Arc<LiveEntry>,
        stream: Option<Count>,
    ) -> Self {
        ExchangeRegistration { tunnels: Arc::clone(tunnels), entry: Arc::clone(entry), stream }
    }

    /// Whether the exchange holds a place among the streams.
    pub fn has_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes a place under the policy's `streams`, once: the exchange has lasted `MIN_STREAM_AGE`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take_stream(&mut self, now: Timestamp) -> Result<(), Full> {
        if self.stream.is_none() {
            // The entry's route, not that of the permit: after a reload `streams` applies as the
            // running generation sets it.
            let (route, subject) = (self.entry.route(), &self.entry.subject);
            let policy = &route.policy;
            let share = policy.limits.client_limits(subject, now);
            let keys = PlaceKeys::of(subject, share.units.streams);
            let budgets = &self.tunnels.budgets;
            self.stream = Some(budgets.enter_stream(policy, keys, share.streams)?);
        }
        Ok(())
    }
}

impl Drop for ExchangeRegistration {
    fn drop(&mut self) {
        self.tunnels.exchanges.remove(self.entry.id);
        self.tunnels.watchers.left(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::certificate::ClientCertificate;
    use crate::policy::limit::{ClientLimits, LimitUnit, LimitUnits, Limits};
    use crate::policy::network::Peer;
    use crate::policy::subject::Subject;
    use crate::refusal::Refusal;
    use crate::snapshot::CurrentSnapshot;
    use crate::snapshot::tests::{client, request};
    use crate::tunnels::entry::{EndOrder, MIN_STREAM_AGE};
    use crate::tunnels::tests::{publish, table};

    fn begin(tunnels: &Arc<Tunnels>, live: &CurrentSnapshot, host: u8) -> ExchangeRegistration {
        begin_as(tunnels, live, &client(host).into())
    }

    fn begin_as(
        tunnels: &Arc<Tunnels>,
        live: &CurrentSnapshot,
        subject: &Subject,
    ) -> ExchangeRegistration {
        let judged = live.load().judge(subject, &request("localhost"), None, Timestamp::now());
        let peer = Peer::new([192, 0, 2, 254].into());
        let from = RequestSource { peer, request_id: "abc".into(), trace: None, subprotocol: None };
        let permit = judged.verdict.unwrap();
        tunnels.begin_exchange(&permit, request("localhost"), from, Timestamp::now)
    }

    #[test]
    fn exchange_is_reconciled_until_dropped() {
        let (tunnels, live) = table(&Limits::default());
        let (one, other) = (begin(&tunnels, &live, 1), begin(&tunnels, &live, 2));
        let found = tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now());
        assert_eq!((found.refused.len(), found.exchanges.len()), (0, 1));
        assert!(one.entry.revoke_if_refused() && !other.entry.revoke_if_refused());
        assert_eq!(one.entry.ordered_end(), Some(EndOrder::Revoke(Refusal::Network)));
        assert_eq!((tunnels.len(), tunnels.exchanges_len()), (0, 2));
        drop((one, other));
        assert_eq!(tunnels.exchanges_len(), 0);
    }

    #[test]
    fn exchange_counts_for_the_impact_once_it_is_a_stream() {
        let (tunnels, live) = table(&Limits::default());
        let one = begin(&tunnels, &live, 1);
        let next = publish(&live, 2, "192.0.2.1");
        let weigh = |now| {
            let weight = tunnels.preview_reconcile(&next, now);
            (weight.open, weight.streams, weight.revoked_streams.len())
        };
        assert_eq!(weigh(one.entry.opened), (0, 0, 0), "young, and no events");
        assert_eq!(weigh(one.entry.opened + MIN_STREAM_AGE), (0, 1, 1));
        one.entry.mark_event_stream();
        assert_eq!(weigh(one.entry.opened), (0, 1, 1));
    }

    #[test]
    fn streams_are_counted_by_identity_when_the_limit_says_so() {
        let units = LimitUnits { streams: LimitUnit::Identity, ..LimitUnits::default() };
        let share = ClientLimits { streams: Some(1), units, ..ClientLimits::default() };
        let (tunnels, live) = table(&Limits { share, ..Limits::default() });
        let named = |host, name| {
            let certificate = ClientCertificate::named(name).unwrap();
            Subject::new(client(host)).with_certificate(certificate.into())
        };
        let subjects =
            [named(1, "spiffe://a/1"), named(2, "spiffe://a/1"), named(1, "spiffe://a/2")];
        let mut all = subjects.map(|subject| begin_as(&tunnels, &live, &subject));
        let taken = all.each_mut().map(|one| one.take_stream(Timestamp::now()));
        assert_eq!(taken, [Ok(()), Err(Full::Client), Ok(())]);
        assert_eq!(begin(&tunnels, &live, 1).take_stream(Timestamp::now()), Ok(()));
        drop(all);
        assert_eq!(tunnels.budgets().streams("chat"), 0);
    }

    #[test]
    fn streams_are_bounded_and_counted_once() {
        let share = ClientLimits { streams: Some(1), ..ClientLimits::default() };
        let limits = Limits { share, streams_total: Some(2), ..Limits::default() };
        let (tunnels, live) = table(&limits);
        let mut all = [1, 1, 2, 3].map(|host| begin(&tunnels, &live, host));
        let mut take = |at: usize| all[at].take_stream(Timestamp::now());
        assert_eq!([take(0), take(0), take(1)], [Ok(()), Ok(()), Err(Full::Client)]);
        assert_eq!([take(2), take(3)], [Ok(()), Err(Full::Total)]);
        assert_eq!(tunnels.budgets().streams("chat"), 2);
        drop(all);
        assert_eq!(tunnels.budgets().streams("chat"), 0);
    }
}
