//! A policy, and its verdict on a client and a request.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::certificate::{CertificateFault, CertificateRule};
use crate::policy::limit::Limits;
use crate::policy::list::List;
use crate::policy::origin::Origins;
use crate::policy::request::{Request, RequestType};
use crate::policy::rule::RuleLines;
use crate::policy::subject::{Subject, SubjectRef};
use crate::policy::subprotocol::Subprotocols;
use crate::refusal::Refusal;

/// A named set of rules, compiled from one file. It holds limits and not how far they are used.
#[derive(Debug)]
pub struct Policy {
    /// The file's stem, as in `policies/NAME.toml`.
    pub name: Arc<str>,
    /// File name for messages: `policies/NAME.toml`.
    pub file: Arc<str>,
    /// Owner of the policy, as written.
    pub owner: Option<Box<str>>,
    /// The clients that the policy admits.
    pub allow: AllowRule,
    /// Lists of denied clients; they take precedence over `allow`.
    pub deny: Vec<Arc<List>>,
    /// Admitted origins. `None` means that the origin is not checked.
    pub origins: Option<Origins>,
    /// Admitted subprotocols. `None` means that they are not checked.
    pub subprotocols: Option<Subprotocols>,
    /// Admitted certificates of clients. `None` means that they are not checked.
    pub certificate: Option<CertificateRule>,
    /// Rates, counts and tunnel limits.
    pub limits: Limits,
    /// Lines of the rules in the file.
    pub lines: RuleLines,
    /// The policy that may replace this one: judged beside it, and never enforced.
    pub candidate: Option<Arc<Policy>>,
}

/// The `allow` rule: which clients the policy admits.
#[derive(Debug)]
pub enum AllowRule {
    /// `["any"]`: every client, written out explicitly.
    Any,
    /// Clients that one of these lists admits.
    Lists(Vec<Arc<List>>),
}

impl AllowRule {
    /// The lists that the rule names.
    pub fn lists(&self) -> &[Arc<List>] {
        match self {
            AllowRule::Any => &[],
            AllowRule::Lists(lists) => lists,
        }
    }
}

impl Policy {
    /// Judges whether `subject` may make `request` at the time `now`. It charges nothing.
    pub fn judge(
        &self,
        subject: &Subject,
        request: &Request,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        // The order decides which reason is logged and counted if several rules refuse.
        self.judge_network(subject, now)?;
        self.judge_origin(request)?;
        self.judge_certificate(subject).map_err(|_| Refusal::Identity)?;
        self.judge_subprotocol(request)
    }

    /// Returns the candidate if this policy is `promoted`, else the policy itself.
    pub fn as_promoted<'p>(self: &'p Arc<Self>, promoted: Option<&str>) -> &'p Arc<Policy> {
        self.candidate.as_ref().filter(|_| promoted == Some(&*self.name)).unwrap_or(self)
    }

    /// Returns the lists that the rules name, each once.
    pub fn lists(&self) -> Vec<&Arc<List>> {
        let mut lists: Vec<&Arc<List>> = Vec::new();
        let limited = self.limits.exceptions.iter().flat_map(|exception| exception.lists());
        for list in self.allow.lists().iter().chain(&self.deny).chain(limited) {
            if !lists.iter().any(|known| Arc::ptr_eq(known, list)) {
                lists.push(list);
            }
        }
        lists
    }

    /// When the next entry of the policy or of its candidate lapses, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let own = self.lists().into_iter().filter_map(|list| list.next_expiry(now));
        own.chain(self.candidate.as_ref().and_then(|candidate| candidate.next_expiry(now))).min()
    }

    /// Judges whether the policy's lists admit `subject` at the time `now`.
    pub fn judge_network<'s>(
        &self,
        subject: impl Into<SubjectRef<'s>>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let subject = subject.into();
        if self.deny.iter().any(|list| list.admits(subject, now)) {
            return Err(Refusal::Network);
        }
        let admitted = match &self.allow {
            AllowRule::Any => true,
            AllowRule::Lists(lists) => lists.iter().any(|list| list.admits(subject, now)),
        };
        if admitted { Ok(()) } else { Err(Refusal::Network) }
    }

    /// Applies the origin rule to every attempt, and to plain HTTP with an Origin (browsers send
    /// none on a same-origin GET).
    fn judge_origin(&self, request: &Request) -> Result<(), Refusal> {
        let Some(origins) = &self.origins else { return Ok(()) };
        if request.is_plain() && request.origin.is_none() {
            return Ok(());
        }
        if origins.admits(request) { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// Applies the certificate rule to the client's verified certificate.
    ///
    /// # Errors
    /// Why the rule refuses it.
    pub fn judge_certificate(&self, subject: &Subject) -> Result<(), CertificateFault<'_>> {
        let Some(rule) = &self.certificate else { return Ok(()) };
        rule.judge(subject.certificate())
    }

    /// Applies the subprotocol rule to an attempt, which must offer at least one admitted name.
    /// Whether the backend chose an admitted one is checked when it answers.
    fn judge_subprotocol(&self, request: &Request) -> Result<(), Refusal> {
        let (Some(rule), RequestType::Attempt { subprotocols }) =
            (&self.subprotocols, &request.kind)
        else {
            return Ok(());
        };
        if rule.admits_offer(subprotocols) { Ok(()) } else { Err(Refusal::Subprotocol) }
    }

    /// Whether the rules let the backend choose `chosen`. `None` means no subprotocol.
    pub fn admits_subprotocol(&self, chosen: Option<&str>) -> bool {
        self.subprotocols.as_ref().is_none_or(|rule| rule.admits(chosen))
    }
}
