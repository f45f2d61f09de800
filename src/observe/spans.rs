//! Spans of requests and of tunnels' ends, for an exporter.
//!
//! The data plane makes a span only for a trace that is exported, and never waits for the exporter:
//! what finds no room is counted and dropped.

use std::borrow::Cow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::Method;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::close::{Closed, ExchangeReason, Traffic};
use crate::observe::log::decision::{DecisionRecord, ExchangeClosed};
use crate::observe::metrics::RequestResult;
use crate::refusal::Refusal;
use crate::sync::lock;
use crate::trace_context::{SpanId, TraceContext, TraceId};
use crate::tunnels::LiveEntry;

/// Most spans that wait for the exporter, some 1 kB each.
const MAX_WAITING: usize = 4096;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// A text of any length.
    Text(String),
    /// A whole number, with its sign.
    Number(i64),
    /// A number with a fraction.
    Fraction(f64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        AttributeValue::Text(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        AttributeValue::Text(text)
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        AttributeValue::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Duration> for AttributeValue {
    fn from(time: Duration) -> Self {
        // To the millisecond, like the log.
        AttributeValue::Fraction((time.as_secs_f64() * 1e3).round() / 1e3)
    }
}

/// A moment within a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanEvent {
    /// Word for what happened.
    pub name: &'static str,
    /// Time of it, by the wall clock.
    pub at: SystemTime,
}

/// One operation of a trace that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// The trace that it belongs to.
    pub trace_id: TraceId,
    /// Its own number within the trace.
    pub id: SpanId,
    /// The span that caused it, of another process. `None` means that the trace begins with it.
    pub parent: Option<SpanId>,
    /// The earlier span that it belongs to.
    pub link: Option<SpanId>,
    /// Its name: few differ.
    pub name: String,
    /// Time at which it began.
    pub began: SystemTime,
    /// Time at which it ended.
    pub ended: SystemTime,
    /// The facts, by the names of OpenTelemetry's conventions for HTTP or with `sidegate.` in
    /// front.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// The moments within it, in their order.
    pub events: Vec<SpanEvent>,
    /// Why it failed, or its status from 500 on. `None` means that it did not: any other refusal
    /// is no failure.
    pub failure: Option<Cow<'static, str>>,
}

/// The parts of a request that only a span tells.
#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'r> {
    /// The method. `None` means that no head was read.
    pub method: Option<&'r Method>,
    /// The scheme of the URL that the client has connected to.
    pub scheme: &'static str,
}

impl HttpFacts<'_> {
    /// The method as its attribute writes it: a client may send any word as one.
    fn method(&self) -> Option<&'static str> {
        const KNOWN: [&str; 9] =
            ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
        let sent = self.method?.as_str();
        Some(KNOWN.into_iter().find(|known| *known == sent).unwrap_or("_OTHER"))
    }

    /// The name of a span: few differ, as the conventions for HTTP demand.
    fn name(&self, route: Option<&str>) -> String {
        // The word of the attribute, `_OTHER`, is not for names.
        let method = self.method().filter(|method| *method != "_OTHER").unwrap_or("HTTP");
        match route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        }
    }
}

/// The moments of a request, as they are known when it is decided.
#[derive(Debug, Clone, Default)]
pub struct RequestMoments {
    /// When its connection was accepted, if it is the first request.
    pub accepted: Option<SystemTime>,
    /// When the TLS handshake of its connection was over, if it is the first request.
    pub secured: Option<SystemTime>,
    /// When its head was whole.
    pub read: Option<SystemTime>,
    /// When it was judged.
    pub judged: Option<SystemTime>,
    /// When it was put to a backend.
    pub dialled: Option<SystemTime>,
    /// When the backend had answered.
    pub answered: Option<SystemTime>,
}

impl RequestMoments {
    fn events(&self) -> Vec<SpanEvent> {
        let moments = [
            ("tls", self.secured),
            ("head", self.read),
            ("judged", self.judged),
            ("dial", self.dialled),
            ("answered", self.answered),
        ];
        moments.into_iter().filter_map(|(name, at)| Some(SpanEvent { name, at: at? })).collect()
    }
}

/// Attributes of which some may be absent.
struct Attributes(Vec<(&'static str, AttributeValue)>);

impl Attributes {
    /// What tells the entry of a tunnel or an exchange, which has lasted for this long.
    fn of_entry(route: &str, entry: &LiveEntry, lasted: Duration) -> Attributes {
        let mut attributes = Attributes(Vec::with_capacity(14));
        attributes.set("sidegate.route", Some(route));
        attributes.set("sidegate.seconds", Some(lasted));
        attributes.set("sidegate.request_id", Some(&*entry.request_id));
        attributes.set("client.address", Some(entry.subject.client.to_string()));
        attributes
    }

    fn set(&mut self, name: &'static str, value: Option<impl Into<AttributeValue>>) {
        self.0.extend(value.map(|value| (name, value.into())));
    }
}

impl FinishedSpan {
    /// The span of a request that is decided, up to its answer. `None` means that its trace is not
    /// exported.
    pub fn of_decision(
        record: &DecisionRecord<'_>,
        http: HttpFacts<'_>,
        trace: TraceContext,
        moments: &RequestMoments,
        ended: SystemTime,
    ) -> Option<FinishedSpan> {
        let id = trace.exported()?;
        let mut attributes = Attributes(Vec::with_capacity(20));
        let route = record.route.map(|route| &*route.name);
        let reason = record.refusal.map(Refusal::word).or(record.failure.map(|why| why.word()));
        let failure = failure_of(record, reason);
        let path = record.route.map(|route| &*route.path);
        attributes.set("http.request.method", http.method());
        attributes.set("http.response.status_code", record.status.map(u64::from));
        attributes.set("http.route", path);
        attributes.set("error.type", failure.as_deref());
        attributes.set("network.protocol.name", Some("http"));
        attributes.set("url.scheme", Some(http.scheme));
        attributes.set("url.path", Some(record.path));
        attributes.set("server.address", Some(record.host).filter(|host| !host.is_empty()));
        attributes.set("client.address", Some(record.log_context.client.to_string()));
        attributes.set("network.peer.address", Some(record.log_context.peer.to_string()));
        attributes.set("sidegate.kind", Some(record.kind.word()));
        attributes.set("sidegate.listener", Some(record.log_context.listener));
        attributes.set("sidegate.route", route);
        attributes.set("sidegate.policy", record.policy.map(|policy| &*policy.name));
        attributes.set("sidegate.generation", record.judged.map(|(generation, _)| generation));
        attributes.set("sidegate.result", Some(record.result.word()));
        attributes.set("sidegate.reason", reason);
        attributes.set("sidegate.request_id", Some(record.request_id));
        let backend = record.backend.map(|endpoint| endpoint.backend.to_string());
        attributes.set("sidegate.backend", backend);
        Some(FinishedSpan {
            trace_id: trace.trace_id,
            id,
            parent: trace.parent,
            link: None,
            name: http.name(path),
            began: moments.accepted.or(moments.read).unwrap_or(ended),
            ended,
            attributes: attributes.0,
            events: moments.events(),
            failure,
        })
    }

    /// The span of a tunnel's end, linked to that of its request. `None` means that its trace is
    /// not exported.
    pub fn of_end(
        route: &str,
        entry: &LiveEntry,
        closed: &Closed,
        refusal: Option<Refusal>,
    ) -> Option<FinishedSpan> {
        let trace = entry.trace?;
        let request = trace.exported()?;
        let mut attributes = Attributes::of_entry(route, entry, closed.lasted);
        attributes.set("sidegate.by", Some(closed.by.word()));
        attributes.set("sidegate.phase", Some(closed.phase.word()));
        attributes.set("sidegate.reason", Some(closed.reason.word()));
        attributes.set("sidegate.refusal", refusal.map(Refusal::word));
        attributes.set("sidegate.close_code", closed.code.map(u64::from));
        attributes.set("sidegate.tunnel", Some(entry.id));
        let sides = [
            (&closed.from_client, "sidegate.bytes_from_client", "sidegate.messages_from_client"),
            (&closed.from_backend, "sidegate.bytes_from_backend", "sidegate.messages_from_backend"),
        ];
        for (Traffic { bytes, messages }, of_bytes, of_messages) in sides {
            attributes.set(of_bytes, Some(*bytes));
            attributes.set(of_messages, Some(*messages));
        }
        let name = format!("close {route}");
        Some(FinishedSpan::at_end(trace.trace_id, request, name, attributes))
    }

    /// The span of the end of an exchange whose answer had begun, linked to that of its request.
    /// `None` means that its trace is not exported.
    pub fn of_exchange(entry: &LiveEntry, closed: &ExchangeClosed) -> Option<FinishedSpan> {
        let trace = entry.trace?;
        let request = trace.exported()?;
        let route = entry.route();
        let reason = closed.reason.word();
        let failure = is_failure(closed.reason).then_some(reason);
        let mut attributes = Attributes::of_entry(&route.name, entry, closed.lasted);
        attributes.set("http.route", Some(&*route.path));
        attributes.set("http.response.body.size", Some(closed.from_backend.bytes));
        attributes.set("error.type", failure);
        attributes.set("sidegate.by", Some(closed.by.word()));
        attributes.set("sidegate.phase", Some(closed.phase.word()));
        attributes.set("sidegate.reason", Some(reason));
        attributes.set("sidegate.refusal", closed.refusal.map(Refusal::word));
        attributes.set("sidegate.exchange", Some(entry.id));
        let name = format!("end {}", route.name);
        let span = FinishedSpan::at_end(trace.trace_id, request, name, attributes);
        Some(FinishedSpan { failure: failure.map(Cow::Borrowed), ..span })
    }

    /// A span of this moment, linked to that of `request`.
    fn at_end(
        trace_id: TraceId,
        request: SpanId,
        name: String,
        attributes: Attributes,
    ) -> FinishedSpan {
        let now = SystemTime::now();
        FinishedSpan {
            trace_id,
            id: SpanId::random(),
            parent: Some(request),
            link: Some(request),
            name,
            began: now,
            ended: now,
            attributes: attributes.0,
            events: Vec::new(),
            failure: None,
        }
    }
}

/// Why a request counts as failed. `None` means that it does not: by the conventions for HTTP, a
/// status below 500 is the client's affair.
fn failure_of(
    record: &DecisionRecord<'_>,
    reason: Option<&'static str>,
) -> Option<Cow<'static, str>> {
    let status = record.status.filter(|status| *status >= 500);
    if record.result != RequestResult::Failed && status.is_none() {
        return None;
    }
    // A backend's own 500 has no reason here, and is known by its number.
    let reason = reason.map(Cow::Borrowed);
    reason.or(status.map(|status| status.to_string().into())).or(Some("failed".into()))
}

/// Whether the backend, or Sidegate itself, is the cause of an end.
fn is_failure(reason: ExchangeReason) -> bool {
    // Clients, operators, reloads and drains end exchanges without a fault of the service.
    use ExchangeReason as Reason;
    matches!(
        reason,
        Reason::BackendFailed | Reason::BackendGone | Reason::BodyStall | Reason::Panic
    )
}

/// The wall time of a moment that was `ago`.
pub fn before(now: SystemTime, ago: Duration) -> SystemTime {
    now.checked_sub(ago).unwrap_or(now)
}

/// The spans that wait for the exporter.
#[derive(Debug)]
pub struct SpanQueue {
    tx: Sender<FinishedSpan>,
    /// Handed out once. Without an exporter nothing is exported, and the queue stays empty.
    rx: Mutex<Option<Receiver<FinishedSpan>>>,
    lost: AtomicU64,
}

impl Default for SpanQueue {
    fn default() -> Self {
        let (tx, rx) = channel(MAX_WAITING);
        SpanQueue { tx, rx: Mutex::new(Some(rx)), lost: AtomicU64::new(0) }
    }
}

impl SpanQueue {
    /// Keeps a span for the exporter, if there is room.
    pub fn keep(&self, span: Option<FinishedSpan>) {
        let Some(span) = span else { return };
        if self.tx.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The end at which the exporter takes spans. `None` means that it was taken before.
    pub fn receiver(&self) -> Option<Receiver<FinishedSpan>> {
        lock(&self.rx).take()
    }

    /// The number of spans that found no room since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_context::{TraceRules, TraceparentMode};
    use http::HeaderMap;

    fn span(name: &str) -> FinishedSpan {
        let rules = TraceRules { mode: TraceparentMode::Make, sampled_percent: 100, exports: true };
        let trace = rules.trace_of(&HeaderMap::new()).unwrap();
        FinishedSpan {
            trace_id: trace.trace_id,
            id: trace.exported().unwrap(),
            parent: trace.parent,
            link: None,
            name: name.to_owned(),
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            events: Vec::new(),
            failure: None,
        }
    }

    #[test]
    fn name_of_a_span_has_known_methods_and_routes_alone() {
        let name = |method: Option<&str>, route| {
            let method = method.map(|method| method.parse::<Method>().unwrap());
            let facts = HttpFacts { method: method.as_ref(), scheme: "http" };
            (facts.name(route), facts.method())
        };
        assert_eq!(name(Some("GET"), Some("/a")), ("GET /a".into(), Some("GET")));
        assert_eq!(name(Some("PROPFIND"), Some("/a")), ("HTTP /a".into(), Some("_OTHER")));
        assert_eq!(name(Some("get"), None), ("HTTP".into(), Some("_OTHER")));
        assert_eq!(name(None, None), ("HTTP".into(), None));
    }

    #[test]
    fn spans_beyond_the_queue_are_counted_and_dropped() {
        let queue = SpanQueue::default();
        (0..MAX_WAITING + 3).for_each(|_| queue.keep(Some(span("one"))));
        queue.keep(None);
        assert_eq!((queue.take_lost(), queue.take_lost()), (3, 0));
        let mut spans = queue.receiver().unwrap();
        assert_eq!(spans.try_recv().unwrap().name, "one");
        assert!(queue.receiver().is_none(), "there is one exporter");
        queue.keep(Some(span("two")));
        assert_eq!(queue.take_lost(), 0);
    }

    #[test]
    fn moments_that_are_known_become_events_in_their_order() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let moments = RequestMoments {
            accepted: at(1),
            read: at(2),
            answered: at(5),
            dialled: at(4),
            ..RequestMoments::default()
        };
        let events = moments.events();
        let names: Vec<_> = events.iter().map(|event| event.name).collect();
        assert_eq!(names, ["head", "dial", "answered"]);
        assert!(events.is_sorted_by_key(|event| event.at));
    }
}
