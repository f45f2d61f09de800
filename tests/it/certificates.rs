//! Which requests the name of a TLS handshake contradicts, and which of two certificates for one
//! name a client gets.

use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS13_AES_128_GCM_SHA256,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use toml::Value;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::harness::backend::{self, Backend};
use crate::harness::certificate::{self, Pair};
use crate::harness::client::{self, Client};
use crate::harness::sidegate::{self, Builder, Sidegate};
use crate::harness::wire::Wire;

/// A default certificate for a.example, others for *.b.example and c.b.example.
fn three(backend: &Backend) -> Builder {
    let sidegate = sidegate::new().route("/chat", backend);
    let sidegate = sidegate.certificate(&["a.example"]).certificate(&["*.b.example"]);
    sidegate.certificate(&["c.b.example"])
}

/// A client that sends no server name, and asks for `host`.
fn nameless(sidegate: &Sidegate, host: &str) -> Client {
    client::new(sidegate).trusting().sni("127.0.0.1").host(host)
}

// C-RT-16
#[tokio::test]
async fn client_without_a_server_name_is_routed_by_host() {
    let (backend, other) = (backend::echo().run().await, backend::echo().run().await);
    let sidegate = three(&backend).route("/", &other).host("c.b.example").run().await;
    for host in ["a.example", "x.b.example", "c.b.example", "unknown.example"] {
        for version in [&TLS12, &TLS13] {
            let client = nameless(&sidegate, host).tls_version(version).trusting();
            client.open("/chat").await.expect_echo(host).await;
        }
    }
    assert_eq!((backend.heads().len(), other.heads().len()), (6, 2));
    sidegate.expect_metric("sidegate_refusals_total", [], 0).await;
}

// C-RT-16
#[tokio::test]
async fn session_without_a_name_resumes_for_any_host() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend).run().await;
    let client = nameless(&sidegate, "a.example");
    let mut wire = client.open_wire("/chat").await;
    wire.expect_echo("the ticket has come").await;
    for host in ["x.b.example", "c.b.example"] {
        let mut wire = client.clone().host(host).open_wire("/chat").await;
        assert_eq!(wire.tls().handshake_kind(), Some(HandshakeKind::Resumed));
        wire.expect_echo(host).await;
    }
}

// C-RT-18
#[tokio::test]
async fn strict_sni_refuses_a_client_without_a_name() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend).on_listener("strict_sni = true").run().await;
    for host in ["a.example", "x.b.example"] {
        let error = nameless(&sidegate, host).try_connect().await.err().expect("no TLS");
        assert!(error.to_string().contains("AccessDenied"), "{error}");
    }
    let named = client::new(&sidegate).trusting().sni("a.example");
    assert_eq!(named.clone().host("x.b.example").attempt("/chat").await.status(), 421);
    assert_eq!(named.host("a.example").attempt("/chat").await.status(), 101);
    assert_eq!(backend.heads().len(), 1);
}

// C-RT-16
#[tokio::test]
async fn name_and_host_of_one_certificate_agree() {
    let backend = backend::echo().run().await;
    let sidegate = three(&backend);
    let plain = "[[listener]]\nname = 'plain'\nlisten = '127.0.0.1:0'\ntls = false";
    let sidegate = sidegate.toml(plain).run().await;
    for (sni, host, status) in [
        ("x.b.example", "y.b.example", 101), // one wildcard for both
        ("x.b.example", "X.B.Example.", 101),
        ("x.b.example", "x.y.b.example", 101), // no certificate covers it: a matter of routing
        ("c.b.example", "x.b.example", 421),
        ("unknown.example", "x.b.example", 421),
        ("unknown.example", "unknown.example", 101),
    ] {
        let client = client::new(&sidegate).trusting().sni(sni).host(host);
        assert_eq!(client.attempt("/chat").await.status(), status, "SNI {sni}, Host {host}");
    }
    let plain = client::clear(sidegate.listener("plain")).host("c.b.example");
    assert_eq!(plain.attempt("/chat").await.status(), 101, "no TLS contradicts nothing");
}

/// Asks for `host` on a kept connection, and returns the status of the answer.
async fn status(wire: &mut Wire, host: &str) -> u16 {
    wire.send(format!("GET /chat HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    wire.answer().await.status()
}

/// Adds a certificate for these names to the configuration.
async fn add_certificate(sidegate: &Sidegate, names: &[&str]) {
    let pair = certificate::signed(names);
    sidegate.put("certs/added.pem", &pair.chain);
    sidegate.put("certs/added.key", &pair.key);
    let add = |config: &mut toml::Table| {
        let added = "chain = 'certs/added.pem'\nkey = 'certs/added.key'".parse().unwrap();
        config["certificate"].as_array_mut().unwrap().push(Value::Table(added));
    };
    sidegate.reconfigure(add).await;
}

#[tokio::test]
async fn kept_connection_serves_its_name_after_a_reload() {
    let backend = backend::http(|_| backend::reply(200)).run().await;
    let sidegate = three(&backend).on_route("http = 'forward'").run().await;
    let client = |sni: &str| client::new(&sidegate).trusting().sni(sni);
    let (mut uncovered, mut wild) =
        (client("new.example").connect().await, client("x.b.example").connect().await);
    assert_eq!(status(&mut uncovered, "new.example").await, 200);
    assert_eq!(status(&mut wild, "x.b.example").await, 200);
    add_certificate(&sidegate, &["new.example", "x.b.example"]).await;
    // The name that it asked for, although a certificate covers it by now.
    assert_eq!(status(&mut uncovered, "new.example").await, 200);
    assert_eq!(status(&mut uncovered, "c.b.example").await, 421);
    // The certificate that it got covers both names, although another covers the first better.
    assert_eq!(status(&mut wild, "x.b.example").await, 200);
    assert_eq!(status(&mut wild, "y.b.example").await, 200);
    assert_eq!(status(&mut wild, "new.example").await, 421);
}

/// Accepts any certificate whose key signed the handshake by one of these schemes.
#[derive(Debug)]
struct Schemes(Vec<SignatureScheme>);

impl ServerCertVerifier for Schemes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const P384: SignatureScheme = SignatureScheme::ECDSA_NISTP384_SHA384;
const PSS: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
const PKCS1: SignatureScheme = SignatureScheme::RSA_PKCS1_SHA256;

/// A client that verifies these signatures, and offers these cipher suites.
fn verifying(
    sidegate: &Sidegate,
    version: &'static SupportedProtocolVersion,
    schemes: &[SignatureScheme],
    suites: &[SupportedCipherSuite],
) -> Client {
    let provider = CryptoProvider { cipher_suites: suites.into(), ..default_provider() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let verifier = Arc::new(Schemes(schemes.into()));
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    client::new(sidegate).tls_with(|own| *own = config)
}

/// The same, with the usual cipher suites.
fn of(
    sidegate: &Sidegate,
    version: &'static SupportedProtocolVersion,
    schemes: &[SignatureScheme],
) -> Client {
    verifying(sidegate, version, schemes, &default_provider().cipher_suites)
}

/// The type of the key of the certificate that a client gets.
async fn key_type(client: &Client) -> &'static str {
    let wire = client.connect().await;
    let der = wire.tls().peer_certificates().unwrap()[0].clone();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    match certificate.public_key().parsed().unwrap() {
        PublicKey::RSA(_) => "RSA",
        PublicKey::EC(point) if point.key_size() == 256 => "P-256",
        PublicKey::EC(point) if point.key_size() == 384 => "P-384",
        other => panic!("{other:?}"),
    }
}

/// Puts `pair` in the place of the certificate `index`.
fn with(sidegate: Builder, index: usize, pair: &Pair) -> Builder {
    let sidegate = sidegate.file(&format!("certs/{index}.pem"), &pair.chain);
    sidegate.file(&format!("certs/{index}.key"), &pair.key)
}

/// An RSA and an ECDSA certificate for localhost.
async fn two_keys(backend: &Backend) -> Sidegate {
    let sidegate = sidegate::new().route("/chat", backend);
    let sidegate = sidegate.certificate(&["localhost"]).certificate(&["localhost"]);
    let rsa = certificate::signed_for(&["localhost"], &PKCS_RSA_SHA256);
    with(sidegate, 0, &rsa).run().await
}

// C-TLS-04
#[tokio::test]
async fn signature_schemes_choose_between_two_certificates() {
    let backend = backend::echo().run().await;
    let sidegate = two_keys(&backend).await;
    for (version, schemes, expected) in [
        (&TLS13, &[P256, PSS][..], "P-256"),
        (&TLS13, &[PSS, P256], "P-256"),
        (&TLS13, &[PSS], "RSA"),
        (&TLS13, &[P384, PSS], "RSA"), // it signs on another curve
        (&TLS12, &[P256, PSS], "P-256"),
        (&TLS12, &[PKCS1, P256], "P-256"),
        (&TLS12, &[PKCS1], "RSA"),
        (&TLS12, &[P384, PKCS1], "RSA"),
    ] {
        let client = of(&sidegate, version, schemes);
        assert_eq!(key_type(&client).await, expected, "{schemes:?}");
        // Without a server name both are the default.
        let nameless = client.sni("127.0.0.1");
        assert_eq!(key_type(&nameless).await, expected, "{schemes:?}");
    }
    let error = of(&sidegate, &TLS13, &[P384]).try_connect().await.err().expect("no TLS");
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
}

// C-TLS-04
#[tokio::test]
async fn cipher_suites_of_tls_1_2_choose_between_two_keys() {
    let backend = backend::echo().run().await;
    let sidegate = two_keys(&backend).await;
    let all = &[P256, PSS, PKCS1];
    let (ecdsa, rsa) =
        (TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
    for (version, suite, expected) in [
        (&TLS12, ecdsa, "P-256"),
        (&TLS12, rsa, "RSA"),
        (&TLS13, TLS13_AES_128_GCM_SHA256, "P-256"),
    ] {
        let client = verifying(&sidegate, version, all, &[suite]);
        assert_eq!(key_type(&client).await, expected, "{suite:?}");
        client.open("/chat").await.expect_echo("hello").await;
    }
}

// C-TLS-04
#[tokio::test]
async fn session_of_either_key_resumes_and_keeps_its_choice() {
    let backend = backend::echo().run().await;
    let sidegate = two_keys(&backend).await;
    for version in [&TLS12, &TLS13] {
        for schemes in [&[P256][..], &[PSS]] {
            let client = of(&sidegate, version, schemes);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let mut wire = client.open_wire("/chat").await;
                wire.expect_echo("the ticket has come").await;
                let found = wire.tls().handshake_kind().unwrap();
                assert_eq!(found == HandshakeKind::Resumed, kind == HandshakeKind::Resumed);
            }
        }
    }
}

// C-TLS-04
#[tokio::test]
async fn exact_name_precedes_a_wildcard_with_a_better_key() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend).certificate(&["*.b.example"]);
    let sidegate = sidegate.certificate(&["x.b.example"]);
    let rsa = certificate::signed_for(&["x.b.example"], &PKCS_RSA_SHA256);
    let sidegate = with(sidegate, 1, &rsa).run().await;
    let client = |schemes: &[_]| of(&sidegate, &TLS13, schemes).host("x.b.example");
    assert_eq!(key_type(&client(&[P256, PSS])).await, "RSA");
    assert_eq!(key_type(&client(&[P256])).await, "P-256", "the wildcard's");
    assert_eq!(client(&[P256]).attempt("/chat").await.status(), 101);
}

// C-TLS-04, C-TLS-06
#[tokio::test]
async fn reload_swaps_one_certificate_of_two() {
    let backend = backend::echo().run().await;
    let sidegate = two_keys(&backend).await;
    let mut open = of(&sidegate, &TLS13, &[PSS]).open("/chat").await;
    let p384 = certificate::signed_for(&["localhost"], &PKCS_ECDSA_P384_SHA384);
    sidegate.put("certs/1.key", &p384.key);
    sidegate.write("certs/1.pem", &p384.chain).await;
    assert_eq!(key_type(&of(&sidegate, &TLS13, &[P384, P256, PSS])).await, "P-384");
    assert_eq!(key_type(&of(&sidegate, &TLS13, &[P256, PSS])).await, "RSA");
    open.expect_echo("still here").await;
    // A second one of a type that is there would never be served: the old pair stays.
    let rsa = certificate::signed_for(&["localhost"], &PKCS_RSA_SHA256);
    sidegate.put("certs/1.key", &rsa.key);
    let said = sidegate.write_rejected("certs/1.pem", &rsa.chain).await;
    assert!(said.contains("certs/1.pem is never served: certs/0.pem has its names"), "{said}");
    assert_eq!(key_type(&of(&sidegate, &TLS13, &[P384, PSS])).await, "P-384");
}

#[tokio::test]
async fn each_of_two_certificates_has_its_own_expiry() {
    let backend = backend::echo().run().await;
    let sidegate = sidegate::new().route("/chat", &backend);
    let sidegate = sidegate.certificate(&["localhost"]).certificate(&["localhost"]);
    let expired = certificate::expired_for(&["localhost"], &PKCS_RSA_SHA256);
    let sidegate = with(sidegate, 1, &expired).run().await;
    let expiry = "sidegate_certificate_not_after_timestamp_seconds";
    assert_eq!(sidegate.metric(expiry, [("certificate", "certs/1.pem")]).await, 1_609_459_200.0);
    assert!(sidegate.metric(expiry, [("certificate", "certs/0.pem")]).await > 1_700_000_000.0);
    let status = sidegate.status().await;
    assert_eq!(status.certificates.len(), 2);
    let about: Vec<_> =
        status.warnings.iter().filter(|one| one.sentence.contains("certs/")).collect();
    assert!(matches!(about[..], [one] if one.sentence.contains("certs/1.pem")), "{about:?}");
}
