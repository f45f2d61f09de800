//! The words of the report.

/// What became of a directive, the mildest first. Each word stands at the same place in every line, and stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Sidegate does it by itself, or has nothing that could be set so.
    Needless,
    /// It is written down, and means the same.
    Carried,
    /// It is left out. Nobody is admitted or refused otherwise for that.
    Dropped,
    /// It is carried over, or left out, and something is otherwise than it was.
    Differs,
    /// nginx passed no upgrade on there, and Sidegate passes WebSockets on.
    Upgrades,
    /// Sidegate refuses what nginx let through.
    Closes,
    /// It is carried over as nginx acted on it, which was probably not what was meant.
    FailsOpen,
    /// Sidegate may let through what nginx refused.
    Opens,
}

impl Word {
    /// All of them, the loudest first.
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

    /// As people read it: in capitals where the line needs a look.
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

    /// As programs read it.
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

    /// Its meaning, in a sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Word::Needless => "Sidegate does it by itself, or has nothing like it to set",
            Word::Carried => "means the same",
            Word::Dropped => "left out; nobody is admitted or refused otherwise for that",
            Word::Differs => "not quite as it was",
            Word::Upgrades => {
                "nginx passed plain HTTP alone on there; WebSockets now reach the backend, too"
            }
            Word::Closes => "Sidegate refuses what nginx let through",
            Word::FailsOpen => {
                "carried over as nginx acted on it, which was probably not what was meant"
            }
            Word::Opens => {
                "Sidegate would admit what nginx refused: nothing is written, but with --accept-opens"
            }
        }
    }
}
