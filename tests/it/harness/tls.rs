//! TLS under a test's control: a client that drives rustls itself, and a client that seals each
//! record by hand.
//!
//! Enforces no rule that a test wants broken: exactly what a test sends goes out.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::crypto::tls13::OkmBlock;
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider, tls13};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, KeyLog, ProtocolVersion,
    SupportedCipherSuite, SupportedProtocolVersion, Tls13CipherSuite,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::sidegate::Sidegate;
use crate::harness::{certificate, client, within};

/// Types of TLS records (RFC 8446 §5.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

/// The first byte of a KeyUpdate (RFC 8446 §4.6.3), and two whole ones: without and with one wanted
/// in return.
pub const KEY_UPDATE: u8 = 24;
pub const UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
pub const UPDATE_BOTH: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];

/// Makes a record without encryption.
pub fn plain(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3][..], &length[..], content].concat()
}

/// Splits a handshake message into unsealed records of this size.
pub fn in_records_of(size: usize, message: &[u8]) -> Vec<u8> {
    message.chunks(size).flat_map(|piece| plain(HANDSHAKE, piece)).collect()
}

/// A client whose TLS the test drives.
pub struct Client {
    pub tcp: TcpStream,
    pub tls: ClientConnection,
    /// Most ciphertext bytes that go out with each write.
    pub pieces: usize,
    head: String,
    read: Vec<u8>,
    secrets: Arc<Secrets>,
}

/// Connects to `sidegate`'s first listener, offering this version alone, and sends nothing yet.
pub async fn begin(sidegate: &Sidegate, version: &'static SupportedProtocolVersion) -> Client {
    begin_as(sidegate, version, "localhost", |_| ()).await
}

/// Like [`begin`], for this server name and with any `change` of its side of TLS.
pub async fn begin_as(
    sidegate: &Sidegate,
    version: &'static SupportedProtocolVersion,
    sni: &str,
    change: impl FnOnce(&mut ClientConfig),
) -> Client {
    begin_with(sidegate, default_provider(), version, sni, change).await
}

/// Like [`begin_as`], with this cryptography.
pub async fn begin_with(
    sidegate: &Sidegate,
    provider: CryptoProvider,
    version: &'static SupportedProtocolVersion,
    sni: &str,
    change: impl FnOnce(&mut ClientConfig),
) -> Client {
    let secrets = Arc::new(Secrets::default());
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let mut config = builder.with_root_certificates(certificate::roots()).with_no_client_auth();
    config.enable_secret_extraction = true;
    config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
    change(&mut config);
    let tcp = within("a connection", TcpStream::connect(sidegate.address())).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let tls =
        ClientConnection::new(Arc::new(config), ServerName::try_from(sni.to_owned()).unwrap())
            .unwrap();
    let head = client::new(sidegate).attempt_head("/chat", "");
    Client { tcp, tls, pieces: usize::MAX, head, read: Vec::new(), secrets }
}

impl Client {
    /// Returns the bytes that rustls wants to send.
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    /// Returns the ClientHello, the message without its record. It isn't sent.
    pub fn hello(&mut self) -> Vec<u8> {
        self.outgoing().split_off(5)
    }

    /// Sends everything that rustls wants to send.
    pub async fn flush(&mut self) {
        let out = self.outgoing();
        self.send_below(&out).await;
    }

    /// Sends bytes below TLS. A missing peer shows in the next read, not here.
    pub async fn send_below(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.pieces) {
            let _: std::io::Result<()> = within("sending", self.tcp.write_all(piece)).await;
        }
    }

    /// Sends application data.
    pub async fn send(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(1 << 14) {
            self.tls.writer().write_all(bytes).unwrap();
            self.flush().await;
        }
    }

    /// Reads more plaintext. Returns `false` after close_notify or FIN; the error has the text of
    /// the server's alert or of a bad record.
    pub async fn fill(&mut self) -> Result<bool, String> {
        let before = self.read.len();
        loop {
            let mut plain = vec![0; 1 << 16];
            match self.tls.reader().read(&mut plain) {
                Ok(0) => return Ok(self.read.len() > before),
                Ok(read) => self.read.extend(&plain[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
            if self.read.len() > before {
                return Ok(true);
            }
            self.flush().await;
            self.hear().await?;
        }
    }

    /// Reads ciphertext once, and lets rustls process it.
    pub async fn hear(&mut self) -> Result<(), String> {
        let mut cipher = vec![0; 1 << 14];
        let read = within("receiving", self.tcp.read(&mut cipher))
            .await
            .map_err(|error| error.to_string())?;
        let mut cipher = &cipher[..read];
        loop {
            self.tls.read_tls(&mut cipher).unwrap();
            self.tls.process_new_packets().map_err(|error| error.to_string())?;
            if cipher.is_empty() {
                return Ok(());
            }
            // rustls takes no more while it holds more than a record's worth.
            let mut plain = vec![0; 1 << 16];
            if let Ok(read) = self.tls.reader().read(&mut plain) {
                self.read.extend(&plain[..read]);
            }
        }
    }

    /// Reads the server's side of the handshake, whatever was sent for ours. Returns our last
    /// flight, which isn't sent.
    pub async fn last_flight(&mut self) -> Vec<u8> {
        while self.tls.is_handshaking() && !self.tls.wants_write() {
            self.hear().await.unwrap();
        }
        self.outgoing()
    }

    /// Reads exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(
                self.fill().await.unwrap(),
                "the end after {} of {count} bytes",
                self.read.len()
            );
        }
        self.read.drain(..count).collect()
    }

    /// Attempts to open a WebSocket, with `early` right after the head.
    pub async fn attempt(&mut self, early: &[u8]) {
        let head = [self.head.as_bytes(), early].concat();
        self.tls.writer().write_all(&head).unwrap();
        self.flush().await;
    }

    /// Asserts that a 101 comes.
    pub async fn expect_101(&mut self) {
        self.expect_bare(101).await;
    }

    /// Asserts that an answer without a body comes, with this status.
    pub async fn expect_bare(&mut self, status: u16) {
        while !self.read.ends_with(b"\r\n\r\n") {
            assert!(self.fill().await.unwrap());
        }
        let begins = format!("HTTP/1.1 {status} ");
        assert!(
            self.read.starts_with(begins.as_bytes()),
            "{}",
            String::from_utf8_lossy(&self.read)
        );
        self.read.clear();
    }

    /// Asserts that close_notify comes next, not a bare FIN.
    pub async fn expect_close_notify(&mut self) {
        assert_eq!(self.fill().await, Ok(false));
    }

    /// Asserts that reading fails, with the text of an alert that contains `what`.
    pub async fn expect_alert(&mut self, what: &str) {
        let error = self.fill().await.unwrap_err();
        assert!(error.contains(what), "{error}");
    }

    /// Takes the keys from rustls: from here on, records are made by hand.
    pub fn forge(self) -> Forger {
        let suite = self.tls.negotiated_cipher_suite().unwrap();
        let extracted = self.tls.dangerous_extract_secrets().unwrap();
        let (ours, theirs) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                let ours = Keys::derived(suite, self.secrets.of("CLIENT_TRAFFIC_SECRET_0"));
                (ours, Keys::derived(suite, self.secrets.of("SERVER_TRAFFIC_SECRET_0")))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let with = |secrets| {
                    let (key, iv) = key_and_iv(&secrets);
                    let opener =
                        suite.aead_alg.decrypter(key_and_iv(&secrets).0, &iv.as_ref()[..4]);
                    Keys::new(
                        suite.aead_alg.encrypter(key, &iv.as_ref()[..4], &iv.as_ref()[4..]),
                        opener,
                    )
                };
                (with(extracted.tx.1), with(extracted.rx.1))
            }
        };
        let (ours, theirs) = (ours.from(extracted.tx.0), theirs.from(extracted.rx.0));
        Forger { tcp: self.tcp, head: self.head, ours, theirs, traffic: None, read: Vec::new() }
    }

    /// Takes the keys when the last flight of a TLS 1.3 handshake is due; also returns its
    /// Finished.
    pub async fn forge_last_flight(mut self) -> (Forger, Vec<u8>) {
        let flight = self.last_flight().await;
        let Some(SupportedCipherSuite::Tls13(suite)) = self.tls.negotiated_cipher_suite() else {
            panic!("not TLS 1.3")
        };
        let keys = |label| Keys::derived(suite, self.secrets.of(label));
        let last = records(&flight).pop().unwrap();
        let (_, finished) = keys("CLIENT_HANDSHAKE_TRAFFIC_SECRET").open(last);
        let (ours, theirs) =
            (keys("CLIENT_HANDSHAKE_TRAFFIC_SECRET"), keys("SERVER_TRAFFIC_SECRET_0"));
        let traffic = Some(keys("CLIENT_TRAFFIC_SECRET_0"));
        (
            Forger { tcp: self.tcp, head: self.head, ours, theirs, traffic, read: Vec::new() },
            finished,
        )
    }
}

/// A client that makes records by hand (RFC 8446 §5.2, RFC 5246 §6.2.3.3).
pub struct Forger {
    pub tcp: TcpStream,
    head: String,
    ours: Keys,
    theirs: Keys,
    /// Our keys after Finished.
    traffic: Option<Keys>,
    read: Vec<u8>,
}

impl Forger {
    /// Seals a record of this type. In TLS 1.3, type 0 means that `content` ends with its own type
    /// and padding.
    pub fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.ours.seal(kind, content)
    }

    /// Seals `content` in records of this size.
    pub fn in_records_of(&mut self, size: usize, kind: u8, content: &[u8]) -> Vec<u8> {
        content.chunks(size).flat_map(|piece| self.ours.seal(kind, piece)).collect()
    }

    /// Seals the head of an attempt in a record.
    pub fn attempt(&mut self) -> Vec<u8> {
        let head = self.head.clone();
        self.record(DATA, head.as_bytes())
    }

    /// Switches to the next keys, as is due after a KeyUpdate.
    pub fn update(&mut self) {
        self.ours.update();
    }

    /// Switches to the keys for data, as is due after Finished.
    pub fn finish(&mut self) {
        self.ours = self.traffic.take().expect("keys for data, once");
    }

    /// Seals and sends a record.
    pub async fn send(&mut self, kind: u8, content: &[u8]) {
        let record = self.record(kind, content);
        self.send_below(&record).await;
    }

    /// Sends bytes unchanged. A missing peer shows in the next read, not here.
    pub async fn send_below(&mut self, bytes: &[u8]) {
        let _: std::io::Result<()> = within("sending", self.tcp.write_all(bytes)).await;
    }

    /// Opens the next record; returns its type and content. `None` means the end of the connection.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(first) = records(&self.read).first().map(|first| first.to_vec()) {
                self.read.drain(..first.len());
                if first[0] == CHANGE_CIPHER_SPEC {
                    continue;
                }
                let (kind, content) = self.theirs.open(&first);
                if self.theirs.of.is_some() && kind == HANDSHAKE && content[0] == KEY_UPDATE {
                    self.theirs.update();
                }
                return Some((kind, content));
            }
            let read = within("a record", self.tcp.read_buf(&mut self.read)).await;
            if !read.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }

    /// Reads data until there are `count` bytes of it.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (kind, content) = self.next().await.expect("data");
            bytes.extend(if kind == DATA { content } else { Vec::new() });
        }
        bytes
    }

    /// Reads to the end of the connection; returns the last alert on the way.
    pub async fn last_alert(&mut self) -> Option<[u8; 2]> {
        let mut last = None;
        while let Some((kind, content)) = self.next().await {
            last = if kind == ALERT { Some([content[0], content[1]]) } else { last };
        }
        last
    }
}

/// The keys of one direction.
struct Keys {
    /// The secret from which the next keys are derived (RFC 8446 §7.2).
    of: Option<(&'static Tls13CipherSuite, Vec<u8>)>,
    sealer: Box<dyn MessageEncrypter>,
    opener: Box<dyn MessageDecrypter>,
    next: u64,
}

impl Keys {
    fn new(sealer: Box<dyn MessageEncrypter>, opener: Box<dyn MessageDecrypter>) -> Keys {
        Keys { of: None, sealer, opener, next: 0 }
    }

    fn derived(suite: &'static Tls13CipherSuite, secret: Vec<u8>) -> Keys {
        let key =
            || AeadKey::from(<[u8; 32]>::try_from(expanded(suite, &secret, "key", 32)).unwrap());
        let iv = || Iv::copy(&expanded(suite, &secret, "iv", 12));
        assert_eq!(suite.aead_alg.key_len(), 32, "the suite that rustls prefers");
        let keys =
            Keys::new(suite.aead_alg.encrypter(key(), iv()), suite.aead_alg.decrypter(key(), iv()));
        Keys { of: Some((suite, secret)), ..keys }
    }

    /// Returns the keys as they are after this many records.
    fn from(mut self, next: u64) -> Keys {
        // The sealer insists on seeing every number from nought on.
        (0..next).for_each(|_| drop(self.seal(DATA, b"")));
        self
    }

    fn update(&mut self) {
        let (suite, secret) = self.of.take().expect("TLS 1.3");
        let length = secret.len();
        *self = Keys::derived(suite, expanded(suite, &secret, "traffic upd", length));
    }

    fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let (typ, version) = (ContentType::from(kind), ProtocolVersion::TLSv1_2);
        let message =
            OutboundPlainMessage { typ, version, payload: OutboundChunks::Single(content) };
        self.next += 1;
        self.sealer.encrypt(message, self.next - 1).unwrap().encode()
    }

    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let mut payload = record[5..].to_vec();
        let message = InboundOpaqueMessage::new(
            ContentType::from(record[0]),
            ProtocolVersion::TLSv1_2,
            &mut payload,
        );
        let opened =
            self.opener.decrypt(message, self.next).expect("a record under the keys that are due");
        self.next += 1;
        (u8::from(opened.typ), opened.payload.to_vec())
    }
}

/// HKDF-Expand-Label (RFC 8446 §7.1) with an empty context.
fn expanded(suite: &Tls13CipherSuite, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let expander: Box<dyn tls13::HkdfExpander> =
        suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let length_bytes = u16::try_from(length).unwrap().to_be_bytes();
    let label_length = u8::try_from(6 + label.len()).unwrap();
    let mut output = vec![0; length];
    let info: [&[u8]; 5] = [&length_bytes, &[label_length], b"tls13 ", label.as_bytes(), &[0]];
    expander
        .expand_slice(&info, &mut output)
        .unwrap_or_else(|_| panic!("{length} bytes are too many"));
    output
}

fn key_and_iv(secrets: &ConnectionTrafficSecrets) -> (AeadKey, &Iv) {
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
        panic!("not the suite that rustls prefers")
    };
    (AeadKey::from(<[u8; 32]>::try_from(key.as_ref()).unwrap()), iv)
}

/// Returns the whole records at the start of `bytes`.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some(length) = bytes.get(3..5) {
        let Some((record, rest)) =
            bytes.split_at_checked(5 + usize::from(u16::from_be_bytes([length[0], length[1]])))
        else {
            break;
        };
        records.push(record);
        bytes = rest;
    }
    records
}

/// The secrets of one connection, by the names of key logs.
#[derive(Debug, Default)]
struct Secrets(Mutex<HashMap<String, Vec<u8>>>);

impl Secrets {
    fn of(&self, label: &str) -> Vec<u8> {
        self.0.lock().unwrap()[label].clone()
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().insert(label.to_owned(), secret.to_vec());
    }
}
