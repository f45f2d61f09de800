//! One pass over the tree: the directives, and what is noted and found wrong on the way.

use crate::import::report::Notes;
use crate::import::tree::{Fault, Id, Tree};

/// One pass over the tree.
#[derive(Debug)]
pub struct Reading<'t> {
    /// What is read.
    pub tree: &'t Tree,
    /// What is noted about it.
    pub notes: Notes,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Reading<'_> {
    /// Notes that `what` is wrong with the directive `id`.
    pub fn fault(&mut self, id: Id, what: impl Into<String>) {
        self.faults.push(self.tree.fault(id, what));
    }
}
