//! The keys of `policies/NAME.toml`, a file for each of its tables.

pub mod certificate;
pub mod client;
pub mod limits;
pub mod lists;
pub mod message;
pub mod test;

use super::any_file::SCHEMA;
use super::key::{CustomValue, Key, KeyTable, ValueForm, ValueKind, ValueSchema};
use super::kind::{own, table, tables};

/// A baseline has no `allow`, but then no `origins`, `subprotocols`, `certificate` and `[limits]`
/// either.
const ALLOW_OR_BASELINE: &[(&str, &str)] = &[
    (
        "if",
        r#"{
  "anyOf": [
    { "required": ["limits"] },
    {
      "properties": {
        "client": { "anyOf": [
          { "required": ["origins"] },
          { "required": ["subprotocols"] },
          { "required": ["certificate"] }
        ] }
      },
      "required": ["client"]
    }
  ]
}"#,
    ),
    (
        "then",
        r#"{ "required": ["client"], "properties": { "client": { "required": ["allow"] } } }"#,
    ),
    (
        "else",
        r#"{
  "required": ["client"],
  "properties": { "client": { "anyOf": [{ "required": ["allow"] }, { "required": ["deny"] }] } }
}"#,
    ),
];

/// The top of the file.
pub static ROOT: KeyTable = KeyTable {
    keys: &[&SCHEMA, &OWNER, &LISTS, &CLIENT, &LIMITS, &TEST],
    schema: ALLOW_OR_BASELINE,
    ..KeyTable::EMPTY
};

pub static OWNER: Key<CustomValue> = Key::new(
    "owner",
    own("text", &[("type", r#""string""#)]),
    "Who answers for the policy; shown, never acted on.",
)
.example("\"security@example.com\"");

pub static LISTS: Key<CustomValue> = Key::new(
    "lists",
    ValueKind {
        words: "lists by name: an array of entries, or a table",
        form: ValueForm::Custom,
        schema: ValueSchema::ListsByName(&lists::TABLE, lists::ENTRY),
        write: |_, own| match *own {},
    },
    "Networks by name; the longest prefix decides, within its own list.",
);

pub static CLIENT: Key<CustomValue> = Key::new(
    "client",
    table(&client::TABLE),
    "Which clients are admitted, from which pages, with which subprotocols.",
);

pub static LIMITS: Key<CustomValue> = Key::new(
    "limits",
    table(&limits::TABLE),
    "A limit that is left out does not hold, but `frames`, `ping` and `pong` have defaults.",
);

pub static TEST: Key<CustomValue> = Key::new(
    "test",
    tables(&test::TABLE),
    "What must hold before a change of any file is taken up: a test that fails rejects it.",
);
