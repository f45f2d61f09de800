//! Mass closes, spread over a window: revocations after a reload, and the drain.
//!
//! Closing thousands at one instant is an outage of its own. This module only gives orders; the
//! tunnels and the exchanges in flight close themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::tunnels::{CloseOrder, EndOrder, LiveEntry, Tunnels};

/// Revokes `refused` evenly over `spread`. Skips tunnels that a later generation permits again.
pub async fn revoke(refused: Vec<Arc<LiveEntry>>, spread: Duration) {
    spread_over(refused, spread, |entry: &Arc<LiveEntry>| {
        entry.revoke_if_refused();
    })
    .await;
}

/// Closes `all` as an operator orders, evenly over `spread`. Entries that are ending
/// already keep their reason.
pub async fn close(all: Vec<Arc<LiveEntry>>, order: Arc<CloseOrder>, spread: Duration) {
    spread_over(all, spread, |entry: &Arc<LiveEntry>| {
        entry.end(EndOrder::Close(Arc::clone(&order)));
    })
    .await;
}

/// Ends every tunnel with `code`, evenly over `spread`, and the exchanges in flight among them.
/// Tunnels that wait for their revocation are revoked instead.
pub async fn drain(tunnels: &Tunnels, code: u16, spread: Duration) {
    let all = interleave(tunnels.entries(), tunnels.exchanges());
    spread_over(all, spread, |entry: &Arc<LiveEntry>| {
        entry.drain(code);
    })
    .await;
}

/// Merges both into one sequence, with the shorter one spread evenly over the longer one.
pub fn interleave<T>(many: Vec<T>, few: Vec<T>) -> Vec<T> {
    let (many, few) = if many.len() < few.len() { (few, many) } else { (many, few) };
    let (every, mut few) = (many.len().div_ceil(few.len().max(1)), few.into_iter());
    let mut all = Vec::with_capacity(many.len() + few.len());
    for (turn, one) in many.into_iter().enumerate() {
        all.push(one);
        if (turn + 1) % every == 0 {
            all.extend(few.next());
        }
    }
    // Rounding up `every` can leave some over.
    all.extend(few);
    all
}

/// Calls `order` for each of `all`, evenly over `spread`.
async fn spread_over<T>(all: Vec<T>, spread: Duration, order: impl Fn(&T)) {
    let began = Instant::now();
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX).max(1);
    // `count` is at least 1, so an empty list divides by no zero.
    let step = spread / count;
    for (turn, one) in (0u32..).zip(all) {
        // Measured from the start, so that delays do not add up.
        sleep_until(began + step * turn).await;
        order(&one);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn mass_close_is_spread_evenly() {
        let began = Instant::now();
        let ordered = RefCell::new(Vec::new());
        spread_over((0..5).collect(), Duration::from_secs(2), |turn: &u32| {
            ordered.borrow_mut().push((*turn, began.elapsed().as_millis()));
        })
        .await;
        assert_eq!(*ordered.borrow(), [(0, 0), (1, 400), (2, 800), (3, 1200), (4, 1600)]);
    }

    #[test]
    fn fewer_items_are_spread_among_more() {
        assert_eq!(interleave(vec![1, 2, 3, 4, 5], vec![10, 20]), [1, 2, 3, 10, 4, 5, 20]);
        assert_eq!(interleave(vec![10], vec![1, 2]), [1, 2, 10]);
        assert_eq!(interleave(vec![], vec![1, 2]), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn mass_close_of_nothing_takes_no_time() {
        let began = Instant::now();
        spread_over(Vec::<u32>::new(), Duration::from_secs(2), |_| unreachable!()).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
