//! Why a request is admitted or refused, down to the line of the list: for people, and as values for programs.
//!
//! It asks the same judge and then every rule for itself, so that whoever is refused for one reason learns
//! at once of the next. It charges nothing and decides nothing.

mod limits;
mod text;

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::decisive::Listed;
use crate::policy::list::List;
use crate::policy::network::Client;
use crate::policy::origin::{Origins, Pattern};
use crate::policy::request::{Kind, Request};
use crate::policy::rule::Rule;
use crate::policy::{Allow, Policy};
use crate::refusal::Refusal;
use crate::snapshot::ambiguity::Ambiguity;
use crate::snapshot::{Judgement, Snapshot};

/// One verdict, and all that it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the request is permitted, before anything is charged.
    pub permitted: bool,
    /// The refusal's word; `None`: permitted.
    pub reason: Option<String>,
    /// The status of the refusal's answer.
    pub status: Option<u16>,
    /// Which policy decided; `None`: none was asked.
    pub policy: Option<String>,
    /// The rule that had the last word, `file:line`.
    pub rule: Option<String>,
    /// The generation that was asked; `None`: the files were.
    pub generation: Option<u64>,
    /// Who asks.
    pub client: String,
    /// How that is known.
    pub derived: String,
    /// The instant for which it was asked; `None`: one at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// What is asked: `upgrade` or `plain`.
    pub kind: String,
    /// The host and the path that are judged: the canonical one, or the one that was sent where its route
    /// passes it as it is.
    pub target: String,
    /// The same path with a slash behind it, where that alone leads to a route: plain HTTP is sent
    /// there once it is permitted there, and an attempt finds no route.
    pub slash: Option<String>,
    /// The route that leads there.
    pub route: Option<String>,
    /// What each rule says for itself, in the order in which they are asked.
    pub rules: Vec<Said>,
    /// The limits that would be charged.
    pub limits: Vec<Limited>,
    /// What the policy's candidate says.
    pub candidate: Option<Candidate>,
}

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `baseline`, `path`, `deny`, `allow`, `origin` or `subprotocol`.
    pub rule: String,
    /// Where it is written, `file:line`.
    pub place: Option<String>,
    /// Whether it lets the request pass.
    pub passes: bool,
    /// What it was asked about, and what it says, for people.
    pub says: String,
    /// What each of its lists says.
    pub lists: Vec<ListSaid>,
}

/// What one list says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSaid {
    /// Its name; `(allow)` and the like for what stands in the rule itself.
    pub list: String,
    /// How many entries it has.
    pub entries: usize,
    /// Whether it holds the client.
    pub holds: bool,
    /// The entry that decides; `None`: none speaks of the client.
    pub by: Option<Entry>,
    /// The entry that would hold the client, were it not for the carve-out or its expiry.
    pub instead: Option<Entry>,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As a list's line begins.
    pub entry: String,
    /// `file:line`.
    pub place: String,
    /// As annotated.
    pub owner: Option<String>,
    /// As annotated.
    pub ticket: Option<String>,
    /// Until when it holds.
    pub expires: Option<String>,
    /// Whether it has lapsed by then.
    pub lapsed: bool,
}

/// One limit that would be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// Its key in `[limits]`.
    pub limit: String,
    /// As it may be written.
    pub written: String,
    /// Where, `file:line`.
    pub place: Option<String>,
    /// Whether it is an exception for some networks.
    pub exception: bool,
    /// How much of it this client has left; `None`: nothing runs that would know.
    pub left: Option<u64>,
}

/// What a candidate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its file.
    pub file: String,
    /// Whether it would permit.
    pub permitted: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Of whom an explanation speaks.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// Who asks.
    pub client: Client,
    /// What; or what the gate refused it for.
    pub request: Result<&'q Request, Refusal>,
    /// When; `None`: at an instant at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// Whether the budgets are those of an agent that runs.
    pub live: bool,
    /// Whose candidate is asked in its place.
    pub candidate: Option<&'q str>,
}

impl Snapshot {
    /// Says what [`Snapshot::judge`] says, and why.
    pub fn explain(&self, question: Question<'_>) -> Explanation {
        let Question { client, request, at, live, candidate } = question;
        let now = at.unwrap_or(Timestamp::MIN);
        let mut explanation = Explanation {
            permitted: false,
            reason: None,
            status: None,
            policy: None,
            rule: None,
            generation: live.then_some(self.generation),
            client: client.ip().to_string(),
            derived: "the socket's peer".into(),
            at: at.map(|at| Timestamp::from_second(at.as_second()).unwrap_or(at)),
            kind: String::new(),
            target: String::new(),
            slash: None,
            route: None,
            rules: Vec::new(),
            limits: Vec::new(),
            candidate: None,
        };
        let denied = self.denied(client, now);
        if let Some(baseline) = &self.baseline {
            let lists: Vec<_> =
                baseline.deny.iter().map(|list| list_said(list, client, now)).collect();
            explanation.rules.push(networks("baseline", baseline, Rule::Deny, lists));
        }
        let request = match request {
            Ok(request) => request,
            Err(refusal) => {
                // Whom the baseline denies is not heard at all.
                explanation.decided(
                    denied,
                    client,
                    false,
                    Err(denied.map_or(refusal, |_| Refusal::Network)),
                    now,
                );
                return explanation;
            }
        };
        explanation.kind = if request.is_plain() { "plain" } else { "upgrade" }.into();
        explanation.slash = self.lacking_slash(request).map(|slashed| slashed.path.to_string());
        let (sent, slashed) = (&request.path, self.slashed(request));
        let request = slashed.as_ref().unwrap_or(request);
        let judgement = self.judge_by(client, request, None, now, candidate);
        let forwarded = judgement.route.as_ref().map(|route| route.forwarded(sent));
        let path = forwarded.unwrap_or(sent.forwarded(false));
        explanation.target = format!("{}{path}", request.host);
        explanation.judged(&judgement, client, request, now);
        explanation.rules.extend(judgement.ambiguity.as_ref().map(ambiguous));
        if let Some(route) = &judgement.route {
            explanation.route = Some(route.name.to_string());
            let policy = route.policy.named(candidate);
            explanation.rules.extend(rules(policy, client, request, now));
            explanation.limits = limits::limits(policy, client, request, now, live);
        }
        explanation
    }
}

impl Explanation {
    /// The verdict, and by which rule of which policy.
    fn decided(
        &mut self,
        policy: Option<&Arc<Policy>>,
        client: Client,
        is_plain: bool,
        verdict: Result<(), Refusal>,
        now: Timestamp,
    ) {
        self.permitted = verdict.is_ok();
        self.reason = verdict.err().map(|refusal| refusal.word().into());
        self.status = verdict.err().and_then(Refusal::status);
        self.policy = policy.map(|policy| policy.name.to_string());
        let decisive = policy.and_then(|policy| policy.decisive(client, is_plain, verdict, now));
        self.rule = decisive.map(|decisive| decisive.place.to_string());
    }

    fn judged(&mut self, judgement: &Judgement, client: Client, request: &Request, now: Timestamp) {
        let verdict = judgement.verdict.as_ref().map(|_| ()).map_err(|refusal| *refusal);
        self.decided(judgement.policy.as_ref(), client, request.is_plain(), verdict, now);
        let Some(policy) = &judgement.policy else { return };
        let candidate = policy.candidate.as_ref().zip(judgement.candidate);
        self.candidate = candidate.map(|(candidate, verdict)| Candidate {
            file: candidate.file.to_string(),
            permitted: verdict.is_ok(),
            reason: verdict.err().map(|refusal| refusal.word().into()),
        });
    }
}

/// What each rule of `policy` says for itself.
fn rules(policy: &Policy, client: Client, request: &Request, now: Timestamp) -> Vec<Said> {
    let mut rules = Vec::new();
    if !policy.deny.is_empty() {
        let lists = policy.deny.iter().map(|list| list_said(list, client, now)).collect();
        rules.push(networks("deny", policy, Rule::Deny, lists));
    }
    match &policy.allow {
        Allow::Any => rules.push(Said {
            rule: "allow".into(),
            place: place(policy, Rule::Allow),
            passes: true,
            says: "everyone: [\"any\"]".into(),
            lists: Vec::new(),
        }),
        Allow::Lists(lists) => {
            let lists = lists.iter().map(|list| list_said(list, client, now)).collect();
            rules.push(networks("allow", policy, Rule::Allow, lists));
        }
    }
    rules.extend(origin(policy, request));
    rules.extend(subprotocol(policy, request));
    rules
}

/// What a rule of networks says, in the words of its lists.
fn networks(rule: &str, policy: &Policy, kind: Rule, lists: Vec<ListSaid>) -> Said {
    let held = lists.iter().any(|list| list.holds);
    let passes = held == matches!(kind, Rule::Allow);
    let says = text::lists(&lists, matches!(kind, Rule::Allow));
    Said { rule: rule.into(), place: place(policy, kind), passes, says, lists }
}

/// What is said of a path that is ambiguous.
fn ambiguous(ambiguity: &Ambiguity) -> Said {
    let says = ambiguity.to_string();
    Said { rule: "path".into(), place: None, passes: false, says, lists: Vec::new() }
}

fn origin(policy: &Policy, request: &Request) -> Option<Said> {
    let origins = policy.origins.as_ref()?;
    let (passes, says) = match request.origin.as_deref() {
        None if request.is_plain() => {
            (true, "not looked at: plain HTTP that carries none".to_owned())
        }
        origin => {
            let shown = origin
                .map_or_else(|| "none sent".to_owned(), |origin| origin.escape_debug().to_string());
            let written = |pattern: &Pattern| match pattern {
                Pattern::Same => format!("\"same\" ({})", Origins::same(request)),
                other => format!("\"{other}\""),
            };
            match origins.admitting(request) {
                Some(pattern) => (true, format!("{shown}: admitted by {}", written(pattern))),
                None => (
                    false,
                    format!("{shown}: not among {}", text::among(origins.iter().map(written))),
                ),
            }
        }
    };
    Some(Said {
        rule: "origin".into(),
        place: place(policy, Rule::Origins),
        passes,
        says,
        lists: Vec::new(),
    })
}

fn subprotocol(policy: &Policy, request: &Request) -> Option<Said> {
    let (rule, Kind::Attempt { subprotocols }) = (policy.subprotocols.as_ref()?, &request.kind)
    else {
        return None;
    };
    let or_none = if rule.admit(None) { ", or none" } else { "" };
    let says = match (rule.first_of(subprotocols), &**subprotocols) {
        (Some(found), _) => {
            format!("{found}: admitted; the backend has to choose an admitted one{or_none}")
        }
        (None, []) if rule.admit(None) => "none offered: admitted by \"none\"".into(),
        (None, []) => format!("none offered; admitted: {}", text::among(rule.iter())),
        (None, offered) => {
            format!("{}: not among {}", text::among(offered), text::among(rule.iter()))
        }
    };
    let (place, passes) = (place(policy, Rule::Subprotocols), rule.admit_offer(subprotocols));
    Some(Said { rule: "subprotocol".into(), place, passes, says, lists: Vec::new() })
}

/// What `list` says of `client`.
fn list_said(list: &List, client: Client, now: Timestamp) -> ListSaid {
    let decides = list.decide(client, now);
    let holds = decides.is_some_and(|(entry, _)| entry.admits);
    let others = list.covering(client).filter(|(entry, _)| entry.admits && !holds);
    // Of a carve-out the nearest that it is carved out of; without one, what has lapsed.
    let instead = others.filter(|(entry, _)| decides.is_none() || !entry.lapsed(now)).last();
    let entry = |(entry, line)| said(Listed { list, entry, line }, now);
    ListSaid {
        list: list.name.to_string(),
        entries: list.len(),
        holds,
        by: decides.map(entry),
        instead: instead.map(entry),
    }
}

fn said(listed: Listed<'_>, now: Timestamp) -> Entry {
    Entry {
        entry: listed.entry.to_string(),
        place: listed.place().to_string(),
        owner: listed.entry.owner().map(str::to_owned),
        ticket: listed.entry.ticket().map(str::to_owned),
        expires: listed.entry.expiry().map(|expiry| expiry.to_string()),
        lapsed: listed.entry.lapsed(now),
    }
}

fn place(policy: &Policy, rule: Rule) -> Option<String> {
    policy.place(rule).map(|place| place.to_string())
}
