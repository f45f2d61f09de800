//! `[reload] watch = "hold"`: a save is reported as pending, and counts after an explicit order.
//!
//! Two passes are made at each look. The first reads the texts of the running generation from
//! memory and all other files from the disk: a certificate or a live list that has changed is
//! published with them. The second reads all files, and is only reported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Files};
use crate::control::config::{LoadedConfig, WatchMode};
use crate::control::overrides::TestOverride;
use crate::control::published::PublishedState;
use crate::control::reload::held::{HeldFiles, SeenFiles};
use crate::control::reload::pending::{PendingEffect, PendingFiles, names};
use crate::control::reload::read::FilePass;
use crate::control::reload::request::{AcceptedEffects, ReloadOutcome, Trigger};
use crate::control::reload::task::{BindFn, BoundGeneration, ReloadStop, Reloader};

/// A saved file that differs from that of the running generation.
struct ChangedFile {
    path: PathBuf,
    /// Digest of the saved file. `None` means that it is gone.
    version: Option<Digest>,
}

impl Reloader {
    /// Whether the running generation holds saved files back.
    pub(super) fn holds(&self) -> bool {
        self.context.config_status.settings.load().reload.watch == WatchMode::Hold
    }

    /// Keeps the files of the start, and reports pending ones.
    pub(super) async fn begin(&mut self, bind: &BindFn) {
        self.keep(Arc::clone(&self.held.texts), self.overrides()).await;
        if self.holds() {
            self.look(Trigger::Poll, bind).await;
        } else if std::mem::take(&mut self.held.looks_again) {
            // Reported as if the files had been saved a moment ago.
            self.reload(Trigger::Poll, &AcceptedEffects::default(), bind).await;
        }
    }

    /// Notes that an order has accepted the texts that run.
    pub(super) async fn confirm(&mut self, outcome: Option<&ReloadOutcome>) {
        use ReloadOutcome::{Published, Unchanged};
        let is_accepted = matches!(outcome, Some(Published { .. } | Unchanged { .. }));
        // Also an order that changes nothing: it says that what runs is meant.
        if is_accepted && self.held.unordered.take().is_some() {
            self.context.config_status.hold.unordered.store(None);
            self.keep(Arc::clone(&self.held.texts), self.overrides()).await;
        }
    }

    /// A look at the files while they are held.
    pub(super) async fn look(&mut self, trigger: Trigger, bind: &BindFn) -> Option<ReloadOutcome> {
        // First: an event that comes while the files are read must cause another look.
        self.watching.note_read();
        if let Err(stop) = self.refuse_in_drain(trigger) {
            return self.stopped(trigger, stop);
        }
        let status = Arc::clone(&self.context.config_status);
        let had_pending = status.hold.pending.load().is_some();
        let accept = AcceptedEffects { live_only: true, ..AcceptedEffects::default() };
        let live = self.publish_live(trigger, &accept, bind).await;
        self.look_at_saved(trigger).await;
        let is_pending = status.hold.pending.load().is_some();
        let is_rejected = status.rejected.load().is_some();
        let was_live = self.held.is_live_rejected;
        self.held.is_live_rejected = matches!(live, Err(ReloadStop::Rejected(_)))
            || was_live && matches!(live, Err(ReloadStop::NoChange));
        match live {
            Ok(outcome) => Some(outcome),
            Err(stop @ (ReloadStop::Rejected(_) | ReloadStop::OtherFiles(_))) => {
                self.stopped(trigger, stop)
            }
            // Files that an order could not publish are saved back.
            Err(_) if had_pending && !is_pending && is_rejected && !was_live => {
                Some(self.unchanged(trigger))
            }
            Err(ReloadStop::Unchanged) if was_live || trigger == Trigger::Saved && !is_pending => {
                Some(self.unchanged(trigger))
            }
            // While files are pending, the fault of an order that was rejected stays in place.
            Err(ReloadStop::Unchanged | ReloadStop::NoChange) => None,
        }
    }

    /// Publishes the files that are never held, together with the texts that run.
    ///
    /// # Errors
    /// Nothing has changed, or the files are wrong.
    pub(super) async fn publish_live(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Result<ReloadOutcome, ReloadStop> {
        let began = Instant::now();
        let next = self.live_pipeline(trigger, accept, bind).await;
        match &next {
            Err(ReloadStop::Rejected(_)) => self.held.is_live_faulty = true,
            // The same files as before.
            Err(ReloadStop::NoChange | ReloadStop::OtherFiles(_)) => {}
            Ok(_) | Err(ReloadStop::Unchanged) => self.held.is_live_faulty = false,
        }
        Ok(self.publish(trigger, next?, began).await)
    }

    async fn live_pipeline(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Result<BoundGeneration, ReloadStop> {
        let tried = self.tried.as_ref().map(|tried| tried.digest);
        let read = self.read(trigger, Arc::clone(&self.held.texts), tried).await?;
        self.check_shown(&read.files, accept)?;
        self.check_overrides(&read, accept)?;
        let (files, mut loaded) = self.compare(trigger, read)?;
        let known = std::mem::take(&mut loaded.lists);
        let prepared = self.prepare(loaded, &files, accept)?;
        let (prepared, takeover) = self.bind(prepared, bind).await?;
        Ok(BoundGeneration { prepared, takeover, files, known })
    }

    /// Publishes the files that are never held, as an operator orders.
    pub(super) async fn order_live(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Option<ReloadOutcome> {
        let outcome = match self.publish_live(trigger, accept, bind).await {
            Ok(outcome) => Some(outcome),
            Err(stop) => {
                self.held.is_live_rejected |= matches!(stop, ReloadStop::Rejected(_));
                self.stopped(trigger, stop)
            }
        };
        self.look_at_saved(Trigger::Poll).await;
        outcome
    }

    /// Checks that no setting of `loaded` needs a restart.
    pub(super) fn check_restart(&self, loaded: &LoadedConfig) -> Result<(), Vec<Diagnostic>> {
        let before = self.context.live.load_full();
        let settings = self.context.config_status.settings.load_full();
        self.running_state(&before, &settings).check_restart_keys(&loaded.settings)
    }

    /// Keeps files that only a restart can publish, and returns what the order is rejected with.
    /// Otherwise no order could ever change such a setting, since a restart serves the kept files.
    pub(super) async fn keep_for_restart(
        &mut self,
        loaded: LoadedConfig,
        files: &Files,
        accept: &AcceptedEffects,
        errors: Vec<Diagnostic>,
    ) -> Vec<Diagnostic> {
        let built = {
            let before = self.context.live.load_full();
            let settings = self.context.config_status.settings.load_full();
            let state = self.running_state(&before, &settings).ordered_with(accept);
            match state.prepare_restart(loaded, files, accept) {
                Ok(built) => built,
                Err(more) => return errors.into_iter().chain(more).collect(),
            }
        };
        let texts = HeldFiles::texts_of(&built, files);
        self.keep(texts, Arc::new(built.overridden)).await;
        self.held.awaits_restart = self.keeper.fault().is_none();
        if self.held.awaits_restart {
            tracing::warn!("the saved files need a restart, and the next start serves them");
        }
        errors
    }

    /// Ends a reload before its publish.
    pub(super) fn stopped(&self, trigger: Trigger, stop: ReloadStop) -> Option<ReloadOutcome> {
        match stop {
            ReloadStop::Unchanged => Some(self.unchanged(trigger)),
            ReloadStop::Rejected(errors) => Some(self.reject(trigger, errors)),
            // No fault of the files: neither their state nor the last reload is another one.
            ReloadStop::OtherFiles(errors) => {
                for error in &errors {
                    tracing::warn!(cause = trigger.word(), "not reloaded: {}", error.message);
                }
                Some(ReloadOutcome::OtherFiles { errors: errors.into() })
            }
            // Also no metric: a poll that finds nothing is not a reload.
            ReloadStop::NoChange => None,
        }
    }

    /// Reads the saved files, and reports pending ones.
    async fn look_at_saved(&mut self, trigger: Trigger) {
        let seen = self.held.seen.map(|seen| seen.saved);
        let FilePass { files, loaded } = match self.read(trigger, Arc::default(), seen).await {
            Ok(pass) => pass,
            Err(ReloadStop::Rejected(errors)) => {
                self.held.seen = None;
                let pending = self.pending("", Vec::new(), Err(errors.into()));
                return self.report_pending(Some(pending));
            }
            Err(ReloadStop::Unchanged | ReloadStop::NoChange | ReloadStop::OtherFiles(_)) => return,
        };
        self.watch(&files, loaded.is_ok()).await;
        self.shown.note(files.digests());
        let now_seen = SeenFiles { saved: files.digest(), running: self.running };
        if self.held.seen == Some(now_seen) && trigger == Trigger::Poll {
            return;
        }
        // Half of a renewal: the other half comes in a moment, and causes another look.
        if let Err(errors) = &loaded
            && errors.iter().filter(|one| one.is_error()).all(Diagnostic::is_half_renewed)
        {
            self.held.seen = None;
            return;
        }
        self.held.seen = Some(now_seen);
        let changed = files.texts_differing(&self.held.texts, loaded.is_ok());
        // An error in a certificate is that of the running generation as well.
        if changed.is_empty() && (loaded.is_ok() || self.held.is_live_faulty) {
            return self.report_pending(None);
        }
        let before = self.context.live.load_full();
        let settings = self.context.config_status.settings.load_full();
        let basis = self.running_state(&before, &settings);
        let built = loaded.and_then(|loaded| basis.compile(loaded, files.digest()));
        let effect = built.map(|built| {
            let impact = basis.assess_bounds(&built, &files, &AcceptedEffects::default());
            PendingEffect {
                open: impact.weight.all(),
                revoked: impact.weight.all_revoked(),
                held: impact.held.into(),
                warnings: built.warnings.into(),
            }
        });
        let effect = effect.map_err(Into::into);
        let changed = changed.into_iter().map(|path| {
            let version = files.digest_of(&path);
            ChangedFile { path, version }
        });
        let pending = self.pending(&files.digest().to_string(), changed.collect(), effect);
        self.report_pending(Some(pending));
    }

    fn pending(
        &self,
        digest: &str,
        changed: Vec<ChangedFile>,
        effect: Result<PendingEffect, Arc<[Diagnostic]>>,
    ) -> PendingFiles {
        let earlier = self.context.config_status.hold.pending.load_full();
        let folder = self.context.config.parent().unwrap_or(Path::new(""));
        let name = |file: &ChangedFile| {
            file.path.strip_prefix(folder).unwrap_or(&file.path).display().to_string()
        };
        PendingFiles {
            generation: self.context.live.load().generation + 1,
            digest: digest.into(),
            since: earlier.map_or_else(Timestamp::now, |earlier| earlier.since),
            changed: changed.iter().map(name).collect(),
            versions: changed.into_iter().map(|file| file.version).collect(),
            effect,
        }
    }

    /// Stores, counts and logs pending files. `None` means that there are none.
    pub(super) fn report_pending(&self, pending: Option<PendingFiles>) {
        let (status, metrics) = (&self.context.config_status.hold, &self.context.metrics);
        let before = status.pending.load_full();
        metrics.pending(
            pending.as_ref().map_or(0, |pending| pending.generation),
            pending.as_ref().is_some_and(PendingFiles::is_rejected),
        );
        match &pending {
            None if before.is_some() => tracing::info!("no saved files are pending any more"),
            None => {}
            Some(pending) if before.is_some_and(|before| before.is_same_news(pending)) => {}
            Some(pending) => log_pending(pending),
        }
        status.pending.store(pending.map(Arc::new));
    }

    /// Brings the state of held files up to date after an explicit order.
    pub(super) async fn after_order(&mut self, outcome: Option<&ReloadOutcome>) {
        match outcome {
            Some(ReloadOutcome::Rejected { .. }) => {
                self.held.is_live_rejected = false;
                self.held.seen = None;
                self.look_at_saved(Trigger::Poll).await;
            }
            // What the next start would serve may be of an earlier order.
            Some(ReloadOutcome::Unchanged { .. }) => {
                self.keep(Arc::clone(&self.held.texts), self.overrides()).await;
                self.report_pending(None);
            }
            Some(ReloadOutcome::Published { .. }) => self.report_pending(None),
            Some(ReloadOutcome::OtherFiles { .. }) | None => {}
        }
    }

    /// The overrides in force.
    pub(super) fn overrides(&self) -> Arc<Vec<TestOverride>> {
        self.context.config_status.hold.overrides.load_full()
    }

    /// Keeps `texts`, if there are any, and `overrides` for the next start.
    pub(super) async fn keep(&mut self, texts: Arc<Overlay>, overrides: Arc<Vec<TestOverride>>) {
        let held = (!texts.is_empty()).then_some(texts);
        let unordered = self.held.unordered.clone().filter(|_| held.is_some());
        let config = self.context.config.clone();
        let state = PublishedState { config, overrides, held, unordered };
        self.held.awaits_restart = false;
        let Some(write) = self.keeper.write(state) else { return };
        let executor = self.executor.clone();
        let written = self.worker.run(move || write.run(&executor)).await;
        self.keeper.note(written.unwrap_or_else(|| Err("the write broke off: see the log".into())));
        let fault = self.keeper.fault().map(|fault| Arc::new(fault.to_owned()));
        self.context.config_status.hold.not_kept.store(fault);
    }
}

/// The log lines about newly pending files.
fn log_pending(pending: &PendingFiles) {
    for error in pending.obstacles().iter().filter(|error| error.is_error()) {
        tracing::warn!(
            place = error.place(),
            remedy = error.remedy.as_deref(),
            "pending: {}",
            error.message
        );
    }
    let (digest, changed) = (&*pending.digest, names(&pending.changed));
    let revoked = pending.effect.as_ref().ok().map(|effect| effect.revoked);
    let generation = pending.effect.as_ref().ok().map(|_| pending.generation);
    tracing::warn!(generation, digest, changed, revoked, "{}", pending.sentence());
}
