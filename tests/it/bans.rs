//! Bans: the clients that they refuse, the tunnels that they end, and their life over restarts.

use std::fs;
use std::path::Path;

use ::sidegate::admin::wire::{
    BanAnswer, BanRequest, BanStatus, BansRequest, ExplainRequest, RuleName, UnbanAnswer,
    UnbanRequest, WarningKind,
};

use crate::cli::check;
use crate::harness::backend::{self, Backend};
use crate::harness::client::{self, Client};
use crate::harness::process;
use crate::harness::sidegate::{self, Builder, Sidegate};

const REFUSALS: &str = "sidegate_refusals_total";

/// A listener that believes 127.0.0.1 about its clients, and keeps bans in its own folder.
fn new(backend: &Backend) -> Builder {
    let believed = "forwarded = { header = 'x-forwarded-for', from = ['127.0.0.1'] }";
    own_clients(backend).on_listener(believed)
}

/// A listener whose peers are its clients.
fn own_clients(backend: &Backend) -> Builder {
    sidegate::new()
        .route("/", backend)
        .on_route("http = 'forward'")
        .toml("process.state = 'state'\nreload.revoke_spread = '0s'")
}

fn named(sidegate: &Sidegate, client: &str) -> Client {
    client::new(sidegate).header("X-Forwarded-For", client)
}

fn of(client: &str) -> BanRequest {
    BanRequest {
        client: Some(client.into()),
        why: "probes".into(),
        overrides: vec!["loopback".into()],
        ..BanRequest::default()
    }
}

/// The ban that holds now, and the number of tunnels that it ends.
async fn ban(sidegate: &Sidegate, request: BanRequest) -> (BanStatus, u64) {
    match sidegate.answer_to(&request).await {
        BanAnswer::Banned { ban, tunnels, not_kept: None, .. } => (*ban, tunnels),
        other => panic!("{other:?}"),
    }
}

async fn unban(sidegate: &Sidegate, client: &str) -> UnbanAnswer {
    let request = UnbanRequest { client: Some(client.into()), ..UnbanRequest::default() };
    sidegate.answer_to(&request).await
}

async fn targets(sidegate: &Sidegate) -> Vec<String> {
    let answer = sidegate.answer_to(&BansRequest).await;
    answer.bans.into_iter().map(|ban| ban.target).collect()
}

#[tokio::test]
async fn ban_ends_live_tunnels_of_its_clients_alone() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    let mut banned = named(&sidegate, "198.51.100.3").open("/").await;
    let mut neighbour = named(&sidegate, "198.51.100.99").open("/").await;
    banned.expect_echo("before").await;
    neighbour.expect_echo("before").await;
    let (status, tunnels) = ban(&sidegate, of("198.51.100.0/28")).await;
    assert_eq!((&*status.target, &*status.origin, tunnels), ("198.51.100.0/28", "operator", 1));
    assert!(status.until.is_some_and(|until| until > status.since), "bounded by default");
    banned.expect_close_with(1008, "banned").await;
    neighbour.expect_echo("untouched").await;
    named(&sidegate, "198.51.100.4").attempt("/").await.expect_refused(403, "banned");
    named(&sidegate, "198.51.100.4").get("/").await.expect_refused(403, "banned");
    neighbour.expect_echo("still").await;
    sidegate.expect_metric(REFUSALS, [("reason", "banned")], 2).await;
    sidegate.expect_metric("sidegate_bans", [("origin", "operator")], 1).await;
    assert_eq!(sidegate.status().await.bans, 1);
    let UnbanAnswer::Unbanned { lifted, .. } = unban(&sidegate, "198.51.100.0/28").await else {
        panic!("it was banned")
    };
    assert_eq!(lifted.len(), 1);
    named(&sidegate, "198.51.100.3").open("/").await.expect_echo("again").await;
}

#[tokio::test]
async fn ban_cuts_an_answer_in_flight() {
    let backend = backend::manual().run().await;
    let sidegate = new(&backend).clear().run().await;
    let client = named(&sidegate, "198.51.100.3");
    let mut wire = client.connect().await;
    wire.send(client.request("GET /in HTTP/1.1", "")).await;
    let mut at_backend = backend.accepted().await;
    at_backend.head().await;
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                  Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    at_backend.send(events).await;
    wire.head().await;
    ban(&sidegate, of("198.51.100.3")).await;
    let labels = [("by", "sidegate"), ("reason", "revoked")];
    sidegate.expect_metric("sidegate_exchanges_closed_total", labels, 1).await;
}

#[tokio::test]
async fn banned_peer_gets_no_tls_handshake() {
    let backend = backend::echo().run().await;
    let sidegate = own_clients(&backend).tls().run().await;
    client::new(&sidegate).from("127.0.0.2").open("/").await.expect_echo("before").await;
    ban(&sidegate, of("127.0.0.2")).await;
    let client = client::new(&sidegate);
    assert!(client.clone().from("127.0.0.2").try_connect().await.is_err());
    client.from("127.0.0.3").open("/").await.expect_echo("neighbour").await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "banned")], 1).await;
}

#[tokio::test]
async fn bans_outlast_reloads_rejected_ones_and_restarts() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    ban(&sidegate, of("198.51.100.3")).await;
    ban(&sidegate, BanRequest { forever: true, ..of("2001:db8::1") }).await;
    sidegate.policy().deny("192.0.2.1").write().await;
    sidegate.write_rejected("policies/default.toml", "schema = 2").await;
    assert_eq!(targets(&sidegate).await, ["198.51.100.3", "2001:db8::/64"]);
    named(&sidegate, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");

    let again = new(&backend).clear().file("state/bans.json", &kept(&sidegate)).run().await;
    assert_eq!(targets(&again).await, ["198.51.100.3", "2001:db8::/64"]);
    named(&again, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");
    named(&again, "198.51.100.4").open("/").await.expect_echo("admitted").await;
}

/// The file of bans.
fn kept(sidegate: &Sidegate) -> String {
    fs::read_to_string(sidegate.folder().join("state/bans.json")).unwrap()
}

#[tokio::test]
async fn ban_expires_by_itself() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    let short = BanRequest { period: Some("700ms".into()), ..of("198.51.100.3") };
    ban(&sidegate, short).await;
    named(&sidegate, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");
    sidegate.expect_metric("sidegate_bans", [("origin", "operator")], 0).await;
    named(&sidegate, "198.51.100.3").open("/").await.expect_echo("again").await;
    assert_eq!(targets(&sidegate).await, [""; 0]);
}

#[tokio::test]
async fn same_target_is_replaced_and_another_is_not_lifted() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    ban(&sidegate, of("198.51.100.0/24")).await;
    let again = BanRequest { why: "more".into(), ..of("::ffff:198.51.100.0/120") };
    let BanAnswer::Banned { replaced: Some(former), .. } = sidegate.answer_to(&again).await else {
        panic!("it replaces nothing")
    };
    assert_eq!((&*former.target, &*former.why), ("198.51.100.0/24", "probes"));
    let UnbanAnswer::NotBanned { around } = unban(&sidegate, "198.51.100.3").await else {
        panic!("there was no such ban")
    };
    assert_eq!((around.len(), &*around[0].why), (1, "more"));
    let all = UnbanRequest { all: true, ..UnbanRequest::default() };
    assert!(matches!(sidegate.answer_to(&all).await, UnbanAnswer::Unbanned { .. }));
    assert_eq!(targets(&sidegate).await, [""; 0]);
}

#[tokio::test]
async fn contradicted_test_peer_and_loopback_need_overrides() {
    let backend = backend::echo().run().await;
    let test = "[[test]]\nname = 'office'\nclient = '198.51.100.3'\n\
                url = 'ws://ws.example.com/'\nexpect = 'allow'\n";
    let sidegate = new(&backend).clear().policy(|page| page.toml(test)).run().await;
    let conflicts = async |target: &str, words: &[&str]| {
        let overrides = words.iter().map(|word| (*word).to_owned()).collect();
        match sidegate.answer_to(&BanRequest { overrides, ..of(target) }).await {
            BanAnswer::Refused { conflicts } => {
                let text = conflicts.iter().map(|one| format!("{}: {}", one.word, one.says));
                text.collect::<Vec<_>>().join("\n")
            }
            BanAnswer::Banned { .. } => String::new(),
        }
    };
    let office = conflicts("198.51.100.0/24", &["peers", "other"]).await;
    let place = "policies/default.toml:8) expects allow";
    assert!(office.starts_with("office: test") && office.contains(place), "{office}");
    let peers = conflicts("127.0.0.0/8", &["loopback"]).await;
    assert!(peers.starts_with("peers: `forwarded` of the listener"), "{peers}");
    assert!(conflicts("127.0.0.1", &["peers"]).await.starts_with("loopback: "));
    assert_eq!(targets(&sidegate).await, [""; 0], "nothing was banned");
    assert_eq!(conflicts("198.51.100.0/24", &["office", "office"]).await, "");
    assert_eq!(targets(&sidegate).await, ["198.51.100.0/24"]);
    // The ban fails no test of a later reload.
    sidegate.policy().deny("192.0.2.1").write().await;
}

#[tokio::test]
async fn damaged_file_is_set_aside_and_reported() {
    let backend = backend::echo().run().await;
    let new = || new(&backend).clear();
    let sidegate = new().run().await;
    ban(&sidegate, of("198.51.100.3")).await;
    let damaged = kept(&sidegate).replace("198.51.100.3", "198.51.100.4");
    let again = new().file("state/bans.json", &damaged).run().await;
    assert_eq!(targets(&again).await, [""; 0]);
    let warnings = again.status().await.warnings;
    let warning = warnings.iter().find(|one| one.word == WarningKind::State).unwrap();
    assert!(warning.sentence.contains("the checksum differs"), "{}", warning.sentence);
    let (status, body) = again.readyz().await;
    assert!(status == 200 && body.contains("bans.json is damaged"), "{body}");
    let names = fs::read_dir(again.folder().join("state")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let is_aside = |name: &std::ffi::OsString| name.to_str().unwrap().contains("damaged");
    // Beside it lies the lock.
    assert!(names.len() == 2 && names.iter().any(is_aside), "{names:?}");
    ban(&again, of("198.51.100.3")).await;
    named(&again, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");
}

#[tokio::test]
async fn ban_holds_in_memory_where_it_cannot_be_kept() {
    let backend = backend::echo().run().await;
    // A file in the place of the folder, which stops root as well.
    let sidegate = new(&backend).clear().file("state", "").run().await;
    let BanAnswer::Banned { not_kept: Some(why), .. } =
        sidegate.answer_to(&of("198.51.100.3")).await
    else {
        panic!("it is not kept")
    };
    assert!(why.contains("state cannot be written"), "{why}");
    named(&sidegate, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");
    let (_, body) = sidegate.readyz().await;
    assert!(body.contains("bans are not kept"), "{body}");
}

#[tokio::test]
async fn explanation_of_the_running_agent_names_the_ban() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    ban(&sidegate, of("198.51.100.3")).await;
    let request = ExplainRequest {
        client: "198.51.100.3".into(),
        url: "ws://ws.example.com/".into(),
        forwarded_for: None,
        listener: None,
        origin: None,
        subprotocol: None,
        identity: None,
        at: None,
    };
    let answer = sidegate.answer_to(&request).await;
    assert_eq!((answer.permitted, answer.reason.as_deref()), (false, Some("banned")));
    assert_eq!(answer.rule.as_deref(), Some("ban 198.51.100.3"));
    assert_eq!(answer.rules[0].rule, RuleName::Ban);
    assert!(answer.text.contains("by operator: probes"), "{}", answer.text);
}

#[tokio::test]
async fn state_folder_is_taken_over_when_its_process_ends() {
    let backend = backend::echo().run().await;
    // An upgrade: two processes with one configuration, the second with a socket of its own.
    let agent = own_clients(&backend).clear().toml("reload.watch = 'off'").write();
    let folder = agent.path();
    let ban = |target: &'static str| ["ban", target, "--why", "x", "--override", "loopback"];
    let first = process::new(folder).log("json").run().await;
    order(&ban("127.0.0.2"), folder, 0, &["banned"]).await;
    let config = fs::read_to_string(folder.join("sidegate.toml")).unwrap();
    let config = config.replace("socket = \"", "socket = \"next-");
    fs::write(folder.join("sidegate.toml"), config).unwrap();
    let mut second = process::new(folder).log("json").run().await;
    let mut wire = second.client().from("127.0.0.2").connect().await;
    assert!(wire.rest_unless_reset().await.is_empty(), "the bans of the first hold");
    let ready = second.asked("/readyz").await;
    assert!(ready.contains("nothing is kept: another process (process "), "{ready}");
    let json = [&ban("127.0.0.3")[..], &["--json"]].concat();
    order(&json, folder, 0, &["not_kept", "another process"]).await;
    drop(first);
    second.line("the state folder is free now").await;
    order(&ban("127.0.0.4"), folder, 0, &["banned"]).await;
    let kept = fs::read_to_string(folder.join("state/bans.json")).unwrap();
    for target in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        assert!(kept.contains(target), "{kept}");
    }
    assert!(!second.asked("/readyz").await.contains("nothing is kept"));
}

#[tokio::test]
async fn agents_do_not_share_the_bans_of_one_folder() {
    let backend = backend::echo().run().await;
    let shared = tempfile::tempdir().unwrap();
    let state = format!("process.state = '{}'", shared.path().display());
    let one = new(&backend).clear().toml(&state).run().await;
    ban(&one, of("198.51.100.3")).await;
    let other = new(&backend).clear().toml(&state).run().await;
    named(&other, "198.51.100.3").open("/").await.expect_echo("not banned here").await;
    let BanAnswer::Banned { not_kept: Some(why), .. } = other.answer_to(&of("198.51.100.4")).await
    else {
        panic!("it is not kept")
    };
    assert!(why.contains("another agent") && why.contains("of its own"), "{why}");
    let (_, body) = other.readyz().await;
    assert!(body.contains("another agent"), "{body}");
    ban(&one, of("198.51.100.5")).await;
    let kept = fs::read_to_string(shared.path().join("bans.json")).unwrap();
    assert!(kept.contains("198.51.100.3") && kept.contains("100.5"), "{kept}");
    assert!(!kept.contains("198.51.100.4"), "{kept}");
}

#[tokio::test]
async fn huge_state_files_are_set_aside_unread() {
    let backend = backend::echo().run().await;
    let folder = own_clients(&backend).clear().write();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    for name in ["bans.json", "crowdsec.json", "published"] {
        // Sparse: to read one of them would take the memory of the host.
        fs::File::create(state.join(name)).unwrap().set_len(1 << 40).unwrap();
    }
    fs::write(state.join(".new-aB3dE9"), "unfinished").unwrap();
    let agent = process::new(folder.path()).log("json").run().await;
    let ready = agent.asked("/readyz").await;
    assert!(ready.contains("bans.json cannot be read (it is larger than 128 MiB)"), "{ready}");
    assert!(ready.contains("published cannot be read (it is larger"), "{ready}");
    order(&["ban", "198.51.100.3", "--why", "x"], folder.path(), 0, &["banned"]).await;
    let names = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("bans.json.damaged-")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("published.damaged-")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with(".new-")), "{names:?}");
}

#[tokio::test]
async fn route_that_drops_its_refusals_drops_the_banned() {
    let backend = backend::echo().run().await;
    let sidegate = own_clients(&backend).clear().on_route("refuse = 'drop'").run().await;
    let client = client::new(&sidegate).from("127.0.0.2");
    let mut wire = client.connect().await;
    ban(&sidegate, of("127.0.0.2")).await;
    wire.send(client.attempt_head("/", "")).await;
    assert!(wire.rest_unless_reset().await.is_empty());
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "banned")], 1).await;
    sidegate.expect_metric(REFUSALS, [("reason", "banned")], 1).await;
}

/// Runs a command about bans against the agent of `folder`, as `cli::check` does.
pub async fn order(arguments: &[&str], folder: &Path, code: i32, said: &[&str]) {
    check(&[arguments, &["--config", "sidegate.toml"]].concat(), folder, code, said).await;
}

#[tokio::test]
async fn commands_ban_list_and_unban() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    let mut tunnel = named(&sidegate, "198.51.100.3").open("/").await;
    let folder = sidegate.folder();
    let ban = ["ban", "198.51.100.3", "--why", "probes", "--for", "1h"];
    order(&ban, folder, 0, &["banned: 198.51.100.3", "1 tunnel and 0 exchanges"]).await;
    tunnel.expect_close_with(1008, "banned").await;
    order(&["bans"], folder, 0, &["198.51.100.3 until", "by operator", "probes"]).await;
    order(&["unban", "198.51.100.0/24"], folder, 1, &["but there is: 198.51.100.3"]).await;
    order(&["unban", "198.51.100.3"], folder, 0, &["unbanned: 198.51.100.3"]).await;
    order(&["bans"], folder, 0, &["no bans"]).await;
    named(&sidegate, "198.51.100.3").open("/").await.expect_echo("again").await;
    order(&["ban", "127.0.0.1", "--why", "x"], folder, 1, &["--override \"loopback\""]).await;
}

#[tokio::test]
async fn origins_neither_replace_nor_lift_bans_of_each_other() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    let folder = sidegate.folder();
    ban(&sidegate, BanRequest { forever: true, ..of("198.51.100.3") }).await;
    let program = ["ban", "198.51.100.3", "--why", "jail", "--origin", "fail2ban", "--for", "5s"];
    order(&program, folder, 0, &["by fail2ban"]).await;
    assert_eq!(targets(&sidegate).await, ["198.51.100.3", "198.51.100.3"]);
    let lift = ["unban", "198.51.100.3", "--origin", "fail2ban", "--if-banned"];
    order(&lift, folder, 0, &["unbanned: 198.51.100.3", "jail"]).await;
    order(&lift, folder, 0, &["no ban has this target"]).await;
    order(&lift[..4], folder, 1, &["but there is: 198.51.100.3 for ever, by operator"]).await;
    named(&sidegate, "198.51.100.3").attempt("/").await.expect_refused(403, "banned");
    ban(&sidegate, BanRequest { origin: Some("fail2ban".into()), ..of("198.51.100.3") }).await;
    order(&["unban", "198.51.100.3"], folder, 0, &["by operator", "by fail2ban"]).await;
    named(&sidegate, "198.51.100.3").open("/").await.expect_echo("again").await;
}

#[tokio::test]
async fn log_of_a_refused_accept_names_the_ban() {
    let backend = backend::echo().run().await;
    for (header, peer, target) in [
        ("", "127.0.0.2", "127.0.0.2"),
        ("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n", "127.0.0.1", "192.0.2.7"),
    ] {
        let proxied = "proxy_protocol = { from = ['127.0.0.1'] }";
        let folder = own_clients(&backend).clear().on_listener(proxied).write();
        let mut agent = process::new(folder.path()).log("json").run().await;
        let ban = ["ban", target, "--why", "probes", "--override", "loopback"];
        order(&ban, folder.path(), 0, &["banned"]).await;
        let mut wire = agent.client().from(peer).preamble(header).connect().await;
        assert!(wire.rest_unless_reset().await.is_empty());
        let line = agent.logged("refused").await;
        assert_eq!((&line["reason"], &line["ban"]), (&"banned".into(), &target.into()), "{line}");
        assert_eq!(line["why"], "probes");
    }
}

#[tokio::test]
async fn wrong_ban_is_refused_with_the_remedy() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    for (target, says) in [
        ("client=198.51.100.3%2F24&why=x", "write 198.51.100.0/24"),
        ("client=198.51.100.3", "`why` is the reason"),
        ("why=x", "exactly one of"),
        ("client=198.51.100.3&why=x&for=0s", "zero"),
        ("client=198.51.100.3&why=x&for=1h&forever=true", "exclude each other"),
        ("client=198.51.100.3&why=x&origin=me", "operator or fail2ban"),
    ] {
        let answer = sidegate.reply(&format!("POST /v1/ban?{target}")).await;
        assert!(answer.status() == 400 && answer.text().contains(says), "{}", answer.text());
    }
    assert_eq!(targets(&sidegate).await, [""; 0]);
}

#[tokio::test]
async fn banned_client_does_not_wait_for_the_spread() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().toml("reload.revoke_spread = '10m'").run().await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let mut tunnel = named(&sidegate, "198.51.100.3").open("/").await;
        tunnel.expect_echo("before").await;
        tunnels.push(tunnel);
    }
    // Refused by the policy first, so that they wait for turns within ten minutes.
    sidegate.policy().deny("198.51.100.3").write().await;
    let (_, banned) = ban(&sidegate, of("198.51.100.3")).await;
    assert!(banned >= 2, "all but those whose turn has come: {banned}");
    for mut tunnel in tunnels.drain(1..) {
        tunnel.expect_close_with(1008, "banned").await;
    }
}

#[tokio::test]
async fn ban_behind_a_translator_holds_one_client() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    for (target, other) in [
        ("64:ff9b::192.0.2.7", "64:ff9b::198.51.100.9"),
        ("64:ff9b:1::192.0.2.7", "64:ff9b:1::198.51.100.9"),
        ("fe80::7", "fe80::9"),
    ] {
        let mut neighbour = named(&sidegate, other).open("/").await;
        let (status, _) = ban(&sidegate, of(target)).await;
        assert!(status.target.ends_with("/128"), "{}", status.target);
        named(&sidegate, target).attempt("/").await.expect_refused(403, "banned");
        neighbour.expect_echo("untouched").await;
    }
}

#[tokio::test]
async fn pasted_identity_is_understood_or_refused() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    let folder = sidegate.folder();
    let hex = "AB:".repeat(31) + "AB";
    let printed = format!("sha256 Fingerprint={hex}");
    let key = format!("sha256:{}", "ab".repeat(32));
    for (pasted, banned) in [
        ("URI:spiffe://Example.com/ws", "spiffe://example.com/ws"),
        (" DNS:a.example ", "dns:a.example"),
        ("uri:dns:a.example", "uri:dns:a.example"),
        (&printed, &*key),
    ] {
        order(&["ban", "--identity", pasted, "--why", "x"], folder, 0, &[banned]).await;
        order(&["unban", "--identity", banned], folder, 0, &["unbanned", banned]).await;
    }
    for (pasted, says) in [
        ("CN=client", "a subject matches no pattern"),
        ("client.example.com", "has `dns:` before it"),
        ("client.example.com:443", "a host and its port"),
        ("DNS:a.example,DNS:b.example", "write one name"),
        ("spiffe:a/b", "needs // and an authority"),
        ("0A:1B:2C:3D", "a digest or a serial number"),
    ] {
        order(&["ban", "--identity", pasted, "--why", "x"], folder, 2, &[says]).await;
    }
}

#[tokio::test]
async fn wrong_arguments_and_reasons_order_no_ban() {
    let backend = backend::echo().run().await;
    let sidegate = new(&backend).clear().run().await;
    for why in ["a\nb", "a\r\nb", "a\u{85}b", "a\u{2028}b", "a\u{1b}[2Jb"] {
        let ban = ["ban", "198.51.100.3", "--why", why];
        order(&ban, sidegate.folder(), 1, &["`why` is one line"]).await;
    }
    let folder = sidegate.folder();
    order(&["ban", "banana", "--why", "x"], folder, 2, &["neither an address"]).await;
    order(&["unban", "192.0.2.7/24"], folder, 2, &["write 192.0.2.0/24"]).await;
    let long = ["ban", "198.51.100.3", "--why", "x", "--for", "1w"];
    order(&long, folder, 2, &["--for", "is no duration"]).await;
    assert_eq!(targets(&sidegate).await, [""; 0]);
}
