//! `[limits] frames`: the client's frames that messages do not bound, and no others, are limited.

use super::framing::{Sender, check};
use super::{Ends, both, open};
use crate::harness::wire::Frame;

/// Three frames of those counted, and then one in a minute.
const THREE: &str = "frames = { rate = '1/m', burst = 3 }";

/// Asserts that three frames like this one pass, and the fourth ends the tunnel.
async fn check_fourth(frame: Frame) {
    check_fourth_behind(&[], frame).await;
}

/// The same behind these frames, which are not counted.
async fn check_fourth_behind(begun: &[Frame], frame: Frame) {
    both(
        |sidegate| sidegate.limits(THREE),
        async |ends| {
            let before = [begun, &vec![frame.clone(); 3]].concat();
            check(ends, Sender::Client, &before, &frame.encode(true), 1008, "frame_rate").await;
        },
    )
    .await;
}

#[tokio::test]
async fn too_many_pings_end_the_tunnel() {
    check_fourth(Frame::ping("")).await;
    check_fourth(Frame::ping("with a payload")).await;
}

#[tokio::test]
async fn too_many_pongs_end_the_tunnel() {
    check_fourth(Frame::pong("unasked")).await;
}

#[tokio::test]
async fn too_many_empty_data_frames_end_the_tunnel() {
    check_fourth(Frame::text("")).await;
    check_fourth_behind(&[Frame::new(0x01, "begun")], Frame::new(0x00, "")).await;
}

#[tokio::test]
async fn too_many_small_fragments_end_the_tunnel() {
    for size in [1, 20, 63] {
        check_fourth_behind(&[Frame::new(0x02, "begun")], Frame::new(0x00, vec![1; size])).await;
    }
    let message =
        [Frame::new(0x01, "1"), Frame::new(0x80, "2"), Frame::text("3"), Frame::new(0x02, "4")];
    check_fourth_behind(&message, Frame::new(0x00, "x")).await;
}

#[tokio::test]
async fn pings_and_small_fragments_count_together() {
    let mut ends = open(|sidegate| sidegate.limits(THREE)).await;
    let before = [Frame::new(0x01, "a"), Frame::ping(""), Frame::new(0x00, "b"), Frame::pong("c")];
    check(ends, Sender::Client, &before, &Frame::new(0x00, "d").encode(true), 1008, "frame_rate")
        .await;
    ends = open(|sidegate| sidegate.limits(THREE)).await;
    let before =
        [Frame::new(0x01, "a"), Frame::new(0x00, "b"), Frame::new(0x00, ""), Frame::new(0x00, "c")];
    check(ends, Sender::Client, &before, &Frame::ping("d").encode(true), 1008, "frame_rate").await;
}

#[tokio::test]
async fn other_frames_with_payload_do_not_count_towards_frames() {
    let mut ends = open(|sidegate| sidegate.limits(THREE)).await;
    let large = Frame::new(0x00, vec![3; 64]);
    let message =
        [&[Frame::new(0x01, "2")][..], &vec![large; 10], &[Frame::new(0x80, "4")]].concat();
    for frame in [&[Frame::text("1")][..], &message, &message, &[Frame::binary("5")]].concat() {
        ends.client.send_frame(frame.clone()).await;
        assert_eq!(ends.backend.frame().await, frame);
    }
    for _ in 0..3 {
        ends.client.send_frame(Frame::ping("")).await;
        assert_eq!(ends.backend.frame().await, Frame::ping(""));
    }
    // A Close ends the tunnel by itself.
    ends.client.send_frame(Frame::close(1000, "")).await;
    ends.backend.send_frame(Frame::close(1000, "")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
    assert_eq!(ends.client.frame().await, Frame::close(1000, ""));
    ends.expect_over(["client", "closing", "client_closed"]).await;
}

#[tokio::test]
async fn frames_of_a_backend_are_not_limited() {
    let mut ends = open(|sidegate| sidegate.limits(THREE)).await;
    let fragments =
        [Frame::new(0x01, "b"), Frame::new(0x00, "m"), Frame::new(0x00, "m"), Frame::new(0x80, "")];
    for frame in [&[Frame::ping("?"), Frame::pong("!"), Frame::text("")][..], &fragments]
        .concat()
        .iter()
        .cycle()
        .take(70)
    {
        ends.backend.send_frame(frame.clone()).await;
        assert_eq!(ends.client.frame().await, *frame);
    }
}

/// Sends so many frames like this one at once; the frames that reach the backend before its Close.
async fn at_once(ends: &mut Ends, frame: Frame, count: usize) -> usize {
    let flood = frame.encode(true).repeat(count);
    let (client, backend) = (&mut ends.client, &mut ends.backend);
    let passed = async {
        let mut passed = 0;
        while passed < count && backend.frame().await == frame {
            passed += 1;
        }
        passed
    };
    tokio::join!(client.send(flood), passed).1
}

#[tokio::test]
async fn frames_are_limited_by_default() {
    let mut ends = open(|sidegate| sidegate).await;
    let passed = at_once(&mut ends, Frame::pong(""), 60_000).await;
    assert!((10_000..50_000).contains(&passed), "{passed} passed");
    assert_eq!(ends.client.frame().await, Frame::close(1008, "frame_rate"));
}

#[tokio::test]
async fn small_fragments_are_limited_without_a_message_rate() {
    both(
        |sidegate| {
            sidegate.limits(
                "message = { max = '1MiB', rate = '5/s' }\nframes = { rate = '10/s', burst = 10 }",
            )
        },
        async |mut ends| {
            let begun = Frame::new(0x01, "x");
            ends.client.send_frame(begun.clone()).await;
            assert_eq!(ends.backend.frame().await, begun);
            let passed = at_once(&mut ends, Frame::new(0x00, "y"), 50_000).await;
            assert!((10..1_000).contains(&passed), "{passed} passed");
            assert_eq!(ends.client.frame().await, Frame::close(1008, "frame_rate"));
        },
    )
    .await;
}

#[tokio::test]
async fn small_fragments_are_limited_by_default() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.client.send_frame(Frame::new(0x02, "begun")).await;
    assert_eq!(ends.backend.frame().await, Frame::new(0x02, "begun"));
    let passed = at_once(&mut ends, Frame::new(0x00, "x"), 60_000).await;
    assert!((10_000..50_000).contains(&passed), "{passed} passed");
    assert_eq!(ends.client.frame().await, Frame::close(1008, "frame_rate"));
}

#[tokio::test]
async fn frames_are_not_limited_when_off() {
    let mut ends = open(|sidegate| sidegate.limits("frames = 'off'")).await;
    assert_eq!(at_once(&mut ends, Frame::ping(""), 60_000).await, 60_000);
    ends.client.expect_echo_by(&mut ends.backend, "and then").await;
}

#[tokio::test]
async fn small_messages_and_fragments_pass_the_default() {
    let mut ends = open(|sidegate| sidegate).await;
    assert_eq!(at_once(&mut ends, Frame::binary("x"), 20_000).await, 20_000);
    ends.client.send_frame(Frame::new(0x02, "begun")).await;
    assert_eq!(ends.backend.frame().await, Frame::new(0x02, "begun"));
    assert_eq!(at_once(&mut ends, Frame::new(0x00, [7; 64]), 65_536).await, 65_536);
    ends.client.send_frame(Frame::new(0x80, "ended")).await;
    assert_eq!(ends.backend.frame().await, Frame::new(0x80, "ended"));
}

#[tokio::test]
async fn frames_of_an_open_tunnel_are_limited_after_a_reload() {
    let mut ends = open(|sidegate| sidegate.limits("ping = 'off'")).await;
    assert_eq!(at_once(&mut ends, Frame::ping(""), 100).await, 100);
    ends.sidegate.policy().limits(THREE).write().await;
    let before = vec![Frame::ping(""); 3];
    check(ends, Sender::Client, &before, &Frame::ping("").encode(true), 1008, "frame_rate").await;
}

#[tokio::test]
async fn frames_limit_can_differ_by_network() {
    let office = "frames = 'off'\n[[limits.for]]\nclient = ['127.0.0.1']\nframes = { rate = '1/m', burst = 3 }";
    let ends = open(|sidegate| sidegate.limits(office)).await;
    let before = vec![Frame::ping(""); 3];
    check(ends, Sender::Client, &before, &Frame::ping("").encode(true), 1008, "frame_rate").await;
}
