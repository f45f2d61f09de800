//! Finds the admin socket of a configuration if `[admin] socket` is `auto`: the agent and the
//! commands look in the same folders.
//!
//! This module may create a folder, but never a socket.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::control::file_trust::others_write;

const ROOT: u32 = 0;

/// Where the agent of `config` puts its socket; `None` means no folder is usable.
pub fn auto_path(config: &Path) -> Option<PathBuf> {
    candidate_dirs()
        .into_iter()
        .find(|folder| is_usable(folder))
        .map(|folder| folder.join(file_name(config)))
}

/// The path of `auto` in a folder that exists; `None` means no usable one does.
pub fn existing_path(config: &Path) -> Option<PathBuf> {
    let folders = candidate_dirs();
    let folder = folders.iter().find(|folder| folder.exists() && is_usable(folder))?;
    Some(folder.join(file_name(config)))
}

/// The paths at which the agent of `config` may have its `auto` socket, the likeliest first.
pub fn socket_paths(config: &Path) -> Vec<PathBuf> {
    let name = file_name(config);
    let mut paths: Vec<PathBuf> =
        candidate_dirs().into_iter().map(|folder| folder.join(&name)).collect();
    // A command that is run by hand lacks the RUNTIME_DIRECTORY of the service, whose unit may name
    // the folder otherwise.
    let runtime = fs::read_dir("/run").into_iter().flatten().flatten();
    let ours =
        runtime.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"sidegate"));
    for path in ours.map(|entry| entry.path().join(&name)) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// The folders of `auto`, in order; the agent uses the first usable one.
fn candidate_dirs() -> Vec<PathBuf> {
    let from =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd may name several folders, separated by colons (systemd.exec(5)).
    let runtime = from("RUNTIME_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    let session = from("XDG_RUNTIME_DIR").map(|folder| folder.join("sidegate"));
    let own = std::env::temp_dir().join(format!("sidegate-{}", rustix::process::getuid().as_raw()));
    runtime
        .into_iter()
        .chain([PathBuf::from("/run/sidegate")])
        .chain(session)
        .chain([own])
        .collect()
}

/// Whether the agent may put its socket into `folder`: a directory of root or its own user, created
/// if missing, that it may write and other users may not. `/run/sidegate` itself is never created:
/// systemd's `RuntimeDirectory=` makes it for the service's user.
fn is_usable(folder: &Path) -> bool {
    let (own, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let made = || {
        folder.starts_with("/run/sidegate")
            || fs::DirBuilder::new().mode(0o700).create(folder).is_ok()
    };
    if !folder.exists() && !made() {
        return false;
    }
    // A link is not followed, and so refused: in /tmp any user can create one.
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    let is_safe = metadata.is_dir() && !others_write(&metadata, group);
    let is_writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    is_safe && is_writable && [ROOT, own].contains(&metadata.uid())
}

fn file_name(config: &Path) -> String {
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    // 48 bits tell the configurations of a host apart. `sun_path` holds only 108 bytes (unix(7)).
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    /// Checks whether a folder of this user with `mode` is used, and what its group may do.
    #[track_caller]
    fn check(mode: u32, usable: bool, others_may: bool) {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(is_usable(folder.path()), usable, "{mode:o}");
        let metadata = fs::metadata(folder.path()).unwrap();
        // A group that is neither root's nor the folder's own.
        let foreign = metadata.gid() + 1;
        let is_roots = metadata.gid() == ROOT;
        assert_eq!(others_write(&metadata, foreign), others_may && !is_roots || mode & 0o002 != 0);
        assert_eq!(others_write(&metadata, metadata.gid()), mode & 0o002 != 0);
    }

    #[test]
    fn folder_is_used_when_no_others_may_write_in_it() {
        check(0o700, true, false);
        check(0o755, true, false);
        check(0o770, true, true);
        check(0o702, false, true);
        check(0o777, false, true);
        check(0o1777, false, true);
    }

    #[test]
    fn folder_that_is_a_link_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(!is_usable(&link));
    }

    #[test]
    fn missing_folder_is_made_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("sidegate");
        assert!(is_usable(&made));
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn folder_of_another_group_is_not_used_when_the_group_may_write() {
        let folder = tempfile::tempdir().unwrap();
        // Only root can give a folder away.
        if std::os::unix::fs::chown(folder.path(), None, Some(54_321)).is_err() {
            return;
        }
        for (mode, usable) in [(0o770, false), (0o775, false), (0o750, true)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_usable(folder.path()), usable, "{mode:o}");
        }
    }
}
