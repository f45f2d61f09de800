//! `sidegate status`: how the running agent stands, on one screen or as JSON.

mod screen;
mod table;
mod words;

use std::io;
use std::time::Duration;

use http::Method;

use crate::cli::{Config, Exit, ask, complain, is_colored, say};

/// A status is made at once: an agent that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The arguments.
#[derive(clap::Args)]
pub struct Status {
    #[command(flatten)]
    config: Config,
    /// Print what the admin socket answers, for programs.
    #[arg(long)]
    json: bool,
}

/// Asks and prints; 1 where nobody could be asked.
pub fn status(verb: &Status) -> Exit {
    match ask::ask(&verb.config.config, &Method::GET, "/v1/status", PATIENCE) {
        Ok(answer) if verb.json => say(format_args!("{answer:#}")),
        Ok(answer) => say(screen::screen(&answer, is_colored(&io::stdout())).trim_end()),
        Err(what) => {
            complain(what);
            return Exit::No;
        }
    }
    Exit::Yes
}
