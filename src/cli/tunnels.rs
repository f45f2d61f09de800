//! `sidegate tunnels`: the open tunnels and exchanges of the running agent.

use std::io;
use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{is_colored, print_colored, print_error, print_json};
use crate::cli::status::format::{bytes, duration, number};
use crate::cli::status::table::{Row, Tone, table_of};
use crate::cli::tunnel_args::TunnelArgs;
use sidegate::admin::wire::{
    MAX_PAGE_TUNNELS, TunnelOrder, TunnelStatus, TunnelsAnswer, TunnelsRequest,
};
use sidegate::observe::printable;

/// Time for the agent's answer, which sorts all that is open.
const TUNNELS_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sidegate tunnels`.
#[derive(clap::Args)]
pub struct TunnelsArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    filter: TunnelArgs,
    /// The order: id (the longest open first), bytes (the most first) or client.
    #[arg(long, value_name = "ORDER", default_value = "id", value_parser = order)]
    sort: TunnelOrder,
    /// Show at most so many.
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=MAX_PAGE_TUNNELS as i64))]
    limit: u32,
    /// Show the page behind this id, in the same order.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints a page. Ends with 1 if no agent could be asked, or it refuses the filters.
pub fn tunnels(verb: &TunnelsArgs) -> Exit {
    let (sort, after) = (verb.sort, verb.after);
    let selector = verb.filter.selector();
    let request = TunnelsRequest { selector, sort, limit: verb.limit as usize, after };
    match admin_client::ask(&verb.config.config, &request, TUNNELS_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print_colored(&screen(&answer, is_colored(&io::stdout()))),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

fn order(text: &str) -> Result<TunnelOrder, String> {
    TunnelOrder::parse(text).ok_or_else(|| "write id, bytes or client".into())
}

fn screen(answer: &TunnelsAnswer, color: bool) -> String {
    let heads =
        [">id", "kind", "route", "client", "identity", ">open", ">from client", ">from backend"];
    let rows: Vec<_> = answer.tunnels.iter().map(row).collect();
    let mut text = match rows.is_empty() {
        true => String::new(),
        false => table_of(&heads, &rows, color, MAX_PAGE_TUNNELS) + "\n",
    };
    text.push_str(&match answer.next {
        Some(next) => format!(
            "{} of {}; the next page: --after {next}",
            number(rows.len() as u64),
            number(answer.matching)
        ),
        None => format!("{} of {}", number(rows.len() as u64), number(answer.matching)),
    });
    text
}

fn row(tunnel: &TunnelStatus) -> Row {
    let cells = [
        tunnel.id.to_string(),
        tunnel.kind.to_string(),
        tunnel.route.clone(),
        tunnel.client.clone(),
        tunnel.identity.clone().unwrap_or_else(|| "-".into()),
        duration(i64::try_from(tunnel.seconds).unwrap_or(i64::MAX)),
        bytes(tunnel.from_client.bytes as f64),
        bytes(tunnel.from_backend.bytes as f64),
    ];
    // Routes and identities may hold control characters, which a terminal would obey.
    let cell = |text: String| (printable::line(&text).into_owned(), Tone::Plain);
    Row { cells: cells.into_iter().map(cell).collect(), note: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TunnelsAnswer {
        let samples: serde_json::Value =
            serde_json::from_str(include_str!("../admin/wire/samples.json")).unwrap();
        serde_json::from_value(samples["tunnels"]["answer"].clone()).unwrap()
    }

    #[test]
    fn page_is_a_table_that_names_the_next_page() {
        assert_eq!(
            screen(&sample(), false),
            "id  kind    route  client     identity                        open  from client  \
             from backend\n \
             8  tunnel  chat   192.0.2.7  spiffe://example.com/ws/edge  60 min        900 B       \
             1.2 KiB\n\n1 of 2; the next page: --after 8"
        );
    }

    #[test]
    fn empty_page_is_one_line_and_texts_have_no_controls() {
        let mut answer = sample();
        answer.tunnels[0].identity = Some("\u{1b}[2J".into());
        assert!(!screen(&answer, false).contains('\u{1b}'));
        (answer.matching, answer.next, answer.tunnels) = (0, None, Vec::new());
        assert_eq!(screen(&answer, false), "0 of 0");
    }
}
