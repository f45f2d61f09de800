//! Staged files: copies of the configuration that replace its files once they are applied.
//!
//! Reads the copies and the names of the real files. Writes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::cli::live_files::{self, CopiedVersion, DatedBytes};
use crate::cli::siblings::Ownership;
use sidegate::admin::wire::{DiffAnswer, StagedFile, StagedFiles};
use sidegate::control::config::apply_journal::{ApplyJournal, JOURNAL};
use sidegate::control::config::overlay::{Overlay, OverlayText};
use sidegate::control::config::source::{Files, MAX_LIST_BYTES};
use sidegate::control::config::{self, POLICIES};

/// Permission bits of a new file that no other lies beside.
const NEW_MODE: u32 = 0o640;

/// Most files that a search looks at.
const MAX_WALKED_FILES: usize = 20_000;

/// A staged set of files.
#[derive(Debug, PartialEq, Eq)]
pub struct StagedSet {
    /// Folder of the `sidegate.toml` that runs, absolute.
    pub folder: PathBuf,
    /// Files whose contents differ, in the order of their paths.
    pub files: Vec<StagedContent>,
    /// Policies that the copy lacks, relative to the folder.
    pub removed: Vec<PathBuf>,
    /// Differing files that are never held, taken from the copy or not.
    pub live: Vec<LiveCopy>,
}

/// A copy of a file that is never held, as a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveCopy {
    /// The path, relative to the folder.
    pub path: PathBuf,
    /// Whether the set has it: it is newer than the file, or was asked for.
    pub is_taken: bool,
    /// What the copy has in place of the file.
    pub version: CopiedVersion,
}

impl LiveCopy {
    /// A line for people.
    pub fn line(&self) -> String {
        let (path, what) = (self.path.display(), &self.version.what);
        match (self.is_taken, self.version.is_newer) {
            (true, true) => format!("{path}: {what}"),
            (true, false) => format!("{path}, an older version: {what}"),
            (false, _) => {
                format!("{path} stays: the copy is not newer ({what}); --with-live takes it")
            }
        }
    }
}

/// A file with its staged contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedContent {
    /// The path, relative to the folder.
    pub path: PathBuf,
    /// The contents of the copy.
    pub bytes: Vec<u8>,
    /// Permission bits that the file will have: its own, or those of files beside it if it is new.
    pub mode: u32,
    /// Whether there is no such file yet.
    pub is_new: bool,
    /// The path of the copy.
    pub copy: PathBuf,
    /// Whether the file is never held, and was not named by itself.
    is_live: bool,
}

impl StagedSet {
    /// Reads `paths` as copies of files of `config`: a folder is a copy of its folder, and a file a
    /// copy of the file with its name. Of a folder, files that are never held are taken if the copy
    /// is newer, or `with_live` asks for them.
    ///
    /// # Errors
    /// A sentence: a path cannot be read, or it is not clear which file it is a copy of.
    pub fn read(config: &Path, paths: &[PathBuf], with_live: bool) -> Result<StagedSet, String> {
        let real = RealFolder::of(config)?;
        real.refuse_interruption()?;
        let (mut copies, mut removed) = (Vec::new(), Vec::new());
        for path in paths {
            if path.is_dir() {
                real.refuse_itself(path)?;
                // Only a whole copy can say that a policy is to go.
                if path.join(&real.config).is_file() {
                    copies.extend(real.copies_of_all(path)?);
                    removed.extend(real.policies_without(path)?);
                } else {
                    copies.extend(real.copies_of_some(path)?);
                }
            } else {
                copies.push(real.copy_of(path)?);
            }
        }
        copies.sort_by(|one, other| one.path.cmp(&other.path));
        if let Some(two) = copies.windows(2).find(|two| two[0].path == two[1].path) {
            let [one, other] = [two[0].copy.display(), two[1].copy.display()];
            let path = two[0].path.display();
            return Err(format!("{one} and {other} are both copies of {path}"));
        }
        let files = copies.iter().filter_map(|copy| real.content(copy).transpose());
        let files: Vec<StagedContent> = files.collect::<Result<_, _>>()?;
        let live = real.live_copies(&files, with_live);
        let stays =
            |file: &StagedContent| live.iter().any(|copy| copy.path == file.path && !copy.is_taken);
        let files = files.into_iter().filter(|file| !stays(file)).collect();
        Ok(StagedSet { folder: real.folder, files, removed, live })
    }

    /// `text` with the paths of the copies in place of those of the files.
    pub fn in_copy(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for file in &self.files {
            let real = self.folder.join(&file.path).display().to_string();
            text = text.replace(&real, &file.copy.display().to_string());
        }
        text
    }

    /// Makes findings about staged files name the copies.
    pub fn name_copies(&self, answer: &mut DiffAnswer) {
        let found = match answer {
            DiffAnswer::Unchanged(changes) | DiffAnswer::Changed(changes) => {
                changes.diagnostics.iter_mut().chain(&mut changes.held).collect::<Vec<_>>()
            }
            DiffAnswer::Rejected { diagnostics, .. } => diagnostics.iter_mut().collect(),
        };
        for one in found {
            (one.file, one.text) = (self.in_copy(&one.file), self.in_copy(&one.text));
        }
    }

    /// Whether nothing differs from the real files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.removed.is_empty()
    }

    /// The set as a pass reads it in place of the real files.
    pub fn to_overlay(&self) -> Overlay {
        let mut overlay = Overlay::default();
        for file in &self.files {
            let path = self.folder.join(&file.path);
            let (bytes, real) = (file.bytes.clone().into(), Some(path.clone()));
            overlay.insert(path, OverlayText { bytes, modified: None, mode: file.mode, real });
        }
        self.removed.iter().for_each(|path| overlay.remove(self.folder.join(path)));
        overlay
    }

    /// The set as a request sends it.
    pub fn to_wire(&self) -> StagedFiles {
        let files = self
            .files
            .iter()
            .map(|file| StagedFile::new(&file.path.to_string_lossy(), file.mode, &file.bytes));
        let removed = self.removed.iter().map(|path| path.to_string_lossy().into_owned());
        StagedFiles { files: files.collect(), removed: removed.collect() }
    }
}

/// The folder of the configuration that runs.
struct RealFolder {
    /// Absolute path of that folder.
    folder: PathBuf,
    /// Name of the `sidegate.toml` in it.
    config: PathBuf,
    /// The files that it reads now.
    files: Files,
}

/// A copy, and the file that it is a copy of.
#[derive(Debug)]
struct FileCopy {
    /// Relative to the real folder.
    path: PathBuf,
    copy: PathBuf,
    /// Whether it was named by itself, and not as a part of a folder.
    is_named: bool,
    /// Whether the copy's configuration reads it as a file that is never held. `None` means that it
    /// reads no such file.
    is_live: Option<bool>,
}

impl RealFolder {
    fn of(config: &Path) -> Result<RealFolder, String> {
        let config = std::path::absolute(config).map_err(|error| at(config, &error))?;
        match (config.parent(), config.file_name()) {
            (Some(folder), Some(name)) => {
                let mut files = Files::for_person();
                // With errors it names fewer files: the copy names the others.
                let _ = config::load(&mut files, &config, None);
                Ok(RealFolder { folder: folder.to_owned(), config: name.into(), files })
            }
            _ => Err(format!("{} is not the path of a file", config.display())),
        }
    }

    fn refuse_itself(&self, path: &Path) -> Result<(), String> {
        let real = |path: &Path| fs::canonicalize(path).ok();
        match real(path).is_some_and(|copy| Some(copy) == real(&self.folder)) {
            true => Err(format!("{} is the configuration itself: name a copy", path.display())),
            false => Ok(()),
        }
    }

    /// Refuses a comparison with files that are of two versions.
    fn refuse_interruption(&self) -> Result<(), String> {
        match ApplyJournal::read(&self.folder) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(format!(
                "`sidegate apply` is under way in {} or was interrupted: `sidegate apply \
                 --recover` puts its files right",
                self.folder.display()
            )),
            Err(error) => Err(at(&self.folder.join(JOURNAL), &error)),
        }
    }

    /// The files of `copy`, the copy of the whole folder, that its configuration reads. Others, as
    /// those of a version control, are left alone.
    ///
    /// # Errors
    /// A link in the copy leads to no file.
    fn copies_of_all(&self, copy: &Path) -> Result<Vec<FileCopy>, String> {
        let copy = std::path::absolute(copy).unwrap_or_else(|_| copy.to_owned());
        let mut files = Files::for_person();
        // Its errors are found again, with the names of the real files.
        let _ = config::load(&mut files, &copy.join(&self.config), None);
        let mut below = Vec::new();
        for path in files.paths() {
            let Ok(own) = path.strip_prefix(&copy) else { continue };
            let is_plain = own.components().all(|part| matches!(part, Component::Normal(_)));
            // A file that the copy lacks is taken from the real folder.
            if is_plain && has_file(&copy, own)? {
                let (path, copy) = (own.to_owned(), path.to_owned());
                let is_live = Some(!files.is_held(&copy));
                below.push(FileCopy { path, copy, is_named: false, is_live });
            }
        }
        Ok(below)
    }

    /// The copies of existing files that are never held, unless they are named by themselves.
    fn live_copies(&self, files: &[StagedContent], with_live: bool) -> Vec<LiveCopy> {
        let live = files.iter().filter(|file| file.is_live && !file.is_new);
        let version = |file: &StagedContent, chains: &[&[u8]]| {
            let real = self.folder.join(&file.path);
            let modified = |path: &Path| fs::metadata(path).and_then(|at| at.modified()).ok();
            // A file that this user may not read is compared with nothing.
            let bytes = fs::read(&real).unwrap_or_default();
            let copied = DatedBytes { bytes: &file.bytes, modified: modified(&file.copy) };
            let own = DatedBytes { bytes: &bytes, modified: modified(&real) };
            live_files::compare(copied, own, chains)
        };
        let is_key = |file: &StagedContent| live_files::is_key(&file.bytes);
        let mut all = Vec::new();
        for file in live.clone().filter(|file| !is_key(file)) {
            let version = version(file, &[]);
            let is_taken = with_live || version.is_newer;
            all.push(LiveCopy { path: file.path.clone(), is_taken, version });
        }
        let stays = |path: &Path| all.iter().any(|one| one.path == path && !one.is_taken);
        let chains: Vec<&[u8]> =
            files.iter().filter(|file| !stays(&file.path)).map(|file| &*file.bytes).collect();
        let keys = live.filter(|file| is_key(file)).map(|file| {
            let version = version(file, &chains);
            let is_taken = with_live || version.is_newer;
            LiveCopy { path: file.path.clone(), is_taken, version }
        });
        let keys: Vec<_> = keys.collect();
        all.extend(keys);
        all
    }

    /// The policies that are loaded now and that `copy` lacks.
    fn policies_without(&self, copy: &Path) -> Result<Vec<PathBuf>, String> {
        let folder = self.folder.join(POLICIES);
        match fs::read_dir(&folder) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&folder, &error)),
        }
        let files = config::policy_files(&self.folder.join(&self.config));
        let own = files.iter().filter_map(|path| path.strip_prefix(&self.folder).ok());
        let mut missing = Vec::new();
        for path in own {
            if !has_file(copy, path)? {
                missing.push(path.to_owned());
            }
        }
        Ok(missing)
    }

    /// The files below `copy`, a copy of a part of the folder.
    fn copies_of_some(&self, copy: &Path) -> Result<Vec<FileCopy>, String> {
        let files = walk(copy)?;
        if files.is_empty() {
            return Err(format!("{}: there is no file to compare", copy.display()));
        }
        // A copy of `policies` alone keeps its name, so that its files find theirs.
        let is_policies = copy.file_name().is_some_and(|name| name == POLICIES);
        files
            .into_iter()
            .map(|file| {
                let own = file.strip_prefix(copy).unwrap_or(&file);
                let path = if is_policies { Path::new(POLICIES).join(own) } else { own.to_owned() };
                match self.is_known(&path) {
                    true => Ok(FileCopy { path, copy: file, is_named: false, is_live: None }),
                    false => Err(self.foreign(&file)),
                }
            })
            .collect()
    }

    /// The file that `copy` is a copy of: the one with the most of its last names.
    fn copy_of(&self, copy: &Path) -> Result<FileCopy, String> {
        let absolute = std::path::absolute(copy).map_err(|error| at(copy, &error))?;
        fs::metadata(&absolute).map_err(|error| at(copy, &error))?;
        let names: Vec<_> = absolute
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let suffix = |from: usize| names[from..].iter().collect::<PathBuf>();
        // The longest ending first: `policies/lists/a.cidr` before `a.cidr`.
        let known = (0..names.len()).map(suffix).find(|path| self.is_known(path));
        let path = match known {
            Some(path) => path,
            None => self.named(copy, names.last().copied().unwrap_or_default().as_ref())?,
        };
        if fs::canonicalize(&absolute).ok() == fs::canonicalize(self.folder.join(&path)).ok() {
            return Err(format!("{} is the file itself: name a copy", copy.display()));
        }
        Ok(FileCopy { path, copy: absolute, is_named: true, is_live: None })
    }

    /// Whether the path leads to a file of the folder, or to a place for a new policy or list.
    fn is_known(&self, path: &Path) -> bool {
        let has_place = path.starts_with(POLICIES) && path != Path::new(POLICIES);
        self.folder.join(path).is_file() || has_place
    }

    /// The only file of the folder with this name.
    fn named(&self, copy: &Path, name: &Path) -> Result<PathBuf, String> {
        let all = walk(&self.folder)?;
        let mut same: Vec<_> = all
            .iter()
            .filter(|path| path.file_name() == Some(name.as_os_str()))
            .filter_map(|path| path.strip_prefix(&self.folder).ok())
            .collect();
        same.sort();
        match &*same {
            [] => Err(self.foreign(copy)),
            [one] => Ok((*one).to_owned()),
            several => {
                let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                Err(format!(
                    "{} may be a copy of {}: name it by its folders as well, as {}",
                    copy.display(),
                    names.join(" or of "),
                    Path::new("COPY").join(several[0]).display()
                ))
            }
        }
    }

    fn foreign(&self, copy: &Path) -> String {
        format!(
            "{} is a copy of no file in {}: a new policy or list has `{POLICIES}/` in its path",
            copy.display(),
            self.folder.display()
        )
    }

    /// The contents of `copy`. `None` means that the real file has the same.
    fn content(&self, copy: &FileCopy) -> Result<Option<StagedContent>, String> {
        let bytes = read(&copy.copy)?;
        let real = self.folder.join(&copy.path);
        let found = match fs::metadata(&real) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(&real, &error)),
        };
        // A file that this user may not read counts as different.
        if found.is_some() && fs::read(&real).is_ok_and(|real| real == bytes) {
            return Ok(None);
        }
        let mode = match &found {
            Some(found) => found.permissions().mode(),
            None => {
                let beside = Ownership::of_new(&real, live_files::is_key(&bytes));
                beside.map_or(NEW_MODE, |beside| beside.mode)
            }
        };
        // The running mark of a list counts, and not that of the copy.
        let is_live = match self.files.is_known(&real) {
            true => !self.files.is_held(&real),
            false => copy.is_live.unwrap_or_default(),
        };
        Ok(Some(StagedContent {
            path: copy.path.clone(),
            bytes,
            mode: mode & 0o7777,
            is_new: found.is_none(),
            copy: copy.copy.clone(),
            is_live: is_live && !copy.is_named,
        }))
    }
}

/// Whether the folder `copy` has the file `path`.
///
/// # Errors
/// A sentence: a link on the way leads to no file, or the place cannot be looked at. A file whose
/// copy is not known is none that is to go.
fn has_file(copy: &Path, path: &Path) -> Result<bool, String> {
    let file = copy.join(path);
    match fs::metadata(&file) {
        Ok(found) if found.is_file() => return Ok(true),
        Ok(_) => return Err(format!("{} is not a regular file", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&file, &error)),
    }
    let parts = (1..=path.components().count()).map(|parts| path.components().take(parts));
    for place in parts.map(|parts| copy.join(parts.collect::<PathBuf>())) {
        let is_link = fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink());
        if is_link && fs::metadata(&place).is_err() {
            return Err(format!(
                "{} is a link that leads to nothing: `cp -rL` copies what links lead to",
                place.display()
            ));
        }
    }
    Ok(false)
}

/// The bytes of a copy, which must be a regular file of a bounded size.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let found = fs::metadata(path).map_err(|error| at(path, &error))?;
    if !found.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    if found.len() > MAX_LIST_BYTES {
        return Err(format!("{} is larger than {} MiB", path.display(), MAX_LIST_BYTES >> 20));
    }
    fs::read(path).map_err(|error| at(path, &error))
}

/// The regular files below `folder`, without hidden ones.
fn walk(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    let mut seen = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        // A link may lead back to a folder above it.
        if !fs::canonicalize(&folder).is_ok_and(|real| seen.insert(real)) {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(|error| at(&folder, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| at(&folder, &error))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => folders.push(path),
                Ok(found) if found.is_file() => files.push(path),
                _ => {}
            }
        }
        if files.len() > MAX_WALKED_FILES {
            return Err(format!("{} has more than {MAX_WALKED_FILES} files", folder.display()));
        }
    }
    files.sort();
    Ok(files)
}

/// The hidden files of the folder and its policies.
#[cfg(test)]
pub fn hidden_files(folder: &Path) -> Vec<String> {
    let folders = [folder.to_owned(), folder.join(POLICIES)];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes each file with its own path as text, or with the text behind ` = `.
    fn write(folder: &Path, files: &[&str]) {
        for file in files {
            let (path, text) = file.split_once(" = ").unwrap_or((file, file));
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    const REAL: [&str; 5] = [
        "etc/sidegate.toml",
        "etc/policies/chat.toml",
        "etc/policies/old.toml",
        "etc/policies/lists/office.cidr",
        "etc/other/office.cidr",
    ];

    /// What `paths` are copies of, `+` for a new file and `-` for a removed one; or the error.
    fn check(files: &[&str], paths: &[&str], expected: Result<&[&str], &str>) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &REAL);
        write(folder.path(), files);
        let paths: Vec<_> = paths.iter().map(|path| folder.path().join(path)).collect();
        let found = StagedSet::read(&folder.path().join("etc/sidegate.toml"), &paths, false);
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                let sign = |file: &StagedContent| if file.is_new { "+" } else { "" };
                let files =
                    found.files.iter().map(|file| format!("{}{}", sign(file), file.path.display()));
                let gone = found.removed.iter().map(|path| format!("-{}", path.display()));
                assert_eq!(files.chain(gone).collect::<Vec<_>>(), expected);
            }
            (Err(fault), Err(expected)) => assert!(fault.contains(expected), "{fault}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn file_is_a_copy_of_the_file_with_its_name() {
        check(&["new/chat.toml"], &["new/chat.toml"], Ok(&["policies/chat.toml"]));
        check(&["new/sidegate.toml"], &["new/sidegate.toml"], Ok(&["sidegate.toml"]));
        let list = "new/policies/lists/office.cidr";
        check(&[list], &[list], Ok(&["policies/lists/office.cidr"]));
        check(&["new/other/office.cidr"], &["new/other/office.cidr"], Ok(&["other/office.cidr"]));
        check(
            &["new/policies/more.toml"],
            &["new/policies/more.toml"],
            Ok(&["+policies/more.toml"]),
        );
        let same = "new/chat.toml = etc/policies/chat.toml";
        check(&[same], &["new/chat.toml"], Ok(&[]));
    }

    #[test]
    fn unclear_copy_is_an_error_that_says_what_to_name() {
        let both = "policies/lists/office.cidr";
        check(&["new/office.cidr"], &["new/office.cidr"], Err(both));
        check(&["new/office.cidr"], &["new/office.cidr"], Err("other/office.cidr"));
        check(&["new/more.toml"], &["new/more.toml"], Err("is a copy of no file"));
        check(&["new/README"], &["new"], Err("is a copy of no file"));
        check(&[], &["new/chat.toml"], Err("No such file"));
        check(&[], &["etc/policies/chat.toml"], Err("is the file itself"));
        check(&[], &["etc"], Err("is the configuration itself"));
        check(&["new/.hidden"], &["new"], Err("no file to compare"));
        let twice = ["a/chat.toml", "b/chat.toml"];
        check(&twice, &twice, Err("both copies of policies/chat.toml"));
    }

    #[test]
    fn folder_without_a_configuration_is_a_part() {
        check(&["new/policies/chat.toml"], &["new"], Ok(&["policies/chat.toml"]));
        check(&["new/policies/chat.toml"], &["new/policies"], Ok(&["policies/chat.toml"]));
    }

    #[test]
    fn folder_with_a_configuration_is_the_whole() {
        let config = "new/sidegate.toml = schema = 1\n[[listener]]\nname = \"a\"\n\
                      listen = \"127.0.0.1:0\"\ntls = true\n[[certificate]]\n\
                      chain = \"certs/a.pem\"\nkey = \"certs/a.key\"\n";
        let policy = "new/policies/chat.toml = schema = 1\n[lists]\noffice = { file = \
                      \"lists/office.cidr\" }\n[client]\nallow = [\"office\"]\n";
        let files = [config, policy, "new/README", "new/certs/a.pem = x", "new/.git/config"];
        let expected =
            ["+certs/a.pem", "policies/chat.toml", "sidegate.toml", "-policies/old.toml"];
        check(&files, &["new"], Ok(&expected));
    }

    #[test]
    fn new_file_has_the_mode_of_files_beside_it_and_others_their_own() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &REAL);
        write(folder.path(), &["new/policies/chat.toml", "new/policies/more.toml"]);
        let mode = |path: &str, mode| {
            fs::set_permissions(folder.path().join(path), fs::Permissions::from_mode(mode))
                .unwrap();
        };
        mode("etc/policies/chat.toml", 0o640);
        mode("new/policies/more.toml", 0o600);
        let paths = [folder.path().join("new")];
        let config = folder.path().join("etc/sidegate.toml");
        let found = StagedSet::read(&config, &paths, false).unwrap();
        let modes: Vec<_> = found.files.iter().map(|file| file.mode).collect();
        assert_eq!(modes, [0o640, 0o640]);
    }

    #[test]
    fn link_that_leads_to_nothing_removes_no_policy() {
        for (link, at) in [("old.toml", "new/policies/old.toml"), ("policies", "new/policies")] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &REAL);
            write(folder.path(), &["new/sidegate.toml"]);
            let place = folder.path().join(at);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(format!("../../nowhere/{link}"), &place).unwrap();
            let config = folder.path().join("etc/sidegate.toml");
            let fault = StagedSet::read(&config, &[folder.path().join("new")], false).unwrap_err();
            assert!(fault.contains(&*place.display().to_string()), "{fault}");
            assert!(fault.contains("`cp -rL`"), "{fault}");
        }
    }
}
