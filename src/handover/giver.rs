//! The side of the old process: starts the new program, and gives it everything once it can serve.
//!
//! Each step before the release can be undone by killing the new process. Nothing that fails
//! afterwards is ours: the new process serves.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::control::bans::BanKeeper;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::reconcile::Reconcile;
use crate::control::reload::{ReloadContext, ReloaderHandle, wait_for_lapse};
use crate::control::systemd;
use crate::data::backend::DownBackend;
use crate::handover::binary;
use crate::handover::channel::Channel;
use crate::handover::link::Link;
use crate::handover::offer::{HandoverFrame, KeptText, Offer, SCHEMA};
use crate::handover::peers::EarlierProcesses;
use crate::handover::pump::{Pump, PumpFrame};
use crate::handover::request::{HandoverOutcome, PendingOrder, UpgradeOrder, UpgradeReceiver};
use crate::handover::rows_out;
use crate::handover::successor::{Gifts, KeptSuccessor, Successor};
use crate::inherited_sockets::SharedSocket;
use crate::lifecycle::DrainOptions;

/// Time between two looks whether the last connection of a released process has ended.
const OVER_INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait for the next lapse: the clock may be set meanwhile.
const MAX_LAPSE_WAIT: Duration = Duration::from_secs(30);

/// Time for the service manager to take a message.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);

/// The data plane and its listening sockets.
pub trait ServingPlane: Send + Sync {
    /// Duplicates of all of them.
    ///
    /// # Errors
    /// No descriptor is left.
    fn share(&self) -> io::Result<Vec<SharedSocket>>;

    /// Accepts no more, and leaves all queues and files to the new process.
    fn release(&self);

    /// Number of connections of clients that are open.
    fn connections(&self) -> usize;

    /// The addresses of backends whose last dial failed.
    fn backends_down(&self) -> Vec<DownBackend>;
}

/// The parts of the process that an upgrade acts on.
pub struct GiverDeps {
    /// What a reload acts on.
    pub context: ReloadContext,
    /// Suspends reloads while two processes load the files.
    pub requests: ReloaderHandle,
    /// The bans in force.
    pub bans: Arc<BanKeeper>,
    /// The data plane with all listening sockets.
    pub sockets: Arc<dyn ServingPlane>,
    /// The processes of earlier upgrades.
    pub peers: EarlierProcesses,
    /// Cancelled once the new process alone reads files, judges and counts.
    pub retired: CancellationToken,
    /// The path by which the process was started.
    pub started_by: PathBuf,
}

/// Carries out upgrades, one at a time.
pub struct Giver {
    deps: GiverDeps,
    receiver: UpgradeReceiver,
}

/// A process that has handed over.
struct Released {
    successor: KeptSuccessor,
    /// The links to the newest process, and to its successor during a further upgrade.
    links: Vec<Pump>,
    until: Instant,
}

impl Giver {
    /// The task that carries out the orders of `receiver`.
    pub fn new(deps: GiverDeps, receiver: UpgradeReceiver) -> Giver {
        Giver { deps, receiver }
    }

    /// Carries out orders until one has succeeded, and then waits for the last connection.
    pub async fn run(mut self) {
        while let Some(PendingOrder { order, tx }) = self.receiver.orders.recv().await {
            let done = self.upgrade(&order).await;
            let (outcome, released) = match done {
                Ok((outcome, released)) => (Ok(outcome), released),
                Err(sentence) => {
                    tracing::error!("not upgraded: {sentence}");
                    (Err(sentence), None)
                }
            };
            // A caller that has left reads the log.
            let _ = tx.send(outcome);
            if let Some(released) = released {
                drop(self.receiver);
                return outlive(&self.deps, released).await;
            }
        }
    }

    async fn upgrade(
        &self,
        order: &UpgradeOrder,
    ) -> Result<(HandoverOutcome, Option<Released>), String> {
        let until = Instant::now() + order.deadline;
        let binary = self.check(order)?;
        // Until it is dropped, saved files wait: both processes have to load the same ones. A
        // request to reload waits as well, and is dropped with the reloader after a success.
        let suspended = timeout_at(until, self.deps.requests.suspend()).await;
        let suspended = suspended.map_err(|_| "a reload is under way, and does not end")?;
        let _suspended = suspended.ok_or("the agent is ending")?;
        self.check_files()?;
        tracing::info!(binary = %binary.display(), "upgrading: the new program loads the files");
        let late =
            || format!("it was not ready within {} s, and was killed", order.deadline.as_secs());
        let mut trial = Successor::start(&binary).map_err(|error| not_started(&binary, &error))?;
        let tried = self.prepare(&mut trial, true);
        let prepared = timeout_at(until, tried).await.map_err(|_| late())??;
        trial.expect_exit().await?;
        let outcome = |pid, tunnels, is_announced| HandoverOutcome {
            pid,
            version: prepared.version.clone(),
            binary: binary.clone(),
            tunnels,
            is_announced,
            deadline: self.time_to_drain(),
        };
        if order.is_trial {
            return Ok((outcome(None, 0, false), None));
        }
        let mut successor =
            Successor::start(&binary).map_err(|error| not_started(&binary, &error))?;
        let switched = timeout_at(until, self.switch(&mut successor)).await;
        let pump = switched.map_err(|_| late()).and_then(|switched| switched)?;
        // Before anything is given up. The end of a process that systemd takes for the main one is
        // that of the service, so that a manager which cannot be told has to stop the upgrade.
        let announced = self.announce(successor.pid()).await;
        let is_announced = announced.inspect_err(|_| pump.close.cancel())?;
        // Nothing from here on fails.
        let pid = successor.pid();
        let tunnels = self.own_tunnels();
        self.release(&pump).await;
        tracing::info!(
            process = pid,
            version = prepared.version,
            tunnels,
            "upgraded: the new process serves, and this one keeps its tunnels until they end"
        );
        let released = Released {
            successor: successor.keep(),
            links: vec![pump],
            until: Instant::now() + self.time_to_drain(),
        };
        Ok((outcome(Some(pid), tunnels, is_announced), Some(released)))
    }

    /// Number of open tunnels that this process keeps, and not one before it.
    fn own_tunnels(&self) -> usize {
        let entries = self.deps.context.tunnels.entries();
        entries.iter().filter(|entry| entry.process.is_none()).count()
    }

    fn time_to_drain(&self) -> Duration {
        self.deps.context.config_status.settings.load().shutdown.deadline_upgrade
    }

    /// Checks what needs no new process.
    fn check(&self, order: &UpgradeOrder) -> Result<PathBuf, String> {
        if std::process::id() == 1 {
            return Err("this is process 1 of a container, which ends with it: replace the image \
                        instead"
                .into());
        }
        // The new process gets the arguments of this one, and a demo would begin another demo.
        if std::env::args_os().nth(1).is_none_or(|verb| verb != "run") {
            return Err("only an agent that `sidegate run` has started can hand over".into());
        }
        if self.deps.context.lifecycle.is_draining() {
            return Err("draining: nothing is handed over any more".into());
        }
        // Its end would look like that of the service, and systemd would kill the new process.
        if systemd::is_deaf() {
            return Err("systemd cannot be told of the new main process: the unit needs \
                        Type=notify and NotifyAccess=main"
                .into());
        }
        binary::check(order.binary.as_ref().unwrap_or(&self.deps.started_by))
    }

    /// Checks that the saved files are the running ones.
    fn check_files(&self) -> Result<(), String> {
        let rejected = self.deps.context.config_status.rejected.load();
        let Some(rejected) = rejected.as_ref() else { return Ok(()) };
        let first = rejected.iter().find(|one| one.is_error()).map(Diagnostic::one_line);
        Err(format!(
            "the saved files are rejected, so that no process could start with them; mend them \
             first: {}",
            first.unwrap_or_default()
        ))
    }

    /// Lets `successor` load and take everything.
    async fn prepare(
        &self,
        successor: &mut Successor,
        is_trial: bool,
    ) -> Result<crate::handover::offer::Prepared, String> {
        let GiverDeps { context, sockets, peers, .. } = &self.deps;
        let live = context.live.load_full();
        let offer = Offer {
            schema: SCHEMA,
            pid: std::process::id(),
            config: context.config.clone(),
            generation: live.generation,
            is_trial,
        };
        let no_room = |error: io::Error| format!("its sockets cannot be duplicated: {error}");
        // systemd's sockets keep their names: the new process finds them as if systemd had passed
        // them.
        let mut all = context.passed.share().map_err(no_room)?;
        all.extend(sockets.share().map_err(no_room)?);
        // A trial must not make earlier processes list their tunnels.
        let peers = if is_trial { Vec::new() } else { peers.invite().map_err(no_room)? };
        let prepared = successor.prepare(&offer, Gifts { sockets: all, peers }).await?;
        if prepared.digest != *live.digest {
            return Err(format!(
                "it has loaded files with the digest {}, and {} runs: they were saved just now; \
                 reload first",
                prepared.digest, live.digest
            ));
        }
        Ok(prepared)
    }

    /// Brings `successor` to accept beside this process.
    async fn switch(&self, successor: &mut Successor) -> Result<Pump, String> {
        self.prepare(successor, false).await?;
        let channel = successor.take_channel().ok_or("it has no channel")?;
        let tracker = &self.deps.context.tracker;
        let (mut pump, link) = Pump::start(channel, tracker);
        // Also if this future is dropped at the deadline.
        let undo = pump.close.clone().drop_guard();
        // The new process reads the order first, and then the rows. It accepts once all have come,
        // so that it knows the holder of each place before it admits a client.
        let gone = "it has ended before it accepted";
        let go = HandoverFrame::Go(self.kept());
        pump.control_tx.send((go, Vec::new())).map_err(|_| gone)?;
        serve_rows(&self.deps, link);
        match pump.control_rx.recv().await {
            Some((HandoverFrame::Serving, _)) => {}
            Some((HandoverFrame::Failed(sentence), _)) => return Err(sentence),
            Some(_) => return Err("it does not know how to take over".into()),
            None => return Err(successor.exit_sentence().await),
        }
        undo.disarm();
        Ok(pump)
    }

    fn kept(&self) -> KeptText {
        KeptText { bans: self.deps.bans.text() }
    }

    /// Tells systemd of the new main process. Returns whether there is a manager.
    async fn announce(&self, pid: u32) -> Result<bool, String> {
        // Messages of both processes go into one queue, so that the new one may speak behind this.
        let told = timeout(ANNOUNCE_TIMEOUT, systemd::announce(pid)).await;
        match told {
            Ok(Ok(is_told)) => Ok(is_told),
            Ok(Err(error)) => Err(format!("systemd cannot be told of the new process: {error}")),
            Err(_) => Err("systemd takes no message about the new process".into()),
        }
    }

    /// Leaves everything but the open connections to the new process.
    async fn release(&self, pump: &Pump) {
        let GiverDeps { context, bans, sockets, peers, retired, .. } = &self.deps;
        // The token first: an accept loop that stops without it would empty its queue.
        context.lifecycle.released().cancel();
        sockets.release();
        // Ends the watch, the reloader and the reports to systemd, which now come from elsewhere.
        retired.cancel();
        bans.release().await;
        // Earlier processes have the new one at their second channel.
        peers.leave();
        // An error means that it has crashed, which the next look finds.
        let _ = pump.control_tx.send((HandoverFrame::Main(self.kept()), Vec::new()));
    }
}

fn not_started(binary: &std::path::Path, error: &io::Error) -> String {
    format!("{} cannot be started: {error}", binary.display())
}

/// Keeps the open connections until they end or their time is up, joined to the newest process.
async fn outlive(deps: &GiverDeps, mut released: Released) {
    let GiverDeps { context, sockets, .. } = deps;
    let mut stage = context.lifecycle.subscribe();
    let mut is_alone = false;
    loop {
        let is_over = context.tunnels.slots() == 0
            && context.tunnels.exchanges_len() == 0
            && sockets.connections() == 0;
        if is_over {
            tracing::info!("the last connection from before the upgrade has ended");
            // There is nothing left to wait for: the drain only ends the threads.
            let (delay, deadline) = (Duration::ZERO, Duration::from_secs(1));
            context.lifecycle.drain(DrainOptions { delay, deadline, code: 1001 });
        }
        // Leaves no zombie of a process that was started here.
        released.successor.has_ended();
        tokio::select! {
            // A signal has ordered a drain, or the above: `Planes` carries it out.
            Ok(_) = stage.wait_for(|stage| stage.is_draining()) => return,
            () = sleep(OVER_INTERVAL) => {}
            () = sleep_until(released.until) => {
                tracing::warn!("deadline_upgrade is over: closing the tunnels that are left");
                let options = context.config_status.settings.load().shutdown.drain_options();
                context.lifecycle.drain(DrainOptions { delay: Duration::ZERO, ..options });
            }
            (at, frame) = next_control(&mut released.links) => match frame {
                Some((HandoverFrame::Move, descriptors)) => {
                    for descriptor in descriptors {
                        if let Err(error) = released.join(deps, descriptor.into()) {
                            tracing::error!(%error, "the newest process cannot be joined");
                        }
                    }
                }
                Some(_) => {}
                None => drop(released.links.swap_remove(at)),
            },
        }
        if released.links.is_empty() != is_alone {
            is_alone = !is_alone;
            if is_alone {
                context.lifecycle.orphan();
                tracing::error!(
                    "the newest process is gone: this one judges its tunnels by the last files \
                     that it has read"
                );
                context.tracker.spawn(judge_alone(context.clone()));
            }
        }
    }
}

/// Judges everything live by the last generation of this process, whenever an entry of a list
/// lapses.
async fn judge_alone(context: ReloadContext) {
    let ReloadContext { live, tunnels, metrics, tracker, config_status, lifecycle, .. } = context;
    let judging = async {
        loop {
            let now = Timestamp::now();
            let spread = config_status.settings.load().reload.revoke_spread;
            let (live, tunnels, metrics) = (&*live, &*tunnels, &*metrics);
            Reconcile { live, tunnels, metrics, tracker: &tracker, spread, hasty: false }.run(now);
            wait_for_lapse(live, now, MAX_LAPSE_WAIT).await;
        }
    };
    lifecycle.closing().run_until_cancelled(judging).await;
}

/// The next frame of any link, and the number of the link. `None` as the frame means that the
/// process at its other end is gone.
async fn next_control(links: &mut [Pump]) -> (usize, Option<PumpFrame>) {
    if links.is_empty() {
        return std::future::pending().await;
    }
    let (frame, at, _) =
        select_all(links.iter_mut().map(|one| Box::pin(one.control_rx.recv()))).await;
    (at, frame)
}

impl Released {
    /// Joins the process at the other end of `stream`, beside the links that there are: the former
    /// newest process may have to go on.
    fn join(&mut self, deps: &GiverDeps, stream: std::os::unix::net::UnixStream) -> io::Result<()> {
        let (pump, link) = Pump::start(Channel::new(stream)?, &deps.context.tracker);
        serve_rows(deps, link);
        self.links.push(pump);
        Ok(())
    }
}

/// Sends the tunnels of this process over `link`, and carries out the orders that come once it is
/// released.
fn serve_rows(deps: &GiverDeps, link: Link) {
    let ReloadContext { tunnels, tracker, lifecycle, .. } = &deps.context;
    let released = lifecycle.released().clone();
    // A process that was released before hardly dials any more: what it knows is old.
    let down = if released.is_cancelled() { Vec::new() } else { deps.sockets.backends_down() };
    tracker.spawn(rows_out::serve(link, Arc::clone(tunnels), down, released));
}
