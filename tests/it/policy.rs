//! Who may: networks, origins, subprotocols, and which route's policy it is.

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};

/// Asserts that attempts from these addresses end so: 101 or 403.
async fn check(sidegate: &Sidegate, expected: &[(&str, u16)]) {
    for (address, status) in expected {
        let answer = client::new(sidegate).from(address).attempt("/chat").await;
        assert_eq!(answer.status(), *status, "{address}");
        if *status == 403 {
            answer.expect_refused(403, "network");
        }
    }
}

/// Asserts that attempts with this Origin (or none) end so: 101 or 403.
async fn check_origin(sidegate: &Sidegate, origin: Option<&str>, status: u16) {
    let client = client::new(sidegate);
    let client = origin.into_iter().fold(client, client::Client::origin);
    let answer = client.attempt("/chat").await;
    assert_eq!(answer.status(), status, "{origin:?}");
    if status == 403 {
        answer.expect_refused(403, "origin");
    }
}

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/chat", backend)
}

#[tokio::test]
async fn any_admits_everyone() {
    let backend = backend::echo().run().await;
    check(&new(&backend).run().await, &[("127.0.0.1", 101), ("127.99.3.4", 101)]).await;
}

#[tokio::test]
async fn only_the_networks_that_allow_names_are_admitted() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).allow("127.0.0.0/29").allow("127.1.0.9").run().await;
    check(
        &sidegate,
        &[("127.0.0.2", 101), ("127.0.0.8", 403), ("127.1.0.9", 101), ("127.1.0.8", 403)],
    )
    .await;
    assert_eq!(backend.connections(), 2);
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "chat"), ("reason", "network")], 2)
        .await;
}

#[tokio::test]
async fn deny_wins_over_any_allow() {
    let backend = backend::echo().run().await;
    let sidegate =
        new(&backend).allow("127.0.0.2/32").allow("127.0.0.3").deny("127.0.0.2/31").run().await;
    check(&sidegate, &[("127.0.0.2", 403), ("127.0.0.3", 403)]).await;
    let sidegate = new(&backend).deny("127.0.0.2").run().await;
    check(&sidegate, &[("127.0.0.2", 403), ("127.0.0.3", 101)]).await;
}

#[tokio::test]
async fn longest_prefix_decides_within_a_list_with_carve_outs() {
    let backend = backend::echo().run().await;
    let lines = ["127.0.0.0/24", "!127.0.0.0/29 ticket=SEC-3", "127.0.0.2"];
    let sidegate =
        new(&backend).policy(|page| page.list("office", &lines).allow("office")).run().await;
    check(
        &sidegate,
        &[("127.0.0.1", 403), ("127.0.0.2", 101), ("127.0.0.9", 101), ("127.0.1.1", 403)],
    )
    .await;
}

#[tokio::test]
async fn other_list_may_admit_a_carved_out_client() {
    let backend = backend::echo().run().await;
    let one =
        new(&backend).policy(|page| page.list("one", &["127.0.0.0/24", "!127.0.0.2"]).allow("one"));
    check(&one.clone().run().await, &[("127.0.0.2", 403)]).await;
    check(&one.allow("127.0.0.2").run().await, &[("127.0.0.2", 101)]).await;
}

#[tokio::test]
async fn client_carved_out_of_deny_is_not_denied() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend)
        .policy(|page| page.list("banned", &["127.0.0.0/24", "!127.0.0.2"]).deny("banned"));
    check(&sidegate.clone().run().await, &[("127.0.0.1", 403), ("127.0.0.2", 101)]).await;
    check(&sidegate.deny("127.0.0.2").run().await, &[("127.0.0.2", 403)]).await;
}

#[tokio::test]
async fn a_list_is_read_from_its_file_with_comments_and_annotations() {
    let backend = backend::echo().run().await;
    let list = "# the partners\n\n127.0.0.2   owner=acme ticket=SEC-1 # Acme\n127.0.0.8/30 ; a feed's comment\r\n!127.0.0.9\n";
    let sidegate = new(&backend).policy(|page| page.list_file("partners").allow("partners"));
    let sidegate = sidegate.file("policies/lists/partners.cidr", list).run().await;
    check(
        &sidegate,
        &[("127.0.0.2", 101), ("127.0.0.3", 403), ("127.0.0.8", 101), ("127.0.0.9", 403)],
    )
    .await;
    sidegate
        .expect_metric("sidegate_list_entries", [("list", "partners"), ("policy", "default")], 3)
        .await;
}

#[tokio::test]
async fn lapsed_entry_counts_as_absent() {
    let backend = backend::echo().run().await;
    let lines = [
        "127.0.0.2 expires=2020-12-31",
        "127.0.0.3 expires=2999-12-31",
        "127.0.0.8/29",
        "!127.0.0.9 expires=2020-12-31T00:00:00Z",
    ];
    let sidegate =
        new(&backend).policy(|page| page.list("office", &lines).allow("office")).run().await;
    check(&sidegate, &[("127.0.0.2", 403), ("127.0.0.3", 101), ("127.0.0.9", 101)]).await;
}

#[tokio::test]
async fn an_entry_lapses_while_the_agent_runs_without_a_reload() {
    let backend = backend::echo().run().await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1500);
    let line = format!("127.0.0.2 expires={soon}");
    let sidegate =
        new(&backend).policy(|page| page.list("guests", &[&line]).allow("guests")).run().await;
    let client = client::new(&sidegate).from("127.0.0.2");
    client.attempt("/chat").await.expect(101);
    while client.attempt("/chat").await.status() == 101 {
        assert!(
            jiff::Timestamp::now() < soon + jiff::SignedDuration::from_secs(1),
            "it does not lapse"
        );
    }
    client.attempt("/chat").await.expect_refused(403, "network");
    assert_eq!(sidegate.generation().await, 1);
}

#[tokio::test]
async fn an_ipv4_client_on_an_ipv6_socket_is_an_ipv4_client() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend)
        .on_listener("listen = '[::ffff:127.0.0.1]:0'")
        .allow("127.0.0.0/29")
        .run()
        .await;
    let port = sidegate.address().port();
    for (address, status) in [("127.0.0.2", 101), ("127.0.0.9", 403)] {
        let client = client::new(&sidegate).to(([127, 0, 0, 1], port).into()).from(address);
        assert_eq!(client.attempt("/chat").await.status(), status, "{address}");
    }
    assert_eq!(backend.head().await.header("x-forwarded-for"), Some("127.0.0.2"));
}

#[tokio::test]
async fn ipv6_clients_are_judged_by_ipv6_networks() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).on_listener("listen = '[::1]:0'").allow("::1").run().await;
    client::new(&sidegate).attempt("/chat").await.expect(101);
    assert_eq!(backend.head().await.header("x-forwarded-for"), Some("::1"));
    sidegate.policy().allow("127.0.0.0/8").allow("::2/127").write().await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(403, "network");
}

// C-WS-14
#[tokio::test]
async fn exact_origin_ignores_case_and_the_default_port() {
    let backend = backend::echo().run().await;
    let sidegate =
        new(&backend).origins(&["https://app.example", "http://localhost:3000"]).run().await;
    for origin in [
        "https://app.example",
        "HTTPS://App.Example",
        "https://app.example:443",
        "http://localhost:3000",
    ] {
        check_origin(&sidegate, Some(origin), 101).await;
    }
    for origin in [
        "http://app.example",
        "https://app.example:444",
        "https://app.example.evil",
        "https://xapp.example",
        "null",
        "",
    ] {
        check_origin(&sidegate, Some(origin), 403).await;
    }
    check_origin(&sidegate, None, 403).await;
    assert_eq!(backend.connections(), 4);
}

#[tokio::test]
async fn wildcard_origin_matches_one_label() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).origins(&["https://*.partner.example"]).run().await;
    check_origin(&sidegate, Some("https://desk.partner.example"), 101).await;
    for origin in [
        "https://partner.example",
        "https://a.b.partner.example",
        "https://.partner.example",
        "https://evilpartner.example",
    ] {
        check_origin(&sidegate, Some(origin), 403).await;
    }
}

#[tokio::test]
async fn none_admits_absent_origins_and_null_opaque_ones() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).origins(&["none"]).run().await;
    check_origin(&sidegate, None, 101).await;
    check_origin(&sidegate, Some("null"), 403).await;
    let sidegate = new(&backend).origins(&["null"]).run().await;
    check_origin(&sidegate, Some("null"), 101).await;
    check_origin(&sidegate, None, 403).await;
}

#[tokio::test]
async fn plain_http_is_judged_by_origin_only_when_it_has_one() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate =
        new(&backend).on_route("http = 'forward'").origins(&["https://app.example"]).run().await;
    let client = client::new(&sidegate);
    client.get("/chat").await.expect(200);
    client.clone().origin("https://app.example").get("/chat").await.expect(200);
    let answer = client.clone().origin("https://evil.example").get("/chat").await;
    assert_eq!(answer.expect_refused(403, "origin").header("connection"), None);
    client.origin("null").get("/chat").await.expect_refused(403, "origin");
    assert_eq!(backend.heads().len(), 2);
}

#[tokio::test]
async fn an_attempt_must_offer_an_admitted_subprotocol() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).subprotocols(&["v2.ticks", "v3.ticks"]).run().await;
    let offering = |offered: &[&str]| client::new(&sidegate).subprotocols(offered);
    assert_eq!(
        offering(&["v2.ticks", "v1.ticks"]).open("/chat").await.subprotocol(),
        Some("v2.ticks")
    );
    offering(&["v1.ticks"]).attempt("/chat").await.expect_refused(403, "subprotocol");
    offering(&["V2.ticks"]).attempt("/chat").await.expect_refused(403, "subprotocol");
    client::new(&sidegate).attempt("/chat").await.expect_refused(403, "subprotocol");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn backend_choosing_an_unadmitted_subprotocol_is_502() {
    let backend = backend::echo().run().await; // chooses the first one offered
    let sidegate = new(&backend).subprotocols(&["v2.ticks"]).run().await;
    client::new(&sidegate)
        .subprotocols(&["v1.ticks", "v2.ticks"])
        .attempt("/chat")
        .await
        .expect_refused(502, "backend");
    sidegate.expect_metric("sidegate_tunnels_opened_total", [], 0).await;
}

/// The status of an attempt that offers `v2` under this `rule`, at once and with a head that only
/// hyper reads; the backend's 101 has these `lines`.
async fn chosen(rule: &[&str], lines: &'static str) -> [u16; 2] {
    let backend = backend::raw(move |mut wire| async move {
        backend::grant(&mut wire, lines).await;
        wire.readable().await;
    });
    let backend = backend.run().await;
    let sidegate = new(&backend).subprotocols(rule).run().await;
    let client = client::new(&sidegate).subprotocols(&["v2"]);
    let large = client.clone().header("X-Big", &"x".repeat(9 * 1024));
    [client.attempt("/chat").await.status(), large.attempt("/chat").await.status()]
}

#[tokio::test]
async fn a_101_without_a_subprotocol_is_a_502_unless_none_is_admitted() {
    assert_eq!(chosen(&["v2"], "").await, [502, 502]);
    assert_eq!(chosen(&["v2", "none"], "").await, [101, 101]);
    assert_eq!(chosen(&["v2"], "Sec-WebSocket-Protocol: v2\r\n").await, [101, 101]);
    // A subprotocol that is removed on the way to the client was not chosen.
    let hidden = "Connection: Sec-WebSocket-Protocol\r\nSec-WebSocket-Protocol: v2\r\n";
    assert_eq!(chosen(&["v2"], hidden).await, [502, 502]);
    assert_eq!(chosen(&["v2", "none"], hidden).await, [101, 101]);
}

#[tokio::test]
async fn none_admits_an_attempt_that_offers_no_subprotocol() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).subprotocols(&["v2.ticks", "none"]).run().await;
    client::new(&sidegate).open("/chat").await.expect_echo("hello").await;
    client::new(&sidegate)
        .subprotocols(&["none"])
        .attempt("/chat")
        .await
        .expect_refused(403, "subprotocol");
}

#[tokio::test]
async fn the_most_specific_host_wins_then_the_longest_path() {
    let backend = backend::echo().run().await;
    let allow = |network: &'static str| move |page: sidegate::Page| page.allow(network);
    let sidegate = sidegate::new().clear();
    let sidegate =
        sidegate.route("/", &backend).on_route("name = 'other'").under("one", allow("127.0.0.1"));
    let sidegate = sidegate
        .route("/", &backend)
        .host("*.example.com")
        .on_route("name = 'wild'")
        .under("two", allow("127.0.0.2"));
    let sidegate = sidegate
        .route("/", &backend)
        .host("a.example.com")
        .on_route("name = 'exact'")
        .under("three", allow("127.0.0.3"));
    let sidegate =
        sidegate.route("/a/", &backend).host("a.example.com").under("four", allow("127.0.0.4"));
    let sidegate =
        sidegate.route("/a/b", &backend).host("a.example.com").under("five", allow("127.0.0.5"));
    let sidegate = sidegate
        .route("/z/", &backend)
        .on_route("name = 'deep'")
        .under("six", allow("127.0.0.6"))
        .run()
        .await;
    for (host, path, whose) in [
        ("other.org", "/", "127.0.0.1"),
        ("example.com", "/", "127.0.0.1"),
        ("a.b.example.com", "/", "127.0.0.1"),
        ("b.example.com", "/x", "127.0.0.2"),
        ("a.example.com", "/x", "127.0.0.3"),
        ("a.example.com", "/a/x", "127.0.0.4"),
        ("a.example.com", "/a/b", "127.0.0.5"),
        ("a.example.com", "/a/b/", "127.0.0.4"),
        ("a.example.com", "/z/", "127.0.0.3"), // the host comes before the path
        ("other.org", "/z/", "127.0.0.6"),
    ] {
        for address in
            ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]
        {
            let answer = client::new(&sidegate).host(host).from(address).attempt(path).await;
            assert_eq!(
                answer.status(),
                if address == whose { 101 } else { 403 },
                "{host}{path} from {address}"
            );
        }
    }
}
