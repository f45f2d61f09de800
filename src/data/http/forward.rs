//! The heads that are passed on: a request's to the backend, and an answer's to the client.
//!
//! Hop-by-hop fields are removed first and ours set last, so that no client can
//! strip or forge them (`docs/spec/wire.md`, "Headers to the backend"). Names keep their
//! case: hyper keeps it in the extensions, which are moved along.

use data_encoding::BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_ACCEPT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Uri, Version, request, response};
use hyper::ext::ReasonPhrase;

use crate::data::http::identity::is_identity;
use crate::data::websocket::handshake::{Agreement, Handshake};
use crate::policy::forwarded::{Derived, ForwardedReport, WalkEnd};
use crate::policy::network::Client;
use crate::policy::request::{Host, Request, Scheme, options};
use crate::policy::route::stripped;
use crate::policy::subject::Subject;
use crate::refusal::{HeadError, Refusal};
use crate::snapshot::listener::{HTTP_PORT, HTTPS_PORT};
use crate::snapshot::route::{Route, SentCertificate};
use crate::trace_context::{TRACEPARENT, TraceContext};

/// Fields for one connection only (RFC 9110 §7.6.1), besides the ones which `Connection` names.
static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that frame content. A head without content has none of them.
const CONTENT_FRAMING: [HeaderName; 3] = [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The name under which a request is known in logs on both sides.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a request reached us: as its connection tells, or as a listed peer reports.
#[derive(Debug, Clone)]
pub struct ForwardedFacts {
    /// The client that it is judged by, and its credentials.
    pub subject: Subject,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The local port that it came to, which a port mapping may hide from clients.
    pub port: u16,
    /// The port that clients use, as the listener says. `None` means that `Host` tells it.
    pub public_port: Option<u16>,
    /// What a listed peer says. `None` means that the peer is not listed, or that the listener
    /// believes none.
    pub derived: Option<Box<Derived>>,
}

impl ForwardedFacts {
    /// The facts of a connection of this client, which came to `port`.
    pub fn new(
        subject: impl Into<Subject>,
        tls: bool,
        port: u16,
        public_port: Option<u16>,
    ) -> Self {
        let subject = subject.into();
        ForwardedFacts { subject, tls, port, public_port, derived: None }
    }

    /// The facts of a request on this connection about which a listed peer says this. What the
    /// connection has proved belongs to the peer, and not to a client that it names, even one with
    /// the peer's address.
    pub fn derived(&self, derived: Derived) -> Self {
        let subject = match derived.derivation.end {
            WalkEnd::Empty => self.subject.clone(),
            // The connection's certificate is still verified again, though it is the peer's.
            _ => Subject {
                ingress: self.subject.ingress.clone(),
                ..Subject::new(derived.derivation.client())
            },
        };
        ForwardedFacts { subject, derived: Some(Box::new(derived)), ..*self }
    }

    /// What a listed peer reports.
    fn report(&self) -> Option<&ForwardedReport> {
        self.derived.as_deref().map(|derived| &derived.report)
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> Scheme {
        let own = if self.tls { Scheme::Https } else { Scheme::Unknown };
        self.report().and_then(|report| report.scheme).unwrap_or(own)
    }

    /// The port that the client used: that of `host`, which is the default of the scheme where
    /// none is written (RFC 9110 §4.2). The local port is another behind a port mapping.
    pub fn public_port(&self, host: &Host) -> u16 {
        let default = match self.scheme() {
            Scheme::Https => HTTPS_PORT,
            Scheme::Http | Scheme::Unknown => HTTP_PORT,
        };
        let reported = self.report().and_then(|report| match (report.port, &report.host) {
            (None, Some(_)) => Some(default),
            (port, _) => port,
        });
        reported.or(self.public_port).or(host.port()).unwrap_or(default)
    }

    /// The host and port that the client used, where a listed peer reports either. `host` is the
    /// request's own.
    pub fn reported_host(&self, host: &Host) -> Option<Host> {
        let report = self.report()?;
        match (&report.host, report.port) {
            (None, None) => None,
            (reported, port) => Some(reported.as_ref().unwrap_or(host).with_port(port)),
        }
    }

    /// The value of `X-Forwarded-For`: the addresses from the client to a listed peer, or else the
    /// client's. `None` means that there is none: a user of this host has no address.
    fn chain(&self) -> Option<HeaderValue> {
        // From the client on: frameworks take the leftmost address, and what came further left may
        // be forged.
        let named = self.derived.as_deref().map(|derived| derived.derivation.chain());
        let addresses = named.into_iter().flatten().filter_map(Client::ip);
        let chain = match self.derived {
            Some(_) => addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", "),
            None => self.subject.client.ip()?.to_string(),
        };
        if chain.is_empty() { None } else { Some(value(&chain)) }
    }
}

/// Under what a request is known in the logs and spans of both sides.
#[derive(Clone, Copy)]
pub struct RequestNames<'r> {
    /// Its id, as `X-Request-Id`.
    pub id: &'r HeaderValue,
    /// Its trace. `None` means that it has none.
    pub trace: Option<TraceContext>,
}

/// Turns the head that came into the head that goes to the backend.
///
/// # Errors
/// The path and the query, each of which came in a valid target, form no valid target together.
pub fn to_backend(
    parts: &mut request::Parts,
    request: &Request,
    route: &Route,
    forwarded: &ForwardedFacts,
    names: RequestNames<'_>,
) -> Result<(), Refusal> {
    // Read first: a `Connection` that names Host removes it.
    let host = host(parts);
    let traceparent = parts.headers.get(TRACEPARENT).cloned();
    remove_hop_by_hop(&mut parts.headers);
    // From listed peers too: most proxies pass on every field of their clients that they do not
    // set, and `X-Original-URL` leads some backends to a path that was not judged.
    remove_identity(&mut parts.headers);
    // The caller sets it again where the client waits for a 100.
    parts.headers.remove(EXPECT);
    // A backend may merge trailers into the head that was judged (RFC 9110 §6.5.1). The body drops
    // them; announced, they would be waited for.
    parts.headers.remove(TRAILER);
    if request.is_attempt() {
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    // Ours come last: the removals above would take them too.
    let reported = forwarded.report().and_then(|report| report.host.as_ref());
    let reported = reported.map(|host| value(&host.to_string()));
    if let Some(public) = reported.or_else(|| host.clone()) {
        parts.headers.insert(X_FORWARDED_HOST, public);
    }
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    if let Some(chain) = forwarded.chain() {
        parts.headers.insert(X_FORWARDED_FOR, chain);
    }
    let is_https = forwarded.scheme() == Scheme::Https;
    let scheme = HeaderValue::from_static(if is_https { "https" } else { "http" });
    parts.headers.insert(X_FORWARDED_PROTO, scheme);
    let port = forwarded.public_port(&request.host);
    parts.headers.insert(X_FORWARDED_PORT, HeaderValue::from(port));
    if let Some(prefix) = prefix(route) {
        parts.headers.insert(X_FORWARDED_PREFIX, prefix);
    }
    insert_certificates(&mut parts.headers, route.client_certificate, &forwarded.subject);
    parts.headers.insert(X_REQUEST_ID, names.id.clone());
    if let Some(trace) = names.trace {
        // A client cannot hide the trace, which the log has, by a `Connection` that names it.
        if let Some(sent) = traceparent {
            parts.headers.entry(TRACEPARENT).or_insert(sent);
        }
        trace.insert_into(&mut parts.headers);
    }
    parts.uri = target(request, route, parts.uri.query())?;
    // For a client of HTTP/1.0 too: a backend is always asked in HTTP/1.1 (`docs/spec/wire.md`,
    // "HTTP/1.0").
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Sets the fields that tell a backend of the client's verified certificate (RFC 9440 §2). A client
/// that a forwarder names has none: what the connection shows is the forwarder's.
fn insert_certificates(headers: &mut HeaderMap, sent: SentCertificate, subject: &Subject) {
    let Some(certificate) = subject.certificate().filter(|_| sent != SentCertificate::Off) else {
        return;
    };
    // A byte sequence of Structured Fields: base64 between colons (RFC 8941 §3.3.5).
    let field = |der: &[u8]| format!(":{}:", BASE64.encode(der));
    let Some((own, others)) = certificate.chain.split_first() else { return };
    headers.insert(CLIENT_CERT, value(&field(own)));
    if sent == SentCertificate::Chain && !others.is_empty() {
        let chain: Vec<_> = others.iter().map(|der| field(der)).collect();
        headers.insert(CLIENT_CERT_CHAIN, value(&chain.join(", ")));
    }
}

/// The host as the client wrote it: in the field, or, over HTTP/1.0, in the target alone. `None`
/// means that a client of HTTP/1.0 named none: then the dialled backend's own name is used.
fn host(parts: &request::Parts) -> Option<HeaderValue> {
    let of_target = || HeaderValue::from_str(parts.uri.authority()?.as_str()).ok();
    parts.headers.get(HOST).cloned().or_else(of_target)
}

/// The path that was judged, less the prefix where the route strips it, and the query as it came.
fn target(request: &Request, route: &Route, query: Option<&str>) -> Result<Uri, Refusal> {
    let path = route.forwarded(&request.path);
    let path = if route.strip_prefix { stripped(&route.path, path) } else { path };
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    target.parse().map_err(|_| Refusal::Head(HeadError::Malformed))
}

/// The path that the route strips, without the slash at its end, which stays. `None` means that
/// nothing is stripped. A backend builds its own links with it.
fn prefix(route: &Route) -> Option<HeaderValue> {
    let prefix = if route.strip_prefix { route.path.trim_end_matches('/') } else { "" };
    // A route's path is canonical, so its bytes are valid in a value.
    HeaderValue::from_str(prefix).ok().filter(|prefix| !prefix.is_empty())
}

/// Turns the head of a backend's answer, which is no 101, into the client's. `attempt` says whether
/// an upgrade was asked for.
pub fn to_client(parts: &mut response::Parts, attempt: bool) {
    // Read first: the removal takes `Upgrade`, and whatever `Connection` names.
    let upgrade = parts.headers.get(UPGRADE).cloned();
    strip(parts);
    match parts.status {
        // RFC 9110 §15.5.22: a 426 must say what it wants.
        StatusCode::UPGRADE_REQUIRED => {
            parts
                .headers
                .insert(UPGRADE, upgrade.unwrap_or_else(|| HeaderValue::from_static("websocket")));
            parts.headers.insert(
                CONNECTION,
                HeaderValue::from_static(if attempt { "Upgrade, close" } else { "Upgrade" }),
            );
        }
        // The backend's right, as a 401 or a redirect. The connection has served its purpose and
        // ends.
        _ if attempt => {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
}

/// Checks that the head of a backend's 101 answers the `handshake`, and turns it into the client's.
/// A 101 goes to a client by this function alone, whether hyper or `head` reads and writes it.
///
/// # Errors
/// A sentence about its first mistake.
pub fn switched(
    parts: &mut response::Parts,
    handshake: &Handshake,
) -> Result<Agreement, &'static str> {
    // Before the check: nothing is agreed on that the client never sees.
    strip_connection_fields(parts);
    let agreed = handshake.agree(parts)?;
    let accept = parts.headers.get(SEC_WEBSOCKET_ACCEPT).cloned();
    strip(parts);
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    // Without it no client takes the 101, whatever the backend's `Connection` names.
    if let Some(accept) = accept {
        parts.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    // hyper would write the backend's own phrase, and `head` writes the standard's.
    parts.extensions.remove::<ReasonPhrase>();
    Ok(agreed)
}

/// Removes the fields of the backend's connection, and framing that the status never has.
fn strip(parts: &mut response::Parts) {
    remove_hop_by_hop(&mut parts.headers);
    remove_framing(parts);
    parts.version = Version::HTTP_11;
}

/// Whether a client takes trailers (RFC 9110 §10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).into_iter().map(HeaderValue::as_bytes);
    // `trailers` has no weight, unlike a transfer coding (RFC 9110 §10.1.4), so the whole element
    // is compared.
    let mut codings = lines.flat_map(|line| line.split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Removes the fields for one connection only from an answer's trailers.
pub fn strip_hop_by_hop_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
}

/// The fields of an interim answer that its client gets.
pub fn interim_fields(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    remove_hop_by_hop(&mut fields);
    // An interim answer has no content (RFC 9110 §15.2). A client could take its framing for that
    // of the answer.
    for name in CONTENT_FRAMING {
        fields.remove(name);
    }
    fields
}

/// Removes the fields that the `Connection` of a backend's 101 names, so that nothing is agreed on
/// which the client never sees. `Sec-WebSocket-Accept` stays, see [`switched`].
fn strip_connection_fields(head: &mut response::Parts) {
    for name in
        named(&head.headers).filter(|name| *name != SEC_WEBSOCKET_ACCEPT).collect::<Vec<_>>()
    {
        head.headers.remove(name);
    }
}

/// Removes the framing of content that this status never has (RFC 9110 §8.6, RFC 9112 §6.1): a
/// client that believed a 101's length would skip the first frames.
fn remove_framing(head: &mut response::Parts) {
    if has_no_content(head.status) {
        for name in CONTENT_FRAMING {
            head.headers.remove(name);
        }
    }
}

fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// Digits, and no more of them than a length can have (RFC 9110 §8.6).
fn is_number(length: &[u8]) -> bool {
    length.iter().all(u8::is_ascii_digit)
        && str::from_utf8(length).is_ok_and(|length| length.parse::<u64>().is_ok())
}

/// Refuses framing of a backend's answer that hyper lets through, and that two readers could read
/// in two ways.
///
/// # Errors
/// A sentence for the log; the client gets 502.
pub fn check_framing(parts: &response::Parts, method: &Method) -> Result<(), &'static str> {
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let (Some(_), Some(_)) = (lengths.next(), lengths.next()) {
        return Err("more than one Content-Length");
    }
    let length = parts.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    // A head without content loses its length anyway.
    if !has_no_content(parts.status) && length.is_some_and(|length| !is_number(length)) {
        return Err("a Content-Length that is no number");
    }
    let coding = codings.next();
    if codings.next().is_some() {
        return Err("more than one Transfer-Encoding");
    }
    if coding.is_some_and(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Err("a Transfer-Encoding other than chunked");
    }
    // An answer to HEAD has no content to frame, and its Transfer-Encoding is not passed on.
    if coding.is_some() && parts.headers.contains_key(CONTENT_LENGTH) && *method != Method::HEAD {
        return Err("both Content-Length and Transfer-Encoding");
    }
    Ok(())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in named(headers).collect::<Vec<_>>().iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The fields that `Connection` names, besides those in `HOP_BY_HOP`.
fn named(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let is_known = |token: &&[u8]| {
        HOP_BY_HOP.iter().any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    options(headers)
        .filter(move |token| !is_known(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
}

/// Removes the fields in which a client makes claims about its own identity.
fn remove_identity(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| is_identity(name.as_str())).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

/// A field value of address characters, which are always valid there.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    // C-H1-15, C-WS-13
    #[test]
    fn fields_that_connection_names_are_removed() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade, X-Secret , keep-alive"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("1"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    // C-H1-16
    #[test]
    fn backend_answer_with_ambiguous_framing_is_refused() {
        let check = |fields: &[(&'static str, &'static str)], fine: bool| {
            let (mut parts, ()) = http::Response::new(()).into_parts();
            for (name, value) in fields {
                parts.headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check_framing(&parts, &Method::GET).is_ok(), fine, "{fields:?}");
        };
        check(&[], true);
        check(&[("content-length", "3")], true);
        for list in ["3, 3", "3,3", "+3", "3 3", "0x3", "", ",", "-3", "99999999999999999999"] {
            check(&[("content-length", list)], false);
        }
        check(&[("transfer-encoding", "Chunked")], true);
        check(&[("content-length", "3"), ("content-length", "3")], false);
        check(&[("content-length", "3"), ("transfer-encoding", "chunked")], false);
        check(&[("transfer-encoding", "gzip, chunked")], false);
        check(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false);
    }
}
