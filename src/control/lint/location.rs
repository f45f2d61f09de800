//! The location of a lint: a line of a file, and a part of that line.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::source::{Files, MAX_LIST_BYTES};
use crate::control::config::users;
use crate::policy::list::ListEntry;

/// A warning before its line is looked up.
pub struct Lint {
    /// The location that the lint is about.
    pub location: LintLocation,
    /// The oddity: one sentence without a full stop.
    pub message: String,
    /// Advice for the operator.
    pub remedy: String,
    /// A second location that the message refers to, and its label.
    pub other: Option<(LintLocation, &'static str)>,
}

/// A location, as loaded values know it.
pub struct LintLocation {
    /// The file, relative to the folder of `sidegate.toml`.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u32,
    /// The part of the line to underline.
    pub part: LinePart,
}

/// The part of a line that a lint is about.
pub enum LinePart {
    /// The file as a whole.
    File,
    /// This word, where it is not part of a longer one.
    Word(Arc<str>),
    /// The network of this entry.
    Entry(ListEntry),
}

impl Lint {
    /// Turns the lint into a diagnostic, with the lines that it refers to, read through `files`.
    pub fn into_diagnostic(self, files: &mut Files, folder: &Path) -> Diagnostic {
        let diagnostic =
            Diagnostic::warning(self.location.place(files, folder), self.message, self.remedy);
        match self.other {
            Some((location, label)) => {
                diagnostic.with_related(location.place(files, folder), label.into())
            }
            None => diagnostic,
        }
    }
}

impl LintLocation {
    fn place(self, files: &mut Files, folder: &Path) -> Span {
        let path = folder.join(&*self.file);
        let file = Arc::from(path.display().to_string());
        let number = self.line as usize;
        // The file may have changed since it was loaded. A line or a word that is gone only makes
        // the underlined part wider.
        let bytes = files.read(&path, MAX_LIST_BYTES).ok();
        let text =
            bytes.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        let disclosure = files.disclosure_of(&path, text);
        let Some(line) = text.lines().nth(number.saturating_sub(1)) else {
            return Span::whole_file(file);
        };
        let part = match self.part {
            LinePart::File => return Span::whole_file(file),
            LinePart::Word(word) => word_in(line, &word),
            LinePart::Entry(entry) => entry_in(line, &entry),
        };
        let indent = line.len() - line.trim_start().len();
        let part = part.unwrap_or(indent..line.trim_end().len().max(indent));
        Span::line(file, number, line, part, disclosure)
    }
}

/// Finds `word` in `line`, where it is not part of a longer word.
fn word_in(line: &str, word: &str) -> Option<Range<usize>> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let alone =
        |at: usize| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part);
    let at = line.match_indices(word).map(|(at, _)| at).find(|at| alone(*at))?;
    Some(at..at + word.len())
}

/// Finds `entry` in `line`: a line of a list file, or one with strings between quotes.
fn entry_in(line: &str, entry: &ListEntry) -> Option<Range<usize>> {
    // A byte order mark may precede the first entry of a list file.
    let bare = line.trim_start_matches('\u{feff}');
    let mut pieces = std::iter::once(bare).chain(line.split(['"', '\'']));
    let is_it = |piece: &&str| {
        ListEntry::parse_with(piece, Some(&users::resolve))
            .ok()
            .flatten()
            .is_some_and(|found| found.pattern == entry.pattern && found.admits == entry.admits)
    };
    let written = pieces.find(is_it)?.split_ascii_whitespace().next()?;
    // `written` is a slice of `line`, so the difference is its place there.
    let at = written.as_ptr().addr() - line.as_ptr().addr();
    Some(at..at + written.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_is_found_as_a_whole_word_only() {
        for (line, word, at) in [
            ("client.allow = [\"any\"]", "allow", Some(7)),
            ("disallow-allow = 1; allow = 2", "allow", Some(20)),
            ("name = \"ticks\"", "ticks", Some(8)),
            ("name = \"tick\\u0073\"", "ticks", None),
        ] {
            assert_eq!(word_in(line, word).map(|range| range.start), at, "{line}");
        }
    }

    #[test]
    fn an_entry_is_found_in_a_list_and_in_an_array() {
        let entry = ListEntry::parse("!10.0.0.1").unwrap().unwrap();
        for (line, part) in [
            ("  !10.0.0.1/32   owner=acme # it's \"10.0.0.1\"", Some("!10.0.0.1/32")),
            ("\u{feff}!10.0.0.1", Some("!10.0.0.1")),
            ("a = [\"10.0.0.1\", '10.0.0.0/8', ' !10.0.0.1 ticket=A']", Some("!10.0.0.1")),
            ("a = [\"\\u00210.0.0.1\"]", None),
        ] {
            assert_eq!(entry_in(line, &entry).map(|range| &line[range]), part, "{line}");
        }
    }
}
