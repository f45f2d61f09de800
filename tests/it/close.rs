//! `sidegate tunnels` and `sidegate close`: filters, order, and how clients are closed.

use ::sidegate::admin::wire::{AdminRequest, CloseRequest, EntryKind, TunnelsRequest};
use serde_json::Value;

use crate::cli::done;
use crate::harness::backend::Backend;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::lossy;
use crate::harness::{backend, client, sidegate, within};

async fn agent() -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    let at_once = "reload.revoke_spread = '0s'";
    let sidegate = sidegate::new().clear().toml(at_once).route("/chat", &backend).run().await;
    (sidegate, backend)
}

/// Runs a command for this agent, which ends with this code. Returns both of its outputs.
async fn command(sidegate: &Sidegate, arguments: &[&str], code: i32) -> String {
    let all = [arguments, &["--config", "sidegate.toml"]].concat();
    let output = done(&all, sidegate.folder()).await;
    let text = lossy(&output.stdout).to_string() + &lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

async fn close(sidegate: &Sidegate, query: &str) -> (u64, u64) {
    let answer = sidegate.answer_to(&CloseRequest::parse(query).unwrap()).await;
    (answer.tunnels, answer.exchanges)
}

#[tokio::test]
async fn close_by_client_ends_that_client_alone() {
    let (sidegate, _backend) = agent().await;
    let mut mine = client::new(&sidegate).from("127.0.0.7").open("/chat").await;
    let mut other = client::new(&sidegate).from("127.0.0.8").open("/chat").await;
    mine.expect_echo("a").await;
    other.expect_echo("b").await;
    let asked = ["close", "--client", "127.0.0.7/32", "--code", "4001", "--reason", "schluß"];
    let said = command(&sidegate, &[&asked[..], &["--dry-run"]].concat(), 0).await;
    assert!(said.starts_with("would close 1 tunnel and 0 exchanges, with 4001"), "{said}");
    mine.expect_echo("still open").await;
    let said = command(&sidegate, &asked, 0).await;
    assert!(said.starts_with("closing 1 tunnel and 0 exchanges"), "{said}");
    mine.expect_close_with(4001, "schluß").await;
    other.expect_echo("c").await;
    let reason = [("reason", "operator")];
    sidegate.expect_metric("sidegate_tunnels_closed_total", reason, 1).await;
}

#[tokio::test]
async fn close_needs_a_filter_or_all() {
    let (sidegate, _backend) = agent().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo("a").await;
    let said = command(&sidegate, &["close"], 2).await;
    assert!(said.contains("give a filter, or --all"), "{said}");
    command(&sidegate, &["close", "--bytes", "0B"], 2).await;
    command(&sidegate, &["close", "--older", "0s"], 2).await;
    command(&sidegate, &["close", "--all", "--route", "chat"], 2).await;
    command(&sidegate, &["close", "--all", "--code", "1006"], 2).await;
    command(&sidegate, &["close", "--all", "--reason", &"x".repeat(124)], 2).await;
    let said = command(&sidegate, &["close", "--route", "nowhere"], 1).await;
    assert!(said.contains("there is no route `nowhere`"), "{said}");
    let answer = sidegate.reply("POST /v1/close").await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    tunnel.expect_echo("still open").await;
    assert_eq!(close(&sidegate, "all=true").await, (1, 0));
    // The client has not answered the Close, so that the tunnel is open but counts no more.
    let ordered = async { while close(&sidegate, "all=true&dry_run=true").await != (0, 0) {} };
    within("the order", ordered).await;
    assert_eq!(sidegate.answer_to(&TunnelsRequest::default()).await.matching, 1);
    tunnel.expect_close_with(1001, "operator").await;
}

#[tokio::test]
async fn filters_select_by_policy_age_bytes_and_kind() {
    let (sidegate, _backend) = agent().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    tunnel.expect_echo(&"x".repeat(500)).await;
    for (query, matching) in [
        ("policy=default", 1),
        ("older=3600", 0),
        ("older=0&route=chat", 1),
        ("bytes=1000000", 0),
        ("bytes=500", 1),
        ("kind=exchange", 0),
        ("kind=tunnel", 1),
        ("identity=dns:a.example.com", 0),
        ("route=chat&client=127.0.0.0/8", 1),
        ("route=chat&client=10.0.0.0/8", 0),
    ] {
        let page = sidegate.answer_to(&TunnelsRequest::parse(query).unwrap()).await;
        assert_eq!(page.matching, matching, "{query}");
        assert_eq!(close(&sidegate, &format!("dry_run=true&{query}")).await.0, matching);
    }
    let answer = sidegate.reply("GET /v1/tunnels?policy=nothing").await;
    assert!(answer.text().contains("there is no policy `nothing`"), "{}", answer.text());
}

#[tokio::test]
async fn tunnels_are_listed_page_by_page_and_by_bytes() {
    let (sidegate, _backend) = agent().await;
    let mut open = Vec::new();
    for length in [10, 3000, 200] {
        let mut tunnel = client::new(&sidegate).open("/chat").await;
        tunnel.expect_echo(&"x".repeat(length)).await;
        open.push(tunnel);
    }
    let said = command(&sidegate, &["tunnels", "--limit", "2"], 0).await;
    assert!(said.contains("2 of 3; the next page: --after 2"), "{said}");
    let said = command(&sidegate, &["tunnels", "--limit", "2", "--after", "2"], 0).await;
    assert!(said.contains("1 of 3\n") && said.contains("127.0.0.1"), "{said}");
    let json = command(&sidegate, &["tunnels", "--sort", "bytes", "--json"], 0).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    let ids: Vec<_> = (0..3).map(|at| json["tunnels"][at]["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [2, 3, 1]);
}

#[tokio::test]
async fn exchange_is_listed_and_closed() {
    let backend = backend::silent().run().await;
    let sidegate = sidegate::new()
        .clear()
        .toml("reload.revoke_spread = '0s'")
        .route("/chat", &backend)
        .on_route("http = 'forward'")
        .run()
        .await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.request("GET /chat HTTP/1.1", "")).await;
    sidegate.expect_metric("sidegate_exchanges_open", [], 1).await;
    let page = sidegate.answer_to(&TunnelsRequest::default()).await;
    assert_eq!((page.matching, &page.tunnels[0].kind), (1, &EntryKind::Exchange));
    assert_eq!(close(&sidegate, "kind=exchange").await, (0, 1));
    sidegate.expect_metric("sidegate_exchanges_open", [], 0).await;
    let reason = [("reason", "operator")];
    sidegate.expect_metric("sidegate_exchanges_closed_total", reason, 1).await;
}
