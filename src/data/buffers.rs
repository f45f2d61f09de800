//! The thread's buffers: lent to one poll at a time, so that an idle connection owns none.
//!
//! They never cross an await: a future that borrowed them would not be `Send`,
//! which hyper's upgrades demand.

use std::cell::RefCell;

/// The most that one read takes. A 64 KiB message is 65.6 kB of ciphertext:
/// less costs 6 % in bulk, more gives nothing.
pub const READ: usize = 128 * 1024;

/// Room for what one read of ciphertext decrypts to, and for the rest of a record that came before.
const PLAIN: usize = READ + 32 * 1024;

/// Two buffers, whose contents mean nothing between two polls.
pub struct Buffers {
    /// What came off the wire, as it came.
    pub cipher: Box<[u8]>,
    /// What it means.
    pub plain: Box<[u8]>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers { cipher: vec![0; READ].into(), plain: vec![0; PLAIN].into() });
}

/// Lends the thread's buffers to `work`.
///
/// # Panics
/// If `work` asks for them again.
pub fn lend<R>(work: impl FnOnce(&mut Buffers) -> R) -> R {
    BUFFERS.with_borrow_mut(work)
}
