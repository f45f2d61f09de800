//! Interim answers of a backend (1xx), which its client gets before the answer (RFC 9110 §15.2).
//!
//! hyper parses them and hands each to a callback; the client's stream writes them in front of the
//! answer's head. A 100 only lets a body go that waits for it (`expect`). 101 is no interim answer.
//! Attempts get none, since many WebSocket clients take the first head for the answer.

use http::{Request, StatusCode};

use crate::data::http::course::Course;
use crate::data::http::expect::Wanted;
use crate::data::http::forward;
use crate::data::http::head;
use crate::data::http::patience::Patience;

/// Passes the interim answers to `request` on to the client of `patience`, and counts them in
/// `course`. A 100 sets `wanted`, where the request's body waits for it.
pub fn pass_on<B>(
    request: &mut Request<B>,
    course: Course,
    patience: &Patience,
    wanted: Option<Wanted>,
) {
    patience.awaits_interims();
    let patience = patience.clone();
    hyper::ext::on_informational(request, move |interim| {
        course.interim();
        if let Some(wanted) = wanted.as_ref().filter(|_| interim.status() == StatusCode::CONTINUE) {
            wanted.set();
        }
        let passes = interim.status() != StatusCode::CONTINUE && !course.has_too_many_interims();
        // Checked first: no head is built for a client that takes nothing.
        if passes && patience.takes_interims() {
            let fields = forward::interim(interim.headers());
            patience.interim(&head::write_interim(interim.status(), &fields));
        }
    });
}

/// Counts the interim answers to `request` in `course`, and drops them.
pub fn count<B>(request: &mut Request<B>, course: Course) {
    hyper::ext::on_informational(request, move |_| course.interim());
}
