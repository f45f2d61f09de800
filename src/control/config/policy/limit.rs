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
use crate::policy::certificate::IdentityPattern;
use crate::policy::limit::{
    ClientLimits, ExceptionScope, LimitException, LimitUnit, LimitUnits, Limits, Rate, TunnelLimits,
};
use crate::policy::list::pattern::ClientPattern;

/// Reads the whole table. Omitted limits are off, except for `frames`, `ping` and `pong`.
pub fn read(mut table: TomlTable<'_>, list_table: &mut ListTable, now: Timestamp) -> Limits {
    let mut connections = table.table(&keys::CONNECTIONS);
    let total = connections.read(&keys::TOTAL);
    let mut streams = table.table(&keys::STREAMS);
    let streams_total = streams.read(&keys::TOTAL);
    // Read before the exceptions, which take their omitted values from it.
    let own = OwnLimits { base: ClientLimits::default(), unit: None };
    let common = own.read(&mut table, connections, streams);
    let mut taken = EarlierExceptions::default();
    let tables = table.tables(&keys::FOR).into_iter();
    let exceptions =
        tables.filter_map(|table| exception(table, common, list_table, now, &mut taken)).collect();
    table.finish();
    Limits { share: common, total, streams_total, exceptions }
}

/// Networks, users and certificates in earlier `[[limits.for]]`, with the places of their `client`
/// or `identity`.
#[derive(Default)]
struct EarlierExceptions {
    by: HashMap<ClientPattern, usize>,
    by_identity: HashMap<IdentityPattern, usize>,
    places: Vec<Span>,
}

impl EarlierExceptions {
    /// Registers a table for `scope`, which `value` names. Reports the first network or name that is
    /// in an earlier table too.
    fn enter(&mut self, value: &TomlValue<'_>, scope: &ExceptionScope) {
        // Counts from 1: the place of this table is already among `places`.
        let number = self.places.len();
        let again = match scope {
            ExceptionScope::Clients(lists) => {
                let entries = lists.iter().flat_map(|list| list.entries());
                let mut admitted = entries.filter(|(entry, _)| entry.admits);
                admitted.find_map(|(entry, _)| {
                    let first = *self.by.entry(entry.pattern).or_insert(number);
                    (first != number).then(|| (entry.pattern.to_string(), first))
                })
            }
            ExceptionScope::Identities(patterns) => patterns.iter().find_map(|pattern| {
                let first = *self.by_identity.entry(pattern.clone()).or_insert(number);
                (first != number).then(|| (pattern.to_string(), first))
            }),
        };
        // One error for a pair of tables, however many networks they share.
        if let Some((name, first)) = again {
            let finding = error(format!("{name} is in two [[limits.for]]"))
                .with_remedy("keep it in one of the two");
            value.report(finding.with_related(self.places[first - 1].clone(), "first here"));
        }
    }
}

/// Reads one `[[limits.for]]`; omitted values are those of `common`. `taken` has the networks and
/// names of the earlier tables.
fn exception(
    mut table: TomlTable<'_>,
    common: ClientLimits,
    list_table: &mut ListTable,
    now: Timestamp,
    taken: &mut EarlierExceptions,
) -> Option<LimitException> {
    let (client, identity) = (table.get(&keys::CLIENT), table.get(&keys::IDENTITY));
    // After a syntax error keys may be missing or misplaced, and only the parser's finding helps.
    if identity.is_some() && !table.document().has_syntax_errors() {
        let finding = error("`client` beside `identity`");
        table.refuse("client", finding.with_remedy("write two [[limits.for]], one for each"));
    }
    let mut connections = table.table(&keys::CONNECTIONS_OF_ONE);
    let mut streams = table.table(&keys::STREAMS_OF_ONE);
    for counts in [&mut connections, &mut streams] {
        let finding = error("the total is of the whole policy");
        counts.refuse("total", finding.with_remedy("write it in [limits]"));
    }
    // A certificate that has a limit of its own must not fill the count of its address, which
    // others may share.
    let unit = identity.map(|_| LimitUnit::Identity);
    let share = OwnLimits { base: common, unit }.read(&mut table, connections, streams);
    // A misspelt `identity` has its own finding, and a demand for `client` beside it would mislead.
    if client.is_none() && identity.is_none() && !table.misspells("identity") {
        table.require(
            &keys::CLIENT,
            "client = [\"office\"], lists or networks; or identity = [\"spiffe://a.example/*\"]",
        );
    }
    table.finish();
    // Only after `finish`, so that unknown keys are reported in either case.
    let value = identity.or(client)?;
    taken.places.push(value.place());
    let scope = match identity {
        Some(_) => ExceptionScope::Identities(rule::exempt_identities(&value)),
        None => {
            let number = taken.places.len();
            ExceptionScope::Clients(rule::exempt(&value, number, list_table, now))
        }
    };
    taken.enter(&value, &scope);
    Some(LimitException { scope, share, line: value.line() as u32 })
}

/// Reads the limits of one table, and takes omitted ones from `base`.
struct OwnLimits {
    /// The limits that the table leaves out.
    base: ClientLimits,
    /// The unit of each limit that the table has, unless it has a `per`. `None` means as in `base`.
    unit: Option<LimitUnit>,
}

/// A count per client.
struct ClientCount {
    /// Most at once. `None` means unlimited.
    max: Option<u32>,
    unit: LimitUnit,
}

impl OwnLimits {
    /// Reads the share of one client: tunnels from `connections`, streams from `streams`.
    fn read(
        &self,
        table: &mut TomlTable<'_>,
        connections: TomlTable<'_>,
        streams: TomlTable<'_>,
    ) -> ClientLimits {
        let OwnLimits { base, unit } = *self;
        let inherited = |limit| ClientCount { max: limit, unit: LimitUnit::Address };
        let upgrades = self.rate(table, &keys::UPGRADES, base.units.upgrades);
        let requests = self.rate(table, &keys::REQUESTS, base.units.requests);
        let tunnels = ClientCount { unit: base.units.connections, ..inherited(base.per_client) };
        let tunnels = tunnels.overridden(connections, unit);
        let at_once = ClientCount { unit: base.units.streams, ..inherited(base.streams) };
        let at_once = at_once.overridden(streams, unit);
        let tunnel = tunnel(table, base.tunnel);
        let units = LimitUnits {
            upgrades: upgrades.map_or(base.units.upgrades, |own| own.unit),
            requests: requests.map_or(base.units.requests, |own| own.unit),
            connections: tunnels.unit,
            streams: at_once.unit,
        };
        ClientLimits {
            upgrades: upgrades.map(|own| own.rate).or(base.upgrades),
            requests: requests.map(|own| own.rate).or(base.requests),
            per_client: tunnels.max,
            streams: at_once.max,
            tunnel,
            units,
        }
    }

    /// Reads a limit like `{ rate = "5/s", burst = 20 }`.
    fn rate(
        &self,
        limits: &mut TomlTable<'_>,
        key: &Key<keys::ClientRate>,
        base: LimitUnit,
    ) -> Option<keys::ClientRate> {
        let value = limits.get(key)?;
        let mut table = value.table(format!("`{}`", key.name))?;
        let unit = table.read(&keys::PER).or(self.unit).unwrap_or(base);
        let rate = counted(table, key.name, "{ rate = \"5/s\", burst = 20 }")?;
        Some(keys::ClientRate { rate, unit })
    }
}

impl ClientCount {
    /// Reads a count from `table`, whose omitted values are those of `self`. `unit` is the unit of
    /// a written count without `per`. `None` means that of `self`.
    fn overridden(self, mut table: TomlTable<'_>, unit: Option<LimitUnit>) -> ClientCount {
        // A `per_client` with a wrong type reads as `None`, and must not be reported as missing.
        let is_written = table.has(keys::PER_CLIENT.name);
        let max = table.read(&keys::PER_CLIENT).or(self.max);
        let per = table.get(&keys::PER);
        if let Some(per) = per.filter(|_| max.is_none() && !is_written) {
            let finding = error("nothing is counted: `per_client` is missing");
            per.report(finding.with_remedy("per_client = 10 beside it"));
        }
        let per = per.and_then(|per| per.read(&keys::PER.kind.form));
        table.finish();
        // A table for identities sets the unit of the counts that it has, not of inherited ones.
        let unit = per.or(unit.filter(|_| is_written)).unwrap_or(self.unit);
        ClientCount { max, unit }
    }
}

fn tunnel(table: &mut TomlTable<'_>, base: TunnelLimits) -> TunnelLimits {
    let mut messages = table.table(&keys::MESSAGE);
    let message_max = messages.get(&message::MAX).and_then(|value| {
        let max = value.read(&message::MAX.kind.form)?;
        // Zero would refuse every message that has a payload.
        if max == 0 {
            value
                .report(error("zero makes no sense here").with_remedy("leave it out for no limit"));
        }
        Some(max)
    });
    let message_rate = messages.read(&message::RATE);
    let message_rate = message_rate.map(|(tokens, per)| Rate { tokens, per, burst: tokens });
    messages.finish();
    // Omitted means a default here, unlike for most limits, so off needs a word of its own.
    let frames = match table.get(&keys::FRAMES) {
        Some(value) if value.as_str() == Some("off") => None,
        Some(value) if value.is_table() => value.table("`frames`".into()).and_then(|mut table| {
            table.refuse(
                "per",
                error("`frames` is a limit of each tunnel").with_remedy("leave it out"),
            );
            counted(table, "frames", "{ rate = \"2000/s\", burst = 10000 }")
        }),
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

/// Reads a rate and a burst, written like `example`. Without a burst, all tokens of the rate may be
/// used at once.
fn counted(mut table: TomlTable<'_>, key: &str, example: &str) -> Option<Rate> {
    let rate = table.require(&RATE, format!("{key} = {example}"));
    let burst = table.read(&BURST).and_then(NonZeroU32::new);
    let rate = rate.and_then(|value| value.read(&RATE.kind.form));
    table.finish();
    rate.map(|(tokens, per)| Rate { tokens, per, burst: burst.unwrap_or(tokens) })
}
