//! Logs each revocation list that expires while the process runs, once.
//!
//! Changes nothing: TLS handshakes of the list's clients fail from that moment by the clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::snapshot::CurrentSnapshot;

/// Time between two looks at the clock.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the lists of the running generation until `stop`.
pub async fn watch_crls(live: Arc<CurrentSnapshot>, stop: CancellationToken) {
    // The start has already logged the lists that had expired by then.
    let mut known: BTreeSet<_> = live.load().expired_crls(Timestamp::now()).into_iter().collect();
    while stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_some() {
        let expired: BTreeSet<_> = live.load().expired_crls(Timestamp::now()).into_iter().collect();
        for sentence in expired.difference(&known) {
            tracing::warn!("{sentence}");
        }
        known = expired;
    }
}
