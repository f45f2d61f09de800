//! `message` of `[limits]`.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::control::config::keys::any_file::rate;
use crate::control::config::keys::key::{Key, KeyTable};
use crate::control::config::keys::kind::size;

pub static TABLE: KeyTable = KeyTable { keys: &[&MAX, &RATE], ..KeyTable::EMPTY };

pub static MAX: Key<u64> = Key::new(
    "max",
    size("size above zero", "a size like \"1MiB\""),
    "Largest message of either side. Left out: unlimited.",
);

pub static RATE: Key<(NonZeroU32, Duration)> =
    Key::new("rate", rate(), "Messages of the client. Left out: unlimited.");
