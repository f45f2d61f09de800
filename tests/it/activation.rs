//! Sockets that systemd binds and passes by name: which listener serves them, which errors they can
//! have, and that they outlive the agent.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::backend;
use crate::harness::client;
use crate::harness::sidegate::{self, Builder};
use crate::harness::unit::{self, socket};
use crate::harness::wire::lossy;
use crate::harness::within;

const PUBLIC: &str = "listen = 'systemd:public'";

/// In the clear, on the socket called `public`.
fn activated() -> Builder {
    sidegate::new().clear().on_listener(PUBLIC)
}

/// Returns the answer to `GET path` over this Unix socket.
async fn asked(socket: &Path, path: &str) -> String {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    within(path, asking).await
}

/// Asserts that an agent with these sockets and this addition to `sidegate.toml` doesn't start, and
/// prints all of these.
async fn check_refused(sidegate: Builder, said: &[&str]) {
    let Err(error) = sidegate.try_run().await else { panic!("it started") };
    let text = error.to_string();
    for part in said {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

// C-LIFE-05
#[tokio::test]
async fn every_socket_of_a_listeners_name_is_served_by_every_thread() {
    let backend = backend::echo().run().await;
    let ((one, first), (two, second)) = (socket(), socket());
    let sidegate = activated()
        .route("/chat", &backend)
        .threads(2)
        .passed("public", one)
        .passed("public", two)
        .run()
        .await;
    let listeners = sidegate.agent().listeners();
    let listeners: Vec<_> =
        listeners.iter().map(|one| (&*one.listener, one.address.tcp().unwrap())).collect();
    assert_eq!(listeners, [("public", first), ("public", second)]);
    for address in [first, second, first, second] {
        client::clear(address).open("/chat").await.expect_echo("here").await;
    }
    sidegate
        .expect_metric("sidegate_connections_accepted_total", [("listener", "public")], 4)
        .await;
}

#[tokio::test]
async fn the_cap_of_a_listener_holds_over_all_its_sockets_and_threads() {
    let backend = backend::echo().run().await;
    let ((one, first), (two, second)) = (socket(), socket());
    let sidegate =
        activated().route("/chat", &backend).threads(2).on_listener("max_connections = 2");
    let sidegate = sidegate.passed("public", one).passed("public", two).run().await;
    let open =
        (client::clear(first).open("/chat").await, client::clear(second).open("/chat").await);
    let mut third = client::clear(first).connect().await;
    third.send(client::clear(first).attempt_head("/chat", "")).await;
    sidegate.expect_metric("sidegate_connections_open", [], 2).await;
    drop(open);
    assert_eq!(third.head().await.status(), 101);
}

#[tokio::test]
async fn metrics_are_served_on_passed_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let (tcp, address) = socket();
    let wanted =
        sidegate::new().toml("metrics = { listen = 'systemd:metrics', allow = ['192.0.2.1'] }");
    let sidegate = wanted
        .passed("metrics", tcp)
        .passed("metrics", UnixListener::bind(&path).unwrap())
        .run()
        .await;
    assert_eq!((sidegate.agent().metrics(), sidegate.readyz().await.0), (Some(address), 403));
    let answer = asked(&path, "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
    drop(sidegate);
    assert!(path.exists(), "a passed socket is never unlinked");

    let own = sidegate::new().toml("metrics.listen = 'unix:metrics.sock'").run().await;
    assert!(
        asked(&own.folder().join("metrics.sock"), "/metrics")
            .await
            .contains("sidegate_generation 1\n")
    );
}

#[tokio::test]
async fn commands_find_an_admin_socket_of_systemd() {
    let sidegate = sidegate::new().clear().toml("admin.socket = 'systemd:admin'").write();
    let path = sidegate.path().join("made-by-systemd.sock");
    let unit =
        unit::of(sidegate.path()).passed("admin", UnixListener::bind(&path).unwrap()).run().await;
    let mut reload = std::process::Command::new(env!("CARGO_BIN_EXE_sidegate"));
    reload
        .args(["reload", "--wait", "--config", "sidegate.toml"])
        .current_dir(sidegate.path())
        .env("TMPDIR", sidegate.path());
    let reload =
        reload.env_remove("RUNTIME_DIRECTORY").env_remove("XDG_RUNTIME_DIR").output().unwrap();
    assert!(lossy(&reload.stdout).contains("unchanged"), "{}", lossy(&reload.stderr));
    unit.signal(Signal::TERM);
    assert_eq!(unit.ended().await.0.code(), Some(0));
    assert!(path.exists(), "a passed socket is never unlinked");
    let left =
        std::fs::read_dir(sidegate.path()).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let links = left
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
        .filter(|file| file.path().is_symlink());
    assert_eq!(links.count(), 0, "the link to it is gone");
}

#[tokio::test]
async fn missing_socket_name_is_an_error_with_the_passed_names() {
    check_refused(
        activated(),
        &[
            "sidegate.toml:",
            "listener `public` wants the socket `public`",
            "passed none",
            "Sockets=",
        ],
    )
    .await;
    let other = activated().passed("bar", socket().0).passed("baz", socket().0);
    let said = [
        "listener `public` wants the socket `public`",
        "passed `bar`, `baz`",
        "FileDescriptorName=public",
        "\"systemd:bar\"",
    ];
    check_refused(other, &said).await;
}

#[tokio::test]
async fn unused_socket_is_an_error_that_names_both_sides() {
    let one_more = activated().passed("public", socket().0).passed("extra.socket", socket().0);
    check_refused(one_more, &["socket `extra.socket`", "names `public`", "in extra.socket"]).await;
    check_refused(
        sidegate::new().passed("extra", socket().0),
        &["socket `extra`", "names none", "FileDescriptorName=extra"],
    )
    .await;
    let twice = activated().toml("metrics.listen = 'systemd:public'").passed("public", socket().0);
    check_refused(twice, &["the socket `public` is that of [metrics]"]).await;
}

#[tokio::test]
async fn socket_of_the_wrong_kind_is_an_error_with_the_right_one() {
    for (socket, what) in [
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "a datagram socket"),
        (abstract_socket(), "an abstract Unix socket, which has no permissions"),
        (connected(), "a connection"),
    ] {
        check_refused(
            activated().passed("public", socket),
            &[what, "needs a listening TCP socket", "ListenStream="],
        )
        .await;
    }
    let admin = sidegate::new().toml("admin.socket = 'systemd:admin'").passed("admin", socket().0);
    check_refused(
        admin,
        &["a TCP socket, open to the network", "[admin] needs a listening Unix socket"],
    )
    .await;
}

/// A Unix socket without a file.
fn abstract_socket() -> OwnedFd {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("sidegate-{}-{:?}", std::process::id(), std::thread::current().id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    UnixListener::bind_addr(&address).unwrap().into()
}

/// A TCP connection, and not a listening socket.
fn connected() -> OwnedFd {
    let (listener, address) = socket();
    let stream = std::net::TcpStream::connect(address).unwrap();
    drop(listener);
    stream.into()
}

#[tokio::test]
async fn wrong_sockets_end_run_with_78() {
    let folder = activated().write();
    let ended = unit::of(folder.path()).passed("other", socket().0).output().await;
    let said = lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("which passed `other`") && said.contains("not started"), "{said}");
}

#[tokio::test]
async fn reload_rejects_changed_sockets_and_names_the_unit() {
    let backend = backend::echo().run().await;
    let (passed, address) = socket();
    let sidegate = activated().route("/chat", &backend).passed("public", passed).run().await;
    let listen = |address: &str| {
        let mut config = sidegate.toml();
        config["listener"][0].as_table_mut().unwrap().insert("listen".into(), address.into());
        toml::to_string(&config).unwrap()
    };
    let renamed = sidegate.write_rejected("sidegate.toml", &listen("systemd:other")).await;
    assert!(renamed.contains("FileDescriptorName=other in the .socket unit"), "{renamed}");
    let removed = sidegate.write_rejected("sidegate.toml", &listen("127.0.0.1:0")).await;
    assert!(removed.contains("the .socket unit with FileDescriptorName=public"), "{removed}");
    client::clear(address).open("/chat").await.expect_echo("as before").await;
}

// C-LIFE-05
#[tokio::test]
async fn connection_between_processes_is_served_by_the_next_one() {
    let backend = backend::echo().run().await;
    let folder = activated().route("/chat", &backend).write();
    let (listener, address) = socket();
    let run = || unit::of(folder.path()).passed("public", listener.try_clone().unwrap()).run();
    for signal in [Signal::TERM, Signal::KILL] {
        let unit = run().await;
        client::clear(address).open("/chat").await.expect_echo("before").await;
        unit.signal(signal);
        unit.ended().await;
        let mut waiting = connect(address).await;
        let _next = run().await;
        waiting.send(client::clear(address).attempt_head("/chat", "")).await;
        assert_eq!(waiting.head().await.status(), 101, "after {signal:?}");
    }
}

async fn connect(address: SocketAddr) -> crate::harness::wire::Wire {
    client::clear(address).connect().await
}

#[tokio::test]
async fn a_drain_leaves_the_queue_to_the_next_process() {
    let backend = backend::echo().run().await;
    let (listener, address): (TcpListener, _) = socket();
    let build =
        || activated().route("/chat", &backend).passed("public", listener.try_clone().unwrap());
    let mut sidegate = build().run().await;
    let mut open = client::clear(address).open("/chat").await;
    sidegate.drain().await;
    open.expect_close(1001).await;
    let mut waiting = connect(address).await;
    drop(open);
    sidegate.ended().await;
    let _next = build().run().await;
    waiting.send(client::clear(address).attempt_head("/chat", "")).await;
    assert_eq!(waiting.head().await.status(), 101);
}
