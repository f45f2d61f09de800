//! The TLS handshake of a connection: how long it may take, when it may begin, and what a client
//! gets that speaks something else. The handshake itself is `tls`'.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::data::connection::ending::closing_end;
use crate::data::connection::identify::refuse_header;
use crate::data::connection::open_guard::{OpenGuard, log_refused_connection};
use crate::data::connection::timed_stream::ClientStream;
use crate::data::connection::timers::deadline_or_closing;
use crate::data::context::ThreadContext;
use crate::data::http::reply;
use crate::data::stream::socket::Socket;
use crate::data::tls;
use crate::observe::log::decision::{self, LogContext};
use crate::observe::metrics::{ConnectionEnd, TlsResult};
use crate::policy::certificate::ClientCertificate;
use crate::refusal::Refusal;
use crate::snapshot::ListenerRules;
use crate::snapshot::certificate::ServedCertificate;
use crate::snapshot::client_auth::ClientAuth;
use crate::snapshot::client_certificate;

/// A connection that never speaks HTTP over TLS.
pub struct EarlyEnd {
    /// The way in which the connection ended, for its count.
    pub end: ConnectionEnd,
    /// The socket, if an answer in the clear or an alert went out and our direction has ended.
    pub answered: Option<Socket>,
}

impl From<ConnectionEnd> for EarlyEnd {
    fn from(end: ConnectionEnd) -> Self {
        EarlyEnd { end, answered: None }
    }
}

/// What bounds a TLS handshake.
#[derive(Clone, Copy)]
pub struct HandshakeBounds<'c> {
    /// When the time of the handshake is up.
    pub deadline: Instant,
    /// Cancelled when the connection is to close.
    pub closing: &'c CancellationToken,
    /// Whether the rate of its client does not hold.
    pub is_exempt: bool,
}

/// A TLS handshake that was not done in time.
struct HandshakeTimeout;

/// A client's stream, and the outcome of its TLS handshake.
pub struct SecuredStream {
    /// The stream, with TLS or without.
    pub stream: ClientStream,
    /// The certificate that the handshake got by a server name. `None` means a plain listener, or a
    /// ClientHello without a server name.
    pub served: Option<ServedCertificate>,
    /// The certificate that the client has shown. `None` means none.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The number of the verifier that has verified it. 0 means none.
    pub verified_by: u64,
}

/// Makes the TLS handshake, where the listener wants one.
pub async fn accept_tls(
    thread: &Arc<ThreadContext>,
    open_guard: &mut OpenGuard,
    rules: &ListenerRules,
    socket: Socket,
    log_context: LogContext<'_>,
    HandshakeBounds { deadline, closing, is_exempt }: HandshakeBounds<'_>,
) -> Result<SecuredStream, EarlyEnd> {
    let Some(admitted) = &rules.tls else {
        let stream = ClientStream::Clear(socket);
        return Ok(SecuredStream { stream, served: None, certificate: None, verified_by: 0 });
    };
    let began = Instant::now();
    let listener = Arc::clone(&rules.listener.name);
    let (mut chosen, mut verifier) = (None, None);
    let configuration = |is_nameless| {
        // The certificates of the generation that runs when the client speaks, not at the accept.
        let live = thread.plane.live.load();
        let present = live.listeners.get(&listener).and_then(|rules| rules.tls.as_ref());
        // A listener that a reload has removed keeps the rules of the accept.
        let rules = present.unwrap_or(admitted);
        let (config, by_sni) = rules.for_connection(is_nameless);
        (chosen, verifier) = (Some(by_sni), rules.client_auth().cloned());
        config
    };
    let mut waits = false;
    let handshake = async {
        // The first bytes come before the turn: a probe that sends none costs no part of the rate.
        let mut hello = tls::read_first_bytes(socket).await?.reject_others().await?;
        if !is_exempt {
            wait_for_turn(thread, open_guard, rules, log_context, &mut hello, &mut waits).await?;
        }
        tls::accept(hello, configuration).await
    };
    let accepted = tokio::select! {
        biased;
        // First: a handshake that is done in the same poll as its deadline counts as done.
        accepted = handshake => Ok(accepted),
        () = deadline_or_closing(deadline, closing) => Err(HandshakeTimeout),
    };
    match &accepted {
        // A health check is neither a failed handshake nor a refusal.
        Ok(Err(tls::AcceptError::NoBytes)) => {
            open_guard.listener.probed();
            return Err(ConnectionEnd::Client.into());
        }
        Ok(Err(tls::AcceptError::ProxyHeader)) => {
            refuse_header(thread, &rules.listener, log_context);
            return Err(ConnectionEnd::Proxy.into());
        }
        _ => open_guard.listener.tls_handshake(result_of(&accepted, waits), began.elapsed()),
    }
    // A handshake that was broken off by a shutdown is not the client's failure, and is not logged
    // as a refusal.
    if accepted.is_err() && closing.is_cancelled() {
        return Err(closing_end(thread).into());
    }
    let served = chosen.and_then(|by_sni| by_sni.served().cloned());
    let (error, answered) = match accepted {
        Ok(Ok((stream, facts))) => {
            match secured(ClientStream::Tls(stream), served, verifier, &facts) {
                Ok(secured) => return Ok(secured),
                Err(error) => (error, None),
            }
        }
        Ok(Err(failure)) => told(Ok(failure), deadline).await,
        Err(HandshakeTimeout) => told(Err(waits), deadline).await,
    };
    log_refused_connection(thread, log_context, Refusal::Tls, Some(&error));
    Err(EarlyEnd { end: ConnectionEnd::Tls, answered })
}

/// The result of a handshake for its count. `waits` says that the client waited for its rate.
fn result_of(
    accepted: &Result<
        Result<(tls::TlsClientStream, tls::HandshakeInfo), tls::AcceptError>,
        HandshakeTimeout,
    >,
    waits: bool,
) -> TlsResult {
    match accepted {
        Ok(Ok((_, facts))) if facts.resumed => TlsResult::Resumed,
        Ok(Ok(_)) => TlsResult::Full,
        Ok(Err(_)) => TlsResult::Failed,
        Err(HandshakeTimeout) if waits => TlsResult::Rate,
        Err(HandshakeTimeout) => TlsResult::Timeout,
    }
}

/// The stream of a client whose handshake is done, with the certificate that it has shown.
///
/// # Errors
/// As [`client_certificate`]: a client whose certificate cannot be read is not served.
fn secured(
    stream: ClientStream,
    served: Option<ServedCertificate>,
    verifier: Option<Arc<ClientAuth>>,
    facts: &tls::HandshakeInfo,
) -> Result<SecuredStream, String> {
    let Some(verifier) = verifier else {
        return Ok(SecuredStream { stream, served, certificate: None, verified_by: 0 });
    };
    let certificate = client_certificate(&verifier, facts)?;
    Ok(SecuredStream { stream, served, certificate, verified_by: verifier.id() })
}

/// Reads the certificate of a client. A resumed session is verified again, as a new one: its certificate
/// or a revocation list may have expired since, and rustls asks no verifier. `None` means that the client has shown none.
///
/// # Errors
/// The certificate is not valid any more, or its names cannot be read.
fn client_certificate(
    verifier: &ClientAuth,
    facts: &tls::HandshakeInfo,
) -> Result<Option<Arc<ClientCertificate>>, String> {
    if facts.client_chain.is_empty() {
        return Ok(None);
    }
    if facts.resumed {
        let fault = verifier.verify_resumed(&facts.client_chain, Timestamp::now());
        fault.map_err(|fault| format!("the certificate of a resumed session: {fault}"))?;
    }
    let certificate = client_certificate::read(&facts.client_chain)?;
    Ok(Some(Arc::new(certificate)))
}

/// Tells a client why its handshake has failed, where it can be told. Returns the error for the
/// log, and the socket if an answer went out. `Err` means that time was up, and says whether the
/// client waited for its rate until then.
async fn told(
    failure: Result<tls::AcceptError, bool>,
    deadline: Instant,
) -> (String, Option<Socket>) {
    match failure {
        Ok(tls::AcceptError::Io(error)) => (error.to_string(), None),
        Ok(tls::AcceptError::Alerted(error, alerted)) => {
            // The socket is kept for its unread bytes: closed with some of them, it would be reset,
            // and the client could lose the alert.
            let ended = Box::pin(alerted.end());
            let answered = timeout_at(deadline, ended).await.ok().flatten();
            (error.to_string(), answered)
        }
        Ok(tls::AcceptError::PlainHttp(hello)) => {
            // Boxed: few connections need the room that it takes.
            let answer = reply::plain_on_tls();
            let dismissed = Box::pin(hello.answer_and_close(&answer));
            // Within the deadline of the handshake: a client that takes nothing gets no more time.
            let answered = timeout_at(deadline, dismissed).await.ok().flatten();
            ("plain HTTP was sent to a port that speaks TLS".to_owned(), answered)
        }
        Ok(tls::AcceptError::NoBytes | tls::AcceptError::ProxyHeader) | Err(false) => {
            ("not done in time".to_owned(), None)
        }
        Err(true) => {
            ("not begun in time: its client is over handshakes_per_client".to_owned(), None)
        }
    }
}

/// Waits until the client's rate lets a TLS handshake begin. `waits` is true meanwhile.
async fn wait_for_turn(
    thread: &ThreadContext,
    open_guard: &OpenGuard,
    rules: &ListenerRules,
    log_context: LogContext<'_>,
    hello: &mut tls::FirstBytes,
    waits: &mut bool,
) -> Result<(), tls::AcceptError> {
    let (handshake_queue, listener) = (&thread.plane.handshake_queue, &rules.listener.name);
    let client = log_context.client.key();
    // The rate of the generation that runs now: a reload acts on connections that wait.
    let take = || {
        let live = thread.plane.live.load();
        let rules = live.listeners.get(listener).unwrap_or(rules);
        thread.plane.tunnels.budgets().take_handshake(&rules.listener, client)
    };
    if handshake_queue.try_pass(listener, client, take) {
        return Ok(());
    }
    *waits = true;
    open_guard.listener.tls_delayed();
    decision::log_delayed_handshake(log_context, &thread.delays);
    // Boxed: connections that don't wait would carry the room that it takes.
    Box::pin(hello.run_until_left(handshake_queue.wait(listener, client, take))).await?;
    *waits = false;
    Ok(())
}
