//! Frames that a side may not send: violations of the framing, messages too big or too many.

use super::{Ends, both, ends, open};
use crate::harness::sidegate::Builder;
use crate::harness::wire::Frame;
use crate::harness::{backend, client, sidegate};

/// Who sends a frame.
#[derive(Clone, Copy, PartialEq)]
pub enum Sender {
    Client,
    Backend,
}
use Sender::{Backend, Client};

/// Asserts that of `bytes` nothing passes, that their sender gets a Close with `code` and the other
/// one with 1001, behind `before`.
pub async fn check(
    mut ends: Ends,
    sender: Sender,
    before: &[Frame],
    bytes: &[u8],
    code: u16,
    reason: &str,
) {
    let (from, to) = match sender {
        Client => (&mut ends.client, &mut ends.backend),
        Backend => (&mut ends.backend, &mut ends.client),
    };
    for frame in before {
        from.send_frame(frame.clone()).await;
    }
    from.send(bytes).await;
    for frame in before {
        assert_eq!(to.frame().await, *frame);
    }
    assert_eq!(to.frame().await, Frame::close(1001, ""), "to the other");
    to.send_frame(Frame::close(1001, "")).await;
    let (got, _) = from.frame().await.closes().unwrap();
    assert_eq!(got, code, "to the sender");
    from.send_frame(Frame::close(code, "")).await;
    let by = match (sender, reason) {
        (_, "message_rate" | "frame_rate") => "sidegate",
        (Client, _) => "client",
        (Backend, _) => "backend",
    };
    ends.expect_over([by, "closing", reason]).await;
}

async fn check_framing(sender: Sender, bytes: &[u8]) {
    let before = [Frame::text("before"), Frame::ping("before")];
    check(
        open(|sidegate| sidegate.limits("ping = 'off'")).await,
        sender,
        &before,
        bytes,
        1002,
        "framing",
    )
    .await;
}

// C-WS-20
#[tokio::test]
async fn an_unmasked_client_frame_is_a_violation() {
    check_framing(Client, &Frame::text("bare").encode(false)).await;
    check_framing(Client, &Frame::close(1000, "bare").encode(false)).await;
}

#[tokio::test]
async fn a_masked_backend_frame_is_a_violation() {
    check_framing(Backend, &Frame::text("masked").encode(true)).await;
    check_framing(Backend, &Frame::pong("masked").encode(true)).await;
}

#[tokio::test]
async fn an_oversize_or_fragmented_control_frame_is_a_violation() {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        check_framing(sender, &Frame::ping(vec![0; 126]).encode(masked)).await;
        check_framing(sender, &Frame::new(0x09, "more follows").encode(masked)).await;
        check_framing(sender, &Frame::new(0x08, 1000_u16.to_be_bytes()).encode(masked)).await;
    }
}

#[tokio::test]
async fn reserved_bits_and_opcodes_are_violations_by_default() {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        for first in [0xC1, 0xA2, 0x91, 0x83, 0x87, 0x8B, 0x8F, 0xC9] {
            check_framing(sender, &Frame::new(first, "odd").encode(masked)).await;
        }
    }
}

/// A tunnel whose 101 agreed on this extension.
async fn extended(build: impl FnOnce(Builder) -> Builder, extension: &str) -> Ends {
    let server = backend::manual().run().await;
    let sidegate = build(sidegate::new().route("/chat", &server)).run().await;
    let offers = client::new(&sidegate).header("Sec-WebSocket-Extensions", extension);
    let (client, backend) =
        ends(&offers, &server, &format!("Sec-WebSocket-Extensions: {extension}\r\n")).await;
    Ends { sidegate, client, backend, server }
}

/// Asserts that each frame passes both ways where this extension was agreed.
async fn check_extended(extension: &str, frames: &[u8]) {
    let mut ends = extended(|sidegate| sidegate, extension).await;
    for first in frames {
        ends.client.send_frame(Frame::new(*first, "odd")).await;
        assert_eq!(ends.backend.frame().await, Frame::new(*first, "odd"));
        ends.backend.send_frame(Frame::new(*first, "odd")).await;
        assert_eq!(ends.client.frame().await, Frame::new(*first, "odd"));
    }
}

// C-WS-17
#[tokio::test]
async fn reserved_bits_and_opcodes_pass_where_an_extension_was_agreed() {
    check_extended("permessage-deflate", &[0xC1, 0x42, 0x00, 0x80, 0xC2]).await;
    check_extended("x-own", &[0xC1, 0xA2, 0x93, 0x8B, 0xCA]).await;
    check_extended("x-own", &[0x41, 0xC2, 0xC0, 0x80]).await;
    check_extended("permessage-deflate, x-own", &[0xF1, 0x84, 0xFF]).await;
}

/// Asserts that `bad` is a violation behind `before`, each with a payload of a byte, by either
/// side, over TLS and in the clear.
async fn check_order(before: &[u8], bad: u8, extension: Option<&str>) {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        for tls in [true, false] {
            let build = |sidegate: Builder| if tls { sidegate.tls() } else { sidegate.clear() };
            let ends = match extension {
                Some(extension) => extended(build, extension).await,
                None => open(build).await,
            };
            let before: Vec<_> = before.iter().map(|first| Frame::new(*first, "x")).collect();
            check(ends, sender, &before, &Frame::new(bad, "x").encode(masked), 1002, "framing")
                .await;
        }
    }
}

#[tokio::test]
async fn a_message_within_another_is_a_violation() {
    check_order(&[0x01], 0x01, None).await;
    check_order(&[0x02, 0x00, 0x89, 0x00], 0x82, None).await;
    check_order(&[0x81, 0x01], 0x81, None).await;
    check_order(&[0x41], 0xC1, Some("permessage-deflate")).await;
}

#[tokio::test]
async fn continuation_without_a_message_is_a_violation() {
    check_order(&[], 0x80, None).await;
    check_order(&[0x82], 0x00, None).await;
    check_order(&[0x01, 0x00, 0x80], 0x80, None).await;
    check_order(&[0xC1], 0x80, Some("permessage-deflate")).await;
}

#[tokio::test]
async fn permessage_deflate_permits_no_other_reserved_bit() {
    check_order(&[0x41], 0xC0, Some("permessage-deflate")).await;
    check_order(&[0xC1], 0xC9, Some("permessage-deflate; client_no_context_takeover")).await;
    check_order(&[], 0xA1, Some("permessage-deflate")).await;
    check_order(&[], 0x83, Some("permessage-deflate")).await;
}

#[tokio::test]
async fn unfinished_messages_cannot_exceed_the_size_of_one() {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        let ends = open(|sidegate| sidegate.limits("message = { max = '1KiB' }")).await;
        let frame = Frame::new(0x01, vec![1; 600]);
        check(ends, sender, std::slice::from_ref(&frame), &frame.encode(masked), 1002, "framing")
            .await;
        let ends =
            extended(|sidegate| sidegate.limits("message = { max = '1KiB' }"), "x-own").await;
        check(ends, sender, std::slice::from_ref(&frame), &frame.encode(masked), 1009, "too_big")
            .await;
    }
}

#[tokio::test]
async fn a_close_within_a_message_passes_and_nothing_follows_it() {
    both(
        |sidegate| sidegate,
        async |mut ends| {
            let (begun, close) = (Frame::new(0x01, "begun"), Frame::close(1000, "enough"));
            let rest = [
                Frame::new(0x80, "end"),
                Frame::new(0x01, "within"),
                Frame::text("x"),
                Frame::ping(""),
            ];
            let more: Vec<u8> = rest.iter().flat_map(|frame| frame.encode(true)).collect();
            ends.client.send([begun.encode(true), close.encode(true), more].concat()).await;
            assert_eq!(ends.backend.frame().await, begun);
            assert_eq!(ends.backend.frame().await, close);
            ends.backend.send_frame(close.clone()).await;
            assert_eq!(ends.client.frame().await, close);
            ends.expect_over(["client", "closing", "client_closed"]).await;
        },
    )
    .await;
}

async fn check_size(sender: Sender, before: &[Frame], bytes: &[u8]) {
    let ends = open(|sidegate| sidegate.limits("message = { max = '1KiB' }")).await;
    check(ends, sender, before, bytes, 1009, "too_big").await;
}

#[tokio::test]
async fn oversize_frame_is_refused_by_its_header() {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        let fits = Frame::binary(vec![1; 1024]);
        check_size(sender, &[fits.clone(), fits], &Frame::binary(vec![2; 1025]).encode(masked))
            .await;
        check_size(sender, &[], &Frame::binary(vec![2; 1 << 20]).encode(masked)[..14]).await;
    }
}

#[tokio::test]
async fn oversize_fragmented_message_ends_before_its_last_fragment() {
    for (sender, masked) in [(Client, true), (Backend, false)] {
        let before = [
            Frame::new(0x02, vec![1; 600]),
            Frame::ping("between"),
            Frame::new(0x00, vec![2; 424]),
        ];
        check_size(sender, &before, &Frame::new(0x80, "x").encode(masked)).await;
    }
}

#[tokio::test]
async fn excess_messages_do_not_pass() {
    both(
        |sidegate| sidegate.limits("message = { rate = '3/m' }"),
        async |ends| {
            // Fragments and control frames are no messages of their own.
            let before = [
                Frame::text("one"),
                Frame::new(0x01, "tw"),
                Frame::ping("?"),
                Frame::new(0x80, "o"),
                Frame::text("three"),
                Frame::pong("!"),
            ];
            let more =
                [Frame::text("four"), Frame::text("five")].map(|frame| frame.encode(true)).concat();
            check(ends, Client, &before, &more, 1008, "message_rate").await;
        },
    )
    .await;
}

#[tokio::test]
async fn message_rate_binds_the_client_only() {
    let mut ends = open(|sidegate| sidegate.limits("message = { rate = '1/m' }")).await;
    for _ in 0..10 {
        ends.backend.send_frame(Frame::text("news")).await;
        assert_eq!(ends.client.frame().await, Frame::text("news"));
    }
}

#[tokio::test]
async fn violation_close_waits_for_a_frame_to_the_violator() {
    let mut ends = open(|sidegate| sidegate).await;
    let frame = Frame::binary(vec![3; 1000]).encode(false);
    ends.backend.send(&frame[..600]).await;
    assert_eq!(ends.client.bytes(600).await, frame[..600]);
    ends.client.send(Frame::text("bare").encode(false)).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1001, ""));
    ends.backend.send(&frame[600..]).await;
    assert_eq!(ends.client.bytes(frame.len() - 600).await, frame[600..]);
    assert_eq!(ends.client.frame().await.closes().unwrap().0, 1002);
}

#[tokio::test]
async fn frames_before_a_violation_in_one_read_pass() {
    let ends = open(|sidegate| sidegate).await;
    let bytes =
        [Frame::text("bare").encode(false), Frame::text("never seen").encode(true)].concat();
    check(ends, Client, &[Frame::text("good")], &bytes, 1002, "framing").await;
}
