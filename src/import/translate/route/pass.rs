//! How a location passes requests on: backend, path, and whether as an upgrade.

use crate::import::nginx::backend::{PassTarget, ProxyPass};
use crate::import::nginx::context::ContextSettings;
use crate::import::nginx::location::{Location, LocationHandler};
use crate::import::nginx::location_pattern::LocationPattern;
use crate::import::nginx::server::Server;
use crate::import::nginx::version::KEEP_ALIVE_SINCE;
use crate::import::nginx::{HttpBlock, ImportContext};
use crate::import::report::DirectiveOutcome;
use crate::import::translate::route::timeouts::Timeouts;
use crate::import::translate::route::value::{MaxBody, RouteTarget};

/// Returns the `proxy_pass` for `location` and the settings in force towards the backend. `None`
/// means that no single policy can express it.
pub fn resolved<'s>(
    server: &'s Server,
    location: &'s Location,
) -> (Option<&'s ProxyPass>, &'s ContextSettings) {
    match &location.serves {
        LocationHandler::Proxy(pass) => (Some(pass), &location.settings),
        LocationHandler::Named(_, name) => {
            match server.named(name).map(|place| &server.locations[place]) {
                Some(Location { serves: LocationHandler::Proxy(pass), settings, .. })
                    // nginx applies the rules of both locations; one policy expresses them only if
                    // they are the same.
                    if settings.access == location.settings.access =>
                {
                    (Some(pass), settings)
                }
                _ => (None, &location.settings),
            }
        }
        LocationHandler::Answer(_) | LocationHandler::Other => (None, &location.settings),
    }
}

/// Returns whether two locations decide alike and lead to the same place.
pub fn alike(server: &Server, one: usize, other: usize) -> bool {
    let (one, other) = (&server.locations[one], &server.locations[other]);
    let ((Some(pass), settings), (Some(other_pass), other_level)) =
        (resolved(server, one), resolved(server, other))
    else {
        return false;
    };
    let same_limits = settings.rates == other_level.rates && settings.counts == other_level.counts;
    pass.to == other_pass.to
        && pass.path.is_none()
        && other_pass.path.is_none()
        && settings.access == other_level.access
        && same_limits
        && max_body(settings) == max_body(other_level)
        && Timeouts::of(settings) == Timeouts::of(other_level)
}

/// Returns the largest body. `None` means the default, which nginx and Sidegate share.
fn max_body(settings: &ContextSettings) -> Option<MaxBody> {
    settings
        .max_body
        .map(|set| if set.value == 0 { MaxBody::Off } else { MaxBody::Bytes(set.value) })
}

/// Returns why nginx passes no upgrade on. `None` means that it does.
pub fn no_upgrade(settings: &ContextSettings, nginx: &HttpBlock) -> Option<&'static str> {
    let header = |name: &str| {
        settings
            .headers
            .iter()
            .rev()
            .find(|header| header.name == name)
            .map(|header| header.value.as_str())
    };
    let Some(upgrade) = header("upgrade") else {
        return Some("no `proxy_set_header Upgrade` holds");
    };
    if upgrade != "$http_upgrade" && !upgrade.eq_ignore_ascii_case("websocket") {
        return Some("`Upgrade` is set to something else");
    }
    // Older versions send `Connection: close` to backends, and so no upgrade.
    let default = if nginx.version >= KEEP_ALIVE_SINCE { "" } else { "close" };
    let connection = header("connection").unwrap_or(default);
    let connection = nginx.upgrades.get(connection).map_or(connection, String::as_str);
    // Another variable may have any value; setting one here is taken to mean WebSockets.
    if !connection.contains('$') && !connection.to_ascii_lowercase().contains("upgrade") {
        return Some("`Connection` doesn't say `upgrade`");
    }
    if !settings.http_11.map_or(nginx.version >= KEEP_ALIVE_SINCE, |set| set.value) {
        return Some("`proxy_http_version` is not 1.1");
    }
    None
}

/// The change from the request's path to the backend's.
pub enum PathChange {
    /// The path is unchanged.
    Nothing,
    /// The route's path is stripped.
    Prefix,
    /// Any other change, which a route can't express.
    Other,
}

/// Returns the change of the path for a route with pattern `path`.
pub fn path_change(location: &Location, pass: &ProxyPass, path: &str) -> PathChange {
    let own = location.matches.path().unwrap_or_default();
    // Only there is the location's path also the route's, which `strip_prefix` removes.
    let here = path == own || path.strip_suffix('/') == Some(own);
    if pass.cut_by.is_some() {
        return if own == "/" {
            PathChange::Nothing
        } else if here {
            PathChange::Prefix
        } else {
            PathChange::Other
        };
    }
    match pass.path.as_deref() {
        None | Some("$request_uri" | "$uri" | "$uri$is_args$args") => PathChange::Nothing,
        // With a variable, nginx sends this URI for every request.
        Some(_) if pass.is_evaluated => PathChange::Other,
        Some(to) if to == own => PathChange::Nothing,
        Some("/") if here => PathChange::Prefix,
        Some(_) => PathChange::Other,
    }
}

/// Returns the destination of a route with pattern `path`.
pub fn leads(
    location: &Location,
    pass: &ProxyPass,
    settings: &ContextSettings,
    path: &str,
    context: &mut ImportContext<'_>,
) -> RouteTarget {
    let strip_prefix = match path_change(location, pass, path) {
        PathChange::Nothing => false,
        PathChange::Prefix => true,
        PathChange::Other => {
            let text = format!(
                "the backend gets the path as it came: `{}` in its place can't be carried over",
                pass.path.as_deref().unwrap_or("/")
            );
            context.notes.add(pass.id, DirectiveOutcome::Differs, text);
            false
        }
    };
    let own = location.matches.path().unwrap_or_default();
    if strip_prefix
        && !own.ends_with('/')
        && matches!(location.matches, LocationPattern::Prefix(..))
    {
        let text = format!("nginx made `//x` of `{own}/x`; here the backend gets `/x`");
        context.notes.add(pass.id, DirectiveOutcome::Differs, text);
    }
    let (backends, unknown) = match &pass.to {
        PassTarget::Backends(backends) => (backends.clone(), None),
        PassTarget::Unknown(why) => (Vec::new(), Some(why.clone())),
    };
    let (max_body, timeouts) = (max_body(settings), Timeouts::of(settings));
    RouteTarget::Backends { backends, unknown, strip_prefix, max_body, timeouts }
}
