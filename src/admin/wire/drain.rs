//! `POST /v1/drain`: stops accepting, lets tunnels end, and ends the agent.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::none;

/// A request to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainRequest;

impl AdminRequest for DrainRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/drain";
    type Answer = DrainAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn parse(query: &str) -> Result<Self, String> {
        none(query, Self::PATH).map(|()| DrainRequest)
    }
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DrainAnswer {
    /// The agent drains (202).
    Draining(Draining),
}

impl AdminAnswer for DrainAnswer {
    fn status(&self) -> StatusCode {
        StatusCode::ACCEPTED
    }
}

/// A drain that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Draining {
    /// Whether the drain had begun before, and this request ordered nothing.
    pub already: bool,
    /// Number of open tunnels.
    pub tunnels: u64,
    /// Number of open exchanges of plain HTTP.
    pub exchanges: u64,
    /// The process id of the agent. A second SIGTERM cuts the remaining tunnels; a second request
    /// doesn't.
    pub pid: u32,
    /// The settings of the drain.
    pub shutdown: ShutdownTimes,
}

/// `[shutdown]`, with times as they may be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ShutdownTimes {
    /// Time until accepting stops.
    pub delay: String,
    /// The window over which tunnels are closed.
    pub spread: String,
    /// Time after which the remaining tunnels are cut. The process then exits with 0.
    pub deadline: String,
    /// The close code that tunnels get.
    pub code: u16,
}
