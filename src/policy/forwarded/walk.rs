//! The walk through a forwarded header.

use http::HeaderMap;

use crate::policy::forwarded::derivation::{Derivation, MAX_HOPS, WalkEnd, WalkFault};
use crate::policy::forwarded::element::{Element, FromRight};
use crate::policy::forwarded::header::ForwardedHeader;
use crate::policy::forwarded::report::{ForwardedReport, request_id};
use crate::policy::network::{Client, Peer};
use crate::policy::peers::PeerList;

/// Which forwarded headers a listener believes, and of which peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedRules {
    /// The header that names the client. The other family is never read.
    pub header: ForwardedHeader,
    /// The peers that are believed.
    pub from: PeerList,
}

/// What the headers of a listed peer say about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// The client, and how it was found.
    pub derivation: Derivation,
    /// What else is reported.
    pub report: ForwardedReport,
}

impl ForwardedRules {
    /// Reads the headers of a request on a connection of `peer`: the socket's other end, or the
    /// client that its PROXY header names. `None` means that `peer` is not listed.
    ///
    /// # Errors
    /// An element that the walk reaches is no address, or a report that is reached is malformed.
    pub fn derive(
        &self,
        peer: Client,
        headers: &HeaderMap,
    ) -> Result<Option<Derived>, Box<Derivation>> {
        // Every client can write these headers: of an unlisted peer nothing is read.
        if !self.from.contains(Peer::of_client(peer)) {
            return Ok(None);
        }
        let mut walk = Derivation::new(self.header, peer);
        let nearest = self.walk(&mut walk, headers);
        let derived = nearest.and_then(|nearest| match self.header {
            ForwardedHeader::XForwardedFor => ForwardedReport::of_fields(headers, walk.depth()),
            ForwardedHeader::Forwarded => {
                nearest.map_or(Ok(ForwardedReport::default()), ForwardedReport::of_element)
            }
        });
        match derived {
            Ok(report) => {
                let report = ForwardedReport { request_id: request_id(headers), ..report };
                Ok(Some(Derived { derivation: walk, report }))
            }
            Err(fault) => {
                walk.end = WalkEnd::Fault(fault);
                Err(Box::new(walk))
            }
        }
    }

    /// Walks from right to left. Returns the element that it reached last, which the proxy nearest
    /// to the client wrote. `None` means that there is none.
    fn walk<'h>(
        &self,
        walk: &mut Derivation,
        headers: &'h HeaderMap,
    ) -> Result<Option<Element<'h>>, WalkFault> {
        let mut reached = None;
        // Each proxy appends the address that it was connected from. What a client has written lies
        // to the left of its own address, which ends the walk unless it is listed.
        for text in FromRight::new(headers, self.header) {
            // A malformed element is not skipped: the address to its right belongs to a proxy, and
            // proxies are often admitted where clients are not.
            let element = Element::parse(text, self.header)?;
            let address = element.address;
            reached = Some(element);
            if !self.from.contains_address(address) {
                walk.end = WalkEnd::Unlisted(Client::new(address));
                return Ok(reached);
            }
            if walk.hops.len() == MAX_HOPS {
                return Err(WalkFault::TooManyHops);
            }
            walk.hops.push(Client::new(address));
            walk.end = WalkEnd::AllListed;
        }
        Ok(reached)
    }
}
