//! Readings of a path: the paths that servers behind a gate may interpret it as.
//!
//! A servlet container cuts path parameters. A second decoder sees escapes that the first left. An
//! old decoder accepts overlong UTF-8. Windows cuts trailing dots and spaces and treats `\` as `/`.
//! A path must not pass if such a reading leads it to another policy. This module finds the
//! readings, in any order and combination of steps. It knows no routes.

use std::borrow::Cow;
use std::fmt;

use super::path::{escape, resolve};

/// The most readings considered for one path. Ordinary paths have one to four.
const MAX_READINGS: usize = 64;

/// The most bytes of all readings of one path together: eight times the longest target.
const MAX_READINGS_BYTES: usize = 64 * 1024;

/// How often a path is decoded: once as every backend does, and once more.
const MAX_DECODINGS: u8 = 2;

/// One way in which a server changes a path before it acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadingStep {
    /// Escapes are decoded. Routing performs the first decoding too.
    Decoded,
    /// Each segment ends at its first `;` (RFC 3986 §3.3).
    ParametersCut,
    /// UTF-8 sequences longer than necessary are decoded as ASCII, against RFC 3629 §3.
    OverlongDecoded,
    /// `\` separates segments, as on Windows.
    BackslashesReplaced,
    /// Segments end before trailing dots and spaces.
    Trimmed,
    /// The path ends at a `?`, `#` or NUL that was escaped twice.
    Ended,
    /// Dot segments are resolved before other steps reveal more of them.
    Resolved,
}

impl ReadingStep {
    const ALL: [ReadingStep; 7] = [
        ReadingStep::Decoded,
        ReadingStep::ParametersCut,
        ReadingStep::OverlongDecoded,
        ReadingStep::BackslashesReplaced,
        ReadingStep::Trimmed,
        ReadingStep::Ended,
        ReadingStep::Resolved,
    ];

    /// The step in words, for messages.
    const fn words(self) -> &'static str {
        match self {
            ReadingStep::Decoded => "decoded",
            ReadingStep::ParametersCut => "parameters cut",
            ReadingStep::OverlongDecoded => "overlong UTF-8 taken for ASCII",
            ReadingStep::BackslashesReplaced => "backslashes as slashes",
            ReadingStep::Trimmed => "trailing dots and spaces cut",
            ReadingStep::Ended => "ended at an escaped `?`, `#` or NUL",
            ReadingStep::Resolved => "dot segments resolved",
        }
    }

    /// Returns the path after this step. `None` means that the step changes nothing.
    fn of(self, path: &[u8]) -> Option<Vec<u8>> {
        match self {
            ReadingStep::Decoded => decoded(path),
            ReadingStep::ParametersCut => parameters_cut(path),
            ReadingStep::OverlongDecoded => overlong_taken(path),
            ReadingStep::BackslashesReplaced => backslashes_turned(path),
            ReadingStep::Trimmed => trimmed(path),
            ReadingStep::Ended => ended(path),
            ReadingStep::Resolved => resolved(path),
        }
    }
}

/// A path as some servers interpret it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathReading {
    /// The path, decoded and without dot segments.
    pub path: Vec<u8>,
    /// The steps that lead from the canonical path to this one, in order.
    pub steps: Vec<ReadingStep>,
}

impl fmt::Display for PathReading {
    /// `decoded, then decoded once more: /admin/x`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut decoded = false;
        for (nth, step) in self.steps.iter().enumerate() {
            let then = if nth > 0 { ", then " } else { "" };
            let again = if decoded && *step == ReadingStep::Decoded { " once more" } else { "" };
            write!(f, "{then}{}{again}", step.words())?;
            decoded |= *step == ReadingStep::Decoded;
        }
        write!(f, ": {}", String::from_utf8_lossy(&self.path).escape_debug())
    }
}

/// The path has more readings than are considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyReadings;

/// Whether the canonical `path` has no reading other than the one used for routing.
pub fn is_plain(path: &str) -> bool {
    let mut last = b'/';
    for byte in path.bytes() {
        if byte == b'%' || byte == b';' || (byte == b'/' && last == b'.') {
            return false;
        }
        last = byte;
    }
    last != b'.'
}

/// Returns the first reading of the canonical `path`, with the fewest steps, for which `found`
/// returns a value.
///
/// # Errors
/// There are more readings than are considered. The bound covers bytes as well, since a client
/// chooses the length of a path and the number of its readings.
pub fn find<T>(
    path: &str,
    mut found: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Option<(PathReading, T)>, TooManyReadings> {
    // The canonical path itself is not given to `found`: routing has looked it up already.
    let mut known = vec![ReachedPath { path: path.as_bytes().into(), decodings: 0, from: None }];
    let (mut at, mut bytes) = (0, path.len());
    // Breadth first, so that the first hit has the fewest steps.
    while at < known.len() {
        for step in ReadingStep::ALL {
            let ReachedPath { path, decodings, .. } = &known[at];
            let decodings = decodings + u8::from(step == ReadingStep::Decoded);
            let Some(next) = step.of(path).filter(|_| decodings <= MAX_DECODINGS) else { continue };
            // A path counts as known only with equal decodings: decoded once, it may be decoded
            // again.
            if known.iter().any(|known| known.decodings == decodings && known.path == next) {
                continue;
            }
            bytes += next.len();
            // The caller refuses the path then: readings not considered may lead anywhere.
            if known.len() == MAX_READINGS || bytes > MAX_READINGS_BYTES {
                return Err(TooManyReadings);
            }
            known.push(ReachedPath { path: next, decodings, from: Some((at, step)) });
            let last = known.len() - 1;
            for path in known[last].routed() {
                if let Some(found) = found(&path) {
                    return Ok(Some((PathReading { path, steps: steps(&known, last) }, found)));
                }
            }
        }
        at += 1;
    }
    Ok(None)
}

/// A path that was reached, and the step that led to it.
struct ReachedPath {
    path: Vec<u8>,
    decodings: u8,
    from: Option<(usize, ReadingStep)>,
}

impl ReachedPath {
    /// The path as a server acts on it: decoded at least once, and without dot segments. Servers
    /// differ in whether `//` counts as a segment for a following `..`.
    fn routed(&self) -> Vec<Vec<u8>> {
        let path = match decoded(&self.path) {
            Some(decoded) if self.decodings == 0 => Cow::Owned(decoded),
            _ => Cow::Borrowed(&self.path),
        };
        if !may_be_unresolved(&path) {
            return vec![path.into_owned()];
        }
        let (merged, kept) = (resolve(&path, true), resolve(&path, false));
        if kept == merged { vec![merged] } else { vec![merged, kept] }
    }
}

fn steps(known: &[ReachedPath], mut at: usize) -> Vec<ReadingStep> {
    let mut steps = Vec::new();
    while let Some((before, step)) = known[at].from {
        steps.push(step);
        at = before;
    }
    steps.reverse();
    steps
}

/// Decodes every escape. Invalid ones are kept, as lenient decoders do.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    if !path.contains(&b'%') {
        return None;
    }
    let mut changed = false;
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let escaped = escape(rest);
        changed |= escaped.is_some();
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { after };
    }
    changed.then_some(out)
}

fn parameters_cut(path: &[u8]) -> Option<Vec<u8>> {
    by_segment(path, b';', |segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
}

/// Windows recognises `.` and `..` before it cuts, even with trailing spaces.
fn trimmed(path: &[u8]) -> Option<Vec<u8>> {
    let ends_oddly = |segment: &[u8]| matches!(segment, [.., b'.' | b' ']) && !is_dots(segment);
    if !path.split(|byte| *byte == b'/').any(ends_oddly) {
        return None;
    }
    by_segment(path, b'/', |segment| {
        let unspaced = cut(segment, b" ");
        if is_dots(unspaced) { unspaced } else { cut(segment, b" .") }
    })
}

fn cut<'s>(mut segment: &'s [u8], tail: &[u8]) -> &'s [u8] {
    while let [before @ .., last] = segment
        && tail.contains(last)
    {
        segment = before;
    }
    segment
}

fn is_dots(segment: &[u8]) -> bool {
    segment == b"." || segment == b".."
}

/// Replaces each segment of the path, if the path contains `mark`.
fn by_segment(path: &[u8], mark: u8, change: impl Fn(&[u8]) -> &[u8]) -> Option<Vec<u8>> {
    if !path.contains(&mark) {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    for (nth, segment) in path.split(|byte| *byte == b'/').enumerate() {
        if nth > 0 {
            out.push(b'/');
        }
        out.extend_from_slice(change(segment));
    }
    Some(out)
}

fn backslashes_turned(path: &[u8]) -> Option<Vec<u8>> {
    let turned = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    path.contains(&b'\\').then(|| path.iter().map(turned).collect())
}

fn resolved(path: &[u8]) -> Option<Vec<u8>> {
    may_be_unresolved(path).then(|| resolve(path, true)).filter(|resolved| resolved != path)
}

/// Whether `path` may have an empty segment or a dot segment: each begins after a slash.
fn may_be_unresolved(path: &[u8]) -> bool {
    path.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn ended(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#' | 0))?;
    Some(path[..end].into())
}

fn overlong_taken(path: &[u8]) -> Option<Vec<u8>> {
    if path.is_ascii() {
        return None;
    }
    let mut changed = false;
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let overlong = overlong(rest);
        changed |= overlong.is_some();
        let (byte, taken) = overlong.unwrap_or((*first, 1));
        out.push(byte);
        rest = if taken == 1 { after } else { &rest[taken..] };
    }
    changed.then_some(out)
}

/// Decodes the ASCII character that `bytes` encodes in two to six bytes, and returns that length.
fn overlong(bytes: &[u8]) -> Option<(u8, usize)> {
    let first = *bytes.first()?;
    // Decoders of RFC 2279 also take sequences of five and six bytes, which RFC 3629 has removed.
    let (length, bits) = match first {
        0xc0..=0xdf => (2, first & 0x1f),
        0xe0..=0xef => (3, first & 0x0f),
        0xf0..=0xf7 => (4, first & 0x07),
        0xf8..=0xfb => (5, first & 0x03),
        0xfc..=0xfd => (6, first & 0x01),
        _ => return None,
    };
    let mut value = u32::from(bits);
    for byte in bytes.get(1..length)? {
        if byte & 0xc0 != 0x80 {
            return None;
        }
        value = value << 6 | u32::from(byte & 0x3f);
    }
    u8::try_from(value).ok().filter(u8::is_ascii).map(|byte| (byte, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// Every reading of `path`, as `steps: path`.
    fn all(path: &str) -> Result<Vec<String>, TooManyReadings> {
        let mut seen = Vec::new();
        find(path, |path| {
            seen.push(String::from_utf8_lossy(path).into_owned());
            None::<()>
        })?;
        Ok(seen)
    }

    /// That `path` has this reading, and that it is not plain.
    fn check(path: &str, reading: &str) {
        let all = all(path).unwrap();
        assert!(all.iter().any(|known| known == reading), "{path}: {all:?}");
        assert!(!is_plain(path), "{path}");
    }

    #[test]
    fn a_plain_path_has_no_other_reading() {
        for path in
            ["/", "/ticks/btc", "/a.b/c", "/.well-known/x", "/a-b_c~d/", "/x!$&'()*+,:@=\"{}"]
        {
            assert!(is_plain(path), "{path}");
            assert_eq!(all(path), Ok(vec![]), "{path}");
        }
    }

    #[test]
    fn each_step_is_a_reading() {
        check("/admin;a=b/x;c", "/admin/x");
        check("/%2561dmin/x", "/admin/x");
        check("/admin%252fx", "/admin/x");
        check("/a/%c0%ae%c0%ae/b", "/b");
        check("/a%c0%afb", "/a/b");
        check("/a%e0%80%afb", "/a/b");
        check("/a%f0%80%80%afb", "/a/b");
        check("/a%fc%80%80%80%80%afb", "/a/b");
        check("/a/..%255cb", "/b");
        check("/a%c1%9cb", "/a/b");
        check("/admin./x", "/admin/x");
        check("/admin%20/x", "/admin/x");
        check("/admin.", "/admin");
        check("/admin%253fx", "/admin");
        check("/admin%2500/x", "/admin");
        check("/admin%2523", "/admin");
    }

    #[test]
    fn steps_combine_in_any_order() {
        check("/public/%252e%252e;/admin", "/admin");
        check("/public/..%255cadmin", "/admin");
        check("/admin.;x=y/", "/admin/");
        check("/x/%252e%252e%253b/admin", "/admin");
        check("/x/..%20/admin", "/admin");
        check("/x/..%20;v=1/admin", "/admin");
        check("/x/%25c0%25ae%25c0%25ae/admin", "/admin");
        check("/admin%3bx%252f..%252f..%252fpublic", "/admin");
        // A container cuts parameters, and does not decode twice.
        check("/admin;x/%252e%252e/public", "/admin/%2e%2e/public");
        // A proxy that cuts and resolves, before a server that decodes once more.
        check("/%2561dmin/a/%252e%252e%252f%252e%252e/..%20/z", "/admin/a/z");
        // Servers that keep `//` remove it with the `..` behind it.
        check("/%2561dmin;y/;/%252e%252e/x", "/admin/x");
        check("/%2561dmin;y/;/%252e%252e/x", "/x");
    }

    #[test]
    fn third_encoding_is_not_decoded() {
        let all = all("/%252561dmin/x").unwrap();
        assert_eq!(all, ["/%2561dmin/x", "/%61dmin/x"]);
    }

    #[test]
    fn reading_has_the_fewest_steps() {
        let admin = |path: &[u8]| (path == b"/admin/x").then_some(());
        let steps = |path| find(path, admin).unwrap().map(|(reading, ())| reading.steps);
        assert_eq!(steps("/admin;a/x"), Some(vec![ReadingStep::ParametersCut]));
        assert_eq!(steps("/%2561dmin/x"), Some(vec![ReadingStep::Decoded, ReadingStep::Decoded]));
        assert_eq!(
            steps("/admin.;a/x"),
            Some(vec![ReadingStep::ParametersCut, ReadingStep::Trimmed])
        );
        assert_eq!(steps("/public/x;a"), None);
    }

    /// The longest path that begins so, and so goes on.
    fn long(begin: &str, piece: &str) -> String {
        format!("{begin}{}", piece.repeat((8 * 1024 - begin.len()) / piece.len()))
    }

    /// How many readings of `path` are looked at, and how many bytes they have.
    fn work(path: &str) -> (usize, usize) {
        let mut looked_at = (0, 0);
        let _ = find(path, |path| {
            looked_at = (looked_at.0 + 1, looked_at.1 + path.len());
            None::<()>
        });
        looked_at
    }

    /// One of which each step makes something else.
    const ODD: &str = "a%25c0%25ae%255c%2520./b;x%253by%20.%3bz/%c0%ae%252e/";

    #[test]
    fn the_work_for_a_path_is_bounded() {
        for piece in ["%25", "%2525", "%252e%252e%253b/", "a;b/", "%c0%ae./", ODD, ";", "./"] {
            let (readings, bytes) = work(&long("/", piece));
            // Each is looked at with its empty segments and without.
            assert!(
                readings <= 2 * MAX_READINGS && bytes <= 2 * MAX_READINGS_BYTES,
                "{piece}: {readings}, {bytes}"
            );
        }
        // However deep it is encoded, a long path of one kind passes.
        for piece in
            ["%25", "%2525", "%252525", "a%20b/", "a;v=1/", "%25252525%c3%a9", "a%20b;v=1/"]
        {
            assert!(all(&long("/", piece)).is_ok(), "{piece}");
        }
        assert_eq!(all(&long("/", ODD)), Err(TooManyReadings));
        assert_eq!(all(&format!("/{ODD}")), Err(TooManyReadings));
        assert!(all("/a%2520b;x=1/v1./c%20/%c3%a9").is_ok_and(|all| all.len() > 8));
    }

    proptest! {
        #[test]
        fn a_path_is_plain_or_has_readings(path in "/([a./;]|%2[05e]|%c0%ae){0,8}") {
            let Ok(canonical) = super::super::canonical_path(&path) else { return Ok(()) };
            if is_plain(&canonical) {
                prop_assert_eq!(all(&canonical), Ok(vec![]));
            }
        }

        #[test]
        fn any_string_parses_without_a_panic(path in any::<String>()) {
            let _ = all(&format!("/{path}"));
        }
    }
}
