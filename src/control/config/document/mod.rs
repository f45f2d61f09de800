//! A TOML file as a tree whose values all know their places.
//!
//! serde stops at the first error. Here each wrong value is reported and reading goes on, so that
//! all errors come at once. Knows TOML and the units of values, and none of the keys.

mod deferred;
mod keyed;
mod nesting;
mod report_deferred;
mod suggest;
mod syntax;
mod table;
mod tree;
pub mod typography;
pub mod unit;
mod value;

pub use self::suggest::{did_you_mean, nearest};
pub use self::table::TomlTable;
pub use self::tree::Document;
pub use self::value::TomlValue;
