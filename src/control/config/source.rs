//! Reading files: each once per pass, with everything that two passes need to be compared.
//!
//! It bounds what it reads and remembers what it did not find, so that the
//! watcher knows where something may appear. It never looks into a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The largest TOML file, in bytes.
pub const MOST_TOML: u64 = 10 << 20;
/// The largest list file, in bytes.
pub const MOST_LIST: u64 = 64 << 20;
/// The largest PEM file, in bytes.
pub const MOST_PEM: u64 = 1 << 20;

/// Of so many bytes are those that are compared again.
const CHUNK: usize = 64 << 10;

/// The files and folders of one pass over the configuration.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<PathBuf, Seen>,
    folders: BTreeMap<PathBuf, Result<Arc<[String]>, Fault>>,
}

/// What was found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    stamp: Option<Stamp>,
    bytes: Result<Bytes, Fault>,
    /// Of the bytes, or of the fault.
    digest: Digest,
}

/// What tells two versions of a file apart before their bytes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    mode: u32,
}

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
    /// The operating system refuses it, with this number.
    Unreadable(i32),
}

/// SHA-256 over what was found at a path, or at every path that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Files {
    /// Nothing read yet.
    pub fn new() -> Files {
        Files::default()
    }

    /// The bytes of the regular file `path` (through symbolic links), at most `most` of them.
    ///
    /// # Errors
    /// Anything else than a file of 1 to `most` bytes.
    pub fn read(&mut self, path: &Path, most: u64) -> Result<Bytes, Fault> {
        if let Some(seen) = self.files.get(path) {
            match &seen.bytes {
                Ok(bytes) if bytes.len() as u64 > most => return Err(Fault::TooLarge { most }),
                Err(Fault::TooLarge { most: earlier }) if *earlier < most => {}
                known => return known.clone(),
            }
        }
        let seen = see(path, most);
        let bytes = seen.bytes.clone();
        self.files.insert(path.to_owned(), seen);
        bytes
    }

    /// The names in the folder `path`, sorted; names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// It is missing, not a directory or not readable.
    pub fn list(&mut self, path: &Path) -> Result<Arc<[String]>, Fault> {
        if let Some(known) = self.folders.get(path) {
            return known.clone();
        }
        let names = names(path);
        self.folders.insert(path.to_owned(), names.clone());
        names
    }

    /// Looks at the same files once more: whether they have the same sizes, times and bytes, so that nobody is writing.
    /// What they say is not followed any further, and nothing of it is kept.
    pub fn unchanged(&self) -> bool {
        self.files.iter().all(|(path, seen)| seen.stands_at(path))
    }

    /// The permission bits of a file that was read.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        self.files.get(path)?.stamp.map(|stamp| stamp.mode)
    }

    /// When a file that was read was last written.
    pub fn modified(&self, path: &Path) -> Option<Timestamp> {
        Timestamp::try_from(self.files.get(path)?.stamp?.modified?).ok()
    }

    /// What this pass found, in 32 bytes: equal for equal paths and contents, whenever they were written. The names in
    /// a folder are not part of it: an editor's swap file is no change.
    pub fn digest(&self) -> Digest {
        let mut sha = Sha256::new();
        for (path, seen) in &self.files {
            mix(&mut sha, b"file", path.as_os_str().as_encoded_bytes());
            sha.update(seen.digest.0);
        }
        Digest(sha.finalize().into())
    }

    /// The same of one file that was read.
    pub fn digest_of(&self, path: &Path) -> Option<Digest> {
        Some(self.files.get(path)?.digest)
    }

    /// Every file that was asked for, found or not.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Every folder that was listed, found or not.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.keys().map(PathBuf::as_path)
    }
}

/// Length-prefixed, so that no two different inputs look alike.
fn mix(sha: &mut Sha256, kind: &[u8], bytes: &[u8]) {
    sha.update(kind);
    sha.update((bytes.len() as u64).to_be_bytes());
    sha.update(bytes);
}

fn see(path: &Path, most: u64) -> Seen {
    let file = match open(path) {
        Ok(file) => file,
        Err(fault) => return Seen::new(None, Err(fault)),
    };
    match take(file, most) {
        Ok((stamp, bytes)) => Seen::new(Some(stamp), bytes),
        Err(error) => Seen::new(None, Err(Fault::from(error))),
    }
}

/// Opens a regular file.
fn open(path: &Path) -> Result<File, Fault> {
    // Asked before it is opened: opening a FIFO waits for a writer.
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(Fault::Directory);
    }
    if !found.is_file() {
        return Err(Fault::Irregular);
    }
    Ok(File::open(path)?)
}

/// The stamp is of the file that was opened, which a rename may have replaced meanwhile.
fn take(file: File, most: u64) -> io::Result<(Stamp, Result<Bytes, Fault>)> {
    let stamp = Stamp::of(&file.metadata()?);
    if stamp.size > most {
        return Ok((stamp, Err(Fault::TooLarge { most })));
    }
    // With room to find the end in, so that it doesn't grow.
    let mut bytes = Vec::with_capacity(stamp.size as usize + 1);
    file.take(most + 1).read_to_end(&mut bytes)?;
    let bytes = match bytes.len() as u64 {
        0 => Err(Fault::Empty),
        length if length > most => Err(Fault::TooLarge { most }),
        // There may be a key in it.
        _ if most == MOST_PEM => Ok(Bytes::from_owner(Zeroizing::new(bytes))),
        _ => Ok(bytes.into()),
    };
    Ok((stamp, bytes))
}

impl Seen {
    fn new(stamp: Option<Stamp>, bytes: Result<Bytes, Fault>) -> Seen {
        let mut sha = Sha256::new();
        match &bytes {
            Ok(bytes) => mix(&mut sha, b"read", bytes),
            Err(fault) => mix(&mut sha, b"fault", fault.to_string().as_bytes()),
        }
        Seen { stamp, bytes, digest: Digest(sha.finalize().into()) }
    }

    /// Whether the same is found at `path` now.
    fn stands_at(&self, path: &Path) -> bool {
        match &self.bytes {
            // Beside the bytes that are there, not into memory of its own: they may be many.
            Ok(bytes) => open(path).is_ok_and(|file| self.is(file, bytes).unwrap_or(false)),
            Err(Fault::TooLarge { most }) => *self == see(path, *most),
            Err(_) => *self == see(path, MOST_LIST),
        }
    }

    fn is(&self, mut file: File, mut bytes: &[u8]) -> io::Result<bool> {
        if self.stamp != Some(Stamp::of(&file.metadata()?)) {
            return Ok(false);
        }
        // No larger than it must be: all of it is overwritten in the end.
        let mut chunk = Zeroizing::new(vec![0; CHUNK.min(bytes.len() + 1)]);
        loop {
            let read = match file.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            match bytes.strip_prefix(&chunk[..read]) {
                Some(rest) if read > 0 => bytes = rest,
                rest => return Ok(rest.is_some_and(<[u8]>::is_empty)),
            }
        }
    }
}

fn names(path: &Path) -> Result<Arc<[String]>, Fault> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names.into())
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { size: metadata.len(), modified: metadata.modified().ok(), mode: metadata.permissions().mode() & 0o7777 }
    }
}

impl Fault {
    /// What to do about it, where that can be known.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Fault::Empty => Some("a file is never left empty on purpose here: was it cut short?".into()),
            Fault::Circle => Some("let the link lead to a file".into()),
            Fault::Unreadable(code) if *code == Errno::ACCESS.raw_os_error() => {
                Some("let the user or the group that sidegate runs as read it".into())
            }
            Fault::Missing | Fault::Directory | Fault::Irregular | Fault::TooLarge { .. } | Fault::Unreadable(_) => None,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        // What has no number doesn't come from the operating system; nothing here makes such an error.
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::NOENT => Fault::Missing,
            Errno::ISDIR => Fault::Directory,
            Errno::LOOP => Fault::Circle,
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
            Fault::Unreadable(code) => write!(f, "cannot be read: {}", sentence(*code)),
        }
    }
}

impl fmt::Display for Digest {
    /// The first twelve hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&Path), expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path);
        let found = match Files::new().read(&path, 8) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn every_fault_is_told_apart() {
        check(|path| fs::write(path, "12345678").unwrap(), "12345678");
        check(|_| {}, "does not exist");
        check(|path| fs::write(path, "").unwrap(), "is empty (zero bytes)");
        check(|path| fs::create_dir(path).unwrap(), "is a directory, not a file");
        check(|path| fs::write(path, "123456789").unwrap(), "is larger than 0 MiB");
        check(|path| std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(), "does not exist");
        check(|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "is not a regular file");
    }

    #[test]
    fn a_fifo_or_a_device_does_not_hang() {
        assert_eq!(Files::new().read(Path::new("/dev/zero"), 8), Err(Fault::Irregular));
        check(
            |path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
            "is not a regular file",
        );
    }

    #[test]
    fn a_file_is_read_once_per_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut files = Files::new();
        assert_eq!(files.read(&path, 8), Err(Fault::Missing));
        fs::write(&path, "a").unwrap();
        assert_eq!(files.read(&path, 8), Err(Fault::Missing));
        assert_eq!(Files::new().read(&path, 8), Ok(b"a".as_slice().into()));
    }

    #[test]
    fn the_digest_follows_paths_and_bytes_and_not_times() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let pass = |paths: &[&Path]| {
            let mut files = Files::new();
            paths.iter().for_each(|path| drop(files.read(path, 8)));
            files
        };
        fs::write(&a, "1").unwrap();
        let first = pass(&[&a, &b]);
        assert_eq!(first.digest(), pass(&[&b, &a]).digest());
        assert_ne!(first.digest(), pass(&[&a]).digest());
        assert!(first.unchanged());

        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        File::options().write(true).open(&a).unwrap().set_modified(later).unwrap();
        assert_eq!(first.digest(), pass(&[&a, &b]).digest());
        assert!(!first.unchanged());

        fs::write(&a, "2").unwrap();
        assert_ne!(first.digest(), pass(&[&a, &b]).digest());
        assert_eq!(first.digest().to_string().len(), 12);
    }

    #[test]
    fn what_is_missing_is_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new();
        let _ = files.read(&folder.path().join("missing"), 8);
        let _ = files.list(folder.path());
        assert_eq!(files.paths().collect::<Vec<_>>(), [&folder.path().join("missing")]);
        assert_eq!(files.folders().collect::<Vec<_>>(), [folder.path()]);
    }
}
