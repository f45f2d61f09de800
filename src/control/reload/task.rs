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
use crate::control::config::readers::Readers;
use crate::control::config::source::{Digest, Digests, Files};
use crate::control::config::{ListFiles, Settings};
use crate::control::reload::prepare::Candidate;
use crate::control::reload::request::Ask;
use crate::control::reload::standing::{ListFile, Standing};
use crate::control::reload::worker::FileWorker;
use crate::control::systemd::sockets::Sockets;
use crate::control::watch::Watching;
use crate::lifecycle::Lifecycle;
use crate::observe::metrics::Metrics;
use crate::snapshot::Live;
use crate::snapshot::tls::Tickets;
use crate::tunnels::Tunnels;

/// Least time between the reloads of two signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Binds the sockets that the second settings need and the first, running ones lack. May take a
/// while and changes nothing that runs. Errors are diagnostics.
pub type Bind =
    Arc<dyn Fn(&Settings, &Settings) -> Result<Takeover, Vec<Diagnostic>> + Send + Sync>;

/// Starts to serve on the new sockets, and stops accepting on the removed ones. Called on the
/// control plane once the settings run. Dropping it instead closes the new sockets.
pub type Takeover = Box<dyn FnOnce() + Send>;

/// The parts of the process that a reload reads and changes.
#[derive(Clone)]
pub struct World {
    /// Path of `sidegate.toml`, as given on the command line.
    pub config: PathBuf,
    /// Sockets that systemd passed.
    pub passed: Arc<Sockets>,
    /// Pointer to the running generation, which a publish swaps.
    pub live: Arc<Live>,
    /// The live tunnels and exchanges, which are judged again after each reload.
    pub tunnels: Arc<Tunnels>,
    /// Counts reloads by result, and reports list files and the watch.
    pub metrics: Arc<Metrics>,
    /// Stage of the process: a draining process reloads nothing.
    pub lifecycle: Arc<Lifecycle>,
    /// Settings and diagnostics of the files, published to the rest of the process.
    pub standing: Arc<Standing>,
    /// Owns the tasks that close revoked tunnels.
    pub tracker: TaskTracker,
}

/// State of the reloading task, which runs one reload at a time.
pub struct Reloader {
    pub(super) world: World,
    pub(super) tickets: Tickets,
    pub(super) inbox: Inbox,
    pub(super) watching: Watching,
    /// Runs calls into file systems that may hang, each with a deadline.
    pub(super) readers: Readers,
    pub(super) worker: FileWorker,
    /// Entries of the running generation's list files.
    pub(super) known: Arc<ListFiles>,
    /// Digest of the running generation's files together.
    pub(super) running: Digest,
    /// Digest of each of those files.
    pub(super) running_files: Digests,
    /// The files that were last tried, published or not: a poll that finds the same is no reload.
    /// `None` means that the next look tries them again, since a bind may succeed then.
    pub(super) tried: Option<Tried>,
    /// Time since which a certificate and its key have not matched. `None` means that they match.
    pub(super) half: Option<Instant>,
    /// When the live tunnels were last judged. An entry that lapses later is not noticed yet.
    pub(super) reconciled: Timestamp,
}

/// Receiving end of [`Requests`](super::Requests).
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<Ask>,
    /// Holds a permit while a signal waits for its reload.
    pub(super) signals: Arc<Notify>,
    /// Time at which a signal was last served. `None` means not yet.
    pub(super) signalled: Option<Instant>,
}

/// The files of an earlier attempt, which a poll compares with what it finds.
pub(super) struct Tried {
    pub(super) digest: Digest,
    /// List files among them: a reload that was rejected for a stale list may pass once it is
    /// fresh.
    pub(super) lists: Vec<ListFile>,
}

/// The reason why a reload ends before the publish.
pub(super) enum Halt {
    /// A poll found nothing new, or one half of a renewal.
    NothingNew,
    /// The files equal those of the running generation.
    Unchanged,
    /// The errors. The running generation is kept.
    Rejected(Vec<Diagnostic>),
}

impl From<Vec<Diagnostic>> for Halt {
    fn from(errors: Vec<Diagnostic>) -> Self {
        Halt::Rejected(errors)
    }
}

/// A generation whose sockets are bound.
pub(super) struct Bound {
    pub(super) candidate: Candidate,
    pub(super) takeover: Takeover,
    pub(super) files: Files,
    pub(super) known: ListFiles,
}

impl Reloader {
    pub(super) fn rejected(&self, fault: &str) -> Halt {
        Halt::Rejected(vec![self.diagnostic(fault)])
    }

    pub(super) fn diagnostic(&self, fault: &str) -> Diagnostic {
        Diagnostic::of(&self.world.config, fault.into(), None)
    }
}

impl Inbox {
    /// Merges a burst of signals, queued or still to come within `SIGNAL_INTERVAL`, into one
    /// request.
    pub(super) async fn gather_signals(&mut self) {
        if let Some(before) = self.signalled {
            sleep_until(before + SIGNAL_INTERVAL).await;
        }
        self.signalled = Some(Instant::now());
        // Signals that came meanwhile are served by this reload, which has not read a file yet.
        let _ = self.signals.notified().now_or_never();
    }
}
