//! Interim answers of a backend (1xx), which its client gets before the answer (RFC 9110 §15.2).
//!
//! hyper parses them and hands each to a callback; the client's stream writes them in front of the
//! answer's head. A 100 only lets a body go that waits for it (`expect`). 101 is no interim answer.
//! Attempts get none, since many WebSocket clients take the first head for the answer.

use http::{Request, StatusCode};

use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::expect::ContinueSignal;
use crate::data::http::forward;
use crate::data::http::head;
use crate::data::http::progress::RequestProgress;

/// Passes the interim answers to `request` on to the client of `deadlines`, and counts them in
/// `progress`. A 100 sets `wanted`, where the request's body waits for it.
pub fn pass_on<B>(
    request: &mut Request<B>,
    progress: RequestProgress,
    deadlines: &HttpDeadlines,
    wanted: Option<ContinueSignal>,
) {
    deadlines.expect_interims();
    let deadlines = deadlines.clone();
    hyper::ext::on_informational(request, move |interim| {
        progress.count_interim();
        if let Some(wanted) = wanted.as_ref().filter(|_| interim.status() == StatusCode::CONTINUE) {
            wanted.set();
        }
        let passes = interim.status() != StatusCode::CONTINUE && !progress.has_too_many_interims();
        // Checked first: no head is built for a client that takes nothing.
        if passes && deadlines.accepts_interims() {
            let fields = forward::interim_fields(interim.headers());
            deadlines.queue_interim(&head::write_interim(interim.status(), &fields));
        }
    });
}

/// Counts the interim answers to `request` in `progress`, and drops them.
pub fn count<B>(request: &mut Request<B>, progress: RequestProgress) {
    hyper::ext::on_informational(request, move |_| progress.count_interim());
}
