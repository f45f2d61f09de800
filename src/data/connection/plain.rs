//! Plain HTTP that is forwarded: charged once it is permitted, and then put to a backend, with both
//! bodies streamed. Nothing is decided here after the charge.

use std::fmt;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Response, Version, request};
use hyper::body::{Body, Incoming};

use crate::close::{By, ExchangeReason};
use crate::data::connection::asked::Asked;
use crate::data::connection::exchange::{Exchange, answered_with, relayed};
use crate::data::http::body::{Fault, Outgoing, Upload};
use crate::data::http::expect;
use crate::data::http::flight::{Ending, Flight};
use crate::data::http::forward;
use crate::data::http::patience::Cut;
use crate::policy::request::Request;
use crate::refusal::Refusal;
use crate::snapshot::Permit;
use crate::snapshot::route::Paths;

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
enum Denied {
    Refused(Refusal),
    /// No answer can be given.
    GivenUp(ExchangeReason),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

/// A connection that is given up without an answer.
#[derive(Debug)]
pub struct GivenUp(ExchangeReason);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.word())
    }
}

impl std::error::Error for GivenUp {}

impl Exchange {
    /// Charges permitted plain HTTP where its route forwards any, and prepares its head.
    pub fn charge_plain(
        &self,
        mut head: request::Parts,
        mut request: Request,
        permit: Permit,
        asked: &Asked,
    ) -> Result<Forward, Refusal> {
        let route = permit.route();
        permit.forwards(&request)?;
        // Refused before it is charged; a body without a length is counted as it comes.
        let most = route.max_body.unwrap_or(u64::MAX);
        if declared_length(&head.headers).is_some_and(|length| length > most) {
            return Err(Refusal::Body);
        }
        let candidate = asked.candidate();
        let charged = self.core.shared.tunnels.charge_plain(&permit);
        asked.compare(candidate, charged.err());
        charged?;
        self.patience.request_permitted();
        let version = head.version;
        let trailers = forward::takes_trailers(&head.headers);
        let is_expected = asked.has_body && expect::is_expected(&head);
        request.path.settle(route.paths == Paths::AsIs);
        forward::to_backend(&mut head, &request, route, &self.came.arrival, &asked.id)?;
        if asked.has_body && !head.headers.contains_key(CONTENT_LENGTH) {
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
        mut asked: Box<Asked>,
        body: Incoming,
    ) -> Result<Response<Outgoing>, GivenUp> {
        let answer = match self.put(forward, body, &mut asked).await {
            Ok(answer) => answer,
            Err(Denied::Refused(refusal)) => self.refuse(&mut asked, refusal).map(Outgoing::full),
            Err(Denied::GivenUp(reason)) => {
                asked.fail(reason);
                self.patience.cuts(Cut::Close);
                return Err(GivenUp(reason));
            }
        };
        self.routed(&asked);
        self.settles(asked);
        Ok(answer)
    }

    async fn put(
        &self,
        forward: Forward,
        body: Incoming,
        asked: &mut Asked,
    ) -> Result<Response<Outgoing>, Denied> {
        let Forward { head, request, permit, version, trailers, is_expected } = forward;
        let mut flight = self.flight(&permit, request, asked, head.method.is_safe());
        let (mut body, fault) = if asked.has_body {
            Upload::streamed(body, permit.route(), self.patience.clone())
        } else {
            (Upload::Empty, Fault::default())
        };
        if is_expected {
            body.holds();
        }
        let dialler = &self.core.dialler;
        let put = dialler.forward(&permit, head, body, &fault, &self.patience, &mut asked.tried);
        match flight.until(put).await {
            Ok(Ok(answer)) => {
                let mut answer = relayed(answer, &mut flight, version, trailers);
                if version == Version::HTTP_10 && lasts_to_the_end(&answer) {
                    // Only the end of the connection ends it, whatever the client asked for.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if self.patience.has_unread_body() {
                    // If the answer is whole first, the rest is discarded: no request may follow.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    self.closes();
                }
                answered_with(asked, answer.status().as_u16(), &self.patience);
                Ok(answer.map(|body| body.within(flight, fault)))
            }
            Ok(Err(refusal)) => Err(unanswered(&mut flight, &fault, asked, refusal)),
            Err(Ending { refusal: Some(refusal), .. }) => Err(refusal.into()),
            Err(Ending { reason, .. }) => Err(Denied::GivenUp(reason)),
        }
    }
}

/// Whether a client of HTTP/1.0 learns the end of this answer by that of its connection alone: it
/// knows no chunks (RFC 9112 §6.1).
fn lasts_to_the_end(answer: &Response<Outgoing>) -> bool {
    !answer.headers().contains_key(CONTENT_LENGTH) && !answer.body().is_end_stream()
}

/// Why an exchange ends without an answer of the backend's.
fn unanswered(flight: &mut Flight, fault: &Fault, asked: &mut Asked, refusal: Refusal) -> Denied {
    let ending = fault.ending().unwrap_or(Ending::new(By::Backend, ExchangeReason::Backend));
    flight.ends(ending);
    match fault.given_up() {
        Some(why) => {
            asked.tried.error = Some(why.into());
            Denied::GivenUp(ending.reason)
        }
        None => refusal.into(),
    }
}

/// The Content-Length; hyper has made sure that it is one number.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
