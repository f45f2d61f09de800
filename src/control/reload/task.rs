//! The task that reloads: its state, and the reasons why a reload ends early.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::fs_executor::FsExecutor;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{ListFileCache, Settings};
use crate::control::published::PublishedKeeper;
use crate::control::reload::apply_pause::ApplyPauses;
use crate::control::reload::config_status::{ConfigStatus, ListFileStatus};
use crate::control::reload::held::HeldFiles;
use crate::control::reload::prepare::PreparedGeneration;
use crate::control::reload::request::{ReloaderRequest, Trigger};
use crate::control::reload::shown::ShownFiles;
use crate::control::reload::worker::FileWorker;
use crate::control::resolve::Resolver;
use crate::control::systemd::sockets::PassedSockets;
use crate::control::watch::FileWatch;
use crate::lifecycle::Lifecycle;
use crate::observe::metrics::Metrics;
use crate::observe::recent::RecentDecisions;
use crate::snapshot::CurrentSnapshot;
use crate::snapshot::tls::TicketKeys;
use crate::tunnels::Tunnels;

/// Least time between the reloads of two signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Binds the sockets that the second settings need and the first, running ones lack. May take a
/// while and changes nothing that runs. Errors are diagnostics.
pub type BindFn =
    Arc<dyn Fn(&Settings, &Settings) -> Result<TakeoverFn, Vec<Diagnostic>> + Send + Sync>;

/// Starts to serve on the new sockets, and stops accepting on the removed ones. Called on the
/// control plane once the settings run. Dropping it instead closes the new sockets.
pub type TakeoverFn = Box<dyn FnOnce() + Send>;

/// The parts of the process that a reload reads and changes.
#[derive(Clone)]
pub struct ReloadContext {
    /// Path of `sidegate.toml`, as given on the command line.
    pub config: PathBuf,
    /// Sockets that systemd passed.
    pub passed: Arc<PassedSockets>,
    /// Pointer to the running generation, which a publish swaps.
    pub live: Arc<CurrentSnapshot>,
    /// The live tunnels and exchanges, which are judged again after each reload.
    pub tunnels: Arc<Tunnels>,
    /// Counts reloads by result, and reports list files and the watch.
    pub metrics: Arc<Metrics>,
    /// The recent decisions, whose bounds a reload may change.
    pub recent: Arc<RecentDecisions>,
    /// Stage of the process: a draining process reloads nothing.
    pub lifecycle: Arc<Lifecycle>,
    /// Settings and diagnostics of the files, published to the rest of the process.
    pub config_status: Arc<ConfigStatus>,
    /// Resolves the names of a new generation before its publish.
    pub resolver: Resolver,
    /// Owns the tasks that close revoked tunnels.
    pub tracker: TaskTracker,
}

/// State of the reloading task, which runs one reload at a time.
pub struct Reloader {
    pub(super) context: ReloadContext,
    pub(super) tickets: TicketKeys,
    pub(super) receiver: RequestReceiver,
    pub(super) watching: FileWatch,
    /// Runs calls into file systems that may hang, each with a deadline.
    pub(super) executor: FsExecutor,
    pub(super) worker: FileWorker,
    /// Entries of the running generation's list files.
    pub(super) known: Arc<ListFileCache>,
    /// Digest of the running generation's files together.
    pub(super) running: Digest,
    /// Digest of each of those files.
    pub(super) running_files: Digests,
    /// The files that were last tried, published or not: a poll that finds the same is no reload.
    /// `None` means that the next look tries them again, since a bind may succeed then.
    pub(super) tried: Option<AttemptedFiles>,
    /// Time since which a certificate and its key have not matched. `None` means that they match.
    pub(super) half: Option<Instant>,
    /// What published the running generation, and when. `None` means the start of the process.
    pub(super) published: Option<(Trigger, Instant)>,
    /// The texts that are held, and the saved files that are pending.
    pub(super) held: HeldFiles,
    /// Keeps the published texts and overrides for the next start.
    pub(super) keeper: PublishedKeeper,
    /// The commands that replace files now.
    pub(super) pauses: ApplyPauses,
    /// The files that commands have shown.
    pub(super) shown: ShownFiles,
    /// When the live tunnels were last judged. An entry that lapses later is not noticed yet.
    pub(super) reconciled: Timestamp,
}

/// Receiving end of [`ReloaderHandle`](super::ReloaderHandle).
pub(super) struct RequestReceiver {
    pub(super) requests: mpsc::Receiver<ReloaderRequest>,
    /// Holds a permit while a signal waits for its reload.
    pub(super) signals: Arc<Notify>,
    /// Time at which a signal was last served. `None` means not yet.
    pub(super) signalled: Option<Instant>,
}

/// The files of an earlier attempt, which a poll compares with what it finds.
pub(super) struct AttemptedFiles {
    pub(super) digest: Digest,
    /// List files among them: a reload that was rejected for a stale list may pass once it is
    /// fresh.
    pub(super) lists: Vec<ListFileStatus>,
}

/// The reason why a reload ends before the publish.
pub(super) enum ReloadStop {
    /// A poll found nothing new, or one half of a renewal.
    NoChange,
    /// The files equal those of the running generation.
    Unchanged,
    /// The errors. The running generation is kept.
    Rejected(Vec<Diagnostic>),
    /// The order is for other files than those on disk, for the reason given.
    OtherFiles(Vec<Diagnostic>),
}

impl From<Vec<Diagnostic>> for ReloadStop {
    fn from(errors: Vec<Diagnostic>) -> Self {
        ReloadStop::Rejected(errors)
    }
}

/// A generation whose sockets are bound.
pub(super) struct BoundGeneration {
    pub(super) prepared: PreparedGeneration,
    pub(super) takeover: TakeoverFn,
    pub(super) files: Files,
    pub(super) known: ListFileCache,
}

impl Reloader {
    pub(super) fn rejected(&self, fault: &str) -> ReloadStop {
        ReloadStop::Rejected(vec![self.diagnostic(fault)])
    }

    pub(super) fn diagnostic(&self, fault: &str) -> Diagnostic {
        Diagnostic::for_file(&self.context.config, fault.into(), None)
    }
}

impl RequestReceiver {
    /// Merges a burst of signals, queued or still to come within `SIGNAL_INTERVAL`, into one
    /// request.
    pub(super) async fn coalesce_signals(&mut self) {
        if let Some(before) = self.signalled {
            sleep_until(before + SIGNAL_INTERVAL).await;
        }
        self.signalled = Some(Instant::now());
        // Signals that came meanwhile are served by this reload, which has not read a file yet.
        let _ = self.signals.notified().now_or_never();
    }
}
