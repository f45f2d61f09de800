//! A ring that is bounded in the count and in the bytes of its items.
//!
//! The ring knows no clock: each item brings its time.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

/// The most items and bytes of a ring. Zero of either means off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingBounds {
    /// The most items of a ring.
    pub count: usize,
    /// The most bytes of all items.
    pub bytes: usize,
}

impl RingBounds {
    /// Whether nothing is kept.
    pub const fn is_off(self) -> bool {
        self.count == 0 || self.bytes == 0
    }

    /// The bounds of each of `parts` rings.
    pub fn divided(self, parts: usize) -> RingBounds {
        // Rounded down, so that all parts together never exceed the whole.
        let parts = parts.max(1);
        RingBounds { count: self.count / parts, bytes: self.bytes / parts }
    }
}

/// An item of a ring.
pub trait RingItem {
    /// The memory that it takes.
    fn bytes(&self) -> usize;

    /// The time that it is about.
    fn at(&self) -> Timestamp;
}

impl<T: RingItem> RingItem for Arc<T> {
    fn bytes(&self) -> usize {
        // The two counters of the allocation, and the place in the ring.
        3 * size_of::<usize>() + (**self).bytes()
    }

    fn at(&self) -> Timestamp {
        (**self).at()
    }
}

/// The newest items within the bounds, in the order of their arrival.
pub struct Ring<T> {
    items: VecDeque<T>,
    bytes: usize,
    bounds: RingBounds,
    /// The latest time of an item that was dropped.
    dropped_at: Timestamp,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Ring {
            items: VecDeque::new(),
            bytes: 0,
            bounds: RingBounds::default(),
            dropped_at: Timestamp::MIN,
        }
    }
}

impl<T: RingItem> Ring<T> {
    /// Adds the newest item, and drops the oldest until the ring is within its bounds.
    pub fn push(&mut self, item: T) {
        // Added before the bounds are applied: an item that exceeds them by itself is dropped too,
        // and `complete_after` then knows of it.
        self.bytes += item.bytes();
        self.items.push_back(item);
        self.shrink();
    }

    /// Changes the bounds, and drops the oldest items that exceed them.
    pub fn set_bounds(&mut self, bounds: RingBounds) {
        self.bounds = bounds;
        self.shrink();
        if bounds.is_off() {
            // The memory of the table itself is given back too.
            self.items = VecDeque::new();
        }
    }

    /// The items from the newest to the oldest.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().rev()
    }

    /// The time after which the ring has every item that was pushed.
    pub const fn complete_after(&self) -> Timestamp {
        self.dropped_at
    }

    fn shrink(&mut self) {
        while self.items.len() > self.bounds.count || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.items.pop_front() else { break };
            self.bytes -= oldest.bytes();
            // The clock may have been set back, so the latest is not always the last.
            self.dropped_at = self.dropped_at.max(oldest.at());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Item {
        number: usize,
        bytes: usize,
        second: i64,
    }

    impl RingItem for Item {
        fn bytes(&self) -> usize {
            self.bytes
        }

        fn at(&self) -> Timestamp {
            Timestamp::from_second(self.second).unwrap()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize, i64),
        Bounds(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            9 => (0usize..50, 0i64..100).prop_map(|(bytes, second)| Step::Push(bytes, second)),
            1 => (0usize..12, 0usize..200).prop_map(|(count, bytes)| Step::Bounds(count, bytes)),
        ]
    }

    /// The newest of `all` within the bounds, by counting from the newest, without what an earlier
    /// step has dropped.
    fn kept(all: &[Item], bounds: RingBounds) -> Vec<Item> {
        let mut bytes = 0;
        let fits = |(at, item): &(usize, &Item)| {
            bytes += item.bytes;
            *at < bounds.count && bytes <= bounds.bytes
        };
        all.iter().rev().enumerate().take_while(fits).map(|(_, item)| item.clone()).collect()
    }

    proptest! {
        #[test]
        fn ring_is_a_bounded_suffix_of_all_items(
            steps in proptest::collection::vec(step(), 1..80)
        ) {
            let (mut ring, mut model) = (Ring::default(), Vec::<Item>::new());
            let mut bounds = RingBounds { count: 8, bytes: 150 };
            let mut dropped = Timestamp::MIN;
            ring.set_bounds(bounds);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(bytes, second) => {
                        let item = Item { number, bytes, second };
                        model.push(item.clone());
                        ring.push(item);
                    }
                    Step::Bounds(count, bytes) => {
                        bounds = RingBounds { count, bytes };
                        ring.set_bounds(bounds);
                    }
                }
                let newest = kept(&model, bounds);
                let gone = model.len() - newest.len();
                for item in model.drain(..gone) {
                    dropped = dropped.max(item.at());
                }
                let found: Vec<_> = ring.iter().cloned().collect();
                prop_assert_eq!(&found, &newest);
                prop_assert_eq!(ring.bytes, newest.iter().map(|item| item.bytes).sum::<usize>());
                prop_assert!(ring.items.len() <= bounds.count && ring.bytes <= bounds.bytes);
                prop_assert_eq!(ring.complete_after(), dropped);
            }
        }
    }

    #[test]
    fn ring_that_is_off_gives_its_memory_back() {
        let mut ring = Ring::default();
        ring.set_bounds(RingBounds { count: 1000, bytes: 1 << 20 });
        (0..1000).for_each(|number| ring.push(Item { number, bytes: 10, second: 1 }));
        assert!(ring.items.capacity() >= 1000);
        ring.set_bounds(RingBounds { count: 0, bytes: 1 << 20 });
        assert_eq!((ring.items.capacity(), ring.bytes), (0, 0));
    }
}
