//! `certificate` of `[client]`.

use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{boolean, own};

pub static TABLE: KeyTable = KeyTable { keys: &[&REQUIRED, &ALLOW, &DENY], ..KeyTable::EMPTY };

/// Members of the JSON Schema of an array with names of certificates.
pub const PATTERNS: &[(&str, &str)] = &[
    ("type", r#""array""#),
    ("items", r#"{ "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$" }"#),
];

pub static REQUIRED: KeyWithDefault<bool> =
    Key::new("required", boolean(), "Whether a client without a verified certificate is refused.")
        .default(|| true);

pub static ALLOW: Key<CustomValue> = Key::new(
    "allow",
    own("array of names of certificates", PATTERNS),
    "Names that are admitted: \"spiffe://example.com/ws/*\" (a URI; ** matches several segments), \
     \"dns:client.example.com\", \"dns:*.example.com\" (one label), \"sha256:HEX\" (a public key). \
     Left out: every certificate that the listener verifies.",
)
.example("[\"spiffe://example.com/ws/*\"]");

pub static DENY: Key<CustomValue> = Key::new(
    "deny",
    own("array of names of certificates", PATTERNS),
    "Names that are refused, written as in `allow`, which they beat.",
)
.example("[\"dns:old.example.com\"]");
