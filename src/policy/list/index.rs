//! Finds the entries that hold an address: all networks in order, each linked to the nearest one
//! around it.
//!
//! Two networks are either nested or apart. So the longest network that holds an address is the
//! last to begin at or before the address, or a network around it. A lookup among a million mostly
//! waits for memory. So the data it reads lies together, in blocks, and the ladder that leads to
//! the block is small enough to stay in cache. The index is built once and never changes.

use std::iter;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::list::entry::ListEntry;

/// Networks in a block, which a lookup reads at once. Their heads fill four cache lines (IPv4) or
/// eight (IPv6).
const BLOCK_LENGTH: usize = 64;

/// Heads of a block in one or two cache lines. A lookup reads every `STRIDE_LENGTH`th head first,
/// then `STRIDE_LENGTH` of them.
const STRIDE_LENGTH: usize = 8;

/// Each rung of the ladder holds every `RUNG_LENGTH`th head of the rung below.
const RUNG_LENGTH: usize = 16;

/// The networks of one list, by family.
pub struct Index {
    v4: FamilyIndex<u32>,
    v6: FamilyIndex<u128>,
}

/// The networks of one family, sorted by first address, then the widest first.
struct FamilyIndex<A: IndexAddress> {
    blocks: Box<[HeadBlock<A::Head>]>,
    /// Bottom rung first: the first head of each block, then each `RUNG_LENGTH`th of those, and so
    /// on, until few are left.
    ladder: Vec<Box<[A::Head]>>,
    /// The part of each first address after its head. Empty for IPv4, where the head is the whole
    /// address.
    tails: Box<[u64]>,
    rest: Box<[NetworkRest]>,
}

/// The part that every lookup reads. The last block is padded with heads that `last` leaves out.
#[repr(align(64))]
struct HeadBlock<H> {
    heads: [H; BLOCK_LENGTH],
    marks: [NetworkMark; BLOCK_LENGTH],
}

/// The prefix length of a network, and facts about its entry as bits (`ADMITS_BIT`, `EXPIRES_BIT`,
/// `NESTED_BIT`).
#[derive(Clone, Copy)]
struct NetworkMark {
    length: u8,
    flags: u8,
}

const ADMITS_BIT: u8 = 1;
const EXPIRES_BIT: u8 = 2;
/// Set if another network is around this one.
const NESTED_BIT: u8 = 4;

/// The part that few lookups read.
#[derive(Clone, Copy)]
struct NetworkRest {
    /// Index, in this order, of the nearest network around this one.
    around: u32,
    /// Index of its entry in the slice that the index was built from.
    place: u32,
}

/// A network while the index is being sorted.
struct IndexedNetwork<A> {
    start: A,
    mark: NetworkMark,
    rest: NetworkRest,
}

/// A network that holds the address looked up, and what a decision needs of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkMatch {
    /// Prefix length in bits.
    pub length: u8,
    /// Whether its entry admits; `false` for a carve-out.
    pub admits: bool,
    /// Whether its entry has an expiry.
    pub expires: bool,
    /// Index in the order of its family.
    at: usize,
    is_v6: bool,
}

/// An integer whose leading bits identify a network.
trait Bits: Copy + Ord {
    /// The greatest value in this order.
    const GREATEST: Self;

    /// Whether the first `length` bits of both are the same.
    fn agrees(self, other: Self, length: u8) -> bool;
}

macro_rules! bits {
    ($($number:ty)*) => {
        $(impl Bits for $number {
            const GREATEST: Self = Self::MAX;

            fn agrees(self, other: Self, length: u8) -> bool {
                (self ^ other).leading_zeros() >= u32::from(length)
            }
        })*
    };
}
bits!(u32 u64 u128);

/// An address as a number, and its head: the leading part by which networks are found.
trait IndexAddress: Bits {
    type Head: Bits;
    /// Length of the head in bits.
    const HEAD_BITS: u8;

    fn head(self) -> Self::Head;

    /// The bits after the head. `None` means that there are none.
    fn tail(self) -> Option<u64>;
}

impl IndexAddress for u32 {
    type Head = u32;
    const HEAD_BITS: u8 = 32;

    fn head(self) -> u32 {
        self
    }

    fn tail(self) -> Option<u64> {
        None
    }
}

impl IndexAddress for u128 {
    /// Half of the address: few networks are longer than /64, and a cache line holds twice as many
    /// heads.
    type Head = u64;
    const HEAD_BITS: u8 = 64;

    fn head(self) -> u64 {
        (self >> 64) as u64
    }

    fn tail(self) -> Option<u64> {
        Some(self as u64)
    }
}

impl Index {
    /// Builds the index of the networks in `entries`, each with its line. They must be folded and
    /// have no host bits.
    ///
    /// # Errors
    /// For each network that more than one entry names, the indexes of all of them, in order.
    pub fn new(entries: &[(ListEntry, u32)]) -> Result<Index, Vec<Vec<u32>>> {
        let count = |is_v4: bool| {
            let networks = entries.iter().filter_map(|(entry, _)| entry.pattern.network());
            networks.filter(|network| matches!(network, IpNet::V4(_)) == is_v4).count()
        };
        // With exact capacity: there may be a million entries.
        let (mut v4, mut v6) = (Vec::with_capacity(count(true)), Vec::with_capacity(count(false)));
        let places = (0..).zip(entries);
        let networks =
            places.filter_map(|(place, (entry, _))| Some((place, entry, entry.pattern.network()?)));
        for (place, entry, network) in networks {
            let flags = if entry.admits { ADMITS_BIT } else { 0 }
                | if entry.expires().is_some() { EXPIRES_BIT } else { 0 };
            let (mark, rest) = (
                NetworkMark { length: network.prefix_len(), flags },
                NetworkRest { around: 0, place },
            );
            match network {
                IpNet::V4(network) => {
                    v4.push(IndexedNetwork { start: network.addr().to_bits(), mark, rest });
                }
                IpNet::V6(network) => {
                    v6.push(IndexedNetwork { start: network.addr().to_bits(), mark, rest });
                }
            }
        }
        order(&mut v4);
        order(&mut v6);
        let twins: Vec<_> = duplicates(&v4).chain(duplicates(&v6)).collect();
        if twins.is_empty() {
            Ok(Index { v4: FamilyIndex::new(v4), v6: FamilyIndex::new(v6) })
        } else {
            Err(twins)
        }
    }

    /// Returns the networks that hold `address`, the longest prefix first.
    pub fn holding(&self, address: IpAddr) -> impl Iterator<Item = NetworkMatch> {
        let (v4, v6) = match address.to_canonical() {
            IpAddr::V4(address) => (Some(self.v4.holding(address.to_bits())), None),
            IpAddr::V6(address) => (None, Some(self.v6.holding(address.to_bits()))),
        };
        let held = |at, NetworkMark { length, flags }, is_v6| {
            let [admits, expires] = [ADMITS_BIT, EXPIRES_BIT].map(|flag| flags & flag != 0);
            NetworkMatch { length, admits, expires, at, is_v6 }
        };
        let v4 = v4.into_iter().flatten().map(move |(at, mark)| held(at, mark, false));
        v4.chain(v6.into_iter().flatten().map(move |(at, mark)| held(at, mark, true)))
    }

    /// Returns the index of its entry in the slice that the index was built from.
    pub fn place(&self, held: NetworkMatch) -> usize {
        let rest = if held.is_v6 { &self.v6.rest } else { &self.v4.rest };
        rest[held.at].place as usize
    }
}

fn order<A: Bits>(networks: &mut [IndexedNetwork<A>]) {
    networks
        .sort_unstable_by_key(|network| (network.start, network.mark.length, network.rest.place));
}

fn duplicates<A: Bits>(networks: &[IndexedNetwork<A>]) -> impl Iterator<Item = Vec<u32>> {
    let same = networks
        .chunk_by(|one, other| (one.start, one.mark.length) == (other.start, other.mark.length));
    same.filter(|same| same.len() > 1)
        .map(|same| same.iter().map(|network| network.rest.place).collect())
}

impl<A: IndexAddress> FamilyIndex<A> {
    /// Builds the family from sorted networks without duplicates.
    fn new(mut networks: Vec<IndexedNetwork<A>>) -> Self {
        for at in 1..networks.len() {
            let start = networks[at].start;
            // The network around this one is the network before it, or one around that.
            let mut wider = Some(at - 1);
            while let Some(other) = wider {
                if start.agrees(networks[other].start, networks[other].mark.length) {
                    networks[at].rest.around = other as u32;
                    networks[at].mark.flags |= NESTED_BIT;
                    break;
                }
                let is_inside = networks[other].mark.flags & NESTED_BIT != 0;
                wider = is_inside.then_some(networks[other].rest.around as usize);
            }
        }
        let blocks: Box<[_]> = networks.chunks(BLOCK_LENGTH).map(HeadBlock::new).collect();
        let mut rung: Box<[_]> = blocks.iter().map(|block| block.heads[0]).collect();
        let mut ladder = Vec::new();
        while rung.len() > RUNG_LENGTH {
            let next = rung.iter().copied().step_by(RUNG_LENGTH).collect();
            ladder.push(std::mem::replace(&mut rung, next));
        }
        ladder.push(rung);
        let tails = networks.iter().filter_map(|network| network.start.tail()).collect();
        FamilyIndex {
            blocks,
            ladder,
            tails,
            rest: networks.iter().map(|network| network.rest).collect(),
        }
    }

    /// Indexes, in order, of the networks that hold `address`, the longest first. The surrounding
    /// network is looked up lazily: it lies elsewhere in memory, and most decisions end with the
    /// first.
    fn holding(&self, address: A) -> impl Iterator<Item = (usize, NetworkMark)> {
        // The last network that begins before the address may end before it, and a network around
        // it may still hold it. Hence the filter at the end.
        let first = self.last(address).map(|at| (at, self.mark(at)));
        let mut inner = first;
        let outer = iter::from_fn(move || {
            let (at, mark) = inner?;
            inner = (mark.flags & NESTED_BIT != 0)
                .then(|| self.rest[at].around as usize)
                .map(|at| (at, self.mark(at)));
            inner
        });
        first
            .into_iter()
            .chain(outer)
            .filter(move |(at, mark)| self.holds(*at, mark.length, address))
    }

    fn holds(&self, at: usize, length: u8, address: A) -> bool {
        address.head().agrees(self.head(at), length.min(A::HEAD_BITS))
            && match address.tail() {
                Some(tail) if length > A::HEAD_BITS => {
                    tail.agrees(self.tails[at], length - A::HEAD_BITS)
                }
                _ => true,
            }
    }

    /// Index, in order, of the last network that begins at or before `address`.
    fn last(&self, address: A) -> Option<usize> {
        let mut block = 0;
        for rung in self.ladder.iter().rev() {
            let from = block * RUNG_LENGTH;
            // `None` means that the address precedes every network of the list.
            block = (from + begun(rung[from..].iter().take(RUNG_LENGTH), address.head()))
                .checked_sub(1)?;
        }
        let heads = &self.blocks.get(block)?.heads;
        let from = begun(heads.iter().step_by(STRIDE_LENGTH), address.head()).saturating_sub(1)
            * STRIDE_LENGTH;
        let begun = from + begun(heads[from..].iter().take(STRIDE_LENGTH), address.head());
        // `min` leaves out the padding of the last block, whose heads equal the highest address.
        let last = (block * BLOCK_LENGTH + begun).min(self.rest.len()).checked_sub(1)?;
        let is_after = |at: usize| {
            (self.head(at), self.tails.get(at).copied()) > (address.head(), address.tail())
        };
        // A network that is no longer than its head has zeros behind it, so it begins at or before
        // the address.
        if self.mark(last).length <= A::HEAD_BITS || !is_after(last) {
            return Some(last);
        }
        // Among networks with the same head, those with a higher tail come after the address.
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = low.midpoint(high);
            if is_after(middle) { high = middle } else { low = middle + 1 }
        }
        low.checked_sub(1)
    }

    fn head(&self, at: usize) -> A::Head {
        self.blocks[at / BLOCK_LENGTH].heads[at % BLOCK_LENGTH]
    }

    fn mark(&self, at: usize) -> NetworkMark {
        self.blocks[at / BLOCK_LENGTH].marks[at % BLOCK_LENGTH]
    }
}

impl<H: Bits> HeadBlock<H> {
    fn new<A: IndexAddress<Head = H>>(networks: &[IndexedNetwork<A>]) -> Self {
        let mut block = HeadBlock {
            heads: [H::GREATEST; BLOCK_LENGTH],
            marks: [NetworkMark { length: 0, flags: 0 }; BLOCK_LENGTH],
        };
        for ((network, head), mark) in networks.iter().zip(&mut block.heads).zip(&mut block.marks) {
            (*head, *mark) = (network.start.head(), network.mark);
        }
        block
    }
}

/// Counts the `heads`, which are sorted, that are not after `head`. It reads all of them: a branch
/// that depends on the address would be mispredicted half of the time.
fn begun<'h, H: Bits + 'h>(heads: impl Iterator<Item = &'h H>, head: H) -> usize {
    heads.filter(|one| **one <= head).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Entries that admit these networks, all on line 1.
    fn entries(
        networks: impl IntoIterator<Item = impl std::fmt::Display>,
    ) -> Vec<(ListEntry, u32)> {
        networks
            .into_iter()
            .map(|network| (ListEntry::parse(&network.to_string()).unwrap().unwrap(), 1))
            .collect()
    }

    fn index(networks: impl IntoIterator<Item = impl std::fmt::Display>) -> Index {
        Index::new(&entries(networks)).unwrap_or_else(|twins| panic!("twins: {twins:?}"))
    }

    fn places(index: &Index, address: IpAddr) -> Vec<usize> {
        index.holding(address).map(|held| index.place(held)).collect()
    }

    /// The places of the networks that hold `address`, the longest first.
    fn check(networks: &[&str], address: &str, holding: &[usize]) {
        let index = index(networks);
        assert_eq!(places(&index, address.parse().unwrap()), holding, "{address} in {networks:?}");
    }

    #[test]
    fn longest_prefix_comes_first_then_those_around_it() {
        let nested = ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "10.2.0.0/16"];
        check(&nested, "10.1.2.3", &[3, 0, 1, 2]);
        check(&nested, "10.1.2.4", &[0, 1, 2]);
        check(&nested, "10.3.0.0", &[1, 2]);
        check(&nested, "255.255.255.255", &[2]);
        check(&["::/0", "2001:db8::/32", "2001:db8::1/128"], "2001:db8::1", &[2, 1, 0]);
    }

    #[test]
    fn address_outside_all_networks_has_no_match() {
        check(&[], "10.0.0.1", &[]);
        check(&["10.0.0.0/8"], "9.255.255.255", &[]);
        check(&["10.0.0.0/8", "10.255.255.255/32"], "11.0.0.0", &[]);
        check(&["::/0"], "10.0.0.1", &[]);
        check(&["0.0.0.0/0"], "2001:db8::1", &[]);
    }

    #[test]
    fn match_has_the_facts_of_its_entry() {
        let index = index(["10.0.0.0/8 expires=2026-12-31", "!10.1.0.0/16 owner=acme"]);
        let held = index
            .holding("10.1.0.1".parse().unwrap())
            .map(|held| (held.length, held.admits, held.expires));
        assert_eq!(held.collect::<Vec<_>>(), [(16, false, false), (8, true, true)]);
    }

    #[test]
    fn repeated_networks_are_returned_with_all_places() {
        let networks =
            ["10.0.0.0/8", "::/0", "!10.0.0.0/8", "10.0.0.0/16", "::/0 owner=acme", "10.0.0.0/8"];
        assert_eq!(Index::new(&entries(networks)).err(), Some(vec![vec![0, 2, 5], vec![1, 4]]));
    }

    #[test]
    fn every_network_is_found_at_any_ladder_height() {
        for count in [1, 63, 64, 65, 1023, 1024, 1025, 20_000] {
            let v4 = |number: u32| IpAddr::V4((0x0a00_0000 + number).into());
            let v6 = |number: u32| IpAddr::V6((0x2001_0db8 << 96 | u128::from(number)).into()); // all in one /64
            for at in [&v4 as &dyn Fn(u32) -> IpAddr, &v6] {
                let index = index((0..count).map(|number| at(2 * number)));
                assert!(places(&index, at(u32::MAX >> 8)).is_empty(), "of {count}");
                for number in 0..count {
                    assert_eq!(places(&index, at(2 * number)), [number as usize], "of {count}");
                    assert!(places(&index, at(2 * number + 1)).is_empty(), "of {count}");
                }
            }
        }
    }

    #[test]
    fn first_and_last_addresses_are_found() {
        check(&["0.0.0.0", "255.255.255.255", "255.255.255.254/31"], "255.255.255.255", &[1, 2]);
        check(&["0.0.0.0", "255.255.255.255"], "0.0.0.0", &[0]);
        check(&["255.255.255.254"], "255.255.255.255", &[]);
        check(
            &["::", "ffff:ffff:ffff:ffff::/64", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            &[2, 1],
        );
        check(
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"],
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            &[],
        );
    }

    /// Addresses in a small world, so that networks nest and meet: of each family the last bits
    /// differ, and in IPv6 those before its middle.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0u32..256).prop_map(|low| IpAddr::V4((0xc000_0200 + low).into()));
        let v6 = (0u128..4, 0u128..256)
            .prop_map(|(high, low)| IpAddr::V6((0x2001_0db8 << 96 | high << 64 | low).into()));
        prop_oneof![v4, v6]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..9, any::<bool>()).prop_map(|(address, shorter, by_half)| {
            let longest = if address.is_ipv4() {
                32
            } else if by_half {
                66
            } else {
                128
            };
            IpNet::new(address, longest - shorter).unwrap().trunc()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn index_agrees_with_a_linear_search(
            networks in prop::collection::btree_set(network(), 0..200),
            asked in prop::collection::vec(address(), 1..20),
        ) {
            let index = index(&networks);
            for address in asked {
                let mut naive: Vec<_> = networks.iter().enumerate().filter(|(_, network)| network.contains(&address)).collect();
                naive.sort_by_key(|(_, network)| std::cmp::Reverse(network.prefix_len()));
                let naive: Vec<_> = naive.into_iter().map(|(place, _)| place).collect();
                prop_assert_eq!(places(&index, address), naive);
            }
        }
    }
}
