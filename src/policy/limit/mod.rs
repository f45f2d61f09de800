//! How much a client may use: rates, counts, and limits on one tunnel.
//!
//! A limit is the value in the policy. A budget is the unused part, and outlives the generation.
//! Every table here is bounded, whatever clients send. Nothing waits: a refusal says when to try
//! again.

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
