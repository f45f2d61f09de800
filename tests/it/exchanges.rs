//! Exchanges in flight: forwarded requests and their answers. Each is booked once, obeys the
//! policy for as long as it lasts, and ends with one reason.

use std::time::{Duration, Instant};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                      Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none";
const CLOSED: &str = "sidegate_exchanges_closed_total";
const REQUESTS: &str = "sidegate_requests_total";

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/", backend).on_route("http = 'forward'").clear()
}

async fn start(change: impl FnOnce(Builder) -> Builder) -> (Sidegate, Backend) {
    let backend = backend::manual().run().await;
    (change(new(&backend)).run().await, backend)
}

/// A request that the backend has: the client's end, and the backend's.
async fn sent(client: &Client, backend: &Backend, head: impl AsRef<[u8]>) -> (Wire, Wire) {
    let mut wire = client.connect().await;
    wire.send(head).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    (wire, at_backend)
}

async fn get(client: &Client, backend: &Backend) -> (Wire, Wire) {
    sent(client, backend, client.request("GET /in HTTP/1.1", "")).await
}

/// A GET whose answer begins with `answer`.
async fn begun(client: &Client, backend: &Backend, answer: &str) -> (Wire, Wire) {
    let (mut wire, mut at_backend) = get(client, backend).await;
    at_backend.send(answer).await;
    wire.head().await;
    (wire, at_backend)
}

async fn expect_closed(sidegate: &Sidegate, by: &str, reason: &str) {
    sidegate.expect_metric(CLOSED, [("by", by), ("reason", reason)], 1).await;
    sidegate.expect_metric("sidegate_exchanges_open", [], 0).await;
}

#[tokio::test]
async fn client_that_leaves_before_its_answer_is_logged_as_failed() {
    for tls in [false, true] {
        for kind in ["upgrade", "plain"] {
            let (sidegate, backend) = start(|new| if tls { new.tls() } else { new }).await;
            let client = client::new(&sidegate);
            let head = match kind {
                "upgrade" => client.attempt_head("/", ""),
                _ => client.request("POST / HTTP/1.1", "Content-Length: 2\r\n") + "ab",
            };
            let (wire, at_backend) = sent(&client, &backend, head).await;
            wire.reset();
            sidegate.expect_metric(REQUESTS, [("kind", kind), ("result", "failed")], 1).await;
            sidegate.expect_metric(REQUESTS, [], 1).await;
            drop(at_backend);
        }
    }
}

#[tokio::test]
async fn closed_client_is_logged_as_failed_when_answered() {
    for head in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "attempt".to_owned()] {
        let (sidegate, backend) = start(|new| new).await;
        let client = client::new(&sidegate);
        let is_attempt = head == "attempt";
        let head = if is_attempt { client.attempt_head("/", "") } else { head };
        let mut wire = client.connect().await;
        wire.send(&head).await;
        let mut at_backend = backend.accepted().await;
        if is_attempt {
            drop(wire);
            backend::grant(&mut at_backend, "").await;
        } else {
            at_backend.head().await;
            drop(wire);
            at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        sidegate.expect_metric(REQUESTS, [("result", "failed")], 1).await;
        sidegate.expect_metric(REQUESTS, [], 1).await;
    }
}

#[tokio::test]
async fn closed_client_is_detected_before_its_answer() {
    for tls in [false, true] {
        let (sidegate, backend) = start(|new| if tls { new.tls() } else { new }).await;
        let client = client::new(&sidegate);
        let (wire, mut at_backend) = get(&client, &backend).await;
        drop(wire);
        at_backend.expect_end().await;
        sidegate.expect_metric(REQUESTS, [("result", "failed")], 1).await;
        expect_closed(&sidegate, "client", "client_left").await;
    }
}

#[tokio::test]
async fn half_closed_client_that_waits_gets_its_answer() {
    for (version, interim) in [("1.1", vec![100]), ("1.0", vec![])] {
        let (sidegate, backend) = start(|new| new).await;
        let client = client::new(&sidegate);
        let head = client.request(&format!("GET / HTTP/{version}"), "");
        let (mut wire, mut at_backend) = sent(&client, &backend, head).await;
        wire.finish().await;
        tokio::time::sleep(Duration::from_millis(2500)).await; // the claim is about time
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let answer = wire.answer().await;
        assert_eq!((answer.expect(200).text(), &answer.informed), ("ok".into(), &interim));
        sidegate.expect_metric(REQUESTS, [("result", "permitted")], 1).await;
    }
}

#[tokio::test]
async fn half_closed_client_gets_its_answer() {
    for tls in [false, true] {
        let (sidegate, backend) = start(|new| if tls { new.tls() } else { new }).await;
        let client = client::new(&sidegate);
        let (mut wire, mut at_backend) = get(&client, &backend).await;
        wire.finish().await;
        at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(wire.answer().await.expect(200).text(), "ok");
        wire.expect_end().await;
        sidegate.expect_metric(REQUESTS, [("result", "permitted")], 1).await;
        sidegate.expect_metric(REQUESTS, [], 1).await;
    }
}

#[tokio::test]
async fn client_half_closed_at_once_gets_its_answers() {
    let backend = backend::http(|_| backend::reply(200).body("ok")).run().await;
    for tls in [false, true] {
        let sidegate = if tls { new(&backend).tls() } else { new(&backend) }.run().await;
        let client = client::new(&sidegate);
        let get = client.request("GET / HTTP/1.1", "");
        let post = client.request("POST / HTTP/1.1", "Content-Length: 2\r\n") + "ab";
        for (requests, count) in [(get.clone(), 1), (post.clone(), 1), (post + &get, 2)] {
            for _ in 0..20 {
                let mut wire = client.connect().await;
                wire.send(&requests).await;
                wire.finish().await;
                for _ in 0..count {
                    wire.answer().await.expect(200);
                }
            }
        }
        sidegate.expect_metric(REQUESTS, [("result", "permitted")], 80).await;
        sidegate.expect_metric(REQUESTS, [], 80).await;
    }
}

#[tokio::test]
async fn reset_behind_more_bytes_is_logged_as_client_left() {
    for tls in [false, true] {
        let (sidegate, backend) = start(|new| if tls { new.tls() } else { new }).await;
        let client = client::new(&sidegate);
        let head = client.request("GET / HTTP/1.1", "") + "G";
        let (wire, mut at_backend) = sent(&client, &backend, head).await;
        wire.reset();
        at_backend.expect_end().await;
        sidegate.expect_metric(REQUESTS, [("result", "failed")], 1).await;
        expect_closed(&sidegate, "client", "client_left").await;
    }
}

#[tokio::test]
async fn attempt_of_a_half_closed_client_is_permitted() {
    let (sidegate, backend) = start(|new| new).await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/", "")).await;
    wire.finish().await;
    backend::grant(&mut backend.accepted().await, "").await;
    wire.answer().await.expect(101);
    sidegate.expect_metric(REQUESTS, [("kind", "upgrade"), ("result", "permitted")], 1).await;
}

#[tokio::test]
async fn client_that_leaves_in_its_body_is_logged_as_left() {
    for framing in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"]
    {
        let (sidegate, backend) = start(|new| new).await;
        let client = client::new(&sidegate);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}");
        let (wire, mut at_backend) = sent(&client, &backend, head).await;
        drop(wire);
        at_backend.rest().await;
        sidegate.expect_metric(REQUESTS, [("result", "failed")], 1).await;
        sidegate.expect_metric("sidegate_refusals_total", [], 0).await;
        expect_closed(&sidegate, "client", "client_left").await;
    }
}

#[tokio::test]
async fn requests_are_conserved_under_random_departures() {
    // It answers a head without its body, since that may never come.
    let backend = backend::raw(|mut wire| async move {
        wire.try_head().await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    });
    let backend = backend.run().await;
    let sidegate = new(&backend).run().await;
    let client = client::new(&sidegate);
    let heads = [
        client.request("GET / HTTP/1.1", ""),
        client.request("POST / HTTP/1.1", "Content-Length: 3\r\n") + "abc",
        client.request("POST / HTTP/1.1", "Content-Length: 3\r\n") + "a",
        client.request("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n")
            + "3\r\nabc\r\n0\r\n\r\n",
        client.attempt_head("/", ""),
    ];
    for turn in 0..100_usize {
        let mut wire = client.connect().await;
        wire.send(&heads[turn % heads.len()]).await;
        match rand::random_range(0..4) {
            0 => drop(wire),
            1 => wire.reset(),
            2 => wire.finish().await,
            _ => drop(wire.try_head().await),
        }
    }
    sidegate.expect_metric("sidegate_connections_accepted_total", [], 100).await;
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    let booked = sidegate.metric(REQUESTS, []).await;
    let (heads, at_most) = (backend.heads().len() as f64, 100.0);
    assert!(booked >= heads && booked <= at_most, "{booked} of {heads} that the backend got");
    sidegate.expect_metric("sidegate_exchanges_open", [], 0).await;
}

#[tokio::test]
async fn truncated_answer_is_logged_as_backend_gone() {
    let (sidegate, backend) = start(|new| new).await;
    let (mut wire, at_backend) = begun(&client::new(&sidegate), &backend, EVENTS).await;
    drop(at_backend);
    assert!(!wire.rest().await.ends_with(b"0\r\n\r\n"));
    expect_closed(&sidegate, "backend", "backend_gone").await;
}

#[tokio::test]
async fn cut_answer_is_reset_unless_it_is_in_chunks() {
    let open = EVENTS.replace("event-stream", "plain");
    for (version, answer, resets) in
        [("1.1", &*open, false), ("1.1", SIZED, true), ("1.0", &*open, true)]
    {
        let (sidegate, backend) = start(|new| new.timeouts("body_stall = '100ms'")).await;
        let client = client::new(&sidegate);
        let head = client.request(&format!("GET / HTTP/{version}"), "");
        let (mut wire, mut at_backend) = sent(&client, &backend, head).await;
        at_backend.send(answer).await;
        assert_eq!(wire.is_reset().await, resets, "HTTP/{version} {answer}");
        expect_closed(&sidegate, "backend", "body_stall").await;
        sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "cut")], 1).await;
    }
}

/// Two clients, 127.0.0.2 and .3; a reload denies the first.
async fn two() -> (Sidegate, Backend, [Client; 2]) {
    let (sidegate, backend) = start(|new| new.toml("reload.revoke_spread = '0s'")).await;
    let clients = ["127.0.0.2", "127.0.0.3"].map(|address| client::new(&sidegate).from(address));
    (sidegate, backend, clients)
}

#[tokio::test]
async fn stream_of_a_denied_client_is_cut_and_others_continue() {
    for answer in [EVENTS, SIZED] {
        let (sidegate, backend, [one, other]) = two().await;
        let (mut cut, mut at_cut) = begun(&one, &backend, answer).await;
        let (mut stays, mut at_stays) = begun(&other, &backend, EVENTS).await;
        sidegate.policy().deny("127.0.0.2").write().await;
        assert!(!cut.rest().await.ends_with(b"0\r\n\r\n"));
        at_cut.rest().await;
        expect_closed_one(&sidegate).await;
        at_stays.send("3\r\ntwo\r\n0\r\n\r\n").await;
        assert_eq!(stays.chunk().await.unwrap(), b"one");
        assert_eq!((stays.chunk().await.unwrap(), stays.chunk().await), (b"two".to_vec(), None));
    }
}

async fn expect_closed_one(sidegate: &Sidegate) {
    sidegate.expect_metric(CLOSED, [("by", "sidegate"), ("reason", "revoked")], 1).await;
    sidegate.expect_metric("sidegate_exchanges_open", [], 1).await;
}

#[tokio::test]
async fn stalled_stream_of_a_denied_client_is_cut() {
    let (sidegate, backend, [one, _]) = two().await;
    let (_wire, mut at_backend) = begun(&one, &backend, EVENTS).await;
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let floods = async {
        loop {
            at_backend.send(&chunk).await; // until it is cut
        }
    };
    let denies = async {
        sidegate.expect_metric("sidegate_exchanges_open", [], 1).await;
        sidegate.policy().deny("127.0.0.2").write().await;
        expect_closed(&sidegate, "sidegate", "revoked").await;
    };
    tokio::select! { () = denies => {}, () = floods => unreachable!() }
}

#[tokio::test]
async fn long_poll_of_a_denied_client_is_refused_and_aborted() {
    let (sidegate, backend, [one, _]) = two().await;
    let (mut wire, mut at_backend) = get(&one, &backend).await;
    sidegate.policy().deny("127.0.0.2").write().await;
    wire.answer().await.expect_refused(403, "network");
    at_backend.expect_end().await;
    expect_closed(&sidegate, "sidegate", "revoked").await;
    sidegate.expect_metric(REQUESTS, [("result", "refused")], 1).await;
}

/// The running configuration, with `key` of its one route changed.
async fn reroute(sidegate: &Sidegate, key: &str, value: &str) -> u64 {
    let change = |config: &mut toml::Table| {
        config["route"][0].as_table_mut().unwrap().insert(key.into(), value.into());
    };
    sidegate.reconfigure(change).await
}

#[tokio::test]
async fn exchanges_end_when_their_route_stops_forwarding() {
    let (sidegate, backend, [one, other]) = two().await;
    let (mut stream, _at_stream) = begun(&one, &backend, EVENTS).await;
    let (mut poll, mut at_poll) = get(&other, &backend).await;
    let mut attempt = other.connect().await;
    attempt.send(other.attempt_head("/", "")).await;
    backend::grant(&mut backend.accepted().await, "").await;
    attempt.answer().await.expect(101);
    reroute(&sidegate, "http", "refuse").await;
    assert!(!stream.rest().await.ends_with(b"0\r\n\r\n"));
    poll.answer().await.expect_refused(426, "plain");
    at_poll.expect_end().await;
    sidegate.expect_metric(CLOSED, [("by", "sidegate"), ("reason", "revoked")], 2).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
}

#[tokio::test]
async fn exchanges_end_when_their_route_is_removed() {
    let (sidegate, backend, [one, other]) = two().await;
    let (mut stream, _at_stream) = begun(&one, &backend, EVENTS).await;
    let (mut poll, _at_poll) = get(&other, &backend).await;
    reroute(&sidegate, "path", "/elsewhere/").await;
    assert!(!stream.rest().await.ends_with(b"0\r\n\r\n"));
    poll.answer().await.expect_refused(404, "route");
    expect_closed_two(&sidegate).await;
}

#[tokio::test]
async fn exchanges_end_when_their_path_is_no_longer_as_is() {
    let (sidegate, backend) =
        start(|new| new.on_route("paths = 'as-is'").toml("reload.revoke_spread = '0s'")).await;
    let client = client::new(&sidegate);
    let odd = client.request("GET /in%2Fside HTTP/1.1", "");
    let (mut stream, mut at_stream) = sent(&client, &backend, &odd).await;
    at_stream.send(EVENTS).await;
    stream.head().await;
    let (mut poll, _at_poll) = sent(&client, &backend, &odd).await;
    let (mut plain, mut at_plain) = get(&client, &backend).await;
    reroute(&sidegate, "paths", "canonical").await;
    assert!(!stream.rest().await.ends_with(b"0\r\n\r\n"));
    poll.answer().await.expect_refused(400, "path");
    at_plain.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    plain.answer().await.expect(200);
    expect_closed_two(&sidegate).await;
}

async fn expect_closed_two(sidegate: &Sidegate) {
    sidegate.expect_metric(CLOSED, [("by", "sidegate"), ("reason", "revoked")], 2).await;
    sidegate.expect_metric("sidegate_exchanges_open", [], 0).await;
}

#[tokio::test]
async fn request_keeps_the_bounds_under_which_it_began() {
    let (sidegate, backend, [one, _]) = two().await;
    let head = one.request("POST / HTTP/1.1", "Content-Length: 9\r\n") + "half";
    let (mut wire, mut at_backend) = sent(&one, &backend, head).await;
    reroute(&sidegate, "max_body", "4B").await;
    wire.send("other").await;
    assert_eq!(at_backend.bytes(9).await, b"halfother");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    wire.answer().await.expect(200);
}

#[tokio::test]
async fn reload_that_ends_forwarding_counts_the_exchanges_to_cut() {
    let (sidegate, backend) = start(|new| new.toml("reload.max_revoked = '0'")).await;
    let (_wire, _at_backend) = begun(&client::new(&sidegate), &backend, EVENTS).await;
    let mut config = sidegate.toml();
    config["route"][0].as_table_mut().unwrap().insert("http".into(), "refuse".into());
    let said = sidegate.write_rejected("sidegate.toml", &toml::to_string(&config).unwrap()).await;
    assert!(said.contains("1 of 1 open tunnels and streams would be closed"), "{said}");
}

#[tokio::test]
async fn upload_of_a_denied_client_is_aborted() {
    let (sidegate, backend, [one, _]) = two().await;
    let head = one.request("POST / HTTP/1.1", "Content-Length: 9\r\n") + "half";
    let (mut wire, mut at_backend) = sent(&one, &backend, head).await;
    sidegate.policy().deny("127.0.0.2").write().await;
    wire.answer().await.expect_refused(403, "network");
    at_backend.rest().await;
    expect_closed(&sidegate, "sidegate", "revoked").await;
}

#[tokio::test]
async fn stream_that_answers_an_attempt_is_cut_as_any_other() {
    let (sidegate, backend, [one, _]) = two().await;
    let (mut wire, mut at_backend) = sent(&one, &backend, one.attempt_head("/", "")).await;
    at_backend.send(EVENTS).await;
    wire.head().await;
    sidegate.policy().deny("127.0.0.2").write().await;
    assert!(!wire.rest().await.ends_with(b"0\r\n\r\n"));
    at_backend.rest().await;
    expect_closed(&sidegate, "sidegate", "revoked").await;
}

#[tokio::test]
async fn stream_whose_entry_lapses_is_cut() {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let entry = format!("127.0.0.1 expires={until:.0}");
    let (sidegate, backend) = start(|new| new.policy(|page| page.allow_only(&entry))).await;
    let (mut wire, _at_backend) = begun(&client::new(&sidegate), &backend, EVENTS).await;
    assert!(!wire.rest().await.ends_with(b"0\r\n\r\n"));
    expect_closed(&sidegate, "sidegate", "revoked").await;
}

#[tokio::test]
async fn tunnel_whose_entry_lapsed_before_its_101_is_revoked() {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let entry = format!("127.0.0.1 expires={until:.0}");
    let quiet = "reload.watch = 'off'\nreload.poll = '1h'";
    let (sidegate, backend) =
        start(|new| new.toml(quiet).policy(|page| page.allow_only(&entry))).await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/", "")).await;
    let mut at_backend = backend.accepted().await;
    let lapses =
        Duration::try_from(until.duration_since(jiff::Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(lapses + Duration::from_secs(1)).await; // the claim is about time
    backend::grant(&mut at_backend, "").await;
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await.closes(), Some((1008, "network".into())));
}

#[tokio::test]
async fn reload_that_would_cut_a_stream_counts_it() {
    let (sidegate, backend) = start(|new| new.toml("reload.max_revoked = '0'")).await;
    let (mut wire, mut at_backend) = begun(&client::new(&sidegate), &backend, EVENTS).await;
    let text = std::fs::read_to_string(sidegate.folder().join("policies/default.toml")).unwrap();
    let denying = text.replace("[client]", "[client]\ndeny = [\"127.0.0.1\"]");
    let said = sidegate.write_rejected("policies/default.toml", &denying).await;
    assert!(said.contains("1 of 1 open tunnels and streams would be closed"), "{said}");
    at_backend.send("0\r\n\r\n").await;
    assert_eq!((wire.chunk().await.unwrap(), wire.chunk().await), (b"one".to_vec(), None));
}

#[tokio::test]
async fn excess_streams_are_cut_at_five_seconds() {
    let limits = "streams = { per_client = 1, total = 2 }";
    let (sidegate, backend) = start(|new| new.limits(limits)).await;
    let client = client::new(&sidegate);
    let began = Instant::now();
    let (_stays, _at_first) = begun(&client, &backend, EVENTS).await;
    let (mut cut, _at_second) = begun(&client, &backend, EVENTS).await;
    let (mut poll, _at_third) = get(&client, &backend).await;
    assert!(!cut.rest().await.ends_with(b"0\r\n\r\n") && began.elapsed() >= Duration::from_secs(5));
    poll.answer().await.expect_refused(429, "connections");
    sidegate.expect_metric(CLOSED, [("by", "sidegate"), ("reason", "streams")], 2).await;
    sidegate.expect_metric("sidegate_exchanges_open", [], 1).await;
    sidegate.expect_metric("sidegate_streams_limit", [], 2).await;
}

#[tokio::test]
async fn stream_of_events_ends_at_the_policys_lifetime() {
    let (sidegate, backend) = start(|new| new.limits("lifetime = '200ms'")).await;
    let (mut wire, mut at_backend) = begun(&client::new(&sidegate), &backend, EVENTS).await;
    assert!(!wire.rest().await.ends_with(b"0\r\n\r\n"));
    at_backend.expect_end().await;
    expect_closed(&sidegate, "sidegate", "lifetime").await;
}

#[tokio::test]
async fn drain_ends_streams_and_lets_answers_with_a_length_finish() {
    let (mut sidegate, backend) =
        start(|new| new.toml("[shutdown]\nspread = '0s'\ndeadline = '1h'")).await;
    let client = client::new(&sidegate);
    let (mut events, _at_events) = begun(&client, &backend, EVENTS).await;
    let (mut sized, mut at_sized) = begun(&client, &backend, SIZED).await;
    sidegate.drain().await;
    assert!(!events.rest().await.ends_with(b"0\r\n\r\n"));
    at_sized.send("-rest!").await;
    assert_eq!(sized.bytes(9).await, b"one-rest!");
    drop(sized);
    sidegate.ended().await;
}

#[tokio::test]
async fn drain_refuses_a_long_poll_that_may_be_repeated() {
    let (mut sidegate, backend) =
        start(|new| new.toml("[shutdown]\nspread = '0s'\ndeadline = '1h'")).await;
    let (mut poll, mut at_poll) = get(&client::new(&sidegate), &backend).await;
    sidegate.drain().await;
    let answer = poll.answer().await;
    answer.expect_refused(503, "draining");
    assert!(answer.header("retry-after").is_some());
    at_poll.expect_end().await;
    sidegate.ended().await;
}

#[tokio::test]
async fn drain_refuses_an_attempt_whose_backend_does_not_answer() {
    let (mut sidegate, backend) =
        start(|new| new.toml("[shutdown]\nspread = '0s'\ndeadline = '1h'")).await;
    let client = client::new(&sidegate);
    let (mut wire, mut at_backend) = sent(&client, &backend, client.attempt_head("/", "")).await;
    sidegate.drain().await;
    let answer = wire.answer().await;
    answer.expect_refused(503, "draining");
    assert!(answer.header("retry-after").is_some());
    at_backend.expect_end().await;
    sidegate.ended().await;
}

#[tokio::test]
async fn upload_longer_than_response_is_answered() {
    let (sidegate, backend) = start(|new| new.timeouts("response = '100ms'")).await;
    let client = client::new(&sidegate);
    let head = client.request("POST / HTTP/1.1", "Content-Length: 5\r\n");
    let (mut wire, mut at_backend) = sent(&client, &backend, head).await;
    for byte in ["a", "b", "c", "d", "e"] {
        tokio::time::sleep(Duration::from_millis(50)).await; // the claim is about time
        wire.send(byte).await;
    }
    assert_eq!(at_backend.bytes(5).await, b"abcde");
    at_backend.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    wire.answer().await.expect(200);
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "backend")], 0).await;
}

#[tokio::test]
async fn backend_that_reads_no_upload_times_out() {
    let (sidegate, backend) =
        start(|new| new.timeouts("write_stall = '200ms'").on_route("max_body = '64MiB'")).await;
    let client = client::new(&sidegate);
    let head = client.request("POST / HTTP/1.1", &format!("Content-Length: {}\r\n", 32 << 20));
    let (mut wire, _at_backend) = sent(&client, &backend, head).await;
    wire.send(vec![b'x'; 32 << 20]).await; // until it is cut
    sidegate.expect_metric(REQUESTS, [("result", "failed")], 1).await;
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "backend")], 1).await;
    expect_closed(&sidegate, "backend", "backend").await;
}
