//! Verdicts of whole generations, and the generations of other modules' tests.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use crate::policy::certificate::ClientCertificate;
use crate::policy::limit::{ClientLimits, ExceptionScope, LimitException, Limits};
use crate::policy::list::{List, ListEntry};
use crate::policy::network::Client;
use crate::policy::request::{Host, Request, RequestType, Scheme};
use crate::policy::route::{HostPattern, PathPattern, Routes};
use crate::policy::rule::RuleLines;
use crate::policy::subject::{Ingress, Subject};
use crate::policy::{AllowRule, Policy};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::certificate::{Certificate, Certificates, ServedCertificate};
use crate::snapshot::listener;
use crate::snapshot::names::Names;
use crate::snapshot::route::{
    Backend, BackendAddress, PathForwarding, PlainHttp, RefusalForm, Route, RouteTimeouts,
    SentCertificate,
};
use crate::trace_context::TraceRules;

/// The policy `chat`: it admits every client but those of `denied`, and has these limits.
pub fn policy(denied: &[&str], limits: &Limits) -> Policy {
    Policy {
        name: "chat".into(),
        file: "policies/chat.toml".into(),
        owner: None,
        allow: AllowRule::Any,
        deny: vec![list(denied)],
        origins: None,
        subprotocols: None,
        certificate: None,
        limits: limits.clone(),
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
        names: Names::default(),
        names_clients: false,
        numbered: 1,
        policies: HashMap::from([(Arc::clone(&policy.name), policy)]),
        baseline: baseline.map(Arc::new),
        traces: TraceRules::default(),
        bans: Arc::default(),
    }
}

/// A route to one backend.
pub fn route(name: &str, path: &str, policy: &Arc<Policy>) -> Arc<Route> {
    Arc::new(Route {
        number: 0,
        name: name.into(),
        path: path.into(),
        backends: [Backend { address: BackendAddress::Unix("app.sock".into()), name: None }].into(),
        backend_tls: None,
        proxy_protocol: false,
        client_certificate: SentCertificate::Off,
        policy: Arc::clone(policy),
        http: PlainHttp::Refuse,
        refuse: RefusalForm::Answer,
        strip_prefix: false,
        paths: PathForwarding::Canonical,
        max_body: Some(0),
        max_fields: listener::DEFAULT_MAX_FIELDS,
        timeouts: RouteTimeouts::default(),
    })
}

/// An attempt at `host`.
pub fn request(host: &str) -> Request {
    let kind = RequestType::Attempt { subprotocols: [].into() };
    let host = Host::parse(host.as_bytes()).unwrap();
    let scheme = Scheme::Unknown;
    Request { host, path: "/".into(), origin: None, kind, scheme, reported_host: None }
}

/// 192.0.2.`host`
pub fn client(host: u8) -> Client {
    Client::new([192, 0, 2, host].into())
}

fn list(lines: &[&str]) -> Arc<List> {
    let entries = lines
        .iter()
        .zip(1..)
        .map(|(line, number)| (ListEntry::parse(line).unwrap().unwrap(), number));
    Arc::new(List::new("banned", "banned", entries.collect()).unwrap())
}

fn baseline(denied: &[&str]) -> Option<Policy> {
    Some(Policy {
        name: "baseline".into(),
        file: "policies/baseline.toml".into(),
        ..policy(denied, &Limits::default())
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
fn verdict_of(
    snapshot: &Snapshot,
    host: u8,
    asked: &str,
    served: Option<&ServedCertificate>,
) -> (&'static str, String, bool) {
    let judgement =
        snapshot.judge(&client(host).into(), &request(asked), served, Timestamp::UNIX_EPOCH);
    let word = judgement.verdict.map_or_else(Refusal::word, |_| "");
    (
        word,
        judgement.policy.map(|policy| policy.name.to_string()).unwrap_or_default(),
        judgement.route.is_some(),
    )
}

#[test]
fn baseline_denies_before_policies_and_before_routing() {
    let snapshot = generation(
        1,
        policy(&["192.0.2.2"], &Limits::default()),
        baseline(&["192.0.2.1", "192.0.2.2"]),
    );
    assert_eq!(verdict_of(&snapshot, 1, "localhost", None), ("network", "baseline".into(), true));
    assert_eq!(verdict_of(&snapshot, 2, "localhost", None), ("network", "baseline".into(), true));
    assert_eq!(verdict_of(&snapshot, 1, "elsewhere", None), ("network", "baseline".into(), false));
    assert_eq!(verdict_of(&snapshot, 3, "elsewhere", None), ("route", String::new(), false));
    assert_eq!(verdict_of(&snapshot, 3, "localhost", None), ("", "chat".into(), true));
}

/// The outcome of a TLS handshake that got `certificate`, for a name that none covers, if any.
fn served(certificate: &Arc<Certificate>, uncovered_name: Option<&str>) -> ServedCertificate {
    let uncovered_name = uncovered_name.map(Box::from);
    ServedCertificate { certificate: Arc::clone(certificate), uncovered_name }
}

#[test]
fn misdirected_is_decided_before_the_client() {
    let mut snapshot = generation(1, policy(&[], &Limits::default()), baseline(&["192.0.2.1"]));
    let (here, there) = (certificate(&["localhost"]), certificate(&["elsewhere"]));
    snapshot.certificates =
        Arc::new(Certificates::new(vec![Arc::clone(&here), Arc::clone(&there)]));
    let verdict = |served: Option<ServedCertificate>| {
        verdict_of(&snapshot, 1, "localhost", served.as_ref()).0
    };
    assert_eq!(verdict(Some(served(&there, None))), "misdirected");
    assert_eq!(verdict(Some(served(&here, None))), "network");
    assert_eq!(verdict(None), "network", "no server name contradicts nothing");
}

#[test]
fn server_name_that_equals_the_host_never_misdirects() {
    let mut snapshot = generation(1, policy(&[], &Limits::default()), None);
    let (default, later) = (certificate(&["elsewhere"]), certificate(&["localhost"]));
    // The certificate for localhost came with a reload, after the handshake.
    snapshot.certificates = Arc::new(Certificates::new(vec![Arc::clone(&default), later]));
    let verdict = |name| verdict_of(&snapshot, 1, "localhost", Some(&served(&default, name))).0;
    assert_eq!(verdict(Some("localhost")), "");
    assert_eq!(verdict(Some("unknown")), "misdirected");
    assert_eq!(verdict(None), "misdirected");
}

/// The verdict of the policy `chat`, whose candidate denies 192.0.2.1, and the verdict of that
/// candidate.
fn beside(host: u8, promoted: Option<&str>) -> (bool, Option<bool>, usize) {
    let candidate = policy(&["192.0.2.1", "192.0.2.3"], &Limits::default());
    let policy = Policy {
        candidate: Some(Arc::new(candidate)),
        ..policy(&["192.0.2.2"], &Limits::default())
    };
    let snapshot = generation(1, policy, baseline(&["192.0.2.9"]));
    let judgement = snapshot.judge_by(
        &client(host).into(),
        &request("localhost"),
        None,
        Timestamp::UNIX_EPOCH,
        promoted,
    );
    let denies = judgement.policy.unwrap().deny[0].len();
    (judgement.verdict.is_ok(), judgement.candidate.map(|says| says.is_ok()), denies)
}

#[test]
fn candidate_is_judged_and_decides_nothing() {
    assert_eq!(beside(1, None), (true, Some(false), 1));
    assert_eq!(beside(2, None), (false, Some(true), 1));
    assert_eq!(beside(4, None), (true, Some(true), 1));
    assert_eq!(
        beside(9, None),
        (false, None, 1),
        "no later rule judges a client that the baseline denies"
    );
}

#[test]
fn promoted_candidate_decides_alone() {
    assert_eq!(beside(1, Some("chat")), (false, None, 2));
    assert_eq!(beside(2, Some("chat")), (true, None, 2));
    assert_eq!(beside(1, Some("desk")), (true, Some(false), 1), "another policy's");
}

#[test]
fn permit_has_no_certificate_that_no_listener_verifies() {
    let certificate = Arc::new(ClientCertificate::named("spiffe://a/1").unwrap());
    let ingress = Ingress {
        listener: "public".into(),
        named_by: None,
        certificate: Some(Arc::clone(&certificate)),
        verified_by: 0.into(),
    };
    let shown = Subject::new(client(1)).with_certificate(certificate);
    let on_connection = Subject { ingress: Some(ingress.into()), ..shown.clone() };
    let snapshot = generation(1, policy(&[], &Limits::default()), None);
    let known = |subject: &Subject| {
        let judged = snapshot.judge(subject, &request("localhost"), None, Timestamp::now());
        judged.verdict.unwrap().subject().certificate().is_some()
    };
    assert!(known(&shown), "that of a test");
    assert!(!known(&on_connection), "limits must not count by it");
}

#[test]
fn next_expiry_covers_rules_limits_candidate_and_baseline() {
    let clients = vec![list(&["192.0.2.4 expires=2026-04-01T00:00:00Z"])];
    let scope = ExceptionScope::Clients(clients);
    let exception = LimitException { scope, share: ClientLimits::default(), line: 1 };
    let limits = Limits { exceptions: [exception].into(), ..Limits::default() };
    let candidate = policy(&["192.0.2.3 expires=2026-03-01T00:00:00Z"], &Limits::default());
    let policy = policy(&["192.0.2.2 expires=2026-02-01T00:00:00Z", "192.0.2.8"], &limits);
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
