//! Peers that a listener believes: they may name a client other than themselves.
//!
//! Pure. What they may say is the listener's: a PROXY header, or forwarded headers.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::network::{Peer, fold};

/// A list of peers, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerList {
    patterns: Box<[PeerPattern]>,
}

/// An entry of a [`PeerList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerPattern {
    /// Every peer of this network, which is never one of IPv4-mapped addresses.
    Network(IpNet),
    /// `unix`: every peer at a Unix socket.
    Unix,
    /// `unix:uid=33`: peers at a Unix socket that run as this user.
    UnixUid(u32),
}

impl PeerList {
    /// Makes a list. Networks of IPv4-mapped addresses become IPv4 networks.
    pub fn new(patterns: impl IntoIterator<Item = PeerPattern>) -> Self {
        let folded = patterns.into_iter().map(|pattern| match pattern {
            // Host bits count for nothing, as in policies.
            PeerPattern::Network(network) => PeerPattern::Network(fold(network).trunc()),
            PeerPattern::Unix | PeerPattern::UnixUid(_) => pattern,
        });
        PeerList { patterns: folded.collect() }
    }

    /// Whether `peer` is listed.
    pub fn contains(&self, peer: Peer) -> bool {
        let uid = match (peer.ip(), peer.user()) {
            (Some(address), _) => return self.contains_address(address),
            (None, Some(user)) => user.uid,
            (None, None) => return false,
        };
        self.patterns.iter().any(|pattern| match *pattern {
            PeerPattern::Network(_) => false,
            PeerPattern::Unix => true,
            PeerPattern::UnixUid(listed) => listed == uid,
        })
    }

    /// Whether a peer with this IP address is listed.
    pub fn contains_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.patterns.iter().any(|pattern| match pattern {
            PeerPattern::Network(network) => network.contains(&address),
            PeerPattern::Unix | PeerPattern::UnixUid(_) => false,
        })
    }

    /// The entries in their order.
    pub fn iter(&self) -> impl Iterator<Item = PeerPattern> {
        self.patterns.iter().copied()
    }
}

impl PeerPattern {
    /// Whether every peer of `other` is one of this pattern.
    pub fn contains(self, other: PeerPattern) -> bool {
        match (self, other) {
            (PeerPattern::Network(wide), PeerPattern::Network(network)) => wide.contains(&network),
            (PeerPattern::Unix, PeerPattern::Unix | PeerPattern::UnixUid(_)) => true,
            (PeerPattern::UnixUid(user), PeerPattern::UnixUid(other)) => user == other,
            _ => false,
        }
    }
}

/// Displays an address without its length, and all others as in a file.
impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerPattern::Network(one) if one.prefix_len() == one.max_prefix_len() => {
                one.addr().fmt(f)
            }
            PeerPattern::Network(network) => network.fmt(f),
            PeerPattern::Unix => f.write_str("unix"),
            PeerPattern::UnixUid(uid) => write!(f, "unix:uid={uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::UnixUser;

    fn list(entries: &[&str]) -> PeerList {
        PeerList::new(entries.iter().map(|entry| match entry.strip_prefix("unix") {
            Some("") => PeerPattern::Unix,
            Some(uid) => PeerPattern::UnixUid(uid[":uid=".len()..].parse().unwrap()),
            None => PeerPattern::Network(entry.parse().unwrap()),
        }))
    }

    fn check(entries: &[&str], peer: &str, is_listed: bool) {
        let peer = match peer.strip_prefix("uid=") {
            Some(uid) => Peer::unix(UnixUser { uid: uid.parse().unwrap(), gid: 44 }),
            None => Peer::new(peer.parse().unwrap()),
        };
        assert_eq!(list(entries).contains(peer), is_listed, "{peer}");
    }

    #[test]
    fn peer_is_listed_by_its_network() {
        check(&["10.0.0.0/24", "2001:db8::/64"], "10.0.0.7", true);
        check(&["10.0.0.9/24"], "10.0.0.7", true);
        check(&["10.0.0.0/24", "2001:db8::/64"], "2001:db8::1", true);
        check(&["10.0.0.0/24", "2001:db8::/64"], "10.0.1.7", false);
        check(&["10.0.0.0/24"], "2001:db8::1", false);
        check(&[], "10.0.0.7", false);
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        check(&["10.0.0.0/24"], "::ffff:10.0.0.7", true);
        check(&["::ffff:10.0.0.0/120"], "10.0.0.7", true);
        check(&["::/0"], "10.0.0.7", false);
        assert!(list(&["10.0.0.0/24"]).contains_address("::ffff:10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn peer_of_a_unix_socket_is_listed_by_uid_or_by_unix() {
        check(&["10.0.0.0/24", "unix"], "uid=33", true);
        check(&["unix:uid=33"], "uid=33", true);
        check(&["unix:uid=44"], "uid=33", false);
        check(&["0.0.0.0/0", "::/0"], "uid=33", false);
        check(&["unix", "unix:uid=33"], "0.0.0.33", false);
    }

    #[test]
    fn entries_are_displayed_as_in_a_file() {
        let entries = ["10.0.0.0/24", "192.0.2.1/32", "unix", "unix:uid=33"];
        let shown: Vec<_> = list(&entries).iter().map(|entry| entry.to_string()).collect();
        assert_eq!(shown, ["10.0.0.0/24", "192.0.2.1", "unix", "unix:uid=33"]);
    }
}
