//! How it stands between the files and what runs, for everybody who asks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::feed::staleness;
use crate::control::config::{Feed, Settings};
use crate::control::reload::request::Cause;
use crate::observe::metrics::ReloadResult;

/// What the files were found to be, for everybody who asks.
pub struct Standing {
    /// `sidegate.toml` of the generation that runs.
    pub settings: ArcSwap<Settings>,
    /// What the last reload was rejected for; `None`: the files are what runs.
    pub rejected: ArcSwapOption<Vec<Diagnostic>>,
    /// What somebody should look at in the files that run.
    pub warnings: ArcSwap<Vec<Diagnostic>>,
    /// When the generation that runs was published.
    pub since: ArcSwap<Timestamp>,
    /// The last reload; `None`: there was none since the start.
    pub last: ArcSwapOption<Last>,
    /// The list files of the policies that run.
    pub lists: ArcSwap<Vec<ListFile>>,
    /// Why the files are polled, if they should be watched instead.
    pub unwatched: ArcSwapOption<String>,
}

/// How the last reload went; what it was rejected for stands in [`Standing::rejected`].
#[derive(Debug, Clone)]
pub struct Last {
    /// Who wanted it.
    pub cause: Cause,
    /// What became of it.
    pub result: ReloadResult,
    /// When.
    pub at: Timestamp,
}

/// A list file, as it was found when the files were last looked at: a feed that brings the same
/// entries again is fresh, though nothing is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFile {
    /// The policy that names it.
    pub policy: Arc<str>,
    /// The list's name there.
    pub list: Arc<str>,
    /// When it was last written.
    pub modified: Timestamp,
    /// How old it may become.
    pub max_age: Option<Duration>,
}

impl ListFile {
    /// Those of these feeds, each with its policy.
    pub(super) fn all<'f>(feeds: impl Iterator<Item = (&'f Arc<str>, &'f Feed)>) -> Vec<ListFile> {
        let file = |(policy, feed): (&Arc<str>, &Feed)| {
            let (policy, list) = (Arc::clone(policy), Arc::clone(&feed.name));
            Some(ListFile { policy, list, modified: feed.modified?, max_age: feed.max_age })
        };
        feeds.filter_map(file).collect()
    }

    /// That it is older at the time `now` than it may be, in one sentence.
    pub fn stale(&self, now: Timestamp) -> Option<String> {
        let age = Duration::try_from(now.duration_since(self.modified)).ok()?;
        let most = self.max_age.filter(|most| age > *most)?;
        Some(staleness(&format!("the list {} of {}", self.list, self.policy), age, Some(most)))
    }
}
