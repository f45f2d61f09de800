//! The live tunnels and exchanges under another generation: judged again, or weighed beforehand.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::entry::Entry;
use crate::tunnels::registry::Tunnels;

/// What came of judging all that is live again.
#[derive(Default)]
pub struct Reconciled {
    /// The tunnels that are refused, and were not before.
    pub refused: Vec<Arc<Entry>>,
    /// The exchanges in flight that are refused, and were not before.
    pub exchanges: Vec<Arc<Entry>>,
    /// How many of the others each policy's candidate would refuse.
    pub would_revoke: HashMap<Arc<str>, usize>,
}

/// What a generation would do to what is live.
#[derive(Default)]
pub struct Weight {
    /// Tunnels that are open.
    pub open: usize,
    /// Exchanges in flight that count: streams of events, and what has lasted 5 s.
    pub streams: usize,
    /// The tunnels that would be revoked, with the refusal.
    pub revoked: Vec<(Arc<Entry>, Refusal)>,
    /// The streams that would be revoked, with the refusal.
    pub revoked_streams: Vec<(Arc<Entry>, Refusal)>,
}

impl Weight {
    /// Tunnels and streams.
    pub fn all(&self) -> usize {
        self.open + self.streams
    }

    /// Tunnels and streams that would be revoked.
    pub fn all_revoked(&self) -> usize {
        self.revoked.len() + self.revoked_streams.len()
    }
}

impl Tunnels {
    /// Judges all that is live under `snapshot` and returns what it refuses, less what is about to
    /// end already. The others get their route's new rules at once; nobody is charged.
    pub fn reconcile(&self, snapshot: &Snapshot, now: Timestamp) -> Reconciled {
        let candidates = snapshot.policies.values().filter(|policy| policy.candidate.is_some());
        let would_revoke = candidates.map(|policy| (Arc::clone(&policy.name), 0)).collect();
        let mut reconciled = Reconciled { would_revoke, ..Reconciled::default() };
        for entry in self.entries() {
            let stood = !entry.is_refused();
            let (verdict, would_revoke) = entry.rejudge(snapshot, now);
            if verdict.is_err() {
                reconciled.refused.extend(stood.then_some(entry));
            } else if let Some(count) =
                would_revoke.and_then(|policy| reconciled.would_revoke.get_mut(&policy))
            {
                *count += 1;
            }
        }
        for entry in self.exchanges() {
            let stood = !entry.is_refused();
            if entry.rejudge(snapshot, now).0.is_err() {
                reconciled.exchanges.extend(stood.then_some(entry));
            }
        }
        reconciled
    }

    /// What `snapshot` would refuse of what is live, and is not refused now. Nothing changes.
    pub fn weigh(&self, snapshot: &Snapshot, now: Timestamp) -> Weight {
        let (tunnels, mut exchanges) = (self.entries(), self.exchanges());
        exchanges.retain(|entry| entry.is_stream(now));
        let refused = |entries: &[Arc<Entry>]| -> Vec<(Arc<Entry>, Refusal)> {
            let standing = entries.iter().filter(|entry| !entry.is_refused());
            let refusal = |entry: &Arc<Entry>| {
                Some((Arc::clone(entry), entry.judge(snapshot, now).verdict.err()?))
            };
            standing.filter_map(refusal).collect()
        };
        Weight {
            revoked: refused(&tunnels),
            revoked_streams: refused(&exchanges),
            open: tunnels.len(),
            streams: exchanges.len(),
        }
    }
}
