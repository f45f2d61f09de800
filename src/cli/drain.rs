//! `sidegate drain`: orders the running agent to stop accepting, let its tunnels end, and end.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error};
use sidegate::admin::wire::{DrainAnswer, DrainRequest, Draining};

/// Time for the agent's answer, which comes before the drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `sidegate drain`.
#[derive(clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    config: ConfigArg,
}

/// Orders the drain, without waiting for it to end: the agent's log reports it.
pub fn drain(verb: &DrainArgs) -> Exit {
    match admin_client::ask(&verb.config.config, &DrainRequest, DRAIN_TIMEOUT) {
        Ok(DrainAnswer::Draining(draining)) => {
            print(sentence(&draining));
            Exit::Success
        }
        Err(failure) => {
            print_error(failure);
            Exit::Failure
        }
    }
}

/// The sentence for the operator: what will happen, or that a drain already runs.
fn sentence(draining: &Draining) -> String {
    let Draining { already, tunnels, pid, shutdown, .. } = draining;
    let tunnels = count_u64(*tunnels, "tunnel");
    if *already {
        return format!(
            "draining already, {tunnels} left; SIGTERM to the process {pid} cuts them at once"
        );
    }
    let begins = match &*shutdown.delay {
        "0s" => "accepting stops now".to_owned(),
        delay => format!("/readyz says 503 now, and accepting stops in {delay}"),
    };
    let (code, spread, deadline) = (shutdown.code, &shutdown.spread, &shutdown.deadline);
    format!(
        "draining: {begins}; {tunnels} will be closed with {code} over {spread}, the rest is cut \
         after {deadline}; then the agent exits"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidegate::admin::wire::ShutdownTimes;

    fn draining(delay: &str, tunnels: u64, code: u16, already: bool) -> Draining {
        let text = str::to_owned;
        let shutdown =
            ShutdownTimes { delay: text(delay), spread: text("5s"), deadline: text("30s"), code };
        Draining { already, tunnels, exchanges: 0, pid: 4711, shutdown }
    }

    #[test]
    fn drain_prints_what_happens_next() {
        assert_eq!(
            sentence(&draining("0s", 3102, 1001, false)),
            "draining: accepting stops now; 3102 tunnels will be closed with 1001 over 5s, the \
             rest is cut after 30s; then the agent exits",
        );
        assert_eq!(
            sentence(&draining("10s", 1, 1012, false)),
            "draining: /readyz says 503 now, and accepting stops in 10s; 1 tunnel will be closed \
             with 1012 over 5s, the rest is cut after 30s; then the agent exits",
        );
        assert_eq!(
            sentence(&draining("10s", 2, 1012, true)),
            "draining already, 2 tunnels left; SIGTERM to the process 4711 cuts them at once",
        );
    }
}
