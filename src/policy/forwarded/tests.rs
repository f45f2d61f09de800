//! Tests of the walk, of its elements and of the reports.

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use proptest::prelude::*;

use super::{ForwardedHeader, ForwardedReport, ForwardedRules, MAX_HOPS};
use crate::policy::network::{Client, Peer, UnixUser};
use crate::policy::peers::{PeerList, PeerPattern};
use crate::policy::request::Scheme;

const XFF: ForwardedHeader = ForwardedHeader::XForwardedFor;
const RFC: ForwardedHeader = ForwardedHeader::Forwarded;

fn rules(header: ForwardedHeader) -> ForwardedRules {
    let networks = ["10.0.0.0/8", "2001:db8:a::/48"];
    let networks = networks.map(|one| PeerPattern::Network(one.parse::<IpNet>().unwrap()));
    ForwardedRules { header, from: PeerList::new(networks) }
}

fn ip(text: &str) -> Client {
    Client::new(text.parse().unwrap())
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn lines(header: ForwardedHeader, values: &[&str]) -> HeaderMap {
    let name = header.field();
    fields(&values.iter().map(|value| (name.as_str(), *value)).collect::<Vec<_>>())
}

/// What the walk from the listed peer 10.0.0.7 finds in these lines: a client, or a fault.
fn found(header: ForwardedHeader, values: &[&str]) -> String {
    match rules(header).derive(ip("10.0.0.7"), &lines(header, values)) {
        Ok(derived) => derived.unwrap().derivation.client().to_string(),
        Err(derivation) => derivation.fault().unwrap().to_string(),
    }
}

fn check(header: ForwardedHeader, values: &[&str], expected: &str) {
    assert_eq!(found(header, values), expected, "{values:?}");
}

fn check_refused(header: ForwardedHeader, values: &[&str]) {
    let fault = rules(header).derive(ip("10.0.0.7"), &lines(header, values));
    assert!(fault.is_err(), "{values:?}: {}", found(header, values));
}

fn report(header: ForwardedHeader, all: &[(&str, &str)]) -> Result<ForwardedReport, String> {
    let derived = rules(header).derive(ip("10.0.0.7"), &fields(all));
    derived.map(|derived| derived.unwrap().report).map_err(|fault| fault.to_string())
}

// C-FWD-01, C-FWD-02, C-FWD-03
#[test]
fn rightmost_unlisted_address_is_the_client() {
    check(XFF, &["198.51.100.3"], "198.51.100.3");
    check(XFF, &["192.0.2.1, 198.51.100.3"], "198.51.100.3");
    check(XFF, &["192.0.2.1, 198.51.100.3, 10.0.0.9"], "198.51.100.3");
    check(XFF, &["192.0.2.1", "198.51.100.3,10.0.0.9", "10.2.0.1"], "198.51.100.3");
    check(XFF, &["garbage, <script>, 198.51.100.3"], "198.51.100.3");
    check(XFF, &["10.0.0.9, 192.0.2.1"], "192.0.2.1");
    check(RFC, &["for=192.0.2.1, for=198.51.100.3, for=10.0.0.9"], "198.51.100.3");
    check(RFC, &["for=192.0.2.1", "for=198.51.100.3"], "198.51.100.3");
    check(RFC, &["for=\"unbalanced, for=198.51.100.3"], "198.51.100.3");
}

#[test]
fn leftmost_is_the_client_when_all_are_listed() {
    check(XFF, &["10.3.0.1, 10.2.0.1"], "10.3.0.1");
    check(RFC, &["for=10.3.0.1;proto=http, for=10.2.0.1"], "10.3.0.1");
}

#[test]
fn peer_is_the_client_when_the_header_names_none() {
    for values in [&[][..], &[""], &[","], &[" , ,, "], &["", ""]] {
        check(XFF, values, "10.0.0.7");
        check(RFC, values, "10.0.0.7");
    }
}

#[test]
fn headers_of_an_unlisted_peer_are_not_read() {
    for peer in ["192.0.2.9", "2001:db8:b::1", "::1", "11.0.0.1"] {
        let derived = rules(XFF).derive(ip(peer), &lines(XFF, &["garbage, 198.51.100.3"]));
        assert_eq!(derived, Ok(None), "{peer}");
    }
    let unix = Client::of_peer(Peer::unix(UnixUser { uid: 33, gid: 33 }));
    assert_eq!(rules(XFF).derive(unix, &lines(XFF, &["198.51.100.3"])), Ok(None));
    let from = PeerList::new([PeerPattern::UnixUid(33)]);
    let listed = ForwardedRules { header: XFF, from };
    let derived = listed.derive(unix, &lines(XFF, &["198.51.100.3"])).unwrap().unwrap();
    assert_eq!(derived.derivation.client(), ip("198.51.100.3"));
    assert_eq!(listed.derive(ip("10.0.0.7"), &lines(XFF, &["198.51.100.3"])), Ok(None));
}

#[test]
fn other_family_is_never_read() {
    let both = fields(&[("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "198.51.100.3")]);
    for (header, client) in [(XFF, "198.51.100.3"), (RFC, "192.0.2.1")] {
        let derived = rules(header).derive(ip("10.0.0.7"), &both).unwrap().unwrap();
        assert_eq!(derived.derivation.client(), ip(client));
    }
    let derived = rules(RFC).derive(ip("10.0.0.7"), &lines(XFF, &["198.51.100.3"]));
    assert_eq!(derived.unwrap().unwrap().derivation.client(), ip("10.0.0.7"));
    let mixed = [("forwarded", "for=192.0.2.1"), ("x-forwarded-proto", "nonsense")];
    assert_eq!(report(RFC, &mixed).unwrap(), ForwardedReport::default());
}

// C-IP-05
#[test]
fn address_may_have_brackets_and_a_port() {
    for (written, client) in [
        ("198.51.100.3:80", "198.51.100.3"),
        ("198.51.100.3:65535", "198.51.100.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:198.51.100.3", "198.51.100.3"),
        ("[::ffff:198.51.100.3]:80", "198.51.100.3"),
        ("\t198.51.100.3 ", "198.51.100.3"),
    ] {
        check(XFF, &[written], client);
        check(XFF, &[&format!("192.0.2.1, {written} ,[2001:db8:a::1]:9, ::ffff:10.0.0.9")], client);
        check(RFC, &[&format!("for=\"{}\"", written.trim_ascii())], client);
    }
}

#[test]
fn element_that_is_reached_and_is_no_address_is_refused() {
    for odd in [
        "localhost",
        "198.51.100",
        "198.51.100.3.4",
        "198.51.100.03",
        "0x7f.1",
        "198.51.100.3:",
        "198.51.100.3:65536",
        "198.51.100.3:+1",
        "198.51.100.3:http",
        "198.51.100.3 192.0.2.1",
        "198.51.100.3/32",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "[198.51.100.3]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]80",
        "\"198.51.100.3\"",
        "unknown",
        "_hidden",
        "for=198.51.100.3",
        "é",
        "-",
    ] {
        check_refused(XFF, &[odd]);
        check_refused(XFF, &[&format!("198.51.100.3, {odd}, 10.0.0.9")]);
        check(XFF, &[&format!("{odd}, 198.51.100.3")], "198.51.100.3");
    }
}

#[test]
fn elements_of_rfc_7239_are_read() {
    for (written, client) in [
        ("for=198.51.100.3", "198.51.100.3"),
        ("For=\"198.51.100.3\"", "198.51.100.3"),
        ("FOR=198.51.100.3;proto=http;by=203.0.113.43", "198.51.100.3"),
        ("by=_secret;for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
        ("for=\"198.51.100.3:_port\"", "198.51.100.3"),
        ("for=198.51.100.3:4711", "198.51.100.3"),
        ("for=[2001:db8::1]", "2001:db8::1"),
        ("for=\"198.51.\\100.3\"", "198.51.100.3"),
        (";for=198.51.100.3 ; ext=\"a, b\" ;;", "198.51.100.3"),
        ("ext=\"\\\"\";for=198.51.100.3", "198.51.100.3"),
        ("ext=\"\\\\\";for=198.51.100.3", "198.51.100.3"),
    ] {
        check(RFC, &[written], client);
        check(RFC, &[&format!("for=_x, {written}, for=10.0.0.9;ext=\",\"")], client);
    }
}

#[test]
fn malformed_and_hidden_elements_of_rfc_7239_are_refused() {
    for odd in [
        "for=unknown",
        "for=\"unknown:80\"",
        "for=_gazonk",
        "for=\"_SEVKISEK\"",
        "proto=https",
        "for",
        "for=",
        "for=\"\"",
        "=198.51.100.3",
        "198.51.100.3",
        "for = 198.51.100.3",
        "for=198.51.100.3;for=192.0.2.1",
        "for=198.51.100.3;proto=http;PROTO=https",
        "for=198.51.100.3 proto=http",
        "for=\"198.51.100.3\"x",
        "for=198.51.100.3\"",
        "for=\"198.51.100.3\\\"",
        "for='198.51.100.3'",
        "for=\"198.51.100.3",
    ] {
        check_refused(RFC, &[odd]);
        check_refused(RFC, &[&format!("for=198.51.100.3, {odd}, for=10.0.0.9")]);
        check(RFC, &["for=\"", "for=198.51.100.3"], "198.51.100.3");
    }
}

#[test]
fn quote_of_a_client_swallows_no_element_of_a_proxy() {
    check_refused(RFC, &["for=6.6.6.6;a=\", for=198.51.100.3;host=\";b=\"c\""]);
    check(RFC, &["for=6.6.6.6;a=\", for=198.51.100.3;host=a"], "198.51.100.3");
    check(RFC, &["for=6.6.6.6;a=\", for=\"[2001:db8::1]\""], "2001:db8::1");
}

#[test]
fn listed_addresses_are_bounded() {
    let chain = |hops: usize| format!("198.51.100.3{}", ", 10.0.0.9".repeat(hops));
    check(XFF, &[&chain(MAX_HOPS)], "198.51.100.3");
    check(XFF, &[&chain(MAX_HOPS + 1)], "more than 64 listed addresses");
    check(XFF, &[&",".repeat(30_000)], "10.0.0.7");
}

#[test]
fn nearest_proxy_of_the_client_reports() {
    let at = |depth: &str, name: &str, value: &str| {
        let all = [("x-forwarded-for", depth), (name, value)];
        report(XFF, &all).map(|report| report.scheme)
    };
    let (one, two) = ("6.6.6.6, 198.51.100.3", "6.6.6.6, 198.51.100.3, 10.0.0.9");
    let (http, https) = (Ok(Some(Scheme::Http)), Ok(Some(Scheme::Https)));
    assert_eq!(at(one, "x-forwarded-proto", "https"), https);
    assert_eq!(at(one, "x-forwarded-proto", "http, https"), https);
    assert_eq!(at(two, "x-forwarded-proto", "http, https, http"), https);
    assert_eq!(at(two, "x-forwarded-proto", "WSS"), https);
    assert_eq!(at(two, "x-forwarded-proto", "ws"), http);
    assert_eq!(at(one, "x-forwarded-proto", "gopher, https"), https);
    assert_eq!(at(one, "x-forwarded-proto", " , "), Ok(None));
    assert_eq!(at("", "x-forwarded-proto", "http,https"), https);
    assert_eq!(
        at(one, "x-forwarded-proto", "https, h\"ttp").unwrap_err(),
        "peer 10.0.0.7 is listed; `h\\\"ttp` is not a scheme of HTTP"
    );
}

#[test]
fn host_and_port_are_reported() {
    let with = |all: &[(&str, &str)]| {
        let all = [&[("x-forwarded-for", "198.51.100.3")], all].concat();
        report(XFF, &all).map(|report| (report.host.map(|host| host.to_string()), report.port))
    };
    let (host, port) = ("x-forwarded-host", "x-forwarded-port");
    assert_eq!(
        with(&[(host, "App.example:8443")]),
        Ok((Some("app.example:8443".into()), Some(8443)))
    );
    assert_eq!(
        with(&[(host, "app.example"), (port, "443")]),
        Ok((Some("app.example".into()), Some(443)))
    );
    assert_eq!(
        with(&[(host, "evil, app.example:1"), (port, "80, 443")]),
        Ok((Some("app.example:1".into()), Some(443)))
    );
    for (name, odd) in
        [(host, "a b"), (host, "a/b"), (port, "0"), (port, "65536"), (port, "+1"), (port, "x")]
    {
        assert!(with(&[(name, odd)]).is_err(), "{odd}");
    }
    let element = "for=6.6.6.6;host=evil, for=198.51.100.3;host=\"app.example:8443\";proto=https, \
                   for=10.0.0.9;proto=http";
    let read = report(RFC, &[("forwarded", element)]).unwrap();
    assert_eq!((read.scheme, read.port), (Some(Scheme::Https), Some(8443)));
    assert_eq!(read.host.unwrap().to_string(), "app.example:8443");
    assert!(report(RFC, &[("forwarded", "for=198.51.100.3;proto=x")]).is_err());
    assert!(report(RFC, &[("forwarded", "for=198.51.100.3;host=\"a b\"")]).is_err());
}

#[test]
fn request_id_of_a_listed_peer_is_kept_when_it_is_plain() {
    let id = |values: &[&str]| {
        let all: Vec<_> = values.iter().map(|value| ("x-request-id", *value)).collect();
        report(XFF, &all).unwrap().request_id
    };
    for plain in ["a", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233:abc/d+e@f~g._h"] {
        assert_eq!(id(&[plain]).unwrap(), plain);
    }
    let long = "a".repeat(129);
    for odd in [&["a b"][..], &[""], &["a\"b"], &["a,b"], &["\u{e9}"], &["a", "b"], &[&long]] {
        assert_eq!(id(odd), None, "{odd:?}");
    }
}

#[test]
fn derivation_is_told_step_by_step() {
    let told = |values: &[&str]| match rules(XFF).derive(ip("10.0.0.7"), &lines(XFF, values)) {
        Ok(derived) => derived.unwrap().derivation.to_string(),
        Err(derivation) => derivation.to_string(),
    };
    assert_eq!(
        told(&["198.51.100.3, 10.0.0.9"]),
        "peer 10.0.0.7 is listed; 10.0.0.9 is listed; 198.51.100.3 is not: the client"
    );
    assert_eq!(
        told(&["10.0.0.9"]),
        "peer 10.0.0.7 is listed; 10.0.0.9 is listed and the leftmost: the client"
    );
    assert_eq!(
        told(&[]),
        "peer 10.0.0.7 is listed and names no address in X-Forwarded-For: the client"
    );
    assert_eq!(
        told(&["198.51.100.3, x\ty, 10.0.0.9"]),
        "peer 10.0.0.7 is listed; 10.0.0.9 is listed; `x\\ty` is not an address"
    );
    assert!(told(&[&"x".repeat(10_000)]).len() < 200);
}

#[test]
fn chain_begins_with_the_client_and_ends_with_the_peer() {
    let chain = |values: &[&str]| -> String {
        let derived = rules(XFF).derive(ip("10.0.0.7"), &lines(XFF, values)).unwrap().unwrap();
        derived.derivation.chain().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(chain(&["6.6.6.6, 198.51.100.3:80, 10.0.0.9"]), "198.51.100.3, 10.0.0.9, 10.0.0.7");
    assert_eq!(chain(&["10.0.0.8, 10.0.0.9"]), "10.0.0.8, 10.0.0.9, 10.0.0.7");
    assert_eq!(chain(&[]), "10.0.0.7");
}

/// A piece of a header, as a client or a proxy may write it.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("198.51.100.3".to_owned()),
        Just("10.0.0.9".to_owned()),
        Just("for=198.51.100.3".to_owned()),
        Just("for=10.0.0.9".to_owned()),
        Just("for=\"[2001:db8:a::1]:80\"".to_owned()),
        "[ ,;=\"\\\\a-z0-9.:_\\[\\]]{0,12}",
    ]
}

proptest! {
    #[test]
    fn proxy_has_the_last_word_whatever_the_client_wrote(
        left in proptest::collection::vec(piece(), 0..6),
        header in prop_oneof![Just(XFF), Just(RFC)],
    ) {
        let left = left.join(",");
        let own = if header == XFF { "203.0.113.5" } else { "for=203.0.113.5" };
        let behind = if header == XFF { "10.0.0.9" } else { "for=10.0.0.9" };
        // The proxy joins, or adds a line.
        for values in [&[&*format!("{left}, {own}, {behind}")][..], &[&left, own, behind]] {
            let found = found(header, values);
            prop_assert_eq!(&found, "203.0.113.5", "{:?}", values);
        }
    }

    #[test]
    fn client_is_named_by_the_header_or_is_the_peer(value in "[ -~]{0,60}") {
        for header in [XFF, RFC] {
            let headers = lines(header, &[&value]);
            if let Ok(Some(derived)) = rules(header).derive(ip("10.0.0.7"), &headers) {
                let client = derived.derivation.client();
                let steps = derived.derivation.chain().count();
                prop_assert!(steps <= MAX_HOPS + 2);
                prop_assert!(client == ip("10.0.0.7") || value.contains(['.', ':']));
            }
        }
    }
}
