//! The words for "no": every reason why a request or a connection is refused.
//!
//! One enum, and one exhaustive `match` each for the word, the status and the sentence, so that the
//! log, the metric, the answer and the close reason can never disagree. This module decides
//! nothing.

use std::fmt;
use std::time::Duration;

/// Why Sidegate refused. The same word appears in the log, in the `reason` label of
/// `sidegate_refusals_total`, in the answer's body and in a close reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many connections of this client hold neither a tunnel nor an answer.
    Pending,
    /// The policy's networks do not admit the client.
    Network,
    /// The PROXY header is malformed, late or missing, or comes from a peer that is not listed, or
    /// is listed no more.
    Proxy,
    /// The TLS handshake failed or took too long.
    Tls,
    /// The request head is malformed or ambiguous.
    Head(HeadError),
    /// The path holds an invalid or a deceptive escape, or leads to another policy as other servers
    /// read it.
    Path,
    /// The forwarded headers of a listed peer cannot be read.
    Forwarded,
    /// Another certificate than the one served covers the host.
    Misdirected,
    /// No route for this host and path.
    Route,
    /// The page's origin is not admitted.
    Origin,
    /// Reserved: the identity in the client's certificate is not admitted. This version asks for
    /// no client certificate, so nothing constructs it.
    Identity,
    /// None of the offered subprotocols is admitted.
    Subprotocol,
    /// The WebSocket handshake is malformed (RFC 6455 §4.2.1).
    Handshake,
    /// A WebSocket version other than 13.
    Version,
    /// Plain HTTP on a route that forwards none.
    Plain,
    /// The request's body is larger than the route's `max_body`.
    Body,
    /// The client has used up its rate.
    Rate {
        /// How long until the next token, before rounding and jitter.
        retry_after: Duration,
    },
    /// The client holds as many tunnels as the policy grants it.
    Connections,
    /// The policy's total of tunnels is reached.
    Capacity,
    /// Sidegate is shutting down, or the listener of this connection is gone.
    Draining,
    /// The backend gave no usable answer.
    Backend(BackendError),
    /// An operator's ban holds the client or its identity.
    Banned,
}

/// The fault of a request head, with its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Malformed or ambiguous: 400.
    Malformed,
    /// The request target is longer than 8 KiB: 414.
    TargetTooLong,
    /// The request target holds a control, a space or DEL: 400.
    InvalidTarget,
    /// More bytes than `max_head`, or more fields than `max_fields`: 431.
    TooLarge,
}

/// The way in which the backend failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendError {
    /// Connection refused or reset, or an invalid answer: 502.
    Failed,
    /// The connection or the answer came too late: 504.
    TimedOut,
}

impl Refusal {
    /// Every refusal once, for tables and metrics; payloads are examples.
    pub const ALL: [Refusal; 22] = [
        Refusal::Pending,
        Refusal::Network,
        Refusal::Proxy,
        Refusal::Tls,
        Refusal::Head(HeadError::Malformed),
        Refusal::Path,
        Refusal::Forwarded,
        Refusal::Misdirected,
        Refusal::Route,
        Refusal::Origin,
        Refusal::Identity,
        Refusal::Subprotocol,
        Refusal::Handshake,
        Refusal::Version,
        Refusal::Plain,
        Refusal::Body,
        Refusal::Rate { retry_after: Duration::from_secs(1) },
        Refusal::Connections,
        Refusal::Capacity,
        Refusal::Draining,
        Refusal::Backend(BackendError::Failed),
        Refusal::Banned,
    ];

    /// Index in [`Refusal::ALL`], under which it is counted.
    pub const fn number(self) -> usize {
        match self {
            Refusal::Pending => 0,
            Refusal::Network => 1,
            Refusal::Proxy => 2,
            Refusal::Tls => 3,
            Refusal::Head(_) => 4,
            Refusal::Path => 5,
            Refusal::Forwarded => 6,
            Refusal::Misdirected => 7,
            Refusal::Route => 8,
            Refusal::Origin => 9,
            Refusal::Identity => 10,
            Refusal::Subprotocol => 11,
            Refusal::Handshake => 12,
            Refusal::Version => 13,
            Refusal::Plain => 14,
            Refusal::Body => 15,
            Refusal::Rate { .. } => 16,
            Refusal::Connections => 17,
            Refusal::Capacity => 18,
            Refusal::Draining => 19,
            Refusal::Backend(_) => 20,
            Refusal::Banned => 21,
        }
    }

    /// The stable word for logs, metric labels and answers.
    pub const fn word(self) -> &'static str {
        match self {
            Refusal::Pending => "pending",
            Refusal::Network => "network",
            Refusal::Proxy => "proxy",
            Refusal::Tls => "tls",
            Refusal::Head(_) => "head",
            Refusal::Path => "path",
            Refusal::Forwarded => "forwarded",
            Refusal::Misdirected => "misdirected",
            Refusal::Route => "route",
            Refusal::Origin => "origin",
            Refusal::Identity => "identity",
            Refusal::Subprotocol => "subprotocol",
            Refusal::Handshake => "handshake",
            Refusal::Version => "version",
            Refusal::Plain => "plain",
            Refusal::Body => "body",
            Refusal::Rate { .. } => "rate",
            Refusal::Connections => "connections",
            Refusal::Capacity => "capacity",
            Refusal::Draining => "draining",
            Refusal::Backend(_) => "backend",
            Refusal::Banned => "banned",
        }
    }

    /// The HTTP status of the answer. `None` means that the connection is closed without an answer.
    pub const fn status(self) -> Option<u16> {
        match self {
            Refusal::Pending | Refusal::Proxy | Refusal::Tls => None,
            Refusal::Head(HeadError::Malformed | HeadError::InvalidTarget) => Some(400),
            Refusal::Path | Refusal::Forwarded | Refusal::Handshake => Some(400),
            Refusal::Head(HeadError::TargetTooLong) => Some(414),
            Refusal::Head(HeadError::TooLarge) => Some(431),
            Refusal::Misdirected => Some(421),
            Refusal::Route => Some(404),
            Refusal::Network | Refusal::Banned => Some(403),
            Refusal::Origin | Refusal::Identity | Refusal::Subprotocol => Some(403),
            Refusal::Version | Refusal::Plain => Some(426),
            Refusal::Body => Some(413),
            Refusal::Rate { .. } | Refusal::Connections => Some(429),
            Refusal::Capacity | Refusal::Draining => Some(503),
            Refusal::Backend(BackendError::Failed) => Some(502),
            Refusal::Backend(BackendError::TimedOut) => Some(504),
        }
    }

    /// Whether a route with `refuse = "drop"` drops the connection for it.
    pub const fn is_droppable(self) -> bool {
        matches!(self, Refusal::Network | Refusal::Banned)
    }

    /// One sentence for the client's developer; it reveals nothing of the configuration.
    pub const fn sentence(self) -> &'static str {
        match self {
            Refusal::Pending => "Too many of your connections wait for an answer.",
            Refusal::Network => "Your network address is not admitted here.",
            Refusal::Proxy => "The PROXY header is malformed, missing or not welcome.",
            Refusal::Tls => "The TLS handshake failed.",
            Refusal::Head(HeadError::Malformed) => "The request head is malformed or ambiguous.",
            Refusal::Head(HeadError::TargetTooLong) => "The request target is too long.",
            Refusal::Head(HeadError::TooLarge) => "The request head is too large.",
            Refusal::Head(HeadError::InvalidTarget) => {
                "The request target holds a control character or a space."
            }
            Refusal::Path => "The path is malformed or ambiguous.",
            Refusal::Forwarded => "The forwarded headers cannot be read.",
            Refusal::Misdirected => "This connection was opened for another host name.",
            Refusal::Route => "Nothing is served at this host and path.",
            Refusal::Origin => "Pages of this origin are not admitted here.",
            Refusal::Identity => "Your certificate is not admitted here.",
            Refusal::Subprotocol => "None of the offered subprotocols is admitted here.",
            Refusal::Handshake => "The WebSocket handshake is malformed.",
            Refusal::Version => "Only version 13 of the WebSocket protocol is spoken here.",
            Refusal::Plain => "Only WebSockets are served here.",
            Refusal::Body => "The request's body is too large.",
            Refusal::Rate { .. } => "Too many requests; come back later.",
            Refusal::Connections => "Too many of your connections are open.",
            Refusal::Capacity => "Too many connections are open; come back later.",
            Refusal::Draining => {
                "This server takes nothing new on this connection; come back in a moment."
            }
            Refusal::Backend(BackendError::Failed) => {
                "The server behind this address gave no valid answer."
            }
            Refusal::Backend(BackendError::TimedOut) => {
                "The server behind this address did not answer in time."
            }
            Refusal::Banned => "You are banned here for the time being.",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_word_is_distinct_and_lower_case() {
        let words: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.word()).collect();
        assert_eq!(words.len(), Refusal::ALL.len());
        assert!(words.iter().all(|word| word.chars().all(|c| c.is_ascii_lowercase())));
    }

    #[test]
    fn only_the_gates_before_http_answer_nothing() {
        let silent: Vec<_> =
            Refusal::ALL.iter().filter(|r| r.status().is_none()).map(|r| r.word()).collect();
        assert_eq!(silent, ["pending", "proxy", "tls"]);
    }
}
