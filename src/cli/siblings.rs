//! Owner and mode of a new file: those of the files beside it.
//!
//! A copy that was made with a strict umask has modes under which the service's user reads nothing.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

/// Bits of a private key's mode: nothing for others.
const KEY_BITS: u32 = 0o660;

/// The owner and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// Number of the user.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
}

impl Ownership {
    fn of(found: &Metadata) -> Ownership {
        Ownership { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o777 }
    }

    /// The one for a new file at `path`: that of a file in the same folder, with the same ending
    /// if there is one, or in the next folder above that has files. `None` means no such file.
    pub fn of_new(path: &Path, is_key: bool) -> Option<Ownership> {
        let folders = path.ancestors().skip(1);
        let beside = folders.filter_map(|folder| alike(folder, path)).next()?;
        let mode = if is_key { beside.mode & KEY_BITS } else { beside.mode };
        Some(Ownership { mode, ..beside })
    }
}

/// The ownership of a file in `folder` that is like `path`.
fn alike(folder: &Path, path: &Path) -> Option<Ownership> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut files: Vec<_> = entries
        .filter(|entry| !is_hidden(&entry.file_name()))
        .map(|entry| entry.path())
        .filter_map(|path| Some((fs::metadata(&path).ok()?, path)))
        .filter(|(found, _)| found.is_file())
        .collect();
    // By name, so that the choice does not depend on the order of the folder.
    files.sort_by(|(_, one), (_, other)| one.cmp(other));
    let same = files.iter().find(|(_, other)| other.extension() == path.extension());
    same.or(files.first()).map(|(found, _)| Ownership::of(found))
}

/// Makes `folder` and those above it that do not exist, each with the owner and mode of the one
/// above. Without the right to give them away, they belong to this process.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let Some(above) = folder.parent() else { return Ok(()) };
    create_folders(above)?;
    let of_above = fs::metadata(above)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    let _ = chown(folder, Some(of_above.uid()), Some(of_above.gid()));
    // Behind the change of owner, which may clear bits (chown(2)).
    fs::set_permissions(folder, of_above.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn new_file_is_like_the_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, mode| {
            fs::write(at(name), name).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let mode = |name: &str, is_key| {
            Ownership::of_new(&at(name), is_key).map(|found| format!("{:o}", found.mode))
        };
        write("sidegate.toml", 0o644);
        fs::create_dir(at("policies")).unwrap();
        assert_eq!(mode("policies/lists/a.cidr", false).as_deref(), Some("644"), "the next above");
        write("policies/chat.toml", 0o640);
        write("policies/.hidden.toml", 0o600);
        assert_eq!(mode("policies/lists/a.cidr", false).as_deref(), Some("640"));
        fs::create_dir(at("certs")).unwrap();
        write("certs/a.pem", 0o644);
        assert_eq!(mode("certs/b.pem", false).as_deref(), Some("644"));
        assert_eq!(mode("certs/b.key", true).as_deref(), Some("640"), "no key for others");
        write("certs/a.key", 0o600);
        assert_eq!(mode("certs/b.key", true).as_deref(), Some("600"));
    }

    #[test]
    fn new_folders_are_like_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let above = folder.path().join("policies");
        fs::create_dir(&above).unwrap();
        fs::set_permissions(&above, fs::Permissions::from_mode(0o2750)).unwrap();
        create_folders(&above.join("lists/more")).unwrap();
        for made in ["lists", "lists/more"] {
            let made = fs::metadata(above.join(made)).unwrap();
            assert_eq!(made.mode() & 0o7777, 0o2750);
        }
    }
}
