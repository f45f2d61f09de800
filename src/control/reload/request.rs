//! The requests that the reloader serves, and its answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::control::compile::CompiledGeneration;
use crate::control::config::Settings;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::overlay::Overlay;
use crate::control::guards::Guards;
use crate::control::overrides::TestOverride;
use crate::snapshot::Snapshot;
use crate::snapshot::widening::Widening;
use crate::tunnels::ReconcileImpact;

/// Longest time for which saved files are not read while a command replaces them. A command that is
/// stopped meanwhile releases them by this alone.
pub const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The command that publishes all files.
pub(super) const COMMAND: &str = "sidegate reload";

/// The event that triggered a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The watch reported a change.
    Saved,
    /// A periodic look at the files, or a retry after a fault that may have ended.
    Poll,
    /// SIGHUP, sent to the process by an operator or a supervisor.
    Signal,
    /// `sidegate reload`, through the admin socket.
    Requested,
}

impl Trigger {
    /// The word for this cause in log lines.
    pub const fn word(self) -> &'static str {
        match self {
            Trigger::Saved => "saved",
            Trigger::Poll => "poll",
            Trigger::Signal => "signal",
            Trigger::Requested => "asked",
        }
    }
}

/// The result of a reload.
#[derive(Debug, Clone)]
pub enum ReloadOutcome {
    /// A new generation runs.
    Published {
        /// Number of the new generation.
        generation: u64,
        /// Digest of the new generation's files.
        digest: Arc<str>,
        /// Number of live tunnels and exchanges that the new generation refuses.
        revoked: usize,
        /// Findings that are not errors, for an operator to look at.
        warnings: Arc<[Diagnostic]>,
        /// The failed tests that are overridden.
        overridden: Arc<Vec<TestOverride>>,
        /// Why the published files are not kept. `None` means that they are, or need not be.
        not_kept: Option<String>,
    },
    /// The files equal those of the running generation.
    Unchanged {
        /// The generation that runs.
        generation: u64,
        /// Digest of the running generation's files.
        digest: Arc<str>,
        /// The reload that published it. `None` means that it is the first generation, or that it
        /// was published more than a minute ago.
        recent: Option<RecentPublish>,
        /// Why the published files are not kept. `None` means that they are, or need not be.
        not_kept: Option<String>,
    },
    /// The reload failed; the running generation was kept.
    Rejected {
        /// All errors, then warnings.
        errors: Arc<[Diagnostic]>,
    },
    /// The order is for other files than those on disk. Nothing was compiled.
    OtherFiles {
        /// Why nothing was done.
        errors: Arc<[Diagnostic]>,
    },
}

/// A publish that came shortly before a request for the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentPublish {
    /// The event that triggered it.
    pub trigger: Trigger,
    /// Time since that publish.
    pub age: Duration,
}

/// The effects of a held reload that an operator has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedEffects {
    /// Names of the lists that are accepted although they shrank.
    pub shrunk: Vec<String>,
    /// Whether any number of closed tunnels is accepted.
    pub revocations: bool,
    /// Whether any number of newly admitted addresses is accepted.
    pub widening: bool,
    /// Names of tests that may fail.
    pub overrides: Vec<String>,
    /// Whether held files stay as they run, so that only the files that are never held count.
    pub live_only: bool,
    /// The first digits of the digest of the files that the order is for. `None` means any files.
    pub expect: Option<String>,
}

impl AcceptedEffects {
    /// Whether the order publishes what a save would not.
    pub(super) fn is_any(&self) -> bool {
        let is_bound = self.revocations || self.widening;
        is_bound || !self.shrunk.is_empty() || !self.overrides.is_empty()
    }
}

/// A question for what a reload would do.
#[derive(Debug, Clone, Default)]
pub struct PreviewQuestion {
    /// The policy whose candidate is taken as if it had been promoted. `None` means no policy.
    pub promoted: Option<String>,
    /// Texts in place of files.
    pub overlay: Arc<Overlay>,
    /// Names of tests that may fail.
    pub overrides: Vec<String>,
}

impl PreviewQuestion {
    /// The command that publishes the previewed files.
    pub(super) fn command(&self) -> String {
        match &self.promoted {
            Some(name) => format!("sidegate promote {name}"),
            None if !self.overlay.is_empty() => "sidegate apply".to_owned(),
            None => COMMAND.to_owned(),
        }
    }
}

/// The effect that a reload would have now.
pub struct ReloadPreview {
    /// Snapshot of the running generation.
    pub now: Arc<Snapshot>,
    /// Settings of the running generation.
    pub settings: Arc<Settings>,
    /// What the files of the running generation check of themselves.
    pub guards: Arc<Guards>,
    /// Digest of the files in full, as a reload finds them. Empty means that they were not read.
    pub digest: String,
    /// The generation that the files would produce, or the errors in them.
    pub next: Result<CompiledGeneration, Vec<Diagnostic>>,
    /// The effect of the next generation on the live tunnels.
    pub impact: ReloadImpact,
}

/// The effect of a generation on the live tunnels, and the reasons to hold it.
#[derive(Default)]
pub struct ReloadImpact {
    /// Numbers of live tunnels and streams, and how many of them the generation would refuse.
    pub weight: ReconcileImpact,
    /// What the generation admits and the running one refuses. Empty where it was not asked for.
    pub widening: Widening,
    /// Reasons why the generation is not published until an operator accepts them.
    pub held: Vec<Diagnostic>,
}

/// A request to the reloader.
pub(super) enum ReloaderRequest {
    Reload { trigger: Trigger, accept: AcceptedEffects, tx: Option<oneshot::Sender<ReloadOutcome>> },
    Pause { tx: oneshot::Sender<WatchPause> },
    Preview { question: PreviewQuestion, tx: oneshot::Sender<ReloadPreview> },
    Suspend { tx: oneshot::Sender<Suspension> },
}

/// A pause of the watch; ends when it is dropped.
#[derive(Debug)]
pub struct WatchPause {
    _ended: DropGuard,
}

impl WatchPause {
    /// The pause, and the token that is cancelled when it ends.
    pub(super) fn new() -> (WatchPause, CancellationToken) {
        let ended = CancellationToken::new();
        (WatchPause { _ended: ended.clone().drop_guard() }, ended)
    }
}

/// A time in which nothing is reloaded, and every request waits; ends when it is dropped.
#[derive(Debug)]
pub struct Suspension {
    _ended: DropGuard,
}

impl Suspension {
    /// Sends a suspension to its caller, and waits until it ends.
    pub(super) async fn grant(tx: oneshot::Sender<Suspension>) {
        let ended = CancellationToken::new();
        // If the caller is gone, the suspension ends with this.
        let _ = tx.send(Suspension { _ended: ended.clone().drop_guard() });
        ended.cancelled().await;
    }
}

/// Handle that requests reloads from anywhere in the process.
#[derive(Clone)]
pub struct ReloaderHandle {
    pub(super) asks: mpsc::Sender<ReloaderRequest>,
    /// Holds a permit while a signal waits for its reload.
    pub(super) signals: Arc<Notify>,
}

impl ReloaderHandle {
    /// Requests a reload and awaits its outcome. `None` means that the process is ending, or that
    /// the reload panicked.
    pub async fn reload(&self, trigger: Trigger, accept: AcceptedEffects) -> Option<ReloadOutcome> {
        let (tx, outcome) = oneshot::channel();
        self.asks.send(ReloaderRequest::Reload { trigger, accept, tx: Some(tx) }).await.ok()?;
        outcome.await.ok()
    }

    /// Queues a request for a reload; waits while the queue is full. The log reports the outcome.
    pub async fn queue_reload(&self, trigger: Trigger, accept: AcceptedEffects) {
        // A process that is ending reloads nothing.
        let _ = self.asks.send(ReloaderRequest::Reload { trigger, accept, tx: None }).await;
    }

    /// Requests a reload as SIGHUP does, without waiting; the log reports the outcome. Requests
    /// that come before the reload begins are served by the same one.
    pub fn try_reload(&self) {
        // Not through the queue: a full one would lose the signal.
        self.signals.notify_one();
    }

    /// Reads no saved file until a reload is requested or the pause is dropped, for [`MAX_PAUSE`] at
    /// most. `None` means that the process is ending.
    pub async fn pause(&self) -> Option<WatchPause> {
        let (tx, paused) = oneshot::channel();
        self.asks.send(ReloaderRequest::Pause { tx }).await.ok()?;
        paused.await.ok()
    }

    /// Waits for the reload that runs, and begins none until the result is dropped. `None` means
    /// that the process is ending.
    pub async fn suspend(&self) -> Option<Suspension> {
        let (tx, suspended) = oneshot::channel();
        self.asks.send(ReloaderRequest::Suspend { tx }).await.ok()?;
        suspended.await.ok()
    }

    /// Previews a reload. `None` means that the process is ending.
    pub async fn preview(&self, question: PreviewQuestion) -> Option<ReloadPreview> {
        let (tx, preview) = oneshot::channel();
        self.asks.send(ReloaderRequest::Preview { question, tx }).await.ok()?;
        preview.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures_util::FutureExt;

    #[tokio::test]
    async fn signal_is_kept_when_the_queue_is_full_and_several_are_one() {
        let (asks, _requests) = mpsc::channel(1);
        let requests = ReloaderHandle { asks, signals: Arc::default() };
        requests.queue_reload(Trigger::Requested, AcceptedEffects::default()).await;
        assert!(requests.asks.try_reserve().is_err(), "the queue is full");
        requests.try_reload();
        requests.try_reload();
        let waits = || requests.signals.notified().now_or_never().is_some();
        assert_eq!([waits(), waits()], [true, false]);
    }
}
