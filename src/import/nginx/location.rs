//! Locations, and the search by which nginx chooses one for a path.
//!
//! `search` is `ngx_http_core_find_location`: the exact location, else the longest prefix, then the
//! locations inside it, then the regular expressions in their order, unless the prefix is `^~`. It
//! decides for a whole cell of paths at once; a regular expression that may match some of them is
//! reported beside the answer for the others.

use std::fmt;

use crate::import::nginx::backend::ProxyPass;
use crate::import::nginx::context::ContextSettings;
use crate::import::nginx::location_pattern::{LocationPattern, RegexPrecedence};
use crate::import::nginx::regex::{CellMatch, PathCell};
use crate::import::nginx::rewrite::{Redirect, Rewrite};
use crate::import::tree::DirectiveId;

/// One `location`; nested ones have an entry of their own.
#[derive(Debug)]
pub struct Location {
    /// Number of the `location` directive.
    pub id: DirectiveId,
    /// The pattern for its paths.
    pub matches: LocationPattern,
    /// The settings in force there.
    pub settings: ContextSettings,
    /// How nginx serves requests there.
    pub serves: LocationHandler,
    /// Whether nginx answers by itself and refuses no request, as with `return 200`.
    pub answers_all: bool,
    /// The redirect that answers every request. `None` means no redirect, or not known.
    pub redirect: Option<Redirect>,
    /// Whether requests are passed on, by any protocol: nginx then adds a missing slash to a path.
    pub passes: bool,
    /// Directives that may refuse a request and aren't carried over: `if`, `limit_except`,
    /// `try_files`.
    pub hurdles: Vec<DirectiveId>,
    /// Rewrites that may lead a request elsewhere and aren't carried over.
    pub rewrites: Vec<Rewrite>,
    /// Nested locations, as indices into the server's locations.
    pub inside: Vec<usize>,
}

/// How a location serves requests.
#[derive(Debug)]
pub enum LocationHandler {
    /// Passes requests on with `proxy_pass`.
    Proxy(ProxyPass),
    /// Hands requests over to a named location: `try_files … @a`.
    Named(DirectiveId, String),
    /// Answers by itself through this directive, or refuses.
    Answer(DirectiveId),
    /// Uses another protocol to the backend, or serves files.
    Other,
}

/// The result of nginx' search for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocationMatch {
    /// The location with this index.
    Location(usize),
    /// A redirect to the same path with a slash appended, because of this location.
    Redirect(usize),
    /// No location: nginx looks for a file.
    None,
}

/// Formats the pattern as a `location` writes it.
impl fmt::Display for LocationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocationPattern::Exact(path) => write!(f, "= {path}"),
            LocationPattern::Prefix(path, _) => f.write_str(path),
            LocationPattern::Regex(regex) => regex.fmt(f),
            LocationPattern::Named(name) => f.write_str(name),
        }
    }
}

/// Returns what nginx finds for a cell among the locations at `places`. Regular expressions that
/// may match some of its paths are pushed to `maybe`.
pub fn find(
    all: &[Location],
    places: &[usize],
    cell: &PathCell,
    maybe: &mut Vec<LocationMatch>,
) -> LocationMatch {
    search(all, places, cell, maybe).0
}

/// Returns what nginx finds, and whether that ends the search.
fn search(
    all: &[Location],
    places: &[usize],
    cell: &PathCell,
    maybe: &mut Vec<LocationMatch>,
) -> (LocationMatch, SearchEnded) {
    let at = |place: &usize| &all[*place];
    let path = match cell {
        PathCell::Exact(path) => Some(path.as_str()),
        PathCell::Beyond(_) => None,
    };
    let is_exact = |place: &&usize| match &at(place).matches {
        LocationPattern::Exact(own) => path == Some(own),
        _ => false,
    };
    // nginx ends the search at `location = …`, before prefixes and regular expressions.
    if let Some(exact) = places.iter().find(is_exact) {
        return (LocationMatch::Location(*exact), SearchEnded::Yes);
    }
    let prefixes = places.iter().filter_map(|place| match &at(place).matches {
        LocationPattern::Prefix(own, regexes) if cell.text().starts_with(own.as_str()) => {
            Some((own.len(), *place, *regexes))
        }
        _ => None,
    });
    let longest = prefixes.max_by_key(|(length, ..)| *length);
    // A prefix that is the path itself takes precedence over the redirect to its slash.
    if let Some(path) = path
        && longest.is_none_or(|(length, ..)| length < path.len())
        && let Some(slashed) = places.iter().find(|place| redirects(at(place), path))
    {
        return (LocationMatch::Redirect(*slashed), SearchEnded::Yes);
    }
    let (mut found, mut regexes) = (LocationMatch::None, RegexPrecedence::Tried);
    if let Some((_, place, own)) = longest {
        (found, regexes) = (LocationMatch::Location(place), own);
        // Nested regular expressions come before those of this level; a match ends the whole
        // search.
        let (inner, over) = search(all, &all[place].inside, cell, maybe);
        if inner != LocationMatch::None {
            found = inner;
        }
        if over == SearchEnded::Yes {
            return (found, SearchEnded::Yes);
        }
    }
    let patterns = places.iter().filter_map(|place| match &at(place).matches {
        LocationPattern::Regex(regex) if regexes == RegexPrecedence::Tried => {
            Some((*place, regex.matches(cell)))
        }
        _ => None,
    });
    for (place, matches) in patterns.filter(|(_, matches)| *matches != CellMatch::No) {
        let inner = search(all, &all[place].inside, cell, maybe).0;
        let here =
            if inner == LocationMatch::None { LocationMatch::Location(place) } else { inner };
        if matches == CellMatch::Yes {
            return (here, SearchEnded::Yes);
        }
        // The search goes on as if this one did not match: both outcomes are possible.
        maybe.push(here);
    }
    (found, SearchEnded::No)
}

/// Whether the search is over, so that the regular expressions outside are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchEnded {
    Yes,
    No,
}

/// Returns whether nginx redirects `path` to the same path with a slash because of `location`.
fn redirects(location: &Location, path: &str) -> bool {
    let (LocationPattern::Exact(own) | LocationPattern::Prefix(own, _)) = &location.matches else {
        return false;
    };
    location.passes && own.strip_suffix('/') == Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::import::nginx::model::ServerModel;
    use crate::import::nginx::server;

    /// Asserts what nginx finds for a path: a location as written, or `301 L` for a redirect
    /// because of L.
    fn check(locations: &str, cases: &[(&str, &str)]) {
        let server = server::parse(locations);
        for (path, expected) in cases {
            let model = ServerModel::new(&server);
            let found = match model.find(&model.cell(path)) {
                LocationMatch::Location(place) => server.locations[place].matches.to_string(),
                LocationMatch::Redirect(place) => {
                    format!("301 {}", server.locations[place].matches)
                }
                LocationMatch::None => "none".into(),
            };
            assert_eq!(found, *expected, "{path} among {locations}");
        }
    }

    fn parsed(words: &str) -> Result<LocationPattern, String> {
        LocationPattern::parse(&words.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn exact_location_wins_then_the_longest_prefix() {
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
    fn nested_locations_are_searched_within_their_prefix() {
        let locations = "location /a/ { location /a/b/c/ {} location = /a/x {} } location /a/b/ {}";
        check(locations, &[("/a/b/c/d", "/a/b/"), ("/a/x", "= /a/x"), ("/a/y", "/a/")]);
        check(
            "location /a/ { location /a/c/ { location /a/c/d/ {} } }",
            &[("/a/c/d/e", "/a/c/d/"), ("/a/c/", "/a/c/")],
        );
    }

    #[test]
    fn regular_expressions_win_over_non_final_prefixes() {
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
        assert_eq!(parsed("@a"), Ok(LocationPattern::Named("@a".into())));
        assert!(parsed("=~ /a").is_err_and(|what| what.contains("\"=~\"")));
        assert!(parsed("").is_err() && parsed("= /a /b").is_err());
    }
}
