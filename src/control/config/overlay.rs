//! Texts that a pass reads in place of the files at their paths.
//!
//! Texts of the configuration take the place of files in every pass. Spares, of files that are
//! never held, do so only at a start. Keys are neither. Touches no file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

/// The texts and folders that differ from the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// `None` means that the pass finds no such file.
    texts: BTreeMap<PathBuf, Option<OverlayText>>,
    /// Folders whose names are known as a whole.
    folders: BTreeMap<PathBuf, Arc<[String]>>,
    /// Whether there is no other text of the configuration, whatever the disk has.
    is_whole: bool,
    /// Last good contents of files that are never held. A pass reads them only after
    /// [`Overlay::with_spares`].
    spares: BTreeMap<PathBuf, SpareText>,
    /// Whether a save counts only after an order.
    is_ordered: bool,
    /// The files whose contents on the disk come first. Empty but at a start.
    preferred: BTreeMap<PathBuf, DiskRule>,
}

/// The last good contents of a file that is never held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareText {
    /// The contents.
    pub text: OverlayText,
    /// Whether it is a certificate's chain, which must fit a key on the disk.
    pub is_chain: bool,
}

/// When a file on the disk comes before its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskRule {
    /// Its contents equal the text, and only its time is newer.
    Equal,
    /// It can be read.
    Readable,
}

/// A text in place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayText {
    /// The contents; never empty.
    pub bytes: Bytes,
    /// Time of the last modification. `None` means not known.
    pub modified: Option<SystemTime>,
    /// Permission bits of the file.
    pub mode: u32,
    /// The path that decides how much of the text may be shown. `None` means that none is shown.
    pub real: Option<PathBuf>,
}

impl Overlay {
    /// Finds no text of the configuration that is not in the overlay. Live lists and other files
    /// are still read from the disk.
    pub fn close(&mut self) {
        self.is_whole = true;
    }

    /// Whether there is no other text of the configuration.
    pub fn is_closed(&self) -> bool {
        self.is_whole
    }

    /// Reads `text` at `path`. The caller answers for its origin: no folder is checked again.
    pub fn insert(&mut self, path: PathBuf, text: OverlayText) {
        self.texts.insert(path, Some(text));
    }

    /// Finds no file at `path`.
    pub fn remove(&mut self, path: PathBuf) {
        self.texts.insert(path, None);
    }

    /// Finds exactly `names`, sorted, in the folder `path`.
    pub fn insert_folder(&mut self, path: PathBuf, names: Arc<[String]>) {
        self.folders.insert(path, names);
    }

    /// Keeps `spare` as the last good contents of the file `path`.
    pub fn insert_spare(&mut self, path: PathBuf, spare: SpareText) {
        self.spares.insert(path, spare);
    }

    /// The last good contents of files that are never held, by path.
    pub fn spares(&self) -> impl Iterator<Item = (&Path, &SpareText)> {
        self.spares.iter().map(|(path, spare)| (&**path, spare))
    }

    /// The same with every spare in place of its file. `chains_from_disk` says that a chain on the
    /// disk comes first, since its key was renewed with it.
    pub fn with_spares(&self, chains_from_disk: bool) -> Overlay {
        let mut overlay = self.clone();
        for (path, SpareText { text, is_chain }) in std::mem::take(&mut overlay.spares) {
            if is_chain && chains_from_disk {
                overlay.preferred.insert(path.clone(), DiskRule::Readable);
            }
            overlay.texts.insert(path, Some(text));
        }
        for path in overlay.texts.keys() {
            overlay.preferred.entry(path.clone()).or_insert(DiskRule::Equal);
        }
        overlay
    }

    /// The same, with a newer time for each text that the disk has unchanged: a list that was
    /// written again is fresh.
    pub fn refreshed(&self) -> Overlay {
        let mut overlay = self.clone();
        let rules = self.texts.keys().map(|path| (path.clone(), DiskRule::Equal));
        overlay.preferred = rules.collect();
        overlay
    }

    /// When the file `path` comes before its text. `None` means never.
    pub fn disk_rule(&self, path: &Path) -> Option<DiskRule> {
        self.preferred.get(path).copied()
    }

    /// Whether `other` has the same texts and folders. Spares do not count.
    pub fn has_texts_of(&self, other: &Overlay) -> bool {
        self.texts == other.texts && self.folders == other.folders
    }

    /// Notes that a save counts only after an order.
    pub fn set_ordered(&mut self) {
        self.is_ordered = true;
    }

    /// Whether a save counts only after an order.
    pub fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    /// The same with the paths below the folder `from` below the folder `to`.
    pub fn moved(&self, from: &Path, to: &Path) -> Overlay {
        let place = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) => to.join(rest),
            Err(_) => path.to_owned(),
        };
        let texts = self.texts.iter().map(|(path, text)| (place(path), text.clone()));
        let folders = self.folders.iter().map(|(path, names)| (place(path), Arc::clone(names)));
        let spares = self.spares.iter().map(|(path, spare)| (place(path), spare.clone()));
        Overlay {
            texts: texts.collect(),
            folders: folders.collect(),
            spares: spares.collect(),
            ..self.clone()
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.folders.is_empty()
    }

    /// The text at `path`, or that there is none. The outer `None` means that the disk has it.
    pub fn text(&self, path: &Path) -> Option<Option<&OverlayText>> {
        self.texts.get(path).map(Option::as_ref)
    }

    /// The texts, by path.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &OverlayText)> {
        self.texts.iter().filter_map(|(path, text)| Some((&**path, text.as_ref()?)))
    }

    /// The folders whose names are known as a whole.
    pub fn folders(&self) -> impl Iterator<Item = (&Path, &Arc<[String]>)> {
        self.folders.iter().map(|(path, names)| (&**path, names))
    }

    /// The names in the folder `path`, if they are known without the disk.
    pub fn folder(&self, path: &Path) -> Option<&Arc<[String]>> {
        self.folders.get(path)
    }

    /// Whether a text lies in the folder `path`.
    pub fn has_text_in(&self, path: &Path) -> bool {
        self.texts.iter().any(|(file, text)| text.is_some() && file.parent() == Some(path))
    }

    /// The names of the folder `path`, of which the disk has `names`.
    pub fn names_in(&self, path: &Path, names: &[String]) -> Arc<[String]> {
        let mut all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        for (file, text) in self.texts.iter().filter(|(file, _)| file.parent() == Some(path)) {
            match (file.file_name().and_then(OsStr::to_str), text) {
                (Some(name), Some(_)) => drop(all.insert(name)),
                (Some(name), None) => drop(all.remove(name)),
                (None, _) => {}
            }
        }
        all.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_has_the_names_of_the_disk_and_of_the_texts() {
        let text = OverlayText { bytes: "a".into(), modified: None, mode: 0, real: None };
        let mut overlay = Overlay::default();
        overlay.insert("policies/new.toml".into(), text.clone());
        overlay.insert("policies/lists/new.cidr".into(), text);
        overlay.remove("policies/old.toml".into());
        let names = ["chat.toml".to_owned(), "old.toml".to_owned()];
        let found = overlay.names_in(Path::new("policies"), &names);
        assert_eq!(&*found, ["chat.toml", "new.toml"]);
        assert!(overlay.text(Path::new("policies/old.toml")).is_some_and(|text| text.is_none()));
        assert!(overlay.text(Path::new("policies/chat.toml")).is_none());
    }

    fn text(bytes: &'static str) -> OverlayText {
        OverlayText { bytes: bytes.into(), modified: None, mode: 0, real: None }
    }

    #[test]
    fn spare_is_read_only_once_it_is_asked_for() {
        let mut overlay = Overlay::default();
        overlay.insert("a.toml".into(), text("a"));
        for (path, is_chain) in [("live.cidr", false), ("chain.pem", true)] {
            overlay.insert_spare(path.into(), SpareText { text: text("spare"), is_chain });
            assert_eq!(overlay.text(Path::new(path)), None);
        }
        let spare = text("spare");
        for (chains_from_disk, rule) in [(false, DiskRule::Equal), (true, DiskRule::Readable)] {
            let started = overlay.with_spares(chains_from_disk);
            assert_eq!(started.text(Path::new("live.cidr")), Some(Some(&spare)));
            assert_eq!(started.disk_rule(Path::new("chain.pem")), Some(rule));
            assert_eq!(started.disk_rule(Path::new("live.cidr")), Some(DiskRule::Equal));
        }
        assert_eq!(overlay.disk_rule(Path::new("live.cidr")), None);
    }

    #[test]
    fn moved_texts_lie_below_the_new_folder() {
        let mut overlay = Overlay::default();
        overlay.insert("/etc/a/policies/chat.toml".into(), text("a"));
        overlay.insert_folder("/etc/a/policies".into(), Arc::default());
        let spare = SpareText { text: text("b"), is_chain: true };
        overlay.insert_spare("/certs/chain.pem".into(), spare);
        let moved = overlay.moved(Path::new("/etc/a"), Path::new("b"));
        assert!(moved.text(Path::new("b/policies/chat.toml")).is_some());
        assert!(moved.folder(Path::new("b/policies")).is_some());
        assert_eq!(moved.spares().next().unwrap().0, Path::new("/certs/chain.pem"));
    }
}
