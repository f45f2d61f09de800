//! State of one pass over the tree: the directives, with notes and faults collected on the way.

use crate::import::report::ReportNotes;
use crate::import::tree::{DirectiveId, ImportError, Tree};

/// State of one pass over the tree.
#[derive(Debug)]
pub struct ImportContext<'t> {
    /// The tree being interpreted.
    pub tree: &'t Tree,
    /// Notes for the report, by directive.
    pub notes: ReportNotes,
    /// Errors with which nginx would not start.
    pub faults: Vec<ImportError>,
}

impl ImportContext<'_> {
    /// Records the fault `what` at the directive `id`.
    pub fn fault(&mut self, id: DirectiveId, what: impl Into<String>) {
        self.faults.push(self.tree.fault(id, what));
    }
}
