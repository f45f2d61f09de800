//! The gate before a ban: what it would hit that its operator hardly means.
//!
//! Nothing is changed here. A ban that needs an override is refused until each is named.

use crate::control::policy_tests::AllowTest;
use crate::policy::ban::BanTarget;
use crate::policy::peers::{PeerList, PeerPattern};
use crate::snapshot::Snapshot;

/// Word for bans of peers that connect for other clients.
const PEERS: &str = "peers";

/// Word for bans of loopback addresses.
const LOOPBACK: &str = "loopback";

/// Beginning of the word of a test whose name is one of these words.
const TEST: &str = "test:";

/// An override without which a ban is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededOverride {
    /// The word of the override: `peers`, `loopback`, or the name of a test.
    pub word: String,
    /// What the ban would do, with the place.
    pub says: String,
}

/// Returns the overrides that a ban of `target` needs under the running generation.
pub fn needed_overrides(
    target: &BanTarget,
    live: &Snapshot,
    tests: &[AllowTest],
) -> Vec<NeededOverride> {
    // Bans are looked up before any policy, so that no rule can save these tests.
    let mut needed: Vec<_> = tests
        .iter()
        .filter(|test| target.holds(&test.subject))
        .map(|test| NeededOverride {
            word: word(&test.name),
            says: format!("test \"{}\" ({}) expects allow and would fail", test.name, test.place),
        })
        .collect();
    let mut listeners: Vec<_> = live.listeners.values().map(|rules| &rules.listener).collect();
    // The map has no order, and the same ban must be refused with the same text each time.
    listeners.sort_by(|one, other| one.name.cmp(&other.name));
    for listener in listeners {
        let forwarded = listener.forwarded.as_ref().map(|rules| ("forwarded", &rules.from));
        let proxies = listener.proxy_protocol.as_ref().map(|peers| ("proxy_protocol", peers));
        // The first peer of each key is enough: the word `peers` overrides all of them at once.
        for (key, peers) in forwarded.into_iter().chain(proxies) {
            needed.extend(met(target, peers).map(|peer| NeededOverride {
                word: PEERS.into(),
                says: format!(
                    "`{key}` of the listener `{}` lists {peer}, whose clients are others",
                    listener.name
                ),
            }));
        }
    }
    if target.holds_loopback() {
        // Health checks and proxies of the same host connect from there.
        let says = "it holds a loopback address: programs of this host itself".into();
        needed.push(NeededOverride { word: LOOPBACK.into(), says });
    }
    needed
}

/// The word that overrides the test `name`. No other override has it.
fn word(name: &str) -> String {
    let is_other = [PEERS, LOOPBACK].contains(&name) || name.starts_with(TEST);
    if is_other { format!("{TEST}{name}") } else { name.to_owned() }
}

/// The first entry of `peers` that `target` meets.
fn met(target: &BanTarget, peers: &PeerList) -> Option<PeerPattern> {
    peers.iter().find(|peer| target.meets(*peer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::limit::Limits;
    use crate::policy::network::Client;
    use crate::snapshot::tests::{generation, policy};

    #[test]
    fn tests_and_loopback_have_to_be_named() {
        let live = generation(1, policy(&[], &Limits::default()), None);
        let test = |name: &str, client: [u8; 4]| AllowTest {
            name: name.into(),
            place: "policies/chat.toml:7".into(),
            subject: Client::new(client.into()).into(),
        };
        let tests = [test("office", [192, 0, 2, 7]), test("home", [198, 51, 100, 1])];
        let needed = |target: &str| {
            let target = BanTarget::parse_client(target).unwrap();
            let all = needed_overrides(&target, &live, &tests);
            all.into_iter().map(|one| one.word).collect::<Vec<_>>()
        };
        assert_eq!(needed("192.0.2.0/24"), ["office"]);
        assert_eq!(needed("0.0.0.0/0"), ["office", "home", "loopback"]);
        assert!(needed("203.0.113.9").is_empty());
        let tests = [test("loopback", [127, 0, 0, 1]), test("test:peers", [127, 0, 0, 1])];
        let target = BanTarget::parse_client("127.0.0.1").unwrap();
        let all = needed_overrides(&target, &live, &tests);
        let words: Vec<_> = all.iter().map(|one| &*one.word).collect();
        assert_eq!(words, ["test:loopback", "test:test:peers", "loopback"], "each its own");
    }
}
