//! `sidegate bans`: the bans in force.

use std::time::Duration;

use crate::cli::admin_client::{self, AskError};
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_json};
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
    /// Let the held bans of CrowdSec with this digest hold, which warnings and `--refused` show.
    /// Without it, the bans that are held now.
    #[arg(long, value_name = "DIGEST", num_args = 0..=1, default_missing_value = "",
        conflicts_with = "refused")]
    accept_held: Option<String>,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the bans, one a line.
pub fn bans(verb: &BansArgs) -> Exit {
    if verb.refused || verb.accept_held.is_some() {
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
    let answer = match crowdsec_answer(verb) {
        Ok(answer) => answer,
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    };
    match (verb.json, &verb.accept_held) {
        (true, _) => print_json(&answer),
        (false, None) => print(crowdsec_text(&answer)),
        (false, Some(_)) if answer.accepted => print(accepted_text(&answer)),
        (false, Some(_)) => print_error(not_accepted_text(&answer)),
    }
    // A script that accepts a set has to notice that it has not.
    match verb.accept_held.is_some() && !answer.accepted {
        true => Exit::Failure,
        false => Exit::Success,
    }
}

fn crowdsec_answer(verb: &BansArgs) -> Result<CrowdsecAnswer, AskError> {
    let ask = |accept_held| {
        let request = CrowdsecRequest { accept_held };
        admin_client::ask(&verb.config.config, &request, BANS_TIMEOUT)
    };
    // What comes after this look is not accepted.
    let digest = match verb.accept_held.as_deref() {
        Some("") => match ask(None)? {
            CrowdsecAnswer { held_digest: Some(digest), .. } => Some(digest),
            answer => return Ok(answer),
        },
        digest => digest.map(str::to_owned),
    };
    ask(digest)
}

fn accepted_text(answer: &CrowdsecAnswer) -> String {
    let tunnels = count_u64(answer.held_revoked, "tunnel");
    match answer.held {
        1 => format!("1 held ban holds now; it closes {tunnels}"),
        held => format!("{held} held bans hold now; they close {tunnels}"),
    }
}

fn not_accepted_text(answer: &CrowdsecAnswer) -> String {
    match held_text(answer) {
        None => "no bans are held".to_owned(),
        Some(held) => format!("other bans are held by now, so that none is accepted: {held}"),
    }
}

/// A sentence about the bans that are held. `None` means that none are.
fn held_text(answer: &CrowdsecAnswer) -> Option<String> {
    let CrowdsecAnswer { held, held_revoked, held_clients, open, open_clients, .. } = answer;
    let digest = answer.held_digest.as_ref()?;
    let (bans, they) = match held {
        1 => ("1 ban is".to_owned(), "it"),
        held => (format!("{held} bans are"), "they"),
    };
    Some(format!(
        "{bans} held, since {they} would close {held_revoked} of {open} tunnels, those of \
         {held_clients} of {open_clients} clients: sidegate bans --accept-held {digest}"
    ))
}

fn crowdsec_text(answer: &CrowdsecAnswer) -> String {
    let Some(url) = &answer.url else { return "[crowdsec] is not configured".to_owned() };
    let answered = answer.answered.map_or("never".to_owned(), |at| format!("at {at}"));
    let mut text = format!("{url} answered {answered}: {}", count_u64(answer.bans, "ban"));
    if let Some(fault) = &answer.fault {
        text.push_str(&format!("\n  the last poll failed: {fault}"));
    }
    if let Some(held) = held_text(answer) {
        text.push_str(&format!("\n  {held}"));
    }
    for one in &answer.held_bans {
        let (tunnels, clients) =
            (count_u64(one.revoked, "tunnel"), count_u64(one.clients, "client"));
        let line = format!("held: {}: {}: {tunnels} of {clients}", one.target, one.why);
        text.push_str(&format!("\n  {}", printable::line(&line)));
    }
    let listed = answer.held_bans.len() as u64;
    if answer.held > listed {
        text.push_str(&format!("\n  and {} others that are held", answer.held - listed));
    }
    for one in &answer.refused {
        let decision = printable::shortened(&one.decision);
        let line = format!("not applied: {decision} ({}): {}", one.reason, one.says);
        text.push_str(&format!("\n  {}", printable::line(&line)));
    }
    let all: u64 = answer.refused_counts.iter().map(|one| one.decisions).sum();
    let others = all.saturating_sub(answer.refused.len() as u64);
    if others > 0 {
        text.push_str(&format!("\n  and {others} others"));
    }
    if all == 0 {
        text.push_str("\n  every decision can be applied");
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
