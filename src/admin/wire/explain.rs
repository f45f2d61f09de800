//! `POST /v1/explain`: why a request is admitted or refused by the generation that runs.

use std::net::IpAddr;

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::words::{DeliveryForm, ExplainedKind, RuleName};

/// A question about one client and one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExplainRequest {
    /// The address of the client; with `forwarded_for` that of the peer.
    pub client: String,
    /// The value of the forwarded header that the peer sends, which may name another client.
    /// `None` means that the client itself connects.
    pub forwarded_for: Option<String>,
    /// The listener whose key `forwarded` applies. `None` means the only listener with that key.
    pub listener: Option<String>,
    /// The URL: ws and wss for a WebSocket, http and https for plain HTTP.
    pub url: String,
    /// The `Origin` that is sent. `None` means no `Origin`.
    pub origin: Option<String>,
    /// The subprotocol that is offered. `None` means no subprotocol.
    pub subprotocol: Option<String>,
    /// A name of the client's certificate: a URI, `dns:NAME` or `sha256:HEX`. `None` means that it
    /// has none.
    pub identity: Option<String>,
    /// A day, or a time (RFC 3339). `None` means now.
    pub at: Option<String>,
}

impl AdminRequest for ExplainRequest {
    const METHOD: Method = Method::POST;
    const PATH: &'static str = "/v1/explain";
    type Answer = ExplainAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let ExplainRequest { client, url, origin, subprotocol, identity, at, .. } = self;
        let others = [
            ("forwarded_for", &self.forwarded_for),
            ("listener", &self.listener),
            ("origin", origin),
            ("subprotocol", subprotocol),
            ("identity", identity),
            ("at", at),
        ];
        let given = others.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        [("client", client.clone()), ("url", url.clone())].into_iter().chain(given).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        const PARAMETER_NAMES: [&str; 8] = [
            "client",
            "forwarded_for",
            "listener",
            "url",
            "origin",
            "subprotocol",
            "identity",
            "at",
        ];
        let mut found: [Option<String>; 8] = Default::default();
        for (name, value) in pairs(query)? {
            let at = PARAMETER_NAMES.iter().position(|known| *known == name);
            let at = at.ok_or_else(|| {
                unknown(
                    name,
                    "client, forwarded_for, listener, url, origin, subprotocol, identity and at",
                )
            })?;
            found[at] = Some(value);
        }
        let [client, forwarded_for, listener, url, origin, subprotocol, identity, at] = found;
        Ok(ExplainRequest {
            client: client.ok_or("`client` is missing")?,
            forwarded_for,
            listener,
            url: url.ok_or("`url` is missing")?,
            origin,
            subprotocol,
            identity,
            at,
        })
    }

    fn is_answered_by(&self, answer: &ExplainAnswer) -> bool {
        let answered = NamedClient::parse(&answer.client);
        let is_same = match self.forwarded_for {
            // The header may name any client.
            Some(_) => answered.is_some(),
            None => answered.is_some_and(|answered| answered.is(&self.client)),
        };
        answer.generation.is_some() && is_same
    }
}

/// A client as an answer names it.
#[derive(PartialEq, Eq)]
enum NamedClient {
    Address(IpAddr),
    /// A user of this host, by its number.
    User(u32),
}

impl NamedClient {
    /// `None` means that `text` names none.
    fn parse(text: &str) -> Option<Self> {
        let Some(keys) = text.strip_prefix("unix:") else {
            let address: IpAddr = text.parse().ok()?;
            return Some(NamedClient::Address(address.to_canonical()));
        };
        let uid = keys.split(',').find_map(|key| key.strip_prefix("uid="))?;
        Some(NamedClient::User(uid.parse().ok()?))
    }

    /// Whether a request asks about this client by the words `asked`.
    fn is(&self, asked: &str) -> bool {
        match NamedClient::parse(asked) {
            Some(asked) => *self == asked,
            // The name of a user: the agent alone has looked up its number.
            None => asked.starts_with("unix:") && matches!(self, NamedClient::User(_)),
        }
    }
}

/// A verdict, and what it was made from. Nothing was charged, and no backend dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ExplainAnswer {
    /// Whether the request is permitted, before limits are charged.
    pub permitted: bool,
    /// The refusal's word, as in docs/operations.md. `null`: the request is permitted.
    #[serde(deserialize_with = "nullable")]
    pub reason: Option<String>,
    /// The HTTP status of the refusal, where it is answered. `null`: permitted, or without one.
    #[serde(deserialize_with = "nullable")]
    pub status: Option<u16>,
    /// How the refusal reaches the client. `null`: the request is permitted.
    #[serde(deserialize_with = "nullable")]
    pub delivery: Option<DeliveryVerdict>,
    /// The policy that decided, `baseline` included. `null`: no policy judged it.
    #[serde(deserialize_with = "nullable")]
    pub policy: Option<String>,
    /// The rule that decided, `file:line`. `null`: no rule of a policy.
    #[serde(deserialize_with = "nullable")]
    pub rule: Option<String>,
    /// The generation that judged the request. `null`: the files did.
    #[serde(deserialize_with = "nullable")]
    pub generation: Option<u64>,
    /// The address of the client.
    pub client: String,
    /// The source of that address.
    pub derived: String,
    /// The time for which the verdict holds. `null`: one at which no entry has lapsed.
    #[serde(deserialize_with = "nullable")]
    pub at: Option<Time>,
    /// The kind of request: `upgrade` or `plain`. Empty: the gate refused the request unread.
    pub kind: ExplainedKind,
    /// The host and the path that are judged.
    pub target: String,
    /// The path with a slash at its end, where only that leads to a route. `null`: not so.
    ///
    /// Plain HTTP is judged as that path and sent there with 308. An upgrade finds no route.
    #[serde(deserialize_with = "nullable")]
    pub slash: Option<String>,
    /// The route. `null`: none matches.
    #[serde(deserialize_with = "nullable")]
    pub route: Option<String>,
    /// The result of each rule, in their order.
    pub rules: Vec<RuleVerdict>,
    /// The limits that the request would be charged to.
    pub limits: Vec<LimitVerdict>,
    /// The verdict of the policy's candidate. `null`: there is none.
    #[serde(deserialize_with = "nullable")]
    pub candidate: Option<CandidateVerdict>,
    /// What the request cannot be as it was asked about, as sentences.
    pub notes: Vec<String>,
    /// The whole explanation as text: several lines.
    pub text: String,
}

impl AdminAnswer for ExplainAnswer {
    fn contradiction(&self) -> Option<&'static str> {
        let is_refused = self.reason.is_some() || self.status.is_some() || self.delivery.is_some();
        (self.permitted == is_refused).then_some("its verdict and its reason disagree")
    }
}

/// How a refusal reaches its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeliveryVerdict {
    /// Form in which the client gets the refusal.
    pub form: DeliveryForm,
    /// The code of the Close. `null`: no WebSocket is accepted.
    #[serde(deserialize_with = "nullable")]
    pub code: Option<u16>,
    /// What the client gets, as a sentence.
    pub says: String,
}

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleVerdict {
    /// Which rule.
    pub rule: RuleName,
    /// Its place as `file:line`. `null`: in no file.
    #[serde(deserialize_with = "nullable")]
    pub place: Option<String>,
    /// Whether the request passes it.
    pub passes: bool,
    /// The result as a sentence.
    pub says: String,
    /// The result of each of its lists.
    pub lists: Vec<ListVerdict>,
}

/// What one list says of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListVerdict {
    /// Its name. `(allow)` and the like: entries in the rule itself.
    pub list: String,
    /// Number of its entries.
    pub entries: u64,
    /// Whether it holds the client.
    pub holds: bool,
    /// The entry that decides. `null`: none covers the client.
    #[serde(deserialize_with = "nullable")]
    pub by: Option<EntryVerdict>,
    /// The entry that would hold the client but for a carve-out or its expiry. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub instead: Option<EntryVerdict>,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EntryVerdict {
    /// The network, with `!` for a carve-out.
    pub entry: String,
    /// Its place as `file:line`.
    pub place: String,
    /// The annotation `owner`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub owner: Option<String>,
    /// The annotation `ticket`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub ticket: Option<String>,
    /// The annotation `expires`. `null`: it never lapses.
    #[serde(deserialize_with = "nullable")]
    pub expires: Option<String>,
    /// Whether it has lapsed at the time of the request.
    pub lapsed: bool,
}

/// A limit that the request would be charged to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LimitVerdict {
    /// Its key in `[limits]`.
    pub limit: String,
    /// Its value as it may be written.
    pub written: String,
    /// Its place as `file:line`. `null`: it is a default.
    #[serde(deserialize_with = "nullable")]
    pub place: Option<String>,
    /// Whether it is an exception for some clients.
    pub exception: bool,
    /// The pattern by which the exception names the client's certificate. `null`: it names
    /// networks, or there is no exception.
    #[serde(deserialize_with = "nullable")]
    pub pattern: Option<String>,
    /// The value of `per`: `address` or `identity`. `null`: it counts all clients together.
    #[serde(deserialize_with = "nullable")]
    pub per: Option<String>,
    /// What it counts the client by: an address, or the identity of its certificate. `null`: it
    /// counts all clients together.
    #[serde(deserialize_with = "nullable")]
    pub key: Option<String>,
    /// How much of it the client has left. `null`: not known, because no agent was asked.
    #[serde(deserialize_with = "nullable")]
    pub left: Option<u64>,
}

/// What a policy's candidate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CandidateVerdict {
    /// Its file.
    pub file: String,
    /// Whether it would permit the request.
    pub permitted: bool,
    /// The refusal's word. `null`: it would permit.
    #[serde(deserialize_with = "nullable")]
    pub reason: Option<String>,
}
