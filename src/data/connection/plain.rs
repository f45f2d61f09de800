//! Plain HTTP that is forwarded: charged once it is permitted, and then put to a backend, with both
//! bodies streamed. Nothing is decided here after the charge.

use std::fmt;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Response, Version, request};
use hyper::body::{Body, Incoming};

use crate::close::{ExchangeReason, Initiator};
use crate::data::connection::request_log::RequestLog;
use crate::data::connection::service::{HttpService, answered_with, check_answer};
use crate::data::http::body::{RequestBody, ResponseBody, UploadFault};
use crate::data::http::deadlines::CutKind;
use crate::data::http::expect;
use crate::data::http::forward;
use crate::data::http::in_flight::{ExchangeEnd, InFlightExchange};
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::Permit;
use crate::snapshot::route::PathForwarding;

/// Plain HTTP that is permitted and charged, without its body.
pub struct Forward {
    /// The head as the backend is to get it.
    head: request::Parts,
    request: Request,
    permit: Permit,
    /// The version that the client speaks.
    version: Version,
    /// Whether the client takes trailers.
    trailers: bool,
    /// Whether the client waits for a 100 before it sends the body.
    is_expected: bool,
}

/// Why a request gets no answer of the backend's.
enum Rejection {
    Refused(Refusal),
    /// No answer can be given.
    Aborted(ExchangeReason),
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Rejection::Refused(refusal)
    }
}

/// A connection that is given up without an answer.
#[derive(Debug)]
pub enum ConnectionAborted {
    /// The exchange has failed so.
    Failed(ExchangeReason),
    /// The request is refused, and its route answers no such refusal.
    Refused,
}

impl fmt::Display for ConnectionAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectionAborted::Failed(reason) => reason.word(),
            ConnectionAborted::Refused => "refused without an answer",
        })
    }
}

impl std::error::Error for ConnectionAborted {}

impl HttpService {
    /// Charges permitted plain HTTP where its route forwards any, and prepares its head.
    pub fn charge_plain(
        &self,
        mut head: request::Parts,
        mut request: Request,
        permit: Permit,
        log: &RequestLog,
    ) -> Result<Forward, Refusal> {
        let route = permit.route();
        permit.forwards(&request)?;
        // Refused before it is charged; a body without a length is counted as it comes.
        let max = route.max_body.unwrap_or(u64::MAX);
        if declared_length(&head.headers).is_some_and(|length| length > max) {
            return Err(Refusal::Body);
        }
        let candidate = log.candidate();
        let charged = self.thread.plane.tunnels.charge_plain(&permit);
        log.compare(candidate, charged.err());
        charged?;
        self.deadlines.on_permit();
        let version = head.version;
        let trailers = forward::takes_trailers(&head.headers);
        let is_expected = log.has_body && expect::is_expected(&head);
        request.path.keep_form(route.paths == PathForwarding::AsIs);
        forward::to_backend(&mut head, &request, route, &log.forwarded, log.names())?;
        if log.has_body && !head.headers.contains_key(CONTENT_LENGTH) {
            // hyper sends a body of unknown length with GET and HEAD only where a header says so.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if is_expected {
            head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        Ok(Forward { head, request, permit, version, trailers, is_expected })
    }

    /// Puts a request to a backend with its `body`, and books it with the answer.
    ///
    /// # Errors
    /// Only to make hyper close the connection without an answer.
    pub async fn forward(
        &self,
        forward: Forward,
        mut log: Box<RequestLog>,
        body: Incoming,
    ) -> Result<Response<ResponseBody>, ConnectionAborted> {
        let answer = match self.put(forward, body, &mut log).await {
            Ok(answer) => answer,
            Err(Rejection::Refused(refusal)) => match self.refuse_over_http(&mut log, refusal) {
                Some(answer) => answer.map(ResponseBody::full),
                None => return Err(self.drop_client().await),
            },
            Err(Rejection::Aborted(reason)) => {
                log.log_failed(reason);
                // No byte of an answer has gone out, so a plain close misleads no client.
                self.deadlines.set_cut(CutKind::Close);
                return Err(ConnectionAborted::Failed(reason));
            }
        };
        self.routed(&log);
        self.defer_log(log);
        Ok(answer)
    }

    /// Returns the error with which hyper closes the connection of a request that gets no answer.
    /// What was answered before is with the kernel by then: hyper drops what it has not written.
    pub async fn drop_client(&self) -> ConnectionAborted {
        self.deadlines.flushed().await;
        ConnectionAborted::Refused
    }

    async fn put(
        &self,
        forward: Forward,
        body: Incoming,
        log: &mut RequestLog,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let Forward { head, request, permit, version, trailers, is_expected } = forward;
        let host = request.host.name();
        log.note_dial(self.connection.preamble(permit.route(), permit.subject(), host));
        // Entered before the dial: a reload or a drain reaches the request while it waits.
        let mut in_flight = self.begin_exchange(&permit, request, log, head.method.is_safe());
        let (mut body, fault) = if log.has_body {
            RequestBody::streamed(body, permit.route(), self.deadlines.clone())
        } else {
            (RequestBody::Empty, UploadFault::default())
        };
        if is_expected {
            body.hold_for_continue();
        }
        let backend_client = &self.thread.backend_client;
        let put =
            backend_client.forward(&permit, head, body, &fault, &self.deadlines, &mut log.tried);
        match in_flight.run_until(put).await {
            Ok(Ok(answer)) => {
                log.note_answer();
                let mut answer = check_answer(answer, &mut in_flight, version, trailers);
                if version == Version::HTTP_10 && ends_with_connection(&answer) {
                    // Only the end of the connection ends it, whatever the client asked for.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if self.deadlines.has_unread_body() {
                    // If the answer is whole first, the rest is discarded: no request may follow.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    self.closes();
                }
                answered_with(log, answer.status().as_u16(), &self.deadlines);
                Ok(answer.map(|body| body.with_exchange(in_flight, fault)))
            }
            Ok(Err(refusal)) => Err(no_answer(&mut in_flight, &fault, log, refusal)),
            // Revoked before the head of an answer: the client gets the refusal of the new rules.
            Err(ExchangeEnd { refusal: Some(refusal), .. }) => Err(refusal.into()),
            Err(ExchangeEnd { reason, .. }) => Err(Rejection::Aborted(reason)),
        }
    }
}

/// Whether a client of HTTP/1.0 learns the end of this answer by that of its connection alone: it
/// knows no chunks (RFC 9112 §6.1).
fn ends_with_connection(answer: &Response<ResponseBody>) -> bool {
    !answer.headers().contains_key(CONTENT_LENGTH) && !answer.body().is_end_stream()
}

/// Why an exchange ends without an answer of the backend's.
fn no_answer(
    in_flight: &mut InFlightExchange,
    fault: &UploadFault,
    log: &mut RequestLog,
    refusal: Refusal,
) -> Rejection {
    // Where the upload failed, that is the cause, and not the backend.
    let ending = fault
        .exchange_end()
        .unwrap_or(ExchangeEnd::new(Initiator::Backend, ExchangeReason::BackendFailed));
    in_flight.set_end(ending);
    match fault.no_answer_reason() {
        Some(why) => {
            log.tried.error = Some(why.into());
            Rejection::Aborted(ending.reason)
        }
        None => refusal.into(),
    }
}

/// The Content-Length; hyper has made sure that it is one number.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
