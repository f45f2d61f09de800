//! Whose files the agent believes: those of root and of its own user that no other may change.
//!
//! The state folder has bans and published files, which decide like the configuration itself.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{getegid, geteuid};

const ROOT: u32 = 0;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// Whether users other than its owner and `group` may write in a folder, or to a file.
///
/// They could put a socket or a file of their own there. Root's group counts as root. The agent and
/// the commands share this rule, so that commands of the agent's user look in the folder it uses.
pub fn others_write(found: &Metadata, group: u32) -> bool {
    let by_others = found.mode() & OTHERS_WRITE != 0;
    let by_group = found.mode() & GROUP_WRITES != 0;
    by_others || (by_group && ![ROOT, group].contains(&found.gid()))
}

/// Checks that only root and the agent's user can change the folder or file `path`.
///
/// # Errors
/// A sentence with the remedy.
pub fn check_owner(path: &Path, found: &Metadata) -> Result<(), String> {
    let (own, shown) = (geteuid().as_raw(), path.display());
    let owner = found.uid();
    if ![ROOT, own].contains(&owner) {
        return Err(format!(
            "{shown} is not used: it belongs to uid {owner}, and not to root or the agent's user \
             (uid {own}); run the agent as its owner, or chown it"
        ));
    }
    if others_write(found, getegid().as_raw()) {
        let mode = found.mode() & 0o7777;
        return Err(format!(
            "{shown} is not used: other users may write to it (mode {mode:04o}); chmod go-w, or \
             name a directory below it in [process] state, which sidegate makes"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    fn checked(path: &Path) -> String {
        check_owner(path, &fs::metadata(path).unwrap()).err().unwrap_or_default()
    }

    #[test]
    fn only_modes_that_let_others_write_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("published");
        fs::write(&file, "").unwrap();
        for path in [folder.path(), &file] {
            for (mode, is_used) in [
                (0o700, true),
                (0o755, true),
                (0o644, true),
                (0o777, false),
                (0o1777, false),
                (0o602, false),
            ] {
                fs::set_permissions(path, Permissions::from_mode(mode | 0o400)).unwrap();
                assert_eq!(checked(path).is_empty(), is_used, "{mode:o}: {}", checked(path));
            }
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn owner_is_root_or_the_agents_user() {
        if !geteuid().is_root() {
            return; // Only root can give a file away.
        }
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(65_533), None).unwrap();
        assert!(checked(folder.path()).contains("belongs to uid 65533"));
        chown(folder.path(), Some(0), Some(65_533)).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o770)).unwrap();
        assert!(checked(folder.path()).contains("other users may write"));
        fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).unwrap();
        assert_eq!(checked(folder.path()), "");
    }
}
