//! The task that polls CrowdSec's Local API and brings its decisions to the bans.
//!
//! Large sets are parsed and judged on a blocking thread, so that the control plane goes on.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::future::{self, Future};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use ipnet::IpNet;
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
use crate::control::crowdsec::file::{
    FILE, KeptDecisions, LiftedDecision, MAX_BYTES, Shown, decode, encode,
};
use crate::control::crowdsec::hold::{
    ClientTally, HeldBans, HoldBound, Weighing, is_deserted, weigh,
};
use crate::control::crowdsec::reason::UnappliedReason;
use crate::control::crowdsec::report::BouncerReport;
use crate::control::crowdsec::store::{DecisionGate, DecisionStore, Judged, UnappliedDecision};
use crate::control::malloc_trim;
use crate::control::reload::ConfigStatus;
use crate::control::state_dir::StateDir;
use crate::lifecycle::Lifecycle;
use crate::observe::metrics::{CrowdsecFigures, Metrics};
use crate::observe::printable;
use crate::policy::ban::{Ban, BanOrigin, BanTarget, TargetBans};
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

/// Time in which the clients that bans end are added up: a poisoned feed may come in slices.
const RECENT: Duration = Duration::from_secs(600);

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
    /// The stage of the process.
    pub lifecycle: Arc<Lifecycle>,
    /// Owns the tasks of connections.
    pub tracker: TaskTracker,
}

/// Brings the decisions of CrowdSec to the bans.
pub struct Bouncer {
    deps: BouncerDeps,
    report: ArcSwap<BouncerReport>,
    /// Contents of the state file, until the task takes them.
    kept: Mutex<KnownDecisions>,
    /// Targets whose bans an operator has lifted, until the task has noted them.
    lifted: Mutex<Vec<BanTarget>>,
    /// Held networks that an operator has accepted, until the task lets them hold.
    accepted: Mutex<HashSet<IpNet>>,
    /// Whether a large answer or file has left memory that is not used.
    has_freed: AtomicBool,
    wake: Notify,
}

/// What the state file has.
#[derive(Default)]
struct KnownDecisions {
    store: DecisionStore,
    /// Networks whose bans are held.
    held: HashSet<IpNet>,
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
    logged: HashSet<(i64, Arc<str>)>,
    is_late: bool,
    /// The fault that the log has told last. `None` means that the last poll did not fail.
    told_fault: Option<String>,
    /// The bans that are held.
    held: TargetBans,
    /// Held networks of the state file: only an operator or the API takes them back.
    pinned: HashSet<IpNet>,
    /// Most clients with tunnels since bans are held.
    peak: usize,
    /// Whether the turn before has found memory to return.
    has_freed: bool,
    /// Numbers of clients that bans have ended within `RECENT`.
    recent: VecDeque<(Instant, usize)>,
}

impl KnownDecisions {
    fn new(file: KeptDecisions) -> KnownDecisions {
        let KeptDecisions { decisions, lifted, held, .. } = file;
        let held = held.into_iter().map(|shown| shown.0).collect();
        let lifted = lifted.into_iter().map(|one| (one.id, one.key.into())).collect();
        KnownDecisions { store: DecisionStore::new(decisions, lifted), held }
    }
}

impl BouncerProgress {
    /// Begins with the decisions that were kept. The API is polled at once.
    fn new(kept: KnownDecisions) -> BouncerProgress {
        let now = Instant::now();
        BouncerProgress {
            store: kept.store,
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
            told_fault: None,
            held: TargetBans::default(),
            pinned: kept.held,
            peak: 0,
            has_freed: false,
            recent: VecDeque::new(),
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

impl Bouncer {
    /// Puts the kept decisions in force, before any socket accepts.
    pub fn start(deps: BouncerDeps) -> Arc<Bouncer> {
        let settings = deps.config_status.settings.load().crowdsec.clone();
        let mut kept = KnownDecisions::default();
        let mut report = BouncerReport { since: Timestamp::now(), ..BouncerReport::default() };
        if let (Some(settings), Some(folder)) = (&settings, deps.keeper.folder()) {
            match read_in_time(folder) {
                // Decisions of another API say nothing about this one.
                Ok(Some(file)) if *file.url == *settings.url => kept = KnownDecisions::new(file),
                Ok(_) => {}
                Err(fault) => {
                    tracing::error!("{fault}");
                    report.file_fault = Some(fault);
                }
            }
        }
        kept.store.prune(Timestamp::now());
        if let Some(settings) = &settings {
            let mut bans = kept.store.judge(&gate(&deps, settings)).bans;
            // Nothing is open yet, so that no bound would hold them again.
            let held = bans.split_off(|ban| is_among(&kept.held, ban));
            let Weighing { held, .. } = weigh(
                &ClientTally::default(),
                &held,
                &bans,
                &kept.held,
                HoldBound { max_revoked: settings.max_revoked, recent: 0 },
                Timestamp::now(),
            );
            if let Some(held) = &held {
                tracing::warn!("{}", held.warning());
            }
            report.held = held.map(Arc::new);
            let bans = deps.live.load().bans.load().with(BanOrigin::Crowdsec, bans);
            if !bans.is_empty() {
                deps.live.load().bans.replace(bans);
            }
        }
        let (report, kept) = (ArcSwap::from_pointee(report), Mutex::new(kept));
        let (lifted, accepted, wake) = Default::default();
        // The text of the file.
        let has_freed = AtomicBool::new(true);
        Arc::new(Bouncer { deps, report, kept, lifted, accepted, has_freed, wake })
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

    /// Notes that a large answer has left memory, which the task returns to the system.
    pub fn note_freed(&self) {
        self.has_freed.store(true, Ordering::Relaxed);
    }

    /// Lets the held bans with this digest hold, and returns them.
    ///
    /// # Errors
    /// Others are held by now, or none.
    pub fn accept_held(&self, digest: &str) -> Result<Arc<HeldBans>, Option<Arc<HeldBans>>> {
        let held = self.report.load().held.clone();
        let Some(held) = held.filter(|held| *held.digest == *digest) else {
            return Err(self.report.load().held.clone());
        };
        *lock(&self.accepted) = held.networks();
        self.wake.notify_one();
        Ok(held)
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
        has_changed |= progress.store.prune(Timestamp::now());
        if has_changed {
            self.apply(progress, &settings, None).await;
        }
        // Before an answer is taken over: operators accept what they have seen.
        self.look_at_held(progress, &settings);
        if let Some(outcome) = progress.outcome.take() {
            self.end_poll(progress, &settings, outcome).await;
        }
        if progress.pending.is_none() && progress.next_poll <= Instant::now() {
            progress.is_synced &= progress.next_whole > Instant::now();
            progress.pending = Some(self.begin_poll(&settings, !progress.is_synced));
        }
        self.tell_faults(progress);
        let is_due = progress.store.len() <= MAX_SMALL || progress.next_write <= Instant::now();
        if !progress.is_written && is_due {
            self.write(progress).await;
        }
        self.tell_metrics();
        let has_freed = self.has_freed.swap(false, Ordering::Relaxed);
        // A turn later: an answer of the admin socket is on its way for a moment.
        let is_due = mem::replace(&mut progress.has_freed, has_freed);
        if is_due && progress.store.len() > MAX_SMALL {
            // Milliseconds, in which threads that allocate may wait.
            let _ = spawn_blocking(malloc_trim::trim).await;
        }
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
                let parsed = StreamUpdate::parse(&body, Timestamp::now());
                // Large, and not needed to judge.
                drop(body);
                match parsed {
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
        if judged.is_some() || is_whole {
            self.note_freed();
        }
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

    /// Replaces the bans of CrowdSec. New ones that would end too many clients are held.
    fn put_in_force(
        &self,
        progress: &mut BouncerProgress,
        settings: &CrowdsecSettings,
        judged: Judged,
    ) {
        let Judged { mut bans, refused, counts } = judged;
        let all = self.deps.keeper.bans();
        let (before, now) = (all.of(BanOrigin::Crowdsec), Timestamp::now());
        log_refused(&refused, &mut progress.logged);
        self.change_report(|report| (report.counts, report.refused) = (counts, refused.into()));
        let accepted = mem::take(&mut *lock(&self.accepted));
        // Bans in force go on, with their new end.
        let is_in_force = |ban: &Ban| before.get(&ban.target).is_some_and(|old| !old.lapsed(now));
        let new: TargetBans = bans
            .iter()
            .filter(|ban| !is_in_force(ban) && !is_among(&accepted, ban))
            .cloned()
            .collect();
        let weighing = self.weigh(progress, settings, &new, before);
        let held = weighing.networks();
        progress.held = bans.split_off(|ban| is_among(&held, ban));
        log_changes(before, &bans);
        self.take_weighing(progress, weighing);
        self.replace(progress, bans);
    }

    /// Weighs the held bans again: tunnels have come and gone, or an operator has accepted them.
    fn look_at_held(&self, progress: &mut BouncerProgress, settings: &CrowdsecSettings) {
        let accepted = mem::take(&mut *lock(&self.accepted));
        if progress.held.is_empty() {
            return;
        }
        // An accepted ban is weighed no more: it holds with what it ends.
        let mut held = mem::take(&mut progress.held);
        let mut released = held.split_off(|ban| is_among(&accepted, ban));
        let all = self.deps.keeper.bans();
        let before = all.of(BanOrigin::Crowdsec);
        let weighing = self.weigh(progress, settings, &held, before);
        let still = weighing.networks();
        progress.held = held.split_off(|ban| is_among(&still, ban));
        self.take_weighing(progress, weighing);
        held.iter().for_each(|ban| drop(released.insert(Arc::clone(ban))));
        if !released.is_empty() {
            let mut bans = before.clone();
            released.iter().for_each(|ban| drop(bans.insert(Arc::clone(ban))));
            log_changes(before, &bans);
            self.replace(progress, bans);
        }
    }

    /// Finds out which of `new` are held now.
    fn weigh(
        &self,
        progress: &mut BouncerProgress,
        settings: &CrowdsecSettings,
        new: &TargetBans,
        before: &TargetBans,
    ) -> Weighing {
        let tally = self.tally();
        progress.recent.retain(|(at, _)| at.elapsed() < RECENT);
        let recent = progress.recent.iter().map(|(_, clients)| clients).sum();
        progress.peak = match progress.held.is_empty() && self.report.load().held.is_none() {
            true => tally.clients(),
            false => progress.peak.max(tally.clients()),
        };
        let bound = HoldBound { max_revoked: settings.max_revoked, recent };
        // Nearly always without a copy.
        let mut pinned = Cow::Borrowed(&progress.pinned);
        // A drain ends all tunnels, and the file that it leaves is for the next start.
        let is_ending = self.deps.lifecycle.is_draining();
        if is_ending || is_deserted(tally.clients(), progress.peak) {
            let held = self.report.load().held.clone();
            pinned.to_mut().extend(held.iter().flat_map(|held| held.networks()));
        }
        weigh(&tally, new, before, &pinned, bound, Timestamp::now())
    }

    /// Counts what the bans that were let through end, and reports the others.
    fn take_weighing(&self, progress: &mut BouncerProgress, weighing: Weighing) {
        let Weighing { held, ended } = weighing;
        if ended > 0 {
            progress.recent.push_back((Instant::now(), ended));
        }
        let before = self.report.load().held.clone();
        progress.pinned.retain(|network| {
            let target = BanTarget::Network(*network);
            progress.held.get(&target).is_some()
        });
        let is_same = match (&held, &before) {
            (Some(held), before) => held.is_same_set(before.as_deref()),
            (None, before) => before.is_none(),
        };
        if !is_same {
            match &held {
                Some(held) => tracing::error!("{}", held.warning()),
                None => tracing::info!("no ban of CrowdSec is held any more"),
            }
            progress.is_written = false;
        }
        self.change_report(|report| report.held = held.map(Arc::new));
    }

    /// Puts `bans` in force in place of the former ones.
    fn replace(&self, progress: &mut BouncerProgress, mut bans: TargetBans) {
        // Held until they are replaced: an operator may lift a ban since the decisions were judged,
        // and notes it here first.
        let lifted = lock(&self.lifted);
        if !lifted.is_empty() {
            drop(bans.split_off(|ban| lifted.contains(&ban.target)));
        }
        self.deps.keeper.replace_crowdsec(bans);
        drop(lifted);
        progress.is_written = false;
    }

    /// The clients of open tunnels and streams that are not ending.
    fn tally(&self) -> ClientTally {
        let (now, mut tally) = (Timestamp::now(), ClientTally::default());
        let streams = self.deps.tunnels.exchanges().into_iter().filter(|one| one.is_stream(now));
        let entries = self.deps.tunnels.entries().into_iter().chain(streams);
        let open = entries.filter(|entry| !entry.is_refused());
        open.for_each(|entry| tally.count(entry.subject.client));
        tally
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
        progress.pinned.clear();
        progress.recent.clear();
        progress.held = TargetBans::default();
        progress.told_fault = None;
        self.report.store(Arc::new(BouncerReport::default()));
        self.deps.metrics.crowdsec(None);
        self.deps.keeper.replace_crowdsec(TargetBans::default());
        self.write(progress).await;
    }

    /// Logs that polls fail, and that the API is silent for long: once for each time.
    fn tell_faults(&self, progress: &mut BouncerProgress) {
        let (report, now) = (self.report(), Timestamp::now());
        let before = mem::replace(&mut progress.told_fault, report.fault.clone());
        let was_late = mem::replace(&mut progress.is_late, report.is_stale(now));
        let is_new = report.fault.is_some() && report.fault != before;
        if is_new || (progress.is_late && !was_late) {
            report.silence(now).iter().for_each(|what| tracing::warn!("{what}"));
        }
        let was_silent = before.is_some() || was_late;
        if was_silent && report.fault.is_none() && !progress.is_late {
            tracing::info!("CrowdSec answers again");
        }
    }

    fn tell_metrics(&self) {
        let report = self.report();
        let refused = UnappliedReason::ALL
            .map(|reason| (reason.word(), report.counts.get(&reason).copied().unwrap_or_default()));
        self.deps.metrics.crowdsec(Some(CrowdsecFigures {
            answered: report.answered,
            held: report.held.as_ref().map_or(0, |held| held.bans.len()),
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
        let held = self.report.load().held.clone();
        let held = held.iter().flat_map(|held| held.networks()).map(Shown).collect();
        let lifted = progress.store.lifted().iter();
        let lifted = lifted.map(|(id, key)| LiftedDecision { key: key.to_string(), id: *id });
        let (decisions, lifted) = (progress.store.bans(), lifted.collect());
        let kept = KeptDecisions { url, decisions, lifted, held };
        let (tx, rx) = tokio::sync::oneshot::channel();
        let work = move || {
            let _ = tx.send(folder.write_with(FILE, |out| encode(kept, out)));
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
        self.note_freed();
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
    let (live, tests) = (deps.live.load(), deps.config_status.allow_tests.load());
    DecisionGate::new(&live, &tests, settings)
}

/// Whether `networks` has the target of `ban`.
fn is_among(networks: &HashSet<IpNet>, ban: &Ban) -> bool {
    matches!(&ban.target, BanTarget::Network(network) if networks.contains(network))
}

fn read_in_time(folder: StateDir) -> Result<Option<KeptDecisions>, String> {
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
fn log_refused(refused: &[UnappliedDecision], logged: &mut HashSet<(i64, Arc<str>)>) {
    let id = |one: &UnappliedDecision| (one.id, one.key.clone());
    let new: Vec<_> = refused.iter().filter(|one| !logged.contains(&id(one))).collect();
    for one in new.iter().take(MAX_LINES) {
        let (decision, reason) = (&*printable::shortened(&one.key), one.reason.word());
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
        let (first, mut progress) = (settings(), BouncerProgress::new(KnownDecisions::default()));
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
