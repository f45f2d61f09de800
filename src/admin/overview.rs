//! `GET /v1/overview`: what a screen about an incident shows.
//!
//! Every table is bounded, and a count beside it says how long it would be. This module reads the
//! state of others and changes nothing.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::admin::client_form::ClientForm;
use crate::admin::overview_clients::{OpenClients, refused_clients};
use crate::admin::state::AdminContext;
use crate::admin::wire::{
    BackendStatus, BanStatus, CandidateHits, CertificateStatus, DiagnosticReport, FilesState,
    HitClient, LapsingAnswer, LapsingEntry, LapsingRequest, LastReload, OverviewAnswer,
    OverviewRequest, ReasonCount, RouteActivity, StageWord, Time, Warning,
};
use crate::admin::{bans, lapsing, status};
use crate::lifecycle::Stage;
use crate::observe::metrics::ActivityTotals;
use crate::policy::Policy;
use crate::policy::ban::Ban;
use crate::policy::network::ClientKey;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::tunnels::{LiveEntry, WouldRevoke};

/// Collects the overview at the time of the call.
pub fn overview(admin: &AdminContext, request: &OverviewRequest) -> OverviewAnswer {
    let (live, now, at) = (admin.live.load(), Timestamp::now(), Instant::now());
    let view = View { admin, live: &live, now, at, rows: request.rows, form: form(request) };
    // One walk for all that is counted: there may be 100,000 tunnels, and a page asks each second.
    let (totals, entries) = (admin.metrics.activity(), admin.tunnels.entries());
    let open = OpenClients::count(&entries, view.form);
    let (backends, bans, lapsing) = (view.backends(), view.bans(), view.lapsing());
    let (reasons, warnings) = (view.reasons(&totals), view.warnings());
    let diagnostics = admin.config_status.warnings.load();
    OverviewAnswer {
        now: Time(now),
        host: host(),
        version: env!("CARGO_PKG_VERSION").into(),
        stage: stage(admin.lifecycle.stage()),
        uptime_seconds: admin.history.uptime(at).as_secs(),
        generation: live.generation,
        digest: live.digest.to_string(),
        since: Time(**admin.config_status.since.load()),
        files: view.files(),
        error_count: view.error_count(),
        last_reload: view.last_reload(),
        rates: admin.history.rates(at, &totals),
        history: admin.history.points(at, now),
        tunnels: admin.tunnels.len() as u64,
        exchanges: admin.tunnels.exchanges_len() as u64,
        route_count: live.route_list.len() as u64,
        routes: view.routes(&entries),
        backend_count: backends.len() as u64,
        backends_down: backends.iter().filter(|one| !one.up).count() as u64,
        backends: view.first(backends),
        refused: totals.refused(),
        refused_recently: reasons.iter().map(|one| one.recently).sum(),
        reasons: view.first(reasons),
        client_count: open.clients(),
        most_tunnels: open.by_tunnels(view.rows),
        most_bytes: open.by_bytes(view.rows),
        refused_clients: refused_clients(&admin.recent, view.form, view.rows, now),
        candidate_count: view.candidates().count() as u64,
        candidates: view.candidates().take(view.rows).map(|one| view.candidate(one)).collect(),
        certificate_count: live.certificates.iter().count() as u64,
        certificates: view.certificates(),
        ban_count: bans.len() as u64,
        bans: bans.into_iter().take(view.rows).map(|ban| view.ban(&ban)).collect(),
        lapsing_count: lapsing.lapsing,
        lapsing: lapsing.entries.into_iter().take(view.rows).map(|one| view.entry(one)).collect(),
        diagnostic_count: diagnostics.len() as u64,
        diagnostics: view.first(view.diagnostics(status::reports(&diagnostics))),
        warning_count: warnings.len() as u64,
        warnings: view.first(warnings),
    }
}

const fn form(request: &OverviewRequest) -> ClientForm {
    if request.short { ClientForm::Short } else { ClientForm::Full }
}

/// The name of the host, or nothing where it is not UTF-8.
fn host() -> String {
    let names = rustix::system::uname();
    names.nodename().to_str().unwrap_or_default().to_owned()
}

const fn stage(stage: Stage) -> StageWord {
    match stage {
        Stage::Starting => StageWord::Starting,
        Stage::Serving => StageWord::Serving,
        Stage::Draining(_) => StageWord::Draining,
        Stage::Ended => StageWord::Ended,
    }
}

/// One look at the state of the agent.
struct View<'v> {
    admin: &'v AdminContext,
    live: &'v Snapshot,
    now: Timestamp,
    /// The same time by the clock that is never set.
    at: Instant,
    rows: usize,
    form: ClientForm,
}

impl View<'_> {
    fn first<T>(&self, mut all: Vec<T>) -> Vec<T> {
        all.truncate(self.rows);
        all
    }

    fn files(&self) -> FilesState {
        let config_status = &self.admin.config_status;
        match config_status.rejected.load().is_some() {
            // Files with errors cannot be published, so that they are the greater trouble.
            true => FilesState::Rejected,
            false if config_status.hold.pending.load().is_some() => FilesState::Pending,
            false => FilesState::Current,
        }
    }

    /// Warnings that came with the errors are not counted: those in force have a count of their
    /// own.
    fn error_count(&self) -> u64 {
        let rejected = self.admin.config_status.rejected.load();
        let all = rejected.iter().flat_map(|all| all.iter());
        all.filter(|one| one.is_error()).count() as u64
    }

    fn last_reload(&self) -> Option<LastReload> {
        let mut last = status::last_reload(&self.admin.config_status)?;
        last.diagnostics = self.first(self.diagnostics(last.diagnostics));
        Some(last)
    }

    /// The short form has the places and the sentences alone: remedies and excerpts quote files,
    /// which may name clients.
    fn diagnostics(&self, all: Vec<DiagnosticReport>) -> Vec<DiagnosticReport> {
        let one = |diagnostic: DiagnosticReport| match self.form {
            ClientForm::Full => diagnostic,
            ClientForm::Short => DiagnosticReport {
                message: self.form.sentence(&diagnostic.message),
                remedy: None,
                text: String::new(),
                ..diagnostic
            },
        };
        all.into_iter().map(one).collect()
    }

    fn routes(&self, entries: &[Arc<LiveEntry>]) -> Vec<RouteActivity> {
        let mut totals = self.admin.metrics.totals(self.live, entries);
        // Stable: routes with as many tunnels stay in the order of the file.
        totals.sort_by_key(|(_, totals)| Reverse(totals.open));
        let policies: HashMap<_, _> =
            self.live.route_list.iter().map(|route| (&route.name, &route.policy.name)).collect();
        let first = totals.iter().take(self.rows);
        let one = first.map(|(name, totals)| RouteActivity {
            name: name.to_string(),
            policy: policies.get(name).map(ToString::to_string).unwrap_or_default(),
            tunnels: totals.open,
            per_second: self.admin.rates.rate(name, self.at, totals).map(status::rates),
        });
        one.collect()
    }

    /// All backends, each once; backends that are down come first.
    fn backends(&self) -> Vec<BackendStatus> {
        let mut seen = HashSet::new();
        let all = self.live.route_list.iter().flat_map(|route| &route.backends);
        let once = all.filter(|backend| seen.insert(&backend.address));
        let mut all: Vec<_> = once.map(|backend| status::backend(self.admin, backend)).collect();
        // Stable, so that backends in the same state stay in the order of their routes.
        all.sort_by_key(|backend| backend.up);
        all
    }

    fn reasons(&self, totals: &ActivityTotals) -> Vec<ReasonCount> {
        let before = self.admin.history.oldest();
        let one = |refusal: &Refusal| {
            let number = refusal.number();
            let refused = totals.refusals[number];
            let recently = refused.saturating_sub(before.refusals[number]);
            ReasonCount { reason: refusal.word().to_owned(), refused, recently }
        };
        let all = Refusal::ALL.iter().map(one);
        let mut all: Vec<_> = all.filter(|one| one.refused > 0).collect();
        all.sort_by_key(|one| Reverse((one.recently, one.refused)));
        all
    }

    fn candidates(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let all = status::sorted(self.live).into_iter();
        all.filter(|policy| policy.candidate.is_some())
    }

    fn candidate(&self, policy: &Policy) -> CandidateHits {
        let revoked = self.admin.metrics.candidate_would_revoke(&policy.name);
        let counts = status::policy(self.admin, policy).candidate;
        let (would_refuse, would_admit) = counts
            .as_ref()
            .map(|counts| (counts.would_refuse, counts.would_admit))
            .unwrap_or_default();
        let clients = self.hits(&policy.name, revoked.as_ref());
        CandidateHits {
            policy: policy.name.to_string(),
            file: counts.map(|counts| counts.file).unwrap_or_default(),
            would_refuse,
            would_admit,
            would_revoke: revoked.map(|revoked| revoked.tunnels as u64),
            client_count: clients.len() as u64,
            clients: self.first(clients),
        }
    }

    /// The clients that a candidate would hit, each with its tunnels and requests.
    fn hits(&self, policy: &str, revoked: Option<&WouldRevoke>) -> Vec<HitClient> {
        let mut clients: HashMap<_, HitClient> = HashMap::new();
        let mut add = |key: ClientKey, tunnels: u64, requests: u64| {
            // In the short form several clients share a network, and so one row.
            let key = self.form.key(key);
            let none = || HitClient { client: self.form.client(key), tunnels: 0, requests: 0 };
            let hit = clients.entry(key).or_insert_with(none);
            hit.tunnels += tunnels;
            hit.requests += requests;
        };
        for (key, tunnels) in revoked.iter().flat_map(|revoked| &revoked.clients) {
            add(*key, *tunnels as u64, 0);
        }
        for (key, requests) in self.admin.metrics.candidate_would_refuse(policy) {
            add(key, 0, requests);
        }
        let mut clients: Vec<_> = clients.into_values().collect();
        let rank = |hit: &HitClient| Reverse((hit.tunnels, hit.requests));
        clients.sort_by(|one, other| {
            rank(one).cmp(&rank(other)).then_with(|| one.client.cmp(&other.client))
        });
        clients
    }

    fn certificates(&self) -> Vec<CertificateStatus> {
        let mut all: Vec<_> = self.live.certificates.iter().collect();
        all.sort_by_key(|certificate| certificate.not_after);
        let first = all.into_iter().take(self.rows);
        first.map(|certificate| status::certificate(certificate, self.now)).collect()
    }

    /// The bans in force, in the order of their ends.
    fn bans(&self) -> Vec<Arc<Ban>> {
        let set = self.admin.bans.bans();
        let mut all: Vec<_> = set.iter().filter(|ban| !ban.lapsed(self.now)).cloned().collect();
        // Bans without an end come last.
        all.sort_by_key(|ban| ban.until.unwrap_or(Timestamp::MAX));
        all
    }

    fn ban(&self, ban: &Ban) -> BanStatus {
        let shown = bans::status(ban);
        match self.form {
            ClientForm::Full => shown,
            ClientForm::Short => BanStatus {
                target: self.form.pattern(&shown.target),
                why: String::new(),
                by: None,
                ..shown
            },
        }
    }

    fn lapsing(&self) -> LapsingAnswer {
        lapsing::lapsing(&LapsingRequest::default(), self.live, self.now)
    }

    fn entry(&self, entry: LapsingEntry) -> LapsingEntry {
        LapsingEntry {
            entry: self.form.pattern(&entry.entry),
            owner: self.form.personal(entry.owner.as_deref()),
            ..entry
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let all = status::warnings(self.admin, self.live, self.now).into_iter();
        let one = |warning: Warning| Warning {
            sentence: self.form.sentence(&warning.sentence),
            ..warning
        };
        all.map(one).collect()
    }
}
