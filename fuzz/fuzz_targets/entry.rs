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
                assert_eq!((shown.network, shown.admits), (entry.network, entry.admits));
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
        let client = Client::new(entry.network.addr());
        // Reference: the longest network that isn't lapsed decides.
        let covering = entries
            .iter()
            .filter(|(other, _)| !other.lapsed(now) && other.network.contains(&entry.network.addr()));
        let decides = covering.max_by_key(|(other, _)| other.network.prefix_len());
        assert_eq!(
            list.admits(client, now),
            decides.is_some_and(|(other, _)| other.admits),
            "{client:?}"
        );
    }
});
