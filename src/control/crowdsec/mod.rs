//! CrowdSec: its decisions become bans, and end open tunnels.
//!
//! `bouncer` polls the Local API by `client`, `decision` parses its answers, and `store` knows
//! which decisions become bans. An API that is away changes nothing.

mod bouncer;
mod client;
mod decision;
mod file;
mod reason;
mod store;

pub use self::bouncer::{Bouncer, BouncerDeps, BouncerReport, HeldBans};
pub use self::reason::UnappliedReason;
pub use self::store::{MAX_LISTED, UnappliedDecision};
