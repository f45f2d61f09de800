//! Which pages may open a WebSocket: the `origins` rule of a policy.
//!
//! It keeps other sites' scripts out of a user's session (RFC 6455 §10.2). It is no proof of who
//! asks: whatever isn't a browser sends the origin that it likes.

use std::fmt;

use crate::policy::request::{Host, default_port};

/// The `origins` of a policy; their order never matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<Pattern>);

/// One entry of `origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `"none"`: clients that send no Origin, which no browser's page does.
    Absent,
    /// `"null"`: the opaque origin of sandboxed frames, local files and some redirects.
    Opaque,
    /// `"https://app.example.com[:port]"`.
    Page(Origin),
    /// `"https://*.partner.example[:port]"`: pages one label below.
    Below(Origin),
}

/// The scheme, host and port of a page (RFC 6454 §4); the host of a [`Pattern::Below`] is the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Box<str>,
    host: Box<str>,
    port: Option<u16>,
}

impl Origins {
    /// Admits what one of `patterns` admits; none of them admits nothing.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Origins(patterns)
    }

    /// Reads one entry of `origins`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub fn parse_one(text: &str) -> Result<Pattern, String> {
        match text {
            "none" => return Ok(Pattern::Absent),
            "null" => return Ok(Pattern::Opaque),
            "*" | "any" => return Err("no word admits every page: leave `origins` out, and the origin is not looked at".into()),
            _ => {}
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("an origin begins with its scheme: write `https://{text}`"));
        };
        if let Some(http) = http_scheme_of(scheme) {
            return Err(format!("an origin is the page's, not the WebSocket's: write `{http}://{rest}`"));
        }
        if let Some(end) = rest.find(['/', '?', '#']) {
            return Err(format!("an origin has no path, query or fragment: write `{scheme}://{}`", &rest[..end]));
        }
        if let Some((_, host)) = rest.rsplit_once('@') {
            return Err(format!("an origin has no user name: write `{scheme}://{host}`"));
        }
        let parent = rest.strip_prefix("*.");
        let site = parent.unwrap_or(rest);
        if site.contains('*') {
            return Err(format!("`*` stands for one whole label, and the first: write `{scheme}://*.partner.example`"));
        }
        let origin = Origin::read(scheme, site).ok_or_else(|| {
            format!("`{text}` is not an origin: write scheme, host and port as in `https://app.example.com:8443`")
        })?;
        match parent {
            None => Ok(Pattern::Page(origin)),
            Some(address) if Host::parse(address.as_bytes()).is_some_and(|host| host.is_address()) => {
                Err("an address has nothing below it: write each address in full".into())
            }
            Some(_) => Ok(Pattern::Below(origin)),
        }
    }

    /// Every entry, as it may be written.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Whether a request with this `Origin` field may pass; `None`: it has none.
    pub fn admit(&self, origin: Option<&str>) -> bool {
        self.admitting(origin).is_some()
    }

    /// The entry that lets such a request pass.
    pub fn admitting(&self, origin: Option<&str>) -> Option<&Pattern> {
        let page = match origin {
            None => return self.0.iter().find(|pattern| **pattern == Pattern::Absent),
            Some("null") => return self.0.iter().find(|pattern| **pattern == Pattern::Opaque),
            Some(text) => Origin::parse(text)?,
        };
        self.0.iter().find(|pattern| pattern.admits(&page))
    }
}

impl Pattern {
    fn admits(&self, origin: &Origin) -> bool {
        match self {
            Pattern::Absent | Pattern::Opaque => false,
            Pattern::Page(page) => page == origin,
            Pattern::Below(parent) => {
                let above = origin.host.split_once('.').map(|(_, above)| above);
                above == Some(&*parent.host) && parent.scheme == origin.scheme && parent.port == origin.port
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Absent => f.write_str("none"),
            Pattern::Opaque => f.write_str("null"),
            Pattern::Page(origin) => origin.write(f, ""),
            Pattern::Below(origin) => origin.write(f, "*."),
        }
    }
}

impl Origin {
    /// `scheme://` + `below` + `host[:port]`, the port where it isn't the scheme's own.
    fn write(&self, f: &mut fmt::Formatter<'_>, below: &str) -> fmt::Result {
        let (scheme, host) = (&self.scheme, &self.host);
        write!(f, "{scheme}://{below}{host}")?;
        match self.port.filter(|port| Some(*port) != default_port(scheme)) {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }

    /// An origin as it is serialised (RFC 6454 §6.2): nothing after the port.
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        Origin::read(scheme, authority)
    }

    fn read(scheme: &str, authority: &str) -> Option<Origin> {
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

/// What a page's scheme would be where someone wrote the WebSocket's.
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

    /// Whether `patterns` admit `origin`.
    fn check(patterns: &[&str], origin: Option<&str>, admitted: bool) {
        let origins = Origins::new(patterns.iter().map(|pattern| Origins::parse_one(pattern).unwrap()).collect());
        assert_eq!(origins.admit(origin), admitted, "{patterns:?} and {origin:?}");
    }

    /// The sentence for `pattern` holds `remedy`.
    fn check_fault(pattern: &str, remedy: &str) {
        let sentence = Origins::parse_one(pattern).expect_err(pattern);
        assert!(sentence.contains(remedy), "{pattern:?}: {sentence}");
    }

    #[test]
    fn an_entry_is_written_so_that_it_reads_the_same() {
        for written in [
            "none",
            "null",
            "https://app.example.com",
            "http://a.example:8080",
            "https://*.partner.example:8443",
            "https://[2001:db8::1]:444",
        ] {
            let pattern = Origins::parse_one(written).unwrap();
            assert_eq!(pattern.to_string(), written);
        }
        assert_eq!(Origins::parse_one("HTTPS://App.Example.com:443").unwrap().to_string(), "https://app.example.com");
    }

    // C-WS-15
    #[test]
    fn a_page_is_admitted_by_scheme_host_and_port() {
        let app = &["https://App.example.com"];
        for same in ["https://app.example.com", "HTTPS://APP.EXAMPLE.COM", "https://app.example.com:443"] {
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
        for (patterns, absent, opaque) in
            [(&[page][..], false, false), (&[page, "none"], true, false), (&["null"], false, true), (&[], false, false)]
        {
            check(patterns, None, absent);
            check(patterns, Some("null"), opaque);
        }
        for neither in ["", "none", "NULL", "Null", "*", "any"] {
            check(&["none", "null"], Some(neither), false);
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
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
    fn what_is_not_an_origin_matches_nothing() {
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
    fn a_wrong_pattern_says_what_to_write() {
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
        for odd in ["https://", "https://a b", "https://a.example:http", "https://é.example", "1http://a.example", "://a.example"]
        {
            check_fault(odd, "`https://app.example.com:8443`");
        }
    }

    proptest! {
        #[test]
        fn a_page_admits_itself_alone(page in "https?://[ab](\\.[ab]){0,2}(:[12])?", other in "https?://[ab](\\.[ab]){0,2}(:[12])?") {
            let origins = Origins::new(vec![Origins::parse_one(&page).unwrap()]);
            prop_assert!(origins.admit(Some(&page)));
            prop_assert_eq!(origins.admit(Some(&other)), page == other);
        }

        #[test]
        fn no_string_upsets_the_reader(text in any::<String>()) {
            let pattern = Origins::parse_one(&text);
            prop_assert!(!Origins::new(vec![Pattern::Absent, Pattern::Opaque]).admit(Some(&text)) || text == "null");
            prop_assert!(pattern.is_err() || text.contains("://") || text == "none" || text == "null");
        }
    }
}
