//! `sidegate unban`: lifts bans.

use crate::cli::admin_client;
use crate::cli::ban::{BAN_TIMEOUT, client, identity, not_kept_sentence};
use crate::cli::bans::line;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, print_error_lines, print_json};
use sidegate::admin::wire::{UnbanAnswer, UnbanRequest};

/// Arguments of `sidegate unban`.
#[derive(clap::Args)]
pub struct UnbanArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The address, network or unix:uid=33 that was banned.
    #[arg(
        value_name = "CIDR",
        required_unless_present_any = ["identity", "all"],
        conflicts_with_all = ["identity", "all"],
        value_parser = client
    )]
    client: Option<String>,
    /// The name of client certificates that was banned.
    #[arg(long, value_name = "ID", conflicts_with = "all", value_parser = identity)]
    identity: Option<String>,
    /// Lift all bans at once.
    #[arg(long)]
    all: bool,
    /// Lift only bans of this origin: operator, fail2ban or crowdsec.
    #[arg(long, value_name = "WORD")]
    origin: Option<String>,
    /// Succeed if there is no such ban.
    #[arg(long)]
    if_banned: bool,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Lifts the bans, and prints them. Ends with 1 if there is none.
pub fn unban(verb: &UnbanArgs) -> Exit {
    let (client, identity) = (verb.client.clone(), verb.identity.clone());
    let origin = verb.origin.clone();
    let request = UnbanRequest { client, identity, all: verb.all, origin };
    let answer = match admin_client::ask(&verb.config.config, &request, BAN_TIMEOUT) {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    match &answer {
        _ if verb.json => print_json(&answer),
        UnbanAnswer::Unbanned { lifted, not_kept } => {
            if lifted.is_empty() {
                print("no bans were in force");
            }
            lifted.iter().for_each(|ban| print(format_args!("unbanned: {}", line(ban))));
            not_kept.iter().for_each(|why| print_error(not_kept_sentence(why)));
        }
        UnbanAnswer::NotBanned { .. } if verb.if_banned => print("no ban has this target"),
        UnbanAnswer::NotBanned { around } => {
            let mut text = "sidegate: no ban has this target".to_owned();
            for ban in around {
                text.push_str(&format!("\n  but there is: {}", line(ban)));
            }
            print_error_lines(&text);
        }
    }
    match answer {
        UnbanAnswer::Unbanned { .. } => Exit::Success,
        UnbanAnswer::NotBanned { .. } if verb.if_banned => Exit::Success,
        UnbanAnswer::NotBanned { .. } => Exit::Failure,
    }
}
