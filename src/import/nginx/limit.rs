//! nginx' `limit_req` and `limit_conn`, and the zones that they count in.

use std::collections::HashMap;
use std::time::Duration;

use crate::import::nginx::reading::Reading;
use crate::import::nginx::unit;
use crate::import::tree::{Directive, Fault, Id, Tree};

/// A `limit_req`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// The directive.
    pub id: Id,
    /// The zone that it counts in.
    pub zone: String,
    /// How many more than the rate.
    pub burst: u64,
    /// Whether all of these go at once; else nginx holds them back to the rate.
    pub at_once: bool,
}

/// A `limit_conn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The directive.
    pub id: Id,
    /// The zone that it counts in.
    pub zone: String,
    /// How many at once.
    pub most: u32,
}

/// A `limit_req_zone` or `limit_conn_zone`.
#[derive(Debug)]
pub struct Zone {
    /// The directive.
    pub id: Id,
    /// What it counts by.
    pub key: Key,
    /// `limit_req_zone`: so many in so long.
    pub rate: Option<(u64, Duration)>,
}

impl Zone {
    /// Requests in an hour.
    pub fn pace(&self) -> u128 {
        let per_hour = |(tokens, per): (u64, Duration)| {
            u128::from(tokens) * 3600 / u128::from(per.as_secs().max(1))
        };
        self.rate.map_or(u128::MAX, per_hour)
    }
}

/// What a zone counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The client's address.
    Client,
    /// The server: one count for all.
    Server,
    /// Something else.
    Other,
}

/// All zones by name, those for rates and those for counts.
#[derive(Debug, Default)]
pub struct Zones {
    rates: HashMap<String, Zone>,
    counts: HashMap<String, Zone>,
}

impl Rate {
    /// `zone=NAME [burst=N] [nodelay | delay=N]`
    pub fn read(directive: &Directive, reading: &mut Reading<'_>) -> Option<Rate> {
        let (id, mut zone, mut burst, mut delay) = (directive.id, None, 0, Some(0));
        for word in &directive.words {
            let known = match word.split_once('=') {
                Some(("zone", name)) => {
                    zone = Some(name.to_owned());
                    true
                }
                Some(("burst", count)) => positive(count).map(|count| burst = count).is_some(),
                Some(("delay", count)) => {
                    positive(count).map(|count| delay = Some(count)).is_some()
                }
                None if word == "nodelay" => {
                    delay = None;
                    true
                }
                _ => false,
            };
            if !known {
                reading.fault(id, format!("invalid parameter \"{word}\""));
                return None;
            }
        }
        let Some(zone) = zone else {
            reading.fault(id, "`limit_req` without a zone");
            return None;
        };
        Some(Rate { id, zone, burst, at_once: delay.is_none_or(|delay| delay >= burst) })
    }
}

fn positive(text: &str) -> Option<u64> {
    unit::number(text).filter(|number| *number > 0)
}

impl Count {
    /// `NAME COUNT`
    pub fn read(directive: &Directive, reading: &mut Reading<'_>) -> Option<Count> {
        let id = directive.id;
        let [zone, most] = &directive.words[..] else {
            reading.fault(id, "`limit_conn` takes a zone and a number");
            return None;
        };
        let Some(most) = unit::count(most).filter(|most| (1..=65535).contains(most)) else {
            reading.fault(id, format!("invalid number of connections \"{most}\""));
            return None;
        };
        Some(Count { id, zone: zone.clone(), most })
    }
}

impl Zones {
    /// Reads a `limit_req_zone` or `limit_conn_zone`.
    pub fn take(&mut self, directive: &Directive, reading: &mut Reading<'_>) {
        let (id, is_rate) = (directive.id, directive.name == "limit_req_zone");
        let Some((key, rest)) = directive.words.split_first() else {
            return reading.fault(id, format!("`{}` takes a key and a zone", directive.name));
        };
        let word = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
        let Some(name) = word("zone=")
            .map(|zone| zone.split(':').next().unwrap_or(zone))
            .filter(|name| !name.is_empty())
        else {
            return reading.fault(id, format!("`{}` has no zone=NAME:SIZE", directive.name));
        };
        let rate = word("rate=").and_then(unit::rate);
        if is_rate && rate.is_none() && rest.iter().any(|word| word.starts_with("rate=")) {
            return reading.fault(id, format!("invalid rate in \"{}\"", directive.words.join(" ")));
        }
        let key = match key.as_str() {
            "$binary_remote_addr" | "$remote_addr" => Key::Client,
            "$server_name" => Key::Server,
            _ => Key::Other,
        };
        // Without a rate of its own, nginx takes one a second.
        let rate = is_rate.then(|| rate.unwrap_or((1, Duration::from_secs(1))));
        let zones = if is_rate { &mut self.rates } else { &mut self.counts };
        if zones.insert(name.to_owned(), Zone { id, key, rate }).is_some() {
            reading.fault(id, format!("zone \"{name}\" is there already"));
        }
    }

    /// The zone of a `limit_req`.
    pub fn rate(&self, name: &str) -> Option<&Zone> {
        self.rates.get(name)
    }

    /// The zone of a `limit_conn`.
    pub fn count(&self, name: &str) -> Option<&Zone> {
        self.counts.get(name)
    }

    /// That a zone which somebody counts in is missing.
    pub fn missing(tree: &Tree, id: Id, zone: &str) -> Fault {
        tree.fault(id, format!("there is no zone \"{zone}\""))
    }
}
