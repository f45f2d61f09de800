//! `refuse = "close"` and `refuse = "drop"`: refusals that browsers see, and refusals without an
//! answer.

use std::time::Duration;

use ::sidegate::data::http::head::HeadReader;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Frame, Head, Wire};

const READERS: [HeadReader; 2] = [HeadReader::Direct, HeadReader::Hyper];
const CLOSED: &str = "sidegate_connections_closed_total";
const DISCARDING: &str = "sidegate_connections_discarding";
const FORMS: &str = "sidegate_refusal_forms_total";
const REFUSALS: &str = "sidegate_refusals_total";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A route `/` whose refusals have this form, and which forwards plain HTTP.
fn new(backend: &Backend, form: &str) -> Builder {
    sidegate::new().route("/", backend).on_route(&format!("http = 'forward'\nrefuse = '{form}'"))
}

/// The same under a policy that admits no client.
fn refusing(backend: &Backend, form: &str) -> Builder {
    new(backend, form).allow("192.0.2.0/24")
}

/// An attempt with the key of RFC 6455 §1.3, and more `lines`.
fn attempt(client: &Client, lines: &str) -> String {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
    let lines = format!("{upgrade}Sec-WebSocket-Key: {KEY}\r\n{lines}");
    client.request("GET /a HTTP/1.1", &lines)
}

/// Sends `head`, and returns the connection behind a 101 that is valid.
async fn accepted(client: &Client, head: &str) -> (Head, Wire) {
    let mut wire = client.connect().await;
    wire.send(head).await;
    let answer = wire.answer().await;
    answer.expect(101).expect_header("upgrade", "websocket");
    answer.expect_header("connection", "Upgrade");
    answer.expect_header("sec-websocket-accept", &derive_accept_key(KEY.as_bytes()));
    (answer.head, wire)
}

/// Expects that an attempt is accepted, closed so, and ended behind the client's own Close.
async fn expect_closed(client: &Client, code: u16, word: &str) -> Head {
    let (head, mut wire) = accepted(client, &attempt(client, "")).await;
    assert_eq!(wire.frame().await.closes(), Some((code, word.to_owned())));
    wire.send_frame(Frame::close(code, "")).await;
    assert!(wire.rest_unless_reset().await.is_empty());
    head
}

/// Expects that `bytes` are followed by the end of the connection, and nothing before it.
async fn expect_dropped(client: &Client, bytes: &str) {
    let mut wire = client.connect().await;
    wire.send(bytes).await;
    wire.expect_end().await;
}

async fn expect_forms(sidegate: &Sidegate, close: u32, drop: u32) {
    sidegate.expect_metric(FORMS, [("form", "close")], close).await;
    sidegate.expect_metric(FORMS, [("form", "drop")], drop).await;
}

async fn echo() -> Backend {
    backend::echo().run().await
}

#[tokio::test]
async fn refused_attempt_is_accepted_and_closed_with_its_word() {
    for heads in READERS {
        for build in [Builder::tls, Builder::clear] {
            let backend = echo().await;
            let sidegate = build(refusing(&backend, "close")).heads(heads).run().await;
            let head = expect_closed(&client::new(&sidegate), 1008, "network").await;
            assert!(head.header("x-request-id").is_some_and(|id| id.len() == 32));
            for absent in ["sec-websocket-protocol", "sec-websocket-extensions"] {
                assert_eq!(head.header(absent), None);
            }
            sidegate.expect_metric(REFUSALS, [("reason", "network")], 1).await;
            let refused = [("kind", "upgrade"), ("result", "refused")];
            sidegate.expect_metric("sidegate_requests_total", refused, 1).await;
            sidegate.expect_metric(CLOSED, [("reason", "refused")], 1).await;
            sidegate.expect_metric("sidegate_tunnels_opened_total", [], 0).await;
            sidegate.expect_metric("sidegate_discards_total", [("end", "client")], 1).await;
            sidegate.expect_metric(DISCARDING, [], 0).await;
            expect_forms(&sidegate, 1, 0).await;
            backend.expect_untouched();
        }
    }
}

#[tokio::test]
async fn first_subprotocol_is_chosen_and_no_extension() {
    let backend = echo().await;
    for heads in READERS {
        let sidegate = refusing(&backend, "close").heads(heads).run().await;
        let client = client::new(&sidegate);
        for offer in [
            "Sec-WebSocket-Protocol: v2.ticks, v1\r\n",
            "sec-websocket-protocol: v2.ticks\r\nSec-WebSocket-Protocol: v1\r\n",
        ] {
            let lines = format!("{offer}Sec-WebSocket-Extensions: permessage-deflate\r\n");
            let (head, mut wire) = accepted(&client, &attempt(&client, &lines)).await;
            assert_eq!(head.all("sec-websocket-protocol"), ["v2.ticks"]);
            assert_eq!(head.header("sec-websocket-extensions"), None);
            assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
        }
    }
}

#[tokio::test]
async fn every_refusal_of_a_policy_and_of_a_limit_has_its_code() {
    let backend = echo().await;
    let closing = |limits: &str| new(&backend, "close").limits(limits);
    let sidegate = closing("").origins(&["https://app.example"]).run().await;
    expect_closed(&client::new(&sidegate).origin("https://evil.example"), 1008, "origin").await;
    let sidegate = closing("").subprotocols(&["v1"]).run().await;
    expect_closed(&client::new(&sidegate), 1008, "subprotocol").await;
    let sidegate = closing("upgrades = { rate = '1/m', burst = 1 }").run().await;
    let _open = client::new(&sidegate).open("/a").await;
    expect_closed(&client::new(&sidegate), 1013, "rate").await;
    for (limit, word) in [("per_client", "connections"), ("total", "capacity")] {
        let sidegate = closing(&format!("connections = {{ {limit} = 1 }}")).run().await;
        let mut open = client::new(&sidegate).open("/a").await;
        expect_closed(&client::new(&sidegate), 1013, word).await;
        open.expect_echo("the slot is still held by one").await;
    }
}

#[tokio::test]
async fn draining_is_closed_with_1013() {
    let backend = backend::manual().run().await;
    // An attempt without an answer is refused 5 s after it began, before this deadline.
    let mut sidegate = new(&backend, "close").toml("[shutdown]\ndeadline = '30s'").run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send(attempt(&client::new(&sidegate), "")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    sidegate.drain().await;
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await.closes(), Some((1013, "draining".into())));
    // The drain waits for no client that does not close.
    wire.expect_end().await;
    sidegate.ended().await;
}

#[tokio::test]
async fn refusals_of_malformed_and_plain_requests_are_answered() {
    let backend = echo().await;
    for heads in READERS {
        let sidegate = refusing(&backend, "close").heads(heads).run().await;
        let client = client::new(&sidegate);
        let valid = attempt(&client, "");
        for (from, to) in [
            ("Version: 13", "Version: 8"),
            ("Sec-WebSocket-Version: 13\r\n", ""),
            (KEY, "short"),
            ("GET /a", "POST /a"),
            ("Upgrade: websocket\r\n", "Upgrade: websocket\r\nContent-Length: 2\r\n"),
        ] {
            client.expect_refused(valid.replace(from, to), 403, "network").await;
        }
        client.get("/a").await.expect_refused(403, "network");
        client.expect_refused(valid.replace("/a ", "/%zz "), 400, "path").await;
        expect_forms(&sidegate, 0, 0).await;
    }
    let builder = sidegate::new().route("/a", &backend).on_route("refuse = 'close'");
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    let valid = attempt(&client, "");
    client.expect_refused(valid.replace("/a ", "/b "), 404, "route").await;
    client.expect_refused(valid.replace(KEY, "short"), 400, "handshake").await;
    client.expect_refused(valid.replace("Version: 13", "Version: 8"), 426, "version").await;
    client.get("/a").await.expect_refused(426, "plain");
    backend.expect_untouched();
}

#[tokio::test]
async fn failing_backend_is_answered_and_not_closed() {
    let sidegate = new(&backend::refusing(), "close").run().await;
    let client = client::new(&sidegate);
    client.expect_refused(attempt(&client, ""), 502, "backend").await;
    let silent = backend::silent().run().await;
    let builder = new(&silent, "close").timeouts("response = '100ms'");
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    client.expect_refused(attempt(&client, ""), 504, "backend").await;
    expect_forms(&sidegate, 0, 0).await;
}

#[tokio::test]
async fn frames_before_the_clients_close_are_read_over() {
    let backend = echo().await;
    for build in [Builder::tls, Builder::clear] {
        let sidegate = build(refusing(&backend, "close")).run().await;
        let client = client::new(&sidegate);
        let sent = [
            Frame::text("hello").encode(true),
            Frame::binary(vec![7; 200_000]).encode(true),
            Frame::ping("x").encode(true),
            Frame::new(0x01, "half ").encode(true),
            Frame::close(1000, "").encode(true),
        ];
        // With the head, and behind the 101 in pieces.
        let mut wire = client.connect().await;
        wire.send([attempt(&client, "").as_bytes(), &sent.concat()[..]].concat()).await;
        wire.answer().await.expect(101);
        assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
        assert!(wire.rest_unless_reset().await.is_empty());
        let (_, mut wire) = accepted(&client, &attempt(&client, "")).await;
        for piece in sent.concat().chunks(70_001) {
            wire.send(piece).await;
        }
        assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
        assert!(wire.rest_unless_reset().await.is_empty());
        sidegate.expect_metric(DISCARDING, [], 0).await;
    }
    backend.expect_untouched();
}

#[tokio::test]
async fn client_that_ends_without_a_close_is_let_go() {
    let backend = echo().await;
    let sidegate = refusing(&backend, "close").clear().run().await;
    let client = client::new(&sidegate);
    let (_, mut ending) = accepted(&client, &attempt(&client, "")).await;
    ending.finish().await;
    assert!(ending.rest_unless_reset().await.ends_with(b"network"));
    let (_, breaking) = accepted(&client, &attempt(&client, "")).await;
    breaking.reset();
    sidegate.expect_metric(CLOSED, [("reason", "refused")], 2).await;
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
}

#[tokio::test]
async fn broken_frames_end_the_connection_and_not_its_close() {
    let backend = echo().await;
    let sidegate = refusing(&backend, "close").clear().run().await;
    let client = client::new(&sidegate);
    // Unmasked, reserved opcode, a control frame that is too long: no Close can be found behind.
    for broken in [&[0x81, 1, b'x'][..], &[0x83, 0x80, 0, 0, 0, 0], &[0x89, 0xfe, 0, 126]] {
        let (_, mut wire) = accepted(&client, &attempt(&client, "")).await;
        wire.send(broken).await;
        assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
        wire.deliver(vec![0; 1 << 20]).await;
        assert!(wire.rest_unless_reset().await.is_empty());
    }
}

#[tokio::test]
async fn client_that_does_not_close_is_ended_in_time() {
    let backend = echo().await;
    for build in [Builder::tls, Builder::clear] {
        let builder = build(refusing(&backend, "close")).timeouts("grace = '100ms'");
        let sidegate = builder.run().await;
        let client = client::new(&sidegate);
        let (_, mut silent) = accepted(&client, &attempt(&client, "")).await;
        assert_eq!(silent.frame().await.closes(), Some((1008, "network".into())));
        assert!(silent.rest_unless_reset().await.is_empty());
        sidegate.expect_metric("sidegate_discards_total", [("end", "time")], 1).await;
        sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    }
}

#[tokio::test]
async fn refused_websockets_of_one_client_are_bounded() {
    let backend = echo().await;
    let sidegate = refusing(&backend, "close").clear().run().await;
    let client = client::new(&sidegate);
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(accepted(&client, &attempt(&client, "")).await.1);
    }
    let answer = client.expect_refused(attempt(&client, ""), 403, "network").await;
    answer.expect_header("connection", "close");
    sidegate.expect_metric(FORMS, [("form", "capped")], 1).await;
    expect_closed(&client.clone().from("127.0.0.2"), 1008, "network").await;
    held.pop().unwrap().reset();
    sidegate.expect_metric(DISCARDING, [], 31).await;
    expect_closed(&client, 1008, "network").await;
    sidegate.expect_metric(REFUSALS, [("reason", "network")], 35).await;
}

#[tokio::test]
async fn refused_websocket_makes_room_for_its_clients_next_connection() {
    let backend = echo().await;
    let builder = refusing(&backend, "close").clear().on_listener("pending_per_client = 1");
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    let (_, mut first) = accepted(&client, &attempt(&client, "")).await;
    expect_closed(&client, 1008, "network").await;
    assert!(first.is_reset().await, "the first one has made room");
    sidegate.expect_metric("sidegate_discards_total", [("end", "displaced")], 1).await;
}

#[tokio::test]
async fn refused_websockets_take_no_place_of_another_client() {
    let backend = echo().await;
    let builder = refusing(&backend, "close").clear().allow("127.0.0.2");
    let sidegate = builder.on_listener("max_connections = 2").run().await;
    let client = client::new(&sidegate);
    let (_, _first) = accepted(&client, &attempt(&client, "")).await;
    let mut open = client.clone().from("127.0.0.2").open("/a").await;
    let mut second = client.clone().from("127.0.0.2").open("/a").await;
    second.expect_echo("the refused one has made room").await;
    open.expect_echo("a tunnel makes none").await;
}

#[tokio::test]
async fn attempt_behind_other_requests_is_closed_too() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let limits = "upgrades = { rate = '1/m', burst = 1 }";
    let sidegate = new(&backend, "close").limits(limits).run().await;
    let client = client::new(&sidegate);
    // Its backend answers 200, and the token is gone.
    client.send(attempt(&client, "")).await.expect(200);
    let mut wire = client.connect().await;
    wire.send(client.request("GET /a HTTP/1.1", "") + &attempt(&client, "")).await;
    wire.answer().await.expect(200);
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await.closes(), Some((1013, "rate".into())));
    wire.send_frame(Frame::close(1013, "")).await;
    assert!(wire.rest_unless_reset().await.is_empty());
}

#[tokio::test]
async fn refused_network_is_dropped_without_a_byte() {
    for heads in READERS {
        for build in [Builder::tls, Builder::clear] {
            let backend = echo().await;
            let sidegate = build(refusing(&backend, "drop")).heads(heads).run().await;
            let client = client::new(&sidegate);
            expect_dropped(&client, &attempt(&client, "")).await;
            expect_dropped(&client, &client.request("GET /a HTTP/1.1", "")).await;
            expect_dropped(&client, &client.request("GET /a HTTP/1.0", "")).await;
            sidegate.expect_metric(REFUSALS, [("reason", "network")], 3).await;
            sidegate.expect_metric(CLOSED, [("reason", "network")], 3).await;
            sidegate.expect_metric("sidegate_connections_open", [], 0).await;
            expect_forms(&sidegate, 0, 3).await;
            backend.expect_untouched();
        }
    }
}

#[tokio::test]
async fn dropped_request_with_a_body_is_not_lingered_for() {
    let backend = echo().await;
    for build in [Builder::tls, Builder::clear] {
        let sidegate = build(refusing(&backend, "drop")).run().await;
        let client = client::new(&sidegate);
        for lines in
            ["Content-Length: 8000000\r\n", "Content-Length: 3\r\nExpect: 100-continue\r\n"]
        {
            let mut wire = client.connect().await;
            wire.send(client.request("POST /a HTTP/1.1", lines)).await;
            wire.send([b'x'; 65536]).await;
            wire.expect_end().await;
        }
        sidegate.expect_metric("sidegate_discards_total", [], 0).await;
        sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    }
}

#[tokio::test]
async fn other_refusals_of_a_dropping_route_are_answered() {
    let backend = echo().await;
    let builder = new(&backend, "drop").origins(&["https://app.example"]);
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    client.expect_refused(attempt(&client, ""), 403, "origin").await;
    let client = client.origin("https://app.example");
    client.expect_refused(attempt(&client, "").replace(KEY, "x"), 400, "handshake").await;
    // Without a route there is no `refuse`, and a slash that is missing belongs to its route.
    let builder = sidegate::new().clear().route("/a/", &backend).allow("192.0.2.0/24");
    let sidegate = builder.on_route("http = 'forward'\nrefuse = 'drop'").run().await;
    let client = client::new(&sidegate);
    client.get("/b").await.expect_refused(404, "route");
    expect_dropped(&client, &client.request("GET /a HTTP/1.1", "")).await;
}

#[tokio::test]
async fn answers_before_a_dropped_request_arrive() {
    let backend = backend::http(|_| backend::reply(200).body(vec![b'x'; 3_000_000])).run().await;
    for build in [Builder::tls, Builder::clear] {
        let builder = build(sidegate::new()).route("/open/", &backend);
        let builder = builder.on_route("http = 'forward'").route("/shut/", &backend);
        let builder = builder.on_route("http = 'forward'\nrefuse = 'drop'");
        let sidegate = builder.under("shut", |page| page.allow("192.0.2.0/24")).run().await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        let open = client.request("GET /open/ HTTP/1.1", "");
        let shut = client.request("POST /shut/ HTTP/1.1", "Content-Length: 100000\r\n");
        wire.send(format!("{open}{open}{shut}{}", "y".repeat(50_000))).await;
        for _ in 0..2 {
            assert_eq!(wire.answer().await.expect(200).body.len(), 3_000_000);
        }
        wire.expect_end().await;
        drop(wire);
        expect_forms(&sidegate, 0, 1).await;
        sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    }
}

#[tokio::test]
async fn baseline_refuses_in_the_form_of_the_route() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    for form in ["close", "drop"] {
        let sidegate = new(&backend, form).clear().run().await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        wire.send(client.request("GET /a HTTP/1.1", "")).await;
        wire.answer().await.expect(200);
        let baseline = "schema = 1\n[client]\ndeny = ['127.0.0.1']\n";
        sidegate.write("policies/baseline.toml", baseline).await;
        wire.send(attempt(&client, "")).await;
        if form == "close" {
            wire.answer().await.expect(101);
            assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
        } else {
            wire.expect_end().await;
        }
        sidegate.expect_metric(FORMS, [("form", form)], 1).await;
    }
}

#[tokio::test]
async fn connection_of_a_listed_peer_is_not_dropped() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    for heads in READERS {
        let builder = refusing(&backend, "drop").heads(heads).on_listener(believed);
        let sidegate = builder.run().await;
        let client = client::new(&sidegate);
        let from = |address: &str| {
            client.request("GET /a HTTP/1.1", &format!("X-Forwarded-For: {address}\r\n"))
        };
        let mut shared = client.connect().await;
        for (address, status) in [("192.0.2.1", 200), ("198.51.100.1", 403), ("192.0.2.2", 200)] {
            shared.send(from(address)).await;
            shared.answer().await.expect(status);
        }
        let refused = attempt(&client, "X-Forwarded-For: 198.51.100.1\r\n");
        client.expect_refused(refused, 403, "network").await;
        // A peer that is not listed speaks for itself alone.
        expect_dropped(&client.clone().from("127.0.0.2"), &from("192.0.2.1")).await;
        expect_forms(&sidegate, 0, 1).await;
    }
}

#[tokio::test]
async fn exchange_that_is_revoked_before_its_answer_is_dropped() {
    let backend = backend::manual().run().await;
    let sidegate = new(&backend, "drop").allow("127.0.0.0/8").run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.request("GET /a HTTP/1.1", "")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    let closed = "schema = 1\n[client]\nallow = ['192.0.2.0/24']\n";
    sidegate.write("policies/default.toml", closed).await;
    wire.expect_end().await;
    expect_forms(&sidegate, 0, 1).await;
}

#[tokio::test]
async fn form_changes_with_a_reload() {
    let backend = echo().await;
    let sidegate = refusing(&backend, "answer").run().await;
    let client = client::new(&sidegate);
    client.expect_refused(attempt(&client, ""), 403, "network").await;
    let set = |form: &'static str| {
        move |config: &mut toml::Table| {
            config["route"][0].as_table_mut().unwrap().remove("refuse");
            let defaults: toml::Table = toml::from_str(&format!("refuse = '{form}'")).unwrap();
            config.insert("defaults".into(), defaults.into());
        }
    };
    sidegate.reconfigure(set("close")).await;
    expect_closed(&client, 1008, "network").await;
    sidegate.reconfigure(set("drop")).await;
    expect_dropped(&client, &attempt(&client, "")).await;
    expect_forms(&sidegate, 1, 1).await;
}

#[tokio::test]
async fn form_of_a_refusal_is_logged() {
    let backend = echo().await;
    for (form, status, code) in [("close", Some(101), Some(1008)), ("drop", None, None)] {
        let folder = refusing(&backend, form).clear().write();
        let mut process = process::new(folder.path()).run().await;
        let client = process.client();
        let mut wire = client.connect().await;
        wire.send(attempt(&client, "")).await;
        wire.readable().await;
        let line = process.logged("refused").await;
        let number = |name: &str| line[name].as_u64();
        assert_eq!((number("status"), number("code")), (status, code), "{line}");
        assert_eq!((&line["refuse"], &line["reason"]), (&form.into(), &"network".into()));
        assert_eq!(line["route"], "root");
    }
}

#[tokio::test]
async fn refused_flood_leaves_nothing_behind() {
    let backend = echo().await;
    let sidegate = refusing(&backend, "close").clear().allow("127.0.0.2").run().await;
    let client = client::new(&sidegate);
    let mut wires = Vec::new();
    for _ in 0..200 {
        let mut wire = client.connect().await;
        wire.send(attempt(&client, "")).await;
        wires.push(wire);
    }
    // The neighbour on the same thread opens its tunnel meanwhile.
    let neighbour = client.clone().from("127.0.0.2");
    neighbour.open("/a").await.expect_echo("served").await;
    for wire in &mut wires {
        let status = wire.answer().await.status();
        assert!(matches!(status, 101 | 403), "{status}");
    }
    drop(wires);
    sidegate.expect_metric(DISCARDING, [], 0).await;
    sidegate.expect_metric(REFUSALS, [("reason", "network")], 200).await;
    let capped = sidegate.metric(FORMS, [("form", "capped")]).await;
    let closed = sidegate.metric(FORMS, [("form", "close")]).await;
    assert!(closed >= 32.0 && (closed + capped - 200.0).abs() < 0.5, "{closed} and {capped}");
    tokio::time::timeout(Duration::from_secs(5), expect_closed(&client, 1008, "network"))
        .await
        .expect("places are given back");
}
