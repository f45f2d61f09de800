//! Takes a PROXY header off a socket, and not one byte more.
//!
//! What follows stays with the kernel, for TLS or HTTP to read as if no header had been there.

use std::fmt;
use std::future::poll_fn;
use std::io;

use rustix::net::RecvFlags;

use crate::data::proxy_protocol::fault::{HeaderFault, MAX_HEADER_BYTES};
use crate::data::proxy_protocol::header;
use crate::data::stream::buffers;
use crate::data::stream::socket::Socket;
use crate::policy::proxied::ProxiedConnection;

/// Why there is no header. Displays as a sentence for the log.
#[derive(Debug)]
pub enum ReadFault {
    /// The connection ended before its first byte: a health check.
    NoBytes,
    /// The connection ended within the header.
    Truncated,
    /// The socket failed within the header.
    Io(io::Error),
    /// There is no header, or it is malformed.
    Header(HeaderFault),
}

impl fmt::Display for ReadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadFault::NoBytes => f.write_str("the connection ended before its first byte"),
            ReadFault::Truncated => f.write_str("the connection ended within the PROXY header"),
            ReadFault::Io(error) => write!(f, "the PROXY header could not be read: {error}"),
            ReadFault::Header(fault) => fault.fmt(f),
        }
    }
}

/// One look at what has arrived.
enum Step {
    /// The header is whole.
    Done(Box<ProxiedConnection>),
    /// These bytes, the first of the header, were taken off the socket.
    Partial(Vec<u8>),
    /// The connection has ended.
    Ended,
}

/// Reads the header at the start of a connection. The caller bounds the wait.
pub async fn read_header(socket: &Socket) -> Result<Box<ProxiedConnection>, ReadFault> {
    let mut held = Vec::new();
    loop {
        let step = match poll_fn(|cx| socket.poll_read_ready(cx)).await {
            Ok(()) => socket.try_read(|| step(socket, &held)),
            Err(error) => Err(error),
        };
        match step {
            Ok(Ok(Step::Done(connection))) => return Ok(connection),
            Ok(Ok(Step::Partial(bytes))) => held = bytes,
            Ok(Ok(Step::Ended)) if held.is_empty() => return Err(ReadFault::NoBytes),
            Ok(Ok(Step::Ended)) => return Err(ReadFault::Truncated),
            Ok(Err(fault)) => return Err(ReadFault::Header(fault)),
            // `try_io` has cleared the readiness.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A balancer's check ends by a reset, so that its side keeps no TIME_WAIT.
            Err(_) if held.is_empty() => return Err(ReadFault::NoBytes),
            Err(error) => return Err(ReadFault::Io(error)),
        }
    }
}

/// Looks at what has arrived behind `held`, and takes off what belongs to the header.
fn step(socket: &Socket, held: &[u8]) -> io::Result<Result<Step, HeaderFault>> {
    buffers::lend(|buffers| {
        // The thread's buffer: a peer that says nothing holds no memory.
        let buffer = &mut buffers.cipher[..MAX_HEADER_BYTES];
        // A header may come byte by byte. The parser keeps no state, so that it reads all bytes
        // again. There is always room: it refuses a header that would not fit, and a read of no
        // bytes would look like the end of the stream.
        let (before, room) = buffer.split_at_mut(held.len());
        before.copy_from_slice(held);
        let (_, came) = rustix::net::recv(socket, room, RecvFlags::PEEK)?;
        if came == 0 {
            return Ok(Ok(Step::Ended));
        }
        let all = before.len() + came;
        let (found, belongs) = match header::parse(&buffer[..all]) {
            Ok(Some((connection, length))) => (Some(connection), length),
            // Taken off although more has to come: what stays keeps the socket readable, and the
            // loop would spin until the rest arrives.
            Ok(None) => (None, all),
            Err(fault) => return Ok(Err(fault)),
        };
        // What was peeked at is there to be taken, in one piece.
        let own = &mut buffer[held.len()..belongs];
        let (_, taken) = rustix::net::recv(socket, &mut *own, RecvFlags::empty())?;
        if taken != own.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Ok(match found {
            Some(connection) => Step::Done(Box::new(connection)),
            None => Step::Partial(buffer[..all].to_vec()),
        }))
    })
}
