//! Deadlines and caps before a tunnel: no client holds a connection for nothing.
//!
//! Each test waits for the event, and checks afterwards that it wasn't too early.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::backend::{self, Backend};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::Wire;
use crate::harness::{client, process};

/// The deadline under test, and a time far beyond it.
const SHORT: &str = "300ms";
const LIMIT: Duration = Duration::from_millis(300);

/// An agent in the clear that forwards plain HTTP, under this deadline alone.
async fn with(timeout: &str, backend: &Backend) -> Sidegate {
    let sidegate = sidegate::new().clear().route("/", backend).on_route("http = 'forward'");
    sidegate.timeouts(&format!("{timeout} = '{SHORT}'")).run().await
}

/// Sends `drip` over and over until the connection ends; that it did not end before the limit, and
/// soon after.
async fn check_ends(wire: &mut Wire, began: Instant, drip: &str) {
    let limit = Duration::from_millis(20);
    while tokio::time::timeout(limit, wire.readable()).await.is_err() {
        wire.send(drip).await;
    }
    wire.expect_end().await;
    let took = began.elapsed();
    assert!(took >= LIMIT - Duration::from_millis(5), "closed too early: {took:?}");
    assert!(took < LIMIT + Duration::from_secs(5), "closed too late: {took:?}");
}

// C-RES-01
#[tokio::test]
async fn silent_client_is_closed() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = with("head", &backend).await;
    let began = Instant::now();
    check_ends(&mut client::new(&sidegate).connect().await, began, "").await;
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "head")], 1).await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "head")], 1)
        .await;
}

// C-RES-02, C-RES-03
#[tokio::test]
async fn dripping_head_is_closed_at_its_deadline() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = with("head", &backend).await;
    for (first, drip) in [
        ("GET / HT", ""),
        ("PRI * HTT", ""),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n"),
        ("G", "E"),
        ("\r\n", "\r\n"),
    ] {
        let began = Instant::now();
        let mut wire = client::new(&sidegate).connect().await;
        wire.send(first).await;
        check_ends(&mut wire, began, drip).await;
    }
    backend.expect_untouched();
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "head")], 5).await;
}

#[tokio::test]
async fn head_deadline_holds_for_every_head_of_a_connection() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = with("head", &backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.answer().await.expect(200);
    let began = Instant::now();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    check_ends(&mut wire, began, "X: y\r\n").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = with("keep_alive", &backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        wire.answer().await.expect(200);
    }
    check_ends(&mut wire, Instant::now(), "").await;
    sidegate
        .expect_metric("sidegate_connections_closed_total", [("reason", "keep_alive")], 1)
        .await;
}

// C-RES-04
#[tokio::test]
async fn stalled_body_closes_client_and_backend() {
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel"]
    {
        let backend = backend::manual().run().await;
        let sidegate = with("body_stall", &backend).await;
        let mut wire = client::new(&sidegate).connect().await;
        let began = Instant::now();
        wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        let mut at_backend = backend.accepted().await;
        at_backend.head().await;
        check_ends(&mut wire, began, "").await;
        at_backend.rest().await;
    }
}

// C-RES-04
#[tokio::test]
async fn slow_body_is_not_stalled() {
    let backend = backend::http(|asked| backend::reply(200).body(asked.body.clone())).run().await;
    let sidegate = with("body_stall", &backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n").await;
    for byte in ["a", "b", "c", "d", "e", "f"] {
        tokio::time::sleep(LIMIT / 3).await; // the claim is about time: twice the limit in all
        wire.send(byte).await;
    }
    assert_eq!(wire.answer().await.expect(200).text(), "abcdef");
}

#[tokio::test]
async fn stalled_answer_body_cuts_both_sides() {
    let backend = backend::manual().run().await;
    let sidegate = with("body_stall", &backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    let began = Instant::now();
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    wire.head().await;
    assert_eq!(wire.bytes(5).await, b"hello");
    check_ends(&mut wire, began, "").await;
    at_backend.expect_end().await;
}

// F02
#[tokio::test]
async fn late_answer_is_504_for_attempts_and_plain_http() {
    let backend = backend::manual().run().await;
    let sidegate = with("dial = '1h'\nresponse", &backend).await;
    for head in [
        client::new(&sidegate).attempt_head("/", ""),
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ] {
        let mut wire = client::new(&sidegate).connect().await;
        let began = Instant::now();
        wire.send(head).await;
        let mut at_backend = backend.accepted().await;
        at_backend.head().await;
        at_backend.send("HTTP/1.1 20").await; // of a head, a part
        wire.answer().await.expect_refused(504, "backend");
        assert!(began.elapsed() >= LIMIT, "too early");
        at_backend.expect_end().await;
    }
    sidegate.expect_metric("sidegate_requests_total", [("result", "failed")], 2).await;
}

#[tokio::test]
async fn a_route_may_have_timeouts_of_its_own() {
    let (patient, quick) = (backend::manual().run().await, backend::silent().run().await);
    let sidegate = sidegate::new().route("/patient", &patient).route("/quick", &quick);
    let sidegate = sidegate
        .on_route("timeouts = { response = '50ms' }")
        .timeouts("response = '1h'")
        .run()
        .await;
    let client = client::new(&sidegate);
    let mut waiting = client.connect().await;
    waiting.send(client.attempt_head("/patient", "")).await;
    let mut at_backend = patient.accepted().await;
    client.attempt("/quick").await.expect_refused(504, "backend");
    backend::grant(&mut at_backend, "").await;
    waiting.answer().await.expect(101);
}

#[tokio::test]
async fn client_that_reads_no_answer_is_cut() {
    let backend = backend::http(|_| backend::reply(200).body(vec![b'x'; 32 << 20])).run().await;
    let sidegate = with("write_stall", &backend).await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "cut")], 1).await;
    let by = [("by", "client"), ("reason", "stalled")];
    sidegate.expect_metric("sidegate_exchanges_closed_total", by, 1).await;
    assert!(wire.rest().await.len() < 32 << 20);
}

#[tokio::test]
async fn client_has_a_bound_on_pending_connections() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).on_listener("pending_per_client = 2").run().await;
    let client = client::new(&sidegate).from("127.0.0.2");
    let mut tunnel = client.open("/chat").await; // holds a tunnel: it waits for nothing
    let (first, _second) = (client.connect_below_tls().await, client.connect().await);
    client.connect_below_tls().await.expect_end().await;
    client::new(&sidegate)
        .from("127.0.0.3")
        .open("/chat")
        .await
        .expect_echo("others are not concerned")
        .await;
    drop(first);
    sidegate.expect_metric("sidegate_probes_total", [], 1).await;
    client.open("/chat").await.expect_echo("a place again").await;
    tunnel.expect_echo("still here").await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "pending")], 1).await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "pending")], 1)
        .await;
}

// C-RES-10, F10
#[tokio::test]
async fn at_max_connections_accepting_pauses_and_resumes() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).on_listener("max_connections = 2").run().await;
    let client = client::new(&sidegate);
    let (mut one, mut two) = (client.open("/chat").await, client.open("/chat").await);
    let mut waiting = client.connect_below_tls().await; // in the kernel's queue
    sidegate.expect_metric("sidegate_connections_limit", [("listener", "public")], 2).await;
    assert!(
        tokio::time::timeout(LIMIT, waiting.readable()).await.is_err(),
        "it was accepted, or closed"
    );
    sidegate
        .expect_metric("sidegate_connections_accepted_total", [("listener", "public")], 2)
        .await;
    one.expect_echo("unharmed").await;
    drop(waiting);
    one.close(1000, "").await;
    drop(one);
    client.open("/chat").await.expect_echo("a place again").await;
    two.expect_echo("unharmed").await;
}

/// Returns the CPU time that a process has used.
fn spent(pid: Pid) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    let ran = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap());
    Duration::from_nanos(
        ran.map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap()).sum(),
    )
}

/// Takes from a process every descriptor that it doesn't use; returns what it was allowed before.
fn starve(pid: Pid) -> Rlimit {
    let fds = PathBuf::from(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let free = (0..).find(|fd| fs::symlink_metadata(fds.join(format!("{fd}"))).is_err());
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: free, ..getrlimit(Resource::Nofile) })
        .unwrap()
}

// F10
#[tokio::test]
async fn accepting_waits_idly_without_descriptors() {
    const PAUSES: &str = "accepting is paused: descriptors or memory are exhausted";
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    let mut process = process::new(folder.path()).log("json").run().await;
    let mut tunnel = process.client().open("/chat").await;
    let before = starve(process.pid());
    let mut waiting = process.client().connect().await; // in the kernel's queue
    waiting.send(process.client().attempt_head("/chat", "")).await;
    process.logged(PAUSES).await;
    let (began, at_first) = (Instant::now(), spent(process.pid()));
    tunnel.expect_echo("unharmed").await;
    process.logged(PAUSES).await; // once a second, and not more often
    let (took, cost) = (began.elapsed(), spent(process.pid()) - at_first);
    assert!(took > Duration::from_millis(900) && cost < took / 20, "{cost:?} of CPU in {took:?}");
    prlimit(Some(process.pid()), Resource::Nofile, before).unwrap();
    let began = Instant::now();
    waiting.answer().await.expect(101);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
