//! `POST /v1/pause`: reads no saved file for a moment.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::none;

/// A request to read no saved file until the next reload, while a command replaces files. The pause
/// ends with the connection that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseRequest;

impl AdminRequest for PauseRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/pause";
    type Answer = PauseAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn parse(query: &str) -> Result<Self, String> {
        none(query, Self::PATH).map(|()| PauseRequest)
    }
}

/// How long no saved file is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PauseAnswer {
    /// Milliseconds until saved files are read again, if neither a reload is requested nor the
    /// connection closed before.
    pub pause_ms: u64,
}

impl AdminAnswer for PauseAnswer {}
