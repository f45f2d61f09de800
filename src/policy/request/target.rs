//! Request targets with bytes that no URI may hold, made acceptable to `http::Uri`.
//!
//! Devices and libraries send `"`, `<`, `>` and bytes beyond ASCII unescaped. Bytes that RFC 3986
//! requires to be escaped, and that `http::Uri` refuses, are percent-encoded as browsers do (URL
//! Standard, "path percent-encode set" and "query percent-encode set"). Nothing is decoded, and no
//! byte that `http::Uri` accepts is changed. Controls, spaces and DEL are encoded too, and
//! reported: they end a target for some servers, so that [`super::Request::read`] refuses them.

use std::borrow::Cow;
use std::fmt::Write;

/// The changes that [`encoded`] made to a target. It travels in the extensions of a request's head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetEncoding {
    /// Bytes by which the target has grown.
    pub grown: usize,
    /// Bytes by which its path and query have grown: `http::Uri` drops a fragment.
    pub kept: usize,
    /// Whether the target held a control, a space or DEL.
    pub is_broken: bool,
}

/// A request line that was changed, ready for the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRequestLine {
    /// The whole line, its line feed included.
    pub bytes: Vec<u8>,
    /// The changes to its target.
    pub tidied: TargetEncoding,
}

/// Rewrites the request line `line`, its line feed included. The target is encoded,
/// and a later minor version becomes HTTP/1.1 (RFC 9110 §2.5). `None` means that nothing has to be
/// changed, or that `line` is no request line of HTTP/1.
pub fn encode_request_line(line: &[u8]) -> Option<EncodedRequestLine> {
    let (before, target, after) = split(line)?;
    let (version, end) = after.split_at(VERSION_BYTES);
    let is_later = version[VERSION_BYTES - 1] > b'1';
    let encoded = encoded(target);
    if encoded.is_none() && !is_later {
        return None;
    }
    let version = if is_later { b" HTTP/1.1" } else { version };
    let tidied = encoded.as_ref().map(|(_, tidied)| *tidied).unwrap_or_default();
    let target = encoded.as_ref().map_or(target, |(target, _)| target.as_bytes());
    Some(EncodedRequestLine { bytes: [before, target, version, end].concat(), tidied })
}

/// The length of the version with the space before it, in bytes.
const VERSION_BYTES: usize = b" HTTP/1.1".len();

/// Returns the query of the request line `line`, unchanged. `None` means that it has
/// none.
pub fn query(line: &[u8]) -> Option<&[u8]> {
    let (_, target, _) = split(line)?;
    let start = target.iter().position(|byte| matches!(byte, b'?' | b'#'))?;
    let (mark, rest) = target[start..].split_first()?;
    (*mark == b'?').then(|| rest.split(|byte| *byte == b'#').next().unwrap_or_default())
}

/// Splits the line into the part before the target, the target, and the part after it (RFC 9112
/// §3).
fn split(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let text = line.strip_suffix(b"\n")?;
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let version = text.len().checked_sub(VERSION_BYTES)?;
    if !matches!(&text[version..], [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']) {
        return None;
    }
    let target = text.iter().position(|byte| *byte == b' ')? + 1;
    // Fails for a line without target, whose only space belongs to the version.
    (target < version).then(|| (&line[..target], &line[target..version], &line[version..]))
}

/// Encodes the bytes of `target` that `http::Uri` refuses. `None` means that it holds none.
pub fn encoded(target: &[u8]) -> Option<(String, TargetEncoding)> {
    // Nearly every target: bytes that are allowed before a `?` and after it.
    if target.iter().all(|byte| is_allowed(*byte, true) && is_allowed(*byte, false)) {
        return None;
    }
    let mut is_query = false;
    let fragment = target.iter().position(|byte| *byte == b'#').unwrap_or(target.len());
    let mut tidied = TargetEncoding::default();
    let mut out = String::with_capacity(target.len() + 16);
    for (at, &byte) in target.iter().enumerate() {
        if at == fragment {
            tidied.kept = out.len() - at;
        }
        is_query |= byte == b'?';
        if is_allowed(byte, is_query) {
            out.push(char::from(byte));
        } else {
            push_encoded(&mut out, byte);
            tidied.is_broken |= is_terminator(byte);
        }
    }
    tidied.grown = out.len() - target.len();
    if fragment == target.len() {
        tidied.kept = tidied.grown;
    }
    // Without growth only the quick check was too strict, as for a `"` before the `?`.
    (tidied.grown > 0).then_some((out, tidied))
}

/// Encodes the bytes of `path` that a request's path can't hold.
pub(super) fn encoded_path(path: &str) -> Cow<'_, str> {
    let must = |byte: u8| !is_allowed(byte, false) && !is_terminator(byte);
    if !path.bytes().any(must) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() + 16);
    for c in path.chars() {
        let mut bytes = [0; 4];
        match u8::try_from(c) {
            Ok(byte) if byte.is_ascii() && !must(byte) => out.push(c),
            _ => c.encode_utf8(&mut bytes).bytes().for_each(|byte| push_encoded(&mut out, byte)),
        }
    }
    Cow::Owned(out)
}

/// Whether `http::Uri` accepts `byte` unescaped. It accepts `` ` `` only after a `?`, and `"` only
/// before it.
fn is_allowed(byte: u8, is_query: bool) -> bool {
    match byte {
        b'<' | b'>' => false,
        b'"' => !is_query,
        b'`' => is_query,
        byte => byte.is_ascii_graphic(),
    }
}

/// Whether a server may take the target to end at `byte`.
fn is_terminator(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_control()
}

fn push_encoded(out: &mut String, byte: u8) {
    let _ = write!(out, "%{byte:02X}"); // a String takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::Uri;
    use proptest::prelude::*;

    /// The encoded target of a request line, and whether it is broken.
    fn check(target: &[u8], expected: &str, is_broken: bool) {
        let came = [b"GET ", target, b" HTTP/1.1\r\n"].concat();
        let line =
            encode_request_line(&came).unwrap_or_else(|| panic!("{target:?} is not changed"));
        assert_eq!(String::from_utf8(line.bytes).unwrap(), format!("GET {expected} HTTP/1.1\r\n"));
        let grown = expected.len() - target.len();
        let before =
            |target: &[u8]| target.iter().position(|byte| *byte == b'#').unwrap_or(target.len());
        let kept = before(expected.as_bytes()) - before(target);
        assert_eq!(line.tidied, TargetEncoding { grown, kept, is_broken });
    }

    #[test]
    fn invalid_uri_bytes_are_encoded_like_browsers_do() {
        check(b"/find?filter={\"a\":\"b\"}", "/find?filter={%22a%22:%22b%22}", false);
        check(b"/?<a>|^`'", "/?%3Ca%3E|^`'", false);
        check("/?q=é".as_bytes(), "/?q=%C3%A9", false);
        check(b"/?q=M\xfcller#\xff", "/?q=M%FCller#%FF", false);
        check(b"/<a>`\"|{^}?`\"", "/%3Ca%3E%60\"|{^}?`%22", false);
        check(b"http://a.example/\xe9?\"", "http://a.example/%E9?%22", false);
        check(b"/a?b?\"", "/a?b?%22", false);
    }

    #[test]
    fn controls_spaces_and_del_are_encoded_and_reported() {
        check(b"/?a b", "/?a%20b", true);
        check(b"/a b?c", "/a%20b?c", true);
        check(b"/\x7f", "/%7F", true);
        check(b"/?\0\t\r\x1b", "/?%00%09%0D%1B", true);
        check(b"/x HTTP/1.1", "/x%20HTTP/1.1", true);
        check(b"/ ", "/%20", true);
    }

    #[test]
    fn later_minor_version_is_read_as_http_1_1() {
        for (came, expected) in [
            ("GET / HTTP/1.2\r\n", "GET / HTTP/1.1\r\n"),
            ("GET /?\" HTTP/1.9\n", "GET /?%22 HTTP/1.1\n"),
            ("GET /?\" HTTP/1.0\n", "GET /?%22 HTTP/1.0\n"),
        ] {
            assert_eq!(
                encode_request_line(came.as_bytes()).unwrap().bytes,
                expected.as_bytes(),
                "{came:?}"
            );
        }
        for came in [
            "GET / HTTP/1.10\r\n",
            "GET / HTTP/2.1\r\n",
            "GET / HTTP/0.9\r\n",
            "GET / http/1.2\r\n",
        ] {
            assert_eq!(encode_request_line(came.as_bytes()), None, "{came:?}");
        }
    }

    #[test]
    fn sound_or_invalid_line_is_unchanged() {
        for came in [
            "GET /a\"{}?b={c}|^`'%22 HTTP/1.1\r\n",
            "GET /?\" HTTP/1.1",
            "GET /?\"\r\n",
            "GET /?\" HTTP/2.0\r\n",
            "GET  HTTP/1.1\r\n",
            "/?\" HTTP/1.1\r\n",
            "\r\n",
            "\n",
            "",
        ] {
            assert_eq!(encode_request_line(came.as_bytes()), None, "{came:?}");
        }
        assert_eq!(
            encode_request_line(b"GET /?\" HTTP/1.0\n").unwrap().bytes,
            b"GET /?%22 HTTP/1.0\n"
        );
    }

    #[test]
    fn query_is_between_question_mark_and_fragment() {
        let check = |target: &str, expected: Option<&str>| {
            let came = format!("GET {target} HTTP/1.1\r\n");
            assert_eq!(query(came.as_bytes()), expected.map(str::as_bytes), "{target}");
        };
        check("/a?b=\"c\"?d#e?f", Some("b=\"c\"?d"));
        check("/a?", Some(""));
        check("/a#b?c", None);
        check("/a", None);
        check("http://h?q", Some("q"));
    }

    proptest! {
        #[test]
        fn every_target_that_is_encoded_is_a_uri(path in prop::collection::vec(any::<u8>(), 0..24)) {
            let target = [&b"/"[..], &path].concat();
            let made = encoded(&target).map_or_else(|| target.clone(), |(made, _)| made.into_bytes());
            let uri = Uri::try_from(&made[..]);
            prop_assert!(uri.is_ok(), "{}", String::from_utf8_lossy(&made));
            prop_assert_eq!(encoded(&made), None);
            let decoded = super::super::path::decoded(str::from_utf8(&made).unwrap()).into_owned();
            let as_came = super::super::path::decoded_bytes(&target).into_owned();
            prop_assert_eq!(decoded, as_came);
        }

        #[test]
        fn a_path_is_encoded_as_its_target_is(path in "/[a-z<>`\"é\u{1f355}{}%]{0,12}") {
            let target = encoded(path.as_bytes()).map_or(path.clone(), |(made, _)| made);
            prop_assert_eq!(encoded_path(&path), target);
        }
    }
}
