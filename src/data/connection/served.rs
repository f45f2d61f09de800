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

use crate::data::connection::clock::Clock;
use crate::data::connection::decide::{BackendAnswer, Decision, RequestHead};
use crate::data::connection::ending::{Spoken, Upgraded, closed, ended, over};
use crate::data::connection::exchange::Exchange;
use crate::data::connection::opening::Opening;
use crate::data::connection::plain::GivenUp;
use crate::data::connection::watched::Watched;
use crate::data::core::Core;
use crate::data::http::answer;
use crate::data::http::body::Outgoing;
use crate::data::http::lines::{Heads, Lines};
use crate::data::http::malformed::Bounds;
use crate::data::http::patience::Patience;
use crate::snapshot::ListenerRules;
use crate::snapshot::listener::{Listener, MAX_FIELDS};
use crate::sync::lock;

/// Lets hyper serve a connection that does not upgrade at once. `first` is the answer to its first
/// request, where a backend was asked before hyper reads the head.
pub async fn by_hyper(
    core: &Core,
    rules: &ListenerRules,
    client: Watched,
    first: Option<BackendAnswer>,
    exchange: &Arc<Exchange>,
    mut clock: Clock<'_, '_>,
) -> Spoken {
    let patience = &exchange.patience;
    let heads = Heads::default();
    let Listener { max_head, max_fields, .. } = *rules.listener;
    let bounds = Bounds { max_head, max_fields };
    let client = client.through(Lines::new(heads.clone(), bounds));
    let service = Arc::new(Service::new(Arc::clone(exchange), first));
    let mut connection = server(max_head, max_fields)
        .serve_connection(
            TokioIo::new(client),
            service_fn(|mut request| {
                heads.read(&mut request);
                Arc::clone(&service).answer(request)
            }),
        )
        .with_upgrades();
    let spoken = clock.until(|cx, is_closing| {
        let mut over = Pin::new(&mut connection).poll(cx);
        // Without the body that was given up hyper ends the connection, and another poll shows it.
        if over.is_pending() && patience.lets_go_of_body() {
            over = Pin::new(&mut connection).poll(cx);
        }
        // A connection that is to close ends between two requests, and hyper closes it in order. A
        // head that has begun is answered, and its answer says `close`.
        if over.is_pending() && is_closing && patience.expires() {
            over = Pin::new(&mut connection).poll(cx);
        }
        over
    });
    let spoken = spoken.await;
    let mut back = None;
    if spoken.is_some() {
        if let Some(parts) = connection.into_parts() {
            back = Some((parts.io.into_inner(), parts.read_buf));
        } else if let Some((mut client, read)) = service.handed_over().await {
            if let Some(opening) = lock(&service.opening).take() {
                return Spoken::Upgraded(Upgraded { client, early: read, opening });
            }
            clock.until(|cx, _| Pin::new(&mut client).poll_shutdown(cx)).await;
            back = Some((client, read));
        }
    }
    exchange.settle(patience.was_delivered());
    let is_broken = back.as_ref().is_some_and(|(client, _)| client.has_alerted());
    if !patience.heard() && spoken.is_some() && !is_broken {
        return Spoken::Empty;
    }
    let closed = clock.is_closing().then(|| closed(core));
    let end = ended(spoken, exchange, closed);
    match back {
        Some((client, read)) => over(end, client, !read.is_empty(), patience),
        None => Spoken::Over(end),
    }
}

/// hyper's server, with the bounds of a listener. Names that a client or a backend has sent keep
/// their case, and sidegate's own are in Title-Case.
pub fn server(max_head: usize, max_fields: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    if max_fields != MAX_FIELDS {
        builder.max_headers(max_fields);
    }
    builder
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_header_size(max_head)
        .max_buf_size(max_head + 8 * 1024)
        // The clock has the deadlines.
        .header_read_timeout(None);
    builder
}

/// hyper's service for the requests of one connection.
struct Service {
    exchange: Arc<Exchange>,
    /// The answer to the first request, where a backend was asked before hyper read its head.
    first: Mutex<Option<BackendAnswer>>,
    /// The tunnel that opens when hyper lets go of the connection.
    opening: Mutex<Option<Box<Opening>>>,
    /// hyper's promise to hand the stream over, where a request has asked for an upgrade, whatever
    /// its answer was.
    handed_over: Mutex<Option<OnUpgrade>>,
}

impl Service {
    fn new(exchange: Arc<Exchange>, first: Option<BackendAnswer>) -> Self {
        let (opening, handed_over) = (Mutex::default(), Mutex::default());
        Service { exchange, first: Mutex::new(first), opening, handed_over }
    }

    /// Answers one request. The request begins with the call, not with the first poll: hyper may
    /// read the end of the client's side, or find the client gone, before it polls.
    fn answer(
        self: Arc<Self>,
        mut request: HttpRequest<Incoming>,
    ) -> impl Future<Output = Result<Response<Outgoing>, GivenUp>> {
        if request.extensions().get::<OnUpgrade>().is_some() {
            *lock(&self.handed_over) = Some(hyper::upgrade::on(&mut request));
        }
        let exchange = Arc::clone(&self.exchange);
        let version = request.version();
        let (parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        exchange.patience.request_began(version, has_body);
        let ended = Ended(Some(exchange.patience.clone()));
        let first = lock(&self.first).take().ok_or_else(|| {
            let scheme = exchange.came.arrival.scheme();
            Arc::clone(&exchange).decide(RequestHead::new(parts, None, has_body, scheme))
        });
        async move {
            let decision = match first {
                Ok(answer) => {
                    // Its attempt was permitted before this request began anew.
                    exchange.patience.request_permitted();
                    Decision::Backend(answer)
                }
                Err(decision) => decision.await,
            };
            let mut answer = match decision {
                Decision::Tunnel(mut opening) => {
                    exchange.patience.has_answer();
                    // The client's next bytes are the tunnel's, not the next request's.
                    ended.forget();
                    let head = opening.take_head();
                    *lock(&self.opening) = Some(opening);
                    return Ok(Response::from_parts(head, Outgoing::empty()));
                }
                Decision::Reply(answer) => answer.map(Outgoing::full),
                Decision::Backend(BackendAnswer::Ready(answer)) => answer,
                Decision::Backend(BackendAnswer::Pending(forward, asked)) => {
                    exchange.forward(*forward, asked, body).await?
                }
            };
            exchange.has_answer();
            if exchange.came.closing.is_cancelled() {
                answer::close(&mut answer);
            }
            if version == Version::HTTP_10 && answer.headers().contains_key(CONNECTION) {
                // hyper adds `keep-alive` to what it takes for an answer of HTTP/1.1.
                *answer.version_mut() = version;
            }
            // The request is over when hyper drops the body of its answer.
            Ok(answer.map(|body| body.holding(ended)))
        }
    }

    /// The client's stream, and the bytes that hyper has read ahead, where hyper has handed the
    /// stream over: for a 101, and where another answer ends a connection on which a request has
    /// asked for an upgrade. In the second case our direction has not ended yet.
    async fn handed_over(&self) -> Option<(Watched, Bytes)> {
        let promise = lock(&self.handed_over).take()?;
        let parts = promise.await.ok()?.downcast::<TokioIo<Watched>>().ok()?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Reports a request as over when it is dropped, with the body of the answer.
struct Ended(Option<Patience>);

impl Ended {
    /// Reports nothing: the connection speaks HTTP no more.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(patience) = &self.0 {
            patience.request_ended();
        }
    }
}
