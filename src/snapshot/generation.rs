//! The value of one generation. Nothing here changes after it is built.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::route::Routes;
use crate::policy::subject::{Ingress, SubjectRef};
use crate::snapshot::bans::Bans;
use crate::snapshot::certificate::Certificates;
use crate::snapshot::listener::Listener;
use crate::snapshot::names::Names;
use crate::snapshot::route::Route;
use crate::snapshot::tls::ListenerTls;
use crate::trace_context::TraceRules;

/// One complete generation: each decision is made under exactly one.
pub struct Snapshot {
    /// 1 for the first that served, then incremented by each publish.
    pub generation: u64,
    /// Digest of all files it was compiled from, for messages.
    pub digest: Arc<str>,
    /// Settings of each listener, by name.
    pub listeners: HashMap<Arc<str>, ListenerRules>,
    /// Certificates to serve, chosen by SNI.
    pub certificates: Arc<Certificates>,
    /// Routes by host and path.
    pub routes: Routes<Arc<Route>>,
    /// Routes in the order written.
    pub route_list: Vec<Arc<Route>>,
    /// Names of backends that the control plane resolves.
    pub names: Names,
    /// Whether any route has `proxy_protocol`.
    pub names_clients: bool,
    /// Count of route numbers assigned so far, those of earlier generations included.
    pub numbered: usize,
    /// Policies by name, used or not.
    pub policies: HashMap<Arc<str>, Arc<Policy>>,
    /// The policy whose denials precede every other policy. It admits every client it doesn't deny.
    pub baseline: Option<Arc<Policy>>,
    /// How traces are passed on and made.
    pub traces: TraceRules,
    /// The bans in force, which all generations share. Tests of policies don't see them.
    pub bans: Arc<Bans>,
}

/// A listener as configured, with its TLS configuration.
#[derive(Debug, Clone)]
pub struct ListenerRules {
    /// The listener's settings, as configured.
    pub listener: Arc<Listener>,
    /// TLS configuration. `None` on a plain listener.
    pub tls: Option<Arc<ListenerTls>>,
    /// What all connections have in common that show no certificate and have no client named by a
    /// PROXY header.
    pub ingress: Arc<Ingress>,
}

impl Snapshot {
    /// Returns the baseline if it denies `client` at the time `now`. The check needs no request: a
    /// listener applies it at accept.
    pub fn denying_baseline<'s>(
        &self,
        subject: impl Into<SubjectRef<'s>>,
        now: Timestamp,
    ) -> Option<&Arc<Policy>> {
        self.baseline.as_ref().filter(|baseline| baseline.judge_network(subject, now).is_err())
    }

    /// Sentences about the revocation lists that have expired by `now`, by listener.
    pub fn expired_crls(&self, now: Timestamp) -> Vec<String> {
        let mut all: Vec<_> = self.listeners.values().map(|rules| &rules.listener).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all.into_iter().flat_map(|listener| listener.expired_crls(now)).collect()
    }

    /// When the next entry of any policy lapses, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.all_policies().filter_map(|policy| policy.next_expiry(now)).min()
    }

    /// Iterates over every policy, used or not, and the baseline.
    pub fn all_policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().chain(&self.baseline)
    }
}
