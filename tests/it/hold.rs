//! `[reload] watch = "hold"`: what is pending, what is never held, and what a restart serves.

use std::fs;
use std::path::Path;

use ::sidegate::admin::wire::{
    DiffAnswer, DiffRequest, FilesState, OverviewRequest, ReloadAnswer, ReloadRequest, WarningKind,
};
use ::sidegate::control::reload::ReloadOutcome;
use serde_json::Value;

use crate::cli::{check, done};
use crate::harness::backend::{self, Backend};
use crate::harness::process::{self, Process};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::lossy;
use crate::harness::{certificate, client, within};

const PENDING: &str = "sidegate_pending_generation";
const BROKEN: &str = "sidegate_pending_rejected";
pub const POLICY: &str = "policies/default.toml";
const HELD: &str = "policies/lists/held.cidr";
pub const BANNED: &str = "policies/lists/banned.cidr";

/// An agent that holds saves, with a live list of clients that are denied.
pub fn holding(backend: &Backend) -> Builder {
    sidegate::new()
        .route("/chat", backend)
        .toml("reload = { watch = 'hold' }\nprocess.state = 'state'")
        .policy(|page| {
            let list = "[lists]\nbanned = { file = 'lists/banned.cidr', live = true }";
            page.toml(list).deny("banned")
        })
        .file(BANNED, "127.0.0.99\n")
}

async fn running() -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    let sidegate = holding(&backend).run().await;
    (sidegate, backend)
}

/// Whether a client of this address gets a tunnel.
async fn admits(sidegate: &Sidegate, from: &str) -> bool {
    client::new(sidegate).from(from).attempt("/chat").await.status() == 101
}

async fn is_pending(sidegate: &Sidegate, generation: u64, broken: u64) {
    sidegate.expect_metric(PENDING, [], generation as f64).await;
    sidegate.expect_metric(BROKEN, [], broken as f64).await;
}

#[tokio::test]
async fn save_is_pending_until_it_is_ordered() {
    let (sidegate, _backend) = running().await;
    let mut tunnel = client::new(&sidegate).from("127.0.0.9").open("/chat").await;
    sidegate.policy().deny("127.0.0.9").put();
    is_pending(&sidegate, 2, 0).await;
    assert_eq!(sidegate.generation().await, 1);
    tunnel.expect_echo("still open").await;
    assert!(admits(&sidegate, "127.0.0.9").await);
    let (status, text) = sidegate.readyz().await;
    let sentence = "as generation 2 they would close 1 of 1 open tunnels and streams";
    assert!(status == 200 && text.contains(sentence) && text.contains(POLICY), "{text}");
    let status = sidegate.status().await;
    let pending = status.pending.unwrap();
    assert_eq!((pending.would_revoke, pending.rejected), (Some(1), false));
    assert_eq!(pending.changed, [POLICY]);
    assert!(status.warnings.iter().any(|warning| warning.word == WarningKind::Pending));
    let overview = sidegate.answer_to(&OverviewRequest::default()).await;
    assert_eq!(overview.files, FilesState::Pending);
    let answer = sidegate.answer_to(&DiffRequest::default()).await;
    assert!(matches!(answer, DiffAnswer::Changed(changes) if changes.tunnels.revoked == 1));

    let outcome = sidegate.reload().await;
    assert!(matches!(outcome, ReloadOutcome::Published { generation: 2, revoked: 1, .. }));
    tunnel.expect_close_with(1008, "network").await;
    assert!(!admits(&sidegate, "127.0.0.9").await);
    is_pending(&sidegate, 0, 0).await;
    assert!(sidegate.status().await.pending.is_none());
}

#[tokio::test]
async fn order_for_other_files_than_shown_is_refused() {
    let (sidegate, _backend) = running().await;
    sidegate.policy().deny("127.0.0.9").put();
    let shown = sidegate.answer_to(&DiffRequest::default()).await;
    let order = |digest: &str| ReloadRequest {
        accept_widening: digest.len() == 64,
        expect: Some(digest.to_owned()),
        ..ReloadRequest::default()
    };
    let other = "policies/other.toml";
    sidegate.put(other, "schema = 1\nclient.allow = ['any']\n");
    for digest in [shown.expect(), &shown.expect()[..12]] {
        let answer = sidegate.answer_to(&order(digest)).await;
        let ReloadAnswer::Rejected { diagnostics } = answer else { panic!("{answer:?}") };
        let fault = "changed since they were shown: 1 file differs: policies/other.toml";
        assert!(diagnostics[0].message.contains(fault), "{diagnostics:?}");
    }
    assert_eq!(sidegate.generation().await, 1);
    assert!(admits(&sidegate, "127.0.0.9").await, "the first save is held as well");
    let (status, text) = sidegate.readyz().await;
    assert!(status == 200 && !text.contains("rejected"), "an order has no fault: {text}");

    fs::remove_file(sidegate.folder().join(other)).unwrap();
    let answer = sidegate.answer_to(&order(shown.expect())).await;
    assert!(matches!(answer, ReloadAnswer::Published { .. }), "{answer:?}");
    assert!(!admits(&sidegate, "127.0.0.9").await);
    let overrides = vec!["nothing".to_owned()];
    let unknown = ReloadRequest { live: true, overrides, ..ReloadRequest::default() };
    assert!(matches!(sidegate.answer_to(&unknown).await, ReloadAnswer::Rejected { .. }));
}

#[tokio::test]
async fn broken_save_is_reported_and_gone_when_saved_back() {
    let (sidegate, _backend) = running().await;
    let before = fs::read_to_string(sidegate.folder().join(POLICY)).unwrap();
    sidegate.put(POLICY, "schema = 2\n");
    is_pending(&sidegate, 2, 1).await;
    let pending = sidegate.status().await.pending.unwrap();
    assert!(pending.rejected && pending.would_revoke.is_none());
    let text = &pending.diagnostics[0].text;
    assert!(text.contains("policies/default.toml:1:"), "{text}");
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Rejected { .. }));
    is_pending(&sidegate, 2, 1).await;
    assert!(sidegate.readyz().await.1.contains("the last reload was rejected"));
    sidegate.put(POLICY, before);
    is_pending(&sidegate, 0, 0).await;
    within("a body without the rejection", async {
        while sidegate.readyz().await.1.contains("rejected") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(admits(&sidegate, "127.0.0.9").await);
}

#[tokio::test]
async fn live_list_counts_while_a_broken_policy_is_pending() {
    let (sidegate, _backend) = running().await;
    let mut tunnel = client::new(&sidegate).from("127.0.0.9").open("/chat").await;
    sidegate.put(POLICY, "schema = 2\n");
    is_pending(&sidegate, 2, 1).await;
    assert_eq!(sidegate.write(BANNED, "127.0.0.9\n").await, 2);
    tunnel.expect_close_with(1008, "network").await;
    assert!(!admits(&sidegate, "127.0.0.9").await);
    is_pending(&sidegate, 3, 1).await;
    // A list that is wrong is rejected as ever, and changes nothing that is pending.
    let text = sidegate.write_rejected(BANNED, "127.0.0.300\n").await;
    assert!(text.contains("banned.cidr:1:1"), "{text}");
    is_pending(&sidegate, 3, 1).await;
    assert_eq!(sidegate.write(BANNED, "127.0.0.8\n").await, 3);
    assert!(admits(&sidegate, "127.0.0.9").await && !admits(&sidegate, "127.0.0.8").await);
}

#[tokio::test]
async fn certificate_counts_beside_a_held_file() {
    let (sidegate, _backend) = {
        let backend = backend::echo().run().await;
        (holding(&backend).tls().run().await, backend)
    };
    let mut config = sidegate.toml();
    config["reload"].as_table_mut().unwrap().insert("poll".into(), "20s".into());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    is_pending(&sidegate, 2, 0).await;
    let pair = certificate::signed(&["localhost", "127.0.0.1", "other.example.com"]);
    sidegate.put("certs/0.pem", &pair.chain);
    assert_eq!(sidegate.write("certs/0.key", &pair.key).await, 2);
    let status = sidegate.status().await;
    assert!(status.certificates[0].names.contains(&"other.example.com".to_owned()));
    assert_eq!(status.pending.unwrap().changed, ["sidegate.toml"]);
    is_pending(&sidegate, 3, 0).await;
}

#[tokio::test]
async fn live_list_of_a_pending_policy_is_held() {
    let (sidegate, _backend) = running().await;
    sidegate.put("policies/lists/more.cidr", "127.0.0.7\n");
    let edit = sidegate.policy().change(|page| {
        page.toml("[lists]\nmore = { file = 'lists/more.cidr', live = true }").deny("more")
    });
    edit.put();
    is_pending(&sidegate, 2, 0).await;
    sidegate.put("policies/lists/more.cidr", "127.0.0.6\n127.0.0.5\n");
    // Two live files change at once. The change of the running file is published. The other file
    // stays pending, since only pending files name it.
    assert_eq!(sidegate.write(BANNED, "127.0.0.9\n").await, 2);
    is_pending(&sidegate, 3, 0).await;
    assert!(admits(&sidegate, "127.0.0.6").await && !admits(&sidegate, "127.0.0.9").await);
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Published { .. }));
    assert!(!admits(&sidegate, "127.0.0.6").await && admits(&sidegate, "127.0.0.7").await);
    assert_eq!(sidegate.write("policies/lists/more.cidr", "127.0.0.7\n").await, 4);
    assert!(!admits(&sidegate, "127.0.0.7").await);
}

#[tokio::test]
async fn held_live_list_is_accepted_without_what_is_pending() {
    let backend = backend::echo().run().await;
    let sidegate = holding(&backend).toml("reload.max_revoked = 0").run().await;
    let tunnel = client::new(&sidegate).from("127.0.0.9").open("/chat").await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
    sidegate.policy().deny("127.0.0.8").put();
    is_pending(&sidegate, 2, 0).await;
    let text = sidegate.write_rejected(BANNED, "127.0.0.9\n").await;
    assert!(text.contains("1 of 1 open tunnels would be closed"), "{text}");
    let status = sidegate.status().await;
    let remedy = status.last_reload.unwrap().diagnostics[0].remedy.clone().unwrap();
    let order = "sidegate reload --live --accept-revocations --digest ";
    assert!(remedy.contains(order), "{remedy}");
    let request = ReloadRequest { live: true, accept_revocations: true, ..Default::default() };
    let answer = sidegate.ask_reload(&request).await;
    assert!(matches!(answer, ReloadAnswer::Published { generation: 2, revoked: 1, .. }));
    assert!(admits(&sidegate, "127.0.0.8").await, "the policy is still held");
    is_pending(&sidegate, 3, 0).await;
    drop(tunnel);
}

#[tokio::test]
async fn removed_file_is_pending_and_its_text_runs_on() {
    let (sidegate, _backend) = running().await;
    fs::remove_file(sidegate.folder().join(POLICY)).unwrap();
    is_pending(&sidegate, 2, 1).await;
    assert_eq!(sidegate.write(BANNED, "127.0.0.9\n").await, 2);
    assert!(!admits(&sidegate, "127.0.0.9").await && admits(&sidegate, "127.0.0.8").await);
    let answer = sidegate.answer_to(&DiffRequest::default()).await;
    assert!(matches!(answer, DiffAnswer::Rejected { .. }), "{answer:?}");
}

#[tokio::test]
async fn hold_is_turned_on_by_a_save_and_off_by_an_order() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .toml("process.state = 'state'\nreload.watch = 'auto'")
        .run()
        .await;
    let set = |mode: &str| {
        let mut config = sidegate.toml();
        config["reload"].as_table_mut().unwrap().insert("watch".into(), mode.into());
        toml::to_string(&config).unwrap()
    };
    let kept = sidegate.folder().join("state/published");
    assert!(!kept.exists(), "nothing is kept unless files are held");
    assert_eq!(sidegate.write("sidegate.toml", &set("hold")).await, 2);
    assert!(kept.exists());
    sidegate.put("sidegate.toml", set("auto"));
    is_pending(&sidegate, 3, 0).await;
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Published { generation: 3, .. }));
    is_pending(&sidegate, 0, 0).await;
    assert!(!kept.exists());
    assert_eq!(sidegate.policy().deny("127.0.0.9").write().await, 4);
}

/// The answer of `sidegate status --json` in `folder`.
pub async fn status(folder: &Path) -> Value {
    let output = done(&["status", "--config", "sidegate.toml", "--json"], folder).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", lossy(&output.stderr)))
}

/// Whether a client of this address gets a tunnel of the process.
pub async fn serves(process: &Process, from: &str) -> bool {
    process.client().from(from).attempt("/chat").await.status() == 101
}

/// The agent of `folder`, once it has kept its files.
pub async fn keeping(folder: &Path) -> Process {
    let process = process::new(folder).run().await;
    let kept = async {
        while !folder.join("state/published").exists() {
            tokio::task::yield_now().await;
        }
    };
    within("kept files", kept).await;
    process
}

/// Runs `sidegate reload` with these arguments in `folder`.
pub async fn order(arguments: &[&str], folder: &Path, code: i32, said: &[&str]) {
    let all = [&["reload", "--config", "sidegate.toml", "--wait"], arguments].concat();
    check(&all, folder, code, said).await;
}

pub fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn restart_serves_the_published_files_and_says_what_is_pending() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).clear().write();
    let first = keeping(folder.path()).await;
    drop(first);
    edit(folder.path(), POLICY, "[\"banned\"]", "[\"banned\", \"127.0.0.8\"]");
    fs::write(folder.path().join(BANNED), "127.0.0.9\n").unwrap();
    let mut second = process::new(folder.path()).run().await;
    second.line("saved files are pending").await;
    assert!(serves(&second, "127.0.0.8").await, "the policy is held");
    assert!(!serves(&second, "127.0.0.9").await, "the live list is read from its place");
    assert_eq!(status(folder.path()).await["pending"]["changed"][0], POLICY);
    order(&[], folder.path(), 0, &["published: generation 2"]).await;
    drop(second);
    let third = process::new(folder.path()).run().await;
    assert!(!serves(&third, "127.0.0.8").await);
    assert_eq!(status(folder.path()).await["pending"], Value::Null);
}

#[tokio::test]
async fn damaged_kept_files_are_reported_and_set_aside() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).clear().write();
    drop(keeping(folder.path()).await);
    let kept = folder.path().join("state/published");
    let mut bytes = fs::read(&kept).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&kept, bytes).unwrap();
    let second = process::new(folder.path()).run().await;
    let status = status(folder.path()).await;
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("run without an order"), "{warnings}");
    assert!(warnings.contains("is damaged (the checksum differs)"), "{warnings}");
    let aside = fs::read_dir(folder.path().join("state")).unwrap();
    let aside = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(aside.into_iter().any(|name| name.starts_with("published.damaged-")));
    assert!(serves(&second, "127.0.0.8").await);
}

#[tokio::test]
async fn killed_process_starts_with_the_old_or_the_new_files() {
    let backend = backend::echo().run().await;
    let held = "[lists]\nheld = { file = 'lists/held.cidr' }";
    let folder = holding(&backend)
        .clear()
        .policy(|page| page.toml(held).deny("held").deny("127.0.1.0"))
        .file(HELD, "127.0.2.0\n")
        .write();
    for round in 0..4 {
        let process = keeping(folder.path()).await;
        let text = fs::read_to_string(folder.path().join(HELD)).unwrap();
        let now: usize = text.trim().strip_prefix("127.0.2.").unwrap().parse().unwrap();
        let both = |round: usize| [format!("127.0.1.{round}"), format!("127.0.2.{round}")];
        for ((file, from), to) in [POLICY, HELD].into_iter().zip(both(now)).zip(both(round + 1)) {
            edit(folder.path(), file, &from, &to);
        }
        let ordered = done(&["reload", "--config", "sidegate.toml"], folder.path()).await;
        assert!(ordered.status.success(), "{}", lossy(&ordered.stderr));
        // SIGKILL, without a wait for the outcome.
        drop(process);
        let again = process::new(folder.path()).run().await;
        let mut denied = Vec::new();
        for one in 0..=round + 1 {
            let [policy, list] = both(one);
            let both = [!serves(&again, &policy).await, !serves(&again, &list).await];
            assert_eq!(both[0], both[1], "a mixture in round {round}");
            denied.extend(both[0].then_some(one));
        }
        assert_eq!(denied.len(), 1, "in round {round}: {denied:?}");
        order(&[], folder.path(), 0, &["generation"]).await;
    }
}

#[tokio::test]
async fn setting_that_needs_a_restart_is_kept_by_an_order() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).clear().write();
    let mut first = keeping(folder.path()).await;
    edit(folder.path(), "sidegate.toml", "threads = 1", "threads = 2");
    order(&[], folder.path(), 1, &["threads", "restart sidegate"]).await;
    first.line("the next start serves them").await;
    // A live list says nothing about it.
    fs::write(folder.path().join(BANNED), "127.0.0.9\n").unwrap();
    first.line("published").await;
    drop(first);
    let second = process::new(folder.path()).run().await;
    assert_eq!(status(folder.path()).await["pending"], Value::Null);
    assert!(!serves(&second, "127.0.0.9").await);
}
