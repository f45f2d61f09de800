//! `[limits]`: how much of it.

use std::num::NonZeroU32;

use crate::control::config::document::{Table, unit};
use crate::control::config::page::error;
use crate::policy::limit::{Limits, Rate, TunnelLimits};

/// Reads the whole table; what is left out doesn't hold, but `ping` and `pong` do.
pub fn read(mut table: Table<'_>) -> Limits {
    let upgrades = per_client(&mut table, "upgrades");
    let requests = per_client(&mut table, "requests");

    let mut connections = table.table("connections");
    let mut count = |key| connections.get(key)?.integer(1..=u32::MAX.into()).and_then(|count| u32::try_from(count).ok());
    let (per_client, total) = (count("per_client"), count("total"));
    connections.finish();

    let tunnel = tunnel(&mut table);
    table.later("for");
    table.finish();
    Limits { upgrades, requests, per_client, total, tunnel }
}

fn tunnel(table: &mut Table<'_>) -> TunnelLimits {
    let default = TunnelLimits::default();
    let mut message = table.table("message");
    let message_max = message.get("max").and_then(|value| {
        let max = value.parse("a size like \"1MiB\"", unit::size)?;
        if max == 0 {
            value.report(error("zero makes no sense here").remedy("leave it out for no limit"));
        }
        Some(max)
    });
    let message_rate = rate(&mut message, None);
    message.finish();
    let ping = match table.get("ping") {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) => value.parse("a duration like \"25s\", or \"off\"", |text| {
            unit::positive_duration(text).map_err(|finding| finding.remedy("a duration like \"25s\", or \"off\""))
        }),
        None => default.ping,
    };
    TunnelLimits {
        message_max,
        message_rate,
        idle: table.positive_duration("idle"),
        lifetime: table.positive_duration("lifetime"),
        ping,
        pong: table.positive_duration("pong").unwrap_or(default.pong),
    }
}

/// `{ rate = "5/s", burst = 20 }`
fn per_client(limits: &mut Table<'_>, key: &'static str) -> Option<Rate> {
    let mut table = limits.get(key)?.table(format!("`{key}`"))?;
    table.need("rate", format!("{key} = {{ rate = \"5/s\", burst = 20 }}"));
    let burst = table.get("burst").and_then(|value| value.integer(1..=unit::MOST_TOKENS.into()));
    table.later("per");
    let rate = rate(&mut table, burst.and_then(|burst| u32::try_from(burst).ok()).and_then(NonZeroU32::new));
    table.finish();
    rate
}

/// The `rate` in `table`; without a burst, as many at once as there are tokens.
fn rate(table: &mut Table<'_>, burst: Option<NonZeroU32>) -> Option<Rate> {
    let (tokens, per) = table.get("rate")?.parse("a rate like \"5/s\"", unit::rate)?;
    Some(Rate { tokens, per, burst: burst.unwrap_or(tokens) })
}
