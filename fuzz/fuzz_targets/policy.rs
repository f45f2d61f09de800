//! The files: any content of `sidegate.toml` or of a policy is loaded, or rejected with full
//! diagnostics.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sidegate::control::config;
use sidegate::control::config::source::Files;
use tempfile::TempDir;

/// A `sidegate.toml` with which nothing is wrong, and a policy for it.
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
const POLICY: &str = "schema = 1\nclient.allow = [\"any\"]\n";

// The first byte says which of the two files the rest is.
fuzz_target!(|data: &[u8]| {
    let [which, text @ ..] = data else { return };
    let (settings, policy) =
        if which & 1 == 0 { (SIDEGATE.as_bytes(), text) } else { (text, POLICY.as_bytes()) };
    let folder = folder();
    fs::write(folder.join("sidegate.toml"), settings).expect("a folder to write to");
    fs::write(folder.join("policies/chat.toml"), policy).expect("a folder to write to");
    let told = match config::load(&mut Files::new(), &folder.join("sidegate.toml"), None) {
        Ok(loaded) => loaded.warnings,
        Err(found) => {
            assert!(found.iter().any(|diagnostic| diagnostic.is_error()), "rejected for nothing");
            found
        }
    };
    for diagnostic in told {
        assert!(!diagnostic.to_string().is_empty());
    }
});

/// One folder for the whole run.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for files in the making");
        fs::create_dir_all(folder.path().join("policies/lists")).expect("a folder to write to");
        folder
    });
    folder.path().to_owned()
}
