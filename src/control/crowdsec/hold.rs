//! Which new bans are held, because they would end the tunnels of too many clients together.
//!
//! Pure: the open tunnels are passed in as a tally. A ban that ends no tunnel is never held.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::control::config::ShareOrCount;
use crate::policy::ban::{Ban, BanTarget, TargetBans};
use crate::policy::network::{Client, ClientKey};

/// Clients that bans may end one by one in [`HoldBound::recent`], whatever their share: a small
/// host has few, and each may be an attacker.
const MIN_RECENT: usize = 5;

/// Number of clients from which a sudden loss of most is no reason to let held bans hold.
const MIN_CROWD: usize = 10;

/// The open tunnels and streams, by client.
#[derive(Debug, Clone, Default)]
pub struct ClientTally {
    addresses: HashMap<IpAddr, usize>,
    clients: HashSet<ClientKey>,
    /// Number of tunnels and streams.
    pub open: usize,
}

impl ClientTally {
    /// Counts a tunnel or a stream of `client`.
    pub fn count(&mut self, client: Client) {
        if let Some(address) = client.ip() {
            *self.addresses.entry(address).or_default() += 1;
        }
        self.clients.insert(client.key());
        self.open += 1;
    }

    /// The number of clients: IPv4 addresses, IPv6 /64s and users of the host.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}

/// How many clients new bans may end.
#[derive(Debug, Clone, Copy)]
pub struct HoldBound {
    /// Share of the clients with tunnels, or their number.
    pub max_revoked: ShareOrCount,
    /// Clients that bans of CrowdSec have ended a short while ago. A feed in slices adds up.
    pub recent: usize,
}

impl HoldBound {
    fn is_exceeded(self, ended: usize, open: usize) -> bool {
        // One client alone is never too much, unless the bound is zero.
        let (least, least_recent) = match self.max_revoked {
            ShareOrCount::Percent(0) | ShareOrCount::Count(0) => (0, 0),
            ShareOrCount::Percent(_) | ShareOrCount::Count(_) => (1, MIN_RECENT),
        };
        // Ended clients have no tunnel any more, and count on both sides.
        let (all_ended, all) = (ended + self.recent, open + self.recent);
        (ended > least && self.max_revoked.is_exceeded(ended, open))
            || (ended > 0
                && all_ended > least_recent
                && self.max_revoked.is_exceeded(all_ended, all))
    }
}

/// A ban that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBan {
    /// The ban that the decision asks for.
    pub ban: Arc<Ban>,
    /// Number of clients with tunnels that it would end.
    pub clients: usize,
    /// Number of tunnels and streams that it would end.
    pub revoked: usize,
}

/// The bans that are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBans {
    /// The bans, that with the largest effect first.
    pub bans: Vec<HeldBan>,
    /// Names exactly these targets: an order to accept them repeats it.
    pub digest: Box<str>,
    /// Number of clients with tunnels that they would end.
    pub clients: usize,
    /// Number of tunnels and streams that they would end.
    pub revoked: usize,
    /// Number of clients with tunnels.
    pub open_clients: usize,
    /// Number of open tunnels and streams.
    pub open: usize,
}

impl HeldBans {
    /// The sentence of warnings.
    pub fn warning(&self) -> String {
        let HeldBans { bans, digest, clients, revoked, open_clients, open } = self;
        let (who, they, them) = match bans.len() {
            1 => ("1 ban of CrowdSec is held".to_owned(), "it", "this one hold"),
            number => (format!("{number} bans of CrowdSec are held"), "they", "these hold"),
        };
        let why = match revoked {
            0 => format!("though {they} would close no tunnel now"),
            _ => format!(
                "since {they} would close {revoked} of {open} open tunnels and streams, those of \
                 {clients} of {open_clients} clients"
            ),
        };
        format!("{who}, {why}: `sidegate bans --accept-held {digest}` lets {them}")
    }

    /// Whether the targets are those of `other`.
    pub fn is_same_set(&self, other: Option<&HeldBans>) -> bool {
        other.is_some_and(|other| other.digest == self.digest)
    }

    /// The networks that are held.
    pub fn networks(&self) -> HashSet<IpNet> {
        self.bans.iter().filter_map(|one| network(&one.ban)).collect()
    }
}

/// What new bans would do to the open tunnels.
#[derive(Debug, Clone, Default)]
pub struct Weighing {
    /// The bans that are held. `None` means that all hold.
    pub held: Option<HeldBans>,
    /// Number of clients that the other bans end.
    pub ended: usize,
}

impl Weighing {
    /// The networks that are held.
    pub fn networks(&self) -> HashSet<IpNet> {
        self.held.as_ref().map(HeldBans::networks).unwrap_or_default()
    }
}

/// What one ban would end.
struct BanEffect<'b> {
    ban: &'b Arc<Ban>,
    clients: HashSet<ClientKey>,
    revoked: usize,
}

/// Finds the bans of `new` to hold: the largest, until the others are within `bound`. Bans with
/// the same number of clients are held together. `pinned` are held in any case. `before` are the
/// bans in force, whose clients count no more.
pub fn weigh(
    tally: &ClientTally,
    new: &TargetBans,
    before: &TargetBans,
    pinned: &HashSet<IpNet>,
    bound: HoldBound,
    now: Timestamp,
) -> Weighing {
    let mut effects = effects(tally, new, before, now);
    let is_pinned = |target: &IpNet| pinned.contains(target);
    // Without tunnels too: after a start there are none.
    let mut held: Vec<BanEffect<'_>> = new
        .iter()
        .filter(|ban| network(ban).is_some_and(|target| is_pinned(&target)))
        .map(|ban| {
            let own = network(ban).and_then(|target| effects.remove(&target));
            own.unwrap_or(BanEffect { ban, clients: HashSet::new(), revoked: 0 })
        })
        .collect();
    let mut others: Vec<_> = effects.into_values().collect();
    others.sort_by_key(|one| one.clients.len());
    let mut ended = HashSet::new();
    let mut passed = 0;
    for group in others.chunk_by(|one, other| one.clients.len() == other.clients.len()) {
        // A client may be in several bans, and ends once.
        let more: HashSet<_> = group.iter().flat_map(|one| &one.clients).copied().collect();
        let all = ended.union(&more).count();
        if bound.is_exceeded(all, tally.clients()) {
            break;
        }
        ended.extend(more);
        passed += group.len();
    }
    held.extend(others.drain(passed..));
    Weighing { held: summary(held, tally), ended: ended.len() }
}

/// What each ban of `new` would end. Bans that end nothing are absent.
fn effects<'b>(
    tally: &ClientTally,
    new: &'b TargetBans,
    before: &TargetBans,
    now: Timestamp,
) -> BTreeMap<IpNet, BanEffect<'b>> {
    let mut effects = BTreeMap::new();
    for (address, tunnels) in &tally.addresses {
        let client = Client::new(*address);
        // It is ending already.
        if !before.of_address(*address, now).is_empty() {
            continue;
        }
        for ban in new.of_address(*address, now) {
            let Some(target) = network(ban) else { continue };
            let effect = effects.entry(target);
            let effect = effect.or_insert(BanEffect { ban, clients: HashSet::new(), revoked: 0 });
            effect.clients.insert(client.key());
            effect.revoked += tunnels;
        }
    }
    effects
}

fn summary(mut held: Vec<BanEffect<'_>>, tally: &ClientTally) -> Option<HeldBans> {
    if held.is_empty() {
        return None;
    }
    held.sort_by_key(|one| (usize::MAX - one.clients.len(), network(one.ban)));
    let targets: HashSet<IpNet> = held.iter().filter_map(|one| network(one.ban)).collect();
    let clients: HashSet<_> = held.iter().flat_map(|one| &one.clients).collect();
    // Held networks may lie within one another, so that their tunnels are counted apart.
    let is_held = |address: &IpAddr| held_by(*address).any(|network| targets.contains(&network));
    let is_counted = |(address, _): &(&IpAddr, &usize)| {
        clients.contains(&Client::new(**address).key()) && is_held(address)
    };
    let revoked = tally.addresses.iter().filter(is_counted).map(|(_, tunnels)| tunnels).sum();
    let bans = held.iter().map(|one| HeldBan {
        ban: Arc::clone(one.ban),
        clients: one.clients.len(),
        revoked: one.revoked,
    });
    Some(HeldBans {
        bans: bans.collect(),
        digest: digest(&targets),
        clients: clients.len(),
        revoked,
        open_clients: tally.clients(),
        open: tally.open,
    })
}

/// All networks that hold `address`.
fn held_by(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let host = IpNet::from(address);
    let of_length = move |length| IpNet::new(address, length).ok();
    (0..=host.prefix_len()).filter_map(of_length).map(|network| network.trunc())
}

/// A short name of a set of networks.
fn digest(targets: &HashSet<IpNet>) -> Box<str> {
    // A set has no order, and the digest of the same bans must be the same.
    let mut all: Vec<String> = targets.iter().map(ToString::to_string).collect();
    all.sort();
    let digest = Sha256::digest(all.join("\n"));
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn network(ban: &Ban) -> Option<IpNet> {
    match ban.target {
        BanTarget::Network(network) => Some(network),
        BanTarget::UnixUid(_) | BanTarget::Identity(_) => None,
    }
}

/// Whether most clients have gone at once: a backend that restarts closes their tunnels, and they
/// come again. `peak` is the most clients since bans are held.
pub fn is_deserted(clients: usize, peak: usize) -> bool {
    peak >= MIN_CROWD && clients < peak / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ban::BanOrigin;

    fn bans(targets: &[&str]) -> TargetBans {
        let ban = |target: &&str| Ban {
            target: BanTarget::parse_client(target).unwrap(),
            until: Some(Timestamp::from_second(60).unwrap()),
            why: "x".into(),
            origin: BanOrigin::Crowdsec,
            since: Timestamp::UNIX_EPOCH,
            by: None,
        };
        targets.iter().map(ban).map(Arc::new).collect()
    }

    /// One tunnel of each address.
    fn tally(addresses: &[&str]) -> ClientTally {
        let mut tally = ClientTally::default();
        addresses.iter().for_each(|one| tally.count(Client::new(one.parse().unwrap())));
        tally
    }

    /// Twenty clients of 192.0.2.0/24, one tunnel each.
    fn crowd() -> ClientTally {
        let addresses: Vec<_> = (1..=20).map(|at| format!("192.0.2.{at}")).collect();
        tally(&addresses.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn share(recent: usize) -> HoldBound {
        HoldBound { max_revoked: ShareOrCount::Percent(20), recent }
    }

    fn held(tally: &ClientTally, new: &[&str], before: &[&str], bound: HoldBound) -> Vec<String> {
        let (new, before) = (bans(new), bans(before));
        let now = Timestamp::UNIX_EPOCH;
        let weighing = weigh(tally, &new, &before, &HashSet::new(), bound, now);
        let held = weighing.held.iter().flat_map(|held| &held.bans);
        held.map(|one| one.ban.target.to_string()).collect()
    }

    #[test]
    fn one_client_is_never_too_much() {
        let attacker = ["203.0.113.6"; 9];
        let some = tally(&[&attacker[..], &["192.0.2.1", "192.0.2.2"]].concat());
        assert!(held(&some, &["203.0.113.6"], &[], share(0)).is_empty());
        assert!(held(&some, &["203.0.113.0/24"], &[], share(0)).is_empty());
        assert_eq!(held(&some, &["192.0.2.0/24"], &[], share(0)), ["192.0.2.0/24"]);
        // Addresses of one /64 are one client.
        let rotating = tally(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"]);
        assert!(held(&rotating, &["2001:db8::/64"], &[], share(0)).is_empty());
        let none = HoldBound { max_revoked: ShareOrCount::Count(0), recent: 0 };
        assert_eq!(held(&some, &["203.0.113.6"], &[], none), ["203.0.113.6"]);
        assert!(held(&some, &["198.51.100.1"], &[], none).is_empty());
    }

    #[test]
    fn largest_bans_are_held_and_the_others_hold() {
        let new = ["192.0.2.0/24", "192.0.2.1", "192.0.2.2", "198.51.100.0/24"];
        assert_eq!(held(&crowd(), &new, &[], share(0)), ["192.0.2.0/24"]);
        // 20 % of twenty are four; five of one size are held together.
        let five = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
        assert!(held(&crowd(), &five[..4], &[], share(0)).is_empty());
        assert_eq!(held(&crowd(), &five, &[], share(0)).len(), 5);
        // Clients that are banned already count no more.
        assert!(held(&crowd(), &["192.0.2.0/30"], &["192.0.2.0/24"], share(0)).is_empty());
    }

    #[test]
    fn slices_add_up() {
        assert!(held(&crowd(), &["192.0.2.1"], &[], share(3)).is_empty());
        assert!(held(&crowd(), &["192.0.2.1"], &[], share(4)).is_empty());
        assert_eq!(held(&crowd(), &["192.0.2.1"], &[], share(5)), ["192.0.2.1"]);
        let few = tally(&["192.0.2.1", "203.0.113.6"]);
        assert!(held(&few, &["203.0.113.6"], &[], share(4)).is_empty());
        assert!(held(&crowd(), &["198.51.100.1"], &[], share(50)).is_empty(), "it ends nothing");
    }

    #[test]
    fn pinned_bans_stay_held_without_tunnels() {
        let new = bans(&["192.0.2.0/24", "198.51.100.1"]);
        let pinned = HashSet::from(["192.0.2.0/24".parse().unwrap()]);
        let (none, now) = (ClientTally::default(), Timestamp::UNIX_EPOCH);
        let weighing = weigh(&none, &new, &bans(&[]), &pinned, share(0), now);
        let held = weighing.held.unwrap();
        assert_eq!(held.networks(), pinned);
        assert!(held.warning().starts_with("1 ban of CrowdSec is held, though"));
        let over = Timestamp::from_second(60).unwrap();
        assert!(weigh(&crowd(), &new, &bans(&[]), &HashSet::new(), share(0), over).held.is_none());
    }

    #[test]
    fn figures_count_each_tunnel_once_and_the_digest_names_the_set() {
        let nested = bans(&["192.0.2.0/24", "192.0.2.0/25"]);
        let now = Timestamp::UNIX_EPOCH;
        let of = |new: &TargetBans| {
            weigh(&crowd(), new, &bans(&[]), &HashSet::new(), share(0), now).held.unwrap()
        };
        let held = of(&nested);
        assert_eq!((held.revoked, held.clients, held.open_clients, held.open), (20, 20, 20, 20));
        assert!(held.warning().contains("since they would close 20 of 20 open tunnels"));
        let other = of(&bans(&["192.0.2.0/24"]));
        assert!(!held.is_same_set(Some(&other)) && held.is_same_set(Some(&of(&nested))));
    }

    #[test]
    fn crowd_that_is_gone_at_once_is_no_reason_to_let_bans_hold() {
        assert!(is_deserted(0, 10) && is_deserted(4, 10));
        assert!(!is_deserted(5, 10) && !is_deserted(0, 9));
    }
}
