//! `sidegate explain`: why a client is admitted or refused, by the files or by the running agent.

use std::time::Duration;

use jiff::Timestamp;

use crate::cli::admin_client;
use crate::cli::config_arg::ConfigArg;
use crate::cli::exit::Exit;
use crate::cli::explain_request::explain_request;
use crate::cli::host_args::HostArgs;
use crate::cli::output::{print, print_diagnostics, print_error, print_json};
use sidegate::admin::ExplainQuery;
use sidegate::admin::wire::{ExplainAnswer, ExplainRequest};
use sidegate::control::compile;
use sidegate::control::config::LoadOptions;

/// Time for the agent's answer, which needs one look at its snapshot.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sidegate explain`.
#[derive(clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    host: HostArgs,
    /// The id of a request that the running agent decided, as in a refusal's body, instead of a
    /// client and a URL.
    #[arg(long, value_name = "ID", conflicts_with_all = [
        "client", "peer", "url", "origin", "subprotocol", "identity", "at",
    ])]
    request: Option<String>,
    /// The address of the client, or a user of this host: unix:uid=33,gid=33.
    #[arg(long, value_name = "CLIENT", required_unless_present_any = ["peer", "request"])]
    client: Option<String>,
    /// A peer that connects for the client, as a balancer does; instead of --client.
    #[arg(long, value_name = "PEER", conflicts_with = "client")]
    peer: Option<String>,
    /// The forwarded header that the peer sends, as in X-Forwarded-For; empty by default.
    #[arg(long, value_name = "VALUE", requires = "peer", conflicts_with = "client")]
    forwarded_for: Option<String>,
    /// The listener that the peer connects to, where several have different peers.
    #[arg(long, value_name = "NAME", requires = "peer", conflicts_with = "client")]
    listener: Option<String>,
    /// The URL that the client opens: ws:// or wss:// for a WebSocket, http:// or https:// for
    /// plain HTTP.
    #[arg(long, required_unless_present = "request")]
    url: Option<String>,
    /// The Origin header that the client sends; absent by default.
    #[arg(long)]
    origin: Option<String>,
    /// The subprotocol that the client offers; none by default.
    #[arg(long)]
    subprotocol: Option<String>,
    /// A name of the client's certificate, like spiffe://example.com/ws/edge or
    /// dns:client.example.com; no certificate by default.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The time of the request: a date, or a time like 2027-01-01T18:00:00Z; now by default.
    #[arg(long, value_name = "T")]
    at: Option<String>,
    /// Query the running agent, which also knows how much of each limit is left, instead of reading
    /// the files.
    #[arg(long, conflicts_with_all = ["off_host", "root"])]
    live: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Prints the explanation. Ends with 1 if it is a refusal, or if the agent gives none, and with 78
/// if the files have errors.
pub fn explain(verb: &ExplainArgs) -> Exit {
    if let Some(id) = &verb.request {
        return explain_request(&verb.config.config, id, verb.json);
    }
    let request = ExplainRequest {
        client: verb.peer.clone().or(verb.client.clone()).unwrap_or_default(),
        // Without a header a listed peer is the client itself, as in a health check.
        forwarded_for: verb.peer.as_ref().map(|_| verb.forwarded_for.clone().unwrap_or_default()),
        listener: verb.listener.clone(),
        url: verb.url.clone().unwrap_or_default(),
        origin: verb.origin.clone(),
        subprotocol: verb.subprotocol.clone(),
        identity: verb.identity.clone(),
        at: verb.at.clone(),
    };
    // First, since the client may be a user that this host lacks.
    let options = verb.host.options();
    let inquiry = match ExplainQuery::parse(&request) {
        Ok(inquiry) => inquiry,
        Err(sentence) => {
            print_error(sentence);
            return Exit::Usage;
        }
    };
    let answer = match verb.live {
        true => from_agent(verb, &request),
        false => from_files(verb, &inquiry, options),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    if verb.json {
        print_json(&answer);
    } else {
        print(&answer.text);
        if answer.permitted && !verb.live {
            print_error(
                "this is by the files alone: `--live` asks the agent, which knows bans too",
            );
        }
    }
    exit(&answer)
}

/// The exit code for an answer.
pub fn exit(answer: &ExplainAnswer) -> Exit {
    if answer.permitted { Exit::Success } else { Exit::Failure }
}

/// Explains by the files. Errors are printed and returned as the exit code.
fn from_files(
    verb: &ExplainArgs,
    inquiry: &ExplainQuery,
    options: LoadOptions<'_>,
) -> Result<ExplainAnswer, Exit> {
    // The policies' own tests are not run: a failed one may be the very thing to explain.
    let config = verb.config.below(options.root);
    let built = compile::compile_untested(&config, options).map_err(|errors| {
        print_diagnostics(&errors);
        Exit::Config
    })?;
    inquiry.answer(&built.snapshot, Timestamp::now(), None).map_err(|sentence| {
        print_error(sentence);
        Exit::Usage
    })
}

/// Asks the running agent. Errors are printed and returned as the exit code.
fn from_agent(verb: &ExplainArgs, request: &ExplainRequest) -> Result<ExplainAnswer, Exit> {
    admin_client::ask(&verb.config.config, request, EXPLAIN_TIMEOUT).map_err(|failure| {
        print_error(failure);
        Exit::Failure
    })
}
