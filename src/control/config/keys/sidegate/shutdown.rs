//! `[shutdown]`.

use std::time::Duration;

use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::duration;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&DELAY, &SPREAD, &DEADLINE, &DEADLINE_UPGRADE, &CODE],
    reload: "The keys hold for a shutdown that begins after the reload.",
    ..KeyTable::EMPTY
};

pub static DELAY: KeyWithDefault<Duration> =
    Key::new("delay", duration(), "/readyz says 503 for this time before accepting stops.")
        .default(|| Duration::ZERO);

pub static SPREAD: KeyWithDefault<Duration> =
    Key::new("spread", duration(), "Tunnels are closed over this time.")
        .default(|| Duration::from_secs(5));

pub static DEADLINE: KeyWithDefault<Duration> = Key::new(
    "deadline",
    duration(),
    "After this time the rest is cut. Keep it below the unit's TimeoutStopSec.",
)
.default(|| Duration::from_secs(30));

pub static DEADLINE_UPGRADE: KeyWithDefault<Duration> = Key::new(
    "deadline_upgrade",
    duration(),
    "After an upgrade, the former process drains once this time is over.",
)
.default(|| Duration::from_secs(24 * 60 * 60));

pub static CODE: KeyWithDefault<u16> = Key::new(
    "code",
    ValueKind {
        words: "`1001` or `1012`",
        form: ValueForm::Custom,
        schema: ValueSchema::Members(&[("enum", "[1001, 1012]")]),
        write: |_, code: &u16| (*code).into(),
    },
    "Close code: 1001 (going away) or 1012 (service restart).",
)
.default(|| 1001);
