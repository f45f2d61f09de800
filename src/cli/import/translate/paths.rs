//! A server's locations as the patterns of routes.
//!
//! nginx' prefixes end anywhere, Sidegate's at a slash; a path is looked up among a few that stand for all others, and
//! what the patterns can't say is told as a difference. It writes nothing and knows no host.

use std::collections::BTreeSet;

use crate::cli::import::nginx::location::{Found, Location, Matches, Regexes, Serves, find};
use crate::cli::import::nginx::server::Server;
use sidegate::policy::route::PathPattern;

/// Follows a prefix where no location's name goes on.
const OTHER: char = '\u{10ffff}';

/// Where the requests for a pattern go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The location at this place passes them on.
    Open(usize),
    /// Nobody does.
    Closed,
}

/// What the patterns of a server can't say, at one location.
#[derive(Debug, PartialEq, Eq)]
pub struct Gap {
    /// The location, by place.
    pub location: usize,
    /// The paths, as a `location`.
    pub path: String,
    /// The locations among them that it isn't about.
    pub but: Vec<String>,
    /// Where nginx leads them.
    pub nginx: Target,
    /// Where Sidegate does.
    pub sidegate: Target,
}

/// A server's routes, but for their host.
#[derive(Debug)]
pub struct Paths {
    /// Canonical patterns, the shortest first; what none matches is closed.
    pub patterns: Vec<(String, Target)>,
    /// What they can't say.
    pub gaps: Vec<Gap>,
    /// The locations whose path no request has, or none that Sidegate takes.
    pub unheard: Vec<usize>,
}

/// A pattern before it is escaped: the exact path, or the beginning up to a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Raw {
    Exact(String),
    Below(String),
}

/// The patterns of `server`.
pub fn paths(server: &Server) -> Paths {
    let mut paths = Paths { patterns: Vec::new(), gaps: Vec::new(), unheard: Vec::new() };
    if server.answer.is_some() {
        return paths;
    }
    let mut raws = BTreeSet::from([Raw::Below("/".into())]);
    for (place, location) in server.locations.iter().enumerate() {
        let Some(path) = location.matches.path() else { continue };
        if canonical(path).is_none() {
            paths.unheard.push(place);
            continue;
        }
        if path.ends_with('/') {
            raws.insert(Raw::Below(path.to_owned()));
            let bare = path.trim_end_matches('/');
            raws.extend((!bare.is_empty()).then(|| Raw::Exact(bare.to_owned())));
        } else {
            raws.insert(Raw::Below(format!("{path}/")));
            raws.insert(Raw::Exact(path.to_owned()));
        }
    }
    let mut raws: Vec<_> = raws.into_iter().collect();
    raws.sort_by_key(|raw| (raw.text().len(), raw.clone()));

    let mut written = Written(Vec::new());
    for raw in raws {
        let target = match &raw {
            Raw::Exact(path) => target(server, path),
            Raw::Below(path) => below(server, path, &mut paths.gaps),
        };
        if written.find(&raw.inside()) != target {
            written.0.push((raw, target));
        }
    }
    for (place, location) in server.locations.iter().enumerate() {
        paths.gaps.extend(gap(server, place, location, &written));
    }
    let escaped = |(raw, target): (Raw, Target)| Some((canonical(raw.text())?, target));
    paths.patterns = written.0.into_iter().filter_map(escaped).collect();
    paths
}

/// Where nginx leads `path`.
pub fn target(server: &Server, path: &str) -> Target {
    match find(&server.locations, &server.outermost, path) {
        Found::Location(place) if passes(server, place) => Target::Open(place),
        Found::Location(_) | Found::Redirect(_) | Found::None => Target::Closed,
    }
}

/// Whether the location at `place` passes requests on.
fn passes(server: &Server, place: usize) -> bool {
    let location = &server.locations[place];
    match &location.serves {
        Serves::Proxy(_) => true,
        Serves::Named(_, name) => server.named(name).is_some_and(|named| {
            // Both have their say in nginx; only one policy can.
            matches!(named.serves, Serves::Proxy(_)) && named.level.access == location.level.access
        }),
        Serves::Answer(_) | Serves::Other => false,
    }
}

/// Where what begins with `path`, which ends in a slash, goes; no pattern tells `path` itself from that.
fn below(server: &Server, path: &str, gaps: &mut Vec<Gap>) -> Target {
    let more = format!("{path}{OTHER}");
    let (at, below) = (target(server, path), target(server, &more));
    if at == below {
        return below;
    }
    let Found::Location(location) = find(&server.locations, &server.outermost, path) else { return below };
    let refuses = match find(&server.locations, &server.outermost, &more) {
        Found::Location(place) => matches!(server.locations[place].serves, Serves::Answer(_)),
        Found::Redirect(_) | Found::None => false,
    };
    // What is served at this path alone is worth more than that nothing is below it; what is refused below is not.
    if matches!((at, below), (Target::Open(_), Target::Closed)) && !refuses {
        let but = deeper(server, path);
        gaps.push(Gap { location, path: path.to_owned(), but, nginx: below, sidegate: at });
        return at;
    }
    gaps.push(Gap { location, path: format!("= {path}"), but: Vec::new(), nginx: at, sidegate: below });
    below
}

/// Where the prefix of a location goes on without a slash, and Sidegate leads that elsewhere.
fn gap(server: &Server, place: usize, location: &Location, written: &Written) -> Option<Gap> {
    let path = location.matches.path().filter(|path| !path.ends_with('/') && canonical(path).is_some())?;
    let more = format!("{path}{OTHER}");
    let (nginx, sidegate) = (target(server, &more), written.find(&more));
    if nginx == sidegate || find(&server.locations, &server.outermost, &more) != Found::Location(place) {
        return None;
    }
    let but = deeper(server, path);
    Some(Gap { location: place, path: format!("~ ^{}[^/]", regex_escaped(path)), but, nginx, sidegate })
}

/// The locations whose path begins with `path` and goes on, as they are written.
pub fn deeper(server: &Server, path: &str) -> Vec<String> {
    let all = server.locations.iter().map(|location| &location.matches);
    let longer = |matches: &&Matches| matches.path().is_some_and(|own| own.len() > path.len() && own.starts_with(path));
    all.filter(longer).map(Matches::to_string).collect()
}

/// Text as a regular expression for it.
pub fn regex_escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if r".*+?()[]{}|^$\".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// `path` as a route writes it; `None`: no request that Sidegate takes has it.
fn canonical(path: &str) -> Option<String> {
    let escaped = path.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'#' | b'?') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    });
    PathPattern::parse(&escaped).ok().map(|_| escaped)
}

/// What was written so far, as Sidegate looks it up.
struct Written(Vec<(Raw, Target)>);

impl Written {
    fn find(&self, path: &str) -> Target {
        let exact = self.0.iter().find(|(raw, _)| matches!(raw, Raw::Exact(own) if own == path));
        let below = self.0.iter().filter(|(raw, _)| matches!(raw, Raw::Below(own) if path.starts_with(own.as_str())));
        let found = exact.or_else(|| below.max_by_key(|(raw, _)| raw.text().len()));
        found.map_or(Target::Closed, |(_, target)| *target)
    }
}

impl Raw {
    fn text(&self) -> &str {
        match self {
            Raw::Exact(path) | Raw::Below(path) => path,
        }
    }

    /// A path that it matches.
    fn inside(&self) -> String {
        match self {
            Raw::Exact(path) => path.clone(),
            Raw::Below(path) => format!("{path}{OTHER}"),
        }
    }
}

/// Whether regular expressions that were not read may take a path from the location at `place`.
pub fn is_final(location: &Location) -> bool {
    matches!(location.matches, Matches::Exact(_) | Matches::Prefix(_, Regexes::Skipped))
}
