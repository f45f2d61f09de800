//! What the reloader is asked for, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::control::compile::Built;
use crate::control::config::Settings;
use crate::control::config::diagnostic::Diagnostic;
use crate::snapshot::Snapshot;
use crate::tunnels::Weight;

/// Who wants a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A file was written.
    Saved,
    /// The slow second look.
    Poll,
    /// SIGHUP.
    Signal,
    /// `sidegate reload`.
    Asked,
}

impl Cause {
    /// For the log.
    pub const fn word(self) -> &'static str {
        match self {
            Cause::Saved => "saved",
            Cause::Poll => "poll",
            Cause::Signal => "signal",
            Cause::Asked => "asked",
        }
    }
}

/// What became of a reload.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A new generation runs.
    Published {
        /// Its number.
        generation: u64,
        /// Its digest.
        digest: Arc<str>,
        /// How many live tunnels it no longer permits.
        revoked: usize,
        /// What somebody should look at.
        warnings: Arc<[Diagnostic]>,
    },
    /// The files are what runs.
    Unchanged {
        /// The generation that runs.
        generation: u64,
        /// Its digest.
        digest: Arc<str>,
    },
    /// What runs was kept.
    Rejected {
        /// All errors, then warnings.
        errors: Arc<[Diagnostic]>,
    },
}

/// What somebody who has looked accepts of a reload that is held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accept {
    /// That these lists shrank, by their names.
    pub shrunk: Vec<String>,
    /// That so many tunnels are closed.
    pub revocations: bool,
}

/// What a reload would do now.
pub struct Preview {
    /// What runs.
    pub now: Arc<Snapshot>,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// What the files would make of it; or what is wrong with them.
    pub next: Result<Built, Vec<Diagnostic>>,
    /// What would become of the tunnels.
    pub weighed: Weighed,
}

/// What a generation would do to what is live, and why it should be looked at before it does.
#[derive(Default)]
pub struct Weighed {
    /// The tunnels and streams, and those of them that it would refuse.
    pub weight: Weight,
    /// Why it is not published unless somebody accepts.
    pub held: Vec<Diagnostic>,
}

/// What the reloader is asked for.
pub(super) enum Ask {
    Reload { cause: Cause, accept: Accept, told: Option<oneshot::Sender<Outcome>> },
    Preview { promoted: Option<String>, told: oneshot::Sender<Preview> },
}

/// Who may be asked for a reload, from anywhere in the process.
#[derive(Clone)]
pub struct Requests {
    pub(super) asks: mpsc::Sender<Ask>,
    /// Whether a nudge waits that no reload has begun for.
    pub(super) nudged: Arc<AtomicBool>,
}

impl Requests {
    /// Asks for a reload and awaits its outcome; `None` if the process is ending.
    pub async fn reload(&self, cause: Cause, accept: Accept) -> Option<Outcome> {
        let (told, outcome) = oneshot::channel();
        self.asks.send(Ask::Reload { cause, accept, told: Some(told) }).await.ok()?;
        outcome.await.ok()
    }

    /// Asks for a reload as soon as it can be asked for; the outcome stands in the log.
    pub async fn ask(&self, cause: Cause, accept: Accept) {
        // A process that is ending reloads nothing.
        let _ = self.asks.send(Ask::Reload { cause, accept, told: None }).await;
    }

    /// Asks for a reload; the outcome stands in the log. Requests that wait already serve for this one.
    pub fn nudge(&self, cause: Cause) {
        // A reload that has not begun will see what this one would; and where no more can wait, one of those does.
        if !self.nudged.swap(true, Ordering::SeqCst)
            && self
                .asks
                .try_send(Ask::Reload { cause, accept: Accept::default(), told: None })
                .is_err()
        {
            self.nudged.store(false, Ordering::SeqCst);
        }
    }

    /// Asks what a reload would do, once the candidate of the policy `promoted` stands in its place; `None` if the
    /// process is ending.
    pub async fn preview(&self, promoted: Option<String>) -> Option<Preview> {
        let (told, preview) = oneshot::channel();
        self.asks.send(Ask::Preview { promoted, told }).await.ok()?;
        preview.await.ok()
    }
}
