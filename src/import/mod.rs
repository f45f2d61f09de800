//! The nginx importer: turns an nginx configuration into a Sidegate configuration that makes the
//! same decisions, and reports every difference.
//!
//! `tree` and `lexer` read the file, `nginx` interprets the directives, `translate` finds the
//! equivalent configuration, and `write` renders it. A directive that nginx itself would reject is
//! an error; a directive that Sidegate cannot express becomes a line of the `report`. The importer
//! starts nothing, resolves no names and writes no files.

pub mod access;
pub mod lexer;
pub mod nginx;
pub mod report;
pub mod translate;
pub mod tree;
pub mod write;
