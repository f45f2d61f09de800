//! The tunnel: the relay after the 101, and the hot path of the whole program.
//!
//! Bytes pass unchanged; only frame headers are read, and control frames whole
//! (`docs/spec/wire.md`, "Close codes"). Each direction reads only when nothing is left to send the
//! other way, which bounds memory and carries back-pressure through. The tunnel decides nothing:
//! rules come from its route, orders from its entry.

pub(super) mod channel;
mod clock;

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::close::{By, Closed, Phase, Reason, code};
use crate::data::backend::Load;
use crate::data::stream::buffers::{self, Buffers, FRONT, READ};
use crate::data::stream::turn;
use crate::data::tunnel::channel::Channel;
use crate::data::tunnel::clock::Clock;
use crate::data::websocket::frame::{
    self, Control, Extensions, Fault, Masked, Rules, Run, Scanner, Sender, What,
};
use crate::observe::metrics::{Direction, RouteMetrics};
use crate::policy::limit::{Bucket, Rate, TunnelLimits};
use crate::refusal::Refusal;
use crate::snapshot::route::Route;
use crate::tunnels::{End, Entry, Place, Terms};

/// How long a side may go on answering what the other sent before it broke a rule.
const ANSWERS: Duration = Duration::from_secs(1);

/// The most that the kernel may keep for a side whose socket is closed in order. Where the peer
/// reads nothing, the kernel keeps it until the user timeout.
const MAX_LEFT_BEHIND: u64 = 64 * 1024;

/// An open tunnel. Spawn it as it is: an async block around it would make the task three times as
/// large.
pub struct Tunnel {
    client: Side,
    backend: Side,
    entry: Arc<Entry>,
    terms: Terms,
    /// The counters, of this thread, of the route under which the tunnel opened.
    metrics: Arc<RouteMetrics>,
    clock: Clock,
    /// Bytes that both sides had sent behind their heads: the client's, the backend's. `None` means
    /// that there were none.
    early: Option<Box<(Bytes, Bytes)>>,
    ending: Option<Ending>,
    course: Course,
    /// Places of the tunnel in the table and on its backend, given back on drop.
    _held: (Place, Load),
}

/// One side: its channel, the frames it sends, and how far its closing has got.
struct Side {
    channel: Channel,
    /// Scans what this side sends.
    scanner: Scanner,
    /// The message rate of this side. `None` means unlimited.
    messages: Option<Box<Bucket>>,
    /// The rate of those frames that the limit `frames` counts; made when the first comes.
    frames: OnceCell<Box<Bucket>>,
    /// A Close frame has gone out to this side, relayed or ours; nothing follows it.
    told: bool,
    /// A Close frame has come from this side.
    closed: bool,
    input: Input,
    /// The socket of this side failed: nothing can be sent any more.
    dead: bool,
    /// A Close that waits for the end of the frame that is on its way to this side.
    close: Option<(u16, &'static str)>,
}

/// Whether a side's stream is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// Not read for now: the side broke a rule, and gets its last answers.
    Paused,
    /// FIN or close_notify came, or the socket failed.
    Ended,
}

/// What bounds an ending.
enum Course {
    /// The sides end the tunnel between them, or nothing has ended it yet: what they have begun is
    /// relayed, and each byte extends the grace.
    Free,
    /// A side broke a rule, and the other has [`ANSWERS`] to answer what came before that.
    Answering(Violation),
    /// The side that sends this way broke a rule and was told so. Only the grace is left to it.
    Judged(Way),
    /// Sidegate ends the tunnel: only the grace is left, but for a side, the client or the backend,
    /// to which something was on its way before.
    Firm([bool; 2]),
    /// Nothing is relayed any more. A side that has not acknowledged all that was passed to it gets
    /// the rest and FIN, and is dropped once it takes nothing for `write_stall`.
    Last,
}

/// A side's violation, and the Close that tells it so.
struct Violation {
    way: Way,
    code: u16,
    word: &'static str,
}

/// Why the tunnel ends. The first act counts, and only that.
#[derive(Clone, Copy)]
struct Ending {
    by: By,
    reason: Reason,
    code: Option<u16>,
    refusal: Option<Refusal>,
}

/// How a tunnel ended, and the refusal where it was revoked.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Who ended the tunnel and why, how much passed, and how long it lasted.
    pub closed: Closed,
    /// The refusal of the policy that revoked the tunnel. `None` means that it was not revoked.
    pub refusal: Option<Refusal>,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    FromClient,
    FromBackend,
}

impl Tunnel {
    /// Makes the tunnel between `client` and `backend`. `early` has the bytes that both had sent
    /// behind their heads, `extensions` comes from the 101.
    pub fn new(
        client: Channel,
        backend: Channel,
        early: (Bytes, Bytes),
        extensions: Extensions,
        held: (Place, Load),
        entry: Arc<Entry>,
        metrics: Arc<RouteMetrics>,
    ) -> Self {
        let terms = entry.terms();
        let now = Instant::now();
        let has_early = !early.0.is_empty() || !early.1.is_empty();
        Tunnel {
            client: Side::new(client, Scanner::new(Sender::Client, extensions), messages(&terms)),
            backend: Side::new(backend, Scanner::new(Sender::Backend, extensions), None),
            clock: Clock::new(now),
            entry,
            terms,
            metrics,
            early: has_early.then(|| Box::new(early)),
            ending: None,
            course: Course::Free,
            _held: held,
        }
    }

    /// The entry in the table of tunnels, through which orders come.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The route under which the tunnel runs now; a reload may change it.
    pub fn route(&self) -> &Arc<Route> {
        &self.terms.route
    }

    /// The counters of the route under which the tunnel opened.
    pub fn metrics(&self) -> &RouteMetrics {
        &self.metrics
    }

    /// Reads both sides until neither has more or the turn is over, then looks at the clock.
    fn run(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<()> {
        let now = Instant::now();
        // The first call also registers the waker for orders.
        self.obey(cx, now);
        if let Some(early) = self.early.take() {
            self.relay_early(Way::FromClient, cx, buffers, &early.0, now);
            self.relay_early(Way::FromBackend, cx, buffers, &early.1, now);
        }
        let (mut up, mut down) = (true, true);
        while up || down {
            if buffers.turn.is_over() {
                // Goes on below all the same: the rest of a turn is flushed, and the timer is set.
                turn::give_way(cx);
                break;
            }
            // A way that has returned false is not tried again in this poll: its socket wakes the
            // task.
            up = up && self.pump(Way::FromClient, cx, buffers, now);
            down = down && self.pump(Way::FromBackend, cx, buffers, now);
        }
        loop {
            self.settle(cx);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !self.keep_time(cx, now) {
                break;
            }
        }
        Poll::Pending
    }

    /// Passes on the bytes that came behind a head. The reader of a head took no more than a few
    /// reads.
    #[cold]
    fn relay_early(
        &mut self,
        way: Way,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        early: &[u8],
        now: Instant,
    ) {
        for part in early.chunks(READ) {
            buffers.plain[FRONT..FRONT + part.len()].copy_from_slice(part);
            self.relay(way, cx, &mut buffers.plain[..FRONT + part.len()], now);
        }
    }

    /// Moves the bytes of one read. False means that this way has nothing to do until it is woken.
    fn pump(
        &mut self,
        way: Way,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        now: Instant,
    ) -> bool {
        let (from, to) = self.sides(way);
        // A side that has got its Close gets nothing more: that it may not take that Close is no
        // reason not to hear the other. Bytes behind the end of a side's frames are discarded, and
        // need no room either.
        if from.input != Input::Open || !(to.flush(cx) || to.told || from.closed) {
            return false;
        }
        match from.channel.poll_read(cx, buffers) {
            Poll::Pending => false,
            Poll::Ready(Ok(read @ 1..)) => {
                if way == Way::FromClient {
                    self.clock.heard(now);
                }
                let frames = self.relay(way, cx, &mut buffers.plain[..FRONT + read], now);
                buffers.turn.frames(frames);
                true
            }
            // Zero bytes are not the end under TLS: a read may give records without application
            // data.
            Poll::Ready(Ok(_)) if !from.channel.has_ended() => true,
            Poll::Ready(Ok(_)) => {
                self.stream_ended(way, cx, now);
                false
            }
            Poll::Ready(Err(_)) => {
                from.dead = true;
                self.stream_ended(way, cx, now);
                false
            }
        }
    }

    /// Passes on the bytes behind the room at the front of `bytes`; returns how many frames began.
    ///
    /// Frames pass unchanged and in one write, control frames included, so that a read of many
    /// small ones costs no more system calls and TLS records than a read of a large one. Bytes that
    /// an earlier read held back are copied into the room in front of them.
    fn relay(&mut self, way: Way, cx: &mut Context<'_>, bytes: &mut [u8], now: Instant) -> usize {
        let (mut at, mut frames, mut ready) = (FRONT, 0, Ready::default());
        while at < bytes.len() {
            let Tunnel { client, backend, terms, clock, .. } = &mut *self;
            let (from, to) =
                if way == Way::FromClient { (client, backend) } else { (backend, client) };
            if from.closed {
                return frames; // Nothing may follow a Close (RFC 6455 §5.5.1).
            }
            // Where a Close waits, only the frame that is on its way may still pass.
            let until =
                if to.close.is_some() { from.frame_ends(at, bytes.len()) } else { bytes.len() };
            let Side { scanner, messages, frames: allowed, .. } = from;
            let rules = SideRules {
                way,
                limits: terms.limits(),
                clock,
                messages: messages.as_deref(),
                frames: allowed,
            };
            let piece = match scanner.next(&bytes[at..until], &rules) {
                Ok(piece) => piece,
                Err(fault) => {
                    self.pass_early(way, cx, ready.take(bytes), now);
                    self.violated(way, fault, cx, now);
                    return frames;
                }
            };
            match piece.what {
                What::Held => {}
                What::Run(run) => {
                    frames += run.frames as usize;
                    ready.add(run.held(), at, piece.taken, bytes);
                    ready.messages += run.messages;
                    self.note(way, &run, now);
                    let (from, to) = self.sides(way);
                    if to.close.is_some() && from.scanner.at_boundary() {
                        self.pass_early(way, cx, ready.take(bytes), now);
                        self.sides(way).1.close_if_wanted(way, cx);
                    }
                }
                // A Close: its sender has no more answers. The code for the violator goes out
                // instead.
                What::Control(control) if control.is_close() && self.is_answering(way) => {
                    self.pass_early(way, cx, ready.take(bytes), now);
                    self.sides(way).0.closed = true;
                    self.give_verdict(cx, now);
                }
                What::Control(control) if control.is_close() => {
                    let frame = control.as_slice();
                    ready.add(&frame[..frame.len() - piece.taken], at, piece.taken, bytes);
                    self.close(way, &control, cx, ready.take(bytes), now);
                }
                // The Pong that answers our own Ping is swallowed.
                What::Control(_) => frames += 1,
            }
            at += piece.taken;
        }
        self.pass(way, cx, ready.take(bytes), now);
        frames
    }

    /// As [`Tunnel::pass`], before the end of a read.
    #[cold]
    fn pass_early(&mut self, way: Way, cx: &mut Context<'_>, ready: (&[u8], u32), now: Instant) {
        self.pass(way, cx, ready, now);
    }

    /// Sends frames on, and counts the bytes that the other side took.
    #[inline]
    fn pass(
        &mut self,
        way: Way,
        cx: &mut Context<'_>,
        (bytes, messages): (&[u8], u32),
        now: Instant,
    ) {
        let sent = self.sides(way).1.write(cx, bytes);
        self.passed(way, sent, messages, now);
    }

    /// Notes the control frames of a run: a Ping of the backend's waits for the client, a Pong of
    /// the client's answers it.
    fn note(&mut self, way: Way, run: &Run, now: Instant) {
        match way {
            Way::FromClient if run.pongs => self.clock.ponged(),
            Way::FromBackend if run.pings => self.clock.backend_pinged(now),
            _ => {}
        }
    }

    /// Sends a Close on, the last frame in `bytes`; nothing follows it in this direction.
    fn close(
        &mut self,
        way: Way,
        close: &Control,
        cx: &mut Context<'_>,
        (bytes, messages): (&[u8], u32),
        now: Instant,
    ) {
        let (from, to) = self.sides(way);
        // Where both Closes have passed, our direction to the client ends with the second (RFC 6455
        // §7.1.1: the server closes first).
        let is_last = way == Way::FromBackend && to.closed && from.told;
        let sent = if is_last { to.write_last(cx, bytes) } else { to.write(cx, bytes) };
        from.closed = true;
        to.told = true;
        to.close = None;
        self.passed(way, sent, messages, now);
        if self.ending.is_none() {
            let (by, reason) = match way {
                Way::FromClient => (By::Client, Reason::ClientClosed),
                Way::FromBackend => (By::Backend, Reason::BackendClosed),
            };
            self.ending = Some(Ending { by, reason, code: close.close_code(), refusal: None });
            self.give_grace(now);
        }
    }

    fn passed(&mut self, way: Way, bytes: usize, messages: u32, now: Instant) {
        if bytes == 0 {
            return;
        }
        let (bytes, messages) = (bytes as u64, u64::from(messages));
        match way {
            Way::FromClient => {
                self.entry.traffic.add_from_client(bytes, messages);
                self.metrics.relayed(Direction::FromClient, bytes, messages);
            }
            Way::FromBackend => {
                self.entry.traffic.add_from_backend(bytes, messages);
                self.metrics.relayed(Direction::FromBackend, bytes, messages);
            }
        }
        self.clock.relayed(now);
        // After a side's own Close the other may still be sending what it had begun.
        if self.ending.is_some_and(|ending| {
            matches!(ending.reason, Reason::ClientClosed | Reason::BackendClosed)
        }) {
            self.give_grace(now);
        }
    }

    /// Ends one side's stream: FIN or close_notify came, or its socket failed.
    #[cold]
    fn stream_ended(&mut self, way: Way, cx: &mut Context<'_>, now: Instant) {
        self.sides(way).0.input = Input::Ended;
        if self.is_answering(way) {
            self.give_verdict(cx, now); // before FIN goes the same way
        }
        let (from, to) = self.sides(way);
        match way {
            // No Close is made up for either side: the backend gets FIN, and what it sends still
            // flows.
            Way::FromClient => to.channel.finish(),
            // The client has got a Close already, or is gone itself.
            Way::FromBackend if from.closed || to.told || to.has_ended() => {}
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
    fn violated(&mut self, way: Way, fault: Fault, cx: &mut Context<'_>, now: Instant) {
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
        from.closed = true;
        if was_free {
            to.want_close(code::AWAY, "");
            from.pause();
            let has_answers = !(to.is_done() || to.dead || from.told || from.dead);
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
    fn give_verdict(&mut self, cx: &mut Context<'_>, now: Instant) {
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
    fn is_answering(&self, way: Way) -> bool {
        matches!(&self.course, Course::Answering(violation) if violation.way != way)
    }

    fn is_free(&self) -> bool {
        matches!(self.course, Course::Free)
    }

    /// Ends the tunnel for a reason of ours. A tunnel that is ending already keeps its reason, and
    /// has no longer than the grace from now on.
    fn end(&mut self, ending: Ending, cx: &mut Context<'_>, now: Instant) {
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
    fn give_grace(&mut self, now: Instant) {
        if self.is_free() {
            self.clock.end_within(now, self.terms.route.timeouts.grace);
        }
    }

    /// Carries out orders from the table: new rules, or an end.
    fn obey(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some((terms, end)) = self.entry.changed(cx.waker()) else { return };
        if terms.limits().message_rate != self.terms.limits().message_rate {
            self.client.messages = messages(&terms);
        }
        if terms.limits().frames != self.terms.limits().frames {
            self.client.frames = OnceCell::new();
        }
        let write_stall = terms.route.timeouts.write_stall;
        if write_stall != self.terms.route.timeouts.write_stall {
            self.client.channel.bear(write_stall);
            self.backend.channel.bear(write_stall);
        }
        self.terms = terms;
        self.clock.disarm();
        match end {
            None => {}
            Some(End::Revoke(refusal)) => {
                self.end(Ending::ours(Reason::Revoked, Some(refusal)), cx, now);
            }
            Some(End::Drain(code)) => {
                self.end(
                    Ending {
                        by: By::Sidegate,
                        reason: Reason::Drain,
                        code: Some(code),
                        refusal: None,
                    },
                    cx,
                    now,
                );
            }
            Some(End::Cut) => {
                self.ending.get_or_insert(Ending {
                    by: By::Sidegate,
                    reason: Reason::Cut,
                    code: None,
                    refusal: None,
                });
                self.client.drop_unread();
                self.backend.drop_unread();
            }
        }
    }

    /// Flushes both sides, puts Closes where a frame has ended, and finishes the sides that are
    /// done.
    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.ending.is_some() {
            self.wind_up(cx);
        }
        self.client.flush(cx);
        self.backend.flush(cx);
    }

    fn wind_up(&mut self, cx: &mut Context<'_>) {
        self.inject(cx);
        // Both sides have got a Close, and nothing more comes from the client: end our direction to
        // it (RFC 6455 §7.1.1: the server closes first), and wait for the backend to end its own.
        if self.client.told && self.backend.told && self.client.is_done() {
            self.client.channel.finish();
        }
        if self.client.has_ended() && self.backend.has_ended() {
            self.client.channel.finish();
            self.backend.channel.finish();
        }
    }

    /// Puts a wanted Close where no frame is on its way.
    fn inject(&mut self, cx: &mut Context<'_>) {
        if self.backend.scanner.at_boundary() {
            self.client.close_if_wanted(Way::FromBackend, cx);
        }
        if self.client.scanner.at_boundary() {
            self.backend.close_if_wanted(Way::FromClient, cx);
        }
    }

    /// Looks at the clocks. True if one of them changed the tunnel's state.
    fn keep_time(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.ending.is_some() {
            return self.keep_ending(cx, now);
        }
        let unsent = [self.client.unsent(), self.backend.unsent()];
        if unsent == [None; 2] && self.clock.is_calm(now) {
            return false;
        }
        let rules = self.terms.limits();
        let timeouts = &self.terms.route.timeouts;
        self.clock.wakes(now);
        self.clock.holds_back(now, unsent[0].is_some());
        if let Some(side) = self.clock.stalled(now, timeouts.write_stall, unsent) {
            self.stalled(side, cx, now);
            return true;
        }
        // A client is not read while the backend takes nothing: its silence says nothing.
        let deaf = self.backend.channel.has_unsent();
        match self.clock.due(now, rules, deaf) {
            Some(clock::Due::End(reason)) => {
                self.end(Ending::ours(reason, None), cx, now);
                true
            }
            Some(clock::Due::Ping) if self.backend.scanner.at_boundary() => {
                let payload = self.clock.ping(now);
                self.client.write(cx, frame::ping(payload, None).as_slice());
                true
            }
            Some(clock::Due::Ping) => {
                self.clock.ping_later(now);
                true
            }
            None => {
                self.clock.arm(cx, now, rules, timeouts, deaf);
                false
            }
        }
    }

    /// As [`Tunnel::keep_time`], for a tunnel that is ending. It also waits for a side that has not
    /// acknowledged what the kernel holds for it: once the socket is closed, the next byte that its
    /// peer sends resets the connection, and the kernel drops what it holds.
    #[cold]
    fn keep_ending(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
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
        if self.clock.is_client_over(now) && !self.client.dead {
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
    fn stalled(&mut self, side: usize, cx: &mut Context<'_>, now: Instant) {
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
            side.closed = true;
            side.close = None;
            side.resume();
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
    fn is_over(&self) -> bool {
        if self.ending.is_none() {
            return false;
        }
        // A dead client takes nothing more; the backend then only has to get its part.
        let client_lost = self.client.dead && !self.backend.owes();
        client_lost || (self.client.is_gone() && self.backend.is_gone())
    }

    fn sides(&mut self, way: Way) -> (&mut Side, &mut Side) {
        match way {
            Way::FromClient => (&mut self.client, &mut self.backend),
            Way::FromBackend => (&mut self.backend, &mut self.client),
        }
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
        let closing = self.client.told || self.backend.told;
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

impl Future for Tunnel {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let tunnel = &mut *self;
        match buffers::lend(|buffers| tunnel.run(cx, buffers)) {
            Poll::Ready(()) => Poll::Ready(tunnel.ended(Reason::Cut)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Ending {
    fn ours(reason: Reason, refusal: Option<Refusal>) -> Self {
        Ending { by: By::Sidegate, reason, code: reason.to_client(), refusal }
    }
}

impl Side {
    fn new(channel: Channel, scanner: Scanner, messages: Option<Box<Bucket>>) -> Self {
        let frames = OnceCell::new();
        let input = Input::Open;
        Side {
            channel,
            scanner,
            messages,
            frames,
            told: false,
            closed: false,
            input,
            dead: false,
            close: None,
        }
    }

    /// Where the frame that is on its way at `at` ends, or the end of the bytes that have come of
    /// it. `most` means that none is on its way.
    #[cold]
    fn frame_ends(&self, at: usize, most: usize) -> usize {
        match usize::try_from(self.scanner.left()) {
            Ok(left @ 1..) => most.min(at + left),
            _ => most,
        }
    }

    /// Sends `bytes` unless a Close has gone before them; returns how many were taken. A socket
    /// that fails makes the side dead and is no error here: its reading side says why.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if self.told || self.dead || bytes.is_empty() {
            return 0;
        }
        match self.channel.write(cx, bytes) {
            Ok(()) => bytes.len(),
            Err(_) => {
                self.dead = true;
                0
            }
        }
    }

    /// As [`Side::write`], and ends the channel behind `bytes`.
    #[cold]
    fn write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if self.told || self.dead {
            return 0;
        }
        self.dead = self.channel.write_last(cx, bytes).is_err();
        if self.dead { 0 } else { bytes.len() }
    }

    /// Sends bytes that wait. True if all are sent, or none can be any more.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.dead || !self.channel.wants_flush() || self.send(cx)
    }

    /// A function apart: the test before it, made a dozen times for each message, is then no call.
    #[inline(never)]
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        self.channel.poll_flush(cx).unwrap_or_else(|_| {
            self.dead = true;
            true
        })
    }

    /// How much this side has taken so far, while the kernel has no room for the rest. `None` means
    /// that nothing waits, or that the side is dead.
    fn unsent(&self) -> Option<u64> {
        (!self.dead && self.channel.has_unsent()).then(|| self.channel.taken())
    }

    /// How much this side has taken so far. `None` means that it has acknowledged all that was
    /// passed to it, or is dead.
    fn owed(&self) -> Option<u64> {
        self.owes().then(|| self.channel.taken())
    }

    /// Notices that the connection is broken, so that the side acknowledges nothing more: a side
    /// that has ended is not read. True if that is news.
    fn breaks(&mut self) -> bool {
        let breaks = self.owes() && self.channel.is_broken();
        self.dead |= breaks;
        breaks
    }

    /// Whether this side has not acknowledged all that was passed to it.
    fn owes(&self) -> bool {
        !self.dead && (self.channel.has_unsent() || self.channel.unacked() > 0)
    }

    /// Ends the connection now, as its time is up; bytes that the side has not acknowledged are
    /// dropped, also by the kernel. The other side may have more time.
    fn give_up(&mut self) {
        if self.owes() {
            self.channel.reset();
        } else if !self.dead {
            self.channel.shut();
        }
        self.dead = true;
    }

    /// Ends the connection, as its time is up, though the side may read: the kernel delivers the
    /// rest, unless that is much or not whole.
    fn drop_unread(&mut self) {
        if !self.dead && (self.channel.has_unsent() || self.channel.unacked() > MAX_LEFT_BEHIND) {
            self.channel.reset();
        }
        self.dead = true;
    }

    /// Whether nothing is left to do for this side: it is dead, or has ended and got all that was
    /// for it except a little that the kernel holds.
    fn is_gone(&self) -> bool {
        let left = || self.channel.has_unsent() || self.channel.unacked() > MAX_LEFT_BEHIND;
        self.dead || (self.has_ended() && !left())
    }

    fn want_close(&mut self, code: u16, reason: &'static str) {
        if !self.told && !self.channel.is_finishing() {
            self.close.get_or_insert((code, reason));
        }
    }

    /// Writes the Close that is wanted, if any. `way` is the way that leads to this side, and says
    /// whether the frame is masked.
    fn close_if_wanted(&mut self, way: Way, cx: &mut Context<'_>) {
        let Some((code, reason)) = self.close.take() else { return };
        let mask = (way == Way::FromClient).then(rand::random);
        self.write(cx, frame::close(code, reason, mask).as_slice());
        self.told = true;
    }

    /// Whether nothing more is awaited from this side.
    fn is_done(&self) -> bool {
        self.closed || self.has_ended()
    }

    fn has_ended(&self) -> bool {
        self.input == Input::Ended
    }

    fn pause(&mut self) {
        if self.input == Input::Open {
            self.input = Input::Paused;
        }
    }

    fn resume(&mut self) {
        if self.input == Input::Paused {
            self.input = Input::Open;
        }
    }
}

/// Frames of one read that pass in one write, in a row in the buffer that was read into.
struct Ready {
    start: usize,
    end: usize,
    /// How many messages began in them.
    messages: u32,
}

impl Default for Ready {
    fn default() -> Self {
        Ready { start: FRONT, end: FRONT, messages: 0 }
    }
}

impl Ready {
    /// Adds `taken` bytes at `at`; `held` came in an earlier read and goes before them.
    fn add(&mut self, held: &[u8], at: usize, taken: usize, bytes: &mut [u8]) {
        if self.start == self.end {
            (self.start, self.end) = (at, at);
            if !held.is_empty() {
                // Only the first bytes of a read can belong to an earlier one: there is room in
                // front of them.
                self.start -= held.len();
                bytes[self.start..at].copy_from_slice(held);
            }
        } else if self.end != at {
            // Something between was swallowed.
            bytes.copy_within(at..at + taken, self.end);
        }
        self.end += taken;
    }

    /// The bytes and the messages so far; the next ones begin anew.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], u32) {
        let taken = std::mem::take(self);
        (&bytes[taken.start..taken.end], taken.messages)
    }
}

/// The rules of one direction.
struct SideRules<'a> {
    way: Way,
    limits: &'a TunnelLimits,
    /// Knows the payload of our Pings.
    clock: &'a Clock,
    messages: Option<&'a Bucket>,
    /// The rate of those frames that the limit `frames` counts.
    frames: &'a OnceCell<Box<Bucket>>,
}

impl SideRules<'_> {
    /// The rate of the limit `frames`, which limits the client alone. `None` means unlimited.
    fn frame_rate(&self) -> Option<Rate> {
        self.limits.frames.filter(|_| self.way == Way::FromClient)
    }
}

impl Rules for SideRules<'_> {
    fn message_max(&self) -> Option<u64> {
        self.limits.message_max
    }

    fn admits_message(&self) -> bool {
        self.messages.is_none_or(Bucket::take)
    }

    fn limits_messages(&self) -> bool {
        self.messages.is_some()
    }

    fn limits_frames(&self) -> bool {
        self.frame_rate().is_some()
    }

    fn admits_frame(&self) -> bool {
        self.frame_rate()
            .is_none_or(|rate| self.frames.get_or_init(|| Box::new(Bucket::new(rate))).take())
    }

    fn passes_always(&self, opcode: u8) -> bool {
        match opcode {
            frame::CLOSE => false,
            frame::PONG if self.way == Way::FromClient => self.clock.payload().is_none(),
            _ => true,
        }
    }

    /// All but a Close and the Pong that answers our own Ping.
    fn passes(&self, opcode: u8, payload: Masked<'_>) -> bool {
        match opcode {
            frame::CLOSE => false,
            frame::PONG if self.way == Way::FromClient => {
                !self.clock.payload().is_some_and(|own| payload.is(&own))
            }
            _ => true,
        }
    }
}

fn messages(terms: &Terms) -> Option<Box<Bucket>> {
    terms.limits().message_rate.map(|rate| Box::new(Bucket::new(rate)))
}
