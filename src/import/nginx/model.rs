//! Lists what nginx may answer for every path, case by case.
//!
//! The texts of a server's locations and rewrites divide all paths into cells. For each cell, the
//! model lists every outcome that nginx may have: the outcome if no vague regular expression
//! matches, and the outcomes of patterns that may match. An impossible outcome is harmless here; a
//! missing one is not, because the import compares itself with each of them.

use std::collections::BTreeSet;

use crate::import::nginx::location::{LocationHandler, LocationMatch, find};
use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::regex::{CellMatch, PathCell};
use crate::import::nginx::rewrite::{AfterRewrite, Rewrite};
use crate::import::nginx::server::Server;
use crate::import::tree::DirectiveId;
use sidegate::policy::route::PathPattern;

/// Most rewrites that are followed in a row; beyond that, the request counts as refused.
const MAX_REWRITES: usize = 2;

/// The cells of a server's paths, and nginx' answers for each.
pub struct ServerModel<'s> {
    /// The server whose answers are modelled.
    pub server: &'s Server,
    texts: BTreeSet<String>,
}

/// One possible outcome of a request in nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOutcome {
    /// The directive that leads to it.
    pub by: DirectiveId,
    /// The locations whose rules the request meets, in order.
    pub stages: Vec<usize>,
    /// How it ends if no rule refuses it.
    pub end: RequestEnd,
}

/// How a request ends if no rule refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// The last stage passes it on.
    Passed,
    /// nginx answers by itself and refuses no request.
    Answered,
    /// nginx refuses, redirects or looks for a file.
    Refused,
}

/// The possible outcomes for a cell.
#[derive(Debug, Default)]
pub struct CellOutcomes {
    /// Outcomes unless one of `maybe` takes precedence.
    pub sure: Vec<RequestOutcome>,
    /// Outcomes of patterns that may match.
    pub maybe: Vec<RequestOutcome>,
}

impl<'s> ServerModel<'s> {
    /// Creates the model of `server`.
    pub fn new(server: &'s Server) -> ServerModel<'s> {
        let mut texts = BTreeSet::from(["/".to_owned()]);
        let locations = server.locations.iter();
        let inner = locations.clone().flat_map(|location| &location.rewrites);
        let rewrites = server.rewrites.iter().chain(inner);
        let patterns = rewrites.flat_map(|rewrite| rewrite.regex.branches());
        let written = patterns.map(|branch| branch.text.as_str());
        for text in locations.flat_map(|location| location.matches.texts()).chain(written) {
            // A location `/a//` matters because of its slash: nginx redirects `/a/` there.
            let text = text.strip_suffix('/').filter(|bare| bare.ends_with('/')).unwrap_or(text);
            match PathCoverage::classify(text) {
                PathCoverage::Paths => {
                    // nginx redirects a path to the same path with a slash, so that each text needs
                    // cells for both.
                    let bare = text.trim_end_matches('/');
                    texts.extend([text.to_owned(), bare.to_owned(), format!("{bare}/")]);
                }
                PathCoverage::Longer => texts.extend([text.to_owned()]),
                PathCoverage::Nothing | PathCoverage::Refused => {}
            }
        }
        texts.remove("");
        ServerModel { server, texts }
    }

    /// Adds the texts of `other`, so that cells also distinguish what its routes distinguish.
    pub fn with_texts_of(mut self, other: &ServerModel<'_>) -> ServerModel<'s> {
        self.texts.extend(other.texts.iter().cloned());
        self
    }

    /// Returns all cells, each text's own path before the paths beyond it.
    pub fn cells(&self) -> impl Iterator<Item = PathCell> + '_ {
        let is_path = |text: &str| PathCoverage::classify(text) == PathCoverage::Paths;
        let exact = move |text: &String| is_path(text).then(|| PathCell::Exact(text.clone()));
        let both =
            move |text: &String| exact(text).into_iter().chain([PathCell::Beyond(text.clone())]);
        self.texts.iter().flat_map(both)
    }

    /// Returns the texts that begin with `text` and are longer, except where one begins with
    /// another result.
    pub fn longer(&self, text: &str) -> Vec<&str> {
        let mut longer = Vec::<&str>::new();
        for other in self.texts.range(text.to_owned()..) {
            let covered = longer.last().is_some_and(|last| other.starts_with(last));
            if other != text && other.starts_with(text) && !covered {
                longer.push(other);
            }
        }
        longer
    }

    /// Returns the cell that holds `path`.
    pub fn cell(&self, path: &str) -> PathCell {
        if self.texts.contains(path) {
            return PathCell::Exact(path.to_owned());
        }
        let texts = self.texts.iter().filter(|text| path.starts_with(text.as_str()));
        PathCell::Beyond(texts.max_by_key(|text| text.len()).cloned().unwrap_or_default())
    }

    /// Returns what nginx finds for a cell if no vague regular expression matches.
    pub fn find(&self, cell: &PathCell) -> LocationMatch {
        find(&self.server.locations, &self.server.outermost, cell, &mut Vec::new())
    }

    /// Returns whether nginx redirects plain HTTP for `path` to the same path with a slash
    /// appended: because of a location that passes requests on, or by a directive.
    pub fn adds_slash(&self, path: &str) -> bool {
        let cell = PathCell::Exact(path.to_owned());
        let mut rewrites = self.server.rewrites.iter();
        // `rewrite` at the level of the server runs before nginx looks for a location.
        if let Some(rewrite) = rewrites.find(|one| one.regex.matches(&cell) == CellMatch::Yes) {
            return rewrite.redirect().is_some_and(|to| to.adds_slash(path));
        }
        match self.find(&cell) {
            LocationMatch::Redirect(place) => self.redirects(place),
            LocationMatch::Location(place) => {
                let redirect = self.server.locations[place].redirect.as_ref();
                redirect.is_some_and(|to| to.adds_slash(path))
            }
            LocationMatch::None => false,
        }
    }

    /// Returns whether the location at `place` redirects a path to its slash. nginx answers 404 for
    /// an internal one before that.
    pub fn redirects(&self, place: usize) -> bool {
        self.server.locations[place].settings.internal.is_none()
    }

    /// Returns whether a regular expression may decide about some paths of a cell.
    pub fn meets_regex(&self, cell: &PathCell) -> bool {
        let mut found = Vec::new();
        let Server { locations, outermost, .. } = self.server;
        let sure = find(locations, outermost, cell, &mut found);
        let is_plain = match sure {
            LocationMatch::Location(place) => {
                !matches!(locations[place].matches, LocationPattern::Regex(_))
            }
            LocationMatch::Redirect(_) | LocationMatch::None => true,
        };
        !found.is_empty() || !is_plain
    }

    /// Returns everything that nginx may do with a request for a path of `cell`.
    pub fn answers(&self, cell: &PathCell) -> CellOutcomes {
        let mut answers = CellOutcomes::default();
        let Server { locations, outermost, .. } = self.server;
        if let Some(by) = self.server.answer {
            answers.sure.push(RequestOutcome { by, stages: Vec::new(), end: RequestEnd::Refused });
            return answers;
        }
        let mut maybe = Vec::new();
        let found = find(locations, outermost, cell, &mut maybe);
        let mut own = self.reach(found, cell, 0);
        for rewrite in &self.server.rewrites {
            match rewrite.regex.matches(cell) {
                CellMatch::No => {}
                CellMatch::Maybe => answers.maybe.extend(self.rewritten(rewrite, 0)),
                // Earlier directives may keep it from being reached, so the location's own outcomes
                // stay possible.
                CellMatch::Yes => {
                    answers.sure.extend(self.rewritten(rewrite, 0));
                    answers.maybe.append(&mut own);
                }
            }
        }
        answers.sure.append(&mut own);
        for found in maybe {
            answers.maybe.extend(self.reach(found, cell, 0));
        }
        answers.maybe.retain(|outcome| !answers.sure.contains(outcome));
        answers
    }

    /// Returns the outcomes of a request that reaches `found` after so many rewrites.
    fn reach(&self, found: LocationMatch, cell: &PathCell, rewrites: usize) -> Vec<RequestOutcome> {
        let place = match found {
            LocationMatch::Location(place) => place,
            LocationMatch::Redirect(place) => {
                let by = self.server.locations[place].id;
                return vec![RequestOutcome { by, stages: Vec::new(), end: RequestEnd::Refused }];
            }
            LocationMatch::None => {
                return vec![RequestOutcome {
                    by: self.server.id,
                    stages: Vec::new(),
                    end: RequestEnd::Refused,
                }];
            }
        };
        let location = &self.server.locations[place];
        let mut outcomes = Vec::new();
        let named = match &location.serves {
            LocationHandler::Named(_, name) => self.server.named(name),
            _ => None,
        };
        let later = named.map(|place| &self.server.locations[place].rewrites);
        let rewrites_here = location.rewrites.iter().chain(later.into_iter().flatten());
        for rewrite in rewrites_here.filter(|rewrite| rewrite.then != AfterRewrite::Break) {
            if rewrite.regex.matches(cell) != CellMatch::No {
                outcomes.extend(self.rewritten(rewrite, rewrites));
            }
        }
        let (mut stages, mut end) = (vec![place], RequestEnd::Refused);
        match &location.serves {
            LocationHandler::Proxy(_) => end = RequestEnd::Passed,
            LocationHandler::Answer(_) if location.answers_all => end = RequestEnd::Answered,
            LocationHandler::Named(..) => {
                if let Some(named) = named.filter(|named| self.passes(*named)) {
                    stages.push(named);
                    end = RequestEnd::Passed;
                }
            }
            LocationHandler::Answer(_) | LocationHandler::Other => {}
        }
        outcomes.push(RequestOutcome { by: location.id, stages, end });
        outcomes
    }

    fn passes(&self, place: usize) -> bool {
        matches!(self.server.locations[place].serves, LocationHandler::Proxy(_))
    }

    /// Returns the outcomes of a request that `rewrite` matches, after `before` other rewrites.
    fn rewritten(&self, rewrite: &Rewrite, before: usize) -> Vec<RequestOutcome> {
        let refused =
            RequestOutcome { by: rewrite.id, stages: Vec::new(), end: RequestEnd::Refused };
        // An unknown end counts as refused, so that a route there is reported
        // (docs/decisions/018-import-opens.md).
        if rewrite.then == AfterRewrite::Redirect || before >= MAX_REWRITES {
            return vec![refused];
        }
        let mut outcomes = Vec::new();
        for cell in self.cells().filter(|cell| may_become(rewrite, cell, self)) {
            let mut found = Vec::new();
            let sure = find(&self.server.locations, &self.server.outermost, &cell, &mut found);
            for found in found.into_iter().chain([sure]) {
                for outcome in self.reach(found, &cell, before + 1) {
                    let outcome = RequestOutcome { by: rewrite.id, ..outcome };
                    if !outcomes.contains(&outcome) {
                        outcomes.push(outcome);
                    }
                }
            }
        }
        outcomes
    }
}

/// Returns whether `rewrite` may produce a path of `cell`.
fn may_become(rewrite: &Rewrite, cell: &PathCell, model: &ServerModel<'_>) -> bool {
    // The new path is not known, so it may be any.
    let Some(beginning) = rewrite.beginning() else { return true };
    if rewrite.is_fixed() {
        return model.cell(beginning) == *cell;
    }
    let below = cell.text().starts_with(beginning);
    below || *cell == model.cell(beginning)
}

/// The requests that a path in nginx' configuration can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathCoverage {
    /// The path itself, and as a prefix all longer paths.
    Paths,
    /// As a prefix, longer paths only: the text itself ends in a dot segment and is no request
    /// path.
    Longer,
    /// No request: nginx resolves dot segments and merges slashes before it looks for a location.
    Nothing,
    /// Requests that Sidegate answers with 400.
    Refused,
}

impl PathCoverage {
    /// Classifies the text of a location or the beginning of a regular expression.
    pub fn classify(text: &str) -> PathCoverage {
        if canonical(text).is_some() {
            return PathCoverage::Paths;
        }
        let (above, last) = text.rsplit_once('/').unwrap_or(("", text));
        let ends_in_dots = [".", ".."].contains(&last);
        if text.is_empty() || ends_in_dots && canonical(&format!("{above}/")).is_some() {
            return PathCoverage::Longer;
        }
        let is_resolved = |segment: &str| ["", ".", ".."].contains(&segment);
        let is_merged = above.split('/').skip(1).any(is_resolved);
        if !text.starts_with('/') || is_merged {
            PathCoverage::Nothing
        } else {
            PathCoverage::Refused
        }
    }
}

/// Returns `path` in the form of a route's `path`. `None` means that no accepted request has this
/// path.
pub fn canonical(path: &str) -> Option<String> {
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
