//! The pure part of a reload: from loaded values to a generation that may be published.
//!
//! Reads the running generation and the live tunnels. Changes neither.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::control::compile::{CompiledGeneration, build};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{LoadedConfig, Settings, ShareOrCount};
use crate::control::guards::{Guards, loosened_settings};
use crate::control::overrides::Overrides;
use crate::control::reload::config_status::ListFileStatus;
use crate::control::reload::request::{AcceptedEffects, COMMAND, ReloadImpact};
use crate::snapshot::Snapshot;
use crate::snapshot::tls::TicketKeys;
use crate::snapshot::widening::{Widening, widening};
use crate::tunnels::{ReconcileImpact, Tunnels};

/// The command that publishes the files that are never held.
const LIVE_COMMAND: &str = "sidegate reload --live";

/// Number of changed files that a message names; it only counts the others.
const MAX_NAMED_FILES: usize = 5;

/// The value of `max_widened` that holds no reload.
pub(super) const NO_BOUND: ShareOrCount = ShareOrCount::Percent(100);

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
    /// What the running generation checks of its files.
    pub guards: Arc<Guards>,
    /// The live tunnels and exchanges. `None` means that there are none yet.
    pub tunnels: Option<&'b Tunnels>,
    /// The tests whose failure is no error.
    pub overrides: Overrides,
    /// The command that publishes, for messages.
    pub command: String,
}

/// A generation that may be published as soon as its sockets are bound.
pub(super) struct PreparedGeneration {
    pub built: CompiledGeneration,
    /// The list files that the generation was made from.
    pub lists: Vec<ListFileStatus>,
}

impl RunningState<'_> {
    /// The same with the overrides of an order, and the command that repeats it.
    pub fn ordered_with(mut self, accept: &AcceptedEffects) -> Self {
        self.overrides.named.clone_from(&accept.overrides);
        if accept.live_only {
            self.command = LIVE_COMMAND.to_owned();
        }
        self
    }

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
        let ReloadImpact { held, .. } = self.assess_bounds(&built, files, accept);
        if !held.is_empty() {
            return Err(held);
        }
        let lists = ListFileStatus::of_guards(&built.guards);
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
        build(loaded, self.config, &digest, Some(self.before), self.tickets, &self.overrides)
    }

    /// Compiles, tests and previews a generation that only a restart can publish.
    ///
    /// # Errors
    /// The reasons why it may not be published, but for settings that need a restart.
    pub fn prepare_restart(
        &self,
        loaded: LoadedConfig,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> Result<CompiledGeneration, Vec<Diagnostic>> {
        let digest = files.digest().to_string();
        let (before, tickets) = (Some(self.before), self.tickets);
        let built = build(loaded, self.config, &digest, before, tickets, &self.overrides)?;
        // A restart closes all tunnels anyway.
        let accept = AcceptedEffects { revocations: true, ..accept.clone() };
        let ReloadImpact { held, .. } = self.assess_bounds(&built, files, &accept);
        if held.is_empty() { Ok(built) } else { Err(held) }
    }

    /// Like [`Self::assess`], with what `built` newly admits where `max_widened` bounds it.
    pub fn assess_bounds(
        &self,
        built: &CompiledGeneration,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> ReloadImpact {
        let mut impact = self.assess(built, files, accept);
        // A comparison of large lists takes a while, and only a bound has a use for it here.
        if built.settings.reload.max_widened != NO_BOUND {
            self.assess_widening(built, files, accept, &mut impact);
        }
        impact
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
        let weight = self.tunnels.map(|all| all.preview_reconcile(&built.snapshot, now));
        let weight = weight.unwrap_or_default();
        let shrunk = built.guards.feeds.iter().filter_map(|(policy, feed)| {
            // A list that is new, or whose policy is new, has no size before that it could shrink
            // from.
            let policy = self.before.all_policies().find(|before| before.name == *policy);
            let lists = policy.map(|policy| policy.lists()).unwrap_or_default();
            let before = lists.iter().find(|list| list.name == feed.name).map(|list| list.len());
            let is_accepted = accept.shrunk.iter().any(|name| *name == *feed.name);
            let mut held = feed.rejection(before, is_accepted, now, &self.command)?;
            // A stale list is accepted by no option.
            let pin = held.remedy.as_mut().filter(|remedy| remedy.contains("--accept-shrink"));
            pin.into_iter().for_each(|remedy| remedy.push_str(&self.pin(files)));
            Some(held)
        });
        let mut held: Vec<_> = shrunk.collect();
        held.extend(self.too_many_revoked(built, &weight, files, accept));
        ReloadImpact { weight, widening: Widening::default(), held }
    }

    /// The error that `built` would close more tunnels than `max_revoked` allows.
    fn too_many_revoked(
        &self,
        built: &CompiledGeneration,
        weight: &ReconcileImpact,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> Option<Diagnostic> {
        let bound = built.settings.reload.max_revoked;
        let (revoked, all) = (weight.all_revoked(), weight.all());
        if accept.revocations || !bound.is_exceeded(revoked, all) {
            return None;
        }
        let what = match weight.streams {
            0 => "open tunnels",
            _ => "open tunnels and streams",
        };
        let fault = format!(
            "{revoked} of {all} {what} would be closed, more than max_revoked = \"{bound}\""
        );
        let which = format!(
            "`sidegate diff` says which tunnels; if they are meant: {} --accept-revocations{}",
            self.command,
            self.pin(files)
        );
        let place = built.settings.written.max_revoked().with_names_shown();
        Some(Diagnostic::error(place, fault, Some(self.remedy(files, &which))))
    }

    /// Adds to `impact` what `built` newly admits, and an error if that is more than `max_widened`.
    pub fn assess_widening(
        &self,
        built: &CompiledGeneration,
        files: &Files,
        accept: &AcceptedEffects,
        impact: &mut ReloadImpact,
    ) {
        let bound = built.settings.reload.max_widened;
        let mut widening = widening(self.before, &built.snapshot, Timestamp::now());
        widening.rules.extend(self.guards.loosened(&built.guards));
        widening.rules.extend(loosened_settings(self.settings, &built.settings));
        let is_exceeded = match bound {
            ShareOrCount::Percent(share) => widening.addresses().is_above(share),
            ShareOrCount::Count(number) => widening.counted_len() > number,
        };
        if is_exceeded && !accept.widening {
            let fault = format!(
                "{} would be newly admitted, more than max_widened = \"{bound}\"",
                size_of(&widening, bound)
            );
            let which = format!(
                "`sidegate diff` says which; if they are meant: {} --accept-widening{}",
                self.command,
                self.pin(files)
            );
            let place = built.settings.written.max_widened().with_names_shown();
            impact.held.push(Diagnostic::error(place, fault, Some(self.remedy(files, &which))));
        }
        impact.widening = widening;
    }

    /// The option by which the command publishes `files` and no others.
    fn pin(&self, files: &Files) -> String {
        match &*self.command {
            COMMAND | LIVE_COMMAND => format!(" --digest {}", files.digest()),
            // Others name the files that they have shown by themselves.
            _ => String::new(),
        }
    }

    /// The changed files, and what to do.
    fn remedy(&self, files: &Files, what: &str) -> String {
        let changed = self.changed(files).map(|changed| format!("{changed}; {what}"));
        changed.unwrap_or_else(|| what.to_owned())
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
    pub fn check_restart_keys(&self, next: &Settings) -> Result<(), Vec<Diagnostic>> {
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

/// The size of `widening` in words, as `bound` counts it: "2 networks and 1 wider rule".
fn size_of(widening: &Widening, bound: ShareOrCount) -> String {
    let rules = match (bound, widening.rules.len()) {
        (ShareOrCount::Percent(_), _) | (_, 0) => None,
        (_, 1) => Some("1 wider rule".to_owned()),
        (_, number) => Some(format!("{number} wider rules")),
    };
    let networks = (widening.patterns_len() > 0).then(|| networks_of(widening));
    networks.into_iter().chain(rules).collect::<Vec<_>>().join(" and ")
}

/// The networks in words: "3 networks (1024 addresses of IPv4)".
fn networks_of(widening: &Widening) -> String {
    let (addresses, patterns) = (widening.addresses(), widening.patterns_len());
    let (v4, v6) = (addresses.ipv4_len(), addresses.ipv6_len_64());
    let networks = if patterns == 1 { "network" } else { "networks" };
    match (v4, v6) {
        (0, 0) => format!("{patterns} {networks}"),
        (v4, 0) => format!("{patterns} {networks} ({v4} addresses of IPv4)"),
        (0, v6) => format!("{patterns} {networks} ({v6} /64 of IPv6)"),
        (v4, v6) => format!("{patterns} {networks} ({v4} addresses of IPv4, {v6} /64 of IPv6)"),
    }
}
