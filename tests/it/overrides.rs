//! `sidegate reload --override TEST`: a block that a policy's test contradicts.

use std::fs;

use ::sidegate::admin::wire::{ReloadAnswer, ReloadRequest, WarningKind};

use crate::cli::{check, done};
use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::lossy;

const TEST: &str = "
[[test]]
name = 'the office'
client = '127.0.0.9'
url = 'wss://any.example.com/chat'
expect = 'allow'
[[test]]
name = 'a guest'
client = '127.0.0.8'
url = 'wss://any.example.com/chat'
expect = 'allow'
";
const BASELINE: &str = "policies/baseline.toml";

fn tested(backend: &Backend) -> Builder {
    sidegate::new()
        .route("/chat", backend)
        .toml("process.state = 'state'\nreload.watch = 'auto'")
        .policy(|page| page.toml(TEST))
}

fn blocks(clients: &str) -> String {
    format!("schema = 1\n[client]\ndeny = [{clients}]\n")
}

async fn order(sidegate: &Sidegate, overrides: &[&str]) -> ReloadAnswer {
    let overrides = overrides.iter().map(|test| (*test).to_owned()).collect();
    sidegate.ask_reload(&ReloadRequest { overrides, ..ReloadRequest::default() }).await
}

async fn overridden(sidegate: &Sidegate) -> Vec<String> {
    let all = sidegate.status().await.overrides;
    all.into_iter().map(|one| format!("{}: {}", one.file, one.test)).collect()
}

#[tokio::test]
async fn block_against_a_test_is_forced_by_its_name_alone() {
    let backend = backend::echo().run().await;
    let sidegate = tested(&backend).run().await;
    let mut tunnel = client::new(&sidegate).from("127.0.0.9").open("/chat").await;
    let text = sidegate.write_rejected(BASELINE, &blocks("'127.0.0.8', '127.0.0.9'")).await;
    assert!(text.contains("the office") && text.contains("a guest"), "{text}");
    let ReloadAnswer::Rejected { diagnostics } = order(&sidegate, &["the offices"]).await else {
        panic!("no test has that name")
    };
    let remedy = diagnostics[0].remedy.as_deref().unwrap();
    assert_eq!(remedy, "the tests are: a guest, the office");
    let ReloadAnswer::Rejected { diagnostics } = order(&sidegate, &["the office"]).await else {
        panic!("the other test fails as well")
    };
    assert!(diagnostics[0].message.contains("a guest"), "{diagnostics:?}");
    let answer = order(&sidegate, &["the office", "a guest"]).await;
    let ReloadAnswer::Published { overridden: said, diagnostics, not_kept: None, .. } = answer
    else {
        panic!("both are named")
    };
    assert_eq!(said.iter().map(|one| &*one.test).collect::<Vec<_>>(), ["the office", "a guest"]);
    assert!(diagnostics.iter().all(|one| one.message.starts_with("overridden: ")));
    tunnel.expect_close_with(1008, "network").await;
    let warnings = sidegate.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.word == WarningKind::Overridden));
    assert!(sidegate.readyz().await.1.contains("overridden"));
}

#[tokio::test]
async fn override_holds_for_saves_until_its_test_passes() {
    let backend = backend::echo().run().await;
    let sidegate = tested(&backend).run().await;
    sidegate.write_rejected(BASELINE, &blocks("'127.0.0.9'")).await;
    assert!(matches!(order(&sidegate, &["the office"]).await, ReloadAnswer::Published { .. }));
    // The watcher neither rejects everything nor forgets.
    sidegate.write(BASELINE, &blocks("'127.0.0.9', '192.0.2.1'")).await;
    assert_eq!(overridden(&sidegate).await, ["policies/default.toml: the office"]);
    let text = sidegate.write_rejected(BASELINE, &blocks("'127.0.0.9', '127.0.0.8'")).await;
    assert!(text.contains("a guest"), "{text}");
    sidegate.write(BASELINE, &blocks("'192.0.2.1'")).await;
    assert_eq!(overridden(&sidegate).await, [""; 0]);
    let text = sidegate.write_rejected(BASELINE, &blocks("'127.0.0.9'")).await;
    assert!(text.contains("the office"), "it has ended: {text}");
}

#[tokio::test]
async fn restart_keeps_an_override_and_starts() {
    let backend = backend::echo().run().await;
    let folder = tested(&backend).clear().write();
    let first = process::new(folder.path()).run().await;
    fs::write(folder.path().join(BASELINE), blocks("'127.0.0.9'")).unwrap();
    let said = ["published: generation 2"];
    let arguments = ["reload", "--config", "sidegate.toml", "--wait", "--override", "the office"];
    check(&arguments, folder.path(), 0, &said).await;
    drop(first);
    let second = process::new(folder.path()).run().await;
    assert_eq!(second.client().from("127.0.0.7").attempt("/chat").await.status(), 101);
    let url = ["--client", "127.0.0.9", "--url", "ws://any.example.com/chat"];
    let explain = [&["explain", "--live", "--config", "sidegate.toml"], &url[..]].concat();
    let refused = done(&explain, folder.path()).await;
    assert!(lossy(&refused.stdout).contains("REFUSE 403 network"), "the block holds");
    let warning = "the test \"the office\" of policies/default.toml fails, and is overridden";
    check(&["status", "--config", "sidegate.toml"], folder.path(), 0, &[warning]).await;
    fs::remove_file(folder.path().join(BASELINE)).unwrap();
    check(&arguments[..4], folder.path(), 0, &["generation"]).await;
    assert!(!folder.path().join("state/published").exists());
}
