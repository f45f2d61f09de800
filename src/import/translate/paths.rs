//! Translates a server's locations into the path patterns of routes.
//!
//! nginx' prefixes may end anywhere, Sidegate's end at a slash, and regular expressions have no
//! counterpart. For each cell of paths, the patterns are compared with every outcome that nginx may
//! have; what they can't express becomes a finding. This module writes nothing and knows no hosts.

use std::fmt;

use crate::import::nginx::location::{Found, Serves};
use crate::import::nginx::matches::{Matches, Regexes};
use crate::import::nginx::model::{Named, Outcome, canonical};
use crate::import::nginx::regex::{Cell, Regex, Rest};
use crate::import::nginx::server::Server;
use crate::import::translate::compare::{Reason, Side};
use crate::import::tree::Id;

/// The destination of requests for a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The location at this index passes them on.
    Open(usize),
    /// No location does: the requests are refused.
    Closed,
}

/// Treatment of a guard that can't be carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaid {
    /// The paths that it guards are closed.
    Closes,
    /// The paths that it guards are carried over without it.
    Opens,
}

/// Paths that Sidegate may treat differently from nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One outcome that nginx may have.
    pub nginx: Outcome,
    /// The destination in Sidegate.
    pub sidegate: Target,
    /// The direction of the difference.
    pub verdict: Verdict,
    /// The cells of the paths.
    pub cells: Vec<Cell>,
}

/// The direction of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Sidegate admits what nginx refuses.
    Opens(Reason),
    /// Sidegate refuses what nginx may pass on.
    Closes,
    /// Sidegate passes on what nginx answers by itself or passes on elsewhere.
    Differs,
}

/// A set of paths. Displays as the `location` that matches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// This one path and no other.
    Exact(String),
    /// All paths that begin so.
    From(String),
    /// All paths that begin so and continue with anything but a slash.
    GoesOn(String),
}

impl From<&Cell> for Region {
    fn from(cell: &Cell) -> Region {
        match cell {
            Cell::Exact(path) => Region::Exact(path.clone()),
            Cell::Beyond(path) if path.ends_with('/') => Region::From(path.clone()),
            Cell::Beyond(path) => Region::GoesOn(path.clone()),
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

/// A server's routes without their host.
#[derive(Debug, Default)]
pub struct Paths {
    /// Canonical patterns, the shortest first; a path that matches none is closed.
    pub patterns: Vec<(String, Target)>,
    /// Beginnings that are closed because of a pattern that may match below them.
    pub shut: Vec<String>,
    /// Locations whose path no request can have.
    pub unheard: Vec<usize>,
    /// Locations whose paths Sidegate answers with 400.
    pub refused: Vec<usize>,
    written: Written,
}

/// A pattern before escaping: an exact path, or a beginning up to a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Raw {
    Exact(String),
    Below(String),
}

/// Returns the patterns of a server, the shortest first.
pub fn paths(side: &Side<'_>, unsaid: Unsaid) -> Paths {
    let server = side.server();
    let mut paths = Paths::default();
    if server.answer.is_some() {
        return paths;
    }
    for (place, location) in server.locations.iter().enumerate() {
        match named(&location.matches) {
            Named::Nothing => paths.unheard.push(place),
            Named::Refused => paths.refused.push(place),
            Named::Paths | Named::Longer => {}
        }
    }
    let mut raws: Vec<_> = side.model.cells().filter_map(|cell| Raw::of(&cell)).collect();
    raws.sort_by_key(|raw| raw.text().len());
    let draft = Draft { side, unsaid };
    for raw in raws {
        let target = match &raw {
            Raw::Exact(path) => draft.at(&Cell::Exact(path.clone())),
            Raw::Below(path) => {
                let below = draft.below(path);
                let shuts = draft.shuts(path, below);
                paths.shut.extend(shuts.then(|| path.clone()));
                if shuts { Target::Closed } else { below }
            }
        };
        // Shorter patterns come first, so `before` is the target that applies without this pattern.
        let before = paths.written.find(&raw.inside());
        // A path that ends in a line feed needs a route only to refuse it.
        let idle = before == Target::Closed && raw.text().ends_with('\n');
        if before != target && !idle {
            paths.written.0.push((raw, target));
        }
    }
    paths.shut_slashes(side);
    let escaped = |(raw, target): &(Raw, Target)| Some((canonical(raw.text())?, *target));
    paths.patterns = paths.written.0.iter().filter_map(escaped).collect();
    paths
}

impl Paths {
    /// Returns the destination of requests for the paths of `cell`.
    pub fn find(&self, cell: &Cell) -> Target {
        self.written.find(cell)
    }

    /// Returns whether Sidegate redirects plain HTTP for `path` to the same path with a slash
    /// appended: no pattern matches `path`, and an open one begins at the slash.
    pub fn adds_slash(&self, path: &str) -> bool {
        let slashed = Cell::Exact(format!("{path}/"));
        !self.matches(&Cell::Exact(path.to_owned()))
            && matches!(self.find(&slashed), Target::Open(_))
    }

    /// Closes each path that Sidegate would redirect to its slash and nginx wouldn't.
    fn shut_slashes(&mut self, side: &Side<'_>) {
        let below = self.written.0.iter().filter_map(|(raw, _)| match raw {
            Raw::Below(path) => path.strip_suffix('/').filter(|bare| !bare.is_empty()),
            Raw::Exact(_) => None,
        });
        let bare = below.filter(|bare| self.adds_slash(bare) && !side.model.adds_slash(bare));
        let shut: Vec<_> = bare.map(|bare| (Raw::Exact(bare.to_owned()), Target::Closed)).collect();
        self.written.0.extend(shut);
        self.written.0.sort_by_key(|(raw, _)| raw.text().len());
    }

    /// Returns whether any pattern matches the paths of `cell`, open or closed.
    pub fn matches(&self, cell: &Cell) -> bool {
        self.written.matching(cell).is_some()
    }

    /// Compares these routes, made for `server`, with nginx' outcomes for `side`, the same server
    /// or another one. Locations for which `alike` holds lead to the same place by the same rules.
    pub fn findings(
        &self,
        server: &Server,
        side: &Side<'_>,
        alike: impl Fn(usize, &Outcome) -> bool,
    ) -> Vec<Finding> {
        let mut findings = Vec::<Finding>::new();
        for cell in side.model.cells() {
            let sidegate = self.find(&cell);
            let answers = side.model.answers(&cell);
            for nginx in answers.sure.into_iter().chain(answers.maybe) {
                let verdict = match sidegate {
                    Target::Closed => {
                        let closes = side.passes_some(&nginx) && !cell.text().ends_with('\n');
                        closes.then_some(Verdict::Closes)
                    }
                    Target::Open(place) => match side.opens(&nginx, &server.locations[place]) {
                        Some(reason) => Some(Verdict::Opens(reason)),
                        None => (!alike(place, &nginx)).then_some(Verdict::Differs),
                    },
                };
                let Some(verdict) = verdict else { continue };
                let same = findings.iter_mut().find(|finding| {
                    finding.nginx == nginx
                        && finding.sidegate == sidegate
                        && finding.verdict == verdict
                });
                match same {
                    Some(finding) => finding.cells.push(cell.clone()),
                    None => findings.push(Finding {
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
fn named(matches: &Matches) -> Named {
    match (matches.path().map(Named::by), matches) {
        (Some(Named::Longer), Matches::Exact(_)) => Named::Nothing,
        (Some(named), _) => named,
        (None, _) => Named::Paths,
    }
}

/// A server while its patterns are made.
struct Draft<'s, 'n> {
    side: &'s Side<'n>,
    unsaid: Unsaid,
}

impl Draft<'_, '_> {
    /// Returns where nginx leads the paths of a cell, vague patterns aside; closed if a route there
    /// would admit more than nginx.
    fn at(&self, cell: &Cell) -> Target {
        let place = match self.side.model.find(cell) {
            Found::Location(place) if self.side.passes(place) => place,
            Found::Location(_) | Found::Redirect(_) | Found::None => return Target::Closed,
        };
        let route = &self.side.server().locations[place];
        let sure = self.side.model.answers(cell).sure;
        let opens = sure.iter().any(|outcome| self.side.opens(outcome, route).is_some());
        if opens && self.unsaid == Unsaid::Closes { Target::Closed } else { Target::Open(place) }
    }

    /// Returns the destination of everything that begins with `path`, which ends in a slash. One
    /// pattern covers both `path` itself and the paths below it.
    fn below(&self, path: &str) -> Target {
        let beyond = Cell::Beyond(path.to_owned());
        let (at, below) = (self.at(&Cell::Exact(path.to_owned())), self.at(&beyond));
        let refuses = match self.side.model.find(&beyond) {
            Found::Location(place) => {
                matches!(self.side.server().locations[place].serves, Serves::Answer(_))
            }
            Found::Redirect(_) | Found::None => false,
        };
        // Once opening was accepted, serving this path outweighs that nothing is served below it.
        // It doesn't outweigh a refusal by nginx below it.
        let keeps = self.unsaid == Unsaid::Opens && below == Target::Closed && !refuses;
        if keeps { at } else { below }
    }

    /// Returns whether everything below `path` must be closed, because a vague pattern with this
    /// beginning may refuse what a route to `target` admits. A location of its own that nginx
    /// serves below `path` keeps it open.
    fn shuts(&self, path: &str, target: Target) -> bool {
        let Target::Open(place) = target else { return false };
        let server = self.side.server();
        let route = &server.locations[place];
        let vague = self.vague_at(path);
        if vague.is_empty() {
            return false;
        }
        let cells = [Cell::Exact(path.to_owned()), Cell::Beyond(path.to_owned())];
        let maybe = cells.iter().flat_map(|cell| self.side.model.answers(cell).maybe);
        let mut own = maybe.filter(|outcome| vague.contains(&outcome.by));
        let opens = own.any(|outcome| self.side.opens(&outcome, route).is_some());
        let has_own = |cell: Cell| match self.at(&cell) {
            Target::Open(place) => {
                server.locations[place].matches.texts().iter().any(|text| text.starts_with(path))
            }
            Target::Closed => false,
        };
        opens && !self.side.model.cells().filter(|cell| cell.text().starts_with(path)).any(has_own)
    }

    /// Returns the patterns that aren't fully understood and begin with `path`.
    fn vague_at(&self, path: &str) -> Vec<Id> {
        let server = self.side.server();
        let patterns = server.locations.iter().filter_map(|location| match &location.matches {
            Matches::Regex(regex) => Some((location.id, regex)),
            _ => None,
        });
        let rewrites = server.rewrites.iter().map(|rewrite| (rewrite.id, &rewrite.regex));
        let is_vague = |regex: &Regex| {
            regex.branches().iter().any(|branch| branch.rest == Rest::Some && branch.text == path)
        };
        patterns.chain(rewrites).filter(|(_, regex)| is_vague(regex)).map(|(id, _)| id).collect()
    }
}

/// Groups cells into regions, each with the regions to be excluded from it.
pub fn regions(side: &Side<'_>, cells: &[Cell]) -> Vec<(Region, Vec<Region>)> {
    let (mut regions, mut absorbed) = (Vec::new(), Vec::<Cell>::new());
    for cell in cells.iter().filter(|cell| matches!(cell, Cell::Beyond(_))) {
        if !absorbed.contains(cell) {
            let mut but = Vec::new();
            absorb(side, cells, cell.text(), &mut but, &mut absorbed);
            regions.push((Region::from(cell), but));
        }
    }
    let alone = |cell: &&Cell| match cell {
        Cell::Exact(path) => {
            let goes_on = path.ends_with('/') && cells.contains(&Cell::Beyond(path.clone()));
            !goes_on && !absorbed.contains(*cell)
        }
        Cell::Beyond(_) => false,
    };
    regions.extend(cells.iter().filter(alone).map(|cell| (Region::from(cell), Vec::new())));
    regions
}

/// Absorbs the longer texts whose cells are all in `cells`, and adds the other ones to `but`.
fn absorb(
    side: &Side<'_>,
    cells: &[Cell],
    text: &str,
    but: &mut Vec<Region>,
    absorbed: &mut Vec<Cell>,
) {
    let is_slashed = text.ends_with('/');
    for longer in side.model.longer(text) {
        let both = [Cell::Exact(longer.to_owned()), Cell::Beyond(longer.to_owned())];
        let goes_on = is_slashed || !longer[text.len()..].starts_with('/');
        if goes_on && both.iter().all(|cell| cells.contains(cell)) {
            absorbed.extend(both);
            absorb(side, cells, longer, but, absorbed);
        } else {
            but.push(Region::From(longer.to_owned()));
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
struct Written(Vec<(Raw, Target)>);

impl Written {
    fn find(&self, cell: &Cell) -> Target {
        self.matching(cell).unwrap_or(Target::Closed)
    }

    /// Returns the target of the pattern that matches: the exact one, else the longest beginning.
    fn matching(&self, cell: &Cell) -> Option<Target> {
        let own =
            |raw: &Raw| matches!((raw, cell), (Raw::Exact(own), Cell::Exact(path)) if own == path);
        let around =
            |raw: &Raw| matches!(raw, Raw::Below(own) if cell.text().starts_with(own.as_str()));
        let exact = self.0.iter().find(|(raw, _)| own(raw));
        let below = self.0.iter().filter(|(raw, _)| around(raw));
        let found = exact.or_else(|| below.max_by_key(|(raw, _)| raw.text().len()));
        found.map(|(_, target)| *target)
    }
}

impl Raw {
    /// Returns the pattern for a cell. One pattern covers a path with a final slash and everything
    /// below it, so `None` means that another cell has it.
    fn of(cell: &Cell) -> Option<Raw> {
        match cell {
            Cell::Exact(path) if !path.ends_with('/') => Some(Raw::Exact(path.clone())),
            Cell::Beyond(path) if path.ends_with('/') => Some(Raw::Below(path.clone())),
            Cell::Exact(_) | Cell::Beyond(_) => None,
        }
    }

    fn text(&self) -> &str {
        match self {
            Raw::Exact(path) | Raw::Below(path) => path,
        }
    }

    /// Returns a cell that the pattern matches.
    fn inside(&self) -> Cell {
        match self {
            Raw::Exact(path) => Cell::Exact(path.clone()),
            Raw::Below(path) => Cell::Beyond(path.clone()),
        }
    }
}

/// Returns the paths that no regular expression takes from their location.
pub fn finals(side: &Side<'_>) -> Vec<Region> {
    let model = &side.model;
    let all_below = |path: &str| {
        let mut cells = model.cells().filter(|cell| cell.text().starts_with(path));
        cells.all(|cell| !model.meets_regex(&cell))
    };
    let regions = side.server().locations.iter().filter_map(|location| match &location.matches {
        Matches::Exact(path) if !model.meets_regex(&model.cell(path)) => {
            Some(Region::Exact(path.clone()))
        }
        Matches::Prefix(path, Regexes::Skipped) if all_below(path) => {
            Some(Region::From(path.clone()))
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

    use crate::import::nginx::{Nginx, Reading};
    use crate::import::tree::{self, Tree};

    const PASS: &str = "{ proxy_pass http://127.0.0.1:1; }";

    /// A server with this in its braces.
    fn nginx(text: &str) -> (Tree, Nginx) {
        let tree = tree::of(&format!("server {{ listen 80; {text} }}")).unwrap();
        let mut reading = Reading { tree: &tree, notes: Default::default(), faults: Vec::new() };
        let nginx = crate::import::nginx::read(Default::default(), &mut reading);
        assert!(reading.faults.is_empty(), "{text}: {:?}", reading.faults);
        (tree, nginx)
    }

    /// The patterns as `path location`, with `-` if closed; then the differences as `WORD location:
    /// paths`.
    fn check_for(unsaid: Unsaid, locations: &str, patterns: &[&str], gaps: &[&str]) {
        let (tree, nginx) = nginx(&locations.replace("PASS", PASS));
        let side = Side::new(&nginx, &nginx.servers[0], &tree);
        let server = side.server();
        let shown = |target: &Target| match target {
            Target::Open(place) => server.locations[*place].matches.to_string(),
            Target::Closed => "-".into(),
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
                Verdict::Opens(_) => "OPENS",
                Verdict::Closes => "CLOSES",
                Verdict::Differs => "DIFFERS",
            };
            let by = tree.lines[finding.nginx.by].text.clone();
            let all = regions(&side, &finding.cells);
            left.extend(all.iter().map(|(region, _)| format!("{word} {by}: {region}")));
        }
        let left: Vec<_> = left.into_iter().collect();
        assert_eq!(left, gaps, "{locations}");
    }

    fn check(locations: &str, patterns: &[&str], gaps: &[&str]) {
        check_for(Unsaid::Closes, locations, patterns, gaps);
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
        check("location /a PASS", &["/a /a", "/a/ /a"], &["CLOSES location /a: ~ ^/a[^/]"]);
        check(
            "location / PASS location /a { return 403; }",
            &["/ /", "/a -", "/a/ -"],
            &["OPENS location /a: ~ ^/a[^/]"],
        );
    }

    #[test]
    fn an_exact_path_with_a_slash_opens_nothing_below_unless_accepted() {
        check("location = / PASS", &[], &["CLOSES location = /: = /"]);
        check_for(Unsaid::Opens, "location = / PASS", &["/ = /"], &["OPENS server: /"]);
        let refused = "location = /a/ PASS location /a/ { return 403; }";
        check_for(Unsaid::Opens, refused, &[], &["CLOSES location = /a/: = /a/"]);
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
        check_for(Unsaid::Opens, guarded, &["/ /", "/a -", "/a/ /a/"], &opens);
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
    fn a_pattern_that_is_not_read_closes_its_beginning_or_opens() {
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
    fn a_rewrite_leads_to_rules_that_count() {
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
            let paths = paths(&Side::new(&nginx, &nginx.servers[0], &tree), Unsaid::Closes);
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
    fn a_beginning_that_ends_in_dots_is_not_lost() {
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
    fn a_path_that_nginx_does_not_send_to_its_slash_is_closed() {
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
            let paths = paths(&Side::new(&nginx, &nginx.servers[0], &tree), Unsaid::Closes);
            let has = |path: &str, closed: bool| {
                let fits = |(own, target): &(String, Target)| {
                    own == path && (*target == Target::Closed) == closed
                };
                paths.patterns.iter().any(fits)
            };
            assert!(has("/a", true) && has("/a/", false), "{beside}: {:?}", paths.patterns);
        }
        check("location ~ ^/a/ PASS", &["/a -", "/a/ ~ ^/a/"], &[]);
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
            let paths = paths(&Side::new(&nginx, &nginx.servers[0], &tree), Unsaid::Closes);
            assert!(paths.adds_slash("/a"), "{beside}: {:?}", paths.patterns);
        }
    }

    #[test]
    fn a_server_that_answers_by_itself_has_no_pattern() {
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
        fn routes_open_nothing_that_is_not_told(
            locations in some_locations(),
            accepted in any::<bool>(),
            tried in prop::collection::vec("/([abcA]{1,3}/){0,3}[abc.]{0,3}", 30),
        ) {
            let (tree, nginx) = nginx(&locations);
            let side = Side::new(&nginx, &nginx.servers[0], &tree);
            let unsaid = if accepted { Unsaid::Opens } else { Unsaid::Closes };
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
                    && matches!(routes.find("h", &slashed), Some(Target::Open(_)));
                prop_assert!(!sends || side.model.adds_slash(&path), "{} in\n{}", path, locations);
                let sidegate = routes.find("h", &path).copied().unwrap_or(Target::Closed);
                prop_assert_eq!(sidegate, paths.find(&cell), "{} in\n{}", path, locations);
                let Target::Open(place) = sidegate else { continue };
                for outcome in side.model.answers(&cell).sure {
                    let opens = side.opens(&outcome, &side.server().locations[place]).is_some();
                    let told = findings.iter().any(|finding| {
                        matches!(finding.verdict, Verdict::Opens(_)) && finding.cells.contains(&cell)
                    });
                    prop_assert!(!opens || told, "{} in\n{}", path, locations);
                }
            }
        }
    }
}
