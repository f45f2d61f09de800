//! The story of a connection: TLS, the heads that it sends, and the tunnel that it becomes.
//!
//! A connection ends in exactly one way, which is counted when its [`Open`] is dropped.

mod asked;
mod clock;
mod exchange;
mod linger;
mod open;
mod opening;
mod watched;

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::close::Reason;
use crate::data::admission::cap::BothPlaces;
use crate::data::admission::foreign::{self, Is};
use crate::data::admission::pending::{Claim, Seat};
use crate::data::connection::asked::Came;
use crate::data::connection::clock::{Clock, late};
use crate::data::connection::exchange::Exchange;
use crate::data::connection::linger::{Lingering, linger};
use crate::data::connection::open::Open;
use crate::data::connection::opening::Opening;
use crate::data::connection::watched::{Stream, Watched};
use crate::data::core::Core;
use crate::data::http::answer;
use crate::data::http::forward::Arrival;
use crate::data::http::lines::{Heads, Lines};
use crate::data::http::malformed::Bounds;
use crate::data::http::patience::{Patience, Waits};
use crate::data::tls;
use crate::data::tunnel::{Ended, Tunnel};
use crate::observe::log::decision::{self, Party};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics, TlsResult};
use crate::policy::network::{Client, Peer};
use crate::refusal::Refusal;
use crate::snapshot::ListenerRules;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, MAX_FIELDS};
use crate::snapshot::route::RouteTimeouts;

/// The most bytes that one read takes of a client before it has a tunnel: as many as hyper reads,
/// and no more than any `max_head`.
const SOME: usize = 8 * 1024;

/// A connection as it was accepted.
pub struct Accepted {
    /// The socket, with `TCP_NODELAY`.
    pub stream: TcpStream,
    /// The address at its other end.
    pub peer: Peer,
    /// The local port that it came to.
    pub port: u16,
    /// The listener's rules at the accept.
    pub rules: ListenerRules,
    /// The counters of its listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Its places under the listener's cap and the process'.
    pub places: BothPlaces,
    /// The client that the bounds before a policy are charged to. It is the peer, as long as no
    /// peer speaks for others: once PROXY headers are read, listed peers are exempt, and the client
    /// that a header names is charged instead.
    pub client: Client,
    /// Its seat among the connections of its client, or the claim to one.
    pub claim: Claim,
    /// Cancelled when its listener is gone or speaks otherwise, and with the process' `closing`.
    pub closing: CancellationToken,
}

/// Serves one connection to its end.
pub async fn serve(core: Arc<Core>, accepted: Accepted) {
    let Accepted { stream, peer, port, rules, metrics, places, client, claim, closing } = accepted;
    let mut open =
        Open { core: Arc::clone(&core), listener: metrics, end: ConnectionEnd::Client, places };

    let party = Party { listener: &rules.listener.name, client, peer };
    let deadline = Instant::now() + rules.listener.timeouts.tls;
    let Some(seat) = claim.granted(deadline).await else {
        open.end = ConnectionEnd::Pending;
        return turned_away(&core, party, Refusal::Pending, None);
    };
    let until = Until { deadline, closing: &closing };
    let (stream, served) = match encrypt(&core, &mut open, &rules, stream, party, until).await {
        Ok(stream) => stream,
        Err(Unserved { end, answered }) => {
            open.end = end;
            if let Some(tcp) = answered {
                let patience = patience_of(&rules, seat);
                core.tracker.spawn(linger(
                    Lingering { tcp, discarded: 0, patience },
                    open,
                    client.key(),
                ));
            }
            return;
        }
    };
    let arrival = Arrival { client, tls: rules.tls.is_some(), port };
    let listener = Arc::clone(&rules.listener.name);
    let (speaks, max_fields) = (rules.listener.speaks, rules.listener.max_fields);
    let max_head = rules.listener.max_head;
    let came = Came { listener, speaks, max_fields, max_head, arrival, peer, served, closing };
    let patience = patience_of(&rules, seat);
    let exchange = Arc::new(Exchange::new(Arc::clone(&core), came, patience.clone()));
    match converse(&core, &rules, stream, exchange, patience).await {
        Spoken::Over(end) => open.end = end,
        Spoken::Unread(end, lingering) => {
            open.end = end;
            core.tracker.spawn(linger(lingering, open, client.key()));
        }
        Spoken::Empty => open.listener.probed(),
        Spoken::Upgraded(upgraded) => {
            open.end = ConnectionEnd::Upgraded;
            let Upgraded { client, early, opening } = upgraded;
            let Some((client, unread)) = client.into_parts() else { return };
            // A copy: hyper's whole buffer would live as long as the tunnel.
            let said = [early, unread].concat().into();
            let tunnel = opening.open(&core, client, said);
            // The struct itself: an async block around it would triple the task.
            core.tracker.spawn(Recorded { tunnel, open, over: false });
        }
    }
}

/// The clock of a connection from its first head on.
fn patience_of(rules: &ListenerRules, seat: Seat) -> Patience {
    Patience::new(rules.listener.timeouts, RouteTimeouts::default().write_stall, seat)
}

/// A connection that never speaks HTTP over TLS.
struct Unserved {
    /// The way in which the connection ended, for its count.
    end: ConnectionEnd,
    /// The socket, if an answer in the clear or an alert went out and our direction has ended.
    answered: Option<TcpStream>,
}

impl From<ConnectionEnd> for Unserved {
    fn from(end: ConnectionEnd) -> Self {
        Unserved { end, answered: None }
    }
}

/// Until when a TLS handshake may last.
#[derive(Clone, Copy)]
struct Until<'c> {
    deadline: Instant,
    /// Cancelled when the connection is to close.
    closing: &'c CancellationToken,
}

/// A TLS handshake that was not done in time.
struct Late;

/// The TLS handshake, where the listener wants one; and the certificate that was served.
async fn encrypt(
    core: &Arc<Core>,
    open: &mut Open,
    rules: &ListenerRules,
    tcp: TcpStream,
    party: Party<'_>,
    Until { deadline, closing }: Until<'_>,
) -> Result<(Stream, Option<Arc<Certificate>>), Unserved> {
    let Some(admitted) = &rules.tls else { return Ok((Stream::Clear(tcp), None)) };
    let began = Instant::now();
    let listener = Arc::clone(&rules.listener.name);
    let mut chosen = None;
    let configuration = |is_nameless| {
        // The certificates of the generation that runs when the client speaks, not at the accept.
        let live = core.shared.live.load();
        let present = live.listeners.get(&listener).and_then(|rules| rules.tls.as_ref());
        let (config, by_sni) = present.unwrap_or(admitted).for_one(is_nameless);
        chosen = Some(by_sni);
        config
    };
    let mut waits = false;
    let handshake = async {
        let mut hello = tls::hear(tcp).await?.unless_http().await?;
        its_turn(core, open, rules, party, &mut hello, &mut waits).await?;
        tls::accept(hello, configuration).await
    };
    let accepted = tokio::select! {
        biased;
        accepted = handshake => Ok(accepted),
        () = late(deadline, closing) => Err(Late),
    };
    let took = began.elapsed();
    let result = match &accepted {
        Ok(Ok((_, facts))) if facts.resumed => TlsResult::Resumed,
        Ok(Ok(_)) => TlsResult::Full,
        Ok(Err(tls::Failure::Empty)) => {
            open.listener.probed();
            return Err(ConnectionEnd::Client.into());
        }
        Ok(Err(_)) => TlsResult::Failed,
        Err(Late) if waits => TlsResult::Rate,
        Err(Late) => TlsResult::Timeout,
    };
    open.listener.tls_handshake(result, took);
    if accepted.is_err() && closing.is_cancelled() {
        return Err(closed(core).into());
    }
    match accepted {
        Ok(Ok((stream, _))) => {
            Ok((Stream::Tls(stream), chosen.and_then(|by_sni| by_sni.chosen().cloned())))
        }
        failed => {
            let mut answered = None;
            let error = match failed {
                Ok(Err(tls::Failure::Broken(error))) => error.to_string(),
                Ok(Err(tls::Failure::Alerted(error, alerted))) => {
                    let ended = Box::pin(alerted.end());
                    answered = timeout_at(deadline, ended).await.ok().flatten();
                    error.to_string()
                }
                Ok(Err(tls::Failure::PlainHttp(hello))) => {
                    // Boxed: few connections need the room that it takes.
                    let answer = answer::plain_on_tls();
                    let dismissed = Box::pin(hello.dismiss(&answer));
                    answered = timeout_at(deadline, dismissed).await.ok().flatten();
                    "plain HTTP was sent to a port that speaks TLS".to_owned()
                }
                _ if waits => {
                    "not begun in time: its client is over handshakes_per_client".to_owned()
                }
                _ => "not done in time".to_owned(),
            };
            turned_away(core, party, Refusal::Tls, Some(&error));
            Err(Unserved { end: ConnectionEnd::Tls, answered })
        }
    }
}

/// Waits until the client's rate lets a TLS handshake begin. `waits` is true meanwhile.
async fn its_turn(
    core: &Core,
    open: &Open,
    rules: &ListenerRules,
    party: Party<'_>,
    hello: &mut tls::Hello,
    waits: &mut bool,
) -> Result<(), tls::Failure> {
    let (turnstile, listener) = (&core.shared.turnstile, &rules.listener.name);
    let client = party.client.key();
    // The rate of the generation that runs now: a reload acts on connections that wait.
    let take = || {
        let live = core.shared.live.load();
        let rules = live.listeners.get(listener).unwrap_or(rules);
        rules.handshakes.as_ref().map_or(Ok(()), |limiter| limiter.take(client))
    };
    if turnstile.try_pass(listener, client, take) {
        return Ok(());
    }
    *waits = true;
    open.listener.tls_delayed();
    decision::delayed(party, &core.delays);
    // Boxed: connections that don't wait would carry the room that it takes.
    Box::pin(hello.unless_left(turnstile.pass(listener, client, take))).await?;
    *waits = false;
    Ok(())
}

/// Books a connection that is closed before it has made a request.
fn turned_away(core: &Core, party: Party<'_>, refusal: Refusal, error: Option<&str>) {
    core.metrics.no_route().refused(refusal);
    decision::turned_away(party, refusal, None, error, &core.cap);
}

/// The outcome of the HTTP part of a connection.
enum Spoken {
    /// The connection is over, and can be closed.
    Over(ConnectionEnd),
    /// Our direction is over, and the client may still send bytes that are not read any more.
    Unread(ConnectionEnd, Lingering),
    /// It ended without a byte: a health check.
    Empty,
    /// A 101 went out, and this waits to become a tunnel.
    Upgraded(Upgraded),
}

/// The parts of a connection that becomes a tunnel.
struct Upgraded {
    client: Watched,
    /// Bytes that the client has sent behind its head.
    early: Bytes,
    opening: Box<Opening>,
}

/// Speaks HTTP/1.1 until the client leaves, is refused, is late, or upgrades. Most clients upgrade
/// at once, without hyper.
async fn converse(
    core: &Arc<Core>,
    rules: &ListenerRules,
    stream: Stream,
    exchange: Arc<Exchange>,
    patience: Patience,
) -> Spoken {
    let came = Arc::clone(&exchange.came);
    let closing = pin!(came.closing.cancelled());
    let timer = pin!(sleep_until(Instant::now()));
    let mut clock = Clock::new(&patience, closing, timer);

    let first = {
        let mut attempt =
            pin!(directly(&exchange, Watched::new(stream, patience.clone()), &patience));
        clock.until(|cx, _| attempt.as_mut().poll(cx)).await
    };
    match first {
        Some(Directly::Upgraded(upgraded)) => Spoken::Upgraded(upgraded),
        Some(Directly::Left(client)) => over(ConnectionEnd::Client, client, false, &patience),
        Some(Directly::Http2(client)) => {
            let end = exchange.malformed("HTTP/2 without negotiation, which is not spoken here");
            over(end, client, true, &patience)
        }
        // Boxed: connections that upgrade at once would carry the room that hyper takes.
        Some(Directly::Unanswered(client)) => {
            Box::pin(by_hyper(core, rules, client, &exchange, &patience, clock)).await
        }
        None if clock.is_closing() => Spoken::Over(closed(core)),
        None => Spoken::Over(timed_out(&exchange, &patience)),
    }
}

/// Lets hyper serve a connection that does not upgrade at once.
async fn by_hyper(
    core: &Core,
    rules: &ListenerRules,
    client: Watched,
    exchange: &Arc<Exchange>,
    patience: &Patience,
    mut clock: Clock<'_, '_>,
) -> Spoken {
    let heads = Heads::default();
    let Listener { max_head, max_fields, .. } = *rules.listener;
    let bounds = Bounds { max_head, max_fields };
    let client = client.through(Lines::new(heads.clone(), bounds));
    let service = service_fn(|mut request| {
        heads.read(&mut request);
        Arc::clone(exchange).answer(request)
    });
    let mut builder = http1::Builder::new();
    if max_fields != MAX_FIELDS {
        builder.max_headers(max_fields);
    }
    let mut connection = builder
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_header_size(max_head)
        .max_buf_size(max_head + 8 * 1024)
        // The clock has the deadlines.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(client), service)
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
        } else if let Some((mut client, read)) = exchange.handed_over().await {
            if let Some(opening) = exchange.take_opening() {
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
    let end = ended(spoken, exchange, patience, closed);
    match back {
        Some((client, read)) => over(end, client, !read.is_empty(), patience),
        None => Spoken::Over(end),
    }
}

/// How a connection ends; `unread` says whether hyper has left bytes of the client behind.
fn over(end: ConnectionEnd, client: Watched, unread: bool, patience: &Patience) -> Spoken {
    match client.into_unread(unread) {
        Some((tcp, discarded)) => {
            Spoken::Unread(end, Lingering { tcp, discarded, patience: patience.clone() })
        }
        None => Spoken::Over(end),
    }
}

/// Why a connection that was to close is over.
fn closed(core: &Core) -> ConnectionEnd {
    match core.shared.lifecycle.closing().is_cancelled() {
        true => ConnectionEnd::Drain,
        false => ConnectionEnd::Retired,
    }
}

/// Why a connection is over that hyper has served. `spoken` is `None` for a deadline; `closed` says
/// why it was to close, and `None` means that it was not.
fn ended(
    spoken: Option<hyper::Result<()>>,
    exchange: &Exchange,
    patience: &Patience,
    closed: Option<ConnectionEnd>,
) -> ConnectionEnd {
    // Several of these may hold, and the first one counts.
    match (spoken, closed) {
        _ if patience.is_displaced() => ConnectionEnd::Displaced,
        (None, Some(closed)) => closed,
        (None, None) => timed_out(exchange, patience),
        (Some(_), None) if patience.leaves() => ConnectionEnd::KeepAlive,
        _ if patience.cut().is_some() => ConnectionEnd::Cut,
        (Some(Err(error)), _) if error.is_parse_too_large() => exchange.malformed(&format!(
            "its head is too large: too many header fields (more than {}, `max_fields`), \
             or over `max_head`",
            exchange.came.max_fields
        )),
        (Some(Err(error)), _) if error.is_parse() => exchange.malformed(&error.to_string()),
        _ if exchange.has_bad_head() => ConnectionEnd::Head,
        _ if exchange.closed_it() => ConnectionEnd::Refused,
        (_, Some(closed)) => closed,
        _ => ConnectionEnd::Client,
    }
}

/// The outcome of a first head without hyper.
enum Directly {
    /// The client has its 101, and the tunnel can open.
    Upgraded(Upgraded),
    /// The client has left, or broken TLS.
    Left(Watched),
    /// The client speaks HTTP/2, and has been told that it is not spoken here.
    Http2(Watched),
    /// hyper has to read the stream, from its first byte, and to answer.
    Unanswered(Watched),
}

/// Reads a client's first bytes, and answers them if they are an attempt that is let in.
async fn directly(exchange: &Exchange, mut client: Watched, patience: &Patience) -> Directly {
    let Ok(mut came) = poll_fn(|cx| some(&mut client, cx)).await else {
        return Directly::Unanswered(client);
    };
    while !came.is_empty() {
        match foreign::is_http2(&came) {
            Is::Yes => {
                let answer = answer::http2_unspoken();
                // Fails for a client that is gone, of which nothing is discarded then.
                let _ = Box::pin(foreign::dismiss(&mut client, &answer)).await;
                return Directly::Http2(client);
            }
            Is::No => break,
            Is::NotYet => {
                let more = poll_fn(|cx| some(&mut client, cx)).await.unwrap_or_default();
                if more.is_empty() {
                    break;
                }
                came = [came, more].concat().into();
            }
        }
    }
    let mut early = Bytes::new();
    let mut attempt = pin!(exchange.attempt(&came, patience));
    let answered = poll_fn(|cx| {
        let answer = attempt.as_mut().poll(cx);
        if let Poll::Ready(answer) = answer {
            // One more read, to notice a client that has left meanwhile: it gets no tunnel.
            if early.is_empty()
                && let Poll::Ready(Ok(said)) = some(&mut client, cx)
            {
                early = said;
            }
            return Poll::Ready(Some(answer));
        }
        // A client that has left no longer wants a tunnel; early bytes are kept for the tunnel,
        // of one read at most.
        if early.is_empty() {
            early = ready!(some(&mut client, cx)).unwrap_or_default();
            if early.is_empty() {
                return Poll::Ready(None);
            }
        }
        // Nothing more is read, but a flush notices a reset.
        if let Poll::Ready(Err(_)) = Pin::new(&mut client).poll_flush(cx) {
            return Poll::Ready(None);
        }
        Poll::Pending
    });
    match answered.await {
        None => Directly::Left(client),
        Some(None) => Directly::Unanswered(client.rewound([came.clone(), early].concat().into())),
        Some(Some((length, opening))) => {
            let said = async {
                client.write_all(&opening.head()).await?;
                client.flush().await
            };
            // A client that has ended its side may be gone: a tunnel needs its acknowledgement.
            if said.await.is_err() || (patience.has_ended() && !client.delivered().await) {
                return Directly::Left(client);
            }
            let early = [came.slice(length..), early].concat().into();
            Directly::Upgraded(Upgraded { client, early, opening })
        }
    }
}

/// The client's next bytes; empty at the end of its stream.
fn some(client: &mut Watched, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut room = [MaybeUninit::uninit(); SOME];
    let mut buffer = ReadBuf::uninit(&mut room);
    ready!(Pin::new(client).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
}

/// How a connection ends whose deadline has passed: it depends on what was waited for.
fn timed_out(exchange: &Exchange, patience: &Patience) -> ConnectionEnd {
    match patience.deadline() {
        _ if patience.cut().is_some() => ConnectionEnd::Cut,
        Some((_, Waits::Head)) => exchange.malformed("not there in time"),
        Some((_, Waits::Idle)) => ConnectionEnd::KeepAlive,
        Some((_, Waits::Taken | Waits::Pace)) => ConnectionEnd::Cut,
        None => ConnectionEnd::Client,
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
