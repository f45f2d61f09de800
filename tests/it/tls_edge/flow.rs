//! TLS input that must pass, however it is cut up: messages, key updates, padding, empty records.

use super::*;
use crate::harness::tls::{ALERT, DATA, HANDSHAKE, KEY_UPDATE, UPDATE, UPDATE_BOTH};

/// A warning alert in TLS 1.3, the only alert that may pass (RFC 8446 §6.1).
const USER_CANCELED: [u8; 2] = [1, 90];

#[tokio::test]
async fn messages_of_all_sizes_pass_over_both_versions() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, usize::MAX, b"").await;
        for size in [0, 64, 16_384, 65_536, 1 << 20] {
            edge.expect_both_ways(size).await;
        }
    }
}

#[tokio::test]
async fn ciphertext_is_decrypted_byte_by_byte() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, 1, b"").await;
        for size in [64, 5000] {
            edge.expect_both_ways(size).await;
        }
    }
}

#[tokio::test]
async fn ciphertext_is_decrypted_at_any_split() {
    for pieces in [7919, 16_405, 16_407, 100_003] {
        let mut edge = edge(&TLS13, pieces, b"").await;
        edge.expect_both_ways(1 << 20).await;
    }
}

// C-WS-07
#[tokio::test]
async fn data_in_the_same_record_as_the_request_comes_first() {
    for (version, size) in [(&TLS13, 5), (&TLS13, 16_000), (&TLS12, 5), (&TLS12, 16_000)] {
        let early = Frame::binary(vec![1; size]);
        let mut edge = edge(version, usize::MAX, &early.encode(true)).await;
        assert!(edge.backend.frame().await == early);
        edge.expect_both_ways(64).await;
    }
}

#[tokio::test]
async fn client_may_update_its_keys_repeatedly() {
    let mut edge = edge(&TLS13, usize::MAX, b"").await;
    for _ in 0..50 {
        edge.client.tls.refresh_traffic_keys().unwrap();
        edge.expect_both_ways(64).await;
    }
    edge.expect_both_ways(1 << 20).await;
}

#[tokio::test]
async fn keys_change_while_data_flows_down() {
    let Edge { sidegate: _agent, server: _server, mut client, mut backend } =
        edge(&TLS13, usize::MAX, b"").await;
    let down = message(4 << 20).encode(false);
    let taken = async {
        for piece in down.chunks(100_000) {
            client.tls.refresh_traffic_keys().unwrap();
            client.send(&Frame::ping("new keys").encode(true)).await;
            assert!(client.bytes(piece.len()).await == piece);
        }
    };
    tokio::join!(backend.send(&down), taken);
}

#[tokio::test]
async fn eight_mebibytes_to_a_client_that_reads_late_arrive_whole() {
    for version in [&TLS13, &TLS12] {
        let Edge { sidegate, server: _server, mut client, mut backend } =
            edge(version, usize::MAX, b"").await;
        let down = message(8 << 20).encode(false);
        let sent = async {
            for piece in down.chunks(1 << 20) {
                backend.send(piece).await;
            }
        };
        let taken = async {
            expect_stuck(&sidegate).await;
            assert!(client.bytes(down.len()).await == down);
        };
        tokio::join!(sent, taken);
    }
}

/// Waits until nothing more fits between the backend and a client that doesn't read.
pub async fn expect_stuck(sidegate: &Sidegate) {
    let (mut before, mut now) = (-1.0, 0.0);
    while now == 0.0 || now > before {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        (before, now) =
            (now, sidegate.metric("sidegate_bytes_total", [("direction", "from_backend")]).await);
    }
}

// C-TLS-13
#[tokio::test]
async fn fragmented_key_update_passes_while_the_backend_sends() {
    for size in 1..=4 {
        let mut edge = forged(&TLS13).await;
        for piece in UPDATE_BOTH.chunks(size) {
            edge.client.send(HANDSHAKE, piece).await;
            edge.expect_down("between the fragments").await;
        }
        edge.client.update();
        let up = edge.client.record(DATA, &Frame::text("new keys").encode(true));
        edge.expect_up(&up, &Frame::text("new keys")).await;
        edge.expect_down("ours are new as well").await;
    }
}

#[tokio::test]
async fn fragmented_key_updates_and_data_may_come_in_one_piece() {
    let mut edge = forged(&TLS13).await;
    let mut bytes = edge.client.record(DATA, &Frame::text("before").encode(true));
    for _ in 0..20 {
        bytes.extend(edge.client.in_records_of(1, HANDSHAKE, &UPDATE_BOTH));
        edge.client.update();
        bytes.extend(edge.client.record(DATA, &Frame::ping("").encode(true)));
    }
    bytes.extend(edge.client.record(DATA, &Frame::text("after").encode(true)));
    edge.expect_up(&bytes, &Frame::text("before")).await;
    for _ in 0..20 {
        assert_eq!(edge.backend.frame().await, Frame::ping(""));
    }
    assert_eq!(edge.backend.frame().await, Frame::text("after"));
    edge.expect_down("ours are new as well").await;
}

#[tokio::test]
async fn thirty_two_key_updates_without_data_between_them_pass() {
    let mut edge = forged(&TLS13).await;
    for update in [UPDATE, UPDATE_BOTH].iter().cycle().take(32) {
        edge.client.send(HANDSHAKE, update).await;
        edge.client.update();
    }
    let up = edge.client.record(DATA, &Frame::text("new keys").encode(true));
    edge.expect_up(&up, &Frame::text("new keys")).await;
    edge.expect_down("ours are new as well").await;
}

#[tokio::test]
async fn unfinished_fragment_does_not_block_the_other_direction() {
    let mut edge = forged(&TLS13).await;
    edge.client.send(HANDSHAKE, &[KEY_UPDATE]).await;
    for _ in 0..3 {
        edge.expect_down("down").await;
    }
    edge.backend.send(message(1 << 20).encode(false)).await;
    assert!(edge.client.bytes(10 + (1 << 20)).await == message(1 << 20).encode(false));
}

#[tokio::test]
async fn a_message_in_records_of_one_byte_is_a_message() {
    for version in [&TLS13, &TLS12] {
        let mut edge = forged(version).await;
        let records = edge.client.in_records_of(1, DATA, &message(600).encode(true));
        edge.expect_up(&records, &message(600)).await;
    }
}

// RFC 8446 §5.4
#[tokio::test]
async fn padding_up_to_the_largest_record_is_taken_off() {
    for padding in [1, 500, 16_384 - 31] {
        let mut edge = forged(&TLS13).await;
        let content =
            [&Frame::binary(vec![9; 24]).encode(true)[..], &[DATA], &vec![0; padding - 1]].concat();
        let record = edge.client.record(0, &content);
        edge.expect_up(&record, &Frame::binary(vec![9; 24])).await;
    }
}

#[tokio::test]
async fn records_of_the_largest_size_pass() {
    for version in [&TLS13, &TLS12] {
        let mut edge = forged(version).await;
        let records = edge.client.in_records_of(16_384, DATA, &message(100_000).encode(true));
        edge.expect_up(&records, &message(100_000)).await;
    }
}

#[tokio::test]
async fn a_few_empty_records_between_others_pass() {
    for version in [&TLS13, &TLS12] {
        let mut edge = forged(version).await;
        let mut records = Vec::new();
        for byte in Frame::text("slow").encode(true) {
            (0..32).for_each(|_| records.extend(edge.client.record(DATA, b"")));
            records.extend(edge.client.record(DATA, &[byte]));
        }
        edge.expect_up(&records, &Frame::text("slow")).await;
    }
}

#[tokio::test]
async fn four_warning_alerts_are_tolerated() {
    for (version, warning) in [(&TLS13, USER_CANCELED), (&TLS12, USER_CANCELED), (&TLS12, [1, 41])]
    {
        let mut edge = forged(version).await;
        for _ in 0..4 {
            edge.client.send(ALERT, &warning).await;
        }
        let up = edge.client.record(DATA, &Frame::text("still here").encode(true));
        edge.expect_up(&up, &Frame::text("still here")).await;
        edge.expect_down("and here").await;
    }
}

// RFC 5246 §7.2.2
#[tokio::test]
async fn a_renegotiation_is_declined_and_the_tunnel_goes_on() {
    let mut edge = forged(&TLS12).await;
    let hello = tls::begin(&edge.sidegate, &TLS12).await.hello();
    edge.client.send(HANDSHAKE, &hello).await;
    assert_eq!(edge.client.next().await, Some((ALERT, vec![1, 100])));
    let up = edge.client.record(DATA, &Frame::text("still here").encode(true));
    edge.expect_up(&up, &Frame::text("still here")).await;
    edge.expect_down("and here").await;
}
