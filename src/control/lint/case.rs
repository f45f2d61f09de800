//! Routes that only letter case keeps apart: many backends ignore it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::spot::{Part, Remark, Spot};
use crate::control::config::{Loaded, RoutePage};
use crate::policy::request::decoded;
use crate::policy::route::HostPattern;

/// Each route whose path, in another case, is that of an earlier route for the same host.
pub fn alike(loaded: &Loaded, config: &Path) -> Vec<Remark> {
    let mut known: HashMap<Vec<u8>, Vec<&RoutePage>> = HashMap::new();
    let mut pairs = Vec::new();
    for page in &loaded.settings.routes {
        let earlier = known.entry(decoded(page.path.as_str()).to_ascii_lowercase()).or_default();
        let twin = earlier.iter().find(|other| differ_in_case(other, page) && share_a_host(&other.host, &page.host));
        pairs.extend(twin.map(|twin| (page, *twin)));
        earlier.push(page);
    }
    let file: Arc<str> = config.file_name().unwrap_or_default().to_string_lossy().into();
    let spot = |page: &RoutePage| Spot { file: Arc::clone(&file), line: page.line, part: Part::Word(Arc::clone(&page.name)) };
    let remark = |(page, other): (&RoutePage, &RoutePage)| Remark {
        spot: spot(page),
        message: format!(
            "the routes `{}` and `{}` differ in letter case only: a backend that ignores case takes one for the other",
            other.name, page.name
        ),
        remedy: "name the same policy in both, or keep one of them, unless the backend tells them apart".into(),
        other: Some((spot(other), "the other one")),
    };
    pairs.into_iter().map(remark).collect()
}

/// Whether some host takes both routes.
fn share_a_host(one: &HostPattern, other: &HostPattern) -> bool {
    let below = |name: &str, parent: &str| name.split_once('.').is_some_and(|(_, above)| above == parent);
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(name), HostPattern::Wildcard(parent)) | (HostPattern::Wildcard(parent), HostPattern::Exact(name)) => {
            below(name, parent)
        }
        (one, other) => one == other,
    }
}

/// Of two paths that are one in lower case.
fn differ_in_case(one: &RoutePage, other: &RoutePage) -> bool {
    decoded(one.path.as_str()) != decoded(other.path.as_str())
}
