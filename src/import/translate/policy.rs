//! Policies: access and limits, shared by locations that decide alike.
//!
//! Each policy has budgets of its own, so locations share a policy only if they also share nginx'
//! zones.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::import::access::{NetworkDecision, UserDecision, all_v4, all_v6, decide, decide_users};
use crate::import::nginx::context::ContextSettings;
use crate::import::nginx::limit::{ReqLimit, Zone, ZoneKey, Zones};
use crate::import::nginx::server::Server;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::{DirectiveOutcome, NoteScope};
use crate::import::translate::route::timeouts::MAX_DURATION;
use crate::import::tree::DirectiveId;

/// Time after which nginx closes an idle tunnel, unless `proxy_read_timeout` is set.
const DEFAULT_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest number of tokens that Sidegate accepts in a limit.
const MAX_TOKENS: u32 = 1_000_000;

/// A policy as it is written to its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPolicy {
    /// Unique name; empty until one is assigned.
    pub name: String,
    /// Decisions by network, for the `[client]` table.
    pub access: Vec<NetworkDecision>,
    /// Decision about users of this host. `None` means that no listener is a Unix socket.
    pub users: Option<UserDecision>,
    /// Value of both `upgrades` and `requests`. `None` means unlimited.
    pub rate: Option<TokenBucket>,
    /// Zone and value of `connections.per_client`. `None` means unlimited.
    pub per_client: Option<(String, u32)>,
    /// Server, zone and value of `connections.total`. `None` means unlimited.
    pub total: Option<(DirectiveId, String, u32)>,
    /// `idle` timeout of tunnels. `None` means unlimited.
    pub idle: Option<Duration>,
    /// Whether `idle` is nginx' own default, so that the comment can say so.
    pub idle_by_default: bool,
    /// The `limit_req` and `limit_conn` directives behind the limits, by zone.
    pub limits: BTreeMap<String, DirectiveId>,
}

/// A token bucket: rate and burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    /// The nginx zone of the rate.
    pub zone: String,
    /// Tokens added per period.
    pub tokens: u32,
    /// The period: a second or a minute.
    pub per: Duration,
    /// Most tokens at once.
    pub burst: u32,
}

impl OutputPolicy {
    /// Returns whether two policies decide alike and count in the same zones. A network decided by
    /// a rule differs from one decided by default.
    pub fn can_share(&self, other: &OutputPolicy) -> bool {
        let bare = |policy: &OutputPolicy| {
            let access: Vec<_> = policy
                .access
                .iter()
                .map(|one| (one.network, one.admits, one.by.is_some()))
                .collect();
            (
                access,
                policy.users.map(|users| (users.admits, users.by.is_some())),
                policy.rate.clone(),
                policy.per_client.clone(),
                policy.total.clone(),
                policy.idle,
            )
        };
        bare(self) == bare(other)
    }

    /// Returns the policy that admits no client, for paths that nginx didn't pass on.
    pub fn closed() -> OutputPolicy {
        let nobody = |network| NetworkDecision { network, admits: false, by: None };
        OutputPolicy {
            name: "closed".into(),
            access: vec![nobody(all_v4()), nobody(all_v6())],
            users: None,
            rate: None,
            per_client: None,
            total: None,
            idle: None,
            idle_by_default: false,
            limits: BTreeMap::new(),
        }
    }

    /// Builds the policy for clients under `settings`. `passing`, often equal to it, has what holds
    /// towards the backend; `scopes` are the attempts that reach it.
    pub fn from_level(
        settings: &ContextSettings,
        passing: &ContextSettings,
        server: &Server,
        nginx: &HttpBlock,
        scopes: &[NoteScope],
        context: &mut ImportContext<'_>,
    ) -> OutputPolicy {
        let (idle, idle_by_default) = match passing.read_timeout {
            Some(set) => (Some(set.value.min(MAX_DURATION)).filter(|idle| !idle.is_zero()), false),
            None => (Some(DEFAULT_READ_TIMEOUT), true),
        };
        let rate = rate(settings, &nginx.zones, scopes, context);
        let mut policy = OutputPolicy {
            name: String::new(),
            access: decide(&settings.access),
            users: server.has_users().then(|| decide_users(&settings.access)),
            rate: None,
            idle,
            idle_by_default,
            ..OutputPolicy::closed()
        };
        policy.name.clear();
        if let Some((id, tokens)) = rate {
            policy.limits.insert(tokens.zone.clone(), id);
            policy.rate = Some(tokens);
        }
        policy.counts(settings, server.id, &nginx.zones, scopes, context);
        policy
    }

    fn counts(
        &mut self,
        settings: &ContextSettings,
        server: DirectiveId,
        zones: &Zones,
        scopes: &[NoteScope],
        context: &mut ImportContext<'_>,
    ) {
        for count in &settings.counts {
            let Some(zone) = zones.count(&count.zone) else {
                context.faults.push(Zones::missing(context.tree, count.id, &count.zone));
                continue;
            };
            if settings.dry_counts == Some(true) {
                let text = "a dry run: nginx refuses no request by it";
                context.notes.add(count.id, DirectiveOutcome::Dropped, text);
                continue;
            }
            // nginx applies every `limit_conn` of a level, so the strictest of each kind decides.
            match zone.key {
                ZoneKey::Client
                    if self.per_client.as_ref().is_none_or(|(_, max)| count.max < *max) =>
                {
                    self.per_client = Some((count.zone.clone(), count.max));
                    let text = "the policy's `connections.per_client`, which counts tunnels and \
                                no plain requests; an IPv6 client is its /64";
                    context.notes.add(count.id, DirectiveOutcome::Differs, text);
                    let text = "clients are counted by their address (IPv6: its /64)";
                    context.notes.add(zone.id, DirectiveOutcome::Carried, text);
                }
                ZoneKey::Server if self.total.as_ref().is_none_or(|(.., max)| count.max < *max) => {
                    self.total = Some((server, count.zone.clone(), count.max));
                    let text = "the policy's `connections.total`, which counts the tunnels of its \
                                routes and no plain requests";
                    context.notes.add(count.id, DirectiveOutcome::Differs, text);
                    let text = "the tunnels of a policy are counted";
                    context.notes.add(zone.id, DirectiveOutcome::Carried, text);
                }
                ZoneKey::Client | ZoneKey::Server => {
                    let text = "another `limit_conn` here is stricter";
                    context.notes.add(count.id, DirectiveOutcome::Dropped, text);
                    continue;
                }
                ZoneKey::Other => {
                    let text =
                        "tunnels are counted by client or in all, not by this key: no such limit";
                    let scopes = scopes.to_vec();
                    context.notes.add_scoped(count.id, DirectiveOutcome::Opens, text, scopes);
                    let text = "see the `limit_conn`s that count in it";
                    context.notes.add(zone.id, DirectiveOutcome::Dropped, text);
                    continue;
                }
            }
            self.limits.insert(count.zone.clone(), count.id);
        }
    }
}

/// Returns the rate of `settings`, the strictest one if there are several.
fn rate(
    settings: &ContextSettings,
    zones: &Zones,
    scopes: &[NoteScope],
    context: &mut ImportContext<'_>,
) -> Option<(DirectiveId, TokenBucket)> {
    let mut strictest: Option<(&ReqLimit, &Zone)> = None;
    for rate in &settings.rates {
        let Some(zone) = zones.rate(&rate.zone) else {
            context.faults.push(Zones::missing(context.tree, rate.id, &rate.zone));
            continue;
        };
        if settings.dry_rates == Some(true) {
            context.notes.add(
                rate.id,
                DirectiveOutcome::Dropped,
                "a dry run: nginx refuses no request by it",
            );
            continue;
        }
        if zone.key != ZoneKey::Client {
            let text = "rates are counted by client, not by this key: no such limit";
            context.notes.add_scoped(rate.id, DirectiveOutcome::Opens, text, scopes.to_vec());
            context.notes.add(
                zone.id,
                DirectiveOutcome::Dropped,
                "see the `limit_req`s that count in it",
            );
            continue;
        }
        if let Some((other, _)) = &strictest {
            let text = "a policy has one rate for each kind of request: the slower one is kept";
            context.notes.add(other.id.max(rate.id), DirectiveOutcome::Differs, text);
        }
        if strictest.is_none_or(|(_, other)| zone.requests_per_hour() < other.requests_per_hour()) {
            strictest = Some((rate, zone));
        }
    }
    let (rate, zone) = strictest?;
    let (tokens, per) = zone.rate?;
    note_rate(rate, zone, tokens, per, context);
    // nginx lets one request through at the rate, and `burst` more.
    let burst = bounded(rate.burst.saturating_add(1));
    Some((rate.id, TokenBucket { zone: rate.zone.clone(), tokens: bounded(tokens), per, burst }))
}

/// Limits a number to `MAX_TOKENS`.
fn bounded(tokens: u64) -> u32 {
    u32::try_from(tokens).map_or(MAX_TOKENS, |tokens| tokens.min(MAX_TOKENS))
}

/// Notes the strictest rate, and each of its values that Sidegate can't express.
fn note_rate(
    rate: &ReqLimit,
    zone: &Zone,
    tokens: u64,
    per: Duration,
    context: &mut ImportContext<'_>,
) {
    let unit = if per.as_secs() == 60 { "m" } else { "s" };
    let burst = rate.burst.saturating_add(1);
    let mut text = format!(
        "the policy's `upgrades` and `requests`, each of {}/{unit} and a burst of {}: handshakes and \
         plain requests are counted apart, after `allow` and `deny`; an IPv6 client is its /64",
        bounded(tokens),
        bounded(burst),
    );
    let mut word = DirectiveOutcome::Carried;
    if !rate.at_once {
        word = DirectiveOutcome::Differs;
        text.push_str(
            "; without `nodelay` nginx held requests of the burst back to the rate, where Sidegate lets \
             them through at once and refuses the rest",
        );
    }
    if burst > u64::from(MAX_TOKENS) {
        word = DirectiveOutcome::Differs;
        text.push_str(&format!(
            "; nginx had burst={}, and Sidegate takes {MAX_TOKENS} at most",
            rate.burst
        ));
    }
    context.notes.add(rate.id, word, text);
    if tokens > u64::from(MAX_TOKENS) {
        let text = format!(
            "{MAX_TOKENS}/{unit} in the policies, the most that Sidegate takes; nginx had \
             {tokens}r/{unit}"
        );
        return context.notes.add(zone.id, DirectiveOutcome::Differs, text);
    }
    context.notes.add(
        zone.id,
        DirectiveOutcome::Carried,
        "its rate is in the policies whose clients it counts",
    );
}
