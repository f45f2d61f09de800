//! The meaning of a kernel event: look again, a write is under way, or nothing.
//!
//! Does not ask which file changed in what way: everything is read again and compared.

use notify::Event;
use notify::event::{AccessKind, AccessMode, EventKind, MetadataKind, ModifyKind};

/// What an event in a watched folder means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Contents or names may have changed.
    Changed,
    /// Permissions may have changed, and with them whether this process may read the file.
    Admitted,
    /// A write is under way; its end is an event of its own.
    Writing,
}

/// How often each sign was seen. Counters, not a queue: none is lost, however many come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    changed: u64,
    admitted: u64,
    writing: u64,
}

impl Sign {
    /// The meaning of an event. `None` means that the event is of no interest, such as a read.
    pub fn of(event: &notify::Result<Event>) -> Option<Sign> {
        let Ok(event) = event else { return Some(Sign::Changed) };
        if event.need_rescan() {
            return Some(Sign::Changed);
        }
        match event.kind {
            EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => Some(Sign::Changed),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Changed),
            EventKind::Modify(ModifyKind::Data(_)) => Some(Sign::Writing),
            EventKind::Modify(ModifyKind::Metadata(kind)) if kind != MetadataKind::AccessTime => {
                Some(Sign::Admitted)
            }
            EventKind::Modify(_) | EventKind::Access(_) | EventKind::Any | EventKind::Other => None,
        }
    }
}

impl Signs {
    /// Counts one event of this kind.
    pub fn add(&mut self, sign: Sign) {
        match sign {
            Sign::Changed => self.changed += 1,
            Sign::Admitted => self.admitted += 1,
            Sign::Writing => self.writing += 1,
        }
    }

    /// The weightiest sign since `before`. `None` means that there was none.
    pub fn since(&self, before: &Signs) -> Option<Sign> {
        if self.changed != before.changed {
            return Some(Sign::Changed);
        }
        if self.admitted != before.admitted {
            return Some(Sign::Admitted);
        }
        (self.writing != before.writing).then_some(Sign::Writing)
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, RenameMode};

    use super::*;

    #[test]
    fn reads_mean_nothing_and_a_finished_write_means_a_look() {
        let check =
            |kind, expected| assert_eq!(Sign::of(&Ok(Event::new(kind))), expected, "{kind:?}");
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), None);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), None);
        check(EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime)), None);
        check(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), Some(Sign::Admitted));
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(Sign::Writing));
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(Sign::Changed));
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(Sign::Changed));
        check(EventKind::Create(CreateKind::File), Some(Sign::Changed));
    }

    // C-RLD-07, F14
    #[test]
    fn a_queue_that_ran_over_means_a_look() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(Sign::of(&Ok(overflow)), Some(Sign::Changed));
        assert_eq!(Sign::of(&Err(notify::Error::generic("unreadable"))), Some(Sign::Changed));
    }

    #[test]
    fn a_change_is_not_lost_among_any_number_of_writes() {
        let (before, mut signs) = (Signs::default(), Signs::default());
        for _ in 0..10_000 {
            signs.add(Sign::Writing);
        }
        assert_eq!(signs.since(&before), Some(Sign::Writing));
        signs.add(Sign::Changed);
        for _ in 0..10_000 {
            signs.add(Sign::Writing);
        }
        assert_eq!(signs.since(&before), Some(Sign::Changed));
        assert_eq!(signs.since(&signs), None);
    }
}
