//! Requests to CrowdSec's Local API: one connection for each, and a bounded answer.
//!
//! Follows no redirect, and never logs the key.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::connect_fault;
use crate::control::config::{CrowdsecSettings, LapiAddress};

/// Time for a whole request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of an answer: 100,000 decisions take about 19 MB.
const MAX_ANSWER_BYTES: usize = 192 << 20;

/// Scopes beyond addresses and ranges are requested to be counted. The API sends no scope that the
/// request does not name.
const REQUESTED_SCOPES: &str = "ip,range,country,as,username,session";

/// Name of the header that carries the key.
const KEY_HEADER: &str = "x-api-key";

/// Why a request brought no decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFault(String);

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connection to the API, in the clear or over TLS.
trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// Requests the decisions: all of them, or the changes since the last request.
///
/// # Errors
/// The API does not answer, or with another status than 200, or with too much.
pub async fn decisions(
    settings: &CrowdsecSettings,
    is_whole: bool,
    tracker: &TaskTracker,
) -> Result<Bytes, RequestFault> {
    let answer = timeout(REQUEST_TIMEOUT, request(settings, is_whole, tracker)).await;
    let late = || RequestFault(format!("it did not answer within {REQUEST_TIMEOUT:?}"));
    answer.unwrap_or_else(|_| Err(late()))
}

async fn request(
    settings: &CrowdsecSettings,
    is_whole: bool,
    tracker: &TaskTracker,
) -> Result<Bytes, RequestFault> {
    let stream = connect(&settings.address).await;
    let stream = stream.map_err(|error| {
        let why = connect_fault::describe_dial(&error);
        RequestFault(format!("it cannot be reached: {why}"))
    })?;
    let broken = |error: hyper::Error| {
        RequestFault(format!("the connection broke: {}", connect_fault::describe(&error)))
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with `sender`, which this function owns. Its error is that of the request as well.
    tracker.spawn(async move { drop(connection.await) });
    let answer = sender.send_request(head(settings, is_whole)?).await.map_err(broken)?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let status = answer.status().as_u16();
            let remedy = "is the key that of `cscli bouncers add`?";
            return Err(RequestFault(format!("it refuses the key ({status}): {remedy}")));
        }
        status => return Err(RequestFault(unexpected(status))),
    }
    let encoding = answer.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let what = "it compresses its answer, which was not requested";
        return Err(RequestFault(what.into()));
    }
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let is_large = length.and_then(|length| length.parse().ok()).is_some_and(exceeds);
    let too_large = || RequestFault(format!("its answer is larger than {MAX_ANSWER_BYTES} bytes"));
    if is_large {
        return Err(too_large());
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| {
        match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => too_large(),
            None => {
                let why = connect_fault::describe(&*error);
                RequestFault(format!("its answer broke off: {why}"))
            }
        }
    })
}

/// What a status says that is neither 200 nor about the key.
fn unexpected(status: StatusCode) -> String {
    let status_number = status.as_u16();
    match status {
        // The key goes to the configured address alone.
        _ if status.is_redirection() => {
            format!("it redirects ({status_number}), which is not followed: correct `url`")
        }
        StatusCode::NOT_FOUND => {
            format!("it answers {status_number}: is `url` that of a Local API?")
        }
        _ => format!("it answers {status_number}"),
    }
}

fn exceeds(length: usize) -> bool {
    length > MAX_ANSWER_BYTES
}

fn head(
    settings: &CrowdsecSettings,
    is_whole: bool,
) -> Result<Request<Empty<Bytes>>, RequestFault> {
    let prefix = &settings.path;
    let target =
        format!("{prefix}/v1/decisions/stream?startup={is_whole}&scopes={REQUESTED_SCOPES}");
    let wrong = |_| RequestFault("the request cannot be made: is `url` right?".into());
    let mut key = HeaderValue::from_str(settings.key.reveal())
        .map_err(|_| RequestFault("the key holds characters that no header can".into()))?;
    key.set_sensitive(true);
    Request::get(target)
        .header(HOST, &*settings.host)
        .header(KEY_HEADER, key)
        .header(USER_AGENT, concat!("sidegate/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(wrong)
}

async fn connect(address: &LapiAddress) -> io::Result<Pin<Box<dyn Stream>>> {
    Ok(match address {
        LapiAddress::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        LapiAddress::Tcp { host, port, tls } => {
            let tcp = TcpStream::connect((&**host, *port)).await?;
            tcp.set_nodelay(true)?;
            match tls {
                None => Box::pin(tcp),
                Some(tls) => {
                    let connector = TlsConnector::from(Arc::clone(&tls.config));
                    Box::pin(connector.connect(tls.name.clone(), tcp).await?)
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The outcome of a request that gets these bytes, and then the end of the connection.
    async fn outcome(answer: &str) -> Result<Bytes, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let settings = CrowdsecSettings::at_port(listener.local_addr().unwrap().port());
        let api = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        };
        let tracker = TaskTracker::new();
        let (head, outcome) = tokio::join!(api, decisions(&settings, true, &tracker));
        assert!(head.starts_with("GET /v1/decisions/stream?startup=true&scopes=ip,range,"));
        assert!(head.contains("x-api-key: a-key\r\n"), "{head}");
        outcome.map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn answer_that_is_no_list_has_a_fault_in_plain_words() {
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
        let ok = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}");
        for (answer, says) in [
            (status("500 Oh"), "it answers 500"),
            (status("204 No Content"), "it answers 204"),
            (status("401 No"), "refuses the key (401): is the key that of `cscli bouncers add`?"),
            (status("403 No"), "refuses the key (403)"),
            (status("404 No"), "it answers 404: is `url` that of a Local API?"),
            (status("302 Found\r\nLocation: /v2"), "redirects (302), which is not followed"),
            (status("308 Gone\r\nLocation: http://192.0.2.1/"), "redirects (308)"),
            (ok("Content-Length: 99\r\n\r\n{\"new\":[],"), "its answer broke off"),
            (ok("Transfer-Encoding: chunked\r\n\r\n5\r\n{\"new"), "its answer broke off"),
            (ok("Content-Length: 999999999999\r\n\r\n"), "its answer is larger than 201326592"),
            (ok("Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"), "it compresses"),
            ("SSH-2.0-x\r\n\r\n".into(), "the connection broke"),
            (String::new(), "the connection broke"),
        ] {
            let fault = outcome(&answer).await.unwrap_err();
            assert!(fault.contains(says), "{answer:?}: {fault}");
        }
    }

    #[tokio::test]
    async fn answer_is_read_in_each_framing() {
        let body = "{\"new\":null,\"deleted\":null}";
        let (one, other) = body.split_at(9);
        for framing in [
            format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            format!("Content-Encoding: identity\r\n\r\n{body}"),
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\r\n",
                one.len(),
                other.len(),
            ),
        ] {
            assert_eq!(outcome(&format!("HTTP/1.1 200 OK\r\n{framing}")).await.unwrap(), body);
        }
    }
}
