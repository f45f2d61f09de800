//! Compares who is admitted before and after: an outcome of nginx against a route.
//!
//! Anything unknown counts as refused by nginx and as admitted by the route.

use crate::import::access::{AccessRule, admits_beyond, admits_some, decide_users};
use crate::import::nginx::HttpBlock;
use crate::import::nginx::context::ContextSettings;
use crate::import::nginx::location::{Location, LocationHandler};
use crate::import::nginx::model::{RequestEnd, RequestOutcome, ServerModel};
use crate::import::nginx::server::Server;
use crate::import::translate::guard::guards;
use crate::import::tree::{DirectiveId, Tree};

/// A server as nginx sees it: its answers, and for each location the guards that aren't carried
/// over.
pub struct ModelledServer<'n> {
    /// nginx' answers for every path of the server.
    pub model: ServerModel<'n>,
    guards: Vec<Vec<DirectiveId>>,
}

/// Why a route admits requests that nginx refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpeningReason {
    /// nginx passes none of them on.
    Refused,
    /// These guards aren't carried over.
    Guards(Vec<DirectiveId>),
    /// The route admits networks that nginx refuses.
    Networks,
    /// The route has weaker limits than nginx.
    Limits,
}

impl<'n> ModelledServer<'n> {
    /// Models `server` and collects the guards of its locations.
    pub fn new(nginx: &'n HttpBlock, server: &'n Server, tree: &Tree) -> ModelledServer<'n> {
        let places = 0..server.locations.len();
        let guards = places.map(|place| guards(nginx, server, place, tree)).collect();
        ModelledServer { model: ServerModel::new(server), guards }
    }

    /// Adds the texts of `other`, so that cells also distinguish what its routes distinguish.
    pub fn with_texts_of(self, other: &ModelledServer<'_>) -> ModelledServer<'n> {
        ModelledServer { model: self.model.with_texts_of(&other.model), ..self }
    }

    /// Returns the server that is modelled.
    pub fn server(&self) -> &'n Server {
        self.model.server
    }

    /// Returns the guards of a location that aren't carried over.
    pub fn guards(&self, place: usize) -> &[DirectiveId] {
        &self.guards[place]
    }

    /// Returns whether `rules` admit at least one client of this server.
    pub fn admits_some(&self, rules: &[AccessRule]) -> bool {
        admits_some(rules) || self.server().has_users() && decide_users(rules).admits
    }

    /// Returns whether `one` admits a client of this server that `other` refuses.
    fn admits_beyond(&self, one: &[AccessRule], other: &[AccessRule]) -> bool {
        let users = || decide_users(one).admits && !decide_users(other).admits;
        admits_beyond(one, other) || self.server().has_users() && users()
    }

    /// Returns whether the location at `place` passes requests on under rules that one policy can
    /// express.
    pub fn passes(&self, place: usize) -> bool {
        let location = &self.server().locations[place];
        match &location.serves {
            LocationHandler::Proxy(_) => true,
            LocationHandler::Named(_, name) => self.server().named(name).is_some_and(|named| {
                let named = &self.server().locations[named];
                // A request meets the rules of both locations. One policy expresses them only if
                // they are the same.
                matches!(named.serves, LocationHandler::Proxy(_))
                    && named.settings.access == location.settings.access
            }),
            LocationHandler::Answer(_) | LocationHandler::Other => false,
        }
    }

    /// Returns whether nginx passes requests on by `outcome`, for at least one client.
    pub fn passes_some(&self, outcome: &RequestOutcome) -> bool {
        let mut stages =
            outcome.stages.iter().map(|place| &self.server().locations[*place].settings);
        outcome.end == RequestEnd::Passed && stages.all(|stage| self.admits_some(&stage.access))
    }

    /// Returns why a route with the rules of `route` admits requests that `outcome` refuses. `None`
    /// means that it admits none of them.
    pub fn opens(&self, outcome: &RequestOutcome, route: &Location) -> Option<OpeningReason> {
        if !self.admits_some(&route.settings.access) {
            return None;
        }
        if outcome.end == RequestEnd::Refused {
            return Some(OpeningReason::Refused);
        }
        let guards = outcome.stages.iter().flat_map(|place| self.guards(*place));
        let mut guards: Vec<_> = guards.copied().collect();
        guards.dedup();
        if !guards.is_empty() {
            return Some(OpeningReason::Guards(guards));
        }
        if outcome.end == RequestEnd::Answered {
            return None; // by a `return`, before networks and limits are asked
        }
        let stages =
            || outcome.stages.iter().map(|place| &self.server().locations[*place].settings);
        if stages().any(|stage| self.admits_beyond(&route.settings.access, &stage.access)) {
            return Some(OpeningReason::Networks);
        }
        (!stages().all(|stage| limited(&route.settings, stage))).then_some(OpeningReason::Limits)
    }
}

/// Returns `client_max_body_size` in bytes, or nginx' default of 1 MiB.
fn longest_body(settings: &ContextSettings) -> u64 {
    match settings.max_body {
        None => 1 << 20,
        Some(set) if set.value == 0 => u64::MAX,
        Some(set) => set.value,
    }
}

/// Returns whether the limits of `route` are at least as strict as those of `stage`.
fn limited(route: &ContextSettings, stage: &ContextSettings) -> bool {
    // A dry run refuses nothing, so it counts as no limit on either side.
    let (dry, route_dry) = (stage.dry_rates == Some(true), route.dry_rates == Some(true));
    let rates = stage.rates.iter().all(|rate| {
        let mut own = route.rates.iter();
        // A zone has one rate, so only the bursts have to be compared.
        own.any(|own| own.zone == rate.zone && own.burst <= rate.burst)
    });
    let (dry_counts, route_dry_counts) =
        (stage.dry_counts == Some(true), route.dry_counts == Some(true));
    let counts = stage.counts.iter().all(|count| {
        let mut own = route.counts.iter();
        own.any(|own| own.zone == count.zone && own.max <= count.max)
    });
    let bodies = longest_body(route) <= longest_body(stage);
    bodies
        && (dry || stage.rates.is_empty() || rates && !route_dry)
        && (dry_counts || stage.counts.is_empty() || counts && !route_dry_counts)
}
