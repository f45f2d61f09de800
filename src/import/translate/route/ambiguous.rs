//! Finds locations whose paths Sidegate answers with 400, because some servers read them as paths
//! of another route.
//!
//! Tests only the path that a location names, and one path below it. Other paths depend on the
//! client.

use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::model::canonical;
use crate::import::translate::compare::ModelledServer;
use crate::import::translate::paths::{PatternTarget, RoutePatterns};
use sidegate::policy::request::reading::{self, PathReading};

/// Returns how some servers read a path of the location at `place`, if the routes lead that reading
/// elsewhere.
pub fn elsewhere(side: &ModelledServer<'_>, paths: &RoutePatterns, place: usize) -> Option<String> {
    let matches = &side.server().locations[place].matches;
    let named = matches.path()?;
    // One letter more than the prefix: a path inside the location that is not its own text.
    let longer = matches!(matches, LocationPattern::Prefix(..)).then(|| format!("{named}x"));
    let mut texts = [named.to_owned()].into_iter().chain(longer);
    texts.find_map(|path| {
        let written = canonical(&path)?;
        let own = paths.find(&side.model.cell(&path));
        if reading::is_plain(&written) || own == PatternTarget::Closed {
            return None;
        }
        let other = |bytes: &[u8]| {
            let cell = side.model.cell(&String::from_utf8_lossy(bytes));
            // A reading without any pattern reaches no backend, and so leads nowhere else.
            (paths.matches(&cell) && paths.find(&cell) != own).then_some(())
        };
        match reading::find(&written, other) {
            Ok(None) => None,
            Ok(Some((PathReading { path, .. }, ()))) => {
                Some(String::from_utf8_lossy(&path).into_owned())
            }
            // Sidegate refuses a path with too many readings, so the location loses it as well.
            Err(_) => Some("too many paths".into()),
        }
    })
}
