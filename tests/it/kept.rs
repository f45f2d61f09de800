//! What a restart serves when saved files may not count yet: the published files that were kept.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::cli::command;
use crate::harness::backend::{self, Backend};
use crate::harness::process;
use crate::harness::wire::lossy;
use crate::harness::{certificate, sidegate, within};
use crate::hold::{BANNED, POLICY, edit, holding, keeping, order, serves, status};

const CONFIG: &str = "sidegate.toml";
const KEPT: &str = "state/published";

/// A folder whose agent has kept its files. A pending edit would admit 127.0.0.8.
async fn with_pending_edit(backend: &Backend) -> tempfile::TempDir {
    let folder = holding(backend).clear().policy(|page| page.deny("127.0.0.8")).write();
    drop(keeping(folder.path()).await);
    edit(folder.path(), POLICY, ", \"127.0.0.8\"", "");
    folder
}

/// Waits until the warnings of `sidegate status` have `part`, or have it no more.
async fn warns(folder: &Path, part: &str, expected: bool) {
    let settled = async {
        while status(folder).await["warnings"].to_string().contains(part) != expected {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("warnings with {part:?}: {expected}"), settled).await;
}

/// Asserts that the agent does not start, and prints all of these.
fn refuses_to_start(folder: &Path, said: &[&str]) {
    let output = command(&["run", "--config", CONFIG], folder).output().unwrap();
    let text = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    said.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in {text}"));
}

#[tokio::test]
async fn broken_live_list_publishes_no_pending_edit_at_a_restart() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    let list = folder.path().join(BANNED);
    for broken in [None, Some("no network\n"), Some("")] {
        match broken {
            None => fs::remove_file(&list).unwrap(),
            Some(text) => fs::write(&list, text).unwrap(),
        }
        let process = process::new(folder.path()).run().await;
        assert!(!serves(&process, "127.0.0.8").await, "{broken:?}: the edit is pending");
        assert!(!serves(&process, "127.0.0.99").await, "{broken:?}: the last good list counts");
        warns(folder.path(), "the last reload was rejected", true).await;
        assert!(process.asked("/readyz").await.contains("banned.cidr"));
    }
    fs::write(&list, "127.0.0.98\n").unwrap();
    let process = process::new(folder.path()).run().await;
    assert!(serves(&process, "127.0.0.99").await && !serves(&process, "127.0.0.98").await);
    assert!(!serves(&process, "127.0.0.8").await);
    order(&[], folder.path(), 0, &["published"]).await;
    assert!(serves(&process, "127.0.0.8").await);
}

/// Asserts that the policy is still pending, with the certificate served.
async fn holds_with_certificate(folder: &Path) {
    let _process = process::new(folder).run().await;
    let pending = async {
        loop {
            let status = status(folder).await;
            if status["pending"]["changed"][0] == POLICY {
                return status["certificates"].as_array().unwrap().len();
            }
        }
    };
    assert_eq!(within("pending files", pending).await, 1);
}

#[tokio::test]
async fn missing_chain_is_served_from_what_was_kept() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).tls().write();
    drop(keeping(folder.path()).await);
    fs::write(folder.path().join(POLICY), "schema = 1\n[client]\nallow = ['any']\n").unwrap();
    let kept = fs::read(folder.path().join(KEPT)).unwrap();
    assert!(lossy(&kept).contains("BEGIN CERTIFICATE") && !lossy(&kept).contains("PRIVATE KEY"));
    let (chain, key) = (folder.path().join("certs/0.pem"), folder.path().join("certs/0.key"));
    fs::remove_file(&chain).unwrap();
    holds_with_certificate(folder.path()).await;
    // A renewal while a list is broken: the new chain belongs to the new key.
    let pair = certificate::signed(&["localhost"]);
    fs::write(&chain, &pair.chain).unwrap();
    fs::write(&key, &pair.key).unwrap();
    fs::write(folder.path().join(BANNED), "no network\n").unwrap();
    holds_with_certificate(folder.path()).await;
    // A key is never kept.
    fs::remove_file(&key).unwrap();
    let said =
        ["certs/0.key does not exist", "these published files cannot be served", "move this"];
    refuses_to_start(folder.path(), &said);
}

#[tokio::test]
async fn file_with_a_key_in_it_is_not_kept() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).tls().write();
    let pair = certificate::signed(&["localhost"]);
    fs::write(folder.path().join("certs/0.pem"), format!("{}{}", pair.chain, pair.key)).unwrap();
    fs::write(folder.path().join("certs/0.key"), pair.key).unwrap();
    drop(keeping(folder.path()).await);
    let kept = fs::read(folder.path().join(KEPT)).unwrap();
    assert!(!lossy(&kept).contains("PRIVATE KEY") && !lossy(&kept).contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn restart_does_not_publish_what_max_widened_rejects() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new()
        .route("/chat", &backend)
        .clear()
        .toml("reload = { watch = 'auto', max_widened = 0 }\nprocess.state = 'state'")
        .policy(|page| page.allow_only("127.0.0.8"))
        .write();
    drop(keeping(folder.path()).await);
    edit(folder.path(), POLICY, "\"127.0.0.8\"", "\"127.0.0.8\", \"127.0.0.9\"");
    let mut second = process::new(folder.path()).run().await;
    assert!(serves(&second, "127.0.0.8").await && !serves(&second, "127.0.0.9").await);
    second.line("more than max_widened").await;
    warns(folder.path(), "the last reload was rejected", true).await;
    order(&["--accept-widening"], folder.path(), 0, &["published"]).await;
    drop(second);
    let third = process::new(folder.path()).run().await;
    assert!(serves(&third, "127.0.0.9").await, "what was ordered is served");
    // A bound does not stop what narrows, nor a start with errors from being an error.
    drop(third);
    edit(folder.path(), POLICY, "\"127.0.0.8\", ", "");
    let fourth = process::new(folder.path()).run().await;
    assert!(!serves(&fourth, "127.0.0.8").await && serves(&fourth, "127.0.0.9").await);
    drop(fourth);
    fs::write(folder.path().join(POLICY), "schema = 2\n").unwrap();
    refuses_to_start(folder.path(), &["policies/default.toml:1:10"]);
}

#[tokio::test]
async fn restart_does_not_publish_a_live_list_that_shrank() {
    let backend = backend::echo().run().await;
    let bounded =
        "[lists]\nbanned = { file = 'lists/banned.cidr', live = true, max_shrink = '0%' }";
    let folder = sidegate::new()
        .route("/chat", &backend)
        .clear()
        .toml("reload = { watch = 'hold' }\nprocess.state = 'state'")
        .policy(|page| page.toml(bounded).deny("banned"))
        .file(BANNED, "127.0.0.99\n127.0.0.98\n")
        .write();
    drop(keeping(folder.path()).await);
    fs::write(folder.path().join(BANNED), "127.0.0.98\n").unwrap();
    let process = process::new(folder.path()).run().await;
    assert!(!serves(&process, "127.0.0.99").await);
    warns(folder.path(), "the last reload was rejected", true).await;
    assert!(status(folder.path()).await["last_reload"].to_string().contains("max_shrink"));
    order(&["--live", "--accept-shrink", "banned"], folder.path(), 0, &["published"]).await;
    assert!(serves(&process, "127.0.0.99").await && !serves(&process, "127.0.0.98").await);
}

#[tokio::test]
async fn saved_files_without_an_order_are_a_warning_until_one() {
    let backend = backend::echo().run().await;
    for is_damaged in [true, false] {
        let folder = with_pending_edit(&backend).await;
        let kept = folder.path().join(KEPT);
        match is_damaged {
            true => fs::write(&kept, "{}\n").unwrap(),
            false => fs::remove_file(&kept).unwrap(),
        }
        for start in 0..2 {
            let process = keeping(folder.path()).await;
            assert!(serves(&process, "127.0.0.8").await, "start {start}");
            warns(folder.path(), "run without an order", true).await;
            assert!(process.asked("/readyz").await.contains("run without an order"));
        }
        let process = process::new(folder.path()).run().await;
        order(&[], folder.path(), 0, &["unchanged"]).await;
        warns(folder.path(), "run without an order", false).await;
        drop(process);
        let _again = process::new(folder.path()).run().await;
        assert!(!status(folder.path()).await["warnings"].to_string().contains("without an order"));
    }
}

#[tokio::test]
async fn first_start_is_no_start_without_an_order() {
    let backend = backend::echo().run().await;
    let folder = holding(&backend).clear().write();
    fs::create_dir(folder.path().join("state")).unwrap();
    let _process = keeping(folder.path()).await;
    assert!(!status(folder.path()).await["warnings"].to_string().contains("without an order"));
}

#[tokio::test]
async fn kept_files_are_those_of_any_spelling_of_the_configuration() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    let beside = tempfile::tempdir().unwrap();
    let link = beside.path().join("link");
    symlink(folder.path(), &link).unwrap();
    let absolute = folder.path().join(CONFIG).display().to_string();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let dots = format!("../{name}/{CONFIG}");
    for config in [&absolute, &dots, &link.join(CONFIG).display().to_string(), "./"] {
        let process = process::of(folder.path(), config).run().await;
        assert!(!serves(&process, "127.0.0.8").await, "{config}");
        assert!(!serves(&process, "127.0.0.99").await, "{config}");
    }
}

#[tokio::test]
async fn state_folder_that_others_can_write_is_not_used() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    let state = folder.path().join("state");
    fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
    let process = process::new(folder.path()).run().await;
    assert!(serves(&process, "127.0.0.8").await, "what is in it is not used");
    warns(folder.path(), "other users may write to it (mode 0777)", true).await;
    drop(process);
    // Without hold it is not used either: a set that was put there would be served.
    let config = fs::read_to_string(folder.path().join(CONFIG)).unwrap();
    edit(folder.path(), CONFIG, "\"hold\"", "\"auto\"");
    let process = process::new(folder.path()).run().await;
    assert!(serves(&process, "127.0.0.8").await);
    warns(folder.path(), "other users may write to it (mode 0777)", true).await;
    drop(process);
    fs::write(folder.path().join(CONFIG), config).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    // A file in it that others can write.
    fs::set_permissions(folder.path().join(KEPT), Permissions::from_mode(0o666)).unwrap();
    let _process = process::new(folder.path()).run().await;
    warns(folder.path(), "other users may write to it (mode 0666)", true).await;
}

#[tokio::test]
async fn kept_files_are_found_without_the_saved_setting() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    // Written after the set itself.
    let note = folder.path().join("own-state/published.at");
    let noted = async {
        let _process = process::new(folder.path()).run().await;
        while !note.exists() {
            tokio::task::yield_now().await;
        }
    };
    within("a note of the folder", noted).await;
    let config = folder.path().join(CONFIG);
    let good = fs::read_to_string(&config).unwrap();
    let other = good.replace("state = \"state\"", "state = \"other\"");
    assert_ne!(other, good);
    for saved in [Some(""), Some("x =\n"), Some("process.state = 5\n"), Some(&other), None] {
        match saved {
            Some(text) => fs::write(&config, text).unwrap(),
            None => fs::remove_file(&config).unwrap(),
        }
        let process = process::new(folder.path()).run().await;
        assert!(!serves(&process, "127.0.0.8").await, "{saved:?}");
    }
    fs::write(&config, &other).unwrap();
    let first = process::new(folder.path()).run().await;
    order(&[], folder.path(), 1, &["state", "restart"]).await;
    drop(first);
    // The order counts: the folder moves with it.
    let second = process::new(folder.path()).run().await;
    let moved = async {
        while folder.path().join(KEPT).exists() {
            tokio::task::yield_now().await;
        }
    };
    within("files in the new folder", moved).await;
    assert!(serves(&second, "127.0.0.8").await);
    drop(second);
    fs::write(&config, &good).unwrap();
    let third = process::new(folder.path()).run().await;
    assert!(serves(&third, "127.0.0.8").await);
    warns(folder.path(), "run without an order", false).await;
}

#[tokio::test]
async fn order_that_cannot_be_kept_says_so_until_it_is() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    let mut process = process::new(folder.path()).run().await;
    // No file replaces a folder.
    let kept = folder.path().join(KEPT);
    fs::remove_file(&kept).unwrap();
    fs::create_dir(&kept).unwrap();
    let output =
        command(&["reload", "--wait", "--config", CONFIG], folder.path()).output().unwrap();
    assert!(output.status.success());
    assert!(lossy(&output.stderr).contains("not kept over a restart"), "{output:?}");
    process.line("the published files are not kept over a restart").await;
    warns(folder.path(), "not kept over a restart", true).await;
    assert!(process.asked("/readyz").await.contains("not kept over a restart"));
    let again = command(&["reload", "--wait", "--config", CONFIG], folder.path()).output().unwrap();
    assert!(lossy(&again.stderr).contains("not kept over a restart"), "{again:?}");
    fs::remove_dir(&kept).unwrap();
    order(&[], folder.path(), 0, &[]).await;
    warns(folder.path(), "not kept over a restart", false).await;
    assert!(kept.exists());
}

#[tokio::test]
async fn unknown_test_is_an_error_of_live_orders_too() {
    let backend = backend::echo().run().await;
    let folder = with_pending_edit(&backend).await;
    let _process = process::new(folder.path()).run().await;
    let said = ["there is no test \"nope\""];
    order(&["--live", "--override", "nope"], folder.path(), 1, &said).await;
    order(&["--override", "nope"], folder.path(), 1, &said).await;
    order(&["--live"], folder.path(), 0, &["unchanged"]).await;
}
