//! `[[certificate]]`.

use crate::control::config::keys::key::{CustomValue, Key, KeyTable};
use crate::control::config::keys::kind::text;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&CHAIN, &KEY],
    reload: "A renewed file is a change like any other: it holds for the next TLS handshake.",
    ..KeyTable::EMPTY
};

pub static CHAIN: Key<CustomValue> =
    Key::new("chain", text("path"), "A PEM file: the certificate, then its intermediates.")
        .required()
        .example("\"certs/ws.example.com.pem\"");

pub static KEY: Key<CustomValue> = Key::new(
    "key",
    text("path"),
    "A PEM file: PKCS#8, PKCS#1 or SEC1; it may be the same file as the chain.",
)
.required()
.example("\"certs/ws.example.com.key\"");
