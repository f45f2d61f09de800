//! The end of a reload: published, unchanged or rejected, and booked for everybody who asks.
//!
//! It decides nothing: what gets here has been read, compiled, rehearsed and weighed.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Cause, Last, ListFile, Outcome, Reloader};
use crate::control::compile::Built;
use crate::control::config::Loaded;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::rehearsal::{Script, rehearse};
use crate::control::revoke;
use crate::observe::metrics::ReloadResult;
use crate::tunnels::Reconciled;

impl Reloader {
    /// The one swap, and then the open tunnels: those that the new generation refuses are closed
    /// over the window, the others are not touched.
    pub(super) fn publish(&self, cause: Cause, built: Built, began: Instant) -> Outcome {
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

    /// Judges the open tunnels and the exchanges in flight by what runs and what time it is, and
    /// revokes those that are refused; says how many.
    pub(super) fn reconcile(&self) -> usize {
        let judged = self.tunnels.reconcile(&self.live.load(), Timestamp::now());
        let Reconciled { refused, exchanges, would_revoke } = judged;
        self.metrics.candidates_would_revoke(would_revoke);
        let (tunnels, exchanges_count) = (refused.len(), exchanges.len());
        let refused = revoke::alternate(refused, exchanges);
        let revoked = refused.len();
        if revoked > 0 {
            tracing::info!(tunnels, exchanges = exchanges_count, "revoking");
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
    pub(super) fn look(&self, loaded: &mut Loaded) {
        let mut warnings = std::mem::take(&mut loaded.warnings);
        warnings.extend(rehearse(&self.live.load(), &Script::all(loaded)));
        self.standing.warnings.store(Arc::new(warnings));
    }

    /// Books the list files of what runs.
    pub(super) fn found(&self, lists: Vec<ListFile>) {
        self.metrics.lists_modified(lists.iter().map(|one| (&*one.policy, &*one.list, one.modified)));
        self.standing.lists.store(Arc::new(lists));
    }

    pub(super) fn unchanged(&self, cause: Cause) -> Outcome {
        self.standing.rejected.store(None);
        self.ended(cause, ReloadResult::Unchanged);
        let generation = self.live.load().generation;
        tracing::info!(cause = cause.word(), generation, "unchanged");
        Outcome::Unchanged { generation }
    }

    pub(super) fn reject(&self, cause: Cause, errors: Vec<Diagnostic>) -> Outcome {
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
