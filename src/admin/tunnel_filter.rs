//! Selects tunnels and exchanges in the tables, for listing and for closing.

use std::sync::Arc;

use jiff::Timestamp;

use crate::admin::wire::{EntryKind, TunnelSelector};
use crate::control::config::users;
use crate::policy::certificate::IdentityPattern;
use crate::policy::list::ListEntry as Line;
use crate::policy::list::pattern::ClientPattern;
use crate::snapshot::Snapshot;
use crate::tunnels::{LiveEntry, Tunnels};

/// A [`TunnelSelector`] with parsed parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelFilter {
    route: Option<String>,
    client: Option<ClientPattern>,
    identity: Option<IdentityPattern>,
    policy: Option<String>,
    /// Least age in seconds. `None` means any age.
    older: Option<u64>,
    /// Least bytes of both directions. `None` means any number.
    bytes: Option<u64>,
    kind: Option<EntryKind>,
}

/// One tunnel or exchange of a selection.
pub struct SelectedEntry {
    /// The tunnel or the exchange.
    pub entry: Arc<LiveEntry>,
    /// Which of both it is.
    pub kind: EntryKind,
}

impl TunnelFilter {
    /// Parses the parameters of `selector`.
    ///
    /// # Errors
    /// A sentence that names the wrong parameter and a valid value.
    pub fn parse(selector: TunnelSelector) -> Result<TunnelFilter, String> {
        let TunnelSelector { route, client, identity, policy, older, bytes, kind } = selector;
        let client = client.as_deref().map(pattern).transpose()?;
        let identity = identity.map(|text| {
            let wrong = |fault| format!("`identity`: `{}`: {fault}", text.escape_debug());
            IdentityPattern::parse(&text).map_err(wrong)
        });
        let identity = identity.transpose()?;
        Ok(TunnelFilter { route, client, identity, policy, older, bytes, kind })
    }

    /// The tunnels and exchanges in the tables now that the filter selects, in the order of their
    /// ids.
    ///
    /// # Errors
    /// A sentence, if no such route or policy exists and nothing open has it.
    pub fn select(
        &self,
        tunnels: &Tunnels,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Vec<SelectedEntry>, String> {
        let of = |entries: Vec<Arc<LiveEntry>>, kind: EntryKind| {
            entries.into_iter().map(move |entry| SelectedEntry { entry, kind: kind.clone() })
        };
        // The tables are read one after the other, so a selection is no snapshot of one moment.
        let all = of(tunnels.entries(), EntryKind::Tunnel)
            .chain(of(tunnels.exchanges(), EntryKind::Exchange));
        let mut found: Vec<_> = all.filter(|one| self.admits(one, now)).collect();
        // A removed route may still have tunnels, so its name is wrong only if nothing open has it.
        if found.is_empty() {
            self.check_names(snapshot)?;
        }
        found.sort_unstable_by_key(|one| one.entry.id);
        Ok(found)
    }

    fn check_names(&self, snapshot: &Snapshot) -> Result<(), String> {
        let has_route = |name: &String| snapshot.route_list.iter().any(|one| *one.name == **name);
        if let Some(route) = self.route.as_ref().filter(|route| !has_route(route)) {
            return Err(format!("there is no route `{}`", route.escape_debug()));
        }
        let has_policy = |name: &String| snapshot.all_policies().any(|one| *one.name == **name);
        match self.policy.as_ref().filter(|policy| !has_policy(policy)) {
            Some(policy) => Err(format!("there is no policy `{}`", policy.escape_debug())),
            None => Ok(()),
        }
    }

    fn admits(&self, SelectedEntry { entry, kind }: &SelectedEntry, now: Timestamp) -> bool {
        let holds = |pattern: ClientPattern| match pattern {
            ClientPattern::Network(network) => {
                entry.subject.client.ip().is_some_and(|ip| network.contains(&ip))
            }
            ClientPattern::Unix(users) => users.matches(&entry.subject),
        };
        let has_identity = |pattern: &IdentityPattern| {
            entry.subject.certificate().is_some_and(|own| pattern.matches(own))
        };
        let is_old = |older: u64| seconds_open(entry, now) >= older;
        let has_sent = |bytes: u64| {
            let (from_client, from_backend) = entry.traffic.totals();
            from_client.bytes.saturating_add(from_backend.bytes) >= bytes
        };
        let route = entry.route();
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self.client.is_none_or(holds)
            && self.identity.as_ref().is_none_or(has_identity)
            && self.older.is_none_or(is_old)
            && self.bytes.is_none_or(has_sent)
            && self.route.as_ref().is_none_or(|wanted| *wanted == *route.name)
            && self.policy.as_ref().is_none_or(|wanted| *wanted == *route.policy.name)
    }
}

/// Seconds since `entry` opened: 0 if the clock was set back meanwhile.
pub fn seconds_open(entry: &LiveEntry, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(entry.opened).as_secs()).unwrap_or_default()
}

/// Parses a network, an address or users of this host, in the syntax of a list's entry.
fn pattern(value: &str) -> Result<ClientPattern, String> {
    let line = Line::parse_with(value, Some(&users::resolve))
        .map_err(|fault| format!("`client`: {}: {}", fault.fault, fault.remedy))?;
    // A list's line may also be a carve-out or have annotations, which select nothing here.
    let plain = line.filter(|line| line.admits && !value.contains(char::is_whitespace));
    plain.map(|line| line.pattern).ok_or_else(|| {
        "`client` is a network, an address or users, like 192.0.2.0/24 or unix:uid=33".into()
    })
}
