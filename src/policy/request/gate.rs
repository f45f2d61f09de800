//! The type of a request, and its construction from a parsed head.

use http::header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Version};

use crate::policy::request::connection;
use crate::policy::request::field::{MALFORMED, at_most_one, default_port, elements, token};
use crate::policy::request::host::Host;
use crate::policy::request::request_path::RequestPath;
use crate::policy::request::target::TargetEncoding;
use crate::refusal::{HeadError, Refusal};

/// The longest target accepted: path and query, in bytes as received.
const MAX_TARGET_BYTES: usize = 8 * 1024;

/// The most subprotocols that an attempt may offer.
const MAX_SUBPROTOCOLS: usize = 32;

/// A request that passed the gate. `path` is judged and forwarded. The query stays with the head
/// and is forwarded as received, or percent-encoded (see `target`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The host that the request is for.
    pub host: Host,
    /// The path, in its canonical form and as it was sent.
    pub path: RequestPath,
    /// The page that opened the connection (RFC 6454 §7). Bytes that aren't UTF-8 are replaced, so
    /// that the value matches no origin but never counts as absent.
    pub origin: Option<Box<str>>,
    /// An upgrade to WebSocket, or plain HTTP.
    pub kind: RequestType,
    /// The scheme that the client used.
    pub scheme: Scheme,
    /// The host and port that the client used, as a listed peer reports them. `None` means those of
    /// `host`. No route is found by them.
    pub reported_host: Option<Box<Host>>,
}

/// The scheme that a client used, as far as its listener knows, or as a listed peer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `https` or `wss`: the listener terminated TLS, or the peer did.
    Https,
    /// `http` or `ws`, as the peer reports.
    Http,
    /// Either: the listener is plain, and a proxy in front of it may have terminated TLS.
    Unknown,
}

/// The kind of a request: an upgrade to WebSocket, or plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestType {
    /// An upgrade to WebSocket. Its key, version and method are not checked yet.
    Attempt {
        /// The subprotocols offered, in order.
        subprotocols: Box<[Box<str>]>,
    },
    /// Every other request, including HTTP/1.0 with an `Upgrade`, `h2c`, and `Upgrade` without
    /// `Connection`.
    Plain,
}

impl Request {
    /// Builds the request of a parsed head that arrived on a listener with this `scheme`.
    ///
    /// # Errors
    /// [`Refusal::Head`]: malformed or ambiguous (RFC 9112 §3.2, §6.1), a `Connection` that names
    /// an end-to-end field (`docs/spec/wire.md`), or a target over 8 KiB.
    /// [`Refusal::Path`]: see [`RequestPath::read`]. [`Refusal::Handshake`]: an attempt whose
    /// subprotocols are too many or no tokens (RFC 6455 §4.2.1).
    pub fn read(parts: &Parts, scheme: Scheme) -> Result<Request, Refusal> {
        framing(parts)?;
        if connection::names_end_to_end(&parts.headers) {
            return Err(MALFORMED);
        }
        let host = host(parts)?;
        let origin = at_most_one(&parts.headers, ORIGIN)?;
        // Only now, so that a malformed head is malformed for `OPTIONS *` too.
        if is_for_server(parts) {
            return Err(Refusal::Route);
        }
        let path = path(parts)?;
        let kind = kind(parts)?;
        let origin = origin.map(|value| String::from_utf8_lossy(value.as_bytes()).into());
        Ok(Request { host, path, origin, kind, scheme, reported_host: None })
    }

    /// The host and port that the client used.
    pub fn public_host(&self) -> &Host {
        self.reported_host.as_deref().unwrap_or(&self.host)
    }

    /// Whether the request asks for an upgrade to WebSocket.
    pub fn is_attempt(&self) -> bool {
        matches!(self.kind, RequestType::Attempt { .. })
    }

    /// Whether the request is plain HTTP.
    pub fn is_plain(&self) -> bool {
        !self.is_attempt()
    }
}

/// Requires one reading of where the head and its body end. hyper accepts `chunked, gzip, chunked`
/// and two fields as `chunked`; the next server may not (RFC 9112 §6.1). Content-Length beside
/// Transfer-Encoding is gone by now: hyper removes it and closes after the answer.
fn framing(parts: &Parts) -> Result<(), Refusal> {
    let coding = at_most_one(&parts.headers, TRANSFER_ENCODING)?;
    // A transfer coding in HTTP/1.0 counts as faulty framing (RFC 9112 §6.1).
    let framed = match parts.version {
        Version::HTTP_11 => {
            coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        }
        Version::HTTP_10 => coding.is_none(),
        _ => false,
    };
    let clean = parts.headers.values().all(|value| is_one_line(value.as_bytes()));
    if framed && clean { Ok(()) } else { Err(MALFORMED) }
}

/// hyper's parser refuses these bytes too, but it constructs its values unchecked (RFC 9110 §5.5).
fn is_one_line(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// The single host that the request is for (RFC 9112 §3.2). HTTP/1.0 may omit the field: then the
/// target names the host, or the request names none.
fn host(parts: &Parts) -> Result<Host, Refusal> {
    let field = at_most_one(&parts.headers, HOST)?;
    let named = field.map(|field| Host::parse(field.as_bytes()).ok_or(MALFORMED)).transpose()?;
    if parts.method == Method::CONNECT || (named.is_none() && parts.version != Version::HTTP_10) {
        return Err(MALFORMED);
    }
    let host = match (parts.uri.scheme_str(), parts.uri.authority(), named) {
        // Origin form, or the asterisk form (RFC 9112 §3.2.1, §3.2.4).
        (None, None, named) if parts.uri.path().starts_with('/') || is_for_server(parts) => {
            Some(named.unwrap_or_else(Host::unnamed))
        }
        // Absolute form (RFC 9112 §3.2.2).
        (Some(scheme), Some(authority), Some(host)) => {
            is_same_authority(scheme, authority.as_str(), &host).then_some(host)
        }
        // Absolute form without `Host`: HTTP/1.0, as checked above.
        (Some(scheme), Some(authority), None) => {
            default_port(scheme).and_then(|_| Host::parse(authority.as_str().as_bytes()))
        }
        _ => None,
    };
    host.ok_or(MALFORMED)
}

/// Whether the request is `OPTIONS *`, which addresses the server as a whole (RFC 9110 §9.3.7). The
/// head is valid but belongs to no route: the backends of the routes differ.
fn is_for_server(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && parts.uri.path() == "*"
}

/// Whether an absolute-form target names the same host and port as the `Host` field. RFC 9112
/// §3.2.2 gives the target precedence; a backend unaware of that would serve another host.
fn is_same_authority(scheme: &str, authority: &str, host: &Host) -> bool {
    let Some(default) = default_port(scheme) else { return false };
    let Some(target) = Host::parse(authority.as_bytes()) else { return false };
    target.name() == host.name()
        && target.port().unwrap_or(default) == host.port().unwrap_or(default)
}

fn path(parts: &Parts) -> Result<RequestPath, Refusal> {
    let TargetEncoding { kept, is_broken, .. } =
        parts.extensions.get().copied().unwrap_or_default();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    // The limit applies to the target as received, without the bytes that encoding added.
    if target.len().saturating_sub(kept) > MAX_TARGET_BYTES {
        return Err(Refusal::Head(HeadError::TargetTooLong));
    }
    if is_broken {
        return Err(Refusal::Head(HeadError::InvalidTarget));
    }
    RequestPath::read(parts.uri.path())
}

/// An `Upgrade` counts only if `Connection` names it, and from HTTP/1.1 on (RFC 9110 §7.8).
fn kind(parts: &Parts) -> Result<RequestType, Refusal> {
    let lists = |name, token: &str| {
        elements(&parts.headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    };
    if parts.version != Version::HTTP_11
        || !lists(UPGRADE, "websocket")
        || !lists(CONNECTION, "upgrade")
    {
        return Ok(RequestType::Plain);
    }
    let mut subprotocols = Vec::new();
    for element in elements(&parts.headers, SEC_WEBSOCKET_PROTOCOL) {
        // Refused, not cut: the backend would still see the whole offer.
        if subprotocols.len() == MAX_SUBPROTOCOLS {
            return Err(Refusal::Handshake);
        }
        subprotocols.push(token(element).ok_or(Refusal::Handshake)?.into());
    }
    Ok(RequestType::Attempt { subprotocols: subprotocols.into_boxed_slice() })
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;

    use http::Uri;
    use proptest::prelude::*;

    type Fields<'a> = &'a [(&'a str, &'a str)];

    const UPGRADE_WEBSOCKET: Fields =
        &[("host", "a.example"), ("upgrade", "websocket"), ("connection", "Upgrade")];

    /// Reads a request line and fields; a target that http's parser refuses is hyper's own 400.
    fn read(line: &str, fields: Fields) -> Result<Request, Refusal> {
        let mut words = line.split(' ');
        let (method, target, version) =
            (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or("HTTP/1.1"));
        let Ok(uri) = Uri::try_from(target) else { return Err(MALFORMED) };
        let version = if version == "HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
        let head = http::Request::builder().method(method).uri(uri).version(version);
        let head = fields.iter().fold(head, |head, (name, value)| head.header(*name, *value));
        Request::read(&head.body(()).unwrap().into_parts().0, Scheme::Unknown)
    }

    /// What is judged, as `host[:port] path`, of a request without other fields than `Host`.
    fn check(line: &str, hosts: &[&str], judged: Result<&str, Refusal>) {
        let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        let read = read(line, &fields).map(|request| format!("{} {}", request.host, request.path));
        assert_eq!(read.as_deref().map_err(|refusal| *refusal), judged, "{line} with {hosts:?}");
    }

    fn check_fields(line: &str, fields: Fields, refusal: Option<Refusal>) {
        let fields: Vec<_> = [("host", "a.example")].iter().chain(fields).copied().collect();
        assert_eq!(read(line, &fields).err(), refusal, "{line} with {fields:?}");
    }

    fn subprotocols(lines: &[&str]) -> Result<Vec<String>, Refusal> {
        let offered = lines.iter().map(|line| ("sec-websocket-protocol", *line));
        let fields: Vec<_> = UPGRADE_WEBSOCKET.iter().copied().chain(offered).collect();
        match read("GET /", &fields)?.kind {
            RequestType::Attempt { subprotocols } => {
                Ok(subprotocols.iter().map(|offered| offered.to_string()).collect())
            }
            RequestType::Plain => panic!("not an attempt"),
        }
    }

    // C-H1-03, C-H1-05
    #[test]
    fn only_chunked_alone_frames_a_body_and_only_in_http_1_1() {
        check_fields("POST /", &[("transfer-encoding", "chunked")], None);
        check_fields("POST /", &[("transfer-encoding", "Chunked")], None);
        for value in [
            "chunked, chunked",
            "chunked, gzip, chunked",
            "gzip, chunked",
            "gzip",
            "xchunked",
            "",
            ", chunked",
            "chunked;a=b",
        ] {
            check_fields("POST /", &[("transfer-encoding", value)], Some(MALFORMED));
        }
        check_fields(
            "POST /",
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            Some(MALFORMED),
        );
        check_fields("POST / HTTP/1.0", &[("transfer-encoding", "chunked")], Some(MALFORMED));
        check_fields("POST / HTTP/1.0", &[("content-length", "3")], None);
    }

    // C-H1-11: no value can be made with them but behind our back
    #[test]
    fn a_value_is_one_line() {
        assert!(is_one_line(b"a\tb \xff"));
        assert!(![&b"a\rb"[..], b"a\nb", b"a\0b", b"\r\n"].into_iter().any(is_one_line));
    }

    // C-RT-14
    #[test]
    fn exactly_one_sound_host_is_needed() {
        check("GET /", &["A.Example.:8443"], Ok("a.example:8443 /"));
        check("GET / HTTP/1.0", &["a.example"], Ok("a.example /"));
        check("GET /", &[], Err(MALFORMED));
        check("GET http://a.example/", &[], Err(MALFORMED));
        check("GET /", &["a.example", "a.example"], Err(MALFORMED));
        for odd in ["", ".", "a:b", "a/b", "user@a", "a, b", "a b"] {
            check("GET /", &[odd], Err(MALFORMED));
        }
    }

    #[test]
    fn http_1_0_may_name_no_host_or_name_it_in_the_target() {
        check("GET / HTTP/1.0", &[], Ok(" /"));
        check("OPTIONS / HTTP/1.0", &[], Ok(" /"));
        check("GET http://A.example:8080/x HTTP/1.0", &[], Ok("a.example:8080 /x"));
        check("OPTIONS * HTTP/1.0", &[], Err(Refusal::Route));
        for line in ["CONNECT a:80 HTTP/1.0", "GET ftp://a/ HTTP/1.0", "GET http://u@a/ HTTP/1.0"] {
            check(line, &[], Err(MALFORMED));
        }
        check("GET / HTTP/1.0", &[""], Err(MALFORMED));
        check("GET http://a/ HTTP/1.0", &["b"], Err(MALFORMED));
        check("GET / HTTP/1.0", &["a", "a"], Err(MALFORMED));
    }

    // C-RT-13
    #[test]
    fn an_absolute_form_agrees_with_host() {
        check("GET http://A.example/x", &["a.Example"], Ok("a.example /x"));
        check("GET HTTP://a.example:80/", &["a.example"], Ok("a.example /"));
        check("GET https://a.example", &["a.example:443"], Ok("a.example:443 /"));
        check("GET ws://a.example?q", &["a.example:80"], Ok("a.example:80 /"));
        check("GET WSS://a.example:8443/", &["a.example:8443"], Ok("a.example:8443 /"));
        check("GET http://[::1]:80/", &["[0::1]"], Ok("[::1] /"));
        for (target, host) in [
            ("http://b.example/", "a.example"),
            ("http://a.example:81/", "a.example"),
            ("http://a.example:443/", "a.example"),
            ("http://a.example:0/", "a.example"),
            ("http://a.example:65536/", "a.example"),
            ("http://a.example:+80/", "a.example"),
            ("https://a.example/", "a.example:80"),
            ("http://user@a.example/", "a.example"),
            ("ftp://a.example/", "a.example"),
            ("file:///x", "a.example"),
            ("//a.example/", ""),
        ] {
            check(&format!("GET {target}"), &[host], Err(MALFORMED));
        }
        check("GET //b.example/", &["a.example"], Ok("a.example /b.example/")); // origin-form, whatever it looks like
    }

    // C-H1-23, C-H1-27
    #[test]
    fn method_with_a_wrong_target_form_is_malformed() {
        for line in [
            "GET */test",
            "GET *",
            "OPTIONS */",
            "CONNECT a.example:80",
            "GET a.example:80",
            "GET admin",
            "GET a",
            "GET ?q",
        ] {
            check(line, &["a.example"], Err(MALFORMED));
        }
        check("OPTIONS *", &["a.example"], Err(Refusal::Route));
        check("OPTIONS *", &["a", "a"], Err(MALFORMED));
        for target in ["/", "http://a.example/", "*", "a.example:443"] {
            check(&format!("CONNECT {target}"), &["a.example"], Err(MALFORMED));
        }
        check("OPTIONS /", &["a.example"], Ok("a.example /"));
    }

    // C-H1-20
    #[test]
    fn a_target_over_8_kib_is_too_long_its_query_counted() {
        let too_long = Err(Refusal::Head(HeadError::TargetTooLong));
        check(&format!("GET /?{}", "a".repeat(MAX_TARGET_BYTES - 2)), &["a"], Ok("a /"));
        check(&format!("GET /?{}", "a".repeat(MAX_TARGET_BYTES - 1)), &["a"], too_long);
        check(&format!("GET http://a/{}", "/".repeat(MAX_TARGET_BYTES - 1)), &["a"], Ok("a /"));
        check(&format!("GET http://a/{}", "/".repeat(MAX_TARGET_BYTES)), &["a"], too_long);
    }

    #[test]
    fn target_length_is_measured_before_encoding() {
        let read = |length: usize, tidied: TargetEncoding| {
            let uri = format!("/?{}", "a".repeat(length - 2));
            let head = http::Request::builder().uri(uri).header("host", "a").extension(tidied);
            Request::read(&head.body(()).unwrap().into_parts().0, Scheme::Unknown)
                .map(|request| request.path)
        };
        let tidied = |grown, is_broken| TargetEncoding { grown, kept: grown, is_broken };
        assert_eq!(read(MAX_TARGET_BYTES + 2, tidied(2, false)), Ok("/".into()));
        assert_eq!(
            read(MAX_TARGET_BYTES + 3, tidied(2, false)),
            Err(Refusal::Head(HeadError::TargetTooLong))
        );
        assert_eq!(read(9, tidied(2, true)), Err(Refusal::Head(HeadError::InvalidTarget)));
    }

    // C-RT-01, C-RT-07, C-RT-08, C-RT-11
    #[test]
    fn path_is_canonical_and_the_query_is_ignored() {
        check("GET /a/../b?x=/../%zz%2f\\", &["a"], Ok("a /b"));
        check("GET /a#/../b", &["a"], Ok("a /a"));
        check("GET http://a/x/./%7ey", &["a"], Ok("a /x/~y"));
        for path in ["/%00%zz", "/%2f/..", "/a\\b"] {
            check(&format!("GET {path}"), &["a"], Err(Refusal::Path));
        }
        check("GET /\u{e9}", &["a"], Ok("a /%C3%A9"));
    }

    // C-WS-27, and "Upgrade w/o Connection"
    #[test]
    fn an_attempt_lists_both_tokens_in_any_case() {
        let attempts: &[Fields] = &[
            &[("upgrade", "WebSocket"), ("connection", "UPGRADE")],
            &[("upgrade", "h2c, websocket"), ("connection", "keep-alive,\tUpgrade")],
            &[
                ("upgrade", "h2c"),
                ("upgrade", "websocket"),
                ("connection", "x"),
                ("connection", ", upgrade,"),
            ],
        ];
        let plain: &[Fields] = &[
            &[],
            &[("upgrade", "websocket")],
            &[("upgrade", "websocket"), ("connection", "keep-alive")],
            &[("connection", "upgrade")],
            &[("upgrade", "h2c"), ("connection", "upgrade")],
            &[("upgrade", "websocket/13"), ("connection", "upgrade")],
            &[("upgrade", "web socket"), ("connection", "upgrade")],
        ];
        for (fields, is_attempt) in attempts
            .iter()
            .map(|fields| (fields, true))
            .chain(plain.iter().map(|fields| (fields, false)))
        {
            let fields: Vec<_> = fields.iter().chain(&[("host", "a")]).copied().collect();
            assert_eq!(read("GET /", &fields).unwrap().is_attempt(), is_attempt, "{fields:?}");
            assert!(read("GET / HTTP/1.0", &fields).unwrap().is_plain(), "{fields:?}");
        }
        assert!(read("POST /", UPGRADE_WEBSOCKET).unwrap().is_attempt()); // its method is the handshake's business
    }

    // C-WS-14
    #[test]
    fn an_origin_that_cannot_be_read_is_still_an_origin() {
        let mut head =
            http::Request::builder().uri("/").header("host", "a").body(()).unwrap().into_parts().0;
        assert_eq!(Request::read(&head, Scheme::Unknown).unwrap().origin, None);
        head.headers.insert(ORIGIN, HeaderValue::from_bytes(b"https://\xff").unwrap());
        assert_eq!(
            Request::read(&head, Scheme::Unknown).unwrap().origin.as_deref(),
            Some("https://\u{fffd}")
        );
        head.headers.insert(ORIGIN, HeaderValue::from_static(""));
        assert_eq!(Request::read(&head, Scheme::Unknown).unwrap().origin.as_deref(), Some(""));
        head.headers.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        assert_eq!(Request::read(&head, Scheme::Unknown), Err(MALFORMED));
    }

    #[test]
    fn subprotocols_are_tokens_in_the_order_offered() {
        assert_eq!(
            subprotocols(&["v2.ticks, v1.ticks", "", ",json"]).unwrap(),
            ["v2.ticks", "v1.ticks", "json"]
        );
        assert_eq!(subprotocols(&[&["a"; 32].join(",")]).unwrap().len(), 32);
        for lines in
            [&["a b"][..], &["a=b"], &["\"a\""], &["a", "é"], &[&["a"; 33].join(",")], &["a"; 33]]
        {
            assert_eq!(subprotocols(lines), Err(Refusal::Handshake), "{lines:?}");
        }
        check_fields("GET /", &[("sec-websocket-protocol", "a b")], None); // plain: not ours to read
    }

    proptest! {
        // C-RT-12
        #[test]
        fn judged_request_is_a_fixed_point_of_the_gate(path in "/([a.%/~;]|%2[015e]|%7[eE]|%c3%A9|\\.\\.|//){0,10}", query in "(\\?[a-z%/?.]{0,8})?") {
            let target = format!("{path}{query}");
            if let Ok(request) = read(&format!("GET {target}"), UPGRADE_WEBSOCKET) {
                for as_is in [false, true] {
                    let path = request.path.forwarded(as_is);
                    let forwarded = format!("{path}{query}");
                    let uri = Uri::try_from(&forwarded).unwrap();
                    prop_assert_eq!(uri.path(), path);
                    let again = read(&format!("GET {forwarded}"), UPGRADE_WEBSOCKET).unwrap();
                    prop_assert_eq!(again.path.canonical(), request.path.canonical());
                    prop_assert_eq!(again.path.forwarded(as_is), path);
                }
            }
        }
    }
}
