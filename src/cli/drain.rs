//! `sidegate drain`: orders the running agent to stop accepting, let its tunnels end, and end.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::cli::{Config, Exit, ask, complain, count, say};

/// The order is only taken; what comes of it is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The arguments.
#[derive(clap::Args)]
pub struct Drain {
    #[command(flatten)]
    config: Config,
}

/// Gives the order; what comes of it stands in the agent's log.
pub fn drain(verb: &Drain) -> Exit {
    match ask::ask(&verb.config.config, &Method::POST, "/v1/drain", PATIENCE) {
        Ok(answer) if answer["outcome"] == "draining" => {
            say(sentence(&answer));
            Exit::Yes
        }
        Ok(other) => {
            complain(format_args!("the agent gave an answer of another version: {other}"));
            Exit::No
        }
        Err(what) => {
            complain(what);
            Exit::No
        }
    }
}

/// What happens next.
fn sentence(answer: &Value) -> String {
    let tunnels = count(answer["tunnels"].as_u64().and_then(|tunnels| tunnels.try_into().ok()).unwrap_or_default(), "tunnel");
    let shutdown = &answer["shutdown"];
    let text = |key: &str| shutdown[key].as_str().unwrap_or("?").to_owned();
    if answer["already"] == true {
        let pid = &answer["pid"];
        return format!("draining already, {tunnels} left; SIGTERM to the process {pid} cuts them at once");
    }
    let begins = match text("delay").as_str() {
        "0s" => "accepting stops now".to_owned(),
        delay => format!("/readyz says 503 now, and accepting stops in {delay}"),
    };
    let (code, spread, deadline) = (&shutdown["code"], text("spread"), text("deadline"));
    format!(
        "draining: {begins}; {tunnels} will be closed with {code} over {spread}, and what is left after {deadline} is cut; then the agent ends"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(answer: Value, said: &str) {
        assert_eq!(sentence(&answer), said);
    }

    #[test]
    fn a_drain_says_what_happens_next() {
        let shutdown = json!({ "delay": "0s", "spread": "5s", "deadline": "30s", "code": 1001 });
        check(
            json!({ "tunnels": 3102, "already": false, "pid": 7, "shutdown": shutdown }),
            "draining: accepting stops now; 3102 tunnels will be closed with 1001 over 5s, and what is left after 30s is cut; then the agent ends",
        );
        let shutdown = json!({ "delay": "10s", "spread": "5s", "deadline": "30s", "code": 1012 });
        check(
            json!({ "tunnels": 1, "already": false, "pid": 7, "shutdown": shutdown }),
            "draining: /readyz says 503 now, and accepting stops in 10s; 1 tunnel will be closed with 1012 over 5s, and what is left after 30s is cut; then the agent ends",
        );
        check(
            json!({ "tunnels": 2, "already": true, "pid": 4711, "shutdown": shutdown }),
            "draining already, 2 tunnels left; SIGTERM to the process 4711 cuts them at once",
        );
    }
}
