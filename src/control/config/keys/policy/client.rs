//! `[client]`.

use crate::control::config::keys::key::{CustomValue, Key, KeyTable};
use crate::control::config::keys::kind::{own, table};
use crate::control::config::keys::policy::certificate;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&ALLOW, &DENY, &ORIGINS, &SUBPROTOCOLS, &CERTIFICATE],
    reload: "Requests are judged by the new rules, and so are open tunnels: refused ones \
             are closed over `[reload] revoke_spread`.",
    ..KeyTable::EMPTY
};

/// Members of the JSON Schema of an array with names of lists and with networks.
pub const CLIENTS: &[(&str, &str)] = &[
    ("type", r#""array""#),
    (
        "items",
        r#"{
  "description": "The name of a list, a network, or users of this host.",
  "type": "string",
  "not": { "enum": ["any"] }
}"#,
    ),
];

pub static ALLOW: Key<CustomValue> = Key::new(
    "allow",
    own(
        "array of names of lists, networks and users of this host, or `[\"any\"]`",
        &[(
            "anyOf",
            r#"[
  { "const": ["any"] },
  {
    "type": "array",
    "items": {
      "description": "The name of a list, a network, or users of this host.",
      "type": "string",
      "not": { "enum": ["any"] }
    }
  }
]"#,
        )],
    ),
    "Names of lists, networks, and users of this host, who connect over a Unix socket: \"unix\" \
     (all of them), \"unix:uid=33\", \"unix:gid=www-data\". [\"any\"] admits everyone, [] no \
     client. Required, but in a baseline.",
)
.example("[\"office\"]");

pub static DENY: Key<CustomValue> = Key::new(
    "deny",
    own("array of names of lists, networks and users of this host", CLIENTS),
    "Names of lists, networks, and users of this host; it beats `allow`.",
)
.example("[\"203.0.113.0/24\"]");

pub static ORIGINS: Key<CustomValue> = Key::new(
    "origins",
    own(
        "array of origins and words",
        &[
            ("type", r#""array""#),
            (
                "items",
                r#"{
  "type": "string",
  "pattern": "^(none|null|same|[Ff][Ii][Ll][Ee]://|[A-Za-z][A-Za-z0-9+.-]*://[^/@?# ]+)$"
}"#,
            ),
        ],
    ),
    "Pages that are admitted: \"same\" (of the same host and port), \"https://app.example.com\", \
     \"https://*.partner.example\" (one label), \"none\" (clients that send no Origin). Also \
     \"null\", the opaque origin, and \"file://\", applications of Electron and Cordova. Left \
     out: not looked at.",
)
.example("[\"same\", \"none\"]");

pub static SUBPROTOCOLS: Key<CustomValue> = Key::new(
    "subprotocols",
    own(
        "array of subprotocols and `\"none\"`",
        &[
            ("type", r#""array""#),
            ("items", r#"{ "type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" }"#),
        ],
    ),
    "Subprotocols that are admitted; \"none\" admits tunnels without one; left out: not looked \
     at. An attempt must offer one of them, and the backend choose one.",
)
.example("[\"v1.example\"]");

pub static CERTIFICATE: Key<CustomValue> = Key::new(
    "certificate",
    table(&certificate::TABLE),
    "Certificates of clients that are admitted, by name; needs `client_certificates` of the \
     listener. Left out: not looked at.",
)
.example("{ allow = [\"spiffe://example.com/ws/*\"] }");
