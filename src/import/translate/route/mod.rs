//! Routes: for each host the path patterns of its server, each with backends and policy.

mod ambiguous;
mod client;
mod note;
mod pass;
pub mod timeouts;
mod value;
mod writer;

use std::collections::{BTreeMap, BTreeSet};

use self::note::CarriedRoute;
use self::pass::{leads, resolved};
pub use self::timeouts::Timeouts;
pub use self::value::{MaxBody, OutputRoute, RouteTarget};
pub use self::writer::RouteSite;
use self::writer::RouteWriter;
use crate::import::nginx::ImportContext;
use crate::import::report::DirectiveOutcome;
use crate::import::translate::compare::ModelledServer;
use crate::import::translate::host::RouteHost;
use crate::import::translate::paths::{GuardHandling, PatternTarget, paths};
use crate::import::translate::policy::OutputPolicy;

/// Returns the routes and policies of `site`; `unsaid` decides about guards that can't be carried
/// over.
pub fn routes(
    site: RouteSite<'_>,
    unsaid: GuardHandling,
    context: &mut ImportContext<'_>,
) -> (Vec<OutputRoute>, Vec<OutputPolicy>) {
    let RouteSite { nginx, hosts, strays, .. } = site;
    let mut sides = BTreeMap::new();
    for server in
        hosts.iter().map(|host| host.server).chain(strays.iter().map(|stray| stray.server))
    {
        sides.entry(server).or_insert_with(|| {
            let side = ModelledServer::new(nginx, &nginx.servers[server], context.tree);
            let paths = self::paths(&side, unsaid);
            (side, paths)
        });
    }
    let mut writer = RouteWriter { site, sides, routes: Vec::new(), policies: Vec::new() };
    for place in hosts.iter().map(|host| host.server).collect::<BTreeSet<_>>() {
        writer.note(place, context);
        writer.note_identity(place, context);
    }
    for stray in strays {
        writer.note_stray(stray, context);
        writer.note_stray_identity(stray, context);
    }
    for host in hosts {
        writer.write(host, context);
    }
    writer.note_shared(context);
    (writer.routes, writer.policies)
}

impl RouteWriter<'_> {
    fn write(&mut self, host: &RouteHost, context: &mut ImportContext<'_>) {
        let nginx = self.site.nginx;
        let server = &nginx.servers[host.server];
        let mut patterns = self.patterns(host).to_vec();
        if self.shuts_the_rest(host) {
            // In front, since the patterns are sorted by length.
            patterns.insert(0, ("/".into(), PatternTarget::Closed));
        }
        let both = patterns.clone();
        let has_prefix =
            |path: &str| both.iter().any(|(other, _)| other.strip_suffix('/') == Some(path));
        for (path, target) in patterns {
            let name = self.name(host, &path, has_prefix(&path));
            let route = match target {
                PatternTarget::Closed => {
                    let policy = self.policy(OutputPolicy::closed(), "closed");
                    let host = host.pattern.clone();
                    OutputRoute { name, host, path, leads: RouteTarget::Closed, policy, from: None }
                }
                PatternTarget::Open(place) => {
                    let location = &server.locations[place];
                    let (pass, settings) = resolved(server, location);
                    // Never: a pattern is open only where one policy can express the location.
                    let Some(pass) = pass else { continue };
                    let scopes = self.scopes(host.server, location);
                    let own = &location.settings;
                    let policy =
                        OutputPolicy::from_level(own, settings, server, nginx, &scopes, context);
                    let policy = self.policy(policy, name.strip_suffix("-exact").unwrap_or(&name));
                    let (route, path_of, named) = (&*name, &*path, &*policy);
                    CarriedRoute { location, pass, settings, route, path: path_of, policy: named }
                        .note(server.has_users(), context);
                    let leads = leads(location, pass, settings, &path, context);
                    let (host, from) = (host.pattern.clone(), Some(location.id));
                    OutputRoute { name, host, path, leads, policy, from }
                }
            };
            self.routes.push(route);
        }
        let count = self.routes.iter().filter(|route| route.host == host.pattern).count();
        if count > 0 {
            let routes = if count == 1 { "route" } else { "routes" };
            let text = format!("{count} {routes} for host \"{}\"", host.pattern);
            context.notes.add(server.id, DirectiveOutcome::Carried, text);
        }
    }
}
