//! Idle and lifetime, and whether the client is still there.

use super::{both, open};
use crate::harness::wire::Frame;

const PING: u8 = 9;

// C-WS-23
#[tokio::test]
async fn idle_tunnel_is_closed_with_1001() {
    both(
        |sidegate| sidegate.limits("idle = '150ms'"),
        async |ends| {
            ends.expect_closed((1001, "idle"), (1001, "idle"), ["sidegate", "closing", "idle"])
                .await;
        },
    )
    .await;
}

#[tokio::test]
async fn own_pings_and_their_pongs_do_not_reset_idle() {
    let mut ends = open(|sidegate| sidegate.limits("idle = '400ms'\nping = '50ms'")).await;
    let mut pings = 0;
    let close = loop {
        let frame = ends.client.frame().await;
        if frame.opcode() != PING {
            break frame;
        }
        pings += 1;
        ends.client.send_frame(Frame::pong(frame.payload)).await;
    };
    assert_eq!(close, Frame::close(1001, "idle"));
    assert!(pings >= 2, "{pings} pings");
}

#[tokio::test]
async fn frame_either_way_resets_idle() {
    let mut ends = open(|sidegate| sidegate.limits("idle = '600ms'")).await;
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        ends.backend.send_frame(Frame::pong("alive")).await;
        assert_eq!(ends.client.frame().await, Frame::pong("alive"));
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        ends.client.send_frame(Frame::text("alive")).await;
        assert_eq!(ends.backend.frame().await, Frame::text("alive"));
    }
    ends.expect_closed((1001, "idle"), (1001, "idle"), ["sidegate", "closing", "idle"]).await;
}

#[tokio::test]
async fn a_lifetime_ends_a_busy_tunnel_with_1001() {
    both(
        |sidegate| sidegate.limits("lifetime = '300ms'"),
        async |mut ends| {
            let close = loop {
                ends.backend.send_frame(Frame::text("busy")).await;
                match ends.client.frame().await {
                    frame if frame == Frame::text("busy") => {}
                    other => break other,
                }
            };
            assert_eq!(close, Frame::close(1001, "lifetime"));
            ends.client.send_frame(Frame::close(1001, "")).await;
            assert_eq!(ends.backend.frame().await, Frame::close(1001, "lifetime"));
            ends.backend.send_frame(Frame::close(1001, "")).await;
            ends.expect_over(["sidegate", "closing", "lifetime"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn client_without_a_pong_gets_1001_and_is_dropped() {
    both(
        |sidegate| sidegate.limits("ping = '100ms'\npong = '150ms'"),
        async |mut ends| {
            let ping = ends.client.frame().await;
            assert_eq!((ping.opcode(), ping.payload.len()), (PING, 8));
            assert_eq!(ends.client.frame().await, Frame::close(1001, "no_pong"));
            ends.client.expect_end().await;
            assert_eq!(ends.backend.frame().await, Frame::close(1001, "no_pong"));
            ends.backend.expect_end().await;
            super::expect_ended(&ends.sidegate, ["sidegate", "closing", "no_pong"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn slow_reader_before_an_own_ping_is_not_dead() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '100ms'\npong = '5s'")).await;
    let data = Frame::binary(vec![7; 65_536]);
    let sends = async {
        for _ in 0..400 {
            ends.backend.send_frame(data.clone()).await;
        }
    };
    // Silent all the time, for longer than ping and pong; some megabytes are always on their way to
    // it.
    let takes = async {
        for _ in 0..400 {
            while ends.client.frame().await != data {}
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::join!(sends, takes);
    ends.client.send_frame(Frame::text("still here")).await;
    assert_eq!(ends.backend.frame().await, Frame::text("still here"));
}

#[tokio::test]
async fn client_that_sends_data_is_alive_without_pongs() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '50ms'\npong = '300ms'")).await;
    for _ in 0..10 {
        assert_eq!(ends.client.frame().await.opcode(), PING);
        ends.client.send_frame(Frame::text("here")).await;
        assert_eq!(ends.backend.frame().await, Frame::text("here"));
    }
    assert_eq!(ends.client.frame().await.opcode(), PING);
    assert_eq!(ends.client.frame().await, Frame::close(1001, "no_pong"));
}

#[tokio::test]
async fn only_the_pong_to_an_own_ping_is_swallowed() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '50ms'")).await;
    let mut pings = std::collections::HashSet::new();
    for _ in 0..3 {
        let ping = ends.client.frame().await;
        assert_eq!((ping.opcode(), ping.payload.len()), (PING, 8));
        pings.insert(ping.payload.clone());
        ends.client.send_frame(Frame::pong(ping.payload)).await;
        ends.client.send_frame(Frame::pong("12345678")).await;
        assert_eq!(ends.backend.frame().await, Frame::pong("12345678"));
    }
    let other = open(|sidegate| sidegate.limits("ping = '50ms'")).await.client.frame().await;
    assert!(!pings.contains(&other.payload), "the bytes are random");
}

#[tokio::test]
async fn own_ping_is_withheld_while_a_backend_ping_is_unanswered() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '1s'\npong = '1500ms'")).await;
    ends.backend.send_frame(Frame::ping("first")).await;
    ends.backend.send_frame(Frame::ping("second")).await;
    assert_eq!(ends.client.frame().await, Frame::ping("first"));
    assert_eq!(ends.client.frame().await, Frame::ping("second"));
    assert_eq!(
        ends.client.frame().await,
        Frame::close(1001, "no_pong"),
        "and no Ping of ours before"
    );
}

#[tokio::test]
async fn own_pings_resume_after_a_backend_ping_is_answered() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '300ms'")).await;
    ends.backend.send_frame(Frame::ping("the backend's")).await;
    loop {
        let ping = ends.client.frame().await;
        ends.client.send_frame(Frame::pong(ping.payload.clone())).await;
        if ping.payload == b"the backend's" {
            break;
        }
    }
    assert_eq!(ends.backend.frame().await, Frame::pong("the backend's"));
    assert_eq!(ends.client.frame().await.payload.len(), 8);
}

#[tokio::test]
async fn own_ping_waits_for_the_end_of_a_frame() {
    let mut ends = open(|sidegate| sidegate.limits("ping = '100ms'\npong = '8s'")).await;
    let frame = Frame::binary(vec![7; 5000]).encode(false);
    let mut sent = 0;
    // Something moves all the time, and the client says nothing: its Ping is due in the middle of
    // the frame.
    for piece in frame.chunks(500) {
        ends.backend.send(piece).await;
        sent += piece.len();
        assert_eq!(ends.client.bytes(piece.len()).await, frame[sent - piece.len()..sent]);
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
    assert_eq!(ends.client.frame().await.opcode(), PING);
}

#[tokio::test]
async fn ping_off_sends_no_ping_and_tolerates_silence() {
    let mut ends =
        open(|sidegate| sidegate.limits("ping = 'off'\npong = '50ms'\nidle = '500ms'")).await;
    ends.backend.send_frame(Frame::ping("the backend's")).await;
    assert_eq!(ends.client.frame().await, Frame::ping("the backend's"));
    assert_eq!(ends.client.frame().await, Frame::close(1001, "idle"));
}
