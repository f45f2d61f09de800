//! Both planes at run time: the data plane's threads, the control plane's tasks, and the drain that
//! ends them.
//!
//! Everything is bound and read before; this module decides no request and touches no file.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::AdminContext;
use crate::agent::admin_listeners::AdminListeners;
use crate::control::crl_watch::watch_crls;
use crate::control::identity_watch::watch_identities;
use crate::control::reload::{BindFn, ConfigStatus, Reloader};
use crate::control::resolve::Resolver;
use crate::control::systemd::{self, PassedSockets, StatusSources};
use crate::control::{malloc_trim, revoke};
use crate::data;
use crate::data::context::DataPlane;
use crate::data::listener::ListeningSocket;
use crate::handover::giver::Giver;
use crate::handover::peers::EarlierProcesses;
use crate::handover::rows_in::{self, RowsInDeps};
use crate::handover::taker::{JoinedTakeover, OpenTakeover};
use crate::lifecycle::{Drain, Stage};
use crate::observe::heartbeat::Heartbeats;
use crate::tunnels::EndOrder;

/// Time for cut tunnels to write their log lines and metrics.
const FINAL_LOG_TIMEOUT: Duration = Duration::from_millis(500);

/// Both planes, on the control plane's thread.
pub struct Planes {
    /// State that the data plane's threads share.
    pub plane: Arc<DataPlane>,
    /// Settings and diagnostics of the files.
    pub config_status: Arc<ConfigStatus>,
    /// The data plane's threads; empty before `run`.
    pub threads: Vec<JoinHandle<()>>,
    /// Owns every task of the control plane.
    pub tracker: TaskTracker,
    /// Heartbeats of the loops.
    pub heartbeats: Arc<Heartbeats>,
    /// Sockets of systemd and of the former process.
    pub passed: Arc<PassedSockets>,
}

/// The parts of the control plane, ready to run.
pub struct ControlPlane {
    /// The task that reloads.
    pub reloader: Reloader,
    /// The task that resolves the names of backends.
    pub resolver: Resolver,
    /// Binds the sockets that a reload adds.
    pub bind: BindFn,
    /// State that admin requests read.
    pub admin: Arc<AdminContext>,
    /// The sockets of `admin`, bound and not yet served.
    pub listening: AdminListeners,
    /// Hands over to a new process.
    pub giver: Giver,
    /// The former process of an upgrade. `None` means that there is none.
    pub takeover: Option<OpenTakeover>,
    /// The processes that keep tunnels from before an upgrade.
    pub peers: EarlierProcesses,
    /// Cancelled once another process reads the files, judges and counts.
    pub retired: CancellationToken,
}

impl Planes {
    /// Serves until a drain is over or was cut short. Each thread of the data plane receives its
    /// sockets from one of `sockets`.
    pub fn run(mut self, sockets: Vec<UnboundedReceiver<ListeningSocket>>, control: ControlPlane) {
        self.serve(sockets, control);
        self.plane.lifecycle.end();
    }

    fn serve(
        &mut self,
        sockets: Vec<UnboundedReceiver<ListeningSocket>>,
        mut control: ControlPlane,
    ) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return tracing::error!(%error, "the control plane's runtime cannot be started");
            }
        };
        let (end, ending) = watch::channel(false);
        runtime.block_on(async {
            let joined = match control.takeover.take() {
                Some(takeover) => self.join(takeover, &control).await,
                None => None,
            };
            self.start_threads(sockets, &ending);
            self.run_control(control, joined, &end).await;
        });
        for thread in self.threads.drain(..) {
            // A panic of the thread is in the log already.
            let _ = thread.join();
        }
        // A message to a manager that reads nothing may block its thread, and must not delay the
        // end.
        runtime.shutdown_timeout(FINAL_LOG_TIMEOUT);
    }

    /// Joins the former process of an upgrade. `None` means that it is gone.
    async fn join(&self, takeover: OpenTakeover, control: &ControlPlane) -> Option<JoinedTakeover> {
        let deps = RowsInDeps {
            tunnels: Arc::clone(&control.admin.tunnels),
            live: Arc::clone(&control.admin.live),
            metrics: Arc::clone(&self.plane.metrics),
            note_down: {
                let plane = Arc::clone(&self.plane);
                Arc::new(move |down| plane.note_backends_down(down))
            },
            retired: control.retired.clone(),
        };
        let join = |pid, link| {
            let (tx, synced) = oneshot::channel();
            self.tracker.spawn(rows_in::join(link, pid, deps.clone(), tx));
            // An error means that the process is gone, and so are its tunnels.
            async move { drop(synced.await) }
        };
        let joined = takeover.join(&control.peers, &self.tracker, join).await;
        joined.inspect_err(|error| tracing::error!(%error, "the former process is gone")).ok()
    }

    /// Runs the tasks of the control plane until a drain is over.
    async fn run_control(
        &mut self,
        control: ControlPlane,
        joined: Option<JoinedTakeover>,
        end: &watch::Sender<bool>,
    ) {
        let ControlPlane { reloader, resolver, bind, admin, listening, giver, retired, .. } =
            control;
        let stop = CancellationToken::new();
        let lifecycle = Arc::clone(&self.plane.lifecycle);
        let heartbeat = self.heartbeats.register("reload");
        // What only the newest process does ends with `retired`, all else with `stop`.
        let newest = retired.child_token();
        self.tracker.spawn(reloader.run(bind, heartbeat, newest.clone()));
        self.tracker.spawn(resolver.run(Arc::clone(&admin.live), stop.clone()));
        let metrics = Arc::clone(&self.plane.metrics);
        let looks = watch_identities(metrics, Arc::clone(&admin.live), newest.clone());
        self.tracker.spawn(looks);
        self.tracker.spawn(Arc::clone(&admin.bans).run(newest.clone()));
        self.tracker.spawn(Arc::clone(&admin.bouncer).run(newest.clone()));
        self.tracker.spawn(watch_crls(Arc::clone(&admin.live), newest.clone()));
        let tunnels = Arc::clone(&self.plane.tunnels);
        self.tracker.spawn(malloc_trim::trim_periodically(tunnels, stop.clone()));
        let (levels, ending) = (Arc::clone(&admin.log.levels), stop.clone());
        self.tracker.spawn(async move { ending.run_until_cancelled(levels.expire()).await });
        let (sampling, ending) = (Arc::clone(&admin), newest.clone());
        self.tracker.spawn(async move { ending.run_until_cancelled(sampling.sample()).await });
        let exporting = self.export_spans(&stop);
        listening.start(&self.tracker, &stop);
        self.report_to_manager(&admin, joined, newest.clone());
        let ending = stop.clone();
        self.tracker.spawn(async move { ending.run_until_cancelled(giver.run()).await });
        let mut stages = lifecycle.subscribe();
        // An error would mean that the lifecycle is gone, but `self` holds it.
        if let Ok(stage) = stages.wait_for(Stage::is_draining).await.map(|stage| *stage)
            && let Stage::Draining(drain) = stage
        {
            self.drain(drain, end).await;
        }
        newest.cancel();
        stop.cancel();
        self.tracker.close();
        exporting.wait().await;
    }

    /// Reports to systemd until `newest` is cancelled. In an upgrade it begins as the main process.
    fn report_to_manager(
        &self,
        admin: &Arc<AdminContext>,
        joined: Option<JoinedTakeover>,
        newest: CancellationToken,
    ) {
        let facts = StatusSources {
            live: Arc::clone(&admin.live),
            tunnels: Arc::clone(&admin.tunnels),
            config_status: Arc::clone(&self.config_status),
            metrics: Arc::clone(&self.plane.metrics),
        };
        let stage = self.plane.lifecycle.subscribe();
        let reports = systemd::run(facts, Arc::clone(&self.heartbeats), systemd::watchdog(), stage);
        let (bans, passed) = (Arc::clone(&admin.bans), Arc::clone(&self.passed));
        self.tracker.spawn(async move {
            if let Some(joined) = joined {
                let kept = newest.run_until_cancelled(joined.serve()).await.flatten();
                if let Some(kept) = &kept {
                    bans.adopt_text(&kept.bans);
                }
                passed.inherited().own_files();
                bans.look_at_folder();
                tracing::info!("this process serves in place of the former one");
            }
            newest.run_until_cancelled(reports).await
        });
    }

    /// Starts the threads of the data plane, which end with `ending`.
    fn start_threads(
        &mut self,
        sockets: Vec<UnboundedReceiver<ListeningSocket>>,
        ending: &watch::Receiver<bool>,
    ) {
        for (index, sockets) in sockets.into_iter().enumerate() {
            let (plane, ending) = (Arc::clone(&self.plane), ending.clone());
            let name = format!("data-{index}");
            // Registered before its thread starts, so that a thread that never starts is noticed as
            // well.
            let heartbeat = self.heartbeats.register(&*name);
            let thread = Builder::new().name(name).spawn(move || {
                if let Err(error) = data::run_thread(&plane, sockets, heartbeat, ending) {
                    tracing::error!(%error, "a data-plane thread ended");
                }
            });
            self.threads.extend(thread.ok());
        }
    }

    /// Starts the exporter of spans, in a binary that has one. It ends soon after `stop`.
    fn export_spans(&self, stop: &CancellationToken) -> TaskTracker {
        let tracker = TaskTracker::new();
        #[cfg(feature = "otlp")]
        {
            let (spans, settings) =
                (Arc::clone(&self.plane.spans), Arc::clone(&self.config_status));
            tracker.spawn(crate::control::otlp::export(spans, settings, stop.clone()));
        }
        #[cfg(not(feature = "otlp"))]
        let _ = stop;
        tracker.close();
        tracker
    }

    /// Carries out a drain (`docs/spec/wire.md`, "Drain"): lets everything end, and cuts the rest
    /// at the deadline or as soon as the lifecycle says so.
    async fn drain(&mut self, drain: Drain, end: &watch::Sender<bool>) {
        let (tunnels, lifecycle) = (&self.plane.tunnels, &self.plane.lifecycle);
        let spread = match lifecycle.is_orphan() {
            true => Duration::ZERO,
            false => self.config_status.settings.load().shutdown.spread,
        };
        tracing::info!(tunnels = tunnels.len(), exchanges = tunnels.exchanges_len(), "draining");
        let gone = async {
            sleep_until(drain.closing).await;
            // `closing` is cancelled, and the port closed, only after the stage says so. A client
            // that finds the port closed has seen the whole change: from here on, answers say
            // `Connection: close`.
            lifecycle.close();
            revoke::drain(tunnels, drain.code, spread).await;
            // The end of a thread can't be awaited without blocking, so it is polled.
            while self.threads.iter().any(|thread| !thread.is_finished()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let why = tokio::select! {
            gone = timeout_at(drain.deadline, gone) => match gone {
                Ok(()) => return tracing::info!("drained"),
                Err(_) => "deadline reached",
            },
            () = lifecycle.cutting().cancelled() => "second order to end",
        };
        let (left, exchanges) = (tunnels.entries(), tunnels.exchanges());
        tracing::warn!(
            tunnels = left.len(),
            exchanges = exchanges.len(),
            "{why}: closing the remaining connections"
        );
        lifecycle.cut();
        for entry in left.into_iter().chain(exchanges) {
            entry.end(EndOrder::Cut);
        }
        let last = Instant::now() + FINAL_LOG_TIMEOUT;
        // Cut tunnels end on their own threads, which have to write log lines and metrics first.
        while !(tunnels.is_empty() && tunnels.exchanges_len() == 0) && Instant::now() < last {
            sleep(Duration::from_millis(5)).await;
        }
        end.send_replace(true);
    }
}
