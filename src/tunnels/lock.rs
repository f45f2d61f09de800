//! Locks of the tables.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A poisoned lock guards values that are whole at every step: go on with them.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
