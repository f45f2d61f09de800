//! Mass closes, spread over a window: revocations after a reload, and the drain.
//!
//! Closing thousands at one instant is an outage of its own. It orders; the
//! tunnels themselves close.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::tunnels::{End, Entry, Tunnels};

/// Revokes `refused` evenly over `spread`; one that a later generation permits again is left alone.
pub async fn revoke(refused: Vec<Arc<Entry>>, spread: Duration) {
    pace(refused, spread, |entry| {
        entry.revoke_if_refused();
    })
    .await;
}

/// Ends every tunnel with `code`, evenly over `spread`.
pub async fn drain(tunnels: &Tunnels, code: u16, spread: Duration) {
    pace(tunnels.entries(), spread, |entry| {
        entry.end(End::Drain(code));
    })
    .await;
}

async fn pace(entries: Vec<Arc<Entry>>, spread: Duration, order: impl Fn(&Entry)) {
    let began = Instant::now();
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
    let step = spread / count;
    for (turn, entry) in (0u32..).zip(entries) {
        sleep_until(began + step * turn).await;
        order(&entry);
    }
}
