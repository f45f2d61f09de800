//! `sidegate diff`, `sidegate promote` and the bounds on a reload: the clients that new files would
//! cut off, before they do.

use ::sidegate::admin::wire::{DiffAnswer, KeyChange};

use crate::cli::{Running, check, done, run};
use crate::harness::wire::lossy;
use crate::harness::{backend, client, sidegate};

const DIFF: &[&str] = &["diff", "--config", "sidegate.toml"];
const PROMOTE: &[&str] = &["promote", "--config", "sidegate.toml", "default"];

fn policy(allow: &str) -> String {
    format!(
        "schema = 1\n\n[lists]\npartners = {{ file = \"lists/partners.cidr\" }}\n\n[client]\nallow = {allow}\n"
    )
}

/// An agent in a process of its own without `watch`, with a tunnel from each of 127.0.0.1 to .3.
async fn running(
    more: &str,
) -> (tempfile::TempDir, Running, backend::Backend, Vec<client::Tunnel>) {
    let backend = backend::echo().run().await;
    let files =
        sidegate::new().clear().route("/chat", &backend).toml("reload.watch = 'off'").toml(more);
    let files = files.file("policies/lists/partners.cidr", "127.0.0.0/24\n192.0.2.1 owner=acme\n");
    let folder = files.file("policies/default.toml", &policy("[\"partners\"]")).write();
    let running = run(folder.path()).await;
    let mut tunnels = Vec::new();
    for last in 1..=3 {
        tunnels.push(running.client().from(&format!("127.0.0.{last}")).open("/chat").await);
    }
    (folder, running, backend, tunnels)
}

fn put(folder: &tempfile::TempDir, path: &str, text: &str) {
    std::fs::write(folder.path().join(path), text).unwrap();
}

#[tokio::test]
async fn diff_reports_no_difference() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    check(
        DIFF,
        folder.path(),
        0,
        &[
            "the running configuration matches the files",
            "now: 0 of 3 open tunnels would be closed",
        ],
    )
    .await;
}

#[tokio::test]
async fn diff_has_entries_rules_and_tunnels_to_close() {
    let (folder, running, _backend, mut tunnels) = running("").await;
    put(
        &folder,
        "policies/lists/partners.cidr",
        "127.0.0.0/24\n!127.0.0.2 ticket=SEC-1\n198.51.100.7 expires=2099-12-31\n",
    );
    put(
        &folder,
        "policies/default.toml",
        &format!("{}origins = [\"none\"]\n", policy("[\"partners\"]")),
    );
    let said = [
        "~ policies/lists/partners.cidr  +2 -1 ~0  in `partners` of default",
        "+198.51.100.7 expires=2099-12-31",
        "-192.0.2.1 owner=acme",
        "+ policies/default.toml  client.origins: [\"none\"]",
        "now: 1 of 3 open tunnels would be closed",
        "1 on chat: network",
        "127.0.0.2 on chat, open since ",
        ": !127.0.0.2 (policies/lists/partners.cidr:2)",
    ];
    check(DIFF, folder.path(), 0, &said).await;
    check(&[DIFF, &["--max-revoked", "34%"]].concat(), folder.path(), 0, &["1 of 3"]).await;
    check(
        &[DIFF, &["--max-revoked", "33%"]].concat(),
        folder.path(),
        1,
        &["more than 33% would be closed"],
    )
    .await;
    check(
        &[DIFF, &["--max-revoked", "0"]].concat(),
        folder.path(),
        1,
        &["more than 0 would be closed"],
    )
    .await;
    check(
        &[DIFF, &["--max-revoked", "few"]].concat(),
        folder.path(),
        2,
        &["neither a share nor a number"],
    )
    .await;
    tunnels[1].expect_echo("nothing was changed by asking").await;
    running
        .client()
        .from("127.0.0.2")
        .open("/chat")
        .await
        .expect_echo("nor for those who come")
        .await;
}

#[tokio::test]
async fn diff_has_what_limits_count_by() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    let limits = "[limits]\nupgrades = { rate = \"5/s\", per = \"identity\" }\n\
                  connections = { per_client = 9, per = \"identity\" }\n\
                  [[limits.for]]\nidentity = [\"spiffe://a/*\"]\nidle = \"1h\"\n";
    put(&folder, "policies/default.toml", &format!("{}{limits}", policy("[\"partners\"]")));
    let said = [
        "limits.connections.per: \"address\" -> \"identity\"",
        "limits.upgrades: {\"burst\":5,\"per\":\"identity\",\"rate\":\"5/s\"}",
        "\"identity\":[\"spiffe://a/*\"]",
    ];
    check(DIFF, folder.path(), 0, &said).await;
}

#[tokio::test]
async fn diff_has_networks_and_rules_that_an_edit_lets_in() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    let origins = "origins = [\"same\", \"none\"]\n[limits]\nconnections = { total = 5 }\n";
    put(&folder, "policies/default.toml", &format!("{}{origins}", policy("[\"partners\"]")));
    check(&["reload", "--config", "sidegate.toml", "--wait"], folder.path(), 0, &[]).await;
    put(&folder, "policies/lists/partners.cidr", "126.0.0.0/7\n192.0.2.0/24\n2001:db8::/32\n");
    put(&folder, "policies/default.toml", &policy("[\"partners\"]"));
    let said = [
        "widens: 26 networks on chat (policy default): 0.78 % of IPv4, less than 0.01 % of IPv6",
        "\n    126.0.0.0/8\n    127.128.0.0/9\n",
        "… and 16 more networks",
        "widens: policy default  client.origins: admits every origin",
        "widens: policy default  limits.connections.total: unlimited instead of 5",
    ];
    check(DIFF, folder.path(), 0, &said).await;
    let output = done(&[DIFF, &["--json"]].concat(), folder.path()).await;
    let DiffAnswer::Changed(changes) = serde_json::from_slice(&output.stdout).unwrap() else {
        panic!("{output:?}")
    };
    let clients = &changes.widening.clients[0];
    assert_eq!((changes.widening.networks, clients.largest.len()), (26, 26));
    assert_eq!((clients.ipv4, clients.ipv6_64), ((1 << 25) - 256 + 255, 1 << 32));
}

#[tokio::test]
async fn reload_that_admits_too_much_is_held_until_accepted() {
    let (folder, running, _backend, _tunnels) = running("reload.max_widened = '1%'").await;
    let held = "would be newly admitted, more than max_widened = \"1%\"";
    let partners = |text| put(&folder, "policies/lists/partners.cidr", text);
    let reload = ["reload", "--config", "sidegate.toml", "--wait"];
    partners("127.0.0.0/24\n192.0.2.1\n10.0.0.0/8\n");
    check(&reload, folder.path(), 0, &["published"]).await;
    partners("127.0.0.0/24\n192.0.2.1\n10.0.0.0/8\n16.0.0.0/6\n");
    let named = ["1 network (67108864 addresses of IPv4)", held, "policies/lists/partners.cidr"];
    check(DIFF, folder.path(), 1, &named).await;
    check(&reload, folder.path(), 1, &[held, "rejected"]).await;
    check(&["status", "--config", "sidegate.toml"], folder.path(), 0, &[held]).await;
    let accepted = [&reload[..], &["--accept-widening"]].concat();
    check(&accepted, folder.path(), 0, &["published"]).await;
    drop(running);
}

#[tokio::test]
async fn network_count_bounds_what_a_reload_admits() {
    let (folder, _running, _backend, _tunnels) = running("reload.max_widened = 1").await;
    let reload = ["reload", "--config", "sidegate.toml", "--wait"];
    put(&folder, "policies/lists/partners.cidr", "127.0.0.0/24\n192.0.2.0/31\n198.51.100.7\n");
    check(&reload, folder.path(), 1, &["2 networks (2 addresses of IPv4)", "max_widened"]).await;
    put(&folder, "policies/lists/partners.cidr", "127.0.0.0/24\n192.0.2.0/31\n");
    check(&reload, folder.path(), 0, &["published"]).await;
}

/// A copy of the configuration in `folder`.
fn copy_of(folder: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(copy.path().join("policies/lists")).unwrap();
    for file in ["sidegate.toml", "policies/default.toml", "policies/lists/partners.cidr"] {
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    copy
}

#[tokio::test]
async fn staged_folder_is_compared_and_changes_nothing() {
    let (folder, running, _backend, mut tunnels) = running("").await;
    let copy = copy_of(&folder);
    let staged = [DIFF, &["--staged", copy.path().to_str().unwrap()]].concat();
    check(&staged, folder.path(), 0, &["the running configuration matches the staged files"]).await;
    put(&copy, "policies/lists/partners.cidr", "127.0.0.0/24\n!127.0.0.2\n198.51.100.0/24\n");
    put(&copy, "policies/more.toml", "schema = 1\nclient.allow = ['any']\n");
    let said = [
        "+2 -1 ~0  in `partners` of default",
        "+ policies/more.toml",
        "widens: 1 network on chat (policy default)",
        "now: 1 of 3 open tunnels would be closed",
        "127.0.0.2 on chat, open since ",
    ];
    check(&staged, folder.path(), 0, &said).await;
    check(&[&staged[..], &["--max-revoked", "0"]].concat(), folder.path(), 1, &["more than 0"])
        .await;
    let copy_of_one = copy.path().join("policies/lists/partners.cidr");
    let one = [DIFF, &["--staged", copy_of_one.to_str().unwrap()]].concat();
    check(&one, folder.path(), 0, &["now: 1 of 3 open tunnels would be closed"]).await;
    check(DIFF, folder.path(), 0, &["the running configuration matches the files"]).await;
    tunnels[1].expect_echo("nothing was changed").await;
    drop(running);
}

#[tokio::test]
async fn staged_errors_are_told_with_the_names_of_the_copies() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    let copy = copy_of(&folder);
    let staged = [DIFF, &["--staged", copy.path().to_str().unwrap()]].concat();
    put(&copy, "policies/default.toml", "schema = 1\nclient.alow = []\n");
    let place = format!("--> {}/policies/default.toml:2", copy.path().display());
    check(&staged, folder.path(), 1, &[&place, "the staged files have errors"]).await;
    let itself = [DIFF, &["--staged", "."]].concat();
    check(&itself, folder.path(), 1, &["is the configuration itself: name a copy"]).await;
    std::fs::remove_file(copy.path().join("policies/default.toml")).unwrap();
    check(&staged, folder.path(), 1, &["policies/default.toml"]).await;
}

#[tokio::test]
async fn networks_in_place_of_any_are_shown() {
    let folder = tested("", "").route("/chat", &backend::echo().run().await).write();
    let copy = tempfile::tempdir().unwrap();
    put(&copy, "default.toml", "schema = 1\nclient.allow = ['192.0.2.0/24']\n");
    let copy_of_one = copy.path().join("default.toml");
    let one = [DIFF, &["--staged", copy_of_one.to_str().unwrap()]].concat();
    check(&one, folder.path(), 0, &["client.allow: [\"any\"] -> [\"192.0.2.0/24"]).await;
}

#[tokio::test]
async fn diff_json_includes_the_configuration() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    let config = std::fs::read_to_string(folder.path().join("sidegate.toml")).unwrap();
    put(
        &folder,
        "sidegate.toml",
        &config.replace("revoke_spread = \"0s\"", "revoke_spread = \"7s\""),
    );
    put(&folder, "policies/other.toml", "schema = 1\nclient.allow = ['any']\n");
    let output = done(&[DIFF, &["--json"]].concat(), folder.path()).await;
    let DiffAnswer::Changed(changes) = serde_json::from_slice(&output.stdout).unwrap() else {
        panic!("{output:?}")
    };
    assert_eq!((&*changes.held, changes.tunnels.revoked), (&[][..], 0));
    let (file, key) = ("sidegate.toml".to_owned(), "reload.revoke_spread".to_owned());
    assert_eq!(
        changes.keys[0],
        KeyChange { file, key, from: Some("0s".into()), to: Some("7s".into()) }
    );
    assert_eq!((&*changes.keys[1].file, &changes.keys[1].from), ("policies/other.toml", &None));
}

#[tokio::test]
async fn diff_of_invalid_files_prints_their_errors() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    put(&folder, "policies/default.toml", "schema = 1\nclient.alow = []\n");
    check(DIFF, folder.path(), 1, &["policies/default.toml:2", "a reload would be rejected"]).await;
}

#[tokio::test]
async fn a_reload_that_closes_too_many_is_held_until_it_is_accepted() {
    let (folder, running, _backend, mut tunnels) = running("reload.max_revoked = '33%'").await;
    put(&folder, "policies/default.toml", &policy("[\"127.0.0.1\"]"));
    let held = "2 of 3 open tunnels would be closed, more than max_revoked = \"33%\"";
    check(DIFF, folder.path(), 1, &[held, "sidegate reload --accept-revocations"]).await;
    let reload = ["reload", "--config", "sidegate.toml", "--wait"];
    check(&reload, folder.path(), 1, &[held, "rejected: the previous configuration keeps running"])
        .await;
    tunnels[1].expect_echo("kept").await;
    check(
        &[&reload[..], &["--accept-revocations"]].concat(),
        folder.path(),
        0,
        &["2 tunnels revoked"],
    )
    .await;
    tunnels[1].expect_close_with(1008, "network").await;
    tunnels[0].expect_echo("stays").await;
    running.client().from("127.0.0.2").attempt("/chat").await.expect_refused(403, "network");
}

#[tokio::test]
async fn a_candidate_is_promoted_after_the_gates_of_a_reload() {
    let (folder, running, _backend, mut tunnels) = running("reload.max_revoked = '1'").await;
    put(&folder, "policies/default.shadow.toml", &policy("[\"127.0.0.1\"]"));
    let order = "if they are meant: sidegate promote default --accept-revocations\n";
    let said = ["2 of 3 open tunnels would be closed", order, "default is not promoted"];
    check(PROMOTE, folder.path(), 1, &said).await;
    assert!(folder.path().join("policies/default.shadow.toml").exists());
    put(&folder, "policies/default.shadow.toml", &policy("[\"127.0.0.0/31\", \"127.0.0.2\"]"));
    check(
        PROMOTE,
        folder.path(),
        0,
        &["promoted: policies/default.shadow.toml is policies/default.toml", "1 tunnel revoked"],
    )
    .await;
    tunnels[2].expect_close_with(1008, "network").await;
    tunnels[1].expect_echo("stays").await;
    assert!(!folder.path().join("policies/default.shadow.toml").exists());
    running.client().from("127.0.0.3").attempt("/chat").await.expect_refused(403, "network");
}

#[tokio::test]
async fn invalid_candidate_is_not_promoted_and_no_file_changes() {
    let (folder, _running, _backend, _tunnels) = running("").await;
    check(
        PROMOTE,
        folder.path(),
        1,
        &["policies/default.shadow.toml does not exist: there is nothing to promote"],
    )
    .await;
    let test = "[[test]]\nname = 'in'\nclient = '127.0.0.2'\nurl = 'ws://localhost/chat'\nexpect = 'allow'\n";
    let (before, wrong) =
        (policy("[\"partners\"]"), format!("{}{test}", policy("[\"127.0.0.1\"]")));
    put(&folder, "policies/default.shadow.toml", &wrong);
    check(
        PROMOTE,
        folder.path(),
        1,
        &["test \"in\" failed: expected allow, got refuse:network", "default is not promoted"],
    )
    .await;
    assert_eq!(
        std::fs::read_to_string(folder.path().join("policies/default.toml")).unwrap(),
        before
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("policies/default.shadow.toml")).unwrap(),
        wrong
    );
}

#[tokio::test]
async fn candidate_is_promoted_without_an_agent_with_a_note() {
    let folder = sidegate::new().clear().route("/chat", &backend::echo().run().await);
    let folder = folder
        .file("policies/default.shadow.toml", "schema = 1\nclient.allow = ['127.0.0.1']\n")
        .write();
    let output = done(PROMOTE, folder.path()).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(lossy(&output.stderr).contains("because no agent runs"), "{output:?}");
    let promoted = std::fs::read_to_string(folder.path().join("policies/default.toml")).unwrap();
    assert!(
        promoted.contains("127.0.0.1")
            && !folder.path().join("policies/default.shadow.toml").exists()
    );
}

/// A `[[test]]` of 127.0.0.1 under this name.
fn named_test(name: &str, expect: &str) -> String {
    let request = "client = '127.0.0.1'\nurl = 'ws://localhost/chat'";
    format!("[[test]]\nname = '{name}'\n{request}\nexpect = '{expect}'\n")
}

/// A folder whose policy has `tests`, and whose candidate has `kept`.
fn tested(tests: &str, kept: &str) -> sidegate::Builder {
    let page = |tests: &str| format!("schema = 1\nclient.allow = ['any']\n{tests}");
    let files = sidegate::new().clear().toml("reload.watch = 'off'");
    let files = files.file("policies/default.toml", &page(tests));
    files.file("policies/default.shadow.toml", &page(kept))
}

#[tokio::test]
async fn promote_refuses_to_drop_a_test() {
    let backend = backend::echo().run().await;
    let own = named_test("office", "allow");
    for kept in ["", &named_test("office", "allow").replace("127.0.0.1", "127.0.0.2")] {
        let folder = tested(&own, kept).route("/chat", &backend).write();
        let _running = run(folder.path()).await;
        let warned = "test \"office\" is missing in policies/default.shadow.toml";
        let said = [warned, "default is not promoted: its candidate lacks 1 test"];
        check(PROMOTE, folder.path(), 1, &said).await;
        assert!(folder.path().join("policies/default.shadow.toml").exists());
        let diff = done(DIFF, folder.path()).await;
        assert!(lossy(&diff.stderr).contains(warned), "{diff:?}");
        let forced = done(&[PROMOTE, &["--drop-tests"]].concat(), folder.path()).await;
        assert!(forced.status.success() && lossy(&forced.stderr).contains(warned), "{forced:?}");
    }
}

#[tokio::test]
async fn promote_keeps_tests_under_other_names() {
    let backend = backend::echo().run().await;
    let own = named_test("office", "allow");
    let kept = format!("{}{}", named_test("more", "allow"), named_test("all", "allow"));
    let folder = tested(&own, &kept).route("/chat", &backend).write();
    check(PROMOTE, folder.path(), 0, &["promoted: "]).await;
}

#[tokio::test]
async fn promote_lists_the_names_that_exist() {
    let backend = backend::echo().run().await;
    let folder = tested("", "").route("/chat", &backend).write();
    let promote = |name| ["promote", "--config", "sidegate.toml", name];
    let said = "there is no policy `defualt`";
    check(&promote("defualt"), folder.path(), 1, &[said, "did you mean `default`?"]).await;
    std::fs::remove_file(folder.path().join("policies/default.shadow.toml")).unwrap();
    check(&promote("default"), folder.path(), 1, &["no policy has a candidate"]).await;
}
