//! Quantities: rates and places, each given back, kept and shared as the policy says.

use std::fs;
use std::time::{Duration, Instant};

use ::sidegate::control::reload::ReloadOutcome;

use crate::harness::client::Client;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Answer, Frame};
use crate::harness::{backend, client, sidegate};

/// Two attempts, and then one more in ten seconds.
const TWO: &str = "upgrades = { rate = '6/m', burst = 2 }";

/// Asserts that the next attempt is granted; the tunnel is closed again.
async fn expect_granted(client: &Client, path: &str) {
    client.open(path).await.expect_echo("granted").await;
}

/// Asserts that the next attempt is refused for this word, with 429 or 503.
async fn expect_refused(client: &Client, path: &str, word: &str) -> Answer {
    let status = if matches!(word, "capacity" | "draining") { 503 } else { 429 };
    client.expect_refused(client.attempt_head(path, ""), status, word).await
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("a Retry-After").parse().expect("whole seconds")
}

async fn over(limits: &str) -> (Sidegate, Client, backend::Backend) {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).limits(limits).run().await;
    let client = client::new(&sidegate);
    (sidegate, client, backend)
}

// C-RL-01, C-RL-04
#[tokio::test]
async fn upgrades_over_the_rate_get_429_with_retry_after() {
    let (sidegate, client, _backend) = over(TWO).await;
    expect_granted(&client, "/chat").await;
    expect_granted(&client, "/chat").await;
    for _ in 0..3 {
        let wait = retry_after(&expect_refused(&client, "/chat", "rate").await);
        assert!((1..=20).contains(&wait), "{wait} s until a token that comes every 10");
    }
    expect_granted(&client.clone().from("127.0.0.2"), "/chat").await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "chat"), ("reason", "rate")], 3)
        .await;
    sidegate
        .expect_metric("sidegate_limiter_keys", [("policy", "default"), ("limit", "upgrades")], 2)
        .await;
}

// C-RL-01
#[tokio::test]
async fn refused_attempts_do_not_delay_the_next_token() {
    let (_sidegate, client, _backend) = over("upgrades = { rate = '1/s', burst = 1 }").await;
    client.attempt("/chat").await.expect(101);
    let (mut refused, began) = (0, Instant::now());
    while client.attempt("/chat").await.status() == 429 {
        refused += 1;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{refused} refusals took its tokens");
}

// C-RL-02
#[tokio::test]
async fn plain_requests_and_upgrades_have_separate_rates() {
    let backend = backend::echo().run().await;
    let limits = format!("{TWO}\nrequests = {{ rate = '6/m', burst = 3 }}");
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .on_route("http = 'forward'")
        .limits(&limits)
        .run()
        .await;
    let client = client::new(&sidegate);
    for _ in 0..3 {
        client.get("/chat").await.expect(200);
    }
    assert!(retry_after(client.get("/chat").await.expect_refused(429, "rate")) >= 1);
    for _ in 0..2 {
        expect_granted(&client, "/chat").await;
    }
    expect_refused(&client, "/chat", "rate").await;
    client.clone().from("127.0.0.2").get("/chat").await.expect(200);
}

#[tokio::test]
async fn a_refused_plain_request_keeps_its_connection() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let limits = "requests = { rate = '6/m', burst = 1 }";
    let sidegate = sidegate::new()
        .route("/", &backend)
        .on_route("http = 'forward'")
        .limits(limits)
        .run()
        .await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    for status in [200, 429, 429] {
        wire.send(client.request("GET / HTTP/1.1", "")).await;
        wire.answer().await.expect(status);
    }
    assert_eq!(backend.heads().len(), 1);
}

// C-RL-10, C-RES-10
#[tokio::test]
async fn client_over_its_count_gets_429_without_retry_after() {
    let (sidegate, client, _backend) = over("connections = { per_client = 2 }").await;
    let (mut one, _two) = (client.open("/chat").await, client.open("/chat").await);
    assert_eq!(expect_refused(&client, "/chat", "connections").await.header("retry-after"), None);
    expect_granted(&client.clone().from("127.0.0.2"), "/chat").await;
    one.close(1000, "").await;
    one.expect_close(1000).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
    expect_granted(&client, "/chat").await;
}

#[tokio::test]
async fn policy_over_its_total_gets_503_with_retry_after() {
    let (sidegate, client, _backend) = over("connections = { total = 2 }").await;
    let _open = (client.open("/chat").await, client.clone().from("127.0.0.2").open("/chat").await);
    let third = client.clone().from("127.0.0.3");
    let wait = retry_after(&expect_refused(&third, "/chat", "capacity").await);
    assert!((5..=10).contains(&wait), "{wait} s");
    sidegate.expect_metric("sidegate_tunnels_limit", [("policy", "default")], 2).await;
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "capacity")], 1).await;
}

#[tokio::test]
async fn token_is_not_returned_when_a_later_step_fails() {
    let (_sidegate, client, _backend) =
        over(&format!("{TWO}\nconnections = {{ per_client = 1 }}")).await;
    let _open = client.open("/chat").await;
    expect_refused(&client, "/chat", "connections").await;
    expect_refused(&client, "/chat", "rate").await;
}

/// Asserts that a place is free again after a tunnel, the only one there may be, has ended as
/// `ends` makes it.
async fn check_given_back(
    ends: impl AsyncFnOnce(&Sidegate, crate::harness::wire::Wire, crate::harness::wire::Wire),
) {
    let server = backend::manual().run().await;
    let limits =
        "connections = { per_client = 1, total = 1 }\nmessage = { max = '1KiB' }\nidle = '5s'";
    let sidegate = sidegate::new()
        .route("/chat", &server)
        .limits(limits)
        .timeouts("grace = '200ms'\nwrite_stall = '300ms'")
        .run()
        .await;
    let client = client::new(&sidegate);
    let (at_client, at_backend) = crate::tunnel::ends(&client, &server, "").await;
    expect_refused(&client, "/chat", "connections").await;
    ends(&sidegate, at_client, at_backend).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    crate::tunnel::ends(&client, &server, "").await;
}

#[tokio::test]
async fn count_is_released_on_every_kind_of_end() {
    check_given_back(async |_, client, backend| drop((client, backend))).await;
    check_given_back(async |_, client, _backend| client.reset()).await;
    check_given_back(async |_, _client, backend| backend.reset()).await;
    check_given_back(async |_, mut client, _backend| client.finish().await).await;
    check_given_back(async |_, _client, mut backend| backend.finish().await).await;
    check_given_back(async |_, mut client, _backend| {
        client.send_frame(Frame::close(1000, "")).await;
    })
    .await;
    check_given_back(async |_, _client, mut backend| {
        backend.send_frame(Frame::close(1000, "")).await;
    })
    .await;
    check_given_back(async |_, mut client, _backend| client.send("no frame").await).await;
    check_given_back(async |_, mut client, _backend| {
        client.send_frame(Frame::binary([0; 1025])).await;
    })
    .await;
    check_given_back(async |_, _client, mut backend| {
        backend.send(&Frame::binary([0; 99]).encode(false)[..50]).await;
    })
    .await;
    check_given_back(async |sidegate, client, _backend| {
        sidegate.policy().limits("idle = '50ms'").write().await;
        sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
        sidegate.policy().limits("idle = '5s'").write().await;
        drop(client);
    })
    .await;
    check_given_back(async |sidegate, client, _backend| {
        sidegate.policy().allow("127.0.0.9").write().await;
        sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
        sidegate.policy().allow("any").write().await;
        drop(client);
    })
    .await;
}

#[tokio::test]
async fn count_is_released_when_an_attempt_opens_no_tunnel() {
    let server = backend::manual().run().await;
    let sidegate =
        sidegate::new().route("/chat", &server).limits("connections = { total = 1 }").run().await;
    let client = client::new(&sidegate);
    for answer in ["HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "nonsense\r\n\r\n", ""] {
        let mut wire = client.connect().await;
        wire.send(client.attempt_head("/chat", "")).await;
        let mut at_backend = server.accepted().await;
        at_backend.head().await;
        at_backend.send(answer).await;
        drop(at_backend);
        wire.answer().await;
        wire.expect_end().await;
    }
    let mut leaves = client.connect().await;
    leaves.send(client.attempt_head("/chat", "")).await;
    let mut at_backend = server.accepted().await;
    at_backend.head().await;
    leaves.reset();
    at_backend.expect_end().await;
    crate::tunnel::ends(&client, &server, "").await;
}

// C-RL-07
#[tokio::test]
async fn unchanged_rate_keeps_its_used_tokens_over_a_reload() {
    let (sidegate, client, _backend) = over(TWO).await;
    for _ in 0..2 {
        expect_granted(&client, "/chat").await;
    }
    sidegate.policy().deny("192.0.2.1").limits("idle = '1h'").write().await;
    expect_refused(&client, "/chat", "rate").await;
    // The same rate, written in another way.
    sidegate
        .policy()
        .limits("upgrades = { burst = 2, rate = '6/m' }\nconnections = { total = 100 }")
        .write()
        .await;
    expect_refused(&client, "/chat", "rate").await;
}

// C-RL-07
#[tokio::test]
async fn a_changed_rate_holds_at_once() {
    let (sidegate, client, _backend) = over(TWO).await;
    for _ in 0..2 {
        expect_granted(&client, "/chat").await;
    }
    expect_refused(&client, "/chat", "rate").await;
    sidegate.policy().limits("upgrades = { rate = '6/m', burst = 3 }").write().await;
    for _ in 0..3 {
        expect_granted(&client, "/chat").await;
    }
    expect_refused(&client, "/chat", "rate").await;
}

#[tokio::test]
async fn a_lowered_count_binds_new_handshakes_alone() {
    let (sidegate, client, _backend) = over("connections = { per_client = 3, total = 10 }").await;
    let mut open = vec![client.open("/chat").await, client.open("/chat").await];
    sidegate.policy().limits("connections = { per_client = 1, total = 10 }").write().await;
    for tunnel in &mut open {
        tunnel.expect_echo("still here").await;
    }
    expect_refused(&client, "/chat", "connections").await;
    sidegate.policy().limits("connections = { per_client = 3, total = 2 }").write().await;
    expect_refused(&client.clone().from("127.0.0.2"), "/chat", "capacity").await;
    sidegate.policy().limits("connections = { per_client = 3, total = 3 }").write().await;
    expect_granted(&client, "/chat").await;
    open[0].expect_echo("and still").await;
}

#[tokio::test]
async fn tunnels_opened_before_a_limit_count_under_it() {
    let (sidegate, client, _backend) = over("").await;
    let _open = client.open("/chat").await;
    sidegate.policy().limits("connections = { per_client = 1 }").write().await;
    expect_refused(&client, "/chat", "connections").await;
}

#[tokio::test]
async fn routes_of_one_policy_share_its_budgets() {
    let backend = backend::echo().run().await;
    let builder = sidegate::new().route("/one", &backend).route("/two", &backend);
    let builder = builder.route("/other", &backend).under("other", |page| page.limits(TWO));
    let sidegate =
        builder.limits(&format!("{TWO}\nconnections = {{ per_client = 1 }}")).run().await;
    let client = client::new(&sidegate);
    let open = client.open("/one").await;
    expect_refused(&client, "/two", "connections").await;
    expect_refused(&client, "/two", "rate").await;
    expect_refused(&client, "/one", "rate").await;
    for _ in 0..2 {
        expect_granted(&client, "/other").await;
    }
    expect_refused(&client, "/other", "rate").await;
    drop(open);
}

#[tokio::test]
async fn budgets_stay_when_a_reload_is_rejected() {
    let (sidegate, client, _backend) = over(TWO).await;
    expect_granted(&client, "/chat").await;
    let good = fs::read_to_string(sidegate.folder().join("policies/default.toml")).unwrap();
    let other = good.replace("burst = 2", "burst = 0");
    assert_ne!(good, other);
    sidegate.write_rejected("policies/default.toml", &other).await;
    expect_granted(&client, "/chat").await;
    expect_refused(&client, "/chat", "rate").await;
    sidegate.put("policies/default.toml", good);
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }));
    expect_refused(&client, "/chat", "rate").await;
}

#[tokio::test]
async fn policy_begins_anew_when_it_was_removed_and_comes_back() {
    let backend = backend::echo().run().await;
    let builder = sidegate::new().route("/one", &backend);
    let builder = builder.route("/two", &backend).under("other", |page| page.limits(TWO));
    let sidegate = builder.run().await;
    let client = client::new(&sidegate);
    for _ in 0..2 {
        expect_granted(&client, "/two").await;
    }
    expect_refused(&client, "/two", "rate").await;
    let read = |path: &str| fs::read_to_string(sidegate.folder().join(path)).unwrap();
    let (config, other) = (read("sidegate.toml"), read("policies/other.toml"));
    let without = config.replace("\"other\"", "\"default\"");
    assert_ne!(without, config);
    sidegate.write("sidegate.toml", &without).await;
    expect_granted(&client, "/two").await;
    fs::remove_file(sidegate.folder().join("policies/other.toml")).unwrap();
    sidegate.reload().await;
    sidegate.put("policies/other.toml", other);
    sidegate.reload().await;
    sidegate.write("sidegate.toml", &config).await;
    for _ in 0..2 {
        expect_granted(&client, "/two").await;
    }
    expect_refused(&client, "/two", "rate").await;
}

#[tokio::test]
async fn a_refusal_by_the_rules_costs_no_token() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .origins(&["https://app.example"])
        .limits(TWO)
        .run()
        .await;
    let client = client::new(&sidegate);
    let foreign = client.clone().origin("https://evil.example");
    for _ in 0..5 {
        foreign.expect_refused(foreign.attempt_head("/chat", ""), 403, "origin").await;
    }
    let home = client.origin("https://app.example");
    for _ in 0..2 {
        expect_granted(&home, "/chat").await;
    }
    expect_refused(&home, "/chat", "rate").await;
}

#[tokio::test]
async fn concurrent_attempts_fill_the_count_exactly() {
    let (sidegate, client, backend) = over("connections = { total = 10 }").await;
    let attempts = (0..40).map(|_| async {
        let mut wire = client.connect().await;
        wire.send(client.attempt_head("/chat", "")).await;
        (wire.answer().await.status(), wire)
    });
    let answers = futures_util::future::join_all(attempts).await;
    let count = |status: u16| answers.iter().filter(|(got, _)| *got == status).count();
    assert_eq!((count(101), count(503)), (10, 30));
    sidegate.expect_metric("sidegate_tunnels_open", [], 10).await;
    assert_eq!(backend.connections(), 10, "who is refused costs the backend nothing");
}
