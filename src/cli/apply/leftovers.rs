//! Files that a killed `sidegate apply` has left before its journal named them.
//!
//! Called under the lock, where there is no journal. A former version that differs from the file in
//! force stays: it may be the only copy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::cli::apply::install::UNFINISHED;
use sidegate::control::unfinished::{is_unfinished, sweep};

/// The folders below that of `sidegate.toml` in which files are replaced, and that folder itself.
const FOLDERS: [&str; 3] = ["", "policies", "policies/lists"];

/// Removes the leftovers in the folders of the configuration in `folder`.
pub fn remove(folder: &Path) {
    for below in FOLDERS {
        let folder = folder.join(below);
        sweep(&folder, Duration::ZERO, |name| {
            is_unfinished(name, UNFINISHED)
                || named(name, ".sidegate-new").is_some()
                || named(name, ".sidegate-before")
                    .is_some_and(|file| is_same(&folder.join(name), &folder.join(file)))
        });
    }
}

/// The file beside which `name` with this suffix was written.
fn named<'n>(name: &'n str, suffix: &str) -> Option<&'n str> {
    let file = name.strip_prefix('.')?.strip_suffix(suffix)?;
    (!file.is_empty()).then_some(file)
}

/// Whether both are names of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|at| (at.dev(), at.ino()));
    inode(one).is_some() && inode(one) == inode(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_a_former_version_of_its_own_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("policies/lists")).unwrap();
        fs::write(at("sidegate.toml"), "x").unwrap();
        fs::hard_link(at("sidegate.toml"), at(".sidegate.toml.sidegate-before")).unwrap();
        let gone = [
            ".sidegate-aB3dE9",
            ".sidegate.toml.sidegate-new",
            "policies/.a.toml.sidegate-new",
            "policies/lists/.a.cidr.sidegate-new",
        ];
        let stay = ["policies/.a.toml.sidegate-before", "policies/a.toml", ".sidegate-new"];
        for name in gone.iter().chain(&stay) {
            fs::write(at(name), "y").unwrap();
        }
        remove(folder.path());
        assert!(gone.iter().all(|name| !at(name).exists()));
        assert!(!at(".sidegate.toml.sidegate-before").exists());
        assert!(stay.iter().all(|name| at(name).exists()) && at("sidegate.toml").exists());
    }
}
