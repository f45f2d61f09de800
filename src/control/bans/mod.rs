//! Bans: ordered, lifted and kept by the control plane. Decisions only read the set in force.

mod file;
mod gate;
mod keeper;
mod kept;
mod writer;

pub use self::gate::{NeededOverride, needed_overrides};
pub use self::keeper::{BanKeeper, BanOrder, BanOutcome, BanState};
