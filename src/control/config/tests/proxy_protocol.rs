//! `proxy_protocol` of a listener: its peers, and what is no list of peers.

use super::{SIDEGATE, check, load};
use crate::policy::network::Peer;
use crate::snapshot::listener::ListenerTimeouts;

/// Checks the findings about a listener with this value.
#[track_caller]
fn with(value: &str, expected: &str) {
    let keys = format!("tls = false\nproxy_protocol = {value}");
    check(&[("sidegate.toml", &SIDEGATE.replace("tls = false", &keys))], expected);
}

#[test]
fn proxy_protocol_lists_networks_and_addresses() {
    let from = r#"["10.20.0.0/24", "::ffff:192.0.2.1", "::1", "unix", "unix:uid=33"]"#;
    let keys = format!("tls = false\nproxy_protocol = {{ from = {from} }}");
    let text = SIDEGATE.replace("tls = false", &keys).replace("127.0.0.1:8443", "systemd:public");
    let (loaded, found) = load(&[("sidegate.toml", &text)]);
    let listener = &loaded.unwrap().settings.listeners[0];
    let peers = listener.proxy_protocol.as_ref().unwrap();
    for (peer, is_listed) in
        [("10.20.0.1", true), ("192.0.2.1", true), ("::1", true), ("10.20.1.1", false)]
    {
        assert_eq!(peers.contains(Peer::new(peer.parse().unwrap())), is_listed, "{peer}");
    }
    assert_eq!(found, "");
    assert_eq!(listener.timeouts, ListenerTimeouts::default());
}

#[test]
fn proxy_protocol_without_a_peer_is_an_error() {
    with(
        "{ from = [] }",
        r#"
error: from: lists no peer, so that no PROXY header would be read
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = [] }
  |                           ^^
  |
  = help: from = ["10.20.0.0/24"], or remove the key
"#,
    );
    with(
        "{}",
        r#"
error: from: missing from `proxy_protocol`
 --> sidegate.toml:7:18
  |
7 | proxy_protocol = {}
  |                  ^^
  |
  = help: from = ["10.20.0.0/24"]
"#,
    );
    with(
        "true",
        r#"
error: proxy_protocol: expected a table, found a boolean
 --> sidegate.toml:7:18
  |
7 | proxy_protocol = true
  |                  ^^^^
"#,
    );
    with(
        "{ form = [\"10.20.0.0/24\"] }",
        r#"
error: unknown key `form` in `proxy_protocol`, which lacks `from`
 --> sidegate.toml:7:20
  |
7 | proxy_protocol = { form = ["10.20.0.0/24"] }
  |                    ^^^^
  |
  = help: did you mean `from`?
"#,
    );
}

#[test]
fn peer_that_is_no_network_is_an_error() {
    with(
        "{ from = [\"partners\", \"any\"] }",
        r#"
error: from: "partners" is not a network, and lists belong to policies
 --> sidegate.toml:7:28
  |
7 | proxy_protocol = { from = ["partners", "any"] }
  |                            ^^^^^^^^^^
  |
  = help: write the networks, like "10.20.0.0/24"

error: from: "any" is not a network, and lists belong to policies
 --> sidegate.toml:7:40
  |
7 | proxy_protocol = { from = ["partners", "any"] }
  |                                        ^^^^^
  |
  = help: write the networks, like "10.20.0.0/24"
"#,
    );
    with(
        "{ from = [\"unix:gid=44\", \"unix:/a\", \"10.0.0.0/33\"] }",
        r#"
error: from: "unix:gid=44" is no peer
 --> sidegate.toml:7:28
  |
7 | proxy_protocol = { from = ["unix:gid=44", "unix:/a", "10.0.0.0/33"] }
  |                            ^^^^^^^^^^^^^
  |
  = help: write "unix" or "unix:uid=33"

error: from: "unix:/a": not a pattern of Unix clients
 --> sidegate.toml:7:43
  |
7 | proxy_protocol = { from = ["unix:gid=44", "unix:/a", "10.0.0.0/33"] }
  |                                           ^^^^^^^^^
  |
  = help: write "unix" or "unix:uid=33"

error: from: /33 is too long for an IPv4 address
 --> sidegate.toml:7:55
  |
7 | proxy_protocol = { from = ["unix:gid=44", "unix:/a", "10.0.0.0/33"] }
  |                                                       ^^^^^^^^^^^
  |
  = help: write a prefix length from /0 to /32
"#,
    );
    with(
        "{ from = \"!10.0.0.0/8\" }",
        r#"
error: from: expected an array, found a string
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = "!10.0.0.0/8" }
  |                           ^^^^^^^^^^^^^
  |
  = help: write ["!10.0.0.0/8"]

error: from: "!10.0.0.0/8" is not a network alone
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = "!10.0.0.0/8" }
  |                           ^^^^^^^^^^^^^
  |
  = help: like "192.0.2.0/24" or "::1"
"#,
    );
}

#[test]
fn internet_as_peers_is_a_warning() {
    with(
        "{ from = [\"0.0.0.0/0\", \"::/0\"] }",
        r#"
warning: from: 0.0.0.0/0 lets everyone claim any address
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = ["0.0.0.0/0", "::/0"] }
  |                           ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: list only the proxies in front

warning: from: ::/0 lets everyone claim any address
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = ["0.0.0.0/0", "::/0"] }
  |                           ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: list only the proxies in front
"#,
    );
    with(
        "{ from = [\"128.0.0.0/1\", \"10.0.0.0/8\", \"fc00::/7\"] }",
        r#"
warning: from: 128.0.0.0/1 lets everyone claim any address
 --> sidegate.toml:7:27
  |
7 | proxy_protocol = { from = ["128.0.0.0/1", "10.0.0.0/8", "fc00::/7"] }
  |                           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: list only the proxies in front
"#,
    );
}

#[test]
fn peers_of_unix_sockets_are_named_or_numbered() {
    let keys = "tls = false\nproxy_protocol = { from = [\"unix:uid=root\"] }";
    let text = SIDEGATE.replace("tls = false", keys).replace("127.0.0.1:8443", "unix:/e/p.sock");
    check(&[("sidegate.toml", &text)], "");
    with(
        "{ from = [\"unix:uid=no-such-user\"] }",
        r#"
error: from: this host has no user `no-such-user`
 --> sidegate.toml:7:28
  |
7 | proxy_protocol = { from = ["unix:uid=no-such-user"] }
  |                            ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: create the user, or write its number, which need not exist here
"#,
    );
    with(
        "{ from = [\"unix:uid=65534\"] }",
        r#"
error: from: "unix:uid=65534" is any user of other user namespaces
 --> sidegate.toml:7:28
  |
7 | proxy_protocol = { from = ["unix:uid=65534"] }
  |                            ^^^^^^^^^^^^^^^^
  |
  = help: run the proxy in front as a user of this host
"#,
    );
}
