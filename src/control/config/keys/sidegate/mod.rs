//! The keys of `sidegate.toml`, a file for each of its tables.

pub mod admin;
pub mod backend_tls;
pub mod certificate;
pub mod client_certificates;
pub mod crowdsec;
pub mod forwarded;
pub mod listener;
pub mod metrics;
pub mod peers;
pub mod policies;
pub mod process;
pub mod proxy_protocol;
pub mod reload;
pub mod route;
pub mod shutdown;
pub mod timeouts;
pub mod tracing;

use super::any_file::SCHEMA;
use super::key::{CustomValue, Key, KeyTable};
use super::kind::{table, tables};

/// The top of the file.
pub static ROOT: KeyTable = KeyTable {
    keys: &[
        &SCHEMA,
        &METRICS,
        &POLICIES,
        &ADMIN,
        &RELOAD,
        &SHUTDOWN,
        &TIMEOUTS,
        &PROCESS,
        &TRACING,
        &CROWDSEC,
        &DEFAULTS,
        &LISTENER,
        &CERTIFICATE,
        &ROUTE,
    ],
    ..KeyTable::EMPTY
};

pub static METRICS: Key<CustomValue> = Key::new(
    "metrics",
    table(&metrics::TABLE),
    "Read-only listener for plain HTTP: /metrics, /livez and /readyz.",
);

pub static POLICIES: Key<CustomValue> =
    Key::new("policies", table(&policies::TABLE), "What the policies beside this file may read.");

pub static ADMIN: Key<CustomValue> = Key::new(
    "admin",
    table(&admin::TABLE),
    "Socket of `sidegate reload`, and the only place where anything can be changed.",
);

pub static RELOAD: Key<CustomValue> = Key::new(
    "reload",
    table(&reload::TABLE),
    "How changed files are noticed and brought to open tunnels.",
);

pub static SHUTDOWN: Key<CustomValue> =
    Key::new("shutdown", table(&shutdown::TABLE), "How the process ends.");

pub static TIMEOUTS: Key<CustomValue> = Key::new(
    "timeouts",
    table(&timeouts::TABLE),
    "From `body_stall` down, a route may set them for itself: timeouts = { response = \"5m\" }.",
);

pub static PROCESS: Key<CustomValue> =
    Key::new("process", table(&process::TABLE), "A change of this table needs a restart.");

pub static TRACING: Key<CustomValue> = Key::new(
    "tracing",
    table(&tracing::TABLE),
    "The trace of each request: the `traceparent` that backends get, and log lines name.",
);

pub static CROWDSEC: Key<CustomValue> = Key::new(
    "crowdsec",
    table(&crowdsec::TABLE),
    "Bans by the decisions of CrowdSec. Left out: none are taken over.",
);

pub static DEFAULTS: Key<CustomValue> = Key::new(
    "defaults",
    table(&route::DEFAULTS),
    "For each [[route]] that sets no value of its own; of timeouts, key by key.",
);

pub static LISTENER: Key<CustomValue> =
    Key::new("listener", tables(&listener::TABLE), "Bound sockets and their protocol.");

pub static CERTIFICATE: Key<CustomValue> = Key::new(
    "certificate",
    tables(&certificate::TABLE),
    "Chosen by SNI, by the names in the certificate; the first is the default.",
);

pub static ROUTE: Key<CustomValue> = Key::new(
    "route",
    tables(&route::TABLE),
    "From host and path to backend and policy: the most specific host, then the longest path.",
);
