//! `sidegate lapsing`: the entries of lists that lapse soon, by the files or by the running agent.

use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::duration_arg::duration;
use crate::cli::exit::Exit;
use crate::cli::host_args::HostArgs;
use crate::cli::output::{is_colored, print_colored, print_diagnostics, print_error, print_json};
use crate::cli::status::table::{Row, Tone, table_of};
use sidegate::admin::lapsing;
use sidegate::admin::wire::{LapsingAnswer, LapsingEntry, LapsingRequest};
use sidegate::control::compile;
use sidegate::observe::printable;

/// Time for the agent's answer, which walks the lists.
const LAPSING_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sidegate lapsing`.
#[derive(clap::Args)]
pub struct LapsingArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    host: HostArgs,
    /// The time to look ahead, like 12h or 30d.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
    within: Duration,
    /// Query the running agent instead of reading the files.
    #[arg(long, conflicts_with_all = ["off_host", "root"])]
    live: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints the entries that lapse. Ends with 1 if no agent could be asked, and with 78 if the files
/// have errors.
pub fn lapsing(verb: &LapsingArgs) -> Exit {
    let request = LapsingRequest { within: verb.within.as_secs() };
    let config = &verb.config.config;
    let answer = if verb.live {
        admin_client::ask(config, &request, LAPSING_TIMEOUT).map_err(|failure| {
            print_error(failure);
            Exit::Failure
        })
    } else {
        // Without the policies' tests: a failing test must not hide the entries that lapse.
        let config = verb.config.below(verb.host.root());
        let built = compile::compile_untested(&config, verb.host.options()).map_err(|errors| {
            print_diagnostics(&errors);
            Exit::Config
        });
        built.map(|built| lapsing::lapsing(&request, &built.snapshot, Timestamp::now()))
    };
    match answer {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print_colored(&screen(&answer, is_colored(&io::stdout()))),
        Err(exit) => return exit,
    }
    Exit::Success
}

fn screen(answer: &LapsingAnswer, color: bool) -> String {
    let (until, count) = (answer.until, answer.lapsing);
    let said = match count {
        0 => "no entry lapses".to_owned(),
        1 => "1 entry lapses".to_owned(),
        _ => format!("{count} entries lapse"),
    };
    let first = format!("{said} until {}", until.0.strftime("%Y-%m-%d %H:%M:%S UTC"));
    if count == 0 {
        return first;
    }
    let heads = ["expires", "policy", "list", "entry", "at", "owner", "ticket"];
    let rows: Vec<_> = answer.entries.iter().map(row).collect();
    let table = table_of(&heads, &rows, color, usize::MAX);
    format!("{first}\n\n{}", table.trim_end())
}

fn row(entry: &LapsingEntry) -> Row {
    let candidate = if entry.candidate { " (candidate)" } else { "" };
    let policy = format!("{}{candidate}", entry.policy);
    let [owner, ticket] = [&entry.owner, &entry.ticket].map(|text| text.as_deref().unwrap_or("-"));
    let cells = [&entry.expires, &policy, &entry.list, &entry.entry, &entry.place, owner, ticket];
    // Owner and ticket are free text of a list, in which a terminal would obey control characters.
    let cell = |text: &str| (printable::line(text).into_owned(), Tone::Plain);
    Row { cells: cells.into_iter().map(cell).collect(), note: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LapsingAnswer {
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../admin/wire/samples.json")).unwrap();
        serde_json::from_value(samples["lapsing"]["answer"].clone()).unwrap()
    }

    #[test]
    fn entries_are_a_table_with_owner_and_ticket() {
        assert_eq!(
            screen(&sample(), false),
            "1 entry lapses until 2026-12-22 17:04:00 UTC\n\n\
             expires     policy            list      entry         \
             at                              owner  ticket\n\
             2026-12-01  chat (candidate)  partners  192.0.2.0/24  \
             policies/lists/partners.cidr:8  acme   NET-7"
        );
    }

    #[test]
    fn nothing_that_lapses_is_one_line() {
        let mut answer = sample();
        (answer.lapsing, answer.entries) = (0, Vec::new());
        assert_eq!(screen(&answer, false), "no entry lapses until 2026-12-22 17:04:00 UTC");
        answer.lapsing = 2;
        assert!(screen(&answer, false).starts_with("2 entries lapse until"));
    }
}
