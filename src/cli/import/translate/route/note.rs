//! What the routes of a server can't say, and what became of the directives that they were made of.

use crate::cli::import::access::{Whom, decided};
use crate::cli::import::nginx::Reading;
use crate::cli::import::nginx::backend::{Pass, To};
use crate::cli::import::nginx::level::{Header, Level};
use crate::cli::import::nginx::location::{Location, Matches, Serves, Whole};
use crate::cli::import::nginx::server::Server;
use crate::cli::import::report::{Notes, Scope, Word};
use crate::cli::import::translate::guard;
use crate::cli::import::translate::paths::{Gap, Paths, Region, Target, deeper, finals};
use crate::cli::import::translate::route::Desk;
use crate::cli::import::translate::route::pass::{Cut, alike, cut, no_upgrade, resolved};

impl Desk<'_> {
    /// The attempts that come to `location` of the server at `place`.
    pub fn scopes(&self, place: usize, location: &Location) -> Vec<Scope> {
        let server = &self.nginx.servers[place];
        let (path, but) = match &location.matches {
            Matches::Prefix(path, _) | Matches::Literal(path, Whole::No) => (path.clone(), deeper(server, path)),
            other => (other.to_string(), Vec::new()),
        };
        self.scoped(place, &path, &but)
    }

    /// These paths on every host of the server at `place`.
    fn scoped(&self, place: usize, path: &str, but: &[Region]) -> Vec<Scope> {
        let own = self.hosts.iter().filter(|host| host.server == place);
        own.map(|host| Scope {
            config: Some(self.config),
            host: host.scope.clone(),
            path: path.to_owned(),
            but: but.iter().map(Region::to_string).collect(),
        })
        .collect()
    }

    /// Notes all that the routes of a server can't say.
    pub fn note(&self, place: usize, paths: &Paths, reading: &mut Reading<'_>) {
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
        let text = format!("a route's path is exact or ends at a slash, so paths of `{}` {what}", gap.paths);
        let scopes = self.scoped(place, &gap.paths.to_string(), &gap.but);
        reading.notes.say_of(server.locations[gap.location].id, word, text, scopes);
    }

    fn note_location(&self, place: usize, server: &Server, location: &Location, open: bool, reading: &mut Reading<'_>) {
        let passes = matches!(location.serves, Serves::Proxy(_) | Serves::Named(..));
        if let Matches::Regex(regex) = &location.matches {
            let (word, text) = match (passes, open) {
                (true, true) => (
                    Word::Differs,
                    "regular expressions are not carried over: what it matched goes where the rest of its path leads, by the rules there, or is refused",
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
            reading.notes.say_of(location.id, word, text, self.scoped(place, regex, &finals(server)));
            return;
        }
        let scopes = self.scopes(place, location);
        match &location.serves {
            _ if server.answer.is_some() => {
                reading.notes.say(location.id, Word::Dropped, "the server answers every request before a location is looked for");
            }
            Serves::Answer(id) => {
                guard::note_led_away(location, &scopes, reading);
                reading.notes.say(location.id, Word::Carried, "refused: nginx passes nothing on there");
                if reading.tree.lines[*id].name == "internal" {
                    return reading.notes.say(*id, Word::Carried, "refused, as nginx refused it");
                }
                reading.notes.say(*id, Word::Differs, "nginx answers by itself there: Sidegate refuses");
            }
            Serves::Other => {
                guard::note_led_away(location, &scopes, reading);
                reading.notes.say(location.id, Word::Carried, "refused: nginx passes nothing on there");
            }
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
    pub fn note_shared(&self, reading: &mut Reading<'_>) {
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

/// A route that is written, and what it was made of.
pub struct Carried<'c> {
    /// Where its requests come in nginx.
    pub location: &'c Location,
    /// How they are passed on.
    pub pass: &'c Pass,
    /// What holds there for the backend.
    pub level: &'c Level,
    /// Its name.
    pub route: &'c str,
    /// Its path.
    pub path: &'c str,
    /// Its policy's name.
    pub policy: &'c str,
}

impl Carried<'_> {
    /// Notes what became of the directives.
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
    }

    fn note_rules(&self, notes: &mut Notes) {
        let deciding: Vec<_> = decided(&self.location.level.access).iter().filter_map(|one| one.by).collect();
        for rule in &self.location.level.access {
            match rule.whom {
                Whom::Unix => notes.say(rule.id, Word::Dropped, "no listener is a Unix socket"),
                _ if deciding.contains(&rule.id) => notes.say(rule.id, Word::Carried, format!("policies/{}.toml", self.policy)),
                _ => notes.say(rule.id, Word::Carried, "decides nothing: a rule before it does, or one around it says the same"),
            }
        }
    }

    fn note_settings(&self, notes: &mut Notes) {
        let level = self.level;
        let idle = "`idle` of the policy: no frame either way, where nginx counted bytes; `[timeouts] response` (30 s) holds before the 101";
        let stall = "`timeouts.write_stall` of the route: either side takes nothing for so long; a silent tunnel ends by `idle`";
        let settings = [
            (level.read_timeout.map(|set| set.id), Word::Carried, idle),
            (level.send_timeout.map(|set| set.id), Word::Carried, stall),
            (level.connect_timeout.map(|set| set.id), Word::Carried, "`timeouts.dial` of the route"),
            (level.max_body.map(|set| set.id), Word::Carried, "`max_body` of the route"),
            (level.http_11.map(|set| set.id), Word::Needless, "a route speaks HTTP/1.1 to its backend"),
        ];
        for (id, word, text) in settings {
            if let Some(id) = id {
                notes.say(id, word, text);
            }
        }
    }
}

fn note_header(header: &Header, notes: &mut Notes) {
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
