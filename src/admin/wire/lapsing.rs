//! `GET /v1/lapsing`: the entries of lists that lapse soon.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// The seconds that a request without `within` looks ahead: 30 days.
pub const DEFAULT_LAPSING_SECONDS: u64 = 30 * 24 * 3600;

/// The most entries of an answer.
pub const MAX_LAPSING: usize = 10_000;

/// A question about entries that lapse soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LapsingRequest {
    /// The seconds to look ahead. The default is 2592000, 30 days.
    pub within: u64,
}

impl Default for LapsingRequest {
    fn default() -> Self {
        LapsingRequest { within: DEFAULT_LAPSING_SECONDS }
    }
}

impl AdminRequest for LapsingRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/lapsing";
    type Answer = LapsingAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let is_default = self.within == DEFAULT_LAPSING_SECONDS;
        (!is_default).then(|| ("within", self.within.to_string())).into_iter().collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = LapsingRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "within" => {
                    let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                    let wrong = "`within` is a number of seconds, from 1 on";
                    request.within = seconds.ok_or(wrong)?;
                }
                _ => return Err(unknown(name, "within")),
            }
        }
        Ok(request)
    }
}

/// The entries that lapse within a time, the earliest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LapsingAnswer {
    /// Time by the agent's clock.
    pub now: Time,
    /// The end of the time that was asked for.
    pub until: Time,
    /// Number of entries that lapse until then.
    pub lapsing: u64,
    /// Those entries, the earliest first; at most 10000.
    pub entries: Vec<LapsingEntry>,
}

impl AdminAnswer for LapsingAnswer {
    fn contradiction(&self) -> Option<&'static str> {
        let is_short = (self.entries.len() as u64) > self.lapsing;
        is_short.then_some("it has more entries than lapse")
    }
}

/// An entry that lapses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LapsingEntry {
    /// The policy that names the list.
    pub policy: String,
    /// Whether the policy is a candidate.
    pub candidate: bool,
    /// The list. `(allow)` and the like: entries in the rule itself.
    pub list: String,
    /// The network or users, with `!` for a carve-out.
    pub entry: String,
    /// Its place as `file:line`.
    pub place: String,
    /// The annotation `owner`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub owner: Option<String>,
    /// The annotation `ticket`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub ticket: Option<String>,
    /// The annotation `expires`, as written in a list.
    pub expires: String,
    /// The instant at which it lapses.
    pub lapses: Time,
}
