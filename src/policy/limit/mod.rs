//! How much a client may use: rates, counts, and limits on one tunnel.
//!
//! A limit is the value in the policy, and nothing here changes. The used part of a limit is a
//! budget, which `tunnels/budget` keeps.

mod key;
mod limits;
mod rate;

pub use self::key::{IdentityKey, LimitKey, LimitUnit, LimitUnits};
pub use self::limits::{
    ClientLimits, ExceptionScope, LimitException, LimiterId, Limits, RateLimit, TunnelLimits,
};
pub use self::rate::{MAX_REFILL_TIME, Rate};
