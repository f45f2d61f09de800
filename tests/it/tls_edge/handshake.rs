//! The TLS handshake, cut up, interleaved, broken and abandoned: it succeeds, or is refused with an
//! alert and counted.

use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::{ClientConfig, NamedGroup};

use super::*;
use crate::harness::tls::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, KEY_UPDATE, UPDATE, in_records_of, plain,
};

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const DECRYPT_ERROR: u8 = 51;
const PROTOCOL_VERSION: u8 = 70;

/// Asserts that these bytes end a connection before its TLS handshake is made; returns the alert,
/// if one came.
async fn check(bytes: &[u8]) -> Option<u8> {
    let (sidegate, server) = agent().await;
    let mut wire = client::new(&sidegate).connect_below_tls().await;
    wire.send(bytes).await;
    let said = wire.rest().await;
    expect_failed(&sidegate, &server).await;
    let alert = said.len().checked_sub(7).map(|at| &said[at..]);
    alert.filter(|alert| alert[0] == ALERT && alert[5] == 2).map(|alert| alert[6])
}

/// A ClientHello that isn't sent: the message without its record.
async fn hello(version: &'static SupportedProtocolVersion) -> Vec<u8> {
    let (sidegate, _server) = agent().await;
    tls::begin(&sidegate, version).await.hello()
}

#[tokio::test]
async fn a_hello_in_records_of_any_size_makes_a_tunnel() {
    for (version, size) in
        [(&TLS13, 1), (&TLS13, 4), (&TLS13, 1000), (&TLS12, 1), (&TLS12, 5), (&TLS12, 100)]
    {
        let (sidegate, server) = agent().await;
        let mut client = tls::begin(&sidegate, version).await;
        let hello = client.hello();
        client.send_below(&in_records_of(size, &hello)).await;
        let backend = opened(&mut client, &server, b"").await;
        Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
    }
}

/// A client that has made the whole TLS handshake, which the other end knows, and has asked for
/// nothing.
async fn silent(sidegate: &Sidegate) -> Client {
    let mut client = tls::begin(sidegate, &TLS13).await;
    client.flush().await;
    let last = client.last_flight().await;
    client.send_below(&last).await;
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "full")], 1).await;
    client
}

#[tokio::test]
async fn session_ticket_and_answer_leave_in_one_write() {
    let (sidegate, server) = agent().await;
    let mut client = silent(&sidegate).await;
    assert_eq!(client.tcp.try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.attempt(b"").await;
    let _backend = granted(&server).await;
    client.hear().await.unwrap(); // once
    assert_eq!(client.tls.tls13_tickets_received(), 1);
    client.expect_101().await;
}

#[tokio::test]
async fn leaving_client_gets_its_session_ticket() {
    let (sidegate, _server) = agent().await;
    let mut client = silent(&sidegate).await;
    client.tls.send_close_notify();
    client.flush().await;
    client.expect_close_notify().await;
    assert_eq!(client.tls.tls13_tickets_received(), 1);
}

#[tokio::test]
async fn the_name_in_a_hello_of_many_records_chooses_the_certificate() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &server)
        .certificate(&["a.example"])
        .certificate(&["b.example"]);
    let sidegate = sidegate.on_listener("strict_sni = true").run().await;
    for (sni, pieces) in [("a.example", 1), ("b.example", 1), ("b.example", 700)] {
        let mut client = tls::begin_as(&sidegate, &TLS13, sni, |_| ()).await;
        let hello = client.hello();
        client.pieces = pieces;
        client.send_below(&in_records_of(1, &hello)).await;
        opened(&mut client, &server, b"").await; // it holds the certificate against the name
    }
}

#[tokio::test]
async fn record_between_hello_fragments_ends_the_handshake() {
    let hello = hello(&TLS13).await;
    for between in
        [plain(ALERT, &[1, 0]), plain(DATA, b"x"), plain(CHANGE_CIPHER_SPEC, &[1]), plain(99, b"x")]
    {
        let (half, rest) = hello.split_at(100);
        check(&[plain(HANDSHAKE, half), between, plain(HANDSHAKE, rest)].concat()).await;
    }
}

#[tokio::test]
async fn garbage_gets_a_tls_alert() {
    for bytes in [
        &b"EHLO a.example\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00",
    ] {
        assert!(check(bytes).await.is_some(), "{bytes:?}");
    }
}

#[tokio::test]
async fn other_record_in_place_of_a_hello_ends_the_handshake() {
    for record in [
        plain(ALERT, &[2, 40]),
        plain(DATA, b"x"),
        plain(CHANGE_CIPHER_SPEC, &[1]),
        plain(HANDSHAKE, &UPDATE),
    ] {
        check(&record).await;
    }
}

#[tokio::test]
async fn tls_1_1_gets_protocol_version() {
    let mut hello = hello(&TLS12).await;
    // In supported_versions, beside which the hello's own version says nothing (RFC 8446 §4.2.1).
    let at = hello.windows(6).position(|bytes| bytes == [0, 43, 0, 3, 2, 3]).unwrap();
    hello[at + 6] = 2;
    assert_eq!(check(&plain(HANDSHAKE, &hello)).await, Some(PROTOCOL_VERSION));
}

#[tokio::test]
async fn oversize_hello_ends_the_handshake() {
    check(&plain(HANDSHAKE, &[1, 1, 0, 0])).await;
    check(&in_records_of(1, &[1, 255, 255, 255])).await;
}

#[tokio::test]
async fn a_hello_of_the_largest_size_ends_the_handshake() {
    let mut hello = vec![0; 4 + 0xffff];
    hello[..4].copy_from_slice(&[1, 0, 0xff, 0xff]);
    for size in [16_384, 1000, 1] {
        check(&in_records_of(size, &hello)).await;
    }
}

#[tokio::test]
async fn endless_empty_records_end_the_handshake() {
    let hello = hello(&TLS13).await;
    check(&[plain(HANDSHAKE, &hello[..1]), plain(DATA, b"").repeat(1000)].concat()).await;
    check(&plain(HANDSHAKE, b"")).await;
}

#[tokio::test]
async fn a_second_hello_ends_the_handshake() {
    for version in [&TLS13, &TLS12] {
        let (sidegate, server) = agent().await;
        let mut wire = client::new(&sidegate).connect_below_tls().await;
        let hello = plain(HANDSHAKE, &tls::begin(&sidegate, version).await.hello());
        wire.send(&hello).await;
        wire.bytes(5).await; // the answer to the first begins
        wire.send(&hello).await;
        wire.rest().await;
        expect_failed(&sidegate, &server).await;
    }
}

#[tokio::test]
async fn client_that_leaves_in_the_handshake_is_counted() {
    for version in [&TLS13, &TLS12] {
        let hello = plain(HANDSHAKE, &hello(version).await);
        for sent in [1, 5, 6, hello.len() - 1, hello.len()] {
            let (sidegate, server) = agent().await;
            let mut wire = client::new(&sidegate).connect_below_tls().await;
            wire.send(&hello[..sent]).await;
            wire.finish().await;
            expect_failed(&sidegate, &server).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_wants_another_certificate_is_counted() {
    for version in [&TLS13, &TLS12] {
        let (sidegate, server) = agent().await;
        client::new(&sidegate)
            .tls_version(version)
            .sni("another.example")
            .try_connect()
            .await
            .err()
            .expect("no TLS");
        expect_failed(&sidegate, &server).await;
    }
}

#[tokio::test]
async fn corrupted_last_flight_gets_bad_record_mac() {
    for version in [&TLS13, &TLS12] {
        let (sidegate, server) = agent().await;
        let mut client = tls::begin(&sidegate, version).await;
        client.flush().await;
        let mut flight = client.last_flight().await;
        *flight.last_mut().unwrap() ^= 1;
        client.send_below(&flight).await;
        client.expect_alert("BadRecordMac").await;
        expect_failed(&sidegate, &server).await;
    }
}

/// Asserts that a client that sends what `forge` makes of it and of its Finished gets this alert.
async fn check_last_flight(forge: impl Fn(&mut Forger, &[u8]) -> Vec<u8>, alert: Option<u8>) {
    let (sidegate, server) = agent().await;
    let mut client = tls::begin(&sidegate, &TLS13).await;
    client.flush().await;
    let (mut client, finished) = client.forge_last_flight().await;
    let bytes = forge(&mut client, &finished);
    client.send_below(&bytes).await;
    assert_eq!(client.last_alert().await, alert.map(|number| [2, number]));
    expect_failed(&sidegate, &server).await;
}

#[tokio::test]
async fn a_wrong_finished_gets_decrypt_error() {
    let wrong = |client: &mut Forger, finished: &[u8]| {
        let wrong: Vec<_> =
            finished.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 20)).collect();
        client.record(HANDSHAKE, &wrong)
    };
    check_last_flight(wrong, Some(DECRYPT_ERROR)).await;
}

#[tokio::test]
async fn other_message_in_place_of_finished_gets_unexpected_message() {
    check_last_flight(|client, _| client.record(DATA, b"GET /"), Some(UNEXPECTED_MESSAGE)).await;
    check_last_flight(|client, _| client.record(HANDSHAKE, &UPDATE), Some(UNEXPECTED_MESSAGE))
        .await;
}

#[tokio::test]
async fn finished_with_trailing_data_gets_unexpected_message() {
    let more = |client: &mut Forger, finished: &[u8]| {
        client.record(HANDSHAKE, &[finished, &[KEY_UPDATE]].concat())
    };
    check_last_flight(more, Some(UNEXPECTED_MESSAGE)).await;
}

#[tokio::test]
async fn finished_broken_off_by_data_ends_the_handshake() {
    let broken_off = |client: &mut Forger, finished: &[u8]| {
        [client.record(HANDSHAKE, &finished[..1]), client.record(DATA, b"x")].concat()
    };
    check_last_flight(broken_off, None).await;
}

#[tokio::test]
async fn forged_record_in_place_of_finished_gets_bad_record_mac() {
    check_last_flight(|_, _| plain(DATA, &[7; 40]), Some(BAD_RECORD_MAC)).await;
    check_last_flight(
        |client, finished| {
            [client.record(HANDSHAKE, &finished[..1]), plain(DATA, &[7; 40])].concat()
        },
        Some(BAD_RECORD_MAC),
    )
    .await;
}

#[tokio::test]
async fn endless_change_cipher_specs_end_the_handshake() {
    check_last_flight(|_, _| plain(CHANGE_CIPHER_SPEC, &[1]).repeat(10), None).await;
}

#[tokio::test]
async fn fragmented_finished_request_and_data_may_come_together() {
    for size in [1, 3, 51] {
        let (sidegate, server) = agent().await;
        let mut client = tls::begin(&sidegate, &TLS13).await;
        client.flush().await;
        let (mut client, finished) = client.forge_last_flight().await;
        let mut bytes = client.in_records_of(size, HANDSHAKE, &finished);
        client.finish();
        bytes.extend(client.attempt());
        bytes.extend(client.record(DATA, &Frame::text("early").encode(true)));
        client.send_below(&bytes).await;
        assert_eq!(granted(&server).await.frame().await, Frame::text("early"));
        assert!(client.bytes(12).await.starts_with(b"HTTP/1.1 101"));
        sidegate.expect_metric("sidegate_panics_total", [], 0).await;
    }
}

/// A group that no server knows, so that it asks for a second ClientHello (RFC 8446 §4.1.4).
#[derive(Debug)]
pub struct Unknown;

impl SupportedKxGroup for Unknown {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Unknown))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::Unknown(0xfefe)
    }
}

impl ActiveKeyExchange for Unknown {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
        panic!("nobody takes it")
    }

    fn pub_key(&self) -> &[u8] {
        &[7; 32]
    }

    fn group(&self) -> NamedGroup {
        self.name()
    }
}

/// Offers [`Unknown`] first.
fn asks_twice(config: &mut ClientConfig) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.insert(0, &Unknown);
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .unwrap();
    let roots = crate::harness::certificate::roots();
    let key_log = std::sync::Arc::clone(&config.key_log);
    *config = builder.with_root_certificates(roots).with_no_client_auth();
    config.key_log = key_log;
}

#[tokio::test]
async fn a_client_that_is_asked_for_a_second_hello_gets_its_tunnel() {
    for pieces in [usize::MAX, 1] {
        let (sidegate, server) = agent().await;
        let mut client = tls::begin_as(&sidegate, &TLS13, "localhost", asks_twice).await;
        client.pieces = pieces;
        let backend = opened(&mut client, &server, b"").await;
        assert_eq!(
            client.tls.handshake_kind(),
            Some(rustls::HandshakeKind::FullWithHelloRetryRequest)
        );
        Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
    }
}
