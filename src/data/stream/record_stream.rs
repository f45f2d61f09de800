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
const RECORD_HEADER_BYTES: usize = 5;

/// A TCP stream whose TLS records are counted.
pub struct RecordStream {
    tcp: TcpStream,
    records: RecordCounter,
    /// Records since other tasks had their turn.
    since: usize,
    /// Records since the last call of [`RecordStream::take_records`].
    counted: usize,
}

impl RecordStream {
    /// Wraps `tcp`, of which nothing has been read yet.
    pub fn new(tcp: TcpStream) -> Self {
        RecordStream { tcp, records: RecordCounter::default(), since: 0, counted: 0 }
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

impl AsyncRead for RecordStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.since >= MAX_RECORDS {
            self.since = 0;
            turn::yield_after_io(cx);
            // `yield_after_io` wakes the task: no waker is left with the socket.
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

impl AsyncWrite for RecordStream {
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
struct RecordCounter {
    /// The next header, of which `has` bytes have come.
    header: [u8; RECORD_HEADER_BYTES],
    has: usize,
    /// Bytes of the current record that are still to come.
    body: usize,
}

impl RecordCounter {
    /// Returns how many headers `bytes` complete.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut records = 0;
        while !bytes.is_empty() {
            let body = self.body.min(bytes.len());
            self.body -= body;
            bytes = &bytes[body..];
            // A header may be split over reads. Bytes that are no record only spoil the count,
            // since rustls above refuses them.
            let more = (RECORD_HEADER_BYTES - self.has).min(bytes.len());
            self.header[self.has..self.has + more].copy_from_slice(&bytes[..more]);
            self.has += more;
            bytes = &bytes[more..];
            if self.has == RECORD_HEADER_BYTES {
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
    fn records_are_counted_at_any_split_of_the_stream() {
        let stream = [record(17), record(0), record(16_401), record(22)].concat();
        for size in [1, 4, 5, 6, 4096, stream.len()] {
            let mut records = RecordCounter::default();
            let count: usize = stream.chunks(size).map(|part| records.count(part)).sum();
            assert_eq!(count, 4, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn read_of_many_records_yields_and_continues() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut metered = RecordStream::new(tcp);
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
