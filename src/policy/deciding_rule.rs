//! What decided: which rule had the last word on a request, and which entry of which list.
//!
//! For people: a log line or an explanation. `deciding_rule` is called after the verdict, on the
//! same policy and for the same instant, and agrees with it. Code that needs only the verdict calls
//! `judge`.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::list::{List, ListEntry};
use crate::policy::rule::Rule;
use crate::policy::subject::{Subject, SubjectRef};
use crate::policy::verdict::{AllowRule, Policy};
use crate::refusal::Refusal;

/// The rule that had the last word, and the entry that it relied on.
#[derive(Debug, Clone, Copy)]
pub struct DecidingRule<'p> {
    /// The rule that decided.
    pub rule: Rule,
    /// File and line of the rule.
    pub place: SourceLine<'p>,
    /// The entry that made the rule decide so. `None` means that no entry holds the client.
    pub by: Option<ListedEntry<'p>>,
    /// The entry that would admit the client if `by` were absent.
    pub instead: Option<ListedEntry<'p>>,
}

/// One entry together with its list.
#[derive(Debug, Clone, Copy)]
pub struct ListedEntry<'p> {
    /// The list that contains the entry.
    pub list: &'p List,
    /// The network, its sign and its annotations.
    pub entry: &'p ListEntry,
    /// Its line in the list's file, from 1.
    pub line: u32,
}

/// A line of a file, shown as `policies/market-data.toml:10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLine<'p> {
    /// File name, as the messages show it.
    pub file: &'p str,
    /// Line number, from 1.
    pub line: u32,
}

impl Policy {
    /// Returns what decided when `judge` or a limit gave `verdict` on `subject` and a request at
    /// the time `now`. `None` means that no rule of this policy did.
    pub fn deciding_rule(
        &self,
        subject: &Subject,
        is_plain: bool,
        verdict: Result<(), Refusal>,
        now: Timestamp,
    ) -> Option<DecidingRule<'_>> {
        let client = SubjectRef::from(subject);
        let (rule, by, instead) = match verdict {
            // Else the listener no longer verifies the certificate, and no policy decided.
            Err(Refusal::Identity) => {
                self.judge_certificate(subject).err()?;
                (Rule::Certificate, None, None)
            }
            Ok(()) => (Rule::Allow, self.admitting(client, now), None),
            Err(Refusal::Network) => match listed_by(&self.deny, client, now) {
                Some(denies) => (Rule::Deny, Some(denies), None),
                None => {
                    let (by, instead) = self.near_admission(client, now);
                    (Rule::Allow, by, instead)
                }
            },
            Err(refusal) => (without_entry(refusal, is_plain)?, None, None),
        };
        Some(DecidingRule {
            rule,
            place: SourceLine { file: &self.file, line: self.lines.of(rule) },
            by,
            instead,
        })
    }

    /// Returns where `rule` is written. `None` means that the policy's file does not contain it.
    pub fn source_line(&self, rule: Rule) -> Option<SourceLine<'_>> {
        let line = self.lines.of(rule);
        (line > 0).then_some(SourceLine { file: &self.file, line })
    }

    /// The entry that admits `client`. `None` also where the policy admits every client.
    fn admitting(&self, client: SubjectRef<'_>, now: Timestamp) -> Option<ListedEntry<'_>> {
        match &self.allow {
            AllowRule::Any => None,
            AllowRule::Lists(lists) => listed_by(lists, client, now),
        }
    }

    /// For a client that no list of `allow` admits: the carve-out that excludes it and the entry it
    /// is carved out of, else an entry that has lapsed.
    fn near_admission(
        &self,
        client: SubjectRef<'_>,
        now: Timestamp,
    ) -> (Option<ListedEntry<'_>>, Option<ListedEntry<'_>>) {
        let AllowRule::Lists(lists) = &self.allow else { return (None, None) };
        for list in lists {
            if let Some((entry, line)) = list.decide(client, now) {
                let admits = |(entry, _): &(&ListEntry, u32)| entry.admits && !entry.lapsed(now);
                // `covering` yields the longest prefix last: the nearest network around the
                // carve-out.
                let instead = list.covering(client).filter(admits).last();
                return (
                    Some(ListedEntry { list, entry, line }),
                    instead.map(|(entry, line)| ListedEntry { list, entry, line }),
                );
            }
        }
        // No list has an entry that decides, so all entries around the client have lapsed.
        let mut lapsed = lists.iter().flat_map(|list| {
            list.covering(client).map(move |(entry, line)| ListedEntry { list, entry, line })
        });
        (lapsed.find(|listed| listed.entry.admits), None)
    }
}

/// The entry by which a list admits `client`, from the first of `lists` that does.
fn listed_by<'l>(
    lists: &'l [Arc<List>],
    client: SubjectRef<'_>,
    now: Timestamp,
) -> Option<ListedEntry<'l>> {
    lists.iter().find_map(|list| {
        let (entry, line) = list.decide(client, now)?;
        entry.admits.then_some(ListedEntry { list, entry, line })
    })
}

/// The rule behind a refusal in which no list has a part.
const fn without_entry(refusal: Refusal, is_plain: bool) -> Option<Rule> {
    match refusal {
        Refusal::Origin => Some(Rule::Origins),
        Refusal::Subprotocol => Some(Rule::Subprotocols),
        Refusal::Rate { .. } if is_plain => Some(Rule::Requests),
        Refusal::Rate { .. } => Some(Rule::Upgrades),
        Refusal::Connections | Refusal::Capacity => Some(Rule::Connections),
        Refusal::Pending
        | Refusal::Network
        | Refusal::Proxy
        | Refusal::Tls
        | Refusal::Head(_)
        | Refusal::Path
        | Refusal::Forwarded
        | Refusal::Misdirected
        | Refusal::Route
        | Refusal::Identity
        | Refusal::Handshake
        | Refusal::Version
        | Refusal::Plain
        | Refusal::Body
        | Refusal::Draining
        | Refusal::Banned
        | Refusal::Backend(_) => None,
    }
}

impl<'p> ListedEntry<'p> {
    /// File and line of the entry.
    pub fn source_line(&self) -> SourceLine<'p> {
        SourceLine { file: &self.list.file, line: self.line }
    }
}

impl fmt::Display for SourceLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Client;

    use crate::policy::rule::RuleLines;
    use proptest::prelude::*;

    use crate::policy::limit::Limits;
    use crate::policy::origin::Origins;
    use crate::policy::request::{Host, Request, RequestType, Scheme};
    use crate::policy::subprotocol::Subprotocols;
    use crate::refusal::BackendError;

    const LINES: RuleLines = RuleLines {
        allow: 10,
        deny: 11,
        origins: 12,
        subprotocols: 13,
        certificate: 14,
        upgrades: 20,
        requests: 21,
        connections: 22,
        streams: 23,
    };

    /// A policy whose lists are called `a0`, `a1`… and `d0`, `d1`…; no list of `allow` admits every
    /// client.
    fn policy<L: AsRef<[T]>, T: AsRef<str>>(allow: &[L], deny: &[L]) -> Policy {
        let lists = |letter: char, lists: &[L]| -> Vec<_> {
            lists
                .iter()
                .enumerate()
                .map(|(at, lines)| list(format!("{letter}{at}"), lines.as_ref()))
                .collect()
        };
        Policy {
            name: "feed".into(),
            file: "policies/feed.toml".into(),
            owner: None,
            allow: if allow.is_empty() {
                AllowRule::Any
            } else {
                AllowRule::Lists(lists('a', allow))
            },
            deny: lists('d', deny),
            origins: Some(Origins::new(vec![Origins::parse_one("https://a.example").unwrap()])),
            subprotocols: Some(Subprotocols::new(vec!["ticks".into()])),
            certificate: None,
            limits: Limits::default(),
            lines: LINES,
            candidate: None,
        }
    }

    fn list<T: AsRef<str>>(name: String, lines: &[T]) -> Arc<List> {
        let entries = lines
            .iter()
            .zip(1..)
            .map(|(line, number)| (ListEntry::parse(line.as_ref()).unwrap().unwrap(), number));
        let file = format!("lists/{name}.cidr");
        Arc::new(List::new(name, file, entries.collect()).unwrap())
    }

    fn client(address: &str) -> Client {
        Client::new(address.parse().unwrap())
    }

    fn request(origin: &str, subprotocol: &str) -> Request {
        let kind = RequestType::Attempt { subprotocols: [subprotocol.into()].into() };
        let host = Host::parse(b"a.example").unwrap();
        Request {
            host,
            path: "/".into(),
            origin: Some(origin.into()),
            kind,
            scheme: Scheme::Unknown,
            reported_host: None,
        }
    }

    /// The decision on 192.0.2.1 on new year's day of 2027, in words: `rule-place [entry
    /// entry-place] [instead …]`.
    fn check(allow: &[&[&str]], deny: &[&[&str]], said: &str) {
        let (policy, now) = (policy(allow, deny), "2027-01-01T00:00:00Z".parse().unwrap());
        let client = client("192.0.2.1");
        let verdict = policy.judge(&client.into(), &request("https://a.example", "ticks"), now);
        let decisive = policy.deciding_rule(&client.into(), false, verdict, now).unwrap();
        let listed =
            |listed: ListedEntry<'_>| format!(" {} {}", listed.entry, listed.source_line());
        let instead = decisive.instead.map(|instead| format!(" instead{}", listed(instead)));
        let by = decisive.by.map(listed);
        let words =
            format!("{}{}{}", decisive.place, by.unwrap_or_default(), instead.unwrap_or_default());
        assert_eq!(words, said, "allow {allow:?}, deny {deny:?}");
        assert!(matches!(
            (verdict, decisive.rule),
            (_, Rule::Allow) | (Err(Refusal::Network), Rule::Deny)
        ));
    }

    #[test]
    fn admission_names_an_entry_or_the_rule() {
        check(&[], &[], "policies/feed.toml:10");
        check(
            &[&["10.0.0.0/8", "192.0.2.0/24"]],
            &[],
            "policies/feed.toml:10 192.0.2.0/24 lists/a0.cidr:2",
        );
        check(
            &[&["10.0.0.0/8"], &["192.0.2.1"]],
            &[],
            "policies/feed.toml:10 192.0.2.1 lists/a1.cidr:1",
        );
        check(
            &[&["!192.0.2.1"], &["0.0.0.0/0"]],
            &[&["!192.0.2.1"]],
            "policies/feed.toml:10 0.0.0.0/0 lists/a1.cidr:1",
        );
    }

    #[test]
    fn a_denial_beats_every_admission() {
        check(
            &[&["192.0.2.1"]],
            &[&["10.0.0.0/8"], &["192.0.2.0/24"]],
            "policies/feed.toml:11 192.0.2.0/24 lists/d1.cidr:1",
        );
        check(
            &[],
            &[&["0.0.0.0/0 expires=2026-12-31", "192.0.0.0/8"]],
            "policies/feed.toml:11 192.0.0.0/8 lists/d0.cidr:2",
        );
    }

    #[test]
    fn carve_out_names_the_network_around_it() {
        let carved =
            "policies/feed.toml:10 !192.0.2.1 lists/a1.cidr:2 instead 192.0.2.0/24 lists/a1.cidr:1";
        check(&[&["10.0.0.0/8"], &["192.0.2.0/24", "!192.0.2.1"]], &[], carved);
        check(&[&["!192.0.0.0/8"]], &[], "policies/feed.toml:10 !192.0.0.0/8 lists/a0.cidr:1");
    }

    #[test]
    fn unlisted_client_has_no_entry_or_a_lapsed_one() {
        check(&[&["10.0.0.0/8"]], &[], "policies/feed.toml:10");
        check(
            &[&["10.0.0.0/8", "192.0.2.1 expires=2026-12-31"]],
            &[],
            "policies/feed.toml:10 192.0.2.1 lists/a0.cidr:2",
        );
    }

    #[test]
    fn rules_without_lists_have_their_line_or_none() {
        let (policy, now) = (policy(&[&["192.0.2.1"]], &[]), Timestamp::UNIX_EPOCH);
        let line = |refusal, is_plain| {
            policy
                .deciding_rule(&client("192.0.2.1").into(), is_plain, Err(refusal), now)
                .map(|one| one.place.line)
        };
        let rate = Refusal::Rate { retry_after: std::time::Duration::from_secs(1) };
        assert_eq!([line(rate, false), line(rate, true)], [Some(20), Some(21)]);
        assert_eq!(
            [line(Refusal::Origin, false), line(Refusal::Subprotocol, false)],
            [Some(12), Some(13)]
        );
        assert_eq!(
            [line(Refusal::Connections, false), line(Refusal::Capacity, false)],
            [Some(22), Some(22)]
        );
        assert_eq!(
            [line(Refusal::Handshake, false), line(Refusal::Backend(BackendError::TimedOut), true)],
            [None, None]
        );
    }

    /// Lines in a small world, so that they nest and meet; a network stands there once.
    fn lines() -> impl Strategy<Value = Vec<String>> {
        let line =
            (0u8..4, 24u8..=32, any::<bool>(), 0u8..4).prop_map(|(host, length, admits, day)| {
                let network =
                    ipnet::Ipv4Net::new([192, 0, 2, host << 6].into(), length).unwrap().trunc();
                let expires =
                    if day == 0 { String::new() } else { format!(" expires=1970-01-0{day}") };
                (network, format!("{}{network}{expires}", if admits { "" } else { "!" }))
            });
        proptest::collection::btree_map(0u8..8, line, 0..8).prop_map(|lines| {
            let by_network: std::collections::BTreeMap<_, _> = lines.into_values().collect();
            by_network.into_values().collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(2048)
        })]

        #[test]
        fn deciding_rule_agrees_with_the_verdict(
            allow in proptest::collection::vec(lines(), 0..3),
            deny in proptest::collection::vec(lines(), 0..3),
            host in 0u8..=255,
            day in 0i64..4,
            (origin, subprotocol) in (any::<bool>(), any::<bool>()),
        ) {
            let policy = policy(&allow, &deny);
            let now = Timestamp::from_second(day * 86_400).unwrap();
            let client = Client::new([192, 0, 2, host].into());
            let asked = request(
                if origin { "https://a.example" } else { "null" },
                if subprotocol { "ticks" } else { "x" },
            );
            let verdict = policy.judge(&client.into(), &asked, now);
            let decisive = policy.deciding_rule(&client.into(), false, verdict, now).unwrap();

            let says = decisive.by.map(|by| by.entry.admits && !by.entry.lapsed(now));
            let ip = client.ip().unwrap();
            let network = |one: ListedEntry<'_>| one.entry.pattern.network().unwrap();
            let holds = |listed: Option<ListedEntry<'_>>| {
                listed.is_none_or(|one| network(one).contains(&ip))
            };
            prop_assert!(holds(decisive.by) && holds(decisive.instead));
            match (verdict, decisive.rule) {
                (Ok(()), Rule::Allow) => prop_assert_eq!(says, (!allow.is_empty()).then_some(true)),
                (Err(Refusal::Network), Rule::Deny) => prop_assert_eq!(says, Some(true)),
                (Err(Refusal::Network), Rule::Allow) => {
                    prop_assert!(says != Some(true) && !allow.is_empty());
                }
                (Err(Refusal::Origin), Rule::Origins) => prop_assert!(!origin && says.is_none()),
                (Err(Refusal::Subprotocol), Rule::Subprotocols) => {
                    prop_assert!(!subprotocol && says.is_none());
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
