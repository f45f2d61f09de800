//! Every key of `sidegate.toml` and of a policy, declared once.
//!
//! A declaration has the name, the values, the default and the meaning of a key. From it come the
//! reading, the JSON Schema, the effective configuration, the comments of `init`, the reference
//! page and the manual. To add a key, declare it in the file of its table, list it in the table's
//! `keys`, and read it with `Table::read`. `CONTRIBUTING.md` has the few steps that follow.
//!
//! Declares keys and describes them. Reads no file.

pub(super) mod any_file;
mod commented;
mod complete;
mod described;
mod file;
mod json;
pub(super) mod key;
mod kind;
pub(super) mod parse;
pub(super) mod policy;
mod reference;
pub(super) mod sidegate;

pub use self::described::{DescribedKey, DescribedTable};
pub use self::file::FileKind;
pub use self::reference::reference;

impl FileKind {
    /// The JSON Schema of the file.
    pub fn json_schema(self) -> String {
        json::schema(self.title(), self.doc(), self.root())
    }

    /// A file with every key that has a default or an example.
    pub fn complete(self) -> String {
        complete::complete(self.root())
    }

    /// Adds to `template`, a file with keys alone, the keys that it leaves out and a comment for
    /// each key, at `column`.
    ///
    /// A line `#*` becomes every other key of its table, off, with its default or an example.
    pub fn commented(self, template: &str, column: usize) -> String {
        commented::commented(template, self.root(), column)
    }
}
