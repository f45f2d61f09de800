//! Translates the names of servers into hosts of routes.
//!
//! Notes the names that no route's host can express: several labels under a `*`, a regular
//! expression.

use crate::import::nginx::name::ServerName;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;
use crate::import::translate::paths::regex_escaped;
use crate::import::translate::socket::SocketGroup;
use crate::import::tree::DirectiveId;

/// A host of routes, and the server that answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteHost {
    /// The host in the form of a route's `host`.
    pub pattern: String,
    /// The host as `server_name` writes it; `_` for the default server.
    pub scope: String,
    /// The base of its routes' names.
    pub label: String,
    /// Index of the server that answers for it.
    pub server: usize,
}

impl RouteHost {
    /// Returns whether requests for `other` fall to this host when `other` has no matching route.
    pub fn is_around(&self, other: &RouteHost) -> bool {
        if self.pattern == "*" {
            return other.pattern != "*";
        }
        let parent = other.pattern.split_once('.').map(|(_, parent)| parent);
        !other.pattern.starts_with("*.")
            && self.pattern.strip_prefix("*.").is_some_and(|own| parent == Some(own))
    }
}

/// Hosts that no route can express; their requests follow the routes of `*`.
#[derive(Debug, Clone)]
pub struct UnsupportedHosts {
    /// Number of the `server_name` directive.
    pub id: DirectiveId,
    /// Index of the server that answers them in nginx.
    pub server: usize,
    /// The hosts as `server_name` writes them.
    pub scope: String,
    /// Text of the note about them.
    pub said: String,
}

/// Returns the hosts of a group in the order of nginx' files, the default server's `*` last, and
/// the names that no route can express.
pub fn hosts(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> (Vec<RouteHost>, Vec<UnsupportedHosts>) {
    let Some(default) = group.default() else { return (Vec::new(), Vec::new()) };
    let (mut hosts, mut strays) = (Vec::<RouteHost>::new(), Vec::new());
    let taken = claim_names(nginx, group, context);
    for NameClaim { id, server, pattern } in &taken {
        // The route of `*` serves it as well: no wildcard of another server comes before.
        if *server == default && !is_between(pattern, default, &taken) {
            let said =
                "host = \"*\": it is the default server, to which every other host comes, too";
            context.notes.add(*id, DirectiveOutcome::Carried, said);
            continue;
        }
        context.notes.add(*id, DirectiveOutcome::Carried, format!("host = \"{pattern}\""));
        if let Some(parent) = pattern.strip_prefix("*.")
            && *server != default
        {
            // In nginx a `*` matches any number of labels, in a route exactly one.
            let scope = format!("~^.+\\..+\\.{}$", regex_escaped(parent));
            let said = format!(
                "`{pattern}` is one label before {parent}: a host with more of them goes to the \
                 default server's routes"
            );
            strays.push(UnsupportedHosts { id: *id, server: *server, scope, said });
        }
        let (scope, label) = (pattern.clone(), pattern.replace('*', "all"));
        hosts.push(RouteHost { pattern: pattern.clone(), scope, label, server: *server });
    }
    let others = group
        .servers()
        .iter()
        .flat_map(|server| other_names(nginx, *server).map(|name| (*server, name)));
    for (server, (id, name)) in others {
        match name {
            ServerName::Unsupported(text)
                if !nginx.servers[default].names.contains(&(id, name.clone())) =>
            {
                let said = format!(
                    "a route's host is exact or one label after a `*`: what `{text}` matched goes \
                     to the default server's routes"
                );
                strays.push(UnsupportedHosts { id, server, scope: text.clone(), said });
            }
            ServerName::Unmatchable
                if !nginx.servers[default].names.contains(&(id, name.clone())) =>
            {
                context.notes.add(id, DirectiveOutcome::Dropped, "no request has such a host");
            }
            _ => context.notes.add(
                id,
                DirectiveOutcome::Carried,
                "host = \"*\": it is the default server",
            ),
        }
    }
    let exact = nginx.servers[default]
        .names
        .iter()
        .find_map(|(_, name)| if let ServerName::Exact(host) = name { Some(host) } else { None });
    let label = exact.cloned().unwrap_or_else(|| "default".into());
    // Last, and for every name that no server has: nginx sends such requests to the default server.
    hosts.push(RouteHost { pattern: "*".into(), scope: "_".into(), label, server: default });
    (hosts, strays)
}

/// A name, and the server that claimed it first.
struct NameClaim {
    id: DirectiveId,
    server: usize,
    pattern: String,
}

/// Assigns each name to the first server that claims it.
fn claim_names(
    nginx: &HttpBlock,
    group: &SocketGroup,
    context: &mut ImportContext<'_>,
) -> Vec<NameClaim> {
    let mut taken = Vec::<NameClaim>::new();
    for server in group.servers().iter().copied() {
        for (id, name) in &nginx.servers[server].names {
            let patterns = match name {
                ServerName::Exact(host) => vec![host.clone()],
                ServerName::Subdomains(parent) => vec![format!("*.{parent}")],
                ServerName::Both(parent) => vec![parent.clone(), format!("*.{parent}")],
                // No route can claim these; `hosts` notes them.
                ServerName::Unsupported(_) | ServerName::Unmatchable => continue,
            };
            // nginx ignores both halves of `.example.com` if another server has one of them.
            match taken.iter().find(|taken| patterns.contains(&taken.pattern)) {
                Some(first) if first.server == server => {}
                Some(first) => {
                    let said = format!(
                        "another server has `{}` there already: nginx ignores this one",
                        first.pattern
                    );
                    context.notes.add(*id, DirectiveOutcome::Dropped, said);
                }
                None => taken.extend(patterns.into_iter().map(|pattern| NameClaim {
                    id: *id,
                    server,
                    pattern,
                })),
            }
        }
    }
    taken
}

/// Yields the names of a server that can't be a route's host.
fn other_names(
    nginx: &HttpBlock,
    server: usize,
) -> impl Iterator<Item = (DirectiveId, &ServerName)> {
    let names = nginx.servers[server].names.iter();
    names
        .filter(|(_, name)| matches!(name, ServerName::Unsupported(_) | ServerName::Unmatchable))
        .map(|(id, name)| (*id, name))
}

/// Returns whether another server's `*` would take the name `pattern` of the default server.
fn is_between(pattern: &str, default: usize, taken: &[NameClaim]) -> bool {
    let below =
        |parent: &str| pattern.strip_suffix(parent).is_some_and(|start| start.ends_with('.'));
    let others = taken.iter().filter(|taken| taken.server != default);
    others.filter_map(|taken| taken.pattern.strip_prefix("*.")).any(below)
}
