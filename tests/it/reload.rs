//! Outcomes of a saved change: published, unchanged or rejected, and no other client notices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use ::sidegate::control::reload::ReloadOutcome;
use toml::Value;

use crate::cli::done;
use crate::harness::client::Client;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Frame, lossy};
use crate::harness::{backend, certificate, client, sidegate, within};
use crate::tunnel::{ends, open};

const RELOADS: &str = "sidegate_reloads_total";
const SUCCESSFUL: &str = "sidegate_config_last_reload_successful";
const BANNED: &str = "policies/lists/banned.cidr";

async fn echoing() -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    (sidegate, backend)
}

/// A sidegate whose policy denies the list `banned`, which says that 127.0.0.9 is.
async fn banning() -> (Sidegate, backend::Backend) {
    let backend = backend::echo().run().await;
    let builder = sidegate::new()
        .route("/chat", &backend)
        .policy(|page| page.list_file("banned").deny("banned"));
    let sidegate = builder.file(BANNED, "127.0.0.9\n").run().await;
    (sidegate, backend)
}

async fn counts(sidegate: &Sidegate) -> [f64; 3] {
    let mut counts = [0.0; 3];
    for (count, outcome) in counts.iter_mut().zip(["published", "unchanged", "rejected"]) {
        *count = sidegate.metric(RELOADS, [("outcome", outcome)]).await;
    }
    counts
}

/// Waits until an attempt of `client` gets this status.
async fn expect_soon(client: &Client, status: u16) {
    let attempted = async { while client.attempt("/chat").await.status() != status {} };
    within("another verdict", attempted).await;
}

#[tokio::test]
async fn saved_change_is_published_and_reported() {
    let (sidegate, _backend) = echoing().await;
    assert_eq!((counts(&sidegate).await, sidegate.generation().await), ([0.0; 3], 1));
    assert_eq!(sidegate.policy().deny("127.0.0.9").write().await, 2);
    assert_eq!(counts(&sidegate).await, [1.0, 0.0, 0.0]);
    sidegate.expect_metric(SUCCESSFUL, [], 1).await;
    assert_eq!(sidegate.readyz().await.0, 200);
    expect_soon(&client::new(&sidegate).from("127.0.0.9"), 403).await;
}

#[tokio::test]
async fn reload_caller_gets_the_outcome() {
    let (sidegate, _backend) = banning().await;
    let tunnel = client::new(&sidegate).open("/chat").await;
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { generation: 1, .. }));
    let rejected = "127.0.0.300\n";
    fs::write(sidegate.folder().join(BANNED), rejected).unwrap();
    let ReloadOutcome::Rejected { errors } = sidegate.reload().await else {
        panic!("{rejected:?} is not rejected")
    };
    assert!(errors[0].to_string().contains("banned.cidr:1:1"), "{}", errors[0]);
    fs::write(sidegate.folder().join(BANNED), "127.0.0.1\n").unwrap();
    let ReloadOutcome::Published { generation, revoked, .. } = sidegate.reload().await else {
        panic!("not published")
    };
    assert_eq!((generation, revoked), (2, 1));
    drop(tunnel);
}

#[tokio::test]
async fn reload_command_names_a_publish_that_was_faster() {
    let (sidegate, _backend) = echoing().await;
    let wait = ["reload", "--config", ".", "--wait"];
    let said = async || lossy(&done(&wait, sidegate.folder()).await.stdout);
    // The first generation was not published by a reload.
    assert!(said().await.starts_with("unchanged: "));
    sidegate.policy().deny("127.0.0.9").write().await;
    let saved = fs::read(sidegate.folder().join("policies/default.toml")).unwrap();
    let text = said().await;
    assert!(text.starts_with("generation 2 ("), "{text}");
    assert!(text.trim_end().ends_with(" s ago when the file was saved"), "{text}");
    sidegate.put("policies/default.toml", "schema = 1\nclient.allow = ['any'");
    done(&wait, sidegate.folder()).await; // rejected, also if the watch reads the file first
    sidegate.put("policies/default.toml", saved);
    let text = said().await;
    assert!(text.starts_with("generation 2 ("), "the same generation runs on: {text}");
}

#[tokio::test]
async fn reload_command_names_an_earlier_request() {
    let base = sidegate::new().toml("reload.watch = 'off'");
    let sidegate = base.route("/chat", &backend::echo().run().await).run().await;
    let wait = ["reload", "--config", ".", "--wait"];
    sidegate.policy().deny("127.0.0.9").put();
    for said in ["published: generation 2 ", " s ago by an earlier request\n"] {
        let text = lossy(&done(&wait, sidegate.folder()).await.stdout);
        assert!(text.contains(said), "{said:?}: {text}");
    }
}

// C-RLD-02, C-RLD-09
#[tokio::test]
async fn invalid_file_keeps_the_running_generation_and_readiness() {
    let (sidegate, _backend) = echoing().await;
    let mut before = client::new(&sidegate).open("/chat").await;
    let body = sidegate
        .write_rejected(
            "policies/default.toml",
            "schema = 1\n[client]\nallow = [\"127.0.0.0/33\"]\n",
        )
        .await;
    assert!(body.contains("default.toml:3:"), "{body}");
    assert_eq!((sidegate.readyz().await.0, sidegate.generation().await), (200, 1));
    sidegate.expect_metric(SUCCESSFUL, [], 0).await;
    before.expect_echo("still here").await;
    client::new(&sidegate).open("/chat").await.expect_echo("and others come").await;
}

#[tokio::test]
async fn restored_content_clears_the_rejection() {
    let (sidegate, _backend) = echoing().await;
    let good = fs::read_to_string(sidegate.folder().join("policies/default.toml")).unwrap();
    let ready = sidegate.readyz().await;
    assert_ne!(sidegate.write_rejected("policies/default.toml", "schema = 2").await, ready.1);
    sidegate.put("policies/default.toml", good);
    sidegate.expect_metric(RELOADS, [("outcome", "unchanged")], 1).await;
    sidegate.expect_metric(SUCCESSFUL, [], 1).await;
    assert_eq!(sidegate.readyz().await, ready);
    assert_eq!(sidegate.generation().await, 1);
}

#[tokio::test]
async fn one_invalid_file_of_two_publishes_neither() {
    let (sidegate, _backend) = banning().await;
    sidegate.put(BANNED, "127.0.0.2\n");
    let body = sidegate
        .write_rejected("policies/default.toml", "schema = 1\n[client]\nalow = ['any']")
        .await;
    assert!(body.contains("allow"), "did you mean: {body}");
    // Whatever became of the list that was first.
    client::new(&sidegate).open("/chat").await.expect_echo("admitted").await;
    let generation = sidegate.generation().await;
    sidegate.put(BANNED, "127.0.0.1\n");
    sidegate.expect_metric(SUCCESSFUL, [], 0).await;
    assert_eq!(sidegate.generation().await, generation);
    client::new(&sidegate).open("/chat").await.expect_echo("admitted").await;
}

/// Asserts that 127.0.0.2 is refused once `save` has put this text in the place of the list of the
/// banned, and 127.0.0.3 never.
async fn check_save(save: impl AsyncFn(&Path, &str)) {
    let (sidegate, _backend) = banning().await;
    let (client, other) =
        (client::new(&sidegate).from("127.0.0.2"), client::new(&sidegate).from("127.0.0.3"));
    let mut before = other.open("/chat").await;
    client.open("/chat").await.expect_echo("admitted").await;
    save(&sidegate.folder().join(BANNED), "127.0.0.9\n127.0.0.2   # from now on\n").await;
    let began = Instant::now();
    expect_soon(&client, 403).await;
    assert!(began.elapsed() < Duration::from_secs(3), "only the slow look saw it");
    before.expect_echo("still here").await;
    other.open("/chat").await.expect_echo("admitted").await;
    sidegate.expect_metric(RELOADS, [("outcome", "rejected")], 0).await;
}

// C-RLD-05
#[tokio::test]
async fn a_file_renamed_over_the_old_one_takes_effect() {
    check_save(async |path, text| {
        fs::write(path.with_extension("tmp"), text).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    })
    .await;
}

// C-RLD-05
#[tokio::test]
async fn a_file_saved_in_place_takes_effect() {
    check_save(async |path, text| fs::write(path, text).unwrap()).await;
}

// C-RLD-05, C-RLD-09
#[tokio::test]
async fn file_written_piecemeal_takes_effect_when_complete() {
    check_save(async |path, text| {
        use std::io::Write;
        let mut file = fs::File::create(path).unwrap();
        for bytes in text.as_bytes().chunks(4) {
            file.write_all(bytes).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

// C-RLD-05
#[tokio::test]
async fn a_file_saved_by_an_editor_that_keeps_a_backup_takes_effect() {
    check_save(async |path, text| {
        fs::rename(path, path.with_extension("cidr~")).unwrap();
        fs::write(path, text).unwrap();
        fs::remove_file(path.with_extension("cidr~")).unwrap();
    })
    .await;
}

// C-RLD-05
#[tokio::test]
async fn a_file_that_is_linked_into_its_place_takes_effect() {
    check_save(async |path, text| {
        fs::write(path.with_extension("v2"), text).unwrap();
        symlink(path.with_extension("v2"), path.with_extension("new")).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    })
    .await;
}

// C-RLD-05
#[tokio::test]
async fn recreated_file_takes_effect_and_its_absence_does_not() {
    let (sidegate, _backend) = banning().await;
    let client = client::new(&sidegate).from("127.0.0.2");
    fs::remove_file(sidegate.folder().join(BANNED)).unwrap();
    sidegate.expect_metric(RELOADS, [("outcome", "rejected")], 1).await;
    assert!(sidegate.readyz().await.1.contains("banned.cidr"));
    client.open("/chat").await.expect_echo("admitted").await;
    sidegate.put(BANNED, "127.0.0.2\n");
    expect_soon(&client, 403).await;
    sidegate.expect_metric(SUCCESSFUL, [], 1).await;
}

// C-RLD-06, F12
#[tokio::test]
async fn recreated_folder_takes_effect_and_its_absence_does_not() {
    let (sidegate, _backend) = banning().await;
    let client = client::new(&sidegate).from("127.0.0.2");
    let policy = fs::read_to_string(sidegate.folder().join("policies/default.toml")).unwrap();
    fs::remove_dir_all(sidegate.folder().join("policies")).unwrap();
    sidegate.expect_metric(SUCCESSFUL, [], 0).await;
    client.open("/chat").await.expect_echo("admitted").await;
    sidegate.put("policies/default.toml", policy);
    sidegate.put(BANNED, "127.0.0.2\n");
    let began = Instant::now();
    expect_soon(&client, 403).await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

// C-RLD-04, F13
#[tokio::test]
async fn kubernetes_data_link_swap_takes_effect_each_time() {
    let (sidegate, _backend) = banning().await;
    let lists = sidegate.folder().join("policies/lists");
    let version = |number: u32, text: &str| {
        fs::create_dir(lists.join(format!("..{number}"))).unwrap();
        fs::write(lists.join(format!("..{number}/banned.cidr")), text).unwrap();
        symlink(format!("..{number}"), lists.join("..data_tmp")).unwrap();
        fs::rename(lists.join("..data_tmp"), lists.join("..data")).unwrap();
    };
    version(0, "127.0.0.2\n");
    fs::remove_file(lists.join("banned.cidr")).unwrap();
    symlink("..data/banned.cidr", lists.join("banned.cidr")).unwrap();
    for number in 1..5 {
        let (denied, admitted) =
            (format!("127.0.0.{}", 10 + number), format!("127.0.0.{}", 9 + number));
        version(number, &format!("{denied}\n"));
        let began = Instant::now();
        expect_soon(&client::new(&sidegate).from(&denied), 403).await;
        assert!(began.elapsed() < Duration::from_secs(2));
        expect_soon(&client::new(&sidegate).from(&admitted), 101).await;
        fs::remove_dir_all(lists.join(format!("..{}", number - 1))).unwrap();
    }
}

// C-RLD-09
#[tokio::test]
async fn half_written_file_is_never_published() {
    let (sidegate, _backend) = banning().await;
    let client = client::new(&sidegate).from("127.0.0.9");
    let path = sidegate.folder().join(BANNED);
    let writes = async {
        use std::io::Write;
        let mut file = fs::File::create(&path).unwrap();
        for line in 0..40 {
            writeln!(file, "192.0.2.{line}").unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        writeln!(file, "127.0.0.9\n127.0.0.2").unwrap();
    };
    let asks = async {
        loop {
            client.attempt("/chat").await.expect(403);
        }
    };
    tokio::select! { () = writes => {}, () = asks => {} }
    expect_soon(&client::new(&sidegate).from("127.0.0.2"), 403).await;
    client.attempt("/chat").await.expect(403);
}

// C-TLS-06
#[tokio::test]
async fn renewed_certificate_is_served_at_the_next_handshake() {
    let (sidegate, _backend) = echoing().await;
    let client = client::new(&sidegate);
    let served = async || client.connect().await.tls().peer_certificates().unwrap()[0].clone();
    let (mut before, old) = (client.open("/chat").await, served().await);
    let renewed = certificate::signed(&["localhost", "127.0.0.1"]);
    // A tool writes in its own order: in between, the two files don't match.
    sidegate.put("certs/0.pem", &renewed.chain);
    sidegate.write("certs/0.key", &renewed.key).await;
    assert_ne!(served().await, old);
    before.expect_echo("still here").await;
}

// F09, C-RLD-02
#[tokio::test]
async fn invalid_certificate_keeps_the_old_one_served() {
    let (sidegate, _backend) = echoing().await;
    let client = client::new(&sidegate);
    let served = async || client.connect().await.tls().peer_certificates().unwrap()[0].clone();
    let old = served().await;
    let chain = fs::read_to_string(sidegate.folder().join("certs/0.pem")).unwrap();
    for broken in [&certificate::signed(&["localhost"]).chain, &chain[..100], ""] {
        let body = sidegate.write_rejected("certs/0.pem", broken).await;
        assert!(body.contains("certs/0."), "{body}");
        assert_eq!(served().await, old);
    }
}

// C-IP-06
#[tokio::test]
async fn reload_closes_exactly_the_newly_denied() {
    let (sidegate, _backend) = banning().await;
    let mut open = Vec::new();
    for host in 2..=8 {
        open.push((
            host,
            client::new(&sidegate).from(&format!("127.0.0.{host}")).open("/chat").await,
        ));
    }
    sidegate.write(BANNED, "127.0.0.4/31\n127.0.0.9\n").await;
    for (host, tunnel) in &mut open {
        if matches!(host, 4 | 5) {
            tunnel.expect_close_with(1008, "network").await;
        } else {
            tunnel.expect_echo("still here").await;
        }
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], 5).await;
    sidegate
        .expect_metric("sidegate_revoked_total", [("route", "chat"), ("refusal", "network")], 2)
        .await;
}

#[tokio::test]
async fn origins_and_subprotocols_are_judged_again_too() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate).origin("https://app.example").subprotocols(&["v2", "v1"]);
    let (mut chats, mut strays) =
        (client.open("/chat").await, client::new(&sidegate).open("/chat").await);
    assert_eq!(chats.subprotocol(), Some("v2"));
    sidegate.policy().change(|page| page.origins(&["https://app.example"])).write().await;
    strays.expect_close_with(1008, "origin").await;
    chats.expect_echo("still here").await;
    // It is judged by what it speaks, no longer by what it offered.
    sidegate.policy().change(|page| page.subprotocols(&["v1"])).write().await;
    chats.expect_close_with(1008, "subprotocol").await;
}

#[tokio::test]
async fn tunnel_is_revoked_when_its_path_becomes_ambiguous() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/", &backend)
        .file("policies/desk.toml", "schema = 1\nclient.allow = ['any']\n");
    let sidegate = sidegate.run().await;
    let client = client::new(&sidegate);
    let (mut odd, mut plain) = (client.open("/desk;v=1/x").await, client.open("/news;v=1/x").await);
    let desk = |config: &mut toml::Table| {
        let routes = config["route"].as_array_mut().unwrap();
        let mut desk = routes[0].as_table().unwrap().clone();
        desk.extend(
            [("name", "desk"), ("path", "/desk/"), ("policy", "desk")]
                .map(|(key, value)| (key.into(), value.into())),
        );
        routes.push(desk.into());
    };
    sidegate.reconfigure(desk).await;
    odd.expect_close_with(1008, "path").await;
    plain.expect_echo("still here").await;
    client.attempt("/desk;v=1/x").await.expect_refused(400, "path");
    sidegate
        .expect_metric("sidegate_revoked_total", [("route", "root"), ("refusal", "path")], 1)
        .await;
}

#[tokio::test]
async fn tunnel_without_a_subprotocol_is_rejudged_without_one() {
    let backend = backend::raw(|mut wire| async move {
        backend::grant(&mut wire, "").await;
        wire.rest().await;
    });
    let backend = backend.run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).subprotocols(&["v1", "none"]).run().await;
    let mut tunnel = client::new(&sidegate).subprotocols(&["v1"]).open("/chat").await;
    sidegate.policy().change(|page| page.subprotocols(&["none"])).write().await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 1).await;
    sidegate.policy().change(|page| page.subprotocols(&["v1"])).write().await;
    tunnel.expect_close_with(1008, "subprotocol").await;
}

#[tokio::test]
async fn removed_route_revokes_its_tunnels_only() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).route("/news", &backend).run().await;
    let client = client::new(&sidegate);
    let (mut chat, mut news) = (client.open("/chat").await, client.open("/news").await);
    sidegate.reconfigure(|config| config["route"].as_array_mut().unwrap().truncate(1)).await;
    news.expect_close_with(1008, "route").await;
    chat.expect_echo("still here").await;
    client.attempt("/news").await.expect(404);
    sidegate
        .expect_metric("sidegate_revoked_total", [("route", "news"), ("refusal", "route")], 1)
        .await;
}

#[tokio::test]
async fn changed_backend_revokes_no_tunnel_and_gets_new_ones() {
    let (old, new) = (backend::echo().run().await, backend::echo().run().await);
    let sidegate = sidegate::new().route("/chat", &old).run().await;
    let client = client::new(&sidegate);
    let mut before = client.open("/chat").await;
    sidegate.reconfigure(|config| config["route"][0]["backend"] = new.address().into()).await;
    let mut after = client.open("/chat").await;
    before.expect_echo("still at the old one").await;
    after.expect_echo("at the new one").await;
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

#[tokio::test]
async fn new_tunnel_limits_reach_open_tunnels() {
    let mut ends = open(|sidegate| sidegate.limits("ping = 'off'")).await;
    ends.client.send_frame(Frame::binary(vec![0; 2000])).await;
    assert_eq!(ends.backend.frame().await.payload.len(), 2000);
    ends.sidegate.policy().limits("message = { max = '1KiB' }").write().await;
    ends.client.send_frame(Frame::binary(vec![0; 2000])).await;
    assert_eq!(ends.backend.frame().await, Frame::close(1001, ""));
    assert_eq!(ends.client.frame().await, Frame::close(1009, "too_big"));
    let server = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &server).limits("ping = 'off'").run().await;
    let mut idle = client::new(&sidegate).open("/chat").await;
    sidegate.policy().limits("idle = '100ms'").write().await;
    idle.expect_close_with(1001, "idle").await;
}

/// A tunnel that nothing moves in notices a revocation however many reloads it has seen before.
#[tokio::test]
async fn silent_tunnel_is_reached_by_every_reload() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).limits("ping = 'off'").run().await;
    let mut silent = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    for host in 10..15 {
        sidegate.policy().deny(&format!("127.0.0.{host}")).write().await;
    }
    let began = Instant::now();
    sidegate.policy().deny("127.0.0.2").write().await;
    silent.expect_close_with(1008, "network").await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

// C-RLD-01
#[tokio::test]
async fn twenty_reloads_of_every_kind_disturb_no_tunnel() {
    let (sidegate, _backend) = banning().await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(client::new(&sidegate).open("/chat").await);
    }
    for round in 0..5 {
        sidegate.write(BANNED, &format!("127.0.0.9\n192.0.2.{round}\n")).await;
        sidegate
            .policy()
            .limits(&format!("connections = {{ total = {} }}", 100 + round))
            .write()
            .await;
        sidegate
            .reconfigure(|config| {
                drop(config.insert("timeouts".into(), toml(&format!("dial = '{}s'", 2 + round))));
            })
            .await;
        let renewed = certificate::signed(&["localhost", "127.0.0.1"]);
        sidegate.put("certs/0.pem", &renewed.chain);
        sidegate.write("certs/0.key", &renewed.key).await;
        for tunnel in &mut open {
            tunnel.expect_echo(&round.to_string()).await;
        }
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], 20).await;
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 0).await;
}

fn toml(text: &str) -> Value {
    Value::Table(text.parse().unwrap())
}

/// Asserts that a tunnel which an entry of the list let in is revoked when that lapses, and no
/// other, with these `[reload]` keys.
async fn check_lapse(keys: &str) {
    let backend = backend::echo().run().await;
    let builder = sidegate::new()
        .route("/chat", &backend)
        .policy(|page| page.list_file("guests").allow("guests"));
    let until = jiff::Timestamp::now() + Duration::from_secs(4);
    let list = format!("127.0.0.2 expires={until}\n127.0.0.3\n");
    let sidegate = builder
        .toml(&format!("[reload]\n{keys}"))
        .file("policies/lists/guests.cidr", &list)
        .run()
        .await;
    let mut guest = client::new(&sidegate).from("127.0.0.2").open("/chat").await;
    let mut stays = client::new(&sidegate).from("127.0.0.3").open("/chat").await;
    guest.expect_close_with(1008, "network").await;
    assert!(jiff::Timestamp::now() >= until);
    stays.expect_echo("still here").await;
    assert_eq!(counts(&sidegate).await, [0.0; 3]);
}

#[tokio::test]
async fn lapsed_entry_revokes_tunnels_without_a_file_change() {
    tokio::join!(check_lapse("poll = '100ms'"), check_lapse("poll = '100ms'\nwatch = 'off'"));
}

#[tokio::test]
async fn mass_revocations_are_spread_over_the_window() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).toml("reload.revoke_spread = '600ms'").run().await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(client::new(&sidegate).open("/chat").await);
    }
    sidegate.policy().deny("127.0.0.1").write().await;
    let closes = open.iter_mut().map(|tunnel| async {
        tunnel.expect_close_with(1008, "network").await;
        Instant::now()
    });
    let mut closed = futures_util::future::join_all(closes).await;
    closed.sort();
    let spread = closed[5] - closed[0];
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&spread), "{spread:?}");
}

#[tokio::test]
async fn tunnel_permitted_again_before_its_revocation_is_kept() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .toml("reload.revoke_spread = '8s'")
        .timeouts("grace = '200ms'")
        .run()
        .await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(client::new(&sidegate).open("/chat").await);
    }
    sidegate.policy().allow("192.0.2.1").write().await;
    sidegate.policy().allow("127.0.0.1").write().await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 3).await;
    sidegate.expect_metric("sidegate_revoked_total", [], 1).await;
    let mut stayed = 0;
    for tunnel in &mut open {
        tunnel.send_text("still here?").await;
        stayed += usize::from(tunnel.next().await.is_ok_and(|message| message.is_text()));
    }
    assert_eq!(stayed, 3);
}

/// Asserts that this change of `sidegate.toml` is rejected, with these words in what `/readyz`
/// says.
async fn check_rejected(change: impl FnOnce(&mut toml::Table), words: &[&str]) {
    let (sidegate, _backend) = echoing().await;
    let mut config = sidegate.toml();
    change(&mut config);
    let body = sidegate.write_rejected("sidegate.toml", &toml::to_string(&config).unwrap()).await;
    for word in words {
        assert!(body.contains(word), "no {word:?} in {body}");
    }
    assert_eq!(sidegate.generation().await, 1);
    client::new(&sidegate).open("/chat").await.expect_echo("as before").await;
}

fn set(config: &mut toml::Table, table: &str, keys: &str) {
    let keys: toml::Table = keys.parse().unwrap();
    let table = match config.entry(table).or_insert(Value::Table(toml::Table::new())) {
        Value::Array(tables) => &mut tables[0],
        table => table,
    };
    table.as_table_mut().unwrap().extend(keys);
}

#[tokio::test]
async fn restart_only_key_is_rejected_with_that_remedy() {
    check_rejected(
        |config| set(config, "process", "threads = 7"),
        &["sidegate.toml:", "threads", "restart"],
    )
    .await;
}

#[tokio::test]
async fn reserved_key_is_rejected_and_never_ignored() {
    for (table, keys, word) in
        [("listener", "http2 = true", "http2"), ("route", "forward_as = 'forwarded'", "forward_as")]
    {
        check_rejected(|config| set(config, table, keys), &[word, "not in this version"]).await;
    }
}

#[tokio::test]
async fn a_listeners_settings_hold_for_the_next_connection() {
    let (sidegate, _backend) = echoing().await;
    let client = client::new(&sidegate);
    let mut before = client.open("/chat").await;
    let long = client.request("GET /chat HTTP/1.1", &format!("X-Long: {}\r\n", "x".repeat(20_000)));
    client.send(&long).await.expect(426);
    let old_tls = client.clone().tls_version(&rustls::version::TLS12);
    old_tls.open("/chat").await.expect_echo("TLS 1.2").await;
    sidegate
        .reconfigure(|config| {
            set(config, "listener", "max_head = '8KiB'\ntls_min = '1.3'\nstrict_sni = true");
        })
        .await;
    assert!(old_tls.try_connect().await.is_err());
    assert!(client.clone().trusting().sni("elsewhere.example").try_connect().await.is_err());
    client.expect_refused(&long, 431, "head").await;
    before.expect_echo("still here").await;
    client.open("/chat").await.expect_echo("TLS 1.3").await;
}

#[tokio::test]
async fn timeouts_hold_for_the_next_connection() {
    let (sidegate, _backend) = echoing().await;
    sidegate.reconfigure(|config| set(config, "timeouts", "head = '100ms'")).await;
    let mut drips = client::new(&sidegate).connect().await;
    drips.send("GET /chat HTTP/1.1\r\n").await;
    drips.expect_end().await;
}

#[tokio::test]
async fn reading_files_triggers_nothing() {
    let (sidegate, _backend) = banning().await;
    for _ in 0..20 {
        for path in ["sidegate.toml", "policies/default.toml", BANNED, "certs/0.pem"] {
            fs::read(sidegate.folder().join(path)).unwrap();
        }
        fs::read_dir(sidegate.folder().join("policies")).unwrap().count();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counts(&sidegate).await, [0.0; 3]);
}

#[tokio::test]
async fn poll_of_already_tried_files_is_no_reload() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).toml("reload.poll = '100ms'").run().await;
    sidegate.write_rejected("policies/default.toml", "schema = 1").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(counts(&sidegate).await, [0.0, 0.0, 1.0]);
    sidegate.write("policies/default.toml", "schema = 1\nclient.allow = ['127.0.0.1']").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    // A look that comes before the watch finds the change first, and the watch finds it done.
    let [published, unchanged, rejected] = counts(&sidegate).await;
    assert!([published, rejected] == [1.0; 2] && unchanged <= 1.0, "{unchanged} of a dozen looks");
}

#[tokio::test]
async fn watch_poll_finds_a_change() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).toml("reload.watch = 'poll'").run().await;
    sidegate.expect_metric("sidegate_watch_degraded", [], 0).await;
    assert_eq!(sidegate.policy().deny("127.0.0.1").write().await, 2);
    client::new(&sidegate).attempt("/chat").await.expect(403);
}

#[tokio::test]
async fn watch_off_reloads_on_request_only() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .route("/chat", &backend)
        .toml("reload = { watch = 'off', poll = '50ms' }")
        .run()
        .await;
    sidegate.policy().deny("127.0.0.1").put();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client::new(&sidegate).open("/chat").await.expect_echo("as before").await;
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Published { revoked: 0 | 1, .. }));
    client::new(&sidegate).attempt("/chat").await.expect(403);
}

// F17
#[tokio::test]
async fn many_reload_requests_are_coalesced_and_drop_no_tunnel() {
    let (sidegate, _backend) = echoing().await;
    let mut before = client::new(&sidegate).open("/chat").await;
    for _ in 0..1000 {
        sidegate.agent().request_reload();
    }
    before.expect_echo("still here").await;
    assert!(matches!(sidegate.reload().await, ReloadOutcome::Unchanged { generation: 1, .. }));
    let [published, unchanged, rejected] = counts(&sidegate).await;
    assert!((published, rejected) == (0.0, 0.0) && unchanged <= 50.0, "{unchanged} reloads");
}

// C-RLD-15, F21
#[tokio::test]
async fn each_request_is_decided_by_one_generation_under_many_swaps() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new()
        .threads(2)
        .route("/chat", &backend)
        .origins(&["https://a"])
        .subprotocols(&["a"])
        .run()
        .await;
    let page = |one: &str| {
        format!(
            "schema = 1\n[client]\nallow = ['any']\norigins = ['https://{one}']\nsubprotocols = ['{one}']\n"
        )
    };
    let client = |origin: &str, offered: &str| {
        client::new(&sidegate).origin(&format!("https://{origin}")).subprotocols(&[offered])
    };
    let path = sidegate.folder().join("policies/default.toml");
    let swaps = async {
        for turn in 0..40 {
            fs::write(path.with_extension("new~"), page(if turn % 2 == 0 { "b" } else { "a" }))
                .unwrap();
            fs::rename(path.with_extension("new~"), &path).unwrap();
            assert!(matches!(
                sidegate.reload().await,
                ReloadOutcome::Published { .. } | ReloadOutcome::Unchanged { .. }
            ));
        }
    };
    let asks = |origin: &'static str, offered: &'static str| {
        let client = client(origin, offered);
        async move {
            let (mut granted, mut refused) = (0, 0);
            loop {
                match client.attempt("/chat").await.status() {
                    101 => granted += 1,
                    403 => refused += 1,
                    other => panic!("{other}"),
                }
                assert!(
                    origin == offered || granted == 0,
                    "the origin of one generation, the subprotocol of another"
                );
                if granted + refused >= 10_000 {
                    return (granted, refused);
                }
            }
        }
    };
    let all = futures_util::future::join_all([
        asks("a", "a"),
        asks("b", "b"),
        asks("a", "b"),
        asks("b", "a"),
    ]);
    tokio::select! { () = swaps => {}, _ = all => unreachable!("the swaps are done first") }
    let refusals = sidegate.metric("sidegate_refusals_total", [("reason", "origin")]).await;
    assert!(
        refusals > 0.0
            && sidegate.metric("sidegate_requests_total", [("result", "permitted")]).await > 0.0
    );
    // Attempts under way when the clients were dropped have failed, but not at the backend.
    assert_eq!(sidegate.metric("sidegate_refusals_total", [("reason", "backend")]).await, 0.0);
}

#[tokio::test]
async fn attempt_overtaken_by_a_reload_is_judged_again() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.attempt_head("/chat", "")).await;
    let mut at_backend = server.accepted().await;
    sidegate.policy().deny("127.0.0.1").write().await;
    backend::grant(&mut at_backend, "").await;
    wire.answer().await.expect(101);
    assert_eq!(wire.frame().await, Frame::close(1008, "network"));
    assert_eq!(at_backend.frame().await, Frame::close(1008, "network"));
}

#[tokio::test]
async fn no_reload_happens_during_a_drain() {
    let (sidegate, server) = {
        let server = backend::manual().run().await;
        (sidegate::new().route("/chat", &server).toml("shutdown.delay = '5s'").run().await, server)
    };
    let (_client, _backend) = ends(&client::new(&sidegate), &server, "").await;
    sidegate.drain().await;
    sidegate.expect_metric("sidegate_draining", [], 1).await;
    sidegate.policy().deny("127.0.0.1").put();
    let ReloadOutcome::Rejected { errors } = sidegate.reload().await else { panic!("reloaded") };
    assert!(errors[0].to_string().contains("draining"), "{}", errors[0]);
    assert_eq!(sidegate.generation().await, 1);
}
