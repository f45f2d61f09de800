//! How a tunnel ends: the Closes that go out, what each side still gets, and until when.
//!
//! Nothing here runs for a tunnel that only relays.

use std::borrow::Cow;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::close::{CloseReason, Closed, Initiator, TunnelPhase, code};
use crate::data::stream::turn;
use crate::data::tunnel::Tunnel;
use crate::data::tunnel::ending::{CloseState, EndCause, TunnelOutcome, Violation};
use crate::data::tunnel::side::Flow;
use crate::data::websocket::frame::FrameError;
use crate::refusal::Refusal;

/// How long a side may go on answering what the other sent before it broke a rule.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);

impl Tunnel {
    /// Ends one side's stream: FIN or close_notify came, or its socket failed.
    #[cold]
    pub(super) fn on_stream_end(&mut self, flow: Flow, cx: &mut Context<'_>, now: Instant) {
        let was_done = self.sides(flow).0.end_stream();
        if self.is_answering(flow) {
            self.close_violator(cx, now); // before FIN goes the same way
        }
        let (from, to) = self.sides(flow);
        match flow {
            // No Close is made up for either side: the backend gets FIN, and what it sends still
            // flows.
            Flow::FromClient => to.stream.shutdown_write(),
            // The client has got a Close already, or is gone itself.
            Flow::FromBackend if was_done || to.was_closed() || to.has_ended() => {}
            // Between two frames all data is whole: close_notify and FIN follow it (decision 027).
            Flow::FromBackend if from.scanner.at_boundary() => to.stream.shutdown_write(),
            // The client waits for the rest of a frame that never comes: its stream ends at once.
            Flow::FromBackend => self.stop_relaying(cx, now),
        }
        let (by, reason) = match flow {
            Flow::FromClient => (Initiator::Client, CloseReason::ClientGone),
            Flow::FromBackend => (Initiator::Backend, CloseReason::BackendGone),
        };
        // A side that has sent a Close keeps its ending: the end of its stream only completes that.
        self.ending.get_or_insert(EndCause { by, reason, code: None, refusal: None });
        self.restart_grace(now);
    }

    /// Judges a side that broke the framing or a limit. The frames that it sent before that have
    /// been passed on, and 1001 follows them; the code for the violator waits until the other side
    /// has answered. Meanwhile nothing is read from the violator.
    #[cold]
    pub(super) fn on_violation(
        &mut self,
        flow: Flow,
        fault: FrameError,
        cx: &mut Context<'_>,
        now: Instant,
    ) {
        let by = match flow {
            Flow::FromClient => Initiator::Client,
            Flow::FromBackend => Initiator::Backend,
        };
        // A frame that breaks the framing or `message` `max` is its sender's act. A rate is the
        // policy's, and Sidegate enforces it.
        let (by, reason, code, word) = match fault {
            FrameError::Framing(what) => (by, CloseReason::Framing, code::PROTOCOL_ERROR, what),
            FrameError::TooBig => {
                (by, CloseReason::TooBig, code::MESSAGE_TOO_BIG, CloseReason::TooBig.word())
            }
            FrameError::TooManyMessages => (
                Initiator::Sidegate,
                CloseReason::MessageRate,
                code::POLICY_VIOLATION,
                CloseReason::MessageRate.word(),
            ),
            FrameError::TooManyFrames => (
                Initiator::Sidegate,
                CloseReason::FrameRate,
                code::POLICY_VIOLATION,
                CloseReason::FrameRate.word(),
            ),
        };
        let was_free = self.is_open();
        let (from, to) = self.sides(flow);
        // What comes after a violation has no frames any more.
        from.discard();
        if was_free {
            to.request_close(code::GOING_AWAY, "".into());
            // Paused and not discarded: a flood stays in the kernel, and costs nothing (decision
            // 026).
            from.pause();
            // There is nothing to wait for where the other side is over, or the violator can get no
            // answer.
            let has_answers = !to.is_done() && !to.has_failed() && from.is_writable();
            self.ending.get_or_insert(EndCause { by, reason, code: Some(code), refusal: None });
            self.close_state = CloseState::AwaitingAnswers(Violation { flow, code, word });
            self.timers.end_within(now, ANSWERS_TIMEOUT);
            self.write_closes(cx);
            if has_answers {
                return;
            }
        }
        // A side that breaks a rule while it answers has no more answers. In a tunnel that Sidegate
        // ends already this does nothing.
        self.close_violator(cx, now);
    }

    /// Sends the violator its code: the other side has answered, or has taken too long. The
    /// violator is read again: a socket that is closed with unread bytes is reset, and the code
    /// would be lost (RFC 9112 §9.6).
    #[cold]
    pub(super) fn close_violator(&mut self, cx: &mut Context<'_>, now: Instant) {
        let CloseState::AwaitingAnswers(Violation { flow, code, word }) = self.close_state else {
            return;
        };
        let from = self.sides(flow).0;
        from.request_close(code, word.into());
        from.resume();
        self.close_state = CloseState::ViolatorClosed(flow);
        // The grace begins with the code and not with the violation (decision 026).
        self.timers.end_within(now, self.rules.route.timeouts.grace);
        self.write_closes(cx);
        // A side that was paused may have missed its wake: the next poll reads it.
        turn::yield_after_io(cx);
    }

    /// Whether the bytes that go this way answer a side that broke a rule.
    pub(super) fn is_answering(&self, flow: Flow) -> bool {
        matches!(
            &self.close_state,
            CloseState::AwaitingAnswers(violation) if violation.flow != flow
        )
    }

    fn is_open(&self) -> bool {
        matches!(self.close_state, CloseState::Open)
    }

    /// Ends the tunnel for a reason of ours. A tunnel that is ending already keeps its reason, and
    /// has no longer than the grace from now on.
    pub(super) fn end(&mut self, ending: EndCause, cx: &mut Context<'_>, now: Instant) {
        let word = ending.refusal.map_or_else(|| ending.reason.word(), Refusal::word);
        self.end_with(ending, word.into(), cx, now);
    }

    /// As [`Tunnel::end`], with this text in the Closes.
    pub(super) fn end_with(
        &mut self,
        ending: EndCause,
        text: Cow<'static, str>,
        cx: &mut Context<'_>,
        now: Instant,
    ) {
        if !self.is_open() {
            // A client that the policy no longer permits gets no more answers, and no more than the
            // grace to read bytes that are on their way to it.
            if ending.reason == CloseReason::Revoked {
                self.close_violator(cx, now);
                self.timers.client_ends_within(now, self.rules.route.timeouts.grace);
            }
            return;
        }
        // Where nothing else was on its way, only our Close is: a peer that is not there must not
        // hold up a drain for that.
        let may_read = ending.reason != CloseReason::Revoked;
        // A frame that is relayed in part is owed its rest.
        let owed = [
            may_read && (self.client.has_unacked() || !self.backend.scanner.at_boundary()),
            self.backend.has_unacked() || !self.client.scanner.at_boundary(),
        ];
        if let Some(code) = ending.code {
            self.client.request_close(code, text.clone());
            self.backend.request_close(ending.reason.backend_close_code(), text);
        }
        self.ending.get_or_insert(ending);
        self.restart_grace(now);
        self.close_state = CloseState::Closing(owed);
        self.write_closes(cx);
        if ending.reason == CloseReason::NoPong {
            // A best effort: a client that is not there answers nothing.
            self.client.flush(cx);
            self.client.drop_unread();
        }
    }

    /// Starts the grace anew, unless it is running out for good.
    pub(super) fn restart_grace(&mut self, now: Instant) {
        if self.is_open() {
            self.timers.end_within(now, self.rules.route.timeouts.grace);
        }
    }

    /// Puts Closes where a frame has ended, and ends the direction to each side that is done.
    pub(super) fn finish_sides(&mut self, cx: &mut Context<'_>) {
        self.write_closes(cx);
        // Both sides have got a Close, and nothing more comes from the client: end our direction to
        // it (RFC 6455 §7.1.1: the server closes first), and wait for the backend to end its own.
        if !self.client.is_writable() && !self.backend.is_writable() && self.client.is_done() {
            self.client.stream.shutdown_write();
        }
        // Nothing more can come from either side, so both directions end behind the unsent bytes.
        if self.client.has_ended() && self.backend.has_ended() {
            self.client.stream.shutdown_write();
            self.backend.stream.shutdown_write();
        }
    }

    /// Puts a wanted Close where no frame is on its way.
    pub(super) fn write_closes(&mut self, cx: &mut Context<'_>) {
        // The scanner of the sender knows whether the other side has got its last frame whole.
        if self.backend.scanner.at_boundary() {
            self.client.close_if_due(Flow::FromBackend, cx);
        }
        if self.client.scanner.at_boundary() {
            self.backend.close_if_due(Flow::FromClient, cx);
        }
    }

    /// As [`Tunnel::check_timers`], for a tunnel that is ending. It also waits for a side that has
    /// not acknowledged what the kernel holds for it: once the socket is closed, the next byte that
    /// its peer sends resets the connection, and the kernel drops what it holds.
    #[cold]
    pub(super) fn check_end_timers(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let timeouts = self.rules.route.timeouts;
        self.timers.on_timer(now);
        // Asking the kernel is most of what an ending costs, and most endings are over before the
        // first look.
        if self.timers.is_ack_poll_due(now, timeouts.write_stall) && self.poll_acks(cx, now) {
            return true;
        }
        if self.timers.is_client_timed_out(now) && !self.client.has_failed() {
            self.client.abort();
            return true;
        }
        if self.timers.is_grace_over(now) {
            self.on_grace_over(cx, now);
            return true;
        }
        let limits = self.rules.limits();
        // Two sides that end the tunnel between them may take long, and `lifetime` bounds them as
        // well.
        if self.is_open() && self.timers.is_past_lifetime(now, limits) {
            self.end(EndCause::by_sidegate(CloseReason::Lifetime, None), cx, now);
            return true;
        }
        self.timers.arm_ending(cx, now, limits, &timeouts);
        false
    }

    /// Looks at what each side has acknowledged. True if that changed the tunnel's state.
    #[cold]
    fn poll_acks(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let timeouts = self.rules.route.timeouts;
        let failed = [self.client.has_failed(), self.backend.has_failed()];
        // While the ending is the sides' own, a side may get more until the other is done.
        let is_open = self.is_open();
        let (to_client, to_backend) =
            (is_open && !self.backend.is_done(), is_open && !self.client.is_done());
        let owed =
            [self.client.ending_progress(to_client), self.backend.ending_progress(to_backend)];
        if failed != [self.client.has_failed(), self.backend.has_failed()] {
            return true; // A connection is broken.
        }
        if let Some(side) = self.timers.stalled(now, timeouts.write_stall, owed) {
            self.on_stall(side, cx, now);
            return true;
        }
        // The grace begins once a side has all that is for it. Until then `write_stall` bounds the
        // side.
        if self.is_delivering(owed.map(|owed| owed.is_some())) {
            self.timers.end_within(now, timeouts.grace);
        }
        self.timers.on_ack_poll(now);
        false
    }

    /// Ends a side that has taken nothing for `write_stall`. The other gets what was passed to it
    /// before.
    #[cold]
    pub(super) fn on_stall(&mut self, side: usize, cx: &mut Context<'_>, now: Instant) {
        let [client, backend] =
            [(Initiator::Client, Flow::FromClient), (Initiator::Backend, Flow::FromBackend)];
        let (by, flow) = if side == 0 { client } else { backend };
        let ending = EndCause { by, reason: CloseReason::Stalled, code: None, refusal: None };
        self.ending.get_or_insert(ending);
        self.sides(flow).0.abort();
        match &self.close_state {
            // The side that has to answer takes nothing: no more answers are awaited.
            CloseState::AwaitingAnswers(violation) if violation.flow != flow => {
                self.close_violator(cx, now);
            }
            // The violator has its code, and its grace.
            CloseState::ViolatorClosed(violator) if *violator != flow => {}
            // Nothing is relayed already, and the other side keeps its time.
            CloseState::Flushing => {}
            _ => self.stop_relaying(cx, now),
        }
    }

    /// Relays nothing from now on. A side that has not acknowledged all that was passed to it gets
    /// the rest, and the end of its stream behind that; bytes that it sends are discarded.
    #[cold]
    fn stop_relaying(&mut self, cx: &mut Context<'_>, now: Instant) {
        for side in [&mut self.client, &mut self.backend] {
            side.discard();
            side.cancel_close();
            if side.has_unacked() {
                // The socket stays open: behind a close, the peer's next byte would reset it and
                // lose the rest.
                side.stream.shutdown_write();
            } else {
                side.abort();
            }
        }
        self.close_state = CloseState::Flushing;
        self.timers.end_within(now, self.rules.route.timeouts.grace);
        // A side that was not read for a while may have missed its wake: the next poll reads it.
        turn::yield_after_io(cx);
    }

    /// Takes the next step where the grace is over.
    #[cold]
    fn on_grace_over(&mut self, cx: &mut Context<'_>, now: Instant) {
        match self.close_state {
            CloseState::AwaitingAnswers(_) => self.close_violator(cx, now),
            CloseState::ViolatorClosed(flow) => {
                // The frames before the violation are legal: the other side still gets them, though
                // the violator does not get the answers.
                self.sides(flow).0.abort();
                self.stop_relaying(cx, now);
            }
            CloseState::Open | CloseState::Closing(_) => {
                let owed =
                    if let CloseState::Closing(owed) = self.close_state { owed } else { [true; 2] };
                for (side, owed) in [&mut self.client, &mut self.backend].into_iter().zip(owed) {
                    if !owed {
                        side.abort();
                    }
                }
                self.stop_relaying(cx, now);
                // A client that takes its rest slowly never stalls, so this bounds its time.
                self.timers.client_ends_within(now, self.rules.route.timeouts.write_stall);
            }
            // All is acknowledged, but a peer has not closed within the grace.
            CloseState::Flushing => {
                self.client.abort();
                self.backend.abort();
            }
        }
    }

    /// Whether a side has not yet got all that the other sent before it ended: `write_stall` bounds
    /// that, not the grace.
    fn is_delivering(&self, [client, backend]: [bool; 2]) -> bool {
        match self.close_state {
            CloseState::Open if client && self.backend.is_done() => true,
            CloseState::Open => backend && self.client.is_done(),
            CloseState::Flushing => client || backend,
            CloseState::AwaitingAnswers(_)
            | CloseState::ViolatorClosed(_)
            | CloseState::Closing(_) => false,
        }
    }

    /// Whether nothing is left to do: each side is dead, or has ended and got all that was for it.
    pub(super) fn is_over(&self) -> bool {
        if self.ending.is_none() {
            return false;
        }
        // A dead client takes nothing more; the backend then only has to get its part.
        let client_lost = self.client.has_failed() && !self.backend.has_unacked();
        // Asked in this order, an ending that goes on costs no system call here.
        client_lost
            || (self.client.is_gone()
                && self.backend.is_gone()
                && self.client.is_finished()
                && self.backend.is_finished())
    }

    /// Returns the facts of an ending. `fallback` is the reason if there was none (a bug, a panic).
    pub fn ended(&self, fallback: CloseReason) -> TunnelOutcome {
        let ending = self.ending.unwrap_or(EndCause {
            by: Initiator::Sidegate,
            reason: fallback,
            code: None,
            refusal: None,
        });
        let (from_client, from_backend) = self.entry.traffic.totals();
        let closing = self.client.was_closed() || self.backend.was_closed();
        let closed = Closed {
            by: ending.by,
            // A Close to either side counts, relayed or our own (decision 004).
            phase: if closing { TunnelPhase::Closing } else { TunnelPhase::Open },
            reason: ending.reason,
            code: ending.code,
            from_client,
            from_backend,
            lasted: self.timers.since_opened(),
        };
        TunnelOutcome { closed, refusal: ending.refusal }
    }
}
