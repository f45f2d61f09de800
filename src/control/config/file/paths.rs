//! `paths` of a route: whether a path may be forwarded as it was sent.
//!
//! Such a path is not made canonical. So it may only be forwarded if every reading of it leads to
//! the same route: no route for the same host may be below, nor any whose path another server reads
//! as the same.

use std::sync::Arc;

use crate::control::config::diagnostic::Place;
use crate::control::config::document::{Table, Value};
use crate::control::config::keys::sidegate::route::PATHS;
use crate::control::config::page::error;
use crate::control::config::settings::RoutePage;
use crate::policy::request::{decoded, reading};
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::route::Paths;

/// The value of `paths`, if that is a path and the route has no `path`: then `paths` is a
/// misspelling of `path`.
pub fn in_place_of_path<'d>(table: &mut Table<'d>) -> Option<Value<'d>> {
    let value = table.peek("paths").filter(|value| !table.has("path") && is_path_like(value))?;
    let finding = error("a path, in a [[route]] that lacks `path`").remedy("did you mean `path`?");
    table.report_misspelt("paths", finding);
    table.knows("path");
    Some(value)
}

/// Parses the path of a route at `value`.
pub fn pattern(table: &Table<'_>, value: Value<'_>) -> Option<PathPattern> {
    if value.as_str().is_some_and(|text| PATHS.has_word(text)) {
        table.report_misspelt(
            "path",
            error("a word of `paths`, which is no path").remedy("did you mean `paths`?"),
        );
        return None;
    }
    value.parse("a path", |text| PathPattern::parse(text).map_err(error))
}

fn is_path_like(value: &Value<'_>) -> bool {
    value.as_str().is_some_and(|text| text.starts_with('/'))
}

/// The paths that a route claims, and the places where it does.
pub struct Claim<'d> {
    name: Arc<str>,
    host: HostPattern,
    path: PathPattern,
    path_at: Place,
    strip_prefix_at: Option<Place>,
    value: Option<Value<'d>>,
    paths: Paths,
}

impl<'d> Claim<'d> {
    /// Reads the claim of `table`. `None` means that its host or its path cannot be read.
    pub fn read(
        table: &mut Table<'d>,
        name: Option<&Arc<str>>,
        host: Option<&HostPattern>,
        path: Option<&PathPattern>,
    ) -> Option<Claim<'d>> {
        let is_path = !table.has("path");
        let value = table.get(&PATHS).filter(|value| !(is_path && is_path_like(value)));
        let paths = value.and_then(|value| value.read(&PATHS.kind.form));
        Some(Claim {
            name: name.map_or_else(|| "another".into(), Arc::clone),
            host: host?.clone(),
            path: path?.clone(),
            path_at: table.place("path").or_else(|| table.place("paths"))?,
            strip_prefix_at: table.place("strip_prefix"),
            value,
            paths: paths.unwrap_or_else(|| PATHS.default_value()),
        })
    }

    /// Stores the value in `page`, and reports a contradiction with `strip_prefix`.
    pub fn note(&self, page: &mut RoutePage) {
        page.paths = self.paths;
        if let (Some(value), Some(place), true) =
            (self.as_is(), &self.strip_prefix_at, page.strip_prefix)
        {
            let finding =
                error("a path that is passed as it is has no prefix that can be taken off");
            let remedy = "leave out `paths` or `strip_prefix`";
            value.report(finding.remedy(remedy).and(place.clone(), "taken off here"));
        }
    }

    fn as_is(&self) -> Option<Value<'d>> {
        self.value.filter(|_| self.paths == Paths::AsIs)
    }

    /// Whether a request for a host of this route may reach `other` below this route's path. This
    /// route hides a route for broader hosts, unless the two differ in letter case.
    fn is_above(&self, other: &Claim<'_>) -> bool {
        let yields = self.host.yields_to(&other.host);
        let is_hidden = !yields && self.path.holds(&decoded(other.path.as_str()));
        let overlap = yields || other.host.yields_to(&self.host);
        overlap && self.path.is_above(&other.path) && !is_hidden
    }

    /// Whether no request for a host of `other` reaches `claim`, because this route is found first.
    fn hides(&self, claim: &Claim<'_>, other: &Claim<'_>) -> bool {
        let is_first = claim.host != self.host && claim.host.yields_to(&self.host);
        let is_for_all = self.host.yields_to(&other.host);
        let is_prefix = matches!(self.path, PathPattern::Prefix(_));
        is_first && is_for_all && is_prefix && self.path.holds(&decoded(claim.path.as_str()))
    }
}

/// Reports each route that cannot forward paths as sent, because of its own path or of other
/// routes.
pub fn check(claims: &[Claim<'_>]) {
    for (nth, claim) in claims.iter().enumerate() {
        let Some(value) = claim.as_is() else { continue };
        let outside = |path: &[u8]| (!claim.path.holds(path)).then_some(());
        if reading::find(claim.path.as_str(), outside) != Ok(None) {
            let finding = error(format!("some servers read `{}` as another path", claim.path));
            let remedy = "leave `paths` out: it needs a path without `;`, `%25` and dots at an end";
            value.report(finding.remedy(remedy).and(claim.path_at.clone(), "the path"));
        }
        let mut others = claims.iter().enumerate().filter(|(other, _)| *other != nth);
        let meets = |other: &Claim<'_>| {
            claim.is_above(other) && !claims.iter().any(|one| one.hides(claim, other))
        };
        if let Some((_, below)) = others.find(|(_, other)| meets(other)) {
            let message = format!(
                "route `{}` lies below: a path that is passed as it is may lead there",
                below.name
            );
            let remedy = "leave `paths` out, or serve one of the two under another host";
            value.report(error(message).remedy(remedy).and(below.path_at.clone(), "below"));
        }
    }
}
