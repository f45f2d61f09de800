//! Records that no honest client sends: each ends its own connection, with the alert that is due,
//! and no other.

use super::*;
use crate::harness::tls::{
    ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, KEY_UPDATE, UPDATE, UPDATE_BOTH, plain,
};

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;

/// Types of handshake messages (RFC 8446 §4) whose time is over once a tunnel is open.
const CLIENT_HELLO: u8 = 1;
const FINISHED: u8 = 20;

/// Asserts that a client that seals these records gets this alert and that no other client notices.
async fn check(
    version: &'static SupportedProtocolVersion,
    records: &[(u8, &[u8])],
    alert: Option<u8>,
) {
    let mut edge = proven(version).await;
    let bytes: Vec<_> =
        records.iter().flat_map(|(kind, content)| edge.client.record(*kind, content)).collect();
    edge.client.send_below(&bytes).await;
    edge.expect_over(alert).await;
}

/// The same for unsealed bytes.
async fn check_below(version: &'static SupportedProtocolVersion, bytes: &[u8], alert: Option<u8>) {
    let mut edge = proven(version).await;
    edge.client.send_below(bytes).await;
    edge.expect_over(alert).await;
}

/// A tunnel that a forged record has passed.
async fn proven(version: &'static SupportedProtocolVersion) -> Edge<Forger> {
    let mut edge = forged(version).await;
    let fine = edge.client.record(DATA, &Frame::text("fine").encode(true));
    edge.expect_up(&fine, &Frame::text("fine")).await;
    edge
}

#[tokio::test]
async fn forged_record_gets_bad_record_mac() {
    for version in [&TLS13, &TLS12] {
        check_below(version, &plain(DATA, &[7; 40]), Some(BAD_RECORD_MAC)).await;
        check_below(version, &plain(DATA, &[7; 3]), Some(BAD_RECORD_MAC)).await;
        check_below(version, &plain(HANDSHAKE, &UPDATE), Some(BAD_RECORD_MAC)).await;
        check_below(version, &plain(ALERT, &[2, 40]), Some(BAD_RECORD_MAC)).await;
    }
}

#[tokio::test]
async fn rustls_client_sees_the_alert_of_a_broken_record() {
    let mut edge = edge(&TLS13, usize::MAX, b"").await;
    edge.expect_both_ways(64).await;
    edge.client.send_below(&plain(DATA, &[7; 40])).await;
    edge.client.expect_alert("BadRecordMac").await;
    edge.expect_gone().await;
}

#[tokio::test]
async fn invalid_record_gets_decode_error() {
    for version in [&TLS13, &TLS12] {
        check_below(version, b"GET / HTTP/1.1\r\n\r\n", Some(DECODE_ERROR)).await;
        check_below(version, &plain(99, b"what is this"), Some(DECODE_ERROR)).await;
        check_below(version, &[DATA, 9, 9, 0, 4, 1, 2, 3, 4], Some(DECODE_ERROR)).await;
        check_below(version, &plain(HANDSHAKE, b""), Some(DECODE_ERROR)).await;
        // Longer than any record may be (RFC 8446 §5.2).
        check_below(version, &[DATA, 3, 3, 72, 1], Some(DECODE_ERROR)).await;
    }
}

#[tokio::test]
async fn a_record_with_a_byte_too_much_gets_record_overflow() {
    for version in [&TLS13, &TLS12] {
        check(version, &[(DATA, &[0; 16_385])], Some(RECORD_OVERFLOW)).await;
    }
}

#[tokio::test]
async fn a_record_of_nothing_but_padding_ends_the_connection() {
    check(&TLS13, &[(0, &[0; 30])], None).await;
    check(&TLS13, &[(0, b"")], None).await;
}

#[tokio::test]
async fn a_change_cipher_spec_in_the_tunnel_gets_unexpected_message() {
    check(&TLS13, &[(CHANGE_CIPHER_SPEC, &[1])], Some(UNEXPECTED_MESSAGE)).await;
    check_below(&TLS13, &plain(CHANGE_CIPHER_SPEC, &[1]), Some(UNEXPECTED_MESSAGE)).await;
    check_below(&TLS12, &plain(CHANGE_CIPHER_SPEC, &[1]), Some(UNEXPECTED_MESSAGE)).await;
    check_below(&TLS13, &plain(CHANGE_CIPHER_SPEC, &[1, 1]), Some(DECODE_ERROR)).await;
}

#[tokio::test]
async fn late_handshake_messages_get_an_alert() {
    check(&TLS13, &[(HANDSHAKE, &[99, 0, 0, 1, 0])], Some(UNEXPECTED_MESSAGE)).await;
    check(&TLS13, &[(HANDSHAKE, &[FINISHED, 0, 0, 0])], Some(UNEXPECTED_MESSAGE)).await;
    check(&TLS13, &[(HANDSHAKE, &[CLIENT_HELLO, 0, 0, 0])], Some(DECODE_ERROR)).await;
    check(&TLS12, &[(HANDSHAKE, &[FINISHED, 0, 0, 0])], Some(UNEXPECTED_MESSAGE)).await;
    check(&TLS12, &[(HANDSHAKE, &[0, 0, 0, 0])], Some(UNEXPECTED_MESSAGE)).await;
    check(&TLS12, &[(HANDSHAKE, &UPDATE_BOTH)], Some(UNEXPECTED_MESSAGE)).await;
}

#[tokio::test]
async fn invalid_key_update_gets_an_alert() {
    check(&TLS13, &[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2])], Some(ILLEGAL_PARAMETER)).await;
    check(&TLS13, &[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 0])], Some(DECODE_ERROR)).await;
    check(&TLS13, &[(HANDSHAKE, &[KEY_UPDATE, 0, 0, 2, 1, 1])], Some(DECODE_ERROR)).await;
}

#[tokio::test]
async fn key_update_with_trailing_data_gets_unexpected_message() {
    check(
        &TLS13,
        &[(HANDSHAKE, &[&UPDATE_BOTH[..], &[KEY_UPDATE]].concat())],
        Some(UNEXPECTED_MESSAGE),
    )
    .await;
    check(&TLS13, &[(HANDSHAKE, &[UPDATE, UPDATE].concat())], Some(UNEXPECTED_MESSAGE)).await;
}

#[tokio::test]
async fn records_under_old_keys_get_bad_record_mac() {
    check(&TLS13, &[(HANDSHAKE, &UPDATE), (DATA, b"under the old keys")], Some(BAD_RECORD_MAC))
        .await;
    check(&TLS13, &[(HANDSHAKE, &UPDATE_BOTH[..]); 10], Some(BAD_RECORD_MAC)).await;
}

#[tokio::test]
async fn thirty_third_key_update_without_data_ends_the_connection() {
    let mut edge = forged(&TLS13).await;
    for _ in 0..1000 {
        edge.client.send(HANDSHAKE, &UPDATE_BOTH).await;
        edge.client.update();
    }
    edge.expect_over(None).await;
}

#[tokio::test]
async fn endless_empty_records_end_the_connection() {
    for version in [&TLS13, &TLS12] {
        check(version, &[(DATA, &b""[..]); 33], None).await;
        check(version, &[(DATA, &b""[..]); 1000], None).await;
    }
}

#[tokio::test]
async fn endless_alerts_end_the_connection() {
    check(&TLS13, &[(ALERT, &[1, 90][..]); 5], None).await;
    check(&TLS12, &[(ALERT, &[1, 41][..]); 5], None).await;
}

#[tokio::test]
async fn invalid_alert_gets_an_alert() {
    check(&TLS13, &[(ALERT, &[1, 41])], Some(DECODE_ERROR)).await; // a warning, which TLS 1.3 has no more
    for version in [&TLS13, &TLS12] {
        check(version, &[(ALERT, &[9, 41])], Some(ILLEGAL_PARAMETER)).await;
        check(version, &[(ALERT, &[1])], Some(DECODE_ERROR)).await;
        check(version, &[(ALERT, &[2, 40, 0])], Some(DECODE_ERROR)).await;
    }
}

#[tokio::test]
async fn a_fatal_alert_is_the_end_and_not_answered() {
    for version in [&TLS13, &TLS12] {
        check(version, &[(ALERT, &[2, 40])], None).await;
        check(version, &[(ALERT, &[2, 40]), (DATA, b"and more"), (HANDSHAKE, &[KEY_UPDATE])], None)
            .await;
    }
}

// RFC 5246 §7.2.2
#[tokio::test]
async fn a_second_renegotiation_ends_the_connection() {
    let mut edge = forged(&TLS12).await;
    let hello = tls::begin(&edge.sidegate, &TLS12).await.hello();
    edge.client.send(HANDSHAKE, &hello).await;
    edge.client.send(HANDSHAKE, &hello).await;
    assert_eq!(edge.client.next().await, Some((ALERT, vec![1, 100])));
    edge.expect_over(None).await;
}

// C-TLS-13
#[tokio::test]
async fn fragment_with_other_records_behind_ends_the_connection() {
    for (kind, content) in [(DATA, &b"x"[..]), (ALERT, &[1, 0]), (DATA, &[7; 16_384]), (99, b"x")] {
        check(&TLS13, &[(HANDSHAKE, &[KEY_UPDATE]), (kind, content)], None).await;
        check(&TLS13, &[(HANDSHAKE, &[KEY_UPDATE]), (HANDSHAKE, &[0, 0]), (kind, content)], None)
            .await;
    }
}

// C-TLS-13
#[tokio::test]
async fn later_record_behind_a_fragment_ends_the_connection() {
    for version in [&TLS13, &TLS12] {
        for then in [
            plain(DATA, &[7; 40]),
            plain(DATA, &[7; 3]),
            plain(99, b""),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let mut edge = forged(version).await;
            edge.client.send(HANDSHAKE, &[KEY_UPDATE]).await;
            edge.expect_down("in between").await;
            edge.client.send_below(&then).await;
            assert!(edge.client.last_alert().await.is_some(), "an alert");
            edge.expect_gone().await;
        }
    }
}

// C-TLS-13
#[tokio::test]
async fn data_behind_a_fragment_ends_the_connection() {
    let mut edge = forged(&TLS13).await;
    edge.client.send(HANDSHAKE, &[KEY_UPDATE]).await;
    edge.expect_down("in between").await;
    edge.client.send(DATA, &Frame::text("x").encode(true)).await;
    edge.expect_over(None).await;
}

#[tokio::test]
async fn data_behind_empty_handshake_fragments_ends_the_connection() {
    check(
        &TLS13,
        &[(HANDSHAKE, b""), (HANDSHAKE, &[KEY_UPDATE]), (HANDSHAKE, b""), (DATA, b"x")],
        None,
    )
    .await;
}

#[tokio::test]
async fn oversize_handshake_message_ends_the_connection() {
    for version in [&TLS13, &TLS12] {
        check(version, &[(HANDSHAKE, &[KEY_UPDATE, 1, 0, 0])], None).await;
        check(version, &[(HANDSHAKE, &[KEY_UPDATE]), (HANDSHAKE, &[255, 255, 255])], None).await;
    }
}

#[tokio::test]
async fn a_handshake_message_of_the_largest_size_ends_the_connection() {
    let mut message = vec![0; 4 + 0xffff];
    message[..4].copy_from_slice(&[KEY_UPDATE, 0, 0xff, 0xff]);
    for size in [16_384, 1000, 1] {
        let mut edge = forged(&TLS13).await;
        let records = edge.client.in_records_of(size, HANDSHAKE, &message);
        edge.client.send_below(&records).await;
        edge.client.last_alert().await;
        edge.expect_gone().await;
    }
}
