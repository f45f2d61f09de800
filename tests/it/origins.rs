//! The origins that name no page: `same`, and the applications' `file://`.

use crate::cli::{check, done};
use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::lossy;

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/", backend).on_route("http = 'forward'").origins(&["same"])
}

/// The statuses of an attempt, and of a plain request, at `host` from the page `origin`.
async fn statuses(sidegate: &Sidegate, host: &str, origin: &str) -> (u16, u16) {
    let client = client::new(sidegate).header("Origin", origin);
    let at = |head: String| head.replace("Host: localhost\r\n", &format!("Host: {host}\r\n"));
    let attempt = client.send(at(client.attempt_head("/", ""))).await.status();
    let plain = client.send(at(client.request("GET / HTTP/1.1", ""))).await.status();
    (attempt, plain)
}

async fn check_all(sidegate: &Sidegate, cases: &[(&str, &str, bool)]) {
    for (host, origin, admitted) in cases {
        let expected = if *admitted { (101, 200) } else { (403, 403) };
        assert_eq!(statuses(sidegate, host, origin).await, expected, "{origin} at {host}");
    }
}

/// A backend for both: it opens WebSockets, and answers 200 otherwise.
fn both() -> backend::Builder {
    backend::raw(|mut wire| async move {
        let head = wire.head().await;
        if head.header("upgrade").is_some() {
            wire.send(backend::granted(&head, "")).await;
            wire.expect_end().await;
        } else {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    })
}

#[tokio::test]
async fn same_over_tls_is_https_at_the_host_and_port_of_the_request() {
    let backend = both().run().await;
    let sidegate = new(&backend).run().await;
    let cases = [
        ("localhost", "https://localhost", true),
        ("localhost:443", "https://localhost", true),
        ("LOCALHOST.", "https://localhost:443", true),
        ("localhost:8443", "https://localhost:8443", true),
        ("localhost:8443", "https://localhost", false),
        ("localhost", "http://localhost", false),
        ("localhost", "https://evil.example", false),
        ("localhost", "null", false),
        ("localhost", "file://", false),
    ];
    check_all(&sidegate, &cases).await;
}

#[tokio::test]
async fn same_without_tls_admits_either_scheme() {
    let backend = both().run().await;
    let sidegate = new(&backend).clear().run().await;
    let cases = [
        ("app.example.com:8080", "http://app.example.com:8080", true),
        ("app.example.com:8080", "https://app.example.com:8080", true),
        ("app.example.com", "https://app.example.com", true),
        ("app.example.com", "http://app.example.com", true),
        ("app.example.com:8080", "http://app.example.com", false),
        ("app.example.com", "http://other.example.com", false),
    ];
    check_all(&sidegate, &cases).await;
}

#[tokio::test]
async fn same_does_not_admit_clients_that_send_no_origin() {
    let backend = both().run().await;
    let sidegate = new(&backend).run().await;
    client::new(&sidegate).attempt("/").await.expect_refused(403, "origin");
    client::new(&sidegate).get("/").await.expect(200);
}

#[tokio::test]
async fn applications_are_admitted_as_file() {
    let backend = both().run().await;
    let sidegate = new(&backend).origins(&["file://"]).run().await;
    assert_eq!(statuses(&sidegate, "localhost", "file://").await, (101, 200));
    assert_eq!(statuses(&sidegate, "localhost", "file:///").await, (403, 403));
}

#[tokio::test]
async fn null_and_custom_schemes_are_not_file() {
    let backend = both().run().await;
    let sidegate = new(&backend).origins(&["null", "capacitor://localhost"]).run().await;
    let cases = [
        ("localhost", "null", true),
        ("localhost", "capacitor://localhost", true),
        ("localhost", "file://", false),
        ("localhost", "capacitor://other", false),
    ];
    check_all(&sidegate, &cases).await;
    let files = new(&backend).origins(&["same", "none", "file://"]).run().await;
    let cases = [("localhost", "FILE://", true), ("localhost", "null", false)];
    check_all(&files, &cases).await;
}

#[tokio::test]
async fn a_tunnel_of_the_same_origin_stays_until_the_rule_goes() {
    let backend = backend::echo().run().await;
    let sidegate =
        new(&backend).origins(&["https://localhost", "https://other.example"]).run().await;
    let mut own = client::new(&sidegate).origin("https://localhost").open("/").await;
    let mut other = client::new(&sidegate).origin("https://other.example").open("/").await;
    sidegate
        .write(
            "policies/default.toml",
            "schema = 1\n[client]\nallow = ['any']\norigins = ['same']\n",
        )
        .await;
    other.expect_close_with(1008, "origin").await;
    own.expect_echo("stays").await;
    sidegate
        .write(
            "policies/default.toml",
            "schema = 1\n[client]\nallow = ['any']\norigins = ['none']\n",
        )
        .await;
    own.expect_close_with(1008, "origin").await;
}

#[tokio::test]
async fn tests_and_explain_take_the_host_and_the_scheme_of_the_url() {
    let test = |url: &str, origin: &str, expect: &str| {
        format!(
            "[[test]]\nname = 'x'\nclient = '192.0.2.1'\nurl = '{url}'\norigin = '{origin}'\nexpect = '{expect}'\n"
        )
    };
    let tests = [
        test("wss://ws.example.com/", "https://ws.example.com", "allow"),
        test("wss://ws.example.com:8443/", "https://ws.example.com:8443", "allow"),
        test("wss://ws.example.com/", "http://ws.example.com", "refuse:origin"),
        test("ws://ws.example.com/", "http://ws.example.com", "allow"),
        test("https://ws.example.com/", "https://evil.example", "refuse:origin"),
    ];
    let policy =
        format!("schema = 1\n[client]\nallow = ['any']\norigins = ['same']\n{}", tests.concat());
    let base = sidegate::new()
        .route("/", &backend::echo().run().await)
        .file("policies/default.toml", &policy);
    let folder = base.write();
    check(&["check", "."], folder.path(), 0, &[]).await;
    let asked = [
        "explain",
        "--config",
        "sidegate.toml",
        "--client",
        "192.0.2.1",
        "--url",
        "wss://ws.example.com/",
    ];
    for (origin, code, said) in [
        (
            "https://ws.example.com",
            0,
            "https://ws.example.com: admitted by \"same\" (https://ws.example.com)",
        ),
        (
            "http://ws.example.com",
            1,
            "http://ws.example.com: not among \"same\" (https://ws.example.com)",
        ),
    ] {
        let output = done(&[&asked[..], &["--origin", origin]].concat(), folder.path()).await;
        let text = lossy(&output.stdout);
        assert!(output.status.code() == Some(code) && text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn same_for_every_host_without_tls_warns_of_rebinding() {
    let backend = backend::echo().run().await;
    let warned = async |builder: Builder| {
        let folder = builder.write();
        lossy(&done(&["check", "."], folder.path()).await.stderr).contains("DNS rebinding")
    };
    assert!(warned(new(&backend).clear()).await);
    assert!(!warned(new(&backend)).await, "TLS proves the name");
    assert!(!warned(new(&backend).clear().host("app.example.com")).await);
    assert!(!warned(new(&backend).clear().origins(&["https://app.example.com"])).await);
    let candidate = "schema = 1\n[client]\nallow = ['any']\norigins = ['same']\n";
    let own = new(&backend).clear().origins(&["https://app.example.com"]);
    assert!(warned(own.file("policies/default.shadow.toml", candidate)).await);
}
