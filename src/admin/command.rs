//! Answers requests on the admin socket: one answer and one log line with the caller for each.
//!
//! docs/admin.md is the reference. This module checks no permissions: a caller who could connect
//! may make any request.

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue, SERVER};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::net::unix::UCred;

use crate::admin::answer::{Answer, json};
use crate::admin::explain::Inquiry;
use crate::admin::state::Admin;
use crate::admin::tunnels::Filter;
use crate::admin::wire::{
    self, AdminRequest as _, ConfigAnswer, ConfigRequest, DiffAnswer, DiffRequest, DrainAnswer,
    DrainRequest, Draining, ErrorAnswer, ExplainRequest, PRODUCT, ReloadAnswer, ReloadRequest,
    ShutdownTimes, StatusRequest, TunnelsRequest,
};
use crate::admin::{diff, status, tunnels};
use crate::control::config::effective;
use crate::control::reload::{Accept, Cause, Outcome};
use crate::policy::Policy;

/// Most characters of a path that are logged.
const MAX_PATH: usize = 128;

/// The error for a request with any other path.
const HERE: &str = "the requests are GET /v1/status, /v1/config and /v1/tunnels, \
    POST /v1/reload, /v1/drain, /v1/explain and /v1/diff";

/// Answers one request of `caller`.
pub async fn answer(
    admin: Arc<Admin>,
    request: Request<Incoming>,
    caller: Option<UCred>,
) -> Answer {
    let mut call = Call::of(&request, caller);
    let query = request.uri().query().unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    let (outcome, mut answer) = match path {
        StatusRequest::PATH => at(method, query, |_: StatusRequest| told(&status::status(&admin))),
        ConfigRequest::PATH => at(method, query, |_: ConfigRequest| told(&config(&admin))),
        TunnelsRequest::PATH => at(method, query, |request| tunnels(&admin, request)),
        ExplainRequest::PATH => at(method, query, |request| explain(&admin, &request)),
        ReloadRequest::PATH => match accepted(method, query) {
            Ok(request) => reload(&admin, request).await,
            Err(wrong) => wrong.said(),
        },
        DiffRequest::PATH => match accepted(method, query) {
            Ok(request) => diff(&admin, request).await,
            Err(wrong) => wrong.said(),
        },
        DrainRequest::PATH => at(method, query, |DrainRequest| drain(&admin)),
        _ => wrong(StatusCode::NOT_FOUND, HERE),
    };
    answer.headers_mut().insert(SERVER, HeaderValue::from_static(PRODUCT));
    call.outcome = outcome;
    answer
}

/// The log line of one request. Written on drop, so that a request whose caller left is logged too.
struct Call {
    caller: Option<UCred>,
    method: Method,
    path: String,
    outcome: &'static str,
}

impl Call {
    fn of(request: &Request<Incoming>, caller: Option<UCred>) -> Call {
        let path = request.uri().path().chars().take(MAX_PATH).collect();
        // `left` is logged if the answer is dropped before it is complete.
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

/// The outcome as a word for the log, and the answer.
type Said = (&'static str, Answer);

/// Why a method and a target are not a valid request.
enum Wrong {
    /// The path takes this method only.
    Method(Method),
    /// A parameter is wrong: a sentence that names it.
    Parameter(String),
}

impl Wrong {
    fn said(self) -> Said {
        match self {
            Wrong::Method(method) => not_allowed(&method),
            Wrong::Parameter(sentence) => wrong(StatusCode::BAD_REQUEST, &sentence),
        }
    }
}

/// Parses `query` as a request, after a check of the method.
fn accepted<R: wire::AdminRequest>(method: &Method, query: &str) -> Result<R, Wrong> {
    if *method != R::METHOD {
        return Err(Wrong::Method(R::METHOD));
    }
    R::parse(query).map_err(Wrong::Parameter)
}

/// Parses `query` as a request and answers it with `say`.
fn at<R: wire::AdminRequest>(method: &Method, query: &str, say: impl FnOnce(R) -> Said) -> Said {
    accepted(method, query).map_or_else(Wrong::said, say)
}

fn told(answer: &impl wire::AdminAnswer) -> Said {
    ("told", json(answer.status(), answer))
}

fn wrong(status: StatusCode, sentence: &str) -> Said {
    ("refused", json(status, &ErrorAnswer { error: sentence.to_owned() }))
}

fn ending() -> Said {
    wrong(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
}

fn not_allowed(method: &Method) -> Said {
    let sentence = format!("the method for this path is {method}");
    let (outcome, mut answer) = wrong(StatusCode::METHOD_NOT_ALLOWED, &sentence);
    if let Ok(method) = HeaderValue::from_str(method.as_str()) {
        answer.headers_mut().insert(ALLOW, method);
    }
    (outcome, answer)
}

fn config(admin: &Admin) -> ConfigAnswer {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let policy = |policy: &Arc<Policy>| (policy.name.to_string(), effective::policy(policy, now));
    ConfigAnswer {
        file: admin.config.display().to_string(),
        generation: live.generation,
        digest: live.digest.to_string(),
        sidegate: effective::settings(&admin.standing.settings.load()),
        policies: live.policies.values().map(policy).collect(),
    }
}

fn tunnels(admin: &Admin, request: TunnelsRequest) -> Said {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let page = Filter::of(request);
    match page.and_then(|filter| tunnels::page(&filter, &admin.tunnels, &live, now)) {
        Ok(page) => told(&page),
        Err(sentence) => wrong(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn explain(admin: &Admin, request: &ExplainRequest) -> Said {
    match Inquiry::of(request) {
        Ok(inquiry) => {
            let budgets = Some(admin.tunnels.budgets() as _);
            told(&inquiry.answer(&admin.live.load(), Timestamp::now(), budgets))
        }
        Err(sentence) => wrong(StatusCode::BAD_REQUEST, &sentence),
    }
}

async fn diff(admin: &Admin, request: DiffRequest) -> Said {
    let Some(preview) = admin.requests.preview(request.promote.clone()).await else {
        return ending();
    };
    let answer = diff::answer(&request, &preview, Timestamp::now());
    let (outcome, said) = told(&answer);
    (if matches!(answer, DiffAnswer::Rejected { .. }) { "rejected" } else { outcome }, said)
}

async fn reload(admin: &Admin, request: ReloadRequest) -> Said {
    let ReloadRequest { wait, accept_shrink, accept_revocations } = request;
    let accept = Accept { shrunk: accept_shrink, revocations: accept_revocations };
    if !wait {
        admin.requests.ask(Cause::Asked, accept).await;
        return ("asked", told(&ReloadAnswer::Asked).1);
    }
    let Some(outcome) = admin.requests.reload(Cause::Asked, accept).await else { return ending() };
    let (word, answer) = match outcome {
        Outcome::Published { generation, digest, revoked, warnings } => {
            let (digest, revoked) = (digest.to_string(), revoked as u64);
            let diagnostics = status::reports(&warnings);
            ("published", ReloadAnswer::Published { generation, digest, revoked, diagnostics })
        }
        Outcome::Unchanged { generation, digest } => {
            ("unchanged", ReloadAnswer::Unchanged { generation, digest: digest.to_string() })
        }
        Outcome::Rejected { errors } => {
            ("rejected", ReloadAnswer::Rejected { diagnostics: status::reports(&errors) })
        }
    };
    (word, told(&answer).1)
}

/// Orders a drain, but only once: a second order would cut all tunnels at once, which a repeated
/// command doesn't intend.
fn drain(admin: &Admin) -> Said {
    let settings = admin.standing.settings.load();
    let shutdown = &settings.shutdown;
    let already = !admin.lifecycle.drain(shutdown.terms());
    let answer = DrainAnswer::Draining(Draining {
        already,
        tunnels: admin.tunnels.len() as u64,
        exchanges: admin.tunnels.exchanges_len() as u64,
        pid: std::process::id(),
        shutdown: ShutdownTimes {
            delay: effective::duration(shutdown.delay),
            spread: effective::duration(shutdown.spread),
            deadline: effective::duration(shutdown.deadline),
            code: shutdown.code,
        },
    });
    ("draining", told(&answer).1)
}
