//! The difference between the files and the running generation: rules, entries of lists, settings,
//! and open tunnels.
//!
//! This module compares values and publishes nothing. The caller decides whether the difference is
//! too large.

mod keys;
mod lists;
mod widening;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::admin::status::reports;
use crate::admin::wire::{
    Changes, DiagnosticReport, DiffRequest, KeyChange, RevocationCount, RevokedTunnel,
    StreamChanges, Time, TunnelChanges,
};
use crate::control::compile::CompiledGeneration;
use crate::control::config::{Settings, effective};
use crate::control::guards::Guards;
use crate::control::reload::ReloadImpact;
use crate::policy::{AllowRule, Policy};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::{LiveEntry, ReconcileImpact};

/// Most tunnels that are named one by one.
const MAX_LISTED_TUNNELS: usize = 10;

/// The two generations to compare.
pub struct ComparedGenerations<'c> {
    /// Snapshot of the running generation.
    pub before: &'c Snapshot,
    /// Settings of the running generation.
    pub settings: &'c Settings,
    /// What the files of the running generation check of themselves.
    pub guards: &'c Guards,
    /// The generation compiled from the files.
    pub next: &'c CompiledGeneration,
    /// Digest of the files in full.
    pub expect: &'c str,
    /// The effect of `next` on open tunnels, and the errors that would hold the reload.
    pub impact: &'c ReloadImpact,
    /// The request: which policy's candidate was treated as promoted, and whether files are staged.
    pub request: &'c DiffRequest,
    /// The instant at which entries count as lapsing.
    pub now: Timestamp,
}

/// Every difference of `comparison`.
pub fn compare(comparison: &ComparedGenerations<'_>) -> Changes {
    let ComparedGenerations { before, settings, next, expect, impact, request, now, .. } =
        *comparison;
    let (from, to) = (effective::settings(settings), effective::settings(&next.settings));
    let snapshot = &next.snapshot;
    let mut all = Changes {
        generation: before.generation,
        from: before.digest.to_string(),
        to: snapshot.digest.to_string(),
        expect: expect.to_owned(),
        promote: request.promote.clone(),
        staged: request.staged,
        keys: Vec::new(),
        lists: Vec::new(),
        tunnels: tunnels(snapshot, &impact.weight, now),
        streams: streams(snapshot, &impact.weight, now),
        widening: widening::changes(&impact.widening),
        held: reports(&impact.held),
        diagnostics: diagnostics(next),
    };
    keys::compare("sidegate.toml", &from, &to, &mut all.keys);
    let (from, to) = (policies_by_name(before), policies_by_name(&next.snapshot));
    let named: BTreeMap<_, _> =
        from.iter().chain(&to).map(|(name, policy)| (name, &policy.file)).collect();
    for (name, file) in named {
        // A candidate's lists are supervised by no reload.
        if let (policy, false) = *name {
            supervision(file, policy, comparison, &mut all);
        }
        match (from.get(name), to.get(name)) {
            (Some(from), Some(to)) => {
                let rules = rules_of(from, to);
                keys::compare(&to.file, &rules(from), &rules(to), &mut all.keys);
                all.lists.extend(lists::compare(from, to, now));
            }
            (from, to) => {
                let rules =
                    |policy: Option<&&Arc<Policy>>| policy.map(|policy| effective::rules(policy));
                all.keys.push(KeyChange {
                    file: file.to_string(),
                    key: String::new(),
                    from: rules(from),
                    to: rules(to),
                });
            }
        }
    }
    all
}

/// Adds the keys of the lists that both generations have of a policy, under `lists.NAME`.
fn supervision(file: &str, policy: &str, compared: &ComparedGenerations<'_>, all: &mut Changes) {
    let from = compared.guards.supervision(policy);
    let to = compared.next.guards.supervision(policy);
    for (name, keys) in from.as_object().into_iter().flatten() {
        // A list that is new or gone is in the difference of entries.
        if let Some(new) = to.get(name) {
            let of = |keys: &Value| json!({ "lists": { name.as_str(): keys } });
            keys::compare(file, &of(keys), &of(new), &mut all.keys);
        }
    }
}

/// The form in which the rules of two versions are compared.
fn rules_of(from: &Policy, to: &Policy) -> fn(&Policy) -> Value {
    let is_any = |policy: &Policy| matches!(policy.allow, AllowRule::Any);
    // Entries without a list have lines of their own, but `any` has none.
    match is_any(from) == is_any(to) {
        true => effective::rules,
        false => effective::rules_with_entries,
    }
}

/// The warnings about the files, and about the tests that promotions would drop.
fn diagnostics(next: &CompiledGeneration) -> Vec<DiagnosticReport> {
    let dropped = next.dropped_tests.iter().map(|test| test.diagnostic.clone());
    reports(&next.warnings.iter().cloned().chain(dropped).collect::<Vec<_>>())
}

/// Every policy, the baseline and the candidates, by name and whether it is a candidate.
fn policies_by_name(snapshot: &Snapshot) -> BTreeMap<(&str, bool), &Arc<Policy>> {
    let candidates = snapshot.policies.values().filter_map(|policy| policy.candidate.as_ref());
    let policies = snapshot.all_policies().map(|policy| ((&*policy.name, false), policy));
    policies.chain(candidates.map(|candidate| ((&*candidate.name, true), candidate))).collect()
}

fn streams(next: &Snapshot, weight: &ReconcileImpact, now: Timestamp) -> StreamChanges {
    StreamChanges {
        open: weight.streams as u64,
        revoked: weight.revoked_streams.len() as u64,
        sample: sample(next, &weight.revoked_streams, now),
    }
}

/// The first tunnels or streams that would be closed, each with the rule and the entry that decide.
fn sample(
    next: &Snapshot,
    revoked: &[(Arc<LiveEntry>, Refusal)],
    now: Timestamp,
) -> Vec<RevokedTunnel> {
    let one = |(entry, refusal): &(Arc<LiveEntry>, Refusal)| {
        // Judged again for its policy alone; the refusal is that of the impact.
        let judgement = next.judge(&entry.subject, &entry.request, None, now);
        let policy = judgement.policy.as_deref();
        let is_plain = !entry.request.is_attempt();
        let decisive = policy
            .and_then(|policy| policy.deciding_rule(&entry.subject, is_plain, Err(*refusal), now));
        let by = decisive.and_then(|decisive| decisive.by);
        RevokedTunnel {
            id: entry.id,
            client: entry.subject.client.to_string(),
            route: entry.route().name.to_string(),
            reason: refusal.word().into(),
            rule: decisive.map(|decisive| decisive.place.to_string()),
            entry: by.map(|by| format!("{} ({})", by.entry, by.source_line())),
            opened: Time(entry.opened),
        }
    };
    revoked.iter().take(MAX_LISTED_TUNNELS).map(one).collect()
}

fn tunnels(next: &Snapshot, weight: &ReconcileImpact, now: Timestamp) -> TunnelChanges {
    let mut by: BTreeMap<(Arc<str>, &'static str), u64> = BTreeMap::new();
    for (entry, refusal) in &weight.revoked {
        *by.entry((Arc::clone(&entry.route().name), refusal.word())).or_default() += 1;
    }
    let revocations = |((route, reason), tunnels): ((Arc<str>, &str), u64)| RevocationCount {
        route: route.to_string(),
        reason: reason.into(),
        tunnels,
    };
    TunnelChanges {
        open: weight.open as u64,
        revoked: weight.revoked.len() as u64,
        sample: sample(next, &weight.revoked, now),
        by: by.into_iter().map(revocations).collect(),
    }
}
