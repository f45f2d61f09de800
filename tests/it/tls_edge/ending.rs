//! How a connection ends in order: close_notify and FIN, from either side, and in the middle of
//! things.

use tokio::io::AsyncWriteExt;

use super::flow::expect_stuck;
use super::*;
use crate::harness::tls::{ALERT, DATA, HANDSHAKE, KEY_UPDATE};

const CLOSE_NOTIFY: [u8; 2] = [1, 0];

#[tokio::test]
async fn after_the_clients_close_notify_the_backend_still_delivers() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, usize::MAX, b"").await;
        edge.client.send(&Frame::text("last").encode(true)).await;
        edge.client.tls.send_close_notify();
        edge.client.flush().await;
        assert_eq!(edge.backend.frame().await, Frame::text("last"));
        edge.backend.expect_end().await;
        edge.backend.send(message(1 << 20).encode(false)).await;
        drop(edge.backend);
        assert!(edge.client.bytes(10 + (1 << 20)).await == message(1 << 20).encode(false));
        edge.client.expect_close_notify().await;
        tunnel::expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
    }
}

#[tokio::test]
async fn we_end_a_connection_with_close_notify() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, usize::MAX, b"").await;
        edge.backend.send_frame(Frame::close(1000, "")).await;
        assert_eq!(edge.client.bytes(4).await, Frame::close(1000, "").encode(false));
        edge.client.send(&Frame::close(1000, "").encode(true)).await;
        edge.client.expect_close_notify().await;
    }
}

#[tokio::test]
async fn a_backend_that_ends_gets_the_client_a_close_notify() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, usize::MAX, b"").await;
        edge.backend.send(message(1 << 20).encode(false)).await;
        drop(edge.backend);
        assert!(edge.client.bytes(10 + (1 << 20)).await == message(1 << 20).encode(false));
        edge.client.expect_close_notify().await;
    }
}

#[tokio::test]
async fn a_fin_without_close_notify_ends_the_clients_direction_too() {
    for version in [&TLS13, &TLS12] {
        let mut edge = edge(version, usize::MAX, b"").await;
        edge.client.send(&Frame::text("last").encode(true)).await;
        edge.client.tcp.shutdown().await.unwrap();
        assert_eq!(edge.backend.frame().await, Frame::text("last"));
        edge.backend.expect_end().await;
        drop(edge.backend);
        edge.client.expect_close_notify().await;
        tunnel::expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_tunnel() {
    let mut edge = edge(&TLS13, usize::MAX, b"").await;
    edge.expect_both_ways(64).await;
    let Edge { sidegate, server, client, backend } = edge;
    drop(client);
    Edge { sidegate, server, client: (), backend }.expect_gone().await;
}

#[tokio::test]
async fn data_behind_close_notify_is_ignored() {
    for version in [&TLS13, &TLS12] {
        let mut edge = forged(version).await;
        edge.client.send(DATA, &Frame::text("last").encode(true)).await;
        let mut bytes = edge.client.record(ALERT, &CLOSE_NOTIFY);
        bytes.extend(edge.client.record(DATA, &Frame::text("too late").encode(true)));
        bytes.extend([7; 40]); // no record at all
        edge.expect_up(&bytes, &Frame::text("last")).await;
        edge.backend.expect_end().await;
        edge.expect_down("answer").await;
        drop(edge.backend);
        tunnel::expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
        expect_unharmed(&edge.sidegate, &edge.server).await;
    }
}

#[tokio::test]
async fn a_fin_in_the_middle_of_a_record_ends_the_tunnel() {
    for cut in [1, 5, 6, 30] {
        let mut edge = forged(&TLS13).await;
        let mut bytes = edge.client.record(DATA, &Frame::text("whole").encode(true));
        bytes.extend(&edge.client.record(DATA, &Frame::text("the half of it").encode(true))[..cut]);
        edge.expect_up(&bytes, &Frame::text("whole")).await;
        edge.client.tcp.shutdown().await.unwrap();
        edge.backend.expect_end().await;
        drop(edge.backend);
        tunnel::expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
        expect_unharmed(&edge.sidegate, &edge.server).await;
    }
}

// C-TLS-13
#[tokio::test]
async fn behind_a_fragment_of_a_handshake_message_both_ends_can_close() {
    let mut edge = forged(&TLS13).await;
    edge.client.send(HANDSHAKE, &[KEY_UPDATE]).await;
    edge.expect_down("down").await;
    edge.backend.send_frame(Frame::close(1000, "")).await;
    edge.backend.finish().await;
    assert_eq!(edge.client.bytes(4).await, Frame::close(1000, "").encode(false));
    edge.client.tcp.shutdown().await.unwrap();
    edge.client.last_alert().await;
    edge.sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    expect_unharmed(&edge.sidegate, &edge.server).await;
}

#[tokio::test]
async fn broken_record_ends_a_tunnel_with_a_blocked_client() {
    let Edge { sidegate, server, mut client, mut backend } = forged(&TLS13).await;
    let down = message(8 << 20).encode(false);
    let hostile = async {
        expect_stuck(&sidegate).await;
        client.send_below(&[&[DATA, 3, 3, 0, 40][..], &[7; 40]].concat()).await;
        sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    };
    tokio::join!(backend.send(&down), hostile);
    tunnel::expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
    expect_unharmed(&sidegate, &server).await;
}
