//! HTTP/1.1 on a connection: the first head is read without hyper where that can be done, and hyper
//! serves everything else.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use crate::data::connection::clock::Clock;
use crate::data::connection::direct::{First, first};
use crate::data::connection::ending::{Spoken, closed, ended, over, timed_out};
use crate::data::connection::exchange::Exchange;
use crate::data::connection::served::by_hyper;
use crate::data::connection::watched::{Stream, Watched};
use crate::data::core::Core;
use crate::observe::metrics::ConnectionEnd;
use crate::snapshot::ListenerRules;

/// Speaks HTTP/1.1 until the client leaves, is refused, is late, or upgrades. Most clients upgrade
/// at once, without hyper.
pub async fn converse(
    core: &Arc<Core>,
    rules: &ListenerRules,
    stream: Stream,
    exchange: Arc<Exchange>,
) -> Spoken {
    let patience = exchange.patience.clone();
    let came = Arc::clone(&exchange.came);
    let closing = pin!(came.closing.cancelled());
    let timer = pin!(sleep_until(Instant::now()));
    let mut clock = Clock::new(&patience, closing, timer);

    let first = {
        let client = Watched::new(stream, patience.clone());
        let mut first = pin!(first(&exchange, client));
        clock.until(|cx, _| first.as_mut().poll(cx)).await
    };
    match first {
        Some(First::Upgraded(upgraded)) => Spoken::Upgraded(upgraded),
        Some(First::Left(client)) => over(ConnectionEnd::Client, client, false, &patience),
        Some(First::Http2(client)) => {
            let end = exchange.malformed("HTTP/2 without negotiation, which is not spoken here");
            over(end, client, true, &patience)
        }
        Some(First::Replied { client, unread }) => {
            let closed = clock.is_closing().then(|| closed(core));
            over(ended(Some(Ok(())), &exchange, closed), client, unread, &patience)
        }
        // Boxed: connections that upgrade at once would carry the room that hyper takes.
        Some(First::Hyper { client, answer }) => {
            Box::pin(by_hyper(core, rules, client, answer, &exchange, clock)).await
        }
        None if clock.is_closing() => Spoken::Over(closed(core)),
        None => Spoken::Over(timed_out(&exchange)),
    }
}
