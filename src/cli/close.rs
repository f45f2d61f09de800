//! `sidegate close`: closes tunnels and exchanges of the running agent by filter.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_json};
use crate::cli::tunnel_args::TunnelArgs;
use sidegate::admin::wire::{
    CloseAnswer, CloseRequest, DEFAULT_CLOSE_REASON, close_code, close_reason,
};

/// Time for the agent's answer, which comes before the first Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sidegate close`.
#[derive(clap::Args)]
pub struct CloseArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    filter: TunnelArgs,
    /// Close all, where no filter is given.
    #[arg(long)]
    all: bool,
    /// The close code that clients get; 1008 tells most of them not to come back.
    #[arg(long, value_name = "CODE", default_value = "1001", value_parser = close_code)]
    code: u16,
    /// The reason in the Close, at most 123 bytes.
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_CLOSE_REASON,
        value_parser = |text: &str| close_reason(text.to_owned()))]
    reason: String,
    /// Only count what would be closed.
    #[arg(long)]
    dry_run: bool,
    /// Print the admin socket's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Orders the closing and prints the counts. Ends with 1 if no agent could be asked, or it refuses
/// the filters, and with 2 where nothing selects any.
pub fn close(verb: &CloseArgs) -> Exit {
    let selector = verb.filter.selector();
    // The agent checks this too. Here it ends with the status for wrong usage, and needs no agent.
    match (verb.all, selector.is_empty()) {
        (false, true) => {
            print_error("nothing is selected: give a filter, or --all");
            return Exit::Usage;
        }
        (true, false) => {
            print_error("--all and a filter contradict each other: leave one of them out");
            return Exit::Usage;
        }
        _ => {}
    }
    let (all, code, dry_run) = (verb.all, verb.code, verb.dry_run);
    let request = CloseRequest { selector, all, code, reason: verb.reason.clone(), dry_run };
    match admin_client::ask(&verb.config.config, &request, CLOSE_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print(sentence(&answer)),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

fn sentence(answer: &CloseAnswer) -> String {
    let CloseAnswer { dry_run, tunnels, exchanges, code, reason, spread } = answer;
    let counts =
        format!("{} and {}", count_u64(*tunnels, "tunnel"), count_u64(*exchanges, "exchange"));
    // Escaped, since a terminal would obey control characters of a reason.
    let reason = reason.escape_debug();
    match dry_run {
        true => format!("would close {counts}, with {code} \"{reason}\" over {spread}"),
        false => format!("closing {counts}, with {code} \"{reason}\" over {spread}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_has_counts_code_and_reason() {
        let mut answer = CloseAnswer {
            dry_run: true,
            tunnels: 25,
            exchanges: 1,
            code: 1008,
            reason: "abuse \"x\"".into(),
            spread: "2s".into(),
        };
        let rest = "25 tunnels and 1 exchange, with 1008 \"abuse \\\"x\\\"\" over 2s";
        assert_eq!(sentence(&answer), format!("would close {rest}"));
        answer.dry_run = false;
        assert_eq!(sentence(&answer), format!("closing {rest}"));
    }
}
