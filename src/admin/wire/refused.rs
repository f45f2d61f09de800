//! `GET /v1/refused`: what was refused most, counted from the recent decisions.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// The rows of each table where the request has no `top`.
pub const DEFAULT_TOP: usize = 10;

/// The most rows of each table.
pub const MAX_TOP: usize = 1000;

/// A question about what was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusalsRequest {
    /// Only refusals of so many last seconds. `None` means all that are kept.
    pub last: Option<u64>,
    /// Maximum number of rows in each table, 1 to 1000. The default is 10.
    pub top: usize,
}

impl Default for RefusalsRequest {
    fn default() -> Self {
        RefusalsRequest { last: None, top: DEFAULT_TOP }
    }
}

impl AdminRequest for RefusalsRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/refused";
    type Answer = RefusedAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let last = self.last.map(|seconds| ("last", seconds.to_string()));
        let top = (self.top != DEFAULT_TOP).then(|| ("top", self.top.to_string()));
        last.into_iter().chain(top).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = RefusalsRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "last" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                    let wrong = "`last` is a number of seconds, from 1 on";
                    request.last = Some(seconds.ok_or(wrong)?);
                }
                "top" => {
                    let rows = value.parse().ok().filter(|rows| (1..=MAX_TOP).contains(rows));
                    request.top =
                        rows.ok_or_else(|| format!("`top` is a number from 1 to {MAX_TOP}"))?;
                }
                _ => return Err(unknown(name, "last and top")),
            }
        }
        Ok(request)
    }
}

/// The top refused clients, reasons, and rules with their entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedAnswer {
    /// Time by the agent's clock.
    pub now: Time,
    /// The time from which refusals are counted here.
    pub since: Time,
    /// The time since which all refusals are kept. Older ones are not counted.
    pub kept_since: Time,
    /// Number of refusals in this period. The tables below count these.
    pub refused: u64,
    /// Number of refused clients. IPv6 clients of one /64 are one.
    pub refused_clients: u64,
    /// The clients with the most refusals.
    pub clients: Vec<RefusedClient>,
    /// The reasons of the most refusals.
    pub reasons: Vec<RefusedReason>,
    /// The rules and entries that refused most.
    pub rules: Vec<RefusedRule>,
}

impl AdminAnswer for RefusedAnswer {}

/// A client with its refusals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedClient {
    /// Its address, or its /64.
    pub client: String,
    /// Number of its refusals.
    pub refused: u64,
    /// When it was refused last.
    pub last: Time,
    /// The reason at that time.
    pub reason: String,
    /// The id of that request. `null`: it was a connection before its first request.
    #[serde(deserialize_with = "nullable")]
    pub request_id: Option<String>,
}

/// A reason of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedReason {
    /// The word of the reason.
    pub reason: String,
    /// Number of refusals in the period.
    pub refused: u64,
}

/// A rule that refused, with the entry by which it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedRule {
    /// Name of the policy.
    pub policy: String,
    /// The place of the rule, as `file:line`.
    pub rule_at: String,
    /// The list with the entry. `null`: no entry holds the clients.
    #[serde(deserialize_with = "nullable")]
    pub list: Option<String>,
    /// The entry. `null`: no entry holds the clients.
    #[serde(deserialize_with = "nullable")]
    pub entry: Option<String>,
    /// The place of the entry, as `file:line`. `null`: no entry holds the clients.
    #[serde(deserialize_with = "nullable")]
    pub entry_at: Option<String>,
    /// Number of refusals in the period.
    pub refused: u64,
}
