//! Whether the clients of a listener can be told apart.
//!
//! Behind a proxy whose headers nothing reads, all clients share its address. Each thread counts
//! the requests of a listener since the last look, and the control plane looks at the sums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::policy::forwarded::{ForwardedHeader, ForwardedRules};
use crate::policy::network::{Client, ClientKey};
use crate::policy::peers::PeerPattern;

/// Time between two looks at the counts.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The fewest requests that a verdict is made on: a handful shows nothing.
const MIN_REQUESTS: u64 = 200;

/// After so many looks without [`MIN_REQUESTS`] the counts begin anew, and an episode is over.
const MAX_LOOKS: u32 = 30;

/// The percentage of requests that one address has, or that carry an unread header.
const NEARLY_ALL: u64 = 95;

/// Marks the key of an IPv4 address, so that no key is 0.
const V4: u64 = 1 << 63;

/// Marks the key of a user of this host. Keys of IPv6 networks that are counted have bit 63 too.
const UNIX: u64 = 1 << 62;

/// One thread's counts of the requests of a listener. The thread adds, and a look takes.
#[derive(Debug, Default)]
pub struct IdentityCounts {
    requests: AtomicU64,
    /// Requests with forwarded headers that nothing reads.
    unread: AtomicU64,
    /// The part of `unread` that has only `Forwarded`.
    unread_forwarded: AtomicU64,
    /// The peer that may be a proxy: the one with most of the requests from private addresses,
    /// loopback addresses and users of this host. 0 means not yet known.
    suspect: AtomicU64,
    /// Votes for the suspect, less those for others (Boyer and Moore): a health check that comes
    /// first is outvoted.
    votes: AtomicU64,
    /// Requests of the suspect.
    shared: AtomicU64,
    /// The part of `shared` with forwarded headers that nothing reads.
    shared_unread: AtomicU64,
}

/// The sums since the last verdict.
#[derive(Debug, Default)]
pub struct IdentityWindow {
    requests: u64,
    unread: u64,
    unread_forwarded: u64,
    suspect: u64,
    shared: u64,
    shared_unread: u64,
    looks: u32,
}

/// Why the clients of a listener cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    /// Nearly all requests, or many of one peer, carry forwarded headers that nothing reads.
    Unread {
        /// The peer that sends most of them. `None` means several.
        peer: Option<PeerPattern>,
        /// The header that most of them carry.
        header: ForwardedHeader,
    },
    /// Nearly all requests come from this private or loopback address.
    Shared(PeerPattern),
}

impl IdentityCounts {
    /// Counts a request. `unread` is the forwarded header that it carries and nothing reads.
    pub fn note(&self, client: Client, unread: Option<ForwardedHeader>) {
        let add = |count: &AtomicU64, is_counted| {
            if is_counted {
                count.fetch_add(1, Ordering::Relaxed);
            }
        };
        add(&self.requests, true);
        add(&self.unread, unread.is_some());
        add(&self.unread_forwarded, unread == Some(ForwardedHeader::Forwarded));
        let Some(key) = suspect_key(client) else { return };
        // Only this thread adds. A look that takes between two of these steps costs a few votes.
        let votes = self.votes.load(Ordering::Relaxed);
        if self.suspect.load(Ordering::Relaxed) != key {
            if votes > 0 {
                return self.votes.store(votes - 1, Ordering::Relaxed);
            }
            self.suspect.store(key, Ordering::Relaxed);
            self.shared.store(0, Ordering::Relaxed);
            self.shared_unread.store(0, Ordering::Relaxed);
        }
        self.votes.store(votes + 1, Ordering::Relaxed);
        add(&self.shared, true);
        add(&self.shared_unread, unread.is_some());
    }

    /// Moves the counts into `window`. Of the suspects of two threads, the window keeps the one with
    /// more requests, and counts the other's requests as those of other peers.
    pub(super) fn take(&self, window: &mut IdentityWindow) {
        // `swap` loses no request: an addition that comes later is part of the next window.
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        window.requests += take(&self.requests);
        window.unread += take(&self.unread);
        window.unread_forwarded += take(&self.unread_forwarded);
        let (shared, unread) = (take(&self.shared), take(&self.shared_unread));
        let suspect = take(&self.suspect);
        // Cleared with the suspect, or the next peer would have to outvote a peer that is gone.
        take(&self.votes);
        if window.suspect == suspect {
            window.shared += shared;
            window.shared_unread += unread;
        } else if shared > window.shared {
            (window.suspect, window.shared, window.shared_unread) = (suspect, shared, unread);
        }
    }
}

impl IdentityWindow {
    /// The verdict, once there are enough requests. The outer `None` means not yet known, and the
    /// inner `None` that clients can be told apart.
    pub(super) fn look(&mut self) -> Option<Option<Collapse>> {
        self.looks += 1;
        let verdict = if self.requests >= MIN_REQUESTS {
            Some(self.verdict())
        } else {
            // Whatever was, a listener with so few requests shows nothing.
            (self.looks >= MAX_LOOKS).then_some(None)
        };
        if verdict.is_some() {
            *self = IdentityWindow::default();
        }
        verdict
    }

    fn verdict(&self) -> Option<Collapse> {
        let nearly_all = |count: u64| count * 100 >= self.requests * NEARLY_ALL;
        let suspect = pattern(self.suspect);
        // One proxy among direct clients: half of its requests, and not few.
        let from_one =
            self.shared_unread >= MIN_REQUESTS / 2 && self.shared_unread * 2 >= self.shared;
        if from_one || nearly_all(self.unread) {
            let is_other = self.unread_forwarded * 2 > self.unread;
            let header = match is_other {
                true => ForwardedHeader::Forwarded,
                false => ForwardedHeader::XForwardedFor,
            };
            return Some(Collapse::Unread { peer: suspect.filter(|_| from_one), header });
        }
        // A Unix socket mostly has one user of this host as its only peer, proxy or not.
        let address = suspect.filter(|peer| matches!(peer, PeerPattern::Network(_)));
        address.filter(|_| nearly_all(self.shared)).map(Collapse::Shared)
    }
}

impl Collapse {
    /// A sentence that names the key of `listener` which tells its clients apart, beside the
    /// `rules` that it has.
    pub fn sentence(self, listener: &str, rules: Option<&ForwardedRules>) -> String {
        let lists = |peer: PeerPattern| {
            let overlap = |listed: PeerPattern| listed.contains(peer) || peer.contains(listed);
            rules.is_some_and(|rules| rules.from.iter().any(overlap))
        };
        let said = match self {
            Collapse::Unread { peer: Some(peer), header } if lists(peer) => format!(
                "{peer} sends {}, which `forwarded` does not read, so its clients are judged as \
                 one: {} in `forwarded` of the [[listener]] reads it",
                header.spelled(),
                written(header)
            ),
            Collapse::Unread { peer: Some(peer), header } => format!(
                "{peer} sends {} that nothing reads, so its clients are judged as one: forwarded \
                 = {{ {}, from = [\"{peer}\"] }} of the [[listener]] reads it",
                header.spelled(),
                written(header)
            ),
            Collapse::Unread { peer: None, header } => format!(
                "nearly all requests carry {} that nothing reads, so clients are judged as their \
                 proxy: forwarded = {{ {}, from = [...] }} of the [[listener]], with the \
                 addresses of the proxy, reads it",
                header.spelled(),
                written(header)
            ),
            Collapse::Shared(peer) if lists(peer) => format!(
                "nearly all requests come from {peer}, which `forwarded` of the [[listener]] \
                 lists, and name no client in {}: the proxy has to send it",
                rules.map_or("it", |rules| rules.header.spelled())
            ),
            Collapse::Shared(peer) => format!(
                "nearly all requests come from {peer}: if that is a proxy, `forwarded` or \
                 `proxy_protocol` of the [[listener]] tells its clients apart"
            ),
        };
        format!("listener {listener}: {said}")
    }
}

/// A header as the value of its key.
fn written(header: ForwardedHeader) -> String {
    format!("header = \"{}\"", header.field())
}

/// The key of a peer that may be a proxy: a user of this host, or a private or loopback address,
/// of IPv6 its /64.
fn suspect_key(client: Client) -> Option<u64> {
    match (client.key(), client.ip()) {
        (ClientKey::Unix(uid), _) => Some(UNIX | u64::from(uid)),
        (ClientKey::V4(address), Some(IpAddr::V4(ip))) => {
            let is_internal =
                ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared(ip);
            is_internal.then_some(V4 | u64::from(address))
        }
        // The /64 of ::1 is 0, which means none.
        (_, Some(IpAddr::V6(ip))) if ip.is_loopback() => Some(1),
        (_, Some(IpAddr::V6(ip))) => {
            let network = (ip.to_bits() >> 64) as u64;
            (ip.is_unique_local() || ip.is_unicast_link_local()).then_some(network)
        }
        _ => None,
    }
}

/// Whether a carrier's NAT, or a cloud's balancer, has the address (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    // 100.64.0.0/10: `Ipv4Addr::is_shared` of the standard library is unstable.
    ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
}

/// The peer of a key.
fn pattern(key: u64) -> Option<PeerPattern> {
    let ones = |address: IpAddr| PeerPattern::Network(IpNet::from(address));
    match key {
        0 => None,
        1 => Some(ones(Ipv6Addr::LOCALHOST.into())),
        // Unique local and link-local networks have bit 63 too, and more bits above 32.
        key if key >> 32 == V4 >> 32 => Some(ones(Ipv4Addr::from_bits(key as u32).into())),
        key if key >> 32 == UNIX >> 32 => Some(PeerPattern::UnixUid(key as u32)),
        network => {
            let first = Ipv6Addr::from_bits(u128::from(network) << 64);
            Some(PeerPattern::Network(Ipv6Net::new_assert(first, 64).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::{Peer, UnixUser};
    use crate::policy::peers::PeerList;

    const NONE: Option<ForwardedHeader> = None;
    const XFF: Option<ForwardedHeader> = Some(ForwardedHeader::XForwardedFor);
    const RFC7239: Option<ForwardedHeader> = Some(ForwardedHeader::Forwarded);

    /// A client by its address, or by `uid=33`.
    fn client(text: &str) -> Client {
        match text.strip_prefix("uid=") {
            Some(uid) => {
                let user = UnixUser { uid: uid.parse().unwrap(), gid: 44 };
                Client::of_peer(Peer::unix(user))
            }
            None => Client::new(text.parse().unwrap()),
        }
    }

    fn peer(text: &str) -> PeerPattern {
        PeerPattern::Network(text.parse().unwrap())
    }

    type Requests<'r> = (u64, &'r str, Option<ForwardedHeader>);

    /// The verdict on these requests: their number, their client, and the header that is unread.
    fn verdict(requests: &[Requests<'_>]) -> Option<Option<Collapse>> {
        let (counts, mut window) = (IdentityCounts::default(), IdentityWindow::default());
        for (count, text, unread) in requests {
            (0..*count).for_each(|_| counts.note(client(text), *unread));
        }
        counts.take(&mut window);
        window.look()
    }

    #[test]
    fn clients_of_one_private_address_are_collapsed() {
        for address in ["10.0.0.7", "127.0.0.1", "192.168.1.1", "172.17.0.1", "100.64.0.1"] {
            let expected = Some(Some(Collapse::Shared(peer(&format!("{address}/32")))));
            let found = verdict(&[(190, address, NONE), (10, "198.51.100.3", NONE)]);
            assert_eq!(found, expected);
        }
        let shared = |text: &str| Some(Some(Collapse::Shared(peer(text))));
        assert_eq!(verdict(&[(200, "fd00:0:0:1::7", NONE)]), shared("fd00:0:0:1::/64"));
        assert_eq!(verdict(&[(200, "fe80::7", NONE)]), shared("fe80::/64"));
        assert_eq!(verdict(&[(200, "::1", NONE)]), shared("::1/128"));
        assert_eq!(verdict(&[(180, "10.0.0.7", NONE), (20, "10.0.0.8", NONE)]), Some(None));
        assert_eq!(verdict(&[(500, "198.51.100.3", NONE)]), Some(None));
        assert_eq!(verdict(&[(500, "uid=33", NONE)]), Some(None));
    }

    #[test]
    fn health_check_that_comes_first_hides_no_proxy() {
        let mixed = [(1, "10.0.0.8", NONE), (400, "10.0.0.7", NONE), (2, "10.0.0.8", NONE)];
        assert_eq!(verdict(&mixed), Some(Some(Collapse::Shared(peer("10.0.0.7/32")))));
        // Likewise where it is the first on one thread of two.
        let (first, second) = (IdentityCounts::default(), IdentityCounts::default());
        first.note(client("10.0.0.8"), NONE);
        (0..400).for_each(|_| second.note(client("10.0.0.7"), NONE));
        let mut window = IdentityWindow::default();
        first.take(&mut window);
        second.take(&mut window);
        assert_eq!(window.look(), Some(Some(Collapse::Shared(peer("10.0.0.7/32")))));
    }

    #[test]
    fn unread_headers_of_a_peer_are_collapsed() {
        let (xff, forwarded) = (ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded);
        let unread = |peer, header| Some(Some(Collapse::Unread { peer, header }));
        let one = Some(peer("10.0.0.7/32"));
        let mixed = [(100, "10.0.0.7", XFF), (300, "198.51.100.3", NONE)];
        assert_eq!(verdict(&mixed), unread(one, xff));
        let few = [(99, "10.0.0.7", XFF), (300, "198.51.100.3", NONE)];
        assert_eq!(verdict(&few), Some(None));
        assert_eq!(verdict(&[(200, "198.51.100.3", XFF)]), unread(None, xff));
        assert_eq!(verdict(&[(200, "198.51.100.3", RFC7239)]), unread(None, forwarded));
        let users = Some(PeerPattern::UnixUid(33));
        assert_eq!(verdict(&[(200, "uid=33", RFC7239)]), unread(users, forwarded));
        let forged = [(180, "198.51.100.3", XFF), (20, "198.51.100.4", NONE)];
        assert_eq!(verdict(&forged), Some(None));
    }

    #[test]
    fn handful_of_requests_raises_no_alarm_and_ends_one() {
        assert_eq!(verdict(&[(199, "10.0.0.7", XFF)]), None);
        let (counts, mut window) = (IdentityCounts::default(), IdentityWindow::default());
        for look in 1..=MAX_LOOKS {
            counts.note(client("10.0.0.7"), XFF);
            counts.take(&mut window);
            assert_eq!(window.look(), (look == MAX_LOOKS).then_some(None), "{look}");
        }
    }

    #[test]
    fn sentence_names_the_key_and_the_peer() {
        let (xff, forwarded) = (ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded);
        let address = peer("10.0.0.7/32");
        let one = Some(address);
        let network = Some(peer("fd00:0:0:1::/64"));
        let rules = ForwardedRules { header: xff, from: PeerList::new([peer("10.0.0.0/24")]) };
        for (collapse, rules, part) in [
            (
                Collapse::Unread { peer: one, header: xff },
                None,
                "forwarded = { header = \"x-forwarded-for\", from = [\"10.0.0.7\"] }",
            ),
            (
                Collapse::Unread { peer: network, header: forwarded },
                Some(&rules),
                "forwarded = { header = \"forwarded\", from = [\"fd00:0:0:1::/64\"] }",
            ),
            (
                Collapse::Unread { peer: Some(PeerPattern::UnixUid(33)), header: xff },
                Some(&rules),
                "from = [\"unix:uid=33\"]",
            ),
            (
                Collapse::Unread { peer: one, header: forwarded },
                Some(&rules),
                ": header = \"forwarded\" in `forwarded`",
            ),
            (Collapse::Unread { peer: None, header: xff }, None, "from = [...] }"),
            (Collapse::Shared(address), None, "`proxy_protocol`"),
            (Collapse::Shared(address), Some(&rules), "no client in X-Forwarded-For"),
        ] {
            let sentence = collapse.sentence("public", rules);
            let is_found = sentence.starts_with("listener public: ") && sentence.contains(part);
            assert!(is_found, "no {part} in {sentence}");
        }
    }
}
