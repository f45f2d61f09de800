//! How the HTTP part of a connection ends, and why.

use bytes::Bytes;

use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::linger::Lingering;
use crate::data::connection::service::HttpService;
use crate::data::connection::timed_stream::TimedStream;
use crate::data::context::ThreadContext;
use crate::data::http::deadlines::{HttpDeadlines, WaitKind};
use crate::observe::metrics::ConnectionEnd;

/// The outcome of the HTTP part of a connection.
pub enum HttpOutcome {
    /// The connection is over, and can be closed.
    Ended(ConnectionEnd),
    /// Our direction is over, and the client may still send bytes that are not read any more.
    Linger(ConnectionEnd, Lingering),
    /// It ended without a byte: a health check.
    Empty,
    /// A 101 went out, and this waits to become a tunnel, or to be closed.
    Upgraded(UpgradedConnection),
}

/// The parts of a connection that becomes a tunnel.
pub struct UpgradedConnection {
    /// The client's stream, before its tunnel.
    pub client: TimedStream,
    /// Bytes that the client has sent behind its head.
    pub early: Bytes,
    /// What its 101 was sent for.
    pub accepted: AcceptedUpgrade,
}

/// How a connection ends; `unread` says whether hyper has left bytes of the client behind.
pub fn finish(
    end: ConnectionEnd,
    client: TimedStream,
    unread: bool,
    deadlines: &HttpDeadlines,
) -> HttpOutcome {
    match client.into_unread(unread) {
        Some((socket, discarded)) => {
            HttpOutcome::Linger(end, Lingering { socket, discarded, deadlines: deadlines.clone() })
        }
        None => HttpOutcome::Ended(end),
    }
}

/// As [`finish`], for a connection of `service`, whose last request may get no answer.
///
/// Answers to earlier requests that the client has not acknowledged reach it first then: a socket
/// that is closed with unread bytes is reset.
pub fn finish_served(
    end: ConnectionEnd,
    client: TimedStream,
    unread: bool,
    service: &HttpService,
) -> HttpOutcome {
    if service.dropped().is_none() {
        return finish(end, client, unread, &service.deadlines);
    }
    let owed = if service.has_answers() { client.into_unacked() } else { None };
    match owed {
        Some((socket, discarded)) => {
            let deadlines = service.deadlines.clone();
            HttpOutcome::Linger(end, Lingering { socket, discarded, deadlines })
        }
        None => HttpOutcome::Ended(end),
    }
}

/// Why a connection that was to close is over.
pub fn closing_end(thread: &ThreadContext) -> ConnectionEnd {
    match thread.plane.lifecycle.closing().is_cancelled() {
        true => ConnectionEnd::Drain,
        false => ConnectionEnd::Retired,
    }
}

/// Why a connection is over that hyper has served. `spoken` is `None` for a deadline; `closed`
/// says why it was to close, and `None` means that it was not.
pub fn hyper_end(
    spoken: Option<hyper::Result<()>>,
    service: &HttpService,
    closed: Option<ConnectionEnd>,
) -> ConnectionEnd {
    let deadlines = &service.deadlines;
    // Several of these may hold, and the first one counts.
    match (spoken, closed) {
        _ if deadlines.is_displaced() => ConnectionEnd::Displaced,
        (None, Some(closed)) => closed,
        (None, None) => timed_out(service),
        // The service has ended it with an error, which is no fault of the client's.
        _ if let Some(end) = service.dropped() => end,
        // No newcomer has asked for its place: its time between requests was over.
        (Some(_), None) if deadlines.is_leaving() => ConnectionEnd::KeepAlive,
        _ if deadlines.cut().is_some() => ConnectionEnd::Cut,
        // Rare: `RequestFilter` refuses such heads, unless it has lost where a head begins.
        (Some(Err(error)), _) if error.is_parse_too_large() => service.malformed(&format!(
            "its head is too large: too many header fields (more than {}, `max_fields`), \
             or over `max_head`",
            service.connection.max_fields
        )),
        (Some(Err(error)), _) if error.is_parse() => service.malformed(&error.to_string()),
        _ if service.has_bad_head() => ConnectionEnd::Head,
        _ if service.has_closed() => ConnectionEnd::Refused,
        (_, Some(closed)) => closed,
        _ => ConnectionEnd::Client,
    }
}

/// How a connection ends whose deadline has passed: it depends on what was waited for.
pub fn timed_out(service: &HttpService) -> ConnectionEnd {
    let deadlines = &service.deadlines;
    match deadlines.deadline() {
        _ if deadlines.cut().is_some() => ConnectionEnd::Cut,
        Some((_, WaitKind::Head)) => service.malformed("not there in time"),
        Some((_, WaitKind::Idle)) => ConnectionEnd::KeepAlive,
        Some((_, WaitKind::Write | WaitKind::Pace)) => ConnectionEnd::Cut,
        None => ConnectionEnd::Client,
    }
}
