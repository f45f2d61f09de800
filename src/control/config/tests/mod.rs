//! Messages for everything that can be wrong in the files, and values of everything that is right.
//!
//! Each case writes a few files into a folder of its own and compares the text that people see.

mod again;
mod backends;
mod certificates;
mod client_auth;
mod common;
mod crowdsec;
mod defaults;
mod effective;
mod exceptions;
mod expectations;
mod feeds;
mod forwarded;
mod lists;
mod pem;
mod policies;
mod proxy_protocol;
mod reading;
mod schema;
mod settings;
mod sheets;
mod slips;
mod syntax;
mod traces;
mod typos;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use tempfile::TempDir;

use super::diagnostic::Diagnostic;
use super::source::Files;
use super::{LoadOptions, LoadedConfig, load_with_time};

/// A valid `sidegate.toml`, for [`POLICY`] as `policies/chat.toml`.
const SIDEGATE: &str = r#"schema = 1

[[listener]]
name = "public"
listen = "127.0.0.1:8443"
tls = false

[[route]]
name = "chat"
host = "*"
path = "/"
backend = "http://127.0.0.1:8080"
policy = "chat"
"#;

/// A valid policy that admits everyone.
const POLICY: &str = "schema = 1\nclient.allow = [\"any\"]\n";

/// Loads `files`, with [`SIDEGATE`] and [`POLICY`] unless they replace them, in the middle of 2026.
fn load(files: &[(&str, &str)]) -> (Result<LoadedConfig, Vec<Diagnostic>>, String) {
    let folder = write_all(files);
    let loaded = load_with_time(
        &mut Files::for_person(),
        &folder.path().join("sidegate.toml"),
        LoadOptions::default(),
        now(),
    );
    let found = text(&loaded, folder.path());
    if loaded.is_ok() {
        schema::expect_all_valid(folder.path());
    }
    (loaded, found)
}

/// Like [`load`], with the candidate of the policy `name` in the policy's place.
fn load_promoting(
    files: &[(&str, &str)],
    name: &str,
) -> (Result<LoadedConfig, Vec<Diagnostic>>, String) {
    let folder = write_all(files);
    let loaded = load_with_time(
        &mut Files::for_person(),
        &folder.path().join("sidegate.toml"),
        LoadOptions { promoted: Some(name), ..LoadOptions::default() },
        now(),
    );
    let found = text(&loaded, folder.path());
    (loaded, found)
}

/// The time of all tests: the middle of 2026.
fn now() -> Timestamp {
    "2026-07-01T00:00:00Z".parse().unwrap()
}

/// Writes `files`, with [`SIDEGATE`] and [`POLICY`] unless they replace them, into a folder.
fn write_all(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("sidegate.toml", SIDEGATE), ("policies/chat.toml", POLICY)].iter().chain(files)
    {
        write(&folder.path().join(name), text);
    }
    folder
}

/// The findings as people see them, with paths relative to `folder`.
fn text(loaded: &Result<LoadedConfig, Vec<Diagnostic>>, folder: &Path) -> String {
    let found = match loaded {
        Ok(loaded) => &loaded.warnings,
        Err(found) => found,
    };
    let text: Vec<_> = found.iter().map(Diagnostic::to_string).collect();
    text.join("\n\n").replace(&format!("{}/", folder.display()), "")
}

/// Writes `text`. Only its owner can read a key.
fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    let mode =
        if path.extension().is_some_and(|extension| extension == "key") { 0o600 } else { 0o644 };
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Checks that loading `files` reports exactly `expected`.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &str) {
    let (_, found) = load(files);
    assert_eq!(found, expected.trim_matches('\n'), "\n{found}\n");
}
