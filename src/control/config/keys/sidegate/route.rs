//! `[[route]]`, and `[defaults]` for all of them.

use std::time::Duration;

use crate::control::config::keys::any_file::NAME;
use crate::control::config::keys::key::{
    CustomValue, Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::kind::{
    boolean, choice, count, duration_from_a_second, own, size_or_off, table, text,
};
use crate::control::config::keys::sidegate::{backend_tls, timeouts};
use crate::snapshot::listener;
use crate::snapshot::route::{PathForwarding, PlainHttp, RefusalForm, SentCertificate};

const RELOAD: &str = "The keys hold for requests that come after the reload. Open tunnels are \
                      judged again by the route and the policy that their request has now.";

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &NAME,
        &HOST,
        &PATH,
        &BACKEND,
        &BACKEND_TLS,
        &RESOLVE,
        &PROXY_PROTOCOL,
        &CLIENT_CERTIFICATE,
        &POLICY,
        &HTTP,
        &FORWARD_AS,
        &REFUSE,
        &STRIP_PREFIX,
        &PATHS,
        &MAX_BODY,
        &MAX_FIELDS,
        &TIMEOUTS,
    ],
    reload: RELOAD,
    ..KeyTable::EMPTY
};

/// The keys that `[defaults]` may have.
pub static DEFAULTS: KeyTable = KeyTable {
    keys: &[&RESOLVE, &POLICY, &HTTP, &FORWARD_AS, &REFUSE, &MAX_BODY, &TIMEOUTS],
    reload: RELOAD,
    ..KeyTable::EMPTY
};

pub static HOST: Key<CustomValue> =
    Key::new("host", text("host pattern"), "Exact, \"*.example.com\" (one label), or \"*\".")
        .required()
        .example("\"ws.example.com\"");

pub static PATH: Key<CustomValue> = Key::new(
    "path",
    own("path", &[("type", r#""string""#), ("pattern", r#""^/""#)]),
    "A prefix when it ends in \"/\", else exact: \"/ticks\" does not match \"/ticks/\".",
)
.required()
.example("\"/\"");

pub static BACKEND: Key<CustomValue> = Key::new(
    "backend",
    own(
        "URL, or an array of URLs",
        &[(
            "anyOf",
            r#"[
  { "type": "string", "pattern": "^(https?://[^/@]+|unix:.+)$" },
  {
    "type": "array",
    "minItems": 1,
    "uniqueItems": true,
    "items": { "type": "string", "pattern": "^(https?://[^/@]+|unix:.+)$" }
  }
]"#,
        )],
    ),
    "\"http://HOST:PORT\", \"https://HOST:PORT\", \"unix:PATH\", or a list. HOST is an address, or \
     a name, whose addresses are used like a list. `localhost` is 127.0.0.1, then [::1]. Of \
     several, the backend with the fewest tunnels gets the next.",
)
.required()
.example("\"http://127.0.0.1:8080\"");

pub static BACKEND_TLS: Key<CustomValue> = Key::new(
    "backend_tls",
    table(&backend_tls::TABLE),
    "TLS towards https:// backends; left out, their host and this system's authorities.",
)
.example("{ ca = \"certs/backend-ca.pem\", name = \"app.internal\" }")
.not_in_init();

pub static RESOLVE: KeyWithDefault<Duration> = Key::new(
    "resolve",
    duration_from_a_second(),
    "Interval at which names of backends are resolved again. A name without an address that takes \
     connections is resolved again earlier, at most once a second.",
)
.not_in_init()
.defined_as("resolve")
.default(|| Duration::from_secs(10));
pub static PROXY_PROTOCOL: KeyWithDefault<bool> = Key::new(
    "proxy_protocol",
    choice(&[("off", false), ("v2", true)]),
    "\"v2\": each connection to a backend begins with a PROXY header for its client, and serves no \
     other client.",
)
.default(|| false);

pub static CLIENT_CERTIFICATE: KeyWithDefault<SentCertificate> = Key::new(
    "client_certificate",
    choice(&[
        ("off", SentCertificate::Off),
        ("leaf", SentCertificate::Leaf),
        ("chain", SentCertificate::Chain),
    ]),
    "\"leaf\": the backend gets the client's verified certificate in `Client-Cert`; \"chain\": and \
     the others that the client sent in `Client-Cert-Chain` (RFC 9440).",
)
.default(|| SentCertificate::Off);

pub static POLICY: Key<CustomValue> = Key::new(
    "policy",
    own(
        "name",
        &[
            ("type", r#""string""#),
            ("pattern", r#""^[a-z][a-z0-9_-]*$""#),
            ("not", r#"{ "enum": ["any", "unix", "none", "null", "baseline"] }"#),
        ],
    ),
    "NAME of policies/NAME.toml; a route needs one, its own or that of [defaults].",
)
.example("\"main\"")
.defined_as("policy_name");

pub static HTTP: KeyWithDefault<PlainHttp> = Key::new(
    "http",
    choice(&[("refuse", PlainHttp::Refuse), ("forward", PlainHttp::Forward)]),
    "Plain HTTP: \"refuse\" answers 426, \"forward\" passes it on.",
)
.defined_as("http")
.default(|| PlainHttp::Refuse);

pub static FORWARD_AS: KeyWithDefault<&str> = Key::new(
    "forward_as",
    only("`\"x-forwarded\"`", &[("const", r#""x-forwarded""#)]),
    "Family of headers that the backend gets; \"forwarded\": not in this version.",
)
.not_in_init()
.defined_as("forward_as")
.default(|| "x-forwarded");

pub static REFUSE: KeyWithDefault<RefusalForm> = Key::new(
    "refuse",
    choice(&[
        ("answer", RefusalForm::Answer),
        ("close", RefusalForm::Close),
        ("drop", RefusalForm::Drop),
    ]),
    "Form of a refusal: \"answer\", an HTTP status; \"close\", a WebSocket that opens and is \
     closed with 1008 or 1013, since scripts of browsers see no status; \"drop\", no answer to \
     clients that no network admits.",
)
.defined_as("refuse")
.default(|| RefusalForm::Answer);

/// The only word of this version.
const fn only(
    words: &'static str,
    schema: &'static [(&'static str, &'static str)],
) -> ValueKind<&'static str> {
    ValueKind {
        words,
        form: ValueForm::Custom,
        schema: ValueSchema::Members(schema),
        write: |_, word| (*word).into(),
    }
}

pub static STRIP_PREFIX: KeyWithDefault<bool> = Key::new(
    "strip_prefix",
    boolean(),
    "true: with path = \"/ticks/\", /ticks/btc reaches the backend as /btc. Judging comes before \
     that.",
)
.default(|| false);

pub static PATHS: KeyWithDefault<PathForwarding> = Key::new(
    "paths",
    choice(&[("canonical", PathForwarding::Canonical), ("as-is", PathForwarding::AsIs)]),
    "\"as-is\": %2F, %23, %3F and // pass untouched; where no other route lies below, and without \
     strip_prefix.",
)
.default(|| PathForwarding::Canonical);

pub static MAX_BODY: KeyWithDefault<Option<u64>> = Key::new(
    "max_body",
    size_or_off(),
    "Largest body of plain HTTP; more is answered 413; 0: none at all; \"off\": unlimited.",
)
.defined_as("max_body")
.default(|| Some(1 << 20));

pub static MAX_FIELDS: KeyWithDefault<u32> = Key::new(
    "max_fields",
    count(16, 1000),
    "Header fields of a backend's answer; more are answered 502.",
)
.default(|| listener::DEFAULT_MAX_FIELDS as u32);

pub static TIMEOUTS: Key<CustomValue> = Key::new(
    "timeouts",
    table(&timeouts::OF_ROUTE),
    "As in [timeouts], from `body_stall` down; left out, the values of [defaults] or [timeouts].",
)
.example("{}")
.defined_as("timeouts");
