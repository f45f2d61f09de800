//! The steps of a walk through forwarded headers, and the faults that end it.

use std::fmt;

use crate::policy::forwarded::header::ForwardedHeader;
use crate::policy::network::Client;

/// The most listed addresses that a walk passes.
pub const MAX_HOPS: usize = 64;

/// The longest excerpt of a header in a message, in characters.
const MAX_EXCERPT: usize = 60;

/// How the client of a request was found. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The header that was read.
    pub header: ForwardedHeader,
    /// The listed peer that sent it.
    pub peer: Client,
    /// Listed addresses that the header names, from right to left.
    pub hops: Vec<Client>,
    /// Where the walk ended.
    pub end: WalkEnd,
}

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkEnd {
    /// The header names no address.
    Empty,
    /// At this address, which is not listed: the client.
    Unlisted(Client),
    /// All addresses are listed: the leftmost is the client.
    AllListed,
    /// At what cannot be read. No client is known, and the request is refused.
    Fault(WalkFault),
}

/// Why forwarded headers cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkFault {
    /// This is no address.
    NoAddress(Box<str>),
    /// The sender hides the address: `unknown`, an obfuscated identifier, or no `for`.
    Hidden(Box<str>),
    /// This is no element of RFC 7239.
    Malformed(Box<str>),
    /// More listed addresses than [`MAX_HOPS`].
    TooManyHops,
    /// The reported scheme is none of `http`, `https`, `ws` and `wss`.
    Scheme(Box<str>),
    /// The reported host is none.
    Host(Box<str>),
    /// The reported port is none.
    Port(Box<str>),
}

impl Derivation {
    /// Begins at `peer`, which is listed.
    pub(super) fn new(header: ForwardedHeader, peer: Client) -> Self {
        Derivation { header, peer, hops: Vec::new(), end: WalkEnd::Empty }
    }

    /// The client. After a fault it is the peer, which alone is known.
    pub fn client(&self) -> Client {
        match self.end {
            WalkEnd::Unlisted(client) => client,
            WalkEnd::AllListed => self.hops.last().copied().unwrap_or(self.peer),
            WalkEnd::Empty | WalkEnd::Fault(_) => self.peer,
        }
    }

    /// The fault. `None` means that the client was found.
    pub fn fault(&self) -> Option<&WalkFault> {
        match &self.end {
            WalkEnd::Fault(fault) => Some(fault),
            WalkEnd::Empty | WalkEnd::Unlisted(_) | WalkEnd::AllListed => None,
        }
    }

    /// How many addresses lie to the right of the client's.
    pub(super) fn depth(&self) -> usize {
        match self.end {
            WalkEnd::Unlisted(_) => self.hops.len(),
            _ => self.hops.len().saturating_sub(1),
        }
    }

    /// The addresses from the client to the peer, as a header names them. Addresses to the left of
    /// the client's are no part of it.
    pub fn chain(&self) -> impl Iterator<Item = Client> {
        let unlisted = match self.end {
            WalkEnd::Unlisted(client) => Some(client),
            _ => None,
        };
        unlisted.into_iter().chain(self.hops.iter().rev().copied()).chain([self.peer])
    }
}

impl fmt::Display for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {} is listed", self.peer)?;
        self.hops.iter().try_for_each(|hop| write!(f, "; {hop} is listed"))?;
        match &self.end {
            WalkEnd::Unlisted(client) => write!(f, "; {client} is not: the client"),
            WalkEnd::AllListed => f.write_str(" and the leftmost: the client"),
            WalkEnd::Empty => {
                write!(f, " and names no address in {}: the client", self.header.spelled())
            }
            WalkEnd::Fault(fault) => write!(f, "; {fault}"),
        }
    }
}

impl fmt::Display for WalkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalkFault::NoAddress(text) => write!(f, "`{text}` is not an address"),
            WalkFault::Hidden(text) => write!(f, "`{text}` hides the address"),
            WalkFault::Malformed(text) => write!(f, "`{text}` is malformed (RFC 7239)"),
            WalkFault::TooManyHops => write!(f, "more than {MAX_HOPS} listed addresses"),
            WalkFault::Scheme(text) => write!(f, "`{text}` is not a scheme of HTTP"),
            WalkFault::Host(text) => write!(f, "`{text}` is not a host"),
            WalkFault::Port(text) => write!(f, "`{text}` is not a port"),
        }
    }
}

/// The beginning of `text`, for a message.
pub fn excerpt(text: &[u8]) -> Box<str> {
    let text = String::from_utf8_lossy(text);
    let shown: String = text.chars().take(MAX_EXCERPT).flat_map(char::escape_debug).collect();
    let more = if text.chars().nth(MAX_EXCERPT).is_some() { "…" } else { "" };
    format!("{shown}{more}").into()
}
