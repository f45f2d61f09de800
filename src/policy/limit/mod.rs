//! How much of it: rates, counts, and what one tunnel may do.
//!
//! A limit is what the policy says; a budget is what is left of it, and outlives
//! the generation. Every table here is bounded, whatever clients send. Nothing
//! waits: a refusal says when to come back.

mod bucket;
mod budget;
mod count;
mod limits;
mod rate;

pub use self::bucket::Bucket;
pub use self::budget::{Budgets, Limiters};
pub use self::count::{Count, Counts, Full};
pub use self::limits::{Exception, Limits, Share, TunnelLimits};
pub use self::rate::{Limiter, Rate};
