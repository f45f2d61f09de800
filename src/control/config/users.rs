//! The numbers of this host's users and groups, by name.
//!
//! The C library looks names up where the host keeps them (nsswitch.conf(5)): in files, in a
//! directory service, or in systemd. A change there counts from the next reload on.

use nix::unistd::{Group, User};

use super::placeholder_ids::placeholder_id;
use crate::policy::unix::IdKind;

/// The id of a name. `None` means that there is none such, or that it can't be looked up.
pub fn resolve(kind: IdKind, name: &str) -> Option<u32> {
    // A failed look-up counts as no such name: a rule never rests on a guess.
    let known = match kind {
        IdKind::User => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
        IdKind::Group => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    known.or_else(|| placeholder_id(kind, name))
}

/// The id of a group, by its name or by its number, which need not exist.
pub fn group_id(group: &str) -> Option<u32> {
    // Numbers last: a group may have digits for a name.
    let known = Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw());
    let known = known.or_else(|| group.parse().ok());
    known.or_else(|| placeholder_id(IdKind::Group, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_numbers_taken() {
        assert_eq!(resolve(IdKind::User, "root"), Some(0));
        assert_eq!(resolve(IdKind::User, "no-such-user"), None);
        assert_eq!(resolve(IdKind::User, ""), None);
        let groups = ["root", "4711", "no-such-group"].map(group_id);
        assert_eq!(groups, [Some(0), Some(4711), None]);
    }
}
