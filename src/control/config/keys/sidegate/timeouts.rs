//! `[timeouts]`, and the part of it that `[defaults]` and a `[[route]]` may have.

use std::time::Duration;

use crate::control::config::document::unit;
use crate::control::config::keys::key::{Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{duration_or_off, pace_or_off, positive_duration};
use crate::snapshot::listener::ListenerTimeouts;
use crate::snapshot::route::RouteTimeouts;

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &PROXY_HEADER,
        &TLS,
        &HEAD,
        &KEEP_ALIVE,
        &BODY_STALL,
        &BODY_PACE_FORM,
        &DIAL,
        &RESPONSE,
        &WRITE_STALL,
        &GRACE,
    ],
    reload: "The keys hold for connections and requests that come after the reload. An open \
             tunnel has a new `write_stall` and `grace` at once.",
    ..KeyTable::EMPTY
};

/// The timeouts of a route.
pub static OF_ROUTE: KeyTable = KeyTable {
    keys: &[&BODY_STALL, &BODY_PACE_FORM, &DIAL, &RESPONSE, &WRITE_STALL, &GRACE],
    inherits: Some("[timeouts]"),
    ..KeyTable::EMPTY
};

pub static PROXY_HEADER: KeyWithDefault<Duration> = Key::new(
    "proxy_header",
    positive_duration(),
    "From the accept to the whole PROXY header of a listed peer; `tls` ends it too.",
)
.default(|| ListenerTimeouts::default().proxy_header);

pub static TLS: KeyWithDefault<Duration> = Key::new(
    "tls",
    positive_duration(),
    "From the accept to the end of the TLS handshake, a PROXY header included.",
)
.default(|| ListenerTimeouts::default().tls);

pub static HEAD: KeyWithDefault<Duration> = Key::new(
    "head",
    positive_duration(),
    "From the end of the TLS handshake, or of the answer before, to the whole request head once \
     its first byte has come.",
)
.default(|| ListenerTimeouts::default().head);

pub static KEEP_ALIVE: KeyWithDefault<Duration> =
    Key::new("keep_alive", positive_duration(), "Idle time between plain requests.")
        .default(|| ListenerTimeouts::default().keep_alive);

pub static BODY_STALL: KeyWithDefault<Option<Duration>> = Key::new(
    "body_stall",
    duration_or_off("a duration like \"60s\", or \"off\"", unit::duration_or_off),
    "No byte of a body for this time, on either side; not for answers of text/event-stream; \
     \"off\": unlimited.",
)
.default(|| RouteTimeouts::default().body_stall);

pub static BODY_PACE_FORM: KeyWithDefault<Option<u64>> = Key::new(
    "body_pace",
    pace_or_off(),
    "Least pace of a client that sends a body or takes an answer; \"off\": unlimited. It is \
     averaged over half a minute of waiting for the client, in which one pause counts as 15 s at \
     most.",
)
.default(|| RouteTimeouts::default().body_pace);

pub static DIAL: KeyWithDefault<Duration> = Key::new(
    "dial",
    positive_duration(),
    "Connecting to a backend, or to one of a list of backends. In a list, a backend that hangs \
     has its share of the time and leaves the others theirs.",
)
.default(|| RouteTimeouts::default().dial);

pub static RESPONSE: KeyWithDefault<Option<Duration>> = Key::new(
    "response",
    duration_or_off("a duration like \"60s\", or \"off\"", unit::duration_or_off),
    "From the request being sent whole to the head of the answer; \"off\": unlimited.",
)
.default(|| RouteTimeouts::default().response);

pub static WRITE_STALL: KeyWithDefault<Duration> = Key::new(
    "write_stall",
    positive_duration(),
    "A peer takes nothing for this time while there is something for it.",
)
.default(|| RouteTimeouts::default().write_stall);

pub static GRACE: KeyWithDefault<Duration> = Key::new(
    "grace",
    positive_duration(),
    "After a Close of Sidegate's, or one side's end, until the connection is dropped.",
)
.default(|| RouteTimeouts::default().grace);
