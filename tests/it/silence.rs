//! Intended silence: long polls, event streams, pauses in a body, and no bound at all.
//!
//! Each test waits for several times the bound that must not apply.

use std::time::Duration;

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder};
use crate::harness::wire::Wire;

/// The bound that holds everywhere else.
const SHORT: &str = "body_stall = '100ms'\nresponse = '100ms'";
const SEVERAL: Duration = Duration::from_millis(400);

/// Plain HTTP goes through, under [`SHORT`] unless these keys of the route say otherwise.
fn new(backend: &Backend, keys: &str) -> Builder {
    let sidegate = sidegate::new().route("/", backend).on_route("http = 'forward'").clear();
    sidegate.on_route(keys).timeouts(SHORT)
}

/// Asserts that an answer whose head has this Content-Type goes on after a silence; or that it is
/// cut.
async fn check_answer(kind: &str, keys: &str, goes_on: bool) {
    let backend = backend::manual().run().await;
    let sidegate = new(&backend, keys).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.request("GET / HTTP/1.1", "")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 6\r\n\r\none");
    at_backend.send(head).await;
    wire.head().await;
    assert_eq!(wire.bytes(3).await, b"one");
    if goes_on {
        tokio::time::sleep(SEVERAL).await;
        at_backend.send("two").await;
        assert_eq!(wire.bytes(3).await, b"two", "{kind}");
    } else {
        wire.rest().await;
        let by = [("by", "backend"), ("reason", "body_stall")];
        sidegate.expect_metric("sidegate_exchanges_closed_total", by, 1).await;
    }
}

#[tokio::test]
async fn stream_of_events_may_be_silent() {
    for kind in ["text/event-stream", "Text/Event-Stream; charset=utf-8", "text/event-stream;a=b"] {
        check_answer(kind, "", true).await;
    }
    for kind in ["text/plain", "text/event-streams", "application/json;x=text/event-stream"] {
        check_answer(kind, "", false).await;
    }
}

#[tokio::test]
async fn body_stall_can_be_off_for_answers() {
    check_answer("text/plain", "timeouts = { body_stall = 'off' }", true).await;
}

/// Asserts that a request's body may pause on a route with these keys.
async fn check_upload(keys: &str, framing: &str) {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    let sidegate = new(&backend, keys).timeouts("response = '1h'").run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let (first, then) = match framing {
        "Content-Length: 6\r\n" => ("one", "two"),
        _ => ("3\r\none\r\n", "3\r\ntwo\r\n0\r\n\r\n"),
    };
    wire.send(client.request("POST / HTTP/1.1", framing) + first).await;
    tokio::time::sleep(SEVERAL).await;
    wire.send(then).await;
    assert_eq!(wire.answer().await.expect(200).text(), "onetwo");
}

#[tokio::test]
async fn body_stall_can_be_off_for_requests() {
    for framing in ["Content-Length: 6\r\n", "Transfer-Encoding: chunked\r\n"] {
        check_upload("timeouts = { body_stall = 'off' }", framing).await;
        check_upload("timeouts = { body_stall = 'off', body_pace = 'off' }", framing).await;
    }
}

/// Asserts that what `asks` sends is answered late, on a route with these keys; or with 504.
async fn check_response(keys: &str, asks: impl AsyncFn(&mut Wire), attempt: bool, late: bool) {
    let backend = backend::manual().run().await;
    let sidegate = new(&backend, keys).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    asks(&mut wire).await;
    let mut at_backend = backend.accepted().await;
    let head = at_backend.head().await;
    if !late {
        wire.answer().await.expect_refused(504, "backend");
        return;
    }
    tokio::time::sleep(SEVERAL).await;
    if attempt {
        at_backend.send(backend::granted(&head, "")).await;
        wire.answer().await.expect(101);
    } else {
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        wire.answer().await.expect(200);
    }
}

const ATTEMPT: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn response_can_be_off_for_plain_http_and_attempts() {
    let plain = async |wire: &mut Wire| wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let attempt = async |wire: &mut Wire| wire.send(ATTEMPT).await;
    // Its head is whole only with the second write, so that hyper reads it.
    let by_hyper = async |wire: &mut Wire| {
        let (first, rest) = ATTEMPT.split_at(20);
        wire.send(first).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        wire.send(rest).await;
    };
    for (keys, late) in [("timeouts = { response = 'off' }", true), ("", false)] {
        check_response(keys, plain, false, late).await;
        check_response(keys, attempt, true, late).await;
        check_response(keys, by_hyper, true, late).await;
    }
}

#[tokio::test]
async fn off_holds_globally_and_a_route_may_still_bound() {
    let backend = backend::silent().run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'").clear();
    let sidegate = sidegate.timeouts("response = 'off'\nbody_stall = 'off'");
    let sidegate = sidegate.on_route("timeouts = { response = '50ms' }").run().await;
    client::new(&sidegate).get("/").await.expect_refused(504, "backend");
}

#[tokio::test]
async fn body_of_any_length_passes_where_max_body_is_off() {
    let backend =
        backend::http(|asked| backend::reply(200).body(asked.body.len().to_string())).run().await;
    let sidegate =
        sidegate::new().route("/", &backend).on_route("http = 'forward'\nmax_body = 'off'");
    let sidegate = sidegate.clear().run().await;
    let client = client::new(&sidegate);
    let size = 3 << 20;
    let body = "x".repeat(size);
    let sized = client.request("POST / HTTP/1.1", &format!("Content-Length: {size}\r\n")) + &body;
    let chunked = client.request("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n");
    let chunked = format!("{chunked}{size:x}\r\n{body}\r\n0\r\n\r\n");
    for request in [sized, chunked] {
        assert_eq!(client.send(request).await.expect(200).text(), size.to_string());
    }
}
