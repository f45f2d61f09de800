//! Bans: clients that are refused for a while, whatever the policies say.
//!
//! Pure: a set is a value, and the time is passed in. Keeping a set and swapping it are not done
//! here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;

use crate::policy::certificate::IdentityPattern;
use crate::policy::identity_map::IdentityMap;
use crate::policy::network::{Networks, fold, host_length};
use crate::policy::peers::PeerPattern;
use crate::policy::subject::SubjectRef;
use crate::policy::unix::UnixPattern;

/// Most bans that are ordered one by one. CrowdSec's have a bound of their own.
pub const MAX_ORDERED: usize = 100_000;

/// Most bans of identities among them: each is in several maps, which a change copies.
pub const MAX_IDENTITIES: usize = 10_000;

/// Greatest total weight of the bans that are ordered one by one, in bytes of memory and disk.
pub const MAX_WEIGHT: usize = 32 << 20;

/// Weight of a ban without its texts.
const BARE_WEIGHT: usize = 256;

/// The clients that a ban holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BanTarget {
    /// Clients of this network, which is never one of IPv4-mapped addresses.
    Network(IpNet),
    /// Processes of this user of the host.
    UnixUid(u32),
    /// Clients whose certificate matches.
    Identity(IdentityPattern),
}

/// A text that is not a ban's target: a sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanTargetFault(String);

impl fmt::Display for BanTargetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BanTarget {
    /// Parses an address, a network or `unix:uid=33`. An IPv6 address becomes its /64, since one
    /// host owns a whole one, except where [`host_length`] is 128.
    ///
    /// # Errors
    /// The text has another form, or the network has host bits.
    pub fn parse_client(text: &str) -> Result<BanTarget, BanTargetFault> {
        let fault = |what: &str| BanTargetFault(format!("`{}` {what}", text.escape_debug()));
        if UnixPattern::is_meant(text) {
            // Names are not resolved: a lookup may block on a directory server, and a kept ban
            // would move to another user once the name gets another number.
            return match UnixPattern::parse(text, &|_, _| None) {
                Ok(UnixPattern::Uid(uid)) => Ok(BanTarget::UnixUid(uid)),
                _ => Err(fault("is no user of this host: write its number, like unix:uid=33")),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(BanTarget::of_address(address));
        }
        let form = "is neither an address nor a network: write 192.0.2.7 or 2001:db8::/48";
        let network: IpNet = text.parse().map_err(|_| fault(form))?;
        // Host bits hint at a mistyped length. To cut them would ban more clients than were meant.
        if network.trunc() != network {
            let whole = network.trunc();
            let what = format!("has bits behind its length: write {whole}, or a longer length");
            return Err(fault(&what));
        }
        Ok(BanTarget::Network(fold(network)))
    }

    /// Parses a name of certificates, as the key `certificate` of a policy has it.
    ///
    /// # Errors
    /// The text is no such pattern.
    pub fn parse_identity(text: &str) -> Result<BanTarget, BanTargetFault> {
        IdentityPattern::parse(text).map(BanTarget::Identity).map_err(|fault| {
            let shown = text.escape_debug();
            BanTargetFault(format!(
                "`{shown}` is no name of a certificate, {fault}: write one like \
                 spiffe://example.com/ws/edge or dns:client.example.com"
            ))
        })
    }

    /// The target that holds one address.
    pub fn of_address(address: IpAddr) -> BanTarget {
        // A mapped address is one of IPv4. Its /64 would be `::/64`, which holds all of them.
        BanTarget::Network(match address.to_canonical() {
            IpAddr::V4(address) => IpNet::from(IpAddr::V4(address)),
            IpAddr::V6(address) => {
                let length = host_length(address);
                Ipv6Net::new(address, length).map_or(IpAddr::V6(address).into(), IpNet::V6).trunc()
            }
        })
    }

    /// Whether the target holds `subject`.
    pub fn holds<'s>(&self, subject: impl Into<SubjectRef<'s>>) -> bool {
        let subject = subject.into();
        match self {
            BanTarget::Network(network) => {
                subject.client.ip().is_some_and(|address| network.contains(&address))
            }
            BanTarget::UnixUid(uid) => UnixPattern::Uid(*uid).matches(subject),
            // As in `deny`: a name that programs read in different ways counts as a match.
            BanTarget::Identity(pattern) => {
                subject.certificate().is_some_and(|certificate| pattern.denies(certificate))
            }
        }
    }

    /// Whether a peer of the target may be one of `peers`.
    pub fn meets(&self, peers: PeerPattern) -> bool {
        match (self, peers) {
            (BanTarget::Network(network), PeerPattern::Network(peers)) => {
                network.contains(&peers) || peers.contains(network)
            }
            (BanTarget::UnixUid(_), PeerPattern::Unix) => true,
            (BanTarget::UnixUid(uid), PeerPattern::UnixUid(peer)) => *uid == peer,
            _ => false,
        }
    }

    /// Whether the target holds a loopback address.
    pub fn holds_loopback(&self) -> bool {
        let BanTarget::Network(network) = self else { return false };
        let loopback = match network {
            IpNet::V4(_) => IpNet::new([127, 0, 0, 0].into(), 8),
            IpNet::V6(_) => IpNet::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
        };
        // Either may hold the other: 127.0.0.1 is a part of loopback, and 0.0.0.0/0 has all of it.
        loopback.is_ok_and(|loopback| network.contains(&loopback) || loopback.contains(network))
    }
}

/// Displays an IPv4 address without its length, and all others as an operator writes them.
impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BanTarget::Network(IpNet::V4(one)) if one.prefix_len() == 32 => one.addr().fmt(f),
            BanTarget::Network(network) => network.fmt(f),
            BanTarget::UnixUid(uid) => write!(f, "unix:uid={uid}"),
            BanTarget::Identity(pattern) => pattern.fmt(f),
        }
    }
}

/// Where a ban comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanOrigin {
    /// An operator, by `sidegate ban`.
    Operator,
    /// `sidegate ban --origin fail2ban`.
    Fail2ban,
    /// A decision of CrowdSec's Local API.
    Crowdsec,
}

impl BanOrigin {
    /// All variants, in the order of the enum.
    pub const ALL: [BanOrigin; 3] = [BanOrigin::Operator, BanOrigin::Fail2ban, BanOrigin::Crowdsec];

    /// The value that metrics, logs and files use.
    pub const fn word(self) -> &'static str {
        match self {
            BanOrigin::Operator => "operator",
            BanOrigin::Fail2ban => "fail2ban",
            BanOrigin::Crowdsec => "crowdsec",
        }
    }

    /// The origin with this word.
    pub fn parse(word: &str) -> Option<BanOrigin> {
        BanOrigin::ALL.into_iter().find(|origin| origin.word() == word)
    }
}

/// One ban of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The clients that it holds.
    pub target: BanTarget,
    /// When it ends by itself. `None` means never.
    pub until: Option<Timestamp>,
    /// Reason, in words of the operator.
    pub why: Box<str>,
    /// Where it comes from.
    pub origin: BanOrigin,
    /// When it was ordered.
    pub since: Timestamp,
    /// User id of the process that ordered it. `None` means not known.
    pub by: Option<u32>,
}

impl Ban {
    /// The memory and the room on disk that the ban takes, roughly.
    fn weight(&self) -> usize {
        BARE_WEIGHT + self.why.len() + self.target.to_string().len()
    }

    /// Whether the ban has ended by itself.
    pub fn lapsed(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// A set that has no room for a ban: a sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanSetFull(String);

impl fmt::Display for BanSetFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All bans. Each origin has bans of its own, so that none replaces or lifts those of another.
#[derive(Debug, Clone, Default)]
pub struct BanSet {
    /// In the order of `BanOrigin`. Shared: a change of one origin copies no other.
    origins: [Arc<TargetBans>; BanOrigin::ALL.len()],
}

impl BanSet {
    /// Makes a set. Of two bans with one origin and target, the later one counts.
    pub fn new(bans: impl IntoIterator<Item = Arc<Ban>>) -> BanSet {
        let mut set = BanSet::default();
        for ban in bans {
            set.insert(ban);
        }
        set
    }

    /// Adds a ban, and returns the ban of its origin with the same target that it replaces.
    pub fn insert(&mut self, ban: Arc<Ban>) -> Option<Arc<Ban>> {
        Arc::make_mut(&mut self.origins[ban.origin as usize]).insert(ban)
    }

    /// Checks that the set may have `ban` too, or in place of the ban that it replaces.
    ///
    /// # Errors
    /// One of the bounds of the set is reached.
    pub fn check_room(&self, ban: &Ban) -> Result<(), BanSetFull> {
        let is_other = |one: &&Arc<Ban>| one.origin != ban.origin || one.target != ban.target;
        let (mut count, mut identities, mut weight) = (1, 0, ban.weight());
        for other in self.ordered().filter(is_other) {
            count += 1;
            identities += usize::from(matches!(other.target, BanTarget::Identity(_)));
            weight += other.weight();
        }
        let is_identity = matches!(ban.target, BanTarget::Identity(_));
        let full = |what: String| {
            let remedy = "lift some with `sidegate unban`, or ban a network or a pattern instead";
            Err(BanSetFull(format!("{what}: {remedy}")))
        };
        if is_identity && identities >= MAX_IDENTITIES {
            return full(format!("there are {MAX_IDENTITIES} bans of identities, the most"));
        }
        if count > MAX_ORDERED {
            return full(format!("there are {MAX_ORDERED} bans, the most"));
        }
        match weight > MAX_WEIGHT {
            true => full(format!("the bans have {} MiB, the most", MAX_WEIGHT >> 20)),
            false => Ok(()),
        }
    }

    /// Returns the set without the bans for which `removes` holds, and these.
    pub fn without(&self, removes: impl Fn(&Ban) -> bool) -> (BanSet, Vec<Arc<Ban>>) {
        let (mut next, mut gone) = (self.clone(), Vec::new());
        for bans in &mut next.origins {
            let (kept, mut removed) = bans.without(&removes);
            // Most changes concern one origin. The others stay shared with the former set.
            if !removed.is_empty() {
                *bans = Arc::new(kept);
                gone.append(&mut removed);
            }
        }
        (next, gone)
    }

    /// Returns the ban that holds `subject` at the time `now`. Of several origins the first names
    /// it, and of the networks of one origin the longest prefix.
    pub fn find<'s>(
        &self,
        subject: impl Into<SubjectRef<'s>>,
        now: Timestamp,
    ) -> Option<&Arc<Ban>> {
        let subject = subject.into();
        let some = self.origins.iter().filter(|bans| !bans.is_empty());
        some.filter_map(|bans| bans.find(subject, now)).next()
    }

    /// When the next ban ends by itself, but for those of CrowdSec. `None` means that none does.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        // CrowdSec's are many, end at any moment, and are removed at its polls.
        self.ordered().filter_map(|ban| ban.until).min()
    }

    /// Iterates over the bans that were ordered one by one: all but those of CrowdSec.
    pub fn ordered(&self) -> impl Iterator<Item = &Arc<Ban>> {
        let ordered = BanOrigin::ALL.into_iter().filter(|origin| *origin != BanOrigin::Crowdsec);
        ordered.flat_map(|origin| self.of(origin).iter())
    }

    /// Iterates over the bans by origin: networks, users, then identities.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Ban>> {
        self.origins.iter().flat_map(|bans| bans.iter())
    }

    /// Returns the set with `bans` in place of those of `origin`.
    pub fn with(&self, origin: BanOrigin, bans: TargetBans) -> BanSet {
        let mut next = self.clone();
        next.origins[origin as usize] = Arc::new(bans);
        next
    }

    /// The bans of one origin.
    pub fn of(&self, origin: BanOrigin) -> &TargetBans {
        &self.origins[origin as usize]
    }

    /// The number of bans.
    pub fn len(&self) -> usize {
        self.origins.iter().map(|bans| bans.len()).sum()
    }

    /// Whether there is no ban.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The bans of one origin, by target. A target has one ban at most.
#[derive(Debug, Clone, Default)]
pub struct TargetBans {
    networks: Networks<Arc<Ban>>,
    users: BTreeMap<u32, Arc<Ban>>,
    identities: IdentityMap<Arc<Ban>>,
}

/// Of two bans with one target, the later one counts.
impl FromIterator<Arc<Ban>> for TargetBans {
    fn from_iter<I: IntoIterator<Item = Arc<Ban>>>(bans: I) -> TargetBans {
        let mut all = TargetBans::default();
        bans.into_iter().for_each(|ban| drop(all.insert(ban)));
        all
    }
}

impl TargetBans {
    /// Adds a ban, and returns the ban with the same target that it replaces.
    pub fn insert(&mut self, ban: Arc<Ban>) -> Option<Arc<Ban>> {
        match &ban.target {
            BanTarget::Network(network) => self.networks.insert(*network, ban),
            BanTarget::UnixUid(uid) => self.users.insert(*uid, ban),
            BanTarget::Identity(pattern) => {
                let pattern = pattern.clone();
                self.identities.insert(&pattern, ban)
            }
        }
    }

    fn without(&self, removes: impl Fn(&Ban) -> bool) -> (TargetBans, Vec<Arc<Ban>>) {
        // Looks before it copies: nothing is removed most of the time.
        if !self.iter().any(|ban| removes(ban)) {
            return Default::default();
        }
        // Makes a new set, since decisions may read this one meanwhile. Both share the bans.
        let all = self.iter().cloned();
        let (removed, kept): (Vec<_>, Vec<_>) = all.partition(|ban| removes(ban));
        let mut next = TargetBans::default();
        kept.into_iter().for_each(|ban| drop(next.insert(ban)));
        (next, removed)
    }

    /// Removes the bans for which `removes` holds, and returns them.
    pub fn split_off(&mut self, removes: impl Fn(&Ban) -> bool) -> TargetBans {
        let (kept, removed) = self.without(removes);
        if !removed.is_empty() {
            *self = kept;
        }
        removed.into_iter().collect()
    }

    /// The ban of exactly this target.
    pub fn get(&self, target: &BanTarget) -> Option<&Arc<Ban>> {
        match target {
            BanTarget::Network(network) => self.networks.get(*network),
            BanTarget::UnixUid(uid) => self.users.get(uid),
            BanTarget::Identity(pattern) => self.identities.get(pattern),
        }
    }

    /// Returns the ban that holds `subject` at the time `now`: of networks the longest prefix.
    pub fn find(&self, subject: SubjectRef<'_>, now: Timestamp) -> Option<&Arc<Ban>> {
        // A ban that has ended stays in the set until its keeper removes it. It must not hide a
        // wider ban that still holds, so it is left out before the longest prefix is chosen.
        let counts = |ban: &&Arc<Ban>| !ban.lapsed(now);
        let client = subject.client;
        let network =
            client.ip().and_then(|address| self.networks.narrowest(address, |ban| counts(&ban)));
        // Closures, since most subjects need neither.
        let user = || client.user().and_then(|user| self.users.get(&user.uid)).filter(counts);
        let identity = || {
            let certificate = subject.certificate().filter(|_| !self.identities.is_empty())?;
            self.identities.denying(certificate, |ban| counts(&ban))
        };
        network.or_else(user).or_else(identity)
    }

    /// Returns the bans of networks that hold `address` at the time `now`.
    pub fn of_address(&self, address: IpAddr, now: Timestamp) -> Vec<&Arc<Ban>> {
        let mut all = self.networks.covering(address);
        all.retain(|ban| !ban.lapsed(now));
        all
    }

    /// Iterates over the bans: networks, users, then identities.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Ban>> {
        let networks = self.networks.iter().map(|(_, ban)| ban);
        networks.chain(self.users.values()).chain(self.identities.values())
    }

    /// The number of bans.
    pub fn len(&self) -> usize {
        self.networks.len() + self.users.len() + self.identities.len()
    }

    /// Whether there is no ban.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::policy::certificate::ClientCertificate;
    use crate::policy::network::{Client, Peer, UnixUser};
    use crate::policy::subject::Subject;

    fn target(text: &str) -> BanTarget {
        BanTarget::parse_client(text).unwrap()
    }

    fn ban(target: BanTarget, until: Option<i64>) -> Arc<Ban> {
        let until = until.map(|second| Timestamp::from_second(second).unwrap());
        let (origin, since) = (BanOrigin::Operator, Timestamp::UNIX_EPOCH);
        Arc::new(Ban { target, until, why: "x".into(), origin, since, by: None })
    }

    #[test]
    fn target_is_canonical_and_host_bits_are_an_error() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::1/128", "2001:db8::1/128"),
            ("64:ff9b::192.0.2.7", "64:ff9b::c000:207/128"),
            ("64:ff9b:1:abcd::5", "64:ff9b:1:abcd::5/128"),
            ("64:ff9b:2::5", "64:ff9b:2::/64"),
            ("64:ff9b::1:0:0", "64:ff9b::/64"),
            ("fe80::1", "fe80::1/128"),
            ("febf::1", "febf::1/128"),
            ("fec0::1", "fec0::/64"),
            ("::192.0.2.7", "::c000:207/128"),
            ("::ffff:0:192.0.2.7", "::ffff:0:c000:207/128"),
            ("::1", "::1/128"),
            ("unix:uid=33", "unix:uid=33"),
        ] {
            assert_eq!(target(text).to_string(), shown);
        }
        for (text, says) in [
            ("192.0.2.7/24", "write 192.0.2.0/24"),
            ("2001:db8::1/48", "write 2001:db8::/48"),
            ("example.com", "is neither an address nor a network"),
            ("", "is neither"),
            ("192.0.2.7/33", "is neither"),
            ("unix", "unix:uid=33"),
            ("unix:gid=4", "unix:uid=33"),
            ("fe80::1%eth0", "is neither"),
        ] {
            let fault = BanTarget::parse_client(text).unwrap_err().to_string();
            assert!(fault.contains(says), "{text}: {fault}");
        }
    }

    #[test]
    fn peers_and_loopback_are_met_from_both_sides() {
        let meets = |ban: &str, peers: PeerPattern| target(ban).meets(peers);
        let peers = |text: &str| PeerPattern::Network(text.parse().unwrap());
        assert!(meets("10.0.0.0/8", peers("10.1.0.0/16")));
        assert!(meets("10.1.2.3", peers("10.1.0.0/16")));
        assert!(!meets("10.2.0.0/16", peers("10.1.0.0/16")));
        assert!(meets("unix:uid=33", PeerPattern::Unix));
        assert!(!meets("unix:uid=33", PeerPattern::UnixUid(34)));
        let loopback = |text: &str| target(text).holds_loopback();
        assert!(loopback("127.0.0.1") && loopback("0.0.0.0/0") && loopback("::1"));
        assert!(loopback("::/0") && !loopback("128.0.0.0/1") && !loopback("2001:db8::1"));
    }

    #[test]
    fn users_and_identities_are_banned_by_what_they_prove() {
        let identity = BanTarget::parse_identity("spiffe://a/ws/*").unwrap();
        let set = BanSet::new([ban(target("unix:uid=33"), None), ban(identity, None)]);
        let now = Timestamp::UNIX_EPOCH;
        let user = |uid| Subject::new(Client::of_peer(Peer::unix(UnixUser { uid, gid: 1 })));
        assert!(set.find(&user(33), now).is_some() && set.find(&user(34), now).is_none());
        let named = |name: &str| {
            let certificate = ClientCertificate::named(name).unwrap();
            Subject::new(Client::new([192, 0, 2, 1].into())).with_certificate(certificate.into())
        };
        assert!(set.find(&named("spiffe://a/ws/edge"), now).is_some());
        assert!(set.find(&named("spiffe://b/ws/edge"), now).is_none());
        assert!(set.find(&Subject::new(Client::new([192, 0, 2, 1].into())), now).is_none());
    }

    #[test]
    fn full_set_takes_a_renewed_ban_and_no_other() {
        let identity = |at: usize| {
            let target = BanTarget::parse_identity(&format!("dns:h{at}.example.com")).unwrap();
            ban(target, None)
        };
        let set = BanSet::new((0..MAX_IDENTITIES).map(identity));
        set.check_room(&identity(7)).unwrap();
        let full = set.check_room(&identity(MAX_IDENTITIES)).unwrap_err().to_string();
        assert!(full.contains("10000 bans of identities") && full.contains("unban"), "{full}");
        set.check_room(&ban(target("192.0.2.1"), None)).unwrap();
        let wordy = |at: u32| {
            let why = "x".repeat(1 << 20).into();
            Arc::new(Ban { why, ..(*ban(BanTarget::UnixUid(at), None)).clone() })
        };
        let set = BanSet::new((0..31).map(wordy));
        set.check_room(&ban(target("192.0.2.1"), None)).unwrap();
        assert!(set.check_room(&wordy(31)).unwrap_err().to_string().contains("32 MiB"));
        set.check_room(&wordy(7)).unwrap();
    }

    /// A ban in a small world, so that networks nest and meet.
    fn bans() -> impl Strategy<Value = Vec<(u8, u8, Option<i64>)>> {
        let until = proptest::option::of(0i64..6);
        proptest::collection::vec((any::<u8>(), 24u8..=32, until), 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(1024)
        })]

        #[test]
        fn set_decides_as_a_naive_list_does(
            bans in bans(),
            host in any::<u8>(),
            now in 0i64..6,
            removed in 24u8..=32,
        ) {
            let network = |host: u8, length| {
                IpNet::new([192, 0, 2, host].into(), length).unwrap().trunc()
            };
            let mut naive: Vec<Arc<Ban>> = Vec::new();
            let mut set = BanSet::default();
            for (host, length, until) in bans {
                let one = ban(BanTarget::Network(network(host, length)), until);
                let before = naive.iter().position(|other| other.target == one.target);
                let before = before.map(|at| naive.remove(at));
                prop_assert_eq!(set.insert(Arc::clone(&one)), before);
                naive.push(one);
            }
            let of_length = |ban: &Ban| match &ban.target {
                BanTarget::Network(network) => network.prefix_len() == removed,
                _ => false,
            };
            let (fewer, gone) = set.without(of_length);
            prop_assert_eq!(gone.len(), naive.iter().filter(|ban| of_length(ban)).count());
            prop_assert_eq!(fewer.len() + gone.len(), naive.len());
            let now = Timestamp::from_second(now).unwrap();
            let client = Client::new([192, 0, 2, host].into());
            for (set, is_there) in [(&set, true), (&fewer, false)] {
                let counts = |ban: &&Arc<Ban>| {
                    ban.target.holds(client) && !ban.lapsed(now) && (is_there || !of_length(ban))
                };
                let length = |ban: &&Arc<Ban>| match &ban.target {
                    BanTarget::Network(network) => network.prefix_len(),
                    _ => 0,
                };
                let expected = naive.iter().filter(counts).max_by_key(length);
                prop_assert_eq!(set.find(client, now), expected);
                let next = naive.iter().filter(|ban| is_there || !of_length(ban));
                prop_assert_eq!(set.next_expiry(), next.filter_map(|ban| ban.until).min());
            }
        }
    }
}
