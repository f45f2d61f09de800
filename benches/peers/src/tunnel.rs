//! A client's tunnel, from the TLS handshake to the end of its socket. Reports events and decides
//! nothing.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use data_encoding::BASE64;
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::backend::accept;
use crate::frame::{self, BINARY, CLOSE, Header, LARGEST, PING, PONG};
use crate::message::{Message, Messages};

const PLAINTEXT: usize = 256 << 10;

/// An event of a tunnel.
pub enum Fact {
    /// The 101 has come; with the parameters that TLS agreed on.
    Opened(Agreed),
    /// A message has come back whole and unchanged; with the moment at which it was due.
    Echoed(Instant),
    /// The socket has ended: in order, after both Close frames, or with this failure.
    Ended(Result<(), String>),
}

/// Protocol, cipher suite, key exchange and kind of the TLS handshake.
pub type Agreed = String;

pub struct Tunnel {
    socket: OwnedFd,
    /// `None` speaks to the backend itself, without TLS.
    tls: Option<Box<ClientConnection>>,
    unsent: Vec<u8>,
    session: Session,
}

/// The protocol state above TLS.
struct Session {
    number: u64,
    stage: Stage,
    /// The beginning of a head, of a frame's header, or of a control frame.
    unread: Vec<u8>,
    /// Bytes of the echo's payload that are still to come, and that have come.
    payload: Option<(usize, usize)>,
    awaited: VecDeque<(Message, Instant)>,
    sent: u64,
    /// Frames to answer with: the opcode and its payload.
    answers: Vec<(u8, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Upgrading,
    Open,
    /// Our Close is out; then also the backend's has come.
    Closing,
    Closed,
}

/// Buffers and settings that all tunnels share; used by one of them at a time.
pub struct Shared {
    pub messages: Messages,
    pub buffer: Vec<u8>,
    frame: Vec<u8>,
}

impl Shared {
    pub fn new() -> Self {
        Self { messages: Messages::new(), buffer: vec![0; PLAINTEXT], frame: Vec::new() }
    }
}

impl Tunnel {
    /// Connects and sends the first flight. `number` tells its messages from all others.
    pub fn connect(
        port: u16,
        config: Option<&Arc<ClientConfig>>,
        number: u64,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let tls = match config {
            Some(config) => Some(Box::new(ClientConnection::new(
                config.clone(),
                ServerName::try_from("localhost")?,
            )?)),
            None => None,
        };
        let mut tunnel =
            Self { socket: socket.into(), tls, unsent: Vec::new(), session: Session::new(number) };
        if let Some(tls) = &mut tunnel.tls {
            tls.set_buffer_limit(None);
        }
        let request = format!(
            "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            key(number)
        );
        tunnel.write(request.as_bytes())?;
        Ok(tunnel)
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends a message of so many bytes, to be sent at `due`.
    pub fn send(&mut self, shared: &mut Shared, size: usize, due: Instant) -> io::Result<()> {
        let message = Message { tunnel: self.session.number, serial: self.session.sent, size };
        self.session.sent += 1;
        self.session.awaited.push_back((message, due));
        let mask = shared.messages.mask();
        shared.frame.clear();
        frame::append_masked(
            &mut shared.frame,
            BINARY,
            mask,
            |out| shared.messages.append(message, out),
            size,
        );
        self.write(&shared.frame)
    }

    /// Begins to close: Close goes out, the backend answers with its own and ends the socket.
    pub fn close(&mut self, shared: &mut Shared) -> io::Result<()> {
        self.session.stage = Stage::Closing;
        self.control(shared, CLOSE, &1000u16.to_be_bytes())
    }

    /// Reads and writes until it would block. `ended` means that the peer has ended: read until
    /// that shows.
    pub fn serve(&mut self, shared: &mut Shared, ended: bool, facts: &mut Vec<Fact>) {
        if let Err(failure) = self.serve_or_fail(shared, ended, facts) {
            facts.push(Fact::Ended(Err(failure)));
        }
    }

    fn serve_or_fail(
        &mut self,
        shared: &mut Shared,
        ended: bool,
        facts: &mut Vec<Fact>,
    ) -> Result<(), String> {
        self.flush().map_err(|error| format!("writing: {error}"))?;
        loop {
            let read = match rustix::io::read(&self.socket, &mut *shared.buffer) {
                Ok(0) => {
                    facts.push(Fact::Ended(self.session.end()));
                    return Ok(());
                }
                Ok(read) => read,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(_) if self.session.stage == Stage::Closed => {
                    facts.push(Fact::Ended(Ok(())));
                    return Ok(());
                }
                Err(error) => return Err(format!("reading: {error}")),
            };
            if self.take(shared, read, facts)? {
                facts.push(Fact::Ended(self.session.end()));
                return Ok(());
            }
            for (opcode, payload) in std::mem::take(&mut self.session.answers) {
                self.control(shared, opcode, &payload)
                    .map_err(|error| format!("answering: {error}"))?;
            }
            if read < shared.buffer.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Whether TLS says that no more will come, which is the end even where the socket stays open.
    fn take(
        &mut self,
        shared: &Shared,
        read: usize,
        facts: &mut Vec<Fact>,
    ) -> Result<bool, String> {
        let Self { tls, session, .. } = self;
        let Some(tls) = tls else {
            session.hear(&shared.messages, &shared.buffer[..read], || "plain".into(), facts)?;
            return Ok(false);
        };
        let mut over = false;
        let mut sealed = &shared.buffer[..read];
        while !sealed.is_empty() {
            tls.read_tls(&mut sealed).map_err(|error| format!("TLS: {error}"))?;
            let state = tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let mut open = state.plaintext_bytes_to_read();
            over |= state.peer_has_closed();
            // The agreed parameters are read only once, when the tunnel opens.
            let agreed = if session.stage == Stage::Upgrading && open > 0 {
                agreed(tls)
            } else {
                String::new()
            };
            let mut reader = tls.reader();
            while open > 0 {
                let piece = reader.fill_buf().map_err(|error| format!("TLS: {error}"))?;
                let count = piece.len();
                session.hear(&shared.messages, piece, || agreed.clone(), facts)?;
                reader.consume(count);
                open -= count;
            }
        }
        self.flush().map_err(|error| format!("writing: {error}"))?;
        Ok(over)
    }

    fn control(&mut self, shared: &mut Shared, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mask = shared.messages.mask();
        shared.frame.clear();
        frame::append_masked(
            &mut shared.frame,
            opcode,
            mask,
            |out| out.extend_from_slice(payload),
            payload.len(),
        );
        self.write(&shared.frame)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => self.unsent.extend_from_slice(bytes),
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut wire = Wire(&self.socket);
        let blocked = |error: io::Error| {
            if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
        };
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut wire).or_else(blocked)? == 0 {
                    break;
                }
            }
        }
        while !self.unsent.is_empty() {
            match wire.write(&self.unsent).or_else(blocked)? {
                0 => break,
                sent => drop(self.unsent.drain(..sent)),
            }
        }
        Ok(())
    }
}

impl Session {
    fn new(number: u64) -> Self {
        Self {
            number,
            stage: Stage::Upgrading,
            unread: Vec::new(),
            payload: None,
            awaited: VecDeque::new(),
            sent: 0,
            answers: Vec::new(),
        }
    }

    /// Reads on; compares what comes back.
    fn hear(
        &mut self,
        messages: &Messages,
        mut bytes: &[u8],
        agreed: impl FnOnce() -> Agreed,
        facts: &mut Vec<Fact>,
    ) -> Result<(), String> {
        if self.stage == Stage::Upgrading {
            let had = self.unread.len();
            self.unread.extend_from_slice(bytes);
            let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(());
            };
            switched(&self.unread[..end], self.number)?;
            bytes = &bytes[end + 4 - had..];
            self.unread = Vec::new();
            self.stage = Stage::Open;
            facts.push(Fact::Opened(agreed()));
        }
        while !bytes.is_empty() || self.payload == Some((0, 0)) {
            bytes = match self.payload {
                Some((left, came)) => self.payload(messages, bytes, left, came, facts)?,
                None => self.header(bytes)?,
            };
        }
        Ok(())
    }

    /// Compares a piece of the expected echo; returns the bytes after it.
    fn payload<'a>(
        &mut self,
        messages: &Messages,
        bytes: &'a [u8],
        left: usize,
        came: usize,
        facts: &mut Vec<Fact>,
    ) -> Result<&'a [u8], String> {
        let (piece, rest) = bytes.split_at(left.min(bytes.len()));
        let &(message, due) = self.awaited.front().ok_or("a message came that was never sent")?;
        if !messages.matches(message, came, piece) {
            return Err(format!(
                "message {} of tunnel {} came back changed",
                message.serial, message.tunnel
            ));
        }
        self.payload = (piece.len() < left).then_some((left - piece.len(), came + piece.len()));
        if self.payload.is_none() {
            if came + left != message.size {
                return Err(format!(
                    "a message of {} bytes came back with {}",
                    message.size,
                    came + left
                ));
            }
            self.awaited.pop_front();
            facts.push(Fact::Echoed(due));
        }
        Ok(rest)
    }

    /// Reads a frame's header, or a whole control frame; returns the bytes after it.
    fn header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let had = self.unread.len();
        // Usually whole in `bytes`; only a part that was cut is assembled in `unread`.
        let (head, control) = if had == 0 {
            let head = Header::parse(bytes);
            (head, head.and_then(|head| bytes.get(head.size..head.size + head.length)))
        } else {
            self.unread.extend_from_slice(&bytes[..bytes.len().min(LARGEST + 125)]);
            let head = Header::parse(&self.unread);
            (head, head.and_then(|head| self.unread.get(head.size..head.size + head.length)))
        };
        let used = match head {
            Some(head) if head.mask.is_some() => {
                return Err("a frame from the server is masked".into());
            }
            Some(head) if head.opcode == BINARY && head.last => {
                self.payload = Some((head.length, 0));
                head.size
            }
            Some(Header { opcode: CLOSE | PING | PONG, size, length, .. }) if control.is_some() => {
                let payload = control.unwrap_or_default().to_vec();
                self.control(head.map_or(0, |head| head.opcode), payload)?;
                size + length
            }
            Some(Header { opcode: CLOSE | PING | PONG, .. }) | None => {
                if had == 0 {
                    self.unread = bytes.to_vec();
                }
                return Ok(&[]);
            }
            Some(head) => {
                return Err(format!("a frame with opcode {}, last: {}", head.opcode, head.last));
            }
        };
        self.unread = Vec::new();
        Ok(&bytes[used - had..])
    }

    fn control(&mut self, opcode: u8, payload: Vec<u8>) -> Result<(), String> {
        match (opcode, self.stage) {
            (PING, _) => self.answers.push((PONG, payload)),
            (CLOSE, Stage::Closing) => self.stage = Stage::Closed,
            (CLOSE, _) => {
                let code = payload.first_chunk().map_or(1005, |&code| u16::from_be_bytes(code));
                return Err(format!("closed by the other side: {code}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        match self.stage {
            Stage::Closed => Ok(()),
            Stage::Upgrading => Err(format!(
                "ended before the 101, after {:?}",
                String::from_utf8_lossy(&self.unread)
            )),
            Stage::Open => Err("ended while open".into()),
            Stage::Closing => Err("ended without a Close frame".into()),
        }
    }
}

/// Whether this head is the 101 for our key.
fn switched(head: &[u8], number: u64) -> Result<(), String> {
    let head = String::from_utf8_lossy(head);
    let accepted = head.lines().any(|line| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == accept(&key(number))
    });
    if head.starts_with("HTTP/1.1 101 ") && accepted {
        Ok(())
    } else {
        Err(format!("not the 101 for our key: {head:?}"))
    }
}

fn key(number: u64) -> String {
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    BASE64.encode(&bytes)
}

fn agreed(tls: &ClientConnection) -> Agreed {
    let protocol = tls.protocol_version().and_then(|version| version.as_str().map(str::to_owned));
    let suite = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let group = tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
    let kind = tls.handshake_kind().map(|kind| format!("{kind:?}"));
    [protocol, suite, group, kind].map(|word| word.unwrap_or_else(|| "-".into())).join(" ")
}

/// The socket, as rustls writes to it.
struct Wire<'a>(&'a OwnedFd);

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(self.0, pieces)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
