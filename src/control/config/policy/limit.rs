//! `[limits]`: limits of a policy, and exceptions for some clients.

use std::collections::HashMap;
use std::num::NonZeroU32;

use jiff::Timestamp;

use super::list_table::ListTable;
use super::rule;
use crate::control::config::diagnostic::Span;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::any_file::{BURST, RATE};
use crate::control::config::keys::key::Key;
use crate::control::config::keys::policy::{limits as keys, message};
use crate::control::config::source_text::error;
use crate::policy::limit::{ClientLimits, LimitException, Limits, Rate, TunnelLimits};
use crate::policy::list::pattern::ClientPattern;

/// Reads the whole table. Omitted limits are off, except for `frames`, `ping` and `pong`.
pub fn read(mut table: TomlTable<'_>, list_table: &mut ListTable, now: Timestamp) -> Limits {
    let mut connections = table.table(&keys::CONNECTIONS);
    let total = connections.read(&keys::TOTAL);
    let mut streams = table.table(&keys::STREAMS);
    let streams_total = streams.read(&keys::TOTAL);
    let common = share(&mut table, connections, streams, ClientLimits::default());
    let mut taken = EarlierExceptions::default();
    let tables = table.tables(&keys::FOR).into_iter();
    let exceptions =
        tables.filter_map(|table| exception(table, common, list_table, now, &mut taken)).collect();
    table.finish();
    Limits { share: common, total, streams_total, exceptions }
}

/// Networks and users in earlier `[[limits.for]]`, with the places of their `client`.
#[derive(Default)]
struct EarlierExceptions {
    by: HashMap<ClientPattern, usize>,
    places: Vec<Span>,
}

/// Reads one `[[limits.for]]`; omitted values are those of `common`. `taken` has the networks of
/// those above.
fn exception(
    mut table: TomlTable<'_>,
    common: ClientLimits,
    list_table: &mut ListTable,
    now: Timestamp,
    taken: &mut EarlierExceptions,
) -> Option<LimitException> {
    let value = table.require(&keys::CLIENT, "client = [\"office\"], lists or networks");
    let mut connections = table.table(&keys::CONNECTIONS_OF_ONE);
    connections.refuse(
        "total",
        error("the total is of the whole policy").with_remedy("write it in [limits]"),
    );
    let mut streams = table.table(&keys::STREAMS_OF_ONE);
    streams.refuse(
        "total",
        error("the total is of the whole policy").with_remedy("write it in [limits]"),
    );
    let share = share(&mut table, connections, streams, common);
    table.finish();
    let value = value?;
    taken.places.push(value.place());
    let number = taken.places.len();
    let clients = rule::exempt(&value, number, list_table, now);
    let admitted = clients.iter().flat_map(|list| list.entries()).filter(|(entry, _)| entry.admits);
    for clients in admitted.map(|(entry, _)| entry.pattern) {
        let first = *taken.by.entry(clients).or_insert(number);
        if first != number {
            let finding = error(format!("{clients} is in two [[limits.for]]"))
                .with_remedy("keep it in one of the two");
            value.report(finding.with_related(taken.places[first - 1].clone(), "first here"));
            // One error for a pair of tables, however many networks they share.
            break;
        }
    }
    Some(LimitException { clients, share, line: value.line() as u32 })
}

/// Reads the share of one client: tunnels from `connections`, streams from `streams`. Omitted
/// values are those of `base`.
fn share(
    table: &mut TomlTable<'_>,
    mut connections: TomlTable<'_>,
    mut streams: TomlTable<'_>,
    base: ClientLimits,
) -> ClientLimits {
    let upgrades = per_client(table, &keys::UPGRADES).or(base.upgrades);
    let requests = per_client(table, &keys::REQUESTS).or(base.requests);
    let per_client = connections.read(&keys::PER_CLIENT).or(base.per_client);
    connections.finish();
    let most_streams = streams.read(&keys::PER_CLIENT).or(base.streams);
    streams.finish();
    let tunnel = tunnel(table, base.tunnel);
    ClientLimits { upgrades, requests, per_client, streams: most_streams, tunnel }
}

fn tunnel(table: &mut TomlTable<'_>, base: TunnelLimits) -> TunnelLimits {
    let mut messages = table.table(&keys::MESSAGE);
    let message_max = messages.get(&message::MAX).and_then(|value| {
        let max = value.read(&message::MAX.kind.form)?;
        if max == 0 {
            value
                .report(error("zero makes no sense here").with_remedy("leave it out for no limit"));
        }
        Some(max)
    });
    let message_rate = messages.read(&message::RATE);
    let message_rate = message_rate.map(|(tokens, per)| Rate { tokens, per, burst: tokens });
    messages.finish();
    let frames = match table.get(&keys::FRAMES) {
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
        idle: table.read(&keys::IDLE).or(base.idle),
        lifetime: table.read(&keys::LIFETIME).or(base.lifetime),
        ping: table.read(&keys::PING).unwrap_or(base.ping),
        pong: table.read(&keys::PONG).unwrap_or(base.pong),
    }
}

/// Reads a limit like `{ rate = "5/s", burst = 20 }`.
fn per_client(limits: &mut TomlTable<'_>, key: &Key<Rate>) -> Option<Rate> {
    counted(&limits.get(key)?, key.name, "{ rate = \"5/s\", burst = 20 }")
}

/// Reads a rate and a burst, written like `example`. Without a burst, all tokens of the rate may be
/// used at once.
fn counted(value: &TomlValue<'_>, key: &str, example: &str) -> Option<Rate> {
    let mut table = value.table(format!("`{key}`"))?;
    let rate = table.require(&RATE, format!("{key} = {example}"));
    let burst = table.read(&BURST).and_then(NonZeroU32::new);
    table.refuse_reserved("per");
    let rate = rate.and_then(|value| value.read(&RATE.kind.form));
    table.finish();
    rate.map(|(tokens, per)| Rate { tokens, per, burst: burst.unwrap_or(tokens) })
}
