//! A TOML file as a tree whose values all know their places.
//!
//! serde stops at the first error. Here each wrong value is reported and reading goes on, so that
//! all errors come at once. Knows TOML and the units of values, and none of the keys.

mod keyed;
mod nearest;
mod nesting;
mod pending;
mod settle;
mod syntax;
mod table;
mod tree;
pub mod typography;
pub mod unit;
mod value;

pub use self::nearest::{did_you_mean, nearest};
pub use self::table::Table;
pub use self::tree::Document;
pub use self::value::Value;
