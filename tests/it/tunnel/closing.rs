//! Endings with a Close, by a side or by us, and what must not follow one.

use super::{Ends, both, expect_close, expect_ended, open};
use crate::harness::wire::Frame;
use crate::harness::within;

const REVOKED: (u16, &str) = (1008, "network");

async fn revoke(ends: &Ends) {
    ends.sidegate.policy().deny("127.0.0.1").write().await;
}

// C-WS-21
#[tokio::test]
async fn client_close_is_relayed_and_sidegate_ends_tcp_first() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.client.send_frame(Frame::close(3456, "done here")).await;
            assert_eq!(ends.backend.frame().await, Frame::close(3456, "done here"));
            ends.backend.send_frame(Frame::close(1000, "as you like")).await;
            assert_eq!(ends.client.frame().await, Frame::close(1000, "as you like"));
            ends.expect_over(["client", "closing", "client_closed"]).await;
        },
    )
    .await;
}

// C-WS-21
#[tokio::test]
async fn backend_close_is_relayed_and_answered() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.backend.send_frame(Frame::close(4001, "")).await;
            assert_eq!(ends.client.frame().await, Frame::close(4001, ""));
            ends.client.send_frame(Frame::text("sent before your Close came")).await;
            ends.client.send_frame(Frame::close(4001, "")).await;
            assert_eq!(ends.backend.frame().await, Frame::text("sent before your Close came"));
            assert_eq!(ends.backend.frame().await, Frame::close(4001, ""));
            ends.expect_over(["backend", "closing", "backend_closed"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn close_without_a_code_passes_unchanged() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.client.send_frame(Frame::new(0x88, "")).await;
    assert_eq!(ends.backend.frame().await, Frame::new(0x88, ""));
    ends.backend.send_frame(Frame::new(0x88, "")).await;
    assert_eq!(ends.client.frame().await, Frame::new(0x88, ""));
    ends.expect_over(["client", "closing", "client_closed"]).await;
}

#[tokio::test]
async fn begun_message_is_delivered_after_a_close() {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '400ms'")).await;
    ends.client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
    // Longer in all than the grace, which bounds each silence.
    for text in ["still", "under", "way", "for", "long"] {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        ends.backend.send_frame(Frame::text(text)).await;
        assert_eq!(ends.client.frame().await, Frame::text(text));
    }
    ends.backend.send_frame(Frame::close(1000, "")).await;
    assert_eq!(ends.client.frame().await, Frame::close(1000, ""));
    ends.expect_over(["client", "closing", "client_closed"]).await;
}

#[tokio::test]
async fn bytes_behind_a_close_are_dropped() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.client.send_frame(Frame::close(1000, "")).await;
    ends.client.send_frame(Frame::text("after the end")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
    ends.backend.send_frame(Frame::close(1000, "")).await;
    ends.backend.send_frame(Frame::text("after the end")).await;
    assert_eq!(ends.client.frame().await, Frame::close(1000, ""));
    ends.expect_over(["client", "closing", "client_closed"]).await;
}

#[tokio::test]
async fn close_of_a_client_that_leaves_is_delivered() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            ends.client.send_frame(Frame::text("bye")).await;
            ends.client.send_frame(Frame::close(1000, "")).await;
            drop(ends.client);
            assert_eq!(ends.backend.frame().await, Frame::text("bye"));
            assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
            ends.backend.expect_end().await;
            drop(ends.backend);
            expect_ended(&ends.sidegate, ["client", "closing", "client_closed"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn peer_that_answers_no_close_is_dropped_after_the_grace() {
    both(
        |sidegate| sidegate.timeouts("grace = '200ms'"),
        async |mut ends| {
            ends.client.send_frame(Frame::close(1000, "")).await;
            assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
            ends.backend.expect_end().await;
            ends.client.expect_end().await;
            expect_ended(&ends.sidegate, ["client", "closing", "client_closed"]).await;
        },
    )
    .await;
}

// C-IP-06
#[tokio::test]
async fn a_revoked_tunnel_gets_1008_with_the_word_on_both_sides() {
    both(
        |sidegate| sidegate,
        async |ends| {
            revoke(&ends).await;
            ends.sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
            ends.expect_closed(REVOKED, REVOKED, ["sidegate", "closing", "revoked"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn nothing_is_relayed_after_an_own_close() {
    let mut ends = open(|sidegate| sidegate).await;
    revoke(&ends).await;
    for (wire, other) in [(&mut ends.client, "client"), (&mut ends.backend, "backend")] {
        assert_eq!(wire.frame().await, Frame::close(1008, "network"), "{other}");
        wire.send_frame(Frame::text("too late")).await;
        wire.send_frame(Frame::ping("too late")).await;
        wire.send_frame(Frame::close(1008, "")).await;
    }
    ends.sidegate
        .expect_metric("sidegate_revoked_total", [("route", "chat"), ("refusal", "network")], 0)
        .await;
    ends.expect_over(["sidegate", "closing", "revoked"]).await;
}

#[tokio::test]
async fn revoked_peer_that_answers_nothing_is_dropped_after_grace() {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '200ms'")).await;
    revoke(&ends).await;
    assert_eq!(ends.client.frame().await, Frame::close(1008, "network"));
    ends.client.expect_end().await;
    expect_ended(&ends.sidegate, ["sidegate", "closing", "revoked"]).await;
    ends.sidegate
        .expect_metric("sidegate_revoked_total", [("route", "chat"), ("refusal", "network")], 1)
        .await;
}

#[tokio::test]
async fn own_close_to_the_client_waits_for_the_end_of_a_frame() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            let frame = Frame::binary(vec![7; 200_000]).encode(false);
            ends.backend.send(&frame[..150_000]).await;
            assert!(ends.client.bytes(150_000).await == frame[..150_000]);
            revoke(&ends).await;
            // The other direction is at a boundary: that its Close is there says that the order has
            // come.
            assert_eq!(ends.backend.frame().await, Frame::close(1008, "network"));
            let more = [
                &frame[150_000..],
                &Frame::text("not this one").encode(false),
                &Frame::close(1008, "").encode(false),
            ];
            ends.backend.send(more.concat()).await;
            assert!(ends.client.bytes(frame.len() - 150_000).await == frame[150_000..]);
            expect_close(&mut ends.client, REVOKED).await;
            ends.expect_over(["sidegate", "closing", "revoked"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn own_close_to_the_backend_waits_for_the_end_of_a_frame() {
    let mut ends = open(|sidegate| sidegate).await;
    let frame = Frame::new(0x02, vec![7; 200_000]).encode(true);
    ends.client.send(&frame[..150_000]).await;
    assert!(ends.backend.bytes(150_000).await == frame[..150_000]);
    revoke(&ends).await;
    assert_eq!(ends.client.frame().await, Frame::close(1008, "network"));
    ends.client.send([&frame[150_000..], &Frame::close(1008, "").encode(true)].concat()).await;
    assert!(ends.backend.bytes(frame.len() - 150_000).await == frame[150_000..]);
    // Between the fragments of a message is legal (RFC 6455 §5.4).
    expect_close(&mut ends.backend, REVOKED).await;
    ends.expect_over(["sidegate", "closing", "revoked"]).await;
}

#[tokio::test]
async fn unfinished_frame_is_cut_after_the_grace() {
    both(
        |sidegate| sidegate.timeouts("grace = '300ms'"),
        async |mut ends| {
            let begun = &Frame::binary(vec![7; 1000]).encode(false)[..600];
            ends.backend.send(begun).await;
            assert_eq!(ends.client.bytes(600).await, begun);
            revoke(&ends).await;
            assert_eq!(ends.backend.frame().await, Frame::close(1008, "network"));
            ends.client.expect_end().await;
            expect_ended(&ends.sidegate, ["sidegate", "closing", "revoked"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn no_own_close_follows_a_relayed_one() {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '400ms'")).await;
    ends.client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
    revoke(&ends).await;
    // The client has not got one yet.
    assert_eq!(ends.client.frame().await, Frame::close(1008, "network"));
    ends.client.expect_end().await;
    ends.backend.expect_end().await;
    expect_ended(&ends.sidegate, ["client", "closing", "client_closed"]).await;
}

/// Asserts that a backend which goes on and on after the client's Close is ended all the same, by
/// what `happens`.
async fn check_talkative(limits: &str, happens: impl AsyncFnOnce(&Ends)) {
    let mut ends = open(|sidegate| sidegate.timeouts("grace = '300ms'").limits(limits)).await;
    ends.client.send_frame(Frame::close(1000, "")).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1000, ""));
    happens(&ends).await;
    let talks = async {
        for _ in 0..10_000_000 {
            ends.backend.send_frame(Frame::text("on and on")).await;
            tokio::task::yield_now().await;
        }
    };
    let hears = async { while ends.client.try_frame().await.is_some() {} };
    tokio::select! { () = talks => unreachable!("it talks for hours"), () = within("the end", hears) => {} }
    expect_ended(&ends.sidegate, ["client", "closing", "client_closed"]).await;
}

#[tokio::test]
async fn closed_tunnel_still_ends_by_revocation_and_lifetime() {
    check_talkative("", async |ends| revoke(ends).await).await;
    check_talkative("lifetime = '700ms'", async |_| {}).await;
}

#[tokio::test]
async fn own_closes_to_the_backend_have_random_masks() {
    let mut masks = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut ends = open(|sidegate| sidegate).await;
        revoke(&ends).await;
        let close = ends.backend.bytes(2 + 4 + 9).await;
        assert_eq!(close[..2], [0x88, 0x80 | 9]);
        masks.insert(close[2..6].to_owned());
    }
    assert_eq!(masks.len(), 3);
}
