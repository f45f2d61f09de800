//! Changes that are hard to see: behind links, in a folder that was gone, in one file of two.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use ::sidegate::admin::wire::WarningKind;
use ::sidegate::control::reload::ReloadOutcome;
use notify::event::{AccessKind, EventKind};
use notify::{RecursiveMode, Watcher};
use rustix::process::Signal;

use crate::cli::{check, run};
use crate::harness::sidegate::Sidegate;
use crate::harness::{backend, certificate, client, process, sidegate, within};

const DEGRADED: &str = "sidegate_watch_degraded";
const RELOADS: &str = "sidegate_reloads_total";
const BANNED: &str = "policies/lists/banned.cidr";

/// A sidegate whose policy denies the list `banned`, which says that 127.0.0.9 is.
async fn banning() -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let builder = sidegate::new()
        .clear()
        .route("/chat", &backend)
        .policy(|page| page.list_file("banned").deny("banned"));
    (builder.file(BANNED, "127.0.0.9\n").run().await, backend)
}

/// Waits until an attempt from this address is refused: at most `seconds`.
async fn expect_banned(sidegate: &Sidegate, address: &str, seconds: u64) {
    let (client, began) = (client::new(sidegate).from(address), Instant::now());
    within("a refusal", async { while client.attempt("/chat").await.status() != 403 {} }).await;
    assert!(began.elapsed() < Duration::from_secs(seconds), "{:?}", began.elapsed());
}

// C-RLD-06, F12
#[tokio::test]
async fn missing_folder_is_a_warning_until_it_is_back() {
    let (sidegate, _backend) = banning().await;
    let policy = fs::read_to_string(sidegate.folder().join("policies/default.toml")).unwrap();
    fs::remove_dir_all(sidegate.folder().join("policies")).unwrap();
    sidegate.expect_metric(DEGRADED, [], 1).await;
    let (status, body) = sidegate.readyz().await;
    assert!(
        status == 200 && body.contains("polled every 2s") && body.contains("policies is gone"),
        "{status} {body}"
    );
    assert_eq!(sidegate.status().await.warnings[1].word, WarningKind::WatchDegraded);
    client::new(&sidegate).open("/chat").await.expect_echo("as before").await;
    sidegate.put("policies/default.toml", policy);
    sidegate.put(BANNED, "127.0.0.2\n");
    expect_banned(&sidegate, "127.0.0.2", 3).await;
    sidegate.expect_metric(DEGRADED, [], 0).await;
}

/// Puts a link in the place of another one in a single step.
fn swap(target: &str, link: &Path) {
    let beside = link.with_added_extension("tmp");
    symlink(target, &beside).unwrap();
    fs::rename(beside, link).unwrap();
}

#[tokio::test]
async fn swapped_link_in_the_middle_of_a_path_is_noticed() {
    let (sidegate, _backend) = banning().await;
    let at = |path: &str| sidegate.folder().join("policies").join(path);
    let mut before = client::new(&sidegate).open("/chat").await;
    for release in 0..6 {
        fs::create_dir_all(at(&format!("releases/{release}/lists"))).unwrap();
        fs::write(
            at(&format!("releases/{release}/lists/banned.cidr")),
            format!("127.0.0.{}\n", 10 + release),
        )
        .unwrap();
    }
    // As deployment tools do, which leave the former release where it was.
    symlink("releases/0", at("current")).unwrap();
    fs::remove_dir_all(at("lists")).unwrap();
    symlink("current/lists", at("lists")).unwrap();
    expect_banned(&sidegate, "127.0.0.10", 3).await;
    for release in 1..6 {
        swap(&format!("releases/{release}"), &at("current"));
        expect_banned(&sidegate, &format!("127.0.0.{}", 10 + release), 2).await;
    }
    before.expect_echo("still here").await;
}

#[tokio::test]
async fn file_created_later_takes_effect() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().route("/chat", &backend).run().await;
    sidegate.policy().change(|page| page.list_file("banned").deny("banned")).put();
    sidegate.expect_metric(RELOADS, [("outcome", "rejected")], 1).await;
    sidegate.put(BANNED, "127.0.0.2\n");
    expect_banned(&sidegate, "127.0.0.2", 3).await;
}

// C-RLD-12
#[tokio::test]
async fn changed_permissions_are_noticed() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let (named, key) =
        (sidegate.folder().join("certs/0.key"), sidegate.folder().join("certs/own.key"));
    // Anybody may read a link: it is what it leads to that counts.
    fs::rename(&named, &key).unwrap();
    symlink("own.key", named).unwrap();
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }));
    let warned = async |expected: bool| {
        let told =
            async { while sidegate.readyz().await.1.contains("others can read") != expected {} };
        within("another word about the key", told).await;
    };
    warned(false).await;
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    warned(true).await;
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    warned(false).await;
    assert_eq!(sidegate.metric(RELOADS, [("outcome", "published")]).await, 0.0);
}

#[tokio::test]
async fn reading_files_triggers_no_further_read() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().clear().route("/chat", &backend).toml("reload.poll = '300ms'").run().await;
    let (tell, mut opened) = tokio::sync::mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let open = event.is_ok_and(|event| {
            matches!(event.kind, EventKind::Access(AccessKind::Open(_)))
                && event.paths[0].ends_with("sidegate.toml")
        });
        if open {
            tell.send(()).unwrap();
        }
    })
    .unwrap();
    watcher.watch(sidegate.folder(), RecursiveMode::NonRecursive).unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        within("a look", opened.recv()).await;
    }
    assert!(began.elapsed() > Duration::from_millis(2400), "ten looks in {:?}", began.elapsed());
    assert_eq!((sidegate.metric(RELOADS, []).await, sidegate.generation().await), (0.0, 1));
}

#[tokio::test]
async fn watch_mode_can_be_changed_by_a_reload() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().clear().route("/chat", &backend).toml("reload.watch = 'off'").run().await;
    let mut config = sidegate.toml();
    config.insert("reload".into(), toml::Value::Table("watch = 'auto'".parse().unwrap()));
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Published { .. }));
    sidegate.policy().deny("127.0.0.2").put();
    expect_banned(&sidegate, "127.0.0.2", 2).await;
}

#[tokio::test]
async fn half_renewed_certificate_is_awaited() {
    let folder = sidegate::new().write();
    let mut process = process::new(folder.path()).log("json").run().await;
    let renewed = certificate::signed(&["localhost", "127.0.0.1"]);
    fs::write(folder.path().join("certs/0.pem"), &renewed.chain).unwrap();
    let calm = process::json(&process.line("waiting for the other file of a renewal").await);
    assert_eq!(calm["level"].as_str().map(str::to_lowercase).as_deref(), Some("info"), "{calm}");
    assert_eq!(process.metric("sidegate_config_last_reload_successful").await, 1.0);
    fs::write(folder.path().join("certs/0.key"), &renewed.key).unwrap();
    process.logged("published").await;
    let rest = process.ended().await;
    assert!(!rest.iter().any(|line| line.contains("rejected")), "{rest:?}");
}

// F09
#[tokio::test]
async fn half_renewal_that_lasts_is_an_error() {
    const EXPIRY: &str = "sidegate_certificate_not_after_timestamp_seconds";
    let sidegate = sidegate::new().run().await;
    let before = sidegate.metric(EXPIRY, []).await;
    let began = Instant::now();
    sidegate.write_rejected("certs/0.pem", &certificate::signed(&["localhost"]).chain).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(sidegate.readyz().await.1.contains("is not the key of"));
    assert_eq!(sidegate.metric(EXPIRY, []).await, before);
}

#[tokio::test]
async fn certificate_is_served_once_both_links_are_swapped() {
    let sidegate = sidegate::new().run().await;
    let at = |path: &str| sidegate.folder().join("certs").join(path);
    // As certbot has it: live/ leads to archive/.
    fs::create_dir(at("archive")).unwrap();
    for file in ["0.pem", "0.key"] {
        fs::rename(at(file), at(&format!("archive/1-{file}"))).unwrap();
        symlink(format!("archive/1-{file}"), at(file)).unwrap();
    }
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { .. }));
    let client = client::new(&sidegate);
    let served = async || client.connect().await.tls().peer_certificates().unwrap()[0].clone();
    let (old, renewed) = (served().await, certificate::signed(&["localhost", "127.0.0.1"]));
    fs::write(at("archive/2-0.pem"), &renewed.chain).unwrap();
    fs::write(at("archive/2-0.key"), &renewed.key).unwrap();
    swap("archive/2-0.pem", &at("0.pem"));
    assert_eq!(served().await, old);
    swap("archive/2-0.key", &at("0.key"));
    within("the new pair", async { while served().await == old {} }).await;
    sidegate.expect_metric(RELOADS, [("outcome", "rejected")], 0).await;
}

// C-RLD-04, C-TLS-06
#[tokio::test]
async fn cert_manager_swap_serves_each_pair_and_never_half() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let at = |path: &str| sidegate.folder().join("certs").join(path);
    let client = client::new(&sidegate);
    let served = async || client.connect().await.tls().peer_certificates().unwrap()[0].clone();
    let mut before = client.open("/chat").await;
    for number in 0..6 {
        let (old, renewed) = (served().await, certificate::signed(&["localhost", "127.0.0.1"]));
        mount(&at(""), number, &[("0.pem", &renewed.chain), ("0.key", &renewed.key)]);
        if number % 2 == 1 {
            // As the kubelet does at once; every other time it is not, so that the swap itself has
            // to be seen.
            fs::remove_dir_all(at(&format!("..{}", number - 1))).unwrap();
        }
        let began = Instant::now();
        within("the new pair", async { while served().await == old {} }).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    before.expect_echo("still here").await;
    assert_eq!(sidegate.metric(RELOADS, [("outcome", "rejected")]).await, 0.0);
}

/// Makes `files` what a folder holds by way of `..data`, as the kubelet does; the first time, of
/// plain ones.
fn mount(folder: &Path, number: u32, files: &[(&str, &str)]) {
    let own = folder.join(format!("..{number}"));
    fs::create_dir(&own).unwrap();
    files.iter().for_each(|(name, text)| fs::write(own.join(name), text).unwrap());
    swap(&format!("..{number}"), &folder.join("..data"));
    if number == 0 {
        files.iter().for_each(|(name, _)| swap(&format!("..data/{name}"), &folder.join(name)));
    }
}

// C-RLD-10, F27
#[tokio::test]
async fn large_list_delays_neither_tunnels_nor_livez() {
    let (sidegate, _backend) = banning().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    let lines = (0..400_000).map(|at| format!("10.{}.{}.{}\n", at >> 16, at >> 8 & 255, at & 255));
    sidegate.put(BANNED, lines.collect::<String>());
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while sidegate.generation().await == 1 {
        assert!(began.elapsed() < Duration::from_secs(60));
        let asked = Instant::now();
        tunnel.expect_echo("meanwhile").await;
        assert_eq!(sidegate.ask("/livez").await.0, 200);
        longest = longest.max(asked.elapsed());
    }
    let took = began.elapsed();
    assert!(longest < took / 2, "{longest:?} of the {took:?} that it took");
}

#[tokio::test]
async fn reload_in_a_drain_is_rejected_as_draining() {
    let backend = backend::echo().run().await;
    let folder =
        sidegate::new().clear().route("/chat", &backend).toml("shutdown.delay = '60s'").write();
    let mut running = run(folder.path()).await;
    let mut tunnel = running.client().open("/chat").await;
    running.signal(Signal::TERM);
    running.logged("draining").await;
    running.signal(Signal::HUP);
    running.logged("draining: nothing is reloaded any more").await;
    check(
        &["reload", "--wait", "--config", "sidegate.toml"],
        folder.path(),
        1,
        &["draining: nothing is reloaded any more"],
    )
    .await;
    tunnel.expect_echo("meanwhile all goes on").await;
    running.signal(Signal::TERM);
    assert_eq!(running.code().await, Some(0));
}

#[tokio::test]
async fn pause_ends_with_the_connection_that_asks_for_it() {
    let (sidegate, _backend) = banning().await;
    let mut command = sidegate.admin().await;
    command.send("POST /v1/pause HTTP/1.1\r\nHost: sidegate\r\n\r\n").await;
    let answer = command.answer().await;
    assert!(answer.status() == 200 && answer.text().contains("\"pause_ms\":10000"));
    sidegate.put(BANNED, "127.0.0.2\n");
    // Another command that pauses and ends leaves the first one's pause in place.
    assert_eq!(sidegate.reply("POST /v1/pause").await.status(), 200);
    assert_eq!(client::new(&sidegate).from("127.0.0.2").attempt("/chat").await.status(), 101);
    let began = Instant::now();
    drop(command);
    expect_banned(&sidegate, "127.0.0.2", 9).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
