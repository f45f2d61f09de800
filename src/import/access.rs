//! Converts nginx' `allow` and `deny`, where the first match decides, into networks where the
//! longest prefix decides.
//!
//! Computes on networks and on users of this host, who connect to Unix sockets. `nginx::context`
//! knows which rules apply where, and `policy` turns the result into a policy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::import::tree::DirectiveId;

/// One `allow` or `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// Number of the `allow` or `deny` directive.
    pub id: DirectiveId,
    /// `true` for `allow`, `false` for `deny`.
    pub admits: bool,
    /// The clients that it matches.
    pub whom: AccessSubject,
}

/// The clients that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessSubject {
    /// `all`: clients of any address.
    All,
    /// `unix:`, clients of a Unix listener.
    Unix,
    /// A network, without host bits.
    Network(IpNet),
}

impl AccessSubject {
    /// Parses the word after `allow` or `deny`. `None` means that nginx would reject it.
    pub fn parse(text: &str) -> Option<AccessSubject> {
        match text {
            "all" => return Some(AccessSubject::All),
            "unix:" => return Some(AccessSubject::Unix),
            _ => {}
        }
        network(text).map(AccessSubject::Network)
    }

    fn covers(self, root: IpNet) -> Option<IpNet> {
        match self {
            AccessSubject::All => Some(root),
            AccessSubject::Network(network) if same_family(network, root) => Some(network),
            AccessSubject::Network(_) | AccessSubject::Unix => None,
        }
    }
}

/// Parses an address or a network as `ngx_ptocidr` does; host bits are cleared. `None` means that
/// nginx takes it for neither.
pub fn network(text: &str) -> Option<IpNet> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return None; // what nginx takes for an error of its own
    }
    let network = match length {
        None => address.into(),
        // `parse` alone would accept a plus sign, which `ngx_atoi` refuses.
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            IpNet::new(address, digits.parse().ok()?).ok()?
        }
        Some(_) => return None,
    };
    // nginx warns about host bits ("low address bits are meaningless"), and clears them.
    Some(network.trunc())
}

/// A network whose clients share a decision, except those in a longer entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkDecision {
    /// The network; longer entries within it take precedence.
    pub network: IpNet,
    /// Whether its clients are admitted.
    pub admits: bool,
    /// The deciding rule. `None` means that no rule matches and nginx admits by default.
    pub by: Option<DirectiveId>,
}

/// Returns what `rules` decide, for IPv4 and then IPv6: the whole family first, then every network
/// whose decision differs from the enclosing one.
pub fn decide(rules: &[AccessRule]) -> Vec<NetworkDecision> {
    let mut decided = family(rules, all_v4());
    decided.extend(family(rules, all_v6()));
    decided
}

/// What rules decide for the users of this host, who connect to a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserDecision {
    /// Whether they are admitted.
    pub admits: bool,
    /// The deciding rule. `None` means that no rule matches and nginx admits by default.
    pub by: Option<DirectiveId>,
}

/// Returns what `rules` decide for users of this host; nginx doesn't tell one from another.
pub fn decide_users(rules: &[AccessRule]) -> UserDecision {
    // nginx keeps a list of its own for Unix peers (`rules_un`), which `all` and `unix:` enter.
    let first = rules.iter().find(|rule| !matches!(rule.whom, AccessSubject::Network(_)));
    UserDecision { admits: first.is_none_or(|rule| rule.admits), by: first.map(|rule| rule.id) }
}

/// Returns whether `one` admits a client with an address that `other` refuses.
pub fn admits_beyond(one: &[AccessRule], other: &[AccessRule]) -> bool {
    let (one, other) = (decide(one), decide(other));
    // Between these networks both decisions are constant, so each needs one look.
    let mut networks = one.iter().chain(&other).map(|at| at.network);
    networks.any(|network| admits(&one, network) && !admits(&other, network))
}

/// Returns whether at least one client with an address is admitted.
pub fn admits_some(rules: &[AccessRule]) -> bool {
    decide(rules).iter().any(|one| one.admits)
}

/// Returns whether clients in `network`, and in no longer entry, are admitted.
fn admits(decided: &[NetworkDecision], network: IpNet) -> bool {
    let around = decided.iter().filter(|one| one.network.contains(&network));
    around.max_by_key(|one| one.network.prefix_len()).is_some_and(|one| one.admits)
}

/// The whole of IPv4: 0.0.0.0/0.
pub fn all_v4() -> IpNet {
    IpNet::V4(Ipv4Net::default())
}

/// The whole of IPv6: ::/0.
pub fn all_v6() -> IpNet {
    IpNet::V6(Ipv6Net::default())
}

/// Decides one address family. Addresses that are in a network but in no longer one can match only
/// the rules for it and for the networks around it; the first of these decides.
fn family(rules: &[AccessRule], root: IpNet) -> Vec<NetworkDecision> {
    let mut first: HashMap<IpNet, usize> = HashMap::new();
    for (at, rule) in rules.iter().enumerate() {
        // Mapped networks are left out: such clients are folded to IPv4 before they are looked up.
        if let Some(network) = rule.whom.covers(root).filter(|network| !is_mapped(*network)) {
            first.entry(network).or_insert(at);
        }
    }
    // Behind every rule: nginx' default, which admits.
    first.entry(root).or_insert(usize::MAX);
    let mut networks: Vec<_> = first.into_iter().collect();
    // Wider networks sort before the networks that they contain.
    networks.sort_unstable_by_key(|(network, _)| (network.network(), network.prefix_len()));

    let (mut decided, mut around) = (Vec::new(), Vec::<(IpNet, usize)>::new());
    for (network, at) in networks {
        while around.last().is_some_and(|(wider, _)| !wider.contains(&network)) {
            around.pop();
        }
        let outer = around.last().map(|(_, at)| *at);
        // The first match decides: an earlier rule for a wider network overrides this one.
        let at = outer.map_or(at, |outer| at.min(outer));
        let admits = |at: usize| rules.get(at).is_none_or(|rule| rule.admits);
        if outer.is_none_or(|outer| admits(outer) != admits(at)) {
            decided.push(NetworkDecision {
                network,
                admits: admits(at),
                by: rules.get(at).map(|rule| rule.id),
            });
        }
        around.push((network, at));
    }
    decided
}

/// Returns rules about IPv4 that judge as nginx judges IPv4-mapped addresses where no rule is about
/// IPv4: by the rules about IPv6. Empty means that a rule is, and then judges these as well.
pub fn rules_for_mapped(rules: &[AccessRule]) -> Vec<AccessRule> {
    let is_v4 = |rule: &AccessRule| {
        matches!(rule.whom, AccessSubject::All | AccessSubject::Network(IpNet::V4(_)))
    };
    if rules.iter().any(is_v4) {
        return Vec::new();
    }
    let folded = |rule: &AccessRule| {
        Some(AccessRule { whom: AccessSubject::Network(unmapped(rule.whom)?), ..*rule })
    };
    rules.iter().filter_map(folded).collect()
}

/// Returns the rules by which nginx refuses IPv4-mapped addresses, while it admits the same clients
/// by their IPv4 addresses.
pub fn mapped_refusals(rules: &[AccessRule]) -> Vec<DirectiveId> {
    let folded = rules_for_mapped(rules);
    // By their IPv4 addresses the clients match no rule, and are admitted: only refusals differ.
    decide(&folded).iter().filter(|one| !one.admits).filter_map(|one| one.by).collect()
}

/// Returns the IPv4 clients whose mapped addresses are in a network of IPv6.
fn unmapped(whom: AccessSubject) -> Option<IpNet> {
    let AccessSubject::Network(IpNet::V6(network)) = whom else { return None };
    if mapped().is_some_and(|mapped| network.contains(&mapped)) {
        return Some(all_v4());
    }
    // The IPv4 address is the last 32 bits (RFC 4291 §2.5.5.2), so its prefix is 96 shorter.
    let address = network.network().to_ipv4_mapped()?;
    IpNet::new(address.into(), network.prefix_len().checked_sub(96)?).ok()
}

/// The IPv4-mapped addresses: ::ffff:0:0/96.
fn mapped() -> Option<Ipv6Net> {
    Ipv6Net::new(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96).ok()
}

fn same_family(one: IpNet, other: IpNet) -> bool {
    matches!((one, other), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

/// Returns whether `network` holds only IPv4-mapped addresses. Sidegate folds those of clients to
/// IPv4; nginx folds those of `set_real_ip_from`, and judges clients by [`rules_for_mapped`].
pub fn is_mapped(network: IpNet) -> bool {
    matches!((network, mapped()), (IpNet::V6(network), Some(all)) if all.contains(&network))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use sidegate::policy::list::{List, ListEntry};
    use sidegate::policy::network::Client;

    /// `+192.0.2.0/24`, `-all`: the rules, numbered from 0.
    fn rules(text: &str) -> Vec<AccessRule> {
        let rule = |(id, word): (usize, &str)| AccessRule {
            id,
            admits: word.starts_with('+'),
            whom: AccessSubject::parse(&word[1..]).unwrap(),
        };
        text.split_whitespace().enumerate().map(rule).collect()
    }

    fn check(text: &str, expected: &str) {
        let sign = |one: &NetworkDecision| {
            format!("{}{}", if one.admits { "+" } else { "-" }, one.network)
        };
        let shown: Vec<_> = decide(&rules(text)).iter().map(sign).collect();
        assert_eq!(shown.join(" "), expected, "{text}");
    }

    #[test]
    fn client_without_a_matching_rule_is_admitted() {
        check("", "+0.0.0.0/0 +::/0");
        check("-192.0.2.0/24", "+0.0.0.0/0 -192.0.2.0/24 +::/0");
        check("+192.0.2.0/24 -0.0.0.0/0", "-0.0.0.0/0 +192.0.2.0/24 +::/0");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        check("-192.0.2.1 +192.0.2.0/24 -all", "-0.0.0.0/0 +192.0.2.0/24 -192.0.2.1/32 -::/0");
        check("+192.0.2.0/24 -192.0.2.1 -all", "-0.0.0.0/0 +192.0.2.0/24 -::/0");
        check("-all +192.0.2.0/24", "-0.0.0.0/0 -::/0");
        check(
            "+10.1.0.0/16 -10.0.0.0/8 +10.2.0.0/16 +all",
            "+0.0.0.0/0 -10.0.0.0/8 +10.1.0.0/16 +::/0",
        );
    }

    #[test]
    fn families_are_apart() {
        check("+2001:db8::/32 -::/0", "+0.0.0.0/0 -::/0 +2001:db8::/32");
        check("+unix: -all", "-0.0.0.0/0 -::/0");
        check("-unix:", "+0.0.0.0/0 +::/0");
        check("-::ffff:192.0.2.0/120", "+0.0.0.0/0 +::/0");
    }

    #[test]
    fn users_of_this_host_are_decided_by_unix_and_all() {
        for (text, admits, by) in [
            ("", true, None),
            ("-192.0.2.0/24 -0.0.0.0/0 -::/0", true, None),
            ("+unix: -all", true, Some(0)),
            ("+192.0.2.0/24 -all +unix:", false, Some(1)),
            ("-unix: +all", false, Some(0)),
            ("+all -unix:", true, Some(0)),
        ] {
            assert_eq!(decide_users(&rules(text)), UserDecision { admits, by }, "{text}");
        }
    }

    #[test]
    fn words_are_read_as_nginx_reads_them() {
        for (text, whom) in [
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(
                AccessSubject::parse(text),
                Some(AccessSubject::Network(whom.parse().unwrap())),
                "{text}"
            );
        }
        for wrong in [
            "",
            "any",
            "192.0.2",
            "192.0.2.0/33",
            "192.0.2.0/255.255.255.0",
            "192.0.2.0/",
            "255.255.255.255",
            "a.example",
        ] {
            assert_eq!(AccessSubject::parse(wrong), None, "{wrong}");
        }
    }

    /// Rules over few addresses, so that they overlap in every way.
    fn some_rules() -> impl Strategy<Value = Vec<AccessRule>> {
        let v4 =
            (0..16_u8, 26..=32_u8).prop_map(|(last, length)| format!("192.0.2.{last}/{length}"));
        let v6 = (0..16_u8, 120..=128_u8)
            .prop_map(|(last, length)| format!("2001:db8::{last:x}/{length}"));
        let wide = prop::sample::select(vec![
            "all",
            "unix:",
            "0.0.0.0/0",
            "::/0",
            "192.0.0.0/16",
            "::ffff:192.0.2.0/120",
            "::ffff:192.0.2.8/125",
            "::/64",
        ]);
        let whom = prop_oneof![4 => v4, 3 => v6, 1 => wide.prop_map(String::from)];
        prop::collection::vec((any::<bool>(), whom), 0..10).prop_map(|words| {
            let rule = |(id, (admits, whom)): (usize, (bool, String))| AccessRule {
                id,
                admits,
                whom: AccessSubject::parse(&whom).unwrap(),
            };
            words.into_iter().enumerate().map(rule).collect()
        })
    }

    fn some_client() -> impl Strategy<Value = IpAddr> {
        let v4 = (0..64_u8).prop_map(|last| IpAddr::from([192, 0, 2, last]));
        let v6 = (0..64_u16).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
        prop_oneof![
            v4,
            v6,
            Just(IpAddr::from([198, 51, 100, 1])),
            Just(IpAddr::from([0x2001, 0, 0, 0, 0, 0, 0, 1]))
        ]
    }

    /// Reference implementation: the first match decides, as in nginx.
    fn admitted(rules: &[AccessRule], client: IpAddr) -> bool {
        let matches = |rule: &&AccessRule| match rule.whom {
            AccessSubject::All => true,
            AccessSubject::Unix => false,
            AccessSubject::Network(network) => network.contains(&client),
        };
        rules.iter().find(matches).is_none_or(|rule| rule.admits)
    }

    /// Reference implementation: `ngx_http_access_handler` for a mapped address.
    fn admitted_mapped(rules: &[AccessRule], client: Ipv4Addr) -> bool {
        let is_v4 = |rule: &AccessRule| {
            matches!(rule.whom, AccessSubject::All | AccessSubject::Network(IpNet::V4(_)))
        };
        match rules.iter().any(is_v4) {
            true => admitted(rules, client.into()),
            false => admitted(rules, client.to_ipv6_mapped().into()),
        }
    }

    #[test]
    fn mapped_clients_meet_ipv6_rules_where_no_rule_is_about_ipv4() {
        for (text, expected) in [
            ("+2001:db8::/32 -::/0", "-0.0.0.0/0"),
            ("-::ffff:127.2.0.0/112", "+0.0.0.0/0 -127.2.0.0/16"),
            ("-::/1", "-0.0.0.0/0"),
            ("-::/64", "-0.0.0.0/0"),
            ("-::/96", "+0.0.0.0/0"),
            ("+::ffff:192.0.2.7 -::ffff:0:0/96", "-0.0.0.0/0 +192.0.2.7/32"),
            ("-::/0 +10.0.0.0/8", "+0.0.0.0/0"),
            ("-::/0 +all", "+0.0.0.0/0"),
            ("-unix:", "+0.0.0.0/0"),
        ] {
            let folded = rules_for_mapped(&rules(text));
            let sign = |one: &NetworkDecision| {
                format!("{}{}", if one.admits { "+" } else { "-" }, one.network)
            };
            let v4 = family(&folded, all_v4());
            let shown: Vec<_> = v4.iter().map(sign).collect();
            assert_eq!(shown.join(" "), expected, "{text}");
            let refuses = v4.iter().any(|one| !one.admits);
            assert_eq!(!mapped_refusals(&rules(text)).is_empty(), refuses, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_longest_prefix_decides_as_the_first_match_did(rules in some_rules(), clients in prop::collection::vec(some_client(), 20)) {
            let sign = |one: &NetworkDecision| ListEntry::parse(&format!("{}{}", if one.admits { "" } else { "!" }, one.network)).unwrap().unwrap();
            let entries = decide(&rules).iter().map(sign).zip(1..).collect();
            let list = List::new("a", "a", entries).unwrap();
            for client in clients {
                prop_assert_eq!(list.admits(Client::new(client), jiff::Timestamp::MIN), admitted(&rules, client), "{}", client);
            }
        }

        #[test]
        fn list_that_admits_a_further_client_is_found(one in some_rules(), other in some_rules(), clients in prop::collection::vec(some_client(), 30)) {
            let shown = clients.iter().any(|client| admitted(&one, *client) && !admitted(&other, *client));
            prop_assert!(!shown || admits_beyond(&one, &other));
            prop_assert!(!admits_beyond(&one, &one));
        }

        #[test]
        fn mapped_rules_decide_as_the_first_match_did(rules in some_rules(), last in 0..64_u8) {
            let client = Ipv4Addr::new(192, 0, 2, last);
            let all = [rules.clone(), rules_for_mapped(&rules)].concat();
            prop_assert_eq!(admitted(&all, client.into()), admitted_mapped(&rules, client));
            let refused = admitted(&rules, client.into()) && !admitted_mapped(&rules, client);
            prop_assert!(!refused || !mapped_refusals(&rules).is_empty());
        }

        #[test]
        fn no_network_is_redundant(rules in some_rules()) {
            let all = decide(&rules);
            for one in &all {
                let around = all.iter().filter(|other| other.network != one.network && other.network.contains(&one.network));
                let nearest = around.max_by_key(|other| other.network.prefix_len());
                prop_assert!(nearest.is_none_or(|nearest| nearest.admits != one.admits));
            }
        }
    }
}
