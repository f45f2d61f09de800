//! Forwarded headers of listed peers: who is judged, charged and told to the backend, and what
//! another client on the same connection notices.

use ::sidegate::data::http::head::HeadReader;

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::{Answer, Head, Wire};

const READERS: [HeadReader; 2] = [HeadReader::Direct, HeadReader::Hyper];

/// A listener that believes 127.0.0.1 and 10.0.0.0/8, and routes that forward plain HTTP.
fn new(backend: &Backend) -> Builder {
    behind(backend, "x-forwarded-for")
}

fn behind(backend: &Backend, header: &str) -> Builder {
    let believed =
        format!("forwarded = {{ header = '{header}', from = ['127.0.0.1', '10.0.0.0/8'] }}");
    sidegate::new().clear().route("/", backend).on_route("http = 'forward'").on_listener(&believed)
}

fn backend() -> backend::Builder {
    backend::http(|_| backend::reply(200))
}

/// A client that the listed peer names: `lines` are `name: value`, separated by `|`.
fn with(sidegate: &Sidegate, lines: &str) -> Client {
    let split =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    lines
        .split('|')
        .filter_map(split)
        .fold(client::new(sidegate), |client, (name, value)| client.header(&name, &value))
}

/// The head that the backend gets of a plain request with these lines, and of an attempt.
async fn seen(sidegate: &Sidegate, backend: &Backend, lines: &str) -> [Head; 2] {
    let before = backend.heads().len();
    let client = with(sidegate, lines);
    client.get("/").await.expect(200);
    client.attempt("/").await.expect(200);
    let mut heads = backend.heads().split_off(before).into_iter();
    [heads.next().unwrap(), heads.next().unwrap()]
}

/// Sends a GET with these lines on a connection that stays open.
async fn ask(wire: &mut Wire, client: &Client, lines: &str) -> Answer {
    let lines: String = lines.split('|').map(|line| format!("{line}\r\n")).collect();
    wire.send(client.request("GET / HTTP/1.1", &lines)).await;
    wire.answer().await
}

// C-FWD-01
#[tokio::test]
async fn policy_judges_the_client_that_a_listed_peer_names() {
    for heads in READERS {
        let backend = backend().run().await;
        let sidegate = new(&backend).heads(heads).allow("198.51.100.3").run().await;
        for (named, admitted) in [
            ("198.51.100.3", true),
            ("6.6.6.6, 198.51.100.3, 10.9.9.9", true),
            ("::ffff:198.51.100.3", true),
            ("198.51.100.4", false),
            ("198.51.100.3, 198.51.100.4", false),
            ("198.51.100.4:80|X-Forwarded-For: 10.9.9.9", false),
            ("", false),
        ] {
            let client = with(&sidegate, &format!("X-Forwarded-For: {named}"));
            let answers = [client.get("/").await, client.attempt("/").await];
            for answer in answers {
                match admitted {
                    true => _ = answer.expect(200),
                    false => _ = answer.expect_refused(403, "network"),
                }
            }
        }
        assert_eq!(backend.heads().len(), 6);
    }
}

#[tokio::test]
async fn header_of_an_unlisted_peer_is_ignored_and_removed() {
    for (header, forged) in [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")] {
        let backend = backend().run().await;
        let sidegate = behind(&backend, header).allow("127.0.0.3").run().await;
        let lines = format!("{header}: {forged}|X-Forwarded-Proto: https|X-Request-Id: mine");
        with(&sidegate, &lines).from("127.0.0.2").get("/").await.expect_refused(403, "network");
        with(&sidegate, &lines).from("127.0.0.3").get("/").await.expect(200);
        let head = backend.head().await;
        assert_eq!(head.all("x-forwarded-for"), ["127.0.0.3"]);
        assert_eq!(
            (head.header("forwarded"), head.header("x-forwarded-proto")),
            (None, Some("http"))
        );
        assert_ne!(head.header("x-request-id"), Some("mine"));
    }
}

#[tokio::test]
async fn unreadable_header_of_a_listed_peer_is_refused() {
    for heads in READERS {
        let backend = backend().run().await;
        for (header, odd) in [
            ("x-forwarded-for", "localhost"),
            ("x-forwarded-for", "198.51.100.3, unknown"),
            ("x-forwarded-for", "198.51.100.3|X-Forwarded-Proto: gopher"),
            ("forwarded", "for=_hidden"),
            ("forwarded", "for=\"198.51.100.3"),
        ] {
            let sidegate = behind(&backend, header).heads(heads).run().await;
            let client = with(&sidegate, &format!("{header}: {odd}"));
            client.expect_refused(client.attempt_head("/", ""), 400, "forwarded").await;
            // Another client's request follows on the connection.
            let (mut wire, plain) =
                (client::new(&sidegate).connect().await, client::new(&sidegate));
            let lines = format!("{header}: {odd}");
            ask(&mut wire, &plain, &lines).await.expect_refused(400, "forwarded");
            let fine = if header == "forwarded" { "for=198.51.100.3" } else { "198.51.100.3" };
            ask(&mut wire, &plain, &format!("{header}: {fine}")).await.expect(200);
            sidegate.expect_metric("sidegate_refusals_total", [("reason", "forwarded")], 2).await;
        }
        assert_eq!(backend.heads().len(), 5);
    }
}

#[tokio::test]
async fn clients_on_one_connection_are_apart() {
    let backend = backend().run().await;
    let limits = "requests = { rate = '1/m', burst = 2 }";
    let sidegate = new(&backend).deny("198.51.100.66").limits(limits).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    let of = |address: &str| format!("X-Forwarded-For: {address}");
    for (address, status, word) in [
        ("198.51.100.3", 200, ""),
        ("198.51.100.66", 403, "network"),
        ("198.51.100.3", 200, ""),
        ("198.51.100.3", 429, "rate"),
        ("198.51.100.4", 200, ""),
        ("198.51.100.66", 403, "network"),
        ("198.51.100.4", 200, ""),
        ("198.51.100.4", 429, "rate"),
        ("2001:db8::1", 200, ""),
    ] {
        let answer = ask(&mut wire, &client, &of(address)).await;
        answer.expect(status);
        if status != 200 {
            answer.expect_refused(status, word);
        }
    }
    let told: Vec<_> =
        backend.heads().iter().map(|head| head.all("x-forwarded-for").join("|")).collect();
    let peer = |client: &str| format!("{client}, 127.0.0.1");
    let expected = ["198.51.100.3", "198.51.100.3", "198.51.100.4", "198.51.100.4", "2001:db8::1"];
    assert_eq!(told, expected.map(peer));
}

// C-FWD-02, C-FWD-03
#[tokio::test]
async fn backend_gets_the_chain_from_the_client_on() {
    for heads in READERS {
        let backend = backend().run().await;
        let sidegate = new(&backend).heads(heads).run().await;
        for (sent, chain) in [
            ("X-Forwarded-For: 198.51.100.3", "198.51.100.3, 127.0.0.1"),
            (
                "X-Forwarded-For: 6.6.6.6,198.51.100.3:80|X-Forwarded-For: 10.0.0.9",
                "198.51.100.3, 10.0.0.9, 127.0.0.1",
            ),
            ("X-Forwarded-For: 10.0.0.9", "10.0.0.9, 127.0.0.1"),
            (
                "X-Forwarded-For: 198.51.100.3|X_Forwarded_For: 6.6.6.6|Forwarded: for=6.6.6.6",
                "198.51.100.3, 127.0.0.1",
            ),
            ("", "127.0.0.1"),
        ] {
            for head in seen(&sidegate, &backend, sent).await {
                assert_eq!(head.all("x-forwarded-for"), [chain], "{sent}");
                assert!(!String::from_utf8_lossy(&head.raw).contains("6.6.6.6"), "{sent}");
            }
        }
    }
}

#[tokio::test]
async fn scheme_host_port_and_id_of_a_listed_peer_reach_the_backend() {
    let facts = ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];
    for heads in READERS {
        let backend = backend().run().await;
        let sidegate = new(&backend).heads(heads).run().await;
        for (sent, expected) in [
            ("X-Forwarded-Proto: https", ["https", "localhost", "443"]),
            (
                "X-Forwarded-Proto: WSS|X-Forwarded-Host: App.example",
                ["https", "app.example", "443"],
            ),
            ("X-Forwarded-Host: app.example:8443", ["http", "app.example:8443", "8443"]),
            ("X-Forwarded-Port: 8080", ["http", "localhost", "8080"]),
            ("", ["http", "localhost", "80"]),
        ] {
            let lines = format!("X-Forwarded-For: 198.51.100.3|{sent}|X-Request-Id: id-1.2");
            for head in seen(&sidegate, &backend, &lines).await {
                assert_eq!(facts.map(|name| head.header(name).unwrap()), expected, "{sent}");
                assert_eq!(head.all("x-request-id"), ["id-1.2"]);
                assert_eq!(head.header("host"), Some("localhost"));
            }
        }
        let [head, _] = seen(&sidegate, &backend, "X-Request-Id: a b|X-Forwarded-Prefix: /x").await;
        assert_eq!(head.all("x-request-id")[0].len(), 32);
        assert_eq!(head.header("x-forwarded-prefix"), None);
    }
    let backend = backend().run().await;
    let sidegate = behind(&backend, "forwarded").run().await;
    let element = "Forwarded: for=6.6.6.6;host=evil, for=198.51.100.3;proto=https;\
                   host=app.example, for=10.0.0.9";
    for head in seen(&sidegate, &backend, element).await {
        assert_eq!(facts.map(|name| head.header(name).unwrap()), ["https", "app.example", "443"]);
        assert_eq!(head.header("forwarded"), None);
    }
}

#[tokio::test]
async fn reported_host_is_not_routed_by() {
    let (one, other) = (backend().run().await, backend().run().await);
    let sidegate = new(&one)
        .host("one.example")
        .route("/", &other)
        .on_route("host = 'other.example'\nname = 'other'\nhttp = 'forward'")
        .run()
        .await;
    let client = with(&sidegate, "X-Forwarded-Host: other.example").host("one.example");
    client.get("/").await.expect(200);
    assert_eq!((one.heads().len(), other.heads().len()), (1, 0));
}

#[tokio::test]
async fn same_origin_is_that_of_the_reported_scheme_and_host() {
    for heads in READERS {
        let backend = backend().run().await;
        let sidegate = new(&backend).heads(heads).origins(&["same"]).run().await;
        let own = "X-Forwarded-For: 198.51.100.3|X-Forwarded-Proto: https";
        for (sent, origin, admitted) in [
            (own.to_owned(), "https://localhost", true),
            (own.to_owned(), "http://localhost", false),
            (format!("{own}|X-Forwarded-Host: app.example"), "https://app.example", true),
            (format!("{own}|X-Forwarded-Host: app.example"), "https://localhost", false),
            (format!("{own}|X-Forwarded-Port: 8443"), "https://localhost:8443", true),
            (format!("{own}|X-Forwarded-Port: 8443"), "https://localhost", false),
            ("X-Forwarded-Proto: http".to_owned(), "http://localhost", true),
            ("X-Forwarded-Proto: http".to_owned(), "https://localhost", false),
        ] {
            let answer = with(&sidegate, &sent).origin(origin).attempt("/").await;
            let expected = if admitted { 200 } else { 403 };
            assert_eq!(answer.status(), expected, "{sent}, {origin}");
        }
        let forged = with(&sidegate, "X-Forwarded-Host: evil.example").from("127.0.0.2");
        forged.origin("http://evil.example").attempt("/").await.expect_refused(403, "origin");
    }
}

#[tokio::test]
async fn redirect_leads_to_the_reported_host() {
    let backend = backend().run().await;
    let plain = "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false\n\
                 redirect = 'https'\n\
                 forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    let sidegate = sidegate::new().route("/", &backend).toml(plain).run().await;
    let at = |lines: &str| with(&sidegate, lines).at_clear(sidegate.listener("plain"));
    let told = at("X-Forwarded-Proto: http|X-Forwarded-Host: app.example|X-Forwarded-Port: 80");
    told.get("/a?b").await.expect(308).expect_header("location", "https://app.example/a?b");
    at("X-Forwarded-Proto: https").get("/").await.expect_refused(404, "route");
    let unlisted = at("X-Forwarded-Host: evil.example|X-Forwarded-Proto: https").from("127.0.0.2");
    let location = unlisted.get("/").await.expect(308).header("location").unwrap().to_owned();
    assert!(location.starts_with("https://localhost"), "{location}");
}

#[tokio::test]
async fn tunnel_is_judged_again_as_the_client_that_was_named() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let mut one = with(&sidegate, "X-Forwarded-For: 198.51.100.3").open("/").await;
    let mut other = with(&sidegate, "X-Forwarded-For: 198.51.100.4").open("/").await;
    sidegate.policy().deny("198.51.100.3").write().await;
    one.expect_close_with(1008, "network").await;
    sidegate.policy().deny("127.0.0.1").write().await;
    other.expect_echo("still here").await;
    sidegate.policy().deny("198.51.100.4").write().await;
    other.expect_close_with(1008, "network").await;
}

#[tokio::test]
async fn per_client_connections_count_the_named_clients() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).limits("connections = { per_client = 1 }").run().await;
    let of = |address: &str| with(&sidegate, &format!("X-Forwarded-For: {address}"));
    let _one = of("198.51.100.3").open("/").await;
    of("198.51.100.3").attempt("/").await.expect_refused(429, "connections");
    of("6.6.6.6, 198.51.100.3").attempt("/").await.expect_refused(429, "connections");
    let _other = of("198.51.100.4").open("/").await;
}

#[tokio::test]
async fn reload_changes_who_is_believed_on_an_open_connection() {
    let backend = backend().run().await;
    let sidegate = new(&backend).allow("198.51.100.3").run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    ask(&mut wire, &client, "X-Forwarded-For: 198.51.100.3").await.expect(200);
    let listed = sidegate.toml();
    sidegate
        .reconfigure(|config| {
            let listener = config["listener"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
            listener.remove("forwarded");
        })
        .await;
    ask(&mut wire, &client, "X-Forwarded-For: 198.51.100.3").await.expect_refused(403, "network");
    let mut wire = client.connect().await;
    sidegate.policy().allow("198.51.100.3").allow("127.0.0.1").write().await;
    ask(&mut wire, &client, "X-Forwarded-For: 198.51.100.4").await.expect(200);
    sidegate.reconfigure(|config| *config = listed).await;
    ask(&mut wire, &client, "X-Forwarded-For: 198.51.100.4").await.expect_refused(403, "network");
}

#[tokio::test]
async fn connections_of_a_listed_peer_are_not_bounded() {
    let backend = backend().run().await;
    let sidegate = new(&backend).on_listener("pending_per_client = 1").run().await;
    let client = client::new(&sidegate);
    let mut wires = Vec::new();
    for _ in 0..5 {
        wires.push(client.connect().await);
    }
    for wire in &mut wires {
        ask(wire, &client, "X-Forwarded-For: 198.51.100.3").await.expect(200);
    }
    let unlisted = client::new(&sidegate).from("127.0.0.2");
    let _first = unlisted.connect().await;
    unlisted.connect().await.expect_end().await;
}

#[tokio::test]
async fn baseline_judges_the_client_and_not_the_listed_peer() {
    let backend = backend().run().await;
    let baseline = "schema = 1\n[client]\ndeny = ['127.0.0.0/8', '198.51.100.66']\n";
    let sidegate = new(&backend).file("policies/baseline.toml", baseline).run().await;
    let of = |lines: &str| with(&sidegate, lines);
    of("X-Forwarded-For: 198.51.100.3").get("/").await.expect(200);
    of("X-Forwarded-For: 198.51.100.66").get("/").await.expect_refused(403, "network");
    of("").get("/").await.expect_refused(403, "network");
    of("").from("127.0.0.2").connect().await.expect_end().await;
}

#[tokio::test]
async fn redirect_keeps_the_connection_of_a_listed_peer() {
    let backend = backend().run().await;
    let keys = "tls = false\nredirect = 'https'\n[forwarded]\nheader = 'x-forwarded-for'\n\
                from = ['127.0.0.1']";
    let listener = format!("[[listener]]\nname = 'http'\nlisten = '127.0.0.1:0'\n{keys}");
    let listener = listener.replace("[forwarded]", "[listener.forwarded]");
    let sidegate = sidegate::new().route("/", &backend).toml(&listener).run().await;
    let client = client::clear(sidegate.listener("http"));
    let mut wire = client.connect().await;
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        ask(&mut wire, &client, &format!("X-Forwarded-For: {address}")).await.expect(308);
    }
    // Behind a body that is not read nothing is a request, and a client that speaks for itself
    // goes on over https.
    let body = "X-Forwarded-For: 192.0.2.4\r\nContent-Length: 3\r\n";
    wire.send(client.request("POST / HTTP/1.1", body) + "abc").await;
    wire.answer().await.expect(308);
    wire.expect_end().await;
    let alone = client.clone().from("127.0.0.2");
    let mut wire = alone.connect().await;
    ask(&mut wire, &alone, "A: b").await.expect(308);
    wire.expect_end().await;
}
