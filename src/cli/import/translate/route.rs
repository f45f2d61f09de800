//! Routes: for each host the patterns of its server, each with its backends and its policy.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::import::access::{Whom, decided};
use crate::cli::import::nginx::backend::{Pass, To};
use crate::cli::import::nginx::level::Level;
use crate::cli::import::nginx::location::{Location, Matches, Serves, Whole};
use crate::cli::import::nginx::server::Server;
use crate::cli::import::nginx::{Nginx, Reading};
use crate::cli::import::report::{Scope, Word};
use crate::cli::import::translate::host::Host;
use crate::cli::import::translate::paths::{Gap, Paths, Target, deeper, is_final, paths};
use crate::cli::import::translate::policy::Policy;
use crate::cli::import::translate::{free_name, guard};
use crate::cli::import::tree::Id;

/// A `[[route]]`.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Where it leads.
    pub leads: Leads,
    /// Its policy's name.
    pub policy: String,
    /// The location that it came from.
    pub from: Option<Id>,
}

/// Where a route leads.
#[derive(Debug)]
pub enum Leads {
    /// To these backends.
    To {
        /// Never empty, but where they are unknown.
        backends: Vec<String>,
        /// Why they are unknown.
        unknown: Option<String>,
        /// Whether the path is cut off.
        strip_prefix: bool,
        /// `max_body`, in bytes; `None`: the default.
        max_body: Option<u64>,
        /// `timeouts.dial`
        dial: Option<Duration>,
        /// `timeouts.write_stall`
        write_stall: Option<Duration>,
    },
    /// Nowhere: its policy admits nobody.
    Nowhere,
}

/// What no policy may be called (FORMATS).
const RESERVED: [&str; 5] = ["any", "unix", "none", "null", "baseline"];

/// More than any body: nginx' 0.
const NO_LIMIT: u64 = 1 << 50;

/// The routes for `hosts`, and their policies.
pub fn routes(nginx: &Nginx, hosts: &[Host], reading: &mut Reading<'_>) -> (Vec<Route>, Vec<Policy>) {
    let mut paths = BTreeMap::new();
    for host in hosts {
        paths.entry(host.server).or_insert_with(|| self::paths(&nginx.servers[host.server]));
    }
    let mut desk = Desk { nginx, hosts, paths, routes: Vec::new(), policies: Vec::new() };
    for (place, paths) in &desk.paths {
        desk.note(*place, paths, reading);
    }
    for host in hosts {
        desk.write(host, reading);
    }
    desk.note_shared(reading);
    (desk.routes, desk.policies)
}

/// What is written so far.
struct Desk<'n> {
    nginx: &'n Nginx,
    hosts: &'n [Host],
    /// Of each server, by place.
    paths: BTreeMap<usize, Paths>,
    routes: Vec<Route>,
    policies: Vec<Policy>,
}

impl Desk<'_> {
    fn write(&mut self, host: &Host, reading: &mut Reading<'_>) {
        let nginx = self.nginx;
        let server = &nginx.servers[host.server];
        let mut patterns = self.patterns(host).to_vec();
        let is_open = |other: &Host| self.patterns(other).iter().any(|(_, target)| *target != Target::Closed);
        // Else a broader host's routes would serve what this server doesn't.
        if self.hosts.iter().any(|other| other.is_around(host) && is_open(other)) && !patterns.iter().any(|(path, _)| path == "/")
        {
            patterns.insert(0, ("/".into(), Target::Closed));
        }
        let both = patterns.clone();
        let has_prefix = |path: &str| both.iter().any(|(other, _)| other.strip_suffix('/') == Some(path));
        for (path, target) in patterns {
            let name = self.name(host, &path, has_prefix(&path));
            let route = match target {
                Target::Closed => {
                    let policy = self.policy(Policy::closed(), "closed");
                    Route { name, host: host.pattern.clone(), path, leads: Leads::Nowhere, policy, from: None }
                }
                Target::Open(place) => {
                    let location = &server.locations[place];
                    let (pass, level) = resolved(server, location);
                    let Some(pass) = pass else { continue };
                    let scopes = self.scopes(host.server, location);
                    let policy = Policy::of(&location.level, level, server.id, nginx, &scopes, reading);
                    let policy = self.policy(policy, name.strip_suffix("-exact").unwrap_or(&name));
                    note_carried(location, pass, level, &name, &path, &policy, reading);
                    let leads = leads(location, pass, level, &path, reading);
                    Route { name, host: host.pattern.clone(), path, leads, policy, from: Some(location.id) }
                }
            };
            self.routes.push(route);
        }
        let count = self.routes.iter().filter(|route| route.host == host.pattern).count();
        if count > 0 {
            let routes = if count == 1 { "route" } else { "routes" };
            reading.notes.say(server.id, Word::Carried, format!("{count} {routes} for host \"{}\"", host.pattern));
        }
    }

    /// The name of `policy`, or of one like it; `wish` is what it is called if it is new.
    fn policy(&mut self, policy: Policy, wish: &str) -> String {
        if let Some(known) = self.policies.iter_mut().find(|known| known.is_like(&policy)) {
            known.limits.extend(policy.limits);
            return known.name.clone();
        }
        let name =
            free_name(wish, |name| self.policies.iter().any(|policy| policy.name == name) || (name == "closed" && wish != name));
        self.policies.push(Policy { name: name.clone(), ..policy });
        name
    }

    fn patterns(&self, host: &Host) -> &[(String, Target)] {
        self.paths.get(&host.server).map(|paths| &paths.patterns[..]).unwrap_or_default()
    }

    /// The name of a route; `beside` another for all that is below its path.
    fn name(&self, host: &Host, path: &str, beside: bool) -> String {
        let host = slug(&host.label);
        let path = slug(path);
        let name = if path.is_empty() { host } else { format!("{host}-{path}") };
        let name = if beside { format!("{name}-exact") } else { name };
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase()) && !RESERVED.contains(&name.as_str());
        let name = if plain { name } else { format!("r-{name}") };
        free_name(&name, |name| self.routes.iter().any(|route| route.name == name))
    }

    /// The attempts that come to `location` of the server at `place`.
    fn scopes(&self, place: usize, location: &Location) -> Vec<Scope> {
        let server = &self.nginx.servers[place];
        let (path, but) = match &location.matches {
            Matches::Prefix(path, _) | Matches::Literal(path, Whole::No) => (path.clone(), deeper(server, path)),
            other => (other.to_string(), Vec::new()),
        };
        self.scoped(place, &path, &but)
    }

    /// These paths on every host of the server at `place`.
    fn scoped(&self, place: usize, path: &str, but: &[String]) -> Vec<Scope> {
        let own = self.hosts.iter().filter(|host| host.server == place);
        own.map(|host| Scope { host: host.scope.clone(), path: path.to_owned(), but: but.to_owned() }).collect()
    }

    /// Notes all that the routes of a server can't say.
    fn note(&self, place: usize, paths: &Paths, reading: &mut Reading<'_>) {
        let server = &self.nginx.servers[place];
        if let Some(answer) = server.answer {
            reading.notes.say(
                answer,
                Word::Differs,
                "nginx answers every request by itself; nothing is passed on, so all are refused",
            );
        }
        for (id, regex) in &server.rewrites {
            let text = "paths are never rewritten: what it led elsewhere goes where its own path leads";
            reading.notes.say_of(*id, Word::Differs, text, self.scoped(place, &format!("~ {regex}"), &[]));
        }
        for gap in &paths.gaps {
            self.note_gap(place, gap, reading);
        }
        for location in paths.unheard.iter().map(|place| &server.locations[*place]) {
            reading.notes.say(location.id, Word::Closes, "a request with such a path is refused with 400, whoever sends it");
        }
        let open = paths.patterns.iter().any(|(_, target)| *target != Target::Closed);
        for location in &server.locations {
            self.note_location(place, server, location, open, reading);
        }
    }

    fn note_gap(&self, place: usize, gap: &Gap, reading: &mut Reading<'_>) {
        let server = &self.nginx.servers[place];
        let (word, what) = match (gap.nginx, gap.sidegate) {
            (Target::Open(one), Target::Open(other)) if alike(server, one, other) => return,
            (Target::Open(one), Target::Open(other)) => {
                let (one, other) = (&server.locations[one].matches, &server.locations[other].matches);
                (Word::Differs, format!("go where `location {other}` leads, not `location {one}`, and by its rules"))
            }
            (Target::Open(_), Target::Closed) => (Word::Closes, "are refused".to_owned()),
            (Target::Closed, Target::Open(other)) => (
                Word::Opens,
                format!("go where `location {}` leads; nginx passed none of them on", server.locations[other].matches),
            ),
            (Target::Closed, Target::Closed) => return,
        };
        let text = format!("a route's path is exact or ends at a slash, so paths of `{}` {what}", gap.path);
        let scopes = self.scoped(place, &gap.path, &gap.but);
        reading.notes.say_of(server.locations[gap.location].id, word, text, scopes);
    }

    fn note_location(&self, place: usize, server: &Server, location: &Location, open: bool, reading: &mut Reading<'_>) {
        let passes = matches!(location.serves, Serves::Proxy(_) | Serves::Named(..));
        if let Matches::Regex(regex) = &location.matches {
            let finals = server
                .locations
                .iter()
                .filter(|other| is_final(other))
                .map(|other| other.matches.to_string())
                .collect::<Vec<_>>();
            let (word, text) = match (passes, open) {
                (true, true) => (
                    Word::Differs,
                    "regular expressions are not carried over: what it matched goes where the rest of its path leads, by the rules there",
                ),
                (true, false) => (
                    Word::Closes,
                    "regular expressions are not carried over: what it matched is refused. Write routes for what it was meant to match",
                ),
                (false, true) => (
                    Word::Opens,
                    "regular expressions are not carried over: nginx passed on nothing that it matched, and Sidegate passes it on where the rest of its path leads",
                ),
                (false, false) => (Word::Dropped, "regular expressions are not carried over; nothing of it was passed on"),
            };
            reading.notes.say_of(location.id, word, text, self.scoped(place, regex, &finals));
            return;
        }
        let scopes = self.scopes(place, location);
        match &location.serves {
            _ if server.answer.is_some() => {
                reading.notes.say(location.id, Word::Dropped, "the server answers every request before a location is looked for");
            }
            Serves::Answer(id) => {
                reading.notes.say(location.id, Word::Carried, "refused: nginx passes nothing on there");
                if reading.tree.lines[*id].name == "internal" {
                    return reading.notes.say(*id, Word::Carried, "refused, as nginx refused it");
                }
                reading.notes.say(*id, Word::Differs, "nginx answers by itself there: Sidegate refuses");
            }
            Serves::Other => reading.notes.say(location.id, Word::Carried, "refused: nginx passes nothing on there"),
            Serves::Named(id, name) => match resolved(server, location) {
                (Some(pass), level) => {
                    reading.notes.say(*id, Word::Differs, format!("files are not served: every path goes to {name}"));
                    self.note_passed(server, location, pass, level, &scopes, reading);
                }
                (None, _) => {
                    let text = format!("what {name} does there can't be carried over: refused");
                    reading.notes.say_of(*id, Word::Closes, text, scopes);
                }
            },
            Serves::Proxy(_) if matches!(location.matches, Matches::Named(_)) => {
                reading.notes.say(location.id, Word::Carried, "its backend is that of the locations that lead there");
            }
            Serves::Proxy(pass) => self.note_passed(server, location, pass, &location.level, &scopes, reading),
        }
    }

    fn note_passed(
        &self,
        server: &Server,
        location: &Location,
        pass: &Pass,
        level: &Level,
        scopes: &[Scope],
        reading: &mut Reading<'_>,
    ) {
        guard::note(server, location, &location.level, scopes, reading);
        if let Some(lacks) = no_upgrade(level, self.nginx) {
            let text = format!(
                "nginx passed no upgrade on here ({lacks}); Sidegate passes WebSockets on like everything else, and the backend decides"
            );
            reading.notes.say_of(pass.id, Word::Opens, text, scopes.to_vec());
        }
    }

    /// Says which limits are no longer counted together.
    fn note_shared(&self, reading: &mut Reading<'_>) {
        for (zone, id) in self.policies.iter().flat_map(|policy| &policy.limits) {
            let sharing = self.policies.iter().filter(|policy| policy.limits.contains_key(zone));
            let names: Vec<_> = sharing.map(|policy| format!("`{}`", policy.name)).collect();
            if names.len() > 1 {
                let text = format!("budgets are a policy's own: {} count each for itself", names.join(", "));
                reading.notes.say(*id, Word::Differs, text);
            }
        }
    }
}

/// Who passes on what comes to `location`, and what holds there for the backend.
fn resolved<'s>(server: &'s Server, location: &'s Location) -> (Option<&'s Pass>, &'s Level) {
    match &location.serves {
        Serves::Proxy(pass) => (Some(pass), &location.level),
        Serves::Named(_, name) => match server.named(name) {
            Some(Location { serves: Serves::Proxy(pass), level, .. }) if level.access == location.level.access => {
                (Some(pass), level)
            }
            _ => (None, &location.level),
        },
        Serves::Answer(_) | Serves::Other => (None, &location.level),
    }
}

/// Whether two locations decide alike and lead to the same place.
fn alike(server: &Server, one: usize, other: usize) -> bool {
    let (one, other) = (&server.locations[one], &server.locations[other]);
    let ((Some(pass), level), (Some(other_pass), other_level)) = (resolved(server, one), resolved(server, other)) else {
        return false;
    };
    let same_limits = level.rates == other_level.rates && level.counts == other_level.counts;
    pass.to == other_pass.to
        && pass.path.is_none()
        && other_pass.path.is_none()
        && level.access == other_level.access
        && same_limits
}

/// What keeps nginx from passing an upgrade on; `None`: nothing does.
fn no_upgrade(level: &Level, nginx: &Nginx) -> Option<&'static str> {
    let header = |name: &str| level.headers.iter().rev().find(|header| header.name == name).map(|header| header.value.as_str());
    let Some(upgrade) = header("upgrade") else { return Some("no `proxy_set_header Upgrade` holds") };
    if upgrade != "$http_upgrade" && !upgrade.eq_ignore_ascii_case("websocket") {
        return Some("`Upgrade` is set to something else");
    }
    let connection = header("connection").unwrap_or("close");
    let connection = nginx.upgrades.get(connection).map_or(connection, String::as_str);
    // Another variable may be anything; who sets it here means WebSockets.
    if !connection.contains('$') && !connection.to_ascii_lowercase().contains("upgrade") {
        return Some("`Connection` doesn't say `upgrade`");
    }
    if !level.http_11.is_some_and(|set| set.value) {
        return Some("`proxy_http_version` is not 1.1");
    }
    None
}

/// What the path becomes that the backend sees.
enum Cut {
    /// It stays.
    Nothing,
    /// The route's path goes.
    Prefix,
    /// Something else, which can't be written.
    Other,
}

fn cut(location: &Location, pass: &Pass, path: &str) -> Cut {
    let own = location.matches.path().unwrap_or_default();
    let here = path == own || path.strip_suffix('/') == Some(own);
    if pass.cut_by.is_some() {
        return if own == "/" {
            Cut::Nothing
        } else if here {
            Cut::Prefix
        } else {
            Cut::Other
        };
    }
    match pass.path.as_deref() {
        None | Some("$request_uri" | "$uri" | "$uri$is_args$args") => Cut::Nothing,
        Some(to) if to == own => Cut::Nothing,
        Some("/") if here => Cut::Prefix,
        Some(_) => Cut::Other,
    }
}

fn leads(location: &Location, pass: &Pass, level: &Level, path: &str, reading: &mut Reading<'_>) -> Leads {
    let strip_prefix = match cut(location, pass, path) {
        Cut::Nothing => false,
        Cut::Prefix => true,
        Cut::Other => {
            let text = format!(
                "the backend gets the path as it came: `{}` in its place can't be carried over",
                pass.path.as_deref().unwrap_or("/")
            );
            reading.notes.say(pass.id, Word::Differs, text);
            false
        }
    };
    let own = location.matches.path().unwrap_or_default();
    if strip_prefix && !own.ends_with('/') && matches!(location.matches, Matches::Prefix(..)) {
        let text = format!("nginx made `//x` of `{own}/x`; here the backend gets `/x`");
        reading.notes.say(pass.id, Word::Differs, text);
    }
    let (backends, unknown) = match &pass.to {
        To::Backends(backends) => (backends.clone(), None),
        To::Unknown(why) => (Vec::new(), Some(why.clone())),
    };
    let max_body = level.max_body.map(|set| if set.value == 0 { NO_LIMIT } else { set.value });
    let dial = level.connect_timeout.map(|set| set.value).filter(|time| !time.is_zero());
    let write_stall = level.send_timeout.map(|set| set.value).filter(|time| !time.is_zero());
    Leads::To { backends, unknown, strip_prefix, max_body, dial, write_stall }
}

/// Notes what became of the directives that a route and its policy were made of.
fn note_carried(
    location: &Location,
    pass: &Pass,
    level: &Level,
    name: &str,
    path: &str,
    policy: &str,
    reading: &mut Reading<'_>,
) {
    let notes = &mut reading.notes;
    notes.say(location.id, Word::Carried, format!("route `{name}`, path = \"{path}\""));
    let to = match (&pass.to, cut(location, pass, path)) {
        (To::Unknown(_), _) => None,
        (To::Backends(_), Cut::Prefix) => Some("`backend` of the route, and `strip_prefix`"),
        (To::Backends(_), _) => Some("`backend` of the route"),
    };
    if let Some(to) = to {
        notes.say(pass.id, Word::Carried, to);
    }
    if let Some(id) = pass.cut_by {
        notes.say(id, Word::Carried, "`strip_prefix` of the route");
    }
    let deciding: Vec<_> = decided(&location.level.access).iter().filter_map(|one| one.by).collect();
    for rule in &location.level.access {
        match rule.whom {
            Whom::Unix => notes.say(rule.id, Word::Dropped, "no listener is a Unix socket"),
            _ if deciding.contains(&rule.id) => notes.say(rule.id, Word::Carried, format!("policies/{policy}.toml")),
            _ => notes.say(rule.id, Word::Carried, "decides nothing: a rule before it does, or one around it says the same"),
        }
    }
    if let Some(set) = location.level.read_timeout {
        let text = "`idle` of the policy: no frame either way, where nginx counted bytes; `[timeouts] response` (30 s) holds before the 101";
        notes.say(set.id, Word::Carried, text);
    }
    if let Some(set) = level.send_timeout {
        notes.say(
            set.id,
            Word::Carried,
            "`timeouts.write_stall` of the route: either side takes nothing for so long; `idle` is its `proxy_read_timeout`",
        );
    }
    if let Some(set) = level.connect_timeout {
        notes.say(set.id, Word::Carried, "`timeouts.dial` of the route");
    }
    if let Some(set) = level.max_body {
        notes.say(set.id, Word::Carried, "`max_body` of the route");
    }
    if let Some(set) = level.http_11 {
        notes.say(set.id, Word::Needless, "a route speaks HTTP/1.1 to its backend");
    }
    for header in &level.headers {
        let (word, text) = match header.name.as_str() {
            "upgrade" | "connection" => (Word::Needless, "a route does it by itself"),
            "host" if header.value == "$http_host" => (Word::Needless, "the backend gets `Host` as it came"),
            "host" => (Word::Differs, "the backend gets `Host` as it came, port and all"),
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" | "x-request-id" => {
                (Word::Needless, "Sidegate sets it by itself")
            }
            "x-real-ip" => (Word::Differs, "removed: `X-Forwarded-For` has the client's address alone"),
            "accept-encoding" | "origin" => (Word::Dropped, "the backend gets it as it came"),
            _ => (Word::Differs, "the backend no longer gets it: headers are not to be set"),
        };
        notes.say(header.id, word, text);
    }
}

/// Text as the part of a name.
fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = text.chars().map(plain).collect();
    text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
