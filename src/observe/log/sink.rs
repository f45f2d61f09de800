//! Where lines go, seen from the thread that writes them: it may wait there, and nobody else does.
//!
//! A line that is not taken is lost and counted; a sink that fails is tried again with the next.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How long a descriptor that somebody made non-blocking is given before it is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// Counts what its inner sink doesn't take, and never fails itself.
pub struct Sink<W> {
    inner: W,
    lost: Arc<AtomicU64>,
}

impl<W> Sink<W> {
    /// Writes to `inner`; lines that are lost are added to `lost`.
    pub fn new(inner: W, lost: Arc<AtomicU64>) -> Self {
        Sink { inner, lost }
    }
}

impl<W: Write> Write for Sink<W> {
    /// One call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.inner.write_all(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A descriptor of our own, past the lock of the standard library's: who waits in a full pipe holds nothing
/// that another thread may want.
pub struct Descriptor(File);

impl Descriptor {
    /// Where standard error goes.
    ///
    /// # Errors
    /// If it cannot be duplicated.
    pub fn stderr() -> io::Result<Self> {
        Ok(Descriptor(io::stderr().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                // The parent shares the pipe, and may have made it so for itself.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
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

    use super::super::{Drops, worker};

    fn lost(lost: &Arc<AtomicU64>) -> u64 {
        lost.load(Ordering::Relaxed)
    }

    #[test]
    fn a_pipe_that_nobody_reads_any_more_loses_lines_and_counts_them() {
        let (reader, writer) = io::pipe().unwrap();
        let count = Arc::default();
        let mut sink = Sink::new(Descriptor(std::os::fd::OwnedFd::from(writer).into()), Arc::clone(&count));
        sink.write_all(b"read\n").unwrap();
        assert_eq!(lost(&count), 0);
        drop(reader);
        sink.write_all(b"lost\n").unwrap();
        sink.write_all(b"lost as well\n").unwrap();
        assert_eq!(lost(&count), 2);
    }

    #[test]
    fn a_pipe_that_somebody_made_non_blocking_gets_every_line_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let flags = rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&writer, flags).unwrap();
        let count = Arc::default();
        let mut sink = Sink::new(Descriptor(std::os::fd::OwnedFd::from(writer).into()), Arc::clone(&count));
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
    fn a_sink_that_takes_nothing_makes_nobody_wait() {
        let (take, slow) = mpsc::channel();
        let (mut writer, guard) = worker(Sink::new(Slow(slow), Arc::default()), 4);
        let drops = Drops { queue: Some(writer.error_counter()), sink: Arc::default() };
        for _ in 0..1000 {
            writer.write_all(b"line\n").unwrap();
        }
        // Four wait, and the thread may hold one.
        assert!((995..=996).contains(&drops.count()), "{}", drops.count());
        drop(take);
        drop(guard);
    }
}
