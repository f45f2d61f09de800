//! Files that a killed process was writing before it could rename them into place.
//!
//! They only take room, so an error of a removal is ignored. No link is followed.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Letters and digits that tempfile adds to a prefix.
const RANDOM_LENGTH: usize = 6;

/// Whether tempfile has made `name` with `prefix`.
pub fn is_unfinished(name: &str, prefix: &str) -> bool {
    let random = name.strip_prefix(prefix);
    random.is_some_and(|random| {
        random.len() == RANDOM_LENGTH && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Removes the regular files in `folder` whose names are `ours` and that were not written for
/// `min_age`: younger ones may belong to a process that runs.
pub fn sweep(folder: &Path, min_age: Duration, ours: impl Fn(&str) -> bool) {
    let now = SystemTime::now();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // The metadata is that of the entry itself (lstat(2)): a link is no regular file.
        let Ok(found) = entry.metadata() else { continue };
        let age = found.modified().ok().and_then(|at| now.duration_since(at).ok());
        let is_old = min_age.is_zero() || age.is_some_and(|age| age >= min_age);
        if found.is_file() && is_old && entry.file_name().to_str().is_some_and(&ours) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_regular_files_of_the_prefix_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let sweep = |age| super::sweep(folder.path(), age, |name| is_unfinished(name, ".new-"));
        for name in [".new-aB3dE9", ".new-aB3dE", ".new-aB3dE9x", ".new-aB3d.9", "a.new-aB3dE9"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::create_dir(at(".new-folder")).unwrap();
        std::os::unix::fs::symlink(".new-aB3dE", at(".new-linked")).unwrap();
        sweep(Duration::from_secs(3600));
        assert!(at(".new-aB3dE9").exists(), "young");
        sweep(Duration::ZERO);
        assert!(!at(".new-aB3dE9").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }
}
