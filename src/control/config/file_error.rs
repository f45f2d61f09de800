//! Reasons why a file cannot be read, and their remedies.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::fs_executor::{FsCallError, MAX_STUCK_THREADS};

/// The reason why a file cannot be read. `Display` completes a sentence that begins with its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileError {
    /// No file has that name.
    Missing,
    /// The path is a directory.
    Directory,
    /// The path is a FIFO, a socket or a device.
    NotRegular,
    /// The file has zero bytes: more likely cut short than meant so.
    Empty,
    /// The file has more bytes than its kind may have.
    TooLarge {
        /// The bound, in bytes.
        max: u64,
    },
    /// Symbolic links that form a loop, or lead further than the operating system follows.
    SymlinkLoop,
    /// The file's real path is in none of the permitted folders.
    Outside,
    /// The read makes no progress, or takes too long.
    Stuck,
    /// The file was not read: too many earlier reads are stuck.
    TooManyStuck,
    /// The operating system refuses the file, with this error number.
    Unreadable(i32),
}

impl FileError {
    /// Advice for the operator. `None` means that none is known.
    pub fn remedy(&self) -> Option<String> {
        let remedy = match self {
            FileError::Empty => "a file is never left empty on purpose here: was it cut short?",
            FileError::SymlinkLoop => "let the link lead to a file",
            FileError::Outside => {
                "move it there, or let the operator add its folder to [policies] lists_from in \
                 sidegate.toml"
            }
            FileError::Stuck => "does its file system answer? It is read again in a moment",
            FileError::TooManyStuck => {
                "nothing is read until one of them returns: does their file system answer?"
            }
            FileError::Unreadable(code) if *code == Errno::ACCESS.raw_os_error() => {
                "let the user or the group that sidegate runs as read it"
            }
            FileError::Missing
            | FileError::Directory
            | FileError::NotRegular
            | FileError::TooLarge { .. }
            | FileError::Unreadable(_) => return None,
        };
        Some(remedy.into())
    }

    /// Whether the file can be mended without an event in its folder, so that it has to be looked
    /// at often.
    pub fn mends_silently(&self) -> bool {
        match self {
            // A change of permissions is an event.
            FileError::Unreadable(code) => *code != Errno::ACCESS.raw_os_error(),
            FileError::Directory | FileError::NotRegular => true,
            // The end of `Stuck` and `TooManyStuck` is noticed: a read returns.
            FileError::Missing
            | FileError::Empty
            | FileError::TooLarge { .. }
            | FileError::SymlinkLoop
            | FileError::Outside
            | FileError::Stuck
            | FileError::TooManyStuck => false,
        }
    }
}

impl From<FsCallError> for FileError {
    fn from(late: FsCallError) -> FileError {
        match late {
            FsCallError::Stuck => FileError::Stuck,
            FsCallError::TooManyStuck => FileError::TooManyStuck,
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> FileError {
        // Errors without a number do not come from the operating system; nothing here makes one.
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::NOENT => FileError::Missing,
            Errno::ISDIR => FileError::Directory,
            Errno::LOOP => FileError::SymlinkLoop,
            // `NXIO` comes from opening a socket, `NODEV` from a device without a driver.
            Errno::NXIO | Errno::NODEV => FileError::NotRegular,
            code => FileError::Unreadable(code.raw_os_error()),
        }
    }
}

/// The operating system's name for an error, as the end of a sentence.
fn sentence(code: i32) -> String {
    let said = io::Error::from_raw_os_error(code).to_string();
    let said = said.split(" (os error").next().unwrap_or_default();
    said.chars().take(1).flat_map(char::to_lowercase).chain(said.chars().skip(1)).collect()
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Missing => f.write_str("does not exist"),
            FileError::Directory => f.write_str("is a directory, not a file"),
            FileError::NotRegular => f.write_str("is not a regular file"),
            FileError::Empty => f.write_str("is empty (zero bytes)"),
            FileError::TooLarge { max } => write!(f, "is larger than {} MiB", max >> 20),
            FileError::SymlinkLoop => f.write_str("is a symbolic link that leads in a circle"),
            FileError::Outside => {
                f.write_str("lies outside the folder of the policies, links followed")
            }
            FileError::Stuck => f.write_str("cannot be read: the read has not come to an end"),
            FileError::TooManyStuck => {
                write!(
                    f,
                    "cannot be read: {MAX_STUCK_THREADS} earlier reads have not come to an end"
                )
            }
            FileError::Unreadable(code) => write!(f, "cannot be read: {}", sentence(*code)),
        }
    }
}
