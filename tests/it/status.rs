//! `sidegate status` and `sidegate drain` as people run them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use ::sidegate::admin::wire::StatusAnswer;
use tokio::task::spawn_blocking;

use crate::cli::{check, done, run};
use crate::harness::wire::lossy;
use crate::harness::{backend, sidegate, within};

const STATUS: &[&str] = &["status", "--config", "sidegate.toml"];
const DRAIN: &[&str] = &["drain", "--config", "sidegate.toml"];

/// Id of a user without permissions here.
const NOBODY: u32 = 65_534;

/// Runs `sidegate status` with a copy of the program that every user may run, and without
/// privileges: root runs it as another user.
async fn asked_by_a_stranger(folder: &Path) -> Output {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sidegate"), folder.join("sidegate")).unwrap();
    let mut command = Command::new(folder.join("sidegate"));
    command.args(STATUS).current_dir(folder).env("TMPDIR", folder);
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    within("status", spawn_blocking(move || command.output())).await.unwrap().unwrap()
}

/// Asserts that `sidegate status` prints all of these to an unprivileged user, and ends with 1.
async fn check_denied(folder: &Path, parts: &[&str]) {
    let output = asked_by_a_stranger(folder).await;
    let said = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[tokio::test]
async fn status_prints_one_screen_without_escapes_to_a_pipe() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    let running = run(folder.path()).await;
    let mut tunnel = running.client().open("/chat").await;
    tunnel.expect_echo("open").await;
    let output = done(STATUS, folder.path()).await;
    let screen = lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", lossy(&output.stderr));
    for part in [
        "1 tunnel",
        "generation   1 (",
        "none since the start",
        "public    127.0.0.1:",
        "plain",
        "policy default",
    ] {
        assert!(screen.contains(part), "no {part:?} in\n{screen}");
    }
    assert!(!screen.contains('\u{1b}') && screen.lines().count() < 24, "{screen}");
}

#[tokio::test]
async fn status_json_is_the_answer_of_the_socket() {
    let folder = sidegate::new().clear().write();
    let _running = run(folder.path()).await;
    let output = done(&[STATUS, &["--json"]].concat(), folder.path()).await;
    let status: StatusAnswer = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), status.generation, status.tunnels), (Some(0), 1, 0));
}

#[tokio::test]
async fn status_names_the_tried_paths_when_no_agent_runs() {
    let folder = sidegate::new().clear().write();
    let path = folder.path().join("admin.sock").display().to_string();
    for verb in [STATUS, DRAIN] {
        check(
            verb,
            folder.path(),
            1,
            &["no agent answers for sidegate.toml", &format!("{path}: no socket")],
        )
        .await;
    }
    drop(UnixListener::bind(&path).unwrap());
    check(STATUS, folder.path(), 1, &[&path, "a stale socket: its agent has ended"]).await;
}

#[tokio::test]
async fn status_times_out_when_the_agent_hangs() {
    let folder = sidegate::new().clear().write();
    let path = folder.path().join("admin.sock");
    let _mute = UnixListener::bind(&path).unwrap();
    check(
        STATUS,
        folder.path(),
        1,
        &[&path.display().to_string(), "did not answer within 5 s", "hangs"],
    )
    .await;
}

#[tokio::test]
async fn status_without_permission_prints_a_remedy() {
    let folder = sidegate::new().clear().toml("admin.mode = '0000'").write();
    let _running = run(folder.path()).await;
    let config = folder.path().join("sidegate.toml");
    fs::set_permissions(&config, Permissions::from_mode(0o644)).unwrap();
    check_denied(folder.path(), &["permission denied at", "admin.sock", "sudo", "[admin] group"])
        .await;
    fs::set_permissions(&config, Permissions::from_mode(0o000)).unwrap();
    check_denied(folder.path(), &["permission denied at sidegate.toml", "sudo"]).await;
}

#[tokio::test]
async fn drain_prints_what_happens_and_the_agent_ends() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    let mut running = run(folder.path()).await;
    let mut tunnel = running.client().open("/chat").await;
    tunnel.expect_echo("before").await;
    check(
        DRAIN,
        folder.path(),
        0,
        &["accepting stops now", "1 tunnel", "1001 over 0s", "cut after 5s"],
    )
    .await;
    tunnel.expect_close(1001).await;
    assert_eq!(running.code().await, Some(0));
    check(DRAIN, folder.path(), 1, &["no agent answers"]).await;
}

#[tokio::test]
async fn other_server_is_not_mistaken_for_an_agent() {
    let folder = sidegate::new().clear().write();
    let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
        std::io::Write::write_all(
            &mut stream,
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        )
        .unwrap();
    });
    check(STATUS, folder.path(), 1, &["does not understand", "it is not JSON: `hello`"]).await;
    other.join().unwrap();
}
