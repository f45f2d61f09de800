//! Compares two generations of a list, entry by entry.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};

use crate::admin::wire::ListChange;
use crate::policy::Policy;
use crate::policy::list::pattern::ClientPattern;
use crate::policy::list::{List, ListEntry};

/// Most entries that are named one by one.
const MAX_LISTED_ENTRIES: usize = 10;

/// The lists that differ between `from` and `to`, two generations of one policy.
pub fn compare(from: &Policy, to: &Policy, now: Timestamp) -> Vec<ListChange> {
    let (mut before, after) = (from.lists(), to.lists());
    let mut found = Vec::new();
    for list in after {
        let at = before.iter().position(|one| one.name == list.name);
        let old = at.map(|at| before.swap_remove(at));
        // Shared entries are equal, and the usual case: an unchanged file is not compared.
        if old.is_some_and(|old| old.shares(list)) {
            continue;
        }
        found.extend(entries(&to.name, list, old.map(|old| &**old), Some(list), now));
    }
    for gone in before {
        found.extend(entries(&to.name, gone, Some(gone), None, now));
    }
    found
}

/// The difference between the entries of `from` and `to`, under the name of `list`. `None` means
/// they are equal.
fn entries(
    policy: &str,
    list: &List,
    from: Option<&List>,
    to: Option<&List>,
    now: Timestamp,
) -> Option<ListChange> {
    let soon = now.saturating_add(SignedDuration::from_hours(30 * 24)).unwrap_or(Timestamp::MAX);
    let mut difference = ListChange {
        policy: policy.to_owned(),
        list: list.name.to_string(),
        file: list.file.to_string(),
        added: 0,
        removed: 0,
        altered: 0,
        lapsing_30d: to.map_or(0, |to| to.lapsing(now, soon)) as u64,
        sample: Vec::new(),
    };
    // A merge of two sorted sequences: lists may have a million entries.
    let (from, to) = (sorted(from), sorted(to));
    let (mut from, mut to) = (from.into_iter().peekable(), to.into_iter().peekable());
    loop {
        let order = match (from.peek(), to.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => key(one).cmp(&key(other)),
        };
        let (old, new) = match order {
            Ordering::Less => (from.next(), None),
            Ordering::Greater => (None, to.next()),
            Ordering::Equal => (from.next(), to.next()),
        };
        match (old, new) {
            // Entries with the same network and sign: only annotations can differ.
            (Some(old), Some(new)) if old == new => continue,
            (Some(_), Some(new)) => count_change(&mut difference, '~', new),
            (Some(old), None) => count_change(&mut difference, '-', old),
            (None, Some(new)) => count_change(&mut difference, '+', new),
            (None, None) => break,
        }
    }
    (difference.added + difference.removed + difference.altered > 0).then_some(difference)
}

fn sorted(list: Option<&List>) -> Vec<&ListEntry> {
    let mut entries: Vec<_> =
        list.into_iter().flat_map(List::entries).map(|(entry, _)| entry).collect();
    entries.sort_unstable_by_key(|entry| key(entry));
    entries
}

/// Sort key of an entry. A network occurs once in a list, but its sign (`!`) may change between
/// generations.
fn key(entry: &ListEntry) -> (ClientPattern, bool) {
    (entry.pattern, entry.admits)
}

/// Counts a changed entry, and adds it to the sample while that has room.
fn count_change(change: &mut ListChange, sign: char, entry: &ListEntry) {
    match sign {
        '+' => change.added += 1,
        '-' => change.removed += 1,
        _ => change.altered += 1,
    }
    if change.sample.len() < MAX_LISTED_ENTRIES {
        change.sample.push(format!("{sign}{}", entry_text(entry)));
    }
}

/// An entry with its annotations, as written in a list.
fn entry_text(entry: &ListEntry) -> String {
    let mut line = entry.to_string();
    let expires = entry.expiry().map(|expiry| expiry.to_string());
    for (key, value) in
        [("owner", entry.owner()), ("ticket", entry.ticket()), ("expires", expires.as_deref())]
    {
        if let Some(value) = value {
            line.push_str(&format!(" {key}={}", value.escape_debug()));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: &[&str]) -> List {
        let entries = lines
            .iter()
            .zip(1..)
            .map(|(line, number)| (ListEntry::parse(line).unwrap().unwrap(), number));
        List::new("partners", "policies/lists/partners.cidr", entries.collect()).unwrap()
    }

    /// `+added -removed ~altered` and the sample.
    fn check(from: &[&str], to: &[&str], counts: [u64; 3], sample: &[&str]) {
        let (from, to, now) = (list(from), list(to), "2026-12-15T00:00:00Z".parse().unwrap());
        let found = entries("market-data", &to, Some(&from), Some(&to), now);
        let told = found.map(|found| ([found.added, found.removed, found.altered], found.sample));
        let expected = (counts != [0; 3])
            .then(|| (counts, sample.iter().map(|line| (*line).to_owned()).collect()));
        assert_eq!(told, expected);
    }

    #[test]
    fn entries_are_compared_in_any_order() {
        check(&["10.0.0.0/8", "192.0.2.1"], &["192.0.2.1", "10.0.0.0/8"], [0, 0, 0], &[]);
        check(
            &["10.0.0.0/8"],
            &["10.0.0.0/8", "198.51.100.7 expires=2026-12-31"],
            [1, 0, 0],
            &["+198.51.100.7 expires=2026-12-31"],
        );
        check(&["10.0.0.0/8", "192.0.2.1"], &["10.0.0.0/8"], [0, 1, 0], &["-192.0.2.1"]);
        check(
            &["192.0.2.1 owner=acme"],
            &["192.0.2.1 owner=other"],
            [0, 0, 1],
            &["~192.0.2.1 owner=other"],
        );
        check(&["192.0.2.1"], &["!192.0.2.1"], [1, 1, 0], &["+!192.0.2.1", "-192.0.2.1"]);
    }
}
