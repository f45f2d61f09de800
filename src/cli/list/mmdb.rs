//! Reads a MaxMind database (MaxMind DB 2.0), and makes the text of a list.
//!
//! A damaged database is an error: its tree is walked no further than a sound one could reach.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use sidegate::observe::printable;

/// Largest list that `sidegate` reads, in bytes.
const MAX_LIST_BYTES: usize = 64 << 20;

/// The networks that a list gets: those of any of these countries and systems.
#[derive(Debug, Clone)]
pub struct Query {
    /// Countries by their two capital letters.
    pub countries: Vec<String>,
    /// Autonomous systems by number.
    pub systems: Vec<u32>,
}

/// Parses a country's two letters.
pub fn country(text: &str) -> Result<String, String> {
    let is_code = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_code.then(|| text.to_ascii_uppercase()).ok_or_else(|| "two letters, like DE".to_owned())
}

/// Parses the number of an autonomous system, with or without `AS`.
pub fn asn(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("AS").or(text.strip_prefix("as")).unwrap_or(text);
    digits.parse().map_err(|_| "a number, like 64500".to_owned())
}

/// The fields of a record that a query reads, as MaxMind, DB-IP and IPinfo name them.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    country: Option<CountryField>,
    #[serde(default)]
    country_code: Option<String>,
    #[serde(default)]
    autonomous_system_number: Option<SystemField>,
    #[serde(default)]
    asn: Option<SystemField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountryField {
    Code(String),
    Table {
        #[serde(default)]
        iso_code: Option<String>,
    },
}

// Untagged, since databases write small numbers in narrower types.
#[derive(Deserialize)]
#[serde(untagged)]
enum SystemField {
    Number(u32),
    Text(String),
}

/// What a record says of its network.
struct Facts {
    country: Option<String>,
    system: Option<u32>,
}

impl From<Record> for Facts {
    fn from(record: Record) -> Facts {
        let country = match record.country {
            // IPinfo has the code itself in this place; MaxMind and DB-IP have a table.
            Some(CountryField::Code(code)) => Some(code),
            Some(CountryField::Table { iso_code }) => iso_code,
            None => None,
        };
        let field = record.autonomous_system_number.or(record.asn);
        let system = field.and_then(|field| match field {
            SystemField::Number(number) => Some(number),
            // IPinfo writes `AS64500`.
            SystemField::Text(text) => asn(&text).ok(),
        });
        Facts {
            country: country.or(record.country_code).and_then(|code| self::country(&code).ok()),
            system,
        }
    }
}

/// The parts of a query that have matched.
#[derive(Default)]
struct Seen {
    countries: Vec<String>,
    systems: Vec<u32>,
}

impl Query {
    /// Whether a network with these facts belongs to the list.
    fn matches(&self, facts: &Facts, seen: &mut Seen) -> bool {
        let country = facts.country.as_ref().filter(|code| self.countries.contains(code));
        let system = facts.system.filter(|number| self.systems.contains(number));
        // Both parts are noted even where one of them decides, since `check` asks for each.
        seen.countries.extend(country.cloned());
        seen.systems.extend(system);
        country.is_some() || system.is_some()
    }

    /// The query as it was given.
    fn arguments(&self) -> String {
        let countries = self.countries.iter().map(|code| format!("--country {code}"));
        let systems = self.systems.iter().map(|number| format!("--asn {number}"));
        countries.chain(systems).collect::<Vec<_>>().join(" ")
    }

    /// An error for a part that no network has: a mistyped country would make an empty list.
    fn check(&self, seen: &Seen) -> Result<(), String> {
        let country = self.countries.iter().find(|code| !seen.countries.contains(code));
        let system = self.systems.iter().find(|number| !seen.systems.contains(number));
        match (country, system) {
            (Some(code), _) => Err(format!("no network has the country {code}")),
            (None, Some(number)) => Err(format!("no network belongs to AS{number}")),
            (None, None) => Ok(()),
        }
    }
}

/// The text of the list that `query` makes of the database `bytes`. `name` is its file name, and
/// `made_by` the second line.
///
/// # Errors
/// A sentence: the database is damaged, a part of the query matches nothing, or the list is too
/// long.
pub fn list(bytes: Vec<u8>, name: &str, query: &Query, made_by: &str) -> Result<String, String> {
    let reader = Reader::from_source(bytes).map_err(|error| damaged(&error))?;
    let networks = networks(&reader, query)?;
    let metadata = reader.metadata();
    // The date of the database and not of this run: the same input makes the same list, so that
    // version control shows a change only where networks have changed.
    let built = i64::try_from(metadata.build_epoch).ok();
    let built = built.and_then(|second| Timestamp::from_second(second).ok());
    let built = built.ok_or("the database is damaged: its build date is out of range")?;
    // Neither can be trusted: a newline in it would end the comment and begin an entry.
    let (kind, name) = (printable::line(&metadata.database_type), printable::line(name));
    let v4 = networks.iter().filter(|network| matches!(network, IpNet::V4(_))).count();
    let mut text = format!(
        "# Networks from {name}: {v4} of IPv4, {} of IPv6\n{made_by}\n# Source: {name} ({kind}), \
         built {}\n# Query: {}\n",
        networks.len() - v4,
        built.strftime("%Y-%m-%d"),
        query.arguments()
    );
    for network in networks {
        text.push_str(&format!("{network}\n"));
        if text.len() > MAX_LIST_BYTES {
            return Err("the list would be longer than 64 MiB".into());
        }
    }
    Ok(text)
}

/// The networks that match, merged and in order.
fn networks(reader: &Reader<Vec<u8>>, query: &Query) -> Result<Vec<IpNet>, String> {
    // Empty leaves are included, since the reader would skip any number of them by itself and
    // the bound below would not count them.
    let options = WithinOptions::default().include_networks_without_data();
    let all = reader.networks(options).map_err(|error| damaged(&error))?;
    // A tree of n nodes has n + 1 leaves. More of them mean that branches meet again.
    let mut left = u64::from(reader.metadata().node_count) + 2;
    let (mut known, mut seen, mut found) = (HashMap::new(), Seen::default(), Vec::new());
    for lookup in all {
        let lookup = lookup.map_err(|error| damaged(&error))?;
        left = left.checked_sub(1).ok_or("the database is damaged: its tree has no end")?;
        // Networks share records, so each record is read once.
        let Some(offset) = lookup.offset() else { continue };
        let matches = match known.get(&offset) {
            Some(matches) => *matches,
            None => {
                let matches = facts(&lookup)?.is_some_and(|facts| query.matches(&facts, &mut seen));
                known.insert(offset, matches);
                matches
            }
        };
        if matches {
            let network = lookup.network().map_err(|error| damaged(&error))?;
            found.extend(list_networks(network.ip(), network.prefix()));
        }
    }
    query.check(&seen)?;
    let mut merged = IpNet::aggregate(&found);
    merged.sort();
    Ok(merged)
}

fn facts(lookup: &LookupResult<'_, Vec<u8>>) -> Result<Option<Facts>, String> {
    let record = lookup.decode::<Record>().map_err(|error| damaged(&error))?;
    Ok(record.map(Facts::from))
}

/// The networks of a list for one of the database, which has IPv4 below `::/96`.
fn list_networks(ip: IpAddr, prefix: u8) -> Vec<IpNet> {
    let ip = match ip {
        IpAddr::V4(ip) => return Ipv4Net::new(ip, prefix).map(IpNet::V4).into_iter().collect(),
        IpAddr::V6(ip) => ip,
    };
    let bits = ip.to_bits();
    let own = Ipv6Net::new(ip, prefix).map(|network| IpNet::V6(network.trunc()));
    match prefix {
        // Clients of IPv4 are judged by IPv4 entries: as IPv6 the network would match none of them.
        96.. if bits >> 32 == 0 => {
            let v4 = Ipv4Net::new(Ipv4Addr::from_bits(bits as u32), prefix - 96);
            v4.map(IpNet::V4).into_iter().collect()
        }
        // It contains all of IPv4.
        _ if bits == 0 => {
            own.map(|own| vec![own, IpNet::V4(Ipv4Net::default())]).unwrap_or_default()
        }
        _ => own.into_iter().collect(),
    }
}

fn damaged(error: &MaxMindDbError) -> String {
    format!("not a MaxMind database, or damaged: {}", printable::line(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The database that make_places.py makes.
    const PLACES: &[u8] = include_bytes!("places.mmdb");

    fn made(countries: &[&str], systems: &[u32]) -> Result<String, String> {
        let countries = countries.iter().map(|code| (*code).to_owned()).collect();
        let query = Query { countries, systems: systems.to_vec() };
        list(PLACES.to_vec(), "places.mmdb", &query, "# made")
    }

    fn entries(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn networks_are_merged_and_sorted() {
        let text = made(&["DE"], &[]).unwrap();
        assert_eq!(entries(&text), ["192.0.2.0/24", "2001:db8:1::/48"]);
        let text = made(&["FR", "DE"], &[64500]).unwrap();
        let all = [
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.7/32",
            "2001:db8:1::/48",
            "2001:db8:2::/48",
        ];
        assert_eq!(entries(&text), all);
        assert_eq!(entries(&made(&["SE"], &[]).unwrap()), ["203.0.113.7/32"]);
        let systems = ["192.0.2.128/25", "203.0.113.7/32"];
        assert_eq!(entries(&made(&[], &[64500]).unwrap()), systems);
    }

    #[test]
    fn header_names_source_date_and_query() {
        let text = made(&["DE"], &[64500]).unwrap();
        let header: Vec<_> = text.lines().take(4).collect();
        assert_eq!(header[0], "# Networks from places.mmdb: 2 of IPv4, 1 of IPv6");
        assert_eq!(header[1], "# made");
        assert!(header[2].starts_with("# Source: places.mmdb (Test-Places), built 20"));
        assert_eq!(header[3], "# Query: --country DE --asn 64500");
    }

    #[test]
    fn part_of_a_query_without_a_network_is_an_error() {
        assert_eq!(made(&["DE", "XX"], &[]).unwrap_err(), "no network has the country XX");
        assert_eq!(made(&["DE"], &[1]).unwrap_err(), "no network belongs to AS1");
        assert!(country("Germany").is_err() && asn("x").is_err() && asn("4294967296").is_err());
        assert_eq!((country("de"), asn("AS64500")), (Ok("DE".into()), Ok(64500)));
    }

    #[test]
    fn damaged_database_is_an_error_and_no_panic() {
        let query = Query { countries: vec!["DE".into()], systems: vec![] };
        for bytes in [&b""[..], b"\xab\xcd\xefMaxMind.com", &PLACES[..PLACES.len() / 2]] {
            assert!(list(bytes.to_vec(), "x", &query, "#").is_err());
        }
        for length in (0..PLACES.len()).step_by(7) {
            let _ = list(PLACES[..length].to_vec(), "x", &query, "#");
        }
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let mut bytes = PLACES.to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            let _ = list(bytes, "x", &query, "#");
        }
        // Every node leads to the root: the walk ends.
        let mut bytes = PLACES.to_vec();
        let tree = bytes.len() / 2;
        bytes[..tree].fill(0);
        assert!(list(bytes, "x", &query, "#").is_err());
    }

    #[test]
    fn ipv4_below_the_zero_prefix_is_listed_as_ipv4() {
        let listed = |text: &str| {
            let network: Ipv6Net = text.parse().unwrap();
            let found = list_networks(network.addr().into(), network.prefix_len());
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(listed("::c000:200/120"), ["192.0.2.0/24"]);
        assert_eq!(listed("::/64"), ["::/64", "0.0.0.0/0"]);
        assert_eq!(listed("2001:db8::/32"), ["2001:db8::/32"]);
    }
}
