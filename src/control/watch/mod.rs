//! Noticing that a file changed: inotify on the folders, and polling beside it.
//!
//! Folders are watched, not files: editors and orchestrators replace files, and a watch on a file
//! goes deaf at its first rename. Which file changed does not matter: everything is read again and
//! compared. Reading triggers nothing. While the kernel grants no watch, or a watch is lost, the
//! files are polled.

mod eyes;
mod sign;
mod ways;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::eyes::{Covered, Eyes, Make, Trouble};
use self::sign::{Sign, Signs};
pub use self::ways::Ways;
use crate::control::config::{Watch, unwatched_interval};

/// Time without events before the files are read, and the most that writers can put the read off.
const QUIET: Duration = Duration::from_millis(50);
const RESTLESS: Duration = Duration::from_secs(1);

/// The reason why a look at the files is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// An event said that something may have changed.
    Changed,
    /// The time of a periodic look has come.
    Due,
}

/// Decides when to look at the files. Lives on the control plane's thread.
pub struct Watching {
    mode: Watch,
    make: Make,
    /// The kernel's watch. `None` while another thread opens or moves it, or after that thread
    /// broke off.
    eyes: Option<Eyes>,
    /// Events from the watch. `None` means that no watch reports any.
    told: Option<watch::Receiver<Signs>>,
    seen: Signs,
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
    pending: Option<(Why, Instant)>,
}

/// A watch on its way to other folders, apart from the control plane's thread.
pub struct Turn {
    mode: Watch,
    eyes: Eyes,
}

/// A watch that has been moved, to be handed back by [`Watching::turned`].
pub struct Turned {
    eyes: Eyes,
    covered: Covered,
}

impl Watching {
    /// Watches as `mode` says, from the first `turn` on.
    pub fn new(mode: Watch) -> Self {
        Watching::with(mode, Eyes::inotify())
    }

    fn with(mode: Watch, make: Make) -> Self {
        Watching {
            mode,
            make,
            eyes: None,
            told: None,
            seen: Signs::default(),
            trouble: None,
            fresh: false,
            faulty: false,
            looked: Instant::now(),
            pending: None,
        }
    }

    /// Reason why the files are polled though they should be watched. `None` means that there is no
    /// trouble.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Hands out the watch, to be moved to other folders as `mode` says and handed back.
    pub fn turn(&mut self, mode: Watch) -> Turn {
        self.mode = mode;
        Turn { mode, eyes: self.eyes.take().unwrap_or_else(|| Eyes::new(Arc::clone(&self.make))) }
    }

    /// Takes the watch back. `None` means that moving it panicked. Logs a state that differs from
    /// the last.
    pub fn turned(&mut self, turned: Option<Turned>) {
        let Some(Turned { eyes, covered: Covered { trouble, fresh, told } }) = turned else {
            self.told = None;
            return self.suffer(Some(Trouble::Ended));
        };
        self.eyes = Some(eyes);
        self.fresh |= fresh;
        if told.is_some() {
            // A new watcher counts from zero.
            (self.told, self.seen) = (told, Signs::default());
        }
        if self.mode != Watch::Auto {
            self.told = None;
        }
        self.suffer(trouble);
    }

    /// Notes whether a file has a fault that can end without an event. Such files are then looked
    /// at as often as files that cannot be watched.
    pub fn found(&mut self, faulty: bool) {
        self.faulty = faulty;
    }

    /// Waits until a look at the files is due: after a change once writers are quiet, or have put
    /// it off for too long; else `slow` after the last look, if all is well. Cancel-safe: `pending`
    /// keeps what was seen.
    pub async fn due(&mut self, slow: Duration) -> Why {
        let (mut why, began) = match self.pending {
            Some(pending) => pending,
            None => (self.first(slow).await, Instant::now()),
        };
        // Stored before each wait: the reloader drops this future when another event comes first.
        self.pending = Some((why, began));
        while began.elapsed() < RESTLESS {
            match timeout(QUIET, next(&mut self.told, &mut self.seen)).await {
                Ok(Some(Sign::Changed)) => why = Why::Changed,
                Ok(Some(Sign::Admitted | Sign::Writing)) => {}
                Ok(None) | Err(_) => break,
            }
            self.pending = Some((why, began));
        }
        why
    }

    /// Notes that a look at the files begins now, which will find everything that happened before.
    pub fn looks(&mut self) {
        (self.looked, self.fresh, self.pending) = (Instant::now(), false, None);
        if let Some(told) = &mut self.told {
            self.seen = *told.borrow_and_update();
        }
    }

    /// Waits for a change, or for the time of a periodic look.
    async fn first(&mut self, slow: Duration) -> Why {
        loop {
            let until = self.pause(slow).map(|pause| self.looked + pause);
            tokio::select! {
                sign = next(&mut self.told, &mut self.seen), if self.told.is_some() => match sign {
                    Some(Sign::Changed) => return Why::Changed,
                    Some(Sign::Admitted) => return Why::Due,
                    // The end of a write is a sign of its own.
                    Some(Sign::Writing) => {}
                    // A lost watch is repaired at once, and after that no more often than the files
                    // are polled.
                    None if self.trouble.is_none() => return Why::Due,
                    None => {}
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return Why::Due,
                else => std::future::pending().await,
            }
        }
    }

    /// The time between two looks. `None` means that only requests cause one.
    fn pause(&self, slow: Duration) -> Option<Duration> {
        match self.mode {
            Watch::Off => None,
            Watch::Poll => Some(unwatched_interval(slow)),
            Watch::Auto if self.fresh && self.trouble.is_none() => Some(QUIET),
            Watch::Auto if self.trouble.is_some() || self.faulty => Some(unwatched_interval(slow)),
            Watch::Auto => Some(slow),
        }
    }

    fn suffer(&mut self, trouble: Option<Trouble>) {
        let said = trouble.as_ref().map(Trouble::to_string);
        if said == self.trouble {
            return;
        }
        match &trouble {
            Some(why @ Trouble::Refused(_)) => {
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

impl Turn {
    /// Moves the watch to these folders. May block on a file system.
    pub fn to(self, ways: Ways) -> Turned {
        let Turn { mode, mut eyes } = self;
        let covered = eyes.cover(mode, ways);
        Turned { eyes, covered }
    }
}

/// The next sign that is not in `seen` yet. `None` means that the watch has ended and reports no
/// more.
async fn next(told: &mut Option<watch::Receiver<Signs>>, seen: &mut Signs) -> Option<Sign> {
    loop {
        let receiver = told.as_mut()?;
        if receiver.changed().await.is_err() {
            *told = None;
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
