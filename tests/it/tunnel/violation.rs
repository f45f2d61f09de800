//! Everything that a side sent before it broke a rule is delivered and answered first; only then
//! comes the Close with its code.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::TcpSocket;

use super::framing::Sender::{self, Backend, Client};
use super::{Ends, both, expect_close, expect_ended, open};
use crate::harness::sidegate::{Builder, Sidegate};
use crate::harness::wire::{End, Frame, Wire};
use crate::harness::{backend, client, sidegate, within};

/// A rule to break: the limits, the bytes that break it, and the code and the reason of that.
struct Rule {
    limits: &'static str,
    bad: Vec<u8>,
    code: u16,
    reason: &'static str,
}

/// Longer than a test waits: its end is noticed, not timed.
const LONG_GRACE: &str = "grace = '1m'";

fn rule(limits: &'static str, bad: Vec<u8>, code: u16, reason: &'static str) -> Rule {
    Rule { limits: if limits.is_empty() { "ping = 'off'" } else { limits }, bad, code, reason }
}

/// Bits that no extension gives a meaning, in the frame of this side.
pub fn broken(sender: Sender) -> Vec<u8> {
    Frame::new(0xC1, "odd").encode(sender == Client)
}

/// Each rule that this side can break, once.
fn rules(sender: Sender) -> Vec<Rule> {
    let masked = sender == Client;
    let huge = Frame::binary(vec![7; 4096]).encode(masked);
    let mut rules = vec![
        rule("", broken(sender), 1002, "framing"),
        rule("", Frame::text("mask").encode(!masked), 1002, "framing"),
        rule("message = { max = '1KiB' }", huge.clone(), 1009, "too_big"),
        // Its header is enough to know.
        rule(
            "message = { max = '1KiB' }",
            huge[..if masked { 8 } else { 4 }].to_vec(),
            1009,
            "too_big",
        ),
    ];
    if sender == Client {
        let ping = Frame::ping("too many").encode(true);
        rules.push(rule(
            "message = { rate = '1/m' }",
            Frame::text("2").encode(true),
            1008,
            "message_rate",
        ));
        rules.push(rule(
            "frames = { rate = '1/m', burst = 1 }",
            [&*ping, &ping].concat(),
            1008,
            "frame_rate",
        ));
    }
    rules
}

/// The side that breaks a rule, and the other.
pub fn sides(ends: &mut Ends, sender: Sender) -> (&mut Wire, &mut Wire) {
    match sender {
        Client => (&mut ends.client, &mut ends.backend),
        Backend => (&mut ends.backend, &mut ends.client),
    }
}

/// Sends a good message and then `bad` in one piece; the other side gets the one, and 1001 in place
/// of the other.
async fn violate(ends: &mut Ends, sender: Sender, bad: &[u8]) {
    let (from, to) = sides(ends, sender);
    let good = Frame::text("good").encode(sender == Client);
    from.send([&good, bad].concat()).await;
    assert_eq!(to.frame().await, Frame::text("good"));
    let mut frame = to.frame().await;
    if frame == Frame::ping("too many") {
        frame = to.frame().await;
    }
    assert_eq!(frame, Frame::close(1001, ""));
}

pub fn booked(sender: Sender, reason: &'static str) -> [&'static str; 3] {
    let by = match sender {
        _ if reason.ends_with("_rate") => "sidegate",
        Client => "client",
        Backend => "backend",
    };
    [by, "closing", reason]
}

async fn check_answered(mut ends: Ends, sender: Sender, rule: &Rule) {
    violate(&mut ends, sender, &rule.bad).await;
    let (from, to) = sides(&mut ends, sender);
    for frame in [Frame::text("good"), Frame::new(0x01, "in two "), Frame::new(0x80, "parts")] {
        to.send_frame(frame.clone()).await;
        assert_eq!(from.frame().await, frame);
    }
    to.send_frame(Frame::close(1001, "")).await;
    to.send_frame(Frame::text("after the end")).await;
    assert_eq!(from.frame().await.closes().unwrap().0, rule.code);
    from.send_frame(Frame::close(rule.code, "")).await;
    let passed = ["from_client", "from_backend"].map(|way| [("direction", way)]);
    let answers = ["good", "in two ", "parts"].iter().map(|text| text.len() + 2).sum::<usize>();
    let way = passed[usize::from(sender == Client)];
    let mask = if sender == Client { 0 } else { 3 * 4 };
    ends.sidegate.expect_metric("sidegate_bytes_total", way, (answers + mask) as f64).await;
    ends.sidegate.expect_metric("sidegate_messages_total", way, 2).await;
    ends.expect_over(booked(sender, rule.reason)).await;
}

#[tokio::test]
async fn frames_before_a_violation_are_answered_first() {
    for sender in [Client, Backend] {
        for rule in rules(sender) {
            both(
                |sidegate| sidegate.limits(rule.limits).timeouts(LONG_GRACE),
                async |ends| {
                    check_answered(ends, sender, &rule).await;
                },
            )
            .await;
        }
    }
}

#[tokio::test]
async fn answers_to_a_violator_have_one_second() {
    both(|sidegate| sidegate, async |ends| check_endless(ends, Client).await).await;
    check_endless(open(|sidegate| sidegate).await, Backend).await;
}

/// Asserts that a side which answers without end is relayed for a second, up to the end of a frame.
async fn check_endless(mut ends: Ends, sender: Sender) {
    let began = Instant::now();
    violate(&mut ends, sender, &broken(sender)).await;
    let (from, to) = sides(&mut ends, sender);
    let frame = Frame::binary(vec![3; 1000]).encode(sender == Backend);
    let (begun, rest) = frame.split_at(600);
    let mut answers = 0;
    let close = loop {
        to.send(begun).await;
        let first = from.bytes(1).await;
        if first != begun[..1] {
            break first;
        }
        assert_eq!(from.bytes(599).await, begun[1..]);
        to.send(rest).await;
        assert_eq!(from.bytes(rest.len()).await, rest);
        answers += 1;
    };
    assert_eq!(close, [0x88]);
    assert!(answers > 0 && began.elapsed() >= Duration::from_millis(900), "{answers} answers");
    to.send(rest).await;
    let length = from.bytes(1).await[0] & 0x7F;
    from.bytes(usize::from(length) + if sender == Backend { 4 } else { 0 }).await;
    from.send_frame(Frame::close(1002, "")).await;
    to.send_frame(Frame::close(1001, "")).await;
    ends.expect_over(booked(sender, "framing")).await;
}

#[tokio::test]
async fn violation_close_is_sent_between_fragments() {
    let mut ends = open(|sidegate| sidegate).await;
    ends.client.send([Frame::new(0x01, "begun, ").encode(true), broken(Client)].concat()).await;
    assert_eq!(ends.backend.frame().await, Frame::new(0x01, "begun, "));
    expect_close(&mut ends.backend, (1001, "")).await;
    assert_eq!(ends.client.frame().await.closes().unwrap().0, 1002);
}

#[tokio::test]
async fn violation_behind_an_attempt_gets_its_close() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let head = client.attempt_head("/chat", "");
    let frames = [Frame::text("good").encode(true), broken(Client)].concat();
    wire.send([head.as_bytes(), &frames].concat()).await;
    let mut at_backend = server.accepted().await;
    backend::grant(&mut at_backend, "").await;
    assert_eq!(at_backend.frame().await, Frame::text("good"));
    assert_eq!(at_backend.frame().await, Frame::close(1001, ""));
    at_backend.send_frame(Frame::text("good")).await;
    at_backend.send_frame(Frame::close(1001, "")).await;
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await, Frame::text("good"));
    assert_eq!(wire.frame().await.closes().unwrap().0, 1002);
}

#[tokio::test]
async fn violation_behind_a_101_gets_its_close() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let granted = async {
        let mut wire = server.accepted().await;
        let head = wire.head().await;
        let frames = [Frame::text("good").encode(false), broken(Backend)].concat();
        wire.send([backend::granted(&head, "").as_bytes(), &frames].concat()).await;
        wire
    };
    let (mut client, mut at_backend) = tokio::join!(client_of(&sidegate), granted);
    assert_eq!(client.frame().await, Frame::text("good"));
    client.send_frame(Frame::text("an answer")).await;
    expect_close(&mut client, (1001, "")).await;
    assert_eq!(at_backend.frame().await, Frame::text("an answer"));
    assert_eq!(at_backend.frame().await.closes().unwrap().0, 1002);
}

async fn client_of(sidegate: &Sidegate) -> Wire {
    client::new(sidegate).open_wire("/chat").await
}

#[tokio::test]
async fn violation_code_replaces_a_crossing_close() {
    for sender in [Client, Backend] {
        let mut ends = open(|sidegate| sidegate).await;
        violate(&mut ends, sender, &broken(sender)).await;
        let (from, to) = sides(&mut ends, sender);
        to.send_frame(Frame::text("bye")).await;
        to.send_frame(Frame::close(4001, "its own")).await;
        assert_eq!(from.frame().await, Frame::text("bye"));
        assert_eq!(from.frame().await.closes().unwrap().0, 1002);
        from.send_frame(Frame::close(1002, "")).await;
        ends.expect_over(booked(sender, "framing")).await;
    }
}

#[tokio::test]
async fn violation_of_the_answering_side_ends_its_answers() {
    for (sender, other) in [(Client, Backend), (Backend, Client)] {
        within_the_second(async |mut ends| {
            violate(&mut ends, sender, &broken(sender)).await;
            let (from, to) = sides(&mut ends, sender);
            let answer = Frame::text("an answer").encode(other == Client);
            to.send([answer, broken(other)].concat()).await;
            to.send_frame(Frame::text("never seen")).await;
            assert_eq!(from.frame().await, Frame::text("an answer"));
            assert_eq!(from.frame().await.closes().unwrap().0, 1002);
            from.send_frame(Frame::close(1002, "")).await;
            (ends, booked(sender, "framing"))
        })
        .await;
    }
}

/// Asserts that `act` gets the code before the second of the answers is over. On a machine that is
/// too slow for that it shows nothing, and is tried again.
async fn within_the_second(act: impl AsyncFn(Ends) -> (Ends, [&'static str; 3])) {
    for _ in 0..20 {
        let ends = open(|sidegate| sidegate).await;
        let began = Instant::now();
        let (ends, booked) = act(ends).await;
        let took = began.elapsed();
        ends.expect_over(booked).await;
        if took < Duration::from_millis(900) {
            return;
        }
    }
    panic!("no code came within the second");
}

#[tokio::test]
async fn violation_code_is_sent_when_the_other_side_leaves() {
    for sender in [Client, Backend] {
        both(
            |sidegate| sidegate.timeouts(LONG_GRACE),
            async |mut ends| {
                violate(&mut ends, sender, &broken(sender)).await;
                let (from, to) = sides(&mut ends, sender);
                to.send_frame(Frame::text("bye")).await;
                to.finish().await;
                assert_eq!(from.frame().await, Frame::text("bye"));
                assert_eq!(from.frame().await.closes().unwrap().0, 1002);
                from.expect_end().await;
                from.finish().await;
                expect_ended(&ends.sidegate, booked(sender, "framing")).await;
            },
        )
        .await;
    }
}

#[tokio::test]
async fn bytes_of_a_leaving_violator_are_delivered() {
    for sender in [Client, Backend] {
        let mut ends = open(|sidegate| sidegate).await;
        violate(&mut ends, sender, &broken(sender)).await;
        let Ends { sidegate, client, backend, server } = ends;
        let (from, mut other) =
            if sender == Client { (client, backend) } else { (backend, client) };
        drop(from);
        for _ in 0..3 {
            other.send_frame(Frame::text("nobody hears")).await;
        }
        other.send_frame(Frame::close(1001, "")).await;
        drop(other);
        expect_ended(&sidegate, booked(sender, "framing")).await;
        drop(server);
    }
}

#[tokio::test]
async fn violator_that_reads_nothing_has_at_most_the_grace() {
    for sender in [Client, Backend] {
        let mut ends =
            open(|sidegate| sidegate.timeouts("grace = '300ms'\nwrite_stall = '5m'")).await;
        violate(&mut ends, sender, &broken(sender)).await;
        let Ends { sidegate, client, backend, server } = ends;
        let (from, to) = if sender == Client { (client, backend) } else { (backend, client) };
        let (mut hears, mut says) = split(to.into_parts().0);
        let flood = Frame::binary(vec![0; 65_536]).encode(sender == Backend);
        let floods = async { while says.write_all(&flood).await.is_ok() {} };
        let ends = async { while hears.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} };
        let ended = async { tokio::join!(floods, ends) };
        within("the end of the flood", ended).await;
        expect_ended(&sidegate, booked(sender, "framing")).await;
        drop((from, server));
    }
}

#[tokio::test]
async fn flood_behind_a_violation_is_not_read() {
    let mut ends = open(Builder::clear).await;
    violate(&mut ends, Client, &broken(Client)).await;
    let (mut hears, mut says) = split(ends.client.into_parts().0);
    let (flood, sent) = (vec![0; 65_536], Cell::new(0));
    let floods = async {
        while let Ok(more @ 1..) = says.write(&flood).await {
            sent.set(sent.get() + more);
        }
        std::future::pending::<()>().await;
    };
    let mut close = [0; 4];
    let hears = async { hears.read_exact(&mut close).await.unwrap() };
    tokio::select! { () = floods => {}, _ = within("the code", hears) => {} }
    assert_eq!(close[2..], 1002_u16.to_be_bytes());
    // Sockets hold some MiB.
    assert!(sent.get() < 64 << 20, "{} bytes were read", sent.get());
}

/// A tunnel whose client has room for a few KiB that it doesn't read.
async fn narrow(build: impl FnOnce(Builder) -> Builder) -> Ends {
    let listening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listening.set_send_buffer_size(4096).unwrap();
    listening.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listening.listen(8).unwrap();
    let server = backend::manual().run().await;
    let builder = sidegate::new().clear().on_listener("listen = 'systemd:public'");
    let builder = builder.passed("public", listening).route("/chat", &server);
    let sidegate = build(builder).run().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client =
        Wire::new(socket.connect(sidegate.address()).await.unwrap(), End::Client, None);
    client.send(client::new(&sidegate).attempt_head("/chat", "")).await;
    let mut at_backend = server.accepted().await;
    backend::grant(&mut at_backend, "").await;
    client.answer().await.expect(101);
    Ends { sidegate, client, backend: at_backend, server }
}

#[tokio::test]
async fn frames_before_a_violation_wait_for_a_slow_reader() {
    let mut ends = narrow(|sidegate| sidegate.timeouts("grace = '200ms'")).await;
    let good = Frame::binary(vec![5; 60_000]);
    ends.backend.send([good.encode(false), broken(Backend)].concat()).await;
    assert_eq!(ends.backend.frame().await.closes().unwrap().0, 1002);
    // Longer than the grace of the backend, which says nothing more.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(ends.client.frame().await, good);
    expect_close(&mut ends.client, (1001, "")).await;
    ends.client.finish().await;
    expect_ended(&ends.sidegate, ["backend", "closing", "framing"]).await;
}

#[tokio::test]
async fn a_revocation_ends_the_answers_to_a_violator() {
    within_the_second(async |mut ends| {
        violate(&mut ends, Client, &broken(Client)).await;
        ends.sidegate.policy().deny("127.0.0.1").write().await;
        assert_eq!(ends.client.frame().await.closes().unwrap().0, 1002);
        ends.backend.send_frame(Frame::text("no longer for it")).await;
        ends.backend.send_frame(Frame::close(1001, "")).await;
        ends.client.send_frame(Frame::close(1002, "")).await;
        (ends, ["client", "closing", "framing"])
    })
    .await;
}

#[tokio::test]
async fn answers_to_a_violator_continue_in_a_drain() {
    let mut ends = open(|sidegate| sidegate).await;
    violate(&mut ends, Client, &broken(Client)).await;
    ends.sidegate.drain().await;
    ends.backend.send_frame(Frame::text("good")).await;
    ends.backend.send_frame(Frame::close(1001, "")).await;
    assert_eq!(ends.client.frame().await, Frame::text("good"));
    assert_eq!(ends.client.frame().await.closes().unwrap().0, 1002);
    ends.client.send_frame(Frame::close(1002, "")).await;
    ends.client.expect_end().await;
    drop((ends.client, ends.backend));
    ends.sidegate.ended().await;
}
