//! One pass over the files: its inputs, and the values that it returns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::list::ListFileCache;
use crate::control::config::policy_settings::{ListFeed, PolicySettings};
use crate::control::config::settings::Settings;
use crate::control::config::socket_paths::SocketPaths;
use crate::control::config::source::{FileError, Files};
use crate::control::config::source_text::{Finding, error};
use crate::control::systemd::sockets::PassedSockets;

/// The inputs of a pass, besides the files.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions<'p> {
    /// The sockets from systemd. `None` means that no agent is to run, and every named socket is
    /// assumed to exist.
    pub passed: Option<&'p PassedSockets>,
    /// The policy that is read from its candidate's file, as if promoted. `None` means that no
    /// policy is.
    pub promoted: Option<&'p str>,
    /// List files of an earlier pass. Unchanged ones are not parsed again. `None` means that all
    /// are parsed.
    pub known: Option<&'p ListFileCache>,
    /// Whether an expired revocation list may be an error, as for `sidegate check`.
    pub rejects_expired_crls: bool,
    /// Whether this is not the serving host, so that keys and some files are absent.
    pub off_host: bool,
    /// The folder that absolute paths in the files are below. `None` means `/`.
    pub root: Option<&'p Path>,
}

/// State of one pass over the files.
#[derive(Debug)]
pub(super) struct LoadContext<'f> {
    pub files: &'f mut Files,
    /// Folder of `sidegate.toml`, to which relative paths refer.
    pub folder: &'f Path,
    pub now: Timestamp,
    /// The sockets from systemd. `None` means not known, so that every named socket is assumed to
    /// exist.
    pub passed: Option<&'f PassedSockets>,
    /// Entries of the list files of an earlier pass.
    pub known: &'f ListFileCache,
    /// Entries of the list files read so far.
    pub lists: ListFileCache,
    /// Findings in files that `sidegate.toml` names, other than policies.
    pub found: Vec<Diagnostic>,
    /// Whether `sidegate.toml` has a syntax error, so that keys that seem missing may be in an
    /// unreadable part.
    pub torn: bool,
    /// Whether an expired revocation list may be an error.
    pub rejects_expired_crls: bool,
    /// Whether keys are not read, and other files of the serving host may be absent.
    pub is_off_host: bool,
    /// Whether a chain was left out, so that the names of all certificates are not known.
    pub lacks_chain: bool,
    /// The folder that absolute paths are below. `None` means `/`.
    pub root: Option<&'f Path>,
    /// The Unix sockets that `sidegate.toml` names.
    pub sockets: SocketPaths,
    /// The lists in files, and whether they are live.
    pub list_marks: ListMarks,
}

/// Whether the lists in files are `live`, by path.
#[derive(Debug, Default)]
pub(super) struct ListMarks(BTreeMap<PathBuf, (bool, Span)>);

impl ListMarks {
    /// Adds a list in the file `path`, named at `place`. Returns the place of an earlier list of
    /// the same file whose mark differs. `None` means that there is none.
    pub fn add(&mut self, path: &Path, is_live: bool, place: Span) -> Option<Span> {
        let (earlier, at) = self.0.entry(path.to_owned()).or_insert((is_live, place));
        (*earlier != is_live).then(|| at.clone())
    }
}

impl<'f> LoadContext<'f> {
    /// A pass over `files` in which nothing has been read yet. It assumes that every socket from
    /// systemd exists, and only warns of expired revocation lists.
    pub fn new(
        files: &'f mut Files,
        folder: &'f Path,
        known: &'f ListFileCache,
        now: Timestamp,
    ) -> LoadContext<'f> {
        LoadContext {
            files,
            folder,
            now,
            passed: None,
            known,
            lists: ListFileCache::default(),
            found: Vec::new(),
            torn: false,
            rejects_expired_crls: false,
            is_off_host: false,
            lacks_chain: false,
            root: None,
            sockets: SocketPaths::default(),
            list_marks: ListMarks::default(),
        }
    }

    /// The path that `text` in `sidegate.toml` refers to.
    pub fn path(&self, text: &str) -> Result<PathBuf, Finding> {
        if text.is_empty() {
            return Err(error("an empty path"));
        }
        Ok(rooted(self.root, self.folder, Path::new(text)))
    }
}

/// The values of files without an error.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The values of `sidegate.toml`.
    pub settings: Settings,
    /// `policies/baseline.toml`, whose denials come before every policy. `None` means that there is
    /// no such file.
    pub baseline: Option<PolicySettings>,
    /// Every policy, used or not, by name.
    pub policies: Vec<PolicySettings>,
    /// `policies/NAME.shadow.toml`, under the names of the policies that they may replace.
    pub candidates: Vec<PolicySettings>,
    /// Entries of the policies' list files, for the next pass.
    pub lists: ListFileCache,
    /// Findings that are not errors, for an operator to look at.
    pub warnings: Vec<Diagnostic>,
}

impl LoadedConfig {
    /// The lists that policies read from files, each with its policy.
    pub fn feeds(&self) -> impl Iterator<Item = (&Arc<str>, &ListFeed)> {
        let pages = self.policies.iter().chain(&self.baseline);
        pages.flat_map(|page| page.feeds.iter().map(|feed| (&page.name, feed)))
    }
}

/// The path that `path` in a file of `folder` refers to, if absolute paths are below `root`.
pub(super) fn rooted(root: Option<&Path>, folder: &Path, path: &Path) -> PathBuf {
    match (root, path.strip_prefix("/")) {
        (Some(root), Ok(below)) => root.join(below),
        _ => folder.join(path),
    }
}

/// The error that `path` cannot be read because of `fault`.
pub(super) fn about(path: &str, fault: &FileError) -> Finding {
    error(format!("{path} {fault}")).with_remedy_if(fault.remedy())
}
