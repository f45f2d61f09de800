//! Answers requests on the admin socket: one answer and one log line with the caller for each.
//!
//! docs/admin.md is the reference. A caller who could connect may make any request but one:
//! `upgrade` starts a program, and looks who asks.

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue, SERVER};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::net::unix::UCred;

use crate::admin::answer::{AdminResponse, json};
use crate::admin::explain::ExplainQuery;
use crate::admin::state::AdminContext;
use crate::admin::wire::{
    self, AdminRequest as _, BanRequest, BansRequest, CloseAnswer, CloseRequest, ConfigAnswer,
    ConfigRequest, CrowdsecRequest, DecisionsRequest, DiffAnswer, DiffRequest, DrainAnswer,
    DrainRequest, Draining, ErrorAnswer, ExplainRequest, LapsingRequest, LogLevelRequest,
    OverviewRequest, PRODUCT, PauseAnswer, PauseRequest, RecentReload, RefusalsRequest,
    ReloadAnswer, ReloadRequest, ShutdownTimes, StatusRequest, TunnelsRequest, UnbanRequest,
    UpgradeRequest,
};
use crate::admin::{
    bans, close, crowdsec, decisions, diff, hold, lapsing, log_level, overview, staged, status,
    tunnels, upgrade,
};
use crate::control::config::effective;
use crate::control::reload::{
    AcceptedEffects, MAX_PAUSE, PreviewQuestion, RecentPublish, ReloadOutcome, Trigger,
};
use crate::policy::Policy;

/// Most characters of a path that are logged.
const MAX_LOGGED_PATH: usize = 128;

/// The logged outcome of an answered question.
const TOLD: &str = "told";

/// The error for a request with any other path.
const UNKNOWN_PATH: &str = "the requests are GET /v1/status, /v1/overview, /v1/config, /v1/tunnels, \
    /v1/decisions, /v1/refused, /v1/lapsing and /v1/bans, POST /v1/reload, /v1/close, /v1/drain, \
    /v1/explain, /v1/diff, /v1/pause, /v1/ban, /v1/unban, /v1/crowdsec, /v1/log-level and \
    /v1/upgrade";

/// Answers one request of `caller`. What changes something is not begun if `has_left` says that the
/// caller reads no answer any more: its operator has seen an error.
pub async fn answer(
    admin: Arc<AdminContext>,
    request: Request<Incoming>,
    caller: Option<UCred>,
    has_left: impl Fn() -> bool,
) -> AdminResponse {
    let mut call = RequestLogGuard::new(&request, caller);
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let (method, path) = (&head.method, head.uri.path());
    let (outcome, mut answer) = match answer_question(&admin, method, path, query) {
        Some(answer) => answer,
        None if has_left() => {
            let sentence = "nothing was done: the caller has left";
            ("dropped", error_answer(StatusCode::SERVICE_UNAVAILABLE, sentence).1)
        }
        None => {
            // The upgrade itself is answered by the process that it was asked of.
            let is_upgrade = path == UpgradeRequest::PATH;
            let answer = match admin.lifecycle.released().is_cancelled() {
                true => handed_over_answer(),
                false => carry_out(&admin, method, path, query, body, caller).await,
            };
            // Looked at once more: the hand-over may have come while the order was carried out.
            match !is_upgrade && admin.lifecycle.released().is_cancelled() {
                true => handed_over_answer(),
                false => answer,
            }
        }
    };
    answer.headers_mut().insert(SERVER, HeaderValue::from_static(PRODUCT));
    call.outcome = outcome;
    answer
}

/// Answers a request that changes nothing. `None` means that the path is of another request.
fn answer_question(
    admin: &AdminContext,
    method: &Method,
    path: &str,
    query: &str,
) -> Option<LoggedAnswer> {
    Some(match path {
        StatusRequest::PATH => {
            respond(method, query, |_: StatusRequest| answer_with(&status::status(admin)))
        }
        OverviewRequest::PATH => {
            respond(method, query, |request| answer_with(&overview::overview(admin, &request)))
        }
        ConfigRequest::PATH => {
            respond(method, query, |_: ConfigRequest| answer_with(&config(admin)))
        }
        TunnelsRequest::PATH => respond(method, query, |request| tunnels(admin, request)),
        DecisionsRequest::PATH => respond(method, query, |request| {
            answer_or_error(decisions::decisions(&admin.recent, &request, Timestamp::now()))
        }),
        RefusalsRequest::PATH => respond(method, query, |request| {
            answer_or_error(decisions::refused(&admin.recent, &request, Timestamp::now()))
        }),
        LapsingRequest::PATH => respond(method, query, |request| {
            answer_with(&lapsing::lapsing(&request, &admin.live.load(), Timestamp::now()))
        }),
        ExplainRequest::PATH => respond(method, query, |request| explain(admin, &request)),
        BansRequest::PATH => {
            respond(method, query, |_: BansRequest| answer_with(&bans::bans(admin)))
        }
        _ => return None,
    })
}

/// Answers a request that may wait, or that changes something.
async fn carry_out(
    admin: &Arc<AdminContext>,
    method: &Method,
    path: &str,
    query: &str,
    body: Incoming,
    caller: Option<UCred>,
) -> LoggedAnswer {
    match path {
        CloseRequest::PATH => respond(method, query, |request| close(admin, request, caller)),
        ReloadRequest::PATH => match parse_request(method, query) {
            Ok(request) => reload(admin, request).await,
            Err(wrong) => wrong.into_answer(),
        },
        DiffRequest::PATH => match parse_request(method, query) {
            Ok(request) => match staged::read(request, body).await {
                Ok(request) => diff(admin, request).await,
                Err(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
            },
            Err(wrong) => wrong.into_answer(),
        },
        BanRequest::PATH => match parse_request(method, query) {
            Ok(request) => {
                let by = caller.map(|caller| caller.uid());
                answer_or_error(bans::ban(admin, request, by).await)
            }
            Err(wrong) => wrong.into_answer(),
        },
        UnbanRequest::PATH => match parse_request(method, query) {
            Ok(request) => answer_or_error(bans::unban(admin, request).await),
            Err(wrong) => wrong.into_answer(),
        },
        PauseRequest::PATH => match parse_request(method, query) {
            Ok(PauseRequest) => pause(admin).await,
            Err(wrong) => wrong.into_answer(),
        },
        CrowdsecRequest::PATH => {
            respond(method, query, |request| answer_with(&crowdsec::crowdsec(admin, request)))
        }
        UpgradeRequest::PATH => match parse_request(method, query) {
            Ok(request) => upgrade(admin, request, caller).await,
            Err(wrong) => wrong.into_answer(),
        },
        DrainRequest::PATH => respond(method, query, |DrainRequest| drain(admin)),
        LogLevelRequest::PATH => respond(method, query, |request| {
            match log_level::answer(admin, &request, caller.as_ref()) {
                Ok(level) => answer_with(&level),
                Err(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
            }
        }),
        _ => error_answer(StatusCode::NOT_FOUND, UNKNOWN_PATH),
    }
}

/// The log line of one request. Written on drop, so that a request whose caller left is logged too.
struct RequestLogGuard {
    caller: Option<UCred>,
    method: Method,
    path: String,
    outcome: &'static str,
}

impl RequestLogGuard {
    fn new(request: &Request<Incoming>, caller: Option<UCred>) -> RequestLogGuard {
        let path = request.uri().path().chars().take(MAX_LOGGED_PATH).collect();
        // `left` is logged if the answer is dropped before it is complete.
        RequestLogGuard { caller, method: request.method().clone(), path, outcome: "left" }
    }
}

impl Drop for RequestLogGuard {
    fn drop(&mut self) {
        let RequestLogGuard { caller, method, path, outcome } = self;
        let (uid, gid) = (caller.map(|caller| caller.uid()), caller.map(|caller| caller.gid()));
        let pid = caller.and_then(|caller| caller.pid());
        let (path, outcome) = (path.as_str(), *outcome);
        // Asked every second or two for as long as a screen is open: a line each would bury others.
        if path == OverviewRequest::PATH && outcome == TOLD {
            return tracing::debug!(uid, gid, pid, %method, path, outcome, "admin");
        }
        tracing::info!(uid, gid, pid, %method, path, outcome, "admin");
    }
}

/// The outcome as a word for the log, and the answer.
type LoggedAnswer = (&'static str, AdminResponse);

/// Why a method and a target are not a valid request.
enum RequestError {
    /// The path takes this method only.
    Method(Method),
    /// A parameter is wrong: a sentence that names it.
    Parameter(String),
}

impl RequestError {
    fn into_answer(self) -> LoggedAnswer {
        match self {
            RequestError::Method(method) => method_not_allowed(&method),
            RequestError::Parameter(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
        }
    }
}

/// Parses `query` as a request, after a check of the method.
fn parse_request<R: wire::AdminRequest>(method: &Method, query: &str) -> Result<R, RequestError> {
    if *method != R::METHOD {
        return Err(RequestError::Method(R::METHOD));
    }
    R::parse(query).map_err(RequestError::Parameter)
}

/// Parses `query` as a request and answers it with `say`.
fn respond<R: wire::AdminRequest>(
    method: &Method,
    query: &str,
    say: impl FnOnce(R) -> LoggedAnswer,
) -> LoggedAnswer {
    parse_request(method, query).map_or_else(RequestError::into_answer, say)
}

fn answer_with(answer: &impl wire::AdminAnswer) -> LoggedAnswer {
    (TOLD, json(answer.status(), answer))
}

fn answer_or_error(answer: Result<impl wire::AdminAnswer, String>) -> LoggedAnswer {
    match answer {
        Ok(answer) => answer_with(&answer),
        Err(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn error_answer(status: StatusCode, sentence: &str) -> LoggedAnswer {
    ("refused", json(status, &ErrorAnswer { error: sentence.to_owned() }))
}

fn ending_answer() -> LoggedAnswer {
    error_answer(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
}

/// The answer of a process that has handed over: an order would reach its own tunnels alone.
fn handed_over_answer() -> LoggedAnswer {
    let sentence = "a new process has taken over: ask again";
    error_answer(StatusCode::SERVICE_UNAVAILABLE, sentence)
}

fn method_not_allowed(method: &Method) -> LoggedAnswer {
    let sentence = format!("the method for this path is {method}");
    let (outcome, mut answer) = error_answer(StatusCode::METHOD_NOT_ALLOWED, &sentence);
    if let Ok(method) = HeaderValue::from_str(method.as_str()) {
        answer.headers_mut().insert(ALLOW, method);
    }
    (outcome, answer)
}

fn config(admin: &AdminContext) -> ConfigAnswer {
    let (live, now) = (admin.live.load(), Timestamp::now());
    let policy = |policy: &Arc<Policy>| (policy.name.to_string(), effective::policy(policy, now));
    ConfigAnswer {
        file: admin.config.display().to_string(),
        generation: live.generation,
        digest: live.digest.to_string(),
        sidegate: effective::settings(&admin.config_status.settings.load()),
        policies: live.policies.values().map(policy).collect(),
    }
}

fn tunnels(admin: &AdminContext, request: TunnelsRequest) -> LoggedAnswer {
    let (live, now) = (admin.live.load(), Timestamp::now());
    answer_or_error(tunnels::page(request, &admin.tunnels, &live, now))
}

/// Closes what `request` selects. A line of its own has the caller and the counts.
fn close(admin: &AdminContext, request: CloseRequest, caller: Option<UCred>) -> LoggedAnswer {
    let answer = close::close(admin, request);
    let Ok(CloseAnswer { dry_run: false, tunnels, exchanges, code, reason, .. }) = &answer else {
        return answer_or_error(answer);
    };
    let (uid, pid) = (caller.map(|caller| caller.uid()), caller.and_then(|caller| caller.pid()));
    tracing::info!(uid, pid, tunnels, exchanges, code, reason, "closing by order");
    ("closing", answer_or_error(answer).1)
}

fn explain(admin: &AdminContext, request: &ExplainRequest) -> LoggedAnswer {
    match ExplainQuery::parse(request) {
        Ok(inquiry) => {
            let budgets = Some(admin.tunnels.budgets() as _);
            match inquiry.answer(&admin.live.load(), Timestamp::now(), budgets) {
                Ok(answer) => answer_with(&answer),
                Err(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
            }
        }
        Err(sentence) => error_answer(StatusCode::BAD_REQUEST, &sentence),
    }
}

async fn diff(admin: &AdminContext, request: DiffRequest) -> LoggedAnswer {
    let overlay = match staged::overlay(&admin.config, &request.files) {
        Ok(overlay) => Arc::new(overlay),
        Err(sentence) => return error_answer(StatusCode::BAD_REQUEST, &sentence),
    };
    let (promoted, overrides) = (request.promote.clone(), request.overrides.clone());
    let question = PreviewQuestion { promoted, overlay, overrides };
    let Some(preview) = admin.requests.preview(question).await else {
        return ending_answer();
    };
    let answer = diff::answer(&request, &preview, Timestamp::now());
    let (outcome, said) = answer_with(&answer);
    (if matches!(answer, DiffAnswer::Rejected { .. }) { "rejected" } else { outcome }, said)
}

async fn pause(admin: &AdminContext) -> LoggedAnswer {
    match admin.requests.pause().await {
        Some(pause) => {
            let answer = PauseAnswer { pause_ms: MAX_PAUSE.as_millis() as u64 };
            let (_, mut answer) = answer_with(&answer);
            // For the connection, which holds it.
            answer.extensions_mut().insert(Arc::new(pause));
            ("paused", answer)
        }
        None => ending_answer(),
    }
}

async fn upgrade(
    admin: &AdminContext,
    request: UpgradeRequest,
    caller: Option<UCred>,
) -> LoggedAnswer {
    match upgrade::upgrade(admin, request, caller).await {
        Ok(answer) => ("upgraded", answer_with(&answer).1),
        Err((status, sentence)) => error_answer(status, &sentence),
    }
}

async fn reload(admin: &AdminContext, request: ReloadRequest) -> LoggedAnswer {
    let accept = AcceptedEffects {
        shrunk: request.accept_shrink,
        revocations: request.accept_revocations,
        widening: request.accept_widening,
        overrides: request.overrides,
        live_only: request.live,
        expect: request.expect,
    };
    if !request.wait {
        admin.requests.queue_reload(Trigger::Requested, accept).await;
        return ("asked", answer_with(&ReloadAnswer::Asked).1);
    }
    let Some(outcome) = admin.requests.reload(Trigger::Requested, accept).await else {
        return ending_answer();
    };
    let (word, answer) = match outcome {
        ReloadOutcome::Published {
            generation,
            digest,
            revoked,
            warnings,
            overridden,
            not_kept,
        } => {
            let (digest, revoked) = (digest.to_string(), revoked as u64);
            let answer = ReloadAnswer::Published {
                generation,
                digest,
                revoked,
                diagnostics: status::reports(&warnings),
                overridden: hold::overrides(&overridden),
                not_kept,
            };
            ("published", answer)
        }
        ReloadOutcome::Unchanged { generation, digest, recent, not_kept } => {
            let (digest, recent) = (digest.to_string(), recent.map(recent_reload));
            ("unchanged", ReloadAnswer::Unchanged { generation, digest, recent, not_kept })
        }
        ReloadOutcome::Rejected { errors } => {
            ("rejected", ReloadAnswer::Rejected { diagnostics: status::reports(&errors) })
        }
        ReloadOutcome::OtherFiles { errors } => {
            ("refused", ReloadAnswer::Rejected { diagnostics: status::reports(&errors) })
        }
    };
    (word, answer_with(&answer).1)
}

fn recent_reload(publish: RecentPublish) -> RecentReload {
    let age_ms = u64::try_from(publish.age.as_millis()).unwrap_or(u64::MAX);
    RecentReload { cause: status::cause(publish.trigger), age_ms }
}

/// Orders a drain, but only once: a second order would cut all tunnels at once, which a repeated
/// command doesn't intend.
fn drain(admin: &AdminContext) -> LoggedAnswer {
    let settings = admin.config_status.settings.load();
    let shutdown = &settings.shutdown;
    let already = !admin.lifecycle.drain(shutdown.drain_options());
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
    ("draining", answer_with(&answer).1)
}
