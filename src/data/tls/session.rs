//! A TLS connection without its socket, over rustls' unbuffered API: the thread's buffers hold what passes, and a
//! session only what could not be used up or sent yet.
//!
//! rustls works through all records that it is given, and a KeyUpdate or an empty record costs as much as some KiB of
//! data: so it is given a few at a time, whole ones, and the rest waits for the next call. It keeps offsets into its
//! input while a handshake message is incomplete, and panics when it is called with less of it than it last saw: so each
//! call, whatever it is for, begins with what was left of the last. After an error it is never called again, but for the
//! alert.

use std::io;
use std::task::{Context, Poll, ready};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::data::buffers::{self, Buffers, FRONT, LEFT, READ, READ_SEALED};
use crate::data::socket::Socket;
use crate::data::turn;
use crate::data::unsent::Unsent;

/// Records that rustls is given at a time.
const SLICE: usize = 32;

/// Records with application data that one read may give: several slices, if all of their records are such.
const MAX_RECORDS: usize = 256;

/// Reads without application data before a connection that is not a tunnel yet gives way to others.
const READS: usize = 4;

/// The length that a record's header may state (RFC 8446 §5.2; RFC 5246 §6.2.3 allows more).
const MAX_RECORD: usize = (1 << 14) + 2048;

/// A record's header: type, version, length.
const HEADER: usize = 5;

/// A client's TLS connection. It holds no socket: the caller passes it in.
pub struct Session {
    tls: UnbufferedServerConnection,
    /// Ciphertext that is not used up: parts of a TLS handshake message, records that wait, a part of a record.
    left: Vec<u8>,
    /// How much of it rustls has seen already: the parts of a TLS handshake message.
    seen: usize,
    /// Whether a record waits in it that rustls has not seen.
    waits: bool,
    /// The records of the last read, if there were several or one without application data: those with, and without.
    several: (usize, usize),
    /// Records that are not sent yet.
    unsent: Unsent,
    /// Whether these are a session ticket, which goes with the next record in one write.
    ticket_waits: bool,
    /// Plaintext that nobody has taken yet.
    plain: Vec<u8>,
    /// Whether close_notify, or the end of the socket's stream, has come.
    ended: bool,
    /// Whether our own close_notify is queued or sent.
    closing: bool,
    /// Whether it broke: rustls must not be called again.
    failed: bool,
    /// Whether an alert was queued when it broke.
    alerted: bool,
}

impl Session {
    /// Before its first byte.
    pub fn new(tls: UnbufferedServerConnection) -> Self {
        Session {
            tls,
            left: Vec::new(),
            seen: 0,
            waits: false,
            several: (0, 0),
            unsent: Unsent::default(),
            ticket_waits: false,
            plain: Vec::new(),
            ended: false,
            closing: false,
            failed: false,
            alerted: false,
        }
    }

    /// Whether the TLS handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether all that came is used up and taken.
    pub fn is_between_records(&self) -> bool {
        self.left.is_empty() && self.plain.is_empty()
    }

    /// Works on what the caller has read: at the beginning, or behind [`Session::take_left`].
    pub fn take(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        mut came: Vec<u8>,
    ) -> io::Result<()> {
        buffers::lend(|buffers| {
            let (used, filled) =
                self.process(socket, cx, &mut came, &mut buffers.plain[FRONT..])?;
            self.left = came.split_off(used);
            self.plain.extend_from_slice(&buffers.plain[FRONT..FRONT + filled]);
            Ok(())
        })
    }

    /// The part of a record that was left, to be read on by the caller. `None` means that rustls has
    /// work, or has seen some of it, or that it has `most` bytes.
    pub fn take_left(&mut self, most: usize) -> Option<Vec<u8>> {
        let is_untouched = !self.waits && self.seen == 0 && !self.ended && self.left.len() < most;
        is_untouched.then(|| std::mem::take(&mut self.left))
    }

    /// Reads once, or works on what an earlier read left; returns how much of `buffers.plain` is filled behind
    /// `FRONT`, which may be nothing.
    pub fn poll_read(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        if !self.plain.is_empty() {
            return Poll::Ready(Ok(self.take_early(buffers)));
        }
        self.poll_decrypt(socket, cx, buffers, READ_SEALED)
    }

    /// Whether close_notify, or the end of the socket's stream, has come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it broke, and the peer is owed the alert that says why.
    pub fn has_alerted(&self) -> bool {
        self.alerted
    }

    /// Sends what is left of the alert, and of what was to be said before it.
    pub fn poll_alerted(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.ticket_waits = false;
        self.flush(socket, cx)?;
        if self.has_unsent() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// What came before the connection was a tunnel: no more than one read of hyper's gave.
    #[cold]
    fn take_early(&mut self, buffers: &mut Buffers) -> usize {
        let early = std::mem::take(&mut self.plain);
        buffers.plain[FRONT..FRONT + early.len()].copy_from_slice(&early);
        early.len()
    }

    /// As [`Session::poll_read`], into `plaintext`, which may be smaller than what comes: the rest is kept.
    pub fn poll_read_some(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        most: usize,
        plaintext: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<()>> {
        for _ in 0..READS {
            if !self.plain.is_empty() || self.ended {
                break;
            }
            ready!(self.poll_keep(socket, cx, most))?;
        }
        if self.plain.is_empty() && !self.ended {
            turn::give_way(cx);
            return Poll::Pending;
        }
        let taken = plaintext(&self.plain);
        self.plain.drain(..taken);
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits. True when the TLS handshake is done.
    pub fn poll_shaken(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.flush(socket, cx)?;
        if self.has_unsent() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(!self.tls.is_handshaking()))
    }

    /// One step of the TLS handshake: sends what waits, then reads once. True when it is done.
    pub fn poll_shake(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<bool>> {
        if ready!(self.poll_shaken(socket, cx))? {
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_keep(socket, cx, most))?;
        if self.ended && self.tls.is_handshaking() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(false))
    }

    /// Reads at most `most` bytes once, and keeps the plaintext.
    fn poll_keep(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        buffers::lend(|buffers| {
            let filled = ready!(self.poll_decrypt(socket, cx, buffers, most))?;
            self.plain.extend_from_slice(&buffers.plain[FRONT..FRONT + filled]);
            Poll::Ready(Ok(()))
        })
    }

    /// Reads at most `most` bytes once, unless a record of an earlier read waits, and decrypts them; returns how much
    /// of `buffers.plain` they fill behind [`FRONT`], which may be nothing.
    fn poll_decrypt(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let Buffers { cipher, plain, turn } = buffers;
        let kept = self.left.len();
        let mut read = 0;
        if !self.waits {
            if kept > LEFT {
                return Poll::Ready(Err(self.too_long()));
            }
            read = ready!(socket.poll_fill(cx, &mut cipher[kept..kept + most]))?;
            if read == 0 {
                // FIN without close_notify is an end like another: frames and heads say by themselves whether they are
                // whole.
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
        }
        let came = &mut cipher[..kept + read];
        came[..kept].copy_from_slice(&self.left);
        let (used, filled) = self.process(socket, cx, came, &mut plain[FRONT..])?;
        if kept > 0 || used < came.len() {
            // A new one, and never room for what a burst left.
            self.left = came[used..].to_vec();
        }
        turn.moved(used);
        if self.several != (0, 0) {
            let (data, barren) = std::mem::take(&mut self.several);
            turn.records(data, barren);
        }
        Poll::Ready(Ok(filled))
    }

    #[cold]
    fn too_long(&mut self) -> io::Error {
        self.failed = true;
        io::Error::new(io::ErrorKind::InvalidData, "a TLS handshake message of more than 64 KiB")
    }

    /// Works through records of `cipher` into `plain`; returns how much of the one is used up, and how much of the other
    /// is filled. What this makes rustls want to say waits for the next flush, where its progress is counted; but for
    /// an alert, which is sent.
    fn process(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        cipher: &mut [u8],
        plain: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        self.digest_all(cipher, plain).inspect_err(|_| {
            // That the peer takes it is no longer our concern.
            let _ = self.unsent.flush(socket, cx);
        })
    }

    /// Slice after slice, for as long as every record carries application data.
    fn digest_all(&mut self, cipher: &mut [u8], plain: &mut [u8]) -> io::Result<(usize, usize)> {
        let (mut used, mut filled, mut all) = (0, 0, 0);
        loop {
            let seen = used + self.seen;
            let (records, length) = whole_records(&cipher[seen..], SLICE);
            let end = seen + length;
            let (more, came, data) = self.digest(&mut cipher[used..end], &mut plain[filled..])?;
            used += more;
            filled += came;
            self.seen = end - used;
            all += records;
            if all > 1 || data < records {
                // One record is as dear as its bytes and its read.
                self.several.0 += data;
                self.several.1 += records.saturating_sub(data);
            }
            self.waits =
                end < cipher.len() && !self.ended && whole_records(&cipher[end..], 1).0 > 0;
            if !self.waits || data < records || all >= MAX_RECORDS {
                return Ok((used, filled));
            }
        }
    }

    /// Works through all of `cipher`; returns how much of it is used up, how much of `plain` is filled, and by how many
    /// records.
    #[inline]
    fn digest(&mut self, cipher: &mut [u8], plain: &mut [u8]) -> io::Result<(usize, usize, usize)> {
        let (mut used, mut filled, mut data) = (0, 0, 0);
        let handshaking = self.tls.is_handshaking();
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.tls.process_tls_records(&mut cipher[used..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        let room = plain.get_mut(filled..filled + record.payload.len());
                        room.ok_or(io::ErrorKind::OutOfMemory)?.copy_from_slice(record.payload);
                        filled += record.payload.len();
                        data += 1;
                    }
                    if used + discard == cipher.len() && !self.tls.wants_write() {
                        return Ok((used + discard, filled, data)); // as most reads end, without another call
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => {
                    queue(message, &mut self.unsent)?;
                    // As BoringSSL does; in TLS 1.2 the client waits for what the end of the handshake has to say.
                    self.ticket_waits = handshaking
                        && !self.tls.is_handshaking()
                        && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                // There is nothing more to be done with what came; early data is never offered.
                Ok(_) => return Ok((used + discard, filled, data)),
                Err(error) => {
                    self.failed = true;
                    self.queue_alert(&mut cipher[used + discard..]);
                    return Err(invalid(error));
                }
            }
            used += discard;
        }
    }

    /// The alert that an error has queued, behind what was to be said before it; `rest` is what is left of the input.
    fn queue_alert(&mut self, rest: &mut [u8]) {
        // As long as there is something to say, rustls says it before it looks at its input.
        while self.tls.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(message)) =
                self.tls.process_tls_records(rest).state
            else {
                return;
            };
            if queue(message, &mut self.unsent).is_err() {
                return;
            }
            self.alerted = true;
        }
    }

    /// Encrypts `bytes`, and writes them behind what is not sent yet; returns how many bytes went out.
    pub fn write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        self.put(socket, cx, bytes, false)
    }

    /// As [`Session::write`], with close_notify in the same write: nothing follows these bytes, which are a frame at most.
    pub fn write_last(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        let last = !std::mem::replace(&mut self.closing, true);
        self.put(socket, cx, bytes, last)
    }

    fn put(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> io::Result<usize> {
        let ticket = std::mem::take(&mut self.ticket_waits);
        buffers::lend_out(|out| {
            let mut sent = 0;
            for part in bytes.chunks(READ) {
                let sealed = self
                    .traffic(|traffic| traffic.encrypt(part, out))
                    .ok_or(io::ErrorKind::BrokenPipe)?;
                let mut sealed = sealed.map_err(invalid)?;
                if last {
                    let notify =
                        self.traffic(|traffic| traffic.queue_close_notify(&mut out[sealed..]));
                    sealed += notify.ok_or(io::ErrorKind::BrokenPipe)?.map_err(invalid)?;
                }
                sent += if last {
                    self.unsent.write_last(socket, cx, &out[..sealed])?
                } else {
                    self.unsent.write(socket, cx, &out[..sealed])?
                };
            }
            if ticket {
                sent += self.unsent.flush(socket, cx)?;
            }
            Ok(sent)
        })
    }

    /// Queues close_notify.
    pub fn close_notify(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.ticket_waits = false;
            // For want of room rustls keeps it among what it wants to say, and that is queued on the way to the next thing.
            let _ = self.traffic(|traffic| traffic.queue_close_notify(&mut []));
            let _ = self.traffic(|_| ());
        }
    }

    /// Goes to where application data may be written; `None` where that is no more.
    fn traffic<R>(
        &mut self,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> R,
    ) -> Option<R> {
        while !self.failed {
            // All that can be used of what it has seen is used: there is nothing to discard.
            match self.tls.process_tls_records(&mut self.left[..self.seen]).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => return Some(say(&mut traffic)),
                Ok(ConnectionState::EncodeTlsData(message)) => {
                    queue(message, &mut self.unsent).ok()?;
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(_) => return None,
                Err(_) => self.failed = true,
            }
        }
        None
    }

    /// Whether something is to be sent and is not sent yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() && !self.ticket_waits
    }

    /// Sends what is not sent yet; returns how many bytes went out.
    pub fn flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> io::Result<usize> {
        if self.ticket_waits {
            return Ok(0);
        }
        self.unsent.flush(socket, cx)
    }
}

/// At most `most` whole records at the front of `cipher`: how many, and how many bytes. What can be no record counts
/// as one with all that follows it: rustls says what is wrong with it.
#[inline]
fn whole_records(cipher: &[u8], most: usize) -> (usize, usize) {
    if let [_, 3, _, high, low, body @ ..] = cipher
        && body.len() == usize::from(u16::from_be_bytes([*high, *low]))
    {
        return (1, cipher.len()); // as most reads are
    }
    several_records(cipher, most)
}

#[inline(never)]
fn several_records(cipher: &[u8], most: usize) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while count < most
        && let Some(&[kind, major, _, high, low]) = cipher[end..].first_chunk::<HEADER>()
    {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(20..=24).contains(&kind) || major != 3 || length > MAX_RECORD {
            return (count + 1, cipher.len());
        }
        if cipher.len() - end - HEADER < length {
            break;
        }
        count += 1;
        end += HEADER + length;
    }
    (count, end)
}

/// Puts what rustls wants to say behind what is not sent yet.
fn queue(
    mut message: EncodeTlsData<'_, ServerConnectionData>,
    unsent: &mut Unsent,
) -> io::Result<()> {
    match message.encode(&mut []) {
        Ok(_) => Ok(()),
        Err(EncodeError::InsufficientSize(size)) => {
            message.encode(unsent.reserve(size.required_size)).map(|_| ()).map_err(invalid)
        }
        Err(error) => Err(invalid(error)),
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: u16) -> Vec<u8> {
        [&[23, 3, 3][..], &length.to_be_bytes(), &vec![0; length.into()]].concat()
    }

    /// How many whole records stand at the front of `cipher`, of three at most, and how many bytes they take.
    fn check(cipher: &[u8], expected: (usize, usize)) {
        assert_eq!(whole_records(cipher, 3), expected, "{:x?}", &cipher[..cipher.len().min(12)]);
    }

    #[test]
    fn only_whole_records_are_shown_and_a_few_at_a_time() {
        check(&[], (0, 0));
        check(&record(17)[..4], (0, 0));
        check(&record(17)[..21], (0, 0));
        check(&record(17), (1, 22));
        check(&[record(17), record(0)].concat(), (2, 27));
        check(&[record(17), record(40)[..44].to_vec()].concat(), (1, 22));
        check(&record(17).repeat(5), (3, 66));
    }

    #[test]
    fn what_can_be_no_record_is_shown_with_all_that_follows() {
        check(b"GET / HTTP/1.1\r\n", (1, 16));
        check(&[23, 2, 0, 0, 5], (1, 5));
        check(&[23, 3, 3, 0xff, 0xff, 1], (1, 6));
        check(&[&record(17)[..], b"\x00\x03\x03\x00\x01"].concat(), (2, 27));
    }
}
