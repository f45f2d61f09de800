//! `[limits]`, and `[[limits.for]]` for some clients.

use std::time::Duration;

use serde_json::json;

use crate::control::config::document::unit::{self, format_rate};
use crate::control::config::keys::any_file::{BURST, RATE, budget_or_off};
use crate::control::config::keys::key::{
    CustomValue, Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::{
    choice, count, duration_or_off, own, positive_duration, table, tables,
};
use crate::control::config::keys::policy::certificate::PATTERNS;
use crate::control::config::keys::policy::client::CLIENTS;
use crate::control::config::keys::policy::message;
use crate::policy::limit::{LimitUnit, Rate, TunnelLimits};

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
    reload: "Open tunnels have the new limits at once. A changed rate or `per` begins with a full \
             budget, and a lower count closes no tunnel. An open tunnel stays counted as it was \
             when it opened.",
    ..KeyTable::EMPTY
};

/// The keys of a `[[limits.for]]`.
pub static EXCEPTION: KeyTable = KeyTable {
    keys: &[
        &CLIENT,
        &IDENTITY,
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
    schema: &[
        ("anyOf", r#"[{ "required": ["client"] }, { "required": ["identity"] }]"#),
        ("not", r#"{ "required": ["client", "identity"] }"#),
    ],
    reload: "As in `[limits]`.",
};

/// A rate of one client.
#[derive(Debug, Clone, Copy)]
pub struct ClientRate {
    pub rate: Rate,
    pub unit: LimitUnit,
}

/// `{ rate = "5/s", burst = 20, per = "identity" }`.
static CLIENT_BUDGET: KeyTable = KeyTable { keys: &[&RATE, &BURST, &PER], ..KeyTable::EMPTY };

/// A table with a rate, a burst and what they count by.
const fn client_budget() -> ValueKind<ClientRate> {
    ValueKind {
        words: "table",
        form: ValueForm::Custom,
        schema: ValueSchema::Table(&CLIENT_BUDGET),
        write: |_, ClientRate { rate, unit }| {
            let (written, per) = (format_rate(rate.tokens, rate.per), unit.to_string());
            json!({ "rate": written, "burst": rate.burst, "per": per })
        },
    }
}

pub static PER: Key<LimitUnit> = Key::new(
    "per",
    choice(&[("address", LimitUnit::Address), ("identity", LimitUnit::Identity)]),
    "What a client is counted by: \"address\" (IPv6: its /64), or \"identity\", that of its \
     certificate. Without a certificate it is counted by its address. Left out: \"address\"; in a \
     [[limits.for]] as in [limits], and with `identity` there \"identity\".",
);

pub static UPGRADES: Key<ClientRate> = Key::new(
    "upgrades",
    client_budget(),
    "Handshakes per client: its address (IPv6: its /64), or with per = \"identity\" its \
     certificate. Left out: unlimited.",
)
.example("{ rate = \"5/s\", burst = 50 }");

pub static REQUESTS: Key<ClientRate> = Key::new(
    "requests",
    client_budget(),
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
static COUNTS: KeyTable = KeyTable { keys: &[&PER_CLIENT, &PER, &TOTAL], ..KeyTable::EMPTY };

/// `connections` and `streams` of some clients: the total is of the whole policy.
static COUNTS_OF_ONE: KeyTable = KeyTable { keys: &[&PER_CLIENT, &PER], ..KeyTable::EMPTY };

pub static CONNECTIONS_OF_ONE: Key<CustomValue> =
    Key::new("connections", table(&COUNTS_OF_ONE), CONNECTIONS.doc)
        .example("{ per_client = 2000 }");

pub static STREAMS_OF_ONE: Key<CustomValue> =
    Key::new("streams", table(&COUNTS_OF_ONE), STREAMS.doc).example("{ per_client = 100 }");

pub static PER_CLIENT: Key<u32> = Key::new(
    "per_client",
    count(1, u32::MAX),
    "Of one client: its address (IPv6: its /64), or with per = \"identity\" its certificate. Left \
     out: unlimited.",
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
    "Other limits for some clients; the longest matching network wins, and a certificate wins \
     over networks.",
);

pub static CLIENT: Key<CustomValue> = Key::new(
    "client",
    own("array of names of lists and networks", CLIENTS),
    "Names of lists, and networks. Required, except with `identity`.",
)
.example("[\"office\"]");

pub static IDENTITY: Key<CustomValue> = Key::new(
    "identity",
    own("array of names of certificates", PATTERNS),
    "Certificates of clients, written as in `certificate`, instead of `client`; the narrowest name \
     wins.",
);
