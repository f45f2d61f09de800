//! Notes the differences of a server's routes, and the outcome of the directives behind them.

use std::collections::BTreeSet;

use crate::import::access::{Whom, decided};
use crate::import::nginx::Reading;
use crate::import::nginx::backend::{Pass, To};
use crate::import::nginx::level::{Header, Level};
use crate::import::nginx::location::{Found, Location, Serves};
use crate::import::nginx::matches::Matches;
use crate::import::nginx::model::{End, Named, Outcome, canonical};
use crate::import::nginx::regex::Cell;
use crate::import::nginx::server::Server;
use crate::import::report::{Closed, Notes, Scope, Word};
use crate::import::translate::compare::{Reason, Side};
use crate::import::translate::guard;
use crate::import::translate::host::Stray;
use crate::import::translate::paths::{Finding, Paths, Region, Target, Verdict, finals, regions};
use crate::import::translate::route::desk::Desk;
use crate::import::translate::route::pass::{Cut, alike, cut, no_upgrade, resolved};
use crate::import::translate::route::{readings, timeouts};
use crate::import::tree::{Id, Tree};

impl Desk<'_> {
    /// Returns the attempts that reach `location` of the server at `place`.
    pub fn scopes(&self, place: usize, location: &Location) -> Vec<Scope> {
        let Some((side, _)) = self.sides.get(&place) else { return Vec::new() };
        let matches = &location.matches;
        if !matches!(matches, Matches::Prefix(path, _) if Named::by(path) != Named::Refused) {
            return self.scoped(place, &matches.to_string(), &[]);
        }
        let locations = &side.server().locations;
        let is_found = |found: &Found| matches!(found, Found::Location(at) if locations[*at].id == location.id);
        let cells: Vec<_> =
            side.model.cells().filter(|cell| is_found(&side.model.find(cell))).collect();
        let regions = regions(side, &cells).into_iter();
        regions.flat_map(|(region, but)| self.scoped(place, &region.to_string(), &but)).collect()
    }

    /// Returns the scopes of `path`, without `but`, on every host of the server at `place`.
    fn scoped(&self, place: usize, path: &str, but: &[Region]) -> Vec<Scope> {
        let own = self.hosts.iter().filter(|host| host.server == place);
        own.map(|host| self.scope(&host.scope, path, but)).collect()
    }

    fn scope(&self, host: &str, path: &str, but: &[Region]) -> Scope {
        let but = but.iter().map(Region::to_string).collect();
        Scope { config: Some(self.config), host: host.to_owned(), path: path.to_owned(), but }
    }

    /// Notes everything that the routes of a server can't express.
    pub fn note(&self, place: usize, reading: &mut Reading<'_>) {
        let Some((side, paths)) = self.sides.get(&place) else { return };
        let server = side.server();
        if let Some(answer) = server.answer {
            let text =
                "nginx answers every request by itself; nothing is passed on, so all are refused";
            reading.notes.say(answer, Word::Differs, text);
        }
        for rewrite in &server.rewrites {
            let text =
                "paths are never rewritten: what it led elsewhere goes where its own path leads";
            let scopes = self.scoped(place, &rewrite.regex.to_string(), &[]);
            reading.notes.say_of(rewrite.id, Word::Differs, text, scopes);
        }
        let tree = reading.tree;
        let decides = |id: &&Id| guard::rewrites(**id, tree) || guard::returns(**id, tree);
        for id in server.hurdles.iter().filter(decides) {
            let text = "conditions are not carried over: what it answered or led elsewhere goes where its own path leads";
            reading.notes.say_of(*id, Word::Differs, text, self.scoped(place, "/", &[]));
        }
        let findings =
            paths.findings(server, side, |place, outcome| is_alike(server, place, outcome));
        let mut noted = BTreeSet::new();
        for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Closes) {
            self.note_finding(place, side, paths, finding, reading);
        }
        for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Closes) {
            // One note per set of paths: naming each of its routes would be too long.
            let found: Vec<_> =
                self.found(side, finding).into_iter().map(|(path, _)| path).collect();
            if noted.insert((finding.nginx.by, format!("{:?}", finding.verdict), found)) {
                self.note_finding(place, side, paths, finding, reading);
            }
        }
        for location in paths.refused.iter().map(|place| &server.locations[*place]) {
            let text = "every request with such a path is refused with 400";
            reading.notes.say_of(location.id, Word::Closes, text, self.scopes(place, location));
        }
        for location in paths.unheard.iter().map(|place| &server.locations[*place]) {
            let text = "no request comes to it: nginx resolves dot segments and merges slashes before it \
                        looks for a location, and each path begins with a slash";
            reading.notes.say(location.id, Word::Dropped, text);
        }
        for number in 0..server.locations.len() {
            self.note_location(place, (side, paths), number, &findings, reading);
            if let Some(path) = readings::elsewhere((side, paths), number) {
                let location = &server.locations[number];
                let text = format!(
                    "some servers read a path of it as {path:?}, which another route may decide about: \
                     such a request is refused with 400"
                );
                reading.notes.say_of(location.id, Word::Closes, text, self.scopes(place, location));
            }
            self.note_slash(place, (side, paths), number, reading);
        }
    }

    /// Notes a path that nginx redirects to the same path with a slash and Sidegate refuses.
    /// Sidegate redirects only if no other route matches the path.
    fn note_slash(
        &self,
        place: usize,
        (side, paths): (&Side<'_>, &Paths),
        number: usize,
        reading: &mut Reading<'_>,
    ) {
        let location = &side.server().locations[number];
        let bare = location
            .matches
            .path()
            .and_then(|path| path.strip_suffix('/'))
            .filter(|bare| canonical(bare).is_some());
        let Some(bare) = bare else { return };
        let (cell, slashed) = (Cell::Exact(bare.to_owned()), Cell::Exact(format!("{bare}/")));
        let is_sent = side.model.find(&cell) == Found::Redirect(number);
        let own = self.hosts.iter().filter(|host| host.server == place);
        let is_around =
            paths.matches(&cell) || own.into_iter().any(|host| self.shuts_the_rest(host));
        let is_served = matches!(paths.find(&slashed), Target::Open(_));
        let is_passed =
            side.model.answers(&slashed).sure.iter().any(|outcome| side.passes_some(outcome));
        let what = match (is_served, is_around) {
            (true, true) => format!("another route matches {bare}, and it is refused"),
            (false, _) if is_passed => "both are refused".to_owned(),
            _ => return,
        };
        if is_sent {
            let text = format!("nginx sends plain HTTP for {bare} to {bare}/; here {what}");
            let scopes = self.scoped(place, &Region::Exact(bare.to_owned()).to_string(), &[]);
            reading.notes.say_of(location.id, Word::Differs, text, scopes);
        }
    }

    /// Notes hosts that no route can express.
    pub fn note_stray(&self, stray: &Stray, reading: &mut Reading<'_>) {
        let star = self.hosts.iter().find(|host| host.pattern == "*");
        let default = star.and_then(|host| self.sides.get(&host.server));
        let Some((default, paths)) = default else { return };
        let server = &self.nginx.servers[stray.server];
        let side = Side::new(self.nginx, server, reading.tree).with_texts_of(default);
        let findings = paths.findings(default.server(), &side, |_, _| true);
        let opens = findings.iter().find(|finding| matches!(finding.verdict, Verdict::Opens(_)));
        let scope = self.scope(&stray.scope, "/", &[]);
        if opens.is_some() {
            let text = "the default server's routes admit requests that nginx refused";
            reading.notes.say_of(stray.id, Word::Opens, text, vec![scope.clone()]);
        }
        reading.notes.say_of(stray.id, Word::Differs, stray.said.clone(), vec![scope]);
    }

    /// Returns the paths of a finding as nginx writes them, each with its exceptions.
    fn found(&self, side: &Side<'_>, finding: &Finding) -> Vec<(String, Vec<Region>)> {
        let server = side.server();
        let by = finding.nginx.by;
        let rewrites = server
            .rewrites
            .iter()
            .chain(server.locations.iter().flat_map(|location| &location.rewrites));
        let rewrite = rewrites.into_iter().find(|rewrite| rewrite.id == by);
        let regex = server.locations.iter().find_map(|location| match &location.matches {
            Matches::Regex(regex) if location.id == by => Some(regex),
            _ => None,
        });
        match (rewrite, regex) {
            (Some(rewrite), _) => vec![(rewrite.regex.to_string(), Vec::new())],
            (None, Some(regex)) => vec![(regex.to_string(), finals(side))],
            (None, None) => {
                let all = regions(side, &finding.cells).into_iter();
                all.map(|(region, but)| (region.to_string(), but)).collect()
            }
        }
    }

    fn note_finding(
        &self,
        place: usize,
        side: &Side<'_>,
        paths: &Paths,
        finding: &Finding,
        reading: &mut Reading<'_>,
    ) {
        for (path, but) in self.found(side, finding) {
            let scopes = self.scoped(place, &path, &but);
            if finding.verdict == Verdict::Closes {
                self.note_closed(place, &path, finding.nginx.by, reading);
            }
            let text = text(side, paths, finding, &path, reading.tree);
            let word = match finding.verdict {
                Verdict::Opens(_) => Word::Opens,
                Verdict::Closes => Word::Closes,
                Verdict::Differs => Word::Differs,
            };
            reading.notes.say_of(finding.nginx.by, word, text, scopes);
        }
    }

    fn note_closed(&self, place: usize, path: &str, by: Id, reading: &mut Reading<'_>) {
        for host in self.hosts.iter().filter(|host| host.server == place) {
            let closed = Closed { host: host.scope.clone(), path: path.to_owned(), by };
            reading.notes.closed(closed);
        }
    }

    fn note_location(
        &self,
        place: usize,
        (side, paths): (&Side<'_>, &Paths),
        number: usize,
        findings: &[Finding],
        reading: &mut Reading<'_>,
    ) {
        let server = side.server();
        let location = &server.locations[number];
        let scopes = self.scopes(place, location);
        let routed = paths.patterns.iter().any(|(_, target)| *target == Target::Open(number));
        let id = location.id;
        match &location.serves {
            _ if server.answer.is_some() => {
                let text = "the server answers every request before a location is looked for";
                reading.notes.say(id, Word::Dropped, text);
            }
            Serves::Answer(answer) => {
                guard::note_led_away(location, &scopes, reading);
                if let Some(path) = sent(location, (side, paths)) {
                    let text = format!("route of {path}/, which sends plain HTTP for {path} there");
                    reading.notes.say(id, Word::Carried, text);
                    let text = format!(
                        "308 to {path}/ with the query, for clients that may ask for {path}/; a WebSocket is 404"
                    );
                    let scopes =
                        self.scoped(place, &Region::Exact(path.to_owned()).to_string(), &[]);
                    return reading.notes.say_of(*answer, Word::Differs, text, scopes);
                }
                reading.notes.say(id, Word::Carried, "refused: nginx passes nothing on there");
                let (word, text) = match reading.tree.lines[*answer].name.as_str() {
                    "internal" => (Word::Carried, "refused, as nginx refused it"),
                    _ => (Word::Differs, "nginx answers by itself there: Sidegate refuses"),
                };
                reading.notes.say_of(*answer, word, text, scopes);
            }
            Serves::Other => {
                guard::note_led_away(location, &scopes, reading);
                reading.notes.say(id, Word::Carried, "refused: nginx passes nothing on there");
            }
            Serves::Proxy(_) if matches!(location.matches, Matches::Named(_)) => {
                let text = "its backend is that of the locations that lead there";
                reading.notes.say(id, Word::Carried, text);
            }
            Serves::Named(..) | Serves::Proxy(_) => {
                let told = findings.iter().any(|finding| finding.nginx.by == id);
                if !routed && !told && matches!(location.matches, Matches::Regex(_)) {
                    let text = "no route can match it; what it matched goes where the rest of its path leads, by the same rules";
                    reading.notes.say(id, Word::Carried, text);
                }
                self.note_passed(side, number, routed, &scopes, reading);
                let opened = |id: &Id| findings.iter().any(|finding| is_opened(finding, *id));
                let (opened, closed): (Vec<_>, Vec<_>) =
                    side.guards(number).iter().copied().partition(opened);
                guard::note(&opened, true, &scopes, reading);
                guard::note(&closed, false, &scopes, reading);
                guard::note_rest(server, location, side.guards(number), &scopes, reading);
            }
        }
    }

    fn note_passed(
        &self,
        side: &Side<'_>,
        number: usize,
        routed: bool,
        scopes: &[Scope],
        reading: &mut Reading<'_>,
    ) {
        let server = side.server();
        let location = &server.locations[number];
        let (pass, level) = resolved(server, location);
        if let Serves::Named(id, name) = &location.serves {
            if pass.is_none() {
                let text = format!("what {name} does there can't be carried over: refused");
                return reading.notes.say_of(*id, Word::Closes, text, scopes.to_vec());
            }
            let text = format!("files are not served: every path goes to {name}");
            reading.notes.say(*id, Word::Differs, text);
        }
        if let (Some(pass), Some(lacks), true) = (pass, no_upgrade(level, self.nginx), routed) {
            let text = format!(
                "nginx passed no upgrade on here ({lacks}); Sidegate passes WebSockets on like everything else, and the backend decides"
            );
            reading.notes.say_of(pass.id, Word::Upgrades, text, scopes.to_vec());
        }
    }

    /// Notes the limits that are no longer counted together, because several policies have them.
    pub fn note_shared(&self, reading: &mut Reading<'_>) {
        for (zone, id) in self.policies.iter().flat_map(|policy| &policy.limits) {
            let sharing = self.policies.iter().filter(|policy| policy.limits.contains_key(zone));
            let names: Vec<_> = sharing.map(|policy| format!("`{}`", policy.name)).collect();
            if names.len() > 1 {
                let text = format!(
                    "budgets are a policy's own: {} count each for itself",
                    names.join(", ")
                );
                reading.notes.say(*id, Word::Differs, text);
            }
        }
    }
}

/// Returns the path that a location redirects to its slash, if Sidegate does so as well.
fn sent<'l>(location: &'l Location, (side, paths): (&Side<'_>, &Paths)) -> Option<&'l str> {
    location.redirect.as_ref()?;
    let path = location.matches.path()?;
    (side.model.adds_slash(path) && paths.adds_slash(path)).then_some(path)
}

/// Returns whether an outcome leads to the same place as the location at `place`, by the same
/// rules.
fn is_alike(server: &Server, place: usize, outcome: &Outcome) -> bool {
    let own = outcome.stages.first();
    outcome.end == End::Passed && own.is_some_and(|own| *own == place || alike(server, place, *own))
}

/// Returns whether a finding admits requests that the guard `id` refused.
fn is_opened(finding: &Finding, id: Id) -> bool {
    matches!(&finding.verdict, Verdict::Opens(Reason::Guards(guards)) if guards.contains(&id))
}

/// Describes a finding about the paths of `location PATH`.
fn text(side: &Side<'_>, paths: &Paths, finding: &Finding, path: &str, tree: &Tree) -> String {
    let server = side.server();
    let location = server.locations.iter().find(|location| location.id == finding.nginx.by);
    let is_regex = location.is_none_or(|location| matches!(location.matches, Matches::Regex(_)));
    let what =
        if is_regex { "a path that it matches".to_owned() } else { format!("a path of `{path}`") };
    let to = match finding.sidegate {
        Target::Open(place) => format!("`location {}`", server.locations[place].matches),
        Target::Closed => String::new(),
    };
    match &finding.verdict {
        Verdict::Opens(Reason::Refused) => {
            format!("{what} goes where {to} leads; nginx passed none on")
        }
        Verdict::Opens(Reason::Guards(ids)) => {
            format!("{what} goes where {to} leads, without {}", named(ids, tree))
        }
        Verdict::Opens(Reason::Networks) => {
            format!("{what} goes where {to} leads, whose rules admit clients that nginx refused")
        }
        Verdict::Opens(Reason::Limits) => {
            format!("{what} goes where {to} leads, whose limits are not those of nginx")
        }
        Verdict::Differs if finding.nginx.end == End::Answered => {
            format!("{what} goes where {to} leads; nginx answered it by itself")
        }
        Verdict::Differs => format!("{what} goes where {to} leads, and by its rules"),
        Verdict::Closes => {
            format!("{what} is refused: {}", closed(side, paths, finding, location, tree))
        }
    }
}

/// Explains why paths are closed.
fn closed(
    side: &Side<'_>,
    paths: &Paths,
    finding: &Finding,
    location: Option<&Location>,
    tree: &Tree,
) -> String {
    let guards: BTreeSet<_> =
        finding.nginx.stages.iter().flat_map(|place| side.guards(*place)).copied().collect();
    if !guards.is_empty() {
        return format!(
            "{} can't be carried over",
            named(&guards.into_iter().collect::<Vec<_>>(), tree)
        );
    }
    let begins =
        |shut: &&String| finding.cells.iter().any(|cell| cell.text().starts_with(shut.as_str()));
    if let Some(shut) = paths.shut.iter().find(begins) {
        return format!("a pattern that begins with `{shut}` may refuse it");
    }
    match location {
        None => "paths are never rewritten".into(),
        Some(location) if matches!(location.matches, Matches::Regex(_)) => {
            "no route can match it. Write routes for what it was meant to match".into()
        }
        Some(location) if !location.rewrites.is_empty() => {
            "a `rewrite` may lead it to where nginx refuses it, or a route's path can't say it"
                .into()
        }
        Some(_) => "a route's path is exact or ends at a slash".into(),
    }
}

/// Lists directives with their places.
fn named(ids: &[Id], tree: &Tree) -> String {
    let all = ids.iter().map(|id| format!("`{}` ({})", tree.lines[*id].text, tree.place(*id)));
    all.collect::<Vec<_>>().join(", ")
}

/// A route that is written, and its origins.
pub struct Carried<'c> {
    /// The location that receives its requests in nginx.
    pub location: &'c Location,
    /// The `proxy_pass` for its requests.
    pub pass: &'c Pass,
    /// The settings in force towards the backend.
    pub level: &'c Level,
    /// Name of the route.
    pub route: &'c str,
    /// Path pattern of the route.
    pub path: &'c str,
    /// Name of the route's policy.
    pub policy: &'c str,
}

impl Carried<'_> {
    /// Notes the outcome of each directive behind the route.
    pub fn note(&self, reading: &mut Reading<'_>) {
        let notes = &mut reading.notes;
        notes.say(
            self.location.id,
            Word::Carried,
            format!("route `{}`, path = \"{}\", policy `{}`", self.route, self.path, self.policy),
        );
        let to = match (&self.pass.to, cut(self.location, self.pass, self.path)) {
            (To::Unknown(_), _) => None,
            (To::Backends(_), Cut::Prefix) => Some("`backend` of the route, and `strip_prefix`"),
            (To::Backends(_), _) => Some("`backend` of the route"),
        };
        if let Some(to) = to {
            notes.say(self.pass.id, Word::Carried, to);
        }
        if let Some(id) = self.pass.cut_by {
            notes.say(id, Word::Carried, "`strip_prefix` of the route");
        }
        self.note_rules(notes);
        self.note_settings(notes);
        for header in &self.level.headers {
            note_header(header, notes);
        }
        if !self.level.headers.iter().any(|header| header.name == "host") {
            let text = "without a `proxy_set_header Host`, nginx sent its own name of the backend; here the \
                        backend gets `Host` as it came";
            notes.say(self.pass.id, Word::Differs, text);
        }
    }

    fn note_rules(&self, notes: &mut Notes) {
        let deciding: Vec<_> =
            decided(&self.location.level.access).iter().filter_map(|one| one.by).collect();
        for rule in &self.location.level.access {
            match rule.whom {
                Whom::Unix => notes.say(rule.id, Word::Dropped, "no listener is a Unix socket"),
                _ if deciding.contains(&rule.id) => {
                    notes.say(rule.id, Word::Carried, format!("policies/{}.toml", self.policy));
                }
                _ => notes.say(
                    rule.id,
                    Word::Carried,
                    "decides nothing: a rule before it does, or one around it says the same",
                ),
            }
        }
    }

    fn note_settings(&self, notes: &mut Notes) {
        let level = self.level;
        let backends = match &self.pass.to {
            To::Backends(backends) => backends.len(),
            To::Unknown(_) => 0,
        };
        for (id, word, text) in timeouts::notes(level, backends) {
            notes.say(id, word, text);
        }
        if let Some(set) = level.max_body {
            let off = "`max_body = \"off\"` of the route: no limit";
            let text = if set.value == 0 { off } else { "`max_body` of the route" };
            notes.say(set.id, Word::Carried, text);
        }
        if let Some(set) = level.http_11 {
            notes.say(set.id, Word::Needless, "a route speaks HTTP/1.1 to its backend");
        }
    }
}

/// Returns whether Sidegate itself sets the header `name` to the meaning of `value`.
fn is_set(name: &str, value: &str) -> bool {
    let own = match name {
        "x-forwarded-for" => "$remote_addr",
        "x-forwarded-proto" => "$scheme",
        "x-forwarded-host" => "$http_host",
        "x-forwarded-port" => "$server_port",
        "x-request-id" => "$request_id",
        _ => return false,
    };
    value == own
}

fn note_header(header: &Header, notes: &mut Notes) {
    let (word, text) = match header.name.as_str() {
        "upgrade" | "connection" => (Word::Needless, "a route does it by itself"),
        "host" if header.value == "$http_host" => {
            (Word::Needless, "the backend gets `Host` as it came")
        }
        "host" => (Word::Differs, "the backend gets `Host` as it came, port and all"),
        "x-forwarded-for" if header.value == "$proxy_add_x_forwarded_for" => {
            (Word::Differs, "the client's address alone: what a client sent in it is removed")
        }
        name if is_set(name, &header.value) => (Word::Needless, "Sidegate sets it by itself"),
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port"
        | "x-request-id" => {
            (Word::Differs, "Sidegate sets it by itself, from the request and its connection")
        }
        "x-real-ip" => (Word::Differs, "removed: `X-Forwarded-For` has the client's address alone"),
        "accept-encoding" | "origin" => (Word::Dropped, "the backend gets it as it came"),
        _ => (Word::Differs, "the backend no longer gets it: headers are not to be set"),
    };
    notes.say(header.id, word, text);
}
