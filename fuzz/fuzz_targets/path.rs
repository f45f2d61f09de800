//! A path, and the steps of a server that reads it otherwise: no reading leads a path permitted by
//! one policy to another.

#![no_main]

#[path = "../readings.rs"]
mod readings;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sidegate::snapshot::Snapshot;

use self::readings::{Permitted, permitted, read, resolved, snapshot};

/// An open route, and strict ones beside it.
const ROUTES: [(&str, &str, &str, &str); 5] = [
    ("root", "/", "open", ""),
    ("public", "/public/", "open", ""),
    ("admin", "/admin/", "shut", ""),
    ("exact", "/admin", "shut", ""),
    ("deep", "/a/b/", "shut", ""),
];

fuzz_target!(|data: &[u8]| {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    let snapshot = SNAPSHOT.get_or_init(|| snapshot(&ROUTES));
    let Some(Permitted { steps, path, request, permit }) = permitted(data, snapshot) else {
        return;
    };
    let judged = request.path.canonical().expect("no route passes it as it is");
    let read = resolved(&read(judged.as_bytes(), steps, 1));
    if let Some(other) = snapshot.routes.find_decoded("localhost", &read) {
        let (own, other) = (&permit.route().policy.name, &other.policy.name);
        assert_eq!(own, other, "{path} read as {}", String::from_utf8_lossy(&read));
    }
});
