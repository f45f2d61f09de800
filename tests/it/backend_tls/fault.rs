//! Faults of a backend over TLS: its client gets a 502, and the log line of the request gives the
//! reason in plain words.

use rustls::server::Acceptor;

use super::{CA, IDENTITY, agent, echo, files};
use crate::harness::backend::{self, Backend};
use crate::harness::certificate::{self, Pair};
use crate::harness::wire::Wire;
use crate::harness::{client, process};

/// Asserts that an attempt at `backend` over TLS, under these keys and as `own`, is a 502 whose
/// line names the backend and this fault.
async fn check_as(own: &Pair, backend: &Backend, keys: &str, fault: &str) {
    let address = backend.address().replace("http://", "https://");
    let folder = files(backend, &format!("backend = '{address}'\n{keys}"), own).clear().write();
    let mut process = process::new(folder.path()).run().await;
    process.client().attempt("/chat").await.expect_refused(502, "backend");
    let line = process.logged("failed").await;
    assert_eq!((line["backend"].as_str(), line["error"].as_str()), (Some(&*address), Some(fault)));
}

async fn check(backend: &Backend, keys: &str, fault: &str) {
    check_as(&certificate::signed(&["sidecar"]), backend, keys, fault).await;
}

/// A backend with this certificate.
async fn with(pair: Pair) -> Backend {
    echo(certificate::server_with(&pair, false, &[])).await
}

/// Reads the first record, which is the ClientHello.
async fn hello(wire: &mut Wire) -> Vec<u8> {
    let mut record = wire.bytes(5).await;
    record.extend(wire.bytes(usize::from(u16::from_be_bytes([record[3], record[4]]))).await);
    record
}

#[tokio::test]
async fn expired_backend_certificate_is_logged_with_its_date() {
    let backend = with(certificate::expired(&["127.0.0.1"])).await;
    check(&backend, CA, "its certificate expired at 2021-01-01T00:00:00Z").await;
}

#[tokio::test]
async fn backend_certificate_of_another_name_is_logged_with_both() {
    let backend = with(certificate::signed(&["app.internal", "127.0.0.2"])).await;
    check(&backend, CA, "its certificate is for app.internal, 127.0.0.2, not for 127.0.0.1").await;
}

#[tokio::test]
async fn backend_certificate_of_an_unknown_authority_is_logged() {
    let backend = with(certificate::unknown(&["127.0.0.1"])).await;
    check(&backend, CA, "its certificate is not signed by a trusted CA").await;
}

#[tokio::test]
async fn clear_backend_is_logged_as_speaking_no_tls() {
    let answers = |mut wire: Wire| async move {
        hello(&mut wire).await;
        wire.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    };
    check(&backend::raw(answers).run().await, CA, "it does not speak TLS").await;
}

#[tokio::test]
async fn backend_that_closes_in_the_handshake_is_logged() {
    let hangs_up = |mut wire: Wire| async move { drop(hello(&mut wire).await) };
    check(&backend::raw(hangs_up).run().await, CA, "it closed the connection in the TLS handshake")
        .await;
}

#[tokio::test]
async fn backend_that_requires_a_client_certificate_is_logged() {
    let backend = echo(certificate::server(&["127.0.0.1"], true)).await;
    check(&backend, CA, "it requires a client certificate, and none is configured").await;
}

#[tokio::test]
async fn backend_that_rejects_the_client_certificate_is_logged() {
    let backend = echo(certificate::server(&["127.0.0.1"], true)).await;
    let own = certificate::unknown(&["sidecar"]);
    check_as(&own, &backend, IDENTITY, "it rejected the client certificate: UnknownCA").await;
}

#[tokio::test]
async fn backend_with_http_2_only_is_logged() {
    let backend =
        echo(certificate::server_with(&certificate::signed(&["127.0.0.1"]), false, &["h2"])).await;
    check(&backend, CA, "it does not support http/1.1, the only protocol offered").await;
}

#[tokio::test]
async fn backend_that_selects_unoffered_alpn_is_refused() {
    // TLS 1.2, whose ServerHello (RFC 5246 §7.4.1.3) is in the clear: no session, a cipher, and
    // `h2` by ALPN (RFC 7301 §3.1).
    let rest = [&[0, 0xc0, 0x2f, 0, 0, 9][..], &[0, 16, 0, 5, 0, 3, 2, b'h', b'2']].concat();
    let hello_back = [&[22, 3, 3, 0, 53, 2, 0, 0, 49, 3, 3][..], &[7; 32], &rest].concat();
    let chooses = move |mut wire: Wire| {
        let hello_back = hello_back.clone();
        async move {
            hello(&mut wire).await;
            wire.send(hello_back).await;
            wire.rest().await;
        }
    };
    let fault = "it chose a protocol that was not offered: only http/1.1 is";
    check(&backend::raw(chooses).run().await, CA, fault).await;
}

#[tokio::test]
async fn only_http_1_1_is_offered_to_backends() {
    let looks = |mut wire: Wire| async move {
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &hello(&mut wire).await[..]).unwrap();
        let hello = acceptor.accept().unwrap().unwrap();
        assert_eq!(hello.client_hello().alpn().unwrap().collect::<Vec<_>>(), [b"http/1.1"]);
    };
    let backend = backend::raw(looks).run().await;
    let address = backend.address().replace("http://", "https://");
    let sidegate = agent(&backend, &format!("backend = '{address}'\n{CA}")).await;
    client::new(&sidegate).attempt("/chat").await.expect_refused(502, "backend");
    backend.expect_done(1).await;
}

#[tokio::test]
async fn backend_with_both_versions_uses_http_1_1() {
    let config =
        certificate::server_with(&certificate::signed(&["127.0.0.1"]), false, &["h2", "http/1.1"]);
    assert!(super::opens(config, CA).await);
}
