//! A diagnostic about a configuration file.

use serde::{Deserialize, Serialize};

use crate::admin::wire::field::nullable;

/// An error or a warning about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DiagnosticReport {
    /// The severity of the diagnostic.
    pub level: Severity,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
    /// One sentence.
    pub message: String,
    /// The remedy. `null`: no remedy is known.
    #[serde(deserialize_with = "nullable")]
    pub remedy: Option<String>,
    /// The whole diagnostic as text: several lines, without any line of the file.
    pub text: String,
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Severity {
    /// The files can't be used.
    Error,
    /// The files can be used, but need attention.
    Warning,
}
