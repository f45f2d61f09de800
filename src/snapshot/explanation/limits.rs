//! The limits that a request would be charged to.

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::{LimitKey, LimitUnit, LimiterId, Rate, RateLimit};
use crate::policy::request::Request;
use crate::policy::rule::Rule;
use crate::policy::subject::Subject;
use crate::snapshot::explanation::report::{LimitExplanation, LimitKeyExplanation};

/// The remainder of the limits of a running agent, which a snapshot does not know.
pub trait Remaining {
    /// Tokens of `rate` that `key` has left in the limiters of `id`.
    fn tokens(&self, id: LimiterId<'_>, rate: Rate, key: LimitKey) -> u32;

    /// The number of open tunnels under the policy of this name that are counted by `key`.
    fn tunnels_of(&self, policy: &str, key: LimitKey) -> u32;

    /// The number of open tunnels under the policy of this name that `unit` would count together
    /// with those of `subject`.
    fn tunnels_by_unit(&self, policy: &str, subject: &Subject, unit: LimitUnit) -> u32;

    /// The number of open tunnels under the policy of this name.
    fn tunnels(&self, policy: &str) -> u32;
}

/// Returns the limits of `policy` that `request` would be charged to, with what `budgets` have left
/// of each. `in_force` is the same policy, or the one whose candidate it is: a candidate has rates
/// of its own.
pub fn limits(
    policy: &Policy,
    in_force: &Policy,
    subject: &Subject,
    request: &Request,
    now: Timestamp,
    budgets: Option<&dyn Remaining>,
) -> Vec<LimitExplanation> {
    let at = policy.limits.exception(subject, now);
    let exception = at.and_then(|at| policy.limits.exceptions.get(at));
    let (share, common) = (policy.limits.share(at), &policy.limits.share);
    // Limits that an exception leaves out are written in `[limits]` itself.
    let limited = |limit: &str, written, own: bool, rule, left: Option<u64>| {
        let exception = exception.filter(|_| own);
        let place = exception.map(|exception| format!("{}:{}", policy.file, exception.line));
        let place = place.or_else(|| policy.source_line(rule).map(|place| place.to_string()));
        let pattern = exception.and_then(|exception| exception.pattern_of(subject));
        LimitExplanation {
            limit: limit.into(),
            written,
            place,
            exception: exception.is_some(),
            pattern: pattern.map(ToString::to_string),
            key: None,
            left,
        }
    };
    let rate = |limit: RateLimit, rule| {
        let (rate, unit) = (limit.of(share)?, limit.unit(share));
        let is_candidate = !std::ptr::eq(policy, in_force);
        let id = LimiterId { policy: &policy.name, is_candidate, limit };
        let key = LimitKey::of(subject, unit);
        let left = budgets.map(|budgets| u64::from(budgets.tokens(id, rate, key)));
        let is_own = (Some(rate), unit) != (limit.of(common), limit.unit(common));
        let limited = limited(limit.word(), rate.to_string(), is_own, rule, left);
        Some(LimitExplanation { key: Some(key_of(subject, unit)), ..limited })
    };
    if request.is_plain() {
        return rate(RateLimit::Requests, Rule::Requests).into_iter().collect();
    }
    let upgrades = rate(RateLimit::Upgrades, Rule::Upgrades);
    let left = |max: u32, open: Option<u32>| open.map(|open| max.saturating_sub(open).into());
    let unit = share.units.connections;
    let per_client = share.per_client.map(|max| {
        let counted_by = in_force.limits.client_limits(subject, now).units.connections;
        let open = budgets.map(|budgets| match counted_by == unit {
            true => budgets.tunnels_of(&policy.name, LimitKey::of(subject, unit)),
            false => budgets.tunnels_by_unit(&policy.name, subject, unit),
        });
        let (written, left) = (format!("{max} tunnels of one client"), left(max, open));
        let of_common = (common.per_client, common.units.connections);
        let is_own = (share.per_client, unit) != of_common;
        let limited = limited("per_client", written, is_own, Rule::Connections, left);
        LimitExplanation { key: Some(key_of(subject, unit)), ..limited }
    });
    let total = policy.limits.total.map(|max| {
        let open = budgets.map(|budgets| budgets.tunnels(&policy.name));
        let (written, left) = (format!("{max} tunnels in all"), left(max, open));
        // No exception may set the total: it is the policy's.
        limited("total", written, false, Rule::Connections, left)
    });
    upgrades.into_iter().chain(per_client).chain(total).collect()
}

/// What a limit of this unit counts `subject` by.
fn key_of(subject: &Subject, unit: LimitUnit) -> LimitKeyExplanation {
    let certificate = subject.certificate().filter(|_| unit == LimitUnit::Identity);
    let name = match certificate {
        Some(certificate) => certificate.identity().to_string(),
        None => subject.client.key().to_string(),
    };
    LimitKeyExplanation { unit, name }
}
