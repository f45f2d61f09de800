//! systemd: readiness, one sentence of status, the watchdog, and sockets by name.
//!
//! Nothing changes where the manager is gone, deaf or was never there: it is sent messages and
//! never waited for. `RELOADING=1` isn't used: `ExecReload=sidegate reload --wait` waits for the
//! outcome itself.

mod adopt;
pub mod sockets;
mod status;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::lifecycle::Stage;
use crate::observe::heartbeat::Heartbeats;

pub use self::sockets::{PassedSockets, SocketKind};
pub use self::status::StatusSources;

/// Time between two beats of a loop unless a watchdog asks for more, and between two updates of the
/// status.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which a loop may be silent if there is no watchdog.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a drain may take beyond its deadline, before systemd cuts it.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// Interval of systemd's watchdog, from `WATCHDOG_USEC`. `None` means off.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Time between two beats of a loop: an eighth of the watchdog's interval, from 10 ms to 1 s.
pub fn heartbeat_period(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(STATUS_INTERVAL, |interval| {
        (interval / 8).clamp(Duration::from_millis(10), STATUS_INTERVAL)
    })
}

/// Tells the manager that `pid` is the main process, and returns whether there is a manager.
/// Messages are taken in the order in which they were sent, so that the new process may speak
/// behind this one.
///
/// # Errors
/// The manager cannot be told.
pub async fn announce(pid: u32) -> io::Result<bool> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(false);
    }
    let told = tokio::task::spawn_blocking(move || sd_notify::notify(&[NotifyState::MainPid(pid)]));
    told.await.map_err(io::Error::other)?.map(|()| true)
}

/// Whether systemd has started this very process and takes no messages from it.
pub fn is_deaf() -> bool {
    let is_ours =
        std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    is_ours && std::env::var_os("NOTIFY_SOCKET").is_none()
}

/// Ticks `heartbeats`, logs loops that stall, and reports readiness, status and the watchdog to
/// systemd, until dropped.
pub async fn run(
    facts: StatusSources,
    heartbeats: Arc<Heartbeats>,
    watchdog: Option<Duration>,
    mut stage: watch::Receiver<Stage>,
) {
    let mut ticks = interval(heartbeats.period());
    // Heartbeats count ticks. A burst that made up for a SIGSTOP would make loops look silent that
    // only stood still with the process.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Half of the interval: a stall is in the log before systemd ends the process.
    let max = watchdog.map_or(STALL_TIMEOUT, |interval| interval / 2);
    let mut stalled = Vec::new();
    let mut words = SentState::new(watchdog);
    let mut manager = ServiceManager::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => heartbeats.tick(),
            // An error means that the agent is gone; this task is about to be dropped too.
            Ok(()) = stage.changed() => {}
        }
        let silent = heartbeats.stalled(max);
        if silent != stalled {
            report(&stalled, &silent);
            stalled = silent;
        }
        // Skipped, not queued: the next message has the state of its own time.
        if !manager.listens() {
            continue;
        }
        let (now, stage) = (Instant::now(), *stage.borrow_and_update());
        if let Some(message) = words
            .next_message(now, stage, stalled.is_empty(), || facts.sentence(now, stage, &stalled))
        {
            manager.send(message);
        }
    }
}

fn report(before: &[Arc<str>], stalled: &[Arc<str>]) {
    for name in stalled.iter().filter(|name| !before.contains(name)) {
        tracing::error!(stalled = %name, "an event loop is stalled: systemd's watchdog gets no further keep-alives");
    }
    for name in before.iter().filter(|name| !stalled.contains(name)) {
        tracing::info!(stalled = %name, "the event loop runs again");
    }
}

/// One datagram to the manager (sd_notify(3)). The default is empty and is not sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct NotifyMessage {
    ready: bool,
    stopping: bool,
    alive: bool,
    status: Option<String>,
    /// Time for which the stop is to be extended, from now on.
    extend: Option<Duration>,
}

impl NotifyMessage {
    fn send(&self) -> io::Result<()> {
        let extend = self.extend.map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        let said = [
            self.ready.then_some(NotifyState::Ready),
            self.stopping.then_some(NotifyState::Stopping),
            self.status.as_deref().map(NotifyState::Status),
            self.alive.then_some(NotifyState::Watchdog),
            extend.map(NotifyState::ExtendTimeoutUsec),
        ];
        let said: Vec<_> = said.into_iter().flatten().collect();
        sd_notify::notify(&said)
    }
}

/// What was last sent and when, from which the next message follows.
struct SentState {
    watchdog: Option<Duration>,
    stage: Stage,
    status: String,
    stated: Option<Instant>,
    fed: Option<Instant>,
}

impl SentState {
    fn new(watchdog: Option<Duration>) -> Self {
        SentState {
            watchdog,
            stage: Stage::Starting,
            status: String::new(),
            stated: None,
            fed: None,
        }
    }

    /// The message to send at `now`. `turns` says that every loop turns. `None` means that there is
    /// nothing to send.
    fn next_message(
        &mut self,
        now: Instant,
        stage: Stage,
        turns: bool,
        sentence: impl FnOnce() -> String,
    ) -> Option<NotifyMessage> {
        // Nothing goes out before `READY=1`, and `Agent::ready` ends this stage.
        if stage == Stage::Starting {
            return None;
        }
        let due = |last: Option<Instant>, after: Duration| {
            last.is_none_or(|last| now.saturating_duration_since(last) >= after)
        };
        let ready = self.stage == Stage::Starting;
        let stopping = stage.is_draining() && !self.stage.is_draining();
        self.stage = stage;
        let mut message = NotifyMessage { ready, stopping, ..NotifyMessage::default() };
        if ready || stopping || due(self.stated, STATUS_INTERVAL) {
            self.stated = Some(now);
            let sentence = sentence();
            if sentence != self.status {
                self.status.clone_from(&sentence);
                message.status = Some(sentence);
            }
            // systemd counts the extension from this message on, so it is sent anew with each
            // update.
            if let Stage::Draining(drain) = stage {
                message.extend = Some(drain.deadline.saturating_duration_since(now) + DRAIN_MARGIN);
            }
        }
        // A third of the interval: even if one beat is late, two still fall into each interval.
        if turns && self.watchdog.is_some_and(|interval| due(self.fed, interval / 3)) {
            self.fed = Some(now);
            message.alive = true;
        }
        (message != NotifyMessage::default()).then_some(message)
    }
}

/// Sends to the manager. A write blocks while the manager reads nothing, so it has a thread of its
/// own.
#[derive(Default)]
struct ServiceManager {
    telling: Option<JoinHandle<()>>,
    broken: Arc<AtomicBool>,
}

impl ServiceManager {
    /// Whether there is a manager, and the last message to it has been sent.
    fn listens(&self) -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
            && self.telling.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn send(&mut self, message: NotifyMessage) {
        let broken = Arc::clone(&self.broken);
        self.telling = Some(tokio::task::spawn_blocking(move || match message.send() {
            Ok(()) => broken.store(false, Ordering::Relaxed),
            Err(error) => {
                if !broken.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "systemd cannot be notified: NOTIFY_SOCKET is unusable");
                }
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::lifecycle::{Drain, DrainStep};

    const INTERVAL: Duration = Duration::from_secs(3);

    /// Checks the message at each of these moments, in milliseconds.
    #[track_caller]
    fn check(words: &mut SentState, began: Instant, moments: &[(u64, Stage, &str, &str)]) {
        for (at, stage, status, expected) in moments {
            let turns = !status.starts_with("stalled");
            let said =
                words.next_message(began + Duration::from_millis(*at), *stage, turns, || {
                    (*status).to_owned()
                });
            let said = said.map(|message| {
                let flags = [
                    (message.ready, "ready"),
                    (message.stopping, "stopping"),
                    (message.alive, "alive"),
                ];
                let mut parts: Vec<_> = flags
                    .iter()
                    .filter(|(is, _)| *is)
                    .map(|(_, word)| (*word).to_owned())
                    .collect();
                parts.extend(message.status);
                parts.extend(message.extend.map(|time| format!("{} s", time.as_secs())));
                parts.join(", ")
            });
            assert_eq!(said.unwrap_or_default(), *expected, "at {at} ms");
        }
    }

    #[test]
    fn first_message_is_sent_when_serving_and_is_complete() {
        let mut words = SentState::new(Some(INTERVAL));
        let moments =
            [(0, Stage::Starting, "one", ""), (500, Stage::Serving, "one", "ready, alive, one")];
        check(&mut words, Instant::now(), &moments);
    }

    #[test]
    fn status_is_sent_on_change_at_most_once_a_second() {
        let moments = [
            (0, Stage::Serving, "one", "ready, one"),
            (400, Stage::Serving, "two", ""),
            (1000, Stage::Serving, "three", "three"),
            (2000, Stage::Serving, "three", ""),
            (2500, Stage::Serving, "four", ""),
            (3000, Stage::Serving, "four", "four"),
        ];
        check(&mut SentState::new(None), Instant::now(), &moments);
    }

    // C-LIFE-04
    #[test]
    fn watchdog_is_fed_unless_a_loop_stalls() {
        let moments = [
            (0, Stage::Serving, "fine", "ready, alive, fine"),
            (900, Stage::Serving, "fine", ""),
            (1000, Stage::Serving, "fine", "alive"),
            (2000, Stage::Serving, "stalled", "stalled"),
            (3000, Stage::Serving, "stalled", ""),
            (3100, Stage::Serving, "fine", "alive"),
            (4100, Stage::Serving, "fine", "alive, fine"),
        ];
        check(&mut SentState::new(Some(INTERVAL)), Instant::now(), &moments);
    }

    #[test]
    fn drain_is_reported_once_and_extends_the_stop_timeout() {
        let began = Instant::now();
        let deadline = began + Duration::from_secs(30);
        let step = DrainStep::Closing;
        let drains =
            Stage::Draining(Drain { since: began, closing: began, deadline, code: 1001, step });
        let moments = [
            (0, Stage::Serving, "serving", "ready, serving"),
            (100, drains, "draining", "stopping, draining, 34 s"),
            (600, drains, "drained", ""),
            (1100, drains, "draining", "33 s"),
            (40_000, drains, "draining", "5 s"),
        ];
        check(&mut SentState::new(None), began, &moments);
    }

    #[test]
    fn loops_beat_often_enough_for_any_watchdog() {
        let check = |watchdog: Option<u64>, expected| {
            assert_eq!(heartbeat_period(watchdog.map(Duration::from_millis)).as_millis(), expected);
        };
        check(None, 1000);
        check(Some(30_000), 1000);
        check(Some(2000), 250);
        check(Some(20), 10);
    }
}
