//! Everything that the admin endpoints read or act on.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use crate::addresses::BoundAddresses;
use crate::admin::history::ActivityHistory;
use crate::admin::rates::RateHistory;
use crate::control::bans::BanKeeper;
use crate::control::crowdsec::Bouncer;
use crate::control::reload::{ConfigStatus, ReloaderHandle};
use crate::handover::request::UpgradeHandle;
use crate::lifecycle::Lifecycle;
use crate::observe::heartbeat::Heartbeats;
use crate::observe::log::LogHandle;
use crate::observe::metrics::Metrics;
use crate::observe::recent::RecentDecisions;
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::Tunnels;

/// The shared state of the admin endpoints.
pub struct AdminContext {
    /// The current snapshot; each answer loads it once.
    pub live: Arc<CurrentSnapshot>,
    /// The table of live tunnels.
    pub tunnels: Arc<Tunnels>,
    /// All counters of the process.
    pub metrics: Arc<Metrics>,
    /// The recent decisions of all threads.
    pub recent: Arc<RecentDecisions>,
    /// Owns the tasks that close tunnels.
    pub tracker: TaskTracker,
    /// State of the files: outcome of the last reload, warnings, lists.
    pub config_status: Arc<ConfigStatus>,
    /// Requests reloads and previews from the control plane.
    pub requests: ReloaderHandle,
    /// The stage of the process; `POST /v1/drain` advances it.
    pub lifecycle: Arc<Lifecycle>,
    /// Detects stalled loops, for `/livez`.
    pub heartbeats: Arc<Heartbeats>,
    /// The log: dropped lines, and the filter.
    pub log: LogHandle,
    /// Path of the agent's `sidegate.toml`.
    pub config: PathBuf,
    /// The addresses that listeners are bound to.
    pub addresses: Arc<BoundAddresses>,
    /// Orders, lifts and keeps the bans.
    pub bans: Arc<BanKeeper>,
    /// Brings the decisions of CrowdSec to the bans.
    pub bouncer: Arc<Bouncer>,
    /// Hands over to a new process.
    pub upgrades: UpgradeHandle,
    /// Rates of each route over the last minute.
    pub rates: RateHistory,
    /// Rates of the whole process over the last fifteen minutes.
    pub history: ActivityHistory,
}

impl AdminContext {
    /// Samples the counters every few seconds, for ever.
    pub async fn sample(&self) {
        let routes = || self.metrics.totals(&self.live.load(), &self.tunnels.entries());
        let all = || (self.tunnels.len() as u64, self.metrics.activity());
        // Neither ends by itself.
        tokio::join!(self.rates.sample(routes), self.history.sample(all));
    }
}

impl AdminContext {
    /// Sentences about the files of bans, and about CrowdSec.
    pub fn ban_faults(&self) -> Vec<String> {
        let mut all = self.bans.faults();
        all.extend(self.bouncer.report().warnings(Timestamp::now()));
        all
    }
}
