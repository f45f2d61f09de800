//! One pass over the files: the facts that it starts from, and the values that it ends with.

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

/// What a pass over the files knows beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass<'p> {
    /// What systemd passed; `None` where no agent is to run, and every socket is taken for granted.
    pub passed: Option<&'p Sockets>,
    /// The policy whose candidate is read in its place, as if it had been promoted.
    pub promoted: Option<&'p str>,
    /// The list files of an earlier pass: those that say the same are not read into entries again.
    pub known: Option<&'p ListFiles>,
}

/// One pass over the files.
#[derive(Debug)]
pub(super) struct Reading<'f> {
    pub files: &'f mut Files,
    /// Where `sidegate.toml` is, and relative paths begin.
    pub folder: &'f Path,
    pub now: Timestamp,
    /// What systemd passed, where that can be known.
    pub passed: Option<&'f Sockets>,
    /// What list files said before.
    pub known: &'f ListFiles,
    /// What those say that have been read.
    pub lists: ListFiles,
    /// Whether `sidegate.toml` has a syntax error, so that what it lacks may be there.
    pub torn: bool,
}

impl Reading<'_> {
    /// The path that `text` means in `sidegate.toml`.
    pub fn path(&self, text: &str) -> Result<PathBuf, Finding> {
        if text.is_empty() {
            return Err(error("an empty path"));
        }
        Ok(self.folder.join(text))
    }
}

/// Values without an error.
#[derive(Debug)]
pub struct Loaded {
    /// What the operator's file says.
    pub settings: Settings,
    /// `policies/baseline.toml`, whose denials come before every policy.
    pub baseline: Option<PolicyPage>,
    /// Every policy, used or not, by name.
    pub policies: Vec<PolicyPage>,
    /// `policies/NAME.shadow.toml`, under the names of the policies that they may replace.
    pub candidates: Vec<PolicyPage>,
    /// What their list files say, for the next pass.
    pub lists: ListFiles,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// The lists that policies read from files, each with its policy.
    pub fn feeds(&self) -> impl Iterator<Item = (&Arc<str>, &Feed)> {
        let pages = self.policies.iter().chain(&self.baseline);
        pages.flat_map(|page| page.feeds.iter().map(|feed| (&page.name, feed)))
    }
}

/// What `path` cannot be read for.
pub(super) fn about(path: &str, fault: &Fault) -> Finding {
    error(format!("{path} {fault}")).perhaps(fault.remedy())
}
