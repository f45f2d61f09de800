//! The claim of one process on a state folder: a lock that the kernel releases with the process.
//!
//! Only the process that has the claim writes into the folder. The lock's file is never removed,
//! since two processes could then hold locks on two files of that name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::sync::lock;

/// Name of the lock's file in the folder.
pub const LOCK: &str = "lock";

/// Most bytes of the lock's file that are read: a number, and a path.
const MAX_OWNER_BYTES: u64 = 8 << 10;

/// The claim on a folder, held or not.
#[derive(Debug)]
pub struct StateClaim {
    folder: PathBuf,
    /// The configuration of this process, for the owner's line in the file.
    config: PathBuf,
    state: Mutex<ClaimState>,
}

#[derive(Debug, Default)]
struct ClaimState {
    /// The locked file. `None` means that the claim is not held.
    file: Option<File>,
    /// Number of times that the claim was gained.
    gained: u64,
    /// Whether another process had the claim before.
    was_used: bool,
    /// The process that had the claim at the last attempt. `None` means that none had it.
    rival: Option<ClaimOwner>,
    /// Whether the claim was left to the next process of an upgrade, for good.
    is_released: bool,
}

/// The process that has a claim, as far as the lock's file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimOwner {
    /// Process id in its own namespace. `None` means not known.
    pid: Option<u32>,
    /// Its configuration. `None` means not known.
    config: Option<PathBuf>,
}

impl StateClaim {
    /// The claim on `folder` by the agent of `config`, not held yet.
    pub fn new(folder: PathBuf, config: &Path) -> StateClaim {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        StateClaim { folder, config, state: Mutex::default() }
    }

    /// Takes the claim unless it is held, and returns how often it was gained so far.
    ///
    /// # Errors
    /// Another process has it, or the lock's file cannot be made.
    pub fn take(&self) -> io::Result<u64> {
        let mut state = lock(&self.state);
        if state.is_released {
            return Err(io::Error::other("the next process of this agent has the state folder"));
        }
        // A lock on a file that was removed or moved away keeps no other process out.
        if state.file.as_ref().is_some_and(|file| self.is_in_place(file)) {
            return Ok(state.gained);
        }
        state.file = None;
        let mut file = open(&self.folder.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let rival = ClaimOwner::read(&mut file);
                let sentence = self.conflict_with(&rival);
                state.rival = Some(rival);
                state.was_used = true;
                return Err(io::Error::other(sentence));
            }
            // Without locks nothing tells two processes apart. Not to write would lose every ban
            // at a restart, also where there is one process.
            Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS) => tracing::warn!(
                "the file system has no locks: no other agent may use the state folder {}",
                self.folder.display()
            ),
            Err(error) => return Err(error.into()),
        }
        if !self.is_in_place(&file) {
            return Err(io::Error::other("the lock of the state folder was replaced meanwhile"));
        }
        // A new file is empty until its first owner signs it.
        state.was_used |= state.gained == 0 && file.metadata().is_ok_and(|found| found.len() > 0);
        // For people and for the sentence of a rival: the lock itself needs no contents.
        let _ = self.sign(&mut file);
        if state.rival.take().is_some() {
            let folder = self.folder.display();
            tracing::info!("the state folder is free now, and used: {folder}");
        }
        state.file = Some(file);
        state.gained += 1;
        Ok(state.gained)
    }

    /// Gives the claim up for good: the next process of an upgrade takes it.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        (state.file, state.is_released) = (None, true);
    }

    /// How often the claim was gained so far. 0 means that it never was held.
    pub fn gained(&self) -> u64 {
        lock(&self.state).gained
    }

    /// Whether another process had the claim before this one, as far as it was tried.
    pub fn was_used(&self) -> bool {
        lock(&self.state).was_used
    }

    /// A sentence about the process that has the claim instead. `None` means that none was seen.
    pub fn conflict(&self) -> Option<String> {
        lock(&self.state).rival.as_ref().map(|rival| self.conflict_with(rival))
    }

    /// Whether the claim belongs to an agent with another configuration.
    pub fn is_foreign(&self) -> bool {
        let state = lock(&self.state);
        let config = state.rival.as_ref().and_then(|rival| rival.config.as_ref());
        // An unknown owner counts as this configuration: its bans are rather too many than none.
        config.is_some_and(|config| *config != self.config)
    }

    /// Whether the process that has started this one has the claim, as in an upgrade.
    pub fn is_of_parent(&self) -> bool {
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().cast_unsigned());
        let rival = lock(&self.state).rival.as_ref().and_then(|rival| rival.pid);
        rival.is_some() && rival == parent
    }

    fn conflict_with(&self, rival: &ClaimOwner) -> String {
        let pid = rival.pid.map_or_else(String::new, |pid| format!("process {pid}, "));
        let (who, remedy) = match &rival.config {
            Some(config) if *config != self.config => (
                format!("another agent ({pid}{})", config.display()),
                ": give each agent a [process] state of its own",
            ),
            Some(_) => (format!("another process ({pid}with the same configuration)"), ""),
            None => ("another process".to_owned(), ""),
        };
        format!("{who} uses the state folder {}{remedy}", self.folder.display())
    }

    /// Whether `file` still has the lock's name.
    fn is_in_place(&self, file: &File) -> bool {
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let named = fs::symlink_metadata(self.folder.join(LOCK)).ok().map(inode);
        named.is_some() && named == file.metadata().ok().map(inode)
    }

    fn sign(&self, file: &mut File) -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}\n{}\n", std::process::id(), self.config.display())
    }
}

/// Opens the lock's file, or makes it. A link or a FIFO in its place is an error.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let file = options.open(path).map_err(|error| named(path, &error))?;
    if !file.metadata()?.is_file() {
        return Err(named(path, &io::Error::other("it is no regular file")));
    }
    Ok(file)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl ClaimOwner {
    fn read(file: &mut File) -> ClaimOwner {
        let mut text = String::new();
        if file.take(MAX_OWNER_BYTES).read_to_string(&mut text).is_err() {
            return ClaimOwner::default();
        }
        // Its owner may be writing it. A path without its line end may lack a part.
        let Some((pid, config)) = text.split_once('\n') else { return ClaimOwner::default() };
        let config = config.strip_suffix('\n').filter(|config| !config.is_empty());
        ClaimOwner { pid: pid.parse().ok(), config: config.map(PathBuf::from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(folder: &tempfile::TempDir, config: &str) -> StateClaim {
        StateClaim::new(folder.path().to_owned(), Path::new(config))
    }

    #[test]
    fn second_process_is_told_of_the_first_until_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (claim(&folder, "/etc/a.toml"), claim(&folder, "/etc/a.toml"));
        assert_eq!((first.take().unwrap(), first.take().unwrap()), (1, 1));
        let error = second.take().unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("(process {pid}, with the same config")), "{error}");
        assert_eq!(second.conflict(), Some(error));
        assert!(!second.is_foreign());
        drop(first);
        assert_eq!((second.take().unwrap(), second.conflict()), (1, None));
    }

    #[test]
    fn released_claim_belongs_to_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (claim(&folder, "a"), claim(&folder, "a"));
        first.take().unwrap();
        first.release();
        first.take().unwrap_err();
        assert_eq!((second.take().unwrap(), second.conflict()), (1, None));
        drop(second);
        first.take().unwrap_err();
    }

    #[test]
    fn agent_with_another_configuration_is_foreign() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (claim(&folder, "/etc/a.toml"), claim(&folder, "/etc/b.toml"));
        first.take().unwrap();
        let error = second.take().unwrap_err().to_string();
        assert!(error.contains("/etc/a.toml") && error.contains("of its own"), "{error}");
        assert!(second.is_foreign());
        // An owner that has not written its line yet.
        File::options().write(true).open(folder.path().join(LOCK)).unwrap().set_len(3).unwrap();
        second.take().unwrap_err();
        assert!(!second.is_foreign() && second.conflict().is_some());
    }

    #[test]
    fn removed_lock_is_taken_again_and_a_link_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (claim(&folder, "a"), claim(&folder, "a"));
        first.take().unwrap();
        fs::remove_file(folder.path().join(LOCK)).unwrap();
        assert_eq!(second.take().unwrap(), 1);
        first.take().unwrap_err();
        drop(second);
        assert_eq!(first.take().unwrap(), 2, "gained again");
        drop(first);
        fs::remove_file(folder.path().join(LOCK)).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.path().join(LOCK)).unwrap();
        claim(&folder, "a").take().unwrap_err();
        assert!(!folder.path().join("elsewhere").exists());
    }
}
