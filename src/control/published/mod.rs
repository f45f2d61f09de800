//! What a start needs of the last publish: the texts that `watch = "hold"` serves, and overrides.
//!
//! One file has both, so that a crash leaves the old or the new state, never a mixture. It has the
//! last good contents of live lists, chains, authorities and revocation lists as well; never a key.

mod file;
mod keeper;
mod pointer;

pub use self::file::{PublishedFault, PublishedState};
pub use self::keeper::{KeptState, PublishedKeeper};
