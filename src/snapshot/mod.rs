//! Everything compiled from the files of one generation, and its verdicts.
//!
//! `judge` is pure: the same call serves live traffic, the re-judging of open
//! tunnels, `explain` and the policies' own tests. Nothing here
//! reads a file, opens a socket or charges a budget.

pub mod ambiguity;
pub mod backend_name;
mod bans;
pub mod certificate;
pub mod client_auth;
pub mod client_certificate;
pub mod client_hello;
mod current;
pub mod explanation;
mod generation;
mod ingress;
mod judge;
pub mod key_type;
pub mod listener;
pub mod names;
pub mod revocation;
pub mod route;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;
pub mod widening;

pub use self::bans::Bans;
pub use self::current::CurrentSnapshot;
pub use self::generation::{ListenerRules, Snapshot};
pub use self::judge::{Judgement, Permit};
