//! `[[listener]]`.

use crate::control::config::keys::any_file::{NAME, budget_or_off};
use crate::control::config::keys::key::{CustomValue, Key, KeyTable, KeyWithDefault};
use crate::control::config::keys::kind::{
    boolean, choice, count, count_or_auto, only_false, own, port, size, table,
};
use crate::control::config::keys::sidegate::admin::{file_mode, group_name};
use crate::control::config::keys::sidegate::{client_certificates, forwarded, proxy_protocol};
use crate::policy::limit::Rate;
use crate::snapshot::listener;

pub static TABLE: KeyTable = KeyTable {
    keys: &[
        &NAME,
        &LISTEN,
        &MODE,
        &GROUP,
        &TLS,
        &TLS_MIN,
        &STRICT_SNI,
        &HANDSHAKES_PER_CLIENT,
        &MAX_HEAD,
        &MAX_FIELDS,
        &MAX_CONNECTIONS,
        &PENDING_PER_CLIENT,
        &PROXY_PROTOCOL,
        &FORWARDED,
        &HTTP2,
        &REDIRECT,
        &PUBLIC_PORT,
        &CLIENT_CERTIFICATES,
    ],
    reload: "A new listener is bound before the reload is published; where that fails, the \
             reload is rejected. Other keys hold for connections that come after it, and an \
             unchanged `handshakes_per_client` keeps its budgets.",
    ..KeyTable::EMPTY
};

pub static LISTEN: Key<CustomValue> = Key::new(
    "listen",
    own(
        "address with a port, `\"unix:/PATH\"`, or `\"systemd:NAME\"`",
        &[
            ("type", r#""string""#),
            ("pattern", r#""^(systemd:[^:]+|unix:/.+|[0-9A-Fa-f.:\\[\\]]+:[0-9]+)$""#),
        ],
    ),
    "\"127.0.0.1:8443\": this machine only; \"0.0.0.0:8443\": every address; \
     \"unix:/run/sidegate/public.sock\": users of this host, by `mode` and `group`; or \
     \"systemd:NAME\" (socket activation by name).",
)
.required()
.example("\"0.0.0.0:8443\"");

pub static MODE: KeyWithDefault<u32> = Key::new(
    "mode",
    file_mode(),
    "Permissions of a Unix socket, in octal. Only with `listen = \"unix:…\"`.",
)
.not_in_init()
.default(|| 0o660);

pub static GROUP: KeyWithDefault<Option<String>> = Key::new(
    "group",
    group_name(),
    "Group of a Unix socket, whose members may connect; \"\": that of the process. Only with \
     `listen = \"unix:…\"`.",
)
.not_in_init()
.default(|| None);

pub static TLS: KeyWithDefault<bool> = Key::new(
    "tls",
    boolean(),
    "false: plain ws://, which is a warning on an address that others can reach.",
)
.default(|| true);

/// The value says whether only TLS 1.3 is spoken.
pub static TLS_MIN: KeyWithDefault<bool> = Key::new(
    "tls_min",
    choice(&[("1.2", false), ("1.3", true)]),
    "Oldest version of TLS: \"1.2\" or \"1.3\".",
)
.default(|| false);

pub static STRICT_SNI: KeyWithDefault<bool> = Key::new(
    "strict_sni",
    boolean(),
    "true: a ClientHello without a certificate for its name fails.",
)
.default(|| false);

pub static HANDSHAKES_PER_CLIENT: KeyWithDefault<Option<Rate>> = Key::new(
    "handshakes_per_client",
    budget_or_off(),
    "TLS handshakes of one client (IPv6: its /64), resumed ones included; further ones wait; \
     \"off\": unlimited.",
)
.default(|| Some(listener::DEFAULT_HANDSHAKES_PER_CLIENT));

pub static MAX_HEAD: KeyWithDefault<u64> = Key::new(
    "max_head",
    size("size, `\"8KiB\"` to `\"1MiB\"`", "a size like \"32KiB\""),
    "Bytes of a request head: request line and headers.",
)
.default(|| 32 << 10);

pub static MAX_FIELDS: KeyWithDefault<u32> =
    Key::new("max_fields", count(16, 1000), "Header fields of a request; more are answered 431.")
        .default(|| listener::DEFAULT_MAX_FIELDS as u32);

pub static MAX_CONNECTIONS: KeyWithDefault<Option<usize>> = Key::new(
    "max_connections",
    count_or_auto(u32::MAX),
    "Connections of this listener at once; \"auto\": as many as the descriptors allow.",
)
.default(|| None);

pub static PENDING_PER_CLIENT: KeyWithDefault<u32> = Key::new(
    "pending_per_client",
    count(1, u32::MAX),
    "Connections of one client (IPv6: its /64) that hold no tunnel and serve no permitted request.",
)
.default(|| 512);

pub static PROXY_PROTOCOL: Key<CustomValue> = Key::new(
    "proxy_protocol",
    table(&proxy_protocol::TABLE),
    "Peers that connect for others, as balancers do: each of their connections begins with a PROXY \
     header (v1 or v2), and no other peer may send one.",
)
.example("{ from = [\"10.20.0.0/24\"] }");

pub static FORWARDED: Key<CustomValue> = Key::new(
    "forwarded",
    table(&forwarded::TABLE),
    "Proxies whose headers name the client: each request is judged by the rightmost address that \
     is not one of theirs.",
)
.example("{ header = \"x-forwarded-for\", from = [\"10.20.0.0/24\"] }");

pub static HTTP2: KeyWithDefault<bool> =
    Key::new("http2", only_false(), "WebSockets over HTTP/2 (RFC 8441): not in this version.")
        .not_in_init()
        .default(|| false);

pub static REDIRECT: Key<()> = Key::new(
    "redirect",
    choice(&[("https", ())]),
    "A listener with tls = false that only answers 308, to the first TLS listener.",
)
.not_in_init();

pub static PUBLIC_PORT: Key<u16> = Key::new(
    "public_port",
    port(),
    "Port that clients use, where a port mapping lies in front: for `X-Forwarded-Port`, and for \
     redirects to this listener. Left out, the port of `Host`, else that of the scheme.",
)
.example("443");

pub static CLIENT_CERTIFICATES: Key<CustomValue> = Key::new(
    "client_certificates",
    table(&client_certificates::TABLE),
    "Which certificates of clients are verified, and whether a client needs one. Policies judge \
     their names. A change of a file takes effect on save, for open tunnels too.",
)
.not_in_init()
.example("{ ca = \"certs/clients.pem\", mode = \"optional\" }");
