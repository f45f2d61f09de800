//! `sidegate reload`: asks the running agent over its admin socket, and prints what became of it.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::cli::{Config, Exit, ask, complain, complain_whole, count, say};

/// The agent gives a reload 60 s.
const PATIENCE: Duration = Duration::from_secs(70);

/// The arguments.
#[derive(clap::Args)]
pub struct Reload {
    #[command(flatten)]
    config: Config,
    /// Wait for the outcome, print it, and end with 1 if the files were rejected.
    #[arg(long)]
    wait: bool,
    /// Accept that this list has shrunk by more than its `max_shrink`; may be given several times.
    #[arg(long, value_name = "LIST")]
    accept_shrink: Vec<String>,
    /// Accept that more tunnels are closed than `max_revoked` admits.
    #[arg(long)]
    accept_revocations: bool,
}

/// Asks for a reload.
pub fn reload(verb: &Reload) -> Exit {
    let shrunk = verb.accept_shrink.join(",");
    let mut parameters = Vec::new();
    if !verb.wait {
        parameters.push(("wait", "false"));
    }
    if !shrunk.is_empty() {
        parameters.push(("accept_shrink", &*shrunk));
    }
    if verb.accept_revocations {
        parameters.push(("accept_revocations", "true"));
    }
    match ask::ask(&verb.config.config, &Method::POST, &ask::target("/v1/reload", &parameters), PATIENCE) {
        Ok(answer) => tell(&answer),
        Err(what) => {
            complain(what);
            Exit::No
        }
    }
}

/// Prints what became of a reload.
pub fn tell(answer: &Value) -> Exit {
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    for diagnostic in answer["diagnostics"].as_array().into_iter().flatten() {
        complain_whole(diagnostic["text"].as_str().unwrap_or_default());
    }
    match answer["outcome"].as_str().unwrap_or_default() {
        "published" => {
            let digest = answer["digest"].as_str().unwrap_or_default();
            let revoked = count(usize::try_from(number("revoked")).unwrap_or(usize::MAX), "tunnel");
            say(format_args!("published: generation {} ({digest}), {revoked} revoked", number("generation")));
            Exit::Yes
        }
        "unchanged" => {
            say(format_args!("unchanged: the files are what runs, generation {}", number("generation")));
            Exit::Yes
        }
        "asked" => {
            say("asked; --wait waits for the outcome");
            Exit::Yes
        }
        "rejected" => {
            complain("rejected: what runs was kept");
            Exit::No
        }
        other => {
            complain(format_args!("the agent gave an answer of another version: {other}"));
            Exit::No
        }
    }
}
