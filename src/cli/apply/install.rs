//! Replaces files together: all of them or none, whatever ends the process in between.
//!
//! An installation is a list of steps. Before the first file is replaced, its former version has a
//! second name and a journal names all files; passes read the former versions while the journal
//! says so. This module doesn't talk to the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::cli::apply::attributes::copy_attributes;
use crate::cli::siblings::{Ownership, create_folders};
use crate::cli::staged::StagedSet;
use sidegate::control::config::apply_journal::{
    ApplyJournal, ApplyState, FileChange, JOURNAL, JournalFile,
};

/// Beginning of the name of a journal that is being written.
pub const UNFINISHED: &str = ".sidegate-";

/// Files to be replaced together.
pub struct Installation {
    /// The folder that has `sidegate.toml`.
    folder: PathBuf,
    files: Vec<InstalledFile>,
}

/// A file of an installation.
struct InstalledFile {
    entry: JournalFile,
    /// The path by which the configuration names it, whose links may lead elsewhere by now.
    named: PathBuf,
    /// The next version. Empty after an interruption, which needs none.
    bytes: Vec<u8>,
    mode: u32,
    /// The version that was compared. `None` means that there was none.
    former: Option<FormerVersion>,
}

/// Metadata of a file that is replaced. The inode is none of it: on an overlay file system the
/// second name may give the file another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FormerVersion {
    size: u64,
    modified: (i64, i64),
    uid: u32,
    gid: u32,
}

/// One step; each can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallStep {
    /// Writes the next version of a file beside it.
    Write(usize),
    /// Gives the former version of a file a second name.
    Keep(usize),
    /// Makes names survive a power cut.
    Sync,
    /// Replaces the journal by one with this state.
    Journal(ApplyState),
    /// Puts the next version of a file in its place, or removes the file.
    Replace(usize),
    /// Puts the former version of a file back.
    Restore(usize),
    /// Removes the journal, so that no pass reads it.
    Forget,
    /// Removes what lies beside a file.
    Clean(usize),
}

impl Installation {
    /// Prepares the installation of `staged`; nothing is written.
    ///
    /// # Errors
    /// A sentence: the place of a file cannot be found.
    pub fn new(staged: &StagedSet) -> Result<Installation, String> {
        let folder = staged.folder.clone();
        let mut files = Vec::new();
        for file in &staged.files {
            files.push(InstalledFile::new(&folder, &file.path, &file.bytes, file.mode)?);
        }
        for path in &staged.removed {
            files.push(InstalledFile::removed(&folder, path)?);
        }
        Ok(Installation { folder, files })
    }

    /// The installation that was interrupted in `folder`. `None` means that there is none.
    ///
    /// # Errors
    /// A sentence: its journal cannot be read.
    pub fn interrupted(folder: &Path) -> Result<Option<(Installation, ApplyState)>, String> {
        let at = |why: &dyn std::fmt::Display| format!("{}: {why}", folder.join(JOURNAL).display());
        let Some(text) = ApplyJournal::read(folder).map_err(|error| at(&error))? else {
            return Ok(None);
        };
        let journal = ApplyJournal::decode(&text).map_err(|why| at(&why))?;
        let file = |entry: JournalFile| {
            let named = folder.join(&entry.path);
            InstalledFile { entry, named, bytes: Vec::new(), mode: 0, former: None }
        };
        let files = journal.files.into_iter().map(file).collect();
        Ok(Some((Installation { folder: folder.to_owned(), files }, journal.state)))
    }

    /// The places of the files, with links followed, and what happens to each.
    pub fn places(&self) -> impl Iterator<Item = (&JournalFile, bool)> {
        self.files.iter().map(|file| {
            let is_linked = self.folder.join(&file.entry.path) != file.entry.target;
            (&file.entry, is_linked)
        })
    }

    /// Whether the next version of every file is in its place, as the configuration names it: a
    /// link may lead elsewhere by now.
    pub fn is_in_place(&self) -> bool {
        self.files
            .iter()
            .all(|file| digest_of(&file.named).is_ok_and(|now| now == file.entry.sha256))
    }

    /// The steps that replace all files.
    pub fn install_steps(&self) -> Vec<InstallStep> {
        let all = 0..self.files.len();
        let mut steps: Vec<_> = all.clone().map(InstallStep::Write).collect();
        steps.extend(all.clone().map(InstallStep::Keep));
        // Before the journal names them, the kept versions and the next ones are on the disk.
        steps.extend([InstallStep::Sync, InstallStep::Journal(ApplyState::Replacing)]);
        steps.extend(all.map(InstallStep::Replace));
        steps.extend([InstallStep::Sync, InstallStep::Journal(ApplyState::Replaced)]);
        steps
    }

    /// The steps that put the former versions of the first `replaced` files back.
    pub fn restore_steps(&self, replaced: usize) -> Vec<InstallStep> {
        let all = 0..self.files.len();
        // First the journal: from here on passes read the kept versions again.
        let mut steps = vec![InstallStep::Journal(ApplyState::Replacing)];
        steps.extend((0..replaced).map(InstallStep::Restore));
        steps.extend([InstallStep::Sync, InstallStep::Forget]);
        // Last, since the journal refers to them.
        steps.extend(all.map(InstallStep::Clean));
        steps
    }

    /// The steps that put every former version back.
    pub fn restore_all_steps(&self) -> Vec<InstallStep> {
        self.restore_steps(self.files.len())
    }

    /// The steps that end a complete installation.
    pub fn finish_steps(&self) -> Vec<InstallStep> {
        // The journal last: it says to the next run what there is to clean.
        (0..self.files.len())
            .map(InstallStep::Clean)
            .chain([InstallStep::Sync, InstallStep::Forget])
            .collect()
    }

    /// Carries out `steps` in order.
    ///
    /// # Errors
    /// A sentence about the first step that failed.
    pub fn run(&self, steps: &[InstallStep]) -> Result<(), String> {
        steps.iter().try_for_each(|step| self.perform(*step))
    }

    /// Replaces all files. If a step fails, what was done is taken back.
    ///
    /// # Errors
    /// A sentence about the step that failed, and whether the files are as before.
    pub fn install(&self) -> Result<(), String> {
        let steps = self.install_steps();
        let journal = InstallStep::Journal(ApplyState::Replacing);
        let journal = steps.iter().position(|step| *step == journal).unwrap_or(steps.len());
        let (prepare, replace) = steps.split_at((journal + 1).min(steps.len()));
        if let Err(why) = self.run(prepare) {
            // No file has changed. The journal goes before the versions that it names.
            let mut clean = vec![InstallStep::Forget];
            clean.extend((0..self.files.len()).map(InstallStep::Clean));
            let _ = self.run(&clean);
            return Err(format!("{why}; no file was changed"));
        }
        let mut replaced = 0;
        for step in replace {
            if let Err(why) = self.perform(*step) {
                // A file that is not replaced yet may have another process' version by now.
                return Err(format!("{why}; {}", self.restore_first(replaced)));
            }
            if let InstallStep::Replace(at) = step {
                replaced = at + 1;
            }
        }
        Ok(())
    }

    /// Puts the former versions back, and returns a sentence that says whether they are there.
    pub fn restore(&self) -> String {
        self.restore_first(self.files.len())
    }

    /// A sentence about files that another process has saved meanwhile. They stay, and their former
    /// versions stay beside them. `None` means that there is no such file.
    pub fn foreign(&self, replaced: usize) -> Option<String> {
        let foreign =
            self.files[..replaced].iter().filter(|file| file.is_foreign().unwrap_or(true));
        let names: Vec<_> = foreign.map(|file| file.entry.path.display().to_string()).collect();
        let kept = "another process has saved it meanwhile: its version stays, and the former one \
                    is kept as .NAME.sidegate-former beside it";
        (!names.is_empty()).then(|| format!("{}: {kept}", names.join(", ")))
    }

    fn restore_first(&self, replaced: usize) -> String {
        let foreign = self.foreign(replaced);
        match self.run(&self.restore_steps(replaced)) {
            Ok(()) => match foreign {
                Some(foreign) => format!("the other files are as they were before; {foreign}"),
                None => "the files are as they were before".into(),
            },
            Err(why) => format!(
                "the former files cannot be put back ({why}): they are kept beside the files as \
                 .NAME.sidegate-before; `sidegate apply --recover` tries again"
            ),
        }
    }

    fn perform(&self, step: InstallStep) -> Result<(), String> {
        let of = |at: usize, done: io::Result<()>| {
            done.map_err(|error| format!("{}: {error}", self.files[at].entry.target.display()))
        };
        match step {
            InstallStep::Write(at) => of(at, self.files[at].write()),
            InstallStep::Keep(at) => of(at, self.files[at].keep()),
            InstallStep::Replace(at) => of(at, self.files[at].replace()),
            InstallStep::Restore(at) => of(at, self.files[at].restore()),
            InstallStep::Clean(at) => of(at, self.files[at].clean()),
            InstallStep::Sync => self.sync(),
            InstallStep::Journal(state) => self.write_journal(state),
            InstallStep::Forget => {
                let path = self.folder.join(JOURNAL);
                gone(fs::remove_file(&path))
                    .and_then(|()| sync_folder(&self.folder))
                    .map_err(|error| format!("{}: {error}", path.display()))
            }
        }
    }

    fn sync(&self) -> Result<(), String> {
        let mut folders: Vec<_> =
            self.files.iter().filter_map(|file| file.entry.target.parent()).collect();
        folders.sort();
        folders.dedup();
        let sync = |folder: &Path| {
            sync_folder(folder).map_err(|error| format!("{}: {error}", folder.display()))
        };
        folders.into_iter().try_for_each(sync)
    }

    /// Replaces the journal as a whole. Users who may list the folder may read it.
    fn write_journal(&self, state: ApplyState) -> Result<(), String> {
        let entries = self.files.iter().map(|file| file.entry.clone()).collect();
        let text = ApplyJournal::new(state, entries).encode();
        let path = self.folder.join(JOURNAL);
        // On a full disk the files are put back under the journal that is there.
        if ApplyJournal::read(&self.folder).is_ok_and(|now| now.as_deref() == Some(&*text)) {
            return Ok(());
        }
        let write = || {
            let folder = fs::metadata(&self.folder)?;
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
            file.write_all(&text)?;
            // An agent that could not read it would take the files for broken.
            let mode = 0o600 | folder.mode() & 0o044;
            file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            // Without the right to, the journal keeps the owner of this process.
            let _ = fchown(file.as_file(), Some(folder.uid()), Some(folder.gid()));
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|failed| failed.error)?;
            sync_folder(&self.folder)
        };
        write().map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl InstalledFile {
    fn new(folder: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<Self, String> {
        let named = folder.join(path);
        let (target, former) = place(&named).map_err(|error| at(&named, &error))?;
        let change = if former.is_some() { FileChange::Replaced } else { FileChange::Added };
        let sha256 = Some(digest(bytes));
        let entry = JournalFile { path: path.to_owned(), target, change, sha256 };
        Ok(InstalledFile { entry, named, bytes: bytes.to_owned(), mode, former })
    }

    fn removed(folder: &Path, path: &Path) -> Result<Self, String> {
        let target = folder.join(path);
        // The link itself is removed, and not the file that it leads to.
        let former = fs::symlink_metadata(&target).map_err(|error| at(&target, &error))?;
        let former = Some(FormerVersion::of(&former));
        let change = FileChange::Removed;
        let entry = JournalFile { path: path.to_owned(), target, change, sha256: None };
        Ok(InstalledFile { entry, named: folder.join(path), bytes: Vec::new(), mode: 0, former })
    }

    fn write(&self) -> io::Result<()> {
        if self.entry.change == FileChange::Removed {
            return Ok(());
        }
        let path = self.entry.next();
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        // One of an earlier run that was killed.
        gone(fs::remove_file(&path))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&self.bytes)?;
        let own = file.metadata()?;
        match self.former {
            Some(former) if (former.uid, former.gid) != (own.uid(), own.gid()) => {
                fchown(&file, Some(former.uid), Some(former.gid)).map_err(|error| {
                    let (uid, gid) = (former.uid, former.gid);
                    io::Error::new(
                        error.kind(),
                        format!("its owner {uid}:{gid} cannot be kept: {error}"),
                    )
                })?;
            }
            Some(_) => {}
            None => {
                // An agent without root's rights could not read a file of root's.
                if let Some(beside) = Ownership::of_new(&self.entry.target, false) {
                    let _ = fchown(&file, Some(beside.uid), Some(beside.gid));
                }
            }
        }
        // Behind the change of owner, which may clear bits (chown(2)).
        file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        if self.former.is_some() {
            // Behind the mode, whose bits of the group are the mask of an ACL (acl(5)).
            copy_attributes(&self.entry.target, &file)?;
        }
        file.sync_all()
    }

    fn keep(&self) -> io::Result<()> {
        if self.former.is_none() {
            return Ok(());
        }
        let kept = self.entry.former();
        gone(fs::remove_file(&kept))?;
        self.check_former()?;
        link_or_copy(&self.entry.target, &kept)
    }

    /// Checks that the file is still the version that was compared.
    fn check_former(&self) -> io::Result<()> {
        let now = match fs::symlink_metadata(&self.entry.target) {
            Ok(found) => Some(FormerVersion::of(&found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // A folder of links may be swapped as a whole, as orchestrators do.
        let leads = |target: PathBuf| target == self.entry.target;
        let is_moved = self.entry.change == FileChange::Replaced
            && !fs::canonicalize(&self.named).is_ok_and(leads);
        match now == self.former && !is_moved {
            true => Ok(()),
            false => Err(io::Error::other("it was changed meanwhile")),
        }
    }

    fn replace(&self) -> io::Result<()> {
        self.check_former()?;
        match self.entry.change {
            FileChange::Removed => fs::remove_file(&self.entry.target),
            FileChange::Added | FileChange::Replaced => {
                fs::rename(self.entry.next(), &self.entry.target)
            }
        }
    }

    /// Puts the former version back by a link, so that the kept one stays until the journal is
    /// gone: a pass may be reading it.
    fn restore(&self) -> io::Result<()> {
        if self.is_foreign()? {
            return self.set_aside();
        }
        if self.entry.change == FileChange::Added {
            return gone(fs::remove_file(&self.entry.target));
        }
        let aside = self.entry.next();
        gone(fs::remove_file(&aside))?;
        link_or_copy(&self.entry.former(), &aside)?;
        // If both names lead to one file already, this leaves both (rename(2)).
        fs::rename(&aside, &self.entry.target)
    }

    /// Whether the file is of neither version: another process has saved it. Such a save counts as
    /// any other, and is not overwritten.
    fn is_foreign(&self) -> io::Result<bool> {
        let Some(now) = digest_of(&self.entry.target)? else { return Ok(false) };
        let is_next = self.entry.sha256.as_ref() == Some(&now);
        Ok(!is_next && digest_of(&self.entry.former())?.as_ref() != Some(&now))
    }

    /// Gives the former version a third name, which no later run removes.
    fn set_aside(&self) -> io::Result<()> {
        if self.entry.change == FileChange::Added {
            return Ok(());
        }
        let aside = self.entry.set_aside();
        gone(fs::remove_file(&aside))?;
        link_or_copy(&self.entry.former(), &aside)
    }

    fn clean(&self) -> io::Result<()> {
        gone(fs::remove_file(self.entry.next()))?;
        gone(fs::remove_file(self.entry.former()))
    }
}

impl FormerVersion {
    fn of(found: &fs::Metadata) -> FormerVersion {
        FormerVersion {
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            uid: found.uid(),
            gid: found.gid(),
        }
    }
}

/// The file at `named` with links followed, and its version. `None` means that there is no file.
fn place(named: &Path) -> io::Result<(PathBuf, Option<FormerVersion>)> {
    match fs::canonicalize(named) {
        Ok(target) => {
            let found = fs::symlink_metadata(&target)?;
            if !found.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            Ok((target, Some(FormerVersion::of(&found))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(named).is_ok() {
                return Err(io::Error::other("it is a link that leads to no file"));
            }
            let folder = named.parent().unwrap_or(Path::new("/"));
            // A missing folder is made by the step that writes the file.
            let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
            Ok((real.join(named.file_name().unwrap_or_default()), None))
        }
        Err(error) => Err(error),
    }
}

/// Gives `from` the second name `to`, or copies it where links cannot be made: some file systems
/// have none, and users may not link to files of others (`protected_hardlinks`, proc_sys_fs(5)).
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let found = fs::metadata(from)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (found.uid(), found.gid()) {
        fchown(&file, Some(found.uid()), Some(found.gid()))?;
    }
    file.set_permissions(found.permissions())?;
    copy_attributes(from, &file)?;
    file.sync_all()
}

/// `done`, except that an absent file is no error.
fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The digest of the file at `path`. `None` means that there is none.
fn digest_of(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(digest(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    use sidegate::control::config::source::Files;
    use sidegate::control::config::{LoadOptions, load_with};

    const CONFIG: &str = "schema = 1\nadmin.socket = \"off\"\nmetrics.listen = \"off\"\n\
        [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"\ntls = false\n\
        [[route]]\nname = \"r\"\nhost = \"*\"\npath = \"/\"\nbackend = \"http://127.0.0.1:9\"\n\
        policy = ";
    const POLICY: &str = "schema = 1\nclient.allow = [";

    /// The former set: policies `one` and `two`. The next one: a changed `one`, no `two`, and a new
    /// policy `more/three` with the route.
    fn write_former(folder: &Path) {
        fs::create_dir(folder.join("policies")).unwrap();
        fs::write(folder.join("sidegate.toml"), format!("{CONFIG}\"two\"\n")).unwrap();
        for name in ["one", "two"] {
            let policy = format!("{POLICY}\"192.0.2.1\"]\n");
            fs::write(folder.join(format!("policies/{name}.toml")), policy).unwrap();
        }
    }

    fn staged(folder: &Path) -> StagedSet {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("policies")).unwrap();
        fs::write(copy.path().join("sidegate.toml"), format!("{CONFIG}\"three\"\n")).unwrap();
        for name in ["one", "three"] {
            let policy = format!("{POLICY}\"198.51.100.1\"]\n");
            fs::write(copy.path().join(format!("policies/{name}.toml")), policy).unwrap();
        }
        let paths = [copy.path().to_owned()];
        StagedSet::read(&folder.join("sidegate.toml"), &paths, false).unwrap()
    }

    /// The version that an agent would read: the route's policy, and each policy's clients.
    fn in_force(folder: &Path) -> &'static str {
        let config = folder.join("sidegate.toml");
        let loaded = load_with(&mut Files::new(), &config, LoadOptions::default()).unwrap();
        let mut told = loaded.settings.routes[0].policy.to_string();
        for page in &loaded.policies {
            let lists = page.policy.allow.lists();
            let entries = lists.iter().flat_map(|list| list.entries());
            let entries: Vec<_> = entries.map(|(entry, _)| entry.to_string()).collect();
            told.push_str(&format!(" {}={}", page.name, entries.join(",")));
        }
        match &*told {
            "two one=192.0.2.1 two=192.0.2.1" => "former",
            "three one=198.51.100.1 three=198.51.100.1" => "next",
            mixture => panic!("neither of the two versions is in force: {mixture}"),
        }
    }

    fn with_former(test: impl Fn(&Path, &Installation)) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("etc");
        fs::create_dir(&folder).unwrap();
        write_former(&folder);
        test(&folder, &Installation::new(&staged(&folder)).unwrap());
    }

    /// What the next run does about an interruption.
    fn recover(folder: &Path) {
        let Some((found, state)) = Installation::interrupted(folder).unwrap() else { return };
        match state {
            ApplyState::Replacing => found.run(&found.restore_all_steps()).unwrap(),
            ApplyState::Replaced => found.run(&found.finish_steps()).unwrap(),
        }
        let left = crate::cli::staged::hidden_files(folder);
        assert_eq!(left, [""; 0], "nothing is left beside the files");
    }

    #[test]
    fn killed_at_any_step_one_whole_version_is_in_force() {
        for steps in 0..99 {
            let ended = std::cell::Cell::new(false);
            with_former(|folder, installation| {
                let all = installation.install_steps();
                let done = &all[..steps.min(all.len())];
                installation.run(done).unwrap();
                let is_next = done.contains(&InstallStep::Journal(ApplyState::Replaced));
                let version = if is_next { "next" } else { "former" };
                assert_eq!(in_force(folder), version, "after {done:?}");
                recover(folder);
                assert_eq!(in_force(folder), version, "recovered after {done:?}");
                ended.set(steps >= all.len());
            });
            if ended.get() {
                return;
            }
        }
        panic!("an installation has fewer steps");
    }

    #[test]
    fn killed_while_it_is_taken_back_the_former_version_is_in_force() {
        with_former(|_, installation| {
            let (all, back) = (installation.install_steps(), installation.restore_steps(4));
            for (done, undone) in
                (0..=all.len()).flat_map(|a| (1..=back.len()).map(move |b| (a, b)))
            {
                // Only from the journal on is anything taken back.
                if !all[..done].contains(&InstallStep::Journal(ApplyState::Replacing))
                    || done % 3 == 1
                {
                    continue;
                }
                with_former(|folder, installation| {
                    installation.run(&all[..done]).unwrap();
                    installation.run(&back[..undone]).unwrap();
                    assert_eq!(in_force(folder), "former", "{done} steps, {undone} back");
                    recover(folder);
                    assert_eq!(in_force(folder), "former");
                });
            }
        });
    }

    #[test]
    fn killed_while_it_is_finished_the_next_version_is_in_force() {
        with_former(|_, installation| {
            for done in 0..=installation.finish_steps().len() {
                with_former(|folder, installation| {
                    installation.install().unwrap();
                    installation.run(&installation.finish_steps()[..done]).unwrap();
                    assert_eq!(in_force(folder), "next");
                    recover(folder);
                    assert_eq!(in_force(folder), "next");
                });
            }
        });
    }

    #[test]
    fn modes_and_links_are_kept() {
        with_former(|folder, _| {
            let real = folder.join("real.toml");
            let policy = folder.join("policies/one.toml");
            fs::rename(&policy, &real).unwrap();
            symlink(&real, &policy).unwrap();
            fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
            let installation = Installation::new(&staged(folder)).unwrap();
            let linked: Vec<_> = installation.places().map(|(_, is_linked)| is_linked).collect();
            assert_eq!(linked.iter().filter(|is_linked| **is_linked).count(), 1);
            installation.install().unwrap();
            assert_eq!(fs::read_link(&policy).unwrap(), real);
            assert!(fs::read_to_string(&real).unwrap().contains("198.51.100.1"));
            assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
            assert!(installation.restore().contains("as they were before"));
            assert!(fs::read_to_string(&real).unwrap().contains("192.0.2.1"));
            assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
        });
    }

    #[test]
    fn extended_attributes_are_kept() {
        with_former(|folder, _| {
            let policy = folder.join("policies/one.toml");
            let flags = rustix::fs::XattrFlags::empty();
            if rustix::fs::setxattr(&policy, "user.owner", b"acme", flags).is_err() {
                return; // A file system without extended attributes.
            }
            let read = || {
                let mut value = [0; 16];
                let length = rustix::fs::getxattr(&policy, "user.owner", &mut value[..]);
                length.map(|length| value[..length].to_vec())
            };
            let installation = Installation::new(&staged(folder)).unwrap();
            installation.install().unwrap();
            assert!(fs::read_to_string(&policy).unwrap().contains("198.51.100.1"));
            assert_eq!(read().unwrap(), b"acme");
            assert!(installation.restore().contains("as they were before"));
            assert_eq!(read().unwrap(), b"acme");
        });
    }

    #[test]
    fn folder_of_links_that_is_swapped_meanwhile_is_left_alone() {
        with_former(|folder, _| {
            // As a ConfigMap is mounted: a link to the folder of a version, and a swap of it.
            let (policies, data) = (folder.join("policies"), folder.join("..data"));
            for version in ["v1", "v2"] {
                let copy = folder.join(version);
                fs::create_dir(&copy).unwrap();
                for name in ["one.toml", "two.toml"] {
                    fs::copy(policies.join(name), copy.join(name)).unwrap();
                }
            }
            fs::remove_dir_all(&policies).unwrap();
            symlink("v1", &data).unwrap();
            symlink("..data", &policies).unwrap();
            let installation = Installation::new(&staged(folder)).unwrap();
            symlink("v2", folder.join("..next")).unwrap();
            fs::rename(folder.join("..next"), &data).unwrap();
            let fault = installation.install().unwrap_err();
            assert!(fault.contains("one.toml: it was changed meanwhile"), "{fault}");
            assert_eq!(in_force(folder), "former");
            let again = Installation::new(&staged(folder)).unwrap();
            again.install().unwrap();
            assert_eq!(in_force(folder), "next");
            assert!(again.is_in_place() && folder.join("v2/one.toml").is_file());
            // The agent would read another version now, so that this one isn't confirmed by it.
            symlink("v1", folder.join("..next")).unwrap();
            fs::rename(folder.join("..next"), &data).unwrap();
            assert!(!again.is_in_place());
        });
    }

    #[test]
    fn failed_write_changes_nothing() {
        with_former(|folder, installation| {
            let blocked = installation.files[1].entry.next();
            fs::create_dir(&blocked).unwrap();
            let fault = installation.install().unwrap_err();
            assert!(fault.contains("no file was changed"), "{fault}");
            fs::remove_dir(&blocked).unwrap();
            assert_eq!(crate::cli::staged::hidden_files(folder), [""; 0]);
            assert_eq!(in_force(folder), "former");
        });
    }

    #[test]
    fn version_of_another_process_is_not_overwritten() {
        with_former(|folder, installation| {
            let policy = folder.join("policies/two.toml");
            fs::write(&policy, format!("{POLICY}\"203.0.113.1\"]\n")).unwrap();
            let fault = installation.install().unwrap_err();
            assert!(fault.contains("two.toml: it was changed meanwhile"), "{fault}");
            assert!(fs::read_to_string(&policy).unwrap().contains("203.0.113.1"));
            assert!(fs::read_to_string(folder.join("sidegate.toml")).unwrap().contains("two"));
            assert_eq!(crate::cli::staged::hidden_files(folder), [""; 0]);
        });
        with_former(|folder, installation| {
            let steps = installation.install_steps();
            installation.run(&steps[..steps.len() - 1]).unwrap();
            let policy = folder.join("policies/one.toml");
            fs::write(&policy, "another's").unwrap();
            assert_eq!(in_force(folder), "former");
            let said = installation.restore();
            assert!(said.contains("policies/one.toml: another process has saved it"), "{said}");
            assert_eq!(fs::read_to_string(&policy).unwrap(), "another's");
            let kept = fs::read_to_string(folder.join("policies/.one.toml.sidegate-former"));
            assert!(kept.unwrap().contains("192.0.2.1"));
            assert!(fs::read_to_string(folder.join("sidegate.toml")).unwrap().contains("two"));
            assert!(Installation::interrupted(folder).unwrap().is_none(), "the save counts now");
            assert!(folder.join("policies/two.toml").exists());
        });
    }

    #[test]
    fn damaged_journal_leaves_no_version_in_force() {
        with_former(|folder, installation| {
            let steps = installation.install_steps();
            installation.run(&steps[..steps.len() - 1]).unwrap();
            fs::write(folder.join(JOURNAL), "{").unwrap();
            let mut files = Files::new();
            let config = folder.join("sidegate.toml");
            let errors = load_with(&mut files, &config, LoadOptions::default()).unwrap_err();
            assert!(errors[0].message.contains("is not a journal"), "{}", errors[0].message);
            assert!(Installation::interrupted(folder).is_err());
        });
    }
}
