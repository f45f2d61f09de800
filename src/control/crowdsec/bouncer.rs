//! The task that polls CrowdSec's Local API and brings its decisions to the bans.
//!
//! Large sets are parsed and judged on a blocking thread, so that the control plane goes on.

use std::collections::BTreeMap;
use std::future::{self, Future};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::bans::BanKeeper;
use crate::control::config::CrowdsecSettings;
use crate::control::config::fs_executor::FsExecutor;
use crate::control::crowdsec::client::{self, RequestFault};
use crate::control::crowdsec::decision::StreamUpdate;
use crate::control::crowdsec::file::{FILE, MAX_BYTES, decode, encode};
use crate::control::crowdsec::reason::UnappliedReason;
use crate::control::crowdsec::store::{DecisionGate, DecisionStore, Judged, UnappliedDecision};
use crate::control::reload::ConfigStatus;
use crate::control::state_dir::StateDir;
use crate::observe::metrics::{CrowdsecFigures, Metrics};
use crate::policy::ban::{BanOrigin, BanTarget, TargetBans};
use crate::snapshot::CurrentSnapshot;
use crate::sync::lock;
use crate::tunnels::Tunnels;

/// Time between two looks at the settings and at the clock.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Decisions for each second between two answers with all of them. An answer with the changes alone
/// can lack a decision that the API stores meanwhile, or the end of an overlapping decision.
const WHOLE_RATE: usize = 100;

/// Shortest time between two writes of a large file. A start fetches whatever the file lacks.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// Most decisions of a file that each change writes again: about 200 KB.
const MAX_SMALL: usize = 1000;

/// Time for a write, before the task goes on without it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most lines in the log about the decisions of one poll.
const MAX_LINES: usize = 20;

/// The parts of the process that the bouncer reads and acts on.
pub struct BouncerDeps {
    /// Pointer to the running generation.
    pub live: Arc<CurrentSnapshot>,
    /// The live tunnels and exchanges.
    pub tunnels: Arc<Tunnels>,
    /// Settings and tests of the files.
    pub config_status: Arc<ConfigStatus>,
    /// All counters of the process.
    pub metrics: Arc<Metrics>,
    /// Puts the bans in force.
    pub keeper: Arc<BanKeeper>,
    /// Owns the tasks of connections.
    pub tracker: TaskTracker,
}

/// The state of the bouncer, for answers and warnings.
#[derive(Debug, Clone, Default)]
pub struct BouncerReport {
    /// The URL of the API. `None` means that `[crowdsec]` is not configured.
    pub url: Option<Box<str>>,
    /// Time of the last answer. `None` means that none has come.
    pub answered: Option<Timestamp>,
    /// Why the last poll failed. `None` means that it did not.
    pub fault: Option<String>,
    /// Age of the last answer from which there are warnings.
    pub max_age: Duration,
    /// Time from which the age counts where no answer has come.
    pub since: Timestamp,
    /// Decisions that are not applied, the first ones.
    pub refused: Arc<Vec<UnappliedDecision>>,
    /// Number of decisions that are not applied, by reason.
    pub counts: BTreeMap<UnappliedReason, usize>,
    /// Bans that wait for an operator. `None` means that none do.
    pub held: Option<HeldBans>,
    /// Fault of the state file. `None` means that there is none.
    pub file_fault: Option<String>,
}

/// Bans that would end too many tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBans {
    /// Number of bans that are held.
    pub bans: usize,
    /// Number of tunnels and streams that they would end.
    pub revoked: usize,
    /// Number of open tunnels and streams.
    pub open: usize,
}

/// Brings the decisions of CrowdSec to the bans.
pub struct Bouncer {
    deps: BouncerDeps,
    report: ArcSwap<BouncerReport>,
    /// Decisions of the state file, until the task takes them.
    kept: Mutex<DecisionStore>,
    /// Targets whose bans an operator has lifted, until the task has noted them.
    lifted: Mutex<Vec<BanTarget>>,
    is_accepted: AtomicBool,
    wake: Notify,
}

/// A request to the API that has not been answered.
struct PendingPoll {
    /// Whether it requests all decisions.
    is_whole: bool,
    outcome: Pin<Box<dyn Future<Output = Result<Bytes, RequestFault>> + Send>>,
}

/// An answer of the API.
struct PollAnswer {
    body: Bytes,
    /// Whether it has all decisions.
    is_whole: bool,
}

/// What a poll has brought.
struct PollOutcome {
    is_whole: bool,
    answer: Result<Bytes, RequestFault>,
}

/// What the task keeps between its turns.
struct BouncerProgress {
    store: DecisionStore,
    /// The settings of the last turn. `None` means that there were none.
    settings: Option<Arc<CrowdsecSettings>>,
    /// Whether the store has all decisions of the API at `settings`.
    is_synced: bool,
    /// The request that is on its way. `None` means that none is.
    pending: Option<PendingPoll>,
    /// The outcome of the last request, until a turn takes it.
    outcome: Option<PollOutcome>,
    next_poll: Instant,
    next_whole: Instant,
    /// Number of the generation by whose tests and peers the decisions are judged.
    generation: u64,
    next_write: Instant,
    is_written: bool,
    /// Refused decisions that are in the log already.
    logged: std::collections::HashSet<(i64, Box<str>)>,
    is_late: bool,
}

impl BouncerProgress {
    /// Begins with the decisions that were kept. The API is polled at once.
    fn new(store: DecisionStore) -> BouncerProgress {
        let now = Instant::now();
        BouncerProgress {
            store,
            settings: None,
            is_synced: false,
            pending: None,
            outcome: None,
            next_poll: now,
            next_whole: now,
            generation: 0,
            next_write: now,
            is_written: true,
            logged: Default::default(),
            is_late: false,
        }
    }

    /// Takes over the settings in force now. New ones are tried at once.
    fn take_settings(&mut self, settings: &Arc<CrowdsecSettings>) {
        let before = self.settings.replace(Arc::clone(settings));
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, settings)) {
            return;
        }
        if self.pending.is_some() || before.is_none_or(|before| before.url != settings.url) {
            self.forget_request();
        }
        self.next_poll = Instant::now();
    }

    /// Drops the request that is on its way. The API counts its changes as delivered, so the next
    /// request is for all decisions.
    fn forget_request(&mut self) {
        (self.pending, self.outcome) = (None, None);
        self.is_synced = false;
    }
}

/// Waits for the answer of the pending request, if there is one, and removes it.
async fn poll_outcome(pending: &mut Option<PendingPoll>) -> PollOutcome {
    let Some(PendingPoll { is_whole, outcome }) = pending else { return future::pending().await };
    let (is_whole, answer) = (*is_whole, outcome.await);
    *pending = None;
    PollOutcome { is_whole, answer }
}

impl BouncerReport {
    /// Whether the known decisions are older than `max_age`.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.answered.unwrap_or(self.since));
        self.url.is_some() && Duration::try_from(age).is_ok_and(|age| age > self.max_age)
    }

    /// Sentences about an API that is away, about held bans and about the file.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let Some(url) = &self.url else { return Vec::new() };
        let stale = self.is_stale(now).then(|| {
            let fault = self.fault.as_deref().unwrap_or("no poll has ended");
            let since = match self.answered {
                Some(at) => format!("since {at:.0}"),
                None => "yet".to_owned(),
            };
            format!("CrowdSec at {url} has not answered {since}, known bans hold on: {fault}")
        });
        let held = self.held.map(|held| {
            let HeldBans { bans, revoked, open } = held;
            format!(
                "{bans} bans of CrowdSec are held, since they would close {revoked} of {open} open \
                 tunnels and streams: `sidegate bans --accept-held` lets them hold"
            )
        });
        stale.into_iter().chain(held).chain(self.file_fault.clone()).collect()
    }
}

impl Bouncer {
    /// Puts the kept decisions in force, before any socket accepts.
    pub fn start(deps: BouncerDeps) -> Arc<Bouncer> {
        let settings = deps.config_status.settings.load().crowdsec.clone();
        let mut store = DecisionStore::default();
        let mut report = BouncerReport { since: Timestamp::now(), ..BouncerReport::default() };
        if let (Some(settings), Some(folder)) = (&settings, deps.keeper.folder()) {
            match read_in_time(folder) {
                // Decisions of another API say nothing about this one.
                Ok(Some((url, kept))) if *url == *settings.url => store = kept,
                Ok(_) => {}
                Err(fault) => {
                    tracing::error!("{fault}");
                    report.file_fault = Some(fault);
                }
            }
        }
        store.prune(Timestamp::now());
        if let Some(settings) = &settings {
            let judged = store.judge(&gate(&deps, settings));
            let bans = deps.live.load().bans.load().with(BanOrigin::Crowdsec, judged.bans);
            if !bans.is_empty() {
                deps.live.load().bans.replace(bans);
            }
        }
        let (report, kept) = (ArcSwap::from_pointee(report), Mutex::new(store));
        let (lifted, is_accepted, wake) = Default::default();
        Arc::new(Bouncer { deps, report, kept, lifted, is_accepted, wake })
    }

    /// The state of the bouncer.
    pub fn report(&self) -> Arc<BouncerReport> {
        self.report.load_full()
    }

    /// Notes that an operator has lifted the bans of `targets`: their decisions ban no more.
    pub fn lift(&self, targets: Vec<BanTarget>) {
        if !targets.is_empty() {
            lock(&self.lifted).extend(targets);
            self.wake.notify_one();
        }
    }

    /// Lets held bans hold, and returns their numbers.
    pub fn accept_held(&self) -> Option<HeldBans> {
        let held = self.report.load().held?;
        self.is_accepted.store(true, Ordering::SeqCst);
        self.wake.notify_one();
        Some(held)
    }

    /// Polls the API while `[crowdsec]` is configured, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut progress = BouncerProgress::new(mem::take(&mut *lock(&self.kept)));
        while stop.run_until_cancelled(self.turn(&mut progress)).await.is_some() {
            let BouncerProgress { pending, outcome, .. } = &mut progress;
            let waits = async {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep(LOOK_INTERVAL) => {}
                    // An API that hangs must not delay the orders of operators.
                    done = poll_outcome(pending) => *outcome = Some(done),
                }
            };
            if stop.run_until_cancelled(waits).await.is_none() {
                break;
            }
        }
    }

    /// One look: at the settings, at the API if that is due, and at what has changed.
    async fn turn(&self, progress: &mut BouncerProgress) {
        let settings = self.deps.config_status.settings.load().crowdsec.clone();
        let Some(settings) = settings else { return self.leave(progress).await };
        progress.take_settings(&settings);
        let generation = self.deps.live.load().generation;
        let mut has_changed = mem::replace(&mut progress.generation, generation) != generation;
        let lifted = mem::take(&mut *lock(&self.lifted));
        if !lifted.is_empty() {
            progress.store.lift(&lifted);
            (has_changed, progress.next_write) = (true, Instant::now());
        }
        has_changed |= self.is_accepted.load(Ordering::SeqCst);
        has_changed |= progress.store.prune(Timestamp::now());
        if has_changed {
            // Apart from an answer: operators accept what they have seen.
            self.apply(progress, &settings, None).await;
        }
        if let Some(outcome) = progress.outcome.take() {
            self.end_poll(progress, &settings, outcome).await;
        }
        if progress.pending.is_none() && progress.next_poll <= Instant::now() {
            progress.is_synced &= progress.next_whole > Instant::now();
            progress.pending = Some(self.begin_poll(&settings, !progress.is_synced));
        }
        self.warn_if_late(progress);
        let is_due = progress.store.len() <= MAX_SMALL || progress.next_write <= Instant::now();
        if !progress.is_written && is_due {
            self.write(progress).await;
        }
        self.tell_metrics();
    }

    /// Makes the request of a poll. It is sent as the result is polled.
    fn begin_poll(&self, settings: &Arc<CrowdsecSettings>, is_whole: bool) -> PendingPoll {
        self.change_report(|report| {
            report.url = Some(settings.url.clone());
            report.max_age = settings.max_age;
        });
        let (settings, tracker) = (Arc::clone(settings), self.deps.tracker.clone());
        let outcome = async move { client::decisions(&settings, is_whole, &tracker).await };
        PendingPoll { is_whole, outcome: Box::pin(outcome) }
    }

    /// Takes over what a poll has brought. The report says how it failed.
    async fn end_poll(
        &self,
        progress: &mut BouncerProgress,
        settings: &CrowdsecSettings,
        outcome: PollOutcome,
    ) {
        let PollOutcome { is_whole, answer } = outcome;
        progress.next_poll = Instant::now() + settings.interval;
        self.deps.metrics.crowdsec_polled(answer.is_ok());
        let fault = answer.as_ref().err().map(ToString::to_string);
        self.change_report(|report| report.fault = fault);
        match answer {
            Ok(body) => self.apply(progress, settings, Some(PollAnswer { body, is_whole })).await,
            // An API that was away may have another database.
            Err(_) => progress.is_synced = false,
        }
    }

    /// Takes an answer over if there is one, judges all decisions, and puts them in force.
    async fn apply(
        &self,
        progress: &mut BouncerProgress,
        settings: &CrowdsecSettings,
        answer: Option<PollAnswer>,
    ) {
        let (mut store, gate) = (mem::take(&mut progress.store), gate(&self.deps, settings));
        let is_whole = answer.as_ref().is_some_and(|answer| answer.is_whole);
        let work = move || {
            let mut fault = None;
            let mut has_changed = answer.is_none();
            let is_answered = answer.is_some();
            if let Some(PollAnswer { body, is_whole }) = answer {
                match StreamUpdate::parse(&body, Timestamp::now()) {
                    Ok(update) => has_changed = store.update(update, is_whole),
                    Err(error) => fault = Some(error.0),
                }
            }
            // Judging a hundred thousand takes a while: not for an answer that brought nothing.
            let judged = has_changed.then(|| store.judge(&gate));
            Work { store, judged, fault, is_answered }
        };
        // A panic is a bug, and the next answer brings everything again.
        let Ok(Work { store, judged, fault, is_answered }) = spawn_blocking(work).await else {
            progress.is_synced = false;
            return;
        };
        progress.store = store;
        if is_answered {
            // An answer that cannot be read may have been the one with a change.
            progress.is_synced = fault.is_none();
            if is_whole {
                // A few decisions are fetched at each poll, a hundred thousand every 17 minutes.
                let seconds = progress.store.len() / WHOLE_RATE;
                progress.next_whole = Instant::now() + Duration::from_secs(seconds as u64);
            }
            self.change_report(|report| match fault {
                Some(fault) => report.fault = Some(format!("its answer is not used: {fault}")),
                None => report.answered = Some(Timestamp::now()),
            });
        }
        if let Some(judged) = judged {
            self.put_in_force(progress, settings, judged);
        }
    }

    /// Replaces the bans of CrowdSec, unless too many tunnels would end.
    fn put_in_force(
        &self,
        progress: &mut BouncerProgress,
        settings: &CrowdsecSettings,
        judged: Judged,
    ) {
        let Judged { mut bans, refused, counts } = judged;
        let before = self.deps.keeper.bans();
        let before = before.of(BanOrigin::Crowdsec);
        let is_accepted = self.is_accepted.swap(false, Ordering::SeqCst);
        let (revoked, open) = self.impact(&bans, before);
        let mut held = None;
        if !is_accepted && settings.max_revoked.is_exceeded(revoked, open) {
            let all = bans.len();
            // Bans in force go on, with their new end; deleted ones end.
            bans = bans.iter().filter(|ban| before.get(&ban.target).is_some()).cloned().collect();
            held = Some(HeldBans { bans: all - bans.len(), revoked, open });
        }
        log_refused(&refused, &mut progress.logged);
        log_changes(before, &bans);
        let is_new = held.is_some() && self.report.load().held != held;
        self.change_report(|report| {
            (report.held, report.counts, report.refused) = (held, counts, refused.into());
        });
        if is_new {
            let report = self.report();
            report.warnings(Timestamp::now()).iter().for_each(|what| tracing::error!("{what}"));
        }
        // Held until they are replaced: an operator may lift a ban since the decisions were judged,
        // and notes it here first.
        let lifted = lock(&self.lifted);
        if !lifted.is_empty() {
            bans = bans.iter().filter(|ban| !lifted.contains(&ban.target)).cloned().collect();
        }
        self.deps.keeper.replace_crowdsec(bans);
        drop(lifted);
        progress.is_written = false;
    }

    /// The tunnels and streams that `next` bans and `before` does not, and how many are open.
    fn impact(&self, next: &TargetBans, before: &TargetBans) -> (usize, usize) {
        let now = Timestamp::now();
        let mut entries = self.deps.tunnels.entries();
        let streams = self.deps.tunnels.exchanges().into_iter().filter(|one| one.is_stream(now));
        entries.extend(streams);
        let revoked = entries.iter().filter(|entry| {
            let subject = (&entry.subject).into();
            !entry.is_refused()
                && before.find(subject, now).is_none()
                && next.find(subject, now).is_some()
        });
        (revoked.count(), entries.len())
    }

    /// Lifts all bans of CrowdSec, once its table is gone from the file.
    async fn leave(&self, progress: &mut BouncerProgress) {
        if progress.settings.take().is_none() && self.report.load().url.is_none() {
            return;
        }
        let count = self.deps.keeper.bans().of(BanOrigin::Crowdsec).len();
        tracing::info!(bans = count, "CrowdSec is configured no more: its bans are lifted");
        progress.store = DecisionStore::default();
        progress.forget_request();
        progress.is_written = false;
        progress.logged.clear();
        self.report.store(Arc::new(BouncerReport::default()));
        self.deps.metrics.crowdsec(None);
        self.deps.keeper.replace_crowdsec(TargetBans::default());
        self.write(progress).await;
    }

    fn warn_if_late(&self, progress: &mut BouncerProgress) {
        let (report, now) = (self.report(), Timestamp::now());
        let is_late = report.is_stale(now);
        // Once for each time that the API goes away, not for each poll.
        match (mem::replace(&mut progress.is_late, is_late), is_late) {
            (false, true) => {
                for what in report.warnings(now).iter().take(1) {
                    tracing::warn!("{what}");
                }
            }
            (true, false) => tracing::info!("CrowdSec answers again"),
            _ => {}
        }
    }

    fn tell_metrics(&self) {
        let report = self.report();
        let refused = UnappliedReason::ALL
            .map(|reason| (reason.word(), report.counts.get(&reason).copied().unwrap_or_default()));
        self.deps.metrics.crowdsec(Some(CrowdsecFigures {
            answered: report.answered,
            held: report.held.map_or(0, |held| held.bans),
            refused: refused.to_vec(),
        }));
    }

    fn change_report(&self, change: impl FnOnce(&mut BouncerReport)) {
        // Only the task changes it, so that nothing is lost between load and store.
        let mut report = BouncerReport::clone(&self.report.load());
        change(&mut report);
        self.report.store(Arc::new(report));
    }

    /// Writes the file, on a thread of its own: a file system may hang.
    async fn write(&self, progress: &mut BouncerProgress) {
        progress.next_write = Instant::now() + WRITE_INTERVAL;
        let Some(folder) = self.deps.keeper.folder() else { return };
        let url = progress.settings.as_ref().map_or_else(String::new, |one| one.url.to_string());
        let store = progress.store.clone();
        let (tx, rx) = tokio::sync::oneshot::channel();
        let work = move || {
            let _ = tx.send(folder.write(FILE, encode(&url, &store).as_bytes()));
        };
        let thread = std::thread::Builder::new().name("state".into()).spawn(work);
        let written = match thread.map(|_| ()) {
            Ok(()) => timeout(WRITE_TIMEOUT, rx).await,
            Err(error) => return tracing::error!(%error, "{FILE} cannot be written"),
        };
        let fault = match written {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            _ => Some("the file system does not answer".into()),
        };
        progress.is_written = fault.is_none();
        let fault = fault.map(|fault| format!("{FILE} cannot be written: {fault}"));
        if let Some(fault) = fault.as_ref().filter(|_| self.report.load().file_fault != fault) {
            tracing::error!("decisions of CrowdSec are not kept over a restart: {fault}");
        }
        self.change_report(|report| report.file_fault = fault);
    }
}

/// What the blocking thread hands back.
struct Work {
    store: DecisionStore,
    /// `None` means that nothing has changed.
    judged: Option<Judged>,
    fault: Option<String>,
    is_answered: bool,
}

fn gate(deps: &BouncerDeps, settings: &CrowdsecSettings) -> DecisionGate {
    let length = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
    let (live, tests) = (deps.live.load(), deps.config_status.allow_tests.load());
    DecisionGate::new(&live, &tests, length(settings.widest_v4), length(settings.widest_v6))
}

fn read_in_time(folder: StateDir) -> Result<Option<(String, DecisionStore)>, String> {
    let executor = FsExecutor::default();
    let read = executor.run(&mut executor.new_budget(), move |_| {
        let fault = match folder.read(FILE, MAX_BYTES) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(kept) => return Ok(Some(kept)),
                Err(fault) => format!("is damaged ({fault})"),
            },
            Err(error) => format!("cannot be read ({error})"),
        };
        // The API has what the file has lost.
        let moved = folder.set_aside_sentence(FILE);
        Err(format!("{FILE} {fault}: CrowdSec's bans hold once it answers; {moved}"))
    });
    read.unwrap_or_else(|_| Err(format!("{FILE} could not be read in time")))
}

/// Logs each refused decision once.
fn log_refused(
    refused: &[UnappliedDecision],
    logged: &mut std::collections::HashSet<(i64, Box<str>)>,
) {
    let id = |one: &UnappliedDecision| (one.id, one.key.clone());
    let new: Vec<_> = refused.iter().filter(|one| !logged.contains(&id(one))).collect();
    for one in new.iter().take(MAX_LINES) {
        let (decision, reason) = (&*one.key, one.reason.word());
        tracing::warn!(decision, reason, error = one.says, "a decision of CrowdSec is not applied");
    }
    if new.len() > MAX_LINES {
        let others = new.len() - MAX_LINES;
        tracing::warn!(bans = others, "more decisions of CrowdSec are not applied");
    }
    // The memory of it is bounded by the list.
    *logged = refused.iter().map(id).collect();
}

/// Logs the bans that begin and end: each of a few, the number of many.
fn log_changes(before: &TargetBans, next: &TargetBans) {
    for (what, from, to) in [("banned", next, before), ("ban ended", before, next)] {
        let changed: Vec<_> = from.iter().filter(|ban| to.get(&ban.target).is_none()).collect();
        for ban in changed.iter().take(MAX_LINES) {
            let (until, why) = (ban.until.map(tracing::field::display), &*ban.why);
            let source = ban.origin.word();
            tracing::info!(ban = %ban.target, until, why, source, "{what}");
        }
        if changed.len() > MAX_LINES {
            let bans = changed.len() - MAX_LINES;
            tracing::info!(bans, source = BanOrigin::Crowdsec.word(), "{what}: and others");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn request_that_new_settings_drop_is_followed_by_one_for_all() {
        let settings = || Arc::new(CrowdsecSettings::at_port(1));
        let (first, mut progress) = (settings(), BouncerProgress::new(DecisionStore::default()));
        progress.take_settings(&first);
        progress.is_synced = true;
        progress.take_settings(&first);
        progress.take_settings(&settings());
        assert!(progress.is_synced, "no request was on its way");
        let outcome = Box::pin(future::pending());
        progress.pending = Some(PendingPoll { is_whole: false, outcome });
        progress.take_settings(&settings());
        assert!(progress.pending.is_none() && !progress.is_synced);
        progress.is_synced = true;
        progress.take_settings(&Arc::new(CrowdsecSettings::at_port(2)));
        assert!(!progress.is_synced, "the decisions of another API");
    }
}
