//! Bytes that were passed to a side before the end of its tunnel arrive, even if that side is slow
//! and goes on sending. Bytes that a side never reads are kept nowhere.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::sync::mpsc;

use super::framing::Sender::{self, Backend, Client};
use super::violation::{booked, broken, sides};
use super::{Ends, both, expect_ended, open};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::sockets::expect_released;
use crate::harness::wire::{Frame, Wire};
use crate::harness::{backend, client, within};

const SHORT_GRACE: &str = "grace = '200ms'";

/// More than a peer's own kernel holds of a stream that it does not read.
const FRAMES: usize = 16;

fn part() -> Frame {
    Frame::binary(vec![5; 65_536])
}

/// All that is legal, and then `bytes`.
fn legal_and(sender: Sender, bytes: &[u8]) -> Vec<u8> {
    [&part().encode(sender == Client).repeat(FRAMES), bytes].concat()
}

/// Asserts that all that is legal comes, while the receiver goes on sending.
async fn expect_legal(wire: &mut Wire) {
    for _ in 0..FRAMES {
        wire.send_frame(Frame::text("on and on")).await;
        assert!(wire.frame().await == part());
    }
}

/// Asserts that all that is legal comes, then a Close, then the end in order.
async fn expect_rest(wire: &mut Wire, close: Frame) {
    expect_legal(wire).await;
    assert_eq!(wire.frame().await, close);
    assert!(!wire.is_reset().await);
    wire.finish().await;
}

/// Waits until all that is legal has been passed on.
async fn expect_passed(sidegate: &Sidegate, sender: Sender) {
    let direction = if sender == Client { "from_client" } else { "from_backend" };
    let bytes = legal_and(sender, b"").len() as f64;
    sidegate.expect_metric("sidegate_bytes_total", [("direction", direction)], bytes).await;
}

#[tokio::test]
async fn slow_reader_gets_all_when_the_other_breaks_a_rule() {
    for sender in [Client, Backend] {
        both(
            |sidegate| sidegate.timeouts(SHORT_GRACE),
            async |mut ends| {
                let (from, to) = sides(&mut ends, sender);
                from.send(legal_and(sender, &broken(sender))).await;
                assert_eq!(from.frame().await.closes().unwrap().0, 1002);
                // The violator's time is up.
                from.expect_end().await;
                expect_rest(to, Frame::close(1001, "")).await;
                expect_ended(&ends.sidegate, booked(sender, "framing")).await;
            },
        )
        .await;
    }
}

#[tokio::test]
async fn slow_reader_gets_all_when_the_violator_resets() {
    let Ends { sidegate, mut client, mut backend, server } =
        open(|sidegate| sidegate.clear()).await;
    client.send(legal_and(Client, &broken(Client))).await;
    assert_eq!(client.frame().await.closes().unwrap().0, 1002);
    client.reset();
    expect_rest(&mut backend, Frame::close(1001, "")).await;
    expect_ended(&sidegate, booked(Client, "framing")).await;
    drop(server);
}

#[tokio::test]
async fn slow_unix_backend_gets_all_when_the_client_breaks_a_rule() {
    let (tx, mut rx) = mpsc::unbounded_channel();
    let server = backend::raw(move |mut wire| {
        let tx = tx.clone();
        async move {
            backend::grant(&mut wire, "").await;
            tx.send(wire).unwrap();
        }
    });
    let server = server.unix().run().await;
    let builder = sidegate::new().route("/chat", &server).timeouts(SHORT_GRACE);
    let sidegate = builder.run().await;
    let mut client = client::new(&sidegate).open_wire("/chat").await;
    let mut at_backend = rx.recv().await.unwrap();
    let sends = client.send(legal_and(Client, &broken(Client)));
    // A Unix socket holds little: what waits for it waits in the tunnel.
    let reads = async {
        for _ in 0..FRAMES - 1 {
            assert!(at_backend.frame().await == part());
        }
    };
    tokio::join!(sends, reads);
    assert_eq!(client.frame().await.closes().unwrap().0, 1002);
    client.expect_end().await;
    at_backend.send_frame(Frame::text("on and on")).await;
    assert!(at_backend.frame().await == part());
    assert_eq!(at_backend.frame().await, Frame::close(1001, ""));
    assert!(!at_backend.is_reset().await);
    at_backend.finish().await;
    expect_ended(&sidegate, booked(Client, "framing")).await;
}

#[tokio::test]
async fn slow_reader_gets_all_when_the_other_closes() {
    for sender in [Client, Backend] {
        let mut ends = open(|sidegate| sidegate.timeouts(SHORT_GRACE)).await;
        let (from, to) = sides(&mut ends, sender);
        let close = Frame::close(1000, "done");
        from.send(legal_and(sender, &close.encode(sender == Client))).await;
        // For longer than the grace.
        let ended = tokio::time::timeout(Duration::from_millis(700), from.readable()).await;
        assert!(ended.is_err(), "the tunnel has ended");
        expect_legal(to).await;
        assert_eq!(to.frame().await, close);
        to.send_frame(Frame::close(1000, "")).await;
        for _ in 0..FRAMES {
            assert_eq!(from.frame().await, Frame::text("on and on"));
        }
        assert_eq!(from.frame().await, Frame::close(1000, ""));
        let reason = if sender == Client { "client_closed" } else { "backend_closed" };
        let by = if sender == Client { "client" } else { "backend" };
        ends.expect_over([by, "closing", reason]).await;
    }
}

#[tokio::test]
async fn slow_backend_gets_all_when_its_client_is_revoked() {
    both(
        |sidegate| sidegate.timeouts(SHORT_GRACE),
        async |mut ends| {
            ends.client.send(legal_and(Client, b"")).await;
            expect_passed(&ends.sidegate, Client).await;
            ends.sidegate.policy().deny("127.0.0.1").write().await;
            assert_eq!(ends.client.frame().await, Frame::close(1008, "network"));
            ends.client.expect_end().await;
            expect_rest(&mut ends.backend, Frame::close(1008, "network")).await;
            expect_ended(&ends.sidegate, ["sidegate", "closing", "revoked"]).await;
        },
    )
    .await;
}

#[tokio::test]
async fn revoked_client_has_at_most_the_grace_to_read() {
    let mut ends = open(|sidegate| sidegate.clear().timeouts(SHORT_GRACE)).await;
    ends.backend.send(legal_and(Backend, b"")).await;
    expect_passed(&ends.sidegate, Backend).await;
    ends.sidegate.policy().deny("127.0.0.1").write().await;
    assert_eq!(ends.backend.frame().await, Frame::close(1008, "network"));
    ends.backend.expect_end().await;
    expect_ended(&ends.sidegate, ["sidegate", "closing", "revoked"]).await;
    assert!(ends.client.is_reset().await);
}

#[tokio::test]
async fn slow_sides_get_all_when_a_drain_ends_their_tunnels() {
    for sender in [Client, Backend] {
        both(
            |sidegate| sidegate.timeouts(SHORT_GRACE),
            async |mut ends| {
                let (from, _) = sides(&mut ends, sender);
                from.send(legal_and(sender, b"")).await;
                expect_passed(&ends.sidegate, sender).await;
                ends.sidegate.drain().await;
                let (from, to) = sides(&mut ends, sender);
                assert_eq!(from.frame().await.closes().unwrap().0, 1001);
                from.expect_end().await;
                expect_legal(to).await;
                assert_eq!(to.frame().await.closes().unwrap().0, 1001);
                assert!(!to.is_reset().await);
                drop((ends.client, ends.backend));
                ends.sidegate.ended().await;
            },
        )
        .await;
    }
}

#[tokio::test]
async fn slow_side_gets_all_when_the_other_stalls() {
    for sender in [Client, Backend] {
        let build = |sidegate: Builder| sidegate.clear().timeouts("write_stall = '300ms'");
        let mut ends = open(build).await;
        let (from, _) = sides(&mut ends, sender);
        from.send(legal_and(sender, b"")).await;
        expect_passed(&ends.sidegate, sender).await;
        let Ends { sidegate, client, backend, server } = ends;
        let (mut from, to) = if sender == Client { (client, backend) } else { (backend, client) };
        let (hears, mut says) = split(to.into_parts().0);
        let flood = Frame::binary(vec![0; 65_536]).encode(sender == Backend);
        let floods = async { while says.write_all(&flood).await.is_ok() {} };
        let hears = async {
            // Until the side that reads nothing is reset, which shows when it sends.
            while from.try_deliver(Frame::pong("").encode(sender == Client)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut hears = hears;
            let mut came = vec![0; legal_and(sender, b"").len()];
            within("all that is legal", hears.read_exact(&mut came)).await.unwrap();
        };
        tokio::join!(floods, hears);
        let by = if sender == Client { "client" } else { "backend" };
        expect_ended(&sidegate, [by, "open", "stalled"]).await;
        drop(server);
    }
}

#[tokio::test]
async fn slow_client_gets_all_when_the_backend_ends_within_a_frame() {
    both(
        |sidegate| sidegate,
        async |Ends { sidegate, mut client, mut backend, server }| {
            let begun = &part().encode(false)[..600];
            backend.send(legal_and(Backend, begun)).await;
            let bytes = (legal_and(Backend, b"").len() + 600) as f64;
            let way = [("direction", "from_backend")];
            sidegate.expect_metric("sidegate_bytes_total", way, bytes).await;
            drop(backend);
            // Until the tunnel knows: its end is booked, or its client is not relayed any more.
            client.send_frame(Frame::text("on and on")).await;
            expect_legal(&mut client).await;
            assert_eq!(client.bytes(600).await, begun);
            assert!(!client.is_reset().await);
            client.finish().await;
            expect_ended(&sidegate, ["backend", "open", "backend_gone"]).await;
            drop(server);
        },
    )
    .await;
}

#[tokio::test]
async fn slow_backend_gets_all_from_a_client_that_leaves() {
    let leaves: [fn(Wire); 2] = [drop, Wire::reset];
    for leaves in leaves {
        let Ends { sidegate, mut client, mut backend, server } = open(Builder::clear).await;
        client.send(legal_and(Client, b"")).await;
        expect_passed(&sidegate, Client).await;
        leaves(client);
        expect_legal(&mut backend).await;
        assert!(!backend.is_reset().await);
        drop(backend);
        expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
        drop(server);
    }
}

/// A tunnel whose client has read nothing of what the kernel has taken for it.
async fn unread(build: impl FnOnce(Builder) -> Builder) -> Ends {
    let mut ends = open(build).await;
    ends.backend.send(legal_and(Backend, b"")).await;
    expect_passed(&ends.sidegate, Backend).await;
    ends
}

#[tokio::test]
async fn violator_that_reads_nothing_leaves_nothing_in_the_kernel() {
    for tls in [true, false] {
        let build = |sidegate: Builder| if tls { sidegate.tls() } else { sidegate.clear() };
        let mut ends = unread(|sidegate| build(sidegate.timeouts(SHORT_GRACE))).await;
        ends.client.send(broken(Client)).await;
        ends.backend.frame().await;
        ends.backend.send_frame(Frame::close(1001, "")).await;
        ends.backend.finish().await;
        expect_ended(&ends.sidegate, booked(Client, "framing")).await;
        expect_released(ends.sidegate.address(), ends.client.address()).await;
    }
}

#[tokio::test]
async fn closed_client_that_reads_nothing_leaves_no_kernel_memory() {
    let mut ends = unread(|sidegate| sidegate.timeouts("write_stall = '300ms'")).await;
    ends.client.finish().await;
    ends.backend.expect_end().await;
    ends.backend.finish().await;
    expect_ended(&ends.sidegate, ["client", "open", "client_gone"]).await;
    expect_released(ends.sidegate.address(), ends.client.address()).await;
}

#[tokio::test]
async fn stalled_client_leaves_nothing_in_the_kernel() {
    let mut ends = open(|sidegate| sidegate.timeouts("write_stall = '300ms'")).await;
    let flood = part().encode(false);
    while ends.backend.try_deliver(&flood).await.is_ok() && !is_stalled(&ends.sidegate).await {}
    ends.backend.finish().await;
    expect_ended(&ends.sidegate, ["client", "open", "stalled"]).await;
    expect_released(ends.sidegate.address(), ends.client.address()).await;
}

async fn is_stalled(sidegate: &Sidegate) -> bool {
    sidegate.metric("sidegate_tunnels_closed_total", [("reason", "stalled")]).await > 0.0
}

#[tokio::test]
async fn cut_client_that_reads_nothing_leaves_nothing_in_the_kernel() {
    let build = |sidegate: Builder| sidegate.toml("[shutdown]\ndeadline = '300ms'");
    let mut ends = unread(build).await;
    let (local, peer) = (ends.sidegate.address(), ends.client.address());
    ends.sidegate.drain().await;
    ends.sidegate.ended().await;
    expect_released(local, peer).await;
}
