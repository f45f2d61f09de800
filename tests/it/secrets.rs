//! Text that is never shown: content of a file that a configuration names and that isn't of the
//! expected kind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use crate::cli::done;
use crate::harness::wire::lossy;
use crate::harness::{backend, certificate, process, sidegate};

/// A secret of the old kind, which nothing marks as one.
const NETRC: &str = "machine vault.internal login deploy password Tr0ub4dor-and-3-horses\n";

/// An agent's files, with a key in `certs/` and [`NETRC`] beside them.
async fn files() -> TempDir {
    let backend = backend::echo().run().await;
    let key = certificate::signed(&["localhost"]).key;
    let builder = sidegate::new().clear().route("/chat", &backend).file("certs/other.key", &key);
    builder.file("netrc", NETRC).write()
}

/// Pieces of a secret, one from each of its lines.
fn pieces(secret: &Path) -> Vec<String> {
    let text = fs::read_to_string(secret).unwrap();
    let lines = text.lines().filter(|line| !line.contains("-----"));
    lines
        .flat_map(|line| [line.get(..12), line.get(line.len().saturating_sub(12)..)])
        .flatten()
        .map(str::to_owned)
        .collect()
}

/// Asserts that nothing of `secret` shows once `spoil` has been at the files of an agent that runs:
/// neither in what the agent shows, nor, where `of_check` says so, in what `check` prints. All name
/// the place, `at`.
async fn expect_hidden(secret: &str, of_check: bool, at: &str, spoil: impl FnOnce(&Path)) {
    let folder = files().await;
    let pieces = pieces(&folder.path().join(secret));
    let mut running = process::new(folder.path()).log("json").run().await;
    spoil(folder.path());
    let log = running.line("\"rejected: the previous configuration keeps running\"").await;
    let reload = done(&["reload", "--config", "sidegate.toml", "--wait"], folder.path()).await;
    let status = done(&["status", "--config", "sidegate.toml", "--json"], folder.path()).await;
    let diff = done(&["diff", "--config", "sidegate.toml", "--json"], folder.path()).await;
    let check = done(&["check", "."], folder.path()).await;
    let readyz = running.asked("/readyz").await;
    let rest = running.ended().await.join("\n");
    for (place, text) in [
        ("readyz", readyz),
        ("reload", lossy(&reload.stderr)),
        ("status", lossy(&status.stdout)),
        ("diff", lossy(&diff.stdout)),
    ] {
        assert!(text.contains(at), "{place} names no place:\n{text}");
        assert!(!pieces.iter().any(|piece| text.contains(piece)), "{place} shows it:\n{text}");
    }
    let all = [log, rest].concat();
    assert!(!pieces.iter().any(|piece| all.contains(piece)), "the log shows it:\n{all}");
    let check = lossy(&check.stderr);
    assert!(check.contains(at), "check names no place:\n{check}");
    let shows = pieces.iter().any(|piece| check.contains(piece));
    assert_eq!(shows, !of_check, "check:\n{check}");
}

/// Makes `file` the list of a policy.
fn list(folder: &Path, file: &str) {
    let policy =
        format!("schema = 1\n[lists]\nx = {{ file = \"{file}\" }}\n[client]\nallow = [\"x\"]\n");
    fs::write(folder.join("policies/other.toml"), policy).unwrap();
}

#[tokio::test]
async fn private_key_named_as_a_list_is_not_shown() {
    expect_hidden("certs/other.key", true, "policies/other.toml:3", |folder| {
        list(folder, "../certs/other.key");
    })
    .await;
    let absolute = |folder: &Path| list(folder, folder.join("certs/other.key").to_str().unwrap());
    expect_hidden("certs/other.key", true, "policies/other.toml:3", absolute).await;
}

#[tokio::test]
async fn private_key_behind_a_link_among_lists_is_not_shown() {
    let linked = |folder: &Path| {
        symlink("../../certs/other.key", folder.join("policies/lists/x.cidr")).unwrap();
        list(folder, "lists/x.cidr");
    };
    expect_hidden("certs/other.key", true, "policies/other.toml:3", linked).await;
    let by_folder = |folder: &Path| {
        symlink("../../certs", folder.join("policies/lists/certs")).unwrap();
        list(folder, "lists/certs/other.key");
    };
    expect_hidden("certs/other.key", true, "policies/other.toml:3", by_folder).await;
}

#[tokio::test]
async fn private_key_among_lists_is_not_shown() {
    let linked = |folder: &Path| {
        fs::hard_link(folder.join("certs/other.key"), folder.join("policies/lists/x.cidr"))
            .unwrap();
        list(folder, "lists/x.cidr");
    };
    expect_hidden("certs/other.key", true, "policies/lists/x.cidr:1", linked).await;
}

#[tokio::test]
async fn another_secret_is_not_shown_by_the_agent() {
    let copied = |folder: &Path| {
        fs::hard_link(folder.join("netrc"), folder.join("policies/lists/x.cidr")).unwrap();
        list(folder, "lists/x.cidr");
    };
    // A person who runs `check` can read the file, which lies where lists do.
    expect_hidden("netrc", false, "policies/lists/x.cidr:1", copied).await;
    expect_hidden("netrc", true, "policies/other.toml:3", |folder| list(folder, "../netrc")).await;
}

#[tokio::test]
async fn a_secret_that_is_linked_as_a_policy_is_not_shown() {
    for secret in ["netrc", "certs/other.key"] {
        let linked = |folder: &Path| {
            symlink(format!("../{secret}"), folder.join("policies/other.toml")).unwrap();
        };
        expect_hidden(secret, true, "policies/other.toml:1", linked).await;
    }
}

#[tokio::test]
async fn a_key_on_one_line_is_not_shown_as_a_certificate() {
    let flat = |folder: &Path| {
        let key = fs::read_to_string(folder.join("certs/other.key"))
            .unwrap()
            .replace("-----\n", " ")
            .replace('\n', " ");
        fs::write(folder.join("certs/flat.pem"), key).unwrap();
        let own = fs::read_to_string(folder.join("sidegate.toml")).unwrap();
        let pair = "[[certificate]]\nchain = \"certs/flat.pem\"\nkey = \"certs/flat.pem\"\n";
        fs::write(folder.join("sidegate.toml"), format!("{own}\n{pair}")).unwrap();
    };
    expect_hidden("certs/other.key", true, "sidegate.toml:", flat).await;
}

#[tokio::test]
async fn the_agent_names_the_place_and_check_shows_the_line() {
    let policy = "schema = 1\nowner = \"Tr0ub4dor\"\n[client]\nalow = [\"any\"] # Tr0ub4dor\n";
    let spoil = |folder: &Path| fs::write(folder.join("policies/default.toml"), policy).unwrap();
    let folder = files().await;
    let running = process::new(folder.path()).log("json").run().await;
    spoil(folder.path());
    let reload = lossy(
        &done(&["reload", "--config", "sidegate.toml", "--wait"], folder.path()).await.stderr,
    );
    for (place, text) in [("reload", reload), ("readyz", running.asked("/readyz").await)] {
        assert!(
            text.contains("policies/default.toml:4:1") && text.contains("did you mean `allow`?"),
            "{place}: {text}"
        );
        assert!(!text.contains("Tr0ub4dor") && !text.contains("^^^^"), "{place}: {text}");
    }
    let check = lossy(&done(&["check", "."], folder.path()).await.stderr);
    assert!(check.contains("alow = [\"any\"] # Tr0ub4dor") && check.contains("^^^^"), "{check}");
}

#[tokio::test]
async fn a_start_that_fails_shows_no_text_of_files() {
    let folder = files().await;
    fs::write(
        folder.path().join("policies/default.toml"),
        "schema = 1\n[client]\nallow = [\"any\"]\nlimit = \"Tr0ub4dor\"\n",
    )
    .unwrap();
    let started = done(&["run", "--config", "sidegate.toml"], folder.path()).await;
    let text = lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(78), "{text}");
    assert!(text.contains("policies/default.toml:4:1") && !text.contains("Tr0ub4dor"), "{text}");
}

#[tokio::test]
async fn a_list_in_a_folder_of_lists_from_is_read() {
    let backend = backend::echo().run().await;
    let feeds = tempfile::tempdir().unwrap();
    fs::write(feeds.path().join("x.cidr"), "127.0.0.1\n").unwrap();
    let file = feeds.path().join("x.cidr");
    let policy =
        |page: sidegate::Page| page.toml(&format!("[lists]\nx = {{ file = {file:?} }}")).allow("x");
    let builder = sidegate::new().clear().route("/chat", &backend).policy(policy);
    let error = builder.clone().try_run().await.err().unwrap().to_string();
    assert!(error.contains("lies outside") && error.contains("[policies] lists_from"), "{error}");
    let sidegate = builder.toml(&format!("policies.lists_from = [{:?}]", feeds.path())).run().await;
    crate::harness::client::new(&sidegate).open("/chat").await.expect_echo("admitted").await;
}
