//! From values to a snapshot that has passed its tests.
//!
//! A generation names limits. How far they are used is kept apart (`tunnels/budget`), so that a
//! reload refills no budget.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::overlay::Overlay;
use crate::control::config::source::{Digest, Files};
use crate::control::config::{
    self, BackendTlsSettings, LoadOptions, LoadedConfig, PolicySettings, RouteSettings, Settings,
};
use crate::control::dropped_tests::{DroppedTest, dropped_tests};
use crate::control::guards::Guards;
use crate::control::overrides::{Overrides, TestOverride};
use crate::control::policy_tests::{AllowTest, PolicyTests, TestResults, run_tests};
use crate::policy::Policy;
use crate::policy::route::Routes;
use crate::policy::subject::Ingress;
use crate::snapshot::certificate::Certificates;
use crate::snapshot::listener::{Listener, Protocol};
use crate::snapshot::names::Names;
use crate::snapshot::route::{Backend, Route};
use crate::snapshot::tls::{
    BackendTls, BackendTlsOptions, ListenerClientAuth, ListenerTls, TicketKeys,
};
use crate::snapshot::{ListenerRules, Snapshot};

/// One generation, compiled; the policies' own tests were run.
pub struct CompiledGeneration {
    /// The snapshot to publish.
    pub snapshot: Snapshot,
    /// The values of `sidegate.toml`.
    pub settings: Settings,
    /// Warnings, those of the policies' own tests included.
    pub warnings: Vec<Diagnostic>,
    /// What the files check of themselves.
    pub guards: Guards,
    /// The tests that promotions of the candidates would drop.
    pub dropped_tests: Vec<DroppedTest>,
    /// The tests that a ban must not make fail.
    pub allow_tests: Vec<AllowTest>,
    /// The failed tests that are overridden.
    pub overridden: Vec<TestOverride>,
}

/// Compiles `loaded`, read from the files that `config` names, as the generation after `before`,
/// and runs the policies' own tests against it.
///
/// # Errors
/// Failed tests that are not in `overrides`; errors from rustls.
pub fn build(
    loaded: LoadedConfig,
    config: &Path,
    digest: &str,
    before: Option<&Snapshot>,
    tickets: &TicketKeys,
    overrides: &Overrides,
) -> Result<CompiledGeneration, Vec<Diagnostic>> {
    let mut built = assemble(loaded, config, digest, before, tickets)?;
    let tests = &built.guards.tests;
    let TestResults { found, overridden } = run_tests(&built.snapshot, tests, overrides);
    let (errors, more): (Vec<_>, Vec<_>) = found.into_iter().partition(Diagnostic::is_error);
    built.warnings.extend(more);
    built.overridden = overridden;
    if errors.is_empty() { Ok(built) } else { Err(errors) }
}

/// Compiles the files that `config` names, outside an agent, with the facts in `options`. The
/// policies' own tests are not run.
///
/// # Errors
/// Every error in the files, those tests excepted.
pub fn compile_untested(
    config: &Path,
    options: LoadOptions<'_>,
) -> Result<CompiledGeneration, Vec<Diagnostic>> {
    let mut files = Files::for_person();
    let loaded = config::load_with(&mut files, config, options)?;
    assemble(loaded, config, &files.digest().to_string(), None, &TicketKeys::unused())
}

/// Digests that identify the files of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The digest of all files, equal to that of the generation made from them.
    pub all: String,
    /// The digest of the promoted policy, as the candidate's file or as the policy's. `None` means
    /// that the load read no such file.
    policy: Option<Digest>,
}

impl Fingerprint {
    /// Whether the promoted policy has the same text as that of `other`. Unknown counts as no.
    pub fn is_of_same_policy(&self, other: &Fingerprint) -> bool {
        self.policy.is_some() && self.policy == other.policy
    }
}

/// Fingerprint of the files that `config` names, with the candidate of `promoted_fingerprint` in
/// the policy's place. Runs the policies' own tests.
///
/// # Errors
/// Every error in the files.
pub fn promoted_fingerprint(config: &Path, promoted: &str) -> Result<Fingerprint, Vec<Diagnostic>> {
    let mut files = Files::for_person();
    let loaded = config::load_with(
        &mut files,
        config,
        LoadOptions { promoted: Some(promoted), ..LoadOptions::default() },
    )?;
    let fingerprint = fingerprint(&files, config, &format!("{promoted}.shadow.toml"));
    let tickets = TicketKeys::unused();
    build(loaded, config, &fingerprint.all, None, &tickets, &Overrides::default())?;
    Ok(fingerprint)
}

/// Checks the files that `config` names as a start would, with the texts of `overlay` in place of
/// files.
///
/// # Errors
/// Every error in the files.
pub fn check_overlay(
    config: &Path,
    overlay: Overlay,
) -> Result<CompiledGeneration, Vec<Diagnostic>> {
    let mut files = Files::for_person().with_overlay(Arc::new(overlay));
    let loaded = config::load(&mut files, config, None)?;
    let (digest, tickets) = (files.digest().to_string(), TicketKeys::unused());
    build(loaded, config, &digest, None, &tickets, &Overrides::default())
}

/// The tests of the policy `name` that its candidate lacks, and the fingerprint of the files that
/// were compared.
///
/// # Errors
/// Every error in the files.
pub fn candidate_tests(
    config: &Path,
    name: &str,
) -> Result<(Vec<Diagnostic>, Fingerprint), Vec<Diagnostic>> {
    let mut files = Files::for_person();
    let loaded = config::load(&mut files, config, None)?;
    let dropped = dropped_tests(&loaded).into_iter().filter(|test| *test.policy == *name);
    let fingerprint = fingerprint(&files, config, &format!("{name}.shadow.toml"));
    Ok((dropped.map(|test| test.diagnostic).collect(), fingerprint))
}

/// Fingerprint of the files that `config` names, after `promoted` has replaced its
/// policy. Does not run the tests again.
///
/// # Errors
/// Every error in the files.
pub fn placed_fingerprint(config: &Path, promoted: &str) -> Result<Fingerprint, Vec<Diagnostic>> {
    let mut files = Files::for_person();
    config::load(&mut files, config, None)?;
    Ok(fingerprint(&files, config, &format!("{promoted}.toml")))
}

fn fingerprint(files: &Files, config: &Path, policy: &str) -> Fingerprint {
    let path = config.parent().unwrap_or(Path::new("")).join(config::POLICIES).join(policy);
    Fingerprint { all: files.digest().to_string(), policy: files.digest_of(&path) }
}

/// Fresh keys for TLS tickets. `config` is only named in the error.
///
/// # Errors
/// The machine has no randomness.
pub fn fresh_tickets(config: &Path) -> Result<TicketKeys, Vec<Diagnostic>> {
    TicketKeys::new().map_err(|error| {
        vec![Diagnostic::for_file(config, format!("no keys for TLS tickets: {error}"), None)]
    })
}

fn assemble(
    mut loaded: LoadedConfig,
    config: &Path,
    digest: &str,
    before: Option<&Snapshot>,
    tickets: &TicketKeys,
) -> Result<CompiledGeneration, Vec<Diagnostic>> {
    let dropped_tests = dropped_tests(&loaded);
    let tests = PolicyTests::all(&mut loaded);
    let LoadedConfig { settings, mut baseline, mut policies, candidates, lists: _, warnings } =
        loaded;
    let mut feeds = Vec::new();
    for page in policies.iter_mut().chain(&mut baseline) {
        feeds.extend(
            std::mem::take(&mut page.feeds).into_iter().map(|feed| (Arc::clone(&page.name), feed)),
        );
    }
    let pages = PolicySet { policies, candidates, baseline };
    let snapshot = compile(&settings, pages, digest, before, tickets);
    let snapshot = snapshot.map_err(|what| vec![Diagnostic::for_file(config, what, None)])?;
    let allow_tests = AllowTest::all(&tests);
    Ok(CompiledGeneration {
        snapshot,
        settings,
        warnings,
        guards: Guards { feeds, tests },
        dropped_tests,
        allow_tests,
        overridden: Vec::new(),
    })
}

/// The policies of one generation.
struct PolicySet {
    policies: Vec<PolicySettings>,
    /// Candidates, each under the name of the policy that it may replace.
    candidates: Vec<PolicySettings>,
    baseline: Option<PolicySettings>,
}

/// Pure, except for the keys of fresh tickets. Fails with the error of rustls for a TLS listener or
/// for backends over TLS, which no file can cause by itself.
fn compile(
    settings: &Settings,
    pages: PolicySet,
    digest: &str,
    before: Option<&Snapshot>,
    tickets: &TicketKeys,
) -> Result<Snapshot, String> {
    let policies = policies(pages.policies, pages.candidates);
    let mut numbers = RouteNumbers::from_previous(before);
    let mut backends = BackendState::from_previous(before);
    let mut table = Vec::new();
    let mut route_list = Vec::new();
    for page in &settings.routes {
        let policy = policies
            .get(&page.policy)
            .ok_or_else(|| format!("route `{}` has no policy `{}`", page.name, page.policy))?;
        let route = route(page, numbers.assign(&page.name), Arc::clone(policy), &mut backends);
        let route = Arc::new(route.map_err(|error| format!("route `{}`: {error}", page.name))?);
        route_list.push(Arc::clone(&route));
        table.push((page.host.clone(), page.path.clone(), route));
    }
    let routes = Routes::new(table)
        .map_err(|twins| format!("routes {} and {} are equal", twins.first, twins.second))?;
    let certificates = Certificates::new(settings.certificates.clone());
    let certificates = Arc::new(certificates.partial(settings.lacks_chain));
    let listeners = settings
        .listeners
        .iter()
        .map(|one| Ok((Arc::clone(&one.name), listener(one, &certificates, tickets, before)?)));
    Ok(Snapshot {
        generation: before.map_or(1, |before| before.generation + 1),
        digest: digest.into(),
        listeners: listeners.collect::<Result<_, String>>()?,
        certificates,
        routes,
        names_clients: route_list.iter().any(|route| route.proxy_protocol),
        route_list,
        names: backends.names,
        numbered: numbers.given,
        policies,
        baseline: pages.baseline.map(|page| Arc::new(policy(page, None))),
        traces: settings.traces.rules,
        bans: before.map_or_else(Arc::default, |before| Arc::clone(&before.bans)),
    })
}

/// The policies by name, each with its candidate.
fn policies(
    pages: Vec<PolicySettings>,
    candidates: Vec<PolicySettings>,
) -> HashMap<Arc<str>, Arc<Policy>> {
    let candidates = candidates.into_iter();
    let candidates = candidates.map(|page| (Arc::clone(&page.name), Arc::new(policy(page, None))));
    let mut candidates: HashMap<_, _> = candidates.collect();
    let policies = pages.into_iter().map(|page| {
        let candidate = candidates.remove(&page.name);
        (Arc::clone(&page.name), Arc::new(policy(page, candidate)))
    });
    policies.collect()
}

/// Assigns route numbers. A name keeps its number, and the number of a removed route is never
/// reused.
struct RouteNumbers<'s> {
    known: HashMap<&'s str, usize>,
    given: usize,
}

impl<'s> RouteNumbers<'s> {
    fn from_previous(before: Option<&'s Snapshot>) -> Self {
        let known = before
            .into_iter()
            .flat_map(|before| &before.route_list)
            .map(|route| (&*route.name, route.number));
        RouteNumbers { known: known.collect(), given: before.map_or(0, |before| before.numbered) }
    }

    fn assign(&mut self, name: &str) -> usize {
        self.known.get(name).copied().unwrap_or_else(|| {
            // Metrics keep a slot for each number, so a number that was reused would mix two
            // routes.
            self.given += 1;
            self.given - 1
        })
    }
}

/// What generations share of their backends: TLS configurations, and the addresses of names.
struct BackendState<'s> {
    tls: BackendTlsCache,
    names: Names,
    former: Option<&'s Names>,
}

impl<'s> BackendState<'s> {
    fn from_previous(before: Option<&'s Snapshot>) -> Self {
        let former = before.map(|before| &before.names);
        let tls = BackendTlsCache::from_previous(before);
        BackendState { tls, names: Names::after(former), former }
    }

    /// The backends of a route, each with the addresses that its name has already.
    fn backends(&mut self, page: &RouteSettings) -> Box<[Backend]> {
        let one = |address| self.names.backend(address, page.resolve, self.former);
        page.backends.iter().map(one).collect()
    }
}

/// TLS client configurations of backends, one for each set of options. Routes with equal options
/// share sessions and idle connections, which survive a reload that leaves the options unchanged.
struct BackendTlsCache(Vec<Arc<BackendTls>>);

impl BackendTlsCache {
    fn from_previous(before: Option<&Snapshot>) -> Self {
        BackendTlsCache(
            before
                .into_iter()
                .flat_map(|before| &before.route_list)
                .filter_map(|route| route.backend_tls.clone())
                .collect(),
        )
    }

    fn get(&mut self, page: &BackendTlsSettings) -> Result<Arc<BackendTls>, rustls::Error> {
        let identity = page.identity.as_ref().map(|identity| Arc::clone(&identity.key));
        let options =
            BackendTlsOptions { roots: Arc::clone(&page.roots), identity, name: page.name.clone() };
        // The same object and not an equal one: sessions and the pool go by its identity.
        if let Some(known) = self.0.iter().find(|known| known.has_options(&options)) {
            return Ok(Arc::clone(known));
        }
        let new = Arc::new(BackendTls::new(options)?);
        self.0.push(Arc::clone(&new));
        Ok(new)
    }
}

fn policy(page: PolicySettings, candidate: Option<Arc<Policy>>) -> Policy {
    Policy { candidate, ..page.policy }
}

fn route(
    page: &RouteSettings,
    number: usize,
    policy: Arc<Policy>,
    backends: &mut BackendState<'_>,
) -> Result<Route, rustls::Error> {
    Ok(Route {
        number,
        name: Arc::clone(&page.name),
        path: page.path.to_string().into(),
        backends: backends.backends(page),
        backend_tls: page.backend_tls.as_ref().map(|page| backends.tls.get(page)).transpose()?,
        proxy_protocol: page.proxy_protocol,
        client_certificate: page.client_certificate,
        policy,
        http: page.http,
        refuse: page.refuse,
        strip_prefix: page.strip_prefix,
        paths: page.paths,
        max_body: page.max_body,
        max_fields: page.max_fields,
        timeouts: page.timeouts,
    })
}

fn listener(
    listener: &Arc<Listener>,
    certificates: &Arc<Certificates>,
    tickets: &TicketKeys,
    before: Option<&Snapshot>,
) -> Result<ListenerRules, String> {
    let fault = |error: String| format!("listener `{}`: {error}", listener.name);
    let former = before.and_then(|before| before.listeners.get(&listener.name));
    let former = former.and_then(|former| former.tls.as_deref());
    let client_auth = listener.client_certificates.as_ref();
    let tls = match listener.protocol {
        Protocol::Tls(rules) => {
            let auth =
                client_auth.map(|client| ListenerClientAuth::new(&client.options, former, tickets));
            let auth = auth.transpose().map_err(fault)?;
            let tls = ListenerTls::new(rules, Arc::clone(certificates), tickets, auth);
            Some(Arc::new(tls.map_err(|error| fault(error.to_string()))?))
        }
        Protocol::Plain | Protocol::Redirect(_) => None,
    };
    let ingress = Ingress {
        listener: Arc::clone(&listener.name),
        named_by: None,
        certificate: None,
        verified_by: 0.into(),
    };
    Ok(ListenerRules { listener: Arc::clone(listener), tls, ingress: Arc::new(ingress) })
}
