//! The thread's buffers: lent to one poll at a time, so that an idle connection owns none.
//!
//! Buffers never cross an await: a future that borrowed them would not be `Send`, which hyper's
//! upgrades demand.

use std::cell::RefCell;

use crate::data::stream::turn::TurnBudget;

/// The most plaintext that one read gives: six whole TLS records (RFC 8446 §5.1). A message of
/// 64 KiB fits; more gained nothing.
pub const MAX_PLAINTEXT: usize = 6 * (1 << 14);

/// [`MAX_PLAINTEXT`] bytes as they come sealed: with a header, a type and a tag for each record
/// (RFC 8446 §5.2). Of a stream of whole records no part is left over, which would be copied twice.
pub const MAX_CIPHERTEXT: usize = 6 * ((1 << 14) + 5 + 1 + 16);

/// Room in front of plaintext, for the part of a frame that an earlier read held back: both leave
/// in one piece. A control frame is the longest (RFC 6455 §5.5: 131 bytes).
pub const HEADROOM: usize = 256;

/// Room for what earlier reads left: a part of a record, or of a TLS handshake message.
pub const MAX_LEFTOVER: usize = 64 * 1024;

/// Room for `MAX_PLAINTEXT` bytes in records, and for what must go before them.
const CIPHERTEXT_BUFFER_BYTES: usize = MAX_PLAINTEXT + 32 * 1024;

/// Two buffers, and the turn of the poll that has them. Their contents mean nothing between polls.
pub struct Buffers {
    /// Bytes as they came off the wire.
    pub cipher: Box<[u8]>,
    /// Their plaintext, behind [`HEADROOM`]: never more bytes than came off the wire.
    pub plain: Box<[u8]>,
    /// The rest of the poll's turn.
    pub turn: TurnBudget,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        cipher: zeroed(MAX_LEFTOVER + MAX_CIPHERTEXT),
        // As large as the input: plaintext is shorter than its records.
        plain: zeroed(HEADROOM + MAX_LEFTOVER + MAX_CIPHERTEXT),
        turn: TurnBudget::new(),
    });
    static OUTPUT_BUFFER: RefCell<Box<[u8]>> = RefCell::new(zeroed(CIPHERTEXT_BUFFER_BYTES));
}

/// Lends the thread's buffers to `work`, with a whole turn.
///
/// # Panics
/// If `work` asks for them again.
pub fn lend<R>(work: impl FnOnce(&mut Buffers) -> R) -> R {
    BUFFERS.with_borrow_mut(|buffers| {
        buffers.turn = TurnBudget::new();
        work(buffers)
    })
}

/// Lends a third buffer, for output: its input may lie in the other two.
///
/// # Panics
/// If `work` asks for it again.
pub fn lend_output<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    OUTPUT_BUFFER.with_borrow_mut(|out| work(out))
}

/// Zeroed memory, whose pages take no room until they are written to.
fn zeroed(length: usize) -> Box<[u8]> {
    vec![0; length].into()
}
