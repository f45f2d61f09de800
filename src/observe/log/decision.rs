//! The lines of the data plane: one for each decision, one for each ending of a tunnel.
//!
//! What happened is handed in as facts; the names of the fields are said here, once, and are those
//! of the metrics' labels. A refusal beyond its client's cap is counted instead of shown.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::close::{By, Closed, ExchangePhase, ExchangeReason, Traffic};
use crate::observe::log::cap::{About, Cap};
use crate::observe::metrics::{Difference, NO_ROUTE, RequestKind, RequestResult};
use crate::policy::Policy;
use crate::policy::decisive::Decisive;
use crate::policy::network::{Client, Peer};
use crate::refusal::Refusal;
use crate::snapshot::route::{BackendAddress, Route};
use crate::tunnels::Entry;

/// Whose connection it is, and to which listener.
#[derive(Debug, Clone, Copy)]
pub struct Party<'d> {
    /// The listener's name.
    pub listener: &'d str,
    /// For whom the peer speaks.
    pub client: Client,
    /// The socket's other end.
    pub peer: Peer,
}

/// What became of one request.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'d> {
    /// Who asked.
    pub party: Party<'d>,
    /// For an upgrade, or plain.
    pub kind: RequestKind,
    /// The host asked for; as it came, where the head didn't pass the gate.
    pub host: &'d str,
    /// The path asked for, without its query.
    pub path: &'d str,
    /// The page that asked.
    pub origin: Option<&'d str>,
    /// Under which id both sides know it.
    pub request_id: &'d str,
    /// Where it led.
    pub route: Option<&'d Route>,
    /// The policy that judged it.
    pub policy: Option<&'d Policy>,
    /// Under which generation it was judged, and when; `None`: it was refused before.
    pub judged: Option<(u64, Timestamp)>,
    /// Permitted, refused or failed.
    pub result: RequestResult,
    /// Why, unless it was permitted.
    pub refusal: Option<Refusal>,
    /// Why it failed, where no refusal says so.
    pub failure: Option<ExchangeReason>,
    /// The status of the answer; `None`: there was none.
    pub status: Option<u16>,
    /// The backend that was dialled last.
    pub backend: Option<&'d BackendAddress>,
    /// What went wrong, in the words of whoever noticed.
    pub error: Option<&'d str>,
}

impl Decision<'_> {
    /// Writes its line.
    pub fn log(&self, cap: &Cap) {
        let Decision { party: Party { listener, client, peer }, .. } = *self;
        let route = self.route.map_or(NO_ROUTE, |route| &route.name);
        let reason = self.refusal.map(Refusal::word).or(self.failure.map(ExchangeReason::word));
        // A failure is no refusal: the backend had the request, and each has its line.
        if let Some(refusal) = self.refusal
            && !cap.lets_through(
                client,
                About { route, listener, reason: refusal.word() },
                Instant::now(),
            )
        {
            return;
        }
        let wanted = match reason {
            Some(_) => tracing::enabled!(tracing::Level::INFO),
            // A name of its own, by which `SIDEGATE_LOG` can leave these lines out: they are what others call the access log.
            None => tracing::enabled!(target: "sidegate::permitted", tracing::Level::INFO),
        };
        if !wanted {
            return;
        }
        let decisive = self.decisive();
        let by = decisive.and_then(|decisive| decisive.by);
        let instead = decisive.and_then(|decisive| decisive.instead);
        let result = self.result.word();
        tracing::info!(
            route,
            listener,
            client = %client,
            peer = %peer,
            kind = self.kind.word(),
            result,
            reason,
            status = self.status,
            host = self.host,
            path = self.path,
            // Of all pages only the one that decided: the rest is the backend's to log.
            origin = self.origin.filter(|_| self.refusal == Some(Refusal::Origin)),
            request_id = self.request_id,
            generation = self.judged.map(|(generation, _)| generation),
            policy = self.policy.map(|policy| &*policy.name),
            rule = decisive.map(|decisive| display(decisive.place)),
            list = by.map(|by| &*by.list.name),
            entry = by.map(|by| display(by.entry)),
            entry_at = by.map(|by| display(by.place())),
            owner = by.and_then(|by| by.entry.owner()),
            ticket = by.and_then(|by| by.entry.ticket()),
            expires = by.and_then(|by| by.entry.expiry()).map(display),
            would_match = instead.map(|instead| display(instead.entry)),
            backend = self.backend.map(display),
            error = self.error,
            "{result}"
        );
    }

    /// The line of a decision that the policy's candidate would have made otherwise; `refusal` is that of the one
    /// that refuses.
    pub fn log_difference(&self, difference: Difference, cap: &Cap) {
        let Decision { party: Party { listener, client, peer }, .. } = *self;
        let (Some(policy), Some(refusal), Some((generation, now))) =
            (self.policy, self.refusal, self.judged)
        else {
            return;
        };
        let route = self.route.map_or(NO_ROUTE, |route| &route.name);
        if !cap.lets_through(
            client,
            About { route, listener, reason: difference.word() },
            Instant::now(),
        ) {
            return;
        }
        let refusing = match difference {
            Difference::WouldRefuse => policy.candidate.as_deref(),
            Difference::WouldAdmit => Some(policy),
        };
        let decisive = refusing.and_then(|policy| {
            policy.decisive(client, self.kind == RequestKind::Plain, Err(refusal), now)
        });
        let by = decisive.and_then(|decisive| decisive.by);
        tracing::info!(
            route,
            listener,
            client = %client,
            peer = %peer,
            kind = self.kind.word(),
            difference = difference.word(),
            reason = refusal.word(),
            host = self.host,
            path = self.path,
            origin = self.origin.filter(|_| refusal == Refusal::Origin),
            request_id = self.request_id,
            generation,
            policy = &*policy.name,
            rule = decisive.map(|decisive| display(decisive.place)),
            list = by.map(|by| &*by.list.name),
            entry = by.map(|by| display(by.entry)),
            entry_at = by.map(|by| display(by.place())),
            owner = by.and_then(|by| by.entry.owner()),
            ticket = by.and_then(|by| by.entry.ticket()),
            expires = by.and_then(|by| by.entry.expiry()).map(display),
            "candidate differs"
        );
    }

    /// What decided, of the policy that did, as it was when it did.
    fn decisive(&self) -> Option<Decisive<'_>> {
        let (_, judged) = self.judged?;
        let verdict = match self.refusal {
            // Failed behind us: we had permitted it.
            None | Some(Refusal::Backend(_)) => Ok(()),
            Some(refusal) => Err(refusal),
        };
        self.policy?.decisive(self.party.client, self.kind == RequestKind::Plain, verdict, judged)
    }
}

/// The line of a connection that is refused before it has made a request.
pub fn turned_away(
    party: Party<'_>,
    refusal: Refusal,
    decisive: Option<Decisive<'_>>,
    error: Option<&str>,
    cap: &Cap,
) {
    let Party { listener, client, peer } = party;
    let (route, reason, result) = (NO_ROUTE, refusal.word(), RequestResult::Refused.word());
    if !cap.lets_through(client, About { route, listener, reason }, Instant::now()) {
        return;
    }
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route,
        listener,
        client = %client,
        peer = %peer,
        result,
        reason,
        rule = decisive.map(|decisive| display(decisive.place)),
        list = by.map(|by| &*by.list.name),
        entry = by.map(|by| display(by.entry)),
        entry_at = by.map(|by| display(by.place())),
        owner = by.and_then(|by| by.entry.owner()),
        ticket = by.and_then(|by| by.entry.ticket()),
        expires = by.and_then(|by| by.entry.expiry()).map(display),
        error,
        "{result}"
    );
}

/// The line of a TLS handshake that has to wait for its client's rate.
pub fn delayed(party: Party<'_>, cap: &Cap) {
    let Party { listener, client, peer } = party;
    if cap.lets_through(
        client,
        About { route: NO_ROUTE, listener, reason: "delayed" },
        Instant::now(),
    ) {
        tracing::info!(
            listener,
            client = %client,
            peer = %peer,
            "a TLS handshake waits: its client is over handshakes_per_client"
        );
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeClosed {
    /// Who acted first.
    pub by: By,
    /// Why.
    pub reason: ExchangeReason,
    /// The refusal of an exchange that is no longer permitted.
    pub refusal: Option<Refusal>,
    /// How far it had come.
    pub phase: ExchangePhase,
    /// The body of the answer, as relayed.
    pub from_backend: Traffic,
    /// From the charge to the end.
    pub lasted: Duration,
}

/// The line of an exchange that ended after its answer began.
pub fn exchange_closed(entry: &Entry, closed: &ExchangeClosed) {
    let (last, route) = (entry.judged(), entry.route());
    let revoked = last.refused.as_deref().filter(|_| closed.reason == ExchangeReason::Revoked);
    let policy = revoked.and_then(|refused| refused.policy.as_deref());
    let decisive = revoked.zip(policy).and_then(|(refused, policy)| {
        policy.decisive(entry.client, true, Err(refused.refusal), refused.at)
    });
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route = &*route.name,
        client = %entry.client,
        peer = %entry.peer,
        host = entry.request.host.name(),
        path = entry.route().forwarded(&entry.request.path),
        request_id = &*entry.request_id,
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
        entry_at = by.map(|by| display(by.place())),
        owner = by.and_then(|by| by.entry.owner()),
        ticket = by.and_then(|by| by.entry.ticket()),
        expires = by.and_then(|by| by.entry.expiry()).map(display),
        bytes_from_backend = closed.from_backend.bytes,
        seconds = (closed.lasted.as_secs_f64() * 1e3).round() / 1e3,
        "exchange closed"
    );
}

/// The line of a tunnel that is over; `route` is the one under which it ran last.
pub fn closed(route: &str, entry: &Entry, closed: &Closed, refusal: Option<Refusal>) {
    let last = entry.judged();
    let revoked = last.refused.as_deref().filter(|_| refusal.is_some());
    let policy = revoked.and_then(|refused| refused.policy.as_deref());
    let decisive = revoked.zip(policy);
    let decisive = decisive.and_then(|(refused, policy)| {
        policy.decisive(entry.client, false, Err(refused.refusal), refused.at)
    });
    let by = decisive.and_then(|decisive| decisive.by);
    tracing::info!(
        route,
        client = %entry.client,
        peer = %entry.peer,
        request_id = &*entry.request_id,
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
        entry_at = by.map(|by| display(by.place())),
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
