//! Supervision of list files: how old they may become, and by how much they may shrink.
//!
//! A feed that is no longer written, or is cut short, is still a valid list, of yesterday's entries
//! or of few.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::diagnostic::Diagnostic;
use super::document::unit;
use super::policy_settings::ListFeed;
use super::source_text::error;

/// Share of entries that a list without `max_shrink` may lose, in percent.
const DEFAULT_MAX_SHRINK: u8 = 50;

/// A list without `max_shrink` and with no more entries than this may shrink by any amount.
const SMALL_LIST_ENTRIES: usize = 100;

/// By how much a list may shrink in one reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShrinkBound {
    /// Share of the entries that may go, in percent.
    pub share: u8,
    /// Whether a small list may shrink by any amount.
    pub spares_small: bool,
}

/// The bound of `feed`.
pub fn max_shrink(feed: &ListFeed) -> ShrinkBound {
    ShrinkBound {
        share: feed.max_shrink.unwrap_or(DEFAULT_MAX_SHRINK),
        spares_small: feed.max_shrink.is_none(),
    }
}

impl fmt::Display for ShrinkBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}%\"", self.share)?;
        match self.spares_small {
            true => write!(f, " above {SMALL_LIST_ENTRIES} entries"),
            false => Ok(()),
        }
    }
}

impl ListFeed {
    /// Age of the file at `now`, if it exceeds `max_age`.
    pub fn stale(&self, now: Timestamp) -> Option<Duration> {
        // A time in the future, as after a clock was set back, is a negative age and never stale.
        let age = Duration::try_from(now.duration_since(self.modified?)).ok()?;
        self.max_age.filter(|max| age > *max).map(|_| age)
    }

    /// One sentence about a file of that age.
    pub fn staleness(&self, age: Duration) -> String {
        staleness(&self.file, age, self.max_age)
    }

    /// The reason to reject a reload with this feed at `now`; `before` is the number of entries in
    /// the running list.
    pub fn rejection(
        &self,
        before: Option<usize>,
        accepted: bool,
        now: Timestamp,
        command: &str,
    ) -> Option<Diagnostic> {
        if let Some(age) = self.stale(now).filter(|_| self.rejects_stale) {
            let remedy =
                "let whatever writes it write it again; on_stale = \"warn\" takes it as it is";
            return Some(
                error(self.staleness(age))
                    .with_remedy(remedy)
                    .with_key(&self.name)
                    .into_diagnostic(self.place.clone().with_names_shown()),
            );
        }
        let ShrinkBound { share: max, spares_small } = max_shrink(self);
        let before =
            before.filter(|before| !(accepted || spares_small && *before <= SMALL_LIST_ENTRIES))?;
        let ListFeed { name, file, entries, .. } = self;
        let lost = before.saturating_sub(*entries);
        // Multiplied and not divided: a share of a small list must not be rounded.
        if lost * 100 <= before * usize::from(max) {
            return None;
        }
        let fault =
            format!("{file} shrank from {before} entries to {entries}; max_shrink is \"{max}%\"");
        let remedy = format!("was it cut short? If it is meant: {command} --accept-shrink {name}");
        Some(
            error(fault)
                .with_remedy(remedy)
                .with_key(name)
                .into_diagnostic(self.place.clone().with_names_shown()),
        )
    }
}

/// One sentence about `what`, which was written `age` ago and may become as old as `max_age`.
pub fn staleness(what: &str, age: Duration, max_age: Option<Duration>) -> String {
    let max = max_age.map(unit::format_duration).unwrap_or_default();
    format!("{what} was last written {} ago; max_age is \"{max}\"", in_words(age))
}

/// A duration for people, in the largest unit of which there are at least two.
fn in_words(time: Duration) -> String {
    let units = [(24 * 3600, "days"), (3600, "hours"), (60, "minutes")];
    let unit = units.into_iter().find(|(unit, _)| time.as_secs() >= 2 * unit);
    let (unit, name) = unit.unwrap_or((1, "seconds"));
    match time.as_secs() / unit {
        1 => "1 second".into(),
        number => format!("{number} {name}"),
    }
}
