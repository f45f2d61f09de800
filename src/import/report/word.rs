//! The words of the report.

/// Outcome of a directive, ordered from the mildest to the gravest. The words are stable and have
/// the same column in every line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirectiveOutcome {
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

impl DirectiveOutcome {
    /// All words, the gravest first.
    pub const ALL: [DirectiveOutcome; 8] = [
        DirectiveOutcome::Opens,
        DirectiveOutcome::FailsOpen,
        DirectiveOutcome::Closes,
        DirectiveOutcome::Upgrades,
        DirectiveOutcome::Differs,
        DirectiveOutcome::Dropped,
        DirectiveOutcome::Carried,
        DirectiveOutcome::Needless,
    ];

    /// The word in a report for people; in capitals where the line needs a look.
    pub const fn shown(self) -> &'static str {
        match self {
            DirectiveOutcome::Needless => "needless",
            DirectiveOutcome::Carried => "carried",
            DirectiveOutcome::Dropped => "dropped",
            DirectiveOutcome::Differs => "DIFFERS",
            DirectiveOutcome::Upgrades => "UPGRADES",
            DirectiveOutcome::Closes => "CLOSES",
            DirectiveOutcome::FailsOpen => "FAILS OPEN",
            DirectiveOutcome::Opens => "OPENS",
        }
    }

    /// The word in JSON.
    pub const fn key(self) -> &'static str {
        match self {
            DirectiveOutcome::Needless => "needless",
            DirectiveOutcome::Carried => "carried",
            DirectiveOutcome::Dropped => "dropped",
            DirectiveOutcome::Differs => "differs",
            DirectiveOutcome::Upgrades => "upgrades",
            DirectiveOutcome::Closes => "closes",
            DirectiveOutcome::FailsOpen => "fails_open",
            DirectiveOutcome::Opens => "opens",
        }
    }

    /// Its meaning, for the summary of the report.
    pub const fn meaning(self) -> &'static str {
        match self {
            DirectiveOutcome::Needless => {
                "Sidegate does this by default, or has no equivalent setting"
            }
            DirectiveOutcome::Carried => "means the same",
            DirectiveOutcome::Dropped => "left out; no decision changes",
            DirectiveOutcome::Differs => "carried over with a difference",
            DirectiveOutcome::Upgrades => {
                "nginx forwarded only plain HTTP here; Sidegate also forwards WebSockets"
            }
            DirectiveOutcome::Closes => "Sidegate refuses requests that nginx admits",
            DirectiveOutcome::FailsOpen => {
                "carried over as nginx applies it, which was probably not intended"
            }
            DirectiveOutcome::Opens => {
                "Sidegate would admit requests that nginx refuses: nothing is written without \
                 --accept-opens"
            }
        }
    }
}
