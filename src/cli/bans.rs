//! `sidegate bans`: the bans in force.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, print_json};
use sidegate::admin::wire::{BanStatus, BansRequest, CrowdsecAnswer, CrowdsecRequest};
use sidegate::observe::printable;

/// Time for the agent's answer.
const BANS_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate bans`.
#[derive(clap::Args)]
pub struct BansArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Show the decisions of CrowdSec that are not applied, and why.
    #[arg(long)]
    refused: bool,
    /// Let bans of CrowdSec hold that would close more tunnels than `max_revoked`.
    #[arg(long, conflicts_with = "refused")]
    accept_held: bool,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the bans, one a line.
pub fn bans(verb: &BansArgs) -> Exit {
    if verb.refused || verb.accept_held {
        return crowdsec(verb);
    }
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

/// Prints what CrowdSec's decisions came to. Ends with 1 if nothing was held that was to hold.
fn crowdsec(verb: &BansArgs) -> Exit {
    let request = CrowdsecRequest { accept_held: verb.accept_held };
    let answer = match admin_client::ask(&verb.config.config, &request, BANS_TIMEOUT) {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    match verb.json {
        true => print_json(&answer),
        false => print(crowdsec_text(&answer, verb.accept_held)),
    }
    match verb.accept_held && !answer.accepted {
        true => Exit::Failure,
        false => Exit::Success,
    }
}

fn crowdsec_text(answer: &CrowdsecAnswer, is_order: bool) -> String {
    let CrowdsecAnswer { held, held_revoked, .. } = answer;
    if is_order {
        return match answer.accepted {
            true => format!("{held} held bans hold now; they close {held_revoked} tunnels"),
            false => "no bans are held".to_owned(),
        };
    }
    let Some(url) = &answer.url else { return "[crowdsec] is not configured".to_owned() };
    let answered = answer.answered.map_or("never".to_owned(), |at| format!("at {at}"));
    let mut text = format!("{url} answered {answered}: {} bans", answer.bans);
    if let Some(fault) = &answer.fault {
        text.push_str(&format!("\n  the last poll failed: {fault}"));
    }
    if *held > 0 {
        text.push_str(&format!(
            "\n  {held} bans are held, since they would close {held_revoked} tunnels: \
             sidegate bans --accept-held"
        ));
    }
    for one in &answer.refused {
        text.push_str(&format!(
            "\n  not applied: {} ({}): {}",
            one.decision.escape_debug(),
            one.reason,
            one.says
        ));
    }
    let all: u64 = answer.refused_counts.iter().map(|one| one.decisions).sum();
    let others = all.saturating_sub(answer.refused.len() as u64);
    if others > 0 {
        text.push_str(&format!("\n  and {others} others"));
    }
    if all == 0 {
        text.push_str("\n  every decision is applied");
    }
    text
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
