//! How the HTTP part of a connection ends, and why.

use bytes::Bytes;

use crate::data::connection::exchange::Exchange;
use crate::data::connection::linger::Lingering;
use crate::data::connection::opening::Opening;
use crate::data::connection::watched::Watched;
use crate::data::core::Core;
use crate::data::http::patience::{Patience, Waits};
use crate::observe::metrics::ConnectionEnd;

/// The outcome of the HTTP part of a connection.
pub enum Spoken {
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
pub struct Upgraded {
    /// The client's stream, before its tunnel.
    pub client: Watched,
    /// Bytes that the client has sent behind its head.
    pub early: Bytes,
    /// The tunnel, which lacks only the client.
    pub opening: Box<Opening>,
}

/// How a connection ends; `unread` says whether hyper has left bytes of the client behind.
pub fn over(end: ConnectionEnd, client: Watched, unread: bool, patience: &Patience) -> Spoken {
    match client.into_unread(unread) {
        Some((tcp, discarded)) => {
            Spoken::Unread(end, Lingering { tcp, discarded, patience: patience.clone() })
        }
        None => Spoken::Over(end),
    }
}

/// Why a connection that was to close is over.
pub fn closed(core: &Core) -> ConnectionEnd {
    match core.shared.lifecycle.closing().is_cancelled() {
        true => ConnectionEnd::Drain,
        false => ConnectionEnd::Retired,
    }
}

/// Why a connection is over that hyper has served. `spoken` is `None` for a deadline; `closed` says
/// why it was to close, and `None` means that it was not.
pub fn ended(
    spoken: Option<hyper::Result<()>>,
    exchange: &Exchange,
    closed: Option<ConnectionEnd>,
) -> ConnectionEnd {
    let patience = &exchange.patience;
    // Several of these may hold, and the first one counts.
    match (spoken, closed) {
        _ if patience.is_displaced() => ConnectionEnd::Displaced,
        (None, Some(closed)) => closed,
        (None, None) => timed_out(exchange),
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

/// How a connection ends whose deadline has passed: it depends on what was waited for.
pub fn timed_out(exchange: &Exchange) -> ConnectionEnd {
    let patience = &exchange.patience;
    match patience.deadline() {
        _ if patience.cut().is_some() => ConnectionEnd::Cut,
        Some((_, Waits::Head)) => exchange.malformed("not there in time"),
        Some((_, Waits::Idle)) => ConnectionEnd::KeepAlive,
        Some((_, Waits::Taken | Waits::Pace)) => ConnectionEnd::Cut,
        None => ConnectionEnd::Client,
    }
}
