//! The log lines of the data plane: one for each decision, one for each tunnel or exchange that
//! ends.
//!
//! Callers hand in facts. The names of the fields are written here only, and equal the labels of
//! the metrics. A refusal beyond its client's cap is counted instead of logged.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::close::{Closed, ExchangePhase, ExchangeReason, Initiator, Traffic};
use crate::observe::log::throttle::{LogThrottle, SummaryFields};
use crate::observe::metrics::{
    CandidateDifference, NO_ROUTE, RefusalDelivery, RequestKind, RequestResult,
};
use crate::policy::Policy;
use crate::policy::ban::Ban;
use crate::policy::deciding_rule::DecidingRule;
use crate::policy::forwarded::Derivation;
use crate::policy::network::{Client, ClientKey, Peer};
use crate::policy::proxied::{ProxiedConnection, ProxyDetails};
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::route::{Endpoint, RefusalForm, Route};
use crate::trace_context::TraceId;
use crate::tunnels::LiveEntry;

/// The client of a connection, and the listener that accepted it.
#[derive(Debug, Clone, Copy)]
pub struct LogContext<'d> {
    /// The listener's name, as in `sidegate.toml`.
    pub listener: &'d str,
    /// The client's address: the peer itself, or the address that a trusted proxy named.
    pub client: Client,
    /// Address of the socket's other end.
    pub peer: Peer,
    /// The connection that the peer's PROXY header describes. `None` means that there was none.
    pub proxied: Option<&'d ProxiedConnection>,
}

impl<'d> LogContext<'d> {
    /// The version of the PROXY header.
    fn proxy(&self) -> Option<&'static str> {
        self.proxied.map(|proxied| proxied.version.word())
    }

    /// The facts that the PROXY header adds. `None` means that there are none.
    fn proxy_tlvs(&self) -> Option<&'d ProxyDetails> {
        self.proxied.map(|proxied| &proxied.details).filter(|details| !details.is_empty())
    }
}

/// The outcome of one request.
#[derive(Debug, Clone, Copy)]
pub struct DecisionRecord<'d> {
    /// Client, peer and listener of the request.
    pub log_context: LogContext<'d>,
    /// How the client was found. `None` means that the connection tells it.
    pub derived: Option<&'d Derivation>,
    /// The client and its credentials, as it was judged.
    pub subject: &'d Subject,
    /// WebSocket upgrade or plain HTTP.
    pub kind: RequestKind,
    /// The requested host; unnormalized if the head didn't pass the gate.
    pub host: &'d str,
    /// The requested path, without its query.
    pub path: &'d str,
    /// Value of the `Origin` field; logged only if it was the reason for the refusal.
    pub origin: Option<&'d str>,
    /// The id that the backend gets as `X-Request-Id` and a refused client as `request_id`.
    pub request_id: &'d str,
    /// The trace of the request. `None` means that it has none.
    pub trace_id: Option<TraceId>,
    /// The route found for the request; `None` means no route was found.
    pub route: Option<&'d Route>,
    /// The policy that judged it.
    pub policy: Option<&'d Policy>,
    /// The generation that judged the request, and when; `None` means it was refused earlier.
    pub judged: Option<(u64, Timestamp)>,
    /// Whether the request was permitted, was refused or failed.
    pub result: RequestResult,
    /// The reason for a refusal, or for a failure that has one.
    pub refusal: Option<Refusal>,
    /// The reason for a failure that `refusal` doesn't explain.
    pub failure: Option<ExchangeReason>,
    /// Status of the answer; `None` means no answer was sent.
    pub status: Option<u16>,
    /// How a refusal reached its client, where its route does not answer refusals over HTTP. `None`
    /// means that it was answered, or that there was none.
    pub delivery: Option<RefusalDelivery>,
    /// The address that was dialled last, and its backend.
    pub backend: Option<&'d Endpoint>,
    /// Text of the underlying error, from the code that noticed it.
    pub error: Option<&'d str>,
    /// The ban that refused the request. `None` means that no ban did.
    pub ban: Option<&'d Arc<Ban>>,
}

impl DecisionRecord<'_> {
    /// Logs the decision, unless it is a refusal beyond `throttle`. `decisive` is that of
    /// [`DecisionRecord::decisive`], which is looked up only for a line that is logged.
    pub fn log<'p>(
        &self,
        decisive: &impl Deref<Target = Option<DecidingRule<'p>>>,
        throttle: &LogThrottle,
    ) {
        let (route, reason) = (self.route.map_or(NO_ROUTE, |route| &route.name), self.reason());
        if self.is_summarised(throttle, route) || !is_wanted(reason) {
            return;
        }
        let (decisive, result) = (**decisive, self.result.word());
        let (by, instead) = decisive.map_or((None, None), |rule| (rule.by, rule.instead));
        tracing::info!(
            route,
            listener = self.log_context.listener,
            client = %self.log_context.client,
            client_network = self.client_network().map(display),
            peer = %self.log_context.peer,
            proxy = self.log_context.proxy(),
            proxy_tlvs = self.log_context.proxy_tlvs().map(display),
            derived = self.derived.map(display),
            identity = self.subject.certificate().map(|certificate| display(certificate.identity())),
            kind = self.kind.word(),
            result,
            reason,
            status = self.status,
            refuse = self.delivery.map(RefusalDelivery::word),
            code = self.code(),
            host = self.host,
            path = self.path,
            // Only an origin that decided is logged. Logging the others is up to the backend.
            origin = self.origin.filter(|_| self.refusal == Some(Refusal::Origin)),
            request_id = self.request_id,
            trace_id = self.trace_id.map(display),
            generation = self.judged.map(|(generation, _)| generation),
            policy = self.policy.map(|policy| &*policy.name),
            rule = decisive.map(|decisive| display(decisive.place)),
            list = by.map(|by| &*by.list.name),
            entry = by.map(|by| display(by.entry)),
            entry_at = by.map(|by| display(by.source_line())),
            owner = by.and_then(|by| by.entry.owner()),
            ticket = by.and_then(|by| by.entry.ticket()),
            expires = by.and_then(|by| by.entry.expiry()).map(display),
            would_match = instead.map(|instead| display(instead.entry)),
            backend = self.backend.map(|endpoint| display(&endpoint.backend)),
            backend_address = self.backend.and_then(|endpoint| endpoint.resolved).map(display),
            ban = self.ban.map(|ban| display(&ban.target)),
            why = self.ban.map(|ban| &*ban.why),
            error = self.error,
            "{result}"
        );
    }

    /// The word of the refusal or failure. `None` means that the request is permitted.
    fn reason(&self) -> Option<&'static str> {
        self.refusal.map(Refusal::word).or(self.failure.map(ExchangeReason::word))
    }

    /// The network of a refused client. Programs that count refusals would count each address of a
    /// /64 apart.
    fn client_network(&self) -> Option<ClientKey> {
        self.refusal.and_then(|_| self.log_context.client.network())
    }

    /// Whether a refusal goes into a summary, as its client has had its lines already.
    fn is_summarised(&self, throttle: &LogThrottle, route: &str) -> bool {
        // A failure is no refusal: the backend had the request, and each has its line.
        let Some(refusal) = self.refusal else { return false };
        let LogContext { listener, client, .. } = self.log_context;
        let fields = SummaryFields { route, listener, reason: refusal.word() };
        !throttle.admits(client, fields, Instant::now())
    }

    /// Logs that the policy's candidate would have decided differently. `refusal` comes from the
    /// one of the two that refuses.
    pub fn log_difference(&self, difference: CandidateDifference, throttle: &LogThrottle) {
        let LogContext { listener, client, peer, .. } = self.log_context;
        let (Some(policy), Some(refusal), Some((generation, now))) =
            (self.policy, self.refusal, self.judged)
        else {
            return;
        };
        let route = self.route.map_or(NO_ROUTE, |route| &route.name);
        if !throttle.admits(
            client,
            SummaryFields { route, listener, reason: difference.word() },
            Instant::now(),
        ) {
            return;
        }
        let refusing = match difference {
            CandidateDifference::WouldRefuse => policy.candidate.as_deref(),
            CandidateDifference::WouldAdmit => Some(policy),
        };
        let decisive = refusing.and_then(|policy| {
            policy.deciding_rule(self.subject, self.kind == RequestKind::Plain, Err(refusal), now)
        });
        let by = decisive.and_then(|decisive| decisive.by);
        tracing::info!(
            route,
            listener,
            client = %client,
            peer = %peer,
            derived = self.derived.map(display),
            kind = self.kind.word(),
            difference = difference.word(),
            reason = refusal.word(),
            host = self.host,
            path = self.path,
            origin = self.origin.filter(|_| refusal == Refusal::Origin),
            request_id = self.request_id,
            trace_id = self.trace_id.map(display),
            generation,
            policy = &*policy.name,
            rule = decisive.map(|decisive| display(decisive.place)),
            list = by.map(|by| &*by.list.name),
            entry = by.map(|by| display(by.entry)),
            entry_at = by.map(|by| display(by.source_line())),
            owner = by.and_then(|by| by.entry.owner()),
            ticket = by.and_then(|by| by.entry.ticket()),
            expires = by.and_then(|by| by.entry.expiry()).map(display),
            "candidate differs"
        );
    }

    /// The code of the Close in which the client got the refusal.
    fn code(&self) -> Option<u16> {
        let is_closed = self.delivery == Some(RefusalDelivery::Close);
        self.refusal.filter(|_| is_closed).and_then(RefusalForm::close_code)
    }

    /// The rule and entry that decided, as of the time of the verdict.
    pub fn decisive(&self) -> Option<DecidingRule<'_>> {
        let (_, judged) = self.judged?;
        let verdict = match self.refusal {
            // The failure came after the verdict, which was to permit.
            None | Some(Refusal::Backend(_)) => Ok(()),
            Some(refusal) => Err(refusal),
        };
        self.policy?.deciding_rule(self.subject, self.kind == RequestKind::Plain, verdict, judged)
    }
}

/// Whether the log shows decisions with this reason. `None` means that the request is permitted.
fn is_wanted(reason: Option<&str>) -> bool {
    match reason {
        Some(_) => tracing::enabled!(tracing::Level::INFO),
        // A target of its own lets `SIDEGATE_LOG` switch these lines off: they are the access log.
        None => tracing::enabled!(target: "sidegate::permitted", tracing::Level::INFO),
    }
}

/// Why a connection is refused before its first request.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionRefusal<'c> {
    /// The reason, as counted and logged.
    pub refusal: Refusal,
    /// The rule that decided. `None` means that no rule of a policy did.
    pub rule: Option<DecidingRule<'c>>,
    /// The ban that holds the client. `None` means that no ban decided.
    pub ban: Option<&'c Arc<Ban>>,
    /// Text of the underlying error. `None` means that there was none.
    pub error: Option<&'c str>,
}

impl ConnectionRefusal<'_> {
    /// A refusal that its reason alone explains.
    pub fn new(refusal: Refusal) -> Self {
        ConnectionRefusal { refusal, rule: None, ban: None, error: None }
    }
}

/// Logs a connection that is refused before its first request.
pub fn log_refused_connection(
    log_context: LogContext<'_>,
    refused: ConnectionRefusal<'_>,
    throttle: &LogThrottle,
) {
    let LogContext { listener, client, peer, .. } = log_context;
    let ConnectionRefusal { refusal, rule: decisive, ban, error } = refused;
    let (route, reason, result) = (NO_ROUTE, refusal.word(), RequestResult::Refused.word());
    if !throttle.admits(client, SummaryFields { route, listener, reason }, Instant::now()) {
        return;
    }
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route,
        listener,
        client = %client,
        client_network = client.network().map(display),
        peer = %peer,
        proxy = log_context.proxy(),
        proxy_tlvs = log_context.proxy_tlvs().map(display),
        result,
        reason,
        rule = decisive.map(|decisive| display(decisive.place)),
        list = by.map(|by| &*by.list.name),
        entry = by.map(|by| display(by.entry)),
        entry_at = by.map(|by| display(by.source_line())),
        owner = by.and_then(|by| by.entry.owner()),
        ticket = by.and_then(|by| by.entry.ticket()),
        expires = by.and_then(|by| by.entry.expiry()).map(display),
        ban = ban.map(|ban| display(&ban.target)),
        why = ban.map(|ban| &*ban.why),
        error,
        "{result}"
    );
}

/// Logs a TLS handshake that waits because its client is over `handshakes_per_client`.
pub fn log_delayed_handshake(log_context: LogContext<'_>, throttle: &LogThrottle) {
    let LogContext { listener, client, peer, .. } = log_context;
    if throttle.admits(
        client,
        SummaryFields { route: NO_ROUTE, listener, reason: "delayed" },
        Instant::now(),
    ) {
        tracing::info!(
            listener,
            client = %client,
            peer = %peer,
            "TLS handshake delayed: its client is over handshakes_per_client"
        );
    }
}

/// The end of an exchange: actor, reason, phase and traffic.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeClosed {
    /// The side that acted first.
    pub by: Initiator,
    /// The one reason for the end.
    pub reason: ExchangeReason,
    /// The refusal, if a reload revoked the exchange.
    pub refusal: Option<Refusal>,
    /// Whether the exchange was still in its request or already in its answer.
    pub phase: ExchangePhase,
    /// Relayed part of the answer's body.
    pub from_backend: Traffic,
    /// Time from the charge to the end.
    pub lasted: Duration,
}

/// Logs the end of an exchange whose answer had begun.
pub fn log_exchange_closed(entry: &LiveEntry, closed: &ExchangeClosed) {
    let (last, route) = (entry.latest_verdict(), entry.route());
    let revoked = last.refused.as_deref().filter(|_| closed.reason == ExchangeReason::Revoked);
    let policy = revoked.and_then(|refused| refused.policy.as_deref());
    let decisive = revoked.zip(policy).and_then(|(refused, policy)| {
        policy.deciding_rule(&entry.subject, true, Err(refused.refusal), refused.at)
    });
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route = &*route.name,
        client = %entry.subject.client,
        peer = %entry.peer,
        host = entry.request.host.name(),
        path = entry.route().forwarded(&entry.request.path),
        request_id = &*entry.request_id,
        trace_id = entry.trace.map(|trace| display(trace.trace_id)),
        generation = last.generation,
        exchange = entry.id,
        by = closed.by.word(),
        phase = closed.phase.word(),
        reason = closed.reason.word(),
        refusal = closed.refusal.map(Refusal::word),
        policy = policy.map(|policy| &*policy.name),
        rule = decisive.map(|decisive| display(decisive.place)),
        list = by.map(|by| &*by.list.name),
        entry = by.map(|by| display(by.entry)),
        entry_at = by.map(|by| display(by.source_line())),
        owner = by.and_then(|by| by.entry.owner()),
        ticket = by.and_then(|by| by.entry.ticket()),
        expires = by.and_then(|by| by.entry.expiry()).map(display),
        bytes_from_backend = closed.from_backend.bytes,
        seconds = (closed.lasted.as_secs_f64() * 1e3).round() / 1e3,
        "exchange closed"
    );
}

/// The line of a tunnel that is over; `route` is the one under which it ran last.
pub fn log_tunnel_closed(
    route: &str,
    entry: &LiveEntry,
    closed: &Closed,
    refusal: Option<Refusal>,
) {
    let last = entry.latest_verdict();
    let revoked = last.refused.as_deref().filter(|_| refusal.is_some());
    let policy = revoked.and_then(|refused| refused.policy.as_deref());
    let decisive = revoked.zip(policy);
    let decisive = decisive.and_then(|(refused, policy)| {
        policy.deciding_rule(&entry.subject, false, Err(refused.refusal), refused.at)
    });
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route,
        client = %entry.subject.client,
        peer = %entry.peer,
        request_id = &*entry.request_id,
        trace_id = entry.trace.map(|trace| display(trace.trace_id)),
        generation = last.generation,
        tunnel = entry.id,
        by = closed.by.word(),
        phase = closed.phase.word(),
        reason = closed.reason.word(),
        refusal = refusal.map(Refusal::word),
        code = closed.code,
        policy = policy.map(|policy| &*policy.name),
        rule = decisive.map(|decisive| display(decisive.place)),
        list = by.map(|by| &*by.list.name),
        entry = by.map(|by| display(by.entry)),
        entry_at = by.map(|by| display(by.source_line())),
        owner = by.and_then(|by| by.entry.owner()),
        ticket = by.and_then(|by| by.entry.ticket()),
        expires = by.and_then(|by| by.entry.expiry()).map(display),
        would_match = decisive.and_then(|decisive| decisive.instead).map(|instead| display(instead.entry)),
        bytes_from_client = closed.from_client.bytes,
        messages_from_client = closed.from_client.messages,
        bytes_from_backend = closed.from_backend.bytes,
        messages_from_backend = closed.from_backend.messages,
        seconds = (closed.lasted.as_secs_f64() * 1e3).round() / 1e3,
        "tunnel closed"
    );
}
