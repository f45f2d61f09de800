//! Gives the memory that closed tunnels leave behind back to the system.
//!
//! glibc keeps what is freed, for the next who asks: after nine thousand tunnels 40 MB. It asks now and then how many there
//! have been, and knows nothing else of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::tunnels::Tunnels;

/// How often it looks. What closes meanwhile may be opened again, and then its memory is wanted.
const LOOK: Duration = Duration::from_secs(5);

/// So many closed tunnels are worth the milliseconds that it takes.
const MANY: usize = 256;

/// Looks until `stop`.
pub async fn give_back(tunnels: Arc<Tunnels>, stop: CancellationToken) {
    let mut most = 0;
    while stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
        let open = tunnels.slots();
        most = tunnels.take_most().max(most).max(open);
        if most - open >= MANY.max(most / 4) {
            most = open;
            trim();
        }
    }
}

/// Each of the allocator's arenas, one after the other; whoever allocates from one waits for it, up to milliseconds.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own call is a C function")]
fn trim() {
    // SAFETY: `malloc_trim` (malloc_trim(3)) takes the allocator's own locks, and moves nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give back by themselves, or never.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
