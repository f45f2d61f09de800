//! The story of a reload: read, load, compile, bind, publish, reconcile.
//!
//! Until the publish every step is a function from value to value: if one fails,
//! what runs is kept, and the failure stands in the log, in a metric and in
//! `/readyz`'s body. It never touches a socket: binding is the wiring's, handed in as [`Bind`].

mod apart;
mod request;
mod standing;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::compile::{Built, build, fresh_tickets};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::source::{Digest, Files};
use crate::control::config::{self, ListFiles, Loaded, Pass, Settings};
use crate::control::rehearsal::{Script, rehearse};
use crate::control::revoke;
use crate::control::systemd::Sockets;
use crate::control::watch::{Watching, Ways, Why};
use crate::observe::metrics::{Metrics, ReloadResult};
use crate::observe::pulse::Pulse;
use crate::snapshot::tls::Tickets;
use crate::snapshot::{Live, Snapshot};
use crate::tunnels::{Reconciled, Tunnels};

use self::apart::Apart;
use self::request::Ask;
pub use self::request::{Accept, Cause, Outcome, Preview, Requests, Weighed};
pub use self::standing::{Last, ListFile, Standing};

/// How long the two reads of a saved change are apart.
const APART: Duration = Duration::from_millis(50);

/// How long files may keep changing before the reload is given up.
const RESTLESS: Duration = Duration::from_secs(10);

/// How long a certificate and a key that are no pair may be taken for one that is being renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// The least time between two reloads that signals ask for.
const BURST: Duration = Duration::from_millis(50);

/// The pause after a reload that panicked.
const AFTER_A_BUG: Duration = Duration::from_secs(1);

/// The first generation, and what it takes to make the next.
pub struct Started {
    /// The snapshot of the first generation.
    pub snapshot: Snapshot,
    /// Its settings and warnings.
    pub standing: Arc<Standing>,
    tickets: Tickets,
    digest: Digest,
    known: ListFiles,
    ways: Ways,
}

/// Loads and compiles the first generation; `passed` is what systemd passed.
///
/// # Errors
/// All that is wrong with the files.
pub fn start(config: &Path, passed: &Sockets) -> Result<Started, Vec<Diagnostic>> {
    let mut files = Files::new();
    let mut loaded = config::load(&mut files, config, Some(passed))?;
    let known = std::mem::take(&mut loaded.lists);
    let tickets = fresh_tickets(config)?;
    let digest = files.digest();
    let Built { snapshot, settings, warnings, feeds } = build(loaded, config, &digest.to_string(), None, &tickets)?;
    let standing = Standing {
        settings: ArcSwap::from_pointee(settings),
        rejected: ArcSwapOption::empty(),
        warnings: ArcSwap::from_pointee(warnings),
        since: ArcSwap::from_pointee(Timestamp::now()),
        last: ArcSwapOption::empty(),
        lists: ArcSwap::from_pointee(ListFile::all(feeds.iter().map(|(policy, feed)| (policy, feed)))),
        unwatched: ArcSwapOption::empty(),
    };
    let ways = Ways::to(files.paths(), files.folders());
    Ok(Started { snapshot, standing: Arc::new(standing), tickets, digest, known, ways })
}

/// Binds the sockets that the second settings want and the first, which run, have not. It may take a while, and
/// changes nothing for anybody; what cannot be bound is told as diagnostics.
pub type Bind = Arc<dyn Fn(&Settings, &Settings) -> Result<Takeover, Vec<Diagnostic>> + Send + Sync>;

/// Serves on what was bound, and stops accepting on what is no longer wanted; called on the control plane once
/// the settings run. Dropped instead, it was as if nothing had been bound.
pub type Takeover = Box<dyn FnOnce() + Send>;

/// The task that reloads: one reload at a time.
pub struct Reloader {
    config: PathBuf,
    passed: Arc<Sockets>,
    live: Arc<Live>,
    tunnels: Arc<Tunnels>,
    metrics: Arc<Metrics>,
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
    /// Takes over from the first generation. Revocations run on `tracker`.
    pub fn new(
        (config, passed): (PathBuf, Arc<Sockets>),
        started: (Arc<Standing>, Handover),
        live: Arc<Live>,
        tunnels: Arc<Tunnels>,
        metrics: Arc<Metrics>,
        tracker: TaskTracker,
    ) -> (Self, Requests) {
        let (ask, requests) = mpsc::channel(16);
        let (standing, Handover { tickets, digest, known, ways }) = started;
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
            standing,
            tickets,
            tried,
            tried_lists,
            running,
            known,
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
        if self.metrics.is_draining() {
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
        let bound = self.apart.run(move || bind(&now, &built.settings).map(|takeover| (built, takeover))).await?;
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

    /// Reads and loads: once if somebody asked, who has finished writing; else twice, apart, until
    /// nobody is writing. `None`: somebody never finishes.
    async fn read(&self, cause: Cause) -> Option<(Files, Result<Loaded, Vec<Diagnostic>>)> {
        let began = Instant::now();
        if matches!(cause, Cause::Asked | Cause::Signal) {
            return self.load(None).await;
        }
        while began.elapsed() < RESTLESS {
            let (files, loaded) = self.load(None).await?;
            if cause == Cause::Poll && self.tried == Some(files.digest()) {
                return Some((files, loaded));
            }
            sleep(APART).await;
            let (unchanged, files) = self.apart.run(move || (files.unchanged(), files)).await?;
            if unchanged {
                return Some((files, loaded));
            }
        }
        None
    }

    async fn load(&self, promoted: Option<String>) -> Option<(Files, Result<Loaded, Vec<Diagnostic>>)> {
        let (config, passed, known) = (self.config.clone(), Arc::clone(&self.passed), Arc::clone(&self.known));
        let read = move || {
            let mut files = Files::new();
            let pass = Pass { passed: Some(&passed), promoted: promoted.as_deref(), known: Some(&known) };
            let loaded = config::load_as(&mut files, &config, pass);
            (files, loaded)
        };
        self.apart.run(read).await
    }

    /// Watches what was asked for in this pass; `is_whole`: and nothing of it is missed.
    async fn watch(&mut self, files: &Files, is_whole: bool) {
        let paths: Vec<_> = files.paths().map(Path::to_owned).collect();
        let folders: Vec<_> = files.folders().map(Path::to_owned).collect();
        let turn = self.watching.turn(self.standing.settings.load().reload.watch);
        let turned = self.apart.run(move || {
            let ways = Ways::to(paths.iter().map(PathBuf::as_path), folders.iter().map(PathBuf::as_path));
            turn.to(Ways { gone: ways.gone.filter(|_| !is_whole), ..ways })
        });
        self.watching.turned(turned.await);
        self.tell_watch();
    }

    /// Says whether the files are watched, to everybody who asks.
    fn tell_watch(&self) {
        let trouble = self.watching.trouble();
        self.metrics.watch_degraded(trouble.is_some());
        self.standing.unwatched.store(trouble.map(|why| Arc::new(why.to_owned())));
    }

    /// Whether a certificate whose key is another one's is taken for half of a renewal, the other half of which comes.
    fn awaits_the_other(&mut self, cause: Cause, errors: &[Diagnostic]) -> bool {
        // Who asks has finished writing.
        if !matches!(cause, Cause::Saved | Cause::Poll) || self.half.is_some_and(|since| since.elapsed() >= RENEWAL) {
            return false;
        }
        if self.half.is_none() {
            for error in errors.iter().filter(|error| error.is_error()) {
                tracing::info!(
                    place = error.place(),
                    "{}: if it is being renewed, the other file comes; what runs is kept",
                    error.message
                );
            }
        }
        self.half.get_or_insert_with(Instant::now);
        self.tried = None;
        true
    }

    /// What a reload would do now; it is none.
    async fn preview(&self, promoted: Option<String>) -> Preview {
        let (now, settings) = (self.live.load_full(), self.standing.settings.load_full());
        let next = match self.load(promoted).await {
            Some((files, loaded)) => loaded.and_then(|loaded| {
                let restart = self.restart(&loaded.settings);
                if restart.is_empty() { Ok(()) } else { Err(restart) }?;
                build(loaded, &self.config, &files.digest().to_string(), Some(&now), &self.tickets)
            }),
            None => Err(vec![Diagnostic::of(&self.config, "the reading broke off: see the log".into(), None)]),
        };
        let weighed = next.as_ref().map(|built| self.weigh(built, &now, &Accept::default())).unwrap_or_default();
        Preview { now, settings, next, weighed }
    }

    /// Says what `built` would do to the open tunnels, and why it should be looked at before it does.
    fn weigh(&self, built: &Built, before: &Snapshot, accept: &Accept) -> Weighed {
        let now = Timestamp::now();
        let (open, revoked) = self.tunnels.weigh(&built.snapshot, now);
        let mut held: Vec<_> = built
            .feeds
            .iter()
            .filter_map(|(policy, feed)| {
                let policy = before.all_policies().find(|before| before.name == *policy);
                let list = policy.and_then(|policy| policy.lists().into_iter().find(|list| list.name == feed.name));
                feed.rejection(list.map(|list| list.len()), accept.shrunk.iter().any(|name| *name == *feed.name), now)
            })
            .collect();
        let bound = built.settings.reload.max_revoked;
        if !accept.revocations && bound.is_exceeded(revoked.len(), open) {
            let fault = format!("{} of {open} open tunnels would be closed, more than max_revoked = \"{bound}\"", revoked.len());
            let remedy = "`sidegate diff` says which; if they are meant: sidegate reload --accept-revocations";
            held.push(Diagnostic::of(&self.config, fault, Some(remedy.into())));
        }
        Weighed { open, revoked, held }
    }

    /// What of `next` cannot be changed while running.
    fn restart(&self, next: &Settings) -> Vec<Diagnostic> {
        if self.standing.settings.load().threads == next.threads {
            return Vec::new();
        }
        let fault = "threads: they are started once, and a reload starts and ends none".into();
        vec![Diagnostic::error(next.written.threads(), fault, Some("restart sidegate to change it, or take it back".into()))]
    }

    /// The one swap, and then the open tunnels: those that the new generation refuses are closed
    /// over the window, the others are not touched.
    fn publish(&self, cause: Cause, built: Built, began: Instant) -> Outcome {
        let Built { snapshot, settings, warnings, feeds: _ } = built;
        let snapshot = Arc::new(snapshot);
        self.standing.settings.store(Arc::new(settings));
        self.live.publish(Arc::clone(&snapshot));
        let revoked = self.reconcile();
        self.standing.rejected.store(None);
        for warning in &warnings {
            tracing::warn!(place = warning.place(), "{}", warning.message);
        }
        self.standing.warnings.store(Arc::new(warnings.clone()));
        self.standing.since.store(Arc::new(Timestamp::now()));
        self.ended(cause, ReloadResult::Published);
        let milliseconds = began.elapsed().as_millis() as u64;
        tracing::info!(cause = cause.word(), generation = snapshot.generation, digest = %snapshot.digest, revoked, milliseconds, "published");
        let (generation, digest) = (snapshot.generation, Arc::clone(&snapshot.digest));
        Outcome::Published { generation, digest, revoked, warnings: warnings.into() }
    }

    /// Judges the open tunnels by what runs and what time it is, and revokes those that are refused; says how many.
    fn reconcile(&self) -> usize {
        let Reconciled { refused, would_revoke } = self.tunnels.reconcile(&self.live.load(), Timestamp::now());
        self.metrics.candidates_would_revoke(would_revoke);
        let revoked = refused.len();
        if revoked > 0 {
            tracing::info!(tunnels = revoked, "revoking");
            self.tracker.spawn(revoke::revoke(refused, self.standing.settings.load().reload.revoke_spread));
        }
        revoked
    }

    /// Books a reload that came to its outcome.
    fn ended(&self, cause: Cause, result: ReloadResult) {
        let at = Timestamp::now();
        self.metrics.reloaded(result, at);
        self.standing.last.store(Some(Arc::new(Last { cause, result, at })));
    }

    /// Books what somebody should look at in the files that run, of which the clock has its part: a list that has become
    /// stale, or has been written again.
    fn look(&self, loaded: &mut Loaded) {
        let mut warnings = std::mem::take(&mut loaded.warnings);
        warnings.extend(rehearse(&self.live.load(), &Script::all(loaded)));
        self.standing.warnings.store(Arc::new(warnings));
    }

    /// Books the list files of what runs.
    fn found(&self, lists: Vec<ListFile>) {
        self.metrics.lists_modified(lists.iter().map(|one| (&*one.policy, &*one.list, one.modified)));
        self.standing.lists.store(Arc::new(lists));
    }

    fn unchanged(&self, cause: Cause) -> Outcome {
        self.standing.rejected.store(None);
        self.ended(cause, ReloadResult::Unchanged);
        let generation = self.live.load().generation;
        tracing::info!(cause = cause.word(), generation, "unchanged");
        Outcome::Unchanged { generation }
    }

    fn reject(&self, cause: Cause, errors: Vec<Diagnostic>) -> Outcome {
        self.ended(cause, ReloadResult::Rejected);
        for error in errors.iter().filter(|error| error.is_error()) {
            tracing::error!(place = error.place(), remedy = error.remedy.as_deref(), "{}", error.message);
        }
        let generation = self.live.load().generation;
        tracing::error!(cause = cause.word(), generation, "rejected: what runs was kept");
        self.standing.rejected.store(Some(Arc::new(errors.clone())));
        Outcome::Rejected { errors: errors.into() }
    }
}

/// What only the first generation has, handed to the task that makes the next.
pub struct Handover {
    tickets: Tickets,
    digest: Digest,
    known: ListFiles,
    ways: Ways,
}

impl Started {
    /// The snapshot to run, what stands in the files, and what the reloader needs.
    pub fn into_parts(self) -> (Snapshot, Arc<Standing>, Handover) {
        let Started { snapshot, standing, tickets, digest, known, ways } = self;
        (snapshot, standing, Handover { tickets, digest, known, ways })
    }
}

/// Waits until an entry of what runs lapses, but no longer than `most`: the clock may be set.
async fn lapse(live: &Live, most: Duration) {
    let now = Timestamp::now();
    let next = live.load().next_expiry(now).and_then(|next| Duration::try_from(next.duration_since(now)).ok());
    sleep(next.map_or(most, |next| next.min(most))).await;
}

/// Waits until half a renewal has been one for too long.
async fn outlast(half: Option<Instant>) {
    match half.map(|since| since + RENEWAL).filter(|until| *until > Instant::now()) {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
