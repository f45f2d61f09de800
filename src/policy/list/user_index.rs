//! Finds the entries that hold a user of this host. There are few, and most lists have none.

use std::collections::HashMap;

use crate::policy::list::entry::ListEntry;
use crate::policy::subject::SubjectRef;
use crate::policy::unix::UnixPattern;

/// The entries about users, the narrowest first.
pub struct UserIndex(Box<[UserMatch]>);

/// An entry about users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserMatch {
    /// How narrow the pattern is: a user before a group, and a group before all.
    pub rank: u8,
    /// Whether the entry admits; `false` for a carve-out.
    pub admits: bool,
    /// Index of the entry in the slice that the index was built from.
    pub place: usize,
}

impl UserIndex {
    /// Builds the index of the users in `entries`.
    ///
    /// # Errors
    /// For each pattern of more than one entry, the indexes of all of them, in order.
    pub fn new(entries: &[(ListEntry, u32)]) -> Result<UserIndex, Vec<Vec<u32>>> {
        let users = entries.iter().enumerate().filter_map(|(place, (entry, _))| {
            let pattern = entry.pattern.users()?;
            Some((pattern, UserMatch { rank: rank(pattern), admits: entry.admits, place }))
        });
        let mut all: Vec<_> = users.collect();
        let mut places: HashMap<UnixPattern, Vec<u32>> = HashMap::new();
        for (pattern, held) in &all {
            // A list has fewer entries than 2³²: its file is bounded.
            places.entry(*pattern).or_default().push(held.place as u32);
        }
        let twins: Vec<_> = places.into_values().filter(|places| places.len() > 1).collect();
        if !twins.is_empty() {
            return Err(twins);
        }
        // A stable sort: of two groups, the entry that was written first is shown.
        all.sort_by_key(|(_, held)| std::cmp::Reverse(held.rank));
        Ok(UserIndex(all.into_iter().map(|(_, held)| held).collect()))
    }

    /// Returns the entries that hold `subject`, the narrowest first. The index was built from
    /// `entries`.
    pub fn holding<'i>(
        &'i self,
        entries: &'i [(ListEntry, u32)],
        subject: SubjectRef<'i>,
    ) -> impl Iterator<Item = UserMatch> + 'i {
        let holds = move |held: &UserMatch| {
            entries[held.place].0.pattern.users().is_some_and(|users| users.matches(subject))
        };
        self.0.iter().copied().filter(holds)
    }

    /// Returns all entries about users, the narrowest first.
    pub fn iter(&self) -> impl Iterator<Item = UserMatch> {
        self.0.iter().copied()
    }
}

const fn rank(pattern: UnixPattern) -> u8 {
    match pattern {
        UnixPattern::Any => 0,
        UnixPattern::Gid(_) => 1,
        UnixPattern::Uid(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::list::List;
    use crate::policy::unix::parse_subject;
    use jiff::Timestamp;

    /// Asserts which line decides on `subject`; 0 means none, and a negative line carves out.
    fn check(lines: &[&str], subject: &str, decides: i64) {
        let entries = lines.iter().zip(1..);
        let entries = entries.map(|(line, at)| (ListEntry::parse(line).unwrap().unwrap(), at));
        let list = List::new("list", "file", entries.collect()).unwrap();
        let subject = parse_subject(subject, &|_, _| None).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let found = list.decide(&subject, now).map_or(0, |(entry, line)| {
            if entry.admits { i64::from(line) } else { -i64::from(line) }
        });
        assert_eq!((found, list.admits(&subject, now)), (decides, decides > 0), "{lines:?}");
    }

    #[test]
    fn narrowest_pattern_of_users_decides() {
        let lines = ["unix", "!unix:uid=33", "unix:gid=44", "0.0.0.0/0"];
        check(&lines, "unix:uid=33", -2);
        check(&lines, "unix:uid=33,gid=44", -2);
        check(&lines, "unix:uid=34,gid=33,gid=44", 3);
        check(&lines, "unix:uid=34", 1);
        check(&["0.0.0.0/0", "::/0", "unix:uid=1"], "unix:uid=0", 0);
        check(&["!unix", "unix:gid=44"], "unix:uid=0,gid=44", 2);
    }

    #[test]
    fn next_wider_pattern_decides_after_a_lapse() {
        check(&["unix", "!unix:uid=33 expires=1960-12-31"], "unix:uid=33", 1);
        let twice = ["unix:uid=33 expires=1960-12-31", "unix:uid=33 expires=1980-12-31"];
        check(&twice, "unix:uid=33", 2);
    }

    #[test]
    fn pattern_with_both_signs_is_a_clash() {
        let both = ["unix:uid=33", "!unix:uid=33"];
        let both = both.map(|line| (ListEntry::parse(line).unwrap().unwrap(), 1));
        assert!(List::new("list", "file", both.into()).is_err());
    }
}
