//! `GET /v1/lapsing`, and the same of files: the entries of lists that lapse soon.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::admin::wire::{LapsingAnswer, LapsingEntry, LapsingRequest, MAX_LAPSING, Time};
use crate::policy::Policy;
use crate::policy::list::{Expiry, List, ListEntry};
use crate::snapshot::Snapshot;

/// One entry, with what names it.
struct Lapsing<'s> {
    lapses: Timestamp,
    policy: &'s Policy,
    is_candidate: bool,
    list: &'s List,
    entry: &'s ListEntry,
    line: u32,
}

/// The entries of all policies, candidates and the baseline included, that lapse after `now` and
/// within the time of `request`.
pub fn lapsing(request: &LapsingRequest, snapshot: &Snapshot, now: Timestamp) -> LapsingAnswer {
    let ahead = SignedDuration::from_secs(i64::try_from(request.within).unwrap_or(i64::MAX));
    // A time beyond the calendar's end means all of them.
    let until = now.checked_add(ahead).unwrap_or(Timestamp::MAX);
    let mut policies: Vec<_> = snapshot.all_policies().collect();
    policies.sort_by_key(|policy| &policy.name);
    let mut found = Vec::new();
    for policy in policies {
        add(&mut found, policy, false, now, until);
        if let Some(candidate) = &policy.candidate {
            add(&mut found, candidate, true, now, until);
        }
    }
    // Stable: entries of one instant stay in the order of policies, lists and lines.
    found.sort_by_key(|one| one.lapses);
    LapsingAnswer {
        now: Time(now),
        until: Time(until),
        lapsing: found.len() as u64,
        entries: found.iter().take(MAX_LAPSING).map(shown).collect(),
    }
}

fn add<'s>(
    found: &mut Vec<Lapsing<'s>>,
    policy: &'s Arc<Policy>,
    is_candidate: bool,
    now: Timestamp,
    until: Timestamp,
) {
    for list in policy.lists() {
        // Counted by an index: a large list without such entries is not walked.
        if list.lapsing(now, until) == 0 {
            continue;
        }
        for (entry, line) in list.entries() {
            let Some(lapses) = entry.expires() else { continue };
            if lapses > now && lapses <= until {
                found.push(Lapsing { lapses, policy, is_candidate, list, entry, line });
            }
        }
    }
}

fn shown(one: &Lapsing<'_>) -> LapsingEntry {
    let Lapsing { lapses, policy, is_candidate, list, entry, line } = one;
    LapsingEntry {
        policy: policy.name.to_string(),
        candidate: *is_candidate,
        list: list.name.to_string(),
        entry: entry.to_string(),
        place: format!("{}:{line}", list.file),
        owner: entry.owner().map(str::to_owned),
        ticket: entry.ticket().map(str::to_owned),
        expires: Expiry(*lapses).to_string(),
        lapses: Time(*lapses),
    }
}
