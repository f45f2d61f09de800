//! Sets of IP addresses, as sorted ranges: union and difference are exact.
//!
//! Pure arithmetic. The two families never mix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A set of IP addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressSet {
    v4: RangeSet,
    v6: RangeSet,
}

/// Addresses of one family as numbers, from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// The lowest address of the range.
    pub first: u128,
    /// The highest address of the range.
    pub last: u128,
}

/// Ranges in ascending order, with a gap between any two of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet(Vec<AddressRange>);

/// The family of an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4, of 32 bits.
    V4,
    /// IPv6, of 128 bits.
    V6,
}

impl AddressFamily {
    /// The family of `network`.
    pub const fn of(network: IpNet) -> AddressFamily {
        match network {
            IpNet::V4(_) => AddressFamily::V4,
            IpNet::V6(_) => AddressFamily::V6,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            AddressFamily::V4 => 32,
            AddressFamily::V6 => 128,
        }
    }

    /// The last address of the family as a number.
    const fn last(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }
}

impl AddressRange {
    /// The addresses of `network`.
    pub fn of(network: IpNet) -> AddressRange {
        let first = match network.network() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let host_bits = network.max_prefix_len() - network.prefix_len();
        // A shift by all 128 bits is none.
        let below = u128::MAX.checked_shr(128 - u32::from(host_bits)).unwrap_or(0);
        AddressRange { first, last: first | below }
    }

    /// The largest network at the start of the range, as its number of host bits.
    fn head_bits(self, family: AddressFamily) -> u8 {
        let aligned = self.first.trailing_zeros().min(u32::from(family.bits()));
        // A range of 2^n addresses has a length, less one, of n bits. The whole of IPv6 has one
        // more than fits, so that the length itself cannot be asked.
        let span = self.last - self.first;
        let fits = match span.checked_add(1) {
            Some(length) => length.ilog2(),
            None => 128,
        };
        aligned.min(fits) as u8
    }
}

impl RangeSet {
    /// Makes a set of ranges in any order, which may overlap.
    pub fn of(mut ranges: Vec<AddressRange>) -> RangeSet {
        ranges.sort_unstable();
        let mut all: Vec<AddressRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match all.last_mut() {
                // Adjacent ranges merge too, so that equal sets have equal ranges.
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => all.push(range),
            }
        }
        RangeSet(all)
    }

    /// The addresses of `self` that `other` lacks.
    fn without(&self, other: &RangeSet) -> RangeSet {
        let (mut left, mut others) = (Vec::new(), other.0.iter().peekable());
        for range in &self.0 {
            let mut first = Some(range.first);
            // A range of `other` that ends behind this one may also cut into the next one.
            while let Some(cut) = others.peek().filter(|cut| cut.first <= range.last) {
                if let Some(from) = first.filter(|from| *from < cut.first) {
                    left.push(AddressRange { first: from, last: cut.first - 1 });
                }
                let behind = cut.last.checked_add(1);
                first = first.and_then(|from| behind.map(|behind| from.max(behind)));
                if cut.last > range.last {
                    break;
                }
                others.next();
            }
            if let Some(first) = first.filter(|first| *first <= range.last) {
                left.push(AddressRange { first, last: range.last });
            }
        }
        RangeSet(left)
    }

    /// The number of addresses; 2^128 counts as one less.
    fn len(&self) -> u128 {
        let sizes = self.0.iter().map(|range| range.last - range.first);
        sizes.fold(0, |sum: u128, size| sum.saturating_add(size).saturating_add(1))
    }

    /// Whether the set has more than `percent` of the addresses of `family`.
    fn is_above(&self, percent: u8, family: AddressFamily) -> bool {
        if percent >= 100 {
            return false;
        }
        // 2^bits = 100 whole + rest, so that nothing overflows.
        let (whole, rest) = (family.last() / 100, family.last() % 100 + 1);
        let percent = u128::from(percent);
        self.len() > whole * percent + rest * percent / 100
    }

    /// Iterates over the fewest networks that make up the set, as first address and host bits.
    fn blocks(&self, family: AddressFamily) -> impl Iterator<Item = Block> + '_ {
        self.0.iter().flat_map(move |range| {
            let mut rest = Some(*range);
            std::iter::from_fn(move || {
                let range = rest?;
                let host_bits = range.head_bits(family);
                let size_less_one = u128::MAX.checked_shr(128 - u32::from(host_bits)).unwrap_or(0);
                let end = range.first + size_less_one;
                rest =
                    (end < range.last).then(|| AddressRange { first: end + 1, last: range.last });
                Some(Block { first: range.first, host_bits })
            })
        })
    }
}

/// A network, as its first address and the number of its host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    first: u128,
    host_bits: u8,
}

impl AddressSet {
    /// Makes the set of both families.
    pub fn new(v4: RangeSet, v6: RangeSet) -> AddressSet {
        AddressSet { v4, v6 }
    }

    /// Every address of both families.
    pub fn all() -> AddressSet {
        let every =
            |family: AddressFamily| RangeSet(vec![AddressRange { first: 0, last: family.last() }]);
        AddressSet { v4: every(AddressFamily::V4), v6: every(AddressFamily::V6) }
    }

    /// The addresses of these networks.
    pub fn of_networks(networks: impl IntoIterator<Item = IpNet>) -> AddressSet {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            let family = match AddressFamily::of(network) {
                AddressFamily::V4 => &mut v4,
                AddressFamily::V6 => &mut v6,
            };
            family.push(AddressRange::of(network));
        }
        AddressSet { v4: RangeSet::of(v4), v6: RangeSet::of(v6) }
    }

    /// The addresses of `self` and those of `other`.
    pub fn union(mut self, other: AddressSet) -> AddressSet {
        let join = |mut one: RangeSet, mut other: RangeSet| {
            if one.0.is_empty() || other.0.is_empty() {
                one.0.append(&mut other.0);
                return one;
            }
            one.0.append(&mut other.0);
            RangeSet::of(one.0)
        };
        self.v4 = join(self.v4, other.v4);
        self.v6 = join(self.v6, other.v6);
        self
    }

    /// The addresses of `self` that `other` lacks.
    pub fn without(&self, other: &AddressSet) -> AddressSet {
        AddressSet { v4: self.v4.without(&other.v4), v6: self.v6.without(&other.v6) }
    }

    /// Whether there is no address.
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// The number of IPv4 addresses.
    pub fn ipv4_len(&self) -> u64 {
        u64::try_from(self.v4.len()).unwrap_or(u64::MAX)
    }

    /// The number of IPv6 addresses in units of a /64, rounded up.
    pub fn ipv6_len_64(&self) -> u64 {
        let length = self.v6.len();
        let units = (length >> 64) + u128::from(length & u128::from(u64::MAX) > 0);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// Whether the set has more than `percent` of all addresses of IPv4, or of IPv6.
    pub fn is_above(&self, percent: u8) -> bool {
        self.v4.is_above(percent, AddressFamily::V4) || self.v6.is_above(percent, AddressFamily::V6)
    }

    /// The number of the fewest networks that make up the set.
    pub fn networks_len(&self) -> usize {
        self.v4.blocks(AddressFamily::V4).count() + self.v6.blocks(AddressFamily::V6).count()
    }

    /// The fewest networks that make up the set, the largest first, IPv4 before IPv6 of the same
    /// length, at most `max`.
    pub fn largest_networks(&self, max: usize) -> Vec<IpNet> {
        let v4 = self.v4.blocks(AddressFamily::V4).filter_map(|block| {
            let address = Ipv4Addr::from_bits(u32::try_from(block.first).ok()?);
            Ipv4Net::new(address, 32 - block.host_bits).ok().map(IpNet::V4)
        });
        let v6 = self.v6.blocks(AddressFamily::V6).filter_map(|block| {
            let address = Ipv6Addr::from_bits(block.first);
            Ipv6Net::new(address, 128 - block.host_bits).ok().map(IpNet::V6)
        });
        let mut all: Vec<_> = v4.chain(v6).collect();
        // A stable sort: networks of one length stay in the order of their addresses.
        all.sort_by_key(IpNet::prefix_len);
        all.truncate(max);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(networks: &[&str]) -> AddressSet {
        AddressSet::of_networks(networks.iter().map(|network| network.parse().unwrap()))
    }

    fn check(left: &AddressSet, networks: &[&str]) {
        let found: Vec<_> =
            left.largest_networks(99).iter().map(|network| network.to_string()).collect();
        assert_eq!(found, networks);
        assert_eq!(left.networks_len(), networks.len());
        assert_eq!(left.is_empty(), networks.is_empty());
    }

    #[test]
    fn networks_are_merged_and_the_largest_come_first() {
        check(
            &set(&["10.0.0.0/25", "10.0.0.128/25", "192.0.2.1/32"]),
            &["10.0.0.0/24", "192.0.2.1/32"],
        );
        check(&set(&["10.0.0.0/8", "10.1.0.0/16"]), &["10.0.0.0/8"]);
        check(
            &set(&["2001:db8::/33", "2001:db8:8000::/33", "0.0.0.0/0"]),
            &["0.0.0.0/0", "2001:db8::/32"],
        );
        check(&AddressSet::default(), &[]);
    }

    #[test]
    fn difference_leaves_the_networks_around_a_hole() {
        check(
            &set(&["192.0.2.0/30"]).without(&set(&["192.0.2.1/32"])),
            &["192.0.2.2/31", "192.0.2.0/32"],
        );
        check(&AddressSet::all().without(&set(&["0.0.0.0/0", "::/1"])), &["8000::/1"]);
        check(&AddressSet::all().without(&AddressSet::all()), &[]);
        check(
            &set(&["10.0.0.0/8", "::/0"]).without(&set(&["10.0.0.0/9"])),
            &["::/0", "10.128.0.0/9"],
        );
    }

    #[test]
    fn sizes_and_shares_are_exact_at_their_borders() {
        let all = AddressSet::all();
        assert_eq!((all.ipv4_len(), all.ipv6_len_64()), (1 << 32, u64::MAX));
        assert!(!all.is_above(100) && all.is_above(99));
        check(&all, &["0.0.0.0/0", "::/0"]);
        for quarter in [&["0.0.0.0/2"][..], &["4000::/2"]] {
            assert!(!set(quarter).is_above(25) && set(quarter).is_above(24));
        }
        assert!(set(&["0.0.0.0/2", "64.0.0.0/32"]).is_above(25));
        assert!(set(&["::/2", "4000::/128"]).is_above(25));
        assert!(set(&["192.0.2.1/32"]).is_above(0) && !AddressSet::default().is_above(0));
        // 1 % of 2^32 lies between these two numbers.
        let range = |last: u128| RangeSet(vec![AddressRange { first: 0, last: last - 1 }]);
        assert!(!range(42_949_672).is_above(1, AddressFamily::V4));
        assert!(range(42_949_673).is_above(1, AddressFamily::V4));
        assert_eq!(set(&["2001:db8::/63", "2001:db8:1::1/128"]).ipv6_len_64(), 3);
    }

    /// Ranges among 64 addresses at either end of a family, where an overflow would show.
    fn ranges(base: u128) -> impl Strategy<Value = Vec<AddressRange>> {
        let one = (0u128..64, 0u128..64).prop_map(move |(one, other)| AddressRange {
            first: base + one.min(other),
            last: base + one.max(other),
        });
        prop::collection::vec(one, 0..8)
    }

    fn members(ranges: &[AddressRange]) -> BTreeSet<u128> {
        ranges.iter().flat_map(|range| range.first..=range.last).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]
        #[test]
        fn sets_agree_with_sets_of_single_addresses(
            (one, other) in prop_oneof![
                (ranges(0), ranges(0)),
                (ranges(u128::MAX - 63), ranges(u128::MAX - 63)),
            ],
        ) {
            let (a, b) = (RangeSet::of(one.clone()), RangeSet::of(other.clone()));
            let (naive_a, naive_b) = (members(&one), members(&other));
            let left = a.without(&b);
            let naive: BTreeSet<_> = naive_a.difference(&naive_b).copied().collect();
            prop_assert_eq!(members(&left.0), naive.clone());
            prop_assert_eq!(left.len(), naive.len() as u128);
            // The form of a set is unique: a gap is between any two ranges.
            prop_assert!(left.0.windows(2).all(|two| two[0].last + 1 < two[1].first));
            let blocks = left.blocks(AddressFamily::V6).map(|block| {
                let size = 1 << block.host_bits;
                prop_assert!(block.first % size == 0);
                Ok(AddressRange { first: block.first, last: block.first + (size - 1) })
            });
            let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
            prop_assert_eq!(members(&blocks), naive);
        }
    }
}
