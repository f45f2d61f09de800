//! Bytes between two requests of a connection: where the next head begins, and how it is treated.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;

const LIMIT: Duration = Duration::from_millis(300);
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Requests that are whole, each of which another may follow.
const WHOLE: [&str; 4] = [
    GET,
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n",
];

/// An agent that forwards plain HTTP.
fn forwarding(backend: &Backend) -> Builder {
    sidegate::new().clear().route("/", backend).on_route("http = 'forward'")
}

async fn pages() -> Backend {
    backend::http(|_| backend::reply(200)).run().await
}

/// Connections that have had the answer to a whole request, and have sent these bytes behind it:
/// with its end, and with its last byte alone.
async fn followed(sidegate: &Sidegate, bytes: &str) -> Vec<Wire> {
    let mut wires = Vec::new();
    for whole in WHOLE {
        for first in [0, whole.len() - 1] {
            let mut wire = client::new(sidegate).connect().await;
            wire.send(&whole[..first]).await;
            wire.send(format!("{}{bytes}", &whole[first..])).await;
            wire.answer().await.expect(200);
            wires.push(wire);
        }
    }
    wires
}

async fn expect_closed(sidegate: &Sidegate, reason: &str, connections: u32) {
    let labels = [("reason", reason)];
    sidegate.expect_metric("sidegate_connections_closed_total", labels, connections).await;
}

#[tokio::test]
async fn head_begun_behind_a_request_is_not_idle() {
    for begun in ["G", &GET[..12], &GET[..GET.len() - 1]] {
        let backend = pages().await;
        let sidegate = forwarding(&backend).on_listener("pending_per_client = 8").run().await;
        let mut wires = followed(&sidegate, begun).await;
        client::new(&sidegate).connect().await.expect_end().await;
        for wire in &mut wires {
            wire.send(&GET[begun.len()..]).await;
            wire.answer().await.expect(200);
        }
        expect_closed(&sidegate, "pending", 1).await;
        expect_closed(&sidegate, "displaced", 0).await;
    }
}

#[tokio::test]
async fn head_begun_behind_a_request_has_the_usual_deadline() {
    for begun in ["G", &GET[..12], &GET[..GET.len() - 1]] {
        let backend = pages().await;
        let sidegate = forwarding(&backend).timeouts("head = '300ms'").run().await;
        let began = Instant::now();
        for mut wire in followed(&sidegate, begun).await {
            wire.expect_end().await;
        }
        assert!(began.elapsed() >= LIMIT && began.elapsed() < Duration::from_secs(20));
        expect_closed(&sidegate, "head", 8).await;
    }
}

#[tokio::test]
async fn head_deadline_starts_at_the_end_of_the_answer_before() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).timeouts("head = '300ms'").run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send(format!("{GET}{}", &GET[..20])).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    assert!(timeout(LIMIT * 2, wire.readable()).await.is_err(), "the request is worked on");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    wire.answer().await.expect(200);
    let began = Instant::now();
    wire.expect_end().await;
    assert!(began.elapsed() >= LIMIT - Duration::from_millis(20));
}

#[tokio::test]
async fn empty_lines_between_requests_begin_no_head() {
    for empty in ["\r\n", "\n", "\r\n\r\n\r\n"] {
        let backend = pages().await;
        let timeouts = "head = '300ms'\nkeep_alive = '1h'";
        let seats = "pending_per_client = 8";
        let sidegate = forwarding(&backend).timeouts(timeouts).on_listener(seats).run().await;
        let mut wires = followed(&sidegate, empty).await;
        for wire in &mut wires {
            wire.send(empty).await;
        }
        assert!(timeout(LIMIT * 2, wires[0].readable()).await.is_err(), "closed");
        for wire in &mut wires {
            wire.send(GET).await;
            wire.answer().await.expect(200);
            wire.send(empty).await;
        }
        // That they were read is known once another has been answered on the same thread.
        client::new(&sidegate).get("/").await.expect(200);
        expect_closed(&sidegate, "displaced", 1).await;
        expect_closed(&sidegate, "head", 0).await;
    }
}

#[tokio::test]
async fn empty_lines_do_not_keep_a_connection_open() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).timeouts("keep_alive = '300ms'").run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send(GET).await;
    wire.answer().await.expect(200);
    let began = Instant::now();
    while timeout(Duration::from_millis(20), wire.readable()).await.is_err() {
        wire.send("\r\n").await;
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    wire.expect_end().await;
    expect_closed(&sidegate, "keep_alive", 1).await;
}

/// An answer of which the half has come, and this behind its request.
async fn half_answered(sidegate: &Sidegate, backend: &Backend, behind: &str) -> (Wire, Wire) {
    let mut wire = client::new(sidegate).connect().await;
    wire.send(format!("{GET}{behind}")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
    assert_eq!(wire.head().await.header("connection"), None);
    assert_eq!(wire.bytes(2).await, b"ha");
    (wire, at_backend)
}

async fn drains(sidegate: &Sidegate) {
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
}

#[tokio::test]
async fn request_behind_an_answer_that_a_drain_meets_is_answered() {
    // The next request is there, whole or in part, before the drain begins.
    for first in [1, 20, GET.len() - 1, GET.len()] {
        let backend = backend::manual().run().await;
        let mut sidegate = forwarding(&backend).run().await;
        let (behind, rest) = GET.split_at(first);
        let (mut wire, mut at_backend) = half_answered(&sidegate, &backend, behind).await;
        drains(&sidegate).await;
        at_backend.send("lf").await;
        assert_eq!(wire.bytes(2).await, b"lf");
        wire.send(rest).await;
        let mut anew = backend.accepted().await;
        anew.head().await;
        anew.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let answer = wire.answer().await;
        answer.expect(200).expect_header("connection", "close");
        wire.expect_end().await;
        sidegate.ended().await;
    }
}

#[tokio::test]
async fn answer_in_a_drain_has_connection_close() {
    let backend = backend::manual().run().await;
    let sidegate = forwarding(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send(format!("{GET}{GET}")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    drains(&sidegate).await;
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    wire.answer().await.expect(200).expect_header("connection", "close");
    assert!(!wire.is_reset().await);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn connection_is_closed_in_a_drain_once_it_is_idle() {
    for behind in ["", "\r\n"] {
        let backend = backend::manual().run().await;
        let mut sidegate = forwarding(&backend).run().await;
        let began = Instant::now();
        let (mut wire, mut at_backend) = half_answered(&sidegate, &backend, behind).await;
        drains(&sidegate).await;
        at_backend.send("lf").await;
        assert_eq!(wire.bytes(2).await, b"lf");
        assert!(!wire.is_reset().await);
        sidegate.ended().await;
        assert!(began.elapsed() < Duration::from_secs(5), "it waited for a head");
    }
}

#[tokio::test]
async fn drain_waits_for_a_begun_request_line() {
    for first in [1, 12, 20] {
        let backend = pages().await;
        let sidegate = forwarding(&backend).run().await;
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(&GET[..first]).await;
        client::new(&sidegate).get("/").await; // The one thread has read the part before.
        drains(&sidegate).await;
        wire.send(&GET[first..]).await;
        wire.answer().await.expect(200).expect_header("connection", "close");
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn incomplete_head_delays_a_drain_briefly() {
    let backend = backend::manual().run().await;
    let mut sidegate = forwarding(&backend).timeouts("head = '1h'").run().await;
    let mut fresh = client::new(&sidegate).connect().await;
    fresh.send("G").await;
    let (mut behind, mut at_backend) = half_answered(&sidegate, &backend, &GET[..20]).await;
    let began = Instant::now();
    drains(&sidegate).await;
    at_backend.send("lf").await;
    assert_eq!(behind.bytes(2).await, b"lf");
    for wire in [&mut fresh, &mut behind] {
        wire.expect_end().await;
    }
    sidegate.ended().await;
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for the head");
}

#[tokio::test]
async fn bytes_behind_a_refused_request_are_no_request() {
    let backend = pages().await;
    let sidegate = forwarding(&backend).on_route("max_body = '1KiB'").run().await;
    let body = "x".repeat(2000);
    let chunk = format!("7d0\r\n{body}\r\n0\r\n\r\n");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (fields, behind) in [
        ("Content-Length: 2000", format!("{body}{smuggled}")),
        ("Content-Length: 2000", smuggled.repeat(4)),
        ("Content-Length: 2000\r\nExpect: 100-continue", smuggled.to_owned()),
        ("Transfer-Encoding: chunked", format!("{chunk}{smuggled}")),
    ] {
        let mut wire = client::new(&sidegate).connect().await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n");
        wire.send(format!("{head}{behind}")).await;
        let answer = wire.answer().await;
        answer.expect_refused(413, "body").expect_header("connection", "close");
        assert!(!wire.is_reset().await, "{fields}");
    }
    assert!(backend.heads().iter().all(|head| head.target() == "/"));
}
