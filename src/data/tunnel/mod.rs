//! The tunnel: the relay after the 101, and the hot path of the whole program.
//!
//! Bytes pass unchanged; only frame headers are read, and control frames whole
//! (`docs/spec/wire.md`, "Close codes"). Each direction reads only when nothing is left to send the
//! other way, which bounds memory and carries back-pressure through. The tunnel decides nothing:
//! rules come from its route, orders from its entry. It answers no Ping.

mod batch;
mod closing;
mod ending;
mod rules;
mod side;
mod timers;
pub(super) mod tunnel_stream;

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use crate::close::{CloseReason, Initiator};
use crate::data::backend::LoadGuard;
use crate::data::stream::buffers::{self, Buffers, HEADROOM, MAX_PLAINTEXT};
use crate::data::stream::turn;
use crate::data::tunnel::batch::{Batch, WriteBatch};
pub use crate::data::tunnel::ending::TunnelOutcome;
use crate::data::tunnel::ending::{CloseState, EndCause};
use crate::data::tunnel::rules::FlowRules;
use crate::data::tunnel::side::{Flow, Side};
use crate::data::tunnel::timers::TunnelTimers;
use crate::data::tunnel::tunnel_stream::TunnelStream;
use crate::data::websocket::frame::{
    self, ControlFrame, Extensions, FrameError, FrameRun, Piece, PieceKind, Scanner, Sender,
};
use crate::observe::metrics::{Direction, RouteMetrics};
use crate::snapshot::route::Route;
use crate::tunnels::budget::Bucket;
use crate::tunnels::{EndOrder, LiveEntry, Registration, TunnelRules};

/// An open tunnel. Spawn it as it is: an async block around it would make the task three times as
/// large.
pub struct Tunnel {
    client: Side,
    backend: Side,
    entry: Arc<LiveEntry>,
    rules: TunnelRules,
    /// The counters, of this thread, of the route under which the tunnel opened.
    metrics: Arc<RouteMetrics>,
    timers: TunnelTimers,
    /// `None` means that no side had sent bytes behind its head.
    early: Option<Box<EarlyBytes>>,
    ending: Option<EndCause>,
    close_state: CloseState,
    _places: TunnelPlaces,
}

/// The parts of a tunnel that opens.
pub struct TunnelParts {
    /// The connection to the client.
    pub client: TunnelStream,
    /// The connection to the backend.
    pub backend: TunnelStream,
    /// Bytes that have come already.
    pub early: EarlyBytes,
    /// The extensions that the 101 settled.
    pub extensions: Extensions,
    /// What the tunnel occupies.
    pub places: TunnelPlaces,
    /// Its entry in the table.
    pub entry: Arc<LiveEntry>,
    /// The counters, of this thread, of its route.
    pub metrics: Arc<RouteMetrics>,
}

/// Bytes that the sides had sent behind their heads.
pub struct EarlyBytes {
    /// Those of the client.
    pub client: Bytes,
    /// Those of the backend.
    pub backend: Bytes,
}

/// What a tunnel occupies until it is dropped.
#[expect(dead_code, reason = "the fields act on drop")]
pub struct TunnelPlaces {
    /// Its place in the table.
    pub table: Registration,
    /// Its weight on the backend.
    pub load: LoadGuard,
}

impl Tunnel {
    /// Makes the tunnel of `parts`.
    pub fn new(parts: TunnelParts) -> Self {
        let TunnelParts { client, backend, early, extensions, places, entry, metrics } = parts;
        let rules = entry.rules();
        let now = Instant::now();
        let has_early = !early.client.is_empty() || !early.backend.is_empty();
        Tunnel {
            // The rate of messages bounds the client alone, so the backend gets no bucket.
            client: Side::new(client, Scanner::new(Sender::Client, extensions), messages(&rules)),
            backend: Side::new(backend, Scanner::new(Sender::Backend, extensions), None),
            timers: TunnelTimers::new(now),
            entry,
            rules,
            metrics,
            // Boxed and mostly absent: two `Bytes` would take room in the task for its whole life.
            early: has_early.then(|| Box::new(early)),
            ending: None,
            close_state: CloseState::Open,
            _places: places,
        }
    }

    /// The entry in the table of tunnels, through which orders come.
    pub fn entry(&self) -> &Arc<LiveEntry> {
        &self.entry
    }

    /// The route under which the tunnel runs now; a reload may change it.
    pub fn route(&self) -> &Arc<Route> {
        &self.rules.route
    }

    /// The counters of the route under which the tunnel opened.
    pub fn metrics(&self) -> &RouteMetrics {
        &self.metrics
    }

    /// Reads both sides until neither has more or the turn is over, then looks at the timers.
    fn run(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<()> {
        let now = Instant::now();
        // The first call also registers the waker for orders.
        self.apply_orders(cx, now);
        // Before any read of the sockets: these bytes came first.
        if let Some(early) = self.early.take() {
            self.relay_early(Flow::FromClient, cx, buffers, &early.client, now);
            self.relay_early(Flow::FromBackend, cx, buffers, &early.backend, now);
        }
        let (mut up, mut down) = (true, true);
        // The two ways take turns, read by read, so that a flood one way does not starve the other.
        while up || down {
            if buffers.turn.is_over() {
                // Goes on below all the same: the rest of a turn is flushed, and the timer is set.
                turn::yield_after_io(cx);
                break;
            }
            // A way that has returned false is not tried again in this poll: its socket wakes the
            // task.
            up = up && self.read_and_relay(Flow::FromClient, cx, buffers, now);
            down = down && self.read_and_relay(Flow::FromBackend, cx, buffers, now);
        }
        // A timer that acts may queue a Close or give up a side. The loop flushes that before the
        // poll ends.
        loop {
            self.flush_sides(cx);
            if self.is_over() {
                return Poll::Ready(());
            }
            if !self.check_timers(cx, now) {
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
        flow: Flow,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        early: &[u8],
        now: Instant,
    ) {
        // Copied into the thread's buffer: `relay` needs room in front of the bytes, and may move
        // them.
        for part in early.chunks(MAX_PLAINTEXT) {
            buffers.plain[HEADROOM..HEADROOM + part.len()].copy_from_slice(part);
            self.relay(flow, cx, &mut buffers.plain[..HEADROOM + part.len()], now);
        }
    }

    /// Moves the bytes of one read. False means that this way has nothing to do until it is woken.
    fn read_and_relay(
        &mut self,
        flow: Flow,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        now: Instant,
    ) -> bool {
        let (from, to) = self.sides(flow);
        // A side that has got its Close gets nothing more: that it may not take that Close is no
        // reason not to hear the other. Bytes behind the end of a side's frames are discarded, and
        // need no room either.
        if !from.is_read() || !(to.flush(cx) || to.was_closed() || from.is_discarded()) {
            return false;
        }
        match from.stream.poll_read(cx, buffers) {
            Poll::Pending => false,
            Poll::Ready(Ok(read @ 1..)) => {
                if flow == Flow::FromClient {
                    // Any byte counts as life, also a part of a frame that cannot pass yet. A TLS
                    // record without application data gives no byte, and does not count.
                    self.timers.on_client_byte(now);
                }
                let frames = self.relay(flow, cx, &mut buffers.plain[..HEADROOM + read], now);
                buffers.turn.spend_frames(frames);
                true
            }
            // Zero bytes are not the end under TLS: a read may give records without application
            // data.
            Poll::Ready(Ok(_)) if !from.stream.has_ended() => true,
            Poll::Ready(Ok(_)) => {
                self.on_stream_end(flow, cx, now);
                false
            }
            Poll::Ready(Err(_)) => {
                // No Close is tried on a connection that was reset, or whose TLS broke.
                from.fail();
                self.on_stream_end(flow, cx, now);
                false
            }
        }
    }

    /// Passes on the bytes behind the room at the front of `bytes`; returns how many frames began.
    ///
    /// Frames pass unchanged and in one write, control frames included, so that a read of many
    /// small ones costs no more system calls and TLS records than a read of a large one. Bytes that
    /// an earlier read held back are copied into the room in front of them.
    fn relay(&mut self, flow: Flow, cx: &mut Context<'_>, bytes: &mut [u8], now: Instant) -> usize {
        let (mut at, mut frames, mut ready) = (HEADROOM, 0, WriteBatch::default());
        while at < bytes.len() {
            if !self.sides(flow).0.is_relayed() {
                return frames; // Nothing may follow a Close (RFC 6455 §5.5.1).
            }
            let piece = match self.scan(flow, &bytes[at..]) {
                Ok(piece) => piece,
                // The frames before the faulty one are valid, and go out first. The Close with the
                // code follows them.
                Err(fault) => {
                    self.forward_early(flow, cx, ready.take(bytes), now);
                    self.on_violation(flow, fault, cx, now);
                    return frames;
                }
            };
            match piece.what {
                // The scanner keeps these bytes, and the piece that completes them has them.
                PieceKind::Incomplete => {}
                PieceKind::Run(run) => {
                    frames += run.frames as usize;
                    ready.add(run.held(), at, piece.taken, bytes);
                    ready.messages += run.messages;
                    self.note_control_frames(flow, &run, now);
                    let (from, to) = self.sides(flow);
                    // The frame on its way is complete, so our Close may follow. The rest of the
                    // read goes nowhere: `Side::write` sends nothing behind a Close.
                    if to.has_close_due() && from.scanner.at_boundary() {
                        self.forward_early(flow, cx, ready.take(bytes), now);
                        self.sides(flow).1.close_if_due(flow, cx);
                    }
                }
                // A Close: its sender has no more answers. The code for the violator goes out
                // instead.
                PieceKind::Control(control) if control.is_close() && self.is_answering(flow) => {
                    self.forward_early(flow, cx, ready.take(bytes), now);
                    self.sides(flow).0.discard();
                    self.close_violator(cx, now);
                }
                PieceKind::Control(control) if control.is_close() => {
                    // Only the part of the Close that came in earlier reads is held. Its rest lies
                    // in this read.
                    let frame = control.as_slice();
                    ready.add(&frame[..frame.len() - piece.taken], at, piece.taken, bytes);
                    self.forward_close(flow, &control, cx, ready.take(bytes), now);
                }
                // The Pong that answers our own Ping is swallowed.
                PieceKind::Control(_) => frames += 1,
            }
            at += piece.taken;
        }
        self.forward(flow, cx, ready.take(bytes), now);
        frames
    }

    /// Reads the next frames of the side that sends this way, by the rules of the tunnel.
    #[inline]
    fn scan(&mut self, flow: Flow, bytes: &[u8]) -> Result<Piece, FrameError> {
        // Taken apart by field: `sides` would borrow the timers and the rules as well.
        let Tunnel { client, backend, rules, timers, .. } = self;
        let (from, to) =
            if flow == Flow::FromClient { (client, backend) } else { (backend, client) };
        // Where a Close is due, only the frame that is on its way may still pass.
        let until = if to.has_close_due() { from.frame_end(bytes) } else { bytes.len() };
        let flow_rules = FlowRules {
            flow,
            limits: rules.limits(),
            timers,
            messages: from.messages.as_deref(),
            frames: &from.frames,
        };
        from.scanner.next(&bytes[..until], &flow_rules)
    }

    /// As [`Tunnel::forward`], before the end of a read.
    #[cold]
    fn forward_early(&mut self, flow: Flow, cx: &mut Context<'_>, batch: Batch<'_>, now: Instant) {
        self.forward(flow, cx, batch, now);
    }

    /// Sends frames on, and counts the bytes that the other side took.
    #[inline]
    fn forward(&mut self, flow: Flow, cx: &mut Context<'_>, batch: Batch<'_>, now: Instant) {
        let sent = self.sides(flow).1.write(cx, batch.bytes);
        self.on_forwarded(flow, sent, batch.messages, now);
    }

    /// Notes the control frames of a run: a Ping of the backend's waits for the client, a Pong of
    /// the client's answers it.
    fn note_control_frames(&mut self, flow: Flow, run: &FrameRun, now: Instant) {
        match flow {
            Flow::FromClient if run.pongs => self.timers.on_client_pong(),
            Flow::FromBackend if run.pings => self.timers.on_backend_ping(now),
            _ => {}
        }
    }

    /// Sends a Close on, the last frame of the batch; nothing follows it in this direction.
    fn forward_close(
        &mut self,
        flow: Flow,
        close: &ControlFrame,
        cx: &mut Context<'_>,
        Batch { bytes, messages }: Batch<'_>,
        now: Instant,
    ) {
        let (from, to) = self.sides(flow);
        // Where both Closes have passed, our direction to the client ends with the second (RFC 6455
        // §7.1.1: the server closes first).
        let is_last = flow == Flow::FromBackend && to.is_done() && from.was_closed();
        let sent = if is_last { to.write_last(cx, bytes) } else { to.write(cx, bytes) };
        // The side is read on, and nothing of it passes: a socket that is closed with unread bytes
        // is reset.
        from.discard();
        to.on_closed();
        self.on_forwarded(flow, sent, messages, now);
        // The side that sent the first Close ended the tunnel; the second only answers it.
        if self.ending.is_none() {
            let (by, reason) = match flow {
                Flow::FromClient => (Initiator::Client, CloseReason::ClientClosed),
                Flow::FromBackend => (Initiator::Backend, CloseReason::BackendClosed),
            };
            self.ending = Some(EndCause { by, reason, code: close.close_code(), refusal: None });
            self.restart_grace(now);
        }
    }

    fn on_forwarded(&mut self, flow: Flow, bytes: usize, messages: u32, now: Instant) {
        // Bytes that wait in the buffer are no progress: only what the other side took restarts
        // clocks.
        if bytes == 0 {
            return;
        }
        let (bytes, messages) = (bytes as u64, u64::from(messages));
        match flow {
            Flow::FromClient => {
                self.entry.traffic.add_from_client(bytes, messages);
                self.metrics.relayed(Direction::FromClient, bytes, messages);
            }
            Flow::FromBackend => {
                self.entry.traffic.add_from_backend(bytes, messages);
                self.metrics.relayed(Direction::FromBackend, bytes, messages);
            }
        }
        // Our own Pings never come here, so that they do not keep an idle tunnel open.
        self.timers.on_frame(now);
        // After a side's own Close the other may still be sending what it had begun.
        if self.ending.is_some_and(|ending| {
            matches!(ending.reason, CloseReason::ClientClosed | CloseReason::BackendClosed)
        }) {
            self.restart_grace(now);
        }
    }

    /// Carries out orders from the table: new rules, or an end.
    fn apply_orders(&mut self, cx: &mut Context<'_>, now: Instant) {
        // Mostly there is nothing, for the price of one atomic load.
        let Some((rules, end)) = self.entry.take_changes(cx.waker()) else { return };
        // Only a limit that changed gets a new bucket. A reload must not refill the others, or each
        // would hand every client another burst.
        if rules.limits().message_rate != self.rules.limits().message_rate {
            self.client.messages = messages(&rules);
        }
        if rules.limits().frames != self.rules.limits().frames {
            self.client.frames = OnceCell::new();
        }
        let write_stall = rules.route.timeouts.write_stall;
        if write_stall != self.rules.route.timeouts.write_stall {
            // The user timeout of the kernel must stay longer than `write_stall` (decision 025).
            self.client.stream.allow_zero_window(write_stall);
            self.backend.stream.allow_zero_window(write_stall);
        }
        self.rules = rules;
        // The timer was set by the old limits; `check_timers` sets it anew.
        self.timers.disarm();
        match end {
            None => {}
            Some(EndOrder::Revoke(refusal)) => {
                self.end(EndCause::by_sidegate(CloseReason::Revoked, Some(refusal)), cx, now);
            }
            Some(EndOrder::Close(order)) => {
                let code = Some(order.code);
                let ending =
                    EndCause { code, ..EndCause::by_sidegate(CloseReason::Operator, None) };
                self.end_with(ending, order.reason.to_string().into(), cx, now);
            }
            Some(EndOrder::Drain(code)) => {
                self.end(
                    EndCause {
                        by: Initiator::Sidegate,
                        reason: CloseReason::Drain,
                        code: Some(code),
                        refusal: None,
                    },
                    cx,
                    now,
                );
            }
            Some(EndOrder::Cut) => {
                self.ending.get_or_insert(EndCause {
                    by: Initiator::Sidegate,
                    reason: CloseReason::Cut,
                    code: None,
                    refusal: None,
                });
                // Nothing is flushed: a cut is the last resort for a side that reads nothing.
                self.client.drop_unread();
                self.backend.drop_unread();
            }
        }
    }

    /// Flushes both sides, puts Closes where a frame has ended, and finishes the sides that are
    /// done.
    fn flush_sides(&mut self, cx: &mut Context<'_>) {
        if self.ending.is_some() {
            self.finish_sides(cx);
        }
        self.client.flush(cx);
        self.backend.flush(cx);
    }

    /// Looks at the timers. True if one of them changed the tunnel's state.
    fn check_timers(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.ending.is_some() {
            return self.check_end_timers(cx, now);
        }
        let unsent = [self.client.stalled_progress(), self.backend.stalled_progress()];
        // Most polls end here: while nothing is unsent, only a timer that has fired can make
        // anything due.
        if unsent == [None; 2] && self.timers.is_quiescent(now) {
            return false;
        }
        let limits = self.rules.limits();
        let timeouts = &self.rules.route.timeouts;
        self.timers.on_timer(now);
        // The client's side alone: Sidegate sends no Ping to a backend.
        self.timers.set_unsent(now, unsent[0].is_some());
        if let Some(side) = self.timers.stalled(now, timeouts.write_stall, unsent) {
            self.on_stall(side, cx, now);
            return true;
        }
        // A client is not read while the backend takes nothing: its silence says nothing.
        let deaf = self.backend.stream.has_unsent();
        match self.timers.due(now, limits, deaf) {
            Some(timers::TimerEvent::End(reason)) => {
                self.end(EndCause::by_sidegate(reason, None), cx, now);
                true
            }
            Some(timers::TimerEvent::Ping) if self.backend.scanner.at_boundary() => {
                let payload = self.timers.ping(now);
                // Unmasked, since a server masks nothing (RFC 6455 §5.1).
                self.client.write(cx, frame::ping(payload, None).as_slice());
                true
            }
            // A control frame may come between the fragments of a message, but not inside a frame
            // (RFC 6455 §5.4): the Ping waits until the backend's frame is complete.
            Some(timers::TimerEvent::Ping) => {
                self.timers.defer_ping(now);
                true
            }
            None => {
                self.timers.arm(cx, now, limits, timeouts, deaf);
                false
            }
        }
    }

    fn sides(&mut self, flow: Flow) -> (&mut Side, &mut Side) {
        match flow {
            Flow::FromClient => (&mut self.client, &mut self.backend),
            Flow::FromBackend => (&mut self.backend, &mut self.client),
        }
    }
}

impl Future for Tunnel {
    type Output = TunnelOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TunnelOutcome> {
        let tunnel = &mut *self;
        match buffers::lend(|buffers| tunnel.run(cx, buffers)) {
            // The fallback is never used: `run` is ready only once `ending` is set.
            Poll::Ready(()) => Poll::Ready(tunnel.ended(CloseReason::Cut)),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn messages(rules: &TunnelRules) -> Option<Box<Bucket>> {
    rules.limits().message_rate.map(|rate| Box::new(Bucket::new(rate)))
}
