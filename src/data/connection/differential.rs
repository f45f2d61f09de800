//! Compares what the direct way writes with what hyper's encoders write of the same heads, drawn at
//! random: answers of sidegate's own, 101s, and attempts on their way to a backend.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use crate::data::backend::client;
use crate::data::connection::served::server;
use crate::data::http::body::{RequestBody, ResponseBody};
use crate::data::http::forward::{self, ForwardedFacts, RequestNames};
use crate::data::http::head::{self, ParsedHead, UpgradeResponse};
use crate::data::http::reply::{self, Persistence};
use crate::data::websocket::handshake::Handshake;
use crate::policy::limit::Limits;
use crate::policy::network::Client;
use crate::policy::request::{Request as Gated, Scheme};
use crate::refusal::{BackendError, HeadError, Refusal};
use crate::snapshot::listener::DEFAULT_MAX_FIELDS;
use crate::snapshot::tests::{policy, route};

const MAX_HEAD_BYTES: usize = 64 * 1024;
const HEADS: usize = 400;

const KEY_BYTES: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Fields that may come more than once, in every way that a peer may spell them.
const IDENTITY_NAMES: [&str; 16] = [
    "X-Own",
    "x-own",
    "X-OWN",
    "Cookie",
    "Set-Cookie",
    "set-cookie",
    "Server",
    "Keep-Alive",
    "Via",
    "TE",
    "Trailer",
    "X-Forwarded-For",
    "x-request-id",
    "Forwarded",
    "Accept",
    "X_Own",
];

fn pick<'c>(random: &mut StdRng, of: &[&'c str]) -> &'c str {
    of.choose(random).unwrap()
}

/// Up to nine fields, as lines.
fn fields(random: &mut StdRng) -> Vec<u8> {
    const VALUES: &[u8] = b"abcXYZ019 ,;=\"/()<>\t\x80\xff%-_.~";
    let mut lines = Vec::new();
    for _ in 0..random.random_range(0..10) {
        lines.extend_from_slice(pick(random, &IDENTITY_NAMES).as_bytes());
        lines.extend_from_slice(pick(random, &[": ", ":", ":  "]).as_bytes());
        let length = random.random_range(0..20);
        lines.extend((0..length).map(|_| *VALUES.choose(random).unwrap()));
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// The head of an attempt. Some are refused by the gate.
fn attempt(random: &mut StdRng) -> Vec<u8> {
    let path =
        pick(random, &["/", "/a/./b", "/%7Ea/../b;c=d", "//a", "/a%20b", "/a?b=/../c&d=%zz"]);
    let host = pick(random, &["localhost", "LocalHost:80", "[::1]"]);
    let connection = pick(
        random,
        &["Upgrade", "keep-alive, Upgrade", "upgrade, X-Own", "x-own\r\nconnection: upgrade"],
    );
    let fixed = format!(
        "GET {path} HTTP/1.1\r\n{}: {host}\r\n{}: WebSocket\r\n{}: {connection}\r\n",
        pick(random, &["Host", "HOST"]),
        pick(random, &["Upgrade", "upgrade"]),
        pick(random, &["Connection", "connection"]),
    );
    let handshake = format!("Sec-WebSocket-Version: 13\r\nsec-websocket-key: {KEY_BYTES}\r\n\r\n");
    [fixed.as_bytes(), &fields(random), handshake.as_bytes()].concat()
}

/// The head of a 101 to that attempt. Some are not valid.
fn switching(random: &mut StdRng) -> Vec<u8> {
    let phrase = pick(random, &["Switching Protocols", "Web Socket Protocol Handshake", ""]);
    let upgrade = pick(random, &["websocket", "WebSocket", "websocket, h2c"]);
    let connection =
        pick(random, &["Upgrade", "upgrade, X-Own, Sec-WebSocket-Accept", "x-own", "Upgrade, Via"]);
    let framing = pick(
        random,
        &["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Date: today\r\n"],
    );
    let accept = pick(random, &[ACCEPT, ACCEPT, ACCEPT, KEY_BYTES]);
    let fixed = format!(
        "HTTP/1.1 101 {phrase}\r\nUPGRADE: {upgrade}\r\nConnection: {connection}\r\n{framing}\
         {}: {accept}\r\n",
        pick(random, &["Sec-WebSocket-Accept", "sec-websocket-accept"]),
    );
    [fixed.as_bytes(), &fields(random), b"\r\n"].concat()
}

/// Reads up to the end of a head.
async fn head_of(far: &mut DuplexStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(far.read_u8().await.unwrap());
    }
    head
}

/// What hyper's server writes to a client that has sent `request`, to answer it with
/// `answer`.
async fn by_server(request: &[u8], answer: Response<ResponseBody>) -> Vec<u8> {
    let length = answer.body().size_hint().exact().unwrap();
    let (mut near, far) = duplex(MAX_HEAD_BYTES);
    near.write_all(request).await.unwrap();
    let answer = Cell::new(Some(answer));
    let service =
        service_fn(|_| ready(Ok::<_, Infallible>(answer.take().expect("a single request"))));
    let connection =
        server(MAX_HEAD_BYTES, DEFAULT_MAX_FIELDS).serve_connection(TokioIo::new(far), service);
    let served = async {
        connection.with_upgrades().await.unwrap();
        pending::<()>().await;
    };
    let read = async {
        let mut written = head_of(&mut near).await;
        for _ in 0..length {
            written.push(near.read_u8().await.unwrap());
        }
        written
    };
    tokio::select! {
        written = read => written,
        () = served => unreachable!(),
    }
}

/// The head that hyper's server makes of `came`.
async fn read_by_server(came: &[u8]) -> request::Parts {
    let (saw, mut seen) = mpsc::channel(1);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let _ = saw.try_send(request.into_parts().0);
        pending::<Result<Response<ResponseBody>, Infallible>>()
    });
    let (mut near, far) = duplex(MAX_HEAD_BYTES);
    near.write_all(came).await.unwrap();
    let connection =
        server(MAX_HEAD_BYTES, DEFAULT_MAX_FIELDS).serve_connection(TokioIo::new(far), service);
    tokio::select! {
        ended = connection => panic!("{ended:?} of {:?}", String::from_utf8_lossy(came)),
        parts = seen.recv() => parts.unwrap(),
    }
}

/// What hyper's client writes to a backend.
async fn by_client(parts: request::Parts) -> Vec<u8> {
    let (near, mut far) = duplex(MAX_HEAD_BYTES);
    let (mut sender, connection) =
        client(DEFAULT_MAX_FIELDS).handshake(TokioIo::new(near)).await.unwrap();
    let sent = sender.send_request(Request::from_parts(parts, RequestBody::Empty));
    tokio::select! {
        written = head_of(&mut far) => written,
        ended = connection.with_upgrades() => panic!("{ended:?}"),
        answer = sent => panic!("{answer:?}"),
    }
}

/// The 101 that hyper's client reads from a backend which answers with `head`.
async fn read_by_client(head: &[u8]) -> http::response::Parts {
    let (near, mut far) = duplex(MAX_HEAD_BYTES);
    let (mut sender, connection) =
        client(DEFAULT_MAX_FIELDS).handshake(TokioIo::new(near)).await.unwrap();
    let request = Request::new(RequestBody::Empty);
    let sent = sender.send_request(request);
    let backend = async {
        head_of(&mut far).await;
        far.write_all(head).await.unwrap();
    };
    let (_, answer, ()) = tokio::join!(connection.with_upgrades(), sent, backend);
    answer.unwrap().into_parts().0
}

/// Takes out the `Date` that `written` has, which must be about now in the only form for it.
fn without_date(written: &[u8]) -> String {
    let text = String::from_utf8(written.to_vec()).unwrap();
    let (before, rest) = text.split_once("\r\nDate: ").expect("a date");
    let (date, after) = rest.split_once("\r\n").unwrap();
    let at = DateTimeParser::new().parse_timestamp(date).unwrap();
    assert!(at.duration_until(Timestamp::now()).as_secs() < 60, "{date}");
    assert_eq!(DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap(), date);
    format!("{before}\r\n{after}")
}

/// Asserts that `answer` to a random attempt is written alike.
async fn check_answer(random: &mut StdRng, answer: Response<Bytes>) {
    let ours = head::write_answer(&answer, Timestamp::now());
    let hypers = by_server(&attempt(random), answer.map(ResponseBody::full)).await;
    assert_eq!(without_date(&ours), without_date(&hypers));
}

fn refusals() -> impl Iterator<Item = Refusal> {
    let payloads = [
        Refusal::Head(HeadError::TargetTooLong),
        Refusal::Head(HeadError::InvalidTarget),
        Refusal::Head(HeadError::TooLarge),
        Refusal::Backend(BackendError::TimedOut),
    ];
    Refusal::ALL.into_iter().chain(payloads)
}

#[tokio::test]
async fn every_refusal_is_written_as_hyper_writes_it() {
    let mut random = StdRng::seed_from_u64(9457);
    for refusal in refusals().filter(|refusal| refusal.status().is_some()) {
        for after in [Persistence::Close, Persistence::Keep] {
            let id = HeaderValue::from(random.random::<u64>());
            check_answer(&mut random, reply::refusal_reply(refusal, &id, after)).await;
        }
    }
}

#[tokio::test]
async fn redirects_are_written_as_hyper_writes_them() {
    let mut random = StdRng::seed_from_u64(308);
    for _ in 0..50 {
        let port = *[443, 8443, 1].choose(&mut random).unwrap();
        let (host, target) = (pick(&mut random, &["a.example", "[::1]"]), "/a/%2e/b?c=\"d\"");
        check_answer(&mut random, reply::redirect(host, port, target, Persistence::Close)).await;
        let query = pick(&mut random, &["", "a=b", "q={\"a\":\"\u{e9}\"}"]);
        let id = HeaderValue::from(random.random::<u64>());
        let after = *[Persistence::Close, Persistence::Keep].choose(&mut random).unwrap();
        check_answer(&mut random, reply::slash_redirect("/a/", Some(query), &id, after)).await;
    }
}

#[tokio::test]
async fn a_101_is_written_as_hyper_writes_it() {
    let mut random = StdRng::seed_from_u64(101);
    let mut written = 0;
    for _ in 0..HEADS {
        let asked = attempt(&mut random);
        let Some(ParsedHead { parts, .. }) =
            head::parse_request(&asked.clone().into(), DEFAULT_MAX_FIELDS)
        else {
            continue;
        };
        let handshake = Handshake::parse(&parts).unwrap();
        let came = Bytes::from(switching(&mut random));
        let UpgradeResponse::Switched(ParsedHead { mut parts, spelling, .. }) =
            head::parse_response(&came, DEFAULT_MAX_FIELDS)
        else {
            panic!("{:?} is no 101", String::from_utf8_lossy(&came));
        };
        let mut hypers = read_by_client(&came).await;
        let agreed = forward::switched(&mut parts, &handshake);
        assert_eq!(agreed, forward::switched(&mut hypers, &handshake));
        if agreed.is_err() {
            continue;
        }
        let has_date = parts.headers.contains_key("date");
        let ours = head::write_switched(&parts, &spelling);
        let mut hypers =
            by_server(&asked, Response::from_parts(hypers, ResponseBody::empty())).await;
        if !has_date {
            // hyper adds one, and the direct way does not.
            let at = hypers.len() - b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n".len();
            assert!(hypers[at..].starts_with(b"Date: "));
            hypers.truncate(at);
            hypers.extend_from_slice(b"\r\n");
        }
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&hypers));
        assert_eq!(ours, hypers);
        written += 1;
    }
    assert!(written > HEADS / 10, "{written} of {HEADS} are valid, which shows little");
}

#[tokio::test]
async fn an_attempt_is_sent_to_a_backend_as_hyper_sends_it() {
    let mut random = StdRng::seed_from_u64(6455);
    let policy = policy(&[], &Limits::default()).into();
    let route = route("chat", "/", &policy);
    let client = Client::new(IpAddr::from([192, 0, 2, 1]));
    let mut sent = 0;
    for _ in 0..HEADS {
        let came = Bytes::from(attempt(&mut random));
        let Some(ParsedHead { mut parts, spelling, .. }) =
            head::parse_request(&came, DEFAULT_MAX_FIELDS)
        else {
            continue;
        };
        let Ok(request) = Gated::read(&parts, Scheme::Unknown) else { continue };
        let mut hypers = read_by_server(&came).await;
        let id = HeaderValue::from(random.random::<u64>());
        let forwarded = ForwardedFacts::new(client, random.random(), 443, None);
        for parts in [&mut parts, &mut hypers] {
            let names = RequestNames { id: &id, trace: None };
            forward::to_backend(parts, &request, &route, &forwarded, names).unwrap();
        }
        let ours = head::write_request(&parts, &spelling);
        let hypers = by_client(hypers).await;
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&hypers));
        assert_eq!(ours, hypers);
        sent += 1;
    }
    assert!(sent > HEADS / 4, "{sent} of {HEADS} pass the gate, which shows little");
}
