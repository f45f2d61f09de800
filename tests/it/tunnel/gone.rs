//! Endings without a Close: a side's FIN, close_notify or reset, at a boundary and in the middle of
//! a frame.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use super::{Ends, both, expect_ended, open};
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Frame, Wire};

/// Asserts that the client's connection ends in order and without a Close, and the tunnel as the
/// client ends its own direction.
async fn expect_backend_gone(sidegate: &Sidegate, mut client: Wire) {
    assert!(!client.is_reset().await);
    client.expect_end().await;
    client.finish().await;
    expect_ended(sidegate, ["backend", "open", "backend_gone"]).await;
}

// C-WS-21
#[tokio::test]
async fn bytes_of_a_gone_backend_arrive_without_a_close() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            for text in ["some", "last", "words"] {
                ends.backend.send_frame(Frame::text(text)).await;
            }
            drop(ends.backend);
            for text in ["some", "last", "words"] {
                assert_eq!(ends.client.frame().await, Frame::text(text));
            }
            expect_backend_gone(&ends.sidegate, ends.client).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_backend_that_resets_ends_the_client_without_a_close() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.backend.send_frame(Frame::text("hello")).await;
            assert_eq!(ends.client.frame().await, Frame::text("hello"));
            ends.backend.reset();
            expect_backend_gone(&ends.sidegate, ends.client).await;
        },
    )
    .await;
}

#[tokio::test]
async fn client_close_is_not_answered_for_a_gone_backend() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.client.send_frame(Frame::close(1000, "bye")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, "bye"));
    drop(ends.backend);
    ends.client.expect_end().await;
    ends.client.finish().await;
    expect_ended(&ends.sidegate, ["client", "closing", "client_closed"]).await;
}

/// Asserts that a backend which `leaves` in the middle of a frame costs the client its connection
/// at once, and not a byte more.
async fn check_mid_frame(mut ends: Ends, leaves: impl FnOnce(Wire)) {
    let begun = &Frame::binary(vec![7; 1000]).encode(false)[..600];
    ends.backend.send(begun).await;
    assert_eq!(ends.client.bytes(600).await, begun);
    let began = Instant::now();
    leaves(ends.backend);
    ends.client.expect_end().await;
    assert!(began.elapsed() < Duration::from_secs(2), "not after the grace");
    expect_ended(&ends.sidegate, ["backend", "open", "backend_gone"]).await;
}

// F03
#[tokio::test]
async fn backend_gone_within_a_frame_ends_the_client_at_once() {
    both(|sidegate| sidegate, async |ends| check_mid_frame(ends, drop).await).await;
    both(|sidegate| sidegate, async |ends| check_mid_frame(ends, Wire::reset).await).await;
}

#[tokio::test]
async fn stalled_backend_gone_within_a_frame_ends_the_client() {
    let Ends { sidegate, client, mut backend, server } = open(|sidegate| sidegate).await;
    let (mut hears, mut says) = split(client.into_parts().0);
    let flood = async {
        let frame = Frame::binary(vec![0; 65_536]).encode(true);
        while says.write_all(&frame).await.is_ok() {}
    };
    let leaves = async {
        // Nothing passes any more: bytes for the backend wait in the tunnel.
        let (mut before, mut now) = (-1.0, 0.0);
        while now == 0.0 || now > before {
            tokio::time::sleep(Duration::from_millis(100)).await;
            (before, now) = (
                now,
                sidegate.metric("sidegate_bytes_total", [("direction", "from_client")]).await,
            );
        }
        let began = Instant::now();
        backend.send(&Frame::binary(vec![7; 1000]).encode(false)[..600]).await;
        backend.finish().await;
        let mut heard = Vec::new();
        let _ = crate::harness::within("the client's end", hears.read_to_end(&mut heard)).await;
        assert!(began.elapsed() < Duration::from_secs(2), "not after the grace");
    };
    tokio::join!(flood, leaves);
    expect_ended(&sidegate, ["backend", "open", "backend_gone"]).await;
    drop(server);
}

// F04, C-WS-31
#[tokio::test]
async fn client_bytes_flow_after_a_backend_half_close() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.backend.finish().await;
            ends.client.expect_end().await;
            for text in ["late", "but", "there"] {
                ends.client.send_frame(Frame::text(text)).await;
                assert_eq!(ends.backend.frame().await, Frame::text(text));
            }
            ends.client.send_frame(Frame::close(1000, "")).await;
            assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
            ends.client.finish().await;
            ends.backend.expect_end().await;
            expect_ended(&ends.sidegate, ["backend", "closing", "backend_gone"]).await;
        },
    )
    .await;
}

// F04
#[tokio::test]
async fn client_bytes_after_a_backend_half_close_end_with_the_grace() {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '300ms'")).await;
    ends.backend.finish().await;
    ends.client.expect_end().await;
    let began = Instant::now();
    while ends.backend.try_frame().await.is_some_and(|frame| frame == Frame::text("on and on"))
        || began.elapsed().is_zero()
    {
        ends.client.send_frame(Frame::text("on and on")).await;
    }
    expect_ended(&ends.sidegate, ["backend", "open", "backend_gone"]).await;
}

// C-WS-31
#[tokio::test]
async fn backend_bytes_flow_after_a_client_half_close() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.client.send_frame(Frame::text("that was all")).await;
            ends.client.finish().await;
            assert_eq!(ends.backend.frame().await, Frame::text("that was all"));
            ends.backend.expect_end().await;
            for text in ["late", "but", "there"] {
                ends.backend.send_frame(Frame::text(text)).await;
                assert_eq!(ends.client.frame().await, Frame::text(text));
            }
            drop(ends.backend);
            ends.client.expect_end().await;
            expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn backend_bytes_after_a_client_half_close_end_with_the_grace() {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '300ms'")).await;
    ends.client.finish().await;
    ends.backend.expect_end().await;
    let mut heard = 0;
    loop {
        ends.backend.send_frame(Frame::text("on and on")).await;
        match ends.client.try_frame().await {
            Some(_) => heard += 1,
            None => break,
        }
    }
    assert!(heard > 0);
    expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
}

// C-WS-22
#[tokio::test]
async fn bytes_of_a_gone_client_reach_the_backend() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.client.send_frame(Frame::text("bye!")).await;
            drop(ends.client);
            assert_eq!(ends.backend.frame().await, Frame::text("bye!"));
            ends.backend.expect_end().await;
            drop(ends.backend);
            expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
        },
    )
    .await;
}

// C-TLS-12
#[tokio::test]
async fn client_reset_ends_the_backend_without_a_close() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.client.send_frame(Frame::text("bye!")).await;
            assert_eq!(ends.backend.frame().await, Frame::text("bye!"));
            ends.client.reset();
            ends.backend.expect_end().await;
            expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn frame_of_a_gone_client_is_not_padded() {
    let mut ends = open(|sidegate| sidegate).await;
    let begun = &Frame::binary(vec![7; 1000]).encode(true)[..600];
    ends.client.send(begun).await;
    assert_eq!(ends.backend.bytes(600).await, begun);
    drop(ends.client);
    ends.backend.expect_end().await;
    drop(ends.backend);
    expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn backend_gone_after_an_own_close_leaves_the_client_its_grace() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.sidegate.policy().deny("127.0.0.1").write().await;
    assert_eq!(ends.client.frame().await, Frame::close(1008, "network"));
    assert_eq!(ends.backend.frame().await, Frame::close(1008, "network"));
    ends.backend.send(&Frame::binary(vec![7; 1000]).encode(false)[..600]).await;
    drop(ends.backend);
    tokio::time::sleep(Duration::from_millis(300)).await;
    ends.sidegate.expect_metric("sidegate_tunnels_closed_total", [], 0).await;
    ends.client.send_frame(Frame::close(1008, "")).await;
    ends.client.expect_end().await;
    drop(ends.client);
    expect_ended(&ends.sidegate, ["sidegate", "closing", "revoked"]).await;
}

/// Bytes that a backend sends before it goes: more than any socket holds.
const LAST: usize = 24 << 20;

/// Asserts that a client which takes nothing for longer than the grace, when its backend is gone
/// already, still gets everything and `end`.
async fn check_slow(last: &[u8], end: Option<Frame>) {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '200ms'")).await;
    let frame = Frame::binary(vec![7; LAST]).encode(false);
    let goes = async {
        for piece in [&frame, last].concat().chunks(1 << 20) {
            ends.backend.send(piece).await;
        }
        ends.backend.finish().await;
    };
    let takes = async {
        let mut taken = 0;
        let all = (frame.len() + last.len()) as f64;
        // As little as it takes until all has left the backend.
        while ends.sidegate.metric("sidegate_bytes_total", [("direction", "from_backend")]).await
            < all
        {
            let piece = (256 * 1024).min(frame.len() - taken);
            assert!(
                ends.client.bytes(piece).await.iter().skip(10).all(|byte| *byte == 7 || taken == 0)
            );
            taken += piece;
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        while taken < frame.len() {
            taken += ends.client.bytes((256 * 1024).min(frame.len() - taken)).await.len();
        }
        assert_eq!(ends.client.try_frame().await, end);
    };
    tokio::join!(goes, takes);
}

#[tokio::test]
async fn slow_client_gets_all_bytes_of_a_gone_backend() {
    check_slow(&[], None).await;
    check_slow(&Frame::binary(vec![7; 1000]).encode(false)[..600], None).await;
    check_slow(&Frame::close(1000, "done").encode(false), Some(Frame::close(1000, "done"))).await;
}
