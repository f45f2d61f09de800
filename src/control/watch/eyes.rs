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

use super::sign::{Sign, Signs};
use super::ways::{Names, Ways};
use crate::control::config::Watch;

/// Makes a watcher that passes every event to the given function.
pub type Make = Arc<dyn Fn(Tell) -> notify::Result<Box<dyn Watcher + Send + Sync>> + Send + Sync>;

/// Callback of a watcher, which runs on the watcher's own thread.
pub type Tell = Box<dyn FnMut(notify::Result<Event>) + Send>;

/// The watcher, the folders that it watches, and the names of interest in them.
pub struct Eyes {
    make: Make,
    watcher: Option<Box<dyn Watcher + Send + Sync>>,
    /// Signs from the watcher. The channel closes once the watcher's thread has ended.
    told: watch::Receiver<Signs>,
    /// The names that matter in each folder. Shared with the callback, which drops all other
    /// events.
    ways: Arc<ArcSwap<BTreeMap<PathBuf, Names>>>,
    /// Device and inode of each watched folder, since a folder that was removed and created again
    /// is another one.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

/// The state of the watch after a pass over the folders.
#[derive(Default)]
pub struct Covered {
    /// Reason why the files have to be polled. `None` means that the watch is sound.
    pub trouble: Option<Trouble>,
    /// Whether a folder is newly watched, so that what happened in it before was not seen.
    pub fresh: bool,
    /// Receiver of a new watcher. `None` means that the watcher is the same as before.
    pub told: Option<watch::Receiver<Signs>>,
}

/// The reason why files are polled though they should be watched.
#[derive(Debug)]
pub enum Trouble {
    /// The kernel grants no watch, or too few of them.
    Refused(notify::Error),
    /// The thread that reads events has ended.
    Ended,
    /// A folder that should hold files does not exist.
    Gone(PathBuf),
}

impl Eyes {
    /// Without a watcher until the first [`Eyes::cover`].
    pub fn new(make: Make) -> Eyes {
        let (_, told) = watch::channel(Signs::default());
        Eyes { make, watcher: None, told, ways: Arc::default(), watched: BTreeMap::new() }
    }

    /// Makes inotify watchers, by the crate `notify`.
    pub fn inotify() -> Make {
        Arc::new(|tell| {
            let watcher: RecommendedWatcher = notify::recommended_watcher(tell)?;
            Ok(Box::new(watcher))
        })
    }

    /// Watches the folders of `ways` from now on and no others; none at all unless `mode` is
    /// `Auto`.
    pub fn cover(&mut self, mode: Watch, ways: Ways) -> Covered {
        if mode != Watch::Auto {
            self.close();
            return Covered::default();
        }
        let Ways { folders, gone } = ways;
        // Stored first, so that the first event of a new watch already finds its names.
        self.ways.store(Arc::new(folders));
        let mut covered = Covered::default();
        let ended = self.watcher.is_some() && self.told.has_changed().is_err();
        if ended {
            self.close();
        }
        if self.watcher.is_none()
            && let Err(error) = self.open(&mut covered)
        {
            covered.trouble = Some(Trouble::Refused(error));
            return covered;
        }
        // notify panics if its thread has gone away. That is one more reason to begin again.
        let watching = catch_unwind(AssertUnwindSafe(|| self.look_at(&mut covered)));
        if watching.is_err() {
            self.close();
            covered.trouble = Some(Trouble::Ended);
        }
        // Polled once more after a loss, so that a watch that is lost again and again does not go
        // unnoticed.
        if ended && covered.trouble.is_none() {
            covered.trouble = Some(Trouble::Ended);
        }
        covered.trouble = covered.trouble.or(gone.map(Trouble::Gone));
        covered
    }

    fn open(&mut self, covered: &mut Covered) -> notify::Result<()> {
        let (tell, told) = watch::channel(Signs::default());
        let ways = Arc::clone(&self.ways);
        self.watcher = Some((self.make)(Box::new(move |event| {
            let sign = Sign::of(&event).filter(|_| matters(&event, &ways.load()));
            if let Some(sign) = sign {
                tell.send_modify(|signs| signs.add(sign));
            }
        }))?);
        self.told = told.clone();
        covered.told = Some(told);
        Ok(())
    }

    fn close(&mut self) {
        let watcher = self.watcher.take();
        // notify tells its thread to end on drop, and panics if that thread is gone.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(watcher)));
        self.watched.clear();
    }

    fn look_at(&mut self, covered: &mut Covered) {
        let Some(watcher) = &mut self.watcher else { return };
        let ways = self.ways.load_full();
        let mut watched = BTreeMap::new();
        for folder in ways.keys() {
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
                Err(error) => covered.trouble = Some(Trouble::Refused(error)),
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
fn matters(event: &notify::Result<Event>, ways: &BTreeMap<PathBuf, Names>) -> bool {
    event.as_ref().map_or(true, |event| {
        event.paths.is_empty() || event.paths.iter().any(|path| Ways::lead_by(ways, path))
    })
}

impl Trouble {
    /// Advice for the operator. `None` means that none is known.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Trouble::Refused(error) => match &error.kind {
                ErrorKind::MaxFilesWatch => Some("raise fs.inotify.max_user_watches"),
                ErrorKind::Io(error) if is_out_of_instances(error) => {
                    Some("raise fs.inotify.max_user_instances, or the limit of open files")
                }
                _ => None,
            },
            Trouble::Ended | Trouble::Gone(_) => None,
        }
    }
}

fn is_out_of_instances(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused(error) => match &error.kind {
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
            Trouble::Ended => f.write_str("the watch ended by itself and was begun again"),
            Trouble::Gone(folder) => write!(f, "{} is gone", folder.display()),
        }
    }
}

impl Trouble {
    fn folder(&self) -> Option<&Path> {
        let Trouble::Refused(error) = self else { return None };
        error.paths.first().map(PathBuf::as_path)
    }
}
