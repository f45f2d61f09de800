//! Backends over TLS: which backends are trusted, which identity we show, and that a tunnel through
//! it is a tunnel.

mod fault;
mod session;

use std::sync::Arc;

use rustls::ServerConfig;

use crate::harness::backend::{self, Backend};
use crate::harness::certificate::Pair;
use crate::harness::sidegate::{self, Sidegate};
use crate::harness::wire::Frame;
use crate::harness::{certificate, client};

const CA: &str = "backend_tls = { ca = 'certs/backend-ca.pem' }";

const IDENTITY: &str = "backend_tls = { ca = 'certs/backend-ca.pem', chain = 'certs/backend-client.pem', key = 'certs/backend-client.key' }";

/// An agent whose route leads to `backend`, with these keys, and the files that they name.
async fn agent(backend: &Backend, keys: &str) -> Sidegate {
    files(backend, keys, &certificate::signed(&["sidecar"])).run().await
}

/// The same, not yet started and with the identity `own`.
fn files(backend: &Backend, keys: &str, own: &Pair) -> sidegate::Builder {
    let route = sidegate::new().route("/chat", backend).on_route(keys);
    let files = [
        ("ca.pem", certificate::authority_pem()),
        ("client.pem", &own.chain),
        ("client.key", &own.key),
    ];
    files
        .into_iter()
        .fold(route, |agent, (name, text)| agent.file(&format!("certs/backend-{name}"), text))
}

async fn echo(config: Arc<ServerConfig>) -> Backend {
    backend::echo().tls(config).run().await
}

/// Returns whether an attempt with these keys, at a backend with this TLS configuration, becomes a
/// working tunnel.
async fn opens(config: Arc<ServerConfig>, keys: &str) -> bool {
    let backend = echo(config).await;
    let sidegate = agent(&backend, keys).await;
    let answer = client::new(&sidegate).attempt("/chat").await;
    if answer.status() == 502 {
        answer.expect_refused(502, "backend");
        assert!(
            backend.heads().is_empty(),
            "a backend that is not believed hears nothing of the request"
        );
        return false;
    }
    answer.expect(101);
    client::new(&sidegate).open("/chat").await.expect_echo("through").await;
    true
}

#[tokio::test]
async fn backend_is_verified_by_address_and_configured_authority() {
    assert!(opens(certificate::server(&["127.0.0.1"], false), CA).await);
}

#[tokio::test]
async fn backend_is_verified_by_configured_name() {
    let named = "backend_tls = { ca = 'certs/backend-ca.pem', name = 'app.internal' }";
    assert!(opens(certificate::server(&["app.internal"], false), named).await);
    assert!(!opens(certificate::server(&["127.0.0.1"], false), named).await);
}

#[tokio::test]
async fn backend_with_a_wrong_certificate_gets_no_request() {
    assert!(!opens(certificate::server(&["app.internal"], false), CA).await);
}

#[tokio::test]
async fn system_authorities_do_not_verify_a_private_one() {
    assert!(!opens(certificate::server(&["127.0.0.1"], false), "").await);
}

#[tokio::test]
async fn client_certificate_is_sent_when_the_backend_asks() {
    assert!(opens(certificate::server(&["127.0.0.1"], true), IDENTITY).await);
    assert!(!opens(certificate::server(&["127.0.0.1"], true), CA).await);
}

#[tokio::test]
async fn backend_is_down_when_tls_fails_and_the_next_is_tried() {
    let clear = backend::raw(|wire| async move { drop(wire) }).run().await;
    let over_tls = echo(certificate::server(&["127.0.0.1"], false)).await;
    let failing = clear.address().replace("http://", "https://");
    let list = format!("backend = ['{failing}', '{}']\n{CA}", over_tls.address());
    let sidegate = agent(&clear, &list).await;
    for _ in 0..3 {
        client::new(&sidegate).open("/chat").await.expect_echo("through").await;
    }
    sidegate
        .expect_metric("sidegate_backend_up", [("route", "chat"), ("backend", &failing)], 0)
        .await;
}

#[tokio::test]
async fn hanging_backend_leaves_time_for_the_next_and_is_then_last() {
    let silent = backend::raw(|mut wire| async move { drop(wire.rest().await) }).run().await;
    let over_tls = echo(certificate::server(&["127.0.0.1"], false)).await;
    let hanging = silent.address().replace("http://", "https://");
    let refusing = backend::refusing().address().to_owned();
    let timeouts = "timeouts = { dial = '2s' }";
    let list = format!(
        "backend = ['{hanging}', '{refusing}', '{}']\n{timeouts}\n{CA}",
        over_tls.address()
    );
    let sidegate = agent(&silent, &list).await;
    for _ in 0..3 {
        client::new(&sidegate).open("/chat").await.expect_echo("through").await;
    }
    assert_eq!(silent.connections(), 1);
}

#[tokio::test]
async fn dial_times_out_when_backends_refuse_and_hang() {
    let silent = backend::raw(|mut wire| async move { drop(wire.rest().await) }).run().await;
    let hanging = silent.address().replace("http://", "https://");
    let list = format!(
        "backend = ['{hanging}', '{}']\ntimeouts = {{ dial = '100ms' }}\n{CA}",
        backend::refusing().address()
    );
    let sidegate = agent(&silent, &list).await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(504, "backend");
}

#[tokio::test]
async fn large_messages_are_echoed_while_both_sides_send() {
    let backend = echo(certificate::server(&["127.0.0.1"], false)).await;
    let sidegate = agent(&backend, CA).await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    // More than all sockets and buffers on the way hold.
    let messages: Vec<Vec<u8>> = (0..24_u8).map(|at| vec![at; 1 << 20]).collect();
    tunnel.expect_echoes(&messages).await;
    tunnel.close(1000, "done").await;
    tunnel.expect_close_with(1000, "done").await;
    backend.expect_done(1).await;
}

#[tokio::test]
async fn backend_close_notify_ends_the_tunnel() {
    let backend = backend::raw(|mut wire| async move {
        backend::grant(&mut wire, "").await;
        wire.send_frame(Frame::text("last")).await;
        wire.finish().await;
        wire.rest().await;
    });
    let backend = backend.tls(certificate::server(&["127.0.0.1"], false)).run().await;
    let sidegate = agent(&backend, CA).await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    assert_eq!(tunnel.message().await, "last");
    tunnel.expect_gone().await;
    backend.expect_done(1).await;
}

#[tokio::test]
async fn backend_fin_without_close_notify_ends_without_a_close() {
    let backend = backend::raw(|mut wire| async move {
        backend::grant(&mut wire, "").await;
        wire.send_frame(Frame::text("last")).await;
    });
    let backend = backend.tls(certificate::server(&["127.0.0.1"], false)).run().await;
    let sidegate = agent(&backend, CA).await;
    let mut tunnel = client::new(&sidegate).open("/chat").await;
    assert_eq!(tunnel.message().await, "last");
    tunnel.expect_gone().await;
    backend.expect_done(1).await;
}

#[tokio::test]
async fn plain_requests_share_a_connection_under_equal_tls_options() {
    let config = certificate::server(&["127.0.0.1"], false);
    let backend = backend::http(|asked| backend::reply(200).body(asked.head.target().to_owned()))
        .tls(config)
        .run()
        .await;
    let sidegate = agent(&backend, &format!("{CA}\nhttp = 'forward'\npath = '/'")).await;
    let client = client::new(&sidegate);
    for path in ["/a", "/b", "/c"] {
        assert_eq!(client.get(path).await.expect(200).text(), path);
    }
    assert_eq!(backend.connections(), 1);

    let stranger = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
    sidegate.write("certs/backend-ca.pem", &stranger.cert.pem()).await;
    client.get("/d").await.expect_refused(502, "backend");
    sidegate.write("certs/backend-ca.pem", certificate::authority_pem()).await;
    assert_eq!(client.get("/e").await.expect(200).text(), "/e");
}
