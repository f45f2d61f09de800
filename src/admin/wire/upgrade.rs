//! `POST /v1/upgrade`: hands over to a new process.

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::nullable;
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};

/// Time for the new process to become ready, unless the request says otherwise.
pub const DEFAULT_UPGRADE_SECONDS: u64 = 30;

/// Longest time for the new process: below the minute that a connection to the socket may take.
pub const MAX_UPGRADE_SECONDS: u64 = 50;

/// A request to hand over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UpgradeRequest {
    /// Absolute path of the program to start. `None` means the path by which the agent was started.
    pub binary: Option<String>,
    /// Seconds for the new process to become ready, from 1 to 50. `None` means 30.
    pub seconds: Option<u64>,
    /// Whether the new program only loads the files, and nothing is handed over.
    pub dry_run: bool,
}

impl UpgradeRequest {
    /// Time for the new process to become ready.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(DEFAULT_UPGRADE_SECONDS))
    }
}

impl AdminRequest for UpgradeRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/upgrade";
    type Answer = UpgradeAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let binary = self.binary.iter().map(|binary| ("binary", binary.clone()));
        let seconds = self.seconds.iter().map(|seconds| ("seconds", seconds.to_string()));
        let dry_run = self.dry_run.then(|| ("dry_run", "true".to_owned()));
        binary.chain(seconds).chain(dry_run).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = UpgradeRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "binary" if value.starts_with('/') => request.binary = Some(value),
                "binary" => return Err("`binary` is an absolute path".into()),
                "seconds" => {
                    let seconds = value.parse().ok();
                    let seconds = seconds.filter(|one| (1..=MAX_UPGRADE_SECONDS).contains(one));
                    let wrong = || format!("`seconds` is a number from 1 to {MAX_UPGRADE_SECONDS}");
                    request.seconds = Some(seconds.ok_or_else(wrong)?);
                }
                "dry_run" if value == "true" => request.dry_run = true,
                "dry_run" => return Err("`dry_run` is `true`, or left out".into()),
                _ => return Err(unknown(name, "binary=PATH, seconds=N and dry_run=true")),
            }
        }
        Ok(request)
    }

    fn is_answered_by(&self, answer: &UpgradeAnswer) -> bool {
        match answer {
            UpgradeAnswer::Upgraded { .. } => !self.dry_run,
            UpgradeAnswer::Tried { .. } => self.dry_run,
        }
    }
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum UpgradeAnswer {
    /// The new process serves.
    Upgraded {
        /// Version of the new program.
        version: String,
        /// Path of the new program.
        binary: String,
        /// Process id of the new process.
        pid: u32,
        /// Process id of the former process, which keeps its tunnels until they end.
        former_pid: u32,
        /// Number of tunnels that the former process keeps.
        tunnels: u64,
        /// Time after which the former process drains: `[shutdown] deadline_upgrade`.
        deadline: String,
        /// The service manager that was told of the new main process. `null`: there is none.
        #[serde(deserialize_with = "nullable")]
        manager: Option<String>,
    },
    /// The new program can load the files. Nothing was handed over.
    Tried {
        /// Version of the new program.
        version: String,
        /// Path of the new program.
        binary: String,
    },
}

impl AdminAnswer for UpgradeAnswer {}
