//! Texts that a pass reads in place of the files at their paths.
//!
//! Holds texts of the configuration only: certificates, keys and revocation lists are read from
//! the disk in every pass. Touches no file.

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
}
