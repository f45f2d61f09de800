//! Both planes while they run: the data plane's threads, the control plane's tasks, and the drain that ends them.
//!
//! Everything was bound and read before; this decides no request and touches no file.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{Admin, AdminListener, MetricsListener, Order, Served};
use crate::control::reload::{Bind, Reloader, Standing};
use crate::control::systemd::{self, Facts, Phase};
use crate::control::{revoke, spare};
use crate::data::listener::Accepting;
use crate::data::{self, Shared};
use crate::observe::pulse::Pulses;
use crate::tunnels::End;

/// How long a cut tunnel has for its last words on the books.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Both planes, on the control plane's thread.
pub struct Planes {
    /// What the data plane's threads share.
    pub shared: Arc<Shared>,
    /// What stands in the files.
    pub standing: Arc<Standing>,
    /// The data plane's threads; none to begin with.
    pub threads: Vec<JoinHandle<()>>,
    /// Every task of the control plane.
    pub tracker: TaskTracker,
    /// Orders from outside.
    pub told: mpsc::Receiver<Order>,
    /// Where the process stands, for systemd.
    pub phase: watch::Sender<Phase>,
    /// Whether the loops turn.
    pub pulses: Arc<Pulses>,
}

/// What answers those who ask and command.
pub struct Serving {
    /// What they are told from.
    pub admin: Arc<Admin>,
    /// Those who ask for metrics.
    pub scrapes: Arc<Served<MetricsListener>>,
    /// Those who command.
    pub asks: Arc<Served<AdminListener>>,
}

impl Planes {
    /// Serves until a drain is over, or was cut short; `ended` is true then.
    pub fn run(
        mut self,
        sockets: Vec<UnboundedReceiver<Accepting>>,
        (reloader, rebind): (Reloader, Bind),
        Serving { admin, scrapes, asks }: Serving,
        ended: &watch::Sender<bool>,
    ) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the control plane has no runtime");
                ended.send_replace(true);
                return;
            }
        };
        let (end, ending) = watch::channel(false);
        for (index, sockets) in sockets.into_iter().enumerate() {
            let (shared, ending) = (Arc::clone(&self.shared), ending.clone());
            let name = format!("data-{index}");
            // Begun before its thread, so that one that never comes is missed as well.
            let pulse = self.pulses.begin(&*name);
            let thread = Builder::new().name(name).spawn(move || {
                if let Err(error) = data::run_thread(&shared, sockets, pulse, ending) {
                    tracing::error!(%error, "a data-plane thread ended");
                }
            });
            self.threads.extend(thread.ok());
        }
        runtime.block_on(async {
            let stop = CancellationToken::new();
            let facts = Facts {
                live: Arc::clone(&admin.live),
                tunnels: Arc::clone(&admin.tunnels),
                standing: Arc::clone(&self.standing),
            };
            let (pulses, phase) = (Arc::clone(&self.pulses), self.phase.subscribe());
            self.tracker.spawn(systemd::supervise(facts, pulses, systemd::watchdog(), phase));
            self.tracker.spawn(reloader.run(rebind, self.pulses.begin("reload"), stop.clone()));
            self.tracker.spawn(spare::give_back(Arc::clone(&self.shared.tunnels), stop.clone()));
            scrapes.begin(&self.tracker, &stop);
            asks.begin(&self.tracker, &stop);
            // `None`: the agent was dropped.
            let _first = self.told.recv().await;
            self.drain(&end).await;
            stop.cancel();
            self.tracker.close();
        });
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        runtime.shutdown_timeout(LAST_WORDS);
        ended.send_replace(true);
    }

    /// Lets everything end (SEMANTICS, "drain"), and cuts what is left at the deadline or a second order.
    async fn drain(&mut self, end: &watch::Sender<bool>) {
        let settings = self.standing.settings.load().shutdown.clone();
        let tunnels = &self.shared.tunnels;
        tracing::info!(tunnels = tunnels.len(), exchanges = tunnels.exchanges_len(), "draining");
        self.shared.metrics.drains();
        let until = Instant::now() + settings.delay + settings.deadline;
        self.phase.send_replace(Phase::Drains(until));
        let gone = async {
            sleep(settings.delay).await;
            // Who finds the port closed has seen all of it: what is answered from then on says `Connection: close`.
            tunnels.drain(settings.code);
            self.shared.finish.cancel();
            self.shared.stop_accepting.cancel();
            revoke::drain(tunnels, settings.code, settings.spread).await;
            while self.threads.iter().any(|thread| !thread.is_finished()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            gone = timeout_at(until, gone) => if gone.is_ok() {
                tracing::info!("drained");
                return;
            },
            _second = self.told.recv() => {}
        }
        let (left, exchanges) = (tunnels.entries(), tunnels.exchanges());
        tracing::warn!(tunnels = left.len(), exchanges = exchanges.len(), "cutting what is left");
        self.shared.cut.cancel();
        self.shared.stop_accepting.cancel();
        self.shared.finish.cancel();
        for entry in left.into_iter().chain(exchanges) {
            entry.end(End::Cut);
        }
        let last = Instant::now() + LAST_WORDS;
        while !(tunnels.is_empty() && tunnels.exchanges_len() == 0) && Instant::now() < last {
            sleep(Duration::from_millis(5)).await;
        }
        end.send_replace(true);
    }
}
