//! Who may connect: one policy's rules, and their verdict on a client and its request.
//!
//! Pure: no sockets, no files, no clock of its own (`now` is passed in). Order
//! never matters: `deny` beats `allow`, and `allow` is required.

pub mod addresses;
pub mod ban;
pub mod certificate;
pub mod deciding_rule;
pub mod forwarded;
mod identity_map;
mod identity_text;
pub mod limit;
pub mod list;
pub mod network;
pub mod origin;
pub mod peers;
pub mod proxied;
pub mod request;
pub mod route;
pub mod rule;
pub mod subject;
pub mod subprotocol;
pub mod unix;
mod verdict;
pub mod widening;
pub mod wider_lists;

pub use self::verdict::{AllowRule, Policy};
