//! How a location passes requests on: backend, path, and whether as an upgrade.

use crate::import::nginx::backend::{Pass, To};
use crate::import::nginx::level::Level;
use crate::import::nginx::location::{Location, Serves};
use crate::import::nginx::matches::Matches;
use crate::import::nginx::server::Server;
use crate::import::nginx::version::KEEPS_CONNECTIONS;
use crate::import::nginx::{Nginx, Reading};
use crate::import::report::Word;
use crate::import::translate::route::timeouts::Timeouts;
use crate::import::translate::route::value::{Leads, MaxBody};

/// Returns the `proxy_pass` for `location` and the settings in force towards the backend. `None`
/// means that no single policy can express it.
pub fn resolved<'s>(server: &'s Server, location: &'s Location) -> (Option<&'s Pass>, &'s Level) {
    match &location.serves {
        Serves::Proxy(pass) => (Some(pass), &location.level),
        Serves::Named(_, name) => match server.named(name).map(|place| &server.locations[place]) {
            Some(Location { serves: Serves::Proxy(pass), level, .. })
                if level.access == location.level.access =>
            {
                (Some(pass), level)
            }
            _ => (None, &location.level),
        },
        Serves::Answer(_) | Serves::Other => (None, &location.level),
    }
}

/// Returns whether two locations decide alike and lead to the same place.
pub fn alike(server: &Server, one: usize, other: usize) -> bool {
    let (one, other) = (&server.locations[one], &server.locations[other]);
    let ((Some(pass), level), (Some(other_pass), other_level)) =
        (resolved(server, one), resolved(server, other))
    else {
        return false;
    };
    let same_limits = level.rates == other_level.rates && level.counts == other_level.counts;
    pass.to == other_pass.to
        && pass.path.is_none()
        && other_pass.path.is_none()
        && level.access == other_level.access
        && same_limits
        && max_body(level) == max_body(other_level)
        && Timeouts::of(level) == Timeouts::of(other_level)
}

/// Returns the largest body. `None` means the default, which nginx and Sidegate share.
fn max_body(level: &Level) -> Option<MaxBody> {
    level.max_body.map(|set| if set.value == 0 { MaxBody::Off } else { MaxBody::Bytes(set.value) })
}

/// Returns why nginx passes no upgrade on. `None` means that it does.
pub fn no_upgrade(level: &Level, nginx: &Nginx) -> Option<&'static str> {
    let header = |name: &str| {
        level
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
    let default = if nginx.version >= KEEPS_CONNECTIONS { "" } else { "close" };
    let connection = header("connection").unwrap_or(default);
    let connection = nginx.upgrades.get(connection).map_or(connection, String::as_str);
    // Another variable may have any value; setting one here is taken to mean WebSockets.
    if !connection.contains('$') && !connection.to_ascii_lowercase().contains("upgrade") {
        return Some("`Connection` doesn't say `upgrade`");
    }
    if !level.http_11.map_or(nginx.version >= KEEPS_CONNECTIONS, |set| set.value) {
        return Some("`proxy_http_version` is not 1.1");
    }
    None
}

/// The change from the request's path to the backend's.
pub enum Cut {
    /// The path is unchanged.
    Nothing,
    /// The route's path is stripped.
    Prefix,
    /// Any other change, which a route can't express.
    Other,
}

/// Returns the change of the path for a route with pattern `path`.
pub fn cut(location: &Location, pass: &Pass, path: &str) -> Cut {
    let own = location.matches.path().unwrap_or_default();
    let here = path == own || path.strip_suffix('/') == Some(own);
    if pass.cut_by.is_some() {
        return if own == "/" {
            Cut::Nothing
        } else if here {
            Cut::Prefix
        } else {
            Cut::Other
        };
    }
    match pass.path.as_deref() {
        None | Some("$request_uri" | "$uri" | "$uri$is_args$args") => Cut::Nothing,
        Some(to) if to == own => Cut::Nothing,
        Some("/") if here => Cut::Prefix,
        Some(_) => Cut::Other,
    }
}

/// Returns the destination of a route with pattern `path`.
pub fn leads(
    location: &Location,
    pass: &Pass,
    level: &Level,
    path: &str,
    reading: &mut Reading<'_>,
) -> Leads {
    let strip_prefix = match cut(location, pass, path) {
        Cut::Nothing => false,
        Cut::Prefix => true,
        Cut::Other => {
            let text = format!(
                "the backend gets the path as it came: `{}` in its place can't be carried over",
                pass.path.as_deref().unwrap_or("/")
            );
            reading.notes.say(pass.id, Word::Differs, text);
            false
        }
    };
    let own = location.matches.path().unwrap_or_default();
    if strip_prefix && !own.ends_with('/') && matches!(location.matches, Matches::Prefix(..)) {
        let text = format!("nginx made `//x` of `{own}/x`; here the backend gets `/x`");
        reading.notes.say(pass.id, Word::Differs, text);
    }
    let (backends, unknown) = match &pass.to {
        To::Backends(backends) => (backends.clone(), None),
        To::Unknown(why) => (Vec::new(), Some(why.clone())),
    };
    let (max_body, timeouts) = (max_body(level), Timeouts::of(level));
    Leads::To { backends, unknown, strip_prefix, max_body, timeouts }
}
