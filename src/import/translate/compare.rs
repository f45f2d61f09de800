//! Who is admitted before and after: an outcome of nginx' against a route.
//!
//! Unknown counts as refused by nginx, and as admitted by the route.

use crate::import::access::{admits_beyond, admits_some};
use crate::import::nginx::Nginx;
use crate::import::nginx::level::Level;
use crate::import::nginx::location::{Location, Serves};
use crate::import::nginx::model::{End, Model, Outcome};
use crate::import::nginx::server::Server;
use crate::import::translate::guard::guards;
use crate::import::tree::{Id, Tree};

/// A server as nginx knows it: its answers, and the guards of each location that aren't carried over.
pub struct Side<'n> {
    /// What it answers.
    pub model: Model<'n>,
    guards: Vec<Vec<Id>>,
}

/// Why a route admits requests that nginx refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// nginx passes none of them on.
    Refused,
    /// These aren't carried over.
    Guards(Vec<Id>),
    /// Networks that one refuses and the other admits.
    Networks,
    /// Limits that hold for one only.
    Limits,
}

impl<'n> Side<'n> {
    /// Takes the sides of `server`.
    pub fn new(nginx: &'n Nginx, server: &'n Server, tree: &Tree) -> Side<'n> {
        let places = 0..server.locations.len();
        let guards = places.map(|place| guards(nginx, server, place, tree)).collect();
        Side { model: Model::new(server), guards }
    }

    /// The same for requests that another server's routes tell apart.
    pub fn with_texts_of(self, other: &Side<'_>) -> Side<'n> {
        Side { model: self.model.with_texts_of(&other.model), ..self }
    }

    /// The server.
    pub fn server(&self) -> &'n Server {
        self.model.server
    }

    /// The guards of a location.
    pub fn guards(&self, place: usize) -> &[Id] {
        &self.guards[place]
    }

    /// Whether the location at `place` passes requests on, and one policy can say to whom.
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

    /// Whether nginx passes requests on by `outcome`, for some client.
    pub fn passes_some(&self, outcome: &Outcome) -> bool {
        let mut stages = outcome.stages.iter().map(|place| &self.server().locations[*place].level);
        outcome.end == End::Passed && stages.all(|stage| admits_some(&stage.access))
    }

    /// Why a route by the rules of `route` admits a request that `outcome` refuses; `None` means that it
    /// admits none.
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

/// `client_max_body_size` in bytes, nginx' default where none is given.
fn longest_body(level: &Level) -> u64 {
    match level.max_body {
        None => 1 << 20,
        Some(set) if set.value == 0 => u64::MAX,
        Some(set) => set.value,
    }
}

/// Whether the limits of `route` hold at least what those of `stage` do.
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
