//! Everything compiled from the files of one generation, and the verdict it gives.
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
    pub tls: Option<Arc<Handshakes>>,
    /// What is left of `handshakes_per_client`. `None` means unlimited.
    pub handshakes: Option<Arc<Limiter>>,
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
    /// Why the path is refused. `None` where it is not, or where the verdict has another reason.
    pub ambiguity: Option<Ambiguity>,
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

    /// Whether the route takes `request`, which was permitted, as what it is: an attempt, or plain
    /// HTTP that it forwards. The policy comes first, so that 403 hides what a route forwards.
    ///
    /// # Errors
    /// The refusal of plain HTTP on a route that forwards none.
    pub fn forwards(&self, request: &Request) -> Result<(), Refusal> {
        match self.route.http {
            PlainHttp::Refuse if request.is_plain() => Err(Refusal::Plain),
            PlainHttp::Refuse | PlainHttp::Forward => Ok(()),
        }
    }
}

impl Snapshot {
    /// Judges one request at the time `now`. `served` is the certificate that the
    /// client's TLS handshake got; `None` on a plain listener, and when an open
    /// tunnel is judged again (it has a connection of its own by then).
    pub fn judge(
        &self,
        client: Client,
        request: &Request,
        served: Option<&Certificate>,
        now: Timestamp,
    ) -> Judgement {
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

    /// The route for `request`. The path as it was sent leads to no route but one that passes paths as
    /// they are, and that comes first: dot segments don't lead out of it.
    fn route_to(&self, request: &Request) -> Option<&Arc<Route>> {
        let find = |path: &str| self.routes.find(request.host.name(), path);
        let (canonical, sent) = (request.path.canonical(), request.path.sent());
        if canonical == Some(sent) {
            return find(sent);
        }
        let as_is = find(sent).filter(|route| route.paths == Paths::AsIs);
        as_is.or_else(|| canonical.and_then(find))
    }

    /// `request`, if it is plain HTTP, with the slash behind its path that alone leads to a route:
    /// `path = "/app/"` also answers `/app`, by sending the client to `/app/`. An attempt is sent
    /// nowhere: browsers follow no redirect of a WebSocket (RFC 6455 §4.1).
    pub fn slashed(&self, request: &Request) -> Option<Request> {
        if request.is_attempt() { None } else { self.lacking_slash(request) }
    }

    /// `request` with a slash behind its canonical path, if it leads to a route so, and not as it is.
    pub fn lacking_slash(&self, request: &Request) -> Option<Request> {
        let path = request.path.canonical().filter(|path| !path.ends_with('/'))?;
        let slashed =
            Request { path: RequestPath::read(&format!("{path}/")).ok()?, ..request.clone() };
        let leads = |request: &Request| self.route_to(request).is_some();
        (leads(&slashed) && !leads(request)).then_some(slashed)
    }

    /// The baseline, if it denies `client` at the time `now`: whatever is asked, and before anything is.
    pub fn denied(&self, client: Client, now: Timestamp) -> Option<&Arc<Policy>> {
        self.baseline.as_ref().filter(|baseline| baseline.judge_network(client, now).is_err())
    }

    /// When the next entry of any policy lapses after `now`.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.all_policies().filter_map(|policy| policy.next_expiry(now)).min()
    }

    /// Whether an entry that the verdict of `permit` may rest on has lapsed since, up to `now`.
    pub fn has_lapse(&self, permit: &Permit, now: Timestamp) -> bool {
        let policies = [Some(&permit.route.policy), self.baseline.as_ref()].into_iter().flatten();
        let mut next = policies.filter_map(|policy| policy.next_expiry(permit.at));
        next.any(|lapses| lapses <= now)
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

    /// The policy `chat`: it admits everyone but whom `denied` holds, and has these limits; `used` is what is left of them.
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

    /// What is said of 192.0.2.`host` that asks for `asked`: the refusal, the policy that says it, and the route.
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

    /// What the policy `chat`, the candidate of which denies 192.0.2.1, says, and what its candidate says beside it.
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
