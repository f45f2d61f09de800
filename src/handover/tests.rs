//! Tunnels of one table as rows of another, joined as two processes are.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::close::{CloseReason, Closed, Initiator, Traffic, TunnelPhase};
use crate::handover::link::{Link, LinkMessage, WireEnd};
use crate::handover::rows_in::{self, RowsInDeps};
use crate::handover::rows_out;
use crate::handover::wire_row::WireRow;
use crate::observe::metrics::Metrics;
use crate::policy::limit::{ClientLimits, Limits, Rate};
use crate::policy::request::Host;
use crate::refusal::Refusal;
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::tests::{charge, enter, publish, table};
use crate::tunnels::{CloseOrder, EndOrder, LiveEntry, Registration, TunnelEnding, Tunnels};

const OLD: u32 = 4711;

#[expect(clippy::disallowed_methods, reason = "the test waits for its tasks, or aborts them")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// One process: its table and its running generation.
struct Process {
    tunnels: Arc<Tunnels>,
    live: Arc<CurrentSnapshot>,
    metrics: Arc<Metrics>,
}

impl Process {
    fn new(limits: &Limits) -> Process {
        let (tunnels, live) = table(limits);
        Process { tunnels, live, metrics: Metrics::new() }
    }

    fn open(&self, host: u8) -> (Registration, Arc<LiveEntry>) {
        enter(charge(&self.tunnels, &self.live, host).unwrap())
    }

    fn rows(&self) -> Vec<Arc<LiveEntry>> {
        let mut rows = self.tunnels.entries();
        rows.sort_by_key(|entry| entry.id);
        rows
    }
}

/// Two processes that are joined, and the tasks that join them.
struct Joined {
    old: Process,
    new: Process,
    serving: JoinHandle<()>,
    joining: JoinHandle<()>,
}

impl Joined {
    /// Joins `old` to a new process with the same limits, and waits for its rows.
    async fn new(old: Process, limits: &Limits) -> Joined {
        let new = Process::new(limits);
        let (tx, orders) = unbounded_channel();
        let (orders_tx, rx) = unbounded_channel();
        let served = Link { tx, rx };
        let link = Link { tx: orders_tx, rx: orders };
        let deps = RowsInDeps {
            tunnels: Arc::clone(&new.tunnels),
            live: Arc::clone(&new.live),
            metrics: Arc::clone(&new.metrics),
            note_down: Arc::new(|_| {}),
            retired: CancellationToken::new(),
        };
        let released = CancellationToken::new();
        released.cancel();
        let (synced_tx, synced) = oneshot::channel();
        let serving =
            spawn(rows_out::serve(served, Arc::clone(&old.tunnels), Vec::new(), released.clone()));
        let joining = spawn(rows_in::join(link, OLD, deps, synced_tx));
        synced.await.unwrap();
        Joined { old, new, serving, joining }
    }

    /// Waits until the old process has ordered `entry` to end.
    async fn end_of(&self, entry: &LiveEntry) -> EndOrder {
        until(|| entry.ordered_end()).await
    }

    /// Waits until the new process has so many rows.
    async fn expect_rows(&self, count: usize) {
        until(|| (self.new.tunnels.len() == count).then_some(())).await;
    }
}

async fn until<T>(found: impl Fn() -> Option<T>) -> T {
    let looking = async {
        loop {
            match found() {
                Some(found) => return found,
                None => yield_now().await,
            }
        }
    };
    timeout(Duration::from_secs(10), looking).await.expect("it comes")
}

fn capped(per_client: u32) -> Limits {
    let share = ClientLimits { per_client: Some(per_client), ..ClientLimits::default() };
    Limits { share, ..Limits::default() }
}

#[tokio::test]
async fn cap_counts_tunnels_of_both_processes() {
    let limits = capped(2);
    let old = Process::new(&limits);
    let open = [old.open(1), old.open(1)];
    let joined = Joined::new(old, &limits).await;
    let Process { tunnels, live, .. } = &joined.new;
    assert_eq!(charge(tunnels, live, 1).err(), Some(Refusal::Connections));
    assert!(charge(tunnels, live, 2).is_ok());
    assert!(joined.new.rows().iter().all(|entry| entry.process == Some(OLD)));
    let [first, second] = open;
    drop(first);
    joined.expect_rows(1).await;
    assert!(charge(tunnels, live, 1).is_ok());
    drop(second);
    joined.expect_rows(0).await;
    assert_eq!(tunnels.slots(), 0);
}

#[tokio::test]
async fn open_tunnels_stay_past_a_cap_and_a_new_one_does_not() {
    let limits = capped(1);
    let old = Process::new(&Limits::default());
    let open = [old.open(1), old.open(1)];
    let joined = Joined::new(old, &limits).await;
    assert_eq!(joined.new.tunnels.len(), 2, "they are open already");
    let (_late, late) = joined.old.open(1);
    assert_eq!(joined.end_of(&late).await, EndOrder::Revoke(Refusal::Connections));
    assert!(open.iter().all(|(_, entry)| entry.ordered_end().is_none()));
}

#[tokio::test]
async fn client_without_a_token_gets_none_from_the_new_process() {
    let rate = Rate {
        tokens: NonZeroU32::MIN,
        per: Duration::from_secs(3600),
        burst: NonZeroU32::new(2).unwrap(),
    };
    let share = ClientLimits { upgrades: Some(rate), ..ClientLimits::default() };
    let limits = Limits { share, ..Limits::default() };
    let old = Process::new(&limits);
    let open = [old.open(1), old.open(1), old.open(2)];
    let joined = Joined::new(old, &limits).await;
    let Process { tunnels, live, .. } = &joined.new;
    let refused = |host| matches!(charge(tunnels, live, host).err(), Some(Refusal::Rate { .. }));
    assert!(refused(1), "both tokens are used");
    assert!(!refused(2) && refused(2), "one is left");
    assert!(!refused(3));
    drop(open);
}

#[tokio::test]
async fn stricter_list_and_orders_reach_the_old_process() {
    let old = Process::new(&Limits::default());
    let open = [old.open(1), old.open(2), old.open(3), old.open(4)];
    let joined = Joined::new(old, &Limits::default()).await;
    let next = publish(&joined.new.live, 2, "192.0.2.1");
    let impact = joined.new.tunnels.preview_reconcile(&next, Timestamp::now());
    assert_eq!((impact.open, impact.revoked.len()), (4, 1), "as for its own");
    for refused in joined.new.tunnels.reconcile(&next, Timestamp::now()).refused {
        refused.revoke_if_refused();
    }
    assert_eq!(joined.end_of(&open[0].1).await, EndOrder::Revoke(Refusal::Network));
    let rows = joined.new.rows();
    let close = EndOrder::Close(CloseOrder { code: 4000, reason: "bye".into() }.into());
    rows[1].end(close.clone());
    rows[2].drain(1012);
    rows[3].end(EndOrder::Cut);
    for (at, order) in [(1, close), (2, EndOrder::Drain(1012)), (3, EndOrder::Cut)] {
        assert_eq!(joined.end_of(&open[at].1).await, order);
    }
}

#[tokio::test]
async fn row_that_is_refused_at_once_is_revoked_and_not_counted() {
    let old = Process::new(&Limits::default());
    let (_place, entry) = old.open(1);
    let joined = Joined::new(old, &Limits::default()).await;
    publish(&joined.new.live, 2, "192.0.2.2");
    let (_late, late) = joined.old.open(2);
    assert_eq!(joined.end_of(&late).await, EndOrder::Revoke(Refusal::Network));
    assert_eq!((joined.new.tunnels.len(), entry.ordered_end()), (1, None));
}

#[tokio::test]
async fn broken_link_takes_the_rows_along_and_no_tunnel() {
    let old = Process::new(&Limits::default());
    let open = [old.open(1), old.open(2)];
    let joined = Joined::new(old, &Limits::default()).await;
    joined.serving.abort();
    joined.expect_rows(0).await;
    joined.joining.await.unwrap();
    assert_eq!((joined.new.tunnels.slots(), joined.old.tunnels.len()), (0, 2));
    assert!(open.iter().all(|(_, entry)| entry.ordered_end().is_none()));
    // It may be joined again, as to the next process.
    let again = Joined::new(joined.old, &Limits::default()).await;
    again.joining.abort();
    timeout(Duration::from_secs(10), again.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn rows_that_come_and_go_meanwhile_are_neither_missed_nor_doubled() {
    for _ in 0..20 {
        let old = Process::new(&Limits::default());
        let stays: Vec<_> = (0..250).map(|host| old.open(host)).collect();
        let mut goes: Vec<_> = (0..250).map(|host| old.open(host)).collect();
        let tunnels = Arc::clone(&old.tunnels);
        let live = Arc::clone(&old.live);
        let churn = std::thread::spawn(move || {
            let mut comes = Vec::new();
            while let Some(one) = goes.pop() {
                comes.push(enter(charge(&tunnels, &live, 1).unwrap()));
                drop(one);
            }
            comes
        });
        let joined = Joined::new(old, &Limits::default()).await;
        let comes = churn.join().unwrap();
        joined.expect_rows(500).await;
        drop((stays, comes));
        joined.expect_rows(0).await;
        assert_eq!(joined.new.tunnels.slots(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_and_endings_are_counted_by_the_new_process() {
    let old = Process::new(&Limits::default());
    let (place, entry) = old.open(1);
    entry.traffic.add_from_client(100, 2);
    let joined = Joined::new(old, &Limits::default()).await;
    let row = joined.new.rows().remove(0);
    let bytes = |entry: &LiveEntry| entry.traffic.totals().0.bytes;
    while bytes(&row) != 100 {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    entry.traffic.add_from_client(11, 1);
    while bytes(&row) != 111 {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    let closed = Closed {
        by: Initiator::Client,
        phase: TunnelPhase::Closing,
        reason: CloseReason::ClientClosed,
        code: None,
        from_client: Traffic::default(),
        from_backend: Traffic::default(),
        lasted: Duration::from_secs(3),
    };
    entry.traffic.add_from_client(1, 0);
    entry.ending.set(Box::new(TunnelEnding { closed, refusal: None })).unwrap();
    drop((place, entry));
    joined.expect_rows(0).await;
    assert_eq!(bytes(&row), 112, "the last report comes before the end");
    let totals = joined.new.metrics.activity();
    assert_eq!(totals.opened, 0, "another process has opened it");
    assert_eq!(totals.from_client.bytes, 12, "and has counted what came before");
}

#[tokio::test]
async fn ten_thousand_rows_leave_other_tasks_their_turn() {
    let old = Process::new(&Limits::default());
    let open: Vec<_> = (0..10_000u32).map(|host| old.open(host as u8)).collect();
    let (tx, mut sent) = unbounded_channel();
    let (_orders, rx) = unbounded_channel();
    let released = CancellationToken::new();
    let serving = spawn(rows_out::serve(
        Link { tx, rx },
        Arc::clone(&old.tunnels),
        Vec::new(),
        released.clone(),
    ));
    let mut turns = 0;
    let mut rows = 0;
    loop {
        match sent.try_recv() {
            Ok(LinkMessage::Synced) => break,
            Ok(LinkMessage::Row(_)) => rows += 1,
            Ok(_) => {}
            Err(_) => {
                turns += 1;
                yield_now().await;
            }
        }
    }
    assert!(rows == open.len() && turns >= 50, "{rows} rows, {turns} turns");
    serving.abort();
}

#[tokio::test]
async fn order_waits_until_the_new_process_is_the_main_one() {
    let old = Process::new(&Limits::default());
    let (_place, entry) = old.open(1);
    let (tx, mut sent) = unbounded_channel();
    let (orders, rx) = unbounded_channel();
    let released = CancellationToken::new();
    let serving = spawn(rows_out::serve(
        Link { tx, rx },
        Arc::clone(&old.tunnels),
        Vec::new(),
        released.clone(),
    ));
    orders.send(LinkMessage::End { id: entry.id, order: WireEnd::Cut }).unwrap();
    while !matches!(sent.recv().await, Some(LinkMessage::Synced)) {}
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(entry.ordered_end(), None);
    released.cancel();
    assert_eq!(until(|| entry.ordered_end()).await, EndOrder::Cut);
    serving.abort();
}

#[test]
fn request_without_a_host_survives_the_link() {
    let old = Process::new(&Limits::default());
    let (_place, entry) = old.open(7);
    let row = WireRow::of(&entry, true, false, Timestamp::now());
    let text = serde_json::to_string(&row).unwrap();
    let unnamed = text.replace(r#""host":"localhost""#, r#""host":null"#);
    let read: WireRow = serde_json::from_str(&unnamed).unwrap();
    assert_eq!(read.read().unwrap().request.host, Host::unnamed());
}

#[test]
fn row_survives_the_link_and_a_broken_one_is_an_error() {
    let old = Process::new(&Limits::default());
    let (_place, entry) = old.open(7);
    let row = WireRow::of(&entry, true, false, Timestamp::now());
    let text = serde_json::to_string(&LinkMessage::Row(Box::new(row.clone()))).unwrap();
    let Ok(LinkMessage::Row(read)) = serde_json::from_str(&text) else { panic!("{text}") };
    assert_eq!(*read, row);
    let read = read.read().unwrap();
    assert_eq!((&read.subject, &read.request), (&entry.subject, &entry.request));
    assert_eq!(read.opened.as_millisecond(), entry.opened.as_millisecond());
    let host = text.replace(r#""host":"localhost""#, r#""host":"a b""#);
    assert_ne!(host, text);
    let Ok(LinkMessage::Row(broken)) = serde_json::from_str(&host) else { panic!("{host}") };
    assert_eq!(broken.read().err(), Some("its host"));
    assert_eq!(WireEnd::of(&EndOrder::Cut).order(), EndOrder::Cut);
}
