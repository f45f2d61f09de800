//! The tunnel: the relay after the 101, and the hot path of the whole program.
//!
//! Bytes pass unchanged; only frame headers are read, and control frames whole
//! (`docs/spec/wire.md`, "Close codes"). Each direction reads only when nothing is left to send the
//! other way, which bounds memory and carries back-pressure through. The tunnel decides nothing:
//! rules come from its route, orders from its entry.

mod batch;
pub(super) mod channel;
mod clock;
mod closing;
mod ending;
mod rules;
mod side;

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use crate::close::{By, Reason};
use crate::data::backend::Load;
use crate::data::stream::buffers::{self, Buffers, FRONT, READ};
use crate::data::stream::turn;
use crate::data::tunnel::batch::{Batch, Ready};
use crate::data::tunnel::channel::Channel;
use crate::data::tunnel::clock::Clock;
pub use crate::data::tunnel::ending::Ended;
use crate::data::tunnel::ending::{Course, Ending};
use crate::data::tunnel::rules::SideRules;
use crate::data::tunnel::side::{Side, Way};
use crate::data::websocket::frame::{
    self, Control, Extensions, Fault, Piece, Run, Scanner, Sender, What,
};
use crate::observe::metrics::{Direction, RouteMetrics};
use crate::snapshot::route::Route;
use crate::tunnels::budget::Bucket;
use crate::tunnels::{End, Entry, Place, Terms};

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
    /// `None` means that no side had sent bytes behind its head.
    early: Option<Box<EarlyBytes>>,
    ending: Option<Ending>,
    course: Course,
    _places: TunnelPlaces,
}

/// The parts of a tunnel that opens.
pub struct TunnelParts {
    /// The connection to the client.
    pub client: Channel,
    /// The connection to the backend.
    pub backend: Channel,
    /// Bytes that have come already.
    pub early: EarlyBytes,
    /// The extensions that the 101 settled.
    pub extensions: Extensions,
    /// What the tunnel occupies.
    pub places: TunnelPlaces,
    /// Its entry in the table.
    pub entry: Arc<Entry>,
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
    pub table: Place,
    /// Its weight on the backend.
    pub load: Load,
}

impl Tunnel {
    /// Makes the tunnel of `parts`.
    pub fn new(parts: TunnelParts) -> Self {
        let TunnelParts { client, backend, early, extensions, places, entry, metrics } = parts;
        let terms = entry.terms();
        let now = Instant::now();
        let has_early = !early.client.is_empty() || !early.backend.is_empty();
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
            _places: places,
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
            self.relay_early(Way::FromClient, cx, buffers, &early.client, now);
            self.relay_early(Way::FromBackend, cx, buffers, &early.backend, now);
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
        if !from.is_read() || !(to.flush(cx) || to.was_closed() || from.is_discarded()) {
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
                from.fail();
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
            if !self.sides(way).0.is_relayed() {
                return frames; // Nothing may follow a Close (RFC 6455 §5.5.1).
            }
            let piece = match self.scan(way, &bytes[at..]) {
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
                    if to.has_close_due() && from.scanner.at_boundary() {
                        self.pass_early(way, cx, ready.take(bytes), now);
                        self.sides(way).1.close_if_due(way, cx);
                    }
                }
                // A Close: its sender has no more answers. The code for the violator goes out
                // instead.
                What::Control(control) if control.is_close() && self.is_answering(way) => {
                    self.pass_early(way, cx, ready.take(bytes), now);
                    self.sides(way).0.discard();
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

    /// Reads the next frames of the side that sends this way, by the rules of the tunnel.
    #[inline]
    fn scan(&mut self, way: Way, bytes: &[u8]) -> Result<Piece, Fault> {
        let Tunnel { client, backend, terms, clock, .. } = self;
        let (from, to) = if way == Way::FromClient { (client, backend) } else { (backend, client) };
        // Where a Close is due, only the frame that is on its way may still pass.
        let until = if to.has_close_due() { from.frame_end(bytes) } else { bytes.len() };
        let rules = SideRules {
            way,
            limits: terms.limits(),
            clock,
            messages: from.messages.as_deref(),
            frames: &from.frames,
        };
        from.scanner.next(&bytes[..until], &rules)
    }

    /// As [`Tunnel::pass`], before the end of a read.
    #[cold]
    fn pass_early(&mut self, way: Way, cx: &mut Context<'_>, batch: Batch<'_>, now: Instant) {
        self.pass(way, cx, batch, now);
    }

    /// Sends frames on, and counts the bytes that the other side took.
    #[inline]
    fn pass(&mut self, way: Way, cx: &mut Context<'_>, batch: Batch<'_>, now: Instant) {
        let sent = self.sides(way).1.write(cx, batch.bytes);
        self.passed(way, sent, batch.messages, now);
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

    /// Sends a Close on, the last frame of `batch`; nothing follows it in this direction.
    fn close(
        &mut self,
        way: Way,
        close: &Control,
        cx: &mut Context<'_>,
        Batch { bytes, messages }: Batch<'_>,
        now: Instant,
    ) {
        let (from, to) = self.sides(way);
        // Where both Closes have passed, our direction to the client ends with the second (RFC 6455
        // §7.1.1: the server closes first).
        let is_last = way == Way::FromBackend && to.is_done() && from.was_closed();
        let sent = if is_last { to.write_last(cx, bytes) } else { to.write(cx, bytes) };
        from.discard();
        to.on_closed();
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

    fn sides(&mut self, way: Way) -> (&mut Side, &mut Side) {
        match way {
            Way::FromClient => (&mut self.client, &mut self.backend),
            Way::FromBackend => (&mut self.backend, &mut self.client),
        }
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

fn messages(terms: &Terms) -> Option<Box<Bucket>> {
    terms.limits().message_rate.map(|rate| Box::new(Bucket::new(rate)))
}
