//! The filter of the log while the process runs: read, changed, and changed back after a time.
//!
//! Disabled events cost the same as with a fixed filter: a change rebuilds tracing's cache of what
//! each event's place is interested in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;

use crate::observe::log::filter::{self, FilterError};
use crate::sync::lock;

/// Target of the lines about changes of the filter.
pub const LEVEL_TARGET: &str = "sidegate::log_level";

/// The layer that holds the current filter.
#[derive(Clone)]
pub(super) struct FilterLayer(Arc<ArcSwap<Targets>>);

impl<S: Subscriber> Layer<S> for FilterLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // tracing keeps the answer at the callsite, and asks again only when its cache is rebuilt.
        Layer::<S>::register_callsite(&**self.0.load(), metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        Layer::<S>::enabled(&**self.0.load(), metadata, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The macros compare an event's level with this before they look at the callsite at all.
        Layer::<S>::max_level_hint(&**self.0.load())
    }
}

/// The filter as an operator reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel {
    /// The filter that holds now.
    pub filter: String,
    /// The filter that holds after `until`. `None` means that the present one stays.
    pub then: Option<String>,
    /// End of the present filter. `None` means the next change, or the end of the process.
    pub until: Option<Timestamp>,
}

/// The filter of a process, which requests change.
pub struct LogLevels {
    targets: Arc<ArcSwap<Targets>>,
    state: Mutex<LevelState>,
    changed: Notify,
}

struct LevelState {
    filter: String,
    /// `None` means that `filter` stays.
    limited: Option<LimitedChange>,
}

/// A change that ends by itself.
struct LimitedChange {
    then: String,
    at: Instant,
    until: Timestamp,
}

impl Default for LogLevels {
    /// The default filter, connected to no log.
    fn default() -> LogLevels {
        LogLevels::new(filter::DEFAULT.into(), filter::parse("").0)
    }
}

impl LogLevels {
    /// Starts with `targets`, which `filter` is the text of.
    pub(super) fn new(filter: String, targets: Targets) -> LogLevels {
        LogLevels {
            targets: Arc::new(ArcSwap::from_pointee(targets)),
            state: Mutex::new(LevelState { filter, limited: None }),
            changed: Notify::new(),
        }
    }

    /// The layer that follows this filter.
    pub(super) fn layer(&self) -> FilterLayer {
        FilterLayer(Arc::clone(&self.targets))
    }

    /// The filter that holds now.
    pub fn current(&self) -> LogLevel {
        LogLevel::of(&lock(&self.state))
    }

    /// Sets the filter to `text`: until the next change, or for the time `lasting`. The filter that
    /// was last set without a time holds again afterwards. `say` writes the log line about it,
    /// which is called while one of the two filters lets it pass.
    ///
    /// # Errors
    /// `text` is no filter; nothing has changed.
    pub fn set(
        &self,
        text: &str,
        lasting: Option<Duration>,
        say: impl FnOnce(&LogLevel),
    ) -> Result<LogLevel, FilterError> {
        // Before anything is taken from the state: a wrong filter must not end a limited change.
        let targets = filter::parse_strictly(text)?;
        let mut state = lock(&self.state);
        // A limited change on top of another goes back to the filter before both.
        let before = state.limited.take().map_or_else(|| state.filter.clone(), |one| one.then);
        state.filter = text.trim().to_owned();
        state.limited = lasting.map(|lasting| LimitedChange {
            then: before,
            // The monotonic clock ends the change. The other time is only shown, and may be set.
            at: Instant::now() + lasting,
            until: Timestamp::now().saturating_add(lasting).unwrap_or(Timestamp::MAX),
        });
        let level = LogLevel::of(&state);
        // Still under the lock: the filters of two changes must be swapped in the order of their
        // states.
        self.apply(targets, || say(&level));
        self.changed.notify_one();
        Ok(level)
    }

    /// Ends limited changes when their time is over. Never returns.
    pub async fn expire(&self) {
        loop {
            // Read anew after each change. One between this line and the wait has left a permit.
            let due = lock(&self.state).limited.as_ref().map(|limited| limited.at);
            match due {
                None => self.changed.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.end_limited(),
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn end_limited(&self) {
        let mut state = lock(&self.state);
        // Another change may have come meanwhile.
        let is_over = |limited: &mut LimitedChange| limited.at <= Instant::now();
        let Some(limited) = state.limited.take_if(is_over) else { return };
        state.filter = limited.then;
        // The initial filter may hold directives that were ignored at the start.
        let (targets, _) = filter::parse(&state.filter);
        let filter = &*state.filter;
        self.apply(
            targets,
            || tracing::info!(target: LEVEL_TARGET, filter, "the log level is back"),
        );
    }

    /// Swaps the filter. A change that would hide its own line is logged before it.
    fn apply(&self, targets: Targets, say: impl FnOnce()) {
        let logs = self.targets.load().would_enable(LEVEL_TARGET, &Level::INFO);
        let swap = || {
            // The rebuild asks the layer again, so the new filter has to be there before.
            self.targets.store(Arc::new(targets));
            tracing::callsite::rebuild_interest_cache();
        };
        if logs {
            say();
            swap();
        } else {
            swap();
            say();
        }
    }
}

impl LogLevel {
    fn of(state: &LevelState) -> LogLevel {
        let limited = state.limited.as_ref();
        LogLevel {
            filter: state.filter.clone(),
            then: limited.map(|limited| limited.then.clone()),
            until: limited.map(|limited| limited.until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(levels: &LogLevels, text: &str, seconds: Option<u64>) -> LogLevel {
        levels.set(text, seconds.map(Duration::from_secs), |_| {}).unwrap()
    }

    fn debugs(levels: &LogLevels) -> bool {
        levels.targets.load().would_enable("sidegate", &Level::DEBUG)
    }

    #[tokio::test(start_paused = true)]
    async fn limited_change_ends_by_itself() {
        let levels = LogLevels::default();
        let level = set(&levels, "debug", Some(600));
        assert_eq!((&*level.filter, level.then.as_deref()), ("debug", Some("info")));
        let wait = |seconds| tokio::time::timeout(Duration::from_secs(seconds), levels.expire());
        assert!(wait(599).await.is_err() && debugs(&levels));
        assert!(wait(2).await.is_err() && !debugs(&levels));
        assert_eq!(levels.current(), LogLevel { filter: "info".into(), then: None, until: None });
    }

    #[tokio::test(start_paused = true)]
    async fn second_limited_change_returns_to_the_lasting_filter() {
        let levels = LogLevels::default();
        set(&levels, "warn", None);
        set(&levels, "debug", Some(10));
        let level = set(&levels, "trace", Some(60));
        assert_eq!(level.then.as_deref(), Some("warn"));
        let wait = |seconds| tokio::time::timeout(Duration::from_secs(seconds), levels.expire());
        assert!(wait(30).await.is_err() && debugs(&levels), "the first time no longer counts");
        // A lasting change ends the limited one.
        set(&levels, "debug", None);
        assert!(wait(120).await.is_err() && debugs(&levels));
        assert_eq!(levels.current().until, None);
    }

    #[test]
    fn wrong_filter_changes_nothing() {
        let levels = LogLevels::default();
        assert!(levels.set("debug,sidegate=loud", None, |_| {}).is_err());
        assert_eq!(levels.current().filter, "info");
    }
}
