//! What a reload would do now: `POST /v1/diff`.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admin::{query, status};
use crate::control::difference::difference;
use crate::control::reload::Preview;

/// The policy whose candidate is looked at as if it had been promoted, by `promote=NAME`.
///
/// # Errors
/// A sentence that says which parameter is wrong.
pub fn promoted(text: &str) -> Result<Option<String>, String> {
    let mut promoted = None;
    for (name, value) in query::pairs(text)? {
        match name {
            "promote" if !value.is_empty() => promoted = Some(value),
            _ => return Err(query::unknown(name, "promote=NAME")),
        }
    }
    Ok(promoted)
}

/// The outcome in a word, the answer's status, and the answer.
pub fn told(preview: &Preview, now: Timestamp) -> (&'static str, StatusCode, Value) {
    let Preview { now: before, settings, next, weighed } = preview;
    let built = match next {
        Ok(built) => built,
        Err(errors) => {
            let body = json!({ "outcome": "rejected", "generation": before.generation, "diagnostics": status::told(errors) });
            return ("rejected", StatusCode::UNPROCESSABLE_ENTITY, body);
        }
    };
    let mut body = json!(difference(before, settings, built, weighed, now));
    body["outcome"] = if built.snapshot.digest == before.digest { "unchanged" } else { "changed" }.into();
    body["generation"] = before.generation.into();
    body["from"] = json!(&*before.digest);
    body["to"] = json!(&*built.snapshot.digest);
    body["held"] = status::told(&weighed.held).into();
    body["diagnostics"] = status::told(&built.warnings).into();
    ("told", StatusCode::OK, body)
}
