//! Frames of one read that pass to the other side in one write.

use crate::data::stream::buffers::HEADROOM;

/// Frames of one read that pass in one write, in a row in the buffer that was read into.
pub struct WriteBatch {
    start: usize,
    end: usize,
    /// How many messages began in them.
    pub messages: u32,
}

/// Frames that are passed on now.
pub struct Batch<'a> {
    /// The frames, in a row.
    pub bytes: &'a [u8],
    /// How many messages began in them.
    pub messages: u32,
}

impl Default for WriteBatch {
    #[inline]
    fn default() -> Self {
        WriteBatch { start: HEADROOM, end: HEADROOM, messages: 0 }
    }
}

impl WriteBatch {
    /// Adds `taken` bytes at `at`; `held` came in an earlier read and goes before them.
    #[inline]
    pub fn add(&mut self, held: &[u8], at: usize, taken: usize, bytes: &mut [u8]) {
        if self.start == self.end {
            (self.start, self.end) = (at, at);
            if !held.is_empty() {
                // Only the first bytes of a read can belong to an earlier one: there is room in
                // front of them.
                self.start -= held.len();
                bytes[self.start..at].copy_from_slice(held);
            }
        } else if self.end != at {
            // Something between was swallowed: these bytes move up, so that all frames of the read
            // still leave in one write.
            bytes.copy_within(at..at + taken, self.end);
        }
        self.end += taken;
    }

    /// The bytes and the messages so far; the next ones begin anew.
    #[inline]
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Batch<'a> {
        let taken = std::mem::take(self);
        Batch { bytes: &bytes[taken.start..taken.end], messages: taken.messages }
    }
}
