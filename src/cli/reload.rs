//! `sidegate reload`: asks the running agent to reload, and prints the outcome.

use std::time::Duration;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::output::{count_u64, print, print_error, print_error_lines};
use sidegate::admin::wire::{ReloadAnswer, ReloadRequest};

/// Time for the agent's answer. The agent itself allows a reload 60 s.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(70);

/// The arguments.
#[derive(clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Wait for the outcome and print it; exit with 1 if the files were rejected.
    #[arg(long)]
    wait: bool,
    /// Reload even if this list has shrunk by more than its `max_shrink`; repeatable.
    #[arg(long, value_name = "LIST")]
    accept_shrink: Vec<String>,
    /// Reload even if that closes more tunnels than `[reload] max_revoked` allows.
    #[arg(long)]
    accept_revocations: bool,
}

/// Asks for a reload, and prints the answer. Ends with 1 if the files were rejected.
pub fn reload(verb: &ReloadArgs) -> Exit {
    let request = ReloadRequest {
        wait: verb.wait,
        accept_shrink: verb.accept_shrink.clone(),
        accept_revocations: verb.accept_revocations,
    };
    match admin_client::ask(&verb.config.config, &request, RELOAD_TIMEOUT) {
        Ok(answer) => {
            print_text(&answer);
            exit(&answer)
        }
        Err(failure) => {
            print_error(failure);
            Exit::Failure
        }
    }
}

/// The exit code for an answer.
pub fn exit(answer: &ReloadAnswer) -> Exit {
    match answer {
        ReloadAnswer::Published { .. } | ReloadAnswer::Unchanged { .. } | ReloadAnswer::Asked => {
            Exit::Success
        }
        ReloadAnswer::Rejected { .. } => Exit::Failure,
    }
}

/// Prints the outcome of a reload; diagnostics go to standard error.
pub fn print_text(answer: &ReloadAnswer) {
    match answer {
        ReloadAnswer::Published { generation, digest, revoked, diagnostics } => {
            diagnostics.iter().for_each(|diagnostic| print_error_lines(&diagnostic.text));
            let revoked = count_u64(*revoked, "tunnel");
            print(format_args!("published: generation {generation} ({digest}), {revoked} revoked"));
        }
        ReloadAnswer::Unchanged { generation, .. } => {
            print(format_args!(
                "unchanged: the running configuration matches the files, generation {generation}"
            ));
        }
        ReloadAnswer::Asked => print("reload requested; --wait waits for the outcome"),
        ReloadAnswer::Rejected { diagnostics } => {
            diagnostics.iter().for_each(|diagnostic| print_error_lines(&diagnostic.text));
            print_error("rejected: the previous configuration keeps running");
        }
    }
}
