//! `GET /v1/overview`: the rates, tables and counts of an incident.

use ::sidegate::admin::wire::{BanRequest, FilesState, OverviewAnswer, OverviewRequest, StageWord};

use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client, Tunnel};
use crate::harness::sidegate::{self, Builder, Sidegate};

fn new(backend: &Backend) -> Builder {
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    let sidegate = sidegate::new().route("/chat", backend).on_listener(believed).clear();
    sidegate.allow("192.0.2.0/24").allow("2001:db8::/32").toml("reload.revoke_spread = '0s'")
}

fn named(sidegate: &Sidegate, client: &str) -> Client {
    client::new(sidegate).header("X-Forwarded-For", client)
}

/// Opens a tunnel of each client, and waits until the table has them: a client gets its 101 first.
async fn open<const N: usize>(sidegate: &Sidegate, clients: [&str; N]) -> Vec<Tunnel> {
    let mut open = Vec::new();
    for client in clients {
        open.push(named(sidegate, client).open("/chat").await);
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], N as u32).await;
    open
}

async fn overview(sidegate: &Sidegate, short: bool) -> OverviewAnswer {
    sidegate.answer_to(&OverviewRequest { short, ..OverviewRequest::default() }).await
}

#[tokio::test]
async fn overview_counts_tunnels_clients_and_refusals() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let clients = ["192.0.2.7", "192.0.2.7", "192.0.2.8", "2001:db8:1:2::3"];
    let mut open = open(&sidegate, clients).await;
    for tunnel in &mut open {
        tunnel.expect_echo("hello").await;
    }
    open[2].expect_echo(&"long".repeat(500)).await;
    named(&sidegate, "203.0.113.9").attempt("/chat").await.expect_refused(403, "network");
    named(&sidegate, "203.0.113.8").attempt("/other").await.expect_refused(404, "route");
    sidegate.agent().ready();
    let full = overview(&sidegate, false).await;
    assert_eq!(
        (full.stage, full.files, full.generation),
        (StageWord::Serving, FilesState::Current, 1)
    );
    assert_eq!((full.tunnels, full.client_count, full.routes[0].tunnels), (4, 3, 4));
    let tunnels: Vec<_> = full.most_tunnels.iter().map(|one| (&*one.client, one.tunnels)).collect();
    assert_eq!(tunnels, [("192.0.2.7", 2), ("192.0.2.8", 1), ("2001:db8:1:2::/64", 1)]);
    assert_eq!(full.most_bytes[0].client, "192.0.2.8");
    assert!(full.most_bytes[0].bytes_from_backend > 2000);
    let mut reasons: Vec<_> = full.reasons.iter().map(|one| (&*one.reason, one.recently)).collect();
    reasons.sort_unstable();
    assert_eq!((reasons, full.refused_recently), (vec![("network", 1), ("route", 1)], 2));
    let refused = full.refused_clients.unwrap();
    assert_eq!((refused.refused, refused.client_count), (2, 2));
    let row = refused.clients.iter().find(|row| row.client == "203.0.113.9").unwrap();
    assert_eq!((&*row.reason, row.policy.as_deref(), row.refused), ("network", Some("default"), 1));
    assert!(row.rule_at.as_deref().unwrap().starts_with("policies/default.toml:"), "{row:?}");
    assert!(row.request_id.is_some() && full.certificates.is_empty() && full.backends[0].up);
}

#[tokio::test]
async fn short_overview_names_no_client() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let _open = open(&sidegate, ["192.0.2.77", "192.0.2.78", "2001:db8:1:2:77::78"]).await;
    named(&sidegate, "203.0.113.77").attempt("/chat").await.expect_refused(403, "network");
    let why = "probes by 198.51.100.77".to_owned();
    let ban = BanRequest { client: Some("198.51.100.77".into()), why, ..BanRequest::default() };
    sidegate.answer_to(&ban).await;
    let text = "schema = 1\n[client]\nallow = ['192.0.2.77/33']\n";
    sidegate.write_rejected("policies/default.toml", text).await;
    let short = overview(&sidegate, true).await;
    let clients: Vec<_> =
        short.most_tunnels.iter().map(|one| (&*one.client, one.tunnels)).collect();
    assert_eq!(clients, [("192.0.2.0/24", 2), ("2001:db8:1::/48", 1)]);
    assert_eq!(short.refused_clients.as_ref().unwrap().clients[0].client, "203.0.113.0/24");
    assert_eq!((&*short.bans[0].target, short.ban_count), ("within 198.51.100.0/24", 1));
    assert_eq!((short.files.clone(), short.error_count > 0), (FilesState::Rejected, true));
    let all = format!("{short:?}");
    // With the dot of the network: `.77` alone may be of a second.
    let whole = ["192.0.2.7", "198.51.100.7", "203.0.113.7", "2001:db8:1:2"];
    assert!(!whole.iter().any(|part| all.contains(part)), "{all}");
}

#[tokio::test]
async fn overview_names_the_clients_that_a_candidate_would_hit() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let _open = open(&sidegate, ["192.0.2.7", "2001:db8::1"]).await;
    let candidate = "schema = 1\n[client]\nallow = ['2001:db8::/32']\n";
    sidegate.write("policies/default.shadow.toml", candidate).await;
    let found = overview(&sidegate, false).await.candidates;
    assert_eq!((&*found[0].policy, found[0].would_revoke), ("default", Some(1)));
    assert_eq!((&*found[0].clients[0].client, found[0].clients[0].tunnels), ("192.0.2.7", 1));
    named(&sidegate, "192.0.2.9").open("/chat").await.expect_echo("not enforced").await;
    let found = overview(&sidegate, false).await.candidates;
    let hit = found[0].clients.iter().find(|hit| hit.client == "192.0.2.9").unwrap();
    assert_eq!((hit.tunnels, hit.requests, found[0].client_count), (0, 1, 2));
    std::fs::remove_file(sidegate.folder().join("policies/default.shadow.toml")).unwrap();
    sidegate.reload().await;
    assert!(overview(&sidegate, false).await.candidates.is_empty());
    sidegate.write("policies/default.shadow.toml", candidate).await;
    let again = overview(&sidegate, false).await.candidates;
    assert_eq!(again[0].clients.iter().map(|hit| hit.requests).sum::<u64>(), 0, "a new candidate");
}

#[tokio::test]
async fn overview_tables_have_as_many_rows_as_asked_for() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).run().await;
    let _open = open(&sidegate, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]).await;
    let asked = OverviewRequest { rows: 2, ..OverviewRequest::default() };
    let answer = sidegate.answer_to(&asked).await;
    assert_eq!((answer.most_tunnels.len(), answer.client_count), (2, 4));
    for wrong in ["rows=0", "rows=201", "rows=x", "short=1", "top=3"] {
        let line = format!("GET /v1/overview?{wrong}");
        assert_eq!(sidegate.reply(&line).await.status(), 400, "{wrong}");
    }
}
