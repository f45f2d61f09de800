//! `[process]`.

use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::count_or_auto;
use crate::control::config::settings::StateSetting;

/// Most data-plane threads: more than any host has CPUs.
const MAX_THREADS: u32 = 4096;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&THREADS, &STATE],
    reload: "A reload with a change is rejected, since it needs a restart.",
    ..KeyTable::EMPTY
};

pub static THREADS: KeyWithDefault<Option<usize>> = Key::new(
    "threads",
    count_or_auto(MAX_THREADS),
    "Number of data-plane threads; \"auto\": as many as the CPUs that the process may use.",
)
.default(|| None);

pub static STATE: KeyWithDefault<StateSetting> = Key::new(
    "state",
    ValueKind {
        words: "`\"auto\"`, a path, or `\"off\"`",
        form: ValueForm::Custom,
        schema: ValueSchema::Members(&[("type", r#""string""#), ("minLength", "1")]),
        write: |_, state| match state {
            StateSetting::Auto => "auto".into(),
            StateSetting::Path(path) => path.display().to_string().into(),
            StateSetting::Off => "off".into(),
        },
    },
    "Folder for what outlasts a restart, such as bans. \"auto\": that of systemd, or below \
     /var/lib/sidegate or $XDG_STATE_HOME/sidegate; or a path; \"off\": in memory only.",
)
.default(|| StateSetting::Auto);
