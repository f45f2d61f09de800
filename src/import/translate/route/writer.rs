//! The routes and policies of one configuration while they are made, and their names.

use std::collections::BTreeMap;

use crate::import::nginx::HttpBlock;
use crate::import::translate::compare::ModelledServer;
use crate::import::translate::host::{RouteHost, UnsupportedHosts};
use crate::import::translate::identity::ListenerIdentity;
use crate::import::translate::naming::free_name;
use crate::import::translate::paths::{PatternTarget, RoutePatterns};
use crate::import::translate::policy::OutputPolicy;
use crate::import::translate::route::value::OutputRoute;

/// Names that no policy may have (`docs/spec/formats.md`, "Rules for all files").
const RESERVED_NAMES: [&str; 5] = ["any", "unix", "none", "null", "baseline"];

/// What the routes of one configuration are made from.
#[derive(Clone, Copy)]
pub struct RouteSite<'n> {
    /// All servers and zones.
    pub nginx: &'n HttpBlock,
    /// The hosts of the configuration.
    pub hosts: &'n [RouteHost],
    /// Hosts that no route can express; their requests follow the routes of `*`.
    pub strays: &'n [UnsupportedHosts],
    /// How its listeners find the client of a request.
    pub identities: &'n [ListenerIdentity],
    /// Number of the configuration.
    pub config: usize,
}

/// The routes and policies written so far, with what they are made from.
pub struct RouteWriter<'n> {
    pub site: RouteSite<'n>,
    /// Per server index: nginx' answers and Sidegate's paths.
    pub sides: BTreeMap<usize, (ModelledServer<'n>, RoutePatterns)>,
    pub routes: Vec<OutputRoute>,
    pub policies: Vec<OutputPolicy>,
}

impl RouteWriter<'_> {
    /// Returns whether `host` needs a closed route for everything that its server doesn't serve.
    /// Without it, the routes of a broader host would serve those requests.
    pub fn shuts_the_rest(&self, host: &RouteHost) -> bool {
        let is_open = |other: &RouteHost| {
            self.patterns(other).iter().any(|(_, target)| *target != PatternTarget::Closed)
        };
        let is_inside = self.site.hosts.iter().any(|other| other.is_around(host) && is_open(other));
        is_inside && !self.patterns(host).iter().any(|(path, _)| path == "/")
    }

    /// Returns the name of `policy`, or of an existing policy like it; `wish` is the preferred
    /// name of a new one.
    pub fn policy(&mut self, policy: OutputPolicy, wish: &str) -> String {
        if let Some(known) = self.policies.iter_mut().find(|known| known.can_share(&policy)) {
            // For the notes on shared zones: the policy has the same limits by other directives.
            known.limits.extend(policy.limits);
            return known.name.clone();
        }
        let name = free_name(wish, |name| {
            self.policies.iter().any(|policy| policy.name == name)
                || (name == "closed" && wish != name)
        });
        self.policies.push(OutputPolicy { name: name.clone(), ..policy });
        name
    }

    pub fn patterns(&self, host: &RouteHost) -> &[(String, PatternTarget)] {
        self.sides.get(&host.server).map(|(_, paths)| &paths.patterns[..]).unwrap_or_default()
    }

    /// Returns the name of a route; `beside` if another route covers everything below its path.
    pub fn name(&self, host: &RouteHost, path: &str, beside: bool) -> String {
        let host = slug(&host.label);
        let path = slug(path);
        let name = if path.is_empty() { host } else { format!("{host}-{path}") };
        let name = if beside { format!("{name}-exact") } else { name };
        // A name begins with a letter; a label may begin with a digit, as an address does.
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
            && !RESERVED_NAMES.contains(&name.as_str());
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
