//! `[[test]]`.

use crate::control::config::keys::key::{CustomValue, Key, KeyTable};
use crate::control::config::keys::kind::{own, text};

pub static TABLE: KeyTable = KeyTable {
    keys: &[&NAME, &CLIENT, &URL, &ORIGIN, &SUBPROTOCOL, &IDENTITY, &AT, &EXPECT],
    reload: "The tests run before the reload is published, and a failing test rejects it.",
    ..KeyTable::EMPTY
};

pub static NAME: Key<CustomValue> = Key::new("name", text("text"), "The claim, as a sentence.")
    .required()
    .example("\"the office may\"");

pub static CLIENT: Key<CustomValue> = Key::new(
    "client",
    own("address", &[("type", r#""string""#), ("pattern", r#""^[0-9A-Fa-f.:]+$""#)]),
    "Address of the client.",
)
.required()
.example("\"192.0.2.1\"");

pub static URL: Key<CustomValue> = Key::new(
    "url",
    own(
        "URL with `ws`, `wss`, `http` or `https`",
        &[
            ("type", r#""string""#),
            ("pattern", r#""^([Ww][Ss]|[Hh][Tt][Tt][Pp])[Ss]?://[^/?#]+[^#]*$""#),
        ],
    ),
    "URL that it opens, whose host and path are judged.",
)
.required()
.example("\"wss://ws.example.com/\"");

pub static ORIGIN: Key<CustomValue> = Key::new(
    "origin",
    own("origin", &[("type", r#""string""#)]),
    "Page that it is on: the Origin that is sent. Left out: none.",
)
.example("\"https://ws.example.com\"");

pub static SUBPROTOCOL: Key<CustomValue> = Key::new(
    "subprotocol",
    own("subprotocol", &[("type", r#""string""#)]),
    "Subprotocol that it offers. Left out: none.",
)
.example("\"v1.example\"");

pub static IDENTITY: Key<CustomValue> = Key::new(
    "identity",
    own("name of a certificate", &[("type", r#""string""#)]),
    "Name of the client's certificate: a URI, \"dns:NAME\" or \"sha256:HEX\". Left out: it has \
     none.",
)
.example("\"spiffe://example.com/ws/edge\"");

pub static AT: Key<CustomValue> = Key::new(
    "at",
    own("date and time with an offset, not quoted", &[("type", r#""string""#)]),
    "Time of the request: entries that have expired by then are lapsed. Left out: none is.",
)
.example("2100-01-01T00:00:00Z");

pub static EXPECT: Key<CustomValue> = Key::new(
    "expect",
    own(
        "`\"allow\"`, `\"refuse\"` or `\"refuse:WORD\"`",
        &[(
            "enum",
            r#"[
  "allow",
  "refuse",
  "refuse:path",
  "refuse:route",
  "refuse:network",
  "refuse:origin",
  "refuse:identity",
  "refuse:subprotocol",
  "refuse:plain"
]"#,
        )],
    ),
    "The verdict. WORD is a reason of a refusal: path, route, network, origin, identity, \
     subprotocol or plain.",
)
.required()
.example("\"allow\"");
