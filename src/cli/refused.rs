//! `sidegate refused`: the clients, reasons and rules with the most refusals.

use std::io;
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::duration_arg::duration;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, is_colored, print_colored, print_error, print_json};
use crate::cli::status::format::{number, timestamp};
use crate::cli::status::table::{Row, Tone, table_of};
use sidegate::admin::wire::{DEFAULT_TOP, MAX_TOP, RefusalsRequest, RefusedAnswer};
use sidegate::observe::printable;

/// Time for the agent's answer, which counts all refusals that are kept.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sidegate refused`.
#[derive(clap::Args)]
pub struct RefusedArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Count only the refusals of this time, like 15m, 1h or 2d; all that are kept by default.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    last: Option<Duration>,
    /// Show at most so many clients, reasons and rules.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TOP as u32,
        value_parser = clap::value_parser!(u32).range(1..=MAX_TOP as i64))]
    top: u32,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what was refused most. Ends with 1 if no agent could be asked.
pub fn refused(verb: &RefusedArgs) -> Exit {
    let last = verb.last.map(|last| last.as_secs());
    let request = RefusalsRequest { last, top: verb.top as usize };
    match admin_client::ask(&verb.config.config, &request, REFUSED_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print_colored(&screen(&answer, last, is_colored(&io::stdout()))),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

fn screen(answer: &RefusedAnswer, last: Option<u64>, color: bool) -> String {
    let mut text = format!(
        "{} of {} since {}\n",
        count_u64(answer.refused, "refusal"),
        count_u64(answer.refused_clients, "client"),
        timestamp(answer.since, answer.now),
    );
    // Both times are of the agent's clock: the clock of this command may differ.
    let asked = last.and_then(|seconds| i64::try_from(seconds).ok());
    if asked.is_some_and(|asked| answer.now.0.duration_since(answer.since.0).as_secs() < asked) {
        text.push_str("this is less than was asked for: older refusals are not kept\n");
    } else if asked.is_none() {
        text.push_str("older refusals are not kept\n");
    }
    for part in [clients(answer, color), reasons(answer, color), rules(answer, color)] {
        text.push('\n');
        text.push_str(&part);
    }
    text.trim_end().to_owned()
}

/// A cell of text from elsewhere, without controls.
fn cell(text: &str) -> (String, Tone) {
    // Peers choose request ids, and a terminal obeys the escape sequences in them.
    (printable::line(text).into_owned(), Tone::Plain)
}

fn row<const N: usize>(cells: [&str; N]) -> Row {
    Row { cells: cells.iter().map(|text| cell(text)).collect(), note: String::new() }
}

fn clients(answer: &RefusedAnswer, color: bool) -> String {
    let heads = ["client", ">refused", "last reason", "last", "request id"];
    let one = |client: &sidegate::admin::wire::RefusedClient| {
        let id = client.request_id.as_deref().unwrap_or("-");
        let last = timestamp(client.last, answer.now);
        row([&client.client, &number(client.refused), &client.reason, &last, id])
    };
    // The agent has cut the rows to `top`; the table's own bound must not cut them again.
    table_of(&heads, &answer.clients.iter().map(one).collect::<Vec<_>>(), color, MAX_TOP)
}

fn reasons(answer: &RefusedAnswer, color: bool) -> String {
    let one = |reason: &sidegate::admin::wire::RefusedReason| {
        row([&reason.reason, &number(reason.refused)])
    };
    let rows: Vec<_> = answer.reasons.iter().map(one).collect();
    table_of(&["reason", ">refused"], &rows, color, MAX_TOP)
}

fn rules(answer: &RefusedAnswer, color: bool) -> String {
    let heads = ["policy", ">refused", "rule", "list", "entry", "at"];
    let one = |rule: &sidegate::admin::wire::RefusedRule| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let (list, entry, at) = (text(&rule.list), text(&rule.entry), text(&rule.entry_at));
        row([&rule.policy, &number(rule.refused), &rule.rule_at, &list, &entry, &at])
    };
    table_of(&heads, &answer.rules.iter().map(one).collect::<Vec<_>>(), color, MAX_TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RefusedAnswer {
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../admin/wire/samples.json")).unwrap();
        serde_json::from_value(samples["refused"]["answer"].clone()).unwrap()
    }

    #[test]
    fn tables_have_clients_reasons_and_rules() {
        assert_eq!(
            screen(&sample(), Some(3600), false),
            "42 refusals of 3 clients since 2026-11-22 16:04:00 UTC, 60 min ago\n\n\
             client     refused  last reason  last                                request id\n\
             192.0.2.7       40  network      2026-11-22 17:00:00 UTC, 4 min ago  \
             0123456789abcdef0123456789abcdef\n\n\
             reason   refused\n\
             network       40\n\n\
             policy  refused  rule                  list      entry       at\n\
             chat         40  policies/chat.toml:4  partners  !192.0.2.7  \
             policies/lists/partners.cidr:8"
        );
    }

    #[test]
    fn short_period_is_said() {
        let text = screen(&sample(), Some(7200), false);
        assert!(text.contains("less than was asked for"), "{text}");
        assert!(screen(&sample(), None, false).contains("older refusals are not kept"));
    }

    #[test]
    fn hostile_texts_have_no_controls() {
        let mut answer = sample();
        answer.clients[0].request_id = Some("\u{1b}[2J\n".into());
        answer.rules[0].entry = Some("\u{9b}\u{202e}".into());
        let text = screen(&answer, None, false);
        assert!(!text.contains(|c| printable::is_control(c) && c != '\n'), "{text:?}");
    }
}
