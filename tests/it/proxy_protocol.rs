//! `proxy_protocol` of a listener: whose headers count, who is judged and charged then, and what
//! becomes of everyone else. `proxy_protocol` of a route: what its backends are told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::sidegate::data::proxy_protocol::header;
use ::sidegate::policy::proxied::ProxiedConnection;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::bans::order;
use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{End, Wire};
use crate::harness::{certificate, tls, within};

/// The test's clients are balancers.
const FROM_US: &str = "proxy_protocol = { from = ['127.0.0.1', '::1'] }";

const REFUSED: &str = "sidegate_refusals_total";
const CLOSED: &str = "sidegate_connections_closed_total";
const PROXY: [(&str, &str); 1] = [("reason", "proxy")];

/// A header of version 1 for this client.
fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let destination = if client.contains(':') { "2001:db8::443" } else { "198.51.100.1" };
    format!("PROXY {family} {client} {destination} 51234 443\r\n").into_bytes()
}

/// A header of version 2 for this client over IPv4, with these TLVs.
fn v2_with(client: &str, tlvs: &[u8]) -> Vec<u8> {
    let client: std::net::Ipv4Addr = client.parse().unwrap();
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    let fixed = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length].concat();
    let ports = [0xC8, 0x22, 0x01, 0xBB];
    [&fixed, &client.octets()[..], &[198, 51, 100, 1], &ports, tlvs].concat()
}

fn v2(client: &str) -> Vec<u8> {
    v2_with(client, &[])
}

/// The header of a balancer's own check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";

/// An agent behind the test's balancer.
fn behind(backend: &Backend) -> Builder {
    sidegate::new().route("/chat", backend).on_listener(FROM_US)
}

/// A client of that balancer.
fn of(sidegate: &Sidegate, header: impl AsRef<[u8]>) -> Client {
    client::new(sidegate).preamble(header)
}

/// That a connection with these first bytes is closed without an answer.
async fn expect_closed(client: &Client, bytes: impl AsRef<[u8]>) {
    let mut wire = client.connect_below_tls().await;
    let _ = wire.try_deliver(bytes).await;
    assert!(wire.rest().await.is_empty(), "an answer");
}

async fn expect_refused(sidegate: &Sidegate, connections: u32) {
    sidegate.expect_metric(CLOSED, PROXY, connections).await;
    sidegate.expect_metric(REFUSED, PROXY, connections).await;
}

// C-FWD-07
#[tokio::test]
async fn client_that_the_header_names_is_judged() {
    let backend = backend::echo().run().await;
    let allowed = |sidegate: Builder| sidegate.allow("192.0.2.0/24").allow("2001:db8::/32");
    for sidegate in [behind(&backend), behind(&backend).clear()] {
        let sidegate = allowed(sidegate).run().await;
        for (header, client) in [
            (v1("192.0.2.7"), "192.0.2.7"),
            (v2("192.0.2.8"), "192.0.2.8"),
            (v1("2001:db8::7"), "2001:db8::7"),
            (v1("::ffff:192.0.2.9"), "192.0.2.9"),
        ] {
            of(&sidegate, header).open("/chat").await.expect_echo("hello").await;
            let head = backend.heads().pop().unwrap();
            assert_eq!(head.header("x-forwarded-for"), Some(client));
        }
        for header in [v1("198.51.100.7"), v2("127.0.0.1"), v1("2001:db9::7")] {
            of(&sidegate, header).attempt("/chat").await.expect_refused(403, "network");
        }
        // What a client forges behind the header changes nothing.
        let forged = of(&sidegate, v2("198.51.100.7")).header("X-Forwarded-For", "192.0.2.7");
        forged.attempt("/chat").await.expect_refused(403, "network");
    }
}

#[tokio::test]
async fn banned_client_behind_a_balancer_loses_its_tunnel() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).clear().toml("process.state = 'state'").run().await;
    let mut banned = of(&sidegate, v1("192.0.2.7")).open("/chat").await;
    let mut neighbour = of(&sidegate, v1("192.0.2.8")).open("/chat").await;
    let ban = ["ban", "192.0.2.7", "--why", "probes"];
    order(&ban, sidegate.folder(), 0, &["banned: 192.0.2.7", "1 tunnel"]).await;
    banned.expect_close(1008).await;
    expect_closed(&client::new(&sidegate), v2("192.0.2.7")).await;
    neighbour.expect_echo("untouched").await;
    order(&["unban", "192.0.2.7"], sidegate.folder(), 0, &["unbanned"]).await;
    of(&sidegate, v2("192.0.2.7")).open("/chat").await.expect_echo("again").await;
    let peer = ["ban", "127.0.0.1", "--why", "x", "--override", "loopback"];
    order(&peer, sidegate.folder(), 1, &["`proxy_protocol` of the listener"]).await;
}

// C-FWD-11
#[tokio::test]
async fn local_and_unknown_keep_the_address_of_the_peer() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).allow("127.0.0.1").run().await;
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'/'; 216]].concat();
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\0";
    // As LOCAL below, for a client of datagrams.
    let datagrams = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x07\xc0\0\x02\x07\0\x01\0\x02";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x07\0\x01\0\x02";
    let unknown = [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ::1\r\n"];
    let binary = [LOCAL, local, unspecified, datagrams, &unix];
    for header in [&binary[..], &unknown].concat() {
        of(&sidegate, header).open("/chat").await.expect_echo("hello").await;
        let head = backend.heads().pop().unwrap();
        assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn header_is_read_however_its_bytes_arrive() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).allow("192.0.2.7").run().await;
    let padded = v2_with("192.0.2.7", &[&[4, 1, 0][..], &[0; 256]].concat());
    for header in [v1("192.0.2.7"), v2("192.0.2.7"), padded] {
        // With the ClientHello in one segment, byte by byte, and in uneven pieces.
        for pieces in [usize::MAX, 1, 7] {
            let mut client = tls::begin(&sidegate, &rustls::version::TLS13).await;
            client.pieces = pieces;
            let hello = client.outgoing();
            client.send_below(&[&header[..], &hello].concat()).await;
            let flight = client.last_flight().await;
            client.send_below(&flight).await;
            client.attempt(b"").await;
            client.expect_101().await;
        }
    }
    let sidegate = behind(&backend).clear().allow("192.0.2.7").run().await;
    for (header, at_once) in [(v1("192.0.2.7"), true), (v2("192.0.2.7"), false)] {
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        let head = client.attempt_head("/chat", "");
        let all = [&header[..], head.as_bytes()].concat();
        for piece in all.chunks(if at_once { all.len() } else { 1 }) {
            wire.deliver(piece).await;
        }
        wire.answer().await.expect(101);
        wire.expect_echo("behind the header").await;
    }
}

#[tokio::test]
async fn listed_peer_without_a_header_is_closed() {
    let backend = backend::echo().run().await;
    let folder = behind(&backend).clear().write();
    let mut process = process::new(folder.path()).run().await;
    let client = process.client();
    let head = client.attempt_head("/chat", "");
    for (bytes, error) in [
        (head.as_bytes(), "no PROXY header: a peer listed in proxy_protocol.from began with HTTP"),
        (
            b"\x16\x03\x01\0\0",
            "no PROXY header: a peer listed in proxy_protocol.from began with a TLS handshake",
        ),
        (b"SSH-2.0-a\r\n", "no PROXY header: a peer listed in proxy_protocol.from began with HTTP"),
    ] {
        expect_closed(&client, bytes).await;
        let line = process.logged("refused").await;
        assert_eq!((&line["reason"], &line["error"]), (&json!("proxy"), &json!(error)));
        assert_eq!((&line["client"], &line["peer"]), (&json!("127.0.0.1"), &json!("127.0.0.1")));
    }
    backend.expect_untouched();
}

// C-FWD-08, C-FWD-09, C-FWD-10
#[tokio::test]
async fn malformed_header_is_closed_without_an_answer() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).clear().run().await;
    let client = client::new(&sidegate);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let malformed: [&[u8]; 8] = [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x07\0\x01\0\x02",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x41\0\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b\xc0\0\x02\x07\xc0\0\x02\x07\0\x01\0",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x00\xff\xff",
    ];
    for bytes in malformed {
        expect_closed(&client, [bytes, get].concat()).await;
    }
    // A TLV over the end, one byte short of the end, and a byte that is no TLV.
    for tlvs in [&b"\x02\0\x05a"[..], b"\x02\0\x01ab", b"\x05"] {
        expect_closed(&client, [&v2_with("192.0.2.7", tlvs), &get[..]].concat()).await;
    }
    expect_refused(&sidegate, 11).await;
    // The connection ends within the header.
    let mut cut = client.connect().await;
    cut.send_last(&v2("192.0.2.7")[..20]).await;
    cut.expect_end().await;
    expect_refused(&sidegate, 12).await;
    sidegate.expect_metric("sidegate_probes_total", [], 0).await;
    backend.expect_untouched();
}

#[tokio::test]
async fn late_header_is_closed_and_holds_up_nobody_else() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).threads(1).timeouts("proxy_header = '300ms'").run().await;
    let mut waiting = Vec::new();
    for _ in 0..21 {
        waiting.push(client::new(&sidegate).connect_below_tls().await);
    }
    waiting[0].send(&v2("192.0.2.7")[..27]).await;
    of(&sidegate, v1("192.0.2.7")).open("/chat").await.expect_echo("in time").await;
    for mut late in waiting {
        late.expect_end().await;
    }
    expect_refused(&sidegate, 21).await;
}

#[tokio::test]
async fn tls_bounds_the_header_too() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).timeouts("tls = '100ms'\nproxy_header = '1h'").run().await;
    let mut silent = client::new(&sidegate).connect_below_tls().await;
    within("the end", silent.expect_end()).await;
    expect_refused(&sidegate, 1).await;
}

#[tokio::test]
async fn health_checks_of_a_balancer_are_counted_apart() {
    let backend = backend::echo().run().await;
    for builder in [behind(&backend), behind(&backend).clear()] {
        let sidegate = builder.run().await;
        let checks = [client::new(&sidegate), of(&sidegate, LOCAL), of(&sidegate, v1("192.0.2.7"))];
        for (count, check) in (0..).zip(&checks) {
            check.connect_below_tls().await.finish().await;
            sidegate.expect_metric("sidegate_probes_total", [], 2 * count + 1).await;
            // As HAProxy ends a check of TCP.
            check.connect_below_tls().await.reset();
            sidegate.expect_metric("sidegate_probes_total", [], 2 * count + 2).await;
        }
        sidegate.expect_metric(CLOSED, [("reason", "client")], 6).await;
        let text = sidegate.metrics().await;
        for line in text.lines().filter(|line| line.starts_with(REFUSED)) {
            assert!(line.ends_with(" 0"), "{line}");
        }
    }
}

// C-FWD-12
#[tokio::test]
async fn unlisted_peer_is_its_own_client_and_may_send_no_header() {
    let backend = backend::echo().run().await;
    let listener = "proxy_protocol = { from = ['127.0.0.9', '2001:db8::/32'] }";
    for builder in [sidegate::new(), sidegate::new().clear()] {
        let sidegate = builder.route("/chat", &backend).on_listener(listener).run().await;
        client::new(&sidegate).open("/chat").await.expect_echo("direct").await;
        assert_eq!(backend.heads().pop().unwrap().header("x-forwarded-for"), Some("127.0.0.1"));
        expect_closed(&client::new(&sidegate), v1("192.0.2.7")).await;
        expect_closed(&client::new(&sidegate), v2("192.0.2.7")).await;
        expect_refused(&sidegate, 2).await;
        let listed = of(&sidegate, v1("192.0.2.7")).from("127.0.0.9");
        listed.open("/chat").await.expect_echo("through the balancer").await;
        // A second header names no client.
        let both = [v1("192.0.2.7"), v1("192.0.2.8")].concat();
        expect_closed(&of(&sidegate, both).from("127.0.0.9"), "").await;
        expect_refused(&sidegate, 3).await;
    }
}

#[tokio::test]
async fn header_that_nothing_expects_is_named_with_its_key() {
    let backend = backend::echo().run().await;
    let plain = "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false";
    let folder = sidegate::new().route("/chat", &backend).toml(plain).write();
    let mut process = process::new(folder.path()).run().await;
    let address = process.logged("listening").await["address"].as_str().unwrap().to_owned();
    let other = process.client().at_clear(address.parse().unwrap());
    for (client, peer) in [(process.client(), "127.0.0.1"), (other.from("127.0.0.2"), "127.0.0.2")]
    {
        for header in [v1("192.0.2.7"), v2("192.0.2.7"), b"PROXY UNKNOWN\r\n".to_vec()] {
            // Whole, and in two pieces.
            for cut in [header.len(), 5] {
                let mut wire = client.connect_below_tls().await;
                wire.deliver(&header[..cut]).await;
                let _ = wire.try_deliver(&header[cut..]).await;
                assert!(wire.rest().await.is_empty());
                let line = process.logged("refused").await;
                let error = format!(
                    "a PROXY header came, and the listener expects none: the key proxy_protocol = \
                     {{ from = [\"{peer}\"] }} of its [[listener]] would allow it"
                );
                assert_eq!((&line["reason"], &line["error"]), (&json!("proxy"), &json!(error)));
            }
        }
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn method_proxy_is_no_header() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().clear().route("/", &backend).on_route("http = 'forward'");
    let sidegate = sidegate.run().await;
    let client = client::new(&sidegate);
    for piece in [1, 100] {
        let mut wire = client.connect().await;
        for bytes in b"PROXY /chat HTTP/1.1\r\nHost: localhost\r\n\r\n".chunks(piece) {
            wire.deliver(bytes).await;
        }
        wire.answer().await.expect(200);
        assert_eq!(backend.heads().pop().unwrap().method(), "PROXY");
    }
}

/// Gives the first listener these keys by a reload.
async fn relist(sidegate: &Sidegate, from: Option<&str>) {
    sidegate
        .reconfigure(|config| {
            let listener = config["listener"][0].as_table_mut().unwrap();
            listener.remove("proxy_protocol");
            if let Some(from) = from {
                let key = format!("proxy_protocol = {{ from = ['{from}'] }}");
                listener.extend(key.parse::<toml::Table>().unwrap());
            }
        })
        .await;
}

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// An agent that serves plain HTTP behind the test's balancer too.
fn serving(backend: &Backend) -> Builder {
    let sidegate = sidegate::new().threads(1).route("/", backend).on_route("http = 'forward'");
    sidegate.on_listener(FROM_US)
}

/// A connection for this client, on which one request was answered.
async fn served(sidegate: &Sidegate, header: impl AsRef<[u8]>) -> Wire {
    let mut wire = of(sidegate, header).connect().await;
    wire.send(GET).await;
    wire.answer().await.expect(200);
    wire
}

#[tokio::test]
async fn tunnel_closes_when_its_peer_leaves_the_list() {
    let backend = backend::echo().run().await;
    for builder in [behind(&backend), behind(&backend).clear()] {
        for from in [Some("127.0.0.9"), None] {
            let sidegate = builder.clone().run().await;
            let mut named = Vec::new();
            for header in [v1("192.0.2.7"), v2("192.0.2.8"), v1("2001:db8::7"), v2("127.0.0.1")] {
                named.push(of(&sidegate, header).open("/chat").await);
            }
            let mut own = of(&sidegate, LOCAL).open("/chat").await;
            relist(&sidegate, from).await;
            for tunnel in &mut named {
                tunnel.expect_close_with(1008, "proxy").await;
            }
            own.expect_echo("the socket says who it is").await;
            let revoked = [("route", "chat"), ("refusal", "proxy")];
            sidegate.expect_metric("sidegate_revoked_total", revoked, 4).await;
        }
    }
}

#[tokio::test]
async fn request_is_dropped_when_its_peer_has_left_the_list() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    for refuse in ["answer", "close", "drop"] {
        let builder = serving(&backend).on_route(&format!("refuse = '{refuse}'"));
        for builder in [builder.clone(), builder.clear()] {
            let sidegate = builder.run().await;
            let mut named = served(&sidegate, v1("192.0.2.7")).await;
            let mut fresh = of(&sidegate, v2("192.0.2.8")).connect().await;
            let mut attempt = of(&sidegate, v2("192.0.2.8")).connect().await;
            let mut own = served(&sidegate, LOCAL).await;
            sidegate.expect_metric("sidegate_connections_open", [], 4).await;
            relist(&sidegate, Some("127.0.0.9")).await;
            let head = client::new(&sidegate).attempt_head("/", "");
            for (wire, asked) in [(&mut named, GET), (&mut fresh, GET), (&mut attempt, &head)] {
                wire.send(asked).await;
                assert!(wire.rest().await.is_empty(), "an answer");
            }
            expect_refused_on(&sidegate, "root", 3).await;
            own.send(GET).await;
            own.answer().await.expect(200);
        }
    }
}

async fn expect_refused_on(sidegate: &Sidegate, route: &str, requests: u32) {
    sidegate.expect_metric(CLOSED, PROXY, requests).await;
    let labels = [("route", route), ("reason", "proxy")];
    sidegate.expect_metric(REFUSED, labels, requests).await;
}

#[tokio::test]
async fn peer_that_is_listed_again_names_its_client_again() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = serving(&backend).clear().allow("192.0.2.7").run().await;
    let mut named = served(&sidegate, v1("192.0.2.7")).await;
    let mut refused = served(&sidegate, v1("192.0.2.7")).await;
    relist(&sidegate, Some("127.0.0.9")).await;
    refused.send(GET).await;
    assert!(refused.rest().await.is_empty(), "an answer");
    // A wider network lists the peer as well.
    relist(&sidegate, Some("127.0.0.0/8")).await;
    named.send(GET).await;
    named.answer().await.expect(200);
    assert_eq!(backend.heads().pop().unwrap().header("x-forwarded-for"), Some("192.0.2.7"));
}

#[tokio::test]
async fn tunnel_closes_when_the_listener_of_its_header_is_gone() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).run().await;
    let mut named = of(&sidegate, v1("192.0.2.7")).open("/chat").await;
    let mut own = of(&sidegate, LOCAL).open("/chat").await;
    sidegate.reconfigure(|config| config["listener"][0]["name"] = "another".into()).await;
    named.expect_close_with(1008, "proxy").await;
    own.expect_echo("still here").await;
}

#[tokio::test]
async fn forwarder_behind_an_unlisted_balancer_names_no_client() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let keys = "forwarded = { header = 'x-forwarded-for', from = ['192.0.2.0/24'] }";
    let sidegate = serving(&backend).clear().on_listener(keys).run().await;
    let mut wire = of(&sidegate, v1("192.0.2.7")).connect().await;
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.3\r\n\r\n";
    wire.send(get).await;
    wire.answer().await.expect(200);
    let head = backend.heads().pop().unwrap();
    assert_eq!(head.header("x-forwarded-for"), Some("198.51.100.3, 192.0.2.7"));
    relist(&sidegate, None).await;
    wire.send(get).await;
    assert!(wire.rest().await.is_empty(), "an answer");
    expect_refused_on(&sidegate, "root", 1).await;
}

/// A connection for this client which waits, once its header is read.
async fn waiting(sidegate: &Sidegate, header: impl AsRef<[u8]>, open: u32) -> Wire {
    let wire = of(sidegate, header).connect().await;
    sidegate.expect_metric("sidegate_connections_open", [], open).await;
    wire
}

#[tokio::test]
async fn pending_connections_count_by_the_client_in_the_header() {
    let backend = backend::echo().run().await;
    let sidegate = behind(&backend).on_listener("pending_per_client = 1").run().await;
    let mut held = Vec::new();
    for (header, open) in [(v1("192.0.2.7"), 1), (v2("192.0.2.8"), 2), (v1("2001:db8::7"), 3)] {
        held.push(waiting(&sidegate, header, open).await);
    }
    // The balancer itself is charged nothing.
    for open in 4..8 {
        held.push(waiting(&sidegate, LOCAL, open).await);
    }
    expect_closed(&of(&sidegate, v2("192.0.2.7")), "").await;
    sidegate.expect_metric(CLOSED, [("reason", "pending")], 1).await;
    of(&sidegate, v1("192.0.2.9")).open("/chat").await.expect_echo("another").await;
    sidegate.expect_metric(REFUSED, [("reason", "pending")], 1).await;
}

#[tokio::test]
async fn handshakes_count_by_the_client_in_the_header() {
    let backend = backend::echo().run().await;
    let rate = "handshakes_per_client = { rate = '1/m', burst = 1 }";
    let sidegate = behind(&backend).on_listener(rate).run().await;
    for header in [v1("192.0.2.7"), v2("192.0.2.8"), LOCAL.to_vec(), LOCAL.to_vec()] {
        of(&sidegate, header).open("/chat").await.expect_echo("hello").await;
    }
    let delayed = "sidegate_tls_handshakes_delayed_total";
    sidegate.expect_metric(delayed, [("listener", "public")], 0).await;
    let mut over = tls::begin(&sidegate, &rustls::version::TLS13).await;
    let hello = over.outgoing();
    over.send_below(&[&v1("192.0.2.8")[..], &hello].concat()).await;
    sidegate.expect_metric(delayed, [("listener", "public")], 1).await;
}

#[tokio::test]
async fn limits_count_the_clients_of_a_balancer_apart() {
    let backend = backend::echo().run().await;
    let limits = "connections = { per_client = 1 }";
    let sidegate = behind(&backend).limits(limits).run().await;
    let mut first = of(&sidegate, v1("192.0.2.7")).open("/chat").await;
    of(&sidegate, v2("192.0.2.7")).attempt("/chat").await.expect_refused(429, "connections");
    of(&sidegate, v2("192.0.2.8")).open("/chat").await.expect_echo("another").await;
    first.expect_echo("still open").await;
}

#[tokio::test]
async fn baseline_denies_the_client_in_the_header_before_tls() {
    let backend = backend::echo().run().await;
    let baseline = "schema = 1\nclient.deny = ['192.0.2.66', '127.0.0.1']\n";
    let sidegate = behind(&backend).file("policies/baseline.toml", baseline).run().await;
    expect_closed(&client::new(&sidegate), v1("192.0.2.66")).await;
    sidegate.expect_metric(CLOSED, [("reason", "network")], 1).await;
    // The balancer is denied as a client, and not as a peer.
    of(&sidegate, v1("192.0.2.7")).open("/chat").await.expect_echo("hello").await;
    expect_closed(&client::new(&sidegate), LOCAL).await;
    sidegate.expect_metric(CLOSED, [("reason", "network")], 2).await;
}

#[tokio::test]
async fn changed_peers_hold_for_the_next_connection() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let mut direct = client::new(&sidegate).open("/chat").await;
    for (value, is_listed) in [("127.0.0.1", true), ("127.0.0.2", false), ("127.0.0.0/8", true)] {
        let keys: toml::Table = format!("from = ['{value}']").parse().unwrap();
        sidegate
            .reconfigure(|config| {
                let listener = config["listener"][0].as_table_mut().unwrap();
                listener.insert("proxy_protocol".into(), keys.into());
            })
            .await;
        let header = if is_listed { v1("192.0.2.7") } else { Vec::new() };
        of(&sidegate, header).open("/chat").await.expect_echo("hello").await;
        direct.expect_echo("untouched").await;
    }
}

#[tokio::test]
async fn log_has_the_header_and_its_tlvs() {
    let backend = backend::echo().run().await;
    let folder = behind(&backend).clear().allow("192.0.2.7").write();
    let mut process = process::new(folder.path()).run().await;
    let ssl = b"\x20\0\x12\x03\0\0\0\0\x21\0\x07TLSv1.3\x22\0\0";
    let ssl = &ssl[..];
    let tlvs = [b"\x02\0\x0bws\"\n\x1bexampl", &b"\x05\0\x02\x00\x7f"[..], ssl].concat();
    let client = process.client().preamble(v2_with("192.0.2.7", &tlvs));
    client.open("/chat").await.expect_echo("hello").await;
    let line = process.logged("permitted").await;
    let expected =
        r#"authority="ws\"\n\u{1b}exampl" unique_id="007f" tls="TLSv1.3" cn="" verify=0"#;
    assert_eq!((&line["proxy"], &line["proxy_tlvs"]), (&json!("v2"), &json!(expected)));
    assert_eq!((&line["client"], &line["peer"]), (&json!("192.0.2.7"), &json!("127.0.0.1")));
    process.client().preamble(v1("192.0.2.8")).attempt("/chat").await.expect(403);
    let line = process.logged("refused").await;
    assert_eq!((&line["proxy"], &line["client"]), (&json!("v1"), &json!("192.0.2.8")));
    assert_eq!(line.get("proxy_tlvs"), None);
}

/// The headers that a backend has got, each with the requests of its connection.
type Told = Arc<Mutex<Vec<(ProxiedConnection, u32)>>>;

/// Reads the header in front of a connection, and nothing behind it.
async fn read_header(mut io: impl tokio::io::AsyncRead + Unpin) -> ProxiedConnection {
    let mut header = vec![0; 16];
    within("a header", io.read_exact(&mut header)).await.unwrap();
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(16 + length, 0);
    within("the rest of a header", io.read_exact(&mut header[16..])).await.unwrap();
    header::parse(&header).unwrap().unwrap().0
}

/// A backend that expects a header, opens WebSockets, and answers plain requests with keep-alive.
fn told() -> (Told, backend::Builder) {
    let told = Told::default();
    let seen = Arc::clone(&told);
    let script = move |mut wire: Wire| {
        let seen = Arc::clone(&seen);
        async move {
            let fixed = wire.bytes(16).await;
            let rest = wire.bytes(usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))).await;
            let header = read_header(&[fixed, rest].concat()[..]).await;
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.push((header, 0));
                seen.len() - 1
            };
            while let Some(head) = wire.try_head().await {
                seen.lock().unwrap()[number].1 += 1;
                if head.header("upgrade").is_some() {
                    wire.send(backend::granted(&head, "")).await;
                    let frame = wire.frame().await;
                    return wire.send_frame(frame).await;
                }
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    };
    (told, backend::raw(script))
}

/// Source and destination in the latest header.
fn latest(told: &Told) -> (SocketAddr, SocketAddr) {
    let endpoints = told.lock().unwrap().last().unwrap().0.endpoints.unwrap();
    (endpoints.source, endpoints.destination)
}

#[tokio::test]
async fn backend_is_told_the_client_of_each_tunnel() {
    for is_unix in [false, true] {
        let (told, builder) = told();
        let backend = if is_unix { builder.unix() } else { builder }.run().await;
        let sidegate = sidegate::new().route("/chat", &backend).on_route("proxy_protocol = 'v2'");
        let sidegate = sidegate.run().await;
        for from in ["127.0.0.2", "127.0.0.3"] {
            let mut wire = client::new(&sidegate).from(from).open_wire("/chat").await;
            wire.expect_echo("hello").await;
            let (source, destination) = latest(&told);
            assert_eq!((source.ip(), destination), (from.parse().unwrap(), sidegate.address()));
            assert_ne!(source.port(), 0);
        }
        let details = told.lock().unwrap()[0].0.details.to_string();
        assert_eq!(details, r#"authority="localhost" tls="TLSv1.3""#);
    }
}

#[tokio::test]
async fn header_of_a_balancer_reaches_the_backend() {
    let (told, builder) = told();
    let backend = builder.run().await;
    let sidegate = behind(&backend).clear().on_route("proxy_protocol = 'v2'").run().await;
    for header in [v1("192.0.2.7"), v2("192.0.2.7")] {
        of(&sidegate, header).open("/chat").await.expect_echo("hello").await;
        let expected = ("192.0.2.7:51234".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
        assert_eq!(latest(&told), expected);
        assert!(told.lock().unwrap()[0].0.details.is_empty(), "no TLS here");
    }
    of(&sidegate, v1("2001:db8::7")).open("/chat").await.expect_echo("hello").await;
    assert_eq!(latest(&told).0, "[2001:db8::7]:51234".parse().unwrap());
}

#[tokio::test]
async fn connection_to_a_backend_serves_one_client() {
    let (told, builder) = told();
    let backend = builder.run().await;
    let sidegate = sidegate::new().clear().threads(1).route("/", &backend);
    let sidegate = sidegate.on_route("http = 'forward'\nproxy_protocol = 'v2'").run().await;
    let clients = ["127.0.0.2", "127.0.0.3"].map(|from| client::new(&sidegate).from(from));
    let get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut wires = Vec::new();
    for client in &clients {
        wires.push(client.connect().await);
    }
    for round in 1..4 {
        for (client, wire) in ["127.0.0.2", "127.0.0.3"].iter().zip(&mut wires) {
            wire.send(get).await;
            wire.answer().await.expect(200);
            let source: std::net::IpAddr = client.parse().unwrap();
            assert_eq!(latest(&told).0.ip(), source, "round {round}");
        }
    }
    // Both at once.
    for wire in &mut wires {
        wire.send(get).await;
    }
    for wire in &mut wires {
        wire.answer().await.expect(200);
    }
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 8);
    for (header, requests) in told.iter() {
        assert_eq!(*requests, 1, "{header:?}");
    }
    let of_first = told.iter().filter(|(header, _)| {
        header.endpoints.unwrap().source.ip() == "127.0.0.2".parse::<std::net::IpAddr>().unwrap()
    });
    assert_eq!(of_first.count(), 4);
}

#[tokio::test]
async fn routes_with_and_without_a_header_share_no_connection() {
    let backend = backend::raw(|mut wire| async move {
        let is_told = wire.bytes(4).await == b"\r\n\r\n";
        if is_told {
            let rest = wire.bytes(12).await;
            wire.bytes(usize::from(u16::from_be_bytes([rest[10], rest[11]]))).await;
        }
        while let Some(head) = wire.try_head().await {
            // The first four bytes of a connection without a header were `GET `.
            assert_eq!(head.first.contains("/told"), is_told, "{:?}", head.first);
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    });
    let backend = backend.run().await;
    let sidegate = sidegate::new().clear().threads(1).route("/plain", &backend);
    let sidegate = sidegate.on_route("http = 'forward'").route("/told", &backend);
    let sidegate = sidegate.on_route("http = 'forward'\nproxy_protocol = 'v2'").run().await;
    let client = client::new(&sidegate);
    for (path, connections) in [("/plain", 1), ("/told", 2), ("/plain", 2), ("/told", 3)] {
        client.get(path).await.expect(200);
        assert_eq!(backend.connections(), connections, "{path}");
    }
}

#[tokio::test]
async fn header_goes_out_in_front_of_tls_to_the_backend() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let backend = backend::silent().run().await;
    let keys = format!(
        "backend = 'https://{address}'\nproxy_protocol = 'v2'\n\
         backend_tls = {{ ca = 'ca.pem', name = 'localhost' }}"
    );
    let sidegate = sidegate::new().route("/chat", &backend).on_route(&keys);
    let sidegate = sidegate.file("ca.pem", certificate::authority_pem()).run().await;
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let header = read_header(&mut tcp).await;
        let acceptor = TlsAcceptor::from(certificate::server(&["localhost"], false));
        let stream = acceptor.accept(tcp).await.unwrap();
        let mut wire = Wire::new(stream, End::Server, None);
        backend::grant(&mut wire, "").await;
        let frame = wire.frame().await;
        wire.send_frame(frame).await;
        header
    };
    let open = async {
        let mut wire = client::new(&sidegate).from("127.0.0.4").open_wire("/chat").await;
        wire.expect_echo("hello").await;
    };
    let (header, ()) = tokio::join!(serve, open);
    let source = header.endpoints.unwrap().source.ip();
    assert_eq!(source, "127.0.0.4".parse::<std::net::IpAddr>().unwrap());
}
