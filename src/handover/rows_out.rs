//! The rows of the process that keeps tunnels: sent to the newest process, which gives orders.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::close::Traffic;
use crate::data::backend::DownBackend;
use crate::handover::link::{Link, LinkMessage, WireBackend, WireEnding};
use crate::handover::wire_budget::WireBudget;
use crate::handover::wire_row::{RowTraffic, WireRow};
use crate::tunnels::{LiveEntry, TableEvent, Tunnels};

/// Time between two reports of traffic.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);

/// Rows that are sent before other tasks get their turn.
const CHUNK: usize = 100;

/// The rows that the newest process knows.
struct SentRows {
    tunnels: Arc<Tunnels>,
    tx: UnboundedSender<LinkMessage>,
    rows: HashMap<u64, SentRow>,
    /// Whether a report waits to be counted. There is one at a time, so that a process that reads
    /// nothing gets no heap of them.
    is_reported: bool,
}

struct SentRow {
    entry: Arc<LiveEntry>,
    traffic: (Traffic, Traffic),
}

/// Sends every open tunnel and exchange over `link`, and then what changes, and carries out the
/// orders that come. Ends with the link. `down` has the backends that are down.
/// Orders wait until `released`: a new process that fails before has changed nothing.
pub async fn serve(
    link: Link,
    tunnels: Arc<Tunnels>,
    down: Vec<DownBackend>,
    released: CancellationToken,
) {
    let Link { tx, mut rx } = link;
    // First of all: what changes during the walk is reported behind it.
    let mut events = tunnels.watch();
    let mut sent = SentRows { tunnels, tx, rows: HashMap::new(), is_reported: false };
    sent.tell(LinkMessage::Backends { down: down.into_iter().map(WireBackend::of).collect() });
    sent.send_all().await;
    let mut ticks = interval(TRAFFIC_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut early = Vec::new();
    loop {
        tokio::select! {
            () = released.cancelled(), if !early.is_empty() => {
                early.drain(..).for_each(|message| sent.carry_out(message));
            }
            message = rx.recv() => match message {
                Some(message @ LinkMessage::End { .. }) if !released.is_cancelled() => {
                    early.push(message);
                }
                Some(message) => sent.carry_out(message),
                None => return,
            },
            Some(event) = events.recv() => sent.note(event),
            _ = ticks.tick() => sent.report_traffic(),
        }
    }
}

impl SentRows {
    async fn send_all(&mut self) {
        // Tokens that are taken between this and the first connection of the new process are not
        // known to it: a moment's worth of each rate.
        for (name, rate, used) in self.tunnels.budgets().all_used() {
            for budget in WireBudget::of(&name, rate, &used) {
                self.tell(LinkMessage::Budget(Box::new(budget)));
                yield_now().await;
            }
        }
        let tunnels = self.tunnels.entries().into_iter().map(|entry| (entry, true));
        let exchanges = self.tunnels.exchanges().into_iter().map(|entry| (entry, false));
        for (index, (entry, is_tunnel)) in tunnels.chain(exchanges).enumerate() {
            self.send(entry, is_tunnel, false);
            if index % CHUNK == CHUNK - 1 {
                yield_now().await;
            }
        }
        self.tell(LinkMessage::Synced);
    }

    /// Sends an entry. Its kind comes from the table in which it was, since it may have ended.
    fn send(&mut self, entry: Arc<LiveEntry>, is_tunnel: bool, is_new: bool) {
        // Rows of processes before this one are sent by these themselves.
        if entry.process.is_some() || self.rows.contains_key(&entry.id) {
            return;
        }
        let row = WireRow::of(&entry, is_tunnel, is_new, Timestamp::now());
        self.tell(LinkMessage::Row(Box::new(row)));
        // A report then comes for whatever has passed since the row was written, or before.
        let traffic = (Traffic::default(), Traffic::default());
        self.rows.insert(entry.id, SentRow { entry, traffic });
    }

    fn note(&mut self, event: TableEvent) {
        match event {
            TableEvent::Entered { entry, is_tunnel } => self.send(entry, is_tunnel, true),
            TableEvent::Left(entry) => {
                // An unknown entry has come and gone before the walk.
                if self.rows.remove(&entry.id).is_some() {
                    // With its last bytes, of which no report will come.
                    let (from_client, from_backend) = entry.traffic.totals();
                    let traffic = RowTraffic::new(entry.id, from_client, from_backend);
                    let how = entry.ending.get().map(|ending| WireEnding::of(ending));
                    self.tell(LinkMessage::Ended { traffic, how });
                }
            }
        }
    }

    fn carry_out(&mut self, message: LinkMessage) {
        match message {
            LinkMessage::End { id, order } => {
                // It may have ended by itself meanwhile.
                if let Some(row) = self.rows.get(&id) {
                    row.entry.end(order.order());
                }
            }
            LinkMessage::Counted => self.is_reported = false,
            _ => tracing::warn!("the newest process has sent a message that this one cannot read"),
        }
    }

    fn report_traffic(&mut self) {
        if self.is_reported {
            return;
        }
        let mut moved = Vec::new();
        for (id, row) in &mut self.rows {
            let totals = row.entry.traffic.totals();
            if totals != row.traffic {
                row.traffic = totals;
                moved.push(RowTraffic::new(*id, totals.0, totals.1));
            }
        }
        if !moved.is_empty() {
            // Until `Counted`: a process that reads slowly gets one larger report later.
            self.is_reported = true;
            self.tell(LinkMessage::Traffic { rows: moved });
        }
    }

    fn tell(&self, message: LinkMessage) {
        // An error means that the link is over, which the next receive finds.
        let _ = self.tx.send(message);
    }
}
