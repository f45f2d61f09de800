//! Live tunnels and exchanges under another generation: judged again, or previewed.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::network::ClientKey;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::entry::{LiveEntry, Standing};
use crate::tunnels::registry::Tunnels;

/// The result of judging everything live again.
#[derive(Default)]
pub struct ReconcileOutcome {
    /// Tunnels that are refused and were not before, or that are banned only now.
    pub refused: Vec<Arc<LiveEntry>>,
    /// Exchanges in flight of which the same is true.
    pub exchanges: Vec<Arc<LiveEntry>>,
    /// For each policy with a candidate, the permitted tunnels that the candidate would refuse.
    pub would_revoke: HashMap<Arc<str>, WouldRevoke>,
}

/// The open tunnels that a candidate would revoke.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WouldRevoke {
    /// Number of tunnels.
    pub tunnels: usize,
    /// Number of them by client. There are never more clients than open tunnels.
    pub clients: HashMap<ClientKey, usize>,
}

/// The effect that a generation would have on live tunnels and exchanges.
#[derive(Default)]
pub struct ReconcileImpact {
    /// Number of open tunnels.
    pub open: usize,
    /// Exchanges in flight that count: streams of events, and exchanges that have lasted 5 s.
    pub streams: usize,
    /// Tunnels that would be revoked, with the refusal.
    pub revoked: Vec<(Arc<LiveEntry>, Refusal)>,
    /// Streams that would be revoked, with the refusal.
    pub revoked_streams: Vec<(Arc<LiveEntry>, Refusal)>,
}

impl ReconcileImpact {
    /// Number of tunnels and streams.
    pub fn all(&self) -> usize {
        self.open + self.streams
    }

    /// Number of tunnels and streams that would be revoked.
    pub fn all_revoked(&self) -> usize {
        self.revoked.len() + self.revoked_streams.len()
    }
}

/// Whether `refusal` ends an entry earlier than its standing `before` did.
fn is_news(before: Standing, refusal: Refusal) -> bool {
    match before {
        Standing::Permitted => true,
        // The end of a revocation is spread over minutes where the operator says so. A ban's is
        // not, so that its entries must not wait for the turn that they had.
        Standing::Refused(former) => refusal == Refusal::Banned && former != Refusal::Banned,
        Standing::Ending => false,
    }
}

impl Tunnels {
    /// Judges everything live under `snapshot` and returns what it refuses, except entries that are
    /// already ending. The others get their route's new rules at once. Nothing is charged.
    pub fn reconcile(&self, snapshot: &Snapshot, now: Timestamp) -> ReconcileOutcome {
        let candidates = snapshot.policies.values().filter(|policy| policy.candidate.is_some());
        // Zero for each of them, so that a metric exists for a candidate that would refuse no
        // tunnel.
        let none = |policy: &Arc<Policy>| (Arc::clone(&policy.name), WouldRevoke::default());
        let would_revoke = candidates.map(none).collect();
        let mut reconciled = ReconcileOutcome { would_revoke, ..ReconcileOutcome::default() };
        for entry in self.entries() {
            // Read before the verdict, which changes it: an entry that is already ending is not
            // reported twice.
            let before = entry.standing();
            let (verdict, would_revoke) = entry.rejudge(snapshot, now);
            if let Err(refusal) = verdict {
                reconciled.refused.extend(is_news(before, refusal).then_some(entry));
            } else if let Some(hit) =
                would_revoke.and_then(|policy| reconciled.would_revoke.get_mut(&policy))
            {
                hit.tunnels += 1;
                *hit.clients.entry(entry.subject.client.key()).or_default() += 1;
            }
        }
        for entry in self.exchanges() {
            let before = entry.standing();
            // The candidate's view of exchanges is not counted: `would_revoke` is a number of
            // tunnels.
            if let Err(refusal) = entry.rejudge(snapshot, now).0 {
                reconciled.exchanges.extend(is_news(before, refusal).then_some(entry));
            }
        }
        reconciled
    }

    /// Returns what `snapshot` would refuse of the live entries that are not refused now. Nothing
    /// changes.
    pub fn preview_reconcile(&self, snapshot: &Snapshot, now: Timestamp) -> ReconcileImpact {
        // Copies of the tables: the judgements take long, and new tunnels must not wait for them.
        let (tunnels, mut exchanges) = (self.entries(), self.exchanges());
        // A request that ends within seconds says nothing about the weight of a reload.
        exchanges.retain(|entry| entry.is_stream(now));
        let refused = |entries: &[Arc<LiveEntry>]| -> Vec<(Arc<LiveEntry>, Refusal)> {
            // Entries that are ending already are no effect of this generation.
            let standing = entries.iter().filter(|entry| !entry.is_refused());
            let refusal = |entry: &Arc<LiveEntry>| {
                Some((Arc::clone(entry), entry.judge(snapshot, now).verdict.err()?))
            };
            standing.filter_map(refusal).collect()
        };
        ReconcileImpact {
            revoked: refused(&tunnels),
            revoked_streams: refused(&exchanges),
            open: tunnels.len(),
            streams: exchanges.len(),
        }
    }
}
