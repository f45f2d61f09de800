//! `docs/reference.md`: generated from the declarations of the keys.
//!
//! `SIDEGATE_WRITE_DOCS=1 cargo test --test it reference` rewrites it.

use std::fs;
use std::path::Path;

use sidegate::control::config::keys;

#[test]
fn reference_page_is_that_of_the_declarations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let made = keys::reference();
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(path, made).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(
        written == made,
        "docs/reference.md: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it reference"
    );
}
