//! Informative words of answers. A reader shows an unknown one as it is.
//!
//! Outcomes are not among them: an unknown outcome is an error (see each answer's type).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A word that this version doesn't know.
pub type UnknownWord = String;

/// Implements `Display` as the word on the wire.
macro_rules! display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}

display!(
    DecisionResult,
    EntryKind,
    ReloadCause,
    ListenerProtocol,
    DeliveryForm,
    ExplainedKind,
    RuleName,
    WarningKind,
    StageWord,
    FilesState
);

/// A tunnel or an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum EntryKind {
    /// A WebSocket.
    Tunnel,
    /// A plain request and its answer, such as a stream of events.
    Exchange,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DecisionResult {
    /// A backend answered it, or it was redirected.
    Permitted,
    /// Sidegate refused it.
    Refused,
    /// The backend gave no usable answer, or the client left.
    Failed,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// What asked for a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ReloadCause {
    /// A file was saved.
    Saved,
    /// A poll found a change.
    Poll,
    /// SIGHUP.
    Signal,
    /// `sidegate reload`, or another request at this socket.
    Asked,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// What a listener expects from its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ListenerProtocol {
    /// TLS.
    Tls,
    /// HTTP without TLS.
    Plain,
    /// HTTP without TLS, answered with a redirect to https.
    Redirect,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// The form in which a client learns of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum DeliveryForm {
    /// An answer with the status.
    Answer,
    /// A WebSocket is accepted, and closed with the code.
    Close,
    /// The connection is closed without an answer.
    Drop,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ExplainedKind {
    /// A WebSocket.
    Upgrade,
    /// Plain HTTP.
    Plain,
    /// A word of a newer agent, or nothing where the gate refused the request unread.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// A rule that a request is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum RuleName {
    /// A ban, which the running agent alone knows.
    Ban,
    /// The baseline's `deny`.
    Baseline,
    /// The readings of the path.
    Path,
    /// The policy's `deny`.
    Deny,
    /// The policy's `allow`.
    Allow,
    /// The policy's `origins`.
    Origin,
    /// The policy's `certificate`.
    Certificate,
    /// The policy's `subprotocols`.
    Subprotocol,
    /// The route's `http`, which refuses plain HTTP.
    Http,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// Warnings about the agent's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum WarningKind {
    /// A drain has begun.
    Draining,
    /// The running configuration differs from the files: the last reload was rejected.
    Rejected,
    /// Saved files count only after `sidegate reload`.
    Pending,
    /// A failed test of a policy is overridden.
    Overridden,
    /// Files are polled, because watching them failed.
    WatchDegraded,
    /// The clients of a listener cannot be told apart.
    IdentityCollapsed,
    /// The last dial of a backend failed.
    BackendDown,
    /// The name of a backend does not resolve.
    Unresolved,
    /// A certificate has fewer than 14 days left, or has expired.
    Certificate,
    /// A revocation list of client certificates has expired.
    CrlExpired,
    /// Bans or published files are not kept over a restart, or their file was damaged.
    State,
    /// CrowdSec does not answer, or its bans are held.
    Crowdsec,
    /// A list is older than its `max_age`.
    Stale,
    /// A policy has 90 % of its maximum of tunnels.
    Capacity,
    /// All tunnels, at least 20, have the same client: possibly a proxy.
    OneClient,
    /// Log lines were dropped.
    LogDrops,
    /// A bug ended connections.
    Panics,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// A stage of the agent's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum StageWord {
    /// Sockets are bound; signals are not handled yet.
    Starting,
    /// Requests are served.
    Serving,
    /// A drain was ordered.
    Draining,
    /// The process is ending.
    Ended,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}

/// How the files on disk relate to the running generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum FilesState {
    /// The last look at the files found those of the running generation.
    Current,
    /// The last reload was rejected: the files have errors.
    Rejected,
    /// Saved files are held back until `sidegate reload`.
    Pending,
    /// A word of a newer agent.
    #[serde(untagged)]
    Other(UnknownWord),
}
