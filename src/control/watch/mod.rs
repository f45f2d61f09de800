//! Noticing that a file changed: inotify on the folders, and polling beside it.
//!
//! Folders are watched, not files: editors and orchestrators replace files,
//! and a watched file goes deaf at its first rename. Which file changed does not
//! matter: everything is read again and compared. Reading triggers nothing.
//! Where the kernel gives no watch, or it is lost, the files are polled until it is back.

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
use crate::control::config::Watch;

/// How long nothing must happen before the files are read, and how long that may be put off.
const QUIET: Duration = Duration::from_millis(50);
const RESTLESS: Duration = Duration::from_secs(1);

/// How often files are looked at where they cannot be watched.
const POLL: Duration = Duration::from_secs(2);

/// Why the files are to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Something changed.
    Changed,
    /// It is time to.
    Due,
}

/// When to look at the files: what the control plane's thread has of the watch.
pub struct Watching {
    mode: Watch,
    make: Make,
    /// `None`: somebody opens or moves them just now, or broke off doing so.
    eyes: Option<Eyes>,
    /// What they see; `None`: nothing.
    told: Option<watch::Receiver<Signs>>,
    seen: Signs,
    /// Why the files are polled though they should be watched.
    trouble: Option<String>,
    /// Something is watched only since the files were looked at.
    fresh: bool,
    /// A file has a fault that can end without an event.
    faulty: bool,
    looked: Instant,
    /// Why they are to be looked at once nobody writes any more, and since when.
    pending: Option<(Why, Instant)>,
}

/// A watch that is to be turned to other folders, apart from the control plane's thread.
pub struct Turn {
    mode: Watch,
    eyes: Eyes,
}

/// One that was.
pub struct Turned {
    eyes: Eyes,
    covered: Covered,
}

impl Watching {
    /// Watches as `mode` says, once it was turned to something.
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

    /// Why the files are polled, if they should be watched instead.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The watch, to be turned to other folders as `mode` says, and then handed back.
    pub fn turn(&mut self, mode: Watch) -> Turn {
        self.mode = mode;
        Turn { mode, eyes: self.eyes.take().unwrap_or_else(|| Eyes::new(Arc::clone(&self.make))) }
    }

    /// Takes it back; `None`: whoever turned it broke off. What became of it is logged when it is another than before.
    pub fn turned(&mut self, turned: Option<Turned>) {
        let Some(Turned { eyes, covered: Covered { trouble, fresh, told } }) = turned else {
            self.told = None;
            return self.suffer(Some(Trouble::Ended));
        };
        self.eyes = Some(eyes);
        self.fresh |= fresh;
        if told.is_some() {
            (self.told, self.seen) = (told, Signs::default());
        }
        if self.mode != Watch::Auto {
            self.told = None;
        }
        self.suffer(trouble);
    }

    /// Notes whether a file was found with a fault that can end without an event: the files are
    /// then looked at as often as where they cannot be watched.
    pub fn found(&mut self, faulty: bool) {
        self.faulty = faulty;
    }

    /// Waits until the files are to be looked at: something changed and nobody writes any more, or not for too long;
    /// or it is time, `slow` after the last look if all is well. Nothing is lost if it is dropped.
    pub async fn due(&mut self, slow: Duration) -> Why {
        let (mut why, began) = match self.pending {
            Some(pending) => pending,
            None => (self.first(slow).await, Instant::now()),
        };
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

    /// The files are being looked at: whatever happened until now will be found.
    pub fn looks(&mut self) {
        (self.looked, self.fresh, self.pending) = (Instant::now(), false, None);
        if let Some(told) = &mut self.told {
            self.seen = *told.borrow_and_update();
        }
    }

    /// Waits for a change, or for the time.
    async fn first(&mut self, slow: Duration) -> Why {
        loop {
            let until = self.pause(slow).map(|pause| self.looked + pause);
            tokio::select! {
                sign = next(&mut self.told, &mut self.seen), if self.told.is_some() => match sign {
                    Some(Sign::Changed) => return Why::Changed,
                    Some(Sign::Admitted) => return Why::Due,
                    // The end of a write is a sign of its own.
                    Some(Sign::Writing) => {}
                    // Looked after at once, and after that no more often than the files.
                    None if self.trouble.is_none() => return Why::Due,
                    None => {}
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return Why::Due,
                else => std::future::pending().await,
            }
        }
    }

    /// The time between two looks; `None`: there is no other than on request.
    fn pause(&self, slow: Duration) -> Option<Duration> {
        match self.mode {
            Watch::Off => None,
            Watch::Poll => Some(slow.min(POLL)),
            Watch::Auto if self.fresh && self.trouble.is_none() => Some(QUIET),
            Watch::Auto if self.trouble.is_some() || self.faulty => Some(slow.min(POLL)),
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
                    "files are looked at every 2 s instead of being watched: {why}"
                );
            }
            Some(why) => {
                tracing::warn!("files are looked at every 2 s instead of being watched: {why}");
            }
            None => tracing::info!("files are watched again"),
        }
        self.trouble = said;
    }
}

impl Turn {
    /// Turns it to these folders. It may wait for a file system.
    pub fn to(self, ways: Ways) -> Turned {
        let Turn { mode, mut eyes } = self;
        let covered = eyes.cover(mode, ways);
        Turned { eyes, covered }
    }
}

/// The next sign that is not `seen` yet; `None`: there will be none, for whoever told us is gone.
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
