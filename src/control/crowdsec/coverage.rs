//! How many addresses bans hold together, and which of them are too wide for that.
//!
//! Pure. A bound on each network alone says nothing about 65,536 of them.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// Length from which on networks are too wide together. `None` means that none are.
///
/// `total` is the length of the network with as many addresses as all may hold together; 0 means
/// any number. All networks of one length are too wide together, so that no order chooses.
pub fn widest_length(networks: impl Iterator<Item = IpNet>, total: u8) -> Option<u8> {
    let sorted: BTreeSet<IpNet> = networks.collect();
    let bits = sorted.first().map_or(0, IpNet::max_prefix_len);
    let bound = size(bits, total);
    let sum = sorted.iter().map(|one| size(bits, one.prefix_len()));
    // Networks within one another count twice here. Mostly the sum is far below the bound.
    if total == 0 || sum.fold(0, u128::saturating_add) <= bound {
        return None;
    }
    // From the narrowest on: the first length beyond the bound is too wide, and so are wider ones.
    let lengths: BTreeSet<u8> = sorted.iter().map(IpNet::prefix_len).collect();
    lengths.into_iter().rev().find(|length| covered(&sorted, *length, bits) > bound)
}

/// Number of addresses in all networks of this length or a longer one.
fn covered(sorted: &BTreeSet<IpNet>, shortest: u8, bits: u8) -> u128 {
    let mut last: Option<IpNet> = None;
    let mut all: u128 = 0;
    for one in sorted.iter().filter(|one| one.prefix_len() >= shortest) {
        // In this order a network comes before all others that it holds.
        if last.is_none_or(|last| !last.contains(one)) {
            all = all.saturating_add(size(bits, one.prefix_len()));
            last = Some(*one);
        }
    }
    all
}

/// Number of addresses of a network.
fn size(bits: u8, length: u8) -> u128 {
    1u128.checked_shl(u32::from(bits.saturating_sub(length))).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(networks: &[&str], total: u8, expected: Option<u8>) {
        let all = networks.iter().map(|one| one.parse().unwrap());
        assert_eq!(widest_length(all, total), expected, "{networks:?} {total}");
    }

    #[test]
    fn widest_networks_are_too_wide_together() {
        check(&[], 8, None);
        check(&["10.0.0.0/9", "10.128.0.0/9"], 8, None);
        check(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.1/32"], 8, Some(9));
        check(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.1/32"], 0, None);
        check(&["0.0.0.0/1", "128.0.0.0/1"], 1, Some(1));
        check(&["::/1", "8000::/1"], 1, Some(1));
        check(&["2001:db8::/32"], 128, Some(32));
    }

    #[test]
    fn networks_within_others_count_once() {
        let nested = ["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/16", "10.9.9.9/32"];
        check(&nested, 8, None);
        let beside = ["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "11.0.0.0/16", "10.9.9.9/32"];
        check(&beside, 8, Some(9));
    }

    #[test]
    fn whole_of_ipv4_in_slices_is_too_wide() {
        let slices = (0..=u16::MAX).map(|at| {
            let [first, second] = at.to_be_bytes();
            IpNet::new([first, second, 0, 0].into(), 16).unwrap()
        });
        assert_eq!(widest_length(slices, 8), Some(16));
    }
}
