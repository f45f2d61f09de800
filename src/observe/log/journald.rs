//! The systemd journal, in its native protocol: one datagram is one entry.
//!
//! Escaped values hold no newline, so the protocol's binary form is never needed. The socket is not
//! connected: after a restart of the journal, the next line finds it at the same path.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where the journal listens (systemd.journal-fields(7)).
pub const SOCKET_PATH: &str = "/run/systemd/journal/socket";

/// The journal's socket; each write is one entry.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal that listens at `path`.
    ///
    /// # Errors
    /// If no socket listens there, or this process may not connect to it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        // A probe only. The socket in use stays unconnected: it finds a restarted journal by path.
        UnixDatagram::unbound()?.connect(&path)?;
        Ok(Journal { socket: UnixDatagram::unbound()?, path: path.as_ref().to_owned() })
    }
}

impl Write for Journal {
    /// Sends an entry whole or not at all. Blocks while the journal is busy; only the log's own
    /// thread calls it.
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        // `line` bounds an entry to some 20 KiB. It fits into a datagram, so no memfd has to carry
        // it.
        self.socket.send_to(entry, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether `file` is the stream that systemd names in `$JOURNAL_STREAM` as `device:inode`
/// (systemd.exec(5)).
pub fn is_stream(file: impl AsFd, named: Option<OsString>) -> bool {
    let Some(named) = named.and_then(|named| named.into_string().ok()) else { return false };
    rustix::fs::fstat(file).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;
    use tempfile::TempDir;
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::line::{LineFormat, LineLayer};
    use super::super::sink::Sink;
    use super::super::worker;

    /// A journal that a test reads.
    fn listening(folder: &TempDir) -> UnixDatagram {
        let path = folder.path().join("socket");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        socket
    }

    fn next(journal: &UnixDatagram) -> String {
        let mut entry = [0; 65_536];
        let length = journal.recv(&mut entry).unwrap();
        String::from_utf8(entry[..length].to_vec()).unwrap()
    }

    #[test]
    fn an_event_is_an_entry_with_its_fields() {
        let folder = TempDir::new().unwrap();
        let journal = listening(&folder);
        let sink = Sink::new(Journal::open(folder.path().join("socket")).unwrap(), Arc::default());
        let (writer, _guard) = worker(sink, 16);
        let subscriber = tracing_subscriber::registry().with(LineLayer::new(
            LineFormat::Journald,
            writer,
            Timestamp::now,
        ));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(request_id = "abc", path = "/a b", "refused");
        });
        let fields: Vec<_> = next(&journal).lines().map(str::to_owned).collect();
        let message = "MESSAGE=refused request_id=abc path=\"/a b\"";
        assert_eq!(
            fields,
            ["PRIORITY=4", "SYSLOG_IDENTIFIER=sidegate", message, "REQUEST_ID=abc", "PATH=/a b"]
        );
    }

    #[test]
    fn returning_journal_gets_later_entries() {
        let folder = TempDir::new().unwrap();
        let first = listening(&folder);
        let lost = Arc::<AtomicU64>::default();
        let mut sink =
            Sink::new(Journal::open(folder.path().join("socket")).unwrap(), Arc::clone(&lost));
        sink.write_all(b"MESSAGE=1\n").unwrap();
        assert_eq!(next(&first), "MESSAGE=1\n");
        drop(first);
        sink.write_all(b"MESSAGE=2\n").unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), 1);
        let second = listening(&folder);
        sink.write_all(b"MESSAGE=3\n").unwrap();
        assert_eq!((next(&second).as_str(), lost.load(Ordering::Relaxed)), ("MESSAGE=3\n", 1));
    }

    #[test]
    fn journal_without_a_listener_is_an_error() {
        let folder = TempDir::new().unwrap();
        assert!(Journal::open(folder.path().join("socket")).is_err());
        drop(listening(&folder));
        assert!(
            Journal::open(folder.path().join("socket")).is_err(),
            "a socket that its journal left behind"
        );
    }

    #[test]
    fn stderr_is_the_journal_only_when_journal_stream_names_it() {
        let file = tempfile::tempfile().unwrap();
        let stat = file.metadata().unwrap();
        let named =
            |device: u64, inode: u64| is_stream(&file, Some(format!("{device}:{inode}").into()));
        assert!(named(stat.dev(), stat.ino()));
        assert!(!named(stat.dev(), stat.ino() + 1) && !named(stat.dev() + 1, stat.ino()));
        assert!(!is_stream(&file, None) && !is_stream(&file, Some("".into())));
    }
}
