//! The programs that an upgrade may start: only root can have put them there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Mode bits by which users other than the owner may write.
const WRITABLE: u32 = 0o022;

/// The sticky bit: in such a folder only its owner replaces a file.
const STICKY: u32 = 0o1000;

/// Checks that `binary` is a program that no user but root can replace or change: itself, every
/// folder above it, and every link on the way. Returns its path, with links as they were given.
///
/// # Errors
/// A sentence that names the file or folder, and its fault.
pub fn check(binary: &Path) -> Result<PathBuf, String> {
    if !binary.is_absolute() {
        return Err(format!("{}: the path of the program has to be absolute", binary.display()));
    }
    // The links on the way count as well as the folders behind them.
    check_way(binary, 0)?;
    let unusable = |error: io::Error| format!("{}: {error}", binary.display());
    let found = fs::metadata(binary).map_err(unusable)?;
    if !found.is_file() {
        return Err(format!("{} is no regular file", binary.display()));
    }
    access(binary, Access::EXEC_OK).map_err(|error| unusable(error.into()))?;
    Ok(binary.to_owned())
}

/// Checks `path` and each folder above it. Follows links, 40 at most, as the kernel does.
fn check_way(path: &Path, links: usize) -> Result<(), String> {
    if links > 40 {
        return Err(format!("{}: too many links", path.display()));
    }
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    for step in way {
        let found = fs::symlink_metadata(step);
        let found = found.map_err(|error| format!("{}: {error}", step.display()))?;
        let refuse = |why: &str| {
            Err(format!("{} {why}: only root may be able to replace the program", step.display()))
        };
        if found.uid() != 0 {
            return refuse(&format!("belongs to user {}", found.uid()));
        }
        if found.is_symlink() {
            // A link has no mode of its own. Who may replace it is up to its folder.
            let target = fs::read_link(step);
            let target = target.map_err(|error| format!("{}: {error}", step.display()))?;
            check_way(&step.parent().unwrap_or(Path::new("/")).join(target), links + 1)?;
            continue;
        }
        // Others may add files to a sticky folder, and replace none of root's.
        let is_sticky = found.is_dir() && found.mode() & STICKY != 0;
        if found.mode() & WRITABLE != 0 && !is_sticky {
            return refuse("can be written by other users than its owner");
        }
    }
    Ok(())
}

/// The path by which this process was started: that of its first argument, where that is a path.
/// A link in it stays a link, which an upgrade follows to the program of that time.
pub fn started_by() -> PathBuf {
    let named = std::env::args_os().next().map(PathBuf::from);
    let named = named.filter(|name| name.components().count() > 1);
    let named = named.and_then(|name| std::path::absolute(name).ok());
    // Read early: after an upgrade of the package it would be the deleted file.
    named.or_else(|| std::env::current_exe().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn with_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_program_that_root_alone_can_replace_passes() {
        let folder = tempfile::tempdir().unwrap();
        // Only root can make a program that passes.
        let is_root = rustix::process::geteuid().is_root();
        let (inner, binary) = (folder.path().join("bin"), folder.path().join("bin/sidegate"));
        fs::create_dir(&inner).unwrap();
        with_mode(&inner, 0o755);
        fs::copy("/bin/true", &binary).unwrap();
        with_mode(&binary, 0o755);
        assert_eq!(check(&binary).is_ok(), is_root, "{:?}", check(&binary));
        for (path, mode, said) in
            [(&binary, 0o775, "other users"), (&inner, 0o777, "other users"), (&binary, 0o644, "")]
        {
            let before = fs::metadata(path).unwrap().mode();
            with_mode(path, mode);
            let error = check(&binary).unwrap_err();
            assert!(!is_root || error.contains(said), "{error}");
            with_mode(path, before);
        }
        let link = folder.path().join("link");
        symlink("bin/sidegate", &link).unwrap();
        assert_eq!(check(&link).is_ok(), is_root);
        if is_root {
            chown(&binary, Some(65534), None).unwrap();
            for path in [&binary, &link] {
                assert!(check(path).unwrap_err().contains("belongs to user 65534"));
            }
        }
        assert!(check(Path::new("sidegate")).unwrap_err().contains("absolute"));
        assert!(check(&inner).is_err() && check(&inner.join("gone")).is_err());
    }

    #[test]
    fn links_that_lead_to_each_other_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        symlink(&other, &one).unwrap();
        symlink(&one, &other).unwrap();
        assert!(check(&one).is_err());
    }
}
