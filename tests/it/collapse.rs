//! Listeners whose clients cannot be told apart, and everywhere that this is reported.
//!
//! Sidegate looks every ten seconds, so each test has several listeners and few looks.

use std::time::Duration;

use ::sidegate::admin::wire::WarningKind;
use rustix::process::Signal;
use tokio::net::UnixStream;

use crate::harness::backend;
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::unit::{self, Unit};
use crate::harness::wire::{End, Wire};

/// Limit of the wait for a look.
const LOOK_PATIENCE: Duration = Duration::from_secs(40);

const COLLAPSED: &str = "sidegate_identity_collapsed";

/// Sends as many requests as a verdict takes, over one connection.
async fn ask_often(wire: &mut Wire, client: &Client, lines: &str) {
    wire.send(client.request("GET /chat HTTP/1.1", lines).repeat(220)).await;
    for _ in 0..220 {
        wire.answer().await.expect(426);
    }
}

/// The same, over a connection of its own.
async fn ask(client: &Client, lines: &str) {
    ask_often(&mut client.connect().await, client, lines).await;
}

/// Waits until so many listeners are reported.
async fn expect_collapsed(sidegate: &Sidegate, listeners: f64) {
    let reported = async {
        while sidegate.metric(COLLAPSED, []).await != listeners {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LOOK_PATIENCE, reported).await.expect("a look");
}

/// Waits until one message to the manager has all of these parts.
async fn expect_told(unit: &Unit, parts: &[&str]) {
    let told = async {
        loop {
            let message = unit.told().await;
            if parts.iter().all(|part| message.contains(part)) {
                return;
            }
        }
    };
    tokio::time::timeout(LOOK_PATIENCE, told).await.expect("a look");
}

/// Asserts that `/readyz` and `status` report exactly these listeners, each with these words.
async fn expect_reports(sidegate: &Sidegate, expected: &[(&str, &str)]) {
    let readyz = sidegate.readyz().await.1;
    let status = sidegate.status().await.warnings;
    let is_one = |word: &WarningKind| *word == WarningKind::IdentityCollapsed;
    let status: Vec<_> = status.iter().filter(|one| is_one(&one.word)).collect();
    assert_eq!(status.len(), expected.len(), "{status:?}");
    assert_eq!(readyz.matches("listener ").count(), expected.len(), "{readyz}");
    for ((listener, key), warning) in expected.iter().zip(status) {
        let said = &warning.sentence;
        assert!(said.starts_with(&format!("listener {listener}: ")), "{said}");
        assert!(said.contains(key) && readyz.contains(said.as_str()), "no {key} in {said}");
        assert_eq!(sidegate.metric(COLLAPSED, [("listener", *listener)]).await, 1.0);
    }
}

#[tokio::test]
async fn listeners_with_one_client_for_all_are_reported() {
    let listener = |name: &str, header: &str| {
        let believed = format!("forwarded = {{ header = '{header}', from = ['127.0.0.1'] }}");
        format!("[[listener]]\nname = '{name}'\nlisten = '127.0.0.1:0'\ntls = false\n{believed}\n")
    };
    let others = [
        "[[listener]]\nname = 'behind'\nlisten = '127.0.0.1:0'\ntls = false\n",
        &listener("other", "forwarded"),
        &listener("silent", "x-forwarded-for"),
        &listener("told", "x-forwarded-for"),
    ];
    let backend = backend::echo().run().await;
    let builder = sidegate::new().clear().route("/chat", &backend);
    let sidegate = builder.toml(&others.concat()).run().await;
    let at = |name| client::clear(sidegate.listener(name));
    let named = "X-Forwarded-For: 198.51.100.7\r\n";
    ask(&at("public"), "").await;
    ask(&at("behind"), "Forwarded: for=198.51.100.7\r\n").await;
    ask(&at("other"), named).await;
    ask(&at("silent"), "").await;
    ask(&at("told"), named).await;
    expect_collapsed(&sidegate, 4.0).await;
    let behind = ("behind", "forwarded = { header = \"forwarded\", from = [\"127.0.0.1\"] }");
    let other = ("other", "header = \"x-forwarded-for\" in `forwarded`");
    let public = ("public", "`forwarded` or `proxy_protocol`");
    let silent = ("silent", "name no client in X-Forwarded-For");
    expect_reports(&sidegate, &[behind, other, public, silent]).await;
    // The key ends it with the reload, and not with the next look.
    let reads = |config: &mut toml::Table| {
        let listeners = config["listener"].as_array_mut().unwrap();
        for one in listeners.iter_mut().take(3) {
            let table = one.as_table_mut().unwrap();
            let header = if &*table["name"].to_string() == "'other'" { 0 } else { 1 };
            let header = ["x-forwarded-for", "forwarded"][header];
            let keys = format!("header = '{header}'\nfrom = ['127.0.0.1']");
            table.insert("forwarded".into(), toml::from_str::<toml::Table>(&keys).unwrap().into());
        }
    };
    ask(&at("told"), named).await;
    sidegate.reconfigure(reads).await;
    expect_reports(&sidegate, &[other, silent]).await;
}

// One episode is one line of the log, however many looks it lasts.
#[tokio::test]
async fn shared_client_is_logged_once_and_told_to_systemd() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("second.sock");
    let second = format!("listen = 'unix:{}'", path.display());
    let builder = sidegate::new().clear().on_listener("listen = 'systemd:public'");
    let second = format!("[[listener]]\nname = 'second'\ntls = false\n{second}");
    let backend = backend::echo().run().await;
    let folder = builder.route("/chat", &backend).toml(&second).write();
    let (socket, address) = unit::socket();
    let passed = unit::of(folder.path()).passed("public", socket);
    let unit = passed.watchdog(Duration::from_secs(3)).run().await;
    let (client, named) = (client::clear(address), "X-Forwarded-For: 198.51.100.7\r\n");
    ask_often(&mut client.connect().await, &client, named).await;
    let key = "forwarded = { header = \"x-forwarded-for\", from = [\"127.0.0.1\"] }";
    expect_told(&unit, &["STATUS=", "listener public: ", key]).await;
    // The look that finds the second one finds the first one again.
    ask_often(&mut client.connect().await, &client, named).await;
    let socket = UnixStream::connect(&path).await.unwrap();
    ask_often(&mut Wire::new(socket, End::Client, None), &client, named).await;
    expect_told(&unit, &["STATUS=", "listener public: ", "listener second: "]).await;
    unit.signal(Signal::TERM);
    let log = unit.ended().await.1;
    assert_eq!(log.matches("listener public: ").count(), 1, "{log}");
    let user = format!("from = [\\\"unix:uid={}\\\"]", rustix::process::getuid().as_raw());
    assert!(log.contains(&user), "no {user} in {log}");
}
