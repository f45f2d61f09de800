//! A turn: how much a task does before the others of its thread get theirs.
//!
//! Work is counted in bytes moved, and work that costs more than its bytes weighs as so many more.
//! A turn takes some 200 µs, whatever it is made of: decision 022 has the measurements.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// The work of one turn, in bytes moved.
const TURN_BYTES: isize = 512 * 1024;

/// Weight of a system call: as much as 4 KiB.
const SYSCALL_COST: usize = 4 * 1024;

/// Weight of a frame, whose header is read.
const FRAME_COST: usize = 16;

/// Weight of a TLS record, which is decrypted by itself.
const RECORD_COST: usize = 2 * 1024;

/// Weight of a TLS record without application data: it may be a KeyUpdate (RFC 8446 §4.6.3), which
/// derives new keys.
const EMPTY_RECORD_COST: usize = 32 * 1024;

/// The rest of a turn. The last piece of work may overdraw it.
#[derive(Debug)]
pub struct TurnBudget {
    left: isize,
}

impl TurnBudget {
    /// Starts a turn, with all of its work left.
    pub const fn new() -> Self {
        TurnBudget { left: TURN_BYTES }
    }

    /// Whether the turn is over, and other tasks are due.
    pub fn is_over(&self) -> bool {
        self.left <= 0
    }

    /// Counts a system call that moved so many bytes.
    pub fn spend_call(&mut self, bytes: usize) {
        self.spend(SYSCALL_COST + bytes);
    }

    /// Counts frames whose headers were read.
    pub fn spend_frames(&mut self, frames: usize) {
        self.spend(frames * FRAME_COST);
    }

    /// Counts TLS records: those with application data, and `barren` ones without.
    pub fn spend_records(&mut self, records: usize, barren: usize) {
        self.spend(records * RECORD_COST + barren * EMPTY_RECORD_COST);
    }

    fn spend(&mut self, work: usize) {
        // No overflow: a read and what it holds come to some MiB.
        self.left -= work.cast_signed();
    }
}

/// Wakes the task again once timers and sockets have been polled; the caller returns `Pending`. A
/// wake by reference would put the task in front of them: up to 61 tasks run before the runtime
/// looks there.
#[cold]
#[inline(never)] // Its future would take room in every poll.
pub fn yield_after_io(cx: &mut Context<'_>) {
    // `yield_now` is pending on its first poll. It leaves the waker with the runtime, so that the
    // future need not be kept.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turn_ends_after_so_many_bytes() {
        let mut turn = TurnBudget::new();
        (0..5).for_each(|_| turn.spend_call(96 * 1024));
        assert!(!turn.is_over());
        turn.spend_call(96 * 1024);
        assert!(turn.is_over());
    }

    #[test]
    fn turn_ends_after_many_small_calls() {
        let mut turn = TurnBudget::new();
        (0..127).for_each(|_| turn.spend_call(1));
        assert!(!turn.is_over());
        turn.spend_call(4096);
        assert!(turn.is_over());
    }

    #[test]
    fn turn_ends_after_many_small_frames_or_records() {
        for (frames, records, barren) in [(32 * 1024, 0, 0), (0, 256, 0), (0, 0, 16)] {
            let mut turn = TurnBudget::new();
            turn.spend_frames(frames);
            turn.spend_records(records, barren);
            assert!(turn.is_over());
        }
    }
}
