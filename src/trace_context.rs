//! The trace of a request: the `traceparent` field of W3C Trace Context.
//!
//! A trace id names a request in the log lines and spans of all programs that it passes. It decides
//! nothing: a client may send any.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The field that names the trace of a request, and the span that sent it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The field in which tracing systems keep values of their own for the same trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The flag by which a caller says that it records the trace.
const SAMPLED: u8 = 0x01;

/// The flag by which the beginner of a trace says that its number is random (Level 2 §3.2.2.5.2).
const RANDOM: u8 = 0x02;

/// What becomes of the `traceparent` of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceparentMode {
    /// The backend gets what the client has sent, unchanged.
    #[default]
    Pass,
    /// A valid one is passed on. Where there is none, a trace begins here.
    Make,
    /// A trace begins here, whatever the client has sent.
    Restart,
}

/// How traces are passed on and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRules {
    /// What becomes of the field.
    pub mode: TraceparentMode,
    /// Share of the traces that begin here and are flagged as sampled, in percent.
    pub sampled_percent: u8,
    /// Whether spans of sampled traces are exported.
    pub exports: bool,
}

impl Default for TraceRules {
    fn default() -> Self {
        TraceRules { mode: TraceparentMode::default(), sampled_percent: 100, exports: false }
    }
}

impl TraceRules {
    /// The trace of a request with these fields. `None` means that it has none: no valid one was
    /// sent, and none is made.
    pub fn trace_of(self, headers: &HeaderMap) -> Option<TraceContext> {
        let sent = || {
            let mut sent = TraceContext::of_request(headers)?;
            sent.is_exported = self.exports && sent.is_sampled;
            // The backend's spans are children of our own.
            sent.own = sent.is_exported.then(SpanId::random);
            Some(sent)
        };
        match self.mode {
            TraceparentMode::Pass => sent(),
            TraceparentMode::Make => sent().or_else(|| Some(self.begin())),
            TraceparentMode::Restart => Some(self.begin()),
        }
    }

    /// A trace that begins here.
    fn begin(self) -> TraceContext {
        let is_sampled = rand::random_range(0..100) < self.sampled_percent;
        TraceContext {
            trace_id: TraceId::random(),
            parent: None,
            is_sampled,
            is_random: false,
            own: Some(SpanId::random()),
            is_exported: self.exports && is_sampled,
        }
    }
}

/// The number of a trace, never zero. Displays as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The number as 16 bytes, the most significant one first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// A random number (W3C Trace Context Level 2 §3.2.2.3 recommends that all of it is).
    fn random() -> TraceId {
        // Zero is invalid (§3.2.2.3).
        TraceId(rand::random_range(1..=u128::MAX))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The number of one operation in a trace, never zero. Displays as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

impl SpanId {
    /// The number as 8 bytes, the most significant one first.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// A random number, as of a new span.
    pub fn random() -> SpanId {
        // Zero is invalid (§3.2.2.4).
        SpanId(rand::random_range(1..=u64::MAX))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The trace of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The number of the trace.
    pub trace_id: TraceId,
    /// The span that sent the request. `None` means that the trace begins here.
    pub parent: Option<SpanId>,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
    /// Whether the caller says that the number of the trace is random. Only passed on: programs
    /// that know Level 1 alone expect 0 of a trace that begins here.
    is_random: bool,
    /// The span of the request in this process, which its backend gets as the parent. `None` means
    /// that the backend gets the field as it was sent.
    pub own: Option<SpanId>,
    /// Whether spans of the request are exported.
    is_exported: bool,
}

impl TraceContext {
    /// The trace with this number in hexadecimal digits, of which no span belongs to this process.
    /// `None` means that it is no number of a trace.
    pub fn named(trace_id: &str) -> Option<TraceContext> {
        let number = u128::from_str_radix(trace_id, 16).ok().filter(|number| *number != 0)?;
        Some(TraceContext {
            trace_id: TraceId(number),
            parent: None,
            is_sampled: false,
            is_random: false,
            own: None,
            is_exported: false,
        })
    }

    /// The trace that a request names. `None` means that it names none, or no valid one.
    fn of_request(headers: &HeaderMap) -> Option<TraceContext> {
        let mut sent = headers.get_all(&TRACEPARENT).iter();
        // Of two fields neither says which trace is meant (§3.3.1).
        match (sent.next(), sent.next()) {
            (Some(value), None) => TraceContext::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// Parses the field (W3C Trace Context §3.2). A later version may have more parts, and begins
    /// with those of version 00.
    fn parse(value: &[u8]) -> Option<TraceContext> {
        let (known, more) = value.split_at_checked(LENGTH)?;
        let part = |from: usize, length: usize| hex(&known[from..from + length]);
        let is_divided = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
        let (version, trace_id) = (part(0, 2)?, part(3, 32)?);
        let (parent, flags) = (part(36, 16)?, part(53, 2)?);
        let is_whole = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|next| *next == b'-'),
        };
        let is_valid = is_divided && is_whole && trace_id != 0 && parent != 0;
        is_valid.then_some(TraceContext {
            trace_id: TraceId(trace_id),
            // 16 digits fit.
            parent: Some(SpanId(parent as u64)),
            is_sampled: flags as u8 & SAMPLED != 0,
            is_random: flags as u8 & RANDOM != 0,
            own: None,
            is_exported: false,
        })
    }

    /// The span of the request, if it is exported.
    pub fn exported(&self) -> Option<SpanId> {
        self.own.filter(|_| self.is_exported)
    }

    /// The value of `traceparent` for the backend. `None` means that what was sent is passed on.
    fn sent_on(&self) -> Option<HeaderValue> {
        let own = self.own?;
        // Other flags have no meaning yet, and are 0 where a field is written anew.
        let sampled = if self.is_sampled { SAMPLED } else { 0 };
        let flags = sampled | if self.is_random { RANDOM } else { 0 };
        let value = format!("00-{}-{own}-{flags:02x}", self.trace_id);
        HeaderValue::from_str(&value).ok()
    }

    /// Sets the field in a head that goes to a backend.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        let Some(value) = self.sent_on() else { return };
        headers.insert(TRACEPARENT, value);
        if self.parent.is_none() {
            // It belongs to the trace that was sent (§3.3).
            headers.remove(TRACESTATE);
        }
    }
}

/// The number that these digits write. `None` means that another character is among them: capital
/// letters are invalid (§3.2.2).
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn with(mode: TraceparentMode, sampled_percent: u8) -> TraceRules {
        TraceRules { mode, sampled_percent, exports: false }
    }

    #[test]
    fn traceparent_is_read_as_the_specification_says() {
        let read = |value: &str| TraceContext::parse(value.as_bytes());
        let trace = read(SENT).unwrap();
        assert_eq!(trace.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert!(trace.is_sampled && trace.own.is_none());
        assert!(!read(&SENT.replace("-01", "-00")).unwrap().is_sampled);
        // A later version may add flags and parts.
        assert!(read(&SENT.replace("-01", "-ff")).unwrap().is_sampled);
        assert!(read(&SENT.replacen("00", "cc", 1)).is_some());
        assert!(read(&format!("{}-what", SENT.replacen("00", "cc", 1))).is_some());
        for broken in [
            "",
            "00",
            &SENT[..54],
            &SENT.replacen("00", "ff", 1),
            &SENT.replacen('-', "_", 1),
            &SENT.to_uppercase(),
            &SENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &SENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &SENT.replace("4736", "473g"),
            &format!("{SENT}-"),
            &format!("{SENT}0"),
            &format!("{}0", SENT.replacen("00", "cc", 1)),
            &format!(" {SENT}"),
            &SENT.replace("4736", "47é"),
        ] {
            assert_eq!(read(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn valid_trace_passes_unchanged_unless_traces_restart() {
        let sent = headers(&[(TRACEPARENT, SENT), (TRACESTATE, "a=1")]);
        for mode in [TraceparentMode::Pass, TraceparentMode::Make] {
            let trace = with(mode, 100).trace_of(&sent).unwrap();
            let mut head = sent.clone();
            trace.insert_into(&mut head);
            assert_eq!(head, sent, "{mode:?}");
        }
        let trace = with(TraceparentMode::Restart, 100).trace_of(&sent).unwrap();
        let mut head = sent.clone();
        trace.insert_into(&mut head);
        let own = TraceContext::of_request(&head).unwrap();
        assert_eq!(own.trace_id, trace.trace_id);
        assert_ne!(own.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(own.parent, trace.own);
        assert!(!head.contains_key(TRACESTATE));
    }

    #[test]
    fn exported_request_is_passed_on_as_its_own_span() {
        let rules = TraceRules { exports: true, ..with(TraceparentMode::Make, 100) };
        let long = format!("{}-what", SENT.replacen("00", "cc", 1).replace("-01", "-ff"));
        for (value, flags) in [(SENT, "01"), (&*SENT.replace("-01", "-03"), "03"), (&*long, "03")] {
            // `tracestate` may be in several fields, and belongs to the trace (§3.3.1.1).
            let sent = headers(&[(TRACEPARENT, value), (TRACESTATE, "a=1"), (TRACESTATE, "b=2")]);
            let (mut head, trace) = (sent.clone(), rules.trace_of(&sent).unwrap());
            trace.insert_into(&mut head);
            let own = trace.exported().unwrap();
            let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{own}-{flags}");
            assert_eq!(head.get(TRACEPARENT).unwrap(), &*expected, "{value}");
            assert_eq!(trace.parent.unwrap().to_string(), "00f067aa0ba902b7");
            assert!(head.get_all(TRACESTATE).iter().eq(["a=1", "b=2"]), "{head:?}");
        }
        // Not sampled: nothing is recorded here, and the field passes as it is.
        let quiet = SENT.replace("-01", "-02");
        let sent = headers(&[(TRACEPARENT, &quiet)]);
        let (mut head, trace) = (sent.clone(), rules.trace_of(&sent).unwrap());
        trace.insert_into(&mut head);
        assert_eq!((head, trace.exported()), (sent, None));
    }

    #[test]
    fn trace_is_made_where_none_is_valid() {
        let broken = SENT.to_uppercase();
        for sent in [
            headers(&[(TRACESTATE, "a=1")]),
            headers(&[(TRACEPARENT, &broken), (TRACESTATE, "a=1")]),
            headers(&[(TRACEPARENT, SENT), (TRACEPARENT, SENT), (TRACESTATE, "a=1")]),
        ] {
            assert_eq!(with(TraceparentMode::Pass, 100).trace_of(&sent), None);
            let (mut head, trace) =
                (sent.clone(), with(TraceparentMode::Make, 100).trace_of(&sent));
            trace.unwrap().insert_into(&mut head);
            let own = TraceContext::of_request(&head).unwrap();
            assert_eq!(Some(own.trace_id), trace.map(|trace| trace.trace_id));
            assert!(own.is_sampled && !head.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn share_of_the_traces_that_begin_here_is_sampled() {
        let sampled = |percent| {
            let rules = with(TraceparentMode::Make, percent);
            let made = (0..2_000).filter_map(|_| rules.trace_of(&HeaderMap::new()));
            made.filter(|trace| trace.is_sampled).count()
        };
        assert_eq!((sampled(0), sampled(100)), (0, 2_000));
        // 30 standard deviations to each side.
        assert!((400..1_600).contains(&sampled(50)));
    }
}
