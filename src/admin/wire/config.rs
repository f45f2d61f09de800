//! `GET /v1/config`: the effective configuration.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::none;

/// A request for the effective configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigRequest;

impl AdminRequest for ConfigRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/config";
    type Answer = ConfigAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn parse(query: &str) -> Result<Self, String> {
        none(query, Self::PATH).map(|()| ConfigRequest)
    }
}

/// The effective configuration: what runs, with every default filled in.
///
/// Certificates and keys are paths. `null` means not checked, or unlimited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigAnswer {
    /// The path of `sidegate.toml`.
    pub file: String,
    /// The number of the running generation.
    pub generation: u64,
    /// The digest of its files.
    pub digest: String,
    /// `sidegate.toml` under the names that the file has.
    pub sidegate: Value,
    /// The policies by name: their rules, limits and lists.
    pub policies: BTreeMap<String, Value>,
}

impl AdminAnswer for ConfigAnswer {}
