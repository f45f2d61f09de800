//! The port and the path that clients see, where a port mapping or a stripped prefix hides them:
//! `X-Forwarded-Port`, `X-Forwarded-Prefix` and the redirect to https.

use ::sidegate::data::http::head::HeadReader;

use crate::cli::done;
use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Head, lossy};

const READERS: [HeadReader; 2] = [HeadReader::Direct, HeadReader::Hyper];

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/", backend).on_route("http = 'forward'")
}

fn backend() -> backend::Builder {
    backend::http(|_| backend::reply(200))
}

/// The head that the backend gets of this request, whose lines are separated by `|`.
async fn seen(sidegate: &Sidegate, backend: &Backend, lines: &str) -> Head {
    let before = backend.heads().len();
    client::new(sidegate).send(lines.replace('|', "\r\n") + "\r\n\r\n").await;
    backend.heads().swap_remove(before)
}

/// Checks the `X-Forwarded-Port` of plain requests and of attempts.
async fn check_ports(sidegate: &Sidegate, backend: &Backend, cases: &[(&str, u16)]) {
    let attempt = "|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (lines, port) in cases {
        let upgrade = if lines.contains("HTTP/1.1") { attempt } else { "" };
        for lines in [(*lines).to_owned(), format!("{lines}{upgrade}")] {
            let head = seen(sidegate, backend, &lines).await;
            assert_eq!(head.all("x-forwarded-port"), [port.to_string()], "{lines}");
        }
    }
}

#[tokio::test]
async fn forwarded_port_is_that_of_host_or_of_the_scheme() {
    for heads in READERS {
        let backend = backend().run().await;
        let tls = new(&backend).heads(heads).run().await;
        let cases = [
            ("GET / HTTP/1.1|Host: a.example", 443),
            ("GET / HTTP/1.1|Host: a.example:", 443),
            ("GET / HTTP/1.1|Host: a.example:443", 443),
            ("GET / HTTP/1.1|Host: a.example:18443", 18443),
            ("GET / HTTP/1.1|Host: [2001:db8::1]:18443", 18443),
            ("GET https://a.example/ HTTP/1.1|Host: a.example", 443),
            ("GET / HTTP/1.1|Host: a.example|X-Forwarded-Port: 1|X_Forwarded_Port: 2", 443),
            ("GET / HTTP/1.0", 443),
            ("GET https://a.example:7000/ HTTP/1.0", 7000),
        ];
        check_ports(&tls, &backend, &cases).await;
        let clear = new(&backend).heads(heads).clear().run().await;
        let cases = [
            ("GET / HTTP/1.1|Host: a.example", 80),
            ("GET / HTTP/1.1|Host: a.example:8080", 8080),
            ("GET http://a.example:8080/ HTTP/1.1|Host: a.example:8080", 8080),
            ("GET / HTTP/1.0", 80),
        ];
        check_ports(&clear, &backend, &cases).await;
    }
}

#[tokio::test]
async fn public_port_is_forwarded_instead_of_the_hosts() {
    let backend = backend().run().await;
    let sidegate = new(&backend).on_listener("public_port = 8444").run().await;
    let cases = [
        ("GET / HTTP/1.1|Host: a.example", 8444),
        ("GET / HTTP/1.1|Host: a.example:18443", 8444),
        ("GET / HTTP/1.0", 8444),
    ];
    check_ports(&sidegate, &backend, &cases).await;
    let set = |config: &mut toml::Table| {
        config["listener"][0].as_table_mut().unwrap().insert("public_port".into(), 1.into());
    };
    sidegate.reconfigure(set).await;
    check_ports(&sidegate, &backend, &[("GET / HTTP/1.1|Host: a.example", 1)]).await;
}

/// Checks where a redirect listener beside a TLS listener with these keys leads requests for each
/// host. `OWN` is the redirect listener's port.
async fn check_locations(keys: &str, heads: HeadReader, hosts: &[(&str, &str)]) {
    let backend = backend().run().await;
    let plain =
        "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'";
    let sidegate = new(&backend).heads(heads).on_listener(keys).toml(plain).run().await;
    let client = client::clear(sidegate.listener("plain"));
    let own = sidegate.listener("plain").port().to_string();
    for (host, expected) in hosts {
        let client = client.clone().host(&host.replace("OWN", &own));
        let expected = format!("https://{expected}/a?b");
        client.get("/a?b").await.expect(308).expect_header("location", &expected);
        client.attempt("/a?b").await.expect(308).expect_header("location", &expected);
    }
}

#[tokio::test]
async fn redirect_names_the_public_port_and_not_the_inner_one() {
    for heads in READERS {
        let hosts = [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("a.example:18080", "a.example"),
            // A port of 0 is not known before the bind.
            ("a.example:OWN", "a.example"),
        ];
        check_locations("", heads, &hosts).await;
        let hosts = [
            ("a.example", "a.example:18443"),
            ("a.example:18080", "a.example:18443"),
            ("[::1]:OWN", "[::1]:18443"),
        ];
        check_locations("public_port = 18443", heads, &hosts).await;
        check_locations("public_port = 443", heads, &[("a.example:OWN", "a.example")]).await;
    }
}

#[tokio::test]
async fn redirect_names_the_bound_port_where_no_mapping_shows() {
    let backend = backend().run().await;
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = bound.local_addr().unwrap();
    let plain =
        "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\nredirect = 'https'";
    let builder = new(&backend).passed("tls", bound).on_listener("listen = 'systemd:tls'");
    let sidegate = builder.toml(plain).run().await;
    let own = sidegate.listener("plain").port();
    let client = client::clear(sidegate.listener("plain"));
    for (host, expected) in [
        (format!("localhost:{own}"), format!("https://localhost:{}/", tls.port())),
        ("localhost".to_owned(), "https://localhost/".to_owned()),
        ("localhost:18080".to_owned(), "https://localhost/".to_owned()),
    ] {
        let answer = client.clone().host(&host).get("/").await;
        answer.expect(308).expect_header("location", &expected);
    }
}

#[tokio::test]
async fn public_port_of_a_redirect_listener_is_a_warning() {
    let backend = backend().run().await;
    let plain = "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\n\
                 redirect = 'https'\npublic_port = 80";
    let folder = new(&backend).toml(plain).write();
    let said = lossy(&done(&["check", "."], folder.path()).await.stderr);
    assert!(said.contains("public_port: has no effect on a listener that redirects"), "{said}");
}

#[tokio::test]
async fn stripped_prefix_is_forwarded() {
    for heads in READERS {
        let backend = backend().run().await;
        let builder = sidegate::new().clear().heads(heads);
        let strip = "http = 'forward'\nstrip_prefix = true";
        let builder = builder.route("/ticks/v1/", &backend).on_route(strip);
        let builder = builder.route("/exact", &backend).on_route(strip);
        let builder = builder.route("/", &backend).on_route(strip);
        let builder = builder.route("/kept/", &backend).on_route("http = 'forward'");
        let sidegate = builder.run().await;
        let upgrade = "|Upgrade: websocket|Connection: Upgrade|Sec-WebSocket-Version: 13|\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        for (path, target, prefix) in [
            ("/ticks/v1/btc?a", "/btc?a", Some("/ticks/v1")),
            ("/ticks/./v1//%62tc", "/btc", Some("/ticks/v1")),
            ("/ticks/v1/", "/", Some("/ticks/v1")),
            ("/exact", "/", Some("/exact")),
            ("/other", "/other", None),
            ("/kept/x", "/kept/x", None),
        ] {
            for upgrade in ["", upgrade] {
                let forged = "X-Forwarded-Prefix: /evil|x_forwarded_prefix: /evil";
                let lines = format!("GET {path} HTTP/1.1|Host: a|{forged}{upgrade}");
                let head = seen(&sidegate, &backend, &lines).await;
                assert_eq!((head.target(), head.header("x-forwarded-prefix")), (target, prefix));
                assert!(!lossy(&head.raw).contains("evil"), "{}", lossy(&head.raw));
            }
        }
    }
}
