//! nginx' `limit_req` and `limit_conn`, and the zones in which they count.

use std::collections::HashMap;
use std::time::Duration;

use crate::import::nginx::import_context::ImportContext;
use crate::import::nginx::unit;
use crate::import::tree::{Directive, DirectiveId, ImportError, Tree};

/// A `limit_req`: a rate with a burst, counted in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReqLimit {
    /// Number of the `limit_req` directive.
    pub id: DirectiveId,
    /// Name of the zone in which it counts.
    pub zone: String,
    /// Requests above the rate that are accepted.
    pub burst: u64,
    /// Whether the whole burst passes at once, by `nodelay` or `delay`; otherwise nginx delays
    /// requests to the rate.
    pub at_once: bool,
}

/// A `limit_conn`: connections at a time, counted in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnLimit {
    /// Number of the `limit_conn` directive.
    pub id: DirectiveId,
    /// Name of the zone in which it counts.
    pub zone: String,
    /// Most connections at a time, 1 to 65535.
    pub max: u32,
}

/// A `limit_req_zone` or `limit_conn_zone`.
#[derive(Debug)]
pub struct Zone {
    /// Number of the `limit_req_zone` or `limit_conn_zone` directive.
    pub id: DirectiveId,
    /// The key by which it counts.
    pub key: ZoneKey,
    /// Requests per period, of a `limit_req_zone`. `None` means a `limit_conn_zone`.
    pub rate: Option<(u64, Duration)>,
}

impl Zone {
    /// Returns the rate in requests per hour, for comparisons.
    pub fn requests_per_hour(&self) -> u128 {
        let per_hour = |(tokens, per): (u64, Duration)| {
            u128::from(tokens) * 3600 / u128::from(per.as_secs().max(1))
        };
        self.rate.map_or(u128::MAX, per_hour)
    }
}

/// The key by which a zone counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneKey {
    /// `$binary_remote_addr` or `$remote_addr`: one count per client.
    Client,
    /// `$server_name`: one count per server.
    Server,
    /// Any other key, which has no counterpart.
    Other,
}

/// All zones by name; those for rates and those for counts are separate.
#[derive(Debug, Default)]
pub struct Zones {
    rates: HashMap<String, Zone>,
    counts: HashMap<String, Zone>,
}

impl ReqLimit {
    /// Parses `zone=NAME [burst=N] [nodelay | delay=N]`. `None` means that a fault was noted.
    pub fn read(directive: &Directive, context: &mut ImportContext<'_>) -> Option<ReqLimit> {
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
                context.fault(id, format!("invalid parameter \"{word}\""));
                return None;
            }
        }
        let Some(zone) = zone else {
            context.fault(id, "`limit_req` without a zone");
            return None;
        };
        // `delay=N` holds back only requests beyond N: none, if N covers the burst.
        Some(ReqLimit { id, zone, burst, at_once: delay.is_none_or(|delay| delay >= burst) })
    }
}

fn positive(text: &str) -> Option<u64> {
    unit::number(text).filter(|number| *number > 0)
}

impl ConnLimit {
    /// Parses `NAME COUNT`. `None` means that a fault was noted.
    pub fn read(directive: &Directive, context: &mut ImportContext<'_>) -> Option<ConnLimit> {
        let id = directive.id;
        let [zone, max] = &directive.words[..] else {
            context.fault(id, "`limit_conn` takes a zone and a number");
            return None;
        };
        let Some(max) = unit::count(max).filter(|max| (1..=65535).contains(max)) else {
            context.fault(id, format!("invalid number of connections \"{max}\""));
            return None;
        };
        Some(ConnLimit { id, zone: zone.clone(), max })
    }
}

impl Zones {
    /// Reads a `limit_req_zone` or `limit_conn_zone`; a duplicate name is a fault.
    pub fn take(&mut self, directive: &Directive, context: &mut ImportContext<'_>) {
        let (id, is_rate) = (directive.id, directive.name == "limit_req_zone");
        let Some((key, rest)) = directive.words.split_first() else {
            return context.fault(id, format!("`{}` takes a key and a zone", directive.name));
        };
        let word = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
        let Some(name) = word("zone=")
            .map(|zone| zone.split(':').next().unwrap_or(zone))
            .filter(|name| !name.is_empty())
        else {
            return context.fault(id, format!("`{}` has no zone=NAME:SIZE", directive.name));
        };
        let rate = word("rate=").and_then(unit::rate);
        if is_rate && rate.is_none() && rest.iter().any(|word| word.starts_with("rate=")) {
            return context.fault(id, format!("invalid rate in \"{}\"", directive.words.join(" ")));
        }
        let key = match key.as_str() {
            "$binary_remote_addr" | "$remote_addr" => ZoneKey::Client,
            "$server_name" => ZoneKey::Server,
            _ => ZoneKey::Other,
        };
        // Without `rate=`, nginx allows one request per second.
        let rate = is_rate.then(|| rate.unwrap_or((1, Duration::from_secs(1))));
        let zones = if is_rate { &mut self.rates } else { &mut self.counts };
        if zones.insert(name.to_owned(), Zone { id, key, rate }).is_some() {
            context.fault(id, format!("zone \"{name}\" is there already"));
        }
    }

    /// Returns the zone of a `limit_req`.
    pub fn rate(&self, name: &str) -> Option<&Zone> {
        self.rates.get(name)
    }

    /// Returns the zone of a `limit_conn`.
    pub fn count(&self, name: &str) -> Option<&Zone> {
        self.counts.get(name)
    }

    /// Returns the fault of a limit that names a missing zone.
    pub fn missing(tree: &Tree, id: DirectiveId, zone: &str) -> ImportError {
        tree.fault(id, format!("there is no zone \"{zone}\""))
    }
}
