//! Which file of `src` imports which, and the circles that they form.
//!
//! `tests/house` measures the same with a reader of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files of `src`, by the path of their module.
pub struct Modules<'s> {
    sources: &'s BTreeMap<PathBuf, String>,
    by_path: BTreeMap<Vec<String>, &'s Path>,
}

/// The files that each file imports.
pub type Imports<'s> = BTreeMap<&'s Path, BTreeSet<&'s Path>>;

impl<'s> Modules<'s> {
    pub fn new(sources: &'s BTreeMap<PathBuf, String>) -> Self {
        let by_path = sources.keys().map(|path| (module(path), path.as_path()));
        // `lib.rs` and `main.rs` are the roots, which everything may name.
        let by_path = by_path.filter(|(module, _)| *module != ["lib"] && *module != ["main"]);
        Modules { sources, by_path: by_path.collect() }
    }

    pub fn imports(&self) -> Imports<'s> {
        let tests = self.test_modules();
        let files = self.by_path.iter().filter(|(module, _)| !tests.contains(*module));
        files.map(|(module, path)| (*path, self.imports_of(module, path))).collect()
    }

    /// The modules that are declared behind `#[cfg(test)]`.
    fn test_modules(&self) -> BTreeSet<Vec<String>> {
        let mut found = BTreeSet::new();
        for (path, text) in self.sources {
            let lines: Vec<_> = text.lines().collect();
            for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
                if let Some((_, name)) = pair[1].trim_end_matches(';').rsplit_once("mod ") {
                    found.insert([module(path), vec![name.to_owned()]].concat());
                }
            }
        }
        found
    }

    fn imports_of(&self, own: &[String], path: &'s Path) -> BTreeSet<&'s Path> {
        let code = code(&self.sources[path]);
        let (uses, rest) = uses(&code);
        let mut named: Vec<_> = uses.iter().flat_map(|tree| leaves(tree)).collect();
        named.extend(paths(&rest));
        let found = named.iter().filter_map(|name| self.target(own, name));
        found.filter(|target| *target != path).collect()
    }

    /// The file that a path names, as seen from the module `own`.
    fn target(&self, own: &[String], path: &str) -> Option<&'s Path> {
        let words: Vec<_> = path.split("::").map(str::trim).collect();
        let child = [own, &[words[0].to_owned()]].concat();
        let (mut at, mut rest) = match words[0] {
            "crate" | "sidegate" => (&own[..0], &words[1..]),
            "self" => (own, &words[1..]),
            "super" => (own, &words[..]),
            _ if self.by_path.contains_key(&child) => (own, &words[..]),
            _ => return None,
        };
        while rest.first() == Some(&"super") {
            (at, rest) = (at.split_last()?.1, &rest[1..]);
        }
        let mut full = at.to_vec();
        full.extend(rest.iter().map(|word| (*word).to_owned()));
        // The longest part of the path that is a file: what follows is an item of it.
        (1..=full.len()).rev().find_map(|length| self.by_path.get(&full[..length]).copied())
    }
}

/// The path of a file's module: `a`, `b` for `a/b.rs` and for `a/b/mod.rs`.
fn module(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// A file's code without comments, strings and the unit tests at its foot.
fn code(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let foot = lines.iter().position(|line| line.starts_with("#[cfg(test)]"));
    let is_declaration = |at: usize| lines.get(at + 1).is_some_and(|line| line.ends_with(';'));
    let foot = foot.filter(|at| !is_declaration(*at)).unwrap_or(lines.len());
    let code = without_text(&lines[..foot].join("\n"));
    // The path of a visibility is no import.
    let mut parts = code.split("pub(in ");
    let first = parts.next().unwrap().to_owned();
    first + &parts.map(|part| part.split_once(')').unwrap().1).collect::<String>()
}

/// Code without comments and strings.
fn without_text(code: &str) -> String {
    let (mut kept, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(['"', '/']) {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        rest = if from.starts_with("//") {
            from.find('\n').map_or("", |end| &from[end..])
        } else if from.starts_with('/') || before.ends_with('\'') || before.ends_with("'\\") {
            &from[1..] // A division, or the character `"`.
        } else {
            let unhashed = before.trim_end_matches('#');
            let closing = format!("\"{}", &before[unhashed.len()..]);
            let is_raw = unhashed.ends_with('r');
            let end = if is_raw { from[1..].find(&closing) } else { end_of_string(&from[1..]) };
            end.map_or("", |end| &from[end + 2..])
        };
    }
    kept + rest
}

/// Where the quotation mark is that ends a string.
fn end_of_string(rest: &str) -> Option<usize> {
    let mut escaped = false;
    rest.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// The trees of the `use` declarations, and the code without them.
fn uses(code: &str) -> (Vec<&str>, String) {
    let (mut trees, mut kept, mut rest) = (Vec::new(), String::new(), code);
    while let Some(at) = rest.find("use ") {
        let is_word = rest[..at].chars().next_back().is_none_or(char::is_whitespace);
        let end = rest[at..].find(';').filter(|_| is_word);
        kept.push_str(&rest[..at]);
        match end {
            Some(end) => {
                trees.push(&rest[at + 4..at + end]);
                rest = &rest[at + end..];
            }
            None => rest = &rest[at + 4..],
        }
    }
    (trees, kept + rest)
}

/// The paths that a `use` tree names: `a::{b, c::{d}}` is `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((before, inside)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap();
        return vec![path.trim().to_owned()];
    };
    let inside = inside.rsplit_once('}').unwrap().0;
    let mut depth = 0;
    let parts = inside.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts.filter(|part| !part.trim().is_empty());
    parts.flat_map(leaves).map(|path| format!("{}{path}", before.trim())).collect()
}

/// Every path of at least two words in code.
fn paths(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c| !is_path(c)).map(|word| word.trim_end_matches(':'));
    words.filter(|word| word.contains("::")).map(str::to_owned).collect()
}

/// The circles of files that import each other, each with all its files.
pub fn circles<'s>(imports: &Imports<'s>) -> Vec<BTreeSet<&'s Path>> {
    let reached: BTreeMap<_, _> =
        imports.keys().map(|file| (*file, reached_from(file, imports))).collect();
    let mut found: Vec<BTreeSet<&Path>> = Vec::new();
    for (file, reach) in &reached {
        // A file that reaches itself is in a circle with all that reach it and that it reaches.
        if reach.contains(file) && !found.iter().any(|circle| circle.contains(file)) {
            let circle = reach.iter().filter(|other| reached[*other].contains(file));
            found.push(circle.copied().collect());
        }
    }
    found
}

fn reached_from<'s>(file: &Path, imports: &Imports<'s>) -> BTreeSet<&'s Path> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<_> = imports[file].iter().copied().collect();
    while let Some(next) = left.pop() {
        if reached.insert(next) {
            left.extend(imports.get(next).into_iter().flatten());
        }
    }
    reached.retain(|file| imports.contains_key(file));
    reached
}

fn sources_of(files: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect()
}

/// The files that the first of `files` imports.
fn imported(files: &[(&str, &str)]) -> Vec<String> {
    let sources = sources_of(files);
    let imports = Modules::new(&sources).imports();
    let found = imports[Path::new(files[0].0)].iter();
    found.map(|path| path.to_str().unwrap().to_owned()).collect()
}

#[test]
fn reader_finds_every_form_of_an_import() {
    for (code, target) in [
        ("use crate::b::Item;", "b.rs"),
        ("pub(crate) use crate::b;", "b.rs"),
        ("use crate::b::{Item, inner::{Deep, Other as Name}};", "b/inner.rs"),
        ("use crate::{\n    b::Item,\n    c,\n};", "b.rs"),
        ("use sidegate::b::Item as Other;", "b.rs"),
        ("use super::sibling::Item;", "a/sibling.rs"),
        ("use super::super::b::*;", "b.rs"),
        ("use super::*;", "a/mod.rs"),
        ("use self::child::Item;", "a/own/child.rs"),
        ("use child::Item;", "a/own/child.rs"),
        ("pub use child::Item;", "a/own/child.rs"),
        ("fn f() { crate::b::item(); }", "b.rs"),
        ("fn f() -> child::Item { todo!() }", "a/own/child.rs"),
        ("type T = Vec<super::sibling::Item>;", "a/sibling.rs"),
        ("const C: char = '\"'; use crate::b::Item;", "b.rs"),
        ("const C: &str = \"\\\"\"; type T = crate::b::Item;", "b.rs"),
        ("const C: &str = \"a // b\";\nuse crate::b::Item;", "b.rs"),
        ("// It's no \"string\nuse crate::b::Item;", "b.rs"),
        ("#[cfg(test)]\nmod tests;\nuse crate::b::Item;", "b.rs"),
    ] {
        let others = ["a/mod.rs", "a/sibling.rs", "a/own/child.rs", "b.rs", "b/inner.rs", "c.rs"];
        let files = [("a/own/mod.rs", code)].into_iter().chain(others.map(|other| (other, "")));
        let found = imported(&files.collect::<Vec<_>>());
        assert!(found.iter().any(|found| found == target), "{code:?}: {found:?}");
    }
}

#[test]
fn reader_takes_nothing_else_for_an_import() {
    for code in [
        "// use crate::b::Item;",
        "//! [`crate::b::Item`] does it.",
        "fn f() {} // crate::b::Item",
        "const C: &str = \"use crate::b::Item;\";",
        "const C: &str = r#\"\"use crate::b::Item;\"#;",
        "#[cfg(test)]\nmod tests {\n    use crate::b::Item;\n}",
        "mod child;",
        "pub(in crate::b) fn f() {}",
        "use std::b::Item;",
        "use other::b::Item;",
        "fn f() { b.item(); a::item(); }",
        "use crate::Item;",
        "use self::Item;",
    ] {
        let found = imported(&[("a.rs", code), ("a/child.rs", ""), ("b.rs", "")]);
        assert!(found.is_empty(), "{code:?}: {found:?}");
    }
}

#[test]
fn circle_is_found_however_many_files_form_it() {
    let files = [
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::a::A;\nuse crate::d::D;"),
        ("d.rs", ""),
        ("e/mod.rs", "mod child;\nuse child::Child;"),
        ("e/child.rs", "use super::E;"),
        ("f.rs", "use crate::a::A;"),
        ("g.rs", "#[cfg(test)]\nmod tests;"),
        ("g/tests.rs", "use super::*;"),
    ];
    let sources = sources_of(&files);
    let found = circles(&Modules::new(&sources).imports());
    let expected = [vec!["a.rs", "b.rs", "c.rs"], vec!["e/child.rs", "e/mod.rs"]];
    let expected = expected.map(|circle| circle.into_iter().map(Path::new).collect());
    assert_eq!(found, expected);
}
