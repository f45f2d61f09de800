//! The end of a reload: published, unchanged or rejected; logged, counted and reported.
//!
//! Decides nothing: every value that arrives here was read, compiled, tested and previewed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::control::compile::CompiledGeneration;
use crate::control::config::LoadedConfig;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::overrides::{Overrides, TestOverride};
use crate::control::policy_tests::{PolicyTests, run_tests};
use crate::control::reconcile::Reconcile;
use crate::control::reload::config_status::{LastResult, ListFileStatus};
use crate::control::reload::held::HeldFiles;
use crate::control::reload::prepare::PreparedGeneration;
use crate::control::reload::request::{RecentPublish, ReloadOutcome, Trigger};
use crate::control::reload::task::{BoundGeneration, ReloadContext, Reloader};
use crate::observe::metrics::ReloadResult;

/// Largest age at which an unchanged reload names the publish before it: the watch usually reads a
/// saved file before an operator's command does.
const MAX_RECENT_AGE: Duration = Duration::from_secs(60);

impl Reloader {
    /// Publishes a generation whose sockets are bound, then serves on them.
    pub(super) async fn publish(
        &mut self,
        trigger: Trigger,
        next: BoundGeneration,
        began: Instant,
    ) -> ReloadOutcome {
        let BoundGeneration {
            prepared: PreparedGeneration { built, lists },
            takeover,
            files,
            known,
        } = next;
        self.resolve_new(&built).await;
        // Before the swap: a process that is killed now starts with what was ordered.
        let texts = HeldFiles::texts_of(&built, &files);
        // A live list says nothing about files that wait for a restart.
        let is_kept = self.held.awaits_restart
            && texts.has_texts_of(&self.held.texts)
            && built.overridden.iter().all(|one| self.overrides().contains(one));
        if !is_kept {
            self.keep(Arc::clone(&texts), Arc::new(built.overridden.clone())).await;
        }
        self.held.texts = texts;
        (self.running, self.running_files) = (files.digest(), files.digests());
        let former =
            // Only entries that the next generation does not share have to be freed.
            std::mem::replace(&mut self.known, Arc::new(known)).not_shared_with(&self.known);
        self.report_lists(lists);
        let mode = self.context.config_status.settings.load().reload.watch;
        let outcome = self.swap(trigger, built, began);
        if !self.holds() || matches!(trigger, Trigger::Requested | Trigger::Signal) {
            self.held.seen = None;
        }
        // After the swap: the snapshot must already know the listeners of the new sockets.
        takeover();
        // Otherwise `recognise` has set the watch up already, in the same mode.
        if self.context.config_status.settings.load().reload.watch != mode {
            self.watch(&files, true).await;
        }
        // Not awaited: tunnels that are revoked over `revoke_spread` may hold these entries
        // meanwhile.
        self.context.tracker.spawn(self.worker.clone().release_later(former));
        outcome
    }

    /// Waits for the addresses of new names for a moment, so that their first requests find some.
    async fn resolve_new(&self, built: &CompiledGeneration) {
        let pending = built.snapshot.names.pending();
        if !pending.is_empty() {
            let resolver = self.context.resolver.clone();
            // A panic there was logged: the names are resolved later.
            let _ = self.worker.run(move || resolver.resolve_new(&pending)).await;
        }
    }

    /// Swaps the snapshot, then reconciles the open tunnels. Refused ones are closed over
    /// `revoke_spread`, and the others are not touched.
    fn swap(
        &mut self,
        trigger: Trigger,
        built: CompiledGeneration,
        began: Instant,
    ) -> ReloadOutcome {
        let CompiledGeneration {
            snapshot,
            settings,
            warnings,
            guards,
            dropped_tests: _,
            allow_tests,
            overridden,
        } = built;
        let snapshot = Arc::new(snapshot);
        // Settings first: what a connection of the new generation reads from them must not be older
        // than its snapshot.
        self.context.config_status.settings.store(Arc::new(settings));
        self.context.config_status.allow_tests.store(Arc::new(allow_tests));
        self.context.config_status.guards.store(Arc::new(guards));
        self.context.tunnels.publish(&snapshot);
        let recent = self.context.config_status.settings.load().admin.recent();
        self.context.recent.set_bounds(recent, Timestamp::now());
        snapshot.names.wake();
        self.context.metrics.forget_identities(&snapshot);
        // Behind the publish: a tunnel that enters meanwhile judges itself again, so none slips
        // through between the two generations.
        let revoked = self.reconcile();
        self.context.config_status.rejected.store(None);
        let overridden = self.report_overrides(overridden);
        for warning in &warnings {
            tracing::warn!(place = warning.place(), "{}", warning.message);
        }
        self.context.config_status.warnings.store(Arc::new(warnings.clone()));
        self.context.config_status.since.store(Arc::new(Timestamp::now()));
        self.published = Some((trigger, Instant::now()));
        self.ended(trigger, ReloadResult::Published);
        let milliseconds = began.elapsed().as_millis() as u64;
        tracing::info!(
            cause = trigger.word(),
            generation = snapshot.generation,
            digest = %snapshot.digest,
            revoked,
            milliseconds,
            "published"
        );
        let (generation, digest) = (snapshot.generation, Arc::clone(&snapshot.digest));
        let warnings = warnings.into();
        let not_kept = self.not_kept();
        ReloadOutcome::Published { generation, digest, revoked, warnings, overridden, not_kept }
    }

    /// Puts `overridden` in force, and logs new overrides and ended ones.
    fn report_overrides(&self, overridden: Vec<TestOverride>) -> Arc<Vec<TestOverride>> {
        let status = &self.context.config_status.hold;
        let (before, now) = (status.overrides.load_full(), Arc::new(overridden));
        for one in now.iter().filter(|one| !before.contains(one)) {
            let place = &*one.file;
            tracing::warn!(place, "published although the test \"{}\" fails: overridden", one.test);
        }
        for one in before.iter().filter(|one| !now.contains(one)) {
            let place = &*one.file;
            tracing::info!(place, "the test \"{}\" is no longer overridden", one.test);
        }
        status.overrides.store(Arc::clone(&now));
        self.context.metrics.test_overrides(now.len());
        now
    }

    /// Why the published files are not kept. `None` means that they are, or need not be.
    pub(super) fn not_kept(&self) -> Option<String> {
        self.keeper.fault().map(str::to_owned)
    }

    /// Judges the open tunnels and the exchanges in flight by the running generation and the
    /// present time, and revokes the refused ones. Returns their number.
    pub(super) fn reconcile(&mut self) -> usize {
        self.reconciled = Timestamp::now();
        let ReloadContext { live, tunnels, metrics, tracker, config_status, .. } = &self.context;
        let spread = config_status.settings.load().reload.revoke_spread;
        let all = Reconcile { live, tunnels, metrics, tracker, spread, hasty: false };
        let revoked = all.run(self.reconciled);
        revoked.tunnels + revoked.exchanges
    }

    /// Counts a finished reload and records it as the last one.
    fn ended(&self, trigger: Trigger, result: ReloadResult) {
        let at = Timestamp::now();
        self.context.metrics.reloaded(result, at);
        self.context.config_status.last.store(Some(Arc::new(LastResult { trigger, result, at })));
    }

    /// Reports the warnings about the files that run. Time alone may change them: a list becomes
    /// stale, or is written again.
    pub(super) fn report_warnings(&self, loaded: &mut LoadedConfig) {
        let mut warnings = std::mem::take(&mut loaded.warnings);
        let overrides = Overrides::in_force(self.overrides());
        let tests = PolicyTests::all(loaded);
        warnings.extend(run_tests(&self.context.live.load(), &tests, &overrides).found);
        self.context.config_status.warnings.store(Arc::new(warnings));
    }

    /// Reports the list files of the running generation.
    pub(super) fn report_lists(&self, lists: Vec<ListFileStatus>) {
        self.context
            .metrics
            .lists_modified(lists.iter().map(|one| (&*one.policy, &*one.list, one.modified)));
        self.context.config_status.lists.store(Arc::new(lists));
    }

    pub(super) fn unchanged(&self, trigger: Trigger) -> ReloadOutcome {
        self.context.config_status.rejected.store(None);
        self.ended(trigger, ReloadResult::Unchanged);
        let live = self.context.live.load();
        let (generation, digest) = (live.generation, Arc::clone(&live.digest));
        tracing::info!(cause = trigger.word(), generation, "unchanged");
        let recent =
            self.published.map(|(trigger, at)| RecentPublish { trigger, age: at.elapsed() });
        let recent = recent.filter(|publish| publish.age <= MAX_RECENT_AGE);
        ReloadOutcome::Unchanged { generation, digest, recent, not_kept: self.not_kept() }
    }

    pub(super) fn reject(&self, trigger: Trigger, errors: Vec<Diagnostic>) -> ReloadOutcome {
        self.ended(trigger, ReloadResult::Rejected);
        for error in errors.iter().filter(|error| error.is_error()) {
            tracing::error!(
                place = error.place(),
                remedy = error.remedy.as_deref(),
                "{}",
                error.message
            );
        }
        // The generation that keeps running: the rejected one has got no number.
        let generation = self.context.live.load().generation;
        tracing::error!(
            cause = trigger.word(),
            generation,
            "rejected: the previous configuration keeps running"
        );
        self.context.config_status.rejected.store(Some(Arc::new(errors.clone())));
        ReloadOutcome::Rejected { errors: errors.into() }
    }
}
