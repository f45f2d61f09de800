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

use super::disclosure::{Disclosure, MessageText};

/// Most bytes of a line that is shown. Of a longer one only the position is given.
const MAX_LINE_BYTES: usize = 4096;

/// Severity. Errors sort before warnings, and those before notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiagnosticLevel {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but an operator should look at it.
    Warning,
    /// Something was not checked, as `--off-host` asks for.
    Note,
}

/// One error or warning about a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// Severity: error, warning or note.
    pub level: DiagnosticLevel,
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
    earlier: Option<Box<RelatedSpan>>,
    because: Option<Box<str>>,
    pub(super) half: bool,
}

/// A place in a file, with the line to show of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) excerpt: Option<Excerpt>,
    pub(super) disclosure: Disclosure,
}

/// A line of a file, and the bytes of it to mark with carets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Excerpt {
    pub(super) text: Box<str>,
    pub(super) span: Range<usize>,
}

/// A second place that a diagnostic refers to, such as the first of two that clash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RelatedSpan {
    place: Span,
    label: String,
}

impl Span {
    /// The file as a whole, where there is no line to show.
    pub fn whole_file(file: Arc<str>) -> Span {
        Span { file, line: 1, column: 1, excerpt: None, disclosure: Disclosure::Lines }
    }

    /// The place in the form `file:line`.
    pub fn file_and_line(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The same place, in a file that was read without an error, whose values may be named.
    pub fn with_names_shown(self) -> Span {
        Span { disclosure: Disclosure::Lines, ..self }
    }

    /// The bytes `part` of line `number`, whose text is `text`; `disclosure` says how much of it
    /// may be shown.
    pub fn line(
        file: Arc<str>,
        number: usize,
        text: &str,
        part: Range<usize>,
        disclosure: Disclosure,
    ) -> Span {
        let (from, to) = (text.floor_char_boundary(part.start), text.ceil_char_boundary(part.end));
        let column = text.get(..from).unwrap_or_default().chars().count() + 1;
        let is_shown = disclosure == Disclosure::Lines && text.len() <= MAX_LINE_BYTES;
        let excerpt = is_shown.then(|| Excerpt { text: text.into(), span: from..to.max(from) });
        Span { file, line: number, column, excerpt, disclosure }
    }
}

impl Diagnostic {
    /// A diagnostic about `place`. Leaves out text that may not be shown of its file.
    pub(super) fn new(
        level: DiagnosticLevel,
        place: Span,
        message: MessageText,
        remedy: Option<MessageText>,
    ) -> Diagnostic {
        let Span { file, line, column, excerpt, disclosure } = place;
        let (message, remedy) =
            (disclosure.shown(message), remedy.map(|remedy| disclosure.shown(remedy)));
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

    /// An error about `whole_file` as a whole, from code that uses the loaded values.
    pub fn for_file(file: &Path, message: String, remedy: Option<String>) -> Diagnostic {
        Diagnostic::error(Span::whole_file(file.display().to_string().into()), message, remedy)
    }

    /// An error about `place`, from code that uses the loaded values.
    pub fn error(place: Span, message: String, remedy: Option<String>) -> Diagnostic {
        Diagnostic::new(
            DiagnosticLevel::Error,
            place,
            message.into(),
            remedy.map(MessageText::from),
        )
    }

    /// A warning about `place`, from code that inspects the loaded values.
    pub fn warning(place: Span, message: String, remedy: String) -> Diagnostic {
        Diagnostic::new(DiagnosticLevel::Warning, place, message.into(), Some(remedy.into()))
    }

    /// Puts `key`, the key at fault, before the message.
    pub(super) fn with_key(mut self, key: &str, disclosure: Disclosure) -> Diagnostic {
        self.message = format!("{}: {}", disclosure.shown_key(key), self.message);
        self
    }

    /// Shows `place` as well, under `label`.
    pub fn with_related(mut self, place: Span, label: String) -> Diagnostic {
        self.earlier = Some(Box::new(RelatedSpan { place, label }));
        self
    }

    /// Adds an explanation of several lines.
    pub fn with_explanation(mut self, explanation: String) -> Diagnostic {
        self.because = Some(explanation.into());
        self
    }

    /// The level in a word: "error", "warning" or "note".
    pub fn level_name(&self) -> &'static str {
        match self.level {
            DiagnosticLevel::Error => "error",
            DiagnosticLevel::Warning => "warning",
            DiagnosticLevel::Note => "note",
        }
    }

    /// Whether the configuration cannot be used because of this.
    pub fn is_error(&self) -> bool {
        self.level == DiagnosticLevel::Error
    }

    /// Whether this is how a half-renewed certificate looks, one of whose two files is still the
    /// old one.
    pub fn is_half_renewed(&self) -> bool {
        self.half
    }

    /// The place in the form `whole_file:line:column`.
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }

    /// Renders like rustc: message, place, line with carets, remedy. Several lines, without a final
    /// newline.
    pub fn render(&self, color: bool) -> String {
        let level = match self.level {
            DiagnosticLevel::Error => Label::ERROR,
            DiagnosticLevel::Warning => Label::WARNING,
            DiagnosticLevel::Note => Label::NOTE,
        };
        let mut group = Group::with_title(level.primary_title(&self.message));
        group = show(
            group,
            &self.file,
            self.line,
            self.column,
            self.excerpt.as_ref(),
            AnnotationKind::Primary,
            None,
        );
        if let Some(RelatedSpan { place, label }) = self.earlier.as_deref() {
            group = show(
                group,
                &place.file,
                place.line,
                place.column,
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

    /// `whole_file:line:column: error: message (remedy)`, for a log line or a terse list.
    pub fn one_line(&self) -> String {
        let Diagnostic { file, line, column, .. } = self;
        let level = self.level_name();
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
    line: usize,
    column: usize,
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
        let place = Span {
            file: "a.toml".into(),
            line: 7,
            column: 1,
            excerpt,
            disclosure: Disclosure::Lines,
        };
        Diagnostic::new(
            DiagnosticLevel::Error,
            place,
            "unknown key `nam`".into(),
            Some("did you mean `name`?".into()),
        )
    }

    #[test]
    fn one_line_form_has_place_message_and_remedy() {
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
