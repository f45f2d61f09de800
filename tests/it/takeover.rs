//! `sidegate upgrade`: one process hands over to the next, and no connection notices.
//!
//! Only a program that root alone can replace is started, so that the tests need root; without it
//! they see the refusal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli;
use crate::harness::backend::{self, Backend};
use crate::harness::client::Tunnel;
use crate::harness::process::{self, Process};
use crate::harness::sidegate;
use crate::harness::unit;
use crate::harness::wire::lossy;
use crate::harness::within;

const CONFIG: &str = "sidegate.toml";

/// The files of an agent whose clients have at most two tunnels each.
fn files(backend: &Backend) -> TempDir {
    let routed = sidegate::new().clear().route("/chat", backend).on_route("http = 'forward'");
    routed.limits("connections = { per_client = 2 }").toml("process.threads = 2").write()
}

/// The process that an upgrade has started; killed when dropped.
struct Newest(Pid);

impl Drop for Newest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

impl Newest {
    async fn expect_gone(&self) {
        let gone = async {
            while test_kill_process(self.0).is_ok() {
                tokio::task::yield_now().await;
            }
        };
        within("the end of the newest process", gone).await;
    }
}

/// Orders an upgrade. `None` means that this user may not, which is checked.
async fn upgrade(folder: &Path) -> Option<Newest> {
    let output = cli::done(&["upgrade", "--config", CONFIG, "--json"], folder).await;
    let said = lossy(&output.stderr);
    if !geteuid().is_root() {
        assert!(said.contains("only root may be able to replace the program"), "{said}");
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outcome"], "upgraded");
    let pid = i32::try_from(answer["pid"].as_u64().unwrap()).unwrap();
    Some(Newest(Pid::from_raw(pid).unwrap()))
}

/// Orders an upgrade that must change nothing, and returns the reason.
async fn refused(arguments: &[&str], folder: &Path) -> String {
    let all = [&["upgrade", "--config", CONFIG], arguments].concat();
    let output = cli::done(&all, folder).await;
    assert_eq!(output.status.code(), Some(1), "{}", lossy(&output.stdout));
    lossy(&output.stderr)
}

/// Writes a program that only root can replace.
fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

async fn start(backend: &Backend) -> (TempDir, Process) {
    let folder = files(backend);
    let process = process::new(folder.path()).run().await;
    (folder, process)
}

async fn open(process: &Process) -> Tunnel {
    let mut tunnel = process.client().open("/chat").await;
    tunnel.expect_echo("opened").await;
    tunnel
}

#[tokio::test]
async fn tunnels_stay_and_caps_bans_and_lists_reach_them() {
    let backend = backend::echo().run().await;
    let (folder, process) = start(&backend).await;
    let mut first = open(&process).await;
    let Some(newest) = upgrade(folder.path()).await else { return };
    first.expect_echo("after the first").await;
    let mut second = open(&process).await;
    process.client().attempt("/chat").await.expect_refused(429, "connections");
    assert_eq!(process.metric("sidegate_tunnels_draining").await, 1.0);
    let Some(last) = upgrade(folder.path()).await else { return };
    process.client().attempt("/chat").await.expect_refused(429, "connections");
    assert_eq!(process.metric("sidegate_tunnels_draining").await, 2.0);
    first.expect_echo("after the second").await;
    second.expect_echo("after the second").await;
    let tunnels = cli::done(&["tunnels", "--config", CONFIG, "--json"], folder.path()).await;
    let tunnels: Value = serde_json::from_slice(&tunnels.stdout).unwrap();
    let processes: Vec<_> =
        tunnels["tunnels"].as_array().unwrap().iter().map(|one| one["process"].as_i64()).collect();
    let pids = [process.pid(), newest.0].map(|pid| Some(pid.as_raw_pid().into()));
    assert!(processes.len() == 2 && pids.iter().all(|pid| processes.contains(pid)));
    let ban = ["ban", "--config", CONFIG, "127.0.0.1", "--for", "1h", "--why", "a test"];
    let ban = [&ban[..], &["--override", "loopback"]].concat();
    cli::check(&ban, folder.path(), 0, &["2 tunnels"]).await;
    first.expect_close_with(1008, "banned").await;
    second.expect_close_with(1008, "banned").await;
    newest.expect_gone().await;
    cli::check(&["unban", "--config", CONFIG, "127.0.0.1"], folder.path(), 0, &[]).await;
    open(&process).await;
    drop(last);
}

#[tokio::test]
async fn kept_connections_are_served_and_then_close() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let (folder, process) = start(&backend).await;
    let mut kept = process.client().connect().await;
    let request = "GET /chat HTTP/1.1\r\nHost: localhost\r\n\r\n";
    kept.send(request).await;
    kept.answer().await.expect(200);
    let mut fresh = process.client().connect().await;
    let Some(_newest) = upgrade(folder.path()).await else { return };
    for wire in [&mut kept, &mut fresh] {
        wire.send(request).await;
        wire.answer().await.expect(200).expect_header("connection", "close");
        wire.expect_end().await;
    }
}

#[tokio::test]
async fn program_that_fails_or_hangs_changes_nothing() {
    let backend = backend::echo().run().await;
    let (folder, process) = start(&backend).await;
    let mut tunnel = open(&process).await;
    if !geteuid().is_root() {
        return assert!(refused(&[], folder.path()).await.contains("only root"));
    }
    let own = folder.path();
    for (text, said) in [
        ("exit 3", "it has ended (exit status: 3) before it could serve"),
        ("echo rubbish >&0", "it does not answer"),
        ("exec sleep 60", "it was not ready within 1 s, and was killed"),
    ] {
        let binary = script(own, text);
        let sentence = refused(&["--binary", &binary, "--deadline", "1"], own).await;
        assert!(sentence.contains(said), "{sentence}");
        tunnel.expect_echo("as before").await;
    }
    fs::set_permissions(own.join("program"), fs::Permissions::from_mode(0o777)).unwrap();
    let binary = own.join("program").display().to_string();
    assert!(refused(&["--binary", &binary], own).await.contains("can be written by other users"));
    let sentence = refused(&["--binary", "/nowhere"], own).await;
    assert!(sentence.contains("/nowhere: No such file"), "{sentence}");
    cli::check(&["upgrade", "--config", CONFIG, "--dry-run"], own, 0, &["nothing was handed over"])
        .await;
    assert_eq!(process.metric("sidegate_tunnels_draining").await, 0.0);
    open(&process).await;
}

#[tokio::test]
async fn files_that_are_rejected_or_an_end_forbid_it() {
    let backend = backend::echo().run().await;
    let (folder, mut process) = start(&backend).await;
    if !geteuid().is_root() {
        return;
    }
    let policy = folder.path().join("policies/default.toml");
    let before = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, format!("{before}\n[client]\n")).unwrap();
    process.line("rejected: the previous configuration").await;
    let sentence = refused(&[], folder.path()).await;
    assert!(sentence.contains("the saved files are rejected"), "{sentence}");
    fs::write(&policy, before).unwrap();
    process.logged("unchanged").await;
    let mut tunnel = open(&process).await;
    cli::check(&["drain", "--config", CONFIG], folder.path(), 0, &["draining"]).await;
    let sentence = refused(&[], folder.path()).await;
    assert!(sentence.contains("draining: nothing is handed over"), "{sentence}");
    tunnel.expect_close(1001).await;
}

#[tokio::test]
async fn process_that_crashes_takes_only_its_own_tunnels_along() {
    let backend = backend::echo().run().await;
    let (folder, mut process) = start(&backend).await;
    let mut first = open(&process).await;
    let Some(newest) = upgrade(folder.path()).await else { return };
    kill_process(newest.0, Signal::KILL).unwrap();
    process.line("the newest process is gone").await;
    first.expect_echo("kept by the former process").await;
    first.close(1000, "").await;
    first.expect_close(1000).await;
    process.line("the last connection from before the upgrade has ended").await;

    let (folder, process) = start(&backend).await;
    let mut lost = open(&process).await;
    let Some(newest) = upgrade(folder.path()).await else { return };
    let mut own = open(&process).await;
    kill_process(process.pid(), Signal::KILL).unwrap();
    lost.expect_gone().await;
    own.expect_echo("served by the new process").await;
    within("the end of its rows", async {
        while process.metric("sidegate_tunnels_draining").await != 0.0 {}
    })
    .await;
    drop(newest);
}

#[tokio::test]
async fn drain_of_the_newest_process_reaches_all() {
    let backend = backend::echo().run().await;
    let (folder, mut process) = start(&backend).await;
    let mut first = open(&process).await;
    let Some(newest) = upgrade(folder.path()).await else { return };
    let mut second = open(&process).await;
    kill_process(newest.0, Signal::TERM).unwrap();
    first.expect_close(1001).await;
    second.expect_close(1001).await;
    process.line("the last connection from before the upgrade has ended").await;
    newest.expect_gone().await;
}

#[tokio::test]
async fn former_process_drains_when_its_time_is_up() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .toml("shutdown.deadline_upgrade = '1s'\nshutdown.spread = '0s'")
        .write();
    let process = process::new(folder.path()).run().await;
    let mut first = open(&process).await;
    let Some(_newest) = upgrade(folder.path()).await else { return };
    let mut second = open(&process).await;
    first.expect_close(1001).await;
    second.expect_echo("the new process goes on").await;
}

#[tokio::test]
async fn manager_hears_of_the_main_process_before_that_speaks() {
    let backend = backend::echo().run().await;
    let folder = files(&backend);
    let unit = unit::of(folder.path()).watchdog(std::time::Duration::from_secs(1)).run().await;
    let Some(newest) = upgrade(folder.path()).await else { return };
    let main = format!("MAINPID={}", newest.0.as_raw_pid());
    unit.expect_told(&[&main]).await;
    unit.expect_told(&["READY=1\n", "WATCHDOG=1"]).await;
    // The watchdog is fed by the new process alone, from now on.
    unit.expect_told(&["WATCHDOG=1"]).await;
    drop(newest);
}

#[tokio::test]
async fn agent_that_run_has_not_started_refuses() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    let answer = sidegate.reply("POST /v1/upgrade").await;
    answer.expect(409);
    assert!(answer.text().contains("`sidegate run` has started"), "{}", answer.text());
}
