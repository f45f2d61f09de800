//! The limits that a request would be charged to.

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::{LimiterId, Rate, RateLimit};
use crate::policy::network::ClientKey;
use crate::policy::request::Request;
use crate::policy::rule::Rule;
use crate::policy::subject::Subject;
use crate::snapshot::explanation::report::LimitExplanation;

/// The remainder of the limits of a running agent, which a snapshot does not know.
pub trait Remaining {
    /// Tokens of `rate` that `client` has left in the limiters of `id`.
    fn tokens(&self, id: LimiterId<'_>, rate: Rate, client: ClientKey) -> u32;

    /// The number of open tunnels of `client` under the policy of this name.
    fn tunnels_of(&self, policy: &str, client: ClientKey) -> u32;

    /// The number of open tunnels under the policy of this name.
    fn tunnels(&self, policy: &str) -> u32;
}

/// Returns the limits of `policy` that `request` would be charged to, with what `budgets` have left
/// of each. `is_candidate` says that the policy is a candidate, which has rates of its own.
pub fn limits(
    policy: &Policy,
    is_candidate: bool,
    subject: &Subject,
    request: &Request,
    now: Timestamp,
    budgets: Option<&dyn Remaining>,
) -> Vec<LimitExplanation> {
    let exception = policy.limits.exception(subject, now);
    let line =
        exception.and_then(|at| policy.limits.exceptions.get(at)).map(|exception| exception.line);
    let (share, common) = (policy.limits.share(exception), &policy.limits.share);
    // Limits that an exception leaves out are written in `[limits]` itself.
    let limited = |limit: &str, written, own: bool, rule, left: Option<u64>| {
        let line = line.filter(|_| own);
        let place = line.map(|line| format!("{}:{line}", policy.file));
        let place = place.or_else(|| policy.source_line(rule).map(|place| place.to_string()));
        LimitExplanation { limit: limit.into(), written, place, exception: line.is_some(), left }
    };
    let rate = |limit: RateLimit, rule| {
        let rate = limit.of(share)?;
        let id = LimiterId { policy: &policy.name, is_candidate, limit };
        let left = budgets.map(|budgets| u64::from(budgets.tokens(id, rate, subject.client.key())));
        let is_own = Some(rate) != limit.of(common);
        Some(limited(limit.word(), rate.to_string(), is_own, rule, left))
    };
    if request.is_plain() {
        return rate(RateLimit::Requests, Rule::Requests).into_iter().collect();
    }
    let upgrades = rate(RateLimit::Upgrades, Rule::Upgrades);
    let left = |max: u32, open: Option<u32>| open.map(|open| max.saturating_sub(open).into());
    let per_client = share.per_client.map(|max| {
        let open = budgets.map(|budgets| budgets.tunnels_of(&policy.name, subject.client.key()));
        let (written, left) = (format!("{max} tunnels of one client"), left(max, open));
        let is_own = share.per_client != common.per_client;
        limited("per_client", written, is_own, Rule::Connections, left)
    });
    let total = policy.limits.total.map(|max| {
        let open = budgets.map(|budgets| budgets.tunnels(&policy.name));
        let (written, left) = (format!("{max} tunnels in all"), left(max, open));
        // No exception may set the total: it is the policy's.
        limited("total", written, false, Rule::Connections, left)
    });
    upgrades.into_iter().chain(per_client).chain(total).collect()
}
