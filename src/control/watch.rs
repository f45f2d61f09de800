//! Noticing that a file changed: inotify on the directories, and polling beside it.
//!
//! Directories are watched, not files: editors and orchestrators replace files,
//! and a watched file goes deaf at its first rename. Which file changed does not
//! matter: everything is read again and compared. Reading triggers nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::control::config::Watch;

/// How long nothing must happen before the files are read, and how long that may be put off.
const QUIET: Duration = Duration::from_millis(50);
const RESTLESS: Duration = Duration::from_secs(1);

/// How often files are looked at where they cannot be watched.
const POLL: Duration = Duration::from_secs(2);

/// What happened to a watched directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Something may have changed.
    Changed,
    /// Somebody is still writing.
    Writing,
}

/// Watches the directories of all files that were read or looked for.
pub struct Watching {
    mode: Watch,
    watcher: Option<RecommendedWatcher>,
    /// What is watched, by the directory's path: its device and inode, since a directory that
    /// was removed and made again is another one.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    signs: mpsc::Receiver<Sign>,
    degraded: bool,
}

impl Watching {
    /// Watches as `mode` says, for changes of `paths`.
    pub fn new(mode: Watch, paths: &[PathBuf]) -> Self {
        // Signs only say "look again": those that find it full are told by the ones that wait.
        let (sender, signs) = mpsc::channel(64);
        let mut watching = Watching { mode, watcher: None, directories: BTreeMap::new(), signs, degraded: false };
        if mode == Watch::Auto {
            match notify::recommended_watcher(move |event| {
                if let Some(sign) = read(event) {
                    let _ = sender.try_send(sign);
                }
            }) {
                Ok(watcher) => watching.watcher = Some(watcher),
                Err(error) => watching.degrade(&error),
            }
        }
        watching.cover(paths.iter().map(PathBuf::as_path));
        watching
    }

    /// Whether files are polled because they cannot be watched.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// The time to the next slow look; `None` where files are only read on request.
    pub fn pause(&self, slow: Duration) -> Option<Duration> {
        match self.mode {
            Watch::Off => None,
            Watch::Poll => Some(POLL),
            Watch::Auto if self.degraded => Some(POLL),
            Watch::Auto => Some(slow),
        }
    }

    /// Watches the directories of `paths` from now on, those behind symbolic links too, and no others.
    pub fn cover<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeMap::new();
        for directory in paths.flat_map(directories) {
            if let Ok(metadata) = fs::metadata(&directory) {
                wanted.insert(directory, (metadata.dev(), metadata.ino()));
            }
        }
        let mut failed = None;
        for (directory, identity) in &wanted {
            if self.directories.get(directory) == Some(identity) {
                continue;
            }
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                failed = Some(error);
            }
        }
        for gone in self.directories.keys().filter(|directory| !wanted.contains_key(*directory)) {
            // It may be gone itself, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        self.directories = wanted;
        match failed {
            Some(error) => self.degrade(&error),
            None => self.degraded = false,
        }
    }

    /// Waits until something changed and nobody writes any more, or for too long.
    pub async fn changed(&mut self) {
        loop {
            match self.signs.recv().await {
                Some(Sign::Changed) => break,
                // The end of a write is a sign of its own.
                Some(Sign::Writing) => {}
                None => std::future::pending().await,
            }
        }
        let began = Instant::now();
        while began.elapsed() < RESTLESS && timeout(QUIET, self.signs.recv()).await.is_ok() {}
    }

    fn degrade(&mut self, error: &notify::Error) {
        if !self.degraded {
            tracing::error!(%error, "files cannot be watched: looking at them every 2 s instead");
        }
        self.degraded = true;
    }
}

/// The directories in which a change of `path` shows: its own, or the next one that exists; and
/// those of everything that a symbolic link on the way leads to.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut path = path.to_owned();
    // A chain of links longer than this is a loop.
    for _ in 0..16 {
        let own = if path.is_dir() { Some(path.clone()) } else { None };
        let parent = path.ancestors().skip(1).map(|one| if one.as_os_str().is_empty() { Path::new(".") } else { one });
        let existing = own.or_else(|| parent.filter(|one| one.is_dir()).map(Path::to_owned).next());
        let Some(directory) = existing else { break };
        if let Ok(real) = directory.canonicalize() {
            found.push(real);
        }
        found.push(directory.clone());
        let Ok(target) = fs::read_link(&path) else { break };
        path = directory.join(target);
    }
    found
}

/// What an event means; `None`: nothing (a read, a change of permissions' times).
fn read(event: notify::Result<Event>) -> Option<Sign> {
    let Ok(event) = event else { return Some(Sign::Changed) };
    if event.need_rescan() {
        return Some(Sign::Changed);
    }
    match event.kind {
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => Some(Sign::Changed),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Changed),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Sign::Writing),
        EventKind::Modify(_) | EventKind::Access(_) | EventKind::Any | EventKind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RenameMode};

    use super::*;

    #[test]
    fn reads_mean_nothing_and_a_finished_write_means_a_look() {
        let check = |kind, expected| assert_eq!(read(Ok(Event::new(kind))), expected, "{kind:?}");
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), None);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), None);
        check(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), None);
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(Sign::Writing));
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(Sign::Changed));
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(Sign::Changed));
        check(EventKind::Create(CreateKind::File), Some(Sign::Changed));
    }

    #[test]
    fn c_rld_07_a_queue_that_ran_over_means_a_look() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(read(Ok(overflow)), Some(Sign::Changed));
    }

    #[test]
    fn the_folders_behind_every_link_on_the_way_are_watched() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["mounted", "mounted/v1", "config"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("mounted/v1/policy.toml"), "x").unwrap();
        symlink("v1", at("mounted/..data")).unwrap();
        symlink("../mounted/..data/policy.toml", at("config/policy.toml")).unwrap();

        let found: Vec<_> = directories(&at("config/policy.toml")).iter().filter_map(|one| one.canonicalize().ok()).collect();
        for folder in ["config", "mounted/v1"] {
            assert!(found.contains(&at(folder).canonicalize().unwrap()), "{folder} is not among {found:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_looked_for_where_it_would_appear() {
        let root = tempfile::tempdir().unwrap();
        let found = directories(&root.path().join("not/there/yet.toml"));
        assert!(found.contains(&root.path().to_owned()), "{found:?}");
    }
}
