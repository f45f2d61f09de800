//! Noticing that a file changed: inotify on the folders, and polling beside it.
//!
//! Folders are watched, not files: editors and orchestrators replace files, and a watch on a file
//! goes deaf at its first rename. Which file changed does not matter: everything is read again and
//! compared. Reading triggers nothing. While the kernel grants no watch, or a watch is lost, the
//! files are polled.

mod fs_signal;
mod fs_watcher;
mod watch_set;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::fs_signal::{FsSignal, FsSignalCounts};
use self::fs_watcher::{FsWatcher, MakeWatcher, WatchFailure, WatchStatus};
pub use self::watch_set::WatchSet;
use crate::control::config::{WatchMode, unwatched_interval};

/// Time without events before the files are read, and the most that writers can put the read off.
const DEBOUNCE_INTERVAL: Duration = Duration::from_millis(50);
const MAX_DEBOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// The reason why a look at the files is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// An event said that something may have changed.
    Changed,
    /// The time of a periodic look has come.
    Due,
}

/// Decides when to look at the files. Lives on the control plane's thread.
pub struct FileWatch {
    mode: WatchMode,
    make: MakeWatcher,
    /// The kernel's watch. `None` while another thread opens or moves it, or after that thread
    /// broke off.
    watcher: Option<FsWatcher>,
    /// Events from the watch. `None` means that no watch reports any.
    signals: Option<watch::Receiver<FsSignalCounts>>,
    seen: FsSignalCounts,
    /// Reason why the files are polled though they should be watched. `None` means that there is no
    /// trouble.
    trouble: Option<String>,
    /// A watch began after the last look, so that changes in between were not seen.
    fresh: bool,
    /// A file has a fault that can end without an event.
    faulty: bool,
    looked: Instant,
    /// Reason for a look that waits until writers are quiet, and since when. `None` means that none
    /// waits.
    pending: Option<(WakeReason, Instant)>,
    /// What looks wait for. Empty where they are not put off.
    paused: Vec<Postponement>,
}

/// A wait for a command that replaces files.
struct Postponement {
    /// When the wait ends at the latest.
    until: Instant,
    /// Cancelled when the command has ended.
    ended: CancellationToken,
}

/// A watch on its way to other folders, apart from the control plane's thread.
pub struct Reconfigure {
    mode: WatchMode,
    watcher: FsWatcher,
}

/// A watch that has been moved, to be handed back by [`FileWatch::reconfigured`].
pub struct Reconfigured {
    watcher: FsWatcher,
    covered: WatchStatus,
}

impl FileWatch {
    /// Watches as `mode` says, from the first `reconfigure` on.
    pub fn new(mode: WatchMode) -> Self {
        FileWatch::with_maker(mode, FsWatcher::inotify())
    }

    fn with_maker(mode: WatchMode, make: MakeWatcher) -> Self {
        FileWatch {
            mode,
            make,
            watcher: None,
            signals: None,
            seen: FsSignalCounts::default(),
            trouble: None,
            fresh: false,
            faulty: false,
            looked: Instant::now(),
            pending: None,
            paused: Vec::new(),
        }
    }

    /// Puts every look off until `until` or until `ended` is cancelled: a command replaces files,
    /// and asks for a reload itself.
    pub fn put_off(&mut self, until: Instant, ended: CancellationToken) {
        // A caller that repeats itself must not make the list grow.
        self.paused.retain(|one| one.until > Instant::now() && !one.ended.is_cancelled());
        self.paused.push(Postponement { until, ended });
    }

    /// Ends all pauses. Changes during a pause are looked at now.
    pub fn resume(&mut self) {
        self.paused.clear();
    }

    /// Reason why the files are polled though they should be watched. `None` means that there is no
    /// trouble.
    pub fn failure(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Hands out the watch, to be moved to other folders as `mode` says and handed back.
    pub fn reconfigure(&mut self, mode: WatchMode) -> Reconfigure {
        self.mode = mode;
        Reconfigure {
            mode,
            watcher: self.watcher.take().unwrap_or_else(|| FsWatcher::new(Arc::clone(&self.make))),
        }
    }

    /// Takes the watch back. `None` means that moving it panicked. Logs a state that differs from
    /// the last.
    pub fn reconfigured(&mut self, turned: Option<Reconfigured>) {
        let Some(Reconfigured { watcher, covered: WatchStatus { trouble, fresh, signals } }) =
            turned
        else {
            self.signals = None;
            return self.set_failure(Some(WatchFailure::ThreadEnded));
        };
        self.watcher = Some(watcher);
        self.fresh |= fresh;
        if signals.is_some() {
            // A new watcher counts from zero.
            (self.signals, self.seen) = (signals, FsSignalCounts::default());
        }
        // Without signals, `first` waits for the time of a look alone.
        if !self.mode.uses_inotify() {
            self.signals = None;
        }
        self.set_failure(trouble);
    }

    /// Notes whether a file has a fault that can end without an event. Such files are then looked
    /// at as often as files that cannot be watched.
    pub fn set_faulty(&mut self, faulty: bool) {
        self.faulty = faulty;
    }

    /// Waits until a look at the files is due: after a change once writers are quiet, or have put
    /// it off for too long; else `slow` after the last look, if all is well. Cancel-safe: `pending`
    /// keeps what was seen.
    pub async fn due(&mut self, slow: Duration) -> WakeReason {
        while let Some(Postponement { until, ended }) = self.paused.last() {
            tokio::select! {
                () = sleep_until(*until) => {}
                () = ended.cancelled() => {}
            }
            self.paused.pop();
        }
        let (mut why, began) = match self.pending {
            Some(pending) => pending,
            None => (self.first(slow).await, Instant::now()),
        };
        // Stored before each wait: the reloader drops this future when another event comes first.
        self.pending = Some((why, began));
        while began.elapsed() < MAX_DEBOUNCE_INTERVAL {
            match timeout(DEBOUNCE_INTERVAL, next(&mut self.signals, &mut self.seen)).await {
                Ok(Some(FsSignal::Changed)) => why = WakeReason::Changed,
                // Not a reason of their own, but the files are not quiet yet.
                Ok(Some(FsSignal::PermissionsChanged | FsSignal::Writing)) => {}
                Ok(None) | Err(_) => break,
            }
            self.pending = Some((why, began));
        }
        why
    }

    /// Notes that a look at the files begins now, which will find everything that happened before.
    pub fn note_read(&mut self) {
        (self.looked, self.fresh, self.pending) = (Instant::now(), false, None);
        if let Some(signals) = &mut self.signals {
            // Signals up to here are answered by this look. Later ones cause another.
            self.seen = *signals.borrow_and_update();
        }
    }

    /// Waits for a change, or for the time of a periodic look.
    async fn first(&mut self, slow: Duration) -> WakeReason {
        loop {
            let until = self.pause(slow).map(|pause| self.looked + pause);
            tokio::select! {
                sign = next(&mut self.signals, &mut self.seen), if self.signals.is_some() => match sign {
                    Some(FsSignal::Changed) => return WakeReason::Changed,
                    Some(FsSignal::PermissionsChanged) => return WakeReason::Due,
                    // The end of a write is a signal of its own.
                    Some(FsSignal::Writing) => {}
                    // A lost watch is repaired at once, and after that no more often than the files
                    // are polled.
                    None if self.trouble.is_none() => return WakeReason::Due,
                    None => {}
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return WakeReason::Due;
                }
                else => std::future::pending().await,
            }
        }
    }

    /// The time between two looks. `None` means that only requests cause one.
    fn pause(&self, slow: Duration) -> Option<Duration> {
        match self.mode {
            WatchMode::Off => None,
            WatchMode::Poll => Some(unwatched_interval(slow)),
            // One look soon after a watch has begun, for the changes that it came too late for.
            WatchMode::Auto | WatchMode::Hold if self.fresh && self.trouble.is_none() => {
                Some(DEBOUNCE_INTERVAL)
            }
            WatchMode::Auto | WatchMode::Hold if self.trouble.is_some() || self.faulty => {
                Some(unwatched_interval(slow))
            }
            WatchMode::Auto | WatchMode::Hold => Some(slow),
        }
    }

    fn set_failure(&mut self, trouble: Option<WatchFailure>) {
        let said = trouble.as_ref().map(WatchFailure::to_string);
        if said == self.trouble {
            return;
        }
        match &trouble {
            Some(why @ WatchFailure::LimitReached(_)) => {
                tracing::error!(
                    remedy = why.remedy(),
                    "files are polled instead of being watched: {why}"
                );
            }
            Some(why) => {
                tracing::warn!("files are polled instead of being watched: {why}");
            }
            None => tracing::info!("files are watched again"),
        }
        self.trouble = said;
    }
}

impl Reconfigure {
    /// Moves the watch to these folders. May block on a file system.
    pub fn apply(self, watch_set: WatchSet) -> Reconfigured {
        let Reconfigure { mode, mut watcher } = self;
        let covered = watcher.watch(mode, watch_set);
        Reconfigured { watcher, covered }
    }
}

/// The next signal that is not in `seen` yet. `None` means that the watch has ended and reports no
/// more.
async fn next(
    signals: &mut Option<watch::Receiver<FsSignalCounts>>,
    seen: &mut FsSignalCounts,
) -> Option<FsSignal> {
    loop {
        let receiver = signals.as_mut()?;
        if receiver.changed().await.is_err() {
            *signals = None;
            return None;
        }
        let now = *receiver.borrow_and_update();
        let sign = now.since(seen);
        *seen = now;
        if sign.is_some() {
            return sign;
        }
    }
}

#[cfg(test)]
mod tests;
