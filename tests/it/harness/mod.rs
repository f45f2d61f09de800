//! The three nouns of an end-to-end test: a backend, a sidegate in front of it, clients.
//!
//! Each is made with a builder and is ready when `run` (or `open`) returns; ports are free ones,
//! files lie in a temporary folder, and every wait has a limit.

pub mod backend;
pub mod certificate;
pub mod client;
pub mod fake;
pub mod names;
pub mod process;
pub mod sidegate;
pub mod sockets;
pub mod tls;
pub mod unit;
pub mod wire;

use std::future::Future;
use std::time::Duration;

/// Limit of every wait, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Awaits `what`, and panics with its name if it takes too long.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
