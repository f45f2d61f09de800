//! `[process]`.

use crate::control::config::keys::key::{Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::count_or_auto;

/// Most data-plane threads: more than any host has CPUs.
const MAX_THREADS: u32 = 4096;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&THREADS],
    reload: "A reload with a change is rejected, since it needs a restart.",
    ..KeyTable::EMPTY
};

pub static THREADS: KeyWithDefault<Option<usize>> = Key::new(
    "threads",
    count_or_auto(MAX_THREADS),
    "Number of data-plane threads; \"auto\": as many as the CPUs that the process may use.",
)
.default(|| None);
