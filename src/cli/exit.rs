//! The exit codes of all commands.

use std::process::ExitCode;

/// How a command ends (`docs/operations.md`, "How a command ends").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: yes, clean, or drained.
    Success,
    /// 1: no, errors, a rejection, or nothing running.
    Failure,
    /// 2: wrong arguments; clap itself also ends with it.
    Usage,
    /// 75 (EX_TEMPFAIL): a port, a socket or descriptors are not available; systemd tries again.
    Unavailable,
    /// 78 (EX_CONFIG): a file is missing, unreadable or wrong; systemd does not try again.
    Config,
}

impl Exit {
    /// All variants, in the order of their codes.
    pub const ALL: [Exit; 5] =
        [Exit::Success, Exit::Failure, Exit::Usage, Exit::Unavailable, Exit::Config];

    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 75,
            Exit::Config => 78,
        }
    }

    /// Its meaning, for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Success => "success: yes, no errors, drained (also after a second SIGTERM)",
            Exit::Failure => {
                "failure: errors found, refused, reload rejected, over the bound, no agent, \
                 permission denied, output lost"
            }
            Exit::Usage => "wrong arguments",
            Exit::Unavailable => {
                "run: a port, a socket or descriptors are unavailable; systemd restarts the service"
            }
            Exit::Config => {
                "run, explain, lapsing: a file is missing, unreadable or invalid; systemd does not \
                 restart the service"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
