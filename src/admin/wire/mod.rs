//! The wire form of the admin API: a type for every request and every answer, shared by the agent,
//! the commands and the tests.
//!
//! docs/admin.md and docs/spec/admin.schema.json are generated from these types. Nothing here opens
//! a socket or knows how a question is answered.

mod config;
mod diff;
#[cfg(test)]
mod docs;
mod drain;
mod explain;
mod health;
mod query;
mod reading;
mod reload;
mod report;
mod status;
#[cfg(test)]
mod tests;
mod tunnels;
mod word;

use std::fmt;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::observe::printable;

pub use self::config::{ConfigAnswer, ConfigRequest};
pub use self::diff::{
    Changes, DiffAnswer, DiffRequest, KeyChange, ListChange, RevocationCount, RevokedTunnel,
    StreamChanges, TunnelChanges,
};
pub use self::drain::{DrainAnswer, DrainRequest, Draining, ShutdownTimes};
pub use self::explain::{
    CandidateVerdict, EntryVerdict, ExplainAnswer, ExplainRequest, LimitVerdict, ListVerdict,
    RuleVerdict,
};
pub use self::health::{LivezAnswer, ReadyState, ReadyzAnswer};
pub use self::query::encode_query;
pub use self::reading::{ReadError, Received, read};
pub use self::reload::{ReloadAnswer, ReloadRequest};
pub use self::report::{DiagnosticReport, Severity};
pub use self::status::{
    BackendStatus, CandidateStatus, CertificateStatus, LastOutcome, LastReload, ListStatus,
    ListenerStatus, PolicyStatus, RouteCounts, RouteRates, RouteStatus, StatusAnswer,
    StatusRequest, TrafficCount, TrafficRate, Warning,
};
pub use self::tunnels::{MAX_PAGE, TunnelStatus, TunnelsAnswer, TunnelsRequest};
pub use self::word::{
    ExplainedKind, ListenerProtocol, ReloadCause, RuleName, Unknown, WarningWord,
};

/// The version of this API's form, in every answer.
///
/// Fields and informative words may be added within one schema. A change of what a field or an
/// outcome means, or a new outcome, raises it.
pub const SCHEMA: u64 = 1;

/// What an agent or a command of this program says of its version: `sidegate/0.1.0`.
pub const PRODUCT: &str = concat!("sidegate/", env!("CARGO_PKG_VERSION"));

/// The JSON Schema (2020-12) of all answers, generated from their types.
pub const JSON_SCHEMA: &str = include_str!("../../../docs/spec/admin.schema.json");

/// A request to the admin socket.
pub trait AdminRequest: Sized {
    /// The method it is made with.
    const METHOD: Method;
    /// Its path.
    const PATH: &'static str;
    /// The type of its answers.
    type Answer: AdminAnswer;

    /// Its parameters by name, in the order of the documentation. Defaults are left out.
    fn parameters(&self) -> Vec<(&'static str, String)>;

    /// Reads the query of a request target.
    ///
    /// # Errors
    /// A sentence that names the wrong parameter and says what to write.
    fn parse(query: &str) -> Result<Self, String>;

    /// Whether `answer` belongs to this request, and not to one with other parameters.
    fn is_answered_by(&self, _answer: &Self::Answer) -> bool {
        true
    }

    /// The request target: the path with the encoded parameters.
    fn target(&self) -> String {
        format!("{}{}", Self::PATH, encode_query(&self.parameters()))
    }
}

/// An answer of the admin socket.
pub trait AdminAnswer: Serialize + DeserializeOwned {
    /// The HTTP status that it is sent with.
    fn status(&self) -> StatusCode {
        StatusCode::OK
    }

    /// A sentence about fields that contradict each other. `None` means that they agree.
    fn contradiction(&self) -> Option<&'static str> {
        None
    }
}

/// A request that could not be answered, or not in this way: the body of every 4xx and 5xx but 422.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ErrorAnswer {
    /// A sentence that says what is wrong, and what to write.
    pub error: String,
}

/// An instant in UTC (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Time).map_err(|_| serde::de::Error::custom("a time is not RFC 3339"))
    }
}

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

/// Reads a field that may be `null` and may not be absent.
///
/// Derived readers take an absent `Option` for `None`, which would turn a missing refusal into
/// none.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}
