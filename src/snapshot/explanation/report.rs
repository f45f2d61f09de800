//! The values of an explanation.

use jiff::Timestamp;

use crate::policy::limit::LimitUnit;
use crate::snapshot::route::RefusalForm;

/// One verdict, and everything it was based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the request is permitted, before anything is charged.
    pub permitted: bool,
    /// Word of the refusal. `None` means that the request is permitted.
    pub reason: Option<String>,
    /// HTTP status of the refusal's answer.
    pub status: Option<u16>,
    /// How the refusal reaches its client. `None` means that the request is permitted.
    pub delivery: Option<DeliveryExplanation>,
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
    pub rules: Vec<RuleExplanation>,
    /// The limits that the request would be charged to.
    pub limits: Vec<LimitExplanation>,
    /// The verdict of the policy's candidate. `None` means that there is none.
    pub candidate: Option<CandidateExplanation>,
    /// What the request cannot be as it was asked about, as sentences.
    pub notes: Vec<String>,
}

/// How a refusal reaches its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryExplanation {
    /// Form in which the client gets the refusal.
    pub form: RefusalForm,
    /// The code of the Close. `None` means that no WebSocket is accepted.
    pub code: Option<u16>,
    /// What the client gets, as text.
    pub says: String,
    /// Whether the form is another than the refusal's status says.
    pub is_notable: bool,
}

/// The verdict of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleExplanation {
    /// Name of the rule: `ban`, `baseline`, `path`, `deny`, `allow`, `origin`, `certificate`,
    /// `subprotocol` or `http`.
    pub rule: String,
    /// Place of the rule, as `file:line`.
    pub place: Option<String>,
    /// Whether the rule lets the request pass.
    pub passes: bool,
    /// The value that the rule examined and its verdict, as text.
    pub says: String,
    /// The verdict of each list of the rule.
    pub lists: Vec<ListExplanation>,
}

/// The verdict of one list on the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListExplanation {
    /// Name of the list; `(allow)` and the like for entries in the rule itself.
    pub list: String,
    /// Number of entries in the list.
    pub entries: usize,
    /// Whether the list holds the client.
    pub holds: bool,
    /// The entry that decides. `None` means that no entry matches the client.
    pub by: Option<EntryExplanation>,
    /// The entry that would hold the client without the carve-out or its own expiry.
    pub instead: Option<EntryExplanation>,
}

/// One entry of a list, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryExplanation {
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
pub struct LimitExplanation {
    /// Key of the limit in `[limits]`.
    pub limit: String,
    /// Value of the limit, in words.
    pub written: String,
    /// Place of the limit, as `file:line`.
    pub place: Option<String>,
    /// Whether the value comes from an exception for some clients.
    pub exception: bool,
    /// The pattern by which the exception names the client's certificate. `None` means that it
    /// names no certificate, or that there is no exception.
    pub pattern: Option<String>,
    /// What the limit counts the client by. `None` means that it counts all clients together.
    pub key: Option<LimitKeyExplanation>,
    /// Remainder for this client. `None` means unknown, because no running agent was asked.
    pub left: Option<u64>,
}

/// What a limit counts a client by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitKeyExplanation {
    /// The value of `per`.
    pub unit: LimitUnit,
    /// The identity of the client's certificate, or its address: with `per = "identity"` too, if
    /// it has no certificate.
    pub name: String,
}

/// The verdict of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateExplanation {
    /// File of the candidate.
    pub file: String,
    /// Whether the candidate would permit the request.
    pub permitted: bool,
    /// Word of its refusal. `None` means that it would permit.
    pub reason: Option<String>,
}
