//! Diagnostics: the fault of a file, its place and a remedy, rendered for people.
//!
//! Holds the one line that it shows and never the whole file, so that the findings of a rejected
//! reload can be kept. Text that may not be shown is left out at construction, so that nothing can
//! show it later. Never decides whether there is a fault.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{
    AnnotationKind, Group, Level as Label, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use super::quote::{Quoting, Words};

/// Most bytes of a line that is shown. Of a longer one only the position is given.
const LONGEST_SHOWN: usize = 4096;

/// Severity. Errors sort before warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but an operator should look at it.
    Warning,
}

/// One error or warning about a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// Severity: error or warning.
    pub level: Level,
    /// The file, as a path that can be opened from where the configuration was loaded.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The fault: one sentence without a full stop.
    pub message: String,
    /// Advice for the operator. `None` means that none is known.
    pub remedy: Option<String>,
    excerpt: Option<Excerpt>,
    earlier: Option<Box<Earlier>>,
    because: Option<Box<str>>,
    pub(super) half: bool,
}

/// A place in a file, with the line to show of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) excerpt: Option<Excerpt>,
    pub(super) quoting: Quoting,
}

/// A line of a file, and the bytes of it to mark with carets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Excerpt {
    pub(super) text: Box<str>,
    pub(super) span: Range<usize>,
}

/// A second place that a diagnostic refers to, such as the first of two that clash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Earlier {
    place: Place,
    label: String,
}

impl Place {
    /// The file as a whole, where there is no line to show.
    pub fn file(file: Arc<str>) -> Place {
        Place { file, line: 1, column: 1, excerpt: None, quoting: Quoting::Lines }
    }

    /// The same place, in a file that was read without an error, whose values may be named.
    pub fn sound(self) -> Place {
        Place { quoting: Quoting::Lines, ..self }
    }

    /// The bytes `part` of line `number`, whose text is `text`; `quoting` says how much of it may
    /// be shown.
    pub fn line(
        file: Arc<str>,
        number: usize,
        text: &str,
        part: Range<usize>,
        quoting: Quoting,
    ) -> Place {
        let (from, to) = (text.floor_char_boundary(part.start), text.ceil_char_boundary(part.end));
        let column = text.get(..from).unwrap_or_default().chars().count() + 1;
        let is_shown = quoting == Quoting::Lines && text.len() <= LONGEST_SHOWN;
        let excerpt = is_shown.then(|| Excerpt { text: text.into(), span: from..to.max(from) });
        Place { file, line: number, column, excerpt, quoting }
    }
}

impl Diagnostic {
    /// A diagnostic about `place`. Leaves out text that may not be shown of its file.
    pub(super) fn new(
        level: Level,
        place: Place,
        message: Words,
        remedy: Option<Words>,
    ) -> Diagnostic {
        let Place { file, line, column, excerpt, quoting } = place;
        let (message, remedy) =
            (quoting.shown(message), remedy.map(|remedy| quoting.shown(remedy)));
        Diagnostic {
            level,
            file,
            line,
            column,
            message,
            remedy,
            excerpt,
            earlier: None,
            because: None,
            half: false,
        }
    }

    /// An error about `file` as a whole, from code that uses the loaded values.
    pub fn of(file: &Path, message: String, remedy: Option<String>) -> Diagnostic {
        Diagnostic::error(Place::file(file.display().to_string().into()), message, remedy)
    }

    /// An error about `place`, from code that uses the loaded values.
    pub fn error(place: Place, message: String, remedy: Option<String>) -> Diagnostic {
        Diagnostic::new(Level::Error, place, message.into(), remedy.map(Words::from))
    }

    /// A warning about `place`, from code that inspects the loaded values.
    pub fn warning(place: Place, message: String, remedy: String) -> Diagnostic {
        Diagnostic::new(Level::Warning, place, message.into(), Some(remedy.into()))
    }

    /// Puts `key`, the key at fault, before the message.
    pub(super) fn keyed(mut self, key: &str, quoting: Quoting) -> Diagnostic {
        self.message = format!("{}: {}", quoting.shown_key(key), self.message);
        self
    }

    /// Shows `place` as well, under `label`.
    pub fn and(mut self, place: Place, label: String) -> Diagnostic {
        self.earlier = Some(Box::new(Earlier { place, label }));
        self
    }

    /// Adds an explanation of several lines.
    pub fn because(mut self, explanation: String) -> Diagnostic {
        self.because = Some(explanation.into());
        self
    }

    /// The level in a word: "error" or "warning".
    pub fn word(&self) -> &'static str {
        match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        }
    }

    /// Whether the configuration cannot be used because of this.
    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }

    /// Whether this is how a half-renewed certificate looks, one of whose two files is still the
    /// old one.
    pub fn is_half(&self) -> bool {
        self.half
    }

    /// The place in the form `file:line:column`.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    /// Renders like rustc: message, place, line with carets, remedy. Several lines, without a final
    /// newline.
    pub fn render(&self, color: bool) -> String {
        let level = match self.level {
            Level::Error => Label::ERROR,
            Level::Warning => Label::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&self.message));
        group = show(
            group,
            &self.file,
            (self.line, self.column),
            self.excerpt.as_ref(),
            AnnotationKind::Primary,
            None,
        );
        if let Some(Earlier { place, label }) = self.earlier.as_deref() {
            let position = (place.line, place.column);
            group = show(
                group,
                &place.file,
                position,
                place.excerpt.as_ref(),
                AnnotationKind::Context,
                Some(label),
            );
        }
        if let Some(because) = &self.because {
            let lines = because.lines().map(normalize_untrusted_str).collect::<Vec<_>>();
            group = group.element(Label::NOTE.message(lines.join("\n")));
        }
        if let Some(remedy) = &self.remedy {
            group = group.element(Label::HELP.message(normalize_untrusted_str(remedy)));
        }
        if color { Renderer::styled().render(&[group]) } else { Renderer::plain().render(&[group]) }
    }

    /// `file:line:column: error: message (remedy)`, for a log line or a terse list.
    pub fn one_line(&self) -> String {
        let Diagnostic { file, line, column, .. } = self;
        let level = self.word();
        let remedy = self.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        normalize_untrusted_str(&format!(
            "{file}:{line}:{column}: {level}: {}{remedy}",
            self.message
        ))
    }
}

/// Adds a place to `group`: its line with carets, or at least its position.
fn show<'a>(
    group: Group<'a>,
    file: &'a str,
    (line, column): (usize, usize),
    excerpt: Option<&'a Excerpt>,
    kind: AnnotationKind,
    label: Option<&'a str>,
) -> Group<'a> {
    let Some(Excerpt { text, span }) = excerpt else {
        return group.element(Origin::path(file).line(line).char_column(column));
    };
    let carets = kind.span(span.clone()).label(label);
    group.element(Snippet::source(&**text).path(file).line_start(line).annotation(carets))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostic {
        let excerpt = Some(Excerpt { text: "nam = \"a\u{1b}[31m\"".into(), span: 0..3 });
        let place =
            Place { file: "a.toml".into(), line: 7, column: 1, excerpt, quoting: Quoting::Lines };
        Diagnostic::new(
            Level::Error,
            place,
            "unknown key `nam`".into(),
            Some("did you mean `name`?".into()),
        )
    }

    #[test]
    fn one_line_says_it_all() {
        assert_eq!(
            sample().one_line(),
            "a.toml:7:1: error: unknown key `nam` (did you mean `name`?)"
        );
    }

    #[test]
    fn a_file_cannot_send_escape_sequences_to_the_terminal() {
        let mut diagnostic = sample();
        diagnostic.remedy = Some("\u{1b}[2J".into());
        assert!(!diagnostic.render(false).contains('\u{1b}'));
        assert!(!diagnostic.one_line().contains('\u{1b}'));
    }

    #[test]
    fn color_only_when_asked_for() {
        assert!(!sample().to_string().contains('\u{1b}'));
        assert!(sample().render(true).contains('\u{1b}'));
    }
}
