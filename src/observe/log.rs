//! The log: one line for each decision, one for each ending, and what the
//! control plane did. Nothing secret goes in (no query, no cookie, no key), and
//! what came off the wire is escaped by the formatter.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How many lines wait for a slow sink before further ones are dropped.
const WAITING_LINES: usize = 16_384;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people, on a terminal.
    Text,
    /// One JSON object a line, for everything else.
    Json,
}

impl Format {
    /// Text on a terminal, JSON otherwise.
    pub fn fitting() -> Self {
        if io::stderr().is_terminal() { Format::Text } else { Format::Json }
    }
}

/// The running log; lines that wait are written when it is dropped.
pub struct Log {
    _guard: WorkerGuard,
    drops: ErrorCounter,
}

impl Log {
    /// Starts logging to standard error from a thread of its own, so that a slow
    /// or full sink never blocks a byte. `SIDEGATE_LOG` filters (`info` otherwise).
    ///
    /// # Errors
    /// If this process logs already.
    pub fn start(format: Format) -> Result<Log, Box<dyn std::error::Error + Send + Sync>> {
        let (writer, guard) = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(io::stderr());
        let drops = writer.error_counter();
        let filter = EnvFilter::builder()
            .with_env_var("SIDEGATE_LOG")
            .with_default_directive(tracing::Level::INFO.into())
            .from_env_lossy();
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
        match format {
            Format::Text => lines.with_ansi(io::stderr().is_terminal()).try_init()?,
            Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()?,
        }
        Ok(Log { _guard: guard, drops })
    }

    /// Counts the lines that were dropped so far.
    pub fn drops(&self) -> Drops {
        Drops(Some(self.drops.clone()))
    }
}

/// Counts dropped lines.
#[derive(Clone, Default)]
pub struct Drops(Option<ErrorCounter>);

impl Drops {
    /// How many lines were dropped since the start; 0 where nothing is logged.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |counter| counter.dropped_lines() as u64)
    }
}
