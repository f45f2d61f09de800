//! Everything compiled from the files of one generation, and its verdicts.
//!
//! `judge` is pure: the same call serves live traffic, the re-judging of open
//! tunnels, `explain` and the policies' own tests. Nothing here
//! reads a file, opens a socket or charges a budget.

pub mod ambiguity;
pub mod certificate;
pub mod explanation;
pub mod hello;
pub mod listener;
pub mod route;
pub mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::limit::Limiter;
use crate::policy::network::Client;
use crate::policy::request::{Request, RequestPath};
use crate::policy::route::Routes;
use crate::refusal::Refusal;
use crate::snapshot::ambiguity::Ambiguity;
use crate::snapshot::certificate::{Certificate, Certificates};
use crate::snapshot::listener::Listener;
use crate::snapshot::route::{Paths, PlainHttp, Route};
use crate::snapshot::tls::Handshakes;

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
    /// Count of route numbers assigned so far, those of earlier generations included.
    pub numbered: usize,
    /// Policies by name, used or not. A reload carries budgets over from here.
    pub policies: HashMap<Arc<str>, Arc<Policy>>,
    /// The policy whose denials precede every other policy. It admits every client it doesn't deny.
    pub baseline: Option<Arc<Policy>>,
}

/// A listener as configured, with its TLS configuration.
#[derive(Debug, Clone)]
pub struct ListenerRules {
    /// The listener's settings, as configured.
    pub listener: Arc<Listener>,
    /// TLS configuration. `None` on a plain listener.
    pub tls: Option<Arc<Handshakes>>,
    /// Remainder of `handshakes_per_client`. `None` means unlimited.
    pub handshakes: Option<Arc<Limiter>>,
}

/// The verdict on one request, and what it was based on.
#[derive(Debug)]
pub struct Judgement {
    /// The generation that gave the verdict.
    pub generation: u64,
    /// The route that was found, if any.
    pub route: Option<Arc<Route>>,
    /// The policy that gave the verdict: the baseline or the route's. `None` means that no policy
    /// did.
    pub policy: Option<Arc<Policy>>,
    /// The verdict: a permit or a refusal.
    pub verdict: Result<Permit, Refusal>,
    /// Verdict of the policy's candidate. `None` without a candidate, or if the policy was not
    /// consulted.
    pub candidate: Option<Result<(), Refusal>>,
    /// Why the path is refused. `None` if it is not, or if the verdict has another reason.
    pub ambiguity: Option<Ambiguity>,
}

/// Proof that a request was judged and permitted. Only [`Snapshot::judge`] creates one; dialling a
/// backend and entering the table of tunnels require it.
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

    /// The client that was judged.
    pub fn client(&self) -> Client {
        self.client
    }

    /// The generation that gave the permit.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The time of the verdict.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Checks whether the route forwards `request`, which was permitted, as an attempt or as plain
    /// HTTP. The policy comes first, so that a 403 hides what a route forwards.
    ///
    /// # Errors
    /// [`Refusal::Plain`]: the request is plain HTTP, and the route forwards none.
    pub fn forwards(&self, request: &Request) -> Result<(), Refusal> {
        match self.route.http {
            PlainHttp::Refuse if request.is_plain() => Err(Refusal::Plain),
            PlainHttp::Refuse | PlainHttp::Forward => Ok(()),
        }
    }
}

impl Snapshot {
    /// Judges one request at the time `now`. `served` is the certificate of the client's TLS
    /// handshake. It is `None` on a plain listener, and when an open tunnel is judged again (which
    /// by then has its connection to itself).
    pub fn judge(
        &self,
        client: Client,
        request: &Request,
        served: Option<&Certificate>,
        now: Timestamp,
    ) -> Judgement {
        self.judge_by(client, request, served, now, None)
    }

    /// Like [`Snapshot::judge`], with the candidate of the policy `promoted`, if any, in that
    /// policy's place.
    pub fn judge_by(
        &self,
        client: Client,
        request: &Request,
        served: Option<&Certificate>,
        now: Timestamp,
        promoted: Option<&str>,
    ) -> Judgement {
        let refused =
            |route: Option<&Arc<Route>>, policy: Option<&Arc<Policy>>, refusal| Judgement {
                generation: self.generation,
                route: route.cloned(),
                policy: policy.cloned(),
                verdict: Err(refusal),
                candidate: None,
                ambiguity: None,
            };
        let host = request.host.name();
        let route = self.route_to(request);
        let denied = self.denied(client, now);
        // The order of the checks decides which reason wins: a client that the baseline denies does
        // not learn of its path.
        if route.is_none() && request.path.canonical().is_none() && denied.is_none() {
            return Judgement {
                ambiguity: Some(Ambiguity::Hiding),
                ..refused(None, None, Refusal::Path)
            };
        }
        if served.is_some_and(|served| self.misdirects(host, served)) {
            return refused(None, None, Refusal::Misdirected);
        }
        if let Some(denied) = denied {
            return refused(route, Some(denied), Refusal::Network);
        }
        let Some(route) = route else { return refused(None, None, Refusal::Route) };
        let ambiguity = self.ambiguity(request, route);
        if ambiguity.is_some() {
            return Judgement { ambiguity, ..refused(Some(route), None, Refusal::Path) };
        }
        let policy = route.policy.named(promoted);
        let permit =
            || Permit { route: Arc::clone(route), client, generation: self.generation, at: now };
        Judgement {
            generation: self.generation,
            route: Some(Arc::clone(route)),
            policy: Some(Arc::clone(policy)),
            verdict: policy.judge(client, request, now).map(|()| permit()),
            candidate: policy
                .candidate
                .as_ref()
                .map(|candidate| candidate.judge(client, request, now)),
            ambiguity: None,
        }
    }

    /// Finds the route for `request`. A path that is not canonical leads, as sent, only to a route
    /// that forwards paths as sent. That route takes precedence: dot segments don't lead out of it.
    fn route_to(&self, request: &Request) -> Option<&Arc<Route>> {
        let find = |path: &str| self.routes.find(request.host.name(), path);
        let (canonical, sent) = (request.path.canonical(), request.path.sent());
        if canonical == Some(sent) {
            return find(sent);
        }
        let as_is = find(sent).filter(|route| route.paths == Paths::AsIs);
        as_is.or_else(|| canonical.and_then(find))
    }

    /// Returns `request` with a slash after its path, if it is plain HTTP and only the slash leads
    /// to a route. `path = "/app/"` also answers `/app`, by redirecting the client to `/app/`. An
    /// attempt is not redirected: browsers follow no redirect of a WebSocket (RFC 6455 §4.1).
    pub fn slashed(&self, request: &Request) -> Option<Request> {
        if request.is_attempt() { None } else { self.lacking_slash(request) }
    }

    /// Returns `request` with a slash after its canonical path, if only that form leads to a route.
    pub fn lacking_slash(&self, request: &Request) -> Option<Request> {
        let path = request.path.canonical().filter(|path| !path.ends_with('/'))?;
        let slashed =
            Request { path: RequestPath::read(&format!("{path}/")).ok()?, ..request.clone() };
        let leads = |request: &Request| self.route_to(request).is_some();
        (leads(&slashed) && !leads(request)).then_some(slashed)
    }

    /// Returns the baseline if it denies `client` at the time `now`. The check needs no request: a
    /// listener applies it at accept.
    pub fn denied(&self, client: Client, now: Timestamp) -> Option<&Arc<Policy>> {
        self.baseline.as_ref().filter(|baseline| baseline.judge_network(client, now).is_err())
    }

    /// When the next entry of any policy lapses, after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.all_policies().filter_map(|policy| policy.next_expiry(now)).min()
    }

    /// Whether an entry on which the verdict of `permit` may rest has lapsed since then, up to
    /// `now`.
    pub fn has_lapse(&self, permit: &Permit, now: Timestamp) -> bool {
        let policies = [Some(&permit.route.policy), self.baseline.as_ref()].into_iter().flatten();
        let mut next = policies.filter_map(|policy| policy.next_expiry(permit.at));
        next.any(|lapses| lapses <= now)
    }

    /// Iterates over every policy, used or not, and the baseline.
    pub fn all_policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().chain(&self.baseline)
    }

    /// Whether another certificate than the one served covers `host` (RFC 9110 §7.4).
    fn misdirects(&self, host: &str, served: &Certificate) -> bool {
        !served.covers(host) && self.certificates.covering(host).is_some()
    }
}

/// The running generation: the single pointer that a publish swaps.
pub struct Live(ArcSwap<Snapshot>);

impl Live {
    /// Creates the pointer with the first generation.
    pub fn new(first: Snapshot) -> Self {
        Live(ArcSwap::from_pointee(first))
    }

    /// Loads the running generation, for one decision. The guard must not be held across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Loads the running generation, for work that outlasts a decision (a reload).
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Makes `next` the running generation; the only swap.
    pub fn publish(&self, next: Arc<Snapshot>) {
        self.0.store(next);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use rcgen::KeyPair;
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::CertifiedKey;

    use crate::policy::Allow;
    use crate::policy::limit::{Budgets, Exception, Limits, Share};
    use crate::policy::list::{Entry, List};
    use crate::policy::request::{Host, Kind, Scheme};
    use crate::policy::route::{HostPattern, PathPattern};
    use crate::policy::rule::RuleLines;
    use crate::snapshot::route::{BackendAddress, PlainHttp, RouteTimeouts};

    /// The policy `chat`: it admits every client but those of `denied`, and has these limits;
    /// `used` is what is left of them.
    pub fn policy(denied: &[&str], limits: &Limits, used: Option<&Budgets>) -> Policy {
        Policy {
            name: "chat".into(),
            file: "policies/chat.toml".into(),
            owner: None,
            allow: Allow::Any,
            deny: vec![list(denied)],
            origins: None,
            subprotocols: None,
            limits: limits.clone(),
            budgets: Budgets::carry(used, limits),
            lines: RuleLines::default(),
            candidate: None,
        }
    }

    /// A generation with one route, `chat`, for every path at `localhost`.
    pub fn generation(generation: u64, policy: Policy, baseline: Option<Policy>) -> Snapshot {
        let policy = Arc::new(policy);
        let route = route("chat", "/", &policy);
        let host = HostPattern::Exact("localhost".into());
        let table = vec![(host, PathPattern::parse("/").unwrap(), Arc::clone(&route))];
        Snapshot {
            generation,
            digest: "".into(),
            listeners: HashMap::new(),
            certificates: Arc::new(Certificates::new(Vec::new())),
            routes: Routes::new(table).unwrap(),
            route_list: vec![route],
            numbered: 1,
            policies: HashMap::from([(Arc::clone(&policy.name), policy)]),
            baseline: baseline.map(Arc::new),
        }
    }

    /// A route to one backend.
    pub fn route(name: &str, path: &str, policy: &Arc<Policy>) -> Arc<Route> {
        Arc::new(Route {
            number: 0,
            name: name.into(),
            path: path.into(),
            backends: [BackendAddress::Unix("app.sock".into())].into(),
            backend_tls: None,
            policy: Arc::clone(policy),
            http: PlainHttp::Refuse,
            strip_prefix: false,
            paths: Paths::Canonical,
            max_body: Some(0),
            max_fields: listener::MAX_FIELDS,
            timeouts: RouteTimeouts::default(),
        })
    }

    /// An attempt at `host`.
    pub fn request(host: &str) -> Request {
        let kind = Kind::Attempt { subprotocols: [].into() };
        let host = Host::parse(host.as_bytes()).unwrap();
        Request { host, path: "/".into(), origin: None, kind, scheme: Scheme::Unknown }
    }

    /// 192.0.2.`host`
    pub fn client(host: u8) -> Client {
        Client::new([192, 0, 2, host].into())
    }

    fn list(lines: &[&str]) -> Arc<List> {
        let entries = lines
            .iter()
            .zip(1..)
            .map(|(line, number)| (Entry::parse(line).unwrap().unwrap(), number));
        Arc::new(List::new("banned", "banned", entries.collect()).unwrap())
    }

    fn baseline(denied: &[&str]) -> Option<Policy> {
        Some(Policy {
            name: "baseline".into(),
            file: "policies/baseline.toml".into(),
            ..policy(denied, &Limits::default(), None)
        })
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        let key = PrivateKeyDer::try_from(KeyPair::generate().unwrap().serialize_der()).unwrap();
        let key = Arc::new(CertifiedKey::new(Vec::new(), any_supported_type(&key).unwrap()));
        let names = names.iter().map(|name| (*name).into()).collect();
        Arc::new(Certificate {
            label: "".into(),
            key_file: "".into(),
            names,
            not_after: Timestamp::MAX,
            key,
        })
    }

    /// The verdict on 192.0.2.`host` with the request `asked`: the refusal, the policy that gives
    /// it, and the route.
    fn said(
        snapshot: &Snapshot,
        host: u8,
        asked: &str,
        served: Option<&Certificate>,
    ) -> (&'static str, String, bool) {
        let judgement =
            snapshot.judge(client(host), &request(asked), served, Timestamp::UNIX_EPOCH);
        let word = judgement.verdict.map_or_else(Refusal::word, |_| "");
        (
            word,
            judgement.policy.map(|policy| policy.name.to_string()).unwrap_or_default(),
            judgement.route.is_some(),
        )
    }

    #[test]
    fn the_baseline_denies_before_any_policy_and_before_it_is_known_that_no_route_leads_there() {
        let snapshot = generation(
            1,
            policy(&["192.0.2.2"], &Limits::default(), None),
            baseline(&["192.0.2.1", "192.0.2.2"]),
        );
        assert_eq!(said(&snapshot, 1, "localhost", None), ("network", "baseline".into(), true));
        assert_eq!(said(&snapshot, 2, "localhost", None), ("network", "baseline".into(), true));
        assert_eq!(said(&snapshot, 1, "elsewhere", None), ("network", "baseline".into(), false));
        assert_eq!(said(&snapshot, 3, "elsewhere", None), ("route", String::new(), false));
        assert_eq!(said(&snapshot, 3, "localhost", None), ("", "chat".into(), true));
    }

    #[test]
    fn what_is_misdirected_is_so_whoever_asks() {
        let mut snapshot =
            generation(1, policy(&[], &Limits::default(), None), baseline(&["192.0.2.1"]));
        let (here, there) = (certificate(&["localhost"]), certificate(&["elsewhere"]));
        snapshot.certificates =
            Arc::new(Certificates::new(vec![Arc::clone(&here), Arc::clone(&there)]));
        assert_eq!(said(&snapshot, 1, "localhost", Some(&there)).0, "misdirected");
        assert_eq!(said(&snapshot, 1, "localhost", Some(&here)).0, "network");
    }

    /// The verdict of the policy `chat`, whose candidate denies 192.0.2.1, and the verdict of that
    /// candidate.
    fn beside(host: u8, promoted: Option<&str>) -> (bool, Option<bool>, usize) {
        let candidate = policy(&["192.0.2.1", "192.0.2.3"], &Limits::default(), None);
        let policy = Policy {
            candidate: Some(Arc::new(candidate)),
            ..policy(&["192.0.2.2"], &Limits::default(), None)
        };
        let snapshot = generation(1, policy, baseline(&["192.0.2.9"]));
        let judgement = snapshot.judge_by(
            client(host),
            &request("localhost"),
            None,
            Timestamp::UNIX_EPOCH,
            promoted,
        );
        let denies = judgement.policy.unwrap().deny[0].len();
        (judgement.verdict.is_ok(), judgement.candidate.map(|says| says.is_ok()), denies)
    }

    #[test]
    fn a_candidate_is_asked_beside_its_policy_and_decides_nothing() {
        assert_eq!(beside(1, None), (true, Some(false), 1));
        assert_eq!(beside(2, None), (false, Some(true), 1));
        assert_eq!(beside(4, None), (true, Some(true), 1));
        assert_eq!(
            beside(9, None),
            (false, None, 1),
            "of whom the baseline denies nobody else is asked"
        );
    }

    #[test]
    fn promoted_a_candidate_decides_and_nobody_is_beside_it() {
        assert_eq!(beside(1, Some("chat")), (false, None, 2));
        assert_eq!(beside(2, Some("chat")), (true, None, 2));
        assert_eq!(beside(1, Some("desk")), (true, Some(false), 1), "another policy's");
    }

    #[test]
    fn the_next_expiry_is_that_of_any_rule_limit_candidate_or_baseline() {
        let clients = vec![list(&["192.0.2.4 expires=2026-04-01T00:00:00Z"])];
        let exception = Exception { clients, share: Share::default(), line: 1 };
        let limits = Limits { exceptions: [exception].into(), ..Limits::default() };
        let candidate =
            policy(&["192.0.2.3 expires=2026-03-01T00:00:00Z"], &Limits::default(), None);
        let policy =
            policy(&["192.0.2.2 expires=2026-02-01T00:00:00Z", "192.0.2.8"], &limits, None);
        let policy = Policy { candidate: Some(Arc::new(candidate)), ..policy };
        let snapshot = generation(1, policy, baseline(&["192.0.2.1 expires=2026-01-01T00:00:00Z"]));
        let mut now = time("2025-12-31T23:59:59Z");
        for month in 1..=4 {
            let next = snapshot.next_expiry(now).unwrap();
            assert_eq!(next, time(&format!("2026-0{month}-01T00:00:00Z")));
            now = next;
        }
        assert_eq!(snapshot.next_expiry(now), None);
    }
}
