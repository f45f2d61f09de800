//! A TOML file as a tree whose every value knows its place.
//!
//! serde stops at the first error; here each wrong value is reported and the
//! reading goes on, so that all errors come at once. It knows TOML and the
//! units of our values, and none of our keys.

mod nearest;
mod nesting;
mod table;
pub mod typography;
pub mod unit;
mod value;

use self::table::Lacking;
pub use nearest::{did_you_mean, nearest};
pub use table::Table;
pub use value::Value;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::config::diagnostic::{Diagnostic, Place};
use crate::control::config::encoding;
use crate::control::config::page::{Finding, Page, error};
use crate::control::config::quote::Quoting;

/// Of more errors in one file than this, the first ones are shown.
const MOST_ERRORS: usize = 100;

/// One TOML file, read as far as its syntax goes.
#[derive(Debug)]
pub struct Document<'t> {
    page: Page<'t>,
    tree: DeTable<'t>,
    torn: Torn,
    /// What tables that are not there lack, until the tables around them are finished.
    lacking: RefCell<Vec<Lacking>>,
    has_unknown_keys: Cell<bool>,
}

/// Where the tree is not what was meant, because the syntax is wrong.
#[derive(Debug)]
struct Torn {
    lines: BTreeSet<usize>,
    from: usize,
}

impl<'t> Document<'t> {
    /// Parses `bytes`; what is wrong with them is among the findings, which show as much as `quoting` says.
    pub fn parse(file: Arc<str>, bytes: &'t [u8], quoting: Quoting) -> Document<'t> {
        let (text, fault) = encoding::text(bytes);
        let torn = Torn { lines: BTreeSet::new(), from: usize::MAX };
        let (page, tree) = (Page::new(file, text, quoting, MOST_ERRORS), DeTable::new());
        let (lacking, has_unknown_keys) = Default::default();
        let mut document = Document { page, tree, torn, lacking, has_unknown_keys };
        if let Some(fault) = fault {
            document.tear(text.len(), fault);
        } else if let Some(at) = nesting::too_deep(text) {
            document.tear(at, error(format!("nested deeper than {}", nesting::DEEPEST)));
        } else {
            document.grow(text);
        }
        document
    }

    /// The table of the whole file.
    pub fn root(&self) -> Table<'_> {
        Table::root(self, &self.tree)
    }

    /// Whether a part of the file could not be understood at all, so that what is missing may be in there.
    pub fn is_torn(&self) -> bool {
        self.torn.from < usize::MAX
    }

    /// Notes `finding` about the bytes `span`, unless the syntax is wrong there: what was read is not what was meant.
    pub fn report(&self, span: Range<usize>, finding: Finding) {
        if span.start >= self.torn.from || self.torn.lines.contains(&self.page.line(span.start)) {
            return;
        }
        self.page.report(span, finding);
    }

    /// Whether a key was reported that no table has: rules that are misspelt are not read, so that
    /// something may only look unused.
    pub fn has_unknown_keys(&self) -> bool {
        self.has_unknown_keys.get()
    }

    /// Notes `finding` about an unknown key.
    fn report_unknown(&self, span: Range<usize>, finding: Finding) {
        self.has_unknown_keys.set(true);
        self.report(span, finding);
    }

    fn lacks(&self, lacking: Lacking) {
        self.lacking.borrow_mut().push(lacking);
    }

    /// Takes what absent tables lack and `which` holds of.
    fn take_lacking(&self, which: impl Fn(&Lacking) -> bool) -> Vec<Lacking> {
        self.lacking.borrow_mut().extract_if(.., |lacking| which(lacking)).collect()
    }

    /// The absent tables of the table at `parent` that must be there.
    fn absent_tables(&self, parent: &Range<usize>) -> Vec<&'static str> {
        let lacking = self.lacking.borrow();
        lacking.iter().filter(|lacking| lacking.parent == *parent).map(|lacking| lacking.table).collect()
    }

    /// The file as a whole.
    pub fn file(&self) -> Place {
        self.page.file()
    }

    /// Where `span` begins, with its line.
    pub fn place(&self, span: Range<usize>) -> Place {
        self.page.place(span)
    }

    /// The number of the line that the byte `at` is in, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.page.line(at)
    }

    /// Everything found, from top to bottom.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        for lacking in self.take_lacking(|_| true) {
            self.report(lacking.parent, lacking.finding);
        }
        self.page.into_diagnostics()
    }

    fn tear(&mut self, at: usize, finding: Finding) {
        self.page.report(at..at + 1, finding);
        self.torn.from = 0;
    }

    fn grow(&mut self, text: &'t str) {
        let (tree, faults) = DeTable::parse_recoverable(text);
        self.tree = tree.into_inner();
        let mut faults: Vec<_> = faults.iter().map(|fault| (fault.span().unwrap_or(0..0), fault.message())).collect();
        let unclosed = faults.iter().any(|(_, message)| message.starts_with("unclosed"));
        if let Some((span, message)) = faults.first().cloned().filter(|_| unclosed) {
            self.cut(&mut faults, span, message);
        }
        faults.sort_by_key(|(span, _)| span.start);
        for (span, message) in faults {
            if !self.torn.lines.insert(self.page.line(span.start)) {
                continue;
            }
            if !leaves_the_rest_readable(message) {
                self.torn.from = self.torn.from.min(span.end);
            }
            let finding = if self.page.is_full() { error(message.to_owned()) } else { self.syntax(&span, message) };
            self.page.report(span, finding);
        }
    }

    /// A bracket that is never closed makes nonsense of all that follows: of that, only the structure's first fault is
    /// told, which the parser puts before those of values.
    fn cut(&mut self, faults: &mut Vec<(Range<usize>, &str)>, first: Range<usize>, message: &str) {
        let line = self.page.line(first.start);
        self.torn.lines.insert(line);
        self.torn.from = first.start;
        let finding = error(message.to_owned());
        let closed = message.starts_with("unclosed");
        self.page.report(first, if closed { finding } else { finding.remedy("is a bracket above it not closed?") });
        faults.retain(|(span, _)| self.page.line(span.start) < line);
    }

    /// The parser's `message`, in our words where those say more.
    fn syntax(&self, span: &Range<usize>, message: &str) -> Finding {
        let text = self.page.text().get(span.clone()).unwrap_or_default();
        if let Some(finding) = self.typography(span, text, message) {
            return finding;
        }
        if message == "duplicate key" {
            let finding = error(format!("`{text}` is there twice")).remedy("keep one of the two");
            let Some(first) = self.first_of(text, span) else { return finding };
            return finding.and(self.place(first), "first here");
        }
        if message.starts_with("string values must be quoted") {
            return match text {
                "" => error("a value is missing"),
                _ => error("a string without its quotes").remedy(format!("write \"{text}\"")),
            };
        }
        let is_number = message.starts_with("unexpected leading zero");
        if is_number || message.starts_with("invalid ") && !message.contains("string") {
            let message = message.trim_end_matches(", expected nothing");
            return error(message.to_owned()).remedy("if it is meant as a string, put it in quotes");
        }
        error(message.to_owned())
    }

    /// What is wrong at `span`, where it is a character that only looks like one of TOML's.
    fn typography(&self, span: &Range<usize>, text: &str, message: &str) -> Option<Finding> {
        let is_space = |c: char| !c.is_ascii() && (c.is_whitespace() || c == '\u{200b}' || c == '\u{feff}');
        if let Some(space) = text.chars().next().filter(|first| is_space(*first)) {
            let finding = error(format!("a space that TOML does not know, U+{:04X}", u32::from(space)));
            return Some(finding.remedy("write a plain space, or none"));
        }
        let unpaired = message.starts_with("invalid basic string") || message.starts_with("missing opening quote");
        let (_, line) = self.page.line_at(self.page.line(span.start));
        let quoted = text.contains(typography::is_quote) || unpaired && line.contains(typography::is_quote);
        quoted.then(|| typography::finding(text))
    }

    /// The place of the key (or header) that `span` repeats.
    fn first_of(&self, key: &str, span: &Range<usize>) -> Option<Range<usize>> {
        let before = self.page.text().get(..span.start)?;
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let header = self.page.text().get(begin..)?.lines().next()?.trim();
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
        // The nearest key of that name above is in the same table, unless an inline table between them has one as well.
        let mut nearest: Option<Range<usize>> = None;
        let mut tables = vec![&self.tree];
        while let Some(table) = tables.pop() {
            for (name, value) in table {
                let above = name.span().start < span.start && nearest.as_ref().is_none_or(|near| near.start < name.span().start);
                if above && name.get_ref() == key.trim_matches(['"', '\'']) {
                    nearest = Some(name.span());
                }
                tables.extend(tables_in(value));
            }
        }
        nearest
    }
}

/// The tables directly in `value`.
fn tables_in<'d, 't>(value: &'d Spanned<DeValue<'t>>) -> Vec<&'d DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => vec![table],
        DeValue::Array(array) => array.iter().filter_map(|item| item.get_ref().as_table()).collect(),
        _ => Vec::new(),
    }
}

/// Whether the parser goes on as if nothing but this one value was wrong.
fn leaves_the_rest_readable(message: &str) -> bool {
    ["string values must be quoted", "duplicate key", "invalid ", "missing comma"].iter().any(|known| message.starts_with(known))
}
