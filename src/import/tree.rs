//! nginx' directives as a tree, with each `include` expanded.
//!
//! Every directive gets a number in reading order, by which the report finds its line. This module
//! knows blocks and `include`, and the meaning of no other directive.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, glob_with};

use crate::import::lexer::{self, Statement, Terminator};

/// Maximum nesting of blocks. nginx itself is limited only by its stack; no configuration nests so
/// deeply by intent.
const MAX_DEPTH: usize = 32;

/// A place in nginx' files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigLocation {
    /// Path of the file, usable from the current directory.
    pub file: Arc<str>,
    /// Line number, counted from 1.
    pub line: usize,
}

impl fmt::Display for ConfigLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An error in nginx' files; nginx would refuse to start with it, too.
#[derive(Debug)]
pub struct ImportError {
    /// File and line of the error.
    pub place: ConfigLocation,
    /// Description in one sentence, without its full stop.
    pub what: String,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Number of a directive in reading order.
pub type DirectiveId = usize;

/// One directive, with its block if it has one.
#[derive(Debug)]
pub struct Directive {
    /// Number in reading order; the index into [`Tree::lines`].
    pub id: DirectiveId,
    /// The first word, such as `listen`.
    pub name: String,
    /// The words after the name.
    pub words: Vec<String>,
    /// The directives of its block. `None` means that it ends with `;`.
    pub block: Option<Vec<Directive>>,
}

impl Directive {
    /// Returns the first word after the name; empty if there is none.
    pub fn first(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Returns the directives of its block; empty if it has none.
    pub fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// A directive as the report shows it.
#[derive(Debug)]
pub struct ReportLine {
    /// File and line of its first word.
    pub place: ConfigLocation,
    /// The directive as written, joined into one line.
    pub text: String,
    /// The first word, such as `listen`.
    pub name: String,
    /// The directives whose blocks enclose it, the outermost first.
    pub within: Vec<DirectiveId>,
}

/// Everything that was read from the main file and its includes.
#[derive(Debug)]
pub struct Tree {
    /// The main file's directives; those of an included file follow its `include`.
    pub directives: Vec<Directive>,
    /// The lines of all directives, indexed by [`DirectiveId`].
    pub lines: Vec<ReportLine>,
    /// The files that each `include` brought in, by its number.
    pub included: BTreeMap<DirectiveId, Vec<Arc<str>>>,
    /// The directory of the main file, to which relative paths refer.
    pub folder: PathBuf,
}

impl Tree {
    /// Returns the place of the directive `id`.
    pub fn place(&self, id: DirectiveId) -> &ConfigLocation {
        &self.lines[id].place
    }

    /// Returns the fault `what` at the place of the directive `id`.
    pub fn fault(&self, id: DirectiveId, what: impl Into<String>) -> ImportError {
        ImportError { place: self.place(id).clone(), what: what.into() }
    }
}

/// Reads `file` and everything that it includes.
///
/// # Errors
/// Fails on a file that can't be read or that nginx couldn't parse, on an include cycle, and on an
/// `include` of a missing file.
pub fn read(file: &Path) -> Result<Tree, ImportError> {
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let tree =
        Tree { directives: Vec::new(), lines: Vec::new(), included: BTreeMap::new(), folder };
    let mut reader = TreeReader { tree, files: Vec::new(), within: Vec::new() };
    let directives = reader.file(file, None)?;
    Ok(Tree { directives, ..reader.tree })
}

struct TreeReader {
    tree: Tree,
    /// Canonical paths of the files being read, the main one first; used to detect include cycles.
    files: Vec<PathBuf>,
    within: Vec<DirectiveId>,
}

impl TreeReader {
    /// Reads the directives of `file`, which the directive `include` names. `None` means the main
    /// file.
    fn file(
        &mut self,
        file: &Path,
        include: Option<DirectiveId>,
    ) -> Result<Vec<Directive>, ImportError> {
        let shown: Arc<str> = file.display().to_string().into();
        let at = |line| ConfigLocation { file: Arc::clone(&shown), line };
        let asked = |reader: &TreeReader| include.map_or(at(1), |id| reader.tree.place(id).clone());
        let bytes = fs::read(file).map_err(|error| ImportError {
            place: asked(self),
            what: format!("{shown} cannot be read: {error}"),
        })?;
        // Two names of one file are one file: a symbolic link must not hide a cycle.
        let same = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        if self.files.contains(&same) {
            return Err(ImportError {
                place: asked(self),
                what: format!("{shown} includes itself"),
            });
        }
        let statements = lexer::statements(&bytes)
            .map_err(|fault| ImportError { place: at(fault.line), what: fault.what })?;
        self.files.push(same);
        let mut statements = statements.into_iter();
        let directives = self.block(&mut statements, &shown)?;
        // Only files that are being read count: the same file included twice in a row is no cycle.
        self.files.pop();
        Ok(directives)
    }

    /// Reads directives up to the `}` of the current block, or to the end of the file.
    fn block(
        &mut self,
        statements: &mut impl Iterator<Item = Statement>,
        file: &Arc<str>,
    ) -> Result<Vec<Directive>, ImportError> {
        let mut directives = Vec::new();
        while let Some(Statement { line, words, end }) = statements.next() {
            let mut words = words.into_iter();
            let Some(name) = words.next() else { break }; // a `}`
            let words: Vec<_> = words.collect();
            let place = ConfigLocation { file: Arc::clone(file), line };
            if self.within.len() >= MAX_DEPTH {
                return Err(ImportError {
                    place,
                    what: format!("blocks nested deeper than {MAX_DEPTH}"),
                });
            }
            let id = self.note(place, &name, &words);
            let block = match end {
                Terminator::Open => {
                    self.within.push(id);
                    let block = self.block(statements, file)?;
                    self.within.pop();
                    Some(block)
                }
                Terminator::Semicolon | Terminator::Close => None,
            };
            let is_include = name == "include" && block.is_none();
            let pattern = words.first().filter(|_| is_include && words.len() == 1).cloned();
            directives.push(Directive { id, name, words, block });
            match pattern {
                Some(pattern) => directives.extend(self.include(id, &pattern)?),
                None if is_include => return Err(self.tree.fault(id, "`include` takes one path")),
                None => {}
            }
        }
        Ok(directives)
    }

    fn note(&mut self, place: ConfigLocation, name: &str, words: &[String]) -> DirectiveId {
        let text = std::iter::once(name)
            .chain(words.iter().map(String::as_str))
            .map(shown)
            .collect::<Vec<_>>()
            .join(" ");
        self.tree.lines.push(ReportLine {
            place,
            text,
            name: name.to_owned(),
            within: self.within.clone(),
        });
        self.tree.lines.len() - 1
    }

    fn include(&mut self, id: DirectiveId, pattern: &str) -> Result<Vec<Directive>, ImportError> {
        // nginx resolves against the folder of its main file, not of the file that includes.
        let path = self.tree.folder.join(pattern);
        // nginx calls glob(3) for these characters alone; any other name has to exist.
        let files = if pattern.contains(['*', '?', '[']) {
            let found = matching(&path).map_err(|what| self.tree.fault(id, what))?;
            // A pattern without matches is no error in nginx, either.
            found.into_iter().filter(|path| !path.is_dir()).collect()
        } else {
            vec![path]
        };
        let names = files.iter().map(|file| file.display().to_string().into()).collect();
        self.tree.included.insert(id, names);
        let mut directives = Vec::new();
        for file in files {
            directives.extend(self.file(&file, Some(id))?);
        }
        Ok(directives)
    }
}

/// Returns the matching paths in byte order, as glob(3) does.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let pattern = pattern.to_str().ok_or("this path is not UTF-8")?;
    let found = glob_with(pattern, options)
        .map_err(|error| format!("{pattern} is not a pattern: {error}"))?;
    let mut paths = found.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    paths.sort();
    Ok(paths)
}

/// Formats a word so that it could appear in a file, on one line.
fn shown(word: &str) -> String {
    let plain = !word.is_empty()
        && !word.contains(|c: char| {
            c.is_whitespace() || c.is_control() || matches!(c, ';' | '"' | '\'')
        });
    if plain { word.to_owned() } else { format!("{word:?}") }
}

/// Parses `text` as the content of a file named `n`.
#[cfg(test)]
pub fn parse(text: &str) -> Result<Tree, ImportError> {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("n"), text).unwrap();
    read(&folder.path().join("n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use tempfile::TempDir;

    /// The tree of `files`, the first of which is the main one, and the folder they are in.
    fn read_all(files: &[(&str, &str)]) -> (TempDir, Result<Tree, ImportError>) {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = read(&folder.path().join(files[0].0));
        (folder, tree)
    }

    /// Every line as `file:line text`, relative to the folder.
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let (folder, tree) = read_all(files);
        let bare = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        let lines: Vec<_> = match tree {
            Ok(tree) => tree
                .lines
                .iter()
                .map(|line| bare(format!("{} {}", line.place, line.text)))
                .collect(),
            Err(fault) => vec![bare(format!("! {fault}"))],
        };
        assert_eq!(lines, expected);
    }

    #[test]
    fn includes_are_relative_to_the_main_file() {
        check(
            &[
                ("nginx.conf", "http {\n include sites/a.conf;\n gzip on;\n}"),
                ("sites/a.conf", "include b.conf;"),
                ("b.conf", "x \"y z\";"),
            ],
            &[
                "nginx.conf:1 http",
                "nginx.conf:2 include sites/a.conf",
                "sites/a.conf:1 include b.conf",
                "b.conf:1 x \"y z\"",
                "nginx.conf:3 gzip on",
            ],
        );
    }

    #[test]
    fn include_pattern_reads_files_in_order() {
        check(
            &[
                ("n", "include d/*.conf; include e/*.conf;"),
                ("d/b.conf", "b;"),
                ("d/a.conf", "a;"),
                ("d/.c.conf", "c;"),
                ("d/x", "x;"),
            ],
            &["n:1 include d/*.conf", "d/a.conf:1 a", "d/b.conf:1 b", "n:1 include e/*.conf"],
        );
    }

    #[test]
    fn one_file_may_be_included_twice_but_not_by_itself() {
        check(
            &[("n", "include a; include a;"), ("a", "x;")],
            &["n:1 include a", "a:1 x", "n:1 include a", "a:1 x"],
        );
        check(&[("n", "a;\ninclude b;"), ("b", "\ninclude n;")], &["! b:2: n includes itself"]);
    }

    #[test]
    fn unreadable_include_names_its_directive() {
        check(
            &[("n", "a;\ninclude b;")],
            &["! n:2: b cannot be read: No such file or directory (os error 2)"],
        );
        check(
            &[("n", "include b;"), ("b", "\nx")],
            &["! b:2: unexpected end of file, expecting \";\" or \"}\""],
        );
        check(&[("n", "include;")], &["! n:1: `include` takes one path"]);
        check(
            &[("n", &format!("{}{}", "a { ".repeat(33), "}".repeat(33)))],
            &["! n:1: blocks nested deeper than 32"],
        );
    }

    #[test]
    fn a_directive_knows_the_blocks_that_it_is_in() {
        let (_folder, tree) = read_all(&[("n", "http { server { listen 80; } gzip on; }")]);
        let within: Vec<_> = tree.unwrap().lines.iter().map(|line| line.within.clone()).collect();
        assert_eq!(within, [vec![], vec![0], vec![0, 1], vec![0]]);
    }
}
