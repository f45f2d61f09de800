//! What new files let in, as a part of the answer to `POST /v1/diff`.

use serde::{Deserialize, Serialize};

/// What the files on disk admit and the running generation refuses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WideningChanges {
    /// Number of networks and patterns of users that some route newly admits. A number of
    /// `max_widened` bounds them together with `rules`.
    pub networks: u64,
    /// Number of IPv4 addresses that some route newly admits.
    pub ipv4: u64,
    /// The same for IPv6, in units of a /64, rounded up.
    pub ipv6_64: u64,
    /// The clients that routes newly admit, by policy.
    pub clients: Vec<WidenedClients>,
    /// Rules that have become wider.
    pub rules: Vec<WidenedRule>,
}

/// The clients that routes of one policy newly admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WidenedClients {
    /// The policy that admits them.
    pub policy: String,
    /// The routes that the policy judges.
    pub routes: Vec<String>,
    /// Number of networks that they newly admit.
    pub networks: u64,
    /// Number of IPv4 addresses in them.
    pub ipv4: u64,
    /// The same for IPv6, in units of a /64, rounded up.
    pub ipv6_64: u64,
    /// The networks, the largest first; of more than 100,000 the first ones.
    pub largest: Vec<String>,
    /// Users of this host, as `unix:uid=33` or `unix:gid=44 with unix:uid=33`.
    pub users: Vec<String>,
}

/// A rule that has become wider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WidenedRule {
    /// The kind of its part: `policy`, `route`, `listener`, `list`, or `file` for a setting.
    pub part: String,
    /// The name of that part.
    pub name: String,
    /// The key, as in `client.origins`.
    pub key: String,
    /// What it admits now, in words.
    pub what: String,
}

impl WideningChanges {
    /// A sentence about fields that contradict each other. `None` means that they agree.
    pub fn contradiction(&self) -> Option<&'static str> {
        let is_short = |one: &WidenedClients| {
            u64::try_from(one.largest.len()).is_ok_and(|listed| listed > one.networks)
        };
        let is_silent = |one: &WidenedClients| one.networks == 0 && one.users.is_empty();
        if self.clients.iter().any(is_short) {
            Some("it names more networks than it counts")
        } else if self.clients.iter().any(is_silent)
            || (self.networks == 0) != self.clients.is_empty()
        {
            Some("its numbers of newly admitted networks disagree")
        } else {
            None
        }
    }
}
