//! What two versions of a policy's lists admit for longer, or deny no more.
//!
//! Entries that are admitted at once are found by their verdicts (`widening`). This module finds
//! what only the clock, or a later save of a list, would let in. Pure.

use std::sync::Arc;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::policy::list::pattern::ClientPattern;
use crate::policy::list::{List, ListEntry};
use crate::policy::widening::WiderRule;

/// Most entries that a sentence names.
const MAX_NAMED: usize = 3;

/// The lists of `to` that admit for longer than those of `from`, or deny no more, at `now`.
pub fn wider_lists(from: &Policy, to: &Policy, now: Timestamp) -> Vec<WiderRule> {
    let mut found = Vec::new();
    for gone in dropped(&from.deny, &to.deny) {
        found.push(WiderRule {
            key: "client.deny",
            what: format!("denies by `{}` no more", gone.name),
        });
    }
    for new in dropped(to.allow.lists(), from.allow.lists()).filter(|list| list.is_empty()) {
        found.push(WiderRule {
            key: "client.allow",
            what: format!("admits by `{}` too, which is empty yet", new.name),
        });
    }
    let longer = LongerEntries { now };
    let (from_allow, to_allow) = (from.allow.lists(), to.allow.lists());
    let mut admitted = longer.of_rule(from_allow, to_allow);
    admitted
        .extend(longer.of_carve_outs(to_allow, from_allow).into_iter().map(EndChange::reversed));
    found.extend(sentence("client.allow", &admitted));
    // What denies until an earlier time is what would deny longer the other way round.
    let denied = longer.of_rule(&to.deny, &from.deny).into_iter().map(EndChange::reversed);
    let denied: Vec<_> = denied.chain(longer.of_carve_outs(&from.deny, &to.deny)).collect();
    found.extend(sentence("client.deny", &denied));
    found
}

/// The lists of `from` that `to` has under neither name nor contents, a rule's own entries left
/// out: they have no name, and what they admit is seen at once.
fn dropped<'l>(from: &'l [Arc<List>], to: &'l [Arc<List>]) -> impl Iterator<Item = &'l Arc<List>> {
    let named = from.iter().filter(|list| !list.name.starts_with('('));
    named.filter(|list| {
        let is_same = |other: &Arc<List>| other.name == list.name || other.has_entries_of(list);
        !to.iter().any(is_same)
    })
}

/// An entry with another end.
struct EndChange<'l> {
    pattern: ClientPattern,
    from: &'l ListEntry,
    to: &'l ListEntry,
}

impl<'l> EndChange<'l> {
    fn reversed(self) -> EndChange<'l> {
        EndChange { from: self.to, to: self.from, ..self }
    }
}

/// Finds entries that end later.
struct LongerEntries {
    now: Timestamp,
}

impl LongerEntries {
    /// The clients that a list of `to` holds for longer than all lists of `from` do.
    fn of_rule<'l>(&self, from: &'l [Arc<List>], to: &'l [Arc<List>]) -> Vec<EndChange<'l>> {
        // An entry without an end can't be outlasted: most lists have no other.
        if !from.iter().any(|list| list.next_expiry(self.now).is_some()) {
            return Vec::new();
        }
        let only_in = |all: &'l [Arc<List>], others: &'l [Arc<List>]| {
            all.iter().filter(move |list| !others.iter().any(|other| other.has_entries_of(list)))
        };
        // Those of `from` as well: a wider entry may have taken the place of several.
        // Shared lists are skipped: an entry of theirs can only be outlasted by one of the others.
        let lists = only_in(to, from).chain(only_in(from, to));
        let entries = lists.flat_map(|list| list.entries()).map(|(entry, _)| entry);
        let admitted = entries.filter(|entry| entry.admits && !entry.lapsed(self.now));
        let mut found = Vec::new();
        for pattern in admitted.map(|entry| entry.pattern) {
            // By verdicts, not by equal texts: a narrower or wider entry may have taken over.
            let (before, after) = (self.holding(from, pattern), self.holding(to, pattern));
            if let (Some(before), Some(after)) = (before, after)
                && end(after) > end(before)
            {
                // Without `before` the clients are newly admitted, which `widening` reports.
                found.push(EndChange { pattern, from: before, to: after });
            }
        }
        found.sort_by_key(|one| one.pattern);
        found.dedup_by_key(|one| one.pattern);
        found
    }

    /// The carve-outs that a list of `to` has for longer than the list of this name in `from`.
    fn of_carve_outs<'l>(&self, from: &'l [Arc<List>], to: &'l [Arc<List>]) -> Vec<EndChange<'l>> {
        let mut found = Vec::new();
        for old in from.iter().filter(|list| list.next_expiry(self.now).is_some()) {
            // A carve-out applies within its own list, so lists are compared by their names.
            let Some(new) = to.iter().find(|list| list.name == old.name) else { continue };
            for (entry, _) in old.entries().filter(|(entry, _)| !entry.admits) {
                let after = self.deciding(new, entry.pattern).filter(|after| !after.admits);
                if let Some(after) = after
                    && !entry.lapsed(self.now)
                    && end(after) > end(entry)
                {
                    found.push(EndChange { pattern: entry.pattern, from: entry, to: after });
                }
            }
        }
        found
    }

    /// The entry that holds all clients of `pattern` the longest. `None` means that no list does.
    fn holding<'l>(&self, lists: &'l [Arc<List>], pattern: ClientPattern) -> Option<&'l ListEntry> {
        let deciding = lists.iter().filter_map(|list| self.deciding(list, pattern));
        deciding.filter(|entry| entry.admits).max_by_key(|entry| end(entry))
    }

    fn deciding<'l>(&self, list: &'l List, pattern: ClientPattern) -> Option<&'l ListEntry> {
        list.around(pattern).map(|(entry, _)| entry).find(|entry| !entry.lapsed(self.now))
    }
}

fn end(entry: &ListEntry) -> Timestamp {
    entry.expires().unwrap_or(Timestamp::MAX)
}

/// One sentence about `changes`. `None` means that there is none.
fn sentence(key: &'static str, changes: &[EndChange<'_>]) -> Option<WiderRule> {
    let shown = |entry: &ListEntry| match entry.expiry() {
        Some(expiry) => format!("until {expiry}"),
        None => "for ever".to_owned(),
    };
    let named = changes.iter().take(MAX_NAMED).map(|change| {
        let sign = if change.to.admits { "" } else { "!" };
        let (from, to) = (shown(change.from), shown(change.to));
        format!("{sign}{} {to} instead of {from}", change.pattern)
    });
    let named: Vec<_> = named.collect();
    let more = changes.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| WiderRule { key, what: format!("{}{more}", named.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::policy::AllowRule;
    use crate::policy::limit::Limits;
    use crate::policy::rule::RuleLines;

    fn list(name: &str, lines: &[&str]) -> Arc<List> {
        let entries = lines.iter().zip(1..);
        let entries = entries.map(|(line, at)| (ListEntry::parse(line).unwrap().unwrap(), at));
        Arc::new(List::new(name, "file", entries.collect()).unwrap())
    }

    fn policy(allow: Vec<Arc<List>>, deny: Vec<Arc<List>>) -> Policy {
        Policy {
            name: "main".into(),
            file: "policies/main.toml".into(),
            owner: None,
            allow: AllowRule::Lists(allow),
            deny,
            origins: None,
            subprotocols: None,
            certificate: None,
            limits: Limits::default(),
            lines: RuleLines::default(),
            candidate: None,
        }
    }

    fn said(from: &Policy, to: &Policy) -> Vec<String> {
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(wider_lists(from, from, now), [], "a policy is no wider than itself");
        let found = wider_lists(from, to, now).into_iter();
        found.map(|rule| format!("{}: {}", rule.key, rule.what)).collect()
    }

    fn check_allow(from: &[&str], to: &[&str], expected: &[&str]) {
        let of = |lines| policy(vec![list("office", lines)], Vec::new());
        assert_eq!(said(&of(from), &of(to)), expected);
    }

    #[test]
    fn entry_that_lapses_later_or_never_is_wider() {
        let (soon, late) = ("10.0.0.0/8 expires=2027-06-30", "10.0.0.0/8 expires=2028-06-30");
        let more = "client.allow: 10.0.0.0/8 until 2028-06-30 instead of until 2027-06-30";
        check_allow(&[soon], &[late], &[more]);
        check_allow(&[late], &[soon], &[]);
        let ever = "client.allow: 10.0.0.0/8 for ever instead of until 2027-06-30";
        check_allow(&[soon], &["10.0.0.0/8"], &[ever]);
        let halves = ["10.0.0.0/9", "10.128.0.0/9 expires=2027-06-30"];
        let half = "client.allow: 10.0.0.0/9 for ever instead of until 2027-06-30";
        check_allow(&[soon], &halves, &[half]);
        // The whole takes the place of a half, whose other half is newly admitted.
        let half = "client.allow: 10.0.0.0/9 for ever instead of until 2027-06-30";
        check_allow(&["10.0.0.0/9 expires=2027-06-30"], &["10.0.0.0/8"], &[half]);
        // An entry that has lapsed is newly admitted, and not for longer.
        check_allow(&["10.0.0.0/8 expires=2026-06-30"], &["10.0.0.0/8"], &[]);
        let carved = ["10.0.0.0/8", "!10.1.0.0/16"];
        let ends = ["10.0.0.0/8", "!10.1.0.0/16 expires=2027-06-30"];
        let said = "client.allow: !10.1.0.0/16 until 2027-06-30 instead of for ever";
        check_allow(&carved, &ends, &[said]);
        check_allow(&ends, &carved, &[]);
    }

    #[test]
    fn other_list_may_hold_an_entry_for_longer() {
        let (soon, ever) =
            (list("a", &["10.0.0.0/8 expires=2027-06-30"]), list("b", &["10.0.0.0/7"]));
        let both = policy(vec![Arc::clone(&soon), Arc::clone(&ever)], Vec::new());
        assert_eq!(said(&both, &policy(vec![ever], Vec::new())), [""; 0]);
        let many: Vec<_> =
            (0..5).map(|low| format!("10.{low}.0.0/16 expires=2027-06-30")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let to = list("renamed", &["10.0.0.0/8"]);
        let found = said(&policy(vec![list("a", &many)], vec![]), &policy(vec![to], vec![]));
        assert!(found[0].starts_with("client.allow: 10.0.0.0/16 for ever"), "{found:?}");
        assert!(found[0].ends_with(", and 2 more") && found.len() == 1, "{found:?}");
    }

    #[test]
    fn denial_that_goes_or_ends_is_wider() {
        let of = |deny: Vec<Arc<List>>| policy(vec![list("all", &["0.0.0.0/0"])], deny);
        let ever = of(vec![list("banned", &["192.0.2.1"])]);
        let soon = of(vec![list("banned", &["192.0.2.1 expires=2027-06-30"])]);
        let ends = "client.deny: 192.0.2.1/32 until 2027-06-30 instead of for ever";
        assert_eq!(said(&ever, &soon), [ends]);
        assert_eq!(said(&soon, &ever), [""; 0]);
        let gone = ["client.deny: denies by `banned` no more"];
        assert_eq!(said(&of(vec![list("banned", &[])]), &of(vec![])), gone);
        assert_eq!(said(&ever, &of(vec![list("renamed", &["192.0.2.1"])])), [""; 0]);
        let carved = of(vec![list("banned", &["192.0.2.0/24", "!192.0.2.1"])]);
        let carved_soon =
            of(vec![list("banned", &["192.0.2.0/24", "!192.0.2.1 expires=2027-06-30"])]);
        let longer = "client.deny: !192.0.2.1/32 for ever instead of until 2027-06-30";
        assert_eq!(said(&carved_soon, &carved), [longer]);
        assert_eq!(said(&of(vec![]), &of(vec![list("banned", &[])])), [""; 0]);
    }

    #[test]
    fn list_that_is_empty_yet_is_admitted_later() {
        let of = |allow: Vec<Arc<List>>| policy(allow, Vec::new());
        let office = list("office", &["10.0.0.0/8"]);
        let with = of(vec![Arc::clone(&office), list("partners", &[])]);
        let expected = ["client.allow: admits by `partners` too, which is empty yet"];
        assert_eq!(said(&of(vec![Arc::clone(&office)]), &with), expected);
        assert_eq!(said(&with, &of(vec![office])), [""; 0]);
    }
}
