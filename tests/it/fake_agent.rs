//! How commands treat answers that no real agent gives: they end with 1, and change nothing.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use ::sidegate::control::compile;
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_uid;
use tempfile::TempDir;

use crate::cli::{check, done};
use crate::harness::fake::{self, Fake};
use crate::harness::wire::lossy;
use crate::harness::{backend, sidegate};

const CONFIG: [&str; 2] = ["--config", "sidegate.toml"];

/// Every command that asks an agent.
const COMMANDS: [&[&str]; 8] = [
    &["status"],
    &["status", "--json"],
    &["diff", "--max-revoked", "0"],
    &["diff", "--json"],
    &["reload", "--wait"],
    &["reload"],
    &["drain"],
    &["explain", "--live", "--client", "127.0.0.1", "--url", "ws://localhost/chat"],
];

const POLICY: &str = "schema = 1\nclient.allow = ['any']\n";
const CANDIDATE: &str = "schema = 1\nclient.allow = ['127.0.0.1']\n";

/// Files with a policy and its candidate.
async fn files() -> TempDir {
    let files = sidegate::new().clear().route("/chat", &backend::echo().run().await);
    let files =
        files.file("policies/default.toml", POLICY).file("policies/default.shadow.toml", CANDIDATE);
    files.write()
}

/// A fake agent for the files in `folder`.
fn fake(folder: &TempDir, answers: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Fake {
    fake::at(&folder.path().join("admin.sock"), answers)
}

fn with_config(command: &[&'static str]) -> Vec<&'static str> {
    [command, &CONFIG].concat()
}

/// Asserts that each command ends with 1, says this on standard error and nothing on standard
/// output.
async fn check_disbelieved(folder: &TempDir, said: &str) {
    for command in COMMANDS {
        let output = done(&with_config(command), folder.path()).await;
        let complaint = lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {complaint}");
        assert!(
            output.stdout.is_empty() && complaint.contains(said),
            "{command:?}: no {said:?} in {complaint}"
        );
    }
    check_not_promoted(folder, &[said]).await;
}

/// The names of the files in the folder of the policies.
fn names(folder: &TempDir) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder.path().join("policies")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// Asserts that `promote` ends with 1, says all these, and leaves policy and candidate as they
/// were.
async fn check_not_promoted(folder: &TempDir, said: &[&str]) {
    let policy = folder.path().join("policies/default.toml");
    let (before, files) = (fs::metadata(&policy).unwrap(), names(folder));
    check(
        &with_config(&["promote", "default"]),
        folder.path(),
        1,
        &[&["default is not promoted"], said].concat(),
    )
    .await;
    let after = fs::metadata(&policy).unwrap();
    assert_eq!(
        (before.ino(), before.mode(), before.uid()),
        (after.ino(), after.mode(), after.uid())
    );
    assert_eq!(fs::read_to_string(&policy).unwrap(), POLICY);
    assert_eq!(
        fs::read_to_string(folder.path().join("policies/default.shadow.toml")).unwrap(),
        CANDIDATE
    );
    assert_eq!(names(folder), files, "nothing else is left");
}

#[tokio::test]
async fn commands_end_with_1_when_an_answer_has_another_shape() {
    for (status, body, said) in [
        (200, "{\"a\":1}", "missing field `schema`"),
        (200, "{\"schema\":1}", "missing field"),
        (200, "[1]", "this is sidegate/"),
        (200, "null", "this is sidegate/"),
        (200, "<html>hello</html>", "it is not JSON: `<html>hello</html>`"),
        (200, "", "it is not JSON: nothing"),
        (200, "{\"schema\":2,\"outcome\":\"published\"}", "(schema 2); this is sidegate/"),
        (
            200,
            "{\"version\":\"9.9.9\",\"outcome\":\"draining\"}",
            "sidegate/9.9.9 (without a schema number)",
        ),
        (500, "{\"oops\":1,\"schema\":1}", "missing field `error`"),
    ] {
        let folder = files().await;
        let fake = fake(&folder, move |_| fake::json(status, body));
        check_disbelieved(&folder, said).await;
        assert_eq!(fake.asked().len(), COMMANDS.len() + 1, "each has asked");
    }
}

#[tokio::test]
async fn commands_end_with_1_when_an_answer_ends_early_or_never() {
    let folder = files().await;
    let _fake =
        fake(&folder, |_| b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{".to_vec());
    check_disbelieved(&folder, "is incomplete or too long: 1000000000 bytes").await;
    let folder = files().await;
    let _fake = fake(&folder, |_| [b"HTTP/1.1 200 OK\r\n\r\n", &*vec![b' '; 65 << 20]].concat());
    check(&with_config(&["reload"]), folder.path(), 1, &["is incomplete or too long"]).await;
    let folder = files().await;
    let _fake = fake(&folder, |_| b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{".to_vec());
    check(&with_config(&["status"]), folder.path(), 1, &["did not answer within 5 s"]).await;
}

#[tokio::test]
async fn commands_end_with_1_when_outcome_and_status_disagree() {
    for (command, status, body) in [
        (
            &["reload", "--wait"][..],
            200,
            "{\"schema\":1,\"outcome\":\"rejected\",\"diagnostics\":[]}",
        ),
        (&["reload", "--wait"], 202, "{\"schema\":1,\"outcome\":\"asked\"}"),
        (&["reload", "--wait"], 200, "{\"schema\":1,\"outcome\":\"accepted\"}"),
        (
            &["reload", "--wait"],
            422,
            "{\"schema\":1,\"outcome\":\"unchanged\",\"generation\":1,\"digest\":\"x\",\"recent\":null,\"not_kept\":null}",
        ),
        (
            &["reload"],
            200,
            "{\"schema\":1,\"outcome\":\"unchanged\",\"generation\":1,\"digest\":\"x\",\"recent\":null,\"not_kept\":null}",
        ),
        (&["drain"], 200, "{\"schema\":1,\"outcome\":\"drained\"}"),
    ] {
        let folder = files().await;
        let _fake = fake(&folder, move |_| fake::json(status, body));
        check(&with_config(command), folder.path(), 1, &["does not understand", "(schema 1)"])
            .await;
    }
}

/// A `POST /v1/diff` that says yes to the promotion of `default`, to the files of `digest`.
fn permitting(digest: &str) -> String {
    let nothing = "\"keys\":[],\"lists\":[],\"held\":[],\"diagnostics\":[]";
    let tunnels = "\"tunnels\":{\"open\":0,\"revoked\":0,\"by\":[],\"sample\":[]},\"streams\":{\"open\":0,\"revoked\":0,\"sample\":[]}";
    let head = "\"schema\":1,\"outcome\":\"changed\",\"generation\":1,\"from\":\"x\",\"promote\":\"default\",\
                \"staged\":false,\"expect\":\"0123456789ab\"";
    let widening =
        "\"widening\":{\"networks\":0,\"ipv4\":0,\"ipv6_64\":0,\"clients\":[],\"rules\":[]}";
    format!("{{{head},\"to\":\"{digest}\",{nothing},{tunnels},{widening}}}")
}

/// An agent that agrees to the promotion, and answers the next reload with `reloaded` of the files'
/// path.
async fn permits(
    reloaded: impl Fn(&Path) -> (u16, String) + Send + Sync + 'static,
) -> (TempDir, Fake) {
    let folder = files().await;
    let config = folder.path().join("sidegate.toml");
    let digest = compile::promoted_fingerprint(&config, "default").unwrap().all;
    let fake = fake(&folder, move |line| {
        let (status, body) =
            if line.contains("/v1/diff") { (200, permitting(&digest)) } else { reloaded(&config) };
        fake::json(status, &body)
    });
    (folder, fake)
}

#[tokio::test]
async fn promote_writes_nothing_when_the_answer_is_for_other_files() {
    let folder = files().await;
    let fake = fake(&folder, |_| fake::json(200, &permitting("0123456789ab")));
    check_not_promoted(&folder, &["the agent read other files (digest 0123456789ab)", "--config"])
        .await;
    assert_eq!(fake.asked().len(), 1, "no reload was asked for");
}

#[tokio::test]
async fn promote_restores_the_policy_when_the_reload_is_not_confirmed() {
    let unconfirmed = [
        (200, "{\"schema\":2}", "(schema 2)"),
        (200, "{\"schema\":1,\"outcome\":\"rejected\",\"diagnostics\":[]}", "does not understand"),
        (
            422,
            "{\"schema\":1,\"outcome\":\"rejected\",\"diagnostics\":[]}",
            "the agent rejected the files",
        ),
        (202, "{\"schema\":1,\"outcome\":\"asked\"}", "it answers another request"),
        (503, "{\"schema\":1,\"error\":\"the agent is ending\"}", "the agent is ending"),
        (
            200,
            "{\"schema\":1,\"outcome\":\"unchanged\",\"generation\":1,\"digest\":\"x\",\"recent\":null,\"not_kept\":null}",
            "other files (digest x)",
        ),
    ];
    for (status, body, said) in unconfirmed {
        let (folder, fake) = permits(move |_| (status, body.to_owned())).await;
        check_not_promoted(&folder, &[said, "is the previous policy again", "sidegate status"])
            .await;
        assert_eq!(fake.asked().len(), 2);
    }
}

#[tokio::test]
async fn promote_keeps_foreign_writes_when_it_cannot_restore() {
    let (folder, _fake) = permits(|config| {
        let policies = config.parent().unwrap().join("policies");
        fs::write(policies.join("save"), "# another's").unwrap();
        fs::rename(policies.join("save"), policies.join("default.toml")).unwrap();
        (422, "{\"schema\":1,\"outcome\":\"rejected\",\"diagnostics\":[]}".into())
    })
    .await;
    let said = [
        "default.toml was changed by another process meanwhile",
        ".default.toml.before is the previous policy",
    ];
    check(&with_config(&["promote", "default"]), folder.path(), 1, &said).await;
    let read = |name: &str| fs::read_to_string(folder.path().join("policies").join(name)).unwrap();
    assert_eq!(
        [read("default.toml"), read(".default.toml.before")],
        ["# another's".to_owned(), POLICY.to_owned()]
    );
    check(&with_config(&["promote", "default"]), folder.path(), 1, &[]).await;
}

#[tokio::test]
async fn promote_is_confirmed_when_the_agent_read_the_files_first() {
    let (folder, fake) = permits(|config| {
        let digest = compile::placed_fingerprint(config, "default").unwrap().all;
        (200, format!("{{\"schema\":1,\"outcome\":\"unchanged\",\"generation\":2,\"digest\":\"{digest}\",\"recent\":null,\"not_kept\":null}}"))
    })
    .await;
    let mut files = names(&folder);
    check(&with_config(&["promote", "default"]), folder.path(), 0, &["unchanged", "promoted: "])
        .await;
    assert_eq!(fs::read_to_string(folder.path().join("policies/default.toml")).unwrap(), CANDIDATE);
    files.remove(OsStr::new("default.shadow.toml"));
    assert_eq!(names(&folder), files, "no copy is left");
    let order = fake.asked().pop().unwrap();
    assert!(order.contains("/v1/reload?expect=0123456789ab"), "only what was shown: {order}");
}

#[tokio::test]
async fn commands_ignore_sockets_in_folders_writable_by_others() {
    let folder = files().await;
    let fake = fake(&folder, |_| fake::json(200, "{}"));
    for mode in [0o777, 0o1777, 0o757] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        check_disbelieved(&folder, "other users may write to").await;
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn commands_ignore_processes_of_other_users() {
    const STRANGER: u32 = 65_534;
    if !geteuid().is_root() {
        return; // Only root can be another user.
    }
    let folder = files().await;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(folder.path().join("admin.sock")).unwrap()).unwrap();
    let listening = std::thread::spawn(move || {
        // The kernel notes the user of the thread that begins to listen.
        set_thread_uid(Uid::from_raw(STRANGER)).unwrap();
        socket.listen(32).unwrap();
        UnixListener::from(std::os::fd::OwnedFd::from(socket))
    });
    let listener = listening.join().unwrap();
    check_disbelieved(&folder, "is not trusted: it runs as").await;
    fake::answering(listener, |_| fake::json(200, "{\"schema\":3}"));
    chown(folder.path().join("sidegate.toml"), Some(STRANGER), None).unwrap();
    check_disbelieved(&folder, "schema 3").await;
}

/// Asserts that neither output of `command` has a control but for the ends of lines.
async fn check_printable(folder: &TempDir, command: &[&'static str]) {
    let output = done(&with_config(command), folder.path()).await;
    let text = lossy(&[output.stdout, output.stderr].concat());
    let is_control = |c| ::sidegate::observe::printable::is_control(c) && c != '\n';
    assert!(!text.contains(is_control) && text.contains("[2J"), "{command:?}: {text:?}");
}

#[tokio::test]
async fn commands_print_no_controls_of_an_agent() {
    const SPOILT: &str = "\\u001b[2J\\u009b[2J\\u202e\\u2066\\u0007";
    let folder = files().await;
    let report = format!(
        "{{\"level\":\"error\",\"file\":\"f{SPOILT}\",\"line\":1,\"column\":1,\"message\":\"m{SPOILT}\",\"remedy\":\"r{SPOILT}\",\"text\":\"t{SPOILT}\"}}"
    );
    let _fake = fake(&folder, move |line| match line {
        line if line.contains("/v1/reload") => fake::json(
            422,
            &format!("{{\"schema\":1,\"outcome\":\"rejected\",\"diagnostics\":[{report}]}}"),
        ),
        line if line.contains("/v1/diff") => {
            let head = "\"schema\":1,\"outcome\":\"rejected\",\"generation\":1,\"promote\":null,\
                        \"staged\":false,\"expect\":\"0123456789ab\"";
            fake::json(422, &format!("{{{head},\"diagnostics\":[{report}]}}"))
        }
        _ => fake::json(400, &format!("{{\"schema\":1,\"error\":\"e{SPOILT}\"}}")),
    });
    for command in COMMANDS
        .iter()
        .filter(|command| !command.contains(&"reload") || command.contains(&"--wait"))
    {
        check_printable(&folder, command).await;
    }
}

#[tokio::test]
async fn check_and_diff_print_no_controls_of_a_file() {
    let folder = files().await;
    fs::write(folder.path().join("policies/a\u{9b}[2J\u{202e}.shadow.toml"), "").unwrap();
    let spoilt =
        "schema = 1\nowner = \"\\u001b[2J\\u009b[2J\\u202E\"\n\"al\u{9b}[2J\u{202e}ow\" = 1\n";
    fs::write(folder.path().join("policies/default.toml"), spoilt).unwrap();
    for format in ["text", "json", "github"] {
        let output = done(&["check", "--format", format, "sidegate.toml"], folder.path()).await;
        let text = lossy(&[output.stdout, output.stderr].concat());
        let is_control = |c| ::sidegate::observe::printable::is_control(c) && c != '\n';
        assert!(
            output.status.code() == Some(1) && !text.contains(is_control),
            "{format}: {text:?}"
        );
    }
}
