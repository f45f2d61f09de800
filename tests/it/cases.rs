//! `docs/spec/cases.md`: each id that a test cites has a row, and each row names its tests.
//!
//! After a change of a name or an id, `SIDEGATE_WRITE_DOCS=1 cargo test --test it -- cases` writes
//! the last column anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

use crate::spec::rows;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` whose name ends in `.extension`, as a path from the root.
fn files(folder: &str, extension: &str) -> BTreeSet<PathBuf> {
    let (mut folders, mut found) = (vec![root().join(folder)], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|of| of == extension) {
                found.insert(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found
}

/// The tests that cite each id, as `FILE::NAME`.
#[derive(Default)]
struct Citations(BTreeMap<String, BTreeSet<String>>);

impl Citations {
    fn add(&mut self, ids: &[String], file: &Path, name: Option<&str>) {
        let name = name.map(|name| format!("::{name}")).unwrap_or_default();
        for id in ids {
            self.0.entry(id.clone()).or_default().insert(format!("{}{name}", file.display()));
        }
    }

    /// In Rust, a comment that begins with ids is about the next function.
    fn read_rust(&mut self, file: &Path, text: &str) {
        let comment = Regex::new(
            r"^\s*// ((?:C-[A-Z0-9]+-\d\d|F\d\d)(?:, (?:C-[A-Z0-9]+-\d\d|F\d\d))*)(?:$|[:,])",
        )
        .unwrap();
        let function = Regex::new(r"^\s*(?:async )?fn (\w+)").unwrap();
        let mut ids: Vec<String> = Vec::new();
        for line in text.lines() {
            if let Some(found) = comment.captures(line) {
                ids.extend(found[1].split(", ").map(str::to_owned));
            } else if let Some(found) = function.captures(line) {
                self.add(&std::mem::take(&mut ids), file, Some(&found[1]));
            }
        }
        assert!(ids.is_empty(), "{}: {ids:?} stand above no function", file.display());
    }

    /// In Python, the first line of a docstring is about the function that it is in, or the file.
    fn read_python(&mut self, file: &Path, text: &str) {
        let id = Regex::new(r"\b(?:C-[A-Z0-9]+-\d\d|F\d\d)\b").unwrap();
        let mut name = None;
        for line in text.lines() {
            if let Some(rest) = line.trim_start().strip_prefix("def ") {
                name = rest.split('(').next();
            } else if line.contains("\"\"\"") {
                let ids: Vec<_> = id.find_iter(line).map(|id| id.as_str().to_owned()).collect();
                self.add(&ids, file, name);
            }
        }
    }
}

fn citations() -> Citations {
    let mut citations = Citations::default();
    let rust = ["src", "tests/it"].into_iter().flat_map(|folder| files(folder, "rs"));
    for file in rust {
        citations.read_rust(&file, &fs::read_to_string(root().join(&file)).unwrap());
    }
    for file in files("tests/system", "py") {
        citations.read_python(&file, &fs::read_to_string(root().join(&file)).unwrap());
    }
    citations
}

#[test]
fn cases_page_lists_the_tests_of_each_cited_id() {
    let path = root().join("docs/spec/cases.md");
    let written = fs::read_to_string(&path).unwrap();
    let citations = citations();
    let mut listed = BTreeSet::new();
    let made: String = written
        .split_inclusive('\n')
        .map(|line| match rows(line).first().map(|row| row[..2].to_vec()).as_deref() {
            Some([id, case]) if *id != "id" => {
                assert!(listed.insert((*id).to_owned()), "{id} has two rows");
                let tests = citations.0.get(*id).unwrap_or_else(|| panic!("no test cites {id}"));
                let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
                format!("| {id} | {case} | {} |\n", tests.join(", "))
            }
            _ => line.to_owned(),
        })
        .collect();
    let cited: BTreeSet<_> = citations.0.keys().cloned().collect();
    assert_eq!(listed, cited, "rows and cited ids differ");
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(path, &made).unwrap();
    }
    let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(written == made, "{differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it -- cases");
}

#[test]
fn every_cited_document_exists() {
    let shouted =
        Regex::new(r"\b(?:FORMATS|SEMANTICS|DESIGN|FIELD-NOTES)\b|\(STYLE|\(CASES").unwrap();
    let page = Regex::new(r"docs/[a-z0-9/_-]+\.md").unwrap();
    let rust = ["src", "tests/it", "benches", "fuzz/fuzz_targets"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"));
    for file in rust.filter(|file| !file.ends_with("cases.rs")) {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            assert!(!shouted.is_match(line), "{}: {line}", file.display());
            for cited in page.find_iter(line) {
                let text = fs::read_to_string(root().join(cited.as_str()));
                let text = text.unwrap_or_else(|_| panic!("{}: {line}", file.display()));
                // A section is named as in (`docs/spec/wire.md`, "Close codes").
                let Some(rest) = line[cited.end()..].strip_prefix("`, \"") else { continue };
                let title = rest.split('"').next().unwrap();
                assert!(
                    text.contains(&format!("# {title}\n")),
                    "{}: no section {title}",
                    file.display()
                );
            }
        }
    }
}
