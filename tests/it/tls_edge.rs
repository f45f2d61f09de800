//! The corners of TLS under a tunnel, by a client that drives rustls itself: key updates, single bytes,
//! records that are forged, broken or no records at all.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Frame, Wire};
use crate::harness::{backend, certificate, client, sidegate, within};
use crate::tunnel::{Ends, expect_ended, open};

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// The first byte of a KeyUpdate (RFC 8446 §4.6.3).
const KEY_UPDATE: u8 = 24;

/// A client's end of a tunnel whose TLS is in the test's hand.
struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
    /// How much of the ciphertext goes out with each write.
    pieces: usize,
    read: Vec<u8>,
}

/// An open tunnel: the client's end of it, and the backend's.
struct Edge {
    sidegate: Sidegate,
    client: Client,
    backend: Wire,
    _server: backend::Backend,
}

fn config(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(certificate::roots()).with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// A tunnel over this version of TLS; `early` goes out right behind the request, ciphertext in `pieces`.
async fn edge(version: &'static SupportedProtocolVersion, pieces: usize, early: &[u8]) -> Edge {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let (client, backend) = ends(&sidegate, &server, version, pieces, early).await;
    Edge { sidegate, client, backend, _server: server }
}

async fn ends(
    sidegate: &Sidegate,
    server: &backend::Backend,
    version: &'static SupportedProtocolVersion,
    pieces: usize,
    early: &[u8],
) -> (Client, Wire) {
    let tcp = within("a connection", TcpStream::connect(sidegate.address())).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let tls = ClientConnection::new(config(version), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut client = Client { tcp, tls, pieces, read: Vec::new() };
    let head = client::new(sidegate).attempt_head("/chat", "");
    client.tls.writer().write_all(&[head.as_bytes(), early].concat()).unwrap();
    let granted = async {
        let mut wire = server.accepted().await;
        backend::grant(&mut wire, "").await;
        wire
    };
    let ((), backend) = tokio::join!(client.expect_101(), granted);
    (client, backend)
}

async fn edge_13() -> Edge {
    edge(&rustls::version::TLS13, usize::MAX, b"").await
}

impl Client {
    /// Sends all that rustls wants to.
    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        self.send_below(&out).await;
    }

    /// Sends bytes below TLS.
    async fn send_below(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.pieces) {
            within("sending", self.tcp.write_all(piece)).await.unwrap();
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(1 << 14) {
            self.tls.writer().write_all(bytes).unwrap();
            self.flush().await;
        }
    }

    /// Reads some more plaintext; false: close_notify or FIN came. An error is what the server's alert or record says.
    async fn fill(&mut self) -> Result<bool, String> {
        loop {
            let mut plain = vec![0; 1 << 16];
            match self.tls.reader().read(&mut plain) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.read.extend(&plain[..read]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
            self.flush().await;
            let mut cipher = vec![0; 1 << 14];
            let read = within("receiving", self.tcp.read(&mut cipher)).await.map_err(|error| error.to_string())?;
            let mut cipher = &cipher[..read];
            loop {
                self.tls.read_tls(&mut cipher).unwrap();
                self.tls.process_new_packets().map_err(|error| error.to_string())?;
                if cipher.is_empty() {
                    break;
                }
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.fill().await.unwrap(), "the end after {} of {count} bytes", self.read.len());
        }
        self.read.drain(..count).collect()
    }

    async fn expect_101(&mut self) {
        self.flush().await;
        while !self.read.ends_with(b"\r\n\r\n") {
            assert!(self.fill().await.unwrap());
        }
        assert!(self.read.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&self.read));
        self.read.clear();
    }

    /// That the next that comes is close_notify, not a bare FIN.
    async fn expect_close_notify(&mut self) {
        assert_eq!(self.fill().await, Ok(false));
    }

    /// That the server complains, in words that contain this.
    async fn expect_alert(&mut self, what: &str) {
        let error = self.fill().await.unwrap_err();
        assert!(error.contains(what), "{error}");
    }

    /// Takes the keys out: from here on records are made by hand.
    fn forge(self) -> Forger {
        let Some(SupportedCipherSuite::Tls13(suite)) = self.tls.negotiated_cipher_suite() else { panic!("not TLS 1.3") };
        let (next, secrets) = self.tls.dangerous_extract_secrets().unwrap().tx;
        let (ConnectionTrafficSecrets::Aes256Gcm { key, iv } | ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets else {
            panic!("another suite")
        };
        let mut forger = Forger { tcp: self.tcp, sealer: suite.aead_alg.encrypter(key, iv), next: 0 };
        // It insists on seeing every number from nought on.
        (0..next).for_each(|_| drop(forger.record(DATA, b"")));
        forger
    }
}

/// A client that makes TLS 1.3 records by hand (RFC 8446 §5.2).
struct Forger {
    tcp: TcpStream,
    sealer: Box<dyn MessageEncrypter>,
    next: u64,
}

impl Forger {
    /// A record of this type.
    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(kind),
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(content),
        };
        self.next += 1;
        self.sealer.encrypt(message, self.next - 1).unwrap().encode()
    }

    async fn send(&mut self, kind: u8, content: &[u8]) {
        let record = self.record(kind, content);
        // The server may have hung up on the one before.
        let _ = within("sending", self.tcp.write_all(&record)).await;
    }

    /// Waits for the end of the connection.
    async fn expect_end(&mut self) {
        let _ = within("the end", self.tcp.read_to_end(&mut Vec::new())).await;
    }
}

impl Edge {
    /// Sends a message each way, of this size.
    async fn expect_both_ways(&mut self, size: usize) {
        let frame = Frame::binary((0..size).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>());
        let (up, down) = (frame.encode(true), frame.encode(false));
        let (client, backend) = (&mut self.client, &mut self.backend);
        let sent = async {
            client.send(&up).await;
            assert!(client.bytes(down.len()).await == down);
        };
        let echoed = async {
            assert!(backend.frame().await == frame);
            backend.send(&down).await;
        };
        tokio::join!(sent, echoed);
    }

    /// That the agent serves others as before, and has not panicked.
    async fn expect_unharmed(&self) {
        let Ends { sidegate, mut client, mut backend, .. } = open(|sidegate| sidegate).await;
        client.send_frame(Frame::text("others live on")).await;
        assert_eq!(backend.frame().await, Frame::text("others live on"));
        sidegate.expect_metric("sidegate_panics_total", [], 0).await;
        self.sidegate.expect_metric("sidegate_panics_total", [], 0).await;
        client::new(&self.sidegate).attempt("/elsewhere").await.expect(404);
    }
}

#[tokio::test]
async fn messages_of_all_sizes_pass_over_tls_1_3() {
    let mut edge = edge_13().await;
    for size in [0, 64, 16_384, 65_536, 1 << 20] {
        edge.expect_both_ways(size).await;
    }
}

#[tokio::test]
async fn messages_of_all_sizes_pass_over_tls_1_2() {
    let mut edge = edge(&rustls::version::TLS12, usize::MAX, b"").await;
    for size in [0, 64, 16_384, 65_536, 1 << 20] {
        edge.expect_both_ways(size).await;
    }
}

#[tokio::test]
async fn ciphertext_that_comes_byte_by_byte_is_the_same() {
    let mut edge = edge(&rustls::version::TLS13, 1, b"").await;
    for size in [64, 5000] {
        edge.expect_both_ways(size).await;
    }
}

// C-WS-07
#[tokio::test]
async fn data_in_the_same_record_as_the_request_comes_first() {
    for size in [5, 16_000] {
        let early = Frame::binary(vec![1; size]);
        let mut edge = edge(&rustls::version::TLS13, usize::MAX, &early.encode(true)).await;
        assert!(edge.backend.frame().await == early);
        edge.expect_both_ways(64).await;
    }
}

#[tokio::test]
async fn the_client_may_update_its_keys_as_often_as_it_likes() {
    let mut edge = edge_13().await;
    for _ in 0..20 {
        edge.client.tls.refresh_traffic_keys().unwrap();
        edge.expect_both_ways(64).await;
    }
    edge.expect_both_ways(1 << 20).await;
}

#[tokio::test]
async fn after_the_clients_close_notify_the_backend_still_delivers() {
    let mut edge = edge_13().await;
    edge.client.send(&Frame::text("last").encode(true)).await;
    edge.client.tls.send_close_notify();
    edge.client.flush().await;
    assert_eq!(edge.backend.frame().await, Frame::text("last"));
    edge.backend.expect_end().await;
    edge.backend.send_frame(Frame::text("answer")).await;
    drop(edge.backend);
    assert_eq!(edge.client.bytes(8).await, Frame::text("answer").encode(false));
    edge.client.expect_close_notify().await;
    expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn we_end_a_connection_with_close_notify() {
    let mut edge = edge_13().await;
    edge.backend.send_frame(Frame::close(1000, "")).await;
    assert_eq!(edge.client.bytes(4).await, Frame::close(1000, "").encode(false));
    edge.client.send(&Frame::close(1000, "").encode(true)).await;
    edge.client.expect_close_notify().await;
}

#[tokio::test]
async fn a_fin_without_close_notify_ends_the_clients_direction_too() {
    let mut edge = edge_13().await;
    edge.client.send(&Frame::text("last").encode(true)).await;
    edge.client.tcp.shutdown().await.unwrap();
    assert_eq!(edge.backend.frame().await, Frame::text("last"));
    edge.backend.expect_end().await;
    drop(edge.backend);
    edge.client.expect_close_notify().await;
    expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn a_broken_record_gets_an_alert_and_ends_the_tunnel() {
    let mut edge = edge_13().await;
    edge.expect_both_ways(64).await;
    let broken = [&[DATA, 3, 3, 0, 40][..], &[7; 40]].concat();
    edge.client.send_below(&broken).await;
    edge.client.expect_alert("BadRecordMac").await;
    edge.backend.expect_end().await;
    expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
    edge.expect_unharmed().await;
}

#[tokio::test]
async fn what_is_not_tls_any_more_gets_an_alert_and_ends_the_tunnel() {
    let mut edge = edge_13().await;
    edge.client.send_below(b"GET / HTTP/1.1\r\n\r\n").await;
    edge.client.expect_alert("lert").await;
    edge.backend.expect_end().await;
    expect_ended(&edge.sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn what_never_was_tls_gets_an_alert() {
    let edge = edge_13().await;
    let mut stranger = client::new(&edge.sidegate).connect_below_tls().await;
    stranger.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(stranger.rest().await.first(), Some(&21));
    edge.expect_unharmed().await;
}

// C-TLS-13
#[tokio::test]
async fn a_fragment_of_a_handshake_message_and_then_data_up_is_the_clients_end_alone() {
    let mut edge = edge_13().await;
    edge.expect_both_ways(64).await;
    let Edge { sidegate, client, mut backend, _server } = edge;
    let mut forger = client.forge();
    forger.send(HANDSHAKE, &[KEY_UPDATE]).await;
    forger.send(DATA, &Frame::text("x").encode(true)).await;
    forger.expect_end().await;
    backend.expect_end().await;
    expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
    sidegate.expect_metric("sidegate_panics_total", [], 0).await;
}

// C-TLS-13
#[tokio::test]
async fn between_the_fragments_of_a_handshake_message_data_goes_down() {
    let Edge { sidegate, client, mut backend, _server } = edge_13().await;
    let mut forger = client.forge();
    forger.send(DATA, &Frame::text("hello").encode(true)).await;
    assert_eq!(backend.frame().await, Frame::text("hello"));
    forger.send(HANDSHAKE, &[KEY_UPDATE]).await;
    for _ in 0..3 {
        backend.send_frame(Frame::text("down")).await;
        assert_eq!(record_of(&mut forger.tcp).await, DATA);
    }
    // The rest: an update that asks for none in return. What follows is under the wrong key.
    forger.send(HANDSHAKE, &[0, 0, 1, 0]).await;
    backend.send_frame(Frame::text("down again")).await;
    assert_eq!(record_of(&mut forger.tcp).await, DATA);
    forger.send(DATA, &Frame::text("x").encode(true)).await;
    backend.expect_end().await;
    expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
    sidegate.expect_metric("sidegate_panics_total", [], 0).await;
}

/// Reads one record, whatever is in it, and says of which type it claims to be.
async fn record_of(tcp: &mut TcpStream) -> u8 {
    let mut head = [0; 5];
    within("a record's head", tcp.read_exact(&mut head)).await.unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    within("a record", tcp.read_exact(&mut rest)).await.unwrap();
    head[0]
}

#[tokio::test]
async fn empty_records_without_an_end_are_the_clients_end_alone() {
    let Edge { sidegate, client, mut backend, _server } = edge_13().await;
    let mut forger = client.forge();
    for _ in 0..100 {
        forger.send(DATA, b"").await;
    }
    forger.expect_end().await;
    backend.expect_end().await;
    expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn key_updates_under_the_wrong_key_are_the_clients_end_alone() {
    let Edge { sidegate, client, mut backend, _server } = edge_13().await;
    let mut forger = client.forge();
    for _ in 0..10 {
        forger.send(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]).await;
    }
    forger.expect_end().await;
    backend.expect_end().await;
    expect_ended(&sidegate, ["client", "open", "client_gone"]).await;
}

#[tokio::test]
async fn eight_mebibytes_to_a_client_that_reads_late_arrive_whole() {
    let Edge { sidegate, mut client, mut backend, _server } = edge_13().await;
    let frame = Frame::binary((0..8 << 20).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>()).encode(false);
    let sent = async {
        for piece in frame.chunks(1 << 20) {
            backend.send(piece).await;
        }
    };
    let taken = async {
        // Until nothing more fits between the two.
        let (mut before, mut now) = (-1.0, 0.0);
        while now == 0.0 || now > before {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            (before, now) = (now, sidegate.metric("sidegate_bytes_total", [("direction", "from_backend")]).await);
        }
        assert!(client.bytes(frame.len()).await == frame);
    };
    tokio::join!(sent, taken);
}

/// Records of every type and content, whole or torn, in pieces, while the backend talks: none may harm anyone else.
#[tokio::test]
async fn forged_records_of_all_kinds_harm_nobody_else() {
    let server = backend::manual().run().await;
    let sidegate = sidegate::new().route("/chat", &server).run().await;
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = move |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % bound
    };
    for _ in 0..100 {
        let (client, mut backend) = ends(&sidegate, &server, &rustls::version::TLS13, usize::MAX, b"").await;
        let mut forger = client.forge();
        let mut bytes = Vec::new();
        for _ in 0..=below(8) {
            let kind = [DATA, DATA, HANDSHAKE, HANDSHAKE, 21, 20, 24, 0][below(8)];
            let content = match below(8) {
                0 => vec![KEY_UPDATE],
                1 => vec![KEY_UPDATE, 0, 0, 1, 1],
                2 => vec![KEY_UPDATE, 0, 0],
                3 => vec![2, below(120) as u8],
                4 => vec![below(256) as u8; 16_384],
                5 => Vec::new(),
                6 => Frame::text("fine").encode(true),
                _ => (0..below(40)).map(|_| below(256) as u8).collect(),
            };
            bytes.extend(forger.record(kind, &content));
            if below(20) == 0 {
                bytes.truncate(bytes.len() - below(bytes.len().min(20)));
            }
        }
        while !bytes.is_empty() {
            let piece = 1 + below(bytes.len());
            let _ = within("sending", forger.tcp.write_all(&bytes[..piece])).await;
            bytes.drain(..piece);
            backend.send_frame(Frame::text("down")).await;
        }
    }
    sidegate.expect_metric("sidegate_tunnels_open", [], 0).await;
    sidegate.expect_metric("sidegate_tunnels_closed_total", [], 100).await;
    sidegate.expect_metric("sidegate_panics_total", [], 0).await;
}
