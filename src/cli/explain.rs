//! `sidegate explain`: why somebody is admitted or refused, by the files or by the agent that runs.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::{Config, Exit, ask, complain, say, show};
use sidegate::admin::Asked;
use sidegate::control::compile;

/// It looks at one snapshot: an agent that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The arguments.
#[derive(clap::Args)]
pub struct Explain {
    #[command(flatten)]
    config: Config,
    /// Who asks.
    #[arg(long, value_name = "IP")]
    client: String,
    /// What it opens: ws:// and wss:// for a WebSocket, http:// and https:// for plain HTTP.
    #[arg(long)]
    url: String,
    /// The page that opens it; left out: a client that sends no Origin.
    #[arg(long)]
    origin: Option<String>,
    /// The subprotocol that it offers.
    #[arg(long)]
    subprotocol: Option<String>,
    /// When: a day, or a time like 2027-01-01T18:00:00Z; left out: now.
    #[arg(long, value_name = "T")]
    at: Option<String>,
    /// Ask the running agent, which also knows what is left of the limits; else the files are asked.
    #[arg(long)]
    live: bool,
    /// Print it for programs.
    #[arg(long)]
    json: bool,
}

/// Prints the explanation; 1 where it is a refusal, or nobody could say.
pub fn explain(verb: &Explain) -> Exit {
    let (origin, subprotocol, at) = (verb.origin.as_deref(), verb.subprotocol.as_deref(), verb.at.as_deref());
    let asked = match Asked::of(&verb.client, &verb.url, origin, subprotocol, at) {
        Ok(asked) => asked,
        Err(sentence) => {
            complain(sentence);
            return Exit::Usage;
        }
    };
    let told = if verb.live { of_agent(verb) } else { of_files(verb, &asked) };
    let Some(mut told) = told else { return Exit::No };
    let permitted = told["permitted"].as_bool().unwrap_or_default();
    let text = told.as_object_mut().and_then(|told| told.remove("text"));
    if verb.json {
        say(format_args!("{told:#}"));
    } else {
        say(text.as_ref().and_then(Value::as_str).unwrap_or("the agent gave an answer of another version"));
    }
    if permitted { Exit::Yes } else { Exit::No }
}

fn of_files(verb: &Explain, asked: &Asked) -> Option<Value> {
    let built = compile::unrehearsed(&verb.config.config).map_err(|errors| show(&errors)).ok()?;
    let explanation = built.snapshot.explain(asked.question(Timestamp::now(), false));
    let mut told = json!(explanation);
    told["text"] = explanation.to_string().into();
    Some(told)
}

fn of_agent(verb: &Explain) -> Option<Value> {
    let mut parameters = vec![("client", &*verb.client), ("url", &verb.url)];
    let others = [("origin", &verb.origin), ("subprotocol", &verb.subprotocol), ("at", &verb.at)];
    parameters.extend(others.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
    let target = ask::target("/v1/explain", &parameters);
    ask::ask(&verb.config.config, &Method::POST, &target, PATIENCE).map_err(complain).ok()
}
