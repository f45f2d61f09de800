//! What the file of bans had at a start, or when another process let go of its folder.
//!
//! Two processes of one unit overlap during an upgrade. The later one has the bans that it read at
//! its start, and learns at the takeover what the earlier one changed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::control::bans::file::{MAX_BYTES, decode};
use crate::control::state_dir::StateDir;
use crate::policy::ban::{Ban, BanOrigin, BanSet};

/// Name of the file in the state folder.
pub const FILE: &str = "bans.json";

/// What tells a ban from all others of a set.
pub type BanKey = (BanOrigin, String);

/// Returns what tells `ban` from all others of a set.
pub fn key(ban: &Ban) -> BanKey {
    (ban.origin, ban.target.to_string())
}

/// Reads the file of bans. `None` means that there is none. A damaged file is set aside.
///
/// # Errors
/// A sentence that says what was wrong with it, and where it is now.
pub fn read(folder: &StateDir) -> Result<Option<Vec<Arc<Ban>>>, String> {
    let fault = match folder.read(FILE, MAX_BYTES) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match decode(&bytes) {
            Ok(bans) => return Ok(Some(bans)),
            Err(fault) => format!("is damaged ({fault})"),
        },
        Err(error) => format!("cannot be read ({error})"),
    };
    // Whatever it is, the next write must not replace it.
    let moved = folder.set_aside_sentence(FILE);
    let path = folder.path(FILE);
    Err(format!("kept bans are not in force: {} {fault}; {moved}", path.display()))
}

/// Brings the changes from `base` to `file` into `ours`, and returns the bans that begin and those
/// that end by it. Where both sides changed a ban, it holds, and the later order counts.
pub fn take_over(
    ours: &BanSet,
    base: &[Arc<Ban>],
    file: &[Arc<Ban>],
    now: Timestamp,
) -> (Vec<Arc<Ban>>, Vec<Arc<Ban>>) {
    let by_key = |bans: &[Arc<Ban>]| -> BTreeMap<BanKey, Arc<Ban>> {
        let holding = bans.iter().filter(|ban| !ban.lapsed(now));
        holding.map(|ban| (key(ban), Arc::clone(ban))).collect()
    };
    let (base, file) = (by_key(base), by_key(file));
    let ours: BTreeMap<_, _> = ours.ordered().map(|ban| (key(ban), Arc::clone(ban))).collect();
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    for key in base.keys().chain(file.keys()).collect::<BTreeSet<_>>() {
        let (base, theirs, ours) = (base.get(key), file.get(key), ours.get(key));
        if theirs == base || theirs == ours {
            continue;
        }
        match (theirs, ours) {
            (Some(theirs), Some(ours)) if ours.since > theirs.since => {}
            (Some(theirs), _) => begin.push(Arc::clone(theirs)),
            (None, Some(ours)) if Some(ours) == base => end.push(Arc::clone(ours)),
            (None, _) => {}
        }
    }
    (begin, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ban::BanTarget;

    fn ban(last: u8, since: i64) -> Arc<Ban> {
        let target = BanTarget::of_address([192, 0, 2, last].into());
        let (origin, since) = (BanOrigin::Operator, Timestamp::from_second(since).unwrap());
        Arc::new(Ban { target, until: None, why: "x".into(), origin, since, by: None })
    }

    #[test]
    fn changes_of_the_former_owner_are_taken_over() {
        let base = [ban(1, 0), ban(2, 0), ban(3, 0), ban(4, 0)];
        // The former owner lifted 2 and 3, renewed 4, and banned 5 and 6.
        let file = [ban(1, 0), ban(4, 5), ban(5, 5), ban(6, 5)];
        // This process lifted 1 and 4, renewed 3, and banned 6 and 7.
        let ours = BanSet::new([ban(2, 0), ban(3, 6), ban(6, 6), ban(7, 6)]);
        let (begin, end) = take_over(&ours, &base, &file, Timestamp::UNIX_EPOCH);
        assert_eq!(begin, [ban(4, 5), ban(5, 5)]);
        assert_eq!(end, [ban(2, 0)]);
    }

    #[test]
    fn ban_that_ended_meanwhile_is_not_taken_over() {
        let short = Ban { until: Some(Timestamp::from_second(9).unwrap()), ..(*ban(1, 0)).clone() };
        let ours = BanSet::default();
        let short = [Arc::new(short)];
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(take_over(&ours, &[], &short, at(8)).0, short);
        assert!(take_over(&ours, &[], &short, at(9)).0.is_empty());
    }
}
