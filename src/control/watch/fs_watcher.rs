//! The kernel's watch: one inotify instance for all folders, recreated whenever it is lost.
//!
//! Everything here may block on a file system, so it runs apart from the control plane's thread.
//! Reads no file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind as Io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use notify::{ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::fs_signal::{FsSignal, FsSignalCounts};
use super::watch_set::{WatchSet, WatchedNames};
use crate::control::config::WatchMode;

/// Makes a watcher that passes every event to the given function.
pub type MakeWatcher =
    Arc<dyn Fn(EventCallback) -> notify::Result<Box<dyn Watcher + Send + Sync>> + Send + Sync>;

/// Callback of a watcher, which runs on the watcher's own thread.
pub type EventCallback = Box<dyn FnMut(notify::Result<Event>) + Send>;

/// The watcher, the folders that it watches, and the names of interest in them.
pub struct FsWatcher {
    make: MakeWatcher,
    watcher: Option<Box<dyn Watcher + Send + Sync>>,
    /// Signals from the watcher. The channel closes once the watcher's thread has ended.
    signals: watch::Receiver<FsSignalCounts>,
    /// The names that matter in each folder. Shared with the callback, which drops all other
    /// events.
    names: Arc<ArcSwap<BTreeMap<PathBuf, WatchedNames>>>,
    /// Device and inode of each watched folder, since a folder that was removed and created again
    /// is another one.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

/// The state of the watch after a pass over the folders.
#[derive(Default)]
pub struct WatchStatus {
    /// Reason why the files have to be polled. `None` means that the watch is sound.
    pub trouble: Option<WatchFailure>,
    /// Whether a folder is newly watched, so that what happened in it before was not seen.
    pub fresh: bool,
    /// Receiver of a new watcher. `None` means that the watcher is the same as before.
    pub signals: Option<watch::Receiver<FsSignalCounts>>,
}

/// The reason why files are polled though they should be watched.
#[derive(Debug)]
pub enum WatchFailure {
    /// The kernel grants no watch, or too few of them.
    LimitReached(notify::Error),
    /// The thread that reads events has ended.
    ThreadEnded,
    /// A folder that should hold files does not exist.
    FolderMissing(PathBuf),
}

impl FsWatcher {
    /// Without a watcher until the first [`FsWatcher::watch`].
    pub fn new(make: MakeWatcher) -> FsWatcher {
        let (_, signals) = watch::channel(FsSignalCounts::default());
        FsWatcher { make, watcher: None, signals, names: Arc::default(), watched: BTreeMap::new() }
    }

    /// Makes inotify watchers, by the crate `notify`.
    pub fn inotify() -> MakeWatcher {
        Arc::new(|tell| {
            let watcher: RecommendedWatcher = notify::recommended_watcher(tell)?;
            Ok(Box::new(watcher))
        })
    }

    /// Watches the folders of `names` from now on and no others; none at all unless `mode` is
    /// `Auto`.
    pub fn watch(&mut self, mode: WatchMode, names: WatchSet) -> WatchStatus {
        if !mode.uses_inotify() {
            self.close();
            return WatchStatus::default();
        }
        let WatchSet { folders, gone } = names;
        // Stored first, so that the first event of a new watch already finds its names.
        self.names.store(Arc::new(folders));
        let mut covered = WatchStatus::default();
        let ended = self.watcher.is_some() && self.signals.has_changed().is_err();
        if ended {
            self.close();
        }
        if self.watcher.is_none()
            && let Err(error) = self.open(&mut covered)
        {
            covered.trouble = Some(WatchFailure::LimitReached(error));
            return covered;
        }
        // notify panics if its thread has gone away. That is one more reason to begin again.
        let watching = catch_unwind(AssertUnwindSafe(|| self.watch_folders(&mut covered)));
        if watching.is_err() {
            self.close();
            covered.trouble = Some(WatchFailure::ThreadEnded);
        }
        // Polled once more after a loss, so that a watch that is lost again and again does not go
        // unnoticed.
        if ended && covered.trouble.is_none() {
            covered.trouble = Some(WatchFailure::ThreadEnded);
        }
        covered.trouble = covered.trouble.or(gone.map(WatchFailure::FolderMissing));
        covered
    }

    fn open(&mut self, covered: &mut WatchStatus) -> notify::Result<()> {
        let (tell, signals) = watch::channel(FsSignalCounts::default());
        let names = Arc::clone(&self.names);
        self.watcher = Some((self.make)(Box::new(move |event| {
            // Filtered here, on notify's thread: a busy neighbour in the folder wakes no task.
            let sign = FsSignal::from_event(&event).filter(|_| is_relevant(&event, &names.load()));
            if let Some(sign) = sign {
                tell.send_modify(|signs| signs.add(sign));
            }
        }))?);
        self.signals = signals.clone();
        covered.signals = Some(signals);
        Ok(())
    }

    fn close(&mut self) {
        let watcher = self.watcher.take();
        // notify tells its thread to end on drop, and panics if that thread is gone.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
        self.watched.clear();
    }

    fn watch_folders(&mut self, covered: &mut WatchStatus) {
        let Some(watcher) = &mut self.watcher else { return };
        let names = self.names.load_full();
        let mut watched = BTreeMap::new();
        for folder in names.keys() {
            // Gone since the walk: the next look finds it missing.
            let Ok(metadata) = fs::metadata(folder) else { continue };
            let identity = (metadata.dev(), metadata.ino());
            let before = self.watched.remove(folder);
            if before.is_some_and(|before| before != identity) {
                // Otherwise the end of the former folder would end this watch too: notify keys
                // watches by path.
                let _ = watcher.unwatch(folder);
            }
            // Also for a folder that is watched already: that is free, and the kernel may have
            // dropped the watch (an unmounted file system).
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    covered.fresh |= before != Some(identity);
                    watched.insert(folder.clone(), identity);
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) => covered.trouble = Some(WatchFailure::LimitReached(error)),
            }
        }
        for gone in std::mem::replace(&mut self.watched, watched).into_keys() {
            // The folder may be gone, and its watch with it.
            let _ = watcher.unwatch(&gone);
        }
    }
}

/// Whether an event concerns a name on the way to a file. Errors and events without a path always
/// do.
fn is_relevant(event: &notify::Result<Event>, names: &BTreeMap<PathBuf, WatchedNames>) -> bool {
    event.as_ref().map_or(true, |event| {
        event.paths.is_empty()
            // A rename has two paths, and either may be the one in use.
            || event.paths.iter().any(|path| WatchSet::contains_change(names, path))
    })
}

impl WatchFailure {
    /// Advice for the operator. `None` means that none is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            WatchFailure::LimitReached(error) => match &error.kind {
                ErrorKind::MaxFilesWatch => Some("raise fs.inotify.max_user_watches"),
                ErrorKind::Io(error) if is_out_of_instances(error) => {
                    Some("raise fs.inotify.max_user_instances, or the limit of open files")
                }
                _ => None,
            },
            WatchFailure::ThreadEnded | WatchFailure::FolderMissing(_) => None,
        }
    }
}

fn is_out_of_instances(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for WatchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchFailure::LimitReached(error) => match &error.kind {
                ErrorKind::MaxFilesWatch => {
                    f.write_str("the kernel has no inotify watch left for us")
                }
                ErrorKind::Io(error) if is_out_of_instances(error) => {
                    f.write_str("the kernel has no inotify instance left for us")
                }
                ErrorKind::Io(error) if error.kind() == Io::PermissionDenied => match self.folder()
                {
                    Some(folder) => write!(f, "{} may not be read", folder.display()),
                    None => write!(f, "{error}"),
                },
                _ => write!(f, "{error}"),
            },
            WatchFailure::ThreadEnded => {
                f.write_str("the watch ended by itself and was begun again")
            }
            WatchFailure::FolderMissing(folder) => write!(f, "{} is gone", folder.display()),
        }
    }
}

impl WatchFailure {
    fn folder(&self) -> Option<&Path> {
        let WatchFailure::LimitReached(error) = self else { return None };
        error.paths.first().map(PathBuf::as_path)
    }
}
