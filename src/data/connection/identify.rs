//! Who a connection speaks for: its peer, or the client that the PROXY header of a listed peer
//! names. The bounds before a policy are charged to that client, once it is known.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::data::admission::pending::{AdmissionClaim, PendingGuard};
use crate::data::connection::ending::closing_end;
use crate::data::connection::open_guard::{OpenGuard, log_refused_connection};
use crate::data::connection::timers::deadline_or_closing;
use crate::data::context::ThreadContext;
use crate::data::proxy_protocol::read::{ReadFault, read_header};
use crate::data::stream::socket::Socket;
use crate::observe::log::decision::{ConnectionRefusal, LogContext};
use crate::observe::metrics::ConnectionEnd;
use crate::policy::ban::Ban;
use crate::policy::network::{Client, Peer};
use crate::policy::proxied::ProxiedConnection;
use crate::refusal::Refusal;
use crate::snapshot::ListenerRules;
use crate::snapshot::listener::Listener;

/// Books a connection that begins with a PROXY header which its peer may not send. It is closed
/// without an answer.
pub fn refuse_header(thread: &ThreadContext, listener: &Listener, log_context: LogContext<'_>) {
    let peer = log_context.peer;
    let error = match (&listener.proxy_protocol, log_context.proxied) {
        (_, Some(_)) => "a second PROXY header came behind the first".to_owned(),
        (Some(_), None) => format!(
            "a PROXY header came from a peer that the listener's proxy_protocol.from does not \
             list: {peer}"
        ),
        (None, None) => format!(
            "a PROXY header came, and the listener expects none: the key proxy_protocol = {{ from \
             = [\"{peer}\"] }} of its [[listener]] would allow it"
        ),
    };
    log_refused_connection(thread, log_context, Refusal::Proxy, Some(&error));
}

/// How a connection comes to count among those of its client.
pub enum Admission {
    /// The peer is the client, which was charged at the accept.
    Claimed(AdmissionClaim),
    /// The peer is listed in `forwarded`: its connection carries requests of other clients, and
    /// counts among those of none.
    Shared,
    /// The peer is listed in `proxy_protocol`: the client is charged once its header is there.
    ByHeader,
}

/// Who a connection speaks for.
pub struct Identified {
    /// The client that its requests are judged as.
    pub client: Client,
    /// Counts the connection among those of its client.
    pub guard: PendingGuard,
    /// The connection to the proxy in front. `None` means that the peer sent no header.
    pub proxied: Option<Arc<ProxiedConnection>>,
    /// Whether the client is a listed peer itself, which no bound on a client's connections holds.
    pub is_exempt: bool,
}

/// The connection that is to be identified.
pub struct Unidentified<'c> {
    /// Its socket, of which nothing was read.
    pub stream: &'c Socket,
    /// Its listener's rules at the accept.
    pub rules: &'c ListenerRules,
    /// The socket's other end.
    pub peer: Peer,
    /// When `[timeouts] tls` ends, which began with the accept.
    pub deadline: Instant,
}

/// How a connection ended before it was identified.
enum Unadmitted {
    /// It was refused: for this reason, with an error for the log.
    Refused(Refusal, Option<String>),
    /// This ban holds the client.
    Banned(Arc<Ban>),
    /// The peer closed it before its first byte.
    Probe,
    /// It was to close.
    Closing,
}

impl Unidentified<'_> {
    /// Finds out who the connection speaks for. `None` means that the connection is over, which is
    /// booked. `closing` is cancelled when the connection is to close.
    pub async fn identify(
        self,
        admission: Admission,
        closing: &CancellationToken,
        open_guard: &mut OpenGuard,
    ) -> Option<Identified> {
        match admission {
            Admission::Claimed(claim) => {
                let client = Client::of_peer(self.peer);
                match self.wait(claim).await {
                    Ok(guard) => {
                        Some(Identified { client, guard, proxied: None, is_exempt: false })
                    }
                    Err(unadmitted) => self.book(unadmitted, client, None, open_guard),
                }
            }
            Admission::Shared => {
                let client = Client::of_peer(self.peer);
                let guard = open_guard.thread.plane.pending.unbounded(client.key());
                Some(Identified { client, guard, proxied: None, is_exempt: true })
            }
            // Boxed: connections of other peers would carry the room that it takes.
            Admission::ByHeader => Box::pin(self.by_header(closing, open_guard)).await,
        }
    }

    /// Reads the PROXY header, and charges the client that it names.
    async fn by_header(
        &self,
        closing: &CancellationToken,
        open_guard: &mut OpenGuard,
    ) -> Option<Identified> {
        let proxied: Arc<ProxiedConnection> = match self.read(closing).await {
            Ok(proxied) => proxied.into(),
            Err(unadmitted) => {
                let client = Client::of_peer(self.peer);
                return self.book(unadmitted, client, None, open_guard);
            }
        };
        // `LOCAL` and `UNKNOWN` name no client. The policy judges the balancer then, so that such a
        // header admits no more than the balancer itself.
        let client = proxied.client().unwrap_or(Client::of_peer(self.peer));
        // The client that the header names, not the balancer: a balancer that sends PROXY headers
        // passes the bytes of its clients unread, and vouches for no forwarded header in them.
        let is_shared = self.rules.listener.forwards_others(Peer::of_client(client));
        // The peer's own checks, and clients that it can't name.
        let is_exempt = proxied.endpoints.is_none() || is_shared;
        if is_shared {
            let guard = open_guard.thread.plane.pending.unbounded(client.key());
            return Some(Identified { client, guard, proxied: Some(proxied), is_exempt });
        }
        match self.charge(client, is_exempt, &open_guard.thread).await {
            Ok(guard) => Some(Identified { client, guard, proxied: Some(proxied), is_exempt }),
            Err(unadmitted) => self.book(unadmitted, client, Some(&proxied), open_guard),
        }
    }

    /// Reads the header within its deadline.
    async fn read(
        &self,
        closing: &CancellationToken,
    ) -> Result<Box<ProxiedConnection>, Unadmitted> {
        let timeouts = &self.rules.listener.timeouts;
        // Less what `tls` leaves behind the header, so that both run from the accept.
        let rest = timeouts.tls.saturating_sub(timeouts.proxy_header);
        let deadline = self.deadline - rest;
        let read = tokio::select! {
            biased;
            read = read_header(self.stream) => Some(read),
            () = deadline_or_closing(deadline, closing) => None,
        };
        let error = match read {
            Some(Ok(proxied)) => return Ok(proxied),
            Some(Err(ReadFault::NoBytes)) => return Err(Unadmitted::Probe),
            Some(Err(fault)) => fault.to_string(),
            // A shutdown is not the peer's failure, and is not logged as a refusal.
            None if closing.is_cancelled() => return Err(Unadmitted::Closing),
            None => "no whole PROXY header came in time, within `proxy_header`".to_owned(),
        };
        Err(Unadmitted::Refused(Refusal::Proxy, Some(error)))
    }

    /// Charges the client that the header names, as the accept does for a peer that speaks for
    /// itself.
    async fn charge(
        &self,
        client: Client,
        is_exempt: bool,
        thread: &ThreadContext,
    ) -> Result<PendingGuard, Unadmitted> {
        // In the order of the accept: a client that is banned or denied takes no place, and
        // displaces no idle connection.
        let (live, now) = (thread.plane.live.load(), Timestamp::now());
        if let Some(ban) = live.bans.find(client, now) {
            return Err(Unadmitted::Banned(ban));
        }
        if live.denying_baseline(client, now).is_some() {
            return Err(Unadmitted::Refused(Refusal::Network, None));
        }
        let pending = &thread.plane.pending;
        // A balancer's health checks all come from its own address, and would share one bound.
        if is_exempt {
            return Ok(pending.unbounded(client.key()));
        }
        match pending.claim(client, self.rules.listener.pending_per_client) {
            Some(claim) => self.wait(claim).await,
            None => Err(Unadmitted::Refused(Refusal::Pending, None)),
        }
    }

    /// Waits until an idle connection of the same client has made room, where that is needed.
    async fn wait(&self, claim: AdmissionClaim) -> Result<PendingGuard, Unadmitted> {
        let guard = claim.wait(self.deadline).await;
        guard.ok_or(Unadmitted::Refused(Refusal::Pending, None))
    }

    /// Books a connection that is over.
    fn book(
        &self,
        unadmitted: Unadmitted,
        client: Client,
        proxied: Option<&ProxiedConnection>,
        open_guard: &mut OpenGuard,
    ) -> Option<Identified> {
        let (refusal, error, ban) = match unadmitted {
            Unadmitted::Refused(refusal, error) => (refusal, error, None),
            Unadmitted::Banned(ban) => (Refusal::Banned, None, Some(ban)),
            Unadmitted::Probe => {
                open_guard.listener.probed();
                return None;
            }
            Unadmitted::Closing => {
                open_guard.end = closing_end(&open_guard.thread);
                return None;
            }
        };
        open_guard.end = match refusal {
            Refusal::Pending => ConnectionEnd::Pending,
            Refusal::Network => ConnectionEnd::Network,
            Refusal::Banned => ConnectionEnd::Banned,
            _ => ConnectionEnd::Proxy,
        };
        let thread = &open_guard.thread;
        let (live, now) = (thread.plane.live.load(), Timestamp::now());
        // A client that the baseline denies gets no TLS handshake.
        let baseline = live.denying_baseline(client, now).filter(|_| refusal == Refusal::Network);
        let rule =
            baseline.and_then(|all| all.deciding_rule(&client.into(), false, Err(refusal), now));
        let listener = &*self.rules.listener.name;
        let log_context = LogContext { listener, client, peer: self.peer, proxied };
        let (ban, error) = (ban.as_ref(), error.as_deref());
        let refused = ConnectionRefusal { refusal, rule, ban, error };
        thread.refuse_connection(log_context, refused);
        None
    }
}
