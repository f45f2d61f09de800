//! A turn is bounded: beside one tunnel that floods, the others of its thread are served.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::task::JoinHandle;

use super::{Ends, both, ends};
use crate::harness::client;
use crate::harness::wire::{Frame, Wire};

/// An echo beside a flood takes a few turns, each of them far shorter than this even where the
/// build is slow.
const SOON: Duration = Duration::from_secs(1);

/// Writes `frames` again and again, and takes what comes back, until it is aborted.
fn flood(wire: Wire, frames: Vec<u8>) -> JoinHandle<()> {
    let (mut input, mut output) = split(wire.into_parts().0);
    #[expect(clippy::disallowed_methods, reason = "the test ends it")]
    tokio::spawn(async move {
        let taking =
            async { while input.read(&mut [0; 65_536]).await.is_ok_and(|read| read > 0) {} };
        let giving =
            async { while !frames.is_empty() && output.write_all(&frames).await.is_ok() {} };
        tokio::join!(taking, giving);
    })
}

/// Takes whatever comes.
fn drain(wire: Wire) -> JoinHandle<()> {
    flood(wire, Vec::new())
}

/// Asserts that beside a tunnel that is flooded with such frames, by its client or its backend,
/// another one is served.
async fn check(by_client: bool, begin: Option<Frame>, frame: Frame, count: usize) {
    both(
        |sidegate| sidegate.limits("frames = 'off'"),
        async |Ends { sidegate, mut client, mut backend, server }| {
            let (mut beside, mut at_backend) = ends(&client::new(&sidegate), &server, "").await;
            let from = if by_client { &mut client } else { &mut backend };
            from.send(begin.as_ref().map(|frame| frame.encode(by_client)).unwrap_or_default())
                .await;
            let frames = frame.encode(by_client).repeat(count);
            let tasks = if by_client {
                [flood(client, frames), drain(backend)]
            } else {
                [drain(client), flood(backend, frames)]
            };
            let direction = if by_client { "from_client" } else { "from_backend" };
            while sidegate.metric("sidegate_bytes_total", [("direction", direction)]).await < 1e6 {}
            for _ in 0..20 {
                let began = Instant::now();
                beside.expect_echo_by(&mut at_backend, "beside").await;
                assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            }
            tasks.iter().for_each(JoinHandle::abort);
        },
    )
    .await;
}

#[tokio::test]
async fn neighbour_is_served_beside_a_flood_of_pings() {
    check(true, None, Frame::ping(""), 10_000).await;
    check(false, None, Frame::ping(""), 10_000).await;
}

#[tokio::test]
async fn neighbour_is_served_beside_a_flood_of_empty_messages() {
    check(true, None, Frame::text(""), 10_000).await;
    check(false, None, Frame::text(""), 10_000).await;
}

#[tokio::test]
async fn neighbour_is_served_beside_a_flood_of_fragments() {
    check(true, Some(Frame::new(0x02, "x")), Frame::new(0x00, "x"), 10_000).await;
    check(false, Some(Frame::new(0x02, "")), Frame::new(0x00, ""), 10_000).await;
}

#[tokio::test]
async fn neighbour_is_served_beside_a_flood_of_large_messages() {
    check(true, None, Frame::binary(vec![7; 1 << 20]), 1).await;
    check(false, None, Frame::binary(vec![7; 1 << 20]), 1).await;
}

#[tokio::test]
async fn neighbour_is_served_beside_small_tls_records() {
    check(true, None, Frame::ping("one of them in each record"), 1).await;
}
