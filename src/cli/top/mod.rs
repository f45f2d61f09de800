//! `sidegate top`: rates, tunnels, clients and refusals of the running agent, as they change.

mod app;
mod draw;
mod layout;
mod panels;
mod spark;
mod summary;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal};
use std::time::Duration;

use jiff::Timestamp;

use self::app::App;
use self::terminal::Polling;
use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::duration_arg::duration;
use crate::cli::exit::Exit;
use crate::cli::output::{is_colored, print, print_error, print_json};
use sidegate::admin::wire::{DEFAULT_ROWS, MAX_ROWS, OverviewRequest};

/// Time for the agent's answer.
const TOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate top`.
#[derive(clap::Args)]
pub struct TopArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The time between two looks, like 1s or 10s.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    interval: Duration,
    /// Print one screen as plain text and end; implied where output is not a terminal.
    #[arg(long)]
    once: bool,
    /// Show at most so many rows of each table with --once and --json.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS as u32,
        value_parser = clap::value_parser!(u32).range(1..=MAX_ROWS as i64))]
    rows: u32,
    /// Print the admin socket's answer as JSON and end.
    #[arg(long)]
    json: bool,
}

/// Shows what the agent does until a key ends it, or once. Ends with 1 if no agent could be asked,
/// or the terminal cannot be used.
pub fn top(verb: &TopArgs) -> Exit {
    if verb.json || verb.once || !is_screen() {
        return once(verb);
    }
    let request = OverviewRequest { rows: MAX_ROWS, short: false };
    let polling = Polling {
        config: verb.config.config.clone(),
        request,
        interval: verb.interval,
        patience: TOP_TIMEOUT,
    };
    match terminal::run(polling, is_colored(&io::stdout())) {
        Ok(()) => Exit::Success,
        Err(error) => {
            print_error(format!("the terminal cannot be used: {error}; use --once"));
            Exit::Failure
        }
    }
}

/// Whether standard output is a terminal that can show a screen.
fn is_screen() -> bool {
    let term = std::env::var_os("TERM").unwrap_or_default();
    io::stdout().is_terminal() && !term.is_empty() && term != "dumb"
}

fn once(verb: &TopArgs) -> Exit {
    let request = OverviewRequest { rows: verb.rows as usize, short: false };
    match admin_client::ask(&verb.config.config, &request, TOP_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => {
            let mut app = App::default();
            app.answered(Ok(answer), Timestamp::now());
            print(draw::plain(&app));
        }
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}
