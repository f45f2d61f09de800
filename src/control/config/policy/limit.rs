//! `[limits]`: limits of a policy, and exceptions for some clients.

use std::collections::HashMap;
use std::num::NonZeroU32;

use ipnet::IpNet;
use jiff::Timestamp;

use super::rule;
use super::shelf::Shelf;
use crate::control::config::diagnostic::Place;
use crate::control::config::document::{Table, Value, unit};
use crate::control::config::page::error;
use crate::policy::limit::{Exception, Limits, Rate, Share, TunnelLimits};

/// Reads the whole table. Omitted limits are off, except for `frames`, `ping` and `pong`.
pub fn read(mut table: Table<'_>, shelf: &mut Shelf, now: Timestamp) -> Limits {
    let mut connections = table.table("connections");
    let total = count(&mut connections, "total");
    let mut streams = table.table("streams");
    let streams_total = count(&mut streams, "total");
    let common = share(&mut table, (connections, streams), Share::default());
    let mut taken = Taken::default();
    let tables = table.tables("for").into_iter();
    let exceptions =
        tables.filter_map(|table| exception(table, common, shelf, now, &mut taken)).collect();
    table.finish();
    Limits { share: common, total, streams_total, exceptions }
}

/// Networks in earlier `[[limits.for]]`, with the places of their `client`.
#[derive(Default)]
struct Taken {
    by: HashMap<IpNet, usize>,
    places: Vec<Place>,
}

/// Reads one `[[limits.for]]`; omitted values are those of `common`. `taken` has the networks of
/// those above.
fn exception(
    mut table: Table<'_>,
    common: Share,
    shelf: &mut Shelf,
    now: Timestamp,
    taken: &mut Taken,
) -> Option<Exception> {
    let value = table.need("client", "client = [\"office\"], lists or networks");
    let mut connections = table.table("connections");
    connections
        .refuse("total", error("the total is of the whole policy").remedy("write it in [limits]"));
    let mut streams = table.table("streams");
    streams
        .refuse("total", error("the total is of the whole policy").remedy("write it in [limits]"));
    let share = share(&mut table, (connections, streams), common);
    table.finish();
    let value = value?;
    taken.places.push(value.place());
    let number = taken.places.len();
    let clients = rule::exempt(&value, number, shelf, now);
    let admitted = clients.iter().flat_map(|list| list.entries()).filter(|(entry, _)| entry.admits);
    for network in admitted.map(|(entry, _)| entry.network) {
        let first = *taken.by.entry(network).or_insert(number);
        if first != number {
            let finding = error(format!("{network} is in two [[limits.for]]"))
                .remedy("keep it in one of the two");
            value.report(finding.and(taken.places[first - 1].clone(), "first here"));
            break;
        }
    }
    Some(Exception { clients, share, line: value.line() as u32 })
}

/// Reads the share of one client: tunnels from `connections`, streams from `streams`. Omitted
/// values are those of `base`.
fn share(
    table: &mut Table<'_>,
    (mut connections, mut streams): (Table<'_>, Table<'_>),
    base: Share,
) -> Share {
    let upgrades = per_client(table, "upgrades").or(base.upgrades);
    let requests = per_client(table, "requests").or(base.requests);
    let per_client = count(&mut connections, "per_client").or(base.per_client);
    connections.finish();
    let most_streams = count(&mut streams, "per_client").or(base.streams);
    streams.finish();
    let tunnel = tunnel(table, base.tunnel);
    Share { upgrades, requests, per_client, streams: most_streams, tunnel }
}

fn count(connections: &mut Table<'_>, key: &'static str) -> Option<u32> {
    connections.get(key)?.integer(1..=u32::MAX.into()).and_then(|count| u32::try_from(count).ok())
}

fn tunnel(table: &mut Table<'_>, base: TunnelLimits) -> TunnelLimits {
    let mut message = table.table("message");
    let message_max = message.get("max").and_then(|value| {
        let max = value.parse_number("a size like \"1MiB\"", unit::size)?;
        if max == 0 {
            value.report(error("zero makes no sense here").remedy("leave it out for no limit"));
        }
        Some(max)
    });
    let message_rate = rate(&mut message, None);
    message.finish();
    let ping = match table.get("ping") {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) => value.parse_number("a duration like \"25s\", or \"off\"", |text| {
            unit::positive_duration(text)
                .map_err(|finding| finding.remedy("a duration like \"25s\", or \"off\""))
        }),
        None => base.ping,
    };
    let frames = match table.get("frames") {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) if value.is_table() => {
            counted(&value, "frames", "{ rate = \"2000/s\", burst = 10000 }")
        }
        Some(value) => {
            value.unexpected("a table or \"off\"");
            None
        }
        None => base.frames,
    };
    TunnelLimits {
        message_max: message_max.or(base.message_max),
        message_rate: message_rate.or(base.message_rate),
        frames,
        idle: table.positive_duration("idle").or(base.idle),
        lifetime: table.positive_duration("lifetime").or(base.lifetime),
        ping,
        pong: table.positive_duration("pong").unwrap_or(base.pong),
    }
}

/// Reads a limit like `{ rate = "5/s", burst = 20 }`.
fn per_client(limits: &mut Table<'_>, key: &'static str) -> Option<Rate> {
    counted(&limits.get(key)?, key, "{ rate = \"5/s\", burst = 20 }")
}

/// Reads a rate and a burst, written like `example`.
fn counted(value: &Value<'_>, key: &str, example: &str) -> Option<Rate> {
    let mut table = value.table(format!("`{key}`"))?;
    table.need("rate", format!("{key} = {example}"));
    let burst = table.get("burst").and_then(|value| value.integer(1..=unit::MOST_TOKENS.into()));
    table.later("per");
    let rate = rate(
        &mut table,
        burst.and_then(|burst| u32::try_from(burst).ok()).and_then(NonZeroU32::new),
    );
    table.finish();
    rate
}

/// Reads `rate` of `table`. Without a burst, all its tokens may be used at once.
fn rate(table: &mut Table<'_>, burst: Option<NonZeroU32>) -> Option<Rate> {
    let (tokens, per) = table.get("rate")?.parse("a rate like \"5/s\"", unit::rate)?;
    Some(Rate { tokens, per, burst: burst.unwrap_or(tokens) })
}
