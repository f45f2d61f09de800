//! Where frames begin and end (RFC 6455 §5.2), and the few frames of our own.
//!
//! The scanner reads headers and holds control frames, which are small. It never unmasks, copies or
//! keeps data payload, so that whatever an extension made of it passes untouched. It never repairs:
//! all that passes, passes byte for byte.

use std::{fmt, io};

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control as Kind, OpCode};

/// Opcode of a Close (RFC 6455 §11.8).
pub const OPCODE_CLOSE: u8 = 8;
/// Opcode of a Ping (RFC 6455 §11.8).
pub const OPCODE_PING: u8 = 9;
/// Opcode of a Pong (RFC 6455 §11.8).
pub const OPCODE_PONG: u8 = 10;

/// Payload below which a frame counts towards [`FrameRules::admits_frame`] where it neither begins
/// nor ends its message.
///
/// Clients that fragment cut at a kibibyte or more. Autobahn's cases 9.3 and 9.4 send 65,536
/// fragments of 64 bytes.
pub const MAX_SMALL_FRAGMENT: u64 = 64;

/// Which side sends the stream that is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Its frames must be masked.
    Client,
    /// Its frames must not be masked.
    Backend,
}

/// What the 101 agreed on beside the protocol itself (RFC 6455 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extensions {
    /// No extension: reserved bits and opcodes have no meaning.
    None,
    /// permessage-deflate alone: RSV1 marks the first frame of a compressed message (RFC 7692 §6).
    Deflate,
    /// At least one other extension. It may give a meaning to any reserved bit and opcode, and may
    /// interleave the fragments of messages (RFC 6455 §5.2, §5.4).
    Unknown,
}

/// Scans one direction of a tunnel. 32 bytes, and nothing on the heap except a control frame that
/// is still incomplete.
#[derive(Debug)]
pub struct Scanner {
    front: ScanState,
    /// Payload bytes that the message of the last data frame has so far.
    message: u64,
    /// Whether a message is unfinished: the last data frame had no FIN.
    open: bool,
    sender: Sender,
    extensions: Extensions,
}

/// What the next bytes begin with.
#[derive(Debug)]
enum ScanState {
    /// So many payload bytes of a data frame; after the last of them, a frame begins.
    Payload(u64),
    /// The rest of a header of which these bytes came.
    Head(HeaderBytes),
    /// The rest of a control frame whose header is complete.
    Control(Box<ControlFrameBytes>),
}

/// The part at the front of an input that [`Scanner::next`] has read.
#[derive(Debug)]
pub struct Piece {
    /// How many bytes of the input it spans: at least one.
    pub taken: usize,
    /// Whether these bytes pass, are held, or have to be seen.
    pub what: PieceKind,
}

/// The kinds of [`Piece`].
#[derive(Debug)]
pub enum PieceKind {
    /// Frames, or a part of one, to be passed on unchanged.
    Run(FrameRun),
    /// An incomplete header or control frame. The scanner keeps it, and nothing can be passed on
    /// yet.
    Incomplete,
    /// A complete control frame that the [`FrameRules`] want to be seen. Boxed, since few are, and
    /// every piece would be as large.
    Control(Box<ControlFrame>),
}

/// Frames in a row that pass unchanged: data frames, and the control frames between them that need
/// not be seen.
#[derive(Debug)]
pub struct FrameRun {
    /// Bytes that came in an earlier input, to be passed on first. `None` means that there are
    /// none, as almost always.
    held: Option<Box<ControlFrameBytes>>,
    /// How many frames began.
    pub frames: u32,
    /// How many messages began (a fragmented one counts once).
    pub messages: u32,
    /// Whether a Ping is among them.
    pub pings: bool,
    /// Whether a Pong is among them.
    pub pongs: bool,
}

/// Why the stream cannot go on (`docs/spec/wire.md`, "Close codes"). Nothing of the frame at fault
/// was passed on, and the scan ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The sender broke the framing: 1002. The sentence says how.
    Framing(&'static str),
    /// The frame would make its message larger than allowed: 1009.
    TooBig,
    /// The frame begins a message that is one too many: 1008.
    TooManyMessages,
    /// The frame is of a kind that [`FrameRules::admits_frame`] counts, and one too many: 1008.
    TooManyFrames,
}

/// A control frame, held whole (RFC 6455 §5.5).
#[derive(Clone, Copy)]
pub struct ControlFrame {
    /// The opcode, always 8 or above.
    pub opcode: u8,
    frame: ControlFrameBytes,
    payload: InlineBytes<{ ControlFrame::MAX_PAYLOAD_BYTES }>,
}

/// The bytes of a frame's header that have come; at most 14.
pub type HeaderBytes = InlineBytes<14>;

/// A whole control frame as on the wire: header, masking key if any, payload.
pub type ControlFrameBytes = InlineBytes<{ 2 + 4 + ControlFrame::MAX_PAYLOAD_BYTES }>;

/// At most `N` bytes, kept in place; `N` is at most 255.
#[derive(Clone, Copy)]
pub struct InlineBytes<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

/// The rules for frames beyond the framing, and which control frames need not be seen.
pub trait FrameRules {
    /// The most payload of a message, in bytes as on the wire; it may change between calls. `None`
    /// means unlimited.
    fn message_max(&self) -> Option<u64>;

    /// Whether [`FrameRules::admits_message`] limits messages in number.
    fn limits_messages(&self) -> bool {
        false
    }

    /// Whether [`FrameRules::admits_frame`] limits frames in number.
    fn limits_frames(&self) -> bool {
        false
    }

    /// Whether one more message may begin; takes its cost. To be called before any of it is passed
    /// on.
    fn admits_message(&self) -> bool {
        true
    }

    /// Whether one more frame may come that messages do not bound: a Ping, a Pong, a data frame
    /// without payload, a frame of less than [`MAX_SMALL_FRAGMENT`] in the middle of a message.
    /// Takes its cost.
    fn admits_frame(&self) -> bool {
        true
    }

    /// Whether every control frame with this opcode may be part of a [`FrameRun`], whatever its
    /// payload.
    fn passes_always(&self, opcode: u8) -> bool {
        let _ = opcode;
        false
    }

    /// Whether a complete control frame with this opcode and payload may be part of a [`FrameRun`].
    fn passes(&self, opcode: u8, payload: MaskedPayload<'_>) -> bool {
        let _ = (opcode, payload);
        false
    }
}

/// A bound of the messages' size alone; every control frame is seen.
impl FrameRules for Option<u64> {
    fn message_max(&self) -> Option<u64> {
        *self
    }
}

/// A payload as it came.
#[derive(Debug, Clone, Copy)]
pub struct MaskedPayload<'a> {
    /// The masking key; zeros where there is none (RFC 6455 §5.3).
    key: [u8; 4],
    bytes: &'a [u8],
}

/// A header that is complete and allowed.
struct ParsedHeader {
    /// Bytes of the header itself: 2 to 14.
    len: usize,
    payload: u64,
    /// Payload of the message so far, this frame's included.
    message: u64,
    opcode: u8,
    begins: bool,
    last: bool,
}

impl ParsedHeader {
    fn is_control(&self) -> bool {
        self.opcode >= 8
    }

    /// Whether messages do not bound frames like this one in number: each has one first and one
    /// last frame.
    fn counts(&self) -> bool {
        if self.is_control() {
            return self.opcode != OPCODE_CLOSE; // A Close ends the stream by itself.
        }
        self.payload < MAX_SMALL_FRAGMENT && (self.payload == 0 || self.opcode == 0 && !self.last)
    }

    /// Takes what the frame costs. To be called once for each frame: a header that is read again
    /// must not cost again.
    fn take_cost(&self, rules: &impl FrameRules) -> Result<(), FrameError> {
        if self.counts() && !rules.admits_frame() {
            return Err(FrameError::TooManyFrames);
        }
        if self.begins && !rules.admits_message() {
            return Err(FrameError::TooManyMessages);
        }
        Ok(())
    }
}

impl FrameRun {
    fn of(held: &[u8]) -> FrameRun {
        let held = (!held.is_empty()).then(|| {
            let mut kept = Box::new(ControlFrameBytes::EMPTY);
            kept.fill(held, ControlFrameBytes::CAPACITY);
            kept
        });
        FrameRun { held, frames: 0, messages: 0, pings: false, pongs: false }
    }

    /// The bytes that came in an earlier input.
    pub fn held(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], |held| held.as_slice())
    }

    fn enter(&mut self, header: &ParsedHeader) {
        self.frames += 1;
        self.messages += u32::from(header.begins);
        self.pings |= header.opcode == OPCODE_PING;
        self.pongs |= header.opcode == OPCODE_PONG;
    }
}

impl MaskedPayload<'_> {
    /// Whether the payload is `plain`, once the mask is taken away.
    pub fn unmasks_to(&self, plain: &[u8]) -> bool {
        let unmasked = self.bytes.iter().zip(self.key.iter().cycle()).map(|(byte, key)| byte ^ key);
        self.bytes.len() == plain.len() && unmasked.eq(plain.iter().copied())
    }
}

impl Scanner {
    /// Starts a scanner behind the 101, which agreed on these `extensions`.
    pub fn new(sender: Sender, extensions: Extensions) -> Scanner {
        Scanner { front: ScanState::Payload(0), message: 0, open: false, sender, extensions }
    }

    /// Reads the piece at the front of `input`, which must not be empty. To be called again with
    /// `input[piece.taken..]`.
    ///
    /// A run is one piece, up to a control frame that is to be seen, an incomplete header or
    /// control frame, a fault or the end of the input. However a stream is cut into inputs, the
    /// same bytes, controls, messages and fault come out.
    pub fn next(&mut self, input: &[u8], rules: &impl FrameRules) -> Result<Piece, FrameError> {
        debug_assert!(!input.is_empty());
        match &mut self.front {
            ScanState::Payload(0) => match self.parse(input, rules)? {
                Some(header) if !header.is_control() => {
                    header.take_cost(rules)?;
                    self.enter(&header);
                    let mut run = FrameRun::of(&[]);
                    run.enter(&header);
                    Ok(self.run(run, header.len as u64 + header.payload, input, rules))
                }
                // An incomplete header or a control frame. Both are rare, so `begin` may read the
                // header again.
                _ => self.begin(HeaderBytes::EMPTY, input, rules),
            },
            ScanState::Payload(left) => {
                let left = *left;
                Ok(self.run(FrameRun::of(&[]), left, input, rules))
            }
            ScanState::Head(held) => {
                let held = *held;
                self.begin(held, input, rules)
            }
            // Control frames have at most 125 bytes of payload (RFC 6455 §5.5), so holding one back
            // costs little.
            ScanState::Control(frame) => {
                let whole = ControlFrame::whole(frame.bytes[1]);
                let before = usize::from(frame.len);
                let taken = frame.fill(input, whole);
                if frame.as_slice().len() < whole {
                    return Ok(Piece { taken, what: PieceKind::Incomplete });
                }
                let frame = **frame;
                Ok(self.whole(&frame, before, taken, input, rules))
            }
        }
    }

    /// Whether the bytes passed on so far end where a frame ends, so that a frame of our own may
    /// follow. Bytes that are held have not been passed on.
    pub fn at_boundary(&self) -> bool {
        !matches!(self.front, ScanState::Payload(1..))
    }

    /// Payload bytes that the data frame on its way still has to come; 0 at a boundary.
    pub fn left(&self) -> u64 {
        match self.front {
            ScanState::Payload(left) => left,
            ScanState::Head(_) | ScanState::Control(_) => 0,
        }
    }

    /// Begins a frame with `held`, which goes on in `input`. A data frame without held bytes is
    /// begun where it is met.
    fn begin(
        &mut self,
        held: HeaderBytes,
        input: &[u8],
        rules: &impl FrameRules,
    ) -> Result<Piece, FrameError> {
        let mut head = held;
        let joined = if held.len == 0 {
            input
        } else {
            head.fill(input, HeaderBytes::CAPACITY);
            head.as_slice()
        };
        let Some(header) = self.parse(joined, rules)? else {
            let mut kept = held;
            let taken = kept.fill(input, HeaderBytes::CAPACITY);
            self.front = ScanState::Head(kept);
            return Ok(Piece { taken, what: PieceKind::Incomplete });
        };
        // Only now that the header is complete: an incomplete one is read again, and would pay
        // twice.
        header.take_cost(rules)?;
        if header.is_control() && (held.len > 0 || !header.passes(input, rules)) {
            return Ok(self.control(held, ControlFrame::whole(joined[1]), input, rules));
        }
        if !header.is_control() {
            self.enter(&header);
        }
        // Counted in `input`: the held bytes of the header came before it.
        let end = (header.len - usize::from(held.len)) as u64 + header.payload;
        let mut run = FrameRun::of(held.as_slice());
        run.enter(&header);
        Ok(self.run(run, end, input, rules))
    }

    /// Spans the frame that `run` began with, which ends `end` bytes into `input` or beyond it, and
    /// the frames that follow.
    fn run(
        &mut self,
        mut run: FrameRun,
        mut end: u64,
        input: &[u8],
        rules: &impl FrameRules,
    ) -> Piece {
        while end < input.len() as u64 {
            let at = self.scan_small_frames(&mut run, end as usize, input, rules);
            end = at as u64;
            let rest = &input[at..];
            // A fault, an incomplete header and a frame to be seen end the run: the next call meets
            // them again.
            let Ok(Some(header)) = self.parse(rest, rules) else { break };
            // `take_cost` last: a control frame that ends the run is charged when the next call
            // begins it.
            if header.is_control() && !header.passes(rest, rules)
                || header.take_cost(rules).is_err()
            {
                break;
            }
            if !header.is_control() {
                self.enter(&header);
            }
            run.enter(&header);
            // No overflow: the header lies within the input, and a payload's top bit is not set.
            end += header.len as u64 + header.payload;
        }
        let taken = end.min(input.len() as u64);
        self.front = ScanState::Payload(end - taken);
        Piece { taken: taken as usize, what: PieceKind::Run(run) }
    }

    /// Spans whole frames of at most 125 bytes from `at` on that no rule has to see one by one.
    ///
    /// Returns where the next frame begins or the input ends. The loop decides as
    /// [`Scanner::parse`] does, in a third of the time, and in a twentieth where headers repeat:
    /// one read may hold fifty thousand frames.
    #[inline(never)] // A single frame, as most reads have, never comes here.
    fn scan_small_frames(
        &mut self,
        run: &mut FrameRun,
        mut at: usize,
        input: &[u8],
        rules: &impl FrameRules,
    ) -> usize {
        // An extension may set reserved bits, and message limits are charged one by one: both need
        // `parse`.
        if self.extensions != Extensions::None || rules.limits_messages() {
            return at;
        }
        let limits = rules.limits_frames();
        let (least, least_between) = if limits { (1, MAX_SMALL_FRAGMENT as usize) } else { (0, 0) };
        let max = rules.message_max().unwrap_or(u64::MAX);
        let (mask, head) = if self.sender == Sender::Client { (0x80, 6) } else { (0, 2) };
        while let Some(&[first, second]) = input[at..].first_chunk() {
            // A wrong mask bit makes this more than 125.
            let payload = usize::from(second ^ mask);
            let end = at + head + payload;
            if payload > 125 || end > input.len() {
                break;
            }
            match first {
                0x00 | 0x01 | 0x02 | 0x80 | 0x81 | 0x82 => {
                    // Opcode 0 must continue an open message, and every other data frame must begin
                    // one (RFC 6455 §5.4).
                    let continues = first & 0x0F == 0;
                    let least = if first == 0x00 { least_between } else { least };
                    let message = self.grown(payload as u64);
                    if payload < least || continues != self.open || message > max {
                        break;
                    }
                    self.message = message;
                    self.open = first & 0x80 == 0;
                    run.messages += u32::from(!continues);
                }
                // Where frames are limited, each Ping and Pong is charged by itself, in
                // `take_cost`.
                0x89 if !limits
                    && rules.passes(OPCODE_PING, ControlFrame::masked(&input[at..end])) =>
                {
                    run.pings = true;
                }
                0x8A if !limits
                    && rules.passes(OPCODE_PONG, ControlFrame::masked(&input[at..end])) =>
                {
                    run.pongs = true;
                }
                _ => break,
            }
            run.frames += 1;
            let size = end - at;
            at = end;
            if input[at..].first_chunk() == Some(&[first, second]) {
                at += size * self.scan_equal_headers(run, &input[at..], size, rules);
            }
        }
        at
    }

    /// Takes the whole frames at the front of `input` whose first two bytes are those of the last
    /// frame, of `size` bytes, and returns their number.
    #[inline(never)] // It would take registers from the loop above.
    fn scan_equal_headers(
        &mut self,
        run: &mut FrameRun,
        input: &[u8],
        size: usize,
        rules: &impl FrameRules,
    ) -> usize {
        let first = input[0];
        let takes = match first {
            0x89 | 0x8A => rules.passes_always(first & 0x0F),
            // Each makes its message longer.
            0x00 => rules.message_max().is_none(),
            // Each is a message, as large as the last.
            0x81 | 0x82 => true,
            // The second begins a message within one, or continues none.
            _ => false,
        };
        if !takes {
            return 0;
        }
        // No load waits for the one before, so that the processor reads many headers at once.
        let (mut count, mut end) = (0, size);
        while let Some(frame) = input.get(end - size..end)
            && frame[..2] == input[..2]
        {
            count += 1;
            end += size;
        }
        // One read holds far fewer frames.
        let frames = u32::try_from(count).unwrap_or(u32::MAX);
        run.frames += frames;
        match first {
            0x00 => {
                let payload = (size - if self.sender == Sender::Client { 6 } else { 2 }) as u64;
                self.message = self.message.saturating_add(payload * count as u64);
            }
            0x81 | 0x82 => run.messages += frames,
            _ => {}
        }
        count
    }

    /// Begins a control frame of `whole` bytes with `held`, which goes on in `input`.
    fn control(
        &mut self,
        held: HeaderBytes,
        whole: usize,
        input: &[u8],
        rules: &impl FrameRules,
    ) -> Piece {
        let mut frame = ControlFrameBytes::EMPTY;
        let before = frame.fill(held.as_slice(), whole);
        let taken = frame.fill(input, whole);
        if frame.as_slice().len() < whole {
            self.front = ScanState::Control(Box::new(frame));
            return Piece { taken, what: PieceKind::Incomplete };
        }
        self.whole(&frame, before, taken, input, rules)
    }

    /// Ends a complete control frame: `before` bytes of it came earlier, `taken` are at the front
    /// of `input`.
    fn whole(
        &mut self,
        frame: &ControlFrameBytes,
        before: usize,
        taken: usize,
        input: &[u8],
        rules: &impl FrameRules,
    ) -> Piece {
        self.front = ScanState::Payload(0);
        let opcode = frame.bytes[0] & 0x0F;
        if !rules.passes(opcode, ControlFrame::masked(frame.as_slice())) {
            return Piece { taken, what: PieceKind::Control(Box::new(ControlFrame::read(frame))) };
        }
        let mut run = FrameRun::of(&frame.as_slice()[..before]);
        run.frames = 1;
        (run.pings, run.pongs) = (opcode == OPCODE_PING, opcode == OPCODE_PONG);
        self.run(run, taken as u64, input, rules)
    }

    /// Keeps the facts of a data frame on which the rest of its message depends.
    fn enter(&mut self, header: &ParsedHeader) {
        self.open = !header.last;
        self.message = header.message;
    }

    /// Reads the header at the front of `bytes`. `None` means that it is incomplete. A fault shows
    /// as soon as the bytes that prove it are there.
    #[inline(always)] // A call costs an echo 90 instructions, a run of small frames half its time.
    fn parse(
        &self,
        bytes: &[u8],
        rules: &impl FrameRules,
    ) -> Result<Option<ParsedHeader>, FrameError> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (opcode, last) = (first & 0x0F, first & 0x80 != 0);
        let (masked, short) = (second & 0x80 != 0, second & 0x7F);
        let control = opcode >= 8;
        // A client masks every frame, and a server none (RFC 6455 §5.1).
        if masked != (self.sender == Sender::Client) {
            let broken = if masked {
                "A frame of the backend's is masked."
            } else {
                "A frame of the client's is not masked."
            };
            return Err(FrameError::Framing(broken));
        }
        // The opcodes 3 to 7 and 11 to 15 are reserved.
        if first & 0x70 != 0 || first & 0x07 > 2 {
            self.check_reserved(first)?;
        }
        if control {
            if !last {
                return Err(FrameError::Framing("A control frame is fragmented."));
            }
            if usize::from(short) > ControlFrame::MAX_PAYLOAD_BYTES {
                return Err(FrameError::Framing("A control frame is longer than 125 bytes."));
            }
        } else if (opcode == 0) != self.open {
            self.check_interleaved()?;
        }
        // A length in a longer form than needed is no fault here: it passes as it came.
        let (length, payload) = match short {
            126 => (2, rest.first_chunk().map(|length| u64::from(u16::from_be_bytes(*length)))),
            127 => match rest.first_chunk().map(|length| u64::from_be_bytes(*length)) {
                Some(payload) if payload >> 63 != 0 => {
                    return Err(FrameError::Framing("A frame's length has its top bit set."));
                }
                payload => (8, payload),
            },
            short => (0, Some(u64::from(short))),
        };
        let Some(payload) = payload else { return Ok(None) };
        let len = 2 + length + if masked { 4 } else { 0 };
        if bytes.len() < len {
            return Ok(None);
        }
        // Where the order is not checked, a continuation of nothing counts as a message too, and a
        // message within another as a part of it: rate and size could be evaded otherwise.
        let begins = !control && (!self.open || opcode != 0);
        let message = self.grown(payload);
        if !control && rules.message_max().is_some_and(|max| message > max) {
            return Err(FrameError::TooBig);
        }
        Ok(Some(ParsedHeader { len, payload, message, opcode, begins, last }))
    }

    /// Payload of the message so far, with the payload of the next data frame.
    fn grown(&self, payload: u64) -> u64 {
        let before = if self.open { self.message } else { 0 };
        // Where no rule bounds a message, it may grow without end.
        before.saturating_add(payload)
    }

    /// Judges a first byte with a reserved bit or opcode.
    #[cold]
    fn check_reserved(&self, first: u8) -> Result<(), FrameError> {
        match self.extensions {
            Extensions::Unknown => Ok(()),
            _ if first & 0x07 > 2 => Err(FrameError::Framing(
                "The opcode is reserved, and no extension that uses it was agreed.",
            )),
            Extensions::None => {
                Err(FrameError::Framing("A reserved bit is set, and no extension was agreed."))
            }
            // RFC 7692 §6: neither control frames nor continuations.
            Extensions::Deflate if first & 0x70 == 0x40 && matches!(first & 0x0F, 1 | 2) => Ok(()),
            Extensions::Deflate => Err(FrameError::Framing(
                "A reserved bit is set other than RSV1 of a message's first frame.",
            )),
        }
    }

    /// Judges a message that begins within another, or a frame that continues none (RFC 6455 §5.4).
    #[cold]
    fn check_interleaved(&self) -> Result<(), FrameError> {
        match self.extensions {
            Extensions::Unknown => Ok(()),
            _ if self.open => Err(FrameError::Framing("A message begins within another.")),
            _ => Err(FrameError::Framing("A frame continues no message.")),
        }
    }
}

impl ParsedHeader {
    /// Whether the control frame at the front of `bytes` is complete and may be part of a run.
    fn passes(&self, bytes: &[u8], rules: &impl FrameRules) -> bool {
        let whole =
            usize::try_from(self.payload).ok().and_then(|payload| bytes.get(..self.len + payload));
        whole.is_some_and(|frame| rules.passes(self.opcode, ControlFrame::masked(frame)))
    }
}

impl ControlFrame {
    /// The most payload that a control frame may have (RFC 6455 §5.5).
    const MAX_PAYLOAD_BYTES: usize = 125;

    /// The payload, with the mask taken away.
    pub fn payload(&self) -> &[u8] {
        self.payload.as_slice()
    }

    /// The frame as it came, to be passed on unchanged.
    pub fn as_slice(&self) -> &[u8] {
        self.frame.as_slice()
    }

    /// Whether it is a Close (RFC 6455 §5.5.1).
    pub fn is_close(&self) -> bool {
        self.opcode == OPCODE_CLOSE
    }

    /// Whether it is a Ping (RFC 6455 §5.5.2).
    pub fn is_ping(&self) -> bool {
        self.opcode == OPCODE_PING
    }

    /// Whether it is a Pong (RFC 6455 §5.5.3).
    pub fn is_pong(&self) -> bool {
        self.opcode == OPCODE_PONG
    }

    /// The code that a Close states, valid or not. `None` means that it states none.
    pub fn close_code(&self) -> Option<u16> {
        // A payload of one byte holds no code. Such a Close passes, and its receiver judges it.
        let code = self.payload().first_chunk()?;
        if self.is_close() { Some(u16::from_be_bytes(*code)) } else { None }
    }

    /// How many bytes a control frame with this second byte spans, its header included.
    fn whole(second: u8) -> usize {
        let header = if second & 0x80 != 0 { 6 } else { 2 };
        header + usize::from(second & 0x7F)
    }

    /// The payload of a complete control frame.
    fn masked(frame: &[u8]) -> MaskedPayload<'_> {
        match frame {
            [_, second, k0, k1, k2, k3, bytes @ ..] if second & 0x80 != 0 => {
                MaskedPayload { key: [*k0, *k1, *k2, *k3], bytes }
            }
            _ => MaskedPayload { key: [0; 4], bytes: frame.get(2..).unwrap_or_default() },
        }
    }

    /// Reads a frame that is complete and allowed.
    fn read(frame: &ControlFrameBytes) -> ControlFrame {
        let [first, second, m0, m1, m2, m3, ..] = frame.bytes;
        let header = usize::from(frame.len - (second & 0x7F));
        let mut payload = InlineBytes::EMPTY;
        payload.fill(&frame.as_slice()[header..], ControlFrame::MAX_PAYLOAD_BYTES);
        if second & 0x80 != 0 {
            payload.mask(0, [m0, m1, m2, m3]);
        }
        ControlFrame { opcode: first & 0x0F, frame: *frame, payload }
    }
}

impl fmt::Debug for ControlFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("opcode", &self.opcode)
            .field("payload", &self.payload)
            .finish()
    }
}

/// Makes a Close of our own: unmasked to the client, masked with a random `mask` to the backend. A
/// reason of more than 123 bytes is cut between two characters.
///
/// `code` must be allowed on the wire: never 1005, 1006 or 1015 (RFC 6455 §7.4.1).
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> ControlFrameBytes {
    debug_assert!(CloseCode::from(code).is_allowed(), "{code} must not be sent");
    // The reason of a Close is UTF-8 (RFC 6455 §5.5.1), behind two bytes of code.
    let reason = &reason[..reason.floor_char_boundary(ControlFrame::MAX_PAYLOAD_BYTES - 2)];
    whole(Kind::Close, &[&code.to_be_bytes(), reason.as_bytes()], mask)
}

/// Makes a Ping of our own: unmasked to the client, masked with a random `mask` to the backend.
pub fn ping(payload: [u8; 8], mask: Option<[u8; 4]>) -> ControlFrameBytes {
    whole(Kind::Ping, &[&payload], mask)
}

/// Makes a control frame from the parts of its payload, at most 125 bytes in all.
fn whole(kind: Kind, payload: &[&[u8]], mask: Option<[u8; 4]>) -> ControlFrameBytes {
    let header = FrameHeader { opcode: OpCode::Control(kind), mask, ..FrameHeader::default() };
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let mut frame = ControlFrameBytes::EMPTY;
    header
        .format(length as u64, &mut frame)
        .expect("a frame has room for the header of a control frame");
    let start = usize::from(frame.len);
    for part in payload {
        frame.fill(part, ControlFrameBytes::CAPACITY);
    }
    if let Some(mask) = mask {
        frame.mask(start, mask);
    }
    frame
}

impl<const N: usize> InlineBytes<N> {
    const EMPTY: InlineBytes<N> = InlineBytes { len: 0, bytes: [0; N] };
    const CAPACITY: usize = N;

    /// The bytes that are filled.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Takes bytes from the front of `more` until there are `whole`, and returns how many it took.
    fn fill(&mut self, more: &[u8], whole: usize) -> usize {
        let len = usize::from(self.len);
        let taken = whole.min(N).saturating_sub(len).min(more.len());
        self.bytes[len..len + taken].copy_from_slice(&more[..taken]);
        // Nothing is cut off: `taken` is at most `N`, which is at most 255.
        self.len += taken as u8;
        taken
    }

    /// Masks or unmasks the bytes from `start` on (RFC 6455 §5.3).
    fn mask(&mut self, start: usize, mask: [u8; 4]) {
        let payload = self.bytes[..usize::from(self.len)].iter_mut().skip(start);
        payload.zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    }
}

impl<const N: usize> io::Write for InlineBytes<N> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.fill(bytes, N))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for InlineBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

    /// All that came out of a stream.
    #[derive(Debug, Default, PartialEq, Clone)]
    struct ScanResult {
        passed: Vec<u8>,
        /// Opcode and payload.
        controls: Vec<(u8, Vec<u8>)>,
        messages: u32,
        fault: Option<FrameError>,
    }

    /// One frame with its length in the shortest form, or in that of `wide` bytes.
    fn frame(first: u8, payload: &[u8], wide: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
        let length = payload.len() as u64;
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut frame = match (wide, length) {
            (0, 0..126) => vec![first, bit | length as u8],
            (0 | 2, 0..65_536) => vec![first, bit | 126],
            _ => vec![first, bit | 127],
        };
        match frame[1] & 0x7F {
            126 => frame.extend((length as u16).to_be_bytes()),
            127 => frame.extend(length.to_be_bytes()),
            _ => {}
        }
        frame.extend(mask.iter().flatten());
        frame.extend(
            payload.iter().enumerate().map(|(at, byte)| byte ^ mask.map_or(0, |mask| mask[at % 4])),
        );
        frame
    }

    fn text(first: u8, payload: &str) -> Vec<u8> {
        frame(first, payload.as_bytes(), 0, Some(MASK))
    }

    /// Scans the inputs one after the other, as a tunnel would.
    fn scan<'a>(
        sender: Sender,
        extensions: Extensions,
        max: Option<u64>,
        inputs: impl Iterator<Item = &'a [u8]>,
    ) -> ScanResult {
        let mut scanner = Scanner::new(sender, extensions);
        let mut seen = ScanResult::default();
        for mut input in inputs {
            while !input.is_empty() {
                let piece = match scanner.next(input, &max) {
                    Ok(piece) => piece,
                    Err(fault) => {
                        assert!(scanner.at_boundary(), "a fault leaves a boundary behind it");
                        seen.fault = Some(fault);
                        return seen;
                    }
                };
                assert!((1..=input.len()).contains(&piece.taken));
                match piece.what {
                    PieceKind::Incomplete => assert!(scanner.at_boundary()),
                    PieceKind::Control(control) => {
                        seen.passed.extend(control.as_slice());
                        seen.controls.push((control.opcode, control.payload().to_vec()));
                        assert!(scanner.at_boundary());
                    }
                    PieceKind::Run(run) => {
                        seen.passed.extend(run.held());
                        seen.passed.extend(&input[..piece.taken]);
                        seen.messages += run.messages;
                    }
                }
                input = &input[piece.taken..];
            }
        }
        seen
    }

    /// Scans `stream` in one input and byte by byte: of a good one all passes, of
    /// one with a fault what precedes the frame at fault.
    fn check(
        sender: Sender,
        extensions: Extensions,
        max: Option<u64>,
        good: &[&[u8]],
        bad: &[u8],
        expected: ScanResult,
    ) {
        let stream = [&good.concat(), bad].concat();
        let expected = ScanResult { passed: good.concat(), ..expected };
        assert_eq!(
            scan(sender, extensions, max, [&stream[..]].into_iter()),
            expected,
            "in one input"
        );
        assert_eq!(scan(sender, extensions, max, stream.chunks(1)), expected, "byte by byte");
    }

    fn check_good(sender: Sender, extensions: Extensions, good: &[&[u8]], messages: u32) {
        check(
            sender,
            extensions,
            None,
            good,
            &[],
            ScanResult { messages, ..ScanResult::default() },
        );
    }

    fn check_bad(sender: Sender, extensions: Extensions, bad: &[u8]) {
        let Err(fault @ FrameError::Framing(_)) = Scanner::new(sender, extensions).next(bad, &None)
        else {
            panic!("{bad:x?} passes")
        };
        let good =
            frame(0x82, b"before", 0, if sender == Sender::Client { Some(MASK) } else { None });
        check(
            sender,
            extensions,
            None,
            &[&good],
            bad,
            ScanResult { messages: 1, fault: Some(fault), ..ScanResult::default() },
        );
    }

    fn check_size(max: u64, good: &[&[u8]], bad: &[u8], messages: u32) {
        let fault = if bad.is_empty() { None } else { Some(FrameError::TooBig) };
        check(
            Sender::Client,
            Extensions::None,
            Some(max),
            good,
            bad,
            ScanResult { messages, fault, ..ScanResult::default() },
        );
    }

    #[test]
    fn an_idle_scanner_takes_32_bytes() {
        assert_eq!(size_of::<Scanner>(), 32);
    }

    #[test]
    fn data_frames_of_every_length_form_pass_and_count() {
        for wide in [0, 2, 8] {
            for size in [0, 1, 125, 126, 127, 65_535, 65_536] {
                let (client, backend) = (
                    frame(0x82, &vec![7; size], wide, Some(MASK)),
                    frame(0x81, &vec![7; size], wide, None),
                );
                check_good(Sender::Client, Extensions::None, &[&client, &client], 2);
                check_good(Sender::Backend, Extensions::None, &[&backend, &backend], 2);
            }
        }
    }

    #[test]
    fn fragmented_message_counts_once_with_controls_between() {
        let (start, more, end) = (text(0x01, "Hel"), text(0x00, "l"), text(0x80, "o"));
        let ping = text(0x89, "?");
        let expected =
            ScanResult { controls: vec![(9, b"?".to_vec())], messages: 2, ..ScanResult::default() };
        check(
            Sender::Client,
            Extensions::None,
            None,
            &[&start, &more, &ping, &end, &text(0x82, "")],
            &[],
            expected,
        );
    }

    fn masks() -> [(Sender, Option<[u8; 4]>); 2] {
        [(Sender::Client, Some(MASK)), (Sender::Backend, None)]
    }

    /// That each of `bad` breaks the framing behind `good`, which are so many `messages`.
    fn check_order(extensions: Extensions, good: &[u8], messages: u32, bad: &[u8]) {
        for (sender, mask) in masks() {
            let good: Vec<_> = good.iter().map(|first| frame(*first, b"x", 0, mask)).collect();
            let good: Vec<_> = good.iter().map(Vec::as_slice).collect();
            for first in bad {
                let bad = frame(*first, b"x", 0, mask);
                let told = |size| {
                    scan(sender, extensions, None, [&good.concat()[..], &bad].concat().chunks(size))
                };
                let whole = told(usize::MAX);
                assert!(
                    matches!(whole.fault, Some(FrameError::Framing(_))),
                    "{first:x} behind {good:x?}"
                );
                assert_eq!((&whole.passed, whole.messages), (&good.concat(), messages));
                assert_eq!(told(1), whole);
            }
        }
    }

    #[test]
    fn a_message_within_another_is_a_fault() {
        for extensions in [Extensions::None, Extensions::Deflate] {
            for begun in [&[0x01][..], &[0x02], &[0x02, 0x00], &[0x81, 0x01, 0x00, 0x00]] {
                let messages = begun.iter().filter(|first| **first != 0).count() as u32;
                check_order(extensions, begun, messages, &[0x01, 0x02, 0x81, 0x82]);
            }
        }
    }

    #[test]
    fn continuation_without_a_message_is_a_fault() {
        for extensions in [Extensions::None, Extensions::Deflate] {
            for ended in [&[][..], &[0x82], &[0x01, 0x80], &[0x02, 0x00, 0x80], &[0x81, 0x81]] {
                let messages = ended.iter().filter(|first| **first & 0x0F != 0).count() as u32;
                check_order(extensions, ended, messages, &[0x00, 0x80]);
            }
        }
    }

    #[test]
    fn control_frames_do_not_change_the_order_of_fragments() {
        for (sender, mask) in masks() {
            let one = |first| frame(first, b"x", 0, mask);
            let controls = vec![(9, b"x".to_vec()), (10, b"x".to_vec()), (8, Vec::new())];
            let expected = ScanResult { controls, messages: 1, ..ScanResult::default() };
            let close = frame(0x88, b"", 0, mask);
            let good = [one(0x01), one(0x89), one(0x00), one(0x8A), close].concat();
            check(sender, Extensions::None, None, &[&good], &[], expected.clone());
            let told = scan(sender, Extensions::None, None, [&good[..], &one(0x81)].into_iter());
            assert!(matches!(told.fault, Some(FrameError::Framing(_))), "a Ping ends no message");
        }
    }

    #[test]
    fn repeated_headers_out_of_order_are_faults() {
        for (sender, mask) in masks() {
            for (good, repeated) in
                [(&[][..], 0x01), (&[], 0x02), (&[0x01], 0x80), (&[0x02, 0x00, 0x00], 0x80)]
            {
                let good: Vec<u8> =
                    good.iter().flat_map(|first| frame(*first, b"x", 0, mask)).collect();
                let one = frame(repeated, b"x", 0, mask);
                let told = scan(
                    sender,
                    Extensions::None,
                    None,
                    [[&good[..], &one.repeat(100)].concat().as_slice()].into_iter(),
                );
                assert_eq!((told.passed, told.messages), ([good, one].concat(), 1));
                assert!(matches!(told.fault, Some(FrameError::Framing(_))), "{repeated:x}");
            }
        }
    }

    #[test]
    fn unknown_extension_may_interleave_bounded_messages() {
        let unknown = Extensions::Unknown;
        let (start, within, end) = (text(0x01, "123"), text(0x82, "45"), text(0x80, "6"));
        check_good(Sender::Client, unknown, &[&start, &within, &end], 3);
        check_good(Sender::Client, unknown, &[&end, &text(0x00, ""), &text(0x03, "odd")], 3);
        let fault = Some(FrameError::TooBig);
        let expected = ScanResult { messages: 1, fault, ..ScanResult::default() };
        check(Sender::Client, unknown, Some(5), &[&start], &text(0x01, "456"), expected.clone());
        check(Sender::Client, unknown, Some(5), &[&start], &text(0x00, "456"), expected);
    }

    #[test]
    fn permessage_deflate_uses_rsv1_of_first_frames_alone() {
        let deflate = Extensions::Deflate;
        check_good(
            Sender::Client,
            deflate,
            &[&text(0xC1, "a"), &text(0x42, "b"), &text(0x00, "c"), &text(0x80, "d")],
            2,
        );
        check_order(
            deflate,
            &[],
            0,
            &[0xA1, 0x92, 0xE1, 0xF2, 0xC0, 0x40, 0xC9, 0xCA, 0xC8, 0x83, 0xC3, 0x8B, 0xCB],
        );
        check_order(deflate, &[0x41], 1, &[0x40, 0xC0, 0x20, 0x90, 0xC1, 0x42, 0xC9]);
    }

    /// So many messages may begin.
    struct LimitedMessages<'a>(&'a std::cell::Cell<u32>);

    impl FrameRules for LimitedMessages<'_> {
        fn message_max(&self) -> Option<u64> {
            None
        }

        fn limits_messages(&self) -> bool {
            true
        }

        fn admits_message(&self) -> bool {
            self.0.replace(self.0.get().saturating_sub(1)) > 0
        }
    }

    /// What passes of `frames`, in inputs of `size` bytes, while `tokens` messages may begin.
    fn check_ration(tokens: u32, frames: &[&[u8]], size: usize, passed: &[&[u8]]) {
        let left = std::cell::Cell::new(tokens);
        let rules = LimitedMessages(&left);
        let (mut scanner, mut out, mut fault) =
            (Scanner::new(Sender::Client, Extensions::None), Vec::new(), None);
        'stream: for mut input in frames.concat().chunks(size) {
            while !input.is_empty() {
                match scanner.next(input, &rules) {
                    Ok(Piece { taken, what }) => {
                        match what {
                            PieceKind::Run(run) => {
                                out.extend([run.held(), &input[..taken]].concat());
                            }
                            PieceKind::Control(control) => out.extend(control.as_slice()),
                            PieceKind::Incomplete => {}
                        }
                        input = &input[taken..];
                    }
                    Err(found) => {
                        fault = Some(found);
                        break 'stream;
                    }
                }
            }
        }
        assert_eq!(out, passed.concat());
        assert_eq!((fault, scanner.at_boundary()), (Some(FrameError::TooManyMessages), true));
    }

    #[test]
    fn excess_message_is_stopped_and_earlier_frames_pass() {
        let (one, start, ping, end) =
            (text(0x81, "one"), text(0x01, "two, "), text(0x89, ""), text(0x80, "its end"));
        for size in [1, 7, usize::MAX] {
            check_ration(
                2,
                &[&one, &start, &ping, &end, &one, &one],
                size,
                &[&one, &start, &ping, &end],
            );
            check_ration(0, &[&ping, &one], size, &[&ping]);
        }
    }

    // C-WS-20
    #[test]
    fn wrong_masking_of_either_side_is_a_fault() {
        check_bad(Sender::Client, Extensions::Unknown, &frame(0x81, b"plain", 0, None));
        check_bad(Sender::Client, Extensions::Unknown, &frame(0x8A, b"", 0, None));
        check_bad(Sender::Backend, Extensions::Unknown, &frame(0x81, b"masked", 0, Some(MASK)));
        check_bad(Sender::Backend, Extensions::Unknown, &frame(0x88, b"", 0, Some([0; 4])));
    }

    #[test]
    fn bad_control_frame_is_a_fault_under_any_extension() {
        for opcode in 0x8..=0xF {
            check_bad(
                Sender::Client,
                Extensions::Unknown,
                &frame(0x80 | opcode, &[0; 126], 0, Some(MASK)),
            );
            check_bad(
                Sender::Backend,
                Extensions::Unknown,
                &frame(0x80 | opcode, &[0; 5], 8, None),
            );
            check_bad(Sender::Backend, Extensions::Unknown, &frame(opcode, b"", 0, None));
        }
    }

    #[test]
    fn reserved_bits_and_opcodes_need_an_extension() {
        for first in [0xC1, 0xA1, 0x91, 0x83, 0x87, 0x40, 0x8B, 0x8F, 0xC8] {
            check_bad(Sender::Client, Extensions::None, &text(first, "odd"));
        }
        check_good(
            Sender::Client,
            Extensions::Unknown,
            &[&text(0xC1, "odd"), &text(0x83, ""), &text(0x97, "odd")],
            3,
        );
        let controls = vec![(11, b"odd".to_vec()), (9, Vec::new())];
        let expected = ScanResult { controls, ..ScanResult::default() };
        check(
            Sender::Client,
            Extensions::Unknown,
            None,
            &[&text(0x8B, "odd"), &text(0xC9, "")],
            &[],
            expected,
        );
    }

    #[test]
    fn length_with_its_top_bit_set_is_a_fault() {
        check_bad(Sender::Backend, Extensions::None, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        check_good(
            Sender::Backend,
            Extensions::None,
            &[&[0x82, 127, 0x7F, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3]],
            1,
        );
    }

    #[test]
    fn message_of_the_maximum_size_passes_and_no_larger() {
        check_size(5, &[&text(0x82, "12345"), &text(0x82, "12345")], &text(0x82, "123456"), 2);
        check_size(0, &[&text(0x82, "")], &text(0x82, "1"), 1);
        check_size(
            5,
            &[
                &text(0x01, "123"),
                &text(0x00, "4"),
                &text(0x00, ""),
                &text(0x80, "5"),
                &text(0x82, "12345"),
            ],
            &[],
            2,
        );
    }

    #[test]
    fn the_fragment_that_makes_a_message_too_big_is_not_passed() {
        let (start, more) = (text(0x01, "123"), text(0x00, "45"));
        check_size(5, &[&start, &more], &text(0x80, "6"), 1);
        check_size(5, &[&start, &more], &text(0x00, "6"), 1);
        check_size(
            u64::MAX >> 1,
            &[&start],
            &[0x80, 255, 0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
            1,
        );
    }

    #[test]
    fn a_size_limit_does_not_bind_control_frames() {
        let expected =
            ScanResult { controls: vec![(10, b"123".to_vec())], ..ScanResult::default() };
        check(Sender::Client, Extensions::None, Some(2), &[&text(0x8A, "123")], &[], expected);
    }

    #[test]
    fn a_run_of_data_frames_is_one_piece() {
        let run =
            [text(0x81, "one"), text(0x02, "two"), text(0x80, ""), text(0x82, "three")].concat();
        let more = text(0x82, "4567");
        for (next, boundary) in [
            (&text(0x89, "")[..], true),
            (&[0x82, 0], true),
            (&more[..1], true),
            (&more[..5], true),
            (&more[..6], false),
            (&more[..9], false),
        ] {
            let mut scanner = Scanner::new(Sender::Client, Extensions::None);
            let input = [&run, next].concat();
            let Ok(Piece { taken, what: PieceKind::Run(got) }) = scanner.next(&input, &None) else {
                panic!("no data")
            };
            let expected = if boundary { (run.len(), 3) } else { (input.len(), 4) };
            let got = (taken, got.messages, got.held().len());
            assert_eq!((got, scanner.at_boundary()), ((expected.0, expected.1, 0), boundary));
        }
    }

    /// Rules under which all but a Close belongs to the run beside it, and so many frames may come
    /// of those counted.
    struct PassingRules<'a>(Option<&'a std::cell::Cell<u32>>);

    impl FrameRules for PassingRules<'_> {
        fn message_max(&self) -> Option<u64> {
            None
        }

        fn limits_frames(&self) -> bool {
            self.0.is_some()
        }

        fn admits_frame(&self) -> bool {
            self.0.is_none_or(|left| left.replace(left.get().saturating_sub(1)) > 0)
        }

        fn passes(&self, opcode: u8, _: MaskedPayload<'_>) -> bool {
            opcode != OPCODE_CLOSE
        }
    }

    #[test]
    fn control_frames_are_part_of_the_run_beside_them() {
        let run = [
            text(0x01, "o"),
            text(0x89, "?"),
            text(0x00, ""),
            text(0x8A, "!"),
            text(0x80, "ne"),
            text(0x89, ""),
        ]
        .concat();
        let close = text(0x88, "");
        for next in [&close[..], &[0x89, 0x81, 0], &text(0x88, "x")[..3]] {
            let input = [&run, next].concat();
            let mut scanner = Scanner::new(Sender::Client, Extensions::None);
            let Ok(Piece { taken, what: PieceKind::Run(got) }) =
                scanner.next(&input, &PassingRules(None))
            else {
                panic!("no run")
            };
            assert_eq!(
                (taken, got.frames, got.messages, got.pings, got.pongs),
                (run.len(), 6, 1, true, true)
            );
        }
    }

    /// The fault of `frames`, cut into inputs of `size` bytes, while so many may come that are
    /// counted; then how many may still come, and how many bytes passed.
    fn counted(size: usize, allowed: u32, frames: &[Vec<u8>]) -> (Option<FrameError>, u32, usize) {
        let left = std::cell::Cell::new(allowed);
        let (mut scanner, mut passed) = (Scanner::new(Sender::Client, Extensions::None), 0);
        for mut input in frames.concat().chunks(size) {
            while !input.is_empty() {
                match scanner.next(input, &PassingRules(Some(&left))) {
                    Ok(piece) => {
                        passed += match piece.what {
                            PieceKind::Run(run) => run.held().len() + piece.taken,
                            PieceKind::Control(control) => control.as_slice().len(),
                            PieceKind::Incomplete => 0,
                        };
                        input = &input[piece.taken..];
                    }
                    Err(found) => return (Some(found), left.get(), passed),
                }
            }
        }
        (None, left.get(), passed)
    }

    #[test]
    fn empty_frames_are_counted_and_a_close_is_not() {
        let frames = [
            text(0x89, "?"),
            text(0x82, "data"),
            text(0x82, ""),
            text(0x8A, ""),
            text(0x88, ""),
            text(0x89, ""),
        ];
        for size in [1, 5, usize::MAX] {
            let before = frames[..5].concat().len();
            assert_eq!(
                counted(size, 3, &frames),
                (Some(FrameError::TooManyFrames), 0, before),
                "the last Ping is the fourth"
            );
        }
    }

    #[test]
    fn small_middle_fragments_are_counted() {
        let (small, large) = ("s".repeat(63), "l".repeat(64));
        let wide = frame(0x00, b"y", 8, Some(MASK));
        let message = [text(0x01, "b"), text(0x00, "m"), text(0x00, &large), text(0x80, "e")];
        let more = [text(0x02, "b"), text(0x00, &small), wide, text(0x80, "e"), text(0x81, "x")];
        let frames = [&message[..], &more].concat();
        for size in [1, 5, usize::MAX] {
            assert_eq!(counted(size, 3, &frames), (None, 0, frames.concat().len()));
            let before = [&message[..], &more[..2]].concat().concat().len();
            assert_eq!(counted(size, 2, &frames), (Some(FrameError::TooManyFrames), 0, before));
        }
    }

    #[test]
    fn a_run_of_small_fragments_ends_with_the_last_one_allowed() {
        for payload in ["x", "four", &"s".repeat(63)] {
            let (begun, more) = (text(0x01, "b"), text(0x00, payload));
            let frames = [&[begun.clone()][..], &vec![more.clone(); 5_000]].concat();
            for size in [7, 96 * 1024] {
                let passed = begun.len() + 1_000 * more.len();
                assert_eq!(
                    counted(size, 1_000, &frames),
                    (Some(FrameError::TooManyFrames), 0, passed)
                );
            }
        }
        let large = [&[text(0x01, "b")][..], &vec![text(0x00, &"l".repeat(64)); 5_000]].concat();
        assert_eq!(counted(96 * 1024, 0, &large), (None, 0, large.concat().len()));
    }

    #[test]
    fn only_a_close_has_a_code() {
        let code = |bytes: &[u8], sender| match Scanner::new(sender, Extensions::None)
            .next(bytes, &None)
        {
            Ok(Piece { what: PieceKind::Control(control), .. }) => control.close_code(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            code(&frame(0x88, &[0x03, 0xE9, b'x'], 0, Some(MASK)), Sender::Client),
            Some(1001)
        );
        assert_eq!(code(&frame(0x88, &[0x03], 0, None), Sender::Backend), None);
        assert_eq!(code(&frame(0x88, &[], 0, None), Sender::Backend), None);
        assert_eq!(code(&frame(0x89, &[0x03, 0xE9], 0, None), Sender::Backend), None);
    }

    #[test]
    fn own_frames_round_trip() {
        let long = "é".repeat(100);
        for mask in [None, Some(MASK)] {
            let sender = if mask.is_some() { Sender::Client } else { Sender::Backend };
            let close = [&1008_u16.to_be_bytes()[..], b"network"].concat();
            let cut = [&1001_u16.to_be_bytes()[..], "é".repeat(61).as_bytes()].concat();
            for (own, control) in [
                (super::close_frame(1008, "network", mask), (8, close)),
                (super::close_frame(1001, &long, mask), (8, cut)),
                (super::close_frame(4000, "", mask), (8, vec![0x0F, 0xA0])),
                (ping(*b"12345678", mask), (9, b"12345678".to_vec())),
            ] {
                let expected = ScanResult { controls: vec![control], ..ScanResult::default() };
                check(sender, Extensions::None, None, &[own.as_slice()], &[], expected);
            }
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    fn reserved_close_codes_are_never_encoded() {
        for code in [1005, 1006, 1015, 0, 999] {
            assert!(std::panic::catch_unwind(|| close_frame(code, "", None)).is_err(), "{code}");
        }
    }

    #[derive(Debug, Clone)]
    struct Sent {
        first: u8,
        payload: Vec<u8>,
        wide: usize,
        mask: [u8; 4],
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let size = prop_oneof![6 => 0..20_usize, 2 => 120..130_usize, 1 => 0..70_000_usize];
        let data = (
            prop::sample::select(vec![0x00, 0x80, 0x01, 0x81, 0x82, 0x02]),
            size,
            prop::sample::select(vec![0, 2, 8]),
        );
        let control = (0x88..=0x8A_u8, 0..=125_usize, Just(0));
        let kind = prop_oneof![3 => data, 1 => control];
        (kind, any::<u8>(), any::<[u8; 4]>()).prop_map(|((first, size, wide), fill, mask)| Sent {
            first,
            payload: (0..size).map(|at| fill.wrapping_add(at as u8)).collect(),
            wide,
            mask,
        })
    }

    /// The frames with their opcodes changed where they break the order of fragments.
    fn ordered() -> impl Strategy<Value = Vec<Sent>> {
        prop::collection::vec(sent(), 1..20).prop_map(|mut frames| {
            let mut open = false;
            for sent in frames.iter_mut().filter(|sent| sent.first & 0x08 == 0) {
                let opcode = if open { 0 } else { (sent.first & 0x0F).max(1) };
                sent.first = sent.first & 0x80 | opcode;
                open = sent.first & 0x80 == 0;
            }
            frames
        })
    }

    fn any_extensions() -> impl Strategy<Value = Extensions> {
        prop::sample::select(vec![Extensions::None, Extensions::Deflate, Extensions::Unknown])
    }

    /// What must come of valid frames, told from the frames themselves.
    fn told(frames: &[Sent], mask: impl Fn(&Sent) -> Option<[u8; 4]>) -> ScanResult {
        let mut told = ScanResult::default();
        let mut open = false;
        for sent in frames {
            told.passed.extend(frame(sent.first, &sent.payload, sent.wide, mask(sent)));
            if sent.first & 0x08 != 0 {
                told.controls.push((sent.first & 0x0F, sent.payload.clone()));
                continue;
            }
            told.messages += u32::from(sent.first & 0x0F != 0 || !open);
            open = sent.first & 0x80 == 0;
        }
        told
    }

    /// Cuts `stream` into inputs whose lengths repeat `cuts`.
    fn cut<'a>(stream: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = stream;
        cuts.iter().cycle().map_while(move |cut| {
            let (input, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            if input.is_empty() { None } else { Some(input) }
        })
    }

    fn cuts() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(prop_oneof![1..20_usize, 1..4096_usize], 1..20)
    }

    /// Bounds of the messages' size and of the frames that are counted; all but a Close passes,
    /// known beforehand or asked for each frame.
    struct BoundedRules {
        max: Option<u64>,
        frames: Option<std::cell::Cell<u32>>,
        always: bool,
    }

    impl FrameRules for BoundedRules {
        fn message_max(&self) -> Option<u64> {
            self.max
        }

        fn limits_frames(&self) -> bool {
            self.frames.is_some()
        }

        fn admits_frame(&self) -> bool {
            self.frames.as_ref().is_none_or(|left| left.replace(left.get().saturating_sub(1)) > 0)
        }

        fn passes_always(&self, opcode: u8) -> bool {
            self.always && opcode != OPCODE_CLOSE
        }

        fn passes(&self, opcode: u8, _: MaskedPayload<'_>) -> bool {
            opcode != OPCODE_CLOSE
        }
    }

    /// Frames of `groups` that repeat, as `(first byte, payload, times)`. Their order is legal but
    /// for the `wrong` ones.
    fn repeated(groups: Vec<(usize, usize, usize, bool)>) -> Vec<(u8, usize, usize)> {
        let (mut frames, mut open) = (Vec::new(), false);
        for (kind, size, times, wrong) in groups {
            let first = [0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x89, 0x8A, 0x83][kind];
            // A reserved opcode is rare, or few streams would get far.
            let first = if first == 0x83 && !wrong { 0x00 } else { first };
            let continues = first & 0x0F == 0;
            if first < 0x88 && continues != open && !wrong {
                frames.push((if continues { 0x01 } else { 0x80 }, size, 1));
                open = continues;
            }
            // A frame that begins a message or ends it, and does not do both, comes once.
            let repeats = continues == (first & 0x80 == 0);
            frames.push((first, size, if repeats || wrong { times } else { 1 }));
            if first < 0x88 {
                open = first & 0x80 == 0;
            }
        }
        frames
    }

    /// Bytes passed, frames, messages, pings, pongs, and the fault; then what the scanner knows of
    /// the message.
    type Count = (usize, u32, u32, bool, bool, Option<FrameError>, u64, bool);

    fn count<'a>(
        sender: Sender,
        rules: &BoundedRules,
        inputs: impl Iterator<Item = &'a [u8]>,
    ) -> Count {
        let mut scanner = Scanner::new(sender, Extensions::None);
        let (mut passed, mut frames, mut messages, mut pings, mut pongs) = (0, 0, 0, false, false);
        let mut fault = None;
        'stream: for mut input in inputs {
            while !input.is_empty() {
                match scanner.next(input, rules) {
                    Ok(Piece { taken, what }) => {
                        if let PieceKind::Run(run) = what {
                            passed += run.held().len() + taken;
                            frames += run.frames;
                            messages += run.messages;
                            pings |= run.pings;
                            pongs |= run.pongs;
                        }
                        input = &input[taken..];
                    }
                    Err(found) => {
                        fault = Some(found);
                        break 'stream;
                    }
                }
            }
        }
        (passed, frames, messages, pings, pongs, fault, scanner.message, scanner.open)
    }

    proptest! {
        #[test]
        fn repeated_frames_scan_like_single_ones(
            groups in prop::collection::vec(
                (0..9_usize, prop_oneof![4 => 0..4_usize, 1 => 62..66_usize], 1..40_usize, prop::bool::weighted(0.08)), 1..12,
            ),
            client: bool, always: bool, max in prop::option::of(0..400_u64), cut_off in 0..8_usize,
            allowed in prop::option::of(0..100_u32),
        ) {
            let sender = if client { Sender::Client } else { Sender::Backend };
            let mask = if client { Some(MASK) } else { None };
            let mut stream = Vec::new();
            for (first, size, times) in repeated(groups) {
                (0..times).for_each(|_| stream.extend(frame(first, &vec![7; size], 0, mask)));
            }
            stream.truncate(stream.len() - cut_off.min(stream.len()));
            let rules = || BoundedRules { max, frames: allowed.map(std::cell::Cell::new), always };
            let each = count(sender, &rules(), stream.chunks(1));
            prop_assert_eq!(count(sender, &rules(), [&stream[..]].into_iter().filter(|all| !all.is_empty())), each);
        }

        #[test]
        fn fz_4_valid_frames_scan_alike_at_any_cut(
            frames in ordered(), cuts in cuts(), client: bool, extensions in any_extensions(),
        ) {
            let sender = if client { Sender::Client } else { Sender::Backend };
            let told = told(&frames, |sent| if client { Some(sent.mask) } else { None });
            prop_assert_eq!(scan(sender, extensions, None, cut(&told.passed, &cuts)), told);
        }

        #[test]
        fn fz_4_boundary_is_exactly_where_a_frame_ends(frames in ordered(), cuts in cuts()) {
            let ends: Vec<_> = (0..=frames.len()).map(|sent| told(&frames[..sent], |_| None).passed.len()).collect();
            let stream = told(&frames, |_| None).passed;
            let mut scanner = Scanner::new(Sender::Backend, Extensions::None);
            let mut passed = 0;
            for mut input in cut(&stream, &cuts) {
                while !input.is_empty() {
                    let piece = scanner.next(input, &None).unwrap();
                    input = &input[piece.taken..];
                    passed += match piece.what {
                        PieceKind::Run(run) => run.held().len() + piece.taken,
                        PieceKind::Control(control) => control.as_slice().len(),
                        PieceKind::Incomplete => 0,
                    };
                    prop_assert_eq!(scanner.at_boundary(), ends.contains(&passed));
                }
            }
            prop_assert_eq!(passed, stream.len());
        }

        #[test]
        fn fz_4_hostile_stream_fails_alike_at_any_cut(
            frames in ordered(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            garbage: Vec<u8>, cuts in cuts(), client: bool, extensions in any_extensions(), max in prop::option::of(0..300_u64),
        ) {
            let sender = if client { Sender::Client } else { Sender::Backend };
            let mut stream = told(&frames, |sent| if client { Some(sent.mask) } else { None }).passed;
            stream.extend(garbage);
            for (at, byte) in flips.iter().filter(|_| !stream.is_empty()).collect::<Vec<_>>() {
                let at = at.index(stream.len());
                stream[at] = *byte;
            }
            let whole = scan(sender, extensions, max, cut(&stream, &[usize::MAX]));
            prop_assert!(stream.starts_with(&whole.passed));
            prop_assert_eq!(scan(sender, extensions, max, cut(&stream, &cuts)), whole);
        }
    }
}
