//! The alert of a handshake that fails arrives, though its client has sent more than is read.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::harness::sidegate::Builder;
use crate::harness::tls::{ALERT, DATA, HANDSHAKE, plain};
use crate::harness::within;

const BAD_RECORD_MAC: u8 = 20;
const PROTOCOL_VERSION: u8 = 70;

const DISCARDING: &str = "sidegate_connections_discarding";
const DISCARDS: &str = "sidegate_discards_total";

/// Records of data, more of them than the kernel's buffers of one connection hold.
fn early_data() -> Vec<u8> {
    plain(DATA, &[7; 1 << 14]).repeat(512)
}

/// A ClientHello of TLS 1.1.
async fn old_hello() -> Vec<u8> {
    let (sidegate, _server) = agent().await;
    let mut hello = tls::begin(&sidegate, &TLS12).await.hello();
    let at = hello.windows(6).position(|bytes| bytes == [0, 43, 0, 3, 2, 3]).unwrap();
    hello[at + 6] = 2;
    plain(HANDSHAKE, &hello)
}

/// The last alert before the connection ends in order.
async fn last_alert(wire: &mut Wire) -> Option<u8> {
    let said = wire.rest_unless_reset().await;
    let alert = said.len().checked_sub(7).map(|at| &said[at..])?;
    (alert[0] == ALERT && alert[5] == 2).then_some(alert[6])
}

/// Asserts that discarding has ended with its client.
async fn expect_discarded(sidegate: &Sidegate) {
    sidegate.expect_metric(DISCARDS, [("end", "client")], 1).await;
    sidegate.expect_metric(DISCARDING, [], 0).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "tls")], 1).await;
}

#[tokio::test]
async fn alert_arrives_before_bytes_behind_a_hello_are_read() {
    let no_tls = b"EHLO a.example\r\n".to_vec();
    for (bytes, alert) in [(old_hello().await, Some(PROTOCOL_VERSION)), (no_tls, None)] {
        let (sidegate, server) = agent().await;
        let mut wire = client::new(&sidegate).connect_below_tls().await;
        wire.deliver(&bytes).await;
        wire.deliver(early_data()).await;
        let came = last_alert(&mut wire).await;
        assert!(came.is_some() && alert.is_none_or(|alert| came == Some(alert)), "{came:?}");
        drop(wire);
        expect_discarded(&sidegate).await;
        expect_failed(&sidegate, &server).await;
    }
}

/// Asserts that rustls' client, which sends more right after its hello, gets this alert.
async fn check_told(agent: impl Fn(Builder) -> Builder, sni: &str, alpn: &[u8], what: &str) {
    for version in [&TLS13, &TLS12] {
        let server = backend::manual().run().await;
        let builder = sidegate::new().route("/chat", &server).certificate(&["localhost"]);
        let sidegate = agent(builder).run().await;
        let offer = |config: &mut rustls::ClientConfig| config.alpn_protocols = vec![alpn.into()];
        let mut client = tls::begin_as(&sidegate, version, sni, offer).await;
        client.flush().await;
        within("sending all", client.tcp.write_all(&early_data())).await.unwrap();
        client.expect_alert(what).await;
        assert_eq!(client.tcp.read(&mut [0]).await.unwrap(), 0, "an end in order");
        drop(client);
        expect_discarded(&sidegate).await;
        expect_failed(&sidegate, &server).await;
    }
}

#[tokio::test]
async fn sending_client_of_another_alpn_gets_its_alert() {
    check_told(|agent| agent, "localhost", b"h2", "NoApplicationProtocol").await;
}

#[tokio::test]
async fn sending_client_of_an_unknown_name_gets_its_alert() {
    let strict = |agent: Builder| agent.on_listener("strict_sni = true");
    check_told(strict, "unknown.example", b"http/1.1", "AccessDenied").await;
}

#[tokio::test]
async fn sending_client_of_a_broken_record_gets_its_alert() {
    let (sidegate, server) = agent().await;
    let mut client = tls::begin(&sidegate, &TLS13).await;
    client.flush().await;
    let (mut client, _) = client.forge_last_flight().await;
    within("sending all", client.tcp.write_all(&early_data())).await.unwrap();
    assert_eq!(client.last_alert().await, Some([2, BAD_RECORD_MAC]));
    drop(client);
    expect_discarded(&sidegate).await;
    expect_failed(&sidegate, &server).await;
}

/// Asserts that a broken record after this much of a request gets an alert.
async fn check_broken(version: &'static SupportedProtocolVersion, begun: &[u8]) {
    let (sidegate, server) = agent().await;
    let mut client = tls::begin(&sidegate, version).await;
    client.flush().await;
    let last = client.last_flight().await;
    client.send_below(&last).await;
    while client.tls.is_handshaking() {
        client.hear().await.unwrap();
    }
    client.send(begun).await;
    let mut client = client.forge();
    within("sending all", client.tcp.write_all(&early_data())).await.unwrap();
    assert_eq!(client.last_alert().await, Some([2, BAD_RECORD_MAC]));
    drop(client);
    sidegate.expect_metric(DISCARDS, [("end", "client")], 1).await;
    expect_unharmed(&sidegate, &server).await;
}

#[tokio::test]
async fn broken_record_among_requests_gets_its_alert() {
    for version in [&TLS13, &TLS12] {
        check_broken(version, b"").await;
        check_broken(version, b"GET /chat HTTP/1.1\r\nHost:").await;
    }
}

#[tokio::test]
async fn failed_handshakes_that_stay_count_as_pending() {
    let server = backend::echo().run().await;
    let agent = sidegate::new().route("/chat", &server).on_listener("pending_per_client = 3");
    let (sidegate, old) = (agent.run().await, old_hello().await);
    let client = client::new(&sidegate);
    let mut wires = Vec::new();
    for _ in 0..6 {
        let mut wire = client.connect_below_tls().await;
        wire.deliver(&old).await;
        assert_eq!(last_alert(&mut wire).await, Some(PROTOCOL_VERSION));
        wires.push(wire);
    }
    sidegate.expect_metric(DISCARDING, [], 3).await;
    sidegate.expect_metric(DISCARDS, [("end", "displaced")], 3).await;
    client.open("/chat").await.expect_echo("in").await;
}
