//! The nginx importer: from an nginx configuration to one of Sidegate's that decides alike, and a
//! report of every difference.
//!
//! `tree` and `lexer` read the file, `nginx` gives it nginx' meaning, `translate` finds the
//! configuration that decides alike, `write` makes its pages. A directive that nginx would not start
//! with is an error; one that Sidegate cannot express is a line of the `report`. It starts nothing,
//! resolves no name and writes no file.

pub mod access;
pub mod lexer;
pub mod nginx;
pub mod report;
pub mod translate;
pub mod tree;
pub mod write;
