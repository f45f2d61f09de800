//! The first head of a connection without hyper: an attempt that is whole and unambiguous is read,
//! decided and answered here. Everything else is handed to hyper, from its first byte.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::data::admission::sniff::{self, Sniffed};
use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::decide::{BackendAnswer, Decision, RequestHead};
use crate::data::connection::ending::UpgradedConnection;
use crate::data::connection::service::HttpService;
use crate::data::connection::timed_stream::TimedStream;
use crate::data::http::head::{self, HeadReader};
use crate::data::http::reply;
use crate::policy::request::target::TargetEncoding;

/// The most bytes that one read takes of a client before it has a tunnel: as many as hyper reads,
/// and no more than any `max_head`.
const MAX_FIRST_READ_BYTES: usize = 8 * 1024;

/// The outcome of a first head.
pub enum FirstHeadOutcome {
    /// The client has its 101, and the tunnel can open, or the Close follow.
    Upgraded(UpgradedConnection),
    /// The client has left, or broken TLS.
    Left(TimedStream),
    /// The client is refused without an answer.
    Dropped(TimedStream),
    /// The client speaks HTTP/2, and has been told that it is not spoken here.
    Http2(TimedStream),
    /// The peer sent a PROXY header, which nothing reads here.
    ProxyHeader,
    /// The client has its answer, and our direction has ended. `unread` says whether bytes of the
    /// client came behind the head.
    Replied {
        /// The client's stream, shut down.
        client: TimedStream,
        /// Whether bytes of the client came behind the head.
        unread: bool,
    },
    /// hyper has to read the stream, from its first byte, and to answer.
    Hyper {
        /// The client's stream, rewound.
        client: TimedStream,
        /// The answer to the first request, where a backend has been asked for it already.
        answer: Option<BackendAnswer>,
    },
}

/// Reads a client's first bytes, and answers them if they are an attempt.
pub async fn read_first_head(
    service: &Arc<HttpService>,
    mut client: TimedStream,
) -> FirstHeadOutcome {
    let Ok(mut came) = poll_fn(|cx| read_some(&mut client, cx)).await else {
        return FirstHeadOutcome::Hyper { client, answer: None };
    };
    while !came.is_empty() {
        match (sniff::sniff_http2(&came), sniff::sniff_proxy(&came)) {
            (_, Sniffed::Match) => return FirstHeadOutcome::ProxyHeader,
            (Sniffed::Match, _) => {
                let answer = reply::http2_unspoken();
                // Fails for a client that is gone, of which nothing is discarded then.
                let _ = Box::pin(sniff::send_and_shutdown(&mut client, &answer)).await;
                return FirstHeadOutcome::Http2(client);
            }
            (Sniffed::Mismatch, Sniffed::Mismatch) => break,
            _ => {
                // An error counts as the end here, and hyper meets it again.
                let more = poll_fn(|cx| read_some(&mut client, cx)).await.unwrap_or_default();
                if more.is_empty() {
                    break;
                }
                came = [came, more].concat().into();
            }
        }
    }
    let Some((head, length)) = attempt(service, &came) else {
        return FirstHeadOutcome::Hyper { client: client.with_replay(came), answer: None };
    };
    // `parse_request` takes no other version, and no head with a body.
    service.deadlines.on_request_start(Version::HTTP_11, false);
    let mut early = Bytes::new();
    let mut decision = pin!(Arc::clone(service).decide(head));
    match decide_while_reading(decision.as_mut(), &mut client, &mut early).await {
        Some(Decision::Accept(accepted)) if grant(service, &mut client, &accepted).await => {
            let early = [came.slice(length..), early].concat().into();
            FirstHeadOutcome::Upgraded(UpgradedConnection { client, early, accepted })
        }
        None | Some(Decision::Accept(_)) => FirstHeadOutcome::Left(client),
        Some(Decision::Drop) => FirstHeadOutcome::Dropped(client),
        Some(Decision::Reply(answer)) => {
            // Fails for a client that is gone, of which nothing is discarded then.
            let _ = Box::pin(write_reply(service, &mut client, answer)).await;
            FirstHeadOutcome::Replied { client, unread: length < came.len() || !early.is_empty() }
        }
        Some(Decision::Backend(answer)) => {
            let client = client.with_replay([came, early].concat().into());
            FirstHeadOutcome::Hyper { client, answer: Some(answer) }
        }
    }
}

/// The attempt at the start of `came`, and the length of its head. `None` means that hyper has
/// to read the request. An attempt that the gate refuses is one too.
fn attempt(service: &HttpService, came: &Bytes) -> Option<(RequestHead, usize)> {
    let facts = &service.connection;
    let head::ParsedHead { parts, spelling, length } = match service.thread.plane.heads {
        HeadReader::Direct => head::parse_request(came, facts.max_fields)?,
        HeadReader::Hyper => return None,
    };
    let grown = parts.extensions.get::<TargetEncoding>().map_or(0, |tidied| tidied.grown);
    if length + grown > facts.max_head {
        // hyper is handed the encoded head and answers 431, so nothing may be decided before.
        return None;
    }
    let head = RequestHead::new(parts, Some(spelling), false, facts.forwarded.scheme());
    // The answer to plain HTTP may keep the connection, which is hyper's then.
    if head.is_plain() { None } else { Some((head, length)) }
}

/// Decides while it reads on, to notice a client that leaves: it no longer wants a tunnel, and
/// `None` is returned. What the client says meanwhile, of one read at most, is left in `early`.
async fn decide_while_reading(
    mut decision: Pin<&mut impl Future<Output = Decision>>,
    client: &mut TimedStream,
    early: &mut Bytes,
) -> Option<Decision> {
    poll_fn(|cx| {
        if let Poll::Ready(decision) = decision.as_mut().poll(cx) {
            // One more read, to notice a client that has left meanwhile: it gets no tunnel.
            if early.is_empty()
                && let Poll::Ready(Ok(said)) = read_some(client, cx)
            {
                *early = said;
            }
            return Poll::Ready(Some(decision));
        }
        if early.is_empty() {
            // Empty only once the client is gone: `TimedStream` hides a mere FIN while a request is
            // worked on.
            *early = ready!(read_some(client, cx)).unwrap_or_default();
            if early.is_empty() {
                return Poll::Ready(None);
            }
        }
        // Nothing more is read, but a flush notices a reset.
        if let Poll::Ready(Err(_)) = Pin::new(&mut *client).poll_flush(cx) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Writes a 101. Returns whether the client is there to get it.
async fn grant(
    service: &HttpService,
    client: &mut TimedStream,
    accepted: &AcceptedUpgrade,
) -> bool {
    let written = async {
        client.write_all(&accepted.head()).await?;
        client.flush().await
    };
    // A client that has ended its side may be gone: a tunnel needs its acknowledgement.
    let is_written: io::Result<()> = written.await;
    is_written.is_ok() && (!service.deadlines.has_client_eof() || client.delivered().await)
}

/// Writes an answer of sidegate's own to an attempt, which ends the connection: its head says
/// `close`.
async fn write_reply(
    service: &HttpService,
    client: &mut TimedStream,
    answer: Response<Bytes>,
) -> io::Result<()> {
    client.write_all(&head::write_answer(&answer, Timestamp::now())).await?;
    client.flush().await?;
    service.deadlines.on_response();
    client.shutdown().await
}

/// The client's next bytes; empty at the end of its stream.
fn read_some(client: &mut TimedStream, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    // On the stack for one call: across an await it would make every task 8 KiB larger.
    let mut room = [MaybeUninit::uninit(); MAX_FIRST_READ_BYTES];
    let mut buffer = ReadBuf::uninit(&mut room);
    ready!(Pin::new(client).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
}
