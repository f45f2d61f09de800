//! `[metrics]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::control::config::keys::key::{
    Key, KeyTable, KeyWithDefault, ValueForm, ValueKind, ValueSchema,
};
use crate::control::config::keys::parse::{host_name, network};
use crate::control::config::settings::MetricsAddress;

pub static TABLE: KeyTable = KeyTable {
    keys: &[&LISTEN, &ALLOW, &HOSTS],
    reload: "A changed `listen` is bound before the reload is published; where that fails, the \
             reload is rejected. The other keys bind the next request.",
    ..KeyTable::EMPTY
};

pub static LISTEN: KeyWithDefault<Option<MetricsAddress>> = Key::new(
    "listen",
    ValueKind {
        words: "address with a port, `\"unix:PATH\"`, `\"systemd:NAME\"`, or `\"off\"`",
        form: ValueForm::Custom,
        schema: ValueSchema::Members(&[
            ("type", r#""string""#),
            ("pattern", r#""^(off|unix:.+|systemd:[^:]+|.+:[0-9]+)$""#),
        ]),
        write: |_, at: &Option<MetricsAddress>| {
            at.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string).into()
        },
    },
    "An address with a port, \"unix:PATH\", \"systemd:NAME\" (socket activation by name), or \
     \"off\".",
)
.default(|| Some(MetricsAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 10464)))));

pub static ALLOW: KeyWithDefault<Vec<IpNet>> = Key::new(
    "allow",
    ValueKind {
        words: "array of networks and addresses",
        form: ValueForm::List {
            expected: "a network",
            empty: Vec::new,
            add: |all, text| network(text).map(|network| all.push(network)),
        },
        schema: ValueSchema::Members(&[
            ("type", r#""array""#),
            (
                "items",
                r#"{
  "type": "string",
  "pattern": "^[ \\t]*[0-9A-Fa-f.:]+(/[0-9]+)?([ \\t].*)?$"
}"#,
            ),
        ]),
        write: |_, all| all.iter().map(written_network).collect(),
    },
    "Networks that may connect; all others get 403.",
)
.default(|| {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![v4.into(), IpAddr::from(Ipv6Addr::LOCALHOST).into()]
});

/// A network as in a file, where an address needs no length.
fn written_network(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

pub static HOSTS: KeyWithDefault<Vec<Box<str>>> = Key::new(
    "hosts",
    ValueKind {
        words: "array of host names",
        form: ValueForm::List {
            expected: "the name of a host",
            empty: Vec::new,
            add: |all, text| host_name(text).map(|name| all.push(name)),
        },
        schema: ValueSchema::Members(&[
            ("type", r#""array""#),
            (
                "items",
                r#"{ "type": "string", "pattern": "^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*[.]?$" }"#,
            ),
        ]),
        write: |_, all| all.iter().map(|name| &**name).collect(),
    },
    "Names that a request at a loopback address may ask for, beside localhost and addresses. \
     All others get 403.",
)
.default(Vec::new);
