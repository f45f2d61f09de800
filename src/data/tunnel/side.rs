//! One side of a tunnel: what it sends, what goes out to it, and how far either has ended.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::task::Context;

use crate::data::tunnel::tunnel_stream::TunnelStream;
use crate::data::websocket::frame::{self, Scanner};
use crate::tunnels::budget::Bucket;

/// The most that the kernel may keep for a side whose socket is closed in order. Where the peer
/// reads nothing, the kernel keeps it until the user timeout.
const MAX_UNREAD_BYTES: u64 = 64 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// From the client to the backend.
    FromClient,
    /// From the backend to the client.
    FromBackend,
}

/// One side: its stream, the frames that it sends, and the states of both directions.
pub struct Side {
    /// The socket, with its TLS session.
    pub stream: TunnelStream,
    /// Scans what this side sends.
    pub scanner: Scanner,
    /// The message rate of this side. `None` means unlimited.
    pub messages: Option<Box<Bucket>>,
    /// The rate of those frames that the limit `frames` counts; made when the first comes.
    pub frames: OnceCell<Box<Bucket>>,
    incoming: IncomingState,
    outgoing: OutgoingState,
}

/// The state of what this side sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IncomingState {
    /// Its frames pass to the other side.
    Relayed,
    /// Its stream is read, and nothing of it passes: it has sent a Close or broken a rule, or
    /// Sidegate ends the tunnel.
    Discarded,
    /// Not read for now: the side broke a rule, and gets its last answers.
    Paused,
    /// FIN or close_notify came, or the socket failed.
    Ended,
}

/// The state of what goes out to this side.
#[derive(PartialEq, Eq)]
enum OutgoingState {
    /// Frames of the other side pass.
    Relayed,
    /// A Close of ours follows the frame that is on its way.
    /// Boxed: few tunnels wait for it, and each one has two of these states.
    CloseDue(Box<DueClose>),
    /// A Close has gone out, relayed or ours. Nothing follows it (RFC 6455 §5.5.1).
    Closed,
    /// Nothing can be sent any more: the socket failed, or was given up.
    Failed { was_closed: bool },
}

/// A Close of ours that waits for the end of a frame.
#[derive(PartialEq, Eq)]
struct DueClose {
    code: u16,
    word: Cow<'static, str>,
}

impl Side {
    /// The side at the other end of `stream`, whose frames `scanner` reads.
    pub fn new(stream: TunnelStream, scanner: Scanner, messages: Option<Box<Bucket>>) -> Self {
        Side {
            stream,
            scanner,
            messages,
            frames: OnceCell::new(),
            incoming: IncomingState::Relayed,
            outgoing: OutgoingState::Relayed,
        }
    }

    /// Whether the frames of this side pass.
    #[inline]
    pub fn is_relayed(&self) -> bool {
        self.incoming == IncomingState::Relayed
    }

    /// Whether the stream of this side is read, and nothing of it passes.
    pub fn is_discarded(&self) -> bool {
        self.incoming == IncomingState::Discarded
    }

    /// Whether the stream of this side is read.
    #[inline]
    pub fn is_read(&self) -> bool {
        matches!(self.incoming, IncomingState::Relayed | IncomingState::Discarded)
    }

    /// Whether the stream of this side is over.
    pub fn has_ended(&self) -> bool {
        self.incoming == IncomingState::Ended
    }

    /// Whether nothing more is awaited from this side.
    pub fn is_done(&self) -> bool {
        self.incoming != IncomingState::Relayed
    }

    /// Passes nothing more of this side. A side that is paused is read again.
    pub fn discard(&mut self) {
        if !self.has_ended() {
            self.incoming = IncomingState::Discarded;
        }
    }

    /// Reads nothing of this side for now, and passes nothing more of it.
    pub fn pause(&mut self) {
        if !self.has_ended() {
            self.incoming = IncomingState::Paused;
        }
    }

    /// Reads the side again where it is paused.
    pub fn resume(&mut self) {
        if self.incoming == IncomingState::Paused {
            self.incoming = IncomingState::Discarded;
        }
    }

    /// Notes the end of the side's stream. Returns whether its frames had ended before that.
    pub fn end_stream(&mut self) -> bool {
        std::mem::replace(&mut self.incoming, IncomingState::Ended) != IncomingState::Relayed
    }

    /// Whether bytes may go out to this side.
    #[inline]
    pub fn is_writable(&self) -> bool {
        matches!(self.outgoing, OutgoingState::Relayed | OutgoingState::CloseDue(_))
    }

    /// Whether a Close of ours waits for the end of a frame.
    #[inline]
    pub fn has_close_due(&self) -> bool {
        matches!(self.outgoing, OutgoingState::CloseDue(_))
    }

    /// Whether a Close has gone out to this side, also where its socket has failed since.
    pub fn was_closed(&self) -> bool {
        matches!(self.outgoing, OutgoingState::Closed | OutgoingState::Failed { was_closed: true })
    }

    /// Whether nothing can be sent to this side any more.
    #[inline]
    pub fn has_failed(&self) -> bool {
        matches!(self.outgoing, OutgoingState::Failed { .. })
    }

    /// Sends a Close once no frame is on its way, unless the stream to this side has ended.
    pub fn request_close(&mut self, code: u16, word: Cow<'static, str>) {
        // The first Close counts, and behind FIN or close_notify nothing can be sent.
        if self.outgoing == OutgoingState::Relayed && !self.stream.is_finishing() {
            self.outgoing = OutgoingState::CloseDue(Box::new(DueClose { code, word }));
        }
    }

    /// Sends no Close of ours, if none has gone out.
    pub fn cancel_close(&mut self) {
        if self.has_close_due() {
            self.outgoing = OutgoingState::Relayed;
        }
    }

    /// Notes that a Close has gone out to this side.
    pub fn on_closed(&mut self) {
        self.outgoing = match self.outgoing {
            // A Close that failed on its way was relayed all the same, and `phase` counts it
            // (decision 004).
            OutgoingState::Failed { .. } => OutgoingState::Failed { was_closed: true },
            _ => OutgoingState::Closed,
        };
    }

    /// Notes that nothing can be sent to this side any more. Its stream is still read.
    pub fn fail(&mut self) {
        self.outgoing = OutgoingState::Failed { was_closed: self.was_closed() };
    }

    /// Writes the Close that is due, if any. `flow` leads to this side, and says
    /// whether the frame is masked.
    pub fn close_if_due(&mut self, flow: Flow, cx: &mut Context<'_>) {
        let OutgoingState::CloseDue(due) = &self.outgoing else { return };
        // Every frame to a backend has a new random mask (RFC 6455 §5.3), and none to a client has
        // any.
        let mask = (flow == Flow::FromClient).then(rand::random);
        let close = frame::close_frame(due.code, &due.word, mask);
        self.write(cx, close.as_slice());
        // Also where that write has failed: a second Close would fail as well.
        self.on_closed();
    }

    /// Where the frame ends that is on its way at the start of `bytes`, or the end of `bytes`. That
    /// is also the answer where none is on its way.
    #[cold]
    pub fn frame_end(&self, bytes: &[u8]) -> usize {
        match usize::try_from(self.scanner.left()) {
            Ok(left @ 1..) => bytes.len().min(left),
            // A frame too long for `usize` ends behind `bytes` in any case.
            _ => bytes.len(),
        }
    }

    /// Sends `bytes` unless a Close has gone before them; returns how many were taken. A socket
    /// that fails is no error here: the read of the same side says why.
    #[inline]
    pub fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if !self.is_writable() || bytes.is_empty() {
            return 0;
        }
        match self.stream.write(cx, bytes) {
            Ok(()) => bytes.len(),
            Err(_) => {
                self.fail();
                0
            }
        }
    }

    /// As [`Side::write`], and ends the stream behind `bytes`.
    #[cold]
    pub fn write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if !self.is_writable() {
            return 0;
        }
        if self.stream.write_last(cx, bytes).is_err() {
            self.fail();
            return 0;
        }
        bytes.len()
    }

    /// Sends bytes that wait. True if all are sent, or none can be any more.
    #[inline]
    pub fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.has_failed() || !self.stream.wants_flush() || self.send(cx)
    }

    /// A function apart: the test before it, made a dozen times for each message, is then no call.
    #[inline(never)]
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.poll_flush(cx).unwrap_or_else(|_| {
            self.fail();
            true
        })
    }

    /// How much this side has taken so far, while the kernel has no room for the rest. `None` means
    /// that nothing waits, or that the side has failed.
    #[inline]
    pub fn stalled_progress(&self) -> Option<u64> {
        (!self.has_failed() && self.stream.has_unsent())
            .then(|| self.stream.acked(self.stream.unacked()))
    }

    /// As [`Side::stalled_progress`], for a tunnel that is ending. Counts what the kernel holds as
    /// well, unless the side is read and `gets_more` from the other. Notices that the connection is
    /// broken, so that the side acknowledges nothing more.
    pub fn ending_progress(&mut self, gets_more: bool) -> Option<u64> {
        if gets_more && !self.has_ended() {
            return self.stalled_progress();
        }
        let unacked = self.unacked()?;
        // The read of a discarded side notices by itself. No other side is read for certain: a
        // relayed side waits for the other side to take what came before.
        if !self.is_discarded() && self.stream.is_broken() {
            self.fail();
            return None;
        }
        Some(self.stream.acked(unacked))
    }

    /// Bytes that the kernel holds for this side. `None` means that the side has acknowledged all
    /// bytes, or has failed.
    fn unacked(&self) -> Option<u64> {
        if self.has_failed() {
            return None;
        }
        let unacked = self.stream.unacked();
        (unacked > 0 || self.stream.has_unsent()).then_some(unacked)
    }

    /// Whether this side has not acknowledged all that was passed to it.
    pub fn has_unacked(&self) -> bool {
        self.unacked().is_some()
    }

    /// Ends the connection now, as its time is up; bytes that the side has not acknowledged are
    /// dropped, also by the kernel. The other side may have more time.
    pub fn abort(&mut self) {
        // A reset drops what the kernel would keep for a peer that takes nothing, for up to two
        // minutes.
        if self.has_unacked() {
            self.stream.reset();
        } else if !self.has_failed() {
            self.stream.shutdown_both();
        }
        self.fail();
    }

    /// Ends the connection, as its time is up, though the side may read: the kernel delivers the
    /// rest, unless that is much or not whole.
    pub fn drop_unread(&mut self) {
        // Otherwise the close of the socket leaves the rest to the kernel: 64 KiB at most.
        if !self.has_failed() && self.has_left_behind() {
            self.stream.reset();
        }
        self.fail();
    }

    /// Whether nothing comes from this side any more: it has failed, or ended.
    pub fn is_gone(&self) -> bool {
        self.has_failed() || self.has_ended()
    }

    /// Whether this side, which is gone, has got all bytes but a little that the kernel holds.
    pub fn is_finished(&self) -> bool {
        self.has_failed() || !self.has_left_behind()
    }

    /// Whether more is left for this side than the kernel may keep behind a close.
    fn has_left_behind(&self) -> bool {
        self.stream.has_unsent() || self.stream.unacked() > MAX_UNREAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::net::UnixStream;

    use crate::data::stream::socket::Socket;
    use crate::data::websocket::frame::{Extensions, Sender};

    /// A side, and its peer.
    fn side() -> (Side, UnixStream) {
        let (ours, peer) = UnixStream::pair().unwrap();
        let scanner = Scanner::new(Sender::Client, Extensions::None);
        (Side::new(TunnelStream::clear(Socket::Unix(ours)), scanner, None), peer)
    }

    #[test]
    fn side_is_no_larger_than_its_parts_and_six_words() {
        let parts = size_of::<TunnelStream>() + size_of::<Scanner>();
        assert!(size_of::<Side>() <= parts + 48, "{}", size_of::<Side>() - parts);
    }

    #[tokio::test]
    async fn side_that_ended_is_never_read_again() {
        let (mut side, _peer) = side();
        side.pause();
        assert!(!side.is_read() && side.is_done() && !side.has_ended());
        side.resume();
        assert!(side.is_read() && side.is_discarded() && !side.is_relayed());
        assert!(side.end_stream(), "its frames had ended before");
        for change in [Side::discard, Side::pause, Side::resume] {
            change(&mut side);
            assert!(side.has_ended() && !side.is_read());
        }
    }

    #[tokio::test]
    async fn close_goes_out_once_and_nothing_follows_it() {
        let (mut side, peer) = side();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        side.request_close(1001, "drain".into());
        side.request_close(1008, "network".into());
        assert!(side.has_close_due() && side.is_writable() && !side.was_closed());
        side.close_if_due(Flow::FromBackend, &mut cx);
        side.close_if_due(Flow::FromBackend, &mut cx);
        assert_eq!(side.write(&mut cx, b"late"), 0);
        side.request_close(1008, "network".into());
        assert!(side.was_closed() && !side.has_close_due());
        let mut came = [0; 64];
        peer.readable().await.unwrap();
        let length = peer.try_read(&mut came).unwrap();
        assert_eq!(came[..length], *frame::close_frame(1001, "drain", None).as_slice());
    }

    #[tokio::test]
    async fn side_that_failed_remembers_its_close_and_gets_none() {
        let (mut side, _peer) = side();
        side.on_closed();
        side.fail();
        assert!(side.has_failed() && side.was_closed());
        let (mut side, _peer) = self::side();
        side.request_close(1001, "".into());
        side.fail();
        assert!(!side.has_close_due() && !side.was_closed() && !side.is_writable());
        side.request_close(1001, "".into());
        side.on_closed();
        side.fail();
        assert!(!side.has_close_due() && side.was_closed(), "its peer's Close was relayed");
    }
}
