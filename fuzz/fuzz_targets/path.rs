//! A path and the steps of a server that reads it otherwise: what one policy permits, no reading leads to another.

#![no_main]

#[path = "../readings.rs"]
mod readings;

use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use sidegate::policy::network::Client;
use sidegate::policy::request::Request;
use sidegate::snapshot::Snapshot;

use self::readings::{read, resolved, snapshot};

/// An open route, and strict ones beside it.
const ROUTES: [(&str, &str, &str, &str); 5] = [
    ("root", "/", "open", ""),
    ("public", "/public/", "open", ""),
    ("admin", "/admin/", "shut", ""),
    ("exact", "/admin", "shut", ""),
    ("deep", "/a/b/", "shut", ""),
];

// The first byte says how many steps there are, then they come, then the path.
fuzz_target!(|data: &[u8]| {
    static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
    let [count, rest @ ..] = data else { return };
    let Some((steps, path)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let Ok(path) = str::from_utf8(path) else { return };
    let Ok(Ok(request)) = Request::of_url(&format!("http://localhost/{path}"), None, None) else { return };
    let snapshot = SNAPSHOT.get_or_init(|| snapshot(&ROUTES));
    let verdict = snapshot.judge(Client::new([192, 0, 2, 1].into()), &request, None, Timestamp::UNIX_EPOCH).verdict;
    let Ok(permit) = verdict else { return };
    let path = request.path.canonical().expect("no route passes it as it is");
    let read = resolved(&read(path.as_bytes(), steps, 1));
    if let Some(other) = snapshot.routes.find_decoded("localhost", &read) {
        let (own, other) = (&permit.route().policy.name, &other.policy.name);
        assert_eq!(own, other, "{path} read as {}", String::from_utf8_lossy(&read));
    }
});
