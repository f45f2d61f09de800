//! A server's locations as the patterns of routes.
//!
//! nginx' prefixes end anywhere, Sidegate's at a slash; a path is looked up among a few that stand for all others, and
//! what the patterns can't say is told as a difference. It writes nothing and knows no host.

use std::collections::BTreeSet;
use std::fmt;

use crate::cli::import::nginx::location::{Found, Location, Matches, Regexes, Serves, Whole, find};
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
    /// The paths.
    pub paths: Region,
    /// Those among them that it isn't about.
    pub but: Vec<Region>,
    /// Where nginx leads them.
    pub nginx: Target,
    /// Where Sidegate does.
    pub sidegate: Target,
}

impl Gap {
    /// Whether it is about `path`.
    fn holds(&self, path: &str) -> bool {
        self.paths.holds(path) && !self.but.iter().any(|but| but.holds(path))
    }
}

/// Some paths. Displays as the `location` for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// This one.
    Exact(String),
    /// All that begin so.
    From(String),
    /// All that begin so and go on with anything but a slash.
    GoesOn(String),
}

impl Region {
    fn holds(&self, path: &str) -> bool {
        match self {
            Region::Exact(own) => path == own,
            Region::From(own) => path.starts_with(own.as_str()),
            Region::GoesOn(own) => path.strip_prefix(own.as_str()).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Region::Exact(path) => write!(f, "= {path}"),
            Region::From(path) => f.write_str(path),
            Region::GoesOn(path) => write!(f, "~ ^{}[^/]", regex_escaped(path)),
        }
    }
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
        if let Some(gap) = gap(server, place, location, &written, &paths.gaps) {
            paths.gaps.push(gap);
        }
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
        gaps.push(Gap { location, paths: Region::From(path.to_owned()), but, nginx: below, sidegate: at });
        return at;
    }
    gaps.push(Gap { location, paths: Region::Exact(path.to_owned()), but: Vec::new(), nginx: at, sidegate: below });
    below
}

/// Where the prefix of a location goes on without a slash, and Sidegate leads that elsewhere; none that was told already.
fn gap(server: &Server, place: usize, location: &Location, written: &Written, told: &[Gap]) -> Option<Gap> {
    let (Matches::Prefix(path, _) | Matches::Literal(path, Whole::No)) = &location.matches else { return None };
    if path.ends_with('/') || canonical(path).is_none() {
        return None;
    }
    let more = format!("{path}{OTHER}");
    let (nginx, sidegate) = (target(server, &more), written.find(&more));
    if nginx == sidegate || told.iter().any(|gap| gap.holds(&more)) {
        return None;
    }
    let but = deeper(server, path);
    Some(Gap { location: place, paths: Region::GoesOn(path.to_owned()), but, nginx, sidegate })
}

/// The locations whose path begins with `path` and goes on; none that another hides.
pub fn deeper(server: &Server, path: &str) -> Vec<Region> {
    let all = server.locations.iter().enumerate();
    let longer = all.filter_map(|(place, location)| {
        let own = location.matches.path().filter(|own| own.len() > path.len() && own.starts_with(path))?.to_owned();
        let (region, inside) = match &location.matches {
            Matches::Exact(_) | Matches::Literal(_, Whole::Yes) => (Region::Exact(own.clone()), own),
            _ => (Region::From(own.clone()), format!("{own}{OTHER}")),
        };
        (find(&server.locations, &server.outermost, &inside) == Found::Location(place)).then_some(region)
    });
    longer.collect()
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

/// The paths that regular expressions, which were not read, never take from their location.
pub fn finals(server: &Server) -> Vec<Region> {
    let asked = |location: &Location| matches!(location.matches, Matches::Prefix(_, Regexes::Asked));
    let asked_below = |path: &str| {
        server.locations.iter().any(|other| asked(other) && other.matches.path().is_some_and(|own| own.starts_with(path)))
    };
    let regions = server.locations.iter().filter_map(|location| match &location.matches {
        Matches::Exact(path) => Some(Region::Exact(path.clone())),
        Matches::Prefix(path, Regexes::Skipped) if !asked_below(path) => Some(Region::From(path.clone())),
        _ => None,
    });
    regions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use sidegate::policy::request::canonical_path;
    use sidegate::policy::route::{HostPattern, Routes};

    use crate::cli::import::nginx::server;

    const PASS: &str = "{ proxy_pass http://127.0.0.1:1; }";

    /// The patterns as `path location`, with `-` for what is closed; then the gaps as `paths: nginx, sidegate`.
    fn check(locations: &str, patterns: &[&str], gaps: &[&str]) {
        let server = server::of(&locations.replace("PASS", PASS));
        let shown = |target: &Target| match target {
            Target::Open(place) => server.locations[*place].matches.to_string(),
            Target::Closed => "-".into(),
        };
        let paths = paths(&server);
        let written: Vec<_> = paths.patterns.iter().map(|(path, target)| format!("{path} {}", shown(target))).collect();
        let left = paths.gaps.iter().map(|gap| format!("{}: {}, {}", gap.paths, shown(&gap.nginx), shown(&gap.sidegate)));
        assert_eq!(written, patterns, "{locations}");
        assert_eq!(left.collect::<Vec<_>>(), gaps, "{locations}");
    }

    #[test]
    fn a_prefix_that_ends_in_a_slash_is_one_pattern() {
        check("location / PASS", &["/ /"], &[]);
        check("location /a/ PASS", &["/a/ /a/"], &[]);
        check("location / PASS location /a/ PASS", &["/ /", "/a -", "/a/ /a/"], &[]);
        check("location / PASS location /a/ { return 403; }", &["/ /", "/a/ -"], &[]);
    }

    #[test]
    fn a_prefix_without_one_is_two_and_leaves_a_gap() {
        check("location /a PASS", &["/a /a", "/a/ /a"], &["~ ^/a[^/]: /a, -"]);
        check("location / PASS location /a { return 403; }", &["/ /", "/a -", "/a/ -"], &["~ ^/a[^/]: -, /"]);
    }

    #[test]
    fn an_exact_path_that_ends_in_a_slash_takes_what_is_below_unless_that_is_refused() {
        check("location = / PASS", &["/ = /"], &["/: -, = /"]);
        check("location = /a/ PASS location /a/ { return 403; }", &[], &["= /a/: = /a/, -"]);
        check("location = /a/ { return 403; } location /a/ PASS", &["/a/ /a/"], &["= /a/: -, /a/"]);
    }

    #[test]
    fn a_path_is_escaped_as_a_route_has_it() {
        check("location '/a b/%/' PASS", &["/a%20b/%25/ /a b/%/"], &[]);
        check("location /\u{e9}/ PASS", &["/%C3%A9/ /\u{e9}/"], &[]);
        let unheard = |path: &str| paths(&server::of(&format!("location {path} {PASS}"))).unheard.len();
        assert_eq!(["/a//b/", "/a?b", "/a/../b", "a", "/a#b", "/ok"].map(unheard), [1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn a_server_that_answers_by_itself_has_no_pattern() {
        check("return 403; location / PASS", &[], &[]);
    }

    /// Locations over few names, so that they overlap in every way.
    fn some_locations() -> impl Strategy<Value = String> {
        let path = "/([ab]{1,2}/){0,2}[ab]{0,2}";
        let sign = prop::sample::select(vec!["", "= ", "^~ ", "~ ^"]);
        let body = prop::sample::select(vec![PASS, PASS, "{ return 403; }", "{ root /a; }"]);
        let plain = (sign, path, body).prop_map(|(sign, path, body)| (format!("{sign}{path}"), body.to_owned()));
        let inner = prop::sample::select(vec![PASS, "{}"]);
        let nested = (path, "[ab]", inner).prop_map(|(path, more, inner)| {
            let body = format!("{{ proxy_pass http://127.0.0.1:1; location {path}{more} {inner} }}");
            (path, body)
        });
        prop::collection::vec(prop_oneof![5 => plain, 1 => nested], 0..7).prop_map(|all| {
            let mut seen = BTreeSet::new();
            let fresh = all.into_iter().filter(|(head, _)| seen.insert(head.replace("^~ ", "")));
            fresh.map(|(head, body)| format!("location {head} {body}\n")).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn routes_lead_where_nginx_does_but_for_the_gaps(
            locations in some_locations(),
            tried in prop::collection::vec("/([abc]{1,3}/){0,3}[abc]{0,3}", 30),
        ) {
            let server = server::of(&locations);
            let paths = paths(&server);
            let pattern = |path: &str| PathPattern::parse(path).unwrap();
            let written = paths.patterns.iter().map(|(path, target)| (HostPattern::Any, pattern(path), *target));
            let routes = Routes::new(written.collect()).unwrap();
            for path in &tried {
                let path = canonical_path(path).unwrap();
                let sidegate = routes.find("h", &path).copied().unwrap_or(Target::Closed);
                let told = paths.gaps.iter().any(|gap| gap.holds(&path));
                prop_assert!(sidegate == target(&server, &path) || told, "{path}: {sidegate:?} in\n{locations}");
            }
        }

        #[test]
        fn a_gap_is_one(locations in some_locations()) {
            let server = server::of(&locations);
            for gap in paths(&server).gaps {
                prop_assert!(gap.nginx != gap.sidegate, "{:?} in\n{}", gap, locations);
            }
        }
    }
}
