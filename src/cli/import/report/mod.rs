//! What became of each of nginx' directives: one line each, for people or as JSON.
//!
//! It orders and prints what the other rooms noted. Of a directive that nobody noted anything about it knows only
//! whether Sidegate needs it.

mod silent;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::import::tree::{Id, Line, Tree};

/// What became of a directive, the mildest first. Each word stands at the same place in every line, and stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Sidegate does it by itself, or has nothing that could be set so.
    Needless,
    /// It is written down, and means the same.
    Carried,
    /// It is left out. Nobody is admitted or refused otherwise for that.
    Dropped,
    /// It is carried over, or left out, and something is otherwise than it was.
    Differs,
    /// Sidegate refuses what nginx let through.
    Closes,
    /// It is carried over as nginx acted on it, which was probably not what was meant.
    FailsOpen,
    /// Sidegate may let through what nginx refused.
    Opens,
}

impl Word {
    const ALL: [Word; 7] =
        [Word::Opens, Word::FailsOpen, Word::Closes, Word::Differs, Word::Dropped, Word::Carried, Word::Needless];

    /// As people read it; loud where somebody has to look.
    const fn shown(self) -> &'static str {
        match self {
            Word::Needless => "needless",
            Word::Carried => "carried",
            Word::Dropped => "dropped",
            Word::Differs => "DIFFERS",
            Word::Closes => "CLOSES",
            Word::FailsOpen => "FAILS OPEN",
            Word::Opens => "OPENS",
        }
    }

    /// As programs read it.
    const fn key(self) -> &'static str {
        match self {
            Word::Needless => "needless",
            Word::Carried => "carried",
            Word::Dropped => "dropped",
            Word::Differs => "differs",
            Word::Closes => "closes",
            Word::FailsOpen => "fails_open",
            Word::Opens => "opens",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Word::Needless => "Sidegate does it by itself, or has nothing like it to set",
            Word::Carried => "means the same",
            Word::Dropped => "left out; nobody is admitted or refused otherwise for that",
            Word::Differs => "not quite as it was",
            Word::Closes => "Sidegate refuses what nginx let through",
            Word::FailsOpen => "carried over as nginx acted on it, which was probably not what was meant",
            Word::Opens => "Sidegate may let through what nginx refused: settle these before it serves anybody",
        }
    }
}

/// The attempts that a note is about, in nginx' own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The configuration that they come to, by its number; `None`: any.
    pub config: Option<usize>,
    /// A `server_name`; `_`: every host that no other name takes; `*`: every host.
    pub host: String,
    /// A `location`: `/a/`, `= /a`, `~ ^/a`.
    pub path: String,
    /// The locations below it that it isn't about.
    pub but: Vec<String>,
}

/// What was noted about one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    word: Word,
    text: String,
    scopes: Vec<Scope>,
}

/// All notes, by directive.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<Id, Vec<Note>>);

impl Notes {
    /// Notes `text` about `id`.
    pub fn say(&mut self, id: Id, word: Word, text: impl Into<String>) {
        self.say_of(id, word, text, Vec::new());
    }

    /// Notes `text` about `id`, because of which these attempts may end otherwise than they did.
    pub fn say_of(&mut self, id: Id, word: Word, text: impl Into<String>, scopes: Vec<Scope>) {
        let notes = self.0.entry(id).or_default();
        let text = text.into();
        match notes.iter_mut().find(|note| note.word == word && note.text == text) {
            Some(note) => note.scopes.extend(scopes),
            None => notes.push(Note { word, text, scopes }),
        }
    }

    /// Every directive with what was noted about it, the gravest first; what was silent about the others.
    fn lines<'t>(&self, tree: &'t Tree) -> Vec<(&'t Line, Vec<Note>)> {
        let all = tree.lines.iter().enumerate();
        all.filter_map(|(id, line)| {
            let mut notes = match self.0.get(&id) {
                Some(notes) => notes.clone(),
                None => {
                    let (word, text) = silent::of(tree, id)?;
                    vec![Note { word, text: text.into(), scopes: Vec::new() }]
                }
            };
            notes.sort_by_key(|note| std::cmp::Reverse(note.word));
            Some((line, notes))
        })
        .collect()
    }
}

/// The report for people: a line for each directive, then how many of which word there are.
pub fn text(tree: &Tree, notes: &Notes) -> String {
    let lines = notes.lines(tree);
    let places: Vec<_> = lines.iter().map(|(line, _)| line.place.to_string()).collect();
    let width = places.iter().map(|place| place.chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for ((line, notes), place) in lines.iter().zip(places) {
        let texts: Vec<_> = notes.iter().map(|note| note.text.as_str()).collect();
        let word = notes.first().map_or(Word::Dropped, |note| note.word).shown();
        out.push_str(&format!("{place:width$}  {word:10}  {}: {}\n", line.text, texts.join("; ")));
    }
    out.push('\n');
    for word in Word::ALL {
        let count = lines.iter().filter(|(_, notes)| notes.first().is_some_and(|note| note.word == word)).count();
        if count > 0 {
            out.push_str(&format!("{count:5}  {:10}  {}\n", word.shown(), word.meaning()));
        }
    }
    out
}

/// The same for programs; `configs` are the configurations that were made, `written` all files.
pub fn json(tree: &Tree, notes: &Notes, configs: &[Value], written: &[String]) -> Value {
    let lines: Vec<_> = notes.lines(tree).iter().map(|(line, notes)| line_json(line, notes)).collect();
    json!({ "lines": lines, "configs": configs, "written": written })
}

fn line_json(line: &Line, notes: &[Note]) -> Value {
    let scope = |scope: &Scope| json!({ "config": scope.config, "host": scope.host, "path": scope.path, "but": scope.but });
    let note = |note: &Note| {
        let scopes: Vec<_> = note.scopes.iter().map(scope).collect();
        json!({ "word": note.word.key(), "text": note.text, "attempts": scopes })
    };
    json!({
        "file": &*line.place.file,
        "line": line.place.line,
        "directive": line.text,
        "word": notes.first().map_or(Word::Dropped, |note| note.word).key(),
        "notes": notes.iter().map(note).collect::<Vec<_>>(),
    })
}
