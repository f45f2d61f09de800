//! Writes the file of bans: one write at a time, each of the newest set.
//!
//! A change is marked at once, whatever the disk does. Changes during a write share the next one.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::control::bans::file::encode;
use crate::control::bans::kept::{self, FILE};
use crate::control::state_dir::StateDir;
use crate::policy::ban::Ban;
use crate::snapshot::Bans;
use crate::sync::lock;

/// Time for a write, before an answer says that the ban is not kept.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Age at which a write that has not returned is a fault of its own.
const LATE: Duration = Duration::from_secs(2);

/// The fault of a write that does not return.
const HANGS: &str = "the file system does not answer";

/// Number of a change since the start.
type Change = u64;

/// How far the file is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The newest change of the bans.
    changed: Change,
    /// The newest change that a write has ended for, well or not.
    tried: Change,
    /// The newest change that the file has.
    kept: Change,
    /// Why the last write failed. `None` means that it did not.
    fault: Option<String>,
    /// When the write that runs began. `None` means that none runs.
    began: Option<Instant>,
    /// The claim on the folder under which the file was read. 0 means none.
    claimed: u64,
    /// What a later claim has found in the file, until the keeper has taken it over. `None` means
    /// that there is nothing to take over.
    found: Option<FoundBans>,
}

/// The bans of the file, or what was wrong with it.
pub type FoundBans = Result<Vec<Arc<Ban>>, String>;

/// The file of bans, and the one thread that writes it.
pub struct BanWriter {
    bans: Arc<Bans>,
    /// The folder of the file. The error says why there is none.
    folder: Result<StateDir, String>,
    /// Sent at the end of each write. The state itself is under the lock.
    ended: watch::Sender<Change>,
    /// Wakes the keeper, which takes over what was found.
    wake: Arc<Notify>,
    progress: Mutex<Progress>,
}

impl BanWriter {
    /// Makes the writer of `bans` into `folder`, whose file was read under the present claim.
    /// Nothing is written yet.
    pub fn new(
        bans: Arc<Bans>,
        folder: Result<StateDir, String>,
        wake: Arc<Notify>,
    ) -> Arc<BanWriter> {
        let claimed = folder.as_ref().map_or(0, StateDir::claimed);
        let progress = Mutex::new(Progress { claimed, ..Progress::default() });
        Arc::new(BanWriter { bans, folder, ended: watch::Sender::new(0), wake, progress })
    }

    /// A sentence about another process that has the folder. `None` means that none was seen.
    pub fn conflict(&self) -> Option<String> {
        self.folder.as_ref().ok()?.conflict()
    }

    /// What a later claim has found in the file. No write begins before `taken_over`.
    pub fn found(&self) -> Option<FoundBans> {
        lock(&self.progress).found.clone()
    }

    /// Lets writes go on, after the keeper has taken over what was found.
    pub fn taken_over(&self) {
        lock(&self.progress).found = None;
    }

    /// The folder of the file. The error says why there is none.
    pub const fn folder(&self) -> &Result<StateDir, String> {
        &self.folder
    }

    /// Marks the bans as changed, begins a write unless one runs, and returns the change's number.
    pub fn mark(self: &Arc<Self>) -> Change {
        let changed = {
            let mut progress = lock(&self.progress);
            progress.changed += 1;
            progress.changed
        };
        self.begin();
        changed
    }

    /// Begins a write where the file lacks a change, or another process had the folder, and no
    /// write runs.
    pub fn begin(self: &Arc<Self>) {
        let Ok(folder) = self.folder.clone() else { return };
        {
            let mut progress = lock(&self.progress);
            // The thread that runs looks for later changes before it ends.
            let is_done = progress.kept == progress.changed && folder.conflict().is_none();
            if progress.began.is_some() || progress.found.is_some() || is_done {
                return;
            }
            progress.began = Some(Instant::now());
        }
        let writer = Arc::clone(self);
        // A thread and not the blocking pool: the runtime waits for that pool when it shuts down.
        let thread = std::thread::Builder::new().name("state".into());
        if let Err(error) = thread.spawn(move || writer.write_all(&folder)) {
            let change = lock(&self.progress).changed;
            self.end(change, Err(error.to_string()));
            lock(&self.progress).began = None;
        }
    }

    /// Writes until the file has the newest change, or a write fails.
    fn write_all(&self, folder: &StateDir) {
        loop {
            // Read before the set: each change is marked behind its swap.
            let change = lock(&self.progress).changed;
            match self.claim(folder) {
                Ok(true) => {}
                // Nothing has ended: callers wait for the write behind the takeover.
                Ok(false) => return,
                Err(fault) => {
                    self.end(change, Err(fault));
                    lock(&self.progress).began = None;
                    return;
                }
            }
            let bans = self.bans.load();
            let written = folder.write(FILE, encode(bans.ordered()).as_bytes());
            self.end(change, written.map_err(|error| error.to_string()));
            let mut progress = lock(&self.progress);
            // Under the lock of `begin`, which otherwise relies on this thread. A caller whose
            // change came during a failed write waits for a write of its own.
            if progress.tried == progress.changed {
                progress.began = None;
                return;
            }
            progress.began = Some(Instant::now());
        }
    }

    /// Claims the folder. A new claim reads the file first, since another process may have written
    /// it. Returns whether there is nothing to take over.
    fn claim(&self, folder: &StateDir) -> Result<bool, String> {
        let claimed = folder.make().and_then(|()| folder.claim());
        let claimed = claimed.map_err(|error| error.to_string())?;
        if lock(&self.progress).claimed == claimed {
            return Ok(true);
        }
        let found = kept::read(folder).transpose();
        let mut progress = lock(&self.progress);
        progress.claimed = claimed;
        if found.is_none() {
            return Ok(true);
        }
        (progress.found, progress.began) = (found, None);
        drop(progress);
        self.wake.notify_one();
        Ok(false)
    }

    /// Records the end of a write of `change`, and wakes the callers that wait.
    fn end(&self, change: Change, written: Result<(), String>) {
        let fault = written.err().map(|fault| format!("{FILE} cannot be written: {fault}"));
        let mut progress = lock(&self.progress);
        // A fault that lasts is logged once, though each retry meets it.
        if let Some(fault) = fault.as_ref().filter(|fault| progress.fault.as_ref() != Some(fault)) {
            tracing::error!("bans are not kept over a restart: {fault}");
        }
        progress.tried = change;
        if fault.is_none() {
            progress.kept = change;
        }
        progress.fault = fault;
        drop(progress);
        self.ended.send_replace(change);
    }

    /// Waits for a write that includes `change`, and returns why it is not kept.
    pub async fn outcome(&self, change: Change) -> Option<String> {
        if let Err(why) = &self.folder {
            return Some(why.clone());
        }
        let mut ended = self.ended.subscribe();
        // An error means that the sender is gone, but `self` holds it.
        let waited = timeout(WRITE_TIMEOUT, ended.wait_for(|tried| *tried >= change)).await;
        let progress = lock(&self.progress);
        match (progress.kept >= change, waited) {
            (true, _) => None,
            (false, Ok(_)) => progress.fault.clone(),
            (false, Err(_)) => Some(format!("{FILE} is not written yet: {HANGS}")),
        }
    }

    /// Why the file lacks a change. `None` also means that a write has just begun.
    pub fn fault(&self) -> Option<String> {
        if let Err(why) = &self.folder {
            return Some(why.clone());
        }
        let progress = lock(&self.progress);
        if progress.kept == progress.changed {
            return None;
        }
        let is_late = progress.began.is_some_and(|began| began.elapsed() >= LATE);
        let late = is_late.then(|| format!("{FILE} is not written yet: {HANGS}"));
        late.or_else(|| progress.fault.clone())
    }

    /// Waits a while for the write that runs, if any.
    pub async fn settle(&self) {
        let change = lock(&self.progress).changed;
        if lock(&self.progress).began.is_some() {
            self.outcome(change).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use jiff::Timestamp;

    use crate::control::bans::file::decode;
    use crate::control::config::StateSetting;
    use crate::policy::ban::{Ban, BanOrigin, BanSet, BanTarget};

    fn ban(last: u8) -> Arc<Ban> {
        let target = BanTarget::of_address([192, 0, 2, last].into());
        let (origin, since) = (BanOrigin::Operator, Timestamp::UNIX_EPOCH);
        Arc::new(Ban { target, until: None, why: "x".into(), origin, since, by: None })
    }

    #[tokio::test]
    async fn each_caller_waits_for_a_write_with_its_change() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::find(
            &StateSetting::Path(folder.path().join("state")),
            &folder.path().join("sidegate.toml"),
        );
        let bans = Arc::new(Bans::default());
        let writer = BanWriter::new(Arc::clone(&bans), state, Arc::default());
        for last in 0..50 {
            let mut next = BanSet::clone(&bans.load());
            next.insert(ban(last));
            bans.replace(next);
            writer.mark();
        }
        let change = lock(&writer.progress).changed;
        assert_eq!(writer.outcome(change).await, None);
        let text = std::fs::read(folder.path().join("state").join(FILE)).unwrap();
        assert_eq!(decode(&text).unwrap().len(), 50);
        assert_eq!(writer.fault(), None);
    }

    #[tokio::test]
    async fn failed_write_is_a_fault_until_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("state");
        let state =
            StateDir::find(&StateSetting::Path(at.clone()), &folder.path().join("sidegate.toml"));
        let writer = BanWriter::new(Arc::default(), state, Arc::default());
        let change = writer.mark();
        assert_eq!(writer.outcome(change).await, None);
        // A folder in the place of the file, which stops root as well.
        std::fs::remove_file(at.join(FILE)).unwrap();
        std::fs::create_dir_all(at.join(FILE).join("x")).unwrap();
        let change = writer.mark();
        let why = writer.outcome(change).await.unwrap();
        assert!(why.contains("cannot be written"), "{why}");
        assert_eq!(writer.fault(), Some(why));
        std::fs::remove_dir_all(at.join(FILE)).unwrap();
        let change = writer.mark();
        assert_eq!((writer.outcome(change).await, writer.fault()), (None, None));
    }

    #[tokio::test]
    async fn file_of_a_former_owner_is_taken_over_before_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = StateSetting::Path(folder.path().to_owned());
        let find = || StateDir::find(&at, &folder.path().join("sidegate.toml")).unwrap();
        let (former, state) = (find(), find());
        let wake = Arc::new(Notify::new());
        let writer = BanWriter::new(Arc::default(), Ok(state), Arc::clone(&wake));
        let change = writer.mark();
        let fault = writer.outcome(change).await.unwrap();
        assert!(fault.contains("another process"), "{fault}");
        let file = encode(&[ban(7)]);
        former.write(FILE, file.as_bytes()).unwrap();
        drop(former);
        writer.begin();
        wake.notified().await;
        assert_eq!(writer.found().unwrap().unwrap(), [ban(7)]);
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), file, "not replaced yet");
        writer.taken_over();
        let change = writer.mark();
        assert_eq!(writer.outcome(change).await, None);
        assert!(decode(&std::fs::read(path).unwrap()).unwrap().is_empty());
    }
}
