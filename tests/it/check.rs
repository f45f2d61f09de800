//! `sidegate check`: what it takes, what it says in which form, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ::sidegate::StartError;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check, done};
use crate::harness::wire::lossy;
use crate::harness::{backend, sidegate};

/// Two policies, of which only `default` is used, and the list of each.
async fn two() -> TempDir {
    let page = |list: &str| {
        format!(
            "schema = 1\n[lists]\nx = {{ file = 'lists/{list}.cidr' }}\n[client]\nallow = ['x']\n"
        )
    };
    let sidegate = sidegate::new().route("/chat", &backend::echo().run().await);
    let sidegate = sidegate
        .file("policies/default.toml", &page("one"))
        .file("policies/desk.toml", &page("two"));
    sidegate
        .file("policies/lists/one.cidr", "10.0.0.0/8\n")
        .file("policies/lists/two.cidr", "10.0.0.0/8\n10.0.0.1\n")
        .write()
}

/// Of everything that is found: its file and line, and what `field` says.
async fn found(arguments: &[&str], folder: &Path, field: &str) -> Vec<(String, u64, String)> {
    let output = done(&[&["check", "--format", "json"], arguments].concat(), folder).await;
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|one| (text(one, "file"), one["line"].as_u64().unwrap(), text(one, field)))
        .collect()
}

/// The files that anything is found in, each once.
async fn files(arguments: &[&str], folder: &Path) -> Vec<String> {
    let mut files: Vec<_> =
        found(arguments, folder, "level").await.into_iter().map(|(file, _, _)| file).collect();
    files.sort();
    files.dedup();
    files
}

#[tokio::test]
async fn check_reports_that_valid_files_are_valid() {
    let folder = sidegate::new().route("/chat", &backend::echo().run().await).write();
    check(
        &["check", "--config", "sidegate.toml"],
        folder.path(),
        0,
        &["fine", "1 route, 1 policy"],
    )
    .await;
    check(&["check", "."], folder.path(), 0, &["fine"]).await;
}

#[tokio::test]
async fn check_reports_all_errors_at_once() {
    let sidegate =
        sidegate::new().route("/chat", &backend::echo().run().await).toml("[timeouts]\nhed = '1s'");
    let sidegate =
        sidegate.file("policies/other.toml", "schema = 1\n[client]\nallow = ['10.0.0.1/8']\n");
    let folder = sidegate
        .file("policies/lists/x.cidr", "")
        .policy(|page| page.list_file("x").allow("x"))
        .write();
    let said = [
        "sidegate.toml:",
        "`head`",
        "policies/other.toml:3",
        "10.0.0.0/8",
        "policies/lists/x.cidr",
        "3 errors",
    ];
    check(&["check", "."], folder.path(), 1, &said).await;
}

#[tokio::test]
async fn strict_turns_warnings_into_errors() {
    let folder = sidegate::new().write(); // no route: every request is answered 404
    check(&["check", "."], folder.path(), 0, &["fine: 0 routes, 1 policy, 4 warnings"]).await;
    check(
        &["check", "--strict", "."],
        folder.path(),
        1,
        &["no [[route]]", ".: 4 warnings, and --strict"],
    )
    .await;
}

#[tokio::test]
async fn policy_is_checked_by_itself_with_its_lists() {
    let folder = two().await;
    assert_eq!(files(&["policies/default.toml"], folder.path()).await, ["policies/default.toml"]);
    let desk = ["policies/desk.toml", "policies/lists/two.cidr"];
    assert_eq!(files(&["policies/desk.toml"], folder.path()).await, desk);
    fs::write(folder.path().join("policies/lists/two.cidr"), "10.0.0.1/8\n").unwrap();
    check(
        &["check", "policies/desk.toml"],
        folder.path(),
        1,
        &["policies/lists/two.cidr:1:1", "desk.toml: 1 error"],
    )
    .await;
    let elsewhere = [
        "policies/default.toml: no errors; warnings were not checked, because of errors in other files",
    ];
    check(&["check", "--strict", "policies/default.toml"], folder.path(), 1, &elsewhere).await;
    let output = done(&["check", "policies/default.toml"], folder.path()).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
}

#[tokio::test]
async fn a_directory_of_policies_is_checked_without_the_rest() {
    let folder = two().await;
    let all = ["policies/default.toml", "policies/desk.toml", "policies/lists/two.cidr"];
    assert_eq!(files(&["policies"], folder.path()).await, all);
    assert_eq!(
        files(&["policies/default.toml", "policies/desk.toml", "policies"], folder.path()).await,
        all
    );
    check(&["check", "policies"], folder.path(), 0, &["policies: fine: 2 policy files"]).await;
    let inside = folder.path().join("policies");
    assert_eq!(
        files(&["desk.toml"], &inside).await,
        ["../policies/desk.toml", "../policies/lists/two.cidr"]
    );
    assert_eq!(files(&["."], &inside).await.len(), 3);
}

#[tokio::test]
async fn policy_without_a_configuration_is_an_error() {
    let folder = two().await;
    fs::remove_file(folder.path().join("sidegate.toml")).unwrap();
    for path in ["policies", "policies/desk.toml"] {
        let said = [
            "sidegate.toml does not exist: policies are checked with the routes that use them",
            "sidegate init",
        ];
        check(&["check", path], folder.path(), 1, &said).await;
    }
    check(&["check", "."], folder.path(), 1, &["no sidegate.toml in this directory"]).await;
}

#[tokio::test]
async fn other_file_among_policies_is_an_error() {
    let folder = two().await;
    fs::write(folder.path().join("policies/Desk.toml"), "schema = 1\n").unwrap();
    check(
        &["check", "policies/Desk.toml"],
        folder.path(),
        1,
        &["a file of this name is ignored", "NAME.toml"],
    )
    .await;
    check(
        &["check", "policies/dask.toml"],
        folder.path(),
        1,
        &["policies/dask.toml does not exist"],
    )
    .await;
}

#[tokio::test]
async fn a_list_is_checked_alone() {
    let folder = TempDir::new().unwrap();
    let write = |text: &str| fs::write(folder.path().join("feed.cidr"), text).unwrap();
    write("10.0.0.0/8\n192.0.2.1 # one\n");
    check(&["check", "--strict", "feed.cidr"], folder.path(), 0, &["feed.cidr: fine: 2 entries"])
        .await;
    write("10.0.0.0/8\n10.0.0.1\n10.0.0.2 expires=2020-01-01\n");
    let lines: Vec<_> = found(&["feed.cidr"], folder.path(), "level")
        .await
        .into_iter()
        .map(|(_, line, _)| line)
        .collect();
    assert_eq!(lines, [3, 2]);
    write("10.0.0.0/33\n");
    check(&["check", "feed.cidr"], folder.path(), 1, &["feed.cidr:1:1", "feed.cidr: 1 error"])
        .await;
    write("");
    check(&["check", "feed.cidr"], folder.path(), 1, &["feed.cidr is empty (zero bytes)"]).await;
    check(&["check", "none.cidr"], folder.path(), 1, &["none.cidr does not exist"]).await;
}

#[tokio::test]
async fn json_output_is_one_array_only() {
    let folder = sidegate::new()
        .route("/chat", &backend::echo().run().await)
        .toml("timeouts.hed = '1s'")
        .write();
    let output = done(&["check", "--format", "json", "."], folder.path()).await;
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let line = all[0]["line"].as_u64().unwrap();
    let message = "unknown key `hed` in [timeouts]";
    let remedy = "did you mean `head`?";
    let expected = json!({ "level": "error", "file": "sidegate.toml", "line": line, "column": 1, "message": message, "remedy": remedy });
    assert_eq!((output.status.code(), all), (Some(1), vec![expected]));
    fs::write(folder.path().join("list.cidr"), "10.0.0.0/8\n").unwrap();
    assert_eq!(
        lossy(&done(&["check", "--format", "json", "list.cidr"], folder.path()).await.stdout),
        "[]\n"
    );
}

#[tokio::test]
async fn github_gets_a_workflow_command_for_each_finding() {
    let folder = two().await;
    let output = done(&["check", "--format", "github", "policies/desk.toml"], folder.path()).await;
    let (said, lines) = (lossy(&output.stdout), lossy(&output.stdout).lines().count());
    let list = "::warning file=policies/lists/two.cidr,line=2,col=1,title=sidegate check::10.0.0.1 changes nothing: ";
    assert!(said.contains(list) && said.contains("for as long%0Ahelp: remove it"), "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("::warning file=policies/")) && lines > 2,
        "{said}"
    );
    assert!(
        lossy(&output.stderr).contains("policies/desk.toml: fine"),
        "what people read stands beside it"
    );
}

#[tokio::test]
async fn finding_in_the_docs_is_real_output() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md")).unwrap();
    let (_, shown) = page.split_once("```json\n").unwrap();
    let shown: Vec<Value> = serde_json::from_str(shown.split("```").next().unwrap()).unwrap();
    let folder = two().await;
    let output = done(&["check", "--format", "json", "policies/default.toml"], folder.path()).await;
    let mut found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    found.retain(|finding| finding["message"] == shown[0]["message"]);
    found[0]["file"] = shown[0]["file"].clone();
    found[0]["line"] = shown[0]["line"].clone();
    assert_eq!(found, shown);
}

#[tokio::test]
async fn socket_that_this_host_refuses_is_warned_of() {
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path).display().to_string();
    fs::write(at("notes"), "").unwrap();
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
    for (path, said, starts) in [
        ("missing/public.sock", "does not exist on this host", false),
        ("notes", "something other than a socket", false),
        ("open/public.sock", "all users may write to", true),
    ] {
        let listen = format!("listen = 'unix:{}'", at(path));
        let sidegate = sidegate::new().clear().on_listener(&listen);
        let folder = sidegate.clone().write();
        let all = found(&["--config", "sidegate.toml"], folder.path(), "message").await;
        let line = all.iter().find(|(_, _, message)| message.contains(said)).map(|one| one.1);
        assert!(line.is_some_and(|line| line > 1), "no {said} in {all:?}");
        check(&["check", "--config", "sidegate.toml"], folder.path(), 0, &["fine"]).await;
        assert_eq!(sidegate.try_run().await.is_ok(), starts, "{path}");
    }
}

#[tokio::test]
async fn sockets_through_a_symbolic_link_are_one_file() {
    let place = tempfile::tempdir().unwrap();
    let at = |path: &str| place.path().join(path).display().to_string();
    fs::create_dir(at("run")).unwrap();
    std::os::unix::fs::symlink(at("run"), at("link")).unwrap();
    let second = format!("[[listener]]\nname = 'second'\nlisten = 'unix:{}'", at("link/a.sock"));
    let builder =
        sidegate::new().clear().on_listener(&format!("listen = 'unix:{}'", at("run/a.sock")));
    let twice = builder.clone().toml(&format!("{second}\ntls = false"));
    let folder = twice.clone().write();
    let said = &["run/a.sock, the address of `public`"];
    check(&["check", "--config", "sidegate.toml"], folder.path(), 1, said).await;
    assert!(matches!(twice.try_run().await, Err(StartError::InvalidFiles(_))));
    let backend = backend::echo().run().await;
    let keys = format!("backend = 'unix:{}'", at("link/../run/a.sock"));
    let folder = builder.route("/chat", &backend).on_route(&keys).write();
    let said = &["is the listener `public`"];
    check(&["check", "--config", "sidegate.toml"], folder.path(), 1, said).await;
}
