//! Entries of lists that change nothing, because another entry says the same, or denies it all.
//!
//! Knows time: an entry that another one covers only for a while has a meaning of its own
//! afterwards. Each entry is looked up once in an index, so that a million of them take a second or
//! so. Of many lints about one list only the first is shown.

use std::sync::Arc;

use jiff::Timestamp;

use super::location::{LinePart, Lint, LintLocation};
use crate::control::config::PolicySettings;
use crate::policy::AllowRule;
use crate::policy::list::pattern::ClientPattern;
use crate::policy::list::{List, ListEntry};
use crate::policy::unix::UnixPattern;

/// An entry of a list, with its line.
type NumberedEntry<'l> = (&'l ListEntry, u32);

/// Entries that wider ones make redundant, in each list that says who may connect. In a list with
/// limits of its own a narrower entry can matter: between two `[[limits.for]]` the longest network
/// decides.
pub fn redundant_entries(page: &PolicySettings, now: Timestamp) -> Vec<Lint> {
    let limited: Vec<_> =
        page.limits.exceptions.iter().flat_map(|exception| exception.lists()).collect();
    let lists = page.allow.lists().iter().chain(&page.deny);
    let plain = lists.filter(|list| !limited.iter().any(|one| Arc::ptr_eq(one, list)));
    plain.filter_map(|list| redundant(list, now)).collect()
}

/// The first entry of `list` that a wider one makes redundant, with the number of the others.
pub fn redundant(list: &List, now: Timestamp) -> Option<Lint> {
    let (((entry, line), (wider, wider_line)), more) = first_of(shadowed(list, now))?;
    Some(Lint {
        location: location(list, entry, line),
        message: format!("{entry} changes nothing: {wider} says the same of it, for as long{more}"),
        remedy: "remove it, or narrow the wider one".into(),
        other: Some((location(list, wider, wider_line), "the wider one")),
    })
}

/// The lists of `page` and of the `baseline` that refuse clients.
fn denying<'p>(
    page: &'p PolicySettings,
    baseline: Option<&'p PolicySettings>,
) -> Vec<DenyIndex<'p>> {
    // `deny` of the baseline holds under every policy, whatever that policy allows.
    let deny = page.deny.iter().chain(baseline.into_iter().flat_map(|baseline| &baseline.deny));
    deny.map(|list| DenyIndex::new(list)).collect()
}

/// Entries in the lists of `allow` that `deny`, or that of the `baseline`, cancels.
pub fn denied_entries(
    page: &PolicySettings,
    baseline: Option<&PolicySettings>,
    now: Timestamp,
) -> Vec<Lint> {
    let denying = denying(page, baseline);
    let remark = |list: &List| {
        let (((entry, line), denying, (by, by_line)), more) =
            first_of(denied(list, &denying, now))?;
        Some(Lint {
            location: location(list, entry, line),
            message: format!("{entry} admits no client: {by} denies all of it{more}"),
            remedy: format!(
                "remove one of the two, or carve it out of the denying list: \"!{entry}\""
            ),
            other: Some((location(denying, by, by_line), "denied here")),
        })
    };
    page.allow.lists().iter().filter_map(|list| remark(list)).collect()
}

/// `[[limits.for]]` that apply to no client, or change nothing.
pub fn idle_exceptions(
    page: &PolicySettings,
    baseline: Option<&PolicySettings>,
    now: Timestamp,
) -> Vec<Lint> {
    let denying = denying(page, baseline);
    let admitted = AllowIndex::new(&page.allow, now);
    let exceptions = &page.limits.exceptions;
    let mut remarks = Vec::new();
    for exception in exceptions {
        let lists = exception.lists();
        let count = |list: &List| {
            list.entries().filter(|(entry, _)| entry.admits && !entry.lapsed(now)).count()
        };
        let all: usize = lists.iter().map(|list| count(list)).sum();
        let is_denied = |list: &Arc<List>| denied(list, &denying, now).count() == count(list);
        let mut named = lists.iter().flat_map(|list| list.entries());
        // With a second exception, one may take a part of the other's clients back.
        let message = if exceptions.len() == 1 && exception.share == page.limits.share {
            "these limits change nothing: they are those of all clients"
        } else if all > 0 && lists.iter().all(is_denied) {
            "these limits apply to no client: `deny` has all of these"
        } else if all > 0 && !named.any(|(entry, _)| entry.admits && admitted.overlaps(entry)) {
            "these limits apply to no client: `allow` has none of these"
        } else {
            continue;
        };
        let word = if lists.is_empty() { "identity" } else { "client" };
        remarks.push(Lint {
            location: LintLocation {
                file: Arc::clone(&page.file),
                line: exception.line,
                part: LinePart::Word(word.into()),
            },
            message: message.into(),
            remedy: "remove the table, or correct its clients or limits".into(),
            other: None,
        });
    }
    remarks
}

/// What `allow` admits. `None` means every client.
struct AllowIndex(Option<AllowedPatterns>);

struct AllowedPatterns {
    lists: Vec<Arc<List>>,
    /// Patterns that admit, sorted as in [`DenyIndex`].
    patterns: Vec<ClientPattern>,
}

impl AllowIndex {
    fn new(allow: &AllowRule, now: Timestamp) -> Self {
        let AllowRule::Lists(lists) = allow else { return AllowIndex(None) };
        let entries = lists.iter().flat_map(|list| list.entries());
        let live = entries.filter(|(entry, _)| entry.admits && !entry.lapsed(now));
        let mut patterns: Vec<_> = live.map(|(entry, _)| entry.pattern).collect();
        patterns.sort_unstable();
        AllowIndex(Some(AllowedPatterns { lists: lists.clone(), patterns }))
    }

    /// Whether some client of `entry` may be admitted.
    fn overlaps(&self, entry: &ListEntry) -> bool {
        let Some(AllowedPatterns { lists, patterns }) = &self.0 else { return true };
        // The users of a group are not known: any admitted user may be in it.
        if entry.pattern.users().is_some() {
            return patterns.iter().any(|pattern| pattern.users().is_some());
        }
        let after = patterns.partition_point(|pattern| *pattern < entry.pattern);
        let holds = |list: &Arc<List>| list.around(entry.pattern).any(|(one, _)| one.admits);
        patterns.get(after).is_some_and(|inner| entry.pattern.contains(*inner))
            || lists.iter().any(holds)
    }
}

/// Each entry whose removal changes no decision from `now` on, and the wider entry that decides
/// instead.
fn shadowed(
    list: &List,
    now: Timestamp,
) -> impl Iterator<Item = (NumberedEntry<'_>, NumberedEntry<'_>)> {
    let live = list.entries().filter(move |(entry, _)| !entry.lapsed(now));
    live.filter_map(move |(entry, line)| {
        // The entry itself is among them: without it, the wider ones decide.
        let wider = list.around(entry.pattern).filter(|(other, _)| other.pattern != entry.pattern);
        Some(((entry, line), decided_by(wider, entry, entry.admits, now)?))
    })
}

/// Each admitting entry whose addresses one list of `denying` denies while it holds, with that list
/// and its entry.
fn denied<'l>(
    list: &'l List,
    denying: &[DenyIndex<'l>],
    now: Timestamp,
) -> impl Iterator<Item = (NumberedEntry<'l>, &'l List, NumberedEntry<'l>)> {
    let admitting = list.entries().filter(move |(entry, _)| entry.admits && !entry.lapsed(now));
    admitting.filter_map(move |(entry, line)| {
        denying
            .iter()
            .find_map(|denying| Some(((entry, line), denying.list, denying.all_of(entry, now)?)))
    })
}

/// A list of `deny`, and the networks that it carves out.
struct DenyIndex<'l> {
    list: &'l List,
    /// Sorted: networks by first address, the widest first.
    carved: Vec<ClientPattern>,
}

impl<'l> DenyIndex<'l> {
    fn new(list: &'l List) -> Self {
        let mut carved: Vec<_> = list
            .entries()
            .filter(|(entry, _)| !entry.admits)
            .map(|(entry, _)| entry.pattern)
            .collect();
        carved.sort_unstable();
        DenyIndex { list, carved }
    }

    /// The entry that denies all addresses of `entry` for as long as `entry` holds.
    fn all_of(&self, entry: &ListEntry, now: Timestamp) -> Option<NumberedEntry<'l>> {
        // In sorted order, if any carve-out lies within the network, the first one after it does.
        let after = self.carved.partition_point(|carved| *carved < entry.pattern);
        if self.carved.get(after).is_some_and(|carved| entry.pattern.contains(*carved)) {
            return None;
        }
        // The users of a group are not known: any carved-out user may be in it.
        let is_group = matches!(entry.pattern.users(), Some(UnixPattern::Gid(_)));
        if is_group && self.carved.iter().any(|carved| carved.users().is_some()) {
            return None;
        }
        decided_by(self.list.around(entry.pattern), entry, true, now)
    }
}

/// Each of `deciding` decides until it lapses, then the next one does. Returns the entry that
/// decides at `now`. Until `entry` lapses, an entry with the sign `admits` must decide at every
/// moment. Otherwise returns `None`.
fn decided_by<'l>(
    deciding: impl Iterator<Item = NumberedEntry<'l>>,
    entry: &ListEntry,
    admits: bool,
    now: Timestamp,
) -> Option<NumberedEntry<'l>> {
    let ends = |entry: &ListEntry| entry.expires().unwrap_or(Timestamp::MAX);
    let (mut first, mut until) = (None, now);
    for (other, line) in deciding {
        // Lapses before it could decide.
        if ends(other) <= until {
            continue;
        }
        if other.admits != admits {
            return None;
        }
        first.get_or_insert((other, line));
        until = ends(other);
        if until >= ends(entry) {
            return first;
        }
    }
    None
}

/// The first item, and words for the number of the others. `None` means that there is none.
fn first_of<T>(mut all: impl Iterator<Item = T>) -> Option<(T, String)> {
    let first = all.next()?;
    let more = match all.count() {
        0 => String::new(),
        1 => " (… and 1 more entry)".into(),
        more => format!(" (… and {more} more entries)"),
    };
    Some((first, more))
}

fn location(list: &List, entry: &ListEntry, line: u32) -> LintLocation {
    LintLocation { file: list.file.clone(), line, part: LinePart::Entry(entry.clone()) }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::network::Client;

    /// The sixteen addresses that all entries here are about.
    fn world() -> impl Iterator<Item = Client> {
        (0..16).map(|last| Client::new([10, 0, 0, last].into()))
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entries() -> impl Strategy<Value = Vec<ListEntry>> {
        let expires = prop_oneof![2 => Just(None), 1 => (0i64..6).prop_map(|at| Some(second(at)))];
        let entry = (0u8..16, 28u8..=32, prop::bool::weighted(0.7), expires).prop_map(
            |(last, length, admits, expires)| {
                let network = IpNet::new([10, 0, 0, last].into(), length).unwrap().trunc();
                let expires =
                    expires.map(|expires| format!(" expires={expires}")).unwrap_or_default();
                ListEntry::parse(&format!("{}{network}{expires}", if admits { "" } else { "!" }))
                    .unwrap()
                    .unwrap()
            },
        );
        prop::collection::vec(entry, 0..10)
    }

    fn list(entries: &[ListEntry]) -> Option<List> {
        List::new("list", "file", entries.iter().cloned().zip(1..).collect()).ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(2048)
        })]

        #[test]
        fn removing_a_shadowed_entry_changes_no_decision(entries in entries(), now in 0i64..5) {
            let Some(all) = list(&entries) else { return Ok(()) };
            for ((entry, line), _) in shadowed(&all, second(now)) {
                let others: Vec<_> = all
                    .entries()
                    .filter(|(_, other)| *other != line)
                    .map(|(other, _)| other.clone())
                    .collect();
                let without = list(&others).unwrap();
                for (client, at) in world().flat_map(|client| (now..7).map(move |at| (client, second(at)))) {
                    prop_assert_eq!(all.admits(client, at), without.admits(client, at), "{} for {} at {}", entry, client, at);
                }
            }
        }

        #[test]
        fn a_cancelled_entry_is_denied_for_as_long_as_it_holds(allow in entries(), deny in entries(), now in 0i64..5) {
            let (Some(allow), Some(deny)) = (list(&allow), list(&deny)) else { return Ok(()) };
            for ((entry, _), _, _) in denied(&allow, &[DenyIndex::new(&deny)], second(now)) {
                let network = entry.pattern.network().unwrap();
                let held = world().filter(|client| network.contains(&client.ip().unwrap()));
                for (client, at) in held.flat_map(|client| (now..7).map(move |at| (client, second(at)))) {
                    prop_assert!(entry.lapsed(at) || deny.admits(client, at), "{} for {} at {}", entry, client, at);
                }
            }
        }
    }
}
