//! Reasons why a file cannot be read, and their remedies.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::readers::{Late, MOST_STUCK};

/// The reason why a file cannot be read. `Display` completes a sentence that begins with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No file has that name.
    Missing,
    /// The path is a directory.
    Directory,
    /// The path is a FIFO, a socket or a device.
    Irregular,
    /// The file has zero bytes: more likely cut short than meant so.
    Empty,
    /// The file has more bytes than its kind may have.
    TooLarge {
        /// The bound, in bytes.
        most: u64,
    },
    /// Symbolic links that form a loop, or lead further than the operating system follows.
    Circle,
    /// The file's real path is in none of the permitted folders.
    Outside,
    /// The read makes no progress, or takes too long.
    Stuck,
    /// The file was not read: too many earlier reads are stuck.
    Full,
    /// The operating system refuses the file, with this error number.
    Unreadable(i32),
}

impl Fault {
    /// Advice for the operator. `None` means that none is known.
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
            // A change of permissions is an event.
            Fault::Unreadable(code) => *code != Errno::ACCESS.raw_os_error(),
            Fault::Directory | Fault::Irregular => true,
            // The end of `Stuck` and `Full` is noticed: a read returns.
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
        // Errors without a number do not come from the operating system; nothing here makes one.
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::NOENT => Fault::Missing,
            Errno::ISDIR => Fault::Directory,
            Errno::LOOP => Fault::Circle,
            // `NXIO` comes from opening a socket, `NODEV` from a device without a driver.
            Errno::NXIO | Errno::NODEV => Fault::Irregular,
            code => Fault::Unreadable(code.raw_os_error()),
        }
    }
}

/// The operating system's name for an error, as the end of a sentence.
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
