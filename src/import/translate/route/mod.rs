//! Routes: for each host the path patterns of its server, each with backends and policy.

mod note;
mod pass;
mod readings;
mod timeouts;

use std::collections::{BTreeMap, BTreeSet};

use self::note::Carried;
use self::pass::{leads, resolved};
pub use self::timeouts::{LONGEST, Timeouts};
use crate::import::nginx::{Nginx, Reading};
use crate::import::report::Word;
use crate::import::translate::compare::Side;
use crate::import::translate::free_name;
use crate::import::translate::host::{Host, Stray};
use crate::import::translate::paths::{Paths, Target, Unsaid, paths};
use crate::import::translate::policy::Policy;
use crate::import::tree::Id;

/// A `[[route]]` table of `sidegate.toml`.
#[derive(Debug)]
pub struct Route {
    /// Unique name, made of host and path.
    pub name: String,
    /// Host pattern: exact, `*.parent` or `*`.
    pub host: String,
    /// Path pattern, escaped; a final slash covers everything below.
    pub path: String,
    /// Its backends and their settings.
    pub leads: Leads,
    /// Name of the policy that it uses.
    pub policy: String,
    /// The location that it was made from. `None` means a closed route.
    pub from: Option<Id>,
}

/// The destination of a route.
#[derive(Debug)]
pub enum Leads {
    /// Requests go to backends.
    To {
        /// The backends; empty only if they are unknown.
        backends: Vec<String>,
        /// Why the backends are unknown. `None` means that they are known.
        unknown: Option<String>,
        /// Whether the route's path is stripped.
        strip_prefix: bool,
        /// `max_body`. `None` means the default.
        max_body: Option<MaxBody>,
        /// The route's `timeouts` table.
        timeouts: Timeouts,
    },
    /// No destination: its policy admits no client.
    Nowhere,
}

/// A route's `max_body`, the largest request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxBody {
    /// Most bytes of a body.
    Bytes(u64),
    /// `max_body = "off"`: unlimited.
    Off,
}

/// Names that no policy may have (`docs/spec/formats.md`, "Rules for all files").
const RESERVED: [&str; 5] = ["any", "unix", "none", "null", "baseline"];

/// Returns the routes and policies for the `hosts` of configuration number `config`. The requests
/// of `strays` follow the routes of `*`.
pub fn routes(
    nginx: &Nginx,
    hosts: &[Host],
    strays: &[Stray],
    unsaid: Unsaid,
    config: usize,
    reading: &mut Reading<'_>,
) -> (Vec<Route>, Vec<Policy>) {
    let mut sides = BTreeMap::new();
    for server in
        hosts.iter().map(|host| host.server).chain(strays.iter().map(|stray| stray.server))
    {
        sides.entry(server).or_insert_with(|| {
            let side = Side::new(nginx, &nginx.servers[server], reading.tree);
            let paths = self::paths(&side, unsaid);
            (side, paths)
        });
    }
    let mut desk = Desk { nginx, hosts, config, sides, routes: Vec::new(), policies: Vec::new() };
    for place in hosts.iter().map(|host| host.server).collect::<BTreeSet<_>>() {
        desk.note(place, reading);
    }
    for stray in strays {
        desk.note_stray(stray, reading);
    }
    for host in hosts {
        desk.write(host, reading);
    }
    desk.note_shared(reading);
    (desk.routes, desk.policies)
}

/// The routes and policies written so far, with what they are made from.
struct Desk<'n> {
    nginx: &'n Nginx,
    hosts: &'n [Host],
    /// Number of the configuration.
    config: usize,
    /// Per server index: nginx' answers and Sidegate's paths.
    sides: BTreeMap<usize, (Side<'n>, Paths)>,
    routes: Vec<Route>,
    policies: Vec<Policy>,
}

impl Desk<'_> {
    fn write(&mut self, host: &Host, reading: &mut Reading<'_>) {
        let nginx = self.nginx;
        let server = &nginx.servers[host.server];
        let mut patterns = self.patterns(host).to_vec();
        if self.shuts_the_rest(host) {
            patterns.insert(0, ("/".into(), Target::Closed));
        }
        let both = patterns.clone();
        let has_prefix =
            |path: &str| both.iter().any(|(other, _)| other.strip_suffix('/') == Some(path));
        for (path, target) in patterns {
            let name = self.name(host, &path, has_prefix(&path));
            let route = match target {
                Target::Closed => {
                    let policy = self.policy(Policy::closed(), "closed");
                    Route {
                        name,
                        host: host.pattern.clone(),
                        path,
                        leads: Leads::Nowhere,
                        policy,
                        from: None,
                    }
                }
                Target::Open(place) => {
                    let location = &server.locations[place];
                    let (pass, level) = resolved(server, location);
                    let Some(pass) = pass else { continue };
                    let scopes = self.scopes(host.server, location);
                    let policy =
                        Policy::of(&location.level, level, server.id, nginx, &scopes, reading);
                    let policy = self.policy(policy, name.strip_suffix("-exact").unwrap_or(&name));
                    Carried { location, pass, level, route: &name, path: &path, policy: &policy }
                        .note(reading);
                    let leads = leads(location, pass, level, &path, reading);
                    Route {
                        name,
                        host: host.pattern.clone(),
                        path,
                        leads,
                        policy,
                        from: Some(location.id),
                    }
                }
            };
            self.routes.push(route);
        }
        let count = self.routes.iter().filter(|route| route.host == host.pattern).count();
        if count > 0 {
            let routes = if count == 1 { "route" } else { "routes" };
            reading.notes.say(
                server.id,
                Word::Carried,
                format!("{count} {routes} for host \"{}\"", host.pattern),
            );
        }
    }

    /// Returns whether `host` needs a closed route for everything that its server doesn't serve.
    /// Without it, the routes of a broader host would serve those requests.
    fn shuts_the_rest(&self, host: &Host) -> bool {
        let is_open =
            |other: &Host| self.patterns(other).iter().any(|(_, target)| *target != Target::Closed);
        let is_inside = self.hosts.iter().any(|other| other.is_around(host) && is_open(other));
        is_inside && !self.patterns(host).iter().any(|(path, _)| path == "/")
    }

    /// Returns the name of `policy`, or of an existing policy like it; `wish` is the preferred
    /// name of a new one.
    fn policy(&mut self, policy: Policy, wish: &str) -> String {
        if let Some(known) = self.policies.iter_mut().find(|known| known.is_like(&policy)) {
            known.limits.extend(policy.limits);
            return known.name.clone();
        }
        let name = free_name(wish, |name| {
            self.policies.iter().any(|policy| policy.name == name)
                || (name == "closed" && wish != name)
        });
        self.policies.push(Policy { name: name.clone(), ..policy });
        name
    }

    fn patterns(&self, host: &Host) -> &[(String, Target)] {
        self.sides.get(&host.server).map(|(_, paths)| &paths.patterns[..]).unwrap_or_default()
    }

    /// Returns the name of a route; `beside` if another route covers everything below its path.
    fn name(&self, host: &Host, path: &str, beside: bool) -> String {
        let host = slug(&host.label);
        let path = slug(path);
        let name = if path.is_empty() { host } else { format!("{host}-{path}") };
        let name = if beside { format!("{name}-exact") } else { name };
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
            && !RESERVED.contains(&name.as_str());
        let name = if plain { name } else { format!("r-{name}") };
        free_name(&name, |name| self.routes.iter().any(|route| route.name == name))
    }
}

/// Turns text into the part of a name: lower-case letters, digits and hyphens.
fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = text.chars().map(plain).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
