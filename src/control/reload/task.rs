//! The task that reloads: its state, and the reasons why a reload ends early.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
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

/// Binds the sockets that the second settings need and the first, which run, do not have. May take
/// a while and changes nothing that runs. Errors are diagnostics.
pub type Bind =
    Arc<dyn Fn(&Settings, &Settings) -> Result<Takeover, Vec<Diagnostic>> + Send + Sync>;

/// Starts serving on sockets that were bound, and stops accepting on those that are gone. Called on
/// the control plane once the settings run. Dropping it instead closes the new sockets.
pub type Takeover = Box<dyn FnOnce() + Send>;

/// The parts of the process that a reload reads and changes.
#[derive(Clone)]
pub struct World {
    /// Path of `sidegate.toml`.
    pub config: PathBuf,
    /// Sockets that systemd passed.
    pub passed: Arc<Sockets>,
    /// The running generation.
    pub live: Arc<Live>,
    /// The live tunnels and exchanges, which are judged again.
    pub tunnels: Arc<Tunnels>,
    /// Counts reloads.
    pub metrics: Arc<Metrics>,
    /// A draining process reloads nothing.
    pub lifecycle: Arc<Lifecycle>,
    /// Settings and diagnostics of the files.
    pub standing: Arc<Standing>,
    /// Owns the tasks that close revoked tunnels.
    pub tracker: TaskTracker,
}

/// The task that reloads: one reload at a time.
pub struct Reloader {
    pub(super) world: World,
    pub(super) tickets: Tickets,
    pub(super) inbox: Inbox,
    pub(super) watching: Watching,
    /// Reads of files that may hang, with a bound on each.
    pub(super) readers: Readers,
    pub(super) worker: FileWorker,
    /// Entries of the running generation's list files.
    pub(super) known: Arc<ListFiles>,
    /// Digest of the files that run.
    pub(super) running: Digest,
    /// Digest of each of them.
    pub(super) running_files: Digests,
    /// The files that were last tried, published or not: a poll that finds them is no reload.
    /// `None` means that they are tried again, since a bind may succeed the next time.
    pub(super) tried: Option<Tried>,
    /// Since when a certificate and its key have not matched. `None` means that they do.
    pub(super) half: Option<Instant>,
}

/// Where requests arrive.
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<Ask>,
    /// Whether a signal waits for a reload.
    pub(super) nudged: Arc<AtomicBool>,
    /// When a signal was last served.
    pub(super) signalled: Option<Instant>,
}

/// Files that were tried.
pub(super) struct Tried {
    pub(super) digest: Digest,
    /// Their list files: a reload that was rejected for a stale list may pass once it is fresh.
    pub(super) lists: Vec<ListFile>,
}

/// The reason why a reload ends before it publishes.
pub(super) enum Halt {
    /// A poll found nothing new, or one half of a renewal.
    NothingNew,
    /// The files are what runs.
    Unchanged,
    /// Errors; the running generation is kept.
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
    /// Signals in a burst are one request, whether they wait already or come in a moment.
    pub(super) async fn gather_signals(&mut self) {
        if let Some(before) = self.signalled {
            sleep_until(before + SIGNAL_INTERVAL).await;
        }
        self.signalled = Some(Instant::now());
        self.nudged.store(false, Ordering::SeqCst);
    }
}
