//! `GET /v1/bans`: the bans in force.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::ban::BanStatus;
use crate::admin::wire::field::nullable;
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::none;

/// A request for the bans in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BansRequest;

impl AdminRequest for BansRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/bans";
    type Answer = BansAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn parse(query: &str) -> Result<Self, String> {
        none(query, Self::PATH).map(|()| BansRequest)
    }
}

/// The bans in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BansAnswer {
    /// The bans: networks, users, then names of certificates.
    pub bans: Vec<BanStatus>,
    /// The file that keeps them. `null`: they are in memory only.
    #[serde(deserialize_with = "nullable")]
    pub file: Option<String>,
    /// Sentences that name the faults of that file.
    pub faults: Vec<String>,
}

impl AdminAnswer for BansAnswer {}
