//! The sinks of log lines. Only the log's own thread writes to them, so only that thread may block.
//!
//! Lines that arrive in a burst are written together. A line whose write fails is lost and counted;
//! the next one tries the sink again.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Pause before a full non-blocking descriptor is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Most bytes of lines written together. A pipe keeps writes of this size whole, whatever other
/// processes write (pipe(7), `PIPE_BUF`).
const MAX_BURST_BYTES: usize = 4096;

/// Counts the lines whose write to the inner sink fails; never fails itself.
pub struct Sink<W> {
    inner: W,
    lost: Arc<AtomicU64>,
    /// Lines of the current burst, not yet written; `lines` is their number.
    burst: Vec<u8>,
    lines: u64,
    /// Most bytes of a burst; 0 means each line is written by itself.
    max: usize,
}

impl<W: Write> Sink<W> {
    /// Writes each line to `inner` by itself, and adds lost lines to `lost`.
    pub fn new(inner: W, lost: Arc<AtomicU64>) -> Self {
        Sink { inner, lost, burst: Vec::new(), lines: 0, max: 0 }
    }

    /// Writes the lines of a burst at once. For inner sinks that are byte streams.
    pub fn with_bursts(self) -> Self {
        Sink { max: MAX_BURST_BYTES, ..self }
    }

    fn put(&mut self, line: &[u8]) {
        if self.inner.write_all(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&mut self) {
        if self.lines > 0 && self.inner.write_all(&self.burst).is_err() {
            // `write_all` doesn't say how much it wrote, so all lines of the burst count as lost.
            self.lost.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.burst.clear();
        self.lines = 0;
    }
}

impl<W: Write> Write for Sink<W> {
    /// Takes exactly one line per call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A long line also ends the burst before it, so that lines keep their order.
        if self.burst.len() + line.len() > self.max {
            self.send();
        }
        // Longer than any burst, or bursts are off (`max` is 0).
        if line.len() > self.max {
            self.put(line);
        } else {
            self.burst.extend_from_slice(line);
            self.lines += 1;
        }
        Ok(line.len())
    }

    /// Ends a burst. The appender's worker calls it when no further line waits.
    fn flush(&mut self) -> io::Result<()> {
        self.send();
        Ok(())
    }
}

/// A duplicated descriptor, without the lock of `std::io::Stderr`: a thread that blocks in a full
/// pipe holds no lock that another thread may need.
pub struct Descriptor(File);

impl Descriptor {
    /// Duplicates standard error.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub fn stderr() -> io::Result<Self> {
        Ok(Descriptor(io::stderr().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // `O_NONBLOCK` belongs to the open file description, which the parent shares and
                // may have set.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(RETRY_INTERVAL);
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::mpsc;

    use super::super::{DropCounter, worker};

    fn lost(lost: &Arc<AtomicU64>) -> u64 {
        lost.load(Ordering::Relaxed)
    }

    #[test]
    fn unread_pipe_loses_lines_and_counts_them() {
        let (reader, writer) = io::pipe().unwrap();
        let count = Arc::default();
        let mut sink =
            Sink::new(Descriptor(std::os::fd::OwnedFd::from(writer).into()), Arc::clone(&count));
        sink.write_all(b"read\n").unwrap();
        assert_eq!(lost(&count), 0);
        drop(reader);
        sink.write_all(b"lost\n").unwrap();
        sink.write_all(b"lost as well\n").unwrap();
        assert_eq!(lost(&count), 2);
    }

    #[test]
    fn burst_is_written_together_and_lost_line_by_line() {
        let (mut reader, writer) = io::pipe().unwrap();
        let count = Arc::default();
        let mut sink =
            Sink::new(Descriptor(std::os::fd::OwnedFd::from(writer).into()), Arc::clone(&count))
                .with_bursts();
        let long = format!("{}\n", "x".repeat(MAX_BURST_BYTES));
        for line in ["one\n", "two\n", &*long, "three\n"] {
            sink.write_all(line.as_bytes()).unwrap();
        }
        sink.flush().unwrap();
        let mut read = vec![0; 8 + long.len() + 6];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read, format!("one\ntwo\n{long}three\n").into_bytes());
        drop(reader);
        sink.write_all(b"lost\n").unwrap();
        sink.write_all(b"lost as well\n").unwrap();
        assert_eq!(lost(&count), 0);
        sink.flush().unwrap();
        assert_eq!(lost(&count), 2);
    }

    #[test]
    fn non_blocking_pipe_gets_every_line_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let flags = rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        let count = Arc::default();
        let mut sink =
            Sink::new(Descriptor(std::os::fd::OwnedFd::from(writer).into()), Arc::clone(&count));
        let line = vec![b'x'; 300 * 1024]; // more than a pipe holds
        let expected = line.len();
        let writes = thread::spawn(move || sink.write_all(&line).unwrap());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writes.join().unwrap();
        assert_eq!((read.len(), lost(&count)), (expected, 0));
    }

    /// Takes a line each time it is told to.
    struct Slow(mpsc::Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_sink_delays_no_caller() {
        let (take, slow) = mpsc::channel();
        let (mut writer, guard) = worker(Sink::new(Slow(slow), Arc::default()), 4);
        let drops = DropCounter { queue: Some(writer.error_counter()), sink: Arc::default() };
        for _ in 0..1000 {
            writer.write_all(b"line\n").unwrap();
        }
        // Four wait, and the thread may hold one.
        assert!((995..=996).contains(&drops.count()), "{}", drops.count());
        drop(take);
        drop(guard);
    }
}
