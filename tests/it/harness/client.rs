//! Clients: raw HTTP/1.1 in and parsed answers out, WebSockets by tungstenite, and frames by hand.
//!
//! A client is a description; each `connect`, `send` or `open` is a connection of its own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::harness::certificate;
use crate::harness::sidegate::Sidegate;
use crate::harness::wire::{Answer, End, Head, Io, Wire};
use crate::harness::within;

/// A client of `sidegate`'s first listener, from 127.0.0.1. Speaks TLS if the listener does, and
/// trusts the run's authority.
pub fn new(sidegate: &Sidegate) -> Client {
    let tls = sidegate
        .is_tls()
        .then(|| Arc::new(config(&[&rustls::version::TLS13, &rustls::version::TLS12])));
    Client { tls, ..clear(sidegate.address()) }
}

/// A client of the first listener of `sidegate`, over the Unix socket at `path`.
pub fn unix(sidegate: &Sidegate, path: &Path) -> Client {
    let client = clear(([127, 0, 0, 1], 0).into());
    let tls = sidegate.is_tls().then(|| Arc::new(config(&[&rustls::version::TLS13])));
    Client { path: Some(path.to_owned()), tls, ..client }
}

/// A client over TLS of any server at `address`; trusts this PEM file alone.
pub fn at(address: SocketAddr, trusted: &Path) -> Client {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(trusted).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let (from, host) = ([127, 0, 0, 1].into(), "localhost".to_owned());
    let (path, tls) = (None, Some(Arc::new(config)));
    let (sni, lines, preamble) = (None, Vec::new(), Vec::new());
    Client { address, path, from, host, sni, tls, lines, preamble }
}

/// A client without TLS of any server at `address`.
pub fn clear(address: SocketAddr) -> Client {
    Client {
        address,
        path: None,
        from: [127, 0, 0, 1].into(),
        host: "localhost".to_owned(),
        sni: None,
        tls: None,
        lines: Vec::new(),
        preamble: Vec::new(),
    }
}

/// A description of connections and their requests.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    /// The Unix socket to connect to. `None` means `address`.
    path: Option<PathBuf>,
    from: IpAddr,
    host: String,
    sni: Option<ServerName<'static>>,
    tls: Option<Arc<ClientConfig>>,
    lines: Vec<(String, String)>,
    preamble: Vec<u8>,
}

impl Client {
    /// Connects from this loopback address.
    pub fn from(mut self, address: &str) -> Self {
        self.from = address.parse().unwrap();
        self
    }

    /// Sends these bytes first on each connection, in front of TLS: a PROXY header.
    pub fn preamble(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.preamble = bytes.as_ref().to_vec();
        self
    }

    /// Connects to this address instead of the first listener's.
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Connects to this address without TLS.
    pub fn at_clear(mut self, address: SocketAddr) -> Self {
        (self.address, self.tls) = (address, None);
        self
    }

    /// Asks for another host than `localhost`: in `Host`, and in SNI unless [`Client::sni`] sets
    /// it.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// Sends another SNI than the host; an address means no SNI.
    pub fn sni(mut self, name: &str) -> Self {
        self.sni = Some(ServerName::try_from(name.to_owned()).unwrap());
        self
    }

    /// Offers this version of TLS alone.
    pub fn tls_version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.tls = Some(Arc::new(config(&[version])));
        self
    }

    /// Offers these protocols by ALPN.
    pub fn alpn(self, protocols: &[&str]) -> Self {
        self.tls_with(|config| {
            config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        })
    }

    /// Accepts any certificate, so that a test can look at it.
    pub fn trusting(self) -> Self {
        self.tls_with(trusts_any)
    }

    /// Changes its side of TLS.
    pub fn tls_with(mut self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        change(Arc::make_mut(self.tls.as_mut().expect("a client over TLS")));
        self
    }

    /// Adds a header line to every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets `Origin`, the page that opens the WebSocket.
    pub fn origin(self, origin: &str) -> Self {
        self.header("Origin", origin)
    }

    /// Offers these subprotocols, on one line.
    pub fn subprotocols(self, offered: &[&str]) -> Self {
        self.header("Sec-WebSocket-Protocol", &offered.join(", "))
    }

    /// Connects, and makes the TLS handshake.
    pub async fn connect(&self) -> Wire {
        self.try_connect().await.unwrap_or_else(|error| panic!("no connection: {error}"))
    }

    /// Connects, and makes the TLS handshake; an error may be a fatal alert.
    pub async fn try_connect(&self) -> io::Result<Wire> {
        if let Some(path) = &self.path {
            let mut unix = within("a connection", tokio::net::UnixStream::connect(path)).await?;
            unix.write_all(&self.preamble).await?;
            return self.wire_over(unix).await;
        }
        self.wire_over(self.connect_tcp().await?).await
    }

    /// Makes the TLS handshake over `stream`, if this client speaks TLS.
    async fn wire_over<S: Io + 'static>(&self, stream: S) -> io::Result<Wire>
    where
        tokio_rustls::client::TlsStream<S>: Io,
    {
        let Some(config) = &self.tls else { return Ok(Wire::new(stream, End::Client, None)) };
        let name = self.sni.clone().unwrap_or_else(|| {
            let name = self.host.split(':').next().unwrap_or_default().to_owned();
            ServerName::try_from(name).unwrap()
        });
        let stream =
            within("a TLS handshake", TlsConnector::from(Arc::clone(config)).connect(name, stream))
                .await?;
        Ok(Wire::new(stream, End::Client, None))
    }

    /// Connects without a TLS handshake, which is left to the test.
    pub async fn connect_below_tls(&self) -> Wire {
        Wire::new(self.connect_tcp().await.unwrap(), End::Client, None)
    }

    async fn connect_tcp(&self) -> io::Result<tokio::net::TcpStream> {
        let socket =
            if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.address.is_ipv4() {
            socket.bind((self.from, 0).into())?;
        }
        let mut tcp = within("a connection", socket.connect(self.address)).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&self.preamble).await?;
        Ok(tcp)
    }

    /// Sends these bytes on a connection of their own, and returns the first answer.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut wire = self.connect().await;
        wire.send(bytes).await;
        wire.answer().await
    }

    /// Asserts that these bytes, on a connection of their own, are refused with this status and
    /// word, and that the connection is closed then.
    pub async fn expect_refused(&self, bytes: impl AsRef<[u8]>, status: u16, word: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.send(&bytes).await;
        let answer = wire.answer().await;
        answer.expect_refused(status, word);
        assert!(
            answer.informed.is_empty(),
            "told to go on before the refusal: {:?}",
            answer.informed
        );
        wire.expect_end().await;
        answer
    }

    /// Sends a GET without an upgrade.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(&format!("GET {path} HTTP/1.1"), "")).await
    }

    /// Returns a head with this first line, Host, the client's own header lines, and these `lines`
    /// (each ended by CRLF).
    pub fn request(&self, first: &str, lines: &str) -> String {
        let own: String =
            self.lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{first}\r\nHost: {}\r\n{own}{lines}\r\n", self.host)
    }

    /// Returns the head of a valid attempt, with more `lines` (each ended by CRLF).
    pub fn attempt_head(&self, path: &str, lines: &str) -> String {
        let key = generate_key();
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
        self.request(
            &format!("GET {path} HTTP/1.1"),
            &format!("{upgrade}Sec-WebSocket-Key: {key}\r\n{lines}"),
        )
    }

    /// Attempts to open a WebSocket, and returns any answer; for refusals.
    pub async fn attempt(&self, path: &str) -> Answer {
        self.send(self.attempt_head(path, "")).await
    }

    /// Opens a WebSocket, and returns the connection after the 101 for frames by hand.
    pub async fn open_wire(&self, path: &str) -> Wire {
        self.open_head(path).await.1
    }

    async fn open_head(&self, path: &str) -> (Head, Wire) {
        let mut wire = self.connect().await;
        let head = self.attempt_head(path, "");
        wire.send(&head).await;
        let answer = wire.answer().await;
        answer.expect(101);
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        answer.expect_header("sec-websocket-accept", &derive_accept_key(key.as_bytes()));
        answer.expect_header("upgrade", "websocket").expect_header("connection", "Upgrade");
        (answer.head, wire)
    }

    /// Opens a WebSocket.
    pub async fn open(&self, path: &str) -> Tunnel {
        let (head, wire) = self.open_head(path).await;
        let (io, read) = wire.into_parts();
        Tunnel {
            head,
            stream: WebSocketStream::from_partially_read(io, read, Role::Client, None).await,
        }
    }
}

/// An open WebSocket.
pub struct Tunnel {
    head: Head,
    stream: WebSocketStream<Box<dyn Io>>,
}

impl Tunnel {
    /// Returns the subprotocol that was chosen.
    pub fn subprotocol(&self) -> Option<&str> {
        self.head.header("sec-websocket-protocol")
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Message) {
        within("sending a message", self.stream.send(message)).await.unwrap();
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// Returns the next message, Pings and Closes included. A connection that ends without a Close
    /// is an error.
    pub async fn next(&mut self) -> Result<Message, Error> {
        within("a message", self.stream.next()).await.unwrap_or(Err(Error::ConnectionClosed))
    }

    /// Returns the next text or binary message.
    pub async fn message(&mut self) -> Bytes {
        loop {
            match self.next().await.unwrap_or_else(|error| panic!("no message: {error}")) {
                message @ (Message::Text(_) | Message::Binary(_)) => return message.into_data(),
                Message::Close(close) => panic!("no message, but a Close: {close:?}"),
                _ => {}
            }
        }
    }

    /// Sends a text message and waits for its echo.
    pub async fn expect_echo(&mut self, text: &str) {
        self.send_text(text).await;
        assert_eq!(self.message().await, text);
    }

    /// Sends all of these while it reads, because no buffer holds them all. Asserts that each comes
    /// back unchanged.
    pub async fn expect_echoes(&mut self, messages: &[Vec<u8>]) {
        let (mut there, mut back) = (&mut self.stream).split();
        let sending = async {
            for message in messages {
                there.send(Message::binary(message.clone())).await.unwrap();
            }
        };
        let reading = async {
            for message in messages {
                let echo = within("an echo", back.next()).await.unwrap().unwrap();
                assert!(echo.into_data() == *message, "another message of {} bytes", message.len());
            }
        };
        tokio::join!(sending, reading);
    }

    /// Asserts that the next message but Pings is a Close with this code; answers it, and waits for
    /// the end of the connection.
    pub async fn expect_close(&mut self, code: u16) -> String {
        let close = loop {
            match self.next().await {
                Ok(Message::Close(close)) => break close,
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not a Close with {code}, but {other:?}"),
            }
        };
        let (got, reason) = close
            .map_or((1005, String::new()), |close| (close.code.into(), close.reason.to_string()));
        assert_eq!(got, code, "{reason:?}");
        while self.next().await.is_ok() {}
        // A client waits for the server to close first (RFC 6455 §7.1.1), then ends its own side of
        // TCP.
        let _: io::Result<()> =
            within("ending the connection", self.stream.get_mut().shutdown()).await;
        reason
    }

    /// Asserts that the next message but Pings is a Close with this code and this reason.
    pub async fn expect_close_with(&mut self, code: u16, reason: &str) {
        assert_eq!(self.expect_close(code).await, reason);
    }

    /// Asserts that the connection ends without a Close, and with no message but Pings before.
    pub async fn expect_gone(&mut self) {
        loop {
            match self.next().await {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return,
                other => panic!("not an end without a Close, but {other:?}"),
            }
        }
    }

    /// Sends a Close with this code and reason.
    pub async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        within("sending a Close", self.stream.close(Some(frame))).await.unwrap();
    }
}

impl Io for Box<dyn Io> {
    fn tls(&self) -> Option<&rustls::ClientConnection> {
        (**self).tls()
    }
    fn tcp(&self) -> Option<&tokio::net::TcpStream> {
        (**self).tcp()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn config(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(certificate::roots()).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Makes a client accept any certificate whose key signed the handshake.
pub fn trusts_any(config: &mut ClientConfig) {
    config.dangerous().set_certificate_verifier(Arc::new(Trusting(provider())));
}

/// Accepts any certificate whose key signed the handshake.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
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
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
