//! What is asked and ordered on the admin socket: one request, one answer, one log line that says
//! who asked.
//!
//! docs/admin.md is its reference. It decides about nobody: whoever could connect may ask for anything.

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::net::unix::UCred;

use crate::admin::explain::Asked;
use crate::admin::tunnels::Filter;
use crate::admin::{Admin, Answer, diff, explain, json as answer_json, query, status, tunnels};
use crate::control::config::effective;
use crate::control::reload::{Accept, Cause, Outcome};

/// So much of a path goes into the log.
const MOST_PATH: usize = 128;

/// Answers one request of `caller`.
pub async fn answer(admin: Arc<Admin>, request: Request<Incoming>, caller: Option<UCred>) -> Answer {
    let mut call = Call::of(&request, caller);
    let (method, query) = (request.method(), request.uri().query().unwrap_or_default());
    let (outcome, answer) = match (method, request.uri().path()) {
        (&Method::GET, "/v1/status") => ("told", answer_json(StatusCode::OK, &status::status(&admin))),
        (&Method::GET, "/v1/config") => ("told", answer_json(StatusCode::OK, &config(&admin))),
        (&Method::GET, "/v1/tunnels") => tunnels(&admin, query),
        (&Method::POST, "/v1/reload") => reload(&admin, query).await,
        (&Method::POST, "/v1/drain") => drain(&admin),
        (&Method::POST, "/v1/explain") => explain(&admin, query),
        (&Method::POST, "/v1/diff") => diff(&admin, query).await,
        (_, "/v1/status" | "/v1/config" | "/v1/tunnels") => not_allowed("GET"),
        (_, "/v1/reload" | "/v1/drain" | "/v1/explain" | "/v1/diff") => not_allowed("POST"),
        _ => {
            let here =
                "here are GET /v1/status, /v1/config and /v1/tunnels, POST /v1/reload, /v1/drain, /v1/explain and /v1/diff";
            wrong(StatusCode::NOT_FOUND, here)
        }
    };
    call.outcome = outcome;
    answer
}

/// One request, for its log line; written when the answer is there, or nobody is left to hear it.
struct Call {
    caller: Option<UCred>,
    method: Method,
    path: String,
    outcome: &'static str,
}

impl Call {
    fn of(request: &Request<Incoming>, caller: Option<UCred>) -> Call {
        let path = request.uri().path().chars().take(MOST_PATH).collect();
        Call { caller, method: request.method().clone(), path, outcome: "left" }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Call { caller, method, path, outcome } = self;
        let (uid, gid) = (caller.map(|caller| caller.uid()), caller.map(|caller| caller.gid()));
        let pid = caller.and_then(|caller| caller.pid());
        tracing::info!(uid, gid, pid, %method, path = path.as_str(), outcome = *outcome, "admin");
    }
}

/// What became of it, in a word, and the answer.
type Said = (&'static str, Answer);

fn wrong(status: StatusCode, sentence: &str) -> Said {
    ("refused", answer_json(status, &json!({ "error": sentence })))
}

fn not_allowed(method: &'static str) -> Said {
    let (outcome, mut answer) = wrong(StatusCode::METHOD_NOT_ALLOWED, &format!("this is asked with {method}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    (outcome, answer)
}

fn config(admin: &Admin) -> Value {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let policies: Map<_, _> =
        live.policies.values().map(|policy| (policy.name.to_string(), effective::policy(policy, now))).collect();
    json!({
        "file": admin.config.display().to_string(),
        "generation": live.generation,
        "digest": &*live.digest,
        "sidegate": effective::settings(&admin.standing.settings.load()),
        "policies": policies,
    })
}

fn tunnels(admin: &Admin, query: &str) -> Said {
    let page =
        Filter::parse(query).and_then(|filter| tunnels::page(&filter, &admin.tunnels, &admin.live.load(), Timestamp::now()));
    match page {
        Ok(page) => ("told", answer_json(StatusCode::OK, &page)),
        Err(sentence) => wrong(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn explain(admin: &Admin, query: &str) -> Said {
    match Asked::parse(query) {
        Ok(asked) => {
            let told = explain::explain(&asked, &admin.live.load(), Timestamp::now());
            ("told", answer_json(StatusCode::OK, &told))
        }
        Err(sentence) => wrong(StatusCode::BAD_REQUEST, &sentence),
    }
}

async fn diff(admin: &Admin, query: &str) -> Said {
    let promoted = match diff::promoted(query) {
        Ok(promoted) => promoted,
        Err(sentence) => return wrong(StatusCode::BAD_REQUEST, &sentence),
    };
    match admin.requests.preview(promoted).await {
        Some(preview) => {
            let (outcome, status, body) = diff::told(&preview, Timestamp::now());
            (outcome, answer_json(status, &body))
        }
        None => wrong(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"),
    }
}

async fn reload(admin: &Admin, query: &str) -> Said {
    let Some((wait, accept)) = wishes(query) else {
        let sentence = "a reload takes wait=true or wait=false, accept_shrink=LIST,… and accept_revocations=true";
        return wrong(StatusCode::BAD_REQUEST, sentence);
    };
    if !wait {
        admin.requests.ask(Cause::Asked, accept).await;
        return ("asked", answer_json(StatusCode::ACCEPTED, &json!({ "outcome": "asked" })));
    }
    match admin.requests.reload(Cause::Asked, accept).await {
        None => wrong(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"),
        Some(Outcome::Published { generation, digest, revoked, warnings }) => {
            let told = status::told(&warnings);
            let body = json!({ "outcome": "published", "generation": generation, "digest": &*digest, "revoked": revoked, "diagnostics": told });
            ("published", answer_json(StatusCode::OK, &body))
        }
        Some(Outcome::Unchanged { generation }) => {
            ("unchanged", answer_json(StatusCode::OK, &json!({ "outcome": "unchanged", "generation": generation })))
        }
        Some(Outcome::Rejected { errors }) => {
            let body = json!({ "outcome": "rejected", "diagnostics": status::told(&errors) });
            ("rejected", answer_json(StatusCode::UNPROCESSABLE_ENTITY, &body))
        }
    }
}

/// Whether the outcome is waited for, and what is accepted of a reload that is held.
fn wishes(text: &str) -> Option<(bool, Accept)> {
    let (mut wait, mut accept) = (true, Accept::default());
    for (name, value) in query::pairs(text).ok()? {
        match (name, &*value) {
            ("wait", "true") => wait = true,
            ("wait", "false") => wait = false,
            ("accept_shrink", lists) => accept.shrunk = lists.split(',').map(str::to_owned).collect(),
            ("accept_revocations", "true") => accept.revocations = true,
            _ => return None,
        }
    }
    Some((wait, accept))
}

/// Orders a drain, once: a second order would cut everything at once, and who runs a command twice means no such thing.
fn drain(admin: &Admin) -> Said {
    let settings = admin.standing.settings.load();
    let already = !admin.lifecycle.drain(settings.shutdown.terms());
    let shutdown = effective::shutdown(&settings.shutdown);
    let body = json!({
        "outcome": "draining",
        "already": already,
        "tunnels": admin.tunnels.len(),
        "exchanges": admin.tunnels.exchanges_len(),
        "pid": std::process::id(),
        "shutdown": shutdown,
    });
    ("draining", answer_json(StatusCode::ACCEPTED, &body))
}
