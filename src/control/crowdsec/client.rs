//! Requests to CrowdSec's Local API: one connection for each, and a bounded answer.
//!
//! Follows no redirect, and never logs the key.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::control::config::{CrowdsecSettings, LapiAddress};

/// Time for a whole request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of an answer: 100,000 decisions take about 19 MB.
const MAX_ANSWER_BYTES: usize = 192 << 20;

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
    let stream = stream.map_err(|error| RequestFault(format!("it cannot be reached: {error}")))?;
    let broken = |error: hyper::Error| RequestFault(format!("the connection broke: {error}"));
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
        // A redirect is one of them: the key goes to the configured address alone.
        status => return Err(RequestFault(format!("it answers {}", status.as_u16()))),
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
            None => RequestFault(format!("its answer broke off: {error}")),
        }
    })
}

fn exceeds(length: usize) -> bool {
    length > MAX_ANSWER_BYTES
}

fn head(
    settings: &CrowdsecSettings,
    is_whole: bool,
) -> Result<Request<Empty<Bytes>>, RequestFault> {
    let prefix = &settings.path;
    // Scopes beyond addresses and ranges are requested to be counted.
    let target =
        format!("{prefix}/v1/decisions/stream?startup={is_whole}&scopes=ip,range,country,as");
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
