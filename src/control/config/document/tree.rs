//! One TOML file as a tree, and the findings about it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::config::diagnostic::{Diagnostic, Place};
use crate::control::config::document::nesting;
use crate::control::config::document::pending::{Lacking, MOST_ERRORS, Pending};
use crate::control::config::encoding;
use crate::control::config::page::{Finding, Page, error};
use crate::control::config::quote::Quoting;

/// One TOML file, parsed as far as its syntax permits.
#[derive(Debug)]
pub struct Document<'t> {
    pub(super) page: Page<'t>,
    pub(super) tree: DeTable<'t>,
    pub(super) torn: Torn,
    /// Required keys of absent tables, until the tables around those are finished.
    lacking: RefCell<Vec<Lacking>>,
    pub(super) has_unknown_keys: Cell<bool>,
    /// Findings that are reported once the whole file has been read.
    pub(super) pending: RefCell<Pending>,
}

/// The parts where syntax errors make the tree unreliable.
#[derive(Debug)]
pub(super) struct Torn {
    /// Lines with a fault, from 1.
    pub lines: BTreeSet<usize>,
    /// First byte from which on nothing can be relied on. `usize::MAX` means that there is none.
    pub from: usize,
}

impl<'t> Document<'t> {
    /// Parses `bytes`. Syntax errors are among the findings, whose text is limited by `quoting`.
    pub fn parse(file: Arc<str>, bytes: &'t [u8], quoting: Quoting) -> Document<'t> {
        let (text, fault) = encoding::text(bytes);
        let torn = Torn { lines: BTreeSet::new(), from: usize::MAX };
        let (page, tree) = (Page::new(file, text, quoting, MOST_ERRORS), DeTable::new());
        let (lacking, has_unknown_keys, pending) = Default::default();
        let mut document = Document { page, tree, torn, lacking, has_unknown_keys, pending };
        if let Some(fault) = fault {
            document.tear(text.len(), fault);
        } else if let Some(at) = nesting::too_deep(text) {
            document.tear(at, error(format!("nested deeper than {}", nesting::DEEPEST)));
        } else {
            document.grow(text);
        }
        document
    }

    /// Whether there is any syntax error, so that keys that seem missing may be in an unreadable
    /// part.
    pub fn is_torn(&self) -> bool {
        self.torn.from < usize::MAX || !self.torn.lines.is_empty()
    }

    /// Whether the byte `at` is in a part that may not have been read as meant.
    pub(super) fn is_torn_at(&self, at: usize) -> bool {
        at >= self.torn.from || self.torn.lines.contains(&self.page.line(at))
    }

    /// Whether there is an error, because of which something may only look unused.
    pub fn has_errors(&self) -> bool {
        let is_pending = !self.pending.borrow().is_empty();
        is_pending || self.has_unknown_keys.get() || self.is_torn() || self.page.errors() > 0
    }

    /// Whether further errors are only counted, so that explaining them is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.page.is_full() || self.pending.borrow().is_full()
    }

    /// Records `finding` about the bytes `span`, unless a syntax error there makes the value
    /// unreliable.
    pub fn report(&self, span: Range<usize>, finding: Finding) {
        if !self.is_torn_at(span.start) {
            self.page.report(span, finding);
        }
    }

    pub(super) fn lacks(&self, lacking: Lacking) {
        self.lacking.borrow_mut().push(lacking);
    }

    /// Takes the entries of `lacking` that satisfy `which`.
    pub(super) fn take_lacking(&self, which: impl Fn(&Lacking) -> bool) -> Vec<Lacking> {
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
    pub fn file(&self) -> Place {
        self.page.file()
    }

    /// The place at which `span` begins, with its line.
    pub fn place(&self, span: Range<usize>) -> Place {
        self.page.place(span)
    }

    /// The number of the line with the byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.page.line(at)
    }

    /// All findings, from top to bottom.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        for lacking in self.take_lacking(|_| true) {
            self.report(lacking.parent, lacking.finding);
        }
        self.settle();
        if self.is_torn() {
            // A warning may be the consequence of a part that could not be read.
            let found = self.page.into_diagnostics();
            return found.into_iter().filter(Diagnostic::is_error).collect();
        }
        self.page.into_diagnostics()
    }

    fn tear(&mut self, at: usize, finding: Finding) {
        self.page.report(at..at + 1, finding);
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
