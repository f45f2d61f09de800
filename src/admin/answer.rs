//! The HTTP answers of the admin endpoints.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::admin::wire::encode;

/// A response with its whole body.
pub type AdminResponse = Response<Full<Bytes>>;

/// Returns an answer of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
    with_type(status, body, "text/plain; charset=utf-8")
}

/// Returns an answer in its wire form, on one line.
pub fn json(status: StatusCode, answer: &impl Serialize) -> AdminResponse {
    with_type(status, format!("{}\n", encode(answer)), "application/json")
}

/// Returns an answer whose body has this media type.
pub fn with_type(
    status: StatusCode,
    body: impl Into<Bytes>,
    content_type: &'static str,
) -> AdminResponse {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
