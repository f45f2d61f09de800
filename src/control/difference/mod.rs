//! What the files would change of what runs: rules, entries of lists, settings, and open tunnels.
//!
//! It compares values and publishes nothing. Who asks decides whether that is too much.

mod keys;
mod lists;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::control::compile::Built;
use crate::control::config::{Settings, effective};
use crate::control::reload::Weighed;
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::{Entry, Weight};

/// Of the tunnels that would be closed, so many are told one by one.
const MOST_TUNNELS: usize = 10;

/// What would change.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Keys of `sidegate.toml` and of policies.
    pub keys: Vec<KeyDifference>,
    /// Lists whose entries differ.
    pub lists: Vec<ListDifference>,
    /// What would become of the tunnels.
    pub tunnels: TunnelDifference,
    /// What would become of the streams: exchanges that are streams of events, or have lasted 5 s.
    pub streams: StreamDifference,
}

/// One key that says something else.
#[derive(Debug, PartialEq, Serialize)]
pub struct KeyDifference {
    /// The file, as people write it.
    pub file: String,
    /// The key, as in `client.origins` or `route.ticks.policy`; empty: the file as a whole.
    pub key: String,
    /// What runs; `None`: nothing does.
    pub from: Option<Value>,
    /// What the files say.
    pub to: Option<Value>,
}

/// One list whose entries differ.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ListDifference {
    /// The policy that names it.
    pub policy: String,
    /// Its name there.
    pub list: String,
    /// Where its entries are written.
    pub file: String,
    /// Entries that the files have and what runs has not.
    pub added: usize,
    /// Entries that what runs has and the files have not.
    pub removed: usize,
    /// Entries that are annotated otherwise.
    pub altered: usize,
    /// How many of the files' entries lapse within 30 days.
    pub lapsing_30d: usize,
    /// The first of them, as a list's line would say: `+198.51.100.7 expires=2026-12-31`.
    pub sample: Vec<String>,
}

/// What would become of the tunnels that are open.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TunnelDifference {
    /// How many are open.
    pub open: usize,
    /// How many would be closed.
    pub revoked: usize,
    /// How many of which route, and why.
    pub by: Vec<Revocations>,
    /// Some of them.
    pub sample: Vec<Revoked>,
}

/// What would become of the streams.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StreamDifference {
    /// How many are open.
    pub open: usize,
    /// How many would be cut.
    pub revoked: usize,
    /// Some of them.
    pub sample: Vec<Revoked>,
}

/// How many tunnels of a route would be closed for one reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Revocations {
    /// The route.
    pub route: String,
    /// The refusal's word.
    pub reason: String,
    /// How many.
    pub tunnels: usize,
}

/// One tunnel or stream that would be closed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Revoked {
    /// Its number.
    pub id: u64,
    /// Who holds it.
    pub client: String,
    /// Under which route it runs.
    pub route: String,
    /// The refusal's word.
    pub reason: String,
    /// The rule that would refuse it, `file:line`.
    pub rule: Option<String>,
    /// The entry on which that rule would stand, and where it is written.
    pub entry: Option<String>,
    /// When it opened.
    pub opened: String,
}

/// What `next` would change of `before`, which runs with `settings`.
pub fn difference(before: &Snapshot, settings: &Settings, next: &Built, weighed: &Weighed, now: Timestamp) -> Difference {
    let (from, to) = (effective::settings(settings), effective::settings(&next.settings));
    let (weight, snapshot) = (&weighed.weight, &next.snapshot);
    let (tunnels, streams) = (tunnels(snapshot, weight, now), streams(snapshot, weight, now));
    let mut all = Difference { keys: Vec::new(), lists: Vec::new(), tunnels, streams };
    keys::compare("sidegate.toml", &from, &to, &mut all.keys);
    let (from, to) = (pages(before), pages(&next.snapshot));
    let named: BTreeMap<_, _> = from.iter().chain(&to).map(|(name, policy)| (name, &policy.file)).collect();
    for (name, file) in named {
        match (from.get(name), to.get(name)) {
            (Some(from), Some(to)) => {
                keys::compare(&to.file, &effective::rules(from), &effective::rules(to), &mut all.keys);
                all.lists.extend(lists::compare(from, to, now));
            }
            (from, to) => {
                let rules = |policy: Option<&&Arc<Policy>>| policy.map(|policy| effective::rules(policy));
                all.keys.push(KeyDifference { file: file.to_string(), key: String::new(), from: rules(from), to: rules(to) });
            }
        }
    }
    all
}

/// Every policy, the baseline and the candidates, under what tells them apart.
fn pages(snapshot: &Snapshot) -> BTreeMap<(&str, bool), &Arc<Policy>> {
    let candidates = snapshot.policies.values().filter_map(|policy| policy.candidate.as_ref());
    let policies = snapshot.all_policies().map(|policy| ((&*policy.name, false), policy));
    policies.chain(candidates.map(|candidate| ((&*candidate.name, true), candidate))).collect()
}

fn streams(next: &Snapshot, weight: &Weight, now: Timestamp) -> StreamDifference {
    StreamDifference {
        open: weight.streams,
        revoked: weight.revoked_streams.len(),
        sample: sample(next, &weight.revoked_streams, now),
    }
}

/// The first of what would be closed, each with the rule and the entry that decide.
fn sample(next: &Snapshot, revoked: &[(Arc<Entry>, Refusal)], now: Timestamp) -> Vec<Revoked> {
    let one = |(entry, refusal): &(Arc<Entry>, Refusal)| {
        let judgement = next.judge(entry.client, &entry.request, None, now);
        let policy = judgement.policy.as_deref();
        let is_plain = !entry.request.is_attempt();
        let decisive = policy.and_then(|policy| policy.decisive(entry.client, is_plain, Err(*refusal), now));
        let by = decisive.and_then(|decisive| decisive.by);
        Revoked {
            id: entry.id,
            client: entry.client.to_string(),
            route: entry.route().name.to_string(),
            reason: refusal.word().into(),
            rule: decisive.map(|decisive| decisive.place.to_string()),
            entry: by.map(|by| format!("{} ({})", by.entry, by.place())),
            opened: entry.opened.to_string(),
        }
    };
    revoked.iter().take(MOST_TUNNELS).map(one).collect()
}

fn tunnels(next: &Snapshot, weight: &Weight, now: Timestamp) -> TunnelDifference {
    let mut by: BTreeMap<(Arc<str>, &'static str), usize> = BTreeMap::new();
    for (entry, refusal) in &weight.revoked {
        *by.entry((Arc::clone(&entry.route().name), refusal.word())).or_default() += 1;
    }
    let revocations = |((route, reason), tunnels): ((Arc<str>, &str), usize)| Revocations {
        route: route.to_string(),
        reason: reason.into(),
        tunnels,
    };
    TunnelDifference {
        open: weight.open,
        revoked: weight.revoked.len(),
        sample: sample(next, &weight.revoked, now),
        by: by.into_iter().map(revocations).collect(),
    }
}
