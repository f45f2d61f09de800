//! `sidegate bans`: the bans in force.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, print_json};
use sidegate::admin::wire::{BanStatus, BansRequest};
use sidegate::observe::printable;

/// Time for the agent's answer.
const BANS_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate bans`.
#[derive(clap::Args)]
pub struct BansArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the bans, one a line.
pub fn bans(verb: &BansArgs) -> Exit {
    match admin_client::ask(&verb.config.config, &BansRequest, BANS_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => {
            if answer.bans.is_empty() {
                print("no bans are in force");
            }
            answer.bans.iter().for_each(|ban| print(line(ban)));
            answer.faults.iter().for_each(|fault| print_error(printable::line(fault)));
        }
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

/// A ban on one line.
pub fn line(ban: &BanStatus) -> String {
    let BanStatus { target, until, why, origin, by, .. } = ban;
    let until = until.map_or_else(|| "for ever".to_owned(), |until| format!("until {until}"));
    let by = by.map(|uid| format!(" (uid {uid})")).unwrap_or_default();
    let text = format!("{target} {until}, by {origin}{by}: {why}");
    // A line break in it would look like another ban.
    printable::line(&text).into_owned()
}
