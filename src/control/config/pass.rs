//! One pass over the files: its inputs, and the values that it returns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::list::ListFiles;
use crate::control::config::page::{Finding, error};
use crate::control::config::policy_page::{Feed, PolicyPage};
use crate::control::config::settings::Settings;
use crate::control::config::source::{Fault, Files};
use crate::control::systemd::sockets::Sockets;

/// The inputs of a pass, besides the files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass<'p> {
    /// The sockets from systemd. `None` means that no agent is to run, and every named socket is
    /// assumed to exist.
    pub passed: Option<&'p Sockets>,
    /// The policy that is read from its candidate's file, as if promoted. `None` means that no
    /// policy is.
    pub promoted: Option<&'p str>,
    /// List files of an earlier pass. Unchanged ones are not parsed again. `None` means that all
    /// are parsed.
    pub known: Option<&'p ListFiles>,
}

/// State of one pass over the files.
#[derive(Debug)]
pub(super) struct Reading<'f> {
    pub files: &'f mut Files,
    /// Folder of `sidegate.toml`, to which relative paths refer.
    pub folder: &'f Path,
    pub now: Timestamp,
    /// The sockets from systemd. `None` means not known, so that every named socket is assumed to
    /// exist.
    pub passed: Option<&'f Sockets>,
    /// Entries of the list files of an earlier pass.
    pub known: &'f ListFiles,
    /// Entries of the list files read so far.
    pub lists: ListFiles,
    /// Whether `sidegate.toml` has a syntax error, so that keys that seem missing may be in an
    /// unreadable part.
    pub torn: bool,
}

impl Reading<'_> {
    /// The path that `text` in `sidegate.toml` refers to.
    pub fn path(&self, text: &str) -> Result<PathBuf, Finding> {
        if text.is_empty() {
            return Err(error("an empty path"));
        }
        Ok(self.folder.join(text))
    }
}

/// The values of files without an error.
#[derive(Debug)]
pub struct Loaded {
    /// The values of `sidegate.toml`.
    pub settings: Settings,
    /// `policies/baseline.toml`, whose denials come before every policy. `None` means that there is
    /// no such file.
    pub baseline: Option<PolicyPage>,
    /// Every policy, used or not, by name.
    pub policies: Vec<PolicyPage>,
    /// `policies/NAME.shadow.toml`, under the names of the policies that they may replace.
    pub candidates: Vec<PolicyPage>,
    /// Entries of the policies' list files, for the next pass.
    pub lists: ListFiles,
    /// Findings that are not errors, for an operator to look at.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// The lists that policies read from files, each with its policy.
    pub fn feeds(&self) -> impl Iterator<Item = (&Arc<str>, &Feed)> {
        let pages = self.policies.iter().chain(&self.baseline);
        pages.flat_map(|page| page.feeds.iter().map(|feed| (&page.name, feed)))
    }
}

/// The error that `path` cannot be read because of `fault`.
pub(super) fn about(path: &str, fault: &Fault) -> Finding {
    error(format!("{path} {fault}")).perhaps(fault.remedy())
}
