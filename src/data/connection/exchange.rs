//! The state that the requests of one connection share, and how it is booked when they end.
//!
//! It decides nothing: `decide` does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRAILER};
use http::{Response, Version};
use jiff::Timestamp;

use crate::data::connection::asked::{Asked, Came};
use crate::data::core::Core;
use crate::data::http::answer::After;
use crate::data::http::body::Outgoing;
use crate::data::http::flight::{Flight, Shape};
use crate::data::http::patience::Patience;
use crate::observe::log::decision;
use crate::observe::metrics::ConnectionEnd;
use crate::policy::request::Request;
use crate::refusal::{Head, Refusal};
use crate::snapshot::Permit;
use crate::sync::lock;

/// The state that the requests of one connection share.
pub struct Exchange {
    /// The thread that serves the connection.
    pub core: Arc<Core>,
    /// How the connection came.
    pub came: Arc<Came>,
    /// The connection's clock, which holds its seat among the connections of its client.
    pub patience: Patience,
    /// Whether an answer of ours closes the connection.
    closes: AtomicBool,
    /// Whether a head came that cannot be read.
    has_bad_head: AtomicBool,
    /// Whether a request was answered on it.
    has_answered: AtomicBool,
    /// Requests whose client had ended its side before the answer: delivery decides about them.
    unsettled: Mutex<Vec<Asked>>,
}

impl Exchange {
    /// Starts without any request, for one connection.
    pub fn new(core: Arc<Core>, came: Came, patience: Patience) -> Self {
        Exchange {
            core,
            came: Arc::new(came),
            patience,
            closes: AtomicBool::new(false),
            has_bad_head: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            unsettled: Mutex::default(),
        }
    }

    /// Notes that there is an answer: its route bounds how long the client may take to take it.
    pub fn routed(&self, asked: &Asked) {
        if let Some(route) = &asked.route {
            self.patience.routed(&route.timeouts);
        }
    }

    /// Keeps a request whose delivery decides how it is booked.
    pub fn settles(&self, asked: Box<Asked>) {
        if asked.settles.is_some() {
            lock(&self.unsettled).push(*asked);
        }
    }

    /// Books the requests that wait for the end of the connection: as answered if all was
    /// `delivered`, and else, by their drop, as left by the client.
    pub fn settle(&self, delivered: bool) {
        let unsettled = std::mem::take(&mut *lock(&self.unsettled));
        for mut asked in unsettled {
            if let Some(status) = asked.settles.filter(|_| delivered) {
                asked.permitted(status);
            }
        }
    }

    /// Enters a permitted request into the table of exchanges.
    pub fn flight(
        &self,
        permit: &Permit,
        request: Request,
        asked: &Asked,
        repeatable: bool,
    ) -> Flight {
        let (tunnels, from) = (&self.core.shared.tunnels, asked.origination(None));
        let exchange = tunnels.begin_exchange(permit, request, from, Timestamp::now);
        let metrics = self.core.metrics.route(permit.route());
        Flight::new(exchange, metrics, self.patience.clone(), repeatable)
    }

    /// Books a refusal, and makes the answer.
    pub fn refuse(&self, asked: &mut Asked, refusal: Refusal) -> Response<Bytes> {
        let (answer, after) = asked.refuse(refusal);
        self.closes_after(after);
        answer
    }

    /// Notes whether one of sidegate's own answers closes the connection, which discards the rest
    /// of the request's body.
    pub fn closes_after(&self, after: After) {
        if after == After::Close {
            self.closes.store(true, Ordering::Relaxed);
            self.patience.body_given_up(None);
        }
    }

    /// Books a head that hyper refused by itself, or that came too late.
    pub fn malformed(&self, error: &str) -> ConnectionEnd {
        let refusal = Refusal::Head(Head::Malformed);
        self.core.metrics.no_route().refused(refusal);
        decision::turned_away(self.came.party(), refusal, None, Some(error), &self.core.cap);
        ConnectionEnd::Head
    }

    /// Notes that an answer closes the connection.
    pub fn closes(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    /// Notes that a request was answered.
    pub fn has_answer(&self) {
        self.patience.has_answer();
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether the connection opens no tunnel any more: its listener is gone, or speaks otherwise.
    /// A client that connected before is still served its first request, which it came for.
    pub fn is_retired(&self) -> bool {
        self.came.closing.is_cancelled() && self.has_answered.load(Ordering::Relaxed)
    }

    /// Notes a head that cannot be read.
    pub fn bad_head(&self) {
        self.has_bad_head.store(true, Ordering::Relaxed);
    }

    /// Whether a head that could not be read ends the connection.
    pub fn has_bad_head(&self) -> bool {
        self.has_bad_head.load(Ordering::Relaxed)
    }

    /// Whether an answer of ours closed the connection.
    pub fn closed_it(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }
}

/// Notes what the answer's head says of its body. Trailers are announced only to a client that
/// takes them, as `trailers` says, and gets chunks.
pub fn relayed(
    mut answer: Response<Outgoing>,
    flight: &mut Flight,
    version: Version,
    trailers: bool,
) -> Response<Outgoing> {
    let has_length = answer.headers().contains_key(CONTENT_LENGTH);
    if !trailers || has_length {
        answer.headers_mut().remove(TRAILER);
    }
    let headers = answer.headers();
    flight.answered(Shape::of(headers), !has_length && version == Version::HTTP_11);
    answer
}

/// Books an answer of the backend's: at once, or, where the client has ended its side already and
/// may be gone, once it is known whether the answer was delivered.
pub fn answered_with(asked: &mut Asked, status: u16, patience: &Patience) {
    if patience.has_ended() {
        asked.settles = Some(status);
        patience.confirms();
    } else {
        asked.permitted(status);
    }
}
