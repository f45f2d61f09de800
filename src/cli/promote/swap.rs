//! The files of a promotion: the candidate replaces the policy, which is kept until the promotion
//! is confirmed.
//!
//! Each step is one rename or link, so that a reader always sees the old policy or the new one.
//! This module doesn't talk to the agent.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A prepared promotion; nothing is written yet.
pub struct PolicySwap {
    files: PromotionFiles,
    /// Version of the policy's file when the promotion began.
    policy: FileVersion,
}

/// A candidate in its policy's place, not yet confirmed.
#[must_use = "a promotion is kept or restored"]
pub struct PlacedCandidate {
    files: PromotionFiles,
    /// Device and inode of the candidate.
    candidate: (u64, u64),
}

struct PromotionFiles {
    folder: PathBuf,
    policy: PathBuf,
    candidate: PathBuf,
    /// Second name of the old policy. It doesn't end in `.toml`, so that a load ignores it.
    kept: PathBuf,
}

/// The metadata by which two versions of a file differ.
#[derive(PartialEq, Eq)]
struct FileVersion {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl FileVersion {
    fn of(file: &Metadata) -> FileVersion {
        let modified = (file.mtime(), file.mtime_nsec());
        FileVersion { inode: inode(file), size: file.len(), modified }
    }
}

fn inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl PolicySwap {
    /// Prepares the promotion of the policy `name` of `config`.
    ///
    /// # Errors
    /// A sentence: an earlier promotion was broken off, or the policy doesn't exist.
    pub fn new(config: &Path, name: &str) -> Result<PolicySwap, String> {
        let folder = config.parent().unwrap_or(Path::new("")).join("policies");
        let (policy, candidate) =
            (folder.join(format!("{name}.toml")), folder.join(format!("{name}.shadow.toml")));
        let kept = folder.join(format!(".{name}.toml.before"));
        let files = PromotionFiles { folder, policy, candidate, kept };
        let version =
            fs::symlink_metadata(&files.policy).map_err(|error| at(&files.policy, &error))?;
        let policy = FileVersion::of(&version);
        if let Ok(left) = fs::symlink_metadata(&files.kept) {
            // Another inode: the candidate may be in place already, and the kept file may be the
            // only copy of the previous policy.
            if inode(&left) != policy.inode {
                return Err(files.broken_off());
            }
            // The same inode: the earlier promotion ended before it had changed anything.
            fs::remove_file(&files.kept).map_err(|error| at(&files.kept, &error))?;
        }
        Ok(PolicySwap { files, policy })
    }

    /// Keeps the policy under a second name, and puts the candidate in its place.
    ///
    /// # Errors
    /// A sentence; nothing has changed.
    pub fn place(self) -> Result<PlacedCandidate, String> {
        let PolicySwap { files, policy } = self;
        files.keep()?;
        let placed = files.replace_policy(&policy);
        if placed.is_err() {
            // A kept file that is left behind would only block the next promotion.
            let _ = fs::remove_file(&files.kept);
        }
        placed.map(|candidate| PlacedCandidate { files, candidate })
    }
}

impl PromotionFiles {
    fn broken_off(&self) -> String {
        let (kept, policy) = (self.kept.display(), self.policy.display());
        format!(
            "{kept} exists: it is the previous policy of an interrupted promotion. Move it to \
             {policy} to undo that promotion, or remove it"
        )
    }

    /// Gives the policy a second name, with its owner and mode.
    fn keep(&self) -> Result<(), String> {
        match fs::hard_link(&self.policy, &self.kept) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.broken_off()),
            // Some file systems have no hard links, and users may not link to files of others
            // (`protected_hardlinks`).
            Err(_) => copy(&self.policy, &self.kept).map_err(|error| {
                let _ = fs::remove_file(&self.kept);
                format!("no copy of {} can be made: {error}", self.policy.display())
            }),
        }
    }

    /// Renames the candidate over the policy, unless that differs from `before`; returns the
    /// candidate's inode.
    fn replace_policy(&self, before: &FileVersion) -> Result<(u64, u64), String> {
        let now = fs::symlink_metadata(&self.policy).map_err(|error| at(&self.policy, &error))?;
        if FileVersion::of(&now) != *before {
            return Err(format!("{} was changed meanwhile", self.policy.display()));
        }
        let candidate =
            fs::symlink_metadata(&self.candidate).map_err(|error| at(&self.candidate, &error))?;
        // Atomic: each load finds either the old policy or the new one.
        fs::rename(&self.candidate, &self.policy).map_err(|error| at(&self.candidate, &error))?;
        self.sync();
        Ok(inode(&candidate))
    }

    /// Makes the names survive a power cut. A failure is ignored: the names are in force anyway.
    fn sync(&self) {
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
    }
}

impl PlacedCandidate {
    /// Completes a confirmed promotion: removes the old policy.
    pub fn keep(self) {
        let _ = fs::remove_file(&self.files.kept);
        self.files.sync();
    }

    /// Takes the promotion back; returns a sentence that says where the files are now.
    pub fn restore(self) -> String {
        let files = &self.files;
        let (policy, candidate, kept) =
            (files.policy.display(), files.candidate.display(), files.kept.display());
        // Another process may have replaced the file meanwhile; its version is not overwritten.
        let is_ours =
            fs::symlink_metadata(&files.policy).is_ok_and(|now| inode(&now) == self.candidate);
        if !is_ours {
            return format!(
                "{policy} was changed by another process meanwhile, and is left as it is; {kept} \
                 is the previous policy"
            );
        }
        if let Err(error) = self.swap_back() {
            return format!(
                "{policy} is the candidate, and cannot be restored ({error}); {kept} is the \
                 previous policy"
            );
        }
        // NOREPLACE: a new candidate may have been written meanwhile.
        let is_back =
            renameat_with(CWD, &files.kept, CWD, &files.candidate, RenameFlags::NOREPLACE);
        files.sync();
        let again = format!("{policy} is the previous policy again");
        let where_is = match is_back {
            Ok(()) => format!("{candidate} the candidate"),
            Err(_) if !files.kept.exists() => format!("{candidate} the candidate"),
            Err(_) => format!("{kept} the candidate"),
        };
        format!(
            "{again}, and {where_is}. Run `sidegate reload --wait` to make the agent read them, \
             and `sidegate status` to see the running generation"
        )
    }

    /// Puts the old policy back. The candidate then has the name of the kept file, or its own.
    fn swap_back(&self) -> io::Result<()> {
        let PromotionFiles { policy, candidate, kept, .. } = &self.files;
        if renameat_with(CWD, policy, CWD, kept, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // The file system can't exchange two names. Between the renames there is no policy, and a
        // reload in that moment is rejected.
        if fs::symlink_metadata(candidate).is_ok() {
            return Err(io::Error::other(format!("{} is there again", candidate.display())));
        }
        fs::rename(policy, candidate)?;
        fs::rename(kept, policy)
    }
}

/// Copies `from` with its owner and mode, or fails.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let file = fs::symlink_metadata(from)?;
    if file.is_symlink() {
        // A link is kept as a link, so that the restored policy is what the operator had.
        return symlink(fs::read_link(from)?, to);
    }
    // Private until it has its owner: any other mode would first apply to the wrong one.
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    let made = copy.metadata()?;
    if (made.uid(), made.gid()) != (file.uid(), file.gid()) {
        fchown(&copy, Some(file.uid()), Some(file.gid()))?;
    }
    copy.set_permissions(file.permissions())?;
    copy.sync_all()
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Creates a folder with a policy of this mode and its candidate, and prepares the promotion.
    fn folder() -> (tempfile::TempDir, PolicySwap) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("policies/main.toml"), "old").unwrap();
        fs::write(folder.path().join("policies/main.shadow.toml"), "new").unwrap();
        let mode = Permissions::from_mode(0o640);
        fs::set_permissions(folder.path().join("policies/main.toml"), mode).unwrap();
        let swap = new(&folder).unwrap();
        (folder, swap)
    }

    fn new(folder: &tempfile::TempDir) -> Result<PolicySwap, String> {
        PolicySwap::new(&folder.path().join("sidegate.toml"), "main")
    }

    /// The contents of all files, by name.
    fn check(folder: &tempfile::TempDir, expected: &[(&str, &str)]) {
        let listed = fs::read_dir(folder.path().join("policies")).unwrap().map(Result::unwrap);
        let mut found: Vec<_> = listed
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    fs::read_to_string(entry.path()).unwrap(),
                )
            })
            .collect();
        found.sort();
        let found: Vec<_> = found.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(found, expected);
    }

    const BEFORE: &[(&str, &str)] = &[("main.shadow.toml", "new"), ("main.toml", "old")];

    #[test]
    fn a_confirmed_promotion_leaves_the_candidate_as_the_policy() {
        let (folder, swap) = folder();
        let placed = swap.place().unwrap();
        check(&folder, &[(".main.toml.before", "old"), ("main.toml", "new")]);
        placed.keep();
        check(&folder, &[("main.toml", "new")]);
    }

    #[test]
    fn restored_policy_is_the_same_file_with_its_mode() {
        let (folder, swap) = folder();
        let policy = folder.path().join("policies/main.toml");
        let before = fs::metadata(&policy).unwrap();
        let said = swap.place().unwrap().restore();
        check(&folder, BEFORE);
        let after = fs::metadata(&policy).unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
        assert!(said.contains("is the previous policy again"), "{said}");
    }

    #[test]
    fn a_policy_that_was_changed_meanwhile_is_not_replaced() {
        let (folder, swap) = folder();
        fs::write(folder.path().join("policies/main.toml"), "old, edited").unwrap();
        assert!(swap.place().err().unwrap().contains("was changed meanwhile"));
        check(&folder, &[("main.shadow.toml", "new"), ("main.toml", "old, edited")]);
    }

    #[test]
    fn policy_written_after_the_promotion_is_kept() {
        let (folder, swap) = folder();
        let placed = swap.place().unwrap();
        let policy = folder.path().join("policies/main.toml");
        fs::write(folder.path().join("policies/save"), "another's").unwrap();
        fs::rename(folder.path().join("policies/save"), &policy).unwrap();
        let said = placed.restore();
        assert!(
            said.contains("left as it is")
                && said.contains(".main.toml.before is the previous policy"),
            "{said}"
        );
        check(&folder, &[(".main.toml.before", "old"), ("main.toml", "another's")]);
    }

    #[test]
    fn candidate_written_meanwhile_is_not_overwritten_by_a_restore() {
        let (folder, swap) = folder();
        let placed = swap.place().unwrap();
        fs::write(folder.path().join("policies/main.shadow.toml"), "newer").unwrap();
        let said = placed.restore();
        assert!(said.contains(".main.toml.before the candidate"), "{said}");
        check(
            &folder,
            &[(".main.toml.before", "new"), ("main.shadow.toml", "newer"), ("main.toml", "old")],
        );
    }

    #[test]
    fn interrupted_promotion_is_reported_and_its_copy_kept() {
        let (folder, swap) = folder();
        drop(swap.place().unwrap());
        fs::write(folder.path().join("policies/main.shadow.toml"), "newer").unwrap();
        let said = new(&folder).err().unwrap();
        assert!(
            said.contains(".main.toml.before") && said.contains("interrupted promotion"),
            "{said}"
        );
        check(
            &folder,
            &[(".main.toml.before", "old"), ("main.shadow.toml", "newer"), ("main.toml", "new")],
        );
    }

    #[test]
    fn promotion_works_after_one_that_changed_nothing() {
        let (folder, swap) = folder();
        swap.files.keep().unwrap();
        drop(swap);
        new(&folder).unwrap().place().unwrap().keep();
        check(&folder, &[("main.toml", "new")]);
    }

    #[test]
    fn copy_has_mode_and_text_and_a_link_stays_a_link() {
        let (folder, swap) = folder();
        let (policy, copied) = (&swap.files.policy, folder.path().join("copy"));
        copy(policy, &copied).unwrap();
        let (from, to) = (fs::metadata(policy).unwrap(), fs::metadata(&copied).unwrap());
        assert_eq!((from.mode(), from.uid(), from.len()), (to.mode(), to.uid(), to.len()));
        assert!(copy(policy, &copied).is_err(), "nothing is replaced");
        symlink("main.toml", folder.path().join("link")).unwrap();
        copy(&folder.path().join("link"), &folder.path().join("other")).unwrap();
        assert_eq!(fs::read_link(folder.path().join("other")).unwrap(), Path::new("main.toml"));
    }
}
