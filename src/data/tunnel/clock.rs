//! A tunnel's clocks: idle, lifetime, Ping and Pong, stalls, the grace of an ending.
//!
//! One timer serves them all and is only moved earlier: traffic just notes the time, and a timer
//! that fires too soon is armed again. The clock ends nothing itself.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::close::Reason;
use crate::policy::limit::TunnelLimits;
use crate::snapshot::route::RouteTimeouts;

/// How long a Ping waits that could not be written because a frame was on its way.
const PING_AGAIN: Duration = Duration::from_secs(1);

/// A timer that fires so much too late tells of a process that was stopped or starved.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// How long silence says nothing after that: bytes that came meanwhile are read first.
const EXCUSED: Duration = Duration::from_secs(2);

/// The shortest and the longest pause between two looks at what a side has acknowledged.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What the tunnel has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A Ping to the client.
    Ping,
    /// The end, for this reason.
    End(Reason),
}

/// The clocks of one tunnel.
pub struct Clock {
    opened: Instant,
    /// The last frame that passed either way; our own Pings and their Pongs don't count.
    relayed: Instant,
    /// The last byte from the client, whatever it was.
    heard: Instant,
    /// When our Ping went out. `None` means that a Pong or another byte has answered it.
    pinged: Option<Instant>,
    /// When the oldest Ping of the backend's passed that no Pong has answered. `None` means that
    /// none waits.
    backend_pinged: Option<Instant>,
    /// The 8 random bytes of our Pings; the same for the tunnel's life, so that a late Pong is
    /// still known. `None` means that none has gone out.
    payload: Option<[u8; 8]>,
    ping_not_before: Option<Instant>,
    /// Until when the client had not taken the bytes in front of our Ping.
    taken: Taken,
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
    /// Whether the timer was set with all that is known now. Bytes and frames alone only move a
    /// moment later.
    is_set: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Whether a Ping of ours has left yet, or waits behind data that the client is slow to take.
#[derive(Clone, Copy)]
enum Taken {
    /// Bytes for the client are unsent.
    NotYet,
    /// No byte has been unsent since then.
    Since(Instant),
}

impl Clock {
    /// Starts all clocks at the 101.
    pub fn new(now: Instant) -> Self {
        Clock {
            opened: now,
            relayed: now,
            heard: now,
            pinged: None,
            backend_pinged: None,
            payload: None,
            ping_not_before: None,
            taken: Taken::Since(now),
            excused: None,
            grace_ends: None,
            client_ends: None,
            stalls: [None; 2],
            is_set: false,
            timer: None,
        }
    }

    /// Notes that a byte came from the client: it lives.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        if self.pinged.take().is_some() {
            self.disarm();
        }
    }

    /// Notes that a frame passed, either way.
    pub fn relayed(&mut self, now: Instant) {
        self.relayed = now;
    }

    /// Notes that our Ping goes out now, and returns its payload.
    pub fn ping(&mut self, now: Instant) -> [u8; 8] {
        self.pinged = Some(now);
        self.disarm();
        *self.payload.get_or_insert_with(rand::random)
    }

    /// Puts our Ping off: a frame is on its way to the client.
    pub fn ping_later(&mut self, now: Instant) {
        self.ping_not_before = Some(now + PING_AGAIN);
        self.disarm();
    }

    /// Notes that a Ping of the backend's passed.
    pub fn backend_pinged(&mut self, now: Instant) {
        self.backend_pinged.get_or_insert(now);
        self.disarm();
    }

    /// The payload of our Pings. `None` means that none has gone out. A Pong with it is to be
    /// swallowed.
    pub fn payload(&self) -> Option<[u8; 8]> {
        self.payload
    }

    /// Notes that a Pong passed that answers the backend's Ping.
    pub fn ponged(&mut self) {
        self.backend_pinged = None;
        self.disarm();
    }

    /// Notes whether bytes wait for the client, which takes them slowly: a Ping of ours behind them
    /// cannot be answered yet, and a client that takes nothing at all has stalled.
    pub fn holds_back(&mut self, now: Instant, unsent: bool) {
        self.taken = match (self.taken, unsent) {
            (_, true) => Taken::NotYet,
            (Taken::NotYet, false) => Taken::Since(now),
            (since, false) => since,
        };
    }

    /// Notices that the timer fires far too late: the process was stopped, or starved. Bytes that
    /// the sides have sent meanwhile may not be readable yet where there are thousands of them, so
    /// silence is excused for a moment.
    pub fn wakes(&mut self, now: Instant) {
        if self.timer.as_ref().is_some_and(|timer| timer.deadline() + OVERSLEPT <= now) {
            self.excused = Some(now + EXCUSED);
            self.timer = None;
        }
        if self.is_excused(now) {
            self.stalls = [None; 2];
        }
    }

    /// Whether nothing can be due before the timer fires. To be called while nothing is unsent.
    pub fn is_calm(&self, now: Instant) -> bool {
        let takes = matches!(self.taken, Taken::Since(_)) && self.stalls == [None; 2];
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
    pub fn is_client_over(&self, now: Instant) -> bool {
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
                (Some((since, before)), Some(sent)) if before == sent => Some((since, sent)),
                (_, Some(sent)) => Some((now, sent)),
            };
        }
        self.stalls.iter().position(|stall| stall.is_some_and(|(since, _)| since + patience <= now))
    }

    /// Whether the tunnel is older than it may get.
    pub fn is_outlived(&self, now: Instant, rules: &TunnelLimits) -> bool {
        self.lifetime_ends(rules).is_some_and(|end| end <= now)
    }

    /// Returns the event that is due now. `deaf` means that the client is not read at the moment,
    /// so that its silence says nothing.
    pub fn due(&self, now: Instant, rules: &TunnelLimits, deaf: bool) -> Option<Due> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.is_outlived(now, rules) {
            return Some(Due::End(Reason::Lifetime));
        }
        let excused = self.is_excused(now);
        if !excused && over(self.idle_ends(rules)) {
            return Some(Due::End(Reason::Idle));
        }
        if !deaf && !excused && over(self.pong_ends(rules)) {
            return Some(Due::End(Reason::NoPong));
        }
        if over(self.ping_at(rules)) { Some(Due::Ping) } else { None }
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
            self.look_at(now),
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
        rules.idle.map(|idle| self.relayed + idle)
    }

    /// When our Ping is due: the client was silent for so long. `None` means off, or that a Ping is
    /// unanswered already.
    fn ping_at(&self, rules: &TunnelLimits) -> Option<Instant> {
        if self.pinged.is_some() || self.backend_pinged.is_some() {
            return None;
        }
        let at = self.heard + rules.ping?;
        Some(self.ping_not_before.map_or(at, |earliest| at.max(earliest)))
    }

    /// When the client is declared dead. The clock runs from the oldest unanswered Ping, ours or
    /// the backend's, and any byte of the client sets it back. `None` means off, no unanswered
    /// Ping, or bytes in front of it that the client has not taken.
    fn pong_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.ping?;
        let oldest = [self.pinged, self.backend_pinged].into_iter().flatten().min()?;
        let Taken::Since(taken) = self.taken else { return None };
        Some(oldest.max(self.heard).max(taken) + rules.pong)
    }

    fn is_excused(&self, now: Instant) -> bool {
        self.excused.is_some_and(|until| now < until)
    }

    /// When to look again at what the sides have acknowledged: the longer one has taken nothing,
    /// the longer are the pauses.
    fn look_at(&self, now: Instant) -> Option<Instant> {
        let since = self.stalls.iter().flatten().map(|(since, _)| *since).max()?;
        Some(now + now.duration_since(since).clamp(FIRST_LOOK, LAST_LOOK))
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
        happened: &[(u64, fn(&mut Clock, Instant))],
        expected: &[(u64, Option<Due>)],
    ) {
        let opened = Instant::now();
        let mut clock = Clock::new(opened);
        for (at, happens) in happened {
            happens(&mut clock, opened + seconds(*at));
        }
        for (at, due) in expected {
            assert_eq!(clock.due(opened + seconds(*at), rules, false), *due, "at {at} s");
        }
    }

    fn pings(clock: &mut Clock, now: Instant) {
        clock.ping(now);
    }

    fn answers_ours(clock: &mut Clock, now: Instant) {
        clock.heard(now);
        assert!(clock.payload().is_some(), "it is known");
    }

    fn answers_the_backend(clock: &mut Clock, now: Instant) {
        clock.heard(now);
        clock.ponged();
    }

    const PING: Option<Due> = Some(Due::Ping);
    const NO_PONG: Option<Due> = Some(Due::End(Reason::NoPong));
    const IDLE: Option<Due> = Some(Due::End(Reason::Idle));
    const LIFETIME: Option<Due> = Some(Due::End(Reason::Lifetime));

    #[test]
    fn a_silent_client_is_pinged_once_and_has_so_long_to_answer() {
        check(&rules(), &[], &[(24, None), (25, PING)]);
        check(&rules(), &[(25, pings)], &[(25, None), (44, None), (45, NO_PONG)]);
        check(&rules(), &[(25, pings), (26, answers_ours)], &[(45, None), (50, None), (51, PING)]);
    }

    #[test]
    fn any_byte_of_the_client_counts_as_life() {
        check(&rules(), &[(20, Clock::heard)], &[(25, None), (45, PING)]);
        check(&rules(), &[(25, pings), (44, Clock::heard)], &[(45, None), (64, None), (69, PING)]);
    }

    #[test]
    fn while_a_ping_of_the_backends_is_unanswered_ours_is_withheld_and_its_clock_runs() {
        check(&rules(), &[(10, Clock::backend_pinged)], &[(25, None), (29, None), (30, NO_PONG)]);
        check(
            &rules(),
            &[(10, Clock::backend_pinged), (20, Clock::backend_pinged)],
            &[(30, NO_PONG)],
        );
        check(
            &rules(),
            &[(10, Clock::backend_pinged), (20, Clock::heard)],
            &[(39, None), (40, NO_PONG)],
        );
        check(
            &rules(),
            &[(10, Clock::backend_pinged), (11, answers_the_backend)],
            &[(35, None), (36, PING)],
        );
    }

    #[test]
    fn our_pings_have_one_payload_so_that_a_late_pong_is_known() {
        let mut clock = Clock::new(Instant::now());
        assert_eq!(clock.payload(), None, "no Ping of ours has gone out");
        let payload = clock.ping(Instant::now());
        assert_eq!((clock.payload(), clock.ping(Instant::now())), (Some(payload), payload));
    }

    #[test]
    fn without_a_ping_nobody_is_declared_dead() {
        let rules = TunnelLimits { ping: None, ..TunnelLimits::default() };
        check(&rules, &[(1, Clock::backend_pinged)], &[(1_000_000, None)]);
    }

    #[test]
    fn a_ping_that_found_a_frame_on_its_way_is_tried_again_in_a_moment() {
        check(&rules(), &[(25, Clock::ping_later)], &[(25, None), (26, PING)]);
    }

    #[test]
    fn idle_counts_from_the_last_frame_and_not_from_our_pings() {
        let rules = TunnelLimits { idle: Some(seconds(60)), ..TunnelLimits::default() };
        check(&rules, &[(25, pings), (26, answers_ours)], &[(60, IDLE)]);
        check(
            &rules,
            &[(30, Clock::relayed), (31, Clock::heard)],
            &[(60, PING), (89, PING), (90, IDLE)],
        );
    }

    #[test]
    fn a_lifetime_ends_whatever_passes() {
        check(
            &rules(),
            &[(3599, Clock::heard), (3599, Clock::relayed)],
            &[(3599, None), (3600, LIFETIME)],
        );
    }

    #[test]
    fn a_ping_behind_data_that_the_client_takes_slowly_is_not_unanswered() {
        fn fills(clock: &mut Clock, now: Instant) {
            clock.holds_back(now, true);
        }
        fn empties(clock: &mut Clock, now: Instant) {
            clock.holds_back(now, false);
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
    async fn a_process_that_was_stopped_hears_what_came_before_it_judges() {
        let opened = Instant::now();
        let mut clock = Clock::new(opened);
        clock.ping(opened);
        clock.arm(
            &mut Context::from_waker(std::task::Waker::noop()),
            opened,
            &rules(),
            &RouteTimeouts::default(),
            false,
        );
        let woken = opened + seconds(3000);
        clock.wakes(woken);
        assert_eq!(clock.due(woken, &rules(), false), None, "neither idle nor without a Pong");
        assert_eq!(
            clock.due(woken + EXCUSED, &rules(), false),
            IDLE,
            "who still says nothing then is"
        );
        clock.wakes(woken + seconds(1));
        assert_eq!(
            clock.due(opened + seconds(3600), &rules(), false),
            LIFETIME,
            "a lifetime knows no excuse"
        );
    }

    #[test]
    fn the_silence_of_a_client_that_is_not_read_says_nothing() {
        let opened = Instant::now();
        let mut clock = Clock::new(opened);
        clock.ping(opened);
        assert_eq!(clock.due(opened + seconds(21), &rules(), true), None);
        assert_eq!(clock.due(opened + seconds(21), &rules(), false), NO_PONG);
    }

    /// At each second, how much each side has taken while there was more for it, and who has
    /// stalled by then; after 30 s.
    fn check_stalls(steps: &[(u64, [Option<u64>; 2], Option<usize>)]) {
        let opened = Instant::now();
        let mut clock = Clock::new(opened);
        for (at, unsent, stalled) in steps {
            assert_eq!(
                clock.stalled(opened + seconds(*at), seconds(30), *unsent),
                *stalled,
                "at {at} s"
            );
        }
    }

    #[test]
    fn a_side_that_takes_nothing_stalls_and_one_that_takes_little_does_not() {
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
    fn a_grace_is_over_when_it_is_over() {
        let opened = Instant::now();
        let mut clock = Clock::new(opened);
        assert!(!clock.is_grace_over(opened + seconds(100)), "none runs");
        clock.end_within(opened, seconds(5));
        assert_eq!([4, 5].map(|at| clock.is_grace_over(opened + seconds(at))), [false, true]);
    }

    /// What happens to a tunnel that looks at its clock after each of it.
    const EVENTS: [fn(&mut Clock, Instant); 6] = [
        Clock::heard,
        Clock::relayed,
        Clock::backend_pinged,
        Clock::ping_later,
        |_, _| (),
        |clock, _| {
            clock.ponged();
        },
    ];

    proptest! {
        #[test]
        fn a_calm_clock_has_nothing_due(ping in 1u64..40, steps in prop::collection::vec((0u64..40, 0..EVENTS.len()), 1..40)) {
            let rules = TunnelLimits { ping: Some(seconds(ping)), ..rules() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (mut clock, mut cx) = (Clock::new(Instant::now()), Context::from_waker(std::task::Waker::noop()));
                for (wait, event) in steps {
                    tokio::time::advance(seconds(wait)).await;
                    let now = Instant::now();
                    EVENTS[event](&mut clock, now);
                    if clock.is_calm(now) {
                        assert_eq!(clock.due(now, &rules, false), None);
                        continue;
                    }
                    while clock.due(now, &rules, false) == PING {
                        clock.ping(now);
                    }
                    clock.arm(&mut cx, now, &rules, &RouteTimeouts::default(), false);
                }
            });
        }
    }
}
