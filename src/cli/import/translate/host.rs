//! The names of servers as the hosts of routes.
//!
//! It says what a host of a route can't: two labels under a `*`, a regular expression.

use crate::cli::import::nginx::name::Name;
use crate::cli::import::nginx::{Nginx, Reading};
use crate::cli::import::report::{Scope, Word};
use crate::cli::import::translate::paths::regex_escaped;
use crate::cli::import::translate::socket::Group;

/// A host of routes, and the server that answers for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As a route writes it.
    pub pattern: String,
    /// As `server_name` writes it; `_` for the default server.
    pub scope: String,
    /// What its routes are called after.
    pub label: String,
    /// The server, by place.
    pub server: usize,
}

impl Host {
    /// Whether requests for `other` come here where `other` has no route for them.
    pub fn is_around(&self, other: &Host) -> bool {
        if self.pattern == "*" {
            return other.pattern != "*";
        }
        let parent = other.pattern.split_once('.').map(|(_, parent)| parent);
        !other.pattern.starts_with("*.") && self.pattern.strip_prefix("*.").is_some_and(|own| parent == Some(own))
    }
}

/// The hosts of a group, in the order in which nginx' files name them; the default server's `*` last.
pub fn hosts(nginx: &Nginx, group: &Group, reading: &mut Reading<'_>) -> Vec<Host> {
    let Some(default) = group.default() else { return Vec::new() };
    let mut hosts = Vec::<Host>::new();
    for server in group.servers().iter().copied() {
        for (id, name) in &nginx.servers[server].names {
            let pattern = match name {
                Name::Exact(host) => host.clone(),
                Name::Below(parent) => format!("*.{parent}"),
                Name::Odd(_) | Name::Nobody if server == default => {
                    reading.notes.say(*id, Word::Carried, "host = \"*\": it is the default server");
                    continue;
                }
                Name::Odd(text) => {
                    let scope = Scope { host: text.clone(), path: "/".into(), but: Vec::new() };
                    let said = format!(
                        "a route's host is exact or one label under a `*`: what `{text}` matched goes to the default server's routes"
                    );
                    reading.notes.say_of(*id, Word::Differs, said, vec![scope]);
                    continue;
                }
                Name::Nobody => {
                    reading.notes.say(*id, Word::Dropped, "no request has such a host");
                    continue;
                }
            };
            if let Some(first) = hosts.iter().find(|host| host.pattern == pattern) {
                if first.server != server {
                    reading.notes.say(
                        *id,
                        Word::Dropped,
                        format!("another server has `{pattern}` there already: nginx ignores this one"),
                    );
                }
                continue;
            }
            if server == default && !is_between(&pattern, nginx, group) {
                reading.notes.say(
                    *id,
                    Word::Carried,
                    "host = \"*\": it is the default server, to which every other host comes, too",
                );
                continue;
            }
            reading.notes.say(*id, Word::Carried, format!("host = \"{pattern}\""));
            if let Name::Below(parent) = name
                && server != default
            {
                let scope = Scope { host: format!("~^.+\\..+\\.{}$", regex_escaped(parent)), path: "/".into(), but: Vec::new() };
                let said = format!(
                    "`{pattern}` is one label under {parent}; a host with more of them goes to the default server's routes"
                );
                reading.notes.say_of(*id, Word::Differs, said, vec![scope]);
            }
            hosts.push(Host { scope: pattern.clone(), label: pattern.replace('*', "all"), pattern, server });
        }
    }
    let exact =
        nginx.servers[default].names.iter().find_map(|(_, name)| if let Name::Exact(host) = name { Some(host) } else { None });
    let label = exact.cloned().unwrap_or_else(|| "default".into());
    hosts.push(Host { pattern: "*".into(), scope: "_".into(), label, server: default });
    hosts
}

/// Whether the name `pattern` of the default server stands under a `*` of another one, which would take it.
fn is_between(pattern: &str, nginx: &Nginx, group: &Group) -> bool {
    let others = group
        .servers()
        .iter()
        .filter(|server| group.default() != Some(**server))
        .flat_map(|server| &nginx.servers[*server].names);
    let below = |parent: &str| pattern.strip_suffix(parent).is_some_and(|start| start.ends_with('.'));
    others.into_iter().any(|(_, name)| matches!(name, Name::Below(parent) if below(parent)))
}
