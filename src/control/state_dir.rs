//! The folder for what outlasts a restart, and its files: each replaced as a whole.
//!
//! A folder is made at the first write, never by a look. No file of the configuration lies here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};
use sha2::{Digest, Sha256};

use crate::control::config::StateSetting;

/// Most bytes of a file that is read. A million bans take about a fifth.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The folder of `auto` for agents that systemd does not start.
const HOST_FOLDER: &str = "/var/lib/sidegate";

/// A folder for files that outlast a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Finds the folder of `setting` for the agent of `config`.
    ///
    /// # Errors
    /// A sentence that says why nothing is kept.
    pub fn find(setting: &StateSetting, config: &Path) -> Result<StateDir, String> {
        match setting {
            StateSetting::Off => Err("[process] state is \"off\"".into()),
            StateSetting::Path(path) => {
                // Relative to the configuration, since the working directory depends on the start.
                // A folder that was named is never replaced by a default.
                let folder = config.parent().unwrap_or(Path::new("")).join(path);
                match is_usable(&folder) {
                    true => Ok(StateDir(folder)),
                    false => Err(format!("{} cannot be written", folder.display())),
                }
            }
            StateSetting::Auto => {
                let mut folders = candidate_dirs(config).into_iter();
                folders.find(|folder| is_usable(folder)).map(StateDir).ok_or_else(|| {
                    "no default folder for state is usable: set [process] state".into()
                })
            }
        }
    }

    /// The path of the file `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads the file `name`. `None` means that there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is too large.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // A FIFO would block until a program writes to it. Files ignore the flag (open(2)).
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // The length from `stat` may change before the read, so the read itself is bounded. One
        // byte more than allowed tells a file that is too large.
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 {
            0..=MAX_FILE_BYTES => Ok(Some(bytes)),
            _ => Err(io::Error::other("it is larger than 1 GiB")),
        }
    }

    /// Replaces the file `name`, so that a crash at any moment leaves the old or the new one.
    ///
    /// # Errors
    /// The folder or the file cannot be written; the old file is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if !self.0.exists() {
            // The files name clients and the reasons for bans, which other users need not see.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        }
        // Readable by its owner alone, as tempfile makes it.
        // Beside the old file: a rename is atomic only within one file system (rename(2)).
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.0)?;
        file.write_all(bytes)?;
        // Before the rename: a crash could otherwise leave the name of a file without its contents.
        file.as_file().sync_all()?;
        file.persist(self.path(name)).map_err(|failed| failed.error)?;
        // The rename itself is on the disk only once the folder is.
        File::open(&self.0)?.sync_all()
    }

    /// Removes the file `name`, if there is one.
    ///
    /// # Errors
    /// The file is still there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(&self.0)?.sync_all(),
        }
    }

    /// Renames the file `name`, so that its contents stay for a look, and returns the new path.
    ///
    /// # Errors
    /// The file cannot be renamed.
    pub fn set_aside(&self, name: &str, suffix: &str) -> io::Result<PathBuf> {
        let aside = self.path(&format!("{name}.damaged-{suffix}"));
        fs::rename(self.path(name), &aside)?;
        Ok(aside)
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
        let state = StateDir(folder.path().join("a/b"));
        assert_eq!(state.read("bans.json").unwrap(), None);
        assert!(!folder.path().join("a").exists(), "a look makes no folder");
        for bytes in [&b"one"[..], b"two"] {
            state.write("bans.json", bytes).unwrap();
            assert_eq!(state.read("bans.json").unwrap().as_deref(), Some(bytes));
        }
        state.write("other", b"x").unwrap();
        state.remove("other").unwrap();
        state.remove("other").unwrap();
        let aside = state.set_aside("bans.json", "7").unwrap();
        assert_eq!(fs::read(aside).unwrap(), b"two");
        assert_eq!(state.read("bans.json").unwrap(), None);
        assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn fifo_in_the_place_of_a_file_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir(folder.path().to_owned());
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, state.path("bans.json"), mode).unwrap();
        let error = state.read("bans.json").unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    #[test]
    fn folder_is_that_of_the_setting_or_a_sentence_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sidegate.toml");
        let found = |setting: StateSetting| StateDir::find(&setting, &config);
        assert_eq!(
            found(StateSetting::Path("state".into())).unwrap().0,
            folder.path().join("state")
        );
        fs::write(folder.path().join("file"), "").unwrap();
        let fault = found(StateSetting::Path("file".into())).unwrap_err();
        assert!(fault.contains("cannot be written"), "{fault}");
        assert!(found(StateSetting::Off).unwrap_err().contains("\"off\""));
    }

    #[test]
    fn configurations_do_not_share_a_folder() {
        let dirs = |config: &str| candidate_dirs(Path::new(config));
        assert_ne!(dirs("/etc/a/sidegate.toml").last(), dirs("/etc/b/sidegate.toml").last());
    }
}
