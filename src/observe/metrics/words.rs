//! The fixed words that labels take, beside those of `refusal` and `close`.
//!
//! Each is an enum, so that a counter is found by its number and never by a string.

use crate::refusal::Refusal;

/// Value of the label `route` where no route was found.
pub const NO_ROUTE: &str = "-";

/// Whether a request was for an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// An attempt to open a WebSocket.
    Upgrade,
    /// Plain HTTP.
    Plain,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// It reached a backend that answered.
    Permitted,
    /// We said no.
    Refused,
    /// The backend gave no usable answer.
    Failed,
}

/// How a TLS handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsResult {
    /// A full one.
    Full,
    /// One that resumed a session.
    Resumed,
    /// The client did something wrong, or went away.
    Failed,
    /// It took too long.
    Timeout,
    /// It was not begun: its client's rate left no time for it.
    Rate,
}

/// What became of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new generation runs.
    Published,
    /// The files are what runs.
    Unchanged,
    /// What runs was kept.
    Rejected,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The client ended it, or its stream broke.
    Client,
    /// Idle for too long between plain requests.
    KeepAlive,
    /// An answer of ours closed it.
    Refused,
    /// It was idle, and made room for a newer connection of its client.
    Displaced,
    /// It became a tunnel, which ended.
    Upgraded,
    /// We are shutting down.
    Drain,
    /// Its listener was removed, moved, or speaks otherwise now.
    Retired,
    /// A bug of ours.
    Panic,
    /// Refused at the accept: [`Refusal::Pending`].
    Pending,
    /// The baseline denies it.
    Network,
    /// The TLS handshake failed: [`Refusal::Tls`].
    Tls,
    /// The head was malformed or late, and got no answer of ours: [`Refusal::Head`].
    Head,
    /// An exchange on it was cut: see [`crate::close::ExchangeReason`].
    Cut,
}

/// What ended the discarding of what a client still sent behind its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardEnd {
    /// The client ended, or its stream broke.
    Client,
    /// The client sent nothing for too long, and did not end.
    Silence,
    /// It took too long in all.
    Time,
    /// Too much came.
    Size,
    /// It made room for another connection.
    Displaced,
    /// We are shutting down.
    Drain,
}

/// How a candidate's verdict differs from its policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The policy permitted, the candidate would not have.
    WouldRefuse,
    /// The policy refused, the candidate would have permitted.
    WouldAdmit,
}

/// Which way what was relayed went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

impl RequestKind {
    /// Each once, in the order of their numbers.
    pub const ALL: [RequestKind; 2] = [RequestKind::Upgrade, RequestKind::Plain];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            RequestKind::Upgrade => "upgrade",
            RequestKind::Plain => "plain",
        }
    }
}

impl RequestResult {
    /// Each once, in the order of their numbers.
    pub const ALL: [RequestResult; 3] =
        [RequestResult::Permitted, RequestResult::Refused, RequestResult::Failed];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            RequestResult::Permitted => "permitted",
            RequestResult::Refused => "refused",
            RequestResult::Failed => "failed",
        }
    }
}

impl TlsResult {
    /// Each once, in the order of their numbers.
    pub const ALL: [TlsResult; 5] = [
        TlsResult::Full,
        TlsResult::Resumed,
        TlsResult::Failed,
        TlsResult::Timeout,
        TlsResult::Rate,
    ];

    /// The label's value.
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
    /// Each once, in the order of their numbers.
    pub const ALL: [ReloadResult; 3] =
        [ReloadResult::Published, ReloadResult::Unchanged, ReloadResult::Rejected];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            ReloadResult::Published => "published",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Rejected => "rejected",
        }
    }
}

impl ConnectionEnd {
    /// Each once, in the order of their numbers.
    pub const ALL: [ConnectionEnd; 13] = [
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
        ConnectionEnd::Tls,
        ConnectionEnd::Head,
        ConnectionEnd::Cut,
    ];

    /// The label's value; where a refusal ended it, that refusal's word.
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
            ConnectionEnd::Tls => Refusal::Tls.word(),
            ConnectionEnd::Head => Refusal::Head(crate::refusal::Head::Malformed).word(),
            ConnectionEnd::Cut => "cut",
        }
    }
}

impl DiscardEnd {
    /// Each once, in the order of their numbers.
    pub const ALL: [DiscardEnd; 6] = [
        DiscardEnd::Client,
        DiscardEnd::Silence,
        DiscardEnd::Time,
        DiscardEnd::Size,
        DiscardEnd::Displaced,
        DiscardEnd::Drain,
    ];

    /// The label's value.
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

impl Difference {
    /// Each once, in the order of their numbers.
    pub const ALL: [Difference; 2] = [Difference::WouldRefuse, Difference::WouldAdmit];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Difference::WouldRefuse => "would_refuse",
            Difference::WouldAdmit => "would_admit",
        }
    }
}

impl Direction {
    /// Each once, in the order of their numbers.
    pub const ALL: [Direction; 2] = [Direction::FromClient, Direction::FromBackend];

    /// The label's value.
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
    use crate::close::{By, Phase, Reason};

    /// That each of `all` stands at the place of its number, under a word of its own.
    fn check<T: Copy>(all: &[T], number: impl Fn(T) -> usize, word: impl Fn(T) -> &'static str) {
        let words: std::collections::HashSet<_> = all.iter().map(|one| word(*one)).collect();
        assert_eq!(words.len(), all.len());
        assert!(all.iter().enumerate().all(|(place, one)| number(*one) == place), "{words:?}");
    }

    #[test]
    fn every_word_has_a_number_of_its_own_by_which_it_is_counted() {
        check(&RequestKind::ALL, |one| one as usize, RequestKind::word);
        check(&RequestResult::ALL, |one| one as usize, RequestResult::word);
        check(&TlsResult::ALL, |one| one as usize, TlsResult::word);
        check(&ReloadResult::ALL, |one| one as usize, ReloadResult::word);
        check(&ConnectionEnd::ALL, |one| one as usize, ConnectionEnd::word);
        check(&Direction::ALL, |one| one as usize, Direction::word);
        check(&Difference::ALL, |one| one as usize, Difference::word);
        check(&By::ALL, |one| one as usize, By::word);
        check(&Phase::ALL, |one| one as usize, Phase::word);
        check(&Reason::ALL, |one| one as usize, Reason::word);
        check(&Refusal::ALL, Refusal::number, Refusal::word);
    }
}
