//! The tables of live tunnels and of exchanges in flight: the holder of each, the charge for
//! another, and the orders that reach them from outside.
//!
//! `budget` has the used part of every limit. `charge` takes what a permit costs and gives a
//! [`Slot`]. The slot enters the `registry` when the tunnel opens and leaves it on drop.
//! `reconcile` judges all entries again under a new generation. This module moves no byte and knows
//! no socket.

pub mod budget;
mod charge;
mod entry;
mod exchange;
mod reconcile;
mod registry;
mod remote;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
mod watch;

pub use self::charge::{Registration, Slot};
pub use self::entry::{
    CloseOrder, EndOrder, LatestVerdict, LiveEntry, MIN_STREAM_AGE, RequestSource, TunnelEnding,
    TunnelRefusal, TunnelRules,
};
pub use self::exchange::ExchangeRegistration;
pub use self::reconcile::{ReconcileImpact, ReconcileOutcome, WouldRevoke};
pub use self::registry::Tunnels;
pub use self::remote::{RemoteEntry, RemoteKind, RemotePlace};
pub use self::traffic::TrafficCell;
pub use self::watch::TableEvent;
