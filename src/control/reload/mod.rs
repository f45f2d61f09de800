//! The story of a reload: read, load, compile, bind, publish, reconcile.
//!
//! Until the publish every step is a function from value to value: if one fails,
//! what runs is kept, and the failure stands in the log, in a metric and in
//! `/readyz`'s body. It never touches a socket: binding is the wiring's, handed in as [`Bind`].

mod apart;
mod first;
mod publish;
mod reading;
mod request;
mod standing;
mod weigh;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::apart::Apart;
pub use self::first::{Handover, Started, start};
use self::reading::outlast;
use self::request::Ask;
pub use self::request::{Accept, Cause, Outcome, Preview, Requests, Weighed};
pub use self::standing::{Last, ListFile, Standing};
use crate::control::compile::build;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::readers::Readers;
use crate::control::config::source::Digest;
use crate::control::config::{ListFiles, Settings};
use crate::control::systemd::Sockets;
use crate::control::watch::{Watching, Ways, Why};
use crate::lifecycle::Lifecycle;
use crate::observe::metrics::Metrics;
use crate::observe::pulse::Pulse;
use crate::snapshot::Live;
use crate::snapshot::tls::Tickets;
use crate::tunnels::Tunnels;

/// The least time between two reloads that signals ask for.
const BURST: Duration = Duration::from_millis(50);

/// The pause after a reload that panicked.
const AFTER_A_BUG: Duration = Duration::from_secs(1);

/// Binds the sockets that the second settings want and the first, which run, have not. It may take a while, and
/// changes nothing for anybody; what cannot be bound is told as diagnostics.
pub type Bind = Arc<dyn Fn(&Settings, &Settings) -> Result<Takeover, Vec<Diagnostic>> + Send + Sync>;

/// Serves on what was bound, and stops accepting on what is no longer wanted; called on the control plane once
/// the settings run. Dropped instead, it was as if nothing had been bound.
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
    config: PathBuf,
    passed: Arc<Sockets>,
    live: Arc<Live>,
    tunnels: Arc<Tunnels>,
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    standing: Arc<Standing>,
    tickets: Tickets,
    /// What was last tried, published or not: a poll that finds it is no reload. `None`: it is to be
    /// tried again, for a bind may succeed the next time.
    tried: Option<Digest>,
    /// The list files of it: one that was rejected for a stale list may be in order once that is fresh.
    tried_lists: Vec<ListFile>,
    running: Digest,
    /// What the list files of the generation that runs say.
    known: Arc<ListFiles>,
    readers: Readers,
    apart: Apart,
    watching: Watching,
    /// Since when a certificate and its key have not been a pair.
    half: Option<Instant>,
    /// Whether a signal waits for a reload, and when the last one got it.
    nudged: Arc<AtomicBool>,
    signalled: Option<Instant>,
    requests: mpsc::Receiver<Ask>,
    tracker: TaskTracker,
}

impl Reloader {
    /// Takes over from the first generation.
    pub fn new(world: World, handover: Handover) -> (Self, Requests) {
        let (ask, requests) = mpsc::channel(16);
        let World { config, passed, live, tunnels, metrics, lifecycle, standing, tracker } = world;
        let Handover { tickets, digest, known, readers, ways } = handover;
        let mode = standing.settings.load().reload.watch;
        let mut watching = Watching::new(mode);
        let turned = watching.turn(mode).to(Ways { gone: None, ..ways });
        watching.turned(Some(turned));
        metrics.lists_modified(standing.lists.load().iter().map(|one| (&*one.policy, &*one.list, one.modified)));
        let (tried, running, known) = (Some(digest), digest, Arc::new(known));
        let tried_lists = standing.lists.load().to_vec();
        let reloader = Reloader {
            config,
            passed,
            live,
            tunnels,
            metrics,
            lifecycle,
            standing,
            tickets,
            tried,
            tried_lists,
            running,
            known,
            readers,
            apart: Apart::new(),
            watching,
            half: None,
            nudged: Arc::default(),
            signalled: None,
            requests,
            tracker,
        };
        reloader.tell_watch();
        let nudged = Arc::clone(&reloader.nudged);
        (reloader, Requests { asks: ask, nudged })
    }

    /// Reloads whenever a file changes or somebody asks, until `stop`; `pulse` beats meanwhile, also while a
    /// reload waits for its files to be read.
    pub async fn run(mut self, bind: Bind, pulse: Pulse, stop: CancellationToken) {
        let turning = async {
            // So that what is told of candidates is there from the start.
            self.reconcile();
            loop {
                let turned = AssertUnwindSafe(self.turn(&bind)).catch_unwind().await;
                if turned.is_err() {
                    tracing::error!("a reload broke off: what runs was kept, and the next one is tried");
                    self.metrics.panicked();
                    sleep(AFTER_A_BUG).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => pulse.end(),
            () = pulse.keep() => {}
            () = turning => {}
        }
    }

    async fn turn(&mut self, bind: &Bind) {
        let slow = self.standing.settings.load().reload.poll;
        let by_itself = |cause| (cause, Accept::default(), None);
        let (cause, accept, told) = tokio::select! {
            request = self.requests.recv() => match request {
                Some(Ask::Reload { cause, accept, told }) => (cause, accept, told),
                Some(Ask::Preview { promoted, told }) => {
                    // Whoever asked may have gone away.
                    let _ = told.send(self.preview(promoted).await);
                    return;
                }
                None => std::future::pending().await,
            },
            why = self.watching.due(slow) => by_itself(match why {
                Why::Changed => Cause::Saved,
                Why::Due => Cause::Poll,
            }),
            () = outlast(self.half) => by_itself(Cause::Poll),
            () = self.readers.returned() => by_itself(Cause::Poll),
            // The files are as they were, but not what they say.
            () = lapse(&self.live, slow) => {
                self.reconcile();
                return;
            }
        };
        if cause == Cause::Signal {
            // Those that come in a burst are one, whether they wait already or come in a moment.
            if let Some(before) = self.signalled {
                sleep_until(before + BURST).await;
            }
            self.signalled = Some(Instant::now());
            self.nudged.store(false, Ordering::SeqCst);
        }
        let outcome = self.reload(cause, &accept, bind).await;
        if !matches!(outcome, Some(Outcome::Published { .. })) {
            // Nothing changed but the time: an entry may have lapsed.
            self.reconcile();
        }
        if let (Some(told), Some(outcome)) = (told, outcome) {
            // Whoever asked may have gone away.
            let _ = told.send(outcome);
        }
    }

    /// One reload. `None`: a poll that found what was tried already.
    ///
    /// If it fails, what runs is kept: no traffic and no socket is touched.
    async fn reload(&mut self, cause: Cause, accept: &Accept, bind: &Bind) -> Option<Outcome> {
        self.watching.looks();
        if self.lifecycle.is_draining() {
            let errors = vec![Diagnostic::of(&self.config, "draining: nothing is reloaded any more".into(), None)];
            return (cause != Cause::Poll).then(|| self.reject(cause, errors));
        }
        let began = Instant::now();
        let (files, mut loaded) = match self.read(cause).await {
            Some(read) => read,
            None => return Some(self.reject(cause, vec![Diagnostic::of(&self.config, "the files keep changing".into(), None)])),
        };
        self.watch(&files, loaded.is_ok()).await;
        let digest = files.digest();
        let lists = loaded.as_ref().map(|loaded| ListFile::all(loaded.feeds())).unwrap_or_default();
        let was_tried = self.tried == Some(digest) && (digest == self.running || self.tried_lists == lists);
        (self.tried, self.tried_lists) = (Some(digest), lists.clone());
        if let Ok(loaded) = &mut loaded
            && digest == self.running
        {
            self.found(lists);
            self.look(loaded);
        }
        if cause == Cause::Poll && was_tried {
            return None;
        }
        let is_half = loaded.as_ref().is_err_and(|errors| errors.iter().filter(|one| one.is_error()).all(Diagnostic::is_half));
        self.half = self.half.filter(|_| is_half);
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(errors) if is_half && self.awaits_the_other(cause, &errors) => return None,
            Err(errors) => return Some(self.reject(cause, errors)),
        };
        let known = std::mem::take(&mut loaded.lists);
        if digest == self.running {
            return Some(self.unchanged(cause));
        }
        let before = self.live.load_full();
        let restart = self.restart(&loaded.settings);
        if !restart.is_empty() {
            return Some(self.reject(cause, restart));
        }
        let built = match build(loaded, &self.config, &digest.to_string(), Some(&before), &self.tickets) {
            Ok(built) => built,
            Err(errors) => return Some(self.reject(cause, errors)),
        };
        let held = self.weigh(&built, &before, accept).held;
        if !held.is_empty() {
            return Some(self.reject(cause, held));
        }
        let lists = ListFile::all(built.feeds.iter().map(|(policy, feed)| (policy, feed)));
        // Last of all: nothing that is bound has to be given back.
        let (bind, now) = (Arc::clone(bind), self.standing.settings.load_full());
        let now_watch = now.reload.watch;
        let bound = self.apart.run(move || bind(&now, &built.settings).map(|takeover| (built, takeover)));
        let Some(bound) = bound.await else {
            self.metrics.panicked();
            self.tried = None;
            return Some(
                self.reject(cause, vec![Diagnostic::of(&self.config, "the reload broke off: see the log".into(), None)]),
            );
        };
        match bound {
            Ok((built, takeover)) => {
                self.running = digest;
                let former = std::mem::replace(&mut self.known, Arc::new(known)).without(&self.known);
                self.found(lists);
                let outcome = self.publish(cause, built, began);
                takeover();
                if self.standing.settings.load().reload.watch != now_watch {
                    self.watch(&files, true).await;
                }
                self.tracker.spawn(self.apart.clone().give_back(former));
                Some(outcome)
            }
            Err(errors) => {
                self.tried = None;
                Some(self.reject(cause, errors))
            }
        }
    }
}

/// Waits until an entry of what runs lapses, but no longer than `most`: the clock may be set.
async fn lapse(live: &Live, most: Duration) {
    let now = Timestamp::now();
    let next = live.load().next_expiry(now).and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    sleep(next.map_or(most, |next| next.min(most))).await;
}
