//! Budgets: the used part of every limit, kept apart from the snapshots that name the limits.
//!
//! A snapshot is a value; what clients have used outlives it. `table` has the budgets of the whole
//! process, by the name of the policy or of the listener. Every table here is bounded, whatever
//! clients send. Nothing waits: a refusal says when to try again.

mod bucket;
mod count;
mod limiter;
mod limiters;
mod table;

pub use self::bucket::Bucket;
pub use self::count::{Count, Counts, Full, PlaceKeys};
pub use self::limiter::{Limiter, UsedBudget};
pub use self::table::{Budgets, LimiterName, LimiterUse};
