//! One TOML file as a tree, and the findings about it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::disclosure::Disclosure;
use crate::control::config::document::deferred::{DeferredFindings, MAX_ERRORS, MissingKey};
use crate::control::config::document::nesting;
use crate::control::config::encoding;
use crate::control::config::source_text::{Finding, SourceText, error};

/// One TOML file, parsed as far as its syntax permits.
#[derive(Debug)]
pub struct Document<'t> {
    pub(super) source_text: SourceText<'t>,
    pub(super) tree: DeTable<'t>,
    pub(super) torn: DamagedRanges,
    /// Required keys of absent tables, until the tables around those are finished.
    lacking: RefCell<Vec<MissingKey>>,
    pub(super) has_unknown_keys: Cell<bool>,
    /// Findings that are reported once the whole file has been read.
    pub(super) pending: RefCell<DeferredFindings>,
}

/// The parts where syntax errors make the tree unreliable.
#[derive(Debug)]
pub(super) struct DamagedRanges {
    /// Lines with a fault, from 1.
    pub lines: BTreeSet<usize>,
    /// First byte from which on nothing can be relied on. `usize::MAX` means that there is none.
    pub from: usize,
}

impl<'t> Document<'t> {
    /// Parses `bytes`. Syntax errors are among the findings, whose text is limited by `disclosure`.
    pub fn parse(file: Arc<str>, bytes: &'t [u8], disclosure: Disclosure) -> Document<'t> {
        let (text, fault) = encoding::text(bytes);
        let torn = DamagedRanges { lines: BTreeSet::new(), from: usize::MAX };
        let (source_text, tree) =
            (SourceText::new(file, text, disclosure, MAX_ERRORS), DeTable::new());
        let (lacking, has_unknown_keys, pending) = Default::default();
        let mut document = Document { source_text, tree, torn, lacking, has_unknown_keys, pending };
        if let Some(fault) = fault {
            document.mark_damaged(text.len(), fault);
        } else if let Some(at) = nesting::first_too_deep(text) {
            document.mark_damaged(at, error(format!("nested deeper than {}", nesting::MAX_DEPTH)));
        } else {
            document.parse_text(text);
        }
        document
    }

    /// Whether there is any syntax error, so that keys that seem missing may be in an unreadable
    /// part.
    pub fn has_syntax_errors(&self) -> bool {
        self.torn.from < usize::MAX || !self.torn.lines.is_empty()
    }

    /// Whether the byte `at` is in a part that may not have been read as meant.
    pub(super) fn is_damaged_at(&self, at: usize) -> bool {
        at >= self.torn.from || self.torn.lines.contains(&self.source_text.line(at))
    }

    /// Whether there is an error, because of which something may only look unused.
    pub fn has_errors(&self) -> bool {
        let is_pending = !self.pending.borrow().is_empty();
        is_pending
            || self.has_unknown_keys.get()
            || self.has_syntax_errors()
            || self.source_text.errors() > 0
    }

    /// Whether further errors are only counted, so that explaining them is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.source_text.is_full() || self.pending.borrow().is_full()
    }

    /// Records `finding` about the bytes `span`, unless a syntax error there makes the value
    /// unreliable.
    pub fn report(&self, span: Range<usize>, finding: Finding) {
        if !self.is_damaged_at(span.start) {
            self.source_text.report(span, finding);
        }
    }

    pub(super) fn note_missing(&self, lacking: MissingKey) {
        self.lacking.borrow_mut().push(lacking);
    }

    /// Takes the entries of `lacking` that satisfy `which`.
    pub(super) fn take_missing(&self, which: impl Fn(&MissingKey) -> bool) -> Vec<MissingKey> {
        self.lacking.borrow_mut().extract_if(.., |lacking| which(lacking)).collect()
    }

    /// The absent tables of the table at `parent` that have required keys.
    pub(super) fn absent_tables(&self, parent: &Range<usize>) -> Vec<&'static str> {
        let lacking = self.lacking.borrow();
        lacking
            .iter()
            .filter(|lacking| lacking.parent == *parent)
            .map(|lacking| lacking.table)
            .collect()
    }

    /// The place of the file as a whole.
    pub fn file(&self) -> Span {
        self.source_text.file()
    }

    /// The place at which `span` begins, with its line.
    pub fn place(&self, span: Range<usize>) -> Span {
        self.source_text.place(span)
    }

    /// The number of the line with the byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.source_text.line(at)
    }

    /// All findings, from top to bottom.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        for lacking in self.take_missing(|_| true) {
            self.report(lacking.parent, lacking.finding);
        }
        self.report_deferred();
        if self.has_syntax_errors() {
            // A warning may be the consequence of a part that could not be read.
            let found = self.source_text.into_diagnostics();
            return found.into_iter().filter(Diagnostic::is_error).collect();
        }
        self.source_text.into_diagnostics()
    }

    fn mark_damaged(&mut self, at: usize, finding: Finding) {
        self.source_text.report(at..at + 1, finding);
        // The text was not parsed at all, so that no key may count as missing.
        self.torn.from = 0;
    }
}

/// The tables that are direct children of `value`.
pub(super) fn tables_in<'d, 't>(value: &'d Spanned<DeValue<'t>>) -> Vec<&'d DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => vec![table],
        DeValue::Array(array) => {
            array.iter().filter_map(|item| item.get_ref().as_table()).collect()
        }
        _ => Vec::new(),
    }
}
