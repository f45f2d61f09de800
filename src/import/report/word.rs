//! The words of the report.

/// Outcome of a directive, ordered from the mildest to the gravest. The words are stable and have
/// the same column in every line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Sidegate does it by default, or has no such setting.
    Needless,
    /// Carried over with the same meaning.
    Carried,
    /// Left out, without effect on who is admitted or refused.
    Dropped,
    /// Carried over or left out, with a difference in behaviour.
    Differs,
    /// nginx passed no upgrades on here; Sidegate passes WebSockets on.
    Upgrades,
    /// Sidegate refuses requests that nginx admits.
    Closes,
    /// Carried over as nginx applies it, which was probably not intended.
    FailsOpen,
    /// Sidegate may let through what nginx refused.
    Opens,
}

impl Word {
    /// All words, the gravest first.
    pub const ALL: [Word; 8] = [
        Word::Opens,
        Word::FailsOpen,
        Word::Closes,
        Word::Upgrades,
        Word::Differs,
        Word::Dropped,
        Word::Carried,
        Word::Needless,
    ];

    /// The word in a report for people; in capitals where the line needs a look.
    pub const fn shown(self) -> &'static str {
        match self {
            Word::Needless => "needless",
            Word::Carried => "carried",
            Word::Dropped => "dropped",
            Word::Differs => "DIFFERS",
            Word::Upgrades => "UPGRADES",
            Word::Closes => "CLOSES",
            Word::FailsOpen => "FAILS OPEN",
            Word::Opens => "OPENS",
        }
    }

    /// The word in JSON.
    pub const fn key(self) -> &'static str {
        match self {
            Word::Needless => "needless",
            Word::Carried => "carried",
            Word::Dropped => "dropped",
            Word::Differs => "differs",
            Word::Upgrades => "upgrades",
            Word::Closes => "closes",
            Word::FailsOpen => "fails_open",
            Word::Opens => "opens",
        }
    }

    /// Its meaning, for the summary of the report.
    pub const fn meaning(self) -> &'static str {
        match self {
            Word::Needless => "Sidegate does this by default, or has no equivalent setting",
            Word::Carried => "means the same",
            Word::Dropped => "left out; no decision changes",
            Word::Differs => "carried over with a difference",
            Word::Upgrades => {
                "nginx forwarded only plain HTTP here; Sidegate also forwards WebSockets"
            }
            Word::Closes => "Sidegate refuses requests that nginx admits",
            Word::FailsOpen => "carried over as nginx applies it, which was probably not intended",
            Word::Opens => {
                "Sidegate would admit requests that nginx refuses: nothing is written without \
                 --accept-opens"
            }
        }
    }
}
