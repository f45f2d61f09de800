//! TLS towards clients: which certificate is served, which handshakes are refused, which sessions
//! are resumed.

use rustls::HandshakeKind;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::harness::backend::{self, Backend};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;
use crate::harness::{certificate, client};

/// A default certificate for a.example, others for *.b.example and c.b.example.
fn three(backend: &Backend) -> Builder {
    let sidegate = sidegate::new().route("/chat", backend);
    sidegate
        .certificate(&["a.example", "localhost"])
        .certificate(&["*.b.example"])
        .certificate(&["c.b.example"])
}

/// The first name of the certificate that a client with this SNI is served.
async fn served(sidegate: &Sidegate, sni: &str) -> String {
    name(&client::new(sidegate).trusting().sni(sni).connect().await)
}

/// The first name of the certificate that was served.
fn name(wire: &Wire) -> String {
    let der = &wire.tls().peer_certificates().unwrap()[0];
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    match &names.value.general_names[0] {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => panic!("not a name: {other:?}"),
    }
}

// C-TLS-05
#[tokio::test]
async fn sni_prefers_exact_then_wildcard_then_default() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend).run().await;
    for (sni, expected) in [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("x.b.example", "*.b.example"),
        ("c.b.example", "c.b.example"),
        ("b.example", "a.example"),
        ("x.y.b.example", "a.example"),
        ("unknown.example", "a.example"),
        ("127.0.0.1", "a.example"), // no SNI at all
    ] {
        assert_eq!(served(&sidegate, sni).await, expected, "{sni}");
    }
}

// C-RT-18
#[tokio::test]
async fn strict_sni_ends_the_handshake_for_uncovered_names() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend).on_listener("strict_sni = true").run().await;
    for sni in ["unknown.example", "x.y.b.example", "127.0.0.1"] {
        let error =
            client::new(&sidegate).trusting().sni(sni).try_connect().await.err().expect("no TLS");
        assert!(error.to_string().contains("alert"), "{sni}: {error}");
    }
    assert_eq!(served(&sidegate, "x.b.example").await, "*.b.example");
    sidegate
        .expect_metric(
            "sidegate_tls_handshakes_total",
            [("listener", "public"), ("result", "failed")],
            3,
        )
        .await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "tls")], 3).await;
}

// C-TLS-01
#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_tls_min_refuses_1_2() {
    let backend = backend::echo().run().await;
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for version in [old, new] {
        client::new(&sidegate).tls_version(version).open("/chat").await.expect_echo("hello").await;
    }
    let sidegate =
        sidegate::new().route("/chat", &backend).on_listener("tls_min = '1.3'").run().await;
    client::new(&sidegate).tls_version(new).open("/chat").await.expect_echo("hello").await;
    let error = client::new(&sidegate).tls_version(old).try_connect().await.err().expect("no TLS");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

// C-TLS-03
#[tokio::test]
async fn alpn_other_than_http_1_1_ends_the_handshake() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let client = client::new(&sidegate);
    assert_eq!(
        client.clone().alpn(&["h2", "http/1.1"]).connect().await.tls().alpn_protocol(),
        Some(&b"http/1.1"[..])
    );
    assert_eq!(client.clone().alpn(&[]).connect().await.tls().alpn_protocol(), None);
    client.clone().alpn(&[]).open("/chat").await.expect_echo("hello").await;
    for unknown in ["h2", "spdy/1"] {
        let error = client.clone().alpn(&[unknown]).try_connect().await.err().expect("no TLS");
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
}

#[tokio::test]
async fn key_exchange_is_post_quantum_when_offered() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    let wire = client::new(&sidegate).connect().await;
    let group = wire.tls().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

// C-TLS-06
#[tokio::test]
async fn a_session_resumes_also_after_a_reload() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = client::new(&sidegate).tls_version(version);
        let kind = async || {
            let mut wire = client.open_wire("/chat").await;
            wire.expect_echo("the ticket has come").await;
            wire.tls().handshake_kind().unwrap()
        };
        assert_ne!(kind().await, HandshakeKind::Resumed);
        assert_eq!(kind().await, HandshakeKind::Resumed);
        sidegate
            .policy()
            .allow("127.0.0.0/8")
            .limits(&format!("message = {{ max = '{}MiB' }}", sidegate.generation().await))
            .write()
            .await;
        assert_eq!(kind().await, HandshakeKind::Resumed);
    }
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "resumed")], 4).await;
}

// C-TLS-06
#[tokio::test]
async fn changed_certificate_is_served_after_a_reload() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).certificate(&["localhost"]).run().await;
    let mut before = client::new(&sidegate).open("/chat").await;
    let pair = certificate::signed(&["new.example", "localhost"]);
    sidegate.put("certs/0.key", &pair.key);
    sidegate.write("certs/0.pem", &pair.chain).await;
    assert_eq!(served(&sidegate, "localhost").await, "new.example");
    before.expect_echo("still here").await;
    client::new(&sidegate).open("/chat").await.expect_echo("hello").await;
}

// C-TLS-06
#[tokio::test]
async fn changed_certificate_with_the_old_mtime_is_served() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).certificate(&["localhost"]).run().await;
    let path = sidegate.folder().join("certs/0.pem");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let pair = certificate::signed(&["new.example"]);
    sidegate.put("certs/0.key", &pair.key);
    std::fs::write(&path, &pair.chain).unwrap(); // in place
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    let outcome = sidegate.reload().await;
    assert_eq!(served(&sidegate, "localhost").await, "new.example", "{outcome:?}");
}

// F09
#[tokio::test]
async fn mismatched_certificate_keeps_the_old_pair() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).certificate(&["localhost"]).run().await;
    let pair = certificate::signed(&["new.example"]);
    let said = sidegate.write_rejected("certs/0.pem", &pair.chain).await;
    assert!(said.contains("certs/0.key") && said.contains("rejected"), "{said}");
    assert_eq!(served(&sidegate, "localhost").await, "localhost");
    sidegate.write("certs/0.key", &pair.key).await;
    assert_eq!(served(&sidegate, "localhost").await, "new.example");
}

// C-RT-16
#[tokio::test]
async fn a_host_that_another_certificate_covers_is_misdirected() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend).run().await;
    for (sni, host, status) in [
        ("a.example", "x.b.example", 421),
        ("x.b.example", "a.example", 421),
        ("x.b.example", "c.b.example", 101), // the one that was served covers it too
        ("c.b.example", "x.b.example", 421),
        ("a.example", "unknown.example", 101), // a matter of routing
        ("unknown.example", "a.example", 101), // the default certificate covers it
    ] {
        let client = client::new(&sidegate).trusting().sni(sni).host(host);
        assert_eq!(client.attempt("/chat").await.status(), status, "SNI {sni}, Host {host}");
    }
    let client = client::new(&sidegate).trusting().sni("a.example").host("x.b.example");
    client
        .expect_refused(client.attempt_head("/chat", ""), 421, "misdirected")
        .await
        .expect_header("connection", "close");
    sidegate.expect_metric("sidegate_refusals_total", [("reason", "misdirected")], 4).await;
}

// C-TLS-11
#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_is_closed() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).timeouts("tls = '200ms'").run().await;
    let client = client::new(&sidegate);
    let mut silent = client.connect_below_tls().await;
    let mut begun = client.connect_below_tls().await;
    begun.send([22, 3, 1, 2, 0, 1]).await; // the first bytes of a ClientHello
    silent.expect_end().await;
    begun.expect_end().await;
    client.open("/chat").await.expect_echo("hello").await;
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "timeout")], 2).await;
    sidegate.expect_metric("sidegate_refusals_total", [("route", "-"), ("reason", "tls")], 2).await;
}

#[tokio::test]
async fn garbage_on_a_tls_listener_gets_an_alert() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for garbage in ["get /chat HTTP/1.1\r\n\r\n", "\0\0\0\0\0\0\0\0", "SSH-2.0-x\r\n"] {
        let mut wire = client::new(&sidegate).connect_below_tls().await;
        wire.send(garbage).await;
        let said = wire.rest().await;
        assert!(said.is_empty() || said[0] == 21, "not an alert: {said:?}");
    }
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "failed")], 3).await;
}

#[tokio::test]
async fn an_empty_connection_is_a_probe_and_no_failure() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend);
    let sidegate = sidegate
        .toml("[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false")
        .run()
        .await;
    let client = client::new(&sidegate);
    drop(client.connect_below_tls().await);
    drop(client.connect().await); // TLS, and then nothing
    drop(client.at_clear(sidegate.listener("plain")).connect().await);
    sidegate.expect_metric("sidegate_probes_total", [("listener", "public")], 2).await;
    sidegate.expect_metric("sidegate_probes_total", [("listener", "plain")], 1).await;
    sidegate.expect_metric("sidegate_connections_closed_total", [("reason", "client")], 3).await;
    sidegate.expect_metric("sidegate_refusals_total", [], 0).await;
    sidegate.expect_metric("sidegate_tls_handshakes_total", [("result", "failed")], 0).await;
}

// C-TLS-12
#[tokio::test]
async fn a_reset_from_either_side_ends_the_connection_on_both() {
    let backend = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).run().await;
    for from_client in [true, false] {
        let client = client::new(&sidegate);
        let mut wire = client.connect().await;
        wire.send(client.attempt_head("/chat", "")).await;
        let mut at_backend = backend.accepted().await;
        backend::grant(&mut at_backend, "").await;
        wire.answer().await.expect(101);
        let mut left =
            if from_client { (wire.reset(), at_backend).1 } else { (at_backend.reset(), wire).1 };
        left.expect_end().await;
        left.finish().await;
    }
    sidegate.expect_metric("sidegate_connections_open", [], 0).await;
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
}
