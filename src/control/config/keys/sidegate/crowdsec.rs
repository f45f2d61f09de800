//! `[crowdsec]`.

use std::time::Duration;

use crate::control::config::document::unit::ShareOrCount;
use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{
    count, duration_from_a_second, share_or_number, table, text,
};

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &URL,
        &KEY,
        &CA,
        &INTERVAL,
        &MAX_AGE,
        &WIDEST_V4,
        &WIDEST_V6,
        &TOTAL_V4,
        &TOTAL_V6,
        &MAX_REVOKED,
    ],
    reload: "Holds from the next poll on. Without the table, CrowdSec's bans are lifted.",
    ..KeyTable::EMPTY
};

pub static URL: Key<CustomValue> = Key::new(
    "url",
    text("URL, or `unix:` and a path"),
    "The Local API: \"http://127.0.0.1:8080\", \"https://lapi.internal:8080\" or \
     \"unix:/run/crowdsec.sock\".",
)
.required()
.example("\"http://127.0.0.1:8080\"");

pub static KEY: Key<CustomValue> = Key::new(
    "key",
    table(&KEY_TABLE),
    "The key of `cscli bouncers add`: { credential = \"crowdsec\" } or { file = \
     \"crowdsec.key\" }.",
)
.required()
.example("{ file = \"/etc/sidegate/crowdsec.key\" }");

pub static CA: Key<CustomValue> = Key::new(
    "ca",
    text("path"),
    "PEM file of the authorities that may sign the API's certificate. Left out: the \
     authorities that the system trusts.",
);

pub static INTERVAL: KeyWithDefault<Duration> =
    Key::new("interval", duration_from_a_second(), "Time between two polls of the API.")
        .default(|| Duration::from_secs(10));

pub static MAX_AGE: KeyWithDefault<Duration> = Key::new(
    "max_age",
    duration_from_a_second(),
    "Time without an answer after which status, /readyz and the log warn. Known bans hold on.",
)
.default(|| Duration::from_secs(300));

pub static WIDEST_V4: KeyWithDefault<u32> = Key::new(
    "widest_v4",
    count(1, 32),
    "Length of the widest IPv4 network that is banned: wider decisions are not applied.",
)
.default(|| 16);

pub static WIDEST_V6: KeyWithDefault<u32> =
    Key::new("widest_v6", count(1, 128), "Length of the widest IPv6 network that is banned.")
        .default(|| 32);

pub static TOTAL_V4: KeyWithDefault<u32> = Key::new(
    "total_v4",
    count(0, 32),
    "All decisions together ban as many IPv4 addresses as a network of this length at most; the \
     widest are not applied. 0: no bound.",
)
.default(|| 8);

pub static TOTAL_V6: KeyWithDefault<u32> =
    Key::new("total_v6", count(0, 128), "The same for IPv6 addresses.").default(|| 24);

pub static MAX_REVOKED: KeyWithDefault<ShareOrCount> = Key::new(
    "max_revoked",
    share_or_number(),
    "Share or number of the clients with open tunnels and streams. New decisions that would end \
     more of them are held until `sidegate bans --accept-held`; one client alone is never too \
     many, unless it is 0.",
)
.default(|| ShareOrCount::Percent(20));

/// The table of the key `key` in `[crowdsec]`.
static KEY_TABLE: KeyTable = KeyTable {
    keys: &[&CREDENTIAL, &FILE],
    schema: &[("minProperties", "1"), ("maxProperties", "1")],
    ..KeyTable::EMPTY
};

pub static CREDENTIAL: Key<CustomValue> = Key::new(
    "credential",
    text("name"),
    "Name of the credential in which systemd passes it: `LoadCredential=` of the unit.",
);

pub static FILE: Key<CustomValue> =
    Key::new("file", text("path"), "File that holds it, on one line.");
