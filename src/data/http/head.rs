//! Reads and writes the heads of the opening handshake without hyper. Nearly every tunnel begins
//! here.
//!
//! Accepts only complete, unambiguous heads. Any other goes to hyper untouched, so that a single
//! parser decides which heads are malformed. Names keep their case.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version, request, response};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::policy::request::target;
use crate::snapshot::listener::DEFAULT_MAX_FIELDS;

/// The reader of the first head of each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadReader {
    /// This module, where the head is an attempt that is whole and unambiguous.
    #[default]
    Direct,
    /// hyper, which reads every other head too.
    Hyper,
}

impl HeadReader {
    /// The name of the environment variable that chooses the reader.
    pub const VARIABLE: &str = "SIDEGATE_HEADS";

    /// Reads the value of the environment variable. `None` means that it is not set.
    ///
    /// # Errors
    /// A sentence that says which values there are.
    pub fn named(value: Option<&OsStr>) -> Result<Self, String> {
        match value.map(OsStr::as_encoded_bytes) {
            None | Some(b"") => Ok(HeadReader::Direct),
            Some(b"hyper") => Ok(HeadReader::Hyper),
            Some(other) => Err(format!(
                "{}=\"{}\" is not known: set it to hyper, or unset it",
                Self::VARIABLE,
                other.escape_ascii()
            )),
        }
    }
}

/// The most fields that are read without hyper: as many as hyper takes by default.
const MAX_FAST_FIELDS: usize = DEFAULT_MAX_FIELDS;

/// Room for the fields that sidegate adds to the client's.
const ADDED_FIELDS: usize = 7;

/// Fields that announce a body, or ask for an interim answer: such requests go to hyper.
const HYPER_ONLY_FIELDS: [HeaderName; 3] =
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT];

/// How a peer has spelled the names of its fields, and its query. Names that it did not send are
/// written in Title-Case.
#[derive(Debug, Default)]
pub struct OriginalSpelling {
    head: Bytes,
    /// Where in `head` each name lies, in the order in which the fields came.
    names: Vec<Range<usize>>,
    /// The query as it came. `None` means that it is the same as in the parsed head.
    query: Option<Bytes>,
}

/// A head, and how many bytes it takes.
pub struct ParsedHead<P> {
    /// The head as the `http` crate represents it.
    pub parts: P,
    /// How its names are spelled.
    pub spelling: OriginalSpelling,
    /// Bytes that the head takes, the empty line at its end included.
    pub length: usize,
}

/// The request at the start of `came`, if it is a GET over HTTP/1.1 that asks for an upgrade,
/// without a body and with at most `max_fields`. `None` means that hyper has to read it.
///
/// A target that `http::Uri` refuses is percent-encoded, and its query is written on as it came.
pub fn parse_request(came: &Bytes, max_fields: usize) -> Option<ParsedHead<request::Parts>> {
    parse_plain(came, max_fields).or_else(|| parse_encoded(came, max_fields))
}

fn parse_encoded(came: &Bytes, max_fields: usize) -> Option<ParsedHead<request::Parts>> {
    let end = came.iter().position(|byte| *byte == b'\n')? + 1;
    // A line that stays invalid after encoding goes to hyper's way, which refuses it with a reason.
    let line = target::encode_request_line(&came[..end]).filter(|line| !line.tidied.is_broken)?;
    let whole = Bytes::from([&line.bytes, &came[end..]].concat());
    let mut read = parse_plain(&whole, max_fields)?;
    // The length in `came`, whose target was shorter.
    read.length -= line.tidied.grown;
    read.parts.extensions.insert(line.tidied);
    let query = target::query(&came[..end]);
    read.spelling.query = query.map(|query| came.slice(range_in(came, query)));
    Some(read)
}

fn parse_plain(came: &Bytes, max_fields: usize) -> Option<ParsedHead<request::Parts>> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FAST_FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(length)) = head.parse_with_uninit_headers(came, &mut fields)
    else {
        return None;
    };
    // hyper's way answers 431, and names the bound in the log.
    if head.headers.len() > max_fields {
        return None;
    }
    // RFC 6455 §4.1: an attempt is a GET of HTTP/1.1. hyper reads every other request.
    let (Some("GET"), Some(target), Some(1)) = (head.method, head.path, head.version) else {
        return None;
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
    // A slice of what came: the target is not copied, and holds the read buffer for as long.
    parts.uri = Uri::from_maybe_shared(came.slice(range_in(came, target.as_bytes()))).ok()?;
    let (headers, spelling) = fields_of(came, head.headers, ADDED_FIELDS)?;
    parts.headers = headers;
    let is_plain = !HYPER_ONLY_FIELDS.iter().any(|name| parts.headers.contains_key(name));
    (is_plain && parts.headers.contains_key(header::UPGRADE)).then_some(ParsedHead {
        parts,
        spelling,
        length,
    })
}

/// What a backend has answered so far.
pub enum UpgradeResponse {
    /// A whole 101 over HTTP/1.1.
    Switched(ParsedHead<response::Parts>),
    /// Part of a head, as 0; or an interim answer (RFC 9110 §15.2), which takes so many bytes.
    Partial(usize),
    /// Anything else, malformed heads included: hyper has to read it.
    Other,
}

/// The answer at the start of `came`, with at most `max_fields`.
pub fn parse_response(came: &Bytes, max_fields: usize) -> UpgradeResponse {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FAST_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut head, came, &mut fields) {
        Ok(httparse::Status::Complete(length)) if head.headers.len() <= max_fields => length,
        Ok(httparse::Status::Complete(_)) => return UpgradeResponse::Other,
        // 0 is the length of no interim head: the shortest has at least its first line.
        Ok(httparse::Status::Partial) => return UpgradeResponse::Partial(0),
        Err(_) => return UpgradeResponse::Other,
    };
    match (head.code, head.version) {
        (Some(101), Some(1)) => {}
        // Any number of interim answers may come before the final one (RFC 9110 §15.2). The caller
        // skips them, and bounds their number.
        (Some(100 | 102..200), _) => return UpgradeResponse::Partial(length),
        _ => return UpgradeResponse::Other,
    }
    let Some((headers, spelling)) = fields_of(came, head.headers, 0) else {
        return UpgradeResponse::Other;
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.headers = headers;
    UpgradeResponse::Switched(ParsedHead { parts, spelling, length })
}

/// Converts fields, with room for so many `more`. `None` means that a name or a value is invalid.
fn fields_of(
    came: &Bytes,
    fields: &[httparse::Header<'_>],
    more: usize,
) -> Option<(HeaderMap, OriginalSpelling)> {
    let mut headers = HeaderMap::with_capacity(fields.len() + more);
    let mut names = Vec::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(came.slice(range_in(came, field.value))).ok()?;
        headers.append(name, value);
        names.push(range_in(came, field.name.as_bytes()));
    }
    Some((headers, OriginalSpelling { head: came.clone(), names, query: None }))
}

/// Where `part`, which must be a slice of `whole`, lies in it.
fn range_in(whole: &Bytes, part: &[u8]) -> Range<usize> {
    // httparse copies nothing: each name and value is a slice of its input.
    let from = part.as_ptr() as usize - whole.as_ptr() as usize;
    from..from + part.len()
}

/// Writes the head of a request, with names as its client spelled them.
pub fn write_request(parts: &request::Parts, spelling: &OriginalSpelling) -> Vec<u8> {
    let mut head = Vec::with_capacity(capacity_for(&parts.headers));
    head.extend_from_slice(b"GET ");
    // Not `path_and_query`, which begins with the `?` where an absolute target has no path. The
    // path of an authority is empty.
    let path = Some(parts.uri.path()).filter(|path| !path.is_empty()).unwrap_or("/");
    head.extend_from_slice(path.as_bytes());
    // The URI may have the query percent-encoded. An attempt's goes on as it came
    // (`docs/decisions/028-targets.md`).
    let query = spelling.query.as_deref().or(parts.uri.query().map(str::as_bytes));
    if let Some(query) = query {
        head.push(b'?');
        head.extend_from_slice(query);
    }
    head.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&parts.headers, spelling, Role::Client, &mut head);
    head.extend_from_slice(b"\r\n");
    head
}

/// Writes the head of a 101, with names as the backend spelled them.
pub fn write_switched(parts: &response::Parts, spelling: &OriginalSpelling) -> Vec<u8> {
    let mut head = Vec::with_capacity(capacity_for(&parts.headers));
    head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    write_fields(&parts.headers, spelling, Role::Server, &mut head);
    head.extend_from_slice(b"\r\n");
    head
}

/// Writes an answer of sidegate's own as hyper's server writes it: names in Title-Case, and behind
/// the answer's fields the length and the `date`.
pub fn write_answer(answer: &Response<Bytes>, date: Timestamp) -> Vec<u8> {
    let (headers, body) = (answer.headers(), answer.body());
    let mut whole = Vec::with_capacity(capacity_for(headers) + body.len());
    write_status(answer.status(), &mut whole);
    write_fields(headers, &OriginalSpelling::default(), Role::Server, &mut whole);
    whole.extend_from_slice(b"Content-Length: ");
    whole.extend_from_slice(body.len().to_string().as_bytes());
    // A date of four digits for the year always fits the format (RFC 9110 §5.6.7).
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&date) {
        whole.extend_from_slice(b"\r\nDate: ");
        whole.extend_from_slice(date.as_bytes());
    }
    whole.extend_from_slice(b"\r\n\r\n");
    whole.extend_from_slice(body);
    whole
}

/// Writes the head of an interim answer, with names in Title-Case.
pub fn write_interim(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(capacity_for(headers));
    write_status(status, &mut head);
    write_fields(headers, &OriginalSpelling::default(), Role::Server, &mut head);
    head.extend_from_slice(b"\r\n");
    head
}

fn write_status(status: StatusCode, head: &mut Vec<u8>) {
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
}

fn capacity_for(headers: &HeaderMap) -> usize {
    // 4 bytes of each field are the colon, the blank and CRLF. 128 hold the first line, a length
    // and a date.
    128 + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

/// The side that sends a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

fn write_fields(headers: &HeaderMap, spelling: &OriginalSpelling, role: Role, head: &mut Vec<u8>) {
    let (mut last, mut nth) = (None, 0);
    for (name, value) in headers {
        // The values of one name come one after the other.
        nth = if last == Some(name) { nth + 1 } else { 0 };
        last = Some(name);
        // This looks at all names for each field: at most 100 times 100, by `MAX_FAST_FIELDS`.
        match spelling.of(name).nth(nth) {
            Some(name) => head.extend_from_slice(name),
            None => title_case(name, head),
        }
        // hyper's client writes no blank in front of an empty value, and its server does.
        let is_bare = role == Role::Client && value.is_empty();
        head.extend_from_slice(if is_bare { b":" } else { b": " });
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
}

impl OriginalSpelling {
    /// How `name` is spelled where it comes first, where it comes next, and so on.
    fn of(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        let spelled = self.names.iter().map(|place| &self.head[place.clone()]);
        spelled.filter(|spelled| spelled.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }
}

fn title_case(name: &HeaderName, head: &mut Vec<u8>) {
    let mut starts = true;
    for byte in name.as_str().bytes() {
        // `HeaderName` is in lower case, so only first letters change.
        head.push(if starts { byte.to_ascii_uppercase() } else { byte });
        starts = byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::sync::mpsc;

    use super::*;
    use crate::policy::request::target::encoded;

    fn spoken(head: &'static str) -> Bytes {
        Bytes::from_static(head.as_bytes())
    }

    #[test]
    fn attempt_keeps_the_spelling_of_its_names() {
        let came = spoken(
            "GET /a?b HTTP/1.1\r\nHOST: h\r\nupgrade: websocket\r\nX-FooBar: 1\r\nx-foobar:  2 \r\n\r\nmore",
        );
        let ParsedHead { mut parts, spelling, length } =
            parse_request(&came, MAX_FAST_FIELDS).unwrap();
        assert_eq!(&came[length..], b"more");
        assert_eq!((parts.uri.path(), parts.uri.query()), ("/a", Some("b")));
        parts.headers.insert("x-forwarded-for", HeaderValue::from_static("::1"));
        let written = String::from_utf8(write_request(&parts, &spelling)).unwrap();
        let (line, fields) = written.split_once("\r\n").unwrap();
        assert_eq!(line, "GET /a?b HTTP/1.1");
        let mut fields: Vec<_> = fields.trim_end().split("\r\n").collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            ["HOST: h", "X-FooBar: 1", "X-Forwarded-For: ::1", "upgrade: websocket", "x-foobar: 2"]
        );
        assert!(written.ends_with("\r\n\r\n"));
    }

    #[test]
    fn target_without_a_path_is_written_with_one() {
        for (target, expected) in [
            ("ws://h?1", "/?1"),
            ("ws://h", "/"),
            ("ws://h?\"", "/?\""),
            ("/?", "/?"),
            ("h:1", "/"),
        ] {
            let came = format!("GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n");
            let read = parse_request(&came.into(), MAX_FAST_FIELDS).unwrap();
            let written = String::from_utf8(write_request(&read.parts, &read.spelling)).unwrap();
            assert!(written.starts_with(&format!("GET {expected} HTTP/1.1\r\n")), "{written}");
        }
    }

    #[test]
    fn query_that_is_no_uri_is_written_unchanged() {
        let came = Bytes::from_static(
            b"GET /<?q=\"\xff<#\" HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n\x81",
        );
        let ParsedHead { parts, spelling, length } = parse_request(&came, MAX_FAST_FIELDS).unwrap();
        assert_eq!(&came[length..], b"\x81");
        assert_eq!(parts.uri.to_string(), "/%3C?q=%22%FF%3C");
        let written = write_request(&parts, &spelling);
        assert!(
            written.starts_with(b"GET /%3C?q=\"\xff< HTTP/1.1\r\n"),
            "{}",
            String::from_utf8_lossy(&written)
        );
        let check = |target: &'static str, taken| {
            let came = format!("GET {target} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
            assert_eq!(parse_request(&came.into(), MAX_FAST_FIELDS).is_some(), taken, "{target:?}");
        };
        check("/?\"", true);
        for broken in ["/?\" ", "/?\"\t", "/?\"\u{7f}", "/?\"\0", "/?\"\r", "/a b"] {
            check(broken, false);
        }
    }

    #[test]
    fn unusual_heads_are_left_to_hyper() {
        let check = |head: &'static str, taken: bool| {
            assert_eq!(parse_request(&spoken(head), MAX_FAST_FIELDS).is_some(), taken, "{head:?}");
        };
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", true);
        check("GET / HTTP/1.1\r\nHost: h\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\n", false);
        check("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n", false);
        check("POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade : websocket\r\n\r\n", false);
        check("GET / HTTP/1.1\r\nUpgrade: websocket\r\nA: b\r\n c\r\n\r\n", false);
        check("GET  HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", false);
        check("\x16\x03\x01", false);
    }

    #[test]
    fn head_with_too_many_fields_is_left_to_hyper() {
        let of = |fields: usize| {
            Bytes::from(format!(
                "GET / HTTP/1.1\r\nUpgrade: websocket\r\n{}\r\n",
                "A: b\r\n".repeat(fields - 1)
            ))
        };
        assert!(parse_request(&of(MAX_FAST_FIELDS), MAX_FAST_FIELDS).is_some());
        assert!(parse_request(&of(MAX_FAST_FIELDS + 1), MAX_FAST_FIELDS).is_none());
        assert!(parse_request(&of(MAX_FAST_FIELDS + 1), MAX_FAST_FIELDS * 2).is_none());
        assert!(parse_request(&of(16), 16).is_some());
        assert!(parse_request(&of(17), 16).is_none());
    }

    #[test]
    fn only_a_101_is_parsed() {
        let kind = |head: &'static str| match parse_response(&spoken(head), MAX_FAST_FIELDS) {
            UpgradeResponse::Switched(ParsedHead { length, .. }) => format!("101, {length}"),
            UpgradeResponse::Partial(length) => format!("unfinished, {length}"),
            UpgradeResponse::Other => "other".into(),
        };
        assert_eq!(kind("HTTP/1.1 101 Fine\r\nA: b\r\n\r\nframes"), "101, 27");
        assert_eq!(kind("HTTP/1.1 101 Fine\r\nA: b\r\n"), "unfinished, 0");
        assert_eq!(kind("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101"), "unfinished, 28");
        assert_eq!(kind("HTTP/1.0 101 Fine\r\n\r\n"), "other");
        assert_eq!(kind("HTTP/1.1 200 OK\r\n\r\n"), "other");
        assert_eq!(kind("HTTP/1.1 101 Fine\r\nA : b\r\n\r\n"), "other");
        assert_eq!(kind("SSH-2.0\r\n"), "other");
    }

    /// What hyper makes of the head at the start of `came`.
    async fn by_hyper(came: &[u8]) -> Option<request::Parts> {
        let (saw, mut seen) = mpsc::channel(1);
        let service = service_fn(move |request: Request<Incoming>| {
            let _ = saw.try_send(request.into_parts().0);
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        });
        let (mut near, far) = duplex(came.len());
        near.write_all(came).await.unwrap();
        near.shutdown().await.unwrap();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::select! {
            biased;
            _ = connection => seen.try_recv().ok(),
            seen = seen.recv() => seen,
        }
    }

    #[tokio::test]
    async fn parsed_head_equals_that_of_hyper() {
        const BYTES: &[u8] = b" \t\r\n:,;/?#%\\\"()<>@[]{}\0\x01\x7f\x80\xffaZ09-_.~!*";
        let whole =
            b"GET /a/%2e./b?c=d&e#f HTTP/1.1\r\nHost: localhost:80\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: a=\"\xff\"; b\r\nX-One:\r\nx-one: \t2 \r\n\r\n\x81\x80";
        let mut random = StdRng::seed_from_u64(6455);
        let mut taken = 0;
        for _ in 0..4000 {
            let mut came = whole.to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..came.len());
                let byte = *BYTES.choose(&mut random).unwrap();
                match random.random_range(0..4) {
                    0 => came[at] = byte,
                    1 => came.insert(at, byte),
                    2 => drop(came.remove(at)),
                    _ => came[at] ^= 0x20,
                }
            }
            let Some(read) = parse_request(&Bytes::from(came.clone()), MAX_FAST_FIELDS) else {
                continue;
            };
            taken += 1;
            let said = String::from_utf8_lossy(&came);
            // hyper reads the line that `RequestFilter` hands on.
            let end = came.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let line = target::encode_request_line(&came[..end])
                .map_or(came[..end].to_vec(), |line| line.bytes);
            let handed = [&line[..], &came[end..]].concat();
            let hypers =
                by_hyper(&handed).await.unwrap_or_else(|| panic!("hyper refuses {said:?}"));
            assert_eq!(handed.len() - came.len(), line.len() - end);
            // Where nothing had to be encoded, other bytes than ASCII stay in both.
            let uri = encoded(read.parts.uri.to_string().as_bytes());
            let uri = uri.map_or(read.parts.uri.clone(), |(uri, _)| uri.parse().unwrap());
            assert_eq!((&read.parts.method, &uri), (&hypers.method, &hypers.uri), "{said:?}");
            assert_eq!(
                (read.parts.version, &read.parts.headers),
                (hypers.version, &hypers.headers),
                "{said:?}"
            );
        }
        assert!(taken > 500, "{taken} of 4000 are taken, which shows little");
    }
}
