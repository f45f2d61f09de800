//! The clients of the overview: those with the most open tunnels, and those refused most.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::admin::client_form::ClientForm;
use crate::admin::decisions::{entry_at, rule_at, tally};
use crate::admin::wire::{BusyClient, RefusedOverview, RefusedRow, Time};
use crate::observe::metrics::RequestResult;
use crate::observe::recent::{RecentDecision, RecentDecisions};
use crate::policy::certificate::Identity;
use crate::policy::network::ClientKey;
use crate::tunnels::LiveEntry;

/// The time over which refused clients are counted.
const RECENT_PERIOD: SignedDuration = SignedDuration::from_mins(15);

/// The open tunnels of each client.
pub struct OpenClients {
    form: ClientForm,
    clients: HashMap<ClientKey, ClientTunnels>,
}

/// The open tunnels of one client.
struct ClientTunnels {
    /// A tunnel of it, whose certificate names it.
    first: Arc<LiveEntry>,
    /// Whether all its tunnels have the same certificate, or none.
    is_one: bool,
    tunnels: u64,
    bytes_from_client: u64,
    bytes_from_backend: u64,
}

impl ClientTunnels {
    fn bytes(&self) -> u64 {
        self.bytes_from_client.saturating_add(self.bytes_from_backend)
    }
}

impl OpenClients {
    /// Counts tunnels by client.
    pub fn count(entries: &[Arc<LiveEntry>], form: ClientForm) -> OpenClients {
        let mut clients: HashMap<ClientKey, ClientTunnels> = HashMap::new();
        for entry in entries {
            let own = clients.entry(form.key(entry.subject.client.key()));
            let own = own.or_insert_with(|| ClientTunnels {
                first: Arc::clone(entry),
                is_one: true,
                tunnels: 0,
                bytes_from_client: 0,
                bytes_from_backend: 0,
            });
            let (from_client, from_backend) = entry.traffic.totals();
            own.is_one &= identity(&own.first) == identity(entry);
            own.tunnels += 1;
            own.bytes_from_client += from_client.bytes;
            own.bytes_from_backend += from_backend.bytes;
        }
        OpenClients { form, clients }
    }

    /// Number of clients with open tunnels.
    pub fn clients(&self) -> u64 {
        self.clients.len() as u64
    }

    /// The clients with the most tunnels.
    pub fn by_tunnels(&self, rows: usize) -> Vec<BusyClient> {
        self.most(rows, |own| (own.tunnels, own.bytes()))
    }

    /// The clients whose tunnels have carried the most bytes.
    pub fn by_bytes(&self, rows: usize) -> Vec<BusyClient> {
        self.most(rows, |own| (own.bytes(), own.tunnels))
    }

    fn most(&self, rows: usize, rank: impl Fn(&ClientTunnels) -> (u64, u64)) -> Vec<BusyClient> {
        let mut all: Vec<_> = self.clients.iter().collect();
        // Of equal clients the oldest tunnel is first, so that rows don't change places each time.
        let rank = |(_, own): &(&ClientKey, &ClientTunnels)| (Reverse(rank(own)), own.first.id);
        // Only the shown rows are put in order: there may be 100,000 clients.
        if all.len() > rows {
            all.select_nth_unstable_by_key(rows, rank);
            all.truncate(rows);
        }
        all.sort_by_key(rank);
        all.into_iter().map(|(key, own)| self.shown(*key, own)).collect()
    }

    fn shown(&self, key: ClientKey, own: &ClientTunnels) -> BusyClient {
        let name = identity(&own.first).filter(|_| own.is_one).map(|name| name.to_string());
        BusyClient {
            client: self.form.client(key),
            identity: self.form.personal(name.as_deref()),
            tunnels: own.tunnels,
            bytes_from_client: own.bytes_from_client,
            bytes_from_backend: own.bytes_from_backend,
        }
    }
}

fn identity(entry: &LiveEntry) -> Option<Identity<'_>> {
    entry.subject.certificate().map(|own| own.identity())
}

/// The clients that were refused most in the last fifteen minutes. `None` means that decisions are
/// not kept.
pub fn refused_clients(
    recent: &RecentDecisions,
    form: ClientForm,
    rows: usize,
    now: Timestamp,
) -> Option<RefusedOverview> {
    let asked = now.checked_sub(RECENT_PERIOD).unwrap_or(Timestamp::MIN);
    // Failures share the ring of the refusals, but no rule has refused them.
    let is_wanted = |one: &RecentDecision| one.result == RequestResult::Refused && one.at > asked;
    let found = recent.recall(is_wanted)?.as_of(now);
    // Counts never reach into a time whose decisions were partly dropped: they would be too low.
    let since = asked.max(found.denied_since);
    let all: Vec<_> = found.denied.into_iter().filter(|one| one.at > since).collect();
    let clients = tally(&all, |one| Some(form.key(one.client.key())));
    let rows = clients.iter().take(rows);
    Some(RefusedOverview {
        since: Time(since),
        refused: all.len() as u64,
        client_count: clients.len() as u64,
        clients: rows.map(|one| row(form, one.key, one.refused, one.latest)).collect(),
    })
}

fn row(form: ClientForm, key: ClientKey, refused: u64, latest: &RecentDecision) -> RefusedRow {
    let entry = latest.entry();
    RefusedRow {
        client: form.client(key),
        identity: form.personal(latest.identity()),
        refused,
        last: Time(latest.at),
        reason: latest.reason.unwrap_or_default().to_owned(),
        policy: latest.policy().map(str::to_owned),
        rule_at: rule_at(latest),
        entry: entry.map(|entry| form.pattern(&entry.entry.to_string())),
        entry_at: entry.as_ref().map(entry_at),
        request_id: form.personal(latest.request_id()),
    }
}
