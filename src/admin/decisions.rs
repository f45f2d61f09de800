//! Answers `GET /v1/decisions` and `GET /v1/refused` from the recent decisions.
//!
//! This module counts and converts. It escapes nothing: commands do that as they print.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::admin::bans;
use crate::admin::wire::{
    DecisionReport, DecisionResult, DecisionsAnswer, DecisionsRequest, EntryVerdict, ExplainedKind,
    MAX_DECISIONS, RefusalsRequest, RefusedAnswer, RefusedClient, RefusedReason, RefusedRule, Time,
};
use crate::observe::metrics::{RequestKind, RequestResult};
use crate::observe::recent::{DecidedEntry, RecentDecision, RecentDecisions};
use crate::policy::list::Expiry;
use crate::policy::network::ClientKey;

/// The error where decisions are not kept.
const OFF: &str = "recent decisions are off: set [admin] recent_decisions and recent_bytes";

/// The decisions with the id of `request`.
///
/// # Errors
/// A sentence, if decisions are not kept.
pub fn decisions(
    recent: &RecentDecisions,
    request: &DecisionsRequest,
    now: Timestamp,
) -> Result<DecisionsAnswer, String> {
    let found = recent.recall(|one| one.has_id(&request.request)).ok_or(OFF)?.as_of(now);
    let mut all: Vec<_> = found.denied.into_iter().chain(found.permitted).collect();
    // Stable: of decisions at the same instant, refusals come first.
    all.sort_by_key(|one| Reverse(one.at));
    // Counted before the cut, so that the answer shows how many decisions it leaves out.
    let matching = all.len() as u64;
    all.truncate(MAX_DECISIONS);
    Ok(DecisionsAnswer {
        request: request.request.clone(),
        now: Time(now),
        refused_since: Time(found.denied_since),
        permitted_since: Time(found.permitted_since),
        matching,
        decisions: all.iter().map(|one| report(one)).collect(),
    })
}

fn report(decision: &RecentDecision) -> DecisionReport {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let entry = decision.entry();
    DecisionReport {
        at: Time(decision.at),
        result: match decision.result {
            RequestResult::Permitted => DecisionResult::Permitted,
            RequestResult::Refused => DecisionResult::Refused,
            RequestResult::Failed => DecisionResult::Failed,
        },
        reason: text(decision.reason),
        status: decision.status,
        kind: match decision.kind {
            Some(RequestKind::Upgrade) => ExplainedKind::Upgrade,
            Some(RequestKind::Plain) => ExplainedKind::Plain,
            None => ExplainedKind::Other(String::new()),
        },
        listener: decision.listener().to_owned(),
        client: decision.client.to_string(),
        peer: decision.peer.to_string(),
        identity: text(decision.identity()),
        host: decision.host().unwrap_or_default().to_owned(),
        path: decision.path().unwrap_or_default().to_owned(),
        origin: text(decision.origin()),
        route: text(decision.route()),
        policy: text(decision.policy()),
        generation: decision.generation,
        rule: decision.rule().map(|rule| rule.rule.key().to_owned()),
        rule_at: rule_at(decision),
        list: entry.map(|entry| entry.list.to_owned()),
        by: entry.map(|entry| verdict(&entry, decision.at)),
        would_match: decision.would_match().map(ToString::to_string),
        ban: decision.ban.as_deref().map(bans::status),
    }
}

/// The place of the rule that decided. `None` means that no rule did.
pub fn rule_at(decision: &RecentDecision) -> Option<String> {
    let rule = decision.rule()?;
    // Line 0: the rule is not written.
    let line = if rule.line == 0 { String::new() } else { format!(":{}", rule.line) };
    Some(format!("{}{line}", rule.file))
}

/// The place of an entry, as `file:line`.
pub fn entry_at(entry: &DecidedEntry<'_>) -> String {
    format!("{}:{}", entry.file, entry.line)
}

fn verdict(entry: &DecidedEntry<'_>, at: Timestamp) -> EntryVerdict {
    EntryVerdict {
        entry: entry.entry.to_string(),
        place: entry_at(entry),
        owner: entry.owner.map(str::to_owned),
        ticket: entry.ticket.map(str::to_owned),
        expires: entry.expires.map(|expires| Expiry(expires).to_string()),
        // By the time of the decision: an entry that has lapsed since then was in force.
        lapsed: entry.expires.is_some_and(|expires| expires <= at),
    }
}

/// Counts the refusals of the period of `request`.
///
/// # Errors
/// A sentence, if decisions are not kept.
pub fn refused(
    recent: &RecentDecisions,
    request: &RefusalsRequest,
    now: Timestamp,
) -> Result<RefusedAnswer, String> {
    // Failures share the ring of the refusals, but no rule has refused them.
    let is_refused = |one: &RecentDecision| one.result == RequestResult::Refused;
    let found = recent.recall(is_refused).ok_or(OFF)?.as_of(now);
    // A period that goes back beyond the first timestamp asks for all.
    let asked = request.last.and_then(|seconds| {
        let last = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        now.checked_sub(last).ok()
    });
    // Counts never reach into a time whose decisions were partly dropped: they would be too low.
    let since = asked.map_or(found.denied_since, |asked| asked.max(found.denied_since));
    // Where a ring has dropped decisions of one instant, it may lack others of the same.
    let all: Vec<_> = found.denied.into_iter().filter(|one| one.at > since).collect();
    let clients = tally(&all, |one| Some(one.client.key()));
    Ok(RefusedAnswer {
        now: Time(now),
        since: Time(since),
        kept_since: Time(found.denied_since),
        refused: all.len() as u64,
        refused_clients: clients.len() as u64,
        clients: clients.iter().take(request.top).map(refused_client).collect(),
        reasons: tally(&all, |one| one.reason)
            .into_iter()
            .take(request.top)
            .map(|one| RefusedReason { reason: one.key.to_owned(), refused: one.refused })
            .collect(),
        rules: tally(&all, RuleKey::of)
            .into_iter()
            .take(request.top)
            .map(|one| one.key.counted(one.refused))
            .collect(),
    })
}

/// The refusals with one key.
pub struct RefusalTally<'d, K> {
    /// The key that they share.
    pub key: K,
    /// Number of the refusals with it.
    pub refused: u64,
    /// The latest of them.
    pub latest: &'d RecentDecision,
}

/// Counts `all` by `key`: the most first, and of as many the latest. Decisions without a key are
/// left out.
pub fn tally<'d, K: Hash + Eq>(
    all: &'d [Arc<RecentDecision>],
    key: impl Fn(&'d RecentDecision) -> Option<K>,
) -> Vec<RefusalTally<'d, K>> {
    let mut counts: HashMap<K, (u64, &RecentDecision)> = HashMap::new();
    for one in all {
        let Some(key) = key(one) else { continue };
        // The newest is first.
        counts.entry(key).or_insert((0, one)).0 += 1;
    }
    let counts = counts.into_iter();
    let mut counts: Vec<_> =
        counts.map(|(key, (refused, latest))| RefusalTally { key, refused, latest }).collect();
    counts.sort_by_key(|one| Reverse((one.refused, one.latest.at)));
    counts
}

fn refused_client(counted: &RefusalTally<'_, ClientKey>) -> RefusedClient {
    let RefusalTally { key, refused, latest } = counted;
    RefusedClient {
        client: key.to_string(),
        refused: *refused,
        last: Time(latest.at),
        reason: latest.reason.unwrap_or_default().to_owned(),
        request_id: latest.request_id().map(str::to_owned),
    }
}

/// What refusals by one rule are counted by.
#[derive(PartialEq, Eq, Hash)]
struct RuleKey {
    policy: String,
    rule_at: String,
    /// The list, the entry and its place.
    entry: Option<[String; 3]>,
}

impl RuleKey {
    fn of(decision: &RecentDecision) -> Option<RuleKey> {
        let entry = |entry: DecidedEntry<'_>| {
            [entry.list.to_owned(), entry.entry.to_string(), entry_at(&entry)]
        };
        // Bans, limits and unknown routes have no rule. The reasons alone count such refusals.
        Some(RuleKey {
            policy: decision.policy()?.to_owned(),
            rule_at: rule_at(decision)?,
            entry: decision.entry().map(entry),
        })
    }

    fn counted(self, refused: u64) -> RefusedRule {
        let RuleKey { policy, rule_at, entry } = self;
        let [list, entry, entry_at] = entry.map_or([None, None, None], |all| all.map(Some));
        RefusedRule { policy, rule_at, list, entry, entry_at, refused }
    }
}
