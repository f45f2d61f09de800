//! `handshakes_per_client`: TLS handshakes over their client's rate wait, and are made or closed in
//! time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustls::HandshakeKind;
use toml::Table;

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::{tls, within};

/// One TLS handshake, and the next in a minute.
const ONE: &str = "handshakes_per_client = { rate = '1/m', burst = 1 }";

fn with(keys: &str, backend: &Backend) -> Builder {
    sidegate::new().route("/chat", backend).on_listener(keys)
}

async fn running(keys: &str) -> (Sidegate, Client, Backend) {
    let backend = backend::echo().run().await;
    let sidegate = with(keys, &backend).run().await;
    let client = client::new(&sidegate);
    (sidegate, client, backend)
}

async fn expect_delayed(sidegate: &Sidegate, handshakes: u32) {
    sidegate
        .expect_metric(
            "sidegate_tls_handshakes_delayed_total",
            [("listener", "public")],
            handshakes,
        )
        .await;
}

async fn expect_handshakes(sidegate: &Sidegate, result: &str, handshakes: u32) {
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", result)], handshakes).await;
}

/// A client that has said its ClientHello, which waits.
async fn waiting(sidegate: &Sidegate, before: u32) -> tls::Client {
    let mut client = tls::begin(sidegate, &rustls::version::TLS13).await;
    client.flush().await;
    expect_delayed(sidegate, before + 1).await;
    client
}

/// Another `handshakes_per_client` for the first listener.
async fn rerate(sidegate: &Sidegate, keys: &str) {
    let keys: Table = keys.parse().unwrap();
    sidegate
        .reconfigure(|config| {
            let listener = config["listener"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
            listener.extend(keys);
        })
        .await;
}

#[tokio::test]
async fn handshakes_over_the_rate_wait_for_their_token() {
    let (sidegate, client, _backend) =
        running("handshakes_per_client = { rate = '2/s', burst = 2 }").await;
    let began = Instant::now();
    let wires = join_all((0..4).map(|_| client.connect()));
    let other = client.clone().from("127.0.0.2");
    let elsewhere = async {
        other.open("/chat").await.expect_echo("others are not concerned").await;
        began.elapsed()
    };
    let (wires, at) = tokio::join!(wires, elsewhere);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900) && at < took, "{took:?}, the other {at:?}");
    assert_eq!(wires.len(), 4);
    expect_delayed(&sidegate, 2).await;
    expect_handshakes(&sidegate, "full", 5).await;
    sidegate.expect_metric("sidegate_refusals_total", [], 0).await;
}

#[tokio::test]
async fn resumed_handshakes_count_too() {
    let (sidegate, client, _backend) =
        running("handshakes_per_client = { rate = '4/s', burst = 2 }").await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let mut wire = client.open_wire("/chat").await;
        wire.expect_echo("the ticket has come").await;
        kinds.push(wire.tls().handshake_kind().unwrap());
    }
    assert_eq!(kinds[1..], [HandshakeKind::Resumed; 2]);
    expect_delayed(&sidegate, 1).await;
}

#[tokio::test]
async fn wait_is_bounded_by_the_timeout_of_tls() {
    let backend = backend::echo().run().await;
    let sidegate = with(ONE, &backend).timeouts("tls = '300ms'").run().await;
    let _first = client::new(&sidegate).connect().await;
    let mut second = waiting(&sidegate, 0).await;
    second.expect_alert("").await;
    expect_handshakes(&sidegate, "rate", 1).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "tls")], 1).await;
    sidegate.expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "tls")], 1).await;
}

#[tokio::test]
async fn client_that_leaves_the_handshake_queue_delays_none() {
    let (sidegate, client, _backend) = running(ONE).await;
    client.connect().await;
    for before in 0..3 {
        drop(waiting(&sidegate, before).await);
    }
    // Long before there would be a token for the first of them.
    expect_handshakes(&sidegate, "failed", 3).await;
    expect_handshakes(&sidegate, "full", 1).await;
}

#[tokio::test]
async fn connection_without_a_byte_takes_no_token() {
    let (sidegate, client, _backend) = running(ONE).await;
    for _ in 0..5 {
        drop(client.connect_below_tls().await);
    }
    sidegate.expect_metric("sidegate_probes_total", [], 5).await;
    client.open("/chat").await.expect_echo("at once").await;
    expect_delayed(&sidegate, 0).await;
}

#[tokio::test]
async fn waiting_connections_are_closed_only_over_pending_per_client() {
    let (sidegate, client, _backend) = running(&format!("pending_per_client = 2\n{ONE}")).await;
    let mut tunnel = client.open("/chat").await;
    let _two = [waiting(&sidegate, 0).await, waiting(&sidegate, 1).await];
    client.connect_below_tls().await.expect_end().await;
    client
        .clone()
        .from("127.0.0.2")
        .open("/chat")
        .await
        .expect_echo("others are not concerned")
        .await;
    tunnel.expect_echo("still here").await;
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "pending")], 1).await;
}

#[tokio::test]
async fn unchanged_rate_keeps_budgets_and_a_changed_one_acts_at_once() {
    let (sidegate, client, _backend) = running(ONE).await;
    client.connect().await;
    sidegate.policy().deny("192.0.2.1").write().await;
    let mut waits = waiting(&sidegate, 0).await;
    rerate(&sidegate, "handshakes_per_client = { rate = '1/m', burst = 2 }").await;
    waits.attempt(b"").await;
    waits.expect_101().await;
    client.connect().await;
    let mut waits = waiting(&sidegate, 1).await;
    rerate(&sidegate, "handshakes_per_client = 'off'").await;
    waits.attempt(b"").await;
    waits.expect_101().await;
    for _ in 0..5 {
        client.connect().await;
    }
    expect_delayed(&sidegate, 2).await;
}

#[tokio::test]
async fn reconnect_storm_of_one_address_passes_by_default() {
    let (sidegate, client, _backend) = running("").await;
    let all = join_all((0..200).map(|_| client.connect()));
    within("two hundred TLS handshakes", all).await;
    expect_delayed(&sidegate, 0).await;
    expect_handshakes(&sidegate, "full", 200).await;
}

#[tokio::test]
async fn handshake_wait_and_its_end_are_logged() {
    let backend = backend::echo().run().await;
    let folder = with(ONE, &backend).timeouts("tls = '200ms'").write();
    let mut process = process::new(folder.path()).log("json").run().await;
    let (mut first, mut second) =
        (process.client().connect().await, process.client().connect().await);
    for wire in [&mut first, &mut second] {
        wire.send([22, 3, 1, 2, 0, 1]).await; // the first bytes of a ClientHello
    }
    let line =
        process.logged("TLS handshake delayed: its client is over handshakes_per_client").await;
    assert_eq!((&line["listener"], &line["client"]), (&"public".into(), &"127.0.0.1".into()));
    let errors = [process.logged("refused").await, process.logged("refused").await].map(|line| {
        assert_eq!(line["reason"], "tls");
        line["error"].as_str().unwrap().to_owned()
    });
    assert!(
        errors.contains(&"not begun in time: its client is over handshakes_per_client".to_owned()),
        "{errors:?}"
    );
    assert!(errors.contains(&"not done in time".to_owned()), "{errors:?}");
}
