//! A URL as the request that a client would make for it: for judging without a connection.
//!
//! The URL passes the same gate as a request off the wire, so that tests and explanations judge
//! exactly that request.

use http::Uri;

use crate::policy::request::field::token;
use crate::policy::request::gate::{Request, RequestType, Scheme};
use crate::policy::request::host::Host;
use crate::policy::request::request_path::RequestPath;
use crate::policy::request::target::{TargetEncoding, encoded};
use crate::refusal::Refusal;

/// Why a text is not a URL for Sidegate, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UrlError {
    /// The fault, in one sentence without its full stop.
    pub fault: &'static str,
    /// What to write instead.
    pub remedy: &'static str,
}

const EXAMPLE_REMEDY: &str = "write it as a page would: wss://ws.example.com/ticks/btc";

impl Request {
    /// Builds the request of a client that opens `url` from a page of `origin`, offering
    /// `subprotocol`. `ws://` and `wss://` (RFC 6455 §3) make an attempt, `http://` and `https://`
    /// plain HTTP. The inner result is the gate's: a path that the gate refuses reaches no policy.
    ///
    /// # Errors
    /// `url` is not such a URL.
    pub fn of_url(
        url: &str,
        origin: Option<&str>,
        subprotocol: Option<&str>,
    ) -> Result<Result<Request, Refusal>, UrlError> {
        let fault = |fault, remedy| Err(UrlError { fault, remedy });
        if url.contains('#') {
            return fault(
                "a WebSocket's URL has no fragment",
                "leave out the `#` and what follows",
            );
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return fault("not a URL", EXAMPLE_REMEDY);
        };
        // Without TLS the request arrives on a plain listener.
        let (attempt, scheme) = match scheme.to_ascii_lowercase().as_str() {
            "ws" => (true, Scheme::Unknown),
            "wss" => (true, Scheme::Https),
            "http" => (false, Scheme::Unknown),
            "https" => (false, Scheme::Https),
            _ => return fault("neither a WebSocket's URL nor plain HTTP's", EXAMPLE_REMEDY),
        };
        // Browsers take `\` for `/` in these schemes. The gate then refuses the path that holds it.
        let authority = rest.split(['/', '?', '\\']).next().unwrap_or_default();
        let Some(host) = Host::parse(authority.as_bytes()) else {
            return fault("the host is neither a name nor an address", EXAMPLE_REMEDY);
        };
        let target = &rest[authority.len()..];
        let path = target.split('?').next().unwrap_or_default();
        let path = if path.is_empty() { "/" } else { path };
        // A target that no head can carry cannot be judged.
        let sent = format!("/{}", target.replace('\\', "/"));
        let (sent, tidied) = encoded(sent.as_bytes()).unwrap_or((sent, TargetEncoding::default()));
        if tidied.is_broken || Uri::try_from(sent).is_err() {
            return fault(
                "the path or the query holds what a URL cannot",
                "percent-encode it (RFC 3986 §2.1)",
            );
        }
        let subprotocols = match subprotocol {
            None => [].into(),
            Some(name) if !name.is_empty() && token(name.as_bytes()).is_some() => {
                [name.into()].into()
            }
            Some(_) => {
                return fault("the subprotocol is no token", "letters, digits and !#$%&'*+-.^_`|~");
            }
        };
        let kind = if attempt { RequestType::Attempt { subprotocols } } else { RequestType::Plain };
        let (path, origin) = (RequestPath::read(path), origin.map(Into::into));
        Ok(path.map(|path| Request { host, path, origin, kind, scheme, reported_host: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Host, path and kind of the request for `url`, or the word of its refusal, or a part of the
    /// fault.
    fn check(url: &str, expected: &str) {
        let found = match Request::of_url(url, None, None) {
            Ok(Ok(request)) => {
                format!(
                    "{} {}{}",
                    request.host,
                    request.path,
                    if request.is_plain() { " plain" } else { "" }
                )
            }
            Ok(Err(refusal)) => refusal.word().to_owned(),
            Err(fault) => fault.fault.to_owned(),
        };
        assert_eq!(found, expected, "{url}");
    }

    #[test]
    fn url_gives_the_request_of_a_client() {
        check("wss://ws.example.com/ticks/btc?x=/../y", "ws.example.com /ticks/btc");
        check("WSS://WS.Example.com.:8443", "ws.example.com:8443 /");
        check("ws://[2001:db8::1]/a/../b/%41", "[2001:db8::1] /b/A");
        check("ws://a.example?x", "a.example /");
        check("https://a.example/health", "a.example /health plain");
        check("wss://a.example/<é>?filter={\"a\":\"<é>\"}", "a.example /%3C%C3%A9%3E");
    }

    #[test]
    fn url_that_the_gate_refuses_is_refused() {
        check("wss://a.example/x%2f../y", "path");
        check("wss://a.example/x%2fy", "a.example /x%2fy");
        check("wss://a.example/x\\y", "path");
        check("wss://a.example/%zz", "path");
    }

    #[test]
    fn invalid_url_is_an_error() {
        check("ws.example.com/ticks", "not a URL");
        check("ftp://a.example/", "neither a WebSocket's URL nor plain HTTP's");
        check("wss:///ticks", "the host is neither a name nor an address");
        check("wss://user@a.example/", "the host is neither a name nor an address");
        check("wss://a.example/#top", "a WebSocket's URL has no fragment");
        for broken in ["a b", "a?b c", "a\tb", "?\u{1b}[2J", "\u{7f}"] {
            check(
                &format!("wss://a.example/{broken}"),
                "the path or the query holds what a URL cannot",
            );
        }
        assert!(Request::of_url("wss://a.example/", None, Some("a b")).is_err());
    }
}
