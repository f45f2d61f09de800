//! Routes that no `[[test]]` leads to, so that nothing notices when other clients are admitted
//! there.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::{LoadedConfig, RouteSettings};
use crate::policy::route::Routes;

/// Routes that no test's URL leads to. Tests of candidates do not count: they are about rules that
/// do not run.
pub fn uncovered(loaded: &LoadedConfig, config: &Path) -> Vec<Lint> {
    let pages = &loaded.settings.routes;
    let table =
        pages.iter().enumerate().map(|(at, page)| (page.host.clone(), page.path.clone(), at));
    // Loading has reported equal routes already.
    let Ok(routes) = Routes::new(table.collect()) else { return Vec::new() };
    let tests = loaded.policies.iter().chain(&loaded.baseline).flat_map(|page| &page.tests);
    // A test with an invalid URL has an error of its own, and leads to no route.
    let asked = tests.filter_map(|test| test.request.as_ref().ok());
    let covered: HashSet<_> = asked
        .filter_map(|request| routes.find(request.host.name(), request.path.forwarded(false)))
        .collect();
    let file: Arc<str> = config.file_name().unwrap_or_default().to_string_lossy().into();
    let remark = |page: &RouteSettings| Lint {
        location: LintLocation {
            file: Arc::clone(&file),
            line: page.line,
            part: LinePart::Word(Arc::clone(&page.name)),
        },
        message: format!(
            "no [[test]] leads to the route `{}`: nothing notices when its policy says something \
             else",
            page.name
        ),
        remedy: format!(
            "add one to policies/{}.toml, with a client and a URL, and what you expect",
            page.policy
        ),
        other: None,
    };
    pages
        .iter()
        .enumerate()
        .filter(|(at, _)| !covered.contains(at))
        .map(|(_, page)| remark(page))
        .collect()
}
