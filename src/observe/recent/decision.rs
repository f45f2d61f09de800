//! One decision as the rings keep it: copies of the facts, without a reference to its generation.
//!
//! A kept policy would hold its lists in memory, so its names are copied. Texts that clients choose
//! are cut.

use std::sync::Arc;

use jiff::Timestamp;

use crate::observe::log::decision::{ConnectionRefusal, DecisionRecord, LogContext};
use crate::observe::metrics::{RequestKind, RequestResult};
use crate::observe::recent::ring::RingItem;
use crate::observe::recent::text::{Texts, bounded};
use crate::policy::ban::Ban;
use crate::policy::deciding_rule::{DecidingRule, ListedEntry};
use crate::policy::list::ListEntry;
use crate::policy::network::{Client, Peer};
use crate::policy::rule::Rule;
use crate::refusal::Refusal;

/// The name of the policy that judges before a request.
const BASELINE: &str = "baseline";

/// Most bytes of a name from the configuration.
const MAX_NAME: usize = 128;

/// Most bytes of a file's name, and of an annotation.
const MAX_FILE: usize = 256;

/// Most bytes of a request's id.
const MAX_ID: usize = 128;

/// Most bytes of a host, an origin or a certificate's name.
const MAX_HOST: usize = 256;

/// Most bytes of a path.
const MAX_PATH: usize = 512;

/// The places of the texts.
#[derive(Debug, Clone, Copy)]
enum Place {
    RequestId,
    Listener,
    Route,
    Policy,
    Host,
    Path,
    Origin,
    Identity,
    RuleFile,
    List,
    ListFile,
    Owner,
    Ticket,
}

/// Number of texts of a decision.
const PLACES: usize = 13;

/// One decision of a ring.
#[derive(Debug, Clone, PartialEq)]
pub struct RecentDecision {
    /// The time at which it was booked.
    pub at: Timestamp,
    /// Whether the request was permitted, was refused or failed.
    pub result: RequestResult,
    /// The word of a refusal or of a failure. `None` means that the request was permitted.
    pub reason: Option<&'static str>,
    /// Status of the answer. `None` means that no answer was sent.
    pub status: Option<u16>,
    /// WebSocket upgrade or plain HTTP. `None` means a connection before its first request.
    pub kind: Option<RequestKind>,
    /// The client that was judged.
    pub client: Client,
    /// Address of the socket's other end.
    pub peer: Peer,
    /// The generation that judged. `None` means that it was refused earlier.
    pub generation: Option<u64>,
    /// The rule and its line. `None` means that no rule of a policy decided.
    rule: Option<(Rule, u32)>,
    /// The entry by which it decided, and its line. `None` means no entry.
    by: Option<(ListEntry, u32)>,
    /// The instant at which that entry lapses. `None` means never.
    expires: Option<Timestamp>,
    /// The entry that would admit the client without `by`. `None` means no entry.
    instead: Option<ListEntry>,
    /// The ban that refused. `None` means that no ban did.
    pub ban: Option<Arc<Ban>>,
    texts: Texts<PLACES>,
}

/// The rule that decided, with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedRule<'d> {
    /// The rule that decided.
    pub rule: Rule,
    /// File of the policy.
    pub file: &'d str,
    /// The line of the rule, from 1.
    pub line: u32,
}

/// The entry by which the rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidedEntry<'d> {
    /// The network or users, with their sign.
    pub entry: &'d ListEntry,
    /// The name of the list.
    pub list: &'d str,
    /// File of the list.
    pub file: &'d str,
    /// The line of the entry, from 1.
    pub line: u32,
    /// The entry's `owner` annotation.
    pub owner: Option<&'d str>,
    /// The entry's `ticket` annotation.
    pub ticket: Option<&'d str>,
    /// The instant at which the entry lapses. `None` means never.
    pub expires: Option<Timestamp>,
}

impl RecentDecision {
    /// Copies the decision on a request, which `decisive` explains.
    pub fn of_request(
        record: &DecisionRecord<'_>,
        decisive: Option<DecidingRule<'_>>,
        now: Timestamp,
    ) -> RecentDecision {
        let identity = record.subject.certificate().map(|own| own.identity().to_string());
        let request = RequestTexts {
            request_id: Some(record.request_id),
            route: record.route.map(|route| &*route.name),
            policy: record.policy.map(|policy| &*policy.name),
            host: Some(record.host),
            path: Some(record.path),
            origin: record.origin,
            identity: identity.as_deref(),
        };
        let reason = record.refusal.map(Refusal::word);
        RecentDecision {
            at: now,
            result: record.result,
            reason: reason.or(record.failure.map(|failure| failure.word())),
            status: record.status,
            kind: Some(record.kind),
            client: record.log_context.client,
            peer: record.log_context.peer,
            generation: record.judged.map(|(generation, _)| generation),
            ban: record.ban.cloned(),
            ..RecentDecision::explained(&record.log_context, &request, decisive, now)
        }
    }

    /// Copies the refusal of a connection before its first request.
    pub fn of_connection(
        from: &LogContext<'_>,
        refused: ConnectionRefusal<'_>,
        now: Timestamp,
    ) -> RecentDecision {
        let ConnectionRefusal { refusal, rule: decisive, ban, .. } = refused;
        // A rule that decides so early is one of the baseline.
        let policy = decisive.map(|_| BASELINE);
        let request = RequestTexts { policy, ..RequestTexts::default() };
        RecentDecision {
            reason: Some(refusal.word()),
            ban: ban.cloned(),
            ..RecentDecision::explained(from, &request, decisive, now)
        }
    }

    fn explained(
        from: &LogContext<'_>,
        request: &RequestTexts<'_>,
        decisive: Option<DecidingRule<'_>>,
        now: Timestamp,
    ) -> RecentDecision {
        let by = decisive.and_then(|rule| rule.by);
        // Annotations have no bound of their own, so they are kept among the texts, which are cut.
        let bare = |listed: ListedEntry<'_>| listed.entry.without_notes();
        RecentDecision {
            at: now,
            result: RequestResult::Refused,
            reason: None,
            status: None,
            kind: None,
            client: from.client,
            peer: from.peer,
            generation: None,
            rule: decisive.map(|rule| (rule.rule, rule.place.line)),
            by: by.map(|by| (bare(by), by.line)),
            expires: by.and_then(|by| by.entry.expires()),
            instead: decisive.and_then(|rule| rule.instead).map(bare),
            ban: None,
            // In the order of `Place`, whose numbers are the indexes.
            texts: Texts::new([
                (request.request_id, MAX_ID),
                (Some(from.listener), MAX_NAME),
                (request.route, MAX_NAME),
                (request.policy, MAX_NAME),
                (request.host, MAX_HOST),
                (request.path, MAX_PATH),
                (request.origin, MAX_HOST),
                (request.identity, MAX_HOST),
                (decisive.map(|rule| rule.place.file), MAX_FILE),
                (by.map(|by| &*by.list.name), MAX_NAME),
                (by.map(|by| &*by.list.file), MAX_FILE),
                (by.and_then(|by| by.entry.owner()), MAX_FILE),
                (by.and_then(|by| by.entry.ticket()), MAX_FILE),
            ]),
        }
    }

    /// Whether the request had this id, in upper or lower case. An id that is longer than the kept
    /// part matches by that part.
    pub fn has_id(&self, id: &str) -> bool {
        // Long ids with the same beginning all match. To show too many is better than to hide one.
        let (id, part) = (id.as_bytes(), bounded(id, MAX_ID));
        self.request_id().map(str::as_bytes).is_some_and(|own| {
            own.eq_ignore_ascii_case(id) || own.eq_ignore_ascii_case(part.as_bytes())
        })
    }

    /// The request's id. `None` means a connection before its first request.
    pub fn request_id(&self) -> Option<&str> {
        self.text(Place::RequestId)
    }

    /// Name of the listener.
    pub fn listener(&self) -> &str {
        self.text(Place::Listener).unwrap_or_default()
    }

    /// The route's name. `None` means that no route was found.
    pub fn route(&self) -> Option<&str> {
        self.text(Place::Route)
    }

    /// The policy's name. `None` means that no policy judged.
    pub fn policy(&self) -> Option<&str> {
        self.text(Place::Policy)
    }

    /// The requested host. `None` means a connection before its first request.
    pub fn host(&self) -> Option<&str> {
        self.text(Place::Host)
    }

    /// The requested path, without its query.
    pub fn path(&self) -> Option<&str> {
        self.text(Place::Path)
    }

    /// The `Origin` that was sent.
    pub fn origin(&self) -> Option<&str> {
        self.text(Place::Origin)
    }

    /// The name by which the client's certificate is known.
    pub fn identity(&self) -> Option<&str> {
        self.text(Place::Identity)
    }

    /// The rule that decided. `None` means that no rule of a policy did.
    pub fn rule(&self) -> Option<DecidedRule<'_>> {
        let (rule, line) = self.rule?;
        Some(DecidedRule { rule, file: self.text(Place::RuleFile)?, line })
    }

    /// The entry by which the rule decided. `None` means that no entry holds the client.
    pub fn entry(&self) -> Option<DecidedEntry<'_>> {
        let (entry, line) = self.by.as_ref()?;
        Some(DecidedEntry {
            entry,
            list: self.text(Place::List)?,
            file: self.text(Place::ListFile)?,
            line: *line,
            owner: self.text(Place::Owner),
            ticket: self.text(Place::Ticket),
            expires: self.expires,
        })
    }

    /// The entry that would admit the client if [`RecentDecision::entry`] were absent.
    pub const fn would_match(&self) -> Option<&ListEntry> {
        self.instead.as_ref()
    }

    fn text(&self, place: Place) -> Option<&str> {
        self.texts.get(place as usize)
    }
}

/// The texts that belong to a request.
#[derive(Default)]
struct RequestTexts<'d> {
    request_id: Option<&'d str>,
    route: Option<&'d str>,
    policy: Option<&'d str>,
    host: Option<&'d str>,
    path: Option<&'d str>,
    origin: Option<&'d str>,
    identity: Option<&'d str>,
}

impl RingItem for RecentDecision {
    fn bytes(&self) -> usize {
        // Decisions by one ban share it. Counted for each, the bound errs on the safe side.
        let of_ban = self.ban.as_ref().map_or(0, |ban| size_of::<Ban>() + ban.why.len());
        size_of::<RecentDecision>() + self.texts.len() + of_ban
    }

    fn at(&self) -> Timestamp {
        self.at
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A decision with this id.
    pub fn decision(at: Timestamp, result: RequestResult, id: &str) -> RecentDecision {
        let peer = Peer::new([192, 0, 2, 7].into());
        let from =
            LogContext { listener: "public", client: Client::of_peer(peer), peer, proxied: None };
        let request = RequestTexts { request_id: Some(id), ..RequestTexts::default() };
        RecentDecision { result, ..RecentDecision::explained(&from, &request, None, at) }
    }

    #[test]
    fn long_id_is_found_by_all_of_it() {
        let long = "a".repeat(300);
        let kept = decision(Timestamp::UNIX_EPOCH, RequestResult::Refused, &long);
        assert!(kept.has_id(&long) && !kept.has_id(&long[..100]));
        assert_eq!(kept.request_id().unwrap().len(), MAX_ID);
        let short = decision(Timestamp::UNIX_EPOCH, RequestResult::Refused, "abc");
        assert!(short.has_id("abc") && !short.has_id("ab") && !short.has_id(""));
    }

    #[test]
    fn decision_takes_at_most_three_kilobytes() {
        let most = MAX_ID + 4 * MAX_NAME + 3 * MAX_HOST + MAX_PATH + 4 * MAX_FILE;
        assert!(size_of::<RecentDecision>() + most < 3500, "{}", size_of::<RecentDecision>());
    }
}
