//! Reports the outcome of each nginx directive, one line each, as text or as JSON.
//!
//! Orders and prints what the other modules noted. For a directive without a note, the report only
//! knows whether Sidegate needs it.

pub mod silent;
mod word;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use self::word::DirectiveOutcome;
use crate::import::tree::{DirectiveId, ReportLine, Tree};

/// The attempts that a note concerns, in nginx' own terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteScope {
    /// Number of the configuration that they reach. `None` means any.
    pub config: Option<usize>,
    /// A `server_name`. `_` means every host that no other name matches; `*` means every host.
    pub host: String,
    /// A `location` as written: `/a/`, `= /a`, `~ ^/a`.
    pub path: String,
    /// Locations below `path` that the note excludes.
    pub but: Vec<String>,
}

impl NoteScope {
    /// Returns the scope of every attempt.
    pub fn everything() -> NoteScope {
        NoteScope { config: None, host: "*".into(), path: "/".into(), but: Vec::new() }
    }
}

/// One note about one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    word: DirectiveOutcome,
    text: String,
    scopes: Vec<NoteScope>,
}

/// Paths that nginx passed on and Sidegate refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedPaths {
    /// The host, in the form of [`NoteScope::host`].
    pub host: String,
    /// The path, in the form of [`NoteScope::path`].
    pub path: String,
    /// The directive by which nginx passed them on.
    pub by: DirectiveId,
}

/// All notes by directive, and all closed paths.
#[derive(Debug, Default)]
pub struct ReportNotes {
    notes: BTreeMap<DirectiveId, Vec<Note>>,
    closed: Vec<ClosedPaths>,
}

impl ReportNotes {
    /// Adds the note `text` to the directive `id`, without attempts.
    pub fn add(&mut self, id: DirectiveId, word: DirectiveOutcome, text: impl Into<String>) {
        self.add_scoped(id, word, text, Vec::new());
    }

    /// Adds the note `text` to the directive `id`, because of which the attempts `scopes` may end
    /// differently. Equal notes merge their scopes.
    pub fn add_scoped(
        &mut self,
        id: DirectiveId,
        word: DirectiveOutcome,
        text: impl Into<String>,
        scopes: Vec<NoteScope>,
    ) {
        let notes = self.notes.entry(id).or_default();
        let text = text.into();
        match notes.iter_mut().find(|note| note.word == word && note.text == text) {
            Some(note) => note.scopes.extend(scopes),
            None => notes.push(Note { word, text, scopes }),
        }
    }

    /// Records closed paths; duplicates are ignored.
    pub fn closed(&mut self, closed: ClosedPaths) {
        if !self.closed.contains(&closed) {
            self.closed.push(closed);
        }
    }

    /// Returns how many directives have an OPENS note.
    pub fn opens(&self, tree: &Tree) -> usize {
        let opens = |notes: &[Note]| notes.iter().any(|note| note.word == DirectiveOutcome::Opens);
        self.lines(tree).iter().filter(|(_, notes)| opens(notes)).count()
    }

    /// Returns the closed paths, each with the directives that passed them on.
    fn closed_paths(&self) -> Vec<(&ClosedPaths, Vec<DirectiveId>)> {
        let mut shut = Vec::<(&ClosedPaths, Vec<DirectiveId>)>::new();
        for closed in &self.closed {
            let same = |(one, _): &&mut (&ClosedPaths, _)| {
                (&one.host, &one.path) == (&closed.host, &closed.path)
            };
            match shut.iter_mut().find(same) {
                Some((_, by)) => by.push(closed.by),
                None => shut.push((closed, vec![closed.by])),
            }
        }
        shut
    }

    /// Returns every directive with its notes, the gravest first. A directive without notes gets
    /// the verdict of `silent`.
    fn lines<'t>(&self, tree: &'t Tree) -> Vec<(&'t ReportLine, Vec<Note>)> {
        let all = tree.lines.iter().enumerate();
        all.filter_map(|(id, line)| {
            let mut notes = match self.notes.get(&id) {
                Some(notes) => notes.clone(),
                None => {
                    let (word, text) = silent::classify(tree, id)?;
                    vec![Note { word, text: text.into(), scopes: Vec::new() }]
                }
            };
            // A stable sort: equally grave notes keep the order in which they were added.
            notes.sort_by_key(|note| std::cmp::Reverse(note.word));
            Some((line, notes))
        })
        .collect()
    }
}

/// Renders the report for people: closed paths, directives that open or close something, all other
/// directives, and a count per word.
pub fn text(tree: &Tree, notes: &ReportNotes) -> String {
    let mut out = closed(tree, notes);
    let lines = notes.lines(tree);
    let word = |notes: &[Note]| notes.first().map_or(DirectiveOutcome::Dropped, |note| note.word);
    let width = lines
        .iter()
        .map(|(line, _)| line.place.to_string().chars().count())
        .max()
        .unwrap_or_default();
    let grave =
        |notes: &[Note]| matches!(word(notes), DirectiveOutcome::Opens | DirectiveOutcome::Closes);
    let (first, rest): (Vec<_>, Vec<_>) = lines.iter().partition(|(_, notes)| grave(notes));
    for part in [first, rest].iter().filter(|part| !part.is_empty()) {
        for (line, notes) in part {
            let texts: Vec<_> = notes.iter().map(|note| note.text.as_str()).collect();
            let (place, word) = (line.place.to_string(), word(notes).shown());
            out.push_str(&format!(
                "{place:width$}  {word:10}  {}: {}\n",
                line.text,
                texts.join("; ")
            ));
        }
        out.push('\n');
    }
    for one in DirectiveOutcome::ALL {
        let count = lines.iter().filter(|(_, notes)| word(notes) == one).count();
        if count > 0 {
            out.push_str(&format!("{count:5}  {:10}  {}\n", one.shown(), one.meaning()));
        }
    }
    out
}

/// Renders a line for each closed path, with the locations that it shuts.
fn closed(tree: &Tree, notes: &ReportNotes) -> String {
    let mut out = String::new();
    for (ClosedPaths { host, path, .. }, by) in notes.closed_paths() {
        let shuts = by.iter().map(|id| format!("`{}` ({})", tree.lines[*id].text, tree.place(*id)));
        let shuts: Vec<_> = shuts.collect();
        let host = if host == "_" { "every other host" } else { host };
        let word = DirectiveOutcome::Closes.shown();
        out.push_str(&format!("{word}  {path} on {host}: shuts {}\n", shuts.join(", ")));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// Renders the report as JSON; `configs` are the configurations made, `written` all files.
pub fn json(tree: &Tree, notes: &ReportNotes, configs: &[Value], written: &[String]) -> Value {
    let lines: Vec<_> =
        notes.lines(tree).iter().map(|(line, notes)| line_json(line, notes)).collect();
    json!({ "lines": lines, "configs": configs, "written": written })
}

fn line_json(line: &ReportLine, notes: &[Note]) -> Value {
    let scope = |scope: &NoteScope| {
        let NoteScope { config, host, path, but } = scope;
        json!({ "config": config, "host": host, "path": path, "but": but })
    };
    let note = |note: &Note| {
        let scopes: Vec<_> = note.scopes.iter().map(scope).collect();
        json!({ "word": note.word.key(), "text": note.text, "attempts": scopes })
    };
    json!({
        "file": &*line.place.file,
        "line": line.place.line,
        "directive": line.text,
        "word": notes.first().map_or(DirectiveOutcome::Dropped, |note| note.word).key(),
        "notes": notes.iter().map(note).collect::<Vec<_>>(),
    })
}
