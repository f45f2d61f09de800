//! The manual pages and the completions in `docs/`: made of the commands, of the declarations of
//! keys and of the specification, and compared with the files.
//!
//! `SIDEGATE_WRITE_DOCS=1 cargo test --bin sidegate manual_pages` writes them. Nothing here is in
//! the program.

mod command_page;
mod file_page;
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap_complete::Shell;

use crate::cli::command;

/// The name of the program.
const PROGRAM: &str = "sidegate";

/// The version that the pages describe, and the day when it was made or begun. A page has no date
/// of its build, so that two builds make the same page.
const RELEASE: Release = Release { version: "0.1.0", date: "2026-12-01" };

struct Release {
    version: &'static str,
    date: &'static str,
}

/// Every generated file, by its path in `docs/`.
fn documents() -> BTreeMap<String, String> {
    let pages = command_page::all().into_iter().chain(file_page::all());
    let mut all: BTreeMap<_, _> = pages.map(|(name, page)| (format!("man/{name}"), page)).collect();
    // The names under which the shells look for them.
    let shells =
        [(Shell::Bash, "sidegate.bash"), (Shell::Zsh, "_sidegate"), (Shell::Fish, "sidegate.fish")];
    for (shell, name) in shells {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(), PROGRAM, &mut script);
        let script = String::from_utf8(script).expect("a script is text");
        all.insert(format!("completions/{name}"), script);
    }
    all
}

#[test]
fn pages_and_completions_are_those_of_the_program() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let made = documents();
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        for folder in ["man", "completions"] {
            let _ = fs::remove_dir_all(docs.join(folder));
            fs::create_dir_all(docs.join(folder)).unwrap();
        }
        return made.iter().for_each(|(path, text)| fs::write(docs.join(path), text).unwrap());
    }
    let written = ["man", "completions"].iter().flat_map(|folder| {
        let files = fs::read_dir(docs.join(folder)).into_iter().flatten();
        files.map(move |file| format!("{folder}/{}", file.unwrap().file_name().display()))
    });
    let remedy = "SIDEGATE_WRITE_DOCS=1 cargo test --bin sidegate manual_pages";
    for path in written {
        assert!(made.contains_key(&path), "docs/{path} is of no verb: {remedy}");
    }
    for (path, text) in &made {
        let written = fs::read_to_string(docs.join(path)).unwrap_or_default();
        let mut lines = written.lines().zip(text.lines());
        let differing = lines.find(|(written, made)| written != made);
        assert!(written == *text, "docs/{path}: {differing:?}; {remedy}");
    }
}

#[test]
fn release_of_the_pages_is_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(RELEASE.version, version, "set version and date of RELEASE, and write the pages");
}
