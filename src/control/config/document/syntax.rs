//! Errors of TOML's syntax, in words for operators.
//!
//! The parser goes on after an error, and then often reads something other than was meant. So each
//! slip is reported once and its consequences are left out. Knows TOML, and none of the keys.

use std::ops::Range;

use toml::de::DeTable;

use crate::control::config::document::deferred::MAX_ERRORS;
use crate::control::config::document::tree::{Document, tables_in};
use crate::control::config::document::typography;
use crate::control::config::source_text::{Finding, error};

/// A fault reported by the parser.
#[derive(Debug, Clone)]
struct SyntaxError<'m> {
    span: Range<usize>,
    message: &'m str,
}

impl SyntaxError<'_> {
    /// Whether a string lacks a quotation mark, so that the text after it is read as part of it.
    fn is_string(&self) -> bool {
        ["invalid basic string", "invalid literal string", "missing opening quote", "missing comma"]
            .iter()
            .any(|known| self.message.starts_with(known))
    }

    fn is_duplicate(&self) -> bool {
        self.message == "duplicate key"
    }

    /// Whether the parser goes on as if only this one value were wrong.
    fn leaves_the_rest_readable(&self) -> bool {
        let known = ["string values must be quoted", "duplicate key", "invalid ", "missing comma"];
        known.iter().any(|known| self.message.starts_with(known))
    }
}

impl<'t> Document<'t> {
    /// Parses `text` as far as its syntax permits, and reports its syntax errors.
    pub(super) fn parse_text(&mut self, text: &'t str) {
        let (tree, faults) = DeTable::parse_recoverable(text);
        self.tree = tree.into_inner();
        let fault =
            |fault: &'_ toml::de::Error| (fault.span().unwrap_or(0..0), fault.message().to_owned());
        let told: Vec<_> = faults.iter().map(fault).collect();
        let mut faults: Vec<_> = told
            .iter()
            .map(|(span, message)| SyntaxError { span: span.clone(), message })
            .collect();
        if let Some(first) = faults.first().cloned()
            && faults.iter().any(|fault| fault.message.starts_with("unclosed"))
        {
            self.handle_unclosed(&mut faults, first);
        }
        // The parser reports faults of the structure before those of values, wherever they are.
        faults.sort_by_key(|fault| fault.span.start);
        self.take_mixed_headers(&mut faults);
        for fault in faults {
            // Further faults in a line mostly follow from its first.
            if !self.torn.lines.insert(self.source_text.line(fault.span.start)) {
                continue;
            }
            if !fault.leaves_the_rest_readable() {
                self.torn.from = self.torn.from.min(fault.span.end);
            }
            if self.source_text.is_full() {
                self.source_text.report(fault.span, error(fault.message.to_owned()));
            } else if fault.is_duplicate() {
                self.note_repeated(fault.span);
            } else {
                let finding = self.syntax(&fault);
                self.source_text.report(fault.span, finding);
            }
        }
    }

    /// Handles an unclosed bracket, which makes nonsense of everything after it. Only the
    /// structure's first fault is reported, which the parser puts before those of values. If an
    /// unterminated string above left the bracket open, that string is reported instead.
    fn handle_unclosed(&mut self, faults: &mut Vec<SyntaxError<'_>>, first: SyntaxError<'_>) {
        let open =
            faults.iter().filter(|fault| fault.is_string() && fault.span.start <= first.span.start);
        let first = open.min_by_key(|fault| fault.span.start).cloned().unwrap_or(first);
        let line = self.source_text.line(first.span.start);
        self.torn.lines.insert(line);
        self.torn.from = first.span.start;
        let is_plain = first.is_string() || first.message.starts_with("unclosed");
        let finding = if is_plain { self.syntax(&first) } else { error(first.message.to_owned()) };
        let finding = if is_plain {
            finding
        } else {
            finding.with_remedy("is a bracket above it not closed?")
        };
        self.source_text.report(first.span, finding);
        faults.retain(|fault| self.source_text.line(fault.span.start) < line);
    }

    /// Takes the faults of tables with headers of both kinds, `[x]` and `[[x]]`, out of `faults`.
    /// Reading the table shows which kind is wrong.
    fn take_mixed_headers(&mut self, faults: &mut Vec<SyntaxError<'_>>) {
        let headers = |name: &str| {
            let (mut singles, mut doubles, mut at) = (Vec::new(), Vec::new(), 0);
            for line in self.source_text.text().split_inclusive('\n') {
                let (start, bare) = (at + line.len() - line.trim_start().len(), line.trim());
                at += line.len();
                match header(bare) {
                    Some((other, true)) if other == name => doubles.push(start..start + bare.len()),
                    Some((other, false)) if other == name => {
                        singles.push(start..start + bare.len());
                    }
                    _ => {}
                }
            }
            (singles, doubles)
        };
        let mut names: Vec<String> = Vec::new();
        for fault in faults.iter().filter(|fault| fault.is_duplicate()).take(MAX_ERRORS) {
            let (_, line) = self.source_text.line_at(self.source_text.line(fault.span.start));
            names.extend(
                header(line.trim())
                    .map(|(name, _)| name.to_owned())
                    .filter(|name| !names.contains(name)),
            );
        }
        for name in names {
            let (singles, doubles) = headers(&name);
            if singles.is_empty() || doubles.is_empty() {
                continue;
            }
            let is_of_it = |fault: &SyntaxError<'_>| {
                let (_, line) = self.source_text.line_at(self.source_text.line(fault.span.start));
                fault.is_duplicate() && header(line.trim()).is_some_and(|(other, _)| other == name)
            };
            let lines: Vec<_> = faults
                .extract_if(.., |fault| is_of_it(fault))
                .map(|fault| self.source_text.line(fault.span.start))
                .collect();
            self.torn.lines.extend(lines);
            self.note_mixed(&name, singles, doubles);
        }
    }

    /// Records that the key or header at `span` appears twice.
    fn note_repeated(&self, span: Range<usize>) {
        let name = self.source_text.text().get(span.clone()).unwrap_or_default().to_owned();
        let first = self.first_of(&name, &span);
        self.note_duplicate(&name, span, first);
    }

    /// The parser's message, or a clearer one where there is one.
    fn syntax(&self, fault: &SyntaxError<'_>) -> Finding {
        let SyntaxError { span, message } = fault;
        let text = self.source_text.text().get(span.clone()).unwrap_or_default();
        let (begin, line) = self.source_text.line_at(self.source_text.line(span.start));
        if let Some(finding) = self.typography(span, text, message) {
            return finding;
        }
        if let Some(finding) = string_fault(message, line) {
            return finding;
        }
        if message.starts_with("string values must be quoted") {
            return match text {
                "" => error("a value is missing")
                    .with_remedy("write one behind the `=`, or remove the line"),
                _ => error("a string without its quotes").with_remedy(format!("write \"{text}\"")),
            };
        }
        if message.starts_with("invalid unquoted key") && text.starts_with(':') {
            return error("a `:` behind a key").with_remedy("write a `=` in its place");
        }
        if message.starts_with("unexpected key or value") {
            let found = self.source_text.text()[..span.end.max(begin)].get(span.start..);
            return match found.and_then(|found| found.chars().next()) {
                Some(sign @ (';' | ',')) => error(format!("a `{sign}` behind a value"))
                    .with_remedy("remove it: a line ends without a sign"),
                _ => error(message.to_string())
                    .with_remedy("write one key on each line, and strings between quotation marks"),
            };
        }
        if message.starts_with("key with no value") {
            return error(message.to_string()).with_remedy("write `=` and a value behind the key");
        }
        if let Some(what) = message.strip_prefix("unclosed ") {
            let sign = match what.split(',').next() {
                Some("array table") => "]]",
                Some("inline table") => "}",
                _ => "]",
            };
            return error(message.to_string()).with_remedy(format!("close it with `{sign}`"));
        }
        let is_number = message.starts_with("unexpected leading zero");
        if is_number || message.starts_with("invalid ") && !message.contains("string") {
            let message = message.trim_end_matches(", expected nothing");
            return error(message.to_owned())
                .with_remedy("if it is meant as a string, put it in quotes");
        }
        error(message.to_string())
    }

    /// The finding about a character at `span` that only looks like one of TOML's.
    fn typography(&self, span: &Range<usize>, text: &str, message: &str) -> Option<Finding> {
        let is_space =
            |c: char| !c.is_ascii() && (c.is_whitespace() || c == '\u{200b}' || c == '\u{feff}');
        if let Some(space) = text.chars().next().filter(|first| is_space(*first)) {
            let finding =
                error(format!("a space that TOML does not know, U+{:04X}", u32::from(space)));
            return Some(finding.with_remedy("write a plain space, or none"));
        }
        let fault = SyntaxError { span: span.clone(), message };
        let (_, line) = self.source_text.line_at(self.source_text.line(span.start));
        let quoted = text.contains(typography::is_quote)
            || fault.is_string() && line.contains(typography::is_quote);
        quoted.then(|| typography::finding(text))
    }

    /// The place of the earlier key or header that `span` repeats.
    fn first_of(&self, key: &str, span: &Range<usize>) -> Option<Range<usize>> {
        let before = self.source_text.text().get(..span.start)?;
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let header = self.source_text.text().get(begin..)?.lines().next()?.trim();
        if header.starts_with('[') {
            let mut at = 0;
            for line in before.get(..begin)?.split_inclusive('\n') {
                if line.trim() == header {
                    return Some(at..at + line.trim_end().len());
                }
                at += line.len();
            }
            return None;
        }
        // The nearest equal key above is in the same table, unless an inline table in between has
        // an equal key.
        let mut nearest: Option<Range<usize>> = None;
        let mut tables = vec![&self.tree];
        while let Some(table) = tables.pop() {
            for (name, value) in table {
                let above = name.span().start < span.start
                    && nearest.as_ref().is_none_or(|near| near.start < name.span().start);
                if above && name.get_ref() == key.trim_matches(['"', '\'']) {
                    nearest = Some(name.span());
                }
                tables.extend(tables_in(value));
            }
        }
        nearest
    }
}

/// The finding about a string in `line` that lacks one of its quotation marks.
fn string_fault(message: &str, line: &str) -> Option<Finding> {
    // A quotation mark in a comment is no half of a string.
    let code = line.split(" #").next().unwrap_or(line);
    let odd = |mark: char| code.matches(mark).count() % 2 == 1;
    if message.starts_with("missing opening quote") {
        return Some(
            error("a string without its first quotation mark").with_remedy("put one before it"),
        );
    }
    let is_string = message.starts_with("invalid basic string")
        || message.starts_with("invalid literal string");
    let is_open =
        is_string && ["expected `\"`", "expected `'`"].iter().any(|sign| message.contains(sign));
    if is_open || message.starts_with("missing comma") && (odd('"') || odd('\'')) {
        return Some(
            error("a string without its last quotation mark").with_remedy("put one behind it"),
        );
    }
    message
        .starts_with("missing comma")
        .then(|| error(message.to_owned()).with_remedy("write a comma between the two"))
}

/// The name in a line that is a header, and whether it is the header of a list of tables.
fn header(line: &str) -> Option<(&str, bool)> {
    let line = line.split('#').next()?.trim();
    let inner = line.strip_prefix('[')?.strip_suffix(']')?;
    match inner.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?.trim(), true)),
        None => Some((inner.trim(), false)),
    }
}
