//! Peers that vanish: the kernel watches every TCP connection to a client and to a backend.
//!
//! That it finds out is for tests/system/vanished.py, which takes minutes.

use std::net::TcpListener;

use crate::harness::backend::{self, Backend};
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::sockets::{Found, expect_released};
use crate::harness::{certificate, client};

const FORWARD: &str = "http = 'forward'";

/// Both sockets of the agent's only connection through it.
async fn both(sidegate: &Sidegate, backend: &Backend) -> [Found; 2] {
    [Found::accepted(sidegate.address()).await, Found::dialled(backend.address()).await]
}

async fn expect_watched(sidegate: &Sidegate, backend: &Backend) {
    for socket in both(sidegate, backend).await {
        socket.expect_watched();
        assert_eq!(socket.user_timeout(), 120);
    }
}

#[tokio::test]
async fn tunnel_sockets_have_keep_alive_with_or_without_pings() {
    for (tls, limits) in [(false, ""), (true, ""), (false, "ping = 'off'"), (true, "ping = 'off'")]
    {
        let backend = backend::echo().run().await;
        let sidegate = sidegate::new().route("/chat", &backend).limits(limits);
        let sidegate = if tls { sidegate.tls() } else { sidegate.clear() }.run().await;
        let mut tunnel = client::new(&sidegate).open("/chat").await;
        expect_watched(&sidegate, &backend).await;
        tunnel.expect_echo("still here").await;
    }
}

#[tokio::test]
async fn plain_http_sockets_have_keep_alive() {
    for tls in [false, true] {
        let backend = backend::manual().run().await;
        let sidegate = sidegate::new().route("/", &backend).on_route(FORWARD);
        let sidegate = if tls { sidegate.tls() } else { sidegate.clear() }.run().await;
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        wire.send(client.request("GET / HTTP/1.1", "")).await;
        let _at_backend = backend.accepted().await;
        expect_watched(&sidegate, &backend).await;
    }
}

#[tokio::test]
async fn tls_backend_sockets_have_keep_alive() {
    let backend = backend::echo().tls(certificate::server(&["127.0.0.1"], false)).run().await;
    let trust = "backend_tls = { ca = 'certs/ca.pem' }\ntimeouts = { write_stall = '5m' }";
    let sidegate = sidegate::new().route("/chat", &backend).on_route(trust);
    let sidegate = sidegate.file("certs/ca.pem", certificate::authority_pem()).run().await;
    let _tunnel = client::new(&sidegate).open("/chat").await;
    for socket in both(&sidegate, &backend).await {
        socket.expect_watched();
        socket.expect_user_timeout(360).await;
    }
}

#[tokio::test]
async fn connection_queued_before_the_agent_gets_keep_alive() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = client::clear(address);
    let mut early = client.connect().await;
    early.send(client.attempt_head("/chat", "")).await;
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().clear().on_listener("listen = 'systemd:public'");
    let sidegate = sidegate.passed("public", listener).route("/chat", &backend).run().await;
    assert_eq!(early.head().await.status(), 101);
    expect_watched(&sidegate, &backend).await;
}

#[tokio::test]
async fn closed_window_is_tolerated_for_write_stall() {
    let backend = backend::echo().run().await;
    let sidegate =
        sidegate::new().route("/chat", &backend).timeouts("write_stall = '3m'").run().await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    let sockets = both(&sidegate, &backend).await;
    for socket in &sockets {
        socket.expect_user_timeout(240).await;
    }
    let longer = toml::from_str("timeouts.write_stall = '10m'").unwrap();
    sidegate.reconfigure(|config| config.extend::<toml::Table>(longer)).await;
    for socket in &sockets {
        socket.expect_user_timeout(660).await;
    }
    tunnel.expect_echo("still here").await;
}

#[tokio::test]
async fn each_request_has_the_write_stall_of_its_route() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route(FORWARD).route("/slow/", &backend);
    let sidegate =
        sidegate.on_route("http = 'forward'\ntimeouts = { write_stall = '9m' }").run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    for (path, seconds) in [("/", 120), ("/slow/", 600), ("/", 120)] {
        wire.send(client.request(&format!("GET {path} HTTP/1.1"), "")).await;
        wire.answer().await.expect(200);
        for socket in both(&sidegate, &backend).await {
            socket.expect_user_timeout(seconds).await;
        }
    }
    assert_eq!(backend.connections(), 1);
}

/// Asserts that a client which asks so, and reads nothing, leaves nothing in the kernel for long
/// once its connection is closed.
async fn check_left(keep_alive: &str, request: &str, lines: &str) {
    let backend = backend::http(|_| backend::reply(200).body(vec![7; 1 << 20])).run().await;
    let sidegate = sidegate::new().route("/", &backend).on_route(FORWARD);
    let timeouts = format!("write_stall = '1s'\nkeep_alive = '{keep_alive}'");
    let sidegate = sidegate.timeouts(&timeouts).run().await;
    let client = client::new(&sidegate);
    let mut wire = client.connect().await;
    wire.send(client.request(request, lines)).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [], 1).await;
    expect_released(sidegate.address(), wire.address()).await;
}

#[tokio::test]
async fn unread_answer_is_dropped_by_the_kernel_soon() {
    check_left("1m", "GET / HTTP/1.1", "Connection: close\r\n").await;
    check_left("1m", "GET / HTTP/1.0", "").await;
    check_left("200ms", "GET / HTTP/1.1", "").await;
}
