//! Server names that are no DNS names: the TLS handshake goes on as without a name.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

use super::*;

/// The server name that rustls writes, and the name that the server gets in its place.
type Names = (String, &'static str);

/// A hash of a client that has sent another name than rustls thinks.
struct Renamed(&'static dyn Hash, &'static Names);

struct Transcript(Box<dyn Context>, &'static Names);

impl Hash for Renamed {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Transcript(self.0.start(), self.1))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }
}

impl Context for Transcript {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Transcript(self.0.fork(), self.1))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(&renamed(data, self.1));
    }
}

/// The bytes with the other name.
fn renamed(bytes: &[u8], (written, sent): &Names) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(written.len()).position(|window| window == written.as_bytes());
    if let Some(at) = at {
        bytes[at..at + sent.len()].copy_from_slice(sent.as_bytes());
    }
    bytes
}

fn provider(names: &'static Names) -> CryptoProvider {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: Box::leak(Box::new(Renamed(common.hash_provider, names))),
        confidentiality_limit: common.confidentiality_limit,
    };
    let suite = |suite| match suite {
        SupportedCipherSuite::Tls13(suite) => {
            let suite = Tls13CipherSuite { common: common(&suite.common), quic: None, ..*suite };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls12(suite) => {
            let suite = Tls12CipherSuite { common: common(&suite.common), ..*suite };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    };
    let usual = default_provider();
    CryptoProvider { cipher_suites: usual.cipher_suites.into_iter().map(suite).collect(), ..usual }
}

/// A client of `sidegate` that has sent a ClientHello with this name, in `pieces`.
async fn named(
    sidegate: &Sidegate,
    version: &'static SupportedProtocolVersion,
    sent: &'static str,
    pieces: usize,
) -> Client {
    let (mut client, hello) = naming(sidegate, version, sent, default_provider()).await;
    client.pieces = pieces;
    client.send_below(&hello).await;
    client
}

/// A client with this cryptography, and its ClientHello with this name, which is still to be sent.
async fn naming(
    sidegate: &Sidegate,
    version: &'static SupportedProtocolVersion,
    sent: &'static str,
    usual: CryptoProvider,
) -> (Client, Vec<u8>) {
    // As long, and a name that rustls takes.
    let written = "n".repeat(sent.len());
    let names: &'static Names = Box::leak(Box::new((written.clone(), sent)));
    let provider = CryptoProvider { kx_groups: usual.kx_groups, ..provider(names) };
    let mut client =
        tls::begin_with(sidegate, provider, version, &written, client::trusts_any).await;
    let hello = renamed(&client.outgoing(), names);
    assert!(hello.windows(sent.len()).any(|window| window == sent.as_bytes()));
    (client, hello)
}

#[tokio::test]
async fn a_name_with_a_port_or_brackets_gets_the_default_certificate() {
    for version in [&TLS13, &TLS12] {
        for (name, pieces) in [
            ("localhost:443", usize::MAX),
            ("[::1]", 1),
            ("[::1]:8443", 100),
            ("http://localhost", usize::MAX),
        ] {
            let (sidegate, server) = agent().await;
            let mut client = named(&sidegate, version, name, pieces).await;
            let backend = opened(&mut client, &server, b"").await;
            let served = client.tls.peer_certificates().unwrap()[0].clone();
            let usual = tls::begin(&sidegate, version).await;
            assert_eq!(served, of_a_handshake(usual).await, "{name}");
            Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
        }
    }
}

/// The certificate that a usual client gets.
async fn of_a_handshake(mut client: Client) -> rustls::pki_types::CertificateDer<'static> {
    client.flush().await;
    while client.tls.is_handshaking() {
        client.hear().await.unwrap();
        client.flush().await;
    }
    client.tls.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn strict_sni_ends_the_handshake_for_invalid_names() {
    let server = backend::manual().run().await;
    let sidegate =
        sidegate::new().tls().route("/chat", &server).on_listener("strict_sni = true").run().await;
    for name in ["localhost:443", "[::1]"] {
        let mut client = named(&sidegate, &TLS13, name, usize::MAX).await;
        client.expect_alert("AccessDenied").await;
    }
    server.expect_untouched();
}

#[tokio::test]
async fn dot_at_the_end_is_not_part_of_a_name() {
    for version in [&TLS13, &TLS12] {
        let server = backend::manual().run().await;
        let sidegate = sidegate::new().tls().route("/chat", &server);
        let sidegate = sidegate.on_listener("strict_sni = true").run().await;
        let mut client = named(&sidegate, version, "LocalHost.", usize::MAX).await;
        let backend = opened(&mut client, &server, b"").await;
        Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
    }
}

#[tokio::test]
async fn altered_hello_ends_the_handshake() {
    // The transcript is of what came: the client thinks that it has sent another name.
    let (sidegate, server) = agent().await;
    let names: &'static Names = Box::leak(Box::new(("n".repeat(13), "localhost:443")));
    let other: &'static Names = Box::leak(Box::new(("n".repeat(13), "localhost:444")));
    let mut client =
        tls::begin_with(&sidegate, provider(names), &TLS13, &names.0, client::trusts_any).await;
    let hello = renamed(&client.outgoing(), other);
    client.send_below(&hello).await;
    let mut heard = Ok(());
    while client.tls.is_handshaking() && heard.is_ok() {
        heard = client.hear().await;
    }
    assert!(heard.is_err(), "the handshake was made");
    server.expect_untouched();
}

/// Names that rustls refuses.
const NAMES: [&str; 4] = ["localhost:443", "[::1]", "-x.example", "a..example"];

#[tokio::test]
async fn hello_with_an_invalid_name_may_span_records() {
    for (name, size) in NAMES.into_iter().zip([1, 40, 100, 200]) {
        for version in [&TLS13, &TLS12] {
            let (sidegate, server) = agent().await;
            let (mut client, hello) = naming(&sidegate, version, name, default_provider()).await;
            let cut_up = tls::in_records_of(size, &hello[5..]);
            client.pieces = 300;
            client.send_below(&cut_up).await;
            let backend = opened(&mut client, &server, b"").await;
            Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
        }
    }
}

/// The ClientHello that follows a HelloRetryRequest, without its record; nothing is sent.
async fn second_hello(client: &mut Client, names: &Names) -> Vec<u8> {
    while !client.tls.wants_write() {
        client.hear().await.unwrap();
    }
    let mut out = renamed(&client.outgoing(), names);
    let ours = tls::plain(tls::CHANGE_CIPHER_SPEC, &[1]);
    if out.starts_with(&ours) {
        out.drain(..ours.len());
    }
    out.split_off(5)
}

/// Handshake parameters of a client that must be asked for another key share.
fn asked_twice() -> CryptoProvider {
    let mut provider = default_provider();
    provider.kx_groups.insert(0, &handshake::Unknown);
    provider
}

#[tokio::test]
async fn invalid_name_may_be_repeated_after_a_hello_retry_request() {
    for (name, size) in NAMES.into_iter().zip([usize::MAX, 1, 50, 150]) {
        for has_ours in [true, false] {
            let (sidegate, server) = agent().await;
            let (mut client, hello) = naming(&sidegate, &TLS13, name, asked_twice()).await;
            client.send_below(&hello).await;
            let second = second_hello(&mut client, &("n".repeat(name.len()), name)).await;
            if has_ours {
                // OpenSSL sends this record in front of it (RFC 8446 §D.4).
                client.send_below(&tls::plain(tls::CHANGE_CIPHER_SPEC, &[1])).await;
            }
            client.pieces = 60;
            client.send_below(&tls::in_records_of(size.min(second.len()), &second)).await;
            let backend = opened(&mut client, &server, b"").await;
            let kind = client.tls.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::FullWithHelloRetryRequest));
            Edge { sidegate, server, client, backend }.expect_both_ways(64).await;
        }
    }
}

#[tokio::test]
async fn altered_second_hello_ends_the_handshake() {
    // Another odd name than the client thinks that it has sent, and a usual one.
    for other in ["localhost:444", "localhostx443"] {
        let (sidegate, server) = agent().await;
        let (mut client, hello) = naming(&sidegate, &TLS13, "localhost:443", asked_twice()).await;
        client.send_below(&hello).await;
        let second = second_hello(&mut client, &("n".repeat(13), other)).await;
        client.send_below(&tls::in_records_of(second.len(), &second)).await;
        assert!(client.fill().await.is_err(), "the handshake was made");
        server.expect_untouched();
    }
}
