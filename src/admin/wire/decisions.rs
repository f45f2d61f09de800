//! `GET /v1/decisions`: the recent decisions on one request id.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::ban::BanStatus;
use crate::admin::wire::explain::EntryVerdict;
use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::words::{DecisionResult, ExplainedKind};

/// The most decisions of an answer.
pub const MAX_DECISIONS: usize = 10_000;

/// A question about one request id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionsRequest {
    /// The id, as in a refusal's body, in `X-Request-Id` and in the log.
    pub request: String,
}

impl AdminRequest for DecisionsRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/decisions";
    type Answer = DecisionsAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![("request", self.request.clone())]
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = None;
        for (name, value) in pairs(query)? {
            match name {
                "request" if !value.is_empty() => request = Some(value),
                "request" => return Err("`request` is empty: write the id of a request".into()),
                _ => return Err(unknown(name, "request")),
            }
        }
        Ok(DecisionsRequest { request: request.ok_or("`request` is missing")? })
    }

    fn is_answered_by(&self, answer: &DecisionsAnswer) -> bool {
        self.request == answer.request
    }
}

/// The decisions on one request id, and how far back they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionsAnswer {
    /// The id that was asked for.
    pub request: String,
    /// Time by the agent's clock.
    pub now: Time,
    /// The time since which all refusals and failures are kept.
    pub refused_since: Time,
    /// The time since which all permitted requests are kept.
    pub permitted_since: Time,
    /// Number of decisions with this id.
    pub matching: u64,
    /// Those decisions, the newest first; at most 10000.
    pub decisions: Vec<DecisionReport>,
}

impl AdminAnswer for DecisionsAnswer {
    fn contradiction(&self) -> Option<&'static str> {
        let is_short = (self.decisions.len() as u64) > self.matching;
        is_short.then_some("it has more decisions than match")
    }
}

/// One decision of the rings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionReport {
    /// When it was made.
    pub at: Time,
    /// What became of the request.
    pub result: DecisionResult,
    /// The word of a refusal or a failure, as in docs/operations.md. `null`: permitted.
    #[serde(deserialize_with = "nullable")]
    pub reason: Option<String>,
    /// The status of the answer. `null`: no answer was sent.
    #[serde(deserialize_with = "nullable")]
    pub status: Option<u16>,
    /// The kind of request: `upgrade` or `plain`.
    pub kind: ExplainedKind,
    /// Name of the listener.
    pub listener: String,
    /// The client that was judged.
    pub client: String,
    /// The address of the socket's remote end.
    pub peer: String,
    /// The name of the client's certificate. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub identity: Option<String>,
    /// The host that was requested.
    pub host: String,
    /// The requested path, without the query.
    pub path: String,
    /// The `Origin` that was sent. `null`: none, or the request head was refused before.
    #[serde(deserialize_with = "nullable")]
    pub origin: Option<String>,
    /// The route. `null`: none was found.
    #[serde(deserialize_with = "nullable")]
    pub route: Option<String>,
    /// The policy that judged. `null`: none did.
    #[serde(deserialize_with = "nullable")]
    pub policy: Option<String>,
    /// The generation that judged. `null`: the request was refused before.
    #[serde(deserialize_with = "nullable")]
    pub generation: Option<u64>,
    /// The key of the rule that decided. `null`: no rule of a policy did.
    #[serde(deserialize_with = "nullable")]
    pub rule: Option<String>,
    /// The place of that rule, as `file:line`. `null`: no rule of a policy decided.
    #[serde(deserialize_with = "nullable")]
    pub rule_at: Option<String>,
    /// The list with the entry by which the rule decided. `null`: no entry holds the client.
    #[serde(deserialize_with = "nullable")]
    pub list: Option<String>,
    /// That entry. `null`: no entry holds the client.
    #[serde(deserialize_with = "nullable")]
    pub by: Option<EntryVerdict>,
    /// The entry that would admit the client without `by`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub would_match: Option<String>,
    /// The ban that refused, as it was then. `null`: no ban did.
    #[serde(deserialize_with = "nullable")]
    pub ban: Option<BanStatus>,
}
