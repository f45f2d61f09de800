//! Bytes that a socket would not take yet, in order; no memory while there are none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::data::stream::socket::Socket;

/// Room for all that a TLS handshake sends at once, with a small certificate: it comes piece by
/// piece.
const INITIAL_CAPACITY: usize = 1024;

/// The bytes that wait for one socket.
#[derive(Default)]
pub struct SendBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` the socket has taken.
    from: usize,
}

impl SendBuffer {
    /// Whether no bytes wait; the socket may still hold some.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds `length` bytes at the end, for the caller to fill.
    pub fn reserve(&mut self, length: usize) -> &mut [u8] {
        let from = self.bytes.len();
        if from == 0 {
            self.bytes.reserve(length.max(INITIAL_CAPACITY));
        }
        self.bytes.resize(from + length, 0);
        &mut self.bytes[from..]
    }

    /// Writes `bytes` behind the bytes that wait, and keeps the part that `socket` does not take;
    /// returns how many went out.
    pub fn write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        self.put(bytes, |bytes| write(bytes, |left| socket.poll_send(cx, left)))
    }

    /// As [`SendBuffer::write`]. FIN follows, in the same segment where all bytes go out.
    pub fn write_last(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        self.put(bytes, |bytes| write(bytes, |left| socket.poll_send_last(cx, left)))
    }

    fn put(
        &mut self,
        bytes: &[u8],
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // Behind bytes that wait, nothing is tried: `flush` sends all of them in order.
        let sent = if self.is_empty() { write(bytes)? } else { 0 };
        self.bytes.extend_from_slice(&bytes[sent..]);
        Ok(sent)
    }

    /// Writes the bytes that wait, here and in the socket itself; returns how many of those here it
    /// took.
    pub fn flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> io::Result<usize> {
        if self.is_empty() {
            if socket.has_buffered() {
                // Pending is no error: `Socket::has_buffered` tells the caller that bytes are left.
                let _ = Pin::new(socket).poll_flush(cx)?;
            }
            return Ok(0);
        }
        let sent = write(&self.bytes[self.from..], |left| socket.poll_send(cx, left))?;
        self.from += sent;
        if self.from == self.bytes.len() {
            // A connection with nothing to send keeps no buffer.
            *self = SendBuffer::default();
        }
        Ok(sent)
    }
}

/// Writes until all of `bytes` has gone or the socket takes no more; returns how many it took.
fn write(
    bytes: &[u8],
    mut poll_send: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match poll_send(&bytes[sent..])? {
            // The slice is never empty here, so 0 means that the socket takes no more, ever.
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(taken) => sent += taken,
            // `poll_send` has registered the waker, and a later flush goes on from here.
            Poll::Pending => break,
        }
    }
    Ok(sent)
}
