//! Addresses that change while the agent runs: bound last of all, and given up after the publish.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use ::sidegate::control::reload::ReloadOutcome;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::harness::backend::{self, Backend};
use crate::harness::client;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::sockets::free_address;
use crate::harness::within;

/// Between two looks at something that only can be looked at.
const BETWEEN: Duration = Duration::from_millis(5);

async fn echoing() -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    (sidegate::new().route("/chat", &backend).toml("reload.poll = '100ms'").run().await, backend)
}

/// Writes another address for metrics, and reads the files.
async fn listen(sidegate: &Sidegate, address: &str) -> ReloadOutcome {
    let mut config = sidegate.toml();
    config["metrics"].as_table_mut().unwrap().insert("listen".into(), address.into());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    sidegate.reload().await
}

#[tokio::test]
async fn metrics_move_to_their_new_address_and_leave_the_old_one() {
    let (sidegate, _backend) = echoing().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    let (before, after) = (sidegate.agent().metrics().unwrap(), free_address());
    let outcome = listen(&sidegate, &after.to_string()).await;
    assert!(matches!(outcome, ReloadOutcome::Published { generation: 2, .. }), "{outcome:?}");
    assert_eq!(sidegate.agent().metrics(), Some(after));
    assert_eq!(sidegate.generation().await, 2);
    let closed = async { while TcpStream::connect(before).await.is_ok() {} };
    within("the end of the old address", closed).await;
    tunnel.expect_echo("not my business").await;
}

#[tokio::test]
async fn taken_address_rejects_the_reload_and_is_retried() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().metrics();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ReloadOutcome::Rejected { errors } = listen(&sidegate, &address.to_string()).await else {
        panic!("published")
    };
    let text = errors[0].to_string();
    assert!(
        text.contains("[metrics]")
            && text.contains(&address.to_string())
            && text.contains("another program listens"),
        "{text}"
    );
    assert_eq!(sidegate.agent().metrics(), before);
    assert_eq!(sidegate.generation().await, 1);
    drop(taken);
    let moved = async {
        while sidegate.agent().metrics() != Some(address) {
            sleep(BETWEEN).await;
        }
    };
    within("the new address", moved).await;
    assert_eq!(sidegate.generation().await, 2);
}

#[tokio::test]
async fn metrics_can_be_turned_off_and_on_and_moved_to_a_unix_socket() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().metrics().unwrap();
    listen(&sidegate, "off").await;
    assert_eq!(sidegate.agent().metrics(), None);
    within("the end of the old address", async {
        while TcpStream::connect(before).await.is_ok() {}
    })
    .await;
    listen(&sidegate, "unix:metrics.sock").await;
    let path = sidegate.folder().join("metrics.sock");
    within("the Unix socket", async { tokio::net::UnixStream::connect(&path).await.unwrap() })
        .await;
    listen(&sidegate, "127.0.0.1:0").await;
    assert_eq!(sidegate.generation().await, 4);
    within("the end of the Unix socket", async {
        while path.exists() {
            sleep(BETWEEN).await;
        }
    })
    .await;
}

#[tokio::test]
async fn metrics_may_have_another_address_with_the_same_port() {
    let (sidegate, _backend) = echoing().await;
    // Another process may have the port at another address of this host.
    for _ in 0..5 {
        let before = free_address();
        listen(&sidegate, &before.to_string()).await;
        if let ReloadOutcome::Published { generation, .. } =
            listen(&sidegate, &format!("0.0.0.0:{}", before.port())).await
        {
            assert_eq!(sidegate.agent().metrics().map(|now| now.ip().is_unspecified()), Some(true));
            return assert_eq!(sidegate.generation().await, generation);
        }
    }
    panic!("it was rejected each time");
}

#[tokio::test]
async fn address_taken_by_this_process_is_reported_as_such() {
    let (sidegate, _backend) = clear().await;
    let ReloadOutcome::Rejected { errors } =
        listen(&sidegate, &sidegate.address().to_string()).await
    else {
        panic!("published")
    };
    let text = errors[0].to_string();
    assert!(
        text.contains("sidegate itself uses that port") && text.contains("sidegate.toml:"),
        "{text}"
    );
}

/// Writes `[admin]` with these keys, and reads the files.
async fn admin(sidegate: &Sidegate, keys: &str) -> ReloadOutcome {
    let mut config = sidegate.toml();
    config.insert("admin".into(), toml::Value::Table(toml::from_str(keys).unwrap()));
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    sidegate.reload().await
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn admin_socket_moves_without_a_gap() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().admin().unwrap();
    expect_published(&admin(&sidegate, "socket = 'other.sock'").await);
    assert_eq!(sidegate.agent().admin(), Some(sidegate.folder().join("other.sock")));
    sidegate.status().await;
    within("the end of the old one", async {
        while before.exists() {
            sleep(BETWEEN).await;
        }
    })
    .await;
}

#[tokio::test]
async fn admin_socket_mode_changes_in_place() {
    let (sidegate, _backend) = echoing().await;
    expect_published(&admin(&sidegate, "socket = 'own.sock'\nmode = '0600'").await);
    let path = sidegate.agent().admin().unwrap();
    assert_eq!(mode(&path), 0o600);
    expect_published(&admin(&sidegate, "socket = 'own.sock'\nmode = '0622'").await);
    assert_eq!((sidegate.agent().admin().as_ref(), mode(&path)), (Some(&path), 0o622));
    sidegate.status().await;
    assert!(!path.with_extension("new").exists());
}

#[tokio::test]
async fn unknown_group_rejects_the_reload_with_its_line() {
    let (sidegate, _backend) = echoing().await;
    let before = sidegate.agent().admin();
    let ReloadOutcome::Rejected { errors } = admin(&sidegate, "group = 'no-such-group'").await
    else {
        panic!("published")
    };
    let text = errors[0].to_string();
    assert!(
        text.contains("this host has no group `no-such-group`") && text.contains("sidegate.toml:"),
        "{text}"
    );
    assert_eq!(sidegate.agent().admin(), before);
    sidegate.status().await;
}

/// Replaces the listeners, all without TLS, by name and address. An unchanged line is an unchanged
/// listener.
async fn listeners(sidegate: &Sidegate, listeners: &[(&str, &str)]) -> ReloadOutcome {
    let mut config = sidegate.toml();
    let one = |(name, keys): &(&str, &str)| {
        toml::from_str::<toml::Table>(&format!("name = '{name}'\ntls = false\n{keys}")).unwrap()
    };
    config.insert("listener".into(), listeners.iter().map(one).collect::<Vec<_>>().into());
    sidegate.put("sidegate.toml", toml::to_string(&config).unwrap());
    sidegate.reload().await
}

/// An agent without `watch`: it reads its files on request only.
async fn clear() -> (Sidegate, Backend) {
    let backend = backend::echo().run().await;
    (
        sidegate::new().clear().route("/chat", &backend).toml("reload.watch = 'off'").run().await,
        backend,
    )
}

#[track_caller]
fn expect_published(outcome: &ReloadOutcome) {
    assert!(matches!(outcome, ReloadOutcome::Published { .. }), "{outcome:?}");
}

async fn expect_closed(address: SocketAddr) {
    within("the end of the old address", async {
        while TcpStream::connect(address).await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn added_listener_accepts_and_a_removed_one_keeps_tunnels() {
    let (sidegate, _backend) = clear().await;
    let first = sidegate.address();
    let mut early = client::clear(first).open("/chat").await;
    let own = ("public", "listen = '127.0.0.1:0'");
    expect_published(&listeners(&sidegate, &[own, ("other", "listen = '127.0.0.1:0'")]).await);
    assert_eq!(sidegate.address(), first, "one that is unchanged is not touched");
    let other = sidegate.listener("other");
    let mut late = client::clear(other).open("/chat").await;
    client::clear(first).open("/chat").await.expect_echo("as before").await;

    expect_published(&listeners(&sidegate, &[own]).await);
    expect_closed(other).await;
    for tunnel in [&mut early, &mut late] {
        tunnel.expect_echo("I live on").await;
    }
    client::clear(first).open("/chat").await.expect_echo("as before").await;
    let limits = sidegate.metrics().await;
    assert!(!limits.contains("sidegate_connections_limit{listener=\"other\"}"), "{limits}");
}

#[tokio::test]
async fn moved_listener_opens_before_the_old_one_closes() {
    let (sidegate, _backend) = clear().await;
    let (before, after) = (sidegate.address(), free_address());
    let mut tunnel = client::clear(before).open("/chat").await;
    expect_published(&listeners(&sidegate, &[("public", &format!("listen = '{after}'"))]).await);
    assert_eq!(sidegate.address(), after);
    client::clear(after).open("/chat").await.expect_echo("there").await;
    expect_closed(before).await;
    tunnel.expect_echo("I live on").await;
}

#[tokio::test]
async fn listeners_may_swap_addresses_and_change_names() {
    let (sidegate, _backend) = clear().await;
    let (one, two) = (free_address(), free_address());
    let at = |address: SocketAddr| format!("listen = '{address}'");
    expect_published(&listeners(&sidegate, &[("a", &at(one)), ("b", &at(two))]).await);
    expect_published(&listeners(&sidegate, &[("a", &at(two)), ("b", &at(one))]).await);
    assert_eq!((sidegate.listener("a"), sidegate.listener("b")), (two, one));
    expect_published(&listeners(&sidegate, &[("c", &at(one)), ("a", &at(two))]).await);
    assert_eq!(sidegate.listener("c"), one);
    for address in [one, two] {
        client::clear(address).open("/chat").await.expect_echo("there").await;
    }
}

#[tokio::test]
async fn taken_listener_address_rejects_without_changes() {
    let (sidegate, _backend) = clear().await;
    let before = sidegate.address();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = format!("listen = '{}'", taken.local_addr().unwrap());
    let ReloadOutcome::Rejected { errors } =
        listeners(&sidegate, &[("public", &keys), ("more", "listen = '127.0.0.1:0'")]).await
    else {
        panic!("published")
    };
    let text = errors[0].to_string();
    assert!(
        text.contains("listener `public`")
            && text.contains("another program listens")
            && text.contains("sidegate.toml:"),
        "{text}"
    );
    assert_eq!((sidegate.address(), sidegate.agent().listeners().len()), (before, 1));
    client::clear(before).open("/chat").await.expect_echo("as before").await;
}

#[tokio::test]
async fn queue_of_a_removed_listener_is_served() {
    let (sidegate, _backend) = clear().await;
    let keys = |most: usize| format!("listen = '127.0.0.1:0'\nmax_connections = {most}");
    expect_published(
        &listeners(&sidegate, &[("public", "listen = '127.0.0.1:0'"), ("other", &keys(1))]).await,
    );
    let other = sidegate.listener("other");
    let first = client::clear(other).open("/chat").await;
    // The kernel has it, and there is no place for it yet.
    let mut waits = TcpStream::connect(other).await.unwrap();
    drop(first);
    expect_published(&listeners(&sidegate, &[("public", "listen = '127.0.0.1:0'")]).await);
    let head = client::clear(other).attempt_head("/chat", "");
    tokio::io::AsyncWriteExt::write_all(&mut waits, head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("an answer", tokio::io::AsyncReadExt::read_exact(&mut waits, &mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
}

/// Time for which a client of a storm stays: longer than connecting takes, so that others wait.
const STAYS: Duration = Duration::from_millis(20);

/// Connects to `address` and opens a tunnel with `head`, over and over until the address refuses.
/// Counts tunnels in `opened`; returns how many connections got no answer.
fn storm(address: SocketAddr, head: &str, opened: &AtomicUsize) -> usize {
    let mut lost = 0;
    while let Ok(mut stream) = StdStream::connect(address) {
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let answered =
            stream.write_all(head.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
        if answered.is_err() || &answer != b"HTTP/1.1 101" {
            lost += 1;
            continue;
        }
        opened.fetch_add(1, Ordering::SeqCst);
        thread::sleep(STAYS);
    }
    lost
}

#[tokio::test]
async fn no_connection_is_lost_when_a_busy_listener_moves() {
    let (sidegate, _backend) = clear().await;
    let at = |address: SocketAddr| format!("listen = '{address}'\nmax_connections = 2");
    let before = free_address();
    expect_published(&listeners(&sidegate, &[("public", &at(before))]).await);
    let opened = Arc::new(AtomicUsize::new(0));
    let one = || {
        let (opened, head) = (Arc::clone(&opened), client::clear(before).attempt_head("/chat", ""));
        thread::spawn(move || storm(before, &head, &opened))
    };
    let clients: Vec<_> = (0..16).map(|_| one()).collect();
    let blows = async {
        while opened.load(Ordering::SeqCst) < 20 {
            sleep(BETWEEN).await;
        }
    };
    within("a storm", blows).await;
    expect_published(&listeners(&sidegate, &[("public", &at(free_address()))]).await);
    let lost =
        spawn_blocking(|| clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>());
    assert_eq!(lost.await.unwrap(), 0);
}

#[tokio::test]
async fn a_cap_grows_and_shrinks_while_it_is_full() {
    let (sidegate, _backend) = clear().await;
    let capped = |most: usize| format!("listen = '127.0.0.1:0'\nmax_connections = {most}");
    let set = async |most: usize| {
        expect_published(&listeners(&sidegate, &[("public", &capped(most))]).await);
    };
    set(1).await;
    let address = sidegate.address();
    let one = client::clear(address).open("/chat").await;
    let client = client::clear(address);
    let mut two = std::pin::pin!(client.open("/chat"));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), two.as_mut()).await.is_err(),
        "there is one place"
    );
    set(2).await;
    let two = within("a place", two).await;
    sidegate.expect_metric("sidegate_connections_limit", [("listener", "public")], 2).await;

    set(1).await;
    drop(one);
    let mut three = std::pin::pin!(client.open("/chat"));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), three.as_mut()).await.is_err(),
        "the place of the first is gone"
    );
    drop(two);
    within("the one place", three).await.expect_echo("mine").await;
    assert_eq!(sidegate.address(), address);
}
