//! All addresses that a list holds at one time, as a set.
//!
//! Agrees with the look-up of a single address: the longest prefix among unlapsed entries decides.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::policy::addresses::{AddressFamily, AddressRange, AddressSet, RangeSet};
use crate::policy::list::List;

impl List {
    /// The addresses that the list admits at the time `now`.
    pub fn admitted_addresses(&self, now: Timestamp) -> AddressSet {
        let of = |family: AddressFamily| {
            let entries = self.entries().filter(|(entry, _)| !entry.lapsed(now));
            let signed = entries.filter_map(|(entry, _)| {
                let network = entry.pattern.network()?;
                (AddressFamily::of(network) == family)
                    .then(|| SignedRange::of(network, entry.admits))
            });
            admitted(signed.collect())
        };
        AddressSet::new(of(AddressFamily::V4), of(AddressFamily::V6))
    }

    /// Whether both lists have the same entries.
    pub fn has_entries_of(&self, other: &List) -> bool {
        let entries = || self.entries().map(|(entry, _)| entry);
        self.shares(other)
            || (self.len() == other.len() && entries().eq(other.entries().map(|(entry, _)| entry)))
    }
}

/// A network with its sign.
#[derive(Debug, Clone, Copy)]
struct SignedRange {
    range: AddressRange,
    admits: bool,
}

impl SignedRange {
    fn of(network: IpNet, admits: bool) -> SignedRange {
        SignedRange { range: AddressRange::of(network), admits }
    }
}

/// The addresses whose narrowest range admits. Two ranges are nested or apart.
fn admitted(mut all: Vec<SignedRange>) -> RangeSet {
    // The wider of two that begin together comes first, and so is around the other.
    all.sort_unstable_by_key(|one| (one.range.first, std::cmp::Reverse(one.range.last)));
    let mut sweep = Sweep::default();
    for one in all {
        sweep.close_before(one.range.first);
        sweep.admit_until(one.range.first);
        sweep.around.push(one);
    }
    sweep.close_all();
    RangeSet::of(sweep.found)
}

/// A walk over the addresses in ascending order.
#[derive(Default)]
struct Sweep {
    /// The ranges around the present address, the narrowest last.
    around: Vec<SignedRange>,
    /// The first address that is not decided yet.
    at: u128,
    found: Vec<AddressRange>,
}

impl Sweep {
    /// Leaves all ranges that end before `first`.
    fn close_before(&mut self, first: u128) {
        while let Some(one) = self.around.pop_if(|one| one.range.last < first) {
            self.leave(one);
            // Below `first`, so this never overflows.
            self.at = one.range.last + 1;
        }
    }

    fn close_all(&mut self) {
        while let Some(one) = self.around.pop() {
            self.leave(one);
            match one.range.last.checked_add(1) {
                Some(next) => self.at = next,
                // Ranges around it end at the last address as well, and have nothing left.
                None => return,
            }
        }
    }

    /// Decides the addresses from the present one to the end of the range `one`.
    fn leave(&mut self, one: SignedRange) {
        if one.admits && self.at <= one.range.last {
            self.found.push(AddressRange { first: self.at, last: one.range.last });
        }
    }

    /// Decides the addresses before `next` by the narrowest range around them.
    fn admit_until(&mut self, next: u128) {
        if let Some(one) = self.around.last()
            && one.admits
            && self.at < next
        {
            self.found.push(AddressRange { first: self.at, last: next - 1 });
        }
        self.at = next;
    }
}
