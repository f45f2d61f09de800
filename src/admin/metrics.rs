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

use crate::admin::answer::{AdminResponse, text, with_type};
use crate::admin::connection::{CONNECTION_TIMEOUT, ConnectionTimeouts, serve_connection};
use crate::admin::connection_cap::ConnectionGuard;
use crate::admin::health;
use crate::admin::state::AdminContext;
use crate::observe::metrics::ScrapeFacts;
use crate::policy::network::Peer;
use crate::policy::request::Host;

/// Media type of Prometheus' text format.
const EXPOSITION_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Time for a caller outside `allow` to read its 403.
const FORBIDDEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Most callers outside `allow` that are answered at one time; further ones are closed without an
/// answer.
const MAX_DENIED_CALLERS: usize = 8;

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
    admin: &AdminContext,
    strangers: &DeniedCallers,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    place: &ConnectionGuard,
    caller: Option<Caller>,
) -> bool {
    let peer = caller.as_ref().map(|caller| caller.peer);
    let may = |peer: Peer| {
        let settings = admin.config_status.settings.load();
        peer.ip().is_some_and(|ip| settings.metrics.allow.longest(ip).is_some())
    };
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
    let timeouts = ConnectionTimeouts::new(CONNECTION_TIMEOUT);
    let answered = serve_connection(stream, timeouts, |request| {
        let mut answer = match allowed {
            true if names_matter => check_host(admin, &request),
            true => answer(admin, &request),
            false => text(StatusCode::FORBIDDEN, "not in [metrics] allow\n"),
        };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        async { answer }
    });
    tokio::select! {
        in_order = answered => in_order,
        () = place.evicted() => {
            tracing::debug!(?peer, "an idle scraper was closed to make room for another connection");
            false
        }
        () = sleep(FORBIDDEN_TIMEOUT), if !allowed => false,
    }
}

/// Answers at a loopback address, after a check of the requested name.
fn check_host<B>(admin: &AdminContext, request: &Request<B>) -> AdminResponse {
    match host_matches(request, &admin.config_status.settings.load().metrics.hosts) {
        HostCheck::Matches => answer(admin, request),
        HostCheck::Mismatch => {
            admin.metrics.scrape_refused();
            let told = "the Host has to be an address, localhost or a name in [metrics] hosts\n";
            text(StatusCode::FORBIDDEN, told)
        }
        HostCheck::Invalid => text(StatusCode::BAD_REQUEST, "a request needs exactly one Host\n"),
    }
}

/// Whether the Host of a request names this listener.
#[derive(Debug, PartialEq, Eq)]
enum HostCheck {
    Matches,
    Mismatch,
    /// No Host, or more than one.
    Invalid,
}

/// Checks the Host of `request`; `hosts` are the names of this listener. A browser that an
/// attacker's DNS led here (DNS rebinding) sends the name of the attacker's page, never an address
/// or `localhost`.
fn host_matches<B>(request: &Request<B>, hosts: &[Box<str>]) -> HostCheck {
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
        return HostCheck::Invalid;
    }
    // The absolute form overrides Host (RFC 9112 §3.2.2). Here both must be ours, so that a request
    // that names two hosts is refused.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let all_ours = authority.into_iter().chain(field.map(HeaderValue::as_bytes)).all(is_ours);
    if all_ours { HostCheck::Matches } else { HostCheck::Mismatch }
}

fn answer<B>(admin: &AdminContext, request: &Request<B>) -> AdminResponse {
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
            let (is_draining, log_drops) = (admin.lifecycle.is_draining(), admin.log.drops.count());
            let budgets = admin.tunnels.budgets();
            let facts = ScrapeFacts { snapshot: &live, budgets, is_draining, log_drops };
            let body = admin.metrics.scrape(&facts, Timestamp::now());
            with_type(StatusCode::OK, body, EXPOSITION_CONTENT_TYPE)
        }
        "/livez" => health::livez(admin, request.headers()),
        "/readyz" => health::readyz(admin, request.headers()),
        _ => text(StatusCode::NOT_FOUND, "the paths are /metrics, /livez and /readyz\n"),
    }
}

/// Number of callers outside `allow` that are being answered.
#[derive(Default)]
pub struct DeniedCallers(AtomicUsize);

/// One counted caller; dropping it lowers the number.
struct DeniedCallerGuard<'s>(&'s DeniedCallers);

impl DeniedCallers {
    /// Counts a caller; `None` means there are already too many.
    fn enter(&self) -> Option<DeniedCallerGuard<'_>> {
        // Made before the check: if there are too many, its drop takes back the count added below.
        let stranger = DeniedCallerGuard(self);
        (self.0.fetch_add(1, Ordering::Relaxed) < MAX_DENIED_CALLERS).then_some(stranger)
    }
}

impl Drop for DeniedCallerGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what a request of this version with this target and these Hosts names, where
    /// `here.example` is a name of the listener.
    fn check(version: Version, target: &str, hosts: &[&str], expected: HostCheck) {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let found = host_matches(&request.body(()).unwrap(), &["here.example".into()]);
        assert_eq!(found, expected, "{target} {hosts:?}");
    }

    #[test]
    fn addresses_localhost_and_configured_names_match() {
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
            check(Version::HTTP_11, "/metrics", &[host], HostCheck::Matches);
        }
    }

    #[test]
    fn other_names_do_not_match() {
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
            check(Version::HTTP_11, "/metrics", &[host], HostCheck::Mismatch);
        }
    }

    #[test]
    fn request_needs_one_host_unless_it_is_http_1_0() {
        check(Version::HTTP_11, "/metrics", &[], HostCheck::Invalid);
        check(Version::HTTP_10, "/metrics", &[], HostCheck::Matches);
        check(Version::HTTP_10, "/metrics", &["evil.example"], HostCheck::Mismatch);
        check(Version::HTTP_11, "/metrics", &["localhost", "localhost"], HostCheck::Invalid);
        check(Version::HTTP_10, "/metrics", &["localhost", "evil.example"], HostCheck::Invalid);
    }

    #[test]
    fn absolute_target_is_checked_too() {
        check(Version::HTTP_11, "http://localhost/metrics", &["127.0.0.1"], HostCheck::Matches);
        check(Version::HTTP_11, "http://evil.example/metrics", &["localhost"], HostCheck::Mismatch);
        check(Version::HTTP_11, "http://localhost/metrics", &["evil.example"], HostCheck::Mismatch);
        check(Version::HTTP_10, "http://evil.example/metrics", &[], HostCheck::Mismatch);
    }
}
