//! Checks of what a pass has found: the files of an order, and an apply that broke off.

use std::path::{Path, PathBuf};

use crate::control::config::apply_journal::ApplyState;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::Files;
use crate::control::reload::pending::names;
use crate::control::reload::request::AcceptedEffects;
use crate::control::reload::task::{ReloadStop, Reloader};

impl Reloader {
    /// Checks that the order `accept` is for `files`.
    ///
    /// # Errors
    /// The files that differ from the shown ones.
    pub(super) fn check_shown(
        &self,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> Result<(), ReloadStop> {
        let differing = self.shown.differing(accept, files, &self.running_files);
        let digest = files.digest();
        let what = match differing {
            Some(paths) if paths.is_empty() => return Ok(()),
            Some(paths) => {
                let folder = self.context.config.parent().unwrap_or(Path::new(""));
                let name = |path: &PathBuf| {
                    path.strip_prefix(folder).unwrap_or(path).display().to_string()
                };
                let all: Vec<_> = paths.iter().map(name).collect();
                let differ = if all.len() == 1 { "1 file differs" } else { "files differ" };
                let count = if all.len() == 1 { String::new() } else { format!("{} ", all.len()) };
                format!("{count}{differ}: {}", names(&all).unwrap_or_default())
            }
            None => format!("their digest is {digest} now"),
        };
        let fault = format!("the files changed since they were shown: {what}");
        let remedy = "look again, with `sidegate diff` or the same command";
        let config = &self.context.config;
        let fault = Diagnostic::for_file(config, fault, Some(remedy.into()));
        Err(ReloadStop::OtherFiles(vec![fault]))
    }

    /// Logs an apply that broke off, as a pass over `files` has found it.
    pub(super) fn report_broken_apply(&mut self, files: &Files) {
        let found = files.apply_state();
        if !self.pauses.is_news(found) {
            return;
        }
        let counts = match found {
            Some(ApplyState::Replaced) => "its new files count",
            Some(ApplyState::Replacing) | None => "the files before it count",
        };
        tracing::warn!(
            remedy = "`sidegate apply --recover` puts the files right",
            "`sidegate apply` broke off: {counts}"
        );
    }
}
