//! A TCP stream below TLS to a backend, which counts the records that come and gives way after so
//! many of them.
//!
//! A read of tokio-rustls goes on until there is application data, so that a backend that sends
//! KeyUpdates or empty records could hold the thread for as long as it likes. Only the headers of
//! the records are read here (RFC 8446 §5.1).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::data::stream::turn;

/// Records that may come before the other tasks of the thread get their turn.
const MAX_RECORDS: usize = 64;

/// Length of a record's header in bytes: type, version, length.
const HEADER: usize = 5;

/// A TCP stream whose TLS records are counted.
pub struct Metered {
    tcp: TcpStream,
    records: Records,
    /// Records since other tasks had their turn.
    since: usize,
    /// Records since the last call of [`Metered::take_records`].
    counted: usize,
}

impl Metered {
    /// Wraps `tcp`, of which nothing has been read yet.
    pub fn new(tcp: TcpStream) -> Self {
        Metered { tcp, records: Records::default(), since: 0, counted: 0 }
    }

    /// The TCP stream itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// How many records have come since the last call.
    pub fn take_records(&mut self) -> usize {
        // The caller's turn has them from here on.
        self.since = 0;
        std::mem::take(&mut self.counted)
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.since >= MAX_RECORDS {
            self.since = 0;
            turn::give_way(cx);
            // `give_way` wakes the task: no waker is left with the socket.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        let came = self.records.count(&buffer.filled()[before..]);
        self.since += came;
        self.counted += came;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Finds where records begin in a stream.
#[derive(Debug, Default)]
struct Records {
    /// The next header, of which `has` bytes have come.
    header: [u8; HEADER],
    has: usize,
    /// Bytes of the current record that are still to come.
    body: usize,
}

impl Records {
    /// Returns how many headers `bytes` complete.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut records = 0;
        while !bytes.is_empty() {
            let body = self.body.min(bytes.len());
            self.body -= body;
            bytes = &bytes[body..];
            let more = (HEADER - self.has).min(bytes.len());
            self.header[self.has..self.has + more].copy_from_slice(&bytes[..more]);
            self.has += more;
            bytes = &bytes[more..];
            if self.has == HEADER {
                let [_, _, _, high, low] = self.header;
                self.body = u16::from_be_bytes([high, low]).into();
                self.has = 0;
                records += 1;
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn record(body: usize) -> Vec<u8> {
        [&[23, 3, 3][..], &(body as u16).to_be_bytes(), &vec![23; body]].concat()
    }

    #[test]
    fn records_are_counted_however_the_stream_is_cut() {
        let stream = [record(17), record(0), record(16_401), record(22)].concat();
        for size in [1, 4, 5, 6, 4096, stream.len()] {
            let mut records = Records::default();
            let count: usize = stream.chunks(size).map(|part| records.count(part)).sum();
            assert_eq!(count, 4, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn read_of_many_records_gives_way_and_goes_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut metered = Metered::new(tcp);
        let mut read = async |size: usize| {
            let (mut room, mut gave_way) = ([0; 22 * MAX_RECORDS], false);
            let mut read = ReadBuf::new(&mut room[..size]);
            while read.remaining() > 0 {
                std::future::poll_fn(|cx| {
                    let is_over = metered.since >= MAX_RECORDS;
                    let polled = Pin::new(&mut metered).poll_read(cx, &mut read);
                    assert!(!is_over || polled.is_pending(), "others have their turn");
                    gave_way |= is_over;
                    polled
                })
                .await
                .unwrap();
            }
            gave_way
        };
        peer.write_all(&record(17).repeat(MAX_RECORDS)).unwrap();
        assert!(!read(22 * MAX_RECORDS).await);
        peer.write_all(&record(1)).unwrap();
        assert!(read(6).await);
        assert_eq!((metered.take_records(), metered.take_records()), (MAX_RECORDS + 1, 0));
    }
}
