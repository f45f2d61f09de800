//! What a client has written of `X-Forwarded-For` or `Forwarded`, on one line or more, behind which
//! a proxy appends the client's address. The walk never finds an address to its left.

#![no_main]

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sidegate::policy::forwarded::{ForwardedHeader, ForwardedRules};
use sidegate::policy::network::Client;
use sidegate::policy::peers::{PeerList, PeerPattern};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5));

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'\n').collect()
}

fn headers(header: ForwardedHeader, lines: &[&[u8]]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(header.field(), HeaderValue::from_bytes(line).ok()?);
    }
    Some(headers)
}

fuzz_target!(|text: &[u8]| {
    let from = PeerList::new([PeerPattern::Network("10.0.0.0/8".parse().unwrap())]);
    for (header, own, hop) in [
        (ForwardedHeader::XForwardedFor, "203.0.113.5", "10.0.0.9"),
        (ForwardedHeader::Forwarded, "for=203.0.113.5", "for=\"10.0.0.9:80\";proto=https"),
    ] {
        let rules = ForwardedRules { header, from: from.clone() };
        let Some(written) = headers(header, &lines(text)) else { return };
        let peer = Client::new(PEER);
        // Of a peer that is not listed nothing is read.
        assert_eq!(rules.derive(Client::new(CLIENT), &written), Ok(None));
        match rules.derive(peer, &written) {
            Ok(derived) => assert!(!derived.unwrap().derivation.to_string().is_empty()),
            Err(derivation) => assert!(derivation.fault().is_some() && derivation.client() == peer),
        }
        // The proxies join their elements to the last line, or add lines.
        let mut joined = lines(text);
        let last = joined.pop().unwrap_or_default();
        let last = [last, format!(", {own}, {hop}").as_bytes()].concat();
        joined.push(&last);
        let mut added = lines(text);
        added.extend([own.as_bytes(), hop.as_bytes()]);
        for all in [&joined, &added] {
            let Some(all) = headers(header, all) else { continue };
            let derived = rules.derive(peer, &all).unwrap().unwrap();
            assert_eq!(derived.derivation.client(), Client::new(CLIENT));
        }
    }
});
