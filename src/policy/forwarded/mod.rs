//! The client of a request, as the forwarded headers of listed peers name it.
//!
//! Each proxy appends the address that it was connected from, so the rightmost address is the
//! surest. The walk goes from right to left and stops at the first address that is not listed: what
//! lies to its left was written by a client, and may be forged. Pure: no socket and no clock.

mod derivation;
mod element;
mod header;
mod report;
mod walk;

pub use self::derivation::{Derivation, MAX_HOPS, WalkEnd, WalkFault};
pub use self::header::ForwardedHeader;
pub use self::report::ForwardedReport;
pub use self::walk::{Derived, ForwardedRules};

#[cfg(test)]
mod tests;
