//! Which entries hold an address: all networks in order, each with the nearest one around it.
//!
//! Of two networks either one holds the other or they are apart. So the last one that begins at or before
//! an address, or one of those around it, is the longest that holds it. A ladder leads there, and what a decision
//! needs of an entry stands beside its network: however many there are, a decision waits for memory once or twice.
//! Built once, and never changed.

use std::iter;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::list::Entry;

/// No network is around this one.
const NONE: u32 = u32::MAX;

/// Of so many networks a rung of the ladder names the first: the starts of sixteen IPv4 networks fill a cache line.
const STEP: usize = 16;

/// The networks of one list.
pub struct Index {
    v4: Family<u32>,
    v6: Family<u128>,
}

/// The networks of one family, by their first address and then the widest first.
struct Family<A> {
    networks: Box<[Network<A>]>,
    /// From the bottom: each `STEP`th start of the networks, each `STEP`th of those, and so on, until few are left.
    ladder: Box<[Box<[A]>]>,
}

struct Network<A> {
    start: A,
    /// The place in this order of the nearest network around it.
    around: u32,
    held: Held,
}

/// A network that holds the address that was asked about, and what a decision needs of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The place of its entry in what the index was built from.
    pub place: u32,
    /// The length of its prefix.
    pub length: u8,
    /// Whether its entry admits.
    pub admits: bool,
    /// Whether its entry lapses one day.
    pub expires: bool,
}

/// An address as a number.
trait Address: Copy + Ord {
    /// Whether the first `length` bits of both are the same.
    fn agrees(self, other: Self, length: u8) -> bool;
}

impl Address for u32 {
    fn agrees(self, other: u32, length: u8) -> bool {
        (self ^ other).leading_zeros() >= u32::from(length)
    }
}

impl Address for u128 {
    fn agrees(self, other: u128, length: u8) -> bool {
        (self ^ other).leading_zeros() >= u32::from(length)
    }
}

impl Index {
    /// Of `entries`, each with its line; their networks are folded and have no host bits.
    pub fn new(entries: &[(Entry, u32)]) -> Index {
        let in_v4 = entries.iter().filter(|(entry, _)| matches!(entry.network, IpNet::V4(_))).count();
        // With the room that they need, and no more: there may be a million.
        let (mut v4, mut v6) = (Vec::with_capacity(in_v4), Vec::with_capacity(entries.len() - in_v4));
        for (place, (entry, _)) in (0..).zip(entries) {
            let length = entry.network.prefix_len();
            let held = Held { place, length, admits: entry.admits, expires: entry.expires().is_some() };
            match entry.network {
                IpNet::V4(network) => v4.push(Network { start: network.addr().to_bits(), around: NONE, held }),
                IpNet::V6(network) => v6.push(Network { start: network.addr().to_bits(), around: NONE, held }),
            }
        }
        Index { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The networks that hold `address`, the longest prefix first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = Held> {
        let (v4, v6) = match address.to_canonical() {
            IpAddr::V4(address) => (Some(self.v4.holding(address.to_bits())), None),
            IpAddr::V6(address) => (None, Some(self.v6.holding(address.to_bits()))),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }

    /// For each network that more than one entry names, the places of all that do, in order.
    pub fn twins(&self) -> impl Iterator<Item = Vec<u32>> {
        self.v4.twins().chain(self.v6.twins())
    }
}

impl<A: Address> Family<A> {
    fn new(mut networks: Vec<Network<A>>) -> Self {
        networks.sort_unstable_by_key(|network| (network.start, network.held.length, network.held.place));
        for at in 1..networks.len() {
            let start = networks[at].start;
            // Whatever is around this one is the network before it, or around that.
            let mut wider = at as u32 - 1;
            while let Some(network) = networks.get(wider as usize) {
                if start.agrees(network.start, network.held.length) {
                    break;
                }
                wider = network.around;
            }
            networks[at].around = wider;
        }
        let mut ladder: Vec<Box<[A]>> = Vec::new();
        let mut rung: Box<[A]> = networks.iter().step_by(STEP).map(|network| network.start).collect();
        while rung.len() > 1 {
            let next = rung.iter().copied().step_by(STEP).collect();
            ladder.push(std::mem::replace(&mut rung, next));
        }
        Family { networks: networks.into(), ladder: ladder.into() }
    }

    fn holding(&self, address: A) -> impl Iterator<Item = Held> {
        let nearest = self.last(address).and_then(|at| self.networks.get(at));
        let chain = iter::successors(nearest, |inner| self.networks.get(inner.around as usize));
        chain.filter(move |network| address.agrees(network.start, network.held.length)).map(|network| network.held)
    }

    /// The place in order of the last network that begins at or before `address`.
    fn last(&self, address: A) -> Option<usize> {
        let mut at = 0;
        for rung in self.ladder.iter().rev() {
            at = (at + begun(&rung[at..], address, |start| *start)).checked_sub(1)? * STEP;
        }
        (at + begun(&self.networks[at..], address, |network| network.start)).checked_sub(1)
    }

    fn twins(&self) -> impl Iterator<Item = Vec<u32>> {
        let same = self.networks.chunk_by(|one, other| (one.start, one.held.length) == (other.start, other.held.length));
        same.filter(|same| same.len() > 1).map(|same| same.iter().map(|network| network.held.place).collect())
    }
}

/// How many of the first `STEP`, which are in order, begin at or before `address`. All are looked at: a
/// branch that depends on the address would be guessed wrong half of the time.
fn begun<A: Address, T>(all: &[T], address: A, start: impl Fn(&T) -> A) -> usize {
    all.iter().take(STEP).filter(|one| start(one) <= address).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Entries that admit these networks, all on line 1.
    fn entries(networks: impl IntoIterator<Item = impl std::fmt::Display>) -> Vec<(Entry, u32)> {
        networks.into_iter().map(|network| (Entry::parse(&network.to_string()).unwrap().unwrap(), 1)).collect()
    }

    fn places(index: &Index, address: IpAddr) -> Vec<u32> {
        index.holding(address).map(|held| held.place).collect()
    }

    /// The places of the networks that hold `address`, the longest first.
    fn check(networks: &[&str], address: &str, holding: &[u32]) {
        let index = Index::new(&entries(networks));
        assert_eq!(places(&index, address.parse().unwrap()), holding, "{address} in {networks:?}");
    }

    #[test]
    fn the_longest_comes_first_and_what_is_around_it_follows() {
        let nested = ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "10.2.0.0/16"];
        check(&nested, "10.1.2.3", &[3, 0, 1, 2]);
        check(&nested, "10.1.2.4", &[0, 1, 2]);
        check(&nested, "10.3.0.0", &[1, 2]);
        check(&nested, "255.255.255.255", &[2]);
        check(&["::/0", "2001:db8::/32", "2001:db8::1/128"], "2001:db8::1", &[2, 1, 0]);
    }

    #[test]
    fn outside_of_all_is_in_none() {
        check(&[], "10.0.0.1", &[]);
        check(&["10.0.0.0/8"], "9.255.255.255", &[]);
        check(&["10.0.0.0/8", "10.255.255.255/32"], "11.0.0.0", &[]);
        check(&["::/0"], "10.0.0.1", &[]);
        check(&["0.0.0.0/0"], "2001:db8::1", &[]);
    }

    #[test]
    fn what_a_decision_needs_stands_beside_the_network() {
        let index = Index::new(&entries(["10.0.0.0/8 expires=2026-12-31", "!10.1.0.0/16 owner=acme"]));
        let held: Vec<_> = index.holding("10.1.0.1".parse().unwrap()).collect();
        let [inner, outer] = [(1, 16, false, false), (0, 8, true, true)].map(|(place, length, admits, expires)| Held {
            place,
            length,
            admits,
            expires,
        });
        assert_eq!(held, [inner, outer]);
    }

    #[test]
    fn networks_that_stand_there_twice_are_told_with_all_their_places() {
        let index = Index::new(&entries(["10.0.0.0/8", "::/0", "!10.0.0.0/8", "10.0.0.0/16", "::/0 owner=acme", "10.0.0.0/8"]));
        assert_eq!(index.twins().collect::<Vec<_>>(), [vec![0, 2, 5], vec![1, 4]]);
    }

    #[test]
    fn each_of_many_is_found_however_high_the_ladder() {
        for count in [1, 15, 16, 17, 255, 256, 257, 4096, 5000] {
            let at = |number: u32| IpAddr::V4((0x0a00_0000 + 2 * number).into());
            let index = Index::new(&entries((0..count).map(at)));
            for number in 0..count {
                assert_eq!(places(&index, at(number)), [number], "of {count}");
                assert!(places(&index, IpAddr::V4((0x0a00_0001 + 2 * number).into())).is_empty(), "of {count}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn it_finds_what_a_naive_search_finds(
            networks in prop::collection::hash_set((0u32..256, 24u8..=32), 0..90),
            asked in prop::collection::vec(0u32..260, 1..20),
        ) {
            // A small world, so that networks nest and meet: the last byte alone differs.
            let at = |low: u32| std::net::Ipv4Addr::from_bits(0xc000_0200 + low);
            let networks: std::collections::BTreeSet<_> =
                networks.iter().map(|(low, length)| ipnet::Ipv4Net::new(at(*low), *length).unwrap().trunc()).collect();
            let index = Index::new(&entries(&networks));
            for low in asked {
                let mut naive: Vec<_> = networks.iter().zip(0u32..).filter(|(network, _)| network.contains(&at(low))).collect();
                naive.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
                let naive: Vec<_> = naive.into_iter().map(|(_, place)| place).collect();
                prop_assert_eq!(places(&index, at(low).into()), naive);
            }
        }
    }
}
