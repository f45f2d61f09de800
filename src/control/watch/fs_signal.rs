//! The meaning of a kernel event: look again, a write is under way, or nothing.
//!
//! Does not ask which file changed in what way: everything is read again and compared.

use notify::Event;
use notify::event::{AccessKind, AccessMode, EventKind, MetadataKind, ModifyKind};

/// What an event in a watched folder means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsSignal {
    /// Contents or names may have changed.
    Changed,
    /// Permissions may have changed, and with them whether this process may read the file.
    PermissionsChanged,
    /// A write is under way; its end is an event of its own.
    Writing,
}

/// How often each signal was seen. Counters, not a queue: none is lost, however many come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsSignalCounts {
    changed: u64,
    admitted: u64,
    writing: u64,
}

impl FsSignal {
    /// The meaning of an event. `None` means that the event is of no interest, such as a read.
    pub fn from_event(event: &notify::Result<Event>) -> Option<FsSignal> {
        // An error can mean that an event was lost.
        let Ok(event) = event else { return Some(FsSignal::Changed) };
        // The kernel's queue overflowed (IN_Q_OVERFLOW): events were lost, so any file may have
        // changed.
        if event.need_rescan() {
            return Some(FsSignal::Changed);
        }
        match event.kind {
            EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => Some(FsSignal::Changed),
            // IN_CLOSE_WRITE: the writer is done with the file.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(FsSignal::Changed),
            EventKind::Modify(ModifyKind::Data(_)) => Some(FsSignal::Writing),
            // The access time changes by our own reads, which must trigger nothing.
            EventKind::Modify(ModifyKind::Metadata(kind)) if kind != MetadataKind::AccessTime => {
                Some(FsSignal::PermissionsChanged)
            }
            EventKind::Modify(_) | EventKind::Access(_) | EventKind::Any | EventKind::Other => None,
        }
    }
}

impl FsSignalCounts {
    /// Counts one event of this kind.
    pub fn add(&mut self, sign: FsSignal) {
        match sign {
            FsSignal::Changed => self.changed += 1,
            FsSignal::PermissionsChanged => self.admitted += 1,
            FsSignal::Writing => self.writing += 1,
        }
    }

    /// The most important signal since `before`. `None` means that there was none.
    pub fn since(&self, before: &FsSignalCounts) -> Option<FsSignal> {
        if self.changed != before.changed {
            return Some(FsSignal::Changed);
        }
        if self.admitted != before.admitted {
            return Some(FsSignal::PermissionsChanged);
        }
        (self.writing != before.writing).then_some(FsSignal::Writing)
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, RenameMode};

    use super::*;

    #[test]
    fn reads_are_ignored_and_a_closed_write_is_a_change() {
        let check = |kind, expected| {
            assert_eq!(FsSignal::from_event(&Ok(Event::new(kind))), expected, "{kind:?}");
        };
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), None);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), None);
        check(EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime)), None);
        check(
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
            Some(FsSignal::PermissionsChanged),
        );
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(FsSignal::Writing));
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(FsSignal::Changed));
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(FsSignal::Changed));
        check(EventKind::Create(CreateKind::File), Some(FsSignal::Changed));
    }

    // C-RLD-07, F14
    #[test]
    fn queue_overflow_is_a_change() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(FsSignal::from_event(&Ok(overflow)), Some(FsSignal::Changed));
        assert_eq!(
            FsSignal::from_event(&Err(notify::Error::generic("unreadable"))),
            Some(FsSignal::Changed)
        );
    }

    #[test]
    fn a_change_is_not_lost_among_any_number_of_writes() {
        let (before, mut signs) = (FsSignalCounts::default(), FsSignalCounts::default());
        for _ in 0..10_000 {
            signs.add(FsSignal::Writing);
        }
        assert_eq!(signs.since(&before), Some(FsSignal::Writing));
        signs.add(FsSignal::Changed);
        for _ in 0..10_000 {
            signs.add(FsSignal::Writing);
        }
        assert_eq!(signs.since(&before), Some(FsSignal::Changed));
        assert_eq!(signs.since(&signs), None);
    }
}
