//! Gates that hold a load back: failing tests, too many revocations, lists that shrank or are
//! stale. A calendar day never does.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ::sidegate::StartError;
use ::sidegate::admin::wire::{DiagnosticReport, ReloadAnswer, ReloadRequest, WarningKind};
use ::sidegate::control::reload::ReloadOutcome;

use crate::cli;
use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::within;

const POLICY: &str = "policies/default.toml";
const LIST: &str = "policies/lists/partners.cidr";

/// A policy that admits all but 127.0.0.66, with a test for this client.
fn tested(client: &str, at: &str, expect: &str) -> String {
    let rules = "schema = 1\n[client]\nallow = [\"127.0.0.0/8\", \"192.0.2.1 expires=2026-01-01\"]\ndeny = [\"127.0.0.66\"]\n";
    format!(
        "{rules}[[test]]\nname = \"x\"\nclient = \"{client}\"\nurl = \"wss://localhost/chat\"\n{at}\nexpect = \"{expect}\"\n"
    )
}

fn new(backend: &Backend) -> Builder {
    sidegate::new().route("/chat", backend)
}

async fn echoing(build: impl FnOnce(Builder) -> Builder) -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    let sidegate = build(new(&backend)).run().await;
    (sidegate, backend)
}

/// Returns whether a reload that accepts these lists passes, and its diagnostics.
async fn reload(sidegate: &Sidegate, shrink: &[&str], accept_revocations: bool) -> (bool, String) {
    let accept_shrink = shrink.iter().map(|list| (*list).to_owned()).collect();
    let request = ReloadRequest { accept_shrink, accept_revocations, ..ReloadRequest::default() };
    let (passes, diagnostics) = match sidegate.ask_reload(&request).await {
        ReloadAnswer::Published { diagnostics, .. } => (true, diagnostics),
        ReloadAnswer::Rejected { diagnostics } => (false, diagnostics),
        other => panic!("{other:?}"),
    };
    let text = |one: &DiagnosticReport| {
        format!("{} ({})", one.message, one.remedy.as_deref().unwrap_or_default())
    };
    (passes, diagnostics.iter().map(text).collect::<Vec<_>>().join("\n"))
}

/// Lets the file look as if it had been written so long ago.
fn age(path: &Path, age: Duration) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn failed_test_rejects_the_reload() {
    let (sidegate, _backend) = echoing(|sidegate| sidegate).await;
    let mut before = client::new(&sidegate).from("127.0.0.66").open("/chat").await;
    let body = sidegate.write_rejected(POLICY, &tested("127.0.0.66", "", "allow")).await;
    assert!(
        body.contains(
            "default.toml:10:10: error: test \"x\" failed: expected allow, got refuse:network"
        ),
        "{body}"
    );
    before.expect_echo("still here").await;
    sidegate.write(POLICY, &tested("127.0.0.66", "", "refuse:network")).await;
    before.expect_close_with(1008, "network").await;
}

#[tokio::test]
async fn a_candidate_and_the_baseline_are_tested_too() {
    let (sidegate, _backend) = echoing(|sidegate| sidegate).await;
    let body = sidegate
        .write_rejected("policies/default.shadow.toml", &tested("127.0.0.1", "", "refuse"))
        .await;
    assert!(body.contains("default.shadow.toml:10:10"), "{body}");
    sidegate.write("policies/default.shadow.toml", &tested("127.0.0.1", "", "allow")).await;
    let baseline = tested("127.0.0.1", "", "refuse")
        .replace("allow = [\"127.0.0.0/8\", \"192.0.2.1 expires=2026-01-01\"]\n", "");
    let body = sidegate.write_rejected("policies/baseline.toml", &baseline).await;
    assert!(
        body.contains("baseline.toml:9:10: error: test \"x\" failed: expected refuse, got allow"),
        "{body}"
    );
}

#[tokio::test]
async fn removed_route_fails_the_tests_of_its_policy() {
    let (sidegate, _backend) =
        echoing(|sidegate| sidegate.file(POLICY, &tested("127.0.0.1", "", "allow"))).await;
    let config = std::fs::read_to_string(sidegate.config()).unwrap().replace("/chat", "/chats");
    let body = sidegate.write_rejected("sidegate.toml", &config).await;
    assert!(body.contains("test \"x\": no route leads there"), "{body}");
}

#[tokio::test]
async fn failed_test_at_start_is_an_error() {
    let backend = backend::echo().run().await;
    let started = new(&backend).file(POLICY, &tested("127.0.0.66", "", "allow")).try_run().await;
    let Err(StartError::InvalidFiles(errors)) = started else { panic!("it started") };
    let text = errors[0].to_string();
    assert!(
        text.contains("REFUSE 403 network")
            && text.contains("127.0.0.66 (policies/default.toml:4)"),
        "{text}"
    );
}

#[tokio::test]
async fn tests_ignore_the_date_unless_they_have_an_instant() {
    let (sidegate, _backend) =
        echoing(|sidegate| sidegate.file(POLICY, &tested("192.0.2.1", "", "allow"))).await;
    client::new(&sidegate).open("/chat").await.expect_echo("started").await;
    sidegate.write(POLICY, &tested("192.0.2.1", "at = 2026-01-01T23:59:59Z", "allow")).await;
    sidegate
        .write(POLICY, &tested("192.0.2.1", "at = 2026-01-02T00:00:00Z", "refuse:network"))
        .await;
    let body = sidegate
        .write_rejected(POLICY, &tested("192.0.2.1", "at = 2026-01-02T00:00:00Z", "allow"))
        .await;
    assert!(body.contains("expected allow, got refuse:network"), "{body}");
}

#[tokio::test]
async fn reload_that_closes_too_many_is_held_until_accepted_once() {
    let (sidegate, _backend) =
        echoing(|sidegate| sidegate.toml("reload = { max_revoked = '1', poll = '50ms' }")).await;
    let mut tunnels = Vec::new();
    for last in 1..=3 {
        tunnels.push(client::new(&sidegate).from(&format!("127.0.0.{last}")).open("/chat").await);
    }
    let body = sidegate.write_rejected(POLICY, "schema = 1\nclient.allow = ['127.0.0.1']\n").await;
    let sentence = "2 of 3 open tunnels would be closed, more than max_revoked = \"1\"";
    assert!(body.contains(sentence), "{body}");
    let (passes, said) = reload(&sidegate, &["partners"], false).await;
    assert!(!passes && said.contains(sentence) && said.contains("--accept-revocations"), "{said}");
    assert!(said.contains("changed: policies/default.toml;"), "{said}");
    for tunnel in &mut tunnels {
        tunnel.expect_echo("kept").await;
    }
    sidegate.expect_metric("sidegate_reloads_total", [("outcome", "rejected")], 2).await;
    assert_eq!(reload(&sidegate, &[], true).await, (true, String::new()));
    tunnels[1].expect_close_with(1008, "network").await;
    tunnels[0].expect_echo("stays").await;
}

#[tokio::test]
async fn reload_within_the_revocation_bound_is_not_held() {
    let (sidegate, _backend) =
        echoing(|sidegate| sidegate.toml("reload.max_revoked = '50%'")).await;
    let mut leaving = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    let _staying = client::new(&sidegate).from("127.0.0.1").open("/chat").await;
    sidegate.policy().deny("127.0.0.2").write().await;
    leaving.expect_close_with(1008, "network").await;
}

/// 127.0.0.0/24, and so many other networks.
fn entries(more: usize) -> String {
    let others: String = (0..more).map(|n| format!("10.{}.{}.0/24\n", n / 256, n % 256)).collect();
    format!("127.0.0.0/24\n{others}")
}

/// A sidegate without `watch` that admits a list of so many entries, with these keys.
async fn listing(keys: &str, more: usize) -> (Sidegate, Backend) {
    let list = format!("[lists]\npartners = {{ file = 'lists/partners.cidr'{keys} }}");
    let policy = |page: sidegate::Page| page.toml(&list).allow("partners");
    echoing(|sidegate| {
        sidegate.toml("reload.watch = 'off'").policy(policy).file(LIST, &entries(more))
    })
    .await
}

#[tokio::test]
async fn truncated_list_is_held_until_accepted() {
    let (sidegate, _backend) = listing("", 200).await;
    let mut before = client::new(&sidegate).open("/chat").await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
    sidegate.put(LIST, "10.0.0.0/24\n127.0.0.2\n");
    for (shrink, revocations) in [(&[][..], false), (&["others"], false), (&[], true)] {
        let (passes, said) = reload(&sidegate, shrink, revocations).await;
        let sentence = "partners: policies/lists/partners.cidr shrank from 201 entries to 2; max_shrink is \"50%\"";
        assert!(
            !passes && said.contains(sentence) && said.contains("--accept-shrink partners"),
            "{said}"
        );
    }
    before.expect_echo("kept").await;
    assert!(reload(&sidegate, &["others", "partners"], false).await.0);
    before.expect_close_with(1008, "network").await;
    sidegate.put(LIST, "127.0.0.2\n");
    assert!(reload(&sidegate, &[], false).await.0, "of few entries as many may go as like");
}

#[tokio::test]
async fn explicit_shrink_bound_holds_for_small_lists() {
    let (sidegate, _backend) = listing(", max_shrink = '10%'", 9).await;
    sidegate.put(LIST, entries(7));
    assert!(
        reload(&sidegate, &[], false)
            .await
            .1
            .contains("shrank from 10 entries to 8; max_shrink is \"10%\"")
    );
    sidegate.put(LIST, entries(8));
    assert!(reload(&sidegate, &[], false).await.0);
}

#[tokio::test]
async fn a_stale_list_is_a_warning() {
    let (sidegate, _backend) = listing(", max_age = '36h'", 1).await;
    age(&sidegate.folder().join(LIST), 5 * DAY);
    sidegate.policy().deny("127.0.0.9").put();
    let ReloadOutcome::Published { warnings, .. } = sidegate.reload().await else {
        panic!("not published")
    };
    assert!(
        warnings[0]
            .message
            .contains("partners.cidr was last written 5 days ago; max_age is \"36h\""),
        "{}",
        warnings[0]
    );
    assert!(sidegate.readyz().await.1.contains("5 days ago"));
}

#[tokio::test]
async fn stale_list_rejects_a_reload_and_no_start_when_configured() {
    let backend = backend::echo().run().await;
    let list = "[lists]\npartners = { file = 'lists/partners.cidr', max_age = '36h', on_stale = 'reject' }";
    let builder = new(&backend)
        .clear()
        .toml("reload.watch = 'off'")
        .policy(|page| page.toml(list).allow("partners"));
    let folder = builder.file(LIST, "127.0.0.1\n").write();
    age(&folder.path().join(LIST), 5 * DAY);
    let running = cli::run(folder.path()).await;
    running.client().open("/chat").await.expect_echo("started").await;
    std::fs::write(folder.path().join("policies/spare.toml"), "schema = 1\nclient.allow = []\n")
        .unwrap();
    let reload = ["reload", "--config", "sidegate.toml", "--wait"];
    let said = [
        "partners: policies/lists/partners.cidr was last written 5 days ago",
        "on_stale = \"warn\"",
        "rejected",
    ];
    cli::check(&reload, folder.path(), 1, &said).await;
    age(&folder.path().join(LIST), Duration::ZERO);
    cli::check(&reload, folder.path(), 0, &["published"]).await;
}

#[tokio::test]
async fn refreshed_list_with_equal_bytes_is_found_by_polling() {
    let list = "[lists]\npartners = { file = 'lists/partners.cidr', max_age = '36h', on_stale = 'reject' }";
    let policy = |page: sidegate::Page| page.toml(list).allow("partners");
    let (sidegate, _backend) = echoing(|sidegate| {
        sidegate.toml("reload.watch = 'poll'").policy(policy).file(LIST, "127.0.0.1\n")
    })
    .await;
    age(&sidegate.folder().join(LIST), 5 * DAY);
    let denying = std::fs::read_to_string(sidegate.folder().join(POLICY))
        .unwrap()
        .replace("[client]", "[client]\ndeny = [\"127.0.0.9\"]");
    assert!(sidegate.write_rejected(POLICY, &denying).await.contains("5 days ago"));
    age(&sidegate.folder().join(LIST), Duration::ZERO);
    sidegate.expect_metric("sidegate_generation", [], 2).await;
    sidegate.expect_metric("sidegate_reloads_total", [("outcome", "rejected")], 1).await;
}

#[tokio::test]
async fn stale_list_is_reported_until_it_is_written_again() {
    let list = "[lists]\npartners = { file = 'lists/partners.cidr', max_age = '1h' }";
    let policy = |page: sidegate::Page| page.toml(list).allow("partners");
    let (sidegate, _backend) = echoing(|sidegate| {
        sidegate.toml("reload.poll = '100ms'").policy(policy).file(LIST, "127.0.0.1\n")
    })
    .await;
    let path = sidegate.folder().join(LIST);
    assert!(!sidegate.readyz().await.1.contains("last written"));
    age(&path, Duration::from_secs(3599));
    let told = async {
        while !sidegate.readyz().await.1.contains("partners.cidr was last written 60 minutes ago") {
        }
    };
    within("a word of the stale list", told).await;
    let warnings = sidegate.status().await.warnings;
    assert_eq!(warnings[0].word, WarningKind::Stale, "{warnings:?}");
    let sentence =
        "the list partners of default was last written 60 minutes ago; max_age is \"1h\"";
    assert_eq!(warnings[0].sentence, sentence);
    age(&path, Duration::ZERO);
    within("no word of it", async { while sidegate.readyz().await.1.contains("last written") {} })
        .await;
    assert_eq!(sidegate.status().await.warnings, []);
    assert_eq!(sidegate.generation().await, 1);
}
