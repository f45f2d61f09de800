//! What the metrics listener answers: `/metrics`, `/livez` and `/readyz`, for those in `[metrics] allow`.
//!
//! It is bounded in time and number: a scraper that stalls, or comes a hundred at a time, keeps
//! the next one waiting for a moment, and the data plane not at all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::HeaderValue;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use crate::admin::{Admin, Answer, MOST, PATIENCE, converse, health, text, with_type};
use crate::policy::network::Peer;

/// The format that Prometheus scrapes.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long one who asks has in a crowd, and one who isn't allowed to ask always.
const SHORT: Duration = Duration::from_secs(1);

/// More than so many at a time are a crowd.
const MANY: usize = MOST / 2;

/// One request: who wants another comes again, and nobody holds a place between two.
/// `peer` is `None` over a Unix socket, where the file has said who may.
pub async fn answer_one(admin: &Admin, guests: &Guests, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Option<Peer>) {
    let allowed = peer.is_none_or(|peer| admin.standing.settings.load().metrics.allow.longest(peer.ip()).is_some());
    if !allowed {
        admin.metrics.scrape_refused();
    }
    let Some(guest) = guests.enter(allowed) else { return };
    let answered = converse(stream, PATIENCE, |request| {
        let mut answer = if allowed { answer(admin, &request) } else { text(StatusCode::FORBIDDEN, "not in [metrics] allow\n") };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        async { answer }
    });
    tokio::select! {
        () = answered => {}
        () = guest.outstay() => tracing::debug!(peer = ?peer, "one who asked was too slow, and others wait"),
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET only: what changes something is asked on the admin socket\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let body = admin.metrics.scrape(&admin.live.load(), admin.drops.count(), Timestamp::now());
            with_type(StatusCode::OK, body, EXPOSITION)
        }
        "/livez" => health::livez(admin, request.headers()),
        "/readyz" => health::readyz(admin, request.headers()),
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
    }
}

/// Those who ask now. Where many do, whoever takes long has to go, so that the next is heard.
#[derive(Default)]
pub struct Guests {
    inside: AtomicUsize,
    strangers: AtomicUsize,
}

/// One who asks, until dropped.
struct Guest<'g> {
    guests: &'g Guests,
    stranger: bool,
}

impl Guests {
    /// `None`: there are too many already of those who are only told that they aren't allowed.
    fn enter(&self, allowed: bool) -> Option<Guest<'_>> {
        let guest = Guest { guests: self, stranger: !allowed };
        self.inside.fetch_add(1, Ordering::Relaxed);
        let strangers = self.strangers.fetch_add(usize::from(!allowed), Ordering::Relaxed);
        (allowed || strangers < MANY / 2).then_some(guest)
    }
}

impl Guest<'_> {
    /// Waits until it has been here for longer than it may: [`SHORT`], for a stranger or in a crowd.
    async fn outstay(&self) {
        sleep(SHORT).await;
        while !self.stranger && self.guests.inside.load(Ordering::Relaxed) <= MANY {
            sleep(SHORT / 10).await;
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.guests.inside.fetch_sub(1, Ordering::Relaxed);
        self.guests.strangers.fetch_sub(usize::from(self.stranger), Ordering::Relaxed);
    }
}
