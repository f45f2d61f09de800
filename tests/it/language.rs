//! Other rules of a policy: limits for some networks, denials of the baseline, and entries that
//! lapse.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client, Tunnel};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;

const BASELINE: &str = "policies/baseline.toml";

/// Denies 127.0.0.66, in its second line.
const DENIES: &str =
    "schema = 1\nclient.deny = [\"127.0.0.64/26 ticket=SEC-1\", \"!127.0.0.65\"]\n";

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/chat", backend)
}

/// A sidegate whose policy has these limits, and these for some.
async fn limiting(limits: &str, exceptions: &str) -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).limits(limits).policy(|page| page.toml(exceptions)).run().await;
    (sidegate, backend)
}

fn at(sidegate: &Sidegate, last: u8) -> Client {
    client::new(sidegate).from(&format!("127.0.0.{last}"))
}

/// How many tunnels a client can hold, and the word of the refusal of one more.
async fn most(client: &Client) -> (usize, String) {
    let mut open = Vec::new();
    loop {
        let mut wire = client.connect().await;
        wire.send(client.attempt_head("/chat", "")).await;
        let answer = wire.answer().await;
        if answer.status() != 101 {
            let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
            return (open.len(), problem["reason"].as_str().unwrap().to_owned());
        }
        open.push(wire);
    }
}

/// Asserts that the tunnel ends because `text` is too long.
async fn expect_too_big(tunnel: &mut Tunnel, text: &str) {
    tunnel.send_text(text).await;
    tunnel.expect_close_with(1009, "too_big").await;
}

#[tokio::test]
async fn exception_has_its_own_rate_and_counts() {
    let limits = "upgrades = { rate = '1/m', burst = 1 }\nconnections = { per_client = 1 }";
    let office = "[lists]\noffice = ['127.0.0.9']\n[[limits.for]]\nclient = ['office']\n\
                  upgrades = { rate = '1/m', burst = 4 }\nconnections = { per_client = 3 }";
    let (sidegate, _backend) = limiting(limits, office).await;
    assert_eq!(most(&at(&sidegate, 9)).await, (3, "connections".into()));
    at(&sidegate, 9).attempt("/chat").await.expect_refused(429, "rate");
    assert_eq!(most(&at(&sidegate, 1)).await, (1, "rate".into()));
    sidegate
        .expect_metric("sidegate_limiter_keys", [("policy", "default"), ("limit", "upgrades")], 2)
        .await;
}

#[tokio::test]
async fn longest_exception_wins_and_others_get_the_common_limits() {
    let exceptions = "[[limits.for]]\nclient = ['127.0.0.0/28', '!127.0.0.5']\nconnections = { per_client = 2 }\n\
                      [[limits.for]]\nclient = ['127.0.0.8/29']\nconnections = { per_client = 3 }";
    let (sidegate, _backend) = limiting("connections = { per_client = 1 }", exceptions).await;
    for (last, tunnels) in [(1, 2), (5, 1), (9, 3), (16, 1)] {
        assert_eq!(
            most(&at(&sidegate, last)).await,
            (tunnels, "connections".into()),
            "127.0.0.{last}"
        );
    }
}

#[tokio::test]
async fn exceptions_with_inline_networks_are_separate_series() {
    let exceptions = "[[limits.for]]\nclient = ['127.0.0.1']\n[[limits.for]]\nclient = ['127.0.0.2', '127.0.0.3']";
    let (sidegate, _backend) = limiting("", exceptions).await;
    for (list, entries) in [("(limits.for)", 1), ("(limits.for 2)", 2)] {
        sidegate.expect_metric("sidegate_list_entries", [("list", list)], entries).await;
    }
}

#[tokio::test]
async fn open_tunnel_gets_new_limits_of_its_client_at_a_reload() {
    let roomy = "[[limits.for]]\nclient = ['127.0.0.9']\nmessage = { max = '1KiB' }";
    let (sidegate, _backend) = limiting("message = { max = '64B' }", roomy).await;
    let long = "x".repeat(100);
    expect_too_big(&mut at(&sidegate, 1).open("/chat").await, &long).await;
    let (mut office, mut idle) =
        (at(&sidegate, 9).open("/chat").await, at(&sidegate, 10).open("/chat").await);
    office.expect_echo(&long).await;
    let text = "schema = 1\nclient.allow = ['any']\n[[limits.for]]\nclient = ['127.0.0.10']\nidle = '50ms'\n";
    sidegate
        .write(
            "policies/default.toml",
            &format!("{text}[[limits.for]]\nclient = ['127.0.0.9']\nmessage = {{ max = '80B' }}"),
        )
        .await;
    idle.expect_close_with(1001, "idle").await;
    office.expect_echo("short").await;
    expect_too_big(&mut office, &long).await;
}

#[tokio::test]
async fn lowered_count_binds_new_tunnels_only() {
    let (sidegate, _backend) =
        limiting("", "[[limits.for]]\nclient = ['127.0.0.9']\nconnections = { per_client = 2 }")
            .await;
    let client = at(&sidegate, 9);
    let (mut one, mut other) = (client.open("/chat").await, client.open("/chat").await);
    sidegate.policy().limits("connections = { per_client = 1, total = 1 }\nfor = []").write().await;
    one.expect_echo("stays").await;
    other.expect_echo("stays").await;
    client.attempt("/chat").await.expect_refused(429, "connections");
    at(&sidegate, 1).attempt("/chat").await.expect_refused(503, "capacity");
}

/// Asserts that the connection of this client is closed before it has said anything.
async fn expect_closed(client: &Client) {
    let mut wire: Wire = client.connect_below_tls().await;
    wire.expect_end().await;
}

#[tokio::test]
async fn client_denied_by_the_baseline_is_closed_before_tls() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).file(BASELINE, DENIES).run().await;
    expect_closed(&at(&sidegate, 66)).await;
    at(&sidegate, 65).open("/chat").await.expect_echo("carved out").await;
    sidegate
        .expect_metric(
            "sidegate_connections_closed_total",
            [("listener", "public"), ("reason", "network")],
            1,
        )
        .await;
    sidegate
        .expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "network")], 1)
        .await;
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("listener", "public")], 1).await;
    sidegate.expect_metric("sidegate_list_entries", [("policy", "baseline")], 2).await;
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn baseline_denial_is_logged_with_rule_and_entry() {
    let backend = backend::echo().run().await;
    let folder = new(&backend).clear().file(BASELINE, DENIES).write();
    let mut process = process::new(folder.path()).run().await;
    expect_closed(&process.client().from("127.0.0.66")).await;
    let line = process.logged("refused").await;
    let fields = ["route", "client", "reason", "rule", "list", "entry", "entry_at", "ticket"]
        .map(|field| line[field].as_str().unwrap());
    let at = "policies/baseline.toml:2";
    assert_eq!(fields, ["-", "127.0.0.66", "network", at, "(deny)", "127.0.0.64/26", at, "SEC-1"]);
}

#[tokio::test]
async fn new_baseline_revokes_and_a_removed_one_admits_again() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let (mut leaving, mut staying) =
        (at(&sidegate, 66).open("/chat").await, at(&sidegate, 65).open("/chat").await);
    sidegate.write(BASELINE, DENIES).await;
    leaving.expect_close_with(1008, "network").await;
    staying.expect_echo("stays").await;
    sidegate
        .expect_metric("sidegate_revoked_total", [("route", "chat"), ("refusal", "network")], 1)
        .await;
    expect_closed(&at(&sidegate, 66)).await;
    std::fs::remove_file(sidegate.folder().join(BASELINE)).unwrap();
    sidegate.expect_metric("sidegate_generation", [], 3).await;
    at(&sidegate, 66).open("/chat").await.expect_echo("back").await;
}

/// A whole second that is at least one second ahead, and less than two.
fn soon() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + 2).unwrap()
}

#[tokio::test]
async fn lapsed_entry_revokes_its_tunnel_without_a_reload() {
    let backend = backend::echo().run().await;
    let expires = soon();
    let builder = new(&backend)
        .toml("reload.poll = '30s'")
        .allow("127.0.0.1")
        .allow(&format!("127.0.0.2 expires={expires}"));
    let sidegate = builder.run().await;
    let (mut leaving, mut staying) =
        (at(&sidegate, 2).open("/chat").await, at(&sidegate, 1).open("/chat").await);
    sidegate.expect_metric("sidegate_entries_lapsing_30d", [], 1).await;
    leaving.expect_close_with(1008, "network").await;
    let late = Timestamp::now().duration_since(expires);
    assert!(
        late >= SignedDuration::ZERO && late < SignedDuration::from_secs(1),
        "closed {late:?} after it lapsed"
    );
    staying.expect_echo("stays").await;
    at(&sidegate, 2).attempt("/chat").await.expect_refused(403, "network");
    let counts = [
        sidegate.metric("sidegate_reloads_total", []).await,
        sidegate.metric("sidegate_entries_lapsing_30d", []).await,
    ];
    assert_eq!((counts, sidegate.generation().await), ([0.0, 0.0], 1));
}

#[tokio::test]
async fn an_entry_of_the_baseline_and_a_carve_out_lapse_as_well() {
    let backend = backend::echo().run().await;
    let denies = format!(
        "schema = 1\n[lists]\nbanned = [\"127.0.0.0/24\", \"!127.0.0.2 expires={0}\"]\nlate = [\"127.1.0.1 expires={0}\"]\n",
        soon()
    );
    let baseline = format!("{denies}[client]\ndeny = [\"banned\", \"late\"]\n");
    let sidegate = new(&backend).file(BASELINE, &baseline).run().await;
    let mut carved = at(&sidegate, 2).open("/chat").await;
    let banned = client::new(&sidegate).from("127.1.0.1");
    expect_closed(&banned).await;
    carved.expect_close_with(1008, "network").await;
    expect_closed(&at(&sidegate, 2)).await;
    banned.open("/chat").await.expect_echo("its denial has lapsed").await;
}

#[tokio::test]
async fn lapsed_exception_gets_the_common_limits() {
    let exceptions =
        format!("[[limits.for]]\nclient = ['127.0.0.9 expires={}']\nidle = '20s'", soon());
    let (sidegate, _backend) = limiting("idle = '2500ms'", &exceptions).await;
    let began = std::time::Instant::now();
    let mut tunnel = at(&sidegate, 9).open("/chat").await;
    tunnel.expect_close_with(1001, "idle").await;
    assert!(began.elapsed() < Duration::from_secs(8));
}
