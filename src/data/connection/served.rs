//! A connection under hyper's server: every request but an attempt that opens its connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Request as HttpRequest, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWrite;

use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::decide::{BackendAnswer, Decision, RequestHead};
use crate::data::connection::ending::{
    HttpOutcome, UpgradedConnection, closing_end, finish_served, hyper_end,
};
use crate::data::connection::plain::ConnectionAborted;
use crate::data::connection::service::HttpService;
use crate::data::connection::timed_stream::TimedStream;
use crate::data::connection::timers::ConnectionTimers;
use crate::data::context::ThreadContext;
use crate::data::http::body::ResponseBody;
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::head_check::HeadLimits;
use crate::data::http::reply;
use crate::data::http::request_filter::{HeadHandoff, RequestFilter};
use crate::snapshot::ListenerRules;
use crate::snapshot::listener::{DEFAULT_MAX_FIELDS, Listener};
use crate::sync::lock;

/// Lets hyper serve a connection that does not upgrade at once. `first` is the answer to its first
/// request, where a backend was asked before hyper reads the head.
pub async fn serve_with_hyper(
    thread: &ThreadContext,
    rules: &ListenerRules,
    client: TimedStream,
    first: Option<BackendAnswer>,
    service: &Arc<HttpService>,
    mut timers: ConnectionTimers<'_, '_>,
) -> HttpOutcome {
    let deadlines = &service.deadlines;
    let heads = HeadHandoff::default();
    let Listener { max_head, max_fields, .. } = *rules.listener;
    let limits = HeadLimits { max_head, max_fields };
    let client = client.with_filter(RequestFilter::new(heads.clone(), limits));
    let hyper_service = Arc::new(Service::new(Arc::clone(service), first));
    let mut connection = server(max_head, max_fields)
        .serve_connection(
            TokioIo::new(client),
            service_fn(|mut request| {
                heads.hyper_read(&mut request);
                Arc::clone(&hyper_service).answer(request)
            }),
        )
        .with_upgrades();
    let spoken = timers.run_until(|cx, is_closing| {
        let mut over = Pin::new(&mut connection).poll(cx);
        // Without the body that was given up hyper ends the connection, and another poll shows it.
        if over.is_pending() && deadlines.drop_discarded_body() {
            over = Pin::new(&mut connection).poll(cx);
        }
        // A connection that is to close ends between two requests, and hyper closes it in order. A
        // head that has begun is answered, and its answer says `Connection: close`.
        if over.is_pending() && is_closing && deadlines.expire_if_idle() {
            over = Pin::new(&mut connection).poll(cx);
        }
        over
    });
    let spoken = spoken.await;
    let mut back = None;
    if spoken.is_some() {
        if let Some(parts) = connection.into_parts() {
            back = Some((parts.io.into_inner(), parts.read_buf));
        } else if let Some((mut client, read)) = hyper_service.handed_over().await {
            // hyper hands the stream over for any answer to a request with Upgrade; only a 101 has
            // left a tunnel here.
            if let Some(accepted) = lock(&hyper_service.accepted).take() {
                return HttpOutcome::Upgraded(UpgradedConnection { client, early: read, accepted });
            }
            timers.run_until(|cx, _| Pin::new(&mut client).poll_shutdown(cx)).await;
            back = Some((client, read));
        }
    }
    service.log_deferred(deadlines.was_delivered());
    let is_broken = back.as_ref().is_some_and(|(client, _)| client.has_alerted());
    // A client that broke TLS has sent something, though no byte of HTTP: it is no health check.
    if !deadlines.has_received() && spoken.is_some() && !is_broken {
        return HttpOutcome::Empty;
    }
    let closed = timers.is_closing().then(|| closing_end(thread));
    let end = hyper_end(spoken, service, closed);
    match back {
        Some((client, read)) => finish_served(end, client, !read.is_empty(), service),
        None => HttpOutcome::Ended(end),
    }
}

/// hyper's server, with the bounds of a listener. Names that a client or a backend has sent keep
/// their case, and sidegate's own are in Title-Case.
pub fn server(max_head: usize, max_fields: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper has room for its default on the stack. Any number that is set costs an allocation for
    // each request.
    if max_fields != DEFAULT_MAX_FIELDS {
        builder.max_headers(max_fields);
    }
    builder
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_header_size(max_head)
        // hyper panics at less than 8 KiB, whatever `max_head` is.
        .max_buf_size(max_head + 8 * 1024)
        // The timers have the deadlines.
        .header_read_timeout(None);
    builder
}

/// hyper's service for the requests of one connection.
struct Service {
    service: Arc<HttpService>,
    /// The answer to the first request, where a backend was asked before hyper read its head.
    first: Mutex<Option<BackendAnswer>>,
    /// What opens when hyper lets go of the connection.
    accepted: Mutex<Option<AcceptedUpgrade>>,
    /// hyper's promise to hand the stream over, where a request has asked for an upgrade, whatever
    /// its answer was.
    handed_over: Mutex<Option<OnUpgrade>>,
}

impl Service {
    fn new(service: Arc<HttpService>, first: Option<BackendAnswer>) -> Self {
        let (accepted, handed_over) = (Mutex::default(), Mutex::default());
        Service { service, first: Mutex::new(first), accepted, handed_over }
    }

    /// Answers one request. The request begins with the call, not with the first poll: hyper may
    /// read the end of the client's side, or find the client gone, before it polls.
    fn answer(
        self: Arc<Self>,
        mut request: HttpRequest<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, ConnectionAborted>> {
        if request.extensions().get::<OnUpgrade>().is_some() {
            *lock(&self.handed_over) = Some(hyper::upgrade::on(&mut request));
        }
        let service = Arc::clone(&self.service);
        let version = request.version();
        let (parts, body) = request.into_parts();
        // RFC 9112 §6.3: a request without Content-Length and Transfer-Encoding has no body.
        let has_body = !body.is_end_stream();
        service.deadlines.on_request_start(version, has_body);
        let ended = RequestEndGuard(Some(service.deadlines.clone()));
        let first = lock(&self.first).take().ok_or_else(|| {
            let scheme = service.connection.forwarded.scheme();
            Arc::clone(&service).decide(RequestHead::new(parts, None, has_body, scheme))
        });
        async move {
            let decision = match first {
                Ok(answer) => {
                    // Its attempt was permitted before this request began anew.
                    service.deadlines.on_permit();
                    Decision::Backend(answer)
                }
                Err(decision) => decision.await,
            };
            let mut answer = match decision {
                Decision::Accept(mut accepted) => {
                    service.deadlines.set_answered();
                    // The client's next bytes are the tunnel's, not the next request's.
                    ended.forget();
                    let head = accepted.take_head();
                    *lock(&self.accepted) = Some(accepted);
                    return Ok(Response::from_parts(head, ResponseBody::empty()));
                }
                Decision::Drop => return Err(service.drop_client().await),
                Decision::Reply(answer) => answer.map(ResponseBody::full),
                Decision::Backend(BackendAnswer::Ready(answer)) => answer,
                Decision::Backend(BackendAnswer::Pending(forward, log)) => {
                    service.forward(*forward, log, body).await?
                }
            };
            service.has_answer();
            if service.is_last_answer() {
                reply::set_connection_close(&mut answer);
            }
            if version == Version::HTTP_10 && answer.headers().contains_key(CONNECTION) {
                // hyper adds `keep-alive` to what it takes for an answer of HTTP/1.1.
                *answer.version_mut() = version;
            }
            // The request is over when hyper drops the body of its answer.
            Ok(answer.map(|body| body.with_guard(ended)))
        }
    }

    /// The client's stream, and the bytes that hyper has read ahead, where hyper has handed the
    /// stream over: for a 101, and where another answer ends a connection on which a request has
    /// asked for an upgrade. In the second case our direction has not ended yet.
    async fn handed_over(&self) -> Option<(TimedStream, Bytes)> {
        let promise = lock(&self.handed_over).take()?;
        let parts = promise.await.ok()?.downcast::<TokioIo<TimedStream>>().ok()?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Reports a request as over when it is dropped, with the body of the answer.
struct RequestEndGuard(Option<HttpDeadlines>);

impl RequestEndGuard {
    /// Reports nothing: the connection speaks HTTP no more.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for RequestEndGuard {
    fn drop(&mut self) {
        if let Some(deadlines) = &self.0 {
            deadlines.on_response();
        }
    }
}
