//! Charging, entering, judging again and orders, against a table and a running generation.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use jiff::Timestamp;

use crate::lifecycle::{DrainOptions, Lifecycle};
use crate::policy::Policy;
use crate::policy::certificate::{ClientCertificate, IdentityPattern};
use crate::policy::limit::{
    ClientLimits, ExceptionScope, LimitException, LimitUnit, LimitUnits, LimiterId, Limits, Rate,
    RateLimit, TunnelLimits,
};
use crate::policy::network::Peer;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::tests::{client, generation, policy, request};
use crate::snapshot::{CurrentSnapshot, Snapshot};
use crate::tunnels::*;

/// A generation with one route, whose policy denies `denied` and has these limits.
fn snapshot(number: u64, denied: &str, limits: &Limits) -> Snapshot {
    let denied = Some(denied).filter(|denied| !denied.is_empty());
    generation(number, policy(denied.as_slice(), limits), None)
}

/// A table under generation 1, which denies no client.
pub fn table(limits: &Limits) -> (Arc<Tunnels>, Arc<CurrentSnapshot>) {
    let live = Arc::new(CurrentSnapshot::new(snapshot(1, "", limits)));
    (Tunnels::new(Arc::clone(&live), Lifecycle::new()), live)
}

/// Makes the next generation the running one, with the limits of the previous one.
pub fn publish(live: &CurrentSnapshot, generation: u64, denied: &str) -> Arc<Snapshot> {
    let before = live.load_full();
    let next = Arc::new(snapshot(generation, denied, &before.route_list[0].policy.limits));
    live.publish(Arc::clone(&next));
    next
}

/// Charges 192.0.2.`host`, judged by the running generation.
pub fn charge(tunnels: &Arc<Tunnels>, live: &CurrentSnapshot, host: u8) -> Result<Slot, Refusal> {
    let permit = live
        .load()
        .judge(&client(host).into(), &request("localhost"), None, Timestamp::now())
        .verdict?;
    tunnels.charge(permit)
}

/// Opens the tunnel of a slot.
pub fn enter(slot: Slot) -> (Registration, Arc<LiveEntry>) {
    let from = RequestSource {
        peer: Peer::new([192, 0, 2, 254].into()),
        request_id: "abc".into(),
        trace: None,
        subprotocol: None,
    };
    slot.enter(request("localhost"), from, Timestamp::now)
}

fn end_of(entry: &LiveEntry) -> Option<EndOrder> {
    entry.take_changes(Waker::noop()).and_then(|(_, end)| end)
}

const REVOKED: Option<EndOrder> = Some(EndOrder::Revoke(Refusal::Network));

#[test]
fn tunnel_that_enters_during_a_reconcile_is_revoked() {
    let (tunnels, live) = table(&Limits::default());
    let (slot, other) = (charge(&tunnels, &live, 1).unwrap(), charge(&tunnels, &live, 2).unwrap());
    let next = publish(&live, 2, "192.0.2.1");
    assert!(
        tunnels.reconcile(&next, Timestamp::now()).refused.is_empty(),
        "nobody is in the table yet"
    );
    let ((_places, entry), (_other, stays)) = (enter(slot), enter(other));
    assert_eq!((end_of(&entry), end_of(&stays)), (REVOKED, None));
    assert!(Arc::ptr_eq(&stays.route(), &next.route_list[0]), "who stays has the present rules");
}

#[test]
fn reconcile_finds_exactly_the_refused() {
    let (tunnels, live) = table(&Limits::default());
    let open: Vec<_> = (1..=9).map(|host| enter(charge(&tunnels, &live, host).unwrap())).collect();
    let next = publish(&live, 2, "192.0.2.4/31");
    let mut refused: Vec<_> =
        tunnels.reconcile(&next, Timestamp::now()).refused.iter().map(|entry| entry.id).collect();
    refused.sort_unstable();
    assert_eq!(refused, [open[3].1.id, open[4].1.id]);
    assert!(
        open[3].1.revoke_if_refused()
            && !open[3].1.revoke_if_refused()
            && !open[2].1.revoke_if_refused()
    );
    assert_eq!(
        (end_of(&open[3].1), end_of(&open[4].1)),
        (REVOKED, None),
        "the second one's turn has not come"
    );
}

#[test]
fn ending_tunnel_is_not_found_again() {
    let (tunnels, live) = table(&Limits::default());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    let found = |next: &Snapshot| tunnels.reconcile(next, Timestamp::now()).refused.len();
    let denying = publish(&live, 2, "192.0.2.1");
    assert_eq!(
        (found(&denying), found(&denying), found(&publish(&live, 3, "192.0.2.0/24"))),
        (1, 0, 0)
    );
    assert_eq!((found(&publish(&live, 4, "")), found(&publish(&live, 5, "192.0.2.1"))), (0, 1));
    assert!(entry.revoke_if_refused());
    assert_eq!((found(&publish(&live, 6, "")), found(&publish(&live, 7, "192.0.2.1"))), (0, 0));
}

#[test]
fn impact_has_the_refused_and_changes_nothing() {
    let (tunnels, live) = table(&Limits::default());
    let open: Vec<_> = (1..=4).map(|host| enter(charge(&tunnels, &live, host).unwrap())).collect();
    tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now());
    let next = snapshot(3, "192.0.2.0/30", &Limits::default());
    let ReconcileImpact { open: all, revoked, .. } =
        tunnels.preview_reconcile(&next, Timestamp::now());
    let mut refused: Vec<_> =
        revoked.iter().map(|(entry, refusal)| (entry.id, refusal.word())).collect();
    refused.sort_unstable();
    assert_eq!(
        (all, refused),
        (4, vec![(open[1].1.id, "network"), (open[2].1.id, "network")]),
        "less the one that is refused anyway"
    );
    assert!(
        open[1..].iter().all(|(_, entry)| entry.generation() == 2 && !entry.revoke_if_refused())
    );
}

/// A table under generation 1, whose policy denies no client, and whose candidate denies 192.0.2.1
/// and has these limits.
fn beside(limits: &Limits) -> (Arc<Tunnels>, Arc<CurrentSnapshot>) {
    let candidate = Some(Arc::new(policy(&["192.0.2.1"], limits)));
    let policy = Policy { candidate, ..policy(&[], &Limits::default()) };
    let live = Arc::new(CurrentSnapshot::new(generation(1, policy, None)));
    (Tunnels::new(Arc::clone(&live), Lifecycle::new()), live)
}

/// The verdict of the candidate on attempts, or plain requests, of these clients in turn.
fn says(
    tunnels: &Tunnels,
    live: &CurrentSnapshot,
    is_plain: bool,
    hosts: &[u8],
) -> Vec<&'static str> {
    let live = live.load();
    let one = |host: &u8| {
        let judged =
            live.judge(&client(*host).into(), &request("localhost"), None, Timestamp::UNIX_EPOCH);
        let (policy, judged) = (judged.policy.unwrap(), judged.candidate.unwrap());
        let says = tunnels.charge_candidate(
            &policy,
            &client(*host).into(),
            is_plain,
            judged,
            Timestamp::UNIX_EPOCH,
        );
        says.unwrap().map_or_else(Refusal::word, |()| "")
    };
    hosts.iter().map(one).collect()
}

#[test]
fn candidate_has_own_budgets_and_charges_only_permits() {
    let rate = Rate {
        tokens: NonZeroU32::MIN,
        per: Duration::from_secs(3600),
        burst: NonZeroU32::new(2).unwrap(),
    };
    let share =
        ClientLimits { upgrades: Some(rate), requests: Some(rate), ..ClientLimits::default() };
    let (tunnels, live) = beside(&Limits { share, ..Limits::default() });
    assert_eq!(
        says(&tunnels, &live, false, &[1, 1, 1, 2, 2, 2, 3]),
        ["network", "network", "network", "", "", "rate", ""]
    );
    assert_eq!(
        says(&tunnels, &live, true, &[2, 2, 2]),
        ["", "", "rate"],
        "plain requests have a rate of their own"
    );
    let keys = |is_candidate| {
        let id = LimiterId { policy: "chat", is_candidate, limit: RateLimit::Upgrades };
        tunnels.budgets().used(id).keys
    };
    assert_eq!((keys(false), keys(true)), (0, 2));
}

#[test]
fn candidate_counts_the_open_tunnels_of_its_policy() {
    let (tunnels, live) = beside(&limits(None, Some(1), Some(2)));
    assert_eq!(says(&tunnels, &live, false, &[2, 2, 3]), ["", "", ""], "none is open");
    let _two = enter(charge(&tunnels, &live, 2).unwrap());
    assert_eq!(says(&tunnels, &live, false, &[2, 3]), ["connections", ""]);
    let _three = enter(charge(&tunnels, &live, 3).unwrap());
    assert_eq!(
        (says(&tunnels, &live, false, &[3, 4]), says(&tunnels, &live, true, &[2])),
        (vec!["connections", "capacity"], vec![""])
    );
    assert_eq!(tunnels.budgets().tunnels("chat"), 2, "nothing was taken");
}

/// 192.0.2.`host` with a certificate of this name. An empty name means without one.
fn named(host: u8, name: &str) -> Subject {
    let subject = Subject::new(client(host));
    if name.is_empty() {
        return subject;
    }
    subject.with_certificate(ClientCertificate::named(name).unwrap().into())
}

/// Charges this subject, judged by the running generation.
fn charge_named(
    tunnels: &Arc<Tunnels>,
    live: &CurrentSnapshot,
    subject: &Subject,
) -> Result<Slot, &'static str> {
    let judged = live.load().judge(subject, &request("localhost"), None, Timestamp::now());
    tunnels.charge(judged.verdict.unwrap()).map_err(Refusal::word)
}

const A: &str = "spiffe://a/1";
const B: &str = "spiffe://a/2";

/// With both limits of one client by `unit`, the results of charging these subjects in turn, while
/// all that were charged hold their slots.
fn check_by(unit: LimitUnit, subjects: &[(u8, &str, Result<(), &str>)]) {
    let units = LimitUnits { connections: unit, ..LimitUnits::default() };
    let share = ClientLimits { per_client: Some(1), units, ..ClientLimits::default() };
    let counted = Limits { share, ..Limits::default() };
    let per = Duration::from_secs(3600);
    let once = Rate { tokens: NonZeroU32::MIN, per, burst: NonZeroU32::MIN };
    let units = LimitUnits { upgrades: unit, ..LimitUnits::default() };
    let share = ClientLimits { upgrades: Some(once), units, ..ClientLimits::default() };
    let rated = Limits { share, ..Limits::default() };
    for (limits, word) in [(counted, "connections"), (rated, "rate")] {
        let (tunnels, live) = table(&limits);
        let mut slots = Vec::new();
        for (host, name, says) in subjects {
            let charged = charge_named(&tunnels, &live, &named(*host, name));
            let says = says.map_err(|_| word);
            assert_eq!(charged.as_ref().map(|_| ()).map_err(|word| *word), says, "{host} {name}");
            slots.extend(charged);
        }
        drop(slots);
        assert_eq!(tunnels.budgets().tunnels("chat"), 0);
    }
}

#[test]
fn limit_by_identity_follows_the_certificate() {
    let full = Err("its own");
    let subjects = [
        (1, A, Ok(())),
        (2, A, full),
        (1, B, Ok(())),
        (3, "dns:a.example", Ok(())),
        (1, "", Ok(())),
        (1, "", full),
        (2, "", Ok(())),
    ];
    check_by(LimitUnit::Identity, &subjects);
    let subjects = [(1, A, Ok(())), (2, A, Ok(())), (1, B, full), (1, "", full)];
    check_by(LimitUnit::Address, &subjects);
}

/// A generation with a count of one tunnel by `unit`, and a candidate with one by the unit of
/// `candidate`.
fn counting(number: u64, unit: LimitUnit, candidate: LimitUnit) -> Snapshot {
    let limits = |unit| {
        let units = LimitUnits { connections: unit, ..LimitUnits::default() };
        let share = ClientLimits { per_client: Some(1), units, ..ClientLimits::default() };
        Limits { share, ..Limits::default() }
    };
    let candidate = Some(Arc::new(policy(&[], &limits(candidate))));
    generation(number, Policy { candidate, ..policy(&[], &limits(unit)) }, None)
}

#[test]
fn candidate_finds_open_tunnels_by_its_own_unit() {
    let units = [LimitUnit::Address, LimitUnit::Identity];
    for (unit, other) in units.into_iter().flat_map(|unit| units.map(|other| (unit, other))) {
        let live = Arc::new(CurrentSnapshot::new(counting(1, unit, other)));
        let tunnels = Tunnels::new(Arc::clone(&live), Lifecycle::new());
        let _open = charge_named(&tunnels, &live, &named(1, A)).unwrap();
        let policy = Arc::clone(&live.load().route_list[0].policy);
        let says = |host, name| {
            let now = Timestamp::now();
            let subject = named(host, name);
            let said = tunnels.charge_candidate(&policy, &subject, false, Ok(()), now).unwrap();
            said.map_err(Refusal::word)
        };
        let full = Err("connections");
        let expected = match other {
            LimitUnit::Address => [full, Ok(()), full, full],
            LimitUnit::Identity => [full, full, Ok(()), Ok(())],
        };
        let said = [says(1, A), says(2, A), says(1, B), says(1, "")];
        assert_eq!(said, expected, "{unit} {other}");
    }
}

#[test]
fn change_of_unit_frees_tunnels_as_they_were_counted() {
    let (address, identity) = (LimitUnit::Address, LimitUnit::Identity);
    for (before, after) in [(address, identity), (identity, address)] {
        let live = Arc::new(CurrentSnapshot::new(counting(1, before, before)));
        let tunnels = Tunnels::new(Arc::clone(&live), Lifecycle::new());
        let old = charge_named(&tunnels, &live, &named(1, A)).unwrap();
        tunnels.publish(&Arc::new(counting(2, after, after)));
        let new = charge_named(&tunnels, &live, &named(1, A)).unwrap();
        assert!(charge_named(&tunnels, &live, &named(1, A)).is_err());
        drop(old);
        assert!(charge_named(&tunnels, &live, &named(1, A)).is_err(), "the new one is open");
        drop(new);
        let _again = charge_named(&tunnels, &live, &named(1, A)).unwrap();
        assert_eq!(tunnels.budgets().tunnels("chat"), 1);
    }
}

#[test]
fn certificate_with_its_own_limit_leaves_its_address_alone() {
    let scope = ExceptionScope::Identities([IdentityPattern::parse(A).unwrap()].into());
    let units = LimitUnits { connections: LimitUnit::Identity, ..LimitUnits::default() };
    let share = ClientLimits { per_client: Some(3), units, ..ClientLimits::default() };
    let exceptions = [LimitException { scope, share, line: 1 }].into();
    let (tunnels, live) = table(&Limits { exceptions, ..limits(None, Some(1), None) });
    let charge = |name| charge_named(&tunnels, &live, &named(1, name));
    let _three = [A, A, A].map(|name| charge(name).unwrap());
    assert!(charge(A).is_err());
    let _bare = charge("").unwrap();
    assert!(charge("").is_err() && charge(B).is_err(), "these are of one address");
}

#[test]
fn reconcile_counts_candidate_revocations_and_makes_none() {
    let (tunnels, live) = beside(&Limits::default());
    let open = [1, 1, 2].map(|host| enter(charge(&tunnels, &live, host).unwrap()));
    let ReconcileOutcome { refused, would_revoke, .. } =
        tunnels.reconcile(&live.load(), Timestamp::now());
    let hit = &would_revoke["chat"];
    assert_eq!((refused.len(), would_revoke.len(), hit.tunnels), (0, 1, 2));
    let client = open[0].1.subject.client.key();
    assert_eq!(hit.clients, HashMap::from([(client, 2)]));
    assert!(open.iter().all(|(_, entry)| !entry.revoke_if_refused()));
    assert!(
        tunnels.reconcile(&publish(&live, 2, ""), Timestamp::now()).would_revoke.is_empty(),
        "without a candidate"
    );
}

#[test]
fn tunnel_limits_are_of_its_client_and_change_with_time() {
    let line = "192.0.2.1 expires=2026-12-31T00:00:00Z";
    let clients = vec![Arc::clone(&policy(&[line], &Limits::default()).deny[0])];
    let idle = |seconds| TunnelLimits {
        idle: Some(Duration::from_secs(seconds)),
        ..TunnelLimits::default()
    };
    let share = |seconds| ClientLimits { tunnel: idle(seconds), ..ClientLimits::default() };
    let exceptions =
        [LimitException { scope: ExceptionScope::Clients(clients), share: share(9), line: 1 }]
            .into();
    let (tunnels, live) = table(&Limits { share: share(1), exceptions, ..Limits::default() });
    let at = |time: &str| time.parse::<Timestamp>().unwrap();
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    for (time, seconds) in [("2026-12-30T23:59:59Z", 9), ("2026-12-31T00:00:00Z", 1)] {
        tunnels.reconcile(&live.load(), at(time));
        assert_eq!(*entry.rules().limits(), idle(seconds), "{time}");
        assert!(entry.take_changes(Waker::noop()).is_some(), "the tunnel is told");
    }
}

#[test]
fn tunnel_permitted_again_before_its_turn_is_kept() {
    let (tunnels, live) = table(&Limits::default());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    assert_eq!(
        tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now()).refused.len(),
        1
    );
    assert!(tunnels.reconcile(&publish(&live, 3, ""), Timestamp::now()).refused.is_empty());
    assert!(!entry.revoke_if_refused());
}

#[test]
fn the_verdict_of_an_older_generation_changes_nothing() {
    let (tunnels, live) = table(&Limits::default());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    let (older, newer) = (publish(&live, 2, "192.0.2.1"), publish(&live, 3, ""));
    tunnels.reconcile(&newer, Timestamp::now());
    assert!(tunnels.reconcile(&older, Timestamp::now()).refused.is_empty());
    assert!(!entry.revoke_if_refused() && Arc::ptr_eq(&entry.route(), &newer.route_list[0]));
}

#[test]
fn every_order_wakes_the_tunnel() {
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (tunnels, live) = table(&Limits::default());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(entry.take_changes(&waker).is_some(), "the first call tells all");
    for generation in 2..5 {
        assert!(entry.take_changes(&waker).is_none());
        tunnels.reconcile(&publish(&live, generation, ""), Timestamp::now());
        assert_eq!(woken.0.load(Ordering::SeqCst) as u64, generation - 1);
        assert!(entry.take_changes(&waker).is_some());
    }
    entry.end(EndOrder::Cut);
    assert_eq!((woken.0.load(Ordering::SeqCst), end_of(&entry)), (4, Some(EndOrder::Cut)));
}

#[test]
fn a_tunnel_keeps_nothing_of_a_generation_that_is_gone() {
    let (tunnels, live) = table(&Limits::default());
    let first = Arc::downgrade(&live.load().route_list[0]);
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    tunnels.reconcile(&publish(&live, 2, ""), Timestamp::now());
    assert!(entry.take_changes(Waker::noop()).is_some());
    assert!(first.upgrade().is_none(), "lists of an old generation would stay in memory with it");
}

/// With `limits`, the results of charging these clients in turn, while all that were charged hold
/// their slots.
fn limits(upgrades: Option<Rate>, per_client: Option<u32>, total: Option<u32>) -> Limits {
    Limits {
        share: ClientLimits { upgrades, per_client, ..ClientLimits::default() },
        total,
        ..Limits::default()
    }
}

fn check(limits: &Limits, clients: &[(u8, Result<(), &str>)]) {
    let (tunnels, live) = table(limits);
    let mut slots = Vec::new();
    for (host, says) in clients {
        let charged = charge(&tunnels, &live, *host);
        assert_eq!(charged.as_ref().map(|_| ()).map_err(|refusal| refusal.word()), *says);
        slots.extend(charged);
        assert_eq!(tunnels.slots(), slots.len(), "who is refused holds nothing");
    }
    drop(slots);
    assert_eq!((tunnels.slots(), tunnels.budgets().tunnels("chat")), (0, 0));
}

#[test]
fn rate_is_charged_before_client_count_and_total() {
    let rate = Rate {
        tokens: NonZeroU32::MIN,
        per: Duration::from_secs(3600),
        burst: NonZeroU32::new(2).unwrap(),
    };
    check(&limits(None, Some(1), None), &[(1, Ok(())), (1, Err("connections")), (2, Ok(()))]);
    check(&limits(None, None, Some(1)), &[(1, Ok(())), (2, Err("capacity"))]);
    let all = limits(Some(rate), Some(1), Some(1));
    check(&all, &[(1, Ok(())), (1, Err("connections")), (1, Err("rate")), (2, Err("capacity"))]);
}

#[test]
fn registration_releases_slot_and_entry_on_drop() {
    let (tunnels, live) = table(&limits(None, None, Some(1)));
    let (place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    assert_eq!((tunnels.len(), tunnels.slots()), (1, 1));
    assert!(Arc::ptr_eq(&tunnels.entries()[0], &entry));
    drop(place);
    assert!(tunnels.is_empty() && tunnels.slots() == 0);
    assert_eq!(
        [tunnels.take_peak(), tunnels.take_peak()],
        [1, 0],
        "what was there between two looks is seen"
    );
    assert!(charge(&tunnels, &live, 1).is_ok());
}

#[test]
fn drain_refuses_new_and_ends_entering_tunnels() {
    let (tunnels, live) = table(&Limits::default());
    let [slot, late] = [1, 1].map(|host| charge(&tunnels, &live, host).unwrap());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    let delay = Duration::ZERO;
    tunnels.lifecycle.drain(DrainOptions { delay, deadline: delay, code: 1012 });
    tunnels.lifecycle.close();
    assert_eq!(charge(&tunnels, &live, 1).err(), Some(Refusal::Draining));
    assert_eq!((end_of(&enter(slot).1), end_of(&entry)), (Some(EndOrder::Drain(1012)), None));
    tunnels.lifecycle.cut();
    assert_eq!(end_of(&enter(late).1), Some(EndOrder::Cut));
}

#[test]
fn drain_revokes_tunnels_that_the_last_verdict_refuses() {
    let (tunnels, live) = table(&Limits::default());
    let entries = [1, 2, 1].map(|host| enter(charge(&tunnels, &live, host).unwrap()));
    tunnels.reconcile(&publish(&live, 2, "192.0.2.1"), Timestamp::now());
    let drained = |(_, entry): &(_, Arc<LiveEntry>)| (entry.drain(1001), end_of(entry));
    assert_eq!(drained(&entries[0]), (true, REVOKED));
    assert_eq!(drained(&entries[1]), (true, Some(EndOrder::Drain(1001))));
    // A later generation that permits takes the verdict back.
    tunnels.reconcile(&publish(&live, 3, ""), Timestamp::now());
    assert_eq!(drained(&entries[2]), (true, Some(EndOrder::Drain(1001))));
    assert_eq!(drained(&entries[0]), (false, REVOKED));
}

#[test]
fn a_tunnel_that_enters_refused_in_a_drain_is_revoked() {
    let (tunnels, live) = table(&Limits::default());
    let slot = charge(&tunnels, &live, 1).unwrap();
    publish(&live, 2, "192.0.2.1");
    tunnels.lifecycle.drain(DrainOptions {
        delay: Duration::ZERO,
        deadline: Duration::ZERO,
        code: 1012,
    });
    tunnels.lifecycle.close();
    assert_eq!(end_of(&enter(slot).1), REVOKED);
}

#[test]
fn first_order_holds_and_only_a_cut_overrides() {
    let (tunnels, live) = table(&Limits::default());
    let (_place, entry) = enter(charge(&tunnels, &live, 1).unwrap());
    assert!(entry.end(EndOrder::Revoke(Refusal::Network)) && !entry.drain(1001));
    assert_eq!(end_of(&entry), REVOKED);
    assert!(entry.end(EndOrder::Cut));
    assert_eq!(end_of(&entry), Some(EndOrder::Cut));
}
