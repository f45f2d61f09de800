//! The backend: whole messages come back as they were, over TCP and over a Unix socket at once. It
//! keeps no buffer for a connection that has nothing under way.

use std::os::fd::{AsFd, OwnedFd};
use std::{fs, io, mem, net, os::unix};

use data_encoding::BASE64;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use serde_json::json;

use crate::Outcome;
use crate::frame::{self, BINARY, CLOSE, CONTINUATION, Header, PING, PONG};
use crate::orders::{Heard, Orders};
use crate::poll::{Poll, Ready};

const TCP: u64 = u64::MAX;
const UNIX: u64 = u64::MAX - 1;
const ORDERS: u64 = u64::MAX - 2;
const READ: usize = 256 << 10;

/// Serves until the standard input ends; the only order is `stats`.
pub fn run(port: &str, path: &str) -> Outcome {
    let tcp = net::TcpListener::bind(("127.0.0.1", port.parse()?))?;
    let _ = fs::remove_file(path);
    let unix = unix::net::UnixListener::bind(path)?;
    tcp.set_nonblocking(true)?;
    unix.set_nonblocking(true)?;
    // std asks for a backlog of 128: too few for clients that connect at once.
    rustix::net::listen(&tcp, 4096)?;
    rustix::net::listen(&unix, 4096)?;

    let mut poll = Poll::new()?;
    poll.add_level(&tcp, TCP)?;
    poll.add_level(&unix, UNIX)?;
    poll.add_level(Orders::source(), ORDERS)?;
    let (mut backend, mut orders, mut ready) = (Backend::new(), Orders::default(), Vec::new());
    loop {
        poll.wait(None, &mut ready)?;
        for Ready { token, ended } in ready.drain(..) {
            match token {
                TCP => backend.accept(&poll, || {
                    let (socket, _) = tcp.accept()?;
                    socket.set_nodelay(true)?;
                    socket.set_nonblocking(true)?;
                    Ok(socket.into())
                })?,
                UNIX => backend.accept(&poll, || {
                    let (socket, _) = unix.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok(socket.into())
                })?,
                ORDERS => match orders.read()? {
                    Heard::Order(_) => Orders::answer(&backend.stats())?,
                    Heard::Nothing => {}
                    Heard::End => return Ok(()),
                },
                place => backend.serve(place as usize, ended),
            }
        }
    }
}

struct Backend {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    accepted: u64,
    upgraded: u64,
    echoed: u64,
}

/// One connection; its vectors own nothing while it is idle.
struct Connection {
    socket: OwnedFd,
    upgraded: bool,
    /// It was opened at `/…/take`: nothing comes back.
    takes: bool,
    /// The beginning of a head or a frame that has not come whole.
    unread: Vec<u8>,
    unsent: Vec<u8>,
    /// A Close has gone out: the socket is closed when all is sent.
    closing: bool,
}

impl Backend {
    fn new() -> Self {
        Self {
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; READ],
            accepted: 0,
            upgraded: 0,
            echoed: 0,
        }
    }

    fn stats(&self) -> serde_json::Value {
        json!({
            "open": self.connections.len() - self.free.len(),
            "accepted": self.accepted, "upgraded": self.upgraded, "echoed": self.echoed,
        })
    }

    fn accept(&mut self, poll: &Poll, mut next: impl FnMut() -> io::Result<OwnedFd>) -> Outcome {
        // A few of them and then the others' turn: the listener wakes again.
        for _ in 0..16 {
            let socket = match next() {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.add_edges(&socket, place as u64)?;
            let (unread, unsent) = (Vec::new(), Vec::new());
            self.connections[place] = Some(Connection {
                socket,
                upgraded: false,
                takes: false,
                unread,
                unsent,
                closing: false,
            });
            self.accepted += 1;
        }
        Ok(())
    }

    fn serve(&mut self, place: usize, ended: bool) {
        let Some(connection) = &mut self.connections[place] else { return };
        let was = connection.upgraded;
        let (lives, echoed) = connection.serve(&mut self.buffer, ended);
        self.echoed += echoed;
        self.upgraded += u64::from(!was && connection.upgraded);
        if !lives {
            self.connections[place] = None;
            self.free.push(place);
        }
    }
}

impl Connection {
    /// Reads and answers until it would block. Returns whether it lives, and how many messages went
    /// back.
    fn serve(&mut self, buffer: &mut [u8], ended: bool) -> (bool, u64) {
        let mut echoed = 0;
        if !self.unsent.is_empty() && !self.flush() {
            return (false, 0);
        }
        while !self.closing {
            let (read, room) = match self.read(buffer) {
                Ok((0, _)) => return (false, echoed),
                Ok(count) => count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => return (false, echoed),
            };
            // Unread bytes move to a vector of their own; all others stay in the shared buffer.
            let parsed = if self.unread.is_empty() {
                let parsed = self.answer(&mut buffer[..read]);
                if let Some((taken, _)) = parsed {
                    self.keep(&buffer[taken..read]);
                }
                parsed
            } else {
                let mut unread = mem::take(&mut self.unread);
                let parsed = self.answer(&mut unread);
                if let Some((taken, _)) = parsed
                    && taken < unread.len()
                {
                    unread.drain(..taken);
                    self.unread = unread;
                }
                parsed
            };
            let Some((_, count)) = parsed else { return (false, echoed) };
            echoed += count;
            if read < room && !ended {
                break;
            }
        }
        (!self.closing || !self.unsent.is_empty(), echoed)
    }

    /// How many bytes came, and for how many there was room.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(usize, usize), Errno> {
        if self.unread.is_empty() {
            return Ok((rustix::io::read(&self.socket, &mut *buffer)?, buffer.len()));
        }
        let missing = match Header::parse(&self.unread) {
            Some(head) if self.upgraded => {
                (head.size + head.length).saturating_sub(self.unread.len())
            }
            _ => 0,
        };
        self.unread.reserve(missing.max(4096));
        let room = self.unread.capacity() - self.unread.len();
        Ok((rustix::io::read(&self.socket, spare_capacity(&mut self.unread))?, room))
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        // Room for the whole frame at once.
        let whole = Header::parse(rest)
            .filter(|_| self.upgraded)
            .map_or(rest.len(), |head| head.size + head.length);
        self.unread = Vec::with_capacity(whole);
        self.unread.extend_from_slice(rest);
    }

    /// Answers every whole frame in `bytes`. Returns how many bytes were taken, and how many
    /// messages echoed. `None` means that it has failed.
    fn answer(&mut self, bytes: &mut [u8]) -> Option<(usize, u64)> {
        let (mut taken, mut echoed) = (0, 0);
        if self.takes {
            return Some((bytes.len(), 0));
        }
        if !self.upgraded {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Some((0, 0));
            };
            let answer = switching(&bytes[..end + 2])?;
            self.send(answer.as_bytes())?;
            self.upgraded = true;
            self.takes = bytes[..end].starts_with(b"GET /ws/take ");
            taken = end + 4;
            if self.takes {
                return Some((bytes.len(), 0));
            }
        }
        while let Some(head) = Header::parse(&bytes[taken..])
            && bytes.len() - taken >= head.size + head.length
        {
            let start = taken + head.size;
            let payload = start..start + head.length;
            taken = payload.end;
            frame::apply(&mut bytes[payload.clone()], head.mask?);
            let opcode = match head.opcode {
                CONTINUATION => return None,
                PING => PONG,
                PONG => continue,
                other => other,
            };
            echoed += u64::from(head.opcode <= BINARY && head.last);
            // The answer's header is moved up to the payload: it is shorter than the request's
            // header.
            let from = start - frame::bare_size(head.length);
            frame::write(&mut bytes[from..], opcode, head.length, false);
            self.send(&bytes[from..payload.end])?;
            if opcode == CLOSE {
                self.closing = true;
                break;
            }
        }
        Some((taken, echoed))
    }

    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        let sent = if self.unsent.is_empty() { written(self.socket.as_fd(), bytes)? } else { 0 };
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
        }
        Some(())
    }

    fn flush(&mut self) -> bool {
        let Some(sent) = written(self.socket.as_fd(), &self.unsent) else { return false };
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
        true
    }
}

/// Returns how many bytes the socket took before it would block. `None` means that it has failed.
pub fn written(socket: impl AsFd, bytes: &[u8]) -> Option<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match rustix::io::write(&socket, &bytes[sent..]) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(sent)
}

/// Returns the 101 for this head. `None` means that it is no handshake.
fn switching(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value.trim())
    })?;
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    ))
}

/// Proves that the key was read (RFC 6455 §4.2.2).
pub fn accept(key: &str) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest.finish().as_ref())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_accept_of_the_rfc_s_key_is_the_rfc_s() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
