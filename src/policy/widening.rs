//! What one version of a policy lets in that another one refuses: addresses, users of this host,
//! and rules that have become wider.
//!
//! Addresses and users are compared by their verdicts, not by the text of the lists. Pure.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::addresses::AddressSet;
use crate::policy::certificate::{CertificateRule, IdentityPattern};
use crate::policy::limit::{
    ClientLimits, ExceptionScope, LimitException, LimitUnit, Limits, Rate, TunnelLimits,
};
use crate::policy::list::List;
use crate::policy::network::UnixUser;
use crate::policy::origin::Origins;
use crate::policy::subject::Subject;
use crate::policy::subprotocol::Subprotocols;
use crate::policy::unix::{NO_GROUP, UnixPattern};
use crate::policy::{AllowRule, Policy};

/// Most patterns of users that are combined in pairs.
const MAX_PAIRED_USERS: usize = 64;

/// A user id that no process has: it is `(uid_t) -1`.
const NO_USER: u32 = u32::MAX;

/// A rule that admits more than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WiderRule {
    /// The key, as in `client.origins`.
    pub key: &'static str,
    /// What it admits now, in words.
    pub what: String,
}

/// Policies that decide on a client together: those of one route, and the baseline.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'p> {
    /// The route's policy. `None` means that there is no route, so that no client is admitted.
    pub policy: Option<&'p Policy>,
    /// The baseline, whose denials come first. `None` means that there is none.
    pub baseline: Option<&'p Policy>,
}

/// The clients that a gate admits and another one does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdmittedClients {
    /// The addresses of these clients.
    pub addresses: AddressSet,
    /// Patterns of users of this host.
    pub users: Vec<String>,
}

impl Gate<'_> {
    /// The clients that `to` admits at the time `now` and `self` does not.
    pub fn widened_by(&self, to: &Gate<'_>, now: Timestamp) -> AdmittedClients {
        // Equal lists mean equal verdicts: a large list that stays is not looked at.
        if self.has_lists_of(to) {
            return AdmittedClients::default();
        }
        let addresses = to.addresses(now).without(&self.addresses(now));
        AdmittedClients { addresses, users: self.users_admitted_by(to, now) }
    }

    fn has_lists_of(&self, other: &Gate<'_>) -> bool {
        let (Some(from), Some(to)) = (self.policy, other.policy) else {
            // Where nothing is admitted afterwards, nothing is admitted newly.
            return other.policy.is_none();
        };
        let allows_same = match (&from.allow, &to.allow) {
            (AllowRule::Any, AllowRule::Any) => true,
            (AllowRule::Lists(from), AllowRule::Lists(to)) => are_same(from, to),
            _ => false,
        };
        allows_same && are_same(&self.denying(), &other.denying())
    }

    fn denying(&self) -> Vec<Arc<List>> {
        // The baseline admits no client by itself, so only its denials count.
        let policies = [self.policy, self.baseline].into_iter().flatten();
        policies.flat_map(|policy| policy.deny.iter().cloned()).collect()
    }

    /// The addresses that are admitted at the time `now`.
    fn addresses(&self, now: Timestamp) -> AddressSet {
        let Some(policy) = self.policy else { return AddressSet::default() };
        let of = |lists: &[Arc<List>]| {
            let lists = lists.iter().map(|list| list.admitted_addresses(now));
            lists.fold(AddressSet::default(), AddressSet::union)
        };
        let admitted = match &policy.allow {
            AllowRule::Any => AddressSet::all(),
            AllowRule::Lists(lists) => of(lists),
        };
        admitted.without(&of(&self.denying()))
    }

    fn admits(&self, subject: &Subject, now: Timestamp) -> bool {
        let Some(policy) = self.policy else { return false };
        let judges = [Some(policy), self.baseline].into_iter().flatten();
        judges.into_iter().all(|policy| policy.judge_network(subject, now).is_ok())
    }

    /// The users that `to` admits and `self` does not: one for each pattern that a list has, and
    /// one for two patterns together, since a process may be in several groups.
    fn users_admitted_by(&self, to: &Gate<'_>, now: Timestamp) -> Vec<String> {
        let gates = [self.policy, self.baseline, to.policy, to.baseline];
        // `Any` is a process that no written pattern names.
        let mut patterns = BTreeSet::from([UnixPattern::Any]);
        for policy in gates.into_iter().flatten() {
            let lists = policy.allow.lists().iter().chain(&policy.deny);
            patterns.extend(
                lists.flat_map(|list| list.user_entries()).filter_map(|one| one.pattern.users()),
            );
        }
        let is_new = |users: &[UnixPattern]| {
            let subject = subject_of(users);
            to.admits(&subject, now) && !self.admits(&subject, now)
        };
        let single: Vec<_> =
            patterns.iter().copied().filter(|pattern| is_new(&[*pattern])).collect();
        let mut found: Vec<_> = single.iter().map(UnixPattern::to_string).collect();
        let named = patterns.iter().copied().filter(|pattern| *pattern != UnixPattern::Any);
        let rest: Vec<_> = named.filter(|pattern| !single.contains(pattern)).collect();
        // Where a user and a group are each refused alone, a process with both may get in.
        for (at, one) in rest.iter().enumerate().take(MAX_PAIRED_USERS) {
            for other in rest[at + 1..].iter().take(MAX_PAIRED_USERS) {
                let both = [*one, *other];
                let is_user = |pattern: &UnixPattern| matches!(pattern, UnixPattern::Uid(_));
                if !both.iter().all(is_user) && !single.contains(&UnixPattern::Any) && is_new(&both)
                {
                    found.push(format!("{one} with {other}"));
                }
            }
        }
        found
    }
}

impl AdmittedClients {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.users.is_empty()
    }
}

/// Whether both have the same lists, in any order.
fn are_same(from: &[Arc<List>], to: &[Arc<List>]) -> bool {
    let has = |all: &[Arc<List>], one: &List| all.iter().any(|other| other.has_entries_of(one));
    from.iter().all(|list| has(to, list)) && to.iter().all(|list| has(from, list))
}

/// A process that `users` match, and no other pattern that is written.
fn subject_of(users: &[UnixPattern]) -> Subject {
    let mut user = UnixUser { uid: NO_USER, gid: NO_GROUP };
    let mut groups = Vec::new();
    for pattern in users {
        match pattern {
            UnixPattern::Any => {}
            UnixPattern::Uid(uid) => user.uid = *uid,
            UnixPattern::Gid(gid) => groups.push(*gid),
        }
    }
    Subject::of_user(user, groups.into())
}

/// The rules of `to` that are wider than those of `from`, networks and users excepted.
pub fn wider_rules(from: &Policy, to: &Policy) -> Vec<WiderRule> {
    let mut found = WiderRules(Vec::new());
    found.origins(from.origins.as_ref(), to.origins.as_ref());
    found.subprotocols(from.subprotocols.as_ref(), to.subprotocols.as_ref());
    found.certificate(from.certificate.as_ref(), to.certificate.as_ref());
    found.limits(&from.limits, &to.limits);
    found.0
}

struct WiderRules(Vec<WiderRule>);

impl WiderRules {
    fn add(&mut self, key: &'static str, what: impl Into<String>) {
        self.0.push(WiderRule { key, what: what.into() });
    }

    /// Notes each of `to` that is not among `from`.
    fn add_new<T: PartialEq + Display>(
        &mut self,
        key: &'static str,
        from: impl Iterator<Item = T>,
        to: impl Iterator<Item = T>,
    ) {
        let from: Vec<_> = from.collect();
        for new in to.filter(|new| !from.contains(new)) {
            self.add(key, format!("admits `{new}` too"));
        }
    }

    fn origins(&mut self, from: Option<&Origins>, to: Option<&Origins>) {
        let key = "client.origins";
        match (from, to) {
            // Every origin was admitted before.
            (None, _) => {}
            (Some(_), None) => self.add(key, "admits every origin"),
            (Some(from), Some(to)) => self.add_new(key, from.iter(), to.iter()),
        }
    }

    fn subprotocols(&mut self, from: Option<&Subprotocols>, to: Option<&Subprotocols>) {
        let key = "client.subprotocols";
        match (from, to) {
            (None, _) => {}
            (Some(_), None) => self.add(key, "admits every subprotocol"),
            (Some(from), Some(to)) => self.add_new(key, from.iter(), to.iter()),
        }
    }

    fn certificate(&mut self, from: Option<&CertificateRule>, to: Option<&CertificateRule>) {
        let key = "client.certificate";
        // Without the rule no certificate was asked for.
        let Some(from) = from else { return };
        let Some(to) = to else { return self.add(key, "asks for no certificate any more") };
        if from.required && !to.required {
            self.add(key, "admits clients without a certificate");
        }
        let is_new = |new: &&IdentityPattern, old: &[IdentityPattern]| {
            !old.iter().any(|old| new.is_within(old))
        };
        match (&from.allow, &to.allow) {
            (None, _) => {}
            (Some(_), None) => self.add(key, "admits every certificate that its listener trusts"),
            (Some(from), Some(to)) => {
                for new in to.iter().filter(|new| is_new(new, from)) {
                    self.add(key, format!("admits `{new}` too"));
                }
            }
        }
        for gone in from.deny.iter().filter(|old| is_new(old, &to.deny)) {
            self.add(key, format!("denies `{gone}` no more"));
        }
    }

    fn limits(&mut self, from: &Limits, to: &Limits) {
        self.number("limits.connections.total", from.total, to.total);
        self.number("limits.streams.total", from.streams_total, to.streams_total);
        self.share("", &from.share, &to.share);
        // An exception that is new, or gone, is compared with what held for its clients otherwise.
        for new in &to.exceptions {
            let old = same_scope(&from.exceptions, new).map_or(&from.share, |old| &old.share);
            self.share(&format!(" for {}", scope(new)), old, &new.share);
        }
        for gone in from.exceptions.iter().filter(|old| same_scope(&to.exceptions, old).is_none()) {
            self.share(&format!(" for {}", scope(gone)), &gone.share, &to.share);
        }
    }

    fn share(&mut self, of: &str, from: &ClientLimits, to: &ClientLimits) {
        let before = self.0.len();
        self.rate("limits.upgrades", from.upgrades, to.upgrades);
        self.rate("limits.requests", from.requests, to.requests);
        self.number("limits.connections.per_client", from.per_client, to.per_client);
        self.number("limits.streams.per_client", from.streams, to.streams);
        self.tunnel(&from.tunnel, &to.tunnel);
        let (units, new) = (&from.units, &to.units);
        for (key, is_limited, old, new) in [
            ("limits.upgrades", to.upgrades.is_some(), units.upgrades, new.upgrades),
            ("limits.requests", to.requests.is_some(), units.requests, new.requests),
            ("limits.connections", to.per_client.is_some(), units.connections, new.connections),
            ("limits.streams", to.streams.is_some(), units.streams, new.streams),
        ] {
            if is_limited && old != new {
                let by = match new {
                    LimitUnit::Address => "each address of a client has a budget of its own",
                    LimitUnit::Identity => "each identity at one address has a budget of its own",
                };
                self.add(key, by);
            }
        }
        // The sentences of this share say which clients have it.
        for rule in &mut self.0[before..] {
            rule.what.push_str(of);
        }
    }

    fn tunnel(&mut self, from: &TunnelLimits, to: &TunnelLimits) {
        self.number("limits.message.max", from.message_max, to.message_max);
        self.rate("limits.message.rate", from.message_rate, to.message_rate);
        self.rate("limits.frames", from.frames, to.frames);
        self.time("limits.idle", from.idle, to.idle);
        self.time("limits.lifetime", from.lifetime, to.lifetime);
    }

    fn number<T: PartialOrd + Display>(
        &mut self,
        key: &'static str,
        from: Option<T>,
        to: Option<T>,
    ) {
        let text = |value: &T| value.to_string();
        self.bound(key, from, to, |from, to| to > from, text);
    }

    fn time(&mut self, key: &'static str, from: Option<Duration>, to: Option<Duration>) {
        let text = |value: &Duration| format!("{value:?}");
        self.bound(key, from, to, |from, to| to > from, text);
    }

    fn rate(&mut self, key: &'static str, from: Option<Rate>, to: Option<Rate>) {
        self.bound(key, from, to, is_higher, Rate::to_string);
    }

    /// Notes that a bound is gone or higher. `None` means unlimited.
    fn bound<T>(
        &mut self,
        key: &'static str,
        from: Option<T>,
        to: Option<T>,
        is_higher: impl Fn(&T, &T) -> bool,
        text: impl Fn(&T) -> String,
    ) {
        match (from, to) {
            (None, _) => {}
            (Some(from), None) => self.add(key, format!("unlimited instead of {}", text(&from))),
            (Some(from), Some(to)) if is_higher(&from, &to) => {
                self.add(key, format!("{} instead of {}", text(&to), text(&from)));
            }
            (Some(_), Some(_)) => {}
        }
    }
}

/// Whether the rate `to` admits more than `from`, in the long run or in a burst.
pub fn is_higher(from: &Rate, to: &Rate) -> bool {
    // A shorter time for a token is a higher rate.
    to.token() < from.token() || to.burst > from.burst
}

/// The exception of `all` for the same clients as `one`.
fn same_scope<'e>(all: &'e [LimitException], one: &LimitException) -> Option<&'e LimitException> {
    all.iter().find(|other| match (&other.scope, &one.scope) {
        (ExceptionScope::Clients(other), ExceptionScope::Clients(one)) => {
            other.iter().map(|list| &list.name).eq(one.iter().map(|list| &list.name))
                && are_same(other, one)
        }
        (ExceptionScope::Identities(other), ExceptionScope::Identities(one)) => other == one,
        _ => false,
    })
}

/// The clients of an exception, in words.
fn scope(exception: &LimitException) -> String {
    let names: Vec<String> = match &exception.scope {
        ExceptionScope::Clients(lists) => lists.iter().map(|list| list.name.to_string()).collect(),
        ExceptionScope::Identities(all) => all.iter().map(IdentityPattern::to_string).collect(),
    };
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::num::NonZeroU32;

    use ipnet::IpNet;
    use proptest::prelude::*;

    use crate::policy::list::ListEntry;
    use crate::policy::network::Client;
    use crate::policy::rule::RuleLines;

    fn list(lines: &[String]) -> Arc<List> {
        let entries = lines.iter().zip(1..);
        let entries = entries.map(|(line, at)| (ListEntry::parse(line).unwrap().unwrap(), at));
        Arc::new(List::new("list", "file", entries.collect()).unwrap())
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    /// A policy with one list in `allow` and one in `deny`; `None` is `["any"]`.
    fn policy(allow: Option<&[String]>, deny: &[String]) -> Policy {
        Policy {
            name: "main".into(),
            file: "policies/main.toml".into(),
            owner: None,
            allow: allow.map_or(AllowRule::Any, |lines| AllowRule::Lists(vec![list(lines)])),
            deny: vec![list(deny)],
            origins: None,
            subprotocols: None,
            certificate: None,
            limits: Limits::default(),
            lines: RuleLines::default(),
            candidate: None,
        }
    }

    fn now() -> Timestamp {
        "2027-01-01T00:00:00Z".parse().unwrap()
    }

    /// The networks and users that a policy of `to` admits and one of `from` does not.
    fn check(from: (&[&str], &[&str]), to: (&[&str], &[&str]), admitted: &[&str]) {
        let of = |(allow, deny): (&[&str], &[&str])| policy(Some(&lines(allow)), &lines(deny));
        let (from, to) = (of(from), of(to));
        let gate = |policy| Gate { policy: Some(policy), baseline: None };
        let found = gate(&from).widened_by(&gate(&to), now());
        let networks = found.addresses.largest_networks(99);
        let shown: Vec<_> =
            networks.iter().map(IpNet::to_string).chain(found.users.clone()).collect();
        assert_eq!(shown, admitted);
        assert_eq!(found.is_empty(), admitted.is_empty());
    }

    #[test]
    fn verdicts_are_compared_and_not_entries() {
        check((&["10.0.0.0/8"], &[]), (&["10.0.0.0/9", "10.128.0.0/9"], &[]), &[]);
        check((&["10.0.0.0/8"], &[]), (&["10.0.0.0/7"], &[]), &["11.0.0.0/8"]);
        check((&["10.0.0.0/8", "!10.1.0.0/16"], &[]), (&["10.0.0.0/8"], &[]), &["10.1.0.0/16"]);
        check((&["10.0.0.0/8"], &["10.1.0.0/16"]), (&["10.0.0.0/8"], &[]), &["10.1.0.0/16"]);
        check((&["10.0.0.0/8"], &[]), (&["10.0.0.0/8"], &["10.1.0.0/16"]), &[]);
        check(
            (&["10.0.0.0/8"], &["10.1.0.0/16"]),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "!10.1.2.0/24"]),
            &["10.1.2.0/24"],
        );
        check(
            (&["2001:db8::/32 expires=2026-12-31"], &[]),
            (&["2001:db8::/32 expires=2027-12-31"], &[]),
            &["2001:db8::/32"],
        );
    }

    #[test]
    fn users_are_compared_alone_and_in_groups() {
        check((&["10.0.0.0/8"], &[]), (&["10.0.0.0/8", "unix"], &[]), &["unix"]);
        check((&["unix:uid=33"], &[]), (&["unix:uid=33", "unix:gid=44"], &[]), &["unix:gid=44"]);
        check((&["unix", "!unix:uid=0"], &[]), (&["unix"], &[]), &["unix:uid=0"]);
        check(
            (&["unix:uid=33"], &["unix:gid=44"]),
            (&["unix:uid=33"], &[]),
            &["unix:gid=44 with unix:uid=33"],
        );
        check((&["unix:uid=33"], &[]), (&["unix:uid=33"], &["unix:gid=44"]), &[]);
    }

    #[test]
    fn gate_without_a_route_admits_no_client() {
        let every = policy(None, &[]);
        let denied = policy(None, &lines(&["128.0.0.0/1", "::/0"]));
        let closed = Gate { policy: None, baseline: None };
        let open = Gate { policy: Some(&every), baseline: Some(&denied) };
        let found = closed.widened_by(&open, now());
        assert_eq!(found.addresses.largest_networks(9), ["0.0.0.0/1".parse::<IpNet>().unwrap()]);
        assert_eq!(found.users, ["unix"]);
        assert!(open.widened_by(&closed, now()).is_empty());
        let without = Gate { policy: Some(&every), baseline: None };
        let freed = open.widened_by(&without, now()).addresses.largest_networks(9);
        assert_eq!(freed, ["::/0", "128.0.0.0/1"].map(|one| one.parse::<IpNet>().unwrap()));
    }

    /// `key: what` of each rule that is wider.
    fn rules(change: impl Fn(&mut Policy, &mut Policy)) -> Vec<String> {
        let (mut from, mut to) = (policy(None, &[]), policy(None, &[]));
        change(&mut from, &mut to);
        let told = |rules: Vec<WiderRule>| -> Vec<_> {
            rules.into_iter().map(|rule| format!("{}: {}", rule.key, rule.what)).collect()
        };
        assert_eq!(told(wider_rules(&from, &from)), [""; 0], "a policy is no wider than itself");
        told(wider_rules(&from, &to))
    }

    fn origins(all: &[&str]) -> Option<Origins> {
        Some(Origins::new(all.iter().map(|one| Origins::parse_one(one).unwrap()).collect()))
    }

    #[test]
    fn dropped_and_longer_rules_are_wider() {
        let subprotocols =
            |all: &[&str]| Some(Subprotocols::new(all.iter().map(|one| (*one).into()).collect()));
        let found = rules(|from, to| {
            from.origins = origins(&["same"]);
            to.origins = origins(&["same", "https://a.example"]);
            from.subprotocols = subprotocols(&["v1"]);
        });
        let said = ["client.origins: admits `https://a.example` too"];
        assert_eq!(found[..1], said);
        assert_eq!(found[1..], ["client.subprotocols: admits every subprotocol"]);
        let narrower = rules(|from, to| {
            (from.origins, to.origins) = (origins(&["same", "none"]), origins(&["same"]));
            to.subprotocols = subprotocols(&["v1"]);
        });
        assert_eq!(narrower, [""; 0]);
        let dropped = rules(|from, _| from.origins = origins(&["same"]));
        assert_eq!(dropped, ["client.origins: admits every origin"]);
    }

    #[test]
    fn identities_are_compared_by_their_patterns() {
        let rule = |required, allow: Option<&[&str]>, deny: &[&str]| {
            let parse = |all: &[&str]| -> Box<[_]> {
                all.iter().map(|one| IdentityPattern::parse(one).unwrap()).collect()
            };
            Some(CertificateRule { required, allow: allow.map(parse), deny: parse(deny) })
        };
        let wide: &[&str] = &["dns:*.a.example"];
        let found = rules(|from, to| {
            from.certificate = rule(true, Some(wide), &["dns:x.a.example"]);
            to.certificate = rule(false, Some(&["dns:b.a.example", "dns:c.example"]), &[]);
        });
        let key = "client.certificate:";
        assert_eq!(
            found,
            [
                "admits clients without a certificate",
                "admits `dns:c.example` too",
                "denies `dns:x.a.example` no more"
            ]
            .map(|what| format!("{key} {what}"))
        );
        let open = rules(|from, to| {
            from.certificate = rule(true, Some(wide), &[]);
            to.certificate = rule(true, None, &[]);
        });
        assert_eq!(open, [format!("{key} admits every certificate that its listener trusts")]);
        let gone = rules(|from, _| from.certificate = rule(true, None, &[]));
        assert_eq!(gone, [format!("{key} asks for no certificate any more")]);
    }

    fn rate(tokens: u32, burst: u32) -> Option<Rate> {
        let (tokens, burst) = (NonZeroU32::new(tokens).unwrap(), NonZeroU32::new(burst).unwrap());
        Some(Rate { tokens, per: Duration::from_secs(1), burst })
    }

    #[test]
    fn raised_and_dropped_limits_are_wider() {
        let found = rules(|from, to| {
            (from.limits.total, to.limits.total) = (Some(5), Some(9));
            (from.limits.share.upgrades, to.limits.share.upgrades) = (rate(5, 20), rate(5, 30));
            (from.limits.share.per_client, to.limits.share.per_client) = (Some(9), Some(5));
            from.limits.share.tunnel.idle = Some(Duration::from_secs(60));
            (from.limits.share.requests, to.limits.share.requests) = (rate(9, 9), rate(9, 9));
            to.limits.share.units.requests = LimitUnit::Identity;
        });
        let said = [
            "limits.connections.total: 9 instead of 5",
            "limits.upgrades: 5/s, burst 30 instead of 5/s, burst 20",
            "limits.idle: unlimited instead of 60s",
            "limits.requests: each identity at one address has a budget of its own",
        ];
        assert_eq!(found, said);
    }

    #[test]
    fn exception_is_compared_with_what_held_before_it() {
        let exception = |per_client| LimitException {
            scope: ExceptionScope::Clients(vec![list(&lines(&["10.0.0.0/8"]))]),
            share: ClientLimits { per_client: Some(per_client), ..ClientLimits::default() },
            line: 9,
        };
        let found = |old: Option<u32>, new: Option<u32>| {
            rules(|from, to| {
                for limits in [&mut from.limits, &mut to.limits] {
                    limits.share.per_client = Some(10);
                }
                from.limits.exceptions = old.map(exception).into_iter().collect();
                to.limits.exceptions = new.map(exception).into_iter().collect();
            })
        };
        let said = |to: u32, from: u32| {
            [format!("limits.connections.per_client: {to} instead of {from} for list")]
        };
        assert_eq!(found(None, Some(50)), said(50, 10));
        assert_eq!(found(Some(20), Some(50)), said(50, 20));
        assert_eq!(found(Some(2), None), said(10, 2));
        assert_eq!(found(Some(50), None), [""; 0]);
        assert_eq!(found(None, Some(5)), [""; 0]);
    }

    /// Entries in two small worlds: 64 IPv4 addresses, and 64 at the end of IPv6. Each network
    /// occurs once in a list; some entries have lapsed.
    fn entries() -> impl Strategy<Value = Vec<String>> {
        let network = (any::<bool>(), 0u8..64, 0u8..=6).prop_map(|(is_v4, low, host_bits)| {
            let (address, length) = match is_v4 {
                true => (IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + u32::from(low))), 32),
                false => (IpAddr::V6(Ipv6Addr::from_bits(u128::MAX - 63 + u128::from(low))), 128),
            };
            IpNet::new(address, length - host_bits).unwrap().trunc()
        });
        let entry = (network, any::<bool>(), prop::bool::weighted(0.2));
        prop::collection::btree_set(entry, 0..8).prop_map(|all| {
            let mut seen = BTreeSet::new();
            let once = all.into_iter().filter(|(network, ..)| seen.insert(*network));
            let line = |(network, admits, lapsed): (IpNet, bool, bool)| {
                let sign = if admits { "" } else { "!" };
                let lapse = if lapsed { " expires=2026-01-01" } else { "" };
                format!("{sign}{network}{lapse}")
            };
            once.map(line).collect()
        })
    }

    fn world() -> impl Iterator<Item = IpAddr> {
        let v4 = (0..66).map(|low| IpAddr::V4(Ipv4Addr::from_bits(0xc000_01ff + low)));
        v4.chain((0..66).map(|low| IpAddr::V6(Ipv6Addr::from_bits(u128::MAX - 65 + low))))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]
        #[test]
        fn widening_agrees_with_the_judge_of_each_address(
            from in (prop::option::of(entries()), entries(), entries()),
            to in (prop::option::of(entries()), entries(), entries()),
        ) {
            let policies = |(allow, deny, baseline): &(Option<Vec<_>>, Vec<_>, Vec<_>)| {
                (policy(allow.as_deref(), deny), policy(None, baseline))
            };
            let (from, to) = (policies(&from), policies(&to));
            let gate = |(policy, baseline)| Gate { policy: Some(policy), baseline: Some(baseline) };
            let (from, to) = (gate((&from.0, &from.1)), gate((&to.0, &to.1)));
            let found = from.widened_by(&to, now()).addresses;
            let networks = found.largest_networks(usize::MAX);
            for address in world() {
                let subject = Subject::new(Client::new(address));
                let is_new = to.admits(&subject, now()) && !from.admits(&subject, now());
                let listed = networks.iter().filter(|network| network.contains(&address)).count();
                prop_assert_eq!(listed, usize::from(is_new), "{}", address);
            }
        }
    }
}
