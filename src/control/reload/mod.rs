//! A reload, as a pipeline: read → recognise → prepare → bind → publish → reconcile.
//!
//! Each step takes the value of the step before, or halts the reload (`Halt`). Until the publish,
//! nothing that runs is changed: a halt is logged, counted, and reported by `/readyz`. This module
//! never touches a socket: the wiring passes the function that binds, [`Bind`].

mod first;
mod prepare;
mod publish;
mod reading;
mod request;
mod standing;
mod task;
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use self::first::{Handover, Started, start};
use self::prepare::{Basis, Candidate};
use self::reading::{Read, outlast};
use self::request::Ask;
pub use self::request::{Accept, Cause, Outcome, Preview, Requests, Weighed};
pub use self::standing::{Last, ListFile, Standing};
pub use self::task::{Bind, Reloader, Takeover, World};
use self::task::{Bound, Halt, Inbox, Tried};
use self::worker::FileWorker;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::Files;
use crate::control::config::{Loaded, Settings};
use crate::control::watch::{Watching, Ways, Why};
use crate::observe::pulse::Pulse;
use crate::snapshot::{Live, Snapshot};

/// Pause after a reload that panicked, so that repeated panics do not spin.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

impl Reloader {
    /// Takes over from the first generation. The second value is the handle that requests reloads.
    pub fn new(world: World, handover: Handover) -> (Self, Requests) {
        let (asks, requests) = mpsc::channel(16);
        let Handover { tickets, digest, digests, known, readers, ways } = handover;
        let mode = world.standing.settings.load().reload.watch;
        let mut watching = Watching::new(mode);
        let turned = watching.turn(mode).to(Ways { gone: None, ..ways });
        watching.turned(Some(turned));
        let lists = world.standing.lists.load().to_vec();
        let modified = lists.iter().map(|one| (&*one.policy, &*one.list, one.modified));
        world.metrics.lists_modified(modified);
        let signals = Arc::new(Notify::new());
        let reloader = Reloader {
            world,
            tickets,
            inbox: Inbox { requests, signals: Arc::clone(&signals), signalled: None },
            watching,
            readers,
            worker: FileWorker::new(),
            known: Arc::new(known),
            running: digest,
            running_files: digests,
            tried: Some(Tried { digest, lists }),
            half: None,
            reconciled: Timestamp::now(),
        };
        reloader.report_watch();
        (reloader, Requests { asks, signals })
    }

    /// Reloads when a file changes or a request comes, until `stop`. `pulse` beats meanwhile, also
    /// while a reload waits for its files to be read.
    pub async fn run(mut self, bind: Bind, pulse: Pulse, stop: CancellationToken) {
        let turning = async {
            // Metrics of candidate policies are there from the start.
            self.reconcile();
            loop {
                let turned = AssertUnwindSafe(self.turn(&bind)).catch_unwind().await;
                if turned.is_err() {
                    tracing::error!(
                        "a reload failed by a bug in sidegate: the previous configuration keeps \
                         running"
                    );
                    self.world.metrics.panicked();
                    sleep(PANIC_PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => pulse.end(),
            () = pulse.keep() => {}
            () = turning => {}
        }
    }

    /// Waits for one event and serves it.
    async fn turn(&mut self, bind: &Bind) {
        let slow = self.world.standing.settings.load().reload.poll;
        let by_itself = |cause| (cause, Accept::default(), None);
        let (cause, accept, told) = tokio::select! {
            request = self.inbox.requests.recv() => match request {
                Some(Ask::Reload { cause, accept, told }) => (cause, accept, told),
                Some(Ask::Preview { promoted, told }) => {
                    // The caller may have been dropped.
                    let _ = told.send(self.preview(promoted).await);
                    return;
                }
                None => std::future::pending().await,
            },
            () = self.inbox.signals.notified() => by_itself(Cause::Signal),
            why = self.watching.due(slow) => by_itself(match why {
                Why::Changed => Cause::Saved,
                Why::Due => Cause::Poll,
            }),
            () = outlast(self.half) => by_itself(Cause::Poll),
            () = self.readers.returned() => by_itself(Cause::Poll),
            // The files are the same, but an entry of them has lapsed.
            () = lapse(&self.world.live, self.reconciled, slow) => {
                self.reconcile();
                return;
            }
        };
        if cause == Cause::Signal {
            self.inbox.gather_signals().await;
        }
        let outcome = self.reload(cause, &accept, bind).await;
        if !matches!(outcome, Some(Outcome::Published { .. })) {
            // Nothing changed but the time: an entry may have lapsed.
            self.reconcile();
        }
        if let (Some(told), Some(outcome)) = (told, outcome) {
            // The caller may have been dropped.
            let _ = told.send(outcome);
        }
    }

    /// One reload. `None` means that there was nothing to do and nothing to report.
    async fn reload(&mut self, cause: Cause, accept: &Accept, bind: &Bind) -> Option<Outcome> {
        let began = Instant::now();
        let outcome = match self.next(cause, accept, bind).await {
            Ok(next) => self.publish(cause, next, began).await,
            Err(Halt::Unchanged) => self.unchanged(cause),
            Err(Halt::Rejected(errors)) => self.reject(cause, errors),
            Err(Halt::NothingNew) => return None,
        };
        Some(outcome)
    }

    /// The pipeline up to the publish.
    async fn next(&mut self, cause: Cause, accept: &Accept, bind: &Bind) -> Result<Bound, Halt> {
        self.watching.looks();
        self.refuse_in_drain(cause)?;
        let read = self.read(cause).await?;
        let (files, mut loaded) = self.recognise(cause, read).await?;
        let known = std::mem::take(&mut loaded.lists);
        let candidate = self.prepare(loaded, &files, accept)?;
        // Last of all, so that no socket has to be given back.
        let (candidate, takeover) = self.bind(candidate, bind).await?;
        Ok(Bound { candidate, takeover, files, known })
    }

    fn refuse_in_drain(&self, cause: Cause) -> Result<(), Halt> {
        if !self.world.lifecycle.is_draining() {
            return Ok(());
        }
        match cause {
            Cause::Poll => Err(Halt::NothingNew),
            _ => Err(self.rejected("draining: nothing is reloaded any more")),
        }
    }

    fn prepare(
        &self,
        loaded: Loaded,
        files: &Files,
        accept: &Accept,
    ) -> Result<Candidate, Vec<Diagnostic>> {
        let before = self.world.live.load_full();
        let settings = self.world.standing.settings.load_full();
        self.basis(&before, &settings).prepare(loaded, files, accept)
    }

    fn basis<'b>(&'b self, before: &'b Snapshot, settings: &'b Settings) -> Basis<'b> {
        let (tickets, tunnels) = (&self.tickets, &*self.world.tunnels);
        let (config, files) = (&*self.world.config, &self.running_files);
        Basis { config, before, files, settings, tickets, tunnels }
    }

    /// Binds the sockets that the candidate needs, on the worker's thread.
    async fn bind(
        &mut self,
        candidate: Candidate,
        bind: &Bind,
    ) -> Result<(Candidate, Takeover), Halt> {
        let (bind, now) = (Arc::clone(bind), self.world.standing.settings.load_full());
        let bound = self.worker.run(move || {
            bind(&now, &candidate.built.settings).map(|takeover| (candidate, takeover))
        });
        let bound = bound.await;
        if !matches!(bound, Some(Ok(_))) {
            // The same files may bind the next time, so a poll tries them again.
            self.tried = None;
        }
        let Some(bound) = bound else {
            self.world.metrics.panicked();
            return Err(self.rejected("the reload broke off: see the log"));
        };
        Ok(bound?)
    }

    /// The effect that a reload would have now, or would have once the candidate of the policy
    /// `promoted` replaced it.
    async fn preview(&self, promoted: Option<String>) -> Preview {
        let now = self.world.live.load_full();
        let settings = self.world.standing.settings.load_full();
        let basis = self.basis(&now, &settings);
        let Some(Read { files, loaded }) = self.load(promoted).await else {
            let next = Err(vec![self.diagnostic("the reading broke off: see the log")]);
            return Preview { now, settings, next, weighed: Weighed::default() };
        };
        let next = loaded.and_then(|loaded| basis.compile(loaded, files.digest()));
        let weighed = next.as_ref().map(|built| basis.weigh(built, &files, &Accept::default()));
        let weighed = weighed.unwrap_or_default();
        Preview { now, settings, next, weighed }
    }
}

/// Waits until an entry of the running lists has lapsed since `reconciled`, but no longer than
/// `most`, since the clock may be set meanwhile.
async fn lapse(live: &Live, reconciled: Timestamp, most: Duration) {
    let now = Timestamp::now();
    // Not from now on: an entry may have lapsed while this task was busy with something else. A
    // clock that was set back must not hide the entries in between.
    let next = live.load().next_expiry(reconciled.min(now));
    sleep(until(next, now, most)).await;
}

/// Time from `now` until `next`: zero if that has passed, `most` at most.
fn until(next: Option<Timestamp>, now: Timestamp, most: Duration) -> Duration {
    let Some(next) = next else { return most };
    Duration::try_from(next.duration_since(now)).unwrap_or_default().min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::policy::limit::Limits;
    use crate::snapshot::tests::{generation, policy};

    #[test]
    fn lapse_is_due_at_once_when_it_passed_while_the_task_was_busy() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (now, most) = (at(100), Duration::from_secs(30));
        assert_eq!(until(Some(at(97)), now, most), Duration::ZERO);
        assert_eq!(until(Some(at(107)), now, most), Duration::from_secs(7));
        assert_eq!(until(Some(at(999)), now, most), most);
        assert_eq!(until(None, now, most), most);
    }

    #[tokio::test(start_paused = true)]
    async fn lapse_is_counted_from_the_last_judging_and_not_from_now() {
        let denied = ["192.0.2.1 expires=2020-01-01T00:00:00Z"];
        let policy = policy(&denied, &Limits::default());
        let (live, most) = (Live::new(generation(1, policy, None)), Duration::from_secs(30));
        for (reconciled, waits) in [("2019-12-31T00:00:00Z", 0), ("2020-01-01T00:00:00Z", 30)] {
            let began = Instant::now();
            lapse(&live, reconciled.parse().unwrap(), most).await;
            assert_eq!(began.elapsed().as_secs(), waits, "{reconciled}");
        }
    }
}
