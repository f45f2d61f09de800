//! The folder for what outlasts a restart, and its files: each replaced as a whole.
//!
//! A folder is made at the first write, never by a look. No file of the configuration lies here.
//! One process writes at a time; `state_claim` has the lock.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{Access, OFlags, access};
use sha2::{Digest, Sha256};

use crate::control::config::StateSetting;
use crate::control::file_trust::check_owner;
use crate::control::state_claim::StateClaim;
use crate::control::unfinished::{is_unfinished, sweep};

/// Beginning of the names of files that are being written.
const UNFINISHED: &str = ".new-";

/// The folder of `auto` for agents that systemd does not start.
const HOST_FOLDER: &str = "/var/lib/sidegate";

/// A folder for files that outlast a restart. Clones share one claim on it.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    claim: Arc<StateClaim>,
}

impl StateDir {
    /// Finds the folder of `setting` for the agent of `config`, and claims it if it exists.
    ///
    /// # Errors
    /// A sentence that says why nothing is kept.
    pub fn find(setting: &StateSetting, config: &Path) -> Result<StateDir, String> {
        let folder = StateDir::look(setting, config)?;
        // A rival is reported by `conflict`, and any other fault by the first write.
        // The former process of an upgrade still has it.
        if folder.path.is_dir() && folder.claim().is_err() && !folder.claim.is_of_parent() {
            folder.conflict().iter().for_each(|what| tracing::warn!("{what}"));
        }
        Ok(folder)
    }

    /// Finds the folder of `setting` for the agent of `config`, without a claim on it.
    ///
    /// # Errors
    /// A sentence that says why nothing is kept.
    pub fn look(setting: &StateSetting, config: &Path) -> Result<StateDir, String> {
        let path = locate(setting, config)?;
        // A folder that does not exist yet belongs to the agent once it has made it.
        if let Ok(found) = fs::metadata(&path) {
            check_owner(&path, &found)?;
        }
        Ok(StateDir::at(path, config))
    }

    /// Why the folder of `setting` is not used although it is there. `None` means that it is used,
    /// or that there is none.
    pub fn distrust(setting: &StateSetting, config: &Path) -> Option<String> {
        let path = locate(setting, config).ok()?;
        check_owner(&path, &fs::metadata(&path).ok()?).err()
    }

    /// Like [`StateDir::find`], but with the claim of `known` where that is the same folder.
    ///
    /// # Errors
    /// A sentence that says why nothing is kept.
    pub fn find_again(
        setting: &StateSetting,
        config: &Path,
        known: &Result<StateDir, String>,
    ) -> Result<StateDir, String> {
        let path = locate(setting, config)?;
        match known {
            Ok(known) if known.path == path => Ok(known.clone()),
            _ => StateDir::find(setting, config),
        }
    }

    fn at(path: PathBuf, config: &Path) -> StateDir {
        let claim = Arc::new(StateClaim::new(path.clone(), config));
        StateDir { path, claim }
    }

    /// Claims the folder unless this process has it already, and returns how often it did so far.
    /// A new claim removes what a killed process has left half written.
    ///
    /// # Errors
    /// Another process has the folder, or it cannot be locked.
    pub fn claim(&self) -> io::Result<u64> {
        let before = self.claim.gained();
        let now = self.claim.take()?;
        if now != before {
            // All others write under the claim, so that no file belongs to a process that runs.
            sweep(&self.path, Duration::ZERO, |name| is_unfinished(name, UNFINISHED));
        }
        Ok(now)
    }

    /// Leaves the folder to the next process of an upgrade. This one does not claim it again.
    pub fn release(&self) {
        self.claim.release();
    }

    /// How often this process has claimed the folder. 0 means never.
    pub fn claimed(&self) -> u64 {
        self.claim.gained()
    }

    /// Whether a process had the folder before this one.
    pub fn was_used(&self) -> bool {
        self.claim.was_used()
    }

    /// A sentence about another process that has the folder. `None` means that none was seen.
    pub fn conflict(&self) -> Option<String> {
        self.claim.conflict()
    }

    /// The path of the folder.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the file `name` of at most `max` bytes. `None` means that there is none, or that the
    /// folder belongs to an agent with another configuration.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or other users can change it.
    pub fn read(&self, name: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        if self.claim.is_foreign() {
            return Ok(None);
        }
        // A FIFO would block until a program writes to it. Files ignore the flag (open(2)).
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        check_owner(&self.path(name), &found).map_err(io::Error::other)?;
        let too_large = || io::Error::other(format!("it is larger than {} MiB", max >> 20));
        if found.len() > max {
            return Err(too_large());
        }
        // The length may change before the read, so the read itself is bounded. One byte more
        // than allowed tells a file that is too large.
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > max {
            true => Err(too_large()),
            false => Ok(Some(bytes)),
        }
    }

    /// Replaces the file `name`, so that a crash at any moment leaves the old or the new one.
    ///
    /// # Errors
    /// The folder or the file cannot be written, or another process has the folder; the old file
    /// is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_with(name, |file| file.write_all(bytes))
    }

    /// As `write`, with contents that `fill` writes piece by piece.
    ///
    /// # Errors
    /// The folder or the file cannot be written, or `fill` fails; the old file is still there.
    pub fn write_with(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make()?;
        self.claim()?;
        // Readable by its owner alone, as tempfile makes it.
        // Beside the old file: a rename is atomic only within one file system (rename(2)).
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.path)?;
        let mut buffered = io::BufWriter::new(file.as_file_mut());
        fill(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        // Before the rename: a crash could otherwise leave the name of a file without its contents.
        file.as_file().sync_all()?;
        file.persist(self.path(name)).map_err(|failed| failed.error)?;
        // The rename itself is on the disk only once the folder is.
        File::open(&self.path)?.sync_all()
    }

    /// Makes the folder, if there is none.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn make(&self) -> io::Result<()> {
        if let Ok(found) = fs::metadata(&self.path) {
            // Another user may have made it, or opened it to others, after the look at it.
            return check_owner(&self.path, &found).map_err(io::Error::other);
        }
        // The files name clients and the reasons for bans, which other users need not see.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    /// Removes the file `name`, if there is one.
    ///
    /// # Errors
    /// The file is still there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        // Looked at first: a folder that was never made needs no claim.
        match fs::symlink_metadata(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        self.claim()?;
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.path)?.sync_all(),
        }
    }

    /// Renames the file `name`, so that its contents stay for a look, and returns the new path.
    ///
    /// # Errors
    /// The file cannot be renamed.
    pub fn set_aside(&self, name: &str, suffix: &str) -> io::Result<PathBuf> {
        self.claim()?;
        let aside = self.path(&format!("{name}.damaged-{suffix}"));
        fs::rename(self.path(name), &aside)?;
        Ok(aside)
    }

    /// Sets the damaged file `name` aside, and returns a sentence that says where it is now.
    pub fn set_aside_sentence(&self, name: &str) -> String {
        match self.set_aside(name, &Timestamp::now().as_second().to_string()) {
            Ok(aside) => format!("it is now {}", aside.display()),
            Err(error) => format!("it cannot be renamed: {error}"),
        }
    }
}

/// The path of the folder of `setting`.
fn locate(setting: &StateSetting, config: &Path) -> Result<PathBuf, String> {
    match setting {
        StateSetting::Off => Err("[process] state is \"off\"".into()),
        StateSetting::Path(path) => {
            // Relative to the configuration, since the working directory depends on the start.
            // A folder that was named is never replaced by a default.
            let folder = config.parent().unwrap_or(Path::new("")).join(path);
            match is_usable(&folder) {
                true => Ok(folder),
                false => Err(format!("{} cannot be written", folder.display())),
            }
        }
        StateSetting::Auto => {
            let mut folders = candidate_dirs(config).into_iter();
            folders
                .find(|folder| is_usable(folder))
                .ok_or_else(|| "no default folder for state is usable: set [process] state".into())
        }
    }
}

/// The folders of `auto`, in order. Folders that several agents share have one for each
/// configuration below them.
fn candidate_dirs(config: &Path) -> Vec<PathBuf> {
    let from =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd may name several folders, separated by colons (systemd.exec(5)).
    let unit = from("STATE_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let session = from("XDG_STATE_HOME").map(|folder| folder.join("sidegate"));
    let own = own_name(config);
    // systemd's folder belongs to one unit. Only the others need a name for each configuration.
    let shared = [PathBuf::from(HOST_FOLDER)].into_iter().chain(session);
    unit.into_iter().chain(shared.map(|folder| folder.join(&own))).collect()
}

/// The name of a configuration's own folder.
fn own_name(config: &Path) -> String {
    // Links are not resolved: a deployment that swaps a link must keep its folder.
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `folder` can be written, or made: then the nearest folder above that exists decides.
fn is_usable(folder: &Path) -> bool {
    let mut nearest = folder;
    while !nearest.exists() {
        match nearest.parent() {
            Some(above) if !above.as_os_str().is_empty() => nearest = above,
            _ => return false,
        }
    }
    // `access` knows of read-only mounts, which the mode does not show. It is a forecast: the
    // disk may be full by the time of the write, which then reports that itself.
    nearest.is_dir() && access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_replaced_and_none_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path().join("a/b"), Path::new("a.toml"));
        assert_eq!(state.read("bans.json", 9).unwrap(), None);
        assert!(!folder.path().join("a").exists(), "a look makes no folder");
        for bytes in [&b"one"[..], b"two"] {
            state.write("bans.json", bytes).unwrap();
            assert_eq!(state.read("bans.json", 9).unwrap().as_deref(), Some(bytes));
        }
        state.write("other", b"x").unwrap();
        state.remove("other").unwrap();
        state.remove("other").unwrap();
        let aside = state.set_aside("bans.json", "7").unwrap();
        assert_eq!(fs::read(aside).unwrap(), b"two");
        assert_eq!(state.read("bans.json", 9).unwrap(), None);
        // The one set aside, and the lock.
        assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 2);
    }

    #[test]
    fn fifo_in_the_place_of_a_file_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path().to_owned(), Path::new("a.toml"));
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, state.path("bans.json"), mode).unwrap();
        let error = state.read("bans.json", 9).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    #[test]
    fn folder_is_that_of_the_setting_or_a_sentence_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sidegate.toml");
        let found = |setting: StateSetting| StateDir::find(&setting, &config);
        assert_eq!(
            found(StateSetting::Path("state".into())).unwrap().path,
            folder.path().join("state")
        );
        fs::write(folder.path().join("file"), "").unwrap();
        let fault = found(StateSetting::Path("file".into())).unwrap_err();
        assert!(fault.contains("cannot be written"), "{fault}");
        assert!(found(StateSetting::Off).unwrap_err().contains("\"off\""));
    }

    #[test]
    fn file_beyond_the_bound_is_an_error_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path().to_owned(), Path::new("a.toml"));
        fs::write(state.path("a"), [b'x'; 9]).unwrap();
        assert!(state.read("a", 9).is_ok());
        fs::write(state.path("a"), [b'x'; 10]).unwrap();
        assert!(state.read("a", 9).is_err());
        // Sparse: to read it would take a terabyte.
        File::create(state.path("b")).unwrap().set_len(1 << 40).unwrap();
        let error = state.read("b", 5 << 20).unwrap_err().to_string();
        assert_eq!(error, "it is larger than 5 MiB");
    }

    #[test]
    fn claim_sweeps_unfinished_files_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path().to_owned(), Path::new("a.toml"));
        let there = |name: &str| fs::symlink_metadata(state.path(name)).is_ok();
        for name in [".new-aB3dE9", "bans.json"] {
            fs::write(state.path(name), "x").unwrap();
        }
        state.claim().unwrap();
        assert!(!there(".new-aB3dE9") && there("bans.json"));
        fs::write(state.path(".new-aB3dE9"), "x").unwrap();
        state.claim().unwrap();
        assert!(there(".new-aB3dE9"), "it may be one of this process");
    }

    #[test]
    fn folder_of_another_agent_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let setting = StateSetting::Path(folder.path().to_owned());
        let find = |config: &str| StateDir::find(&setting, Path::new(config)).unwrap();
        let (first, same, other) = (find("/a.toml"), find("/a.toml"), find("/b.toml"));
        first.write("bans.json", b"x").unwrap();
        assert!(same.read("bans.json", 9).unwrap().is_some(), "an upgrade reads what holds");
        assert_eq!(other.read("bans.json", 9).unwrap(), None);
        for state in [&same, &other] {
            assert!(state.write("bans.json", b"y").is_err() && state.remove("bans.json").is_err());
            assert!(state.set_aside("bans.json", "7").is_err());
        }
        assert!(other.conflict().unwrap().contains("/a.toml"));
        let known = Ok(first.clone());
        let again = StateDir::find_again(&setting, Path::new("/a.toml"), &known).unwrap();
        again.write("bans.json", b"z").unwrap();
        drop((first, known, again));
        same.write("bans.json", b"y").unwrap();
        assert_eq!((same.conflict(), same.claimed()), (None, 1));
    }

    #[test]
    fn configurations_do_not_share_a_folder() {
        let dirs = |config: &str| candidate_dirs(Path::new(config));
        assert_ne!(dirs("/etc/a/sidegate.toml").last(), dirs("/etc/b/sidegate.toml").last());
    }
}
