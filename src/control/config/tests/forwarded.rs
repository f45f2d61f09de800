//! `forwarded` of a listener: its header and its peers, and what is wrong in either.

use super::{SIDEGATE, check, load};
use crate::policy::forwarded::ForwardedHeader;
use crate::policy::network::{Peer, UnixUser};

fn text(value: &str) -> String {
    SIDEGATE.replace("tls = false", &format!("tls = false\nforwarded = {value}"))
}

/// Checks the findings about a listener with this value.
#[track_caller]
fn with(value: &str, expected: &str) {
    check(&[("sidegate.toml", &text(value))], expected);
}

/// The severity, message and remedy of the one finding about a listener with this value.
#[track_caller]
fn found(value: &str) -> String {
    let (_, found) = load(&[("sidegate.toml", &text(value))]);
    let lines: Vec<_> = found.lines().filter(|line| !line.trim().is_empty()).collect();
    let remedy = lines.last().unwrap().trim().trim_start_matches("= help: ");
    format!("{} | {remedy}", lines[0])
}

#[test]
fn forwarded_has_a_header_and_peers() {
    for (written, header) in [
        ("x-forwarded-for", ForwardedHeader::XForwardedFor),
        ("forwarded", ForwardedHeader::Forwarded),
    ] {
        let from = "[\"10.20.0.0/24\", \"::ffff:192.0.2.1\", \"unix:uid=33\"]";
        let text = text(&format!("{{ header = \"{written}\", from = {from} }}"));
        // A proxy at the socket, and others in front of it.
        let text = text.replace("127.0.0.1:8443", "unix:/e/public.sock");
        let (loaded, found) = load(&[("sidegate.toml", &text)]);
        assert_eq!(found, "");
        let listener = &loaded.unwrap().settings.listeners[0];
        let rules = listener.forwarded.as_ref().unwrap();
        assert_eq!(rules.header, header);
        for (peer, is_listed) in [("10.20.0.1", true), ("192.0.2.1", true), ("10.20.1.1", false)] {
            assert_eq!(rules.from.contains(Peer::new(peer.parse().unwrap())), is_listed, "{peer}");
        }
        assert!(rules.from.contains(Peer::unix(UnixUser { uid: 33, gid: 0 })));
    }
}

#[test]
fn forwarded_without_a_peer_or_a_header_is_an_error() {
    with(
        "{ header = \"x-forwarded-for\", from = [] }",
        r#"
error: from: lists no peer, so that no header would be believed
 --> sidegate.toml:7:50
  |
7 | forwarded = { header = "x-forwarded-for", from = [] }
  |                                                  ^^
  |
  = help: from = ["10.20.0.0/24"], or remove the key
"#,
    );
    with(
        "{ from = [\"10.20.0.0/24\"] }",
        r#"
error: header: missing from `forwarded`
 --> sidegate.toml:7:13
  |
7 | forwarded = { from = ["10.20.0.0/24"] }
  |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: header = "x-forwarded-for"
"#,
    );
    with(
        "\"x-forwarded-for\"",
        r#"
error: forwarded: expected a table, found a string
 --> sidegate.toml:7:13
  |
7 | forwarded = "x-forwarded-for"
  |             ^^^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn header_that_is_not_read_is_an_error_with_a_remedy() {
    let said = |header: &str| found(&format!("{{ header = \"{header}\", from = [\"::1\"] }}"));
    let append = "let the proxy append to X-Forwarded-For, and write \"x-forwarded-for\" or \
                  \"forwarded\"";
    for header in ["x-real-ip", "X-Real-IP", "cf-connecting-ip", "true-client-ip"] {
        let expected = format!(
            "error: header: \"{header}\" is not supported: it has no hops, so nothing shows which \
             proxy wrote it | {append}"
        );
        assert_eq!(said(header), expected);
    }
    assert_eq!(
        said("via"),
        format!(
            "error: header: \"via\" is not a header that Sidegate reads clients from | {append}"
        )
    );
    assert_eq!(
        said("X_Forwarded_For"),
        "error: header: \"X_Forwarded_For\" is not known | write \"x-forwarded-for\""
    );
}

#[test]
fn network_of_everyone_is_an_error_and_a_wide_one_a_warning() {
    let said = |network: &str| {
        found(&format!("{{ header = \"forwarded\", from = [\"10.0.0.0/8\", \"{network}\"] }}"))
    };
    let remedy = "list only the addresses of the proxies in front";
    assert!(said("::ffff:0.0.0.0/96").starts_with("error: from: 0.0.0.0/0 lets every client"));
    for network in ["0.0.0.0/0", "::/0"] {
        let expected = format!("error: from: {network} lets every client claim any address");
        assert_eq!(said(network), format!("{expected} | {remedy}"));
    }
    for network in ["128.0.0.0/1", "192.0.0.0/7", "2000::/3"] {
        let expected = format!("warning: from: {network} lets very many claim any address");
        assert_eq!(said(network), format!("{expected} | {remedy}"));
    }
    assert!(said("office").starts_with("error: from: \"office\" is not a network"));
}

#[test]
fn halves_of_the_internet_are_the_whole_of_it() {
    let said = |key: &str, from: &str| {
        let value = match key {
            "forwarded" => format!("{{ header = \"forwarded\", from = [{from}] }}"),
            _ => format!("{{ from = [{from}] }}"),
        };
        let text = SIDEGATE.replace("tls = false", &format!("tls = false\n{key} = {value}"));
        load(&[("sidegate.toml", &text)]).1
    };
    let octets = |from: u8, to: u8| {
        (from..=to).map(|first| format!("\"{first}.0.0.0/8\"")).collect::<Vec<_>>().join(", ")
    };
    for (from, together) in [
        ("\"0.0.0.0/1\", \"128.0.0.0/1\"".to_owned(), "0.0.0.0/0"),
        ("\"::/1\", \"8000::/1\"".to_owned(), "::/0"),
        ("\"::ffff:0.0.0.0/97\", \"128.0.0.0/2\", \"192.0.0.0/2\"".to_owned(), "0.0.0.0/0"),
        (octets(0, 255), "0.0.0.0/0"),
    ] {
        let error = format!("error: from: together these are {together}, which lets every client");
        let found = said("forwarded", &from);
        assert!(found.contains(&error), "no {error} in {found}");
        let found = said("proxy_protocol", &from);
        assert!(found.contains("everyone claim any address"), "{found}");
    }
    for (from, together) in [
        (octets(8, 15), "8.0.0.0/5"),
        ("\"fe00::/8\", \"fc00::/7\", \"ff00::/8\"".to_owned(), "fc00::/6"),
    ] {
        let warning = format!("warning: from: together these are {together}, which lets very many");
        let found = said("forwarded", &from);
        assert!(found.contains(&warning), "no {warning} in {found}");
    }
    assert_eq!(said("forwarded", "\"10.0.0.0/9\", \"10.128.0.0/9\""), "");
    assert_eq!(said("proxy_protocol", "\"10.0.0.0/9\", \"10.128.0.0/9\""), "");
}

#[test]
fn peers_that_no_connection_has_are_reported() {
    let said = |listen: &str, keys: &str| {
        let text = SIDEGATE.replace("127.0.0.1:8443", listen);
        load(&[("sidegate.toml", &text.replace("tls = false", &format!("tls = false\n{keys}")))]).1
    };
    let (unix, tcp) = ("unix:/e/public.sock", "127.0.0.1:8443");
    let forwarded =
        |from: &str| format!("forwarded = {{ header = \"forwarded\", from = [{from}] }}");
    let proxied = |from: &str| format!("proxy_protocol = {{ from = [{from}] }}");
    let (address, user) = ("\"10.0.0.1\"", "\"unix:uid=33\"");
    let both = format!("{address}, {user}");
    for (listen, keys, expected) in [
        (unix, forwarded(address), "error: from: no peer of a Unix socket has an address"),
        (unix, proxied(address), "error: from: no peer of a Unix socket has an address"),
        (tcp, forwarded(user), "error: from: `unix` matches no peer of a listener with a port"),
        (tcp, proxied("\"unix\""), "error: from: `unix` matches no peer of a listener"),
        (tcp, forwarded(&both), "warning: from: `unix` matches no peer of a listener"),
        (tcp, proxied(&both), "warning: from: `unix` matches no peer of a listener"),
        (unix, forwarded(&both), ""),
        (unix, proxied(user), ""),
        // PROXY headers give the connections addresses.
        (unix, format!("{}\n{}", proxied(user), forwarded(address)), ""),
        ("systemd:public", forwarded(user), ""),
    ] {
        let found = said(listen, &keys);
        let is_expected = found.starts_with(expected) && found.is_empty() == expected.is_empty();
        assert!(is_expected, "{listen} {keys}: {found}");
    }
}
