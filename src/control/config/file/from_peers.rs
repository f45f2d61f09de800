//! `from` of `forwarded` and of `proxy_protocol`: the peers that may name another client.

use ipnet::IpNet;

use crate::control::config::document::TomlValue;
use crate::control::config::source_text::{Finding, error, warning};
use crate::policy::network::fold;
use crate::policy::peers::PeerPattern;
use crate::snapshot::listener::ListenAddress;

/// An example of the key.
pub const EXPECTED: &str = "from = [\"10.20.0.0/24\"]";

/// How much of the address space a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// No more than an organisation has of its own.
    Proxies,
    /// More than any organisation has of its own, but not all addresses.
    Wide,
    /// All addresses of a family: a prefix length of 0.
    Everyone,
}

impl Width {
    /// The width of a network.
    pub fn of(network: IpNet) -> Width {
        // 10.0.0.0/8 and fc00::/7 are the widest private networks (RFC 1918, RFC 4193).
        let private = if network.network().is_ipv4() { 8 } else { 7 };
        match network.prefix_len() {
            0 => Width::Everyone,
            length if length < private => Width::Wide,
            _ => Width::Proxies,
        }
    }
}

/// Joins the networks of `patterns`, and returns each result that is wider than all of its parts:
/// two halves of the Internet are the whole Internet.
pub fn joined(patterns: &[PeerPattern]) -> Vec<IpNet> {
    let network = |pattern: &PeerPattern| match pattern {
        PeerPattern::Network(network) => Some(fold(*network).trunc()),
        PeerPattern::Unix | PeerPattern::UnixUid(_) => None,
    };
    let networks: Vec<_> = patterns.iter().filter_map(network).collect();
    let is_wider = |joined: &IpNet| {
        let mut parts = networks.iter().filter(|network| joined.contains(*network));
        parts.all(|network| Width::of(*network) < Width::of(*joined))
    };
    IpNet::aggregate(&networks).into_iter().filter(is_wider).collect()
}

/// Reports peers that no connection of the listener has: users of this host over TCP, and addresses
/// over a Unix socket. `is_relayed` says whether PROXY headers give the connections addresses.
pub fn check_kind(
    from: &TomlValue<'_>,
    patterns: &[PeerPattern],
    address: Option<&ListenAddress>,
    is_relayed: bool,
) {
    let is_user = |pattern: &PeerPattern| !matches!(pattern, PeerPattern::Network(_));
    let (users, addresses) =
        (patterns.iter().any(is_user), !patterns.iter().all(is_user) || patterns.is_empty());
    let finding = match address {
        Some(ListenAddress::Unix(_)) if !users && !is_relayed => {
            error("no peer of a Unix socket has an address: nothing would be believed")
                .with_remedy("\"unix\", or \"unix:uid=www-data\" for the proxy's user")
        }
        Some(ListenAddress::Tcp(_)) if !addresses => no_user(error),
        Some(ListenAddress::Tcp(_)) if users => no_user(warning),
        _ => return,
    };
    from.report(finding);
}

fn no_user(level: impl Fn(&'static str) -> Finding) -> Finding {
    level("`unix` matches no peer of a listener with a port")
        .with_remedy("the proxy's address, or listen = \"unix:/PATH\"")
}
