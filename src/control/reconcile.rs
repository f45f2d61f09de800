//! The judging of everything live after a publish, a lapse or a ban.
//!
//! It only gives orders: refused tunnels and exchanges end themselves, spread over time.

use std::time::Duration;

use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use crate::control::revoke;
use crate::observe::metrics::Metrics;
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::{ReconcileOutcome, Tunnels};

/// The parts of the process that a reconcile reads and orders.
pub struct Reconcile<'c> {
    /// Pointer to the running generation.
    pub live: &'c CurrentSnapshot,
    /// The live tunnels and exchanges.
    pub tunnels: &'c Tunnels,
    /// Counts the tunnels that candidates would refuse.
    pub metrics: &'c Metrics,
    /// Owns the task that closes revoked tunnels.
    pub tracker: &'c TaskTracker,
    /// The longest window over which they are closed.
    pub spread: Duration,
    /// Whether the window is shorter for fewer entries: a thousand of them take a second.
    pub hasty: bool,
}

/// Time between two closes in haste.
const HASTY_STEP: Duration = Duration::from_millis(1);

/// The number of live entries that a reconcile has revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RevokedCount {
    /// Number of open tunnels.
    pub tunnels: usize,
    /// Number of exchanges in flight.
    pub exchanges: usize,
}

impl Reconcile<'_> {
    /// Judges the open tunnels and the exchanges in flight by the running generation, the bans and
    /// the time `now`, and revokes the refused ones.
    pub fn run(self, now: Timestamp) -> RevokedCount {
        let judged = self.tunnels.reconcile(&self.live.load(), now);
        let ReconcileOutcome { refused, exchanges, would_revoke } = judged;
        self.metrics.candidates_would_revoke(would_revoke);
        let count = RevokedCount { tunnels: refused.len(), exchanges: exchanges.len() };
        // Interleaved, so that neither kind waits for the end of `revoke_spread`.
        let refused = revoke::interleave(refused, exchanges);
        if !refused.is_empty() {
            let RevokedCount { tunnels, exchanges } = count;
            tracing::info!(tunnels, exchanges, "revoking");
            self.tracker.spawn(revoke::revoke(refused, self.window(tunnels + exchanges)));
        }
        count
    }

    /// The window for this number of entries.
    fn window(&self, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match self.hasty {
            false => self.spread,
            true => self.spread.min(HASTY_STEP.saturating_mul(count.saturating_sub(1))),
        }
    }
}
