//! The path of a request: in its canonical form, and as sent.
//!
//! Only a route with `paths = "as-is"` forwards a path as sent; everything else uses the canonical
//! form. A path with an escape of `/`, `#` or `?` has no canonical form.

use std::fmt;

use super::path::{canonical_path, decoded_bytes, escape};
use super::target::encoded_path;
use crate::refusal::Refusal;

/// The path of a request, in one or both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPath {
    /// Sent in its canonical form.
    Canonical(Box<str>),
    /// Sent in another form.
    Other {
        /// The canonical form (see [`canonical_path`]).
        canonical: Box<str>,
        /// The path as sent, but encoded as `read` says.
        sent: Box<str>,
    },
    /// Sent with an escape of `/`, `#` or `?`: it has no canonical form.
    HiddenSeparator(Box<str>),
}

impl RequestPath {
    /// Keeps the path as sent, except that bytes which no URI may hold are escaped as browsers do.
    ///
    /// # Errors
    /// [`Refusal::Path`]: no route can accept the path, see [`canonical_path`]. A path that is not
    /// canonical only because of escapes of `/`, `#` and `?` is refused if it has a dot segment.
    pub fn read(sent: &str) -> Result<RequestPath, Refusal> {
        let sent = encoded_path(sent);
        let Ok(canonical) = canonical_path(&sent) else {
            let hides = is_well_formed(sent.as_bytes()) && !has_dots(&sent);
            return if hides {
                Ok(RequestPath::HiddenSeparator(sent.into()))
            } else {
                Err(Refusal::Path)
            };
        };
        Ok(if canonical == sent {
            RequestPath::Canonical(canonical.into())
        } else {
            RequestPath::Other { canonical: canonical.into(), sent: sent.into() }
        })
    }

    /// The canonical form. `None` means that an escape hides a `/`, `#` or `?`.
    pub fn canonical(&self) -> Option<&str> {
        match self {
            RequestPath::Canonical(path) | RequestPath::Other { canonical: path, .. } => Some(path),
            RequestPath::HiddenSeparator(_) => None,
        }
    }

    /// The path as the client sent it.
    pub fn sent(&self) -> &str {
        match self {
            RequestPath::Canonical(path) | RequestPath::Other { sent: path, .. } => path,
            RequestPath::HiddenSeparator(path) => path,
        }
    }

    /// The form that a backend receives: canonical, or as sent if `as_is`. A path without a
    /// canonical form is forwarded as sent.
    pub fn forwarded(&self, as_is: bool) -> &str {
        self.canonical().filter(|_| !as_is).unwrap_or(self.sent())
    }

    /// Drops the sent form, unless the route forwards it (`as_is`).
    pub fn keep_form(&mut self, as_is: bool) {
        if let (false, RequestPath::Other { canonical, .. }) = (as_is, &mut *self) {
            *self = RequestPath::Canonical(std::mem::take(canonical));
        }
    }
}

impl fmt::Display for RequestPath {
    /// The canonical form, if it has one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.forwarded(false))
    }
}

impl From<&str> for RequestPath {
    /// Wraps a path that is already canonical.
    fn from(canonical: &str) -> Self {
        RequestPath::Canonical(canonical.into())
    }
}

/// Whether `path` has only complete escapes, none of `\` or NUL, and no byte that a path can't
/// hold.
fn is_well_formed(path: &[u8]) -> bool {
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = match (first, escape(rest)) {
            (b'%', None | Some(b'\\' | 0)) => return false,
            (b'%', Some(_)) => &rest[3..],
            (b'\\' | b'?' | b'#', _) => return false,
            (byte, _) if !byte.is_ascii_graphic() => return false,
            _ => after,
        };
    }
    path.first() == Some(&b'/')
}

/// Whether `path`, decoded once or twice, has a segment that is `.` or `..` before its first `;`.
pub fn has_dots(path: &str) -> bool {
    let once = decoded_bytes(path.as_bytes());
    let twice = decoded_bytes(&once);
    [&once, &twice].into_iter().any(|path| path.split(|byte| *byte == b'/').any(is_dots))
}

fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
    // Decoded once, a parameter may still be escaped.
    let escaped = name.windows(3).position(|code| matches!(code, [b'%', b'3', b'b' | b'B']));
    matches!(&name[..escaped.unwrap_or(name.len())], b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn path_keeps_canonical_and_sent_forms() {
        let read = |sent| RequestPath::read(sent).unwrap();
        assert_eq!(read("/a%20b/"), RequestPath::Canonical("/a%20b/".into()));
        let other = RequestPath::Other { canonical: "/a/b".into(), sent: "/a//./%62".into() };
        assert_eq!(read("/a//./%62"), other);
        assert_eq!((other.forwarded(false), other.forwarded(true)), ("/a/b", "/a//./%62"));
        assert_eq!(read("/é"), RequestPath::Canonical("/%C3%A9".into()));
        for hiding in [
            "/a%2Fb",
            "/a//%2f",
            "/%23/%3F",
            "/<%2f",
            "/a%2f.../b",
            "/%252e.%252e%2fx",
            "/a%2F%25%32%35",
        ] {
            assert!(matches!(read(hiding), RequestPath::HiddenSeparator(_)), "{hiding}");
        }
        assert_eq!(read("/<%2f").sent(), "/%3C%2f");
    }

    #[test]
    fn a_path_is_refused_when_no_route_can_take_it() {
        for path in [
            "/%2f%00",
            "/%2f\\",
            "/%2f%5c",
            "/%2f%5C",
            "/%2f%zz",
            "/%2f%",
            "a%2f",
            "/%2f b",
            "/%2f?x",
            "/x/%2f/..",
            "/%2f../x",
            "/x%2f..%2fy",
            "/x%252f..%2fy",
            "/%2f/%252e%252e/",
            "/%2f/.%252e",
            "/%2f/.",
            "/%2f/..;x/",
            "/%2f/..%3bx/",
            "/%2f/..%253Bx/",
            "/%2f/%252e%3b",
        ] {
            assert_eq!(RequestPath::read(path), Err(Refusal::Path), "{path}");
        }
    }

    #[test]
    fn dot_segments_are_found_under_any_encoding() {
        for path in [
            "/.",
            "/..",
            "/a/%2e%2E/b",
            "/a/%252e./b",
            "/a%2f..",
            "/a%252f.;x",
            "/..%3b",
            "/..%253b/",
            "/;/../",
        ] {
            assert!(has_dots(path), "{path}");
        }
        for path in [
            "/",
            "/...",
            "/..a",
            "/a..",
            "/;..",
            "/%25252e%2f",
            "/..%20/",
            "/%c0%ae/",
            "/a;/b%2f.c",
        ] {
            assert!(!has_dots(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_path_round_trips(sent in "/([a./%;]|%2[0f35e]|%3[bf]|%5c|é){0,12}") {
            let Ok(path) = RequestPath::read(&sent) else { return Ok(()) };
            prop_assert_eq!(RequestPath::read(path.sent()), Ok(path.clone()));
            match path.canonical() {
                Some(canonical) => prop_assert_eq!(canonical_path(&sent).unwrap(), canonical),
                None => prop_assert!(canonical_path(&sent).is_err() && !has_dots(&sent)),
            }
        }
    }
}
