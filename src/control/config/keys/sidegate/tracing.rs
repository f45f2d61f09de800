//! `[tracing]`.

use crate::control::config::keys::key::{Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{choice, percent};
use crate::trace_context::TraceparentMode;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&TRACEPARENT, &SAMPLED],
    reload: "Holds for requests that come after the reload.",
    ..KeyTable::EMPTY
};

pub static TRACEPARENT: KeyWithDefault<TraceparentMode> = Key::new(
    "traceparent",
    choice(&[
        ("pass", TraceparentMode::Pass),
        ("make", TraceparentMode::Make),
        ("restart", TraceparentMode::Restart),
    ]),
    "\"pass\": backends get what was sent; \"make\": a trace begins here if none valid was sent; \
     \"restart\": always.",
)
.default(|| TraceparentMode::Pass);

pub static SAMPLED: KeyWithDefault<u8> = Key::new(
    "sampled",
    percent(),
    "Share of the traces that begin here whose flag asks all programs behind to record them.",
)
.default(|| 100);
