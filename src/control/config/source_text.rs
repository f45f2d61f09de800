//! A text under parsing, with all findings in it.
//!
//! Parsers report a finding and go on, so that all errors come at once. Knows where lines begin and
//! nothing of any grammar.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use crate::control::config::diagnostic::{Diagnostic, DiagnosticLevel, Span};
use crate::control::config::disclosure::{Disclosure, MessageText, is_secret};

/// Text of one file, with the findings in it.
#[derive(Debug)]
pub struct SourceText<'t> {
    file: Arc<str>,
    text: &'t str,
    disclosure: Disclosure,
    /// Whether the text looks like a key, whatever it is parsed as. Computed only once something is
    /// found.
    secret: OnceCell<bool>,
    max_findings: usize,
    starts: OnceCell<Vec<usize>>,
    found: RefCell<PlacedFinding>,
}

#[derive(Debug, Default)]
struct PlacedFinding {
    diagnostics: Vec<Diagnostic>,
    errors: FindingCount,
    warnings: FindingCount,
}

/// Number of findings of one level, and the place of the first that was not kept.
#[derive(Debug, Default)]
struct FindingCount {
    count: usize,
    beyond: Option<Span>,
}

/// A fault or an oddity, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    level: DiagnosticLevel,
    key: Option<String>,
    /// The fault: one sentence without a full stop.
    pub message: MessageText,
    remedy: Option<MessageText>,
    /// Bytes of the parsed text that the finding is about. `None` means all of it.
    pub within: Option<Range<usize>>,
    earlier: Option<Box<(Span, String)>>,
    half: bool,
}

/// An error about a text; see [`SourceText::report`].
pub fn error(message: impl Into<MessageText>) -> Finding {
    let (key, remedy, within, earlier) = Default::default();
    Finding {
        level: DiagnosticLevel::Error,
        key,
        message: message.into(),
        remedy,
        within,
        earlier,
        half: false,
    }
}

/// A warning about a text; see [`SourceText::report`].
pub fn warning(message: impl Into<MessageText>) -> Finding {
    Finding { level: DiagnosticLevel::Warning, ..error(message) }
}

/// A note on a text: nothing to mend, but something that was not checked.
pub fn note(message: impl Into<MessageText>) -> Finding {
    Finding { level: DiagnosticLevel::Note, ..error(message) }
}

impl Finding {
    /// Adds a remedy, or replaces it.
    pub fn with_remedy(self, remedy: impl Into<MessageText>) -> Finding {
        Finding { remedy: Some(remedy.into()), ..self }
    }

    /// Adds a remedy if one is known, else keeps the present one.
    pub fn with_remedy_if(self, remedy: Option<String>) -> Finding {
        Finding { remedy: remedy.map(MessageText::from).or(self.remedy), ..self }
    }

    /// Whether the finding has a remedy.
    pub fn has_remedy(&self) -> bool {
        self.remedy.is_some()
    }

    /// Puts `key`, the key at fault, before the message.
    pub fn with_key(self, key: &str) -> Finding {
        Finding { key: Some(key.to_owned()), ..self }
    }

    /// Marks the finding as half of a renewal: the other file may be on its way.
    pub fn half_renewed(self) -> Finding {
        Finding { half: true, ..self }
    }

    /// Narrows the finding to these bytes of the parsed text.
    pub fn with_span(self, span: Range<usize>) -> Finding {
        Finding { within: Some(span), ..self }
    }

    /// Shows another place as well, under `label`.
    pub fn with_related(self, place: Span, label: impl Into<String>) -> Finding {
        Finding { earlier: Some(Box::new((place, label.into()))), ..self }
    }

    /// The key, the message and the remedy in one sentence, without a place.
    pub fn sentence(&self) -> String {
        let parts = [self.key.as_deref(), Some(&*self.message), self.remedy.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    /// Turns the finding into a diagnostic about `place`.
    pub fn into_diagnostic(self, place: Span) -> Diagnostic {
        let disclosure = place.disclosure;
        let mut diagnostic = Diagnostic::new(self.level, place, self.message, self.remedy);
        if let Some(key) = self.key {
            diagnostic = diagnostic.with_key(&key, disclosure);
        }
        diagnostic.half = self.half;
        let Some(earlier) = self.earlier else { return diagnostic };
        let (place, label) = *earlier;
        diagnostic.with_related(place, label)
    }
}

impl<'t> SourceText<'t> {
    /// The text of `file`, shown as `disclosure` says. Of the errors and of the warnings the
    /// first `max_findings` are kept, the others only counted.
    pub fn new(
        file: Arc<str>,
        text: &'t str,
        disclosure: Disclosure,
        max_findings: usize,
    ) -> SourceText<'t> {
        let (secret, starts, found) = Default::default();
        SourceText { file, text, disclosure, secret, max_findings, starts, found }
    }

    /// How much of the text may be shown.
    fn disclosure(&self) -> Disclosure {
        if self.is_secret() { Disclosure::Nothing } else { self.disclosure }
    }

    /// Whether the text looks like a key, so that none of it is shown.
    pub fn is_secret(&self) -> bool {
        *self.secret.get_or_init(|| is_secret(self.text.as_bytes()))
    }

    /// The text under parsing.
    pub fn text(&self) -> &'t str {
        self.text
    }

    /// Records `finding` about the bytes `span`.
    pub fn report(&self, span: Range<usize>, finding: Finding) {
        let place = self.place(span);
        let mut found = self.found.borrow_mut();
        let tally = match finding.level {
            DiagnosticLevel::Error => &mut found.errors,
            DiagnosticLevel::Warning => &mut found.warnings,
            // Bounded by the keys of the file that name files.
            DiagnosticLevel::Note => {
                return found.diagnostics.push(finding.into_diagnostic(place));
            }
        };
        tally.count += 1;
        if tally.count > self.max_findings {
            // Counted and not kept: one broken file must not fill the log.
            tally.beyond.get_or_insert(place);
            return;
        }
        found.diagnostics.push(finding.into_diagnostic(place));
    }

    /// Number of errors found so far.
    pub fn errors(&self) -> usize {
        self.found.borrow().errors.count
    }

    /// Whether further errors are only counted, so that explaining them is of no use.
    pub fn is_full(&self) -> bool {
        self.errors() >= self.max_findings
    }

    /// The place of the file as a whole.
    pub fn file(&self) -> Span {
        Span::whole_file(Arc::clone(&self.file))
    }

    /// The place at which `span` begins, with its line.
    pub fn place(&self, span: Range<usize>) -> Span {
        let start = self.text.floor_char_boundary(span.start);
        let number = self.line(start);
        let (first, line) = self.line_at(number);
        let from = (start - first).min(line.len());
        let to = span.end.saturating_sub(first).clamp(from, line.len());
        Span::line(Arc::clone(&self.file), number, line, from..to, self.disclosure())
    }

    /// The number of the line with the byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.starts().partition_point(|start| *start <= at)
    }

    /// The first byte of the line `number`, and the line's text.
    pub fn line_at(&self, number: usize) -> (usize, &'t str) {
        let start = self.starts().get(number.saturating_sub(1)).copied().unwrap_or(self.text.len());
        (start, self.text.get(start..).unwrap_or_default().lines().next().unwrap_or_default())
    }

    /// All findings, from top to bottom.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        let PlacedFinding { mut diagnostics, errors, warnings } = self.found.into_inner();
        // Stable, so that two findings at one place keep the order in which they were found.
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        for (tally, word, finding) in
            [(errors, "error", error("")), (warnings, "warning", warning(""))]
        {
            let Some(place) = tally.beyond else { continue };
            let more = tally.count - self.max_findings;
            let message = format!(
                "… and {more} more {word}{} in this file",
                if more == 1 { "" } else { "s" }
            );
            diagnostics.push(Finding { message: message.into(), ..finding }.into_diagnostic(place));
        }
        diagnostics
    }

    /// First byte of each line. Computed only once a place is needed.
    fn starts(&self) -> &[usize] {
        self.starts.get_or_init(|| {
            let after = self
                .text
                .bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| at + 1);
            std::iter::once(0).chain(after).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, span: Range<usize>, expected: (usize, usize, &str)) {
        let place = SourceText::new("file".into(), text, Disclosure::Lines, 9).place(span);
        let shown =
            place.excerpt.map(|excerpt| excerpt.text[excerpt.span].to_owned()).unwrap_or_default();
        assert_eq!((place.line, place.column, shown.as_str()), expected);
    }

    #[test]
    fn columns_count_characters_from_one() {
        check("é = x\nb = 1", 5..6, (1, 5, "x"));
        check("é = x\r\nb = 1", 8..9, (2, 1, "b"));
        check("a\nb", 3..3, (2, 2, ""));
        check("", 0..0, (1, 1, ""));
    }

    #[test]
    fn a_span_of_several_lines_is_shown_where_it_begins() {
        check("a = [\n1\n]", 4..9, (1, 5, "["));
    }

    #[test]
    fn spans_outside_the_text_and_inside_a_character_are_harmless() {
        check("é", 1..2, (1, 1, "é"));
        check("a", 7..9, (1, 2, ""));
    }

    #[test]
    fn too_many_errors_are_counted() {
        let source_text = SourceText::new("file".into(), "a\nb\nc\nd", Disclosure::Lines, 1);
        for at in [0, 2, 4] {
            source_text.report(at..at + 1, error("bad"));
        }
        source_text.report(2..3, warning("odd"));
        source_text.report(6..7, warning("odd"));
        let lines: Vec<_> =
            source_text.into_diagnostics().iter().map(Diagnostic::one_line).collect();
        assert_eq!(
            lines,
            [
                "file:1:1: error: bad",
                "file:2:1: warning: odd",
                "file:2:1: error: … and 2 more errors in this file",
                "file:4:1: warning: … and 1 more warning in this file"
            ]
        );
    }
}
