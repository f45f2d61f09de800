//! An answer that comes before the request's body was read arrives, and what the client still
//! sends is discarded within bounds that cost no other client anything (RFC 9112 §9.6).

use std::time::{Duration, Instant};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;
use crate::harness::within;

const DISCARDING: &str = "sidegate_connections_discarding";
const DISCARDS: &str = "sidegate_discards_total";

/// More than the kernel's buffers of one connection hold, on its way from here to there.
const LARGE: usize = 8 << 20;

/// An agent that forwards plain HTTP, with room for 1 KiB of a body.
fn forwarding(backend: &Backend) -> Builder {
    sidegate::new().route("/", backend).on_route("http = 'forward'\nmax_body = '1KiB'")
}

async fn pages() -> Backend {
    backend::http(|_| backend::reply(200)).run().await
}

/// The fields of a request with a large body, and that body.
fn sized() -> (String, Vec<u8>) {
    (format!("Content-Length: {LARGE}\r\n"), vec![0; LARGE])
}

fn in_chunks() -> (String, Vec<u8>) {
    let chunk = [&b"10000\r\n"[..], &[0; 65536], b"\r\n"].concat();
    let body = [chunk.repeat(LARGE / 65536), b"0\r\n\r\n".to_vec()].concat();
    ("Transfer-Encoding: chunked\r\n".into(), body)
}

/// Asserts that a client that sends its whole request before it reads gets this answer, and an end
/// in order.
async fn expect_told(client: &Client, first: &str, (fields, body): (String, Vec<u8>), status: u16) {
    let mut wire = client.connect().await;
    wire.deliver(client.request(first, &fields)).await;
    wire.deliver(body).await;
    let answer = wire.answer().await;
    answer.expect(status);
    assert!(answer.header("connection").unwrap().ends_with("close"), "{:?}", answer.head);
    assert!(!wire.is_reset().await, "reset after {status} to {first}");
}

/// Asserts that the refusal with this status arrives over TLS and in the clear, as `agent` makes
/// them.
async fn check_told(
    agent: impl Fn(Builder) -> Builder,
    backend: &Backend,
    first: &str,
    status: u16,
) {
    for body in [sized, in_chunks] {
        for build in [Builder::tls, Builder::clear] {
            let sidegate = build(agent(forwarding(backend))).run().await;
            expect_told(&client::new(&sidegate), first, body(), status).await;
            sidegate.expect_metric(DISCARDING, [], 0).await;
        }
    }
}

const POST: &str = "POST / HTTP/1.1";

#[tokio::test]
async fn client_gets_413_for_a_body_over_max_body_sent_any_way() {
    // Of a body in chunks it gets the beginning.
    let backend = backend::raw(|mut wire| async move { drop(wire.rest().await) }).run().await;
    check_told(|agent| agent, &backend, POST, 413).await;
}

#[tokio::test]
async fn refusals_of_routes_and_policies_arrive() {
    let backend = pages().await;
    check_told(|agent| agent.on_route("http = 'refuse'"), &backend, POST, 426).await;
    check_told(|agent| agent.host("known.example"), &backend, POST, 404).await;
    check_told(|agent| agent.allow("127.0.0.2"), &backend, "PUT / HTTP/1.1", 403).await;
    let none = "requests = { rate = '1/m', burst = 1 }";
    let sidegate = forwarding(&backend).on_route("max_body = '64MiB'").limits(none).run().await;
    let client = client::new(&sidegate);
    client.get("/").await.expect(200);
    expect_told(&client, POST, sized(), 429).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "refused")], 1).await;
}

#[tokio::test]
async fn client_gets_502_when_the_backend_is_absent() {
    let backend = backend::refusing();
    check_told(|agent| agent.on_route("max_body = '64MiB'"), &backend, POST, 502).await;
}

#[tokio::test]
async fn client_gets_400_for_malformed_requests_with_bodies() {
    let backend = pages().await;
    check_told(|agent| agent, &backend, "POST /a%00 HTTP/1.1", 400).await;
    let sidegate = forwarding(&backend).run().await;
    let client = client::new(&sidegate);
    let (length, body) = sized();
    let mut wire = client.connect().await;
    wire.deliver(client.attempt_head("/", &length)).await;
    wire.deliver(body).await;
    wire.answer().await.expect_refused(400, "handshake");
    assert!(!wire.is_reset().await);
}

#[tokio::test]
async fn head_refusals_arrive_with_any_bytes_behind() {
    let backend = pages().await;
    for build in [Builder::tls, Builder::clear] {
        let sidegate = build(forwarding(&backend)).run().await;
        let client = client::new(&sidegate);
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(LARGE));
        for (bytes, status) in [(long, 431), (format!("GET\r\n\r\n{}", "x".repeat(LARGE)), 400)] {
            let mut wire = client.connect().await;
            wire.deliver(bytes).await;
            assert_eq!(wire.answer().await.status(), status);
            assert!(!wire.is_reset().await, "{status}");
        }
        sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "head")], 2).await;
    }
}

#[tokio::test]
async fn answers_to_foreign_protocols_arrive() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).run().await;
    let (length, body) = sized();
    let upload = [client::new(&sidegate).request(POST, &length).as_bytes(), &body].concat();
    let http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &body[..]].concat();
    let clear = client::new(&sidegate).at_clear(sidegate.address());
    for (client, bytes) in [(clear, upload), (client::new(&sidegate), http2)] {
        let mut wire = client.connect().await;
        wire.deliver(bytes).await;
        wire.answer().await.expect(400);
        assert!(!wire.is_reset().await);
    }
    drop(client::new(&sidegate).connect_below_tls().await);
    sidegate.expect_metric(DISCARDS, [("end", "client")], 2).await;
}

#[tokio::test]
async fn refusals_reach_http_1_0_and_expecting_clients() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).run().await;
    let client = client::new(&sidegate);
    expect_told(&client, "POST / HTTP/1.0", sized(), 413).await;
    // A client that doesn't wait for its 100.
    let (length, body) = sized();
    expect_told(&client, POST, (format!("Expect: 100-continue\r\n{length}"), body), 413).await;
}

#[tokio::test]
async fn redirect_arrives_before_the_body_is_read() {
    let backend = pages().await;
    let plain =
        "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'";
    let sidegate = forwarding(&backend).toml(plain).run().await;
    let client = client::new(&sidegate).at_clear(sidegate.listener("plain"));
    for body in [sized, in_chunks] {
        expect_told(&client, POST, body(), 308).await;
    }
}

#[tokio::test]
async fn refusal_arrives_with_pipelined_requests_behind() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).host("known.example").run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.deliver(client.request("GET / HTTP/1.1", "").repeat(1000)).await;
    wire.deliver(vec![b'x'; LARGE]).await;
    wire.answer().await.expect_refused(404, "route");
    assert!(!wire.is_reset().await);
}

/// A backend that answers `early` when it has the head. Then it ends its side if `ends`, and reads
/// what comes to the end.
fn hasty(early: Vec<u8>, ends: bool) -> backend::Builder {
    backend::raw(move |mut wire| {
        let early = early.clone();
        async move {
            wire.head().await;
            wire.send(&early).await;
            if ends {
                wire.finish().await;
            }
            wire.rest().await;
        }
    })
}

/// Asserts that early answers of `size` bytes arrive whole, though their clients first send
/// everything.
async fn check_early(size: usize, ends: bool) {
    let content = vec![b'e'; size];
    let head = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {size}\r\n\r\n");
    let backend = hasty([head.as_bytes(), &content].concat(), ends).run().await;
    for (build, body) in
        [(Builder::tls as fn(Builder) -> Builder, sized()), (Builder::clear, in_chunks())]
    {
        let sidegate = build(forwarding(&backend).on_route("max_body = '64MiB'")).run().await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        wire.deliver(client.request(POST, &body.0)).await;
        wire.deliver(body.1).await;
        let answer = wire.answer().await;
        answer.expect(401).expect_header("connection", "close");
        assert_eq!(answer.body.len(), size);
        assert!(!wire.is_reset().await);
        let complete = [("by", "backend"), ("reason", "complete")];
        sidegate.expect_metric("sidegate_exchanges_closed_total", complete, 1).await;
        sidegate.expect_metric(DISCARDING, [], 0).await;
    }
}

#[tokio::test]
async fn early_answer_arrives_whole_when_its_backend_ends_its_side() {
    check_early(10, true).await;
    check_early(4 << 20, true).await;
}

#[tokio::test]
async fn early_answer_arrives_whole_when_its_backend_goes_on_reading() {
    check_early(10, false).await;
    check_early(4 << 20, false).await;
}

#[tokio::test]
async fn early_answer_arrives_whole_when_its_backend_closes() {
    let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlate";
    let backend = backend::raw(move |mut wire| async move {
        wire.head().await;
        wire.send(answer).await;
    });
    let backend = backend.run().await;
    let sidegate = forwarding(&backend).on_route("max_body = '64MiB'").run().await;
    for _ in 0..10 {
        expect_told(&client::new(&sidegate), POST, sized(), 413).await;
    }
}

/// A client that has sent the head and one byte of a body, and has had this refusal of it.
async fn stuck(client: &Client, status: u16) -> Wire {
    let mut wire = client.connect().await;
    wire.deliver(client.request(POST, "Content-Length: 100000\r\n") + "x").await;
    wire.answer().await.expect(status);
    wire
}

#[tokio::test]
async fn discarding_connection_is_pending_and_makes_room_for_another() {
    let backend = backend::echo().run().await;
    for build in [Builder::tls, Builder::clear] {
        let sidegate =
            build(forwarding(&backend).on_listener("pending_per_client = 3")).run().await;
        let client = client::new(&sidegate);
        let mut wires = Vec::new();
        for _ in 0..6 {
            wires.push(stuck(&client, 413).await);
        }
        sidegate.expect_metric(DISCARDING, [], 3).await;
        sidegate.expect_metric("sidegate_connections_open", [], 3).await;
        sidegate.expect_metric(DISCARDS, [("end", "displaced")], 3).await;
        sidegate.expect_metric("sidegate_refusals_total", [("reason", "pending")], 0).await;
        client.open("/").await.expect_echo("in").await;
        drop(wires);
        sidegate.expect_metric(DISCARDING, [], 0).await;
        sidegate.expect_metric(DISCARDS, [("end", "client")], 2).await;
    }
}

#[tokio::test]
async fn discarding_connections_are_a_tenth_of_the_listeners_at_most() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).on_listener("max_connections = 40").threads(2).run().await;
    let mut wires = Vec::new();
    for number in 1..=20 {
        let client = client::new(&sidegate).from(&format!("127.0.1.{number}"));
        wires.push(stuck(&client, 413).await);
    }
    sidegate.expect_metric(DISCARDING, [], 4).await;
    sidegate.expect_metric(DISCARDS, [("end", "displaced")], 16).await;
}

#[tokio::test]
async fn discarding_connection_makes_room_when_the_listener_is_full() {
    let backend = backend::echo().run().await;
    let sidegate = forwarding(&backend).on_listener("max_connections = 3").threads(2).run().await;
    let client = client::new(&sidegate);
    let (_one, _two) = (client.open("/").await, client.open("/").await);
    let _last = stuck(&client, 413).await;
    sidegate.expect_metric(DISCARDING, [], 1).await;
    client.open("/").await.expect_echo("in").await;
    sidegate.expect_metric(DISCARDS, [("end", "displaced")], 1).await;
}

/// Wires of a client that discard beside one of another client, which came first.
async fn crowd(sidegate: &Sidegate, count: usize) -> (Wire, Vec<Wire>) {
    let quiet = stuck(&client::new(sidegate).from("127.0.1.1"), 413).await;
    let crowd = client::new(sidegate).from("127.0.1.2");
    let mut wires = Vec::new();
    for _ in 0..count {
        wires.push(stuck(&crowd, 413).await);
    }
    (quiet, wires)
}

/// Asserts that a connection has stayed, and ends in order.
async fn expect_stays(mut wire: Wire) {
    wire.deliver("x").await;
    wire.finish().await;
    assert!(!wire.is_reset().await, "it was displaced");
}

#[tokio::test]
async fn client_with_many_discards_displaces_its_own() {
    let backend = pages().await;
    for build in [Builder::tls, Builder::clear] {
        let agent = build(forwarding(&backend)).on_listener("max_connections = 40").threads(2);
        let sidegate = agent.run().await;
        let (quiet, wires) = crowd(&sidegate, 20).await;
        sidegate.expect_metric(DISCARDS, [("end", "displaced")], 17).await;
        expect_stays(quiet).await;
        drop(wires);
        sidegate.expect_metric(DISCARDING, [], 0).await;
        sidegate.expect_metric(DISCARDS, [("end", "displaced")], 17).await;
    }
}

#[tokio::test]
async fn full_listener_displaces_the_client_with_most_discards() {
    let backend = backend::echo().run().await;
    let sidegate = forwarding(&backend).clear().on_listener("max_connections = 40").run().await;
    let (quiet, _crowd) = crowd(&sidegate, 3).await;
    let (client, mut open) = (client::new(&sidegate), Vec::new());
    for _ in 0..38 {
        open.push(client.open("/").await);
    }
    sidegate.expect_metric(DISCARDS, [("end", "displaced")], 2).await;
    expect_stays(quiet).await;
}

#[tokio::test]
async fn admitted_client_opens_when_full_of_discarding_ones() {
    let backend = backend::echo().run().await;
    let sidegate = forwarding(&backend)
        .allow("127.0.0.2")
        .on_listener("max_connections = 60")
        .clear()
        .run()
        .await;
    let drips = async |number: usize| {
        let client = client::new(&sidegate).from(&format!("127.0.1.{number}"));
        loop {
            let mut wire = client.connect().await;
            wire.send(client.request(POST, "Content-Length: 100000\r\n")).await;
            // More often than silence ends it.
            while wire.try_deliver("x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let attack = futures_util::future::join_all((1..=120).map(drips));
    let admitted = client::new(&sidegate).from("127.0.0.2");
    let admitted = async {
        // Six at most. On a busy machine they fall silent, and end, before a look; the admitted
        // client has to be served beside the attack either way.
        let full = async { while sidegate.metric(DISCARDING, []).await < 6.0 {} };
        let _ = tokio::time::timeout(Duration::from_secs(3), full).await;
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            admitted.open("/").await.expect_echo("in").await;
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let slowest = tokio::select! {
        _ = attack => unreachable!(),
        slowest = admitted => slowest,
    };
    assert!(slowest.as_secs() < 3, "an admitted client waited for {slowest:?}");
}

#[tokio::test]
async fn drain_waits_briefly_for_clients_that_still_send() {
    let backend = pages().await;
    let mut sidegate = forwarding(&backend).toml("shutdown.deadline = '60s'").run().await;
    let mut wire = stuck(&client::new(&sidegate), 413).await;
    sidegate.expect_metric(DISCARDING, [], 1).await;
    sidegate.drain().await;
    within("the end of what discards", wire.rest()).await;
    sidegate.ended().await;
}

#[tokio::test]
async fn drain_lets_answers_arrive_at_clients_that_still_send() {
    let backend = pages().await;
    for build in [Builder::tls, Builder::clear] {
        let mut sidegate = build(forwarding(&backend)).run().await;
        let client = client::new(&sidegate);
        let (lines, body) = sized();
        let (half, rest) = body.split_at(LARGE / 2);
        let mut wire = client.connect().await;
        wire.deliver(client.request(POST, &lines)).await;
        wire.deliver(half).await;
        let began = Instant::now();
        sidegate.drain().await;
        while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
        wire.deliver(rest).await;
        wire.answer().await.expect_refused(413, "body");
        assert!(!wire.is_reset().await);
        drop(wire);
        sidegate.ended().await;
        assert!(began.elapsed() < Duration::from_secs(5), "it waited for the deadline");
    }
}

#[tokio::test]
async fn refusal_in_a_drain_arrives() {
    let backend = pages().await;
    let mut sidegate = forwarding(&backend).run().await;
    let client = client::new(&sidegate);
    let (lines, body) = sized();
    let head = client.request(POST, &lines);
    let mut wire = client.connect().await;
    wire.deliver(&head[..20]).await;
    // The one thread that answers this has read the beginning before.
    client.get("/").await.expect(200);
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    wire.deliver(&head[20..]).await;
    wire.deliver(body).await;
    wire.answer().await.expect_refused(413, "body");
    assert!(!wire.is_reset().await);
    drop(wire);
    sidegate.ended().await;
}

#[tokio::test]
async fn drain_counts_its_discards_while_tunnels_stay() {
    let backend = backend::manual().run().await;
    let config = "shutdown = { spread = '0s', deadline = '1h' }\ntimeouts.grace = '1h'";
    let sidegate = forwarding(&backend).toml(config).run().await;
    let client = client::new(&sidegate);
    // It answers no Close.
    let _tunnel = crate::tunnel::ends(&client, &backend, "").await;
    let (mut one, other) = (stuck(&client, 413).await, stuck(&client, 413).await);
    sidegate.expect_metric(DISCARDING, [], 2).await;
    drop(other);
    sidegate.expect_metric(DISCARDS, [("end", "client")], 1).await;
    sidegate.drain().await;
    within("the end of what discards", one.rest()).await;
    sidegate.expect_metric(DISCARDING, [], 0).await;
    sidegate.expect_metric(DISCARDS, [("end", "drain")], 1).await;
    sidegate.expect_metric("sidegate_connections_open", [], 1).await;
}

#[tokio::test]
async fn discarding_connections_end_at_the_drain_deadline() {
    let backend = pages().await;
    let mut sidegate = forwarding(&backend).toml("shutdown.deadline = '300ms'").run().await;
    let client = client::new(&sidegate);
    let (mut one, mut other) = (stuck(&client, 413).await, stuck(&client, 413).await);
    sidegate.expect_metric(DISCARDING, [], 2).await;
    let began = Instant::now();
    sidegate.drain().await;
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_millis(1800), "{:?}", began.elapsed());
    one.rest().await;
    other.rest().await;
}

#[tokio::test]
async fn body_of_a_refused_request_that_was_sent_whole_delays_nothing() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.deliver(client.request(POST, "Content-Length: 2000\r\n") + &"x".repeat(2000)).await;
    wire.answer().await.expect_refused(413, "body");
    wire.expect_end().await;
    wire.finish().await;
    sidegate.expect_metric(DISCARDS, [("end", "client")], 1).await;
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
}
