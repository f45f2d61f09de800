//! A list of `[lists]` that is read from a file.

use std::time::Duration;

use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{boolean, choice, percent, positive_duration, text};

/// The JSON Schema of an entry that is written in the policy itself.
pub const ENTRY: &str = r#"{
  "description": "A network, then owner= ticket= expires=; \"!\" before it carves out.",
  "type": "string",
  "pattern": "^[ \\t]*(!?[0-9A-Fa-f.:]+(/[0-9]+)?([ \\t].*)?|[#;].*)?$"
}"#;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&FILE, &MAX_AGE, &ON_STALE, &MAX_SHRINK, &LIVE],
    reload: "Open tunnels are judged again by the lists as they are now.",
    ..KeyTable::EMPTY
};

pub static FILE: Key<CustomValue> = Key::new(
    "file",
    text("path"),
    "A .cidr file, relative to the policy: below its folder or one of `lists_from`, links \
     followed.",
)
.required()
.example("\"lists/partners.cidr\"");

pub static MAX_AGE: Key<Duration> = Key::new(
    "max_age",
    positive_duration(),
    "A file that was modified longer ago is stale: a warning and a metric.",
)
.example("\"36h\"");

/// The value says whether a stale list rejects a reload.
pub static ON_STALE: KeyWithDefault<bool> = Key::new(
    "on_stale",
    choice(&[("warn", false), ("reject", true)]),
    "\"reject\": a stale list rejects a reload, never a start.",
)
.default(|| false);

pub static MAX_SHRINK: KeyWithDefault<u8> = Key::new(
    "max_shrink",
    percent(),
    "A reload in which the list loses a larger share of its entries is rejected until `sidegate \
     reload --accept-shrink NAME`. Left out, a list of up to 100 entries may shrink freely. Never \
     checked at a start.",
)
.default(|| 50);

pub static LIVE: KeyWithDefault<bool> = Key::new(
    "live",
    boolean(),
    "Whether a save of the list counts at once under `[reload] watch = \"hold\"`, which holds all \
     other files. The same in every policy with that file.",
)
.default(|| false);
