//! The clients that an entry of a list is about: a network, or users of this host.

use std::fmt;

use ipnet::IpNet;

use crate::policy::unix::UnixPattern;

/// The clients that an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientPattern {
    /// Clients with an address in this network, which has no host bits and is folded.
    Network(IpNet),
    /// Clients that connect over a Unix socket.
    Unix(UnixPattern),
}

impl ClientPattern {
    /// The network. `None` means users of this host.
    pub const fn network(self) -> Option<IpNet> {
        match self {
            ClientPattern::Network(network) => Some(network),
            ClientPattern::Unix(_) => None,
        }
    }

    /// The pattern of users. `None` means a network.
    pub const fn users(self) -> Option<UnixPattern> {
        match self {
            ClientPattern::Network(_) => None,
            ClientPattern::Unix(pattern) => Some(pattern),
        }
    }

    /// Whether each client of `other` is one of this pattern too.
    pub fn contains(self, other: ClientPattern) -> bool {
        match (self, other) {
            (ClientPattern::Network(network), ClientPattern::Network(other)) => {
                network.contains(&other)
            }
            (ClientPattern::Unix(users), ClientPattern::Unix(other)) => users.contains(other),
            _ => false,
        }
    }
}

/// Displays a network with its length, even that of one address.
impl fmt::Display for ClientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientPattern::Network(network) => network.fmt(f),
            ClientPattern::Unix(users) => users.fmt(f),
        }
    }
}
