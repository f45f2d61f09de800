//! The pure part of a reload: from loaded values to a generation that may be published.
//!
//! Reads the running generation and the live tunnels. Changes neither.

use std::path::Path;

use jiff::Timestamp;

use crate::control::compile::{CompiledGeneration, build};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{LoadedConfig, Settings};
use crate::control::reload::config_status::ListFileStatus;
use crate::control::reload::request::{AcceptedEffects, ReloadImpact};
use crate::snapshot::Snapshot;
use crate::snapshot::tls::TicketKeys;
use crate::tunnels::Tunnels;

/// Number of changed files that a message names; it only counts the others.
const MAX_NAMED_FILES: usize = 5;

/// The running state that a new generation is prepared against.
pub(super) struct RunningState<'b> {
    /// Path of `sidegate.toml`, whose folder the names in messages are relative to.
    pub config: &'b Path,
    /// The running generation, which the next one replaces.
    pub before: &'b Snapshot,
    /// Digest of each file of the running generation.
    pub files: &'b Digests,
    /// `sidegate.toml` of the running generation.
    pub settings: &'b Settings,
    /// Keys for TLS tickets, which every generation shares.
    pub tickets: &'b TicketKeys,
    /// The live tunnels and exchanges.
    pub tunnels: &'b Tunnels,
}

/// A generation that may be published as soon as its sockets are bound.
pub(super) struct PreparedGeneration {
    pub built: CompiledGeneration,
    /// The list files that the generation was made from.
    pub lists: Vec<ListFileStatus>,
}

impl RunningState<'_> {
    /// Compiles the next generation, runs the policies' own tests, and previews the effects on the
    /// live tunnels.
    ///
    /// # Errors
    /// The reasons why the generation may not be published.
    pub fn prepare(
        &self,
        loaded: LoadedConfig,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> Result<PreparedGeneration, Vec<Diagnostic>> {
        let built = self.compile(loaded, files.digest())?;
        let ReloadImpact { held, .. } = self.assess(&built, files, accept);
        if !held.is_empty() {
            return Err(held);
        }
        let lists = ListFileStatus::all(built.feeds.iter().map(|(policy, feed)| (policy, feed)));
        Ok(PreparedGeneration { built, lists })
    }

    /// Compiles the next generation and runs the policies' own tests against it.
    ///
    /// # Errors
    /// Settings that need a restart; failed tests; errors from rustls.
    pub fn compile(
        &self,
        loaded: LoadedConfig,
        digest: Digest,
    ) -> Result<CompiledGeneration, Vec<Diagnostic>> {
        self.check_restart_keys(&loaded.settings)?;
        let digest = digest.to_string();
        build(loaded, self.config, &digest, Some(self.before), self.tickets)
    }

    /// Previews the effects of `built`, made from `files`, on the live tunnels, and lists the
    /// reasons to hold it until an operator accepts them.
    pub fn assess(
        &self,
        built: &CompiledGeneration,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> ReloadImpact {
        let now = Timestamp::now();
        // A preview may differ from the reconcile that follows, since tunnels open and end
        // meanwhile. `max_revoked` guards against mistakes of many tunnels, not of one.
        let weight = self.tunnels.preview_reconcile(&built.snapshot, now);
        let shrunk = built.feeds.iter().filter_map(|(policy, feed)| {
            // A list that is new, or whose policy is new, has no size before that it could shrink
            // from.
            let policy = self.before.all_policies().find(|before| before.name == *policy);
            let lists = policy.map(|policy| policy.lists()).unwrap_or_default();
            let before = lists.iter().find(|list| list.name == feed.name).map(|list| list.len());
            let is_accepted = accept.shrunk.iter().any(|name| *name == *feed.name);
            feed.rejection(before, is_accepted, now)
        });
        let mut held: Vec<_> = shrunk.collect();
        let bound = built.settings.reload.max_revoked;
        let (revoked, all) = (weight.all_revoked(), weight.all());
        if !accept.revocations && bound.is_exceeded(revoked, all) {
            let what = match weight.streams {
                0 => "open tunnels",
                _ => "open tunnels and streams",
            };
            let fault = format!(
                "{revoked} of {all} {what} would be closed, more than max_revoked = \"{bound}\""
            );
            let which = "`sidegate diff` says which tunnels; if they are meant: \
                         sidegate reload --accept-revocations";
            let changed = self.changed(files).map(|changed| format!("{changed}; {which}"));
            let remedy = changed.unwrap_or_else(|| which.to_owned());
            held.push(Diagnostic::error(
                built.settings.written.max_revoked().with_names_shown(),
                fault,
                Some(remedy),
            ));
        }
        ReloadImpact { weight, held }
    }

    /// The names of changed files, in a sentence. `None` means that no file has changed.
    fn changed(&self, files: &Files) -> Option<String> {
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let changed = self.files.changed(&files.digests());
        let names = changed
            .iter()
            .map(|path| path.strip_prefix(folder).unwrap_or(path).display().to_string());
        let names: Vec<_> = names.collect();
        let (first, more) = names.split_at(names.len().min(MAX_NAMED_FILES));
        match more.len() {
            _ if first.is_empty() => None,
            0 => Some(format!("changed: {}", first.join(", "))),
            more => Some(format!("changed: {}, and {more} more", first.join(", "))),
        }
    }

    /// Threads are started once: a reload neither starts nor ends one.
    fn check_restart_keys(&self, next: &Settings) -> Result<(), Vec<Diagnostic>> {
        if self.settings.process.state != next.process.state {
            let fault = "state: bans are kept in the folder that the start has found".into();
            let remedy = "restart sidegate to change it, or take it back".to_owned();
            return Err(vec![Diagnostic::error(next.written.state(), fault, Some(remedy))]);
        }
        if self.settings.process.threads == next.process.threads {
            return Ok(());
        }
        let fault = "threads: they are started once, and a reload starts and ends none".into();
        let remedy = "restart sidegate to change it, or take it back".to_owned();
        Err(vec![Diagnostic::error(next.written.threads(), fault, Some(remedy))])
    }
}
