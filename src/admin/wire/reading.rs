//! From the bytes of an answer to its value, or to an error that says why it counts as none.
//!
//! A command believes nothing of an answer that it doesn't understand completely: the outcome, the
//! schema and the HTTP status have to agree.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::wire::envelope::{PRODUCT, SCHEMA};
use crate::admin::wire::message::{AdminAnswer, AdminRequest, ErrorAnswer};
use crate::observe::printable;

/// The most characters that an error shows of any text of the answer.
const MAX_EXCERPT: usize = 200;

/// An answer as it came.
#[derive(Debug, Clone, Copy)]
pub struct Received<'b> {
    /// The HTTP status of the answer.
    pub status: StatusCode,
    /// The `Server` field. `None` means that there was none, or no text.
    pub server: Option<&'b str>,
    /// The body, not yet checked to be JSON.
    pub body: &'b [u8],
}

/// Why an answer counts as none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The agent refused the request, in this sentence.
    Refused(String),
    /// The answer is not of this API's form.
    Foreign {
        /// The first fault that was found in the answer.
        why: String,
        /// What the agent says about its version. `None` means nothing readable.
        product: Option<String>,
        /// The schema that the answer has. `None` means no number.
        schema: Option<u64>,
    },
}

impl fmt::Display for ReadError {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, product, schema) = match self {
            ReadError::Refused(sentence) => return f.write_str(&printable::line(sentence)),
            ReadError::Foreign { why, product, schema } => (why, product, schema),
        };
        let product = product.as_deref().unwrap_or("an agent of unknown version");
        let schema = schema.map_or("without a schema number".into(), |it| format!("schema {it}"));
        let (why, product) = (printable::line(why), printable::line(product));
        write!(
            f,
            "an answer that this command does not understand: {why}. It came from {product} \
             ({schema}); this is {PRODUCT} (schema {SCHEMA}). Use the command of the agent's version"
        )
    }
}

/// What every answer has.
#[derive(Deserialize)]
struct SchemaNumber {
    schema: u64,
}

/// The answer to `request`, completely understood.
///
/// # Errors
/// The agent refused the request, or the answer can't be relied on.
pub fn read<R: AdminRequest>(request: &R, received: &Received<'_>) -> Result<R::Answer, ReadError> {
    let Received { status, body, .. } = received;
    let foreign = |why: String| foreign(received, why);
    // First any JSON: for a page of HTML, an error about a missing field would mislead.
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() {
        return Err(foreign(format!("it is not JSON: {}", excerpt(body))));
    }
    let SchemaNumber { schema } =
        serde_json::from_slice(body).map_err(|error| foreign(error.to_string()))?;
    // Before the error form too: another schema may give the same fields another meaning.
    if schema != SCHEMA {
        return Err(foreign(format!("its schema is {schema}")));
    }
    if is_error(*status) {
        let answer: Result<ErrorAnswer, _> = serde_json::from_slice(body);
        let answer = answer.map_err(|error| foreign(format!("status {status}, {error}")))?;
        return Err(ReadError::Refused(answer.error));
    }
    let answer: R::Answer =
        serde_json::from_slice(body).map_err(|error| foreign(error.to_string()))?;
    if answer.status() != *status {
        return Err(foreign(format!("its outcome does not match the status {status}")));
    }
    if let Some(contradiction) = answer.contradiction() {
        return Err(foreign(contradiction.to_owned()));
    }
    if !request.is_answered_by(&answer) {
        return Err(foreign("it answers another request".to_owned()));
    }
    Ok(answer)
}

/// Whether an [`ErrorAnswer`] comes with `status`. 422 comes with an outcome.
fn is_error(status: StatusCode) -> bool {
    (status.is_client_error() || status.is_server_error())
        && status != StatusCode::UNPROCESSABLE_ENTITY
}

fn foreign(received: &Received<'_>, why: String) -> ReadError {
    // Read loosely, with defaults, since it only serves the message.
    let value: Value = serde_json::from_slice(received.body).unwrap_or_default();
    let version = value.get("version").and_then(Value::as_str);
    let product = received.server.map(cut);
    let product = product.or_else(|| version.map(|version| cut(&format!("sidegate/{version}"))));
    let why = cut(&why);
    let schema = value.get("schema").and_then(Value::as_u64);
    ReadError::Foreign { why, product, schema }
}

/// The beginning of `body`, as text.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_EXCERPT)]);
    if text.is_empty() { "nothing".into() } else { format!("`{}`", text.escape_debug()) }
}

/// The first characters of `text`, and a sign that some are left out.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
