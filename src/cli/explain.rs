//! `sidegate explain`: why a client is admitted or refused, by the files or by the running agent.

use std::time::Duration;

use jiff::Timestamp;

use crate::cli::ask;
use crate::cli::configuration::Config;
use crate::cli::exit::Exit;
use crate::cli::output::{complain, say, say_json, show};
use sidegate::admin::Inquiry;
use sidegate::admin::wire::{ExplainAnswer, ExplainRequest};
use sidegate::control::compile;

/// Time for the agent's answer, which needs one look at its snapshot.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The arguments.
#[derive(clap::Args)]
pub struct Explain {
    #[command(flatten)]
    config: Config,
    /// The address of the client.
    #[arg(long, value_name = "IP")]
    client: String,
    /// The URL that the client opens: ws:// or wss:// for a WebSocket, http:// or https:// for
    /// plain HTTP.
    #[arg(long)]
    url: String,
    /// The Origin header that the client sends; absent by default.
    #[arg(long)]
    origin: Option<String>,
    /// The subprotocol that the client offers; none by default.
    #[arg(long)]
    subprotocol: Option<String>,
    /// The time of the request: a date, or a time like 2027-01-01T18:00:00Z; now by default.
    #[arg(long, value_name = "T")]
    at: Option<String>,
    /// Query the running agent, which also knows how much of each limit is left, instead of reading
    /// the files.
    #[arg(long)]
    live: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints the explanation. Ends with 1 if it is a refusal, or if there is no explanation.
pub fn explain(verb: &Explain) -> Exit {
    let request = ExplainRequest {
        client: verb.client.clone(),
        url: verb.url.clone(),
        origin: verb.origin.clone(),
        subprotocol: verb.subprotocol.clone(),
        at: verb.at.clone(),
    };
    let inquiry = match Inquiry::of(&request) {
        Ok(inquiry) => inquiry,
        Err(sentence) => {
            complain(sentence);
            return Exit::Usage;
        }
    };
    let answer = if verb.live { of_agent(verb, &request) } else { of_files(verb, &inquiry) };
    let Some(answer) = answer else { return Exit::No };
    if verb.json {
        say_json(&answer);
    } else {
        say(&answer.text);
    }
    exit(&answer)
}

/// The exit code for an answer.
pub fn exit(answer: &ExplainAnswer) -> Exit {
    if answer.permitted { Exit::Yes } else { Exit::No }
}

fn of_files(verb: &Explain, inquiry: &Inquiry) -> Option<ExplainAnswer> {
    let built = compile::unrehearsed(&verb.config.config).map_err(|errors| show(&errors)).ok()?;
    Some(inquiry.answer(&built.snapshot, Timestamp::now(), None))
}

fn of_agent(verb: &Explain, request: &ExplainRequest) -> Option<ExplainAnswer> {
    ask::ask(&verb.config.config, request, EXPLAIN_TIMEOUT).map_err(complain).ok()
}
