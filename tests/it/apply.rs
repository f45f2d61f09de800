//! `sidegate apply`: a checked copy replaces the configuration, all of its files or none.

use std::fs;
use std::path::Path;

use crate::cli::{Running, check, done, run};
use crate::harness::{backend, client, sidegate, within};

const POLICY: &str = "schema = 1\n[lists]\noffice = { file = \"lists/office.cidr\" }\n\
                      [client]\nallow = [\"office\"]\n";

/// An agent with a tunnel from 127.0.0.1 and from .2, and a copy of its configuration.
struct Applied {
    folder: tempfile::TempDir,
    copy: tempfile::TempDir,
    running: Running,
    _backend: backend::Backend,
    tunnels: Vec<client::Tunnel>,
}

impl Applied {
    async fn start(more: &str) -> Applied {
        let backend = backend::echo().run().await;
        let files = sidegate::new().clear().route("/chat", &backend).toml(more);
        let files = files.file("policies/lists/office.cidr", "127.0.0.0/24\n");
        let files = files.file("policies/old.toml", "schema = 1\nclient.allow = ['192.0.2.1']\n");
        let folder = files.file("policies/default.toml", POLICY).write();
        let running = run(folder.path()).await;
        let mut tunnels = Vec::new();
        for last in 1..=2 {
            tunnels.push(running.client().from(&format!("127.0.0.{last}")).open("/chat").await);
        }
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir_all(copy.path().join("policies/lists")).unwrap();
        for file in ["sidegate.toml", "policies/default.toml", "policies/old.toml"] {
            fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
        }
        let list = "policies/lists/office.cidr";
        fs::copy(folder.path().join(list), copy.path().join(list)).unwrap();
        Applied { folder, copy, running, _backend: backend, tunnels }
    }

    fn stage(&self, file: &str, text: &str) {
        fs::write(self.copy.path().join(file), text).unwrap();
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).unwrap()
    }

    async fn apply(&self, more: &[&str], code: i32, said: &[&str]) {
        let copy = self.copy.path().to_str().unwrap();
        let apply = ["apply", "--config", "sidegate.toml", copy];
        check(&[&apply, more].concat(), self.folder.path(), code, said).await;
    }
}

/// The hidden files in the folders of the configuration.
fn hidden(folder: &Path) -> Vec<String> {
    let folders = [folder.to_owned(), folder.join("policies"), folder.join("policies/lists")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[tokio::test]
async fn copy_is_applied_with_open_tunnels() {
    let mut applied = Applied::start("").await;
    applied.stage("policies/lists/office.cidr", "127.0.0.0/24\n!127.0.0.2\n");
    applied.stage("policies/more.toml", "schema = 1\nclient.allow = ['any']\n");
    fs::remove_file(applied.copy.path().join("policies/old.toml")).unwrap();
    applied.apply(&[], 1, &["without a terminal, --yes applies"]).await;
    assert!(!applied.text("policies/lists/office.cidr").contains("127.0.0.2"));
    let said = [
        "- policies/old.toml",
        "now: 1 of 2 open tunnels would be closed",
        "  replaces policies/lists/office.cidr",
        "  adds policies/more.toml",
        "  removes policies/old.toml",
        "published: generation 2",
        "applied",
    ];
    let refused = "the copy lacks policies/old.toml, and --yes removes no policy";
    applied.apply(&["--yes"], 1, &[refused]).await;
    assert!(applied.folder.path().join("policies/old.toml").exists());
    applied.apply(&["--yes", "--allow-removal"], 0, &said).await;
    applied.tunnels[1].expect_close_with(1008, "network").await;
    applied.tunnels[0].expect_echo("stays").await;
    assert!(applied.text("policies/lists/office.cidr").contains("!127.0.0.2"));
    assert!(!applied.folder.path().join("policies/old.toml").exists());
    assert_eq!(hidden(applied.folder.path()), [""; 0]);
    applied.apply(&["--yes"], 0, &["nothing to apply"]).await;
}

#[tokio::test]
async fn live_list_that_is_newer_than_the_copy_stays() {
    let mut applied = Applied::start("").await;
    let live = POLICY.replace(".cidr\" }", ".cidr\", live = true }");
    assert_ne!(live, POLICY);
    applied.stage("policies/default.toml", &live);
    applied.apply(&["--yes"], 0, &["applied"]).await;
    let list = "policies/lists/office.cidr";
    fs::write(applied.folder.path().join(list), "127.0.0.0/24\n!127.0.0.2\n").unwrap();
    applied.tunnels[1].expect_close_with(1008, "network").await;
    applied.stage("policies/more.toml", "schema = 1\nclient.allow = ['192.0.2.1']\n");
    let stays = "lists/office.cidr stays: the copy is not newer (+0 -1 entries: -!127.0.0.2)";
    let copy = applied.copy.path().to_str().unwrap().to_owned();
    let diff = ["diff", "--config", "sidegate.toml", "--staged", &copy];
    check(&diff, applied.folder.path(), 0, &[stays, "+ policies/more.toml"]).await;
    applied.apply(&["--yes"], 0, &[stays, "  adds policies/more.toml"]).await;
    assert!(applied.text(list).contains("!127.0.0.2"));
    let older = "lists/office.cidr, an older version: +0 -1 entries";
    applied.apply(&["--yes", "--with-live"], 0, &[older, "replaces policies/lists/off"]).await;
    assert!(!applied.text(list).contains("!127.0.0.2"));
}

#[tokio::test]
async fn failed_test_is_overridden_by_name() {
    let applied = Applied::start("").await;
    let test = "[[test]]\nname = 'in'\nclient = '127.0.0.9'\nurl = 'ws://localhost/chat'\n\
                expect = 'refuse:network'\n";
    applied.stage("policies/default.toml", &format!("{POLICY}{test}"));
    let unknown = ["--yes", "--override", "on"];
    applied.apply(&unknown, 1, &["there is no test \"on\"", "nothing was changed"]).await;
    applied.apply(&["--yes", "--override", "in"], 0, &["published: generation 2"]).await;
}

#[tokio::test]
async fn copy_with_errors_is_not_applied() {
    let applied = Applied::start("").await;
    let test = "[[test]]\nname = 'in'\nclient = '127.0.0.9'\nurl = 'ws://localhost/chat'\n\
                expect = 'refuse:network'\n";
    applied.stage("policies/default.toml", &format!("{POLICY}{test}"));
    let said = ["test \"in\" failed", "the staged files have errors", "nothing was changed"];
    applied.apply(&["--yes"], 1, &said).await;
    assert_eq!(applied.text("policies/default.toml"), POLICY);
    check(&["diff", "--config", "sidegate.toml"], applied.folder.path(), 0, &["matches the files"])
        .await;
}

#[tokio::test]
async fn bound_holds_an_apply_until_it_is_accepted() {
    let applied = Applied::start("reload = { max_revoked = 0, max_widened = 0 }").await;
    applied.stage("policies/lists/office.cidr", "127.0.0.0/24\n!127.0.0.2\n192.0.2.0/24\n");
    applied.apply(&["--yes"], 1, &["more than max_revoked", "held: nothing was changed"]).await;
    // The agent decides at the reload which of the bounds was accepted.
    let one = ["--yes", "--accept-revocations"];
    applied.apply(&one, 1, &["more than max_widened", "the files are as they were before"]).await;
    assert_eq!(applied.text("policies/lists/office.cidr"), "127.0.0.0/24\n");
    assert_eq!(hidden(applied.folder.path()), [""; 0]);
    let status = ["status", "--config", "sidegate.toml"];
    check(&status, applied.folder.path(), 0, &["generation   1 "]).await;
    let both = ["--yes", "--accept-revocations", "--accept-widening"];
    applied.apply(&both, 0, &["1 tunnel revoked", "applied"]).await;
}

#[tokio::test]
async fn edit_that_loosens_checks_is_said_and_counted() {
    let applied = Applied::start("reload = { max_widened = 5 }").await;
    let test = "[[test]]\nname = 'out'\nclient = '192.0.2.9'\nurl = 'ws://localhost/chat'\n\
                expect = 'refuse:network'\n";
    let guarded = POLICY.replace(
        ".cidr\"",
        ".cidr\", max_age = \"36h\", on_stale = \"reject\", max_shrink = \"10%\"",
    );
    let list = "127.0.0.0/24 expires=2999-01-01\n";
    applied.stage("policies/default.toml", &format!("{guarded}deny = [\"192.0.2.1\"]\n{test}"));
    applied.stage("policies/lists/office.cidr", list);
    applied.apply(&["--yes"], 0, &["applied"]).await;

    applied.stage("policies/default.toml", POLICY);
    applied.stage("policies/lists/office.cidr", "127.0.0.0/24\n");
    let said = [
        "- policies/default.toml  lists.office.max_age: \"36h\"",
        "widens: list office of default  max_age: unlimited instead of \"36h\"",
        "widens: list office of default  on_stale: accepts a list that is no longer written",
        "widens: list office of default  max_shrink: \"50%\" above 100 entries instead of \"10%\"",
        "widens: policy default  client.allow: 127.0.0.0/24 for ever instead of until 2999-01-01",
        "widens: policy default  test: \"out\" is gone or expects something else",
    ];
    let staged = applied.copy.path().to_str().unwrap();
    let diff = ["diff", "--config", "sidegate.toml", "--staged", staged];
    check(&diff, applied.folder.path(), 0, &said).await;
    let config = applied.text("sidegate.toml").replace("max_widened = 5", "max_widened = 4");
    applied.stage("sidegate.toml", &config);
    let held = "5 wider rules would be newly admitted, more than max_widened = \"4\"";
    applied.apply(&["--yes"], 1, &[held]).await;
    let config = config.replace("max_widened = 4", "max_widened = \"1%\"");
    applied.stage("sidegate.toml", &config);
    let share = "widens: file sidegate.toml  reload.max_widened: \"1%\" instead of \"5\"";
    applied.apply(&["--yes"], 0, &[share, "applied"]).await;
}

#[tokio::test]
async fn apply_under_hold_publishes_pending_files_and_says_so() {
    let held = "process.state = 'state'\nreload = { watch = 'hold', max_revoked = 0 }";
    let mut applied = Applied::start(held).await;
    let folder = applied.folder.path().to_owned();
    let status = async || {
        let output = done(&["status", "--config", "sidegate.toml", "--json"], &folder).await;
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    fs::write(folder.join("policies/old.toml"), "schema = 1\nclient.allow = ['192.0.2.2']\n")
        .unwrap();
    within("a pending file", async { while status().await["pending"].is_null() {} }).await;
    let list = "policies/lists/office.cidr";
    applied.stage(list, "127.0.0.0/24\n!127.0.0.2\n");
    let copy = applied.copy.path().join(list);
    let apply = ["apply", "--config", "sidegate.toml", "--yes", copy.to_str().unwrap()];
    check(&apply, &folder, 1, &["more than max_revoked", "held: nothing was changed"]).await;
    assert_eq!(status().await["pending"]["changed"], serde_json::json!(["policies/old.toml"]));
    let order = [&apply[..], &["--accept-revocations"]].concat();
    let said = "publishes pending files too: policies/old.toml";
    let published = [said, "published: generation 2", "1 tunnel revoked", "applied"];
    check(&order, &folder, 0, &published).await;
    applied.tunnels[1].expect_close_with(1008, "network").await;
    assert!(status().await["pending"].is_null());
    // A set that the agent rejects is neither in force nor pending.
    applied.stage(list, "127.0.0.8\n");
    let shrink = [&apply[..], &["--accept-shrink", "office"]].concat();
    check(&shrink, &folder, 1, &["the files are as they were before"]).await;
    let now = status().await;
    assert!(now["pending"].is_null() && now["generation"] == 2, "{now}");
}

#[tokio::test]
async fn interrupted_apply_leaves_the_former_set_in_force() {
    let mut applied = Applied::start("reload.poll = '50ms'").await;
    let at = |file: &str| applied.folder.path().join(file);
    let target = |file: &str| fs::canonicalize(at(file)).unwrap().display().to_string();
    let list = target("policies/lists/office.cidr");
    // As a kill behind the first of two renames leaves the files.
    fs::hard_link(&list, at("policies/lists/.office.cidr.sidegate-before")).unwrap();
    let file = format!(
        r#"{{"path":"policies/lists/office.cidr","target":"{list}","change":"replaced",
            "sha256":"{}"}}"#,
        sha256("127.0.0.1\n")
    );
    let journal = format!(r#"{{"schema":1,"state":"replacing","files":[{file}]}}"#);
    fs::write(at(".sidegate-apply.json"), journal).unwrap();
    fs::write(at("policies/lists/.office.cidr.sidegate-new"), "127.0.0.1\n").unwrap();
    fs::rename(at("policies/lists/.office.cidr.sidegate-new"), &list).unwrap();
    applied.running.logged("`sidegate apply` broke off: the files before it count").await;
    let warned = "was broken off: the files before it count";
    let diff = ["diff", "--config", "sidegate.toml"];
    check(&diff, applied.folder.path(), 0, &["matches the files"]).await;
    applied.tunnels[1].expect_echo("no mixture was read").await;
    let status = ["status", "--config", "sidegate.toml"];
    check(&["reload", "--config", "sidegate.toml", "--wait"], applied.folder.path(), 0, &[]).await;
    check(&status, applied.folder.path(), 0, &[warned]).await;
    let recover = ["apply", "--config", "sidegate.toml", "--recover"];
    check(&recover, applied.folder.path(), 0, &["was rolled back"]).await;
    assert_eq!(applied.text("policies/lists/office.cidr"), "127.0.0.0/24\n");
    assert_eq!(hidden(applied.folder.path()), [""; 0]);
    check(&recover, applied.folder.path(), 0, &["no interrupted apply was found"]).await;
}

#[tokio::test]
async fn agent_starts_with_the_former_set_of_an_interrupted_apply() {
    let backend = backend::echo().run().await;
    let files = sidegate::new().clear().route("/chat", &backend);
    let folder =
        files.file("policies/default.toml", "schema = 1\nclient.allow = ['any']\n").write();
    let policy = fs::canonicalize(folder.path().join("policies/default.toml")).unwrap();
    fs::rename(&policy, policy.with_file_name(".default.toml.sidegate-before")).unwrap();
    let file = format!(
        r#"{{"path":"policies/default.toml","target":"{}","change":"removed","sha256":null}}"#,
        policy.display()
    );
    let journal = format!(r#"{{"schema":1,"state":"replacing","files":[{file}]}}"#);
    fs::write(folder.path().join(".sidegate-apply.json"), journal).unwrap();
    let running = run(folder.path()).await;
    running.client().open("/chat").await.expect_echo("served").await;
    fs::write(folder.path().join(".sidegate-apply.json"), "{").unwrap();
    let reload = ["reload", "--config", "sidegate.toml", "--wait"];
    check(&reload, folder.path(), 1, &["is not a journal of `sidegate apply`"]).await;
}

#[tokio::test]
async fn copy_is_applied_without_an_agent() {
    let backend = backend::echo().run().await;
    let folder = sidegate::new().clear().route("/chat", &backend).write();
    let copy = tempfile::tempdir().unwrap();
    let policy = copy.path().join("default.toml");
    fs::write(&policy, "schema = 1\nclient.alow = []\n").unwrap();
    let apply = ["apply", "--config", "sidegate.toml", "--yes", policy.to_str().unwrap()];
    check(&apply, folder.path(), 1, &["unknown key `alow`", "nothing was changed"]).await;
    fs::write(&policy, "schema = 1\nclient.allow = ['192.0.2.1']\n").unwrap();
    let json = done(&[&apply[..], &["--json"]].concat(), folder.path()).await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (json["outcome"].as_str(), &json["diff"]),
        (Some("applied"), &serde_json::Value::Null)
    );
    assert_eq!(json["replaced"][0], "policies/default.toml");
    let text = fs::read_to_string(folder.path().join("policies/default.toml")).unwrap();
    assert!(text.contains("192.0.2.1"));
}

#[tokio::test]
async fn staged_copy_is_compared_with_the_files_without_an_agent() {
    let folder = sidegate::new().clear().route("/chat", &backend::echo().run().await).write();
    let copy = tempfile::tempdir().unwrap();
    let policy = copy.path().join("default.toml");
    fs::write(&policy, "schema = 1\nclient.allow = ['192.0.2.0/24']\n").unwrap();
    let diff = ["diff", "--config", "sidegate.toml", "--staged", policy.to_str().unwrap()];
    let said = ["~ policies/default.toml", "now: 0 of 0 open tunnels would be closed"];
    check(&diff, folder.path(), 0, &said).await;
    fs::write(&policy, "schema = 1\nclient.alow = []\n").unwrap();
    check(&diff, folder.path(), 1, &["unknown key `alow`", "the staged files have errors"]).await;
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
