//! Why a request is admitted or refused, down to the line of the list: as text and as values for
//! programs.
//!
//! It calls the same judge, and then every rule on its own, so that a request refused for one
//! reason also shows the next. It charges nothing and decides nothing.

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

/// One verdict, and everything it was based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the request is permitted, before anything is charged.
    pub permitted: bool,
    /// Word of the refusal. `None` means that the request is permitted.
    pub reason: Option<String>,
    /// HTTP status of the refusal's answer.
    pub status: Option<u16>,
    /// Name of the policy that decided. `None` means that no policy was consulted.
    pub policy: Option<String>,
    /// The rule that had the last word, as `file:line`.
    pub rule: Option<String>,
    /// The running generation that answered. `None` means that the files were judged.
    pub generation: Option<u64>,
    /// Address of the client.
    pub client: String,
    /// How the address was determined.
    pub derived: String,
    /// The instant that was judged for. `None` means an instant at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// Kind of the request: `upgrade` or `plain`.
    pub kind: String,
    /// The host and the path that are judged: the canonical path, or the path as sent if its route
    /// forwards it so.
    pub target: String,
    /// The same path with a final slash, where only that leads to a route. Plain HTTP that is
    /// permitted there is redirected to it; an attempt finds no route.
    pub slash: Option<String>,
    /// Name of the route found.
    pub route: Option<String>,
    /// The verdict of each rule on its own, in the order of evaluation.
    pub rules: Vec<Said>,
    /// The limits that the request would be charged to.
    pub limits: Vec<Limited>,
    /// The verdict of the policy's candidate. `None` means that there is none.
    pub candidate: Option<Candidate>,
}

/// The verdict of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Name of the rule: `baseline`, `path`, `deny`, `allow`, `origin` or `subprotocol`.
    pub rule: String,
    /// Place of the rule, as `file:line`.
    pub place: Option<String>,
    /// Whether the rule lets the request pass.
    pub passes: bool,
    /// The value that the rule examined and its verdict, as text.
    pub says: String,
    /// The verdict of each list of the rule.
    pub lists: Vec<ListSaid>,
}

/// The verdict of one list on the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSaid {
    /// Name of the list; `(allow)` and the like for entries in the rule itself.
    pub list: String,
    /// Number of entries in the list.
    pub entries: usize,
    /// Whether the list holds the client.
    pub holds: bool,
    /// The entry that decides. `None` means that no entry matches the client.
    pub by: Option<Entry>,
    /// The entry that would hold the client without the carve-out or its own expiry.
    pub instead: Option<Entry>,
}

/// One entry of a list, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Network and sign, as at the start of a list's line.
    pub entry: String,
    /// Place of the entry, as `file:line`.
    pub place: String,
    /// The `owner` annotation, as written.
    pub owner: Option<String>,
    /// The `ticket` annotation, as written.
    pub ticket: Option<String>,
    /// Expiry of the entry. `None` means never.
    pub expires: Option<String>,
    /// Whether it has lapsed at the instant judged for.
    pub lapsed: bool,
}

/// One limit that the request would be charged to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// Key of the limit in `[limits]`.
    pub limit: String,
    /// Value of the limit, in words.
    pub written: String,
    /// Place of the limit, as `file:line`.
    pub place: Option<String>,
    /// Whether the value comes from an exception for some networks.
    pub exception: bool,
    /// Remainder for this client. `None` means unknown, because no running agent was asked.
    pub left: Option<u64>,
}

/// The verdict of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// File of the candidate.
    pub file: String,
    /// Whether the candidate would permit the request.
    pub permitted: bool,
    /// Word of its refusal. `None` means that it would permit.
    pub reason: Option<String>,
}

/// The question that an explanation answers.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    /// The client that makes the request.
    pub client: Client,
    /// The request, or the refusal by the gate.
    pub request: Result<&'q Request, Refusal>,
    /// Time of the request. `None` means an instant at which no entry has lapsed.
    pub at: Option<Timestamp>,
    /// Whether the budgets are those of a running agent.
    pub live: bool,
    /// Name of the policy whose candidate is judged in its place.
    pub candidate: Option<&'q str>,
}

impl Snapshot {
    /// Returns the verdict of [`Snapshot::judge`] and the reasons for it.
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
                // A client that the baseline denies is refused before its head is judged.
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
        // Without a connection there is no certificate that could misdirect.
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
    /// Sets the verdict, and the policy and rule that gave it.
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

/// The verdict of each rule of `policy` on its own.
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

/// The verdict of a rule of networks, with the text of its lists.
fn networks(rule: &str, policy: &Policy, kind: Rule, lists: Vec<ListSaid>) -> Said {
    let held = lists.iter().any(|list| list.holds);
    let passes = held == matches!(kind, Rule::Allow);
    let says = text::lists(&lists, matches!(kind, Rule::Allow));
    Said { rule: rule.into(), place: place(policy, kind), passes, says, lists }
}

/// The entry for an ambiguous path.
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

/// The verdict of `list` on `client`.
fn list_said(list: &List, client: Client, now: Timestamp) -> ListSaid {
    let decides = list.decide(client, now);
    let holds = decides.is_some_and(|(entry, _)| entry.admits);
    let others = list.covering(client).filter(|(entry, _)| entry.admits && !holds);
    // For a carve-out: the nearest entry that it is carved out of. Without one: an entry that has
    // lapsed.
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
