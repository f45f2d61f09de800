//! The verdict of a generation on one request, and the permit that proves it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::ban::Ban;
use crate::policy::request::{Request, RequestPath};
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::ambiguity::Ambiguity;
use crate::snapshot::certificate::ServedCertificate;
use crate::snapshot::generation::Snapshot;
use crate::snapshot::route::{PathForwarding, Route};

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
    /// The ban that refuses the request. `None` means that no ban does.
    pub ban: Option<Arc<Ban>>,
    /// Version of the bans that the verdict takes into account.
    pub bans: u64,
}

/// Proof that a request was judged and permitted. Only [`Snapshot::judge`] creates one; dialling a
/// backend and entering the table of tunnels require it.
#[derive(Debug)]
pub struct Permit {
    route: Arc<Route>,
    subject: Subject,
    generation: u64,
    bans: u64,
    at: Timestamp,
}

impl Permit {
    /// The route that leads to the backend.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The client that was judged, with its credentials.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The generation that gave the permit.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Version of the bans that the permit takes into account.
    pub fn bans(&self) -> u64 {
        self.bans
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
        self.route.forwards(request)
    }
}

impl Judgement {
    /// Returns the judgement with [`Refusal::Plain`] where the policy permits `request`, but its
    /// route does not forward it. The candidate's verdict changes with it.
    pub fn of_forwarded(mut self, request: &Request) -> Judgement {
        let refused = self.route.as_ref().and_then(|route| route.forwards(request).err());
        if let Some(refusal) = refused {
            self.verdict = self.verdict.and(Err(refusal));
            self.candidate = self.candidate.map(|verdict| verdict.and(Err(refusal)));
        }
        self
    }
}

impl Snapshot {
    /// Judges one request at the time `now`. `served` is the certificate of the client's TLS
    /// handshake. It is `None` on a plain listener, where the ClientHello had no server name, and
    /// when an open tunnel is judged again (which by then has its connection to itself).
    pub fn judge(
        &self,
        subject: &Subject,
        request: &Request,
        served: Option<&ServedCertificate>,
        now: Timestamp,
    ) -> Judgement {
        // Read before the set: a swap in between leads to another look, never to a missed ban.
        let bans = self.bans.version();
        let ban = self.bans.find(subject, now);
        let judgement = match ban {
            Some(_) => self.refused(self.route_to(request), None, Refusal::Banned),
            None => self.judge_by(subject, request, served, now, None),
        };
        let verdict = judgement.verdict.map(|permit| Permit { bans, ..permit });
        Judgement { verdict, ban, bans, ..judgement }
    }

    /// Like [`Snapshot::judge`] without the bans, and with the candidate of the policy `promoted`,
    /// if any, in that policy's place.
    pub fn judge_by(
        &self,
        subject: &Subject,
        request: &Request,
        served: Option<&ServedCertificate>,
        now: Timestamp,
        promoted: Option<&str>,
    ) -> Judgement {
        let refused = |route, policy, refusal| self.refused(route, policy, refusal);
        let host = request.host.name();
        let route = self.route_to(request);
        let denied = self.denying_baseline(subject, now);
        // The order of the checks decides which reason wins: a client that the baseline denies does
        // not learn of its path.
        if route.is_none() && request.path.canonical().is_none() && denied.is_none() {
            return Judgement {
                ambiguity: Some(Ambiguity::HiddenSeparator),
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
        let policy = route.policy.as_promoted(promoted);
        let candidate = policy.candidate.as_ref();
        let known = self.recognise(subject, now);
        // The policy's own refusals come first: they say more.
        let judged = |policy: &Policy| match &known {
            Ok(known) => policy.judge(known, request, now),
            Err(refusal) => policy.judge(subject, request, now).and(Err(*refusal)),
        };
        Judgement {
            generation: self.generation,
            route: Some(Arc::clone(route)),
            policy: Some(Arc::clone(policy)),
            // Of the client as it is known now: limits must not count by a certificate that no
            // listener verifies any more.
            verdict: judged(policy).map(|()| {
                let known = known.as_deref().unwrap_or(subject);
                self.permit(route, known, now)
            }),
            // Judged whatever the policy decides: a candidate may also admit what the policy
            // refuses.
            candidate: candidate.map(|candidate| judged(candidate)),
            ambiguity: None,
            ban: None,
            bans: 0,
        }
    }

    /// The judgement of a request that is refused before its route's policy judges it.
    fn refused(
        &self,
        route: Option<&Arc<Route>>,
        policy: Option<&Arc<Policy>>,
        refusal: Refusal,
    ) -> Judgement {
        Judgement {
            generation: self.generation,
            route: route.cloned(),
            policy: policy.cloned(),
            verdict: Err(refusal),
            candidate: None,
            ambiguity: None,
            ban: None,
            bans: 0,
        }
    }

    fn permit(&self, route: &Arc<Route>, subject: &Subject, at: Timestamp) -> Permit {
        let (route, generation) = (Arc::clone(route), self.generation);
        Permit { route, subject: subject.clone(), generation, bans: 0, at }
    }

    /// Finds the route for `request`. A path that is not canonical leads, as sent, only to a route
    /// that forwards paths as sent. That route takes precedence: dot segments don't lead out of it.
    fn route_to(&self, request: &Request) -> Option<&Arc<Route>> {
        let find = |path: &str| self.routes.find(request.host.name(), path);
        let (canonical, sent) = (request.path.canonical(), request.path.sent());
        // The usual case, in which one look-up is enough.
        if canonical == Some(sent) {
            return find(sent);
        }
        let as_is = find(sent).filter(|route| route.paths == PathForwarding::AsIs);
        as_is.or_else(|| canonical.and_then(find))
    }

    /// Returns `request` with a slash after its path, if it is plain HTTP and only the slash leads
    /// to a route. `path = "/app/"` also answers `/app`, by redirecting the client to `/app/`. An
    /// attempt is not redirected: browsers follow no redirect of a WebSocket (RFC 6455 §4.1).
    pub fn with_slash(&self, request: &Request) -> Option<Request> {
        if request.is_attempt() { None } else { self.with_missing_slash(request) }
    }

    /// Returns `request` with a slash after its canonical path, if only that form leads to a route.
    pub fn with_missing_slash(&self, request: &Request) -> Option<Request> {
        let path = request.path.canonical().filter(|path| !path.ends_with('/'))?;
        let slashed =
            Request { path: RequestPath::read(&format!("{path}/")).ok()?, ..request.clone() };
        let leads = |request: &Request| self.route_to(request).is_some();
        (leads(&slashed) && !leads(request)).then_some(slashed)
    }

    /// Whether an entry on which the verdict of `permit` may rest has lapsed since then, up to
    /// `now`, or the bans have changed.
    pub fn has_lapse(&self, permit: &Permit, now: Timestamp) -> bool {
        if self.bans.version() != permit.bans {
            return true;
        }
        let policies = [Some(&permit.route.policy), self.baseline.as_ref()].into_iter().flatten();
        let mut next = policies.filter_map(|policy| policy.next_expiry(permit.at));
        next.any(|lapses| lapses <= now)
    }

    /// Whether the TLS handshake was made for another name than `host`, which another certificate
    /// covers (RFC 9110 §7.4).
    fn misdirects(&self, host: &str, served: &ServedCertificate) -> bool {
        // A name that no certificate covers is no misdirection: no other connection would serve it
        // better.
        !served.agrees_with(host) && self.certificates.covering(host).is_some()
    }
}
