//! A path as it was sent, and the steps of a server that reads it otherwise: where a route passes
//! paths unchanged, no reading of a permitted path lies outside the route.

#![no_main]

#[path = "../readings.rs"]
mod readings;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sidegate::policy::request::target::encoded;
use sidegate::snapshot::Snapshot;
use sidegate::snapshot::route::PathForwarding;

use self::readings::{Permitted, permitted, read, resolved, snapshot};

/// Routes that pass paths as they are, and strict ones around and beside them.
const ROUTES: [(&str, &str, &str, &str); 6] = [
    ("root", "/", "shut", ""),
    ("api", "/api/", "open", "paths = 'as-is'"),
    ("apis", "/apis/", "shut", ""),
    ("exact", "/api", "shut", ""),
    ("deep", "/a/b/", "open", "paths = 'as-is'"),
    ("beside", "/a/bc", "shut", ""),
];

fuzz_target!(|data: &[u8]| {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    let snapshot = SNAPSHOT.get_or_init(|| snapshot(&ROUTES));
    let Some(Permitted { steps, path, request, permit }) = permitted(data, snapshot) else {
        return;
    };
    let route = permit.route();
    let forwarded = route.forwarded(&request.path);
    if route.paths == PathForwarding::Canonical {
        return assert_eq!(
            Some(forwarded),
            request.path.canonical(),
            "only canonical paths go there"
        );
    }
    let sent = format!("/{}", path.split('?').next().unwrap_or_default());
    let sent = encoded(sent.as_bytes()).map_or(sent, |(sent, _)| sent);
    assert_eq!(forwarded, sent, "it is passed as it was sent");
    let is_below = |path: &[u8]| path.starts_with(route.path.as_bytes());
    // Servers that never decode, ignore case, or keep empty segments.
    let read = read(forwarded.as_bytes(), steps, 0);
    let folded = resolved(&read.to_ascii_lowercase());
    let kept = with_empty_segments(&read);
    let shown = String::from_utf8_lossy(&read);
    assert!(is_below(&read) && is_below(&folded) && is_below(&kept), "{forwarded} read as {shown}");
});

/// Without dot segments; `..` removes an empty segment like any other.
fn with_empty_segments(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut is_folder = false;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        is_folder = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let tail: &[u8] = if is_folder && !kept.is_empty() { b"/" } else { b"" };
    [b"/", &kept.join(&b'/')[..], tail].concat()
}
