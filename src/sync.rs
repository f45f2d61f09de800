//! Locks that go on after a panic.
//!
//! Each mutex of this crate guards values that are whole at every step, so that a poisoned lock
//! (a task panicked while it held it) is no reason to stop.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
