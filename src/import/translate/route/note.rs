//! Notes the differences of a server's routes, and the outcome of the directives behind them.

use std::collections::BTreeSet;

use crate::import::access::{AccessSubject, UserDecision, decide, decide_users};
use crate::import::nginx::ImportContext;
use crate::import::nginx::backend::{PassTarget, ProxyPass};
use crate::import::nginx::context::{ContextSettings, ProxyHeader};
use crate::import::nginx::location::{Location, LocationHandler, LocationMatch};
use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::model::{PathCoverage, RequestEnd, RequestOutcome, canonical};
use crate::import::nginx::regex::PathCell;
use crate::import::nginx::server::Server;
use crate::import::report::{ClosedPaths, DirectiveOutcome, NoteScope, ReportNotes};
use crate::import::translate::compare::{ModelledServer, OpeningReason};
use crate::import::translate::guard;
use crate::import::translate::host::UnsupportedHosts;
use crate::import::translate::paths::{
    Divergence, DivergenceKind, PathRegion, PatternTarget, RoutePatterns, regex_free_regions,
    regions,
};
use crate::import::translate::route::pass::{PathChange, alike, no_upgrade, path_change, resolved};
use crate::import::translate::route::writer::RouteWriter;
use crate::import::translate::route::{ambiguous, timeouts};
use crate::import::tree::{DirectiveId, Tree};

const NOTHING_PASSED: &str = "refused: nginx passes nothing on there";

impl RouteWriter<'_> {
    /// Returns the attempts that reach `location` of the server at `place`.
    pub fn scopes(&self, place: usize, location: &Location) -> Vec<NoteScope> {
        let Some((side, _)) = self.sides.get(&place) else { return Vec::new() };
        let matches = &location.matches;
        let is_prefix = match matches {
            LocationPattern::Prefix(path, _) => {
                PathCoverage::classify(path) != PathCoverage::Refused
            }
            _ => false,
        };
        if !is_prefix {
            return self.scoped(place, &matches.to_string(), &[]);
        }
        let locations = &side.server().locations;
        let is_found = |found: &LocationMatch| match found {
            LocationMatch::Location(at) => locations[*at].id == location.id,
            _ => false,
        };
        let cells: Vec<_> =
            side.model.cells().filter(|cell| is_found(&side.model.find(cell))).collect();
        let regions = regions(side, &cells).into_iter();
        regions.flat_map(|(region, but)| self.scoped(place, &region.to_string(), &but)).collect()
    }

    /// Returns the scopes of `path`, without `but`, on every host of the server at `place`.
    pub fn scoped(&self, place: usize, path: &str, but: &[PathRegion]) -> Vec<NoteScope> {
        let own = self.site.hosts.iter().filter(|host| host.server == place);
        own.map(|host| self.scope(&host.scope, path, but)).collect()
    }

    pub fn scope(&self, host: &str, path: &str, but: &[PathRegion]) -> NoteScope {
        let but = but.iter().map(PathRegion::to_string).collect();
        NoteScope {
            config: Some(self.site.config),
            host: host.to_owned(),
            path: path.to_owned(),
            but,
        }
    }

    /// Notes everything that the routes of a server can't express.
    pub fn note(&self, place: usize, context: &mut ImportContext<'_>) {
        let Some((side, paths)) = self.sides.get(&place) else { return };
        let server = side.server();
        if let Some(answer) = server.answer {
            let text =
                "nginx answers every request by itself; nothing is passed on, so all are refused";
            context.notes.add(answer, DirectiveOutcome::Differs, text);
        }
        for rewrite in &server.rewrites {
            let text =
                "paths are never rewritten: what it led elsewhere goes where its own path leads";
            let scopes = self.scoped(place, &rewrite.regex.to_string(), &[]);
            context.notes.add_scoped(rewrite.id, DirectiveOutcome::Differs, text, scopes);
        }
        let tree = context.tree;
        let decides = |id: &&DirectiveId| guard::rewrites(**id, tree) || guard::returns(**id, tree);
        for id in server.hurdles.iter().filter(decides) {
            let text = "conditions are not carried over: what it answered or led elsewhere goes \
                        where its own path leads";
            let scopes = self.scoped(place, "/", &[]);
            context.notes.add_scoped(*id, DirectiveOutcome::Differs, text, scopes);
        }
        let findings =
            paths.findings(server, side, |place, outcome| is_alike(server, place, outcome));
        let mut noted = BTreeSet::new();
        for finding in findings.iter().filter(|finding| finding.verdict == DivergenceKind::Closes) {
            self.note_finding(place, side, paths, finding, context);
        }
        for finding in findings.iter().filter(|finding| finding.verdict != DivergenceKind::Closes) {
            // One note per set of paths: naming each of its routes would be too long.
            let found: Vec<_> =
                self.found(side, finding).into_iter().map(|(path, _)| path).collect();
            if noted.insert((finding.nginx.by, format!("{:?}", finding.verdict), found)) {
                self.note_finding(place, side, paths, finding, context);
            }
        }
        for location in paths.refused.iter().map(|place| &server.locations[*place]) {
            let text = "every request with such a path is refused with 400";
            let scopes = self.scopes(place, location);
            context.notes.add_scoped(location.id, DirectiveOutcome::Closes, text, scopes);
        }
        for location in paths.unheard.iter().map(|place| &server.locations[*place]) {
            let text = "no request comes to it: nginx resolves dot segments and merges slashes before it \
                        looks for a location, and each path begins with a slash";
            context.notes.add(location.id, DirectiveOutcome::Dropped, text);
        }
        for number in 0..server.locations.len() {
            self.note_location(place, side, paths, number, &findings, context);
            if let Some(path) = ambiguous::elsewhere(side, paths, number) {
                let location = &server.locations[number];
                let text = format!(
                    "some servers read a path of it as {path:?}, which another route may decide about: \
                     such a request is refused with 400"
                );
                let scopes = self.scopes(place, location);
                context.notes.add_scoped(location.id, DirectiveOutcome::Closes, text, scopes);
            }
            self.note_slash(place, side, paths, number, context);
        }
    }

    /// Notes a path that nginx redirects to the same path with a slash and Sidegate refuses.
    /// Sidegate redirects only if no other route matches the path.
    fn note_slash(
        &self,
        place: usize,
        side: &ModelledServer<'_>,
        paths: &RoutePatterns,
        number: usize,
        context: &mut ImportContext<'_>,
    ) {
        let location = &side.server().locations[number];
        let bare = location
            .matches
            .path()
            .and_then(|path| path.strip_suffix('/'))
            .filter(|bare| canonical(bare).is_some());
        let Some(bare) = bare else { return };
        let (cell, slashed) =
            (PathCell::Exact(bare.to_owned()), PathCell::Exact(format!("{bare}/")));
        let is_sent = side.model.find(&cell) == LocationMatch::Redirect(number)
            && side.model.redirects(number);
        let own = self.site.hosts.iter().filter(|host| host.server == place);
        let is_around =
            paths.matches(&cell) || own.into_iter().any(|host| self.shuts_the_rest(host));
        let is_served = matches!(paths.find(&slashed), PatternTarget::Open(_));
        let is_passed =
            side.model.answers(&slashed).sure.iter().any(|outcome| side.passes_some(outcome));
        let what = match (is_served, is_around) {
            (true, true) => format!("another route matches {bare}, and it is refused"),
            (false, _) if is_passed => "both are refused".to_owned(),
            _ => return,
        };
        if is_sent {
            let text = format!("nginx sends plain HTTP for {bare} to {bare}/; here {what}");
            let scopes = self.scoped(place, &PathRegion::Exact(bare.to_owned()).to_string(), &[]);
            context.notes.add_scoped(location.id, DirectiveOutcome::Differs, text, scopes);
        }
    }

    /// Notes hosts that no route can express.
    pub fn note_stray(&self, stray: &UnsupportedHosts, context: &mut ImportContext<'_>) {
        let star = self.site.hosts.iter().find(|host| host.pattern == "*");
        let default = star.and_then(|host| self.sides.get(&host.server));
        let Some((default, paths)) = default else { return };
        let server = &self.site.nginx.servers[stray.server];
        let side =
            ModelledServer::new(self.site.nginx, server, context.tree).with_texts_of(default);
        let findings = paths.findings(default.server(), &side, |_, _| true);
        let opens =
            findings.iter().find(|finding| matches!(finding.verdict, DivergenceKind::Opens(_)));
        let scope = self.scope(&stray.scope, "/", &[]);
        if opens.is_some() {
            let text = "the default server's routes admit requests that nginx refused";
            context.notes.add_scoped(stray.id, DirectiveOutcome::Opens, text, vec![scope.clone()]);
        }
        context.notes.add_scoped(
            stray.id,
            DirectiveOutcome::Differs,
            stray.said.clone(),
            vec![scope],
        );
    }

    /// Returns the paths of a finding as nginx writes them, each with its exceptions.
    fn found(
        &self,
        side: &ModelledServer<'_>,
        finding: &Divergence,
    ) -> Vec<(String, Vec<PathRegion>)> {
        let server = side.server();
        let by = finding.nginx.by;
        let rewrites = server
            .rewrites
            .iter()
            .chain(server.locations.iter().flat_map(|location| &location.rewrites));
        let rewrite = rewrites.into_iter().find(|rewrite| rewrite.id == by);
        // A pattern is named as written: the cells know only its literal beginnings.
        let regex = server.locations.iter().find_map(|location| match &location.matches {
            LocationPattern::Regex(regex) if location.id == by => Some(regex),
            _ => None,
        });
        match (rewrite, regex) {
            (Some(rewrite), _) => vec![(rewrite.regex.to_string(), Vec::new())],
            (None, Some(regex)) => vec![(regex.to_string(), regex_free_regions(side))],
            (None, None) => {
                let all = regions(side, &finding.cells).into_iter();
                all.map(|(region, but)| (region.to_string(), but)).collect()
            }
        }
    }

    fn note_finding(
        &self,
        place: usize,
        side: &ModelledServer<'_>,
        paths: &RoutePatterns,
        finding: &Divergence,
        context: &mut ImportContext<'_>,
    ) {
        for (path, but) in self.found(side, finding) {
            let scopes = self.scoped(place, &path, &but);
            if finding.verdict == DivergenceKind::Closes {
                self.note_closed(place, &path, finding.nginx.by, context);
            }
            let text = text(side, paths, finding, &path, context.tree);
            let word = match finding.verdict {
                DivergenceKind::Opens(_) => DirectiveOutcome::Opens,
                DivergenceKind::Closes => DirectiveOutcome::Closes,
                DivergenceKind::Differs => DirectiveOutcome::Differs,
            };
            context.notes.add_scoped(finding.nginx.by, word, text, scopes);
        }
    }

    fn note_closed(
        &self,
        place: usize,
        path: &str,
        by: DirectiveId,
        context: &mut ImportContext<'_>,
    ) {
        for host in self.site.hosts.iter().filter(|host| host.server == place) {
            let closed = ClosedPaths { host: host.scope.clone(), path: path.to_owned(), by };
            context.notes.closed(closed);
        }
    }

    fn note_location(
        &self,
        place: usize,
        side: &ModelledServer<'_>,
        paths: &RoutePatterns,
        number: usize,
        findings: &[Divergence],
        context: &mut ImportContext<'_>,
    ) {
        let server = side.server();
        let location = &server.locations[number];
        let scopes = self.scopes(place, location);
        let routed =
            paths.patterns.iter().any(|(_, target)| *target == PatternTarget::Open(number));
        let id = location.id;
        match &location.serves {
            _ if server.answer.is_some() => {
                let text = "the server answers every request before a location is looked for";
                context.notes.add(id, DirectiveOutcome::Dropped, text);
            }
            LocationHandler::Answer(answer) => {
                guard::note_led_away(location, &scopes, context);
                match sent(location, side, paths) {
                    Some(path) => self.note_slash_answer(place, id, *answer, path, context),
                    None => note_refused_answer(id, *answer, scopes, context),
                }
            }
            LocationHandler::Other => {
                guard::note_led_away(location, &scopes, context);
                context.notes.add(id, DirectiveOutcome::Carried, NOTHING_PASSED);
            }
            // Its rules are judged where a location leads to it, and so have no note here.
            LocationHandler::Proxy(_) if matches!(location.matches, LocationPattern::Named(_)) => {
                let text = "its backend is that of the locations that lead there";
                context.notes.add(id, DirectiveOutcome::Carried, text);
            }
            LocationHandler::Named(..) | LocationHandler::Proxy(_) => {
                let told = findings.iter().any(|finding| finding.nginx.by == id);
                if !routed && !told && matches!(location.matches, LocationPattern::Regex(_)) {
                    let text = "no route can match it; what it matched goes where the rest of its \
                                path leads, by the same rules";
                    context.notes.add(id, DirectiveOutcome::Carried, text);
                }
                self.note_passed(side, number, routed, &scopes, context);
                let opened =
                    |id: &DirectiveId| findings.iter().any(|finding| is_opened(finding, *id));
                let (opened, closed): (Vec<_>, Vec<_>) =
                    side.guards(number).iter().copied().partition(opened);
                guard::note(&opened, true, &scopes, context);
                guard::note(&closed, false, &scopes, context);
                guard::note_rest(server, location, side.guards(number), &scopes, context);
            }
        }
    }

    /// Notes a location at `id` whose `answer` adds a slash, which Sidegate does for plain HTTP.
    fn note_slash_answer(
        &self,
        place: usize,
        id: DirectiveId,
        answer: DirectiveId,
        path: &str,
        context: &mut ImportContext<'_>,
    ) {
        let text = format!("route of {path}/, which sends plain HTTP for {path} there");
        context.notes.add(id, DirectiveOutcome::Carried, text);
        let text = format!(
            "308 to {path}/ with the query, for clients that may ask for {path}/; a WebSocket is \
             404"
        );
        let scopes = self.scoped(place, &PathRegion::Exact(path.to_owned()).to_string(), &[]);
        context.notes.add_scoped(answer, DirectiveOutcome::Differs, text, scopes);
    }

    fn note_passed(
        &self,
        side: &ModelledServer<'_>,
        number: usize,
        routed: bool,
        scopes: &[NoteScope],
        context: &mut ImportContext<'_>,
    ) {
        let server = side.server();
        let location = &server.locations[number];
        let (pass, settings) = resolved(server, location);
        if let LocationHandler::Named(id, name) = &location.serves {
            if pass.is_none() {
                let text = format!("what {name} does there can't be carried over: refused");
                return context.notes.add_scoped(
                    *id,
                    DirectiveOutcome::Closes,
                    text,
                    scopes.to_vec(),
                );
            }
            let text = format!("files are not served: every path goes to {name}");
            context.notes.add(*id, DirectiveOutcome::Differs, text);
        }
        if let (Some(pass), Some(lacks), true) =
            (pass, no_upgrade(settings, self.site.nginx), routed)
        {
            let text = format!(
                "nginx passed no upgrade on here ({lacks}); Sidegate passes WebSockets on like \
                 everything else, and the backend decides"
            );
            context.notes.add_scoped(pass.id, DirectiveOutcome::Upgrades, text, scopes.to_vec());
        }
    }

    /// Notes the limits that are no longer counted together, because several policies have them.
    pub fn note_shared(&self, context: &mut ImportContext<'_>) {
        for (zone, id) in self.policies.iter().flat_map(|policy| &policy.limits) {
            let sharing = self.policies.iter().filter(|policy| policy.limits.contains_key(zone));
            let names: Vec<_> = sharing.map(|policy| format!("`{}`", policy.name)).collect();
            // nginx counts a zone once for all locations; each policy here has a budget of its own.
            if names.len() > 1 {
                let text = format!(
                    "budgets are a policy's own: {} count each for itself",
                    names.join(", ")
                );
                context.notes.add(*id, DirectiveOutcome::Differs, text);
            }
        }
    }
}

/// Notes a location at `id` that nginx answers by itself, and which Sidegate refuses.
fn note_refused_answer(
    id: DirectiveId,
    answer: DirectiveId,
    scopes: Vec<NoteScope>,
    context: &mut ImportContext<'_>,
) {
    context.notes.add(id, DirectiveOutcome::Carried, NOTHING_PASSED);
    let (word, text) = match context.tree.lines[answer].name.as_str() {
        "internal" => (DirectiveOutcome::Carried, "refused, as nginx refused it"),
        _ => (DirectiveOutcome::Differs, "nginx answers by itself there: Sidegate refuses"),
    };
    context.notes.add_scoped(answer, word, text, scopes);
}

/// Returns the path that a location redirects to its slash, if Sidegate does so as well.
fn sent<'l>(
    location: &'l Location,
    side: &ModelledServer<'_>,
    paths: &RoutePatterns,
) -> Option<&'l str> {
    location.redirect.as_ref()?;
    let path = location.matches.path()?;
    (side.model.adds_slash(path) && paths.adds_slash(path)).then_some(path)
}

/// Returns whether an outcome leads to the same place as the location at `place`, by the same
/// rules.
fn is_alike(server: &Server, place: usize, outcome: &RequestOutcome) -> bool {
    let own = outcome.stages.first();
    outcome.end == RequestEnd::Passed
        && own.is_some_and(|own| *own == place || alike(server, place, *own))
}

/// Returns whether a finding admits requests that the guard `id` refused.
fn is_opened(finding: &Divergence, id: DirectiveId) -> bool {
    match &finding.verdict {
        DivergenceKind::Opens(OpeningReason::Guards(guards)) => guards.contains(&id),
        _ => false,
    }
}

/// Describes a finding about the paths of `location PATH`.
fn text(
    side: &ModelledServer<'_>,
    paths: &RoutePatterns,
    finding: &Divergence,
    path: &str,
    tree: &Tree,
) -> String {
    let server = side.server();
    let location = server.locations.iter().find(|location| location.id == finding.nginx.by);
    let is_regex =
        location.is_none_or(|location| matches!(location.matches, LocationPattern::Regex(_)));
    let what =
        if is_regex { "a path that it matches".to_owned() } else { format!("a path of `{path}`") };
    let to = match finding.sidegate {
        PatternTarget::Open(place) => format!("`location {}`", server.locations[place].matches),
        PatternTarget::Closed => String::new(),
    };
    match &finding.verdict {
        DivergenceKind::Opens(OpeningReason::Refused) => {
            format!("{what} goes where {to} leads; nginx passed none on")
        }
        DivergenceKind::Opens(OpeningReason::Guards(ids)) => {
            format!("{what} goes where {to} leads, without {}", named(ids, tree))
        }
        DivergenceKind::Opens(OpeningReason::Networks) => {
            format!("{what} goes where {to} leads, whose rules admit clients that nginx refused")
        }
        DivergenceKind::Opens(OpeningReason::Limits) => {
            format!("{what} goes where {to} leads, whose limits are not those of nginx")
        }
        DivergenceKind::Differs if finding.nginx.end == RequestEnd::Answered => {
            format!("{what} goes where {to} leads; nginx answered it by itself")
        }
        DivergenceKind::Differs => format!("{what} goes where {to} leads, and by its rules"),
        DivergenceKind::Closes => {
            format!("{what} is refused: {}", closed(side, paths, finding, location, tree))
        }
    }
}

/// Explains why paths are closed.
fn closed(
    side: &ModelledServer<'_>,
    paths: &RoutePatterns,
    finding: &Divergence,
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
        Some(location) if matches!(location.matches, LocationPattern::Regex(_)) => {
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
fn named(ids: &[DirectiveId], tree: &Tree) -> String {
    let all = ids.iter().map(|id| format!("`{}` ({})", tree.lines[*id].text, tree.place(*id)));
    all.collect::<Vec<_>>().join(", ")
}

/// A route that is written, and its origins.
pub struct CarriedRoute<'c> {
    /// The location that receives its requests in nginx.
    pub location: &'c Location,
    /// The `proxy_pass` for its requests.
    pub pass: &'c ProxyPass,
    /// The settings in force towards the backend.
    pub settings: &'c ContextSettings,
    /// Name of the route.
    pub route: &'c str,
    /// Path pattern of the route.
    pub path: &'c str,
    /// Name of the route's policy.
    pub policy: &'c str,
}

impl CarriedRoute<'_> {
    /// Notes the outcome of each directive behind the route; `has_users` says that users of this
    /// host reach it by a Unix socket.
    pub fn note(&self, has_users: bool, context: &mut ImportContext<'_>) {
        let notes = &mut context.notes;
        notes.add(
            self.location.id,
            DirectiveOutcome::Carried,
            format!("route `{}`, path = \"{}\", policy `{}`", self.route, self.path, self.policy),
        );
        let to = match (&self.pass.to, path_change(self.location, self.pass, self.path)) {
            (PassTarget::Unknown(_), _) => None,
            (PassTarget::Backends(_), PathChange::Prefix) => {
                Some("`backend` of the route, and `strip_prefix`")
            }
            (PassTarget::Backends(_), _) => Some("`backend` of the route"),
        };
        if let Some(to) = to {
            notes.add(self.pass.id, DirectiveOutcome::Carried, to);
        }
        if let Some(id) = self.pass.cut_by {
            notes.add(id, DirectiveOutcome::Carried, "`strip_prefix` of the route");
        }
        self.note_rules(has_users, notes);
        self.note_settings(notes);
        for header in &self.settings.headers {
            note_header(header, notes);
        }
        if !self.settings.headers.iter().any(|header| header.name == "host") {
            let text = "without a `proxy_set_header Host`, nginx sent its own name of the backend; here the \
                        backend gets `Host` as it came";
            notes.add(self.pass.id, DirectiveOutcome::Differs, text);
        }
    }

    fn note_rules(&self, has_users: bool, notes: &mut ReportNotes) {
        let rules = &self.location.settings.access;
        let users = has_users.then(|| decide_users(rules));
        let mut deciding: Vec<_> = decide(rules).iter().filter_map(|one| one.by).collect();
        deciding.extend(users.and_then(|users| users.by));
        if let (Some(UserDecision { by: None, .. }), Some(first)) = (users, rules.first()) {
            let text = "no rule is about users of this host, who all are admitted at the Unix \
                        socket. If that was not intended, write `deny unix:` here and import again";
            notes.add(first.id, DirectiveOutcome::FailsOpen, text);
        }
        for rule in rules {
            match rule.whom {
                AccessSubject::Unix if !has_users => {
                    notes.add(rule.id, DirectiveOutcome::Dropped, "no listener is a Unix socket");
                }
                _ if deciding.contains(&rule.id) => {
                    notes.add(
                        rule.id,
                        DirectiveOutcome::Carried,
                        format!("policies/{}.toml", self.policy),
                    );
                }
                _ => notes.add(
                    rule.id,
                    DirectiveOutcome::Carried,
                    "decides nothing: a rule before it does, or one around it says the same",
                ),
            }
        }
    }

    fn note_settings(&self, notes: &mut ReportNotes) {
        let settings = self.settings;
        let backends = match &self.pass.to {
            PassTarget::Backends(backends) => backends.len(),
            PassTarget::Unknown(_) => 0,
        };
        for (id, word, text) in timeouts::notes(settings, backends) {
            notes.add(id, word, text);
        }
        if let Some(set) = settings.max_body {
            let off = "`max_body = \"off\"` of the route: no limit";
            let text = if set.value == 0 { off } else { "`max_body` of the route" };
            notes.add(set.id, DirectiveOutcome::Carried, text);
        }
        if let Some(set) = settings.http_11 {
            notes.add(set.id, DirectiveOutcome::Needless, "a route speaks HTTP/1.1 to its backend");
        }
    }
}

/// Returns whether Sidegate itself sets the header `name` to the meaning of `value`.
fn is_set(name: &str, value: &str) -> bool {
    let own = match name {
        // Sidegate replaces the whole field, so a list that nginx would extend differs.
        "x-forwarded-for" => "$remote_addr",
        "x-forwarded-proto" => "$scheme",
        "x-forwarded-host" => "$http_host",
        "x-request-id" => "$request_id",
        _ => return false,
    };
    value == own
}

fn note_header(header: &ProxyHeader, notes: &mut ReportNotes) {
    let (word, text) = match header.name.as_str() {
        "upgrade" | "connection" => (DirectiveOutcome::Needless, "a route does it by itself"),
        "host" if header.value == "$http_host" => {
            (DirectiveOutcome::Needless, "the backend gets `Host` as it came")
        }
        "host" => (DirectiveOutcome::Differs, "the backend gets `Host` as it came, port and all"),
        "x-forwarded-for" if header.value == "$proxy_add_x_forwarded_for" => (
            DirectiveOutcome::Differs,
            "the client's address alone: what a client sent in it is removed",
        ),
        name if is_set(name, &header.value) => {
            (DirectiveOutcome::Needless, "Sidegate sets it by itself")
        }
        "x-forwarded-port" => (
            DirectiveOutcome::Differs,
            "Sidegate sets it: `public_port`, else the port of `Host` or of the scheme",
        ),
        "x-forwarded-prefix" => (
            DirectiveOutcome::Differs,
            "Sidegate sets it on a route with `strip_prefix`, to the path that is stripped",
        ),
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-request-id" => (
            DirectiveOutcome::Differs,
            "Sidegate sets it by itself, from the request and its connection",
        ),
        "x-real-ip" => {
            (DirectiveOutcome::Differs, "removed: `X-Forwarded-For` has the client's address alone")
        }
        _ if header.value.contains("$ssl_client_") => (
            DirectiveOutcome::Differs,
            "the backend no longer gets it: `client_certificate` of the route sends the \
             certificate as `Client-Cert` (RFC 9440)",
        ),
        "accept-encoding" | "origin" => {
            (DirectiveOutcome::Dropped, "the backend gets it as it came")
        }
        _ => {
            (DirectiveOutcome::Differs, "the backend no longer gets it: headers are not to be set")
        }
    };
    notes.add(header.id, word, text);
}
