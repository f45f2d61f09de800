//! Keys that several tables of both kinds of files have.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::json;

use super::key::{CustomValue, Key, KeyTable, ValueForm, ValueKind, ValueSchema};
use super::kind::{count, own};
use crate::control::config::document::unit::{self, MAX_TOKENS, format_rate};
use crate::policy::limit::Rate;

pub static SCHEMA: Key<CustomValue> =
    Key::new("schema", own("`1`", &[("const", "1")]), "Format of the file.")
        .required()
        .example("1")
        .not_in_init()
        .defined_as("schema");

pub static NAME: Key<CustomValue> = Key::new(
    "name",
    own(
        "name",
        &[
            ("type", r#""string""#),
            ("pattern", r#""^[a-z][a-z0-9_-]*$""#),
            ("not", r#"{ "enum": ["any", "unix", "none", "null", "baseline"] }"#),
        ],
    ),
    "Name, and label of metrics. Lower-case letters, digits, - and _, the first a letter.",
)
.required()
.example("\"main\"")
.defined_as("name");

/// `{ rate = "5/s", burst = 20 }`.
pub static BUDGET: KeyTable = KeyTable { keys: &[&RATE, &BURST], ..KeyTable::EMPTY };

pub static RATE: Key<(NonZeroU32, Duration)> =
    Key::new("rate", rate(), "Rate per second or minute.").required().example("\"50/s\"");

pub static BURST: Key<u32> =
    Key::new("burst", count(1, MAX_TOKENS), "So many at once. Left out, as many as the rate has.")
        .example("200");

/// A rate: tokens, and the time in which they are all earned.
pub const fn rate() -> ValueKind<(NonZeroU32, Duration)> {
    ValueKind {
        words: "rate",
        form: ValueForm::Text { expected: "a rate like \"5/s\"", parse: unit::rate },
        schema: ValueSchema::Members(&[
            ("type", r#""string""#),
            ("pattern", r#""^0*[1-9][0-9]*/[sm]$""#),
        ]),
        write: |_, (tokens, per)| format_rate(*tokens, *per).into(),
    }
}

/// A table with a rate and a burst, or `"off"`, which is `None`.
pub const fn budget_or_off() -> ValueKind<Option<Rate>> {
    ValueKind {
        words: "table, or `\"off\"`",
        form: ValueForm::Custom,
        schema: ValueSchema::OffOrTable(&BUDGET),
        write: |_, rate| rate.as_ref().map_or_else(|| "off".into(), written_budget),
    }
}

fn written_budget(rate: &Rate) -> serde_json::Value {
    json!({ "rate": format_rate(rate.tokens, rate.per), "burst": rate.burst })
}
