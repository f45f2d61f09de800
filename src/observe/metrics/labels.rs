//! The fixed values of labels, beside those of `refusal` and `close`.
//!
//! Each set is an enum, so that a counter is found by number and never by string.

use crate::refusal::Refusal;

/// Value of the label `route` if no route was found.
pub const NO_ROUTE: &str = "-";

/// Whether a request was for an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A WebSocket opening handshake.
    Upgrade,
    /// Any other HTTP request.
    Plain,
}

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// A backend answered the request.
    Permitted,
    /// Sidegate refused the request.
    Refused,
    /// The backend gave no usable answer.
    Failed,
}

/// The result of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsResult {
    /// A completed full handshake.
    Full,
    /// A completed handshake that resumed a session.
    Resumed,
    /// The client violated the protocol or disconnected.
    Failed,
    /// The handshake exceeded its deadline.
    Timeout,
    /// The handshake was not begun: its client's rate left no time for it.
    Rate,
}

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new generation runs.
    Published,
    /// The files equal the running generation.
    Unchanged,
    /// The running generation was kept.
    Rejected,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The client closed the connection, or its stream broke.
    Client,
    /// Idle for too long between plain requests.
    KeepAlive,
    /// A refusal that closes the connection was sent.
    Refused,
    /// An idle connection made room for a newer one of the same client.
    Displaced,
    /// The connection became a tunnel, which ended.
    Upgraded,
    /// The process is draining.
    Drain,
    /// The listener was removed or moved, or now speaks another protocol.
    Retired,
    /// A panic: a bug in Sidegate.
    Panic,
    /// Refused at the accept: [`Refusal::Pending`].
    Pending,
    /// The baseline denies the client at the accept, or a route drops it: [`Refusal::Network`].
    Network,
    /// A PROXY header was missing, malformed or unexpected, or counts no more: [`Refusal::Proxy`].
    Proxy,
    /// The TLS handshake failed: [`Refusal::Tls`].
    Tls,
    /// The head was malformed or late and got no answer: [`Refusal::Head`].
    Head,
    /// An exchange on the connection was cut: see [`crate::close::ExchangeReason`].
    Cut,
    /// A ban holds the client at the accept, or a route drops it: [`Refusal::Banned`].
    Banned,
}

/// Why the discarding of a client's input behind the last answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardEnd {
    /// The client closed the connection, or its stream broke.
    Client,
    /// The client sent nothing for too long and didn't close.
    Silence,
    /// The whole discarding took too long.
    Time,
    /// The client sent too many bytes.
    Size,
    /// The connection made room for another.
    Displaced,
    /// The process is draining.
    Drain,
}

/// How a route that does not answer its refusals over HTTP has delivered one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalDelivery {
    /// The attempt was accepted, and closed with a code.
    Close,
    /// The connection was closed without an answer.
    Drop,
    /// Answered over HTTP, since too many refused attempts were being closed.
    Capped,
}

/// How a candidate's verdict differs from its policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandidateDifference {
    /// The policy permitted, the candidate would not have.
    WouldRefuse,
    /// The policy refused, the candidate would have permitted.
    WouldAdmit,
}

/// Direction of relayed traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

impl RequestKind {
    /// All variants, in the order of their numbers.
    pub const ALL: [RequestKind; 2] = [RequestKind::Upgrade, RequestKind::Plain];

    /// The value that metrics and log lines use.
    pub const fn word(self) -> &'static str {
        match self {
            RequestKind::Upgrade => "upgrade",
            RequestKind::Plain => "plain",
        }
    }
}

impl RequestResult {
    /// All variants, in the order of their numbers.
    pub const ALL: [RequestResult; 3] =
        [RequestResult::Permitted, RequestResult::Refused, RequestResult::Failed];

    /// The value that metrics and log lines use.
    pub const fn word(self) -> &'static str {
        match self {
            RequestResult::Permitted => "permitted",
            RequestResult::Refused => "refused",
            RequestResult::Failed => "failed",
        }
    }
}

impl TlsResult {
    /// All variants, in the order of their numbers.
    pub const ALL: [TlsResult; 5] = [
        TlsResult::Full,
        TlsResult::Resumed,
        TlsResult::Failed,
        TlsResult::Timeout,
        TlsResult::Rate,
    ];

    /// The value of the metrics' label.
    pub const fn word(self) -> &'static str {
        match self {
            TlsResult::Full => "full",
            TlsResult::Resumed => "resumed",
            TlsResult::Failed => "failed",
            TlsResult::Timeout => "timeout",
            TlsResult::Rate => "rate",
        }
    }
}

impl ReloadResult {
    /// All variants, in the order of their numbers.
    pub const ALL: [ReloadResult; 3] =
        [ReloadResult::Published, ReloadResult::Unchanged, ReloadResult::Rejected];

    /// The value of the metrics' label.
    pub const fn word(self) -> &'static str {
        match self {
            ReloadResult::Published => "published",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Rejected => "rejected",
        }
    }
}

impl ConnectionEnd {
    /// All variants, in the order of their numbers.
    pub const ALL: [ConnectionEnd; 15] = [
        ConnectionEnd::Client,
        ConnectionEnd::KeepAlive,
        ConnectionEnd::Refused,
        ConnectionEnd::Displaced,
        ConnectionEnd::Upgraded,
        ConnectionEnd::Drain,
        ConnectionEnd::Retired,
        ConnectionEnd::Panic,
        ConnectionEnd::Pending,
        ConnectionEnd::Network,
        ConnectionEnd::Proxy,
        ConnectionEnd::Tls,
        ConnectionEnd::Head,
        ConnectionEnd::Cut,
        ConnectionEnd::Banned,
    ];

    /// The value that metrics use; if a refusal ended the connection, that refusal's word.
    pub const fn word(self) -> &'static str {
        match self {
            ConnectionEnd::Client => "client",
            ConnectionEnd::KeepAlive => "keep_alive",
            ConnectionEnd::Refused => "refused",
            ConnectionEnd::Displaced => "displaced",
            ConnectionEnd::Upgraded => "upgraded",
            ConnectionEnd::Drain => "drain",
            ConnectionEnd::Retired => "retired",
            ConnectionEnd::Panic => "panic",
            ConnectionEnd::Pending => Refusal::Pending.word(),
            ConnectionEnd::Network => Refusal::Network.word(),
            ConnectionEnd::Proxy => Refusal::Proxy.word(),
            ConnectionEnd::Tls => Refusal::Tls.word(),
            ConnectionEnd::Head => Refusal::Head(crate::refusal::HeadError::Malformed).word(),
            ConnectionEnd::Cut => "cut",
            ConnectionEnd::Banned => Refusal::Banned.word(),
        }
    }
}

impl DiscardEnd {
    /// All variants, in the order of their numbers.
    pub const ALL: [DiscardEnd; 6] = [
        DiscardEnd::Client,
        DiscardEnd::Silence,
        DiscardEnd::Time,
        DiscardEnd::Size,
        DiscardEnd::Displaced,
        DiscardEnd::Drain,
    ];

    /// The value of the metrics' label.
    pub const fn word(self) -> &'static str {
        match self {
            DiscardEnd::Client => "client",
            DiscardEnd::Silence => "silence",
            DiscardEnd::Time => "time",
            DiscardEnd::Size => "size",
            DiscardEnd::Displaced => "displaced",
            DiscardEnd::Drain => "drain",
        }
    }
}

impl RefusalDelivery {
    /// All variants, in the order of their numbers.
    pub const ALL: [RefusalDelivery; 3] =
        [RefusalDelivery::Close, RefusalDelivery::Drop, RefusalDelivery::Capped];

    /// The value that metrics and log lines use.
    pub const fn word(self) -> &'static str {
        match self {
            RefusalDelivery::Close => "close",
            RefusalDelivery::Drop => "drop",
            RefusalDelivery::Capped => "capped",
        }
    }
}

impl CandidateDifference {
    /// All variants, in the order of their numbers.
    pub const ALL: [CandidateDifference; 2] =
        [CandidateDifference::WouldRefuse, CandidateDifference::WouldAdmit];

    /// The value that metrics and log lines use.
    pub const fn word(self) -> &'static str {
        match self {
            CandidateDifference::WouldRefuse => "would_refuse",
            CandidateDifference::WouldAdmit => "would_admit",
        }
    }
}

impl Direction {
    /// All variants, in the order of their numbers.
    pub const ALL: [Direction; 2] = [Direction::FromClient, Direction::FromBackend];

    /// The value of the metrics' label.
    pub const fn word(self) -> &'static str {
        match self {
            Direction::FromClient => "from_client",
            Direction::FromBackend => "from_backend",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{CloseReason, Initiator, TunnelPhase};

    /// That each of `all` stands at the place of its number, under a word of its own.
    fn check<T: Copy>(all: &[T], number: impl Fn(T) -> usize, word: impl Fn(T) -> &'static str) {
        let words: std::collections::HashSet<_> = all.iter().map(|one| word(*one)).collect();
        assert_eq!(words.len(), all.len());
        assert!(all.iter().enumerate().all(|(place, one)| number(*one) == place), "{words:?}");
    }

    #[test]
    fn every_word_has_its_own_index() {
        check(&RequestKind::ALL, |one| one as usize, RequestKind::word);
        check(&RequestResult::ALL, |one| one as usize, RequestResult::word);
        check(&TlsResult::ALL, |one| one as usize, TlsResult::word);
        check(&ReloadResult::ALL, |one| one as usize, ReloadResult::word);
        check(&ConnectionEnd::ALL, |one| one as usize, ConnectionEnd::word);
        check(&Direction::ALL, |one| one as usize, Direction::word);
        check(&CandidateDifference::ALL, |one| one as usize, CandidateDifference::word);
        check(&Initiator::ALL, |one| one as usize, Initiator::word);
        check(&TunnelPhase::ALL, |one| one as usize, TunnelPhase::word);
        check(&CloseReason::ALL, |one| one as usize, CloseReason::word);
        check(&Refusal::ALL, Refusal::number, Refusal::word);
    }
}
