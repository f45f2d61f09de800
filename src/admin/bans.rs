//! `POST /v1/ban`, `POST /v1/unban` and `GET /v1/bans`.
//!
//! Parses targets and times, and asks the gate. The keeper of the bans carries orders out.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::admin::state::AdminContext;
use crate::admin::wire::{
    BanAnswer, BanConflict, BanRequest, BanStatus, BansAnswer, Time, UnbanAnswer, UnbanRequest,
};
use crate::control::bans::{BanOrder, NeededOverride, needed_overrides};
use crate::control::config::parse_duration;
use crate::observe::printable::is_control;
use crate::policy::ban::{Ban, BanOrigin, BanTarget};

/// Length of a ban that names none.
const DEFAULT_PERIOD: Duration = Duration::from_secs(3600);

/// Most characters of a reason.
const MAX_WHY: usize = 500;

/// Carries out a ban that was ordered by the user `by`.
///
/// # Errors
/// A sentence that names the wrong parameter and says what to write.
pub async fn ban(
    admin: &AdminContext,
    request: BanRequest,
    by: Option<u32>,
) -> Result<BanAnswer, String> {
    let ban = parse(&request, by, Timestamp::now())?;
    let needed = {
        // Released before the write is awaited: a slow disk must not keep an old generation alive.
        // A reload after this point is not seen. The gate guards against mistakes, and is no lock.
        let (live, tests) = (admin.live.load(), admin.config_status.allow_tests.load());
        needed_overrides(&ban.target, &live, &tests)
    };
    // Each conflict is named by its own word: one override for all would also cover conflicts
    // that have come up since the operator looked.
    let is_named = |one: &&NeededOverride| request.overrides.contains(&one.word);
    if needed.iter().any(|one| !is_named(&one)) {
        let missing = needed.iter().filter(|one| !is_named(one));
        return Ok(BanAnswer::Refused { conflicts: missing.map(conflict).collect() });
    }
    for one in &needed {
        tracing::warn!(ban = %ban.target, overridden = &*one.word, uid = by, "{}", one.says);
    }
    let ban = Arc::new(ban);
    let outcome = admin.bans.carry_out(BanOrder::Ban(Arc::clone(&ban))).await;
    let outcome = outcome.map_err(|full| full.to_string())?;
    Ok(BanAnswer::Banned {
        ban: status(&ban).into(),
        replaced: outcome.former.first().map(|former| status(former).into()),
        tunnels: outcome.revoked.tunnels as u64,
        exchanges: outcome.revoked.exchanges as u64,
        overridden: needed.iter().map(conflict).collect(),
        not_kept: outcome.not_kept,
    })
}

/// Lifts bans.
///
/// # Errors
/// A sentence that names the wrong parameter and says what to write.
pub async fn unban(admin: &AdminContext, request: UnbanRequest) -> Result<UnbanAnswer, String> {
    let bans = admin.bans.bans();
    // `all` is a word of its own: a script whose variable is empty must not lift every ban.
    let target = match (&request.client, &request.identity, request.all) {
        (None, None, true) => None,
        (client, identity, false) => Some(target(client.as_deref(), identity.as_deref())?),
        _ => return Err("`all` goes with no other parameter".into()),
    };
    // Exactly this target. To unban an address must not open the network around it, which the
    // answer lists instead.
    let origin = request.origin.as_deref().map(origin).transpose()?;
    let is_meant = |ban: &&Arc<Ban>| {
        target.as_ref().is_none_or(|target| ban.target == *target)
            && origin.is_none_or(|origin| ban.origin == origin)
    };
    let meant: Vec<_> = bans.iter().filter(is_meant).cloned().collect();
    if let Some(target) = target.filter(|_| meant.is_empty()) {
        let around =
            bans.iter().filter(|ban| ban.target == target || touches(&ban.target, &target));
        return Ok(UnbanAnswer::NotBanned { around: around.map(|ban| status(ban)).collect() });
    }
    // Noted first: a poll in between must not ban again.
    let decisions = meant.iter().filter(|ban| ban.origin == BanOrigin::Crowdsec);
    admin.bouncer.lift(decisions.map(|ban| ban.target.clone()).collect());
    let outcome = admin.bans.carry_out(BanOrder::Lift(meant)).await;
    let outcome = outcome.map_err(|full| full.to_string())?;
    let lifted = outcome.former.iter().map(|ban| status(ban)).collect();
    Ok(UnbanAnswer::Unbanned { lifted, not_kept: outcome.not_kept })
}

/// The bans in force.
pub fn bans(admin: &AdminContext) -> BansAnswer {
    let now = Timestamp::now();
    let bans = admin.bans.bans();
    admin.bouncer.note_freed();
    BansAnswer {
        bans: bans.iter().filter(|ban| !ban.lapsed(now)).map(|ban| status(ban)).collect(),
        file: admin.bans.file(),
        faults: admin.bans.faults(),
    }
}

/// Whether two targets have a client in common that their texts show.
fn touches(one: &BanTarget, other: &BanTarget) -> bool {
    match (one, other) {
        (BanTarget::Network(one), BanTarget::Network(other)) => {
            one.contains(other) || other.contains(one)
        }
        _ => false,
    }
}

fn parse(request: &BanRequest, by: Option<u32>, now: Timestamp) -> Result<Ban, String> {
    let target = target(request.client.as_deref(), request.identity.as_deref())?;
    let why = request.why.trim();
    if why.is_empty() || why.chars().count() > MAX_WHY {
        return Err(format!("`why` is the reason, in 1 to {MAX_WHY} characters"));
    }
    // It is printed, logged and handed to programs line by line.
    if why.contains(is_control) {
        return Err("`why` is one line, without control characters".into());
    }
    let until = match (&request.period, request.forever) {
        (Some(_), true) => return Err("`for` and `forever` exclude each other".into()),
        (None, true) => None,
        (Some(period), false) => Some(end(now, parse_duration(period)?)?),
        (None, false) => Some(end(now, DEFAULT_PERIOD)?),
    };
    let origin = request.origin.as_deref().map_or(Ok(BanOrigin::Operator), origin);
    // Decisions of CrowdSec come from its Local API alone.
    let origin = origin.ok().filter(|origin| *origin != BanOrigin::Crowdsec);
    let origin = origin.ok_or("`origin` is operator or fail2ban")?;
    Ok(Ban { target, until, why: why.into(), origin, since: now, by })
}

fn end(now: Timestamp, period: Duration) -> Result<Timestamp, String> {
    let period = SignedDuration::try_from(period).ok();
    // Timestamps end with the year 9999. A ban without an end has to be asked for by `forever`.
    let end = period.and_then(|period| now.checked_add(period).ok());
    end.ok_or_else(|| "`for` is too long".into())
}

fn origin(word: &str) -> Result<BanOrigin, String> {
    BanOrigin::parse(word).ok_or_else(|| "`origin` is operator, fail2ban or crowdsec".into())
}

fn target(client: Option<&str>, identity: Option<&str>) -> Result<BanTarget, String> {
    let parsed = match (client, identity) {
        (Some(client), None) => BanTarget::parse_client(client),
        (None, Some(identity)) => BanTarget::parse_identity(identity),
        _ => return Err("exactly one of `client` and `identity` is needed".into()),
    };
    parsed.map_err(|fault| fault.to_string())
}

fn conflict(needed: &NeededOverride) -> BanConflict {
    BanConflict { word: needed.word.clone(), says: needed.says.clone() }
}

/// Converts a ban to its wire form.
pub fn status(ban: &Ban) -> BanStatus {
    BanStatus {
        target: ban.target.to_string(),
        until: ban.until.map(Time),
        why: ban.why.to_string(),
        origin: ban.origin.word().to_owned(),
        since: Time(ban.since),
        by: ban.by,
    }
}
