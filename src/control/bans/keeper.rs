//! The keeper of the bans: changes the set, judges everything live again, and keeps the file.
//!
//! A change holds at once, and is written elsewhere: a disk that is full or hangs delays no ban.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::bans::file::{decode, encode};
use crate::control::bans::kept::{self, BanKey, FILE, key, take_over};
use crate::control::bans::writer::{BanWriter, FoundBans};
use crate::control::config::fs_executor::FsExecutor;
use crate::control::reconcile::{Reconcile, RevokedCount};
use crate::control::reload::ConfigStatus;
use crate::control::state_dir::StateDir;
use crate::observe::metrics::Metrics;
use crate::policy::ban::{Ban, BanOrigin, BanSet, BanSetFull, TargetBans};
use crate::snapshot::{Bans, CurrentSnapshot};
use crate::sync::lock;
use crate::tunnels::Tunnels;

/// Longest time from a ban to the end of the last tunnel that it holds.
const MAX_SPREAD: Duration = Duration::from_secs(1);

/// Time that an ending agent waits for a write.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Longest wait for the next expiry: the clock may be set meanwhile. Failed writes are repeated as
/// often.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Time between two attempts to get the state folder from another process.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);

/// A change of the bans.
#[derive(Debug, Clone)]
pub enum BanOrder {
    /// Adds a ban, or replaces that of the same origin and target.
    Ban(Arc<Ban>),
    /// Lifts the bans of these origins and targets.
    Lift(Vec<Arc<Ban>>),
}

/// What became of a change.
#[derive(Debug, Clone)]
pub struct BanOutcome {
    /// The bans that were replaced or lifted.
    pub former: Vec<Arc<Ban>>,
    /// The tunnels and exchanges that it ends.
    pub revoked: RevokedCount,
    /// Why the change does not outlast a restart. `None` means that it does.
    pub not_kept: Option<String>,
}

/// The parts of the process that a change of the bans acts on.
#[derive(Clone)]
pub struct BanState {
    /// Pointer to the running generation.
    pub live: Arc<CurrentSnapshot>,
    /// The live tunnels and exchanges.
    pub tunnels: Arc<Tunnels>,
    /// All counters of the process.
    pub metrics: Arc<Metrics>,
    /// Settings of the files.
    pub config_status: Arc<ConfigStatus>,
    /// Owns the tasks that close revoked tunnels.
    pub tracker: TaskTracker,
}

/// Orders, lifts and keeps the bans.
pub struct BanKeeper {
    state: BanState,
    bans: Arc<Bans>,
    writer: Arc<BanWriter>,
    /// What was wrong with the file when it was read. `None` means nothing.
    damage: Mutex<Option<String>>,
    /// The bans of the file at the start. They tell what another process has changed in it.
    base: Vec<Arc<Ban>>,
    /// One change at a time, from the load of the set to the end of the reconcile.
    turn: Mutex<()>,
    changed: Arc<Notify>,
}

impl BanKeeper {
    /// Reads the file of bans in `folder`, and puts them in force. A damaged file is set aside.
    pub fn start(state: BanState, folder: Result<StateDir, String>) -> Arc<BanKeeper> {
        let bans = Arc::clone(&state.live.load().bans);
        // The start waits here: a file system that hangs must not keep the agent from serving.
        let (read, folder) = match folder.as_ref().ok().map(read_in_time) {
            None => (Ok(None), folder),
            Some(Some(read)) => (read, folder),
            // Without a folder no write can replace the file, whose bans are unknown.
            Some(None) => {
                let fault = "the file system of the state folder does not answer";
                (Err(format!("kept bans are not in force: {fault}")), Err(fault.into()))
            }
        };
        let damage = read.as_ref().err().cloned();
        // No reason to stop: an agent that is down enforces no policy either. `faults` repeats it.
        if let Some(damage) = &damage {
            tracing::error!("{damage}");
        }
        let now = Timestamp::now();
        // Bans may have ended while no agent ran. The file loses them at its next write.
        let base = read.unwrap_or_default().unwrap_or_default();
        let set = BanSet::new(base.iter().filter(|ban| !ban.lapsed(now)).cloned());
        if !set.is_empty() {
            tracing::info!(bans = set.len(), "bans of the state folder are in force");
            bans.replace(set);
        }
        let changed = Arc::new(Notify::new());
        let writer = BanWriter::new(Arc::clone(&bans), folder, Arc::clone(&changed));
        let (damage, turn) = (Mutex::new(damage), Mutex::default());
        Arc::new(BanKeeper { state, bans, writer, damage, base, turn, changed })
    }

    /// The bans in force.
    pub fn bans(&self) -> Arc<BanSet> {
        self.bans.load()
    }

    /// The path of the file. `None` means that bans are in memory only.
    pub fn file(&self) -> Option<String> {
        self.writer.folder().as_ref().ok().map(|folder| folder.path(FILE).display().to_string())
    }

    /// Sentences that name the faults of the file, and of writing it.
    pub fn faults(&self) -> Vec<String> {
        let damage = lock(&self.damage).clone();
        // A fault already without bans: none of the next ones will be kept.
        if let Some(conflict) = self.writer.conflict() {
            return damage.into_iter().chain([format!("nothing is kept: {conflict}")]).collect();
        }
        let has_bans = self.bans.load().ordered().next().is_some();
        let not_kept = has_bans.then(|| self.writer.fault()).flatten();
        let not_kept =
            not_kept.map(|why| format!("bans are not kept over a restart of sidegate: {why}"));
        damage.into_iter().chain(not_kept).collect()
    }

    /// Carries out `order`: it holds when this is first polled. Then waits until it is written.
    ///
    /// # Errors
    /// There is no room for the ban. Nothing has changed.
    pub async fn carry_out(&self, order: BanOrder) -> Result<BanOutcome, BanSetFull> {
        let (former, revoked) = self.enforce(order)?;
        // Marked without an await before: a caller that leaves takes no change along.
        let change = self.writer.mark();
        // The new ban may end before `run` wakes. The permit is stored if `run` does not wait yet.
        self.changed.notify_one();
        Ok(BanOutcome { former, revoked, not_kept: self.writer.outcome(change).await })
    }

    /// Swaps the set and judges everything live again.
    fn enforce(&self, order: BanOrder) -> Result<(Vec<Arc<Ban>>, RevokedCount), BanSetFull> {
        // Two orders at once would each drop the change of the other. No disk is waited for here.
        let _turn = lock(&self.turn);
        let now = Timestamp::now();
        let former = match order {
            BanOrder::Ban(ban) => {
                let mut next = BanSet::clone(&self.bans.load());
                next.check_room(&ban)?;
                let replaced = next.insert(Arc::clone(&ban));
                self.bans.replace(next);
                log_ban(&ban, "banned");
                replaced.into_iter().collect()
            }
            BanOrder::Lift(bans) => {
                // By target: a ban that was renewed since the request looked is lifted too.
                let keys: HashSet<BanKey> = bans.iter().map(|ban| key(ban)).collect();
                let lifts = |ban: &Ban| keys.contains(&key(ban));
                let (next, lifted) = self.bans.load().without(lifts);
                self.bans.replace(next);
                lifted.iter().for_each(|ban| log_ban(ban, "unbanned"));
                lifted
            }
        };
        // After the swap. A tunnel that enters meanwhile compares the version of its verdict, so it
        // is judged again either there or here.
        Ok((former, self.reconcile(now)))
    }

    /// The folder for what outlasts a restart. `None` means that there is none.
    pub fn folder(&self) -> Option<StateDir> {
        self.writer.folder().as_ref().ok().cloned()
    }

    /// The bans in force, in the form of the file.
    pub fn text(&self) -> String {
        encode(self.bans.load().ordered())
    }

    /// Brings in the bans of the former process of an upgrade, in the form of the file. Bans that
    /// were lifted there since this process has read the file are lifted.
    pub fn adopt_text(&self, text: &str) {
        self.adopt(
            decode(text.as_bytes())
                .map_err(|fault| format!("the bans of the former process cannot be read: {fault}")),
        );
    }

    /// Leaves the folder to the next process, once what was ordered is written.
    pub async fn release(&self) {
        let _ = timeout(LAST_WRITE, self.writer.settle()).await;
        if let Ok(folder) = self.writer.folder() {
            folder.release();
        }
    }

    /// Looks whether the former process has left the folder, and takes it.
    pub fn look_at_folder(&self) {
        self.writer.begin();
    }

    /// Puts `bans` in force in place of those of CrowdSec.
    pub fn replace_crowdsec(&self, bans: TargetBans) -> RevokedCount {
        let _turn = lock(&self.turn);
        self.bans.replace(self.bans.load().with(BanOrigin::Crowdsec, bans));
        self.reconcile(Timestamp::now())
    }

    /// Judges everything live again. A tunnel that waits for its end is let go where no ban holds
    /// it any more.
    fn reconcile(&self, now: Timestamp) -> RevokedCount {
        let BanState { live, tunnels, metrics, config_status, tracker } = &self.state;
        // Not the whole of `revoke_spread`: a banned client may not come back at once.
        let spread = config_status.settings.load().reload.revoke_spread.min(MAX_SPREAD);
        Reconcile { live, tunnels, metrics, tracker, spread, hasty: true }.run(now)
    }

    /// Ends bans whose time is over, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let wait = self.next_wait(Timestamp::now());
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => self.take_over(),
                () = sleep(wait) => self.expire(),
            }
        }
        // A caller that has left may have ordered the change that is being written.
        let _ = timeout(LAST_WRITE, self.writer.settle()).await;
    }

    fn next_wait(&self, now: Timestamp) -> Duration {
        // Without an expiry the loop wakes as well, since a write may have to be repeated.
        let longest = if self.writer.conflict().is_some() { CLAIM_INTERVAL } else { MAX_WAIT };
        let Some(next) = self.bans.load().next_expiry() else { return longest };
        // A time in the past is negative and has no `Duration`: the ban is removed at once.
        Duration::try_from(next.duration_since(now)).unwrap_or_default().min(longest)
    }

    /// Brings in what another process has written into the file before it let go of the folder.
    fn take_over(&self) {
        let Some(found) = self.writer.found() else { return };
        self.adopt(found);
        self.writer.taken_over();
        // Also where nothing has changed: callers may wait for their own changes.
        self.writer.mark();
    }

    fn adopt(&self, found: FoundBans) {
        let file = match found {
            Ok(file) => file,
            Err(damage) => {
                tracing::error!("{damage}");
                *lock(&self.damage) = Some(damage);
                return;
            }
        };
        let _turn = lock(&self.turn);
        let (now, before) = (Timestamp::now(), self.bans.load());
        let (begin, end) = take_over(&before, &self.base, &file, now);
        let ended: HashSet<_> = end.iter().map(|ban| key(ban)).collect();
        let (mut next, _) = before.without(|ban| ended.contains(&key(ban)));
        for ban in &begin {
            next.insert(Arc::clone(ban));
            log_ban(ban, "banned");
        }
        end.iter().for_each(|ban| log_ban(ban, "unbanned"));
        self.bans.replace(next);
        self.reconcile(now);
    }

    /// Removes the bans that have ended, and repeats a write that failed.
    fn expire(&self) {
        let _turn = lock(&self.turn);
        let now = Timestamp::now();
        let (next, ended) = self.bans.load().without(|ban| {
            // CrowdSec's are removed at its polls, since a copy of all of them takes a while.
            ban.origin != BanOrigin::Crowdsec && ban.lapsed(now)
        });
        // Decisions have ignored these bans since they ended. The reconcile is for tunnels that
        // still wait to be closed: they may stay open.
        if ended.is_empty() {
            self.writer.begin();
            return;
        }
        self.bans.replace(next);
        ended.iter().for_each(|ban| log_ban(ban, "ban expired"));
        self.reconcile(now);
        self.writer.mark();
    }
}

/// Like [`kept::read`]. `None` means that the file system does not answer.
fn read_in_time(folder: &StateDir) -> Option<Result<Option<Vec<Arc<Ban>>>, String>> {
    let (executor, folder) = (FsExecutor::default(), folder.clone());
    executor.run(&mut executor.new_budget(), move |_| kept::read(&folder)).ok()
}

/// The log line of a ban that begins or ends.
fn log_ban(ban: &Ban, what: &str) {
    let Ban { target, until, why, origin, by: uid, .. } = ban;
    let until = until.map(tracing::field::display);
    let (source, why) = (origin.word(), &**why);
    tracing::info!(ban = %target, until, why, source, uid, "{what}");
}
