//! Which pages may open a WebSocket: the `origins` rule of a policy.
//!
//! The rule keeps other sites' scripts out of a user's session (RFC 6455 §10.2). It does not
//! authenticate clients: a client other than a browser can send any origin.

use std::fmt;

use crate::policy::request::field::default_port;
use crate::policy::request::{Host, Request, Scheme};

/// The origin of pages read from files, as Chromium sends it for applications.
const FILE_ORIGIN: &str = "file://";

/// The `origins` of a policy. Their order never matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<OriginPattern>);

/// One entry of `origins`, as parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `"none"`: clients that send no Origin, unlike any browser's page.
    Absent,
    /// `"null"`: the opaque origin of sandboxed frames, local files and some redirects.
    Opaque,
    /// `"file://"`: the pages of Electron's and Cordova's applications.
    File,
    /// `"same"`: pages of the host and port that the request is for.
    Same,
    /// `"https://app.example.com[:port]"`: pages of exactly this origin.
    Exact(Origin),
    /// `"https://*.partner.example[:port]"`: pages of hosts one label below.
    Subdomains(Origin),
}

/// The scheme, host and port of a page (RFC 6454 §4). The host of a [`OriginPattern::Subdomains`]
/// is the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Box<str>,
    host: Box<str>,
    port: Option<u16>,
}

impl Origins {
    /// Creates a rule that admits an origin if one of `patterns` does. Without patterns it admits
    /// nothing.
    pub fn new(patterns: Vec<OriginPattern>) -> Self {
        Origins(patterns)
    }

    /// Parses one entry of `origins`.
    ///
    /// # Errors
    /// A sentence that says why the entry is wrong and what to write instead.
    pub fn parse_one(text: &str) -> Result<OriginPattern, String> {
        match text {
            "none" => return Ok(OriginPattern::Absent),
            "null" => return Ok(OriginPattern::Opaque),
            "same" => return Ok(OriginPattern::Same),
            "self" | "'self'" | "same-origin" => {
                return Err("the request's own host is `same`".into());
            }
            _ if ["none", "null", "same"].iter().any(|word| text.eq_ignore_ascii_case(word)) => {
                return Err(format!("write `{}`", text.to_ascii_lowercase()));
            }
            _ if text.eq_ignore_ascii_case(FILE_ORIGIN) => return Ok(OriginPattern::File),
            // No page of a file has a host or a path in its origin, so the entry would match none.
            _ if is_about_files(text) => return Err("pages of files are `file://`".into()),
            "*" | "any" => return Err(
                "no word admits every page: leave `origins` out, and the origin is not looked at"
                    .into(),
            ),
            _ => {}
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("an origin begins with its scheme: write `https://{text}`"));
        };
        if let Some(http) = http_scheme_of(scheme) {
            return Err(format!(
                "an origin is the page's, not the WebSocket's: write `{http}://{rest}`"
            ));
        }
        if let Some(end) = rest.find(['/', '?', '#']) {
            return Err(format!(
                "an origin has no path, query or fragment: write `{scheme}://{}`",
                &rest[..end]
            ));
        }
        if let Some((_, host)) = rest.rsplit_once('@') {
            return Err(format!("an origin has no user name: write `{scheme}://{host}`"));
        }
        let parent = rest.strip_prefix("*.");
        let site = parent.unwrap_or(rest);
        if site.contains('*') {
            return Err(format!(
                "`*` matches one whole label, and the first: write `{scheme}://*.partner.example`"
            ));
        }
        let origin = Origin::read(scheme, site).ok_or_else(|| {
            format!("`{text}` is not an origin: write scheme, host and port as in `https://app.example.com:8443`")
        })?;
        match parent {
            None => Ok(OriginPattern::Exact(origin)),
            Some(address)
                if Host::parse(address.as_bytes()).is_some_and(|host| host.is_address()) =>
            {
                Err("an address has nothing below it: write each address in full".into())
            }
            Some(_) => Ok(OriginPattern::Subdomains(origin)),
        }
    }

    /// Iterates over the entries; each displays as it may be written.
    pub fn iter(&self) -> impl Iterator<Item = &OriginPattern> {
        self.0.iter()
    }

    /// Whether the rule admits `request`.
    pub fn admits(&self, request: &Request) -> bool {
        self.admitting(request).is_some()
    }

    /// Returns the entry that admits `request`. `None` means that none does.
    pub fn admitting(&self, request: &Request) -> Option<&OriginPattern> {
        let named = |wanted| self.0.iter().find(|pattern| **pattern == wanted);
        let page = match request.origin.as_deref() {
            None => return named(OriginPattern::Absent),
            Some("null") => return named(OriginPattern::Opaque),
            // It has no host, so `Origin::parse` would refuse it.
            Some(text) if text.eq_ignore_ascii_case(FILE_ORIGIN) => {
                return named(OriginPattern::File);
            }
            // Text that is no origin matches no pattern, so the rule refuses it.
            Some(text) => Origin::parse(text)?,
        };
        self.0.iter().find(|pattern| pattern.admits(&page, request))
    }

    /// Returns the origins that `"same"` means for `request`, joined with "or".
    pub fn same_origins(request: &Request) -> String {
        let (name, port) = (request.public_host().name(), request.public_host().port());
        let own = |scheme: &&str| request.scheme.may_be(scheme);
        let own = ["https", "http"].into_iter().filter(own).map(|scheme| {
            let port = port.or(default_port(scheme));
            OriginPattern::Exact(Origin { scheme: scheme.into(), host: name.into(), port })
                .to_string()
        });
        own.collect::<Vec<_>>().join(" or ")
    }
}

impl Scheme {
    /// Whether a page that the client fetched over the same kind of listener may have this scheme.
    fn may_be(self, scheme: &str) -> bool {
        match self {
            Scheme::Https => scheme == "https",
            Scheme::Http => scheme == "http",
            Scheme::Unknown => scheme == "https" || scheme == "http",
        }
    }
}

impl OriginPattern {
    fn admits(&self, origin: &Origin, request: &Request) -> bool {
        match self {
            OriginPattern::Absent | OriginPattern::Opaque | OriginPattern::File => false,
            OriginPattern::Same => origin.is_of(request),
            OriginPattern::Exact(page) => page == origin,
            // Exactly one label: `*.a.example` does not admit `x.y.a.example`.
            OriginPattern::Subdomains(parent) => {
                let above = origin.host.split_once('.').map(|(_, above)| above);
                above == Some(&*parent.host)
                    && parent.scheme == origin.scheme
                    && parent.port == origin.port
            }
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginPattern::Absent => f.write_str("none"),
            OriginPattern::Opaque => f.write_str("null"),
            OriginPattern::File => f.write_str(FILE_ORIGIN),
            OriginPattern::Same => f.write_str("same"),
            OriginPattern::Exact(origin) => origin.write(f, ""),
            OriginPattern::Subdomains(origin) => origin.write(f, "*."),
        }
    }
}

impl Origin {
    /// Writes `scheme://` + `below` + `host[:port]`, with the port only if it isn't the scheme's
    /// default.
    fn write(&self, f: &mut fmt::Formatter<'_>, below: &str) -> fmt::Result {
        let (scheme, host) = (&self.scheme, &self.host);
        write!(f, "{scheme}://{below}{host}")?;
        match self.port.filter(|port| Some(*port) != default_port(scheme)) {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }

    /// Parses a serialised origin (RFC 6454 §6.2): nothing may follow the port.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        Origin::read(scheme, authority)
    }

    /// Whether this is the origin of the host and port that `request` is for. A port that is not
    /// written is the default of the page's scheme, on both sides.
    fn is_of(&self, request: &Request) -> bool {
        let host = request.public_host();
        let port = host.port().or(default_port(&self.scheme));
        request.scheme.may_be(&self.scheme) && *self.host == *host.name() && self.port == port
    }

    fn read(scheme: &str, authority: &str) -> Option<Origin> {
        // The grammar of RFC 3986 §3.1.
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return None;
        }
        let host = Host::parse(authority.as_bytes())?;
        let port = host.port().or(default_port(scheme));
        Some(Origin { scheme: scheme.to_ascii_lowercase().into(), host: host.name().into(), port })
    }
}

/// Whether `text` is `file` alone, or begins with the scheme of files.
fn is_about_files(text: &str) -> bool {
    text.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("file"))
}

/// The scheme of a page, where `scheme` is the WebSocket's.
fn http_scheme_of(scheme: &str) -> Option<&'static str> {
    match scheme.to_ascii_lowercase().as_str() {
        "ws" => Some("http"),
        "wss" => Some("https"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::policy::request::RequestType;

    /// An attempt at `host` from the page `origin`.
    fn request(host: &str, scheme: Scheme, origin: Option<&str>) -> Request {
        let kind = RequestType::Attempt { subprotocols: [].into() };
        let host = Host::parse(host.as_bytes()).unwrap();
        let origin = origin.map(Into::into);
        Request { host, path: "/".into(), origin, kind, scheme, reported_host: None }
    }

    fn origins(patterns: &[&str]) -> Origins {
        Origins::new(patterns.iter().map(|pattern| Origins::parse_one(pattern).unwrap()).collect())
    }

    /// Whether `patterns` admit `origin`.
    fn check(patterns: &[&str], origin: Option<&str>, admitted: bool) {
        let request = request("ws.example.com", Scheme::Https, origin);
        assert_eq!(origins(patterns).admits(&request), admitted, "{patterns:?} and {origin:?}");
    }

    /// Whether `same` admits `origin` at `host`.
    fn check_same(host: &str, scheme: Scheme, origin: &str, admitted: bool) {
        let request = request(host, scheme, Some(origin));
        assert_eq!(origins(&["same"]).admits(&request), admitted, "{origin} at {host}, {scheme:?}");
    }

    /// The sentence for `pattern` holds `remedy`.
    fn check_fault(pattern: &str, remedy: &str) {
        let sentence = Origins::parse_one(pattern).expect_err(pattern);
        assert!(sentence.contains(remedy), "{pattern:?}: {sentence}");
    }

    #[test]
    fn origin_entry_round_trips() {
        for written in [
            "none",
            "null",
            "same",
            "file://",
            "https://app.example.com",
            "http://a.example:8080",
            "https://*.partner.example:8443",
            "https://[2001:db8::1]:444",
        ] {
            let pattern = Origins::parse_one(written).unwrap();
            assert_eq!(pattern.to_string(), written);
        }
        assert_eq!(
            Origins::parse_one("HTTPS://App.Example.com:443").unwrap().to_string(),
            "https://app.example.com"
        );
    }

    // C-WS-15
    #[test]
    fn a_page_is_admitted_by_scheme_host_and_port() {
        let app = &["https://App.example.com"];
        for same in
            ["https://app.example.com", "HTTPS://APP.EXAMPLE.COM", "https://app.example.com:443"]
        {
            check(app, Some(same), true);
            check(&[same], Some("https://app.example.com"), true);
        }
        for other in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com:80",
            "https://example.com",
            "https://x.app.example.com",
            "https://app.example.com.evil.example",
            "https://app-example.com",
            "https://evil.example/https://app.example.com",
            "wss://app.example.com",
        ] {
            check(app, Some(other), false);
        }
        check(&["http://localhost:3000"], Some("http://localhost:3000"), true);
        check(&["https://[::1]:3000"], Some("https://[::1]:3000"), true);
        check(&["chrome-extension://abcdefgh"], Some("chrome-extension://abcdefgh"), true);
    }

    // C-WS-14
    #[test]
    fn an_absent_and_an_opaque_origin_are_admitted_only_by_name() {
        let page = "https://app.example.com";
        for (patterns, absent, opaque) in [
            (&[page][..], false, false),
            (&[page, "none"], true, false),
            (&["null"], false, true),
            (&[], false, false),
        ] {
            check(patterns, None, absent);
            check(patterns, Some("null"), opaque);
        }
        for neither in ["", "none", "NULL", "Null", "*", "any"] {
            check(&["none", "null"], Some(neither), false);
        }
    }

    #[test]
    fn same_is_the_host_and_the_port_of_the_request() {
        let tls = Scheme::Https;
        for (host, origin) in [
            ("app.example.com", "https://app.example.com"),
            ("app.example.com:443", "https://app.example.com"),
            ("app.example.com", "https://app.example.com:443"),
            ("App.Example.com.", "HTTPS://APP.example.COM"),
            ("app.example.com:8443", "https://app.example.com:8443"),
            ("192.0.2.1:8443", "https://192.0.2.1:8443"),
            ("[2001:DB8::0:1]", "https://[2001:db8::1]"),
        ] {
            check_same(host, tls, origin, true);
            check_same(host, Scheme::Unknown, origin, true);
        }
        for origin in [
            "http://app.example.com",
            "http://app.example.com:443",
            "https://app.example.com:8443",
            "https://app.example.com:80",
            "https://x.app.example.com",
            "https://example.com",
            "https://app.example.com.evil.example",
            "https://evil.example",
            "wss://app.example.com",
            "chrome-extension://app.example.com",
            "https://app.example.com/",
            "https://user@app.example.com",
            "https://app.example.com https://app.example.com",
            "app.example.com",
            "null",
            "same",
            "file://",
            "",
        ] {
            check_same("app.example.com", tls, origin, false);
        }
        for origin in ["https://", "https://localhost", "null"] {
            let unnamed =
                Request { host: Host::unnamed(), ..request("a.example", tls, Some(origin)) };
            assert!(!origins(&["same"]).admits(&unnamed), "{origin}");
        }
        let absent = request("app.example.com", tls, None);
        assert!(!origins(&["same"]).admits(&absent) && origins(&["same", "none"]).admits(&absent));
    }

    #[test]
    fn same_takes_either_scheme_without_tls_with_its_own_port() {
        let plain = Scheme::Unknown;
        for (host, origin, admitted) in [
            ("a.example", "http://a.example", true),
            ("a.example", "https://a.example", true),
            ("a.example:80", "http://a.example", true),
            ("a.example:80", "https://a.example", false),
            ("a.example:443", "https://a.example", true),
            ("a.example:443", "http://a.example", false),
            ("a.example:443", "http://a.example:443", true),
            ("a.example:8080", "http://a.example:8080", true),
            ("a.example:8080", "https://a.example:8080", true),
            ("a.example:8080", "http://a.example", false),
            ("a.example", "http://a.example:8080", false),
            ("a.example", "ws://a.example", false),
        ] {
            check_same(host, plain, origin, admitted);
        }
        let shown = |host, scheme| Origins::same_origins(&request(host, scheme, None));
        assert_eq!(shown("a.example:443", plain), "https://a.example or http://a.example:443");
        assert_eq!(shown("a.example:8443", Scheme::Https), "https://a.example:8443");
    }

    #[test]
    fn pages_of_applications_are_admitted_by_name() {
        for (pattern, origin) in [
            ("file://", "file://"),
            ("FILE://", "file://"),
            ("file://", "FILE://"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            check(&[pattern], Some(origin), true);
        }
        for other in ["file:///", "file:///a", "file://a", "file:", "null", "", "files://"] {
            check(&["file://", "files://a", "none"], Some(other), false);
        }
        for (pattern, origin) in [
            ("app://com.example.app", "APP://com.example.app"),
            ("app://*.example", "app://desk.example"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("ionic://localhost:8080", "ionic://localhost:8080"),
        ] {
            check(&[pattern], Some(origin), true);
            check(&["file://", "null", "none", "same"], Some(origin), false);
        }
        check(&["none", "null", "same", "https://ws.example.com"], Some("file://"), false);
    }

    #[test]
    fn wildcard_matches_one_label() {
        let below = &["https://*.partner.example", "http://*.dev.example:3000"];
        check(below, Some("https://desk.partner.example"), true);
        check(below, Some("https://DESK.Partner.example:443"), true);
        check(below, Some("http://x.dev.example:3000"), true);
        for other in [
            "https://partner.example",
            "https://.partner.example",
            "https://a.b.partner.example",
            "https://evilpartner.example",
            "https://evil.example/.partner.example",
            "https://evil.example#.partner.example",
            "https://user@desk.partner.example",
            "https://*.partner.example",
            "http://desk.partner.example",
            "https://desk.partner.example:8443",
            "http://x.dev.example",
        ] {
            check(below, Some(other), false);
        }
    }

    #[test]
    fn invalid_origin_matches_nothing() {
        let patterns = &["https://a.example", "none", "null"];
        for odd in [
            "https://a.example/",
            "https://a.example?",
            "https://a.example https://a.example",
            "https://a.example, null",
            "a.example",
            "//a.example",
        ] {
            check(patterns, Some(odd), false);
        }
        for odd in [
            "https://",
            "://a.example",
            "https:a.example",
            "https://u@a.example",
            " https://a.example",
            "https://a.example\u{fffd}",
        ] {
            check(patterns, Some(odd), false);
        }
    }

    #[test]
    fn invalid_origin_pattern_has_a_remedy() {
        check_fault("app.example.com", "`https://app.example.com`");
        check_fault("wss://app.example.com:8443", "`https://app.example.com:8443`");
        check_fault("ws://localhost", "`http://localhost`");
        check_fault("https://app.example.com/", "`https://app.example.com`");
        check_fault("https://app.example.com/chat?x", "`https://app.example.com`");
        check_fault("https://user:pw@app.example.com", "`https://app.example.com`");
        check_fault("https://app.*.example", "`https://*.partner.example`");
        check_fault("https://*app.example", "`https://*.partner.example`");
        check_fault("https://*.*.example", "`https://*.partner.example`");
        check_fault("https://*", "`https://*.partner.example`");
        check_fault("https://*.0.2.1", "write each address in full");
        check_fault("*", "leave `origins` out");
        check_fault("any", "leave `origins` out");
        check_fault("self", "`same`");
        for word in ["'self'", "same-origin", "Same", "SAME"] {
            check_fault(word, "`same`");
        }
        for word in ["file", "file:", "File:/", "file:///", "FILE:///index.html", "file:////"] {
            check_fault(word, "`file://`");
        }
        for word in ["file://host", "file://localhost", "File://*.a.example", "file://a:80"] {
            check_fault(word, "`file://`");
        }
        check_fault("None", "write `none`");
        for odd in [
            "https://",
            "https://a b",
            "https://a.example:http",
            "https://é.example",
            "1http://a.example",
            "://a.example",
        ] {
            check_fault(odd, "`https://app.example.com:8443`");
        }
    }

    proptest! {
        #[test]
        fn a_page_admits_itself_alone(page in "https?://[ab](\\.[ab]){0,2}(:[12])?", other in "https?://[ab](\\.[ab]){0,2}(:[12])?") {
            let origins = origins(&[&page]);
            let admits = |origin: &str| origins.admits(&request("ws.example.com", Scheme::Https, Some(origin)));
            prop_assert!(admits(&page));
            prop_assert_eq!(admits(&other), page == other);
        }

        #[test]
        fn any_string_parses_without_a_panic(text in any::<String>()) {
            let pattern = Origins::parse_one(&text);
            let request = request("ws.example.com", Scheme::Unknown, Some(&text));
            prop_assert!(!origins(&["none", "null", "same"]).admits(&request) || text == "null");
            prop_assert!(pattern.is_err() || text.contains("://") || ["none", "null", "same"].contains(&&*text));
        }
    }
}
