//! Everything that the admin endpoints read or act on.

use std::path::PathBuf;
use std::sync::Arc;

use crate::addresses::BoundAddresses;
use crate::admin::rates::Rates;
use crate::control::reload::{Requests, Standing};
use crate::lifecycle::Lifecycle;
use crate::observe::log::Drops;
use crate::observe::metrics::Metrics;
use crate::observe::pulse::Pulses;
use crate::snapshot::Live;
use crate::tunnels::Tunnels;

/// The shared state of the admin endpoints.
pub struct Admin {
    /// The current snapshot; each answer loads it once.
    pub live: Arc<Live>,
    /// The table of live tunnels.
    pub tunnels: Arc<Tunnels>,
    /// All counters of the process.
    pub metrics: Arc<Metrics>,
    /// State of the files: outcome of the last reload, warnings, lists.
    pub standing: Arc<Standing>,
    /// Requests reloads and previews from the control plane.
    pub requests: Requests,
    /// The stage of the process; `POST /v1/drain` advances it.
    pub lifecycle: Arc<Lifecycle>,
    /// Detects stalled loops, for `/livez`.
    pub pulses: Arc<Pulses>,
    /// Number of log lines dropped since the start.
    pub drops: Drops,
    /// Path of the agent's `sidegate.toml`.
    pub config: PathBuf,
    /// The addresses that listeners are bound to.
    pub addresses: Arc<BoundAddresses>,
    /// Rates of each route over the last minute.
    pub rates: Rates,
}
