//! The bodies and the headers of the page's answers.
//!
//! The headers keep everything foreign off the page: scripts, styles, frames, and readers of other
//! origins. Nothing is stored by a cache.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};

use crate::admin::page::guard::ReadRefusal;

/// Headers of every answer. A script or a style comes from this listener or not at all, and what
/// the script parses goes through one policy (Trusted Types).
const HEADERS: [(HeaderName, &str); 9] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types sidegate",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    // One request a connection: none holds a place while its browser thinks.
    (CONNECTION, "close"),
];

/// An answer of the page.
pub type PageResponse = Response<PageBody>;

/// The body of an answer: bytes that are there, or a stream of events.
pub enum PageBody {
    Whole(Full<Bytes>),
    Events(UnsyncBoxBody<Bytes, Infallible>),
}

impl From<Full<Bytes>> for PageBody {
    fn from(whole: Full<Bytes>) -> Self {
        PageBody::Whole(whole)
    }
}

impl Body for PageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            PageBody::Whole(whole) => Pin::new(whole).poll_frame(cx),
            PageBody::Events(events) => Pin::new(events).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            PageBody::Whole(whole) => whole.is_end_stream(),
            PageBody::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            PageBody::Whole(whole) => whole.size_hint(),
            PageBody::Events(events) => events.size_hint(),
        }
    }
}

/// Returns an answer with this body and the headers of all answers.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<PageBody>,
) -> PageResponse {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Returns an answer of plain text.
pub fn text(status: StatusCode, sentence: &'static str) -> PageResponse {
    response(status, "text/plain; charset=utf-8", Full::from(sentence))
}

/// Returns the answer to a refused request.
pub fn refused(refusal: ReadRefusal) -> PageResponse {
    let mut answer = text(refusal.status(), refusal.sentence());
    if refusal == ReadRefusal::Method {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}
