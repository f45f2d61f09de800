//! All decisions that are known, and which of them become bans.
//!
//! Pure: a value that changes by updates. What an answer leaves out is no reason to forget.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::control::config::CrowdsecSettings;
use crate::control::crowdsec::coverage::widest_length;
use crate::control::crowdsec::decision::{CrowdsecDecision, StreamUpdate};
use crate::control::crowdsec::reason::UnappliedReason;
use crate::control::policy_tests::AllowTest;
use crate::policy::ban::{Ban, BanTarget, TargetBans};
use crate::policy::network::host_length;
use crate::policy::peers::PeerPattern;
use crate::snapshot::Snapshot;

/// Most decisions that are kept: about 500 MB.
pub const MAX_DECISIONS: usize = 1_000_000;

/// Most refused decisions that are listed; the others are counted.
pub const MAX_LISTED: usize = 1000;

/// The decisions of one Local API.
#[derive(Debug, Clone, Default)]
pub struct DecisionStore {
    known: HashMap<Arc<str>, CrowdsecDecision>,
    /// Numbers and keys of decisions that an operator has lifted. A number alone would also name
    /// a decision of a new database.
    lifted: BTreeSet<(i64, Arc<str>)>,
    /// Number of decisions beyond `MAX_DECISIONS`.
    excess: usize,
}

/// What decides whether a decision is applied.
#[derive(Debug, Clone)]
pub struct DecisionGate {
    /// The tests that expect `allow`.
    pub tests: Vec<AllowTest>,
    /// Peers that connect for others, each with the place that lists it.
    pub peers: Vec<(String, PeerPattern)>,
    /// Length of the widest IPv4 network.
    pub widest_v4: u8,
    /// Length of the widest IPv6 network.
    pub widest_v6: u8,
    /// Length of the IPv4 network with as many addresses as all may hold together; 0 for any.
    pub total_v4: u8,
    /// The same of IPv6.
    pub total_v6: u8,
}

/// A decision that is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnappliedDecision {
    /// Scope and value, as in the store.
    pub key: Arc<str>,
    /// Number of the decision in the database of the API.
    pub id: i64,
    /// Why it is not applied.
    pub reason: UnappliedReason,
    /// What it contradicts, in a sentence.
    pub says: String,
}

/// The decisions, judged by a gate.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// The bans that hold.
    pub bans: TargetBans,
    /// The first decisions that are not applied, in the order of their keys.
    pub refused: Vec<UnappliedDecision>,
    /// Number of decisions that are not applied, by reason.
    pub counts: BTreeMap<UnappliedReason, usize>,
}

impl DecisionStore {
    /// Makes a store of decisions that were kept.
    pub fn new(known: Vec<CrowdsecDecision>, lifted: BTreeSet<(i64, Arc<str>)>) -> DecisionStore {
        let mut store = DecisionStore { lifted, ..DecisionStore::default() };
        known.into_iter().for_each(|decision| store.insert(decision));
        store
    }

    /// The number of decisions.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The decisions that can be bans.
    pub fn bans(&self) -> Vec<CrowdsecDecision> {
        self.known.values().filter(|one| one.ban.is_ok()).cloned().collect()
    }

    /// The decisions that an operator has lifted.
    pub fn lifted(&self) -> &BTreeSet<(i64, Arc<str>)> {
        &self.lifted
    }

    /// Takes an answer over. `is_whole` says that it has all decisions, so that others are gone.
    /// Returns whether anything has changed.
    pub fn update(&mut self, update: StreamUpdate, is_whole: bool) -> bool {
        let StreamUpdate { mut new, deleted } = update;
        keep_longest(&mut new);
        let mut has_changed = !is_whole && !new.is_empty();
        if is_whole {
            has_changed = self.differs_from(&new);
            // A decision that is known keeps its end: the API sends the time that is left, rounded.
            if !has_changed {
                return false;
            }
            self.known.clear();
            self.excess = 0;
        } else {
            // Before the new ones: a decision that ends and comes again is in both lists.
            for key in &deleted {
                has_changed |= self.known.remove(&**key).is_some();
            }
        }
        new.into_iter().for_each(|decision| self.insert(decision));
        self.lifted.retain(|(id, key)| self.known.get(key).is_some_and(|one| one.id == *id));
        has_changed
    }

    /// Whether `all`, the decisions of a whole answer, are others than the known ones.
    fn differs_from(&self, all: &[CrowdsecDecision]) -> bool {
        let is_known = |one: &CrowdsecDecision| {
            self.known.get(&one.key).is_some_and(|known| known.id == one.id)
        };
        self.known.len() + self.excess != all.len() || !all.iter().all(is_known)
    }

    fn insert(&mut self, decision: CrowdsecDecision) {
        if self.known.len() < MAX_DECISIONS || self.known.contains_key(&decision.key) {
            self.known.insert(decision.key.clone(), decision);
        } else {
            self.excess += 1;
        }
    }

    /// Forgets decisions that have ended. Returns whether there were any.
    pub fn prune(&mut self, now: Timestamp) -> bool {
        let before = self.known.len();
        self.known.retain(|_, decision| decision.until > now);
        self.known.len() < before
    }

    /// Notes that an operator has lifted the bans of these targets.
    pub fn lift(&mut self, targets: &[BanTarget]) {
        let targets: std::collections::HashSet<String> =
            targets.iter().map(ToString::to_string).collect();
        for decision in self.known.values() {
            let target = decision.ban.as_ref().ok().map(|ban| ban.target.to_string());
            if target.is_some_and(|target| targets.contains(&target)) {
                self.lifted.insert((decision.id, decision.key.clone()));
            }
        }
    }

    /// Judges every decision by `gate`.
    pub fn judge(&self, gate: &DecisionGate) -> Judged {
        let mut judged = Judged::default();
        let mut passed: Vec<(&CrowdsecDecision, &Arc<Ban>)> = Vec::new();
        for decision in self.known.values() {
            match self.refusal(decision, gate) {
                Ok(ban) => passed.push((decision, ban)),
                Err((reason, says)) => judged.refuse(decision, reason, says),
            }
        }
        let too_wide = gate.too_wide(&passed);
        for (decision, ban) in passed {
            match too_wide.refusal(ban) {
                None => judged.add(ban),
                Some(says) => judged.refuse(decision, UnappliedReason::Total, says),
            }
        }
        if self.excess > 0 {
            judged.counts.insert(UnappliedReason::Excess, self.excess);
        }
        judged.refused.sort_by(|one, other| one.key.cmp(&other.key));
        judged.refused.truncate(MAX_LISTED);
        judged
    }

    /// The ban of a decision, or why it bans nothing.
    fn refusal<'d>(
        &self,
        decision: &'d CrowdsecDecision,
        gate: &DecisionGate,
    ) -> Result<&'d Arc<Ban>, (UnappliedReason, String)> {
        let ban = decision.ban.as_ref().map_err(|reason| (*reason, unusable(*reason).into()))?;
        if !self.lifted.is_empty() && self.lifted.contains(&(decision.id, decision.key.clone())) {
            return Err((UnappliedReason::Lifted, "an operator has lifted it".into()));
        }
        gate.refusal(&ban.target).map_or(Ok(ban), Err)
    }
}

/// Why a decision with this reason can be no ban.
fn unusable(reason: UnappliedReason) -> &'static str {
    match reason {
        UnappliedReason::Kind => "its type is not `ban`",
        UnappliedReason::Scope => "it is about neither an address nor a range",
        _ => "its value or its duration cannot be read",
    }
}

/// Lengths of networks that are too wide together.
struct TooWide {
    v4: Option<u8>,
    v6: Option<u8>,
    total_v4: u8,
    total_v6: u8,
}

impl TooWide {
    /// Why this ban is refused. `None` means that it is not.
    fn refusal(&self, ban: &Ban) -> Option<String> {
        let BanTarget::Network(network) = ban.target else { return None };
        let (widest, total) = match network {
            IpNet::V4(_) => (self.v4?, self.total_v4),
            IpNet::V6(_) => (self.v6?, self.total_v6),
        };
        let says = || format!("all of /{widest} and wider would ban more than a /{total}");
        (network.prefix_len() <= widest).then(says)
    }
}

/// Leaves of several decisions under one key the longest: some versions of the API send all.
fn keep_longest(all: &mut Vec<CrowdsecDecision>) {
    let end = |one: &CrowdsecDecision| (one.until, one.id);
    let mut longest: HashMap<Arc<str>, _> = HashMap::with_capacity(all.len());
    for one in all.iter() {
        let known = longest.entry(one.key.clone()).or_insert(end(one));
        *known = end(one).max(*known);
    }
    if longest.len() < all.len() {
        // Removed as it is kept: the same decision may be there twice.
        all.retain(|one| {
            longest.get(&one.key) == Some(&end(one)) && longest.remove(&one.key).is_some()
        });
    }
}

impl Judged {
    fn add(&mut self, ban: &Arc<Ban>) {
        // One target may have two spellings. The later end counts.
        if self.bans.get(&ban.target).is_none_or(|before| before.until < ban.until) {
            self.bans.insert(Arc::clone(ban));
        }
    }

    fn refuse(&mut self, decision: &CrowdsecDecision, reason: UnappliedReason, says: String) {
        *self.counts.entry(reason).or_default() += 1;
        // A bound on the memory of the list; the order of a map is none, so it is sorted later.
        if self.refused.len() < 4 * MAX_LISTED {
            let (key, id) = (decision.key.clone(), decision.id);
            self.refused.push(UnappliedDecision { key, id, reason, says });
        }
    }
}

impl DecisionGate {
    /// The gate of the running generation.
    pub fn new(live: &Snapshot, tests: &[AllowTest], settings: &CrowdsecSettings) -> DecisionGate {
        let mut peers = Vec::new();
        for rules in live.listeners.values() {
            let listener = &rules.listener;
            let forwarded = listener.forwarded.as_ref().map(|rules| ("forwarded", &rules.from));
            let proxies = listener.proxy_protocol.as_ref().map(|all| ("proxy_protocol", all));
            for (key, all) in forwarded.into_iter().chain(proxies) {
                let place = format!("`{key}` of the listener `{}`", listener.name);
                peers.extend(all.iter().map(|peer| (place.clone(), peer)));
            }
        }
        let tests = tests.to_vec();
        let length = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
        DecisionGate {
            tests,
            peers,
            widest_v4: length(settings.widest_v4),
            widest_v6: length(settings.widest_v6),
            total_v4: length(settings.total_v4),
            total_v6: length(settings.total_v6),
        }
    }

    fn too_wide(&self, passed: &[(&CrowdsecDecision, &Arc<Ban>)]) -> TooWide {
        let networks = |is_v4: bool| {
            passed.iter().filter_map(move |(_, ban)| match ban.target {
                BanTarget::Network(network) if network.addr().is_ipv4() == is_v4 => Some(network),
                _ => None,
            })
        };
        let (total_v4, total_v6) = (self.total_v4, self.total_v6);
        let v4 = widest_length(networks(true), total_v4);
        TooWide { v4, v6: widest_length(networks(false), total_v6), total_v4, total_v6 }
    }

    /// Why a ban of `target` is refused. `None` means that it is applied.
    fn refusal(&self, target: &BanTarget) -> Option<(UnappliedReason, String)> {
        let BanTarget::Network(network) = target else { return None };
        let widest = match network {
            IpNet::V4(_) => self.widest_v4,
            // A translator's range holds all of IPv4 in its last 32 bits.
            IpNet::V6(network) if host_length(network.addr()) == 128 => 96 + self.widest_v4,
            IpNet::V6(_) => self.widest_v6,
        };
        if network.prefix_len() < widest {
            let says = format!("it is wider than /{widest}");
            return Some((UnappliedReason::Wide, says));
        }
        if target.holds_loopback() {
            return Some((UnappliedReason::Loopback, "it holds a loopback address".into()));
        }
        if let Some((place, peer)) = self.peers.iter().find(|(_, peer)| target.meets(*peer)) {
            return Some((UnappliedReason::Peer, format!("{place} lists {peer}")));
        }
        let test = self.tests.iter().find(|test| target.holds(&test.subject))?;
        let says = format!("test \"{}\" ({}) expects allow", test.name, test.place);
        Some((UnappliedReason::Test, says))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Client;

    fn update(new: &[(&str, &str, i64)], deleted: &[&str]) -> StreamUpdate {
        let one = |scope: &str, value: &str, id: i64, lasts: &str| {
            format!(
                r#"{{"id":{id},"duration":"{lasts}","origin":"cscli","scenario":"manual",
                   "scope":"{scope}","type":"ban","value":"{value}"}}"#
            )
        };
        let scope = |value: &str| if value.contains('/') { "Range" } else { "Ip" };
        let new: Vec<_> =
            new.iter().map(|(value, lasts, id)| one(scope(value), value, *id, lasts)).collect();
        let gone: Vec<_> = deleted.iter().map(|value| one(scope(value), value, 1, "-1s")).collect();
        let text = format!("{{\"new\":[{}],\"deleted\":[{}]}}", new.join(","), gone.join(","));
        StreamUpdate::parse(text.as_bytes(), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn gate() -> DecisionGate {
        let subject = Client::new([198, 51, 100, 7].into()).into();
        let test = AllowTest { name: "office".into(), place: "p.toml:1".into(), subject };
        let balancer = PeerPattern::Network("203.0.113.5/32".parse().unwrap());
        let peers = vec![("`forwarded` of the listener `public`".into(), balancer)];
        DecisionGate {
            tests: vec![test],
            peers,
            widest_v4: 16,
            widest_v6: 32,
            total_v4: 8,
            total_v6: 24,
        }
    }

    fn targets(judged: &Judged) -> Vec<String> {
        judged.bans.iter().map(|ban| ban.target.to_string()).collect()
    }

    #[test]
    fn translated_range_is_as_wide_as_the_ipv4_behind_it() {
        let mut store = DecisionStore::default();
        let ranges = ["64:ff9b::/96", "64:ff9b:1::/48", "64:ff9b::/32", "64:ff9b::a00:0/111"];
        let narrow = ["64:ff9b::a00:0/112", "64:ff9b::a00:1", "2001:db8::/32"];
        let all = ranges.iter().chain(&narrow).zip(1..).map(|(one, id)| (*one, "1h", id));
        store.update(update(&all.collect::<Vec<_>>(), &[]), true);
        let judged = store.judge(&gate());
        assert_eq!(judged.counts[&UnappliedReason::Wide], ranges.len());
        assert_eq!(judged.bans.len(), narrow.len());
    }

    #[test]
    fn decision_that_hits_more_than_is_meant_is_refused_by_reason() {
        let mut store = DecisionStore::default();
        let all = [
            ("192.0.2.7", "1h", 1),
            ("0.0.0.0/0", "1h", 2),
            ("10.0.0.0/15", "1h", 3),
            ("10.1.0.0/16", "1h", 4),
            ("::/0", "1h", 5),
            ("2001:db8::/32", "1h", 6),
            ("127.0.0.1", "1h", 7),
            ("203.0.113.0/24", "1h", 8),
            ("198.51.100.0/24", "1h", 9),
            ("::ffff:0.0.0.0/96", "1h", 10),
        ];
        store.update(update(&all, &[]), true);
        let judged = store.judge(&gate());
        assert_eq!(targets(&judged), ["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"]);
        let reasons: Vec<_> = judged.refused.iter().map(|one| (one.id, one.reason)).collect();
        use UnappliedReason::{Loopback, Peer, Test, Wide};
        let expected =
            [(7, Loopback), (2, Wide), (3, Wide), (9, Test), (8, Peer), (5, Wide), (10, Wide)];
        assert_eq!(reasons, expected);
        assert_eq!(judged.counts[&Wide], 4);
        assert!(judged.refused[3].says.contains("\"office\" (p.toml:1)"));
    }

    #[test]
    fn many_ranges_are_refused_where_one_would_not_be() {
        let mut store = DecisionStore::default();
        let range = |at| format!("{}.{}.0.0/16", 20 + at / 256, at % 256);
        let mut all: Vec<_> = (0..300).map(range).collect();
        all.push("192.0.2.7".into());
        let all: Vec<_> = all.iter().map(|one| (&**one, "1h", 1)).collect();
        store.update(update(&all, &[]), true);
        let judged = store.judge(&gate());
        assert_eq!(targets(&judged), ["192.0.2.7"]);
        assert_eq!(judged.counts[&UnappliedReason::Total], 300);
        assert_eq!(judged.refused[0].says, "all of /16 and wider would ban more than a /8");
        let judged = store.judge(&DecisionGate { total_v4: 0, ..gate() });
        assert_eq!(judged.bans.len(), 301);
    }

    #[test]
    fn delta_changes_what_it_names_and_a_whole_answer_replaces_all() {
        let mut store = DecisionStore::default();
        assert!(store.update(update(&[("192.0.2.1", "1h", 1), ("192.0.2.2", "1h", 2)], &[]), true));
        assert!(!store.update(update(&[], &["192.0.2.9"]), false), "not known");
        assert!(store.update(update(&[], &["192.0.2.1"]), false));
        assert_eq!(targets(&store.judge(&gate())), ["192.0.2.2"]);
        let same = || update(&[("192.0.2.2", "59m", 2)], &[]);
        assert!(!store.update(same(), true), "the same decision, a minute later");
        // Deleted and decided again between two polls.
        store.update(update(&[("192.0.2.2", "2h", 3)], &["192.0.2.2"]), false);
        assert_eq!(targets(&store.judge(&gate())), ["192.0.2.2"]);
        // The database was reset: numbers begin again.
        store.update(update(&[("192.0.2.3", "1h", 1)], &[]), true);
        assert_eq!(targets(&store.judge(&gate())), ["192.0.2.3"]);
        assert!(store.prune(Timestamp::from_second(3601).unwrap()));
        assert!(targets(&store.judge(&gate())).is_empty());
    }

    #[test]
    fn of_several_decisions_under_one_key_the_longest_holds() {
        for is_whole in [true, false] {
            let mut store = DecisionStore::default();
            let all = [("192.0.2.1", "2h", 1), ("192.0.2.1", "4h", 2), ("192.0.2.1", "1h", 3)];
            store.update(update(&all, &[]), is_whole);
            let ends = |store: &DecisionStore| {
                let judged = store.judge(&gate());
                let ends = judged.bans.iter().map(|ban| ban.until.unwrap().as_second() / 3600);
                ends.collect::<Vec<_>>()
            };
            assert_eq!(ends(&store), [4]);
            assert!(!store.update(update(&all, &[]), true), "nothing is new");
            // The longest was deleted: the API tells that in an answer with all alone.
            assert!(store.update(update(&[all[0], all[2], all[0]], &[]), true));
            assert_eq!(ends(&store), [2]);
        }
    }

    #[test]
    fn lifted_decision_stays_lifted_and_a_new_one_bans_again() {
        let mut store = DecisionStore::default();
        store.update(update(&[("192.0.2.1", "1h", 1)], &[]), true);
        store.lift(&[BanTarget::parse_client("192.0.2.1").unwrap()]);
        assert_eq!(store.judge(&gate()).counts[&UnappliedReason::Lifted], 1);
        store.update(update(&[("192.0.2.1", "1h", 1)], &[]), true);
        assert!(targets(&store.judge(&gate())).is_empty(), "the same decision");
        store.update(update(&[("192.0.2.1", "1h", 2)], &[]), false);
        assert_eq!(targets(&store.judge(&gate())), ["192.0.2.1"]);
    }

    #[test]
    fn two_spellings_of_a_target_are_one_ban_until_the_later_end() {
        let mut store = DecisionStore::default();
        let both =
            [("192.0.2.1", "1h", 1), ("192.0.2.1/32", "3h", 2), ("::ffff:192.0.2.1", "2h", 3)];
        store.update(update(&both, &[]), true);
        let judged = store.judge(&gate());
        let until: Vec<_> = judged.bans.iter().map(|ban| ban.until.unwrap().as_second()).collect();
        assert_eq!(until, [3 * 3600]);
    }
}
