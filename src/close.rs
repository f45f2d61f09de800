//! The words for the end: why a tunnel ended, who acted first, and in which phase.
//!
//! This module knows the close codes of every ending (RFC 6455 §7.4) and never touches a
//! connection.

use std::fmt;
use std::time::Duration;

/// The side that acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiator {
    /// The client, or its connection.
    Client,
    /// The backend, or its connection.
    Backend,
    /// Sidegate itself: a rule, a limit, a drain.
    Sidegate,
}

/// State of the tunnel when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelPhase {
    /// No Close frame had passed or been sent: one side vanished, or was dropped mid-frame.
    Open,
    /// A Close frame, from either side or from Sidegate, had been sent.
    Closing,
}

/// Why a tunnel ended. Each tunnel has exactly one reason: that of the side that acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
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
    /// An operator closed it: `sidegate close`.
    Operator,
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
    TooSlow,
    /// The client accepted no byte of the answer for `write_stall`.
    Stalled,
    /// The backend gave no usable answer: 502 or 504.
    BackendFailed,
    /// The backend's answer was incomplete.
    BackendGone,
    /// A new generation, or an entry that expired, no longer permits the exchange.
    Revoked,
    /// The exchange lasted 5 s, and the `streams` of the policy or of its client were all taken.
    Streams,
    /// A stream of events reached the policy's `lifetime`.
    Lifetime,
    /// An operator closed it: `sidegate close`.
    Operator,
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
    pub const ALL: [ExchangeReason; 15] = [
        ExchangeReason::Complete,
        ExchangeReason::ClientLeft,
        ExchangeReason::ClientBody,
        ExchangeReason::BodyStall,
        ExchangeReason::TooSlow,
        ExchangeReason::Stalled,
        ExchangeReason::BackendFailed,
        ExchangeReason::BackendGone,
        ExchangeReason::Revoked,
        ExchangeReason::Streams,
        ExchangeReason::Lifetime,
        ExchangeReason::Operator,
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
            ExchangeReason::TooSlow => "pace",
            ExchangeReason::Stalled => "stalled",
            ExchangeReason::BackendFailed => "backend",
            ExchangeReason::BackendGone => "backend_gone",
            ExchangeReason::Revoked => "revoked",
            ExchangeReason::Streams => "streams",
            ExchangeReason::Lifetime => "lifetime",
            ExchangeReason::Operator => "operator",
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
            ExchangeReason::TooSlow => {
                "The client sent its body, or took the answer, more slowly than `body_pace`."
            }
            ExchangeReason::Stalled => {
                "The client accepted no data of the answer for `write_stall`."
            }
            ExchangeReason::BackendFailed => "The backend gave no usable answer: 502 or 504.",
            ExchangeReason::BackendGone => "The backend's answer was incomplete.",
            ExchangeReason::Revoked => "The policy no longer permits it; `refusal` has the reason.",
            ExchangeReason::Streams => {
                "It lasted 5 s, and the `streams` limit of the policy or of its client was reached."
            }
            ExchangeReason::Lifetime => "A stream of events reached the policy's `lifetime`.",
            ExchangeReason::Operator => "An operator closed it: `sidegate close`.",
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
    pub by: Initiator,
    /// State of the tunnel when it ended.
    pub phase: TunnelPhase,
    /// Why the tunnel ended.
    pub reason: CloseReason,
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
    pub const GOING_AWAY: u16 = 1001;
    /// A violation of the WebSocket protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A violation of a policy: revoked, message rate, frame rate.
    pub const POLICY_VIOLATION: u16 = 1008;
    /// A message larger than `message.max`.
    pub const MESSAGE_TOO_BIG: u16 = 1009;

    /// Whether a server may send `code` in a Close: the codes of RFC 6455 §7.4 and of IANA that are
    /// for endpoints, those of libraries (3000 on) and of applications (4000 on). 1010 is a
    /// client's, and 1004 to 1006 and 1015 never go over the wire.
    pub const fn may_be_sent(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1009 | 1011..=1014 | 3000..=4999)
    }
}

impl Initiator {
    /// Every value once, in the order of their numbers.
    pub const ALL: [Initiator; 3] = [Initiator::Client, Initiator::Backend, Initiator::Sidegate];

    /// Value of the metric label.
    pub const fn word(self) -> &'static str {
        match self {
            Initiator::Client => "client",
            Initiator::Backend => "backend",
            Initiator::Sidegate => "sidegate",
        }
    }
}

impl TunnelPhase {
    /// Every value once, in the order of their numbers.
    pub const ALL: [TunnelPhase; 2] = [TunnelPhase::Open, TunnelPhase::Closing];

    /// Value of the metric label.
    pub const fn word(self) -> &'static str {
        match self {
            TunnelPhase::Open => "open",
            TunnelPhase::Closing => "closing",
        }
    }
}

impl CloseReason {
    /// Every reason once, for tables and metrics, in the order of their numbers.
    pub const ALL: [CloseReason; 17] = [
        CloseReason::ClientClosed,
        CloseReason::BackendClosed,
        CloseReason::ClientGone,
        CloseReason::BackendGone,
        CloseReason::Idle,
        CloseReason::Lifetime,
        CloseReason::NoPong,
        CloseReason::Stalled,
        CloseReason::TooBig,
        CloseReason::MessageRate,
        CloseReason::FrameRate,
        CloseReason::Framing,
        CloseReason::Revoked,
        CloseReason::Operator,
        CloseReason::Drain,
        CloseReason::Cut,
        CloseReason::Panic,
    ];

    /// The stable word for logs and metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            CloseReason::ClientClosed => "client_closed",
            CloseReason::BackendClosed => "backend_closed",
            CloseReason::ClientGone => "client_gone",
            CloseReason::BackendGone => "backend_gone",
            CloseReason::Idle => "idle",
            CloseReason::Lifetime => "lifetime",
            CloseReason::NoPong => "no_pong",
            CloseReason::Stalled => "stalled",
            CloseReason::TooBig => "too_big",
            CloseReason::MessageRate => "message_rate",
            CloseReason::FrameRate => "frame_rate",
            CloseReason::Framing => "framing",
            CloseReason::Revoked => "revoked",
            CloseReason::Operator => "operator",
            CloseReason::Drain => "drain",
            CloseReason::Cut => "cut",
            CloseReason::Panic => "panic",
        }
    }
}

impl CloseReason {
    /// One sentence for operators that describes the ending.
    pub const fn sentence(self) -> &'static str {
        match self {
            CloseReason::ClientClosed => "The client sent a Close frame.",
            CloseReason::BackendClosed => "The backend sent a Close frame.",
            CloseReason::ClientGone => {
                "The client ended its stream without a Close frame, or its socket failed."
            }
            CloseReason::BackendGone => {
                "The backend ended its stream without a Close frame, or its socket failed."
            }
            CloseReason::Idle => "No frame passed either way for the policy's `idle`.",
            CloseReason::Lifetime => "It reached the policy's `lifetime`.",
            CloseReason::NoPong => {
                "No byte arrived from the client for the policy's `pong` after a Ping of Sidegate \
                 or the backend."
            }
            CloseReason::Stalled => {
                "A side accepted no data for `write_stall` while data was waiting for it."
            }
            CloseReason::TooBig => {
                "A side sent a message or a frame larger than the policy's `message` `max`: 1009 \
                 to it, 1001 to the other."
            }
            CloseReason::MessageRate => {
                "The client sent more messages than the policy's `message` `rate`."
            }
            CloseReason::FrameRate => {
                "The client sent more Pings, Pongs, frames without payload and small fragments \
                 than the policy's `frames`."
            }
            CloseReason::Framing => {
                "A side violated the framing (RFC 6455 §5): 1002 to it, 1001 to the other."
            }
            CloseReason::Revoked => "The policy no longer permits it; `refusal` has the reason.",
            CloseReason::Operator => {
                "An operator closed it: `sidegate close`, with the code and the reason given there."
            }
            CloseReason::Drain => "Sidegate is shutting down: `[shutdown] code`, 1001 unless set.",
            CloseReason::Cut => "A deadline or a second SIGTERM ended it without a Close.",
            CloseReason::Panic => {
                "A bug in Sidegate ended this tunnel, and no other: please report it."
            }
        }
    }

    /// The close code that Sidegate sends to the client, if this reason decides one. A drain's code
    /// is configured; for the other reasons the code comes from elsewhere or none is sent.
    pub const fn client_close_code(self) -> Option<u16> {
        match self {
            CloseReason::Idle | CloseReason::Lifetime | CloseReason::NoPong => {
                Some(code::GOING_AWAY)
            }
            CloseReason::MessageRate | CloseReason::FrameRate | CloseReason::Revoked => {
                Some(code::POLICY_VIOLATION)
            }
            CloseReason::ClientClosed
            | CloseReason::BackendClosed
            | CloseReason::ClientGone
            | CloseReason::BackendGone
            | CloseReason::Stalled
            | CloseReason::TooBig
            | CloseReason::Framing
            | CloseReason::Operator
            | CloseReason::Drain
            | CloseReason::Cut
            | CloseReason::Panic => None,
        }
    }

    /// The close code that the backend gets when Sidegate ends a tunnel for this reason.
    pub const fn backend_close_code(self) -> u16 {
        match self {
            CloseReason::Revoked => code::POLICY_VIOLATION,
            _ => code::GOING_AWAY,
        }
    }
}

impl fmt::Display for CloseReason {
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
        let words: HashSet<_> = CloseReason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), CloseReason::ALL.len());
        let words: HashSet<_> = ExchangeReason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), ExchangeReason::ALL.len());
    }

    #[test]
    fn reserved_codes_may_not_be_sent() {
        for code in [1000, 1001, 1003, 1007, 1009, 1011, 1014, 3000, 4999] {
            assert!(code::may_be_sent(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1010, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(!code::may_be_sent(code), "{code}");
        }
    }

    #[test]
    fn every_reason_is_numbered_by_its_place() {
        assert!(ExchangeReason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    }
}
