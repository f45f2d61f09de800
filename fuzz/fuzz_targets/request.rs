//! A request's head as hyper hands it over: host and path come out canonical, or it is refused.

#![no_main]

use http::{Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use sidegate::data::websocket::handshake::Handshake;
use sidegate::policy::request::{Host, Request, Scheme, canonical_path, decoded, options};

/// Fields that `Connection` may not name (docs/spec/wire.md), and how others begin.
const HIDDEN: [&str; 10] = [
    "host",
    "origin",
    "cookie",
    "authorization",
    "forwarded",
    "x-request-id",
    "via",
    "date",
    "cache-control",
    "range",
];
const HIDDEN_BEGIN: [&str; 4] = ["content-", "sec-websocket-", "x-forwarded-", "client-cert"];

fuzz_target!(|head: &[u8]| {
    let Some(parts) = parts(head) else { return };
    if let Ok(request) = Request::read(&parts, Scheme::Unknown) {
        let Some(path) = request.path.canonical() else {
            return assert!(
                hides(request.path.sent()),
                "{} has a canonical form",
                request.path.sent()
            );
        };
        assert_eq!(canonical_path(path).as_deref(), Ok(path), "canonical once, canonical for ever");
        assert!(
            path.starts_with('/')
                && !path.contains("//")
                && !path.contains("/../")
                && !path.ends_with("/..")
        );
        assert!(!decoded(path).contains(&0));
        let climbs = |segment: &[u8]| matches!(segment, [b'.', b';', ..] | [b'.', b'.', b';', ..]);
        assert!(
            !decoded(path).split(|byte| *byte == b'/').any(climbs),
            "{path} climbs without its parameters"
        );
        for name in options(&parts.headers) {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace('_', "-");
            let hidden = HIDDEN.contains(&&*name)
                || HIDDEN_BEGIN.iter().any(|begin| name.starts_with(begin));
            assert!(!hidden, "{name} is judged and then removed");
        }
        let host = Host::parse(request.host.to_string().as_bytes());
        assert!(
            host.as_ref() == Some(&request.host) || request.host.is_unnamed(),
            "{}",
            request.host
        );
    }
    if let Ok(handshake) = Handshake::parse(&parts) {
        assert_eq!(handshake.accept().len(), 28);
        let (mut answer, ()) = Response::new(()).into_parts();
        answer.status = StatusCode::SWITCHING_PROTOCOLS;
        assert!(handshake.agree(&answer).is_err());
        answer.headers.clone_from(&parts.headers);
        let _ = handshake.agree(&answer);
    }
});

/// Whether decoding shows a `/`, `#` or `?`, no dot segment, and nothing else that is refused.
fn hides(sent: &str) -> bool {
    let lower = sent.to_ascii_lowercase();
    let climbs = |segment: &[u8]| matches!(segment, b"." | b"..");
    ["%2f", "%23", "%3f"].iter().any(|code| lower.contains(code))
        && !["%00", "%5c", "\\"].iter().any(|code| lower.contains(code))
        && !decoded(sent).split(|byte| *byte == b'/').any(climbs)
}

/// The head, where hyper's parser takes it for one.
fn parts(head: &[u8]) -> Option<http::request::Parts> {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut lines);
    parsed.parse(head).ok()?;
    let version =
        if parsed.version? == 0 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    let mut request =
        http::Request::builder().method(parsed.method?).uri(parsed.path?).version(version);
    for line in parsed.headers {
        request = request.header(line.name, line.value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}
