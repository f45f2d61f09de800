//! A tunnel's timers: idle, lifetime, Ping and Pong, stalls, the grace of an ending.
//!
//! One timer serves them all and is only moved earlier: traffic just notes the time, and a timer
//! that fires too soon is armed again. This module ends nothing itself.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::close::CloseReason;
use crate::policy::limit::TunnelLimits;
use crate::snapshot::route::RouteTimeouts;

/// How long a Ping waits that could not be written because a frame was on its way.
const PING_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A timer that fires so much too late tells of a process that was stopped or starved.
const LATE_TIMER_THRESHOLD: Duration = Duration::from_secs(1);

/// How long silence says nothing after that: bytes that came meanwhile are read first.
const LATE_TIMER_GRACE: Duration = Duration::from_secs(2);

/// The shortest and the longest pause between two looks at what a side has acknowledged.
const MIN_ACK_POLL_INTERVAL: Duration = Duration::from_millis(10);
const MAX_ACK_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What the tunnel has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerEvent {
    /// A Ping to the client.
    Ping,
    /// The end, for this reason.
    End(CloseReason),
}

/// The timers of one tunnel.
pub struct TunnelTimers {
    opened: Instant,
    /// The last frame that passed either way; our own Pings and their Pongs don't count.
    last_frame: Instant,
    /// The last byte from the client, whatever it was.
    last_byte: Instant,
    /// When our Ping went out. `None` means that a Pong or another byte has answered it.
    ping_sent: Option<Instant>,
    /// When the oldest Ping of the backend's passed that no Pong has answered. `None` means that
    /// none waits.
    backend_pinged: Option<Instant>,
    /// The 8 random bytes of our Pings; the same for the tunnel's life, so that a late Pong is
    /// still known. `None` means that none has gone out.
    payload: Option<[u8; 8]>,
    ping_not_before: Option<Instant>,
    /// Since when no byte for the client waits: a Pong is due only from then on.
    unsent: UnsentState,
    /// Until then silence says nothing, since the whole process was held up. `None` means that it
    /// was not.
    excused: Option<Instant>,
    grace_ends: Option<Instant>,
    /// When the client is dropped at the latest. `None` means that only the grace and stalls end
    /// it.
    client_ends: Option<Instant>,
    /// Since when a side has taken nothing, and how much it had taken by then: the client, the
    /// backend.
    stalls: [Option<(Instant, u64)>; 2],
    /// When to look at what the sides of an ending have acknowledged. `None` means that the next
    /// step of the ending decides that.
    ack_poll: Option<Instant>,
    /// Whether the timer was set with all that is known now. Bytes and frames alone only move a
    /// moment later.
    is_set: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Whether bytes wait for the client, which may be slow to take them.
#[derive(Clone, Copy)]
enum UnsentState {
    /// Bytes for the client are unsent.
    Unsent,
    /// No byte has been unsent since then.
    EmptySince(Instant),
}

impl TunnelTimers {
    /// Starts all timers at the 101.
    pub fn new(now: Instant) -> Self {
        TunnelTimers {
            opened: now,
            last_frame: now,
            last_byte: now,
            ping_sent: None,
            backend_pinged: None,
            payload: None,
            ping_not_before: None,
            unsent: UnsentState::EmptySince(now),
            excused: None,
            grace_ends: None,
            client_ends: None,
            stalls: [None; 2],
            ack_poll: None,
            is_set: false,
            timer: None,
        }
    }

    /// Notes that a byte came from the client: it lives.
    pub fn on_client_byte(&mut self, now: Instant) {
        self.last_byte = now;
        // The next Ping may be due before the end of the wait for this Pong.
        if self.ping_sent.take().is_some() {
            self.disarm();
        }
    }

    /// Notes that a frame passed, either way.
    pub fn on_frame(&mut self, now: Instant) {
        // The timer stays set: a frame moves `idle` only later.
        self.last_frame = now;
    }

    /// Notes that our Ping goes out now, and returns its payload.
    pub fn ping(&mut self, now: Instant) -> [u8; 8] {
        self.ping_sent = Some(now);
        self.disarm();
        *self.payload.get_or_insert_with(rand::random)
    }

    /// Puts our Ping off: a frame is on its way to the client.
    pub fn defer_ping(&mut self, now: Instant) {
        self.ping_not_before = Some(now + PING_RETRY_INTERVAL);
        self.disarm();
    }

    /// Notes that a Ping of the backend's passed.
    pub fn on_backend_ping(&mut self, now: Instant) {
        // The oldest counts. The client's next Pong answers all of them (RFC 6455 §5.5.3).
        self.backend_pinged.get_or_insert(now);
        self.disarm();
    }

    /// The payload of our Pings. `None` means that none has gone out. A Pong with it is to be
    /// swallowed.
    pub fn payload(&self) -> Option<[u8; 8]> {
        self.payload
    }

    /// Notes that a Pong passed that answers the backend's Ping.
    pub fn on_client_pong(&mut self) {
        self.backend_pinged = None;
        self.disarm();
    }

    /// Notes whether bytes wait for the client, which takes them slowly: a Ping of ours behind them
    /// cannot be answered yet, and a client that takes nothing at all has stalled.
    pub fn set_unsent(&mut self, now: Instant, unsent: bool) {
        self.unsent = match (self.unsent, unsent) {
            (_, true) => UnsentState::Unsent,
            (UnsentState::Unsent, false) => UnsentState::EmptySince(now),
            (since, false) => since,
        };
    }

    /// Notices that the timer fires far too late: the process was stopped, or starved. Bytes that
    /// the sides have sent meanwhile may not be readable yet where there are thousands of them, so
    /// silence is excused for a moment.
    pub fn on_timer(&mut self, now: Instant) {
        if self.timer.as_ref().is_some_and(|timer| timer.deadline() + LATE_TIMER_THRESHOLD <= now) {
            self.excused = Some(now + LATE_TIMER_GRACE);
            // Dropped, so that one late firing is noticed once.
            self.timer = None;
        }
        if self.is_excused(now) {
            // The sides could take nothing that this process did not write.
            self.stalls = [None; 2];
        }
    }

    /// Whether nothing can be due before the timer fires. To be called while nothing is unsent.
    pub fn is_quiescent(&self, now: Instant) -> bool {
        let takes = matches!(self.unsent, UnsentState::EmptySince(_)) && self.stalls == [None; 2];
        let rings_later = self.timer.as_ref().is_some_and(|timer| timer.deadline() > now);
        self.is_set && rings_later && takes && !self.is_excused(now)
    }

    /// Notes that something else than the time has changed: the next poll sets the timer anew.
    pub fn disarm(&mut self) {
        self.is_set = false;
    }

    /// Gives the tunnel `grace` to end, from now on.
    pub fn end_within(&mut self, now: Instant, grace: Duration) {
        self.grace_ends = Some(now + grace);
    }

    /// Gives the client `time` to end, from now on, unless it has less already.
    pub fn client_ends_within(&mut self, now: Instant, time: Duration) {
        let end = now + time;
        self.client_ends = Some(self.client_ends.map_or(end, |before| before.min(end)));
    }

    /// Whether the time is over that the client had to end.
    pub fn is_client_timed_out(&self, now: Instant) -> bool {
        self.client_ends.is_some_and(|end| end <= now)
    }

    /// Whether the ending took too long.
    pub fn is_grace_over(&self, now: Instant) -> bool {
        self.grace_ends.is_some_and(|end| end <= now)
    }

    /// Time since the 101.
    pub fn since_opened(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The side, 0 for the client or 1 for the backend, that has taken nothing for `patience` while
    /// bytes waited for it. `unsent` says of each side how much it has taken so far; `None` means
    /// that nothing waits for it.
    pub fn stalled(
        &mut self,
        now: Instant,
        patience: Duration,
        unsent: [Option<u64>; 2],
    ) -> Option<usize> {
        for (stall, unsent) in self.stalls.iter_mut().zip(unsent) {
            *stall = match (*stall, unsent) {
                (_, None) => None,
                // Only a change counts as progress: the number may wrap, as in
                // `TunnelStream::acked`.
                (Some((since, before)), Some(sent)) if before == sent => Some((since, sent)),
                (_, Some(sent)) => Some((now, sent)),
            };
        }
        self.stalls.iter().position(|stall| stall.is_some_and(|(since, _)| since + patience <= now))
    }

    /// Whether it is time to look at what the sides have acknowledged: a while after the first step
    /// of an ending, and before a side is given up for what it had not by the last look.
    pub fn is_ack_poll_due(&mut self, now: Instant, patience: Duration) -> bool {
        // An earlier timer than all others of the thread costs a write and a wake-up, though most
        // endings need none.
        let pause = (patience / 8).clamp(MIN_ACK_POLL_INTERVAL, MAX_ACK_POLL_INTERVAL);
        let at = *self.ack_poll.get_or_insert(now + pause);
        at <= now
            || self.is_grace_over(now)
            || self.stall_ends(patience).is_some_and(|end| end <= now)
    }

    /// Notes that [`TunnelTimers::stalled`] was told what the sides have acknowledged now. The
    /// longer one has taken nothing, the longer is the pause until the next look.
    pub fn on_ack_poll(&mut self, now: Instant) {
        // Of two silent sides, the later one decides: it is more likely to acknowledge soon.
        let since = self.stalls.iter().flatten().map(|(since, _)| *since).max();
        self.ack_poll = since.map(|since| {
            now + now.duration_since(since).clamp(MIN_ACK_POLL_INTERVAL, MAX_ACK_POLL_INTERVAL)
        });
    }

    /// Whether the tunnel is older than it may get.
    pub fn is_past_lifetime(&self, now: Instant, rules: &TunnelLimits) -> bool {
        self.lifetime_ends(rules).is_some_and(|end| end <= now)
    }

    /// Returns the event that is due now. `deaf` means that the client is not read at the moment,
    /// so that its silence says nothing.
    pub fn due(&self, now: Instant, rules: &TunnelLimits, deaf: bool) -> Option<TimerEvent> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // Not excused by a late timer: the age of the tunnel needs no sign of life.
        if self.is_past_lifetime(now, rules) {
            return Some(TimerEvent::End(CloseReason::Lifetime));
        }
        let excused = self.is_excused(now);
        if !excused && over(self.idle_ends(rules)) {
            return Some(TimerEvent::End(CloseReason::Idle));
        }
        if !deaf && !excused && over(self.pong_ends(rules)) {
            return Some(TimerEvent::End(CloseReason::NoPong));
        }
        // Not excused either: a Ping ends nothing.
        if over(self.ping_at(rules)) { Some(TimerEvent::Ping) } else { None }
    }

    /// Sets the timer to the next moment at which something may be due.
    pub fn arm(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        rules: &TunnelLimits,
        timeouts: &RouteTimeouts,
        deaf: bool,
    ) {
        // A deaf moment ends with a write to the backend, which wakes the task by itself.
        let pong = if deaf { None } else { self.pong_ends(rules) };
        let stall = self.stall_ends(timeouts.write_stall);
        let next =
            [self.lifetime_ends(rules), self.idle_ends(rules), pong, self.ping_at(rules), stall];
        let next = next.into_iter().flatten().min();
        self.wake_at(
            cx,
            now,
            // A lifetime or a Ping that is due meanwhile waits for the excuse as well, 2 s at most.
            next.map(|next| self.excused.map_or(next, |excused| next.max(excused))),
        );
    }

    /// Sets the timer to when the ending, or the tunnel, has taken too long, and to the next look
    /// at what a side has acknowledged: the kernel does not tell.
    pub fn arm_ending(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        rules: &TunnelLimits,
        timeouts: &RouteTimeouts,
    ) {
        let lifetime = self.lifetime_ends(rules).filter(|end| *end > now);
        let client = self.client_ends.filter(|end| *end > now);
        let next = [
            self.grace_ends,
            client,
            self.stall_ends(timeouts.write_stall),
            self.ack_poll,
            lifetime,
        ];
        self.wake_at(cx, now, next.into_iter().flatten().min());
    }

    fn wake_at(&mut self, cx: &mut Context<'_>, now: Instant, next: Option<Instant>) {
        self.is_set = true;
        let Some(next) = next else {
            self.timer = None;
            return;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        // A timer that is too early stays: one vain wake-up costs less than a reset for each frame.
        if timer.deadline() > next || timer.deadline() <= now {
            timer.as_mut().reset(next);
        }
        if timer.as_mut().poll(cx).is_ready() {
            // A timer that is ready has kept no waker.
            cx.waker().wake_by_ref();
        }
    }

    fn lifetime_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.lifetime.map(|lifetime| self.opened + lifetime)
    }

    fn idle_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.idle.map(|idle| self.last_frame + idle)
    }

    /// When our Ping is due: the client was silent for so long. `None` means off, or that a Ping is
    /// unanswered already.
    fn ping_at(&self, rules: &TunnelLimits) -> Option<Instant> {
        // A client may answer only the latest Ping (RFC 6455 §5.5.3). Ours behind the backend's
        // would hide that answer.
        if self.ping_sent.is_some() || self.backend_pinged.is_some() {
            return None;
        }
        let at = self.last_byte + rules.ping?;
        Some(self.ping_not_before.map_or(at, |earliest| at.max(earliest)))
    }

    /// When the client is declared dead. The clock runs from the oldest unanswered Ping, ours or
    /// the backend's, and any byte of the client sets it back. `None` means off, no unanswered
    /// Ping, or bytes in front of it that the client has not taken.
    fn pong_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.ping?;
        let oldest = [self.ping_sent, self.backend_pinged].into_iter().flatten().min()?;
        let UnsentState::EmptySince(taken) = self.unsent else { return None };
        Some(oldest.max(self.last_byte).max(taken) + rules.pong)
    }

    fn is_excused(&self, now: Instant) -> bool {
        self.excused.is_some_and(|until| now < until)
    }

    fn stall_ends(&self, patience: Duration) -> Option<Instant> {
        self.stalls.iter().flatten().map(|(since, _)| *since + patience).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A Ping after 25 s of silence, 20 s for an answer, and the idle and lifetime limits of a
    /// strict policy.
    fn rules() -> TunnelLimits {
        TunnelLimits {
            idle: Some(seconds(600)),
            lifetime: Some(seconds(3600)),
            ..TunnelLimits::default()
        }
    }

    /// After `happened`, each at its second, what is due at the seconds of `expected`; the client
    /// is read all the time.
    fn check(
        rules: &TunnelLimits,
        happened: &[(u64, fn(&mut TunnelTimers, Instant))],
        expected: &[(u64, Option<TimerEvent>)],
    ) {
        let opened = Instant::now();
        let mut timers = TunnelTimers::new(opened);
        for (at, happens) in happened {
            happens(&mut timers, opened + seconds(*at));
        }
        for (at, due) in expected {
            assert_eq!(timers.due(opened + seconds(*at), rules, false), *due, "at {at} s");
        }
    }

    fn pings(timers: &mut TunnelTimers, now: Instant) {
        timers.ping(now);
    }

    fn answers_ours(timers: &mut TunnelTimers, now: Instant) {
        timers.on_client_byte(now);
        assert!(timers.payload().is_some(), "it is known");
    }

    fn answers_the_backend(timers: &mut TunnelTimers, now: Instant) {
        timers.on_client_byte(now);
        timers.on_client_pong();
    }

    const OPCODE_PING: Option<TimerEvent> = Some(TimerEvent::Ping);
    const NO_PONG: Option<TimerEvent> = Some(TimerEvent::End(CloseReason::NoPong));
    const IDLE_TIME: Option<TimerEvent> = Some(TimerEvent::End(CloseReason::Idle));
    const LIFETIME: Option<TimerEvent> = Some(TimerEvent::End(CloseReason::Lifetime));

    #[test]
    fn silent_client_is_pinged_once_and_has_pong_to_answer() {
        check(&rules(), &[], &[(24, None), (25, OPCODE_PING)]);
        check(&rules(), &[(25, pings)], &[(25, None), (44, None), (45, NO_PONG)]);
        check(
            &rules(),
            &[(25, pings), (26, answers_ours)],
            &[(45, None), (50, None), (51, OPCODE_PING)],
        );
    }

    #[test]
    fn any_client_byte_counts_as_life() {
        check(&rules(), &[(20, TunnelTimers::on_client_byte)], &[(25, None), (45, OPCODE_PING)]);
        check(
            &rules(),
            &[(25, pings), (44, TunnelTimers::on_client_byte)],
            &[(45, None), (64, None), (69, OPCODE_PING)],
        );
    }

    #[test]
    fn own_ping_is_withheld_while_a_backend_ping_is_unanswered() {
        check(
            &rules(),
            &[(10, TunnelTimers::on_backend_ping)],
            &[(25, None), (29, None), (30, NO_PONG)],
        );
        check(
            &rules(),
            &[(10, TunnelTimers::on_backend_ping), (20, TunnelTimers::on_backend_ping)],
            &[(30, NO_PONG)],
        );
        check(
            &rules(),
            &[(10, TunnelTimers::on_backend_ping), (20, TunnelTimers::on_client_byte)],
            &[(39, None), (40, NO_PONG)],
        );
        check(
            &rules(),
            &[(10, TunnelTimers::on_backend_ping), (11, answers_the_backend)],
            &[(35, None), (36, OPCODE_PING)],
        );
    }

    #[test]
    fn own_pings_share_one_payload() {
        let mut timers = TunnelTimers::new(Instant::now());
        assert_eq!(timers.payload(), None, "no Ping of ours has gone out");
        let payload = timers.ping(Instant::now());
        assert_eq!((timers.payload(), timers.ping(Instant::now())), (Some(payload), payload));
    }

    #[test]
    fn client_is_never_declared_dead_without_a_ping() {
        let rules = TunnelLimits { ping: None, ..TunnelLimits::default() };
        check(&rules, &[(1, TunnelTimers::on_backend_ping)], &[(1_000_000, None)]);
    }

    #[test]
    fn deferred_ping_is_retried_soon() {
        check(&rules(), &[(25, TunnelTimers::defer_ping)], &[(25, None), (26, OPCODE_PING)]);
    }

    #[test]
    fn idle_counts_from_the_last_relayed_frame() {
        let rules = TunnelLimits { idle: Some(seconds(60)), ..TunnelLimits::default() };
        check(&rules, &[(25, pings), (26, answers_ours)], &[(60, IDLE_TIME)]);
        check(
            &rules,
            &[(30, TunnelTimers::on_frame), (31, TunnelTimers::on_client_byte)],
            &[(60, OPCODE_PING), (89, OPCODE_PING), (90, IDLE_TIME)],
        );
    }

    #[test]
    fn lifetime_ends_a_busy_tunnel() {
        check(
            &rules(),
            &[(3599, TunnelTimers::on_client_byte), (3599, TunnelTimers::on_frame)],
            &[(3599, None), (3600, LIFETIME)],
        );
    }

    #[test]
    fn pong_is_not_due_while_the_ping_waits_behind_data() {
        fn fills(timers: &mut TunnelTimers, now: Instant) {
            timers.set_unsent(now, true);
        }
        fn empties(timers: &mut TunnelTimers, now: Instant) {
            timers.set_unsent(now, false);
        }
        check(&rules(), &[(24, fills), (25, pings)], &[(45, None), (100, None)]);
        check(&rules(), &[(24, fills), (25, pings), (40, empties)], &[(59, None), (60, NO_PONG)]);
        check(
            &rules(),
            &[(20, fills), (24, empties), (25, pings), (40, empties)],
            &[(45, NO_PONG)],
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stopped_process_reads_before_it_declares_silence() {
        let opened = Instant::now();
        let mut timers = TunnelTimers::new(opened);
        timers.ping(opened);
        timers.arm(
            &mut Context::from_waker(std::task::Waker::noop()),
            opened,
            &rules(),
            &RouteTimeouts::default(),
            false,
        );
        let woken = opened + seconds(3000);
        timers.on_timer(woken);
        assert_eq!(timers.due(woken, &rules(), false), None, "neither idle nor without a Pong");
        assert_eq!(
            timers.due(woken + LATE_TIMER_GRACE, &rules(), false),
            IDLE_TIME,
            "who still says nothing then is"
        );
        timers.on_timer(woken + seconds(1));
        assert_eq!(
            timers.due(opened + seconds(3600), &rules(), false),
            LIFETIME,
            "a lifetime knows no excuse"
        );
    }

    #[test]
    fn silence_of_an_unread_client_does_not_count() {
        let opened = Instant::now();
        let mut timers = TunnelTimers::new(opened);
        timers.ping(opened);
        assert_eq!(timers.due(opened + seconds(21), &rules(), true), None);
        assert_eq!(timers.due(opened + seconds(21), &rules(), false), NO_PONG);
    }

    /// At each second, how much each side has taken while there was more for it, and who has
    /// stalled by then; after 30 s.
    fn check_stalls(steps: &[(u64, [Option<u64>; 2], Option<usize>)]) {
        let opened = Instant::now();
        let mut timers = TunnelTimers::new(opened);
        for (at, unsent, stalled) in steps {
            assert_eq!(
                timers.stalled(opened + seconds(*at), seconds(30), *unsent),
                *stalled,
                "at {at} s"
            );
        }
    }

    #[test]
    fn side_stalls_only_when_it_accepts_no_byte() {
        check_stalls(&[
            (10, [Some(5), None], None),
            (39, [Some(5), None], None),
            (40, [Some(5), None], Some(0)),
        ]);
        check_stalls(&[(10, [None, Some(0)], None), (40, [None, Some(0)], Some(1))]);
        check_stalls(&[
            (10, [Some(5), None], None),
            (39, [Some(6), None], None),
            (68, [Some(6), None], None),
        ]);
        check_stalls(&[
            (10, [Some(5), None], None),
            (20, [None, None], None),
            (40, [Some(5), None], None),
        ]);
    }

    #[test]
    fn grace_ends_at_its_deadline() {
        let opened = Instant::now();
        let mut timers = TunnelTimers::new(opened);
        assert!(!timers.is_grace_over(opened + seconds(100)), "none runs");
        timers.end_within(opened, seconds(5));
        assert_eq!([4, 5].map(|at| timers.is_grace_over(opened + seconds(at))), [false, true]);
    }

    /// What happens to a tunnel that looks at its clock after each of it.
    const EVENTS: [fn(&mut TunnelTimers, Instant); 6] = [
        TunnelTimers::on_client_byte,
        TunnelTimers::on_frame,
        TunnelTimers::on_backend_ping,
        TunnelTimers::defer_ping,
        |_, _| (),
        |timers, _| {
            timers.on_client_pong();
        },
    ];

    #[test]
    fn acks_are_polled_after_a_pause_and_before_a_side_is_given_up() {
        let (start, patience) = (Instant::now(), seconds(60));
        let mut timers = TunnelTimers::new(start);
        assert!(!timers.is_ack_poll_due(start, patience), "most endings are over by the next step");
        let first = start + MAX_ACK_POLL_INTERVAL;
        assert!(timers.is_ack_poll_due(first, patience));
        // A side owes something, and takes nothing for 3 s: the pauses grow to a second.
        timers.stalled(first, patience, [Some(1), None]);
        timers.on_ack_poll(first);
        assert!(timers.is_ack_poll_due(first + MIN_ACK_POLL_INTERVAL, patience));
        let later = first + seconds(3);
        timers.stalled(later, patience, [Some(1), None]);
        timers.on_ack_poll(later);
        let step = later + MIN_ACK_POLL_INTERVAL;
        assert!(!timers.is_ack_poll_due(step, patience));
        assert!(timers.is_ack_poll_due(step, seconds(3)), "it would be given up");
        timers.end_within(later, MIN_ACK_POLL_INTERVAL);
        assert!(timers.is_ack_poll_due(step, patience), "its grace would be over");
        // Nothing is owed any more: the next step begins anew.
        timers.stalled(step, patience, [None; 2]);
        timers.on_ack_poll(step);
        let mut anew = TunnelTimers { grace_ends: None, ..timers };
        assert!(!anew.is_ack_poll_due(step + seconds(9), patience));
        let soon = seconds(1) / 5;
        assert!(!anew.is_ack_poll_due(step + seconds(9) + soon, patience));
        assert!(anew.is_ack_poll_due(step + seconds(10), patience));
        let mut hurried = TunnelTimers::new(start);
        assert!(!hurried.is_ack_poll_due(start, seconds(1)), "an eighth of the patience");
        assert!(hurried.is_ack_poll_due(start + soon, seconds(1)));
    }

    proptest! {
        #[test]
        fn quiescent_timers_have_nothing_due(ping in 1u64..40, steps in prop::collection::vec((0u64..40, 0..EVENTS.len()), 1..40)) {
            let rules = TunnelLimits { ping: Some(seconds(ping)), ..rules() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (mut timers, mut cx) = (TunnelTimers::new(Instant::now()), Context::from_waker(std::task::Waker::noop()));
                for (wait, event) in steps {
                    tokio::time::advance(seconds(wait)).await;
                    let now = Instant::now();
                    EVENTS[event](&mut timers, now);
                    if timers.is_quiescent(now) {
                        assert_eq!(timers.due(now, &rules, false), None);
                        continue;
                    }
                    while timers.due(now, &rules, false) == OPCODE_PING {
                        timers.ping(now);
                    }
                    timers.arm(&mut cx, now, &rules, &RouteTimeouts::default(), false);
                }
            });
        }
    }
}
