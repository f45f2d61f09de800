//! `sidegate reload`: asks the running agent to reload, and prints the outcome.

use std::time::Duration;

use crate::cli::ask;
use crate::cli::configuration::Config;
use crate::cli::exit::Exit;
use crate::cli::output::{complain, complain_whole, count_u64, say};
use sidegate::admin::wire::{ReloadAnswer, ReloadRequest};

/// Time for the agent's answer. The agent itself allows a reload 60 s.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(70);

/// The arguments.
#[derive(clap::Args)]
pub struct Reload {
    #[command(flatten)]
    config: Config,
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
pub fn reload(verb: &Reload) -> Exit {
    let request = ReloadRequest {
        wait: verb.wait,
        accept_shrink: verb.accept_shrink.clone(),
        accept_revocations: verb.accept_revocations,
    };
    match ask::ask(&verb.config.config, &request, RELOAD_TIMEOUT) {
        Ok(answer) => {
            tell(&answer);
            exit(&answer)
        }
        Err(failure) => {
            complain(failure);
            Exit::No
        }
    }
}

/// The exit code for an answer.
pub fn exit(answer: &ReloadAnswer) -> Exit {
    match answer {
        ReloadAnswer::Published { .. } | ReloadAnswer::Unchanged { .. } | ReloadAnswer::Asked => {
            Exit::Yes
        }
        ReloadAnswer::Rejected { .. } => Exit::No,
    }
}

/// Prints the outcome of a reload; diagnostics go to standard error.
pub fn tell(answer: &ReloadAnswer) {
    match answer {
        ReloadAnswer::Published { generation, digest, revoked, diagnostics } => {
            diagnostics.iter().for_each(|diagnostic| complain_whole(&diagnostic.text));
            let revoked = count_u64(*revoked, "tunnel");
            say(format_args!("published: generation {generation} ({digest}), {revoked} revoked"));
        }
        ReloadAnswer::Unchanged { generation, .. } => {
            say(format_args!(
                "unchanged: the running configuration matches the files, generation {generation}"
            ));
        }
        ReloadAnswer::Asked => say("reload requested; --wait waits for the outcome"),
        ReloadAnswer::Rejected { diagnostics } => {
            diagnostics.iter().for_each(|diagnostic| complain_whole(&diagnostic.text));
            complain("rejected: the previous configuration keeps running");
        }
    }
}
