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
use crate::observe::pulse::Pulses;

pub use self::sockets::{Kind, Sockets};
pub use self::status::Facts;

/// Time between two beats of a loop unless a watchdog asks for more, and between two updates of the
/// status.
const SECOND: Duration = Duration::from_secs(1);

/// Time for which a loop may be silent if there is no watchdog.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Time that a drain may take beyond its deadline, before systemd cuts it.
const MARGIN: Duration = Duration::from_secs(5);

/// Interval of systemd's watchdog, from `WATCHDOG_USEC`. `None` means off.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Time between two beats of a loop: an eighth of the watchdog's interval, from 10 ms to 1 s.
pub fn period(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(SECOND, |interval| (interval / 8).clamp(Duration::from_millis(10), SECOND))
}

/// Ticks `pulses`, logs loops that stall, and reports readiness, status and the watchdog to
/// systemd, until dropped.
pub async fn supervise(
    facts: Facts,
    pulses: Arc<Pulses>,
    watchdog: Option<Duration>,
    mut stage: watch::Receiver<Stage>,
) {
    let mut ticks = interval(pulses.period());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let most = watchdog.map_or(SILENCE, |interval| interval / 2);
    let mut stalled = Vec::new();
    let mut words = Words::new(watchdog);
    let mut manager = Manager::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => pulses.tick(),
            // An error means that the agent is gone; this task is about to be dropped too.
            Ok(()) = stage.changed() => {}
        }
        let silent = pulses.stalled(most);
        if silent != stalled {
            report(&stalled, &silent);
            stalled = silent;
        }
        // Skipped, not queued: the next message has the state of its own time.
        if !manager.listens() {
            continue;
        }
        let (now, stage) = (Instant::now(), *stage.borrow_and_update());
        if let Some(message) =
            words.next(now, stage, stalled.is_empty(), || facts.sentence(now, stage, &stalled))
        {
            manager.tell(message);
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
struct Message {
    ready: bool,
    stopping: bool,
    alive: bool,
    status: Option<String>,
    /// Time for which the stop is to be extended, from now on.
    extend: Option<Duration>,
}

impl Message {
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
struct Words {
    watchdog: Option<Duration>,
    stage: Stage,
    status: String,
    stated: Option<Instant>,
    fed: Option<Instant>,
}

impl Words {
    fn new(watchdog: Option<Duration>) -> Self {
        Words { watchdog, stage: Stage::Starting, status: String::new(), stated: None, fed: None }
    }

    /// The message to send at `now`. `turns` says that every loop turns. `None` means that there is
    /// nothing to send.
    fn next(
        &mut self,
        now: Instant,
        stage: Stage,
        turns: bool,
        sentence: impl FnOnce() -> String,
    ) -> Option<Message> {
        if stage == Stage::Starting {
            return None;
        }
        let due = |last: Option<Instant>, after: Duration| {
            last.is_none_or(|last| now.saturating_duration_since(last) >= after)
        };
        let ready = self.stage == Stage::Starting;
        let stopping = stage.is_draining() && !self.stage.is_draining();
        self.stage = stage;
        let mut message = Message { ready, stopping, ..Message::default() };
        if ready || stopping || due(self.stated, SECOND) {
            self.stated = Some(now);
            let sentence = sentence();
            if sentence != self.status {
                self.status.clone_from(&sentence);
                message.status = Some(sentence);
            }
            if let Stage::Draining(drain) = stage {
                message.extend = Some(drain.deadline.saturating_duration_since(now) + MARGIN);
            }
        }
        // A third of the interval: even if one beat is late, two still fall into each interval.
        if turns && self.watchdog.is_some_and(|interval| due(self.fed, interval / 3)) {
            self.fed = Some(now);
            message.alive = true;
        }
        (message != Message::default()).then_some(message)
    }
}

/// Sends to the manager. A write blocks while the manager reads nothing, so it has a thread of its
/// own.
#[derive(Default)]
struct Manager {
    telling: Option<JoinHandle<()>>,
    broken: Arc<AtomicBool>,
}

impl Manager {
    /// Whether there is a manager, and the last message to it has been sent.
    fn listens(&self) -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
            && self.telling.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn tell(&mut self, message: Message) {
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
    fn check(words: &mut Words, began: Instant, moments: &[(u64, Stage, &str, &str)]) {
        for (at, stage, status, expected) in moments {
            let turns = !status.starts_with("stalled");
            let said = words
                .next(began + Duration::from_millis(*at), *stage, turns, || (*status).to_owned());
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
    fn nothing_is_said_before_we_serve_and_then_all_of_it_at_once() {
        let mut words = Words::new(Some(INTERVAL));
        let moments =
            [(0, Stage::Starting, "one", ""), (500, Stage::Serving, "one", "ready, alive, one")];
        check(&mut words, Instant::now(), &moments);
    }

    #[test]
    fn the_status_is_said_when_it_changes_and_at_most_once_a_second() {
        let moments = [
            (0, Stage::Serving, "one", "ready, one"),
            (400, Stage::Serving, "two", ""),
            (1000, Stage::Serving, "three", "three"),
            (2000, Stage::Serving, "three", ""),
            (2500, Stage::Serving, "four", ""),
            (3000, Stage::Serving, "four", "four"),
        ];
        check(&mut Words::new(None), Instant::now(), &moments);
    }

    // C-LIFE-04
    #[test]
    fn the_watchdog_is_fed_three_times_an_interval_and_not_while_a_loop_stalls() {
        let moments = [
            (0, Stage::Serving, "fine", "ready, alive, fine"),
            (900, Stage::Serving, "fine", ""),
            (1000, Stage::Serving, "fine", "alive"),
            (2000, Stage::Serving, "stalled", "stalled"),
            (3000, Stage::Serving, "stalled", ""),
            (3100, Stage::Serving, "fine", "alive"),
            (4100, Stage::Serving, "fine", "alive, fine"),
        ];
        check(&mut Words::new(Some(INTERVAL)), Instant::now(), &moments);
    }

    #[test]
    fn a_drain_is_told_once_and_asks_for_the_time_that_it_may_take() {
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
        check(&mut Words::new(None), began, &moments);
    }

    #[test]
    fn loops_beat_often_enough_for_any_watchdog() {
        let check = |watchdog: Option<u64>, expected| {
            assert_eq!(period(watchdog.map(Duration::from_millis)).as_millis(), expected);
        };
        check(None, 1000);
        check(Some(30_000), 1000);
        check(Some(2000), 250);
        check(Some(20), 10);
    }
}
