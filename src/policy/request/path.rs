//! The canonical path: one spelling for judging, routing and forwarding.
//!
//! The query is never touched, and no escape is decoded that would change where a segment ends.

use std::borrow::Cow;

use super::target::encoded_path;
use crate::refusal::Refusal;

/// The canonical form of `path` (without its query): bytes beyond ASCII, `<`, `>` and `` ` ``
/// escaped as browsers do, escapes of unreserved characters decoded (RFC 3986 §2.3), every other
/// escape kept byte for byte, empty segments dropped, dot segments resolved (RFC 3986 §5.2.4; `..`
/// stops at the root). Idempotent; borrowed where nothing changes.
///
/// Slashes are merged before dots are resolved, as nginx does: `/a//../b` is `/b`. An empty path is
/// `/` (RFC 9110 §4.2.3).
///
/// # Errors
/// [`Refusal::Path`]: an invalid escape; an escape of `/ \ # ?` or NUL; a raw `\`, a space, a
/// control, `#` or `?` (RFC 3986 §3.3); a segment that is `.` or `..` before its first `;` or
/// `%3B`; no leading `/`.
pub fn canonical_path(path: &str) -> Result<Cow<'_, str>, Refusal> {
    match encoded_path(path) {
        Cow::Borrowed(path) => canonical(path),
        Cow::Owned(path) => Ok(Cow::Owned(canonical(&path)?.into_owned())),
    }
}

fn canonical(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if path.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if !path.starts_with('/') {
        return Err(Refusal::Path);
    }
    let path = unreserved_decoded(path)?;
    if is_resolved(&path)? {
        return Ok(path);
    }
    // All of it is ASCII: `unreserved_decoded` has seen every byte.
    Ok(Cow::Owned(String::from_utf8_lossy(&resolve(path.as_bytes(), true)).into_owned()))
}

/// The bytes that a backend sees in a canonical path after decoding every escape. A backend cannot
/// distinguish two canonical paths with the same bytes. No escape here decodes to a `/`.
pub fn decoded(path: &str) -> Cow<'_, [u8]> {
    decoded_bytes(path.as_bytes())
}

/// Like [`decoded`], for bytes. Invalid escapes are kept.
pub(super) fn decoded_bytes(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let escaped = escape(rest);
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { after };
    }
    Cow::Owned(out)
}

fn unreserved_decoded(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let bytes = path.as_bytes();
    let mut out = String::new();
    let mut copied = 0; // `out` covers the path up to here
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            if !is_plain(byte) {
                return Err(Refusal::Path);
            }
            at += 1;
            continue;
        }
        let escaped =
            escape(&bytes[at..]).filter(|&escaped| !is_deceptive(escaped)).ok_or(Refusal::Path)?;
        // `%25` stays, since `%` is not unreserved: decoding never produces a new escape.
        if is_unreserved(escaped) {
            out.push_str(&path[copied..at]);
            out.push(char::from(escaped));
            copied = at + 3;
        }
        at += 3;
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(path));
    }
    out.push_str(&path[copied..]);
    Ok(Cow::Owned(out))
}

/// Decodes the escape at the start of `bytes` (RFC 3986 §2.1).
pub(super) fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Bytes that a path may hold unescaped. Some (`"`, `{`) violate RFC 3986, but http accepts them
/// and no server gives them another meaning.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'?')
}

/// Bytes that a backend which decodes first would take for the end of a segment, a path or a
/// string.
fn is_deceptive(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\' | b'#' | b'?' | 0)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The meaning of a segment to a server that cuts path parameters before it resolves dots.
enum DotSegment {
    /// An ordinary name, not a dot segment.
    No,
    /// `.` or `..` on its own.
    Plain,
    /// `.` or `..` before a `;` or `%3B`. Servlet containers treat it as `..`, other servers as a
    /// name.
    WithParameter,
}

fn dots(segment: &str) -> DotSegment {
    let Some(rest) = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.')) else {
        return DotSegment::No;
    };
    match rest.as_bytes() {
        [] => DotSegment::Plain,
        [b';', ..] | [b'%', b'3', b'b' | b'B', ..] => DotSegment::WithParameter,
        _ => DotSegment::No,
    }
}

/// Whether `path` has no dot segments and no empty ones.
fn is_resolved(path: &str) -> Result<bool, Refusal> {
    // An empty segment counts once another follows it: at the end it is the final slash, which
    // stays.
    let (mut is_resolved, mut last) = (true, "/");
    for segment in path.split('/').skip(1) {
        is_resolved &= !last.is_empty();
        match dots(segment) {
            DotSegment::No => {}
            DotSegment::Plain => is_resolved = false,
            DotSegment::WithParameter => return Err(Refusal::Path),
        }
        last = segment;
    }
    Ok(is_resolved)
}

/// Removes the dot segments of `path`, which begins with a slash (RFC 3986 §5.2.4). `merges`
/// removes empty segments too; without it, `..` removes an empty segment like any other.
pub(super) fn resolve(path: &[u8], merges: bool) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut is_folder = false;
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        is_folder = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"." => {}
            // At the root `..` has nothing to remove (RFC 3986 §5.2.4).
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            // At the end it is the final slash, which `is_folder` appends.
            b"" if merges || segments.peek().is_none() => {}
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if is_folder {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn check(path: &str, canonical: Option<&str>) {
        assert_eq!(canonical_path(path).ok().as_deref(), canonical, "{path:?}");
    }

    // C-RT-01: the sixteen of Traefik's TestSanitizePath, but that a trailing `..` leaves a
    // slash, as RFC 3986 §5.2.4, nginx and HAProxy have it.
    #[test]
    fn dot_segments_and_empty_ones_are_removed() {
        for (path, canonical) in [
            ("/b", "/b"),
            ("/b/", "/b/"),
            ("/../../b/", "/b/"),
            ("/../../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/../../b", "/b"),
            ("/..///b///", "/b/"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a//b", "/a/b"),
            ("//", "/"),
            ("/a/../c/../b", "/b"),
            ("/a/../../../c/../b", "/b"),
            ("/a/../c/../../b", "/b"),
            ("/a/..//c/.././b", "/b"),
        ] {
            check(path, Some(canonical));
        }
        for (path, canonical) in [
            ("/.", "/"),
            ("/..", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a//../b", "/b"),
            ("", "/"),
            ("/", "/"),
        ] {
            check(path, Some(canonical));
        }
        for plain in ["/...", "/.a", "/a..", "/a.b/..c", "/a/.../b"] {
            check(plain, Some(plain));
        }
    }

    // C-RT-07
    #[test]
    fn an_invalid_escape_is_refused() {
        for path in ["/%", "/%1", "/%zz", "/a%2", "/%%34%31", "/%2%66", "/%+1", "/% 1", "/a%/b"] {
            check(path, None);
        }
    }

    // C-RT-08
    #[test]
    fn escaped_separator_is_refused() {
        for path in
            ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5C", "/a%00", "/%00%zz", "/a%23b", "/a%3fb", "/a%3F"]
        {
            check(path, None);
        }
        for path in [
            "/a%3bb", "/a%3Bb", "/a;b", "/a;v=1/b", "/a%252fb", "/%c3%a9", "/%C3%a9", "/a%20b",
            "/a%25",
        ] {
            check(path, Some(path));
        }
    }

    #[test]
    fn a_dot_segment_with_a_parameter_is_refused() {
        for path in [
            "/..;/a",
            "/a/.;x=y/b",
            "/..;",
            "/a/.;",
            "/a/..%3b/b",
            "/a/..%3B",
            "/%2e%2e;/a",
            "/.%2e%3bx/a",
            "/x/%2E;y;z",
            "/a/..;/../b",
            "//..;",
        ] {
            check(path, None);
        }
        for path in
            ["/...;/a", "/a..;/b", "/;..", "/.a;/b", "/..%253b/a", "/..%20;/a", "/a;/b;x=../c"]
        {
            check(path, Some(path));
        }
        check("/a/../b;x", Some("/b;x"));
    }

    // C-RT-11
    #[test]
    fn invalid_raw_byte_is_refused() {
        for path in [
            "/a\\b", "/\\..\\b", "/a b", "/a\0", "/a\n", "/\u{7f}", "/a?b", "/a#b", "a", "a/b",
            "*", "%2f",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn a_raw_byte_is_escaped_when_no_uri_can_hold_it() {
        check("/é", Some("/%C3%A9"));
        check("/a<b>`c`/\u{1f355}/../x", Some("/a%3Cb%3E%60c%60/x"));
        check("/\u{202e}x\u{85}", Some("/%E2%80%AEx%C2%85"));
        check("/a\"{b}|^", Some("/a\"{b}|^"));
        check("/é%2f", None);
        check("/%é", None);
        check("/é b", None);
    }

    #[test]
    fn an_escaped_unreserved_character_is_decoded() {
        check("/%61%2D%5f%7e%41%30", Some("/a-_~A0"));
        check("/a/%2e%2E/b", Some("/b"));
        check("/a/.%2e/b", Some("/b"));
        check("/%2e/b", Some("/b"));
        check("/%25%34%31", Some("/%2541")); // decoded once, never twice
    }

    #[test]
    fn a_canonical_path_is_not_copied() {
        for path in ["/", "/ticks/btc", "/a%20b/", "/a;b/%3b", "/socket.io/"] {
            assert!(
                matches!(canonical_path(path), Ok(Cow::Borrowed(same)) if same == path),
                "{path}"
            );
        }
    }

    #[test]
    fn decoded_path_is_that_of_a_backend() {
        assert_eq!(*decoded("/a%20b%2541%c3%A9"), *b"/a b%41\xc3\xa9");
        assert!(matches!(decoded("/plain"), Cow::Borrowed(b"/plain")));
    }

    /// Paths made of what has fooled gates before.
    fn odd_path() -> impl Strategy<Value = String> {
        let pieces = vec![
            "/", "/", "//", ".", "..", "%2e", "%2E", "a", "b", "%61", "%41", "%25", "25", "%c3%a9",
            ";", "%3b", "~", "%7e", "!", "%21", "\"", "%2f", "%", "\\", "é",
        ];
        prop::collection::vec(prop::sample::select(pieces), 0..14)
            .prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn canonical_twice_is_canonical_once(path in odd_path()) {
            if let Ok(once) = canonical_path(&path) {
                prop_assert!(matches!(canonical_path(&once), Ok(Cow::Borrowed(twice)) if twice == once));
            }
        }

        #[test]
        fn canonical_path_has_no_dot_or_empty_segment(path in odd_path()) {
            if let Ok(canonical) = canonical_path(&path) {
                prop_assert!(canonical.starts_with('/') && !canonical.contains("//"));
                prop_assert!(canonical.split('/').all(|segment| matches!(dots(segment), DotSegment::No)));
                let decoded = decoded(&canonical);
                prop_assert!(!decoded.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b".."));
                let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
                prop_assert_eq!(slashes(&decoded), slashes(canonical.as_bytes()));
            }
        }

        #[test]
        fn any_string_parses_without_a_panic(path in any::<String>()) {
            let _ = canonical_path(&path);
            let _ = decoded(&path);
        }
    }
}
