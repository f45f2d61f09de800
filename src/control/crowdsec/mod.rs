//! CrowdSec: its decisions become bans, and end open tunnels.
//!
//! `bouncer` polls the Local API by `client`, `decision` parses its answers, and `store` knows
//! which decisions become bans. `coverage` bounds how wide they are together, and `hold` how many
//! clients they end. An API that is away changes nothing.

mod bouncer;
mod client;
mod coverage;
mod decision;
mod file;
mod hold;
mod reason;
mod report;
mod store;

pub use self::bouncer::{Bouncer, BouncerDeps};
pub use self::hold::{HeldBan, HeldBans};
pub use self::reason::UnappliedReason;
pub use self::report::BouncerReport;
pub use self::store::{MAX_LISTED, UnappliedDecision};
