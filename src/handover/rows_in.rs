//! The rows of another process in the tables of the newest one, which judges and counts them.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Wake, Waker};

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::data::backend::DownBackend;
use crate::handover::link::{Link, LinkMessage, WireBackend, WireEnd, WireEnding};
use crate::handover::wire_row::{ReadRow, RowTraffic, WireKind, WireRow};
use crate::observe::metrics::{Direction, Metrics, RouteMetrics, ThreadMetrics};
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::{EndOrder, LiveEntry, RemoteEntry, RemotePlace, Tunnels};

/// The parts of the newest process that rows enter.
#[derive(Clone)]
pub struct RowsInDeps {
    /// The tables that rows enter.
    pub tunnels: Arc<Tunnels>,
    /// Pointer to the running generation.
    pub live: Arc<CurrentSnapshot>,
    /// All counters of the process.
    pub metrics: Arc<Metrics>,
    /// Notes backends that the other process has found down.
    pub note_down: Arc<dyn Fn(&[DownBackend]) + Send + Sync>,
    /// Cancelled once this process is the newest no more.
    pub retired: CancellationToken,
}

/// The rows of one process.
struct RemoteRows {
    pid: u32,
    deps: RowsInDeps,
    /// Counters of this task alone, as each thread has them.
    core: Arc<ThreadMetrics>,
    tx: UnboundedSender<LinkMessage>,
    rows: HashMap<u64, RemoteRow>,
    woken: UnboundedSender<u64>,
}

/// One row with its place in a table.
struct RemoteRow {
    entry: Arc<LiveEntry>,
    waker: Waker,
    metrics: Arc<RouteMetrics>,
    is_tunnel: bool,
    traffic: RowTraffic,
    _place: RemotePlace,
}

/// Queues the row whose orders have changed. An entry wakes it under no lock.
struct RowWaker {
    id: u64,
    woken: UnboundedSender<u64>,
}

impl Wake for RowWaker {
    fn wake(self: Arc<Self>) {
        // An error means that the link is over.
        let _ = self.woken.send(self.id);
    }
}

/// Keeps the rows of the process `pid` in the tables until its link ends. `synced` gets a message
/// once all that were open at the start have come.
pub async fn join(link: Link, pid: u32, deps: RowsInDeps, synced: oneshot::Sender<()>) {
    let Link { tx, mut rx } = link;
    let (woken, mut changed): (_, UnboundedReceiver<u64>) = unbounded_channel();
    let core = deps.metrics.core();
    let mut rows = RemoteRows { pid, deps, core, tx, rows: HashMap::new(), woken };
    let mut synced = Some(synced);
    loop {
        tokio::select! {
            message = rx.recv() => match message {
                Some(LinkMessage::Synced) => {
                    if let Some(synced) = synced.take() {
                        // The caller may have stopped waiting.
                        let _ = synced.send(());
                    }
                }
                Some(message) => rows.take(message),
                None => break,
            },
            Some(id) = changed.recv() => rows.pass_on(id),
        }
    }
    // This process has handed over itself, and another one has the rows now.
    if rows.deps.retired.is_cancelled() {
        return;
    }
    match rows.rows.len() {
        0 => tracing::info!(
            process = pid,
            "an earlier process has ended, and all of its tunnels before"
        ),
        left => tracing::warn!(
            process = pid,
            tunnels = left,
            "an earlier process is gone, with its last tunnels"
        ),
    }
    // The places go back here.
}

impl RemoteRows {
    fn take(&mut self, message: LinkMessage) {
        match message {
            LinkMessage::Row(row) => {
                let id = row.id;
                if let Err(what) = self.enter(*row) {
                    // Nothing can judge it.
                    tracing::error!(
                        process = self.pid,
                        "a tunnel is closed: {what} cannot be read"
                    );
                    self.order(id, &EndOrder::Revoke(crate::refusal::Refusal::Network));
                }
            }
            LinkMessage::Traffic { rows } => {
                rows.into_iter().for_each(|traffic| self.count(traffic));
                let _ = self.tx.send(LinkMessage::Counted);
            }
            LinkMessage::Ended { traffic, how } => {
                self.count(traffic);
                self.remove(traffic.id, how);
            }
            LinkMessage::Backends { down } => {
                let down: Vec<_> = down.into_iter().map(WireBackend::read).collect();
                (self.deps.note_down)(&down);
            }
            LinkMessage::Budget(budget) => {
                if let Some((name, rate, used)) = budget.read() {
                    self.deps.tunnels.budgets().count_used(&name, rate, used);
                }
            }
            _ => tracing::warn!(
                process = self.pid,
                "an earlier process has sent a message that this one cannot read"
            ),
        }
    }

    fn enter(&mut self, row: WireRow) -> Result<(), &'static str> {
        let WireRow { id, kind, is_new, traffic, .. } = row;
        let ReadRow { subject, request, from, kind: entry_kind, opened } = row.read()?;
        let now = Timestamp::now();
        let judged = self.deps.live.load().judge(&subject, &request, None, now);
        let permit = match judged.of_forwarded(&request).verdict {
            Ok(permit) => permit,
            // It gets no place: an entry needs a route, and a refused request may have none. The
            // old process counts it until it has ended.
            Err(refusal) => {
                self.order(id, &EndOrder::Revoke(refusal));
                return Ok(());
            }
        };
        let process = self.pid;
        let remote = RemoteEntry { process, kind: entry_kind, request, from, opened, is_new };
        let (place, entry) = self.deps.tunnels.enter_remote(&permit, remote, now);
        let is_tunnel = kind == WireKind::Tunnel;
        if let WireKind::Exchange { has_events: true, .. } = kind {
            entry.mark_event_stream();
        }
        let metrics = self.core.route(permit.route());
        if is_tunnel {
            metrics.tunnel_taken_over();
            self.deps.metrics.draining_tunnel_came();
        }
        let waker = Waker::from(Arc::new(RowWaker { id, woken: self.woken.clone() }));
        // The old process has counted it, and counters that begin anew would count it again.
        entry.traffic.add_from_client(traffic.from_client.0, traffic.from_client.1);
        entry.traffic.add_from_backend(traffic.from_backend.0, traffic.from_backend.1);
        let row = RemoteRow { entry, waker, metrics, is_tunnel, traffic, _place: place };
        self.rows.insert(id, row);
        // Registers the waker, and passes on what was ordered since the row has entered.
        self.pass_on(id);
        Ok(())
    }

    /// Passes the order of row `id` on, if there is one.
    fn pass_on(&self, id: u64) {
        let Some(row) = self.rows.get(&id) else { return };
        if let Some((_, Some(order))) = row.entry.take_changes(&row.waker) {
            self.order(id, &order);
        }
    }

    fn order(&self, id: u64, order: &EndOrder) {
        // An error means that the link is over, which the next receive finds.
        let _ = self.tx.send(LinkMessage::End { id, order: WireEnd::of(order) });
    }

    fn count(&mut self, now: RowTraffic) {
        let Some(row) = self.rows.get_mut(&now.id) else { return };
        // Totals and not differences come, so that a report that is lost with a link counts later.
        let before = std::mem::replace(&mut row.traffic, now);
        let more = |now: (u64, u64), before: (u64, u64)| {
            (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1))
        };
        let (bytes, messages) = more(now.from_client, before.from_client);
        row.entry.traffic.add_from_client(bytes, messages);
        if row.is_tunnel {
            row.metrics.relayed(Direction::FromClient, bytes, messages);
        }
        let (bytes, messages) = more(now.from_backend, before.from_backend);
        row.entry.traffic.add_from_backend(bytes, messages);
        if row.is_tunnel {
            row.metrics.relayed(Direction::FromBackend, bytes, messages);
        }
    }

    fn remove(&mut self, id: u64, how: Option<WireEnding>) {
        let Some(row) = self.rows.remove(&id) else { return };
        if !row.is_tunnel {
            return;
        }
        self.deps.metrics.draining_tunnel_went();
        match how.and_then(|how| how.ending()) {
            // Under the route by which it has entered here, as for a tunnel of this process.
            Some(ending) => row.metrics.tunnel_closed(&ending.closed, ending.refusal),
            None => row.metrics.tunnel_lost(),
        }
    }
}

impl Drop for RemoteRows {
    fn drop(&mut self) {
        // Their process is gone, or another one counts them.
        for row in self.rows.values().filter(|row| row.is_tunnel) {
            row.metrics.tunnel_lost();
            self.deps.metrics.draining_tunnel_went();
        }
    }
}
