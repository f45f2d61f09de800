//! `sidegate run`: serves until SIGTERM or SIGINT, of which a second one ends at once. SIGHUP
//! reloads.

use std::path::Path;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{print_diagnostics, print_error};
use sidegate::addresses::BoundAddress;
use sidegate::control::resolve::Lookup;
use sidegate::control::systemd::PassedSockets;
use sidegate::data::http::head::HeadReader;
use sidegate::handover::taker::{self, Takeover};
use sidegate::observe::log::{Log, LogFormat};
use sidegate::{Agent, StartError};

/// The signals that [`serve`] handles, each with its meaning.
pub const HANDLED_SIGNALS: [(&str, &str); 3] = [
    ("SIGHUP", "reload; refused while draining"),
    (
        "SIGTERM",
        "drain: stop accepting, close the tunnels over [shutdown] spread, exit; a second signal \
         exits at once",
    ),
    ("SIGINT", "same as SIGTERM"),
];

/// Arguments of `sidegate run`.
#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The log format. `auto` is `journald` if standard error is the journal, `text` on a terminal,
    /// else `json`.
    #[arg(long, value_enum, default_value = "auto")]
    log: LogFormatArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormatArg {
    Auto,
    Text,
    Json,
    Journald,
}

/// Starts the log and the agent, and serves until the drain has ended.
pub fn run(verb: &RunArgs) -> Exit {
    let format = match verb.log {
        LogFormatArg::Auto => LogFormat::detect(),
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
        LogFormatArg::Journald => LogFormat::Journald,
    };
    let log = match Log::start(format) {
        Ok(log) => log,
        Err(error) => {
            print_error(format_args!("the log cannot be opened: {error}"));
            return Exit::Unavailable;
        }
    };
    let (takeover, passed) = match sockets(&verb.config.config) {
        Ok(found) => found,
        Err(what) => {
            print_error(what);
            return Exit::Config;
        }
    };
    let heads = match HeadReader::named(std::env::var_os(HeadReader::VARIABLE).as_deref()) {
        Ok(heads) => heads,
        Err(what) => {
            print_error(what);
            return Exit::Config;
        }
    };
    if heads == HeadReader::Hyper {
        tracing::warn!("SIDEGATE_HEADS=hyper: hyper reads the first head of each connection too");
    }
    let (config, log) = (&verb.config.config, log.handle());
    let started = match takeover {
        None => Agent::start(config, passed, log, heads, Lookup::default()),
        Some(takeover) if takeover.offer.is_trial => {
            return match Agent::try_start(config, &passed, takeover) {
                Ok(()) => Exit::Success,
                Err(error) => start_failed(&error),
            };
        }
        Some(takeover) => Agent::take_over(config, passed, log, heads, Lookup::default(), takeover),
    };
    match started {
        Ok(agent) => serve(agent, log_addresses),
        Err(error) => start_failed(&error),
    }
}

/// The offer of a former process with its sockets, or the sockets from systemd.
fn sockets(config: &Path) -> Result<(Option<Takeover>, PassedSockets), String> {
    Ok(match taker::receive(config)? {
        Some((takeover, passed)) => (Some(takeover), passed),
        None => (None, PassedSockets::from_env()?),
    })
}

/// Prints why the agent did not start, and returns the exit code.
pub fn start_failed(error: &StartError) -> Exit {
    match error {
        StartError::InvalidFiles(diagnostics) => {
            print_diagnostics(diagnostics);
            print_error("not started: the configuration has errors");
            Exit::Config
        }
        StartError::Unavailable(what) => {
            print_error(what);
            Exit::Unavailable
        }
    }
}

/// Logs the addresses that the agent listens on.
fn log_addresses(agent: &Agent) {
    if let Some(address) = agent.metrics() {
        tracing::info!(%address, "serving metrics");
    }
    if let Some(address) = agent.page() {
        tracing::info!(%address, "serving the page /status");
    }
    for BoundAddress { listener, address } in agent.listeners().iter() {
        tracing::info!(%listener, %address, "listening");
    }
}

/// Handles signals until the agent has ended. `announce` is called as soon as they are handled.
pub fn serve(mut agent: Agent, announce: impl FnOnce(&Agent)) -> Exit {
    let runtime = match Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("the signal handler cannot be started: {error}"));
            return Exit::Unavailable;
        }
    };
    let served: std::io::Result<()> = runtime.block_on(async {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        announce(&agent);
        // After the handlers above: from here on systemd may send SIGHUP or SIGTERM.
        agent.ready();
        loop {
            tokio::select! {
                () = agent.ended() => return Ok(()),
                _ = hangup.recv() => agent.request_reload(),
                // A second signal arrives here again, and `drain` then cuts the rest.
                _ = terminate.recv() => agent.drain(),
                _ = interrupt.recv() => agent.drain(),
            }
        }
    });
    match served {
        Ok(()) => Exit::Success,
        Err(error) => {
            print_error(format_args!("signals cannot be handled: {error}"));
            Exit::Unavailable
        }
    }
}
