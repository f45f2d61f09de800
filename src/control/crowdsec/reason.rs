//! Why decisions of CrowdSec are not applied.

/// Why a decision is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnappliedReason {
    /// Its type is not `ban`.
    Kind,
    /// Its scope is neither an address nor a range.
    Scope,
    /// Its value or its duration cannot be read.
    Unreadable,
    /// Its network is wider than `widest_v4` or `widest_v6`.
    Wide,
    /// All decisions together hold more addresses than `total_v4` or `total_v6` allows.
    Total,
    /// It holds a loopback address.
    Loopback,
    /// It meets a peer that a listener lists in `from`.
    Peer,
    /// A test of a policy expects `allow` for one of its clients.
    Test,
    /// An operator has lifted it.
    Lifted,
    /// There are more decisions than are kept.
    Excess,
}

impl UnappliedReason {
    /// All variants, in the order of the enum.
    pub const ALL: [UnappliedReason; 10] = [
        UnappliedReason::Kind,
        UnappliedReason::Scope,
        UnappliedReason::Unreadable,
        UnappliedReason::Wide,
        UnappliedReason::Total,
        UnappliedReason::Loopback,
        UnappliedReason::Peer,
        UnappliedReason::Test,
        UnappliedReason::Lifted,
        UnappliedReason::Excess,
    ];

    /// The value that metrics, logs and answers use.
    pub const fn word(self) -> &'static str {
        match self {
            UnappliedReason::Kind => "type",
            UnappliedReason::Scope => "scope",
            UnappliedReason::Unreadable => "unreadable",
            UnappliedReason::Wide => "wide",
            UnappliedReason::Total => "total",
            UnappliedReason::Loopback => "loopback",
            UnappliedReason::Peer => "peer",
            UnappliedReason::Test => "test",
            UnappliedReason::Lifted => "lifted",
            UnappliedReason::Excess => "excess",
        }
    }
}
