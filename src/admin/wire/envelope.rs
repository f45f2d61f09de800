//! The number of the schema, and the JSON text of an answer that carries it.

use serde::Serialize;

use crate::observe::printable;

/// The version of this API's form, in every answer.
///
/// Fields and informative words may be added within one schema. A change of what a field or an
/// outcome means, or a new outcome, raises it.
pub const SCHEMA: u64 = 1;

/// What an agent or a command of this program says of its version: `sidegate/0.1.0`.
pub const PRODUCT: &str = concat!("sidegate/", env!("CARGO_PKG_VERSION"));

/// The JSON Schema (2020-12) of all answers, generated from their types.
pub const JSON_SCHEMA: &str = include_str!("../../../docs/spec/admin.schema.json");

/// An answer as it is sent, with the number of its schema.
#[derive(Serialize)]
struct Envelope<'a, T> {
    schema: u64,
    #[serde(flatten)]
    answer: &'a T,
}

/// `answer` as one line of JSON, safe to print.
pub fn encode<T: Serialize>(answer: &T) -> String {
    // The types of this module have string keys and no number that JSON lacks.
    let json = serde_json::to_string(&Envelope { schema: SCHEMA, answer }).unwrap_or_default();
    printable::json(&json).into_owned()
}

/// `answer` as JSON for people, safe to print.
pub fn encode_pretty<T: Serialize>(answer: &T) -> String {
    let envelope = Envelope { schema: SCHEMA, answer };
    let json = serde_json::to_string_pretty(&envelope).unwrap_or_default();
    printable::json(&json).into_owned()
}
