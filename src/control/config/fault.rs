//! Why a file gives no bytes, and what to do about it.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::readers::{Late, MOST_STUCK};

/// Why a file gives no bytes. `Display` completes a sentence that begins with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Missing,
    /// It is a directory.
    Directory,
    /// It is a FIFO, a socket or a device.
    Irregular,
    /// Zero bytes: more likely cut short than meant so.
    Empty,
    /// It has more bytes than its kind may have.
    TooLarge {
        /// The bound, in bytes.
        most: u64,
    },
    /// Symbolic links that lead in a circle, or further than the operating system follows.
    Circle,
    /// Its real path is in none of the folders in which it may be.
    Outside,
    /// Reading it makes no progress, or takes too long.
    Stuck,
    /// It was not read: too many earlier reads are stuck.
    Full,
    /// The operating system refuses it, with this number.
    Unreadable(i32),
}

impl Fault {
    /// What to do about it, where that can be known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Fault::Empty => Some("a file is never left empty on purpose here: was it cut short?".into()),
            Fault::Circle => Some("let the link lead to a file".into()),
            Fault::Outside => {
                Some("move it there, or let the operator add its folder to [policies] lists_from in sidegate.toml".into())
            }
            Fault::Stuck => Some("does its file system answer? It is read again in a moment".into()),
            Fault::Full => Some("nothing is read until one of them returns: does their file system answer?".into()),
            Fault::Unreadable(code) if *code == Errno::ACCESS.raw_os_error() => {
                Some("let the user or the group that sidegate runs as read it".into())
            }
            Fault::Missing | Fault::Directory | Fault::Irregular | Fault::TooLarge { .. } | Fault::Unreadable(_) => None,
        }
    }

    /// Whether the file can be mended without an event in its folder, so that it has to be looked
    /// at often.
    pub fn mends_silently(&self) -> bool {
        match self {
            // Who may read a file changes with an event.
            Fault::Unreadable(code) => *code != Errno::ACCESS.raw_os_error(),
            Fault::Directory | Fault::Irregular => true,
            // Of the two last ones the end is noticed: the read returns.
            Fault::Missing
            | Fault::Empty
            | Fault::TooLarge { .. }
            | Fault::Circle
            | Fault::Outside
            | Fault::Stuck
            | Fault::Full => false,
        }
    }
}

impl From<Late> for Fault {
    fn from(late: Late) -> Fault {
        match late {
            Late::Stuck => Fault::Stuck,
            Late::Full => Fault::Full,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        // What has no number doesn't come from the operating system; nothing here makes such an
        // error.
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::NOENT => Fault::Missing,
            Errno::ISDIR => Fault::Directory,
            Errno::LOOP => Fault::Circle,
            // Of a socket that is opened, and of a device without a driver.
            Errno::NXIO | Errno::NODEV => Fault::Irregular,
            code => Fault::Unreadable(code.raw_os_error()),
        }
    }
}

/// What the operating system calls an error, as the end of a sentence.
fn sentence(code: i32) -> String {
    let said = io::Error::from_raw_os_error(code).to_string();
    let said = said.split(" (os error").next().unwrap_or_default();
    said.chars().take(1).flat_map(char::to_lowercase).chain(said.chars().skip(1)).collect()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => f.write_str("does not exist"),
            Fault::Directory => f.write_str("is a directory, not a file"),
            Fault::Irregular => f.write_str("is not a regular file"),
            Fault::Empty => f.write_str("is empty (zero bytes)"),
            Fault::TooLarge { most } => write!(f, "is larger than {} MiB", most >> 20),
            Fault::Circle => f.write_str("is a symbolic link that leads in a circle"),
            Fault::Outside => {
                f.write_str("lies outside the folder of the policies, links followed")
            }
            Fault::Stuck => f.write_str("cannot be read: the read has not come to an end"),
            Fault::Full => {
                write!(f, "cannot be read: {MOST_STUCK} earlier reads have not come to an end")
            }
            Fault::Unreadable(code) => write!(f, "cannot be read: {}", sentence(*code)),
        }
    }
}
