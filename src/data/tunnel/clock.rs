//! A tunnel's clocks: idle, lifetime, Ping and Pong, stalls, the grace of an ending.
//!
//! One timer serves them all and is only moved earlier: traffic just notes the
//! time, and a timer that fires too soon is armed again. It ends nothing itself.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::close::Reason;
use crate::data::channel::Channel;
use crate::policy::limit::TunnelLimits;
use crate::snapshot::route::RouteTimeouts;

/// How long a Ping waits that could not be put because a frame was on its way.
const PING_AGAIN: Duration = Duration::from_secs(1);

/// What is due now.
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
    /// Our Ping that no Pong and no other byte has answered.
    pinged: Option<Instant>,
    /// The oldest of the backend's Pings that no Pong has answered.
    backend_pinged: Option<Instant>,
    /// The 8 random bytes of our Pings; the same for the tunnel's life, so that a late Pong is still known.
    payload: Option<[u8; 8]>,
    ping_not_before: Option<Instant>,
    grace_ends: Option<Instant>,
    /// Since when a side has taken nothing, and what it had taken by then.
    stalls: [Option<(Instant, u64)>; 2],
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Starts at the 101.
    pub fn new(now: Instant) -> Self {
        Clock {
            opened: now,
            relayed: now,
            heard: now,
            pinged: None,
            backend_pinged: None,
            payload: None,
            ping_not_before: None,
            grace_ends: None,
            stalls: [None; 2],
            timer: None,
        }
    }

    /// A byte came from the client: it lives.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// A frame passed.
    pub fn relayed(&mut self, now: Instant) {
        self.relayed = now;
    }

    /// Our Ping goes out now, with these bytes.
    pub fn ping(&mut self, now: Instant) -> [u8; 8] {
        self.pinged = Some(now);
        *self.payload.get_or_insert_with(rand::random)
    }

    /// A frame is on its way to the client: try again in a moment.
    pub fn ping_later(&mut self, now: Instant) {
        self.ping_not_before = Some(now + PING_AGAIN);
    }

    /// The backend's own Ping passed.
    pub fn backend_pinged(&mut self, now: Instant) {
        self.backend_pinged.get_or_insert(now);
    }

    /// A Pong with this payload came. True if it answers ours, and is to be swallowed.
    pub fn ponged(&mut self, payload: &[u8]) -> bool {
        let ours = self.payload.is_some_and(|own| own == payload);
        if !ours {
            self.backend_pinged = None;
        }
        ours
    }

    /// From now on the tunnel has `grace` to end.
    pub fn end_within(&mut self, now: Instant, grace: Duration) {
        self.grace_ends = Some(now + grace);
    }

    /// Whether the ending took too long.
    pub fn is_grace_over(&self, now: Instant) -> bool {
        self.grace_ends.is_some_and(|end| end <= now)
    }

    /// Since the 101.
    pub fn since_opened(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The side, 0 or 1, that has taken nothing for `patience` while there was something for it.
    pub fn stalled(&mut self, now: Instant, patience: Duration, channels: [&Channel; 2]) -> Option<usize> {
        for (stall, channel) in self.stalls.iter_mut().zip(channels) {
            *stall = match *stall {
                _ if !channel.has_unsent() => None,
                Some((since, sent)) if sent == channel.sent() => Some((since, sent)),
                _ => Some((now, channel.sent())),
            };
        }
        self.stalls.iter().position(|stall| stall.is_some_and(|(since, _)| since + patience <= now))
    }

    /// What is due now. `deaf`: the client isn't read at the moment, so its silence says nothing.
    pub fn due(&self, now: Instant, rules: &TunnelLimits, deaf: bool) -> Option<Due> {
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if over(self.lifetime_ends(rules)) {
            return Some(Due::End(Reason::Lifetime));
        }
        if over(self.idle_ends(rules)) {
            return Some(Due::End(Reason::Idle));
        }
        if !deaf && over(self.pong_ends(rules)) {
            return Some(Due::End(Reason::NoPong));
        }
        if over(self.ping_at(rules)) { Some(Due::Ping) } else { None }
    }

    /// Wakes the task at the next moment at which something may be due.
    pub fn arm(&mut self, cx: &mut Context<'_>, now: Instant, rules: &TunnelLimits, timeouts: &RouteTimeouts, deaf: bool) {
        // A deaf moment ends by a write to the backend, which wakes the task by itself.
        let pong = if deaf { None } else { self.pong_ends(rules) };
        let stall = self.stall_ends(timeouts.write_stall);
        let next = [self.lifetime_ends(rules), self.idle_ends(rules), pong, self.ping_at(rules), stall];
        self.wake_at(cx, now, next.into_iter().flatten().min());
    }

    /// Wakes the task when the ending has taken too long.
    pub fn arm_ending(&mut self, cx: &mut Context<'_>, now: Instant, timeouts: &RouteTimeouts) {
        let next = [self.grace_ends, self.stall_ends(timeouts.write_stall)];
        self.wake_at(cx, now, next.into_iter().flatten().min());
    }

    fn wake_at(&mut self, cx: &mut Context<'_>, now: Instant, next: Option<Instant>) {
        let Some(next) = next else { return };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if timer.deadline() > next || timer.deadline() <= now {
            timer.as_mut().reset(next);
        }
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn lifetime_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.lifetime.map(|lifetime| self.opened + lifetime)
    }

    fn idle_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.idle.map(|idle| self.relayed + idle)
    }

    /// A Ping goes out when the client was silent for so long and no Ping is on its way already.
    fn ping_at(&self, rules: &TunnelLimits) -> Option<Instant> {
        if self.pinged.is_some() || self.backend_pinged.is_some() {
            return None;
        }
        let at = self.heard + rules.ping?;
        Some(self.ping_not_before.map_or(at, |earliest| at.max(earliest)))
    }

    /// The clock runs from the oldest unanswered Ping, ours or the backend's, and any byte sets it back.
    fn pong_ends(&self, rules: &TunnelLimits) -> Option<Instant> {
        rules.ping?;
        let oldest = [self.pinged, self.backend_pinged].into_iter().flatten().min()?;
        Some(oldest.max(self.heard) + rules.pong)
    }

    fn stall_ends(&self, patience: Duration) -> Option<Instant> {
        self.stalls.iter().flatten().map(|(since, _)| *since + patience).min()
    }
}
