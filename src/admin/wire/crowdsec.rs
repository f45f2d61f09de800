//! `POST /v1/crowdsec`: the decisions of CrowdSec, and the order to let held ones hold.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// A question about the decisions of CrowdSec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CrowdsecRequest {
    /// `held_digest` of the held bans that are to hold. `None` means none.
    pub accept_held: Option<String>,
}

impl AdminRequest for CrowdsecRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/crowdsec";
    type Answer = CrowdsecAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        self.accept_held.iter().map(|digest| ("accept_held", digest.clone())).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = CrowdsecRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "accept_held" => request.accept_held = Some(value),
                _ => return Err(unknown(name, "accept_held=DIGEST")),
            }
        }
        Ok(request)
    }
}

/// The state of CrowdSec's decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CrowdsecAnswer {
    /// The URL of the Local API. `null`: `[crowdsec]` is not configured, or no poll has ended.
    #[serde(deserialize_with = "nullable")]
    pub url: Option<String>,
    /// Time of its last answer. `null`: none has come.
    #[serde(deserialize_with = "nullable")]
    pub answered: Option<Time>,
    /// Why the last poll failed. `null`: it did not.
    #[serde(deserialize_with = "nullable")]
    pub fault: Option<String>,
    /// Number of bans in force.
    pub bans: u64,
    /// Number of bans that are held, since they would end too many clients.
    pub held: u64,
    /// Number of tunnels and streams that the held bans would close.
    pub held_revoked: u64,
    /// Number of clients whose tunnels and streams the held bans would close.
    pub held_clients: u64,
    /// Number of open tunnels and streams; 0 while none are held.
    pub open: u64,
    /// Number of clients with open tunnels and streams; 0 while none are held.
    pub open_clients: u64,
    /// Names exactly the held bans: `accept_held` repeats it. `null`: none are held.
    #[serde(deserialize_with = "nullable")]
    pub held_digest: Option<String>,
    /// The first 1000 held bans, by the number of clients that they would end.
    pub held_bans: Vec<HeldBanReport>,
    /// Whether this request lets the held bans hold, which are those of this answer.
    pub accepted: bool,
    /// Number of decisions that are not applied, by reason.
    pub refused_counts: Vec<RefusedDecisions>,
    /// The first 1000 decisions that are not applied.
    pub refused: Vec<RefusedDecisionReport>,
}

impl AdminAnswer for CrowdsecAnswer {}

/// A ban that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HeldBanReport {
    /// The address or network.
    pub target: String,
    /// Scenario, number and origin of the decision.
    pub why: String,
    /// Number of tunnels and streams that it would close.
    pub revoked: u64,
    /// Number of clients whose tunnels and streams it would close.
    pub clients: u64,
}

/// How many decisions are not applied for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedDecisions {
    /// The word of the reason.
    pub reason: String,
    /// Number of decisions with this reason.
    pub decisions: u64,
}

/// A decision that is not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedDecisionReport {
    /// Scope and value, like `range:0.0.0.0/0`, behind the type if that is not `ban`.
    pub decision: String,
    /// Its number in the database of the Local API.
    pub id: i64,
    /// The word of the reason: `type`, `scope`, `unreadable`, `wide`, `total`, `loopback`, `peer`,
    /// `test` or `lifted`.
    pub reason: String,
    /// A sentence about the reason.
    pub says: String,
}
