//! `sidegate status`: the state of the running agent, on one screen or as JSON.

mod screen;
mod table;
mod words;

use std::io;
use std::time::Duration;

use crate::cli::ask;
use crate::cli::configuration::Config;
use crate::cli::exit::Exit;
use crate::cli::output::{complain, is_colored, say_json, say_painted};
use sidegate::admin::wire::StatusRequest;

/// Time for the agent's answer. A status is made at once: an agent that takes longer hangs.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments.
#[derive(clap::Args)]
pub struct Status {
    #[command(flatten)]
    config: Config,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the status. Ends with 1 if no agent could be asked.
pub fn status(verb: &Status) -> Exit {
    match ask::ask(&verb.config.config, &StatusRequest, STATUS_TIMEOUT) {
        Ok(answer) if verb.json => say_json(&answer),
        Ok(answer) => say_painted(screen::screen(&answer, is_colored(&io::stdout())).trim_end()),
        Err(failure) => {
            complain(failure);
            return Exit::No;
        }
    }
    Exit::Yes
}
