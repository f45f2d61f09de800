//! The words for the end: why a tunnel ended, who acted first, and in which phase.
//!
//! This module knows the close codes of every ending (RFC 6455 §7.4) and never touches a
//! connection.

use std::fmt;
use std::time::Duration;

/// The side that acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The client, or its connection.
    Client,
    /// The backend, or its connection.
    Backend,
    /// Sidegate itself: a rule, a limit, a drain.
    Sidegate,
}

/// State of the tunnel when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No Close frame had passed or been sent: one side vanished, or was dropped mid-frame.
    Open,
    /// A Close frame, from either side or from Sidegate, had been sent.
    Closing,
}

/// Why a tunnel ended. Each tunnel has exactly one reason: that of the side that acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client sent a Close frame.
    ClientClosed,
    /// The backend sent a Close frame.
    BackendClosed,
    /// The client ended its stream without a Close frame.
    ClientGone,
    /// The backend ended its stream without a Close frame.
    BackendGone,
    /// No frame passed either way for the policy's `idle`.
    Idle,
    /// The tunnel reached the policy's `lifetime`.
    Lifetime,
    /// No byte of the client came within `pong` after a Ping.
    NoPong,
    /// One side accepted no byte for `write_stall` while there was data for it.
    Stalled,
    /// A message or a frame was larger than the policy's `message.max`.
    TooBig,
    /// The client sent more messages than the policy's `message.rate`.
    MessageRate,
    /// The client sent more frames that messages do not bound than the policy's `frames`.
    FrameRate,
    /// A side violated the framing (RFC 6455 §5).
    Framing,
    /// A new generation, or an entry that expired, no longer permits the tunnel.
    Revoked,
    /// Sidegate is shutting down.
    Drain,
    /// A deadline or a second SIGTERM ended the tunnel without a Close frame.
    Cut,
    /// A bug in Sidegate ended this tunnel, and only this one.
    Panic,
}

/// How far an exchange of plain HTTP had come when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangePhase {
    /// The backend had the request, and no head of its answer had come.
    Request,
    /// The head of the answer had come.
    Answer,
}

/// Why an exchange ended: a forwarded request whose answer is not a 101. Each has exactly one
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeReason {
    /// The answer was delivered completely.
    Complete,
    /// The client closed its connection, or the connection broke.
    ClientLeft,
    /// The client's body was incomplete, unreadable, or larger than `max_body`.
    ClientBody,
    /// No byte of the request's or the answer's body arrived for `body_stall`.
    BodyStall,
    /// The client sent its body, or took the answer, more slowly than `body_pace`.
    Pace,
    /// The client accepted no byte of the answer for `write_stall`.
    Stalled,
    /// The backend gave no usable answer: 502 or 504.
    Backend,
    /// The backend's answer was incomplete.
    BackendGone,
    /// A new generation, or an entry that expired, no longer permits the exchange.
    Revoked,
    /// The exchange lasted 5 s, and the `streams` of the policy or of its client were all taken.
    Streams,
    /// A stream of events reached the policy's `lifetime`.
    Lifetime,
    /// Sidegate is shutting down.
    Drain,
    /// A deadline or a second SIGTERM ended the exchange at once.
    Cut,
    /// A bug of Sidegate's ended this connection, and only this one.
    Panic,
}

impl ExchangePhase {
    /// The word for the log.
    pub const fn word(self) -> &'static str {
        match self {
            ExchangePhase::Request => "request",
            ExchangePhase::Answer => "answer",
        }
    }
}

impl ExchangeReason {
    /// Every reason once, for tables and metrics, in the order of their numbers.
    pub const ALL: [ExchangeReason; 14] = [
        ExchangeReason::Complete,
        ExchangeReason::ClientLeft,
        ExchangeReason::ClientBody,
        ExchangeReason::BodyStall,
        ExchangeReason::Pace,
        ExchangeReason::Stalled,
        ExchangeReason::Backend,
        ExchangeReason::BackendGone,
        ExchangeReason::Revoked,
        ExchangeReason::Streams,
        ExchangeReason::Lifetime,
        ExchangeReason::Drain,
        ExchangeReason::Cut,
        ExchangeReason::Panic,
    ];

    /// The stable word for logs and metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            ExchangeReason::Complete => "complete",
            ExchangeReason::ClientLeft => "client_left",
            ExchangeReason::ClientBody => "client_body",
            ExchangeReason::BodyStall => "body_stall",
            ExchangeReason::Pace => "pace",
            ExchangeReason::Stalled => "stalled",
            ExchangeReason::Backend => "backend",
            ExchangeReason::BackendGone => "backend_gone",
            ExchangeReason::Revoked => "revoked",
            ExchangeReason::Streams => "streams",
            ExchangeReason::Lifetime => "lifetime",
            ExchangeReason::Drain => "drain",
            ExchangeReason::Cut => "cut",
            ExchangeReason::Panic => "panic",
        }
    }

    /// One sentence for operators.
    pub const fn sentence(self) -> &'static str {
        match self {
            ExchangeReason::Complete => "The whole answer was sent.",
            ExchangeReason::ClientLeft => {
                "The client closed its connection, or the connection broke."
            }
            ExchangeReason::ClientBody => {
                "The client's body was incomplete, unreadable, or larger than `max_body`."
            }
            ExchangeReason::BodyStall => {
                "No byte of the request's or the answer's body arrived for `body_stall`."
            }
            ExchangeReason::Pace => {
                "The client sent its body, or took the answer, more slowly than `body_pace`."
            }
            ExchangeReason::Stalled => {
                "The client accepted no data of the answer for `write_stall`."
            }
            ExchangeReason::Backend => "The backend gave no usable answer: 502 or 504.",
            ExchangeReason::BackendGone => "The backend's answer was incomplete.",
            ExchangeReason::Revoked => "The policy no longer permits it; `refusal` has the reason.",
            ExchangeReason::Streams => {
                "It lasted 5 s, and the `streams` limit of the policy or of its client was reached."
            }
            ExchangeReason::Lifetime => "A stream of events reached the policy's `lifetime`.",
            ExchangeReason::Drain => "Sidegate is shutting down.",
            ExchangeReason::Cut => "A deadline or a second SIGTERM ended it at once.",
            ExchangeReason::Panic => {
                "A bug in Sidegate ended this connection, and no other: please report it."
            }
        }
    }
}

/// Bytes and messages that passed in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes of WebSocket frames, headers included, as relayed.
    pub bytes: u64,
    /// Messages that began (a fragmented one counts once).
    pub messages: u64,
}

/// The end of a tunnel; exactly one for each tunnel that opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The side that acted first.
    pub by: By,
    /// State of the tunnel when it ended.
    pub phase: Phase,
    /// Why the tunnel ended.
    pub reason: Reason,
    /// The close code that decided: the first that a side sent, or Sidegate's to the client.
    pub code: Option<u16>,
    /// Traffic from the client that was relayed.
    pub from_client: Traffic,
    /// Traffic from the backend that was relayed.
    pub from_backend: Traffic,
    /// Time from the 101 to the end.
    pub lasted: Duration,
}

/// Close codes of RFC 6455 §7.4.1 that Sidegate sends.
pub mod code {
    /// Going away: drain, idle, lifetime.
    pub const AWAY: u16 = 1001;
    /// A violation of the WebSocket protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A violation of a policy: revoked, message rate, frame rate.
    pub const POLICY: u16 = 1008;
    /// A message larger than `message.max`.
    pub const TOO_BIG: u16 = 1009;
}

impl By {
    /// Every value once, in the order of their numbers.
    pub const ALL: [By; 3] = [By::Client, By::Backend, By::Sidegate];

    /// Value of the metric label.
    pub const fn word(self) -> &'static str {
        match self {
            By::Client => "client",
            By::Backend => "backend",
            By::Sidegate => "sidegate",
        }
    }
}

impl Phase {
    /// Every value once, in the order of their numbers.
    pub const ALL: [Phase; 2] = [Phase::Open, Phase::Closing];

    /// Value of the metric label.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Open => "open",
            Phase::Closing => "closing",
        }
    }
}

impl Reason {
    /// Every reason once, for tables and metrics, in the order of their numbers.
    pub const ALL: [Reason; 16] = [
        Reason::ClientClosed,
        Reason::BackendClosed,
        Reason::ClientGone,
        Reason::BackendGone,
        Reason::Idle,
        Reason::Lifetime,
        Reason::NoPong,
        Reason::Stalled,
        Reason::TooBig,
        Reason::MessageRate,
        Reason::FrameRate,
        Reason::Framing,
        Reason::Revoked,
        Reason::Drain,
        Reason::Cut,
        Reason::Panic,
    ];

    /// The stable word for logs and metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            Reason::ClientClosed => "client_closed",
            Reason::BackendClosed => "backend_closed",
            Reason::ClientGone => "client_gone",
            Reason::BackendGone => "backend_gone",
            Reason::Idle => "idle",
            Reason::Lifetime => "lifetime",
            Reason::NoPong => "no_pong",
            Reason::Stalled => "stalled",
            Reason::TooBig => "too_big",
            Reason::MessageRate => "message_rate",
            Reason::FrameRate => "frame_rate",
            Reason::Framing => "framing",
            Reason::Revoked => "revoked",
            Reason::Drain => "drain",
            Reason::Cut => "cut",
            Reason::Panic => "panic",
        }
    }
}

impl Reason {
    /// One sentence for operators that describes the ending.
    pub const fn sentence(self) -> &'static str {
        match self {
            Reason::ClientClosed => "The client sent a Close frame.",
            Reason::BackendClosed => "The backend sent a Close frame.",
            Reason::ClientGone => {
                "The client ended its stream without a Close frame, or its socket failed."
            }
            Reason::BackendGone => {
                "The backend ended its stream without a Close frame, or its socket failed."
            }
            Reason::Idle => "No frame passed either way for the policy's `idle`.",
            Reason::Lifetime => "It reached the policy's `lifetime`.",
            Reason::NoPong => {
                "No byte arrived from the client for the policy's `pong` after a Ping of Sidegate \
                 or the backend."
            }
            Reason::Stalled => {
                "A side accepted no data for `write_stall` while data was waiting for it."
            }
            Reason::TooBig => {
                "A side sent a message or a frame larger than the policy's `message` `max`: 1009 to it, 1001 to the other."
            }
            Reason::MessageRate => {
                "The client sent more messages than the policy's `message` `rate`."
            }
            Reason::FrameRate => {
                "The client sent more Pings, Pongs, frames without payload and small fragments than the policy's `frames`."
            }
            Reason::Framing => {
                "A side violated the framing (RFC 6455 §5): 1002 to it, 1001 to the other."
            }
            Reason::Revoked => "The policy no longer permits it; `refusal` has the reason.",
            Reason::Drain => "Sidegate is shutting down: `[shutdown] code`, 1001 unless set.",
            Reason::Cut => "A deadline or a second SIGTERM ended it without a Close.",
            Reason::Panic => "A bug in Sidegate ended this tunnel, and no other: please report it.",
        }
    }

    /// The close code that Sidegate sends to the client, if this reason decides one. A drain's code
    /// is configured; for the other reasons the code comes from elsewhere or none is sent.
    pub const fn to_client(self) -> Option<u16> {
        match self {
            Reason::Idle | Reason::Lifetime | Reason::NoPong => Some(code::AWAY),
            Reason::MessageRate | Reason::FrameRate | Reason::Revoked => Some(code::POLICY),
            Reason::ClientClosed
            | Reason::BackendClosed
            | Reason::ClientGone
            | Reason::BackendGone
            | Reason::Stalled
            | Reason::TooBig
            | Reason::Framing
            | Reason::Drain
            | Reason::Cut
            | Reason::Panic => None,
        }
    }

    /// The close code that the backend gets when Sidegate ends a tunnel for this reason.
    pub const fn to_backend(self) -> u16 {
        match self {
            Reason::Revoked => code::POLICY,
            _ => code::AWAY,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_word_is_distinct() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        let words: HashSet<_> = ExchangeReason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), ExchangeReason::ALL.len());
    }

    #[test]
    fn every_reason_is_numbered_by_its_place() {
        assert!(ExchangeReason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    }
}
