//! The trace of each request: what backends get of it, and the log lines that name it.

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::process::{self, Process};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::Head;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A route `/chat` that forwards plain HTTP too, with these keys of `[tracing]`.
fn tracing(backend: &Backend, keys: &str) -> sidegate::Builder {
    let route = sidegate::new().clear().route("/chat", backend).on_route("http = 'forward'");
    route.toml(&format!("[tracing]\n{keys}"))
}

/// The head that the backend gets of a plain request with these header lines (`|` means CRLF).
async fn sent_on(keys: &str, lines: &str) -> Head {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = tracing(&backend, keys).run().await;
    let lines = lines.replace('|', "\r\n");
    let head = format!("GET /chat HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n");
    client::new(&sidegate).send(head).await.expect(200);
    backend.head().await
}

/// The parts of the one `traceparent` of a head: version, trace, span and flags.
fn parts(head: &Head) -> [String; 4] {
    let [value] = head.all("traceparent")[..] else { panic!("{:?}", head.all("traceparent")) };
    let parts: Vec<_> = value.split('-').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

#[tokio::test]
async fn traceparent_passes_unchanged_by_default() {
    for (lines, expected) in [
        (format!("traceparent: {SENT}|tracestate: a=1"), vec![SENT]),
        ("traceparent: what".to_owned(), vec!["what"]),
        ("X-Other: 1".to_owned(), vec![]),
    ] {
        assert_eq!(sent_on("", &lines).await.all("traceparent"), expected, "{lines}");
    }
}

#[tokio::test]
async fn connection_that_names_the_trace_does_not_hide_it() {
    let named = format!("Connection: keep-alive, traceparent|traceparent: {SENT}|tracestate: a=1");
    for keys in ["", "traceparent = 'make'"] {
        let head = sent_on(keys, &named).await;
        assert_eq!((head.all("traceparent"), head.header("tracestate")), (vec![SENT], Some("a=1")));
    }
    let restarted = sent_on("traceparent = 'restart'", &named).await;
    assert_ne!(parts(&restarted)[1], TRACE);
    assert_eq!(restarted.header("tracestate"), None);
}

#[tokio::test]
async fn trace_is_made_where_none_valid_was_sent() {
    let make = "traceparent = 'make'\nsampled = '0%'";
    let kept = sent_on(make, &format!("Traceparent: {SENT}|tracestate: a=1")).await;
    assert_eq!((kept.all("traceparent"), kept.header("tracestate")), (vec![SENT], Some("a=1")));
    for lines in ["X: 1", "traceparent: what|tracestate: a=1"] {
        let head = sent_on(make, lines).await;
        let [version, trace, span, flags] = parts(&head);
        assert_eq!((&*version, trace.len(), span.len(), &*flags), ("00", 32, 16, "00"), "{lines}");
        assert_eq!(head.header("tracestate"), None, "{lines}");
    }
}

/// The heads that the backend gets of plain requests with these header lines (`|` means CRLF), one
/// after the other on one connection.
async fn sent_on_one_connection(keys: &str, requests: &[String]) -> Vec<Head> {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = tracing(&backend, keys).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    let mut heads = Vec::new();
    for lines in requests {
        let lines = lines.replace('|', "\r\n");
        wire.send(format!("GET /chat HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n")).await;
        wire.answer().await.expect(200);
        heads.push(backend.head().await);
    }
    heads
}

#[tokio::test]
async fn field_that_is_not_valid_begins_another_trace() {
    let long = format!("a={}", "x".repeat(2000));
    let states = format!("tracestate: {long}|tracestate: b=2");
    let zeros = |part: &str| SENT.replace(part, &"0".repeat(part.len()));
    let later = format!("{}-what", SENT.replacen("00", "cc", 1));
    let broken = [
        SENT.to_uppercase(),
        SENT.replacen("00", "ff", 1),
        SENT.replacen("00", "0", 1),
        zeros(TRACE),
        zeros("00f067aa0ba902b7"),
        format!("{SENT}-00"),
        format!("{}what", SENT.replacen("00", "cc", 1)),
        SENT.replace("-01", "-1"),
        format!("{SENT}, {SENT}"),
        format!("{SENT}|traceparent: {SENT}"),
        "|traceparent:".to_owned(),
    ];
    let valid = [SENT.to_owned(), SENT.replace("-01", "-ff"), later];
    let request = |value: &String| format!("traceparent: {value}|{states}");
    let requests: Vec<_> = valid.iter().chain(&broken).map(request).collect();
    let heads = sent_on_one_connection("traceparent = 'make'", &requests).await;
    let (kept, made) = heads.split_at(valid.len());
    for (head, value) in kept.iter().zip(&valid) {
        assert_eq!(head.all("traceparent"), [value]);
        assert_eq!(head.all("tracestate"), [&*long, "b=2"], "{value}");
    }
    for (head, value) in made.iter().zip(&broken) {
        let [version, trace, _, flags] = parts(head);
        assert_eq!((&*version, &*flags), ("00", "01"), "{value}");
        assert!(trace != TRACE && head.all("tracestate").is_empty(), "{value}: {head:?}");
    }
    // Without a decision to make traces, backends get even these.
    let heads = sent_on_one_connection("", &requests).await;
    assert!(heads.iter().all(|head| head.all("tracestate").len() == 2));
    assert_eq!(heads[3].all("traceparent"), [SENT.to_uppercase()]);
}

#[tokio::test]
async fn requests_of_one_connection_have_their_own_traces() {
    let other = SENT.replace(TRACE, &"7".repeat(32));
    let requests = [
        format!("traceparent: {SENT}|tracestate: a=1"),
        "X-Other: 1".to_owned(),
        format!("traceparent: {other}"),
        "tracestate: b=2".to_owned(),
        format!("traceparent: {SENT}"),
    ];
    let heads = sent_on_one_connection("traceparent = 'make'", &requests).await;
    let traces: Vec<_> = heads.iter().map(|head| parts(head)[1].clone()).collect();
    assert_eq!([&*traces[0], &*traces[2], &*traces[4]], [TRACE, &"7".repeat(32), TRACE]);
    assert!(traces[1] != traces[3] && !traces[..1].contains(&traces[1]));
    let states: Vec<_> = heads.iter().map(|head| head.all("tracestate").len()).collect();
    assert_eq!(states, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn line_of_a_failure_names_the_trace() {
    let backend = backend::refusing();
    let folder = tracing(&backend, "").write();
    let mut process = process::new(folder.path()).run().await;
    process.client().header("traceparent", SENT).attempt("/chat").await.expect(502);
    assert_eq!(process.logged("failed").await["trace_id"], TRACE);
}

#[tokio::test]
async fn every_line_of_a_tunnel_names_its_trace() {
    let backend = backend::echo().run().await;
    let folder = tracing(&backend, "").write();
    let mut process = process::new(folder.path()).run().await;
    let mut tunnel = process.client().header("traceparent", SENT).open("/chat").await;
    assert_eq!(process.logged("permitted").await["trace_id"], TRACE);
    assert_eq!(parts(&backend.head().await)[1], TRACE);
    tunnel.close(1000, "bye").await;
    assert_eq!(process.logged("tunnel closed").await["trace_id"], TRACE);
}

#[tokio::test]
async fn line_of_a_refusal_names_the_trace_that_began_here() {
    let backend = backend::echo().run().await;
    let folder = tracing(&backend, "traceparent = 'restart'").allow("192.0.2.0/24").write();
    let mut process: Process = process::new(folder.path()).run().await;
    process.client().header("traceparent", SENT).attempt("/chat").await.expect(403);
    let refused = process.logged("refused").await;
    let trace = refused["trace_id"].as_str().unwrap();
    assert!(trace.len() == 32 && trace != TRACE, "{refused}");
}

#[tokio::test]
async fn reload_changes_the_traces_of_later_requests() {
    let backend = backend::echo().run().await;
    let sidegate: Sidegate = tracing(&backend, "traceparent = 'pass'").run().await;
    client::new(&sidegate).open("/chat").await;
    assert!(backend.head().await.all("traceparent").is_empty());
    let change = |toml: &mut toml::Table| {
        toml["tracing"]["traceparent"] = "restart".into();
    };
    sidegate.reconfigure(change).await;
    client::new(&sidegate).header("traceparent", SENT).open("/chat").await;
    assert_ne!(parts(&backend.head().await)[1], TRACE);
}
