//! What a listed peer reports besides the client: the scheme, the host and the port that the client
//! used, and the id of the request.
//!
//! Of several reports that of the listed proxy nearest to the client counts.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::forwarded::derivation::{WalkFault, excerpt};
use crate::policy::forwarded::element::Element;
use crate::policy::request::{Host, Scheme};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is kept.
const MAX_ID_BYTES: usize = 128;

/// What listed peers report. `None` means not reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardedReport {
    /// The scheme that the client used.
    pub scheme: Option<Scheme>,
    /// The host that the client asked for. It is never routed by.
    pub host: Option<Host>,
    /// The port that the client used.
    pub port: Option<u16>,
    /// The id under which the peer knows the request.
    pub request_id: Option<HeaderValue>,
}

impl ForwardedReport {
    /// Reads `X-Forwarded-Proto`, `-Host` and `-Port`. Each may be a list to which every proxy has
    /// appended: the value counts that lies as far from the right as the client's address, `depth`.
    /// Of a shorter list the leftmost counts, since a proxy has replaced what came.
    pub(super) fn of_fields(headers: &HeaderMap, depth: usize) -> Result<Self, WalkFault> {
        // A malformed report is refused, and not ignored: with the listener's own scheme instead,
        // `origins = ["same"]` would admit pages of two schemes.
        let scheme = nth_from_right(headers, X_FORWARDED_PROTO, depth).map(scheme).transpose()?;
        let host = nth_from_right(headers, X_FORWARDED_HOST, depth).map(host).transpose()?;
        let port = nth_from_right(headers, X_FORWARDED_PORT, depth).map(port).transpose()?;
        let port = port.or(host.as_ref().and_then(Host::port));
        Ok(ForwardedReport { scheme, host, port, request_id: None })
    }

    /// Reads `proto` and `host` of the element that names the client.
    pub(super) fn of_element(element: Element<'_>) -> Result<Self, WalkFault> {
        let reported = |text: &Option<_>| -> Option<_> {
            Option::as_deref(text).filter(|text: &&[u8]| !text.is_empty()).map(<[u8]>::to_vec)
        };
        let scheme = reported(&element.scheme).map(|text| scheme(&text)).transpose()?;
        let host = reported(&element.host).map(|text| host(&text)).transpose()?;
        let port = host.as_ref().and_then(Host::port);
        Ok(ForwardedReport { scheme, host, port, request_id: None })
    }
}

/// The value of a list field that has `depth` others to its right, or the leftmost. Empty ones
/// count for nothing.
fn nth_from_right(headers: &HeaderMap, name: HeaderName, depth: usize) -> Option<&[u8]> {
    let lines = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
    let values = lines.flat_map(|line| line.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    values.filter(|value| !value.is_empty()).take(depth + 1).last()
}

fn scheme(text: &[u8]) -> Result<Scheme, WalkFault> {
    let is = |known: &str| text.eq_ignore_ascii_case(known.as_bytes());
    match () {
        () if is("https") || is("wss") => Ok(Scheme::Https),
        () if is("http") || is("ws") => Ok(Scheme::Http),
        () => Err(WalkFault::Scheme(excerpt(text))),
    }
}

fn host(text: &[u8]) -> Result<Host, WalkFault> {
    Host::parse(text).ok_or_else(|| WalkFault::Host(excerpt(text)))
}

fn port(text: &[u8]) -> Result<u16, WalkFault> {
    let digits = str::from_utf8(text).ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port > 0);
    port.ok_or_else(|| WalkFault::Port(excerpt(text)))
}

/// The request id, if there is exactly one and it fits into logs and headers unquoted.
pub(super) fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    // Of two ids, neither is known to be the peer's own.
    let id = ids.next().filter(|_| ids.next().is_none())?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:+/=@".contains(byte);
    let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(is_plain);
    fits.then(|| id.clone())
}
