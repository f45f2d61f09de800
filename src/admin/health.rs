//! `/livez` and `/readyz`: whether to restart this process, whether to send clients to it, and what
//! needs attention.
//!
//! A process that serves is ready. A rejected reload, unwatched files, a backend that is down and
//! the like appear in the body only, and never take the host out of its load balancer.

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use crate::admin::answer::{AdminResponse, json, text};
use crate::admin::state::AdminContext;
use crate::admin::wire::{LivezAnswer, ReadyState, ReadyzAnswer};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::systemd::STALL_TIMEOUT;

/// Most diagnostics of one kind in the body; `sidegate status` shows all.
const MAX_DIAGNOSTICS: usize = 20;

/// Answers 200 while all loops turn, and 503 if one has stalled: only a restart helps then.
pub fn livez(admin: &AdminContext, headers: &HeaderMap) -> AdminResponse {
    let stalled = admin.heartbeats.stalled(STALL_TIMEOUT);
    let (status, word) = match stalled[..] {
        [] => (StatusCode::OK, "alive"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "stalled"),
    };
    let named =
        if stalled.is_empty() { String::new() } else { format!(": {}", stalled.join(", ")) };
    if wants_json(headers) {
        return json(status, &LivezAnswer { status: format!("{word}{named}") });
    }
    text(status, format!("{word}{named}\n"))
}

/// Answers 200, or 503 while draining. The listener starts after the first generation, so one
/// always serves.
pub fn readyz(admin: &AdminContext, headers: &HeaderMap) -> AdminResponse {
    let health = Health::collect(admin);
    // Draining alone is 503. After a rejected reload the previous generation serves on, and a
    // balancer must not take it out of service.
    let status = if health.draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if wants_json(headers) { json(status, &health.answer()) } else { text(status, health.text()) }
}

/// The facts that `/readyz` reports.
struct Health {
    draining: bool,
    generation: u64,
    digest: String,
    since: String,
    /// The errors of the last reload; empty if it was not rejected.
    rejected: Vec<String>,
    /// Warnings about the files of the running generation.
    warnings: Vec<String>,
    /// How often and why the files are polled. `None` means that they are watched.
    unwatched: Option<String>,
    backends_down: Vec<String>,
    /// Sentences about names of backends that do not resolve.
    names_unresolved: Vec<String>,
    /// Sentences about listeners whose clients cannot be told apart.
    identity_collapsed: Vec<String>,
    /// Sentences about revocation lists that have expired.
    crls_expired: Vec<String>,
    /// A sentence about saved files that are not published. `None` means that there are none.
    pending: Option<String>,
    /// Sentences about the files of bans, of the last publish, and about CrowdSec.
    state_faults: Vec<String>,
    log_drops: u64,
    panics: u64,
}

impl Health {
    fn collect(admin: &AdminContext) -> Self {
        let live = admin.live.load();
        let rejected = admin.config_status.rejected.load();
        let rejected =
            rejected.iter().flat_map(|errors| errors.iter()).filter(|one| one.is_error());
        Health {
            draining: admin.lifecycle.is_draining(),
            generation: live.generation,
            digest: live.digest.to_string(),
            since: admin.config_status.since.load().to_string(),
            rejected: lines(rejected),
            warnings: lines(admin.config_status.warnings.load().iter()),
            unwatched: admin.config_status.unwatched_sentence(),
            backends_down: admin
                .metrics
                .backends_down(&live)
                .iter()
                .map(|backend| backend.address.to_string())
                .collect(),
            names_unresolved: live
                .names
                .iter()
                .filter_map(|one| one.state.fault_sentence())
                .collect(),
            identity_collapsed: admin.metrics.collapsed_identities(),
            crls_expired: live.expired_crls(Timestamp::now()),
            pending: admin.config_status.hold.pending.load().as_ref().map(|one| one.sentence()),
            state_faults: [admin.ban_faults(), admin.config_status.hold.faults()].concat(),
            log_drops: admin.log.drops.count(),
            panics: admin.metrics.panics(),
        }
    }

    fn word(&self) -> &'static str {
        if self.draining { "draining" } else { "ready" }
    }

    fn answer(&self) -> ReadyzAnswer {
        ReadyzAnswer {
            status: if self.draining { ReadyState::Draining } else { ReadyState::Ready },
            generation: self.generation,
            digest: self.digest.clone(),
            since: self.since.clone(),
            last_reload_rejected: self.rejected.clone(),
            warnings: self.warnings.clone(),
            watch_degraded: self.unwatched.is_some(),
            backends_down: self.backends_down.clone(),
            names_unresolved: self.names_unresolved.clone(),
            identity_collapsed: self.identity_collapsed.clone(),
            crls_expired: self.crls_expired.clone(),
            pending: self.pending.clone(),
            state_faults: self.state_faults.clone(),
            log_drops: self.log_drops,
            panics: self.panics,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{}: generation {} ({}) since {}\n",
            self.word(),
            self.generation,
            self.digest,
            self.since
        );
        let mut tell = |what: &str, lines: &[String]| {
            if !lines.is_empty() {
                text.push_str(what);
                text.push('\n');
                text.extend(lines.iter().map(|line| format!("  {line}\n")));
            }
        };
        tell(
            "the last reload was rejected, and the previous configuration keeps running:",
            &self.rejected,
        );
        tell("warnings about the running configuration:", &self.warnings);
        tell(
            "the last connection attempt to these backends failed, or they have no address:",
            &self.backends_down,
        );
        let sentences = self.pending.iter().chain(&self.names_unresolved).chain(&self.unwatched);
        let sentences = sentences.chain(&self.identity_collapsed).chain(&self.crls_expired);
        for sentence in sentences.chain(&self.state_faults) {
            text.push_str(&format!("{sentence}\n"));
        }
        if self.log_drops > 0 {
            text.push_str(&format!("log lines dropped since the start: {}\n", self.log_drops));
        }
        if self.panics > 0 {
            text.push_str(&format!(
                "bugs that ended a connection since the start: {}\n",
                self.panics
            ));
        }
        text
    }
}

/// One line for each of the first `MAX_DIAGNOSTICS` diagnostics, and the number of the others.
fn lines<'d>(diagnostics: impl Iterator<Item = &'d Diagnostic>) -> Vec<String> {
    let mut lines: Vec<_> = diagnostics.map(Diagnostic::one_line).collect();
    let more = lines.len().saturating_sub(MAX_DIAGNOSTICS);
    if more > 0 {
        lines.truncate(MAX_DIAGNOSTICS);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Whether `Accept` names JSON (RFC 9110 §12.5.1). Weights are ignored: the only other format is
/// text, the default.
fn wants_json(headers: &HeaderMap) -> bool {
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut types = ranges.filter_map(|range| range.split(';').next());
    types.any(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &[&'static str], json: bool) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, header::HeaderValue::from_static(value));
        }
        assert_eq!(wants_json(&headers), json, "{accept:?}");
    }

    #[test]
    fn json_is_sent_when_accept_names_it_anywhere() {
        check(&["application/json"], true);
        check(&["text/html;q=0.9, Application/JSON;charset=utf-8;q=0.1"], true);
        check(&["text/plain", "application/json"], true);
        check(&[], false);
        check(&["*/*"], false);
        check(&["application/jsonp, text/plain;x=application/json"], false);
    }
}
