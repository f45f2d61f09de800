//! The bans in force, beside the generations: all of them share one set.
//!
//! A change is a swap of the whole set, so that a decision sees it before or after, never between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::policy::ban::{Ban, BanSet};
use crate::policy::subject::SubjectRef;

/// The bans of the process.
#[derive(Default)]
pub struct Bans {
    /// Number of bans. Decisions read it first: without bans they look no further.
    count: AtomicUsize,
    /// Number of swaps. It is advanced after the swap, and read before the set.
    version: AtomicU64,
    set: ArcSwap<BanSet>,
}

impl Bans {
    /// Returns the ban that holds `subject` at the time `now`.
    pub fn find<'s>(&self, subject: impl Into<SubjectRef<'s>>, now: Timestamp) -> Option<Arc<Ban>> {
        // Relaxed: a decision beside the swap may fall on either side, and a tunnel that enters
        // meanwhile is judged again by its version.
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // `load` leaves the reference count of the set alone, which all threads would contend for.
        self.set.load().find(subject, now).cloned()
    }

    /// The number of swaps so far. A verdict that was given under an older one may be out of date.
    pub fn version(&self) -> u64 {
        // Pairs with the increment in `replace`: after a new version, the new set is visible.
        self.version.load(Ordering::SeqCst)
    }

    /// Returns the set in force.
    pub fn load(&self) -> Arc<BanSet> {
        self.set.load_full()
    }

    /// Makes `next` the set in force. Only the control plane calls it, one call at a time.
    pub fn replace(&self, next: BanSet) {
        let count = next.len();
        // Raised before the swap and lowered behind it: a set with bans is never skipped.
        self.count.fetch_max(count, Ordering::SeqCst);
        self.set.store(Arc::new(next));
        self.count.store(count, Ordering::SeqCst);
        // Advanced last. A verdict between the swap and this line has the new set and the old
        // version, and is given once more; the reverse would let a banned client in.
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ban::{BanOrigin, BanTarget};
    use crate::policy::network::Client;

    #[test]
    fn swap_is_seen_and_advances_the_version() {
        let (bans, now) = (Bans::default(), Timestamp::UNIX_EPOCH);
        let client = Client::new([192, 0, 2, 7].into());
        assert!(bans.find(client, now).is_none());
        let version = bans.version();
        let target = BanTarget::parse_client("192.0.2.0/24").unwrap();
        let (until, why, origin) = (None, "x".into(), BanOrigin::Operator);
        let ban = Arc::new(Ban { target, until, why, origin, since: now, by: Some(0) });
        bans.replace(BanSet::new([Arc::clone(&ban)]));
        assert_eq!(bans.find(client, now), Some(ban));
        assert!(bans.version() > version);
        bans.replace(BanSet::default());
        assert!(bans.find(client, now).is_none() && bans.load().is_empty());
    }
}
