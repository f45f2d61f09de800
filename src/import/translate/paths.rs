//! Translates a server's locations into the path patterns of routes.
//!
//! nginx' prefixes may end anywhere, Sidegate's end at a slash, and regular expressions have no
//! counterpart. For each cell of paths, the patterns are compared with every outcome that nginx may
//! have; what they can't express becomes a finding. This module writes nothing and knows no hosts.

use std::fmt;

use crate::import::nginx::location::{LocationHandler, LocationMatch};
use crate::import::nginx::location_pattern::{LocationPattern, RegexPrecedence};
use crate::import::nginx::model::{PathCoverage, RequestOutcome, canonical};
use crate::import::nginx::regex::{PathCell, Regex, Suffix};
use crate::import::nginx::server::Server;
use crate::import::translate::compare::{ModelledServer, OpeningReason};
use crate::import::tree::DirectiveId;

/// The destination of requests for a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternTarget {
    /// The location at this index passes them on.
    Open(usize),
    /// No location does: the requests are refused.
    Closed,
}

/// Treatment of a guard that can't be carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardHandling {
    /// The paths that it guards are closed.
    Closes,
    /// The paths that it guards are carried over without it.
    Opens,
}

/// Paths that Sidegate may treat differently from nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// One outcome that nginx may have.
    pub nginx: RequestOutcome,
    /// The destination in Sidegate.
    pub sidegate: PatternTarget,
    /// The direction of the difference.
    pub verdict: DivergenceKind,
    /// The cells of the paths.
    pub cells: Vec<PathCell>,
}

/// The direction of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DivergenceKind {
    /// Sidegate admits what nginx refuses.
    Opens(OpeningReason),
    /// Sidegate refuses what nginx may pass on.
    Closes,
    /// Sidegate passes on what nginx answers by itself or passes on elsewhere.
    Differs,
}

/// A set of paths. Displays as the `location` that matches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRegion {
    /// This one path and no other.
    Exact(String),
    /// All paths that begin so.
    Prefix(String),
    /// All paths that begin so and continue with anything but a slash.
    LongerPrefix(String),
}

impl From<&PathCell> for PathRegion {
    fn from(cell: &PathCell) -> PathRegion {
        match cell {
            PathCell::Exact(path) => PathRegion::Exact(path.clone()),
            PathCell::Beyond(path) if path.ends_with('/') => PathRegion::Prefix(path.clone()),
            PathCell::Beyond(path) => PathRegion::LongerPrefix(path.clone()),
        }
    }
}

impl fmt::Display for PathRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathRegion::Exact(path) => write!(f, "= {path}"),
            PathRegion::Prefix(path) => f.write_str(path),
            PathRegion::LongerPrefix(path) => write!(f, "~ ^{}[^/]", regex_escaped(path)),
        }
    }
}

/// A server's routes without their host.
#[derive(Debug, Default)]
pub struct RoutePatterns {
    /// Canonical patterns, the shortest first; a path that matches none is closed.
    pub patterns: Vec<(String, PatternTarget)>,
    /// Beginnings that are closed because of a pattern that may match below them.
    pub shut: Vec<String>,
    /// Locations whose path no request can have.
    pub unheard: Vec<usize>,
    /// Locations whose paths Sidegate answers with 400.
    pub refused: Vec<usize>,
    written: EmittedPatterns,
}

/// A pattern before escaping: an exact path, or a beginning up to a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RawPattern {
    Exact(String),
    Below(String),
}

/// Returns the patterns of a server, the shortest first.
pub fn paths(side: &ModelledServer<'_>, unsaid: GuardHandling) -> RoutePatterns {
    let server = side.server();
    let mut paths = RoutePatterns::default();
    if server.answer.is_some() {
        return paths;
    }
    for (place, location) in server.locations.iter().enumerate() {
        match named(&location.matches) {
            PathCoverage::Nothing => paths.unheard.push(place),
            PathCoverage::Refused => paths.refused.push(place),
            PathCoverage::Paths | PathCoverage::Longer => {}
        }
    }
    let mut raws: Vec<_> = side.model.cells().filter_map(|cell| RawPattern::of(&cell)).collect();
    raws.sort_by_key(|raw| raw.text().len());
    let draft = PatternDraft { side, unsaid };
    for raw in raws {
        let target = match &raw {
            RawPattern::Exact(path) => draft.at(&PathCell::Exact(path.clone())),
            RawPattern::Below(path) => {
                let below = draft.below(path);
                let shuts = draft.shuts(path, below);
                paths.shut.extend(shuts.then(|| path.clone()));
                if shuts { PatternTarget::Closed } else { below }
            }
        };
        // Shorter patterns come first, so `before` is the target that applies without this pattern.
        let before = paths.written.find(&raw.inside());
        // A path that ends in a line feed needs a route only to refuse it.
        let idle = before == PatternTarget::Closed && raw.text().ends_with('\n');
        if before != target && !idle {
            paths.written.0.push((raw, target));
        }
    }
    paths.shut_slashes(side);
    let escaped =
        |(raw, target): &(RawPattern, PatternTarget)| Some((canonical(raw.text())?, *target));
    paths.patterns = paths.written.0.iter().filter_map(escaped).collect();
    paths
}

impl RoutePatterns {
    /// Returns the destination of requests for the paths of `cell`.
    pub fn find(&self, cell: &PathCell) -> PatternTarget {
        self.written.find(cell)
    }

    /// Returns whether Sidegate redirects plain HTTP for `path` to the same path with a slash
    /// appended: no pattern matches `path`, and an open one begins at the slash.
    pub fn adds_slash(&self, path: &str) -> bool {
        let slashed = PathCell::Exact(format!("{path}/"));
        !self.matches(&PathCell::Exact(path.to_owned()))
            && matches!(self.find(&slashed), PatternTarget::Open(_))
    }

    /// Closes each path that Sidegate would redirect to its slash and nginx wouldn't.
    fn shut_slashes(&mut self, side: &ModelledServer<'_>) {
        let below = self.written.0.iter().filter_map(|(raw, _)| match raw {
            RawPattern::Below(path) => path.strip_suffix('/').filter(|bare| !bare.is_empty()),
            RawPattern::Exact(_) => None,
        });
        let bare = below.filter(|bare| self.adds_slash(bare) && !side.model.adds_slash(bare));
        let shut: Vec<_> =
            bare.map(|bare| (RawPattern::Exact(bare.to_owned()), PatternTarget::Closed)).collect();
        self.written.0.extend(shut);
        self.written.0.sort_by_key(|(raw, _)| raw.text().len());
    }

    /// Returns whether any pattern matches the paths of `cell`, open or closed.
    pub fn matches(&self, cell: &PathCell) -> bool {
        self.written.matching(cell).is_some()
    }

    /// Compares these routes, made for `server`, with nginx' outcomes for `side`, the same server
    /// or another one. Locations for which `alike` holds lead to the same place by the same rules.
    pub fn findings(
        &self,
        server: &Server,
        side: &ModelledServer<'_>,
        alike: impl Fn(usize, &RequestOutcome) -> bool,
    ) -> Vec<Divergence> {
        let mut findings = Vec::<Divergence>::new();
        for cell in side.model.cells() {
            let sidegate = self.find(&cell);
            let answers = side.model.answers(&cell);
            for nginx in answers.sure.into_iter().chain(answers.maybe) {
                let verdict = match sidegate {
                    PatternTarget::Closed => {
                        let closes = side.passes_some(&nginx) && !cell.text().ends_with('\n');
                        closes.then_some(DivergenceKind::Closes)
                    }
                    PatternTarget::Open(place) => {
                        match side.opens(&nginx, &server.locations[place]) {
                            Some(reason) => Some(DivergenceKind::Opens(reason)),
                            None => (!alike(place, &nginx)).then_some(DivergenceKind::Differs),
                        }
                    }
                };
                let Some(verdict) = verdict else { continue };
                let same = findings.iter_mut().find(|finding| {
                    finding.nginx == nginx
                        && finding.sidegate == sidegate
                        && finding.verdict == verdict
                });
                match same {
                    Some(finding) => finding.cells.push(cell.clone()),
                    None => findings.push(Divergence {
                        nginx,
                        sidegate,
                        verdict,
                        cells: vec![cell.clone()],
                    }),
                }
            }
        }
        findings
    }
}

/// Returns which requests the text of a location can match.
fn named(matches: &LocationPattern) -> PathCoverage {
    match (matches.path().map(PathCoverage::classify), matches) {
        (Some(PathCoverage::Longer), LocationPattern::Exact(_)) => PathCoverage::Nothing,
        (Some(named), _) => named,
        (None, _) => PathCoverage::Paths,
    }
}

/// A server while its patterns are made.
struct PatternDraft<'s, 'n> {
    side: &'s ModelledServer<'n>,
    unsaid: GuardHandling,
}

impl PatternDraft<'_, '_> {
    /// Returns where nginx leads the paths of a cell, vague patterns aside; closed if a route there
    /// would admit more than nginx.
    fn at(&self, cell: &PathCell) -> PatternTarget {
        let place = match self.side.model.find(cell) {
            LocationMatch::Location(place) if self.side.passes(place) => place,
            LocationMatch::Location(_) | LocationMatch::Redirect(_) | LocationMatch::None => {
                return PatternTarget::Closed;
            }
        };
        let route = &self.side.server().locations[place];
        let sure = self.side.model.answers(cell).sure;
        let opens = sure.iter().any(|outcome| self.side.opens(outcome, route).is_some());
        if opens && self.unsaid == GuardHandling::Closes {
            PatternTarget::Closed
        } else {
            PatternTarget::Open(place)
        }
    }

    /// Returns the destination of everything that begins with `path`, which ends in a slash. One
    /// pattern covers both `path` itself and the paths below it.
    fn below(&self, path: &str) -> PatternTarget {
        let beyond = PathCell::Beyond(path.to_owned());
        let (at, below) = (self.at(&PathCell::Exact(path.to_owned())), self.at(&beyond));
        let refuses = match self.side.model.find(&beyond) {
            LocationMatch::Location(place) => {
                matches!(self.side.server().locations[place].serves, LocationHandler::Answer(_))
            }
            LocationMatch::Redirect(_) | LocationMatch::None => false,
        };
        // Once opening was accepted, serving this path outweighs that nothing is served below it.
        // It doesn't outweigh a refusal by nginx below it.
        let keeps =
            self.unsaid == GuardHandling::Opens && below == PatternTarget::Closed && !refuses;
        if keeps { at } else { below }
    }

    /// Returns whether everything below `path` must be closed, because a vague pattern with this
    /// beginning may refuse what a route to `target` admits. A location of its own that nginx
    /// serves below `path` keeps it open.
    fn shuts(&self, path: &str, target: PatternTarget) -> bool {
        let PatternTarget::Open(place) = target else { return false };
        let server = self.side.server();
        let route = &server.locations[place];
        let vague = self.vague_at(path);
        if vague.is_empty() {
            return false;
        }
        let cells = [PathCell::Exact(path.to_owned()), PathCell::Beyond(path.to_owned())];
        let maybe = cells.iter().flat_map(|cell| self.side.model.answers(cell).maybe);
        let mut own = maybe.filter(|outcome| vague.contains(&outcome.by));
        let opens = own.any(|outcome| self.side.opens(&outcome, route).is_some());
        let has_own = |cell: PathCell| match self.at(&cell) {
            PatternTarget::Open(place) => {
                server.locations[place].matches.texts().iter().any(|text| text.starts_with(path))
            }
            PatternTarget::Closed => false,
        };
        opens && !self.side.model.cells().filter(|cell| cell.text().starts_with(path)).any(has_own)
    }

    /// Returns the patterns that aren't fully understood and begin with `path`.
    fn vague_at(&self, path: &str) -> Vec<DirectiveId> {
        let server = self.side.server();
        let patterns = server.locations.iter().filter_map(|location| match &location.matches {
            LocationPattern::Regex(regex) => Some((location.id, regex)),
            _ => None,
        });
        let rewrites = server.rewrites.iter().map(|rewrite| (rewrite.id, &rewrite.regex));
        let is_vague = |regex: &Regex| {
            regex
                .branches()
                .iter()
                .any(|branch| branch.rest == Suffix::Unknown && branch.text == path)
        };
        patterns.chain(rewrites).filter(|(_, regex)| is_vague(regex)).map(|(id, _)| id).collect()
    }
}

/// Groups cells into regions, each with the regions to be excluded from it.
pub fn regions(
    side: &ModelledServer<'_>,
    cells: &[PathCell],
) -> Vec<(PathRegion, Vec<PathRegion>)> {
    let (mut regions, mut absorbed) = (Vec::new(), Vec::<PathCell>::new());
    for cell in cells.iter().filter(|cell| matches!(cell, PathCell::Beyond(_))) {
        if !absorbed.contains(cell) {
            let mut but = Vec::new();
            absorb(side, cells, cell.text(), &mut but, &mut absorbed);
            regions.push((PathRegion::from(cell), but));
        }
    }
    let alone = |cell: &&PathCell| match cell {
        PathCell::Exact(path) => {
            let goes_on = path.ends_with('/') && cells.contains(&PathCell::Beyond(path.clone()));
            !goes_on && !absorbed.contains(*cell)
        }
        PathCell::Beyond(_) => false,
    };
    regions.extend(cells.iter().filter(alone).map(|cell| (PathRegion::from(cell), Vec::new())));
    regions
}

/// Absorbs the longer texts whose cells are all in `cells`, and adds the other ones to `but`.
fn absorb(
    side: &ModelledServer<'_>,
    cells: &[PathCell],
    text: &str,
    but: &mut Vec<PathRegion>,
    absorbed: &mut Vec<PathCell>,
) {
    let is_slashed = text.ends_with('/');
    for longer in side.model.longer(text) {
        let both = [PathCell::Exact(longer.to_owned()), PathCell::Beyond(longer.to_owned())];
        let goes_on = is_slashed || !longer[text.len()..].starts_with('/');
        if goes_on && both.iter().all(|cell| cells.contains(cell)) {
            absorbed.extend(both);
            absorb(side, cells, longer, but, absorbed);
        } else {
            but.push(PathRegion::Prefix(longer.to_owned()));
        }
    }
}

/// Returns a regular expression that matches `text` literally.
pub fn regex_escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if r".*+?()[]{}|^$\".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// The patterns so far, with Sidegate's lookup.
#[derive(Debug, Default)]
struct EmittedPatterns(Vec<(RawPattern, PatternTarget)>);

impl EmittedPatterns {
    fn find(&self, cell: &PathCell) -> PatternTarget {
        self.matching(cell).unwrap_or(PatternTarget::Closed)
    }

    /// Returns the target of the pattern that matches: the exact one, else the longest beginning.
    fn matching(&self, cell: &PathCell) -> Option<PatternTarget> {
        let own = |raw: &RawPattern| match (raw, cell) {
            (RawPattern::Exact(own), PathCell::Exact(path)) => own == path,
            _ => false,
        };
        let around = |raw: &RawPattern| match raw {
            RawPattern::Below(own) => cell.text().starts_with(own.as_str()),
            RawPattern::Exact(_) => false,
        };
        let exact = self.0.iter().find(|(raw, _)| own(raw));
        let below = self.0.iter().filter(|(raw, _)| around(raw));
        let found = exact.or_else(|| below.max_by_key(|(raw, _)| raw.text().len()));
        found.map(|(_, target)| *target)
    }
}

impl RawPattern {
    /// Returns the pattern for a cell. One pattern covers a path with a final slash and everything
    /// below it, so `None` means that another cell has it.
    fn of(cell: &PathCell) -> Option<RawPattern> {
        match cell {
            PathCell::Exact(path) if !path.ends_with('/') => Some(RawPattern::Exact(path.clone())),
            PathCell::Beyond(path) if path.ends_with('/') => Some(RawPattern::Below(path.clone())),
            PathCell::Exact(_) | PathCell::Beyond(_) => None,
        }
    }

    fn text(&self) -> &str {
        match self {
            RawPattern::Exact(path) | RawPattern::Below(path) => path,
        }
    }

    /// Returns a cell that the pattern matches.
    fn inside(&self) -> PathCell {
        match self {
            RawPattern::Exact(path) => PathCell::Exact(path.clone()),
            RawPattern::Below(path) => PathCell::Beyond(path.clone()),
        }
    }
}

/// Returns the paths that no regular expression takes from their location.
pub fn regex_free_regions(side: &ModelledServer<'_>) -> Vec<PathRegion> {
    let model = &side.model;
    let all_below = |path: &str| {
        let mut cells = model.cells().filter(|cell| cell.text().starts_with(path));
        cells.all(|cell| !model.meets_regex(&cell))
    };
    let regions = side.server().locations.iter().filter_map(|location| match &location.matches {
        LocationPattern::Exact(path) if !model.meets_regex(&model.cell(path)) => {
            Some(PathRegion::Exact(path.clone()))
        }
        LocationPattern::Prefix(path, RegexPrecedence::Skipped) if all_below(path) => {
            Some(PathRegion::Prefix(path.clone()))
        }
        _ => None,
    });
    regions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use sidegate::policy::request::canonical_path;
    use sidegate::policy::route::{HostPattern, PathPattern, Routes};
    use std::collections::BTreeSet;

    use crate::import::nginx::{HttpBlock, ImportContext};
    use crate::import::tree::{self, Tree};

    const PASS: &str = "{ proxy_pass http://127.0.0.1:1; }";

    /// A server with this in its braces.
    fn nginx(text: &str) -> (Tree, HttpBlock) {
        let tree = tree::parse(&format!("server {{ listen 80; {text} }}")).unwrap();
        let mut context =
            ImportContext { tree: &tree, notes: Default::default(), faults: Vec::new() };
        let nginx = crate::import::nginx::read(Default::default(), &mut context);
        assert!(context.faults.is_empty(), "{text}: {:?}", context.faults);
        (tree, nginx)
    }

    /// The patterns as `path location`, with `-` if closed; then the differences as `WORD location:
    /// paths`.
    fn check_for(unsaid: GuardHandling, locations: &str, patterns: &[&str], gaps: &[&str]) {
        let (tree, nginx) = nginx(&locations.replace("PASS", PASS));
        let side = ModelledServer::new(&nginx, &nginx.servers[0], &tree);
        let server = side.server();
        let shown = |target: &PatternTarget| match target {
            PatternTarget::Open(place) => server.locations[*place].matches.to_string(),
            PatternTarget::Closed => "-".into(),
        };
        let paths = paths(&side, unsaid);
        let written = paths.patterns.iter().filter(|(path, _)| !path.ends_with("%0A"));
        let written: Vec<_> =
            written.map(|(path, target)| format!("{path} {}", shown(target))).collect();
        assert_eq!(written, patterns, "{locations}");
        let mut left = BTreeSet::new();
        for finding in
            paths.findings(server, &side, |place, outcome| outcome.stages.first() == Some(&place))
        {
            let word = match finding.verdict {
                DivergenceKind::Opens(_) => "OPENS",
                DivergenceKind::Closes => "CLOSES",
                DivergenceKind::Differs => "DIFFERS",
            };
            let by = tree.lines[finding.nginx.by].text.clone();
            let all = regions(&side, &finding.cells);
            left.extend(all.iter().map(|(region, _)| format!("{word} {by}: {region}")));
        }
        let left: Vec<_> = left.into_iter().collect();
        assert_eq!(left, gaps, "{locations}");
    }

    fn check(locations: &str, patterns: &[&str], gaps: &[&str]) {
        check_for(GuardHandling::Closes, locations, patterns, gaps);
    }

    #[test]
    fn a_prefix_that_ends_in_a_slash_is_one_pattern() {
        check("location / PASS", &["/ /"], &[]);
        check("location /a/ PASS", &["/a/ /a/"], &[]);
        check("location / PASS location /a/ PASS", &["/ /", "/a -", "/a/ /a/"], &[]);
        check("location / PASS location /a/ { return 403; }", &["/ /", "/a/ -"], &[]);
    }

    #[test]
    fn prefix_without_a_slash_is_two_patterns_with_a_gap() {
        check("location /a PASS", &["/a /a", "/a/ /a"], &["CLOSES location /a: ~ ^/a[^/]"]);
        check(
            "location / PASS location /a { return 403; }",
            &["/ /", "/a -", "/a/ -"],
            &["OPENS location /a: ~ ^/a[^/]"],
        );
    }

    #[test]
    fn exact_path_with_a_slash_opens_nothing_unless_accepted() {
        check("location = / PASS", &[], &["CLOSES location = /: = /"]);
        check_for(GuardHandling::Opens, "location = / PASS", &["/ = /"], &["OPENS server: /"]);
        let refused = "location = /a/ PASS location /a/ { return 403; }";
        check_for(GuardHandling::Opens, refused, &[], &["CLOSES location = /a/: = /a/"]);
        check(
            "location = /a/ { return 403; } location /a/ PASS",
            &["/a/ /a/"],
            &["OPENS location = /a/: = /a/"],
        );
    }

    #[test]
    fn a_guard_closes_its_location_unless_accepted() {
        let guarded =
            "location / PASS location /a/ { auth_basic a; proxy_pass http://127.0.0.1:1; }";
        let closes = ["CLOSES location /a/: /a/"];
        check(guarded, &["/ /", "/a -", "/a/ -"], &closes);
        let opens = ["OPENS location /a/: /a/"];
        check_for(GuardHandling::Opens, guarded, &["/ /", "/a -", "/a/ /a/"], &opens);
        for guard in [
            "auth_request /auth;",
            "auth_jwt a;",
            "auth_other a;",
            "strange_module on;",
            "if ($x) { return 403; }",
            "if ($x) { rewrite ^ /b last; }",
            "if ($x) { strange on; }",
            "limit_except GET { deny all; }",
            "try_files $uri =404;",
            "satisfy any; auth_basic a;",
            "satisfy any; allow 10.0.0.0/8; auth_basic a;",
        ] {
            check(&guarded.replace("auth_basic a;", guard), &["/ /", "/a -", "/a/ -"], &closes);
        }
        for harmless in [
            "auth_basic off;",
            "if ($x) { set $y 1; }",
            "if ($x) { return 204; }",
            "if ($x) { rewrite ^ /b break; }",
            "if ($x) { proxy_pass http://127.0.0.1:2; }",
            "gzip on;",
            "satisfy any; allow 10.0.0.0/8; deny all; auth_basic a;",
        ] {
            check(&guarded.replace("auth_basic a;", harmless), &["/ /", "/a -", "/a/ /a/"], &[]);
        }
    }

    #[test]
    fn a_regular_expression_that_is_read_is_carried_over() {
        let deny = "{ deny all; proxy_pass http://127.0.0.1:1; }";
        let two = format!("location / PASS location ~ ^/r/(a|b)$ {deny}");
        let regex = "~ ^/r/(a|b)$";
        check(&two, &["/ /", &format!("/r/a {regex}"), &format!("/r/b {regex}")], &[]);
        let caseless = format!("location / PASS location ~* ^/r/ {deny}");
        check(&caseless, &["/ /", "/r/ ~* ^/r/"], &["OPENS location ~* ^/r/: /"]);
        check("location / PASS location ~ ^/r/ { return 301 /x; }", &["/ /", "/r/ -"], &[]);
    }

    #[test]
    fn unparsed_pattern_closes_its_prefix_or_is_reported() {
        let deny = "{ deny all; proxy_pass http://127.0.0.1:1; }";
        let below = format!("location / PASS location ~ ^/r/[0-9]+/x {deny}");
        check(&below, &["/ /", "/r/ -"], &["CLOSES location /: /r/"]);
        let served = format!("{below} location /r/open/ PASS");
        let opens = ["/r/", "/r/open/", "~ ^/r/open[^/]"]
            .map(|at| format!("OPENS location ~ ^/r/[0-9]+/x: {at}"));
        check(
            &served,
            &["/ /", "/r/open -", "/r/open/ /r/open/"],
            &opens.each_ref().map(String::as_str),
        );
        let anywhere = format!(r"location / PASS location ~ /\.ht {deny}");
        check(&anywhere, &["/ /"], &[r"OPENS location ~ /\.ht: /"]);
        let word = format!("location / PASS location ~ ^/r[0-9] {deny}");
        check(
            &word,
            &["/ /"],
            &[
                "OPENS location ~ ^/r[0-9]: /r/",
                "OPENS location ~ ^/r[0-9]: = /r",
                "OPENS location ~ ^/r[0-9]: ~ ^/r[^/]",
            ],
        );
        let some = "location / PASS location ~ x { if ($y) { return 403; } return 200; }";
        check(some, &["/ /"], &["OPENS location ~ x: /"]);
        let skipped = some.replace("return 403", "rewrite ^ /y break");
        check(&skipped, &["/ /"], &["OPENS location ~ x: /"]);
        check(
            "location / PASS location ~ x { return 200; }",
            &["/ /"],
            &["DIFFERS location ~ x: /"],
        );
        check(
            "location / PASS location ~ [.]png$ PASS",
            &["/ /"],
            &["DIFFERS location ~ [.]png$: /"],
        );
    }

    #[test]
    fn rules_of_a_rewrite_target_count() {
        let deny = "location /p/ { deny all; proxy_pass http://127.0.0.1:1; }";
        let to = |to: &str| format!("rewrite ^/a/ {to} last; location / PASS {deny}");
        check(&to("/p/x"), &["/ /", "/p -", "/a/ -", "/p/ /p/"], &["CLOSES location /: /a/"]);
        check(&to("/b/x"), &["/ /", "/p -", "/p/ /p/"], &[]);
        let moved = "rewrite ^/a/ https://b/ permanent; location / PASS";
        check(moved, &["/ /", "/a/ -"], &["CLOSES location /: /a/"]);
    }

    #[test]
    fn a_path_is_escaped_as_a_route_has_it() {
        check("location '/a b/%/' PASS", &["/a%20b/%25/ /a b/%/"], &[]);
        check("location /\u{e9}/ PASS", &["/%C3%A9/ /\u{e9}/"], &[]);
        let unheard = |path: &str| {
            let path = path.replace("'= ", "= '");
            let (tree, nginx) = nginx(&format!("location {path} {PASS}"));
            let paths = paths(
                &ModelledServer::new(&nginx, &nginx.servers[0], &tree),
                GuardHandling::Closes,
            );
            (paths.unheard.len(), paths.refused.len())
        };
        let texts = [
            "/a//b/",
            "/a?b",
            "/a/../b",
            "a",
            "/a#b",
            "/ok",
            "/a/.",
            "'= /a/.'",
            "''",
            "'/a*{%2f}/'",
        ];
        let expected =
            [(1, 0), (0, 1), (1, 0), (1, 0), (0, 1), (0, 0), (0, 0), (1, 0), (0, 0), (0, 0)];
        assert_eq!(texts.map(unheard), expected);
    }

    #[test]
    fn prefix_that_ends_in_dots_is_kept() {
        let deny = "{ deny all; proxy_pass http://127.0.0.1:1; }";
        let region = |text: &str| format!("~ ^{}[^/]", regex_escaped(text));
        for text in ["/.", "/..", "/a/.", "/a/.."] {
            let beside = format!("location / PASS location {text} {deny}");
            let opens = format!("OPENS location {text}: {}", region(text));
            check(&beside, &["/ /"], &[&opens]);
            let alone = format!("CLOSES location {text}: {}", region(text));
            check(&format!("location {text} PASS"), &[], &[&alone]);
        }
        let regex = format!(r"location / PASS location ~ ^/\. {deny}");
        check(&regex, &["/ /"], &[r"OPENS location ~ ^/\.: ~ ^/\.[^/]"]);
    }

    #[test]
    fn path_without_a_slash_redirect_in_nginx_is_closed() {
        let shut = [
            "location = /a { return 403; }",
            "location = /a { return 301 /login; }",
            "location = /a { return 301 /a; }",
            "location = /a { return 301 //a/; }",
            "location = /a { root /a; }",
            "location = /a { auth_basic a; proxy_pass http://127.0.0.1:1; }",
            "location = /a { if ($x) { return 403; } return 301 /a/; }",
            "location ~ ^/a$ { return 404; } location /a { return 404; }",
            "location ^~ /a { return 301 /b/; }",
            "rewrite ^/a$ /b/ last;",
            "rewrite ^/a$ /b/ permanent;",
        ];
        for beside in shut {
            let (tree, nginx) = nginx(&format!("{beside} location /a/ {PASS}"));
            let paths = paths(
                &ModelledServer::new(&nginx, &nginx.servers[0], &tree),
                GuardHandling::Closes,
            );
            let has = |path: &str, closed: bool| {
                let fits = |(own, target): &(String, PatternTarget)| {
                    own == path && (*target == PatternTarget::Closed) == closed
                };
                paths.patterns.iter().any(fits)
            };
            assert!(has("/a", true) && has("/a/", false), "{beside}: {:?}", paths.patterns);
        }
        check("location ~ ^/a/ PASS", &["/a -", "/a/ ~ ^/a/"], &[]);
        // nginx answers 404 for an internal location before it adds a slash.
        let internal = "location = /a/ { internal; proxy_pass http://127.0.0.1:1; }";
        let text = format!("location ~ ^/a/ {PASS} {internal}");
        let (tree, http) = nginx(&text);
        let side = ModelledServer::new(&http, &http.servers[0], &tree);
        assert!(!paths(&side, GuardHandling::Closes).adds_slash("/a"));
        for beside in [
            "",
            "location = /a { return 301 /a/; }",
            "location /a { return 308 $uri/$is_args$args; }",
            "location ~ ^/a$ { return 302 $scheme://$http_host/a/; } location /a {}",
            "location = /a { rewrite ^ /a/ permanent; }",
            "rewrite ^/a$ $scheme://$host/a/ redirect;",
            "location ~ ^/a$ { return 403; }",
            "location / { return 403; }",
        ] {
            let (tree, nginx) = nginx(&format!("{beside} location /a/ {PASS}"));
            let paths = paths(
                &ModelledServer::new(&nginx, &nginx.servers[0], &tree),
                GuardHandling::Closes,
            );
            assert!(paths.adds_slash("/a"), "{beside}: {:?}", paths.patterns);
        }
    }

    #[test]
    fn server_without_proxy_pass_has_no_pattern() {
        check("return 403; location / PASS", &[], &[]);
    }

    /// Locations over few names, so that they overlap in every way.
    fn some_locations() -> impl Strategy<Value = String> {
        let path = "/([ab]{1,2}/){0,2}[ab.]{0,2}";
        let sign = prop::sample::select(vec!["", "= ", "^~ ", "~ ^", "~* ^", "~ "]);
        let deny = "{ deny all; proxy_pass http://127.0.0.1:1; }";
        let body = prop::sample::select(vec![
            PASS,
            PASS,
            deny,
            "{ return 403; }",
            "{ root /a; }",
            "{ return 301 /a/; }",
        ]);
        let plain = (sign, path, body)
            .prop_map(|(sign, path, body)| (format!("{sign}{path}"), body.to_owned()));
        let inner = prop::sample::select(vec![PASS, deny, "{}"]);
        let nested = (path, "[ab]", inner).prop_map(|(path, more, inner)| {
            let body =
                format!("{{ proxy_pass http://127.0.0.1:1; location {path}{more} {inner} }}");
            (path, body)
        });
        prop::collection::vec(prop_oneof![5 => plain, 1 => nested], 0..7).prop_map(|all| {
            let mut seen = BTreeSet::new();
            let fresh = all.into_iter().filter(|(head, _)| seen.insert(head.replace("^~ ", "")));
            fresh.map(|(head, body)| format!("location {head} {body}\n")).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn routes_open_nothing_without_a_finding(
            locations in some_locations(),
            accepted in any::<bool>(),
            tried in prop::collection::vec("/([abcA]{1,3}/){0,3}[abc.]{0,3}", 30),
        ) {
            let (tree, nginx) = nginx(&locations);
            let side = ModelledServer::new(&nginx, &nginx.servers[0], &tree);
            let unsaid = if accepted { GuardHandling::Opens } else { GuardHandling::Closes };
            let paths = paths(&side, unsaid);
            let findings = paths.findings(side.server(), &side, |_, _| true);
            let pattern = |path: &str| PathPattern::parse(path).unwrap();
            let written = paths.patterns.iter().map(|(path, target)| (HostPattern::Any, pattern(path), *target));
            let routes = Routes::new(written.collect()).unwrap();
            for path in &tried {
                let path = canonical_path(path).unwrap();
                let cell = side.model.cell(&path);
                let slashed = format!("{path}/");
                let sends = routes.find("h", &path).is_none()
                    && matches!(routes.find("h", &slashed), Some(PatternTarget::Open(_)));
                prop_assert!(!sends || side.model.adds_slash(&path), "{} in\n{}", path, locations);
                let sidegate = routes.find("h", &path).copied().unwrap_or(PatternTarget::Closed);
                prop_assert_eq!(sidegate, paths.find(&cell), "{} in\n{}", path, locations);
                let PatternTarget::Open(place) = sidegate else { continue };
                for outcome in side.model.answers(&cell).sure {
                    let opens = side.opens(&outcome, &side.server().locations[place]).is_some();
                    let told = findings.iter().any(|finding| {
                        matches!(finding.verdict, DivergenceKind::Opens(_)) && finding.cells.contains(&cell)
                    });
                    prop_assert!(!opens || told, "{} in\n{}", path, locations);
                }
            }
        }
    }
}
