//! `path = "/app/"` and a request for `/app`: plain HTTP is sent to the path with its slash.

use serde_json::Value;

use crate::cli::{check, done};
use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::lossy;

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/app/", backend).on_route("http = 'forward'")
}

async fn backend() -> Backend {
    backend::http(|_| backend::reply(200)).run().await
}

/// Asserts that `GET target` is sent to `location` and reaches no backend.
async fn expect_sent(client: &Client, target: &str, location: &str) {
    let answer = client.get(target).await;
    assert_eq!((answer.status(), answer.header("location")), (308, Some(location)), "{target}");
}

#[tokio::test]
async fn plain_http_is_redirected_to_the_slash() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let client = client::new(&sidegate);
    expect_sent(&client, "/app", "/app/").await;
    expect_sent(&client, "/app?", "/app/?").await;
    expect_sent(&client, "/app?a=1&b=//evil.example/%22", "/app/?a=1&b=//evil.example/%22").await;
    expect_sent(&client, "//app", "/app/").await;
    expect_sent(&client, "/./x/../%61pp", "/app/").await;
    backend.expect_untouched();
    client.get("/app/").await.expect(200);
    for (target, refused) in [("/ap", 404), ("/appx", 404), ("/app%2f", 400), ("/", 404)] {
        assert_eq!(client.get(target).await.status(), refused, "{target}");
    }
}

#[tokio::test]
async fn slash_redirect_has_no_host_and_is_not_cached() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let answer =
        client::new(&sidegate).header("X-Forwarded-Host", "evil.example").get("/app").await;
    answer
        .expect(308)
        .expect_header("location", "/app/")
        .expect_header("cache-control", "no-store");
    answer.expect_header("content-length", "0");
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn the_connection_carries_the_request_that_follows() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    for (line, status) in [("HEAD /app", 308), ("DELETE /app", 308), ("GET /app/", 200)] {
        wire.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        wire.answer_to(line.split(' ').next().unwrap()).await.expect(status);
    }
}

#[tokio::test]
async fn request_with_a_body_is_redirected_and_closed() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    wire.send("POST /app HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc").await;
    wire.answer().await.expect(308).expect_header("connection", "close");
    wire.expect_end().await;
    backend.expect_untouched();
}

#[tokio::test]
async fn a_large_body_does_not_lose_the_redirect() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let mut wire = client::new(&sidegate).connect().await;
    let body = "x".repeat(3 << 20);
    wire.send(format!(
        "PUT /app?a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    wire.answer().await.expect(308).expect_header("location", "/app/?a");
    backend.expect_untouched();
}

#[tokio::test]
async fn client_refused_below_is_refused_without_the_slash() {
    let backend = backend().await;
    let sidegate = new(&backend).origins(&["same"]).deny("127.0.0.2").run().await;
    let client = client::new(&sidegate);
    client.clone().from("127.0.0.2").get("/app").await.expect_refused(403, "network");
    client.clone().origin("https://evil.example").get("/app").await.expect_refused(403, "origin");
    expect_sent(&client.origin("https://localhost"), "/app", "/app/").await;
    for (reason, count) in [("network", 1), ("origin", 1), ("route", 0)] {
        sidegate
            .expect_metric("sidegate_refusals_total", [("route", "app"), ("reason", reason)], count)
            .await;
    }
    sidegate
        .expect_metric(
            "sidegate_requests_total",
            [("route", "app"), ("kind", "plain"), ("result", "permitted")],
            1,
        )
        .await;
}

#[tokio::test]
async fn the_baseline_denies_before_a_slash_is_added() {
    let backend = backend().await;
    let denies = "schema = 1\nclient.deny = ['127.0.0.66']\n";
    let sidegate = new(&backend).clear().file("policies/baseline.toml", denies).run().await;
    let mut wire = client::new(&sidegate).from("127.0.0.66").connect().await;
    wire.expect_end().await;
    expect_sent(&client::new(&sidegate), "/app", "/app/").await;
}

#[tokio::test]
async fn another_route_that_matches_has_the_path() {
    let backend = backend().await;
    let served = |builder: Builder| async move {
        let sidegate = builder.run().await;
        client::new(&sidegate).get("/app").await.status()
    };
    let forward = "http = 'forward'";
    assert_eq!(served(new(&backend).route("/", &backend).on_route(forward)).await, 200);
    assert_eq!(
        served(new(&backend).route("/app", &backend).on_route("http = 'forward'\nname = 'exact'"))
            .await,
        200
    );
    let elsewhere = new(&backend).host("localhost").route("/", &backend).on_route(forward);
    assert_eq!(served(elsewhere).await, 200, "a route of host `*`");
    assert_eq!(served(new(&backend).host("other.example")).await, 404);
}

#[tokio::test]
async fn http_1_0_client_without_a_host_is_redirected() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let answer = client::new(&sidegate).send("GET /app HTTP/1.0\r\n\r\n").await;
    answer.expect(308).expect_header("location", "/app/");
}

#[tokio::test]
async fn a_query_with_bytes_that_no_uri_holds_is_escaped() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let sent = client::new(&sidegate)
        .send("GET /app?q={\"a\":<\u{e9}>} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    sent.expect(308).expect_header("location", "/app/?q=%7B%22a%22:%3C%C3%A9%3E%7D");
}

#[tokio::test]
async fn a_route_with_paths_as_is_has_its_slash_added() {
    let backend = backend().await;
    let sidegate = new(&backend).on_route("paths = 'as-is'").run().await;
    let client = client::new(&sidegate);
    expect_sent(&client, "/app", "/app/").await;
    expect_sent(&client, "//app", "/app/").await;
    client.get("/app/%2F//x").await.expect(200);
    assert_eq!(backend.head().await.target(), "/app/%2F//x");
}

#[tokio::test]
async fn attempt_is_not_redirected() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/app/", &backend).run().await;
    client::new(&sidegate).attempt("/app").await.expect_refused(404, "route");
    client::new(&sidegate).open("/app/").await.expect_echo("here").await;
}

#[tokio::test]
async fn websocket_only_route_is_redirected_to() {
    let backend = backend().await;
    let sidegate = sidegate::new().route("/app/", &backend).run().await;
    expect_sent(&client::new(&sidegate), "/app", "/app/").await;
    client::new(&sidegate).get("/app/").await.expect_refused(426, "plain");
}

#[tokio::test]
async fn a_stripped_prefix_is_part_of_the_location() {
    let backend = backend().await;
    let sidegate = new(&backend).on_route("strip_prefix = true").run().await;
    expect_sent(&client::new(&sidegate), "/app", "/app/").await;
    client::new(&sidegate).get("/app/").await.expect(200);
    assert_eq!(backend.head().await.target(), "/");
}

#[tokio::test]
async fn the_redirect_charges_no_rate() {
    let backend = backend().await;
    let sidegate = new(&backend).limits("requests = { rate = '1/m', burst = 1 }").run().await;
    let client = client::new(&sidegate);
    for _ in 0..3 {
        expect_sent(&client, "/app", "/app/").await;
    }
    client.get("/app/").await.expect(200);
    client.get("/app/").await.expect_refused(429, "rate");
}

#[tokio::test]
async fn slash_redirect_is_logged() {
    let folder = new(&backend().await).clear().write();
    let mut process = process::new(folder.path()).run().await;
    process.client().get("/app?secret=1").await.expect(308);
    let line: Value = process.logged("permitted").await;
    let fields =
        ["route", "kind", "path", "policy"].map(|field| line[field].as_str().unwrap_or("-"));
    assert_eq!(
        (fields, line["status"].as_u64()),
        (["app", "plain", "/app", "default"], Some(308)),
        "{line}"
    );
    assert!(line.get("backend").is_none_or(Value::is_null), "{line}");
}

/// What `explain` says of a URL, and with which code it ends.
async fn explained(sidegate: &Sidegate, url: &str) -> (i32, String) {
    let asked = ["explain", "--config", "sidegate.toml", "--client", "192.0.2.1", "--url", url];
    let output = done(&asked, sidegate.folder()).await;
    (output.status.code().unwrap(), lossy(&output.stdout))
}

#[tokio::test]
async fn explain_and_tests_follow_the_slash() {
    let backend = backend().await;
    let sidegate = new(&backend).run().await;
    let (code, text) = explained(&sidegate, "https://localhost/app").await;
    assert!(code == 0 && text.contains("answer      308 to /app/"), "{text}");
    let (code, text) = explained(&sidegate, "wss://localhost/app").await;
    assert!(
        code == 1 && text.contains("REFUSE 404 route") && text.contains("a route begins at /app/"),
        "{text}"
    );
    let test = |url: &str, expect: &str| {
        format!(
            "schema = 1\nclient.allow = ['any']\n[[test]]\nname = 'x'\nclient = '192.0.2.1'\nurl = '{url}'\nexpect = '{expect}'\n"
        )
    };
    for (url, expect, code, said) in [
        ("https://localhost/app", "allow", 0, ""),
        ("wss://localhost/app", "refuse:route", 0, ""),
        ("wss://localhost/app", "allow", 1, "a route begins at /app/: end the path with a slash"),
    ] {
        let folder = new(&backend).file("policies/default.toml", &test(url, expect)).write();
        check(&["check", "."], folder.path(), code, &[said]).await;
    }
}
