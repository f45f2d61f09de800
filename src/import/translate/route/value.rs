//! A route as it is written.

use crate::import::translate::route::timeouts::Timeouts;
use crate::import::tree::DirectiveId;

/// A `[[route]]` table of `sidegate.toml`.
#[derive(Debug)]
pub struct OutputRoute {
    /// Unique name, made of host and path.
    pub name: String,
    /// Host pattern: exact, `*.parent` or `*`.
    pub host: String,
    /// Path pattern, escaped; a final slash covers everything below.
    pub path: String,
    /// Its backends and their settings.
    pub leads: RouteTarget,
    /// Name of the policy that it uses.
    pub policy: String,
    /// The location that it was made from. `None` means a closed route.
    pub from: Option<DirectiveId>,
}

/// The destination of a route.
#[derive(Debug)]
pub enum RouteTarget {
    /// Requests go to backends.
    Backends {
        /// The backends; empty only if they are unknown.
        backends: Vec<String>,
        /// Why the backends are unknown. `None` means that they are known.
        unknown: Option<String>,
        /// Whether the route's path is stripped.
        strip_prefix: bool,
        /// `max_body`. `None` means the default.
        max_body: Option<MaxBody>,
        /// The route's `timeouts` table.
        timeouts: Timeouts,
    },
    /// No destination: its policy admits no client.
    Closed,
}

/// A route's `max_body`, the largest request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxBody {
    /// Most bytes of a body.
    Bytes(u64),
    /// `max_body = "off"`: unlimited.
    Off,
}
