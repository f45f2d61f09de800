//! The story of a connection: TLS, the heads that it sends, and the tunnel that it becomes.
//!
//! It ends in exactly one way, which is counted when its [`Open`] is dropped.

mod exchange;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::close::Reason;
use crate::data::Core;
use crate::data::cap::Place;
use crate::data::connection::exchange::{Came, Exchange, Opening, TakenBack};
use crate::data::forward::Arrival;
use crate::data::patience::{Patience, Stream, Waits, Watched};
use crate::data::pending::Waiting;
use crate::data::tls;
use crate::data::tunnel::{Ended, Tunnel};
use crate::observe::log::decision::{self, Party};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics, TlsResult};
use crate::policy::network::{Client, Peer};
use crate::refusal::Refusal;
use crate::snapshot::ListenerRules;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::route::RouteTimeouts;

/// How long one that was accepted before a drain began has for its first head: whoever was let in is answered.
const FIRST_BYTE: Duration = Duration::from_secs(2);

/// A connection as it was accepted.
pub struct Accepted {
    /// The socket, with `TCP_NODELAY`.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: Peer,
    /// The port that it came to.
    pub port: u16,
    /// The listener's rules.
    pub rules: ListenerRules,
    /// The listener's counters.
    pub metrics: Arc<ListenerMetrics>,
    /// Its places under the listener's cap and the process'.
    pub places: (Place, Place),
    /// Its place among those of its client that wait.
    pub waiting: Waiting,
}

/// A connection that counts as open until this is dropped.
struct Open {
    core: Arc<Core>,
    listener: Arc<ListenerMetrics>,
    end: ConnectionEnd,
    _places: (Place, Place),
}

impl Drop for Open {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end = ConnectionEnd::Panic;
            self.core.shared.metrics.panicked();
        }
        self.listener.closed(self.end);
    }
}

/// Serves one connection to its end.
pub async fn serve(core: Arc<Core>, accepted: Accepted) {
    let Accepted { stream, peer, port, rules, metrics, places, waiting } = accepted;
    let mut open = Open { core: Arc::clone(&core), listener: metrics, end: ConnectionEnd::Client, _places: places };

    let (stream, served) = match encrypt(&core, &mut open, &rules, stream, peer).await {
        Ok(stream) => stream,
        Err(end) => {
            open.end = end;
            return;
        }
    };
    let arrival = Arrival { client: Client::at(peer), tls: rules.tls.is_some(), port };
    let listener = Arc::clone(&rules.listener.name);
    let came = Came { listener, speaks: rules.listener.speaks, arrival, peer, served };
    let exchange = Arc::new(Exchange::new(Arc::clone(&core), came, waiting));
    match converse(&core, &rules, stream, exchange).await {
        Spoken::Over(end) => open.end = end,
        Spoken::Empty => open.listener.probed(),
        Spoken::Upgraded(client, opening) => {
            open.end = ConnectionEnd::Upgraded;
            let tunnel = opening.open(&core, client.io.into_inner().into_channel(), &client.read_buf);
            // The struct itself: an async block around it would triple the task.
            core.tracker.spawn(Recorded { tunnel, open, over: false });
        }
    }
}

/// The TLS handshake, where the listener wants one; and the certificate that was served.
async fn encrypt(
    core: &Arc<Core>,
    open: &mut Open,
    rules: &ListenerRules,
    tcp: TcpStream,
    peer: Peer,
) -> Result<(Stream, Option<Arc<Certificate>>), ConnectionEnd> {
    let Some(admitted) = &rules.tls else { return Ok((Stream::Clear(tcp), None)) };
    let began = Instant::now();
    let listener = Arc::clone(&rules.listener.name);
    let mut chosen = None;
    let configuration = || {
        // Certificates of the generation that runs when the client speaks, not at the accept.
        let live = core.shared.live.load();
        let present = live.listeners.get(&listener).and_then(|rules| rules.tls.as_ref());
        let (config, by_sni) = present.unwrap_or(admitted).for_one();
        chosen = Some(by_sni);
        config
    };
    let accepted = timeout_at(began + rules.listener.timeouts.tls, tls::accept(tcp, configuration)).await;
    let took = began.elapsed();
    let result = match &accepted {
        Ok(Ok((_, facts))) if facts.resumed => TlsResult::Resumed,
        Ok(Ok(_)) => TlsResult::Full,
        Ok(Err(tls::Failure::Empty)) => {
            open.listener.probed();
            return Err(ConnectionEnd::Client);
        }
        Ok(Err(tls::Failure::Broken(_))) => TlsResult::Failed,
        Err(_) => TlsResult::Timeout,
    };
    open.listener.tls_handshake(result, took);
    match accepted {
        Ok(Ok((stream, _))) => Ok((Stream::Tls(stream), chosen.and_then(|by_sni| by_sni.chosen().cloned()))),
        failed => {
            core.metrics.no_route().refused(Refusal::Tls);
            let error = match failed {
                Ok(Err(tls::Failure::Broken(error))) => error.to_string(),
                _ => "not done in time".to_owned(),
            };
            let party = Party { listener: &listener, client: Client::at(peer), peer };
            decision::turned_away(party, Refusal::Tls, None, Some(&error), &core.cap);
            Err(ConnectionEnd::Tls)
        }
    }
}

/// What came of the HTTP part of a connection.
enum Spoken {
    /// It is over.
    Over(ConnectionEnd),
    /// It ended without a byte: a health check.
    Empty,
    /// A 101 went out, and this waits to become a tunnel.
    Upgraded(Box<TakenBack>, Box<Opening>),
}

/// HTTP/1.1 until the client leaves, is refused, is late, or upgrades.
async fn converse(core: &Arc<Core>, rules: &ListenerRules, stream: Stream, exchange: Arc<Exchange>) -> Spoken {
    let patience = Patience::new(rules.listener.timeouts, RouteTimeouts::default().write_stall);
    let io = TokioIo::new(Watched::new(stream, patience.clone()));
    let service = service_fn(|request| Arc::clone(&exchange).answer(request, patience.clone()));
    let connection = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_header_size(rules.listener.max_head)
        .max_buf_size(rules.listener.max_head + 8 * 1024)
        .header_read_timeout(None)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut finish = pin!(core.shared.finish.cancelled());
    let (mut finishing, mut closing) = (false, false);
    let mut timer = pin!(sleep_until(Instant::now()));
    let spoken = poll_fn(|cx| {
        if !finishing && finish.as_mut().poll(cx).is_ready() {
            finishing = true;
            patience.hurry(Instant::now() + FIRST_BYTE);
        }
        // hyper would close a connection that has said nothing yet, whose first head may be on its way.
        if finishing && !closing && patience.heard() {
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(Some));
        }
        // Between requests a drain has nothing to wait for.
        if finishing && patience.is_idle() {
            return Poll::Ready(Err(None));
        }
        while let Some((at, waits)) = patience.deadline() {
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if patience.deadline() == Some((at, waits)) {
                return Poll::Ready(Err(None));
            }
        }
        Poll::Pending
    })
    .await;
    if let Some(ready) = exchange.take_ready() {
        return match ready.upgraded().await {
            Some((client, opening)) => Spoken::Upgraded(Box::new(client), Box::new(opening)),
            None => Spoken::Over(ConnectionEnd::Client),
        };
    }
    if !patience.heard() && !matches!(spoken, Err(None)) {
        return Spoken::Empty;
    }
    Spoken::Over(match spoken {
        Err(None) if finishing => ConnectionEnd::Drain,
        Err(None) => late(&exchange, &patience),
        Err(Some(error)) if error.is_parse() => exchange.malformed(&error.to_string()),
        _ if exchange.closed_it() => ConnectionEnd::Refused,
        _ if finishing => ConnectionEnd::Drain,
        _ => ConnectionEnd::Client,
    })
}

/// A deadline passed: the word depends on what was waited for.
fn late(exchange: &Exchange, patience: &Patience) -> ConnectionEnd {
    match patience.deadline() {
        Some((_, Waits::Head)) => exchange.malformed("not there in time"),
        Some((_, Waits::Idle)) => ConnectionEnd::KeepAlive,
        _ => ConnectionEnd::Client,
    }
}

/// A tunnel whose ending is recorded: in the log, in the metrics, and by giving back its places.
struct Recorded {
    tunnel: Tunnel,
    open: Open,
    over: bool,
}

impl Recorded {
    fn record(&mut self, ended: Ended) {
        self.over = true;
        let Ended { closed, refusal } = ended;
        let entry = self.tunnel.entry();
        let route = &self.tunnel.route().name;
        self.tunnel.metrics().tunnel_closed(&closed, refusal);
        decision::closed(route, entry, &closed, refusal);
    }
}

impl Future for Recorded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ended = ready!(Pin::new(&mut self.tunnel).poll(cx));
        self.record(ended);
        Poll::Ready(())
    }
}

impl Drop for Recorded {
    /// A panic, or a runtime that ends, must not take an ending off the books.
    fn drop(&mut self) {
        if !self.over {
            let reason = if std::thread::panicking() { Reason::Panic } else { Reason::Cut };
            let ended = self.tunnel.ended(reason);
            self.record(ended);
            if reason == Reason::Cut {
                self.open.end = ConnectionEnd::Drain;
            }
        }
    }
}

/// A value that is handed over once.
struct Once<T>(Mutex<Option<T>>);

impl<T> Once<T> {
    fn new(value: Option<T>) -> Self {
        Once(Mutex::new(value))
    }

    fn put(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
