//! The log: one line for each decision, one for each ending, and the actions of the control plane.
//!
//! No secret is logged (no query, no cookie, no key), and text off the wire is escaped where lines
//! are written. At any level only this program's own events are logged: traces of libraries may
//! hold whole heads. A slow or full sink loses lines, which are counted. The thread that logs never
//! blocks.

pub mod decision;
mod escape;
pub mod fields;
mod filter;
mod journald;
mod levels;
mod line;
mod sink;
pub mod throttle;

pub use self::filter::FilterError;
pub use self::levels::{LEVEL_TARGET, LogLevel, LogLevels};

use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use jiff::Timestamp;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::observe::log::journald::Journal;
use crate::observe::log::line::{LineFormat, LineLayer};
use crate::observe::log::sink::{Descriptor, Sink};

/// Lines that wait for a slow sink before further ones are dropped.
const MAX_QUEUED_LINES: usize = 16_384;

/// Time for writing the last lines at exit.
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_millis(1200);

/// The format of lines, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people, on standard error; in colours on a terminal.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// Native entries of the systemd journal, each field its own.
    Journald,
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum LogError {
    /// The journal's socket cannot be reached.
    NoJournal(io::Error),
    /// Standard error cannot be written to.
    NoDescriptor(io::Error),
    /// A subscriber is already installed in this process.
    AlreadyInstalled,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::NoJournal(error) => write!(
                f,
                "the journal cannot be reached at {}: {error}; leave `--log journald` out where \
                 no journald runs",
                journald::SOCKET_PATH
            ),
            LogError::NoDescriptor(error) => write!(f, "standard error cannot be used: {error}"),
            LogError::AlreadyInstalled => f.write_str("this process logs already"),
        }
    }
}

impl std::error::Error for LogError {}

impl LogFormat {
    /// Chooses the format by standard error: the journal's own form if it is the journal, text on a
    /// terminal, else JSON.
    pub fn detect() -> Self {
        let stderr = io::stderr();
        if journald::is_stream(&stderr, std::env::var_os("JOURNAL_STREAM"))
            // A sandbox may hide the socket although the stream is inherited; lines then go down
            // the stream.
            && Journal::open(journald::SOCKET_PATH).is_ok()
        {
            LogFormat::Journald
        } else if stderr.is_terminal() {
            LogFormat::Text
        } else {
            LogFormat::Json
        }
    }
}

/// The running log. Dropping it writes the lines that still wait.
pub struct Log {
    guard: Option<WorkerGuard>,
    handle: LogHandle,
}

/// What the rest of the process reads and changes of the log. Default: of a process without a log.
#[derive(Clone, Default)]
pub struct LogHandle {
    /// Number of dropped lines.
    pub drops: DropCounter,
    /// The filter of the level.
    pub levels: Arc<LogLevels>,
}

impl Log {
    /// Starts logging from a thread of its own, so that a slow or full sink never blocks traffic.
    /// `SIDEGATE_LOG` sets the filter (default `info`). Panics are logged instead of printed.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn start(format: LogFormat) -> Result<Log, LogError> {
        let lost = Arc::<AtomicU64>::default();
        let (shape, (writer, guard)) = match format {
            LogFormat::Journald => {
                let journal = Journal::open(journald::SOCKET_PATH).map_err(LogError::NoJournal)?;
                (
                    LineFormat::Journald,
                    worker(Sink::new(journal, Arc::clone(&lost)), MAX_QUEUED_LINES),
                )
            }
            LogFormat::Text | LogFormat::Json => {
                let stderr = Descriptor::stderr().map_err(LogError::NoDescriptor)?;
                let colours = io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
                let shape = if format == LogFormat::Json {
                    LineFormat::Json
                } else {
                    LineFormat::Text { colours }
                };
                (
                    shape,
                    worker(Sink::new(stderr, Arc::clone(&lost)).with_bursts(), MAX_QUEUED_LINES),
                )
            }
        };
        let drops = DropCounter { queue: Some(writer.error_counter()), sink: lost };
        let directives = std::env::var_os(filter::VARIABLE).unwrap_or_default();
        // Text that is not UTF-8 makes its directive invalid, and a warning below names it.
        let directives = directives.to_string_lossy();
        let (targets, invalid) = filter::parse(&directives);
        let text = if directives.trim().is_empty() { filter::DEFAULT } else { &directives };
        let levels = LogLevels::new(text.to_owned(), targets);
        let own = filter_fn(|metadata| filter::is_own(metadata.target()));
        let lines = LineLayer::new(shape, writer, Timestamp::now);
        tracing_subscriber::registry()
            .with(levels.layer())
            .with(own)
            .with(lines)
            .try_init()
            .map_err(|_| LogError::AlreadyInstalled)?;
        // The default hook prints to standard error from the panicking thread. A full pipe would
        // block the data plane there.
        std::panic::set_hook(Box::new(panicked));
        for directive in invalid {
            tracing::warn!(
                "{} is not a directive of SIDEGATE_LOG: ignored",
                directive.escape_debug()
            );
        }
        let handle = LogHandle { drops, levels: Arc::new(levels) };
        Ok(Log { guard: Some(guard), handle })
    }

    /// A handle to the number of dropped lines and to the filter.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }
}

impl Drop for Log {
    /// Waits for the last lines to be written, but not longer than `FINAL_FLUSH_TIMEOUT`.
    fn drop(&mut self) {
        let guard = self.guard.take();
        let (done, waits) = channel::<()>();
        // If lines still wait, the guard complains on standard output. That may block too, so it
        // runs in a thread of its own.
        let last = std::thread::Builder::new().name("log-end".into()).spawn(move || {
            drop(guard);
            drop(done);
        });
        // Without a new thread the closure was dropped here, and the guard with it.
        if last.is_ok() {
            // No value is ever sent: the drop of `done` ends the wait early.
            let _ = waits.recv_timeout(FINAL_FLUSH_TIMEOUT);
        }
    }
}

/// Starts the thread that writes to `sink`; at most `lines` wait for it.
fn worker(sink: Sink<impl io::Write + Send + 'static>, lines: usize) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(lines)
        .thread_name("log")
        .finish(sink)
}

fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(tracing::field::display);
    let error = panic.payload_as_str().unwrap_or("?");
    tracing::error!(thread = thread.name(), place, error, "panicked: a bug in sidegate");
}

/// Number of lines dropped so far. Clones share the count.
#[derive(Clone, Default)]
pub struct DropCounter {
    /// Lines dropped because the queue was full; `None` means nothing is logged.
    queue: Option<ErrorCounter>,
    /// Lines lost because a write to the sink failed.
    sink: Arc<AtomicU64>,
}

impl DropCounter {
    /// Lines dropped since the start; 0 if nothing is logged.
    pub fn count(&self) -> u64 {
        let queue = self.queue.as_ref().map_or(0, |counter| counter.dropped_lines() as u64);
        queue + self.sink.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::filter::is_own;

    #[test]
    fn events_of_other_crates_are_not_logged() {
        for (target, own) in [
            ("sidegate", true),
            ("sidegate::data", true),
            ("sidegateway", false),
            ("hyper::proto", false),
            ("", false),
        ] {
            assert_eq!(is_own(target), own, "{target}");
        }
    }
}
