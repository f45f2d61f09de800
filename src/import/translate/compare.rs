//! Compares who is admitted before and after: an outcome of nginx against a route.
//!
//! Anything unknown counts as refused by nginx and as admitted by the route.

use crate::import::access::{admits_beyond, admits_some};
use crate::import::nginx::Nginx;
use crate::import::nginx::level::Level;
use crate::import::nginx::location::{Location, Serves};
use crate::import::nginx::model::{End, Model, Outcome};
use crate::import::nginx::server::Server;
use crate::import::translate::guard::guards;
use crate::import::tree::{Id, Tree};

/// A server as nginx sees it: its answers, and for each location the guards that aren't carried
/// over.
pub struct Side<'n> {
    /// nginx' answers for every path of the server.
    pub model: Model<'n>,
    guards: Vec<Vec<Id>>,
}

/// Why a route admits requests that nginx refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// nginx passes none of them on.
    Refused,
    /// These guards aren't carried over.
    Guards(Vec<Id>),
    /// The route admits networks that nginx refuses.
    Networks,
    /// The route has weaker limits than nginx.
    Limits,
}

impl<'n> Side<'n> {
    /// Models `server` and collects the guards of its locations.
    pub fn new(nginx: &'n Nginx, server: &'n Server, tree: &Tree) -> Side<'n> {
        let places = 0..server.locations.len();
        let guards = places.map(|place| guards(nginx, server, place, tree)).collect();
        Side { model: Model::new(server), guards }
    }

    /// Adds the texts of `other`, so that cells also distinguish what its routes distinguish.
    pub fn with_texts_of(self, other: &Side<'_>) -> Side<'n> {
        Side { model: self.model.with_texts_of(&other.model), ..self }
    }

    /// Returns the server that is modelled.
    pub fn server(&self) -> &'n Server {
        self.model.server
    }

    /// Returns the guards of a location that aren't carried over.
    pub fn guards(&self, place: usize) -> &[Id] {
        &self.guards[place]
    }

    /// Returns whether the location at `place` passes requests on under rules that one policy can
    /// express.
    pub fn passes(&self, place: usize) -> bool {
        let location = &self.server().locations[place];
        match &location.serves {
            Serves::Proxy(_) => true,
            Serves::Named(_, name) => self.server().named(name).is_some_and(|named| {
                let named = &self.server().locations[named];
                matches!(named.serves, Serves::Proxy(_))
                    && named.level.access == location.level.access
            }),
            Serves::Answer(_) | Serves::Other => false,
        }
    }

    /// Returns whether nginx passes requests on by `outcome`, for at least one client.
    pub fn passes_some(&self, outcome: &Outcome) -> bool {
        let mut stages = outcome.stages.iter().map(|place| &self.server().locations[*place].level);
        outcome.end == End::Passed && stages.all(|stage| admits_some(&stage.access))
    }

    /// Returns why a route with the rules of `route` admits requests that `outcome` refuses. `None`
    /// means that it admits none of them.
    pub fn opens(&self, outcome: &Outcome, route: &Location) -> Option<Reason> {
        if !admits_some(&route.level.access) {
            return None;
        }
        if outcome.end == End::Refused {
            return Some(Reason::Refused);
        }
        let guards = outcome.stages.iter().flat_map(|place| self.guards(*place));
        let mut guards: Vec<_> = guards.copied().collect();
        guards.dedup();
        if !guards.is_empty() {
            return Some(Reason::Guards(guards));
        }
        if outcome.end == End::Answered {
            return None; // by a `return`, before networks and limits are asked
        }
        let stages = || outcome.stages.iter().map(|place| &self.server().locations[*place].level);
        if stages().any(|stage| admits_beyond(&route.level.access, &stage.access)) {
            return Some(Reason::Networks);
        }
        (!stages().all(|stage| limited(&route.level, stage))).then_some(Reason::Limits)
    }
}

/// Returns `client_max_body_size` in bytes, or nginx' default of 1 MiB.
fn longest_body(level: &Level) -> u64 {
    match level.max_body {
        None => 1 << 20,
        Some(set) if set.value == 0 => u64::MAX,
        Some(set) => set.value,
    }
}

/// Returns whether the limits of `route` are at least as strict as those of `stage`.
fn limited(route: &Level, stage: &Level) -> bool {
    let (dry, route_dry) = (stage.dry_rates == Some(true), route.dry_rates == Some(true));
    let rates = stage.rates.iter().all(|rate| {
        let mut own = route.rates.iter();
        own.any(|own| own.zone == rate.zone && own.burst <= rate.burst)
    });
    let (dry_counts, route_dry_counts) =
        (stage.dry_counts == Some(true), route.dry_counts == Some(true));
    let counts = stage.counts.iter().all(|count| {
        let mut own = route.counts.iter();
        own.any(|own| own.zone == count.zone && own.most <= count.most)
    });
    let bodies = longest_body(route) <= longest_body(stage);
    bodies
        && (dry || stage.rates.is_empty() || rates && !route_dry)
        && (dry_counts || stage.counts.is_empty() || counts && !route_dry_counts)
}
