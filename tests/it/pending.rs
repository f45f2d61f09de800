//! `pending_per_client`: what counts for it, what doesn't, and which connection makes room at the
//! bound.

use std::io::Write;
use std::time::Duration;

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::tls;
use crate::harness::wire::Wire;
use crate::harness::within;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// An agent in the clear that forwards plain HTTP and allows a client so many connections.
fn with(seats: u32, backend: &Backend) -> Builder {
    let builder = sidegate::new().clear().route("/", backend).on_route("http = 'forward'");
    builder.on_listener(&format!("pending_per_client = {seats}"))
}

async fn pages() -> Backend {
    backend::http(|_| backend::reply(200)).run().await
}

/// A connection that has had the answer to this request, with this status.
async fn asked(client: &Client, request: &str, status: u16) -> Wire {
    let mut wire = client.connect().await;
    wire.send(request).await;
    wire.answer().await.expect(status);
    wire
}

async fn expect_displaced(sidegate: &Sidegate, connections: u32) {
    sidegate
        .expect_metric("sidegate_connections_closed_total", [("reason", "displaced")], connections)
        .await;
}

/// Asserts that a client of a hundred such requests, each on a connection of its own that it keeps,
/// keeps three.
async fn check_three_stay(sidegate: &Sidegate, client: &Client, request: &str, status: u16) {
    let mut wires = Vec::new();
    for _ in 0..100 {
        wires.push(asked(client, request, status).await);
    }
    sidegate.expect_metric("sidegate_connections_open", [], 3).await;
    expect_displaced(sidegate, 97).await;
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "pending")], 0).await;
    drop(wires);
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
}

#[tokio::test]
async fn refused_client_keeps_no_connection() {
    let backend = pages().await;
    let sidegate = with(5, &backend).host("known.example").allow("127.0.0.2").run().await;
    let stranger = client::new(&sidegate).host("known.example");
    let lost = client::new(&sidegate).from("127.0.0.2").host("other.example");
    for (client, status, word) in [(stranger, 403, "network"), (lost, 404, "route")] {
        for _ in 0..8 {
            let request = client.request("GET / HTTP/1.1", "");
            client.expect_refused(request, status, word).await.expect_header("connection", "close");
        }
    }
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "refused")], 16).await;
}

#[tokio::test]
async fn misdirected_plain_request_closes_its_connection() {
    let backend = pages().await;
    let sidegate = sidegate::new().route("/", &backend).on_route("http = 'forward'");
    let sidegate = sidegate.certificate(&["a.example"]).certificate(&["b.example"]).run().await;
    let client = client::new(&sidegate).trusting().sni("a.example").host("b.example");
    let request = client.request("GET / HTTP/1.1", "");
    client.expect_refused(request, 421, "misdirected").await.expect_header("connection", "close");
}

#[tokio::test]
async fn refusal_that_keeps_its_connection_still_counts_as_pending() {
    let backend = pages().await;
    let sidegate = with(3, &backend).origins(&["https://app.example"]).run().await;
    let foreign = format!("{}Origin: https://evil.example\r\n\r\n", &GET[..GET.len() - 2]);
    check_three_stay(&sidegate, &client::new(&sidegate), &foreign, 403).await;

    let sidegate = with(3, &backend).limits("requests = { rate = '1/m', burst = 1 }").run().await;
    let client = client::new(&sidegate);
    drop(asked(&client, GET, 200).await);
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    check_three_stay(&sidegate, &client, GET, 429).await;

    let sidegate = with(3, &backend).on_route("http = 'refuse'").run().await;
    check_three_stay(&sidegate, &client::new(&sidegate), GET, 426).await;
}

#[tokio::test]
async fn idle_connection_after_a_permitted_request_counts_again() {
    let backend = pages().await;
    let sidegate = with(3, &backend).run().await;
    check_three_stay(&sidegate, &client::new(&sidegate), GET, 200).await;
}

#[tokio::test]
async fn idle_connection_over_tls_counts_again_and_ends_in_order() {
    let backend = pages().await;
    let sidegate = with(3, &backend).tls().run().await;
    let client = client::new(&sidegate);
    check_three_stay(&sidegate, &client, GET, 200).await;
    let mut oldest = asked(&client, GET, 200).await;
    let _others = [asked(&client, GET, 200).await, asked(&client, GET, 200).await];
    client.connect().await;
    oldest.expect_end().await;
}

#[tokio::test]
async fn longest_idle_is_displaced_and_not_the_latest() {
    let backend = pages().await;
    let sidegate = with(2, &backend).run().await;
    let client = client::new(&sidegate);
    let (mut first, mut second) = (asked(&client, GET, 200).await, asked(&client, GET, 200).await);
    first.send(GET).await;
    first.answer().await.expect(200);
    let mut third = asked(&client, GET, 200).await;
    second.expect_end().await;
    for wire in [&mut first, &mut third] {
        wire.send(GET).await;
        wire.answer().await.expect(200);
    }
    expect_displaced(&sidegate, 1).await;
}

#[tokio::test]
async fn tunnels_and_requests_being_served_do_not_count() {
    let server = backend::manual().run().await;
    let sidegate = with(1, &server).run().await;
    let client = client::new(&sidegate);
    let mut serving = Vec::new();
    for _ in 0..5 {
        let mut wire = client.connect().await;
        wire.send(GET).await;
        let mut at_backend = server.accepted().await;
        at_backend.head().await;
        serving.push((wire, at_backend));
    }
    let _tunnel = crate::tunnel::ends(&client, &server, "").await;
    for (wire, at_backend) in &mut serving {
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(wire.answer().await.expect(200).text(), "ok");
    }
    // As each becomes idle, the one before makes room.
    expect_displaced(&sidegate, 4).await;
    sidegate.expect_metric("sidegate_connections_open", [], 2).await;
}

#[tokio::test]
async fn half_a_head_behind_an_answer_is_not_idle() {
    let backend = pages().await;
    let sidegate = with(2, &backend).timeouts("head = '1h'").run().await;
    let client = client::new(&sidegate);
    let mut halves = Vec::new();
    for _ in 0..2 {
        let mut wire = asked(&client, GET, 200).await;
        wire.send(&GET[..20]).await;
        halves.push(wire);
    }
    // Until both are read, one may be idle: then it wins against the newcomer, which is refused all
    // the same.
    client.connect().await.expect_end().await;
    for wire in &mut halves {
        wire.send(&GET[20..]).await;
        wire.answer().await.expect(200);
    }
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "pending")], 1).await;
    expect_displaced(&sidegate, 0).await;
}

/// Asserts that eight connections whose next head has begun to arrive outlast eight others that
/// want their places, and are answered.
async fn check_bytes_win(sidegate: &Sidegate) {
    let client = client::new(sidegate);
    for _ in 0..10 {
        let mut wires = Vec::new();
        for _ in 0..8 {
            wires.push(asked(&client, GET, 200).await);
        }
        for wire in &mut wires {
            wire.send(&GET[..1]).await;
        }
        for _ in 0..8 {
            client.connect_below_tls().await.expect_end().await;
        }
        for wire in &mut wires {
            wire.send(&GET[1..]).await;
            wire.answer().await.expect(200);
        }
        drop(wires);
        sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    }
    expect_displaced(sidegate, 0).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "pending")], 80).await;
}

#[tokio::test]
async fn connection_whose_bytes_have_arrived_is_never_displaced() {
    let backend = pages().await;
    check_bytes_win(&with(8, &backend).run().await).await;
    check_bytes_win(&with(8, &backend).tls().run().await).await;
}

#[tokio::test]
async fn arrived_part_of_a_record_prevents_a_displacement() {
    let backend = pages().await;
    let sidegate = with(1, &backend).tls().run().await;
    let mut client = tls::begin(&sidegate, &rustls::version::TLS13).await;
    client.send(GET.as_bytes()).await;
    client.expect_bare(200).await;
    client.tls.writer().write_all(GET.as_bytes()).unwrap();
    let record = client.outgoing();
    client.send_below(&record[..9]).await;
    client::new(&sidegate).connect_below_tls().await.expect_end().await;
    client.send_below(&record[9..]).await;
    client.expect_bare(200).await;
    expect_displaced(&sidegate, 0).await;
}

#[tokio::test]
async fn arrived_part_of_a_record_outlasts_keep_alive_once() {
    let backend = pages().await;
    let times = "keep_alive = '300ms'\nhead = '2s'";
    let sidegate = with(1, &backend).tls().timeouts(times).run().await;
    let mut client = tls::begin(&sidegate, &rustls::version::TLS13).await;
    for length in [9, 1] {
        client.send(GET.as_bytes()).await;
        client.expect_bare(200).await;
        client.tls.writer().write_all(GET.as_bytes()).unwrap();
        let record = client.outgoing();
        client.send_below(&record[..length]).await;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await; // the claim is about time
        client.send_below(&record[length..]).await;
        client.expect_bare(200).await;
    }
    expect_displaced(&sidegate, 0).await;
}

#[tokio::test]
async fn idle_connection_over_tls_ends_in_order_after_keep_alive() {
    let backend = pages().await;
    let sidegate = with(1, &backend).tls().timeouts("keep_alive = '300ms'").run().await;
    let mut client = tls::begin(&sidegate, &rustls::version::TLS13).await;
    client.send(GET.as_bytes()).await;
    client.expect_bare(200).await;
    client.expect_close_notify().await;
    let labels = [("reason", "keep_alive")];
    sidegate.expect_metric("sidegate_connections_closed_total", labels, 1).await;
}

#[tokio::test]
async fn client_pool_over_the_bound_loses_no_request() {
    const POOL: u32 = 600;
    let backend = pages().await;
    // The default bound, and more than one thread: the counts are the process'.
    let sidegate = sidegate::new()
        .clear()
        .route("/", &backend)
        .on_route("http = 'forward'")
        .threads(2)
        .run()
        .await;
    let client = client::new(&sidegate);
    let mut pool = Vec::new();
    for _ in 0..POOL {
        pool.push(asked(&client, GET, 200).await);
    }
    // A displaced connection counts until it has ended, and the other thread may displace one more
    // meanwhile.
    let open = within("the end of the displaced ones", async {
        loop {
            let open = sidegate.metric("sidegate_connections_open", []).await;
            let displaced = [("reason", "displaced")];
            let closed = sidegate.metric("sidegate_connections_closed_total", displaced).await;
            if open <= 512.0 && open + closed == f64::from(POOL) {
                return open as u32;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(open >= 510, "{open}");
    let mut ended = 0;
    for wire in &mut pool {
        wire.send(GET).await;
        match wire.try_head().await {
            Some(head) => assert_eq!(head.status(), 200),
            None => ended += 1,
        }
    }
    assert_eq!(ended, POOL - open, "the displaced ones, and no other");
    sidegate.expect_metric("sidegate_refusals_total", [], 0).await;
}

#[tokio::test]
async fn new_client_is_served_beside_a_full_idle_address() {
    let backend = backend::echo().run().await;
    let sidegate = with(3, &backend).on_route("http = 'refuse'").run().await;
    let client = client::new(&sidegate);
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(asked(&client, GET, 426).await);
    }
    let mut tunnel = client.open("/").await;
    tunnel.expect_echo("in").await;
    idle[0].expect_end().await;
    expect_displaced(&sidegate, 1).await;
}
