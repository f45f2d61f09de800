//! Sidegate's own answers: refusals as `problem+json` (RFC 9457), and redirects.
//!
//! They reveal nothing of the configuration but the reason word.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, UPGRADE,
};
use http::{Response, StatusCode};

use crate::data::http::forward::X_REQUEST_ID;
use crate::refusal::{HeadError, Refusal};
use crate::snapshot::listener::HTTPS_PORT;

/// The `Retry-After` of a 503, before jitter.
const RETRY_AFTER_DELAY: Duration = Duration::from_secs(5);

/// What happens to the client's connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// The connection stays open for another request.
    Keep,
    /// The connection closes behind the answer.
    Close,
}

/// The `problem+json` answer to a refusal; `id` is the request's id.
pub fn refusal_reply(refusal: Refusal, id: &HeaderValue, after: Persistence) -> Response<Bytes> {
    // Refusals without a status come before any request, and never get here.
    let status = refusal
        .status()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::FORBIDDEN);
    let body = serde_json::json!({
        "type": "about:blank",
        "title": refusal.sentence(),
        "status": status.as_u16(),
        "reason": refusal.word(),
        "request_id": id.to_str().unwrap_or_default(),
    });
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, id.clone());
    if let Some(wait) = retry_after(refusal) {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
    // A 426 must name what it wants (RFC 9110 §15.5.22), and the version (RFC 6455 §4.4).
    if matches!(refusal, Refusal::Version | Refusal::Plain) {
        headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let connection = match (matches!(refusal, Refusal::Version | Refusal::Plain), after) {
        (true, Persistence::Keep) => Some("Upgrade"),
        (true, Persistence::Close) => Some("Upgrade, close"),
        (false, Persistence::Keep) => None,
        (false, Persistence::Close) => Some("close"),
    };
    if let Some(connection) = connection {
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
    }
    answer
}

/// Makes `answer` the last of its connection.
pub fn set_connection_close<B>(answer: &mut Response<B>) {
    let is_close = |value: &HeaderValue| value.as_bytes().ends_with(b"close");
    let headers = answer.headers_mut();
    if !headers.get_all(CONNECTION).iter().any(is_close) {
        // Appended, since a 426 has `Connection: Upgrade` already.
        headers.append(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The whole answer to a client that speaks plain HTTP where TLS is expected.
pub fn plain_on_tls() -> Vec<u8> {
    headless_reply(
        Refusal::Tls,
        "This port speaks TLS, and the request is plain HTTP: use https or wss.",
    )
}

/// The whole answer to a client that speaks HTTP/2 where only HTTP/1.1 is.
pub fn http2_unspoken() -> Vec<u8> {
    headless_reply(Refusal::Head(HeadError::Malformed), "HTTP/2 is not spoken here: use HTTP/1.1.")
}

/// A whole 400 for a connection whose request cannot be read. It has no request id.
fn headless_reply(refusal: Refusal, sentence: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": sentence,
        "status": 400,
        "reason": refusal.word(),
    });
    let body = body.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\
         Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A redirect listener's only answer: the same target over `https`.
pub fn redirect(
    host: &str,
    port: u16,
    path_and_query: &str,
    after: Persistence,
) -> Response<Bytes> {
    // The default port is left out.
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    let location = HeaderValue::from_str(&format!("https://{host}{port}{path_and_query}"));
    let mut answer = Response::new(Bytes::new());
    // 308 keeps the method and the body, which 301 does not (RFC 9110 §15.4.9).
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer
        .headers_mut()
        .insert(LOCATION, location.unwrap_or_else(|_| HeaderValue::from_static("/")));
    if after == Persistence::Close {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The redirect to a route's `path`, with the query that came. `Location` has no scheme and no
/// host, so that it leads nowhere else. It is not cached: policy and configuration decide it.
pub fn slash_redirect(
    path: &str,
    query: Option<&str>,
    id: &HeaderValue,
    after: Persistence,
) -> Response<Bytes> {
    let location = match query {
        Some(query) => format!("{path}?{}", percent_encoded(query)),
        None => path.to_owned(),
    };
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = answer.headers_mut();
    // A path and an escaped query hold only bytes that a field value may hold.
    let location =
        HeaderValue::from_str(&location).unwrap_or_else(|_| HeaderValue::from_static("/"));
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, id.clone());
    if after == Persistence::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Percent-encodes the bytes that a query may not hold (RFC 3986 §3.4). Encoded ones stay.
fn percent_encoded(query: &str) -> String {
    query.bytes().fold(String::with_capacity(query.len()), |mut out, byte| {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes everything
        }
        out
    })
}

/// The `Retry-After` of a refusal, before jitter. `None` means that waiting would not help.
fn retry_after(refusal: Refusal) -> Option<Duration> {
    match refusal {
        Refusal::Rate { retry_after } => Some(retry_after),
        Refusal::Capacity | Refusal::Draining => Some(RETRY_AFTER_DELAY),
        Refusal::Pending
        | Refusal::Network
        | Refusal::Proxy
        | Refusal::Tls
        | Refusal::Head(_)
        | Refusal::Path
        | Refusal::Forwarded
        | Refusal::Misdirected
        | Refusal::Route
        | Refusal::Origin
        | Refusal::Identity
        | Refusal::Subprotocol
        | Refusal::Handshake
        | Refusal::Version
        | Refusal::Plain
        | Refusal::Body
        | Refusal::Connections
        | Refusal::Banned
        | Refusal::Backend(_) => None,
    }
}

/// Rounds up to at least 1, and adds up to a half as jitter, so that clients that were refused at
/// one instant don't come back at one.
fn whole_seconds(wait: Duration) -> u64 {
    // `Retry-After: 0` would make the client try again at once.
    let seconds = (wait.as_millis().div_ceil(1000) as u64).max(1);
    seconds + rand::random_range(0..=seconds.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_with_upward_jitter() {
        let check = |millis, least: u64, max: u64| {
            for _ in 0..200 {
                let seconds = whole_seconds(Duration::from_millis(millis));
                assert!((least..=max).contains(&seconds), "{millis} ms: {seconds}");
            }
        };
        check(0, 1, 2);
        check(999, 1, 2);
        check(1001, 2, 3);
        check(5000, 5, 8);
    }

    #[test]
    fn refusal_has_its_word_and_no_configuration() {
        let id = HeaderValue::from_static("abc");
        let answer = refusal_reply(Refusal::Network, &id, Persistence::Close);
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.headers()[CONNECTION], "close");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
        assert!(answer.headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn a_slash_is_added_with_the_query_and_without_a_host() {
        let check = |query: Option<&str>, location: &str| {
            let answer =
                slash_redirect("/app/", query, &HeaderValue::from_static("abc"), Persistence::Keep);
            assert_eq!(
                (answer.status().as_u16(), answer.headers()[LOCATION].to_str().unwrap()),
                (308, location)
            );
            assert!(answer.headers().get(CONNECTION).is_none());
        };
        check(None, "/app/");
        check(Some(""), "/app/?");
        check(Some("a=1&b=/..//x?y&c=%22%zz"), "/app/?a=1&b=/..//x?y&c=%22%zz");
        check(
            Some("q={\"a\":\"\u{e9}\"}|^`<>\\"),
            "/app/?q=%7B%22a%22:%22%C3%A9%22%7D%7C%5E%60%3C%3E%5C",
        );
    }

    // C-WS-03
    #[test]
    fn reply_426_names_the_supported_version() {
        let answer =
            refusal_reply(Refusal::Version, &HeaderValue::from_static("abc"), Persistence::Close);
        assert_eq!(answer.status(), 426);
        assert_eq!(answer.headers()["sec-websocket-version"], "13");
        assert_eq!(answer.headers()[CONNECTION], "Upgrade, close");
    }
}
