//! Finds the route of a request: the most specific host, then the longest path.
//!
//! Patterns are matched against the path that a backend sees after decoding it, so that another
//! spelling of an escape never slips from a strict route to a broader one. This module doesn't know
//! what a route leads to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write};
use std::net::Ipv6Addr;

use crate::policy::request::{Host, canonical_path, decoded};

/// Routes by host and path. The order in which they were written never matters.
#[derive(Debug)]
pub struct Routes<T> {
    exact: HashMap<Box<str>, PathTable<T>>,
    below: HashMap<Box<str>, PathTable<T>>,
    any: PathTable<T>,
}

/// Two routes, by their indexes, that match the same requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateRoutes {
    /// Index of the route written first.
    pub first: usize,
    /// Index of the route that repeats it.
    pub second: usize,
}

/// The `host` of a route, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `ws.example.com`, `192.0.2.1` or `[2001:db8::1]`.
    Exact(Box<str>),
    /// `*.example.com`, stored as `example.com`: matches hosts with exactly one label before it.
    Wildcard(Box<str>),
    /// `*`: matches every host.
    Any,
}

/// The `path` of a route, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/ticks`: matches this path only, not `/ticks/`.
    Exact(Box<str>),
    /// `/ticks/`: matches every path with this prefix, slash included.
    Prefix(Box<str>),
}

impl<T> Routes<T> {
    /// Indexes `routes` by host and decoded path.
    ///
    /// # Errors
    /// The first two routes that have the same host and, decoded, the same path.
    pub fn new(routes: Vec<(HostPattern, PathPattern, T)>) -> Result<Self, DuplicateRoutes> {
        let mut all =
            Routes { exact: HashMap::new(), below: HashMap::new(), any: PathTable::default() };
        for (place, (host, path, route)) in routes.into_iter().enumerate() {
            let paths = match host {
                HostPattern::Exact(name) => all.exact.entry(name).or_default(),
                HostPattern::Wildcard(parent) => all.below.entry(parent).or_default(),
                HostPattern::Any => &mut all.any,
            };
            paths
                .insert(path, place, route)
                .map_err(|first| DuplicateRoutes { first, second: place })?;
        }
        Ok(all)
    }

    /// Returns the route for a host name and path in the canonical form that the gate produces. Of
    /// all routes that match both, the most specific host wins, then the longest path.
    pub fn find(&self, host: &str, path: &str) -> Option<&T> {
        self.find_decoded(host, &decoded(path))
    }

    /// Like [`Routes::find`], for a path as a backend sees it after decoding every escape.
    pub fn find_decoded(&self, host: &str, path: &[u8]) -> Option<&T> {
        let exact = self.exact.get(host).and_then(|paths| paths.find(path));
        // A wildcard matches exactly one label, so only the host's parent is looked up.
        let below = || self.below.get(host.split_once('.')?.1).and_then(|paths| paths.find(path));
        // A host's own routes hide no others: without a matching path, the next pattern is tried.
        exact.or_else(below).or_else(|| self.any.find(path))
    }

    /// One host for each host pattern, and for `*` a host that no pattern names. `?` is in no host
    /// name, so that a sample meets no other pattern than its own.
    pub fn sample_hosts(&self) -> impl Iterator<Item = String> {
        let below = self.below.keys().map(|parent| format!("?.{parent}"));
        let exact = self.exact.keys().map(|host| host.to_string());
        exact.chain(below).chain(std::iter::once("?".to_owned()))
    }

    /// The decoded path of every route that is tried for `host`.
    pub fn paths_of(&self, host: &str) -> impl Iterator<Item = &[u8]> {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let below = parent.and_then(|parent| self.below.get(parent));
        let tables = [self.exact.get(host), below, Some(&self.any)].into_iter().flatten();
        tables.flat_map(|table| table.exact.keys().chain(table.prefix.keys())).map(|path| &**path)
    }

    /// Whether some path of `host` leads to a route.
    pub fn has_host(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.exact.contains_key(host)
            || parent.is_some_and(|parent| self.below.contains_key(parent))
            || !self.any.is_empty()
    }
}

/// The routes of one host pattern, by decoded path.
#[derive(Debug)]
struct PathTable<T> {
    exact: HashMap<Box<[u8]>, IndexedRoute<T>>,
    prefix: HashMap<Box<[u8]>, IndexedRoute<T>>,
    longest_prefix: usize,
}

/// A route and its index in the order written.
#[derive(Debug)]
struct IndexedRoute<T> {
    place: usize,
    route: T,
}

impl<T> Default for PathTable<T> {
    fn default() -> Self {
        PathTable { exact: HashMap::new(), prefix: HashMap::new(), longest_prefix: 0 }
    }
}

impl<T> PathTable<T> {
    /// Adds a route. Fails with the index of the route that already has this path.
    fn insert(&mut self, path: PathPattern, place: usize, route: T) -> Result<(), usize> {
        let key: Box<[u8]> = decoded(path.as_str()).into();
        let paths = match path {
            PathPattern::Exact(_) => &mut self.exact,
            PathPattern::Prefix(_) => {
                self.longest_prefix = self.longest_prefix.max(key.len());
                &mut self.prefix
            }
        };
        match paths.entry(key) {
            Entry::Occupied(twin) => Err(twin.get().place),
            Entry::Vacant(free) => {
                free.insert(IndexedRoute { place, route });
                Ok(())
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty()
    }

    fn find(&self, path: &[u8]) -> Option<&T> {
        let found = self.exact.get(path).or_else(|| self.longest_prefix_of(path))?;
        Some(&found.route)
    }

    /// Tries each segment end, the last first. It starts no later than the longest prefix:
    /// otherwise 8 KiB of slashes would cost quadratic time.
    fn longest_prefix_of(&self, path: &[u8]) -> Option<&IndexedRoute<T>> {
        let mut rest = path.get(..self.longest_prefix).unwrap_or(path);
        while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
            if let Some(found) = self.prefix.get(&rest[..=slash]) {
                return Some(found);
            }
            rest = &rest[..slash];
        }
        None
    }
}

impl HostPattern {
    /// Parses the `host` of a route and converts it to lower case.
    ///
    /// # Errors
    /// A sentence that says why the host is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let parent = text.strip_prefix("*.");
        let name = parent.unwrap_or(text);
        let host = host_of_pattern(name)?;
        match parent {
            None => Ok(HostPattern::Exact(host.name().into())),
            Some(_) if host.is_address() => {
                Err("an address has nothing below it: write it in full, without `*`".into())
            }
            Some(_) => Ok(HostPattern::Wildcard(host.name().into())),
        }
    }
}

impl HostPattern {
    /// Whether, for some host that matches `self`, the routes of `other` are tried before those of
    /// `self` or together with them.
    pub fn is_tried_after(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Any, _) => true,
            (HostPattern::Wildcard(parent), HostPattern::Exact(name)) => {
                name.split_once('.').is_some_and(|(_, rest)| *rest == **parent)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for HostPattern {
    /// As written in `sidegate.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(parent) => write!(f, "*.{parent}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

fn host_of_pattern(name: &str) -> Result<Host, String> {
    if name.is_empty() {
        return Err("a host is missing: write a name, or `*` for every host".into());
    }
    if name.contains('*') {
        return Err(
            "`*` matches one whole label, and the first: write `*.example.com`, or `*` for \
                    every host"
                .into(),
        );
    }
    if let Some((_, rest)) = name.split_once("://") {
        return Err(format!(
            "a host has no scheme: write `{}`",
            rest.split('/').next().unwrap_or(rest)
        ));
    }
    if let Some((before, _)) = name.split_once('/') {
        return Err(format!("a host has no path: write `{before}` here and the path under `path`"));
    }
    if name.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address needs brackets: write `[{name}]`"));
    }
    if !name.is_ascii() {
        return Err(format!(
            "`{name}` is not ASCII: write the name in its DNS form, beginning with `xn--`"
        ));
    }
    let host = Host::parse(name.as_bytes()).ok_or_else(|| {
        format!(
            "`{name}` is not a host: write letters, digits, `-` and `_` between dots, or an address"
        )
    })?;
    if host.port().is_some() || name.ends_with(':') {
        return Err(format!("a host has no port, its listener has: write `{}`", host.name()));
    }
    if name.ends_with('.') {
        return Err(format!("a host is written without its trailing dot: write `{}`", host.name()));
    }
    Ok(host)
}

impl PathPattern {
    /// Parses the `path` of a route.
    ///
    /// # Errors
    /// A sentence that says why the path is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(['~', '^']) {
            return Err(no_pattern(text));
        }
        if !text.starts_with('/') {
            return Err(format!("a path begins with a slash: write `/{text}`"));
        }
        if let Some(end) = text.find(['?', '#']) {
            return Err(format!("a route is found by its path alone: write `{}`", &text[..end]));
        }
        let escaped = escaped(text);
        let canonical = canonical_path(&escaped).map_err(|_| {
            format!(
                "no request's path can hold this: `{text}` has a `\\`, an invalid escape, one of `/ \\ # ?` or NUL \
                 escaped, or a dot segment with a parameter"
            )
        })?;
        // A canonical path that only looks like a pattern, as `/:id/` does, is taken literally.
        if *canonical != *text && pattern_in(text).is_some() {
            return Err(no_pattern(text));
        }
        if *canonical != *text {
            return Err(format!(
                "a request's path is made canonical before it is routed: write `{canonical}`"
            ));
        }
        Ok(if text.ends_with('/') {
            PathPattern::Prefix(text.into())
        } else {
            PathPattern::Exact(text.into())
        })
    }

    /// Whether the pattern matches the decoded `path`.
    pub fn matches(&self, path: &[u8]) -> bool {
        let own = decoded(self.as_str());
        match self {
            PathPattern::Exact(_) => *own == *path,
            PathPattern::Prefix(_) => path.starts_with(&own),
        }
    }

    /// Whether a server that ignores letter case finds paths of `other` among those of `self`.
    pub fn is_above(&self, other: &PathPattern) -> bool {
        let folded = |pattern: &str| decoded(&pattern.to_ascii_lowercase()).to_ascii_lowercase();
        let (own, other) = (folded(self.as_str()), folded(other.as_str()));
        match self {
            PathPattern::Exact(_) => own == other,
            PathPattern::Prefix(_) => other.starts_with(&own),
        }
    }

    /// The pattern as written in `sidegate.toml`.
    pub fn as_str(&self) -> &str {
        match self {
            PathPattern::Exact(path) | PathPattern::Prefix(path) => path,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the rest of a canonical `path` after `strip_prefix` removed the matching pattern
/// `prefix`. `/ticks/btc` becomes `/btc` under `/ticks/`. A path that an exact pattern matched
/// becomes `/`.
///
/// Slashes are counted, since `path` may spell an escape differently from `prefix`.
pub fn stripped<'a>(prefix: &str, path: &'a str) -> &'a str {
    let slashes = prefix.matches('/').count();
    match path.match_indices('/').nth(slashes.saturating_sub(1)) {
        Some((at, _)) if prefix.ends_with('/') => &path[at..],
        _ => "/",
    }
}

/// Whether the path `sent`, undecoded, lies below `pattern` or, for a pattern without a final
/// slash, equals it. The matching part must be canonical, so that a server that never decodes finds
/// it too.
pub fn is_below(pattern: &str, sent: &str) -> bool {
    let slashes = pattern.matches('/').count();
    let last = sent.match_indices('/').nth(slashes.saturating_sub(1)).map(|(at, _)| at);
    let head = if pattern.ends_with('/') { last.map(|at| &sent[..=at]) } else { Some(sent) };
    head.is_some_and(|head| {
        let is_canonical = canonical_path(head).is_ok_and(|canonical| canonical == head);
        is_canonical && decoded(head) == decoded(pattern)
    })
}

/// `text` with the bytes escaped that a URI can't hold, for the remedy.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes everything
        }
        out
    })
}

/// The first segment of `path` that other servers' configurations treat as a pattern. Here it is
/// literal.
pub fn pattern_in(path: &str) -> Option<&str> {
    let is_pattern = |segment: &&str| {
        let name = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let pair = |open: char, close: char| {
            segment.find(open).is_some_and(|at| segment[at..].contains(close))
        };
        segment.contains(['*', '|', '^', '\\'])
            || segment.strip_prefix(':').is_some_and(name)
            || segment.len() > 1 && segment.ends_with('$')
            || pair('{', '}')
            || pair('<', '>')
            || pair('[', ']')
            || segment.contains(".+")
    };
    path.split('/').find(is_pattern)
}

/// The message for `text` that looks like a pattern, with the path to write instead.
fn no_pattern(text: &str) -> String {
    format!("a path is no pattern: write `{}` for all below it", literal(text))
}

/// The longest prefix of `text` without any pattern syntax.
pub fn literal(text: &str) -> String {
    let path = text.trim_start_matches(['~', '^', '*', '=', ' ']);
    let mut prefix = String::from("/");
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    for segment in segments.iter().take_while(|segment| pattern_in(segment).is_none()) {
        prefix.push_str(segment);
        prefix.push('/');
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// Routes written as `host/path`, each leading to its own text.
    fn routes<'a>(written: &[&'a str]) -> Result<Routes<&'a str>, DuplicateRoutes> {
        let parsed = written.iter().map(|route| {
            let (host, path) = route.split_at(route.find('/').unwrap());
            (HostPattern::parse(host).unwrap(), PathPattern::parse(path).unwrap(), *route)
        });
        Routes::new(parsed.collect())
    }

    /// Which of `written`, in either order, the request `host/path` takes.
    fn check(written: &[&str], request: &str, found: Option<&str>) {
        let (host, path) = request.split_at(request.find('/').unwrap());
        let reversed: Vec<_> = written.iter().rev().copied().collect();
        for written in [written, &reversed] {
            assert_eq!(
                routes(written).unwrap().find(host, path).copied(),
                found,
                "{request} among {written:?}"
            );
        }
    }

    /// The sentence for a host or, where it begins with a slash, a path holds `remedy`.
    fn check_fault(pattern: &str, remedy: &str) {
        let fault = if pattern.starts_with('/') {
            PathPattern::parse(pattern).err()
        } else {
            HostPattern::parse(pattern).err()
        };
        assert!(
            fault.as_ref().is_some_and(|sentence| sentence.contains(remedy)),
            "{pattern:?}: {fault:?}"
        );
    }

    #[test]
    fn the_most_specific_host_wins() {
        let written = &["ws.example.com/", "*.example.com/", "*/"];
        check(written, "ws.example.com/a", Some("ws.example.com/"));
        check(written, "b.example.com/a", Some("*.example.com/"));
        check(written, "a.b.example.com/a", Some("*/"));
        check(written, "example.com/a", Some("*/"));
        check(written, "[::1]/", Some("*/"));
        check(&["*.example.com/"], "example.com/", None);
        check(&["*.example.com/"], "badexample.com/", None);
    }

    #[test]
    fn a_broader_host_serves_the_paths_that_a_specific_one_lacks() {
        let written = &["ws.example.com/ticks/", "*.example.com/chat", "*/status/"];
        check(written, "ws.example.com/ticks/x", Some("ws.example.com/ticks/"));
        check(written, "ws.example.com/chat", Some("*.example.com/chat"));
        check(written, "ws.example.com/status/", Some("*/status/"));
        check(written, "ws.example.com/", None);
    }

    #[test]
    fn the_longest_path_wins() {
        let written = &["*/", "*/a/", "*/a/b/", "*/a/b", "*/a/b/c"];
        for (request, found) in [
            ("*/", "*/"),
            ("*/x", "*/"),
            ("*/a", "*/"),
            ("*/a/", "*/a/"),
            ("*/a/x/y", "*/a/"),
            ("*/a/b", "*/a/b"),
            ("*/a/b/", "*/a/b/"),
            ("*/a/b/c", "*/a/b/c"),
            ("*/a/b/c/", "*/a/b/"),
            ("*/a/bc", "*/a/"),
        ] {
            check(written, &request.replace('*', "h"), Some(found));
        }
    }

    #[test]
    fn a_path_without_a_slash_at_its_end_is_exact() {
        check(&["*/ticks"], "h/ticks", Some("*/ticks"));
        check(&["*/ticks"], "h/ticks/", None);
        check(&["*/ticks"], "h/ticks/a", None);
        check(&["*/ticks/"], "h/ticks", None);
        check(&["*/ticks/"], "h/Ticks/", None);
    }

    #[test]
    fn equal_patterns_are_twins() {
        for (written, first, second) in [
            (&["a/x", "b/x", "A/x"][..], 0, 2),
            (&["*/", "a/", "*/"], 0, 2),
            (&["*.a/x/", "*.a/x", "*.a/x/"], 0, 2),
            (&["a/%c3%a9", "a/%C3%A9"], 0, 1),
            (&["a/x!", "a/x%21"], 0, 1),
        ] {
            assert_eq!(
                routes(written).err(),
                Some(DuplicateRoutes { first, second }),
                "{written:?}"
            );
        }
        assert!(routes(&["a/x", "a/x/", "*.a/x", "*/x"]).is_ok());
    }

    // C-RT-12: a backend decodes both to one path, so both find the strict route
    #[test]
    fn another_spelling_of_an_escape_takes_the_same_route() {
        let written = &["*/", "*/%C3%A9dit/", "*/a!b", "*/50%25/"];
        check(written, "h/%c3%a9dit/x", Some("*/%C3%A9dit/"));
        check(written, "h/a%21b", Some("*/a!b"));
        check(written, "h/50%25/", Some("*/50%25/"));
        check(written, "h/50%2525/", Some("*/"));
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path() {
        for (prefix, path, left) in [
            ("/ticks/", "/ticks/btc", "/btc"),
            ("/ticks/", "/ticks/", "/"),
            ("/a/b/", "/a/b/c/d/", "/c/d/"),
            ("/", "/a", "/a"),
            ("/ticks", "/ticks", "/"),
            ("/%c3%a9/", "/%C3%A9/x", "/x"),
            ("/a!/", "/a%21/x", "/x"),
            // Segments are counted, not bytes: a parameter is part of its segment.
            ("/ticks/", "/ticks;a/x", "/x"),
            ("/ticks/", "/ticks%3ba=b;c/x;d/", "/x;d/"),
            ("/a/b/", "/a;x/b;y/c", "/c"),
        ] {
            assert_eq!(stripped(prefix, path), left, "{path} under {prefix}");
        }
    }

    #[test]
    fn host_is_tried_after_equally_specific_ones() {
        let pattern = |text: &str| HostPattern::parse(text).unwrap();
        for (host, other, expected) in [
            ("*", "*", true),
            ("*", "*.a.example", true),
            ("*", "a.example", true),
            ("*.a.example", "*.a.example", true),
            ("*.a.example", "x.a.example", true),
            ("a.example", "A.example", true),
            ("*.a.example", "*", false),
            ("*.a.example", "a.example", false),
            ("*.a.example", "x.y.a.example", false),
            ("*.a.example", "*.b.example", false),
            ("a.example", "*", false),
            ("a.example", "*.example", false),
            ("a.example", "b.example", false),
        ] {
            assert_eq!(
                pattern(host).is_tried_after(&pattern(other)),
                expected,
                "{host} to {other}"
            );
        }
    }

    #[test]
    fn path_is_above_another_when_case_is_ignored() {
        let pattern = |text: &str| PathPattern::parse(text).unwrap();
        for (path, other, expected) in [
            ("/", "/a", true),
            ("/a/", "/a/b", true),
            ("/a/", "/A/b/", true),
            ("/A/", "/a/", true),
            ("/%c3%a9/", "/%C3%A9/x", true),
            ("/a!/", "/a%21/x", true),
            ("/a", "/A", true),
            ("/a/", "/a", false),
            ("/a/", "/", false),
            ("/a/", "/ab/", false),
            ("/a", "/a/", false),
        ] {
            assert_eq!(pattern(path).is_above(&pattern(other)), expected, "{path} above {other}");
        }
    }

    #[test]
    fn sent_path_is_below_a_pattern_byte_for_byte() {
        for (pattern, sent, expected) in [
            ("/", "/", true),
            ("/", "//%2F/..", true),
            ("/a/", "/a/", true),
            ("/a/", "/a/%2F//b", true),
            ("/a/b/", "/a/b/c", true),
            ("/%c3%a9/", "/%C3%A9/x", true),
            ("/a!/", "/a%21/x", true),
            ("/a", "/a", true),
            ("/a/", "/a", false),
            ("/a/", "//a/x", false),
            ("/a/", "/%61/x", false),
            ("/a/", "/A/x", false),
            ("/a/", "/./a/x", false),
            ("/a/b/", "/a%2Fb/c", false),
            ("/a/b/", "/a%2Fb/c/d", false),
            ("/a/b/", "/a//b/c", false),
            ("/a", "/%61", false),
            ("/a", "/a/", false),
            ("/a", "/a%2F", false),
        ] {
            assert_eq!(is_below(pattern, sent), expected, "{sent} below {pattern}");
        }
    }

    #[test]
    fn a_pattern_shows_as_it_is_written() {
        for (text, shown) in [
            ("WS.Example.com", "ws.example.com"),
            ("*.Example.com", "*.example.com"),
            ("*", "*"),
            ("[2001:DB8::0:1]", "[2001:db8::1]"),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), shown);
        }
        for text in ["/", "/ticks", "/ticks/", "/a%20b/;c"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn invalid_host_has_a_remedy() {
        check_fault("", "`*` for every host");
        check_fault("ws.example.com:8443", "write `ws.example.com`");
        check_fault("ws.example.com:", "write `ws.example.com`");
        check_fault("wss://ws.example.com/ticks", "write `ws.example.com`");
        check_fault("ws.example.com/ticks", "write `ws.example.com`");
        check_fault("ws.example.com.", "write `ws.example.com`");
        check_fault("2001:db8::1", "write `[2001:db8::1]`");
        check_fault("[::1]:443", "write `[::1]`");
        for stars in
            ["**", "*.", "*.*.example.com", "ws.*.com", "*ws.example.com", "ws*.example.com"]
        {
            check_fault(stars, "`*` for every host");
        }
        check_fault("*.0.2.1", "without `*`");
        check_fault("*.[::1]", "without `*`");
        check_fault("é.example", "`xn--`");
        for odd in ["a b", "user@a", "a..b", ".a", "a:http", "[::1", "a,b"] {
            check_fault(odd, "is not a host");
        }
    }

    #[test]
    fn invalid_path_has_a_remedy() {
        assert!(PathPattern::parse("ticks/").is_err_and(|sentence| sentence.contains("`/ticks/`")));
        assert!(PathPattern::parse("").is_err_and(|sentence| sentence.contains("`/`")));
        check_fault("/ticks?x=1", "`/ticks`");
        check_fault("/a//b/../c", "`/a/c`");
        check_fault("/%7Euser/", "`/~user/`");
        check_fault("/café/x y", "`/caf%C3%A9/x%20y`");
        for odd in ["/a\\b", "/%2f", "/%zz", "/50%"] {
            check_fault(odd, "no request's path can hold this");
        }
    }

    proptest! {
        // C-RT-12
        #[test]
        fn other_escapes_of_a_path_keep_its_route(path in "/([ab!;]{1,2}/){0,3}[ab!;]{0,2}", mask in any::<u32>()) {
            let routes = routes(&["*/", "*/a/", "*/a!/", "*/a/b", "*/b;/a/", "*/;/!"]).unwrap();
            let spelled: String = path.char_indices().map(|(at, c)| match c {
                '/' => c.to_string(),
                _ if mask >> (at % 32) & 1 == 1 => format!("%{:02x}", u32::from(c)),
                _ => c.to_string(),
            }).collect();
            let forwarded = canonical_path(&spelled).unwrap();
            prop_assert_eq!(routes.find("h", &path), routes.find("h", &forwarded));
        }

        #[test]
        fn any_string_parses_without_a_panic(text in any::<String>()) {
            let _ = HostPattern::parse(&text);
            let _ = PathPattern::parse(&text);
            let _ = stripped(&text, &text);
        }
    }

    #[test]
    fn pattern_like_path_is_refused_or_literal() {
        for (path, said) in [
            ("/api/*", Ok(Some("*"))),
            ("/users/:id", Ok(Some(":id"))),
            ("/a/.+", Ok(Some(".+"))),
            ("/chat$", Ok(Some("chat$"))),
            ("/files/(a", Ok(None)),
            ("/a:b/c$d/", Ok(None)),
            ("/chat/{room}", Ok(Some("{room}"))),
            ("/chat/<id>", Err("/chat/")),
            ("~ ^/chat/", Err("/chat/")),
            ("^/chat", Err("/chat/")),
            ("~* /chat/(a|b)", Err("/chat/")),
        ] {
            let parsed =
                PathPattern::parse(path).map(|path| pattern_in(path.as_str()).map(str::to_owned));
            match (parsed, said) {
                (Ok(part), Ok(expected)) => assert_eq!(part.as_deref(), expected, "{path}"),
                (Err(told), Err(prefix)) => {
                    assert!(told.contains(&format!("write `{prefix}`")), "{told}");
                }
                (parsed, _) => panic!("{path}: {parsed:?}"),
            }
        }
    }
}
