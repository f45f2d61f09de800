//! How the file of a list is minded: how old it may become, and by how much it may shrink.
//!
//! A feed that is not written any more, or is cut short, is a valid list of yesterday's or of few.

use std::time::Duration;

use jiff::Timestamp;

use super::Feed;
use super::diagnostic::Diagnostic;
use super::page::error;

/// A list of fewer entries may shrink as it likes.
const SMALL: usize = 100;

impl Feed {
    /// How old it is at the time `now`, if that is older than it may be.
    pub fn stale(&self, now: Timestamp) -> Option<Duration> {
        let age = Duration::try_from(now.duration_since(self.modified?)).ok()?;
        self.max_age.filter(|most| age > *most).map(|_| age)
    }

    /// The sentence about a file of that age.
    pub fn staleness(&self, age: Duration) -> String {
        let most = self.max_age.map(hours).unwrap_or_default();
        format!("{} was last written {} ago; max_age is {most}", self.file, hours(age))
    }

    /// Why a reload with it is rejected at the time `now`, where the list that runs has `before` entries.
    pub fn rejection(&self, before: Option<usize>, accepted: bool, now: Timestamp) -> Option<Diagnostic> {
        if let Some(age) = self.stale(now).filter(|_| self.rejects_stale) {
            let remedy = "let whatever writes it write it again; on_stale = \"warn\" takes it as it is";
            return Some(error(self.staleness(age)).remedy(remedy).of(&self.name).at(self.place.clone()));
        }
        let before = before.filter(|before| *before > SMALL && !accepted)?;
        let lost = before.saturating_sub(self.entries);
        if lost * 100 <= before * usize::from(self.max_shrink) {
            return None;
        }
        let Feed { name, file, entries, max_shrink, .. } = self;
        let fault = format!("{file} shrank from {before} entries to {entries}; max_shrink is {max_shrink}%");
        let remedy = format!("was it cut short? If it is meant: sidegate reload --accept-shrink {name}");
        Some(error(fault).remedy(remedy).of(name).at(self.place.clone()))
    }
}

/// A time in whole hours, or in minutes where it is less than two.
fn hours(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    if minutes >= 120 { format!("{} h", minutes / 60) } else { format!("{minutes} min") }
}
