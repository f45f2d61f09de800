//! Everything compiled from the files of one generation, and the verdict it gives.
//!
//! `judge` is pure: the same call serves live traffic, the re-judging of open
//! tunnels, `explain` and the policies' own tests. Nothing here
//! reads a file, opens a socket or charges a budget.

pub mod certificate;
pub mod explanation;
pub mod listener;
pub mod route;
pub mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use rustls::ServerConfig;

use crate::policy::Policy;
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::policy::route::Routes;
use crate::refusal::Refusal;
use crate::snapshot::certificate::{Certificate, Certificates};
use crate::snapshot::listener::Listener;
use crate::snapshot::route::Route;

/// One generation, whole: each decision is made under exactly one.
pub struct Snapshot {
    /// 1 for the first that served, then counted up by each publish.
    pub generation: u64,
    /// The digest of all files it was compiled from, for people.
    pub digest: Arc<str>,
    /// The listeners by name.
    pub listeners: HashMap<Arc<str>, ListenerRules>,
    /// What is served by SNI.
    pub certificates: Arc<Certificates>,
    /// Where requests lead.
    pub routes: Routes<Arc<Route>>,
    /// The routes in the order written.
    pub route_list: Vec<Arc<Route>>,
    /// How many numbers were given to routes so far, those of earlier generations included.
    pub numbered: usize,
    /// The policies by name, used or not; budgets are carried over from here.
    pub policies: HashMap<Arc<str>, Arc<Policy>>,
    /// The policy whose denials come before every other; it admits whom it doesn't deny.
    pub baseline: Option<Arc<Policy>>,
}

/// A listener as configured, and what its TLS handshakes are made with.
#[derive(Debug, Clone)]
pub struct ListenerRules {
    /// As configured.
    pub listener: Arc<Listener>,
    /// `None` on a plain listener.
    pub tls: Option<Arc<ServerConfig>>,
}

/// The verdict on one request, and what it was made from.
#[derive(Debug)]
pub struct Judgement {
    /// The generation that judged.
    pub generation: u64,
    /// The route that was found, if any.
    pub route: Option<Arc<Route>>,
    /// The policy that gave the verdict, if one did: the baseline's, or the route's.
    pub policy: Option<Arc<Policy>>,
    /// The one verdict.
    pub verdict: Result<Permit, Refusal>,
    /// What the policy's candidate says, if there is one and the policy was asked.
    pub candidate: Option<Result<(), Refusal>>,
}

/// Proof that a request was judged and permitted. Only [`Snapshot::judge`] mints one;
/// dialling a backend and entering the table of tunnels demand it.
#[derive(Debug)]
pub struct Permit {
    route: Arc<Route>,
    client: Client,
    generation: u64,
    at: Timestamp,
}

impl Permit {
    /// The route that leads to the backend.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who was judged.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The generation that judged.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was judged.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

impl Snapshot {
    /// Judges one request at the time `now`. `served` is the certificate that the
    /// client's TLS handshake got; `None` on a plain listener, and when an open
    /// tunnel is judged again (it has a connection of its own by then).
    pub fn judge(&self, client: Client, request: &Request, served: Option<&Certificate>, now: Timestamp) -> Judgement {
        self.judge_by(client, request, served, now, None)
    }

    /// The same, where the candidate of the policy `promoted`, if there is one, has that policy's place.
    pub fn judge_by(
        &self,
        client: Client,
        request: &Request,
        served: Option<&Certificate>,
        now: Timestamp,
        promoted: Option<&str>,
    ) -> Judgement {
        let refused = |route: Option<&Arc<Route>>, policy: Option<&Arc<Policy>>, refusal| Judgement {
            generation: self.generation,
            route: route.cloned(),
            policy: policy.cloned(),
            verdict: Err(refusal),
            candidate: None,
        };
        let host = request.host.name();
        if served.is_some_and(|served| self.misdirects(host, served)) {
            return refused(None, None, Refusal::Misdirected);
        }
        let route = self.routes.find(host, &request.path);
        if let Some(denied) = self.denied(client, now) {
            return refused(route, Some(denied), Refusal::Network);
        }
        let Some(route) = route else { return refused(None, None, Refusal::Route) };
        let policy = route.policy.named(promoted);
        let permit = || Permit { route: Arc::clone(route), client, generation: self.generation, at: now };
        Judgement {
            generation: self.generation,
            route: Some(Arc::clone(route)),
            policy: Some(Arc::clone(policy)),
            verdict: policy.judge(client, request, now).map(|()| permit()),
            candidate: policy.candidate.as_ref().map(|candidate| candidate.judge(client, request, now)),
        }
    }

    /// The baseline, if it denies `client` at the time `now`: whatever is asked, and before anything is.
    pub fn denied(&self, client: Client, now: Timestamp) -> Option<&Arc<Policy>> {
        self.baseline.as_ref().filter(|baseline| baseline.judge_network(client, now).is_err())
    }

    /// When the next entry of any policy lapses after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.all_policies().filter_map(|policy| policy.next_expiry(now)).min()
    }

    /// Every policy, used or not, and the baseline.
    pub fn all_policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().chain(&self.baseline)
    }

    /// Whether another certificate than the one served covers `host` (RFC 9110 §7.4).
    fn misdirects(&self, host: &str, served: &Certificate) -> bool {
        !served.covers(host) && self.certificates.covering(host).is_some()
    }
}

/// The one place where the running generation stands.
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Starts with the first generation.
    pub fn new(first: Snapshot) -> Self {
        Live(ArcSwap::from_pointee(first))
    }

    /// The running generation, for one decision; never to be held across a wait.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// The running generation, for work that outlasts a decision (a reload).
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes `next` the running generation; the one swap.
    pub fn publish(&self, next: Arc<Snapshot>) {
        self.0.store(next);
    }
}
