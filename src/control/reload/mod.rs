//! A reload, as a pipeline: read → recognise → prepare → bind → publish → reconcile.
//!
//! Each step takes the value of the step before, or stops the reload (`ReloadStop`). Until the
//! publish, nothing that runs is changed: a stop is logged, counted, and reported by `/readyz`.
//! This module never touches a socket: the wiring passes the function that binds, [`BindFn`].

mod apply_pause;
mod checks;
mod config_status;
mod first_generation;
mod held;
mod hold;
mod pending;
mod prepare;
mod publish;
mod read;
mod request;
mod shown;
mod task;
mod worker;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::apply_pause::ApplyPauses;
pub use self::config_status::{ConfigStatus, HoldStatus, LastResult, ListFileStatus};
pub use self::first_generation::{FirstGeneration, ReloaderParts, start};
pub use self::pending::{PendingEffect, PendingFiles};
use self::prepare::{PreparedGeneration, RunningState};
use self::read::{FilePass, half_renewal_timeout};
pub use self::request::{
    AcceptedEffects, MAX_PAUSE, PreviewQuestion, RecentPublish, ReloadImpact, ReloadOutcome,
    ReloadPreview, ReloaderHandle, Suspension, Trigger, WatchPause,
};
use self::request::{COMMAND, ReloaderRequest};
use self::shown::ShownFiles;
use self::task::{AttemptedFiles, BoundGeneration, ReloadStop, RequestReceiver};
pub use self::task::{BindFn, ReloadContext, Reloader, TakeoverFn};
use self::worker::FileWorker;
use crate::control::config::diagnostic::{Diagnostic, Span};
use crate::control::config::source::Files;
use crate::control::config::{LoadedConfig, POLICIES, Settings};
use crate::control::overrides::Overrides;
use crate::control::watch::{FileWatch, WakeReason, WatchSet};
use crate::observe::heartbeat::Heartbeat;
use crate::snapshot::{CurrentSnapshot, Snapshot};

/// Pause after a reload that panicked, so that repeated panics do not spin.
const PANIC_RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl Reloader {
    /// Takes over from the first generation. The second value is the handle that requests reloads.
    pub fn new(context: ReloadContext, handover: ReloaderParts) -> (Self, ReloaderHandle) {
        let (asks, requests) = mpsc::channel(16);
        let ReloaderParts { tickets, digest, digests, known, executor, watch_set, held, keeper } =
            handover;
        let mode = context.config_status.settings.load().reload.watch;
        let mut watching = FileWatch::new(mode);
        // No folder counts as gone: the first generation has just read all of its files.
        let turned = watching.reconfigure(mode).apply(WatchSet { gone: None, ..watch_set });
        watching.reconfigured(Some(turned));
        let lists = context.config_status.lists.load().to_vec();
        context.metrics.test_overrides(context.config_status.hold.overrides.load().len());
        let modified = lists.iter().map(|one| (&*one.policy, &*one.list, one.modified));
        context.metrics.lists_modified(modified);
        let signals = Arc::new(Notify::new());
        let reloader = Reloader {
            context,
            tickets,
            receiver: RequestReceiver { requests, signals: Arc::clone(&signals), signalled: None },
            watching,
            executor,
            worker: FileWorker::new(),
            known: Arc::new(known),
            running: digest,
            running_files: digests,
            tried: Some(AttemptedFiles { digest, lists }),
            half: None,
            published: None,
            held,
            keeper,
            shown: ShownFiles::default(),
            pauses: ApplyPauses::default(),
            reconciled: Timestamp::now(),
        };
        reloader.report_watch();
        (reloader, ReloaderHandle { asks, signals })
    }

    /// Reloads when a file changes or a request comes, until `stop`. `heartbeat` beats meanwhile,
    /// also while a reload waits for its files to be read.
    pub async fn run(mut self, bind: BindFn, heartbeat: Heartbeat, stop: CancellationToken) {
        let turning = async {
            // Metrics of candidate policies are there from the start.
            self.reconcile();
            let begun = AssertUnwindSafe(self.begin(&bind)).catch_unwind().await;
            if begun.is_err() {
                tracing::error!("the first look at the files failed by a bug in sidegate");
                self.context.metrics.panicked();
            }
            loop {
                let turned = AssertUnwindSafe(self.handle_event(&bind)).catch_unwind().await;
                if turned.is_err() {
                    tracing::error!(
                        "a reload failed by a bug in sidegate: the previous configuration keeps \
                         running"
                    );
                    self.context.metrics.panicked();
                    sleep(PANIC_RETRY_INTERVAL).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => heartbeat.deregister(),
            () = heartbeat.run() => {}
            () = turning => {}
        }
    }

    /// Waits for one event and serves it.
    async fn handle_event(&mut self, bind: &BindFn) {
        let slow = self.context.config_status.settings.load().reload.poll;
        let by_itself = |trigger| (trigger, AcceptedEffects::default(), None);
        let (trigger, accept, tx) = tokio::select! {
            request = self.receiver.requests.recv() => match request {
                Some(ReloaderRequest::Reload { tx: Some(tx), .. }) if tx.is_closed() => {
                    // It waited behind another reload, and its operator has seen an error.
                    tracing::warn!("a reload was not begun: its caller had left");
                    return;
                }
                Some(ReloaderRequest::Reload { trigger, accept, tx }) => {
                    self.watching.resume();
                    (trigger, accept, tx)
                }
                Some(ReloaderRequest::Pause { tx }) => {
                    // If the caller is gone, the pause ends with this.
                    let _ = tx.send(self.pause());
                    return;
                }
                Some(ReloaderRequest::Preview { question, tx }) => {
                    // The caller may have been dropped.
                    let _ = tx.send(self.preview(question).await);
                    return;
                }
                Some(ReloaderRequest::Suspend { tx }) => return Suspension::grant(tx).await,
                // All handles are gone. Other events still come, so this branch must not end the
                // wait.
                None => std::future::pending().await,
            },
            () = self.receiver.signals.notified() => by_itself(Trigger::Signal),
            // Cancel-safe, so another event in this `select!` loses no change.
            why = self.watching.due(slow) => by_itself(match why {
                WakeReason::Changed => Trigger::Saved,
                WakeReason::Due => Trigger::Poll,
            }),
            // A command that was killed has left a journal, or nothing to look at.
            () = self.pauses.ended() => by_itself(Trigger::Poll),
            () = half_renewal_timeout(self.half) => by_itself(Trigger::Poll),
            () = self.executor.returned() => by_itself(Trigger::Poll),
            // The files are the same, but an entry of them has lapsed.
            () = wait_for_lapse(&self.context.live, self.reconciled, slow) => {
                self.reconcile();
                return;
            }
        };
        // Several SIGHUPs in a row, as scripts send them, lead to one reload of the last state.
        if trigger == Trigger::Signal {
            self.receiver.coalesce_signals().await;
        }
        let outcome = self.serve(trigger, &accept, bind).await;
        if !matches!(outcome, Some(ReloadOutcome::Published { .. })) {
            // Nothing changed but the time: an entry may have lapsed.
            self.reconcile();
        }
        if let (Some(tx), Some(outcome)) = (tx, outcome)
            && tx.send(outcome).is_err()
        {
            tracing::warn!("the caller of this reload left before it ended");
        }
    }

    /// Begins a pause of the watch for a command that replaces files.
    fn pause(&mut self) -> WatchPause {
        let (pause, ended) = WatchPause::new();
        self.pauses.add(ended.clone());
        self.watching.put_off(Instant::now() + MAX_PAUSE, ended);
        pause
    }

    /// Reloads, or looks at files that are held. `None` means that there was nothing to report.
    async fn serve(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Option<ReloadOutcome> {
        let is_order = matches!(trigger, Trigger::Requested | Trigger::Signal);
        let outcome = if !self.holds() {
            self.reload(trigger, accept, bind).await
        } else if !is_order {
            self.look(trigger, bind).await
        } else if accept.live_only {
            self.order_live(trigger, accept, bind).await
        } else {
            self.reload(trigger, accept, bind).await
        };
        let is_other = matches!(outcome, Some(ReloadOutcome::OtherFiles { .. }));
        if is_order && !accept.live_only {
            self.confirm(outcome.as_ref()).await;
        }
        if is_order && self.holds() && !accept.live_only && !is_other {
            self.after_order(outcome.as_ref()).await;
        }
        if !self.holds() {
            self.report_pending(None);
        }
        // A disk that was full may have room again.
        if self.keeper.fault().is_some() {
            self.keep(Arc::clone(&self.held.texts), self.overrides()).await;
        }
        self.noting_kept(outcome)
    }

    /// The same outcome as of now: the last write came after it.
    fn noting_kept(&self, mut outcome: Option<ReloadOutcome>) -> Option<ReloadOutcome> {
        use ReloadOutcome::{Published, Unchanged};
        if let Some(Published { not_kept, .. } | Unchanged { not_kept, .. }) = &mut outcome {
            *not_kept = self.not_kept();
        }
        outcome
    }

    /// One reload. `None` means that there was nothing to do and nothing to report.
    async fn reload(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Option<ReloadOutcome> {
        let began = Instant::now();
        let outcome = match self.run_pipeline(trigger, accept, bind).await {
            Ok(next) => self.publish(trigger, next, began).await,
            Err(stop) => return self.stopped(trigger, stop),
        };
        Some(outcome)
    }

    /// The pipeline up to the publish.
    async fn run_pipeline(
        &mut self,
        trigger: Trigger,
        accept: &AcceptedEffects,
        bind: &BindFn,
    ) -> Result<BoundGeneration, ReloadStop> {
        // First: an event that comes while the files are read must cause another look.
        self.watching.note_read();
        self.refuse_in_drain(trigger)?;
        let tried = self.tried.as_ref().map(|tried| tried.digest);
        let read = self.read(trigger, Arc::default(), tried).await?;
        self.check_shown(&read.files, accept)?;
        self.check_overrides(&read, accept)?;
        let (files, mut loaded) = self.recognise(trigger, read).await?;
        // Kept aside for the next pass, which parses only the list files that differ from these.
        let known = std::mem::take(&mut loaded.lists);
        if self.holds()
            && let Err(errors) = self.check_restart(&loaded)
        {
            return Err(ReloadStop::Rejected(
                self.keep_for_restart(loaded, &files, accept, errors).await,
            ));
        }
        let prepared = self.prepare(loaded, &files, accept)?;
        // Last of all, so that no socket has to be given back.
        let (prepared, takeover) = self.bind(prepared, bind).await?;
        Ok(BoundGeneration { prepared, takeover, files, known })
    }

    fn refuse_in_drain(&self, trigger: Trigger) -> Result<(), ReloadStop> {
        if !self.context.lifecycle.is_draining() {
            return Ok(());
        }
        match trigger {
            // A poll has no caller that waits for an answer, and would log the same line every
            // time.
            Trigger::Poll => Err(ReloadStop::NoChange),
            _ => Err(self.rejected("draining: nothing is reloaded any more")),
        }
    }

    fn prepare(
        &self,
        loaded: LoadedConfig,
        files: &Files,
        accept: &AcceptedEffects,
    ) -> Result<PreparedGeneration, Vec<Diagnostic>> {
        let before = self.context.live.load_full();
        let settings = self.context.config_status.settings.load_full();
        let state = self.running_state(&before, &settings);
        state.ordered_with(accept).prepare(loaded, files, accept)
    }

    /// Checks that the overrides of an order name tests that exist.
    fn check_overrides(&self, read: &FilePass, accept: &AcceptedEffects) -> Result<(), ReloadStop> {
        let Ok(loaded) = &read.loaded else { return Ok(()) };
        Ok(self.check_test_names(loaded, &accept.overrides)?)
    }

    /// Checks that a policy of `loaded` has each of these tests.
    fn check_test_names(
        &self,
        loaded: &LoadedConfig,
        tests: &[String],
    ) -> Result<(), Vec<Diagnostic>> {
        let (named, in_force) = (tests.to_vec(), Arc::default());
        let unknown = Overrides { in_force, named }.unknown(loaded);
        let place = || Span::whole_file(self.context.config.display().to_string().into());
        unknown.map_or(Ok(()), |finding| Err(vec![finding.into_diagnostic(place())]))
    }

    fn running_state<'b>(
        &'b self,
        before: &'b Snapshot,
        settings: &'b Settings,
    ) -> RunningState<'b> {
        let (tickets, tunnels) = (&self.tickets, Some(&*self.context.tunnels));
        let (config, files) = (&*self.context.config, &self.running_files);
        let overrides = Overrides::in_force(self.overrides());
        RunningState {
            config,
            before,
            files,
            settings,
            tickets,
            tunnels,
            guards: self.context.config_status.guards.load_full(),
            overrides,
            command: COMMAND.to_owned(),
        }
    }

    /// Binds the sockets that the prepared generation needs, on the worker's thread.
    async fn bind(
        &mut self,
        prepared: PreparedGeneration,
        bind: &BindFn,
    ) -> Result<(PreparedGeneration, TakeoverFn), ReloadStop> {
        let (bind, now) = (Arc::clone(bind), self.context.config_status.settings.load_full());
        let bound = self
            .worker
            .run(move || bind(&now, &prepared.built.settings).map(|takeover| (prepared, takeover)));
        let bound = bound.await;
        if !matches!(bound, Some(Ok(_))) {
            // The same files may bind the next time, so a poll tries them again.
            self.tried = None;
        }
        // `None` means that the work panicked, or has no thread. No socket is left behind: those
        // that were bound so far were dropped with its stack.
        let Some(bound) = bound else {
            self.context.metrics.panicked();
            return Err(self.rejected("the reload broke off: see the log"));
        };
        Ok(bound?)
    }

    /// The effect that a reload would have now, or would have once the files of `question` were in
    /// place.
    async fn preview(&mut self, question: PreviewQuestion) -> ReloadPreview {
        let now = self.context.live.load_full();
        let settings = self.context.config_status.settings.load_full();
        let guards = self.context.config_status.guards.load_full();
        let command = question.command();
        let PreviewQuestion { promoted, overlay, overrides } = question;
        let pass = self.load(promoted.clone(), overlay).await;
        let Some(FilePass { files, loaded }) = pass else {
            let next = Err(vec![self.diagnostic("the reading broke off: see the log")]);
            let (digest, impact) = (String::new(), ReloadImpact::default());
            return ReloadPreview { now, settings, guards, digest, next, impact };
        };
        let mut digests = files.digests();
        if let Some(name) = &promoted {
            let folder = self.context.config.parent().unwrap_or(Path::new("")).join(POLICIES);
            let candidate = folder.join(format!("{name}.shadow.toml"));
            digests = digests.with_moved(&candidate, folder.join(format!("{name}.toml")));
        }
        let digest = digests.all().to_hex();
        self.shown.note(digests);
        let mut basis = self.running_state(&now, &settings);
        basis.command = command;
        let next = loaded.and_then(|loaded| {
            self.check_test_names(&loaded, &overrides)?;
            basis.overrides.named = overrides;
            basis.compile(loaded, files.digest())
        });
        let impact = next.as_ref().map(|built| {
            let accept = AcceptedEffects::default();
            let mut impact = basis.assess(built, &files, &accept);
            basis.assess_widening(built, &files, &accept, &mut impact);
            impact
        });
        let impact = impact.unwrap_or_default();
        ReloadPreview { now, settings, guards, digest, next, impact }
    }
}

/// Waits until an entry of the running lists has lapsed since `reconciled`, but no longer than
/// `max`, since the clock may be set meanwhile.
pub async fn wait_for_lapse(live: &CurrentSnapshot, reconciled: Timestamp, max: Duration) {
    let now = Timestamp::now();
    // Not from now on: an entry may have lapsed while this task was busy with something else. A
    // clock that was set back must not hide the entries in between.
    let next = live.load().next_expiry(reconciled.min(now));
    sleep(time_until(next, now, max)).await;
}

/// Time from `now` until `next`: zero if that has passed, `max` at most.
fn time_until(next: Option<Timestamp>, now: Timestamp, max: Duration) -> Duration {
    let Some(next) = next else { return max };
    Duration::try_from(next.duration_since(now)).unwrap_or_default().min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::policy::limit::Limits;
    use crate::snapshot::tests::{generation, policy};

    #[test]
    fn lapse_is_due_at_once_when_it_passed_while_the_task_was_busy() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (now, max) = (at(100), Duration::from_secs(30));
        assert_eq!(time_until(Some(at(97)), now, max), Duration::ZERO);
        assert_eq!(time_until(Some(at(107)), now, max), Duration::from_secs(7));
        assert_eq!(time_until(Some(at(999)), now, max), max);
        assert_eq!(time_until(None, now, max), max);
    }

    #[tokio::test(start_paused = true)]
    async fn lapse_is_counted_from_the_last_judging_and_not_from_now() {
        let denied = ["192.0.2.1 expires=2020-01-01T00:00:00Z"];
        let policy = policy(&denied, &Limits::default());
        let (live, max) =
            (CurrentSnapshot::new(generation(1, policy, None)), Duration::from_secs(30));
        for (reconciled, waits) in [("2019-12-31T00:00:00Z", 0), ("2020-01-01T00:00:00Z", 30)] {
            let began = Instant::now();
            wait_for_lapse(&live, reconciled.parse().unwrap(), max).await;
            assert_eq!(began.elapsed().as_secs(), waits, "{reconciled}");
        }
    }
}
