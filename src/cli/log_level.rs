//! `sidegate log-level`: shows or sets the filter of the running agent's log.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::duration_arg::period;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_error, print_json};
use sidegate::admin::wire::{LogLevelAnswer, LogLevelRequest};
use sidegate::observe::printable;

/// Time for the agent's answer, which needs no file.
const LOG_LEVEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate log-level`.
#[derive(clap::Args)]
pub struct LogLevelArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The new filter, as in SIDEGATE_LOG: `debug`, or `info,sidegate::data=trace`. Left out: show
    /// the present one.
    #[arg(value_name = "LEVEL|TARGET=LEVEL,…")]
    filter: Option<String>,
    /// Return to the earlier filter after this time, like 10m. Left out: the filter holds until the
    /// next change or restart.
    #[arg(long = "for", value_name = "TIME", requires = "filter", value_parser = period)]
    lasting: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Shows or sets the filter. Ends with 1 if it is wrong, or if no agent answers.
pub fn log_level(verb: &LogLevelArgs) -> Exit {
    let request = LogLevelRequest { filter: verb.filter.clone(), lasting: verb.lasting.clone() };
    match admin_client::ask(&verb.config.config, &request, LOG_LEVEL_TIMEOUT) {
        Ok(answer) if verb.json => print_json(&answer),
        Ok(answer) => print(text(&answer)),
        Err(failure) => {
            print_error(failure);
            return Exit::Failure;
        }
    }
    Exit::Success
}

/// The filter in one line, and a second one if it names single targets alone.
fn text(answer: &LogLevelAnswer) -> String {
    let filter = printable::line(&answer.filter);
    let mut text = match (&answer.then, &answer.until) {
        (Some(then), Some(until)) => {
            format!("{filter}, until {until}, then {}", printable::line(then))
        }
        _ => filter.to_string(),
    };
    let is_target = |directive: &str| directive.contains(['=', ':']);
    if filter.split(',').all(is_target) {
        text.push_str("\nnothing else is logged: begin with a level to keep it, like info,…");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate::admin::wire::Time;

    #[test]
    fn filter_is_shown_with_its_end_and_its_gaps() {
        let until = Time("2026-11-30T22:00:00Z".parse().unwrap());
        let answer = |filter: &str, then: Option<&str>| LogLevelAnswer {
            filter: filter.into(),
            then: then.map(str::to_owned),
            until: then.map(|_| until),
        };
        assert_eq!(text(&answer("info", None)), "info");
        let limited = answer("debug", Some("info"));
        assert_eq!(text(&limited), "debug, until 2026-11-30T22:00:00Z, then info");
        assert!(text(&answer("sidegate::data=debug", None)).contains("nothing else is logged"));
        assert!(!text(&answer("warn,sidegate::data=debug", None)).contains("nothing else"));
    }
}
