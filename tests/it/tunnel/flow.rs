//! Payload passes completely, in order and unchanged, however slowly it is read, and is counted.

use std::cell::Cell;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::{Ends, both, ends, expect_ended, open};
use crate::harness::wire::{Frame, Io, Wire};
use crate::harness::{backend, client, sidegate, within};

/// Numbers that look random, and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    /// Sizes from nothing to 64 KiB, as many small ones as large ones.
    fn size(&mut self) -> usize {
        let bits = self.below(17);
        self.below(1 << bits)
    }

    /// A message: one frame or several, with Pings in between; never a Pong, since one might be
    /// ours to swallow.
    fn message(&mut self) -> Vec<Frame> {
        let fragments = 1 + self.below(4) / 2 * self.below(4);
        let mut frames = Vec::new();
        for at in 0..fragments {
            let opcode = if at == 0 { 1 + self.below(2) as u8 } else { 0 };
            let last = if at + 1 == fragments { 0x80 } else { 0 };
            let size = self.size();
            frames.push(Frame::new(opcode | last, vec![self.below(256) as u8; size]));
            if self.below(8) == 0 {
                frames.push(Frame::ping(vec![at as u8; self.below(126)]));
            }
        }
        frames
    }
}

/// A digest and the size of the bytes that went one way.
#[derive(Debug, PartialEq)]
struct Sum {
    hash: Vec<u8>,
    bytes: usize,
}

/// Sends messages in pieces of random size until `bytes` are out or it is `until`, then a Close.
async fn send_all(
    out: &mut WriteHalf<Box<dyn Io>>,
    seed: u64,
    masked: bool,
    bytes: usize,
    until: Instant,
) -> (Sum, usize) {
    let (mut random, mut hash, mut sent, mut messages) = (Random(seed), Sha256::new(), 0, 0);
    loop {
        let ends = sent >= bytes || Instant::now() >= until;
        let mut wire: Vec<u8> = if ends {
            Frame::close(1000, "").encode(masked)
        } else {
            let many = 1 + random.below(20);
            messages += many;
            (0..many)
                .flat_map(|_| random.message())
                .flat_map(|frame| frame.encode(masked))
                .collect()
        };
        hash.update(&wire);
        sent += wire.len();
        while !wire.is_empty() {
            let limit = 1 << random.below(18);
            let piece = 1 + random.below(wire.len().min(limit));
            within("sending", out.write_all(&wire[..piece])).await.unwrap();
            wire.drain(..piece);
        }
        within("sending", out.flush()).await.unwrap();
        if ends {
            return (Sum { hash: hash.finalize().to_vec(), bytes: sent }, messages);
        }
    }
}

async fn receive_all(input: &mut ReadHalf<Box<dyn Io>>) -> Sum {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 65_536]);
    loop {
        match within("receiving", input.read(&mut buffer)).await {
            Ok(read @ 1..) => {
                hash.update(&buffer[..read]);
                bytes += read;
            }
            _ => return Sum { hash: hash.finalize().to_vec(), bytes },
        }
    }
}

/// One end's part: sends and receives at once, and ends its connection when the other has.
async fn talk(
    wire: Wire,
    seed: u64,
    masked: bool,
    bytes: usize,
    until: Instant,
) -> ((Sum, usize), Sum) {
    let (mut input, mut output) = split(wire.into_parts().0);
    let done =
        tokio::join!(send_all(&mut output, seed, masked, bytes, until), receive_all(&mut input));
    let _ = within("ending", output.shutdown()).await;
    done
}

/// Sends `bytes` each way at once, for no longer than to `until`, and compares; returns the bytes
/// and messages of each way.
async fn exchange(
    client: Wire,
    backend: Wire,
    seed: u64,
    bytes: usize,
    until: Instant,
) -> [(usize, usize); 2] {
    let ((up, down), (back, forth)) = tokio::join!(
        talk(client, seed, true, bytes, until),
        talk(backend, seed + 1, false, bytes, until)
    );
    assert_eq!(up.0, forth, "client to backend");
    assert_eq!(back.0, down, "backend to client");
    [(up.0.bytes, up.1), (back.0.bytes, back.1)]
}

fn far_off() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

// C-WS-24, C-WS-30
#[tokio::test]
async fn large_transfers_both_ways_arrive_and_are_counted() {
    both(
        |sidegate| sidegate,
        async |Ends { sidegate, client, backend, server }| {
            let [up, down] = exchange(client, backend, 1, 6 << 20, far_off()).await;
            sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
            for (direction, (bytes, messages)) in [("from_client", up), ("from_backend", down)] {
                let of = [("route", "chat"), ("direction", direction)];
                sidegate.expect_metric("sidegate_bytes_total", of, bytes as f64).await;
                sidegate.expect_metric("sidegate_messages_total", of, messages as f64).await;
            }
            drop(server);
        },
    )
    .await;
}

// C-WS-18, C-WS-24
#[tokio::test]
async fn random_frames_of_two_hundred_tunnels_arrive_whole() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().threads(2).route("/chat", &server).run().await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(ends(&client::new(&sidegate), &server, "").await);
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], 200).await;
    let until = Instant::now() + Duration::from_secs(3);
    let talks = open
        .into_iter()
        .zip(1..)
        .map(|((client, backend), seed)| exchange(client, backend, seed * 2, usize::MAX, until));
    let sums = futures_util::future::join_all(talks).await;
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 200).await;
    for (way, direction) in ["from_client", "from_backend"].iter().enumerate() {
        let (bytes, messages) =
            sums.iter().fold((0, 0), |sum, one| (sum.0 + one[way].0, sum.1 + one[way].1));
        sidegate
            .expect_metric("sidegate_bytes_total", [("direction", *direction)], bytes as f64)
            .await;
        sidegate
            .expect_metric("sidegate_messages_total", [("direction", *direction)], messages as f64)
            .await;
    }
}

// C-WS-07
#[tokio::test]
async fn bytes_behind_both_heads_arrive_first() {
    for tls in [true, false] {
        let server = backend::manual().run().await;
        let builder = sidegate::new().route("/chat", &server);
        let sidegate = if tls { builder } else { builder.clear() }.run().await;
        let client = client::new(&sidegate);
        let early = Frame::binary((0..30_000).map(|at| (at % 251) as u8).collect::<Vec<_>>());
        let mut wire = client.connect().await;
        wire.send([client.attempt_head("/chat", "").as_bytes(), &early.encode(true)].concat())
            .await;
        let mut at_backend = server.accepted().await;
        let head = at_backend.head().await;
        at_backend
            .send([backend::granted(&head, "").as_bytes(), &early.encode(false)].concat())
            .await;
        wire.answer().await.expect(101);
        assert_eq!((wire.frame().await, at_backend.frame().await), (early.clone(), early));
        wire.expect_echo_by(&mut at_backend, "and then").await;
    }
}

#[tokio::test]
async fn close_behind_the_heads_ends_the_new_tunnel() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(
        [client.attempt_head("/chat", "").as_bytes(), &Frame::close(1000, "").encode(true)]
            .concat(),
    )
    .await;
    let mut at_backend = server.accepted().await;
    let head = at_backend.head().await;
    at_backend
        .send(
            [backend::granted(&head, "").as_bytes(), &Frame::close(1001, "").encode(false)]
                .concat(),
        )
        .await;
    wire.answer().await.expect(101);
    assert_eq!(
        (wire.frame().await, at_backend.frame().await),
        (Frame::close(1001, ""), Frame::close(1000, ""))
    );
    wire.expect_end().await;
    drop((wire, at_backend));
    expect_ended(&sidegate, ["client", "closing", "client_closed"]).await;
}

/// Sends without an end, until the connection has one; says how much went out.
async fn flood(wire: Wire, masked: bool) -> usize {
    let frame = Frame::binary(vec![0; 65_536]).encode(masked);
    let (_input, mut output) = split(wire.into_parts().0);
    let sent = Cell::new(0);
    let sending = async {
        while sent.get() < MOST && output.write_all(&frame).await.is_ok() {
            sent.set(sent.get() + frame.len());
        }
    };
    within("the end of a flood", sending).await;
    sent.get()
}

/// More than all sockets between two ends hold, on any machine.
const MOST: usize = 512 << 20;

// C-RES-08, F05
#[tokio::test]
async fn client_that_reads_nothing_is_dropped_as_stalled() {
    both(
        |sidegate| sidegate.timeouts("write_stall = '400ms'"),
        async |Ends { sidegate, client, backend, server }| {
            let sent = flood(backend, false).await;
            assert!(sent < MOST, "all of it was taken");
            expect_ended(&sidegate, ["client", "open", "stalled"]).await;
            let passed =
                sidegate.metric("sidegate_bytes_total", [("direction", "from_backend")]).await;
            assert!(passed <= sent as f64 + 65_550.0);
            drop((client, server));
        },
    )
    .await;
}

#[tokio::test]
async fn backend_that_reads_nothing_is_dropped_as_stalled() {
    both(
        |sidegate| {
            sidegate.timeouts("write_stall = '400ms'").limits("ping = '50ms'\npong = '100ms'")
        },
        async |Ends { sidegate, client, backend, server }| {
            let sent = flood(client, true).await;
            assert!(sent < MOST, "all of it was taken");
            // And not `no_pong`: while we don't read the client, its silence says nothing.
            expect_ended(&sidegate, ["backend", "open", "stalled"]).await;
            drop((backend, server));
        },
    )
    .await;
}

/// Of 64 KiB each: more than fits between two ends.
const FRAMES: usize = 512;

/// Asserts that a reader who begins late, when nothing more fits between, gets everything.
async fn check_late(from: Wire, masked: bool, to: Wire) {
    let (mut input, _output) = split(to.into_parts().0);
    let (_input, mut output) = split(from.into_parts().0);
    let (full, taken) = (tokio::sync::Notify::new(), Cell::new(0));
    let sends = async {
        for seed in 0..FRAMES {
            let frame = Frame::binary(vec![seed as u8; 65_536]).encode(masked);
            // A write that doesn't end at once means that all is full.
            let mut write = std::pin::pin!(output.write_all(&frame));
            if tokio::time::timeout(Duration::from_millis(300), &mut write).await.is_err() {
                full.notify_one();
                within("sending", write).await.unwrap();
            }
        }
        full.notify_one();
        output.flush().await.unwrap();
    };
    let reads = async {
        within("a full pipe", full.notified()).await;
        let (mut buffer, whole) =
            (vec![0; 65_536], FRAMES * Frame::binary(vec![0; 65_536]).encode(masked).len());
        while taken.get() < whole {
            let read = within("reading", input.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "the end after {}", taken.get());
            taken.set(taken.get() + read);
        }
    };
    tokio::join!(sends, reads);
}

#[tokio::test]
async fn late_reader_gets_everything_either_way() {
    let Ends { sidegate, client, backend, server } = open(|sidegate| sidegate).await;
    check_late(backend, false, client).await;
    let (client, backend) = ends(&client::new(&sidegate), &server, "").await;
    check_late(client, true, backend).await;
}

#[tokio::test]
async fn stalled_tunnel_does_not_delay_others() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let (stalls, floods) = ends(&client, &server, "").await;
    let others = async {
        let (mut one, mut other) = ends(&client, &server, "").await;
        for round in 0..200 {
            one.expect_echo_by(&mut other, &round.to_string()).await;
        }
    };
    tokio::select! { _ = flood(floods, false) => unreachable!("nobody reads it"), () = others => {} }
    drop(stalls);
}

#[tokio::test]
async fn traffic_is_counted_while_a_tunnel_is_open() {
    let mut ends = open(|sidegate| sidegate).await;
    for text in ["one", "two"] {
        let Ends { client, backend, .. } = &mut ends;
        client.expect_echo_by(backend, text).await;
    }
    for (direction, bytes) in [("from_client", 2 * 9), ("from_backend", 2 * 5)] {
        ends.sidegate
            .expect_metric("sidegate_bytes_total", [("direction", direction)], bytes)
            .await;
        ends.sidegate.expect_metric("sidegate_messages_total", [("direction", direction)], 2).await;
    }
}

impl Wire {
    /// Sends a text message, which `other` gets and sends back.
    pub async fn expect_echo_by(&mut self, other: &mut Wire, text: &str) {
        self.send_frame(Frame::text(text)).await;
        assert_eq!(other.frame().await, Frame::text(text));
        other.send_frame(Frame::text(text)).await;
        assert_eq!(self.frame().await, Frame::text(text));
    }
}
