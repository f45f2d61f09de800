//! Reading files: each once per pass, with everything that two passes need to be compared.
//!
//! Bounds each read in bytes and in time, and remembers missing files, so that the watcher knows
//! where they may appear. Never interprets contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::apply_journal::{ApplyJournal, ApplyState, FileChange, JournalFile};
use super::disclosure::{Audience, Disclosure, has_private_key, is_secret};
pub use super::file_error::FileError;
use super::fs_executor::{FsExecutor, ReadProgress, RemainingTime};
use super::overlay::{DiskRule, Overlay, OverlayText, SpareText};

/// Largest TOML file, in bytes.
pub const MAX_TOML_BYTES: u64 = 10 << 20;
/// Largest list file, in bytes.
pub const MAX_LIST_BYTES: u64 = 64 << 20;
/// Largest PEM file, in bytes.
pub const MAX_PEM_BYTES: u64 = 1 << 20;
/// Most bytes of a file with revocation lists: those of large authorities have some MiB.
pub const MAX_CRL_BYTES: u64 = 16 << 20;

/// Bytes of one read, when files are read or compared again.
const CHUNK_BYTES: usize = 64 << 10;

/// The files and folders of one pass over the configuration.
#[derive(Debug)]
pub struct Files {
    files: BTreeMap<PathBuf, PathRecord>,
    folders: BTreeMap<PathBuf, Result<Arc<[String]>, FileError>>,
    executor: FsExecutor,
    left: RemainingTime,
    audience: Audience,
    /// Path of `sidegate.toml`, as given on the command line.
    own: PathBuf,
    /// Real paths of the folders that policies and lists must be in.
    within: AllowedFolders,
    /// Texts that are read in place of files.
    overlay: Arc<Overlay>,
    /// Texts of the configuration that were asked for.
    texts: BTreeSet<PathBuf>,
    /// Lists among them that hold as soon as they are saved.
    live: BTreeSet<PathBuf>,
    /// Files without a key that are never held, and whether each is a certificate's chain.
    open: BTreeMap<PathBuf, bool>,
    /// The journal that the pass began under.
    journal: JournalLook,
}

/// A look at the journal of `sidegate apply`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JournalLook {
    /// The folder of the journal. `None` means that no pass has begun.
    folder: Option<PathBuf>,
    /// Its text, if there is one.
    text: Result<Option<Vec<u8>>, FileError>,
}

impl Default for JournalLook {
    fn default() -> Self {
        JournalLook { folder: None, text: Ok(None) }
    }
}

/// Real paths of the folders that a file must be in.
type AllowedFolders = Arc<[PathBuf]>;

/// The result of a look at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PathRecord {
    stamp: Option<FileStamp>,
    /// Path of the opened file, links followed. `None` means not opened, or not known.
    real: Option<PathBuf>,
    /// Folders that the file had to be in. `None` means unlimited.
    within: Option<AllowedFolders>,
    bytes: Result<Bytes, FileError>,
    /// Digest of the bytes, or of the fault.
    digest: Digest,
}

/// Metadata that differs between most versions of a file, before their bytes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    modified: Option<SystemTime>,
    mode: u32,
}

/// SHA-256 of the contents at one path, or at every path that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest([u8; 32]);

impl Default for Files {
    fn default() -> Self {
        Files::with_executor(FsExecutor::default())
    }
}

impl Files {
    /// No file read yet. Findings are for the public, without text of the files.
    pub fn new() -> Files {
        Files::default()
    }

    /// Like [`Files::new`], with findings for a person who can read the files.
    pub fn for_person() -> Files {
        Files { audience: Audience::Person, ..Files::default() }
    }

    /// Like [`Files::new`], with an `executor` that outlives the pass.
    pub fn with_executor(executor: FsExecutor) -> Files {
        let (files, folders, own, within) = Default::default();
        let (overlay, texts, live, open) = Default::default();
        let journal = JournalLook::default();
        let (left, audience) = (executor.new_budget(), Audience::Public);
        Files {
            files,
            folders,
            executor,
            left,
            audience,
            own,
            within,
            overlay,
            texts,
            live,
            open,
            journal,
        }
    }

    /// Reads the texts of `overlay` in place of the files at their paths.
    pub fn with_overlay(self, overlay: Arc<Overlay>) -> Files {
        Files { overlay, ..self }
    }

    /// The bytes of the TOML file `path`, a text of the configuration.
    ///
    /// # Errors
    /// Those of [`Files::read`].
    pub fn read_toml(&mut self, path: &Path) -> Result<Bytes, FileError> {
        self.texts.insert(path.to_owned());
        self.read_cached(path, MAX_TOML_BYTES, None)
    }

    /// The bytes of the regular file `path`, links followed, at most `max`.
    ///
    /// # Errors
    /// The path is no regular file of 1 to `max` bytes, or was not read in time.
    pub fn read(&mut self, path: &Path, max: u64) -> Result<Bytes, FileError> {
        self.read_cached(path, max, None)
    }

    /// The bytes of the file `path`, which has no key in it and is never held. `is_chain` says that
    /// it is a certificate's chain.
    ///
    /// # Errors
    /// Those of [`Files::read`].
    pub fn read_open(&mut self, path: &Path, max: u64, is_chain: bool) -> Result<Bytes, FileError> {
        *self.open.entry(path.to_owned()).or_default() |= is_chain;
        self.read_cached(path, max, None)
    }

    /// The bytes of the list `path`, which must be in one of the folders of
    /// [`Files::restrict_lists`].
    ///
    /// # Errors
    /// Those of [`Files::read`]; or the file is elsewhere, and then none of it is read.
    pub fn read_list(&mut self, path: &Path) -> Result<Bytes, FileError> {
        self.texts.insert(path.to_owned());
        self.read_cached(path, MAX_LIST_BYTES, Some(Arc::clone(&self.within)))
    }

    fn read_cached(
        &mut self,
        path: &Path,
        max: u64,
        within: Option<AllowedFolders>,
    ) -> Result<Bytes, FileError> {
        if let Some(seen) = self.files.get(path).filter(|seen| seen.within == within) {
            match &seen.bytes {
                Ok(bytes) if bytes.len() as u64 > max => return Err(FileError::TooLarge { max }),
                // A larger bound may accept the file.
                Err(FileError::TooLarge { max: earlier }) if *earlier < max => {}
                known => return known.clone(),
            }
        }
        let is_held = self.is_held(path);
        let overlay = Arc::clone(&self.overlay);
        let seen = match overlay.text(path) {
            Some(Some(text)) => self.read_text(path, text, max, within),
            Some(None) => PathRecord::of_text(None, max, within),
            // Fails closed: a text without an order must not count.
            None if is_held && overlay.is_closed() => PathRecord::of_text(None, max, within),
            None => read_path(path, max, within, &self.executor, &mut self.left),
        };
        let bytes = seen.bytes.clone();
        self.files.insert(path.to_owned(), seen);
        bytes
    }

    /// The record of `text` in place of the file `path`, or of the file if that comes first.
    fn read_text(
        &mut self,
        path: &Path,
        text: &OverlayText,
        max: u64,
        within: Option<AllowedFolders>,
    ) -> PathRecord {
        // Only lists have an age, and only chains a key: no other file is worth a look.
        let rule = self.overlay.disk_rule(path);
        let rule = rule.filter(|rule| within.is_some() || *rule == DiskRule::Readable);
        if let Some(rule) = rule {
            let seen = read_path(path, max, within.clone(), &self.executor, &mut self.left);
            // A file that cannot be read never comes first: the text is there for this case.
            let is_first = seen.bytes.as_ref().is_ok_and(|bytes| match rule {
                DiskRule::Equal => *bytes == text.bytes,
                DiskRule::Readable => true,
            });
            if is_first {
                return seen;
            }
        }
        PathRecord::of_text(Some(text), max, within)
    }

    /// The names in the folder `path`, sorted. Leaves out names that are not UTF-8.
    ///
    /// # Errors
    /// The folder is missing, not a directory or not readable.
    pub fn list(&mut self, path: &Path) -> Result<Arc<[String]>, FileError> {
        if let Some(known) = self.folders.get(path) {
            return known.clone();
        }
        let names = match self.overlay.folder(path) {
            Some(names) => Ok(Arc::clone(names)),
            None if self.overlay.is_closed() => Err(FileError::Missing),
            None => self.list_disk(path),
        };
        self.folders.insert(path.to_owned(), names.clone());
        names
    }

    fn list_disk(&mut self, path: &Path) -> Result<Arc<[String]>, FileError> {
        let folder = path.to_owned();
        match self.call(move || names(&folder)).and_then(|names| names) {
            Ok(names) => Ok(self.overlay.names_in(path, &names)),
            // The texts may be the first ones of a folder that does not exist yet.
            Err(FileError::Missing) if self.overlay.has_text_in(path) => {
                Ok(self.overlay.names_in(path, &[]))
            }
            fault => fault,
        }
    }

    /// Notes that the list `path` holds as soon as it is saved.
    pub fn mark_live(&mut self, path: &Path) {
        self.live.insert(path.to_owned());
    }

    /// Whether the list `path` holds as soon as it is saved.
    pub fn is_live(&self, path: &Path) -> bool {
        self.live.contains(path)
    }

    /// Whether the pass asked for `path`, found or not.
    pub fn is_known(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether `path` is a text of the configuration that `[reload] watch = "hold"` holds back.
    /// Certificates, keys, revocation lists and live lists are none.
    pub fn is_held(&self, path: &Path) -> bool {
        self.texts.contains(path) && !self.live.contains(path)
    }

    /// The texts of the pass and the names in its folders; live lists, and other files that are
    /// never held and have no key in them, as spares.
    pub fn texts(&self) -> Overlay {
        let mut overlay = Overlay::default();
        overlay.close();
        // A published generation has no file without a text; another one is not held.
        let text = |path: &PathBuf| self.files.get(path).and_then(PathRecord::text);
        for path in self.texts.difference(&self.live) {
            text(path).into_iter().for_each(|text| overlay.insert(path.clone(), text));
        }
        let lists = self.texts.intersection(&self.live).map(|path| (path, false));
        let open = self.open.iter().map(|(path, is_chain)| (path, *is_chain));
        for (path, is_chain) in lists.chain(open) {
            // One file may hold a chain and its key.
            let spare = text(path).filter(|text| !has_private_key(&text.bytes));
            let spare = spare.map(|text| SpareText { text, is_chain });
            spare.into_iter().for_each(|spare| overlay.insert_spare(path.clone(), spare));
        }
        for (path, names) in &self.folders {
            let Ok(names) = names else { continue };
            overlay.insert_folder(path.clone(), Arc::clone(names));
        }
        overlay
    }

    /// The texts that differ from those of `held`, live lists left out. `is_whole` says that the
    /// pass has asked for all files, so that one of `held` that it did not ask for is gone.
    pub fn texts_differing(&self, held: &Overlay, is_whole: bool) -> Vec<PathBuf> {
        let gone = held
            .texts()
            .map(|(path, _)| path)
            .filter(|path| is_whole && !self.texts.contains(*path));
        let differing = self.texts.iter().map(PathBuf::as_path).filter(|path| {
            let before = held.text(path).flatten();
            if before.is_none() && self.live.contains(*path) {
                return false;
            }
            let now = self.files.get(*path).and_then(|seen| seen.bytes.as_ref().ok());
            // A file that has become unreadable differs too.
            before.is_none_or(|before| now != Some(&before.bytes))
        });
        let all: BTreeSet<_> = gone.chain(differing).map(Path::to_owned).collect();
        all.into_iter().collect()
    }

    /// Whether a file that is never held differs from its spare in `kept`, or has none.
    pub fn spares_differ(&self, kept: &Overlay) -> bool {
        let bytes = |overlay: &Overlay| {
            let spares = overlay.spares().map(|(path, spare)| (path.to_owned(), &spare.text));
            spares.map(|(path, text)| (path, text.bytes.clone())).collect::<BTreeMap<_, _>>()
        };
        bytes(&self.texts()) != bytes(kept)
    }

    /// Sets the folders that lists must be in, and outside which no text of a file is shown. A
    /// missing folder contains no file.
    pub fn restrict_lists(&mut self, folders: Vec<PathBuf>) {
        let real =
            move || folders.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
        // Without an answer no folder is allowed, so that no list is read: the check fails closed.
        self.within = self.call(real).unwrap_or_default();
    }

    /// Runs `call`, which may block on a file system, and returns its result.
    ///
    /// # Errors
    /// The call does not return in time.
    pub fn call<T: Send + 'static>(
        &mut self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileError> {
        Ok(self.executor.run(&mut self.left, |_| call())?)
    }

    /// Sets the path of `sidegate.toml`, whose text may be shown wherever it is: an operator named
    /// it.
    pub fn set_config(&mut self, config: &Path) {
        self.own = config.to_owned();
    }

    /// How much of the file `path` may be shown; the file must have been read.
    pub fn disclosure(&self, path: &Path) -> Disclosure {
        let real = self.files.get(path).and_then(|seen| seen.real.as_deref());
        // Not known counts as elsewhere, so that nothing of such a file is shown.
        let in_place = path == self.own || real.is_some_and(|real| is_within(real, &self.within));
        if in_place { self.audience.disclosure() } else { Disclosure::Nothing }
    }

    /// The same for the file `path` with the contents `text`.
    pub fn disclosure_of(&self, path: &Path, text: &str) -> Disclosure {
        if is_secret(text.as_bytes()) { Disclosure::Nothing } else { self.disclosure(path) }
    }

    /// Reads the former version of every file that `sidegate apply` is replacing in `folder`.
    /// Returns whether there is any.
    ///
    /// # Errors
    /// A sentence: the journal or a former version cannot be read, so that no version is whole.
    pub fn begin_under_journal(&mut self, folder: &Path) -> Result<bool, String> {
        let look = JournalLook::at(folder, &self.executor, &mut self.left);
        let text = look.text.clone();
        self.journal = look;
        let Some(text) = text.map_err(|fault| fault.to_string())? else { return Ok(false) };
        let journal = ApplyJournal::decode(&text)?;
        if journal.state == ApplyState::Replaced {
            return Ok(false);
        }
        let mut overlay = Overlay::clone(&self.overlay);
        for file in &journal.files {
            let path = folder.join(&file.path);
            // A text that the caller stages or holds is none of the disk.
            if overlay.text(&path).is_some() {
                continue;
            }
            match file.change {
                FileChange::Added => overlay.remove(path),
                FileChange::Replaced | FileChange::Removed => {
                    overlay.insert(path, self.former(file)?);
                }
            }
        }
        self.overlay = Arc::new(overlay);
        Ok(true)
    }

    /// The former version of `file`.
    fn former(&mut self, file: &JournalFile) -> Result<OverlayText, String> {
        let kept = file.former();
        let mut read = |max| read_path(&kept, max, None, &self.executor, &mut self.left);
        // With the bound of keys first, whose bytes are overwritten in the end.
        let seen = match read(MAX_PEM_BYTES) {
            PathRecord { bytes: Err(FileError::TooLarge { .. }), .. } => read(MAX_LIST_BYTES),
            seen => seen,
        };
        let bytes = seen
            .bytes
            .map_err(|fault| format!("says that {} was kept, which {fault}", kept.display()))?;
        let modified = seen.stamp.and_then(|stamp| stamp.modified);
        let mode = seen.stamp.map(|stamp| stamp.mode).unwrap_or_default();
        // The file itself decides how much may be shown, not the name that it is kept under.
        Ok(OverlayText { bytes, modified, mode, real: Some(file.target.clone()) })
    }

    /// How far the apply is whose journal the pass has found. `None` means that there is none.
    pub fn apply_state(&self) -> Option<ApplyState> {
        let text = self.journal.text.as_ref().ok()?.as_deref()?;
        ApplyJournal::decode(text).ok().map(|journal| journal.state)
    }

    /// Whether the journal is still as the pass has found it.
    pub fn is_journal_current(&self) -> bool {
        let Some(folder) = &self.journal.folder else { return true };
        JournalLook::at(folder, &self.executor, &mut self.executor.new_budget()) == self.journal
    }

    /// Whether a second look finds the same sizes, times and bytes, so that no write is under way.
    /// Follows no reference inside the files and keeps nothing.
    pub fn unchanged(&self) -> bool {
        let mut left = self.executor.new_budget();
        let is_held = |path: &PathBuf| {
            self.overlay.text(path).is_some() || self.is_held(path) && self.overlay.is_closed()
        };
        self.is_journal_current()
            && self.files.iter().all(|(path, seen)| {
                is_held(path) || seen.is_current(path, &self.executor, &mut left)
            })
    }

    /// Whether a file system did not answer in time.
    pub fn is_late(&self) -> bool {
        let late = |fault: &FileError| matches!(fault, FileError::Stuck | FileError::TooManyStuck);
        let files = self.files.values().any(|seen| seen.bytes.as_ref().is_err_and(late));
        files || self.folders.values().any(|names| names.as_ref().is_err_and(late))
    }

    /// Whether a file has a fault that can end without an event in its folder.
    pub fn has_silent_fault(&self) -> bool {
        self.files.values().any(|seen| seen.bytes.as_ref().is_err_and(FileError::mends_silently))
    }

    /// Permission bits of a file that was read. `None` means not known.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        self.files.get(path)?.stamp.map(|stamp| stamp.mode)
    }

    /// Time of the last modification of a file that was read. `None` means not known.
    pub fn modified(&self, path: &Path) -> Option<Timestamp> {
        Timestamp::try_from(self.files.get(path)?.stamp?.modified?).ok()
    }

    /// Digest of the pass: equal for equal paths and contents, whatever their times. Names in a
    /// folder do not count: an editor's swap file is no change.
    pub fn digest(&self) -> Digest {
        digest_of_all(self.files.iter().map(|(path, seen)| (&**path, seen.digest)))
    }

    /// Digest of one file that was asked for. `None` means that it was not.
    pub fn digest_of(&self, path: &Path) -> Option<Digest> {
        Some(self.files.get(path)?.digest)
    }

    /// Digest of each file that was asked for.
    pub fn digests(&self) -> Digests {
        Digests(self.files.iter().map(|(path, seen)| (path.clone(), seen.digest)).collect())
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

/// Digest of all files of a pass, in the order of their paths.
fn digest_of_all<'f>(files: impl Iterator<Item = (&'f Path, Digest)>) -> Digest {
    let mut sha = Sha256::new();
    for (path, digest) in files {
        hash_part(&mut sha, b"file", path.as_os_str().as_encoded_bytes());
        sha.update(digest.0);
    }
    Digest(sha.finalize().into())
}

/// Mixes in `bytes` with their length, so that no two different inputs look alike.
fn hash_part(sha: &mut Sha256, kind: &[u8], bytes: &[u8]) {
    sha.update(kind);
    sha.update((bytes.len() as u64).to_be_bytes());
    sha.update(bytes);
}

fn is_within(real: &Path, within: &[PathBuf]) -> bool {
    within.iter().any(|folder| real.starts_with(folder))
}

fn read_path(
    path: &Path,
    max: u64,
    within: Option<AllowedFolders>,
    executor: &FsExecutor,
    left: &mut RemainingTime,
) -> PathRecord {
    let (path, folders) = (path.to_owned(), within.clone());
    let (stamp, real, bytes) = executor
        .run(left, move |progress| read_file(&path, max, folders.as_deref(), progress))
        .unwrap_or_else(|late| (None, None, Err(late.into())));
    let digest = content_digest(&bytes);
    PathRecord { stamp, real, within, bytes, digest }
}

/// Digest of the contents at a path, or of the fault.
fn content_digest(bytes: &Result<Bytes, FileError>) -> Digest {
    let mut sha = Sha256::new();
    match bytes {
        Ok(bytes) => hash_part(&mut sha, b"read", bytes),
        // The two faults follow each other without any change of the file, so they have one digest.
        Err(FileError::Stuck | FileError::TooManyStuck) => hash_part(&mut sha, b"fault", b"late"),
        Err(fault) => hash_part(&mut sha, b"fault", fault.to_string().as_bytes()),
    }
    Digest(sha.finalize().into())
}

/// Opens `path` if it is a regular file.
fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    let regular = |found: &Metadata| match found.file_type() {
        kind if kind.is_dir() => Err(FileError::Directory),
        kind if !kind.is_file() => Err(FileError::NotRegular),
        _ => Ok(()),
    };
    // Checked before opening, because opening some devices has side effects.
    regular(&fs::metadata(path)?)?;
    // Another file may have replaced it meanwhile: opening a FIFO must not wait for a writer, nor
    // may a terminal become the controlling one.
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    regular(&found)?;
    Ok((file, found))
}

/// The path of an open file, links followed. `None` means not known.
fn real_path(file: &File, found: &Metadata, path: &Path) -> Option<PathBuf> {
    if let Ok(real) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        return Some(real);
    }
    // Without /proc: `path` resolved, if that still leads to the same file.
    let real = fs::canonicalize(path).ok()?;
    let there = fs::metadata(&real).ok()?;
    ((there.dev(), there.ino()) == (found.dev(), found.ino())).then_some(real)
}

type FileRead = (Option<FileStamp>, Option<PathBuf>, Result<Bytes, FileError>);

/// Reads the file at `path`. Reads nothing of a file outside `within`.
fn read_file(
    path: &Path,
    max: u64,
    within: Option<&[PathBuf]>,
    progress: &ReadProgress,
) -> FileRead {
    // The stamp is of the opened file, which a rename may have replaced at `path` meanwhile.
    let (file, found) = match open(path) {
        Ok(opened) => opened,
        Err(fault) => return (None, None, Err(fault)),
    };
    let (stamp, real) = (FileStamp::of(&found), real_path(&file, &found, path));
    let outside =
        within.is_some_and(|within| real.as_deref().is_none_or(|real| !is_within(real, within)));
    let bytes =
        if outside { Err(FileError::Outside) } else { bytes_of(file, stamp, max, progress) };
    (Some(stamp), real, bytes)
}

fn bytes_of(
    mut file: File,
    stamp: FileStamp,
    max: u64,
    progress: &ReadProgress,
) -> Result<Bytes, FileError> {
    // By the size at the open, so that nothing of such a file is read.
    if stamp.size > max {
        return Err(FileError::TooLarge { max });
    }
    // One byte more than the size, so that finding the end does not reallocate.
    let mut bytes = Vec::with_capacity(stamp.size as usize + 1);
    loop {
        // One byte more than allowed tells a file that has grown since its stamp.
        let left = (max + 1).saturating_sub(bytes.len() as u64);
        let read = file.by_ref().take(left.min(CHUNK_BYTES as u64)).read_to_end(&mut bytes)?;
        progress.add(read);
        if read == 0 {
            break;
        }
    }
    match bytes.len() as u64 {
        0 => Err(FileError::Empty),
        length if length > max => Err(FileError::TooLarge { max }),
        // May contain a key, so the bytes are overwritten on drop.
        _ if max == MAX_PEM_BYTES => Ok(Bytes::from_owner(Zeroizing::new(bytes))),
        _ => Ok(bytes.into()),
    }
}

/// Digest of each file of one pass, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digests(BTreeMap<PathBuf, Digest>);

impl Digests {
    /// The files that were asked for, found or not.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Digest of the pass, as of [`Files::digest`].
    pub fn all(&self) -> Digest {
        digest_of_all(self.0.iter().map(|(path, digest)| (&**path, *digest)))
    }

    /// Digest of the file `path`. `None` means that it was not asked for.
    pub fn of(&self, path: &Path) -> Option<Digest> {
        self.0.get(path).copied()
    }

    /// The same files, with the one at `from` at `to`.
    pub fn with_moved(mut self, from: &Path, to: PathBuf) -> Digests {
        if let Some(digest) = self.0.remove(from) {
            self.0.insert(to, digest);
        }
        self
    }

    /// Files that are changed, new or gone in `next`, in the order of their paths.
    pub fn changed(&self, next: &Digests) -> Vec<PathBuf> {
        let paths: BTreeSet<_> = self.0.keys().chain(next.0.keys()).collect();
        paths.into_iter().filter(|path| self.0.get(*path) != next.0.get(*path)).cloned().collect()
    }
}

impl JournalLook {
    fn at(folder: &Path, executor: &FsExecutor, left: &mut RemainingTime) -> JournalLook {
        let path = folder.to_owned();
        let text = executor.run(left, move |_| ApplyJournal::read(&path));
        let text = text.map_err(FileError::from).and_then(|text| Ok(text?));
        JournalLook { folder: Some(folder.to_owned()), text }
    }
}

impl PathRecord {
    /// The record of a text in place of a file. `None` means that there is no file.
    fn of_text(text: Option<&OverlayText>, max: u64, within: Option<AllowedFolders>) -> PathRecord {
        let bytes = match text {
            None => Err(FileError::Missing),
            Some(text) if text.bytes.len() as u64 > max => Err(FileError::TooLarge { max }),
            Some(text) if text.bytes.is_empty() => Err(FileError::Empty),
            Some(text) => Ok(text.bytes.clone()),
        };
        let stamp = text.map(|text| FileStamp {
            size: text.bytes.len() as u64,
            modified: text.modified,
            mode: text.mode,
        });
        let digest = content_digest(&bytes);
        PathRecord { stamp, real: text.and_then(|text| text.real.clone()), within, bytes, digest }
    }

    /// The contents as a text. `None` means that the file could not be read.
    fn text(&self) -> Option<OverlayText> {
        let bytes = self.bytes.clone().ok()?;
        let modified = self.stamp.and_then(|stamp| stamp.modified);
        let mode = self.stamp.map(|stamp| stamp.mode).unwrap_or_default();
        Some(OverlayText { bytes, modified, mode, real: self.real.clone() })
    }

    /// Whether a look at `path` gives the same result now.
    fn is_current(&self, path: &Path, executor: &FsExecutor, left: &mut RemainingTime) -> bool {
        match &self.bytes {
            // Compares in chunks with the bytes in memory, instead of reading the file into memory
            // again: it may be large.
            Ok(bytes) => {
                let (path, bytes, stamp) = (path.to_owned(), bytes.clone(), self.stamp);
                let same = move |progress: &ReadProgress| {
                    is_unchanged(&path, stamp, &bytes, progress).unwrap_or(false)
                };
                executor.run(left, same).unwrap_or(false)
            }
            // A second look would be stuck too.
            Err(FileError::Stuck | FileError::TooManyStuck) => true,
            Err(FileError::TooLarge { max }) => {
                *self == read_path(path, *max, self.within.clone(), executor, left)
            }
            // The bound of the first read is not known here. The largest one gives every other
            // fault again.
            Err(_) => *self == read_path(path, MAX_LIST_BYTES, self.within.clone(), executor, left),
        }
    }
}

/// Whether the file at `path` has this stamp and these bytes.
fn is_unchanged(
    path: &Path,
    stamp: Option<FileStamp>,
    mut bytes: &[u8],
    progress: &ReadProgress,
) -> Result<bool, FileError> {
    let (mut file, found) = open(path)?;
    if stamp != Some(FileStamp::of(&found)) {
        return Ok(false);
    }
    // No larger than needed: all of it is overwritten in the end.
    let mut chunk = Zeroizing::new(vec![0; CHUNK_BYTES.min(bytes.len() + 1)]);
    loop {
        let read = match file.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        progress.add(read);
        match bytes.strip_prefix(&chunk[..read]) {
            Some(rest) if read > 0 => bytes = rest,
            rest => return Ok(rest.is_some_and(<[u8]>::is_empty)),
        }
    }
}

fn names(path: &Path) -> Result<Arc<[String]>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names.into())
}

impl FileStamp {
    fn of(metadata: &Metadata) -> FileStamp {
        FileStamp {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            mode: metadata.permissions().mode() & 0o7777,
        }
    }
}

impl Digest {
    /// The digest in hexadecimal digits.
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for Digest {
    /// Writes the first twelve hexadecimal digits.
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
    use crate::control::config::fs_executor::MAX_STUCK_THREADS;

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
    fn every_file_error_is_distinguished() {
        check(|path| fs::write(path, "12345678").unwrap(), "12345678");
        check(|_| {}, "does not exist");
        check(|path| fs::write(path, "").unwrap(), "is empty (zero bytes)");
        check(|path| fs::create_dir(path).unwrap(), "is a directory, not a file");
        check(|path| fs::write(path, "123456789").unwrap(), "is larger than 0 MiB");
        check(
            |path| std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap(),
            "does not exist",
        );
        check(
            |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
            "is not a regular file",
        );
    }

    #[test]
    fn a_fifo_or_a_device_does_not_hang() {
        assert_eq!(Files::new().read(Path::new("/dev/zero"), 8), Err(FileError::NotRegular));
        check(
            |path| {
                assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
            },
            "is not a regular file",
        );
    }

    #[test]
    fn nothing_is_read_while_four_calls_are_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "a").unwrap();
        let patience = std::time::Duration::from_millis(20);
        let executor = FsExecutor::with_timeouts(patience, 1000 * patience);
        let stuck: Vec<_> = (0..MAX_STUCK_THREADS)
            .map(|_| {
                let (release, held) = std::sync::mpsc::channel::<()>();
                let mut files = Files::with_executor(executor.clone());
                assert_eq!(files.call(move || while held.recv().is_ok() {}), Err(FileError::Stuck));
                release
            })
            .collect();
        let mut files = Files::with_executor(executor.clone());
        assert_eq!(files.read(&path, 8), Err(FileError::TooManyStuck));
        assert_eq!(files.list(folder.path()), Err(FileError::TooManyStuck));
        assert!(files.is_late() && files.unchanged(), "a second look would be refused as well");
        drop(stuck);
        while executor.stuck() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(Files::with_executor(executor).read(&path, 8), Ok(b"a".as_slice().into()));
    }

    #[test]
    fn a_file_is_read_once_per_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut files = Files::new();
        assert_eq!(files.read(&path, 8), Err(FileError::Missing));
        fs::write(&path, "a").unwrap();
        assert_eq!(files.read(&path, 8), Err(FileError::Missing));
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
    fn texts_of_a_pass_replace_the_files_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let pass = |overlay: Overlay| {
            let mut files = Files::new().with_overlay(Arc::new(overlay));
            files.restrict_lists(vec![folder.path().to_owned()]);
            let mut read = vec![files.list(folder.path()).map(|names| names.join(" ").into())];
            read.push(files.read_toml(&at("a.toml")));
            files.mark_live(&at("live.cidr"));
            read.extend([files.read_list(&at("held.cidr")), files.read_list(&at("live.cidr"))]);
            read.push(files.read(&at("a.pem"), 8));
            let read = read.into_iter().map(|text| text.map(Vec::from)).collect::<Vec<_>>();
            (files, read)
        };
        let names = ["a.pem", "a.toml", "held.cidr", "live.cidr"];
        names.iter().for_each(|name| fs::write(at(name), "1").unwrap());
        let (before, read) = pass(Overlay::default());
        names.iter().for_each(|name| fs::write(at(name), "2").unwrap());
        fs::write(at("new.toml"), "2").unwrap();
        fs::remove_file(at("a.toml")).unwrap();
        let (after, held) = pass(before.texts());
        assert_eq!(held[..3], read[..3], "texts and names stay");
        assert_eq!(held[3..], [Ok(b"2".to_vec()), Ok(b"2".to_vec())], "live list and certificate");
        assert_eq!(after.disclosure(&at("a.toml")), before.disclosure(&at("a.toml")));
        assert!(after.unchanged(), "a text does not change on the disk");
        assert!(after.texts().has_texts_of(&before.texts()));
        assert!(after.spares_differ(&before.texts()) && !before.spares_differ(&before.texts()));
        let spares = |files: &Files| {
            let texts = files.texts();
            let all = texts.spares().map(|(path, spare)| (path.to_owned(), spare.is_chain));
            all.collect::<Vec<_>>()
        };
        assert_eq!(spares(&after), [(at("live.cidr"), false)], "no file that may hold a key");
        let mut other = Files::new().with_overlay(Arc::new(before.texts()));
        assert_eq!(other.read_toml(&at("new.toml")), Err(FileError::Missing), "never ordered");
        assert_eq!(other.list(&at("new")), Err(FileError::Missing));
    }

    #[test]
    fn spare_replaces_a_list_unless_only_its_time_differs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let pass = |overlay: Overlay| {
            let mut files = Files::new().with_overlay(Arc::new(overlay));
            files.restrict_lists(vec![folder.path().to_owned()]);
            files.mark_live(&at("live.cidr"));
            let read = [
                files.read_list(&at("live.cidr")),
                files.read_open(&at("chain.pem"), 99, true),
                files.read_open(&at("ca.pem"), 99, false),
                files.read_open(&at("both.pem"), 99, true),
            ];
            (read.map(|bytes| bytes.map(Vec::from)), files.modified(&at("live.cidr")), files)
        };
        let good = |text: &str| Ok(text.as_bytes().to_vec());
        for name in ["live.cidr", "chain.pem", "ca.pem"] {
            fs::write(at(name), "1").unwrap();
        }
        fs::write(at("both.pem"), "-----BEGIN PRIVATE KEY-----").unwrap();
        let kept = pass(Overlay::default()).2.texts();
        assert_eq!(kept.spares().count(), 3, "a key is no spare");

        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let touch = |name: &str| {
            File::options().write(true).open(at(name)).unwrap().set_modified(later).unwrap();
        };
        touch("live.cidr");
        let fresh = Timestamp::try_from(later).ok();
        assert_eq!(pass(kept.with_spares(false)).1, fresh, "written again, and the same");
        for name in ["live.cidr", "chain.pem", "both.pem"] {
            fs::write(at(name), "2").unwrap();
        }
        fs::remove_file(at("ca.pem")).unwrap();
        touch("live.cidr");
        let (read, modified, _) = pass(kept.with_spares(false));
        assert_eq!(read, [good("1"), good("1"), good("1"), good("2")]);
        assert!(modified.is_some() && modified != fresh, "the age is that of the kept list");
        let (read, ..) = pass(kept.with_spares(true));
        assert_eq!(read, [good("1"), good("2"), good("1"), good("2")]);
        fs::remove_file(at("chain.pem")).unwrap();
        let (read, ..) = pass(kept.with_spares(true));
        assert_eq!(read[1], good("1"), "no other chain can be read");
        let (read, ..) = pass(kept.refreshed());
        assert_eq!(read[..2], [good("2"), Err(FileError::Missing)], "spares are not asked for");
    }

    #[test]
    fn missing_paths_are_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::new();
        let _ = files.read(&folder.path().join("missing"), 8);
        let _ = files.list(folder.path());
        assert_eq!(files.paths().collect::<Vec<_>>(), [&folder.path().join("missing")]);
        assert_eq!(files.folders().collect::<Vec<_>>(), [folder.path()]);
    }
}
