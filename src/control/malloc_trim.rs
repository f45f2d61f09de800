//! Returns memory that is not used to the system.
//!
//! glibc keeps freed memory for later allocations: 40 MB after nine thousand tunnels. The task here
//! only looks at the number of tunnels, every few seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::tunnels::Tunnels;

/// Time between two looks. Tunnels that close and open again within it reuse their memory.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// Number of closed tunnels that is worth the milliseconds of a trim.
const MIN_CLOSED_TUNNELS: usize = 256;

/// Trims after many tunnels have closed since the last trim. Runs until `stop`.
pub async fn trim_periodically(tunnels: Arc<Tunnels>, stop: CancellationToken) {
    let mut max = 0;
    while stop.run_until_cancelled(sleep(TRIM_INTERVAL)).await.is_some() {
        let open = tunnels.slots();
        // Includes peaks between two looks.
        max = tunnels.take_peak().max(max).max(open);
        // A quarter of the peak too, so that a process with many tunnels does not trim after each
        // small wave.
        if max - open >= MIN_CLOSED_TUNNELS.max(max / 4) {
            max = open;
            trim();
        }
    }
}

/// Trims each of the allocator's arenas in turn. A thread that allocates from one waits for it, up
/// to milliseconds.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own call is a C function")]
pub fn trim() {
    // SAFETY: `malloc_trim` (malloc_trim(3)) takes the allocator's own locks, and moves nothing
    // that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators return memory by themselves, or never.
#[cfg(not(target_env = "gnu"))]
pub fn trim() {}
