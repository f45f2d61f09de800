//! The exit codes.

use std::process::ExitCode;

/// How a command ends (`docs/operations.md`, "How a command ends").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Yes, clean, drained.
    Yes,
    /// No: errors, a rejection, nothing running.
    No,
    /// The arguments are wrong: clap ends so by itself.
    Usage,
    /// A port, a socket or descriptors not to be had; systemd tries again.
    Unavailable,
    /// A file missing, unreadable or wrong; systemd does not try again.
    Config,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Exit; 5] = [Exit::Yes, Exit::No, Exit::Usage, Exit::Unavailable, Exit::Config];

    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Yes => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 75,
            Exit::Config => 78,
        }
    }

    /// Its meaning, for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Yes => "yes, clean, drained (also by a second SIGTERM)",
            Exit::No => {
                "no: errors found, refused, reload rejected, over the bound, nothing running, permission denied"
            }
            Exit::Usage => "wrong arguments",
            Exit::Unavailable => {
                "run: a port, a socket or descriptors are not to be had; systemd tries again"
            }
            Exit::Config => {
                "run: a file is missing, unreadable or wrong; systemd doesn't try again"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
