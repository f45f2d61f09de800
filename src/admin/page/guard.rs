//! Which requests the page answers: reads of its own paths, sent by a person or by the page itself.
//!
//! A loopback port is open to every program of the host, a browser included, and so to every page
//! that the browser shows. The checks here keep foreign pages from reading this one. They look at
//! heads alone, and trust no field that only a browser would set correctly.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use crate::policy::request::Host;

/// Fetch metadata: where a request comes from, and what it is for (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// What a request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The page. `refreshes` says whether it loads itself anew where no script runs.
    Document {
        refreshes: bool,
    },
    /// The updates of an open page.
    Events,
    Script,
    Style,
    Icon,
    /// The way from `/` to the page.
    Start,
}

/// Why a request is not answered with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRefusal {
    /// Not exactly one Host.
    Ambiguous,
    /// The Host is not this listener's.
    ForeignHost,
    /// A page of another origin sent it.
    ForeignPage,
    /// Its method is no read.
    Method,
    /// The page has no such path.
    Unknown,
}

impl ReadRefusal {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            ReadRefusal::Ambiguous => StatusCode::BAD_REQUEST,
            ReadRefusal::ForeignHost | ReadRefusal::ForeignPage => StatusCode::FORBIDDEN,
            ReadRefusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            ReadRefusal::Unknown => StatusCode::NOT_FOUND,
        }
    }

    /// The text of the answer, which repeats nothing of the request.
    pub fn sentence(self) -> &'static str {
        match self {
            ReadRefusal::Ambiguous => "a request needs exactly one Host\n",
            ReadRefusal::ForeignHost => {
                "the Host has to be localhost or a loopback address, with the port of page_listen\n"
            }
            ReadRefusal::ForeignPage => "another page may not read this one\n",
            ReadRefusal::Method => "only GET is supported: commands go to the admin socket\n",
            ReadRefusal::Unknown => "the page is /status\n",
        }
    }
}

/// Checks a request that arrived at the TCP port `port`. `None` means at a Unix socket, which
/// `ssh -L` or a proxy may offer at any port.
///
/// # Errors
/// The first reason to refuse it.
pub fn check<B>(request: &Request<B>, port: Option<u16>) -> Result<Resource, ReadRefusal> {
    let host = own_host(request, port)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ReadRefusal::Method);
    }
    let resource = resource(request.uri()).ok_or(ReadRefusal::Unknown);
    let may_follow_link = matches!(resource, Ok(Resource::Document { .. } | Resource::Start));
    if !is_own_page(request.headers(), &host, may_follow_link) {
        return Err(ReadRefusal::ForeignPage);
    }
    resource
}

/// The Host of a request, if it names this listener. After DNS rebinding, a browser sends the name
/// of the attacker's page, never `localhost` or an address.
fn own_host<B>(request: &Request<B>, port: Option<u16>) -> Result<Host, ReadRefusal> {
    let mut fields = request.headers().get_all(HOST).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(ReadRefusal::Ambiguous);
    };
    let own = |value: &[u8]| {
        let host = Host::parse(value).filter(is_loopback).ok_or(ReadRefusal::ForeignHost)?;
        // Without a port, the Host means that of the scheme (RFC 9110 §4.2.1).
        let asked = host.port().unwrap_or(80);
        match port.is_none_or(|port| asked == port) {
            true => Ok(host),
            false => Err(ReadRefusal::ForeignHost),
        }
    };
    // The absolute form overrides Host (RFC 9112 §3.2.2). Here both must be ours.
    if let Some(authority) = request.uri().authority() {
        own(authority.as_str().as_bytes())?;
    }
    own(field.as_bytes())
}

/// Whether `host` is `localhost` or a loopback address.
fn is_loopback(host: &Host) -> bool {
    let name = host.name();
    if let Some(v6) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        let address = v6.parse::<Ipv6Addr>().map(|address| address.to_canonical());
        return address.is_ok_and(|address| address.is_loopback());
    }
    name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a request with these fields comes from the page itself, or from a person: an address
/// typed in, a bookmark, `curl`. A link elsewhere may lead to the document.
fn is_own_page(headers: &HeaderMap, host: &Host, may_follow_link: bool) -> bool {
    // A field that is repeated says nothing for sure.
    let once = |name: HeaderName| {
        let mut fields = headers.get_all(name).iter();
        match (fields.next(), fields.next()) {
            (first, None) => Ok(first.map(HeaderValue::as_bytes)),
            _ => Err(()),
        }
    };
    let (Ok(origin), Ok(site), Ok(mode), Ok(dest)) =
        (once(ORIGIN), once(SEC_FETCH_SITE), once(SEC_FETCH_MODE), once(SEC_FETCH_DEST))
    else {
        return false;
    };
    // The page itself sends no Origin: its reads are of its own origin. A proxy at another name may
    // be in front of a Unix socket, and Sec-Fetch-Site says the same there.
    let is_own_origin = origin.is_none_or(|origin| {
        let own = origin.strip_prefix(b"http://").and_then(Host::parse);
        own.is_some_and(|own| own == *host)
    });
    // Behind a link, the document is shown in a window of its own: its headers forbid frames.
    let is_link = mode == Some(b"navigate") && dest == Some(b"document");
    is_own_origin
        && match site {
            None | Some(b"same-origin" | b"none") => true,
            Some(_) => may_follow_link && is_link,
        }
}

/// The resource at `uri`. `None` means that there is none.
fn resource(uri: &Uri) -> Option<Resource> {
    match uri.path() {
        "/status" => Some(Resource::Document { refreshes: uri.query() != Some("refresh=off") }),
        "/status/events" => Some(Resource::Events),
        "/status/script.js" => Some(Resource::Script),
        "/status/style.css" => Some(Resource::Style),
        "/status/icon.svg" => Some(Resource::Icon),
        "/" | "/status/" => Some(Resource::Start),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "localhost:9401";
    const PAGE: Resource = Resource::Document { refreshes: true };

    fn check(
        port: Option<u16>,
        target: &str,
        fields: &[(&str, &str)],
    ) -> Result<Resource, ReadRefusal> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        super::check(&request.body(()).unwrap(), port)
    }

    #[test]
    fn own_names_are_loopback_names_with_the_port() {
        for (host, at_port, at_any) in [
            ("localhost:9401", true, true),
            ("LocalHost.:9401", true, true),
            ("127.0.0.1:9401", true, true),
            ("127.9.8.7:9401", true, true),
            ("[::1]:9401", true, true),
            ("[::ffff:127.0.0.1]:9401", true, true),
            ("localhost", false, true),
            ("localhost:9402", false, true),
            ("127.0.0.1", false, true),
            ("192.0.2.1:9401", false, false),
            ("0.0.0.0:9401", false, false),
            ("[2001:db8::1]:9401", false, false),
            ("[::]:9401", false, false),
            ("evil.example:9401", false, false),
            ("localhost.evil.example:9401", false, false),
            ("evil.localhost:9401", false, false),
            ("127.0.0.1.evil.example:9401", false, false),
            ("127.1:9401", false, false),
            ("2130706433:9401", false, false),
            ("a@localhost:9401", false, false),
            ("localhost:9401, evil.example", false, false),
            ("", false, false),
        ] {
            let answer = |own| if own { Ok(PAGE) } else { Err(ReadRefusal::ForeignHost) };
            assert_eq!(check(Some(9401), "/status", &[("host", host)]), answer(at_port), "{host}");
            assert_eq!(check(None, "/status", &[("host", host)]), answer(at_any), "{host}");
        }
        assert_eq!(check(Some(80), "/status", &[("host", "localhost")]), Ok(PAGE));
    }

    #[test]
    fn one_host_is_needed_and_the_absolute_form_counts() {
        let own = ("host", OWN);
        let ambiguous = Err(ReadRefusal::Ambiguous);
        assert_eq!(check(Some(9401), "/status", &[]), ambiguous);
        assert_eq!(check(None, "/status", &[]), ambiguous);
        assert_eq!(check(Some(9401), "/status", &[own, own]), ambiguous);
        let at = |target| check(Some(9401), target, &[own]);
        assert_eq!(at("http://localhost:9401/status"), Ok(PAGE));
        assert_eq!(at("http://evil.example:9401/status"), Err(ReadRefusal::ForeignHost));
    }

    #[test]
    fn foreign_pages_may_link_and_read_nothing() {
        let foreign = Err(ReadRefusal::ForeignPage);
        let at = |target, fields: &[(&str, &str)]| {
            check(Some(9401), target, &[&[("host", OWN)], fields].concat())
        };
        for site in ["cross-site", "same-site", "", "other"] {
            let site = ("sec-fetch-site", site);
            let link = [site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
            assert_eq!(at("/status", &link), Ok(PAGE), "a link in another page");
            let frame = [site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
            assert_eq!(at("/status", &frame), foreign);
            assert_eq!(at("/status", &[site]), foreign);
            for target in ["/status/events", "/status/script.js", "/status/style.css", "/other"] {
                assert_eq!(at(target, &link), foreign, "{target}");
            }
        }
        for site in ["same-origin", "none"] {
            assert_eq!(at("/status/events", &[("sec-fetch-site", site)]), Ok(Resource::Events));
        }
        assert_eq!(at("/status/events", &[]), Ok(Resource::Events), "curl");
        let twice = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")];
        assert_eq!(at("/status/events", &twice), foreign);
    }

    #[test]
    fn origin_of_a_request_is_the_page_itself() {
        for (origin, is_own) in [
            ("http://localhost:9401", true),
            ("http://LOCALHOST:9401", true),
            ("https://localhost:9401", false),
            ("http://localhost:9402", false),
            ("http://127.0.0.1:9401", false),
            ("http://localhost", false),
            ("http://evil.example", false),
            ("null", false),
            ("", false),
            ("file://", false),
        ] {
            let fields = [("host", OWN), ("origin", origin), ("sec-fetch-site", "same-origin")];
            let found = check(Some(9401), "/status/events", &fields);
            let expected =
                if is_own { Ok(Resource::Events) } else { Err(ReadRefusal::ForeignPage) };
            assert_eq!(found, expected, "{origin}");
        }
    }

    #[test]
    fn only_reads_of_known_paths_are_answered() {
        let at = |target| check(Some(9401), target, &[("host", OWN)]);
        assert_eq!(at("/status?refresh=off"), Ok(Resource::Document { refreshes: false }));
        assert_eq!(at("/status?x=1"), Ok(PAGE));
        assert_eq!(at("/"), Ok(Resource::Start));
        for target in ["/Status", "//status", "/status/x", "/metrics", "/v1/status", "*"] {
            assert_eq!(at(target), Err(ReadRefusal::Unknown), "{target}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "X"] {
            let request = Request::builder().method(method).uri("/status").header("host", OWN);
            let found = super::check(&request.body(()).unwrap(), Some(9401));
            assert_eq!(found, Err(ReadRefusal::Method), "{method}");
        }
    }
}
