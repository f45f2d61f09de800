//! `[limits]`, and `[[limits.for]]` for some clients.

use std::time::Duration;

use crate::control::config::document::unit;
use crate::control::config::keys::any_file::{budget, budget_or_off};
use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{
    count, duration_or_off, own, positive_duration, table, tables,
};
use crate::control::config::keys::policy::client::CLIENTS;
use crate::control::config::keys::policy::message;
use crate::policy::limit::{Rate, TunnelLimits};

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &UPGRADES,
        &REQUESTS,
        &CONNECTIONS,
        &STREAMS,
        &MESSAGE,
        &FRAMES,
        &IDLE,
        &LIFETIME,
        &PING,
        &PONG,
        &FOR,
    ],
    reload: "Open tunnels have the new limits at once. A changed rate begins with a full budget, \
             and a lower count closes no tunnel.",
    ..KeyTable::EMPTY
};

/// The keys of a `[[limits.for]]`.
pub static EXCEPTION: KeyTable = KeyTable {
    keys: &[
        &CLIENT,
        &UPGRADES,
        &REQUESTS,
        &CONNECTIONS_OF_ONE,
        &STREAMS_OF_ONE,
        &MESSAGE,
        &FRAMES,
        &IDLE,
        &LIFETIME,
        &PING,
        &PONG,
    ],
    inherits: Some("[limits]"),
    reload: "As in `[limits]`.",
    ..KeyTable::EMPTY
};

pub static UPGRADES: Key<Rate> = Key::new(
    "upgrades",
    budget(),
    "Handshakes per client: its address (IPv6: its /64). Left out: unlimited.",
)
.example("{ rate = \"5/s\", burst = 50 }");

pub static REQUESTS: Key<Rate> = Key::new(
    "requests",
    budget(),
    "Plain HTTP per client, where the route forwards it. Left out: unlimited.",
)
.example("{ rate = \"50/s\", burst = 200 }");

pub static CONNECTIONS: Key<CustomValue> =
    Key::new("connections", table(&COUNTS), "Tunnels at once. Left out: unlimited.")
        .example("{ per_client = 100, total = 20000 }");

pub static STREAMS: Key<CustomValue> = Key::new(
    "streams",
    table(&COUNTS),
    "Plain HTTP that has lasted 5 s, at once: event streams, long polls, downloads. Left out: \
     unlimited.",
)
.example("{ per_client = 6, total = 500 }");

/// The keys of `connections` and `streams`.
static COUNTS: KeyTable = KeyTable { keys: &[&PER_CLIENT, &TOTAL], ..KeyTable::EMPTY };

/// `connections` and `streams` of some clients: the total is of the whole policy.
static COUNTS_OF_ONE: KeyTable = KeyTable { keys: &[&PER_CLIENT], ..KeyTable::EMPTY };

pub static CONNECTIONS_OF_ONE: Key<CustomValue> =
    Key::new("connections", table(&COUNTS_OF_ONE), CONNECTIONS.doc)
        .example("{ per_client = 2000 }");

pub static STREAMS_OF_ONE: Key<CustomValue> =
    Key::new("streams", table(&COUNTS_OF_ONE), STREAMS.doc).example("{ per_client = 100 }");

pub static PER_CLIENT: Key<u32> = Key::new(
    "per_client",
    count(1, u32::MAX),
    "Of one client: its address (IPv6: its /64). Left out: unlimited.",
);

pub static TOTAL: Key<u32> = Key::new(
    "total",
    count(1, u32::MAX),
    "Of all clients, on every route with this policy. Left out: unlimited.",
);

pub static MESSAGE: Key<CustomValue> = Key::new(
    "message",
    table(&message::TABLE),
    "Messages of a tunnel, as on the wire: compressed where permessage-deflate is in use.",
)
.example("{ max = \"1MiB\", rate = \"200/s\" }");

pub static FRAMES: KeyWithDefault<Option<Rate>> = Key::new(
    "frames",
    budget_or_off(),
    "Pings, Pongs, empty frames and fragments under 64 bytes of the client, in each tunnel; \
     \"off\": unlimited. The first and the last frame of a message count as a message alone.",
)
.default(|| TunnelLimits::default().frames);

pub static IDLE: Key<Duration> = Key::new(
    "idle",
    positive_duration(),
    "A tunnel without a frame either way for this time is closed. Sidegate's Pings and their \
     Pongs do not count.",
)
.example("\"10m\"");

pub static LIFETIME: Key<Duration> = Key::new(
    "lifetime",
    positive_duration(),
    "Longest life of a tunnel, and of a stream of events.",
)
.example("\"24h\"");

pub static PING: KeyWithDefault<Option<Duration>> = Key::new(
    "ping",
    duration_or_off("a duration like \"25s\", or \"off\"", |text| match text {
        "off" => Ok(None),
        _ => unit::positive_duration(text)
            .map(Some)
            .map_err(|finding| finding.with_remedy("a duration like \"25s\", or \"off\"")),
    }),
    "Sidegate pings a client that was silent for this time; \"off\": never.",
)
.default(|| TunnelLimits::default().ping);

pub static PONG: KeyWithDefault<Duration> = Key::new(
    "pong",
    positive_duration(),
    "A client that sends no byte for this time after a Ping, Sidegate's or the backend's, is gone.",
)
.default(|| TunnelLimits::default().pong);

pub static FOR: Key<CustomValue> = Key::new(
    "for",
    tables(&EXCEPTION),
    "Other limits for some clients; the longest matching network wins.",
);

pub static CLIENT: Key<CustomValue> = Key::new(
    "client",
    own("array of names of lists and networks", CLIENTS),
    "Names of lists, and networks.",
)
.required()
.example("[\"office\"]");
