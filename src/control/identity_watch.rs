//! Looks every few seconds whether the clients of each listener can be told apart.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::observe::metrics::{IDENTITY_LOOK_INTERVAL, Metrics};
use crate::snapshot::CurrentSnapshot;

/// Looks at the counts of `metrics` until `stop`.
pub async fn watch_identities(
    metrics: Arc<Metrics>,
    live: Arc<CurrentSnapshot>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(sleep(IDENTITY_LOOK_INTERVAL)).await.is_some() {
        metrics.look_at_identities(&live.load());
    }
}
