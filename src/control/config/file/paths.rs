//! `paths` of a route: whether a path may be forwarded as it was sent.
//!
//! Such a path is not made canonical. So it may only be forwarded if every reading of it leads to
//! the same route: no route for the same host may be below, nor any whose path another server reads
//! as the same.

use std::sync::Arc;

use crate::control::config::diagnostic::Span;
use crate::control::config::document::{TomlTable, TomlValue};
use crate::control::config::keys::sidegate::route::PATHS;
use crate::control::config::settings::RouteSettings;
use crate::control::config::source_text::error;
use crate::policy::request::{decoded, reading};
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::route::PathForwarding;

/// The value of `paths`, if that is a path and the route has no `path`: then `paths` is a
/// misspelling of `path`.
pub fn in_place_of_path<'d>(table: &mut TomlTable<'d>) -> Option<TomlValue<'d>> {
    let value = table.peek("paths").filter(|value| !table.has("path") && is_path_like(value))?;
    let finding =
        error("a path, in a [[route]] that lacks `path`").with_remedy("did you mean `path`?");
    table.report_misspelt("paths", finding);
    table.declare("path");
    Some(value)
}

/// Parses the path of a route at `value`.
pub fn pattern(table: &TomlTable<'_>, value: TomlValue<'_>) -> Option<PathPattern> {
    if value.as_str().is_some_and(|text| PATHS.has_word(text)) {
        table.report_misspelt(
            "path",
            error("a word of `paths`, which is no path").with_remedy("did you mean `paths`?"),
        );
        return None;
    }
    value.parse("a path", |text| PathPattern::parse(text).map_err(error))
}

fn is_path_like(value: &TomlValue<'_>) -> bool {
    value.as_str().is_some_and(|text| text.starts_with('/'))
}

/// The paths that a route claims, and the places where it does.
pub struct PathClaim<'d> {
    name: Arc<str>,
    host: HostPattern,
    path: PathPattern,
    path_at: Span,
    strip_prefix_at: Option<Span>,
    value: Option<TomlValue<'d>>,
    paths: PathForwarding,
}

impl<'d> PathClaim<'d> {
    /// Reads the claim of `table`. `None` means that its host or its path cannot be read.
    pub fn read(
        table: &mut TomlTable<'d>,
        name: Option<&Arc<str>>,
        host: Option<&HostPattern>,
        path: Option<&PathPattern>,
    ) -> Option<PathClaim<'d>> {
        let is_path = !table.has("path");
        let value = table.get(&PATHS).filter(|value| !(is_path && is_path_like(value)));
        let paths = value.and_then(|value| value.read(&PATHS.kind.form));
        Some(PathClaim {
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
    pub fn store(&self, page: &mut RouteSettings) {
        page.paths = self.paths;
        if let (Some(value), Some(place), true) =
            (self.as_is(), &self.strip_prefix_at, page.strip_prefix)
        {
            let finding =
                error("a path that is passed as it is has no prefix that can be taken off");
            let remedy = "leave out `paths` or `strip_prefix`";
            value.report(finding.with_remedy(remedy).with_related(place.clone(), "taken off here"));
        }
    }

    fn as_is(&self) -> Option<TomlValue<'d>> {
        self.value.filter(|_| self.paths == PathForwarding::AsIs)
    }

    /// Whether a request for a host of this route may reach `other` below this route's path. This
    /// route hides a route for broader hosts, unless the two differ in letter case.
    fn is_above(&self, other: &PathClaim<'_>) -> bool {
        let yields = self.host.is_tried_after(&other.host);
        let is_hidden = !yields && self.path.matches(&decoded(other.path.as_str()));
        let overlap = yields || other.host.is_tried_after(&self.host);
        overlap && self.path.is_above(&other.path) && !is_hidden
    }

    /// Whether no request for a host of `other` reaches `claim`, because this route is found first.
    fn hides(&self, claim: &PathClaim<'_>, other: &PathClaim<'_>) -> bool {
        let is_first = claim.host != self.host && claim.host.is_tried_after(&self.host);
        let is_for_all = self.host.is_tried_after(&other.host);
        let is_prefix = matches!(self.path, PathPattern::Prefix(_));
        is_first && is_for_all && is_prefix && self.path.matches(&decoded(claim.path.as_str()))
    }
}

/// Reports each route that cannot forward paths as sent, because of its own path or of other
/// routes.
pub fn check(claims: &[PathClaim<'_>]) {
    for (nth, claim) in claims.iter().enumerate() {
        let Some(value) = claim.as_is() else { continue };
        let outside = |path: &[u8]| (!claim.path.matches(path)).then_some(());
        if reading::find(claim.path.as_str(), outside) != Ok(None) {
            let finding = error(format!("some servers read `{}` as another path", claim.path));
            let remedy = "leave `paths` out: it needs a path without `;`, `%25` and dots at an end";
            value.report(
                finding.with_remedy(remedy).with_related(claim.path_at.clone(), "the path"),
            );
        }
        let mut others = claims.iter().enumerate().filter(|(other, _)| *other != nth);
        let meets = |other: &PathClaim<'_>| {
            claim.is_above(other) && !claims.iter().any(|one| one.hides(claim, other))
        };
        if let Some((_, below)) = others.find(|(_, other)| meets(other)) {
            let message = format!(
                "route `{}` lies below: a path that is passed as it is may lead there",
                below.name
            );
            let remedy = "leave `paths` out, or serve one of the two under another host";
            value.report(
                error(message).with_remedy(remedy).with_related(below.path_at.clone(), "below"),
            );
        }
    }
}
