//! Paths of routes that a backend may read as those of other routes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::{LoadedConfig, RouteSettings};
use crate::policy::request::{decoded, reading};
use crate::policy::route::{self, HostPattern, Routes, pattern_in};

/// Routes whose path equals, in another letter case, that of an earlier route for the same host.
pub fn differing_in_case(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let mut known: HashMap<Vec<u8>, Vec<&RouteSettings>> = HashMap::new();
    let mut pairs = Vec::new();
    for page in &loaded.settings.routes {
        // Decoded, since backends decode before they compare: `/%41` and `/a` differ in case only.
        let earlier = known.entry(decoded(page.path.as_str()).to_ascii_lowercase()).or_default();
        let twin = earlier
            .iter()
            .find(|other| differ_in_case(other, page) && share_a_host(&other.host, &page.host));
        pairs.extend(twin.map(|twin| (page, *twin)));
        earlier.push(page);
    }
    let remark = |(page, other): (&RouteSettings, &RouteSettings)| Lint {
        location: location(page, config),
        message: format!(
            "the routes `{}` and `{}` differ in letter case only: a backend that ignores case \
             takes one for the other",
            other.name, page.name
        ),
        remedy:
            "name the same policy in both, or keep one of them, unless the backend tells them apart"
                .into(),
        other: Some((location(other, config), "the other one")),
    };
    pairs.into_iter().map(remark).collect()
}

/// Routes whose path looks like a pattern of other servers, but is taken literally here.
pub fn literal(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let remark = |page: &RouteSettings| {
        let part = pattern_in(page.path.as_str())?;
        let part_of_line = LinePart::Word(page.path.as_str().into());
        Some(Lint {
            location: LintLocation {
                line: page.path_line,
                part: part_of_line,
                ..location(page, config)
            },
            message: format!(
                "the path of the route `{}` is no pattern: `{part}` in it is literal",
                page.name
            ),
            remedy: format!(
                "path = \"{}\" is for all below it",
                route::literal(page.path.as_str())
            ),
            other: None,
        })
    };
    loaded.settings.routes.iter().filter_map(remark).collect()
}

/// Routes whose own path some backends read as that of a route under another policy, so that every
/// request is refused.
pub fn ambiguous(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let pages = &loaded.settings.routes;
    let table = pages.iter().map(|page| (page.host.clone(), page.path.clone(), page));
    // Loading has reported equal routes already.
    let Ok(routes) = Routes::new(table.collect()) else { return Vec::new() };
    let elsewhere = |page: &RouteSettings| {
        let host = a_host_of(&page.host);
        // Under the same policy either reading gets the same verdict.
        let differs = |path: &[u8]| {
            routes.find_decoded(&host, path).filter(|other| other.policy != page.policy).copied()
        };
        reading::find(page.path.as_str(), differs).ok().flatten()
    };
    let remark = |page: &RouteSettings| {
        let (reading, other) = elsewhere(page)?;
        Some(Lint {
            location: location(page, config),
            message: format!(
                "requests for the route `{}` are refused: some backends read its path as that of \
                 `{}`, under another policy",
                page.name, other.name
            ),
            remedy: format!("name the same policy in both, or another path ({reading})"),
            other: Some((location(other, config), "the other one")),
        })
    };
    pages.iter().filter_map(remark).collect()
}

fn location(page: &RouteSettings, config: &Path) -> LintLocation {
    let file = config.file_name().unwrap_or_default().to_string_lossy().into();
    LintLocation { file, line: page.line, part: LinePart::Word(Arc::clone(&page.name)) }
}

/// A host that matches the pattern.
fn a_host_of(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Wildcard(parent) => format!("any.{parent}"),
        HostPattern::Any => "any".into(),
    }
}

/// Whether a host exists that matches both patterns.
fn share_a_host(one: &HostPattern, other: &HostPattern) -> bool {
    let below =
        |name: &str, parent: &str| name.split_once('.').is_some_and(|(_, above)| above == parent);
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(name), HostPattern::Wildcard(parent))
        | (HostPattern::Wildcard(parent), HostPattern::Exact(name)) => below(name, parent),
        (one, other) => one == other,
    }
}

/// Whether two paths that are equal in lower case differ as written.
fn differ_in_case(one: &RouteSettings, other: &RouteSettings) -> bool {
    decoded(one.path.as_str()) != decoded(other.path.as_str())
}
