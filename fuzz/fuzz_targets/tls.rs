//! TLS towards clients. Whatever a client sends before, during or after the handshake, sealed or
//! not and cut anywhere, nothing panics or waits for ever, and the output is a prefix of the sealed
//! data.

#![no_main]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::crypto::tls13::OkmBlock;
use rustls::pki_types::PrivateKeyDer;
use rustls::{
    ClientConfig, ClientConnection, ContentType, KeyLog, ProtocolVersion, RootCertStore,
    ServerConfig, SupportedCipherSuite, Tls13CipherSuite,
};
use sidegate::data::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const UPDATE_BOTH: [u8; 5] = [24, 0, 0, 1, 1];

// The first byte says how far the handshake goes by the book; then come steps.
fuzz_target!(|data: &[u8]| {
    let [phase, steps @ ..] = data else { return };
    RUNTIME.block_on(async {
        let (client, server) = pair().await;
        let (sealed, read) = tokio::join!(script(*phase, steps, client), serve(server));
        assert!(sealed.starts_with(&read), "{} bytes came out that nobody sealed so", read.len());
    });
});

/// Behaves as a connection of Sidegate: handshake, then reading to the end, with writes in between.
async fn serve(tcp: TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let Ok(hello) = tls::read_first_bytes(tcp.into()).await else { return read };
    let Ok((mut stream, _)) = tls::accept(hello, |_| Arc::clone(&SIDES.1)).await else {
        return read;
    };
    let mut some = [0; 3000];
    while let Ok(length @ 1..) = stream.read(&mut some).await {
        read.extend_from_slice(&some[..length]);
        if stream.write_all(b"down").await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    let _ = stream.shutdown().await;
    read
}

/// Carries out the steps; returns the data that was sealed.
async fn script(phase: u8, steps: &[u8], mut tcp: TcpStream) -> Vec<u8> {
    let secrets = Arc::new(Secrets::default());
    let mut config = SIDES.0.clone();
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    let mut tls = ClientConnection::new(config.into(), "localhost".try_into().expect("a name"))
        .expect("a client");
    if phase.is_multiple_of(4) {
        let mut hello = Vec::new();
        let _ = tls.write_tls(&mut hello);
        return perform(steps, &mut tcp, None, &hello[5..], &secrets).await;
    }
    let flight = last_flight(&mut tcp, &mut tls).await;
    let Some(SupportedCipherSuite::Tls13(suite)) = tls.negotiated_cipher_suite() else {
        panic!("not TLS 1.3")
    };
    if phase % 4 == 1 {
        let mut keys = Keys::derived(suite, secrets.of("CLIENT_HANDSHAKE_TRAFFIC_SECRET"));
        let finished = keys.open(&flight[6..]); // behind the ChangeCipherSpec, which says nothing
        return perform(steps, &mut tcp, Some(keys), &finished, &secrets).await;
    }
    let _ = tcp.write_all(&flight).await;
    let keys = Keys::derived(suite, secrets.of("CLIENT_TRAFFIC_SECRET_0"));
    perform(steps, &mut tcp, Some(keys), &[], &secrets).await
}

/// `due` is the next handshake message: a ClientHello, Finished, or nothing.
async fn perform(
    mut steps: &[u8],
    tcp: &mut TcpStream,
    mut keys: Option<Keys>,
    mut due: &[u8],
    secrets: &Secrets,
) -> Vec<u8> {
    let (mut sealed, mut out) = (Vec::new(), Vec::new());
    while let [step, length, rest @ ..] = steps {
        let (content, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        steps = rest;
        let mut seal = |kind: u8, content: &[u8]| match &mut keys {
            Some(keys) => {
                // The type that counts follows the content, before the padding (RFC 8446 §5.4).
                let inner = [content, &[kind]].concat();
                let length = inner.iter().rposition(|byte| *byte != 0).unwrap_or_default();
                if inner[length] == DATA {
                    sealed.extend_from_slice(&inner[..length]);
                }
                out.extend(keys.seal(kind, content));
            }
            None => {
                out.extend(
                    [&[kind, 3, 3][..], &(content.len() as u16).to_be_bytes(), content].concat(),
                );
            }
        };
        match (step % 16, content) {
            (0, content) => seal(DATA, content),
            (1, content) => seal(HANDSHAKE, content),
            (2, [kind, content @ ..]) => seal(*kind, content),
            (3, [kind, byte, ..]) => seal(*kind, &[*byte; 16_384]),
            (4, content) => out.extend_from_slice(content),
            // A piece of the message that is due.
            (5, [amount, ..]) => {
                let (piece, rest) = due.split_at((usize::from(*amount) * 8).max(1).min(due.len()));
                seal(HANDSHAKE, piece);
                due = rest;
            }
            (6, _) => {
                seal(HANDSHAKE, &UPDATE_BOTH);
                keys = keys.map(Keys::next);
            }
            // Switches to the next keys without sending a KeyUpdate: one may have been sent in
            // fragments.
            (7, _) => keys = keys.map(Keys::next),
            (8, _) => {
                keys = keys
                    .map(|keys| Keys::derived(keys.suite, secrets.of("CLIENT_TRAFFIC_SECRET_0")))
            }
            (9, [at, bit, ..]) if !out.is_empty() => {
                let at = usize::from(*at) % out.len();
                out[at] ^= 1 << (bit % 8);
            }
            (10, [cut, ..]) => out.truncate(out.len().saturating_sub(usize::from(*cut))),
            // Let them be read as they are now.
            (11.., _) => {
                let _ = tcp.write_all(&std::mem::take(&mut out)).await;
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        if out.len() > 200_000 {
            break;
        }
    }
    let _ = tcp.write_all(&out).await;
    let _ = tcp.shutdown().await;
    // The server's output is read, so that the server never waits for room.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    sealed
}

/// Sends the hello and reads the server's side of the handshake; the message that is due next isn't
/// sent.
async fn last_flight(tcp: &mut TcpStream, tls: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    let _ = tls.write_tls(&mut flight);
    tcp.write_all(&flight).await.expect("a server that listens");
    while tls.is_handshaking() {
        let mut some = [0; 4096];
        let length = tcp.read(&mut some).await.expect("the server's flight");
        let _ = tls.read_tls(&mut &some[..length]);
        tls.process_new_packets().expect("a proper handshake");
    }
    flight.clear();
    while tls.wants_write() {
        let _ = tls.write_tls(&mut flight);
    }
    flight
}

/// The keys that seal our records (RFC 8446 §5.2).
struct Keys {
    suite: &'static Tls13CipherSuite,
    secret: Vec<u8>,
    sealer: Box<dyn MessageEncrypter>,
    opener: Box<dyn MessageDecrypter>,
    number: u64,
}

impl Keys {
    fn derived(suite: &'static Tls13CipherSuite, secret: Vec<u8>) -> Keys {
        let key = || {
            AeadKey::from(
                <[u8; 32]>::try_from(expanded(suite, &secret, "key", 32)).expect("32 bytes"),
            )
        };
        let iv = || Iv::copy(&expanded(suite, &secret, "iv", 12));
        let (sealer, opener) =
            (suite.aead_alg.encrypter(key(), iv()), suite.aead_alg.decrypter(key(), iv()));
        Keys { suite, secret, sealer, opener, number: 0 }
    }

    fn next(self) -> Keys {
        Keys::derived(
            self.suite,
            expanded(self.suite, &self.secret, "traffic upd", self.secret.len()),
        )
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let (typ, version) = (ContentType::from(kind), ProtocolVersion::TLSv1_2);
        let message =
            OutboundPlainMessage { typ, version, payload: OutboundChunks::Single(content) };
        self.number += 1;
        self.sealer.encrypt(message, self.number - 1).expect("room for a record").encode()
    }

    /// Decrypts our first record; returns its content.
    fn open(&mut self, record: &[u8]) -> Vec<u8> {
        let mut payload = record[5..].to_vec();
        let message = InboundOpaqueMessage::new(
            ContentType::from(record[0]),
            ProtocolVersion::TLSv1_2,
            &mut payload,
        );
        self.opener.decrypt(message, 0).expect("our own record").payload.to_vec()
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1) without a context.
fn expanded(suite: &Tls13CipherSuite, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let (size, name) = ((length as u16).to_be_bytes(), [6 + label.len() as u8]);
    let mut output = vec![0; length];
    let info: [&[u8]; 5] = [&size, &name, b"tls13 ", label.as_bytes(), &[0]];
    assert!(expander.expand_slice(&info, &mut output).is_ok());
    output
}

/// The secrets of one connection, by the names of key logs.
#[derive(Debug, Default)]
struct Secrets(Mutex<HashMap<String, Vec<u8>>>);

impl Secrets {
    /// No secret yet: a value that fits nothing.
    fn of(&self, label: &str) -> Vec<u8> {
        self.0.lock().expect("no panic before").get(label).cloned().unwrap_or_else(|| vec![0; 48])
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().expect("no panic before").insert(label.to_owned(), secret.to_vec());
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

/// A client that trusts the server, and the server.
static SIDES: LazyLock<(ClientConfig, Arc<ServerConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) =
        (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13]);
    let mut client = client.expect("a suite").with_root_certificates(roots).with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("a suite");
    let server = server
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a key that fits");
    (client, server.into())
});

/// A connection over the loopback: the client's end of it, and the server's.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client =
        TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    client.set_nodelay(true).expect("a socket");
    (client, listener.accept().await.expect("a connection").0)
}
