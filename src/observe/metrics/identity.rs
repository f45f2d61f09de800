//! Whether the clients of a listener can be told apart.
//!
//! Behind a proxy whose headers nothing reads, all clients share its address. Each thread counts
//! the requests of a listener since the last look, and the control plane looks at the sums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::policy::network::{Client, ClientKey};

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

/// One thread's counts of the requests of a listener. The thread adds, and a look takes.
#[derive(Debug, Default)]
pub struct IdentityCounts {
    requests: AtomicU64,
    /// Requests with forwarded headers that nothing reads.
    unread: AtomicU64,
    /// The private or loopback address of the first such request since the last look. 0 means not
    /// yet known.
    suspect: AtomicU64,
    /// Requests of that address.
    shared: AtomicU64,
    /// Those of them with forwarded headers that nothing reads.
    shared_unread: AtomicU64,
}

/// The sums since the last verdict.
#[derive(Debug, Default)]
pub struct IdentityWindow {
    requests: u64,
    unread: u64,
    suspect: u64,
    shared: u64,
    shared_unread: u64,
    looks: u32,
}

/// Why the clients of a listener cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    /// Nearly all requests, or many of this address, carry forwarded headers that nothing reads.
    Unread(Option<IpAddr>),
    /// Nearly all requests come from this private or loopback address.
    Shared(IpAddr),
}

impl IdentityCounts {
    /// Counts a request. `unread` says whether it carries forwarded headers that nothing reads.
    pub fn note(&self, client: Client, unread: bool) {
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        add(&self.requests);
        if unread {
            add(&self.unread);
        }
        let Some(key) = suspect_key(client) else { return };
        let suspect = self.suspect.load(Ordering::Relaxed);
        if suspect == 0 {
            self.suspect.store(key, Ordering::Relaxed);
        }
        if suspect == 0 || suspect == key {
            add(&self.shared);
            if unread {
                add(&self.shared_unread);
            }
        }
    }

    /// Moves the counts into `window`. Other addresses than the window's suspect count as others.
    pub(super) fn take(&self, window: &mut IdentityWindow) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        window.requests += take(&self.requests);
        window.unread += take(&self.unread);
        let (shared, unread) = (take(&self.shared), take(&self.shared_unread));
        let suspect = take(&self.suspect);
        if window.suspect == 0 {
            window.suspect = suspect;
        }
        if window.suspect == suspect {
            window.shared += shared;
            window.shared_unread += unread;
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
        let suspect = address(self.suspect);
        // One proxy among direct clients: half of its requests, and not few.
        let from_one =
            self.shared_unread >= MIN_REQUESTS / 2 && self.shared_unread * 2 >= self.shared;
        if from_one || nearly_all(self.unread) {
            return Some(Collapse::Unread(suspect.filter(|_| from_one)));
        }
        suspect.filter(|_| nearly_all(self.shared)).map(Collapse::Shared)
    }
}

impl Collapse {
    /// A sentence that names the key of `listener` which tells its clients apart.
    pub fn sentence(self, listener: &str) -> String {
        match self {
            Collapse::Unread(Some(peer)) => format!(
                "listener {listener}: {peer} sends forwarded headers that nothing reads, so its \
                 clients are judged as one: forwarded = {{ header = \"x-forwarded-for\", from = \
                 [\"{peer}\"] }} of the [[listener]] reads them"
            ),
            Collapse::Unread(None) => format!(
                "listener {listener}: nearly all requests carry forwarded headers that nothing \
                 reads, so clients are judged as their proxy: `forwarded` of the [[listener]] \
                 reads them"
            ),
            Collapse::Shared(peer) => format!(
                "listener {listener}: nearly all requests come from {peer}: if that is a proxy, \
                 `forwarded` or `proxy_protocol` of the [[listener]] tells its clients apart"
            ),
        }
    }
}

/// The key of a private or loopback address: an IPv4 address, or an IPv6 /64.
fn suspect_key(client: Client) -> Option<u64> {
    let is_internal = match client.ip()? {
        IpAddr::V4(ip) => {
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared(ip)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    is_internal.then(|| match client.key() {
        ClientKey::V4(address) => V4 | u64::from(address),
        // The /64 of ::1 is 0, which means none.
        ClientKey::V6(0) => 1,
        ClientKey::V6(network) => network,
        ClientKey::Unix(_) => 0,
    })
}

/// Whether a carrier's NAT, or a cloud's balancer, has the address (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
}

/// The address of a key. Of an IPv6 /64 it is the first.
fn address(key: u64) -> Option<IpAddr> {
    match key {
        0 => None,
        1 => Some(Ipv6Addr::LOCALHOST.into()),
        // Unique local and link-local addresses begin with bit 63 too, and have more bits above 32.
        key if key & !(V4 | u64::from(u32::MAX)) == 0 && key & V4 != 0 => {
            Some(Ipv4Addr::from_bits(key as u32).into())
        }
        network => Some(Ipv6Addr::from_bits(u128::from(network) << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Client {
        Client::new(text.parse().unwrap())
    }

    /// The verdict on these requests: their number, their client, and whether a header is unread.
    fn verdict(requests: &[(u64, &str, bool)]) -> Option<Option<Collapse>> {
        let (counts, mut window) = (IdentityCounts::default(), IdentityWindow::default());
        for (count, client, unread) in requests {
            (0..*count).for_each(|_| counts.note(ip(client), *unread));
        }
        counts.take(&mut window);
        window.look()
    }

    #[test]
    fn clients_of_one_private_address_are_collapsed() {
        for peer in ["10.0.0.7", "127.0.0.1", "192.168.1.1", "172.17.0.1", "100.64.0.1", "::1"] {
            let expected = Some(Some(Collapse::Shared(peer.parse().unwrap())));
            assert_eq!(verdict(&[(190, peer, false), (10, "198.51.100.3", false)]), expected);
        }
        let network = Collapse::Shared("fd00:0:0:1::".parse().unwrap());
        assert_eq!(verdict(&[(200, "fd00:0:0:1::7", false)]), Some(Some(network)));
        assert_eq!(verdict(&[(180, "10.0.0.7", false), (20, "10.0.0.8", false)]), Some(None));
        assert_eq!(verdict(&[(500, "198.51.100.3", false)]), Some(None));
    }

    #[test]
    fn unread_headers_of_a_peer_are_collapsed() {
        let peer = Some("10.0.0.7".parse().unwrap());
        let mixed = [(100, "10.0.0.7", true), (300, "198.51.100.3", false)];
        assert_eq!(verdict(&mixed), Some(Some(Collapse::Unread(peer))));
        let few = [(99, "10.0.0.7", true), (300, "198.51.100.3", false)];
        assert_eq!(verdict(&few), Some(None));
        assert_eq!(verdict(&[(200, "198.51.100.3", true)]), Some(Some(Collapse::Unread(None))));
        let forged = [(180, "198.51.100.3", true), (20, "198.51.100.4", false)];
        assert_eq!(verdict(&forged), Some(None));
    }

    #[test]
    fn handful_of_requests_raises_no_alarm_and_ends_one() {
        assert_eq!(verdict(&[(199, "10.0.0.7", true)]), None);
        let (counts, mut window) = (IdentityCounts::default(), IdentityWindow::default());
        for look in 1..=MAX_LOOKS {
            counts.note(ip("10.0.0.7"), true);
            counts.take(&mut window);
            assert_eq!(window.look(), (look == MAX_LOOKS).then_some(None), "{look}");
        }
    }

    #[test]
    fn sentence_names_the_key_and_the_peer() {
        let peer: IpAddr = "10.0.0.7".parse().unwrap();
        for (collapse, part) in [
            (Collapse::Unread(Some(peer)), "from = [\"10.0.0.7\"]"),
            (Collapse::Unread(None), "`forwarded`"),
            (Collapse::Shared(peer), "`proxy_protocol`"),
        ] {
            let sentence = collapse.sentence("public");
            assert!(sentence.starts_with("listener public: ") && sentence.contains(part));
        }
    }
}
