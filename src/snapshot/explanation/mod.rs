//! Why a request is admitted or refused, down to the line of the list: as text and as values for
//! programs.
//!
//! It calls the same judge, and then every rule on its own, so that a request refused for one
//! reason also shows the next. It charges nothing and decides nothing.

mod delivery;
mod limits;
mod report;
mod text;

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::ban::{Ban, BanTarget};
use crate::policy::certificate::CertificateFault;
use crate::policy::deciding_rule::ListedEntry;
use crate::policy::list::List;
use crate::policy::origin::{OriginPattern, Origins};
use crate::policy::request::{Request, RequestType};
use crate::policy::rule::Rule;
use crate::policy::subject::{Subject, SubjectRef};
use crate::policy::{AllowRule, Policy};
use crate::refusal::Refusal;
use crate::snapshot::ambiguity::Ambiguity;
use crate::snapshot::generation::Snapshot;
use crate::snapshot::judge::Judgement;
use crate::snapshot::route::Route;

pub use self::limits::Remaining;
pub use self::report::{
    CandidateExplanation, DeliveryExplanation, EntryExplanation, Explanation, LimitExplanation,
    LimitKeyExplanation, ListExplanation, RuleExplanation,
};

/// The question that an explanation answers.
#[derive(Clone, Copy)]
pub struct ExplainInput<'q> {
    /// The client that makes the request, with its credentials.
    pub subject: &'q Subject,
    /// The request, or the refusal by the gate.
    pub request: Result<&'q Request, Refusal>,
    /// Time of the request. `None` means an instant at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// The budgets of a running agent. `None` means that the files are judged.
    pub budgets: Option<&'q dyn Remaining>,
    /// Name of the policy whose candidate is judged in its place.
    pub candidate: Option<&'q str>,
    /// Whether a listed peer sends the request, over a connection that other clients share.
    pub speaks_for_others: bool,
}

impl Snapshot {
    /// Returns the verdict of [`Snapshot::judge`] and the reasons for it.
    pub fn explain(&self, question: ExplainInput<'_>) -> Explanation {
        let ExplainInput { subject, request, at, budgets, candidate, speaks_for_others } = question;
        // No entry has lapsed at the earliest instant.
        let now = at.unwrap_or(Timestamp::MIN);
        let mut explanation = Explanation::undecided(subject, budgets.map(|_| self.generation), at);
        let client = SubjectRef::from(subject);
        // The files alone know no bans.
        let ban = budgets.and_then(|_| self.bans.find(client, now));
        explanation.rules.extend(ban.as_deref().map(banned));
        let denied = self.denying_baseline(client, now).filter(|_| ban.is_none());
        explanation.rules.extend(self.baseline_rule(client, now));
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                // A client that a head names is banned or denied after the head is judged, and all
                // other clients before.
                let ban = ban.filter(|_| !speaks_for_others);
                let denied = denied.filter(|_| !speaks_for_others);
                let refused = explanation.unread(refusal, ban.as_deref(), denied, subject, now);
                let is_at_accept = denied.is_some() || by_address(ban.as_deref());
                explanation.delivery = Some(match is_at_accept {
                    true => delivery::at_accept(),
                    false => delivery::of(refused, None, false, speaks_for_others),
                });
                return explanation;
            }
        };
        explanation.kind = if request.is_plain() { "plain" } else { "upgrade" }.into();
        explanation.slash =
            self.with_missing_slash(request).map(|slashed| slashed.path.to_string());
        let (sent, slashed) = (&request.path, self.with_slash(request));
        let request = slashed.as_ref().unwrap_or(request);
        // Without a connection there is no certificate that could misdirect.
        let judgement = match ban.is_some() {
            true => self.judge(subject, request, None, now),
            false => self.judge_by(subject, request, None, now, candidate),
        };
        let judgement = judgement.of_forwarded(request);
        let forwarded = judgement.route.as_ref().map(|route| route.forwarded(sent));
        let path = forwarded.unwrap_or(sent.forwarded(false));
        explanation.target = format!("{}{path}", request.host);
        explanation.judged(&judgement, subject, request, now);
        // A ban and the baseline refuse a connection before it has a request.
        let is_at_accept = denied.is_some() || by_address(ban.as_deref());
        explanation.delivery = delivered(&judgement, request, is_at_accept, speaks_for_others);
        explanation.rules.extend(judgement.ambiguity.as_ref().map(ambiguous));
        if let Some(route) = &judgement.route {
            explanation.route = Some(route.name.to_string());
            let policy = route.policy.as_promoted(candidate);
            explanation.rules.extend(rules(policy, subject, request, now));
            explanation.rules.extend(plain_http(route, request));
            explanation.limits =
                limits::limits(policy, &route.policy, subject, request, now, budgets);
        }
        explanation
    }

    /// The verdict of the baseline's `deny`. `None` means that there is no baseline.
    fn baseline_rule(&self, client: SubjectRef<'_>, now: Timestamp) -> Option<RuleExplanation> {
        let baseline = self.baseline.as_ref()?;
        let lists = baseline.deny.iter().map(|list| list_explanation(list, client, now)).collect();
        Some(networks("baseline", baseline, Rule::Deny, lists))
    }
}

/// How the refusal of a request is delivered. `None` means that the request is permitted.
fn delivered(
    judgement: &Judgement,
    request: &Request,
    is_at_accept: bool,
    speaks_for_others: bool,
) -> Option<DeliveryExplanation> {
    let refusal = *judgement.verdict.as_ref().err()?;
    if is_at_accept && !speaks_for_others {
        return Some(delivery::at_accept());
    }
    let route = judgement.route.as_deref();
    Some(delivery::of(refusal, route, !request.is_plain(), speaks_for_others))
}

impl Explanation {
    /// An explanation for `subject` before any rule is judged. `None` as `generation` means that
    /// the files are judged.
    fn undecided(subject: &Subject, generation: Option<u64>, at: Option<Timestamp>) -> Explanation {
        Explanation {
            permitted: false,
            reason: None,
            status: None,
            delivery: None,
            policy: None,
            rule: None,
            generation,
            client: subject.client.to_string(),
            derived: "the socket's peer".into(),
            at: at.map(|at| Timestamp::from_second(at.as_second()).unwrap_or(at)),
            kind: String::new(),
            target: String::new(),
            slash: None,
            route: None,
            rules: Vec::new(),
            limits: Vec::new(),
            candidate: None,
            notes: Vec::new(),
        }
    }

    /// Sets the verdict, and the policy and rule that gave it.
    fn decided(
        &mut self,
        policy: Option<&Arc<Policy>>,
        subject: &Subject,
        is_plain: bool,
        verdict: Result<(), Refusal>,
        now: Timestamp,
    ) {
        self.permitted = verdict.is_ok();
        self.reason = verdict.err().map(|refusal| refusal.word().into());
        self.status = verdict.err().and_then(Refusal::status);
        self.policy = policy.map(|policy| policy.name.to_string());
        let decisive =
            policy.and_then(|policy| policy.deciding_rule(subject, is_plain, verdict, now));
        self.rule = decisive.map(|decisive| decisive.place.to_string());
    }

    /// Sets the verdict on a client whose request was not read, because of `refusal`. Returns the
    /// refusal that comes first.
    fn unread(
        &mut self,
        refusal: Refusal,
        ban: Option<&Ban>,
        denied: Option<&Arc<Policy>>,
        subject: &Subject,
        now: Timestamp,
    ) -> Refusal {
        let refusal = match (ban, denied) {
            (Some(_), _) => Refusal::Banned,
            (None, Some(_)) => Refusal::Network,
            (None, None) => refusal,
        };
        // Whether the request is plain matters to rates alone, and these come after the gate.
        self.decided(denied, subject, false, Err(refusal), now);
        if let Some(ban) = ban {
            self.rule = Some(format!("ban {}", ban.target));
        }
        refusal
    }

    fn judged(
        &mut self,
        judgement: &Judgement,
        subject: &Subject,
        request: &Request,
        now: Timestamp,
    ) {
        let verdict = judgement.verdict.as_ref().map(|_| ()).map_err(|refusal| *refusal);
        self.decided(judgement.policy.as_ref(), subject, request.is_plain(), verdict, now);
        if let Some(ban) = &judgement.ban {
            self.rule = Some(format!("ban {}", ban.target));
        }
        let Some(policy) = &judgement.policy else { return };
        let candidate = policy.candidate.as_ref().zip(judgement.candidate);
        self.candidate = candidate.map(|(candidate, verdict)| CandidateExplanation {
            file: candidate.file.to_string(),
            permitted: verdict.is_ok(),
            reason: verdict.err().map(|refusal| refusal.word().into()),
        });
    }
}

/// The verdict of each rule of `policy` on its own.
fn rules(
    policy: &Policy,
    subject: &Subject,
    request: &Request,
    now: Timestamp,
) -> Vec<RuleExplanation> {
    let (client, mut rules) = (SubjectRef::from(subject), Vec::new());
    if !policy.deny.is_empty() {
        let lists = policy.deny.iter().map(|list| list_explanation(list, client, now)).collect();
        rules.push(networks("deny", policy, Rule::Deny, lists));
    }
    match &policy.allow {
        AllowRule::Any => rules.push(RuleExplanation {
            rule: "allow".into(),
            place: place(policy, Rule::Allow),
            passes: true,
            says: "everyone: [\"any\"]".into(),
            lists: Vec::new(),
        }),
        AllowRule::Lists(lists) => {
            let lists = lists.iter().map(|list| list_explanation(list, client, now)).collect();
            rules.push(networks("allow", policy, Rule::Allow, lists));
        }
    }
    rules.extend(origin(policy, request));
    rules.extend(certificate(policy, subject));
    rules.extend(subprotocol(policy, request));
    rules
}

/// The verdict of a rule of networks, with the text of its lists.
fn networks(
    rule: &str,
    policy: &Policy,
    kind: Rule,
    lists: Vec<ListExplanation>,
) -> RuleExplanation {
    let held = lists.iter().any(|list| list.holds);
    let passes = held == matches!(kind, Rule::Allow);
    let says = text::lists(&lists, matches!(kind, Rule::Allow));
    RuleExplanation { rule: rule.into(), place: place(policy, kind), passes, says, lists }
}

/// Whether `ban` holds clients by facts of the accept.
fn by_address(ban: Option<&Ban>) -> bool {
    ban.is_some_and(|ban| !matches!(ban.target, BanTarget::Identity(_)))
}

/// The entry for a ban.
fn banned(ban: &Ban) -> RuleExplanation {
    let until = ban.until.map_or_else(|| "for ever".into(), |until| format!("until {until}"));
    let says = format!("{} {until}, by {}: {}", ban.target, ban.origin.word(), ban.why);
    RuleExplanation { rule: "ban".into(), place: None, passes: false, says, lists: Vec::new() }
}

/// The entry for an ambiguous path.
fn ambiguous(ambiguity: &Ambiguity) -> RuleExplanation {
    let says = ambiguity.to_string();
    RuleExplanation { rule: "path".into(), place: None, passes: false, says, lists: Vec::new() }
}

/// The entry for plain HTTP that `route` does not forward. `None` means that it forwards `request`.
fn plain_http(route: &Route, request: &Request) -> Option<RuleExplanation> {
    route.forwards(request).err()?;
    let says = "plain HTTP is answered 426 here; http = \"forward\" of the route passes it on";
    Some(RuleExplanation {
        rule: "http".into(),
        place: None,
        passes: false,
        says: says.into(),
        lists: Vec::new(),
    })
}

fn origin(policy: &Policy, request: &Request) -> Option<RuleExplanation> {
    let origins = policy.origins.as_ref()?;
    let (passes, says) = match request.origin.as_deref() {
        None if request.is_plain() => {
            (true, "not looked at: plain HTTP that carries none".to_owned())
        }
        origin => {
            let shown = origin
                .map_or_else(|| "none sent".to_owned(), |origin| origin.escape_debug().to_string());
            let written = |pattern: &OriginPattern| match pattern {
                OriginPattern::Same => format!("\"same\" ({})", Origins::same_origins(request)),
                other => format!("\"{other}\""),
            };
            match origins.admitting(request) {
                Some(pattern) => (true, format!("{shown}: admitted by {}", written(pattern))),
                None => (
                    false,
                    format!(
                        "{shown}: not among {}",
                        text::first_eight(origins.iter().map(written))
                    ),
                ),
            }
        }
    };
    Some(RuleExplanation {
        rule: "origin".into(),
        place: place(policy, Rule::Origins),
        passes,
        says,
        lists: Vec::new(),
    })
}

fn certificate(policy: &Policy, subject: &Subject) -> Option<RuleExplanation> {
    let rule = policy.certificate.as_ref()?;
    let certificate = subject.certificate();
    let named = certificate.map(|own| own.identity().to_string()).unwrap_or_default();
    let (passes, says) = match policy.judge_certificate(subject) {
        Err(CertificateFault::Missing) => (false, "none: a certificate is required".to_owned()),
        Err(CertificateFault::Denied(pattern)) => {
            (false, format!("{named}: denied by \"{pattern}\""))
        }
        Err(CertificateFault::NotAllowed) => {
            let allowed = rule.allow.iter().flatten().map(|pattern| format!("\"{pattern}\""));
            (false, format!("{named}: not among {}", text::first_eight(allowed)))
        }
        Ok(()) => {
            let by = certificate.and_then(|certificate| rule.admitting(certificate));
            let says = match (certificate, by) {
                (None, _) => "none: admitted without one".to_owned(),
                (Some(_), Some(pattern)) => format!("{named}: admitted by \"{pattern}\""),
                (Some(_), None) => format!("{named}: every verified certificate is admitted"),
            };
            (true, says)
        }
    };
    let place = place(policy, Rule::Certificate);
    Some(RuleExplanation { rule: "certificate".into(), place, passes, says, lists: Vec::new() })
}

fn subprotocol(policy: &Policy, request: &Request) -> Option<RuleExplanation> {
    let (rule, RequestType::Attempt { subprotocols }) =
        (policy.subprotocols.as_ref()?, &request.kind)
    else {
        return None;
    };
    let or_none = if rule.admits(None) { ", or none" } else { "" };
    let says = match (rule.first_of(subprotocols), &**subprotocols) {
        (Some(found), _) => {
            format!("{found}: admitted; the backend has to choose an admitted one{or_none}")
        }
        (None, []) if rule.admits(None) => "none offered: admitted by \"none\"".into(),
        (None, []) => format!("none offered; admitted: {}", text::first_eight(rule.iter())),
        (None, offered) => {
            format!("{}: not among {}", text::first_eight(offered), text::first_eight(rule.iter()))
        }
    };
    let (place, passes) = (place(policy, Rule::Subprotocols), rule.admits_offer(subprotocols));
    Some(RuleExplanation { rule: "subprotocol".into(), place, passes, says, lists: Vec::new() })
}

/// The verdict of `list` on `client`.
fn list_explanation(list: &List, client: SubjectRef<'_>, now: Timestamp) -> ListExplanation {
    let decides = list.decide(client, now);
    let holds = decides.is_some_and(|(entry, _)| entry.admits);
    let others = list.covering(client).filter(|(entry, _)| entry.admits && !holds);
    // For a carve-out: the nearest entry that it is carved out of. Where no entry decides: a lapsed
    // one.
    let instead = others.filter(|(entry, _)| decides.is_none() || !entry.lapsed(now)).last();
    let entry = |(entry, line)| entry_explanation(ListedEntry { list, entry, line }, now);
    ListExplanation {
        list: list.name.to_string(),
        entries: list.len(),
        holds,
        by: decides.map(entry),
        instead: instead.map(entry),
    }
}

fn entry_explanation(listed: ListedEntry<'_>, now: Timestamp) -> EntryExplanation {
    EntryExplanation {
        entry: listed.entry.to_string(),
        place: listed.source_line().to_string(),
        owner: listed.entry.owner().map(str::to_owned),
        ticket: listed.entry.ticket().map(str::to_owned),
        expires: listed.entry.expiry().map(|expiry| expiry.to_string()),
        lapsed: listed.entry.lapsed(now),
    }
}

fn place(policy: &Policy, rule: Rule) -> Option<String> {
    policy.source_line(rule).map(|place| place.to_string())
}
