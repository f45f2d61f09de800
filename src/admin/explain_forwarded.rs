//! The client of an explained request, where forwarded headers are to name it: the same derivation
//! as for a request off the wire.

use http::{HeaderMap, HeaderValue};

use crate::policy::forwarded::{ForwardedRules, WalkEnd};
use crate::policy::network::Client;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;

/// What a peer sends, and to which listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedQuery {
    /// The value of the header that the listener reads.
    pub value: HeaderValue,
    /// The listener. `None` means the only one with the key `forwarded`.
    pub listener: Option<String>,
}

/// Who a request is judged as, and how that was found.
pub struct FoundClient {
    /// The client, or the peer where none is named.
    pub subject: Subject,
    /// The derivation, as one line.
    pub derived: String,
    /// The refusal, where the header cannot be read.
    pub refusal: Option<Refusal>,
    /// Whether the peer is listed, so that other clients share its connection.
    pub is_listed: bool,
}

impl ForwardedQuery {
    /// Checks the value of the header.
    ///
    /// # Errors
    /// The value holds what no header can.
    pub fn new(value: &str, listener: Option<String>) -> Result<Self, String> {
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            let shown = value.escape_debug();
            format!("`{shown}` is not a header's value: write it without line ends")
        })?;
        Ok(ForwardedQuery { value, listener })
    }

    /// Finds the client of a request that `peer` sends.
    ///
    /// # Errors
    /// There is no such listener, or several have different rules.
    pub fn find(&self, peer: &Subject, snapshot: &Snapshot) -> Result<FoundClient, String> {
        let itself = |derived: String| FoundClient {
            subject: peer.clone(),
            derived,
            refusal: None,
            is_listed: false,
        };
        let client = peer.client;
        let Some((listener, rules)) = self.rules(snapshot)? else {
            let derived = match &self.listener {
                Some(name) => {
                    format!("listener `{name}` has no `forwarded`: peer {client} is the client")
                }
                None => format!("no listener has `forwarded`: peer {client} is the client"),
            };
            return Ok(itself(derived));
        };
        let mut headers = HeaderMap::new();
        headers.insert(rules.header.field(), self.value.clone());
        Ok(match rules.derive(client, &headers) {
            Ok(Some(derived)) => {
                let walk = derived.derivation;
                let subject = match walk.end {
                    WalkEnd::Empty => peer.clone(),
                    _ => Subject::new(walk.client()),
                };
                let derived = walk.to_string();
                FoundClient { subject, derived, refusal: None, is_listed: true }
            }
            Ok(None) => itself(unlisted(client, listener, rules)),
            Err(derivation) => {
                let refusal = Some(Refusal::Forwarded);
                let derived = derivation.to_string();
                FoundClient { subject: peer.clone(), derived, refusal, is_listed: true }
            }
        })
    }

    /// The listener whose rules hold. `None` means that it has none.
    fn rules<'s>(
        &self,
        snapshot: &'s Snapshot,
    ) -> Result<Option<(&'s str, &'s ForwardedRules)>, String> {
        let mut all: Vec<_> = snapshot.listeners.values().map(|rules| &rules.listener).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(wanted) = &self.listener {
            let found = all.iter().find(|listener| *listener.name == **wanted);
            let found = found.ok_or_else(|| {
                let names: Vec<_> = all.iter().map(|listener| &*listener.name).collect();
                format!("there is no listener `{}`: {}", wanted.escape_debug(), names.join(", "))
            })?;
            return Ok(found.forwarded.as_ref().map(|rules| (&*found.name, rules)));
        }
        let mut with = all.iter().filter_map(|listener| {
            listener.forwarded.as_ref().map(|rules| (&*listener.name, rules))
        });
        let first = with.next();
        match with.find(|(_, rules)| first.is_some_and(|(_, first)| first != *rules)) {
            Some((other, _)) => {
                let name = first.map_or("", |(name, _)| name);
                Err(format!(
                    "listeners `{name}` and `{other}` have different `forwarded`: name one of them"
                ))
            }
            None => Ok(first),
        }
    }
}

fn unlisted(peer: Client, listener: &str, rules: &ForwardedRules) -> String {
    format!(
        "peer {peer} is not in forwarded.from of listener `{listener}`: the client, and its {} is \
         ignored",
        rules.header.spelled()
    )
}
