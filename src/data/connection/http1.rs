//! HTTP/1.1 on a connection: the first head is read without hyper where that can be done, and hyper
//! serves everything else.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use crate::data::connection::direct::{FirstHeadOutcome, read_first_head};
use crate::data::connection::ending::{HttpOutcome, closing_end, finish, hyper_end, timed_out};
use crate::data::connection::identify::refuse_header;
use crate::data::connection::served::serve_with_hyper;
use crate::data::connection::service::HttpService;
use crate::data::connection::timed_stream::{ClientStream, TimedStream};
use crate::data::connection::timers::ConnectionTimers;
use crate::data::context::ThreadContext;
use crate::observe::metrics::ConnectionEnd;
use crate::snapshot::ListenerRules;

/// Speaks HTTP/1.1 until the client leaves, is refused, is late, or upgrades. Most clients upgrade
/// at once, without hyper.
pub async fn serve_http(
    thread: &Arc<ThreadContext>,
    rules: &ListenerRules,
    stream: ClientStream,
    service: Arc<HttpService>,
) -> HttpOutcome {
    let deadlines = service.deadlines.clone();
    let connection = Arc::clone(&service.connection);
    let closing = pin!(connection.closing.cancelled());
    // The first wait sets the time: see `ConnectionTimers::poll_late`.
    let timer = pin!(sleep_until(Instant::now()));
    let mut timers = ConnectionTimers::new(&deadlines, closing, timer);

    let first = {
        let client = TimedStream::new(stream, deadlines.clone());
        let mut first = pin!(read_first_head(&service, client));
        timers.run_until(|cx, _| first.as_mut().poll(cx)).await
    };
    match first {
        Some(FirstHeadOutcome::Upgraded(upgraded)) => HttpOutcome::Upgraded(upgraded),
        // A client that broke TLS has got an alert, and lingers behind it. Any other is gone.
        Some(FirstHeadOutcome::Left(client)) => {
            finish(ConnectionEnd::Client, client, false, &deadlines)
        }
        // Nothing is sent, so nothing lingers: no close_notify, and RST where bytes are unread.
        Some(FirstHeadOutcome::Dropped(_client)) => {
            HttpOutcome::Ended(service.dropped().unwrap_or(ConnectionEnd::Network))
        }
        Some(FirstHeadOutcome::Http2(client)) => {
            let end = service.malformed("HTTP/2 without negotiation, which is not spoken here");
            // The rest of the preface, and frames behind it, may still come.
            finish(end, client, true, &deadlines)
        }
        Some(FirstHeadOutcome::ProxyHeader) => {
            refuse_header(thread, &rules.listener, service.connection.log_context());
            HttpOutcome::Ended(ConnectionEnd::Proxy)
        }
        Some(FirstHeadOutcome::Replied { client, unread }) => {
            let closed = timers.is_closing().then(|| closing_end(thread));
            finish(hyper_end(Some(Ok(())), &service, closed), client, unread, &deadlines)
        }
        // Boxed: connections that upgrade at once would carry the room that hyper takes.
        Some(FirstHeadOutcome::Hyper { client, answer }) => {
            Box::pin(serve_with_hyper(thread, rules, client, answer, &service, timers)).await
        }
        None if timers.is_closing() => HttpOutcome::Ended(closing_end(thread)),
        None => HttpOutcome::Ended(timed_out(&service)),
    }
}
