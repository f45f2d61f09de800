//! How a tunnel ends: the Closes that go out, what each side still gets, and until when.
//!
//! Nothing here runs for a tunnel that only relays.

use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::close::{By, Closed, Phase, Reason, code};
use crate::data::stream::turn;
use crate::data::tunnel::Tunnel;
use crate::data::tunnel::ending::{Course, Ended, Ending, Violation};
use crate::data::tunnel::side::Way;
use crate::data::websocket::frame::Fault;
use crate::refusal::Refusal;

/// How long a side may go on answering what the other sent before it broke a rule.
const ANSWERS: Duration = Duration::from_secs(1);

impl Tunnel {
    /// Ends one side's stream: FIN or close_notify came, or its socket failed.
    #[cold]
    pub(super) fn stream_ended(&mut self, way: Way, cx: &mut Context<'_>, now: Instant) {
        let was_done = self.sides(way).0.end_stream();
        if self.is_answering(way) {
            self.give_verdict(cx, now); // before FIN goes the same way
        }
        let (from, to) = self.sides(way);
        match way {
            // No Close is made up for either side: the backend gets FIN, and what it sends still
            // flows.
            Way::FromClient => to.channel.finish(),
            // The client has got a Close already, or is gone itself.
            Way::FromBackend if was_done || to.was_closed() || to.has_ended() => {}
            Way::FromBackend if from.scanner.at_boundary() => to.channel.finish(),
            // The client waits for the rest of a frame that never comes: its stream ends at once.
            Way::FromBackend => self.part(cx, now),
        }
        let (by, reason) = match way {
            Way::FromClient => (By::Client, Reason::ClientGone),
            Way::FromBackend => (By::Backend, Reason::BackendGone),
        };
        self.ending.get_or_insert(Ending { by, reason, code: None, refusal: None });
        self.give_grace(now);
    }

    /// Judges a side that broke the framing or a limit. The frames that it sent before that have
    /// been passed on, and 1001 follows them; the code for the violator waits until the other side
    /// has answered. Meanwhile nothing is read from the violator.
    #[cold]
    pub(super) fn violated(&mut self, way: Way, fault: Fault, cx: &mut Context<'_>, now: Instant) {
        let by = match way {
            Way::FromClient => By::Client,
            Way::FromBackend => By::Backend,
        };
        let (by, reason, code, word) = match fault {
            Fault::Framing(what) => (by, Reason::Framing, code::PROTOCOL, what),
            Fault::TooBig => (by, Reason::TooBig, code::TOO_BIG, Reason::TooBig.word()),
            Fault::TooMany => {
                (By::Sidegate, Reason::MessageRate, code::POLICY, Reason::MessageRate.word())
            }
            Fault::TooManyFrames => {
                (By::Sidegate, Reason::FrameRate, code::POLICY, Reason::FrameRate.word())
            }
        };
        let was_free = self.is_free();
        let (from, to) = self.sides(way);
        // What comes after a violation has no frames any more.
        from.discard();
        if was_free {
            to.want_close(code::AWAY, "");
            from.pause();
            let has_answers = !to.is_done() && !to.has_failed() && from.is_writable();
            self.ending.get_or_insert(Ending { by, reason, code: Some(code), refusal: None });
            self.course = Course::Answering(Violation { way, code, word });
            self.clock.end_within(now, ANSWERS);
            self.inject(cx);
            if has_answers {
                return;
            }
        }
        // A side that breaks a rule while it answers has no more answers.
        self.give_verdict(cx, now);
    }

    /// Sends the violator its code: the other side has answered, or has taken too long. The
    /// violator is read again: a socket that is closed with unread bytes is reset, and the code
    /// would be lost (RFC 9112 §9.6).
    #[cold]
    pub(super) fn give_verdict(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Course::Answering(Violation { way, code, word }) = self.course else { return };
        let from = self.sides(way).0;
        from.want_close(code, word);
        from.resume();
        self.course = Course::Judged(way);
        self.clock.end_within(now, self.terms.route.timeouts.grace);
        self.inject(cx);
        // A side that was paused may have missed its wake: the next poll reads it.
        turn::give_way(cx);
    }

    /// Whether the bytes that go this way answer a side that broke a rule.
    pub(super) fn is_answering(&self, way: Way) -> bool {
        matches!(&self.course, Course::Answering(violation) if violation.way != way)
    }

    fn is_free(&self) -> bool {
        matches!(self.course, Course::Free)
    }

    /// Ends the tunnel for a reason of ours. A tunnel that is ending already keeps its reason, and
    /// has no longer than the grace from now on.
    pub(super) fn end(&mut self, ending: Ending, cx: &mut Context<'_>, now: Instant) {
        if !self.is_free() {
            // A client that the policy no longer permits gets no more answers, and no more than the
            // grace to read bytes that are on their way to it.
            if ending.reason == Reason::Revoked {
                self.give_verdict(cx, now);
                self.clock.client_ends_within(now, self.terms.route.timeouts.grace);
            }
            return;
        }
        // Where nothing else was on its way, only our Close is: a peer that is not there must not
        // hold up a drain for that.
        let may_read = ending.reason != Reason::Revoked;
        let owed = [
            may_read && (self.client.owes() || !self.backend.scanner.at_boundary()),
            self.backend.owes() || !self.client.scanner.at_boundary(),
        ];
        let word = ending.refusal.map_or_else(|| ending.reason.word(), Refusal::word);
        if let Some(code) = ending.code {
            self.client.want_close(code, word);
            self.backend.want_close(ending.reason.to_backend(), word);
        }
        self.ending.get_or_insert(ending);
        self.give_grace(now);
        self.course = Course::Firm(owed);
        self.inject(cx);
        if ending.reason == Reason::NoPong {
            // A best effort: a client that is not there answers nothing.
            self.client.flush(cx);
            self.client.drop_unread();
        }
    }

    /// Starts the grace anew, unless it is running out for good.
    pub(super) fn give_grace(&mut self, now: Instant) {
        if self.is_free() {
            self.clock.end_within(now, self.terms.route.timeouts.grace);
        }
    }

    /// Puts Closes where a frame has ended, and ends the direction to each side that is done.
    pub(super) fn wind_up(&mut self, cx: &mut Context<'_>) {
        self.inject(cx);
        // Both sides have got a Close, and nothing more comes from the client: end our direction to
        // it (RFC 6455 §7.1.1: the server closes first), and wait for the backend to end its own.
        if !self.client.is_writable() && !self.backend.is_writable() && self.client.is_done() {
            self.client.channel.finish();
        }
        if self.client.has_ended() && self.backend.has_ended() {
            self.client.channel.finish();
            self.backend.channel.finish();
        }
    }

    /// Puts a wanted Close where no frame is on its way.
    pub(super) fn inject(&mut self, cx: &mut Context<'_>) {
        if self.backend.scanner.at_boundary() {
            self.client.close_if_due(Way::FromBackend, cx);
        }
        if self.client.scanner.at_boundary() {
            self.backend.close_if_due(Way::FromClient, cx);
        }
    }

    /// As [`Tunnel::keep_time`], for a tunnel that is ending. It also waits for a side that has not
    /// acknowledged what the kernel holds for it: once the socket is closed, the next byte that its
    /// peer sends resets the connection, and the kernel drops what it holds.
    #[cold]
    pub(super) fn keep_ending(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let timeouts = self.terms.route.timeouts;
        // Not `||`: both sides have to be asked.
        if self.client.breaks() | self.backend.breaks() {
            return true;
        }
        let owed = [self.client.owed(), self.backend.owed()];
        self.clock.wakes(now);
        if let Some(side) = self.clock.stalled(now, timeouts.write_stall, owed) {
            self.stalled(side, cx, now);
            return true;
        }
        if self.is_delivering(owed.map(|owed| owed.is_some())) {
            self.clock.end_within(now, timeouts.grace);
        }
        if self.clock.is_client_over(now) && !self.client.has_failed() {
            self.client.give_up();
            return true;
        }
        if self.clock.is_grace_over(now) {
            self.grace_over(cx, now);
            return true;
        }
        let rules = self.terms.limits();
        if self.is_free() && self.clock.is_outlived(now, rules) {
            self.end(Ending::ours(Reason::Lifetime, None), cx, now);
            return true;
        }
        self.clock.arm_ending(cx, now, rules, &timeouts);
        false
    }

    /// Ends a side that has taken nothing for `write_stall`. The other gets what was passed to it
    /// before.
    #[cold]
    pub(super) fn stalled(&mut self, side: usize, cx: &mut Context<'_>, now: Instant) {
        let [client, backend] = [(By::Client, Way::FromClient), (By::Backend, Way::FromBackend)];
        let (by, way) = if side == 0 { client } else { backend };
        let ending = Ending { by, reason: Reason::Stalled, code: None, refusal: None };
        self.ending.get_or_insert(ending);
        self.sides(way).0.give_up();
        match &self.course {
            Course::Answering(violation) if violation.way != way => self.give_verdict(cx, now),
            // The violator has its code, and its grace.
            Course::Judged(violator) if *violator != way => {}
            Course::Last => {}
            _ => self.part(cx, now),
        }
    }

    /// Relays nothing from now on. A side that has not acknowledged all that was passed to it gets
    /// the rest, and the end of its stream behind that; bytes that it sends are discarded.
    #[cold]
    fn part(&mut self, cx: &mut Context<'_>, now: Instant) {
        for side in [&mut self.client, &mut self.backend] {
            side.discard();
            side.cancel_close();
            if side.owes() {
                side.channel.finish();
            } else {
                side.give_up();
            }
        }
        self.course = Course::Last;
        self.clock.end_within(now, self.terms.route.timeouts.grace);
        // A side that was not read for a while may have missed its wake: the next poll reads it.
        turn::give_way(cx);
    }

    /// Takes the next step where the grace is over.
    #[cold]
    fn grace_over(&mut self, cx: &mut Context<'_>, now: Instant) {
        match self.course {
            Course::Answering(_) => self.give_verdict(cx, now),
            Course::Judged(way) => {
                // The frames before the violation are legal: the other side still gets them, though
                // the violator does not get the answers.
                self.sides(way).0.give_up();
                self.part(cx, now);
            }
            Course::Free | Course::Firm(_) => {
                let owed = if let Course::Firm(owed) = self.course { owed } else { [true; 2] };
                for (side, owed) in [&mut self.client, &mut self.backend].into_iter().zip(owed) {
                    if !owed {
                        side.give_up();
                    }
                }
                self.part(cx, now);
                self.clock.client_ends_within(now, self.terms.route.timeouts.write_stall);
            }
            Course::Last => {
                self.client.give_up();
                self.backend.give_up();
            }
        }
    }

    /// Whether a side has not yet got all that the other sent before it ended: `write_stall` bounds
    /// that, not the grace.
    fn is_delivering(&self, [client, backend]: [bool; 2]) -> bool {
        match self.course {
            Course::Free if client && self.backend.is_done() => true,
            Course::Free => backend && self.client.is_done(),
            Course::Last => client || backend,
            Course::Answering(_) | Course::Judged(_) | Course::Firm(_) => false,
        }
    }

    /// Whether nothing is left to do: each side is dead, or has ended and got all that was for it.
    pub(super) fn is_over(&self) -> bool {
        if self.ending.is_none() {
            return false;
        }
        // A dead client takes nothing more; the backend then only has to get its part.
        let client_lost = self.client.has_failed() && !self.backend.owes();
        client_lost || (self.client.is_gone() && self.backend.is_gone())
    }

    /// Returns the facts of an ending. `fallback` is the reason if there was none (a bug, a panic).
    pub fn ended(&self, fallback: Reason) -> Ended {
        let ending = self.ending.unwrap_or(Ending {
            by: By::Sidegate,
            reason: fallback,
            code: None,
            refusal: None,
        });
        let (from_client, from_backend) = self.entry.traffic.totals();
        let closing = self.client.was_closed() || self.backend.was_closed();
        let closed = Closed {
            by: ending.by,
            phase: if closing { Phase::Closing } else { Phase::Open },
            reason: ending.reason,
            code: ending.code,
            from_client,
            from_backend,
            lasted: self.clock.since_opened(),
        };
        Ended { closed, refusal: ending.refusal }
    }
}
