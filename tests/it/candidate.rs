//! Candidates: judged and charged beside their policy, counted and logged where the two differ, and
//! never enforced.

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};

const CANDIDATE: &str = "policies/default.shadow.toml";
const WOULD_REVOKE: &str = "sidegate_candidate_would_revoke";

/// A policy that admits every client, with additions.
fn everybody(more: &str) -> String {
    format!("schema = 1\n[client]\nallow = [\"any\"]\n{more}\n")
}

/// A sidegate whose candidate says this.
async fn beside(candidate: &str, build: impl FnOnce(Builder) -> Builder) -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    let sidegate =
        build(sidegate::new().route("/chat", &backend).file(CANDIDATE, candidate)).run().await;
    (sidegate, backend)
}

fn at(sidegate: &Sidegate, last: u8) -> Client {
    client::new(sidegate).from(&format!("127.0.0.{last}"))
}

/// Waits until the candidate would have decided so many times otherwise, for this reason, and never
/// for another.
async fn expect_differs(sidegate: &Sidegate, difference: &str, reason: &str, times: u32) {
    let labels = [("policy", "default"), ("difference", difference), ("reason", reason)];
    sidegate.expect_metric("sidegate_candidate_differences_total", labels, times).await;
    assert_eq!(
        sidegate.metric("sidegate_candidate_differences_total", []).await,
        f64::from(times),
        "nothing else"
    );
}

#[tokio::test]
async fn client_that_a_candidate_would_refuse_is_admitted_and_counted() {
    let (sidegate, _backend) =
        beside(&everybody("deny = [\"127.0.0.2\"]"), |sidegate| sidegate).await;
    at(&sidegate, 2).open("/chat").await.expect_echo("admitted").await;
    at(&sidegate, 1).open("/chat").await.expect_echo("admitted").await;
    expect_differs(&sidegate, "would_refuse", "network", 1).await;
    assert_eq!(sidegate.metric("sidegate_refusals_total", [("route", "chat")]).await, 0.0);
}

#[tokio::test]
async fn client_that_a_candidate_would_admit_is_refused_and_counted() {
    let (sidegate, _backend) =
        beside(&everybody(""), |sidegate| sidegate.origins(&["https://a.example"])).await;
    at(&sidegate, 1).attempt("/chat").await.expect_refused(403, "origin");
    at(&sidegate, 1)
        .origin("https://a.example")
        .open("/chat")
        .await
        .expect_echo("admitted by both")
        .await;
    expect_differs(&sidegate, "would_admit", "origin", 1).await;
}

#[tokio::test]
async fn candidate_rates_have_their_own_budgets() {
    let strict = everybody("[limits]\nupgrades = { rate = '1/m', burst = 1 }");
    let (sidegate, _backend) =
        beside(&strict, |sidegate| sidegate.limits("upgrades = { rate = '1/m', burst = 3 }")).await;
    for _ in 0..3 {
        at(&sidegate, 1).open("/chat").await.expect_echo("within the policy's").await;
    }
    expect_differs(&sidegate, "would_refuse", "rate", 2).await;
    at(&sidegate, 1).attempt("/chat").await.expect_refused(429, "rate");
    at(&sidegate, 2).open("/chat").await.expect_echo("another client").await;
    expect_differs(&sidegate, "would_refuse", "rate", 2).await;
}

#[tokio::test]
async fn higher_rate_of_a_candidate_gives_no_token() {
    let generous = everybody(
        "[limits]\nupgrades = { rate = '1/m', burst = 9 }\nconnections = { per_client = 1 }",
    );
    let (sidegate, _backend) =
        beside(&generous, |sidegate| sidegate.limits("upgrades = { rate = '1/m', burst = 1 }"))
            .await;
    let mut tunnel = at(&sidegate, 1).open("/chat").await;
    tunnel.close(1000, "").await;
    tunnel.expect_close(1000).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    at(&sidegate, 1).attempt("/chat").await.expect_refused(429, "rate");
    expect_differs(&sidegate, "would_admit", "rate", 1).await;
}

#[tokio::test]
async fn candidate_counts_the_tunnels_of_its_policy() {
    let few = everybody("[limits]\nconnections = { per_client = 1 }");
    let (sidegate, _backend) = beside(&few, |sidegate| sidegate).await;
    let _one = at(&sidegate, 1).open("/chat").await;
    let _other = at(&sidegate, 1).open("/chat").await;
    expect_differs(&sidegate, "would_refuse", "connections", 1).await;
}

#[tokio::test]
async fn chosen_subprotocol_is_compared_too() {
    let chooses_v1 = "subprotocols = [\"v1\", \"v2\"]";
    let (sidegate, _backend) =
        beside(&everybody("subprotocols = [\"v2\"]"), |sidegate| sidegate).await;
    at(&sidegate, 1).subprotocols(&["v1", "v2"]).open("/chat").await.expect_echo("chose v1").await;
    at(&sidegate, 1).subprotocols(&["v2", "v1"]).open("/chat").await.expect_echo("chose v2").await;
    expect_differs(&sidegate, "would_refuse", "backend", 1).await;
    let (sidegate, _backend) =
        beside(&everybody(chooses_v1), |sidegate| sidegate.subprotocols(&["v2"])).await;
    at(&sidegate, 1)
        .subprotocols(&["v1", "v2"])
        .attempt("/chat")
        .await
        .expect_refused(502, "backend");
    expect_differs(&sidegate, "would_admit", "backend", 1).await;
}

#[tokio::test]
async fn plain_requests_are_compared_too() {
    let few = everybody("[limits]\nrequests = { rate = '1/m', burst = 1 }");
    let (sidegate, _backend) = beside(&few, |sidegate| sidegate.on_route("http = 'forward'")).await;
    at(&sidegate, 1).get("/chat").await.expect(200);
    at(&sidegate, 1).get("/chat").await.expect(200);
    expect_differs(&sidegate, "would_refuse", "rate", 1).await;
}

#[tokio::test]
async fn refusal_outside_the_policy_is_no_difference() {
    let baseline = "schema = 1\nclient.deny = ['127.0.0.66']\n";
    let (sidegate, _backend) =
        beside(&everybody(""), |sidegate| sidegate.file("policies/baseline.toml", baseline)).await;
    at(&sidegate, 66).connect_below_tls().await.expect_end().await;
    at(&sidegate, 1).attempt("/elsewhere").await.expect_refused(404, "route");
    // A peer that never answers its Close keeps the agent running for a while.
    let (_held, mut wire) =
        (at(&sidegate, 1).open_wire("/chat").await, at(&sidegate, 1).connect().await);
    sidegate.expect_metric("sidegate_connections_open", [("listener", "public")], 2).await;
    sidegate.drain().await;
    while tokio::net::TcpStream::connect(sidegate.address()).await.is_ok() {}
    wire.send(at(&sidegate, 1).attempt_head("/chat", "")).await;
    wire.answer().await.expect_refused(503, "draining");
    assert_eq!(sidegate.metric("sidegate_candidate_differences_total", []).await, 0.0);
}

#[tokio::test]
async fn tunnels_that_a_candidate_would_revoke_are_counted_only() {
    let (sidegate, _backend) =
        beside(&everybody("deny = [\"127.0.0.2/31\"]"), |sidegate| sidegate).await;
    sidegate.expect_metric(WOULD_REVOKE, [("policy", "default")], 0).await;
    assert!(sidegate.metrics().await.contains(WOULD_REVOKE), "there from the start");
    let mut tunnels = Vec::new();
    for last in 1..=3 {
        tunnels.push(at(&sidegate, last).open("/chat").await);
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], 3).await;
    sidegate.reload().await;
    sidegate.expect_metric(WOULD_REVOKE, [("policy", "default")], 2).await;
    sidegate.write(CANDIDATE, &everybody("deny = [\"127.0.0.0/8\"]")).await;
    sidegate.expect_metric(WOULD_REVOKE, [("policy", "default")], 3).await;
    for tunnel in &mut tunnels {
        tunnel.expect_echo("nothing is enforced").await;
    }
    std::fs::remove_file(sidegate.folder().join(CANDIDATE)).unwrap();
    sidegate.expect_metric("sidegate_generation", [], 3).await;
    assert!(
        !sidegate.metrics().await.contains(&format!("{WOULD_REVOKE}{{")),
        "no candidate, no series"
    );
}

#[tokio::test]
async fn difference_is_logged_with_rule_and_entry() {
    let backend = backend::echo().run().await;
    let builder = sidegate::new().clear().route("/chat", &backend).deny("127.0.0.3");
    let folder = builder.file(CANDIDATE, &everybody("deny = [\"127.0.0.2 ticket=SEC-7\"]")).write();
    let mut process = process::new(folder.path()).run().await;
    let mut told = async |last: u8, fields: [&str; 6]| {
        process.client().from(&format!("127.0.0.{last}")).attempt("/chat").await;
        let line = process.logged("candidate differs").await;
        fields.map(|field| line[field].as_str().unwrap_or_default().to_owned())
    };
    let fields = ["policy", "difference", "reason", "rule", "entry", "ticket"];
    let at = "policies/default.shadow.toml:4";
    assert_eq!(
        told(2, fields).await,
        ["default", "would_refuse", "network", at, "127.0.0.2", "SEC-7"]
    );
    let [_, difference, reason, rule, entry, _] = told(3, fields).await;
    assert_eq!([&*difference, &*reason, &*entry], ["would_admit", "network", "127.0.0.3"]);
    assert!(rule.starts_with("policies/default.toml:"), "{rule}");
}
