//! `backend_tls` of a `[[route]]`.

use crate::control::config::keys::key::{CustomValue, Key, KeyTable};
use crate::control::config::keys::kind::text;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&CA, &NAME, &CHAIN, &KEY],
    schema: &[("dependentRequired", r#"{ "chain": ["key"], "key": ["chain"] }"#)],
    ..KeyTable::EMPTY
};

pub static CA: Key<CustomValue> = Key::new(
    "ca",
    text("path"),
    "PEM file of the authorities that may sign the backend's certificate. Left out: the \
     authorities that the system trusts.",
);

pub static NAME: Key<CustomValue> = Key::new(
    "name",
    text("DNS name or address"),
    "Name that the backend's certificate must have. Left out: the backend's address.",
);

pub static CHAIN: Key<CustomValue> = Key::new(
    "chain",
    text("path"),
    "PEM file of the client certificate that is shown to the backend.",
);

pub static KEY: Key<CustomValue> =
    Key::new("key", text("path"), "PEM file of its key. Neither goes without the other.");
