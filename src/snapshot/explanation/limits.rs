//! The limits that a request would be charged to.

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::{Limiters, Rate};
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::policy::rule::Rule;
use crate::snapshot::explanation::report::Limited;

/// Returns the limits of `policy` that `request` would be charged to. `live` says whether the
/// remaining budgets are known.
pub fn limits(
    policy: &Policy,
    client: Client,
    request: &Request,
    now: Timestamp,
    live: bool,
) -> Vec<Limited> {
    let exception = policy.limits.exception(client, now);
    let line =
        exception.and_then(|at| policy.limits.exceptions.get(at)).map(|exception| exception.line);
    let (share, common) = (policy.limits.share(exception), &policy.limits.share);
    // Limits that an exception leaves out are written in `[limits]` itself.
    let limited = |limit: &str, written, own: bool, rule, left: Option<u64>| {
        let line = line.filter(|_| own);
        let place = line.map(|line| format!("{}:{line}", policy.file));
        let place = place.or_else(|| policy.place(rule).map(|place| place.to_string()));
        Limited {
            limit: limit.into(),
            written,
            place,
            exception: line.is_some(),
            left: left.filter(|_| live),
        }
    };
    let rate =
        |limit: &str, rate: Option<Rate>, common: Option<Rate>, limiters: &Limiters, rule| {
            let rate = rate?;
            let left = limiters.of(rate).map(|limiter| u64::from(limiter.left(client.key())));
            Some(limited(limit, rate.to_string(), Some(rate) != common, rule, left))
        };
    let budgets = &policy.budgets;
    if request.is_plain() {
        return rate(
            "requests",
            share.requests,
            common.requests,
            &budgets.requests,
            Rule::Requests,
        )
        .into_iter()
        .collect();
    }
    let upgrades =
        rate("upgrades", share.upgrades, common.upgrades, &budgets.upgrades, Rule::Upgrades);
    let left = |most: u32, open: u32| Some(u64::from(most.saturating_sub(open)));
    let per_client = share.per_client.map(|most| {
        let left = left(most, budgets.counts.of(client.key()));
        limited(
            "per_client",
            format!("{most} tunnels of one client"),
            share.per_client != common.per_client,
            Rule::Connections,
            left,
        )
    });
    let total = policy.limits.total.map(|most| {
        limited(
            "total",
            format!("{most} tunnels in all"),
            false,
            Rule::Connections,
            left(most, budgets.counts.total()),
        )
    });
    upgrades.into_iter().chain(per_client).chain(total).collect()
}
