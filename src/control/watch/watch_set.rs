//! Where a change of a file shows: in its own folder, and in every folder that holds a symbolic
//! link on the way to it.
//!
//! A folder in the place of a file is watched at its name, as the file would be.
//!
//! A link anywhere in a path can be swapped (`..data`, `current`, certbot's `live/`), and nothing
//! happens to its former target. This module looks at names and links, never into a file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// More links than this are a loop, for the operating system too (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The folders in which a change of some files shows.
#[derive(Debug, Default)]
pub struct WatchSet {
    /// Each folder by its real path, with the names in it that matter.
    pub folders: BTreeMap<PathBuf, WatchedNames>,
    /// The first folder that should exist and does not. `None` means that all exist.
    pub gone: Option<PathBuf>,
}

/// The names in a folder that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchedNames {
    /// Every name that appears in the folder.
    All,
    /// These names, and no others.
    Some(BTreeSet<OsString>),
}

impl WatchSet {
    /// The names on the paths to `files`, and to everything in `folders`.
    pub fn for_files<'p>(
        files: impl IntoIterator<Item = &'p Path>,
        folders: impl IntoIterator<Item = &'p Path>,
    ) -> WatchSet {
        let mut watch_set = WatchSet::default();
        for file in files {
            // A folder in the file's place, which may make room for the file again.
            if let Some(real) = watch_set.walk(file)
                && let (Some(folder), Some(name)) = (real.parent(), real.file_name())
            {
                watch_set.add(folder, name);
            }
        }
        for folder in folders {
            match watch_set.walk(folder) {
                // Files are walked before, so that `All` replaces the names that they have added.
                Some(real) => drop(watch_set.folders.insert(real, WatchedNames::All)),
                None => drop(watch_set.gone.get_or_insert_with(|| folder.to_owned())),
            }
        }
        watch_set
    }

    /// Adds the folders and names of `other`, whose missing folder does not matter.
    pub fn merge(&mut self, other: WatchSet) {
        for (folder, names) in other.folders {
            match names {
                WatchedNames::Some(names) => names.iter().for_each(|name| self.add(&folder, name)),
                WatchedNames::All => drop(self.folders.insert(folder, WatchedNames::All)),
            }
        }
    }

    /// Whether a change at `path`, in one of these folders, matters. Changes of a folder itself
    /// always do.
    pub fn contains_change(folders: &BTreeMap<PathBuf, WatchedNames>, path: &Path) -> bool {
        let own = path.parent().and_then(|folder| folders.get(folder));
        match (own, path.file_name()) {
            (Some(WatchedNames::Some(names)), Some(name)) => {
                // Also the name of a watched folder inside a watched folder: it may be replaced.
                names.contains(name) || folders.contains_key(path)
            }
            _ => true,
        }
    }

    /// Notes the names that are passed on the way to `path`. Returns the folder's real path if
    /// `path` is a folder.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        let mut left: VecDeque<OsString> = parts(&path).collect();
        while let Some(part) = left.pop_front() {
            if part == ".." {
                // After the links before it, as the kernel resolves it: `link/..` is the parent of
                // the link's target.
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match fs::symlink_metadata(&next) {
                Ok(found) if found.is_symlink() => {
                    // The link itself may be replaced, so its own folder is watched too.
                    self.add(&at, &part);
                    let target = fs::read_link(&next).ok()?;
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    // A relative target continues in the link's own folder, which `at` still is.
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    parts(&target).rev().for_each(|part| left.push_front(part));
                }
                Ok(found) if found.is_dir() => at = next,
                Ok(_) => {
                    self.add(&at, &part);
                    return None;
                }
                Err(error) => {
                    self.add(&at, &part);
                    // A missing last part is a file that may come. A missing folder on the way is
                    // worth a report.
                    if error.kind() == ErrorKind::NotFound && !left.is_empty() {
                        self.gone.get_or_insert(next);
                    }
                    return None;
                }
            }
        }
        Some(at)
    }

    fn add(&mut self, folder: &Path, name: &OsStr) {
        let names = self
            .folders
            .entry(folder.to_owned())
            .or_insert_with(|| WatchedNames::Some(BTreeSet::new()));
        if let WatchedNames::Some(names) = names {
            names.insert(name.to_owned());
        }
    }
}

/// The parts of a path without its root.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The folders and names on the way to `path` below a root that `make` has filled, and the
    /// missing folder.
    fn check(
        make: impl FnOnce(&Path),
        path: &str,
        expected: &[(&str, &[&str])],
        gone: Option<&str>,
    ) {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().canonicalize().unwrap();
        make(&top);
        let file = top.join(path);
        let watch_set = WatchSet::for_files([file.as_path()], []);
        let named = |names: &[&str]| WatchedNames::Some(names.iter().map(OsString::from).collect());
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(folder, names)| (top.join(folder), named(names))).collect();
        // Links on the way to the temporary folder itself do not matter here.
        let found: BTreeMap<_, _> =
            watch_set.folders.into_iter().filter(|(folder, _)| folder.starts_with(&top)).collect();
        assert_eq!((found, watch_set.gone), (expected, gone.map(|gone| top.join(gone))));
    }

    fn folders(top: &Path, names: &[&str]) {
        names.iter().for_each(|name| fs::create_dir_all(top.join(name)).unwrap());
    }

    #[test]
    fn folders_behind_every_link_are_watched() {
        let mounted = |top: &Path| {
            folders(top, &["mounted/v1", "config"]);
            fs::write(top.join("mounted/v1/policy.toml"), "x").unwrap();
            symlink("v1", top.join("mounted/..data")).unwrap();
            symlink("../mounted/..data/policy.toml", top.join("config/policy.toml")).unwrap();
        };
        let expected: &[(&str, &[&str])] = &[
            ("config", &["policy.toml"]),
            ("mounted", &["..data"]),
            ("mounted/v1", &["policy.toml"]),
        ];
        check(mounted, "config/policy.toml", expected, None);
        check(mounted, "mounted/..data/policy.toml", &expected[1..], None);
    }

    #[test]
    fn link_in_the_middle_of_a_path_is_watched_in_its_folder() {
        let releases = |top: &Path| {
            folders(top, &["releases/1/etc"]);
            fs::write(top.join("releases/1/etc/sidegate.toml"), "x").unwrap();
            symlink(top.join("releases/1"), top.join("current")).unwrap();
        };
        check(
            releases,
            "current/etc/sidegate.toml",
            &[("", &["current"]), ("releases/1/etc", &["sidegate.toml"])],
            None,
        );
    }

    #[test]
    fn missing_file_is_watched_in_its_future_folder() {
        check(|top| folders(top, &["a"]), "a/new.toml", &[("a", &["new.toml"])], None);
        check(|_| {}, "not/there/yet.toml", &[("", &["not"])], Some("not"));
        check(
            |top| symlink("v1", top.join("..data")).unwrap(),
            "..data/x",
            &[("", &["..data", "v1"])],
            Some("v1"),
        );
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_watched_by_its_name() {
        check(|top| folders(top, &["a/list.cidr"]), "a/list.cidr", &[("a", &["list.cidr"])], None);
        let linked = |top: &Path| {
            folders(top, &["a", "b/other"]);
            symlink("../b/other", top.join("a/list.cidr")).unwrap();
        };
        check(linked, "a/list.cidr", &[("a", &["list.cidr"]), ("b", &["other"])], None);
    }

    #[test]
    fn merged_sets_have_the_names_of_both() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().canonicalize().unwrap();
        folders(&top, &["a", "b"]);
        let of = |file: &str| WatchSet::for_files([top.join(file).as_path()], []);
        let mut merged = WatchSet::for_files([], [top.join("b").as_path()]);
        ["a/one", "a/two", "b/three"].iter().for_each(|file| merged.merge(of(file)));
        let names = WatchedNames::Some(["one", "two"].iter().map(OsString::from).collect());
        assert_eq!(merged.folders.get(&top.join("a")), Some(&names));
        assert_eq!(merged.folders.get(&top.join("b")), Some(&WatchedNames::All));
    }

    #[test]
    fn symlink_loop_ends() {
        check(|top| symlink("a", top.join("a")).unwrap(), "a", &[("", &["a"])], None);
    }

    #[test]
    fn listed_folder_watches_all_names_and_others_only_some() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().canonicalize().unwrap();
        folders(&top, &["policies"]);
        let (file, listed) = (top.join("sidegate.toml"), top.join("policies"));
        let watch_set = WatchSet::for_files([file.as_path()], [listed.as_path()]);
        let leads = |path: &str| WatchSet::contains_change(&watch_set.folders, &top.join(path));
        for path in ["sidegate.toml", "policies", "policies/any.toml", "elsewhere/any.toml"] {
            assert!(leads(path), "{path} matters");
        }
        assert!(!leads("notes.txt"), "a neighbour doesn't");
        fs::remove_dir(&listed).unwrap();
        assert_eq!(WatchSet::for_files([], [listed.as_path()]).gone, Some(listed));
    }
}
