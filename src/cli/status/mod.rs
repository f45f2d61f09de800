//! `sidegate status`: the state of the running agent, on one screen or as JSON.

pub mod format;
mod screen;
pub mod table;

use std::io;
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{is_colored, print_colored, print_error, print_json};
use sidegate::admin::wire::StatusRequest;

/// Time for the agent's answer. A status is made at once: an agent that takes longer hangs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate status`.
#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the status. Ends with 1 if no agent could be asked.
pub fn status(verb: &StatusArgs) -> Exit {
    match admin_client::ask(&verb.config.config, &StatusRequest, STATUS_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print_colored(screen::screen(&answer, is_colored(&io::stdout())).trim_end()),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}
