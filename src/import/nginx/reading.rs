//! State of one pass over the tree: the directives, with notes and faults collected on the way.

use crate::import::report::Notes;
use crate::import::tree::{Fault, Id, Tree};

/// State of one pass over the tree.
#[derive(Debug)]
pub struct Reading<'t> {
    /// The tree being interpreted.
    pub tree: &'t Tree,
    /// Notes for the report, by directive.
    pub notes: Notes,
    /// Errors with which nginx would not start.
    pub faults: Vec<Fault>,
}

impl Reading<'_> {
    /// Records the fault `what` at the directive `id`.
    pub fn fault(&mut self, id: Id, what: impl Into<String>) {
        self.faults.push(self.tree.fault(id, what));
    }
}
