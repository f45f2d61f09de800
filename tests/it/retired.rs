//! Connections of a listener that a reload removes, moves, or makes speak otherwise.

use std::time::{Duration, Instant};

use ::sidegate::control::reload::ReloadOutcome;
use tokio::time::timeout;
use toml::{Table, Value};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::sockets::free_address;
use crate::harness::wire::{Frame, Wire};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A change of the listeners.
type Change = fn(&mut Vec<Value>);

/// The first listener, whose connections a change is about.
fn first(listeners: &mut [Value]) -> &mut Table {
    listeners[0].as_table_mut().unwrap()
}

fn set(listeners: &mut [Value], key: &str, value: impl Into<Value>) {
    first(listeners).insert(key.to_owned(), value.into());
}

const REMOVED: Change = |listeners| drop(listeners.remove(0));
const MOVED: Change = |listeners| set(listeners, "listen", free_address().to_string());
const RENAMED: Change = |listeners| set(listeners, "name", "public2");

/// A change of a listener after which its connections end.
const OF_TLS: [Change; 6] = [
    REMOVED,
    MOVED,
    RENAMED,
    |listeners| set(listeners, "tls", false),
    |listeners| set(listeners, "tls_min", "1.3"),
    |listeners| set(listeners, "strict_sni", true),
];
const OF_CLEAR: [Change; 5] = [
    REMOVED,
    MOVED,
    RENAMED,
    |listeners| set(listeners, "tls", true),
    |listeners| set(listeners, "redirect", "https"),
];

/// An agent with two listeners at fixed addresses, which forwards plain HTTP and reads its files on
/// request only. It has a certificate whether or not the listeners speak TLS.
fn agent(backend: &Backend, tls: bool) -> Builder {
    let other = format!("[[listener]]\nname = 'other'\ntls = {tls}\nlisten = '{}'", free_address());
    let sidegate = sidegate::new().route("/", backend).on_route("http = 'forward'");
    let own = format!("tls = {tls}\nlisten = '{}'", free_address());
    sidegate.on_listener(&own).toml(&other).toml("reload.watch = 'off'")
}

/// A client of the first listener.
fn client_of(sidegate: &Sidegate, tls: bool) -> Client {
    if tls { client::new(sidegate) } else { client::clear(sidegate.address()) }
}

async fn change(sidegate: &Sidegate, change: impl FnOnce(&mut Vec<Value>)) {
    let mut config = sidegate.toml();
    change(config["listener"].as_array_mut().unwrap());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    let outcome = sidegate.reload().await;
    assert!(matches!(outcome, ReloadOutcome::Published { .. }), "{outcome:?}");
}

/// A connection on which one request was answered.
async fn kept(client: &Client) -> Wire {
    let mut wire = client.connect().await;
    wire.send(GET).await;
    wire.answer().await.expect(200);
    wire
}

async fn pages() -> Backend {
    backend::http(|_| backend::reply(200)).run().await
}

async fn expect_retired(sidegate: &Sidegate, connections: u32) {
    let labels = [("reason", "retired")];
    sidegate.expect_metric("sidegate_connections_closed_total", labels, connections).await;
}

#[tokio::test]
async fn idle_connection_ends_with_its_listener() {
    for (tls, changes) in [(true, &OF_TLS[..]), (false, &OF_CLEAR)] {
        for (at, one) in changes.iter().enumerate() {
            let backend = pages().await;
            let sidegate = agent(&backend, tls).run().await;
            let client = client_of(&sidegate, tls);
            let (mut idle, mut other) = (kept(&client).await, kept(&client).await);
            change(&sidegate, one).await;
            let began = Instant::now();
            for wire in [&mut idle, &mut other] {
                assert!(!wire.is_reset().await, "{tls} {at}");
            }
            assert!(began.elapsed() < Duration::from_secs(2), "{tls} {at}");
            expect_retired(&sidegate, 2).await;
        }
    }
}

#[tokio::test]
async fn tunnel_outlives_its_listener() {
    for (tls, changes) in [(true, &OF_TLS[..]), (false, &OF_CLEAR)] {
        let backend = backend::echo().run().await;
        for one in changes {
            let sidegate = agent(&backend, tls).run().await;
            let mut tunnel = client_of(&sidegate, tls).open("/").await;
            change(&sidegate, one).await;
            tunnel.expect_echo("I live on").await;
        }
    }
}

#[tokio::test]
async fn connection_stays_when_its_listener_keeps_its_protocol() {
    let changes: [Change; 4] = [
        |listeners| set(listeners, "max_head", "16KiB"),
        |listeners| set(listeners, "max_connections", 7),
        |listeners| set(listeners, "pending_per_client", 9),
        |listeners| {
            drop(first(&mut listeners[1..]).insert("tls_min".into(), "1.3".into()));
        },
    ];
    let backend = pages().await;
    let sidegate = agent(&backend, true).run().await;
    let mut wire = kept(&client_of(&sidegate, true)).await;
    for one in changes {
        change(&sidegate, one).await;
        wire.send(GET).await;
        let answer = wire.answer().await;
        assert_eq!(answer.expect(200).header("connection"), None);
    }
    expect_retired(&sidegate, 0).await;
}

#[tokio::test]
async fn listener_that_is_taken_over_serves_new_connections_as_before() {
    let backend = pages().await;
    let sidegate = agent(&backend, true).run().await;
    let mut before = kept(&client_of(&sidegate, true)).await;
    for version in ["1.3", "1.2", "1.3"] {
        change(&sidegate, |listeners| set(listeners, "tls_min", version)).await;
        before.expect_end().await;
        before = kept(&client_of(&sidegate, true)).await;
    }
    before.send(GET).await;
    assert_eq!(before.answer().await.expect(200).header("connection"), None);
}

#[tokio::test]
async fn request_in_progress_is_answered_and_its_connection_closed() {
    for one in [REMOVED, MOVED, OF_CLEAR[3]] {
        let backend = backend::manual().run().await;
        let sidegate = agent(&backend, false).run().await;
        let mut wire = client_of(&sidegate, false).connect().await;
        wire.send(GET).await;
        let mut at_backend = backend.accepted().await;
        at_backend.head().await;
        change(&sidegate, one).await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        wire.answer().await.expect(200).expect_header("connection", "close");
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn answer_that_has_begun_arrives_whole() {
    for one in [REMOVED, MOVED, OF_TLS[3]] {
        let backend = backend::manual().run().await;
        let sidegate = agent(&backend, true).run().await;
        let mut wire = client_of(&sidegate, true).connect().await;
        wire.send(GET).await;
        let mut at_backend = backend.accepted().await;
        at_backend.head().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
        assert_eq!(wire.head().await.header("connection"), None);
        assert_eq!(wire.bytes(2).await, b"ha");
        change(&sidegate, one).await;
        // It has as long as any other answer: this one has nothing to do with a drain.
        assert!(timeout(Duration::from_millis(2500), wire.readable()).await.is_err());
        at_backend.send("lf").await;
        assert_eq!(wire.bytes(2).await, b"lf");
        wire.expect_end().await;
        expect_retired(&sidegate, 1).await;
    }
}

#[tokio::test]
async fn head_that_has_begun_is_answered_and_opens_no_tunnel() {
    for one in [REMOVED, MOVED, OF_CLEAR[3]] {
        let backend = pages().await;
        let sidegate = agent(&backend, false).run().await;
        let client = client_of(&sidegate, false);
        let attempt = client.attempt_head("/", "");
        let (mut plain, mut upgrade) = (kept(&client).await, kept(&client).await);
        plain.send(&GET[..20]).await;
        upgrade.send(&attempt[..1]).await;
        client.get("/").await; // The one thread has read the parts before.
        change(&sidegate, one).await;
        plain.send(&GET[20..]).await;
        plain.answer().await.expect(200).expect_header("connection", "close");
        upgrade.send(&attempt[1..]).await;
        let answer = upgrade.answer().await;
        answer.expect_refused(503, "draining").expect_header("connection", "close");
        plain.expect_end().await;
        upgrade.expect_end().await;
    }
}

#[tokio::test]
async fn attempt_of_a_client_that_had_connected_opens() {
    for (one, before) in [(REMOVED, 0), (MOVED, 20), (OF_CLEAR[3], usize::MAX)] {
        let backend = backend::manual().run().await;
        let sidegate = agent(&backend, false).run().await;
        let client = client_of(&sidegate, false);
        let attempt = client.attempt_head("/", "");
        let (part, rest) = attempt.split_at(before.min(attempt.len()));
        let mut wire = client.connect().await;
        wire.send(part).await;
        let open = [("listener", "public")];
        sidegate.expect_metric("sidegate_connections_open", open, 1).await;
        change(&sidegate, one).await;
        wire.send(rest).await;
        let mut at_backend = backend.accepted().await;
        backend::grant(&mut at_backend, "").await;
        wire.answer().await.expect(101);
        wire.send_frame(Frame::text("I live on")).await;
        assert_eq!(at_backend.frame().await, Frame::text("I live on"));
    }
}

#[tokio::test]
async fn silent_connection_ends_soon_after_its_listener() {
    for tls in [true, false] {
        let backend = pages().await;
        let own = "head = '1h'\ntls = '1h'";
        let sidegate = agent(&backend, tls).timeouts(own).run().await;
        let client = client_of(&sidegate, tls);
        let (mut silent, mut below) = (client.connect().await, client.connect_below_tls().await);
        let open = [("listener", "public")];
        sidegate.expect_metric("sidegate_connections_open", open, 2).await;
        change(&sidegate, REMOVED).await;
        silent.expect_end().await;
        below.expect_end().await;
        expect_retired(&sidegate, 2).await;
    }
}
