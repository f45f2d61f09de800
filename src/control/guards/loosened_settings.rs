//! What a `sidegate.toml` bounds, watches or opens to fewer users than another one.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use crate::control::config::{
    AdminSettings, AdminSocket, CrowdsecSettings, MetricsSettings, PageAddresses, PageSettings,
    ReloadSettings, Settings, ShareOrCount, WatchMode,
};
use crate::policy::addresses::AddressSet;
use crate::policy::widening::WiderRule;
use crate::snapshot::widening::{PartKind, WidenedPart};

/// Name of the file in messages.
const FILE: &str = "sidegate.toml";

/// Most networks that a sentence names.
const MAX_NAMED_NETWORKS: usize = 5;

/// The settings of `to` that are looser than those of `from`, listeners and routes excepted.
pub fn loosened_settings(from: &Settings, to: &Settings) -> Vec<WidenedPart> {
    let mut found = Loosened(Vec::new());
    found.reload(&from.reload, &to.reload);
    found.admin(&from.admin, &to.admin);
    found.metrics(&from.metrics, &to.metrics);
    found.crowdsec(from.crowdsec.as_deref(), to.crowdsec.as_deref());
    for new in to.lists_from.iter().filter(|new| !from.lists_from.contains(new)) {
        found.add("policies.lists_from", format!("policies may read lists of `{new}` too"));
    }
    let part = |rule| WidenedPart { kind: PartKind::File, name: Arc::from(FILE), rule };
    found.0.into_iter().map(part).collect()
}

struct Loosened(Vec<WiderRule>);

impl Loosened {
    fn add(&mut self, key: &'static str, what: impl Into<String>) {
        self.0.push(WiderRule { key, what: what.into() });
    }

    fn instead(&mut self, key: &'static str, from: impl Display, to: impl Display) {
        self.add(key, format!("\"{to}\" instead of \"{from}\""));
    }

    fn bound(&mut self, key: &'static str, from: ShareOrCount, to: ShareOrCount) {
        let is_higher = match (from, to) {
            (ShareOrCount::Percent(from), ShareOrCount::Percent(to)) => to > from,
            (ShareOrCount::Count(from), ShareOrCount::Count(to)) => to > from,
            // Which one holds more depends on the total. Unknown counts as looser, unless nothing
            // at all is allowed.
            (ShareOrCount::Percent(_), ShareOrCount::Count(to)) => to > 0,
            (ShareOrCount::Count(_), ShareOrCount::Percent(to)) => to > 0,
        };
        if is_higher {
            self.instead(key, from, to);
        }
    }

    fn reload(&mut self, from: &ReloadSettings, to: &ReloadSettings) {
        self.bound("reload.max_revoked", from.max_revoked, to.max_revoked);
        self.bound("reload.max_widened", from.max_widened, to.max_widened);
        if from.watch == WatchMode::Hold && to.watch != WatchMode::Hold {
            self.add("reload.watch", "a save counts without an order");
        }
    }

    fn admin(&mut self, from: &AdminSettings, to: &AdminSettings) {
        if from.socket == AdminSocket::Off && to.socket != AdminSocket::Off {
            self.add("admin.socket", "is new");
        }
        let users = SocketUsers::of_socket;
        self.users("admin.mode", "admin.group", users(from), users(to));
        let (old, new) = (&from.page, &to.page);
        match (&old.listen, &new.listen) {
            (None, Some(at)) => self.add("admin.page_listen", format!("is new, at {at}")),
            (Some(from), Some(to)) if from != to => self.instead("admin.page_listen", from, to),
            _ => {}
        }
        let users = SocketUsers::of_page;
        self.users("admin.page_mode", "admin.page_group", users(old), users(new));
        if old.addresses == PageAddresses::Short && new.addresses == PageAddresses::Full {
            self.add("admin.page", "shows whole addresses and identities");
        }
    }

    /// Notes users who may connect to a socket now, and could not before.
    fn users(
        &mut self,
        mode: &'static str,
        group: &'static str,
        from: SocketUsers<'_>,
        to: SocketUsers<'_>,
    ) {
        if to.mode & !from.mode != 0 {
            self.add(mode, format!("{:04o} instead of {:04o}", to.mode, from.mode));
        }
        // Which members a group has is not in the files: each change counts.
        if to.group != from.group {
            let shown = |group: Option<&str>| group.unwrap_or("that of the process").to_owned();
            self.instead(group, shown(from.group), shown(to.group));
        }
    }

    fn metrics(&mut self, from: &MetricsSettings, to: &MetricsSettings) {
        match (&from.listen, &to.listen) {
            (None, Some(at)) => self.add("metrics.listen", format!("is new, at {at}")),
            (Some(from), Some(to)) if from != to => self.instead("metrics.listen", from, to),
            _ => {}
        }
        let networks = |settings: &MetricsSettings| {
            AddressSet::of_networks(settings.allow.iter().map(|(network, ())| network))
        };
        let new = networks(to).without(&networks(from));
        if !new.is_empty() {
            let named = new.largest_networks(MAX_NAMED_NETWORKS);
            let named: Vec<_> = named.iter().map(ToString::to_string).collect();
            let more = new.networks_len().saturating_sub(named.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.add("metrics.allow", format!("admits {}{more} too", named.join(", ")));
        }
        let hosts: BTreeSet<_> = from.hosts.iter().collect();
        for host in to.hosts.iter().filter(|host| !hosts.contains(host)) {
            self.add("metrics.hosts", format!("accepts the name `{host}` too"));
        }
    }

    fn crowdsec(&mut self, from: Option<&CrowdsecSettings>, to: Option<&CrowdsecSettings>) {
        let Some(from) = from else { return };
        let Some(to) = to else {
            return self.add("crowdsec", "is gone, and so are its bans");
        };
        // Another API has other decisions; which of both has more is not known.
        if from.url != to.url {
            self.instead("crowdsec.url", &from.url, &to.url);
        }
        // A longer prefix is a narrower network, so that fewer decisions are applied.
        if to.widest_v4 > from.widest_v4 {
            self.instead("crowdsec.widest_v4", from.widest_v4, to.widest_v4);
        }
        if to.widest_v6 > from.widest_v6 {
            self.instead("crowdsec.widest_v6", from.widest_v6, to.widest_v6);
        }
    }
}

/// The users who may connect to a Unix socket.
struct SocketUsers<'s> {
    mode: u32,
    group: Option<&'s str>,
}

impl<'s> SocketUsers<'s> {
    fn of_socket(settings: &'s AdminSettings) -> Self {
        SocketUsers { mode: settings.mode, group: settings.group.as_deref() }
    }

    fn of_page(settings: &'s PageSettings) -> Self {
        SocketUsers { mode: settings.mode, group: settings.group.as_deref() }
    }
}
