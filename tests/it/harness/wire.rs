//! One end of a connection in a test's hand: bytes, HTTP heads and WebSocket frames, as they are on
//! the wire.
//!
//! Repairs nothing and completes nothing: exactly what a test sends goes out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConnection;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::harness::within;

/// A stream that a wire can run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// Returns the TLS connection. `None` means that the stream is not TLS.
    fn tls(&self) -> Option<&ClientConnection> {
        None
    }
    /// Returns the TCP socket. `None` means that the stream is not TCP.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl Io for UnixStream {}

impl Io for TlsStream<UnixStream> {
    fn tls(&self) -> Option<&ClientConnection> {
        Some(self.get_ref().1)
    }
}

impl Io for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Io for TlsStream<TcpStream> {
    fn tls(&self) -> Option<&ClientConnection> {
        Some(self.get_ref().1)
    }
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self.get_ref().0)
    }
}

impl Io for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self.get_ref().0)
    }
}

/// The end that a wire is: clients mask their frames, servers don't (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// One end of a connection.
pub struct Wire {
    io: Box<dyn Io>,
    /// Bytes that were read and not yet looked at.
    read: Vec<u8>,
    end: End,
    note: Option<Note>,
}

/// Callback for every head that a wire reads.
pub type Note = Arc<dyn Fn(&Head) + Send + Sync>;

impl Wire {
    /// Creates a wire over `io`; `note` is called with every head that is read.
    pub fn new(io: impl Io + 'static, end: End, note: Option<Note>) -> Self {
        Wire { io: Box::new(io), read: Vec::new(), end, note }
    }

    /// Sends bytes. A missing peer shows in the next read, not here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _: io::Result<()> = self.try_deliver(bytes).await;
    }

    /// Sends all of these bytes; panics if the peer breaks the connection first.
    pub async fn deliver(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_deliver(bytes).await.unwrap_or_else(|error| panic!("not all was taken: {error}"));
    }

    /// Sends all of these bytes; fails if the peer has broken the connection.
    pub async fn try_deliver(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        };
        within("sending all", sent).await
    }

    /// Returns the address of this end; panics if it is no TCP socket.
    pub fn address(&self) -> SocketAddr {
        self.io.tcp().expect("a TCP socket").local_addr().unwrap()
    }

    /// Ends this direction: FIN, or close_notify and FIN.
    pub async fn finish(&mut self) {
        let _: io::Result<()> = within("ending our direction", self.io.shutdown()).await;
    }

    /// Sends `bytes` with the end of our direction in the same segment.
    pub async fn send_last(&mut self, bytes: impl AsRef<[u8]>) {
        let tcp = self.io.tcp().expect("a TCP socket");
        SockRef::from(tcp).set_tcp_cork(true).unwrap();
        self.send(bytes).await;
        self.finish().await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        let tcp = self.io.tcp().expect("a TCP socket");
        SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Reads one HTTP head; panics if the connection ends before.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.unwrap_or_else(|| {
            panic!("the connection ended; of a head came {:?}", lossy(&self.read))
        })
    }

    /// Reads one HTTP head. `None` means that the connection ended before it was whole.
    pub async fn try_head(&mut self) -> Option<Head> {
        let length = loop {
            if let Some(at) = find(&self.read, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill("a head").await {
                return None;
            }
        };
        let head = Head::new(self.take(length));
        if let Some(note) = &self.note {
            note(&head);
        }
        Some(head)
    }

    /// Reads one answer with its body, without the 1xx before it; a 101 counts as an answer without
    /// a body.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// Reads the answer to a `method` request: an answer to HEAD has no body.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let mut informed = Vec::new();
        let head = loop {
            let head = self.head().await;
            match head.status() {
                100 | 102..200 => informed.push(head.status()),
                _ => break head,
            }
        };
        let bodiless = method == "HEAD" || matches!(head.status(), 101 | 204 | 304);
        let body = if bodiless { Vec::new() } else { self.body(&head, true).await };
        Answer { head, body, informed }
    }

    /// Reads the body that belongs to `head`. With `to_end`, a body of unknown length lasts to the
    /// end of the connection.
    pub async fn body(&mut self, head: &Head, to_end: bool) -> Vec<u8> {
        if head
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return self.chunks().await;
        }
        match head.header("content-length") {
            Some(length) => self.bytes(length.parse().unwrap()).await,
            None if to_end => self.rest().await,
            None => Vec::new(),
        }
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend(chunk);
        }
        body
    }

    /// Reads one chunk of a chunked body. `None` means the last chunk.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await;
        let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
        let chunk = self.bytes(size).await;
        assert_eq!(self.line().await, "");
        (size > 0).then_some(chunk)
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.read, b"\r\n") {
                return lossy(&self.take(at + 2)).trim_end().to_owned();
            }
            assert!(
                self.fill("a line").await,
                "the connection ended; of a line came {:?}",
                lossy(&self.read)
            );
        }
    }

    /// Reads exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(
                self.fill("bytes").await,
                "the connection ended after {} of {count} bytes",
                self.read.len()
            );
        }
        self.take(count)
    }

    /// Reads until the connection ends, in any way.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill("the end of the connection").await {}
        std::mem::take(&mut self.read)
    }

    /// Reads until the connection ends; returns whether it was reset.
    pub async fn is_reset(&mut self) -> bool {
        loop {
            match within("the end of the connection", self.io.read_buf(&mut self.read)).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Reads until the connection ends in order; panics if it is reset.
    pub async fn rest_unless_reset(&mut self) -> Vec<u8> {
        assert!(!self.is_reset().await, "a reset behind {:?}", lossy(&self.read));
        std::mem::take(&mut self.read)
    }

    /// Asserts that nothing more comes, and the connection ends.
    pub async fn expect_end(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "more came before the end: {:?}", lossy(&rest));
    }

    /// Reads one WebSocket frame. Panics if a server's frame is masked, or a client's isn't.
    pub async fn frame(&mut self) -> Frame {
        self.try_frame()
            .await
            .unwrap_or_else(|| panic!("the connection ended; of a frame came {:?}", self.read))
    }

    /// Reads one WebSocket frame. `None` means that the connection ended before it was whole.
    pub async fn try_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, masked, length)) = Frame::decode(&self.read) {
                self.take(length);
                assert_eq!(masked, self.end == End::Server, "masking of {frame:?}");
                return Some(frame);
            }
            if !self.fill("a frame").await {
                return None;
            }
        }
    }

    /// Sends one WebSocket frame, masked if this end is a client.
    pub async fn send_frame(&mut self, frame: Frame) {
        self.send(frame.encode(self.end == End::Client)).await;
    }

    /// Sends a text message and waits for its echo.
    pub async fn expect_echo(&mut self, text: &str) {
        self.send_frame(Frame::text(text)).await;
        assert_eq!(self.frame().await, Frame::text(text));
    }

    /// Returns the TLS connection; panics if there is none.
    pub fn tls(&self) -> &ClientConnection {
        self.io.tls().expect("a connection over TLS")
    }

    /// Returns the stream below, and the bytes that were read and not looked at.
    pub fn into_parts(self) -> (Box<dyn Io>, Vec<u8>) {
        (self.io, self.read)
    }

    /// Waits without a limit until bytes have come or the connection has ended.
    pub async fn readable(&mut self) {
        if self.read.is_empty() {
            let _: io::Result<usize> = self.io.read_buf(&mut self.read).await;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.read.drain(..count).collect()
    }

    /// Reads more bytes. Returns `false` if the connection has ended.
    async fn fill(&mut self, what: &str) -> bool {
        // An error is an end as well: a reset, or an end without close_notify.
        within(what, self.io.read_buf(&mut self.read)).await.is_ok_and(|read| read > 0)
    }
}

/// The head of a request or an answer, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// The whole head, with the empty line.
    pub raw: Vec<u8>,
    /// The first line, without CRLF.
    pub first: String,
    /// Names and values in order; the names in their case, the values without the space around
    /// them.
    pub lines: Vec<(String, String)>,
}

impl Head {
    fn new(raw: Vec<u8>) -> Self {
        let text = lossy(&raw);
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let lines = lines.map(|line| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("a header line without a colon: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        Head { first, lines: lines.collect(), raw }
    }

    /// Returns a request's method.
    pub fn method(&self) -> &str {
        self.word(0)
    }

    /// Returns a request's target.
    pub fn target(&self) -> &str {
        self.word(1)
    }

    /// Returns an answer's status.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_else(|_| panic!("no answer: {:?}", self.first))
    }

    /// Returns the word at `index` of the first line.
    pub fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_else(|| panic!("no head: {:?}", self.first))
    }

    /// Returns the value of the header `name`, in any case; panics if it is there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there twice: {all:?}");
        all.first().copied()
    }

    /// Returns all values of the header `name`, in any case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.lines.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns whether a header line begins with exactly `name`, its case included.
    pub fn spells(&self, name: &str) -> bool {
        self.lines.iter().any(|(own, _)| own == name)
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", lossy(&self.raw))
    }
}

/// An answer with its body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    /// Statuses of the 1xx before it.
    pub informed: Vec<u16>,
}

impl Answer {
    /// Returns the status of the answer.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// Returns the value of the header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        lossy(&self.body)
    }

    /// Asserts that the answer has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status(), status, "{:?} {:?}", self.head, self.text());
        self
    }

    /// Asserts that the answer is Sidegate's refusal: this status, and a `problem+json` body with
    /// this reason word and the request's id.
    #[track_caller]
    pub fn expect_refused(&self, status: u16, word: &str) -> &Self {
        self.expect(status);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{:?}",
            self.head
        );
        let body: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        assert_eq!(body["reason"], word, "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{body}");
        self
    }

    /// Asserts that the header `name` has this value.
    #[track_caller]
    pub fn expect_header(&self, name: &str, value: &str) -> &Self {
        assert_eq!(self.header(name), Some(value), "{name} in {:?}", self.head);
        self
    }
}

/// A WebSocket frame, unmasked.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: FIN, RSV bits, opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Creates a frame with any first byte (FIN is 0x80) and any payload.
    pub fn new(first: u8, payload: impl Into<Vec<u8>>) -> Self {
        Frame { first, payload: payload.into() }
    }
    /// Creates a whole text message.
    pub fn text(text: &str) -> Self {
        Frame::new(0x81, text)
    }
    /// Creates a whole binary message.
    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Frame::new(0x82, payload)
    }
    /// Creates a Close with a code and a reason.
    pub fn close(code: u16, reason: &str) -> Self {
        Frame::new(0x88, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }
    /// Creates a Ping.
    pub fn ping(payload: impl Into<Vec<u8>>) -> Self {
        Frame::new(0x89, payload)
    }
    /// Creates a Pong.
    pub fn pong(payload: impl Into<Vec<u8>>) -> Self {
        Frame::new(0x8a, payload)
    }

    /// Returns the opcode.
    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }
    /// Returns a Close's code and reason; 1005 if it has no code. `None` means that it is no Close.
    pub fn closes(&self) -> Option<(u16, String)> {
        if self.opcode() != 8 {
            return None;
        }
        match self.payload.split_at_checked(2) {
            Some((code, reason)) => Some((u16::from_be_bytes([code[0], code[1]]), lossy(reason))),
            None => Some((1005, String::new())),
        }
    }

    /// Returns the frame's bytes on the wire.
    pub fn encode(&self, masked: bool) -> Vec<u8> {
        let mask_bit = u8::from(masked) << 7;
        let mut bytes = vec![self.first];
        match self.payload.len() {
            length @ 0..126 => bytes.push(mask_bit | length as u8),
            length @ 126..0x1_0000 => {
                bytes.push(mask_bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask_bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mask: [u8; 4] = if masked { rand::random() } else { [0; 4] };
        if masked {
            bytes.extend(mask);
        }
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Parses the frame at the start of `bytes`; also returns whether it is masked, and its length
    /// on the wire.
    fn decode(bytes: &[u8]) -> Option<(Frame, bool, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (length, mut at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()), 10),
            length => (u64::from(length), 2),
        };
        let masked = second & 0x80 != 0;
        let mut mask = [0; 4];
        if masked {
            mask = bytes.get(at..at + 4)?.try_into().unwrap();
            at += 4;
        }
        let end = at + usize::try_from(length).unwrap();
        let payload =
            bytes.get(at..end)?.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        Some((Frame { first, payload: payload.collect() }, masked, end))
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(200)];
        write!(f, "Frame({:#04x}, {} bytes: {:?})", self.first, self.payload.len(), lossy(shown))
    }
}

/// Shows bytes as text.
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
