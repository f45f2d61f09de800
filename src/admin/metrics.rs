//! Answers `/metrics`, `/livez` and `/readyz` for the networks in `[metrics] allow`.
//!
//! Time and number of connections are bounded: a stalled scraper loses its place to the next one
//! and holds up no byte of the data plane. At a loopback address, requests for foreign names are
//! refused (DNS rebinding).

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::HeaderValue;
use http::{Method, Request, StatusCode, Version, header};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use crate::admin::answer::{Answer, text, with_type};
use crate::admin::connection::{PATIENCE, converse};
use crate::admin::health;
use crate::admin::room::Place;
use crate::admin::state::Admin;
use crate::observe::metrics::Facts;
use crate::policy::network::Peer;
use crate::policy::request::Host;

/// Media type of Prometheus' text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Time for a caller outside `allow` to read its 403.
const SHORT: Duration = Duration::from_secs(1);

/// Most callers outside `allow` that are answered at one time; further ones are closed without an
/// answer.
const MOST_STRANGERS: usize = 8;

/// A caller over TCP.
pub struct Caller {
    /// Address of the socket's other end.
    pub peer: Peer,
    /// Whether the local address is loopback, to which an attacker's DNS name may resolve.
    pub at_loopback: bool,
}

/// Answers one request and closes, so that no connection holds a place between two requests.
/// `caller` is `None` over a Unix socket, whose file mode has already admitted it. Returns whether
/// the connection ended in order.
pub async fn answer_one(
    admin: &Admin,
    strangers: &Strangers,
    (stream, place): (&mut (impl AsyncRead + AsyncWrite + Unpin), &Place),
    caller: Option<Caller>,
) -> bool {
    let peer = caller.as_ref().map(|caller| caller.peer);
    let may =
        |peer: Peer| admin.standing.settings.load().metrics.allow.longest(peer.ip()).is_some();
    let stranger = if peer.is_none_or(may) { None } else { Some(strangers.enter()) };
    if stranger.is_some() {
        admin.metrics.scrape_refused();
    }
    // Too many refused callers at once: closed without an answer.
    if stranger.as_ref().is_some_and(Option::is_none) {
        return true;
    }
    let (allowed, names_matter) =
        (stranger.is_none(), caller.is_some_and(|caller| caller.at_loopback));
    let answered = converse(stream, PATIENCE, |request| {
        let mut answer = match allowed {
            true if names_matter => named(admin, &request),
            true => answer(admin, &request),
            false => text(StatusCode::FORBIDDEN, "not in [metrics] allow\n"),
        };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        async { answer }
    });
    tokio::select! {
        in_order = answered => in_order,
        () = place.wanted() => {
            tracing::debug!(?peer, "an idle scraper was closed to make room for another connection");
            false
        }
        () = sleep(SHORT), if !allowed => false,
    }
}

/// Answers at a loopback address, after a check of the requested name.
fn named<B>(admin: &Admin, request: &Request<B>) -> Answer {
    match named_here(request, &admin.standing.settings.load().metrics.hosts) {
        Named::Here => answer(admin, request),
        Named::Elsewhere => {
            admin.metrics.scrape_refused();
            let told = "the Host has to be an address, localhost or a name in [metrics] hosts\n";
            text(StatusCode::FORBIDDEN, told)
        }
        Named::Badly => text(StatusCode::BAD_REQUEST, "a request needs exactly one Host\n"),
    }
}

/// Whether the Host of a request names this listener.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Here,
    Elsewhere,
    /// No Host, or more than one.
    Badly,
}

/// Checks the Host of `request`; `hosts` are the names of this listener. A browser that an
/// attacker's DNS led here (DNS rebinding) sends the name of the attacker's page, never an address
/// or `localhost`.
fn named_here<B>(request: &Request<B>, hosts: &[Box<str>]) -> Named {
    let is_ours = |value: &[u8]| {
        let Some(host) = Host::parse(value) else { return false };
        let (name, is_v6) = (host.name(), host.name().starts_with('['));
        is_v6
            || name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok()
            || hosts.iter().any(|own| **own == *name)
    };
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next();
    let must = request.version() >= Version::HTTP_11;
    if fields.next().is_some() || (must && field.is_none()) {
        return Named::Badly;
    }
    // The absolute form overrides Host (RFC 9112 §3.2.2). Here both must be ours, so that a request
    // that names two hosts is refused.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let all_ours = authority.into_iter().chain(field.map(HeaderValue::as_bytes)).all(is_ours);
    if all_ours { Named::Here } else { Named::Elsewhere }
}

fn answer<B>(admin: &Admin, request: &Request<B>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is supported: commands go to the admin socket\n",
        );
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            let live = admin.live.load();
            let (is_draining, log_drops) = (admin.lifecycle.is_draining(), admin.drops.count());
            let budgets = admin.tunnels.budgets();
            let facts = Facts { snapshot: &live, budgets, is_draining, log_drops };
            let body = admin.metrics.scrape(&facts, Timestamp::now());
            with_type(StatusCode::OK, body, EXPOSITION)
        }
        "/livez" => health::livez(admin, request.headers()),
        "/readyz" => health::readyz(admin, request.headers()),
        _ => text(StatusCode::NOT_FOUND, "the paths are /metrics, /livez and /readyz\n"),
    }
}

/// Number of callers outside `allow` that are being answered.
#[derive(Default)]
pub struct Strangers(AtomicUsize);

/// One counted caller; dropping it lowers the number.
struct Stranger<'s>(&'s Strangers);

impl Strangers {
    /// Counts a caller; `None` means there are already too many.
    fn enter(&self) -> Option<Stranger<'_>> {
        // Made before the check: if there are too many, its drop takes back the count added below.
        let stranger = Stranger(self);
        (self.0.fetch_add(1, Ordering::Relaxed) < MOST_STRANGERS).then_some(stranger)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what a request of this version with this target and these Hosts names, where
    /// `here.example` is a name of the listener.
    fn check(version: Version, target: &str, hosts: &[&str], expected: Named) {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let found = named_here(&request.body(()).unwrap(), &["here.example".into()]);
        assert_eq!(found, expected, "{target} {hosts:?}");
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_ours() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:10464",
            "192.0.2.1",
            "[::1]",
            "[::1]:10464",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LocalHost:10464",
            "localhost.",
            "localhost:",
            "here.example",
            "HERE.example.:80",
        ] {
            check(Version::HTTP_11, "/metrics", &[host], Named::Here);
        }
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f000001",
            "2130706433",
            "::1",
            "[::1",
            "[fe80::1%25lo]",
            "localhost:99999",
            "localhost:x",
            "a@localhost",
            "localhost@evil.example",
            "localhost/x",
            "localhost, evil.example",
            "",
            " ",
            "[evil.example]",
            "there.example",
            "sub.here.example",
            "127.0.0.1..",
        ] {
            check(Version::HTTP_11, "/metrics", &[host], Named::Elsewhere);
        }
    }

    #[test]
    fn a_request_has_one_host_unless_it_is_older_than_that() {
        check(Version::HTTP_11, "/metrics", &[], Named::Badly);
        check(Version::HTTP_10, "/metrics", &[], Named::Here);
        check(Version::HTTP_10, "/metrics", &["evil.example"], Named::Elsewhere);
        check(Version::HTTP_11, "/metrics", &["localhost", "localhost"], Named::Badly);
        check(Version::HTTP_10, "/metrics", &["localhost", "evil.example"], Named::Badly);
    }

    #[test]
    fn an_absolute_target_is_looked_at_as_well() {
        check(Version::HTTP_11, "http://localhost/metrics", &["127.0.0.1"], Named::Here);
        check(Version::HTTP_11, "http://evil.example/metrics", &["localhost"], Named::Elsewhere);
        check(Version::HTTP_11, "http://localhost/metrics", &["evil.example"], Named::Elsewhere);
        check(Version::HTTP_10, "http://evil.example/metrics", &[], Named::Elsewhere);
    }
}
