//! Lists of clients, with carve-outs and expiries: of networks the longest prefix decides, and of
//! users of this host the narrowest pattern.
//!
//! A list says whether it holds an address; the policy says whether that admits or denies. It reads
//! no file, resolves no name, and has no clock.

mod entry;
mod index;
pub mod pattern;
mod reach;
mod serial;
mod user_index;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::list::index::{Index, NetworkMatch};
use crate::policy::list::pattern::ClientPattern;
use crate::policy::list::user_index::{UserIndex, UserMatch};
use crate::policy::subject::SubjectRef;

pub use self::entry::{EntryError, Expiry, ListEntry};
pub use self::serial::{RevokedSerials, SerialEntry};

/// Entries under the name that a policy gives them.
pub struct List {
    /// Name that policies refer to it by.
    pub name: Arc<str>,
    /// File name for messages.
    pub file: Arc<str>,
    /// When its file was last written. `None` means that the entries are in the policy itself.
    pub modified: Option<Timestamp>,
    entries: Arc<Entries>,
}

/// The contents of a list. Policies that name the same file share them, and so do generations
/// between which the file has not changed.
pub struct Entries {
    /// In the order written, each with its line.
    all: Box<[(ListEntry, u32)]>,
    index: Index,
    users: UserIndex,
    /// Expiry of each entry that has one, in seconds of Unix time, in ascending order.
    expiries: Box<[i64]>,
}

/// Clients that a list contains with both signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignConflict {
    /// Line of the first entry, from 1.
    pub first: u32,
    /// Line of the entry with the opposite sign, from 1.
    pub second: u32,
    /// The clients that both lines name.
    pub pattern: ClientPattern,
}

impl Entries {
    /// Indexes `all`, each with its line. A network that is listed twice with one sign keeps the
    /// latest expiry.
    ///
    /// # Errors
    /// The list contains a network with both signs.
    pub fn new(mut all: Vec<(ListEntry, u32)>) -> Result<Entries, SignConflict> {
        let (index, users) = loop {
            // Removing the outlasted entries shifts the indexes of the rest, so the index is built
            // again.
            match (Index::new(&all), UserIndex::new(&all)) {
                (Ok(index), Ok(users)) => break (index, users),
                (Err(twins), _) | (_, Err(twins)) => drop_earlier_expiries(&mut all, &twins)?,
            }
        };
        let mut expiries: Vec<_> =
            all.iter().filter_map(|(entry, _)| Some(second_of(entry.expires()?))).collect();
        expiries.sort_unstable();
        Ok(Entries { all: all.into(), index, users, expiries: expiries.into() })
    }

    /// Iterates over the entries and their lines.
    pub fn iter(&self) -> impl Iterator<Item = (&ListEntry, u32)> {
        self.all.iter().map(|(entry, line)| (entry, *line))
    }

    /// The number of entries that lapse after `now`, up to and including `until`.
    pub fn lapsing(&self, now: Timestamp, until: Timestamp) -> usize {
        let by =
            |time: Timestamp| self.expiries.partition_point(|expiry| *expiry <= time.as_second());
        by(until).saturating_sub(by(now))
    }

    fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.expiries.partition_point(|expiry| *expiry <= now.as_second());
        Timestamp::from_second(*self.expiries.get(next)?).ok()
    }

    fn decide(&self, subject: SubjectRef<'_>, now: Timestamp) -> Option<Match> {
        // A lapsed entry counts as absent, so the next wider network decides.
        if let Some(ip) = subject.client.ip() {
            let mut held = self.index.holding(ip).map(Match::Network);
            return held.find(|held| !held.expires() || !self.at(*held).0.lapsed(now));
        }
        self.decide_user(subject, now)
    }

    /// A function apart, so that the look-up of an address stays small.
    #[inline(never)]
    fn decide_user(&self, subject: SubjectRef<'_>, now: Timestamp) -> Option<Match> {
        let mut held = self.users.holding(&self.all, subject);
        held.find(|held| !self.all[held.place].0.lapsed(now)).map(Match::User)
    }

    fn at(&self, held: Match) -> (&ListEntry, u32) {
        let place = match held {
            Match::Network(held) => self.index.place(held),
            Match::User(held) => held.place,
        };
        let (entry, line) = &self.all[place];
        (entry, *line)
    }
}

impl List {
    /// Creates a list whose entries are in the policy itself.
    ///
    /// # Errors
    /// See [`Entries::new`].
    pub fn new(
        name: impl Into<Arc<str>>,
        file: impl Into<Arc<str>>,
        entries: Vec<(ListEntry, u32)>,
    ) -> Result<List, SignConflict> {
        Ok(List {
            name: name.into(),
            file: file.into(),
            modified: None,
            entries: Arc::new(Entries::new(entries)?),
        })
    }

    /// Creates the list of a file with these `entries`, last written at `modified`.
    pub fn of_file(
        name: Arc<str>,
        file: Arc<str>,
        modified: Option<Timestamp>,
        entries: Arc<Entries>,
    ) -> List {
        List { name, file, modified, entries }
    }

    /// Whether both lists share the same entries in memory.
    pub fn shares(&self, other: &List) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries)
    }

    /// The number of entries that lapse after `now`, up to and including `until`.
    pub fn lapsing(&self, now: Timestamp, until: Timestamp) -> usize {
        self.entries.lapsing(now, until)
    }

    /// When the next entry lapses after `now`. `None` means that none does.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.entries.next_expiry(now)
    }

    /// How narrowly the list holds `subject` at the time `now`: the prefix length of the network,
    /// or a rank of patterns of users. `None` means that it doesn't.
    pub fn holds<'s>(&self, subject: impl Into<SubjectRef<'s>>, now: Timestamp) -> Option<u8> {
        let held = self.entries.decide(subject.into(), now);
        held.filter(|held| held.admits()).map(Match::length)
    }

    /// Whether the list holds `subject` at the time `now`.
    pub fn admits<'s>(&self, subject: impl Into<SubjectRef<'s>>, now: Timestamp) -> bool {
        self.entries.decide(subject.into(), now).is_some_and(|held| held.admits())
    }

    /// Returns the entry that decides on `subject`, and its line: the narrowest unlapsed entry
    /// at the time `now`.
    pub fn decide<'s>(
        &self,
        subject: impl Into<SubjectRef<'s>>,
        now: Timestamp,
    ) -> Option<(&ListEntry, u32)> {
        self.entries.decide(subject.into(), now).map(|held| self.entries.at(held))
    }

    /// Returns every entry that holds `subject`, lapsed ones too, the widest first.
    pub fn covering<'s>(
        &self,
        subject: impl Into<SubjectRef<'s>>,
    ) -> impl Iterator<Item = (&ListEntry, u32)> {
        let (subject, entries) = (subject.into(), &*self.entries);
        let networks = subject.client.ip().into_iter().flat_map(|ip| entries.index.holding(ip));
        let users = entries.users.holding(&entries.all, subject).map(Match::User);
        let narrowest_first: Vec<_> = networks.map(Match::Network).chain(users).collect();
        narrowest_first.into_iter().rev().map(|held| entries.at(held))
    }

    /// Returns every entry that holds each client of `pattern`, lapsed ones too, the narrowest
    /// first.
    pub fn around(&self, pattern: ClientPattern) -> impl Iterator<Item = (&ListEntry, u32)> {
        let entries = &*self.entries;
        let network = pattern.network().map(|network| network.addr());
        let networks = network.into_iter().flat_map(|first| entries.index.holding(first));
        // Those of users are few.
        let users = entries.users.iter().filter(move |_| network.is_none());
        let all = networks.map(Match::Network).chain(users.map(Match::User));
        let all = all.map(|held| entries.at(held));
        all.filter(move |(entry, _)| entry.pattern.contains(pattern))
    }

    /// Iterates over the entries about users of this host.
    pub fn user_entries(&self) -> impl Iterator<Item = &ListEntry> {
        let all = &self.entries.all;
        self.entries.users.iter().map(|held| &all[held.place].0)
    }

    /// Iterates over the entries and their lines.
    pub fn entries(&self) -> impl Iterator<Item = (&ListEntry, u32)> {
        self.entries.iter()
    }

    /// The number of networks; a network that is written twice counts once.
    pub fn len(&self) -> usize {
        self.entries.all.len()
    }

    /// Whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.all.is_empty()
    }
}

/// An entry that holds a client, and what a decision needs of it.
#[derive(Debug, Clone, Copy)]
enum Match {
    Network(NetworkMatch),
    User(UserMatch),
}

impl Match {
    const fn admits(&self) -> bool {
        match self {
            Match::Network(held) => held.admits,
            Match::User(held) => held.admits,
        }
    }

    const fn expires(&self) -> bool {
        match self {
            Match::Network(held) => held.expires,
            Match::User(_) => true,
        }
    }

    const fn length(self) -> u8 {
        match self {
            Match::Network(held) => held.length,
            Match::User(held) => held.rank,
        }
    }
}

/// The first whole second at which an entry with this expiry has lapsed.
fn second_of(expires: Timestamp) -> i64 {
    expires.as_second() + i64::from(expires.subsec_nanosecond() > 0)
}

/// Removes from `all` the entries that another with the same network outlasts. `twins` are their
/// indexes.
fn drop_earlier_expiries(
    all: &mut Vec<(ListEntry, u32)>,
    twins: &[Vec<u32>],
) -> Result<(), SignConflict> {
    let mut outlasted = Vec::new();
    for same in twins {
        let mut kept = same[0];
        for place in &same[1..] {
            let ((first, first_line), (second, second_line)) =
                (&all[kept as usize], &all[*place as usize]);
            // Neither sign can win: the file has to be corrected.
            if first.admits != second.admits {
                return Err(SignConflict {
                    first: *first_line,
                    second: *second_line,
                    pattern: first.pattern,
                });
            }
            let loser =
                if outlasts(second, first) { std::mem::replace(&mut kept, *place) } else { *place };
            outlasted.push(loser);
        }
    }
    outlasted.sort_unstable();
    // `retain` visits each entry once and in order, so the counter is its index.
    let mut places = 0..;
    all.retain(|_| places.next().is_some_and(|place| outlasted.binary_search(&place).is_err()));
    Ok(())
}

/// Whether `one` expires later than `other`. No expiry is the latest.
fn outlasts(one: &ListEntry, other: &ListEntry) -> bool {
    match (one.expires(), other.expires()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entries({})", self.all.len())
    }
}

/// Without the entries, of which there may be a million.
impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List")
            .field("name", &self.name)
            .field("file", &self.file)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Client;
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn client(address: &str) -> Client {
        Client::new(address.parse().unwrap())
    }

    fn list(lines: &[&str]) -> Result<List, SignConflict> {
        let entries = lines
            .iter()
            .zip(1..)
            .map(|(line, number)| (ListEntry::parse(line).unwrap().unwrap(), number));
        List::new("partners", "lists/partners.cidr", entries.collect())
    }

    /// The line that decides on `address` on new year's day of 2027, positive if it admits; 0 means
    /// none.
    fn check(lines: &[&str], address: &str, line: i64) {
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let list = list(lines).unwrap();
        let decides = list
            .decide(client(address), now)
            .map(|(entry, line)| if entry.admits { i64::from(line) } else { -i64::from(line) });
        assert_eq!(decides.unwrap_or(0), line, "{address} in {lines:?}");
        assert_eq!(list.admits(client(address), now), line > 0);
    }

    #[test]
    fn address_outside_the_list_is_not_held() {
        check(&[], "192.0.2.1", 0);
        check(&["192.0.2.0/24"], "192.0.3.1", 0);
        check(&["0.0.0.0/0"], "2001:db8::1", 0);
    }

    #[test]
    fn longest_prefix_decides_in_any_order() {
        check(&["192.0.2.0/24", "!192.0.2.13"], "192.0.2.13", -2);
        check(&["!192.0.2.13", "192.0.2.0/24"], "192.0.2.13", -1);
        check(&["192.0.2.0/24", "!192.0.2.13"], "192.0.2.14", 1);
        check(&["!10.0.0.0/8", "10.1.0.0/16", "!10.1.2.0/24"], "10.1.3.4", 2);
        check(&["2001:db8::/32", "!2001:db8:1::/48"], "2001:db8:1::1", -2);
    }

    #[test]
    fn ipv4_mapped_client_matches_its_ipv4_network() {
        check(&["10.0.0.0/16"], "::ffff:10.0.1.2", 1);
        check(&["::ffff:10.1.0.0/112"], "10.1.2.3", 1);
    }

    #[test]
    fn next_shorter_entry_decides_after_a_lapse() {
        check(&["10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24 expires=2026-12-31"], "10.1.2.3", -2);
        check(&["10.0.0.0/8", "!10.1.2.3 expires=2026-12-31"], "10.1.2.3", 1);
        check(&["192.0.2.1 expires=2026-12-31"], "192.0.2.1", 0);
        check(&["192.0.2.1 expires=2027-01-01"], "192.0.2.1", 1);
    }

    #[test]
    fn latest_expiry_wins_among_entries_of_one_sign() {
        check(&["192.0.2.1 expires=2026-12-31", "192.0.2.1 expires=2027-12-31"], "192.0.2.1", 2);
        check(&["192.0.2.1 expires=2027-12-31", "192.0.2.1 expires=2026-12-31"], "192.0.2.1", 1);
        check(
            &["192.0.2.1 expires=2027-12-31", "192.0.2.1", "192.0.2.1 expires=2028-12-31"],
            "192.0.2.1",
            2,
        );
        let list = list(&[
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.1/32 owner=later",
            "::ffff:192.0.2.2",
            "192.0.2.3",
        ])
        .unwrap();
        assert_eq!(list.entries().map(|(_, line)| line).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!((list.len(), list.is_empty()), (3, false));
    }

    #[test]
    fn one_network_with_both_signs_is_a_clash() {
        let clash = list(&["10.0.0.0/8", "192.0.2.1 ticket=SEC-1", "!192.0.2.1/32"]).unwrap_err();
        assert_eq!(
            (clash.first, clash.second, clash.pattern.to_string()),
            (2, 3, "192.0.2.1/32".to_owned())
        );
        assert!(
            list(&["!192.0.2.1 expires=2020-01-01", "192.0.2.1"]).is_err(),
            "a lapsed one as well"
        );
    }

    #[test]
    fn lapsing_entries_are_counted_without_lapsed_ones() {
        let list = list(&[
            "192.0.2.1 expires=2026-12-31",
            "192.0.2.2 expires=2027-01-15",
            "192.0.2.3 expires=2027-03-01",
            "192.0.2.4",
        ]);
        let check = |now: &str, until: &str| {
            list.as_ref().unwrap().lapsing(now.parse().unwrap(), until.parse().unwrap())
        };
        assert_eq!(check("2027-01-01T00:00:00Z", "2027-01-31T00:00:00Z"), 1);
        assert_eq!(check("2026-12-31T23:59:59Z", "2027-01-31T00:00:00Z"), 2);
        assert_eq!(check("2027-03-02T00:00:00Z", "2027-04-01T00:00:00Z"), 0);
    }

    #[test]
    fn covering_entries_come_shortest_first_lapsed_or_not() {
        let list = list(&[
            "!203.0.113.66",
            "203.0.113.0/24",
            "203.0.0.0/16 expires=2020-01-01",
            "10.0.0.0/8",
        ])
        .unwrap();
        assert_eq!(
            list.covering(client("203.0.113.66")).map(|(_, line)| line).collect::<Vec<_>>(),
            [3, 2, 1]
        );
    }

    #[test]
    fn a_list_shows_its_size_and_not_its_entries() {
        let list = list(&["192.0.2.1 owner=acme"]).unwrap();
        assert_eq!(
            format!("{list:?}"),
            r#"List { name: "partners", file: "lists/partners.cidr", len: 1, .. }"#
        );
    }

    /// Networks in a small world, so that they nest, meet and repeat.
    fn networks() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(longest)).unwrap().trunc()
        })
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let bits = || prop_oneof![0u32..4, (0u32..4).prop_map(|bits| bits << 30), any::<u32>()];
        prop_oneof![
            bits().prop_map(|bits| IpAddr::V4(bits.into())),
            (bits(), bits()).prop_map(|(high, low)| IpAddr::V6(
                (u128::from(high) << 96 | u128::from(low)).into()
            )),
            bits().prop_map(|bits| IpAddr::V6((0xffff_u128 << 32 | u128::from(bits)).into())),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<ListEntry>> {
        let entry = (networks(), any::<bool>(), prop::option::of(0i64..4)).prop_map(
            |(network, admits, expires)| {
                let expires = expires
                    .map(|second| format!(" expires={}", Timestamp::from_second(second).unwrap()));
                let line = format!(
                    "{}{network}{}",
                    if admits { "" } else { "!" },
                    expires.unwrap_or_default()
                );
                ListEntry::parse(&line).unwrap().unwrap()
            },
        );
        proptest::collection::vec(entry, 0..24)
    }

    /// Reads all of `entries` from end to end: the longest that has not lapsed.
    fn naive(entries: &[ListEntry], client: Client, now: Timestamp) -> Option<(IpNet, bool)> {
        let held = entries.iter().filter(|entry| {
            !entry.lapsed(now) && network_of(entry).contains(&client.ip().unwrap())
        });
        held.max_by_key(|entry| network_of(entry).prefix_len())
            .map(|entry| (network_of(entry), entry.admits))
    }

    fn network_of(entry: &ListEntry) -> IpNet {
        entry.pattern.network().unwrap()
    }

    fn contradict(entries: &[ListEntry]) -> bool {
        entries.iter().any(|one| {
            entries.iter().any(|other| one.pattern == other.pattern && one.admits != other.admits)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

        #[test]
        fn list_agrees_with_a_linear_search(
            entries in entries(),
            random in proptest::collection::vec(address(), 4),
            seconds in 0i64..5,
        ) {
            let now = Timestamp::from_second(seconds).unwrap();
            let list = List::new("list", "file", entries.iter().cloned().zip(1..).collect());
            prop_assert_eq!(list.is_err(), contradict(&entries));
            let Ok(list) = list else { return Ok(()) };
            let first = entries.iter().map(|entry| network_of(entry).addr());
            for client in random.into_iter().chain(first).map(Client::new) {
                let decides = list.decide(client, now);
                let found = decides.map(|(entry, _)| (network_of(entry), entry.admits));
                prop_assert_eq!(found, naive(&entries, client, now));
                prop_assert_eq!(list.admits(client, now), naive(&entries, client, now).is_some_and(|(_, admits)| admits));
                if let Some((entry, line)) = decides {
                    prop_assert_eq!(entry, &entries[line as usize - 1]);
                }
            }
        }
    }
}
