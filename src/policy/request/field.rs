//! Fields of a head, and the parts of their values.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::refusal::{HeadError, Refusal};

/// The refusal of a head that is malformed or has two readings.
pub const MALFORMED: Refusal = Refusal::Head(HeadError::Malformed);

/// The elements of a list field over all its lines, in order, without empty ones (RFC 9110 §5.6.1).
pub fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Returns `element` as text if it is a token (RFC 9110 §5.6.2).
pub fn token(element: &[u8]) -> Option<&str> {
    let is_token = element
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    if is_token { str::from_utf8(element).ok() } else { None }
}

/// The value of a field that may occur once: two lines would have two readings.
pub fn at_most_one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Refusal> {
    let mut lines = headers.get_all(name).into_iter();
    let first = lines.next();
    if lines.next().is_none() { Ok(first) } else { Err(MALFORMED) }
}

/// The default port of `scheme`. `None` for schemes other than HTTP's and WebSocket's.
pub fn default_port(scheme: &str) -> Option<u16> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}
