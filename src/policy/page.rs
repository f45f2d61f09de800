//! A policy, and its verdict on a client and a request.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::limit::{Budgets, Limits};
use crate::policy::list::List;
use crate::policy::network::Client;
use crate::policy::origin::Origins;
use crate::policy::request::{Kind, Request};
use crate::policy::rule::RuleLines;
use crate::policy::subprotocol::Subprotocols;
use crate::refusal::Refusal;

/// One page of rules, by name, compiled from one file.
#[derive(Debug)]
pub struct Policy {
    /// The file's stem: `policies/NAME.toml`.
    pub name: Arc<str>,
    /// Where it was read, for people: `policies/NAME.toml`.
    pub file: Arc<str>,
    /// Who answers for it, as written.
    pub owner: Option<Box<str>>,
    /// Who is admitted.
    pub allow: Allow,
    /// Whom nobody may admit; beats `allow`.
    pub deny: Vec<Arc<List>>,
    /// Which pages may open it; `None`: not looked at.
    pub origins: Option<Origins>,
    /// Which subprotocols its tunnels may speak. `None` means not looked at.
    pub subprotocols: Option<Subprotocols>,
    /// How much of it.
    pub limits: Limits,
    /// What has been used of the limits; outlives the generation.
    pub budgets: Budgets,
    /// Where its rules stand in the file.
    pub lines: RuleLines,
    /// What may replace it: judged beside it, and never enforced.
    pub candidate: Option<Arc<Policy>>,
}

/// The `allow` rule.
#[derive(Debug)]
pub enum Allow {
    /// `["any"]`: everyone, said out loud.
    Any,
    /// Clients that one of these lists admits.
    Lists(Vec<Arc<List>>),
}

impl Allow {
    /// The lists that it names.
    pub fn lists(&self) -> &[Arc<List>] {
        match self {
            Allow::Any => &[],
            Allow::Lists(lists) => lists,
        }
    }
}

impl Policy {
    /// Says whether `client` may make `request` at the time `now`; charges nothing.
    pub fn judge(&self, client: Client, request: &Request, now: Timestamp) -> Result<(), Refusal> {
        self.judge_network(client, now)?;
        self.judge_origin(request)?;
        self.judge_subprotocol(request)
    }

    /// Its candidate where that is `promoted`, else itself.
    pub fn named<'p>(self: &'p Arc<Self>, promoted: Option<&str>) -> &'p Arc<Policy> {
        self.candidate.as_ref().filter(|_| promoted == Some(&*self.name)).unwrap_or(self)
    }

    /// The lists that its rules name, each once.
    pub fn lists(&self) -> Vec<&Arc<List>> {
        let mut lists: Vec<&Arc<List>> = Vec::new();
        let limited = self.limits.exceptions.iter().flat_map(|exception| &exception.clients);
        for list in self.allow.lists().iter().chain(&self.deny).chain(limited) {
            if !lists.iter().any(|known| Arc::ptr_eq(known, list)) {
                lists.push(list);
            }
        }
        lists
    }

    /// When the next of its entries lapses, or of its candidate's, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let own = self.lists().into_iter().filter_map(|list| list.next_expiry(now));
        own.chain(self.candidate.as_ref().and_then(|candidate| candidate.next_expiry(now))).min()
    }

    /// Says whether its networks admit `client` at the time `now`.
    pub fn judge_network(&self, client: Client, now: Timestamp) -> Result<(), Refusal> {
        if self.deny.iter().any(|list| list.admits(client, now)) {
            return Err(Refusal::Network);
        }
        let admitted = match &self.allow {
            Allow::Any => true,
            Allow::Lists(lists) => lists.iter().any(|list| list.admits(client, now)),
        };
        if admitted { Ok(()) } else { Err(Refusal::Network) }
    }

    /// The rule binds every attempt, and plain HTTP that carries an Origin
    /// (browsers send none on a same-origin GET).
    fn judge_origin(&self, request: &Request) -> Result<(), Refusal> {
        let Some(origins) = &self.origins else { return Ok(()) };
        if request.is_plain() && request.origin.is_none() {
            return Ok(());
        }
        if origins.admit(request) { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// An attempt must offer at least one admitted subprotocol; that the
    /// backend chose an admitted one is looked at when it answers.
    fn judge_subprotocol(&self, request: &Request) -> Result<(), Refusal> {
        let (Some(rule), Kind::Attempt { subprotocols }) = (&self.subprotocols, &request.kind)
        else {
            return Ok(());
        };
        if rule.admit_offer(subprotocols) { Ok(()) } else { Err(Refusal::Subprotocol) }
    }

    /// Whether the rules let the backend choose `chosen`. `None` means no subprotocol.
    pub fn admits_subprotocol(&self, chosen: Option<&str>) -> bool {
        self.subprotocols.as_ref().is_none_or(|rule| rule.admit(chosen))
    }
}
