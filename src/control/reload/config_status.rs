//! State of the files compared with the running generation, for every reader in the process.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;

use crate::control::config::diagnostic::Diagnostic;
use crate::control::config::effective::duration;
use crate::control::config::feed::staleness;
use crate::control::config::{ListFeed, Settings};
use crate::control::guards::Guards;
use crate::control::overrides::TestOverride;
use crate::control::policy_tests::AllowTest;
use crate::control::reload::pending::PendingFiles;
use crate::control::reload::request::Trigger;
use crate::observe::metrics::ReloadResult;

/// State of the files, shared with `/readyz`, the admin socket and systemd's status.
pub struct ConfigStatus {
    /// `sidegate.toml` of the running generation.
    pub settings: ArcSwap<Settings>,
    /// Errors of the last rejected reload. `None` means that the running generation is up to date.
    pub rejected: ArcSwapOption<Vec<Diagnostic>>,
    /// Warnings about the files of the running generation.
    pub warnings: ArcSwap<Vec<Diagnostic>>,
    /// Time at which the running generation was published.
    pub since: ArcSwap<Timestamp>,
    /// The last reload. `None` means that there was none since the start.
    pub last: ArcSwapOption<LastResult>,
    /// The list files of the running policies.
    pub lists: ArcSwap<Vec<ListFileStatus>>,
    /// Reason why the files are polled instead of watched. `None` means that there is no trouble.
    pub unwatched: ArcSwapOption<String>,
    /// The tests of the running policies that a ban must not make fail.
    pub allow_tests: ArcSwap<Vec<AllowTest>>,
    /// What the files of the running generation check of themselves.
    pub guards: ArcSwap<Guards>,
    /// Pending files, overrides, and the faults of keeping both.
    pub hold: HoldStatus,
}

/// Files that are held back, tests that are overridden, and what a restart would find of both.
#[derive(Debug, Default)]
pub struct HoldStatus {
    /// Saved files that are not published. `None` means that there are none.
    pub pending: ArcSwapOption<PendingFiles>,
    /// The failed tests of the running generation.
    pub overrides: ArcSwap<Vec<TestOverride>>,
    /// Why a restart would not find the published state. `None` means that it would.
    pub not_kept: ArcSwapOption<String>,
    /// What was wrong with the kept state at the start. `None` means nothing.
    pub damage: ArcSwapOption<String>,
    /// A sentence about files that run without an order. `None` means that they are ordered, or
    /// need no order.
    pub unordered: ArcSwapOption<String>,
}

impl HoldStatus {
    /// Sentences about the kept state.
    pub fn faults(&self) -> Vec<String> {
        let not_kept = self.not_kept.load_full().map(|why| {
            format!("the published files are not kept over a restart of sidegate: {why}")
        });
        let stored = |fault: &ArcSwapOption<String>| fault.load_full().map(|one| (*one).clone());
        let start = stored(&self.damage).into_iter().chain(stored(&self.unordered));
        start.chain(not_kept).collect()
    }
}

impl ConfigStatus {
    /// A sentence that says how often and why files are polled. `None` means that they are watched
    /// as configured.
    pub fn unwatched_sentence(&self) -> Option<String> {
        let why = self.unwatched.load_full()?;
        let interval = duration(self.settings.load().reload.unwatched_interval());
        Some(format!("files are polled every {interval} instead of being watched: {why}"))
    }
}

/// Result of the last reload; [`ConfigStatus::rejected`] holds its errors.
#[derive(Debug, Clone)]
pub struct LastResult {
    /// The event that triggered the reload.
    pub trigger: Trigger,
    /// Published, unchanged or rejected.
    pub result: ReloadResult,
    /// Time at which the reload ended.
    pub at: Timestamp,
}

/// A list file as the last look found it. A feed that brings the same entries again is fresh,
/// though no generation is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFileStatus {
    /// Name of the policy that uses the list.
    pub policy: Arc<str>,
    /// Name of the list in that policy.
    pub list: Arc<str>,
    /// Time of the file's last modification.
    pub modified: Timestamp,
    /// Age from which the list is stale. `None` means unlimited.
    pub max_age: Option<Duration>,
}

impl ListFileStatus {
    /// The list files of a generation with these guards.
    pub(super) fn of_guards(guards: &Guards) -> Vec<ListFileStatus> {
        ListFileStatus::all(guards.feeds.iter().map(|(policy, feed)| (policy, feed)))
    }

    /// The list files among these feeds, each given with its policy.
    pub(super) fn all<'f>(
        feeds: impl Iterator<Item = (&'f Arc<str>, &'f ListFeed)>,
    ) -> Vec<ListFileStatus> {
        let file = |(policy, feed): (&Arc<str>, &ListFeed)| {
            let (policy, list) = (Arc::clone(policy), Arc::clone(&feed.name));
            Some(ListFileStatus { policy, list, modified: feed.modified?, max_age: feed.max_age })
        };
        feeds.filter_map(file).collect()
    }

    /// One sentence about the list if it is older than `max_age` at `now`. `None` means that it is
    /// fresh.
    pub fn stale(&self, now: Timestamp) -> Option<String> {
        let age = Duration::try_from(now.duration_since(self.modified)).ok()?;
        let max = self.max_age.filter(|max| age > *max)?;
        Some(staleness(&format!("the list {} of {}", self.list, self.policy), age, Some(max)))
    }
}
