//! Routes: for each host the path patterns of its server, each with backends and policy.

mod desk;
mod note;
mod pass;
mod readings;
pub mod timeouts;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use self::desk::Desk;
use self::note::Carried;
use self::pass::{leads, resolved};
pub use self::timeouts::Timeouts;
pub use self::value::{Leads, MaxBody, Route};
use crate::import::nginx::{Nginx, Reading};
use crate::import::report::Word;
use crate::import::translate::compare::Side;
use crate::import::translate::host::{Host, Stray};
use crate::import::translate::paths::{Target, Unsaid, paths};
use crate::import::translate::policy::Policy;

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
}
