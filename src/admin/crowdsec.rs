//! `POST /v1/crowdsec`: the decisions of CrowdSec, and the order to let held ones hold.

use crate::admin::state::AdminContext;
use crate::admin::wire::{
    CrowdsecAnswer, CrowdsecRequest, RefusedDecisionReport, RefusedDecisions, Time,
};
use crate::policy::ban::BanOrigin;

/// Answers with the state of the bouncer. Held bans that are accepted hold within a moment.
pub fn crowdsec(admin: &AdminContext, request: CrowdsecRequest) -> CrowdsecAnswer {
    let accepted = request.accept_held.then(|| admin.bouncer.accept_held()).flatten();
    if let Some(held) = accepted {
        let (bans, tunnels) = (held.bans, held.revoked);
        tracing::warn!(bans, tunnels, "held bans of CrowdSec are accepted");
    }
    let report = admin.bouncer.report();
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
    CrowdsecAnswer {
        url: report.url.as_ref().map(ToString::to_string),
        answered: report.answered.map(Time),
        fault: report.fault.clone(),
        bans: admin.bans.bans().of(BanOrigin::Crowdsec).len() as u64,
        held: report.held.map_or(0, |held| held.bans as u64),
        held_revoked: report.held.map_or(0, |held| held.revoked as u64),
        accepted: accepted.is_some(),
        refused_counts: counts.collect(),
        refused: refused.collect(),
    }
}
