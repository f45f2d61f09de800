//! Which entries hold an address: all networks in order, each with the nearest one around it.
//!
//! Of two networks either one holds the other or they are apart. So the last one that begins at or before
//! an address, or one of those around it, is the longest that holds it. Built once, and never changed.

use std::net::IpAddr;

use ipnet::IpNet;

/// No network is around this one.
const NONE: u32 = u32::MAX;

/// The networks of one list; each stands for its place in what it was built from.
#[derive(Default)]
pub struct Index {
    v4: Family<u32>,
    v6: Family<u128>,
}

/// The networks of one family, by their first address and then the widest first.
struct Family<A> {
    starts: Box<[A]>,
    lengths: Box<[u8]>,
    /// The place in this order of the nearest network around each.
    around: Box<[u32]>,
    /// The place of each in what the index was built from.
    places: Box<[u32]>,
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
    /// Of `networks`, which are folded, have no host bits, and are all different.
    pub fn new(networks: impl Iterator<Item = IpNet>) -> Index {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (place, network) in (0u32..).zip(networks) {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.prefix_len(), place)),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.prefix_len(), place)),
            }
        }
        Index { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The places of all networks that hold `address`, the longest prefix first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let (v4, v6) = match address.to_canonical() {
            IpAddr::V4(address) => (Some(self.v4.holding(address.to_bits())), None),
            IpAddr::V6(address) => (None, Some(self.v6.holding(address.to_bits()))),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }
}

impl<A> Default for Family<A> {
    fn default() -> Self {
        Family { starts: Box::default(), lengths: Box::default(), around: Box::default(), places: Box::default() }
    }
}

impl<A: Address> Family<A> {
    fn new(mut networks: Vec<(A, u8, u32)>) -> Self {
        networks.sort_unstable();
        let mut around = Vec::with_capacity(networks.len());
        for (at, (start, ..)) in networks.iter().enumerate() {
            // Whatever is around this one is the network before it, or around that.
            let mut wider = at.checked_sub(1).map_or(NONE, |before| before as u32);
            while let Some((other, length, _)) = networks.get(wider as usize) {
                if start.agrees(*other, *length) {
                    break;
                }
                wider = around[wider as usize];
            }
            around.push(wider);
        }
        Family {
            starts: networks.iter().map(|(start, ..)| *start).collect(),
            lengths: networks.iter().map(|(_, length, _)| *length).collect(),
            places: networks.iter().map(|(.., place)| *place).collect(),
            around: around.into(),
        }
    }

    fn holding(&self, address: A) -> impl Iterator<Item = u32> {
        let before = self.starts.partition_point(|start| *start <= address);
        let nearest = before.checked_sub(1).map_or(NONE, |at| at as u32);
        let chain = std::iter::successors(Some(nearest), |at| self.around.get(*at as usize).copied());
        let known = chain.take_while(|at| *at != NONE).map(|at| at as usize);
        known.filter(move |at| address.agrees(self.starts[*at], self.lengths[*at])).map(|at| self.places[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The places of the networks that hold `address`, the longest first.
    fn check(networks: &[&str], address: &str, holding: &[u32]) {
        let index = Index::new(networks.iter().map(|network| network.parse().unwrap()));
        assert_eq!(index.holding(address.parse().unwrap()).collect::<Vec<_>>(), holding, "{address} in {networks:?}");
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn it_finds_what_a_naive_search_finds(
            networks in prop::collection::hash_set((0u32..256, 24u8..=32), 0..40),
            asked in prop::collection::vec(0u32..260, 1..20),
        ) {
            // A small world, so that networks nest and meet: the last byte alone differs.
            let at = |low: u32| std::net::Ipv4Addr::from_bits(0xc000_0200 + low);
            let networks: std::collections::BTreeSet<_> =
                networks.iter().map(|(low, length)| ipnet::Ipv4Net::new(at(*low), *length).unwrap().trunc()).collect();
            let index = Index::new(networks.iter().map(|network| IpNet::V4(*network)));
            for low in asked {
                let mut naive: Vec<_> = networks.iter().zip(0u32..).filter(|(network, _)| network.contains(&at(low))).collect();
                naive.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
                let naive: Vec<_> = naive.into_iter().map(|(_, place)| place).collect();
                prop_assert_eq!(index.holding(at(low).into()).collect::<Vec<_>>(), naive);
            }
        }
    }
}
