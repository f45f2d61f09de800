//! Upgrades without loss: a running process hands sockets, state and open tunnels to a new one.
//!
//! `giver` is the side of the old process, `taker` that of the new one. The old process keeps the
//! bytes of its tunnels until they end. The new one alone reads files, judges and counts.

pub mod binary;
pub mod channel;
pub mod giver;
pub mod link;
pub mod offer;
pub mod peers;
mod pump;
pub mod request;
pub mod rows_in;
pub mod rows_out;
mod successor;
pub mod taker;
#[cfg(test)]
mod tests;
mod wire_budget;
mod wire_row;
