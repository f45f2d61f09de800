//! What a start needs of the last publish: the texts that `watch = "hold"` serves, and overrides.
//!
//! One file has both, so that a crash leaves the old or the new state, never a mixture. Keys,
//! certificates, revocation lists and live lists are not copied.

mod file;
mod keeper;

pub use self::file::{PublishedFault, PublishedState};
pub use self::keeper::{KeptState, PublishedKeeper};
