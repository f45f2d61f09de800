//! A TLS connection without its socket, over rustls' unbuffered API: the thread's buffers hold the
//! bytes that pass, and a session only bytes that could not be used up or sent yet.
//!
//! rustls works through all records that it is given, and a KeyUpdate or an empty record costs as
//! much as some KiB of data: so it is given a few at a time, whole ones, and the rest waits for the
//! next call. rustls keeps offsets into its input while a handshake message is incomplete, and
//! panics when it is called with less of it than it last saw: so each call, whatever it is for,
//! begins with what was left of the last. After an error rustls is never called again, except for
//! the alert.

use std::io;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::data::stream::buffers::{
    self, Buffers, HEADROOM, MAX_CIPHERTEXT, MAX_LEFTOVER, MAX_PLAINTEXT,
};
use crate::data::stream::send_buffer::SendBuffer;
use crate::data::stream::socket::Socket;
use crate::data::stream::turn;

/// Records that rustls is given at a time, at most.
const MAX_SLICE_RECORDS: usize = 32;

/// Most records with application data that one read gives: several slices, if all of their records
/// carry such data.
const MAX_RECORDS: usize = 256;

/// Reads without application data after which a connection that is not a tunnel yet gives way to
/// others.
const MAX_EMPTY_READS: usize = 4;

/// Greatest length that a record's header may state (RFC 8446 §5.2; RFC 5246 §6.2.3 allows more).
const MAX_RECORD_BYTES: usize = (1 << 14) + 2048;

/// Length of a record's header in bytes: type, version, length.
const RECORD_HEADER_BYTES: usize = 5;

/// A client's TLS connection. The caller passes the socket in.
pub struct TlsSession {
    tls: UnbufferedServerConnection,
    /// Ciphertext that is not used up: parts of a TLS handshake message, records that wait, a part
    /// of a record.
    left: Vec<u8>,
    /// How many bytes of `left` rustls has seen already: the parts of a TLS handshake message.
    seen: usize,
    /// Whether a whole record waits in `left` that rustls has not seen.
    waits: bool,
    /// The records of the last read, with and without application data, if there were several or
    /// one without.
    several: (usize, usize),
    /// Records that are not sent yet.
    unsent: SendBuffer,
    /// Whether `unsent` holds a session ticket, which goes with the next record in one write.
    ticket_waits: bool,
    /// Plaintext that the caller has not taken yet.
    plain: Vec<u8>,
    /// Whether close_notify, or the end of the socket's stream, has come.
    ended: bool,
    /// Whether our own close_notify is queued or sent.
    closing: bool,
    /// Whether the connection broke: rustls must not be called again.
    failed: bool,
    /// Whether an alert was queued when the connection broke.
    alerted: bool,
}

impl TlsSession {
    /// Starts before the first byte of the client.
    pub fn new(tls: UnbufferedServerConnection) -> Self {
        TlsSession {
            tls,
            left: Vec::new(),
            seen: 0,
            waits: false,
            several: (0, 0),
            unsent: SendBuffer::default(),
            ticket_waits: false,
            plain: Vec::new(),
            ended: false,
            closing: false,
            failed: false,
            alerted: false,
        }
    }

    /// The version of TLS, in the words of OpenSSL. `None` means not yet known.
    pub fn version(&self) -> Option<&'static str> {
        match self.tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// Whether the TLS handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificates that the client has shown, its own first. Empty means none.
    pub fn client_chain(&self) -> Vec<CertificateDer<'static>> {
        let shown = self.tls.peer_certificates().unwrap_or_default();
        shown.iter().map(|certificate| certificate.clone().into_owned()).collect()
    }

    /// Whether all bytes that came are decrypted, and their plaintext taken.
    pub fn is_between_records(&self) -> bool {
        self.left.is_empty() && self.plain.is_empty()
    }

    /// Works on bytes that the caller has read: at the beginning, or behind
    /// [`TlsSession::take_partial_record`].
    pub fn feed(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        mut came: Vec<u8>,
    ) -> io::Result<()> {
        buffers::lend(|buffers| {
            let (used, filled) =
                self.process(socket, cx, &mut came, &mut buffers.plain[HEADROOM..])?;
            self.left = came.split_off(used);
            self.plain.extend_from_slice(&buffers.plain[HEADROOM..HEADROOM + filled]);
            Ok(())
        })
    }

    /// Takes the part of a record that was left, for the caller to read on. `None` means that
    /// rustls has work, or has seen some of it, or that `max` bytes are reached.
    pub fn take_partial_record(&mut self, max: usize) -> Option<Vec<u8>> {
        let is_untouched = !self.waits && self.seen == 0 && !self.ended && self.left.len() < max;
        is_untouched.then(|| std::mem::take(&mut self.left))
    }

    /// Reads once, or works on what an earlier read left; returns how many bytes of `buffers.plain`
    /// are filled behind `HEADROOM`, possibly none.
    pub fn poll_read(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        if !self.plain.is_empty() {
            return Poll::Ready(Ok(self.take_early(buffers)));
        }
        self.poll_decrypt(socket, cx, buffers, MAX_CIPHERTEXT)
    }

    /// Whether close_notify, or the end of the socket's stream, has come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the connection broke, and the peer is owed the alert that says why.
    pub fn has_alerted(&self) -> bool {
        self.alerted
    }

    /// Sends the rest of the alert, and of the records in front of it.
    pub fn poll_alerted(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        // No record follows an alert, so a ticket has nothing left to wait for.
        self.ticket_waits = false;
        self.flush(socket, cx)?;
        if self.has_unsent() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Takes the plaintext that came before the connection was a tunnel: no more than one read of
    /// hyper's gave.
    #[cold]
    fn take_early(&mut self, buffers: &mut Buffers) -> usize {
        let early = std::mem::take(&mut self.plain);
        buffers.plain[HEADROOM..HEADROOM + early.len()].copy_from_slice(&early);
        early.len()
    }

    /// As [`TlsSession::poll_read`], into `plaintext`, which may take fewer bytes than come: the
    /// rest is kept.
    pub fn poll_read_some(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        max: usize,
        plaintext: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<()>> {
        // Records without application data, such as KeyUpdate (RFC 8446 §4.6.3), give no plaintext.
        // A peer that sends nothing else must not hold the thread.
        for _ in 0..MAX_EMPTY_READS {
            if !self.plain.is_empty() || self.ended {
                break;
            }
            ready!(self.poll_read_ahead(socket, cx, max))?;
        }
        if self.plain.is_empty() && !self.ended {
            turn::yield_after_io(cx);
            return Poll::Pending;
        }
        let taken = plaintext(&self.plain);
        self.plain.drain(..taken);
        // Frees the memory: most connections are idle most of the time.
        if self.plain.is_empty() {
            self.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the records that wait. True when the TLS handshake is done.
    pub fn poll_handshake_sent(
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

    /// Makes one step of the TLS handshake: sends the records that wait, then reads once. True when
    /// it is done.
    pub fn poll_handshake_step(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<bool>> {
        if ready!(self.poll_handshake_sent(socket, cx))? {
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_read_ahead(socket, cx, max))?;
        // Within the handshake a FIN is never an orderly end: nothing can be whole yet.
        if self.ended && self.tls.is_handshaking() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(false))
    }

    /// Reads at most `max` bytes once, and keeps the plaintext.
    fn poll_read_ahead(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<io::Result<()>> {
        buffers::lend(|buffers| {
            let filled = ready!(self.poll_decrypt(socket, cx, buffers, max))?;
            self.plain.extend_from_slice(&buffers.plain[HEADROOM..HEADROOM + filled]);
            Poll::Ready(Ok(()))
        })
    }

    /// Reads at most `max` bytes once, unless a record of an earlier read waits, and decrypts
    /// them; returns how many bytes of `buffers.plain` they fill behind [`HEADROOM`], possibly
    /// none.
    fn poll_decrypt(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Data behind close_notify must be ignored (RFC 8446 §6.1), so nothing more is read.
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let Buffers { cipher, plain, turn } = buffers;
        let kept = self.left.len();
        let mut read = 0;
        if !self.waits {
            // A handshake message may span any number of records. The buffer has room for one read
            // behind this bound.
            if kept > MAX_LEFTOVER {
                return Poll::Ready(Err(self.too_long()));
            }
            read = ready!(socket.poll_read_once(cx, &mut cipher[kept..kept + max]))?;
            if read == 0 {
                // FIN without close_notify is an end like another: frames and heads say by
                // themselves whether they are whole.
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
        }
        let came = &mut cipher[..kept + read];
        // In front, so that rustls never gets less than it has seen.
        came[..kept].copy_from_slice(&self.left);
        let (used, filled) = self.process(socket, cx, came, &mut plain[HEADROOM..])?;
        if kept > 0 || used < came.len() {
            // A new vector: the old one may have room for a burst.
            self.left = came[used..].to_vec();
        }
        turn.spend_call(used);
        if self.several != (0, 0) {
            let (data, barren) = std::mem::take(&mut self.several);
            turn.spend_records(data, barren);
        }
        Poll::Ready(Ok(filled))
    }

    #[cold]
    fn too_long(&mut self) -> io::Error {
        self.failed = true;
        io::Error::new(io::ErrorKind::InvalidData, "a TLS handshake message of more than 64 KiB")
    }

    /// Works through records of `cipher` into `plain`; returns how many bytes of the one are used
    /// up, and how many of the other filled. Records that rustls wants to send in return wait for
    /// the next flush, where their progress is counted. An alert is sent at once.
    fn process(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        cipher: &mut [u8],
        plain: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        self.process_records(cipher, plain).inspect_err(|_| {
            // The peer need not take it: the error is returned in any case.
            let _ = self.unsent.flush(socket, cx);
        })
    }

    /// Works through slice after slice, for as long as every record carries application data.
    fn process_records(
        &mut self,
        cipher: &mut [u8],
        plain: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        let (mut used, mut filled, mut all) = (0, 0, 0);
        loop {
            // rustls gets its input from `used` on: the bytes that it has seen come first again.
            let seen = used + self.seen;
            let (records, length) = whole_records(&cipher[seen..], MAX_SLICE_RECORDS);
            let end = seen + length;
            let (more, came, data) =
                self.process_slice(&mut cipher[used..end], &mut plain[filled..])?;
            used += more;
            filled += came;
            self.seen = end - used;
            all += records;
            if all > 1 || data < records {
                // A single record costs no more than its bytes and its read, which are counted
                // anyway.
                self.several.0 += data;
                self.several.1 += records.saturating_sub(data);
            }
            self.waits =
                end < cipher.len() && !self.ended && whole_records(&cipher[end..], 1).0 > 0;
            // A record without data may be a KeyUpdate: the turn is charged before more of them
            // follow.
            if !self.waits || data < records || all >= MAX_RECORDS {
                return Ok((used, filled));
            }
        }
    }

    /// Works through all of `cipher`; returns how many bytes of it are used up, how many of `plain`
    /// are filled, and by how many records.
    #[inline]
    fn process_slice(
        &mut self,
        cipher: &mut [u8],
        plain: &mut [u8],
    ) -> io::Result<(usize, usize, usize)> {
        let (mut used, mut filled, mut data) = (0, 0, 0);
        // What TLS 1.3 sends in the step that completes the handshake is the session ticket.
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
                        // Never: `plain` has as much room as the input, and plaintext is shorter
                        // than its record.
                        room.ok_or(io::ErrorKind::OutOfMemory)?.copy_from_slice(record.payload);
                        filled += record.payload.len();
                        data += 1;
                    }
                    if used + discard == cipher.len() && !self.tls.wants_write() {
                        // As most reads end: without another call.
                        return Ok((used + discard, filled, data));
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => {
                    queue(message, &mut self.unsent)?;
                    // A ticket waits for the next record, as in BoringSSL. Not in TLS 1.2, where
                    // the client waits for the last messages of the handshake.
                    self.ticket_waits = handshaking
                        && !self.tls.is_handshaking()
                        && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                // rustls reports this once, so it has to be kept.
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                // Nothing more can be done with these bytes; early data is never offered.
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

    /// Queues the alert of an error, behind the records that were to be sent before it; `rest` is
    /// the rest of the input.
    fn queue_alert(&mut self, rest: &mut [u8]) {
        // As long as rustls has something to send, it does not look at its input.
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

    /// Encrypts `bytes`, and writes them behind the records that are unsent; returns how many bytes
    /// went out.
    pub fn write(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        self.put(socket, cx, bytes, false)
    }

    /// As [`TlsSession::write`], with close_notify in the same write: nothing follows these bytes,
    /// which are a frame at most.
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
        // A ticket lies in `unsent`: the records queue behind it, and the flush below sends both at
        // once.
        let ticket = std::mem::take(&mut self.ticket_waits);
        buffers::lend_output(|out| {
            let mut sent = 0;
            for part in bytes.chunks(MAX_PLAINTEXT) {
                // There is no traffic state once the connection broke, nor after close_notify from
                // both sides.
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

    /// Queues close_notify, once; nothing is encrypted behind it.
    pub fn close_notify(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.ticket_waits = false;
            // Without room, rustls keeps the alert for itself. The next call of `traffic` moves it
            // to `unsent`.
            let _ = self.traffic(|traffic| traffic.queue_close_notify(&mut []));
            let _ = self.traffic(|_| ());
        }
    }

    /// Calls `say` where application data may be written. `None` means that this is over, or not
    /// yet.
    fn traffic<R>(
        &mut self,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> R,
    ) -> Option<R> {
        while !self.failed {
            // Everything that can be used of these bytes is used: there is nothing to discard.
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

    /// Whether records are unsent. A ticket that waits for the next record does not count.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() && !self.ticket_waits
    }

    /// Sends the records that are unsent; returns how many bytes went out. A ticket stays until a
    /// record follows.
    pub fn flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> io::Result<usize> {
        if self.ticket_waits {
            return Ok(0);
        }
        self.unsent.flush(socket, cx)
    }
}

/// Counts the whole records at the front of `cipher`, `max` at most: how many, and how many bytes.
/// Bytes that can be no record count as one, with all that follows: rustls names the mistake.
#[inline]
fn whole_records(cipher: &[u8], max: usize) -> (usize, usize) {
    if let [_, 3, _, high, low, body @ ..] = cipher
        && body.len() == usize::from(u16::from_be_bytes([*high, *low]))
    {
        return (1, cipher.len()); // as most reads are
    }
    several_records(cipher, max)
}

#[inline(never)]
fn several_records(cipher: &[u8], max: usize) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while count < max
        && let Some(&[kind, major, _, high, low]) =
            cipher[end..].first_chunk::<RECORD_HEADER_BYTES>()
    {
        let length = usize::from(u16::from_be_bytes([high, low]));
        // The content types of TLS, change_cipher_spec to heartbeat (RFC 8446 §B.1).
        if !(20..=24).contains(&kind) || major != 3 || length > MAX_RECORD_BYTES {
            return (count + 1, cipher.len());
        }
        if cipher.len() - end - RECORD_HEADER_BYTES < length {
            break;
        }
        count += 1;
        end += RECORD_HEADER_BYTES + length;
    }
    (count, end)
}

/// Appends a message that rustls wants to send to the records that are unsent.
fn queue(
    mut message: EncodeTlsData<'_, ServerConnectionData>,
    unsent: &mut SendBuffer,
) -> io::Result<()> {
    // An empty buffer asks for the size: rustls keeps the message until one fits.
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

    /// How many whole records stand at the front of `cipher`, of three at most, and how many bytes
    /// they take.
    fn check(cipher: &[u8], expected: (usize, usize)) {
        assert_eq!(whole_records(cipher, 3), expected, "{:x?}", &cipher[..cipher.len().min(12)]);
    }

    #[test]
    fn only_whole_records_are_processed_in_slices() {
        check(&[], (0, 0));
        check(&record(17)[..4], (0, 0));
        check(&record(17)[..21], (0, 0));
        check(&record(17), (1, 22));
        check(&[record(17), record(0)].concat(), (2, 27));
        check(&[record(17), record(40)[..44].to_vec()].concat(), (1, 22));
        check(&record(17).repeat(5), (3, 66));
    }

    #[test]
    fn invalid_record_is_passed_on_with_all_behind_it() {
        check(b"GET / HTTP/1.1\r\n", (1, 16));
        check(&[23, 2, 0, 0, 5], (1, 5));
        check(&[23, 3, 3, 0xff, 0xff, 1], (1, 6));
        check(&[&record(17)[..], b"\x00\x03\x03\x00\x01"].concat(), (2, 27));
    }
}
