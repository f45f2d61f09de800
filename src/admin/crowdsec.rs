//! `POST /v1/crowdsec`: the decisions of CrowdSec, and the order to let held ones hold.

use crate::admin::state::AdminContext;
use crate::admin::wire::{
    CrowdsecAnswer, CrowdsecRequest, HeldBanReport, RefusedDecisionReport, RefusedDecisions, Time,
};
use crate::control::crowdsec::{HeldBan, HeldBans, MAX_LISTED};
use crate::policy::ban::BanOrigin;

/// Answers with the state of the bouncer. Held bans that are accepted hold within a moment, and are
/// those of the answer.
pub fn crowdsec(admin: &AdminContext, request: CrowdsecRequest) -> CrowdsecAnswer {
    let accepted = request.accept_held.map(|digest| admin.bouncer.accept_held(&digest));
    let report = admin.bouncer.report();
    let is_accepted = matches!(accepted, Some(Ok(_)));
    let held = match accepted {
        Some(Ok(held)) => {
            let (bans, tunnels) = (held.bans.len(), held.revoked);
            tracing::warn!(bans, tunnels, "held bans of CrowdSec are accepted");
            Some(held)
        }
        Some(Err(held)) => held,
        None => report.held.clone(),
    };
    let held = held.as_deref();
    let refused = report.refused.iter().map(|one| RefusedDecisionReport {
        decision: one.key.to_string(),
        id: one.id,
        reason: one.reason.word().to_owned(),
        says: one.says.clone(),
    });
    let counts = report.counts.iter().map(|(reason, count)| RefusedDecisions {
        reason: reason.word().to_owned(),
        decisions: *count as u64,
    });
    let number = |of: fn(&HeldBans) -> usize| held.map_or(0, of) as u64;
    let held_bans = held.iter().flat_map(|held| &held.bans).take(MAX_LISTED).map(held_ban);
    CrowdsecAnswer {
        url: report.url.as_ref().map(ToString::to_string),
        answered: report.answered.map(Time),
        fault: report.fault.clone(),
        bans: admin.bans.bans().of(BanOrigin::Crowdsec).len() as u64,
        held: number(|held| held.bans.len()),
        held_revoked: number(|held| held.revoked),
        held_clients: number(|held| held.clients),
        open: number(|held| held.open),
        open_clients: number(|held| held.open_clients),
        held_digest: held.map(|held| held.digest.to_string()),
        held_bans: held_bans.collect(),
        accepted: is_accepted,
        refused_counts: counts.collect(),
        refused: refused.collect(),
    }
}

fn held_ban(held: &HeldBan) -> HeldBanReport {
    HeldBanReport {
        target: held.ban.target.to_string(),
        why: held.ban.why.to_string(),
        revoked: held.revoked as u64,
        clients: held.clients as u64,
    }
}
