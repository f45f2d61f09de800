//! The head of an attempt and of a backend's 101: a head that is read without hyper, hyper would
//! read alike, and a head that is written has the meaning of its original.

#![no_main]

use std::convert::Infallible;
use std::future::pending;

use http::{HeaderMap, Request, Response, StatusCode, request};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use sidegate::data::http::head::{self, ParsedHead, UpgradeResponse};
use sidegate::policy::request::target;
use sidegate::snapshot::listener::DEFAULT_MAX_FIELDS;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

// The first byte says whose head the rest is.
fuzz_target!(|data: &[u8]| {
    let [whose, came @ ..] = data else { return };
    let came = Bytes::copy_from_slice(came);
    if whose & 1 == 0 { attempt(&came) } else { answer(&came) }
});

fn attempt(came: &Bytes) {
    let Some(read) = head::parse_request(came, DEFAULT_MAX_FIELDS) else { return };
    assert!((1..=came.len()).contains(&read.length));
    // hyper gets request lines that are percent-encoded.
    let end = came.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    let line =
        target::encode_request_line(&came[..end]).map_or(came[..end].to_vec(), |line| line.bytes);
    let handed = [&line[..], &came[end..]].concat();
    let hypers =
        runtime().block_on(seen_by_a_server(&handed)).expect("hyper takes it for a request");
    let uri = encoded(read.parts.uri.to_string());
    assert_eq!((&read.parts.method, &uri), (&hypers.method, &hypers.uri.to_string()));
    assert_eq!((read.parts.version, &read.parts.headers), (hypers.version, &hypers.headers));

    let written = head::write_request(&read.parts, &read.spelling);
    let again = head::parse_request(&written.clone().into(), DEFAULT_MAX_FIELDS)
        .expect("what is written is an attempt");
    assert_eq!(again.length, written.len());
    // A target that isn't a path, which is refused before any backend sees it, is written as a path
    // (RFC 9112 §3.2).
    let target = |parts: &request::Parts| {
        encoded(parts.uri.path_and_query().map_or("/".to_owned(), ToString::to_string))
    };
    assert_eq!(target(&again.parts), target(&read.parts));
    assert_eq!(again.parts.headers, read.parts.headers);
    assert_eq!(head::write_request(&again.parts, &again.spelling), written, "spelled as it was");
}

/// `target`, percent-encoded: `http::Uri` accepts bytes beyond ASCII where all of them together are
/// UTF-8, so that a query may be read raw next to one path and encoded next to another.
fn encoded(target: String) -> String {
    target::encoded(target.as_bytes()).map_or(target, |(target, _)| target)
}

fn answer(came: &Bytes) {
    let ParsedHead { parts, spelling, length } =
        match head::parse_response(came, DEFAULT_MAX_FIELDS) {
            UpgradeResponse::Switched(read) => read,
            UpgradeResponse::Partial(length) => return assert!(length <= came.len()),
            UpgradeResponse::Other => return,
        };
    assert!((1..=came.len()).contains(&length));
    let (status, headers) =
        runtime().block_on(seen_by_a_client(came)).expect("hyper takes it for an answer");
    assert_eq!((status, &headers), (StatusCode::SWITCHING_PROTOCOLS, &parts.headers));

    let written = Bytes::from(head::write_switched(&parts, &spelling));
    let UpgradeResponse::Switched(again) = head::parse_response(&written, DEFAULT_MAX_FIELDS)
    else {
        panic!("what is written is a 101")
    };
    assert_eq!((again.length, &again.parts.headers), (written.len(), &parts.headers));
}

/// The first request that hyper's server finds in `came`.
async fn seen_by_a_server(came: &[u8]) -> Option<request::Parts> {
    let (saw, mut seen) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let _ = saw.try_send(request.into_parts().0);
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let (mut near, far) = duplex(came.len());
    near.write_all(came).await.expect("there is room");
    near.shutdown().await.expect("a stream in memory");
    let connection =
        server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
    tokio::select! {
        biased;
        _ = connection => seen.try_recv().ok(),
        seen = seen.recv() => seen,
    }
}

/// The first answer that hyper's client finds in `came`.
async fn seen_by_a_client(came: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let (near, far) = duplex(1 << 16);
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(near)).await.ok()?;
    let attempt = Request::builder().header("connection", "upgrade").header("upgrade", "websocket");
    let backend = async {
        let (mut asked, mut answers) = tokio::io::split(far);
        // It takes no answer before it has asked.
        let _ = asked.read(&mut [0; 4096]).await;
        let _ = answers.write_all(came).await;
        let _ = answers.shutdown().await;
    };
    let asked = sender.send_request(attempt.body(Empty::<Bytes>::new()).expect("a request"));
    let (answer, _, ()) = tokio::join!(asked, connection.with_upgrades(), backend);
    let (parts, _) = answer.ok()?.into_parts();
    Some((parts.status, parts.headers))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime without drivers")
}
