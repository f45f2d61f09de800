//! `POST /v1/explain`: why the running generation admits or refuses a client.
//!
//! Commands that read the files instead make the same answer from their own snapshot.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderValue;
use jiff::Timestamp;

use crate::admin::explain_arrival::{ArrivingRequest, arrival, unread};
use crate::admin::explain_forwarded::ForwardedQuery;
use crate::admin::wire::{
    CandidateVerdict, DeliveryForm, DeliveryVerdict, EntryVerdict, ExplainAnswer, ExplainRequest,
    ExplainedKind, LimitVerdict, ListVerdict, RuleName, RuleVerdict, Time,
};
use crate::control::config::users;
use crate::policy::certificate::ClientCertificate;
use crate::policy::network::{Client, Peer};
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::policy::unix::{self, UnixPattern};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::explanation::{
    CandidateExplanation, DeliveryExplanation, EntryExplanation, ExplainInput, Explanation,
    LimitExplanation, LimitKeyExplanation, ListExplanation, Remaining, RuleExplanation,
};
use crate::snapshot::route::RefusalForm;

/// An [`ExplainRequest`] with parsed parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainQuery {
    subject: Subject,
    /// What the client sends as a peer. `None` means that it speaks for itself.
    forwarded: Option<ForwardedQuery>,
    request: Result<Request, Refusal>,
    at: Option<Timestamp>,
    /// Sentences about words of the question that no client sends.
    notes: Vec<String>,
}

impl ExplainQuery {
    /// Parses the parameters.
    ///
    /// # Errors
    /// A sentence that names the wrong parameter and a valid value.
    pub fn parse(asked: &ExplainRequest) -> Result<ExplainQuery, String> {
        let ExplainRequest { client, url, origin, subprotocol, identity, at, .. } = asked;
        let mut subject = subject(client)?;
        let request =
            Request::of_url(url, origin.as_deref(), subprotocol.as_deref()).map_err(|fault| {
                format!("`{}`: {}: {}", url.escape_debug(), fault.fault, fault.remedy)
            })?;
        let at = at.as_deref().map(instant).transpose()?;
        check_origin(origin.as_deref())?;
        let is_plain = request.as_ref().is_ok_and(Request::is_plain);
        let notes = unread(origin.as_deref(), subprotocol.as_deref(), is_plain);
        if let Some(identity) = identity {
            let certificate = ClientCertificate::named(identity).map_err(|fault| {
                let shown = identity.escape_debug();
                format!(
                    "`{shown}` is no name of a certificate, {fault}: write one like \
                         spiffe://example.com/ws/edge or dns:client.example.com"
                )
            })?;
            subject = subject.with_certificate(certificate.into());
        }
        let forwarded = match (&asked.forwarded_for, &asked.listener) {
            (None, Some(_)) => return Err("`listener` needs `forwarded_for`".into()),
            (None, None) => None,
            (Some(value), listener) => Some(ForwardedQuery::new(value, listener.clone())?),
        };
        Ok(ExplainQuery { subject, forwarded, request, at, notes })
    }

    /// The answer of `snapshot`, at `now` if the request names no time. `budgets` are those of a
    /// running agent, whose remainder the answer includes. `None` means that the files are judged.
    ///
    /// # Errors
    /// A sentence about the listener, which the generation does not have or has to be named.
    pub fn answer(
        &self,
        snapshot: &Snapshot,
        now: Timestamp,
        budgets: Option<&dyn Remaining>,
    ) -> Result<ExplainAnswer, String> {
        let at = self.at.unwrap_or(now);
        let found =
            self.forwarded.as_ref().map(|query| query.find(&self.subject, snapshot)).transpose()?;
        let speaks_for_others =
            found.as_ref().map_or_else(|| self.is_always_listed(snapshot), |found| found.is_listed);
        let mut request = self.request.as_ref().map_err(|refusal| *refusal);
        // The gate's refusal comes first, as on the wire.
        if let (Ok(_), Some(refusal)) = (request, found.as_ref().and_then(|found| found.refusal)) {
            request = Err(refusal);
        }
        let subject = found.as_ref().map_or(&self.subject, |found| &found.subject);
        let ArrivingRequest { subject, refusal, mut notes } = match request {
            // How a peer's clients reach the peer is not known here.
            Ok(request) if !speaks_for_others => arrival(subject, request, snapshot),
            _ => ArrivingRequest {
                subject: Cow::Borrowed(subject),
                refusal: None,
                notes: Vec::new(),
            },
        };
        let drops_certificate = found.as_ref().is_some_and(|found| found.is_listed)
            && self.subject.certificate().is_some()
            && subject.certificate().is_none();
        if drops_certificate {
            notes.push("the certificate is the peer's: no client that it names has one".into());
        }
        request = refusal.map_or(request, Err);
        let mut explanation = snapshot.explain(ExplainInput {
            subject: &subject,
            request,
            at: Some(at),
            budgets,
            candidate: None,
            speaks_for_others,
        });
        explanation.notes = [&*self.notes, &*notes].concat();
        if let Some(found) = found {
            explanation.derived = found.derived;
        }
        Ok(answer(explanation))
    }

    /// Whether each listener lists the client as a peer that connects for others.
    fn is_always_listed(&self, snapshot: &Snapshot) -> bool {
        let peer = Peer::of_client(self.subject.client);
        let mut listeners = snapshot.listeners.values();
        !snapshot.listeners.is_empty() && listeners.all(|one| one.listener.forwards_others(peer))
    }
}

fn answer(explanation: Explanation) -> ExplainAnswer {
    let text = explanation.to_string();
    let Explanation { permitted, reason, status, policy, rule, generation, .. } = explanation;
    let delivery = explanation.delivery.map(delivery_verdict);
    ExplainAnswer {
        permitted,
        reason,
        status,
        delivery,
        policy,
        rule,
        generation,
        client: explanation.client,
        derived: explanation.derived,
        at: explanation.at.map(Time),
        kind: kind(explanation.kind),
        target: explanation.target,
        slash: explanation.slash,
        route: explanation.route,
        rules: explanation.rules.into_iter().map(rule_verdict).collect(),
        limits: explanation.limits.into_iter().map(limit_verdict).collect(),
        candidate: explanation.candidate.map(candidate_verdict),
        notes: explanation.notes,
        text,
    }
}

fn delivery_verdict(delivery: DeliveryExplanation) -> DeliveryVerdict {
    let form = match delivery.form {
        RefusalForm::Answer => DeliveryForm::Answer,
        RefusalForm::Close => DeliveryForm::Close,
        RefusalForm::Drop => DeliveryForm::Drop,
    };
    DeliveryVerdict { form, code: delivery.code, says: delivery.says }
}

fn kind(word: String) -> ExplainedKind {
    match &*word {
        "upgrade" => ExplainedKind::Upgrade,
        "plain" => ExplainedKind::Plain,
        _ => ExplainedKind::Other(word),
    }
}

fn rule_verdict(said: RuleExplanation) -> RuleVerdict {
    let rule = match &*said.rule {
        "ban" => RuleName::Ban,
        "baseline" => RuleName::Baseline,
        "path" => RuleName::Path,
        "deny" => RuleName::Deny,
        "allow" => RuleName::Allow,
        "origin" => RuleName::Origin,
        "certificate" => RuleName::Certificate,
        "subprotocol" => RuleName::Subprotocol,
        "http" => RuleName::Http,
        _ => RuleName::Other(said.rule),
    };
    let lists = said.lists.into_iter().map(list_verdict).collect();
    RuleVerdict { rule, place: said.place, passes: said.passes, says: said.says, lists }
}

fn list_verdict(said: ListExplanation) -> ListVerdict {
    let ListExplanation { list, entries, holds, by, instead } = said;
    let (by, instead) = (by.map(entry_verdict), instead.map(entry_verdict));
    ListVerdict { list, entries: entries as u64, holds, by, instead }
}

fn entry_verdict(entry: EntryExplanation) -> EntryVerdict {
    let EntryExplanation { entry, place, owner, ticket, expires, lapsed } = entry;
    EntryVerdict { entry, place, owner, ticket, expires, lapsed }
}

fn limit_verdict(limited: LimitExplanation) -> LimitVerdict {
    let LimitExplanation { limit, written, place, exception, pattern, key, left } = limited;
    let (per, key) = match key {
        Some(LimitKeyExplanation { unit, name }) => (Some(unit.to_string()), Some(name)),
        None => (None, None),
    };
    LimitVerdict { limit, written, place, exception, pattern, per, key, left }
}

fn candidate_verdict(candidate: CandidateExplanation) -> CandidateVerdict {
    let CandidateExplanation { file, permitted, reason } = candidate;
    CandidateVerdict { file, permitted, reason }
}

/// Checks that a head can carry the origin.
fn check_origin(origin: Option<&str>) -> Result<(), String> {
    let Some(origin) = origin else { return Ok(()) };
    let is_field = HeaderValue::from_str(origin).is_ok() && origin.trim() == origin;
    is_field.then_some(()).ok_or_else(|| {
        let shown = origin.escape_debug();
        format!("`{shown}` is no value of an Origin header: write one like https://app.example.com")
    })
}

/// Parses a client: an address, or a user of this host with its groups.
fn subject(client: &str) -> Result<Subject, String> {
    let shown = client.escape_debug();
    if UnixPattern::is_meant(client) {
        let subject = unix::parse_subject(client, &users::resolve);
        return subject.map_err(|fault| format!("`{shown}`: {fault}: write unix:uid=33,gid=33"));
    }
    let address: Result<IpAddr, _> = client.parse();
    let address =
        address.map_err(|_| format!("`{shown}` is not an address: write one like 192.0.2.1"))?;
    Ok(Client::new(address).into())
}

/// Parses an instant (RFC 3339 §5.6), or a day, which means its first second in UTC.
fn instant(text: &str) -> Result<Timestamp, String> {
    let is_day = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let parsed = if is_day { format!("{text}T00:00:00Z").parse() } else { text.parse() };
    parsed.map_err(|_| {
        format!("`{}` is not a time: write 2027-01-01 or 2027-01-01T18:00:00Z", text.escape_debug())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::wire::AdminRequest as _;

    fn read(query: &str) -> Result<ExplainQuery, String> {
        ExplainRequest::parse(query).and_then(|request| ExplainQuery::parse(&request))
    }

    #[test]
    fn wrong_parameter_is_named_with_a_remedy() {
        for (query, said) in [
            ("url=wss://a.example/", "`client` is missing"),
            ("client=192.0.2.1", "`url` is missing"),
            (
                "client=office&url=wss://a.example/",
                "`office` is not an address: write one like 192.0.2.1",
            ),
            ("client=::1&url=a.example", "`a.example`: not a URL"),
            (
                "client=unix:33&url=wss://a.example/",
                "`unix:33`: not a pattern of Unix clients: write unix:uid=33",
            ),
            (
                "client=::1&url=wss://a.example/&at=tomorrow",
                "`tomorrow` is not a time: write 2027-01-01",
            ),
            (
                "client=::1&url=wss://a.example/&origin=a%0Ab",
                "`a\\nb` is no value of an Origin header",
            ),
            ("client=::1&url=wss://a.example/&host=x", "there is no `host`"),
        ] {
            let sentence = read(query).unwrap_err();
            assert!(sentence.contains(said), "{query}: {sentence}");
        }
        let user = read("client=unix:uid=33,gid=44&url=wss://a.example/").unwrap();
        assert!(user.subject.is_in_group(44));
        assert!(
            read("client=%3A%3A1&url=wss%3A%2F%2Fa.example%2F&at=2027-01-01&origin=null").is_ok()
        );
    }
}
