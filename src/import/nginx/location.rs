//! Locations, and which of them nginx takes for a path.
//!
//! `search` is `ngx_http_core_find_location`: the exact one, else the longest prefix, then inside
//! that, then the regular expressions in their order, unless the prefix is `^~`. It asks for a cell
//! of paths at once; a regular expression that may match some of them is reported beside the answer
//! for the others.

use std::fmt;

use crate::import::nginx::backend::Pass;
use crate::import::nginx::level::Level;
use crate::import::nginx::matches::{Matches, Regexes};
use crate::import::nginx::regex::{Cell, Match};
use crate::import::nginx::rewrite::{Redirect, Rewrite};
use crate::import::tree::Id;

/// One `location`.
#[derive(Debug)]
pub struct Location {
    /// The directive.
    pub id: Id,
    /// For which paths.
    pub matches: Matches,
    /// What holds there.
    pub level: Level,
    /// What is done there.
    pub serves: Serves,
    /// Whether nginx answers there by itself, and refuses nobody: `return 200`.
    pub answers_all: bool,
    /// Where nginx redirects each request to; `None`: nowhere, or not known.
    pub redirect: Option<Redirect>,
    /// Whether requests are passed on, by whatever protocol: nginx then adds a missing slash to a path.
    pub passes: bool,
    /// What may refuse there and isn't carried over: an `if`, a `limit_except`, a `try_files`.
    pub hurdles: Vec<Id>,
    /// What may lead a request elsewhere and isn't carried over.
    pub rewrites: Vec<Rewrite>,
    /// The locations inside, by place.
    pub inside: Vec<usize>,
}

/// What a location does.
#[derive(Debug)]
pub enum Serves {
    /// Passes requests on.
    Proxy(Pass),
    /// Hands over to a named location: `try_files … @a`.
    Named(Id, String),
    /// Answers by itself, by this directive, or refuses.
    Answer(Id),
    /// Another protocol to the backend, or files.
    Other,
}

/// What nginx finds for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The location at this place.
    Location(usize),
    /// A redirect to the same path with a slash behind it, for the sake of this location.
    Redirect(usize),
    /// None: files.
    None,
}

/// As a `location` is written.
impl fmt::Display for Matches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Matches::Exact(path) => write!(f, "= {path}"),
            Matches::Prefix(path, _) => f.write_str(path),
            Matches::Regex(regex) => regex.fmt(f),
            Matches::Named(name) => f.write_str(name),
        }
    }
}

/// What nginx finds for a cell among the locations at `places`, and the regular expressions that may
/// come before that for some of its paths: these are pushed to `maybe`.
pub fn find(all: &[Location], places: &[usize], cell: &Cell, maybe: &mut Vec<Found>) -> Found {
    search(all, places, cell, maybe).0
}

/// What is found, and whether the search is over with that.
fn search(
    all: &[Location],
    places: &[usize],
    cell: &Cell,
    maybe: &mut Vec<Found>,
) -> (Found, Over) {
    let at = |place: &usize| &all[*place];
    let path = match cell {
        Cell::Exact(path) => Some(path.as_str()),
        Cell::Beyond(_) => None,
    };
    let is_exact =
        |place: &&usize| matches!(&at(place).matches, Matches::Exact(own) if path == Some(own));
    if let Some(exact) = places.iter().find(is_exact) {
        return (Found::Location(*exact), Over::Yes);
    }
    let prefixes = places.iter().filter_map(|place| match &at(place).matches {
        Matches::Prefix(own, regexes) if cell.text().starts_with(own.as_str()) => {
            Some((own.len(), *place, *regexes))
        }
        _ => None,
    });
    let longest = prefixes.max_by_key(|(length, ..)| *length);
    if let Some(path) = path
        && longest.is_none_or(|(length, ..)| length < path.len())
        && let Some(slashed) = places.iter().find(|place| redirects(at(place), path))
    {
        return (Found::Redirect(*slashed), Over::Yes);
    }
    let (mut found, mut regexes) = (Found::None, Regexes::Asked);
    if let Some((_, place, own)) = longest {
        (found, regexes) = (Found::Location(place), own);
        let (inner, over) = search(all, &all[place].inside, cell, maybe);
        if inner != Found::None {
            found = inner;
        }
        if over == Over::Yes {
            return (found, Over::Yes);
        }
    }
    let patterns = places.iter().filter_map(|place| match &at(place).matches {
        Matches::Regex(regex) if regexes == Regexes::Asked => Some((*place, regex.matches(cell))),
        _ => None,
    });
    for (place, matches) in patterns.filter(|(_, matches)| *matches != Match::No) {
        let inner = search(all, &all[place].inside, cell, maybe).0;
        let here = if inner == Found::None { Found::Location(place) } else { inner };
        if matches == Match::Yes {
            return (here, Over::Yes);
        }
        maybe.push(here);
    }
    (found, Over::No)
}

/// Whether the regular expressions outside are still to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Yes,
    No,
}

/// Whether nginx sends `path` to the same with a slash because of `location`.
fn redirects(location: &Location, path: &str) -> bool {
    let (Matches::Exact(own) | Matches::Prefix(own, _)) = &location.matches else { return false };
    location.passes && own.strip_suffix('/') == Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::import::nginx::model::Model;
    use crate::import::nginx::server;

    /// Which of the locations, as written, nginx finds for a path; `301 L`: a redirect for the sake of L.
    fn check(locations: &str, cases: &[(&str, &str)]) {
        let server = server::of(locations);
        for (path, expected) in cases {
            let model = Model::new(&server);
            let found = match model.find(&model.cell(path)) {
                Found::Location(place) => server.locations[place].matches.to_string(),
                Found::Redirect(place) => format!("301 {}", server.locations[place].matches),
                Found::None => "none".into(),
            };
            assert_eq!(found, *expected, "{path} among {locations}");
        }
    }

    fn parsed(words: &str) -> Result<Matches, String> {
        Matches::parse(&words.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_exact_one_comes_first_then_the_longest_prefix() {
        let locations =
            "location / {} location /a {} location = /a {} location /a/b/ {} location = /a/b/ {}";
        check(
            locations,
            &[
                ("/", "/"),
                ("/a", "= /a"),
                ("/ab", "/a"),
                ("/a/b", "/a"),
                ("/a/b/", "= /a/b/"),
                ("/a/b/c", "/a/b/"),
            ],
        );
        check("location /a/ {}", &[("/b", "none"), ("/a", "none"), ("/a/", "/a/")]);
    }

    #[test]
    fn a_missing_slash_is_added_where_requests_are_passed_on() {
        let pass = "{ proxy_pass http://127.0.0.1:1; }";
        let two = format!("location / {pass} location /a/ {pass} location /b/ {{}}");
        check(&two, &[("/a", "301 /a/"), ("/b", "/"), ("/ax", "/")]);
        check(&format!("location /a {pass} location /a/ {pass}"), &[("/a", "/a")]);
        let regex = format!("location = /a/ {pass} location ~ ^/a {pass}");
        check(&regex, &[("/a", "301 = /a/"), ("/a/", "= /a/"), ("/a/b", "~ ^/a")]);
    }

    #[test]
    fn what_is_inside_a_prefix_is_looked_for_there_alone() {
        let locations = "location /a/ { location /a/b/c/ {} location = /a/x {} } location /a/b/ {}";
        check(locations, &[("/a/b/c/d", "/a/b/"), ("/a/x", "= /a/x"), ("/a/y", "/a/")]);
        check(
            "location /a/ { location /a/c/ { location /a/c/d/ {} } }",
            &[("/a/c/d/e", "/a/c/d/"), ("/a/c/", "/a/c/")],
        );
    }

    #[test]
    fn regular_expressions_come_before_prefixes_but_for_final_ones() {
        let prefixes = "location / {} location ^~ /f/ {} location /a/b/ {}";
        let locations =
            format!("{prefixes} location ~ ^/a/ {{}} location ~ ^/[af]/ {{}} location ~ ^/w$ {{}}");
        check(
            &locations,
            &[("/a/b/c", "~ ^/a/"), ("/f/x", "/f/"), ("/w", "~ ^/w$"), ("/wx", "/"), ("/x", "/")],
        );
        check(
            "location /f/ { location /f/g/ {} } location ~ ^/f/g {}",
            &[("/f/g/h", "~ ^/f/g"), ("/f/x", "/f/")],
        );
        check("location ^~ /f/ { location ~ ^/f/g {} }", &[("/f/g/h", "~ ^/f/g"), ("/f/x", "/f/")]);
    }

    #[test]
    fn the_modifier_may_touch_the_path() {
        assert_eq!(parsed("=/a"), parsed("= /a"));
        assert_eq!(parsed("^~/a"), parsed("^~ /a"));
        assert_eq!(parsed("~*x"), parsed("~* x"));
        assert_eq!(parsed("@a"), Ok(Matches::Named("@a".into())));
        assert!(parsed("=~ /a").is_err_and(|what| what.contains("\"=~\"")));
        assert!(parsed("").is_err() && parsed("= /a /b").is_err());
    }
}
