//! The lock that keeps two applies of one configuration apart.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A lock on the folder of a configuration. The kernel releases it with the process.
pub struct ApplyLock {
    _folder: File,
}

impl ApplyLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// A sentence: another apply has it, or the folder cannot be opened.
    pub fn take(folder: &Path) -> Result<ApplyLock, String> {
        let shown = folder.display();
        // The folder itself is locked, so that no file is left behind.
        let opened = File::open(folder).map_err(|error| format!("{shown}: {error}"))?;
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(ApplyLock { _folder: opened }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(format!("another `sidegate apply` is under way in {shown}"))
            }
            Err(error) => Err(format!("{shown} cannot be locked: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_apply_is_refused_while_the_first_runs() {
        let folder = tempfile::tempdir().unwrap();
        let first = ApplyLock::take(folder.path()).unwrap();
        let refused = ApplyLock::take(folder.path()).err().unwrap();
        assert!(refused.contains("is under way"), "{refused}");
        drop(first);
        ApplyLock::take(folder.path()).unwrap();
        assert!(ApplyLock::take(&folder.path().join("none")).is_err());
    }
}
