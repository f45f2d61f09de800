//! A line of a list: an accepted line is displayed as it would be read again; a rejected one is
//! pointed at.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use sidegate::policy::list::{List, ListEntry};
use sidegate::policy::network::Client;

fuzz_target!(|text: &str| {
    let mut entries = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        match ListEntry::parse(line) {
            Ok(None) => {}
            Ok(Some(entry)) => {
                let shown =
                    ListEntry::parse(&entry.to_string()).expect("sound").expect("a network");
                assert_eq!((shown.pattern, shown.admits), (entry.pattern, entry.admits));
                if let Some(expiry) = entry.expiry() {
                    let again = ListEntry::parse(&format!("{entry} expires={expiry}"))
                        .expect("sound")
                        .expect("a network");
                    assert_eq!(again.expires(), entry.expires());
                }
                entries.push((entry, number));
            }
            Err(fault) => assert!(
                line.get(fault.span.clone()).is_some() && !fault.fault.is_empty(),
                "{fault:?}"
            ),
        }
    }
    let Ok(list) = List::new("list", "list.cidr", entries.clone()) else { return };
    let now = Timestamp::UNIX_EPOCH;
    for (entry, _) in &entries {
        let Some(network) = entry.pattern.network() else { continue };
        let address = network.addr();
        let client = Client::new(address);
        let networks =
            entries.iter().filter_map(|(other, _)| Some((other, other.pattern.network()?)));
        // Reference: the longest network that isn't lapsed decides.
        let covering =
            networks.filter(|(other, network)| !other.lapsed(now) && network.contains(&address));
        let decides = covering.max_by_key(|(_, network)| network.prefix_len());
        assert_eq!(
            list.admits(client, now),
            decides.is_some_and(|(other, _)| other.admits),
            "{client:?}"
        );
    }
});
